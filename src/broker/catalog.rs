//! How do topics come and go? Each creation, change and deletion is one change of the catalog, and
//! that is its commit point.
//!
//! A creation or a growth makes no file: a partition's first write does. A deletion is committed
//! first; then the files go. A crash in between leaves a topic that is being deleted, and the next
//! opening finishes that.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use super::trash::discard;
use super::{BrokerInner, TopicState, check_config, topic_name};
use crate::config::TopicConfig;
use crate::engine::{Context, Identity, Later};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::Secret;
use crate::format::catalog::{Change, TopicEntry, TopicState as EntryState, folded};
use crate::format::{names, settings};
use crate::log::recovery::Note;
use crate::log::{Log, LogSettings, open};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::sync::{Arc, OnceLock};
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName};

/// A topic that is being created.
struct NewTopic {
    name: TopicName,
    id: TopicId,
    config: TopicConfig,
}

impl BrokerInner {
    pub(crate) fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Arc<TopicState>> {
        let created = self.create_topics([(name, config)])?;
        created.into_iter().next().ok_or_else(|| Error::internal("as many topics are created as are given"))
    }

    /// Creates topics with one commit of the catalog.
    pub(crate) fn create_topics<N: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = (N, TopicConfig)>,
    ) -> Result<Vec<Arc<TopicState>>> {
        let mut given = Vec::new();
        let mut twice = HashSet::new();
        for (name, config) in topics {
            let name = topic_name(name.as_ref())?;
            check_config(&config)?;
            if !twice.insert(name.clone()) {
                return Err(Error::TopicExists { topic: name });
            }
            given.push((name, config));
        }
        if given.is_empty() {
            return self.check_open().map(|()| Vec::new());
        }
        self.check_open()?;
        // Held to the end: creations, alterations and deletions are one after the other.
        let _changing = self.changing.lock();
        self.check_open()?;
        let mut changes = self.make_way(given.iter().map(|(name, _)| name))?;
        let (ctx, next_id) = (&*self.ctx, self.catalog.with(|catalog| catalog.next_id()));
        let numbered = given.into_iter().zip(next_id..);
        let new: Vec<_> = numbered
            .map(|((name, config), number)| NewTopic { name, id: self.topic_id(number), config })
            .collect();
        for NewTopic { name, id, config } in &new {
            refuse_existing(ctx, &names::topic_dir(name, id), None)?;
            check_names(ctx, name, id, config.partitions)?;
        }
        let created_at = ctx.clock.now();
        // IMPORTANT: the ids before the topics. A topic that is there has taken its number.
        changes.push(Change::Ids(next_id + new.len() as u64));
        let entry = |topic: &NewTopic| live_entry(&topic.name, topic.id, created_at, &topic.config);
        changes.extend(new.iter().map(|topic| Change::Topic(entry(topic))));
        self.catalog.commit(ctx, changes)?;
        let serve = |NewTopic { name, id, config }| {
            let settings = LogSettings::new(config, self.durability);
            let logs = self.new_logs(&name, id, &settings, 0..settings.partitions);
            Arc::new(TopicState::new(id, name, created_at, settings, logs))
        };
        let states: Vec<_> = new.into_iter().map(serve).collect();
        let mut topics = self.maintenance.topics.write();
        states.iter().for_each(|state| topics.insert(state.clone()));
        Ok(states)
    }

    /// Checks that no topic has one of these names, or one that collides with it, and finishes
    /// deletions that failed halfway: finishing one later would take the new topic's files too.
    /// Returns the changes that note their end.
    fn make_way<'a>(&self, names: impl Iterator<Item = &'a TopicName>) -> Result<Vec<Change>> {
        let leftovers = self.catalog.with(|catalog| {
            // By name, once for all: most often there are none.
            let mut leftovers: HashMap<TopicName, Vec<TopicId>> = HashMap::new();
            for topic in catalog.deleting() {
                leftovers.entry(topic.entry.name.clone()).or_default().push(topic.entry.id);
            }
            let mut of_names = Vec::new();
            let mut new = HashMap::new();
            for name in names {
                if catalog.is_live(name) {
                    return Err(Error::TopicExists { topic: name.clone() });
                }
                let with_new = folded(name).and_then(|folded| new.insert(folded, name));
                // A caller's topic must not keep the broker from making its own.
                let other = with_new.or_else(|| catalog.colliding(name));
                if let Some(other) = other.filter(|_| !names::is_own_topic(name.as_str())) {
                    return Err(Error::TopicNameCollides { topic: name.clone(), other: other.clone() });
                }
                let ids = leftovers.remove(name).unwrap_or_default();
                of_names.extend(ids.into_iter().map(|id| (name, id)));
            }
            Ok(of_names)
        })?;
        let mut changes = Vec::new();
        for (name, id) in leftovers {
            discard(&self.ctx, name, id)?;
            changes.push(Change::TopicGone(id));
        }
        Ok(changes)
    }

    pub(super) fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<Arc<TopicState>> {
        check_config(&config)?;
        self.check_open()?;
        let _later = Later::new();
        let _changing = self.changing.lock();
        let state = self.topic_state(name)?;
        let (had, seen) = (state.log_count(), state.settings());
        if **seen == config {
            return Ok(state);
        }
        let mismatch = |field, found: String, asked: String| {
            Err(Error::ConfigMismatch { topic: state.name.clone(), field, found, asked })
        };
        if config.streams != seen.streams {
            return mismatch("streams", seen.streams.to_string(), config.streams.to_string());
        }
        // With another number of partitions keys would have other partitions, and a stream more
        // than one.
        if config.partitions < had || (config.streams && config.partitions > had) {
            return mismatch("partitions", had.to_string(), config.partitions.to_string());
        }
        let (ctx, id) = (&*self.ctx, state.id);
        if config.partitions > had {
            refuse_existing(ctx, &names::topic_dir(&state.name, &id), Some(had))?;
            check_names(ctx, &state.name, &id, config.partitions)?;
        }
        let Some(mut entry) = self.catalog.with(|catalog| Some(catalog.topic(&id)?.entry.clone())) else {
            return Err(Error::internal("a topic that is served is in the catalog"));
        };
        // IMPORTANT: keep the settings of a later release that this one ignores.
        let Ok((_, ignored)) = settings::to_config(had, &entry.settings) else {
            return Err(Error::internal("the settings of a topic that is served can be read"));
        };
        if config.partitions > had {
            entry.earlier_partitions.push(had);
        }
        entry.partitions = config.partitions;
        entry.settings = settings::merge(&seen, &config, &entry.settings, &ignored);
        self.catalog.commit(ctx, vec![Change::Topic(entry)])?;
        let settings = LogSettings::new(config, self.durability);
        let added = self.new_logs(&state.name, id, &settings, had..settings.partitions);
        for log in state.logs().iter() {
            log.set_settings(&settings);
        }
        state.alter(settings, added, &ctx.readers);
        Ok(state)
    }

    /// Returns the topic once it is gone, and whether its files are gone too.
    ///
    /// # Errors
    /// It is not gone.
    pub(super) fn delete_topic(&self, name: &str) -> Result<(Arc<TopicState>, Result<()>)> {
        self.check_open()?;
        let _later = Later::new();
        let _no_backup = self.ctx.no_backup()?;
        let _changing = self.changing.lock();
        let state = self.topic_state(name)?;
        let (ctx, id) = (&*self.ctx, state.id);
        let Some(entry) = self.catalog.with(|catalog| Some(catalog.topic(&id)?.entry.clone())) else {
            return Err(Error::internal("a topic that is served is in the catalog"));
        };
        let entry = TopicEntry { state: EntryState::Deleting, ..entry };
        self.catalog.commit_freeing(ctx, vec![Change::Topic(entry)])?;
        self.maintenance.topics.write().remove(&state);
        state.delete();
        let removed = discard(ctx, &state.name, id).and_then(|()| {
            ctx.reserve.restore();
            // If a crash takes this the next opening finds nothing to remove.
            self.catalog.note(ctx, vec![Change::TopicGone(id)])
        });
        Ok((state, removed.map(drop)))
    }

    /// Adds a topic that the catalog has to those that are served.
    pub(super) fn add_topic(&self, state: &Arc<TopicState>) {
        self.maintenance.topics.write().insert(state.clone());
    }

    /// The logs of partitions that were never written to.
    fn new_logs(
        &self,
        name: &TopicName,
        id: TopicId,
        settings: &Arc<LogSettings>,
        partitions: std::ops::Range<u32>,
    ) -> Vec<Arc<Log>> {
        let mut report = OpenReport::default();
        let open = |partition| {
            let identity = identity(name, id, partition);
            let dir = names::partition_dir(name, &id, identity.partition);
            let log = open::open(
                self.journal.clone(),
                identity,
                dir,
                settings.clone(),
                Note::default(),
                Ok(None),
                &mut report,
            );
            self.ctx.publisher().add(Arc::downgrade(&log) as _);
            log
        };
        partitions.map(open).collect()
    }

    /// An identity that no topic has had. From the system's randomness; under a seed repeatable:
    /// then the catalog's counter, which is never given out twice, goes into it, because every
    /// opening begins with the same numbers.
    fn topic_id(&self, next_id: u64) -> TopicId {
        let mut seeded =
            SplitMix64::new(self.ctx.settings.seed ^ next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut half = || if self.is_seeded { seeded.next_u64() } else { random_u64() };
        let mut id = [0; 16];
        for bytes in id.chunks_exact_mut(8) {
            bytes.copy_from_slice(&half().to_le_bytes());
        }
        TopicId(id)
    }
}

