//! The end of a segment and the start of the next: by size, by the records' time, and by the clock
//! without an append.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Clock, Durability, Error, Offset, Outcome, Partition, ProducerConfig, ReadMode,
    Record, Start, Timestamp, TopicConfig,
};

use crate::common::{assert_filled, at, files, fill, make_files, open, read, send, small, value};

const AGE: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(1);

fn segments(partition: &Partition) -> usize {
    partition.segments().len()
}

// -- by size --

#[test]
fn a_segment_that_would_grow_beyond_its_size_is_sealed_and_no_batch_is_split() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    let partition = topic.partition(0).unwrap();
    make_files(&disk, &broker, &partition);
    let producer = broker.producer();
    let mut batches = Vec::new();
    for i in 0..30u64 {
        let records: Vec<_> =
            (0..1 + i % 4).map(|n| format!("{i} {n} {}", "x".repeat(i as usize * 5))).collect();
        let (before, had) = (partition.stats(), partition.segments());
        let receipts =
            producer.send_all(&partition, records.iter().map(Record::new)).unwrap().wait().unwrap();
        let (after, has) = (partition.stats(), partition.segments());
        assert_eq!((before.segments, after.segments), (had.len(), has.len()));
        assert_eq!(after.bytes, has.iter().map(|segment| segment.bytes).sum::<u64>());
        assert_eq!(after.batches_appended, before.batches_appended + 1);
        let bytes = after.bytes_appended - before.bytes_appended;
        let (last_before, last) = (had.last().unwrap(), has.last().unwrap());
        if has.len() == had.len() {
            assert_eq!(last.bytes, last_before.bytes + bytes, "the whole batch is in the segment");
        } else {
            assert_eq!(has.len(), had.len() + 1);
            assert!(
                last_before.bytes + bytes > 1024,
                "it would not have fitted: {} and {bytes}",
                last_before.bytes
            );
            assert_eq!(last.base_offset, receipts[0].offset, "the batch begins the next segment");
            let sealed = &has[had.len() - 1];
            assert!(sealed.sealed && sealed.bytes == last_before.bytes);
        }
        assert!(last.bytes <= 1024 && !last.sealed);
        batches.push(receipts.len());
    }
    assert!(segments(&partition) > 8);
    let (values, error) = read(&partition);
    assert!(error.is_none());
    assert_eq!(values.len(), batches.iter().sum::<usize>());
}

#[test]
fn a_batch_that_fits_exactly_does_not_roll() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    let partition = topic.partition(0).unwrap();
    send(&broker, &partition, &"x".repeat(300)).unwrap();
    let (had, one) = (partition.stats().bytes, partition.stats().bytes_appended);
    // A batch of one record grows by a byte with its value, as long as the lengths take as many
    // bytes.
    let room = 1024 - had;
    let exact = 300 + (room - one) as usize;
    send(&broker, &partition, &"y".repeat(exact)).unwrap();
    assert_eq!((segments(&partition), partition.stats().bytes), (1, 1024));
    send(&broker, &partition, "").unwrap();
    assert_eq!(segments(&partition), 2);

    let other = broker.create_topic("u", small()).unwrap().partition(0).unwrap();
    send(&broker, &other, &"x".repeat(300)).unwrap();
    send(&broker, &other, &"y".repeat(exact + 1)).unwrap();
    assert_eq!(segments(&other), 2, "one byte more");
}

/// Vector 13.
#[test]
fn a_record_or_batch_above_its_limit_is_refused_before_anything_is_written() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 3);
    let before = (partition.stats().bytes, partition.bounds().unwrap(), disk.ops_of(Op::Write));
    let refused = |error: &Error| matches!(error, Error::RecordTooLarge { size, limit, .. } if size > limit);

    let error = send(&broker, &partition, &"x".repeat(701)).unwrap_err();
    assert!(refused(&error), "{error}");
    assert_eq!(error.outcome(), Outcome::NotWritten);
    // One bad record refuses all of them.
    let mixed = [Record::new("fine"), Record::new("x".repeat(701)), Record::new("fine")];
    let error = broker.producer().send_all(&partition, mixed).and_then(|pending| pending.wait()).unwrap_err();
    assert!(refused(&error), "{error}");
    assert_eq!((partition.stats().bytes, partition.bounds().unwrap(), disk.ops_of(Op::Write)), before);

    // Records that are fine one by one and too many for one segment become several batches.
    let records = (3..6).map(|_| Record::new("x".repeat(600)));
    let other = broker.create_topic("u", small()).unwrap().partition(0).unwrap();
    broker.producer().send_all(&other, records).unwrap().wait().unwrap();
    assert_eq!((other.stats().batches_appended, segments(&other)), (3, 3));
    let producer = broker.producer_with(ProducerConfig::new().batch_bytes(1 << 20)).unwrap();
    let pending: Vec<_> =
        (3..200).map(|i| producer.send(&partition, Record::new(value(i))).unwrap()).collect();
    for (offset, pending) in (3..).zip(pending) {
        assert_eq!(pending.wait().unwrap().offset, offset);
    }
    assert!(partition.segments().iter().all(|segment| segment.bytes <= 1024));
    assert_filled(&partition, 200, "in segments of 1 KiB");
}

