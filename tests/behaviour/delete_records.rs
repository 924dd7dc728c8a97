//! Moving a partition's log start by hand: the refused cases, durability, and the effect on
//! readers.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, IoAction, Offset, OffsetReset, Partition, Record, SkipReason,
    Start, TopicConfig,
};

use crate::common::{at, files, look, send};

/// Segments that hold exactly five of the records that [`append`] appends.
fn fives() -> TopicConfig {
    TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(500)
}

fn open(disk: &Disk) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk).unwrap()
}

fn the_partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

/// A partition with as many records.
fn with(disk: &Disk, count: usize) -> (Broker, Partition) {
    let broker = open(disk);
    broker.create_topic("t", fives()).unwrap();
    let t = the_partition(&broker);
    append(&broker, &t, count);
    (broker, t)
}

fn append(broker: &Broker, partition: &Partition, count: usize) {
    for _ in 0..count {
        let end = partition.bounds().unwrap().log_end;
        send(broker, partition, &format!("{end:>60}")).unwrap();
    }
}

fn delete(partition: &Partition, before: u64) -> quipu::Result<u64> {
    partition.delete_records(Offset::new(before)).map(Offset::get)
}

// Kafka's `UnifiedLogTest.testLogDeletionAfterDeleteRecords`, each step after another kind of
// restart.
#[test]
fn the_log_start_moves_within_a_segment_and_survives_a_restart() {
    for restart in [None, Some(Survive::Everything), Some(Survive::Synced), Some(Survive::Random(1))] {
        let disk = Disk::new();
        let (mut broker, mut t) = with(&disk, 15);
        broker.sync().unwrap();
        assert_eq!(look(&disk, &t), (3, 0, 15));
        for (before, segments) in [(1, 3), (6, 2), (15, 1)] {
            assert_eq!(delete(&t, before).unwrap(), before);
            assert_eq!(look(&disk, &t), (segments, before, 15), "at once");
            drop(t);
            match restart {
                None => broker.close().unwrap(),
                Some(survive) => disk.crash(survive),
            }
            broker = open(&disk);
            let report = broker.open_report();
            assert!(report.damaged.is_empty() && report.truncated_tails.is_empty(), "{report:?}");
            t = the_partition(&broker);
            assert_eq!(look(&disk, &t), (segments, before, 15), "{restart:?}");
        }
        append(&broker, &t, 1);
        assert_eq!(t.bounds().unwrap().log_end, 16);
    }
}

