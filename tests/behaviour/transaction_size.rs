//! The records of a transaction for one partition are one batch. If it is too large, the error
//! names the partition, the bound and the setting, and nothing is committed.

use quipu::testing::{Disk, Survive};
use quipu::{Durability, Error, Record, TopicConfig};

use crate::common::{open, small};

#[test]
fn a_transaction_larger_than_a_segment_is_refused_with_the_partition_and_the_bound() {
    let broker = open(&Disk::new()).unwrap();
    let small = broker.create_topic("small", TopicConfig::new().segment_bytes(1 << 20)).unwrap();
    let other = broker.create_topic("other", TopicConfig::new()).unwrap();
    let value = vec![7; 1024];
    let transaction = |records: usize| {
        let mut transaction = broker.transaction();
        transaction.send(&other, Record::new("with it"));
        for _ in 0..records {
            transaction.send(&small, Record::new(&value[..]).key("k"));
        }
        transaction.commit()
    };
    let error = transaction(2048).unwrap_err();
    let Error::TransactionTooLarge { partition: Some(partition), size, limit, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((partition.to_string().as_str(), *limit), ("small/0", (1 << 20) - 128));
    assert!(*size > 2048 * 1024, "{size}");
    for part in ["transaction", "small/0", &size.to_string(), &limit.to_string(), "segment_bytes"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let end = |topic: &quipu::Topic| topic.partition(0).unwrap().bounds().unwrap().log_end.get();
    assert_eq!((end(&small), end(&other)), (0, 0));
    assert_eq!(transaction(900).unwrap().len(), 901);
    broker.alter_topic("small", TopicConfig::new()).unwrap();
    assert_eq!(transaction(2048).unwrap().len(), 2049, "in a larger segment");
}

#[test]
fn a_transaction_of_more_than_64_mebibytes_for_a_partition_is_refused_with_the_partition() {
    let broker = open(&Disk::new()).unwrap();
    let big = broker.create_topic("big", TopicConfig::new().segment_bytes(1 << 30)).unwrap();
    let half = vec![7; 500_000];
    let mut transaction = broker.transaction();
    for _ in 0..160 {
        transaction.send(&big, Record::new(&half[..]).key("k"));
    }
    let error = transaction.commit().unwrap_err();
    let is_named = matches!(&error, Error::TransactionTooLarge { partition: Some(of), limit: 67_108_864, .. }
        if of.to_string() == "big/0");
    assert!(is_named, "{error:?}");
    assert!(error.to_string().contains("of at most 64 MiB"), "{error}");
    assert_eq!(big.partition(0).unwrap().bounds().unwrap().log_end, 0);
}

#[test]
fn a_transaction_that_an_opening_completes_keeps_to_the_size_of_segments() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    for topic in ["x", "y"] {
        broker.create_topic(topic, small().durability(Durability::Sync)).unwrap();
    }
    for n in 0..12 {
        let mut transaction = broker.transaction();
        for topic in ["x", "y"] {
            transaction.send(topic, Record::new(format!("{n} {}", "x".repeat(300))));
        }
        transaction.commit().unwrap();
    }
    // Only their records in the journal are durable.
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    for topic in ["x", "y"] {
        let partition = broker.topic(topic).unwrap().partition(0).unwrap();
        assert_eq!(partition.bounds().unwrap().log_end, 12);
        let sizes: Vec<u64> = partition.segments().iter().map(|segment| segment.bytes).collect();
        assert!(sizes.len() > 5 && sizes.iter().all(|bytes| *bytes <= 1 << 10), "{sizes:?}");
    }
}
