//! Locks that know their place in the order, and in a debug build hold every thread to it.
//!
//! A debug build counts the locks that a thread holds by their rank. It panics where a thread takes a
//! lock whose rank comes before one that it holds, or waits on a condition variable while it holds
//! another lock. So every test is a test of the order too. A release build has none of this: its
//! locks are those of `parking_lot`.
//!
//! Where a thread calls code of the user while it holds a lock, only a build for the tests of this
//! crate panics, because that panic would appear in the user's own code: see
//! [`about_to_call_user_code`].

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::rank::Rank;

/// A lock with a rank.
pub(crate) struct Mutex<T> {
    lock: parking_lot::Mutex<T>,
    rank: Rank,
}

pub(crate) struct MutexGuard<'a, T> {
    guard: parking_lot::MutexGuard<'a, T>,
    held: HeldRank,
}

/// A lock with a rank that readers share.
pub(crate) struct RwLock<T> {
    lock: parking_lot::RwLock<T>,
    rank: Rank,
}

pub(crate) struct RwLockReadGuard<'a, T> {
    guard: parking_lot::RwLockReadGuard<'a, T>,
    _held: HeldRank,
}

pub(crate) struct RwLockWriteGuard<'a, T> {
    guard: parking_lot::RwLockWriteGuard<'a, T>,
    _held: HeldRank,
}

/// A condition variable, on which a thread waits with one lock, and with others only where it names
/// them.
#[derive(Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

impl<T> Mutex<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Mutex { lock: parking_lot::Mutex::new(value), rank }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = HeldRank::take(self.rank);
        MutexGuard { guard: self.lock.lock(), held }
    }

    /// As [`lock`](Mutex::lock), but lets other threads run so often before it sleeps. For a lock that
    /// is held for less time than it takes to put a thread to sleep and to wake it.
    pub(crate) fn lock_after_yields(&self, yields: usize) -> MutexGuard<'_, T> {
        let held = HeldRank::take(self.rank);
        for _ in 0..yields {
            if let Some(guard) = self.lock.try_lock() {
                return MutexGuard { guard, held };
            }
            std::thread::yield_now();
        }
        MutexGuard { guard: self.lock.lock(), held }
    }

    /// `None` while another thread holds it. Waits for no thread, so it may be called whatever is
    /// held.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.lock.try_lock().map(|guard| MutexGuard { guard, held: HeldRank::note(self.rank) })
    }
}

impl<T> RwLock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        RwLock { lock: parking_lot::RwLock::new(value), rank }
    }

    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        let held = HeldRank::take(self.rank);
        RwLockReadGuard { guard: self.lock.read(), _held: held }
    }

    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        let held = HeldRank::take(self.rank);
        RwLockWriteGuard { guard: self.lock.write(), _held: held }
    }
}

impl Condvar {
    pub(crate) const fn new() -> Self {
        Condvar(parking_lot::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_with(guard, &[]);
    }

    /// As [`wait`](Condvar::wait), while the thread holds locks of these ranks too. The caller
    /// argues why the thread that it waits for needs none of them.
    pub(crate) fn wait_with<T>(&self, guard: &mut MutexGuard<'_, T>, also: &[Rank]) {
        guard.held.check_alone(also);
        self.0.wait(&mut guard.guard);
    }

    /// As [`wait_with`](Condvar::wait_with), for at most `timeout`. Returns whether that ran out.
    pub(crate) fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: Duration,
        also: &[Rank],
    ) -> bool {
        guard.held.check_alone(also);
        self.0.wait_for(&mut guard.guard, timeout).timed_out()
    }

