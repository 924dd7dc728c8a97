//! The roll: the active segment of a log is sealed, and appending continues in a new one. The
//! caller holds the writer's lock.

use super::create::make_files;
use super::switch::NextSegment;
use super::writer::Tip;
use super::{Log, LogSettings, self_check, transitions};
use crate::config::Durability;
use crate::error::Result;
use crate::format::batch::BatchHeader;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::stats::Event;

/// Returns the most bytes on disk that an append of so many bytes takes, if it rolls.
pub(crate) fn bytes_to_append(log: &Log, stored: usize) -> u64 {
    (stored + SEGMENT_HEADER_BYTES) as u64 + log.deletion_bytes()
}

/// Seals the active segment and starts the next one if this batch requires it (Kafka's
/// `LogSegment.shouldRoll`). Before the first batch of all, makes the partition's files.
#[inline]
pub(crate) fn roll_if_due(
    log: &Log,
    tip: &mut Tip,
    header: &BatchHeader,
    stored: usize,
    settings: &LogSettings,
) -> Result<Option<Event>> {
    make_files(log, tip, settings)?;
    if tip.is_empty() {
        return Ok(None);
    }
    let point = &tip.point;
    let full = point.position + stored as u64 > u64::from(settings.segment_bytes);
    let spread = point.end.since(point.base) + u64::from(header.last_offset_delta) > i32::MAX as u64;
    let aged =
        point.first_timestamp.is_some_and(|first| header.max_timestamp > first.plus(settings.segment_age));
    if full || spread || aged { roll(log, tip, settings).map(Some) } else { Ok(None) }
}

/// Starts a new segment at the log's end. The old one is synced later, by the worker or by a
/// caller that waits for durability. Where no append waits for a sync, a roll waits for none either:
/// the new segment is a [successor](super::successors), which a later manifest lists.
///
/// # Errors
/// `DiskFull`, or another I/O error: the old segment stays active. If it is unknown which
/// manifest a restart finds, the partition is poisoned.
pub(crate) fn roll(log: &Log, tip: &mut Tip, settings: &LogSettings) -> Result<Event> {
    let (old, base) = (tip.point, tip.point.end);
    let next =
        NextSegment { base, generation: 0, epoch: log.epoch(), prev_end: base, prev_crc: old.last_crc };
    let (dir, may_wait) = (log.manifest.dir(), settings.durability == Durability::Sync);
    let is_announced = log.manifest.get().has_successors;
    let (segment, point) = if may_wait || !is_announced {
        let listed = next.begin(&log.ctx, &log.identity, dir)?.list(|next| {
            log.manifest.commit(&log.ctx, |manifest| {
                transitions::roll(manifest, &old, next);
                manifest.has_successors |= !may_wait;
            })
        });
        // If that is unknown, no more batches may be written to the old segment.
        listed.map_err(|failed| log.manifest_failed(failed))?
    } else {
        let begun = next.begin_unsynced(&log.ctx, &log.identity, dir)?;
        log.manifest.add_successor(&old, begun.entry);
        begun.follow()
    };
    tip.segment.seal(old.end, old.position, old.max_timestamp);
    log.list.push(segment.clone());
    *tip = Tip { journal_upto: tip.journal_upto, ..Tip::new(segment, point, tip.ends.clone()) };
    log.writer.size.forget();
    self_check::rolled(log, tip);
    Ok(Event::Rolled {
        topic: log.identity.topic.clone(),
        partition: log.identity.partition,
        base_offset: base,
    })
}
