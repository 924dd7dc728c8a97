//! The open files and maps of a broker: a budget over all segments. Beyond it, the least recently
//! used are closed.
//!
//! Every open file and every map counts until its last user has dropped it, whether the budget may
//! close it or not. The budget can close those that segments hold. It cannot take back a file that a
//! thread is using, or a map that the user's records refer to; therefore maps may take only a part of
//! the budget, and a segment that gets no map is read by position.

use super::opened::{Counts, Opened, OpenedFile, OpenedMap};
use crate::storage::descriptors::Closer;
use crate::storage::{File, Map, ProcessLimits};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, Rank, Weak};

/// Holds files open and can close them: a segment.
pub(crate) trait Holder: Send + Sync {
    /// Registers the holder. Returns true the first time, and again after
    /// [`forget`](Holder::forget).
    fn register(&self) -> bool;

    /// Undoes [`register`](Holder::register), because the holder is dropped from the list. Returns
    /// false.
    fn forget(&self) -> bool;

    /// What it holds now.
    fn holds(&self) -> Holds;

    /// Returns whether some written bytes are not synced.
    fn is_dirty(&self) -> bool;

    /// The [`tick`](FileBudget::tick) of its last use.
    fn last_used(&self) -> u64;

    /// Closes every open file and every map. A thread that uses one of them keeps it until it is
    /// done.
    fn release(&self);
}

/// What a holder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    pub(crate) files: bool,
    pub(crate) maps: bool,
}

/// Counts the files and maps of segments that are open. Closes the least recently used beyond a
/// limit.
pub(crate) struct FileBudget {
    max: usize,
    mapped_max: u64,
    counts: Arc<Counts>,
    /// A logical clock: the number of uses so far.
    uses: AtomicU64,
    holders: Mutex<Holders>,
    /// So many more maps are refused without looking for some to close, because the last look has
    /// found too few.
    refusals: AtomicUsize,
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

/// The limit where that of the process is not known.
pub(crate) const FILES_DEFAULT: usize = 512;
/// The least limit.
pub(crate) const FILES_MIN: usize = 8;
/// The largest limit that follows from that of the process. A system may bound the maps of a process
/// too, Linux to 65,530.
const FILES_DEFAULT_MAX: u64 = 4096;

/// The most bytes that maps may have together, where the process has no limit of addresses: half of
/// those that a 32-bit process can spare, and a small part of those of a 64-bit process.
const MAPPED_MAX: u64 = if cfg!(target_pointer_width = "64") { 256 << 30 } else { 512 << 20 };

impl FileBudget {
    /// `wanted` is the setting, if there is one.
    pub(crate) fn new(wanted: Option<usize>, limits: &ProcessLimits) -> Self {
        FileBudget {
            max: wanted.unwrap_or_else(|| default_max(limits)),
            mapped_max: limits.free_addresses.map_or(MAPPED_MAX, |free| MAPPED_MAX.min(free / 2)),
            counts: Arc::default(),
            uses: AtomicU64::new(0),
            holders: Mutex::new(Rank::OpenFiles, Holders::default()),
            refusals: AtomicUsize::new(0),
        }
    }

    /// Returns how many files and maps are open.
    pub(crate) fn open(&self) -> usize {
        self.counts.open()
    }

    /// Returns how many files and maps may be open.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Returns whether there are so many maps that a reader must not keep one for its next poll.
    pub(crate) fn is_short_of_maps(&self) -> bool {
        !self.counts.has_room(self.max / 2, self.mapped_max / 2, 0)
    }

    /// Returns the time of a use. It is greater than every earlier one.
    pub(crate) fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a file that was just opened.
    pub(crate) fn count_file(&self, file: Arc<dyn File>) -> OpenedFile {
        Opened::new(file, None, &self.counts)
    }

    /// Counts a map that was just made.
    pub(crate) fn count_map(&self, map: Map) -> OpenedMap {
        let bytes = map.len() as u64;
        Opened::new(map, Some(bytes), &self.counts)
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
        // Close an eighth more than needed. Otherwise each file opened from here on would scan the
        // whole list.
        let enough = self.max - self.max / 8;
        let is_other = |other: &Arc<dyn Holder>| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(&holder));
        holders.release(is_other, || self.open() <= enough);
    }

    /// Returns whether another map of so many bytes may be made. Closes other maps for it. If false,
    /// the caller reads by position.
    pub(crate) fn has_room_for_map(&self, bytes: u64) -> bool {
        // A quarter is left for files: what maps take may be out of reach, see the head.
        let (maps, mapped) = (self.max - self.max / 4, self.mapped_max);
        if self.counts.has_room(maps, mapped, bytes) {
            return true;
        }
        let is_refused = self
            .refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok();
        if bytes > mapped || is_refused {
            return false;
        }
        // As in `make_room`, close an eighth more than needed.
        let has_plenty = || self.counts.has_room(maps - maps / 8, mapped - mapped / 8, bytes);
        let mut holders = self.holders.lock();
        holders.release(holds_map, has_plenty);
        if !has_plenty() {
            self.refusals.store(holders.list.len() / 8, Ordering::Relaxed);
        }
        self.counts.has_room(maps, mapped, bytes)
    }

