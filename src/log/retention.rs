//! Retention deletes whole segments, from the oldest on. First the log start moves past them,
//! durably, in the same manifest that no longer lists them; then their files are deleted.
//!
//! The decision is a function of the segments and the time. FORMAT.md, "Crash safety", explains why
//! the log start is never after the log end that a power loss leaves, and how recovery handles it
//! nevertheless.

use super::transitions::id_of;
use super::writer::Tip;
use super::{Log, idempotence, roll, self_check, successors, transitions};
use crate::config::{Cleanup, Retention};
use crate::engine::Later;
use crate::error::{Error, Result};
use crate::format::manifest::SegmentState;
use crate::segment::Segment;
use crate::stats::Event;
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// The data of a segment that the decision needs.
#[derive(Clone, Copy)]
struct RetentionCandidate {
    /// The offset after its last record so far.
    end: Offset,
    bytes: u64,
    /// `None` if it is not known, or if there is no record.
    max_timestamp: Option<Timestamp>,
    is_empty: bool,
}

/// Returns how many of the oldest segments may be deleted. Kafka's `deleteOldSegments`, in one
/// pass: a segment is deleted if it is before the log start, if its largest timestamp is too old,
/// or if enough bytes are left without it. The first segment that stays keeps all segments after
/// it. Records that are not visible yet are never deleted, and an empty segment has nothing to
/// delete.
fn expired(
    retention: &Retention,
    segments: &[RetentionCandidate],
    log_start: Offset,
    visible: Offset,
    now: Timestamp,
) -> usize {
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let goes = |at: usize, segment: &RetentionCandidate, left: u64| {
        // If the timestamp is not known, use that of the next segment, which is hardly older.
        let newest = || segments.iter().skip(at).find_map(|segment| segment.max_timestamp);
        segment.end <= log_start
            || retention.age.is_some_and(|age| newest().is_some_and(|newest| now > newest.plus(age)))
            || retention.bytes.is_some_and(|bytes| left >= bytes)
    };
    for (at, segment) in segments.iter().enumerate() {
        left -= segment.bytes;
        if segment.is_empty || segment.end > visible || !goes(at, segment, left) {
            return at;
        }
    }
    segments.len()
}

/// Deletes the segments that retention may delete, and none with records at or after `hold`. If
/// these are all segments, appending continues in a new one: the log end stays, and no offset is
/// used twice.
///
/// An error leaves the log unchanged, to be tried again the next time, or poisons it. Returns
/// whether a segment was deleted.
pub(crate) fn delete_expired(log: &Arc<Log>, hold: Offset) -> bool {
    delete_expired_of(log, hold, true)
}

/// As [`delete_expired`]. The active segment is deleted only if `may_roll`.
fn delete_expired_of(log: &Arc<Log>, hold: Offset, may_roll: bool) -> bool {
    let now = log.ctx.cautious_now();
    delete_oldest(log, hold, may_roll, |candidates, start, limit| {
        let settings = log.settings();
        // A topic that is only compacted: segments before the log start are deleted nevertheless.
        let retention = if settings.cleanup.deletes() { settings.retention } else { Retention::forever() };
        expired(&retention, candidates, start, limit, now)
    })
}

/// Returns the time of the newest record of the oldest segment, if that segment may be deleted: it
/// must end at or before `hold`. A segment without a known time counts as older than all others.
pub(crate) fn oldest_evictable(log: &Log, hold: Offset) -> Option<Timestamp> {
    log.check_writable().ok()?;
    let tip = log.writer.lock();
    let candidates = all_candidates(log, &tip);
    let limit = log.visible_end().min(hold.max(log.log_start()));
    let oldest = candidates.first().filter(|segment| !segment.is_empty && segment.end <= limit)?;
    Some(oldest.max_timestamp.unwrap_or_default())
}

/// Deletes the oldest segment, if it may be deleted: see [`oldest_evictable`]. Returns whether it
/// was deleted.
pub(crate) fn evict(log: &Arc<Log>, hold: Offset) -> bool {
    delete_oldest(log, hold, true, |candidates, _, limit| {
        let goes = |segment: &RetentionCandidate| !segment.is_empty && segment.end <= limit;
        usize::from(candidates.first().is_some_and(goes))
    })
}

/// Deletes as many of the oldest segments as `count` returns. `count` is called with the segments,
/// the log start, and the end of the records that may be deleted. Returns whether any was deleted.
fn delete_oldest(
    log: &Arc<Log>,
    hold: Offset,
    may_roll: bool,
    count: impl FnOnce(&[RetentionCandidate], Offset, Offset) -> usize,
) -> bool {
    let _later = Later::new();
    let shape = log.list.lock_shape();
    if log.check_writable().is_err() {
        return false;
    }
    let mut rolled = None;
    let start = {
        let mut tip = log.writer.lock();
        let candidates = all_candidates(log, &tip);
        let start = log.log_start();
        // No group can hold records before the log start.
        let limit = log.visible_end().min(hold.max(start));
        let mut count = count(&candidates, start, limit);
        if count == candidates.len() {
            rolled = if may_roll { roll::roll(log, &mut tip, &log.settings()).ok() } else { None };
            count -= usize::from(rolled.is_none());
        }
        count.checked_sub(1).and_then(|last| candidates.get(last)).map(|last| last.end)
    };
    let retained = start.map(|start| begin_at(log, start));
    drop(shape);
    if let Some(event) = rolled {
        log.ctx.events.report(&event);
    }
    match retained {
        Some(Ok(event)) => {
            log.ctx.events.report(&event);
            true
        }
        Some(Err(_)) | None => false,
    }
}

