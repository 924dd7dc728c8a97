//! Group commit: many waiters share one sync, as leader and followers. Knows nothing of records.
//!
//! A thread that needs the log durable up to some end calls [`GroupCommit::wait`]. The first
//! becomes the leader and syncs outside the lock; threads that call meanwhile wait. A finished sync
//! releases all waiters whose end it covers, and one of the others leads the next. The leader's
//! guard hands over even if the sync unwinds, so no waiter is stranded.

use std::task::Waker;

use crate::engine::Events;
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Bell, Mutex, Ordering, Rank, thread};

/// The shared state of all threads that wait for one log's durable end.
pub(crate) struct GroupCommit {
    state: Mutex<CommitState>,
    /// As `durable` in the state, for a thread that a sync has woken: it takes no lock to see that
    /// it is done.
    reached: AtomicU64,
    /// How many of the threads that the last sync released have not come back with another write.
    /// Written under the lock of the state.
    expected: AtomicUsize,
    finished: Bell,
    /// Calls the wakers.
    events: Arc<Events>,
}

struct CommitState {
    /// All positions before it are durable.
    durable: u64,
    /// A leader is syncing.
    syncing: bool,
    /// How many threads have started to wait since the last leader looked.
    waiting: usize,
    /// How many threads the running sync releases.
    covered: usize,
    /// A sync failed: every wait returns this error until [`GroupCommit::restart`].
    failed: Option<Error>,
    /// Futures to wake when a sync has finished, with whatever result.
    wakers: Vec<Waker>,
    /// The last sync could not be tried, for lack of a descriptor. The futures wait for the next
    /// one: the worker tries again.
    untried: bool,
}

impl GroupCommit {
    pub(crate) fn new(durable: u64, events: &Arc<Events>) -> Self {
        GroupCommit {
            state: Mutex::new(
                Rank::GroupCommit,
                CommitState {
                    durable,
                    syncing: false,
                    waiting: 0,
                    covered: 0,
                    failed: None,
                    wakers: Vec::new(),
                    untried: false,
                },
            ),
            reached: AtomicU64::new(durable),
            expected: AtomicUsize::new(0),
            finished: Bell::default(),
            events: events.clone(),
        }
    }

    /// Returns once all positions before `end` are durable. If no thread is syncing, calls `sync`,
    /// which returns the position that it reached. `end` must have been written before the call, so
    /// that the caller's own sync covers it.
    ///
    /// # Errors
    /// The error of the sync, for every waiter that it could have released and for all later ones.
    /// If the process has no descriptor for the sync, that is the error of this call only.
    pub(crate) fn wait(&self, end: u64, sync: impl FnOnce() -> Result<u64>) -> Result<()> {
        let mut state = self.state.lock();
        self.come_back();
        loop {
            if state.durable >= end {
                return Ok(());
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if !state.syncing {
                break;
            }
            state.waiting += 1;
            // A leader takes no right to compact.
            self.finished.wait(state, &[Rank::Compacting]);
            if self.reached.load(Ordering::Acquire) >= end {
                return Ok(());
            }
            state = self.state.lock();
        }
        state.syncing = true;
        state.covered = std::mem::take(&mut state.waiting);
        drop(state);
        let lead = Lead { commit: self };
        if self.expected.load(Ordering::Relaxed) > 0 {
            self.let_others_write();
        }
        let result = sync();
        lead.finish(result)
    }

    /// The threads that the last sync released are about to write again: yielding lets them share
    /// this sync. A thread alone does not yield.
    fn let_others_write(&self) {
        let mut yields = 0;
        while yields < YIELDS && self.expected.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
            yields += 1;
        }
        let mut state = self.state.lock();
        state.covered += std::mem::take(&mut state.waiting);
    }

    /// A thread has written and is about to wait. Called under the lock of the state.
    fn come_back(&self) {
        let expected = self.expected.load(Ordering::Relaxed);
        self.expected.store(expected.saturating_sub(1), Ordering::Relaxed);
    }

