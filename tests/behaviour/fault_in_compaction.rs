//! Every call to the disk in a compaction fails in turn, with EIO, ENOSPC and EINTR, and every
//! transfer is shortened or torn. The log stays readable and is the old one or the new one, as
//! reported by the call or by the next opening. The next compaction succeeds, and no unlisted file
//! is left.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{Broker, BrokerConfig, Cleanup, Durability, Error, Partition, ReadMode, Record, Start};

use crate::common::{files, small, thorough};

/// Offsets, keys and values.
type State = Vec<(u64, Option<Vec<u8>>, Option<Vec<u8>>)>;

const END: u64 = 60;

/// Little memory: it takes several compactions.
fn config(clock: &ManualClock, mode: ReadMode) -> BrokerConfig {
    BrokerConfig::new().clock(clock.clone()).seed(7).compaction_memory(200).read_mode(mode).max_open_files(8)
}

/// A log of many segments, the first of them compacted, with tombstones and gaps.
fn prepared() -> Disk {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = config(&clock, ReadMode::Map).on_disk(&disk).unwrap();
    let settings = |ratio| {
        let topic = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(ratio);
        topic.durability(Durability::Sync)
    };
    let topic = broker.create_topic("t", settings(1.0)).unwrap();
    for n in 0..END {
        let record = match n % 11 {
            10 => Record::tombstone(format!("{}", n % 7)),
            _ => Record::new(format!("value {n} {}", "x".repeat(n as usize % 5 * 10)))
                .key(format!("{}", n % 7)),
        };
        broker.producer().send(&topic, record).unwrap().wait().unwrap();
        if n == END / 3 {
            while topic.partition(0).unwrap().compact().unwrap().is_some() {}
        }
    }
    // Its last segment is sealed, and nothing of it compacted yet; from now on every maintenance
    // pass does.
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    broker.maintain().unwrap();
    broker.alter_topic("t", settings(0.0)).unwrap();
    broker.close().unwrap();
    disk.duplicate()
}

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

fn state(partition: &Partition) -> State {
    let (mut rows, mut from) = (Vec::new(), Start::Beginning);
    loop {
        let some = partition.read(from, 1 << 20).unwrap();
        let Some(last) = some.last() else { return rows };
        from = Start::At(last.offset().plus(1));
        let owned = |bytes: &[u8]| bytes.to_vec();
        rows.extend(some.iter().map(|r| (r.offset().get(), r.key().map(owned), r.value().map(owned))));
    }
}

fn fold(state: &State) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut table = BTreeMap::new();
    for (_, key, value) in state {
        let key = key.clone().unwrap();
        match value {
            Some(value) => table.insert(key, value.clone()),
            None => table.remove(&key),
        };
    }
    table
}

fn ready(disk: &Disk, mode: ReadMode) -> Broker {
    config(&ManualClock::new(), mode).on_disk(disk).unwrap()
}

