//! Which topics are there, and which producers have a name? A snapshot, and the changes since, one
//! after the other.
//!
//! [`read`] makes the state of the bytes of a file, [`Catalog::snapshot`] makes the bytes of a new
//! file of the state, and [`encode_change`] makes the bytes that are appended for one change. What
//! a damaged file means for the broker is decided by the caller.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::TopicConfig;
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName};

use super::FORMAT_VERSION;
use super::envelope::{self, Writer, crc_of};
use super::manifest::EpochStart;
use super::reader::{Malformed, Reader, Unsupported};
use super::settings::{self, Setting};

/// The topics and the producers that have a name: what the changes of a catalog add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// Producers get their ids from here on; those below were given out. It never falls.
    next_id: u64,
    topics: BTreeMap<TopicId, Topic>,
    /// The topics that may be used, by name.
    live: BTreeMap<TopicName, TopicId>,
    /// The topics that are being deleted.
    deleting: BTreeSet<TopicId>,
    producers: BTreeMap<u64, ProducerEntry>,
    producer_names: BTreeMap<String, u64>,
    /// Epochs that began at an opening and are not in their partition's manifest yet.
    pub(crate) epochs: BTreeMap<(TopicId, PartitionId), Vec<EpochStart>>,
    opening: Option<Opening>,
}

/// One topic, and which of its partitions have files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
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
    /// Bytes that a later release added. They are kept unchanged.
    pub(crate) rest: Vec<u8>,
}

/// Whether a topic may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TopicState {
    /// It may.
    Live = 1,
    /// No more. 2 is not used.
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
    /// These partitions have files. Adds to what is known.
    Partitions(TopicId, BTreeSet<u32>),
    /// The broker was opened.
    Opening(Opening),
    /// Epochs that began at an opening. Adds to what is known.
    Epochs(Vec<(TopicId, PartitionId, EpochStart)>),
}

/// What a file of a catalog says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) catalog: Catalog,
    /// Rises by one with each file that replaces another.
    pub(crate) number: u64,
    /// The length of the file when it was put in place.
    pub(crate) snapshot_bytes: u64,
    /// Where the last valid change ends.
    pub(crate) end: u64,
    /// How many bytes after that end are left of a change that was never whole.
    pub(crate) torn: u64,
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
    pub(crate) fn topic(&self, id: &TopicId) -> Option<&Topic> {
        self.topics.get(id)
    }

    /// The topics that may be used, by name.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Topic> {
        self.live.values().filter_map(|id| self.topics.get(id))
    }

    pub(crate) fn is_live(&self, name: &TopicName) -> bool {
        self.live.contains_key(name)
    }

    /// The topics that are being deleted.
    pub(crate) fn deleting(&self) -> impl Iterator<Item = &Topic> {
        self.deleting.iter().filter_map(|id| self.topics.get(id))
    }

    pub(crate) fn producer(&self, name: &str) -> Option<&ProducerEntry> {
        self.producers.get(self.producer_names.get(name)?)
    }

    /// The producers that have a name, by id.
    pub(crate) fn producers(&self) -> impl Iterator<Item = &ProducerEntry> {
        self.producers.values()
    }

    /// The last opening.
    pub(crate) fn opening(&self) -> Option<Opening> {
        self.opening
    }

    /// Takes a change. A change that does not fit what is there leaves a state that
    /// [`check`](Catalog::check) refuses.
    ///
    /// # Errors
    /// It speaks of a topic or a producer that is not there, or takes ids back.
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
            TopicState::Live => drop(self.live.insert(entry.name.clone(), id)),
            TopicState::Deleting => drop(self.deleting.insert(id)),
        }
        match self.topics.get_mut(&id) {
            Some(topic) => topic.entry = entry,
            None => drop(self.topics.insert(id, Topic { entry, with_files: BTreeSet::new() })),
        }
    }

    fn unlist(&mut self, entry: &TopicEntry) {
        self.deleting.remove(&entry.id);
        if self.live.get(&entry.name) == Some(&entry.id) {
            self.live.remove(&entry.name);
        }
    }

    /// What is wrong with the state as a whole.
    fn check(&self) -> Result<(), &'static str> {
        for Topic { entry, with_files } in self.topics.values() {
            if entry.state == TopicState::Live && self.live.get(&entry.name) != Some(&entry.id) {
                return Err("two topics with one name");
            }
            if entry.partitions == 0 || entry.partitions > TopicConfig::MAX_PARTITIONS {
                return Err("number of partitions");
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

    /// The changes that make this state of nothing.
    fn changes(&self) -> Vec<Change> {
        let mut changes = vec![Change::Ids(self.next_id)];
        for (id, topic) in &self.topics {
            changes.push(Change::Topic(topic.entry.clone()));
            if !topic.with_files.is_empty() {
                changes.push(Change::Partitions(*id, topic.with_files.clone()));
            }
        }
        changes.extend(self.producers.values().cloned().map(Change::Producer));
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

    /// The bytes of a file that says this, and nothing else.
    pub(crate) fn snapshot(&self, number: u64) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        let mut bytes = vec![0; HEADER_BYTES];
        for change in self.changes() {
            // Nothing of the file is on the medium yet.
            encode_change(&mut bytes, number, 0, 0, &change);
        }
        let header = encode_header(number, bytes.len() as u64);
        bytes.splice(..HEADER_BYTES, header);
        bytes
    }
}

/// Appends the bytes of one change to `out`, of which the first byte lies at `base` in file
/// `number`. Everything before `synced_upto` was on the medium before.
pub(crate) fn encode_change(out: &mut Vec<u8>, number: u64, base: u64, synced_upto: u64, change: &Change) {
    let position = base + out.len() as u64;
    let mut content = Writer::bare();
    content.u8(change.kind());
    content.u64(synced_upto);
    change.encode_body(&mut content);
    let content = content.into_bytes();
    // A change has far fewer bytes than 4 GiB: a topic's settings, or a bit for each partition.
    debug_assert!(u32::try_from(content.len()).is_ok());
    let len = (content.len() as u32).to_le_bytes();
    let crc = crc_of(&[&number.to_le_bytes(), &position.to_le_bytes(), &len, &content]);
    out.extend_from_slice(&CHANGE_MAGIC);
    out.extend_from_slice(&len);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&content);
}

