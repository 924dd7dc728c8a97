//! More small rules: an edit of one expression in the crate broke each of these, and no other test
//! failed. See `tests/mutation`.

use std::future::Future;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use quipu::stats::{Event, FindingKind};
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, ExpectedVersion, Offset, Partition, ProducerConfig, Rebalance,
    Record, Retention, Start, Timestamp, TopicConfig, Version,
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

/// Sequences are those of producers.
#[test]
fn an_event_with_a_sequence_is_refused() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let stream = topic.stream("s").unwrap();
    let appended = stream.append(ExpectedVersion::Any, [Record::new("e").sequence(1)]);
    assert!(matches!(appended, Err(Error::InvalidConfig { .. })), "{appended:?}");
    assert_eq!(stream.load().unwrap().version(), 0);
}

/// A broker, and how many rolls it has reported.
fn counting_rolls() -> (Broker, Arc<AtomicUsize>) {
    let rolls = Arc::new(AtomicUsize::new(0));
    let seen = rolls.clone();
    let count = move |event: &Event| {
        if let Event::Rolled { .. } = event {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    };
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_event(count);
    (config.on_disk(&Disk::new()).unwrap(), rolls)
}

/// A program that counts segments by events must learn of each.
#[test]
fn a_roll_by_a_shipment_or_an_erasure_is_reported_before_the_call_returns() {
    let (broker, rolls) = counting_rolls();
    let streams = broker.create_topic("people", TopicConfig::streams()).unwrap();
    streams.stream("a").unwrap().append(ExpectedVersion::Any, [Record::new("secret")]).unwrap();
    assert_eq!(streams.erase_stream("a").unwrap(), 1);
    assert_eq!(rolls.swap(0, Ordering::Relaxed), 1, "by the erasure");

    let source = broker.create_topic("source", small()).unwrap().partition(0).unwrap();
    fill(&broker, &source, 40);
    let segments = rolls.swap(0, Ordering::Relaxed);
    assert!(segments > 1, "{segments}");
    let (other, elsewhere) = counting_rolls();
    let copy = other.create_topic("source", small()).unwrap().partition(0).unwrap();
    copy.append_raw(&source.read_raw(Offset::ZERO, 1 << 20).unwrap()).unwrap();
    assert_eq!(elsewhere.load(Ordering::Relaxed), segments, "by the shipment");
}

/// Whole batches in the place of others of the same size: each passes its own checksums.
#[test]
fn batches_of_another_segment_in_the_place_of_others_are_damage() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    for time in 0..60 {
        let record = Record::new("all of one size").timestamp(Timestamp::from_millis(1_000 + time));
        broker.producer().send(&partition, record).unwrap().wait().unwrap();
    }
    broker.close().unwrap();
    let logs = files(&disk, "topics/t/0", ".log");
    let (first, second) = (disk.read(&logs[0]).unwrap(), disk.read(&logs[1]).unwrap());
    assert_eq!(first.len(), second.len());
    let header = 64;
    disk.overwrite(&logs[1], header, &first[header as usize..]).unwrap();
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let last = partition.bounds().unwrap().log_end;
    let mut refused = 0;
    for at in 0..last.get() {
        match partition.read(Start::At(Offset::new(at)), 1) {
            Ok(records) => assert_eq!(records.iter().next().unwrap().offset(), at),
            Err(Error::Corrupt(_)) => refused += 1,
            Err(other) => panic!("{at}: {other}"),
        }
    }
    assert!(refused > 1, "{refused}");
    for at in 0..60 {
        match partition.offset_for_time(Timestamp::from_millis(1_000 + at)) {
            Ok(found) => assert_eq!(found.unwrap().0, at as u64),
            Err(Error::Corrupt(_)) => {}
            Err(other) => panic!("{at}: {other}"),
        }
    }
}

/// The same for a lookup of a key, which walks a segment whose key index is missing.
#[test]
fn batches_of_another_segment_are_no_events_of_a_stream() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700);
    let topic = broker.create_topic("t", config).unwrap();
    for n in 0..30 {
        topic.stream("one").unwrap().append(Version::new(n), [Record::new("all of one size")]).unwrap();
    }
    for n in 0..10 {
        topic.stream("two").unwrap().append(Version::new(n), [Record::new("all of one size")]).unwrap();
    }
    broker.close().unwrap();
    let logs = files(&disk, "topics/t/0", ".log");
    let (first, second) = (disk.read(&logs[0]).unwrap(), disk.read(&logs[1]).unwrap());
    assert_eq!(first.len(), second.len());
    disk.overwrite(&logs[1], 64, &first[64..]).unwrap();
    files(&disk, "topics/t/0", ".keys").iter().for_each(|file| disk.remove(file).unwrap());
    let broker = open(&disk).unwrap();
    let topic = broker.topic("t").unwrap();
    for key in ["one", "two"] {
        let loaded = topic.stream(key).unwrap().load();
        assert!(matches!(loaded, Err(Error::Corrupt(_))), "{key}: {loaded:?}");
    }
}

