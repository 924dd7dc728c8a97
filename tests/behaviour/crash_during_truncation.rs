//! A workload of rolls, retention, deleted records, truncations and resets on a simulated disk
//! crashes at every single operation, and the disk is left in every way a power loss may leave it.
//! The log is the one before an action or the one after it, never a mix.

use std::collections::BTreeSet;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Partition, Record, Result, Retention, Start, TopicConfig,
};

use crate::common::{after_each_crash, crash_at_each_operation, files, small, thorough};

const NAMES: [&str; 2] = ["sync", "os"];

/// The records that retention leaves of a log, at least.
const KEPT_BYTES: u64 = 1 << 10;

/// One log as it may be found: from here on, these values, and so many of them for certain.
#[derive(Clone, Debug, Default)]
struct State {
    start: u64,
    values: Vec<String>,
    acknowledged: u64,
    durable: u64,
}

impl State {
    fn end(&self) -> u64 {
        self.start + self.values.len() as u64
    }
}

/// The log before and after the running operation.
#[derive(Clone, Default)]
struct Model {
    now: State,
    next: Option<State>,
    written: u64,
}

type Told = [Model; 2];

fn config(name: &str) -> TopicConfig {
    let config = small();
    match name {
        "sync" => config.durability(Durability::Sync),
        _ => config.compression(Compression::Lz4),
    }
}

fn broker(disk: &Disk, clock: &ManualClock) -> Result<Broker> {
    let broker = BrokerConfig::new().clock(clock.clone()).seed(7).max_open_files(8).on_disk(disk)?;
    for name in NAMES {
        // A crash may have come between retention and this.
        if broker.topic(name).is_ok() {
            broker.alter_topic(name, config(name))?;
        }
    }
    Ok(broker)
}

fn partition(broker: &Broker, name: &str) -> Result<Partition> {
    broker.ensure_topic(name, config(name))?.partition(0)
}

/// Three records in one batch.
fn send(broker: &Broker, name: &str, model: &mut Model) -> Result<()> {
    let base = model.now.end();
    let values: Vec<_> = (0..3)
        .map(|_| {
            model.written += 1;
            format!("{name} {} {}", model.written, "x".repeat(model.written as usize % 5 * 30))
        })
        .collect();
    model.now.values.extend(values.iter().cloned());
    let records = values.iter().map(|value| Record::new(value.as_str()));
    let receipts = broker.producer().send_all(&partition(broker, name)?, records)?.wait()?;
    assert_eq!(receipts.first().unwrap().offset, base);
    model.now.acknowledged = model.now.end();
    if name == "sync" {
        model.now.durable = model.now.end();
    }
    Ok(())
}

/// Something that has one commit point.
fn act(model: &mut Model, next: State, act: impl FnOnce() -> Result<()>) -> Result<()> {
    model.next = Some(next.clone());
    act()?;
    *model = Model { now: next, next: None, written: model.written };
    Ok(())
}

fn truncate(broker: &Broker, name: &str, model: &mut Model, back: u64) -> Result<()> {
    let mut next = model.now.clone();
    next.values.truncate(next.values.len() - back as usize);
    // Whatever is kept is on disk.
    (next.acknowledged, next.durable) = (next.end(), next.end());
    let (partition, to) = (partition(broker, name)?, next.end());
    act(model, next, || partition.truncate_to(to.into()))
}

fn reset(broker: &Broker, name: &str, model: &mut Model, offset: u64) -> Result<()> {
    let next = State { start: offset, values: Vec::new(), acknowledged: offset, durable: offset };
    let partition = partition(broker, name)?;
    act(model, next, || partition.reset_to(offset.into()))
}

/// The state without the oldest records.
fn begun_later(state: &State, start: u64) -> State {
    let mut next = state.clone();
    next.values.drain(..(start - state.start) as usize);
    next.start = start;
    next.durable = next.durable.max(start);
    next
}

fn delete(broker: &Broker, name: &str, model: &mut Model, count: u64) -> Result<()> {
    let next = begun_later(&model.now, model.now.start + count);
    let (partition, before) = (partition(broker, name)?, next.start);
    act(model, next, || partition.delete_records(before.into()).map(drop))
}

