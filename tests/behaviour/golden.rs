//! Directories that format version 2 wrote once, good and damaged, open for ever with the same
//! result.
//!
//! They are committed under `tests/golden/v2`, each with its dump beside it, and never written
//! again: `QUIPU_WRITE_GOLDEN=1 cargo test --test behaviour golden::` makes missing ones, for a new
//! feature of the format.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, Durability, Offset, ProducerConfig, Record, Timestamp,
    TopicConfig,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/v2").join(name)
}

fn settings() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(42)
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

/// A compacted log: batches with gaps, stamped tombstones, segments of a later generation, and a
/// tail that was never compacted.
fn fill_compacted(disk: &Disk) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(42).on_disk(disk).unwrap();
    let small = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(400).index_interval_bytes(128);
    let config = small
        .cleanup(Cleanup::Compact)
        .compression(Compression::Lz4)
        .min_compaction_lag(Duration::from_millis(1));
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
    clock.advance(Duration::from_secs(1));
    assert!(partition.compact().unwrap().is_some());
    broker.close().unwrap();
}

/// A log of streams, of which one was erased, with key indexes, and an idempotent producer.
fn fill_streams(disk: &Disk) {
    let broker = settings().on_disk(disk).unwrap();
    let config = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(400);
    let streams = broker.create_topic("accounts", config).unwrap();
    for i in 0..24 {
        let account = streams.stream(format!("account {}", i % 5)).unwrap();
        let event = Record::new(format!("event {i}")).timestamp(Timestamp::from_millis(i));
        account.append(account.version().unwrap(), [event]).unwrap();
    }
    streams.erase_stream("account 3").unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("outbox")).unwrap();
    broker.create_topic("rows", TopicConfig::new()).unwrap();
    for sequence in 1..=7 {
        let row = Record::new(format!("row {sequence}")).sequence(sequence);
        named.send("rows", row.timestamp(Timestamp::from_millis(5))).unwrap().wait().unwrap();
    }
    broker.close().unwrap();
}

/// More topics than a block of the disk describes, most of them never written to, with names that
/// file systems confuse.
fn fill_many_topics(disk: &Disk) {
    let broker = settings().on_disk(disk).unwrap();
    for i in 0..200 {
        broker.create_topic(&format!("topic-{i}"), TopicConfig::new().partitions(1 + i % 3)).unwrap();
    }
    let odd = ["Orders", "orders", "ORDERS", "foo.", "con", "nul.txt", "COM1", "a.b_c-D", &"LONG".repeat(60)];
    for name in odd {
        broker.create_topic(name, TopicConfig::new()).unwrap();
    }
    for name in odd.into_iter().chain(["topic-7", "topic-77"]) {
        let record = Record::new(format!("in {}", &name[..name.len().min(10)]));
        broker.producer().send(name, record.timestamp(Timestamp::from_millis(1))).unwrap().wait().unwrap();
    }
    broker.delete_topic("topic-77").unwrap();
    broker.alter_topic("topic-7", TopicConfig::new().partitions(5)).unwrap();
    broker.close().unwrap();
}

/// The process is killed two thirds of the way through `act`.
fn killed(act: fn(&Broker) -> quipu::Result<()>) -> Disk {
    let run = |disk: &Disk| {
        let broker = fill(disk);
        let before = disk.ops();
        let done = act(&broker);
        (broker, before, done)
    };
    let (before, after) = {
        let disk = Disk::new();
        let (_broker, before, done) = run(&disk);
        done.unwrap();
        (before, disk.ops())
    };
    let disk = Disk::new();
    disk.crash_at(before + 1 + (after - before) * 2 / 3);
    let (broker, _, done) = run(&disk);
    assert!(done.is_err(), "it was killed in the middle");
    drop(broker);
    disk.crash(Survive::Everything);
    disk
}

fn plain(broker: &Broker) -> quipu::Partition {
    broker.topic("plain").unwrap().partition(0).unwrap()
}

