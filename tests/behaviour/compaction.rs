//! Compaction as in Kafka's `LogCleanerTest` and as a user needs it: the newest record of every key
//! keeps its offset, whatever runs at the same time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::{Compacted, Event};
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Clock, Compression, Durability, Error, Offset, Partition, RawBatches,
    Record, Retention, Start, Timestamp, TopicConfig,
};

use crate::common::{Random, at, files, small};

type Row = (u64, Option<String>, Option<String>);

fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact)
}

fn on(disk: &Disk, clock: &ManualClock) -> Broker {
    BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(disk).unwrap()
}

fn made(config: TopicConfig) -> (Disk, ManualClock, Broker, Partition) {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = on(&disk, &clock);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    (disk, clock, broker, partition)
}

fn put(broker: &Broker, to: &Partition, key: &str, value: Option<&str>) -> u64 {
    let record = value.map_or(Record::null(), Record::new).key(key);
    broker.producer().send(to, record).unwrap().wait().unwrap().offset.get()
}

fn rows(partition: &Partition) -> Vec<Row> {
    let (mut rows, mut from) = (Vec::new(), partition.bounds().unwrap().log_start);
    loop {
        let some = partition.read(Start::At(from), 1 << 20).unwrap();
        let Some(last) = some.last() else { return rows };
        from = last.offset().plus(1);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        rows.extend(some.iter().map(|r| (r.offset().get(), r.key().map(text), r.value().map(text))));
    }
}

fn offsets(partition: &Partition) -> Vec<u64> {
    rows(partition).iter().map(|row| row.0).collect()
}

fn fold(rows: &[Row]) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for (_, key, value) in rows {
        let Some(key) = key else { continue };
        match value {
            Some(value) => table.insert(key.clone(), value.clone()),
            None => table.remove(key),
        };
    }
    table
}

/// Seals what there is: the next record is too young for its segment.
fn seal(broker: &Broker, clock: &ManualClock) {
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    broker.maintain().unwrap();
}

/// A ratio that nothing exceeds: only an explicit call compacts.
fn by_hand() -> TopicConfig {
    compacted().min_cleanable_dirty_ratio(1.0)
}

fn compact(partition: &Partition) -> Compacted {
    partition.compact().unwrap().unwrap()
}

// Kafka's `LogCleanerManager.cleanableOffsets`.
#[test]
fn the_active_segment_and_records_younger_than_the_lag_are_not_compacted() {
    let (_disk, clock, broker, partition) = made(by_hand().min_compaction_lag(Duration::from_secs(60)));
    for _ in 0..5 {
        put(&broker, &partition, "k", Some("v"));
    }
    assert_eq!(partition.compact().unwrap(), None);
    assert_eq!(offsets(&partition), [0, 1, 2, 3, 4]);
    for _ in 0..20 {
        put(&broker, &partition, "k", Some("some longer text"));
    }
    assert!(partition.segments().len() > 1, "{:?}", partition.stats());
    assert_eq!(partition.compact().unwrap(), None, "all of it is too young");
    clock.advance(Duration::from_secs(61));
    let done = compact(&partition);
    let active = partition.segments().last().unwrap().base_offset;
    assert_eq!(done.compacted_to, active);
    let expected: Vec<_> = (active.get() - 1..25).collect();
    assert_eq!(offsets(&partition), expected);
}

// Kafka's `min.cleanable.dirty.ratio` (strictly more) and `max.compaction.lag.ms` (KIP-354).
#[test]
fn a_log_is_compacted_above_the_dirty_ratio_or_after_the_max_lag() {
    let (_disk, clock, broker, partition) =
        made(compacted().segment_age(Duration::from_secs(1)).max_compaction_lag(Duration::from_secs(50)));
    put(&broker, &partition, "k", Some("1"));
    put(&broker, &partition, "k", Some("2"));
    clock.advance(Duration::from_secs(2));
    broker.maintain().unwrap();
    assert_eq!(offsets(&partition), [1], "all of it was dirty; the idle segment was rolled");
    for n in 0..4 {
        put(&broker, &partition, &format!("big {n}"), Some(&"x".repeat(100)));
    }
    clock.advance(Duration::from_secs(2));
    broker.maintain().unwrap();
    let cleaned = partition.stats().compaction.compactions;
    put(&broker, &partition, "k", Some("3"));
    clock.advance(Duration::from_secs(2));
    broker.maintain().unwrap();
    assert_eq!(partition.stats().compaction.compactions, cleaned, "less than half is dirty");
    clock.advance(Duration::from_secs(49));
    broker.maintain().unwrap();
    assert_eq!(partition.stats().compaction.compactions, cleaned + 1, "but it has waited long enough");
    let stats = partition.stats().compaction;
    assert_eq!((stats.dirty_bytes, stats.running, stats.failed.is_none()), (0, None, true));
}

