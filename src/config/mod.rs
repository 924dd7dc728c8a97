//! What can be set, what is it when nobody sets it, and why would anybody?
//!
//! Consuming setters; everything is validated in one place, when the broker is opened or the topic created.

mod cleanup;
mod retention;
mod settings;

use std::time::Duration;

pub use self::cleanup::Cleanup;
pub(crate) use self::cleanup::CompactionSettings;
pub use self::retention::Retention;
pub(crate) use self::settings::{Setting, merge, read};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::stats::{Event, OnEvent};
use crate::sync::Arc;
use crate::types::{GroupId, Timestamp};

/// How the batches of a topic are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// As they are. The fastest to write and to read at random; reading copies nothing.
    #[default]
    None,
    /// LZ4 blocks, one a batch. A batch that does not shrink is stored as it is.
    Lz4,
}

/// What an acknowledgement means, and with it what consumers may see: a record becomes visible when its topic's
/// durability holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Acknowledged once the operating system has it: survives the death of the process (`kill -9`), not a power
    /// loss, after which a prefix is there.
    #[default]
    Os,
    /// As [`Os`](Durability::Os), and synced to the medium at least this often: a power loss takes what is younger.
    Interval(Duration),
    /// Acknowledged once it is on the medium: survives a power loss. Appends that wait at the same time share a sync.
    Sync,
}

/// What the timestamp of a stored record says (Kafka's `message.timestamp.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimestampType {
    /// What its sender gave it, or the time of sending. It may be out of order.
    #[default]
    Create,
    /// When its batch was appended, by the broker's clock, whatever its sender gave it. All records of a batch share it.
    Append,
}

/// How segments that take no more appends are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadMode {
    /// Through read-only memory maps: nothing is copied. A medium that fails under a map, or somebody else who
    /// truncates the file, kills the process with SIGBUS.
    #[default]
    Map,
    /// By positional reads: one copy, and a failing medium is an error like any other.
    Positional,
}

/// The settings of a broker. The last call picks the medium: [`open`](BrokerConfig::open) a directory, or stay
/// [`in_memory`](BrokerConfig::in_memory).
///
/// ```
/// # fn main() -> quipu::Result<()> {
/// let broker = quipu::BrokerConfig::new().durability(quipu::Durability::Sync).in_memory()?;
/// # broker.close()
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct BrokerConfig {
    pub(crate) durability: Durability,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: Option<u64>,
    pub(crate) max_open_files: usize,
    pub(crate) tail_cache_bytes: usize,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) compaction_memory: usize,
    pub(crate) compaction_bytes_per_second: Option<u64>,
    pub(crate) read_mode: ReadMode,
    pub(crate) disk_budget: Option<u64>,
    pub(crate) on_event: Option<OnEvent>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerConfig")
            .field("durability", &self.durability)
            .field("seed", &self.seed)
            .field("max_open_files", &self.max_open_files)
            .field("tail_cache_bytes", &self.tail_cache_bytes)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("read_mode", &self.read_mode)
            .field("disk_budget", &self.disk_budget)
            .finish_non_exhaustive()
    }
}

impl BrokerConfig {
    /// The defaults named at each setter.
    pub fn new() -> Self {
        BrokerConfig {
            durability: Durability::Os,
            clock: Arc::new(SystemClock::new()),
            seed: None,
            max_open_files: 512,
            tail_cache_bytes: 32 << 20,
            checkpoint_interval: Duration::from_secs(10),
            compaction_memory: 128 << 20,
            compaction_bytes_per_second: None,
            read_mode: ReadMode::Map,
            disk_budget: None,
            on_event: None,
        }
    }

