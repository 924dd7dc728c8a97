//! `Group::delete_offsets`: offsets of a group are deleted by topic and partition, as by Kafka's
//! `Admin.deleteConsumerGroupOffsets`.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Position, Record, TopicConfig, TopicName, TopicPartition,
};

use crate::common::send;

const NOW: Duration = Duration::ZERO;

fn open(disk: &Disk) -> Broker {
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    config.on_disk(disk).unwrap()
}

fn of(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(TopicName::new(topic).unwrap(), partition)
}

/// Two topics with two partitions, of which the group has committed everything.
fn committed(disk: &Disk) -> Broker {
    let broker = open(disk);
    for topic in ["a", "b"] {
        let topic = broker.create_topic(topic, TopicConfig::new().partitions(2)).unwrap();
        topic.partitions().iter().for_each(|partition| drop(send(&broker, partition, "v").unwrap()));
    }
    let mut consumer = broker.consumer("g").subscribe(["a", "b"]).unwrap();
    let records = consumer.poll(NOW).unwrap();
    assert_eq!(records.len(), 4);
    consumer.commit(&records).unwrap();
    broker
}

fn left(broker: &Broker) -> Vec<String> {
    let partitions = broker.group("g").unwrap().describe().unwrap().partitions;
    let committed = partitions.iter().filter(|partition| partition.committed.is_some());
    committed.map(|partition| format!("{}/{}", partition.topic, partition.partition)).collect()
}

#[test]
fn deleted_offsets_are_gone_after_a_power_loss_and_the_others_stay() {
    let disk = Disk::new();
    let broker = committed(&disk);
    let group = broker.group("g").unwrap();
    group.delete_offsets(&[of("a", 1), of("b", 0)]).unwrap();
    assert_eq!(left(&broker), ["a/0", "b/1"]);
    assert_eq!(group.committed("a", 1).unwrap(), None);
    // Again, and of nothing: nothing happens.
    group.delete_offsets(&[of("a", 1)]).unwrap();
    group.delete_offsets(&[]).unwrap();
    disk.crash(Survive::Synced);
    let broker = open(&disk);
    assert_eq!(left(&broker), ["a/0", "b/1"]);
    let mut consumer = broker.consumer("g").subscribe(["a", "b"]).unwrap();
    let records = consumer.poll(NOW).unwrap();
    let mut places: Vec<_> =
        records.iter().map(|record| format!("{}/{}", record.topic(), record.partition())).collect();
    places.sort();
    assert_eq!(places, ["a/1", "b/0"], "they are read as if the group had never read them");
}

#[test]
fn offsets_of_a_topic_that_a_member_subscribes_to_are_not_deleted() {
    let broker = committed(&Disk::new());
    let group = broker.group("g").unwrap();
    let member = broker.consumer("g").subscribe(["a"]).unwrap();
    for refused in [&[of("a", 0)][..], &[of("b", 0), of("a", 1)]] {
        match group.delete_offsets(refused) {
            Err(Error::GroupSubscribed { group, topic, .. }) => {
                assert_eq!((group.as_str(), topic.as_str()), ("g", "a"))
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(left(&broker).len(), 4, "all of them or none");
    group.delete_offsets(&[of("b", 0)]).unwrap();
    assert_eq!(left(&broker), ["a/0", "a/1", "b/1"]);
    drop(member);
    group.delete_offsets(&[of("a", 0)]).unwrap();
    assert_eq!(left(&broker), ["a/1", "b/1"]);
}

#[test]
fn offsets_of_unknown_partitions_are_refused() {
    let broker = committed(&Disk::new());
    let group = broker.group("g").unwrap();
    assert!(matches!(group.delete_offsets(&[of("a", 0), of("c", 0)]), Err(Error::UnknownTopic { .. })));
    assert!(matches!(
        group.delete_offsets(&[of("a", 0), of("a", 2)]),
        Err(Error::UnknownPartition { partition, count: 2, .. }) if partition == 2
    ));
    assert_eq!(left(&broker).len(), 4);
    broker.close().unwrap();
    assert!(matches!(group.delete_offsets(&[of("a", 0)]), Err(Error::Closed)));
}

/// Offsets are committed again after they were deleted.
#[test]
fn a_commit_after_the_deletion_counts() {
    let broker = committed(&Disk::new());
    let group = broker.group("g").unwrap();
    group.delete_offsets(&[of("a", 0)]).unwrap();
    let consumer = broker.consumer("g").assign(&[]).unwrap();
    let position: Position = "a/0@1#0".parse().unwrap();
    let mut transaction = broker.transaction();
    transaction.send("b", Record::new("w")).offsets(&consumer, consumer.offsets_at([&position]));
    transaction.commit().unwrap();
    assert_eq!(group.committed("a", 0).unwrap().unwrap().offset, 1);
}

#[test]
fn a_group_whose_last_offsets_are_deleted_is_listed_no_more() {
    let disk = Disk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("a", TopicConfig::new().partitions(2)).unwrap();
    topic.partitions().iter().for_each(|partition| drop(send(&broker, partition, "v").unwrap()));
    let mut consumer = broker.consumer("g").assign(&topic.partitions()).unwrap();
    let records = consumer.poll(NOW).unwrap();
    consumer.commit(&records).unwrap();
    drop(consumer);
    let group = broker.group("g").unwrap();
    group.delete_offsets(&[of("a", 0)]).unwrap();
    assert_eq!(broker.groups().unwrap(), ["g"]);
    group.delete_offsets(&[of("a", 1)]).unwrap();
    drop(group);
    assert!(broker.groups().unwrap().is_empty());
    disk.crash(Survive::Synced);
    assert!(open(&disk).groups().unwrap().is_empty());
}
