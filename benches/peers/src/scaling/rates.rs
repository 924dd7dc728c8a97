//! Rates of appends and reads. Each measurement is one process with a log of its own.

use std::time::{Duration, Instant};

use quipu::{Broker, Offset, Partition, Producer, Record, Start, Topic, TopicConfig};

use super::Point;
use crate::latencies::Latencies;
use crate::records::Random;

const VALUE: [u8; 100] = [b'v'; 100];
const SEGMENT: u32 = 64 << 10;
/// Records of `VALUE` in a segment of `SEGMENT`, about.
const IN_SEGMENT: u64 = 600;

impl Point {
    /// Records of 100 B of a measurement.
    fn records(&self) -> u64 {
        if self.quick { 100_000 } else { 3_000_000 }
    }

    fn topic(&self, config: TopicConfig) -> (Broker, Topic) {
        let broker = Broker::open(&self.dir).unwrap();
        let topic = broker.create_topic("t", config).unwrap();
        (broker, topic)
    }
}

pub fn send(producer: &Producer, to: &Partition, value: &[u8]) {
    producer.send(to, Record::new(value)).unwrap().detach();
}

/// Sends so many records to all partitions in turn.
fn fill(producer: &Producer, partitions: &[Partition], count: u64) {
    for (_, partition) in (0..count).zip(partitions.iter().cycle()) {
        send(producer, partition, &VALUE);
    }
    producer.flush().unwrap();
}

fn rate(count: u64, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

/// Reads a topic to its end with a reader, and returns how many records it had.
fn read_all(broker: &Broker) -> u64 {
    let reader = broker.reader(&["t"], Start::Beginning).unwrap();
    let mut count = 0;
    for records in reader.to_end() {
        for record in &records.unwrap() {
            count += u64::from(std::hint::black_box(record.value()).is_some());
        }
    }
    count
}

pub fn append_threads(point: &Point) -> f64 {
    let (broker, topic) = point.topic(TopicConfig::new().partitions(16));
    let (producer, partitions) = (broker.producer(), topic.partitions());
    let each = point.records() / point.x;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..point.x as usize {
            let mut own = partitions.clone();
            own.rotate_left(thread % partitions.len());
            let producer = &producer;
            scope.spawn(move || fill(producer, &own, each));
        }
    });
    rate(each * point.x, start)
}

pub fn read_threads(point: &Point) -> f64 {
    let (broker, topic) = point.topic(TopicConfig::new().partitions(16));
    fill(&broker.producer(), &topic.partitions(), point.records());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..point.x {
            scope.spawn(|| assert_eq!(read_all(&broker), point.records()));
        }
    });
    rate(point.records() * point.x, start)
}

pub fn append_partitions(point: &Point) -> f64 {
    let (broker, topic) = point.topic(TopicConfig::new().partitions(point.x as u32));
    let (producer, partitions) = (broker.producer(), topic.partitions());
    let start = Instant::now();
    fill(&producer, &partitions, point.records());
    rate(point.records(), start)
}

pub fn read_partitions(point: &Point) -> f64 {
    let (broker, topic) = point.topic(TopicConfig::new().partitions(point.x as u32));
    fill(&broker.producer(), &topic.partitions(), point.records());
    let start = Instant::now();
    assert_eq!(read_all(&broker), point.records());
    rate(point.records(), start)
}

/// A log of records of the size of the point, and the bytes in it.
fn of_bytes(point: &Point) -> (Broker, u64, Duration) {
    let value = vec![b'v'; point.x as usize];
    let count = (100 * point.records() / point.x).clamp(8, point.records());
    let (broker, topic) = point.topic(TopicConfig::new().max_record_bytes(17 << 20));
    let (producer, partition) = (broker.producer(), topic.partition(0).unwrap());
    let start = Instant::now();
    for _ in 0..count {
        send(&producer, &partition, &value);
    }
    producer.flush().unwrap();
    (broker, count * point.x, start.elapsed())
}

pub fn append_bytes(point: &Point) -> f64 {
    let (_broker, bytes, took) = of_bytes(point);
    bytes as f64 / took.as_secs_f64() / 1e6
}

pub fn read_bytes(point: &Point) -> f64 {
    let (broker, bytes, _) = of_bytes(point);
    let start = Instant::now();
    assert_eq!(read_all(&broker) * point.x, bytes);
    rate(bytes, start) / 1e6
}

/// A log of so many small segments.
fn of_segments(point: &Point) -> (Broker, Producer, Partition) {
    let (broker, topic) = point.topic(TopicConfig::new().segment_bytes(SEGMENT));
    let (producer, partition) = (broker.producer(), topic.partition(0).unwrap());
    while (partition.segments().len() as u64) < point.x {
        fill(&producer, std::slice::from_ref(&partition), IN_SEGMENT / 2);
    }
    (broker, producer, partition)
}

pub fn append_segments(point: &Point) -> f64 {
    let (_broker, producer, partition) = of_segments(point);
    let count = IN_SEGMENT * if point.quick { 10 } else { 50 };
    let start = Instant::now();
    fill(&producer, &[partition], count);
    rate(count, start)
}

pub fn get_segments(point: &Point) -> f64 {
    let (_broker, _, partition) = of_segments(point);
    let end = partition.bounds().unwrap().visible_end.get();
    let get = |number: u64| {
        let start = Instant::now();
        let records = partition.read(Start::At(Offset::new(number)), 1).unwrap();
        assert_eq!(records.iter().next().unwrap().value(), Some(&VALUE[..]));
        start.elapsed()
    };
    // Each batch is checked when it is read first.
    for number in (0..end).step_by(100) {
        get(number);
    }
    let (mut latencies, mut random) = (Latencies::default(), Random(1));
    (0..20_000).for_each(|_| latencies.push(get(random.below(end))));
    latencies.quantile(0.5)
}

pub fn append_batch(point: &Point) -> f64 {
    let (broker, topic) = point.topic(TopicConfig::new());
    let (producer, partition) = (broker.producer(), topic.partition(0).unwrap());
    let calls = point.records() / point.x;
    let start = Instant::now();
    for _ in 0..calls {
        let records = (0..point.x).map(|_| Record::new(&VALUE[..]));
        producer.send_all(&partition, records).unwrap().detach();
    }
    producer.flush().unwrap();
    rate(calls * point.x, start)
}

pub fn read_batch(point: &Point) -> f64 {
    let (broker, topic) = point.topic(TopicConfig::new());
    let partition = topic.partition(0).unwrap();
    // A batch of one has as much header as record, and takes a write: fewer of them.
    let count = if point.x == 1 { point.records() / 4 } else { point.records() };
    let (mut end, calls) = (Offset::ZERO, count / point.x);
    for _ in 0..calls {
        partition.append_at(end, (0..point.x).map(|_| Record::new(&VALUE[..]))).unwrap();
        end = end.plus(point.x);
    }
    let start = Instant::now();
    assert_eq!(read_all(&broker), calls * point.x);
    rate(calls * point.x, start)
}