    /// The durability of topics that do not choose their own.
    ///
    /// Default: [`Durability::Os`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The clock behind timestamps, lingering and background work. Keep a clone of a
    /// [`ManualClock`](crate::testing::ManualClock) to move it; under one the broker starts no thread.
    ///
    /// Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes every random choice (the partitions of records without a key, topic identities) follow from this number.
    ///
    /// Default: taken from the operating system's randomness.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How many files and maps of segments may be open at once. Beyond it the one used longest ago is closed and
    /// opened again when needed: first segments whose bytes are all synced; if there are none, others too, and then
    /// a kernel that drops a closed file's state may forget a failed write-back before it is reported.
    ///
    /// The key indexes of [streams](crate::Stream) count too. Whether a key has a stream is asked of every segment of its
    /// partition, until one knows how many events there are before it: with more segments than this, that opens files each time.
    ///
    /// Default: 512. At least 8.
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = files;
        self
    }

    /// How many bytes of the newest batches are kept in memory for consumers that follow the end of the log, over
    /// all partitions. Only partitions that somebody reads just then keep any.
    ///
    /// Default: 32 MiB. 0 turns it off.
    pub fn tail_cache_bytes(mut self, bytes: usize) -> Self {
        self.tail_cache_bytes = bytes;
        self
    }

    /// How often the points up to which everything is synced are noted, which bounds what is read again after a crash.
    ///
    /// Default: 10 s. At least 1 ms.
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    /// How many bytes of keys one cleaning keeps in mind (Kafka's `log.cleaner.dedupe.buffer.size`), each counted as its length
    /// and 32 bytes. A log with more is cleaned in several passes. Whole batches are taken, so it may be one batch's keys more.
    ///
    /// The tables for them double when they are full: they take up to twice as much memory as this, and three times as much
    /// for the moment in which they grow.
    ///
    /// Default: 128 MiB.
    pub fn compaction_memory(mut self, bytes: usize) -> Self {
        self.compaction_memory = bytes;
        self
    }

    /// How many bytes cleaning reads and writes in a second (Kafka's `log.cleaner.io.max.bytes.per.second`). Of no effect
    /// under a manual clock.
    ///
    /// Default: as many as it can.
    pub fn compaction_bytes_per_second(mut self, bytes: u64) -> Self {
        self.compaction_bytes_per_second = Some(bytes);
        self
    }

    /// How sealed segments are read.
    ///
    /// Default: [`ReadMode::Map`].
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// How many bytes all files in the broker's directory may have together: segments and the files beside them, catalog,
    /// journal and reserve, what is being deleted, and what a compaction writes while the old files are still there.
    ///
    /// It is looked at before each append. One that would pass it deletes the oldest records first, by their timestamps,
    /// whole segments, of any topic that [deletes](Cleanup::Delete) and has a limit of [retention](TopicConfig::retention),
    /// before that limit is reached. What a topic [holds for a group](TopicConfig::retention_holds_for) does not go, nor
    /// does anything of other topics. If nothing may go the append fails with
    /// [`OverBudget`](crate::Error::OverBudget), which names the group.
    ///
    /// Commits of offsets are counted and not refused: they are what lets a group's records go. Nor is a compaction, which
    /// can pass the budget while it lasts. A sixteenth of the budget, at most 64 KiB, is left for the small files.
    ///
    /// Default: none. At least 256 KiB.
    ///
    /// ```
    /// use quipu::{BrokerConfig, Record, Retention, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path();
    /// let broker = BrokerConfig::new().disk_budget(1 << 20).open(dir)?;
    /// let small = TopicConfig::new().segment_bytes(64 << 10).max_record_bytes(10_000);
    /// let topic = broker.create_topic("t", small.retention(Retention::for_bytes(u64::MAX)))?;
    /// for _ in 0..1_000 {
    ///     broker.producer().send(&topic, Record::new(vec![7; 5_000]))?.wait()?;
    /// }
    /// assert!(topic.partition(0)?.bounds()?.log_start.get() > 700);
    /// # Ok(()) }
    /// ```
    pub fn disk_budget(mut self, bytes: u64) -> Self {
        self.disk_budget = Some(bytes);
        self
    }

    /// Calls `f` when something worth knowing happens: see [`Event`]. It runs on the thread on which it happens, so it
    /// should be short, and it must not call the broker.
    ///
    /// Default: nobody is told.
    pub fn on_event(mut self, f: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(f));
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        validate_durability(self.durability)?;
        if self.max_open_files < 8 {
            return Err(invalid("max_open_files", "it must be at least 8"));
        }
        if self.checkpoint_interval < Duration::from_millis(1) {
            return Err(invalid("checkpoint_interval", "it must be at least 1 ms"));
        }
        if self.disk_budget.is_some_and(|bytes| bytes < 256 << 10) {
            return Err(invalid("disk_budget", "it must be at least 256 KiB"));
        }
        if self.compaction_bytes_per_second == Some(0) {
            return Err(invalid("compaction_bytes_per_second", "it must be at least 1"));
        }
        Ok(())
    }
}