// Kafka's `LogCleanerManager.grabFilthiestCompactedLog`.
#[test]
fn the_dirtiest_log_is_compacted_first() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let order = Arc::new(Mutex::new(Vec::new()));
    let noted = order.clone();
    let config = BrokerConfig::new().clock(clock.clone()).seed(1).on_event(move |event| {
        if let Event::Compacted(done) = event {
            noted.lock().unwrap().push((done.topic.to_string(), done.partition.get()));
        }
    });
    let broker = config.on_disk(&disk).unwrap();
    let topic = |name, partitions| {
        let config = TopicConfig::new().cleanup(Cleanup::Compact).segment_age(Duration::from_secs(1));
        broker.create_topic(name, config.partitions(partitions)).unwrap()
    };
    let (several, one) = (topic("several", 4), topic("one", 1));
    let round = |records: [u32; 5]| {
        for (partition, records) in several.partitions().into_iter().chain(one.partitions()).zip(records) {
            for _ in 0..records {
                let key = partition.bounds().unwrap().log_end.to_string();
                put(&broker, &partition, &key, Some(&"x".repeat(500)));
            }
        }
        order.lock().unwrap().clear();
        clock.advance(Duration::from_secs(2));
        broker.maintain().unwrap();
        order.lock().unwrap().clone()
    };
    let named = |partitions: &[u32]| -> Vec<_> {
        let name = |n: &u32| if *n == 4 { ("one".to_string(), 0) } else { ("several".to_string(), *n) };
        partitions.iter().map(name).collect()
    };
    let mut first = round([10, 40, 20, 5, 10]);
    first.sort();
    assert_eq!(first, named(&[4, 0, 1, 2, 3]), "each of them once, all as dirty as can be");
    // Not the most bytes, but the greatest share: 12/22, 6/46 (not enough), 60/80, 40/45, 22/32.
    assert_eq!(round([12, 6, 60, 40, 22]), named(&[3, 2, 4, 0]));
    assert_eq!(round([0, 0, 0, 0, 0]), []);
    // Too few dirty bytes before still count.
    assert_eq!(round([0, 60, 0, 0, 0]), named(&[1]));
}

// Kafka's `LogCleaner.shouldRetainRecord`; an offset in a gap reads the next record
// (`LogSegmentTest.testReadFromGap`).
#[test]
fn the_newest_record_of_each_key_keeps_its_offset_and_reads_skip_gaps() {
    for compression in [Compression::None, Compression::Lz4] {
        let (_disk, clock, broker, partition) = made(by_hand().compression(compression));
        for round in 0..3 {
            let records = (0..4).map(|n| (format!("{n}"), format!("{round} {n} {}", "z".repeat(40))));
            let records: Vec<_> = records.collect();
            let batch = records.iter().map(|(key, value)| Record::new(value).key(key).header("h", "1"));
            broker.producer().send_all(&partition, batch).unwrap().wait().unwrap();
        }
        put(&broker, &partition, "1", Some("last"));
        let before = rows(&partition);
        seal(&broker, &clock);
        let done = compact(&partition);
        assert_eq!((done.records_before, done.records_after, done.complete), (13, 4, true));
        assert!(done.bytes_after < done.bytes_before);
        assert_eq!(offsets(&partition), [8, 10, 11, 12]);
        assert!(rows(&partition).iter().all(|row| before.contains(row)));
        for (from, first) in [(0, 8), (8, 8), (9, 10), (12, 12)] {
            let some = partition.read(at(from), 1).unwrap();
            assert_eq!(some.iter().next().unwrap().offset(), first, "from {from}");
            assert_eq!(some.iter().next().unwrap().headers().count(), usize::from(first < 12));
        }
        assert_eq!(partition.bounds().unwrap().log_end, 13);
        let newest: Vec<_> = partition.last_n(3).unwrap().iter().map(|r| r.offset().get()).collect();
        assert_eq!(newest, [10, 11, 12], "last_n counts the remaining records");
        assert!(partition.compact().unwrap().is_none(), "41: nothing to do a second time");
    }
}

// Kafka's `LogCleanerTest.testPartialSegmentClean`.
#[test]
fn a_full_offset_map_ends_the_pass_and_the_next_pass_continues() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let config = BrokerConfig::new().clock(clock.clone()).compaction_memory(1);
    let broker = config.clone().on_disk(&disk).unwrap();
    let mut partition = broker.create_topic("t", by_hand()).unwrap().partition(0).unwrap();
    for n in 0..5 {
        put(&broker, &partition, if n % 2 == 0 { "0" } else { "1" }, Some(&n.to_string()));
    }
    seal(&broker, &clock);
    let mut broker = broker;
    for (upto, expected) in
        [(1, &[0, 1, 2, 3, 4][..]), (2, &[0, 1, 2, 3, 4]), (3, &[1, 2, 3, 4]), (4, &[2, 3, 4]), (5, &[3, 4])]
    {
        let done = compact(&partition);
        assert_eq!((done.compacted_to.get(), done.complete), (upto, upto == 5));
        assert_eq!(offsets(&partition), expected);
        // How far it came is in the manifest.
        drop((broker, partition));
        broker = config.clone().on_disk(&disk).unwrap();
        partition = broker.topic("t").unwrap().partition(0).unwrap();
        assert!(broker.open_report().warnings.is_empty());
    }
    assert_eq!(partition.compact().unwrap(), None);
}