/// Returns all segments, the active one last.
fn all_candidates(log: &Log, tip: &Tip) -> Vec<RetentionCandidate> {
    let mut candidates = sealed_candidates(log);
    candidates.push(RetentionCandidate {
        end: tip.point.end,
        bytes: tip.point.position,
        max_timestamp: tip.point.max_timestamp,
        is_empty: tip.point.end == tip.point.base,
    });
    candidates
}

/// Deletes the segments that retention by size may delete, if an append has found that there may be
/// some. So a burst of appends exceeds the bound by no more than the oldest segment, even if that
/// is the active one. The caller must hold no lock of a log.
pub(crate) fn keep_size(log: &Arc<Log>) {
    if log.writer.size.take_over() && is_too_large(log, false) {
        delete_expired_of(log, log.ctx.room.hold(&log.identity), false);
        // If it is held, or cannot be deleted now, check again after the next roll and not at each
        // append.
        is_too_large(log, true);
    }
}

/// Returns whether the oldest sealed segment exceeds retention by size. If not, notes the size of
/// the active segment from which on it will. If it does and this was the `last` check, notes that
/// nothing can be done about it now.
fn is_too_large(log: &Log, last: bool) -> bool {
    let tip = log.writer.lock();
    let settings = log.settings();
    let bound = settings.retention.bytes.filter(|_| settings.cleanup.deletes());
    let candidates = sealed_candidates(log);
    let limit = match (bound, candidates.split_first()) {
        (Some(bound), Some((_, others))) => {
            bound.saturating_sub(others.iter().map(|segment| segment.bytes).sum())
        }
        _ => u64::MAX,
    };
    let is_too_large = tip.point.position >= limit;
    let limit = if is_too_large && last { u64::MAX } else { limit };
    log.writer.size.set_limit(limit);
    is_too_large
}

/// Moves the log start up to `before`, durably, and returns the log start. It never moves back.
///
/// # Errors
/// Out of range after the visible end; the partition takes no appends; an I/O error: then nothing
/// has changed, or the outcome is unknown and the partition is poisoned.
pub(crate) fn delete_records(log: &Arc<Log>, before: Offset) -> Result<Offset> {
    log.check_writable()?;
    let settings = log.settings();
    if settings.streams {
        let reason = "events are not deleted; a whole stream can be erased";
        return Err(Error::Streams { topic: log.identity.topic.clone(), reason });
    }
    if settings.cleanup == Cleanup::Compact {
        return Err(Error::CompactedTopic { topic: log.identity.topic.clone() });
    }
    if before > log.visible_end() {
        return Err(log.out_of_range(before));
    }
    if before > log.bounds().durable_end {
        // IMPORTANT: sync before the manifest moves the log start. Otherwise a power loss could
        // leave a log that ends before its start, and offsets that were read and acknowledged would
        // be assigned again.
        log.sync()?;
    }
    let _later = Later::new();
    let shape = log.list.lock_shape();
    if before <= log.log_start() {
        return Ok(log.log_start());
    }
    let event = begin_at(log, before)?;
    drop(shape);
    log.ctx.events.report(&event);
    Ok(before)
}

/// Returns the sealed segments as the manifest lists them.
fn sealed_candidates(log: &Log) -> Vec<RetentionCandidate> {
    let manifest = log.manifest.get();
    let sealed = manifest.segments.iter().filter(|entry| entry.state != SegmentState::Active);
    sealed
        .map(|entry| RetentionCandidate {
            end: entry.end_offset,
            bytes: entry.size,
            max_timestamp: entry.max_timestamp(),
            is_empty: false,
        })
        .collect()
}

