//! Compaction. Every key is there twice, so half of the records are removed; in stored bytes of the
//! input.
//!
//! The limit takes the same segment files: every batch is checked and decompressed, and all of it
//! compressed and written again, once and in order. It looks for no key, reads nothing twice, and
//! syncs once. The second limit also removes the old files: there are a thousand, since the
//! segments are small here, and some file systems take longer to free a file than to write it.

use std::path::Path;
use std::time::Instant;

use quipu::{Broker, Cleanup, Compression, Record, TopicConfig};

use super::limit::{HEADER_BYTES, Writer, batches, map, unpack};
use super::records::RecordSet;
use super::scratch::{Scratch, files_below};
use super::suite::{Metric, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    for set in suite.sets() {
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
            let name = format!("compact/{name}/{}", set.name);
            if suite.wants(&name) {
                let count = set.count_for(suite.sizes().scan_bytes);
                let log = fill(&set, count, compression);
                suite.compare(
                    &name,
                    &[Metric::rate("MB/s")],
                    vec![way("partition.compact", || ours(&set, count, compression))],
                    vec![
                        way("crc, (lz4), (lz4), write", || limit(&log.1, compression)),
                        way("..., remove", || {
                            let copy = copied(&log.1);
                            rewritten(&copy, compression, |path| std::fs::remove_file(path).unwrap())
                        }),
                    ],
                );
            }
        }
    }
}

fn fill(set: &RecordSet, count: usize, compression: Compression) -> (Broker, Scratch) {
    let scratch = Scratch::new();
    let broker = Broker::open(scratch.path()).unwrap();
    let config = TopicConfig::new()
        .cleanup(Cleanup::Compact)
        .min_cleanable_dirty_ratio(1.0)
        .segment_bytes(1 << 18)
        .max_record_bytes(1 << 17)
        .compression(compression);
    let topic = broker.create_topic("t", config).unwrap();
    let producer = broker.producer();
    for (n, value) in set.take(count).enumerate() {
        let key = (n % (count / 2).max(1)) as u64;
        let key = key.to_be_bytes();
        producer.send(&topic, Record::new(value).key(key.as_slice())).unwrap().detach();
    }
    producer.flush().unwrap();
    broker.sync().unwrap();
    broker.maintain().unwrap();
    (broker, scratch)
}

fn ours(set: &RecordSet, count: usize, compression: Compression) -> Vec<f64> {
    let (broker, _scratch) = fill(set, count, compression);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let start = Instant::now();
    let done = partition.compact().unwrap().unwrap();
    rate(done.bytes_before, start)
}

fn limit(log: &Scratch, compression: Compression) -> Vec<f64> {
    rewritten(log, compression, |_| {})
}

/// The segment files, without a sync.
fn copied(log: &Scratch) -> Scratch {
    let copy = Scratch::new();
    for path in files_below(log.path(), ".log") {
        let to = copy.join(path.file_name().unwrap().to_str().unwrap());
        std::fs::copy(path, &to).unwrap();
        std::fs::File::open(to).unwrap().sync_all().unwrap();
    }
    copy
}

fn rewritten(log: &Scratch, compression: Compression, done_with: impl Fn(&Path)) -> Vec<f64> {
    let scratch = Scratch::new();
    let files = files_below(log.path(), ".log");
    let start = Instant::now();
    let mut to = Writer::create(&scratch.path().join("out"), compression);
    let (mut room, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for path in &files {
        let file = map(path);
        bytes += file.len() as u64;
        for stored in batches(&file) {
            batch.clear();
            batch.resize(HEADER_BYTES, 0);
            batch.extend_from_slice(unpack(stored.bytes, &mut room));
            to.write(&mut batch);
        }
    }
    to.sync();
    files.iter().for_each(|path| done_with(path));
    rate(bytes, start)
}

fn rate(bytes: u64, start: Instant) -> Vec<f64> {
    vec![bytes as f64 / start.elapsed().as_secs_f64() / 1e6]
}
