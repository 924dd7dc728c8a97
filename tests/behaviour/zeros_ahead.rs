//! A partition that syncs has zeros after its log's end, so that most syncs change neither the length
//! of the file nor its blocks. Nothing relies on them, and they take no room from records.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Clock, Durability, Error, Offset, Partition, Record, Result, Retention,
    TopicConfig, Version,
};

use crate::common::{
    after_each_crash, assert_filled, assert_prefix, files, fill, open, send, thorough, value,
};

const ACTIVE: &str = "topics/t/0/00000000000000000000-0.log";

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

fn created(disk: &Disk, durability: Durability) -> (Broker, Partition) {
    let broker = open(disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(durability)).unwrap();
    let partition = topic.partition(0).unwrap();
    (broker, partition)
}

fn length(disk: &Disk, path: impl AsRef<Path>) -> u64 {
    disk.files().iter().find(|(found, _)| found == path.as_ref()).unwrap().1
}

/// A broker with a bound on its directory, or a disk that has one. Returns how many records of 100
/// bytes there was room for, and the error of the next.
fn appended_until_refused(disk: &Disk, durability: Durability, budget: Option<u64>) -> (u64, Error) {
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1);
    let config = budget.into_iter().fold(config, |config, budget| config.disk_budget(budget));
    let broker = config.on_disk(disk).unwrap();
    let topic = TopicConfig::new().durability(durability).segment_bytes(64 << 10).max_record_bytes(1_000);
    let topic = broker.create_topic("t", topic).unwrap().partition(0).unwrap();
    let mut count = 0;
    loop {
        match send(&broker, &topic, &format!("{count:100}")) {
            Ok(_) => count += 1,
            Err(error) => return (count, error),
        }
    }
}

#[test]
fn most_durable_records_leave_the_length_of_the_file_unchanged() {
    let disk = Disk::new();
    let (broker, partition) = created(&disk, Durability::Sync);
    let mut lengths = BTreeSet::new();
    for end in 1..=1_000 {
        fill(&broker, &partition, end);
        let (len, size) = (length(&disk, ACTIVE), partition.stats().bytes);
        assert!(len >= size && len - size <= size.max(4096), "{size} of {len} bytes are the log's");
        lengths.insert(len);
    }
    // 4, 8, 16, .. 256 KiB; a sync may come to the end of the zeros.
    assert!(lengths.len() <= 14, "{lengths:?}");
    let bytes = disk.read(ACTIVE).unwrap();
    assert!(bytes[partition.stats().bytes as usize..].iter().all(|byte| *byte == 0));
    assert_filled(&partition, 1_000, "read while it is written");
}

#[test]
fn partitions_that_do_not_sync_have_no_zeros() {
    for durability in [Durability::Os, Durability::Interval(Duration::from_secs(1))] {
        let disk = Disk::new();
        let (broker, partition) = created(&disk, durability);
        for end in 1..=100 {
            fill(&broker, &partition, end);
            broker.sync().unwrap();
            assert_eq!(length(&disk, ACTIVE), partition.stats().bytes);
        }
    }
}

#[test]
fn large_batches_are_not_written_twice() {
    let disk = Disk::new();
    let (broker, partition) = created(&disk, Durability::Sync);
    for _ in 0..20 {
        broker.producer().send(&partition, Record::new(vec![7; 70_000])).unwrap().wait().unwrap();
        assert_eq!(length(&disk, ACTIVE), partition.stats().bytes);
    }
}

