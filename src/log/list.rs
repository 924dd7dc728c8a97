//! The segments of a log, its start and its epoch, as one immutable value.
//!
//! The concurrency argument:
//! - A *view* is replaced as a whole, under the lock of `current`. A reader takes one and works
//!   with it: its segments, its start and its ends belong together.
//! - A *roll* and a *retention* publish a view of the same revision: records found through an older
//!   view are still there, except before the log start. Therefore a reader must check the log start
//!   again before it reports that a record is missing.
//! - A *replacement* (a truncation, a compaction, an accepted loss) shortens or empties segments
//!   that older views share. It raises the revision before that. A reader notes the revision,
//!   looks, and looks again if the revision has changed:
//!   [`Log::consistently`](super::Log::consistently). A reader that has seen a changed segment also
//!   sees the new revision.
//! - Segments leave the list only while the `shape` lock is held. New ones are added under the
//!   writer's lock.

use std::ops::Deref;
use std::path::Path;

use super::ends::Ends;
use super::maxima::Maxima;
use crate::format::manifest::Manifest;
use crate::segment::Segment;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering, Rank, RwLock};
use crate::types::Offset;

/// The segments of a log, oldest first; the last one is active. It derefs to the segments.
///
/// The other segments are sealed: their sizes and times change only by a replacement, which makes
/// another set. Therefore it has them added up and compared already.
pub(crate) struct SegmentSet {
    segments: Box<[Arc<Segment>]>,
    /// The bytes of all segments but the last.
    sealed_bytes: u64,
    /// The greatest times of all segments but the last: made by the first lookup, and continued by
    /// a roll.
    times: OnceLock<Maxima>,
}

pub(crate) type Segments = Arc<SegmentSet>;

/// The state of a log at one moment.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) epoch: u32,
    pub(crate) log_start: Offset,
    pub(crate) segments: Segments,
    /// Shared by all views since the last truncation.
    pub(crate) ends: Arc<Ends>,
}

/// The current view of a log, and the lock for changing it.
pub(crate) struct SegmentList {
    current: RwLock<Arc<View>>,
    /// Copies of the current view's numbers, for loads without the lock. Stored before the view
    /// that has them.
    revision: AtomicU64,
    epoch: AtomicU32,
    log_start: AtomicU64,
    /// Held by the thread that removes segments from the list. Appends and rolls continue.
    shape: Mutex<()>,
}

impl SegmentSet {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        let sealed = segments.iter().take(segments.len().saturating_sub(1));
        SegmentSet {
            sealed_bytes: sealed.map(|segment| segment.size()).sum(),
            times: OnceLock::new(),
            segments: segments.into(),
        }
    }

    /// Returns the set with one more segment. The last one must be sealed. Adds nothing up again.
    fn with(&self, segment: Arc<Segment>) -> Self {
        let last = self.segments.last();
        debug_assert!(last.is_none_or(|last| last.is_sealed()), "a segment follows a sealed one");
        let times = match (self.times.get(), last) {
            (Some(times), Some(last)) => OnceLock::from(times.with(time_of(last))),
            _ => OnceLock::new(),
        };
        SegmentSet {
            sealed_bytes: self.sealed_bytes + last.map_or(0, |last| last.size()),
            times,
            segments: self.segments.iter().cloned().chain([segment]).collect(),
        }
    }

    /// Returns the bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.sealed_bytes + self.segments.last().map_or(0, |last| last.size())
    }

    /// Returns the greatest times of all segments but the last, in milliseconds; `i64::MAX` of one
    /// whose time is not known.
    pub(crate) fn times(&self) -> &Maxima {
        let sealed = self.segments.len().saturating_sub(1);
        self.times.get_or_init(|| Maxima::of(self.segments.iter().take(sealed).map(time_of)))
    }
}

impl Deref for SegmentSet {
    type Target = [Arc<Segment>];

    fn deref(&self) -> &[Arc<Segment>] {
        &self.segments
    }
}

