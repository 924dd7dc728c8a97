//! Where the records of a transaction stand among others: where the commit came. On Kafka they
//! stand where they were sent; the page of `Transaction` says so.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock};
use quipu::{BrokerConfig, Record, Start, TopicConfig};

#[test]
fn records_stand_where_the_commit_came_with_the_time_of_sending() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let partition = topic.partition(0).unwrap();
    let (mut first, mut second) = (broker.transaction(), broker.transaction());
    let tick = || clock.advance(Duration::from_millis(1));
    first.send(&topic, Record::new("first"));
    tick();
    second.send(&topic, Record::new("second"));
    tick();
    broker.producer().send(&topic, Record::new("meanwhile")).unwrap().wait().unwrap();
    assert_eq!(partition.read(Start::Beginning, 1 << 20).unwrap().len(), 1, "readable at once");
    second.commit().unwrap();
    first.commit().unwrap();
    let records = partition.read(Start::Beginning, 1 << 20).unwrap();
    let values: Vec<_> =
        records.iter().map(|r| String::from_utf8_lossy(r.value().unwrap()).into_owned()).collect();
    assert_eq!(values, ["meanwhile", "second", "first"]);
    let times: Vec<_> = records.iter().map(|r| r.timestamp()).collect();
    assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
}
