//! Where may a record with a sequence be that was sent before its topic was given more partitions?
//! Where its key belonged then. It is searched for there before it is appended where its key
//! belongs now, because a log knows its own sequences only.

use std::collections::HashMap;

use super::original::original;
use super::outbox::Outbox;
use crate::broker::{ProducerIdentity, TopicState};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::log::cursor::Cursor;
use crate::log::producers::Located;
use crate::log::{Log, durability, idempotence};
use crate::partitioner::partition_for_key;
use crate::reader::read_once;
use crate::record::Record;
use crate::records::Records;
use crate::sync::Arc;
use crate::types::{Offset, Receipt, Start};

/// A topic that was given more partitions, for one call of an idempotent producer.
pub(super) struct Grown<'a> {
    identity: &'a ProducerIdentity,
    logs: Arc<[Arc<Log>]>,
    /// The numbers of partitions that it had.
    earlier: Arc<[u32]>,
    /// Whether the producer has a partitioner of the caller's.
    custom: bool,
    /// Whether records with a key may be compacted away.
    keyed: bool,
    /// The last sequence that the producer had in a partition when the call first looked.
    lasts: HashMap<u32, Option<u64>>,
    /// The greatest of the last sequences in all partitions that there were, once it was looked up.
    greatest: Option<Option<u64>>,
}

/// What an earlier partition has of a record.
enum Trace {
    /// Nothing: the record is not there.
    Nothing,
    /// The record.
    Record(Offset),
    /// Not enough: the record may be there, or have been there.
    Unclear,
}

impl<'a> Grown<'a> {
    /// `None` if the topic has had the same number of partitions always.
    pub(super) fn of(
        topic: &TopicState,
        identity: &'a ProducerIdentity,
        outbox: &Outbox<TopicState>,
    ) -> Option<Self> {
        let earlier = topic.earlier_counts();
        (!earlier.is_empty()).then(|| Grown {
            identity,
            logs: topic.logs(),
            earlier,
            custom: outbox.core().config.partitioner.is_some(),
            keyed: topic.needs_keys(),
            lasts: HashMap::new(),
            greatest: None,
        })
    }

    /// The log and the first receipt of a record that is not where `log`, to which it would go now,
    /// remembers it.
    ///
    /// # Errors
    /// `PossibleDuplicate` if it cannot be decided; the errors of reading.
    pub(super) fn find(
        &mut self,
        record: &Record<'_>,
        sequence: u64,
        log: &Arc<Log>,
    ) -> Result<Option<(Arc<Log>, Receipt)>> {
        let key = record.key_bytes().filter(|_| !self.custom);
        if self.is_new(key, sequence, log)? {
            return Ok(None);
        }
        let here = idempotence::locate(log, self.identity.id, sequence)?.1;
        if matches!(here, Located::At(_) | Located::Likely(_)) {
            return Ok(None);
        }
        let is_here = |earlier: &Arc<Log>| Arc::ptr_eq(earlier, log);
        // It may be in the log to which it would go now, in a batch that the log no longer
        // remembers.
        let candidates = self.candidates(key).filter(|other| here == Located::Unknown || !is_here(other));
        for earlier in candidates {
            let reason = match (self.trace(earlier, record, sequence)?, key) {
                (Trace::Nothing, _) => continue,
                // The append returns that error, because the sequence is not a new one.
                (Trace::Unclear, _) if is_here(earlier) => continue,
                (Trace::Record(offset), Some(_)) => match original(earlier, offset, None)? {
                    Some(receipt) => return Ok(Some((earlier.clone(), receipt))),
                    None => UNCLEAR,
                },
                (Trace::Unclear, Some(_)) => UNCLEAR,
                (Trace::Record(_) | Trace::Unclear, None) if self.custom => {
                    "the partition that a custom partitioner chose then is not known"
                }
                (Trace::Record(_) | Trace::Unclear, None) => {
                    "without a key it has no partition that follows from the record"
                }
            };
            return Err(self.possible(earlier, sequence, reason));
        }
        Ok(None)
    }