/// The settings of a topic. All but the number of partitions' decrease can be altered later with
/// [`Broker::alter_topic`](crate::Broker::alter_topic).
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
            max_record_bytes: 1 << 20,
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

    /// The defaults, of a topic whose keys are [streams](crate::Stream): the records of each key are the events of one
    /// aggregate, which can be [loaded](crate::Stream::load) by themselves, and appended to at an expected version.
    ///
    /// Every record needs a key there and lies in the partition of its key. Cleanup is [`Cleanup::None`], and deleting
    /// records is refused: what events say goes with [`Topic::erase_stream`](crate::Topic::erase_stream), and the newest of
    /// them go with [`truncate_to`](crate::Partition::truncate_to) and [`reset_to`](crate::Partition::reset_to), or, under
    /// [`Durability::Os`], with a power loss. This cannot be altered later, nor can the number of partitions. Segments are
    /// sealed by their size only, since none has to be old enough for anything ([`segment_age`](TopicConfig::segment_age)
    /// is 100 years).
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

    /// How many partitions the topic has. They can grow later, never shrink; growing changes which partition a key
    /// belongs to and moves no record.
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

    /// A segment file that would grow beyond this is sealed and the next one begun (Kafka's `segment.bytes`). No
    /// batch is larger than a segment.
    ///
    /// Default: 64 MiB. 1 KiB to 1 GiB, in bytes.
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// A segment is sealed when a batch arrives that is younger than its first batch by more than this, by the
    /// records' timestamps (Kafka's `segment.ms`).
    ///
    /// Default: 7 days. At least 1 ms.
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.segment_age = age;
        self
    }

    /// The largest record, key, value and headers with their framing (Kafka's `max.message.bytes`).
    ///
    /// Default: 1 MiB. 1 byte to 32 MiB; it must fit a segment.
    pub fn max_record_bytes(mut self, bytes: u32) -> Self {
        self.max_record_bytes = bytes;
        self
    }

    /// Roughly one index entry for this many bytes of a segment (Kafka's `index.interval.bytes`).
    ///
    /// Default: 4096.
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

    /// How far before and after the time of sending the timestamp that a sender gives may lie (Kafka's
    /// `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`); `None`: as far as it likes. What lies
    /// outside is refused with [`InvalidTimestamp`](Error::InvalidTimestamp). Of no effect with
    /// [`TimestampType::Append`].
    ///
    /// Default: any time before, and one hour after, as in Kafka 4: one record from a far future would keep its segment,
    /// and all behind it, from ever being old enough for retention by age.
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

    /// When the oldest records may be deleted (Kafka's `retention.ms` and `retention.bytes`). It is looked at from time
    /// to time, and by [`Broker::maintain`](crate::Broker::maintain).
    ///
    /// Default: [`Retention::forever`].
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The groups whose progress [`retention`](TopicConfig::retention) waits for: by age or size no segment is deleted that
    /// holds a record at or above the least offset that any of them has committed in its partition.
    ///
    /// As a replication slot does, this keeps everything for a group that does not come on: **where one of them has
    /// committed nothing, or is deleted, the log grows until it commits**. [`Group::reset`](crate::Group::reset) sets such a
    /// group further on, and altering the topic without its name lets go for good. If what is committed cannot be read, or
    /// cannot be made durable, everything is kept until it can.
    ///
    /// [`delete_records`](crate::Partition::delete_records), truncation, compaction and the deletion of the topic wait for
    /// nobody. A group that is set back while retention runs may find that what it was set back to has just gone.
    ///
    /// Default: none, as in Kafka, where retention passes consumers that lag.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Retention, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let day = Duration::from_secs(24 * 3600);
    /// let config = TopicConfig::new().retention(Retention::for_age(day)).retention_holds_for(&["billing"]);
    /// broker.create_topic("orders", config)?;
    /// # Ok(()) }
    /// ```
    pub fn retention_holds_for(mut self, groups: &[&str]) -> Self {
        self.retention_holds = groups.iter().map(ToString::to_string).collect();
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

    /// A log is cleaned once more than this share of its sealed bytes has never been (Kafka's
    /// `min.cleanable.dirty.ratio`).
    ///
    /// Default: 0.5. 0 to 1.
    pub fn min_cleanable_dirty_ratio(mut self, ratio: f64) -> Self {
        // Out of bounds becomes what validation refuses.
        self.compaction.min_dirty_ratio =
            if (0.0..=1.0).contains(&ratio) { (ratio * 1e6) as u32 } else { u32::MAX };
        self
    }

    /// How long a tombstone is kept from the first cleaning that sees it, so that readers see it too (Kafka's
    /// `delete.retention.ms`).
    ///
    /// Default: 24 hours.
    pub fn delete_retention(mut self, retention: Duration) -> Self {
        self.compaction.delete_retention = retention;
        self
    }

    /// How old a record must be before it may be cleaned away (Kafka's `min.compaction.lag.ms`).
    ///
    /// Default: 0.
    pub fn min_compaction_lag(mut self, lag: Duration) -> Self {
        self.compaction.min_lag = lag;
        self
    }

    /// How old a record may become before its log is cleaned, whatever the ratio (Kafka's `max.compaction.lag.ms`). It
    /// has to be sealed for that: see [`segment_age`](TopicConfig::segment_age).
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

    /// Whether each setting by itself is one that can be.
    fn validate_bounds(&self) -> Result<()> {
        if self.partitions == 0 || self.partitions > Self::MAX_PARTITIONS {
            return Err(invalid("partitions", "it must be 1 to 100,000"));
        }
        if self.segment_bytes < 1 << 10 || self.segment_bytes > 1 << 30 {
            return Err(invalid("segment_bytes", "it must be 1 KiB to 1 GiB"));
        }
        if self.segment_age < Duration::from_millis(1) {
            return Err(invalid("segment_age", "it must be at least 1 ms"));
        }
        if self.max_record_bytes == 0 || self.max_record_bytes > 32 << 20 {
            return Err(invalid("max_record_bytes", "it must be 1 byte to 32 MiB"));
        }
        if self.index_interval_bytes == 0 {
            return Err(invalid("index_interval_bytes", "it must be at least 1"));
        }
        if self.compaction.min_dirty_ratio > 1_000_000 {
            return Err(invalid("min_cleanable_dirty_ratio", "it must be 0 to 1"));
        }
        if let Some(Err(reason)) =
            self.retention_holds.iter().map(|group| GroupId::new(group)).find(std::result::Result::is_err)
        {
            return Err(invalid("retention_holds_for", reason));
        }
        match self.durability {
            Some(durability) => validate_durability(durability),
            None => Ok(()),
        }
    }
}