/// Moves the log start up to `start`, unless it is later already, and removes the sealed segments
/// that are completely before it. The manifest is the commit point. The caller must hold the shape
/// lock.
fn begin_at(log: &Arc<Log>, start: Offset) -> Result<Event> {
    log.check_writable()?;
    let start = start.max(log.log_start());
    // IMPORTANT: write the side file before the manifest, so that the sequences of an idempotent
    // producer are known after its records are deleted.
    idempotence::keep_producers(log, start, false)?;
    let mut gone = Vec::new();
    let committed = log.manifest.commit_freeing(&log.ctx, |manifest| {
        gone = transitions::begin_at(manifest, start);
        // The log begins with it now, so this manifest must list it.
        manifest.segments.first().map_or(Ok(()), |first| successors::name_one(log, id_of(first)))
    });
    committed.map_err(|failed| log.manifest_failed(failed))?;
    // Exactly the segments that the manifest dropped: one that was sealed in between is still
    // listed there.
    let is_gone = |segment: &Segment| gone.contains(&segment.id());
    let segments = log.segments();
    log.list.begin_at(start, is_gone);
    self_check::segments_changed(log, None);
    log.publish();
    let mut bytes = 0;
    for segment in segments.iter().filter(|segment| is_gone(segment)) {
        bytes += segment.size();
        segment.retire(&log.ctx);
    }
    log.ctx.reserve.restore();
    Ok(Event::Retained {
        topic: log.identity.topic.clone(),
        partition: log.identity.partition,
        log_start: start,
        segments: gone.len(),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn segment(end: u64, bytes: u64, max_timestamp: i64) -> RetentionCandidate {
        let known = (max_timestamp >= 0).then(|| Timestamp::from_millis(max_timestamp));
        RetentionCandidate { end: Offset::new(end), bytes, max_timestamp: known, is_empty: false }
    }

    fn gone(retention: Retention, segments: &[RetentionCandidate]) -> usize {
        expired(&retention, segments, Offset::ZERO, Offset::new(u64::MAX), NOW)
    }

    fn for_age(millis: u64) -> Retention {
        Retention::for_age(Duration::from_millis(millis))
    }

    // The decision is strict: a segment of exactly the allowed age stays.
    #[test]
    fn by_age_the_largest_timestamp_decides_and_the_first_kept_segment_keeps_the_rest() {
        let segments = [segment(1, 1, 100), segment(2, 1, 200), segment(3, 1, 900), segment(4, 1, 50)];
        for (age, expected) in [(900, 0), (899, 1), (800, 1), (799, 2), (100, 2), (99, 4), (0, 4)] {
            assert_eq!(gone(for_age(age), &segments), expected, "{age}");
        }
        assert_eq!(gone(for_age(u64::MAX), &segments), 0);
        assert_eq!(gone(for_age(0), &[segment(1, 1, 1_000)]), 0, "not before the clock ticks");
    }

    #[test]
    fn a_record_of_the_future_keeps_all_after_it() {
        assert_eq!(gone(for_age(10), &[segment(1, 1, 5), segment(2, 1, i64::MAX), segment(3, 1, 5)]), 1);
    }

    #[test]
    fn a_segment_without_a_timestamp_is_deleted_with_the_next_that_has_one() {
        let segments = [segment(1, 1, -1), segment(2, 1, -1), segment(3, 1, 500)];
        assert_eq!(gone(for_age(500), &segments), 0);
        assert_eq!(gone(for_age(499), &segments), 3);
        assert_eq!(gone(for_age(0), &segments[..2]), 0, "it is not known that they are old");
    }

    #[test]
    fn by_size_at_least_the_bound_is_kept() {
        let segments = [segment(5, 5, 0), segment(10, 5, 0), segment(15, 5, 0)];
        for (bytes, expected) in [(u64::MAX, 0), (15, 0), (11, 0), (10, 1), (6, 1), (5, 2), (1, 2), (0, 3)] {
            assert_eq!(gone(Retention::for_bytes(bytes), &segments), expected, "{bytes}");
        }
    }

    #[test]
    fn segments_deleted_by_one_limit_count_for_the_other() {
        let segments = [segment(5, 5, 0), segment(10, 5, 900), segment(15, 5, 900)];
        assert_eq!(gone(for_age(500).and_bytes(10), &segments), 1);
        assert_eq!(gone(for_age(500).and_bytes(5), &segments), 2);
    }

    #[test]
    fn segments_before_the_log_start_are_deleted_and_invisible_ones_stay() {
        let segments = [segment(5, 5, 0), segment(10, 5, 0), segment(15, 5, 0)];
        let at = |start, visible, retention| {
            expired(&retention, &segments, Offset::new(start), Offset::new(visible), NOW)
        };
        for (start, expected) in [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2), (15, 3)] {
            assert_eq!(at(start, 15, Retention::forever()), expected, "{start}");
        }
        for (visible, expected) in [(0, 0), (4, 0), (5, 1), (14, 2), (15, 3)] {
            assert_eq!(at(0, visible, for_age(1)), expected, "{visible}");
            assert_eq!(at(0, visible, Retention::for_bytes(0)), expected, "{visible}");
        }
    }

    #[test]
    fn an_empty_segment_is_never_deleted() {
        let empty = RetentionCandidate { is_empty: true, ..segment(5, 96, -1) };
        assert_eq!(gone(Retention::for_bytes(0).and_age(Duration::ZERO), &[empty]), 0);
        assert_eq!(gone(Retention::for_bytes(0), &[segment(5, 5, 0), empty]), 1);
    }
}