/// No file of a segment is there that is not listed.
fn assert_no_orphan(disk: &Disk, partition: &Partition, case: &str) {
    let listed = partition.segments().len();
    let (logs, indexes) = (files(disk, "topics/t/0", ".log"), files(disk, "topics/t/0", ".index"));
    assert_eq!(logs.len(), listed, "{case}: {logs:?}");
    for index in &indexes {
        assert!(logs.contains(&index.with_extension("log")), "{case}: {}", index.display());
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Fails(ErrorKind),
    Short,
    Torn,
}

impl Fault {
    const ALL: [Fault; 5] = [
        Fault::Fails(ErrorKind::Other),
        Fault::Fails(ErrorKind::StorageFull),
        Fault::Fails(ErrorKind::Interrupted),
        Fault::Short,
        Fault::Torn,
    ];

    fn befalls(self, op: Op) -> bool {
        match self {
            Fault::Fails(_) => true,
            Fault::Short => matches!(op, Op::Read | Op::Write),
            Fault::Torn => op == Op::Write,
        }
    }

    fn is_invisible(self, op: Op) -> bool {
        let repeated = self == Fault::Fails(ErrorKind::Interrupted) && matches!(op, Op::Read | Op::Write);
        self == Fault::Short || repeated
    }

    fn plan(self, disk: &Disk, op: Op, nth: u64) {
        match self {
            Fault::Fails(kind) => disk.fail(op, nth, kind),
            Fault::Short => disk.short(op, nth),
            Fault::Torn => disk.tear(nth),
        }
    }
}

const OPS: [Op; 9] =
    [Op::OpenFile, Op::Rename, Op::Remove, Op::SyncDir, Op::Read, Op::Write, Op::Sync, Op::Len, Op::Map];

/// All due compactions; the contents after each. Ends with the first error.
fn clean(partition: &Partition, states: &mut Vec<State>) -> quipu::Result<()> {
    while partition.compact()?.is_some() {
        states.push(state(partition));
    }
    Ok(())
}

fn sweep(mode: ReadMode) {
    let start = prepared();
    // The contents in order, if nothing fails, and the calls to the disk.
    let mut states = Vec::new();
    let counted = start.duplicate();
    let broker = ready(&counted, mode);
    let whole = partition(&broker);
    states.push(state(&whole));
    let before: Vec<_> = OPS.map(|op| counted.ops_of(op)).to_vec();
    let all_before = counted.ops();
    clean(&whole, &mut states).unwrap();
    // Reading the contents is among them: readers run during a compaction.
    let ops: Vec<_> =
        OPS.iter().zip(&before).map(|(op, before)| (*op, counted.ops_of(*op) - before)).collect();
    let known: u64 = ops.iter().map(|(_, count)| count).sum();
    assert_eq!(counted.ops() - all_before, known, "every kind of operation is among them");
    assert!(states.len() > 3, "{ops:?}");
    assert!(states.windows(2).all(|pair| fold(&pair[0]) == fold(&pair[1])));
    assert_no_orphan(&counted, &whole, "without faults");
    let last = states.last().unwrap();

    let (mut cases, mut told, mut poisoned) = (0, 0, 0);
    let sample = if thorough() { 1 } else { 2 };
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let befallen = ops.iter().filter(|(op, _)| fault.befalls(*op));
        let all = befallen.flat_map(|(op, count)| (1..=*count).map(move |nth| (*op, nth)));
        for (op, nth) in all.skip(number % sample).step_by(sample) {
            let case = format!("{mode:?}: {op:?} {nth}, {fault:?}");
            let disk = start.duplicate();
            let broker = ready(&disk, mode);
            let log = partition(&broker);
            fault.plan(&disk, op, nth);
            let mut done = vec![states[0].clone()];
            let result = loop {
                match log.compact() {
                    Ok(None) => break Ok(()),
                    // Before it is read, because the read may fail.
                    Ok(Some(_)) => done.push(states[done.len()].clone()),
                    Err(error) => break Err(error),
                }
                if let Ok(records) = log.read(Start::Beginning, 1 << 20) {
                    let offsets: Vec<_> = records.iter().map(|record| record.offset().get()).collect();
                    let expected = states[done.len() - 1].iter().map(|row| row.0).take(offsets.len());
                    assert!(expected.eq(offsets.iter().copied()), "{case}: {offsets:?}");
                }
            };
            disk.clear_faults();
            // Exactly the old or the new content: here, and for an opening after a stop of either
            // kind.
            let at = done.len() - 1;
            let expected = &states[at..states.len().min(at + 1 + usize::from(result.is_err()))];
            let found = state(&log);
            match &result {
                Ok(()) => assert_eq!(&found, last, "{case}"),
                Err(error) => {
                    assert!(!fault.is_invisible(op), "{case}: {error}");
                    assert_eq!(found, states[at], "{case}: before the commit nothing has changed");
                    assert!(log.stats().compaction.failed.is_some(), "{case}");
                    assert_says_what(error, fault, &case);
                    told += 1;
                }
            }
            for survive in [Survive::Everything, Survive::Synced] {
                let after = disk.duplicate();
                after.crash(survive);
                let case = format!("{case}, {survive:?}");
                let broker = ready(&after, mode);
                let report = broker.open_report();
                assert!(report.damaged.is_empty() && report.warnings.is_empty(), "{case}: {report:?}");
                let log = partition(&broker);
                let found = state(&log);
                let durable = if result.is_ok() { std::slice::from_ref(last) } else { expected };
                assert!(durable.contains(&found), "{case}: a mix");
                assert_no_orphan(&after, &log, &case);
                assert_continues(&broker, &log, last, &case);
            }
            // And here, once the doubt is settled.
            if log.stats().poisoned.is_some() {
                poisoned += 1;
                log.reopen().unwrap_or_else(|e| panic!("{case}: {e}"));
                assert!(expected.contains(&state(&log)), "{case}: a mix");
            }
            assert_continues(&broker, &log, last, &case);
            drop((log, broker));
            let broker = ready(&disk, mode);
            assert!(broker.open_report().warnings.is_empty(), "{case}");
            assert_no_orphan(&disk, &partition(&broker), &case);
            cases += 1;
        }
    }
    println!("{mode:?}: {ops:?}, {cases} cases, {told} of them reported, {poisoned} in doubt");
    assert!(
        cases > 200 && told > cases / 4 && poisoned > 0,
        "{cases} cases, {told} reported, {poisoned} in doubt"
    );
}

/// The next maintenance compacts the rest, and the log takes appends.
fn assert_continues(broker: &Broker, log: &Partition, last: &State, case: &str) {
    broker.maintain().unwrap_or_else(|e| panic!("{case}: {e}"));
    assert!(log.stats().compaction.failed.is_none(), "{case}: {:?}", log.stats().compaction);
    assert_eq!(&state(log), last, "{case}");
    let sent = broker.producer().send(log, Record::new("more").key("more")).and_then(quipu::Pending::wait);
    assert_eq!(sent.unwrap_or_else(|e| panic!("{case}: {e}")).offset, END, "{case}");
}

fn assert_says_what(error: &Error, fault: Fault, case: &str) {
    match error {
        Error::DiskFull { path, .. } => {
            assert!(
                path.starts_with("mem:/") && fault == Fault::Fails(ErrorKind::StorageFull),
                "{case}: {error}"
            );
        }
        Error::Io { path, .. } => assert!(path.starts_with("mem:/"), "{case}: {error}"),
        // The next call finds it so; the compaction itself returns the error.
        Error::Poisoned { .. } => {}
        other => panic!("{case}: {other}"),
    }
}

#[test]
fn an_io_error_in_a_compaction_with_maps_leaves_the_old_or_the_new_log() {
    sweep(ReadMode::Map);
}

#[test]
fn an_io_error_in_a_compaction_with_reads_leaves_the_old_or_the_new_log() {
    sweep(ReadMode::Positional);
}