/// A log that was truncated holds none of the sequences that were removed, whatever was appended
/// before the next opening.
#[test]
fn sequences_that_a_truncation_removed_are_new_after_other_appends_and_a_restart() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let row = |id: u64| Record::new(format!("row {id}")).sequence(id);
    let named = ProducerConfig::new().name("rows");
    let rows = broker.producer_with(named.clone()).unwrap();
    for id in 1..=10 {
        rows.send(&partition, row(id)).unwrap().wait().unwrap();
    }
    partition.truncate_to(Offset::new(5)).unwrap();
    for _ in 0..9 {
        send(&broker, &partition, "other").unwrap();
    }
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let rows = broker.producer_with(named).unwrap();
    let offsets: Vec<_> =
        (5..=7).map(|id| rows.send(&partition, row(id)).unwrap().wait().unwrap().offset.get()).collect();
    assert_eq!(offsets, [4, 14, 15]);
}

/// The journal forgets the transactions of a log that a truncation has made durable in the log
/// itself.
#[test]
fn a_second_truncation_costs_no_more_than_one_of_a_log_without_transactions() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let partitions = topic.partitions();
    for partition in &partitions {
        for _ in 0..9 {
            send(&broker, partition, "v").unwrap();
        }
    }
    let mut transaction = broker.transaction();
    transaction.send(&partitions[0], Record::new("v")).send(&partitions[1], Record::new("v"));
    transaction.commit().unwrap();
    let cost = |partition: &Partition, end: u64| {
        let before = disk.ops();
        partition.truncate_to(Offset::new(end)).unwrap();
        disk.ops() - before
    };
    let (first, plain) = (cost(&partitions[0], 8), cost(&partitions[2], 8));
    assert!(first > plain, "{first} of {plain}");
    assert_eq!(cost(&partitions[0], 7), cost(&partitions[2], 7));
}

/// A file that is there and cannot be opened is no missing one.
#[cfg(unix)]
#[test]
fn a_check_reports_a_key_index_that_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let broker = BrokerConfig::new().clock(ManualClock::new()).open(dir.path()).unwrap();
    let small = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700);
    let stream = broker.create_topic("t", small).unwrap().stream("s").unwrap();
    for n in 0..30 {
        stream.append(Version::new(n), [Record::new("-".repeat(100))]).unwrap();
    }
    broker.close().unwrap();
    let damaged = || {
        let report = Broker::verify(dir.path(), |_| ControlFlow::Continue(())).unwrap();
        report.findings.iter().filter(|finding| finding.what.contains("key index")).count()
    };
    assert_eq!(damaged(), 0);
    let partition = std::fs::read_dir(dir.path().join("topics/t/0")).unwrap();
    let mut paths = partition.map(|entry| entry.unwrap().path());
    let keys = paths.find(|path| path.extension().is_some_and(|end| end == "keys")).unwrap();
    std::fs::remove_file(&keys).unwrap();
    assert_eq!(damaged(), 0, "it is made again when it is needed");
    std::os::unix::fs::symlink(&keys, &keys).unwrap();
    assert_eq!(damaged(), 1);
}

/// What changed in the group before the end is no matter any more.
#[test]
fn a_closed_broker_calls_no_listener() {
    let broker = open(&Disk::new()).unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let listen = move |_: &mut Rebalance<'_>| {
        seen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let mut one = broker.consumer("g").on_rebalance(listen).subscribe("t").unwrap();
    one.poll(NOW).unwrap();
    let other = broker.consumer("g").subscribe("t").unwrap();
    let before = calls.load(Ordering::Relaxed);
    assert!(before > 0);
    broker.close().unwrap();
    assert!(matches!(one.poll(NOW), Err(Error::Closed)));
    assert_eq!(calls.load(Ordering::Relaxed), before);
    drop(other);
}

/// Both would note that the topic is gone, and the catalog could not be read any more.
#[test]
fn maintenance_leaves_a_deletion_that_is_under_way_to_its_thread() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    send(&broker, &partition, "v").unwrap();
    let moved = disk.hold(Op::Rename, 1);
    thread::scope(|scope| {
        let deleting = scope.spawn(|| broker.delete_topic("t"));
        moved.wait_until_reached();
        let maintaining = scope.spawn(|| broker.maintain());
        (0..1_000).for_each(|_| thread::yield_now());
        moved.release();
        deleting.join().unwrap().unwrap();
        maintaining.join().unwrap().unwrap();
    });
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().damaged.is_empty());
    assert!(broker.topics().is_empty());
}
