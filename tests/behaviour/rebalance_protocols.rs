//! What a rebalance does to partitions that stay: under the eager protocol they are revoked and
//! start again at the committed offset, under the cooperative one they are read without a break.
//! Expected calls and records were seen on Kafka 4.1.2 with its range and round robin assignors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use RebalanceEvent::{Assigned, Revoked};
use quipu::testing::Disk;
use quipu::{
    Assignor, Broker, Consumer, ConsumerBuilder, CooperativeStickyAssignor, Error, RangeAssignor,
    RebalanceEvent, RebalanceProtocol, RejectReason, RoundRobinAssignor, TopicConfig,
};

use crate::common::{open, send};

const NOW: Duration = Duration::ZERO;

type Told = Arc<Mutex<Vec<(RebalanceEvent, Vec<u32>)>>>;

/// A topic of `partitions` with three records each.
fn broker(partitions: u32) -> Broker {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    for partition in topic.partitions() {
        ["a", "b", "c"].iter().for_each(|value| drop(send(&broker, &partition, value).unwrap()));
    }
    broker
}

fn listening(builder: ConsumerBuilder, told: &Told) -> ConsumerBuilder {
    let told = told.clone();
    builder.on_rebalance(move |rebalance| {
        let partitions = rebalance.partitions().iter().map(|of| of.partition.get()).collect();
        told.lock().unwrap().push((rebalance.event(), partitions));
        Ok(())
    })
}

fn poll(consumer: &mut Consumer) -> Vec<(u32, u64)> {
    let records = consumer.poll(NOW).unwrap();
    records.iter().map(|record| (record.partition().get(), record.offset().get())).collect()
}

/// Joins a second member, polls both until nothing changes, and returns what the first is given.
fn join(builder: ConsumerBuilder, first: &mut Consumer) -> (Consumer, Vec<(u32, u64)>) {
    let mut second = builder.subscribe(["t"]).unwrap();
    let mut again = Vec::new();
    for _ in 0..3 {
        again.extend(poll(first));
        poll(&mut second);
    }
    (second, again)
}

#[test]
fn an_eager_group_delivers_again_what_was_not_committed_also_of_partitions_that_stay() {
    for is_range in [true, false] {
        let broker = broker(2);
        let builder = || match is_range {
            true => broker.consumer("g").assignor(RangeAssignor),
            false => broker.consumer("g").assignor(RoundRobinAssignor),
        };
        let told = Told::default();
        let mut first = listening(builder(), &told).subscribe(["t"]).unwrap();
        let records = first.poll(NOW).unwrap();
        assert_eq!(records.len(), 6);
        let (second, again) = join(builder(), &mut first);
        assert_eq!(again, [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(
            *told.lock().unwrap(),
            [(Assigned, vec![0, 1]), (Revoked, vec![0, 1]), (Assigned, vec![0])]
        );
        // The partition has not been owned without a break since they were polled.
        let last = records.iter().find(|record| record.partition().get() == 0).unwrap();
        let stale = first.commit(last).unwrap_err();
        assert!(
            matches!(&stale, Error::CommitRejected { offenders, .. } if offenders[0].reason == RejectReason::Stale),
            "{stale:?}"
        );
        // The member that leaves is a rebalance too.
        told.lock().unwrap().clear();
        second.close().unwrap();
        assert_eq!(poll(&mut first).len(), 6);
        assert_eq!(*told.lock().unwrap(), [(Revoked, vec![0]), (Assigned, vec![0, 1])]);
    }
}

#[test]
fn an_eager_group_starts_again_at_the_committed_offset() {
    let broker = broker(2);
    let builder = || broker.consumer("g").assignor(RangeAssignor);
    let mut first = builder().subscribe(["t"]).unwrap();
    let records = first.poll(NOW).unwrap();
    let second = records.iter().find(|r| (r.partition().get(), r.offset().get()) == (0, 1)).unwrap();
    first.commit(second).unwrap();
    let (_second, again) = join(builder(), &mut first);
    assert_eq!(again, [(0, 2)]);
}

#[test]
fn an_eager_group_with_automatic_commits_delivers_nothing_again() {
    let broker = broker(2);
    let builder = || broker.consumer("g").assignor(RangeAssignor).auto_commit(Duration::from_secs(3600));
    let mut first = builder().subscribe(["t"]).unwrap();
    assert_eq!(poll(&mut first).len(), 6);
    let (_second, again) = join(builder(), &mut first);
    assert_eq!(again, [], "it commits before the partitions are revoked");
}

#[test]
fn a_cooperative_group_keeps_reading_the_partitions_that_stay() {
    for is_range in [true, false] {
        let broker = broker(2);
        let builder = || match is_range {
            true => broker
                .consumer("g")
                .assignor(RangeAssignor)
                .rebalance_protocol(RebalanceProtocol::Cooperative),
            false => broker.consumer("g"),
        };
        let told = Told::default();
        let mut first = listening(builder(), &told).subscribe(["t"]).unwrap();
        assert_eq!(poll(&mut first).len(), 6);
        let (_second, again) = join(builder(), &mut first);
        assert_eq!(again, []);
        let told = told.lock().unwrap();
        assert_eq!(told[..2], [(Assigned, vec![0, 1]), (Revoked, vec![1])]);
        assert!(told[2..].iter().all(|(event, partitions)| *event == Assigned && partitions.is_empty()));
    }
}

#[test]
fn a_topic_that_grows_is_a_rebalance_of_an_eager_group() {
    let broker = broker(1);
    let told = Told::default();
    let builder = broker.consumer("g").rebalance_protocol(RebalanceProtocol::Eager);
    let mut consumer = listening(builder, &told).subscribe(["t"]).unwrap();
    assert_eq!(poll(&mut consumer), [(0, 0), (0, 1), (0, 2)]);
    broker.alter_topic("t", TopicConfig::new().partitions(2)).unwrap();
    assert_eq!(poll(&mut consumer), [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(*told.lock().unwrap(), [(Assigned, vec![0]), (Revoked, vec![0]), (Assigned, vec![0, 1])]);
    assert_eq!(poll(&mut consumer), []);
}

#[test]
fn members_with_different_protocols_are_refused() {
    let broker = broker(2);
    let eager = || broker.consumer("g").rebalance_protocol(RebalanceProtocol::Eager);
    let _first = broker.consumer("g").subscribe(["t"]).unwrap();
    let error = eager().subscribe(["t"]).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { field: "rebalance_protocol", .. }), "{error:?}");
    assert!(error.to_string().contains("Eager") && error.to_string().contains("Cooperative"), "{error}");
    let mut other =
        broker.consumer("other").rebalance_protocol(RebalanceProtocol::Eager).subscribe(["t"]).unwrap();
    assert_eq!(poll(&mut other).len(), 6);
}

#[test]
fn the_protocol_is_that_of_the_assignor() {
    assert_eq!(RangeAssignor.protocol(), RebalanceProtocol::Eager);
    assert_eq!(RoundRobinAssignor.protocol(), RebalanceProtocol::Eager);
    assert_eq!(CooperativeStickyAssignor.protocol(), RebalanceProtocol::Cooperative);
}
