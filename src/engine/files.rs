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
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

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
            holders: Mutex::new(Rank::OpenFiles, Vec::new()),
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
            holders.push(Arc::downgrade(&holder));
        }
        if self.open() <= self.max {
            return;
        }
        // A holder without open files registers again when it opens one. So the list is no longer
        // than the budget, however many segments there are.
        holders.retain(|weak| weak.upgrade().is_some_and(|other| other.is_open() || other.forget()));
        let others = holders
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
