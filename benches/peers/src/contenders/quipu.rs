//! This library, with its defaults: one topic of one partition.

use std::path::Path;
use std::time::Duration;

use quipu::{
    Broker, Compression, Durability, Offset, Partition, Producer, Record, Start, Topic, TopicConfig,
};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

pub struct Quipu {
    pub broker: Broker,
    topic: Topic,
    partition: Partition,
    pub producer: Producer,
}

impl Contender for Quipu {
    const NAME: &'static str = super::QUIPU;
    const ABOUT: &'static str = "defaults, one partition; batches by `send_all`, one by one by `send`, through and durable by \
        `send` and `wait` (`Durability::Sync`: one sync for all that wait); CRC-32 of each batch, checked by the first read through a map";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::Get,
        Need::TailSpinning,
        Need::TailSleeping,
        Need::Closed,
        Need::Killed,
        Need::Lz4,
        Need::Plain,
    ];

    fn open(dir: &Path, settings: &Settings) -> Self {
        let broker = Broker::open(dir).unwrap();
        let compression = if settings.lz4 { Compression::Lz4 } else { Compression::None };
        let durability = if settings.durable { Durability::Sync } else { Durability::Os };
        let config = TopicConfig::new().compression(compression).durability(durability);
        let config = config.partitions(settings.partitions);
        let topic = broker.ensure_topic("t", config).unwrap();
        let partition = topic.partition(0).unwrap();
        let producer = broker.producer();
        Quipu { broker, topic, partition, producer }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        self.producer.send_all(&self.topic, batch.iter().map(|value| Record::new(*value))).unwrap().detach();
    }

    #[inline]
    fn append_one(&mut self, value: &[u8]) {
        self.producer.send(&self.topic, Record::new(value)).unwrap().detach();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.producer.send(&self.topic, Record::new(value)).unwrap().wait().unwrap();
    }

    fn flush(&mut self) {
        self.producer.flush().unwrap();
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| {
            self.producer.send(&self.topic, Record::new(value)).unwrap().wait().unwrap();
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        let end: u64 = self.partitions().iter().map(|one| one.bounds().unwrap().visible_end.get()).sum();
        let mut reader = self.broker.reader(&["t"], Start::Beginning).unwrap();
        let mut seen = 0;
        while seen < end {
            let records = reader.poll(Duration::from_secs(10)).unwrap();
            assert!(!records.is_empty(), "the log has {end} records, the reader has got {seen}");
            for record in &records {
                digest.push(record.value().unwrap());
                seen += 1;
            }
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let records = self.partition.read(Start::At(Offset::new(number)), 1).unwrap();
        let record = records.iter().next().unwrap();
        seen(record.value().unwrap())
    }

    fn pair(&mut self, sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let mut reader = self.broker.reader(&["t"], Start::End).unwrap();
        let wait = if sleeping { Duration::from_secs(1) } else { Duration::ZERO };
        let send = |value: &[u8]| {
            self.producer.send(&self.topic, Record::new(value)).unwrap().wait().unwrap();
        };
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            for record in &reader.poll(wait).unwrap() {
                seen(record.value().unwrap());
            }
        };
        (Box::new(send), Box::new(receive))
    }

    fn close(self) {
        self.broker.close().unwrap();
    }
}

impl Quipu {
    pub fn partitions(&self) -> Vec<Partition> {
        self.topic.partitions()
    }
}
