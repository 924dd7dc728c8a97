//! Lookups of times, and retention of a thousand segments.
//!
//! The first limit of a lookup knows the position of the batch: one positional read of that batch,
//! and its checksum. The second knows the positions of batches, but not their times: a binary
//! search over all of them, each step a positional read of a header. The limit of retention deletes
//! as many files of the same size from one directory, and syncs that.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use quipu::{Broker, Partition, Record, Timestamp, TopicConfig};

use super::limit::{HEADER_BYTES, unpack};
use super::random::{Places, measure};
use super::scratch::{Scratch, files_below};
use super::suite::{Metric, RATE_AND_LATENCY, Suite, way};

const SEGMENTS: usize = 1000;
/// Where the field of a batch header lies; see FORMAT.md.
const MAX_TIMESTAMP: usize = 32;

pub(crate) fn run(suite: &mut Suite<'_>) {
    let batches = suite.sizes().lookup_batches;
    let name = format!("time/seek in {batches} batches");
    if suite.wants(&name) {
        let scratch = Scratch::new();
        let broker = Broker::open(scratch.path()).unwrap();
        let partition = timed(&broker, batches);
        let places = Places::below(scratch.path());
        let reads = suite.sizes().random_reads;
        suite.compare(
            &name,
            RATE_AND_LATENCY,
            vec![way("offset_for_time", || seek(&partition, batches, reads))],
            vec![
                way("pread of the batch, crc", || pread(&places, batches, reads)),
                way("binary search by preads of headers", || search(&places, batches, reads)),
            ],
        );
    }
    let name = format!("retention of {SEGMENTS} segments");
    if suite.wants(&name) {
        suite.compare(
            &name,
            &[Metric::time(" a segment", "us")],
            vec![way("delete_records", retain)],
            vec![way("delete files, sync directory", unlink)],
        );
    }
}

/// A partition of batches of one record, a millisecond apart, in about eight segments.
fn timed(broker: &Broker, batches: usize) -> Partition {
    let config = TopicConfig::new().segment_bytes(16 * batches as u32).max_record_bytes(1 << 10);
    let partition = broker.create_topic("timed", config).unwrap().partition(0).unwrap();
    for n in 0..batches {
        let record = Record::new("sixteen bytes...").timestamp(Timestamp::from_millis(n as i64));
        partition.append_at((n as u64).into(), [record]).unwrap();
    }
    partition
}

fn seek(partition: &Partition, batches: usize, reads: usize) -> Vec<f64> {
    measure(batches, reads, |n| {
        let found = partition.offset_for_time(Timestamp::from_millis(n as i64)).unwrap();
        assert_eq!(found.unwrap().0.get(), n);
    })
}

fn pread(places: &Places, batches: usize, reads: usize) -> Vec<f64> {
    let (mut bytes, mut room) = (Vec::new(), Vec::new());
    measure(batches, reads, |n| {
        let place = &places.batches[n as usize];
        bytes.resize(place.len, 0);
        places.files[place.file].read_exact_at(&mut bytes, place.position).unwrap();
        black_box(unpack(&bytes, &mut room).len());
    })
}

fn search(places: &Places, batches: usize, reads: usize) -> Vec<f64> {
    let mut header = [0; HEADER_BYTES];
    measure(batches, reads, |n| {
        let found = places.batches.partition_point(|place| {
            places.files[place.file].read_exact_at(&mut header, place.position).unwrap();
            i64::from_le_bytes(header[MAX_TIMESTAMP..MAX_TIMESTAMP + 8].try_into().unwrap()) < n as i64
        });
        assert_eq!(found as u64, n);
    })
}

/// Fills this many segments, of which all but the active one can be removed.
fn segments(dir: &Path) -> (Broker, Partition) {
    let broker = Broker::open(dir).unwrap();
    let config = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(780);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    for n in 0..=SEGMENTS {
        partition.append_at((n as u64).into(), [Record::new(vec![7; 700])]).unwrap();
    }
    broker.maintain().unwrap();
    (broker, partition)
}

fn retain() -> Vec<f64> {
    let scratch = Scratch::new();
    let (_broker, partition) = segments(scratch.path());
    let before = files_below(scratch.path(), ".log").len();
    let start = Instant::now();
    partition.delete_records((SEGMENTS as u64).into()).unwrap();
    let took = start.elapsed();
    assert_eq!(before - files_below(scratch.path(), ".log").len(), SEGMENTS);
    vec![took.as_secs_f64() * 1e6 / SEGMENTS as f64]
}

/// Deletes as many files without a log.
fn unlink() -> Vec<f64> {
    let scratch = Scratch::new();
    let paths: Vec<_> = (0..SEGMENTS).map(|n| scratch.path().join(n.to_string())).collect();
    for path in &paths {
        // Synced, as segments are, because files without blocks are removed faster.
        let mut file = File::create(path).unwrap();
        file.write_all(&[7; 900]).unwrap();
        file.sync_all().unwrap();
    }
    let start = Instant::now();
    for path in &paths {
        std::fs::remove_file(path).unwrap();
    }
    File::open(scratch.path()).unwrap().sync_all().unwrap();
    vec![start.elapsed().as_secs_f64() * 1e6 / SEGMENTS as f64]
}