// -- by time --

/// Kafka's `UnifiedLogTest.testTimeBasedLogRollDuringAppend`, step by step: 1, 1, 2, 3, 4, 4, 5, 5,
/// 6 segments.
///
/// Kafka's first steps append records without a timestamp, which are measured by the wall clock;
/// here a record without one gets the time of sending, so the clock is moved before the second
/// append too. Its fifth step appends a record that is an age and a tick ahead to a segment whose
/// first record has no timestamp, and does not roll; here every segment has a time, so that step
/// sits exactly on the bound, which does not roll either. From there on all is as in Kafka.
#[test]
fn rolls_by_record_time_follow_kafkas_vector() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().segment_age(AGE)).unwrap();
    let partition = topic.partition(0).unwrap();
    let append = |timestamp: Option<Timestamp>| {
        let record = Record::new("test");
        let record = match timestamp {
            Some(timestamp) => record.timestamp(timestamp),
            None => record,
        };
        broker.producer().send(&partition, record).unwrap().wait().unwrap();
        segments(&partition)
    };
    assert_eq!(segments(&partition), 0, "its first write makes the first segment");
    clock.advance(AGE + TICK);
    assert_eq!(append(None), 1, "it does not roll if that would leave an empty segment");
    for expected in [2, 3, 4] {
        clock.advance(AGE + TICK);
        assert_eq!(append(None), expected, "time has passed since the segment's first record");
    }
    let first = clock.now();
    assert_eq!(append(Some(first.plus(AGE))), 4, "exactly an age later");
    let ahead = first.plus(AGE + TICK);
    clock.advance(AGE + TICK);
    assert_eq!(append(Some(ahead)), 5, "an age and a tick later");
    clock.advance(AGE + TICK);
    assert_eq!(append(Some(ahead)), 5, "the wall clock has moved, the records' time has not");
    assert_eq!(append(Some(clock.now())), 6, "the record's time makes the segment expire");
    clock.advance(AGE + TICK);
    broker.producer().send_all(&partition, []).unwrap().wait().unwrap();
    assert_eq!(segments(&partition), 6, "appending nothing rolls nothing");
}

/// The first batch's time counts, also over a restart; a record from the past never rolls.
#[test]
fn the_age_is_measured_from_the_segments_first_batch() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let config = BrokerConfig::new().clock(clock.clone());
    let start = clock.now();
    let append = |broker: &Broker, millis: i64| {
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        let timestamp = Timestamp::from_millis(start.as_millis() + millis);
        broker.producer().send(&partition, Record::new("v").timestamp(timestamp)).unwrap().wait().unwrap();
        segments(&partition)
    };
    let age = AGE.as_millis() as i64;
    for clean in [true, false] {
        let broker = config.clone().on_disk(&disk).unwrap();
        let topic = TopicConfig::new().segment_age(AGE).timestamp_bounds(None, None);
        broker.ensure_topic("t", topic).unwrap();
        let base = if clean { 0 } else { 10 * age };
        let had = append(&broker, base);
        assert_eq!(append(&broker, base - 5 * age), had);
        assert_eq!(append(&broker, base + age), had);
        if clean {
            broker.close().unwrap();
        } else {
            disk.crash(Survive::Everything);
        }
        let broker = config.clone().on_disk(&disk).unwrap();
        assert_eq!(append(&broker, base + age), had, "clean: {clean}");
        assert_eq!(append(&broker, base + age + 1), had + 1, "clean: {clean}");
        broker.close().unwrap();
    }
}

// -- without an append --

#[test]
fn an_idle_segment_is_rolled_by_maintenance_once_it_is_old_and_an_empty_one_never() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().segment_age(AGE).partitions(2)).unwrap();
    let (used, empty) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
    fill(&broker, &used, 3);
    clock.advance(AGE);
    broker.maintain().unwrap();
    assert_eq!(segments(&used), 1, "exactly at the bound");
    clock.advance(TICK);
    broker.maintain().unwrap();
    assert_eq!(segments(&used), 2);
    let after = used.segments();
    assert!(after[0].sealed && !after[1].sealed && after[1].base_offset == 3);
    for _ in 0..5 {
        clock.advance(AGE * 10);
        broker.maintain().unwrap();
    }
    assert_eq!((segments(&used), segments(&empty)), (2, 0), "an empty segment is never rolled");
    fill(&broker, &used, 6);
    assert_filled(&used, 6, "over the roll");
    fill(&broker, &empty, 2);
    assert_filled(&empty, 2, "the first records");
}

