//! Key indexes are read, built and written while the log is cut: whichever comes first, what streams say afterwards is what
//! the log says, now and after opening again.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Error, ExpectedVersion, Offset, Partition, ReadMode, Record, Start, Stream, Topic,
    TopicConfig, Version,
};

const KEYS: u64 = 3;

fn config_of(mode: ReadMode) -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).read_mode(mode)
}

fn open(disk: &Disk) -> Broker {
    config_of(ReadMode::Map).on_disk(disk).unwrap()
}

fn topic(broker: &Broker) -> Topic {
    let config = TopicConfig::streams().segment_bytes(2 << 10).max_record_bytes(700);
    broker.ensure_topic("t", config).unwrap()
}

/// Appends batches of three events: two of one key, one of the next.
fn fill(broker: &Broker, partition: &Partition, batches: u64) {
    for n in 0..batches {
        let event = |m: u64, key: u64| {
            Record::new(format!("event {n} {m} {}", "x".repeat(40))).key(format!("k{}", key % KEYS))
        };
        let events = [event(0, n), event(1, n + 1), event(2, n)];
        broker.producer().send_all(partition, events).unwrap().wait().unwrap();
    }
}

/// The events of each key, as the log has them.
fn by_key(partition: &Partition) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut from = partition.bounds().unwrap().log_start;
    loop {
        let records = partition.read(Start::At(from), 64 << 10).unwrap();
        let Some(last) = records.last() else { return found };
        from = last.offset().plus(1);
        for record in &records {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let of_key: &mut Vec<String> = found.entry(text(record.key().unwrap())).or_default();
            of_key.push(text(record.value().unwrap()));
        }
    }
}

fn assert_streams(topic: &Topic, case: &str) {
    let found = by_key(&topic.partition(0).unwrap());
    for key in (0..KEYS).map(|n| format!("k{n}")) {
        let history = topic.stream(&key).unwrap().load().unwrap();
        let events: Vec<_> =
            history.iter().map(|e| String::from_utf8(e.value().unwrap().to_vec()).unwrap()).collect();
        assert_eq!(events, found.get(&key).cloned().unwrap_or_default(), "{case}: {key}");
        assert_eq!(history.version(), history.to_version(), "{case}: {key}");
    }
}

/// Something that reads or writes key indexes, held at one of its operations while something else is done. Answers whether
/// it came to that operation.
fn held(
    (broker, topic, disk): (&Broker, &Topic, &Disk),
    (op, nth): (Op, u64),
    looks: &(dyn Fn(&Broker, &Topic) + Sync),
    meanwhile: &(dyn Fn(&Partition) + Sync),
) -> bool {
    let partition = topic.partition(0).unwrap();
    let done = AtomicBool::new(false);
    let gate = disk.hold(op, nth);
    let reached = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            looks(broker, topic);
            done.store(true, Ordering::SeqCst);
        });
        while !gate.is_reached() && !done.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let reached = gate.is_reached();
        let other = scope.spawn(|| meanwhile(&partition));
        // Where what is held has a lock that the other needs, it is let go.
        for _ in 0..2_000 {
            if other.is_finished() {
                break;
            }
            thread::yield_now();
        }
        drop(gate);
        other.join().unwrap();
        looking.join().unwrap();
        reached
    });
    disk.clear_faults();
    reached
}

/// As [`held`], while the log is cut. Then it is appended to, indexed, closed and opened again.
fn held_while_cut(
    disk: &Disk,
    looks: &(dyn Fn(&Broker, &Topic) + Sync),
    cut: u64,
    (op, nth): (Op, u64),
) -> bool {
    let case = format!("{op:?} {nth}, cut at {cut}");
    let disk = disk.duplicate();
    let broker = open(&disk);
    let topic = topic(&broker);
    let partition = topic.partition(0).unwrap();
    let reached = held((&broker, &topic, &disk), (op, nth), looks, &|partition| {
        partition.truncate_to(Offset::new(cut)).unwrap();
    });
    assert_streams(&topic, &case);
    fill(&broker, &partition, 3);
    broker.maintain().unwrap();
    assert_streams(&topic, &format!("{case}, later"));
    broker.close().unwrap();
    let broker = open(&disk);
    assert_streams(&self::topic(&broker), &format!("{case}, opened again"));
    reached
}

const OPS: [Op; 7] = [Op::Read, Op::OpenFile, Op::Map, Op::Len, Op::Write, Op::Sync, Op::Remove];

