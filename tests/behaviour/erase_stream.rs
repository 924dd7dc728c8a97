//! Erasing a stream: its values are removed from every file, its versions continue, and no other
//! stream changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, ExpectedVersion, Record, Result, Start, Topic,
    TopicConfig, Version,
};

use crate::common::snapshot;

const SECRET: &str = "secret";

fn open(disk: &Disk) -> Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync).on_disk(disk)
}

fn topic(broker: &Broker, compression: Compression) -> Topic {
    let config = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700).compression(compression);
    broker.ensure_topic("people", config).unwrap()
}

/// Ten events of each of four streams, some appended in transactions; those of `person-1` say the
/// secret.
fn prepared(broker: &Broker, compression: Compression) -> Topic {
    let topic = topic(broker, compression);
    for n in 0..10 {
        let person = topic.stream("person-1").unwrap();
        let secret = Record::new(format!("{SECRET} {n}")).header("also", SECRET);
        let other = |key: &str| topic.stream(key).unwrap();
        let event = |key: &str| Record::new(format!("{key} {n} {}", "-".repeat(40)));
        if n % 3 == 0 {
            let mut transaction = broker.transaction();
            transaction.append(&other("person-2"), Version::new(n), [event("person-2")]);
            transaction.append(&person, Version::new(n), [secret]);
            transaction.append(&other("person-3"), Version::new(n), [event("person-3")]);
            transaction.send("log", Record::new("beside"));
            transaction.commit().unwrap();
        } else {
            other("person-2").append(Version::new(n), [event("person-2")]).unwrap();
            person.append(Version::new(n), [secret]).unwrap();
            other("person-3").append(Version::new(n), [event("person-3")]).unwrap();
        }
        other("person-4").append(Version::new(n), [event("person-4")]).unwrap();
    }
    topic
}

fn assert_others(topic: &Topic) {
    for key in ["person-2", "person-3", "person-4"] {
        let history = topic.stream(key).unwrap().load().unwrap();
        assert_eq!(history.version(), 10);
        for (n, event) in history.iter().enumerate() {
            let value = String::from_utf8(event.value().unwrap().to_vec()).unwrap();
            assert!(value.starts_with(&format!("{key} {n} ")), "{value}");
        }
    }
}

/// The number of events of the stream that still have a value.
fn left(topic: &Topic) -> usize {
    let history = topic.stream("person-1").unwrap().load().unwrap();
    assert!(history.version() >= Version::new(10));
    history.iter().filter(|event| event.value().is_some() || event.headers().count() > 0).count()
}

fn is_on(disk: &Disk) -> bool {
    snapshot(disk).values().any(|bytes| bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()))
}

#[test]
fn an_erased_streams_values_are_in_no_file() {
    for compression in [Compression::None, Compression::Lz4] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        broker.create_topic("log", TopicConfig::new()).unwrap();
        let topic = prepared(&broker, compression);
        assert!(is_on(&disk));
        let partition = topic.partition(0).unwrap();
        let before = partition.bounds().unwrap();
        let offsets: Vec<_> = topic
            .stream("person-1")
            .unwrap()
            .load()
            .unwrap()
            .iter()
            .map(|e| (e.offset(), e.timestamp()))
            .collect();
        let kept = topic.stream("person-1").unwrap().load().unwrap();

        assert_eq!(topic.erase_stream("person-1").unwrap(), 10);
        assert!(!is_on(&disk));
        assert_eq!(left(&topic), 0);
        assert_eq!(partition.bounds().unwrap(), before);
        let erased = topic.stream("person-1").unwrap().load().unwrap();
        assert!(erased.iter().all(|event| event.key() == Some(b"person-1") && event.value().is_none()));
        assert_eq!(erased.iter().map(|e| (e.offset(), e.timestamp())).collect::<Vec<_>>(), offsets);
        assert!(kept.iter().all(|event| event.value().unwrap().starts_with(SECRET.as_bytes())));
        assert_others(&topic);
        assert_eq!(topic.erase_stream("person-1").unwrap(), 0);
        assert_eq!(topic.erase_stream("absent").unwrap(), 0);

        // Truncated bytes stay after the logical end of a segment that has nothing else of the
        // stream.
        let end = partition.bounds().unwrap().log_end;
        topic.stream("person-2").unwrap().append(ExpectedVersion::Any, [Record::new("kept")]).unwrap();
        let cut_off = Record::new(format!("{SECRET} cut off"));
        topic.stream("person-1").unwrap().append(ExpectedVersion::Any, [cut_off]).unwrap();
        partition.truncate_to(end.plus(1)).unwrap();
        assert!(is_on(&disk));
        assert_eq!(topic.erase_stream("person-1").unwrap(), 0);
        assert!(!is_on(&disk));
        partition.truncate_to(end).unwrap();

        // Appends continue.
        let person = topic.stream("person-1").unwrap();
        assert!(matches!(
            person.append(Version::new(9), [Record::new("v")]),
            Err(Error::VersionConflict { current, .. }) if current == 10
        ));
        assert_eq!(person.append(Version::new(10), [Record::new("again")]).unwrap().version, 11);
        disk.crash(Survive::Synced);
        drop(broker);
        let broker = open(&disk).unwrap();
        let topic = broker.topic("people").unwrap();
        assert_eq!((left(&topic), is_on(&disk)), (1, false));
        assert_eq!(topic.stream("person-1").unwrap().version().unwrap(), 11);
        assert_eq!(topic.erase_stream("person-1").unwrap(), 1);
        assert_others(&topic);
    }
}

