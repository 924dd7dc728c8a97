//! The settings of a topic.

use std::time::Duration;

use super::cleanup::{Cleanup, CompactionSettings};
use super::compression::Compression;
use super::retention::Retention;
use super::values::{Durability, TimestampType, invalid, too_small};
use crate::error::Result;
use crate::types::{GroupId, Names, Timestamp};

/// The settings of a topic. All of them can be altered later with
/// [`Broker::alter_topic`](crate::Broker::alter_topic), but the number of partitions never falls.
///
/// ```
/// use quipu::{Compression, TopicConfig};
/// let config = TopicConfig::new().partitions(4).compression(Compression::Lz4);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct TopicConfig {
    pub(crate) partitions: u32,
    pub(crate) compression: Compression,
    pub(crate) durability: Option<Durability>,
    pub(crate) segment_bytes: u32,
    pub(crate) segment_age: Duration,
    pub(crate) max_record_bytes: u32,
    /// Whether `max_record_bytes` is the default, which follows `segment_bytes`.
    pub(crate) record_limit: RecordLimit,
    pub(crate) index_interval_bytes: u32,
    pub(crate) timestamps: TimestampType,
    pub(crate) timestamp_bounds: TimestampBounds,
    pub(crate) retention: Retention,
    /// Sorted, each once.
    pub(crate) retention_holds: Vec<String>,
    pub(crate) cleanup: Cleanup,
    pub(crate) compaction: CompactionSettings,
    pub(crate) streams: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl TopicConfig {
    /// The most partitions a topic may have.
    pub const MAX_PARTITIONS: u32 = 100_000;

    /// The defaults named at each setter.
    pub fn new() -> Self {
        TopicConfig {
            partitions: 1,
            compression: Compression::None,
            durability: None,
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(7 * 24 * 3600),
            max_record_bytes: default_record_bytes(64 << 20),
            record_limit: RecordLimit::FollowsSegment,
            index_interval_bytes: 4096,
            timestamps: TimestampType::Create,
            timestamp_bounds: TimestampBounds::default(),
            retention: Retention::forever(),
            retention_holds: Vec::new(),
            cleanup: Cleanup::Delete,
            compaction: CompactionSettings::default(),
            streams: false,
        }
    }

    /// The defaults, of a topic whose keys are [streams](crate::Stream): the records of each key
    /// are the events of one aggregate, which can be [loaded](crate::Stream::load) by themselves,
    /// and appended to at an expected version.
    ///
    /// Every record needs a key there and lies in the partition of its key. Cleanup is
    /// [`Cleanup::None`], and deleting records is refused. The content of events is removed by
    /// [`Topic::erase_stream`](crate::Topic::erase_stream). The newest events are removed by
    /// [`truncate_to`](crate::Partition::truncate_to) and
    /// [`reset_to`](crate::Partition::reset_to), or, with [`Durability::Os`], by a power loss. This
    /// cannot be altered later, nor can the number of partitions. Segments are sealed by their size
    /// only, because nothing depends on their age ([`segment_age`](TopicConfig::segment_age) is 100
    /// years).
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let accounts = broker.create_topic("accounts", TopicConfig::streams().partitions(4))?;
    /// let account = accounts.stream("account-7")?;
    /// account.append(ExpectedVersion::Empty, [Record::new("opened")])?;
    /// assert_eq!(account.load()?.version(), 1);
    /// # Ok(()) }
    /// ```
    pub fn streams() -> Self {
        let segment_age = Duration::from_secs(100 * 365 * 24 * 3600);
        TopicConfig { streams: true, cleanup: Cleanup::None, segment_age, ..TopicConfig::new() }
    }

    /// Whether its keys are [streams](TopicConfig::streams).
    pub fn has_streams(&self) -> bool {
        self.streams
    }

    /// How many partitions the topic has. Partitions can be added later, never removed; adding some
    /// changes which partition a key belongs to and moves no record.
    ///
    /// Default: 1 (Kafka's `num.partitions`). 1 to 100,000.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// How batches are stored.
    ///
    /// Default: [`Compression::None`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// What an acknowledgement means for this topic.
    ///
    /// Default: the broker's.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// A segment file that would grow beyond this is sealed and the next one is started (Kafka's
    /// `segment.bytes`). No batch is larger than a segment.
    ///
    /// Default: 64 MiB. 1 KiB to 1 GiB, in bytes.
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = bytes;
        if matches!(self.record_limit, RecordLimit::FollowsSegment) {
            self.max_record_bytes = default_record_bytes(bytes);
        }
        self
    }

    /// A segment is sealed when a batch arrives that is younger than its first batch by more than
    /// this, by the records' timestamps (Kafka's `segment.ms`).
    ///
    /// Maintenance seals a segment without a new batch too, after both its first batch, by its
    /// timestamp, and its file, by the broker's clock, are older than this. Therefore the records
    /// of an idle topic are deleted and compacted, and its expired tombstones removed, without new
    /// records; Kafka waits for the next append. Records with old timestamps, for example those of
    /// a mirror, are not sealed earlier because of them.
    ///
    /// Default: 7 days. At least 1 ms.
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.segment_age = age;
        self
    }

    /// The largest record: key, value and headers with their framing, before compression. Each
    /// record is checked by itself, so one that is too large does not fail the others of its batch.
    ///
    /// Not the same as Kafka's `max.message.bytes`, which bounds a batch after compression, with 61
    /// bytes of header: with 1,000 the largest value without a key has 995 bytes here and 930
    /// there, ten records of 300 bytes in one batch are refused there, and 50,000 zeros,
    /// compressed, are accepted there.
    ///
    /// Default: 1 MiB, or as much as fits a smaller segment. 1 byte to 32 MiB; it must fit a
    /// segment: 232 bytes less than [`segment_bytes`](TopicConfig::segment_bytes).
    pub fn max_record_bytes(mut self, bytes: u32) -> Self {
        self.max_record_bytes = bytes;
        self.record_limit = RecordLimit::Given;
        self
    }

    /// Roughly one index entry for this many bytes of a segment (Kafka's
    /// `index.interval.bytes`).
    ///
    /// Default: 4096. At least 1.
    pub fn index_interval_bytes(mut self, bytes: u32) -> Self {
        self.index_interval_bytes = bytes;
        self
    }

    /// Whose time the records have.
    ///
    /// Default: [`TimestampType::Create`].
    ///
    /// ```
    /// # use quipu::{Broker, Record, TimestampType, Timestamp, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let log = broker.create_topic("log", TopicConfig::new().timestamps(TimestampType::Append))?;
    /// let record = Record::new("v").timestamp(Timestamp::from_millis(7));
    /// let receipt = broker.producer().send(&log, record)?.wait()?;
    /// assert!(receipt.timestamp > Timestamp::from_millis(7), "its own time does not count");
    /// # Ok(()) }
    /// ```
    pub fn timestamps(mut self, timestamps: TimestampType) -> Self {
        self.timestamps = timestamps;
        self
    }

    /// How far before and after the time of sending the timestamp that a sender gives may lie
    /// (Kafka's `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`); `None`: no
    /// bound. A timestamp outside is refused with
    /// [`InvalidTimestamp`](crate::Error::InvalidTimestamp). Of no effect with
    /// [`TimestampType::Append`].
    ///
    /// Default: any time before, and one hour after, as in Kafka 4, because one record from a far
    /// future would keep its segment, and all after it, from ever being old enough for retention by
    /// age.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Clock, Error, Record, SystemClock, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let config = TopicConfig::new().timestamp_bounds(None, Some(Duration::from_secs(60)));
    /// let topic = broker.create_topic("t", config)?;
    /// let ahead = SystemClock::new().now().plus(Duration::from_secs(3600));
    /// let sent = broker.producer().send(&topic, Record::new("v").timestamp(ahead));
    /// assert!(matches!(sent, Err(Error::InvalidTimestamp { .. })));
    /// # Ok(()) }
    /// ```
    pub fn timestamp_bounds(mut self, before: Option<Duration>, after: Option<Duration>) -> Self {
        self.timestamp_bounds = TimestampBounds { before, after };
        self
    }

    /// When the oldest records may be deleted (Kafka's `retention.ms` and `retention.bytes`). It is
    /// checked from time to time, and by [`Broker::maintain`](crate::Broker::maintain).
    ///
    /// Default: [`Retention::forever`].
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The groups whose progress [`retention`](TopicConfig::retention) waits for: no segment is
    /// deleted by age or size that holds a record at or above the least offset that any of them has
    /// committed in its partition. Where a group has committed nothing, the offset counts at which
    /// it has started, which the first poll of a partition stores.
    ///
    /// As a replication slot does, this keeps everything for a group that makes no progress:
    /// **where one of them has neither started nor committed anything, or is deleted, the log grows
    /// until it does**.
    /// [`Group::reset`](crate::Group::reset) moves such a group forward, and altering the topic
    /// without its name ends the hold. If the committed offsets cannot be read, or cannot be made
    /// durable, everything is kept until they can.
    ///
    /// [`delete_records`](crate::Partition::delete_records), truncation, compaction and the
    /// deletion of the topic do not wait for groups. If a group is reset to an older offset while
    /// retention runs, the records there may already be deleted.
    ///
    /// Default: none, as in Kafka, where retention passes consumers that lag.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Retention, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let day = Duration::from_secs(24 * 3600);
    /// let config = TopicConfig::new().retention(Retention::for_age(day)).retention_holds_for("billing");
    /// broker.create_topic("orders", config)?;
    /// # Ok(()) }
    /// ```
    pub fn retention_holds_for(mut self, groups: impl Names) -> Self {
        self.retention_holds = groups.into_names();
        self.retention_holds.sort();
        self.retention_holds.dedup();
        self
    }

    /// What keeps the topic from growing for ever (Kafka's `cleanup.policy`).
    ///
    /// Default: [`Cleanup::Delete`].
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = cleanup;
        self
    }

    /// A log is compacted once more than this share of its sealed bytes has never been compacted
    /// (Kafka's `min.cleanable.dirty.ratio`).
    ///
    /// Default: 0.5. 0 to 1.
    pub fn min_cleanable_dirty_ratio(mut self, ratio: f64) -> Self {
        // A ratio out of bounds becomes a value that `validate` refuses.
        self.compaction.min_dirty_ratio =
            if (0.0..=1.0).contains(&ratio) { (ratio * 1e6) as u32 } else { u32::MAX };
        self
    }

    /// How long a tombstone is kept after the first compaction that meets it, so that readers meet
    /// it too (Kafka's `delete.retention.ms`).
    ///
    /// Default: 24 hours.
    pub fn delete_retention(mut self, retention: Duration) -> Self {
        self.compaction.delete_retention = retention;
        self
    }

    /// How old a record must be before a compaction may remove it (Kafka's
    /// `min.compaction.lag.ms`).
    ///
    /// Default: 0.
    pub fn min_compaction_lag(mut self, lag: Duration) -> Self {
        self.compaction.min_lag = lag;
        self
    }

    /// How old a record may become before its log is compacted, whatever the ratio (Kafka's
    /// `max.compaction.lag.ms`). Its segment has to be sealed for that: see
    /// [`segment_age`](TopicConfig::segment_age).
    ///
    /// Default: any age.
    pub fn max_compaction_lag(mut self, lag: Duration) -> Self {
        self.compaction.max_lag = Some(lag);
        self
    }

    /// Whether records must have keys.
    pub(crate) fn needs_keys(&self) -> bool {
        self.streams || self.cleanup.compacts()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        self.validate_bounds()?;
        if self.streams && self.cleanup != Cleanup::None {
            return Err(invalid("cleanup", "streams keep all their events"));
        }
        Ok(())
    }

    /// Checks each setting by itself.
    pub(crate) fn validate_bounds(&self) -> Result<()> {
        self.compression.validate()?;
        if self.partitions == 0 || self.partitions > Self::MAX_PARTITIONS {
            return Err(invalid(
                "partitions",
                &format!("{} partitions; it must be 1 to 100,000", self.partitions),
            ));
        }
        if self.segment_bytes < 1 << 10 || self.segment_bytes > 1 << 30 {
            return Err(invalid(
                "segment_bytes",
                &format!("{} bytes; it must be 1 KiB to 1 GiB", self.segment_bytes),
            ));
        }
        if self.segment_age < Duration::from_millis(1) {
            return Err(too_small("segment_age", format!("{:?}", self.segment_age), "1 ms"));
        }
        if self.max_record_bytes == 0 || self.max_record_bytes > 32 << 20 {
            return Err(invalid(
                "max_record_bytes",
                &format!("{} bytes; it must be 1 byte to 32 MiB", self.max_record_bytes),
            ));
        }
        if self.index_interval_bytes == 0 {
            return Err(too_small("index_interval_bytes", "0 bytes", "1 byte"));
        }
        if self.compaction.min_dirty_ratio > 1_000_000 {
            return Err(invalid("min_cleanable_dirty_ratio", "it must be 0 to 1"));
        }
        if let Some(Err(reason)) =
            self.retention_holds.iter().map(|group| GroupId::new(group)).find(std::result::Result::is_err)
        {
            return Err(invalid("retention_holds_for", reason));
        }
        self.durability.map_or(Ok(()), Durability::validate)
    }
}

