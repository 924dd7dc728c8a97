//! Replication of a partition: read raw, passed as bytes to another broker, checked and appended.
//!
//! The limit copies the very segment files, a megabyte at a time, as `cp` would; then it also
//! checks and decompresses every body, because a receiver must check the bytes.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::time::Instant;

use quipu::{Broker, Compression, RawBatches, TopicConfig};

use super::limit::{batches, map, unpack};
use super::scan::Log;
use super::scratch::{Scratch, files_below};
use super::suite::{Metric, Suite, way};

const PIECE: usize = 1 << 20;

pub(crate) fn run(suite: &mut Suite<'_>) {
    for set in suite.sets() {
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
            let name = format!("ship/{name}/{}", set.name);
            if suite.wants(&name) {
                let log = Log::fill(&set, set.count_for(suite.sizes().scan_bytes), compression);
                suite.compare(
                    &name,
                    &[Metric::rate("MB/s")],
                    vec![way("read_raw, append_raw 1 MiB", || ours(&log))],
                    vec![way("copy, crc, (lz4)", || limit(&log, true)), way("copy", || limit(&log, false))],
                );
            }
        }
    }
}

/// In bytes as they are stored.
fn ours(log: &Log) -> Vec<f64> {
    let scratch = Scratch::new();
    let broker = Broker::open(scratch.path()).unwrap();
    let copy = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let source = log.topic.partition(0).unwrap();
    let start = Instant::now();
    let (mut next, mut bytes) = (source.bounds().unwrap().log_start, 0);
    loop {
        let shipment = source.read_raw(next, PIECE).unwrap();
        if shipment.is_empty() {
            break;
        }
        bytes += shipment.as_bytes().len();
        next = copy.append_raw(&RawBatches::from_bytes(shipment.into_bytes()).unwrap()).unwrap();
    }
    rate(bytes, start)
}

fn limit(log: &Log, check: bool) -> Vec<f64> {
    let scratch = Scratch::new();
    let files = files_below(log.scratch.path(), ".log");
    let start = Instant::now();
    let (mut piece, mut room, mut bytes) = (vec![0; PIECE], Vec::new(), 0);
    for (number, path) in files.iter().enumerate() {
        let mut from = File::open(path).unwrap();
        let mut to = File::create(scratch.path().join(number.to_string())).unwrap();
        loop {
            let n = from.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            to.write_all(&piece[..n]).unwrap();
            bytes += n;
        }
        if check {
            for batch in batches(&map(path)) {
                black_box(unpack(batch.bytes, &mut room).len());
            }
        }
    }
    rate(bytes, start)
}

fn rate(bytes: usize, start: Instant) -> Vec<f64> {
    vec![bytes as f64 / start.elapsed().as_secs_f64() / 1e6]
}
