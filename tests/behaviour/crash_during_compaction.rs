//! A compaction on a simulated disk crashes at every single operation, and so does the recovery
//! after it. The log is the old one or the new one, never a mix, and holds the newest value of
//! every key.

use std::collections::BTreeSet;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Cleanup, Durability, Record, Result, Start, TopicConfig};

use crate::common::{after_each_crash, small, warnings};

/// Offsets and values.
type State = Vec<(u64, Option<Vec<u8>>)>;

fn config() -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(1.0).durability(Durability::Sync)
}

fn open(disk: &Disk) -> Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(7).compaction_memory(200).on_disk(disk)
}

/// A log of several segments, closed or not, and the two states around each pass.
fn prepared() -> Disk {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(7).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", config()).unwrap();
    for n in 0..60 {
        let record = match n % 11 {
            10 => Record::tombstone(format!("{}", n % 7)),
            _ => Record::new(format!("value {n} {}", "x".repeat(n % 5 * 10))).key(format!("{}", n % 7)),
        };
        broker.producer().send(&topic, record).unwrap().wait().unwrap();
    }
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    broker.maintain().unwrap();
    broker.close().unwrap();
    disk.duplicate()
}

fn try_state(broker: &Broker) -> Result<State> {
    let partition = broker.topic("t")?.partition(0)?;
    let (mut rows, mut from) = (Vec::new(), partition.bounds()?.log_start);
    loop {
        let some = partition.read(Start::At(from), 1 << 20)?;
        let Some(last) = some.last() else { break };
        from = last.offset().plus(1);
        rows.extend(some.iter().map(|r| (r.offset().get(), r.value().map(<[u8]>::to_vec))));
    }
    assert_eq!(partition.bounds()?.log_end, 60);
    Ok(rows)
}

fn state(broker: &Broker) -> State {
    try_state(broker).unwrap()
}

/// Everything from opening to closing, and the content before and after each pass.
fn workload(disk: &Disk, states: &mut Vec<State>) -> Result<()> {
    let broker = open(disk)?;
    let partition = broker.topic("t")?.partition(0)?;
    states.push(try_state(&broker)?);
    while partition.compact()?.is_some() {
        states.push(try_state(&broker)?);
    }
    broker.close()
}

#[test]
fn a_crash_at_any_operation_of_a_compaction_leaves_the_old_or_the_new_log() {
    let start = prepared();
    let mut states = Vec::new();
    let whole = start.duplicate();
    workload(&whole, &mut states).unwrap();
    let ops = whole.ops();
    assert!(states.len() > 3 && states.first().unwrap().len() > states.last().unwrap().len());
    let mut cases = 0;
    for at in 1..=ops {
        let cut = start.duplicate();
        cut.crash_at(at);
        let _ = workload(&cut, &mut Vec::new());
        let ways = [Survive::Synced, Survive::Everything, Survive::Random(at), Survive::Zeroed(at)];
        after_each_crash(&cut, ways, &mut BTreeSet::new(), |left, survive| {
            let after = left.duplicate();
            let broker = open(&after).unwrap_or_else(|e| panic!("{at} {survive:?}: {e}"));
            assert!(broker.open_report().damaged.is_empty() && warnings(&broker).is_empty(), "{at}");
            let found = state(&broker);
            assert!(states.contains(&found), "{at} {survive:?}: a mix");
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            while partition.compact().unwrap().is_some() {}
            assert_eq!(&state(&broker), states.last().unwrap(), "{at} {survive:?}");
            cases += 1;
            // Once more, somewhere in the opening after it.
            if survive == Survive::Synced {
                for again in (1..=after.ops().min(30)).step_by(3) {
                    let nested = left.duplicate();
                    nested.crash_at(again);
                    let _ = workload(&nested, &mut Vec::new());
                    nested.crash(Survive::Synced);
                    let broker = open(&nested).unwrap();
                    assert!(states.contains(&state(&broker)), "{at} {again}: a mix");
                    cases += 1;
                }
            }
        });
    }
    assert!(cases > 500, "{cases}");
}
