//! Key indexes are read, built and written while the log is truncated. In every order of the two
//! the streams agree with the log, before and after the next opening.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, ExpectedVersion, Offset, Partition, ReadMode, Record, Start,
    Stream, Topic, TopicConfig, Version,
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
            of_key.push(text(record.value().unwrap_or(b"<null>")));
        }
    }
}

fn assert_streams(topic: &Topic, case: &str) {
    let found = by_key(&topic.partition(0).unwrap());
    for key in (0..KEYS).map(|n| format!("k{n}")) {
        let history = topic.stream(&key).unwrap().load().unwrap();
        let events: Vec<_> = history
            .iter()
            .map(|e| String::from_utf8(e.value().unwrap_or(b"<null>").to_vec()).unwrap())
            .collect();
        assert_eq!(events, found.get(&key).cloned().unwrap_or_default(), "{case}: {key}");
        assert_eq!(history.version(), history.to_version(), "{case}: {key}");
    }
}

/// How a case went.
#[derive(Clone, Copy)]
struct Held {
    /// The held thread reached the operation.
    reached: bool,
    /// The other thread finished while it was held there.
    finished: bool,
}

/// A thread that waits for no lock ends in this time, on a busy machine too. Another one is let go
/// after it.
const LONG_ENOUGH: Duration = Duration::from_millis(30);

/// Something that reads or writes key indexes, held at one of its operations while something else
/// is done.
fn held(
    (broker, topic, disk): (&Broker, &Topic, &Disk),
    (op, nth): (Op, u64),
    looks: &(dyn Fn(&Broker, &Topic) + Sync),
    meanwhile: &(dyn Fn(&Partition) + Sync),
) -> Held {
    let partition = topic.partition(0).unwrap();
    let done = AtomicBool::new(false);
    let gate = disk.hold(op, nth);
    let held = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            looks(broker, topic);
            done.store(true, Ordering::SeqCst);
        });
        while !gate.is_reached() && !done.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let reached = gate.is_reached();
        let (ended, end) = mpsc::channel();
        let other = scope.spawn(move || {
            meanwhile(&partition);
            let _ = ended.send(());
        });
        // Where the held thread owns a lock that the other needs, it is released.
        let finished = end.recv_timeout(LONG_ENOUGH).is_ok() && reached && !done.load(Ordering::SeqCst);
        drop(gate);
        other.join().unwrap();
        looking.join().unwrap();
        Held { reached, finished }
    });
    disk.clear_faults();
    held
}

/// The operation of a sweep on each copy of a disk.
struct Sweep<'a> {
    disk: &'a Disk,
    config: fn() -> BrokerConfig,
    /// Before anything is held.
    begins: &'a dyn Fn(&Broker, &Topic, &Disk),
    looks: &'a (dyn Fn(&Broker, &Topic) + Sync),
}

/// As [`held`], while the log is truncated, or something else is done to it. Then it is appended
/// to, indexed, closed and opened again.
fn held_while(
    sweep: &Sweep<'_>,
    (way, meanwhile): (&str, &(dyn Fn(&Topic) + Sync)),
    (op, nth): (Op, u64),
) -> Held {
    let case = format!("{op:?} {nth}, {way}");
    let disk = sweep.disk.duplicate();
    let broker = (sweep.config)().on_disk(&disk).unwrap();
    let topic = topic(&broker);
    let partition = topic.partition(0).unwrap();
    (sweep.begins)(&broker, &topic, &disk);
    let held = held((&broker, &topic, &disk), (op, nth), sweep.looks, &|_| meanwhile(&topic));
    assert_streams(&topic, &case);
    fill(&broker, &partition, 3);
    broker.maintain().unwrap();
    assert_streams(&topic, &format!("{case}, later"));
    broker.close().unwrap();
    let broker = open(&disk);
    assert_streams(&self::topic(&broker), &format!("{case}, opened again"));
    held
}

const OPS: [Op; 7] = [Op::Read, Op::OpenFile, Op::Map, Op::Len, Op::Write, Op::Sync, Op::Remove];

/// Holds at each operation in turn. IMPORTANT: a sweep in which the other thread always waits for
/// the held one proves nothing, so a share of the cases is finished while it is.
fn sweep_with(sweep: &Sweep<'_>, way: &str, meanwhile: &(dyn Fn(&Topic) + Sync)) -> u64 {
    let (mut cases, mut finished) = (0, 0);
    for op in OPS {
        for nth in 1.. {
            let held = held_while(sweep, (way, meanwhile), (op, nth));
            if !held.reached {
                break;
            }
            (cases, finished) = (cases + 1, finished + u64::from(held.finished));
        }
    }
    assert!(finished * 5 >= cases, "{way}: {finished} of {cases}");
    cases
}

