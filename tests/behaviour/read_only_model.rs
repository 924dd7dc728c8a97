//! A reader beside an owner that does anything, in steps by a seed: after each step the reader shows
//! what the owner's readers see. Then every operation of such an owner is held while the reader
//! looks: it shows a state that the owner's readers have seen, and meets no damage.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Durability, Error, ExpectedVersion, Offset, ReadOnlyBroker, Record, Start,
    TopicConfig,
};

use crate::common::{Random, small, thorough};
use crate::read_only::{assert_same, follow};

const TOPICS: [&str; 4] = ["os", "sync", "table", "streams"];

fn open(disk: &Disk) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk).unwrap()
}

fn outside(disk: &Disk) -> ReadOnlyBroker {
    BrokerConfig::new().clock(ManualClock::new()).read_only_on_disk(disk).unwrap()
}

fn config(name: &str) -> TopicConfig {
    let table = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    match name {
        "os" => small(),
        "sync" => small().durability(Durability::Sync),
        "table" => table.min_compaction_lag(Duration::ZERO),
        _ => TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700),
    }
}

/// One step of the owner. Errors are part of it: a topic may be gone.
fn step(owner: &Broker, random: &mut Random, number: u64) -> String {
    let name = TOPICS[random.below(4) as usize];
    let Ok(topic) = owner.topic(name) else {
        owner.create_topic(name, config(name)).unwrap();
        return format!("create {name}");
    };
    let partition = topic.partition(random.below(u64::from(topic.partition_count())) as u32).unwrap();
    let bounds = partition.bounds().unwrap();
    let between = |random: &mut Random| {
        let (from, to) = (bounds.log_start.get(), bounds.log_end.get());
        Offset::new(from + random.below(to - from + 1))
    };
    let key = format!("key {}", random.below(4));
    let record = |n: u64| Record::new(format!("value {number} {n} {}", "x".repeat(20))).key(key.clone());
    match random.below(20) {
        0 => {
            let to = between(random);
            let done = partition.delete_records(to);
            format!("delete {name} before {to}: {done:?}")
        }
        1 => {
            let to = between(random);
            let done = partition.truncate_to(to);
            format!("truncate {name} to {to}: {done:?}")
        }
        2 => format!("compact {name}: {:?}", partition.compact().is_ok()),
        3 if name != "streams" => {
            let partitions = topic.partition_count() + 1;
            if partitions < 4 {
                owner.alter_topic(name, config(name).partitions(partitions)).unwrap();
            }
            format!("grow {name}")
        }
        4 if random.below(4) == 0 => format!("delete {name}: {:?}", owner.delete_topic(name)),
        5 => {
            let mut transaction = owner.transaction();
            for name in TOPICS {
                if owner.topic(name).is_ok() {
                    transaction.send(name, record(0));
                }
            }
            format!("transaction: {:?}", transaction.commit().is_ok())
        }
        6 => {
            let mut consumer = owner.consumer("group").subscribe(&[name]).unwrap();
            let done = consumer.poll(Duration::ZERO).and_then(|records| consumer.commit(&records));
            format!("commit {name}: {done:?}")
        }
        7 => {
            let to = bounds.log_end.plus(random.below(5));
            format!("reset {name} to {to}: {:?}", partition.reset_to(to).is_ok())
        }
        _ if name == "streams" => {
            let stream = topic.stream(&key).unwrap();
            let done = stream.append(ExpectedVersion::Any, [Record::new(format!("event {number}"))]);
            format!("event of {key}: {:?}", done.is_ok())
        }
        _ => {
            let records = (0..1 + random.below(6)).map(record);
            format!("append to {name}: {:?}", partition.append(records).map(|receipt| receipt.offset))
        }
    }
}

/// The last steps, for messages.
fn last(done: &[String]) -> &[String] {
    &done[done.len().saturating_sub(8)..]
}

