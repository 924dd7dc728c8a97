//! Every call to the disk in three scripted runs fails in turn, with EIO, ENOSPC and EINTR, and
//! every transfer is shortened or torn. Nothing panics, every error names the file, and nothing is
//! acknowledged after a failed write or sync. The next opening, also after a power loss, finds
//! every acknowledged record, no refused or truncated one, and partitions that take appends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Offset, Offsets, Outcome, Partition, Record,
    Result, Retention, Start, Timestamp, Topic, TopicConfig,
};

use crate::common::{dump, open, read_from, send, small, thorough};

// -- the results of a run --

/// All that was acknowledged, and all that went wrong.
#[derive(Default)]
struct Told {
    logs: BTreeMap<(String, u32), Log>,
    /// The values that may be in a log: acknowledged ones, and those with an unknown outcome.
    possible: BTreeSet<String>,
    /// How many partitions each topic has, at least; none if it was deleted.
    topics: BTreeMap<String, u32>,
    /// The last commit that was acknowledged, by topic.
    committed: BTreeMap<String, u64>,
    errors: Vec<Error>,
}

/// The acknowledged records of one partition, by offset.
#[derive(Clone, Default)]
struct Log {
    /// There while the power is.
    kept: BTreeMap<u64, String>,
    /// There in any case.
    durable: BTreeMap<u64, String>,
    /// Nothing is readable below.
    start: u64,
}

fn key(partition: &Partition) -> (String, u32) {
    (partition.topic().to_string(), partition.id().get())
}

/// The partitions that could be opened.
fn readable(broker: &Broker) -> Vec<Partition> {
    let all = broker.topics().into_iter().flat_map(|topic| topic.partitions());
    all.filter(|partition| partition.bounds().is_ok()).collect()
}

fn end(partition: &Partition) -> u64 {
    partition.bounds().map_or(0, |bounds| bounds.log_end.get())
}

impl Told {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    /// A topic that is there from now on.
    fn ensure(&mut self, broker: &Broker, name: &str, config: TopicConfig) -> Option<Topic> {
        let topic = self.note(broker.ensure_topic(name, config))?;
        self.topics.insert(name.to_string(), topic.partition_count());
        Some(topic)
    }

    fn delete(&mut self, broker: &Broker, name: &str) {
        // A failed deletion may have removed some.
        self.topics.remove(name);
        if self.note(broker.delete_topic(name)).is_some() {
            self.topics.insert(name.to_string(), 0);
        }
    }

    /// Sends each value, waits for all, and takes the partition back into service if it has failed.
    fn append(&mut self, broker: &Broker, partition: &Partition, values: &[String]) {
        let producer = broker.producer();
        let pending: Vec<_> =
            values.iter().map(|value| producer.send(partition, Record::new(&**value))).collect();
        let flushed = producer.flush();
        self.note(flushed);
        let mut unknown = Vec::new();
        for (value, pending) in values.iter().zip(pending) {
            match pending.and_then(quipu::Pending::wait) {
                Ok(receipt) => self.acknowledged(partition, receipt.offset.get(), value),
                Err(error) => {
                    if error.outcome() == Outcome::Unknown {
                        unknown.push(value.clone());
                    }
                    self.errors.push(error);
                }
            }
        }
        let poisoned = partition.stats().poisoned.is_some();
        assert!(poisoned || unknown.is_empty(), "whatever is unknown stops the partition: {:?}", self.errors);
        if poisoned {
            let refused = send(broker, partition, "refused");
            assert!(refused.is_err(), "after a failure: {refused:?}");
            // A caller that reopens it knows that invisible records are gone.
            if self.note(partition.reopen()).is_none() {
                self.possible.extend(unknown);
            }
        }
        self.look(partition);
    }

    fn acknowledged(&mut self, partition: &Partition, offset: u64, value: &str) {
        self.possible.insert(value.to_string());
        self.logs.entry(key(partition)).or_default().kept.insert(offset, value.to_string());
    }