#[test]
fn appends_continue_in_the_zeros_after_a_kill_and_after_a_clean_close() {
    for is_clean in [false, true] {
        let disk = Disk::new();
        let (broker, partition_before) = created(&disk, Durability::Sync);
        fill(&broker, &partition_before, 100);
        let (len, size) = (length(&disk, ACTIVE), partition_before.stats().bytes);
        assert!(len > size + 4_000, "{size} of {len} bytes");
        if is_clean {
            broker.close().unwrap();
        } else {
            disk.crash(Survive::Everything);
        }
        let broker = open(&disk).unwrap();
        let report = broker.open_report();
        assert!(report.truncated_tails.is_empty() && report.damaged.is_empty(), "{report:?}");
        assert_eq!(partition(&broker).stats().bytes, size, "zeros are no bytes of the log");
        let writes = disk.ops_of(Op::Write);
        fill(&broker, &partition(&broker), 101);
        let least = disk.ops_of(Op::Write) - writes;
        for end in 102..=110 {
            let writes = disk.ops_of(Op::Write);
            fill(&broker, &partition(&broker), end);
            assert_eq!(disk.ops_of(Op::Write) - writes, 1, "the batch ({least} for the first)");
            assert_eq!(length(&disk, ACTIVE), len);
        }
        assert_filled(&partition(&broker), 110, "in the zeros");
    }
}

/// The zeros are the second write of the append that finds them due.
#[test]
fn zeros_that_cannot_be_written_fail_no_append() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge, ErrorKind::Other]
    {
        for torn in [false, true] {
            let disk = Disk::new();
            let (broker, written) = created(&disk, Durability::Sync);
            fill(&broker, &written, 1);
            let mut failed = 0;
            for end in 2..=300 {
                let writes = disk.ops_of(Op::Write);
                if torn {
                    disk.tear(2)
                } else {
                    disk.fail(Op::Write, 2, kind)
                }
                fill(&broker, &written, end);
                failed += disk.ops_of(Op::Write) - writes - 1;
                disk.clear_faults();
            }
            assert_eq!(failed, 1, "zeros were tried once, and then not for a mebibyte");
            disk.crash(Survive::Synced);
            let broker = open(&disk).unwrap();
            assert!(broker.open_report().truncated_tails.is_empty());
            assert_filled(&partition(&broker), 300, "after a failure");
        }
    }
}

#[test]
fn a_full_disk_takes_as_many_durable_records_as_others() {
    let count = |durability| {
        let disk = Disk::new();
        disk.capacity(400 << 10);
        let (count, error) = appended_until_refused(&disk, durability, None);
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        count
    };
    let (synced, plain) = (count(Durability::Sync), count(Durability::Os));
    // The manifest is replaced at other times.
    assert!(synced == plain && plain > 500, "{synced} durable records, and {plain} others");
}

#[test]
fn a_disk_budget_takes_as_many_durable_records_as_others() {
    let count = |durability| {
        let disk = Disk::new();
        let (count, error) = appended_until_refused(&disk, durability, Some(600 << 10));
        assert!(matches!(error, Error::OverBudget { .. }), "{error}");
        assert!(disk.files().iter().map(|(_, bytes)| bytes).sum::<u64>() <= 600 << 10);
        count
    };
    let (synced, plain) = (count(Durability::Sync), count(Durability::Os));
    // The manifest is replaced at other times.
    assert!(synced.abs_diff(plain) < 10 && plain > 500, "{synced} durable records, and {plain} others");
}

/// The journal has them too: they are no part of a record, for an opening or for `verify`.
#[test]
fn most_durable_transactions_leave_the_length_of_the_journal_unchanged() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync).partitions(2);
    let partitions = broker.create_topic("t", config).unwrap().partitions();
    let mut lengths = BTreeSet::new();
    for offset in 0..300 {
        let mut transaction = broker.transaction();
        for partition in &partitions {
            transaction.send(partition, Record::new(value(offset)));
        }
        transaction.commit().unwrap();
        lengths.insert(length(&disk, "journal"));
    }
    assert!(lengths.len() <= 20, "{lengths:?}");
    assert_eq!(disk.read("journal").unwrap().last(), Some(&0));
    drop(partitions);
    disk.crash(Survive::Everything);
    let report = disk.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let broker = open(&disk).unwrap();
    let report = broker.open_report();
    assert!(report.truncated_tails.is_empty() && report.damaged.is_empty(), "{report:?}");
    for partition in broker.topic("t").unwrap().partitions() {
        assert_filled(&partition, 300, "after a kill");
    }
    assert_eq!(length(&disk, "journal"), 32, "it was replaced by an empty one");
}

