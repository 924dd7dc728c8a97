//! What does a log ask of the journal that its broker's transactions share? The journal knows logs, so a log knows it by these
//! questions only.

use super::Log;
use super::recovery::transactions::Tail;
use crate::engine::{Context, Identity};
use crate::error::Result;
use crate::sync::{Arc, RwLockWriteGuard};
use crate::types::Offset;

/// No transaction is committed while it lives.
pub(crate) type Alone<'a> = RwLockWriteGuard<'a, ()>;

/// A broker's journal, as its logs see it.
pub(crate) trait LogJournal: Send + Sync {
    /// The engine of the broker.
    fn ctx(&self) -> &Arc<Context>;

    /// Returns once everything written up to `upto`, a position counted through all files, is durable.
    ///
    /// # Errors
    /// A sync failed, now or before.
    fn make_durable(&self, upto: u64) -> Result<()>;

    /// Waits for commits that are under way, and holds others off until the result is dropped. The file may have records.
    fn alone(&self) -> Alone<'_>;

    /// Ensures that no record speaks of this log, which is about to be truncated. No transaction is committed until the
    /// result is dropped.
    ///
    /// # Errors
    /// There is such a record, and some partition cannot be synced, or an I/O error: the file stays unchanged.
    fn forget(&self, log: &Log) -> Result<Alone<'_>>;

    /// Whether a record of the file speaks of this log.
    fn involves(&self, log: &Log) -> bool;

    /// Returns an error if the tail that a recovery found proves that the journal has lost a record. During an opening.
    fn check_records(&self, identity: &Identity, tail: &Tail, log_start: Offset) -> Result<()>;
}
