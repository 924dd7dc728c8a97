//! Which topics are there, and which producers have a name? The lists of the broker, and the ids that it gives out.

use std::collections::BTreeSet;

use crate::types::{Timestamp, TopicId, TopicName};

use super::envelope::{self, Writer};
use super::reader::{Malformed, Reader};

/// The commit point of creating, altering and deleting topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// Producers and transactions get their ids from here on; those below were given out.
    pub(crate) next_id: u64,
    /// The topics. No two have the same id; of two with the same name at most one is not being deleted.
    pub(crate) topics: Vec<TopicEntry>,
    /// The producers that have a name; no two have the same name or id.
    pub(crate) producers: Vec<ProducerEntry>,
}

/// A producer that is the same over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    /// Which producer its batches are of: above 0, never used again.
    pub(crate) id: u64,
    /// That of its last handle; it wraps.
    pub(crate) epoch: u16,
    /// 1 to 249 bytes.
    pub(crate) name: String,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    /// Its identity: random, never used again.
    pub(crate) id: TopicId,
    /// Its name.
    pub(crate) name: TopicName,
    /// Whether it may be used.
    pub(crate) state: TopicState,
    /// How many partitions may be used.
    pub(crate) partitions: u32,
    /// How many there are to be: more than `partitions` while the topic is created or grows.
    pub(crate) intended_partitions: u32,
    /// When it was created, by the wall clock.
    pub(crate) created_at: Timestamp,
    /// Its settings by tag, no tag twice. A tag that a build does not know is kept as it is.
    pub(crate) config: Vec<(u16, Vec<u8>)>,
}

/// Whether a topic may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TopicState {
    /// It may.
    Live = 1,
    /// Not yet.
    Creating = 2,
    /// No more.
    Deleting = 3,
}

impl Catalog {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        let mut writer = Writer::new(MAGIC, 64 * (1 + self.topics.len()));
        writer.u64(self.next_id);
        writer.count(self.topics.len());
        for topic in &self.topics {
            topic.encode(&mut writer);
        }
        // Without any, the file is what it was before producers had names.
        if !self.producers.is_empty() {
            writer.count(self.producers.len());
            for producer in &self.producers {
                producer.encode(&mut writer);
            }
        }
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = envelope::open(bytes, MAGIC)?;
        let next_id = reader.u64("next id")?;
        let start = reader;
        let count = reader.count(TOPIC_BYTES_MIN, "topic count")?;
        let mut topics = Vec::with_capacity(count);
        for _ in 0..count {
            topics.push(TopicEntry::decode(&mut reader)?);
        }
        let mut producers = Vec::new();
        if reader.remaining() > 0 {
            let at_count = reader;
            let count = reader.count(PRODUCER_BYTES_MIN, "producer count")?;
            if count == 0 {
                // One content, one encoding.
                return Err(at_count.malformed("producer count"));
            }
            producers.reserve_exact(count);
            for _ in 0..count {
                producers.push(ProducerEntry::decode(&mut reader)?);
            }
        }
        reader.expect_end("bytes behind the last producer")?;
        let catalog = Catalog { next_id, topics, producers };
        catalog.check().map_err(|what| start.malformed(what))?;
        Ok(catalog)
    }

    fn check(&self) -> Result<(), &'static str> {
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for topic in &self.topics {
            if !ids.insert(topic.id) {
                return Err("two topics with one id");
            }
            if topic.state != TopicState::Deleting && !names.insert(&topic.name) {
                return Err("two topics with one name");
            }
            if topic.partitions > topic.intended_partitions {
                return Err("more partitions than intended");
            }
            let mut tags = BTreeSet::new();
            if !topic.config.iter().all(|(tag, _)| tags.insert(*tag)) {
                return Err("a setting twice");
            }
        }
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for producer in &self.producers {
            if producer.id == 0 || producer.id >= self.next_id {
                return Err("a producer id that was not given out");
            }
            if !ids.insert(producer.id) {
                return Err("two producers with one id");
            }
            if !is_producer_name(&producer.name) {
                return Err("producer name");
            }
            if !names.insert(&producer.name) {
                return Err("two producers with one name");
            }
        }
        Ok(())
    }
}

