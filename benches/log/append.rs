//! Appends by one thread, acknowledged by the page cache.
//!
//! The limit does the same to the same values: encode, compress, checksum, write, in batches of the
//! same size. It is measured with the encoding in the loop, which is the whole job, and with
//! batches that were encoded beforehand, which is the cost of compression, checksum and page cache
//! alone.

use std::time::Instant;

use quipu::{Broker, Compression, Record, Topic, TopicConfig};

use super::limit::{BATCH_BYTES, HEADER_BYTES, Writer, bodies, encode};
use super::records::RecordSet;
use super::scratch::Scratch;
use super::suite::{Metric, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    for set in suite.sets() {
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
            let name = format!("append/os/{name}/{}", set.name);
            if suite.wants(&name) {
                let count = set.count_for(suite.sizes().append_bytes);
                suite.compare(
                    &name,
                    &[Metric::rate("M rec/s")],
                    vec![
                        way("send", || send(&set, count, compression, false)),
                        way("send, with keys", || send(&set, count, compression, true)),
                        way("send_all by 1000", || send_all(&set, count, compression)),
                    ],
                    vec![
                        way("encode, (lz4), crc, write", || limit(&set, count, compression)),
                        way("(lz4), crc, write", || limit_encoded(&set, count, compression)),
                    ],
                );
            }
        }
    }
}

fn send(set: &RecordSet, count: usize, compression: Compression, keys: bool) -> Vec<f64> {
    with_topic(compression, |broker, topic| {
        let producer = broker.producer();
        let start = Instant::now();
        for value in set.take(count) {
            let record = Record::new(value);
            // A field that looks like a name.
            let record = if keys { record.key(value.get(27..34).unwrap_or(value)) } else { record };
            producer.send(topic, record).unwrap().detach();
        }
        producer.flush().unwrap();
        rate(count, start)
    })
}

fn send_all(set: &RecordSet, count: usize, compression: Compression) -> Vec<f64> {
    with_topic(compression, |broker, topic| {
        let producer = broker.producer();
        let mut values = set.take(count).peekable();
        let start = Instant::now();
        while values.peek().is_some() {
            let group = values.by_ref().take(1000).map(Record::new);
            producer.send_all(topic, group).unwrap().detach();
        }
        producer.flush().unwrap();
        rate(count, start)
    })
}

/// A fresh topic, deleted afterwards, so that no run waits for the write-back of another one.
fn with_topic(compression: Compression, work: impl FnOnce(&Broker, &Topic) -> Vec<f64>) -> Vec<f64> {
    let scratch = Scratch::new();
    let broker = Broker::open(scratch.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().compression(compression)).unwrap();
    let measured = work(&broker, &topic);
    assert!(topic.partition(0).unwrap().bounds().unwrap().visible_end.get() > 0);
    broker.delete_topic("t").unwrap();
    broker.close().unwrap();
    measured
}

fn limit(set: &RecordSet, count: usize, compression: Compression) -> Vec<f64> {
    let scratch = Scratch::new();
    let mut writer = Writer::create(&scratch.join("log"), compression);
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    batch.resize(HEADER_BYTES, 0);
    let start = Instant::now();
    for value in set.take(count) {
        if batch.len() + value.len() + 16 > BATCH_BYTES {
            writer.write(&mut batch);
            batch.truncate(HEADER_BYTES);
        }
        encode(value, &mut batch);
    }
    writer.write(&mut batch);
    rate(count, start)
}

fn limit_encoded(set: &RecordSet, count: usize, compression: Compression) -> Vec<f64> {
    let scratch = Scratch::new();
    let mut batches = bodies(set, BATCH_BYTES, set.len().min(count));
    let mut writer = Writer::create(&scratch.join("log"), compression);
    let rounds = count / set.len().min(count);
    let start = Instant::now();
    for _ in 0..rounds {
        for batch in &mut batches {
            writer.write(batch);
        }
    }
    rate(set.len().min(count) * rounds, start)
}

/// Millions a second since `start`.
fn rate(count: usize, start: Instant) -> Vec<f64> {
    vec![count as f64 / start.elapsed().as_secs_f64() / 1e6]
}
