//! Finds the offset of a time, and of the n-th newest record. Uses the times and counts of
//! segments, index entries and batch headers; only a batch that may contain the result is read.
//!
//! The times are upper bounds: a segment or a batch whose greatest time is below the wanted one has
//! no such record. One whose greatest time is not below it may still have none that is visible.

use std::cmp::Reverse;

use super::Log;
use super::cursor::Cursor;
use super::list::View;
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::format::body;
use crate::segment::Segment;
use crate::segment::batch::Batch;
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// The visible part of a log.
struct Visible {
    view: Arc<View>,
    start: Offset,
    end: Offset,
}

/// The visible part of a segment.
struct VisibleSpan {
    segment: Arc<Segment>,
    from: Offset,
    until: Offset,
    /// No record of it is later. `None` if the manifest does not have it.
    max_timestamp: Option<Timestamp>,
}

/// Returns offset and timestamp of the first visible record with a timestamp of at least
/// `time`.
///
/// # Errors
/// `InvalidTimestamp` before 1970; `Corrupt` if a batch that must be read is damaged; closed;
/// an I/O error.
pub(crate) fn find_time(log: &Arc<Log>, time: Timestamp) -> Result<Option<(Offset, Timestamp)>> {
    let (earliest, latest) = (Timestamp::default(), Timestamp::MAX);
    if time < earliest {
        return Err(Error::InvalidTimestamp {
            topic: log.topic().clone(),
            timestamp: time,
            index: 0,
            earliest,
            latest,
        });
    }
    look(log, |visible| {
        let mut next = 0;
        while let Some(at) = visible.first_with(next, time) {
            if let Some(span) = visible.span(at)
                && let Some(found) = first_in(log, &span, time)?
            {
                return Ok(Some(found));
            }
            next = at + 1;
        }
        Ok(None)
    })
}

/// Returns offset and timestamp of the first of the visible records with the greatest
/// timestamp.
///
/// # Errors
/// `Corrupt` if a batch that must be read is damaged; closed; an I/O error.
pub(crate) fn find_latest(log: &Arc<Log>) -> Result<Option<(Offset, Timestamp)>> {
    let latest = look(log, |visible| {
        let mut best = None;
        // Segments that may have the greatest time come first, including those whose time is not
        // known. Of two with the same time the older comes first.
        let mut sealed = visible.view.segments.times().descending();
        let mut active = visible.active_time();
        loop {
            let next = match (sealed.peek(), active) {
                (Some(greatest), Some((max, _))) if max > greatest => active.take(),
                (Some(_), _) => sealed.next(),
                (None, _) => active.take(),
            };
            let Some((max, at)) = next else { return Ok(best) };
            let Some(span) = visible.span(at) else { continue };
            if is_beaten(Timestamp::from_millis(max), best) || has_equal_before(max, &span, best) {
                return Ok(best);
            }
            best = best.max(latest_in(log, &span)?);
        }
    })?;
    Ok(latest.map(|(timestamp, Reverse(offset))| (offset, timestamp)))
}

/// Returns the offset of the `n`-th newest visible record, or the log start if there are fewer
/// records.
///
/// # Errors
/// `Corrupt` if a batch that must be read is damaged; closed; an I/O error.
pub(crate) fn nth_newest(log: &Arc<Log>, n: u64) -> Result<Offset> {
    look(log, |visible| {
        let (Some(first), Some(last)) = (visible.first(), visible.last()) else {
            return Ok(log.visible_end());
        };
        let (start, mut until) = (first.from, last.until);
        let (mut missing, mut step) = (n, n);
        // If offsets have no gaps, the first step back is the last.
        loop {
            let from = Offset::new(until.get().saturating_sub(step)).max(start);
            if from == start && until.since(start) <= missing {
                return Ok(start);
            }
            let headers = read_headers(log, from, until)?;
            for header in headers.iter().rev() {
                match missing.checked_sub(u64::from(header.count)) {
                    None | Some(0) => return Ok(nth_newest_in(log, header, missing)?.max(start)),
                    Some(left) => missing = left,
                }
            }
            if from == start {
                return Ok(start);
            }
            // The first batch may begin before the step's end. Then all of it has been counted.
            until = headers.first().map_or(from, |header| header.base_offset.min(from));
            step = step.saturating_mul(2);
        }
    })
}

