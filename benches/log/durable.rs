//! Durable appends, each acknowledgement waited for: by one thread, and by several that share
//! syncs.

use std::time::{Duration, Instant};

use quipu::{Broker, Compression, Durability, Record, TopicConfig};

use super::limit::{GroupCommit, HEADER_BYTES, Writer, encode};
use super::records::RecordSet;
use super::scratch::Scratch;
use super::suite::{Latencies, RATE_AND_LATENCY, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    let duration = suite.sizes().duration;
    for set in suite.sets().into_iter().take(2) {
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
            let name = format!("append/sync/{name}/{}", set.name);
            if suite.wants(&name) {
                suite.compare(
                    &name,
                    RATE_AND_LATENCY,
                    vec![way("send, wait", || ours(&set, 1, compression, duration))],
                    vec![way("write, fdatasync", || alone(&set, compression, duration))],
                );
            }
        }
    }
    for (threads, name) in [(8, "append/sync/8 threads"), (64, "append/sync/64 threads")] {
        if suite.wants(name) {
            let set = suite.small();
            suite.compare(
                name,
                RATE_AND_LATENCY,
                vec![way("send, wait", || ours(&set, threads, Compression::None, duration))],
                vec![way("a minimal group commit", || together(&set, threads, duration))],
            );
        }
    }
}

fn ours(set: &RecordSet, threads: usize, compression: Compression, duration: Duration) -> Vec<f64> {
    let scratch = Scratch::new();
    let broker = Broker::open(scratch.path()).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync).compression(compression);
    let topic = broker.create_topic("t", config).unwrap();
    let producer = broker.producer();
    let measured = at_once(threads, duration, set, |value| {
        producer.send(&topic, Record::new(value)).unwrap().wait().unwrap();
    });
    broker.close().unwrap();
    measured
}

fn alone(set: &RecordSet, compression: Compression, duration: Duration) -> Vec<f64> {
    let scratch = Scratch::new();
    let mut writer = Writer::create(&scratch.join("log"), compression);
    let mut batch = vec![0; HEADER_BYTES];
    let start = Instant::now();
    let latencies = repeat(duration, set, |value| {
        batch.truncate(HEADER_BYTES);
        encode(value, &mut batch);
        writer.write(&mut batch);
        writer.sync();
    });
    latencies.rate_and_quantiles(start.elapsed())
}

fn together(set: &RecordSet, threads: usize, duration: Duration) -> Vec<f64> {
    let scratch = Scratch::new();
    let log = GroupCommit::create(&scratch.join("log"));
    at_once(threads, duration, set, |value| {
        let mut batch = Vec::with_capacity(2 * HEADER_BYTES + value.len());
        batch.resize(HEADER_BYTES, 0);
        encode(value, &mut batch);
        log.append(&mut batch);
    })
}

/// Runs `work` in this many threads at once.
fn at_once(threads: usize, duration: Duration, set: &RecordSet, work: impl Fn(&[u8]) + Sync) -> Vec<f64> {
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| repeat(duration, set, &work))).collect();
        let mut all = Latencies::default();
        for thread in running {
            all.extend(thread.join().unwrap());
        }
        all
    });
    latencies.rate_and_quantiles(start.elapsed())
}

/// Runs `work` with one value after the other, for this long.
fn repeat(duration: Duration, set: &RecordSet, mut work: impl FnMut(&[u8])) -> Latencies {
    let mut latencies = Latencies::default();
    let start = Instant::now();
    for value in set.take(usize::MAX) {
        let before = Instant::now();
        work(value);
        latencies.push(before.elapsed());
        if start.elapsed() >= duration {
            break;
        }
    }
    latencies
}