// Kafka's `LogValidator.validateKey`.
#[test]
fn records_without_a_key_are_refused_and_earlier_ones_dropped() {
    let (_disk, clock, broker, partition) = made(small());
    broker.producer().send(&partition, Record::new("no key")).unwrap().wait().unwrap();
    put(&broker, &partition, "k", Some("v"));
    broker.alter_topic("t", by_hand()).unwrap();
    let producer = broker.producer();
    let keyed = || Record::new("v").key("k");
    assert!(matches!(producer.send(&partition, Record::new("v")), Err(Error::MissingKey { index: 0, .. })));
    let both = [keyed(), Record::new("v")];
    assert!(matches!(producer.send_all(&partition, both), Err(Error::MissingKey { index: 1, .. })));
    let at_end = partition.append_at(Offset::new(2), [keyed(), keyed(), Record::new("v")]);
    assert!(matches!(at_end, Err(Error::MissingKey { index: 2, .. })));
    producer.flush().unwrap();
    assert_eq!(partition.bounds().unwrap().log_end, 2, "whole batches are refused");
    seal(&broker, &clock);
    compact(&partition);
    assert_eq!(offsets(&partition), [1]);
}

// Kafka's `LogValidator.validateKey`.
#[test]
fn a_pending_record_without_a_key_is_checked_when_it_is_appended() {
    let (_disk, _clock, broker, partition) = made(small());
    let producer = broker.producer();
    let before =
        [producer.send(&partition, Record::new("v").key("k")), producer.send(&partition, Record::new("v"))];
    let before = before.map(|pending| pending.unwrap());
    let mut transaction = broker.transaction();
    transaction.send(&partition, Record::new("v").key("k")).send(&partition, Record::new("v"));
    broker.alter_topic("t", by_hand()).unwrap();
    for pending in before {
        assert!(
            matches!(pending.wait(), Err(Error::MissingKey { index: 1, .. })),
            "the whole batch is refused"
        );
    }
    assert!(matches!(transaction.commit(), Err(Error::MissingKey { index: 1, .. })));
    assert_eq!(partition.bounds().unwrap().log_end, 0);
    // Nothing is poisoned, and batches with keys are not concerned.
    let pending = producer.send(&partition, Record::new("v").key("k")).unwrap();
    broker.alter_topic("t", by_hand().delete_retention(Duration::ZERO)).unwrap();
    assert_eq!(pending.wait().unwrap().offset, 0);
}

// Kafka's `LogValidator.validateKey`.
#[test]
fn replicated_records_without_a_key_are_refused() {
    for compression in [Compression::None, Compression::Lz4] {
        let (_disk, _clock, broker, source) = made(small().compression(compression));
        let keyed = || Record::new("some value, some value").key("k");
        let send = |records: Vec<Record<'_>>| {
            broker.producer().send_all(&source, records).unwrap().wait().unwrap();
        };
        send(vec![keyed(), keyed()]);
        send(vec![keyed(), Record::new("some value, some value"), keyed()]);
        send(vec![keyed()]);
        let shipment = |from| source.read_raw(Offset::new(from), 1 << 20).unwrap();
        let (_disk2, _clock2, _other, copy) = made(by_hand());
        let refused = copy.append_raw(&shipment(0));
        assert!(matches!(refused, Err(Error::MissingKey { index: 3, .. })), "{refused:?}");
        assert_eq!(copy.bounds().unwrap().log_end, 0, "nothing was written");
        // Records from before the topic was compacted are not written, and not checked.
        let (_disk3, _clock3, other, copy) = made(small());
        copy.append_raw(&source.read_raw(Offset::new(0), 1).unwrap()).unwrap();
        copy.append_raw(&source.read_raw(Offset::new(2), 1).unwrap()).unwrap();
        assert_eq!(copy.bounds().unwrap().log_end, 5);
        other.alter_topic("t", by_hand()).unwrap();
        assert_eq!(copy.append_raw(&shipment(0)).unwrap(), 6);
    }
}

