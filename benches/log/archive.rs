//! How small does an archive of real logs become, and what does it cost? LZ4 beside the levels of zstd: bytes on the
//! medium, records in and out.
//!
//! One partition, batches of at most 64 KiB, one thread each way; each figure is the best of the repetitions.

use std::time::Instant;

use quipu::{Broker, Compression, ProducerConfig, Record, Start, TopicConfig};

use super::records::RecordSet;
use super::scratch::{Scratch, files_below};
use super::suite::Suite;

const BATCH_BYTES: usize = 64 << 10;

pub(crate) fn run(suite: &mut Suite<'_>) {
    if !suite.wants("archive") {
        return;
    }
    suite.has_printed();
    if !cfg!(feature = "zstd") {
        println!("archive: SKIPPED, this build is without the feature `zstd` (cargo bench --features zstd)");
        return;
    }
    let Some(set) = suite.sets().into_iter().find(|set| set.name == RecordSet::LOG_LINES) else {
        println!("archive: SKIPPED, there is no ../shared/data with logs");
        return;
    };
    let count = set.count_for(suite.sizes().scan_bytes / 16);
    println!("\narchive of {count} lines of real logs, batches of {} KiB", BATCH_BYTES >> 10);
    println!("{:<12} {:>14} {:>8} {:>12} {:>12}", "", "bytes", "of plain", "k rec/s in", "k rec/s out");
    let mut plain = None;
    for (name, compression) in codecs() {
        let mut best = (0, 0.0_f64, 0.0_f64);
        for _ in 0..suite.repetitions() {
            let (bytes, written, read) = measure(&set, count, compression);
            best = (bytes, best.1.max(written), best.2.max(read));
        }
        let (bytes, written, read) = best;
        let share = 100.0 * bytes as f64 / *plain.get_or_insert(bytes) as f64;
        println!("{name:<12} {bytes:>14} {share:>7.1}% {written:>12.0} {read:>12.0}");
    }
}

fn codecs() -> Vec<(String, Compression)> {
    let all = [("none", Compression::None), ("lz4", Compression::Lz4)];
    #[allow(unused_mut)]
    let mut all: Vec<_> = all.into_iter().map(|(name, codec)| (name.to_string(), codec)).collect();
    #[cfg(feature = "zstd")]
    all.extend([-7, 1, 3, 6, 9, 12, 19].map(|level| (format!("zstd {level}"), Compression::Zstd { level })));
    all
}

/// The bytes of all segments, and thousands of records in a second, in and out.
fn measure(set: &RecordSet, count: usize, compression: Compression) -> (u64, f64, f64) {
    let scratch = Scratch::new();
    let broker = Broker::open(scratch.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().compression(compression)).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().batch_bytes(BATCH_BYTES)).unwrap();
    let rate = |start: Instant| count as f64 / start.elapsed().as_secs_f64() / 1e3;
    let start = Instant::now();
    for value in set.take(count) {
        producer.send(&topic, Record::new(value)).unwrap().detach();
    }
    producer.flush().unwrap();
    let written = rate(start);
    broker.sync().unwrap();
    let bytes = files_below(scratch.path(), "log").iter().map(|path| path.metadata().unwrap().len()).sum();
    let start = Instant::now();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let (mut seen, mut value_bytes) = (0, 0);
    while seen < count {
        let records = reader.poll(std::time::Duration::from_secs(10)).unwrap();
        assert!(!records.is_empty(), "all records are there");
        seen += records.len();
        value_bytes += records.iter().filter_map(|record| record.value()).map(<[u8]>::len).sum::<usize>();
    }
    std::hint::black_box(value_bytes);
    (bytes, written, rate(start))
}
