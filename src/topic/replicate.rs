//! Copies of a partition: raw batches from one and to another, and the log ends that they need.

use super::partition::Partition;
use crate::error::Result;
use crate::log::raw_batches::RawBatches;
use crate::log::replicate;
use crate::log::truncate::{reset_to, truncate_to};
use crate::partitioner::check_stream;
use crate::reader::check_max_bytes;
use crate::types::Offset;

impl Partition {
    /// The batches from an offset on as they are stored, still compressed: to replicate them to a
    /// copy of this partition, which takes them with [`append_raw`](Partition::append_raw). Whole
    /// visible batches, as many as `max_bytes` has room for, at least one, so the first may begin
    /// before `from`; none at the visible end, which is no error. Where offsets are missing, a
    /// shipment ends before the gap, and one from within begins after it.
    ///
    /// Both checksums of every batch are checked; nothing is decompressed. All batches of a
    /// shipment are of one history: it never mixes batches from before a truncation with batches
    /// that replaced them.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig) if `max_bytes` is 0;
    /// [`OffsetOutOfRange`](crate::Error::OffsetOutOfRange) below the log start and above the
    /// visible end; [`Corrupt`](crate::Error::Corrupt) if the first batch is damaged;
    /// [`TopicDeleted`](crate::Error::TopicDeleted), [`Closed`](crate::Error::Closed), or an I/O
    /// error.
    ///
    /// ```
    /// # use quipu::{Broker, Offset, RawBatches, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let (here, there) = (Broker::in_memory()?, Broker::in_memory()?);
    /// let orders = here.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// let copy = there.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// here.producer().send(&orders, Record::new("first"))?.wait()?;
    ///
    /// let bytes = orders.read_raw(copy.bounds()?.log_end, 1 << 20)?.into_bytes();
    /// // ... over any transport ...
    /// let end = copy.append_raw(&RawBatches::from_bytes(bytes)?)?;
    /// assert_eq!(end, 1);
    /// # Ok(()) }
    /// ```
    pub fn read_raw(&self, from: Offset, max_bytes: usize) -> Result<RawBatches> {
        self.state().check()?;
        check_max_bytes(max_bytes)?;
        replicate::read_raw(self.log(), from, max_bytes)
    }

    /// As [`read_raw`](Partition::read_raw), from the end of the last shipment that the copy has
    /// appended: `epoch` is [its epoch](RawBatches::epoch). So a copy never continues after records
    /// that this partition has lost.
    ///
    /// # Errors
    /// [`Truncated`](crate::Error::Truncated) if this partition was truncated before `from` since
    /// that epoch, or by a power loss; its `to` is the offset before which both are the same:
    /// [truncate](Partition::truncate_to) the copy to it. Also if the epoch is later than this
    /// partition's: then it is not known how far both are the same. Otherwise as `read_raw`.
    ///
    /// ```
    /// # use quipu::{Broker, Error, Offset, RawBatches, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let (here, there) = (Broker::in_memory()?, Broker::in_memory()?);
    /// # let orders = here.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// # let copy = there.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// # here.producer().send_all(&orders, ["a", "b"].map(Record::new))?.wait()?;
    /// let shipped = orders.read_raw(Offset::ZERO, 1 << 20)?;
    /// let (end, epoch) = (copy.append_raw(&shipped)?, shipped.epoch());
    ///
    /// orders.truncate_to(Offset::new(1))?;
    /// # here.producer().send_all(&orders, ["c", "d"].map(Record::new))?.wait()?;
    /// let refused = orders.read_raw_in(end, epoch, 1 << 20);
    /// assert!(matches!(refused, Err(quipu::Error::Truncated { to, .. }) if to == 1));
    /// # Ok(()) }
    /// ```
    pub fn read_raw_in(&self, from: Offset, epoch: u32, max_bytes: usize) -> Result<RawBatches> {
        self.state().check()?;
        check_max_bytes(max_bytes)?;
        replicate::read_raw_in(self.log(), from, epoch, max_bytes)
    }

