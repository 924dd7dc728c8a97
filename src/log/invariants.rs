//! The numbered invariants of FORMAT.md ("Invariants") that are about one partition, as functions:
//! pure, of values that are decoded already. [`Broker::verify`](crate::Broker::verify), the
//! inspection of an opening, the acceptance of a loss and the [self-checks](super::self_check) of
//! debug builds share them.
//!
//! The others are held where their files are read: 1, 2 and 3 by the decoders in `format`, 8 and 9
//! by [`Segment::mismatch`](crate::segment::Segment::mismatch), 13 by the recovery of transactions,
//! 14 by the decoder of the catalog, 15 by [`find_manifest`](super::create::find_manifest).

use std::collections::HashMap;

use crate::format::batch::BatchHeader;
use crate::format::index::IndexFile;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::segment::Point;
use crate::types::{Offset, Timestamp};

/// An invariant that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Its number in FORMAT.md.
    pub(crate) number: u32,
    pub(crate) what: &'static str,
}

pub(crate) type Held = Result<(), Broken>;

/// A batch of a segment: its position, its base offset, its greatest time.
pub(crate) type BatchPlace = (u64, Offset, i64);

fn held(holds: bool, number: u32, what: &'static str) -> Held {
    if holds { Ok(()) } else { Err(Broken { number, what }) }
}

/// Checks 7 and the part of 11 that is about a manifest alone.
pub(crate) fn of_manifest(manifest: &Manifest) -> Held {
    manifest.check().map_err(|what| Broken { number: 7, what })?;
    // It makes no difference to an opening where there are no batches.
    let active = manifest.segments.last().is_none_or(|last| last.state == SegmentState::Active);
    held(active, 7, "the last segment is not active")?;
    held(starts_rise(manifest), 11, STARTS)
}

/// Checks 10 and the rest of 11 for a log that ends at `end`: all that is wrong.
pub(crate) fn of_bounds(manifest: &Manifest, end: Offset) -> impl Iterator<Item = Broken> {
    let starts = manifest.epochs.iter().all(|epoch| epoch.start <= end);
    let checks = [
        start_in_log(manifest.log_start, end),
        held(starts_rise(manifest), 11, STARTS),
        held(starts, 11, "a log epoch begins after the log's end"),
    ];
    checks.into_iter().filter_map(Result::err)
}

/// Checks 10.
pub(crate) fn start_in_log(start: Offset, end: Offset) -> Held {
    held(start <= end, 10, "the log ends before its start")
}

const STARTS: &str = "the starts of the log epochs do not rise";

fn starts_rise(manifest: &Manifest) -> bool {
    manifest.epochs.is_sorted_by(|a, b| a.start < b.start)
}

/// Checks 4 and 5, for a batch of a segment of this generation that follows a batch that ends at
/// `expected`. Before the first batch that is the segment's base offset.
#[inline]
pub(crate) fn of_place(generation: u32, expected: Offset, header: &BatchHeader) -> Held {
    held(header.base_offset >= expected, 4, "a batch begins before the end of the one before")?;
    held(generation > 0 || header.base_offset == expected, 4, "batches are missing here")
}

/// Checks 12 and 18, as far as the header shows.
#[inline]
pub(crate) fn of_header(header: &BatchHeader) -> Held {
    held(header.synced_upto <= header.base_offset, 12, "a batch that attests itself")?;
    held(header.max_timestamp <= Timestamp::MAX, 18, "a time that is later than there are")
}

/// Checks 6, for a sealed segment whose batches end at `end`.
pub(crate) fn of_end(entry: &SegmentEntry, end: &Point) -> Held {
    let is_there = (end.end, end.position) == (entry.end_offset, entry.size);
    held(is_there, 6, "the segment does not end where the manifest says")?;
    let is_same = (end.last_crc, end.digest) == (entry.last_crc, entry.digest);
    held(is_same, 6, "the segment holds other batches than the manifest says")?;
    let is_time = entry.max_timestamp().is_none_or(|stated| Some(stated) == end.max_timestamp);
    held(is_time, 6, "the segment has another greatest time than the manifest says")
}

/// Checks 16, for the index of a segment with these batches.
pub(crate) fn of_index(index: &IndexFile, places: &[BatchPlace]) -> Held {
    let end = places.last().map_or(u64::MAX, |_| index.covers_bytes);
    let (mut at, mut max_before) = (0, i64::MIN);
    for entry in &index.entries {
        let position = u64::from(entry.position);
        while let Some((_, _, max)) = places.get(at).filter(|place| place.0 < position) {
            max_before = max_before.max(*max);
            at += 1;
        }
        let base = index.base_offset.plus(u64::from(entry.offset_delta));
        let begins = |place: &BatchPlace| (place.0, place.1) == (position, base) && position < end;
        held(places.get(at).is_some_and(begins), 16, "no batch starts at a position of it")?;
        held(entry.max_before >= max_before, 16, "a batch is later than its entry")?;
    }
    Ok(())
}

/// The last given sequence of each idempotent producer, along a partition.
#[derive(Default)]
pub(crate) struct Sequences {
    last: HashMap<u64, u64>,
}