    /// Closes maps, at least half of their bytes if that is possible, because the process has no room
    /// for another one. Returns false if there was none to close.
    pub(crate) fn close_maps(&self) -> bool {
        let mapped = || self.counts.mapped.load(Ordering::Relaxed);
        let before = mapped();
        self.holders.lock().release(holds_map, || mapped() <= before / 2) > 0
    }
}

impl Closer for FileBudget {
    fn close_some(&self) -> bool {
        let files = || self.counts.files.load(Ordering::Relaxed);
        let before = files();
        let enough = before.saturating_sub(1.max(before / 8));
        // A holder may have closed its file since it was looked at.
        self.holders.lock().release(|holder| holder.holds().files, || files() <= enough) > 0
    }

    fn open_and_max(&self) -> (usize, usize) {
        (self.open(), self.max)
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

    /// Closes the files and maps of holders that `may_release` returns true for, the least recently
    /// used first, until `is_enough` returns true. Returns how many holders it has closed.
    fn release(
        &mut self,
        may_release: impl Fn(&Arc<dyn Holder>) -> bool,
        is_enough: impl Fn() -> bool,
    ) -> usize {
        // A holder without open files registers again when it opens one. So the list is no longer
        // than the budget, however many segments there are.
        let is_open = |other: Arc<dyn Holder>| other.holds() != Holds::default() || other.forget();
        self.list.retain(|weak| weak.upgrade().is_some_and(is_open));
        let others = self.list.iter().filter_map(Weak::upgrade).filter(may_release);
        // Segments with unsynced bytes are closed last: see `BrokerConfig::max_open_files`.
        let mut others: Vec<_> = others.map(|other| (other.is_dirty(), other.last_used(), other)).collect();
        others.sort_unstable_by_key(|(is_dirty, last_used, _)| (*is_dirty, *last_used));
        let mut released = 0;
        for (_, _, victim) in others {
            if is_enough() {
                break;
            }
            victim.release();
            released += 1;
        }
        released
    }
}

fn holds_map(holder: &Arc<dyn Holder>) -> bool {
    holder.holds().maps
}

/// Half of the descriptors that the process may have, within bounds.
fn default_max(limits: &ProcessLimits) -> usize {
    let half = limits.descriptors.map(|all| (all / 2).clamp(FILES_MIN as u64, FILES_DEFAULT_MAX));
    half.and_then(|half| usize::try_from(half).ok()).unwrap_or(FILES_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::mem::MemStorage;
    use crate::storage::{OpenMode, Storage, write_all_at};
    use crate::sync::AtomicBool;

    fn budget(max: usize) -> FileBudget {
        FileBudget::new(Some(max), &ProcessLimits::default())
    }

    fn file() -> Arc<dyn File> {
        MemStorage::new().open(std::path::Path::new("file"), OpenMode::CreateNew).unwrap()
    }

    fn map(bytes: u64) -> Map {
        let file = file();
        write_all_at(&*file, &vec![7; bytes as usize], 0).unwrap();
        file.map(bytes).unwrap()
    }

    /// A segment that counts how often it is looked at.
    struct Segment {
        is_registered: AtomicBool,
        is_dirty: bool,
        last_used: u64,
        file: Mutex<Option<OpenedFile>>,
        map: Mutex<Option<Arc<OpenedMap>>>,
        looks: Arc<AtomicUsize>,
    }

    impl Segment {
        fn new(budget: &FileBudget, is_dirty: bool, looks: &Arc<AtomicUsize>) -> Arc<Self> {
            Arc::new(Segment {
                is_registered: AtomicBool::new(false),
                is_dirty,
                last_used: budget.tick(),
                file: Mutex::new(Rank::SegmentFile, None),
                map: Mutex::new(Rank::SegmentMap, None),
                looks: looks.clone(),
            })
        }

        fn open(self: &Arc<Self>, budget: &FileBudget, file: &Arc<dyn File>) {
            *self.file.lock() = Some(budget.count_file(file.clone()));
            budget.make_room(self.clone());
        }

        fn map(self: &Arc<Self>, budget: &FileBudget, bytes: u64) -> Arc<OpenedMap> {
            let map = Arc::new(budget.count_map(map(bytes)));
            *self.map.lock() = Some(map.clone());
            budget.make_room(self.clone());
            map
        }

        fn is_open(&self) -> bool {
            self.file.lock().is_some() || self.map.lock().is_some()
        }
    }

    impl Holder for Segment {
        fn register(&self) -> bool {
            !self.is_registered.swap(true, Ordering::Relaxed)
        }

        fn forget(&self) -> bool {
            self.is_registered.store(false, Ordering::Relaxed);
            false
        }

        fn holds(&self) -> Holds {
            self.looks.fetch_add(1, Ordering::Relaxed);
            let maps = self.map.lock().is_some();
            let files = self.file.lock().is_some();
            Holds { files, maps }
        }

        fn is_dirty(&self) -> bool {
            self.is_dirty
        }

        fn last_used(&self) -> u64 {
            self.last_used
        }

        fn release(&self) {
            *self.file.lock() = None;
            *self.map.lock() = None;
        }
    }

    #[test]
    fn holders_that_are_gone_leave_the_list_below_the_limit_too() {
        let (budget, looks) = (budget(1000), Arc::default());
        let kept: Vec<_> = (0..100).map(|_| Segment::new(&budget, false, &looks)).collect();
        kept.iter().for_each(|holder| budget.make_room(holder.clone()));
        for _ in 0..10_000 {
            budget.make_room(Segment::new(&budget, false, &looks));
            assert!(budget.holders.lock().list.len() <= 3 * kept.len());
        }
        let listed = budget.holders.lock().list.iter().filter(|weak| weak.strong_count() > 0).count();
        assert_eq!(listed, kept.len());
    }

    #[test]
    fn an_open_file_among_ten_thousand_costs_as_much_as_one_among_ten() {
        let cost = |max: usize, is_dirty: bool| {
            let (budget, looks, file) = (budget(max), Arc::default(), file());
            let segments: Vec<_> = (0..4 * max).map(|_| Segment::new(&budget, is_dirty, &looks)).collect();
            for segment in &segments {
                segment.open(&budget, &file);
                assert!(budget.open() <= max);
            }
            looks.load(Ordering::Relaxed) as f64 / segments.len() as f64
        };
        for is_dirty in [false, true] {
            let (few, many) = (cost(16, is_dirty), cost(10_000, is_dirty));
            assert!(many <= 12.0 && many <= 2.0 * few, "{few} looks among 16, {many} among 10,000");
        }
    }

    #[test]
    fn maps_that_cannot_be_closed_do_not_make_each_map_look_at_every_holder() {
        let (budget, looks, file) = (budget(4_000), Arc::default(), file());
        let files: Vec<_> = (0..900).map(|_| Segment::new(&budget, false, &looks)).collect();
        files.iter().for_each(|segment| segment.open(&budget, &file));
        let kept: Vec<_> = (0..3_000).map(|_| budget.count_map(map(1))).collect();
        looks.store(0, Ordering::Relaxed);
        for _ in 0..10_000 {
            assert!(!budget.has_room_for_map(1));
        }
        let looks = looks.load(Ordering::Relaxed);
        assert!(looks <= 10_000 * 20, "{looks} looks for 10,000 maps");
        drop(kept);
        assert!(budget.has_room_for_map(1) && files.iter().all(|file| file.is_open()));
    }

    #[test]
    fn the_least_recently_used_is_closed_first_and_one_with_unsynced_bytes_last() {
        let (budget, looks, file) = (budget(8), Arc::default(), file());
        let dirty = Segment::new(&budget, true, &looks);
        let clean: Vec<_> = (0..8).map(|_| Segment::new(&budget, false, &looks)).collect();
        dirty.open(&budget, &file);
        clean.iter().for_each(|segment| segment.open(&budget, &file));
        let open: Vec<_> = clean.iter().map(|segment| segment.is_open()).collect();
        assert_eq!(open, [false, false, true, true, true, true, true, true]);
        assert!(dirty.is_open() && budget.open() == 7);
    }

    #[test]
    fn maps_take_no_more_than_their_part_and_their_bytes_are_bounded() {
        let looks = Arc::default();
        let limits = ProcessLimits { descriptors: None, free_addresses: Some(200) };
        let budget = FileBudget::new(Some(16), &limits);
        assert!(!budget.has_room_for_map(101), "more than half of the free addresses");
        let segments: Vec<_> = (0..20).map(|_| Segment::new(&budget, false, &looks)).collect();
        for segment in &segments {
            assert!(budget.has_room_for_map(30));
            segment.map(&budget, 30);
            assert!(budget.counts.mapped.load(Ordering::Relaxed) <= 100);
        }
        segments.iter().for_each(|segment| segment.release());
        let kept: Vec<_> = (0..12).map(|_| segments[0].map(&budget, 1)).collect();
        assert!(!budget.has_room_for_map(1), "the user's records refer to them");
        assert_eq!((budget.open(), kept.len()), (12, 12));
        drop(kept);
        assert!(budget.has_room_for_map(1));
    }

    #[test]
    fn the_default_is_half_of_the_descriptors_of_the_process_within_bounds() {
        let max = |descriptors, wanted| {
            FileBudget::new(wanted, &ProcessLimits { descriptors, free_addresses: None }).max()
        };
        assert_eq!([1024, 10, 1 << 20].map(|all| max(Some(all), None)), [512, 8, 4096]);
        assert_eq!((max(None, None), max(Some(1024), Some(9))), (FILES_DEFAULT, 9));
    }
}
