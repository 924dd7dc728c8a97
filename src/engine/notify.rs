//! Wakes readers that wait for new records, and notes for each reader which of its logs it has to
//! look at. A writer pays one load where no reader waits for its log, and a reader pays nothing for
//! logs that do not change.
//!
//! A reader of many logs has a *ready list*: the logs that may have something for it. It looks at
//! those only. Its [`Interest`] in each of the other logs is *armed*.
//!
//! The concurrency argument:
//! - *Invariant*: a log is on the reader's ready list, or among the [places](Waiter::take) that its
//!   waiter has noted for that list, or the interest in it is armed and the reader has found nothing
//!   in it after it was armed.
//! - *Arming*: a reader that finds nothing in a log arms its interest, looks at the log once more,
//!   and takes it off the list if there is still nothing. A writer moves the visible end, and then
//!   checks whether an interest in its log is armed. Both put a sequentially consistent fence
//!   between their store and their load, so at least one of them sees the other's store: the reader
//!   finds the records, or the writer finds the interest armed. No record is missed.
//! - *Firing*: the writer notes the place of the log with the waiter, disarms the interest, and
//!   signals the waiter. It does so under the lock of the log's list, and the mark that an interest
//!   is armed is taken back last, under that lock. So a writer that finds the mark waits for a
//!   writer that is firing, or sees that it is done: once an append has returned, a poll finds its
//!   record. The thread or the task of a signalled waiter is woken after the lock is released.
//! - *Parking*: a reader resets its waiter, takes the noted places, looks, and waits only if there
//!   was no signal since. A place is noted and its signal is set under one lock, which the reset
//!   takes too. So a place is taken by this look, which takes that lock only if there is news, or its
//!   signal ends the wait.
//! - *Other changes* of a log (a truncation, its end, added partitions) fire every armed interest,
//!   and signal every waiter, armed or not: such a change is not a matter of one log only.

use std::task::Waker;
use std::time::Duration;

use super::events::Events;
use crate::clock::{Clock, wait_timeout};
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, Rank, fence};

/// Changes that concern readers of a broker, and are of no single log.
#[derive(Default)]
pub(crate) struct Readers {
    /// The readers that read no log, whether they wait or not: no log would wake them when the
    /// broker is closed.
    pub(crate) idle: Waiters,
    /// How often partitions were added to a topic. Raised before the logs of the topic signal.
    grown: AtomicU64,
}

/// The place where one reader waits.
pub(crate) struct Waiter {
    state: Mutex<WaiterState>,
    /// Whether [`take`](Waiter::take) would find something: so a reader that polls in a loop takes
    /// no lock that a writer needs. Changed under the lock.
    has_news: AtomicBool,
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
    /// The places of logs that have changed since the last [`Waiter::take`]. Each is there about
    /// once, because firing an interest disarms it.
    changed: Vec<usize>,
}

impl WaiterState {
    /// Returns the waker to be called once the lock is released.
    fn signal(&mut self) -> Option<Waker> {
        self.signalled = true;
        let waker = self.waker.take();
        self.future_woken |= waker.is_some();
        waker
    }
}

impl Waiter {
    /// Of a broker with these events.
    pub(crate) fn new(events: &Arc<Events>) -> Self {
        Waiter {
            state: Mutex::new(Rank::Waiter, WaiterState::default()),
            has_news: AtomicBool::new(false),
            signalled: Condvar::new(),
            events: events.clone(),
        }
    }

    /// Wakes the reader, because something that it reads has changed.
    pub(crate) fn signal(&self) {
        let waker = self.state.lock().signal();
        self.signalled.notify_all();
        if let Some(waker) = waker {
            self.events.wake(waker);
        }
    }

    /// As [`signal`](Waiter::signal), because of the log at `place`, if there is one. Wakes nothing:
    /// the caller must do that with the result, under no lock.
    fn note(self: &Arc<Self>, place: Option<usize>) -> WakeUp {
        let waker = {
            let mut state = self.state.lock();
            if let Some(place) = place {
                state.changed.push(place);
                self.has_news.store(true, Ordering::Release);
            }
            state.signal()
        };
        WakeUp { waiter: self.clone(), waker }
    }

    /// Makes the current or the next wait return at once.
    pub(crate) fn wake_up(&self) {
        {
            let mut state = self.state.lock();
            state.woken_up = true;
            self.has_news.store(true, Ordering::Release);
        }
        self.signal();
    }

    /// Adds the places of the logs that have changed since the last call, and returns whether
    /// [`wake_up`](Waiter::wake_up) was called since.
    #[inline]
    pub(crate) fn take(&self, changed: &mut impl Extend<usize>) -> bool {
        self.has_news.load(Ordering::Acquire) && self.take_news(changed)
    }

    fn take_news(&self, changed: &mut impl Extend<usize>) -> bool {
        let mut state = self.state.lock();
        self.has_news.store(false, Ordering::Release);
        changed.extend(state.changed.drain(..));
        std::mem::take(&mut state.woken_up)
    }

