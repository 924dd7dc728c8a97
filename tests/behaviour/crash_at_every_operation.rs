//! A scripted workload on a simulated disk crashes at every single operation, and the disk is left
//! in every way a power loss may leave it. Every acknowledged record is there, the readable records
//! are a prefix, a second opening agrees, appends continue, and no old byte comes back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Compression, Durability, Record, Result, TopicConfig};

use crate::common::{Dump, after_each_crash, assert_gapless, crash_at_each_operation, dump, thorough};

/// The results of the workload and its attempts, as a model of the possible contents.
#[derive(Default)]
struct Told {
    /// Every record sent, in the order of sending: the readable ones must be a prefix.
    sent: BTreeMap<(String, u32), Vec<Vec<u8>>>,
    /// How many of them were acknowledged with the promise to survive the process.
    acknowledged: BTreeMap<(String, u32), usize>,
    /// How many with the promise to survive a power loss.
    durable: BTreeMap<(String, u32), usize>,
}

fn broker(disk: &Disk, clock: &ManualClock) -> Result<Broker> {
    BrokerConfig::new().clock(clock.clone()).seed(7).max_open_files(8).on_disk(disk)
}

fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(500).index_interval_bytes(64)
}

/// Three topics, one of each durability, rolls, growth, a deletion, syncs, maintenance, a clean
/// close in the middle.
fn workload(disk: &Disk, told: &mut Told) -> Result<()> {
    let clock = ManualClock::new();
    for round in 0..2 {
        let broker = broker(disk, &clock)?;
        broker.ensure_topic("sync", small().partitions(1 + round).durability(Durability::Sync))?;
        broker.ensure_topic("os", small().compression(Compression::Lz4))?;
        broker.ensure_topic("interval", small().durability(Durability::Interval(Duration::from_secs(1))))?;
        let passing = broker.create_topic(&format!("passing-{round}"), small())?;
        broker.producer().send(&passing, Record::new("soon gone"))?.wait()?;
        for i in 0..7 {
            for (name, partition) in [("sync", i % (1 + round)), ("os", 0), ("interval", 0)] {
                send(&broker, told, name, partition, i as usize * 40)?;
            }
            clock.advance(Duration::from_millis(300));
            if i == 3 {
                broker.maintain()?;
            }
            if i == 5 {
                broker.sync()?;
                // All that was appended is on disk now.
                told.durable = told.acknowledged.clone();
            }
        }
        batch(&broker, told, "sync", 5)?;
        broker.delete_topic(&format!("passing-{round}"))?;
        broker.close()?;
        told.durable = told.acknowledged.clone();
    }
    Ok(())
}

/// Sends one record and waits for its acknowledgement.
fn send(broker: &Broker, told: &mut Told, name: &str, partition: u32, padding: usize) -> Result<()> {
    let topic = broker.topic(name)?;
    let place = (name.to_string(), partition);
    let sent = told.sent.entry(place.clone()).or_default();
    let value = format!("{name}-{partition}-{} {}", sent.len(), "x".repeat(padding)).into_bytes();
    sent.push(value.clone());
    let receipt = broker.producer().send(&topic.partition(partition)?, Record::new(value))?.wait()?;
    assert_eq!(receipt.offset.get() + 1, sent.len() as u64);
    told.acknowledged.insert(place.clone(), sent.len());
    if name == "sync" {
        told.durable.insert(place, sent.len());
    }
    Ok(())
}

/// Sends several records as one batch.
fn batch(broker: &Broker, told: &mut Told, name: &str, count: usize) -> Result<()> {
    let topic = broker.topic(name)?;
    let place = (name.to_string(), 0);
    let sent = told.sent.entry(place.clone()).or_default();
    let first = sent.len();
    sent.extend((first..first + count).map(|i| format!("{name}-0-{i} in a batch").into_bytes()));
    let records = sent[first..].iter().map(|value| Record::new(value.as_slice()));
    broker.producer().send_all(&topic.partition(0)?, records)?.wait()?;
    let total = sent.len();
    told.acknowledged.insert(place.clone(), total);
    told.durable.insert(place, total);
    Ok(())
}

/// The records of the three lasting topics.
fn lasting(broker: &Broker) -> Dump {
    let mut all = dump(broker).unwrap();
    all.retain(|(name, _), _| !name.starts_with("passing"));
    all
}