/// Reads a whole file.
///
/// # Errors
/// The file needs something that this build does not have; or it is damaged, which is more than
/// that the last changes were never whole.
pub(crate) fn read(bytes: &[u8]) -> Result<Found, Malformed> {
    let (number, snapshot_bytes) = decode_header(bytes)?;
    let mut catalog = Catalog::default();
    let mut end = HEADER_BYTES as u64;
    while let Some((change, next)) = framed(bytes, number, end) {
        if let Some(change) = Change::decode(change)? {
            catalog.apply(change).map_err(|what| Malformed::new(end, what))?;
        }
        end = next;
    }
    let rest = Reader::at(bytes, usize::try_from(end).unwrap_or(usize::MAX)).rest();
    if end < snapshot_bytes {
        return Err(Malformed::new(end, "a change that was on the medium before the file was put in place"));
    }
    // A later change that says that this was on the medium.
    let is_witness = |at: u64| {
        let (content, _) = framed(bytes, number, at)?;
        let mut content = content;
        content.u8("").and_then(|_| content.u64("")).ok().filter(|upto| *upto > end)
    };
    let later = (end + 1..bytes.len() as u64).find_map(is_witness);
    if later.is_some() {
        return Err(Malformed::new(end, "a change; a later one says that it was on the medium"));
    }
    let torn = if rest.iter().all(|byte| *byte == 0) { 0 } else { rest.len() as u64 };
    catalog.check().map_err(|what| Malformed::new(HEADER_BYTES as u64, what))?;
    Ok(Found { catalog, number, snapshot_bytes, end, torn })
}

/// The content of the change at a position, and where the next one begins. `None` if there is no
/// valid one.
fn framed(bytes: &[u8], number: u64, position: u64) -> Option<(Reader<'_>, u64)> {
    let at = usize::try_from(position).ok()?;
    let mut reader = Reader::at(bytes, at);
    if reader.array("change").ok()? != CHANGE_MAGIC {
        return None;
    }
    let len = reader.u32("length").ok()?;
    let crc = reader.u32("crc").ok()?;
    let start = reader;
    let content = reader.take(usize::try_from(len).ok()?, "content").ok()?;
    let expected = crc_of(&[&number.to_le_bytes(), &position.to_le_bytes(), &len.to_le_bytes(), content]);
    (crc == expected).then_some(())?;
    let mut within = start;
    Some((within.short_take(content.len())?, reader.position()))
}

fn encode_header(number: u64, snapshot_bytes: u64) -> Vec<u8> {
    let mut writer = Writer::new(MAGIC, HEADER_BYTES);
    writer.u64(number);
    writer.u64(snapshot_bytes);
    writer.u32(FORMAT_VERSION);
    writer.u32(0);
    writer.bytes(&[0; 16]);
    writer.finish()
}