/// Where the limit of a topic's records comes from. It decides what a later change of the segment
/// size does, and is no part of the settings: two configurations with equal limits are equal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RecordLimit {
    /// It is the default for the segment size.
    FollowsSegment,
    /// It was given.
    Given,
}

impl PartialEq for RecordLimit {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for RecordLimit {}

/// The bytes of a segment before the records of its first batch: two headers.
pub(crate) const SEGMENT_FRAMING: u32 = 232;

/// Returns the default of `max_record_bytes`: 1 MiB, or as much as fits a segment.
pub(crate) fn default_record_bytes(segment_bytes: u32) -> u32 {
    segment_bytes.saturating_sub(SEGMENT_FRAMING).clamp(1, 1 << 20)
}

/// How far from the time of sending a given timestamp may lie; `None`: no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimestampBounds {
    pub(crate) before: Option<Duration>,
    pub(crate) after: Option<Duration>,
}

impl Default for TimestampBounds {
    fn default() -> Self {
        TimestampBounds { before: None, after: Some(Duration::from_secs(3600)) }
    }
}

impl TimestampBounds {
    /// Returns the earliest and the latest time that may be given at `now`.
    pub(crate) fn around(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let earliest = self.before.map_or(Timestamp::default(), |before| now.minus(before));
        let latest = self.after.map_or(Timestamp::MAX, |after| now.plus(after));
        (earliest.max(Timestamp::default()), latest.min(Timestamp::MAX))
    }
}
