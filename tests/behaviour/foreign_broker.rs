//! A handle of another broker is refused with one error, wherever it is passed, and nothing is
//! written in either broker.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quipu::testing::{Disk, Survive, produced};
use quipu::{
    Broker, BrokerConfig, Durability, Error, ExpectedVersion, Offset, Offsets, ProducerConfig, Record, Topic,
    TopicConfig,
};

/// Two brokers in directories of their own, with topics of the same name.
fn two() -> (tempfile::TempDir, Broker, Topic, Broker, Topic) {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let broker = Broker::open(dir.path().join(name)).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
        (broker, topic)
    };
    let ((a, topic_of_a), (b, topic_of_b)) = (open("a"), open("b"));
    (dir, a, topic_of_a, b, topic_of_b)
}

#[track_caller]
fn refused<T>(done: quipu::Result<T>, handle: &str) {
    let error = done.map(drop).unwrap_err();
    match &error {
        Error::ForeignBroker { what, own, other, .. } => {
            assert_eq!(what, handle);
            assert!(own.ends_with("a") && other.ends_with("b"), "{own:?} and {other:?}");
        }
        other => panic!("{other}"),
    }
    let text = error.to_string();
    assert!(text.starts_with(&format!("{handle} belongs to the broker of ")), "{text}");
}

fn poll_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn is_empty(topic: &Topic) -> bool {
    topic.partition(0).unwrap().bounds().unwrap().log_end == 0
}

#[test]
fn a_producer_refuses_topics_and_partitions_of_another_broker() {
    let (_dir, a, own, _b, foreign) = two();
    let partition = foreign.partition(0).unwrap();
    let outbox = a.producer_with(ProducerConfig::new().name("outbox")).unwrap();
    let record = || Record::new("v");
    refused(outbox.last_sequence(&partition), "partition t/0");
    for producer in [&a.producer(), &outbox] {
        refused(producer.send(&foreign, record()), "topic t");
        refused(producer.send(&partition, record()), "partition t/0");
        refused(producer.send_all(&foreign, [record()]), "topic t");
        refused(producer.send_all(&partition, [record()]), "partition t/0");
        refused(poll_once(producer.send_async(&foreign, record())), "topic t");
        refused(poll_once(producer.send_async(&partition, record())), "partition t/0");
    }
    refused(outbox.send(&foreign, record().sequence(1)), "topic t");
    refused(outbox.send(&partition, record().sequence(1)), "partition t/0");
    refused(outbox.send_all(&foreign, [record().sequence(1)]), "topic t");
    refused(outbox.last_sequence(&partition), "partition t/0");
    assert!(is_empty(&own) && is_empty(&foreign));
}

#[test]
fn a_transaction_refuses_topics_partitions_and_consumers_of_another_broker() {
    let (_dir, a, own, b, foreign) = two();
    let partition = foreign.partition(0).unwrap();
    let mut transaction = a.transaction();
    transaction.send(&own, Record::new("debit")).send(&foreign, Record::new("credit"));
    refused(transaction.commit(), "topic t");
    let mut transaction = a.transaction();
    transaction.send(&own, Record::new("debit")).send(&partition, Record::new("credit"));
    refused(transaction.commit(), "partition t/0");
    let mut transaction = a.transaction();
    transaction.send(&own, Record::new("debit")).expect_end(&partition, Offset::new(0));
    refused(transaction.commit_async().wait(), "partition t/0");
    let consumer = b.consumer("g").subscribe(["t"]).unwrap();
    let mut transaction = a.transaction();
    transaction.send(&own, Record::new("debit")).offsets(&consumer, Offsets::new());
    refused(transaction.commit(), "a consumer of group g");
    let mut transaction = a.transaction();
    transaction.send(&own, Record::new("debit")).offsets_of(&consumer.handle(), Offsets::new());
    refused(transaction.commit(), "a consumer of group g");
    assert!(is_empty(&own) && is_empty(&foreign));
}

#[test]
fn a_transaction_refuses_streams_of_another_broker() {
    let (_dir, a, _, b, _) = two();
    let own = a.create_topic("accounts", TopicConfig::streams()).unwrap().stream("7").unwrap();
    let foreign = b.create_topic("accounts", TopicConfig::streams()).unwrap().stream("8").unwrap();
    let mut transaction = a.transaction();
    transaction.append(&own, ExpectedVersion::Any, [Record::new("-42 EUR")]);
    transaction.append(&foreign, ExpectedVersion::Any, [Record::new("+42 EUR")]);
    refused(transaction.commit(), "stream \"8\" of accounts");
    assert_eq!((own.version().unwrap().get(), foreign.version().unwrap().get()), (0, 0));
}

#[test]
fn a_consumer_is_not_assigned_partitions_of_another_broker() {
    let (_dir, a, own, _b, foreign) = two();
    let partitions = [own.partition(0).unwrap(), foreign.partition(0).unwrap()];
    refused(a.consumer("g").assign(&partitions), "partition t/0");
    // Nothing of the attempt is left: the group can be joined.
    let mut consumer = a.consumer("g").subscribe(["t"]).unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    assert_eq!(consumer.assignment().len(), 1);
}

/// The handle of a topic ends with its broker, also where the directory is the same.
#[test]
fn a_handle_from_before_a_reopening_is_one_of_another_broker() {
    let disk = Disk::new();
    let open = || BrokerConfig::new().on_disk(&disk).unwrap();
    let broker = open();
    let old = broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.close().unwrap();
    drop(broker);
    let broker = open();
    let sent = broker.producer().send(&old, Record::new("v")).map(drop);
    assert!(matches!(sent, Err(Error::ForeignBroker { .. })), "{sent:?}");
}

/// A power loss between the two would leave half of it.
#[test]
fn a_transaction_over_two_brokers_leaves_no_half_after_a_power_loss() {
    let disks = [Disk::new(), Disk::new()];
    let brokers = [0, 1].map(|n| BrokerConfig::new().on_disk(&disks[n]).unwrap());
    let config = || TopicConfig::new().durability(Durability::Sync);
    let topics = [0, 1].map(|n| brokers[n].create_topic("t", config()).unwrap());
    let mut transaction = brokers[0].transaction();
    transaction.send(&topics[0], Record::new("debit")).send(&topics[1], Record::new("credit"));
    assert!(transaction.commit().is_err());
    for disk in &disks {
        let broker = disk.crash_and_reopen(Survive::Synced, BrokerConfig::new()).unwrap();
        assert!(produced(&broker, "t").unwrap().is_empty());
    }
}
