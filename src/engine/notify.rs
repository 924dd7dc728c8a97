//! How does a reader that waits learn of new records, at no cost to a writer when nobody waits?
//!
//! A reader announces that it is about to park, looks once more at the visible ends, and parks. A writer stores the
//! visible end and then looks whether anybody is parked. Both put a sequentially consistent fence between their store
//! and their load, so at least one of them sees the other: no wake-up is lost.

use std::task::Waker;
use std::time::Duration;

use crate::clock::{Clock, wait_timeout};
use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, Rank, about_to_call_user_code, fence};

/// How many readers of the broker are parked, or have left a waker: when none, a writer's publishing is one store.
#[derive(Default)]
pub(crate) struct Parked(AtomicUsize);

/// One reader's place to wait.
pub(crate) struct Waiter {
    state: Mutex<WaiterState>,
    signalled: Condvar,
}

impl Default for Waiter {
    fn default() -> Self {
        Waiter { state: Mutex::new(Rank::Waiter, WaiterState::default()), signalled: Condvar::new() }
    }
}

#[derive(Default)]
struct WaiterState {
    /// Something has happened since the reader announced itself.
    signalled: bool,
    /// The reader asked not to be kept by [`Waiter::wake_up`]; poll answers empty.
    woken_up: bool,
    waker: Option<Waker>,
}

impl Waiter {
    /// Something has happened that the reader should look at.
    pub(crate) fn signal(&self) {
        let mut state = self.state.lock();
        state.signalled = true;
        let waker = state.waker.take();
        drop(state);
        self.signalled.notify_all();
        if let Some(waker) = waker {
            about_to_call_user_code("a waker", &[]);
            waker.wake();
        }
    }

    /// Makes the current or the next wait return at once.
    pub(crate) fn wake_up(&self) {
        self.state.lock().woken_up = true;
        self.signal();
    }

    /// Whether somebody called [`wake_up`](Waiter::wake_up) since this was last asked.
    pub(crate) fn take_wake_up(&self) -> bool {
        std::mem::take(&mut self.state.lock().woken_up)
    }

    /// Forgets older signals: whoever calls this looks at the logs behind it.
    pub(crate) fn reset(&self) {
        self.state.lock().signalled = false;
    }

    /// Waits for a signal since the last [`reset`](Waiter::reset), for at most `timeout`.
    pub(crate) fn wait(&self, clock: &dyn Clock, timeout: Duration) {
        let mut state = self.state.lock();
        if !state.signalled && !state.woken_up {
            wait_timeout(clock, &self.signalled, &mut state, timeout);
        }
    }

    /// Lets go of a waker whose future is gone.
    pub(crate) fn forget_waker(&self) {
        self.state.lock().waker = None;
    }

    /// Has `waker` woken at the next signal; `false` if there was one since the last [`reset`](Waiter::reset).
    pub(crate) fn set_waker(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if state.signalled || state.woken_up {
            return false;
        }
        state.waker = Some(waker.clone());
        true
    }
}

impl Parked {
    /// Announces a reader that is about to wait. It looks at the logs once more behind this call.
    pub(crate) fn announce(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The reader does not wait any more.
    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether anybody might have to be told, behind the store of what is to be told.
    pub(crate) fn anybody(&self) -> bool {
        // IMPORTANT: without the fence the store of the visible end could pass this load, the reader's look could come
        // before the store, and the reader would sleep on records that are there.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::SeqCst) > 0
    }
}

/// The readers of one log.
pub(crate) struct Waiters {
    list: Mutex<Vec<Arc<Waiter>>>,
    /// The length of the list: a hint for whoever only wants to know whether anybody reads this log just now.
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

    /// Whether any reader has this log among those that it reads.
    pub(crate) fn anybody(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Signals all readers of this log.
    pub(crate) fn signal(&self) {
        for waiter in self.list.lock().iter() {
            waiter.signal();
        }
    }
}
