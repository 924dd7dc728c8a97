//! The result of a read: batches, shared and not copied, and records that borrow from them.

mod chunk;
mod consumed;

use std::iter::FusedIterator;
use std::{fmt, slice, vec};

pub(crate) use self::chunk::{Chunk, ChunkEnd, Unread};
use self::chunk::{ChunkIter, chunks_of_key};
pub use self::consumed::{ConsumedRecord, OwnedRecord};
use crate::group::state::Stamp;
use crate::segment::batch::Batch;
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, TopicName};

/// The records of one poll or read, oldest first within each partition.
///
/// They are checked and uncompressed, and lie in the buffers or maps that they were read from: no
/// record is allocated or copied, and the reader is free while they are used. They keep those
/// buffers alive; to keep a few records of many for long, take [`OwnedRecord::detach`].
///
/// ```
/// # use quipu::{Broker, Record, Start, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let topic = broker.create_topic("orders", TopicConfig::new())?;
/// # broker.producer().send(&topic, Record::new("42 EUR").key("customer-7"))?.wait()?;
/// let records = topic.partition(0)?.read(Start::Beginning, 1 << 20)?;
/// for record in &records {
///     println!("{} {:?} {:?}", record.position(), record.key(), record.value());
/// }
/// assert_eq!(records.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Records {
    chunks: Vec<Chunk>,
    len: usize,
    bytes: usize,
    skipped: Vec<Skipped>,
}

impl Records {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no record. There may be [`skipped`](Records::skipped) ranges nevertheless.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The size of the records, uncompressed and with their framing, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The records, borrowed: nothing is allocated and nothing counted per record. Backwards
    /// (`rev()`) each batch is walked forwards once, noting where its records are.
    pub fn iter(&self) -> Iter<'_> {
        Iter { chunks: self.chunks.iter(), current: None, back: Vec::new().into_iter(), remaining: self.len }
    }

    /// The last record. It is found by walking the last batch.
    pub fn last(&self) -> Option<ConsumedRecord<'_>> {
        self.chunks.last()?.iter().last()
    }

    /// Ranges of offsets that were left out before these records: records that retention or a
    /// truncation has taken, damaged ones that were [given up](crate::Partition::accept_loss), and
    /// moves by [`OffsetReset`](crate::OffsetReset). Kafka writes a line to its log instead.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The same records separated by partition, in the order of their first records, for example
    /// for workers that share the partitions. A partition where records were skipped and none read
    /// has its own entry, without records.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let topic = broker.create_topic("orders", TopicConfig::new().partitions(2))?;
    /// # for p in topic.partitions() { broker.producer().send(&p, Record::new("v"))?.wait()?; }
    /// let records = broker.reader(&["orders"], Start::Beginning)?.poll(std::time::Duration::ZERO)?;
    /// std::thread::scope(|scope| {
    ///     for part in records.by_partition() {
    ///         scope.spawn(move || assert_eq!(part.len(), 1));
    ///     }
    /// });
    /// # Ok(()) }
    /// ```
    pub fn by_partition(self) -> Vec<Records> {
        let mut parts: Vec<Records> = Vec::new();
        for chunk in self.chunks {
            // A poll visits a partition once, so its chunks follow each other.
            match parts.last_mut() {
                Some(part) if part.holds(&chunk.batch.source.topic, chunk.batch.source.partition) => {
                    part.push(chunk)
                }
                _ => {
                    let mut part = Records::default();
                    part.push(chunk);
                    parts.push(part);
                }
            }
        }
        for skipped in self.skipped {
            match parts.iter_mut().find(|part| part.holds(&skipped.topic, skipped.partition)) {
                Some(part) => part.skip(skipped),
                None => parts.push(Records { skipped: vec![skipped], ..Records::default() }),
            }
        }
        parts
    }

    /// The records with a key, in batches of one partition, without the first `skip` of them.
    pub(crate) fn of_key(batches: Vec<Arc<Batch>>, key: &[u8], skip: u64) -> Records {
        let (mut records, mut skip) = (Records::default(), skip);
        for batch in batches {
            for chunk in chunks_of_key(&batch, key, &mut skip) {
                records.push(chunk);
            }
        }
        records
    }

    /// Adds a run of records.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.len += chunk.count as usize;
        self.bytes += chunk.bytes;
        self.chunks.push(chunk);
    }

    /// Sets the stamp of the poll on all of them.
    pub(crate) fn set_stamp(&mut self, stamp: Stamp) {
        for chunk in &mut self.chunks {
            chunk.stamp = stamp;
        }
    }

    /// How far each partition has been delivered, in the order of the chunks: of several of one
    /// partition the last counts.
    pub(crate) fn ends(&self) -> impl Iterator<Item = ChunkEnd<'_>> {
        self.chunks.iter().map(|chunk| ChunkEnd {
            source: &chunk.batch.source,
            next: chunk.end,
            epoch: chunk.batch.header.log_epoch,
            stamp: chunk.stamp,
        })
    }

    /// Adds a range that was left out.
    pub(crate) fn skip(&mut self, skipped: Skipped) {
        self.skipped.push(skipped);
    }

    /// Whether these are records, or skipped ranges, of this partition; meant for those of one
    /// partition.
    fn holds(&self, topic: &TopicName, partition: PartitionId) -> bool {
        match (self.chunks.first(), self.skipped.first()) {
            (Some(chunk), _) => {
                chunk.batch.source.partition == partition && chunk.batch.source.topic == *topic
            }
            (None, Some(skipped)) => skipped.partition == partition && skipped.topic == *topic,
            (None, None) => false,
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("len", &self.len)
            .field("bytes", &self.bytes)
            .field("first", &self.iter().next())
            .field("skipped", &self.skipped)
            .finish()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = ConsumedRecord<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Records {
    type Item = OwnedRecord;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter { chunks: self.chunks.into_iter(), current: None, remaining: self.len }
    }
}

/// A range of offsets that a reader did not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The offset that should have been read next.
    pub from: Offset,
    /// Where reading continues. It is before `from` if the log was truncated, or never was that
    /// long.
    pub to: Offset,
    /// Why.
    pub reason: SkipReason,
}

