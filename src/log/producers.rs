//! Has this batch been appended before? What a log remembers of each identified producer, and the rules by which the next
//! batch is judged. Pure: no I/O, no locks, no clock.
//!
//! Kafka's rules, with its five batches per producer and partition (`ProducerStateManager`, `ProducerAppendInfo`). The caller
//! checks before it writes and notes behind the write, both under the writer's lock: so a write that fails leaves no trace.
//!
//! Sequences come in two kinds, and one producer has one kind per partition:
//! - *Counted* by the producer itself, one per record, 31 bits, beginning at 0 in each epoch. They find the repetition of a
//!   batch.
//! - *Given* by the caller: row ids of an outbox, positions of a source. They rise strictly, with gaps, and go on over
//!   epochs: so they find what an earlier run of the program has sent already.
//!
//! Nothing expires with time. Kafka forgets an idle producer after a day since its producers are many and nameless; here
//! they are named, and an outbox that was quiet over a weekend is no reason to send its rows twice.

use std::collections::{BTreeMap, VecDeque};

use crate::types::{Offset, Timestamp};

/// How many batches are remembered per producer.
pub(crate) const REMEMBERED: usize = 5;

/// How many counted sequences there are: behind the last comes 0.
const COUNTED: u64 = 1 << 31;

/// Where a batch's sequences come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequencing {
    /// The producer counts records.
    Counted,
    /// The caller gives each record its own.
    Given,
}

/// What a batch says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Not 0.
    pub(crate) producer_id: u64,
    pub(crate) epoch: u16,
    pub(crate) sequencing: Sequencing,
    /// The sequence of its first record.
    pub(crate) first: u64,
    /// The sequence of its last record.
    pub(crate) last: u64,
}

/// A batch that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) epoch: u16,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) timestamp: Timestamp,
}

/// What to do with a batch that breaks no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    New,
    /// It is this one: answer with what that was answered with.
    Duplicate(Remembered),
}

/// Why a batch may not be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A later handle of the same name has appended.
    Fenced {
        /// The epoch of that one.
        epoch: u16,
    },
    /// It neither follows the last batch nor repeats one that is remembered.
    OutOfOrder {
        /// The last sequence in the log, if it is one of this epoch.
        last: Option<u64>,
    },
    /// The producer's other batches here are sequenced the other way.
    Mixed,
}

/// Where the record with a given sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// Not in the log: its sequence is above all.
    New,
    /// Here.
    At(Offset),
    /// In this batch, if anywhere: there are gaps between its sequences, and only its records say.
    Within(Remembered),
    /// Below what is remembered, or in a gap between two batches.
    Unknown,
}

/// All identified producers of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<u64, Producer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: u16,
    sequencing: Sequencing,
    /// The last ones, oldest first; at least one.
    batches: VecDeque<Remembered>,
}

impl Producers {
    /// What to do with a batch.
    ///
    /// # Errors
    /// It may not be appended.
    pub(crate) fn check(&self, claim: &Claim) -> Result<Verdict, Refusal> {
        let Some(producer) = self.by_id.get(&claim.producer_id) else {
            // Whatever it sent before is gone with its records, or never was here: any sequence will do.
            return Ok(Verdict::New);
        };
        if claim.epoch < producer.epoch {
            return Err(Refusal::Fenced { epoch: producer.epoch });
        }
        if claim.sequencing != producer.sequencing {
            return Err(Refusal::Mixed);
        }
        let in_sequence = match (producer.last(), claim.sequencing) {
            (_, Sequencing::Counted) if claim.epoch > producer.epoch => {
                // It counts anew, and what earlier epochs counted is no repetition of it.
                let last = None;
                return if claim.first == 0 { Ok(Verdict::New) } else { Err(Refusal::OutOfOrder { last }) };
            }
            (last, Sequencing::Counted) => last.is_none_or(|last| claim.first == counted_behind(last, 1)),
            (last, Sequencing::Given) => last.is_none_or(|last| claim.first > last),
        };
        let same = |batch: &&Remembered| (batch.first, batch.last) == (claim.first, claim.last);
        if let Some(batch) = producer.batches.iter().rev().find(same) {
            return Ok(Verdict::Duplicate(*batch));
        }
        if in_sequence { Ok(Verdict::New) } else { Err(Refusal::OutOfOrder { last: producer.last() }) }
    }