fn killed_in(phase: &str) -> Disk {
    killed(match phase {
        "first-write" => |broker| {
            broker.producer().send("empty", Record::new("first")).and_then(|sent| sent.wait()).map(drop)
        },
        "roll" => |broker| {
            let big = Record::new("b".repeat(370)).key("key 1").timestamp(Timestamp::from_millis(30));
            (0..3).try_for_each(|_| broker.producer().send("plain", big.clone())?.wait().map(drop))
        },
        "truncation" => |broker| plain(broker).truncate_to(Offset::new(2)),
        "deletion-of-records" => |broker| plain(broker).delete_records(Offset::new(6)).map(drop),
        "deletion-of-a-topic" => |broker| broker.delete_topic("packed"),
        "transaction" => |broker| {
            let mut transaction = broker.transaction();
            for topic in ["plain", "packed"] {
                transaction.send(topic, Record::new("in both").timestamp(Timestamp::from_millis(20)));
            }
            transaction.commit().map(drop)
        },
        "closing" => |broker| broker.close(),
        other => panic!("{other}"),
    })
}

const PHASES: [&str; 7] = [
    "first-write",
    "roll",
    "truncation",
    "deletion-of-records",
    "deletion-of-a-topic",
    "transaction",
    "closing",
];

/// The disk of each golden directory.
fn make(name: &str) -> Disk {
    if let Some(phase) = name.strip_prefix("killed-in-") {
        return killed_in(phase);
    }
    let disk = Disk::new();
    match name {
        "compacted" => fill_compacted(&disk),
        "streams" | "damaged-keys" | "damaged-producers" => fill_streams(&disk),
        "many-topics" => fill_many_topics(&disk),
        _ => {
            let broker = fill(&disk);
            if name.contains("transaction") || name == "damaged-journal" {
                let consumer =
                    broker.consumer("readers").assign(&broker.topic("plain").unwrap().partitions()).unwrap();
                let mut transaction = broker.transaction();
                transaction.send("plain", Record::new("in both").timestamp(Timestamp::from_millis(20)));
                transaction.send("packed", Record::new("in both").timestamp(Timestamp::from_millis(20)));
                let position: quipu::Position = "plain/0@2#0".parse().unwrap();
                let done = consumer.offsets_at([position]).metadata("two done").clone();
                transaction.offsets(&consumer, done);
                transaction.commit().unwrap();
            }
            if name == "power-loss" {
                broker.sync().unwrap();
            }
            if UNCLEAN.contains(&name) {
                let stopped = disk.duplicate();
                drop(broker);
                let lost = name == "power-loss";
                stopped.crash(if lost { Survive::Synced } else { Survive::Everything });
                return change(name, stopped);
            }
            broker.close().unwrap();
        }
    }
    change(name, disk)
}

/// Left by a process that was killed.
const UNCLEAN: [&str; 11] = [
    "unclean",
    "successors",
    "successors-gap",
    "power-loss",
    "torn",
    "torn-catalog",
    "transaction",
    "damaged-synced",
    "damaged-journal",
    "damaged-checkpoint",
    "unknown-batch-feature",
];