/// Retention by size counts the log's bytes.
#[test]
fn zeros_are_no_bytes_of_the_log_for_retention() {
    let starts = [Durability::Sync, Durability::Os].map(|durability| {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let config =
            TopicConfig::new().durability(durability).segment_bytes(64 << 10).max_record_bytes(1_000);
        let config = config.retention(Retention::for_bytes(150_000));
        let topic = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        fill(&broker, &topic, 2_000);
        topic.bounds().unwrap().log_start.get()
    });
    assert!(starts[0] == starts[1] && starts[0] > 500, "{starts:?}");
}

/// Rolled by age, so that zeros are left after the end of each sealed segment.
fn rolled(disk: &Disk) -> Broker {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync).segment_age(Duration::from_secs(3_600));
    let topic = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    for offset in 0..120 {
        if offset % 40 == 0 {
            clock.advance(Duration::from_secs(7_200));
        }
        let record = Record::new(value(offset)).timestamp(clock.now());
        broker.producer().send(&topic, record).unwrap().wait().unwrap();
    }
    broker
}

#[test]
fn zeros_stay_after_the_end_of_a_sealed_segment_and_are_no_records() {
    let disk = Disk::new();
    let broker = rolled(&disk);
    let segments = partition(&broker).segments();
    assert_eq!(segments.len(), 3);
    let paths = files(&disk, "topics/t/0", ".log");
    for (path, segment) in paths.iter().zip(&segments) {
        assert!(length(&disk, path) > segment.bytes + 1_000, "{path:?} has zeros after its {segment:?}");
    }
    assert_filled(&partition(&broker), 120, "mapped");
    broker.maintain().unwrap();
    assert_filled(&partition(&broker), 120, "synced and indexed");
    for is_clean in [false, true] {
        let disk = disk.duplicate();
        disk.crash(Survive::Everything);
        if is_clean {
            open(&disk).unwrap().close().unwrap();
        }
        let report = disk.verify(|_| ControlFlow::Continue(())).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_filled(&partition(&open(&disk).unwrap()), 120, "opened again");
    }
}

#[test]
fn a_salvage_copies_every_record_from_before_zeros_with_a_manifest_and_without() {
    for has_manifest in [true, false] {
        let disk = Disk::new();
        let broker = rolled(&disk);
        drop(broker);
        disk.crash(Survive::Everything);
        if !has_manifest {
            disk.remove("topics/t/0/manifest").unwrap();
        }
        let copy = Disk::new();
        let report = disk.salvage(&copy).unwrap();
        let broker = open(&copy).unwrap();
        assert_filled(&partition(&broker), 120, &format!("manifest: {has_manifest}, {report:?}"));
        let bounds = partition(&broker).bounds().unwrap();
        assert_eq!((bounds.log_start, bounds.log_end), (Offset::new(0), Offset::new(120)));
    }
}

/// Bytes after the end of a segment may be events from before a truncation. Zeros are none.
#[test]
fn erasing_a_stream_leaves_segments_without_it_unchanged() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let config = TopicConfig::streams().durability(Durability::Sync).segment_age(Duration::from_secs(3_600));
    let topic = broker.create_topic("t", config).unwrap();
    for key in ["first", "second", "third"] {
        for n in 0..10 {
            let event = Record::new(value(n)).timestamp(clock.now());
            topic.stream(key).unwrap().append(Version::new(n), [event]).unwrap();
        }
        clock.advance(Duration::from_secs(7_200));
    }
    let before = files(&disk, "topics/t/0", ".log");
    assert_eq!(before.len(), 3);
    assert_eq!(topic.erase_stream("first").unwrap(), 10);
    let after = files(&disk, "topics/t/0", ".log");
    assert_eq!(after[1..], before[1..], "the name has the generation");
    assert_ne!(after[0], before[0]);
}

