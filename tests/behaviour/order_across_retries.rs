//! A sender that sends again in the old order keeps that order across failed writes, because the
//! partition takes nothing until the error has been taken (Kafka keeps it with
//! `enable.idempotence`).

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use quipu::testing::{Disk, Op, produced};
use quipu::{Broker, BrokerConfig, Pending, Producer, ProducerConfig, Record, Topic, TopicConfig};

use crate::common::Random;

fn open(disk: &Disk, partitions: u32) -> (Broker, Topic) {
    let broker = BrokerConfig::new().on_disk(disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    (broker, topic)
}

/// Each record is a batch, and is written by the call that sends it.
fn at_once(broker: &Broker) -> Producer {
    broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap()
}

fn send(producer: &Producer, topic: &Topic, n: usize) -> Pending {
    producer.send(topic, Record::new(n.to_string()).key("k")).unwrap()
}

fn stored(broker: &Broker) -> Vec<usize> {
    let records = produced(broker, "t").unwrap();
    records.iter().map(|r| String::from_utf8_lossy(r.value().unwrap()).parse().unwrap()).collect()
}

fn fail_next_write(disk: &Disk) {
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
}

#[test]
fn a_window_that_is_sent_again_in_order_stays_in_order() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, 1);
    let producer = at_once(&broker);
    fail_next_write(&disk);
    let mut window: Vec<_> = (0..6).map(|n| (n, send(&producer, &topic, n))).collect();
    while !window.is_empty() {
        let failed: Vec<_> = window.drain(..).filter_map(|(n, sent)| sent.wait().err().map(|_| n)).collect();
        window = failed.into_iter().map(|n| (n, send(&producer, &topic, n))).collect();
    }
    assert_eq!(stored(&broker), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn records_fail_with_the_same_error_until_it_is_taken() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, 2);
    let producer = at_once(&broker);
    fail_next_write(&disk);
    let first = send(&producer, &topic, 0);
    // A flush that has nothing to report takes nothing.
    producer.flush().unwrap();
    let second = send(&producer, &topic, 1);
    let many = producer.send_all(&topic, ["2", "3"].map(|n| Record::new(n).key("k"))).unwrap();
    let error = second.wait().unwrap_err();
    // Now it is taken, and other acknowledgements return it all the same.
    send(&producer, &topic, 4).wait().unwrap();
    assert_eq!(many.wait().unwrap_err().to_string(), error.to_string());
    assert_eq!(first.wait().unwrap_err().to_string(), error.to_string());
    send(&producer, &topic, 5).wait().unwrap();
    producer.flush().unwrap();
    assert_eq!(stored(&broker), [4, 5]);
}

#[test]
fn another_partition_and_another_producer_are_not_affected() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, 2);
    let (producer, other) = (at_once(&broker), at_once(&broker));
    let (one, two) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
    fail_next_write(&disk);
    let failed = producer.send(&one, Record::new("0")).unwrap();
    producer.send(&two, Record::new("1")).unwrap().wait().unwrap();
    other.send(&one, Record::new("2")).unwrap().wait().unwrap();
    let after = producer.send(&one, Record::new("3")).unwrap();
    assert!(failed.wait().is_err());
    assert!(after.wait().is_err());
}

#[test]
fn an_error_that_is_left_to_flush_holds_nothing_up() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, 1);
    let producer = at_once(&broker);
    // Detached, and no acknowledgement is left.
    fail_next_write(&disk);
    send(&producer, &topic, 0).detach();
    send(&producer, &topic, 1).wait().unwrap();
    assert!(producer.flush().is_err());
    // Detached before the write.
    let lingering = broker.producer_with(ProducerConfig::new().linger(Duration::from_secs(3600))).unwrap();
    send(&lingering, &topic, 2).detach();
    send(&lingering, &topic, 3).detach();
    fail_next_write(&disk);
    assert!(lingering.flush().is_err());
    send(&lingering, &topic, 4).wait().unwrap();
    // One of two is dropped: the other one is still to be asked.
    fail_next_write(&disk);
    let kept = send(&producer, &topic, 5);
    send(&producer, &topic, 6).detach();
    let after = send(&producer, &topic, 7);
    // Unless the flush returns the error.
    assert!(producer.flush().is_err());
    send(&producer, &topic, 8).wait().unwrap();
    assert!(kept.wait().is_err() && after.wait().is_err());
    // All are dropped.
    fail_next_write(&disk);
    let dropped = [9, 10].map(|n| send(&producer, &topic, n));
    drop(dropped);
    send(&producer, &topic, 11).wait().unwrap();
    assert_eq!(stored(&broker), [1, 4, 8, 11]);
}

