//! Streams on a simulated disk crash at every single operation, also while key indexes are written.
//! After the next opening every stream has all acknowledged events, its version counts them, and
//! appends continue.

use std::collections::BTreeMap;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Durability, Error, ExpectedVersion, Record, Result, TopicConfig, Version};

use crate::common::{files, thorough};

fn open(disk: &Disk, durability: Durability) -> Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(7).durability(durability).on_disk(disk)
}

fn config() -> TopicConfig {
    TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700)
}

/// The events of each stream in the order of appending.
type Events = BTreeMap<String, Vec<String>>;

/// Appends to streams over several openings, writing indexes now and then. Notes acknowledged
/// events.
fn workload(disk: &Disk, durability: Durability, acknowledged: &mut Events) -> Result<()> {
    let mut n = 0;
    for opening in 0..3 {
        let broker = open(disk, durability)?;
        let topic = broker.ensure_topic("t", config())?;
        for _ in 0..14 {
            let key = format!("k{}", n * 7 % 5);
            let stream = topic.stream(&key)?;
            let expected = acknowledged.get(&key).map_or(0, Vec::len) as u64;
            let events = [format!("event {n} a {}", "x".repeat(60)), format!("event {n} b")];
            if n % 4 == 3 {
                let other = topic.stream("k9")?;
                let mut transaction = broker.transaction();
                transaction.append(&stream, Version::new(expected), events.iter().map(Record::new));
                transaction.append(&other, ExpectedVersion::Any, [Record::new(format!("event {n} c"))]);
                transaction.commit()?;
                acknowledged.entry("k9".to_string()).or_default().push(format!("event {n} c"));
            } else {
                stream.append(Version::new(expected), events.iter().map(Record::new))?;
            }
            acknowledged.entry(key).or_default().extend(events);
            if n % 5 == 4 {
                broker.maintain()?;
            }
            n += 1;
        }
        if opening != 1 {
            broker.close()?;
        }
    }
    Ok(())
}

/// Every acknowledged event is there, and no other but those of one unfinished append.
fn check(disk: &Disk, durability: Durability, acknowledged: &Events, case: &str) {
    let broker = open(disk, durability).unwrap();
    let Ok(topic) = broker.topic("t") else {
        assert!(acknowledged.is_empty(), "{case}");
        return;
    };
    let mut more = 0;
    for key in (0..10).map(|n| format!("k{n}")) {
        let stream = topic.stream(&key).unwrap();
        let history = stream.load().unwrap();
        let events: Vec<_> =
            history.iter().map(|e| String::from_utf8(e.value().unwrap().to_vec()).unwrap()).collect();
        let known = acknowledged.get(&key).map_or(&[][..], Vec::as_slice);
        assert_eq!(events.get(..known.len()), Some(known), "{case}: {key}");
        more += events.len() - known.len();
        assert_eq!(history.version().get(), events.len() as u64, "{case}: {key}");
        let newest = stream.last().unwrap();
        assert_eq!(newest.as_ref().and_then(|e| e.value()), events.last().map(String::as_bytes), "{case}");
        let wrong = stream.append(Version::new(events.len() as u64 + 1), [Record::new("no")]);
        assert!(matches!(wrong, Err(Error::VersionConflict { .. })), "{case}: {wrong:?}");
        stream.append(history.version(), [Record::new("more")]).unwrap();
        assert_eq!(stream.version().unwrap().get(), events.len() as u64 + 1, "{case}: {key}");
    }
    assert!([0, 2, 3].contains(&more), "{case}: {more} more than acknowledged");
    broker.maintain().unwrap();
    broker.close().unwrap();
    // The indexes agree with the log after all that: without them nothing changes.
    let all = |disk: &Disk| {
        let broker = open(disk, durability).unwrap();
        let topic = broker.topic("t").unwrap();
        let of = |n: u32| topic.stream(format!("k{n}")).unwrap().load().unwrap();
        (0..10).map(|n| (of(n).len(), of(n).version())).collect::<Vec<_>>()
    };
    let with = all(&disk.duplicate());
    for path in files(disk, "topics", ".keys") {
        disk.remove(path).unwrap();
    }
    assert_eq!(all(disk), with, "{case}");
}

fn crash_everywhere(durability: Durability, survives: &[fn(u64) -> Survive]) {
    let whole = Disk::new();
    let mut all = Events::new();
    workload(&whole, durability, &mut all).unwrap();
    assert!(files(&whole, "topics", ".keys").len() > 6);
    check(&whole.duplicate(), durability, &all, "whole");
    let (mut cases, step) = (0, if thorough() { 1 } else { 3 });
    for nth in (1..=whole.ops()).step_by(step) {
        let disk = Disk::new();
        disk.crash_at(nth);
        let mut acknowledged = Events::new();
        assert!(workload(&disk, durability, &mut acknowledged).is_err());
        for (n, survive) in survives.iter().enumerate() {
            let disk = disk.duplicate();
            disk.crash(survive(nth));
            check(&disk, durability, &acknowledged, &format!("crash at {nth}, survivor {n}"));
            cases += 1;
        }
    }
    assert!(cases > 50, "{cases}");
}

#[test]
fn a_crash_at_any_operation_leaves_each_stream_whole_when_the_process_dies() {
    crash_everywhere(Durability::Os, &[|_| Survive::Everything]);
}

#[test]
fn a_crash_at_any_operation_leaves_each_stream_whole_when_the_power_fails() {
    crash_everywhere(Durability::Sync, &[|_| Survive::Synced, Survive::Random, Survive::Zeroed]);
}
