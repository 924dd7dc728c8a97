//! When is a record safe, and when may it be seen? Syncs shared by whoever waits, the ends that follow them, and the end of
//! all promises when a sync or a write has failed.

use std::task::{Poll, Waker};
use std::time::Duration;

use super::Log;
use crate::engine::Task;
use crate::error::{Error, Result};
use crate::stats::Event;
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

impl Log {
    /// Returns once everything below `end`, which was appended in `epoch`, is visible. Under `Sync` the caller syncs, or
    /// shares the sync of somebody who does.
    ///
    /// # Errors
    /// The sync failed, or the log ended before; `Truncated` if the records were cut off.
    pub(crate) fn wait_visible(&self, end: Offset, epoch: u32) -> Result<()> {
        if self.visible_end() < end {
            self.commit.wait(end.get(), || self.sync_written())?;
        }
        self.check_uncut(end, epoch)
    }

    /// Whether what was appended in `epoch` up to `end` is still in the log: it may have been cut off, and other records
    /// may have come in its place. Asked behind a look at an end: a cut stores its epoch behind the ends, and what is
    /// appended in place of what was cut comes behind that.
    fn check_uncut(&self, end: Offset, epoch: u32) -> Result<()> {
        if self.epoch() == epoch { Ok(()) } else { self.check_position(end, epoch) }
    }

    /// Whether something that was appended up to `epoch` may have been cut off by a reopen, which nobody asked to.
    pub(crate) fn may_have_lost(&self, epoch: u32) -> bool {
        self.reopened.load(Ordering::Acquire) > epoch
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
        self.commit.register(waker);
        // Looked at behind the registration: a sync that finished between is seen here, a later one wakes.
        if self.commit.durable() >= end.get() || self.visible_end() >= end {
            return Poll::Ready(self.check_uncut(end, epoch));
        }
        if let Err(cut_off) = self.check_uncut(end, epoch) {
            return Poll::Ready(Err(cut_off));
        }
        match self.commit.failure() {
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
        if self.is_damaged() {
            return Ok(());
        }
        let end = self.log_end.load(Ordering::Acquire);
        self.commit.wait(end, || self.sync_written())
    }

    /// The answer to an append that conflicts with what is there: whoever reads on after it is to find what it was about. If
    /// that cannot be made visible any more, the answer is why.
    pub(crate) fn answer_conflict(&self, conflict: Error) -> Error {
        let is_hidden = self.visible_end.load(Ordering::Acquire) < self.log_end.load(Ordering::Acquire);
        if is_hidden && self.sync().is_err() {
            return self.check_writable().err().unwrap_or(conflict);
        }
        conflict
    }

    /// The leader's part: syncs every segment with unsynced bytes, oldest first, and publishes what that made durable.
    pub(super) fn sync_written(&self) -> Result<u64> {
        let (point, journal_upto) = {
            let writer = self.writer.lock();
            (writer.point, writer.journal_upto)
        };
        self.syncs.fetch_add(1, Ordering::Relaxed);
        for segment in self.segments().iter().filter(|segment| segment.base < point.end) {
            segment.sync_if_dirty(&self.ctx).map_err(|e| self.poison(e))?;
        }
        if journal_upto > 0 {
            // IMPORTANT: before any of it is called durable. A batch of a transaction counts only with its record.
            self.journal.make_durable(journal_upto).map_err(|e| self.poison(e))?;
        }
        *self.durable_point.lock() = point;
        self.durable_end.fetch_max(point.end.get(), Ordering::AcqRel);
        self.visible_end.fetch_max(point.end.get(), Ordering::AcqRel);
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
        let mut poison = self.poison.lock();
        let first = poison.is_none();
        poison.get_or_insert_with(|| Arc::new(cause.clone()));
        self.refuses_appends.store(true, Ordering::Release);
        drop(poison);
        if first {
            self.ctx.event(&Event::Poisoned {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                cause: cause.clone(),
            });
        }
        cause
    }

    /// Asks the worker to make what was appended visible, if that takes a sync.
    pub(crate) fn request_sync(self: &Arc<Self>) {
        if self.visible_end.load(Ordering::Acquire) < self.log_end.load(Ordering::Acquire) {
            self.want_sync();
        }
    }

    /// Asks the worker to sync what was appended, and the journal as far as it speaks of it.
    pub(crate) fn want_sync(self: &Arc<Self>) {
        self.wants_sync.store(true, Ordering::Release);
        self.request_work();
    }

    /// Moves the visible end behind a batch that is durable by the journal, if it was written here too.
    pub(crate) fn publish_visible(&self, end: Offset) {
        let end = end.get().min(self.log_end.load(Ordering::Acquire));
        self.visible_end.fetch_max(end, Ordering::AcqRel);
        self.wake_readers();
    }

    pub(crate) fn request_work(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ctx.work.push(self.clone());
        }
    }

    /// Sees to it that what is appended now is synced within `every`.
    pub(crate) fn arm_interval(self: &Arc<Self>, every: Duration) {
        if !self.interval_armed.swap(true, Ordering::AcqRel) {
            let at = self.ctx.clock.monotonic().saturating_add(every);
            self.ctx.timer.schedule(at, Arc::new(IntervalSync(self.clone())));
        }
    }
}

/// The end of an [`Durability::Interval`].
struct IntervalSync(Arc<Log>);

impl Task for IntervalSync {
    fn run(self: Arc<Self>, _: Duration) {
        self.0.interval_armed.store(false, Ordering::Release);
        self.0.wants_sync.store(true, Ordering::Release);
        self.0.request_work();
    }
}
