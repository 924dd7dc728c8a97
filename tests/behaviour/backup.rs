//! A backup of a broker that is open: everything at one moment, while the broker works on.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, Durability, Error, ExpectedVersion, Offset, OffsetReset,
    Partition, ProducerConfig, Record, Retention, Start, TopicConfig,
};

use crate::common::{
    Random, assert_gapless, dump, fill, open, open_dir, read_from, send, small, snapshot, thorough, warnings,
};

fn all(_: quipu::stats::BackupProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A backup of a broker onto an empty disk.
fn backup(broker: &Broker) -> Disk {
    let disk = Disk::new();
    assert!(broker.backup_on_disk(&disk, all).unwrap().complete);
    disk
}

fn partition(broker: &Broker, topic: &str, config: TopicConfig) -> Partition {
    broker.ensure_topic(topic, config).unwrap().partition(0).unwrap()
}

/// Opens a backup, in which nothing may have to be repaired.
fn restored(disk: &Disk) -> Broker {
    let broker = open(disk).unwrap();
    let report = broker.open_report();
    assert!(report.clean && report.damaged.is_empty() && report.clamped.is_empty(), "{report:?}");
    assert_eq!(warnings(&broker), Vec::<String>::new());
    let found = disk.duplicate().verify(all_of_it).unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    broker
}

fn all_of_it(_: quipu::stats::VerifyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_backup_has_everything_and_the_broker_goes_on() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let plain = partition(&broker, "plain", small().partitions(2));
    let lz4 = partition(&broker, "lz4", small().compression(Compression::Lz4).durability(Durability::Sync));
    partition(&broker, "empty", small().partitions(3));
    fill(&broker, &plain, 40);
    fill(&broker, &lz4, 30);
    let mut consumer = broker.consumer("g").subscribe("plain").unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    consumer.commit(&records).unwrap();
    let committed = consumer.committed("plain", 0).unwrap();
    let before = dump(&broker).unwrap();

    let copy = Disk::new();
    let report = broker.backup_on_disk(&copy, all).unwrap();
    assert!(report.complete && report.bytes_copied > 0, "{report:?}");
    assert_eq!(report.bytes_linked, 0, "a simulated disk has no links");
    assert!(report.ends.iter().any(|end| end.topic == *"plain" && end.offset == 40), "{report:?}");
    fill(&broker, &plain, 60);

    let copied = restored(&copy);
    assert_eq!(dump(&copied).unwrap(), before);
    assert_eq!(copied.topic("empty").unwrap().partitions().len(), 3);
    assert_eq!(copied.topic("lz4").unwrap().config(), broker.topic("lz4").unwrap().config());
    let mut resumed = copied.consumer("g").subscribe("plain").unwrap();
    assert!(resumed.poll(Duration::ZERO).unwrap().is_empty(), "everything was committed");
    assert_eq!(resumed.committed("plain", 0).unwrap(), committed);
    // Both go on, each for itself.
    let at = copied.topic("plain").unwrap().partition(0).unwrap();
    assert_eq!(send(&copied, &at, "of the copy").unwrap().offset, 40);
    assert_eq!(plain.bounds().unwrap().log_end, 60);
    copied.close().unwrap();
    assert_gapless(&dump(&open(&copy).unwrap()).unwrap());
}

#[test]
fn a_position_after_the_backup_is_refused_by_what_is_restored_from_it() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let of = partition(&broker, "t", small());
    fill(&broker, &of, 10);
    let copy = backup(&broker);
    fill(&broker, &of, 12);
    let later = of.read(Start::At(11.into()), 1 << 10).unwrap().iter().next().unwrap().position();
    let earlier = of.read(Start::At(5.into()), 1 << 10).unwrap().iter().next().unwrap().position();

    let copied = restored(&copy);
    let at = copied.topic("t").unwrap().partition(0).unwrap();
    (0..5).for_each(|_| drop(send(&copied, &at, "another record").unwrap()));
    let group =
        copied.consumer("g").offset_reset(OffsetReset::Fail).assign(std::slice::from_ref(&at)).unwrap();
    let error = group.commit(group.offsets_at([&later])).unwrap_err();
    assert!(
        error.to_string().ends_with("t/0 at offset 11: the partition was truncated to offset 10"),
        "{error}"
    );
    group.commit(group.offsets_at([&earlier])).unwrap();
}

