//! Truncation: a log ends earlier than before, or continues at another offset. The manifest gives
//! the last kept segment a new end, the epoch rises, and appending continues in a new segment. No
//! file becomes shorter.
//!
//! A batch is never split on disk. If the truncation is inside a batch, the records before it are
//! written again into the new segment, before the manifest lists that segment.

use super::cursor::Cursor;
use super::ends::Ends;
use super::list::{SegmentSet, View};
use super::manifest::ManifestError;
use super::switch::{FirstBatch, NextSegment};
use super::transitions::Truncation;
use super::writer::Tip;
use super::{Log, create, idempotence, self_check, transitions};
use crate::engine::{Later, corrupt};
use crate::error::Result;
use crate::format::batch::{BatchHeader, HEADER_BYTES};
use crate::format::body;
use crate::format::packing::repack;
use crate::segment::{FIRST_BATCH, Point, Purpose, Segment};
use crate::stats::Event;
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// Truncates the log at `to`: records at or after it are no longer part of the log. Does nothing if
/// the log ends there or before.
///
/// # Errors
/// Out of range before the log start; the partition takes no appends; `Corrupt` if damage is in the
/// way; an I/O error: then nothing has changed, or the outcome is unknown and the partition is
/// poisoned.
pub(crate) fn truncate_to(log: &Arc<Log>, to: Offset) -> Result<()> {
    let _later = Later::new();
    // Dropped after the locks: it wakes waiting callers.
    let lead;
    // No record of the journal may refer to truncated batches.
    let alone = log.journal.forget(&log.identity)?;
    let shape = log.list.lock_shape();
    // No other thread syncs until this is dropped. Take it before the writer's lock, as every
    // leader does.
    lead = log.durability.commit.hold();
    log.check_writable()?;
    let start = log.log_start();
    if to < start {
        return Err(log.out_of_range(to));
    }
    if to >= log.log_end() {
        return Ok(());
    }
    // IMPORTANT: sync before the manifest marks the kept segments as synced.
    let synced = log.sync_written().inspect_err(|error| log.durability.commit.fail(error.clone()))?;
    if to.get() >= synced {
        return Ok(());
    }
    let mut tip = log.writer.lock();
    log.check_writable()?;
    let (truncation, rest) = if to == start {
        // No readable record is kept, even if the log starts inside a batch. The records before the
        // start contain the sequences of idempotent producers.
        idempotence::keep_producers(log, to, true)?;
        (Truncation { kept: 0, last: None, start, end: to, common: to }, None)
    } else {
        let Kept { segments, last, split } = find_kept(log, &tip, to)?;
        let rest = split.map(|header| shorten(log, &header, to)).transpose()?.flatten();
        (Truncation { kept: segments, last, start, end: to, common: to }, rest)
    };
    let event = truncate(log, &mut tip, &truncation, rest)?;
    drop((tip, shape, alone));
    drop(lead);
    log.waiters.signal();
    log.publish();
    log.ctx.events.report(&event);
    Ok(())
}

/// Drops every record and continues the log at any `offset`.
///
/// # Errors
/// Out of range if so few offsets would be left that they could run out; the partition takes no
/// appends; an I/O error: then nothing has changed, or the outcome is unknown and the partition is
/// poisoned.
pub(crate) fn reset_to(log: &Log, offset: Offset) -> Result<()> {
    if offset > MAX_RESET {
        return Err(log.out_of_range(offset));
    }
    let _later = Later::new();
    // Dropped after the locks: it wakes waiting callers.
    let lead;
    let alone = log.journal.forget(&log.identity)?;
    let shape = log.list.lock_shape();
    lead = log.durability.commit.hold();
    let mut tip = log.writer.lock();
    log.check_writable()?;
    create::make_files(log, &mut tip, &log.settings())?;
    // No old record stays, from the first one on, and no later offset was used before.
    let common = offset.min(log.log_start());
    let truncation = Truncation { kept: 0, last: None, start: offset, end: offset, common };
    let event = truncate(log, &mut tip, &truncation, None)?;
    drop((tip, shape, alone));
    drop(lead);
    log.waiters.signal();
    log.publish();
    log.ctx.events.report(&event);
    Ok(())
}

