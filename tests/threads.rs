//! The threads of a broker: two under the system clock, none under a manual one, and none that
//! outlives it. A program of its own, because threads of other tests must not be counted.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Record, TopicConfig};

/// The threads of this process, by number.
fn threads() -> BTreeSet<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// A thread that has been joined may be listed for a moment more.
fn assert_none_left(before: &BTreeSet<u32>, case: &str) {
    for _ in 0..1_000_000 {
        if threads() == *before {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{case}: {:?} were there before, and now {:?}", before, threads());
}

fn use_it(broker: &Broker) {
    let topic = broker.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    broker.producer().send(&topic, Record::new("v").key("k")).unwrap().wait().unwrap();
    let records = consumer.poll(Duration::from_secs(10)).unwrap();
    assert_eq!(records.len(), 1);
    consumer.commit(&records).unwrap();
    broker.maintain().unwrap();
}

#[test]
fn a_closed_broker_leaves_no_thread_and_has_none_under_a_manual_clock() {
    let before = threads();
    for round in 0..20 {
        let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
        use_it(&broker);
        assert_eq!(threads(), before, "under a manual clock nothing starts one");
        drop(broker);

        let broker = Broker::in_memory().unwrap();
        assert_eq!(threads().len(), before.len() + 2, "the timer's and the worker's");
        use_it(&broker);
        assert_eq!(threads().len(), before.len() + 2);
        if round % 2 == 0 {
            broker.close().unwrap();
            assert_none_left(&before, "closed");
        }
        drop(broker);
        assert_none_left(&before, "dropped");
    }
}
