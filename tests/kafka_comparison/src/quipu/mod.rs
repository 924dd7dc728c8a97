//! Quipu, under a clock that moves only when a step needs it.

mod groups;
mod log;
mod transactions;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use quipu::{
    Broker, BrokerConfig, Cleanup, ConsumedRecord, Error, ManualClock, Partition, Reader, RejectReason,
    Timestamp, TopicConfig, Transaction,
};

use self::groups::Member;
use crate::history::{Step, Topic, Who, record_text};
use crate::seen::Seen;
use crate::system::{Names, System, refused};

pub struct Quipu {
    // Before the directory: the broker closes first.
    transactions: BTreeMap<u8, Transaction>,
    members: BTreeMap<Who, Member>,
    /// Members that have stopped without leaving.
    dead: Vec<Member>,
    readers: BTreeMap<Who, Reader>,
    broker: Broker,
    clock: ManualClock,
    names: Names,
    _dir: Option<OwnDir>,
}

/// A directory that is removed when it is dropped.
struct OwnDir(PathBuf);

impl Drop for OwnDir {
    fn drop(&mut self) {
        // A directory that stays disturbs no later run.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Quipu {
    /// A new broker, in memory or in a directory of its own.
    pub fn new(names: Names, on_disk: bool) -> Result<Self> {
        let clock = ManualClock::starting_at(Timestamp::from_millis(names.time(0)));
        let config = BrokerConfig::new().clock(clock.clone());
        let dir = on_disk.then(|| OwnDir(std::env::temp_dir().join(names.full("directory"))));
        let broker = match &dir {
            Some(dir) => config.open(&dir.0)?,
            None => config.in_memory()?,
        };
        Ok(Quipu {
            transactions: BTreeMap::new(),
            members: BTreeMap::new(),
            dead: Vec::new(),
            readers: BTreeMap::new(),
            broker,
            clock,
            names,
            _dir: dir,
        })
    }

    fn partition(&self, topic: &str, partition: u32) -> quipu::Result<Partition> {
        self.broker.topic(&self.names.full(topic))?.partition(partition)
    }

    fn create(&self, topic: &Topic) -> quipu::Result<()> {
        let mut config = TopicConfig::new().partitions(topic.partitions);
        if topic.is_compacted {
            config = config.cleanup(Cleanup::Compact);
        }
        if let Some(age) = topic.segment_ms {
            config = config.segment_age(std::time::Duration::from_millis(age));
        }
        if let Some(bytes) = topic.max_bytes {
            config = config.max_record_bytes(bytes);
        }
        let name = if topic.is_literal { topic.name.clone() } else { self.names.full(&topic.name) };
        self.broker.create_topic(&name, config).map(drop)
    }

    fn add_partitions(&self, topic: &str, count: u32) -> quipu::Result<()> {
        let name = self.names.full(topic);
        let config = self.broker.topic(&name)?.config();
        // Kafka refuses the number that there is; here it changes nothing.
        self.broker.alter_topic(&name, config.partitions(count)).map(drop)
    }

    /// A record as the history has it, with its offset in front.
    fn text(&self, record: &ConsumedRecord<'_>) -> String {
        let header = |(name, value): (&str, Option<&[u8]>)| {
            (name.to_string(), value.map(|value| String::from_utf8_lossy(value).into_owned()))
        };
        let headers: Vec<_> = record.headers().map(header).collect();
        let at = self.names.at(record.timestamp().as_millis());
        record_text(record.key(), record.value(), at, &headers)
    }
}

impl System for Quipu {
    fn step(&mut self, step: &Step) -> Result<Seen> {
        Ok(match step {
            Step::CreateTopic(topic) => outcome(self.create(topic)),
            Step::DeleteTopic { topic } => outcome(self.broker.delete_topic(&self.names.full(topic))),
            Step::AddPartitions { topic, count } => outcome(self.add_partitions(topic, *count)),
            Step::Send { topic, partition, records } => self.send(topic, *partition, records),
            Step::DeleteRecords { topic, partition, before } => {
                self.delete_records(topic, *partition, *before)
            }
            Step::Bounds { topic } => self.bounds(topic),
            Step::OffsetForTime { topic, partition, at } => self.offset_for_time(topic, *partition, *at),
            Step::Read { topic } => self.read(topic),
            Step::Compact { topic } => self.compact(topic),
            Step::Assign { who, topic, places, reset } => self.assign(*who, topic, places, *reset),
            Step::Seek { who, topic, partition, to } => self.seek(*who, topic, *partition, *to),
            Step::Pause { who, topic, partition } => self.pause(*who, topic, *partition, true),
            Step::Resume { who, topic, partition } => self.pause(*who, topic, *partition, false),
            Step::Poll { who } => self.poll(*who),
            Step::Join { who, topics, strategy, reset } => self.join(*who, topics, *strategy, *reset),
            Step::Leave { who } => self.leave(*who),
            Step::Die { who } => self.die(*who),
            Step::Settle => self.settle(),
            Step::Deliver => self.deliver(),
            Step::Commit { topic, partition, next, metadata } => {
                self.commit(topic, *partition, *next, metadata)
            }
            Step::CommitBy { who, topic, partition, next } => self.commit_by(*who, topic, *partition, *next),
            Step::Committed { topic, partition } => self.committed(topic, *partition),
            Step::Lag => self.lag(),
            Step::DeleteGroup => self.delete_group(),
            Step::Begin { tx } => self.begin(*tx),
            Step::SendIn { tx, topic, partition, record } => self.send_in(*tx, topic, *partition, record),
            Step::OffsetsIn { tx, topic, partition, next } => self.offsets_in(*tx, topic, *partition, *next),
            Step::End { tx, commit } => self.end(*tx, *commit),
        })
    }
}

fn outcome(result: quipu::Result<()>) -> Seen {
    Seen::outcome(done(result))
}

fn done(result: quipu::Result<()>) -> String {
    result.map_or_else(|error| refusal(&error), |()| "done".to_string())
}

/// The class of an error.
fn refusal(error: &Error) -> String {
    let class = match error {
        Error::UnknownTopic { .. } | Error::TopicDeleted { .. } => refused::UNKNOWN_TOPIC,
        Error::UnknownPartition { .. } => refused::UNKNOWN_PARTITION,
        Error::TopicExists { .. } => refused::TOPIC_EXISTS,
        Error::InvalidTopicName { .. } | Error::TopicNameCollides { .. } => refused::NAME,
        Error::RecordTooLarge { .. } => refused::TOO_LARGE,
        Error::InvalidTimestamp { .. } => refused::TIME,
        Error::MissingKey { .. } => refused::NO_KEY,
        Error::OffsetOutOfRange { .. } | Error::NoCommittedOffset { .. } => refused::OUT_OF_RANGE,
        Error::NotAssigned { .. } => refused::NOT_ASSIGNED,
        Error::GroupNotEmpty { .. } => refused::GROUP_NOT_EMPTY,
        Error::InvalidConfig { field: "partitions", .. } => refused::PARTITIONS,
        Error::ConfigMismatch { field: "partitions", .. } => refused::PARTITIONS,
        Error::CommitRejected { offenders, .. } => match offenders.first().map(|one| one.reason) {
            Some(RejectReason::NotAMember) => refused::NOT_A_MEMBER,
            Some(RejectReason::NotOwned | RejectReason::Stale) => refused::NOT_OWNED,
            Some(RejectReason::BeyondEnd { .. }) => refused::OUT_OF_RANGE,
            Some(RejectReason::MetadataTooLarge { .. }) => refused::METADATA,
            Some(RejectReason::UnknownPartition) => refused::UNKNOWN_PARTITION,
            _ => return format!("refused: {error}"),
        },
        _ => return format!("refused: {error}"),
    };
    class.to_string()
}
