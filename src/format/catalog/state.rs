//! The state of a catalog, and the changes that it adds up to.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::TopicConfig;
use crate::format::manifest::EpochStart;
use crate::format::settings::Setting;
use crate::types::{PartitionId, Timestamp, TopicId, TopicName};

/// The state that the changes of a catalog add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// The next id of a producer; those below were given out. It never falls.
    next_id: u64,
    topics: BTreeMap<TopicId, CatalogTopic>,
    /// The topics that may be used, by name.
    live: BTreeMap<TopicName, TopicId>,
    /// The topics that may be used, by their names with each `_` as `.`. Only names with one of
    /// the two are listed.
    folded: BTreeMap<String, BTreeSet<TopicName>>,
    /// The topics that are being deleted.
    deleting: BTreeSet<TopicId>,
    producers: BTreeMap<u64, ProducerEntry>,
    producer_names: BTreeMap<String, u64>,
    /// When a producer's name was used last, by its id; only where that was noted.
    producer_uses: BTreeMap<u64, Timestamp>,
    /// Epochs that began at an opening and are not in their partition's manifest yet.
    pub(crate) epochs: BTreeMap<(TopicId, PartitionId), Vec<EpochStart>>,
    opening: Option<Opening>,
}

/// One topic, and which of its partitions have files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTopic {
    pub(crate) entry: TopicEntry,
    /// The partitions that have files: that these are missing is damage.
    pub(crate) with_files: BTreeSet<u32>,
}

/// One topic, as a change of the catalog lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    /// Its identity: random, never used again.
    pub(crate) id: TopicId,
    /// Whether it may be used.
    pub(crate) state: TopicState,
    /// How many partitions it has.
    pub(crate) partitions: u32,
    /// When it was created, by the wall clock.
    pub(crate) created_at: Timestamp,
    /// Its name.
    pub(crate) name: TopicName,
    /// Its settings, no tag twice. Those that a build does not know are kept unchanged.
    pub(crate) settings: Vec<Setting>,
    /// How many partitions it had before each time that it was given more, ascending.
    pub(crate) earlier_partitions: Vec<u32>,
    /// Bytes that a later release added. They are kept unchanged.
    pub(crate) rest: Vec<u8>,
}

/// Whether a topic may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TopicState {
    /// It may.
    Live = 1,
    /// It may not be used any more. The number 2 is not used.
    Deleting = 3,
}

/// A producer that is the same over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    /// The id in its batches: above 0, never used again.
    pub(crate) id: u64,
    /// That of its last handle; it wraps.
    pub(crate) epoch: u16,
    /// 1 to 249 bytes.
    pub(crate) name: String,
}

/// One opening of the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The identity of the machine's boot; zero if it is not known.
    pub(crate) boot: [u8; 16],
    /// Rises by one with every opening.
    pub(crate) run: u64,
    /// When, by the wall clock.
    pub(crate) at: Timestamp,
    /// The process; 0 if it is not known.
    pub(crate) process: u32,
}

/// One change of a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Ids below this were given out.
    Ids(u64),
    /// The topic; replaces the entry of the same id.
    Topic(TopicEntry),
    /// The topic is not there any more, and neither are its files.
    TopicGone(TopicId),
    /// The producer; replaces the entry of the same id.
    Producer(ProducerEntry),
    /// The producer's name is forgotten.
    ProducerGone(u64),
    /// The producer's name was in use at this time, by the wall clock.
    ProducerUsed(u64, Timestamp),
    /// These partitions have files, beside those that are known to.
    Partitions(TopicId, BTreeSet<u32>),
    /// The broker was opened.
    Opening(Opening),
    /// Epochs that began at an opening, beside those that are known.
    Epochs(Vec<(TopicId, PartitionId, EpochStart)>),
}