    /// Registers `waker` for the end of the next sync. The caller must check again after this call,
    /// before it sleeps.
    pub(crate) fn register(&self, waker: &Waker) {
        // Cloned before the lock is taken, because that is code of the user.
        let waker = waker.clone();
        let mut state = self.state.lock();
        if !state.wakers.iter().any(|known| known.will_wake(&waker)) {
            state.wakers.push(waker);
        }
    }

    /// Returns the position before which all is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.reached.load(Ordering::Acquire)
    }

    /// Returns the error with which every wait fails, if there is one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.state.lock().failed.clone()
    }

    /// Fails every wait from here on, for a reason other than a sync.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        state.failed.get_or_insert(error);
        self.wake(state);
    }

    /// As [`fail`](GroupCommit::fail), and returns once no sync is running. None will run until
    /// [`restart`](GroupCommit::restart).
    pub(crate) fn halt(&self, error: Error) {
        let mut state = self.state.lock();
        state.failed.get_or_insert(error);
        while state.syncing {
            // A leader takes none of these: it ends whatever this thread holds.
            self.finished.wait(state, &[Rank::Compacting, Rank::JournalGate, Rank::Shape]);
            state = self.state.lock();
        }
    }

    /// Takes the lead without syncing, once no sync is running. All other threads wait until the
    /// result is dropped.
    pub(crate) fn hold(&self) -> Lead<'_> {
        let mut state = self.state.lock();
        while state.syncing {
            // A leader takes none of these: it ends whatever this thread holds.
            self.finished.wait(state, &[Rank::Compacting, Rank::JournalGate, Rank::Shape]);
            state = self.state.lock();
        }
        state.syncing = true;
        Lead { commit: self }
    }

    /// Starts over at a durable end that may lie before the old one: the log was truncated, and
    /// everything that was kept is synced. Waiting callers are woken by the drop of the [`Lead`],
    /// or by [`wake_waiting`](GroupCommit::wake_waiting).
    pub(crate) fn restart(&self, durable: u64) {
        let mut state = self.state.lock();
        state.durable = durable;
        self.reached.store(durable, Ordering::Release);
        state.failed = None;
    }

    /// Wakes every waiting caller, so that it looks again.
    pub(crate) fn wake_waiting(&self) {
        self.wake(self.state.lock());
    }

    fn wake(&self, mut state: crate::sync::MutexGuard<'_, CommitState>) {
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.finished.ring();
        for waker in wakers {
            self.events.wake(waker);
        }
    }

    #[cfg(test)]
    fn is_syncing(&self) -> bool {
        self.state.lock().syncing
    }
}

/// How often a leader yields at most to the threads that the last sync released. They may have
/// other work.
const YIELDS: usize = 32;

/// The right and the duty to sync. Dropping it, on any path, lets the next waiter lead.
pub(crate) struct Lead<'a> {
    commit: &'a GroupCommit,
}

