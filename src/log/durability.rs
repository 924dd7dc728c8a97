//! When is a record safe, and when may it be seen? Syncs shared by whoever waits, the ends that follow them, and the end of
//! all promises when a sync or a write has failed.

use std::task::{Poll, Waker};
use std::time::Duration;

use super::Log;
use super::commit::GroupCommit;
use crate::engine::Task;
use crate::error::{Error, Result};
use crate::segment::Point;
use crate::stats::Event;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Rank};
use crate::types::Offset;

/// What a log knows of syncs.
pub(crate) struct SyncState {
    pub(super) commit: GroupCommit,
    /// The last point known to be on the medium, which the next checkpoint names.
    point: Mutex<Point>,
    /// The worker has been asked to call [`Work::work`](crate::engine::Work::work).
    queued: AtomicBool,
    /// A sync has been asked for.
    wanted: AtomicBool,
    interval_armed: AtomicBool,
}

impl SyncState {
    pub(super) fn new(point: Point) -> Self {
        SyncState {
            commit: GroupCommit::new(point.end.get()),
            point: Mutex::new(Rank::DurablePoint, point),
            queued: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            interval_armed: AtomicBool::new(false),
        }
    }

    pub(super) fn point(&self) -> Point {
        *self.point.lock()
    }

    pub(super) fn set_point(&self, point: Point) {
        *self.point.lock() = point;
    }

    /// The worker has come. Returns whether a sync was asked for.
    pub(super) fn take_request(&self) -> bool {
        self.queued.store(false, Ordering::Release);
        self.wanted.swap(false, Ordering::AcqRel)
    }
}

impl Log {
    /// Returns once everything below `end`, which was appended in `epoch`, is visible. Under `Sync` the caller syncs, or
    /// shares the sync of somebody who does.
    ///
    /// # Errors
    /// The sync failed, or the log ended before; `Truncated` if the records were cut off.
    pub(crate) fn wait_visible(&self, end: Offset, epoch: u32) -> Result<()> {
        if self.visible_end() < end {
            let synced = self.durability.commit.wait(end.get(), || self.sync_written());
            self.ctx.deliver();
            synced?;
        }
        self.check_uncut(end, epoch)
    }

    /// Whether what was appended in `epoch` up to `end` is still in the log: it may have been cut off, and other records
    /// may have come in its place. Asked behind a look at an end: a cut stores its epoch behind the ends, and what is
    /// appended in place of what was cut comes behind that.
    fn check_uncut(&self, end: Offset, epoch: u32) -> Result<()> {
        if self.epoch() == epoch { Ok(()) } else { self.check_position(end, epoch) }
    }

    /// As [`wait_visible`](Log::wait_visible) for a future: leaves the waker if it has to wait. Under a manual clock
    /// there is nobody else to sync, so it is done here.
    pub(crate) fn poll_visible(&self, end: Offset, epoch: u32, waker: &Waker) -> Poll<Result<()>> {
        if self.visible_end() >= end {
            return Poll::Ready(self.check_uncut(end, epoch));
        }
        if self.ctx.clock.is_manual() {
            return Poll::Ready(self.wait_visible(end, epoch));
        }
        self.durability.commit.register(waker);
        // Looked at behind the registration: a sync that finished between is seen here, a later one wakes.
        if self.durability.commit.durable() >= end.get() || self.visible_end() >= end {
            return Poll::Ready(self.check_uncut(end, epoch));
        }
        if let Err(cut_off) = self.check_uncut(end, epoch) {
            return Poll::Ready(Err(cut_off));
        }
        match self.durability.commit.failure() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }

    /// Sees to it that a record that is in the log can be read.
    ///
    /// # Errors
    /// As [`sync`](Log::sync).
    pub(crate) fn sync_to_see(&self, offset: Offset) -> Result<()> {
        if self.visible_end() > offset { Ok(()) } else { self.sync() }
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// The sync failed now or before: the partition is poisoned.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.health.is_damaged() {
            return Ok(());
        }
        let end = self.log_end();
        self.durability.commit.wait(end.get(), || self.sync_written())
    }

    /// The answer to an append that conflicts with what is there: whoever reads on after it is to find what it was about. If
    /// that cannot be made visible any more, the answer is why.
    pub(crate) fn answer_conflict(&self, conflict: Error) -> Error {
        if self.list.view().ends.hides_records() && self.sync().is_err() {
            return self.check_writable().err().unwrap_or(conflict);
        }
        conflict
    }

    /// The leader's part: syncs every segment with unsynced bytes, oldest first, and publishes what that made durable.
    pub(super) fn sync_written(&self) -> Result<u64> {
        let (point, journal_upto, ends) = {
            let tip = self.writer.lock();
            (tip.point, tip.journal_upto, tip.ends.clone())
        };
        self.counters.count_sync();
        for segment in self.segments().iter().filter(|segment| segment.base < point.end) {
            segment.sync_if_dirty(&self.ctx).map_err(|e| self.poison(e))?;
        }
        if journal_upto > 0 {
            // IMPORTANT: before any of it is called durable. A batch of a transaction counts only with its record.
            self.journal.make_durable(journal_upto).map_err(|e| self.poison(e))?;
        }
        self.durability.set_point(point);
        // No truncation comes in between: it takes the lead.
        ends.note_synced(point.end);
        self.wake_readers();
        Ok(point.end.get())
    }

    pub(crate) fn wake_readers(&self) {
        if self.ctx.parked.anybody() {
            self.waiters.signal();
        }
    }

    /// No more appends until [`reopen`](Log::reopen). Answers the error it was given, for the caller to pass on.
    pub(crate) fn poison(&self, cause: Error) -> Error {
        if self.health.poison(&cause) {
            self.ctx.event_later(Event::Poisoned {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                cause: cause.clone(),
            });
        }
        cause
    }

    /// Asks the worker to make what was appended visible, if that takes a sync.
    pub(crate) fn request_sync(self: &Arc<Self>) {
        if self.list.view().ends.hides_records() {
            self.want_sync();
        }
    }

    /// Asks the worker to sync what was appended, and the journal as far as it speaks of it.
    pub(crate) fn want_sync(self: &Arc<Self>) {
        self.durability.wanted.store(true, Ordering::Release);
        self.request_work();
    }

    /// Moves the visible end behind a batch that is durable by the journal, if it was written here too.
    pub(crate) fn publish_visible(&self, end: Offset) {
        self.list.view().ends.show(end);
        self.wake_readers();
    }

    pub(crate) fn request_work(self: &Arc<Self>) {
        if !self.durability.queued.swap(true, Ordering::AcqRel) {
            self.ctx.work.push(self.clone());
        }
    }

    /// Sees to it that what is appended now is synced within `every`.
    pub(crate) fn arm_interval(self: &Arc<Self>, every: Duration) {
        if !self.durability.interval_armed.swap(true, Ordering::AcqRel) {
            let at = self.ctx.clock.monotonic().saturating_add(every);
            self.ctx.timer.schedule(at, Arc::new(IntervalSync(self.clone())));
        }
    }
}

/// The end of an [`Durability::Interval`].
struct IntervalSync(Arc<Log>);

impl Task for IntervalSync {
    fn run(self: Arc<Self>, _: Duration) {
        self.0.durability.interval_armed.store(false, Ordering::Release);
        self.0.durability.wanted.store(true, Ordering::Release);
        self.0.request_work();
    }
}