fn sweep(disk: &Disk, cuts: &[u64], looks: &(dyn Fn(&Broker, &Topic) + Sync)) -> u64 {
    let mut cases = 0;
    for op in OPS {
        for &cut in cuts {
            let mut nth = 1;
            while held_while_cut(disk, looks, cut, (op, nth)) {
                (nth, cases) = (nth + 1, cases + 1);
            }
        }
    }
    cases
}

/// The active segment was written by an earlier run that was killed: its keys have to be looked up.
fn killed(batches: u64) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk);
    fill(&broker, &topic(&broker).partition(0).unwrap(), batches);
    disk.crash(Survive::Everything);
    disk
}

#[test]
fn a_cut_while_the_keys_of_a_segment_are_looked_up() {
    let cases = sweep(&killed(6), &[4, 9, 17], &|_, topic| {
        // An error would do as well: the segment it looked at may be gone.
        let _ = topic.stream("k0").unwrap().load();
    });
    assert!(cases > 10, "{cases}");
}

#[test]
fn a_cut_while_key_indexes_are_written() {
    let cases = sweep(&killed(40), &[10, 31, 60, 89, 100], &|broker, topic| {
        let _ = topic.stream("k1").unwrap().load();
        for n in 0..12 {
            // Refused, or cut off, if the cut comes first.
            let event = Record::new(format!("later {n} {}", "x".repeat(60))).key(format!("k{}", n % KEYS));
            let _ = broker.producer().send(topic, event).unwrap().wait();
        }
        let _ = broker.maintain();
    });
    assert!(cases > 50, "{cases}");
}

/// What is under way while the topic is deleted is answered with just that.
#[test]
fn a_topic_that_is_deleted_meanwhile_is_named_as_deleted() {
    type Look = fn(&Stream) -> quipu::Result<()>;
    let ways: [(&str, Look); 4] = [
        ("load", |stream| stream.load().map(|_| ())),
        ("version", |stream| stream.version().map(|_| ())),
        ("append", |stream| stream.append(ExpectedVersion::Any, [Record::new("v")]).map(|_| ())),
        ("reader", |stream| {
            let mut reader = stream.reader(Version::new(2))?;
            while !reader.poll(Duration::ZERO)?.is_empty() {}
            Ok(())
        }),
    ];
    let disk = killed(20);
    let (mut cases, mut deleted) = (0, 0);
    for (way, look) in ways {
        for op in OPS {
            for nth in 1.. {
                let disk = disk.duplicate();
                let broker = open(&disk);
                let topic = topic(&broker);
                let stream = topic.stream("k0").unwrap();
                let answer = Mutex::new(Ok(()));
                let looks = |_: &Broker, _: &Topic| *answer.lock().unwrap() = look(&stream);
                let deletes = |_: &Partition| broker.delete_topic("t").unwrap();
                let reached = held((&broker, &topic, &disk), (op, nth), &looks, &deletes);
                let answer = answer.into_inner().unwrap();
                deleted += u64::from(answer.is_err());
                let is_fine = matches!(answer, Ok(()) | Err(Error::TopicDeleted { .. }));
                assert!(is_fine, "{way}, {op:?} {nth}: {answer:?}");
                if !reached {
                    break;
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 20 && deleted > 5, "{cases} {deleted}");
}

/// Events come, the segment that they are in is sealed, and its table becomes a file, while a stream is being loaded.
#[test]
fn what_is_loaded_and_its_version_belong_together_whatever_comes_meanwhile() {
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let mut cases = 0;
        for op in OPS {
            for nth in 1.. {
                let disk = Disk::new();
                let broker = config_of(mode).on_disk(&disk).unwrap();
                let topic = topic(&broker);
                fill(&broker, &topic.partition(0).unwrap(), 30);
                broker.maintain().unwrap();
                broker.close().unwrap();
                let broker = config_of(mode).on_disk(&disk).unwrap();
                let topic = self::topic(&broker);
                let before = by_key(&topic.partition(0).unwrap());
                let loads = |_: &Broker, topic: &Topic| {
                    let history = topic.stream("k0").unwrap().load().unwrap();
                    assert_eq!(history.version(), history.to_version(), "{op:?} {nth}");
                    assert!(history.len() >= before["k0"].len());
                };
                let appends = |partition: &Partition| {
                    fill(&broker, partition, 30);
                    broker.maintain().unwrap();
                };
                if !held((&broker, &topic, &disk), (op, nth), &loads, &appends) {
                    break;
                }
                assert_streams(&topic, &format!("{op:?} {nth}"));
                cases += 1;
            }
        }
        assert!(cases > 10, "{cases}");
    }
}