impl Lead<'_> {
    /// Ends the lead with the position that is durable now.
    ///
    /// # Errors
    /// The given one, which all waiters get.
    pub(crate) fn finish(self, result: Result<u64>) -> Result<()> {
        let mut state = self.commit.state.lock();
        match result {
            Ok(durable) => {
                state.durable = state.durable.max(durable);
                self.commit.expected.store(state.covered, Ordering::Relaxed);
                self.commit.reached.store(state.durable, Ordering::Release);
                Ok(())
            }
            Err(error) if error.is_no_descriptor() => {
                state.untried = true;
                Err(error)
            }
            Err(error) => {
                state.failed.get_or_insert(error.clone());
                Err(error)
            }
        }
        // Dropping `self` ends the lead, after the guard of the state is dropped.
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.commit.state.lock();
        state.syncing = false;
        if std::mem::take(&mut state.untried) {
            drop(state);
            self.commit.finished.ring();
        } else {
            self.commit.wake(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use super::*;

    fn commit_at(durable: u64) -> GroupCommit {
        GroupCommit::new(durable, &Arc::new(Events::new(None)))
    }
    use crate::error::IoAction;
    use crate::sync::{Arc, AtomicU64, Condvar, Ordering, thread};

    #[test]
    fn a_covered_end_needs_no_sync() {
        let commit = commit_at(5);
        commit.wait(5, || unreachable!("already durable")).unwrap();
    }

    #[test]
    fn waiters_during_a_running_sync_share_the_next_one() {
        let commit = Arc::new(commit_at(0));
        let (syncs, gate) =
            (Arc::new(AtomicU64::new(0)), Arc::new((Mutex::new(Rank::Test, false), Condvar::new())));
        let first = {
            let (commit, syncs, gate) = (commit.clone(), syncs.clone(), gate.clone());
            thread::spawn(move || {
                commit.wait(1, || {
                    syncs.fetch_add(1, Ordering::SeqCst);
                    let mut open = gate.0.lock();
                    while !*open {
                        gate.1.wait(&mut open);
                    }
                    Ok(1)
                })
            })
        };
        while !commit.is_syncing() {
            thread::yield_now();
        }
        let rest: Vec<_> = (2..=9)
            .map(|end| {
                let (commit, syncs) = (commit.clone(), syncs.clone());
                thread::spawn(move || {
                    commit.wait(end, || {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(9)
                    })
                })
            })
            .collect();
        *gate.0.lock() = true;
        gate.1.notify_all();
        first.join().unwrap().unwrap();
        for waiter in rest {
            waiter.join().unwrap().unwrap();
        }
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_failure_from_elsewhere_wakes_the_waiters_while_a_sync_runs() {
        let (commit, gate) =
            (Arc::new(commit_at(0)), Arc::new((Mutex::new(Rank::Test, false), Condvar::new())));
        let leader = {
            let (commit, gate) = (commit.clone(), gate.clone());
            thread::spawn(move || {
                commit.wait(1, || {
                    let mut open = gate.0.lock();
                    while !*open {
                        gate.1.wait(&mut open);
                    }
                    Ok(1)
                })
            })
        };
        while !commit.is_syncing() {
            thread::yield_now();
        }
        let follower = {
            let commit = commit.clone();
            thread::spawn(move || commit.wait(2, || unreachable!("another thread syncs")))
        };
        while commit.state.lock().waiting == 0 {
            thread::yield_now();
        }
        commit.fail(Error::Closed);
        assert!(matches!(follower.join().unwrap(), Err(Error::Closed)));
        *gate.0.lock() = true;
        gate.1.notify_all();
        leader.join().unwrap().unwrap();
    }

    #[test]
    fn a_failed_sync_fails_every_waiter_until_a_restart() {
        let commit = commit_at(0);
        let error = Error::io(IoAction::Sync, Path::new("f"), std::io::ErrorKind::Other.into());
        assert!(commit.wait(1, || Err(error.clone())).is_err());
        assert!(commit.wait(1, || unreachable!("never retried")).is_err());
        assert!(commit.wait(2, || unreachable!("never retried")).is_err());
        commit.restart(0);
        commit.wait(2, || Ok(2)).unwrap();
    }

    #[test]
    fn a_sync_that_finds_no_descriptor_fails_its_caller_only_and_wakes_no_future() {
        let commit = commit_at(0);
        let none = || std::io::Error::from_raw_os_error(24);
        let error = || Error::io(IoAction::Sync, Path::new("f"), none());
        let (waker, woken) = futures_waker();
        commit.register(&waker);
        assert!(commit.wait(1, || Err(error())).is_err());
        assert!(commit.failure().is_none() && !woken.load(Ordering::SeqCst));
        commit.wait(1, || Ok(1)).unwrap();
        assert!(woken.load(Ordering::SeqCst));
    }

    fn futures_waker() -> (Waker, Arc<crate::sync::AtomicBool>) {
        struct Flag(Arc<crate::sync::AtomicBool>);
        impl std::task::Wake for Flag {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let woken = Arc::new(crate::sync::AtomicBool::new(false));
        (Waker::from(std::sync::Arc::new(Flag(woken.clone()))), woken)
    }

    #[test]
    fn a_sync_that_unwinds_hands_the_lead_over() {
        let commit = commit_at(0);
        assert!(catch_unwind(AssertUnwindSafe(|| commit.wait(1, || panic!("the sync unwinds")))).is_err());
        commit.wait(1, || Ok(1)).unwrap();
    }
}
