//! Background work: a queue. A worker thread, or a test that moves the clock, takes from it.

use std::time::Duration;

use super::events::AFTER_A_PANIC;
use crate::clock::Clock;
use crate::sync::{Arc, Condvar, Mutex, Rank};

/// Work for the worker thread.
pub(crate) trait Work: Send + Sync {
    /// Does the work. An error is reported by the next call that the failure concerns.
    fn work(&self);
}

/// The queue of the worker. For example, logs queue themselves to sync records that are not visible
/// yet, and to finish sealed segments.
pub(crate) struct WorkQueue {
    state: Mutex<Queue>,
    changed: Condvar,
}

impl Default for WorkQueue {
    fn default() -> Self {
        WorkQueue { state: Mutex::new(Rank::Work, Queue::default()), changed: Condvar::new() }
    }
}

#[derive(Default)]
struct Queue {
    queued: Vec<Arc<dyn Work>>,
    stopped: bool,
}

impl WorkQueue {
    /// Asks the worker to call [`Work::work`]. The caller must ensure that it is queued once.
    pub(crate) fn push(&self, work: Arc<dyn Work>) {
        self.state.lock().queued.push(work);
        self.changed.notify_one();
    }

    /// Removes and returns the queued work.
    pub(crate) fn take(&self) -> Vec<Arc<dyn Work>> {
        std::mem::take(&mut self.state.lock().queued)
    }

    /// Waits for work for at most `timeout`. Returns `None` once stopped.
    pub(crate) fn wait(&self, clock: &dyn Clock, timeout: Duration) -> Option<Vec<Arc<dyn Work>>> {
        let mut state = self.state.lock();
        if state.queued.is_empty() && !state.stopped {
            crate::clock::wait_timeout(clock, &self.changed, &mut state, timeout);
        }
        if state.stopped { None } else { Some(std::mem::take(&mut state.queued)) }
    }

    /// Waits for a moment, in real time, because the clock may have panicked. Returns whether the
    /// queue was stopped.
    pub(crate) fn pause(&self) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            self.changed.wait_for(&mut state, AFTER_A_PANIC, &[]);
        }
        state.stopped
    }

    /// Returns whether the broker is being closed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Ends [`wait`](WorkQueue::wait).
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}