    /// Records that the partition reports as durable must stay.
    fn look(&mut self, partition: &Partition) {
        let Some(bounds) = self.note(partition.bounds()) else { return };
        let log = self.logs.entry(key(partition)).or_default();
        let durable = log.kept.range(..bounds.durable_end.get());
        log.durable.extend(durable.map(|(offset, value)| (*offset, value.clone())));
    }

    fn sync(&mut self, broker: &Broker) {
        let synced = broker.sync();
        self.all_durable(&readable(broker), synced);
    }

    fn close(&mut self, broker: &Broker) {
        let readable = readable(broker);
        self.all_durable(&readable, broker.close());
    }

    /// A partition that could not be opened is in the report of the opening, and in the error of
    /// every call that concerns it.
    fn all_durable(&mut self, partitions: &[Partition], synced: Result<()>) {
        if self.note(synced).is_none() {
            return;
        }
        for partition in partitions {
            let log = self.logs.entry(key(partition)).or_default();
            log.durable = log.kept.clone();
        }
    }

    /// Offsets in `range` may be gone from now on.
    fn give_up(&mut self, partition: &Partition, range: std::ops::Range<u64>) -> Vec<String> {
        let log = self.logs.entry(key(partition)).or_default();
        log.durable.retain(|offset, _| !range.contains(offset));
        let gone = log.kept.range(range.clone()).map(|(_, value)| value.clone()).collect();
        log.kept.retain(|offset, _| !range.contains(offset));
        gone
    }

    fn truncate(&mut self, partition: &Partition, to: u64) {
        let gone = self.give_up(partition, to..u64::MAX);
        if self.note(partition.truncate_to(Offset::new(to))).is_some() {
            self.possible.retain(|value| !gone.contains(value));
        }
    }

    fn reset(&mut self, partition: &Partition, to: u64) {
        let gone = self.give_up(partition, 0..u64::MAX);
        if self.note(partition.reset_to(Offset::new(to))).is_some() {
            self.possible.retain(|value| !gone.contains(value));
            self.logs.entry(key(partition)).or_default().start = to;
        }
    }

    fn delete_records(&mut self, partition: &Partition, before: u64) {
        self.give_up(partition, 0..before);
        if self.note(partition.delete_records(Offset::new(before))).is_some() {
            self.logs.entry(key(partition)).or_default().start = before;
        }
    }

    /// Every returned record equals the acknowledged one.
    fn read(&mut self, records: Result<quipu::Records>) {
        for record in self.note(records).iter().flatten() {
            let key = (record.topic().to_string(), record.partition().get());
            let kept = self.logs.get(&key).and_then(|log| log.kept.get(&record.offset().get()));
            assert!(kept.is_none_or(|kept| record.value() == Some(kept.as_bytes())), "{key:?}");
        }
    }

    /// The power is lost: bytes only in the page cache may be gone or not.
    fn power_loss(&mut self, disk: &Disk) {
        disk.crash(Survive::Synced);
        for log in self.logs.values_mut() {
            log.kept = log.durable.clone();
        }
    }
}

fn durable() -> TopicConfig {
    small().durability(Durability::Sync)
}

// -- the runs --

