//! No topic is created beside one whose name differs only in `.` and `_` (Kafka's
//! `Topic.hasCollision`).

use quipu::testing::{Disk, Survive};
use quipu::{Broker, Error, TopicConfig};

use crate::common::open;

fn collides(broker: &Broker, name: &str, with: &str) -> bool {
    let error = broker.create_topic(name, TopicConfig::new()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(name) && text.contains(with), "{text}");
    matches!(error, Error::TopicNameCollides { topic, other, .. } if topic == name && other == with)
}

#[test]
fn a_topic_whose_name_differs_only_in_dots_and_underscores_is_refused() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("orders.v1", TopicConfig::new()).unwrap();
    broker.create_topic("a_b_c", TopicConfig::new()).unwrap();
    let files = disk.files();
    assert!(collides(&broker, "orders_v1", "orders.v1"));
    assert!(collides(&broker, "a.b_c", "a_b_c") && collides(&broker, "a.b.c", "a_b_c"));
    assert!(matches!(broker.ensure_topic("a_b.c", TopicConfig::new()), Err(Error::TopicNameCollides { .. })));
    assert_eq!(disk.files(), files, "nothing was made");
    let together = |names: [&str; 2]| broker.create_topics(names.map(|name| (name, TopicConfig::new())));
    assert!(
        matches!(together(["x.y", "x_y"]), Err(Error::TopicNameCollides { other, .. }) if other == "x.y")
    );
    assert!(matches!(together(["x.y", "a.b.c"]), Err(Error::TopicNameCollides { .. })));
    assert_eq!(disk.files(), files, "nothing was made");
    // The same name is a topic that exists; any other difference is another topic.
    assert!(matches!(broker.create_topic("a_b_c", TopicConfig::new()), Err(Error::TopicExists { .. })));
    for name in ["orders-v1", "ordersv1", "orders.v1.", "A_b_c", "a_b_cc", "abc"] {
        broker.create_topic(name, TopicConfig::new()).unwrap();
    }
}

#[test]
fn a_name_is_free_again_once_the_other_topic_is_deleted() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("a.b", TopicConfig::new()).unwrap();
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    assert!(collides(&broker, "a_b", "a.b"), "after a restart too");
    broker.delete_topic("a.b").unwrap();
    broker.create_topic("a_b", TopicConfig::new()).unwrap();
    assert!(collides(&broker, "a.b", "a_b"));
}

#[test]
fn a_topic_of_a_caller_does_not_keep_the_broker_from_making_its_own() {
    let broker = open(&Disk::new()).unwrap();
    broker.create_topic("__consumer.offsets", TopicConfig::new()).unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    consumer.close().unwrap();
}
