//! Which segments does a log have, from which offset on, and in which epoch? One immutable value answers all of that.
//!
//! The concurrency argument:
//! - A *view* is replaced as a whole, under the lock of `current`. A reader takes one and works with it: its segments, its
//!   start and its ends belong together.
//! - A *roll* and a *retention* publish a view of the same revision: what a reader finds in an older view is still so, but
//!   for what lies before the log start. A reader therefore looks at the log start once more before it believes that a
//!   record is missing.
//! - A *replacement* (a truncation, a compaction, an accepted loss) changes segments that are in older views too: it shortens
//!   or empties them. It counts the revision before it does so. A reader notes the revision, looks, and looks again if it is
//!   another one: [`Log::consistently`](super::Log::consistently). If it has seen a change it sees the new revision too.
//! - Segments leave the list only while the `shape` lock is held. New ones are added under the writer's lock.

use super::ends::Ends;
use crate::segment::Segment;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, Rank, RwLock};
use crate::types::Offset;

/// The segments of a log, oldest first; the last one is active.
pub(crate) type Segments = Arc<[Arc<Segment>]>;

/// A log at one moment.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) epoch: u32,
    pub(crate) log_start: Offset,
    pub(crate) segments: Segments,
    /// Shared by the views of one epoch.
    pub(crate) ends: Arc<Ends>,
}

/// The current view of a log, and the right to change it.
pub(crate) struct SegmentList {
    current: RwLock<Arc<View>>,
    /// Those of the current view, for a look without the lock. Stored before the view that has them.
    revision: AtomicU64,
    epoch: AtomicU32,
    log_start: AtomicU64,
    /// Held by the thread that takes segments out of the list. Appends and rolls continue.
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

    /// A number that changes with each replacement.
    #[inline]
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The right to take segments out of the list.
    pub(crate) fn lock_shape(&self) -> MutexGuard<'_, ()> {
        self.shape.lock()
    }

    /// Adds the segment that a roll has begun. Under the writer's lock.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        let mut current = self.current.write();
        let segments = current.segments.iter().cloned().chain([segment]).collect();
        *current = Arc::new(View { segments, ..View::clone(&current) });
    }

    /// Moves the log start, without the segments that are `gone`. The shape lock is held.
    pub(crate) fn begin_at(&self, log_start: Offset, is_gone: impl Fn(&Segment) -> bool) {
        let mut current = self.current.write();
        let segments = current.segments.iter().filter(|segment| !is_gone(segment)).cloned().collect();
        // Before the shorter list: a reader that misses a segment sees why.
        self.log_start.store(log_start.get(), Ordering::Release);
        *current = Arc::new(View { log_start, segments, ..View::clone(&current) });
    }

    /// Begins an epoch at the log's end. Before any reader comes.
    pub(crate) fn begin_epoch(&self, epoch: u32) {
        let mut current = self.current.write();
        self.epoch.store(epoch, Ordering::Release);
        *current = Arc::new(View { epoch, ..View::clone(&current) });
    }

    /// Replaces the view by the one that `change` makes of it, with the next revision. The shape lock is held. `change` may
    /// shorten and empty segments of the old view; it must not wait for I/O.
    pub(crate) fn replace(&self, change: impl FnOnce(&View) -> View) -> Arc<View> {
        let mut current = self.current.write();
        // IMPORTANT: before any segment changes. See the head of this file.
        self.revision.fetch_add(1, Ordering::AcqRel);
        let next = Arc::new(change(&current));
        self.epoch.store(next.epoch, Ordering::Release);
        self.log_start.store(next.log_start.get(), Ordering::Release);
        *current = next.clone();
        next
    }
}
