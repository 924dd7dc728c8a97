//! More small rules: an edit of one expression in the crate broke each of these, and no other test
//! failed. See `tests/mutation`.

use std::future::Future;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use quipu::stats::FindingKind;
use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Durability, Error, ExpectedVersion, Partition, ProducerConfig, Record, Retention, Start, Timestamp,
    TopicConfig, Version,
};

use crate::common::{assert_filled, files, fill, open, send, small};

const NOW: Duration = Duration::ZERO;

fn is_ready(future: &mut (impl Future + Unpin)) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A flush waits for what another thread of the producer has in hand.
#[test]
fn a_flush_waits_for_a_batch_that_another_thread_writes() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(NOW)).unwrap();
    producer.send(&partition, Record::new("first")).unwrap().wait().unwrap();
    let write = disk.hold(Op::Write, 1);
    thread::scope(|scope| {
        let sender =
            scope.spawn(|| producer.send(&partition, Record::new("second")).map(|sent| sent.detach()));
        write.wait_until_reached();
        let mut flushed = producer.flush_async();
        let is_early = is_ready(&mut flushed);
        write.release();
        sender.join().unwrap().unwrap();
        assert!(!is_early, "the record was not written yet");
        flushed.wait().unwrap();
    });
    assert_eq!(partition.bounds().unwrap().visible_end, 2);
}

/// The error of a partition that is paused does not keep the others from being read.
#[test]
fn a_paused_partition_reports_no_damage() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    topic.partitions().iter().for_each(|partition| fill(&broker, partition, 3));
    broker.close().unwrap();
    let file = files(&disk, "topics/t/0", ".log").remove(0);
    disk.flip_bit(&file, (128 + 10) * 8).unwrap();
    let broker = open(&disk).unwrap();
    let mut reader = broker.reader(&["t"], Start::Beginning).unwrap();
    let is_damaged = |polled: quipu::Result<quipu::Records>| matches!(polled, Err(Error::Corrupt(_)));
    let mut polls = 0;
    while !is_damaged(reader.poll(NOW)) {
        polls += 1;
        assert!(polls < 10);
    }
    reader.pause("t", 0).unwrap();
    fill(&broker, &broker.topic("t").unwrap().partition(1).unwrap(), 4);
    let read: usize = (0..3).map(|_| reader.poll(NOW).unwrap().len()).sum();
    assert!(read > 0);
    reader.resume("t", 0).unwrap();
    assert!(is_damaged(reader.poll(NOW)));
}

/// As a poll of a reader does, under a manual clock.
#[test]
fn a_poll_of_a_stream_does_the_work_that_is_due() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700);
    let topic = broker.create_topic("t", config).unwrap();
    let stream = topic.stream("s").unwrap();
    let mut reader = stream.reader(Version::ZERO).unwrap();
    (0..2).for_each(|_| drop(stream.append(ExpectedVersion::Any, [Record::new(vec![1; 600])]).unwrap()));
    assert_eq!(topic.partition(0).unwrap().stats().segments, 2);
    assert_eq!(reader.poll(NOW).unwrap().len(), 2);
    assert_eq!(files(&disk, "topics/t/0", ".index").len(), 1, "the sealed segment is finished");
}

/// The next append deletes what the new bound allows, and not only the next segment.
#[test]
fn a_smaller_retention_holds_from_the_next_append() {
    let broker = open(&Disk::new()).unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    while partition.stats().segments < 6 {
        send(&broker, &partition, &"x".repeat(100)).unwrap();
    }
    broker.alter_topic("t", small().retention(Retention::for_bytes(2 << 10))).unwrap();
    send(&broker, &partition, "x").unwrap();
    assert_eq!(partition.stats().segments, 3, "no new one was begun");
    assert!(partition.stats().bytes <= 3 << 10);
}

/// Batches that are put together have as many bytes as fit, their table of positions included.
#[test]
fn batches_that_are_put_together_are_never_too_large() {
    let broker = open(&Disk::new()).unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    let config = ProducerConfig::new().linger(Duration::from_secs(1)).batch_bytes(1 << 20);
    let producer = broker.producer_with(config).unwrap();
    for len in 500..640 {
        let mut all = vec![producer.send_all(&partition, [Record::new(vec![1; len])]).unwrap()];
        all.push(producer.send_all(&partition, (0..40).map(|_| Record::new("x"))).unwrap());
        producer.flush().unwrap();
        all.into_iter().for_each(|sent| drop(sent.wait().unwrap()));
    }
    assert_eq!(partition.bounds().unwrap().visible_end, 140 * 41);
}

