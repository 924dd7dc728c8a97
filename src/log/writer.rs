//! The writer: its lock protects the position where appending continues. A thread must hold it to
//! append.

use super::ends::Ends;
use super::zeros::ZerosAhead;
use crate::format::batch::BatchHeader;
use crate::format::index::IndexEntry;
use crate::segment::keys::KeyCount;
use crate::segment::{FIRST_BATCH, Point, Segment, timestamp_or_unknown};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, Rank};

/// The lock of the writer, and a watch on the log's size.
pub(crate) struct Writer {
    tip: Mutex<Tip>,
    pub(crate) size: SizeWatch,
}

/// The end of a log, as the appending thread needs it.
pub(crate) struct Tip {
    /// The active segment.
    pub(crate) segment: Arc<Segment>,
    pub(crate) point: Point,
    /// The position of the last index entry.
    pub(crate) indexed: u64,
    /// The position up to which the journal must be durable before the appended records may be
    /// reported as durable.
    pub(crate) journal_upto: u64,
    /// The ends of the current view.
    pub(crate) ends: Arc<Ends>,
    /// The zeros after the point.
    pub(crate) zeros: ZerosAhead,
}

impl Tip {
    /// Returns the tip of a log whose active segment is new and has at most one batch.
    pub(crate) fn new(segment: Arc<Segment>, point: Point, ends: Arc<Ends>) -> Self {
        let zeros = ZerosAhead::new(point.position);
        Tip { segment, point, indexed: FIRST_BATCH, journal_upto: 0, ends, zeros }
    }

    /// Returns whether the active segment has no batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.point.position == FIRST_BATCH
    }

    /// Moves past a batch that was just written at the point. Adds an index entry if the last one
    /// is at least `index_interval` bytes before it.
    #[inline]
    pub(crate) fn pass(&mut self, header: &BatchHeader, crc: u32, keys: &[KeyCount], index_interval: u32) {
        let point = &mut self.point;
        if !keys.is_empty() {
            self.segment.note_keys(point.position, header.base_offset, keys);
        }
        if point.position - self.indexed >= u64::from(index_interval)
            && let (Ok(offset_delta), Ok(position)) =
                (u32::try_from(header.base_offset.since(point.base)), u32::try_from(point.position))
        {
            let max_before = timestamp_or_unknown(point.max_timestamp);
            self.segment.add_index_entry(IndexEntry { offset_delta, position, max_before });
            self.indexed = point.position;
        }
        point.pass(header, crc);
        self.segment.grow(point.position, point.max_timestamp);
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

    /// As [`lock`](Writer::lock), for a transaction. Another one holds the writers for a few writes,
    /// which takes less time than to put a thread to sleep and to wake it: so it yields first.
    pub(crate) fn lock_for_transaction(&self) -> MutexGuard<'_, Tip> {
        self.tip.lock_after_yields(YIELDS)
    }
}

/// How often a thread yields at most before it sleeps: for some 10 microseconds.
const YIELDS: usize = 32;

/// Notices when the log becomes larger than retention by size allows.
#[derive(Default)]
pub(crate) struct SizeWatch {
    /// The size of the active segment from which on retention by size may delete a segment. 0 if
    /// not known.
    limit: AtomicU64,
    /// An append has reached the limit.
    is_over: AtomicBool,
}

impl SizeWatch {
    /// Notes the size of the active segment.
    #[inline]
    pub(crate) fn note(&self, size: u64) {
        if size >= self.limit.load(Ordering::Relaxed) {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether the limit was reached since the last call. Costs one load if it was not.
    pub(crate) fn take_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) && self.is_over.swap(false, Ordering::AcqRel)
    }

    /// Forgets the limit, because the segments have changed. The next append computes it again.
    pub(crate) fn forget(&self) {
        self.limit.store(0, Ordering::Relaxed);
    }

    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}