impl Skipped {
    pub(crate) fn new(batch_of: &crate::log::Log, from: Offset, to: Offset, reason: SkipReason) -> Self {
        Skipped { topic: batch_of.topic().clone(), partition: batch_of.partition(), from, to, reason }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Skipped { topic, partition, from, to, reason } = self;
        write!(f, "{topic}/{partition} continues at offset {to} instead of {from}: ")?;
        match reason {
            SkipReason::OutOfRange => f.write_str("it is out of range"),
            SkipReason::Truncated { at } => write!(f, "the log was truncated at offset {at}"),
            SkipReason::Lost => f.write_str("the records between were damaged and have been given up"),
        }
    }
}

/// Why a range of offsets was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The offset is not in the log: retention has passed it, or it lies after the visible end.
    OutOfRange,
    /// The log was truncated after the position was taken, and the position lies beyond its new
    /// end.
    #[non_exhaustive]
    Truncated {
        /// Where the log was truncated: the first offset whose record is not the one that the
        /// position knew.
        at: Offset,
    },
    /// The records were damaged, and [`accept_loss`](crate::Partition::accept_loss) has given them
    /// up.
    Lost,
}

/// Iterates over [`Records`], borrowed.
#[derive(Clone)]
pub struct Iter<'a> {
    chunks: slice::Iter<'a, Chunk>,
    current: Option<ChunkIter<'a>>,
    /// The rest of the chunk that `next_back` takes from.
    back: vec::IntoIter<ConsumedRecord<'a>>,
    remaining: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = ConsumedRecord<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<ConsumedRecord<'a>> {
        loop {
            if let Some(record) = self.current.as_mut().and_then(ChunkIter::next) {
                self.remaining = self.remaining.saturating_sub(1);
                return Some(record);
            }
            match self.chunks.next() {
                Some(chunk) => self.current = Some(chunk.iter()),
                None => {
                    let record = self.back.next();
                    self.remaining = self.back.len();
                    return record;
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    /// A batch can only be walked forwards, so it is, and its records are returned from the last
    /// one on.
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.back.next_back() {
                self.remaining = self.remaining.saturating_sub(1);
                return Some(record);
            }
            match self.chunks.next_back().map(Chunk::iter).or_else(|| self.current.take()) {
                Some(chunk) => self.back = chunk.collect::<Vec<_>>().into_iter(),
                None => {
                    self.remaining = 0;
                    return None;
                }
            }
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// Iterates over [`Records`], owned.
pub struct IntoIter {
    chunks: vec::IntoIter<Chunk>,
    current: Option<Chunk>,
    remaining: usize,
}

impl Iterator for IntoIter {
    type Item = OwnedRecord;

    fn next(&mut self) -> Option<OwnedRecord> {
        loop {
            if let Some(record) = self.current.as_mut().and_then(Chunk::pop_front) {
                self.remaining = self.remaining.saturating_sub(1);
                return Some(record);
            }
            match self.chunks.next() {
                Some(chunk) => self.current = Some(chunk),
                None => {
                    self.remaining = 0;
                    return None;
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for IntoIter {}

impl FusedIterator for IntoIter {}

impl fmt::Debug for IntoIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoIter").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
