//! A projection with state has that of the last commit whenever an event is applied: after a failed
//! step, a restart, a rebuild, and when partitions come and go.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, ConsumedRecord, ConsumerBuilder, Durability, Error, ExpectedVersion,
    OffsetReset, PartitionId, Projection, Projector, Record, Result, Start, Topic, TopicConfig,
    TopicPartition, Transaction,
};

const NOW: Duration = Duration::ZERO;

type Calls = Rc<RefCell<Vec<String>>>;
type Cents = BTreeMap<String, i64>;

fn open(disk: &Disk) -> Result<Broker> {
    open_with(disk, &ManualClock::new())
}

fn open_with(disk: &Disk, clock: &ManualClock) -> Result<Broker> {
    BrokerConfig::new().clock(clock.clone()).seed(1).durability(Durability::Sync).on_disk(disk)
}

fn topics(broker: &Broker) -> Result<(Topic, Topic)> {
    let accounts = broker.ensure_topic("accounts", TopicConfig::streams().partitions(2))?;
    let table = TopicConfig::new().partitions(2).cleanup(Cleanup::Compact);
    Ok((accounts, broker.ensure_topic("balances", table)?))
}

/// Pays a cent more with each call into one of five accounts.
fn pay(broker: &Broker, from: i64, to: i64) -> Result<()> {
    for n in from..to {
        let account = topics(broker)?.0.stream(format!("a{}", n % 5))?;
        account.append(ExpectedVersion::Any, Record::new((n + 1).to_string()))?;
    }
    Ok(())
}

fn cents(record: &ConsumedRecord<'_>) -> i64 {
    record.value_str().unwrap().parse().unwrap()
}

/// The sums of what was paid.
fn expected(broker: &Broker) -> Cents {
    let mut sums = Cents::new();
    for partition in topics(broker).unwrap().0.partitions() {
        for paid in &partition.read(Start::Beginning, usize::MAX).unwrap() {
            *sums.entry(paid.key_str().unwrap().to_string()).or_default() += cents(&paid);
        }
    }
    sums
}

/// The rows of the table.
fn balances(broker: &Broker) -> Cents {
    let mut rows = Cents::new();
    for partition in topics(broker).unwrap().1.partitions() {
        for row in &partition.read(Start::Beginning, usize::MAX).unwrap() {
            let account = row.key_str().unwrap().to_string();
            if row.is_tombstone() {
                rows.remove(&account)
            } else {
                rows.insert(account, cents(&row))
            };
        }
    }
    rows
}

/// Keeps the balance of each account, by partition, and in a compacted topic.
#[derive(Default)]
struct Balances {
    name: &'static str,
    table: Option<Topic>,
    cents: HashMap<PartitionId, HashMap<String, i64>>,
    calls: Calls,
    /// The name of a call that returns an error, or panics, once.
    fails: Rc<Cell<Option<&'static str>>>,
    panics: Rc<Cell<Option<&'static str>>>,
}

impl Balances {
    fn call(&self, call: &'static str, of: &[TopicPartition]) -> Result<()> {
        let of: Vec<String> = of.iter().map(|of| of.partition.to_string()).collect();
        self.calls.borrow_mut().push(format!("{}{call} {}", self.name, of.join(",")).trim_end().to_string());
        self.fail(call)
    }

    fn fail(&self, call: &'static str) -> Result<()> {
        if self.panics.get() == Some(call) {
            self.panics.set(None);
            panic!("a panic on purpose");
        }
        if self.fails.get() == Some(call) {
            self.fails.set(None);
            return Err(Error::listener(call));
        }
        Ok(())
    }

    fn table(&self) -> &Topic {
        self.table.as_ref().unwrap()
    }
}

impl Projection for Balances {
    type Error = Error;

    fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<()> {
        let (partition, account) = (event.partition(), event.key_str().unwrap());
        // Without the state of its partition it could apply nothing.
        let of = self.cents.get_mut(&partition).unwrap().entry(account.to_string()).or_default();
        *of += cents(event);
        let row = Record::new(of.to_string()).key(account);
        changes.send(self.table().partition(partition)?, row);
        self.fail("apply")
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for of in partitions {
            let mut rows = HashMap::new();
            for row in &self.table().partition(of.partition)?.read(Start::Beginning, usize::MAX)? {
                let account = row.key_str().unwrap().to_string();
                if row.is_tombstone() {
                    rows.remove(&account)
                } else {
                    rows.insert(account, cents(&row))
                };
            }
            self.cents.insert(of.partition, rows);
        }
        self.call("assigned", partitions)
    }

    fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        partitions.iter().for_each(|of| drop(self.cents.remove(&of.partition)));
        self.call("revoked", partitions)
    }

    fn reset(&mut self, changes: &mut Transaction) -> Result<()> {
        let table = self.table().clone();
        for (partition, cents) in &mut self.cents {
            for (account, _) in cents.drain() {
                changes.send(table.partition(*partition)?, Record::tombstone(account));
            }
        }
        self.call("reset", &[])
    }
}

fn project(builder: ConsumerBuilder, broker: &Broker, of: Balances) -> Result<Projector<Balances>> {
    builder.project("accounts", Balances { table: Some(topics(broker)?.1), ..of })
}

fn projector(broker: &Broker, of: Balances) -> Projector<Balances> {
    project(broker.consumer("balances"), broker, of).unwrap()
}

fn taken(calls: &Calls) -> Vec<String> {
    std::mem::take(&mut calls.borrow_mut())
}

#[test]
fn the_state_is_loaded_before_the_first_event_and_after_a_restart() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    pay(&broker, 0, 20).unwrap();
    let calls = Calls::default();
    let balances_of = |calls: &Calls| Balances { calls: calls.clone(), ..Balances::default() };
    let mut first = projector(&broker, balances_of(&calls));
    assert_eq!(first.catch_up(|_| {}).unwrap(), 20);
    assert_eq!(taken(&calls), ["assigned 0,1"], "once");
    assert_eq!(balances(&broker), expected(&broker));
    drop(first);
    assert!(calls.borrow().is_empty(), "a projector that is dropped calls nothing");

    drop(broker);
    let broker = open(&disk).unwrap();
    pay(&broker, 20, 40).unwrap();
    let mut second = projector(&broker, balances_of(&calls));
    assert_eq!(second.catch_up(|_| {}).unwrap(), 20);
    assert_eq!(balances(&broker), expected(&broker));
    // Also without an event: its state may be read by the program.
    let mut third =
        project(broker.consumer("others").offset_reset(OffsetReset::End), &broker, balances_of(&calls))
            .unwrap();
    taken(&calls);
    assert_eq!(third.step(NOW).unwrap().applied, 0);
    assert_eq!(taken(&calls), ["assigned 0,1"]);
}

#[test]
fn the_state_of_a_step_that_ended_early_is_loaded_again() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    pay(&broker, 0, 20).unwrap();
    let of = Balances::default();
    let (calls, fails, panics) = (of.calls.clone(), of.fails.clone(), of.panics.clone());
    let mut projector = project(broker.consumer("balances").max_records(4), &broker, of).unwrap();
    projector.step(NOW).unwrap();
    assert_eq!(taken(&calls), ["assigned 0,1"]);

    fails.set(Some("apply"));
    assert!(matches!(projector.step(NOW), Err(Error::Listener { .. })));
    assert_eq!(projector.step(NOW).unwrap().applied, 4);
    assert_eq!(taken(&calls), ["assigned 0,1"]);

    panics.set(Some("apply"));
    catch_unwind(AssertUnwindSafe(|| projector.step(NOW).map(drop)))
        .unwrap_err()
        .downcast_ref::<&str>()
        .unwrap();
    assert_eq!(projector.step(NOW).unwrap().applied, 4);
    assert_eq!(taken(&calls), ["assigned 0,1"]);

    disk.fail(Op::Write, 1, std::io::ErrorKind::StorageFull);
    assert!(matches!(projector.step(NOW), Err(Error::DiskFull { .. })));
    projector.catch_up(|_| {}).unwrap();
    assert_eq!(taken(&calls), ["assigned 0,1"]);
    assert_eq!(balances(&broker), expected(&broker));
}

#[test]
fn a_step_that_is_divided_loads_the_state_again() {
    let broker = open(&Disk::new()).unwrap();
    pay(&broker, 0, 1_000).unwrap();
    let mut projector = projector(&broker, Balances::default());
    let small = TopicConfig::new().segment_bytes(4 << 10).max_record_bytes(1 << 10);
    broker.alter_topic("balances", small.partitions(2).cleanup(Cleanup::Compact)).unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 1_000);
    assert!(projector.projection().calls.borrow().len() > 1, "it was divided");
    assert_eq!(balances(&broker), expected(&broker));
}

#[test]
fn a_rebuild_clears_the_state_and_the_rows_together_with_the_position() {
    let broker = open(&Disk::new()).unwrap();
    pay(&broker, 0, 20).unwrap();
    let mut projector = projector(&broker, Balances::default());
    projector.catch_up(|_| {}).unwrap();
    taken(&projector.projection().calls);
    projector.rebuild().unwrap();
    assert_eq!(taken(&projector.projection().calls), ["reset"]);
    assert_eq!(balances(&broker), Cents::new());
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 20);
    assert_eq!(balances(&broker), expected(&broker));
    drop(projector);

    // One that has just joined has its state before it clears it.
    let mut joined = self::projector(&broker, Balances::default());
    joined.rebuild().unwrap();
    assert_eq!(*joined.projection().calls.borrow(), ["assigned 0,1", "reset"]);
    assert_eq!(balances(&broker), Cents::new());
}