#[test]
fn it_shows_what_the_owners_readers_see_after_every_step() {
    let seeds = if thorough() { 400 } else { 25 };
    for seed in 0..seeds {
        let mut random = Random(seed);
        let disk = Disk::new();
        disk.share();
        let mut owner = open(&disk);
        step(&owner, &mut random, 0);
        owner.maintain().unwrap();
        let seen = outside(&disk);
        let mut done = Vec::new();
        for number in 1..60 {
            match random.below(12) {
                0 => {
                    owner.close().unwrap();
                    drop(owner);
                    if random.below(2) == 0 {
                        seen.refresh().unwrap();
                    }
                    owner = open(&disk);
                    done.push("close".to_string());
                }
                1 => {
                    disk.crash(Survive::Everything);
                    drop(owner);
                    if random.below(2) == 0 {
                        seen.refresh().unwrap();
                        assert_same(
                            &open(&disk.duplicate()),
                            &seen,
                            &format!("seed {seed}: {:?}, a kill", last(&done)),
                        );
                    }
                    owner = open(&disk);
                    done.push("kill".to_string());
                }
                _ => done.push(step(&owner, &mut random, number)),
            }
            if random.below(3) > 0 {
                follow(&owner, &seen);
                assert_same(&owner, &seen, &format!("seed {seed}: {:?}", last(&done)));
            }
        }
        follow(&owner, &seen);
        assert_same(&owner, &seen, &format!("seed {seed}: {:?}", last(&done)));
        assert_same(&owner, &outside(&disk), &format!("seed {seed}: {:?}, opened again", last(&done)));
    }
}

/// All records of one partition as a reader sees them, from its log start on.
fn read(seen: &ReadOnlyBroker, topic: &str) -> Result<Vec<(u32, u64, String)>, Error> {
    let mut found = Vec::new();
    let Ok(topic) = seen.topic(topic) else { return Ok(found) };
    for partition in topic.partitions() {
        let mut from = Start::Beginning;
        loop {
            let records = match partition.read(from, 64 << 10) {
                // Records that were there a moment ago.
                Err(Error::OffsetOutOfRange { .. } | Error::TopicDeleted { .. }) => break,
                records => records?,
            };
            let Some(last) = records.last() else { break };
            from = Start::At(last.offset().plus(1));
            found.extend(records.iter().map(|record| {
                let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
                (record.partition().get(), record.offset().get(), value)
            }));
        }
    }
    Ok(found)
}

/// The records of all topics as the owner's readers see them.
fn shown(owner: &Broker) -> BTreeSet<(String, u32, u64, String)> {
    let mut all = BTreeSet::new();
    for topic in owner.topics() {
        for records in owner.reader([topic.name().as_str()], Start::Beginning).unwrap().to_end() {
            all.extend(records.unwrap().iter().map(|record| {
                let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
                (topic.name().to_string(), record.partition().get(), record.offset().get(), value)
            }));
        }
    }
    all
}

#[test]
fn every_operation_of_the_owner_is_held_while_the_reader_looks() {
    let seeds = if thorough() { 40 } else { 3 };
    for seed in 0..seeds {
        let mut random = Random(1000 + seed);
        let disk = Disk::new();
        disk.share();
        let owner = open(&disk);
        for number in 0..20 {
            step(&owner, &mut random, number);
        }
        owner.maintain().unwrap();
        let kept = outside(&disk);
        let mut known = shown(&owner);
        for number in 20..30 {
            let (before, start) = (disk.ops(), Random(random.next()));
            // How many operations the step and its publication take.
            let rehearsal = disk.duplicate();
            let twin = open(&rehearsal);
            let opened = rehearsal.ops();
            step(&twin, &mut Random(start.0), number);
            let _ = twin.maintain();
            let operations = rehearsal.ops() - opened;
            drop(twin);
            let held: Vec<_> = (1..=operations).map(|nth| disk.hold(Op::Any, nth)).collect();
            thread::scope(|scope| {
                let working = scope.spawn(|| {
                    let mut random = Random(start.0);
                    let done = step(&owner, &mut random, number);
                    owner.maintain().unwrap();
                    done
                });
                for gate in &held {
                    while !gate.is_reached() && !working.is_finished() {
                        thread::yield_now();
                    }
                    kept.refresh().unwrap();
                    let fresh = outside(&disk);
                    for seen in [&kept, &fresh] {
                        for topic in TOPICS {
                            let found =
                                read(seen, topic).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                            for (partition, offset, value) in found {
                                let place = (topic.to_string(), partition, offset, value);
                                let is_new = place.3.contains(&format!("{number}"));
                                assert!(known.contains(&place) || is_new, "seed {seed}: {place:?}");
                            }
                        }
                    }
                    gate.release();
                }
                drop(held);
                working.join().unwrap();
            });
            let _ = before;
            known.extend(shown(&owner));
            follow(&owner, &kept);
            assert_same(&owner, &kept, &format!("seed {seed}, step {number}"));
        }
    }
}
