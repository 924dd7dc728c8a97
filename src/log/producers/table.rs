//! Has this record been appended before? What a log remembers of each named producer, and the rule by which its next batch
//! is judged. Pure: no I/O, no locks, no clock.
//!
//! Sequences are the caller's: row ids of an outbox, positions of a source. Those of one producer rise in each partition,
//! with gaps, and over restarts: so they find what an earlier run of the program has sent already. Of its last five batches
//! (Kafka's number, `ProducerStateEntry`) it is remembered where they are.
//!
//! The log checks before it writes and notes behind the write, both under the writer's lock: so a write that fails leaves no
//! trace. It compares no epochs: who may send at all is decided where names are given out.
//!
//! Nothing expires with time. Kafka forgets an idle producer after a day since its producers are many and nameless; here
//! they are named, and an outbox that was quiet over a weekend is no reason to send its rows twice.

use std::collections::{BTreeMap, VecDeque};

use crate::format::producers::{REMEMBERED, Remembered};
use crate::types::Offset;

/// What a batch says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Not 0.
    pub(crate) producer_id: u64,
    /// The sequence of its first record.
    pub(crate) first: u64,
    /// The sequence of its last record.
    pub(crate) last: u64,
}

/// Where the record with a given sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// Not in the log: its sequence is above all.
    New,
    /// Here.
    At(Offset),
    /// Not in the log, although greater ones are: it lies between two batches that follow each other.
    Missing,
    /// Nobody can tell any more whether it is there: it lies below what is remembered, or in a batch with gaps between its
    /// sequences.
    Unknown,
}

/// All named producers of one log, each with its last batches, oldest first; at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<u64, VecDeque<Remembered>>,
}

impl Producers {
    /// What a file lists. Of six batches the first is left out, because others may have been
    /// between it and the next.
    pub(crate) fn new(list: Vec<(u64, Vec<Remembered>)>) -> Self {
        let mut by_id = BTreeMap::<_, VecDeque<_>>::new();
        for (id, batches) in list {
            let older = batches.len().saturating_sub(REMEMBERED);
            by_id.insert(id, batches.into_iter().skip(older).collect());
        }
        Producers { by_id }
    }

