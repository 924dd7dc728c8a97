//! The time from the call that sends a record until a consumer at the end of the log has it.
//!
//! A producer sends at a steady pace and waits for each acknowledgement; each record contains its
//! time of sending. The consumer sleeps until there is a record, or polls in a loop. The limit
//! encodes, checksums and writes the same record, hands over its place and no more; its consumer
//! reads it back by position and checks it.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use quipu::{Broker, Compression, Record, Start, TopicConfig};

use super::limit::{HEADER_BYTES, Writer, encode, unpack, values};
use super::scratch::Scratch;
use super::suite::{Latencies, Metric, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    let count = (suite.sizes().duration.as_secs_f64() * PER_SECOND) as usize;
    for (name, spins) in [("tail/waiting", false), ("tail/spinning", true)] {
        if suite.wants(name) {
            suite.compare(
                name,
                &[Metric::time(" p50", "us"), Metric::time(" p99", "us"), Metric::time(" p99.9", "us")],
                vec![way("send, wait > poll", || ours(count, spins))],
                vec![way("write > hand over > pread", || limit(count, spins))],
            );
        }
    }
}

fn ours(count: usize, spins: bool) -> Vec<f64> {
    let scratch = Scratch::new();
    let broker = Broker::open(scratch.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let producer = broker.producer();
    let mut reader = broker.reader(["t"], Start::End).unwrap();
    let timeout = if spins { Duration::ZERO } else { Duration::from_secs(1) };
    let latencies = pair(
        count,
        |value| {
            producer.send(&topic, Record::new(value)).unwrap().wait().unwrap();
        },
        |seen| {
            for record in &reader.poll(timeout).unwrap() {
                seen(record.value().unwrap());
            }
        },
    );
    broker.close().unwrap();
    latencies.quantiles(&QUANTILES)
}

fn limit(count: usize, spins: bool) -> Vec<f64> {
    let scratch = Scratch::new();
    let path = scratch.join("log");
    let mut writer = Writer::create(&path, Compression::None);
    let file = File::open(&path).unwrap();
    let (handed_over, changed) = (Mutex::new(Vec::new()), Condvar::new());
    let mut batch = vec![0; HEADER_BYTES];
    let (mut places, mut bytes, mut room) = (Vec::new(), Vec::new(), Vec::new());
    let latencies = pair(
        count,
        |value| {
            batch.truncate(HEADER_BYTES);
            encode(value, &mut batch);
            let place = writer.write(&mut batch);
            handed_over.lock().push(place);
            changed.notify_one();
        },
        |seen| {
            let mut waiting = handed_over.lock();
            if waiting.is_empty() && !spins {
                changed.wait_for(&mut waiting, Duration::from_secs(1));
            }
            std::mem::swap(&mut *waiting, &mut places);
            drop(waiting);
            for (position, len) in places.drain(..) {
                bytes.resize(len, 0);
                file.read_exact_at(&mut bytes, position).unwrap();
                values(unpack(&bytes, &mut room)).for_each(&mut *seen);
            }
        },
    );
    latencies.quantiles(&QUANTILES)
}

/// Sends `count` records at a steady pace in this thread, while another one receives them all.
fn pair(
    count: usize,
    mut send: impl FnMut(&[u8]),
    mut receive: impl FnMut(&mut dyn FnMut(&[u8])) + Send,
) -> Latencies {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let mut latencies = Latencies::default();
            while latencies.len() < count {
                receive(&mut |value| {
                    let sent = u64::from_le_bytes(value[..8].try_into().unwrap());
                    latencies.push(start.elapsed() - Duration::from_nanos(sent));
                    black_box(value);
                });
            }
            latencies
        });
        let mut value = [b'.'; 100];
        for number in 0..count {
            let due = Duration::from_secs_f64(number as f64 / PER_SECOND);
            while start.elapsed() < due {
                std::hint::spin_loop();
            }
            value[..8].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_le_bytes());
            send(&value);
        }
        receiving.join().unwrap()
    })
}

const PER_SECOND: f64 = 10_000.0;
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
