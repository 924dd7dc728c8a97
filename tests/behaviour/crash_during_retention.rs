//! A workload of rolls, retention and deleted records on a simulated disk crashes at every single
//! operation, and the disk is left in every way a power loss may leave it. The log start is never
//! before the promised one nor after the requested one, no promised record at or after it is lost,
//! and a log is never a mix of before and after.

use std::collections::BTreeSet;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Durability, Partition, Record, Result, Retention, Start, TopicConfig};

use crate::common::{after_each_crash, crash_at_each_operation, files, small};

const NAMES: [&str; 3] = ["sync", "os", "aged"];

/// A model of one partition: its possible contents.
#[derive(Clone, Default)]
struct Model {
    /// Every value sent, by offset.
    sent: Vec<String>,
    /// As many were acknowledged with the promise to survive the process, and a power loss.
    acknowledged: usize,
    durable: usize,
    /// The log start that was returned...
    start: u64,
    /// ... and no caller requested the deletion of more than this.
    start_at_most: u64,
}

type Told = [Model; 3];

fn config(name: &str) -> TopicConfig {
    match name {
        "sync" => small().durability(Durability::Sync).retention(Retention::for_bytes(2_000)),
        "os" => small(),
        _ => small().retention(Retention::for_age(Duration::from_secs(60)).and_bytes(5_000)),
    }
}

fn broker(disk: &Disk, clock: &ManualClock) -> Result<Broker> {
    BrokerConfig::new().clock(clock.clone()).seed(7).max_open_files(8).on_disk(disk)
}

fn partition(broker: &Broker, name: &str) -> Result<Partition> {
    broker.ensure_topic(name, config(name))?.partition(0)
}

fn workload(disk: &Disk, told: &mut Told) -> Result<()> {
    let clock = ManualClock::new();
    for round in 0..2 {
        let broker = broker(disk, &clock)?;
        for step in 0..5u64 {
            for (name, model) in NAMES.iter().zip(told.iter_mut()) {
                for _ in 0..4 {
                    send(&broker, name, model)?;
                }
            }
            clock.advance(Duration::from_secs(25));
            match step {
                // To the very end, with a segment that is not synced, and into the middle of one.
                1 => delete(&broker, "os", &mut told[1], |model| model.sent.len() as u64)?,
                3 => delete(&broker, "os", &mut told[1], |model| model.sent.len() as u64 - 3)?,
                4 => delete(&broker, "sync", &mut told[0], |model| model.start + 1)?,
                _ => {}
            }
            if step % 2 == 0 {
                maintain(&broker, told)?;
            }
            if step == 3 {
                broker.sync()?;
                for model in told.iter_mut() {
                    model.durable = model.acknowledged;
                }
            }
        }
        if round == 0 {
            // All of it, the active segment too.
            clock.advance(Duration::from_secs(61));
            maintain(&broker, told)?;
        }
        broker.close()?;
        for model in told.iter_mut() {
            model.durable = model.acknowledged;
        }
    }
    Ok(())
}

fn send(broker: &Broker, name: &str, model: &mut Model) -> Result<()> {
    let n = model.sent.len();
    let value = format!("{name} {n} {}", "x".repeat(n % 5 * 40));
    model.sent.push(value.clone());
    // Appends keep retention by size, which keeps at least so much; records have 400 bytes at most
    // with all around them.
    let kept = match name {
        "sync" => 5,
        "os" => usize::MAX,
        _ => 12,
    };
    model.start_at_most = model.start_at_most.max((model.sent.len().saturating_sub(kept)) as u64);
    let receipt = broker.producer().send(&partition(broker, name)?, Record::new(value))?.wait()?;
    assert_eq!(receipt.offset, n as u64);
    model.acknowledged = n + 1;
    if name == "sync" {
        model.durable = n + 1;
    }
    Ok(())
}

fn delete(broker: &Broker, name: &str, model: &mut Model, before: impl Fn(&Model) -> u64) -> Result<()> {
    let before = before(model);
    model.start_at_most = model.start_at_most.max(before);
    model.start = partition(broker, name)?.delete_records(before.into())?.get();
    // Offsets that were given out and deleted are not given out again.
    model.durable = model.durable.max(before as usize);
    Ok(())
}

fn maintain(broker: &Broker, told: &mut Told) -> Result<()> {
    for model in told.iter_mut().skip(2) {
        model.start_at_most = model.sent.len() as u64;
    }
    // By size at least so much is kept; the records are shorter than 400 bytes with all that is
    // around them.
    told[0].start_at_most = told[0].start_at_most.max((told[0].sent.len() as u64).saturating_sub(5));
    broker.maintain()?;
    for (name, model) in NAMES.iter().zip(told.iter_mut()) {
        let start = partition(broker, name)?.bounds()?.log_start.get();
        assert!(start >= model.start && start <= model.start_at_most, "{name}: {start}");
        model.start = start;
        // A log that was emptied ends where it did.
        model.durable = model.durable.max(start as usize);
    }
    Ok(())
}

