//! `Pending::wait_timeout`.

use std::time::Duration;

use quipu::testing::{Disk, Op};
use quipu::{BrokerConfig, Durability, Error, ManualClock, ProducerConfig, Record, TopicConfig};

const LONG: Duration = Duration::from_secs(3_600);

#[test]
fn a_pending_that_is_not_done_comes_back_and_is_waited_for_again() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(LONG)).unwrap();
    producer.send("t", Record::new("first")).unwrap().wait().unwrap();
    let sync = disk.hold(Op::Sync, 1);
    let pending = producer.send("t", Record::new("second")).unwrap();
    let pending = pending.wait_timeout(Duration::ZERO).unwrap_err();
    sync.wait_until_reached();
    let pending = pending.wait_timeout(Duration::from_millis(1)).unwrap_err();
    sync.release();
    assert_eq!(pending.wait_timeout(LONG).unwrap().unwrap().offset, 1);
    // Everything that can be waited for.
    let all = producer.send_all("t", ["a", "b"].map(Record::new)).unwrap();
    assert_eq!(all.wait_timeout(LONG).unwrap().unwrap().len(), 2);
    producer.send("t", Record::new("c")).unwrap().detach();
    producer.flush_async().wait_timeout(LONG).unwrap().unwrap();
    let mut transaction = broker.transaction();
    transaction.send("t", Record::new("d"));
    assert_eq!(transaction.commit_async().wait_timeout(LONG).unwrap().unwrap().len(), 1);
    let named = broker.producer_with(ProducerConfig::new().name("n")).unwrap();
    let sent = named.send("t", Record::new("e").sequence(1)).unwrap();
    assert_eq!(sent.wait_timeout(LONG).unwrap().unwrap().offset, 6);
    let mut consumer = broker.consumer("g").subscribe("t").unwrap();
    let records = consumer.poll(LONG).unwrap();
    consumer.commit_async(&records).wait_timeout(LONG).unwrap().unwrap();
}

#[test]
fn under_a_manual_clock_the_caller_does_the_work_and_gets_the_outcome() {
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&Disk::new()).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    let producer = broker.producer();
    let pending = producer.send("t", Record::new("v")).unwrap();
    assert_eq!(pending.wait_timeout(Duration::ZERO).unwrap().unwrap().offset, 0);
    let pending = producer.send("t", Record::new("w")).unwrap();
    broker.close().unwrap();
    let outcome = pending.wait_timeout(Duration::ZERO).unwrap();
    assert!(matches!(outcome, Ok(_) | Err(Error::Closed)), "{outcome:?}");
}
