//! A real file system is filled to its last byte and freed again, twenty times.
//!
//! `QUIPU_SMALL_DISK` names a directory on a small file system (4 to 64 MiB) that nothing else
//! uses: `.ci/run long` makes one in memory and one on a loop device where mounting is allowed.
//! Without it the test is skipped and prints so. Another test mounts a file system of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quipu::testing::produced;
use quipu::{
    Broker, Durability, Error, Offset, Outcome, Partition, ProducerConfig, Record, Retention, TopicConfig,
};

const CYCLES: u64 = 20;

fn opened(root: &Path) -> (Broker, Partition) {
    let broker = common::open_dir(root).unwrap();
    let config = TopicConfig::new().segment_bytes(64 << 10).max_record_bytes(20 << 10);
    let config = config.durability(Durability::Sync).retention(Retention::for_bytes(2 << 20));
    let topic = broker.ensure_topic("t", config).unwrap();
    (broker, topic.partition(0).unwrap())
}

fn read(broker: &Broker) -> Vec<u64> {
    let records = produced(broker, "t").unwrap();
    let number = |value: &[u8]| u64::from_le_bytes(value[..8].try_into().unwrap());
    records.iter().map(|record| number(record.value().unwrap())).collect()
}

/// Takes all that is left of the file system, as another program would.
fn take_all(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut piece = 64 << 10;
    while piece > 0 {
        match file.write(&vec![1; piece]) {
            Ok(n) if n > 0 => {}
            _ => piece /= 2,
        }
    }
    let _ = file.sync_all();
}

#[test]
fn a_small_file_system_is_filled_and_freed_without_a_lost_acknowledgement() {
    let Some(dir) = std::env::var_os("QUIPU_SMALL_DISK") else {
        println!("SKIPPED: no file system was filled, because QUIPU_SMALL_DISK names none");
        return;
    };
    let dir = Path::new(&dir);
    let (root, filler) = (dir.join("quipu"), dir.join("filler"));
    let (mut start, mut end, mut appended, mut refused) = (0, 0, 0, 0);
    for cycle in 0..CYCLES {
        let (broker, partition) = opened(&root);
        assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}");
        let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
        let send = |n: u64| {
            let mut value = vec![7; 10 << 10];
            value[..8].copy_from_slice(&n.to_le_bytes());
            producer.send("t", Record::new(value)).and_then(|sent| sent.wait())
        };
        for n in 0..150 {
            // The file system becomes full in the middle of it.
            if n == 100 {
                take_all(&filler);
            }
            match send(end) {
                Ok(receipt) => {
                    assert_eq!(receipt.offset.get(), end);
                    (end, appended) = (end + 1, appended + 1);
                }
                Err(error) => {
                    assert!(matches!(error, Error::DiskFull { .. }), "cycle {cycle}: {error}");
                    assert_eq!(error.outcome(), Outcome::NotWritten);
                    refused += 1;
                    break;
                }
            }
        }
        start = partition.bounds().unwrap().log_start.get();
        assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}, full");
        drop(producer);
        if cycle % 3 == 0 {
            broker.close().unwrap();
            drop((broker, partition));
            let (broker, partition) = opened(&root);
            assert!(broker.open_report().clean, "cycle {cycle}: {:?}", broker.open_report());
            assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}, opened full");
            start = (start + end) / 2;
            partition.delete_records(Offset::new(start)).unwrap();
            broker.close().unwrap();
        } else {
            if cycle % 3 == 1 {
                end -= 5;
                partition.truncate_to(Offset::new(end)).unwrap();
            }
            start = (start + end) / 2;
            partition.delete_records(Offset::new(start)).unwrap();
            assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}, freed");
            broker.close().unwrap();
        }
        fs::remove_file(&filler).unwrap();
    }
    fs::remove_dir_all(&root).unwrap();
    println!("{CYCLES} cycles, {appended} appended, {refused} times full");
    assert!(refused > CYCLES / 2, "or the file system is too large: {refused}");
}

/// A tmpfs of 256 KiB that ends with this.
struct Tiny(PathBuf);

impl Tiny {
    fn mount() -> Option<(tempfile::TempDir, Tiny)> {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("tiny");
        fs::create_dir(&place).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&place).output();
        match mounted {
            Ok(output) if output.status.success() => Some((dir, Tiny(place))),
            _ => None,
        }
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A small file system of its own, where one can be mounted.
#[test]
fn a_full_mounted_file_system_is_reported_and_used_again_once_there_is_room() {
    let Some((_dir, tiny)) = Tiny::mount() else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let (root, ballast) = (tiny.0.join("broker"), tiny.0.join("ballast"));
    let mut ballast_kib = 128;
    let mut make_room = || {
        ballast_kib -= 16;
        fs::write(&ballast, vec![1; ballast_kib << 10]).unwrap();
    };
    make_room();
    let is_full = |error: &Error| matches!(error, Error::DiskFull { path, .. } if path.starts_with(&root));
    let mut random = common::Random(11);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        // Opening and closing need some room of their own, and say so; so does a partition that is
        // recovered.
        let broker = loop {
            match common::open_dir(&root) {
                Ok(broker) if broker.open_report().damaged.is_empty() => break broker,
                Ok(broker) => {
                    let damaged = &broker.open_report().damaged;
                    assert!(damaged.iter().all(|(_, error)| is_full(error)), "round {round}: {damaged:?}");
                }
                Err(error) => assert!(is_full(&error), "round {round}: {error}"),
            }
            make_room();
        };
        assert!(broker.open_report().truncated_tails.is_empty(), "round {round}: {:?}", broker.open_report());
        let config =
            TopicConfig::new().segment_bytes(16 << 10).max_record_bytes(8 << 10).durability(Durability::Sync);
        let partition = broker.ensure_topic("t", config).unwrap().partition(0).unwrap();
        assert_eq!(common::read(&partition).0, acknowledged, "round {round}");
        let mut record = |acknowledged: &mut Vec<String>| {
            let text = format!("{} {}", acknowledged.len(), "x".repeat(random.below(3000) as usize));
            let result = common::send(&broker, &partition, &text);
            if result.is_ok() {
                acknowledged.push(text);
            }
            result
        };
        // Fill it up; a record that does not fit is refused, and no part of it is visible.
        let mut refused = 0;
        while refused < 20 {
            if let Err(error) = record(&mut acknowledged) {
                assert!(is_full(&error), "round {round}: {error}");
                assert_eq!(error.outcome(), Outcome::NotWritten);
                refused += 1;
            }
        }
        assert_eq!(common::read(&partition).0, acknowledged, "round {round}");
        let _ = broker.maintain();
        assert!(partition.stats().poisoned.is_none(), "round {round}");

        // Once there is room the same broker continues at once.
        make_room();
        record(&mut acknowledged).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(common::read(&partition).0, acknowledged, "round {round}");
        if let Err(error) = broker.close() {
            assert!(is_full(&error), "round {round}: {error}");
        }
    }
    // The reserve takes a quarter of the file system.
    assert!(acknowledged.len() > 40, "{}", acknowledged.len());
    make_room();
    let broker = common::open_dir(&root).unwrap();
    assert!(broker.open_report().damaged.is_empty() && broker.open_report().truncated_tails.is_empty());
    assert_eq!(common::read(&broker.topic("t").unwrap().partition(0).unwrap()).0, acknowledged);
}
