//! The first poll of a partition stores where the group has started, until something is committed
//! there: a rewind and the next member start at the same offset, under any policy.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Consumer, Durability, Error, Offset, OffsetReset, Partition, Start, TopicConfig,
};

use crate::common::send;

const NOW: Duration = Duration::ZERO;

fn config() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(1)
}

fn open(disk: &Disk) -> Broker {
    config().on_disk(disk).unwrap()
}

fn topic(broker: &Broker) -> Partition {
    let topic = broker.topic("t").or_else(|_| broker.create_topic("t", TopicConfig::new()));
    topic.unwrap().partition(0).unwrap()
}

fn append(broker: &Broker, values: &[&str]) {
    values.iter().for_each(|value| drop(send(broker, &topic(broker), value).unwrap()));
}

fn latest(broker: &Broker) -> Consumer {
    broker.consumer("g").offset_reset(OffsetReset::End).subscribe(["t"]).unwrap()
}

fn polled(consumer: &mut Consumer) -> Vec<String> {
    let records = consumer.poll(NOW).unwrap();
    records.iter().map(|record| String::from_utf8(record.value().unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn a_rewind_under_latest_before_the_first_commit_goes_back_to_the_start() {
    let broker = open(&Disk::new());
    append(&broker, &["old"]);
    let mut consumer = latest(&broker);
    assert!(polled(&mut consumer).is_empty());
    append(&broker, &["1", "2"]);
    assert_eq!(polled(&mut consumer), ["1", "2"]);
    consumer.rewind();
    assert_eq!(polled(&mut consumer), ["1", "2"]);
    assert_eq!(consumer.committed("t", 0).unwrap(), None, "that is no commit");
    let description = broker.group("g").unwrap().describe().unwrap();
    assert_eq!(description.partitions[0].committed, None);
    assert_eq!(description.partitions[0].lag, 2, "it counts from where the group has started");
}

#[test]
fn a_member_after_one_that_never_committed_starts_where_that_one_did() {
    for reset in [OffsetReset::End, OffsetReset::Fail, OffsetReset::Beginning] {
        let disk = Disk::new();
        let broker = open(&disk);
        append(&broker, &["old"]);
        let mut first = latest(&broker);
        assert!(polled(&mut first).is_empty());
        append(&broker, &["1"]);
        assert_eq!(polled(&mut first), ["1"]);
        drop(first);
        append(&broker, &["2"]);
        let next = |broker: &Broker| broker.consumer("g").offset_reset(reset).subscribe(["t"]).unwrap();
        assert_eq!(polled(&mut next(&broker)), ["1", "2"], "{reset:?}");
        // So after a restart, and for partitions that are assigned by hand.
        std::mem::forget(broker);
        disk.crash(Survive::Everything);
        let broker = open(&disk);
        assert_eq!(polled(&mut next(&broker)), ["1", "2"], "{reset:?}");
        let by_hand = broker.consumer("g").offset_reset(reset).assign(&[topic(&broker)]);
        assert_eq!(polled(&mut by_hand.unwrap()), ["1", "2"], "{reset:?}");
    }
}

#[test]
fn a_consumer_with_assigned_partitions_stores_where_its_group_starts_too() {
    let broker = open(&Disk::new());
    append(&broker, &["old"]);
    let assign = || broker.consumer("g").offset_reset(OffsetReset::End).assign(&[topic(&broker)]).unwrap();
    let mut first = assign();
    assert!(polled(&mut first).is_empty());
    append(&broker, &["1"]);
    drop(first);
    assert_eq!(polled(&mut assign()), ["1"]);
    // But not if the group has members: then it may not commit either.
    let _member = broker.consumer("h").subscribe(["t"]).unwrap();
    let mut stranger = broker.consumer("h").offset_reset(OffsetReset::End).assign(&[topic(&broker)]).unwrap();
    assert!(polled(&mut stranger).is_empty());
    append(&broker, &["2"]);
    assert_eq!(polled(&mut stranger), ["2"]);
    stranger.rewind();
    assert!(polled(&mut stranger).is_empty());
}

/// The start is as durable as the records that are delivered after it.
#[test]
fn a_start_survives_what_its_records_survive() {
    for (offsets, records) in [(Durability::Os, Durability::Sync), (Durability::Sync, Durability::Os)] {
        let disk = Disk::new();
        let config = || config().durability(offsets);
        let broker = config().on_disk(&disk).unwrap();
        broker.create_topic("t", TopicConfig::new().durability(records)).unwrap();
        append(&broker, &["old"]);
        broker.sync().unwrap();
        let mut first = latest(&broker);
        assert!(polled(&mut first).is_empty());
        append(&broker, &["1"]);
        assert_eq!(polled(&mut first), ["1"]);
        if records == Durability::Os {
            broker.sync().unwrap();
        }
        std::mem::forget((first, broker));
        disk.crash(Survive::Synced);
        let broker = config().on_disk(&disk).unwrap();
        assert_eq!(polled(&mut latest(&broker)), ["1"], "{offsets:?} {records:?}");
    }
}

#[test]
fn a_start_after_records_that_a_power_loss_took_is_set_back() {
    let disk = Disk::new();
    let config = || config().durability(Durability::Sync);
    let broker = config().on_disk(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    append(&broker, &["kept"]);
    broker.sync().unwrap();
    append(&broker, &["lost", "lost", "lost"]);
    let mut first = latest(&broker);
    assert!(polled(&mut first).is_empty());
    assert_eq!(first.position("t", 0).unwrap().offset, 4);
    std::mem::forget((first, broker));
    disk.crash(Survive::Synced);
    let broker = config().on_disk(&disk).unwrap();
    append(&broker, &["1"]);
    assert_eq!(polled(&mut latest(&broker)), ["1"], "it is new to the group");
}

#[test]
fn a_start_goes_with_its_group_its_topic_and_its_offsets() {
    let disk = Disk::new();
    let mut broker = open(&disk);
    let reopen = |broker: Broker| {
        broker.close().unwrap();
        drop(broker);
        open(&disk)
    };
    append(&broker, &["old"]);
    let stored = |broker: &Broker| {
        assert!(polled(&mut latest(broker)).is_empty());
        append(broker, &["1"]);
        assert!(!polled(&mut latest(broker)).is_empty());
    };
    for restarts in [false, true] {
        stored(&broker);
        broker.group("g").unwrap().delete().unwrap();
        if restarts {
            broker = reopen(broker);
        }
        stored(&broker);
        let of = topic(&broker);
        let of = quipu::TopicPartition::new(of.topic().clone(), of.id());
        broker.group("g").unwrap().delete_offsets(&[of]).unwrap();
        if restarts {
            broker = reopen(broker);
        }
        stored(&broker);
        broker.delete_topic("t").unwrap();
        assert!(broker.groups().unwrap().is_empty());
        if restarts {
            broker = reopen(broker);
        }
        append(&broker, &["old"]);
    }
}

#[test]
fn a_commit_comes_before_the_start_of_the_group() {
    let broker = open(&Disk::new());
    append(&broker, &["old"]);
    let mut consumer = latest(&broker);
    assert!(polled(&mut consumer).is_empty());
    append(&broker, &["1", "2"]);
    let records = consumer.poll(NOW).unwrap();
    consumer.commit(records.iter().next().unwrap()).unwrap();
    consumer.rewind();
    assert_eq!(polled(&mut consumer), ["2"]);
}

/// A seek before the first poll counts as the start: the records after it were delivered.
#[test]
fn a_group_starts_where_its_first_member_seeks_before_its_first_poll() {
    let broker = open(&Disk::new());
    append(&broker, &["0", "1", "2"]);
    let mut consumer = latest(&broker);
    consumer.seek_all(Start::At(Offset::new(1))).unwrap();
    assert_eq!(polled(&mut consumer), ["1", "2"]);
    consumer.rewind();
    assert_eq!(polled(&mut consumer), ["1", "2"]);
    drop(consumer);
    assert_eq!(polled(&mut latest(&broker)), ["1", "2"]);
}

/// The policy moves the position before the first records are delivered: that is the start.
#[test]
fn a_seek_to_an_offset_that_is_not_in_the_log_starts_where_the_policy_continues() {
    for (reset, expected) in [(OffsetReset::Beginning, 0), (OffsetReset::Nearest, 2), (OffsetReset::End, 2)] {
        let broker = open(&Disk::new());
        append(&broker, &["0", "1"]);
        let mut consumer = broker.consumer("g").offset_reset(reset).subscribe(["t"]).unwrap();
        consumer.seek_all(Start::At(Offset::new(7))).unwrap();
        consumer.poll(NOW).unwrap();
        append(&broker, &["2"]);
        consumer.poll(NOW).unwrap();
        consumer.rewind();
        assert_eq!(consumer.position("t", 0).unwrap().offset, expected, "{reset:?}");
    }
}

/// The poll that cannot store it delivers nothing, unless the policy skips nothing without it.
#[test]
fn a_start_that_cannot_be_stored_keeps_records_from_being_skipped() {
    for (reset, is_told) in [(OffsetReset::End, true), (OffsetReset::Beginning, false)] {
        let disk = Disk::new();
        let broker = open(&disk);
        append(&broker, &["0"]);
        let mut consumer = broker.consumer("g").offset_reset(reset).subscribe(["t"]).unwrap();
        disk.fail_always(Op::Write, 1, ErrorKind::StorageFull);
        let first = consumer.poll(NOW);
        match first {
            Err(Error::DiskFull { .. }) => assert!(is_told, "{reset:?}"),
            other => assert_eq!((other.unwrap().len(), is_told), (1, false), "{reset:?}"),
        }
        disk.clear_faults();
        consumer.poll(NOW).unwrap();
        append(&broker, &["1"]);
        drop(consumer);
        let expected: &[&str] = if is_told { &["1"] } else { &["0", "1"] };
        assert_eq!(polled(&mut latest(&broker)), expected, "{reset:?}");
    }
}

#[test]
fn a_start_at_the_log_end_is_left_unchanged_by_an_opening() {
    let disk = Disk::new();
    let broker = open(&disk);
    append(&broker, &["old"]);
    assert!(polled(&mut latest(&broker)).is_empty());
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    let stored = || -> u64 {
        let of_groups = |(path, _): &(PathBuf, u64)| path.starts_with("topics/__consumer_offsets");
        let files = disk.files().into_iter().filter(of_groups);
        files.filter(|(path, _)| path.extension().is_some_and(|end| end == "log")).map(|(_, size)| size).sum()
    };
    let before = stored();
    assert!(before > 128);
    for _ in 0..3 {
        std::mem::forget(open(&disk));
        disk.crash(Survive::Everything);
        assert_eq!(stored(), before);
    }
}
