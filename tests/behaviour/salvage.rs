//! The undamaged records of a damaged directory are copied into another one, at the same offsets;
//! the missing ones are named, and nothing in the source is changed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::stats::{FindingKind, SalvageReport};
use quipu::testing::{Disk, Op, Survive, committed};
use quipu::{
    Broker, Cleanup, Durability, Error, Offset, Partition, Position, ProducerConfig, Record, SkipReason,
    Start, TopicConfig,
};

use crate::common::{at, crash_at_each_operation, files, fill, open, open_dir, small, snapshot, tree, value};

const SEGMENT_HEADER: usize = 128;
const BATCH_HEADER: usize = 104;
const RECORDS: u64 = 40;

/// A disk with two topics, a group and a producer that has a name.
fn filled(is_clean: bool) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let orders = broker.create_topic("Orders", small().durability(Durability::Sync).partitions(3)).unwrap();
    fill(&broker, &orders.partition(0).unwrap(), RECORDS);
    fill(&broker, &orders.partition(1).unwrap(), 5);
    let table =
        broker.create_topic("table", small().cleanup(Cleanup::Compact)).unwrap().partition(0).unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
    for n in 0..30 {
        named
            .send(&table, Record::new(value(n)).key(format!("{}", n % 7)).sequence(n + 1))
            .unwrap()
            .wait()
            .unwrap();
    }
    table.compact().unwrap().unwrap();
    broker.create_topic("unwritten", TopicConfig::new().partitions(2)).unwrap();
    let mut consumer = broker.consumer("group").subscribe(["Orders"]).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    consumer.commit(&records).unwrap();
    drop((consumer, records, named));
    let mut both = broker.transaction();
    both.send(orders.partition(1).unwrap(), Record::new("one"));
    both.send(orders.partition(2).unwrap(), Record::new("two"));
    both.commit().unwrap();
    broker.sync().unwrap();
    if is_clean {
        broker.close().unwrap();
    } else {
        disk.crash(Survive::Everything);
    }
    disk
}

/// Every record by topic and partition, and the ranges that were reported to readers as lost.
type All = (BTreeMap<(String, u32, u64), Vec<u8>>, Vec<(String, u32, u64, u64)>);

fn read_all(broker: &Broker) -> All {
    let (mut found, mut lost) = (BTreeMap::new(), Vec::new());
    for topic in broker.topics() {
        for partition in topic.partitions() {
            let of = (topic.name().to_string(), partition.id().get());
            let mut from = partition.bounds().unwrap().log_start;
            loop {
                let records = partition.read(Start::At(from), 1 << 10).unwrap();
                for skipped in records.skipped() {
                    assert_eq!(skipped.reason, SkipReason::Lost);
                    lost.push((of.0.clone(), of.1, skipped.from.get(), skipped.to.get()));
                    from = skipped.to;
                }
                if records.is_empty() && records.skipped().is_empty() {
                    break;
                }
                for record in &records {
                    let value = record.value().unwrap_or_default().to_vec();
                    found.insert((of.0.clone(), of.1, record.offset().get()), value);
                    from = record.offset().plus(1);
                }
            }
        }
    }
    (found, lost)
}

/// The content of an undamaged directory.
fn whole(disk: &Disk) -> All {
    read_all(&open(&disk.duplicate()).unwrap())
}

/// Salvages a disk, and opens the copy. The old one is as it was.
fn salvage(disk: &Disk, case: &str) -> (SalvageReport, Disk, Broker) {
    let before = snapshot(disk);
    let copy = Disk::new();
    let report = disk.salvage(&copy).unwrap();
    assert_eq!(snapshot(disk), before, "{case}: nothing is destroyed");
    copy.crash(Survive::Synced);
    let broker = open(&copy).unwrap();
    assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report());
    assert!(broker.open_report().truncated_tails.is_empty(), "{case}: {:?}", broker.open_report());
    (report, copy, broker)
}