// KIP-534 and `LogCleanerTest.testCleanTombstone`. Kafka needs new records for the second pass;
// Quipu does not.
#[test]
fn a_tombstone_lives_delete_retention_from_its_first_compaction_and_expires_without_new_records() {
    for reopen in [false, true] {
        let config =
            compacted().segment_age(Duration::from_secs(1)).delete_retention(Duration::from_secs(100));
        let (disk, clock, broker, partition) = made(config);
        put(&broker, &partition, "k", Some("v"));
        let old = Record::tombstone("k").timestamp(Timestamp::from_millis(5));
        broker.producer().send(&partition, old).unwrap().wait().unwrap();
        put(&broker, &partition, "other", Some("v"));
        clock.advance(Duration::from_secs(2));
        broker.maintain().unwrap();
        assert_eq!(offsets(&partition), [1, 2], "its own time does not count");
        clock.advance(Duration::from_millis(99_999));
        broker.maintain().unwrap();
        assert_eq!(offsets(&partition), [1, 2]);
        if reopen {
            drop((broker, partition));
            let broker = on(&disk, &clock);
            clock.advance(Duration::from_millis(1));
            broker.maintain().unwrap();
            assert_eq!(offsets(&broker.topic("t").unwrap().partition(0).unwrap()), [2]);
        } else {
            clock.advance(Duration::from_millis(1));
            broker.maintain().unwrap();
            assert_eq!(offsets(&partition), [2]);
            let compactions = partition.stats().compaction.compactions;
            broker.maintain().unwrap();
            assert_eq!(partition.stats().compaction.compactions, compactions, "once");
        }
    }
}

// Kafka's `LogCleanerTest.testCleanSegmentsRetainingLastEmptyBatch`.
#[test]
fn the_log_end_stays_when_the_last_batch_is_emptied() {
    let config = by_hand().delete_retention(Duration::ZERO);
    let (disk, clock, broker, partition) = made(config);
    put(&broker, &partition, "k", Some("v"));
    put(&broker, &partition, "k", None);
    seal(&broker, &clock);
    compact(&partition);
    assert_eq!(offsets(&partition), [1]);
    compact(&partition);
    assert_eq!(rows(&partition), []);
    assert_eq!(partition.bounds().unwrap().log_end, 2);
    assert_eq!(partition.max_timestamp().unwrap(), None);
    assert_eq!(partition.offset_for_time(Timestamp::from_millis(0)).unwrap(), None);
    drop((broker, partition));
    disk.crash(Survive::Synced);
    let broker = on(&disk, &clock);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(partition.bounds().unwrap().log_end, 2);
    assert_eq!(put(&broker, &partition, "k", Some("again")), 2);
    assert_eq!(offsets(&partition), [2]);
}

// Kafka's `LogCleanerTest.testRecoveryAfterCrash`.
#[test]
fn leftover_files_of_a_compaction_are_removed_without_a_warning() {
    let (disk, clock, broker, partition) = made(by_hand());
    put(&broker, &partition, "k", Some("v"));
    put(&broker, &partition, "k", Some("w"));
    seal(&broker, &clock);
    disk.fail(Op::Rename, 1, std::io::ErrorKind::Other);
    disk.fail_always(Op::Remove, 1, std::io::ErrorKind::Other);
    assert!(partition.compact().is_err());
    assert!(partition.stats().compaction.failed.is_some());
    disk.clear_faults();
    assert_eq!(offsets(&partition), [0, 1]);
    let before = files(&disk, "topics/t", ".log").len();
    drop((broker, partition));
    let broker = on(&disk, &clock);
    assert!(broker.open_report().warnings.is_empty());
    assert_eq!(files(&disk, "topics/t", ".log").len(), before - 1);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    compact(&partition);
    assert_eq!(offsets(&partition), [1]);
}

// As in Kafka a truncation aborts the compaction, and readers are never blocked (`LogCleaner`).
#[test]
fn a_truncation_or_reset_during_a_compaction_wins() {
    for change in ["truncate", "reset", "close", "delete"] {
        let (disk, clock, broker, partition) = made(by_hand());
        for n in 0..30 {
            put(&broker, &partition, "k", Some(&format!("{n} {}", "x".repeat(50))));
        }
        seal(&broker, &clock);
        // Held where it has written all of it, before it lists it: nothing of the log is locked.
        let gate = disk.hold(Op::SyncDir, 1);
        std::thread::scope(|scope| {
            let compacting = scope.spawn(|| partition.compact());
            gate.wait_until_reached();
            match change {
                "truncate" => partition.truncate_to(Offset::new(5)).unwrap(),
                "reset" => partition.reset_to(Offset::new(100)).unwrap(),
                // These wait for the compaction; a reader sees when they have come so far.
                _ => {
                    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
                    let ending = || if change == "close" { broker.close() } else { broker.delete_topic("t") };
                    scope.spawn(move || ending().unwrap());
                    while reader.poll(Duration::ZERO).is_ok() {
                        std::thread::yield_now();
                    }
                }
            }
            drop(gate);
            let error = compacting.join().unwrap().unwrap_err();
            let expected = match change {
                "truncate" | "reset" => matches!(error, Error::CompactionAborted { .. }),
                "close" => matches!(error, Error::Closed),
                _ => true,
            };
            assert!(expected, "{change}: {error:?}");
        });
        if change == "truncate" {
            assert_eq!(offsets(&partition), [0, 1, 2, 3, 4]);
        }
    }
}

