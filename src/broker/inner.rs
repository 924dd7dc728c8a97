//! The state that all handles of a broker share.

use std::path::{Path, PathBuf};

use super::maintenance::{Maintenance, Threads};
use super::store::CatalogStore;
use super::topic_state::TopicState;
use crate::config::{Durability, SEGMENT_FRAMING, TopicConfig, invalid};
use crate::engine::{Context, Published};
use crate::error::{Error, Result};
use crate::format::names::is_own_topic;
use crate::format::owner::Slot;
use crate::group::assign::refuse_in_assignor;
use crate::log::durability::sync_ahead;
use crate::log::{Log, close};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::transaction::journal::Journal;
use crate::types::{PartitionId, TopicId, TopicName};

/// The state that all handles share.
pub(crate) struct BrokerInner {
    pub(crate) ctx: Arc<Context>,
    /// Has no log once the broker is closed.
    pub(crate) journal: Arc<Journal>,
    pub(super) durability: Durability,
    pub(super) catalog: Arc<CatalogStore>,
    /// Held over each change of topics and names of producers, before any other lock.
    pub(super) changing: Arc<Mutex<()>>,
    /// The broker was given a seed: its topics' identities are repeatable.
    pub(super) is_seeded: bool,
    pub(super) maintenance: Arc<Maintenance>,
    pub(super) random: Mutex<SplitMix64>,
    pub(super) report: OpenReport,
    pub(super) threads: Threads,
    pub(super) closed: AtomicBool,
    /// The process that opened it. A forked child has a copy of this, and no right to the
    /// directory.
    pub(super) process: u32,
    /// Held until closing is done.
    pub(super) lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl BrokerInner {
    /// All topics, by name.
    pub(crate) fn topic_states(&self) -> Vec<Arc<TopicState>> {
        self.maintenance.topics.read().of_user().cloned().collect()
    }

    /// The topic with this identity, if it is one that the user sees.
    pub(crate) fn topic_of(&self, id: &TopicId) -> Option<Arc<TopicState>> {
        let topics = self.maintenance.topics.read();
        topics.by_id(id).filter(|state| !is_own_topic(state.name.as_str())).cloned()
    }

    /// The topic of this name.
    pub(crate) fn topic_state(&self, name: &str) -> Result<Arc<TopicState>> {
        self.check_open()?;
        let topics = self.maintenance.topics.read();
        topics.get(name).cloned().ok_or_else(|| Error::UnknownTopic { topic: name.to_string() })
    }

    /// Checks whether a caller may create a topic of this name, or there is one.
    ///
    /// # Errors
    /// `InvalidTopicName`, or `UnknownTopic` for one of the broker itself.
    pub(crate) fn check_topic_name(&self, name: &str) -> Result<()> {
        self.check_open()?;
        match is_own_topic(topic_name(name)?.as_str()) {
            true => Err(Error::UnknownTopic { topic: name.to_string() }),
            false => Ok(()),
        }
    }

    /// The logs of all topics, the broker's own among them.
    pub(crate) fn all_logs(&self) -> Vec<Arc<Log>> {
        self.maintenance.topics.read().iter().flat_map(|state| state.logs().to_vec()).collect()
    }

    /// The log of a partition, also of a topic of the broker's own.
    pub(crate) fn any_log(&self, topic: &str, partition: PartitionId) -> Result<Arc<Log>> {
        self.check_open()?;
        let topics = self.maintenance.topics.read();
        let state = topics.any(topic).ok_or_else(|| Error::UnknownTopic { topic: topic.to_string() })?;
        state.check()?;
        state.log(partition)
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
    /// The broker has been closed, or an assignor calls it: such a call must be refused before it
    /// takes a lock.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        refuse_in_assignor()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// # Errors
    /// `ForeignBroker`: `owner`, to which `what` belongs, is another broker.
    #[inline]
    pub(crate) fn check_own(&self, owner: &Arc<BrokerInner>, what: impl FnOnce() -> String) -> Result<()> {
        if std::ptr::eq(self, Arc::as_ptr(owner)) { Ok(()) } else { Err(self.foreign(owner, what)) }
    }

    #[cold]
    #[inline(never)]
    fn foreign(&self, owner: &BrokerInner, what: impl FnOnce() -> String) -> Error {
        Error::ForeignBroker { what: what(), own: self.dir(), other: owner.dir() }
    }

    /// The broker's directory, for messages.
    pub(super) fn dir(&self) -> PathBuf {
        self.ctx.display(Path::new(""))
    }

    pub(super) fn close(&self) -> Result<()> {
        refuse_in_assignor()?;
        if self.closed.swap(true, Ordering::AcqRel) || self.ctx.storage.run_identity().1 != self.process {
            return Ok(());
        }
        // Those that read no log; the end of a log wakes its own.
        self.ctx.readers.idle.signal();
        if self.ctx.settings.read_only {
            self.threads.stop(&self.ctx);
            self.abandon();
            return Ok(());
        }
        // A backup ends at its next file. One that makes this call ends after it.
        drop(self.ctx.no_backup());
        // Waits for a running change of the topics; no other starts, so everything that it opens is
        // closed below.
        drop(self.changing.lock());
        // Open batches of producers are tasks of the timer: written now, due or not.
        self.run_all_tasks();
        self.threads.stop(&self.ctx);
        let mut first = Ok(());
        let mut entries = Vec::new();
        // Not locked while they are closed: a compaction that is to end may be looking at the list.
        let topics = self.maintenance.topics.read().to_vec();
        let logs: Vec<_> = topics.iter().flat_map(|state| state.logs().to_vec()).collect();
        sync_ahead(&self.ctx, logs.iter());
        for state in &topics {
            state.end();
            for log in state.logs().iter() {
                match close::close(log) {
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
        if !self.ctx.gate.is_shut() {
            self.ctx.reserve.restore();
        }
        self.ctx.publisher().close();
        // From here on the directory may be another broker's.
        self.ctx.gate.close();
        *self.lock.lock() = None;
        first.and(journal.map(drop)).and(catalog).and(written).and(self.ctx.events.check_panics())
    }

    /// The slots of all logs that have files.
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.all_logs().iter().filter_map(|log| log.slot()).collect()
    }

    /// Ends all logs, and writes nothing: for a directory that is only read.
    pub(super) fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        let topics = self.maintenance.topics.read().to_vec();
        for state in &topics {
            state.end();
            state.logs().iter().for_each(|log| close::end(log, Error::Closed));
        }
    }

    pub(super) fn run_all_tasks(&self) {
        for task in self.ctx.timer.drain() {
            // All of them, also after one has panicked: each is the write of another caller.
            self.ctx.events.catch("a task of the timer", || task.run(std::time::Duration::MAX));
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
pub(super) fn topic_name(name: &str) -> Result<TopicName> {
    name.parse()
}

/// Validates settings for a topic.
pub(super) fn check_config(config: &TopicConfig) -> Result<()> {
    config.validate()?;
    // A record must fit a batch, and a batch a segment.
    if config.max_record_bytes > config.segment_bytes.saturating_sub(SEGMENT_FRAMING) {
        return Err(invalid("max_record_bytes", "such a record must fit a segment: raise segment_bytes"));
    }
    Ok(())
}