/// The copy is one that lives: it can be appended to, closed, opened, and has nothing damaged in
/// it.
fn assert_lives(copy: &Disk, broker: Broker, case: &str) {
    for topic in broker.topics() {
        for partition in topic.partitions() {
            let end = partition.bounds().unwrap().log_end;
            let sent =
                broker.producer().send(&partition, Record::new("more").key("k")).unwrap().wait().unwrap();
            assert_eq!(sent.offset, end, "{case}");
        }
    }
    let all = read_all(&broker);
    broker.close().unwrap();
    let verified = copy.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(verified.is_whole() && verified.findings.is_empty(), "{case}: {verified:?}");
    let broker = open(copy).unwrap();
    assert!(broker.open_report().clean, "{case}: {:?}", broker.open_report());
    assert_eq!(read_all(&broker), all, "{case}");
}

#[test]
fn of_a_whole_directory_everything_is_copied() {
    for is_clean in [true, false] {
        let case = format!("closed: {is_clean}");
        let disk = filled(is_clean);
        let expected = whole(&disk);
        let (report, copy, broker) = salvage(&disk, &case);
        assert!(
            report.lost.is_empty() && report.findings.is_empty() && report.notes.is_empty(),
            "{report:?}"
        );
        assert_eq!(read_all(&broker), expected, "{case}");
        let topics: Vec<_> = report.topics.iter().map(|(name, files)| (name.as_str(), *files)).collect();
        assert_eq!(topics, [("Orders", 3), ("__consumer_offsets", 1), ("table", 1), ("unwritten", 0)]);
        assert!(report.records > 50, "{report:?}");

        let old = open(&disk.duplicate()).unwrap();
        for topic in broker.topics() {
            let was = old.topic(topic.name().as_str()).unwrap();
            assert_eq!((topic.config(), topic.created_at()), (was.config(), was.created_at()), "{case}");
            for (partition, was) in topic.partitions().iter().zip(was.partitions()) {
                assert_eq!(partition.bounds().unwrap().log_end, was.bounds().unwrap().log_end, "{case}");
                // An unwritten one has no history that could be another one.
                let is_written = was.bounds().unwrap().log_end > Offset::ZERO;
                assert_eq!(partition.epoch() > was.epoch(), is_written, "{case}: a history of its own");
            }
        }
        assert_eq!(committed(&broker, "group").unwrap(), committed(&old, "group").unwrap());
        // A position of the old directory, within the log, is good in the copy.
        let position: Position = "Orders/0@20#0".parse().unwrap();
        let mut reader = broker.reader_at(&[position]).unwrap();
        assert_eq!(reader.poll(Duration::ZERO).unwrap().iter().next().unwrap().offset(), 20);
        // A duplicate of an idempotent producer is recognised.
        let named = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
        let table = broker.topic("table").unwrap().partition(0).unwrap();
        named.send(&table, Record::new(value(29)).key("1").sequence(30)).unwrap().wait().unwrap();
        assert_eq!(table.bounds().unwrap().log_end, 30);
        assert_lives(&copy, broker, &case);
    }
}

fn orders(broker: &Broker) -> Partition {
    broker.topic("Orders").unwrap().partition(0).unwrap()
}

/// The position of a batch in the middle of a segment, and its offset.
fn middle(segment: &[u8]) -> (usize, u64) {
    let (mut position, mut all) = (SEGMENT_HEADER, Vec::new());
    while segment.len() >= position + BATCH_HEADER {
        let body = u32::from_le_bytes(segment[position + 4..position + 8].try_into().unwrap()) as usize;
        all.push((position, u64::from_le_bytes(segment[position + 8..position + 16].try_into().unwrap())));
        position += BATCH_HEADER + body;
    }
    all[all.len() / 2]
}