/// Returns the number of the file, and its length when it was put in place.
fn decode_header(bytes: &[u8]) -> Result<(u64, u64), Malformed> {
    let header = bytes.get(..HEADER_BYTES).unwrap_or(bytes);
    let mut reader = envelope::open(header, MAGIC)?;
    let number = reader.u64("number")?;
    let snapshot_bytes = reader.u64("snapshot bytes")?;
    let at_listed = reader.position();
    let (version, features) = (reader.u32("listed version")?, reader.u32("listed features")?);
    if version > FORMAT_VERSION {
        let needs = Unsupported::Version(version);
        return Err(Malformed::unsupported(at_listed, "listed version", needs));
    }
    if version == 0 {
        return Err(Malformed::new(at_listed, "listed version"));
    }
    if features != 0 {
        let needs = Unsupported::Features(features);
        return Err(Malformed::unsupported(at_listed + 4, "listed features", needs));
    }
    reader.zeros::<16>("zeros of the header")?;
    Ok((number, snapshot_bytes))
}

impl Change {
    fn kind(&self) -> u8 {
        match self {
            Change::Ids(_) => 1,
            Change::Topic(_) => 2,
            Change::TopicGone(_) => 3,
            Change::Producer(_) => 4,
            Change::ProducerGone(_) => 5,
            Change::Partitions(..) => 6,
            Change::Opening(_) => 7,
            Change::Epochs(_) => 8,
        }
    }

    fn encode_body(&self, writer: &mut Writer) {
        match self {
            Change::Ids(next) => writer.u64(*next),
            Change::Topic(entry) => entry.encode(writer),
            Change::TopicGone(id) => writer.bytes(&id.0),
            Change::Producer(entry) => entry.encode(writer),
            Change::ProducerGone(id) => writer.u64(*id),
            Change::Partitions(id, partitions) => {
                writer.bytes(&id.0);
                encode_bits(partitions, writer);
            }
            Change::Opening(opening) => {
                writer.bytes(&opening.boot);
                writer.u64(opening.run);
                writer.i64(opening.at.as_millis());
                writer.u32(opening.process);
            }
            Change::Epochs(epochs) => {
                writer.count(epochs.len());
                for (id, partition, EpochStart { epoch, start }) in epochs {
                    writer.bytes(&id.0);
                    writer.u32(partition.get());
                    writer.u32(*epoch);
                    writer.u64(start.get());
                }
            }
        }
    }

    /// Reads the content of a change. `None` if it need not be understood.
    fn decode(mut reader: Reader<'_>) -> Result<Option<Self>, Malformed> {
        let start = reader;
        let kind = reader.u8("kind")?;
        let at_synced = reader;
        let synced_upto = reader.u64("synced upto")?;
        if synced_upto > start.position() {
            return Err(at_synced.malformed("synced upto"));
        }
        let change = match kind {
            1 => Change::Ids(reader.u64("next id")?),
            2 => Change::Topic(TopicEntry::decode(&mut reader)?),
            3 => Change::TopicGone(TopicId(reader.array("topic id")?)),
            4 => Change::Producer(ProducerEntry::decode(&mut reader)?),
            5 => Change::ProducerGone(reader.u64("producer id")?),
            6 => Change::Partitions(TopicId(reader.array("topic id")?), decode_bits(&mut reader)?),
            7 => Change::Opening(Opening {
                boot: reader.array("boot identity")?,
                run: reader.u64("run")?,
                at: Timestamp::from_millis(reader.i64("time of the opening")?),
                process: reader.u32("process")?,
            }),
            8 => Change::Epochs(decode_epochs(&mut reader)?),
            0 => return Err(start.malformed("kind")),
            kind if kind < 128 => {
                let needs = Unsupported::Change(kind);
                return Err(Malformed::unsupported(start.position(), "kind", needs));
            }
            _ => return Ok(None),
        };
        reader.expect_end("bytes after the change")?;
        Ok(Some(change))
    }
}

/// The number of the first partition, and a bit for each from there on.
fn encode_bits(partitions: &BTreeSet<u32>, writer: &mut Writer) {
    let first = partitions.first().map_or(0, |first| first & !7);
    let len = partitions.last().map_or(0, |last| (last - first) as usize / 8 + 1);
    let mut bits = vec![0u8; len];
    for partition in partitions {
        let at = partition - first;
        if let Some(byte) = bits.get_mut(at as usize / 8) {
            *byte |= 1 << (at % 8);
        }
    }
    writer.u32(first);
    writer.bytes(&bits);
}