#[test]
fn sequences_versions_and_groups_are_those_of_the_moment() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let rows = partition(&broker, "rows", small());
    let streams = broker
        .ensure_topic("s", TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700))
        .unwrap();
    let import = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
    for sequence in 1..=20 {
        import.send(&rows, Record::new("row").sequence(sequence)).unwrap().wait().unwrap();
    }
    for n in 0..30 {
        let key = format!("k{}", n % 3);
        streams.stream(&key).unwrap().append(ExpectedVersion::Any, Record::new(format!("{n}"))).unwrap();
    }
    // The records are gone, and the sequences stay known.
    rows.delete_records(Offset::new(15)).unwrap();
    let copy = backup(&broker);
    for sequence in 21..=40 {
        import.send(&rows, Record::new("row").sequence(sequence)).unwrap().wait().unwrap();
    }

    let copied = restored(&copy);
    let again = copied.producer_with(ProducerConfig::new().name("import")).unwrap();
    let to = copied.topic("rows").unwrap().partition(0).unwrap();
    for (sequence, offset) in [(20, 19), (18, 17)] {
        let receipt = again.send(&to, Record::new("row").sequence(sequence)).unwrap().wait().unwrap();
        assert_eq!(receipt.offset, offset, "a duplicate");
    }
    assert_eq!(again.send(&to, Record::new("new").sequence(21)).unwrap().wait().unwrap().offset, 20);
    let stream = copied.topic("s").unwrap().stream("k1").unwrap();
    assert_eq!(stream.load().unwrap().len(), 10);
    stream.append(stream.version().unwrap(), Record::new("next")).unwrap();
}

#[test]
fn a_second_backup_into_the_directory_copies_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (data, to) = (dir.path().join("data"), dir.path().join("to"));
    let broker = open_dir(&data).unwrap();
    let of = partition(&broker, "t", small());
    let gone = partition(&broker, "gone", small());
    fill(&broker, &of, 50);
    fill(&broker, &gone, 5);
    let first = broker.backup(&to, all).unwrap();
    assert!(first.complete && first.bytes_kept == 0, "{first:?}");
    fill(&broker, &of, 90);
    of.delete_records(Offset::new(20)).unwrap();
    broker.delete_topic("gone").unwrap();
    let second = broker.backup(&to, all).unwrap();
    assert!(second.bytes_kept > 0 && second.bytes_copied <= 1 << 10, "{second:?}");
    #[cfg(unix)]
    {
        assert!(first.bytes_linked > 0 && second.bytes_linked > 0, "{first:?}, {second:?}");
        assert!(first.bytes_copied <= 2 << 10, "{first:?}");
    }
    let before = dump(&broker).unwrap();
    // The files that both have are never written by either.
    let at = Disk::load(&to).unwrap();
    let copied = restored(&at);
    assert_eq!(dump(&copied).unwrap(), before);
    let copied = open_dir(&to).unwrap();
    let of_copy = copied.topic("t").unwrap().partition(0).unwrap();
    fill(&copied, &of_copy, 200);
    copied.maintain().unwrap();
    copied.close().unwrap();
    assert_eq!(dump(&broker).unwrap(), before);
    broker.close().unwrap();
    assert!(Broker::verify(&data, all_of_it).unwrap().is_whole());
    // It has records of its own now.
    let broker = open_dir(&data).unwrap();
    let error = broker.backup(&to, all).unwrap_err();
    assert!(matches!(error, Error::NotABackup { .. }), "{error}");
    assert_eq!(dump(&open_dir(&to).unwrap()).unwrap()[&("t".to_string(), 0)].len(), 180);
}