// Kafka's `UnifiedLog.maybeIncrementLogStartOffset`.
#[test]
fn the_log_start_never_moves_back_or_beyond_the_high_watermark() {
    let disk = Disk::new();
    let (_broker, t) = with(&disk, 12);
    assert_eq!(delete(&t, 0).unwrap(), 0);
    assert_eq!(delete(&t, 7).unwrap(), 7);
    let ops = disk.ops();
    for before in [0, 3, 7] {
        assert_eq!(delete(&t, before).unwrap(), 7);
    }
    assert_eq!(disk.ops(), ops, "nothing to do, nothing done");
    for before in [13, u64::MAX] {
        match delete(&t, before) {
            Err(Error::OffsetOutOfRange { requested, earliest, latest, .. }) => {
                assert_eq!((requested.get(), earliest.get(), latest.get()), (before, 7, 12));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(look(&disk, &t), (2, 7, 12));
    assert_eq!(delete(&t, 12).unwrap(), 12);
    assert_eq!(look(&disk, &t), (1, 12, 12));
}

// Without any retention, as Kafka's `deleteLogStartOffsetBreachedSegments`.
#[test]
fn maintenance_deletes_segments_before_the_log_start_and_the_active_one_too() {
    let disk = Disk::new();
    let (broker, t) = with(&disk, 12);
    delete(&t, 12).unwrap();
    let bytes = t.stats().bytes;
    for _ in 0..2 {
        broker.maintain().unwrap();
        assert_eq!(look(&disk, &t), (1, 12, 12));
    }
    assert!(t.stats().bytes < bytes);
    append(&broker, &t, 5);
    delete(&t, 14).unwrap();
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 14, 17), "what holds a record stays whole");
}

#[test]
fn within_a_batch_the_records_before_the_start_are_gone() {
    let disk = Disk::new();
    let (broker, t) = with(&disk, 0);
    let values: Vec<_> = (0..10).map(|i| format!("{i:>60}")).collect();
    broker.producer().send_all(&t, values[..5].iter().map(Record::new)).unwrap().wait().unwrap();
    broker.producer().send_all(&t, values[5..].iter().map(Record::new)).unwrap().wait().unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(2);
    assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 2);
    delete(&t, 4).unwrap();
    // The batch that the reader has loaded is not gone on with.
    let next = reader.poll(Duration::ZERO).unwrap();
    let [skipped] = next.skipped() else { panic!("{:?}", next.skipped()) };
    assert_eq!((skipped.from.get(), skipped.to.get(), &skipped.reason), (2, 4, &SkipReason::OutOfRange));
    assert_eq!(next.iter().next().unwrap().offset(), 4);
    assert_eq!(look(&disk, &t).1, 4);
    disk.crash(Survive::Synced);
    let broker = open(&disk);
    let t = the_partition(&broker);
    // The deleted records were synced for it, and so were later ones of the same batch.
    assert_eq!(t.bounds().unwrap().log_start, 4);
    assert_eq!(t.read(Start::Beginning, 1).unwrap().iter().next().unwrap().offset(), 4);
    assert!(matches!(t.read(at(3), 1), Err(Error::OffsetOutOfRange { .. })));
}

// With each reset policy.
#[test]
fn a_reader_before_the_start_follows_its_policy() {
    let disk = Disk::new();
    let (broker, t) = with(&disk, 15);
    let mut readers: Vec<_> =
        [OffsetReset::Beginning, OffsetReset::Nearest, OffsetReset::End, OffsetReset::Fail]
            .map(|policy| broker.reader(["t"], at(3)).unwrap().offset_reset(policy))
            .into_iter()
            .collect();
    delete(&t, 9).unwrap();
    for (reader, expected) in readers.iter_mut().zip([Some(9), Some(9), Some(15), None]) {
        match (reader.poll(Duration::ZERO), expected) {
            (Ok(records), Some(to)) => {
                let [skipped] = records.skipped() else { panic!("{:?}", records.skipped()) };
                assert_eq!((skipped.from.get(), skipped.to.get()), (3, to));
                assert_eq!(records.len() as u64, 15 - to);
            }
            (Err(Error::OffsetOutOfRange { earliest, .. }), None) => assert_eq!(earliest, 9),
            (other, _) => panic!("{other:?}"),
        }
    }
}

// An acknowledged offset is never assigned again, whatever a power loss removes (Kafka's
// `testCannotDeleteSegmentsAtOrAboveHighWatermark`).
#[test]
fn records_are_durable_before_the_log_start_moves_past_them() {
    for seed in 0..40 {
        let disk = Disk::new();
        let (broker, t) = with(&disk, 13);
        assert_eq!(t.bounds().unwrap().durable_end, 0, "nothing was synced");
        delete(&t, 12).unwrap();
        append(&broker, &t, 4);
        disk.crash(if seed == 0 { Survive::Synced } else { Survive::Random(seed) });
        let broker = open(&disk);
        assert!(broker.open_report().damaged.is_empty());
        let t = the_partition(&broker);
        let (_, start, end) = look(&disk, &t);
        assert!(start == 12 && (13..=17).contains(&end), "seed {seed}: {start} {end}");
    }
}