/// Performs a requested truncation. The caller must hold the shape lock and the group commit's
/// lead.
fn truncate(log: &Log, tip: &mut Tip, truncation: &Truncation, rest: Option<FirstBatch>) -> Result<Event> {
    begin_epoch(log, tip, truncation, rest).map_err(|failed| log.manifest_failed(failed))?;
    log.durability.commit.restart(truncation.end.get());
    Ok(Event::Truncated {
        topic: log.identity.topic.clone(),
        partition: log.identity.partition,
        to: truncation.end,
        epoch: log.epoch(),
    })
}

/// The records that a truncation keeps.
#[derive(Default)]
pub(super) struct Kept {
    /// The number of segments, from the oldest on.
    pub(super) segments: usize,
    /// The new end of the last of them, if it becomes shorter.
    pub(super) last: Option<Point>,
    /// The header of the batch that the truncation splits, if it does.
    split: Option<BatchHeader>,
}

/// Returns the records that are kept before `end`.
///
/// # Errors
/// `Corrupt` if damage is in the way, or an I/O error.
pub(super) fn find_kept(log: &Log, tip: &Tip, end: Offset) -> Result<Kept> {
    let segments = log.segments();
    let kept = segments.partition_point(|segment| segment.base < end);
    let Some(segment) = kept.checked_sub(1).and_then(|at| segments.get(at)) else {
        return Ok(Kept::default());
    };
    if segment.end().is_some_and(|at| at <= end) {
        return Ok(Kept { segments: kept, ..Kept::default() });
    }
    if Arc::ptr_eq(segment, &tip.segment) && tip.point.end <= end {
        return Ok(Kept { segments: kept, last: Some(tip.point), split: None });
    }
    let mut walk = segment.walk(&log.ctx, &log.identity)?;
    let mut point = Point::start_of(segment.base, segment.generation, segment.epoch, 0);
    let mut split = None;
    while point.end < end
        && let Some(met) = walk.step()?
    {
        if met.header.end_offset() > end {
            // It begins at or after `end`, or contains it.
            split = Some(met.header).filter(|header| header.base_offset < end);
            break;
        }
        point.pass(&met.header, met.crc);
    }
    let is_emptied = point.position == FIRST_BATCH;
    Ok(Kept { segments: kept - usize::from(is_emptied), last: Some(point).filter(|_| !is_emptied), split })
}

/// Returns the records before `to` of the batch with this header, as a batch; `None` if there are
/// none.
fn shorten(log: &Arc<Log>, header: &BatchHeader, to: Offset) -> Result<Option<FirstBatch>> {
    // An offset inside the batch, and not before the log start: a cursor finds the batch, and checks
    // it now, because the kept records get a new checksum.
    let within = Offset::new(to.get().saturating_sub(1)).max(log.log_start());
    let batch = match header.count {
        0 => None,
        _ => Cursor::new(log.clone(), within).reading_for(Purpose::Rewrite).next_batch()?,
    };
    let Some(batch) = batch.filter(|batch| batch.header.base_offset == header.base_offset) else {
        return Ok(None);
    };
    let mut header = batch.header;
    let kept = to.since(header.base_offset);
    let mut stored = vec![0; HEADER_BYTES];
    let (mut count, mut next, mut latest) = (0, 0, None::<Timestamp>);
    let records = body::RawRecords::new(batch.records.as_slice(), header.count);
    // They are valid, so none is left out.
    for record in records.map_while(std::result::Result::ok) {
        if u64::from(record.offset_delta) >= kept {
            break;
        }
        let stated = (record.offset_delta != next).then_some(record.offset_delta);
        body::encode_raw(&record, stated, record.timestamp_delta, &mut stored);
        latest = latest.max(Some(header.timestamp(record.timestamp_delta)));
        count += 1;
        next = record.offset_delta.saturating_add(1);
    }
    let Some(latest) = latest else { return Ok(None) };
    let Ok(owned) = u32::try_from(kept) else {
        let what = "a batch that owns more offsets than batches do";
        return Err(corrupt(&log.ctx, &batch.segment.path, 0, what));
    };
    repack(&mut header, count, log.settings().compression, &mut stored);
    let dropped = u64::from(header.last_offset_delta).saturating_sub(kept.saturating_sub(1));
    match header.attributes.given_sequences() {
        Some(true) => header.base_sequence = header.base_sequence.saturating_sub(dropped),
        // Only the caller knows the sequences of the kept records. IMPORTANT: remove the old
        // sequence. Otherwise records that are sent again would be taken for repetitions and lost.
        Some(false) => {
            (header.producer_id, header.producer_epoch, header.base_sequence) = (0, 0, 0);
            header.attributes = header.attributes.with_given_sequences(None);
        }
        None => {}
    }
    header.last_offset_delta = owned.saturating_sub(1);
    header.max_timestamp = latest;
    header.synced_upto = header.base_offset;
    Ok(Some(FirstBatch { header, stored }))
}

