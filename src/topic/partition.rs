//! One partition of a topic: reading, appending, deleting, compaction and repair.

use crate::broker::{BrokerInner, TopicState};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::log::reopen::reopen;
use crate::log::statistics::{partition_stats, segment_stats};
use crate::log::{Log, compaction, lookup, loss, retention};
use crate::reader::{read_last, read_once};
use crate::records::Records;
use crate::stats::{DamagedRange, PartitionStats, SegmentStats};
use crate::sync::Arc;
use crate::types::{Bounds, Offset, PartitionId, Start, Timestamp, TopicName, TopicPartition};

pub(super) fn give_up(log: &Arc<Log>, ranges: &[DamagedRange]) -> Result<Vec<(Offset, Offset)>> {
    let lost = loss::accept_loss(log, ranges)?;
    Ok(lost.into_iter().map(|range| (range.from, range.to)).collect())
}

/// One partition of a topic: a handle without a position of its own.
#[derive(Clone)]
pub struct Partition {
    broker: Arc<BrokerInner>,
    state: Arc<TopicState>,
    log: Arc<Log>,
}

impl Partition {
    pub(super) fn new(broker: &Arc<BrokerInner>, state: &Arc<TopicState>, log: &Arc<Log>) -> Self {
        Partition { broker: broker.clone(), state: state.clone(), log: log.clone() }
    }

    /// # Errors
    /// `ForeignBroker`: it is not a partition of `broker`.
    #[inline]
    pub(crate) fn check_broker(&self, broker: &BrokerInner) -> Result<()> {
        broker.check_own(&self.broker, || format!("partition {}/{}", self.topic(), self.id()))
    }

