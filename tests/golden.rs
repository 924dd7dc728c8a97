//! Directories that format version 1 wrote once, good and damaged, open for ever and say what they said then.
//!
//! They are committed under `tests/golden/v1` and never written again: `QUIPU_WRITE_GOLDEN=1 cargo test --test golden` makes
//! those that are missing, for a new format feature.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, Durability, Error, Record, Start, Timestamp, TopicConfig,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

fn settings() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(42)
}

/// Everything that a directory says, as text: one line a record, and what opening reported.
fn describe(dir: &Path) -> String {
    let mut text = String::new();
    let broker = match settings().open(dir) {
        Ok(broker) => broker,
        Err(error) => return format!("{}\n", relative(&error, dir)),
    };
    let report = broker.open_report();
    writeln!(text, "clean {}", report.clean).unwrap();
    for cut in &report.cuts {
        let to = cut.to.map(|to| to.get());
        writeln!(
            text,
            "cut {}/{} from {} to {to:?}, {} bytes",
            cut.topic, cut.partition, cut.from, cut.bytes
        )
        .unwrap();
    }
    for (topic, partition, error) in &report.damaged {
        writeln!(text, "damaged {topic}/{partition}: {}", relative(error, dir)).unwrap();
    }
    for topic in broker.topics() {
        writeln!(text, "topic {} of {} partitions", topic.name(), topic.partition_count()).unwrap();
        for partition in topic.partitions() {
            describe_partition(&partition, dir, &mut text);
        }
    }
    for group in broker.groups().unwrap() {
        for at in broker.group(group.as_str()).unwrap().describe().unwrap().partitions {
            let committed = at.committed.map(|committed| (committed.offset.get(), committed.metadata));
            writeln!(text, "group {group}: {}/{} {committed:?}", at.topic, at.partition).unwrap();
        }
    }
    text
}

fn describe_partition(partition: &quipu::Partition, dir: &Path, text: &mut String) {
    let mut from = match partition.bounds() {
        Ok(bounds) => bounds.log_start,
        Err(error) => return writeln!(text, "{}", relative(&error, dir)).unwrap(),
    };
    loop {
        match partition.read(Start::At(from), 1 << 20) {
            Ok(records) => {
                let Some(last) = records.last() else { return };
                from = last.offset().plus(1);
                for r in &records {
                    let show = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
                    write!(
                        text,
                        "{} {} {:?} {:?}",
                        r.position(),
                        r.timestamp(),
                        show(r.key()),
                        show(r.value())
                    )
                    .unwrap();
                    for (name, value) in r.headers() {
                        write!(text, " {name}={:?}", show(value)).unwrap();
                    }
                    writeln!(text).unwrap();
                }
            }
            Err(error) => {
                writeln!(text, "{}", relative(&error, dir)).unwrap();
                match error {
                    Error::Corrupt(corruption) if corruption.resume.is_some() => {
                        from = corruption.resume.unwrap()
                    }
                    _ => return,
                }
            }
        }
    }
}

/// An error without the directory in it.
fn relative(error: &Error, dir: &Path) -> String {
    error.to_string().replace(&format!("{}/", dir.display()), "")
}

/// A broker with every feature of the format in it, on a simulated disk, still open.
fn fill(disk: &Disk) -> Broker {
    let broker = settings().on_disk(disk).unwrap();
    let small = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(400).index_interval_bytes(128);
    broker.create_topic("plain", small.clone().partitions(2).durability(Durability::Sync)).unwrap();
    broker.create_topic("packed", small.compression(Compression::Lz4)).unwrap();
    broker.create_topic("empty", TopicConfig::new().partitions(3)).unwrap();
    let producer = broker.producer();
    for i in 0..12 {
        let record = Record::new(format!("value {i}"))
            .key(format!("key {}", i % 4))
            .timestamp(Timestamp::from_millis(1000 - i));
        let record =
            if i % 3 == 0 { record.header("a", "1").null_header("b").header("a", "") } else { record };
        producer.send("plain", record).unwrap().wait().unwrap();
        let many = (0..5).map(|n| {
            Record::new(format!("packed {i} {n} {}", "z".repeat(60))).timestamp(Timestamp::from_millis(i))
        });
        producer.send_all("packed", many).unwrap().wait().unwrap();
    }
    producer
        .send("plain", Record::tombstone("key 1").timestamp(Timestamp::from_millis(7)))
        .unwrap()
        .wait()
        .unwrap();
    producer.send("plain", Record::null().timestamp(Timestamp::from_millis(8))).unwrap().wait().unwrap();
    producer
        .send("plain", Record::new("").key("").timestamp(Timestamp::from_millis(9)))
        .unwrap()
        .wait()
        .unwrap();
    broker
}

/// The last segment file of a partition.
fn last_segment(disk: &Disk, partition: &str) -> (PathBuf, u64) {
    let of_partition =
        |path: &Path| path.starts_with(partition) && path.extension().is_some_and(|e| e == "log");
    disk.files().into_iter().filter(|(path, _)| of_partition(path)).max().unwrap()
}

