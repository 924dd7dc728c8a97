//! Streams against a model: eight threads append with right and wrong expected versions, and now
//! and then the machine stops. Every success is at its version, without a gap; every conflict is
//! real; every acknowledged event is there afterwards.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, ExpectedVersion, Record, Stream, Topic,
    TopicConfig, Version,
};

use crate::common::{Random, thorough};

const KEYS: u64 = 10;
const THREADS: u64 = 8;

/// The results that the threads got: of each stream, by the version after it, the values of an
/// append.
type Told = BTreeMap<String, BTreeMap<u64, Vec<String>>>;

fn open(disk: &Disk, durability: Durability) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(durability).on_disk(disk).unwrap()
}

fn topic(broker: &Broker, compression: Compression) -> Topic {
    let config = TopicConfig::streams().partitions(3).compression(compression);
    broker.ensure_topic("t", config.segment_bytes(2 << 10).max_record_bytes(700)).unwrap()
}

fn values(stream: &Stream, from: u64) -> Vec<String> {
    let history = stream.load_from(Version::new(from)).unwrap();
    assert_eq!(history.to_version(), history.version());
    history.iter().map(|event| String::from_utf8(event.value().unwrap().to_vec()).unwrap()).collect()
}

/// One append with an expectation that may be right. Returns whether the disk still does what it
/// is reported.
fn step(broker: &Broker, topic: &Topic, random: &mut Random, name: &str, told: &Mutex<Told>) -> bool {
    let key = format!("stream-{}", random.below(KEYS));
    let stream = topic.stream(&key).unwrap();
    let Ok(before) = stream.version() else { return false };
    let expected = match random.below(8) {
        0 => ExpectedVersion::Any,
        1 => ExpectedVersion::Exists,
        2 => ExpectedVersion::Empty,
        3 => Version::new(before.get() + 1 + random.below(3)).into(),
        4 => Version::new(before.get().saturating_sub(1 + random.below(3))).into(),
        _ => before.into(),
    };
    let events: Vec<String> = (0..1 + random.below(3)).map(|n| format!("{name} {n}")).collect();
    let done = match random.below(3) {
        0 => {
            // Together with one to another stream, whatever that is at.
            let other = format!("stream-{}", random.below(KEYS));
            let beside = topic.stream(&other).unwrap();
            let mut transaction = broker.transaction();
            transaction.append(&stream, expected, events.iter().map(Record::new));
            if other != key {
                transaction.append(&beside, ExpectedVersion::Any, [Record::new(format!("{name} beside"))]);
            }
            transaction.commit().map(|_| None)
        }
        _ => stream.append(expected, events.iter().map(Record::new)).map(|receipt| Some(receipt.version)),
    };
    if let Ok(history) = stream.load() {
        // Appended to, rolled and indexed by others meanwhile.
        assert_eq!(history.version(), history.to_version());
    }
    match done {
        Ok(version) => {
            // A transaction does not return the version; the events hold it, later.
            if let Some(version) = version {
                assert!(expected.holds(Version::new(version.get() - events.len() as u64)));
                told.lock().unwrap().entry(key).or_default().insert(version.get(), events);
            }
            true
        }
        Err(Error::VersionConflict { current, expected: found, .. }) => {
            assert_eq!(found, expected);
            assert!(!expected.holds(current), "{expected} at {current} is no conflict");
            let now = stream.version();
            assert!(now.is_err() || now.unwrap() >= current, "what it is about can be loaded");
            true
        }
        Err(_) => false,
    }
}

/// Eight threads, each `steps` steps or until the disk stops.
fn run(broker: &Broker, topic: &Topic, steps: u64, seed: u64, told: &Mutex<Told>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|n| {
                let (broker, topic) = (broker.clone(), topic.clone());
                scope.spawn(move || {
                    let mut random = Random(seed << 8 | n);
                    for step_number in 0..steps {
                        if !step(&broker, &topic, &mut random, &format!("{seed} {n} {step_number}"), told) {
                            break;
                        }
                    }
                })
            })
            .collect();
        // Indexes are written meanwhile.
        let (broker, done) = (broker.clone(), &done);
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) && broker.maintain().is_ok() {
                thread::yield_now();
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::SeqCst);
    });
}

/// Every acknowledged append is there, and every append is whole. Returns the events.
fn assert_told(topic: &Topic, told: &Told) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for n in 0..KEYS {
        let key = format!("stream-{n}");
        let stream = topic.stream(&key).unwrap();
        let events = values(&stream, 0);
        for (version, appended) in told.get(&key).into_iter().flatten() {
            let upto = *version as usize;
            assert_eq!(events.get(upto - appended.len()..upto), Some(&appended[..]), "{key} at {version}");
        }
        let mut at = 0;
        while at < events.len() {
            // "seed thread step n": an append's events are numbered and follow each other.
            let (name, number) = events[at].rsplit_once(' ').unwrap();
            assert!(number == "0" || number == "beside", "{key}: {} begins in the middle", events[at]);
            let same = |event: &&String| event.rsplit_once(' ').unwrap().0 == name;
            let len = events[at..].iter().take_while(same).count();
            for (n, event) in events[at..at + len].iter().enumerate() {
                assert!(event.ends_with(&format!(" {n}")) || number == "beside", "{key}: {event}");
            }
            at += len;
        }
        let half = events.len() / 2;
        assert_eq!(values(&stream, half as u64), events[half..]);
        all.insert(key, events);
    }
    all
}

#[test]
fn eight_threads_agree_on_every_version() {
    for (seed, compression) in [(1, Compression::None), (2, Compression::Lz4)] {
        let disk = Disk::new();
        let mut told = Mutex::new(Told::new());
        let mut before = BTreeMap::new();
        for round in 0..if thorough() { 12 } else { 4 } {
            let broker = open(&disk, Durability::Os);
            let topic = topic(&broker, compression);
            if round > 0 {
                assert_eq!(assert_told(&topic, told.get_mut().unwrap()), before, "nothing is lost");
            }
            run(&broker, &topic, 150, seed * 100 + round, &told);
            before = assert_told(&topic, told.get_mut().unwrap());
            // Once in a while properly.
            if round % 3 == 2 {
                broker.close().unwrap();
            } else {
                disk.crash(Survive::Everything);
            }
        }
        let versions: usize = before.values().map(Vec::len).sum();
        assert!(versions > 1_500, "{versions}");
    }
}

#[test]
fn results_of_eight_threads_survive_a_crash_at_any_moment() {
    let mut random = Random(9);
    let mut stopped = 0;
    for case in 0..if thorough() { 400 } else { 40 } {
        let (durability, survive) = match case % 4 {
            0 => (Durability::Os, Survive::Everything),
            1 => (Durability::Sync, Survive::Synced),
            2 => (Durability::Sync, Survive::Random(case)),
            _ => (Durability::Sync, Survive::Zeroed(case)),
        };
        let disk = Disk::new();
        let mut told = Mutex::new(Told::new());
        for round in 0..3 {
            let broker = open(&disk, durability);
            let topic = topic(&broker, Compression::None);
            assert_told(&topic, told.get_mut().unwrap());
            disk.crash_at(1 + random.below(400));
            run(&broker, &topic, 60, case * 10 + round, &told);
            stopped += usize::from(broker.sync().is_err());
            disk.crash(survive);
        }
        let broker = open(&disk, durability);
        assert_told(&topic(&broker, Compression::None), told.get_mut().unwrap());
    }
    assert!(stopped > 60, "{stopped} times");
}
