//! The root object: one directory, its threads, and the state that every handle shares.

mod catalog;
mod checkpoint;
mod groups;
mod maintenance;
mod open;
mod prepare;
mod producers;
mod store;
mod topic_state;
mod unknown;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub(crate) use self::groups::offsets_config;
use self::maintenance::{Maintenance, Threads};
pub(crate) use self::prepare::{Gathering, prepare, prepare_sequenced, refuse_sequence};
pub(crate) use self::producers::ProducerIdentity;
use self::store::CatalogStore;
pub(crate) use self::topic_state::TopicState;
use crate::config::{BrokerConfig, Durability, TopicConfig, invalid};
use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::format::names::is_own_topic;
use crate::log::Log;
use crate::rng::SplitMix64;
use crate::stats::{BrokerStats, OpenReport, TopicStats};
use crate::storage::Storage;
use crate::storage::fs::FsStorage;
use crate::storage::mem::MemStorage;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::transaction::journal::Journal;
use crate::types::TopicName;

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

/// The state that all handles share.
pub(crate) struct BrokerInner {
    pub(crate) ctx: Arc<Context>,
    /// Has no log once the broker is closed.
    pub(crate) journal: Arc<Journal>,
    durability: Durability,
    catalog: Arc<CatalogStore>,
    /// Held over each change of topics and names of producers, before any other lock.
    changing: Mutex<()>,
    /// The broker was given a seed: its topics' identities are repeatable.
    is_seeded: bool,
    maintenance: Arc<Maintenance>,
    /// By producer id: which of its handles is the last one.
    producers: Mutex<HashMap<u64, Arc<AtomicU64>>>,
    random: Mutex<SplitMix64>,
    report: OpenReport,
    threads: Threads,
    closed: AtomicBool,
    /// The process that opened it. A forked child has a copy of this, and no right to the
    /// directory.
    process: u32,
    /// Held until closing is done.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
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
    /// [`InvalidConfig`](Error::InvalidConfig).
    pub fn in_memory(self) -> Result<Broker> {
        self.validate()?;
        self.open_on(Arc::new(MemStorage::new()))
    }

