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

use std::path::Path;

use super::ends::Ends;
use crate::format::manifest::Manifest;
use crate::segment::Segment;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, Rank, RwLock};
use crate::types::Offset;

/// The segments of a log, oldest first; the last one is active.
pub(crate) type Segments = Arc<[Arc<Segment>]>;

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

impl SegmentList {
    pub(crate) fn new(epoch: u32, log_start: Offset, segments: Vec<Arc<Segment>>, end: Offset) -> Self {
        let view = View { epoch, log_start, segments: segments.into(), ends: Arc::new(Ends::new(end)) };
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
        let segments = current.segments.iter().cloned().chain([segment]).collect();
        *current = Arc::new(View { segments, ..View::clone(&current) });
    }

    /// Moves the log start, and removes the segments for which `is_gone` returns true. The caller
    /// must hold the shape lock.
    pub(crate) fn begin_at(&self, log_start: Offset, is_gone: impl Fn(&Segment) -> bool) {
        let mut current = self.current.write();
        let segments = current.segments.iter().filter(|segment| !is_gone(segment)).cloned().collect();
        // Store the log start before the shorter list: a reader that misses a segment then finds
        // the reason.
        self.log_start.store(log_start.get(), Ordering::Release);
        *current = Arc::new(View { log_start, segments, ..View::clone(&current) });
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
