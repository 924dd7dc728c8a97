//! Every operation of two more scripted runs fails in turn, in each way: one lets records go and takes them back, the other
//! recovers, ships and commits. (The first, of plain appends, is in `medium_failures.rs`.) Nothing panics, nothing that was
//! acknowledged and not taken back on purpose is missing, and every error says where.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use common::{open, read_from, send, small, thorough};
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Offset, Offsets, Partition, Record, Result, Retention, Start,
    Timestamp, TopicConfig,
};

/// What was acknowledged, by partition and offset, and all that went wrong.
#[derive(Default)]
struct Told {
    kept: BTreeMap<String, BTreeMap<u64, String>>,
    /// The last commit that was acknowledged, by partition.
    committed: BTreeMap<String, u64>,
    errors: Vec<Error>,
}

impl Told {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn append(&mut self, broker: &Broker, partition: &Partition, value: &str) {
        let sent = send(broker, partition, value);
        if let Some(receipt) = self.note(sent) {
            let kept = self.kept.entry(partition.topic().to_string()).or_default();
            kept.insert(receipt.offset.get(), value.to_string());
        } else if matches!(self.errors.last(), Some(Error::Poisoned { .. } | Error::Io { .. })) {
            let reopened = partition.reopen();
            self.note(reopened);
        }
    }

    /// Offsets in `range` may be gone from now on, whether or not the call that takes them succeeds.
    fn give_up(&mut self, partition: &Partition, range: std::ops::Range<u64>) {
        if let Some(kept) = self.kept.get_mut(partition.topic().as_str()) {
            kept.retain(|offset, _| !range.contains(offset));
        }
    }
}

fn durable() -> TopicConfig {
    small().durability(Durability::Sync)
}

fn end(partition: &Partition) -> u64 {
    partition.bounds().map_or(0, |bounds| bounds.log_end.get())
}

/// Retention, `delete_records`, truncation, reset, growth and deletion of topics, lookups by time.
fn letting_go(disk: &Disk, told: &mut Told) {
    let clock = ManualClock::new();
    let config = BrokerConfig::new().clock(clock.clone()).seed(1);
    let Some(broker) = told.note(config.on_disk(disk)) else { return };
    let names = ["aged", "sized", "cut", "purged", "steady"];
    for name in names {
        let retention = match name {
            "aged" => Retention::for_age(Duration::from_secs(40)),
            "sized" => Retention::for_bytes(2000),
            _ => Retention::forever(),
        };
        let made = broker.ensure_topic(name, durable().retention(retention));
        told.note(made);
    }
    for round in 0..6u64 {
        for name in names {
            let Some(partition) = told.note(broker.topic(name).and_then(|topic| topic.partition(0))) else {
                continue;
            };
            for n in 0..4 {
                told.append(&broker, &partition, &format!("{name} {round} {n} {}", "x".repeat(150)));
            }
            let end = end(&partition);
            match name {
                "cut" if round % 2 == 1 => {
                    told.give_up(&partition, end.saturating_sub(3)..u64::MAX);
                    let cut = partition.truncate_to(Offset::new(end.saturating_sub(3)));
                    told.note(cut);
                }
                "cut" if round == 4 => {
                    told.give_up(&partition, 0..u64::MAX);
                    let reset = partition.reset_to(Offset::new(end + 10));
                    told.note(reset);
                }
                "purged" => {
                    told.give_up(&partition, 0..end.saturating_sub(5));
                    let purged = partition.delete_records(Offset::new(end.saturating_sub(5)));
                    told.note(purged);
                    let found = partition.offset_for_time(Timestamp::from_millis(1));
                    told.note(found);
                    let newest = partition.last_n(3);
                    told.note(newest);
                }
                "steady" => {}
                // Retention may take whatever has left the last segments.
                _ => told.give_up(&partition, 0..end.saturating_sub(4)),
            }
        }
        clock.advance(Duration::from_secs(30));
        let maintained = broker.maintain();
        told.note(maintained);
        let grown = broker.ensure_topic("growing", TopicConfig::new().partitions(1 + round as u32));
        told.note(grown);
    }
    // The last round of retention was at the age of its last records.
    told.kept.remove("aged");
    let deleted = broker.delete_topic("growing");
    told.note(deleted);
    let closed = broker.close();
    told.note(closed);
}

/// An unclean stop and its recovery, a copy kept by raw shipping, a group that commits, a clean stop.
fn taking_over(disk: &Disk, told: &mut Told) {
    let config = || BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    for stop in 0..3 {
        let Some(broker) = told.note(config().on_disk(disk)) else { continue };
        let source = broker.ensure_topic("source", durable()).and_then(|topic| topic.partition(0));
        let copy = broker.ensure_topic("copy", durable()).and_then(|topic| topic.partition(0));
        let (Some(source), Some(copy)) = (told.note(source), told.note(copy)) else { continue };
        for n in 0..9 {
            told.append(&broker, &source, &format!("{stop} {n} {}", "y".repeat(120)));
        }
        for _ in 0..20 {
            let from = Offset::new(end(&copy));
            let Some(shipment) = told.note(source.read_raw(from, 700)) else { continue };
            if shipment.is_empty() {
                break;
            }
            let (base, shipped) = (from.get(), copy.append_raw(&shipment));
            let Some(end) = told.note(shipped) else {
                let reopened = copy.reopen();
                told.note(reopened);
                continue;
            };
            let from_source = told.kept.get("source").cloned().unwrap_or_default();
            let kept = told.kept.entry("copy".to_string()).or_default();
            kept.extend(from_source.range(base..end.get()).map(|(offset, value)| (*offset, value.clone())));
        }
        if let Some(mut consumer) = told.note(broker.consumer("group").subscribe(&["source"]))
            && let Some(records) = told.note(consumer.poll(Duration::ZERO))
        {
            let done = Offsets::from(&records);
            let positions = done.positions();
            if told.note(consumer.commit(done)).is_some() {
                for position in positions {
                    told.committed.insert(position.topic.to_string(), position.offset.get());
                }
            }
        }
        if stop == 2 {
            let closed = broker.close();
            told.note(closed);
        }
    }
}