fn time_of(segment: &Arc<Segment>) -> i64 {
    segment.max_timestamp().map_or(i64::MAX, |time| time.as_millis())
}

impl SegmentList {
    pub(crate) fn new(epoch: u32, log_start: Offset, segments: Vec<Arc<Segment>>, ends: Ends) -> Self {
        let segments = Arc::new(SegmentSet::new(segments));
        let view = View { epoch, log_start, segments, ends: Arc::new(ends) };
        SegmentList {
            current: RwLock::new(Rank::View, Arc::new(view)),
            revision: AtomicU64::new(0),
            epoch: AtomicU32::new(epoch),
            log_start: AtomicU64::new(log_start.get()),
            shape: Mutex::new(Rank::Shape, ()),
        }
    }

    #[inline]
    pub(crate) fn view(&self) -> Arc<View> {
        self.current.read().clone()
    }

    #[inline]
    pub(crate) fn visible_end(&self) -> Offset {
        self.current.read().ends.visible()
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    /// Returns a number that changes with each replacement.
    #[inline]
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Takes the lock under which segments are removed from the list.
    pub(crate) fn lock_shape(&self) -> MutexGuard<'_, ()> {
        self.shape.lock()
    }

    /// Adds the new segment of a roll. The caller must hold the writer's lock.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        let mut current = self.current.write();
        let segments = Arc::new(current.segments.with(segment));
        *current = Arc::new(View { segments, ..View::clone(&current) });
    }

    /// Moves the log start, and removes the segments for which `is_gone` returns true. The caller
    /// must hold the shape lock.
    pub(crate) fn begin_at(&self, log_start: Offset, is_gone: impl Fn(&Segment) -> bool) {
        let mut current = self.current.write();
        let left = current.segments.iter().filter(|segment| !is_gone(segment)).cloned().collect();
        let segments = Arc::new(SegmentSet::new(left));
        // Store the log start before the shorter list: a reader that misses a segment then finds
        // the reason.
        self.log_start.store(log_start.get(), Ordering::Release);
        *current = Arc::new(View { log_start, segments, ..View::clone(&current) });
    }

    /// Replaces the view by one whose segments are those of the old one, without the oldest and with
    /// others after the newest: the revision stays. Used where an owner is followed.
    pub(crate) fn extend(&self, next: View) {
        let mut current = self.current.write();
        self.log_start.store(next.log_start.get(), Ordering::Release);
        *current = Arc::new(next);
    }

    /// Begins an epoch at the log's end. Must be called before the first reader.
    pub(crate) fn begin_epoch(&self, epoch: u32) {
        let mut current = self.current.write();
        self.epoch.store(epoch, Ordering::Release);
        *current = Arc::new(View { epoch, ..View::clone(&current) });
    }

    /// Replaces the view by the one that `change` returns, and raises the revision. The caller must
    /// hold the shape lock. `change` may shorten and empty segments of the old view; it must not
    /// wait for I/O.
    pub(crate) fn replace(&self, change: impl FnOnce(&View) -> View) -> Arc<View> {
        let mut current = self.current.write();
        // IMPORTANT: raise the revision before any segment changes. See the head of this file.
        self.revision.fetch_add(1, Ordering::AcqRel);
        let next = Arc::new(change(&current));
        self.epoch.store(next.epoch, Ordering::Release);
        self.log_start.store(next.log_start.get(), Ordering::Release);
        *current = next.clone();
        next
    }
}

/// Returns the segments of a manifest. Each has the end of the segment before it.
pub(crate) fn segments_of(dir: &Path, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let mut previous: Option<(Offset, u32)> = None;
    let mut segments = Vec::with_capacity(manifest.segments.len());
    for entry in &manifest.segments {
        // A reset leaves a gap, and a compacted file has another last batch. Then there is nothing
        // to compare.
        let follows = previous.filter(|(end, _)| *end == entry.base_offset && entry.generation == 0);
        segments.push(Arc::new(Segment::from_entry(dir, entry, follows)));
        previous = (entry.generation == 0).then_some((entry.end_offset, entry.last_crc));
    }
    segments
}