#[test]
fn a_log_that_lost_its_end_continues_at_its_start() {
    // Shortened from outside, or damaged: both within the deleted records.
    for damage in ["truncated", "damaged", "emptied"] {
        let disk = Disk::new();
        let (broker, t) = with(&disk, 13);
        delete(&t, 13).unwrap();
        disk.crash(Survive::Everything);
        drop((broker, t));
        let file = files(&disk, "topics/t/0", ".log").pop().unwrap();
        let len = disk.read(&file).unwrap().len() as u64;
        match damage {
            "truncated" => disk.truncate(&file, 96 + (len - 96) / 3 * 2).unwrap(),
            "damaged" => disk.flip_bit(&file, (len - 5) * 8).unwrap(),
            // All but its header, without which it would be damage.
            _ => disk.truncate(&file, 128).unwrap(),
        }
        // Without the checkpoint its length is unknown.
        disk.remove("checkpoint").unwrap();
        for round in 0..2 {
            let broker = open(&disk);
            assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report());
            let t = the_partition(&broker);
            let bounds = t.bounds().unwrap();
            assert_eq!((bounds.log_start.get(), bounds.visible_end.get()), (13, 13 + round), "{damage}");
            assert!(t.read(Start::Beginning, 1).unwrap().len() as u64 == round);
            append(&broker, &t, 1);
            broker.maintain().unwrap();
            assert_eq!(look(&disk, &t), (1, 13, 14 + round), "{damage}");
            broker.close().unwrap();
        }
    }
}

#[test]
fn a_checkpoint_that_names_a_deleted_segment_is_not_needed() {
    let disk = Disk::new();
    let (broker, t) = with(&disk, 5);
    broker.sync().unwrap();
    broker.maintain().unwrap(); // the checkpoint covers all of the first segment
    append(&broker, &t, 7);
    delete(&t, 5).unwrap();
    assert_eq!(look(&disk, &t), (2, 5, 12));
    disk.crash(Survive::Everything);
    drop((broker, t));
    let broker = open(&disk);
    let report = broker.open_report();
    assert!(report.damaged.is_empty() && report.truncated_tails.is_empty(), "{report:?}");
    assert_eq!((report.recovered[0].from.get(), report.recovered[0].to.get()), (5, 12));
    assert_eq!(look(&disk, &the_partition(&broker)), (2, 5, 12));
}

#[test]
fn a_full_disk_changes_nothing() {
    let disk = Disk::new();
    let (broker, t) = with(&disk, 15);
    broker.sync().unwrap();
    let before = crate::common::snapshot(&disk);
    // There is no room even with the reserve.
    disk.fail_always(Op::Write, 1, ErrorKind::StorageFull);
    assert!(matches!(delete(&t, 8), Err(Error::DiskFull { .. })));
    disk.clear_faults();
    let without_reserve = |mut files: BTreeMap<PathBuf, Vec<u8>>| {
        files.retain(|path, _| !path.ends_with("reserve"));
        files
    };
    assert_eq!(without_reserve(crate::common::snapshot(&disk)), without_reserve(before));
    assert_eq!(look(&disk, &t), (3, 0, 15));
    assert_eq!(delete(&t, 8).unwrap(), 8);
    append(&broker, &t, 1);
}

#[test]
fn an_unknown_outcome_poisons_and_the_next_opening_removes_undeleted_files() {
    for op in [Op::Rename, Op::SyncDir] {
        let disk = Disk::new();
        let (broker, t) = with(&disk, 15);
        broker.sync().unwrap();
        disk.fail(op, 1, ErrorKind::Other);
        assert!(matches!(delete(&t, 8), Err(Error::Io { action: IoAction::Replace, .. })));
        assert_eq!(look(&disk, &t), (3, 0, 15));
        assert!(matches!(delete(&t, 8), Err(Error::Poisoned { .. })));
        assert!(matches!(send(&broker, &t, "x"), Err(Error::Poisoned { .. })));
        t.reopen().unwrap();
        assert_eq!(delete(&t, 8).unwrap(), 8);
    }

    let disk = Disk::new();
    let (broker, t) = with(&disk, 15);
    disk.fail_always(Op::Remove, 1, ErrorKind::PermissionDenied);
    assert_eq!(delete(&t, 8).unwrap(), 8, "the log start counts, not the files");
    disk.clear_faults();
    assert_eq!(files(&disk, "topics/t/0", ".log").len(), 3);
    drop(t);
    broker.close().unwrap();
    let broker = open(&disk);
    assert_eq!(look(&disk, &the_partition(&broker)), (2, 8, 15));
}

