//! Idempotent producers: a record with a sequence is stored once in a partition, however often it
//! is sent, and the older handle of a name is fenced (Kafka's `ProducerStateManagerTest`).

use std::io::ErrorKind;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive, produced};
use quipu::{
    Broker, BrokerConfig, Cleanup, Durability, Error, ExpectedVersion, Offset, Partition, Producer,
    ProducerConfig, Record, Start, TopicConfig,
};

use crate::common::{Random, open, read_from, send};

fn named(broker: &Broker) -> Producer {
    broker.producer_with(ProducerConfig::new().name("outbox")).unwrap()
}

fn topic(broker: &Broker, partitions: u32) -> Partition {
    broker.ensure_topic("t", TopicConfig::new().partitions(partitions)).unwrap().partition(0).unwrap()
}

fn row(sequence: u64) -> Record<'static> {
    Record::new(format!("row {sequence}")).sequence(sequence)
}

fn offsets(producer: &Producer, partition: &Partition, rows: &[u64]) -> quipu::Result<Vec<u64>> {
    let receipts = producer.send_all(partition, rows.iter().map(|n| row(*n)))?.wait()?;
    Ok(receipts.iter().map(|receipt| receipt.offset.get()).collect())
}

fn values(partition: &Partition) -> Vec<String> {
    read_from(partition, Start::Beginning).into_values().collect()
}

/// Kafka's `UnifiedLogTest.testDuplicateAppends`.
#[test]
fn a_duplicate_returns_the_original_offset_and_time() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    let first = producer.send_all(&partition, [10, 11, 12].map(row)).unwrap().wait().unwrap();
    send(&broker, &partition, "of somebody else").unwrap();
    assert_eq!(offsets(&producer, &partition, &[13]).unwrap(), [4]);
    // The same batch, a part of it, one record, and some with new ones after them.
    assert_eq!(producer.send_all(&partition, [10, 11, 12].map(row)).unwrap().wait().unwrap(), first);
    assert_eq!(offsets(&producer, &partition, &[11, 12]).unwrap(), [1, 2]);
    assert_eq!(producer.send(&partition, row(12)).unwrap().wait().unwrap(), first[2]);
    assert_eq!(offsets(&producer, &partition, &[12, 13, 14, 15]).unwrap(), [2, 4, 5, 6]);
    assert_eq!(partition.bounds().unwrap().log_end, 7);
}

/// Five batches back the offset is known, beyond that only that it was sent or skipped.
#[test]
fn a_sequence_older_than_five_batches_or_in_a_gap_is_refused_as_a_duplicate() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    for n in 1..=6 {
        offsets(&producer, &partition, &[n * 10]).unwrap();
    }
    assert_eq!(offsets(&producer, &partition, &[20]).unwrap(), [1]);
    match offsets(&producer, &partition, &[10]) {
        Err(Error::DuplicateSequence { sequence: 10, last: 60, .. }) => {}
        other => panic!("{other:?}"),
    }
    offsets(&producer, &partition, &[70, 75, 80]).unwrap();
    assert_eq!(offsets(&producer, &partition, &[80]).unwrap(), [8]);
    assert_eq!(offsets(&producer, &partition, &[70]).unwrap(), [6]);
    let within = offsets(&producer, &partition, &[75]);
    assert!(matches!(within, Err(Error::DuplicateSequence { last: 80, .. })), "{within:?}");
    assert_eq!(partition.bounds().unwrap().log_end, 9);
}

/// Sequences are given by the caller and must rise (Kafka's `ProducerAppendInfo.inSequence`).
#[test]
fn sequences_that_do_not_rise_are_refused_before_anything_is_written() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    for wrong in [vec![2, 1], vec![3, 3]] {
        let refused = offsets(&producer, &partition, &wrong);
        assert!(matches!(refused, Err(Error::OutOfOrderSequence { .. })), "{refused:?}");
    }
    let mixed = producer.send_all(&partition, [row(1), Record::new("without")]);
    assert!(matches!(mixed, Err(Error::InvalidConfig { field: "sequence", .. })));
    let nameless = broker.producer().send(&partition, row(1));
    assert!(matches!(nameless, Err(Error::InvalidConfig { field: "sequence", .. })));
    assert_eq!(partition.bounds().unwrap().log_end, 0);
    assert_eq!(offsets(&producer, &partition, &[u64::MAX - 1, u64::MAX]).unwrap(), [0, 1]);
}