/// A failure may hit while earlier acknowledgements with an older error are still held: taking that
/// one does not end the new failure.
#[test]
fn an_older_error_does_not_end_a_newer_failure() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, 1);
    let producer = at_once(&broker);
    fail_next_write(&disk);
    let mut old: VecDeque<_> = (0..3).map(|n| (n, send(&producer, &topic, n))).collect();
    assert!(old.pop_front().unwrap().1.wait().is_err());
    fail_next_write(&disk);
    let newer = send(&producer, &topic, 0);
    assert!(old.pop_front().unwrap().1.wait().is_err());
    let after = send(&producer, &topic, 1);
    assert!(newer.wait().is_err());
    assert!(after.wait().is_err());
    drop(old);
    for n in 0..3 {
        send(&producer, &topic, n).wait().unwrap();
    }
    assert_eq!(stored(&broker), [0, 1, 2]);
}

#[test]
fn any_window_and_any_failures_keep_the_order() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let disk = Disk::new();
        let (broker, topic) = open(&disk, 1);
        let linger = if seed % 3 == 0 { Duration::ZERO } else { Duration::from_secs(3600) };
        let config = ProducerConfig::new().batch_bytes(1 << 10).linger(linger);
        let producer = broker.producer_with(config).unwrap();
        let send = |n: usize, random: &mut Random| {
            if random.below(4) == 0 {
                fail_next_write(&disk);
            }
            // Up to half a batch, so that batches differ.
            let text = format!("{n} {}", "x".repeat(random.below(500) as usize));
            producer.send(&topic, Record::new(text)).unwrap()
        };
        let (total, width) = (60, 1 + random.below(12) as usize);
        let mut window = VecDeque::new();
        let mut next = 0;
        let mut failures = 0;
        while next < total || !window.is_empty() {
            if next < total && window.len() < width {
                window.push_back((next, send(next, &mut random)));
                next += 1;
                continue;
            }
            let Some((n, sent)) = window.pop_front() else { continue };
            if sent.wait().is_ok() {
                continue;
            }
            failures += 1;
            assert!(failures < 10_000, "seed {seed}: it does not end");
            if random.below(2) == 0 {
                // All acknowledgements first, then all of it again.
                let mut again = vec![n];
                for (n, sent) in window.drain(..) {
                    assert!(sent.wait().is_err(), "seed {seed}: {n} overtook one that failed");
                    again.push(n);
                }
                window.extend(again.into_iter().map(|n| (n, send(n, &mut random))));
            } else {
                // One by one, without a new one between them.
                let mut left = window.len();
                window.push_back((n, send(n, &mut random)));
                while left > 0 {
                    left -= 1;
                    let Some((n, sent)) = window.pop_front() else { continue };
                    assert!(sent.wait().is_err(), "seed {seed}: {n} overtook one that failed");
                    window.push_back((n, send(n, &mut random)));
                }
            }
        }
        disk.clear_faults();
        let records = produced(&broker, "t").unwrap();
        let number = |text: &[u8]| String::from_utf8_lossy(text).split(' ').next().unwrap().parse().unwrap();
        let stored: Vec<usize> = records.iter().map(|r| number(r.value().unwrap())).collect();
        assert_eq!(stored, (0..total).collect::<Vec<_>>(), "seed {seed}, window of {width}");
        assert!(failures > 0 || seed % 3 != 0, "seed {seed}: nothing failed");
    }
}
