//! A group that has read everything has no lag, also where the newest offsets have no records left.

use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Cleanup, Record, TopicConfig};

const NOW: Duration = Duration::ZERO;

/// A compacted topic, and a clock to move.
fn compacted() -> (Broker, ManualClock, quipu::Topic) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap();
    let config = TopicConfig::new()
        .cleanup(Cleanup::Compact)
        .segment_age(Duration::from_secs(1))
        .delete_retention(Duration::ZERO);
    let topic = broker.create_topic("t", config).unwrap();
    (broker, clock, topic)
}

fn compact(broker: &Broker, clock: &ManualClock, topic: &quipu::Topic) {
    for _ in 0..3 {
        clock.advance(Duration::from_secs(3_600));
        broker.maintain().unwrap();
        topic.partition(0).unwrap().compact().unwrap();
    }
}

#[test]
fn a_group_has_no_lag_over_a_gap_that_compaction_left_at_the_end() {
    let (broker, clock, topic) = compacted();
    let send = |record: Record<'_>| drop(broker.producer().send(&topic, record).unwrap().wait().unwrap());
    ["a", "b"].into_iter().for_each(|key| send(Record::new("v").key(key)));
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = consumer.poll(NOW).unwrap();
    consumer.commit(&records).unwrap();
    ["a", "b"].into_iter().for_each(|key| send(Record::tombstone(key)));
    let group = broker.group("g").unwrap();
    assert_eq!(group.lag().unwrap(), 2, "the tombstones are still there");
    compact(&broker, &clock, &topic);
    assert_eq!(topic.partition(0).unwrap().bounds().unwrap().visible_end, 4);
    assert_eq!(group.lag().unwrap(), 0);
    assert!(group.wait_for_lag(0, NOW).unwrap());
    let records = consumer.poll(NOW).unwrap();
    assert!(records.is_empty());
    consumer.commit(&records).unwrap();
    assert_eq!(group.lag().unwrap(), 0);
    send(Record::new("v").key("c"));
    assert_eq!(group.lag().unwrap(), 3, "a record after the gap");
}

/// The gap begins within a batch, after the committed offset.
#[test]
fn a_group_has_no_lag_over_a_gap_within_a_batch() {
    let (broker, clock, topic) = compacted();
    let records = ["a", "b", "b", "b"].map(|key| match key {
        "a" => Record::new("v").key(key),
        _ => Record::tombstone(key),
    });
    broker.producer().send_all(&topic, records).unwrap().wait().unwrap();
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = consumer.poll(NOW).unwrap();
    let first = records.iter().next().unwrap();
    consumer.commit(first).unwrap();
    let group = broker.group("g").unwrap();
    assert_eq!(group.lag().unwrap(), 3);
    compact(&broker, &clock, &topic);
    assert_eq!(topic.partition(0).unwrap().read(quipu::Start::Beginning, 1 << 20).unwrap().len(), 1);
    assert_eq!(group.lag().unwrap(), 0);
}
