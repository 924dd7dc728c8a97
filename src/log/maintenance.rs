//! Maintenance of a log: functions of its state and the time, called by the worker, by `maintain`,
//! or by a test.

use std::time::Duration;

use super::transitions::id_of;
use super::writer::Tip;
use super::{Log, idempotence, retention, roll, successors, transitions};
use crate::engine::Work;
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::SegmentState;
use crate::segment::{Point, Segment, timestamp_or_unknown};
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

impl Work for Log {
    /// Syncs if that was asked for, and finishes sealed segments. An error poisons the log, and
    /// every later append reports it.
    fn work(&self) {
        if self.durability.take_request()
            && let Err(error) = self.sync()
        {
            if error.is_no_descriptor() {
                // The next call tries again, at the latest that of maintenance.
                self.durability.want();
            }
            // A caller may wait for a transaction. Its records may be durable in the journal
            // nevertheless; otherwise it must get the error.
            let upto = self.writer.lock().journal_upto;
            let _ = self.journal.make_durable(upto);
        }
        finish_sealed(self);
        self.ctx.events.deliver();
    }
}

/// Rolls a segment that is too old, even if no records are appended, because only sealed segments
/// can be deleted or compacted. Then deletes the records that retention may delete, none at or
/// after `hold` for its age or size, and finishes the sealed segments.
pub(crate) fn maintain(log: &Arc<Log>, hold: Offset) {
    #[cfg(feature = "metrics")]
    log.ctx.events.observe(|| crate::engine::observe::grown(&log.identity, &log.counters.grown()));
    let settings = log.settings();
    let mut tip = log.writer.lock();
    if log.check_writable().is_ok() && is_aged(log, &tip, settings.segment_age) {
        // An error leaves the segment unchanged or poisons the log; then the next append reports
        // it.
        let rolled = roll::roll(log, &mut tip, &settings).ok();
        drop(tip);
        if let Some(event) = rolled {
            log.ctx.events.report(&event);
        }
    } else {
        drop(tip);
    }
    retention::delete_expired(log, hold);
    log.work();
    if settings.streams && !log.health.is_damaged() {
        // Segments whose key index could not be written, or that a truncation has sealed.
        let visible = log.visible_end();
        let is_whole = |segment: &&Arc<Segment>| segment.end().is_some_and(|end| end <= visible);
        for segment in log.segments().iter().filter(is_whole).filter(|segment| segment.holds_keys()) {
            segment.save_keys(&log.ctx, &log.identity);
        }
    }
}

/// Returns whether the active segment has a record, and both its first record and its file are
/// older than `age` by the wall clock.
///
/// IMPORTANT: the record's timestamp alone is not enough. A mirror or an import appends records
/// with old timestamps, and each of these calls would roll.
fn is_aged(log: &Log, tip: &Tip, age: Duration) -> bool {
    let now = log.ctx.clock.now();
    let is_old = |time: Timestamp| now > time.plus(age);
    !tip.is_empty()
        && tip.point.first_timestamp.is_some_and(is_old)
        && tip.segment.created_at(&log.ctx, &log.identity).is_ok_and(is_old)
}

/// Syncs sealed segments, writes their indexes and the state of idempotent producers, and marks the
/// segments as synced in the manifest, so that the next opening does not read them.
pub(crate) fn finish_sealed(log: &Log) {
    // IMPORTANT: never mark segments of a damaged log as synced. The next opening skips synced
    // segments and would not report the damage.
    if log.health.is_damaged() {
        return;
    }
    let segments = log.segments();
    let pending: Vec<_> = {
        let manifest = log.manifest.get();
        let sealed = manifest.segments.iter().filter(|entry| entry.state == SegmentState::Sealed);
        sealed.map(id_of).collect()
    };
    if pending.is_empty() || log.health.poison_cause().is_some() {
        return;
    }
    let producers = idempotence::unsaved_producers(log);
    let mut finished = Vec::new();
    for segment in segments.iter().filter(|s| pending.contains(&(s.base, s.generation, s.epoch))) {
        let Some(end) = segment.end() else { continue };
        // IMPORTANT: sync through the group commit even if the file is synced. Another thread may
        // have synced the file for the records before a transaction, but the journal may not be
        // synced for the transactions in it.
        if log.durability.commit.wait(end.get(), || log.sync_written()).is_err() {
            return;
        }
        if !segment.is_synced() && segment.sync(&log.ctx).map_err(|e| log.sync_failed(e)).is_err() {
            return;
        }
        segment.save_index(&log.ctx, &log.identity, segment.size(), end);
        if log.settings().streams {
            if log.visible_end() < end {
                continue;
            }
            segment.save_keys(&log.ctx, &log.identity);
        }
        finished.push((segment.base, segment.generation, segment.epoch));
    }
    if let Some(file) = producers {
        // Records that are not durable may be lost, and other records may get their offsets.
        if log.durability.commit.wait(file.end_offset.get(), || log.sync_written()).is_err() {
            return;
        }
        idempotence::save_producers(log, &file);
    }
    // The segments after them too, because a manifest lists its last segment as active.
    if successors::name_all(log).is_err() {
        return;
    }
    let committed = log.manifest.commit(&log.ctx, |manifest| transitions::note_synced(manifest, &finished));
    if let Err(failed) = committed {
        // If the manifest is known to be unchanged, the next maintenance tries again.
        let _ = log.manifest_failed(failed);
    }
}

/// Returns the entry of the broker's checkpoint for this log: the last point known to be durable.
pub(crate) fn checkpoint(log: &Log) -> Option<CheckpointEntry> {
    if log.health.is_damaged() || !log.has_files() {
        return None;
    }
    Some(entry_of(log, &log.durability.point()))
}

/// Returns the entry of a checkpoint for this point of the log.
pub(crate) fn entry_of(log: &Log, point: &Point) -> CheckpointEntry {
    CheckpointEntry {
        topic_id: log.identity.topic_id,
        partition: log.identity.partition,
        base_offset: point.base,
        generation: point.generation,
        position: point.position,
        end_offset: point.end,
        first_timestamp: timestamp_or_unknown(point.first_timestamp),
        max_timestamp: timestamp_or_unknown(point.max_timestamp),
        last_crc: point.last_crc,
        log_epoch: point.epoch,
        digest: point.digest,
    }
}