#[test]
fn looking_into_a_backup_leaves_it_one() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let of = partition(&broker, "t", small().partitions(2));
    fill(&broker, &of, 20);
    let copy = backup(&broker);
    let before = snapshot(&copy);
    let copied = restored(&copy);
    assert_eq!(dump(&copied).unwrap(), dump(&broker).unwrap());
    copied.close().unwrap();
    let after = snapshot(&copy);
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, bytes)| after.get(*path) != Some(*bytes))
        .map(|(path, _)| path)
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert!(broker.backup_on_disk(&copy, all).unwrap().complete);
}

#[test]
fn a_directory_that_is_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open_dir(&dir.path().join("data")).unwrap();
    fill(&broker, &partition(&broker, "t", small()), 5);
    let other = dir.path().join("other");
    open_dir(&other).unwrap().close().unwrap();
    let error = broker.backup(&other, all).unwrap_err();
    assert!(matches!(&error, Error::NotABackup { path, .. } if *path == other), "{error}");
    open_dir(&other).unwrap().close().unwrap();
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("mine"), "mine").unwrap();
    let error = broker.backup(&foreign, all).unwrap_err();
    assert!(matches!(&error, Error::ForeignDirectory { found, .. } if found == "mine"), "{error}");
    let error = broker.backup(dir.path().join("data"), all).unwrap_err();
    assert!(matches!(&error, Error::AlreadyOpen { .. }), "{error}");
    let to = dir.path().join("to");
    let nested = broker.backup(&to, |_| {
        let error = broker.backup(&to, all).unwrap_err();
        assert!(matches!(&error, Error::AlreadyOpen { .. }), "{error}");
        ControlFlow::Continue(())
    });
    assert!(nested.unwrap().complete);
}

#[test]
fn a_backup_that_was_ended_is_refused_until_another_one_finishes_it() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    fill(&broker, &partition(&broker, "t", small()), 50);
    let before = dump(&broker).unwrap();
    let (copy, mut calls) = (Disk::new(), 0);
    let report = broker.backup_on_disk(&copy, |at| {
        calls += 1;
        assert!(at.done <= at.total, "{at:?}");
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(!report.unwrap().complete);
    let error = open(&copy).unwrap_err();
    assert!(matches!(error, Error::BackupUnfinished { .. }), "{error}");
    assert!(broker.backup_on_disk(&copy, all).unwrap().complete);
    assert_eq!(dump(&restored(&copy)).unwrap(), before);
}

#[test]
fn calls_that_would_wait_for_the_backup_are_refused_inside_it() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let of = partition(&broker, "t", small());
    let streams = broker
        .ensure_topic("s", TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700))
        .unwrap();
    streams.stream("k").unwrap().append(ExpectedVersion::Empty, Record::new("event")).unwrap();
    fill(&broker, &of, 50);
    let mut calls = 0;
    let copy = Disk::new();
    let report = broker.backup_on_disk(&copy, |_| {
        calls += 1;
        for refused in [broker.delete_topic("t"), streams.erase_stream("k").map(drop)] {
            assert!(matches!(refused, Err(Error::BackupRunning { .. })), "{refused:?}");
        }
        // Everything else continues: the files of segments that are removed stay until the end.
        broker.create_topic(&format!("new-{calls}"), small()).unwrap();
        of.delete_records(Offset::new(40)).unwrap();
        of.truncate_to(Offset::new(45)).unwrap();
        fill(&broker, &of, 60);
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().complete && calls > 3, "{calls}");
    let copied = restored(&copy);
    assert_eq!(read_from(&copied.topic("t").unwrap().partition(0).unwrap(), Start::Beginning).len(), 50);
    let logs = disk.files().into_iter().filter(|(path, _)| path.starts_with("topics/t"));
    assert!(logs.count() < 15, "the files of removed segments are removed");
    broker.delete_topic("t").unwrap();
    // Closing inside one ends it.
    let unfinished = Disk::new();
    let closed = broker.backup_on_disk(&unfinished, |_| {
        broker.close().unwrap();
        ControlFlow::Continue(())
    });
    assert!(matches!(closed, Err(Error::Closed)), "{closed:?}");
    assert!(matches!(open(&unfinished), Err(Error::BackupUnfinished { .. })));
}