/// Calls `at` with the visible part of the log. Calls it again if retention or a replacement removed
/// a segment meanwhile.
fn look<T>(log: &Log, mut at: impl FnMut(&Visible) -> Result<T>) -> Result<T> {
    log.consistently(|| at(&Visible::of(log)).map(Some))
}

impl Visible {
    fn of(log: &Log) -> Self {
        let view = log.list.view();
        // Load the end before the time of the active segment: then every visible record before the
        // end is covered by it.
        Visible { start: view.log_start, end: view.ends.visible(), view }
    }

    /// Returns the visible part of a segment; `None` if it has none.
    fn span(&self, at: usize) -> Option<VisibleSpan> {
        let segment = self.view.segments.get(at)?;
        let (from, until) = (segment.base.max(self.start), segment.end().unwrap_or(self.end).min(self.end));
        let max_timestamp = segment.max_timestamp();
        (from < until).then(|| VisibleSpan { segment: segment.clone(), from, until, max_timestamp })
    }

    /// Returns the oldest segment with visible records.
    fn first(&self) -> Option<VisibleSpan> {
        let segments = &self.view.segments;
        let first = segments.partition_point(|segment| segment.end().is_some_and(|end| end <= self.start));
        (first..segments.len()).find_map(|at| self.span(at))
    }

    /// Returns the newest segment with visible records.
    fn last(&self) -> Option<VisibleSpan> {
        let after = self.view.segments.partition_point(|segment| segment.base < self.end);
        (0..after).rev().find_map(|at| self.span(at))
    }

    /// Returns the index of the first segment at or after `from` that may have a record of at least
    /// `time`. The cost is the logarithm of the number of segments.
    fn first_with(&self, from: usize, time: Timestamp) -> Option<usize> {
        let time = time.as_millis();
        let active = || self.active_time().filter(|(max, at)| *max >= time && *at >= from);
        self.view.segments.times().first_at_least(from, time).or_else(|| active().map(|(_, at)| at))
    }

    /// Returns the greatest time of the active segment, or `i64::MAX` if it is not known, and its
    /// index.
    fn active_time(&self) -> Option<(i64, usize)> {
        let max = self.view.segments.last()?.max_timestamp().map_or(i64::MAX, Timestamp::as_millis);
        Some((max, self.view.segments.len().saturating_sub(1)))
    }
}