/// Where a log starts when whole segments are gone, the oldest first, as long as enough is left.
fn kept_by_size(partition: &Partition) -> u64 {
    let stats = partition.stats();
    let (mut left, mut start) = (stats.bytes, stats.bounds.log_start);
    for pair in partition.segments().windows(2) {
        left -= pair[0].bytes;
        if left < KEPT_BYTES {
            break;
        }
        start = start.max(pair[1].base_offset);
    }
    start.get()
}

/// Retention, of every log there is. Returns how many records went.
fn retain(broker: &Broker, told: &mut Told) -> Result<u64> {
    let mut gone = 0;
    for (name, model) in NAMES.iter().zip(told.iter_mut()) {
        if let Ok(topic) = broker.topic(name) {
            // Only now: appends would keep it as well, and the model could not know when.
            broker.alter_topic(name, config(name).retention(Retention::for_bytes(KEPT_BYTES)))?;
            let start = kept_by_size(&topic.partition(0)?);
            gone += start - model.now.start;
            model.next = Some(begun_later(&model.now, start));
        }
    }
    broker.maintain()?;
    for name in NAMES {
        if broker.topic(name).is_ok() {
            broker.alter_topic(name, config(name))?;
        }
    }
    for model in told.iter_mut() {
        model.now = model.next.take().unwrap_or_else(|| model.now.clone());
    }
    Ok(gone)
}

fn workload(disk: &Disk, told: &mut Told) -> Result<()> {
    let clock = ManualClock::new();
    for round in 0..2 {
        let broker = broker(disk, &clock)?;
        for (at, name) in NAMES.iter().enumerate() {
            let model = &mut told[at];
            for _ in 0..8 {
                send(&broker, name, model)?;
            }
            // Within a batch of an older segment, between two batches of the newest, to nothing.
            truncate(&broker, name, model, 10)?;
            send(&broker, name, model)?;
            truncate(&broker, name, model, 3)?;
            delete(&broker, name, model, 4)?;
            for _ in 0..7 {
                send(&broker, name, model)?;
            }
            let gone = retain(&broker, told)?;
            assert!(gone > 0, "retention has something to do");
            let model = &mut told[at];
            truncate(&broker, name, model, 1)?;
            truncate(&broker, name, model, 1)?;
            send(&broker, name, model)?;
            if round == 0 {
                let everything = model.now.values.len() as u64;
                truncate(&broker, name, model, everything)?;
                send(&broker, name, model)?;
                reset(&broker, name, model, 200)?;
                send(&broker, name, model)?;
                reset(&broker, name, model, 0)?;
                // Rolls where segments began before.
                for _ in 0..16 {
                    send(&broker, name, model)?;
                }
                // Retention after a reset, and a truncation after that.
                assert!(retain(&broker, told)? > 0, "retention has something to do again");
                let model = &mut told[at];
                truncate(&broker, name, model, 4)?;
                send(&broker, name, model)?;
                broker.sync()?;
                let model = &mut told[at];
                model.now.durable = model.now.end();
            }
        }
        broker.close()?;
        for model in told.iter_mut() {
            model.now.durable = model.now.acknowledged;
        }
    }
    Ok(())
}

/// Which of the states a log is in.
fn look<'a>(
    disk: &Disk,
    broker: &Broker,
    name: &str,
    model: &'a Model,
    case: &str,
) -> Option<(&'a State, u64)> {
    // A topic whose creation was interrupted may be missing.
    let partition = broker.topic(name).ok()?.partition(0).unwrap();
    let bounds = partition.bounds().unwrap();
    let (start, end) = (bounds.log_start.get(), bounds.visible_end.get());
    let mut values = Vec::new();
    while start + (values.len() as u64) < end {
        let from = Start::At((start + values.len() as u64).into());
        for record in &partition.read(from, 1 << 20).unwrap_or_else(|e| panic!("{case}: {name}: {e}")) {
            assert_eq!(record.offset(), start + values.len() as u64, "{case}: {name}");
            values.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
        }
    }
    let listed = partition.segments().len();
    let dir = format!("topics/{name}/0");
    // A partition that was never written to may have the segment of a first write that was
    // interrupted.
    let is_right = |found: usize| found == listed || (listed == 0 && found == 1);
    assert!(is_right(files(disk, &dir, ".log").len()), "{case}: {name}: a file of no segment");
    assert!(files(disk, &dir, ".index").len() <= listed, "{case}: {name}: an index of no segment");
    let is = |state: &&State| state.start == start && end <= state.end() && state.values.starts_with(&values);
    // The newer one first: an empty log is a prefix of any.
    let states = || [model.next.as_ref(), Some(&model.now)].into_iter().flatten();
    let fit = states().filter(is).find(|state| end >= state.durable).or_else(|| states().find(is));
    let Some(state) = fit else {
        panic!("{case}: {name}: {start}..{end} is neither\n{:?}\nnor\n{:?}", model.now, model.next)
    };
    Some((state, end))
}