fn decode_bits(reader: &mut Reader<'_>) -> Result<BTreeSet<u32>, Malformed> {
    let first = reader.u32("first partition")?;
    let start = *reader;
    let bits = reader.take(reader.remaining(), "partitions")?;
    let set = bits
        .iter()
        .enumerate()
        .flat_map(|(at, byte)| (0..8u32).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| (at, bit)));
    let number = |(at, bit): (usize, u32)| {
        let at = u32::try_from(at).ok()?.checked_mul(8)?.checked_add(bit)?;
        first.checked_add(at)
    };
    set.map(number).collect::<Option<_>>().ok_or_else(|| start.malformed("partitions"))
}

fn decode_epochs(reader: &mut Reader<'_>) -> Result<Vec<(TopicId, PartitionId, EpochStart)>, Malformed> {
    let count = reader.count(EPOCH_BYTES, "epoch count")?;
    let mut epochs = Vec::with_capacity(count);
    for _ in 0..count {
        let id = TopicId(reader.array("topic id")?);
        let partition = PartitionId::new(reader.u32("partition")?);
        let (epoch, start) = (reader.u32("epoch")?, Offset::new(reader.u64("start of the epoch")?));
        epochs.push((id, partition, EpochStart { epoch, start }));
    }
    Ok(epochs)
}

impl TopicEntry {
    fn encode(&self, writer: &mut Writer) {
        writer.bytes(&self.id.0);
        writer.u8(self.state as u8);
        writer.u32(self.partitions);
        writer.i64(self.created_at.as_millis());
        // A topic's name has at most 249 bytes.
        writer.u8(self.name.as_str().len() as u8);
        writer.bytes(self.name.as_str().as_bytes());
        settings::encode(&self.settings, writer);
        writer.bytes(&self.rest);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(TopicEntry {
            id: TopicId(reader.array("topic id")?),
            state: TopicState::decode(reader)?,
            partitions: reader.u32("partitions")?,
            created_at: Timestamp::from_millis(reader.i64("creation time")?),
            name: decode_name(reader)?,
            settings: settings::decode(reader)?,
            rest: reader.take(reader.remaining(), "rest")?.to_vec(),
        })
    }
}

impl ProducerEntry {
    fn encode(&self, writer: &mut Writer) {
        writer.u64(self.id);
        writer.u16(self.epoch);
        // It has at most 249 bytes.
        writer.u8(self.name.len() as u8);
        writer.bytes(self.name.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (id, epoch) = (reader.u64("producer id")?, reader.u16("producer epoch")?);
        let start = *reader;
        let len = reader.u8("producer name")?;
        let bytes = reader.take(usize::from(len), "producer name")?;
        let name = std::str::from_utf8(bytes).ok().filter(|name| is_producer_name(name));
        let name = name.ok_or_else(|| start.malformed("producer name"))?.to_string();
        Ok(ProducerEntry { id, epoch, name })
    }
}

/// Whether a producer may have this name.
pub(crate) fn is_producer_name(name: &str) -> bool {
    (1..=PRODUCER_NAME_MAX).contains(&name.len())
}

impl TopicState {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let start = *reader;
        match reader.u8("topic state")? {
            1 => Ok(TopicState::Live),
            3 => Ok(TopicState::Deleting),
            _ => Err(start.malformed("topic state")),
        }
    }
}

fn decode_name(reader: &mut Reader<'_>) -> Result<TopicName, Malformed> {
    let start = *reader;
    let len = reader.u8("topic name")?;
    let bytes = reader.take(usize::from(len), "topic name")?;
    let name = std::str::from_utf8(bytes).ok().and_then(|name| TopicName::new(name).ok());
    name.ok_or_else(|| start.malformed("topic name"))
}

/// Bytes of a file before its first change.
pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"QUIPUCAT";
const CHANGE_MAGIC: [u8; 4] = *b"QCHG";
const EPOCH_BYTES: usize = 16 + 4 + 4 + 8;
/// The longest name of a producer, in bytes: as long as a topic's.
const PRODUCER_NAME_MAX: usize = 249;

#[cfg(test)]
mod tests {
    use super::super::damage::{Random, hex};
    use super::*;

    fn setting(tag: u16, must: bool, bytes: &[u8]) -> Setting {
        Setting { tag, must, bytes: bytes.to_vec() }
    }

