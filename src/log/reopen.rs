//! Reopens a log after a failed write or sync. The visible records are checked, written again and
//! synced; all records after them are truncated.

use super::Log;
use super::transitions::Truncation;
use crate::engine::corrupt;
use crate::error::{Error, Result};
use crate::segment::copy::rewrite;
use crate::segment::{FIRST_BATCH, HeaderError, Point, Segment, Source, Walker, Window};
use crate::stats::{self, Event};
use crate::sync::Arc;
use crate::types::Offset;

/// The first batch that differs from the written one.
struct Broken {
    segment: Arc<Segment>,
    position: u64,
    /// The end of the batches before it.
    end: Offset,
    what: &'static str,
}

/// Returns the position from which on a segment must be synced again.
fn first_unsynced(segment: &Segment, durable: &Point) -> u64 {
    let is_its = (segment.base, segment.generation) == (durable.base, durable.generation);
    if is_its { durable.position } else { FIRST_BATCH }
}

impl Log {
    /// Takes a poisoned partition back into service: the visible records are checked, written again
    /// and synced, everything after them is truncated, the epoch rises, and appending continues in
    /// a new segment. If the bytes of a visible batch can no longer be read, the log ends before
    /// that batch: an event reports it, and readers get `Truncated`. Does nothing if the partition
    /// is not poisoned.
    ///
    /// # Errors
    /// An I/O error again: the partition stays poisoned.
    pub(crate) fn reopen(&self) -> Result<()> {
        self.reopen_with(|| Ok(()))
    }

    /// As [`reopen`](Log::reopen). Calls `before` once the log ends at its new end, and before
    /// anything is appended there.
    ///
    /// # Errors
    /// As [`reopen`](Log::reopen), and the error of `before`.
    pub(crate) fn reopen_with(&self, before: impl FnOnce() -> Result<()>) -> Result<()> {
        let reopened = self.check_and_reopen(before);
        // Wake and report with no lock held.
        self.durability.commit.wake_waiting();
        self.ctx.events.deliver();
        if let Some(tail) = reopened? {
            self.waiters.signal();
            self.ctx.events.report(&Event::TailTruncated(tail));
        }
        Ok(())
    }

    /// Returns the visible records that were truncated.
    fn check_and_reopen(&self, before: impl FnOnce() -> Result<()>) -> Result<Option<stats::TruncatedTail>> {
        // A thread that commits now may be about to write a record that refers to batches that
        // would be truncated.
        let _alone = self.journal.alone();
        let _shape = self.list.lock_shape();
        if let Some(error) = self.health.ended().or_else(|| self.health.damage()) {
            return Err(error);
        }
        let Some(cause) = self.health.poison_cause() else { return Ok(None) };
        if self.journal.involves(&self.identity) {
            // A committed transaction may not be in the log yet: opening the broker writes it.
            return Err(self.identity.poisoned(&cause));
        }
        // No thread appends, because the log is poisoned, and after this no thread syncs: the ends
        // do not move. Must be called before the writer's lock is taken, because a running sync
        // takes it too.
        self.durability.commit.halt(Error::clone(&cause));
        let mut tip = self.writer.lock();
        let visible = self.visible_end();
        let durable = self.durability.point();
        let segments = self.segments();
        let unsynced = || segments.iter().filter(|s| s.is_dirty() && s.base < visible);
        unsynced().for_each(|segment| segment.release());
        // IMPORTANT: check before anything is written again. After a failed sync the page cache may
        // show the bytes on disk, which are older than the written ones.
        let broken = self.check_again(unsynced(), &durable, visible)?;
        let end = broken.as_ref().map_or(visible, |broken| broken.end);
        if let Some(broken) = broken.as_ref().filter(|broken| broken.end < self.log_start()) {
            // The log start moved there when all records before it were durable.
            return Err(corrupt(&self.ctx, &broken.segment.path, broken.position, broken.what));
        }
        // The end is between two batches.
        let (kept, last, _) = self.find_truncation(&tip, end)?;
        for segment in unsynced().filter(|segment| segment.base < end) {
            let from = first_unsynced(segment, &durable);
            let to =
                last.filter(|last| last.base == segment.base).map_or(segment.size(), |last| last.position);
            let file = segment.file(&self.ctx)?;
            rewrite(&self.ctx, &*file, &segment.path, from.min(to), to)?;
            segment.mark_synced();
        }
        // Before the epoch: a caller that finds its record truncated then gets the right error.
        self.health.note_reopening(self.epoch() + 1);
        let cut = Truncation { kept, last, start: self.log_start(), end, common: end };
        self.begin_epoch_at(&mut tip, &cut, None).map_err(|failed| failed.error)?;
        before()?;
        self.durability.commit.restart(end.get());
        self.health.heal();
        Ok(broken.map(|broken| self.truncation_report(broken, visible)))
    }

    /// Reads and checks the batches that a failed sync may have lost: those up to `visible` that
    /// the durable point does not cover. Returns the first batch that differs from the written one,
    /// if there is one.
    ///
    /// # Errors
    /// The header of a segment is damaged, which was durable; or an I/O error.
    fn check_again<'a>(
        &self,
        unsynced: impl Iterator<Item = &'a Arc<Segment>>,
        durable: &Point,
        visible: Offset,
    ) -> Result<Option<Broken>> {
        for segment in unsynced {
            let position = first_unsynced(segment, durable);
            let mut end = if position == FIRST_BATCH { segment.base } else { durable.end };
            segment.check_header_again(&self.ctx, &self.identity)?;
            let file = segment.file(&self.ctx)?;
            let source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
            let mut walk = Walker::new(&self.ctx, self.seed, segment, source, position, segment.size());
            while end < visible {
                let position = walk.position;
                match self.check_batch(&mut walk, segment, end)? {
                    Ok(Some(next)) => end = next,
                    Ok(None) => break,
                    Err(what) => return Ok(Some(Broken { segment: segment.clone(), position, end, what })),
                }
            }
        }
        Ok(None)
    }

    /// Returns the header of the batch that must be at a position and begin at `offset`, or the
    /// reason why there is no such batch.
    ///
    /// # Errors
    /// An I/O error.
    fn check_batch(
        &self,
        walk: &mut Walker<'_>,
        segment: &Segment,
        offset: Offset,
    ) -> Result<std::result::Result<Option<Offset>, &'static str>> {
        let met = match walk.look() {
            Ok(Some(met)) => met,
            Ok(None) => return Ok(Ok(None)),
            Err(HeaderError::Io(error)) => return Err(error),
            Err(HeaderError::Malformed(m)) => return Ok(Err(m.what)),
        };
        let header = met.header;
        if header.base_offset != offset || !self.manifest.get().fits_epoch(segment.epoch, &header) {
            return Ok(Err("another batch"));
        }
        if met.next_position() > walk.until {
            return Ok(Err("a longer batch"));
        }
        if let Err(what) = walk.body(&met)? {
            return Ok(Err(what));
        }
        walk.pass(&met);
        Ok(Ok(Some(header.end_offset())))
    }

    /// Returns the report of visible records that are lost.
    fn truncation_report(&self, broken: Broken, visible: Offset) -> stats::TruncatedTail {
        let Broken { segment, position, end, what } = broken;
        stats::TruncatedTail {
            topic: self.topic().clone(),
            partition: self.partition(),
            file: self.ctx.display(&segment.path),
            position,
            bytes: segment.size().saturating_sub(position),
            reason: format!("a sync failed, and these are not the written bytes: {what}"),
            from: end,
            to: Some(visible),
            kept: None,
        }
    }
}