    /// As [`wait`](Condvar::wait), whatever locks the thread holds: for the simulated medium, which
    /// holds an operation on purpose.
    pub(crate) fn wait_like_a_medium<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(&mut guard.guard);
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The thread is about to call code of the user: a callback, a waker, a partitioner. That may
/// block, panic, or call the broker, so the thread must hold no lock.
#[inline]
pub(crate) fn about_to_call_user_code(which: &str) {
    about_to_call_user_code_with(which, &[]);
}

/// As [`about_to_call_user_code`], while the thread holds locks of these ranks too, because the
/// user is told of them.
#[inline]
pub(crate) fn about_to_call_user_code_with(which: &str, also: &[Rank]) {
    #[cfg(debug_assertions)]
    if CHECKS_USER_CODE {
        order::check_user_code(which, also);
    }
    let _ = (which, also);
}

/// Whether this is a build for the tests of this crate. The tests in `tests/` use the crate as a
/// user does, without `cfg(test)`, so `.cargo/config.toml` sets this variable for every build in
/// this directory. Cargo does not read that file where the crate is a dependency.
#[cfg(debug_assertions)]
const CHECKS_USER_CODE: bool = cfg!(test) || option_env!("QUIPU_CHECK_USER_CODE").is_some();

impl<T> MutexGuard<'_, T> {
    /// Panics in a debug build if the thread holds other locks, but for those of the ranks `also`.
    #[inline]
    pub(super) fn check_alone(&self, also: &[Rank]) {
        self.held.check_alone(also);
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Notes that the thread holds a lock, until it is dropped. Empty in a release build.
struct HeldRank {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl HeldRank {
    /// Before the thread waits for the lock.
    #[inline]
    fn take(rank: Rank) -> Self {
        #[cfg(debug_assertions)]
        order::check(rank);
        HeldRank::note(rank)
    }

    #[inline]
    fn note(rank: Rank) -> Self {
        #[cfg(debug_assertions)]
        order::push(rank);
        let _ = rank;
        HeldRank {
            #[cfg(debug_assertions)]
            rank,
        }
    }

    #[inline]
    fn check_alone(&self, also: &[Rank]) {
        #[cfg(debug_assertions)]
        order::check_alone(self.rank, also);
        let _ = also;
    }
}

#[cfg(debug_assertions)]
impl Drop for HeldRank {
    fn drop(&mut self) {
        order::pop(self.rank);
    }
}

#[cfg(debug_assertions)]
#[allow(clippy::panic, reason = "a wrong order is a bug of this crate, and a debug build stops at it")]
mod order {
    use std::cell::Cell;

    use super::Rank;

    /// More than there are ranks.
    const RANKS: usize = 128;

    /// The locks that a thread holds. Without a destructor, so that it may be asked for at any time
    /// of a thread's life.
    struct Held {
        /// A bit for each rank of which it holds a lock.
        ranks: Cell<u128>,
        /// The rank of each bit, and how many of its locks are held.
        counts: [Cell<Option<(Rank, u32)>>; RANKS],
    }

    thread_local! {
        static HELD: Held = const {
            Held { ranks: Cell::new(0), counts: [const { Cell::new(None) }; RANKS] }
        };
    }

    impl Held {
        fn count(&self, rank: Rank) -> u32 {
            let count = self.counts.get(rank as usize).and_then(Cell::get);
            count.map_or(0, |(_, count)| count)
        }

        fn set(&self, rank: Rank, count: u32) {
            if let Some(place) = self.counts.get(rank as usize) {
                place.set(Some((rank, count)));
            }
            let others = self.ranks.get() & !bit(rank);
            self.ranks.set(if count > 0 { others | bit(rank) } else { others });
        }

        /// The first of these ranks.
        fn first(&self, ranks: u128) -> Option<Rank> {
            self.counts.get(ranks.trailing_zeros() as usize)?.get().map(|(rank, _)| rank)
        }
    }

    fn bit(rank: Rank) -> u128 {
        1 << rank as u32
    }

    fn bits(ranks: &[Rank]) -> u128 {
        ranks.iter().fold(0, |bits, rank| bits | bit(*rank))
    }

    /// Panics, unless the thread panics already.
    fn stop(wrong: &str) {
        if !std::thread::panicking() {
            panic!("the order of locks: {wrong}");
        }
    }

    pub(super) fn check(rank: Rank) {
        if rank.is_unranked() {
            return;
        }
        let earlier = if rank.may_repeat() { bit(rank) | (bit(rank) - 1) } else { bit(rank) - 1 };
        HELD.with(|held| {
            if let Some(before) = held.first(held.ranks.get() & !earlier) {
                stop(&format!("{rank:?} is taken while {before:?} is held"));
            }
        });
    }

    pub(super) fn push(rank: Rank) {
        if !rank.is_unranked() {
            HELD.with(|held| held.set(rank, held.count(rank) + 1));
        }
    }

    pub(super) fn pop(rank: Rank) {
        if !rank.is_unranked() {
            HELD.with(|held| held.set(rank, held.count(rank).saturating_sub(1)));
        }
    }

    pub(super) fn check_alone(rank: Rank, also: &[Rank]) {
        HELD.with(|held| {
            if let Some(other) = held.first(held.ranks.get() & !bits(also) & !bit(rank)) {
                stop(&format!("a condition variable of {rank:?} is waited for while {other:?} is held"));
            }
        });
    }

    pub(super) fn check_user_code(which: &str, also: &[Rank]) {
        HELD.with(|held| {
            if let Some(other) = held.first(held.ranks.get() & !bits(also)) {
                stop(&format!("code of the user ({which}) is called while {other:?} is held"));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn panics(call: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(call)).is_err()
    }

    #[test]
    fn an_earlier_lock_is_not_taken_under_a_later_one() {
        let (first, last) = (Mutex::new(Rank::Shape, ()), RwLock::new(Rank::Manifest, ()));
        {
            let _first = first.lock();
            let _last = last.read();
        }
        assert!(panics(|| {
            let _last = last.write();
            let _first = first.lock();
        }));
        // What was held when it panicked is not held any more.
        drop(first.lock());
    }

    #[test]
    fn two_locks_of_one_rank_are_held_only_where_their_order_is_stated() {
        let of = |rank| (Mutex::new(rank, ()), Mutex::new(rank, ()));
        let (a, b) = of(Rank::Writer);
        let _both = (a.lock(), b.lock());
        drop(_both);
        let (a, b) = of(Rank::Shape);
        assert!(panics(|| drop((a.lock(), b.lock()))));
    }

    #[test]
    fn a_thread_waits_with_no_lock_but_its_own_and_those_that_it_names() {
        let (outer, own, signal) =
            (Mutex::new(Rank::Shape, ()), Mutex::new(Rank::GroupCommit, ()), Condvar::new());
        let moment = Duration::from_nanos(1);
        signal.wait_for(&mut own.lock(), moment, &[]);
        assert!(panics(|| {
            let _outer = outer.lock();
            signal.wait_for(&mut own.lock(), moment, &[]);
        }));
    }

    #[test]
    fn code_of_the_user_runs_under_no_lock() {
        about_to_call_user_code("a test");
        let lock = Mutex::new(Rank::Manifest, ());
        assert!(panics(|| {
            let _held = lock.lock();
            about_to_call_user_code("a test");
        }));
    }
}
