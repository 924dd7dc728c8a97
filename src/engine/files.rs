//! How many files may be open? A budget over all segments: beyond it, the one used longest ago is let go.

use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, Rank, Weak};

/// Something that holds files open, and can let go of them.
pub(crate) trait Holder: Send + Sync {
    /// Returns true the first time.
    fn register(&self) -> bool;

    /// Registers again the next time. Returns false: it is not kept.
    fn forget(&self) -> bool;

    fn is_open(&self) -> bool;

    /// Whether it has bytes that are not synced.
    fn is_dirty(&self) -> bool;

    /// The [`tick`](FileBudget::tick) of its last use.
    fn last_used(&self) -> u64;

    /// Closes every open file. A caller that uses one keeps it until it is done.
    fn release(&self);
}

/// Counts the files and maps that segments hold open, and closes the least recently used beyond a limit.
pub(crate) struct FileBudget {
    max: usize,
    open: Arc<AtomicUsize>,
    /// A logical clock of uses.
    uses: AtomicU64,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// Something that counts against the budget until it is dropped.
pub(crate) struct Counted<T> {
    pub(crate) value: T,
    open: Arc<AtomicUsize>,
}

impl<T> Drop for Counted<T> {
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

    /// Files and maps open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The time of a use: larger than every one before.
    pub(crate) fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts something just opened.
    pub(crate) fn count<T>(&self, value: T) -> Counted<T> {
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted { value, open: self.open.clone() }
    }

    /// Notes that `holder` has opened something, and lets others go if that was too much. The caller holds none of the
    /// holder's locks.
    pub(crate) fn make_room(&self, holder: Arc<dyn Holder>) {
        let mut holders = self.holders.lock();
        if holder.register() {
            holders.push(Arc::downgrade(&holder));
        }
        if self.open() <= self.max {
            return;
        }
        // Whoever has closed everything comes again when it opens something: so this list is as long as the budget, however
        // many segments there are.
        holders.retain(|weak| weak.upgrade().is_some_and(|other| other.is_open() || other.forget()));
        let others = holders
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(&holder)));
        // Segments with unsynced bytes come last: see `BrokerConfig::max_open_files`.
        let mut others: Vec<_> = others.map(|other| (other.is_dirty(), other.last_used(), other)).collect();
        others.sort_unstable_by_key(|(is_dirty, last_used, _)| (*is_dirty, *last_used));
        // A few more than needed, or each that is opened from now on would look through all of them.
        let enough = self.max - self.max / 8;
        for (is_dirty, _, victim) in others {
            if self.open() <= if is_dirty { self.max } else { enough } {
                return;
            }
            victim.release();
        }
    }
}
