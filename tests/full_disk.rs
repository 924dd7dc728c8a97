//! What works on a disk without room, and what makes room again?

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::ErrorKind;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Broker, BrokerConfig, Error, Outcome, Partition, ProducerConfig, Record, Result, Space, TopicConfig,
};

/// A topic "t" with one partition and segments of 4 KiB.
fn opened(disk: &Disk, config: TopicConfig) -> (Broker, Partition) {
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(disk).unwrap();
    let topic = broker.ensure_topic("t", config.segment_bytes(4096).max_record_bytes(1000)).unwrap();
    (broker, topic.partition(0).unwrap())
}

fn send(broker: &Broker, value: u64) -> Result<u64> {
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO))?;
    let mut bytes = vec![7; 500];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    Ok(producer.send("t", Record::new(bytes))?.wait()?.offset.get())
}

#[test]
fn a_full_disk_a_used_up_quota_and_a_file_that_is_too_large_are_told_apart() {
    let kinds = [
        (ErrorKind::StorageFull, Space::NoSpace, "the file system is full"),
        (ErrorKind::QuotaExceeded, Space::Quota, "the quota is used up"),
        (ErrorKind::FileTooLarge, Space::FileTooLarge, "the file would become larger than it may be"),
    ];
    for (kind, expected, words) in kinds {
        let disk = Disk::new();
        let (broker, _) = opened(&disk, TopicConfig::new());
        send(&broker, 0).unwrap();
        disk.fail(Op::Write, 1, kind);
        let error = send(&broker, 1).unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotWritten);
        let text = error.to_string();
        assert!(text.contains("topics/t/0/") && text.ends_with(words), "{text}");
        match error {
            Error::DiskFull { cause, .. } => assert_eq!(cause, expected),
            other => panic!("{other}"),
        }
        assert_eq!(send(&broker, 2).unwrap(), 1, "the log goes on");
    }
}
