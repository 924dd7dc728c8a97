//! Wakes readers that wait for new records. A writer pays one load when no reader waits.
//!
//! A reader announces that it is about to park, checks the visible ends once more, and parks. A
//! writer stores the visible end and then checks whether a reader is parked. Both put a
//! sequentially consistent fence between their store and their load, so at least one of them sees
//! the other's store: no wake-up is lost.

use std::task::Waker;
use std::time::Duration;

use super::events::Events;
use crate::clock::{Clock, wait_timeout};
use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, Rank, fence};

/// The readers of a broker that wait.
#[derive(Default)]
pub(crate) struct Parked {
    /// The number of readers that are parked or have left a waker. While it is zero, publishing is
    /// one store.
    count: AtomicUsize,
    /// The readers that read no log, whether they wait or not: no log would wake them when the
    /// broker is closed.
    pub(crate) idle: Waiters,
}

/// The place where one reader waits.
pub(crate) struct Waiter {
    state: Mutex<WaiterState>,
    signalled: Condvar,
    events: Arc<Events>,
}

#[cfg(test)]
impl Default for Waiter {
    fn default() -> Self {
        Waiter::new(&Arc::new(Events::new(None)))
    }
}

#[derive(Default)]
struct WaiterState {
    /// Set by a signal, until the next [`Waiter::reset`].
    signalled: bool,
    /// [`Waiter::wake_up`] was called: the reader's poll returns no records.
    woken_up: bool,
    waker: Option<Waker>,
    /// A waker was called, and its future has not been polled since.
    future_woken: bool,
}

impl Waiter {
    /// Of a broker with these events.
    pub(crate) fn new(events: &Arc<Events>) -> Self {
        Waiter {
            state: Mutex::new(Rank::Waiter, WaiterState::default()),
            signalled: Condvar::new(),
            events: events.clone(),
        }
    }

    /// Wakes the reader, because a log that it reads has changed.
    pub(crate) fn signal(&self) {
        let mut state = self.state.lock();
        state.signalled = true;
        let waker = state.waker.take();
        state.future_woken |= waker.is_some();
        drop(state);
        self.signalled.notify_all();
        if let Some(waker) = waker {
            self.events.wake(waker);
        }
    }

    /// Makes the current or the next wait return at once.
    pub(crate) fn wake_up(&self) {
        self.state.lock().woken_up = true;
        self.signal();
    }

    /// Returns whether [`wake_up`](Waiter::wake_up) was called since the last call.
    pub(crate) fn take_wake_up(&self) -> bool {
        std::mem::take(&mut self.state.lock().woken_up)
    }

    /// Forgets older signals. The reader must check its logs after this call.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        state.signalled = false;
        state.future_woken = false;
    }

    /// Returns whether a future was woken that has not been polled since.
    pub(crate) fn future_woken(&self) -> bool {
        self.state.lock().future_woken
    }

    /// Waits for a signal since the last [`reset`](Waiter::reset), for at most `timeout`.
    pub(crate) fn wait(&self, clock: &dyn Clock, timeout: Duration) {
        let mut state = self.state.lock();
        if !state.signalled && !state.woken_up {
            wait_timeout(clock, &self.signalled, &mut state, timeout);
        }
    }

    /// Drops the waker, because its future is gone.
    pub(crate) fn forget_waker(&self) {
        // Dropped after the lock is released: a waker may own the task of another reader.
        let _waker = {
            let mut state = self.state.lock();
            state.future_woken = false;
            state.waker.take()
        };
    }

    /// Registers `waker` for the next signal. Returns false, and registers nothing, if there was a
    /// signal since the last [`reset`](Waiter::reset).
    pub(crate) fn set_waker(&self, waker: &Waker) -> bool {
        // Cloned before the lock is taken, and the old one dropped after: both are code of the
        // user.
        let waker = waker.clone();
        let _old = {
            let mut state = self.state.lock();
            if state.signalled || state.woken_up {
                return false;
            }
            state.waker.replace(waker)
        };
        true
    }
}

impl Parked {
    /// Announces a reader that is about to wait. It must check its logs once more after this call.
    pub(crate) fn announce(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The reader no longer waits.
    pub(crate) fn leave(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns whether a reader may have to be signalled. Must be called after the visible end is
    /// stored.
    pub(crate) fn any(&self) -> bool {
        // IMPORTANT: keep the fence. Without it the store of the visible end could be reordered
        // after this load, the reader's check could run before the store, and the reader would
        // sleep although there are records.
        fence(Ordering::SeqCst);
        self.count.load(Ordering::SeqCst) > 0
    }
}

/// The readers of one log.
pub(crate) struct Waiters {
    list: Mutex<Vec<Arc<Waiter>>>,
    /// The length of the list: a hint for callers that only check whether the log has readers.
    count: AtomicUsize,
}

impl Default for Waiters {
    fn default() -> Self {
        Waiters { list: Mutex::new(Rank::Waiters, Vec::new()), count: AtomicUsize::new(0) }
    }
}

impl Waiters {
    pub(crate) fn add(&self, waiter: Arc<Waiter>) {
        let mut list = self.list.lock();
        list.push(waiter);
        self.count.store(list.len(), Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, waiter: &Arc<Waiter>) {
        let mut list = self.list.lock();
        list.retain(|other| !Arc::ptr_eq(other, waiter));
        self.count.store(list.len(), Ordering::Relaxed);
    }

    /// Returns whether any reader has this log among those that it reads.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Signals all readers of this log.
    pub(crate) fn signal(&self) {
        // A copy, because a waker may let go of a reader, which takes the lock.
        let waiters = self.list.lock().clone();
        waiters.iter().for_each(|waiter| waiter.signal());
    }
}
