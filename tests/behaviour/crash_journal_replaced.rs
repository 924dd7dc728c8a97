//! Transactions, and truncations that have the journal start over, crash at every operation. The
//! disk is left in every way a crash may leave it: each transaction is whole or absent, and those
//! that were acknowledged as durable are there.

use std::cell::Cell;
use std::collections::BTreeSet;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Durability, Offset, Partition, Record, Result, Start};

use crate::common::{after_each_crash, crash_at_each_operation, read_from, send, small, thorough};

/// The last one is truncated.
const NAMES: [&str; 3] = ["a", "b", "truncated"];

fn broker(disk: &Disk) -> Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(9).on_disk(disk)
}

/// Notes in `told` the transactions that were acknowledged.
fn workload(disk: &Disk, last: Durability, told: &mut Vec<u64>) -> Result<()> {
    let broker = broker(disk)?;
    let mut all = Vec::new();
    for name in NAMES {
        let durability = if name == "b" { last } else { Durability::Os };
        all.push(broker.ensure_topic(name, small().durability(durability))?.partition(0)?);
    }
    for number in 0..9u64 {
        let mut transaction = broker.transaction();
        for partition in &all {
            transaction.send(partition, Record::new(format!("t{number} {}", "x".repeat(60))));
        }
        transaction.commit()?;
        told.push(number);
        if number % 2 == 0 {
            send(&broker, &all[0], "alone")?;
        }
        if number % 3 == 2 {
            all[2].truncate_to(Offset::ZERO)?;
        }
    }
    Ok(())
}

fn transactions_in(partition: &Partition) -> BTreeSet<u64> {
    let values = read_from(partition, Start::Beginning).into_values();
    values.filter_map(|value| value.strip_prefix('t')?.split(' ').next()?.parse().ok()).collect()
}

fn check(disk: &Disk, is_promised: bool, told: &[u64], case: &str) {
    let broker = broker(disk).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report().damaged);
    let found = |name: &str| {
        let topic = broker.topic(name).ok();
        topic.map(|topic| transactions_in(&topic.partition(0).unwrap())).unwrap_or_default()
    };
    let (a, b) = (found("a"), found("b"));
    assert_eq!(a, b, "{case}: a part of a transaction");
    let missing: Vec<_> = told.iter().filter(|number| !a.contains(number)).collect();
    assert!(!is_promised || missing.is_empty(), "{case}: {missing:?} were acknowledged");
    assert!(found("truncated").is_subset(&a), "{case}: a part of a transaction");
    disk.crash_at(1);
}

fn crash_everywhere(last: Durability) {
    let cases = Cell::new(0);
    crash_at_each_operation(
        &Disk::new(),
        |disk| {
            let mut told = Vec::new();
            let done = workload(disk, last, &mut told);
            let nth = disk.ops();
            let mut survivals = vec![Survive::Everything, Survive::Synced, Survive::Zeroed(nth)];
            survivals.extend((0..if thorough() { 40 } else { 4 }).map(|n| Survive::Random(nth + 7919 * n)));
            after_each_crash(disk, survivals, &mut BTreeSet::new(), |left, survive| {
                let is_promised = last == Durability::Sync || survive == Survive::Everything;
                check(left, is_promised, &told, &format!("{last:?}, crash at {nth}, {survive:?}"));
                cases.set(cases.get() + 1);
            });
            done?;
            broker(&Disk::new())
        },
        |_, _| {},
    );
    assert!(cases.get() > 200, "{cases:?}");
}

#[test]
fn a_crash_while_the_journal_is_replaced_leaves_each_transaction_whole_or_absent_under_os() {
    crash_everywhere(Durability::Os);
}

#[test]
fn a_crash_while_the_journal_is_replaced_leaves_each_transaction_whole_or_absent_under_sync() {
    crash_everywhere(Durability::Sync);
}