    fn topic(id: u8, name: &str, state: TopicState) -> TopicEntry {
        TopicEntry {
            id: TopicId([id; 16]),
            state,
            partitions: 20,
            created_at: Timestamp::from_millis(1_700_000_000_000),
            name: TopicName::new(name).unwrap(),
            settings: vec![setting(7, true, b"seven"), setting(1, false, b"")],
            rest: Vec::new(),
        }
    }

    fn producer(id: u64, epoch: u16, name: &str) -> ProducerEntry {
        ProducerEntry { id, epoch, name: name.to_string() }
    }

    fn opening() -> Opening {
        Opening { boot: [0xb0; 16], run: 3, at: Timestamp::from_millis(-1), process: 77 }
    }

    fn epoch(id: u8, partition: u32, epoch: u32, start: u64) -> (TopicId, PartitionId, EpochStart) {
        let start = EpochStart { epoch, start: Offset::new(start) };
        (TopicId([id; 16]), PartitionId::new(partition), start)
    }

    /// One change of each kind.
    fn changes() -> Vec<Change> {
        vec![
            Change::Ids(9),
            Change::Topic(topic(1, "orders", TopicState::Live)),
            Change::Partitions(TopicId([1; 16]), [0, 9, 19].into()),
            Change::Topic(TopicEntry { rest: b"more".to_vec(), ..topic(2, "orders", TopicState::Deleting) }),
            Change::Topic(topic(3, "Orders", TopicState::Live)),
            Change::TopicGone(TopicId([3; 16])),
            Change::Producer(producer(8, 1, "outbox")),
            Change::Producer(producer(1, u16::MAX, "\u{fc}")),
            Change::Producer(producer(2, 0, "short")),
            Change::ProducerGone(2),
            Change::Epochs(vec![epoch(1, 9, 4, 100), epoch(1, 9, 5, 100), epoch(2, 0, 1, 7)]),
            Change::Opening(opening()),
        ]
    }

    fn example() -> Catalog {
        let mut catalog = Catalog::empty();
        changes().into_iter().for_each(|change| catalog.apply(change).unwrap());
        assert_eq!(catalog.check(), Ok(()));
        catalog
    }

    /// A file with a snapshot and changes after it, each with what it says was synced.
    fn file(snapshot: &Catalog, changes: &[(Change, u64)]) -> Vec<u8> {
        let mut bytes = snapshot.snapshot(5);
        for (change, synced_upto) in changes {
            encode_change(&mut bytes, 5, 0, *synced_upto, change);
        }
        bytes
    }

    /// A valid change with any content.
    fn raw_change(bytes: &mut Vec<u8>, content: &[u8]) {
        let (position, len) = (bytes.len() as u64, (content.len() as u32).to_le_bytes());
        let crc = crc_of(&[&5u64.to_le_bytes(), &position.to_le_bytes(), &len, content]);
        bytes.extend_from_slice(&CHANGE_MAGIC);
        bytes.extend_from_slice(&len);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(content);
    }