#[test]
fn a_rebuild_that_a_crash_stops_at_any_operation_doubles_nothing() {
    let workload = |disk: &Disk| -> Result<()> {
        let broker = open(disk)?;
        pay(&broker, 0, 8)?;
        let of = Balances::default();
        let mut projector = project(broker.consumer("balances").max_records(3), &broker, of)?;
        projector.catch_up(|_| {})?;
        projector.rebuild()?;
        projector.step(NOW)?;
        // Half-way through: the state that the next one loads is that of the rows so far.
        drop(projector);
        let mut projector = project(broker.consumer("balances"), &broker, Balances::default())?;
        projector.catch_up(|_| {})?;
        drop(projector);
        broker.close()
    };
    let whole = Disk::new();
    workload(&whole).unwrap();
    for nth in 1..=whole.ops() {
        let disk = Disk::new();
        disk.crash_at(nth);
        assert!(workload(&disk).is_err());
        disk.crash(if nth % 2 == 0 { Survive::Synced } else { Survive::Random(nth) });
        let broker = open(&disk).unwrap();
        topics(&broker).unwrap();
        projector(&broker, Balances::default()).catch_up(|_| {}).unwrap();
        assert_eq!(balances(&broker), expected(&broker), "crash at {nth}");
    }
}

#[test]
fn partitions_go_from_one_projection_before_they_come_to_the_next() {
    let broker = open(&Disk::new()).unwrap();
    pay(&broker, 0, 20).unwrap();
    let calls = Calls::default();
    let of = |name| Balances { name, calls: calls.clone(), ..Balances::default() };
    let mut first = projector(&broker, of("first "));
    first.catch_up(|_| {}).unwrap();
    pay(&broker, 20, 40).unwrap();
    let mut second = projector(&broker, of("second "));
    for _ in 0..3 {
        first.step(NOW).unwrap();
        second.step(NOW).unwrap();
    }
    let seen = taken(&calls);
    let gone = seen[1].strip_prefix("first revoked ").unwrap();
    assert_eq!(
        seen,
        ["first assigned 0,1", &format!("first revoked {gone}"), &format!("second assigned {gone}")]
    );
    assert_eq!((first.projection().cents.len(), second.projection().cents.len()), (1, 1));
    pay(&broker, 40, 60).unwrap();
    first.catch_up(|_| {}).unwrap();
    second.catch_up(|_| {}).unwrap();
    assert_eq!(balances(&broker), expected(&broker));

    drop(second);
    pay(&broker, 60, 80).unwrap();
    first.catch_up(|_| {}).unwrap();
    assert_eq!(taken(&calls), [format!("first assigned {gone}")]);
    assert_eq!(balances(&broker), expected(&broker));
}

#[test]
fn a_projector_that_did_not_step_for_too_long_drops_its_state_and_loads_it_again() {
    let clock = ManualClock::new();
    let broker = open_with(&Disk::new(), &clock).unwrap();
    pay(&broker, 0, 20).unwrap();
    let builder = broker.consumer("balances").max_poll_interval(Duration::from_secs(10));
    let mut slow = project(builder, &broker, Balances::default()).unwrap();
    slow.step(NOW).unwrap();
    taken(&slow.projection().calls);
    clock.advance(Duration::from_secs(11));
    let mut other = projector(&broker, Balances::default());
    pay(&broker, 20, 40).unwrap();
    assert_eq!(other.catch_up(|_| {}).unwrap(), 20);
    drop(other);
    pay(&broker, 40, 60).unwrap();
    slow.catch_up(|_| {}).unwrap();
    assert_eq!(taken(&slow.projection().calls), ["revoked 0,1", "assigned 0,1"]);
    assert_eq!(balances(&broker), expected(&broker));
}

#[test]
fn a_call_that_fails_or_panics_is_reported_and_made_again_before_anything_is_applied() {
    for (call, panicking) in [("assigned", false), ("assigned", true), ("reset", false), ("reset", true)] {
        let broker = open(&Disk::new()).unwrap();
        pay(&broker, 0, 20).unwrap();
        let of = Balances::default();
        let (fails, panics, calls) = (of.fails.clone(), of.panics.clone(), of.calls.clone());
        let mut projector = projector(&broker, of);
        if panicking {
            panics.set(Some(call))
        } else {
            fails.set(Some(call))
        }
        let run = |projector: &mut Projector<Balances>| -> Result<()> {
            if call == "reset" { projector.rebuild() } else { projector.step(NOW).map(drop) }
        };
        let failed = catch_unwind(AssertUnwindSafe(|| run(&mut projector)));
        assert_eq!(failed.is_err(), panicking);
        assert!(failed.is_err() || matches!(failed, Ok(Err(Error::Listener { .. }))), "{failed:?}");
        assert_eq!(balances(&broker), Cents::new(), "nothing was applied");
        run(&mut projector).unwrap();
        projector.catch_up(|_| {}).unwrap();
        assert_eq!(balances(&broker), expected(&broker));
        let expected: &[_] = if call == "reset" {
            &["assigned 0,1", "reset", "assigned 0,1", "reset"]
        } else {
            &["assigned 0,1", "assigned 0,1"]
        };
        assert_eq!(taken(&calls), expected);
    }
}