/// The file that was replaced is removed at the second attempt, or the call fails.
#[test]
fn an_erasure_that_could_not_remove_a_file_at_once_leaves_none() {
    for nth in 1..100 {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        broker.create_topic("log", TopicConfig::new()).unwrap();
        let topic = prepared(&broker, Compression::None);
        disk.fail(Op::Remove, nth, std::io::ErrorKind::Other);
        let before = disk.ops_of(Op::Remove);
        let erased = topic.erase_stream("person-1");
        if disk.ops_of(Op::Remove) - before < nth {
            assert!(erased.is_ok() && nth > 1, "{erased:?}");
            return;
        }
        assert!(erased.is_err() || !is_on(&disk), "removal {nth}");
    }
}

#[test]
fn a_crash_at_any_operation_leaves_each_segment_unchanged_or_erased_and_a_second_call_finishes() {
    let start = Disk::new();
    let broker = open(&start).unwrap();
    broker.create_topic("log", TopicConfig::new()).unwrap();
    prepared(&broker, Compression::None);
    broker.close().unwrap();
    drop(broker);
    let whole = start.duplicate();
    let broker = open(&whole).unwrap();
    broker.topic("people").unwrap().erase_stream("person-1").unwrap();
    let mut halfway = 0;
    for nth in 1..=whole.ops() {
        for survive in [Survive::Everything, Survive::Synced, Survive::Random(nth)] {
            let disk = start.duplicate();
            disk.crash_at(nth);
            let erased = open(&disk).and_then(|broker| broker.topic("people")?.erase_stream("person-1"));
            // Derived files may be missing, and nothing else.
            if erased.is_ok() {
                assert!(nth + 3 > whole.ops(), "crash at {nth} of {}", whole.ops());
            }
            disk.crash(survive);
            let broker = open(&disk).unwrap();
            let topic = broker.topic("people").unwrap();
            let before = left(&topic);
            assert_others(&topic);
            assert_eq!(topic.erase_stream("person-1").unwrap(), before as u64, "crash at {nth}");
            assert_eq!((left(&topic), is_on(&disk)), (0, false), "crash at {nth}");
            assert_others(&topic);
            halfway += usize::from(before > 0 && before < 10);
        }
    }
    assert!(halfway > 10, "{halfway}");
}

#[test]
fn a_failure_during_an_erasure_damages_no_other_stream() {
    let start = Disk::new();
    let broker = open(&start).unwrap();
    broker.create_topic("log", TopicConfig::new()).unwrap();
    prepared(&broker, Compression::None);
    broker.close().unwrap();
    drop(broker);
    let mut failed = 0;
    for op in [Op::Write, Op::Sync, Op::SyncDir, Op::OpenFile, Op::Rename] {
        for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
            for nth in 1.. {
                let disk = start.duplicate();
                let broker = open(&disk).unwrap();
                let topic = broker.topic("people").unwrap();
                disk.fail(op, nth, kind);
                let erased = topic.erase_stream("person-1");
                disk.clear_faults();
                if erased.is_ok() {
                    assert_eq!(left(&topic), 0);
                    break;
                }
                failed += 1;
                assert_others(&topic);
                topic.partition(0).unwrap().reopen().ok();
                disk.crash(Survive::Synced);
                drop(broker);
                let broker = open(&disk).unwrap();
                let topic = broker.topic("people").unwrap();
                assert_others(&topic);
                topic.erase_stream("person-1").unwrap();
                assert_eq!((left(&topic), is_on(&disk)), (0, false), "{op:?} {nth} {kind:?}");
            }
        }
    }
    assert!(failed > 50, "{failed}");
}