    /// Remembers a batch that is in the log now: behind its write, or found by a scan in the order of offsets. A scan
    /// believes what it finds, since it was judged when it was written.
    pub(crate) fn note(
        &mut self,
        claim: &Claim,
        base_offset: Offset,
        last_offset: Offset,
        timestamp: Timestamp,
    ) {
        let Claim { producer_id, epoch, sequencing, first, last } = *claim;
        let producer = self.by_id.entry(producer_id).or_insert_with(|| Producer {
            epoch,
            sequencing,
            batches: VecDeque::with_capacity(REMEMBERED),
        });
        let counts_anew = sequencing == Sequencing::Counted && producer.epoch != epoch;
        if counts_anew || producer.sequencing != sequencing {
            producer.batches.clear();
        }
        producer.epoch = epoch;
        producer.sequencing = sequencing;
        if producer.batches.len() >= REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Remembered { epoch, first, last, base_offset, last_offset, timestamp });
    }

    /// The last sequence of a producer that is in the log.
    pub(crate) fn last_sequence(&self, producer_id: u64) -> Option<u64> {
        self.by_id.get(&producer_id).and_then(Producer::last)
    }

    /// Where the record with this given sequence is: whether a program that begins anew need send it.
    pub(crate) fn locate(&self, producer_id: u64, sequence: u64) -> Located {
        let Some(producer) = self.by_id.get(&producer_id) else { return Located::New };
        if producer.last().is_none_or(|last| sequence > last) {
            return Located::New;
        }
        let holds = |batch: &&Remembered| (batch.first..=batch.last).contains(&sequence);
        match producer.batches.iter().find(holds) {
            Some(batch) if batch.is_dense() => {
                Located::At(batch.base_offset.plus(sequence.saturating_sub(batch.first)))
            }
            // The last one first: of a batch that was found again with gaps in it, nothing else is known.
            Some(batch) if sequence == batch.last => Located::At(batch.last_offset),
            Some(batch) if sequence == batch.first => Located::At(batch.base_offset),
            Some(batch) => Located::Within(*batch),
            None => Located::Unknown,
        }
    }
}

impl Producer {
    fn last(&self) -> Option<u64> {
        self.batches.back().map(|batch| batch.last)
    }
}

impl Remembered {
    /// Whether its sequences have no gaps: then each record's offset is known.
    fn is_dense(&self) -> bool {
        self.last.checked_sub(self.first) == Some(self.last_offset.since(self.base_offset))
    }
}

