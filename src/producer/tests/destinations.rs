//! The destinations that a producer of a broker takes.

use std::time::Duration;

use super::fakes::block_on;
use crate::clock::ManualClock;
use crate::config::{BrokerConfig, TopicConfig};
use crate::error::Error;
use crate::partitioner::partition_for_key;
use crate::record::Record;

#[test]
fn records_are_sent_by_handle_by_name_and_to_a_partition() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let producer = broker.producer();
    let partition = topic.partition(2).unwrap();
    assert_eq!(producer.send(&partition, Record::new("a")).unwrap().wait().unwrap().partition.get(), 2);
    let receipt = producer.send(&topic, Record::new("a").key("abc")).unwrap().wait().unwrap();
    assert_eq!(receipt.partition.get(), partition_for_key(b"abc", 3));
    assert_eq!(producer.send("t", Record::new("b").key("abc")).unwrap().wait().unwrap().offset, 1);
    assert!(matches!(producer.send("u", Record::null()), Err(Error::UnknownTopic { .. })));
    let sent = producer.send_async("t", Record::new("c").key("abc"));
    assert_eq!(block_on(sent).unwrap().offset, 2);
    assert_eq!(producer.send_all("t", ["d", "e"].map(Record::new)).unwrap().wait().unwrap().len(), 2);
    // Lingering records are written when time passes, when the producer is dropped, and when the
    // broker is closed.
    producer.send(&topic, Record::new("f").key("abc")).unwrap().detach();
    clock.advance(Duration::from_millis(5));
    assert_eq!(end(&topic, "abc"), 4);
    producer.send(&topic, Record::new("g").key("abc")).unwrap().detach();
    producer.flush().unwrap();
    block_on(producer.flush_async()).unwrap();
    let last = producer.send(&topic, Record::new("h").key("abc")).unwrap();
    let other = producer.clone();
    drop(producer);
    broker.close().unwrap();
    assert!(last.wait().is_ok());
    assert!(matches!(other.send(&topic, Record::null()), Err(Error::Closed)));
    assert!(matches!(other.send("t", Record::null()), Err(Error::Closed)));
}

fn end(topic: &crate::topic::Topic, key: &str) -> u64 {
    let partition = topic.partition(partition_for_key(key.as_bytes(), 3)).unwrap();
    partition.bounds().unwrap().visible_end.get()
}