fn check_prefix(found: &Dump, told: &Told, promised: &BTreeMap<(String, u32), usize>, case: &str) {
    assert_gapless(found);
    for (place, records) in found {
        let sent = told.sent.get(place).map_or(&[][..], Vec::as_slice);
        assert!(records.len() <= sent.len(), "{case}: {place:?} has more than was sent");
        for ((_, found), sent) in records.iter().zip(sent) {
            assert_eq!(found, sent, "{case}: {place:?}");
        }
    }
    for (place, count) in promised {
        let found = found.get(place).map_or(0, Vec::len);
        assert!(found >= *count, "{case}: {place:?} has {found} records, {count} were promised");
    }
}

/// Opens the disk after a crash, checks the promises, appends, and crashes once more.
fn check(disk: &Disk, told: &Told, survive: Survive, case: &str) {
    let everything = survive == Survive::Everything;
    disk.crash(survive);
    let clock = ManualClock::new();
    let promised = if everything { &told.acknowledged } else { &told.durable };

    let first = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: opening: {e}"));
    assert!(first.open_report().damaged.is_empty(), "{case}: {:?}", first.open_report().damaged);
    let found = lasting(&first);
    check_prefix(&found, told, promised, case);
    if everything {
        assert!(first.open_report().truncated_tails.iter().all(|cut| cut.bytes < 1 << 10), "{case}");
    }
    drop(first);

    // Recovered records are durable: a power loss right after it removes none.
    disk.crash(Survive::Synced);
    let second = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: second opening: {e}"));
    assert_eq!(lasting(&second), found, "{case}: the second opening agrees");

    // Appends continue at the log end, and are there after the next crash.
    let topic = second.ensure_topic("sync", small().partitions(2).durability(Durability::Sync)).unwrap();
    let mut expected = lasting(&second);
    for partition in topic.partitions() {
        let receipt = second.producer().send(&partition, Record::new("after")).unwrap().wait().unwrap();
        let records = expected.get_mut(&("sync".to_string(), partition.id().get())).unwrap();
        assert_eq!(receipt.offset.get(), records.len() as u64, "{case}");
        records.push((receipt.offset.get(), b"after".to_vec()));
    }
    second.sync().unwrap();
    disk.crash(Survive::Random(u64::from_le_bytes(*b"no old b")));
    let third = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: third opening: {e}"));
    assert_eq!(lasting(&third), expected, "{case}: nothing old came back");
}

#[test]
fn a_crash_at_any_operation_keeps_every_promise() {
    let disk = Disk::new();
    workload(&disk, &mut Told::default()).unwrap();
    let operations = disk.ops();
    assert!(operations > 300, "the workload is a workload: {operations}");
    let (mut cases, mut cuts) = (0u64, 0u64);
    for operation in 1..=operations {
        let disk = Disk::new();
        disk.crash_at(operation);
        let mut told = Told::default();
        let ended = workload(&disk, &mut told);
        assert!(ended.is_err(), "operation {operation} was not reached");
        let ways = [Survive::Everything, Survive::Synced, Survive::Zeroed(operation)];
        let random = (0..if thorough() { 60 } else { 4 }).map(|n| Survive::Random(operation * 31 + n));
        after_each_crash(&disk, ways.into_iter().chain(random), &mut BTreeSet::new(), |disk, survive| {
            check(disk, &told, survive, &format!("crash at operation {operation}, {survive:?}"));
            cases += 1;
            cuts +=
                disk.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "torn")).count()
                    as u64;
        });
    }
    println!("{operations} operations, {cases} crashes, {cuts} torn tails");
    assert!(cases >= 2_000, "{cases}");
    assert!(cuts > 50, "torn tails were among the cases: {cuts}");
}

/// Recovery itself crashes at each of its operations, and the result is recovered.
#[test]
fn a_crash_at_any_operation_of_the_recovery_keeps_every_promise() {
    let disk = Disk::new();
    workload(&disk, &mut Told::default()).unwrap();
    let operations = disk.ops();
    let mut cases = 0;
    for operation in (5..operations).step_by(if thorough() { 3 } else { 23 }) {
        let disk = Disk::new();
        disk.crash_at(operation);
        let mut told = Told::default();
        workload(&disk, &mut told).unwrap_err();
        disk.crash(Survive::Random(operation));
        let mut seen = BTreeSet::new();
        crash_at_each_operation(
            &disk,
            |disk| broker(disk, &ManualClock::new()),
            |disk, nested| {
                // Whatever survived the first loss was durable then; the promises stand.
                let ways = [Survive::Random(nested * 7), Survive::Synced, Survive::Random(nested)];
                after_each_crash(disk, ways, &mut seen, |disk, survive| {
                    let case = format!("crash at {operation}, then at {nested} of the recovery, {survive:?}");
                    check(disk, &told, survive, &case);
                    cases += 1;
                });
            },
        );
    }
    println!("{cases} crashes of recoveries");
    assert!(cases >= 500, "{cases}");
}