/// Log start, log end; every record between equals the sent one.
fn look(disk: &Disk, broker: &Broker, name: &str, model: &Model, case: &str) -> Option<(u64, u64)> {
    // A topic whose creation was interrupted may be missing.
    let partition = broker.topic(name).ok()?.partition(0).unwrap();
    let bounds = partition.bounds().unwrap();
    assert!(bounds.log_start <= bounds.visible_end, "{case}: {bounds:?}");
    let mut next = bounds.log_start;
    while next < bounds.visible_end {
        let records = partition.read(Start::At(next), 1 << 20).unwrap_or_else(|e| panic!("{case}: {e}"));
        for record in &records {
            assert_eq!(record.offset(), next, "{case}");
            let value = model.sent.get(next.get() as usize).map_or("after", String::as_str);
            assert_eq!(record.value().unwrap(), value.as_bytes(), "{case}");
            next = next.plus(1);
        }
    }
    let dir = format!("topics/{name}/0");
    let listed = partition.segments().len();
    // A partition that was never written to may have the segment of a first write that was
    // interrupted.
    let is_right = |found: usize| found == listed || (listed == 0 && found == 1);
    assert!(is_right(files(disk, &dir, ".log").len()), "{case}: {name}: a file of no segment");
    assert!(files(disk, &dir, ".index").len() <= listed, "{case}: {name}: an index of no segment");
    Some((bounds.log_start.get(), bounds.visible_end.get()))
}

fn check(disk: &Disk, told: &Told, survive: Survive, case: &str) {
    let clock = ManualClock::new();
    disk.crash(survive);
    let first = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: opening: {e}"));
    assert!(first.open_report().damaged.is_empty(), "{case}: {:?}", first.open_report().damaged);
    let mut found = Vec::new();
    for (name, model) in NAMES.iter().zip(told) {
        let promised = if survive == Survive::Everything { model.acknowledged } else { model.durable } as u64;
        let looked = look(disk, &first, name, model, case);
        let (start, end) = looked.unwrap_or((0, 0));
        assert!(start >= model.start, "{case}: {name} starts at {start}, expected {}", model.start);
        assert!(start <= model.start_at_most, "{case}: {name} starts at {start}");
        assert!(end >= promised, "{case}: {name} ends at {end}, {promised} were promised");
        assert!(end <= model.sent.len() as u64, "{case}: {name} ends at {end}");
        found.push(looked);
    }
    drop(first);

    // The recovered content is durable, and appends and deletions continue.
    disk.crash(Survive::Synced);
    let second = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: second opening: {e}"));
    for ((name, model), found) in NAMES.iter().zip(told).zip(&found) {
        assert_eq!(
            look(disk, &second, name, model, case),
            *found,
            "{case}: {name}: the second opening agrees"
        );
        let partition = partition(&second, name).unwrap();
        let (start, end) = found.unwrap_or((0, 0));
        let receipt = second.producer().send(&partition, Record::new("after")).unwrap().wait().unwrap();
        assert_eq!(receipt.offset, end, "{case}: {name}");
        let middle = start + (end - start) / 2;
        assert_eq!(partition.delete_records(middle.into()).unwrap(), middle, "{case}: {name}");
    }
    second.sync().unwrap();
    drop(second);
    disk.crash(Survive::Random(9));
    let third = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: third opening: {e}"));
    for (name, found) in NAMES.iter().zip(&found) {
        let (start, end) = found.unwrap_or((0, 0));
        let bounds = third.topic(name).unwrap().partition(0).unwrap().bounds().unwrap();
        assert_eq!(
            (bounds.log_start.get(), bounds.visible_end.get()),
            (start + (end - start) / 2, end + 1),
            "{case}: {name}"
        );
    }
}

fn complete() -> u64 {
    let disk = Disk::new();
    let mut told = Told::default();
    workload(&disk, &mut told).unwrap();
    assert!(told.iter().all(|model| model.start > 20), "something was deleted everywhere");
    disk.ops()
}

#[test]
fn a_crash_at_any_operation_keeps_every_promise() {
    let operations = complete();
    let mut cases = 0;
    for operation in 1..=operations {
        let disk = Disk::new();
        disk.crash_at(operation);
        let mut told = Told::default();
        assert!(workload(&disk, &mut told).is_err(), "operation {operation} was not reached");
        let ways = [Survive::Everything, Survive::Synced, Survive::Zeroed(operation)];
        let random = (0..3).map(|n| Survive::Random(operation * 31 + n));
        after_each_crash(&disk, ways.into_iter().chain(random), &mut BTreeSet::new(), |disk, survive| {
            check(disk, &told, survive, &format!("crash at operation {operation}, {survive:?}"));
            cases += 1;
        });
    }
    assert!(cases >= 2_000, "{cases}");
}

/// The opening that finishes a half-done deletion itself crashes at each of its operations.
#[test]
fn a_crash_at_any_operation_of_the_recovery_keeps_every_promise() {
    let mut cases = 0;
    for operation in (7..complete()).step_by(37) {
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
                let ways = [Survive::Synced, Survive::Random(nested), Survive::Zeroed(nested)];
                after_each_crash(disk, ways, &mut seen, |disk, survive| {
                    let case = format!("crash at {operation}, then at {nested} of the recovery, {survive:?}");
                    check(disk, &told, survive, &case);
                    cases += 1;
                });
            },
        );
    }
    println!("{cases} cases");
    assert!(cases >= 300, "{cases}");
}