/// Several topics under Sync and Os, one record a batch and several, over many segments; syncs,
/// readers, two clean stops.
fn appending(disk: &Disk, told: &mut Told) {
    let clock = ManualClock::new();
    for round in 0..2u32 {
        let config = BrokerConfig::new().clock(clock.clone()).seed(3).max_open_files(8);
        let Some(broker) = told.note(config.on_disk(disk)) else { continue };
        let damaged = broker.open_report().damaged.iter().map(|(_, error)| error.clone());
        told.errors.extend(damaged);
        told.ensure(&broker, "sync", durable().partitions(1 + round));
        told.ensure(&broker, "os", small().compression(Compression::Lz4));
        told.ensure(&broker, "passing", small());
        for i in 0..10usize {
            for name in ["sync", "os"] {
                let partition = broker.topic(name).and_then(|topic| topic.partition(0));
                let Some(partition) = told.note(partition) else { continue };
                let text = |n: usize| format!("{name} {round} {i} {n} {}", "x".repeat(i * 50));
                let values: Vec<_> = (0..1 + i % 2).map(text).collect();
                told.append(&broker, &partition, &values);
            }
            clock.advance(Duration::from_millis(10));
            if i % 4 == 3 {
                let maintained = broker.maintain();
                told.note(maintained);
                told.sync(&broker);
                if let Some(mut reader) = told.note(broker.reader(["sync", "os"], Start::Beginning)) {
                    told.read(reader.poll(Duration::ZERO));
                }
            }
        }
        told.delete(&broker, "passing");
        told.close(&broker);
    }
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
        told.ensure(&broker, name, durable().retention(retention));
    }
    for round in 0..4u32 {
        for name in names {
            let partition = broker.topic(name).and_then(|topic| topic.partition(0));
            let Some(partition) = told.note(partition) else { continue };
            for n in 0..4 {
                told.append(&broker, &partition, &[format!("{name} {round} {n} {}", "x".repeat(150))]);
            }
            let end = end(&partition);
            match name {
                "cut" if round % 2 == 1 => told.truncate(&partition, end.saturating_sub(3)),
                "cut" if round == 2 => told.reset(&partition, end + 10),
                "purged" => {
                    told.delete_records(&partition, end.saturating_sub(5));
                    let found = partition.offset_for_time(Timestamp::from_millis(1));
                    if let Some(found) = told.note(found) {
                        let first = partition.bounds().ok().map(|bounds| bounds.log_start);
                        assert_eq!(found.map(|(offset, _)| offset), first);
                    }
                    told.read(partition.last_n(3));
                }
                "cut" | "steady" => {}
                // Retention may take whatever has left the last segments.
                _ => drop(told.give_up(&partition, 0..end.saturating_sub(4))),
            }
        }
        clock.advance(Duration::from_secs(30));
        let maintained = broker.maintain();
        told.note(maintained);
        told.ensure(&broker, "growing", TopicConfig::new().partitions(1 + round));
    }
    // The last round of retention was at the age of its last records.
    told.logs.remove(&("aged".to_string(), 0));
    told.delete(&broker, "growing");
    told.close(&broker);
}

/// An unclean stop and a power loss with their recoveries, clean stops, a copy kept by raw
/// shipping, a group that commits.
fn taking_over(disk: &Disk, told: &mut Told) {
    let config = || BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    for stop in ["unclean", "clean", "no power", "clean again"] {
        let Some(broker) = told.note(config().on_disk(disk)) else { continue };
        told.ensure(&broker, "quick", small().durability(Durability::Os));
        let first = |topic: &Topic| topic.partition(0).unwrap();
        let source = told.ensure(&broker, "source", durable()).as_ref().map(first);
        let copy = told.ensure(&broker, "copy", durable()).as_ref().map(first);
        let (Some(source), Some(copy)) = (source, copy) else { continue };
        for n in 0..7 {
            told.append(&broker, &source, &[format!("{stop} {n} {}", "y".repeat(120))]);
            let quick = broker.topic("quick").and_then(|topic| topic.partition(0));
            if let Some(quick) = told.note(quick) {
                told.append(&broker, &quick, &[format!("quick {stop} {n} {}", "z".repeat(100))]);
            }
        }
        for _ in 0..20 {
            let from = Offset::new(end(&copy));
            let Some(shipment) = told.note(source.read_raw(from, 700)) else { continue };
            if shipment.is_empty() {
                break;
            }
            let shipped = copy.append_raw(&shipment);
            let Some(end) = told.note(shipped) else {
                let reopened = copy.reopen();
                told.note(reopened);
                continue;
            };
            let sent = told.logs.get(&key(&source)).cloned().unwrap_or_default().kept;
            for (offset, value) in sent.range(from.get()..end.get()) {
                told.acknowledged(&copy, *offset, value);
            }
            told.look(&copy);
        }
        if let Some(mut consumer) = told.note(broker.consumer("group").subscribe(["source"]))
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
        match stop {
            "no power" => told.power_loss(disk),
            "clean" | "clean again" => told.close(&broker),
            _ => {}
        }
    }
}

// -- the promises afterwards --