/// The directory that is copied into dies at each operation, with and without an older backup.
#[test]
fn a_backup_that_is_interrupted_anywhere_says_so() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let of = partition(&broker, "t", small());
    fill(&broker, &of, 20);
    let older = backup(&broker);
    fill(&broker, &of, 30);
    let now = dump(&broker).unwrap();
    let (mut unfinished, mut finished, mut as_before) = (0, 0, 0);
    for start in [Disk::new(), older] {
        let count = start.duplicate();
        let before = count.ops();
        broker.backup_on_disk(&count, all).unwrap();
        let ops = count.ops() - before;
        assert!(ops > 30, "{ops}");
        for nth in 1..=ops {
            for (way, survive) in
                [Survive::Everything, Survive::Synced, Survive::Random(nth)].into_iter().enumerate()
            {
                let copy = start.duplicate();
                copy.crash_at(nth);
                let made = broker.backup_on_disk(&copy, all);
                copy.crash(survive);
                let case = format!("operation {nth} of {ops}, way {way}");
                match open(&copy.duplicate()) {
                    Err(Error::BackupUnfinished { .. }) => unfinished += 1,
                    Err(error) => panic!("{case}: {error}"),
                    Ok(copied) if copied.topics().is_empty() => as_before += 1,
                    Ok(copied) if dump(&copied).unwrap() == now => finished += 1,
                    Ok(copied) => {
                        assert_eq!(
                            dump(&copied).unwrap().values().map(Vec::len).sum::<usize>(),
                            20,
                            "{case}"
                        );
                        as_before += 1;
                    }
                }
                assert!(made.is_err() || open(&copy.duplicate()).is_ok(), "{case}: finished, and lost");
                assert!(broker.backup_on_disk(&copy, all).unwrap().complete, "{case}");
                assert_eq!(dump(&restored(&copy)).unwrap(), now, "{case}");
            }
        }
    }
    assert!(unfinished > 50 && finished > 1 && as_before > 3, "{unfinished} {finished} {as_before}");
}