impl Catalog {
    /// A catalog without topics, of which no id was given out.
    pub(crate) fn empty() -> Self {
        Catalog { next_id: 1, ..Catalog::default() }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// A topic, also one that is being deleted.
    pub(crate) fn topic(&self, id: &TopicId) -> Option<&CatalogTopic> {
        self.topics.get(id)
    }

    /// The topics that may be used, by name.
    pub(crate) fn live(&self) -> impl Iterator<Item = &CatalogTopic> {
        self.live.values().filter_map(|id| self.topics.get(id))
    }

    pub(crate) fn is_live(&self, name: &TopicName) -> bool {
        self.live.contains_key(name)
    }

    /// Returns a topic that may be used and whose name differs from `name` only in `.` and `_`
    /// (Kafka's `Topic.hasCollision`).
    pub(crate) fn colliding(&self, name: &TopicName) -> Option<&TopicName> {
        self.folded.get(&folded(name)?)?.iter().find(|other| *other != name)
    }

    /// The topics that are being deleted.
    pub(crate) fn deleting(&self) -> impl Iterator<Item = &CatalogTopic> {
        self.deleting.iter().filter_map(|id| self.topics.get(id))
    }

    pub(crate) fn producer(&self, name: &str) -> Option<&ProducerEntry> {
        self.producers.get(self.producer_names.get(name)?)
    }

    /// The producers that have a name, by id.
    pub(crate) fn producers(&self) -> impl Iterator<Item = &ProducerEntry> {
        self.producers.values()
    }

    /// When a producer's name was used last, if that was noted.
    pub(crate) fn last_use(&self, id: u64) -> Option<Timestamp> {
        self.producer_uses.get(&id).copied()
    }

    /// The last opening.
    pub(crate) fn opening(&self) -> Option<Opening> {
        self.opening
    }

    /// Applies a change. A change that does not fit the catalog leaves a state that
    /// [`check`](Catalog::check) refuses.
    ///
    /// # Errors
    /// It names a topic or a producer that is not there, or takes ids back.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), &'static str> {
        match change {
            Change::Ids(next) if next < self.next_id => return Err("ids that were given out are taken back"),
            Change::Ids(next) => self.next_id = next,
            Change::Topic(entry) => self.put_topic(entry),
            Change::TopicGone(id) => {
                let topic = self.topics.remove(&id).ok_or("a topic that is not there")?;
                self.unlist(&topic.entry);
                let of_topic = |partition| (id, PartitionId::new(partition));
                let gone: Vec<_> =
                    self.epochs.range(of_topic(0)..=of_topic(u32::MAX)).map(|(key, _)| *key).collect();
                gone.iter().for_each(|key| drop(self.epochs.remove(key)));
            }
            Change::Producer(entry) => {
                if let Some(old) = self.producers.get(&entry.id) {
                    self.producer_names.remove(&old.name);
                }
                self.producer_names.insert(entry.name.clone(), entry.id);
                self.producers.insert(entry.id, entry);
            }
            Change::ProducerGone(id) => {
                let gone = self.producers.remove(&id).ok_or("a producer that is not there")?;
                self.producer_names.remove(&gone.name);
                self.producer_uses.remove(&id);
            }
            Change::ProducerUsed(id, at) => {
                if !self.producers.contains_key(&id) {
                    return Err("a use of a producer that is not there");
                }
                self.producer_uses.insert(id, at);
            }
            Change::Partitions(id, partitions) => {
                let topic = self.topics.get_mut(&id).ok_or("files of a topic that is not there")?;
                topic.with_files.extend(partitions);
            }
            Change::Opening(opening) => self.opening = Some(opening),
            Change::Epochs(epochs) => {
                for (id, partition, start) in epochs {
                    if !self.topics.contains_key(&id) {
                        return Err("an epoch of a topic that is not there");
                    }
                    // One that begins at or before an earlier one replaces it, as in a manifest.
                    let known = self.epochs.entry((id, partition)).or_default();
                    known.retain(|earlier| earlier.start < start.start);
                    known.push(start);
                }
            }
        }
        Ok(())
    }

    /// The epochs of a partition that began at openings.
    pub(crate) fn epochs(&self, id: &TopicId, partition: PartitionId) -> &[EpochStart] {
        self.epochs.get(&(*id, partition)).map_or(&[], Vec::as_slice)
    }

    /// Forgets the epochs of a partition up to this one: its manifest has it.
    pub(crate) fn forget_epochs(&mut self, id: TopicId, partition: PartitionId, upto: u32) {
        if let Some(known) = self.epochs.get_mut(&(id, partition)) {
            known.retain(|epoch| epoch.epoch > upto);
            if known.is_empty() {
                self.epochs.remove(&(id, partition));
            }
        }
    }

