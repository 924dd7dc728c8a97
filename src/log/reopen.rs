//! Reopens a log after a failed write or sync. The visible records are checked, written again and
//! synced; all records after them are truncated.

use super::Log;
use super::transitions::Truncation;
use super::truncate::{Kept, begin_epoch, find_kept};
use crate::engine::{Later, corrupt};
use crate::error::{Error, Result};
use crate::segment::copy::rewrite;
use crate::segment::{FIRST_BATCH, HeaderError, Point, Segment, Source, Walker, Window};
use crate::stats::{self, Event};
use crate::sync::Arc;
use crate::types::Offset;

/// The first batch that differs from the written one.
struct ChangedBatch {
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

/// Takes a poisoned partition back into service: the visible records are checked, written again and
/// synced, everything after them is truncated, the epoch rises, and appending continues in a new
/// segment. If the bytes of a visible batch can no longer be read, the log ends before that batch:
/// an event reports it, and readers get `Truncated`. Does nothing if the partition is not poisoned.
///
/// # Errors
/// An I/O error again: the partition stays poisoned.
pub(crate) fn reopen(log: &Log) -> Result<()> {
    reopen_with(log, || Ok(()))
}

/// As [`reopen`]. Calls `before` once the log ends at its new end, and before anything is appended
/// there.
///
/// # Errors
/// As [`reopen`], and the error of `before`.
pub(crate) fn reopen_with(log: &Log, before: impl FnOnce() -> Result<()>) -> Result<()> {
    let reopened = check_and_reopen(log, before);
    // Wake and report with no lock held.
    log.durability.commit.wake_waiting();
    log.ctx.events.deliver();
    // Also if no record is lost: the epoch is another one.
    log.waiters.signal();
    log.publish();
    if let Some(lost) = reopened? {
        log.ctx.events.report(&Event::TailTruncated(lost));
    }
    Ok(())
}

/// Returns the visible records that were truncated.
fn check_and_reopen(log: &Log, before: impl FnOnce() -> Result<()>) -> Result<Option<stats::TruncatedTail>> {
    let _later = Later::new();
    // A thread that commits now may be about to write a record that refers to batches that would be
    // truncated.
    let _alone = log.journal.alone();
    let _shape = log.list.lock_shape();
    if let Some(error) = log.health.ended().or_else(|| log.health.damage()) {
        return Err(error);
    }
    let Some(cause) = log.health.poison_cause() else { return Ok(None) };
    if log.journal.involves(&log.identity) {
        // A committed transaction may not be in the log yet: opening the broker writes it.
        return Err(log.identity.poisoned(&cause));
    }
    // No thread appends, because the log is poisoned, and after this no thread syncs: the ends do
    // not move. Must be called before the writer's lock is taken, because a running sync takes it
    // too.
    log.durability.commit.halt(Error::clone(&cause));
    let mut tip = log.writer.lock();
    let visible = log.visible_end();
    let durable = log.durability.point();
    let segments = log.segments();
    let unsynced = || segments.iter().filter(|s| s.is_dirty() && s.base < visible);
    unsynced().for_each(|segment| segment.release());
    // IMPORTANT: check before anything is written again. After a failed sync the page cache may
    // show the bytes on disk, which are older than the written ones.
    let changed = check_again(log, unsynced(), &durable, visible)?;
    let end = changed.as_ref().map_or(visible, |changed| changed.end);
    if let Some(changed) = changed.as_ref().filter(|changed| changed.end < log.log_start()) {
        // The log start moved there when all records before it were durable.
        return Err(corrupt(&log.ctx, &changed.segment.path, changed.position, changed.what));
    }
    // The end is between two batches.
    let Kept { segments: kept, last, .. } = find_kept(log, &tip, end)?;
    for segment in unsynced().filter(|segment| segment.base < end) {
        // The header of a successor may be lost too.
        let is_unnamed = log.manifest.is_unnamed(segment.id());
        let from = if is_unnamed { 0 } else { first_unsynced(segment, &durable) };
        let to = last.filter(|last| last.base == segment.base).map_or(segment.size(), |last| last.position);
        let file = segment.file(&log.ctx)?;
        rewrite(&log.ctx, &*file, &segment.path, from.min(to), to)?;
        segment.mark_synced();
    }
    log.durability.forget_inherited();
    // The names are durable before the manifest, because the new segment's is.
    log.manifest.note_named(&log.manifest.unnamed_before(Offset::MAX));
    // Before the epoch: a caller that finds its record truncated then gets the right error.
    log.health.note_reopening(log.epoch() + 1);
    let truncation = Truncation { kept, last, start: log.log_start(), end, common: end };
    begin_epoch(log, &mut tip, &truncation, None).map_err(|failed| failed.error)?;
    before()?;
    log.durability.commit.restart(end.get());
    log.health.heal();
    Ok(changed.map(|changed| truncation_report(log, changed, visible)))
}

/// Reads and checks the batches that a failed sync may have lost: those up to `visible` that the
/// durable point does not cover. Returns the first batch that differs from the written one, if
/// there is one.
///
/// # Errors
/// The header of a segment is damaged, which was durable; or an I/O error.
fn check_again<'a>(
    log: &Log,
    unsynced: impl Iterator<Item = &'a Arc<Segment>>,
    durable: &Point,
    visible: Offset,
) -> Result<Option<ChangedBatch>> {
    for segment in unsynced {
        let position = first_unsynced(segment, durable);
        let mut end = if position == FIRST_BATCH { segment.base } else { durable.end };
        match segment.check_header_again(&log.ctx, &log.identity) {
            Err(Error::Corrupt(_)) if log.manifest.is_unnamed(segment.id()) => {
                let what = "not its header";
                return Ok(Some(ChangedBatch { segment: segment.clone(), position: 0, end, what }));
            }
            checked => checked?,
        }
        let file = segment.file(&log.ctx)?;
        let source = Source::Window(Window::new(file, log.ctx.display(&segment.path)));
        let mut walk = Walker::new(&log.ctx, log.seed(), segment, source, position, segment.size());
        while end < visible {
            let position = walk.position;
            match check_batch(log, &mut walk, segment, end)? {
                Ok(Some(next)) => end = next,
                Ok(None) => break,
                Err(what) => return Ok(Some(ChangedBatch { segment: segment.clone(), position, end, what })),
            }
        }
    }
    Ok(None)
}

/// Returns the header of the batch that must be at a position and begin at `offset`, or the reason
/// why there is no such batch.
///
/// # Errors
/// An I/O error.
fn check_batch(
    log: &Log,
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
    if header.base_offset != offset || !log.manifest.get().fits_epoch(segment.epoch, &header) {
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
fn truncation_report(log: &Log, changed: ChangedBatch, visible: Offset) -> stats::TruncatedTail {
    let ChangedBatch { segment, position, end, what } = changed;
    stats::TruncatedTail {
        topic: log.topic().clone(),
        partition: log.partition(),
        file: log.ctx.display(&segment.path),
        position,
        bytes: segment.size().saturating_sub(position),
        reason: format!("a sync failed, and these are not the written bytes: {what}"),
        from: end,
        to: Some(visible),
        kept: None,
    }
}