#[test]
fn appends_and_reads_continue_during_an_erasure() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("log", TopicConfig::new()).unwrap();
    let topic = prepared(&broker, Compression::None);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let appender = scope.spawn(|| {
            let stream = topic.stream("busy").unwrap();
            let mut version = 0;
            while !done.load(Ordering::SeqCst) || version < 100 {
                let receipt = stream.append(Version::new(version), [Record::new("x".repeat(100))]).unwrap();
                version = receipt.version.get();
                assert_eq!(stream.load().unwrap().len() as u64, version);
            }
            version
        });
        let reader = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                assert_others(&topic);
                let records = topic.partition(0).unwrap().read(Start::Beginning, 4 << 10).unwrap();
                assert!(records.iter().enumerate().all(|(at, record)| record.offset() == at as u64));
            }
        });
        for _ in 0..8 {
            let person = topic.stream("person-1").unwrap();
            person.append(ExpectedVersion::Any, [Record::new(SECRET)]).unwrap();
            assert!(topic.erase_stream("person-1").unwrap() >= 1);
            assert_eq!(left(&topic), 0);
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
        let version = appender.join().unwrap();
        assert_eq!(topic.stream("busy").unwrap().version().unwrap().get(), version);
    });
    assert!(!is_on(&disk));
    assert_others(&topic);
}

/// An erasure writes a file beside each that it replaces, and a truncation continues in one of its
/// own.
#[test]
fn a_truncation_never_takes_the_output_file_of_a_running_erasure() {
    for (op, to) in [(Op::SyncDir, 0), (Op::Sync, 0), (Op::OpenFile, 0), (Op::SyncDir, 2), (Op::OpenFile, 2)]
    {
        let case = format!("truncated to {to} while held at {op:?}");
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let config = || BrokerConfig::new().clock(clock.clone()).seed(1).durability(Durability::Sync);
        let broker = config().on_disk(&disk).unwrap();
        let topic = topic(&broker, Compression::None);
        let append = |topic: &Topic, key: &str, values: &[&str]| {
            let events = values.iter().map(|value| Record::new(value.to_string()));
            topic.stream(key).unwrap().append(ExpectedVersion::Any, events).unwrap()
        };
        append(&topic, "person-1", &["1", "2", "3"]);
        for n in 0..30 {
            append(&topic, &format!("other {n}"), &[&"x".repeat(60)]);
        }
        clock.advance(std::time::Duration::from_secs(8 * 24 * 3600));
        broker.maintain().unwrap();
        let partition = topic.partition(0).unwrap();
        let gate = disk.hold(op, 1);
        thread::scope(|scope| {
            let erasing = scope.spawn(|| topic.erase_stream("person-1"));
            gate.wait_until_reached();
            partition.truncate_to(to.into()).unwrap();
            drop(gate);
            let error = erasing.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::CompactionAborted { .. }), "{case}: {error:?}");
        });
        append(&topic, "person-1", &["again"]);
        append(&topic, "another", &["new"]);
        let check = |topic: &Topic| {
            let values = |key: &str| -> Vec<_> {
                let history = topic.stream(key).unwrap().load().unwrap();
                history.iter().map(|e| String::from_utf8(e.value().unwrap().to_vec()).unwrap()).collect()
            };
            let mut expected: Vec<_> = (1..=to).map(|n: u64| n.to_string()).collect();
            expected.push("again".to_string());
            assert_eq!(values("person-1"), expected, "{case}");
            assert_eq!(values("another"), ["new"], "{case}");
        };
        check(&topic);
        drop((partition, topic, broker));
        let broker = config().on_disk(&disk).unwrap();
        assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report());
        check(&broker.topic("people").unwrap());
    }
}

#[test]
fn only_streams_are_erased() {
    let broker = Broker::in_memory().unwrap();
    let plain = broker.create_topic("plain", TopicConfig::new()).unwrap();
    assert!(matches!(plain.erase_stream("k"), Err(Error::Streams { .. })));
}