    pub(crate) fn state(&self) -> &Arc<TopicState> {
        &self.state
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The topic's name.
    pub fn topic(&self) -> &TopicName {
        &self.state.name
    }

    /// Its number within the topic.
    pub fn id(&self) -> PartitionId {
        self.log.partition()
    }

    /// Where it begins and ends.
    ///
    /// # Errors
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or the error that damaged
    /// all of it.
    pub fn bounds(&self) -> Result<Bounds> {
        self.state.check()?;
        self.log.check_readable()?;
        Ok(self.log.bounds())
    }

    /// Its log epoch: how often its end was truncated so far.
    pub fn epoch(&self) -> u32 {
        self.log.epoch()
    }

    /// Reads the records from a place on, about `max_bytes` of them, at least one batch. At the
    /// visible end there are none, and that is no error; in a gap reading begins after it.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) if `max_bytes` is 0;
    /// [`OffsetOutOfRange`](Error::OffsetOutOfRange) below the log start and above the visible end;
    /// [`Corrupt`](Error::Corrupt) if the first batch is damaged;
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or an I/O error; with
    /// [`Start::Time`] those of [`offset_for_time`](Partition::offset_for_time).
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.producer().send(&topic, Record::new("first"))?.wait()?;
    /// let records = topic.partition(0)?.read(Start::Beginning, 1 << 20)?;
    /// assert_eq!(records.iter().next().unwrap().value(), Some(&b"first"[..]));
    /// # Ok(()) }
    /// ```
    pub fn read(&self, from: Start, max_bytes: usize) -> Result<Records> {
        self.state.check()?;
        read_once(&self.log, from, max_bytes)
    }

    /// The newest `n` visible records, or all if there are fewer, *oldest first*; `iter().rev()`
    /// starts at the newest. Only the batches that hold them are read.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) if one of these batches is damaged, because the rest would not
    /// be the newest `n`; [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or an
    /// I/O error.
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// for n in 0..10 {
    ///     broker.producer().send(&topic, Record::new(n.to_string()))?.wait()?;
    /// }
    /// let newest = topic.partition(0)?.last_n(3)?;
    /// assert_eq!(newest.iter().map(|r| r.offset().get()).collect::<Vec<_>>(), [7, 8, 9]);
    /// assert_eq!(newest.iter().rev().map(|r| r.offset().get()).collect::<Vec<_>>(), [9, 8, 7]);
    /// # Ok(()) }
    /// ```
    pub fn last_n(&self, n: usize) -> Result<Records> {
        self.state.check()?;
        read_last(&self.log, n)
    }

    /// The first visible record with a timestamp of at least `time`: its offset and its timestamp
    /// (Kafka's `offsetsForTimes`); `None` if there is none. Timestamps need not be in order:
    /// records after it may be older, those before it are all older.
    ///
    /// Segments and batches whose greatest timestamp is too small are passed over unread.
    ///
    /// # Errors
    /// [`InvalidTimestamp`](Error::InvalidTimestamp) before 1970; [`Corrupt`](Error::Corrupt) if a
    /// batch that must be read is damaged; [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed), or an I/O error.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Timestamp, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// let at = Timestamp::from_millis;
    /// for time in [100, 300, 200] {
    ///     broker.producer().send(&topic, Record::new("v").timestamp(at(time)))?.wait()?;
    /// }
    /// let partition = topic.partition(0)?;
    /// let (offset, timestamp) = partition.offset_for_time(at(200))?.unwrap();
    /// assert_eq!((offset.get(), timestamp.as_millis()), (1, 300));
    /// assert_eq!(partition.offset_for_time(at(301))?, None);
    /// # Ok(()) }
    /// ```
    pub fn offset_for_time(&self, time: Timestamp) -> Result<Option<(Offset, Timestamp)>> {
        self.state.check()?;
        lookup::find_time(&self.log, time)
    }

    /// The greatest timestamp of all visible records, and the first record that has it (Kafka's
    /// `ListOffsets` with `MAX_TIMESTAMP`). `None` if there is no record.
    ///
    /// # Errors
    /// As [`offset_for_time`](Partition::offset_for_time).
    ///
    /// ```
    /// # use quipu::{Broker, Record, Timestamp, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// for time in [100, 300, 200, 300] {
    ///     let record = Record::new("v").timestamp(Timestamp::from_millis(time));
    ///     broker.producer().send(&topic, record)?.wait()?;
    /// }
    /// let (offset, timestamp) = topic.partition(0)?.max_timestamp()?.unwrap();
    /// assert_eq!((offset.get(), timestamp.as_millis()), (1, 300));
    /// # Ok(()) }
    /// ```
    pub fn max_timestamp(&self) -> Result<Option<(Offset, Timestamp)>> {
        self.state.check()?;
        lookup::find_latest(&self.log)
    }

    /// Deletes the records before an offset: the log starts there from then on, for every reader
    /// and also after a crash. The files of segments that lie wholly before it are deleted; the
    /// segment that holds the offset is kept unchanged until all of it may be deleted. Returns the
    /// log start, which never moves back: an offset before it changes nothing.
    ///
    /// Readers keep the records that they have. One whose position lies before the log start finds
    /// out at its next poll and follows its [reset policy](crate::Reader::offset_reset).
    ///
    /// The records before the new log start are made durable first, whatever the topic's
    /// durability, so that offsets are not used again even after a power loss.
    ///
    /// # Errors
    /// [`Streams`](Error::Streams) if the topic keeps streams;
    /// [`CompactedTopic`](Error::CompactedTopic) if it is only compacted;
    /// [`OffsetOutOfRange`](Error::OffsetOutOfRange) after the visible end;
    /// [`Poisoned`](Error::Poisoned) or [`Corrupt`](Error::Corrupt) if the partition takes no
    /// appends; [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed);
    /// [`DiskFull`](Error::DiskFull): nothing has changed. Or another I/O error: the log start is
    /// unchanged, and the partition is poisoned if a restart may find it elsewhere.
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
    /// assert_eq!(partition.delete_records(Offset::new(2))?, 2);
    /// assert_eq!(partition.bounds()?.log_start, 2);
    /// # Ok(()) }
    /// ```
    pub fn delete_records(&self, before: Offset) -> Result<Offset> {
        self.state.check()?;
        retention::delete_records(&self.log, before)
    }

    /// Compacts this partition of a [compacted](crate::Cleanup) topic now, whatever its dirty
    /// ratio. Of every key in its sealed segments only the newest record stays, and a tombstone
    /// stays until it expires. This is one pass: if [`complete`](crate::stats::Compacted::complete)
    /// is false, the keys did not fit [the memory](crate::BrokerConfig::compaction_memory), and
    /// another call continues. Appending and reading continue meanwhile. Returns `None` if there is
    /// nothing to compact.
    ///
    /// The active segment is not compacted. The disk must have room for the new segments beside the
    /// old ones until the end.
    ///
    /// # Errors
    /// [`NotCompacted`](Error::NotCompacted), [`CompactionAborted`](Error::CompactionAborted),
    /// [`GenerationsExhausted`](Error::GenerationsExhausted), [`Poisoned`](Error::Poisoned),
    /// [`Corrupt`](Error::Corrupt), [`DiskFull`](Error::DiskFull),
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or another I/O error: the
    /// log is unchanged, and the partition is poisoned if a restart may find it compacted.
    pub fn compact(&self) -> Result<Option<crate::stats::Compacted>> {
        self.state.check()?;
        compaction::compact(&self.log)
    }

    /// All damage in this partition, in the order of its offsets. The whole partition is read and
    /// checked, down to the single record; nothing is changed. Retention, truncation and compaction
    /// wait meanwhile; appending and reading do not.
    ///
    /// Empty if the partition is whole, also if a reader met an I/O error there.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) if its manifest is damaged or missing: then its contents are
    /// unknown, and [`Broker::salvage`](crate::Broker::salvage) is the only way.
    /// [`UnsupportedFormat`](Error::UnsupportedFormat), [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed), or an I/O error.
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let partition = broker.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// broker.producer().send(&partition, Record::new("first"))?.wait()?;
    /// let damage = partition.damage()?;
    /// for range in &damage {
    ///     println!("offsets {} to {}: {}", range.from, range.to, range.what);
    /// }
    /// // Only after a look at the damage, and if there is no copy to restore:
    /// partition.accept_loss(&damage)?;
    /// # assert!(damage.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn damage(&self) -> Result<Vec<DamagedRange>> {
        self.state.check()?;
        loss::find_damage(&self.log)
    }

