//! The journal of a broker's transactions, as a log sees it. The journal knows logs, so a log knows
//! it only by this trait, and the journal finds a log by its identity.

use super::recovered_tail::RecoveredTail;
use crate::engine::{Context, Identity};
use crate::error::Result;
use crate::sync::{Arc, RwLockWriteGuard};
use crate::types::Offset;

/// While it lives, no transaction is committed.
pub(crate) type Alone<'a> = RwLockWriteGuard<'a, ()>;

/// A broker's journal, as its logs see it.
pub(crate) trait LogJournal: Send + Sync {
    /// Returns the engine of the broker.
    fn ctx(&self) -> &Arc<Context>;

    /// Returns once all bytes written up to `upto`, a position counted through all files, are
    /// durable.
    ///
    /// # Errors
    /// A sync failed, now or before.
    fn make_durable(&self, upto: u64) -> Result<()>;

    /// Waits for running commits, and blocks others until the result is dropped. The file may have
    /// records.
    fn alone(&self) -> Alone<'_>;

    /// Ensures that no record refers to this log, which is about to be truncated. No transaction is
    /// committed until the result is dropped.
    ///
    /// # Errors
    /// There is such a record, and a partition cannot be synced, or an I/O error: the file stays
    /// unchanged.
    fn forget(&self, log: &Identity) -> Result<Alone<'_>>;

    /// Returns whether a record of the file refers to this log.
    fn involves(&self, log: &Identity) -> bool;

    /// Returns an error if the tail found by a recovery proves that the journal has lost a record.
    /// Used during an opening.
    fn check_records(&self, identity: &Identity, tail: &RecoveredTail, log_start: Offset) -> Result<()>;
}
