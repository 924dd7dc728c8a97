//! Commits of a group, and rebalances of a thousand partitions among a hundred members.
//!
//! A commit is an append of one small batch, which is therefore its limit. A rebalance has no lower
//! bound outside the crate. One of all members is compared with opening a reader of as many
//! partitions for each member, which is their final state; one of a member that leaves and returns,
//! with polls of all members that return nothing.

use std::time::{Duration, Instant};

use quipu::{
    Broker, BrokerConfig, Consumer, Durability, Offset, Position, Record, Start, TopicConfig, TopicName,
};

use super::scratch::Scratch;
use super::suite::{Latencies, Metric, RATE_AND_LATENCY, Suite, way};

const PARTITIONS: u32 = 1000;
const MEMBERS: usize = 100;

pub(crate) fn run(suite: &mut Suite<'_>) {
    for (name, durability) in [("commit/os", Durability::Os), ("commit/sync", Durability::Sync)] {
        if suite.wants(name) {
            let scratch = Scratch::new();
            let broker = BrokerConfig::new().durability(durability).open(scratch.path()).unwrap();
            let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
            let partition = topic.partition(0).unwrap();
            partition.append_at(Offset::ZERO, [Record::new("v")]).unwrap();
            let consumer = broker.consumer("g").assign(std::slice::from_ref(&partition)).unwrap();
            let plain = broker.create_topic("plain", TopicConfig::new()).unwrap().partition(0).unwrap();
            let count = suite.sizes().random_reads / if durability == Durability::Sync { 50 } else { 1 };
            suite.compare(
                name,
                RATE_AND_LATENCY,
                vec![way("consumer.commit", || {
                    let topic = TopicName::new("t").unwrap();
                    let position = Position::new(topic, 0, 1, 0);
                    repeat(count, || consumer.commit(consumer.offsets_at([&position])).unwrap())
                })],
                vec![way("append of as much", || {
                    let mut end = plain.bounds().unwrap().log_end;
                    repeat(count, || {
                        let record = Record::new("twenty-one bytes here").key("two dozen bytes and more..");
                        plain.append_at(end, [record]).unwrap();
                        end = end.plus(1);
                    })
                })],
            );
        }
    }
    let name = format!("rebalance/{PARTITIONS} partitions, {MEMBERS} members");
    if suite.wants(&name) {
        let broker = Broker::in_memory().unwrap();
        broker.create_topic("t", TopicConfig::new().partitions(PARTITIONS)).unwrap();
        suite.compare(
            &name,
            &[Metric::time("", "ms")],
            vec![way("all join, then poll until stable", || join_all(&broker))],
            vec![way("a reader each", || readers(&broker))],
        );
    }
    let name = format!("rebalance/one of {MEMBERS} goes and comes, {PARTITIONS} partitions");
    if suite.wants(&name) {
        let broker = Broker::in_memory().unwrap();
        broker.create_topic("t", TopicConfig::new().partitions(PARTITIONS)).unwrap();
        let mut members = joined(&broker, "g");
        let mut idle = joined(&broker, "idle");
        suite.compare(
            &name,
            &[Metric::time("", "ms")],
            vec![way("until stable, twice", || {
                let start = Instant::now();
                drop(members.pop());
                settle(&broker, "g", &mut members);
                members.push(broker.consumer("g").subscribe(["t"]).unwrap());
                settle(&broker, "g", &mut members);
                vec![start.elapsed().as_secs_f64() * 1e3]
            })],
            vec![way("two polls of each", || {
                let start = Instant::now();
                for _ in 0..2 {
                    idle.iter_mut().for_each(|member| drop(member.poll(Duration::ZERO).unwrap()));
                }
                vec![start.elapsed().as_secs_f64() * 1e3]
            })],
        );
    }
}

fn repeat(count: usize, mut once: impl FnMut()) -> Vec<f64> {
    let mut latencies = Latencies::default();
    let start = Instant::now();
    for _ in 0..count {
        let before = Instant::now();
        once();
        latencies.push(before.elapsed());
    }
    latencies.rate_and_quantiles(start.elapsed())
}

fn join_all(broker: &Broker) -> Vec<f64> {
    let start = Instant::now();
    let members = joined(broker, "g");
    let took = start.elapsed();
    assert!(members.iter().all(|member| member.assignment().len() == PARTITIONS as usize / MEMBERS));
    vec![took.as_secs_f64() * 1e3]
}

fn joined(broker: &Broker, group: &str) -> Vec<Consumer> {
    let join = |_| broker.consumer(group).subscribe(["t"]).unwrap();
    let mut members: Vec<_> = (0..MEMBERS).map(join).collect();
    settle(broker, group, &mut members);
    members
}

/// Polls all members until no partition changes its owner.
fn settle(broker: &Broker, group: &str, members: &mut [Consumer]) {
    let group = broker.group(group).unwrap();
    loop {
        for member in members.iter_mut() {
            member.poll(Duration::ZERO).unwrap();
        }
        if group.describe().unwrap().stable {
            return;
        }
    }
}

fn readers(broker: &Broker) -> Vec<f64> {
    let positions = broker.reader(["t"], Start::Beginning).unwrap().positions();
    let start = Instant::now();
    let mut readers: Vec<_> = positions
        .chunks(PARTITIONS as usize / MEMBERS)
        .map(|positions| broker.reader_at(positions).unwrap())
        .collect();
    for reader in &mut readers {
        reader.poll(Duration::ZERO).unwrap();
    }
    vec![start.elapsed().as_secs_f64() * 1e3]
}