impl TopicEntry {
    fn encode(&self, writer: &mut Writer) {
        writer.bytes(&self.id.0);
        // A topic's name has at most 249 bytes.
        writer.u8(self.name.as_str().len() as u8);
        writer.bytes(self.name.as_str().as_bytes());
        writer.u8(self.state as u8);
        writer.u32(self.partitions);
        writer.u32(self.intended_partitions);
        writer.i64(self.created_at.as_millis());
        writer.count(self.config.len());
        for (tag, value) in &self.config {
            writer.u16(*tag);
            writer.count(value.len());
            writer.bytes(value);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(TopicEntry {
            id: TopicId(reader.array("topic id")?),
            name: decode_name(reader)?,
            state: TopicState::decode(reader)?,
            partitions: reader.u32("partitions")?,
            intended_partitions: reader.u32("intended partitions")?,
            created_at: Timestamp::from_millis(reader.i64("creation time")?),
            config: decode_config(reader)?,
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
            2 => Ok(TopicState::Creating),
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

fn decode_config(reader: &mut Reader<'_>) -> Result<Vec<(u16, Vec<u8>)>, Malformed> {
    let count = reader.count(SETTING_BYTES_MIN, "setting count")?;
    let mut config = Vec::with_capacity(count);
    for _ in 0..count {
        let tag = reader.u16("setting tag")?;
        let len = reader.count(1, "setting")?;
        config.push((tag, reader.take(len, "setting")?.to_vec()));
    }
    Ok(config)
}

const MAGIC: [u8; 8] = *b"QUIPUCAT";
/// Bytes of a topic with a name of one character and without settings.
const TOPIC_BYTES_MIN: usize = 16 + 2 + 1 + 4 + 4 + 8 + 4;
/// Bytes of a producer with a name of one character.
const PRODUCER_BYTES_MIN: usize = 8 + 2 + 1 + 1;
/// The longest name of a producer, in bytes: as long as a topic's.
const PRODUCER_NAME_MAX: usize = 249;
/// Bytes of an empty setting.
const SETTING_BYTES_MIN: usize = 2 + 4;

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::*;

    fn topic(id: u8, name: &str, state: TopicState) -> TopicEntry {
        TopicEntry {
            id: TopicId([id; 16]),
            name: TopicName::new(name).unwrap(),
            state,
            partitions: 2,
            intended_partitions: 4,
            created_at: Timestamp::from_millis(1_700_000_000_000),
            config: vec![(7, b"seven".to_vec()), (1, Vec::new())],
        }
    }

    fn example() -> Catalog {
        Catalog {
            next_id: 9,
            topics: vec![
                topic(1, "orders", TopicState::Live),
                topic(2, "orders", TopicState::Deleting),
                TopicEntry { partitions: 0, config: Vec::new(), ..topic(3, "x", TopicState::Creating) },
            ],
            producers: Vec::new(),
        }
    }

    fn with_producers() -> Catalog {
        let producer = |id, epoch, name: &str| ProducerEntry { id, epoch, name: name.to_string() };
        Catalog {
            next_id: 9,
            topics: Vec::new(),
            producers: vec![producer(8, 1, "outbox"), producer(1, u16::MAX, "\u{fc}")],
        }
    }

    #[test]
    fn bytes_of_producers_are_pinned() {
        assert_eq!(
            hex(&with_producers().encode()),
            "5155495055434154010000000900000000000000000000000200000008000000000000000100066f\
             7574626f780100000000000000ffff02c3bcdf99a24e"
        );
    }

    #[test]
    fn producers_come_back_and_every_damage_to_them_is_noticed() {
        let longest = ProducerEntry { id: 2, epoch: 0, name: "n".repeat(249) };
        let mut catalog = with_producers();
        catalog.producers.push(longest);
        assert_eq!(Catalog::decode(&catalog.encode()), Ok(catalog));
        let both = Catalog { producers: with_producers().producers, ..example() };
        assert_eq!(Catalog::decode(&both.encode()), Ok(both));
        damage::is_always_noticed(&with_producers().encode(), Catalog::decode);
    }

    #[test]
    fn what_cannot_be_a_list_of_producers_is_refused() {
        let wrong = |change: fn(&mut Vec<ProducerEntry>)| {
            let mut catalog = with_producers();
            change(&mut catalog.producers);
            catalog.check().unwrap_err()
        };
        assert_eq!(wrong(|p| p[0].id = 0), "a producer id that was not given out");
        assert_eq!(wrong(|p| p[0].id = 9), "a producer id that was not given out");
        assert_eq!(wrong(|p| p[0].id = p[1].id), "two producers with one id");
        assert_eq!(wrong(|p| p[0].name = p[1].name.clone()), "two producers with one name");
        assert_eq!(wrong(|p| p[0].name.clear()), "producer name");
        assert_eq!(wrong(|p| p[0].name = "n".repeat(250)), "producer name");
        // Behind the CRC too: no list is written where it would be empty.
        let empty = Catalog { producers: Vec::new(), ..with_producers() }.encode();
        let bytes = damage::resealed(&empty, |bytes| bytes.extend([0; 4]));
        assert_eq!(Catalog::decode(&bytes).unwrap_err().what, "producer count");
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950554341540100000009000000000000000300000001010101010101010101010101010101\
             066f72646572730102000000040000000068e5cf8b01000002000000070005000000736576656e01\
             000000000002020202020202020202020202020202066f72646572730302000000040000000068e5\
             cf8b01000002000000070005000000736576656e0100000000000303030303030303030303030303\
             030301780200000000040000000068e5cf8b010000000000007a10461a"
        );
    }

    #[test]
    fn a_catalog_comes_back() {
        assert_eq!(Catalog::decode(&example().encode()), Ok(example()));
        let empty = Catalog { next_id: 0, topics: Vec::new(), producers: Vec::new() };
        assert_eq!(Catalog::decode(&empty.encode()), Ok(empty));
        let topics = vec![topic(1, &"n".repeat(249), TopicState::Live)];
        let longest = Catalog { next_id: u64::MAX, topics, producers: Vec::new() };
        assert_eq!(Catalog::decode(&longest.encode()), Ok(longest));
    }

    #[test]
    fn every_damage_is_noticed() {
        damage::is_always_noticed(&example().encode(), Catalog::decode);
    }

    #[test]
    fn what_cannot_be_a_list_of_topics_is_refused() {
        let wrong = |change: fn(&mut Catalog)| {
            let mut catalog = example();
            change(&mut catalog);
            catalog.check().unwrap_err()
        };
        assert_eq!(wrong(|c| c.topics[1].id = c.topics[0].id), "two topics with one id");
        assert_eq!(wrong(|c| c.topics[1].state = TopicState::Creating), "two topics with one name");
        assert_eq!(wrong(|c| c.topics[0].partitions = 5), "more partitions than intended");
        assert_eq!(wrong(|c| c.topics[0].config[0].0 = 1), "a setting twice");
    }

    #[test]
    fn the_checks_stand_behind_the_crc_too() {
        let refused = |at: usize, value: u8| {
            let bytes = damage::resealed(&example().encode(), |bytes| bytes[at] = value);
            let error = Catalog::decode(&bytes).unwrap_err();
            (error.position, error.what)
        };
        assert_eq!(refused(23, 0xff), (20, "topic count"));
        assert_eq!(refused(40, 0), (40, "topic name"));
        assert_eq!(refused(41, b'/'), (40, "topic name"));
        assert_eq!(refused(41, 0xff), (40, "topic name"));
        assert_eq!(refused(47, 0), (47, "topic state"));
        assert_eq!(refused(67, 0xff), (64, "setting count"));
        assert_eq!(refused(73, 0xff), (70, "setting"));
        assert_eq!(refused(48, 5), (20, "more partitions than intended"));
    }
}