    /// Returns the places that the next [`take`](Waiter::take) takes.
    pub(crate) fn noted(&self) -> Vec<usize> {
        if !self.has_news.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.state.lock().changed.clone()
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

    #[cfg(test)]
    pub(crate) fn has_waker(&self) -> bool {
        self.state.lock().waker.is_some()
    }
}

/// A reader that was signalled, and is still to be woken.
struct WakeUp {
    waiter: Arc<Waiter>,
    waker: Option<Waker>,
}

impl WakeUp {
    fn wake(self) {
        self.waiter.signalled.notify_all();
        if let Some(waker) = self.waker {
            self.waiter.events.wake(waker);
        }
    }
}

impl Readers {
    /// Notes that partitions were added to a topic. Must be called before its logs signal.
    pub(crate) fn note_grown(&self) {
        self.grown.fetch_add(1, Ordering::Release);
    }

    /// Returns a number that changes with each topic that was given more partitions.
    #[inline]
    pub(crate) fn grown(&self) -> u64 {
        self.grown.load(Ordering::Acquire)
    }
}

/// A reader's interest in one log.
pub(crate) struct Interest {
    waiter: Arc<Waiter>,
    /// The place of the log among those of the reader. Changed by the reader only.
    place: AtomicUsize,
    /// The log is to be put on the ready list when it changes. Changed under the lock of the log's
    /// list.
    armed: AtomicBool,
}

impl Interest {
    pub(crate) fn new(waiter: &Arc<Waiter>, place: usize) -> Self {
        Interest { waiter: waiter.clone(), place: AtomicUsize::new(place), armed: AtomicBool::new(false) }
    }

    /// The log has another place now. The reader must look at it after this call, because a writer
    /// may have noted the old place.
    pub(crate) fn set_place(&self, place: usize) {
        self.place.store(place, Ordering::Release);
    }

    /// Disarms it, and signals its waiter if it was armed or if `always`.
    fn fire(&self, always: bool) -> Option<WakeUp> {
        let was_armed = self.armed.swap(false, Ordering::AcqRel);
        // Load the place after the swap: a reader that has moved the log, and armed the interest
        // since, is told the new place.
        let place = was_armed.then(|| self.place.load(Ordering::Acquire));
        (was_armed || always).then(|| self.waiter.note(place))
    }
}

#[cfg(test)]
impl Default for Interest {
    fn default() -> Self {
        Interest::new(&Arc::default(), 0)
    }
}

/// The readers of one log.
pub(crate) struct Waiters {
    list: Mutex<Vec<Arc<Interest>>>,
    /// The length of the list: a hint for callers that only check whether the log has readers.
    count: AtomicUsize,
    /// Whether an interest of the list may be armed. Changed under the lock of the list.
    armed: AtomicBool,
}

impl Default for Waiters {
    fn default() -> Self {
        Waiters {
            list: Mutex::new(Rank::Waiters, Vec::new()),
            count: AtomicUsize::new(0),
            armed: AtomicBool::new(false),
        }
    }
}

impl Waiters {
    pub(crate) fn add(&self, interest: Arc<Interest>) {
        let mut list = self.list.lock();
        list.push(interest);
        self.count.store(list.len(), Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, interest: &Arc<Interest>) {
        let mut list = self.list.lock();
        list.retain(|other| !Arc::ptr_eq(other, interest));
        self.count.store(list.len(), Ordering::Relaxed);
    }

    /// Returns whether any reader has this log among those that it reads.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Arms an interest in this log. The reader must look at the log once more after this call.
    pub(crate) fn arm(&self, interest: &Interest) {
        {
            let _list = self.list.lock();
            interest.armed.store(true, Ordering::Release);
            self.armed.store(true, Ordering::Release);
        }
        // IMPORTANT: keep the fence, here and in `appended`: see the head of this file.
        fence(Ordering::SeqCst);
    }

    /// Fires the armed interests. Must be called after the visible end is stored.
    #[inline]
    pub(crate) fn appended(&self) {
        // IMPORTANT: keep the fence. Without it the store of the visible end could be reordered
        // after this load, the reader's check could run before the store, and the reader would
        // sleep although there are records.
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Acquire) {
            self.fire(false);
        }
    }

    /// Fires the armed interests, and signals all readers of this log. Must be called after the
    /// change.
    pub(crate) fn signal(&self) {
        fence(Ordering::SeqCst);
        self.fire(true);
    }

    fn fire(&self, always: bool) {
        // Most often there is one.
        let (mut first, mut others) = (None, Vec::new());
        {
            let list = self.list.lock();
            for wake_up in list.iter().filter_map(|interest| interest.fire(always)) {
                if first.is_none() { first = Some(wake_up) } else { others.push(wake_up) }
            }
            self.armed.store(false, Ordering::Release);
        }
        // IMPORTANT: under no lock. A waker may let go of a reader, which takes the lock of the list.
        // A thread that is woken may run in place of this one, and soon needs that lock to arm its
        // interest.
        first.into_iter().chain(others).for_each(WakeUp::wake);
    }
}