/// The counted sequence so many records behind another.
pub(crate) fn counted_behind(sequence: u64, records: u64) -> u64 {
    (sequence % COUNTED + records % COUNTED) % COUNTED
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST_COUNTED: u64 = i32::MAX as u64;

    fn counted(epoch: u16, first: u64, records: u64) -> Claim {
        let last = counted_behind(first, records - 1);
        Claim { producer_id: 7, epoch, sequencing: Sequencing::Counted, first, last }
    }

    fn given(epoch: u16, first: u64, last: u64) -> Claim {
        Claim { producer_id: 7, epoch, sequencing: Sequencing::Given, first, last }
    }

    /// Judges a batch of so many records and, if it is new, appends it at the log's end.
    fn append(
        producers: &mut Producers,
        end: &mut u64,
        claim: Claim,
        records: u64,
    ) -> Result<Verdict, Refusal> {
        let verdict = producers.check(&claim)?;
        if verdict == Verdict::New {
            let (base, last) = (Offset::new(*end), Offset::new(*end + records - 1));
            producers.note(&claim, base, last, Timestamp::from_millis(*end as i64));
            *end += records;
        }
        Ok(verdict)
    }

    fn base_of(verdict: Result<Verdict, Refusal>) -> Option<u64> {
        match verdict {
            Ok(Verdict::Duplicate(batch)) => Some(batch.base_offset.get()),
            _ => None,
        }
    }

    #[test]
    fn i1_i2_each_of_the_last_five_batches_is_answered_with_its_own_offset() {
        let (mut producers, mut end) = (Producers::default(), 100);
        for i in 0..7 {
            assert_eq!(append(&mut producers, &mut end, counted(0, 2 * i, 2), 2), Ok(Verdict::New));
        }
        for i in 2..7 {
            let again = append(&mut producers, &mut end, counted(0, 2 * i, 2), 2);
            assert_eq!(base_of(again), Some(100 + 2 * i));
        }
        assert_eq!(end, 114);
    }

    #[test]
    fn i3_what_is_older_or_overlaps_in_part_is_out_of_order() {
        let (mut producers, mut end) = (Producers::default(), 0);
        for i in 0..6 {
            append(&mut producers, &mut end, counted(0, 2 * i, 2), 2).unwrap();
        }
        let refused = Err(Refusal::OutOfOrder { last: Some(11) });
        assert_eq!(producers.check(&counted(0, 0, 2)), refused);
        for (first, records) in [(10, 1), (10, 3), (9, 2), (11, 1), (11, 2)] {
            assert_eq!(producers.check(&counted(0, first, records)), refused, "{first}, {records}");
        }
    }

    #[test]
    fn i4_a_gap_is_refused_and_the_count_wraps() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, counted(0, LAST_COUNTED - 10, 10), 10).unwrap();
        let last = Some(LAST_COUNTED - 1);
        assert_eq!(producers.check(&counted(0, 0, 1)), Err(Refusal::OutOfOrder { last }));
        // One batch across the wrap, and the next one behind it.
        let across = counted(0, LAST_COUNTED, 3);
        assert_eq!((across.first, across.last), (LAST_COUNTED, 1));
        assert_eq!(append(&mut producers, &mut end, across, 3), Ok(Verdict::New));
        assert_eq!(base_of(producers.check(&across)), Some(10));
        assert_eq!(producers.check(&counted(0, 3, 1)), Err(Refusal::OutOfOrder { last: Some(1) }));
        assert_eq!(producers.check(&counted(0, 2, 1)), Ok(Verdict::New));
    }

    #[test]
    fn i5_an_older_epoch_is_fenced_and_a_newer_one_counts_from_zero() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, counted(3, 0, 1), 1).unwrap();
        assert_eq!(producers.check(&counted(2, 1, 1)), Err(Refusal::Fenced { epoch: 3 }));
        assert_eq!(producers.check(&counted(4, 1, 1)), Err(Refusal::OutOfOrder { last: None }));
        assert_eq!(append(&mut producers, &mut end, counted(4, 0, 1), 1), Ok(Verdict::New), "no duplicate");
        assert_eq!(producers.check(&counted(3, 1, 1)), Err(Refusal::Fenced { epoch: 4 }));
    }

    #[test]
    fn i6_an_unknown_producer_begins_anywhere() {
        let producers = Producers::default();
        assert_eq!(producers.check(&counted(5, 77, 2)), Ok(Verdict::New));
        assert_eq!(producers.check(&given(5, 77, 80)), Ok(Verdict::New));
        assert_eq!((producers.last_sequence(7), producers.locate(7, 0)), (None, Located::New));
    }

    #[test]
    fn given_sequences_have_gaps_and_go_on_over_epochs() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, given(0, 10, 12), 3).unwrap();
        append(&mut producers, &mut end, given(0, 20, 40), 3).unwrap();
        // The next run of the program, with other batches.
        let last = Some(40);
        assert_eq!(producers.last_sequence(7), last);
        for (first, last_of) in [(10, 11), (11, 20), (40, 41), (40, 40)] {
            assert_eq!(producers.check(&given(1, first, last_of)), Err(Refusal::OutOfOrder { last }));
        }
        assert_eq!(base_of(producers.check(&given(1, 20, 40))), Some(3));
        assert_eq!(append(&mut producers, &mut end, given(1, 41, 41), 1), Ok(Verdict::New));
        assert_eq!(producers.check(&given(0, 42, 42)), Err(Refusal::Fenced { epoch: 1 }));
    }

    #[test]
    fn a_given_sequence_is_located_as_far_as_that_is_known() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, given(0, 10, 12), 3).unwrap();
        append(&mut producers, &mut end, given(0, 20, 40), 3).unwrap();
        let at = |offset| Located::At(Offset::new(offset));
        for (sequence, place) in [(10, at(0)), (11, at(1)), (12, at(2)), (20, at(3)), (40, at(5))] {
            assert_eq!(producers.locate(7, sequence), place, "{sequence}");
        }
        assert!(matches!(producers.locate(7, 30), Located::Within(batch) if batch.first == 20));
        assert_eq!([9, 15].map(|s| producers.locate(7, s)), [Located::Unknown; 2]);
        assert_eq!(producers.locate(7, 41), Located::New);
        assert_eq!(producers.locate(8, 10), Located::New, "another producer");
    }

    #[test]
    fn the_two_kinds_are_not_mixed() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, counted(0, 0, 1), 1).unwrap();
        assert_eq!(producers.check(&given(0, 5, 5)), Err(Refusal::Mixed));
        assert_eq!(producers.check(&given(1, 5, 5)), Err(Refusal::Mixed));
    }
}
