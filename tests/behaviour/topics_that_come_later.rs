//! A subscription to a topic that does not exist yet waits for it, as on Kafka 4.1.2.

use std::time::Duration;

use quipu::testing::Disk;
use quipu::{Broker, Consumer, Error, OffsetReset, Record, Start, TopicConfig};

use crate::common::open;

const NOW: Duration = Duration::ZERO;

fn create(broker: &Broker, name: &str, values: &[&str]) {
    let topic = broker.ensure_topic(name, TopicConfig::new()).unwrap();
    values.iter().for_each(|value| {
        broker.producer().send(&topic, Record::new(*value)).unwrap().wait().unwrap();
    });
}

fn poll(consumer: &mut Consumer) -> Vec<String> {
    let mut values = Vec::new();
    for _ in 0..3 {
        let records = consumer.poll(NOW).unwrap();
        values.extend(records.iter().map(|r| String::from_utf8_lossy(r.value().unwrap()).into_owned()));
    }
    values
}

#[test]
fn a_member_gets_a_topic_once_it_is_created() {
    let broker = open(&Disk::new()).unwrap();
    let mut consumer = broker.consumer("g").subscribe(["later", "never"]).unwrap();
    assert!(poll(&mut consumer).is_empty() && consumer.assignment().is_empty());
    create(&broker, "other", &["x"]);
    create(&broker, "later2", &["x"]);
    assert!(poll(&mut consumer).is_empty(), "another name is another topic");
    create(&broker, "later", &["1"]);
    assert_eq!(poll(&mut consumer), ["1"]);
    // The same if it is deleted and created again.
    broker.delete_topic("later").unwrap();
    assert!(poll(&mut consumer).is_empty() && consumer.assignment().is_empty());
    create(&broker, "later", &["2"]);
    assert_eq!(poll(&mut consumer), ["2"]);
}

#[test]
fn a_topic_that_comes_later_is_read_from_its_beginning_under_every_policy() {
    for reset in [OffsetReset::Beginning, OffsetReset::End, OffsetReset::Fail] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        create(&broker, "known", &["old"]);
        let join =
            |broker: &Broker| broker.consumer("g").offset_reset(reset).subscribe(["known", "later"]).unwrap();
        let mut consumer = join(&broker);
        if reset == OffsetReset::Fail {
            assert!(matches!(consumer.poll(NOW), Err(Error::NoCommittedOffset { .. })));
            consumer.seek_all(Start::End).unwrap();
        }
        drop(poll(&mut consumer));
        drop(consumer);
        broker.close().unwrap();
        // The topic comes while the group has no member, after a restart.
        let broker = open(&disk).unwrap();
        create(&broker, "later", &["1", "2"]);
        let mut consumer = join(&broker);
        let values = poll(&mut consumer);
        assert!(values.ends_with(&["1".into(), "2".into()]), "{reset:?}: {values:?}");
        assert_eq!(values.contains(&"old".to_string()), reset == OffsetReset::Beginning);
    }
}

#[test]
fn a_name_that_no_topic_can_have_is_refused() {
    let broker = open(&Disk::new()).unwrap();
    for name in ["", "..", "a b", "a/b"] {
        let refused = broker.consumer("g").subscribe(["fine", name]);
        assert!(matches!(refused, Err(Error::InvalidTopicName { .. })), "{name:?}");
    }
    let own = broker.consumer("g").subscribe(["__consumer_offsets"]);
    assert!(matches!(own, Err(Error::UnknownTopic { .. })));
}