    fn put_topic(&mut self, entry: TopicEntry) {
        let id = entry.id;
        if let Some(old) = self.topics.get(&id).map(|topic| topic.entry.clone()) {
            self.unlist(&old);
        }
        match entry.state {
            TopicState::Live => {
                if let Some(folded) = folded(&entry.name) {
                    self.folded.entry(folded).or_default().insert(entry.name.clone());
                }
                self.live.insert(entry.name.clone(), id);
            }
            TopicState::Deleting => {
                self.deleting.insert(id);
            }
        }
        match self.topics.get_mut(&id) {
            Some(topic) => topic.entry = entry,
            None => drop(self.topics.insert(id, CatalogTopic { entry, with_files: BTreeSet::new() })),
        }
    }

    fn unlist(&mut self, entry: &TopicEntry) {
        self.deleting.remove(&entry.id);
        if self.live.get(&entry.name) == Some(&entry.id) {
            self.live.remove(&entry.name);
            if let Some(folded) = folded(&entry.name)
                && let Some(names) = self.folded.get_mut(&folded)
            {
                names.remove(&entry.name);
                if names.is_empty() {
                    self.folded.remove(&folded);
                }
            }
        }
    }

    /// Checks the state as a whole.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        for CatalogTopic { entry, with_files } in self.topics.values() {
            if entry.state == TopicState::Live && self.live.get(&entry.name) != Some(&entry.id) {
                return Err("two topics with one name");
            }
            if entry.partitions == 0 || entry.partitions > TopicConfig::MAX_PARTITIONS {
                return Err("number of partitions");
            }
            let counts = entry.earlier_partitions.iter().chain([&entry.partitions]);
            if entry.earlier_partitions.first() == Some(&0) || !counts.is_sorted_by(|a, b| a < b) {
                return Err("earlier numbers of partitions");
            }
            if with_files.last().is_some_and(|last| *last >= entry.partitions) {
                return Err("files of a partition that is not there");
            }
            let mut tags = BTreeSet::new();
            if !entry.settings.iter().all(|setting| tags.insert(setting.tag)) {
                return Err("a setting twice");
            }
        }
        for producer in self.producers.values() {
            if producer.id == 0 || producer.id >= self.next_id {
                return Err("a producer id that was not given out");
            }
            if !is_producer_name(&producer.name) {
                return Err("producer name");
            }
            if self.producer_names.get(&producer.name) != Some(&producer.id) {
                return Err("two producers with one name");
            }
        }
        Ok(())
    }

    /// Returns the changes that make this state of an empty one.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes = vec![Change::Ids(self.next_id)];
        for (id, topic) in &self.topics {
            changes.push(Change::Topic(topic.entry.clone()));
            if !topic.with_files.is_empty() {
                changes.push(Change::Partitions(*id, topic.with_files.clone()));
            }
        }
        changes.extend(self.producers.values().cloned().map(Change::Producer));
        changes.extend(self.producer_uses.iter().map(|(id, at)| Change::ProducerUsed(*id, *at)));
        let epochs = self
            .epochs
            .iter()
            .flat_map(|((id, partition), starts)| starts.iter().map(|start| (*id, *partition, *start)));
        let epochs: Vec<_> = epochs.collect();
        if !epochs.is_empty() {
            changes.push(Change::Epochs(epochs));
        }
        changes.extend(self.opening.map(Change::Opening));
        changes
    }
}

/// Returns a name with each `_` as `.`; `None` if it has neither, and no other name differs from it
/// only in these.
pub(crate) fn folded(name: &TopicName) -> Option<String> {
    name.as_str().contains(['.', '_']).then(|| name.as_str().replace('_', "."))
}

/// Whether a producer may have this name.
pub(crate) fn is_producer_name(name: &str) -> bool {
    (1..=PRODUCER_NAME_MAX).contains(&name.len())
}

/// The longest name of a producer, in bytes: as long as a topic's.
const PRODUCER_NAME_MAX: usize = 249;
