//! What a builder of consumers, a feed and a projector were set to can be read back.

use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{
    Broker, BrokerConfig, ConsumedRecord, OffsetReset, Position, RangeAssignor, ReadModel, RebalanceProtocol,
    Record, Records, Result, TopicConfig, Transaction,
};

const NOW: Duration = Duration::ZERO;

fn broker() -> Broker {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    broker.create_topic("a", TopicConfig::new().partitions(2)).unwrap();
    broker.create_topic("b", TopicConfig::new()).unwrap();
    broker
}

#[test]
fn a_builder_of_consumers_returns_its_settings() {
    let builder = broker().consumer("billing");
    assert_eq!((builder.get_group(), builder.get_offset_reset()), ("billing", OffsetReset::Beginning));
    assert_eq!((builder.get_max_records(), builder.get_max_bytes()), (usize::MAX, 1 << 20));
    assert_eq!(builder.get_max_poll_interval(), Duration::from_secs(300));
    assert_eq!((builder.get_assignor().name(), builder.get_auto_commit()), ("cooperative-sticky", None));
    assert_eq!(builder.get_rebalance_protocol(), RebalanceProtocol::Cooperative);

    let second = Duration::from_secs(1);
    let builder = builder.offset_reset(OffsetReset::End).max_records(1).max_bytes(7);
    let builder = builder.max_poll_interval(second).auto_commit(2 * second).assignor(RangeAssignor);
    assert_eq!((builder.get_offset_reset(), builder.get_max_records()), (OffsetReset::End, 1));
    assert_eq!((builder.get_max_bytes(), builder.get_max_poll_interval()), (7, second));
    assert_eq!((builder.get_assignor().name(), builder.get_auto_commit()), ("range", Some(2 * second)));
    assert_eq!(builder.get_rebalance_protocol(), RebalanceProtocol::Eager, "the assignor's");
    let builder = builder.rebalance_protocol(RebalanceProtocol::Cooperative);
    assert_eq!(builder.get_rebalance_protocol(), RebalanceProtocol::Cooperative);
    let consumer = builder.subscribe("a").unwrap();
    assert_eq!((consumer.max_records(), consumer.max_bytes()), (1, 7));
    assert_eq!(consumer.rebalance_protocol(), Some(RebalanceProtocol::Cooperative));
}

struct Nothing;

impl ReadModel for Nothing {
    type Error = quipu::Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        Ok(vec!["a/1@1#0".parse().unwrap()])
    }

    fn apply(&mut self, _: &Records, _: &[Position]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_feed_returns_its_topics_its_positions_and_its_limits() {
    let broker = broker();
    for partition in broker.topic("a").unwrap().partitions() {
        broker.producer().send_all(&partition, ["1", "2", "3"].map(Record::new)).unwrap().wait().unwrap();
    }
    let mut feed = broker.feed(["a", "b"], Nothing).unwrap();
    assert_eq!((feed.get_max_records(), feed.get_max_bytes()), (usize::MAX, 1 << 20));
    let positions = |feed: &quipu::Feed<Nothing>| -> Vec<String> {
        feed.positions().iter().map(ToString::to_string).collect()
    };
    assert_eq!(positions(&feed), ["a/0@0#0", "a/1@1#0", "b/0@0#0"], "where the model is");
    feed.catch_up(|_| {}).unwrap();
    assert_eq!(positions(&feed), ["a/0@3#0", "a/1@3#0", "b/0@0#0"]);
    broker.delete_topic("b").unwrap();
    feed.step(NOW).unwrap();
    assert_eq!((feed.topics(), feed.positions().len()), (&["a".to_string(), "b".to_string()][..], 2));
    let feed = feed.max_records(2).max_bytes(1);
    assert_eq!((feed.get_max_records(), feed.get_max_bytes()), (2, 1));
}

#[test]
fn a_projector_returns_its_group_its_topics_its_partitions_and_its_limit() {
    let broker = broker();
    let nothing = |_: &ConsumedRecord<'_>, _: &mut Transaction| -> Result<()> { Ok(()) };
    let builder = broker.consumer("views").max_records(5).max_poll_interval(Duration::from_secs(1));
    let mut projector = builder.project(["a", "b"], nothing).unwrap();
    projector.step(NOW).unwrap();
    let consumer = projector.consumer();
    assert_eq!((consumer.group().as_str(), consumer.subscription()), ("views", vec!["a", "b"]));
    assert_eq!((consumer.assignment().len(), projector.max_records()), (3, 5));
    assert_eq!(consumer.max_poll_interval(), Some(Duration::from_secs(1)));
}
