//! Interrupts the waiting of a reader from another thread.

use std::fmt;

use crate::engine::Waiter;
use crate::sync::Arc;

/// Interrupts a [`Reader`](crate::Reader) from another thread. Clones interrupt the same one.
#[derive(Clone)]
pub struct ReaderHandle {
    waiter: Arc<Waiter>,
}

impl ReaderHandle {
    pub(crate) fn new(waiter: &Arc<Waiter>) -> Self {
        ReaderHandle { waiter: waiter.clone() }
    }

    /// Makes the reader's current poll, or else its next one, return at once without records. The
    /// poll after that returns the records that are there. Calls that come before that poll count
    /// as one.
    pub fn wakeup(&self) {
        self.waiter.wake_up();
    }
}

impl fmt::Debug for ReaderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderHandle").finish_non_exhaustive()
    }
}
