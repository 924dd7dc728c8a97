//! Many files to sync at once, by several threads. A file system commits once for all threads that
//! wait for it, so eight threads sync a thousand files in a fraction of the time that one takes.
//!
//! The threads live only as long as the call. The calling thread waits for them, so they must take
//! no lock that it holds. A waker or listener is called by one of them at once; if the calling
//! thread has declared [`Later`](super::Later), because it holds a lock, it makes those calls
//! itself, when its own are due.

use std::panic::resume_unwind;

use super::Context;
use super::events::{KeptCalls, Later, is_later};
use crate::sync::{AtomicUsize, Ordering, thread};

/// So many items are worth a thread: each is a sync, which takes longer than the start of a thread.
const ITEMS_PER_THREAD: usize = 4;

impl Context {
    /// Calls `work` once for each item, on several threads. Returns false, and has called nothing,
    /// if there are too few items for that, or under a manual clock, where every run must take the
    /// same steps.
    ///
    /// `work` must not panic.
    pub(crate) fn in_parallel<T: Sync>(&self, items: &[T], work: impl Fn(&T) + Sync) -> bool {
        let threads = self.settings.sync_threads.min(items.len() / ITEMS_PER_THREAD);
        if threads < 2 || self.clock.is_manual() {
            return false;
        }
        let next = AtomicUsize::new(0);
        let share = || {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(item);
            }
        };
        let keeps_calls = is_later();
        let helper = || {
            let later = keeps_calls.then(Later::new);
            share();
            later.and_then(|_later| KeptCalls::take())
        };
        let kept: Vec<_> = thread::scope(|scope| {
            let mut helpers = Vec::with_capacity(threads);
            for _ in 1..threads {
                let named = thread::Builder::new().name("quipu-sync".to_string());
                match named.spawn_scoped(scope, helper) {
                    Ok(helper) => helpers.push(helper),
                    // The system refuses more threads: those that run take all items.
                    Err(_) => break,
                }
            }
            share();
            let joined = helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|e| resume_unwind(e)));
            joined.flatten().collect()
        });
        kept.into_iter().for_each(KeptCalls::make);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::BrokerConfig;
    use crate::storage::mem::MemStorage;
    use crate::sync::{Arc, Mutex, Rank};

    fn context(config: &BrokerConfig) -> Context {
        Context::new(Arc::new(MemStorage::new()), config, 1)
    }

    /// Returns whether `in_parallel` did the work, and how many threads had a share of it.
    fn run(ctx: &Context, items: usize) -> (bool, usize) {
        let items: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        let threads = Mutex::new(Rank::Pending, BTreeSet::new());
        let done = ctx.in_parallel(&items, |item| {
            item.fetch_add(1, Ordering::Relaxed);
            threads.lock().insert(format!("{:?}", thread::current().id()));
        });
        let times: BTreeSet<_> = items.iter().map(|item| item.load(Ordering::Relaxed)).collect();
        assert_eq!(times, BTreeSet::from([usize::from(done)]), "each once, or none");
        let threads = threads.lock().len();
        (done, threads)
    }

    #[test]
    fn many_items_are_each_done_once_by_a_bounded_number_of_threads() {
        let ctx = context(&BrokerConfig::new());
        for items in [8, 9, 100, 1000] {
            let (done, threads) = run(&ctx, items);
            assert!(done && (1..=8).contains(&threads), "{items} items: {threads} threads");
        }
    }

    #[test]
    fn few_items_one_thread_and_a_manual_clock_leave_the_work_to_the_caller() {
        assert!(!run(&context(&BrokerConfig::new()), 7).0);
        assert!(!run(&context(&BrokerConfig::new().sync_threads(1)), 1000).0);
        assert!(!run(&context(&BrokerConfig::new().clock(ManualClock::new())), 1000).0);
    }

    #[test]
    fn a_panic_of_the_work_reaches_the_caller() {
        let ctx = context(&BrokerConfig::new());
        let items: Vec<u32> = (0..100).collect();
        let work = |item: &u32| assert!(*item != 50, "the work panics");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ctx.in_parallel(&items, work))).unwrap_err();
    }

    struct NotesItsThread(Mutex<Option<thread::ThreadId>>);

    impl Wake for NotesItsThread {
        fn wake(self: Arc<Self>) {
            *self.0.lock() = Some(thread::current().id());
        }
    }

    /// The calling thread may hold a lock, which a waker may want.
    #[test]
    fn wakers_are_called_by_the_calling_thread_after_it_has_dropped_its_locks() {
        let ctx = context(&BrokerConfig::new());
        let noted: Vec<Arc<NotesItsThread>> =
            (0..100).map(|_| Arc::new(NotesItsThread(Mutex::new(Rank::Pending, None)))).collect();
        let later = Later::new();
        assert!(ctx.in_parallel(&noted, |waker| ctx.events.wake(Waker::from(waker.clone()))));
        assert!(noted.iter().all(|waker| waker.0.lock().is_none()), "called while a lock may be held");
        drop(later);
        let this = Some(thread::current().id());
        assert!(noted.iter().all(|waker| *waker.0.lock() == this));
        // Without that, each is called at once.
        assert!(ctx.in_parallel(&noted, |waker| {
            *waker.0.lock() = None;
            ctx.events.wake(Waker::from(waker.clone()));
            assert!(waker.0.lock().is_some());
        }));
    }
}