/// The path that an error names.
fn path_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Io { path, .. } | Error::DiskFull { path, .. } => Some(path),
        Error::Corrupt(corruption) => Some(&corruption.file),
        Error::Poisoned { cause, .. } => path_of(cause),
        _ => None,
    }
}

fn assert_says_where(error: &Error, case: &str) {
    let named = match path_of(error) {
        Some(path) => path.starts_with("mem:/"),
        // The consequence of an earlier error.
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

/// An opening after a kill or a power loss finds everything that the run was told.
fn assert_kept(disk: &Disk, told: &Told, case: &str) {
    for survive in [Survive::Everything, Survive::Synced] {
        let (disk, case) = (disk.duplicate(), format!("{case}, {survive:?}"));
        disk.crash(survive);
        let broker = open(&disk).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report());
        for (name, partitions) in &told.topics {
            let found = broker.topic(name).map_or(0, |topic| topic.partition_count());
            assert!(
                if *partitions == 0 { found == 0 } else { found >= *partitions },
                "{case}: {name}: {found}"
            );
        }
        let mut went_on = Vec::new();
        for (at @ (name, id), log) in &told.logs {
            let kept = if survive == Survive::Everything { &log.kept } else { &log.durable };
            let partition = broker.topic(name).and_then(|topic| topic.partition(*id));
            let partition = match partition {
                Err(Error::UnknownTopic { .. }) if kept.is_empty() => continue,
                partition => partition.unwrap_or_else(|e| panic!("{case}: {e}")),
            };
            let found = read_from(&partition, Start::Beginning);
            for (offset, value) in kept {
                assert_eq!(found.get(offset), Some(value), "{case}: {at:?}@{offset}");
            }
            let first = found.keys().next().copied().unwrap_or(u64::MAX);
            assert!(first >= log.start, "{case}: {at:?} begins at {first}, not at {}", log.start);
            let different: BTreeSet<_> = found.values().collect();
            assert_eq!(different.len(), found.len(), "{case}: {at:?}: something is there twice");
            let refused = found.values().find(|value| !told.possible.contains(*value));
            assert!(refused.is_none(), "{case}: {at:?}: {refused:?} was refused or taken back");
            let sent = send(&broker, &partition, "and it goes on").unwrap_or_else(|e| panic!("{case}: {e}"));
            went_on.push((at, sent.offset.get()));
        }
        for (name, offset) in &told.committed {
            let committed = broker.group("group").unwrap().committed(name, 0).unwrap();
            let committed = committed.map_or(0, |committed| committed.offset.get());
            assert!(committed >= *offset, "{case}: {name}: {committed} instead of {offset}");
        }
        broker.close().unwrap_or_else(|e| panic!("{case}: {e}"));
        let broker = open(&disk).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(broker.open_report().clean, "{case}: {:?}", broker.open_report());
        for ((name, id), offset) in went_on {
            let partition = broker.topic(name).unwrap().partition(*id).unwrap();
            let newest = partition.last_n(1).unwrap();
            assert_eq!(
                newest.last().unwrap().value(),
                Some(&b"and it goes on"[..]),
                "{case}: {name}@{offset}"
            );
        }
    }
}

// -- the matrix --

type Run = fn(&Disk, &mut Told);

const OPS: [Op; 12] = [
    Op::Lock,
    Op::CreateDir,
    Op::List,
    Op::OpenFile,
    Op::Rename,
    Op::Remove,
    Op::SyncDir,
    Op::Read,
    Op::Write,
    Op::Sync,
    Op::Len,
    Op::Map,
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    Fails(ErrorKind),
    Short,
    Torn,
}

const FAULTS: [Fault; 5] = [
    Fault::Fails(ErrorKind::Other),
    Fault::Fails(ErrorKind::StorageFull),
    Fault::Fails(ErrorKind::Interrupted),
    Fault::Short,
    Fault::Torn,
];

impl Fault {
    fn befalls(self, op: Op) -> bool {
        match self {
            Fault::Fails(_) => true,
            Fault::Short => is_transfer(op),
            Fault::Torn => op == Op::Write,
        }
    }

    /// Whether the caller of a broker notices nothing of it.
    fn is_invisible(self, op: Op) -> bool {
        match self {
            Fault::Fails(kind) => kind == ErrorKind::Interrupted && is_transfer(op),
            Fault::Short => true,
            Fault::Torn => false,
        }
    }

    fn plan(self, disk: &Disk, op: Op, nth: u64) {
        match self {
            Fault::Fails(kind) => disk.fail(op, nth, kind),
            Fault::Short => disk.short(op, nth),
            Fault::Torn => disk.tear(nth),
        }
    }
}

fn is_transfer(op: Op) -> bool {
    matches!(op, Op::Read | Op::Write)
}

/// Tries all of the matrix, or by default one of `sample` cases, others for each fault.
fn fail_each_operation(name: &str, run: Run, sample: u64, at_least: u64) {
    let counted = Disk::new();
    let mut told = Told::default();
    run(&counted, &mut told);
    assert!(told.errors.is_empty(), "{name}: {:?}", told.errors);
    let kept: usize = told.logs.values().map(|log| log.kept.len()).sum();
    assert!(kept >= 15, "{name} keeps {kept} records");
    assert_kept(&counted, &told, name);

    let sample = if thorough() { 1 } else { sample };
    let (mut cases, mut told_of, mut errors) = (0u64, 0u64, 0);
    for (number, fault) in (0..).zip(FAULTS) {
        let befallen = OPS.into_iter().filter(|op| fault.befalls(*op));
        let all = befallen.flat_map(|op| (1..=counted.ops_of(op)).map(move |nth| (op, nth)));
        for (op, nth) in all.skip(number % sample as usize).step_by(sample as usize) {
            let case = format!("{name}: {op:?} {nth} of {}, {fault:?}", counted.ops_of(op));
            let disk = Disk::new();
            fault.plan(&disk, op, nth);
            let mut told = Told::default();
            run(&disk, &mut told);
            disk.clear_faults();
            assert!(!fault.is_invisible(op) || told.errors.is_empty(), "{case}: {:?}", told.errors);
            for error in &told.errors {
                assert_says_where(error, &case);
            }
            assert_kept(&disk, &told, &case);
            cases += 1;
            told_of += u64::from(!told.errors.is_empty());
            errors += told.errors.len();
        }
    }
    let operations: u64 = OPS.into_iter().map(|op| counted.ops_of(op)).sum();
    assert_eq!(operations, counted.ops(), "every kind of operation is among them");
    println!("{name}: {operations} operations, {cases} cases, {told_of} of them noticed, {errors} errors");
    assert!(
        operations >= 300 && cases >= at_least && told_of >= cases / 4,
        "{name}: {cases} cases, {told_of}"
    );
}

#[test]
fn an_io_error_during_appends_loses_no_acknowledged_record() {
    fail_each_operation("appending", appending, 3, 700);
}

#[test]
fn an_io_error_during_deletion_keeps_all_other_records() {
    fail_each_operation("letting go", letting_go, 3, 950);
}

#[test]
fn an_io_error_during_close_or_open_loses_nothing() {
    fail_each_operation("taking over", taking_over, 3, 1000);
}

#[test]
fn interruptions_and_short_transfers_are_invisible() {
    for run in [appending as Run, letting_go, taking_over] {
        let usual = {
            let disk = Disk::new();
            run(&disk, &mut Told::default());
            dump(&open(&disk).unwrap()).unwrap()
        };
        for every in [2, 3, 5, 7] {
            let disk = Disk::new();
            for nth in (1..6000).step_by(every) {
                disk.fail(Op::Read, nth, ErrorKind::Interrupted);
                disk.fail(Op::Write, nth, ErrorKind::Interrupted);
                disk.short(Op::Read, nth + 1);
                disk.short(Op::Write, nth + 1);
            }
            let mut told = Told::default();
            run(&disk, &mut told);
            assert!(told.errors.is_empty(), "every {every}: {:?}", told.errors);
            disk.clear_faults();
            let broker = open(&disk).unwrap();
            assert!(broker.open_report().clean && broker.open_report().warnings.is_empty());
            assert_eq!(dump(&broker).unwrap(), usual, "every {every}");
        }
    }
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