/// The path that an error names.
fn path_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Io { path, .. } | Error::DiskFull { path } => Some(path),
        Error::Corrupt(corruption) => Some(&corruption.file),
        Error::Poisoned { cause, .. } => path_of(cause),
        _ => None,
    }
}

fn assert_says_where(error: &Error, case: &str) {
    let named = match path_of(error) {
        Some(path) => path.starts_with("mem:/"),
        // What follows from an earlier one.
        None => matches!(
            error,
            Error::UnknownTopic { .. }
                | Error::TopicExists { .. }
                | Error::OffsetConflict { .. }
                | Error::OffsetOutOfRange { .. }
                | Error::Diverged { .. }
                | Error::Truncated { .. }
        ),
    };
    assert!(named && !matches!(error, Error::Corrupt(_)), "{case}: {error}");
}

fn assert_kept(disk: &Disk, told: &Told, case: &str) {
    for survive in [Survive::Everything, Survive::Synced] {
        let disk = disk.duplicate();
        disk.crash(survive);
        let broker = open(&disk).unwrap_or_else(|e| panic!("{case}, {survive:?}: {e}"));
        assert!(broker.open_report().damaged.is_empty(), "{case}, {survive:?}: {:?}", broker.open_report());
        for (name, kept) in told.kept.iter().filter(|(_, kept)| !kept.is_empty()) {
            let partition = broker.topic(name).and_then(|topic| topic.partition(0));
            let partition = partition.unwrap_or_else(|e| panic!("{case}, {survive:?}: {e}"));
            let found = read_from(&partition, Start::Beginning);
            for (offset, value) in kept {
                let found = found.get(offset).map(String::as_str);
                assert_eq!(found, Some(&**value), "{case}, {survive:?}: {name}@{offset}");
            }
            send(&broker, &partition, "and it goes on").unwrap_or_else(|e| panic!("{case}: {e}"));
        }
        for (name, offset) in &told.committed {
            let committed = broker.group("group").unwrap().committed(name, 0).unwrap();
            let committed = committed.map_or(0, |committed| committed.offset.get());
            assert!(committed >= *offset, "{case}, {survive:?}: {name}: {committed} instead of {offset}");
        }
    }
}

fn fail_each_operation(name: &str, run: fn(&Disk, &mut Told)) {
    let operations = {
        let (disk, mut told) = (Disk::new(), Told::default());
        run(&disk, &mut told);
        assert!(told.errors.is_empty(), "{name}: {:?}", told.errors);
        assert!(told.kept.values().map(BTreeMap::len).sum::<usize>() >= 15, "{name} keeps something");
        assert_kept(&disk, &told, name);
        disk.ops()
    };
    let kinds = [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::Interrupted];
    let (mut cases, mut failures) = (0u64, 0);
    for kind in kinds.into_iter().map(Some).chain([None]) {
        // Every third by default: the odd ones out change with the kind.
        let step = if thorough() { 1 } else { 3 };
        for nth in (1 + cases % step..=operations).step_by(step as usize) {
            let case = format!("{name}: operation {nth} of {operations}, {kind:?}");
            let disk = Disk::new();
            match kind {
                Some(kind) => disk.fail(Op::Any, nth, kind),
                None => disk.short(Op::Any, nth),
            }
            let mut told = Told::default();
            run(&disk, &mut told);
            disk.clear_faults();
            cases += 1;
            failures += told.errors.len();
            assert!(kind.is_some() || told.errors.is_empty(), "{case}: {:?}", told.errors);
            for error in &told.errors {
                assert_says_where(error, &case);
            }
            assert_kept(&disk, &told, &case);
        }
    }
    println!("{name}: {operations} operations, {cases} cases, {failures} errors told");
    assert!(operations > 300 && failures > 100, "{operations} operations, {failures} errors");
}

#[test]
fn whatever_fails_while_records_are_let_go_the_others_stay() {
    fail_each_operation("letting go", letting_go);
}

#[test]
fn whatever_fails_while_one_run_takes_over_from_another_nothing_is_lost() {
    fail_each_operation("taking over", taking_over);
}

#[test]
fn a_record_is_sent_on_a_failing_disk_without_a_panic() {
    // The least that a program does, with everything failing from some operation on.
    for nth in 1..60 {
        let disk = Disk::new();
        disk.fail_always(Op::Any, nth, ErrorKind::Other);
        let Ok(broker) = open(&disk) else { continue };
        let Ok(topic) = broker.create_topic("t", TopicConfig::new()) else { continue };
        let sent = broker.producer().send(&topic, Record::new("v")).and_then(quipu::Pending::wait);
        if let Err(error) = sent {
            assert_says_where(&error, "everything fails");
        }
        let _ = broker.close();
    }
}