fn change(name: &str, disk: Disk) -> Disk {
    match name {
        "torn" => {
            let (path, len) = last_segment(&disk, "topics/packed/0");
            disk.truncate(&path, len - 10).unwrap();
        }
        "successors-gap" => {
            let second = with_ending(&disk, "topics/packed/0", "log").nth(1).unwrap();
            disk.remove(second.0).unwrap();
        }
        "torn-catalog" => {
            // Half of a change, as long as its magic and length.
            let len = disk.read("catalog").unwrap().len() as u64;
            disk.overwrite("catalog", len, b"QCHG\x20\0\0\0").unwrap();
        }
        "damaged-batch" => {
            let (path, _) = first_segment(&disk, "topics/packed/0");
            disk.flip_bit(&path, (128 + 104 + 20) * 8).unwrap();
        }
        "damaged-synced" => {
            let (path, _) = first_segment(&disk, "topics/plain/0");
            disk.flip_bit(&path, (128 + 30) * 8).unwrap();
        }
        "damaged-segment" => {
            let (path, _) = first_segment(&disk, "topics/packed/0");
            disk.flip_bit(&path, 60 * 8).unwrap();
        }
        // The kill came between the journal and one of the segments.
        "transaction" => {
            let (path, len) = last_segment(&disk, "topics/packed/0");
            disk.truncate(&path, len - (104 + 10)).unwrap();
        }
        "damaged-journal" => {
            // In the middle of its one record, which no later record proves durable.
            disk.flip_bit("journal", 40 * 8).unwrap();
        }
        "damaged-catalog" => disk.flip_bit("catalog", 100 * 8).unwrap(),
        "damaged-checkpoint" => disk.flip_bit("checkpoint", 22 * 8).unwrap(),
        "damaged-manifest" => disk.flip_bit("topics/plain/1/manifest", 75 * 8).unwrap(),
        "damaged-index" => {
            let (path, _) = with_ending(&disk, "topics/packed/0", "index").next().unwrap();
            disk.flip_bit(path, 80 * 8).unwrap();
        }
        "damaged-keys" => {
            let (path, _) = with_ending(&disk, "topics/accounts/0", "keys").next().unwrap();
            disk.flip_bit(path, 110 * 8).unwrap();
        }
        "damaged-producers" => disk.flip_bit("topics/rows/0/producers", 70 * 8).unwrap(),
        "missing-manifest" => disk.remove("topics/plain/1/manifest").unwrap(),
        "unknown-compatible" => {
            // A later release wrote the manifest: entries of four bytes more, and something after
            // the last of them.
            reseal(&disk, "topics/plain/0/manifest", |bytes| {
                bytes[16] |= 4;
                let u32_at = |bytes: &[u8], at: usize| {
                    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
                };
                let mut grown = bytes[..72].to_vec();
                let mut at = 72;
                for _ in 0..2 {
                    let (count, len) = (u32_at(bytes, at), u32_at(bytes, at + 4));
                    grown.extend(&bytes[at..at + 4]);
                    grown.extend((len as u32 + 4).to_le_bytes());
                    for entry in bytes[at + 8..at + 8 + count * len].chunks(len) {
                        grown.extend(entry);
                        grown.extend([1, 2, 3, 4]);
                    }
                    at += 8 + count * len;
                }
                grown.extend([9; 10]);
                *bytes = grown;
            });
        }
        "unknown-incompatible" => reseal(&disk, "topics/plain/0/manifest", |bytes| bytes[13] |= 1),
        "unknown-listed-feature" => reseal(&disk, "topics/packed/0/manifest", |bytes| bytes[60] |= 8),
        "newer-version" => disk.overwrite("topics/packed/0/manifest", 8, &3u32.to_le_bytes()).unwrap(),
        "newer-catalog" => disk.overwrite("catalog", 8, &3u32.to_le_bytes()).unwrap(),
        "unknown-batch-feature" => {
            // The last batch of the active segment, which would look like a torn tail.
            let (path, _) = last_segment(&disk, "topics/packed/0");
            let mut bytes = disk.read(&path).unwrap();
            let last = bytes.windows(4).rposition(|window| window == b"QBAT").unwrap();
            bytes[last + 61] |= 1;
            let seed = [&bytes[80..96], &bytes[24..40], &bytes[20..24], &bytes[last..last + 100]].concat();
            let crc = crc32fast::hash(&seed).to_le_bytes();
            bytes[last + 100..last + 104].copy_from_slice(&crc);
            disk.overwrite(&path, 0, &bytes).unwrap();
        }
        _ => {}
    }
    disk
}

