//! The anonymous memory of a process, against what it has open.

use std::time::Duration;

use quipu::{Broker, Consumer, ExpectedVersion, Record, TopicConfig};

use super::Point;
use super::rates::send;
use crate::process;

const VALUE: [u8; 100] = [b'v'; 100];

/// In KiB: what `open` adds, while its result lives.
fn added<T>(open: impl FnOnce() -> T) -> f64 {
    let before = process::anonymous_memory().expect("/proc");
    let _open = open();
    (process::anonymous_memory().expect("/proc") - before).max(0.0) / 1024.0
}

pub fn partitions(point: &Point) -> f64 {
    added(|| {
        let broker = Broker::open(&point.dir).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new().partitions(point.x as u32)).unwrap();
        let producer = broker.producer();
        topic.partitions().iter().for_each(|partition| send(&producer, partition, &VALUE));
        producer.flush().unwrap();
        broker
    })
}

pub fn streams(point: &Point) -> f64 {
    added(|| {
        let broker = Broker::open(&point.dir).unwrap();
        let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
        for number in 0..point.x {
            let stream = topic.stream(format!("stream-{number:08}")).unwrap();
            stream.append(ExpectedVersion::Empty, [Record::new(&VALUE[..])]).unwrap();
        }
        broker.maintain().unwrap();
        broker
    })
}

pub fn consumers(point: &Point) -> f64 {
    let broker = Broker::open(&point.dir).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    send(&broker.producer(), &topic.partition(0).unwrap(), &VALUE);
    added(|| {
        let group = |number| broker.consumer(&format!("group-{number}")).subscribe(&["t"]).unwrap();
        let mut consumers: Vec<Consumer> = (0..point.x).map(group).collect();
        for consumer in &mut consumers {
            let records = consumer.poll(Duration::from_secs(1)).unwrap();
            consumer.commit(&records).unwrap();
        }
        consumers
    })
}

pub fn members(point: &Point) -> f64 {
    let broker = Broker::open(&point.dir).unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(point.x as u32)).unwrap();
    let group = broker.group("group").unwrap();
    added(|| {
        let join = |_| broker.consumer("group").subscribe(&["t"]).unwrap();
        let mut members: Vec<Consumer> = (0..point.x).map(join).collect();
        while !group.describe().unwrap().stable {
            members.iter_mut().for_each(|member| drop(member.poll(Duration::ZERO).unwrap()));
        }
        assert!(members.iter().all(|member| member.assignment().len() == 1));
        members
    })
}