#[test]
fn every_whole_record_of_a_damaged_partition_is_at_its_offset_and_the_rest_is_named() {
    let disk = filled(true);
    let expected = whole(&disk).0;
    let segments = files(&disk, "topics/%orders/0", ".log");
    for (at, path) in segments.iter().enumerate() {
        let (position, offset) = middle(&disk.read(path).unwrap());
        for (part, byte) in
            [("segment header", 30), ("header", position + 20), ("body", position + BATCH_HEADER + 3)]
        {
            let case = format!("{part} in segment {at}");
            let disk = disk.duplicate();
            disk.flip_bit(path, byte as u64 * 8).unwrap();
            let (report, copy, broker) = salvage(&disk, &case);
            assert_eq!(report.lost.len(), 1, "{case}: {report:?}");
            let lost = &report.lost[0];
            assert!(lost.file.ends_with(path), "{case}: {lost:?}");
            let (found, told) = read_all(&broker);
            if part == "segment header" {
                assert_eq!((found, told.len(), lost.to), (expected.clone(), 0, lost.from), "{case}");
            } else {
                assert_eq!((lost.from.get(), lost.to.get()), (offset, offset + 1), "{case}");
                let without: BTreeMap<_, _> = expected
                    .iter()
                    .filter(|((topic, partition, at), _)| {
                        (topic.as_str(), *partition, *at) != ("Orders", 0, offset)
                    })
                    .map(|(at, value)| (at.clone(), value.clone()))
                    .collect();
                assert_eq!(found, without, "{case}");
                assert_eq!(told, [("Orders".to_string(), 0, offset, offset + 1)], "{case}");
            }
            assert_eq!(orders(&broker).bounds().unwrap().log_end, RECORDS, "{case}");
            assert_lives(&copy, broker, &case);
        }
    }
}

#[test]
fn a_missing_segment_is_a_gap() {
    let disk = filled(true);
    let path = files(&disk, "topics/%orders/0", ".log").remove(1);
    disk.remove(&path).unwrap();
    let (report, copy, broker) = salvage(&disk, "missing");
    let lost = &report.lost[0];
    let (found, told) = read_all(&broker);
    assert_eq!(told, [("Orders".to_string(), 0, lost.from.get(), lost.to.get())]);
    let of_orders =
        found.keys().filter(|(topic, partition, _)| topic == "Orders" && *partition == 0).count() as u64;
    assert_eq!(of_orders + lost.to.since(lost.from), RECORDS);
    assert_lives(&copy, broker, "missing");
}

#[test]
fn a_manifest_is_made_again_of_the_segments() {
    for is_clean in [true, false] {
        for missing in [true, false] {
            let case = format!("closed: {is_clean}, missing: {missing}");
            let disk = filled(is_clean);
            let expected = whole(&disk);
            for manifest in ["topics/%orders/0/manifest", "topics/table/0/manifest"] {
                if missing {
                    disk.remove(manifest).unwrap();
                } else {
                    disk.flip_bit(manifest, 500).unwrap();
                }
            }
            let (report, copy, broker) = salvage(&disk, &case);
            assert!(report.lost.is_empty(), "{case}: {report:?}");
            let damaged: Vec<_> =
                report.findings.iter().map(|found| (found.kind, found.topic.clone())).collect();
            assert_eq!(damaged.len(), 2, "{case}: {report:?}");
            assert!(
                damaged.iter().all(|(kind, topic)| *kind == FindingKind::Damage && topic.is_some()),
                "{case}"
            );
            assert_eq!(report.notes.len(), 2, "{case}: {report:?}");
            assert_eq!(read_all(&broker), expected, "{case}");
            assert_lives(&copy, broker, &case);
        }
    }
}