// -- after a roll --

#[test]
fn records_are_readable_across_the_borders_from_every_offset() {
    for (mode, clean) in [(ReadMode::Map, true), (ReadMode::Positional, true), (ReadMode::Map, false)] {
        let disk = Disk::new();
        // Without a tail cache everything comes from the files.
        let config = || BrokerConfig::new().clock(ManualClock::new()).read_mode(mode).tail_cache_bytes(0);
        let mut broker = config().on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", small()).unwrap();
        fill(&broker, &topic.partition(0).unwrap(), 40);
        if !clean {
            disk.crash(Survive::Everything);
            broker = config().on_disk(&disk).unwrap();
        }
        for round in 0..2 {
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            assert!(segments(&partition) > 5);
            for offset in 0..40 {
                for max_bytes in [1, 2000, 1 << 20] {
                    let records = partition.read(at(offset), max_bytes).unwrap();
                    let first = records.iter().next().unwrap();
                    assert_eq!(
                        (first.offset().get(), first.value()),
                        (offset, Some(value(offset).as_bytes()))
                    );
                }
            }
            assert_filled(&partition, 40, &format!("{mode:?} {clean} {round}"));
            if round == 0 {
                broker.maintain().unwrap();
                broker.close().unwrap();
                broker = config().on_disk(&disk).unwrap();
            }
        }
    }
}

/// The state of a segment in a manifest is one byte: 2 sealed, 3 synced (FORMAT.md, Manifest).
fn states(disk: &Disk) -> Vec<u8> {
    let bytes = disk.read("topics/t/0/manifest").unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let epochs = 72;
    let segments = epochs + 8 + word(epochs) * word(epochs + 4);
    (0..word(segments)).map(|n| bytes[segments + 8 + n * word(segments + 4) + 16]).collect()
}

#[test]
fn a_sealed_segment_is_marked_synced_only_after_maintenance_synced_it() {
    for durability in [Durability::Os, Durability::Sync, Durability::Interval(AGE)] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", small().durability(durability)).unwrap();
        let partition = topic.partition(0).unwrap();
        fill(&broker, &partition, 20);
        let count = segments(&partition);
        assert!(count > 2);
        let is_listed = if durability == Durability::Sync { count } else { 1 };
        assert_eq!(states(&disk), [vec![2; is_listed - 1], vec![1]].concat(), "not known to be durable");
        assert!(files(&disk, "topics/t/0", ".index").is_empty());
        broker.maintain().unwrap();
        assert_eq!(states(&disk), [vec![3; count - 1], vec![1]].concat());
        assert_eq!(files(&disk, "topics/t/0", ".index").len(), count - 1);
        let sealed_end = partition.segments().last().unwrap().base_offset;
        assert!(partition.bounds().unwrap().durable_end >= sealed_end);
        // A segment marked synced is synced: the worst power loss leaves it.
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        let (values, error) = read(&broker.topic("t").unwrap().partition(0).unwrap());
        assert!(error.is_none() && values.len() as u64 >= sealed_end.get(), "{durability:?}");
        assert!(broker.open_report().damaged.is_empty());
    }
}

/// A segment that could not be synced is not marked synced, and its records are not reported as
/// durable.
#[test]
fn a_sealed_segment_whose_sync_fails_poisons_and_is_not_marked_synced() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 20);
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    broker.maintain().unwrap();
    assert!(!states(&disk).contains(&3));
    assert_eq!(partition.bounds().unwrap().durable_end, 0);
    let error = send(&broker, &partition, "v").unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert_filled(&partition, 20, "visible records stay visible");
    partition.reopen().unwrap();
    disk.crash(Survive::Synced);
    assert_filled(
        &open(&disk).unwrap().topic("t").unwrap().partition(0).unwrap(),
        20,
        "written again and synced",
    );
}