impl Sequences {
    /// Checks 17 for the next batch.
    pub(crate) fn pass(&mut self, header: &BatchHeader) -> Held {
        if header.producer_id == 0 || header.attributes.given_sequences().is_none() {
            return Ok(());
        }
        let last = self.last.insert(header.producer_id, header.base_sequence);
        let rises = last.is_none_or(|last| last < header.base_sequence);
        held(rises, 17, "sequences of a producer do not rise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::Secret;
    use crate::format::index::IndexEntry;
    use crate::format::manifest::EpochStart;
    use crate::segment::FIRST_BATCH;
    use crate::segment::create::active_entry;
    use crate::types::{PartitionId, TopicId};

    fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    /// A segment of the offsets 0 to 9, and the active one.
    fn manifest() -> Manifest {
        let mut sealed = active_entry(at(0), 0, 0);
        sealed.state = SegmentState::Sealed;
        end().end_entry(&mut sealed);
        Manifest {
            topic_id: TopicId([1; 16]),
            partition: PartitionId::new(0),
            secret: Secret::default(),
            log_start: at(3),
            epochs: vec![EpochStart { epoch: 0, start: at(0) }, EpochStart { epoch: 2, start: at(10) }],
            segments: vec![sealed, active_entry(at(10), 0, 2)],
            lost: Vec::new(),
            has_successors: false,
        }
    }

    fn end() -> Point {
        let start = Point::start_of(at(0), 0, 0, 0);
        let max_timestamp = Some(Timestamp::from_millis(5));
        Point { end: at(10), position: FIRST_BATCH + 200, last_crc: 7, max_timestamp, ..start }
    }

    fn header(base: u64) -> BatchHeader {
        BatchHeader { base_offset: at(base), last_offset_delta: 1, count: 2, ..BatchHeader::default() }
    }

    fn number(held: Held) -> u32 {
        held.map_or_else(|broken| broken.number, |()| 0)
    }

    #[test]
    fn segments_out_of_order_and_epochs_that_do_not_rise_are_found() {
        assert_eq!(of_manifest(&manifest()), Ok(()));
        let after = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            number(of_manifest(&manifest))
        };
        assert_eq!(after(|manifest| manifest.segments.reverse()), 7);
        assert_eq!(after(|manifest| manifest.segments[1].base_offset = at(9)), 7);
        assert_eq!(after(|manifest| manifest.segments.truncate(1)), 7);
        assert_eq!(after(|manifest| manifest.epochs.reverse()), 7);
        assert_eq!(after(|manifest| manifest.epochs[1].start = at(0)), 11);
    }

    #[test]
    fn a_start_or_an_epoch_after_the_end_is_found() {
        let numbers = |end| of_bounds(&manifest(), at(end)).map(|broken| broken.number).collect::<Vec<_>>();
        assert_eq!(numbers(10), [0; 0]);
        assert_eq!(numbers(9), [11]);
        assert_eq!(numbers(2), [10, 11]);
    }

    #[test]
    fn a_batch_that_does_not_follow_the_one_before_is_found() {
        assert_eq!(of_place(0, at(10), &header(10)), Ok(()));
        assert_eq!(number(of_place(0, at(10), &header(11))), 4);
        assert_eq!(number(of_place(0, at(10), &header(9))), 4);
        // A rewritten segment has gaps, and no overlaps.
        assert_eq!(of_place(1, at(10), &header(11)), Ok(()));
        assert_eq!(number(of_place(1, at(10), &header(9))), 4);
    }

    #[test]
    fn a_header_that_attests_itself_or_is_of_no_time_is_found() {
        assert_eq!(of_header(&BatchHeader { synced_upto: at(10), ..header(10) }), Ok(()));
        assert_eq!(number(of_header(&BatchHeader { synced_upto: at(11), ..header(10) })), 12);
        let late = Timestamp::from_millis(Timestamp::MAX.as_millis() + 1);
        assert_eq!(number(of_header(&BatchHeader { max_timestamp: late, ..header(10) })), 18);
    }

    #[test]
    fn a_sealed_segment_that_ends_elsewhere_or_has_other_batches_is_found() {
        let entry = manifest().segments[0];
        assert_eq!(of_end(&entry, &end()), Ok(()));
        for wrong in [
            Point { end: at(9), ..end() },
            Point { position: FIRST_BATCH, ..end() },
            Point { last_crc: 8, ..end() },
            Point { max_timestamp: None, ..end() },
        ] {
            assert_eq!(number(of_end(&entry, &wrong)), 6, "{wrong:?}");
        }
    }

    #[test]
    fn an_index_of_other_batches_is_found() {
        let places = [(128, at(0), 5), (300, at(2), 3), (500, at(4), 9)];
        let entry = |offset_delta, position, max_before| IndexEntry { offset_delta, position, max_before };
        let index = |entries| IndexFile {
            topic_id: TopicId([1; 16]),
            partition: PartitionId::new(0),
            base_offset: at(0),
            generation: 0,
            log_epoch: 0,
            covers_bytes: 700,
            end_offset: at(6),
            entries,
        };
        assert_eq!(of_index(&index(vec![entry(2, 300, 5), entry(4, 500, 5)]), &places), Ok(()));
        for wrong in [entry(2, 301, 5), entry(3, 300, 5), entry(2, 300, 4)] {
            assert_eq!(number(of_index(&index(vec![wrong]), &places)), 16, "{wrong:?}");
        }
    }

    #[test]
    fn sequences_that_do_not_rise_are_found() {
        let sent = |sequence| {
            let attributes = BatchHeader::default().attributes.with_given_sequences(Some(true));
            BatchHeader { producer_id: 4, base_sequence: sequence, attributes, ..header(0) }
        };
        let mut sequences = Sequences::default();
        assert_eq!(sequences.pass(&sent(3)), Ok(()));
        assert_eq!(sequences.pass(&header(2)), Ok(()));
        assert_eq!(sequences.pass(&BatchHeader { producer_id: 5, ..sent(1) }), Ok(()));
        assert_eq!(number(sequences.pass(&sent(3))), 17);
    }
}