/// How far from the time of sending a given timestamp may lie; `None`: anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimestampBounds {
    before: Option<Duration>,
    after: Option<Duration>,
}

impl Default for TimestampBounds {
    fn default() -> Self {
        TimestampBounds { before: None, after: Some(Duration::from_secs(3600)) }
    }
}

impl TimestampBounds {
    /// The times that may be given at `now`, both included.
    pub(crate) fn around(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let earliest = self.before.map_or(Timestamp::default(), |before| now.minus(before));
        let latest = self.after.map_or(Timestamp::MAX, |after| now.plus(after));
        (earliest.max(Timestamp::default()), latest.min(Timestamp::MAX))
    }

    fn to_bytes(self) -> Vec<u8> {
        let [before, after] =
            [self.before, self.after].map(|bound| bound.map_or(u64::MAX, millis).to_le_bytes());
        [before, after].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (before, after) = bytes.split_first_chunk::<8>()?;
        let bound = |millis| (millis != u64::MAX).then(|| Duration::from_millis(millis));
        Some(TimestampBounds {
            before: bound(u64::from_le_bytes(*before)),
            after: bound(settings::u64_of(after)?),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn invalid(field: &'static str, reason: &str) -> Error {
    Error::InvalidConfig { field, reason: reason.to_string() }
}

fn validate_durability(durability: Durability) -> Result<()> {
    match durability {
        Durability::Interval(d) if d < Duration::from_millis(1) => {
            Err(invalid("durability", "an interval must be at least 1 ms"))
        }
        _ => Ok(()),
    }
}