/// Returns the first record of a segment with a timestamp of at least `time`.
fn first_in(log: &Arc<Log>, span: &VisibleSpan, time: Timestamp) -> Result<Option<(Offset, Timestamp)>> {
    let from = span.segment.seek_time(log.ctx(), log.identity(), time)?.max(span.from);
    if from >= span.until {
        return Ok(None);
    }
    let mut cursor = Cursor::new(log.clone(), from);
    while let Some(header) = cursor.peek()?.filter(|header| header.base_offset < span.until) {
        if header.max_timestamp < time {
            cursor.pass(&header);
            continue;
        }
        let Some(batch) = cursor.next_batch()? else { break };
        let found = times(&batch).find(|(offset, timestamp)| *offset >= from && *timestamp >= time);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Returns the first of the records of a segment with the greatest timestamp.
fn latest_in(log: &Arc<Log>, span: &VisibleSpan) -> Result<Option<(Timestamp, Reverse<Offset>)>> {
    if let Some(max) = span.max_timestamp
        && let Some((offset, timestamp)) = first_in(log, span, max)?
    {
        return Ok(Some((timestamp, Reverse(offset))));
    }
    // That record is not visible, or before the log start. Check the batches in the order of
    // their greatest times, until none can have a greater one.
    let mut headers = read_headers(log, span.from, span.until)?;
    headers.sort_by_key(|header| Reverse(header.max_timestamp));
    let mut best = None;
    for header in headers {
        if is_beaten(header.max_timestamp, best) {
            break;
        }
        let from = header.base_offset.max(span.from);
        let batch = Cursor::new(log.clone(), from).next_batch()?;
        let records = batch.iter().flat_map(|batch| times(batch)).filter(|(offset, _)| *offset >= from);
        best = best.max(records.map(|(offset, timestamp)| (timestamp, Reverse(offset))).max());
    }
    Ok(best)
}

/// Returns the headers of the batches with offsets in `from..until`, oldest first.
fn read_headers(log: &Arc<Log>, from: Offset, until: Offset) -> Result<Vec<BatchHeader>> {
    let (mut cursor, mut headers) = (Cursor::new(log.clone(), from), Vec::new());
    while let Some(header) = cursor.peek()?.filter(|header| header.base_offset < until) {
        cursor.pass(&header);
        headers.push(header);
    }
    Ok(headers)
}

/// Returns the offset of the `n`-th newest record of a batch, which must have so many.
fn nth_newest_in(log: &Arc<Log>, header: &BatchHeader, n: u64) -> Result<Offset> {
    let older = u64::from(header.count).saturating_sub(n);
    if header.last_offset_delta.checked_add(1) == Some(header.count) {
        return Ok(header.base_offset.plus(older));
    }
    // Compaction has left gaps in the batch.
    let from = header.base_offset.max(log.log_start());
    let batch = Cursor::new(log.clone(), from).next_batch()?;
    let nth = batch.iter().flat_map(|batch| times(batch)).nth(usize::try_from(older).unwrap_or(usize::MAX));
    Ok(nth.map_or(header.base_offset, |(offset, _)| offset))
}

/// Returns whether no record with a time of at most `max` can replace the best.
fn is_beaten(max: Timestamp, best: Option<(Timestamp, Reverse<Offset>)>) -> bool {
    best.is_some_and(|(greatest, _)| max < greatest)
}

/// Returns whether the best has the time `max` and comes before the segment: then neither a record
/// of the segment can replace it, nor one of a segment after it in the order of the times.
fn has_equal_before(max: i64, span: &VisibleSpan, best: Option<(Timestamp, Reverse<Offset>)>) -> bool {
    best.is_some_and(|(greatest, Reverse(offset))| greatest.as_millis() == max && offset < span.from)
}

/// Returns offsets and timestamps of a batch's records.
fn times(batch: &Batch) -> impl Iterator<Item = (Offset, Timestamp)> {
    let header = batch.header;
    // The records are valid, so none is left out.
    body::RawRecords::new(batch.records.as_slice(), header.count).map_while(std::result::Result::ok).map(
        move |record| {
            (
                header.base_offset.plus(u64::from(record.offset_delta)),
                header.timestamp(record.timestamp_delta),
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::config::{BrokerConfig, Durability, TopicConfig};
    use crate::record::Record;
    use crate::records::tests::{append, value};
    use crate::testing::{Disk, Op, Survive};
    use crate::{Broker, Partition};

    fn open(disk: &Disk) -> Broker {
        BrokerConfig::new().clock(ManualClock::new()).on_disk(disk).unwrap()
    }

    fn small() -> TopicConfig {
        TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700).index_interval_bytes(150)
    }

    fn send(broker: &Broker, to: &Partition, times: &[i64]) -> Result<()> {
        let records = times.iter().map(|t| Record::new("some text").timestamp(Timestamp::from_millis(*t)));
        broker.producer().send_all(to, records)?.wait().map(drop)
    }

    /// Checks every lookup against a list of offsets and times, from every log start.
    fn assert_like(log: &Arc<Log>, records: &[(u64, i64)]) {
        let end = log.visible_end().get();
        let old = log.log_start();
        for start in 0..=end {
            log.list.begin_at(Offset::new(start), |_| false);
            let left: Vec<_> = records.iter().filter(|(offset, _)| *offset >= start).copied().collect();
            let raw = |found: (Offset, Timestamp)| (found.0.get(), found.1.as_millis());
            for probe in records.iter().flat_map(|(_, t)| [*t, t + 1]).chain([0, 5_000]) {
                let expected = left.iter().find(|(_, t)| *t >= probe).copied();
                let found = find_time(log, Timestamp::from_millis(probe)).unwrap().map(raw);
                assert_eq!(found, expected, "{probe} from {start} in {records:?}");
            }
            let greatest = left.iter().map(|(offset, t)| (*t, Reverse(*offset))).max();
            let expected = greatest.map(|(t, Reverse(offset))| (offset, t));
            assert_eq!(find_latest(log).unwrap().map(raw), expected, "from {start} in {records:?}");
            for n in 1..=end + 1 {
                let nth = usize::try_from(n).ok().and_then(|n| left.len().checked_sub(n));
                let found = nth_newest(log, n).unwrap();
                match nth {
                    Some(nth) if nth > 0 => assert_eq!(found, left[nth].0, "{n} from {start}"),
                    // The oldest record, or the log start before it: reading from there is the
                    // same.
                    _ => assert!(
                        found.get() >= start && left.first().is_none_or(|first| found.get() <= first.0)
                    ),
                }
            }
        }
        log.list.begin_at(old, |_| false);
    }

    /// Other than in Kafka, records before the log start do not hide records in later segments.
    #[test]
    fn only_records_at_or_after_the_log_start_count() {
        let broker = open(&Disk::new());
        let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
        let mut times = Vec::new();
        for batch in
            [&[100, 900][..], &[200, 150, 300], &[120], &[400, 10, 20, 30], &[350]].iter().cycle().take(17)
        {
            send(&broker, &partition, batch).unwrap();
            times.extend_from_slice(batch);
        }
        assert!(partition.log().segments().len() > 2);
        let records: Vec<_> = (0..).zip(times).collect();
        assert_like(partition.log(), &records);
        // A segment whose greatest time is missing in the manifest does not hide records either.
        for segment in partition.log().segments().iter().filter(|segment| segment.is_sealed()) {
            segment.seal(segment.end().unwrap(), segment.size(), None);
        }
        assert_like(partition.log(), &records);
    }

    /// Batches as compaction leaves them: with gaps, emptied, and with a greatest time that no
    /// record has any more.
    #[test]
    fn batches_with_gaps_are_read_record_by_record() {
        let broker = open(&Disk::new());
        let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
        let log = partition.log();
        let mut records = Vec::new();
        for (span, deltas) in
            [(10, &[2, 7, 8][..]), (5, &[]), (1, &[0]), (30, &[29]), (4, &[0, 1, 2, 3]), (6, &[])]
        {
            let base = log.visible_end().get();
            append(log, span, &deltas.iter().map(|delta| value(*delta, b"v")).collect::<Vec<_>>());
            records.extend(deltas.iter().zip(1_000..).map(|(delta, t)| (base + u64::from(*delta), t)));
        }
        assert_like(log, &records);
        for n in 0..=records.len() + 1 {
            let newest = partition.last_n(n).unwrap();
            let expected = records.iter().skip(records.len().saturating_sub(n)).map(|(offset, _)| *offset);
            assert!(newest.iter().map(|record| record.offset().get()).eq(expected), "{n}");
        }
    }

    /// Every segment has exactly the greatest time of its batches.
    fn assert_known(log: &Arc<Log>, case: &str) {
        let visible = Visible::of(log);
        for span in (0..visible.view.segments.len()).filter_map(|at| visible.span(at)) {
            let max = read_headers(log, span.from, span.until).unwrap().iter().map(|h| h.max_timestamp).max();
            assert_eq!(span.max_timestamp, max, "{case}: the segment of {}", span.from);
        }
        let manifest = log.manifest.get().segments.clone();
        for (entry, segment) in manifest.iter().zip(log.segments().iter()).filter(|(_, s)| s.is_sealed()) {
            assert_eq!(
                crate::segment::known_timestamp(entry.max_timestamp),
                segment.max_timestamp(),
                "{case}"
            );
        }
    }

    #[test]
    fn segments_have_their_greatest_time_after_rolls_recoveries_and_truncations() {
        for count in 1..25i64 {
            let disk = Disk::new();
            let broker = open(&disk);
            let config = small().durability(Durability::Sync);
            let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
            for n in 0..count {
                send(&broker, &partition, &[500 + n * 7 % 13]).unwrap();
            }
            assert_known(partition.log(), "rolled");
            disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
            let _ = send(&broker, &partition, &[9_000]);
            partition.reopen().unwrap();
            assert_known(partition.log(), "reopened");
            send(&broker, &partition, &[100]).unwrap();
            disk.tear(1);
            let _ = send(&broker, &partition, &[9_000]);
            drop((broker, partition));
            disk.crash(Survive::Everything);

            let broker = open(&disk);
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            assert_known(partition.log(), "truncated by recovery");
            send(&broker, &partition, &[300]).unwrap();
            send(&broker, &partition, &[200]).unwrap();
            drop((broker, partition));
            disk.crash(Survive::Synced);
            let broker = open(&disk);
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            assert_known(partition.log(), "recovered whole");
            send(&broker, &partition, &[250]).unwrap();
            broker.close().unwrap();
            let broker = open(&disk);
            assert_known(broker.topic("t").unwrap().partition(0).unwrap().log(), "closed");
        }
    }
}