/// Without a catalog the names are those of the directories; with the one before it more is known.
#[test]
fn topics_are_found_without_their_catalog() {
    for (with_old, missing) in [(true, true), (true, false), (false, true), (false, false)] {
        let case = format!("catalog.old: {with_old}, missing: {missing}");
        let disk = filled(true);
        if with_old {
            let broker = open(&disk).unwrap();
            // A change, so that the broker was not closed properly.
            broker.producer_with(quipu::ProducerConfig::new().name("passing")).unwrap();
            disk.crash(Survive::Everything);
            drop(broker);
            // This opening replaces the catalog.
            open(&disk).unwrap().close().unwrap();
        }
        let expected = whole(&disk);
        assert_eq!(disk.read("catalog.old").is_ok(), with_old, "{case}");
        if missing {
            disk.remove("catalog").unwrap();
        } else {
            disk.flip_bit("catalog", 800).unwrap();
        }
        assert!(open(&disk.duplicate()).is_err(), "{case}: a damaged catalog keeps the broker closed");
        let (report, copy, broker) = salvage(&disk, &case);
        assert!(report.lost.is_empty(), "{case}: {report:?}");
        assert_eq!(report.findings.len(), 1, "{case}: {report:?}");
        assert!(report.findings[0].file.ends_with("catalog"), "{case}");
        assert!(!report.notes.is_empty(), "{case}: it reports the assumption");
        assert_eq!(read_all(&broker).0, expected.0, "{case}");
        let config = broker.topic("Orders").unwrap().config();
        let was = small().durability(Durability::Sync).partitions(3);
        assert_eq!(config == was, with_old, "{case}: {config:?} {was:?}, {:?}", report.notes);
        assert_eq!(broker.topic("unwritten").is_ok(), with_old, "{case}");
        assert_eq!(committed(&broker, "group").unwrap().len(), 2, "{case}");
        if with_old {
            let named = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
            let table = broker.topic("table").unwrap().partition(0).unwrap();
            named.send(&table, Record::new(value(29)).key("1").sequence(30)).unwrap().wait().unwrap();
            assert_eq!(table.bounds().unwrap().log_end, 30, "{case}");
        }
        assert_lives(&copy, broker, &case);
    }
}

#[test]
fn a_damaged_journal_is_left_out() {
    let disk = filled(false);
    let expected = whole(&disk);
    disk.flip_bit("journal", 200).unwrap();
    let (report, copy, broker) = salvage(&disk, "journal");
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(report.findings[0].file.ends_with("journal") && report.notes.len() == 1, "{report:?}");
    assert_eq!(read_all(&broker), expected);
    assert_lives(&copy, broker, "journal");
}

/// A transaction of which a power loss took one batch is made whole by the opening of the copy, as
/// by that of the original.
#[test]
fn the_copys_opening_settles_transactions() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    for partition in topic.partitions() {
        fill(&broker, &partition, 3);
    }
    broker.sync().unwrap();
    let mut both = broker.transaction();
    both.send(topic.partition(0).unwrap(), Record::new("one"));
    both.send(topic.partition(1).unwrap(), Record::new("two"));
    both.commit().unwrap();
    disk.crash(Survive::Everything);
    let segment = files(&disk, "topics/t/1", ".log").remove(0);
    let len = disk.read(&segment).unwrap().len() as u64;
    disk.truncate(&segment, len - 1).unwrap();
    let expected = whole(&disk);
    assert_eq!(expected.0.len(), 8);
    let (report, copy, broker) = salvage(&disk, "torn");
    assert!(report.lost.is_empty() && report.notes.len() == 1, "{report:?}");
    assert_eq!(read_all(&broker), expected);
    assert_lives(&copy, broker, "torn");
}

#[test]
fn groups_are_salvaged_with_their_undamaged_commits() {
    let disk = filled(true);
    let path = files(&disk, "topics/__consumer_offsets/0", ".log").remove(0);
    disk.flip_bit(&path, (SEGMENT_HEADER + 30) as u64 * 8).unwrap();
    assert!(committed(&open(&disk.duplicate()).unwrap(), "group").is_err());
    let (report, copy, broker) = salvage(&disk, "offsets");
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert_eq!(committed(&broker, "group").unwrap().len(), 2);
    assert_lives(&copy, broker, "offsets");
}