    /// Adds batches that were in the log, whether it still has them or not. One that is known
    /// already stays as it is.
    pub(crate) fn merge(&mut self, list: Vec<(u64, Vec<Remembered>)>) {
        for (id, batches) in list {
            let known = self.by_id.entry(id).or_default();
            for batch in batches {
                let at = known.partition_point(|known| known.base_offset < batch.base_offset);
                if known.get(at).is_none_or(|known| known.base_offset != batch.base_offset) {
                    known.insert(at, batch);
                }
            }
            let older = known.len().saturating_sub(REMEMBERED);
            known.drain(..older);
        }
        self.by_id.retain(|_, batches| !batches.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The last batch of each.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (u64, Remembered)> {
        self.by_id.iter().filter_map(|(id, batches)| Some((*id, *batches.back()?)))
    }

    /// All of them, by id, as they would be read from the log.
    pub(crate) fn list(&self) -> Vec<(u64, Vec<Remembered>)> {
        let as_read = |batch: &Remembered| {
            let first = if batch.is_dense() { batch.first } else { batch.last };
            Remembered { first, ..*batch }
        };
        self.by_id.iter().map(|(id, batches)| (*id, batches.iter().map(as_read).collect())).collect()
    }

    /// Whether a batch may be appended: its sequences follow all that are in the log. Whatever a producer of which nothing
    /// is known has sent before is gone with its records, or never was here: any sequence will do.
    ///
    /// # Errors
    /// The last sequence in the log, if it does not follow that.
    pub(crate) fn check(&self, claim: &Claim) -> Result<(), u64> {
        match self.last_sequence(claim.producer_id) {
            Some(last) if claim.first <= last => Err(last),
            _ => Ok(()),
        }
    }

    /// Remembers a batch that is in the log now: behind its write, or found by a scan in the order of offsets. A scan
    /// believes what it finds, since it was judged when it was written.
    pub(crate) fn note(&mut self, claim: &Claim, base_offset: Offset, last_offset: Offset) {
        let Claim { producer_id, first, last } = *claim;
        let batches = self.by_id.entry(producer_id).or_insert_with(|| VecDeque::with_capacity(REMEMBERED));
        // What is known of its records before the log start is the same batch.
        if batches.back().is_some_and(|last| last.base_offset >= base_offset) {
            batches.pop_back();
        }
        if batches.len() >= REMEMBERED {
            batches.pop_front();
        }
        batches.push_back(Remembered { first, last, base_offset, last_offset });
    }

    /// The last sequence of a producer that is in the log.
    pub(crate) fn last_sequence(&self, producer_id: u64) -> Option<u64> {
        self.by_id.get(&producer_id)?.back().map(|batch| batch.last)
    }

    /// Where the record with this sequence is: whether a program that begins anew need send it.
    pub(crate) fn locate(&self, producer_id: u64, sequence: u64) -> Located {
        if self.last_sequence(producer_id).is_none_or(|last| sequence > last) {
            return Located::New;
        }
        let mut batches = self.by_id.get(&producer_id).into_iter().flatten();
        let mut is_oldest = true;
        let found = batches.find(|batch| {
            let is_here = sequence <= batch.last;
            is_oldest &= is_here;
            is_here
        });
        match found {
            Some(batch) if sequence < batch.first && batch.knows_first() => {
                if is_oldest {
                    Located::Unknown
                } else {
                    Located::Missing
                }
            }
            Some(batch) => batch.locate(sequence),
            None => Located::Unknown,
        }
    }
}

impl Remembered {
    /// Where the record is whose sequence is not above the last one, and above those of all batches before.
    fn locate(&self, sequence: u64) -> Located {
        match sequence.checked_sub(self.first) {
            Some(nth) if self.is_dense() => Located::At(self.base_offset.plus(nth)),
            // The last one first: of a batch that was read from the log with gaps in it, nothing else is known.
            _ if sequence == self.last => Located::At(self.last_offset),
            Some(0) => Located::At(self.base_offset),
            _ => Located::Unknown,
        }
    }

    /// Whether `first` is that of its first record.
    fn knows_first(&self) -> bool {
        self.first < self.last || self.base_offset == self.last_offset
    }

    /// Whether its sequences have no gaps: then each record's offset is known.
    fn is_dense(&self) -> bool {
        self.last.checked_sub(self.first) == Some(self.last_offset.since(self.base_offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(first: u64, last: u64) -> Claim {
        Claim { producer_id: 7, first, last }
    }

    /// Judges a batch of so many records and, if it may be, appends it at the log's end.
    fn append(producers: &mut Producers, end: &mut u64, claim: Claim, records: u64) -> Result<(), u64> {
        producers.check(&claim)?;
        producers.note(&claim, Offset::new(*end), Offset::new(*end + records - 1));
        *end += records;
        Ok(())
    }

    fn at(offset: u64) -> Located {
        Located::At(Offset::new(offset))
    }

    #[test]
    fn i1_each_record_of_the_last_five_batches_is_located() {
        let (mut producers, mut end) = (Producers::default(), 100);
        for i in 0..7 {
            append(&mut producers, &mut end, claim(2 * i, 2 * i + 1), 2).unwrap();
        }
        for sequence in 4..14 {
            assert_eq!(producers.locate(7, sequence), at(100 + sequence));
        }
        assert_eq!([0, 3].map(|sequence| producers.locate(7, sequence)), [Located::Unknown; 2]);
        assert_eq!(producers.locate(7, 14), Located::New);
    }

    #[test]
    fn i4_sequences_rise_with_gaps() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, claim(10, 12), 3).unwrap();
        append(&mut producers, &mut end, claim(20, 40), 3).unwrap();
        for (first, last) in [(10, 11), (11, 20), (13, 15), (20, 40), (40, 40), (40, 41)] {
            assert_eq!(producers.check(&claim(first, last)), Err(40), "{first} to {last}");
        }
        assert_eq!(append(&mut producers, &mut end, claim(42, 42), 1), Ok(()));
        assert_eq!(producers.last_sequence(7), Some(42));
        let most = claim(u64::MAX, u64::MAX);
        assert_eq!(append(&mut producers, &mut end, most, 1), Ok(()));
        assert_eq!(producers.check(&most), Err(u64::MAX));
    }

    #[test]
    fn i6_an_unknown_producer_begins_anywhere() {
        let producers = Producers::default();
        assert_eq!(producers.check(&claim(77, 80)), Ok(()));
        assert_eq!((producers.last_sequence(7), producers.locate(7, 0)), (None, Located::New));
    }

    #[test]
    fn a_sequence_is_located_as_far_as_that_is_known() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, claim(10, 12), 3).unwrap();
        append(&mut producers, &mut end, claim(20, 40), 3).unwrap();
        for (sequence, place) in [(10, at(0)), (11, at(1)), (12, at(2)), (20, at(3)), (40, at(5))] {
            assert_eq!(producers.locate(7, sequence), place, "{sequence}");
        }
        assert_eq!([9, 30].map(|s| producers.locate(7, s)), [Located::Unknown; 2]);
        assert_eq!([13, 19].map(|s| producers.locate(7, s)), [Located::Missing; 2]);
        assert_eq!(producers.locate(7, 41), Located::New);
        assert_eq!(producers.locate(8, 10), Located::New, "another producer");
        // As it is read from the log: only the last of its sequences is known.
        append(&mut producers, &mut end, claim(60, 60), 3).unwrap();
        assert_eq!([50, 41].map(|s| producers.locate(7, s)), [Located::Unknown; 2]);
        assert_eq!(producers.locate(7, 60), at(8));
        append(&mut producers, &mut end, claim(62, 62), 1).unwrap();
        assert_eq!(producers.locate(7, 61), Located::Missing);
    }
}