/// Its other parts would be there alone.
#[test]
fn a_transaction_of_which_a_part_can_no_longer_be_appended_is_taken_back() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic =
        broker.create_topic("t", TopicConfig::new().partitions(2).durability(Durability::Os)).unwrap();
    let partitions = topic.partitions();
    partitions.iter().for_each(|partition| fill(&broker, partition, 1));
    let ends: Vec<u64> = partitions.iter().map(|partition| partition.stats().bytes).collect();
    partitions.iter().for_each(|partition| fill(&broker, partition, 2));
    let mut both = broker.transaction();
    for partition in &partitions {
        both.send(partition, Record::new("both"));
    }
    both.commit().unwrap();
    disk.crash(Survive::Everything);
    // A lost write: the second partition ends before its part of the transaction would follow.
    let file = files(&disk, "topics/t/1", ".log").remove(0);
    disk.truncate(&file, ends[1]).unwrap();
    let broker = open(&disk).unwrap();
    let topic = broker.topic("t").unwrap();
    let partition = |n: u32| -> Partition { topic.partition(n).unwrap() };
    assert_filled(&partition(0), 2, "without the transaction");
    assert_filled(&partition(1), 1, "the events that were there");
}

/// A journal that cannot be replaced for another reason than a lack of room.
#[test]
fn an_opening_that_cannot_replace_the_journal_fails() {
    let start = Disk::new();
    let broker = open(&start).unwrap();
    let topic =
        broker.create_topic("t", TopicConfig::new().partitions(2).durability(Durability::Os)).unwrap();
    let mut both = broker.transaction();
    for partition in topic.partitions() {
        both.send(&partition, Record::new("both"));
    }
    both.commit().unwrap();
    start.crash(Survive::Everything);
    // Each file that an opening replaces in turn.
    let mut refused = Vec::new();
    for nth in 1.. {
        let disk = start.duplicate();
        disk.fail(Op::Rename, nth, ErrorKind::Other);
        let before = disk.ops_of(Op::Rename);
        let opened = open(&disk);
        if disk.ops_of(Op::Rename) - before < nth {
            opened.unwrap();
            break;
        }
        refused.extend(opened.err().map(|error| error.to_string()));
    }
    assert!(refused.iter().any(|error| error.starts_with("cannot create mem:/journal")), "{refused:?}");
}

/// The records of a batch with right checksums are checked too.
#[test]
fn a_check_finds_a_batch_whose_records_make_no_sense() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 1);
    broker.sync().unwrap();
    disk.crash(Survive::Everything);
    let file = files(&disk, "topics/t/0", ".log").remove(0);
    let bytes = disk.read(&file).unwrap();
    let batch = crate::forged_batches::forged_with(
        1,
        &[3, 200, 1, b'x'],
        &[&bytes[80..96], &bytes[24..40], &bytes[20..24]],
    );
    disk.overwrite(&file, partition.stats().bytes, &batch).unwrap();
    let report = disk.verify(|_| ControlFlow::Continue(())).unwrap();
    let found: Vec<_> = report.findings.iter().map(|found| (found.kind, found.invariant)).collect();
    assert_eq!(found, [(FindingKind::Damage, Some(3))], "{report:?}");
}

#[test]
fn a_time_before_1970_is_refused_as_the_first_and_only_one() {
    let broker = open(&Disk::new()).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let refused = partition.offset_for_time(Timestamp::from_millis(-1)).unwrap_err();
    assert!(matches!(refused, Error::InvalidTimestamp { index: 0, .. }), "{refused:?}");
}

/// The partition has nothing more to read, and the reader learns of it nevertheless.
#[test]
fn reading_to_the_end_reports_a_truncation_of_a_partition_that_was_read_before() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let partitions = topic.partitions();
    fill(&broker, &partitions[0], 2);
    fill(&broker, &partitions[1], 30);
    let mut read = broker.reader(&["t"], Start::Beginning).unwrap().max_records(3).to_end();
    (0..4).for_each(|_| drop(read.next().unwrap().unwrap()));
    partitions[0].truncate_to(0.into()).unwrap();
    let is_told =
        |part: quipu::Result<quipu::Records>| part.map_or(true, |records| !records.skipped().is_empty());
    assert!(read.any(is_told));
}
