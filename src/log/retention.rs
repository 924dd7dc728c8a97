//! Retention deletes whole segments, from the oldest on. First the log start moves past them,
//! durably, in the same manifest that no longer lists them; then their files are deleted.
//!
//! The decision is a function of the segments and the time. FORMAT.md, "Crash safety", explains why
//! the log start is never after the log end that a power loss leaves, and how recovery handles it
//! nevertheless.

use super::roll::roll;
use super::{Log, idempotence};
use crate::config::{Cleanup, Retention};
use crate::error::{Error, Result};
use crate::format::manifest::SegmentState;
use crate::log::transitions;
use crate::log::writer::Tip;
use crate::segment::Segment;
use crate::stats::Event;
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// The data of a segment that the decision needs.
#[derive(Clone, Copy)]
struct Span {
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
    segments: &[Span],
    log_start: Offset,
    visible: Offset,
    now: Timestamp,
) -> usize {
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let goes = |at: usize, segment: &Span, left: u64| {
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

impl Log {
    /// Deletes the segments that retention may delete, and none with records at or after `hold`. If
    /// these are all segments, appending continues in a new one: the log end stays, and no offset
    /// is used twice.
    ///
    /// An error leaves the log unchanged, to be tried again the next time, or poisons it. Returns
    /// whether a segment was deleted.
    pub(crate) fn retain(self: &Arc<Self>, hold: Offset) -> bool {
        self.retain_of(hold, true)
    }

    /// As [`retain`](Log::retain). The active segment is deleted only if `may_roll`.
    fn retain_of(self: &Arc<Self>, hold: Offset, may_roll: bool) -> bool {
        let now = self.ctx.cautious_now();
        self.delete_oldest(hold, may_roll, |spans, start, limit| {
            let settings = self.settings();
            // A topic that is only compacted: segments before the log start are deleted
            // nevertheless.
            let retention =
                if settings.cleanup.deletes() { settings.retention } else { Retention::forever() };
            expired(&retention, spans, start, limit, now)
        })
    }

    /// Returns the time of the newest record of the oldest segment, if that segment may be deleted:
    /// it must end at or before `hold`. A segment without a known time counts as older than all
    /// others.
    pub(crate) fn oldest_evictable(&self, hold: Offset) -> Option<Timestamp> {
        self.check_writable().ok()?;
        let tip = self.writer.lock();
        let spans = self.all_spans(&tip);
        let limit = self.visible_end().min(hold.max(self.log_start()));
        let oldest = spans.first().filter(|span| !span.is_empty && span.end <= limit)?;
        Some(oldest.max_timestamp.unwrap_or_default())
    }

    /// Deletes the oldest segment, if it may be deleted: see
    /// [`oldest_evictable`](Log::oldest_evictable). Returns whether it was deleted.
    pub(crate) fn evict(self: &Arc<Self>, hold: Offset) -> bool {
        self.delete_oldest(hold, true, |spans, _, limit| {
            let goes = |span: &Span| !span.is_empty && span.end <= limit;
            usize::from(spans.first().is_some_and(goes))
        })
    }

    /// Deletes as many of the oldest segments as `count` returns. `count` is called with the
    /// segments, the log start, and the end of the records that may be deleted. Returns whether any
    /// was deleted.
    fn delete_oldest(
        self: &Arc<Self>,
        hold: Offset,
        may_roll: bool,
        count: impl FnOnce(&[Span], Offset, Offset) -> usize,
    ) -> bool {
        let shape = self.list.lock_shape();
        if self.check_writable().is_err() {
            return false;
        }
        let mut rolled = None;
        let start = {
            let mut tip = self.writer.lock();
            let spans = self.all_spans(&tip);
            let start = self.log_start();
            // No group can hold records before the log start.
            let limit = self.visible_end().min(hold.max(start));
            let mut count = count(&spans, start, limit);
            if count == spans.len() {
                rolled = if may_roll { roll(self, &mut tip).ok() } else { None };
                count -= usize::from(rolled.is_none());
            }
            count.checked_sub(1).and_then(|last| spans.get(last)).map(|last| last.end)
        };
        let retained = start.map(|start| self.begin_at(start));
        drop(shape);
        if let Some(event) = rolled {
            self.ctx.events.report(&event);
        }
        match retained {
            Some(Ok(event)) => {
                self.ctx.events.report(&event);
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    /// Returns all segments, the active one last.
    fn all_spans(&self, tip: &Tip) -> Vec<Span> {
        let mut spans = self.sealed_spans();
        spans.push(Span {
            end: tip.point.end,
            bytes: tip.point.position,
            max_timestamp: tip.point.max_timestamp,
            is_empty: tip.point.end == tip.point.base,
        });
        spans
    }

    /// Deletes the segments that retention by size may delete, if an append has found that there
    /// may be some. So a burst of appends exceeds the bound by no more than the oldest segment,
    /// even if that is the active one. The caller must hold no lock of a log.
    pub(crate) fn keep_size(self: &Arc<Self>) {
        if self.writer.size.take_over() && self.is_too_large(false) {
            self.retain_of(self.ctx.room.hold(&self.identity), false);
            // If it is held, or cannot be deleted now, check again after the next roll and not at
            // each append.
            self.is_too_large(true);
        }
    }

    /// Returns whether the oldest sealed segment exceeds retention by size. If not, notes the size
    /// of the active segment from which on it will. If it does and this was the `last` check, notes
    /// that nothing can be done about it now.
    fn is_too_large(&self, last: bool) -> bool {
        let tip = self.writer.lock();
        let settings = self.settings();
        let bound = settings.retention.bytes.filter(|_| settings.cleanup.deletes());
        let spans = self.sealed_spans();
        let limit = match (bound, spans.split_first()) {
            (Some(bound), Some((_, others))) => {
                bound.saturating_sub(others.iter().map(|segment| segment.bytes).sum())
            }
            _ => u64::MAX,
        };
        let is_too_large = tip.point.position >= limit;
        let limit = if is_too_large && last { u64::MAX } else { limit };
        self.writer.size.set_limit(limit);
        is_too_large
    }

    /// Moves the log start up to `before`, durably, and returns the log start. It never moves back.
    ///
    /// # Errors
    /// Out of range after the visible end; the partition takes no appends; an I/O error: then
    /// nothing has changed, or the outcome is unknown and the partition is poisoned.
    pub(crate) fn delete_records(self: &Arc<Self>, before: Offset) -> Result<Offset> {
        self.check_writable()?;
        let settings = self.settings();
        if settings.streams {
            let reason = "events are not deleted; a whole stream can be erased";
            return Err(Error::Streams { topic: self.identity.topic.clone(), reason });
        }
        if settings.cleanup == Cleanup::Compact {
            return Err(Error::CompactedTopic { topic: self.identity.topic.clone() });
        }
        if before > self.visible_end() {
            return Err(self.out_of_range(before));
        }
        if before > self.bounds().durable_end {
            // IMPORTANT: sync before the manifest moves the log start. Otherwise a power loss could
            // leave a log that ends before its start, and offsets that were read and acknowledged
            // would be assigned again.
            self.sync()?;
        }
        let shape = self.list.lock_shape();
        if before <= self.log_start() {
            return Ok(self.log_start());
        }
        let event = self.begin_at(before)?;
        drop(shape);
        self.ctx.events.report(&event);
        Ok(before)
    }

    /// Returns the sealed segments as the manifest lists them.
    fn sealed_spans(&self) -> Vec<Span> {
        let manifest = self.manifest.get();
        let sealed = manifest.segments.iter().filter(|entry| entry.state != SegmentState::Active);
        sealed
            .map(|entry| Span {
                end: entry.end_offset,
                bytes: entry.size,
                max_timestamp: entry.max_timestamp(),
                is_empty: false,
            })
            .collect()
    }

    /// Moves the log start up to `start`, unless it is later already, and removes the sealed
    /// segments that are completely before it. The manifest is the commit point. The caller must
    /// hold the shape lock.
    fn begin_at(self: &Arc<Self>, start: Offset) -> Result<Event> {
        self.check_writable()?;
        let start = start.max(self.log_start());
        // IMPORTANT: write the side file before the manifest, so that the sequences of an
        // idempotent producer are known after its records are deleted.
        idempotence::keep_producers(self, start, false)?;
        let mut gone = Vec::new();
        let committed = self.manifest.commit_freeing(&self.ctx, |manifest| {
            gone = transitions::begin_at(manifest, start);
        });
        committed.map_err(|failed| self.manifest_failed(failed))?;
        // Exactly the segments that the manifest dropped: one that was sealed in between is still
        // listed there.
        let is_gone = |segment: &Segment| gone.contains(&segment.id());
        let segments = self.segments();
        self.list.begin_at(start, is_gone);
        let mut bytes = 0;
        for segment in segments.iter().filter(|segment| is_gone(segment)) {
            bytes += segment.size();
            segment.retire(&self.ctx);
        }
        self.ctx.reserve.restore();
        Ok(Event::Retained {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            log_start: start,
            segments: gone.len(),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn span(end: u64, bytes: u64, max_timestamp: i64) -> Span {
        let known = (max_timestamp >= 0).then(|| Timestamp::from_millis(max_timestamp));
        Span { end: Offset::new(end), bytes, max_timestamp: known, is_empty: false }
    }

    fn gone(retention: Retention, segments: &[Span]) -> usize {
        expired(&retention, segments, Offset::ZERO, Offset::new(u64::MAX), NOW)
    }

    fn for_age(millis: u64) -> Retention {
        Retention::for_age(Duration::from_millis(millis))
    }

    // The decision is strict: a segment of exactly the allowed age stays.
    #[test]
    fn by_age_the_largest_timestamp_decides_and_the_first_kept_segment_keeps_the_rest() {
        let segments = [span(1, 1, 100), span(2, 1, 200), span(3, 1, 900), span(4, 1, 50)];
        for (age, expected) in [(900, 0), (899, 1), (800, 1), (799, 2), (100, 2), (99, 4), (0, 4)] {
            assert_eq!(gone(for_age(age), &segments), expected, "{age}");
        }
        assert_eq!(gone(for_age(u64::MAX), &segments), 0);
        assert_eq!(gone(for_age(0), &[span(1, 1, 1_000)]), 0, "not before the clock ticks");
    }

    #[test]
    fn a_record_of_the_future_keeps_all_after_it() {
        assert_eq!(gone(for_age(10), &[span(1, 1, 5), span(2, 1, i64::MAX), span(3, 1, 5)]), 1);
    }

    #[test]
    fn a_segment_without_a_timestamp_is_deleted_with_the_next_that_has_one() {
        let segments = [span(1, 1, -1), span(2, 1, -1), span(3, 1, 500)];
        assert_eq!(gone(for_age(500), &segments), 0);
        assert_eq!(gone(for_age(499), &segments), 3);
        assert_eq!(gone(for_age(0), &segments[..2]), 0, "it is not known that they are old");
    }

    #[test]
    fn by_size_at_least_the_bound_is_kept() {
        let segments = [span(5, 5, 0), span(10, 5, 0), span(15, 5, 0)];
        for (bytes, expected) in [(u64::MAX, 0), (15, 0), (11, 0), (10, 1), (6, 1), (5, 2), (1, 2), (0, 3)] {
            assert_eq!(gone(Retention::for_bytes(bytes), &segments), expected, "{bytes}");
        }
    }

    #[test]
    fn segments_deleted_by_one_limit_count_for_the_other() {
        let segments = [span(5, 5, 0), span(10, 5, 900), span(15, 5, 900)];
        assert_eq!(gone(for_age(500).and_bytes(10), &segments), 1);
        assert_eq!(gone(for_age(500).and_bytes(5), &segments), 2);
    }

    #[test]
    fn segments_before_the_log_start_are_deleted_and_invisible_ones_stay() {
        let segments = [span(5, 5, 0), span(10, 5, 0), span(15, 5, 0)];
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
        let empty = Span { is_empty: true, ..span(5, 96, -1) };
        assert_eq!(gone(Retention::for_bytes(0).and_age(Duration::ZERO), &[empty]), 0);
        assert_eq!(gone(Retention::for_bytes(0), &[span(5, 5, 0), empty]), 1);
    }
}
