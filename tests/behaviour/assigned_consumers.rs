//! Consumers with partitions that the caller assigned: they commit like a member, and share nothing with one.

use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{
    Broker, BrokerConfig, Consumer, ConsumerBuilder, Error, Offset, OffsetReset, Partition, Record,
    TopicConfig,
};

const NOW: Duration = Duration::ZERO;
const EVERY: Duration = Duration::from_secs(5);

/// Topic `t` with two partitions of three records.
fn broker() -> (Broker, ManualClock, Vec<Partition>) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap();
    let partitions = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap().partitions();
    for partition in &partitions {
        append(&broker, partition, 3);
    }
    (broker, clock, partitions)
}

fn append(broker: &Broker, to: &Partition, count: usize) {
    for _ in 0..count {
        broker.producer().send(to, Record::new("v")).unwrap().wait().unwrap();
    }
}

fn automatic(broker: &Broker) -> ConsumerBuilder {
    broker.consumer("g").auto_commit(EVERY)
}

fn committed(broker: &Broker) -> [Option<u64>; 2] {
    let group = broker.group("g").unwrap();
    [0, 1].map(|partition| group.committed("t", partition).unwrap().map(|committed| committed.offset.get()))
}

#[test]
fn closing_commits_what_was_polled_and_dropping_commits_nothing() {
    let (broker, _, partitions) = broker();
    let mut dropped = automatic(&broker).assign(&partitions).unwrap();
    assert_eq!(dropped.poll(NOW).unwrap().len(), 6);
    drop(dropped);
    assert_eq!(committed(&broker), [None, None]);
    let mut by_hand = broker.consumer("g").assign(&partitions).unwrap();
    assert_eq!(by_hand.poll(NOW).unwrap().len(), 6);
    by_hand.close().unwrap();
    assert_eq!(committed(&broker), [None, None], "without automatic commits closing commits nothing");
    let mut closed = automatic(&broker).assign(&partitions[1..]).unwrap();
    assert_eq!(closed.poll(NOW).unwrap().len(), 3);
    closed.close().unwrap();
    assert_eq!(committed(&broker), [None, Some(3)]);
    // The next one continues there.
    append(&broker, &partitions[1], 1);
    let mut next = automatic(&broker).assign(&partitions[1..]).unwrap();
    assert_eq!(next.poll(NOW).unwrap().iter().map(|record| record.offset().get()).collect::<Vec<_>>(), [3]);
}

#[test]
fn automatic_commits_come_at_their_interval_and_cover_earlier_polls() {
    let (broker, clock, partitions) = broker();
    let mut consumer = automatic(&broker).max_records(2).assign(&partitions[..1]).unwrap();
    consumer.poll(NOW).unwrap();
    clock.advance(EVERY - Duration::from_nanos(1));
    consumer.poll(NOW).unwrap();
    assert_eq!(committed(&broker), [None, None], "not before the interval is over");
    clock.advance(Duration::from_nanos(1));
    append(&broker, &partitions[0], 1);
    assert_eq!(consumer.poll(NOW).unwrap().len(), 1);
    assert_eq!(committed(&broker), [Some(3), None], "without the record of this poll");
    consumer.poll(NOW).unwrap();
    assert_eq!(committed(&broker), [Some(3), None], "the next one is an interval later");
    clock.advance(EVERY);
    consumer.poll(NOW).unwrap();
    assert_eq!(committed(&broker), [Some(4), None]);
}

/// Kafka's `ClassicGroup.validateOffsetCommit`.
#[test]
fn a_commit_is_rejected_while_the_group_has_members_and_accepted_afterwards() {
    let (broker, _, partitions) = broker();
    let mut consumer = automatic(&broker).assign(&partitions).unwrap();
    let records = consumer.poll(NOW).unwrap();
    let member = broker.consumer("g").subscribe(["t"]).unwrap();
    assert!(matches!(consumer.commit(&records), Err(Error::CommitRejected { .. })));
    assert_eq!(committed(&broker), [None, None]);
    assert_eq!(broker.group("g").unwrap().describe().unwrap().members.len(), 1, "it is no member itself");
    member.close().unwrap();
    consumer.commit(&records).unwrap();
    assert_eq!(committed(&broker), [Some(3), Some(3)]);
    // A rejected commit at the end is the error of `close`.
    append(&broker, &partitions[0], 1);
    consumer.poll(NOW).unwrap();
    let _member = broker.consumer("g").subscribe(["t"]).unwrap();
    assert!(matches!(consumer.close(), Err(Error::CommitRejected { .. })));
    assert_eq!(committed(&broker), [Some(3), Some(3)]);
}

#[test]
fn it_reads_no_other_partition_and_seeks_in_no_other() {
    let (broker, _, partitions) = broker();
    let mut consumer = broker.consumer("g").assign(&partitions[1..]).unwrap();
    let records = consumer.poll(NOW).unwrap();
    assert!(records.iter().all(|record| record.partition().get() == 1) && records.len() == 3);
    let other = partitions[0].clone();
    let mut position = consumer.position("t", 1).unwrap();
    assert_eq!(consumer.position("t", other.id()), None);
    position.offset = Offset::new(1);
    consumer.seek(&position).unwrap();
    assert_eq!(consumer.poll(NOW).unwrap().len(), 2);
    position.partition = other.id();
    assert!(matches!(consumer.seek(&position), Err(Error::NotAssigned { .. })));
    assert!(matches!(consumer.pause("t", 0), Err(Error::NotAssigned { .. })));
    assert!(consumer.paused().is_empty());
    consumer.pause("t", 1).unwrap();
    append(&broker, &partitions[1], 1);
    assert!(consumer.poll(NOW).unwrap().is_empty());
    assert_eq!(consumer.paused().len(), 1);
    consumer.resume("t", 1).unwrap();
    assert_eq!(consumer.poll(NOW).unwrap().len(), 1);
}

#[test]
fn without_a_committed_offset_the_policy_decides() {
    let (broker, _, partitions) = broker();
    let with = |group: &str, reset| -> Consumer {
        broker.consumer(group).offset_reset(reset).assign(&partitions[..1]).unwrap()
    };
    for (group, reset, records) in [
        ("earliest", OffsetReset::Beginning, 3),
        ("nearest", OffsetReset::Nearest, 3),
        ("latest", OffsetReset::End, 0),
    ] {
        assert_eq!(with(group, reset).poll(NOW).unwrap().len(), records, "{group}");
    }
    let mut strict = with("fail", OffsetReset::Fail);
    assert!(
        matches!(strict.poll(NOW), Err(Error::NoCommittedOffset { partitions, .. }) if partitions.len() == 1)
    );
    strict.seek_all(quipu::Start::Beginning).unwrap();
    assert_eq!(strict.poll(NOW).unwrap().len(), 3);
}