/// KIP-98, and Kafka's `ProducerStateManagerTest.testOldProducerEpoch`.
#[test]
fn a_second_handle_of_a_name_fences_the_first() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let old = named(&broker);
    offsets(&old, &partition, &[1]).unwrap();
    let new = named(&broker);
    assert!(matches!(offsets(&old, &partition, &[2]), Err(Error::Fenced { .. })));
    assert!(matches!(old.send(&partition, Record::new("without a sequence")), Err(Error::Fenced { .. })));
    assert!(matches!(old.last_sequence(&partition), Err(Error::Fenced { .. })));
    assert_eq!(new.last_sequence(&partition).unwrap(), Some(1));
    assert_eq!(offsets(&new, &partition, &[1, 2]).unwrap(), [0, 1]);
    // Another name is another producer.
    let other = broker.producer_with(ProducerConfig::new().name("other")).unwrap();
    assert_eq!(offsets(&other, &partition, &[1]).unwrap(), [2]);
    for name in ["", &"x".repeat(250)] {
        let refused = broker.producer_with(ProducerConfig::new().name(name));
        assert!(matches!(refused, Err(Error::InvalidProducerName { .. })));
    }
}

/// Nothing is forgotten with time (Kafka forgets after 24 hours, KAFKA-7190).
#[test]
fn a_producer_without_state_may_begin_at_any_sequence() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    offsets(&producer, &partition, &[100]).unwrap();
    clock.advance(std::time::Duration::from_secs(3600 * 24 * 365));
    broker.maintain().unwrap();
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(100));
    broker.delete_topic("t").unwrap();
    let partition = topic(&broker, 1);
    assert_eq!(producer.last_sequence(&partition).unwrap(), None);
    assert_eq!(offsets(&producer, &partition, &[5]).unwrap(), [0]);
}

/// Kafka's `ProducerStateManager`: snapshots and truncation.
#[test]
fn producer_state_survives_restarts_and_follows_truncation() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    offsets(&producer, &partition, &[1, 2, 3, 4]).unwrap();
    offsets(&producer, &partition, &[10, 20, 30]).unwrap();
    drop((producer, partition));
    broker.close().unwrap();
    drop(broker);
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(30));
    assert_eq!(offsets(&producer, &partition, &[2, 3]).unwrap(), [1, 2]);
    // Within the batch with gaps: the rest of it belongs to no producer, so that none of its rows
    // can be taken for lost.
    partition.truncate_to(Offset::new(6)).unwrap();
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(4));
    // Within the one without: it ends earlier.
    partition.truncate_to(Offset::new(2)).unwrap();
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(2));
    assert_eq!(offsets(&producer, &partition, &[2, 3]).unwrap(), [1, 2]);
    assert_eq!(values(&partition), ["row 1", "row 2", "row 3"]);
    partition.reset_to(Offset::new(50)).unwrap();
    assert_eq!(producer.last_sequence(&partition).unwrap(), None);
    assert_eq!(offsets(&producer, &partition, &[1]).unwrap(), [50]);
}

/// Kafka's `LogCleanerTest.testDuplicateCheckAfterCleaning`.
#[test]
fn a_duplicate_is_found_after_compaction() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = crate::common::small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    let partition = broker.create_topic("table", config).unwrap().partition(0).unwrap();
    let producer = named(&broker);
    for n in 1..=60u64 {
        let record = Record::new(format!("{n} {}", "x".repeat(100))).key("the same").sequence(n);
        producer.send(&partition, record).unwrap().wait().unwrap();
    }
    broker.maintain().unwrap();
    partition.compact().unwrap();
    assert!(produced(&broker, "table").unwrap().len() < 20);
    drop((producer, partition));
    broker.close().unwrap();
    drop(broker);
    let broker = open(&disk).unwrap();
    let partition = broker.topic("table").unwrap().partition(0).unwrap();
    let producer = named(&broker);
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(60));
    let again = Record::new("again").key("the same").sequence(60);
    assert_eq!(producer.send(&partition, again).unwrap().wait().unwrap().offset, 59);
}