    /// Appends batches that were read from another partition with
    /// [`read_raw`](Partition::read_raw), of any topic and broker: offsets, timestamps and stored
    /// bodies are kept, so this partition becomes a copy of that one. Returns the new log end, once
    /// everything below it is visible: as safe as the *receiving* topic's durability demands.
    ///
    /// *Sending again is harmless:* batches that lie wholly below the log end are skipped. Those
    /// that can still be read here are compared first, by length, offsets and checksum.
    ///
    /// Everything is checked before anything is written, down to the single record. The first batch
    /// that is not skipped must begin at the log end. Do not append to a copy by other means,
    /// because it would no longer be one. Where [compaction](crate::Cleanup) took whole batches of
    /// the source that the copy does not have yet, there is a gap, which is refused as any other.
    ///
    /// *A copy that starts late, or is so far behind* that the source's log start has passed its
    /// end, must read from that log start, start over at the shipment's
    /// [`base_offset`](RawBatches::base_offset) with [`reset_to`](Partition::reset_to), and append
    /// the shipment.
    ///
    /// *A copy that holds other records than its source*, because its source was
    /// [truncated](Partition::truncate_to) or is another one now (its [`epoch`](RawBatches::epoch)
    /// has risen, its end lies before the copy's): truncate the copy to an offset up to which both
    /// are known to agree, or send it batches from before that. `Diverged` then names the offset to
    /// truncate it to, and from which to read on; if that is where the shipment begins, the records
    /// before it were not compared.
    ///
    /// Transaction ids and log epochs are not kept, because they have a meaning only in the source.
    /// The receiving topic's limit on the size of records and its [timestamps of the
    /// append](crate::TimestampType::Append) are not applied.
    ///
    /// # Errors
    /// Nothing was appended: [`OffsetConflict`](crate::Error::OffsetConflict) if there is a gap, or
    /// a batch overlaps the log end; [`Diverged`](crate::Error::Diverged) if a batch to be skipped
    /// differs from the one that is here; [`InvalidBatches`](crate::Error::InvalidBatches) if a
    /// body cannot be decompressed or does not hold records;
    /// [`RecordTooLarge`](crate::Error::RecordTooLarge) if a batch fits no segment of this topic;
    /// [`MissingKey`](crate::Error::MissingKey) if the topic is compacted or keeps streams and a
    /// record has no key; [`Streams`](crate::Error::Streams) if it keeps streams and one belongs to
    /// another partition; [`Poisoned`](crate::Error::Poisoned), [`Corrupt`](crate::Error::Corrupt),
    /// [`TopicDeleted`](crate::Error::TopicDeleted), [`Closed`](crate::Error::Closed). With
    /// [`DiskFull`](crate::Error::DiskFull) the batches up to some point may have been appended,
    /// and no others; sending all of them again continues from there.
    /// [`Truncated`](crate::Error::Truncated) if they were truncated while this waited for them to
    /// become visible. Or another I/O error.
    pub fn append_raw(&self, batches: &RawBatches) -> Result<Offset> {
        self.state().check()?;
        // No partition is ever added where keys are streams.
        let count = self.state().log_count();
        replicate::append_raw(self.log(), batches, |key| {
            check_stream(self.topic(), Some(key), self.id().get(), count)
        })
    }

    /// Drops the tail: the log ends at `offset`, also after a crash, and the next record gets that
    /// offset. At or after the log end there is nothing to do. The cost does not depend on how much
    /// is dropped.
    ///
    /// The [log epoch](Partition::epoch) rises. Positions, and acknowledgements that are still
    /// waited for, beyond `offset` return [`Truncated`](crate::Error::Truncated), and readers
    /// follow their [reset policy](crate::Reader::offset_reset); readers keep the records that they
    /// have. Records that a producer has not written yet are appended afterwards.
    ///
    /// The records that are kept are durable on return, whatever the topic's durability.
    ///
    /// # Errors
    /// [`OffsetOutOfRange`](crate::Error::OffsetOutOfRange) below the log start;
    /// [`Poisoned`](crate::Error::Poisoned) if the partition takes no appends;
    /// [`Corrupt`](crate::Error::Corrupt) if the part of the last segment or batch that is kept
    /// cannot be read; [`TopicDeleted`](crate::Error::TopicDeleted),
    /// [`Closed`](crate::Error::Closed); [`DiskFull`](crate::Error::DiskFull),
    /// [`GenerationsExhausted`](crate::Error::GenerationsExhausted): nothing has changed. Or
    /// another I/O error: the log is unchanged, and the partition is poisoned if a restart may find
    /// something else.
    ///
    /// ```
    /// # use quipu::{Broker, Offset, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// let partition = topic.partition(0)?;
    /// for value in ["first", "second", "third"] {
    ///     broker.producer().send(&partition, Record::new(value))?.wait()?;
    /// }
    /// partition.truncate_to(Offset::new(1))?;
    /// assert_eq!(partition.bounds()?.log_end, 1);
    /// let receipt = broker.producer().send(&partition, Record::new("another second"))?.wait()?;
    /// assert_eq!(receipt.offset, 1);
    /// # Ok(()) }
    /// ```
    pub fn truncate_to(&self, offset: Offset) -> Result<()> {
        self.state().check()?;
        truncate_to(self.log(), offset)
    }

    /// Drops everything and continues at `offset`, which may lie before, within or beyond the log:
    /// the log starts and ends there, also after a crash. For a copy that starts over at the offset
    /// of its source.
    ///
    /// The [log epoch](Partition::epoch) rises. Every older position beyond the first offset that
    /// the log had, or beyond `offset` if that is less, returns
    /// [`Truncated`](crate::Error::Truncated), whose `to` may therefore lie before the log start;
    /// any other position is out of range, or it was before all records and still is. Otherwise as
    /// [`truncate_to`](Partition::truncate_to).
    ///
    /// # Errors
    /// [`OffsetOutOfRange`](crate::Error::OffsetOutOfRange) beyond 2^63; otherwise as
    /// [`truncate_to`](Partition::truncate_to).
    ///
    /// ```
    /// # use quipu::{Broker, Offset, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// let partition = topic.partition(0)?;
    /// partition.reset_to(Offset::new(1_000))?;
    /// let receipt = broker.producer().send(&partition, Record::new("first"))?.wait()?;
    /// assert_eq!((partition.bounds()?.log_start.get(), receipt.offset.get()), (1_000, 1_000));
    /// # Ok(()) }
    /// ```
    pub fn reset_to(&self, offset: Offset) -> Result<()> {
        self.state().check()?;
        reset_to(self.log(), offset)
    }
}