fn sweep_truncations(sweep: &Sweep<'_>, cuts: &[u64]) -> u64 {
    let cut_at = |cut: &u64| {
        sweep_with(sweep, &format!("cut at {cut}"), &|topic| {
            topic.partition(0).unwrap().truncate_to(Offset::new(*cut)).unwrap();
        })
    };
    cuts.iter().map(cut_at).sum()
}

fn sweep(disk: &Disk, cuts: &[u64], looks: &(dyn Fn(&Broker, &Topic) + Sync)) -> u64 {
    let config = || config_of(ReadMode::Map);
    sweep_truncations(&Sweep { disk, config, begins: &|_, _, _| (), looks }, cuts)
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
fn a_truncation_during_a_key_lookup() {
    let cases = sweep(&killed(6), &[4, 9, 17], &|_, topic| {
        // An error would do as well: the segment it looked at may be gone.
        let _ = topic.stream("k0").unwrap().load();
    });
    assert!(cases > 10, "{cases}");
}

/// Loads a stream, appends, and writes key indexes.
fn works(broker: &Broker, topic: &Topic) {
    let _ = topic.stream("k1").unwrap().load();
    for n in 0..12 {
        // Refused, or truncated, if the truncation comes first.
        let event = Record::new(format!("later {n} {}", "x".repeat(60))).key(format!("k{}", n % KEYS));
        let _ = broker.producer().send(topic, event).unwrap().wait();
    }
    let _ = broker.maintain();
}

#[test]
fn a_truncation_while_key_indexes_are_written() {
    let cases = sweep(&killed(40), &[10, 31, 60, 89, 100], &works);
    assert!(cases > 50, "{cases}");
}

#[test]
fn a_truncation_while_key_indexes_are_written_with_few_open_files() {
    let disk = killed(60);
    let config = || config_of(ReadMode::Map).max_open_files(8);
    let cases = sweep_truncations(
        &Sweep { disk: &disk, config, begins: &|_, _, _| (), looks: &works },
        &[31, 100, 170],
    );
    assert!(cases > 50, "{cases}");
}

#[test]
fn an_erasure_while_key_indexes_are_written() {
    let disk = killed(40);
    let config = || config_of(ReadMode::Map);
    // A held sync of what the kill has left would hold up each erasure.
    let begins: &dyn Fn(&Broker, &Topic, &Disk) = &|broker, _, _| broker.sync().unwrap();
    let sweep = Sweep { disk: &disk, config, begins, looks: &works };
    let cases = sweep_with(&sweep, "erased", &|topic| {
        // Gives up where something else changes the segments; again, it is done.
        while let Err(error) = topic.erase_stream("k0") {
            assert!(matches!(error, Error::CompactionAborted { .. }), "{error:?}");
        }
    });
    assert!(cases > 10, "{cases}");
}

/// Events were written and could not be synced: they are in the keys of their segment, were never
/// visible, and are truncated.
#[test]
fn a_reopen_that_truncates_invisible_records_during_stream_reads() {
    let disk = killed(20);
    let config = || config_of(ReadMode::Map).durability(Durability::Sync);
    let poisons = |broker: &Broker, topic: &Topic, disk: &Disk| {
        let partition = topic.partition(0).unwrap();
        let visible = partition.bounds().unwrap().visible_end;
        disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
        let event = Record::new("never visible").key("k0");
        broker.producer().send(&partition, event).unwrap().wait().unwrap_err();
        let bounds = partition.bounds().unwrap();
        assert_eq!((bounds.visible_end, bounds.log_end), (visible, visible.plus(1)));
    };
    let sweep = Sweep { disk: &disk, config, begins: &poisons, looks: &works };
    let cases = sweep_with(&sweep, "reopened", &|topic| topic.partition(0).unwrap().reopen().unwrap());
    assert!(cases > 10, "{cases}");
}

/// An operation that runs while the topic is deleted returns just that error.
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
                let reached = held((&broker, &topic, &disk), (op, nth), &looks, &deletes).reached;
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

/// Events come, the segment that they are in is sealed, and its table becomes a file, while a
/// stream is being loaded.
#[test]
fn loaded_events_match_their_version_under_concurrent_changes() {
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
                if !held((&broker, &topic, &disk), (op, nth), &loads, &appends).reached {
                    break;
                }
                assert_streams(&topic, &format!("{op:?} {nth}"));
                cases += 1;
            }
        }
        assert!(cases > 10, "{cases}");
    }
}