fn check(disk: &Disk, told: &Told, survive: Survive, case: &str) {
    let clock = ManualClock::new();
    disk.crash(survive);
    let first = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: opening: {e}"));
    assert!(first.open_report().damaged.is_empty(), "{case}: {:?}", first.open_report().damaged);
    let mut found = Vec::new();
    for (name, model) in NAMES.iter().zip(told) {
        let looked = look(disk, &first, name, model, case);
        if let Some((state, end)) = looked {
            let promised = if survive == Survive::Everything { state.acknowledged } else { state.durable };
            assert!(end >= promised, "{case}: {name} ends at {end}, {promised} were promised");
        }
        found.push(looked.map(|(state, end)| (state.start, end)));
    }
    drop(first);

    // The recovered content is durable, and all operations continue.
    disk.crash(Survive::Synced);
    let second = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: second opening: {e}"));
    for ((name, model), found) in NAMES.iter().zip(told).zip(&found) {
        let again = look(disk, &second, name, model, case).map(|(state, end)| (state.start, end));
        assert_eq!(again, *found, "{case}: {name}: the second opening agrees");
        let partition = partition(&second, name).unwrap();
        let (start, end) = found.unwrap_or((0, 0));
        let middle = start + (end - start) / 2;
        partition.truncate_to(middle.into()).unwrap();
        let receipt = second.producer().send(&partition, Record::new("after")).unwrap().wait().unwrap();
        assert_eq!(receipt.offset, middle, "{case}: {name}");
    }
    second.sync().unwrap();
    drop(second);
    disk.crash(Survive::Random(9));
    let third = broker(disk, &clock).unwrap_or_else(|e| panic!("{case}: third opening: {e}"));
    for (name, found) in NAMES.iter().zip(&found) {
        let (start, end) = found.unwrap_or((0, 0));
        let bounds = third.topic(name).unwrap().partition(0).unwrap().bounds().unwrap();
        let expected = (start, start + (end - start) / 2 + 1);
        assert_eq!((bounds.log_start.get(), bounds.visible_end.get()), expected, "{case}: {name}");
    }
}

fn complete() -> u64 {
    let (disk, mut told) = (Disk::new(), Told::default());
    workload(&disk, &mut told).unwrap();
    disk.ops()
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_log_or_the_new_one() {
    let mut cases = 0;
    for operation in 1..=complete() {
        let (disk, mut told) = (Disk::new(), Told::default());
        disk.crash_at(operation);
        assert!(workload(&disk, &mut told).is_err(), "operation {operation} was not reached");
        let ways = [Survive::Everything, Survive::Synced, Survive::Zeroed(operation)];
        let random = (0..if thorough() { 30 } else { 3 }).map(|n| Survive::Random(operation * 31 + n));
        after_each_crash(&disk, ways.into_iter().chain(random), &mut BTreeSet::new(), |disk, survive| {
            check(disk, &told, survive, &format!("crash at operation {operation}, {survive:?}"));
            cases += 1;
        });
    }
    assert!(cases >= 2_000, "{cases}");
}

/// The opening that follows itself crashes at each of its operations.
#[test]
fn a_crash_at_any_operation_of_the_recovery_too() {
    let mut cases = 0;
    for operation in (7..complete()).step_by(if thorough() { 1 } else { 29 }) {
        let (disk, mut told) = (Disk::new(), Told::default());
        disk.crash_at(operation);
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
