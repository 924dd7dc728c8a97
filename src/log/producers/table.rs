//! The table of idempotent producers: the last batches of each, and the rule by which its next
//! batch is checked. Pure: no I/O, no locks, no clock.
//!
//! Sequences come from the caller: row ids of an outbox, positions of a source. Those of one
//! producer rise in each partition, with gaps, and across restarts. So they identify records that
//! an earlier run of the program has sent. The table has the offsets of the last five batches of
//! each producer (Kafka's number, `ProducerStateEntry`).
//!
//! The log checks a batch before the write and records it after the write, both under the writer's
//! lock, so a failed write leaves no trace. The table compares no epochs: the names of producers
//! are fenced elsewhere.
//!
//! Nothing expires with time. Kafka forgets an idle producer after a day because its producers are
//! many and have no names. Here they have names, and an outbox that was idle over a weekend must
//! not send its rows twice.

use std::collections::{BTreeMap, VecDeque};

use crate::format::producers::{REMEMBERED, Remembered};
use crate::types::Offset;

/// The sender and the sequences of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceClaim {
    /// Not 0.
    pub(crate) producer_id: u64,
    /// The sequence of its first record.
    pub(crate) first: u64,
    /// The sequence of its last record.
    pub(crate) last: u64,
}

/// The location of the record with a given sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// Not in the log: its sequence is greater than all others.
    New,
    /// In the log, at this offset.
    At(Offset),
    /// In the log, at this offset, if the call's records are those of the batch there. The batch
    /// has gaps between its sequences, and the known ones fit.
    Likely(Offset),
    /// Not in the log, although greater ones are: its sequence is between two consecutive batches.
    Missing,
    /// Not known: its sequence is below the remembered ones, or in a batch with gaps between its
    /// sequences.
    Unknown,
}

/// All idempotent producers of one log, each with its last batches, oldest first. Each has at least
/// one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<u64, VecDeque<Remembered>>,
}

impl Producers {
    /// Returns the producers of a file. Leaves out the first of six batches, because other batches
    /// may have been between it and the next.
    pub(crate) fn new(list: Vec<(u64, Vec<Remembered>)>) -> Self {
        let mut by_id = BTreeMap::<_, VecDeque<_>>::new();
        for (id, batches) in list {
            let older = batches.len().saturating_sub(REMEMBERED);
            by_id.insert(id, batches.into_iter().skip(older).collect());
        }
        Producers { by_id }
    }

    /// Adds batches that were in the log, even if they are deleted. A batch that is known already
    /// stays unchanged.
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

    /// Returns the last batch of each producer.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (u64, Remembered)> {
        self.by_id.iter().filter_map(|(id, batches)| Some((*id, *batches.back()?)))
    }

    /// Returns all producers by id, with the batches as a scan of the log would find them.
    pub(crate) fn list(&self) -> Vec<(u64, Vec<Remembered>)> {
        let as_read = |batch: &Remembered| {
            let first = if batch.is_dense() { batch.first } else { batch.last };
            Remembered { first, ..*batch }
        };
        self.by_id.iter().map(|(id, batches)| (*id, batches.iter().map(as_read).collect())).collect()
    }

    /// Checks that a batch's sequences follow all sequences in the log. For a producer without
    /// known batches every sequence is valid, because its records are deleted or it never sent any.
    ///
    /// # Errors
    /// The last sequence in the log, if the batch does not follow it.
    pub(crate) fn check(&self, claim: &SequenceClaim) -> Result<(), u64> {
        match self.last_sequence(claim.producer_id) {
            Some(last) if claim.first <= last => Err(last),
            _ => Ok(()),
        }
    }

    /// Records a batch that is in the log: after its write, or found by a scan in the order of
    /// offsets. A batch found by a scan is not checked again.
    pub(crate) fn note(&mut self, claim: &SequenceClaim, base_offset: Offset, last_offset: Offset) {
        let SequenceClaim { producer_id, first, last } = *claim;
        let batches = self.by_id.entry(producer_id).or_insert_with(|| VecDeque::with_capacity(REMEMBERED));
        // The last known batch may be the part of this one before the log start.
        if batches.back().is_some_and(|last| last.base_offset >= base_offset) {
            batches.pop_back();
        }
        if batches.len() >= REMEMBERED {
            batches.pop_front();
        }
        batches.push_back(Remembered { first, last, base_offset, last_offset });
    }

    /// Returns the last sequence of a producer in the log.
    pub(crate) fn last_sequence(&self, producer_id: u64) -> Option<u64> {
        self.by_id.get(&producer_id)?.back().map(|batch| batch.last)
    }

    /// Returns the location of the record with this sequence: whether a restarted program must send
    /// it.
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

impl Producers {
    /// As [`locate`](Producers::locate), for the sequences of one call, which must rise.
    ///
    /// In a batch with gaps only the first and the last sequence are known, and after a restart
    /// only the last. If the call has as many sequences for such a batch as it has records, and
    /// those that are known are among them, it is most likely the same call again.
    pub(crate) fn locate_all(&self, producer_id: u64, sequences: &[u64]) -> Vec<Located> {
        let mut located: Vec<_> =
            sequences.iter().map(|sequence| self.locate(producer_id, *sequence)).collect();
        let mut before = None;
        for batch in self.by_id.get(&producer_id).into_iter().flatten() {
            let run = batch.run_of(sequences, before);
            before = Some(batch.last);
            let Some(run) = run.and_then(|run| located.get_mut(run)) else { continue };
            for (nth, located) in (0..).zip(run) {
                if *located == Located::Unknown {
                    *located = Located::Likely(batch.base_offset.plus(nth));
                }
            }
        }
        located
    }
}

