//! Where does appending continue? The writer's lock protects that place; a thread that holds it appends.

use super::ends::Ends;
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, Rank};

/// The right to append, and the place.
pub(crate) struct Writer {
    tip: Mutex<Tip>,
    pub(crate) size: SizeWatch,
}

/// The end of a log, for the thread that appends there.
pub(crate) struct Tip {
    /// The active segment.
    pub(crate) segment: Arc<Segment>,
    pub(crate) point: Point,
    /// The position that the last index entry names.
    pub(crate) indexed: u64,
    /// Up to where the journal must be durable before the records that were appended may be called so.
    pub(crate) journal_upto: u64,
    /// Those of the current view.
    pub(crate) ends: Arc<Ends>,
}

impl Tip {
    /// The tip of a log whose active segment has just begun, perhaps with one batch.
    pub(crate) fn new(segment: Arc<Segment>, point: Point, ends: Arc<Ends>) -> Self {
        Tip { segment, point, indexed: FIRST_BATCH, journal_upto: 0, ends }
    }

    /// Whether the active segment holds no batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.point.position == FIRST_BATCH
    }
}

impl Writer {
    pub(crate) fn new(segment: Arc<Segment>, point: Point, ends: Arc<Ends>) -> Self {
        let tip = Tip { indexed: point.position, ..Tip::new(segment, point, ends) };
        Writer { tip: Mutex::new(Rank::Writer, tip), size: SizeWatch::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tip> {
        self.tip.lock()
    }
}

/// Notices that the log has become larger than retention by size keeps.
#[derive(Default)]
pub(crate) struct SizeWatch {
    /// From this size of the active segment on, retention by size may delete something. 0: not known.
    limit: AtomicU64,
    /// An append has reached it.
    is_over: AtomicBool,
}

impl SizeWatch {
    /// The active segment has so many bytes now.
    #[inline]
    pub(crate) fn note(&self, size: u64) {
        if size >= self.limit.load(Ordering::Relaxed) {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the limit was reached since the last call. Costs one load if it was not.
    pub(crate) fn take_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) && self.is_over.swap(false, Ordering::AcqRel)
    }

    /// The segments have changed: the next append looks.
    pub(crate) fn forget(&self) {
        self.limit.store(0, Ordering::Relaxed);
    }

    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}