/// A log whose first batch has several records; every record stays, since each has a key of its
/// own.
fn unique(broker: &Broker, partition: &Partition) {
    let first = (0..3).map(|n| Record::new("first").key(format!("first {n}")));
    broker.producer().send_all(partition, first).unwrap().wait().unwrap();
    for n in 3..20 {
        put(broker, partition, &format!("{n}"), Some(&"x".repeat(60)));
    }
}

/// The content stays, here and after the next opening, and both take appends.
fn assert_continues(disk: &Disk, clock: &ManualClock, broker: Broker, expected: &[u64], case: &str) {
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(offsets(&partition), expected, "{case}");
    let end = partition.bounds().unwrap().log_end.get();
    let mut expected = expected.to_vec();
    for n in end..end + 3 {
        assert_eq!(put(&broker, &partition, &format!("later {n}"), Some("v")), n, "{case}");
        expected.push(n);
    }
    assert_eq!(offsets(&partition), expected, "{case}");
    drop((partition, broker));
    let broker = on(disk, clock);
    let report = broker.open_report();
    assert!(report.damaged.is_empty() && report.warnings.is_empty(), "{case}: {report:?}");
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(offsets(&partition), expected, "{case}: reopened");
    assert_eq!(files(disk, "topics/t", ".log").len(), partition.segments().len(), "{case}");
    seal(&broker, clock);
    compact(&partition);
    assert_eq!(offsets(&partition), expected, "{case}: compacted");
}

// As in Kafka a truncation aborts the compaction, and readers are never blocked (`LogCleaner`).
#[test]
fn retention_and_delete_records_win_over_a_compaction() {
    for (op, nth) in [(Op::Map, 1), (Op::OpenFile, 1), (Op::Map, 2), (Op::SyncDir, 1)] {
        for by_retention in [false, true] {
            let case = format!("retention: {by_retention}, held at {op:?} {nth}");
            let config = by_hand().cleanup(Cleanup::CompactAndDelete);
            let (disk, clock, broker, partition) = made(config.clone());
            unique(&broker, &partition);
            seal(&broker, &clock);
            let active = partition.segments().last().unwrap().base_offset;
            let gate = disk.hold(op, nth);
            std::thread::scope(|scope| {
                let compacting = scope.spawn(|| partition.compact());
                gate.wait_until_reached();
                if by_retention {
                    broker.alter_topic("t", config.retention(Retention::for_bytes(0))).unwrap();
                    broker.maintain().unwrap();
                } else {
                    partition.delete_records(active).unwrap();
                }
                drop(gate);
                let error = compacting.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::CompactionAborted { .. }), "{case}: {error:?}");
            });
            let failed = partition.stats().compaction.failed;
            assert!(matches!(failed, Some(Error::CompactionAborted { .. })), "{case}: {failed:?}");
            assert_eq!(partition.bounds().unwrap().log_start, active, "{case}");
            broker.alter_topic("t", by_hand()).unwrap();
            drop(partition);
            assert_continues(&disk, &clock, broker, &[], &case);
        }
    }
}

type Change = fn(&Partition) -> quipu::Result<()>;

/// Truncations at the base offset of the first segment, or near it, and the remaining offsets.
const CUTS: [(&str, Change, &[u64]); 5] = [
    ("truncate to 0", |partition| partition.truncate_to(Offset::new(0)), &[]),
    ("reset to 0", |partition| partition.reset_to(Offset::new(0)), &[]),
    ("truncate in the first batch", |partition| partition.truncate_to(Offset::new(2)), &[0, 1]),
    ("truncate after the first batch", |partition| partition.truncate_to(Offset::new(3)), &[0, 1, 2]),
    ("truncate to 5", |partition| partition.truncate_to(Offset::new(5)), &[0, 1, 2, 3, 4]),
];

// As in Kafka a truncation aborts the compaction, and readers are never blocked (`LogCleaner`).
#[test]
fn a_truncation_never_takes_the_output_file_of_a_running_compaction() {
    // Before it has opened what it reads, before it opens what it writes, before that is synced,
    // before it is listed.
    for (op, nth) in [(Op::Map, 1), (Op::OpenFile, 1), (Op::Write, 2), (Op::Sync, 1), (Op::SyncDir, 1)] {
        for (name, change, expected) in CUTS {
            let case = format!("{name} at {op:?} {nth}");
            let (disk, clock, broker, partition) = made(by_hand());
            unique(&broker, &partition);
            seal(&broker, &clock);
            let gate = disk.hold(op, nth);
            std::thread::scope(|scope| {
                let compacting = scope.spawn(|| partition.compact());
                gate.wait_until_reached();
                change(&partition).unwrap();
                drop(gate);
                let error = compacting.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::CompactionAborted { .. }), "{case}: {error:?}");
                let failed = partition.stats().compaction.failed;
                assert!(matches!(failed, Some(Error::CompactionAborted { .. })), "{case}: {failed:?}");
            });
            drop(partition);
            assert_continues(&disk, &clock, broker, expected, &case);
        }
    }
}

