//! The root object: one directory, its threads, and the state that every handle shares.

mod backup;
mod catalog;
mod checkpoint;
mod follow;
mod groups;
mod inner;
mod maintenance;
mod open;
mod prepare;
mod producer_names;
mod producers;
mod store;
mod topic_state;
mod topics;
mod trash;
mod unknown;

use std::ops::ControlFlow;
use std::path::Path;

pub(crate) use self::follow::Follower;
pub(crate) use self::groups::offsets_config;
pub(crate) use self::inner::BrokerInner;
use self::inner::{check_config, topic_name};
pub(crate) use self::prepare::{Gathering, prepare, prepare_sequenced, refuse_sequence};
pub(crate) use self::producers::ProducerIdentity;
pub(crate) use self::topic_state::TopicState;
use crate::config::{BrokerConfig, TopicConfig};
use crate::engine::observe;
use crate::error::{Error, IoAction, Result};
use crate::log::durability::sync_ahead;
use crate::log::statistics::partition_stats;
use crate::stats::{BackupProgress, BackupReport, BrokerStats, OpenReport, TopicStats};
use crate::storage::Storage;
use crate::storage::fs::FsStorage;
use crate::storage::mem::MemStorage;
use crate::sync::{Arc, Ordering};

/// The broker: topics in one directory, owned by one process.
///
/// A cheap handle; clones are the same broker. It closes when [`close`](Broker::close) is called,
/// or when the last handle to anything of it is dropped, as far as that can be done without
/// reporting an error.
///
/// ```
/// use quipu::{Broker, Record, Start, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let broker = Broker::in_memory()?;
/// let orders = broker.create_topic("orders", TopicConfig::new())?;
/// let receipt = broker.producer().send(&orders, Record::new("42 EUR").key("customer-7"))?.wait()?;
/// assert_eq!(receipt.to_string(), "orders/0@0");
/// # broker.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Broker {
    inner: Arc<BrokerInner>,
}

impl BrokerConfig {
    /// Opens a directory, creating it and its parents if they are missing, or recovering it after a
    /// crash. [`Broker::open_report`] returns the findings.
    ///
    /// # Errors
    /// [`AlreadyOpen`](Error::AlreadyOpen), [`ForeignDirectory`](Error::ForeignDirectory),
    /// [`UnsupportedFormat`](Error::UnsupportedFormat), [`InvalidConfig`](Error::InvalidConfig),
    /// [`Corrupt`](Error::Corrupt) if the catalog is damaged, [`Io`](Error::Io) or
    /// [`DiskFull`](Error::DiskFull). A damaged partition returns errors itself and does not fail
    /// the opening.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Broker> {
        self.validate()?;
        let dir = dir.as_ref();
        FsStorage::create_root(dir).map_err(|e| Error::unless_full(IoAction::Open, dir, e))?;
        self.open_on(Arc::new(FsStorage::new(dir.to_path_buf())))
    }

    /// A broker without a directory: the same engine, gone with its last handle.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig), or [`Io`](Error::Io) if the system refuses a
    /// background thread.
    pub fn in_memory(self) -> Result<Broker> {
        self.validate()?;
        self.open_on(Arc::new(MemStorage::new()))
    }

    pub(crate) fn open_on(self, storage: Arc<dyn Storage>) -> Result<Broker> {
        let _span = observe::opening(&storage.display(Path::new("")));
        let inner = open::open(&self, storage)?;
        let OpenReport { clean, recovered, damaged, .. } = &inner.report;
        inner.ctx.events.observe(|| observe::opened(*clean, recovered.len(), damaged.len()));
        Ok(Broker { inner })
    }
}

