//! A thousand partitions under a small budget of open files: all of them work, and the budget
//! holds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{at, small};
use quipu::testing::{Disk, ManualClock};
use quipu::{
    Broker, BrokerConfig, Durability, Position, ProducerConfig, ReadMode, Record, Start, TopicConfig,
};
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
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
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
            .reader(["many"], Start::Beginning)
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

/// One consumer and one reader for each partition, all alive: a reader that waits keeps no file.
#[test]
fn readers_of_three_hundred_partitions_keep_the_process_within_the_budget() {
    let _alone = alone();
    let Some(before) = open_descriptors() else {
        println!("notice: this system does not tell which files are open");
        return;
    };
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let dir = directory();
        let broker =
            config().max_open_files(16).read_mode(mode).tail_cache_bytes(0).open(dir.path()).unwrap();
        let topic = broker.create_topic("many", small().partitions(300)).unwrap();
        for round in 0..3 {
            append(&broker, round);
        }
        broker.maintain().unwrap();
        let mut readers: Vec<_> = topic
            .partitions()
            .iter()
            .map(|partition| {
                let (topic, partition, epoch) = (topic.name().clone(), partition.id(), partition.epoch());
                let start = Position::new(topic, partition, 0, epoch);
                broker.reader_at(&[start]).unwrap().max_records(1)
            })
            .collect();
        let mut consumer = broker.consumer("g").subscribe(["many"]).unwrap();
        let (mut read, mut consumed) = (0, 0);
        while consumed < 900 {
            consumed += consumer.poll(Duration::from_secs(1)).unwrap().len();
            for reader in &mut readers {
                read += reader.poll(Duration::ZERO).unwrap().len();
            }
            let now = open_descriptors().unwrap();
            // The listing itself, the lock and its directory, the catalog and the journal.
            assert!(now <= before + 16 + 5, "{mode:?}: {now} descriptors, {before} before");
            assert!(broker.stats().open_files <= 16, "{mode:?}: {}", broker.stats().open_files);
        }
        assert!(consumed == 900 && read >= 300, "{mode:?}: {read}");
    }
}

/// Runs a test of this file in a process with a limit, which the shell sets. Returns its output.
#[cfg(unix)]
fn run_limited(test: &str, limit: &str, dir: &Path) -> String {
    let script = format!("{limit}; exec \"$0\" --exact {test} --ignored --nocapture --test-threads=1");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("QUIPU_DIR", dir)
        // Each arena of the allocator reserves addresses, which are limited here.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_at_its_limit_of_descriptors_closes_files_of_its_own() {
    let _alone = alone();
    let dir = directory();
    let told = run_limited("at_the_limit_of_descriptors", "ulimit -n 64", dir.path());
    assert!(told.contains("MAX 32") && told.contains("DONE"), "{told}");
}

/// Run by the test before, in a process that may have 64 descriptors.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "only under a limit of descriptors"]
fn at_the_limit_of_descriptors() {
    let dir = std::path::PathBuf::from(std::env::var_os("QUIPU_DIR").unwrap());
    let broker = BrokerConfig::new().clock(ManualClock::new()).tail_cache_bytes(0).open(dir).unwrap();
    // The default is half of the limit.
    println!("MAX {}", broker.stats().max_open_files);
    broker.create_topic("many", small().partitions(100).durability(Durability::Sync)).unwrap();
    append(&broker, 0);
    // Other parts of the process take every descriptor that is left.
    let others: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(others.len() < 64);
    for round in 1..6 {
        append(&broker, round);
    }
    broker.maintain().unwrap();
    check(&broker, 6);
    broker.delete_topic("many").unwrap();
    println!("DONE");
}

/// Segments of more bytes than the process has addresses for.
#[cfg(target_os = "linux")]
#[test]
fn all_is_read_under_a_limit_of_addresses() {
    let _alone = alone();
    let dir = directory();
    let broker = BrokerConfig::new().clock(ManualClock::new()).open(dir.path()).unwrap();
    let config = TopicConfig::new().segment_bytes(8 << 20).compression(quipu::Compression::None);
    let topic = broker.create_topic("large", config).unwrap();
    let partition = topic.partition(0).unwrap();
    for _ in 0..128 {
        let records = (0..1_000).map(|_| Record::new([7u8; 1_000]));
        broker.producer().send_all(&partition, records).unwrap().wait().unwrap();
    }
    broker.close().unwrap();
    drop(broker);
    let told = run_limited("under_a_limit_of_addresses", "true", dir.path());
    let used =
        told.split_once("VmSize:").unwrap().1.split_whitespace().next().unwrap().parse::<u64>().unwrap();
    let limit = format!("ulimit -v {}", used + (64 << 10));
    let told = run_limited("under_a_limit_of_addresses", &limit, dir.path());
    assert!(told.contains("READ 128000"), "{told}");
}

/// Run by the test before, once without a limit and once with one.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "only under a limit of addresses"]
fn under_a_limit_of_addresses() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmSize:")).unwrap());
    let dir = std::path::PathBuf::from(std::env::var_os("QUIPU_DIR").unwrap());
    let broker = BrokerConfig::new().clock(ManualClock::new()).tail_cache_bytes(0).open(dir).unwrap();
    let reader = broker.reader(["large"], Start::Beginning).unwrap();
    let read: usize = reader.to_end().map(|records| records.unwrap().len()).sum();
    println!("READ {read}");
}
