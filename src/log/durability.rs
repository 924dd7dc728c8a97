//! Durability and visibility of records: syncs that waiting callers share, and the ends that move
//! after them.

use std::task::{Poll, Waker};
use std::time::Duration;

use super::Log;
use super::ahead::write_zeros_ahead;
use super::ends::Ends;
use super::list::View;
use super::successors::{self, write_inherited};
use crate::engine::{Context, Task};
use crate::error::{Error, Result};
use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::Offset;

impl Log {
    /// Returns once all records before `end`, appended in `epoch`, are visible. Under `Sync` the
    /// caller syncs, or shares the sync of another thread.
    ///
    /// # Errors
    /// The sync failed, or the log ended before; `Truncated` if the records were truncated.
    pub(crate) fn wait_visible(&self, end: Offset, epoch: u32) -> Result<()> {
        if self.visible_end() < end {
            let synced = self.durability.commit.wait(end.get(), || self.sync_written());
            self.ctx.events.deliver();
            synced?;
        }
        self.check_not_truncated(end, epoch)
    }

    /// Checks whether the records appended in `epoch` up to `end` are still in the log: they may
    /// have been truncated, and other records may have their offsets. Must be called after an end
    /// was loaded: a truncation stores its epoch after the ends, and later records are appended
    /// after that.
    fn check_not_truncated(&self, end: Offset, epoch: u32) -> Result<()> {
        if self.epoch() == epoch { Ok(()) } else { self.check_position(end, epoch) }
    }

    /// As [`wait_visible`](Log::wait_visible) for a future: registers the waker if it must wait.
    /// Under a manual clock no other thread syncs, so this call does.
    pub(crate) fn poll_visible(&self, end: Offset, epoch: u32, waker: &Waker) -> Poll<Result<()>> {
        if self.visible_end() >= end {
            return Poll::Ready(self.check_not_truncated(end, epoch));
        }
        if self.ctx.clock.is_manual() {
            return Poll::Ready(self.wait_visible(end, epoch));
        }
        self.durability.commit.register(waker);
        // Check after the registration: a sync that finished in between is seen here, a later one
        // wakes.
        if self.durability.commit.durable() >= end.get() || self.visible_end() >= end {
            return Poll::Ready(self.check_not_truncated(end, epoch));
        }
        if let Err(truncated) = self.check_not_truncated(end, epoch) {
            return Poll::Ready(Err(truncated));
        }
        match self.durability.commit.failure() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }

    /// Makes all records appended so far durable.
    ///
    /// # Errors
    /// The sync failed, now or before: the partition is poisoned. Or the process has no descriptor
    /// for it: a later sync may succeed.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.health.is_damaged() {
            return Ok(());
        }
        let end = self.log_end();
        self.durability.commit.wait(end.get(), || self.sync_written())
    }

    /// The leader's part: syncs every segment with unsynced bytes, oldest first, and moves the
    /// ends.
    pub(super) fn sync_written(&self) -> Result<u64> {
        #[cfg(feature = "metrics")]
        let started = self.ctx.clock.monotonic();
        let (point, journal_upto, ends) = {
            let mut tip = self.writer.lock();
            write_zeros_ahead(self, &mut tip);
            (tip.point, tip.journal_upto, tip.ends.clone())
        };
        self.counters.count_sync();
        let unnamed = self.manifest.unnamed_before(point.end);
        write_inherited(self)?;
        for segment in unvisited(&self.segments(), &ends).iter().filter(|segment| segment.base < point.end) {
            segment.sync_if_dirty(&self.ctx).map_err(|e| self.sync_failed(e))?;
        }
        if !unnamed.is_empty() {
            // IMPORTANT: before the records are reported as durable.
            successors::name(self, &unnamed)?;
            successors::list_named(self)?;
        }
        if journal_upto > 0 {
            // IMPORTANT: sync the journal before the records are reported as durable. A batch of a
            // transaction counts only with its record.
            self.journal.make_durable(journal_upto).map_err(|e| self.sync_failed(e))?;
        }
        #[cfg(feature = "metrics")]
        self.counters.count_sync_time(self.ctx.clock.monotonic().saturating_sub(started));
        self.durability.set_point(point);
        // No truncation runs in between, because it takes the lead.
        if ends.note_synced(point.end) {
            self.wake_readers();
        }
        Ok(point.end.get())
    }

    /// Handles a failed sync: poisons the partition, because the state of its bytes is unknown, unless
    /// the process had no descriptor for the sync. Then it was not tried, and may be tried again.
    pub(crate) fn sync_failed(&self, error: Error) -> Error {
        if error.is_no_descriptor() { error } else { self.poison(error) }
    }

    /// Asks the worker to make all appended records visible, if that takes a sync.
    pub(crate) fn request_sync(self: &Arc<Self>) {
        if self.list.view().ends.hides_records() {
            want_sync(self);
        }
    }
}

