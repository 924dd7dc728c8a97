//! A thousand partitions under a small budget of open files: all of them work, and the budget
//! holds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{at, small};
use quipu::testing::{Disk, ManualClock};
use quipu::{Broker, BrokerConfig, Durability, ProducerConfig, ReadMode, Record, Start, TopicConfig};
use tempfile::TempDir;

const PARTITIONS: u32 = 1000;
const BUDGET: usize = 64;

/// The process's files are counted here, so the tests of this file take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory in memory where there is one: this is about files, not about a disk's syncs.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The number of open files of this process, where the system reports it.
fn open_descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

fn config() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).max_open_files(BUDGET)
}

/// Beyond the budget: a segment that is read has its map and, for a moment, the file that it is
/// made from; whatever is in use just now is not closed.
const SLACK: usize = 2;

fn assert_budget(broker: &Broker, case: &str) {
    let open = broker.stats().open_files;
    assert!(open <= BUDGET + SLACK, "{case}: {open} files are open");
}

fn append(broker: &Broker, round: u32) {
    let topic = broker.topic("many").unwrap();
    // Written in the call that sends.
    let producer = broker.producer_with(ProducerConfig::new().linger(std::time::Duration::ZERO)).unwrap();
    for partition in topic.partitions() {
        let value = format!("{round} of {} {}", partition.id(), "x".repeat(400));
        let receipt = producer.send(&partition, Record::new(value)).unwrap().wait().unwrap();
        assert_eq!(receipt.offset, u64::from(round));
        if partition.id().get() % 50 == 0 {
            assert_budget(broker, "appending");
        }
    }
}

fn check(broker: &Broker, rounds: u32) {
    for partition in broker.topic("many").unwrap().partitions() {
        let mut found = 0;
        loop {
            let records = partition.read(at(found), 1 << 20).unwrap();
            if records.is_empty() {
                break;
            }
            for record in &records {
                let expected = format!("{found} of {} ", partition.id());
                assert!(record.value().unwrap().starts_with(expected.as_bytes()));
                found += 1;
            }
        }
        assert_eq!(found, u64::from(rounds));
        if partition.id().get() % 50 == 0 {
            assert_budget(broker, "reading");
        }
    }
}

#[test]
fn a_thousand_partitions_work_under_a_small_budget_of_open_files() {
    let _alone = alone();
    let dir = directory();
    let before = open_descriptors();
    let assert_descriptors = |case: &str| {
        if let (Some(before), Some(now)) = (before, open_descriptors()) {
            // The lock, the listing itself, and a file that is being replaced come on top.
            assert!(now <= before + BUDGET + SLACK + 4, "{case}: {now} descriptors, {before} before");
        }
    };
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let path = dir.path().join(format!("{mode:?}"));
        let open = || config().read_mode(mode).tail_cache_bytes(0).open(&path).unwrap();
        let broker = open();
        broker.create_topic("many", small().partitions(PARTITIONS)).unwrap();
        assert_budget(&broker, "created");
        // Every other record begins a new segment.
        for round in 0..4 {
            append(&broker, round);
            assert_descriptors("appending");
        }
        check(&broker, 4);
        assert_descriptors("reading");
        assert!(broker.stats().topics[0].partitions.iter().all(|partition| partition.segments >= 2));
        broker.maintain().unwrap();
        assert_budget(&broker, "maintained");
        broker.sync().unwrap();
        assert_budget(&broker, "synced");
        broker.close().unwrap();
        assert_eq!(broker.stats().open_files, 0, "closed");
        drop(broker);

        let broker = open();
        assert!(broker.open_report().clean && broker.open_report().damaged.is_empty());
        assert_budget(&broker, "opened again");
        check(&broker, 4);
        append(&broker, 4);
        check(&broker, 5);
        assert_descriptors("opened again");
        let all: usize = broker
            .reader(&["many"], Start::Beginning)
            .unwrap()
            .to_end()
            .map(|records| {
                assert_budget(&broker, "following all of them");
                records.unwrap().len()
            })
            .sum();
        assert_eq!(all, 5 * PARTITIONS as usize);
        assert_descriptors("following all of them");
        drop(broker);
    }
    if let (Some(before), Some(now)) = (before, open_descriptors()) {
        assert_eq!(now, before, "everything is closed");
    } else {
        println!("notice: this system does not tell which files are open");
    }
}

/// Recovery opens every segment that is not known to be synced.
#[test]
fn a_thousand_partitions_are_recovered_under_the_same_budget() {
    let _alone = alone();
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    broker.create_topic("many", small().partitions(PARTITIONS).durability(Durability::Os)).unwrap();
    for round in 0..3 {
        append(&broker, round);
    }
    disk.crash(quipu::testing::Survive::Everything);
    drop(broker);
    let broker = config().on_disk(&disk).unwrap();
    assert_eq!(broker.open_report().recovered.len(), PARTITIONS as usize);
    assert!(broker.open_report().damaged.is_empty() && broker.open_report().truncated_tails.is_empty());
    assert_budget(&broker, "recovered");
    check(&broker, 3);
    append(&broker, 3);
    check(&broker, 4);
    broker.close().unwrap();
}

/// Records that a reader holds stay readable, however many files are closed meanwhile.
#[test]
fn records_that_are_held_outlive_the_closing_of_their_files() {
    let _alone = alone();
    let dir = directory();
    let broker = config().max_open_files(8).tail_cache_bytes(0).open(dir.path()).unwrap();
    broker.create_topic("many", small().partitions(60)).unwrap();
    for round in 0..4 {
        append(&broker, round);
    }
    broker.maintain().unwrap();
    let held: Vec<_> =
        broker.topic("many").unwrap().partitions().iter().map(|p| p.read(at(0), 1).unwrap()).collect();
    append(&broker, 4);
    broker.close().unwrap();
    for (partition, records) in held.iter().enumerate() {
        let value = records.iter().next().unwrap().value().unwrap();
        assert!(value.starts_with(format!("0 of {partition} ").as_bytes()));
    }
}

/// A topic with many idle partitions costs no open file.
#[test]
fn idle_partitions_keep_no_file_open_beyond_the_budget() {
    let _alone = alone();
    let broker = config().in_memory().unwrap();
    broker.create_topic("many", TopicConfig::new().partitions(PARTITIONS)).unwrap();
    assert_budget(&broker, "idle");
}
