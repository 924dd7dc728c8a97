//! The limit of a topic's records: its default follows the segment size.

use quipu::testing::Disk;
use quipu::{Broker, Error, Record, TopicConfig};

use crate::common::open;

/// The largest value, without a key, that the topic accepts.
fn largest(broker: &Broker, topic: &str) -> usize {
    let fits = |len: usize| {
        let sent = broker.producer().send(topic, Record::new(vec![0; len])).and_then(|sent| sent.wait());
        assert!(matches!(&sent, Ok(_) | Err(Error::RecordTooLarge { .. })), "{sent:?}");
        sent.is_ok()
    };
    let (mut fitting, mut too_large) = (0, 2 << 20);
    while fitting + 1 < too_large {
        let middle = (fitting + too_large) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            too_large = middle;
        }
    }
    fitting
}

#[test]
fn a_segment_of_one_mebibyte_is_accepted_and_its_records_are_limited_to_what_fits() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("default", TopicConfig::new()).unwrap();
    broker.create_topic("small", TopicConfig::new().segment_bytes(1 << 20)).unwrap();
    broker.create_topic("least", TopicConfig::new().segment_bytes(1 << 10)).unwrap();
    let framing = (1 << 20) - largest(&broker, "default");
    assert_eq!(framing, 7);
    assert_eq!(largest(&broker, "small"), (1 << 20) - 232 - framing);
    let of_least = largest(&broker, "least");
    assert!(of_least > 1024 - 232 - framing && of_least < 1024 - 232, "{of_least}");
    // The limit of a config does not depend on the order of the calls, and survives a restart.
    let given = TopicConfig::new().max_record_bytes(500).segment_bytes(1 << 20);
    assert_eq!(given, TopicConfig::new().segment_bytes(1 << 20).max_record_bytes(500));
    broker.create_topic("given", given).unwrap();
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(largest(&broker, "small"), (1 << 20) - 232 - framing);
    let config = |topic: &str| broker.topic(topic).unwrap().config();
    assert_eq!(config("small"), TopicConfig::new().segment_bytes(1 << 20));
    // The default follows a later change of the segment size; a limit that was given does not.
    broker.alter_topic("small", config("small").segment_bytes(64 << 20)).unwrap();
    assert_eq!(largest(&broker, "small"), (1 << 20) - framing);
    broker.alter_topic("given", config("given").segment_bytes(2 << 20)).unwrap();
    assert_eq!(config("given"), TopicConfig::new().segment_bytes(2 << 20).max_record_bytes(500));
    let error = broker.alter_topic("given", config("given").max_record_bytes(2 << 20)).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { field: "max_record_bytes", .. }), "{error}");
}

/// On Kafka `max.message.bytes` bounds a batch as it is sent, so all ten are refused.
#[test]
fn a_record_that_is_too_large_fails_none_of_its_neighbours() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().max_record_bytes(1000)).unwrap();
    let producer = broker.producer();
    let before = producer.send(&topic, Record::new(vec![0; 300])).unwrap();
    let error = producer.send(&topic, Record::new(vec![0; 1001])).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { limit: 1000, .. }), "{error}");
    let after: Vec<_> = (0..9).map(|_| producer.send(&topic, Record::new(vec![0; 300])).unwrap()).collect();
    assert_eq!(before.wait().unwrap().offset, 0);
    let offsets: Vec<_> = after.into_iter().map(|sent| sent.wait().unwrap().offset.get()).collect();
    assert_eq!(offsets, (1..10).collect::<Vec<_>>());
    assert_eq!(topic.partition(0).unwrap().stats().batches_appended, 1, "in one batch of over 1000 bytes");
}