#[test]
fn a_failed_append_is_not_remembered() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    offsets(&producer, &partition, &[1]).unwrap();
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    assert!(matches!(offsets(&producer, &partition, &[2]), Err(Error::DiskFull { .. })));
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(1));
    assert_eq!(offsets(&producer, &partition, &[2]).unwrap(), [1]);
}

#[test]
fn records_without_a_key_are_partitioned_by_their_sequence() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    topic(&broker, 4);
    let topic = broker.topic("t").unwrap();
    let send = |producer: &Producer, n: u64| producer.send(&topic, row(n)).unwrap().wait().unwrap();
    let first = named(&broker);
    let sent: Vec<_> = (0..20).map(|n| send(&first, n)).collect();
    let later = named(&broker);
    let again: Vec<_> = (0..20).map(|n| send(&later, n)).collect();
    assert_eq!(again, sent);
    assert!(topic.partitions().iter().all(|partition| partition.bounds().unwrap().log_end == 5));
}

/// An outbox whose program dies at any operation and starts over: from its last stored sequence, or
/// from the beginning.
#[test]
fn every_row_of_an_outbox_is_stored_once_after_every_crash() {
    const ROWS: u64 = 40;
    let mut deaths = 0;
    for seed in 0..240 {
        let mut random = Random(seed);
        let (durability, survive) = match seed % 2 {
            0 => (Durability::Os, Survive::Everything),
            _ => (Durability::Sync, Survive::Synced),
        };
        let disk = Disk::new();
        let run = |random: &mut Random| -> quipu::Result<()> {
            let config = BrokerConfig::new().clock(ManualClock::new()).seed(seed).durability(durability);
            let broker = config.on_disk(&disk)?;
            let topic = broker.ensure_topic("t", crate::common::small().partitions(2))?;
            let outbox = broker.producer_with(ProducerConfig::new().name("outbox"))?;
            for partition in topic.partitions() {
                let own = |n: &u64| *n % 2 == u64::from(partition.id().get());
                let sent = outbox.last_sequence(&partition)?;
                let from_start = random.below(3) == 0;
                let rows: Vec<u64> = (1..=ROWS)
                    .filter(own)
                    .filter(|n| from_start || sent.is_none_or(|sent| *n > sent))
                    .collect();
                let mut rest = &rows[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(1 + random.below(rest.len().min(6) as u64) as usize);
                    match outbox.send_all(&partition, now.iter().map(|n| row(*n))) {
                        Ok(sent) => drop(sent.wait()?),
                        // There already, all up to `last`.
                        Err(Error::DuplicateSequence { last, .. }) => {
                            rest = &rows[rows.partition_point(|n| *n <= last)..];
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    rest = later;
                }
            }
            broker.close()
        };
        for _ in 0..4 {
            disk.crash_at(1 + random.below(400));
            deaths += u64::from(run(&mut random).is_err());
            disk.crash(survive);
        }
        run(&mut random).unwrap();
        let broker = open(&disk).unwrap();
        for partition in broker.topic("t").unwrap().partitions() {
            let expected: Vec<_> = (1..=ROWS)
                .filter(|n| *n % 2 == u64::from(partition.id().get()))
                .map(|n| format!("row {n}"))
                .collect();
            assert_eq!(values(&partition), expected, "seed {seed}");
        }
    }
    assert!(deaths > 150, "{deaths}");
}

/// A record that one thread found to be new may be stored before that thread writes it.
#[test]
fn threads_that_send_the_same_rows_at_once_send_each_once() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    let rows = |round: u64| [round * 10 + 1, round * 10 + 4, round * 10 + 5];
    let late = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (producer, partition, late) = (&producer, &partition, &late);
            scope.spawn(move || {
                for round in 0..300 {
                    // Some send all of them, some one or two.
                    let rows = &rows(round)[..(thread as usize % 3) + 1];
                    match offsets(producer, partition, rows) {
                        Ok(_) | Err(Error::DuplicateSequence { .. }) => {}
                        // A thread that sends fewer of them was a round ahead.
                        Err(Error::OutOfOrderSequence { sequence, .. }) => {
                            late.lock().unwrap().push(sequence)
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let found = values(&partition);
    let once: std::collections::BTreeSet<_> = found.iter().collect();
    assert_eq!(found.len(), once.len(), "some row is there twice");
    for sequence in late.into_inner().unwrap() {
        assert!(!found.contains(&format!("row {sequence}")), "{sequence} is there, and was reported missing");
    }
}

/// The truncation is published after its manifest; a lookup in between must not hide it.
#[test]
fn a_lookup_during_a_truncation_is_not_cached_beyond_the_new_end() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    offsets(&producer, &partition, &[1, 2, 3, 4, 5]).unwrap();
    let gate = disk.hold(Op::Rename, 1);
    std::thread::scope(|scope| {
        let cutter = scope.spawn(|| partition.truncate_to(Offset::new(2)).unwrap());
        gate.wait_until_reached();
        assert_eq!(producer.last_sequence(&partition).unwrap(), Some(5));
        gate.release();
        cutter.join().unwrap();
    });
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(2));
    assert_eq!(offsets(&producer, &partition, &[2, 3, 4]).unwrap(), [1, 2, 3]);
    assert_eq!(values(&partition), ["row 1", "row 2", "row 3", "row 4"]);
}

/// Nor must a scan that began before the truncation and ends after it.
#[test]
fn a_scan_during_a_truncation_finds_the_remaining_batches() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    offsets(&named(&broker), &partition, &[1, 2, 3, 4, 5]).unwrap();
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    disk.remove("topics/t/0/producers").ok();
    let gate = disk.hold(Op::Read, 1);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| producer.last_sequence(&partition).unwrap());
        gate.wait_until_reached();
        partition.truncate_to(Offset::new(2)).unwrap();
        gate.release();
        assert_eq!(asked.join().unwrap(), Some(2));
    });
    assert_eq!(offsets(&producer, &partition, &[3]).unwrap(), [2]);
}