#[test]
fn partitions_go_also_if_the_projection_fails_as_they_do() {
    for panicking in [false, true] {
        let broker = open(&Disk::new()).unwrap();
        pay(&broker, 0, 20).unwrap();
        let of = Balances::default();
        let (fails, panics) = (of.fails.clone(), of.panics.clone());
        let mut first = projector(&broker, of);
        first.catch_up(|_| {}).unwrap();
        let mut second = projector(&broker, Balances::default());
        second.step(NOW).unwrap();
        if panicking {
            panics.set(Some("revoked"))
        } else {
            fails.set(Some("revoked"))
        }
        pay(&broker, 20, 40).unwrap();
        let failed = catch_unwind(AssertUnwindSafe(|| first.step(NOW).map(drop)));
        assert_eq!(failed.is_err(), panicking);
        for _ in 0..2 {
            first.step(NOW).unwrap();
            second.step(NOW).unwrap();
        }
        assert_eq!((first.consumer().assignment().len(), second.consumer().assignment().len()), (1, 1));
        // The state of the others may be wrong after that, too.
        let calls = first.projection().calls.borrow();
        assert!(calls.last().unwrap().starts_with("assigned"), "{calls:?}");
        assert_eq!(balances(&broker), expected(&broker));
    }
}

#[test]
fn a_projector_has_the_settings_of_its_consumer() {
    let broker = open(&Disk::new()).unwrap();
    pay(&broker, 0, 20).unwrap();
    let builder = broker.consumer("late").offset_reset(OffsetReset::End).max_records(3);
    let mut late = project(builder, &broker, Balances::default()).unwrap();
    assert_eq!((late.max_records(), late.consumer().subscription()), (3, vec!["accounts"]));
    assert_eq!(late.catch_up(|_| {}).unwrap(), 0);
    pay(&broker, 20, 27).unwrap();
    let mut steps = Vec::new();
    late.catch_up(|progress| steps.push(progress.applied)).unwrap();
    steps.retain(|applied| *applied > 0);
    assert_eq!(steps, [3, 3, 1], "those after it began");

    // It begins nowhere, until it is rebuilt.
    let builder = broker.consumer("nowhere").offset_reset(OffsetReset::Fail);
    let mut nowhere = project(builder, &broker, Balances::default()).unwrap();
    assert!(matches!(nowhere.step(NOW), Err(Error::NoCommittedOffset { .. })));
    nowhere.rebuild().unwrap();
    assert_eq!(nowhere.catch_up(|_| {}).unwrap(), 27);

    let builder = broker.consumer("refused").auto_commit(Duration::from_secs(1));
    let refused = project(builder, &broker, Balances::default());
    assert!(matches!(refused, Err(Error::InvalidConfig { .. })), "{refused:?}");
}

/// With a policy that fails, too: each step returns the error, and a rebuild begins after it.
#[test]
fn a_projection_of_deleted_events_stops_under_every_policy_until_it_is_rebuilt() {
    for policy in [OffsetReset::Beginning, OffsetReset::End, OffsetReset::Nearest, OffsetReset::Fail] {
        let broker = open(&Disk::new()).unwrap();
        let events = broker.create_topic("events", TopicConfig::new()).unwrap().partition(0).unwrap();
        let nothing = |_: &ConsumedRecord<'_>, _: &mut Transaction| -> Result<()> { Ok(()) };
        broker.producer().send_all(&events, ["a", "b", "c"].map(Record::new)).unwrap().wait().unwrap();
        let builder = broker.consumer("g").offset_reset(policy).max_records(1);
        let mut projector = builder.project("events", nothing).unwrap();
        projector.rebuild().unwrap();
        assert_eq!(projector.step(NOW).unwrap().applied, 1);
        events.delete_records(quipu::Offset::new(2)).unwrap();
        for _ in 0..2 {
            let refused = projector.step(NOW);
            assert!(matches!(refused, Err(Error::OffsetOutOfRange { .. })), "{policy:?}: {refused:?}");
        }
        projector.rebuild().unwrap();
        assert_eq!(projector.catch_up(|_| {}).unwrap(), 1, "{policy:?}");
    }
}