// As in Kafka a truncation aborts the compaction, and readers are never blocked (`LogCleaner`).
#[test]
fn a_failed_truncation_removes_nothing_of_a_running_compaction() {
    let all: Vec<u64> = (0..20).collect();
    let (mut failed, mut unknown) = (0, 0);
    for (name, change, expected) in CUTS {
        for op in [Op::OpenFile, Op::Write, Op::Sync, Op::SyncDir, Op::Rename] {
            for nth in 1.. {
                let case = format!("{name}, no room at {op:?} {nth}");
                let (disk, clock, broker, partition) = made(by_hand());
                unique(&broker, &partition);
                seal(&broker, &clock);
                let gate = disk.hold(Op::SyncDir, 1);
                let (cut, cleaned) = std::thread::scope(|scope| {
                    let compacting = scope.spawn(|| partition.compact());
                    gate.wait_until_reached();
                    // From there on: the reserve makes up for one failure.
                    disk.fail_always(op, nth, std::io::ErrorKind::StorageFull);
                    let cut = change(&partition);
                    disk.clear_faults();
                    drop(gate);
                    (cut, compacting.join().unwrap())
                });
                let poisoned = partition.stats().poisoned.is_some();
                match (&cut, &cleaned) {
                    (Ok(()), Err(Error::CompactionAborted { .. })) => {}
                    (Err(_), Ok(Some(_))) if !poisoned => failed += 1,
                    (Err(_), Err(Error::Poisoned { .. })) if poisoned => unknown += 1,
                    other => panic!("{case}: {other:?}"),
                }
                let is_done = cut.is_ok();
                if poisoned {
                    // The next opening decides which.
                    drop((partition, broker));
                    let broker = on(&disk, &clock);
                    let found = offsets(&broker.topic("t").unwrap().partition(0).unwrap());
                    assert!(found == all || found == expected, "{case}: {found:?}");
                    assert_continues(&disk, &clock, broker, &found, &case);
                } else {
                    drop(partition);
                    assert_continues(&disk, &clock, broker, if is_done { expected } else { &all }, &case);
                }
                if is_done {
                    break;
                }
            }
        }
    }
    assert!(failed > 20 && unknown > 4, "{failed} failed, {unknown} unknown");
}

/// At any schedule of compactions, crashes and truncations, a table made of the log is that of all
/// that was sent, and since a truncation that of the records before it.
#[test]
fn a_compacted_log_makes_the_same_table_as_the_full_log() {
    let sequences = if crate::common::thorough() { 20_000 } else { 2_000 };
    let (mut cleaned, mut cuts) = (0, 0);
    for seed in 0..sequences {
        let mut random = Random(seed);
        let (mut disk, clock) = (Disk::new(), ManualClock::new());
        let config =
            BrokerConfig::new().clock(clock.clone()).seed(1).compaction_memory(1 << random.below(10));
        let mut broker = config.clone().on_disk(&disk).unwrap();
        let topic = by_hand()
            .durability(Durability::Sync)
            .compression(if seed % 2 == 0 { Compression::None } else { Compression::Lz4 })
            .segment_age(Duration::from_secs(10))
            .delete_retention(Duration::from_secs(random.below(30)));
        let mut partition = broker.create_topic("t", topic).unwrap().partition(0).unwrap();
        let (mut sent, mut end): (Vec<Row>, u64) = (Vec::new(), 0);
        for _ in 0..25 {
            match random.below(11) {
                0..=4 => {
                    let count = 1 + random.below(5);
                    let new: Vec<Row> = (0..count)
                        .map(|n| {
                            let offset = partition.bounds().unwrap().log_end.get() + n;
                            let value = (random.below(4) > 0).then(|| format!("{offset} {}", "x".repeat(90)));
                            (offset, Some(format!("key {}", random.below(6))), value)
                        })
                        .collect();
                    let records = new.iter().map(|(_, key, value)| {
                        value.as_deref().map_or(Record::null(), Record::new).key(key.as_deref().unwrap())
                    });
                    broker.producer().send_all(&partition, records).unwrap().wait().unwrap();
                    sent.extend(new);
                    end += count;
                }
                10 => {
                    // A removed record does not come back with its replacement.
                    let to = random.below(end + 2);
                    sent = rows(&partition);
                    sent.retain(|row| row.0 < to);
                    partition.truncate_to(Offset::new(to)).unwrap();
                    cuts += u64::from(to < end);
                    end = end.min(to);
                }
                5 => clock.advance(Duration::from_secs(random.below(20))),
                6 => broker.maintain().unwrap(),
                7 => cleaned += u64::from(partition.compact().unwrap().is_some()),
                8 => {
                    // The process dies somewhere in a compaction.
                    disk.crash_at(1 + random.below(20));
                    let _ = partition.compact();
                    drop((broker, partition));
                    disk.crash(if random.below(2) == 0 { Survive::Synced } else { Survive::Everything });
                    disk = disk.duplicate();
                    broker = config.clone().on_disk(&disk).unwrap();
                    assert!(broker.open_report().damaged.is_empty(), "{seed}: {:?}", broker.open_report());
                    partition = broker.topic("t").unwrap().partition(0).unwrap();
                }
                _ => {
                    broker.close().unwrap();
                    broker = config.clone().on_disk(&disk).unwrap();
                    partition = broker.topic("t").unwrap().partition(0).unwrap();
                }
            }
            let left = rows(&partition);
            assert_eq!(fold(&left), fold(&sent), "seed {seed}");
            assert!(left.iter().all(|row| sent.contains(row)), "seed {seed}");
            assert_eq!(partition.bounds().unwrap().log_end.get(), end, "seed {seed}");
            for n in [1, 3] {
                let expected: Vec<_> =
                    left.iter().skip(left.len().saturating_sub(n)).map(|row| row.0).collect();
                let newest: Vec<_> = partition.last_n(n).unwrap().iter().map(|r| r.offset().get()).collect();
                assert_eq!(newest, expected, "seed {seed}");
            }
        }
    }
    assert!(cleaned > sequences / 4 && cuts > sequences, "{cleaned} compacted, {cuts} truncated");
}