#[test]
fn every_roll_is_reported_as_an_event() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let clock = ManualClock::new();
    let tell = {
        let told = told.clone();
        move |event: &Event| {
            if let Event::Rolled { topic, partition, base_offset, .. } = event {
                told.lock().unwrap().push((topic.to_string(), partition.get(), base_offset.get()));
            }
        }
    };
    let broker = BrokerConfig::new().clock(clock.clone()).on_event(tell).on_disk(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", small().partitions(2).segment_age(AGE)).unwrap();
    let partition = topic.partition(1).unwrap();
    fill(&broker, &partition, 20);
    clock.advance(AGE * 2);
    broker.maintain().unwrap();
    let bases: Vec<_> =
        partition.segments().iter().skip(1).map(|s| ("t".to_string(), 1, s.base_offset.get())).collect();
    assert_eq!(*told.lock().unwrap(), bases);
    assert_eq!(bases.last().unwrap().2, 20, "the idle one too");
}

/// A roll that the disk refuses leaves the segment as it was; the next append tries again.
#[test]
fn a_roll_that_fails_leaves_no_trace() {
    let (os, sync) = (Durability::Os, Durability::Sync);
    // With `Os` a roll syncs nothing.
    let ops = [Op::OpenFile, Op::Write, Op::Sync].map(|op| (op, sync));
    for (op, durability) in ops.into_iter().chain([(Op::OpenFile, os), (Op::Write, os)]) {
        for nth in 1..3 {
            let disk = Disk::new();
            let broker = open(&disk).unwrap();
            let topic = broker.create_topic("t", small().durability(durability)).unwrap();
            let partition = topic.partition(0).unwrap();
            // The next record does not fit any more.
            while partition.stats().bytes < 700 {
                fill(&broker, &partition, partition.bounds().unwrap().log_end.get() + 1);
            }
            let (end, before) = (partition.bounds().unwrap().log_end.get(), disk.files());
            disk.fail(op, nth, std::io::ErrorKind::Other);
            let result = send(&broker, &partition, &"x".repeat(400));
            disk.clear_faults();
            match result {
                Ok(_) => assert!(nth > 1, "{op:?} {nth}"),
                Err(error) if error.outcome() == Outcome::NotWritten => {
                    assert_eq!(partition.bounds().unwrap().log_end, end, "{op:?} {nth}: {error}");
                    assert_eq!(disk.files(), before, "{op:?} {nth}: no half segment");
                    assert_eq!(send(&broker, &partition, &"x".repeat(400)).unwrap().offset, end);
                    assert_eq!(segments(&partition), 2);
                }
                // The roll is done, and the write of the record itself has failed.
                Err(_) => assert!(matches!(send(&broker, &partition, "v"), Err(Error::Poisoned { .. }))),
            }
            assert_eq!(read(&partition).0[..end as usize], (0..end).map(value).collect::<Vec<_>>());
        }
    }
}

/// Nothing waits for the header of an empty segment; a clean close vouches for it all the same.
#[test]
fn an_empty_segment_is_on_the_medium_after_a_clean_close() {
    let clock = ManualClock::new();
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().segment_age(AGE)).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 3);
    clock.advance(AGE + TICK);
    broker.maintain().unwrap();
    assert_eq!(segments(&topic.partition(0).unwrap()), 2);
    broker.close().unwrap();
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert!(
        broker.open_report().clean && broker.open_report().damaged.is_empty(),
        "{:?}",
        broker.open_report()
    );
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    fill(&broker, &partition, 6);
    assert_filled(&partition, 6, "after the power loss");
}

/// Under a manual clock a poll does the work of the background threads that is due.
#[test]
fn a_sealed_segment_is_finished_in_the_background_whatever_sealed_it() {
    for sealed_by in ["a send", "a transaction", "a shipment"] {
        let (disk, source) = (Disk::new(), Disk::new());
        let broker = open(&disk).unwrap();
        let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
        let _other = broker.create_topic("other", TopicConfig::new()).unwrap();
        let mut reader = broker.reader(["other"], Start::Beginning).unwrap();
        let from = open(&source).unwrap();
        let copied = from.create_topic("t", small()).unwrap().partition(0).unwrap();
        for n in 0..20 {
            let text = format!("{n} {}", "x".repeat(300));
            match sealed_by {
                "a send" => drop(send(&broker, &partition, &text).unwrap()),
                "a transaction" => {
                    let mut transaction = broker.transaction();
                    transaction.send(&partition, Record::new(text)).send("other", Record::new("v"));
                    transaction.commit().unwrap();
                }
                _ => {
                    send(&from, &copied, &text).unwrap();
                    let batches = copied.read_raw(Offset::new(n), 1 << 20).unwrap();
                    partition.append_raw(&batches).unwrap();
                }
            }
            reader.poll(Duration::ZERO).unwrap();
            let indexes = files(&disk, "topics/t/0", ".index").len();
            assert_eq!(indexes, segments(&partition) - 1, "{sealed_by}, record {n}");
        }
        assert!(segments(&partition) > 3, "{sealed_by}");
    }
}
