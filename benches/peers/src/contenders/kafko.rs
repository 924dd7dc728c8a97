//! `kafko`: Kafka's terms in one process, on tokio. One topic of one partition.
//!
//! Each read copies the rest of the segment, up to 1 GiB, so its reader takes days for a log of
//! Each read copies the rest of the segment, up to 1 GiB, so its reader takes days for a log of these
//! sizes. It is therefore in no row that reads; the comparison of contents decodes the segment files
//! by the library's own `Record::decode`, after the library has opened them.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafko::{Compression, Kafko, LogConfig, Partition, Producer, Record};
use tokio::runtime::{Builder, Runtime};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

const TOPIC: &str = "t";
const WORKERS: usize = 2;
/// How long a receiver that sleeps waits for a record.
const LONGEST: Duration = Duration::from_secs(1);

pub struct Peer {
    runtime: Runtime,
    broker: Kafko,
    producer: Producer,
    partition: Arc<Partition>,
    dir: PathBuf,
}

impl Contender for Peer {
    const NAME: &'static str = "kafko";
    const ABOUT: &'static str = "defaults, one partition, two runtime workers; `send_batch` and `send`, in the page cache at the return; \
        durable by `send` and `Partition::sync`, two syncs for each; LZ4 of each record; CRC-32 of each record; its reads \
        copy the rest of the segment each time, so it is in no row of reads, and its files are compared by its own decoder";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::TailSpinning,
        Need::TailSleeping,
        Need::Closed,
        Need::Killed,
        Need::Lz4,
        Need::Plain,
    ];

    fn open(dir: &Path, settings: &Settings) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
        let compression = if settings.lz4 { Compression::Lz4 } else { Compression::None };
        let config = LogConfig { compression, ..LogConfig::default() };
        let (broker, producer, partition) = runtime.block_on(async {
            let broker = Kafko::open_with_config(dir, config).await.unwrap();
            if !broker.has_topic(TOPIC).await {
                broker.create_topic(TOPIC).await.unwrap();
            }
            let producer = broker.producer_for(TOPIC).await.unwrap();
            let topic = broker.topic(TOPIC).await.unwrap();
            let partition = Arc::clone(topic.partition(0).unwrap());
            (broker, producer, partition)
        });
        Peer { runtime, broker, producer, partition, dir: dir.to_path_buf() }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        let batch = batch.iter().map(|value| (None, Bytes::copy_from_slice(value))).collect();
        self.runtime.block_on(self.producer.send_batch(batch)).unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.send(value);
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| {
            self.send(value);
            self.runtime.block_on(self.partition.sync()).unwrap();
        })
    }

    fn verify(&mut self, digest: &mut Digest) {
        let (end, before) = (self.partition.high_water_mark(), digest.count + digest.extra);
        let mut segments = files_below(&self.dir, "log");
        segments.sort();
        for segment in segments {
            let bytes = std::fs::read(segment).unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                digest.push(Record::decode(&mut rest).unwrap().value());
            }
        }
        assert_eq!(digest.count + digest.extra - before, end, "records below the high-water mark");
    }

    fn pair(&mut self, sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let this = &*self;
        let mut consumer = this.runtime.block_on(this.broker.consumer_for(TOPIC)).unwrap();
        consumer.seek_all(this.partition.high_water_mark());
        let send = |value: &[u8]| this.send(value);
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            if !sleeping && consumer.position(0) == this.partition.high_water_mark() {
                return;
            }
            let next = async { tokio::time::timeout(LONGEST, consumer.next_record()).await };
            if let Ok(record) = this.runtime.block_on(next) {
                seen(record.unwrap().value());
            }
        };
        (Box::new(send), Box::new(receive))
    }

    fn close(self) {
        drop((self.producer, self.partition));
        self.runtime.block_on(self.broker.shutdown()).unwrap();
    }
}

impl Peer {
    fn send(&self, value: &[u8]) {
        self.runtime.block_on(self.producer.send(None, Bytes::copy_from_slice(value))).unwrap();
    }
}

fn files_below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}
