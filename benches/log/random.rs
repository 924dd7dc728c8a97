//! Reads of one record by its offset. The files are in the page cache.
//!
//! The limit knows the position of each batch: one positional read, the checksum, the
//! decompression, and the walk to the record.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use quipu::{Compression, Offset, Start};

use super::limit::{batches, map, unpack, values};
use super::records::Random;
use super::scan::Log;
use super::scratch::files_below;
use super::suite::{Latencies, RATE_AND_LATENCY, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    for (name, compression) in [("random/none", Compression::None), ("random/lz4", Compression::Lz4)] {
        if suite.wants(name) {
            let set = suite.small();
            let log = Log::fill(&set, set.count_for(suite.sizes().scan_bytes), compression);
            let places = Places::of(&log);
            let reads = suite.sizes().random_reads;
            suite.compare(
                name,
                RATE_AND_LATENCY,
                vec![way("partition.read", || ours(&log, reads))],
                vec![way("pread, crc, (lz4), walk", || limit(&places, log.count, reads))],
            );
        }
    }
}

fn ours(log: &Log, reads: usize) -> Vec<f64> {
    let partition = log.topic.partition(0).unwrap();
    measure(log.count, reads, |offset| {
        let records = partition.read(Start::At(Offset::new(offset)), 1).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!(record.offset().get(), offset);
        black_box(record.value());
    })
}

fn limit(places: &Places, count: usize, reads: usize) -> Vec<f64> {
    let (mut bytes, mut room) = (Vec::new(), Vec::new());
    measure(count, reads, |offset| {
        let at = places.batches.partition_point(|place| place.base_offset <= offset) - 1;
        let place = &places.batches[at];
        bytes.resize(place.len, 0);
        places.files[place.file].read_exact_at(&mut bytes, place.position).unwrap();
        let body = unpack(&bytes, &mut room);
        black_box(values(body).nth((offset - place.base_offset) as usize).unwrap());
    })
}

pub(super) fn measure(count: usize, reads: usize, mut read: impl FnMut(u64)) -> Vec<f64> {
    let mut random = Random(1);
    let mut latencies = Latencies::default();
    let start = Instant::now();
    for _ in 0..reads {
        let offset = random.below(count as u64);
        let before = Instant::now();
        read(offset);
        latencies.push(before.elapsed());
    }
    latencies.rate_and_quantiles(start.elapsed())
}

/// The position of every batch of a log.
pub(super) struct Places {
    pub(super) files: Vec<File>,
    pub(super) batches: Vec<Place>,
}

pub(super) struct Place {
    base_offset: u64,
    pub(super) file: usize,
    pub(super) position: u64,
    pub(super) len: usize,
}

impl Places {
    fn of(log: &Log) -> Self {
        Places::below(log.scratch.path())
    }

    pub(super) fn below(dir: &Path) -> Self {
        let mut places = Places { files: Vec::new(), batches: Vec::new() };
        for (file, path) in files_below(dir, ".log").iter().enumerate() {
            places.files.push(File::open(path).unwrap());
            places.batches.extend(batches(&map(path)).map(|batch| Place {
                base_offset: batch.base_offset,
                file,
                position: batch.position as u64,
                len: batch.bytes.len(),
            }));
        }
        places
    }
}
