//! The settings of a broker.

use std::time::Duration;

use super::values::{Durability, ReadMode, invalid, too_small};
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::stats::{Event, OnEvent};
use crate::sync::Arc;

/// The settings of a broker. The last call picks the medium: [`open`](BrokerConfig::open) a
/// directory, or stay [`in_memory`](BrokerConfig::in_memory).
///
/// ```
/// # fn main() -> quipu::Result<()> {
/// let broker = quipu::BrokerConfig::new().durability(quipu::Durability::Sync).in_memory()?;
/// # broker.close()
/// # }
/// ```
///
/// # Zero
/// In every setting of this crate, and in every bound of a call, zero means what it says: none of
/// it, or at once. For example [`linger`](crate::ProducerConfig::linger) of zero writes each record
/// at once, [`tail_cache_bytes`](BrokerConfig::tail_cache_bytes) of zero keeps nothing, and
/// [`poll`](crate::Reader::poll) with a timeout of zero does not wait. Where nothing could work
/// with that, for example with zero partitions or polls of zero records, it is refused by
/// [`InvalidConfig`](crate::Error::InvalidConfig), which states the setting, the value and the
/// least value. It never stands for a default or for "no limit": that is a setting that was not
/// made.
#[derive(Clone)]
#[must_use]
pub struct BrokerConfig {
    pub(crate) durability: Durability,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: Option<u64>,
    /// `None` for the default, which follows from the limit of the process.
    pub(crate) max_open_files: Option<usize>,
    pub(crate) tail_cache_bytes: usize,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) sync_threads: usize,
    pub(crate) compaction_memory: usize,
    pub(crate) compaction_bytes_per_second: Option<u64>,
    pub(crate) read_mode: ReadMode,
    pub(crate) disk_budget: Option<u64>,
    pub(crate) producer_expiration: Option<Duration>,
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
            .field("sync_threads", &self.sync_threads)
            .field("read_mode", &self.read_mode)
            .field("disk_budget", &self.disk_budget)
            .field("producer_expiration", &self.producer_expiration)
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
            max_open_files: None,
            tail_cache_bytes: 32 << 20,
            checkpoint_interval: Duration::from_secs(10),
            sync_threads: 8,
            compaction_memory: 128 << 20,
            compaction_bytes_per_second: None,
            read_mode: ReadMode::Map,
            disk_budget: None,
            producer_expiration: None,
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

    /// The clock for timestamps, lingering and background work. Keep a clone of a
    /// [`ManualClock`](crate::testing::ManualClock) to move it; with one the broker starts no
    /// thread.
    ///
    /// Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes every random choice (the partitions of records without a key, topic identities) follow
    /// from this number.
    ///
    /// Default: taken from the operating system's randomness.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How many files and maps of segments may be open at once, whichever call, reader or consumer
    /// uses them. Beyond it the one used longest ago is closed, and opened again when it is needed.
    /// Segments whose bytes are all synced are closed first. If there are none, others are closed
    /// too, and then a kernel that drops a closed file's state may forget a failed write-back
    /// before it is reported. [`BrokerStats::open_files`](crate::stats::BrokerStats::open_files)
    /// counts them.
    ///
    /// The number of descriptors of the broker may be greater, by:
    /// - the lock and its directory, the catalog, and the journal: 4;
    /// - for each call under way, on a thread of the caller or of the broker: at most 3, for the
    ///   segment that it uses, a file that it writes, and a directory that it lists or syncs;
    /// - one for each partition that a transaction writes to, while it is committed.
    ///
    /// Records that the caller keeps may refer to the map of their segment, which cannot be taken
    /// back. Therefore maps are at most three quarters of this number, and have at most 256 GiB
    /// together (512 MiB where pointers have 32 bits), and at most half of the addresses that the
    /// process may use in addition when the broker is opened, if it has a limit (`ulimit -v`, on
    /// Linux). A segment that gets no map is read by position.
    ///
    /// If the process has no descriptor left (`EMFILE`, `ENFILE`), other files of the broker are
    /// closed, and the operation is tried again. If there is none to close, the operation returns
    /// [`Error::Io`](crate::Error::Io), whose text names the path and this setting: nothing was
    /// changed, and no partition is poisoned. A sync that could not be tried for that reason may be
    /// tried again; a future that waits for it waits for the next one, which maintenance tries.
    ///
    /// The key indexes of [streams](crate::Stream) count too. A lookup of a key asks every segment
    /// of its partition, from the newest to the first that knows how many events there are before
    /// it. With more segments than this number, that opens files each time.
    ///
    /// Default: half of the descriptors that the process may have when the broker is opened (the
    /// soft limit, on Linux), at least 8 and at most 4,096; 512 where the limit is not known. Set
    /// it if a process opens several brokers, because they share that limit. At least 8.
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = Some(files);
        self
    }

    /// How many bytes of the newest batches are kept in memory for consumers that follow the end of
    /// the log, over all partitions. Only partitions that have a reader at the time keep any.
    ///
    /// Default: 32 MiB. 0 turns it off.
    pub fn tail_cache_bytes(mut self, bytes: usize) -> Self {
        self.tail_cache_bytes = bytes;
        self
    }

    /// How often the points up to which everything is synced are written down. This bounds how much
    /// is read again after a crash.
    ///
    /// Default: 10 s. At least 1 ms.
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    /// How many threads may sync partitions at once. Where many partitions have records that are
    /// not synced (a [`flush`](crate::Producer::flush) of many, [`Durability::Interval`],
    /// [`Broker::sync`](crate::Broker::sync), [`Broker::close`](crate::Broker::close)), the calling
    /// thread or the broker's worker starts others for each 4 partitions, up to this number, and
    /// ends them with the call. A file system commits once for all of them. With 1 it starts none.
    /// Under a [`ManualClock`](crate::testing::ManualClock) none is started either.
    ///
    /// Default: 8. From 1 to 64.
    pub fn sync_threads(mut self, threads: usize) -> Self {
        self.sync_threads = threads;
        self
    }

    /// How many bytes of keys one compaction holds in memory (Kafka's
    /// `log.cleaner.dedupe.buffer.size`), each counted as its length and 32 bytes. A log with more
    /// is compacted in several passes. Whole batches are taken, so the keys of one batch may come
    /// on top.
    ///
    /// The tables of keys double when they are full: they take up to twice as much memory as this,
    /// and three times as much while they grow.
    ///
    /// Default: 128 MiB. At least 1 byte, with which a pass takes one batch.
    pub fn compaction_memory(mut self, bytes: usize) -> Self {
        self.compaction_memory = bytes;
        self
    }

    /// How many bytes a compaction reads and writes in a second (Kafka's
    /// `log.cleaner.io.max.bytes.per.second`). Of no effect with a manual clock.
    ///
    /// Default: no limit. At least 1.
    pub fn compaction_bytes_per_second(mut self, bytes: u64) -> Self {
        self.compaction_bytes_per_second = Some(bytes);
        self
    }

    /// How segments are read.
    ///
    /// Default: [`ReadMode::Map`].
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// How many bytes all files in the broker's directory may have together: segments and the files
    /// beside them, catalog, journal and reserve, files that are being deleted, and the files that
    /// a compaction writes while the old ones are still there.
    ///
    /// It is checked before each append. An append that would exceed it first deletes the oldest
    /// records by their timestamps, in whole segments, of any topic that
    /// [deletes](crate::Cleanup::Delete) and has a limit of
    /// [retention](crate::TopicConfig::retention), before that limit is reached. Records that a
    /// topic [holds for a group](crate::TopicConfig::retention_holds_for) are not deleted, nor are
    /// those of other topics. If nothing may be deleted, the append fails with
    /// [`OverBudget`](crate::Error::OverBudget), which names the group.
    ///
    /// Commits of offsets are counted and never refused, because they allow the records that a
    /// group holds to be deleted. A compaction is not refused either, and can exceed the budget
    /// while it runs. A sixteenth of the budget, at most 64 KiB, is left for the small files.
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

    /// After how long without a handle the name of a [producer](crate::ProducerConfig::name) is
    /// forgotten (Kafka's `transactional.id.expiration.ms`, 7 days there), as
    /// [`forget_producer`](crate::Broker::forget_producer) does it.
    /// [Maintenance](crate::Broker::maintain) forgets a name after this time, and at most a quarter
    /// of it later. It counts while the broker is closed too. A name that was opened before this
    /// was set counts as used when it is first met.
    ///
    /// Default: never, because records that such a producer sends again are appended again. At
    /// least 1 s.
    pub fn producer_expiration(mut self, unused: Duration) -> Self {
        self.producer_expiration = Some(unused);
        self
    }

    /// Calls `f` when something worth knowing happens: see [`Event`]. It runs on the thread on
    /// which it happens, or on a background thread, so it should be short. No lock is held: it may
    /// call the broker. A call that causes the next event calls it again, on the same thread.
    ///
    /// A panic of it is caught, counted in
    /// [`BrokerStats::panics`](crate::stats::BrokerStats::panics), and returned by
    /// [`close`](crate::Broker::close) as [`Panicked`](crate::Error::Panicked).
    ///
    /// Default: no call.
    pub fn on_event(mut self, f: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(f));
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        self.durability.validate()?;
        if let Some(files) = self.max_open_files.filter(|files| *files < 8) {
            return Err(too_small("max_open_files", format!("{files} files"), "8"));
        }
        if self.checkpoint_interval < Duration::from_millis(1) {
            return Err(too_small("checkpoint_interval", format!("{:?}", self.checkpoint_interval), "1 ms"));
        }
        if !(1..=64).contains(&self.sync_threads) {
            let reason = format!("{} threads; it must be from 1 to 64", self.sync_threads);
            return Err(invalid("sync_threads", &reason));
        }
        if self.compaction_memory == 0 {
            return Err(too_small("compaction_memory", "0 bytes", "1 byte"));
        }
        if let Some(bytes) = self.disk_budget.filter(|bytes| *bytes < 256 << 10) {
            return Err(too_small("disk_budget", format!("{bytes} bytes"), "256 KiB"));
        }
        if let Some(unused) = self.producer_expiration.filter(|unused| *unused < Duration::from_secs(1)) {
            return Err(too_small("producer_expiration", format!("{unused:?}"), "1 s"));
        }
        if self.compaction_bytes_per_second == Some(0) {
            return Err(too_small("compaction_bytes_per_second", "0 bytes", "1 byte"));
        }
        Ok(())
    }
}
