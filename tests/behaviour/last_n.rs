//! Reading the newest records without reading the others.

use quipu::testing::{Disk, ManualClock};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Partition, ReadMode, Record, Records, Start,
    TopicConfig,
};

use crate::common::{Random, assert_filled, files, fill, small, value};

fn values(records: &Records) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.value().unwrap().to_vec()).unwrap()).collect()
}

/// For each `n`: the newest ones, oldest first, and backwards the newest first.
fn assert_newest(partition: &Partition, end: u64, case: &str) {
    for n in (0..=end + 2).chain([u64::MAX]) {
        let records = partition.last_n(usize::try_from(n).unwrap()).unwrap();
        let mut expected: Vec<_> = (end.saturating_sub(n)..end).map(value).collect();
        assert_eq!(values(&records), expected, "{case}: the last {n}");
        expected.reverse();
        let backwards: Vec<_> = records.iter().rev().map(|record| record.value().unwrap().to_vec()).collect();
        assert!(backwards.iter().eq(expected.iter().map(String::as_bytes)), "{case}: the last {n} backwards");
    }
}

/// Appends the records of [`fill`], in batches of several.
fn fill_in_batches(broker: &Broker, partition: &Partition, end: u64) {
    let mut from = partition.bounds().unwrap().log_end.get();
    let mut random = Random(end);
    while from < end {
        let until = end.min(from + 1 + random.below(8));
        broker
            .producer()
            .send_all(partition, (from..until).map(|n| Record::new(value(n))))
            .unwrap()
            .wait()
            .unwrap();
        from = until;
    }
}

#[test]
fn the_newest_records_come_in_offset_order_across_batches_and_segments() {
    for (compression, mode, tail) in [
        (Compression::None, ReadMode::Map, 1 << 20),
        (Compression::None, ReadMode::Positional, 0),
        (Compression::Lz4, ReadMode::Map, 0),
    ] {
        let disk = Disk::new();
        let config = || BrokerConfig::new().clock(ManualClock::new()).read_mode(mode).tail_cache_bytes(tail);
        let broker = config().on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", small().compression(compression).partitions(2)).unwrap();
        let (single, many) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
        assert_newest(&single, 0, "empty");
        fill(&broker, &single, 40);
        fill_in_batches(&broker, &many, 90);
        assert!(single.segments().len() > 3 && many.segments().len() > 3);
        assert_newest(&single, 40, "one by one");
        assert_newest(&many, 90, "in batches");
        broker.close().unwrap();
        let broker = config().on_disk(&disk).unwrap();
        let topic = broker.topic("t").unwrap();
        assert_newest(&topic.partition(0).unwrap(), 40, "reopened");
        assert_newest(&topic.partition(1).unwrap(), 90, "reopened");
    }
}

#[test]
fn invisible_records_are_not_among_the_newest() {
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 3);
    let producer = broker.producer();
    producer.send(&partition, Record::new(value(3))).unwrap().detach();
    let flush = producer.flush_async();
    assert_eq!(partition.bounds().unwrap().log_end, 4);
    assert_newest(&partition, 3, "written, and not synced");
    flush.wait().unwrap();
    assert_newest(&partition, 4, "synced");
}

/// Only the batches are read that are needed, and of those every one.
#[test]
fn damage_in_older_batches_does_not_matter_and_in_a_newer_one_it_does() {
    let disk = Disk::new();
    let open = || BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    let broker = open();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 5);
    let end = partition.stats().bytes;
    fill(&broker, &partition, 10);
    broker.close().unwrap();
    // The last byte of the fifth record.
    disk.flip_bit(&files(&disk, "topics/t/0", ".log")[0], (end - 1) * 8).unwrap();
    let partition = open().topic("t").unwrap().partition(0).unwrap();
    for n in 1..=5 {
        assert_eq!(values(&partition.last_n(n).unwrap()), (10 - n as u64..10).map(value).collect::<Vec<_>>());
    }
    for n in [6, 7, 100] {
        let error = partition.last_n(n).unwrap_err();
        assert!(matches!(&error, Error::Corrupt(c) if c.offset.unwrap() == 4), "{n}: {error}");
    }
    assert!(partition.last_n(0).unwrap().is_empty());
}

#[test]
fn a_closed_broker_and_a_deleted_topic_are_typed_errors() {
    let broker = BrokerConfig::new().in_memory().unwrap();
    let partitions = ["a", "b"].map(|name| {
        let partition = broker.create_topic(name, TopicConfig::new()).unwrap().partition(0).unwrap();
        fill(&broker, &partition, 2);
        assert_filled(&partition, 2, name);
        partition
    });
    broker.delete_topic("a").unwrap();
    broker.close().unwrap();
    for n in [0, 1] {
        assert!(matches!(partitions[0].last_n(n), Err(Error::TopicDeleted { .. })));
        assert!(matches!(partitions[1].last_n(n), Err(Error::Closed)));
    }
}

/// Records can be taken from both ends at once, each once.
#[test]
fn iterating_from_both_ends_meets_in_the_middle() {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill_in_batches(&broker, &partition, 60);
    let records = partition.read(Start::Beginning, usize::MAX).unwrap();
    for seed in 0..200 {
        let mut random = Random(seed);
        let (mut iter, mut front, mut back) = (records.iter(), 0, 60);
        while front < back {
            assert_eq!(iter.len(), (back - front) as usize);
            if random.below(1 + seed % 5) == 0 {
                assert_eq!(iter.next().unwrap().offset(), front);
                front += 1;
            } else {
                back -= 1;
                assert_eq!(iter.next_back().unwrap().offset(), back);
            }
        }
        assert!(iter.len() == 0 && iter.next().is_none() && iter.next_back().is_none());
    }
}
