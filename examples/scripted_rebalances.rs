//! How to test a consumer's rebalances: two members of a group, moved step by step. Nothing runs on
//! its own, so the test decides what happens, in which order, and it happens the same every time.
//!
//!     cargo test --example scripted_rebalances
//!     cargo run --release --example scripted_rebalances
//!
//! A broker in memory under a `ManualClock` has no threads. A rebalance happens in a poll, and a
//! member is expelled because the test moves the clock. `in_process_broker` is the larger example,
//! with a service and crashes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::testing::{ManualClock, committed, owners};
use quipu::{Broker, BrokerConfig, Consumer, Error, Record, RejectReason, Result, TopicConfig};

const NOW: Duration = Duration::ZERO;

/// What the listeners were called with: `"ada Assigned 0,1"`.
type Calls = Arc<Mutex<Vec<String>>>;

fn member(broker: &Broker, name: &'static str, calls: &Calls) -> Result<Consumer> {
    let calls = calls.clone();
    broker
        .consumer("workers")
        .max_poll_interval(Duration::from_secs(60))
        .on_rebalance(move |rebalance| {
            let partitions: Vec<_> =
                rebalance.partitions().iter().map(|at| at.partition.to_string()).collect();
            let call = format!("{name} {:?} {}", rebalance.event(), partitions.join(","));
            calls.lock().unwrap().push(call);
            Ok(())
        })
        .subscribe("jobs")
}

fn script() -> Result<()> {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).in_memory()?;
    let jobs = broker.create_topic("jobs", TopicConfig::new().partitions(4))?;
    for partition in jobs.partitions() {
        broker.producer().send(&partition, Record::new("job"))?.wait()?;
    }
    let calls = Calls::default();
    let since_last = || std::mem::take(&mut *calls.lock().unwrap());

    // One member owns everything.
    let mut ada = member(&broker, "ada", &calls)?;
    let polled = ada.poll(NOW)?;
    assert_eq!(polled.len(), 4);
    assert_eq!(since_last(), ["ada Assigned 0,1,2,3"]);

    // A second one joins. The first gives two partitions up in its own poll, not before: until then
    // it may commit what it has polled.
    let mut ben = member(&broker, "ben", &calls)?;
    assert!(ben.poll(NOW)?.is_empty());
    ada.commit(&polled)?;
    ada.poll(NOW)?;
    ben.poll(NOW)?;
    // `Assigned` comes after each rebalance, also if nothing was added, as on Kafka.
    assert_eq!(since_last(), ["ada Revoked 2,3", "ada Assigned ", "ben Assigned 2,3"]);
    assert_eq!(owners(&broker, "workers")?.len(), 4);
    assert_eq!(committed(&broker, "workers")?.len(), 4);

    // The second hangs: it polls a record and does not come back in time.
    broker.producer().send(&jobs.partition(2)?, Record::new("slow job"))?.wait()?;
    let slow = ben.poll(NOW)?;
    assert_eq!(slow.len(), 1);
    clock.advance(Duration::from_secs(31));
    assert!(ada.poll(NOW)?.is_empty()); // the first one is alive
    clock.advance(Duration::from_secs(31));
    // The record is delivered to the first, which owns the partition now.
    let heir = ada.poll(NOW)?;
    assert_eq!(since_last(), ["ada Assigned 2,3"]);
    assert_eq!(heir.len(), 1);
    ada.commit(&heir)?;

    // It comes back. Its commit is rejected, and its listener is called with `Lost`.
    match ben.commit(&slow) {
        Err(Error::CommitRejected { offenders, .. }) => {
            assert_eq!(offenders[0].reason, RejectReason::NotAMember);
        }
        other => panic!("{other:?}"),
    }
    ben.poll(NOW)?;
    assert_eq!(since_last(), ["ben Lost 2,3"]);
    Ok(())
}

fn main() -> Result<()> {
    script()?;
    println!("ok: a member joined, hung, was expelled and came back");
    Ok(())
}

#[test]
fn a_member_that_hangs_loses_its_partitions_and_cannot_commit() {
    script().unwrap();
}
