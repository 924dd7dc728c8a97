//! The open files of a broker: a budget over all segments. Beyond it, the least recently used are
//! closed.

use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, Rank, Weak};

/// Holds files open and can close them: a segment.
pub(crate) trait Holder: Send + Sync {
    /// Registers the holder. Returns true the first time, and again after
    /// [`forget`](Holder::forget).
    fn register(&self) -> bool;

    /// Undoes [`register`](Holder::register), because the holder is dropped from the list. Returns
    /// false.
    fn forget(&self) -> bool;

    fn is_open(&self) -> bool;

    /// Returns whether some written bytes are not synced.
    fn is_dirty(&self) -> bool;

    /// The [`tick`](FileBudget::tick) of its last use.
    fn last_used(&self) -> u64;

    /// Closes every open file. A thread that uses one of them keeps it open until it is done.
    fn release(&self);
}

/// Counts the files and maps that segments hold open. Closes the least recently used beyond a
/// limit.
pub(crate) struct FileBudget {
    max: usize,
    open: Arc<AtomicUsize>,
    /// A logical clock: the number of uses so far.
    uses: AtomicU64,
    holders: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    list: Vec<Weak<dyn Holder>>,
    /// When there are as many, those that are gone are removed: twice the number that the last
    /// removal left.
    sweep_at: usize,
}

/// So many entries are never worth a removal.
const SWEEP_MIN: usize = 64;

/// A file or a map that counts against the budget until it is dropped.
pub(crate) struct Opened<T> {
    pub(crate) value: T,
    open: Arc<AtomicUsize>,
}

impl<T> Drop for Opened<T> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileBudget {
    pub(crate) fn new(max: usize) -> Self {
        FileBudget {
            max,
            open: Arc::new(AtomicUsize::new(0)),
            uses: AtomicU64::new(0),
            holders: Mutex::new(Rank::OpenFiles, Holders::default()),
        }
    }

    /// Returns how many files and maps are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the time of a use. It is greater than every earlier one.
    pub(crate) fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts `value`, which was just opened.
    pub(crate) fn count<T>(&self, value: T) -> Opened<T> {
        self.open.fetch_add(1, Ordering::Relaxed);
        Opened { value, open: self.open.clone() }
    }

    /// Notes that `holder` has opened a file, and closes files of other holders if there are too
    /// many. The caller must hold none of the holder's locks.
    pub(crate) fn make_room(&self, holder: Arc<dyn Holder>) {
        let mut holders = self.holders.lock();
        if holder.register() {
            holders.add(&holder);
        }
        if self.open() <= self.max {
            return;
        }
        // A holder without open files registers again when it opens one. So the list is no longer
        // than the budget, however many segments there are.
        holders.list.retain(|weak| weak.upgrade().is_some_and(|other| other.is_open() || other.forget()));
        let others = holders
            .list
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(&holder)));
        // Segments with unsynced bytes are closed last: see `BrokerConfig::max_open_files`.
        let mut others: Vec<_> = others.map(|other| (other.is_dirty(), other.last_used(), other)).collect();
        others.sort_unstable_by_key(|(is_dirty, last_used, _)| (*is_dirty, *last_used));
        // Close an eighth more than needed. Otherwise each file opened from here on would scan the
        // whole list.
        let enough = self.max - self.max / 8;
        for (is_dirty, _, victim) in others {
            if self.open() <= if is_dirty { self.max } else { enough } {
                return;
            }
            victim.release();
        }
    }
}

impl Holders {
    /// Adds a holder. An entry of a segment that is gone keeps the segment's memory, so the list
    /// must not collect them.
    fn add(&mut self, holder: &Arc<dyn Holder>) {
        if self.list.len() >= self.sweep_at {
            self.list.retain(|weak| weak.strong_count() > 0);
            self.sweep_at = SWEEP_MIN.max(2 * self.list.len());
        }
        self.list.push(Arc::downgrade(holder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Holder for Closed {
        fn register(&self) -> bool {
            true
        }

        fn forget(&self) -> bool {
            false
        }

        fn is_open(&self) -> bool {
            false
        }

        fn is_dirty(&self) -> bool {
            false
        }

        fn last_used(&self) -> u64 {
            0
        }

        fn release(&self) {}
    }

    #[test]
    fn holders_that_are_gone_leave_the_list_below_the_limit_too() {
        let budget = FileBudget::new(1000);
        let kept: Vec<Arc<dyn Holder>> = (0..100).map(|_| Arc::new(Closed) as Arc<dyn Holder>).collect();
        kept.iter().for_each(|holder| budget.make_room(holder.clone()));
        for _ in 0..10_000 {
            budget.make_room(Arc::new(Closed));
            assert!(budget.holders.lock().list.len() <= 3 * kept.len());
        }
        let listed = budget.holders.lock().list.iter().filter(|weak| weak.strong_count() > 0).count();
        assert_eq!(listed, kept.len());
    }
}
