//! A topic as the broker knows it: its identity, its settings, and the logs of its partitions.

use crate::config::TimestampType;
use crate::engine::Readers;
use crate::error::{Error, Result};
use crate::log::{Log, LogSettings, close};
use crate::sync::{Arc, AtomicBool, AtomicU32, Ordering, Rank, RwLock};
use crate::types::{PartitionId, Timestamp, TopicId, TopicName};

/// Shared by all handles of a topic.
pub(crate) struct TopicState {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
    pub(crate) created_at: Timestamp,
    /// Taken to clone or replace the value, with no other lock but the broker's `changing`.
    settings: RwLock<Arc<LogSettings>>,
    logs: RwLock<Arc<[Arc<Log>]>>,
    /// The length of `logs`, for callers that only check whether it has grown. Stored after the
    /// logs.
    count: AtomicU32,
    /// How many partitions it had before each time that it was given more, ascending. Stored before
    /// the count.
    earlier: RwLock<Arc<[u32]>>,
    /// Mirrors the configuration: records must have keys.
    needs_keys: AtomicBool,
    /// The keys are streams.
    streams: bool,
    deleted: AtomicBool,
    closed: AtomicBool,
}

impl TopicState {
    pub(crate) fn new(
        id: TopicId,
        name: TopicName,
        created_at: Timestamp,
        settings: Arc<LogSettings>,
        logs: Vec<Arc<Log>>,
    ) -> Self {
        let count = AtomicU32::new(count_of(&logs));
        let needs_keys = AtomicBool::new(settings.needs_keys());
        let streams = settings.streams;
        TopicState {
            id,
            name,
            created_at,
            settings: RwLock::new(Rank::TopicConfig, settings),
            logs: RwLock::new(Rank::TopicLogs, logs.into()),
            count,
            earlier: RwLock::new(Rank::TopicLogs, [].into()),
            needs_keys,
            streams,
            deleted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// With the numbers of partitions that it had.
    pub(super) fn with_earlier(self, earlier: &[u32]) -> Self {
        *self.earlier.write() = earlier.into();
        self
    }

    /// How many partitions it had before each time that it was given more, ascending. Must be asked
    /// after [`log_count`](TopicState::log_count) to include all numbers below that one.
    pub(crate) fn earlier_counts(&self) -> Arc<[u32]> {
        self.earlier.read().clone()
    }

    /// The settings, which the logs of the topic share.
    pub(crate) fn settings(&self) -> Arc<LogSettings> {
        self.settings.read().clone()
    }

    /// The times that a record sent `now` may be given, both included; `None` if given times are
    /// ignored.
    pub(crate) fn timestamps(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let settings = self.settings.read();
        match settings.timestamps {
            TimestampType::Create => Some(settings.timestamp_bounds.around(now)),
            TimestampType::Append => None,
        }
    }

    /// Whether records must have a key.
    #[inline]
    pub(crate) fn needs_keys(&self) -> bool {
        self.needs_keys.load(Ordering::Acquire)
    }

    /// Whether its keys are streams.
    #[inline]
    pub(crate) fn has_streams(&self) -> bool {
        self.streams
    }

    /// The logs of the partitions, by id. They only become more.
    pub(crate) fn logs(&self) -> Arc<[Arc<Log>]> {
        self.logs.read().clone()
    }

    /// # Errors
    /// `UnknownPartition`.
    pub(crate) fn log(&self, partition: PartitionId) -> Result<Arc<Log>> {
        self.logs().get(partition.get() as usize).cloned().ok_or_else(|| Error::UnknownPartition {
            topic: self.name.clone(),
            partition,
            count: self.log_count(),
        })
    }

    pub(crate) fn log_count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// # Errors
    /// The topic has been deleted, or the broker closed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            Err(Error::TopicDeleted { topic: self.name.clone() })
        } else if self.closed.load(Ordering::Acquire) {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Takes new settings and partitions that have been added, and notes those with `readers`.
    pub(super) fn alter(&self, settings: Arc<LogSettings>, added: Vec<Arc<Log>>, readers: &Readers) {
        self.needs_keys.store(settings.needs_keys(), Ordering::Release);
        *self.settings.write() = settings;
        if !added.is_empty() {
            let mut earlier = self.earlier.write();
            *earlier = earlier.iter().copied().chain([self.log_count()]).collect();
        }
        let mut logs = self.logs.write();
        *logs = logs.iter().cloned().chain(added).collect();
        self.count.store(count_of(&logs), Ordering::Release);
        readers.note_grown();
        // Readers that wait are to look at the new partitions too.
        for log in logs.iter() {
            log.waiters().signal();
        }
    }

    /// The broker is being closed.
    pub(super) fn end(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The topic is being deleted: everything that is asked of it from now on fails.
    pub(super) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        for log in self.logs().iter() {
            close::end(log, Error::TopicDeleted { topic: self.name.clone() });
        }
    }
}

/// How many partitions these are. A topic is created with a number that fits `u32`, and the logs
/// are made for the numbers below it.
fn count_of(logs: &[Arc<Log>]) -> u32 {
    debug_assert!(u32::try_from(logs.len()).is_ok(), "{} partitions", logs.len());
    logs.len() as u32
}