    pub(crate) fn open_on(self, storage: Arc<dyn Storage>) -> Result<Broker> {
        Ok(Broker { inner: open::open(&self, storage)? })
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
    /// None with the default settings.
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
        self.inner.alter_topic(name, config)?;
        self.inner.topics_changed();
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
        self.inner.delete_topic(name)?;
        self.inner.topic_deleted();
        Ok(())
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
        self.inner.adopt_topic(name, config)?;
        self.inner.topics_changed();
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
    /// that ran once, because each takes a little memory and room in the catalog.
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
    /// assert!(matches!(sent, Err(Error::Fenced)));
    /// # Ok(()) }
    /// ```
    pub fn forget_producer(&self, name: &str) -> Result<bool> {
        self.inner.forget_producer(name)
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
        let topics = self.inner.maintenance.topics.read().clone();
        for state in &topics {
            for log in state.logs().iter() {
                first = first.and(log.sync());
            }
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
        let topics = self.inner.maintenance.topics.read().clone();
        BrokerStats {
            topics: topics
                .iter()
                .map(|state| TopicStats {
                    name: state.name.clone(),
                    partitions: state.logs().iter().map(|log| log.stats()).collect(),
                })
                .collect(),
            open_files: self.inner.ctx.files.open(),
            tail_cache_bytes: self.inner.ctx.tail_bytes.load(Ordering::Relaxed),
            disk: self.inner.ctx.reserve.state(),
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
    /// # Errors
    /// The first error met; everything that could be closed properly has been, and the rest is
    /// recovered at the next opening.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
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

impl BrokerInner {
    /// All topics, by name.
    pub(crate) fn topic_states(&self) -> Vec<Arc<TopicState>> {
        let topics = self.maintenance.topics.read();
        topics.iter().filter(|state| !is_own_topic(state.name.as_str())).cloned().collect()
    }

    /// The topic of this name.
    pub(crate) fn topic_state(&self, name: &str) -> Result<Arc<TopicState>> {
        self.check_open()?;
        let topics = self.maintenance.topics.read();
        let found =
            topics.binary_search_by(|state| state.name.as_str().cmp(name)).ok().and_then(|at| topics.get(at));
        let found = found.filter(|_| !is_own_topic(name));
        found.cloned().ok_or_else(|| Error::UnknownTopic { topic: name.to_string() })
    }

    /// The logs of all topics, the broker's own among them.
    pub(crate) fn all_logs(&self) -> Vec<Arc<Log>> {
        self.maintenance.topics.read().iter().flat_map(|state| state.logs().to_vec()).collect()
    }

    /// The log of a partition, also of a topic of the broker's own.
    pub(crate) fn any_log(&self, topic: &str, partition: u32) -> Result<Arc<Log>> {
        self.check_open()?;
        let topics = self.maintenance.topics.read();
        let state = topics.iter().find(|state| state.name == *topic);
        let state = state.ok_or_else(|| Error::UnknownTopic { topic: topic.to_string() })?;
        state.check()?;
        state.logs().get(partition as usize).cloned().ok_or_else(|| Error::UnknownPartition {
            topic: state.name.clone(),
            partition,
            count: state.log_count(),
        })
    }

    /// A number that follows from the broker's seed, another one each time.
    pub(crate) fn next_seed(&self) -> u64 {
        self.random.lock().next_u64()
    }

    /// Under a manual clock: runs due work, and work that was requested of the worker.
    pub(crate) fn run_due(&self) {
        self.maintenance.run_due();
    }

    /// # Errors
    /// The broker has been closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Where the broker lies, for messages.
    fn dir(&self) -> PathBuf {
        self.ctx.display(Path::new(""))
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) || self.ctx.storage.run_identity().1 != self.process {
            return Ok(());
        }
        // Waits for a running change of the topics; no other starts, so everything that it opens is
        // closed below.
        drop(self.changing.lock());
        // Open batches of producers are tasks of the timer: written now, due or not.
        self.run_all_tasks();
        self.threads.stop(&self.ctx);
        let mut first = Ok(());
        let mut entries = Vec::new();
        // Not locked while they are closed: a compaction that is to end may be looking at the list.
        let topics = self.maintenance.topics.read().clone();
        for state in &topics {
            state.end();
            for log in state.logs().iter() {
                match log.close() {
                    Ok(entry) => entries.extend(entry),
                    Err(e) => first = first.and(Err(e)),
                }
            }
        }
        let journal = self.journal.close(first.is_ok());
        // Records that were sent during the close fail with an error.
        self.run_all_tasks();
        drop(self.ctx.work.take());
        for state in &topics {
            for log in state.logs().iter().filter(|log| log.has_files()) {
                // Where that could not be done before. The checkpoint's entry is as good for those
                // that have one.
                let _ = self.catalog.note_files(&self.ctx, state.id, log.partition().get());
            }
        }
        // IMPORTANT: close the catalog before the mark of a clean close, which vouches for all of
        // it.
        let catalog = self.catalog.close(&self.ctx);
        let place = self.catalog.place();
        let written = if self.ctx.gate.is_shut() {
            // Nothing was changed since it was closed properly: the mark is there.
            Ok(())
        } else {
            // The mark also vouches for an empty journal.
            let is_clean = catalog.is_ok() && matches!(journal, Ok(true));
            self.maintenance.checkpoints.write(&self.ctx, is_clean, place, entries)
        };
        // So that the next opening, and operations that free space after it, have the room.
        self.ctx.restore_reserve();
        // From here on the directory may be another broker's.
        self.ctx.gate.close();
        *self.lock.lock() = None;
        first.and(journal.map(drop)).and(catalog).and(written)
    }

    fn run_all_tasks(&self) {
        for task in self.ctx.timer.drain() {
            task.run(std::time::Duration::MAX);
        }
    }
}

impl Drop for BrokerInner {
    fn drop(&mut self) {
        // No caller is left for an error; work that this cannot finish is recovered at the next
        // opening.
        let _ = self.close();
    }
}

/// Validates a name for a topic to be created.
fn topic_name(name: &str) -> Result<TopicName> {
    TopicName::new(name).map_err(|reason| Error::InvalidTopicName { name: name.to_string(), reason })
}

/// Validates settings for a topic.
fn check_config(config: &TopicConfig) -> Result<()> {
    config.validate()?;
    // A record must fit a batch, and a batch a segment.
    let room = config.segment_bytes as usize;
    let framing = crate::format::segment::SEGMENT_HEADER_BYTES + crate::format::batch::HEADER_BYTES;
    if config.max_record_bytes as usize > room.saturating_sub(framing) {
        return Err(invalid("max_record_bytes", "such a record must fit a segment: raise segment_bytes"));
    }
    Ok(())
}