    /// Gives up the damaged records of this partition, so that it works again at once. All damage
    /// must be among `ranges`, as [`damage`](Partition::damage) returned them. After that it takes
    /// appends, and can be read, truncated and compacted. Returns the offsets whose records are
    /// gone, each from the first up to, and without, the second.
    ///
    /// Every whole batch stays at its offset. No offset that was given out is given out again: the
    /// log ends where it was known to end. Readers pass the lost offsets, and
    /// [report](crate::Records::skipped) them as [`SkipReason::Lost`](crate::SkipReason::Lost). The
    /// bytes that are given up are kept beside the segments, in files that end with `.lost`. The
    /// [log epoch](Partition::epoch) rises at the log's end: a position within the log stays good,
    /// because the records that are there are the same as before.
    ///
    /// It is one step: after a crash the partition is either unchanged, or it works again. Appends
    /// wait meanwhile, and all of the partition is read. Where nothing is damaged, nothing changes.
    /// In a topic with streams the versions count the events that are there.
    ///
    /// # Errors
    /// [`LossNotNamed`](Error::LossNotNamed) if something else is damaged, too;
    /// [`Poisoned`](Error::Poisoned): first [`reopen`](Partition::reopen) it; otherwise those of
    /// [`damage`](Partition::damage), and [`DiskFull`](Error::DiskFull): nothing has changed. The
    /// partition is poisoned if a restart may find either.
    pub fn accept_loss(&self, ranges: &[DamagedRange]) -> Result<Vec<(Offset, Offset)>> {
        self.state.check()?;
        give_up(&self.log, ranges)
    }

    /// Takes the partition back into service after a failed write or sync
    /// ([`Poisoned`](Error::Poisoned)): the visible records are checked, written and synced again,
    /// the others are truncated, and the log epoch rises. Does nothing if nothing is wrong.
    ///
    /// After a failed sync some file systems return the older bytes of the disk instead of those
    /// that were written. Then the log ends before the first such batch:
    /// [`Event::TailTruncated`](crate::stats::Event::TailTruncated) reports the records that were
    /// visible and are gone, and positions after that end return [`Truncated`](Error::Truncated).
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) if bytes are damaged that had been synced. The partition stays
    /// poisoned after another I/O error, or if the journal has a transaction of this partition that
    /// only opening the broker can complete. [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed).
    pub fn reopen(&self) -> Result<()> {
        self.state.check()?;
        reopen(&self.log)
    }

    /// The partition in numbers. The cost does not depend on how many segments it has.
    pub fn stats(&self) -> PartitionStats {
        partition_stats(&self.log)
    }

    /// The segments of the partition, oldest first: none before the first record. The cost is
    /// linear in their number.
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// assert!(orders.segments().is_empty());
    /// broker.producer().send(&orders, Record::new("v"))?.wait()?;
    /// let bytes: u64 = orders.segments().iter().map(|segment| segment.bytes).sum();
    /// assert_eq!((orders.stats().segments, orders.stats().bytes), (1, bytes));
    /// # Ok(()) }
    /// ```
    pub fn segments(&self) -> Vec<SegmentStats> {
        segment_stats(&self.log)
    }
}

impl From<&Partition> for TopicPartition {
    fn from(partition: &Partition) -> Self {
        partition.log.identity().topic_partition()
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("topic", &self.state.name)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
