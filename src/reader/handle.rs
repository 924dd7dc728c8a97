//! Interrupts the waiting of a reader from another thread.

use std::fmt;

use crate::engine::Waiter;
use crate::sync::Arc;

/// Interrupts the waiting of a [`Reader`](crate::Reader), a [`StreamReader`](crate::StreamReader),
/// a [`Feed`](crate::Feed) or a [`Projector`](crate::Projector) from another thread. Clones
/// interrupt the same one. (A [`ConsumerHandle`](crate::ConsumerHandle) does it for a consumer.)
#[derive(Clone)]
pub struct ReaderHandle {
    waiter: Arc<Waiter>,
}

impl ReaderHandle {
    pub(crate) fn new(waiter: &Arc<Waiter>) -> Self {
        ReaderHandle { waiter: waiter.clone() }
    }

    /// Makes the current poll or step, or else the next one, return at once without records. The
    /// one after that returns the records that are there. Calls that come before that count as one.
    pub fn wakeup(&self) {
        self.waiter.wake_up();
    }
}

impl fmt::Debug for ReaderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderHandle").finish_non_exhaustive()
    }
}
