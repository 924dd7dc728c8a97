//! A write that failed: the error of everything that was accepted for the partition and not
//! written.

use crate::error::Error;
use crate::sync::{AtomicBool, Ordering};

/// The outcomes of the batches that failed with one write share it, and nothing else holds it: when
/// the last acknowledgement of those batches is gone, this is gone too.
pub(super) struct Failure {
    error: Error,
    /// A caller has the error. A flag and nothing more: it orders no other memory. A sender that
    /// takes the error and sends again reads its own store, and any other thread learns of it by
    /// whatever tells it that the error was taken.
    taken: AtomicBool,
}

impl Failure {
    pub(super) fn new(error: Error) -> Self {
        Failure { error, taken: AtomicBool::new(false) }
    }

    pub(super) fn error(&self) -> &Error {
        &self.error
    }

    /// A caller has the error: from now on the partition takes records again.
    pub(super) fn take(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }
}
