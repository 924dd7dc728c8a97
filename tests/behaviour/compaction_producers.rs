//! Compaction and idempotent producers (Kafka's `LogCleanerTest`): the last batch of each producer
//! stays, if need be without records, so that a duplicate is found after any number of compactions.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, Durability, Partition, Producer, ProducerConfig, Record,
    Start, TopicConfig,
};

use crate::common::files;

/// A broker that stops, with or without power, and is opened again.
struct Bench {
    disk: Disk,
    clock: ManualClock,
    broker: Broker,
    partition: Partition,
}

impl Bench {
    fn new(compression: Compression) -> Self {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
        let config = TopicConfig::new()
            .segment_bytes(2048)
            .max_record_bytes(700)
            .durability(Durability::Sync)
            .compression(compression)
            .cleanup(Cleanup::Compact)
            .min_cleanable_dirty_ratio(1.0);
        let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        Bench { disk, clock, broker, partition }
    }

    fn reopen(self) -> Self {
        let Bench { disk, clock, broker, partition } = self;
        drop((broker, partition));
        disk.crash(Survive::Synced);
        let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
        assert!(broker.open_report().warnings.is_empty() && broker.open_report().damaged.is_empty());
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        Bench { disk, clock, broker, partition }
    }

    fn named(&self, pid: u64) -> Producer {
        self.broker.producer_with(ProducerConfig::new().name(format!("pid {pid}"))).unwrap()
    }

    /// A batch of keys, with sequences from `first` on; returns the offsets of its first and
    /// last record.
    fn append(&self, producer: &Producer, first: u64, keys: &[u64]) -> (u64, u64) {
        let record = |(sequence, key): (u64, &u64)| {
            Record::new("some text that is long enough to be compressed, some text")
                .key(key.to_string())
                .sequence(sequence)
        };
        let receipts =
            producer.send_all(&self.partition, (first..).zip(keys).map(record)).unwrap().wait().unwrap();
        (receipts.first().unwrap().offset.get(), receipts.last().unwrap().offset.get())
    }

    /// Seals what there is, and compacts it.
    fn clean(&self) {
        self.clock.advance(Duration::from_secs(8 * 24 * 3600));
        self.broker.maintain().unwrap();
        self.partition.compact().unwrap().unwrap();
    }

    /// Offsets and keys.
    fn records(&self) -> (Vec<u64>, Vec<String>) {
        let records = self.partition.read(Start::Beginning, 1 << 20).unwrap();
        let key = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        records.iter().map(|record| (record.offset().get(), key(record.key().unwrap()))).unzip()
    }

    /// The last offset of each batch in the files, and how many records it has.
    fn batches(&self) -> Vec<(u64, u32)> {
        const SEGMENT_HEADER: usize = 128;
        const BATCH_HEADER: usize = 104;
        let mut found = Vec::new();
        for path in files(&self.disk, "topics/t/0", ".log") {
            let bytes = self.disk.read(&path).unwrap();
            let mut rest = &bytes[SEGMENT_HEADER..];
            while rest.starts_with(b"QBAT") {
                let u32_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
                let base = u64::from_le_bytes(rest[8..16].try_into().unwrap());
                found.push((base + u64::from(u32_at(16)), u32_at(20)));
                rest = &rest[BATCH_HEADER + u32_at(4) as usize..];
            }
        }
        found
    }

    fn last_sequences(&self, pids: &[u64]) -> Vec<Option<u64>> {
        pids.iter().map(|pid| self.named(*pid).last_sequence(&self.partition).unwrap()).collect()
    }
}

/// Kafka's `testLogCleanerRetainsProducerLastSequence`, with its numbers.
#[test]
fn the_last_batch_of_each_producer_and_its_sequence_stay() {
    let mut bench = Bench::new(Compression::None);
    let unnamed = bench.broker.producer();
    unnamed.send(&bench.partition, Record::new("v").key("0")).unwrap().wait().unwrap();
    let [one, two, three] = [1, 2, 3].map(|pid| bench.named(pid));
    assert_eq!(bench.append(&one, 0, &[0]), (1, 1));
    assert_eq!(bench.append(&two, 0, &[0]), (2, 2));
    assert_eq!(bench.append(&three, 0, &[0]), (3, 3));
    assert_eq!(bench.append(&two, 1, &[1]), (4, 4));
    drop((unnamed, one, two, three));
    bench.clean();
    for _ in 0..2 {
        assert_eq!(bench.batches(), [(1, 0), (3, 1), (4, 1)]);
        assert_eq!(bench.records(), (vec![3, 4], vec!["0".into(), "1".into()]));
        assert_eq!(bench.last_sequences(&[1, 2, 3, 4]), [Some(0), Some(1), Some(0), None]);
        bench = bench.reopen();
    }
    // The record of producer 1 is gone, and yet it is known to have been sent.
    assert_eq!(bench.append(&bench.named(1), 0, &[0]), (1, 1));
    assert_eq!(bench.append(&bench.named(1), 1, &[2]), (5, 5));
    // Its newer batch stands for it from now on: the empty one goes.
    bench.clean();
    assert_eq!(bench.batches(), [(3, 1), (4, 1), (5, 1)]);
    assert_eq!(bench.reopen().last_sequences(&[1, 2, 3]), [Some(1), Some(1), Some(0)]);
}

/// Kafka's `testDuplicateCheckAfterCleaning`, with its numbers.
#[test]
fn a_duplicate_returns_its_first_offsets_after_compactions_and_restarts() {
    for compression in [Compression::None, Compression::Lz4] {
        let mut bench = Bench::new(compression);
        assert_eq!(bench.append(&bench.named(1), 0, &[1, 2, 3]), (0, 2));
        assert_eq!(bench.append(&bench.named(2), 0, &[3, 1, 4]), (3, 5));
        assert_eq!(bench.append(&bench.named(3), 0, &[1, 4]), (6, 7));
        bench.clean();
        assert_eq!(bench.batches(), [(2, 1), (5, 1), (7, 2)]);
        assert_eq!(bench.records(), (vec![1, 3, 6, 7], ["2", "3", "1", "4"].map(String::from).to_vec()));
        bench = bench.reopen();
        assert_eq!(bench.last_sequences(&[1, 2, 3]), [Some(2), Some(2), Some(1)]);
        assert_eq!(bench.append(&bench.named(1), 0, &[1, 2, 3]), (0, 2));
        assert_eq!(bench.append(&bench.named(3), 0, &[1, 4]), (6, 7));
        // The rest of the first batch is removed too.
        assert_eq!(bench.append(&bench.named(4), 0, &[2]), (8, 8));
        bench.clean();
        assert_eq!(bench.batches(), [(2, 0), (5, 1), (7, 2), (8, 1)]);
        assert_eq!(bench.records(), (vec![3, 6, 7, 8], ["3", "1", "4", "2"].map(String::from).to_vec()));
        bench = bench.reopen();
        assert_eq!(bench.last_sequences(&[1, 2, 3, 4]), [Some(2), Some(2), Some(1), Some(0)]);
        assert_eq!(bench.append(&bench.named(1), 0, &[1, 2, 3]), (0, 2));
        assert_eq!(bench.partition.bounds().unwrap().log_end, 9);
    }
}
