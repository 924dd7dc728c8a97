//! The state of a log's syncs: the group commit, the last durable point, and the requests to the
//! worker and to the timer.

use super::commit::GroupCommit;
use super::inherited::Inherited;
use crate::engine::Events;
use crate::segment::Point;
use crate::sync::{Arc, AtomicBool, Mutex, MutexGuard, Ordering, Rank};

/// The state of a log's syncs.
pub(crate) struct SyncState {
    pub(crate) commit: GroupCommit,
    /// The last point known to be durable. The next checkpoint stores it.
    point: Mutex<Point>,
    /// The worker was asked to call [`Work::work`](crate::engine::Work::work).
    queued: AtomicBool,
    /// A sync was asked for.
    wanted: AtomicBool,
    interval_armed: AtomicBool,
    /// The bytes that the opening has checked, and that must be written again before a sync.
    inherited: Mutex<Vec<Inherited>>,
    has_inherited: AtomicBool,
}

impl SyncState {
    /// `point` is the last one known to be durable.
    pub(crate) fn new(point: Point, inherited: Vec<Inherited>, events: &Arc<Events>) -> Self {
        SyncState {
            commit: GroupCommit::new(point.end.get(), events),
            point: Mutex::new(Rank::DurablePoint, point),
            queued: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            interval_armed: AtomicBool::new(false),
            has_inherited: AtomicBool::new(!inherited.is_empty()),
            inherited: Mutex::new(Rank::Inherited, inherited),
        }
    }

    /// Returns whether bytes of the last run must be written again before a sync.
    #[inline]
    pub(crate) fn has_inherited(&self) -> bool {
        self.has_inherited.load(Ordering::Acquire)
    }

    /// Locks and returns these bytes.
    pub(crate) fn inherited(&self) -> MutexGuard<'_, Vec<Inherited>> {
        self.inherited.lock()
    }

    /// Notes that all of them were written again, or are no longer part of the log.
    pub(crate) fn forget_inherited(&self) {
        self.inherited.lock().clear();
        self.has_inherited.store(false, Ordering::Release);
    }

    pub(crate) fn point(&self) -> Point {
        *self.point.lock()
    }

    pub(crate) fn set_point(&self, point: Point) {
        *self.point.lock() = point;
    }

    /// Notes that the worker is about to be asked for work. Returns false if it was asked already.
    pub(crate) fn note_queued(&self) -> bool {
        !self.queued.swap(true, Ordering::AcqRel)
    }

    /// Asks for a sync by the worker, the next time it works.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Notes that a sync is scheduled. Returns false if one was scheduled already.
    pub(crate) fn arm_interval(&self) -> bool {
        !self.interval_armed.swap(true, Ordering::AcqRel)
    }

    /// Notes that the scheduled sync is about to run.
    pub(crate) fn disarm_interval(&self) {
        self.interval_armed.store(false, Ordering::Release);
    }

    /// Called when the worker starts. Returns whether a sync was asked for.
    pub(crate) fn take_request(&self) -> bool {
        self.queued.store(false, Ordering::Release);
        self.wanted.swap(false, Ordering::AcqRel)
    }
}