/// The record with number n of a thread names the last one that it had sent before, to the other
/// partition. A transaction sends one record to both.
#[test]
fn backups_under_load_are_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let broker = BrokerConfig::new().seed(1).open(dir.path().join("data")).unwrap();
    let config = TopicConfig::new().segment_bytes(16 << 10).max_record_bytes(8 << 10);
    let chained = broker.ensure_topic("chained", config.clone().partitions(2)).unwrap();
    let both = broker.ensure_topic("both", config.clone().partitions(2)).unwrap();
    let table = config.clone().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.1);
    let table = broker.ensure_topic("table", table).unwrap();
    let short = config.retention(Retention::for_bytes(64 << 10));
    let short = broker.ensure_topic("short", short).unwrap();
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let rounds = if thorough() { 200 } else { 12 };
    // The threads write so many records each while a backup is made, and then wait for the next one.
    let limit = AtomicU64::new(50);
    let is_done = |n: u64| {
        while n >= limit.load(Ordering::Relaxed) && !done.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        done.load(Ordering::Relaxed)
    };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (broker, chained, written, is_done) = (&broker, &chained, &written, &is_done);
            scope.spawn(move || {
                let partitions = chained.partitions();
                for n in 0u64.. {
                    let to = &partitions[n as usize % 2];
                    broker.producer().send(to, Record::new(format!("{thread} {n}"))).unwrap().wait().unwrap();
                    written.fetch_add(1, Ordering::Relaxed);
                    if is_done(n) {
                        break;
                    }
                }
            });
        }
        for thread in 0..2 {
            let (broker, both, is_done) = (&broker, &both, &is_done);
            scope.spawn(move || {
                for n in 0u64.. {
                    let mut transaction = broker.transaction();
                    for partition in both.partitions() {
                        transaction.send(&partition, Record::new(format!("{thread} {n}")));
                    }
                    transaction.commit().unwrap();
                    if is_done(n) {
                        break;
                    }
                }
            });
        }
        let (broker_of, table, short, is_done) = (&broker, &table, &short, &is_done);
        scope.spawn(move || {
            for n in 0u64.. {
                let key = format!("k{}", n % 50);
                broker_of
                    .producer()
                    .send(table, Record::new(n.to_string()).key(key))
                    .unwrap()
                    .wait()
                    .unwrap();
                broker_of.producer().send(short, Record::new("x".repeat(200))).unwrap().wait().unwrap();
                if n % 60 == 0 {
                    broker_of.maintain().unwrap();
                }
                if is_done(n) {
                    break;
                }
            }
        });
        let (mut kept, mut random) = (0, Random(1));
        for round in 0..rounds {
            limit.fetch_add(100, Ordering::Relaxed);
            let sent = written.load(Ordering::Relaxed);
            let to =
                dir.path().join(if random.below(3) == 0 { format!("to-{round}") } else { "to".to_string() });
            let report = broker.backup(&to, all).unwrap();
            kept += report.bytes_kept;
            check(&to, sent, &format!("backup {round}"));
            if to != dir.path().join("to") {
                fs::remove_dir_all(&to).unwrap();
            }
        }
        assert!(kept > 0);
        done.store(true, Ordering::Relaxed);
    });
    broker.close().unwrap();
    assert!(Broker::verify(dir.path().join("data"), all_of_it).unwrap().is_whole());
}

/// A backup is whole, and of one moment after the `sent`-th chained record.
fn check(dir: &Path, sent: u64, case: &str) {
    let copied = BrokerConfig::new().clock(ManualClock::new()).on_disk(&Disk::load(dir).unwrap()).unwrap();
    let report = copied.open_report();
    assert!(report.clean && report.damaged.is_empty() && report.warnings.is_empty(), "{case}: {report:?}");
    let values = |topic: &str| {
        let mut of_thread: BTreeMap<String, Vec<Vec<u64>>> = BTreeMap::new();
        for (at, partition) in copied.topic(topic).unwrap().partitions().iter().enumerate() {
            for value in read_from(partition, Start::Beginning).values() {
                let (thread, n) = value.split_once(' ').unwrap();
                let numbers = of_thread.entry(thread.to_string()).or_insert_with(|| vec![Vec::new(); 2]);
                numbers[at].push(n.parse().unwrap());
            }
        }
        of_thread
    };
    let mut found = 0;
    for (thread, numbers) in values("chained") {
        let mut all = numbers.concat();
        all.sort_unstable();
        assert!(
            all.iter().copied().eq(0..all.len() as u64),
            "{case}: a later record of thread {thread} without an earlier one"
        );
        found += all.len() as u64;
    }
    assert!(found >= sent, "{case}: {found} of {sent} acknowledged records");
    for (thread, numbers) in values("both") {
        assert_eq!(numbers[0], numbers[1], "{case}: a part of a transaction of thread {thread}");
    }
    let mut last = BTreeMap::new();
    for record in
        &copied.topic("table").unwrap().partition(0).unwrap().read(Start::Beginning, 1 << 30).unwrap()
    {
        last.insert(record.key().unwrap().to_vec(), record.value_str().unwrap().parse::<u64>().unwrap());
    }
    let newest = last.values().max().copied().unwrap_or_default();
    for (key, number) in &last {
        assert!(number + 50 > newest, "{case}: {key:?} has {number} of {newest}");
    }
}