/// Syncs those of the logs that have records to sync, if they are enough for several threads. The
/// result of each is that of its own [`Log::sync`], which the caller must call in any case.
pub(crate) fn sync_ahead<'a>(ctx: &Context, logs: impl Iterator<Item = &'a Arc<Log>>) {
    let unsynced: Vec<&Arc<Log>> =
        logs.filter(|log| log.durability.commit.durable() < log.log_end().get()).collect();
    ctx.in_parallel(&unsynced, |log| drop(log.sync()));
}

/// Ensures that a record of the log can be read.
///
/// # Errors
/// As [`sync`](Log::sync).
pub(crate) fn sync_to_see(log: &Log, offset: Offset) -> Result<()> {
    if log.visible_end() > offset { Ok(()) } else { log.sync() }
}

/// Returns the error of an append that conflicts with existing records. Makes those records
/// visible first, so that a caller that reads on after the error finds them. If that fails,
/// returns the reason instead.
pub(crate) fn resolve_conflict(log: &Log, conflict: Error) -> Error {
    if log.list.view().ends.hides_records() && log.sync().is_err() {
        return log.check_writable().err().unwrap_or(conflict);
    }
    conflict
}

/// Returns the segments that may have bytes that are not durable: those after the end that the last
/// sync has come to. So a sync costs the same in a log of few segments and in one of many.
fn unvisited<'a>(segments: &'a [Arc<Segment>], ends: &Ends) -> &'a [Arc<Segment>] {
    let visited = ends.visited();
    let done = segments.partition_point(|segment| segment.end().is_some_and(|end| end <= visited));
    let (done, rest) = segments.split_at(done);
    debug_assert!(done.iter().all(|segment| !segment.is_dirty()), "the last sync has passed over no segment");
    rest
}

/// Asks the worker to sync the appended records, and the journal up to their transactions.
pub(crate) fn want_sync(log: &Arc<Log>) {
    log.durability.want();
    log.request_work();
}

/// Asks the worker to sync what the opening has left unsynced.
pub(crate) fn sync_inherited(log: &Arc<Log>) {
    if log.durability.has_inherited() {
        want_sync(log);
    }
}

/// Syncs the records before an offset, without moving the durable end.
///
/// # Errors
/// An I/O error: the partition is poisoned.
pub(crate) fn sync_before(log: &Log, before: Offset) -> Result<()> {
    let view = log.list.view();
    if view.ends.is_safe_before(before) { Ok(()) } else { sync_view(log, &view, before) }
}

/// Syncs all records in their segments, also those that are durable in the journal, without moving
/// the durable end.
///
/// # Errors
/// An I/O error: the partition is poisoned.
pub(crate) fn sync_segments(log: &Log) -> Result<()> {
    sync_view(log, &log.list.view(), Offset::MAX)
}

fn sync_view(log: &Log, view: &View, before: Offset) -> Result<()> {
    let failed = match log.durability.commit.failure() {
        Some(error) => error,
        None => {
            let unnamed = log.manifest.unnamed_before(before);
            let segments = unvisited(&view.segments, &view.ends).iter();
            let mut segments = segments.filter(|segment| segment.base < before);
            let synced = write_inherited(log)
                .and_then(|()| segments.try_for_each(|segment| segment.sync_if_dirty(&log.ctx)))
                .and_then(|()| successors::name(log, &unnamed));
            match synced {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        }
    };
    // Transactions of a deleted log need not be complete.
    if log.health.is_deleted() { Ok(()) } else { Err(log.sync_failed(failed)) }
}

/// Notes that all records before `end` are durable, in a segment or in the journal. Records of
/// the journal are written again, in their order, if the segment loses them.
pub(crate) fn cover(log: &Log, end: Offset) {
    log.list.view().ends.note_covered(end);
}

/// Moves the visible end to the end of a batch that is durable in the journal, if the batch was
/// written to the log too.
pub(crate) fn show(log: &Log, end: Offset) {
    log.list.view().ends.show(end);
    log.wake_readers();
}

/// Schedules a sync of all records appended so far within `every`.
pub(crate) fn arm_interval(log: &Arc<Log>, every: Duration) {
    if log.durability.arm_interval() {
        let at = log.ctx.clock.monotonic().saturating_add(every);
        log.ctx.timer.schedule(at, Arc::new(IntervalSync(log.clone())));
    }
}

/// The timer task of [`Durability::Interval`].
struct IntervalSync(Arc<Log>);

impl Task for IntervalSync {
    fn run(self: Arc<Self>, _: Duration) {
        self.0.durability.disarm_interval();
        want_sync(&self.0);
    }
}