#[test]
fn delete_records_on_a_closed_or_deleted_handle_is_a_typed_error() {
    let (broker, t) = with(&Disk::new(), 3);
    broker.delete_topic("t").unwrap();
    assert!(matches!(delete(&t, 1), Err(Error::TopicDeleted { .. })));
    let (broker, t) = with(&Disk::new(), 3);
    broker.close().unwrap();
    assert!(matches!(delete(&t, 1), Err(Error::Closed)));
}

// The file is deleted after the reader chose it from the segment list and before it opens the file.
#[test]
fn a_reader_that_comes_too_late_is_out_of_range_and_sees_no_damage() {
    let disk = Disk::new();
    let (broker, t) = with(&disk, 15);
    drop(t);
    broker.close().unwrap();
    let broker = open(&disk); // nothing in the tail, no file open
    let t = the_partition(&broker);
    let gate = disk.hold(Op::OpenFile, 1);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| t.read(at(2), 1 << 20));
        gate.wait_until_reached();
        // Another thread's deletion needs no file of the held kind to begin with, but its manifest:
        // let it through.
        let deleting = scope.spawn(|| delete(&t, 11));
        assert_eq!(deleting.join().unwrap().unwrap(), 11);
        gate.release();
        match reading.join().unwrap() {
            Err(Error::OffsetOutOfRange { requested, earliest, .. }) => {
                assert_eq!((requested.get(), earliest.get()), (2, 11));
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(look(&disk, &t), (1, 11, 15));
}

/// Appends, syncs, rolls, deletions, maintenance and readers at once: each of them keeps its
/// promises.
#[test]
fn appends_reads_and_deletions_run_at_the_same_time() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().max_open_files(8).tail_cache_bytes(4_000).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", fives().durability(Durability::Os)).unwrap();
    let t = topic.partition(0).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = [
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    broker.sync().unwrap();
                }
            }),
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    broker.maintain().unwrap();
                }
            }),
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let bounds = t.bounds().unwrap();
                    let some = (bounds.visible_end.get() - bounds.log_start.get()) / 2;
                    let before = bounds.log_start.plus(some);
                    assert!(t.delete_records(before).unwrap() >= before);
                }
            }),
            scope.spawn(|| {
                let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(7);
                let mut next = reader.position("t", 0).unwrap().offset.get();
                while !done.load(Ordering::Relaxed) {
                    let records = reader.poll(Duration::ZERO).unwrap();
                    let mut skipped = records.skipped().iter().peekable();
                    for record in &records {
                        while let Some(skipped) = skipped.next_if(|skipped| skipped.from == next) {
                            assert!(skipped.to > skipped.from);
                            next = skipped.to.get();
                        }
                        assert_eq!(record.offset(), next);
                        assert_eq!(record.value().unwrap(), format!("{next:>60}").as_bytes());
                        next += 1;
                    }
                    for skipped in skipped {
                        assert_eq!(skipped.from, next);
                        next = skipped.to.get();
                    }
                }
            }),
        ];
        append(&broker, &t, 3_000);
        done.store(true, Ordering::Relaxed);
        for other in others {
            other.join().unwrap();
        }
    });
    assert!(t.stats().poisoned.is_none());
    look(&disk, &t);
    drop((t, topic));
    broker.close().unwrap();
    let broker = open(&disk);
    assert!(broker.open_report().clean);
    assert_eq!(look(&disk, &the_partition(&broker)).2, 3_000);
}
