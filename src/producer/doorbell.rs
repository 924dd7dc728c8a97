//! A thread that waits for a waker to be called, for a bounded time.

use std::task::Wake;
use std::time::Duration;

use crate::clock::{Clock, wait_timeout};
use crate::sync::{Arc, Condvar, Mutex, Rank};

/// The waker of one thread.
pub(super) struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Doorbell { rung: Mutex::new(Rank::Pending, false), changed: Condvar::new() })
    }

    /// Blocks until it has rung since the last call. Returns false if it has not, and the monotonic
    /// time `deadline` is over, or the clock is a manual one.
    pub(super) fn wait_until(&self, clock: &dyn Clock, deadline: Duration) -> bool {
        let mut rung = self.rung.lock();
        while !*rung {
            let left = deadline.saturating_sub(clock.monotonic());
            if left == Duration::ZERO || wait_timeout(clock, &self.changed, &mut rung, left) && !*rung {
                return false;
            }
        }
        *rung = false;
        true
    }
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }
}