    /// Whether the sequence is greater than each that the producer has in the partitions where the
    /// record may be. So a call looks up each partition once, and not for each of its records.
    fn is_new(&mut self, key: Option<&[u8]>, sequence: u64, log: &Arc<Log>) -> Result<bool> {
        let is_new = |last: Option<u64>| last.is_none_or(|last| sequence > last);
        if !is_new(self.last_in(log.partition().get())?) {
            return Ok(false);
        }
        let earlier = self.earlier.clone();
        let Some(key) = key else {
            if self.greatest.is_none() {
                let mut greatest = None;
                let count = earlier.last().copied().unwrap_or(0) as usize;
                for log in self.logs.iter().take(count) {
                    greatest = greatest.max(idempotence::locate(log, self.identity.id, 0)?.0);
                }
                self.greatest = Some(greatest);
            }
            return Ok(self.greatest.is_some_and(is_new));
        };
        for count in earlier.iter() {
            if !is_new(self.last_in(partition_for_key(key, *count))?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn last_in(&mut self, number: u32) -> Result<Option<u64>> {
        if let Some(last) = self.lasts.get(&number) {
            return Ok(*last);
        }
        let last = match self.logs.get(number as usize) {
            Some(log) => idempotence::locate(log, self.identity.id, 0)?.0,
            None => None,
        };
        self.lasts.insert(number, last);
        Ok(last)
    }

    /// The logs that the record may be in, each once: those that its key belonged to, or without a
    /// key, or with a partitioner of the caller's, all that there were.
    fn candidates(&self, key: Option<&[u8]>) -> impl Iterator<Item = &Arc<Log>> {
        let mut numbers: Vec<u32> = match key {
            Some(key) => self.earlier.iter().map(|count| partition_for_key(key, *count)).collect(),
            None => (0..self.earlier.last().copied().unwrap_or(0)).collect(),
        };
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().filter_map(|number| self.logs.get(number as usize))
    }

    fn trace(&self, log: &Arc<Log>, record: &Record<'_>, sequence: u64) -> Result<Trace> {
        match idempotence::locate(log, self.identity.id, sequence)?.1 {
            Located::New | Located::Missing => Ok(Trace::Nothing),
            Located::At(offset) | Located::Likely(offset) => {
                durability::sync_to_see(log, offset)?;
                compare(log, offset, record)
            }
            Located::Unknown => self.search(log, record, sequence),
        }
    }

    /// The log does not remember the batch, or not all of its sequences: searches for it from the
    /// log start.
    fn search(&self, log: &Arc<Log>, record: &Record<'_>, sequence: u64) -> Result<Trace> {
        log.sync()?;
        let mut cursor = Cursor::new(log.clone(), log.log_start());
        // Whether no batch that is deleted can have it.
        let mut complete = log.log_start() == Offset::ZERO && !self.keyed;
        loop {
            let header = match cursor.peek_any() {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(Trace::Unclear),
                Err(_) if cursor.offset() < log.log_start() => {
                    complete = false;
                    cursor.go_to(log.log_start());
                    continue;
                }
                Err(error) => return Err(error),
            };
            cursor.pass(&header);
            let dense = header.attributes.given_sequences();
            let Some(dense) = dense.filter(|_| header.producer_id == self.identity.id) else { continue };
            let Some(back) = header.base_sequence.checked_sub(sequence) else {
                complete = !self.keyed;
                continue;
            };
            // No later batch has it. This one does, or a deleted one, or none.
            let last = header.base_offset.plus(u64::from(header.last_offset_delta));
            let found = match dense {
                true if back > u64::from(header.last_offset_delta) => Trace::Nothing,
                true => return compare(log, Offset::new(last.get() - back), record),
                false => compare_all(log, &header, record)?,
            };
            return Ok(match found {
                Trace::Nothing if !complete => Trace::Unclear,
                found => found,
            });
        }
    }

    fn possible(&self, log: &Log, sequence: u64, reason: &'static str) -> Error {
        let producer = self.identity.name.clone();
        let (topic, partition) = (log.topic().clone(), log.partition());
        Error::PossibleDuplicate { producer, topic, partition, sequence, reason }
    }
}

/// Whether the record with this sequence, which is at this offset, is the one: another one may
/// have the same sequence in another partition.
fn compare(log: &Arc<Log>, offset: Offset, record: &Record<'_>) -> Result<Trace> {
    let records = read_at(log, offset, 1)?;
    let found = records.iter().next().filter(|found| found.offset() == offset);
    Ok(match found {
        Some(found) if found.key() == record.key_bytes() => Trace::Record(offset),
        Some(_) => Trace::Nothing,
        None => Trace::Unclear,
    })
}

/// Whether the record is one of a batch with gaps between its sequences.
fn compare_all(log: &Arc<Log>, header: &BatchHeader, record: &Record<'_>) -> Result<Trace> {
    let records = read_at(log, header.base_offset, 1)?;
    let of_batch = records.iter().filter(|found| found.offset() < header.end_offset());
    let mut count = 0;
    let mut trace = Trace::Nothing;
    for found in of_batch {
        count += 1;
        if found.key() != record.key_bytes() {
            continue;
        }
        if found.value() == record.value_bytes() {
            return Ok(Trace::Record(found.offset()));
        }
        // Another record of this key. Which sequences they have is not known.
        if record.key_bytes().is_some() {
            trace = Trace::Unclear;
        }
    }
    let is_whole = count == u64::from(header.last_offset_delta) + 1;
    Ok(if is_whole { trace } else { Trace::Unclear })
}

/// The batch at an offset, of which all records are read; none if it is deleted.
fn read_at(log: &Arc<Log>, offset: Offset, max_bytes: usize) -> Result<Records> {
    match read_once(log, Start::At(offset), max_bytes) {
        Err(Error::OffsetOutOfRange { .. }) => Ok(Records::default()),
        records => records,
    }
}

/// Why a record with a key cannot be decided on.
const UNCLEAR: &str = "of the records there with its key not all are left, or their sequences are not known";