/// A record that was sent and has left the log is not sent again.
#[test]
fn a_deleted_sequence_is_a_duplicate() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let producer = named(&broker);
    offsets(&producer, &partition, &[1, 2, 3]).unwrap();
    partition.delete_records(Offset::new(2)).unwrap();
    let gone = offsets(&producer, &partition, &[2]);
    assert!(matches!(gone, Err(Error::DuplicateSequence { sequence: 2, last: 3, .. })), "{gone:?}");
    assert_eq!(offsets(&producer, &partition, &[3, 4]).unwrap(), [2, 3]);
}

/// Compaction took the record: no receipt is made up for it.
#[test]
fn a_compacted_sequence_is_a_duplicate() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = crate::common::small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.0);
    let partition = broker.create_topic("table", config).unwrap().partition(0).unwrap();
    let producer = named(&broker);
    let record = |n: u64| Record::new(format!("{n} {}", "x".repeat(300))).key("the same").sequence(n);
    for n in 1..=9u64 {
        producer.send(&partition, record(n)).unwrap().wait().unwrap();
    }
    broker.maintain().unwrap();
    partition.compact().unwrap();
    let kept: Vec<_> = produced(&broker, "table").unwrap().iter().map(|r| r.offset().get() + 1).collect();
    for n in 5..=9 {
        match producer.send(&partition, record(n)).map(|sent| sent.wait().unwrap()) {
            Ok(receipt) => assert!(receipt.offset == n - 1 && kept.contains(&n), "{n}"),
            Err(Error::DuplicateSequence { sequence, last: 9, .. }) if sequence == n => {
                assert!(!kept.contains(&n))
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!kept.contains(&5) && kept.contains(&9), "{kept:?}");
}

/// On a topic with `Durability::Sync`; no caller waits for the acknowledgement.
#[test]
fn detached_records_are_durable_after_a_flush_or_the_background_sync() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::new().partitions(2).durability(Durability::Sync);
    let topic = broker.create_topic("t", config).unwrap();
    let producer = named(&broker);
    let ends = |partition: u32| {
        let bounds = topic.partition(partition).unwrap().bounds().unwrap();
        (bounds.visible_end.get(), bounds.durable_end.get(), bounds.log_end.get())
    };
    let first = topic.partition(0).unwrap();
    producer.send(&first, row(1)).unwrap().detach();
    assert_eq!(ends(0), (0, 0, 1));
    producer.flush().unwrap();
    assert_eq!(ends(0), (1, 1, 1));
    // The background does it too, without a flush.
    producer.send_all(&topic, [2, 3].map(row)).unwrap().detach();
    assert_eq!((ends(0), ends(1)), ((1, 1, 2), (0, 0, 1)));
    broker.maintain().unwrap();
    assert_eq!((ends(0), ends(1)), ((2, 2, 2), (1, 1, 1)));
    // As it does where the second partition fails after the first.
    disk.fail(Op::Write, 2, ErrorKind::StorageFull);
    let failed = producer.send_all(&topic, [4, 5].map(row));
    assert!(matches!(failed, Err(Error::DiskFull { .. })), "{failed:?}");
    assert_eq!((ends(0), ends(1)), ((2, 2, 3), (1, 1, 1)));
    broker.maintain().unwrap();
    assert_eq!((ends(0), ends(1)), ((3, 3, 3), (1, 1, 1)));
}