// Kafka's `LogCleanerManager.cleanableOffsets` resets such a checkpoint to the log start.
#[test]
fn compaction_starts_within_the_log_after_a_truncation_or_a_moved_start() {
    let (_disk, clock, broker, partition) = made(by_hand().cleanup(Cleanup::CompactAndDelete));
    for n in 0..30 {
        put(&broker, &partition, &format!("{}", n % 3), Some(&n.to_string()));
    }
    seal(&broker, &clock);
    compact(&partition);
    assert_eq!(offsets(&partition), [27, 28, 29]);
    // Into a gap, and below everything that is left.
    partition.truncate_to(Offset::new(28)).unwrap();
    assert_eq!(offsets(&partition), [27]);
    partition.truncate_to(Offset::new(7)).unwrap();
    assert!(offsets(&partition).is_empty());
    assert_eq!(put(&broker, &partition, "0", Some("a")), 7);
    assert_eq!(put(&broker, &partition, "0", Some("b")), 8);
    seal(&broker, &clock);
    compact(&partition);
    assert_eq!(offsets(&partition), [8]);
    partition.delete_records(Offset::new(9)).unwrap();
    partition.reset_to(Offset::new(50)).unwrap();
    put(&broker, &partition, "0", Some("c"));
    put(&broker, &partition, "0", Some("d"));
    seal(&broker, &clock);
    compact(&partition);
    assert_eq!(offsets(&partition), [51]);
}

// 48
#[test]
fn small_segments_are_merged_and_none_grows_too_large() {
    let (_disk, clock, broker, partition) = made(by_hand());
    for n in 0..200 {
        put(&broker, &partition, &format!("{}", n % 40), Some(&"x".repeat(30)));
    }
    seal(&broker, &clock);
    let done = compact(&partition);
    assert!(done.segments_after > 1 && done.segments_after * 3 < done.segments_before, "{done:?}");
    assert!(partition.segments().iter().all(|segment| segment.bytes <= 1 << 10));
    assert_eq!(offsets(&partition), (160..200).collect::<Vec<_>>());
}

// Kafka's `cleanup.policy`.
#[test]
fn a_topic_that_only_compacts_ignores_retention() {
    for (cleanup, stays) in [(Cleanup::Compact, true), (Cleanup::CompactAndDelete, false)] {
        let config = by_hand().cleanup(cleanup).retention(Retention::for_bytes(0));
        let (_disk, clock, broker, partition) = made(config);
        put(&broker, &partition, "a", Some("1"));
        put(&broker, &partition, "a", Some("2"));
        seal(&broker, &clock);
        assert_eq!(!rows(&partition).is_empty(), stays);
        let deleted = partition.delete_records(Offset::new(1));
        assert_eq!(matches!(deleted, Err(Error::CompactedTopic { .. })), stays);
    }
    let (_disk, _clock, _broker, partition) = made(small());
    assert!(matches!(partition.compact(), Err(Error::NotCompacted { .. })));
}

// 39
#[test]
fn a_topic_that_compacts_and_deletes_does_both() {
    let config = compacted()
        .cleanup(Cleanup::CompactAndDelete)
        .min_cleanable_dirty_ratio(0.0)
        .segment_age(Duration::from_secs(1))
        .retention(Retention::for_age(Duration::from_secs(100)));
    let (_disk, clock, broker, partition) = made(config);
    let next = |seconds| {
        clock.advance(Duration::from_secs(seconds));
        broker.maintain().unwrap();
    };
    for (key, value) in [("k", "1"), ("k", "2"), ("other", "1")] {
        put(&broker, &partition, key, Some(value));
    }
    next(2);
    assert_eq!(offsets(&partition), [1, 2], "compacted");
    next(48);
    put(&broker, &partition, "k", Some("3"));
    next(2);
    assert_eq!(offsets(&partition), [2, 3]);
    next(98);
    assert_eq!(offsets(&partition), [2, 3], "not older than that");
    put(&broker, &partition, "late", Some("1"));
    next(1);
    assert_eq!(offsets(&partition), [4], "deleted, though nothing replaced them");
    assert_eq!(partition.bounds().unwrap().log_start, 4);
    put(&broker, &partition, "late", Some("2"));
    next(2);
    assert_eq!(offsets(&partition), [5], "and compacted still");
}

