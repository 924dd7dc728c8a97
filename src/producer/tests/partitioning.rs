//! The partition that a record goes to.

use std::time::Duration;

use super::fakes::{FakeTopic, flush, outbox, small};
use crate::config::TopicConfig;
use crate::error::Error;
use crate::partitioner::{Partitioner, partition_for_key};
use crate::producer::config::ProducerConfig;
use crate::producer::core::Core;
use crate::producer::outbox::Outbox;
use crate::record::Record;
use crate::sync::Ordering;
use crate::types::TopicName;

#[test]
fn given_partition_then_partitioner_then_key_then_sticky() {
    struct Picky;
    impl Partitioner for Picky {
        fn partition(
            &self,
            topic: &TopicName,
            key: Option<&[u8]>,
            value: Option<&[u8]>,
            n: u32,
        ) -> Option<u32> {
            assert_eq!((topic.as_str(), n), ("fake", 12));
            match (key, value) {
                (_, Some(b"third")) => Some(3),
                (_, Some(b"beyond")) => Some(12),
                _ => None,
            }
        }
    }
    let topic = FakeTopic::new(12, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new().partitioner(Picky));
    let partition =
        |to, record: Record<'_>| outbox.send(&topic, to, &record).unwrap().wait().unwrap().partition.get();
    assert_eq!(partition(Some(5), Record::new("third").key("kafka")), 5);
    assert_eq!(partition(None, Record::new("third").key("kafka")), 3);
    assert_eq!(partition(None, Record::new("other").key("kafka")), 4);
    assert_eq!(partition(None, Record::new("other").key("")), 9, "an empty key is a key");
    assert_eq!(partition(None, Record::tombstone("foobar")), 6);
    let beyond = outbox.send(&topic, None, &Record::new("beyond"));
    assert!(matches!(beyond, Err(Error::UnknownPartition { partition, count: 12, .. }) if partition == 12));
    let beyond = outbox.send_all(&topic, None, ["third", "beyond"].map(Record::new).into_iter());
    assert!(matches!(beyond, Err(Error::UnknownPartition { .. })));
    assert_eq!(topic.logs[3].values(), ["third"]);
}

#[test]
fn records_without_a_key_stay_for_a_batch_and_then_move() {
    let topic = FakeTopic::new(5, TopicConfig::new());
    let outbox = outbox(&topic, small());
    for _ in 0..10_000 {
        outbox.send(&topic, None, &Record::new([1; 97])).unwrap().detach();
    }
    flush(&outbox).unwrap();
    let (mut batches, mut records) = (0, 0);
    for log in &topic.logs {
        // 9 records of 100 bytes fill a batch of 1 KiB: none is left half full but the very last.
        assert!(log.counts().iter().filter(|count| **count != 9).count() <= 1, "{:?}", log.counts());
        assert!((150..300).contains(&log.batches()), "{}", log.batches());
        batches += log.batches();
        records += log.values_len();
    }
    assert_eq!((batches, records), (10_000usize.div_ceil(9), 10_000));
}

#[test]
fn batches_sealed_early_delay_the_move_to_twice_their_size_at_most() {
    let topic = FakeTopic::new(1_000, TopicConfig::new());
    let outbox = outbox(&topic, small());
    let mut runs = Vec::new();
    let mut last = (u32::MAX, 0);
    for n in 0..2_000 {
        let pending = outbox.send(&topic, None, &Record::new([1; 97])).unwrap();
        // Waiting for every fourth record seals the batches early, so that none is ever full.
        let Some(partition) = (n % 4 == 3).then(|| pending.wait().unwrap().partition.get()) else { continue };
        if partition == last.0 {
            last.1 += 4;
        } else {
            runs.push(last.1);
            last = (partition, 4);
        }
    }
    // A batch's worth is 924 bytes.
    assert!(runs.iter().skip(1).all(|run| (8..=20).contains(run)), "{runs:?}");
}

#[test]
fn the_path_over_the_partitions_follows_from_the_seed() {
    let path = |seed| {
        let topic = FakeTopic::new(100, TopicConfig::new());
        let core =
            Core::new(topic.broker.inner().ctx.clone(), ProducerConfig::new().linger(Duration::ZERO), None);
        let outbox = Outbox::new(core, seed);
        let value = vec![0; 70_000];
        let send = |_| outbox.send(&topic, None, &Record::new(&value)).unwrap().wait().unwrap().partition;
        (0..20).map(send).collect::<Vec<_>>()
    };
    assert_eq!(path(1), path(1));
    assert_ne!(path(1), path(2));
}

#[test]
fn partitions_that_are_added_are_seen() {
    let topic = FakeTopic::new(40, TopicConfig::new());
    topic.partitions.store(1, Ordering::SeqCst);
    let outbox = outbox(&topic, ProducerConfig::new());
    let send =
        |to| outbox.send(&topic, to, &Record::new("v").key("abc")).map(|p| p.wait().unwrap().partition.get());
    assert_eq!(send(None).unwrap(), 0);
    assert!(send(Some(39)).is_err());
    topic.partitions.store(40, Ordering::SeqCst);
    assert_eq!(send(None).unwrap(), partition_for_key(b"abc", 40));
    assert_eq!(send(Some(39)).unwrap(), 39);
}

#[test]
fn records_of_many_topics_are_not_mixed() {
    let topics: Vec<_> = (0..300).map(|_| FakeTopic::new(1, TopicConfig::new())).collect();
    let outbox = outbox(&topics[0], ProducerConfig::new());
    for (n, topic) in topics.iter().enumerate() {
        outbox.send(topic, None, &Record::new(n.to_string())).unwrap().detach();
    }
    flush(&outbox).unwrap();
    for (n, topic) in topics.iter().enumerate() {
        assert_eq!(topic.logs[0].values(), [n.to_string()]);
    }
}
