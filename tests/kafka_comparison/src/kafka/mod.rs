//! Apache Kafka, through librdkafka.

pub mod clients;
mod groups;
mod log;
mod reading;
mod transactions;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use futures_executor::block_on;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{NewPartitions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use self::clients::{Clients, Deliveries, PATIENCE, is_trouble};
use self::groups::Member;
use self::reading::Reading;
use crate::history::{Step, Topic, Who};
use crate::seen::Seen;
use crate::system::{Names, System, refused};

pub struct Kafka<'a> {
    clients: &'a Clients,
    names: Names,
    is_idempotent: bool,
    /// The topics of the history that exist, with their partitions. Full names.
    topics: BTreeMap<String, u32>,
    /// A topic or partitions have come since the group has settled.
    has_new_partitions: bool,
    members: BTreeMap<Who, Member>,
    /// Members that have stopped without leaving.
    dead: Vec<Member>,
    readers: BTreeMap<Who, Reading>,
    transactions: BTreeMap<u8, BaseProducer<Deliveries>>,
    /// Reads committed offsets and the state of the group, and is no member.
    observer: Option<BaseConsumer>,
}

impl<'a> Kafka<'a> {
    pub fn new(clients: &'a Clients, names: Names, is_idempotent: bool) -> Self {
        Kafka {
            clients,
            names,
            is_idempotent,
            topics: BTreeMap::new(),
            has_new_partitions: false,
            members: BTreeMap::new(),
            dead: Vec::new(),
            readers: BTreeMap::new(),
            transactions: BTreeMap::new(),
            observer: None,
        }
    }

    fn create(&mut self, topic: &Topic) -> Result<Seen> {
        let name = if topic.is_literal { topic.name.clone() } else { self.names.full(&topic.name) };
        let settings = settings(topic);
        let count = i32::try_from(topic.partitions)?;
        let mut new = NewTopic::new(&name, count, TopicReplication::Fixed(1));
        for (key, value) in &settings {
            new = new.set(key, value);
        }
        let created = block_on(self.clients.admin.create_topics([&new], &self.clients.options()));
        let created = created.and_then(first);
        if created.is_ok() {
            self.topics.insert(name.clone(), topic.partitions);
            self.has_new_partitions = true;
            self.clients.wait_for_topic(&name, topic.partitions)?;
        }
        outcome(created)
    }

    fn delete(&mut self, topic: &str) -> Result<Seen> {
        let name = self.names.full(topic);
        let deleted = block_on(self.clients.admin.delete_topics(&[&name], &self.clients.options()));
        let deleted = deleted.and_then(first);
        if deleted.is_ok() {
            self.topics.remove(&name);
        }
        outcome(deleted)
    }

    fn add_partitions(&mut self, topic: &str, count: u32) -> Result<Seen> {
        let name = self.names.full(topic);
        let new = NewPartitions::new(&name, count as usize);
        let added = block_on(self.clients.admin.create_partitions([&new], &self.clients.options()));
        let added = added.and_then(first);
        if added.is_ok() {
            self.topics.insert(name.clone(), count);
            self.has_new_partitions = true;
            self.clients.wait_for_topic(&name, count)?;
        }
        outcome(added)
    }

    fn list(&self, topic: &str, partition: u32, offset: rdkafka::Offset) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.names.full(topic), i32::try_from(partition)?, offset)?;
        Ok(list)
    }
}

impl System for Kafka<'_> {
    fn step(&mut self, step: &Step) -> Result<Seen> {
        // A member that is not polled for long leaves the group.
        for member in self.members.values() {
            member.reading.poll();
            member.reading.consumer.context().check()?;
        }
        match step {
            Step::CreateTopic(topic) => self.create(topic),
            Step::DeleteTopic { topic } => self.delete(topic),
            Step::AddPartitions { topic, count } => self.add_partitions(topic, *count),
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
        }
    }
}

impl Drop for Kafka<'_> {
    /// Leaves no open transaction, no topic and no group. Best effort: a run has names of its own.
    fn drop(&mut self) {
        for producer in self.transactions.values() {
            let _ = producer.abort_transaction(PATIENCE);
        }
        self.members.clear();
        self.dead.clear();
        self.readers.clear();
        if self.observer.take().is_some() {
            let group = self.names.group();
            let _ = block_on(self.clients.admin.delete_groups(&[&group], &self.clients.options()));
        }
        let names: Vec<_> = self.topics.keys().map(String::as_str).collect();
        if !names.is_empty() {
            let _ = block_on(self.clients.admin.delete_topics(&names, &self.clients.options()));
        }
    }
}

fn settings(topic: &Topic) -> Vec<(&'static str, String)> {
    let mut settings = vec![("retention.ms", "-1".to_string())];
    if topic.is_compacted {
        settings = vec![
            ("cleanup.policy", "compact".to_string()),
            ("min.cleanable.dirty.ratio", "0".to_string()),
            ("delete.retention.ms", "86400000".to_string()),
        ];
    }
    if let Some(age) = topic.segment_ms {
        settings.push(("segment.ms", age.to_string()));
    }
    if let Some(bytes) = topic.max_bytes {
        settings.push(("max.message.bytes", bytes.to_string()));
    }
    settings
}

/// The result of a call for one topic or group.
fn first(results: Vec<Result<String, (String, RDKafkaErrorCode)>>) -> Result<(), KafkaError> {
    match results.into_iter().next() {
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
        _ => Ok(()),
    }
}

fn outcome(result: Result<(), KafkaError>) -> Result<Seen> {
    Ok(Seen::outcome(done(result)?))
}

fn done(result: Result<(), KafkaError>) -> Result<String> {
    match result {
        Ok(()) => Ok("done".to_string()),
        Err(error) => refusal(&error),
    }
}

/// The class of an error.
fn refusal(error: &KafkaError) -> Result<String> {
    use RDKafkaErrorCode as Code;
    let code = match error {
        KafkaError::AdminOp(code) => *code,
        // librdkafka refuses some names by itself.
        KafkaError::AdminOpCreation(_) => return Ok(refused::NAME.to_string()),
        error => match error.rdkafka_error_code() {
            Some(code) => code,
            None => bail!("{error}"),
        },
    };
    if is_trouble(code) {
        bail!("{error}");
    }
    let class = match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => refused::UNKNOWN_TOPIC,
        Code::UnknownPartition => refused::UNKNOWN_PARTITION,
        Code::TopicAlreadyExists => refused::TOPIC_EXISTS,
        Code::InvalidTopic => refused::NAME,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => refused::TOO_LARGE,
        Code::InvalidTimestamp => refused::TIME,
        Code::InvalidRecord => refused::NO_KEY,
        Code::OffsetOutOfRange | Code::AutoOffsetReset => refused::OUT_OF_RANGE,
        Code::UnknownMemberId | Code::IllegalGeneration => refused::NOT_A_MEMBER,
        Code::OffsetMetadataTooLarge => refused::METADATA,
        Code::NonEmptyGroup => refused::GROUP_NOT_EMPTY,
        Code::GroupIdNotFound => refused::NO_GROUP,
        Code::InvalidPartitions => refused::PARTITIONS,
        code => return Ok(format!("refused: {code:?}")),
    };
    Ok(class.to_string())
}
