//! Many partitions with unsynced records each: one flush of all of them, compared with a sync of as
//! many files by as many threads; and how long records of a topic with `Interval` stay unsynced.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quipu::{BrokerConfig, Durability, Partition, Producer, ProducerConfig, Record, TopicConfig};

use super::scratch::Scratch;
use super::suite::{Metric, Suite, way};

const PARTITIONS: [u32; 3] = [16, 1000, 4000];
const THREADS: [(&str, usize); 2] = [("flush", 8), ("flush, sync_threads(1)", 1)];
const EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(suite: &mut Suite<'_>) {
    for partitions in PARTITIONS {
        let name = format!("many partitions/flush {partitions}");
        if suite.wants(&name) {
            let written = THREADS.map(|(_, threads)| Written::new(partitions, threads, Durability::Sync));
            let files = Files::new(partitions);
            let ways = THREADS.iter().zip(&written);
            suite.compare(
                &name,
                &[Metric::time("", "ms")],
                ways.map(|((name, _), written)| way(name, || vec![written.flush()])).collect(),
                vec![way("8 threads, fdatasync", || vec![files.sync(8)])],
            );
        }
        let name = format!("many partitions/interval {partitions}");
        if suite.wants(&name) {
            let written = Written::new(partitions, 8, Durability::Interval(EVERY));
            let files = Files::new(partitions);
            suite.compare(
                &name,
                &[Metric::time("the oldest unsynced record", "ms")],
                vec![way("Interval(1 s)", || vec![written.until_durable()])],
                vec![way("1 s, then fdatasync", || vec![EVERY.as_secs_f64() * 1e3 + files.sync(8)])],
            );
        }
    }
}

/// A topic whose partitions have files.
struct Written {
    producer: Producer,
    partitions: Vec<Partition>,
    _scratch: Scratch,
}

impl Written {
    fn new(partitions: u32, threads: usize, durability: Durability) -> Self {
        let scratch = Scratch::new();
        // As many files as a process may have open where nothing was set.
        let config = BrokerConfig::new().sync_threads(threads).max_open_files(900);
        let broker = config.open(scratch.path()).unwrap();
        let config = TopicConfig::new().partitions(partitions).durability(durability);
        let topic = broker.create_topic("t", config).unwrap();
        let producer = broker.producer_with(ProducerConfig::new().linger(Duration::from_secs(600))).unwrap();
        let written = Written { producer, partitions: topic.partitions(), _scratch: scratch };
        written.flush();
        broker.sync().unwrap();
        written
    }

    /// Sends a record to each partition. Returns how many milliseconds the flush of all took.
    fn flush(&self) -> f64 {
        for partition in &self.partitions {
            self.producer.send(partition, Record::new([7; 100])).unwrap().detach();
        }
        let start = Instant::now();
        self.producer.flush().unwrap();
        start.elapsed().as_secs_f64() * 1e3
    }

    /// Sends a record to each partition. Returns how many milliseconds after the first one was
    /// written all of them were durable.
    fn until_durable(&self) -> f64 {
        let start = Instant::now();
        self.flush();
        for partition in &self.partitions {
            while partition.bounds().unwrap().durable_end < partition.bounds().unwrap().log_end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        start.elapsed().as_secs_f64() * 1e3
    }
}

/// The limit: files, each with a record that is not synced.
struct Files {
    files: Vec<File>,
    count: usize,
    _scratch: Scratch,
}

impl Files {
    fn new(count: u32) -> Self {
        let scratch = Scratch::new();
        // Those that may be open at once; the others are as fast.
        let open = |n| File::create(scratch.join(&format!("file-{n}"))).unwrap();
        let files = (0..count.min(450)).map(open).collect();
        Files { files, count: count as usize, _scratch: scratch }
    }

    /// Returns how many milliseconds it takes to sync as many files as there are partitions.
    fn sync(&self, threads: usize) -> f64 {
        let (mut taken, mut left) = (0.0, self.count);
        while left > 0 {
            let files = &self.files[..left.min(self.files.len())];
            left -= files.len();
            for file in files {
                let end = file.metadata().unwrap().len();
                file.write_all_at(&[7; 200], end).unwrap();
            }
            let (next, start) = (AtomicUsize::new(0), Instant::now());
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                            file.sync_data().unwrap();
                        }
                    });
                }
            });
            taken += start.elapsed().as_secs_f64() * 1e3;
        }
        taken
    }
}
