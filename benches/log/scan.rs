//! Reads of a topic from its beginning to its end. One thread, the files in the page cache.
//!
//! The limit maps the very segment files that quipu wrote, checks every body and decompresses it
//! into one buffer; with "values", it also walks the records and reads the length of each value, as
//! the user of the reader does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quipu::{Broker, Compression, Record, Start, Topic, TopicConfig};

use super::limit::{batches, map, unpack, values};
use super::records::RecordSet;
use super::scratch::{Scratch, files_below};
use super::suite::{Metric, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    for set in suite.sets() {
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
            let name = format!("scan/{name}/{}", set.name);
            if suite.wants(&name) {
                let log = Log::fill(&set, set.count_for(suite.sizes().scan_bytes), compression);
                suite.compare(
                    &name,
                    &[Metric::rate("M rec/s")],
                    vec![way("reader.poll", || poll(&log)), way("partition.read 1 MiB", || read(&log))],
                    vec![
                        way("map, crc, (lz4), values", || limit(&log, true)),
                        way("map, crc, (lz4)", || limit(&log, false)),
                    ],
                );
            }
        }
    }
}

/// A topic of one partition that holds records.
pub(crate) struct Log {
    pub(crate) broker: Broker,
    pub(crate) topic: Topic,
    pub(crate) count: usize,
    pub(crate) scratch: Scratch,
}

impl Log {
    pub(crate) fn fill(set: &RecordSet, count: usize, compression: Compression) -> Self {
        let scratch = Scratch::new();
        let broker = Broker::open(scratch.path()).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new().compression(compression)).unwrap();
        fill(&broker, &topic, set, count);
        // Synced, so that no write-back runs during other measurements.
        broker.sync().unwrap();
        Log { broker, topic, count, scratch }
    }
}

/// Sends this many records, and flushes.
pub(crate) fn fill(broker: &Broker, topic: &Topic, set: &RecordSet, count: usize) {
    let producer = broker.producer();
    for value in set.take(count) {
        producer.send(topic, Record::new(value)).unwrap().detach();
    }
    producer.flush().unwrap();
}

fn poll(log: &Log) -> Vec<f64> {
    let start = Instant::now();
    let mut reader = log.broker.reader(["t"], Start::Beginning).unwrap();
    let (mut seen, mut bytes) = (0, 0);
    while seen < log.count {
        let records = reader.poll(Duration::from_secs(10)).unwrap();
        assert!(!records.is_empty(), "all records are there");
        for record in &records {
            bytes += record.value().map_or(0, <[u8]>::len);
            seen += 1;
        }
    }
    black_box(bytes);
    rate(log, start)
}

fn read(log: &Log) -> Vec<f64> {
    let partition = log.topic.partition(0).unwrap();
    let start = Instant::now();
    let (mut next, mut seen, mut bytes) = (Start::Beginning, 0, 0);
    while seen < log.count {
        let records = partition.read(next, 1 << 20).unwrap();
        let mut last = None;
        for record in &records {
            bytes += record.value().map_or(0, <[u8]>::len);
            seen += 1;
            last = Some(record);
        }
        next = Start::At(last.expect("all records are there").offset().plus(1));
    }
    black_box(bytes);
    rate(log, start)
}

fn limit(log: &Log, walk: bool) -> Vec<f64> {
    let files = files_below(log.scratch.path(), ".log");
    let start = Instant::now();
    let (mut room, mut bytes) = (Vec::new(), 0);
    for file in &files {
        for batch in batches(&map(file)) {
            let body = unpack(batch.bytes, &mut room);
            bytes += if walk { values(body).map(<[u8]>::len).sum() } else { body.len() };
        }
    }
    black_box(bytes);
    rate(log, start)
}

fn rate(log: &Log, start: Instant) -> Vec<f64> {
    vec![log.count as f64 / start.elapsed().as_secs_f64() / 1e6]
}