/// Changes a whole file and gives it a checksum that fits.
fn reseal(disk: &Disk, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.read(path).unwrap();
    bytes.truncate(bytes.len() - 4);
    change(&mut bytes);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    disk.remove(path).unwrap();
    disk.write_new(path, &bytes).unwrap();
}

fn with_ending<'a>(disk: &Disk, dir: &'a str, ending: &'a str) -> impl Iterator<Item = (PathBuf, u64)> + 'a {
    let is_such = move |path: &Path| path.starts_with(dir) && path.extension().is_some_and(|e| e == ending);
    disk.files().into_iter().filter(move |(path, _)| is_such(path))
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
    fs::write(golden(&format!("{name}.txt")), crate::dump_dir::dump(copy(name).path())).unwrap();
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
    assert_eq!(crate::dump_dir::dump(copy(name).path()), expected, "{name}");
}

#[test]
fn good_directories() {
    ["clean", "compacted", "streams", "many-topics", "unknown-compatible"]
        .into_iter()
        .for_each(says_what_it_said);
}

#[test]
fn directories_of_processes_that_were_killed() {
    ["unclean", "power-loss", "transaction", "torn", "torn-catalog"].into_iter().for_each(says_what_it_said);
    PHASES.iter().for_each(|phase| says_what_it_said(&format!("killed-in-{phase}")));
}

/// Segments that no manifest lists, all of them, and without the second.
#[test]
fn directories_with_successors() {
    ["successors", "successors-gap"].into_iter().for_each(says_what_it_said);
    let manifest = fs::read(golden("successors/topics/packed/0/manifest")).unwrap();
    assert_eq!(manifest[12], 1, "it announces them");
    let names = fs::read_dir(golden("successors/topics/packed/0")).unwrap();
    let names = names.filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|e| e == "log"));
    assert!(names.count() > 2);
}

#[test]
fn directories_with_damage_in_each_file() {
    let files = ["catalog", "checkpoint", "manifest", "segment", "batch", "synced", "journal"];
    files.iter().for_each(|file| says_what_it_said(&format!("damaged-{file}")));
    says_what_it_said("missing-manifest");
}

#[test]
fn directories_with_damage_in_files_that_can_be_made_again() {
    for (file, good) in [("index", "clean"), ("keys", "streams"), ("producers", "streams")] {
        let name = format!("damaged-{file}");
        says_what_it_said(&name);
        let text = |name: &str| fs::read_to_string(golden(&format!("{name}.txt"))).unwrap();
        assert_eq!(text(&name), text(good), "nothing is missing");
    }
}

/// This release does not change files that it does not know.
#[test]
fn directories_of_other_versions_and_with_features_that_are_not_known() {
    for name in
        ["unknown-incompatible", "unknown-listed-feature", "newer-version", "newer-catalog", "version-1"]
    {
        says_what_it_said(name);
        let dir = copy(name);
        assert!(settings().open(dir.path()).is_err());
        assert!(same_files(dir.path(), &golden(name)), "{name}: nothing was changed");
    }
    says_what_it_said("unknown-batch-feature");
    let (name, dir) = ("unknown-batch-feature", copy("unknown-batch-feature"));
    let broker = settings().open(dir.path()).unwrap();
    let refused =
        broker.open_report().damaged.iter().map(|(of, error)| (of.topic.as_str(), of.partition.get(), error));
    let refused: Vec<_> = refused.collect();
    assert!(matches!(&refused[..], [("packed", 0, quipu::Error::UnsupportedFormat { .. })]), "{refused:?}");
    broker.close().unwrap();
    let packed = "topics/packed/0";
    assert!(
        same_files(&dir.path().join(packed), &golden(name).join(packed)),
        "nothing of the partition was changed"
    );
}

fn same_files(a: &Path, b: &Path) -> bool {
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    names(a) == names(b)
        && names(a).iter().all(|name| match a.join(name).is_dir() {
            true => same_files(&a.join(name), &b.join(name)),
            false => fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap(),
        })
}
