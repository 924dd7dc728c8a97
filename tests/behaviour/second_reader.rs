//! A second implementation of a reader, written from FORMAT.md alone, in the module `reader`. For
//! every golden directory, and for directories made here, its result equals that of this crate.

mod reader;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{BrokerConfig, Cleanup, Compression, Durability, Record, Timestamp, TopicConfig};

#[test]
fn the_second_reader_agrees_on_every_golden_directory() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/v2");
    let names = fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path());
    let mut compared = 0;
    for dir in names.filter(|path| path.is_dir()) {
        let expected = fs::read_to_string(dir.with_extension("txt")).unwrap();
        assert_same(&reader::dump(&dir), &expected, &dir.display().to_string());
        compared += 1;
    }
    assert!(compared >= 34, "{compared}");
}

/// Names the first line in which two dumps differ.
fn assert_same(reader: &str, expected: &str, case: &str) {
    let (mut ours, mut theirs) = (reader.lines(), expected.lines());
    for line in 1.. {
        match (ours.next(), theirs.next()) {
            (None, None) => break,
            (a, b) => assert_eq!(a, b, "{case}: line {line}, the reader's first"),
        }
    }
}

/// Writes the files of a disk into a directory.
fn lay_out(disk: &Disk) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, _) in disk.files() {
        let target: PathBuf = dir.path().join(&path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, disk.read(&path).unwrap()).unwrap();
    }
    dir
}

/// Works on two topics, in steps that depend on `seed`; some are refused, because the process may
/// be dead.
fn work(disk: &Disk, seed: u64) {
    let clock = ManualClock::new();
    let Ok(broker) = BrokerConfig::new().clock(clock.clone()).seed(seed).on_disk(disk) else { return };
    let small = TopicConfig::new().segment_bytes(2 << 10).max_record_bytes(600).index_interval_bytes(100);
    let durability = if seed.is_multiple_of(2) { Durability::Sync } else { Durability::Os };
    let table = small.clone().cleanup(Cleanup::Compact).compression(Compression::Lz4);
    let table = table.min_compaction_lag(Duration::from_millis(1)).durability(durability);
    let (Ok(a), Ok(b)) = (
        broker.ensure_topic("A.log", small.partitions(2).durability(durability)),
        broker.ensure_topic("table", table),
    ) else {
        return;
    };
    let producer = broker.producer();
    let mut random = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for step in 0..60 {
        let time = Timestamp::from_millis(1_000 + step);
        let record = |n: u64| {
            Record::new(format!("{seed} {step} {n} {}", "x".repeat(n as usize % 90)))
                .key(format!("key {}", n % 7))
                .timestamp(time)
        };
        let _ = match next(12) {
            0..=3 => {
                producer.send(&a, record(next(50)).header("step", "1")).and_then(|sent| sent.wait()).map(drop)
            }
            4..=6 => {
                let many: Vec<_> = (0..1 + next(40)).map(record).collect();
                producer.send_all(&b, many).and_then(|sent| sent.wait()).map(drop)
            }
            7 => {
                let mut transaction = broker.transaction();
                a.partitions().iter().for_each(|partition| {
                    transaction.send(partition, record(3));
                });
                transaction.send(&b, record(4));
                transaction.commit().map(drop)
            }
            8 => a
                .partition(0)
                .and_then(|p| p.truncate_to(p.bounds()?.log_end.get().saturating_sub(next(4)).into())),
            9 => a
                .partition(1)
                .and_then(|p| p.delete_records((p.bounds()?.visible_end.get() / 2).into()))
                .map(drop),
            10 => {
                clock.advance(Duration::from_secs(1));
                b.partition(0).and_then(|p| p.compact()).map(drop)
            }
            _ => broker.maintain(),
        };
    }
    if seed.is_multiple_of(3) {
        let _ = broker.close();
    }
}

/// The dump of a directory by this crate equals that by the reader.
#[test]
fn the_second_reader_agrees_on_directories_made_by_the_test() {
    let mut stopped = 0;
    for seed in 0..60_u64 {
        let disk = Disk::new();
        if !seed.is_multiple_of(3) {
            disk.crash_at(100 + seed * 37);
        }
        work(&disk, seed);
        let died = disk.ops();
        if !seed.is_multiple_of(3) {
            let survive = if seed % 3 == 1 { Survive::Everything } else { Survive::Random(seed) };
            disk.crash(survive);
            stopped += 1;
        }
        let dir = lay_out(&disk);
        let found = reader::dump(dir.path());
        assert_same(&found, &crate::dump_dir::dump(dir.path()), &format!("seed {seed}, {died} operations"));
    }
    assert!(stopped >= 30, "{stopped}");
}