impl Broker {
    /// Opens a directory with the default settings: see [`BrokerConfig::open`].
    ///
    /// # Errors
    /// See [`BrokerConfig::open`].
    ///
    /// ```no_run
    /// let broker = quipu::Broker::open("data")?;
    /// # Ok::<(), quipu::Error>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<Broker> {
        BrokerConfig::new().open(dir)
    }

    /// A broker in memory with the default settings: see [`BrokerConfig::in_memory`].
    ///
    /// # Errors
    /// [`Io`](Error::Io) if the system refuses a background thread.
    pub fn in_memory() -> Result<Broker> {
        BrokerConfig::new().in_memory()
    }

    /// Gives a topic other settings, effective from the next batch on. Partitions can be added, not
    /// removed; keys then belong to other partitions than before, and no record is moved. A batch
    /// that a producer still has open counts as one to come: where the topic is compacted from now
    /// on, one with a record without a key is refused.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`ConfigMismatch`](Error::ConfigMismatch) for fewer
    /// partitions, [`InvalidConfig`](Error::InvalidConfig), [`Closed`](Error::Closed), or an I/O
    /// error: then nothing has changed.
    pub fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        let state = self.inner.alter_topic(name, config)?;
        self.inner.topics_changed(std::slice::from_ref(&state.name));
        Ok(())
    }

    /// Deletes a topic with all its records. Its handles return
    /// [`TopicDeleted`](Error::TopicDeleted) after that; records that a reader holds stay valid. A
    /// topic created later under this name is another one. A running compaction is aborted, and
    /// this call waits for it.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`Closed`](Error::Closed), or an I/O error; a
    /// deletion that began is finished at the next opening.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let (state, removed) = self.inner.delete_topic(name)?;
        self.inner.topic_deleted(&state);
        removed
    }

    /// Makes a topic of files that the [catalog does not know](Broker::open_report): those at the
    /// paths of a topic of this name, for example after an older catalog was put back. They keep
    /// their identity, so offsets that groups have committed for them are theirs again. The
    /// partitions are recovered as after a power loss: a new epoch begins in each. Names of
    /// idempotent producers in these files are not known any more.
    ///
    /// A topic whose name is so long that its directory is called by its identity cannot be found
    /// by its name.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic) if there are no such files,
    /// [`TopicExists`](Error::TopicExists) if a topic has that name or that identity,
    /// [`ConfigMismatch`](Error::ConfigMismatch) if there are more partitions than in the
    /// configuration, [`Corrupt`](Error::Corrupt) if a manifest is damaged;
    /// [`InvalidTopicName`](Error::InvalidTopicName), [`InvalidConfig`](Error::InvalidConfig),
    /// [`Closed`](Error::Closed), or an I/O error, after which the next opening may have the topic.
    /// A damaged partition returns errors itself.
    pub fn adopt_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        let state = self.inner.adopt_topic(name, config)?;
        self.inner.topics_changed(std::slice::from_ref(&state.name));
        Ok(())
    }

    /// Removes files that the [catalog does not know](Broker::open_report): everything at the paths
    /// of a topic of this name. A symbolic link is removed, and its target stays.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic) if there are none, [`TopicExists`](Error::TopicExists)
    /// if they are those of a topic, [`Closed`](Error::Closed), or an I/O error: call it again to
    /// remove the rest.
    pub fn remove_unknown(&self, name: &str) -> Result<()> {
        self.inner.remove_unknown(name)
    }

    /// Forgets the name of a [producer](crate::ProducerConfig::name), durably. Returns whether
    /// there was one of that name. Its handles return [`Fenced`](Error::Fenced) after that. A later
    /// producer of that name is a new one: records that the old one has sent are not recognized
    /// when they are sent again. Use it for names that are not used again, for example of a job
    /// that ran once, because each takes a little memory and room in the catalog;
    /// [`BrokerConfig::producer_expiration`] does it for all that are not used any more.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) or [`DiskFull`](Error::DiskFull): then the name is still known.
    /// [`Io`](Error::Io): the next opening may know it or not.
    ///
    /// ```
    /// use quipu::{Broker, Error, ProducerConfig, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// broker.create_topic("rows", TopicConfig::new())?;
    /// let import = broker.producer_with(ProducerConfig::new().name("import-2024"))?;
    /// import.send("rows", Record::new("42").sequence(1))?.wait()?;
    ///
    /// assert!(broker.forget_producer("import-2024")?);
    /// assert!(!broker.forget_producer("import-2024")?);
    /// let sent = import.send("rows", Record::new("43").sequence(2)).and_then(|pending| pending.wait());
    /// assert!(matches!(sent, Err(Error::Fenced { .. })));
    /// # Ok(()) }
    /// ```
    pub fn forget_producer(&self, name: &str) -> Result<bool> {
        self.inner.forget_producer(name)
    }

    /// The names of the [producers](crate::ProducerConfig::name) that have one, sorted. A name is
    /// known until it is [forgotten](Broker::forget_producer) or
    /// [expires](BrokerConfig::producer_expiration).
    ///
    /// # Errors
    /// [`Closed`](Error::Closed).
    ///
    /// ```
    /// # use quipu::{Broker, ProducerConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// broker.producer_with(ProducerConfig::new().name("outbox"))?;
    /// assert_eq!(broker.producers()?, ["outbox"]);
    /// # Ok(()) }
    /// ```
    pub fn producers(&self) -> Result<Vec<String>> {
        self.inner.check_open()?;
        Ok(self.inner.producer_names())
    }

    /// The report of the opening: whether the broker had been closed properly, and which partitions
    /// were recovered, truncated, or are damaged.
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// Makes everything that has been appended durable, whatever the topics' durability. Records in
    /// the open batches of producers are not appended yet: flush those first.
    ///
    /// # Errors
    /// The first error of any partition; the others are synced nevertheless.
    pub fn sync(&self) -> Result<()> {
        self.inner.check_open()?;
        let mut first = Ok(());
        let topics = self.inner.maintenance.topics.read().to_vec();
        let logs: Vec<_> = topics.iter().flat_map(|state| state.logs().to_vec()).collect();
        sync_ahead(&self.inner.ctx, logs.iter());
        for log in &logs {
            first = first.and(log.sync());
        }
        first
    }

    /// Does the periodic work of the background threads now: it writes lingering batches, syncs and
    /// indexes sealed segments, rolls old ones, deletes segments as the topic's
    /// [`Retention`](crate::Retention) allows, writes the checkpoint, and compacts
    /// [compacted](crate::Cleanup) topics. Under a manual clock this is the only way.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed), or an I/O error of the checkpoint. A failing partition is
    /// poisoned and returns its errors itself.
    pub fn maintain(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.maintenance.maintain()
    }

    /// The broker in numbers.
    pub fn stats(&self) -> BrokerStats {
        let topics = self.inner.maintenance.topics.read().to_vec();
        BrokerStats {
            topics: topics
                .iter()
                .map(|state| TopicStats {
                    name: state.name.clone(),
                    partitions: state.logs().iter().map(|log| partition_stats(log)).collect(),
                })
                .collect(),
            open_files: self.inner.ctx.files.open(),
            max_open_files: self.inner.ctx.files.max(),
            tail_cache_bytes: self.inner.ctx.kept.tail_bytes.load(Ordering::Relaxed),
            disk: self.inner.ctx.reserve.state(),
            panics: self.inner.ctx.events.panics(),
        }
    }

    /// Writes the producers' buffered records, syncs everything, marks the directory as closed
    /// properly and unlocks it. Every handle returns [`Closed`](Error::Closed) after that. Closing
    /// twice is allowed. A running compaction is aborted, and this call waits for it, and for a
    /// running change of the topics. Nothing is written after the directory is free. A broker that
    /// has changed nothing since it was opened writes nothing.
    ///
    /// A process that forks without running another program (Rust's `Command` does run one) must
    /// not use a broker in the child: it would write into the same files. Closing one there, or
    /// dropping its last handle, does nothing, and does not unlock the parent's directory. Records
    /// that the child holds stay readable. The parent's close frees the directory even while the
    /// child lives.
    ///
    /// Wakes every caller that waits for something of this broker.
    ///
    /// # Errors
    /// The first error met; everything that could be closed properly has been, and the rest is
    /// recovered at the next opening. [`Panicked`](Error::Panicked) if nothing else failed, and
    /// code of the user has panicked where no caller could get the panic: everything was closed
    /// properly.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }

    /// Copies everything into the directory `to`, as it is at one moment: all topics with their
    /// settings, the committed offsets of groups, and the names and sequences of idempotent
    /// producers. A transaction is in the copy as a whole or not at all. Records that a producer
    /// still buffers are not in it; [`flush`](crate::Producer::flush) before.
    ///
    /// The broker works on meanwhile. Sealed segments get a second name (a hard link) where `to` is
    /// on the same file system, and are copied elsewhere; of active segments a copy is made. Files
    /// that retention or compaction removes meanwhile are removed at the end of the backup.
    /// [`delete_topic`](Broker::delete_topic), [`Topic::erase_stream`](crate::Topic::erase_stream)
    /// and another backup wait for it, and [`close`](Broker::close) ends it with
    /// [`Closed`](Error::Closed).
    ///
    /// `to` is created if it is missing. It may hold an older backup of this broker: then only what
    /// is new is copied. The copy is the directory of a broker that was closed properly: to restore
    /// is to open it, or a copy of it. In every partition an [epoch](crate::Partition::epoch)
    /// begins at its end, so that positions after it, which are those of other records, are
    /// refused. Do not open a backup that is to be continued; a broker that has written into it
    /// makes it one of its own.
    ///
    /// `progress` is called after each segment, and after each MiB that is copied. It may end the
    /// backup with [`Break`](ControlFlow::Break): then the report is not
    /// [complete](crate::stats::BackupReport::complete). A backup that was ended, has failed or was
    /// interrupted is no broker's directory: opening it returns
    /// [`BackupUnfinished`](Error::BackupUnfinished). Another backup into it finishes it.
    ///
    /// # Errors
    /// [`AlreadyOpen`](Error::AlreadyOpen) if `to` is in use, for example by another backup;
    /// [`ForeignDirectory`](Error::ForeignDirectory) or [`NotABackup`](Error::NotABackup) if it
    /// holds something else than an older backup: nothing was touched.
    /// [`Corrupt`](Error::Corrupt) if a partition is damaged: [salvage](Broker::salvage) first, or
    /// [accept the loss](crate::Partition::accept_loss).
    /// [`BackupRunning`](Error::BackupRunning) in `progress`; [`Closed`](Error::Closed),
    /// [`DiskFull`](Error::DiskFull), [`Io`](Error::Io).
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let dir = std::env::temp_dir().join(format!("quipu-backup-{}", std::process::id()));
    /// let broker = Broker::open(dir.join("data"))?;
    /// let orders = broker.ensure_topic("orders", TopicConfig::new())?;
    /// broker.producer().send(&orders, Record::new("42 EUR"))?.wait()?;
    ///
    /// let report = broker.backup(dir.join("backup"), |_| ControlFlow::Continue(()))?;
    /// assert!(report.complete);
    ///
    /// let restored = Broker::open(dir.join("backup"))?;
    /// let records = restored.topic("orders")?.partition(0)?.read(Start::Beginning, 1 << 20)?;
    /// assert_eq!(records.iter().next().unwrap().value_str(), Some("42 EUR"));
    /// # drop((broker, restored, records));
    /// # std::fs::remove_dir_all(dir).unwrap();
    /// # Ok(()) }
    /// ```
    pub fn backup(
        &self,
        to: impl AsRef<Path>,
        mut progress: impl FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        let to = to.as_ref();
        self.inner.check_open()?;
        FsStorage::create_root(to).map_err(|e| Error::create(to, e))?;
        self.inner.backup(Arc::new(FsStorage::new(to.to_path_buf())), &mut progress)
    }

    /// Another handle of a broker.
    pub(crate) fn of(inner: &Arc<BrokerInner>) -> Self {
        Broker { inner: inner.clone() }
    }

    pub(crate) fn inner(&self) -> &Arc<BrokerInner> {
        &self.inner
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("dir", &self.inner.dir()).finish_non_exhaustive()
    }
}