fn first_segment(disk: &Disk, partition: &str) -> (PathBuf, u64) {
    let of_partition =
        |path: &Path| path.starts_with(partition) && path.extension().is_some_and(|e| e == "log");
    disk.files().into_iter().filter(|(path, _)| of_partition(path)).min().unwrap()
}

/// A compacted log: batches with gaps, stamped tombstones, segments of a later generation, and a tail that was never cleaned.
fn fill_compacted(disk: &Disk) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(42).on_disk(disk).unwrap();
    let small = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(400).index_interval_bytes(128);
    let config = small
        .cleanup(Cleanup::Compact)
        .compression(Compression::Lz4)
        .min_compaction_lag(std::time::Duration::from_millis(1));
    broker.create_topic("table", config).unwrap();
    let at = Timestamp::from_millis;
    for i in 0..30 {
        let records = (0..3).map(|n| match (i + n) % 9 {
            0 => Record::tombstone(format!("key {n}")).timestamp(at(i)),
            _ => Record::new(format!("{i} {}", "z".repeat(40)))
                .key(format!("key {}", i * n % 7))
                .timestamp(at(i)),
        });
        broker.producer().send_all("table", records.collect::<Vec<_>>()).unwrap().wait().unwrap();
    }
    let partition = broker.topic("table").unwrap().partition(0).unwrap();
    clock.advance(std::time::Duration::from_secs(1));
    assert!(partition.compact().unwrap().is_some());
    broker.close().unwrap();
}

/// The disk of each golden directory.
fn make(name: &str) -> Disk {
    let disk = Disk::new();
    if name == "compacted" {
        fill_compacted(&disk);
        return disk;
    }
    let broker = fill(&disk);
    if name == "transaction" {
        let consumer =
            broker.consumer("readers").assign(&broker.topic("plain").unwrap().partitions()).unwrap();
        let mut transaction = broker.transaction();
        transaction.send("plain", Record::new("in both").timestamp(Timestamp::from_millis(20)));
        transaction.send("packed", Record::new("in both").timestamp(Timestamp::from_millis(20)));
        let done = quipu::Offsets::new().next(&"plain/0@2#0".parse().unwrap()).metadata("two done").clone();
        transaction.offsets(&consumer, done);
        transaction.commit().unwrap();
    }
    if name == "clean" || name == "corrupt-batch" || name == "corrupt-catalog" {
        broker.close().unwrap();
    } else {
        let stopped = disk.duplicate();
        drop(broker);
        stopped.crash(Survive::Everything);
        return damage(name, stopped);
    }
    damage(name, disk)
}

fn damage(name: &str, disk: Disk) -> Disk {
    match name {
        "torn" => {
            let (path, len) = last_segment(&disk, "topics/packed/0");
            disk.truncate(&path, len - 10).unwrap();
        }
        "corrupt-batch" => {
            let (path, _) = first_segment(&disk, "topics/packed/0");
            disk.flip_bit(&path, (96 + 100 + 20) * 8).unwrap();
        }
        "corrupt-synced" => {
            let (path, _) = first_segment(&disk, "topics/plain/0");
            disk.flip_bit(&path, (96 + 30) * 8).unwrap();
        }
        // The kill came between the journal and one of the segments.
        "transaction" => {
            let (path, len) = last_segment(&disk, "topics/packed/0");
            disk.truncate(&path, len - (100 + 13)).unwrap();
        }
        "corrupt-catalog" => disk.flip_bit("catalog", 100).unwrap(),
        _ => {}
    }
    disk
}

fn write_if_asked(name: &str) {
    let dir = golden(name);
    if dir.exists() || std::env::var_os("QUIPU_WRITE_GOLDEN").is_none() {
        return;
    }
    let disk = make(name);
    for (path, _) in disk.files() {
        let target = dir.join(&path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, disk.read(&path).unwrap()).unwrap();
    }
    fs::write(golden(&format!("{name}.txt")), describe(copy(name).path())).unwrap();
}

fn copy(name: &str) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_into(&entry.path(), &target)
            } else {
                fs::copy(entry.path(), target).map(|_| ()).unwrap()
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy_into(&golden(name), dir.path());
    dir
}

fn says_what_it_said(name: &str) {
    write_if_asked(name);
    let expected = fs::read_to_string(golden(&format!("{name}.txt"))).unwrap();
    assert_eq!(describe(copy(name).path()), expected, "{name}");
}

#[test]
fn a_cleanly_closed_directory() {
    says_what_it_said("clean");
}

#[test]
fn a_directory_whose_process_was_killed() {
    says_what_it_said("unclean");
}

#[test]
fn a_transaction_of_which_one_segment_has_nothing_and_a_commit_of_a_group() {
    says_what_it_said("transaction");
}

#[test]
fn a_torn_tail() {
    says_what_it_said("torn");
}

#[test]
fn a_flipped_bit_in_a_sealed_segment() {
    says_what_it_said("corrupt-batch");
}

#[test]
fn a_flipped_bit_in_what_later_batches_vouch_for() {
    says_what_it_said("corrupt-synced");
}

#[test]
fn a_flipped_bit_in_the_catalog() {
    says_what_it_said("corrupt-catalog");
}

#[test]
fn a_compacted_log() {
    says_what_it_said("compacted");
}