impl Remembered {
    /// Returns which of a call's sequences are likely those of this batch, all of them. `before` is
    /// the last sequence of the batch before it, if that is known.
    fn run_of(&self, sequences: &[u64], before: Option<u64>) -> Option<std::ops::Range<usize>> {
        let last = sequences.binary_search(&self.last).ok()?;
        let count = usize::try_from(self.last_offset.since(self.base_offset)).ok()?.checked_add(1)?;
        let first = (last + 1).checked_sub(count)?;
        let is_above = |at: usize| sequences.get(at).is_some_and(|at| before.is_none_or(|last| *at > last));
        let fits = is_above(first) && (!self.knows_first() || sequences.get(first) == Some(&self.first));
        // One more of them would be of this batch too: it is another call.
        let is_longer = before.is_some() && first.checked_sub(1).is_some_and(is_above);
        (fits && !is_longer).then_some(first..last + 1)
    }

    /// Returns the location of a record. The sequence must not be greater than the last one, and
    /// must be greater than those of all batches before.
    fn locate(&self, sequence: u64) -> Located {
        match sequence.checked_sub(self.first) {
            Some(nth) if self.is_dense() => Located::At(self.base_offset.plus(nth)),
            // Check the last sequence first: in a batch with gaps that was read from the log, no
            // other is known.
            _ if sequence == self.last => Located::At(self.last_offset),
            Some(0) => Located::At(self.base_offset),
            _ => Located::Unknown,
        }
    }

    /// Returns whether `first` is the sequence of its first record.
    fn knows_first(&self) -> bool {
        self.first < self.last || self.base_offset == self.last_offset
    }

    /// Returns whether its sequences have no gaps. Then each record's offset is known.
    fn is_dense(&self) -> bool {
        self.last.checked_sub(self.first) == Some(self.last_offset.since(self.base_offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(first: u64, last: u64) -> SequenceClaim {
        SequenceClaim { producer_id: 7, first, last }
    }

    /// Checks a batch of so many records and, if that passes, appends it at the log's end.
    fn append(
        producers: &mut Producers,
        end: &mut u64,
        claim: SequenceClaim,
        records: u64,
    ) -> Result<(), u64> {
        producers.check(&claim)?;
        producers.note(&claim, Offset::new(*end), Offset::new(*end + records - 1));
        *end += records;
        Ok(())
    }

    fn at(offset: u64) -> Located {
        Located::At(Offset::new(offset))
    }

    #[test]
    fn each_record_of_the_last_five_batches_is_located() {
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
    fn a_call_with_gaps_is_located_as_a_whole() {
        let (mut producers, mut end) = (Producers::default(), 0);
        append(&mut producers, &mut end, claim(1, 2), 2).unwrap();
        append(&mut producers, &mut end, claim(10, 20), 3).unwrap();
        let likely = |offset| Located::Likely(Offset::new(offset));
        let locate = |producers: &Producers, sequences: &[u64]| producers.locate_all(7, sequences);
        assert_eq!(locate(&producers, &[10, 15, 20]), [at(2), likely(3), at(4)]);
        assert_eq!(locate(&producers, &[2, 10, 15, 20, 21]), [at(1), at(2), likely(3), at(4), Located::New]);
        // Another number of records, or another first one.
        for other in [&[10, 20][..], &[10, 12, 15, 20], &[15, 20], &[11, 15, 20], &[10, 15], &[3, 10, 15, 20]]
        {
            let located = locate(&producers, other);
            assert!(!located.iter().any(|found| matches!(found, Located::Likely(_))), "{other:?}");
        }
        // As it is read from the log, where only the last sequence is known.
        let read = Producers::new(producers.list());
        assert_eq!(locate(&read, &[10, 15, 20]), [likely(2), likely(3), at(4)]);
        assert_eq!(locate(&read, &[1, 10, 15, 20]), [at(0), likely(2), likely(3), at(4)]);
        for other in [&[15, 20][..], &[3, 10, 15, 20]] {
            let located = locate(&read, other);
            assert!(!located.iter().any(|found| matches!(found, Located::Likely(_))), "{other:?}");
        }
        assert_eq!(producers.locate_all(8, &[1, 2]), [Located::New; 2]);
    }

    #[test]
    fn sequences_rise_with_gaps() {
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
    fn an_unknown_producer_may_begin_with_any_sequence() {
        let producers = Producers::default();
        assert_eq!(producers.check(&claim(77, 80)), Ok(()));
        assert_eq!((producers.last_sequence(7), producers.locate(7, 0)), (None, Located::New));
    }

    #[test]
    fn a_sequence_is_located_only_if_its_offset_is_known() {
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
        // As read from the log: only the last sequence is known.
        append(&mut producers, &mut end, claim(60, 60), 3).unwrap();
        assert_eq!([50, 41].map(|s| producers.locate(7, s)), [Located::Unknown; 2]);
        assert_eq!(producers.locate(7, 60), at(8));
        append(&mut producers, &mut end, claim(62, 62), 1).unwrap();
        assert_eq!(producers.locate(7, 61), Located::Missing);
    }
}