    fn content(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &0u64.to_le_bytes(), body].concat()
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&Catalog::empty().snapshot(1)),
            "515549505543415402000000000000000000000001000000000000005d000000000000000200000000000000\
             000000000000000000000000000000000c264d5f5143484711000000030ca24d010000000000000000010000\
             0000000000"
        );
        let expected: [&str; 12] = [
            "5143484711000000f3b76ade0140000000000000000900000000000000",
            "5143484744000000cef5e4b30240000000000000000101010101010101010101010101010101140000000068\
             e5cf8b010000066f72646572730200000007000105000000736576656e01000000000000",
            "5143484720000000b5024cc10640000000000000000101010101010101010101010101010100000000010208",
            "5143484748000000f44a67f30240000000000000000202020202020202020202020202020203140000000068\
             e5cf8b010000066f72646572730200000007000105000000736576656e010000000000006d6f7265",
            "51434847440000001981d8860240000000000000000303030303030303030303030303030301140000000068\
             e5cf8b010000064f72646572730200000007000105000000736576656e01000000000000",
            "5143484719000000ac1f239403400000000000000003030303030303030303030303030303",
            "514348471a00000002cfc50b04400000000000000008000000000000000100066f7574626f78",
            "5143484716000000663c44ef0440000000000000000100000000000000ffff02c3bc",
            "51434847190000000c9248dd044000000000000000020000000000000000000573686f7274",
            "51434847110000006a8c08f00540000000000000000200000000000000",
            "514348476d000000543143870840000000000000000300000001010101010101010101010101010101090000\
             0004000000640000000000000001010101010101010101010101010101090000000500000064000000000000\
             000202020202020202020202020202020200000000010000000700000000000000",
            "514348472d000000110dd0a3074000000000000000b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b003000000000000\
             00ffffffffffffffff4d000000",
        ];
        for (change, expected) in changes().iter().zip(expected) {
            let mut bytes = Vec::new();
            encode_change(&mut bytes, 5, 64, 64, change);
            assert_eq!(hex(&bytes), expected, "{change:?}");
        }
    }

    #[test]
    fn a_snapshot_comes_back() {
        for catalog in [Catalog::empty(), example()] {
            let bytes = catalog.snapshot(7);
            let end = bytes.len() as u64;
            let found = Found { catalog, number: 7, snapshot_bytes: end, end, torn: 0 };
            assert_eq!(read(&bytes), Ok(found));
        }
    }

    #[test]
    fn changes_add_up_to_what_a_snapshot_says() {
        let mut bytes = Catalog::empty().snapshot(5);
        for change in changes() {
            let synced_upto = bytes.len() as u64;
            encode_change(&mut bytes, 5, 0, synced_upto, &change);
        }
        let found = read(&bytes).unwrap();
        assert_eq!((found.end, found.torn), (bytes.len() as u64, 0));
        assert_eq!(found.catalog, example());
        assert_eq!(read(&found.catalog.snapshot(6)).unwrap().catalog, example());
        // In another number or at another place they say nothing.
        let mut moved = Catalog::empty().snapshot(6);
        let at = moved.len();
        moved.extend_from_slice(&bytes[at..]);
        assert_eq!(read(&moved).unwrap().end, at as u64);
    }

    #[test]
    fn a_topic_keeps_its_files_and_its_name_is_free_when_it_is_deleted() {
        let mut catalog = example();
        let id = TopicId([1; 16]);
        catalog.apply(Change::Topic(topic(1, "orders", TopicState::Deleting))).unwrap();
        assert!(!catalog.is_live(&TopicName::new("orders").unwrap()));
        assert_eq!(catalog.topic(&id).unwrap().with_files, [0, 9, 19].into());
        catalog.apply(Change::Topic(topic(4, "orders", TopicState::Live))).unwrap();
        assert_eq!(catalog.check(), Ok(()));
        catalog.apply(Change::TopicGone(id)).unwrap();
        assert!(catalog.is_live(&TopicName::new("orders").unwrap()) && catalog.topic(&id).is_none());
        assert_eq!(catalog.epochs.len(), 1, "those of the other topic");
        // Two names change places: only at the end it has to be right.
        let mut catalog = Catalog::empty();
        for (id, name) in [(1, "a"), (2, "b"), (1, "b"), (2, "a")] {
            catalog.apply(Change::Topic(topic(id, name, TopicState::Live))).unwrap();
        }
        assert_eq!(catalog.check(), Ok(()));
    }

    #[test]
    fn any_set_of_partitions_comes_back() {
        let mut random = Random(11);
        for round in 0..2_000u32 {
            let (first, spread) = (random.next() as u32 % 5_000, 1 + random.next() as u32 % 300);
            let partitions: BTreeSet<_> =
                (0..round % 40).map(|_| first + random.next() as u32 % spread).collect();
            let mut writer = Writer::bare();
            encode_bits(&partitions, &mut writer);
            let bytes = writer.into_bytes();
            assert!(bytes.len() <= 4 + 2 + spread as usize / 8);
            assert_eq!(decode_bits(&mut Reader::new(&bytes)), Ok(partitions));
        }
    }

    /// In the snapshot every damage is one. After it, nothing but a whole change is taken.
    #[test]
    fn every_damage_of_a_snapshot_is_noticed() {
        super::super::damage::is_always_noticed(&example().snapshot(5), read);
    }

    #[test]
    fn a_part_of_a_change_is_a_torn_tail_whatever_is_left_of_it() {
        let start = example().snapshot(5).len();
        let bytes = file(&example(), &[(Change::Producer(producer(3, 0, "third")), start as u64)]);
        let whole = read(&bytes).unwrap();
        assert_eq!((whole.end, whole.torn), (bytes.len() as u64, 0));
        for len in start..bytes.len() {
            let found = read(&bytes[..len]).unwrap();
            let torn = (len - start) as u64;
            assert_eq!((found.end, found.torn, &found.catalog), (start as u64, torn, &example()));
        }
        for bit in start * 8..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = read(&flipped).unwrap();
            assert_eq!((found.end, found.torn), (start as u64, (bytes.len() - start) as u64), "{bit}");
        }
        let mut zeros = bytes.clone();
        zeros[start..].fill(0);
        let found = read(&zeros).unwrap();
        assert_eq!((found.end, found.torn), (start as u64, 0), "zeros are the end");
    }

    #[test]
    fn a_later_change_that_says_it_was_on_the_medium_makes_it_damage() {
        let start = example().snapshot(5).len();
        let first = Change::Producer(producer(3, 0, "third"));
        let second = Change::Producer(producer(4, 0, "fourth"));
        let between = file(&example(), &[(first.clone(), start as u64)]).len();
        for (synced_upto, is_damage) in [(start, false), (start + 1, true), (between, true)] {
            let changes = [(first.clone(), start as u64), (second.clone(), synced_upto as u64)];
            let bytes = file(&example(), &changes);
            for bit in start * 8..between * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                match read(&flipped) {
                    Ok(found) => assert!(!is_damage && found.end == start as u64, "{bit}"),
                    Err(m) => assert_eq!((m.position, is_damage, m.unsupported), (start as u64, true, None)),
                }
            }
        }
    }

    #[test]
    fn a_file_that_was_longer_when_it_was_put_in_place_is_damaged() {
        let bytes = example().snapshot(5);
        for len in HEADER_BYTES..bytes.len() {
            let mut zeros = bytes.clone();
            zeros[len..].fill(0);
            assert!(read(&bytes[..len]).is_err(), "{len}");
            assert!(zeros == bytes || read(&zeros).is_err(), "{len}");
        }
    }

    #[test]
    fn kinds_that_must_be_understood_refuse_and_others_are_passed_over() {
        let start = example().snapshot(5).len() as u64;
        for kind in 0..=255u8 {
            let mut bytes = example().snapshot(5);
            raw_change(&mut bytes, &content(kind, b"a body of a later release"));
            let content_at = start + 12;
            match kind {
                1..=8 => assert_eq!(read(&bytes).unwrap_err().unsupported, None),
                0 => assert_eq!(read(&bytes).unwrap_err(), Malformed::new(content_at, "kind")),
                9..=127 => {
                    let refused = Malformed::unsupported(content_at, "kind", Unsupported::Change(kind));
                    assert_eq!(read(&bytes).unwrap_err(), refused);
                }
                128..=255 => {
                    let found = read(&bytes).unwrap();
                    assert_eq!((found.end, &found.catalog), (bytes.len() as u64, &example()));
                    assert_eq!(found.catalog.snapshot(5).len() as u64, start, "it is gone with the file");
                }
            }
        }
    }

    #[test]
    fn what_a_later_release_lists_refuses_before_anything_else() {
        let refused = |at: usize, value: u8| {
            let mut bytes = example().snapshot(5);
            bytes[at] = value;
            let crc = crc_of(&[&bytes[..60]]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            // Nothing after the header is looked at.
            bytes.truncate(64);
            read(&bytes).unwrap_err()
        };
        assert_eq!(refused(8, 3).unsupported, Some(Unsupported::Version(3)));
        assert_eq!(refused(13, 1).unsupported, Some(Unsupported::Features(256)));
        assert_eq!(refused(36, 3), Malformed::unsupported(36, "listed version", Unsupported::Version(3)));
        assert_eq!(refused(36, 0), Malformed::new(36, "listed version"));
        assert_eq!(refused(40, 2), Malformed::unsupported(40, "listed features", Unsupported::Features(2)));
        assert_eq!(refused(44, 1), Malformed::new(44, "zeros of the header"));
        assert_eq!(refused(59, 1), Malformed::new(44, "zeros of the header"));
    }

    #[test]
    fn bytes_of_a_topic_that_a_later_release_added_are_kept_and_others_refused() {
        let with_rest = TopicEntry { rest: b"later".to_vec(), ..topic(4, "t", TopicState::Live) };
        let bytes = file(&example(), &[(Change::Topic(with_rest.clone()), 0)]);
        let found = read(&bytes).unwrap().catalog;
        assert_eq!(found.topic(&TopicId([4; 16])).unwrap().entry, with_rest);
        assert_eq!(read(&found.snapshot(6)).unwrap().catalog, found);
        for change in changes() {
            let mut writer = Writer::bare();
            change.encode_body(&mut writer);
            let mut body = writer.into_bytes();
            body.push(0);
            let mut bytes = example().snapshot(5);
            raw_change(&mut bytes, &content(change.kind(), &body));
            match change {
                Change::Topic(_) | Change::Partitions(..) => {}
                _ => assert_eq!(read(&bytes).unwrap_err().what, "bytes after the change", "{change:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_after_the_checksum_too() {
        let wrong = |changes: &[Change]| {
            let mut bytes = example().snapshot(5);
            changes.iter().for_each(|change| encode_change(&mut bytes, 5, 0, 0, change));
            let error = read(&bytes).unwrap_err();
            assert_eq!(error.unsupported, None);
            error.what
        };
        let live = |id, name: &str| Change::Topic(topic(id, name, TopicState::Live));
        let with = |change: fn(&mut TopicEntry)| {
            let mut entry = topic(1, "orders", TopicState::Live);
            change(&mut entry);
            wrong(&[Change::Topic(entry)])
        };
        let named = |id, name: &str| wrong(&[Change::Producer(producer(id, 0, name))]);
        assert_eq!(wrong(&[Change::Ids(8)]), "ids that were given out are taken back");
        assert_eq!(wrong(&[live(4, "orders")]), "two topics with one name");
        assert_eq!(with(|topic| topic.partitions = 0), "number of partitions");
        assert_eq!(with(|topic| topic.partitions = 100_001), "number of partitions");
        assert_eq!(with(|topic| topic.partitions = 19), "files of a partition that is not there");
        assert_eq!(with(|topic| topic.settings[0].tag = 1), "a setting twice");
        let no_topic = TopicId([9; 16]);
        assert_eq!(wrong(&[Change::TopicGone(no_topic)]), "a topic that is not there");
        let files = Change::Partitions(no_topic, [0].into());
        assert_eq!(wrong(&[files]), "files of a topic that is not there");
        assert_eq!(
            wrong(&[Change::Epochs(vec![epoch(9, 0, 1, 1)])]),
            "an epoch of a topic that is not there"
        );
        assert_eq!(wrong(&[Change::ProducerGone(7)]), "a producer that is not there");
        assert_eq!(named(0, "x"), "a producer id that was not given out");
        assert_eq!(named(9, "x"), "a producer id that was not given out");
        assert_eq!(named(7, "outbox"), "two producers with one name");
        assert_eq!(named(7, ""), "producer name");
        assert_eq!(named(7, &"n".repeat(250)), "producer name");
        // Byte by byte: where in the body, its new value, and the complaint about it.
        let refused = |change: &Change, at: usize, value: u8| {
            let mut writer = Writer::bare();
            change.encode_body(&mut writer);
            let mut body = writer.into_bytes();
            body[at] = value;
            let mut bytes = example().snapshot(5);
            let start = bytes.len() as u64 + 12 + 9;
            raw_change(&mut bytes, &content(change.kind(), &body));
            let error = read(&bytes).unwrap_err();
            (error.position - start, error.what)
        };
        let topic = live(1, "orders");
        assert_eq!(refused(&topic, 16, 2), (16, "topic state"));
        assert_eq!(refused(&topic, 29, 0), (29, "topic name"));
        assert_eq!(refused(&topic, 30, b'/'), (29, "topic name"));
        assert_eq!(refused(&topic, 39, 0xff), (36, "setting count"));
        assert_eq!(refused(&topic, 42, 2), (42, "setting flags"));
        assert_eq!(refused(&topic, 46, 0xff), (43, "setting"));
        let epochs = Change::Epochs(vec![epoch(1, 9, 4, 100)]);
        assert_eq!(refused(&epochs, 0, 2), (0, "epoch count"));
        let far = Change::Partitions(TopicId([1; 16]), [u32::MAX].into());
        let mut bytes = example().snapshot(5);
        let mut body = [&[1; 16][..], &u32::MAX.to_le_bytes(), &[2]].concat();
        raw_change(&mut bytes, &content(6, &body));
        assert_eq!(read(&bytes).unwrap_err().what, "partitions");
        body[20] = 1;
        assert_eq!(wrong(&[far]), "files of a partition that is not there");
        let mut bytes = example().snapshot(5);
        let upto = bytes.len() as u64 + 13;
        raw_change(&mut bytes, &[&[1][..], &upto.to_le_bytes(), &9u64.to_le_bytes()].concat());
        assert_eq!(read(&bytes).unwrap_err().what, "synced upto");
    }
}