#[test]
fn a_target_that_is_not_empty_and_a_source_that_is_open_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let error = Broker::salvage(&from, &to).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && !to.exists(), "{error}");
    let broker = open_dir(&from).unwrap();
    let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &p, 20);
    let error = Broker::salvage(&from, &to).unwrap_err();
    assert!(matches!(error, Error::AlreadyOpen { .. }), "{error}");
    broker.close().unwrap();
    std::fs::create_dir_all(&to).unwrap();
    std::fs::write(to.join("mine"), "precious").unwrap();
    let error = Broker::salvage(&from, &to).unwrap_err();
    assert!(matches!(&error, Error::ForeignDirectory { found, .. } if found == "mine"), "{error}");
    std::fs::remove_file(to.join("mine")).unwrap();
    let before = tree(&from);
    Broker::salvage(&from, &to).unwrap();
    assert_eq!(tree(&from), before);
    let broker = open_dir(&to).unwrap();
    let p = broker.topic("t").unwrap().partition(0).unwrap();
    crate::common::assert_filled(&p, 20, "on a file system");
    // A salvaged directory may have been used since.
    drop((broker, p));
    let error = Broker::salvage(&from, &to).unwrap_err();
    assert!(matches!(error, Error::ForeignDirectory { .. }), "{error}");
}

/// A copy that was interrupted is never taken for a whole one.
#[test]
fn an_interrupted_copy_is_no_broker() {
    let disk = filled(true);
    let expected = whole(&disk);
    let count = {
        let copy = Disk::new();
        disk.salvage(&copy).unwrap();
        copy.ops()
    };
    for nth in 1..=count {
        for survive in [Survive::Synced, Survive::Everything] {
            let copy = Disk::new();
            copy.crash_at(nth);
            let is_done = disk.salvage(&copy).is_ok();
            copy.crash(survive);
            match open(&copy) {
                // Before anything of it was durable there is nothing at all, or all of it.
                Ok(broker) => {
                    let found = read_all(&broker);
                    assert!(
                        found == expected || (found.0.is_empty() && broker.topics().is_empty()),
                        "operation {nth}"
                    );
                }
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt(_)) && !is_done, "operation {nth}: {error}")
                }
            }
        }
    }
    assert!(count > 50);
}

#[test]
fn a_full_disk_is_reported() {
    let disk = filled(true);
    let copy = Disk::new();
    copy.fail_always(Op::Write, 20, std::io::ErrorKind::StorageFull);
    let error = disk.salvage(&copy).unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
}

#[test]
fn the_log_start_and_the_gaps_of_a_truncated_log_are_kept() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &p, 40);
    p.truncate_to(Offset::new(33)).unwrap();
    fill(&broker, &p, 38);
    p.delete_records(Offset::new(4)).unwrap();
    broker.close().unwrap();
    let expected = whole(&disk);
    let path: PathBuf = files(&disk, "topics/t/0", ".log").remove(1);
    assert!(Path::new(&path).starts_with("topics"));
    let (report, copy, broker) = salvage(&disk, "truncated");
    assert!(report.lost.is_empty(), "{report:?}");
    assert_eq!(read_all(&broker), expected);
    let p = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!((p.bounds().unwrap().log_start.get(), p.bounds().unwrap().log_end.get()), (4, 38));
    assert!(p.read(at(3), 1).is_err());
    // A position from before the truncation is not taken for a current one.
    let mut reader = broker.reader_at(&["t/0@36#0".parse().unwrap()]).unwrap();
    let skipped = reader.poll(Duration::ZERO).unwrap().skipped()[0].clone();
    assert!(matches!(skipped.reason, SkipReason::Truncated { at, .. } if at == 33), "{skipped}");
    crash_at_each_operation(&copy.duplicate(), open, |disk, _| {
        disk.crash(Survive::Synced);
        assert_eq!(read_all(&open(disk).unwrap()), expected);
    });
}
