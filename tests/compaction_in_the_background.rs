//! A cleaning takes its time, and nobody else's: whatever else is to be done goes on meanwhile.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::mpsc;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use common::small;
use quipu::testing::{Disk, ManualClock, Op};
use quipu::{Broker, BrokerConfig, Cleanup, Durability, Partition, Record, TopicConfig};

/// So long that whoever has not come by then never comes.
const NEVER: Duration = Duration::from_secs(60);

fn compacted(ratio: f64) -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(ratio)
}

fn put(broker: &Broker, to: &Partition, key: &str, value: &str) -> u64 {
    broker.producer().send(to, Record::new(value).key(key)).unwrap().wait().unwrap().offset.get()
}

/// Several segments, all of them sealed but the last.
fn fill(broker: &Broker, to: &Partition) {
    for n in 0..40 {
        put(broker, to, &format!("{}", n % 7), &"x".repeat(60));
    }
    assert!(to.stats().segments.len() > 3);
}

/// Waits until something has come to pass.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < NEVER, "never: {what}");
        thread::yield_now();
    }
}

/// Runs `f` in a thread of its own; what it answers comes from there, if it ever does.
fn start<'s, T: Send + 's>(scope: &'s Scope<'s, '_>, f: impl FnOnce() -> T + Send + 's) -> mpsc::Receiver<T> {
    let (done, answer) = mpsc::channel();
    scope.spawn(move || done.send(f()));
    answer
}

#[test]
fn upkeep_passes_over_a_log_that_somebody_else_is_cleaning() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    broker.maintain().unwrap();
    // From now on upkeep wants to clean it.
    broker.alter_topic("t", compacted(0.0)).unwrap();
    let gate = disk.hold(Op::SyncDir, 1);
    thread::scope(|scope| {
        let cleaning = start(scope, || partition.compact());
        gate.wait_until_reached();
        let upkeep = start(scope, || broker.maintain());
        let ended = upkeep.recv_timeout(Duration::from_secs(10));
        drop(gate);
        ended.expect("it waits for the cleaning").unwrap();
        cleaning.recv().unwrap().unwrap();
    });
}

/// The broker's own threads, at their shortest interval.
fn in_real_time() -> BrokerConfig {
    BrokerConfig::new().seed(1).checkpoint_interval(Duration::from_millis(1))
}

#[test]
fn intervals_are_kept_while_somebody_cleans() {
    let disk = Disk::new();
    let broker = in_real_time().on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
    let every = Duration::from_millis(1);
    let config = TopicConfig::new().durability(Durability::Interval(every));
    let other = broker.create_topic("other", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    until("all is sealed for good", || partition.stats().compaction.dirty_bytes > 2 << 10);
    thread::scope(|scope| {
        // Its output, held: nobody else makes segments.
        let cleaning = {
            let gate = disk.hold(Op::Map, 1);
            let cleaning = start(scope, || partition.compact());
            gate.wait_until_reached();
            // Now the worker wants to clean it too.
            broker.alter_topic("t", compacted(0.0)).unwrap();
            for n in 1..=100 {
                put(&broker, &other, "k", "v");
                until("it is synced", || other.bounds().unwrap().durable_end == n);
            }
            cleaning
        };
        cleaning.recv().unwrap().unwrap();
    });
}