/// A reader on a segment that is replaced under it neither misses a record that stays nor sees one
/// twice.
#[test]
fn readers_and_writers_continue_during_a_compaction() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().seed(1).on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", by_hand()).unwrap().partition(0).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // From the start to the head, wherever that is when it gets there: what a
                    // compaction takes has a newer record of its key further on.
                    let (mut from, mut table) = (Offset::new(0), BTreeMap::new());
                    loop {
                        let some = partition.read(Start::At(from), 300).unwrap();
                        let Some(last) = some.last() else { break };
                        for record in &some {
                            assert!(record.offset() >= from, "twice");
                            table.insert(record.key().unwrap().to_vec(), record.offset());
                        }
                        from = last.offset().plus(1);
                    }
                    // The keys are written in turns of 10.
                    if from.get() >= 10 {
                        assert_eq!(table.len(), 10);
                        assert!(table.values().all(|offset: &Offset| offset.plus(10) >= from), "missed");
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                partition.compact().unwrap();
            }
        });
        for n in 0..3_000 {
            put(&broker, &partition, &format!("{}", n % 10), Some("some value"));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(partition.stats().compaction.compactions > 0);
}

/// Decided: batches with gaps inside, and emptied ones, are replicated unchanged; where a batch is
/// gone altogether, the copy returns the typed error of any other gap.
#[test]
fn compacted_batches_are_replicated_and_missing_batches_refused() {
    let (_disk, clock, broker, partition) = made(by_hand());
    let record = |key: &str| Record::new("v").key(key.to_string());
    broker.producer().send_all(&partition, [record("a"), record("b")]).unwrap().wait().unwrap();
    broker.producer().send_all(&partition, [record("a"), record("c")]).unwrap().wait().unwrap();
    let (_disk2, _clock2, _other, copy) = made(by_hand());
    let whole = partition.read_raw(Offset::new(0), 1 << 20).unwrap();
    copy.append_raw(&whole).unwrap();
    seal(&broker, &clock);
    compact(&partition);
    let cleaned = partition.read_raw(Offset::new(0), 1 << 20).unwrap();
    assert_eq!(
        copy.append_raw(&RawBatches::from_bytes(cleaned.as_bytes()).unwrap()).unwrap(),
        4,
        "no divergence"
    );
    assert_eq!(partition.append_raw(&whole).unwrap(), 4, "nor the other way");
    let (_disk3, _clock3, _third, fresh) = made(by_hand());
    fresh.append_raw(&cleaned).unwrap();
    assert_eq!(rows(&fresh), rows(&partition));
    for _ in 0..3 {
        put(&broker, &partition, "b", Some("w"));
    }
    seal(&broker, &clock);
    compact(&partition);
    let next = partition.read_raw(Offset::new(4), 1 << 20).unwrap();
    assert!(matches!(fresh.append_raw(&next), Err(Error::OffsetConflict { end, .. }) if end == 4));
}

// 47
#[test]
fn records_larger_than_any_buffer_are_compacted() {
    let config =
        TopicConfig::new().max_record_bytes(5 << 20).cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(1.0);
    let (_disk, clock, broker, partition) = made(config);
    let big = "x".repeat(4 << 20);
    put(&broker, &partition, "a", Some(&big));
    put(&broker, &partition, "a", Some(&big));
    seal(&broker, &clock);
    compact(&partition);
    assert_eq!(offsets(&partition), [1]);
    assert!(clock.now() > Timestamp::from_millis(0));
}

#[test]
fn a_compaction_that_meets_damage_names_the_position_in_the_file() {
    let (disk, clock, broker, partition) = made(by_hand());
    for n in 0..20 {
        put(&broker, &partition, &format!("{}", n % 3), Some(&"x".repeat(60)));
    }
    seal(&broker, &clock);
    // The second batch of the second segment; its body begins after its header.
    let path = files(&disk, "topics/t/0", ".log").remove(1);
    let content = disk.read(&path).unwrap();
    let len = u32::from_le_bytes(content[132..136].try_into().unwrap());
    let body = 128 + 104 + u64::from(len) + 104;
    disk.flip_bit(&path, (body + 3) * 8).unwrap();
    let Err(Error::Corrupt(found)) = partition.compact() else { panic!("it compacts damage") };
    assert!(found.file.ends_with(&path), "{found:?}");
    assert_eq!(found.position, body, "{found:?}");
}