/// Ends the log as the truncation requires, raises the epoch, and continues in a new segment, whose
/// first batch is `rest`. The manifest is the commit point. The caller must hold the shape lock. It
/// must ensure that no thread syncs, and that all kept records are durable.
pub(super) fn begin_epoch(
    log: &Log,
    tip: &mut Tip,
    truncation: &Truncation,
    rest: Option<FirstBatch>,
) -> std::result::Result<(), ManifestError> {
    let segments = log.segments();
    let base = rest.as_ref().map_or(truncation.end, |rest| rest.header.base_offset);
    let next = next_after(log, &segments, truncation, base).map_err(ManifestError::unchanged)?;
    let begin = || next.begin(&log.ctx, &log.identity, log.manifest.dir());
    let mut unlisted = log.ctx.reserve.with_room(begin).map_err(ManifestError::unchanged)?;
    if let Some(rest) = rest {
        unlisted.write_first(&log.identity, rest).map_err(ManifestError::unchanged)?;
    }
    let mut synced = Vec::new();
    let (segment, point) = unlisted.list(|next| {
        log.manifest.commit_freeing(&log.ctx, |manifest| {
            synced = transitions::truncate(manifest, truncation, next);
            Ok(())
        })
    })?;
    // All kept records are durable. IMPORTANT: before the files of the others are removed, because
    // new ones may have their names.
    log.durability.forget_inherited();
    let (kept, gone) = segments.split_at(truncation.kept.min(segments.len()));
    let view = log.list.replace(|_| {
        log.tail.clear(&log.ctx);
        if let (Some(last), Some(shorter)) = (&truncation.last, kept.last()) {
            shorter.truncate(last.end, last.position, last.max_timestamp);
        }
        // A reader positioned in one of them continues in the new list.
        gone.iter().for_each(|segment| segment.empty());
        View {
            epoch: next.epoch,
            log_start: truncation.start,
            segments: Arc::new(SegmentSet::new(kept.iter().cloned().chain([segment.clone()]).collect())),
            ends: Arc::new(Ends::new(truncation.end)),
        }
    });
    log.durability.set_point(point);
    *tip = Tip::new(segment, point, view.ends.clone());
    for segment in kept.iter().filter(|segment| synced.contains(&segment.base)) {
        segment.mark_synced();
        if let Some(end) = segment.end() {
            segment.save_index(&log.ctx, &log.identity, segment.size(), end);
        }
    }
    gone.iter().for_each(|segment| segment.retire(&log.ctx));
    log.writer.size.forget();
    self_check::segments_changed(log, Some(tip));
    log.ctx.reserve.restore();
    Ok(())
}

/// Returns the segment that follows a truncation, at `base`.
fn next_after(
    log: &Log,
    segments: &[Arc<Segment>],
    truncation: &Truncation,
    base: Offset,
) -> Result<NextSegment> {
    // IMPORTANT: use a generation that no other thread has. A compaction may be writing a file with
    // this base offset now.
    let generation = match segments.iter().any(|segment| segment.base == base) {
        true => log.manifest.next_generation(&log.identity)?,
        false => 0,
    };
    let (prev_end, prev_crc) = match (&truncation.last, truncation.kept.checked_sub(1)) {
        (Some(last), _) => (last.end, last.last_crc),
        (None, Some(at)) => {
            let manifest = log.manifest.get();
            manifest.segments.get(at).map_or((base, 0), |entry| (entry.end_offset, entry.last_crc))
        }
        (None, None) => (base, 0),
    };
    Ok(NextSegment { base, generation, epoch: log.epoch() + 1, prev_end, prev_crc })
}

/// The greatest offset at which a log continues: half of all offsets are left.
const MAX_RESET: Offset = Offset::new(1 << 63);
