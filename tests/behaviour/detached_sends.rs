//! A record that was not written, and whose sender has given up its acknowledgement, is reported to
//! the event listener: where it was lost, how many records with it, and why.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op};
use quipu::{Broker, BrokerConfig, Error, Producer, ProducerConfig, Record, TopicConfig};

/// The producer's name, the partition, how many records, and the cause.
type Losses = Arc<Mutex<Vec<(Option<String>, u32, u32, Error)>>>;

fn broker(disk: &Disk) -> (Broker, Losses) {
    let losses = Losses::default();
    let heard = losses.clone();
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_event(move |event| {
        if let Event::SendFailed { topic, partition, producer, records, cause, .. } = event {
            assert_eq!(topic, "t");
            let name = producer.as_ref().map(ToString::to_string);
            heard.lock().unwrap().push((name, partition.get(), *records, cause.clone()));
        }
    });
    let broker = config.on_disk(disk).unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    (broker, losses)
}

/// Nothing is written before a caller waits or flushes.
fn lingering(broker: &Broker) -> Producer {
    broker.producer_with(ProducerConfig::new().linger(Duration::from_secs(60))).unwrap()
}

fn fail_next_write(disk: &Disk) {
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
}

/// Those since the last call, without their causes, which are full disks.
fn take(losses: &Losses) -> Vec<(Option<String>, u32, u32)> {
    let taken = std::mem::take(&mut *losses.lock().unwrap());
    let without_cause = |(name, partition, records, cause)| {
        assert!(matches!(cause, Error::DiskFull { .. }), "{cause:?}");
        (name, partition, records)
    };
    taken.into_iter().map(without_cause).collect()
}

#[test]
fn a_batch_of_detached_records_is_reported_once() {
    let disk = Disk::new();
    let (broker, losses) = broker(&disk);
    let partition = broker.topic("t").unwrap().partition(1).unwrap();
    let producer = lingering(&broker);
    for value in ["a", "b"] {
        producer.send(&partition, Record::new(value)).unwrap().detach();
    }
    drop(producer.send_all(&partition, ["c", "d", "e"].map(Record::new)).unwrap());
    assert_eq!(take(&losses), []);
    fail_next_write(&disk);
    let flushed = producer.flush().unwrap_err();
    assert!(matches!(flushed, Error::DiskFull { .. }), "{flushed:?}");
    assert_eq!(take(&losses), [(None, 1, 5)]);
    producer.send(&partition, Record::new("f")).unwrap().detach();
    producer.flush().unwrap();
    assert_eq!(take(&losses), []);
}

#[test]
fn an_acknowledgement_given_up_after_the_failure_is_reported_too() {
    let disk = Disk::new();
    let (broker, losses) = broker(&disk);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let producer = lingering(&broker);
    let [first, second, third] = ["a", "b", "c"].map(|v| producer.send(&partition, Record::new(v)).unwrap());
    fail_next_write(&disk);
    producer.flush().unwrap();
    // Until the error is taken, records that come later fail with it: they are lost too.
    let later = producer.send(&partition, Record::new("d")).unwrap();
    assert_eq!(take(&losses), []);
    later.detach();
    assert_eq!(take(&losses), [(None, 0, 1)]);
    assert!(first.wait().is_err());
    assert_eq!(take(&losses), [], "a caller has the error");
    drop(second);
    assert_eq!(take(&losses), [(None, 0, 3)]);
    third.detach();
    assert_eq!(take(&losses), [], "the batch is reported already");
}

#[test]
fn an_error_that_callers_take_is_no_event() {
    let disk = Disk::new();
    let (broker, losses) = broker(&disk);
    let producer = lingering(&broker);
    let sent = producer.send_all("t", ["a", "b"].map(|key| Record::new("v").key(key))).unwrap();
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    assert!(sent.wait().is_err());
    assert_eq!(take(&losses), []);
}

#[test]
fn the_buffered_records_of_a_dropped_producer_are_reported_with_its_name() {
    let disk = Disk::new();
    let (broker, losses) = broker(&disk);
    let config = ProducerConfig::new().name("outbox").linger(Duration::from_secs(60));
    let producer = broker.producer_with(config).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    producer.send(&partition, Record::new("a")).unwrap().detach();
    fail_next_write(&disk);
    drop(producer);
    broker.maintain().unwrap();
    assert_eq!(take(&losses), [(Some("outbox".to_string()), 0, 1)]);
}

#[test]
fn records_of_a_deleted_topic_are_reported() {
    let disk = Disk::new();
    let (broker, losses) = broker(&disk);
    let producer = lingering(&broker);
    producer.send("t", Record::new("a")).unwrap().detach();
    broker.delete_topic("t").unwrap();
    assert!(producer.flush().is_err());
    let losses = std::mem::take(&mut *losses.lock().unwrap());
    assert!(matches!(&losses[..], [(None, _, 1, Error::TopicDeleted { .. })]), "{losses:?}");
}