/// The flush returns the error that keeps it from becoming durable.
#[test]
fn a_flush_returns_the_error_that_kept_a_detached_record_from_becoming_durable() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let producer = named(&broker);
    producer.send(&partition, row(1)).unwrap().detach();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    assert!(matches!(producer.flush(), Err(Error::Io { .. })));
}

/// A row that was committed late is not called sent.
#[test]
fn a_sequence_never_sent_is_out_of_order_and_no_duplicate() {
    let disk = Disk::new();
    let mut broker = open(&disk).unwrap();
    offsets(&named(&broker), &topic(&broker, 1), &[10]).unwrap();
    offsets(&named(&broker), &topic(&broker, 1), &[20, 21]).unwrap();
    // Also after a restart.
    for _ in 0..2 {
        let (producer, partition) = (named(&broker), topic(&broker, 1));
        for rows in [&[15][..], &[10, 15, 20], &[15, 30]] {
            match offsets(&producer, &partition, rows) {
                Err(Error::OutOfOrderSequence { sequence: 15, last: Some(21), .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        // Nothing is known of sequences before the oldest remembered one.
        match offsets(&producer, &partition, &[5]) {
            Err(Error::DuplicateSequence { sequence: 5, last: 21, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(offsets(&producer, &partition, &[10, 20, 21]).unwrap(), [0, 1, 2]);
        drop((producer, partition));
        broker.close().unwrap();
        broker = open(&disk).unwrap();
    }
    // Read from the log again, a batch with gaps does not hold its first sequence: 25 may be in it,
    // or not.
    offsets(&named(&broker), &topic(&broker, 1), &[30, 35, 40]).unwrap();
    let first = offsets(&named(&broker), &topic(&broker, 1), &[25]);
    assert!(matches!(first, Err(Error::OutOfOrderSequence { .. })), "{first:?}");
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    let again = offsets(&named(&broker), &topic(&broker, 1), &[25]);
    assert!(matches!(again, Err(Error::DuplicateSequence { .. })), "{again:?}");
}

struct To(u32);

impl quipu::Partitioner for To {
    fn partition(&self, _: &quipu::TopicName, _: Option<&[u8]>, _: Option<&[u8]>, _: u32) -> Option<u32> {
        Some(self.0)
    }
}

/// A stream is in the partition of its key, for every sender.
#[test]
fn a_record_with_a_sequence_is_not_sent_to_a_partition_that_it_may_not_be_in() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("s", TopicConfig::streams().partitions(4)).unwrap();
    let right = quipu::partition_for_key(b"k", 4);
    let wrong = topic.partition((right + 1) % 4).unwrap();
    let event = || Record::new("event").key("k").sequence(1);
    let refused = named(&broker).send(&wrong, event());
    assert!(matches!(refused, Err(Error::Streams { .. })), "{refused:?}");
    let choosing =
        |to| broker.producer_with(ProducerConfig::new().name("outbox").partitioner(To(to))).unwrap();
    let refused = choosing((right + 1) % 4).send(&topic, event());
    assert!(matches!(refused, Err(Error::Streams { .. })), "{refused:?}");
    for record in [event(), Record::new("event").key("k")] {
        let unknown = choosing(4).send(&topic, record);
        assert!(
            matches!(unknown, Err(Error::UnknownPartition { partition, count: 4, .. }) if partition == 4),
            "{unknown:?}"
        );
    }
    assert_eq!(choosing(right).send(&topic, event()).unwrap().wait().unwrap().partition.get(), right);
    assert_eq!(topic.stream("k").unwrap().version().unwrap().get(), 1);
}

/// Where a sequence would mean nothing it is refused, and nothing is written.
#[test]
fn only_a_producer_takes_records_with_sequences() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = topic(&broker, 1);
    let streams = broker.create_topic("s", TopicConfig::streams()).unwrap();
    let stream = streams.stream("k").unwrap();
    let refused = |result: quipu::Result<()>| match result {
        Err(Error::InvalidConfig { field: "sequence", .. }) => {}
        other => panic!("{other:?}"),
    };
    refused(partition.append_at(Offset::new(0), [Record::new("without"), row(1)]).map(drop));
    refused(stream.append(ExpectedVersion::Any, [row(1)]).map(drop));
    let mut transaction = broker.transaction();
    transaction.send(&partition, Record::new("without")).send(&partition, row(1));
    refused(transaction.commit().map(drop));
    let mut transaction = broker.transaction();
    transaction.append(&stream, ExpectedVersion::Any, [row(1)]);
    refused(transaction.commit().map(drop));
    assert_eq!(partition.bounds().unwrap().log_end, 0);
    assert_eq!(streams.partition(0).unwrap().bounds().unwrap().log_end, 0);
}

/// Records without a sequence that linger when the name is taken over.
#[test]
fn records_buffered_by_a_fenced_handle_are_not_written() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let partition = topic(&broker, 1);
    let lingering = || {
        let config = ProducerConfig::new().name("outbox").linger(Duration::from_secs(1));
        broker.producer_with(config).unwrap()
    };
    let old = lingering();
    let waited = old.send(&partition, Record::new("old")).unwrap();
    let new = lingering();
    new.send(&partition, Record::new("new")).unwrap().detach();
    clock.advance(Duration::from_secs(2));
    assert_eq!(values(&partition), ["new"]);
    assert!(matches!(waited.wait(), Err(Error::Fenced { .. })));
    old.flush().unwrap();
    // Nor by a flush, which returns the error of the record that was given up.
    let old = new;
    old.send(&partition, Record::new("old")).unwrap().detach();
    let new = lingering();
    assert!(matches!(old.flush(), Err(Error::Fenced { .. })));
    drop(old);
    new.flush().unwrap();
    broker.maintain().unwrap();
    assert_eq!(values(&partition), ["new"]);
}

const STATE: &str = "topics/t/0/producers";

/// The result for each row that was sent or skipped: nothing is written.
fn answers(disk: &Disk, survive: Survive) -> Vec<String> {
    let disk = disk.duplicate();
    disk.crash(survive);
    answers_of(&disk)
}

fn answers_of(disk: &Disk) -> Vec<String> {
    let broker = open(disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let (first, second) =
        (named(&broker), broker.producer_with(ProducerConfig::new().name("other")).unwrap());
    let mut answers = Vec::new();
    for producer in [&first, &second] {
        let last = producer.last_sequence(&partition).unwrap();
        let end = partition.bounds().unwrap().log_end;
        answers.push(format!("{last:?}, {end}"));
        for n in 1..=last.unwrap_or(0) {
            answers.push(format!("{:?}", offsets(producer, &partition, &[n])));
        }
        assert_eq!(partition.bounds().unwrap().log_end, end);
    }
    answers
}

/// As [`answers`], without the file.
fn answers_of_a_scan(disk: &Disk, survive: Survive) -> Vec<String> {
    let disk = disk.duplicate();
    disk.crash(survive);
    // After the crash, which would be another one with another change of a name before it.
    disk.remove(STATE).ok();
    answers_of(&disk)
}

/// Two idempotent producers and one without a name over several segments, and a batch with gaps
/// here and there.
fn send_rows(broker: &Broker, partition: &Partition, rounds: std::ops::Range<u64>) {
    let (first, second) = (named(broker), broker.producer_with(ProducerConfig::new().name("other")).unwrap());
    for round in rounds {
        let n = round * 10;
        offsets(&first, partition, &[n + 1, n + 2, n + 3]).unwrap();
        if round % 3 == 0 {
            offsets(&second, partition, &[n + 4, n + 6, n + 9]).unwrap();
        }
        send(broker, partition, &"x".repeat(200)).unwrap();
        if round % 4 == 0 {
            broker.maintain().unwrap();
        }
    }
}

fn rows_on(disk: &Disk) {
    let broker = open(disk).unwrap();
    let partition =
        broker.create_topic("t", crate::common::small().partitions(2)).unwrap().partition(0).unwrap();
    send_rows(&broker, &partition, 0..20);
    broker.close().unwrap();
}

/// No. 56.
#[test]
fn a_valid_producer_snapshot_avoids_reading_the_log() {
    let disk = Disk::new();
    rows_on(&disk);
    let ops_to_know = |disk: &Disk| {
        let disk = disk.duplicate();
        disk.crash(Survive::Everything);
        let broker = open(&disk).unwrap();
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        let producer = named(&broker);
        let before = (disk.ops_of(Op::Read), disk.ops_of(Op::Map));
        assert_eq!(producer.last_sequence(&partition).unwrap(), Some(193));
        (disk.ops_of(Op::Read) - before.0, disk.ops_of(Op::Map) - before.1)
    };
    let without = {
        let disk = disk.duplicate();
        disk.remove(STATE).unwrap();
        ops_to_know(&disk)
    };
    let (reads, maps) = ops_to_know(&disk);
    assert!(without.1 >= 5, "{without:?}");
    assert!(reads <= 2 && maps == 0, "{reads} reads, {maps} maps");
    assert_eq!(answers(&disk, Survive::Everything), answers_of_a_scan(&disk, Survive::Everything));
    // After the end that the file covers the log is read.
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let file = disk.read(STATE).unwrap();
    offsets(&named(&broker), &partition, &[201, 202]).unwrap();
    assert_eq!(disk.read(STATE).unwrap(), file);
    let found = answers(&disk, Survive::Everything);
    assert_eq!(found[0], "Some(202), 103");
    assert_eq!(found, answers_of_a_scan(&disk, Survive::Everything));
}

#[test]
fn a_damaged_short_or_foreign_producer_snapshot_is_not_used() {
    let disk = Disk::new();
    rows_on(&disk);
    let file = disk.read(STATE).unwrap();
    let expected = answers_of_a_scan(&disk, Survive::Everything);
    let with = |bytes: &[u8]| {
        let disk = disk.duplicate();
        disk.remove(STATE).unwrap();
        disk.write_new(STATE, bytes).unwrap();
        answers(&disk, Survive::Everything)
    };
    for len in (0..file.len()).step_by(5) {
        assert_eq!(with(&file[..len]), expected, "{len} bytes");
    }
    for bit in (0..file.len() * 8).step_by(13) {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(with(&flipped), expected, "bit {bit}");
    }
    // That of the other partition, which has rows of the same producer.
    let other = disk.duplicate();
    let broker = open(&other).unwrap();
    let partition = broker.topic("t").unwrap().partition(1).unwrap();
    send_rows(&broker, &partition, 20..40);
    broker.close().unwrap();
    assert_eq!(with(&other.read("topics/t/1/producers").unwrap()), expected);
}

#[test]
fn a_producer_snapshot_older_than_a_truncation_is_not_used() {
    let disk = Disk::new();
    rows_on(&disk);
    let before = disk.read(STATE).unwrap();
    for to in [95, 50, 3, 0] {
        let broker = open(&disk).unwrap();
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        partition.truncate_to(Offset::new(to)).unwrap();
        assert_eq!(
            answers(&disk, Survive::Everything),
            answers_of_a_scan(&disk, Survive::Everything),
            "{to}"
        );
        // Other rows come in place of those that are gone.
        let last = named(&broker).last_sequence(&partition).unwrap().unwrap_or(0);
        for n in 1..60 {
            offsets(&named(&broker), &partition, &[last + 7 * n]).unwrap();
        }
        broker.close().unwrap();
        let after = disk.read(STATE).unwrap();
        assert_ne!(after, before);
        assert_eq!(
            answers(&disk, Survive::Everything),
            answers_of_a_scan(&disk, Survive::Everything),
            "{to}"
        );
        let stale = disk.duplicate();
        stale.remove(STATE).unwrap();
        stale.write_new(STATE, &before).unwrap();
        assert_eq!(
            answers(&stale, Survive::Everything),
            answers_of_a_scan(&stale, Survive::Everything),
            "{to}"
        );
    }
}

#[test]
fn after_a_power_loss_results_are_the_same_with_and_without_the_producer_snapshot() {
    for durability in [Durability::Os, Durability::Sync] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let config = crate::common::small().partitions(2).durability(durability);
        let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        for round in 0..24 {
            send_rows(&broker, &partition, round..round + 1);
            for survive in
                [Survive::Synced, Survive::Zeroed(round), Survive::Random(round), Survive::Everything]
            {
                assert_eq!(
                    answers(&disk, survive),
                    answers_of_a_scan(&disk, survive),
                    "{durability:?}, {round}, {survive:?}"
                );
            }
        }
        assert!(disk.read(STATE).is_ok(), "it is written when a segment is finished");
    }
}

/// KIP-360: an outbox whose rows retention has deleted does not send them again.
#[test]
fn sequences_deleted_by_retention_are_known_after_a_restart() {
    let disk = Disk::new();
    rows_on(&disk);
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    // No producer looks up its state in this run.
    partition.delete_records(partition.bounds().unwrap().log_end).unwrap();
    send(&broker, &partition, "of somebody else").unwrap();
    broker.maintain().unwrap();
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let producer = named(&broker);
    assert_eq!(producer.last_sequence(&partition).unwrap(), Some(193));
    let gone = offsets(&producer, &partition, &[193]);
    assert!(matches!(gone, Err(Error::DuplicateSequence { sequence: 193, last: 193, .. })), "{gone:?}");
    let end = partition.bounds().unwrap().log_end.get();
    assert_eq!(offsets(&producer, &partition, &[194]).unwrap(), [end]);
}

// -- names that are not used any more --

fn expiring(disk: &Disk, clock: &ManualClock, after: Option<u64>) -> Broker {
    let config = BrokerConfig::new().clock(clock.clone()).seed(1);
    let config = match after {
        Some(seconds) => config.producer_expiration(Duration::from_secs(seconds)),
        None => config,
    };
    config.on_disk(disk).unwrap()
}

fn maintain_after(broker: &Broker, clock: &ManualClock, seconds: u64) -> Vec<String> {
    clock.advance(Duration::from_secs(seconds));
    broker.maintain().unwrap();
    broker.producers().unwrap()
}

/// Kafka's `TransactionStateManager.removeExpiredTransactionalIds`.
#[test]
fn a_name_expires_that_no_handle_has_and_none_had_for_the_time_that_is_set() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = expiring(&disk, &clock, Some(800));
    let name = |name: &str| broker.producer_with(ProducerConfig::new().name(name)).unwrap();
    let partition = topic(&broker, 1);
    let kept = name("kept");
    drop(name("left"));
    assert_eq!(maintain_after(&broker, &clock, 799), ["kept", "left"]);
    // A handle is a use, however long it sends nothing.
    assert_eq!(maintain_after(&broker, &clock, 101), ["kept"]);
    assert_eq!(offsets(&kept, &partition, &[1]).unwrap(), [0]);
    // A name that comes back is another producer: the sequence counts again.
    let again = name("left");
    assert_eq!(offsets(&again, &partition, &[1]).unwrap(), [1]);
    drop((again, kept));
    broker.close().unwrap();
    // The time while the broker is closed counts, and what was noted is there.
    clock.advance(Duration::from_secs(700));
    let broker = expiring(&disk, &clock, Some(800));
    assert_eq!(maintain_after(&broker, &clock, 50), ["kept", "left"]);
    assert!(maintain_after(&broker, &clock, 200).is_empty());
    broker.close().unwrap();
    assert!(expiring(&disk, &clock, None).producers().unwrap().is_empty());
}

#[test]
fn without_the_setting_no_name_expires_and_with_it_a_name_counts_from_when_it_is_met() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = expiring(&disk, &clock, None);
    drop(named(&broker));
    assert_eq!(maintain_after(&broker, &clock, 100_000_000), ["outbox"]);
    broker.close().unwrap();
    let broker = expiring(&disk, &clock, Some(800));
    assert_eq!(maintain_after(&broker, &clock, 10_000), ["outbox"]);
    assert_eq!(maintain_after(&broker, &clock, 700), ["outbox"]);
    assert!(maintain_after(&broker, &clock, 200).is_empty());
    let too_short = BrokerConfig::new().producer_expiration(Duration::from_millis(999)).in_memory();
    assert!(matches!(too_short, Err(Error::InvalidConfig { field: "producer_expiration", .. })));
}