/// The catalog's entry of a topic with this configuration.
pub(super) fn live_entry(
    name: &TopicName,
    id: TopicId,
    created_at: Timestamp,
    config: &TopicConfig,
) -> TopicEntry {
    TopicEntry {
        id,
        state: EntryState::Live,
        partitions: config.partitions,
        created_at,
        name: name.clone(),
        settings: settings::of_config(config),
        earlier_partitions: Vec::new(),
        rest: Vec::new(),
    }
}

pub(super) fn identity(name: &TopicName, topic_id: TopicId, partition: u32) -> Identity {
    let partition = PartitionId::new(partition);
    Identity { topic: name.clone(), topic_id, partition, secret: Secret::default(), learnt: OnceLock::new() }
}

/// A number from the operating system's randomness, by way of the keys of the standard library's
/// hasher.
pub(super) fn random_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Refuses to take over files that the catalog does not know: the directory of a topic to be
/// created, or that of a partition from `first` on of a topic that grows.
///
/// # Errors
/// `ForeignDirectory` if there is such a directory; an I/O error.
fn refuse_existing(ctx: &Context, dir: &Path, first: Option<u32>) -> Result<()> {
    let entries = match ctx.storage.list(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?,
    };
    let foreign = |path: &Path, found: &str| {
        Err(Error::ForeignDirectory { path: ctx.display(path), found: found.to_string() })
    };
    let Some(first) = first else {
        let Some(name) = dir.file_name() else {
            return Err(Error::internal("a topic's directory has a name"));
        };
        return foreign(Path::new(names::TOPICS), &name.to_string_lossy());
    };
    let is_new =
        |name: &str| names::parse_partition_dir(name).is_some_and(|partition| partition.get() >= first);
    match entries.iter().find(|entry| is_new(&entry.name)) {
        Some(entry) => foreign(dir, &entry.name),
        None => Ok(()),
    }
}

/// Refuses a topic whose files the file system could not name: this looks up the longest path,
/// which does not exist in any case.
///
/// # Errors
/// The I/O error that the first write would meet.
fn check_names(ctx: &Context, name: &TopicName, id: &TopicId, partitions: u32) -> Result<()> {
    let last = PartitionId::new(partitions.saturating_sub(1));
    let file = names::torn_file(Offset::new(u64::MAX), u32::MAX, u64::MAX);
    let path = names::partition_dir(name, id, last).join(file);
    match ctx.storage.is_link(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::io(IoAction::Inspect, &ctx.display(&path), e))
        }
        _ => Ok(()),
    }
}