/// A damaged batch before zeros: the others can be read, and the damage is not the zeros.
#[test]
fn damage_before_the_zeros_is_found_and_given_up_as_without_them() {
    let disk = Disk::new();
    let (broker, before) = created(&disk, Durability::Sync);
    fill(&broker, &before, 50);
    let position = before.stats().bytes;
    fill(&broker, &before, 60);
    assert!(length(&disk, ACTIVE) > before.stats().bytes + 100);
    disk.crash(Survive::Everything);
    disk.flip_bit(ACTIVE, (position - 10) * 8).unwrap();
    let broker = open(&disk).unwrap();
    let damaged = partition(&broker);
    assert_eq!(broker.open_report().damaged.len(), 1, "later batches attest that it was durable");
    let (found, error) = assert_prefix(&damaged, "up to the damage");
    assert!(found == 49 && matches!(error, Some(Error::Corrupt(_))), "{found}, {error:?}");
    let ranges = match damaged.accept_loss(&[]) {
        Err(Error::LossNotNamed { range, .. }) => vec![*range],
        other => panic!("{other:?}"),
    };
    assert_eq!((ranges[0].from, ranges[0].to), (Offset::new(49), Offset::new(50)));
    damaged.accept_loss(&ranges).unwrap();
    let bounds = damaged.bounds().unwrap();
    assert_eq!(bounds.log_end, 60);
    assert_eq!(send(&broker, &damaged, "after").unwrap().offset, 60);
}

/// Zeros are written and synced ahead, batches are written over them, and the power fails at each
/// operation: every durable record is there, and no byte of another one.
#[test]
fn a_power_loss_at_any_operation_leaves_the_durable_records() {
    let run = |disk: &Disk, acknowledged: &mut u64| -> Result<()> {
        let broker = open(disk)?;
        let topic = broker.ensure_topic("t", TopicConfig::new().durability(Durability::Sync))?;
        let topic = topic.partition(0)?;
        for offset in 0..24 {
            send(&broker, &topic, &value(offset))?;
            *acknowledged = offset + 1;
        }
        // Several batches that no sync divides.
        let many = (24..30).map(|offset| broker.producer().send(&topic, Record::new(value(offset))));
        let many: Vec<_> = many.collect::<Result<_>>()?;
        for pending in many {
            pending.wait()?;
        }
        *acknowledged = 30;
        Ok(())
    };
    let mut seen = BTreeSet::new();
    for nth in 1.. {
        let (disk, mut acknowledged) = (Disk::new(), 0);
        disk.crash_at(nth);
        let finished = run(&disk, &mut acknowledged).is_ok();
        let seeds = if thorough() { 40 } else { 6 };
        let ways = (0..seeds).flat_map(|seed| {
            let seed = nth * 1_000 + seed;
            [Survive::Random(seed), Survive::Zeroed(seed)]
        });
        let ways = [Survive::Synced, Survive::Everything].into_iter().chain(ways);
        after_each_crash(&disk, ways, &mut seen, |disk, survive| {
            let case = format!("operation {nth}, {survive:?}");
            let broker = open(disk).unwrap();
            assert!(broker.open_report().damaged.is_empty(), "{case}");
            let Ok(topic) = broker.topic("t") else {
                assert_eq!(acknowledged, 0, "{case}");
                return;
            };
            let topic = topic.partition(0).unwrap();
            let (end, error) = assert_prefix(&topic, &case);
            assert!(end >= acknowledged && error.is_none(), "{case}: {end} of {acknowledged}, {error:?}");
            fill(&broker, &topic, end + 3);
            disk.crash(Survive::Synced);
            assert_filled(&partition(&open(disk).unwrap()), end + 3, &case);
        });
        if finished {
            assert!(length(&disk, PathBuf::from(ACTIVE)) > 0);
            break;
        }
    }
}
