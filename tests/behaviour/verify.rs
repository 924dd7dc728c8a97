//! A directory can be checked without opening it: every damage is named, with file, position and
//! offsets, and nothing is changed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::stats::{Finding, FindingKind, VerifyReport};
use quipu::testing::{Disk, Survive};
use quipu::{Broker, Cleanup, Compression, Durability, Error, Offset, ProducerConfig, Record, TopicConfig};

use crate::common::{files, fill, open, open_dir, send, small, snapshot, thorough, tree, value};

const SEGMENT_HEADER: usize = 128;
const BATCH_HEADER: usize = 104;

fn verify(disk: &Disk) -> VerifyReport {
    let before = snapshot(disk);
    let report = disk.verify(|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(snapshot(disk), before, "nothing is changed");
    assert!(report.complete);
    report
}

/// A disk with everything that a directory can hold.
fn rich() -> (Disk, Broker) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let plain = broker.create_topic("plain", small().durability(Durability::Sync).partitions(2)).unwrap();
    fill(&broker, &plain.partition(0).unwrap(), 40);
    let packed = broker.create_topic("packed", small().compression(Compression::Lz4)).unwrap();
    for n in 0..10 {
        let many = (0..4).map(|i| Record::new(format!("packed {n} {i} {}", "z".repeat(40))));
        broker.producer().send_all(&packed, many).unwrap().wait().unwrap();
    }
    let table =
        broker.create_topic("table", small().cleanup(Cleanup::Compact)).unwrap().partition(0).unwrap();
    for n in 0..40 {
        broker
            .producer()
            .send(&table, Record::new(value(n)).key(format!("{}", n % 5)))
            .unwrap()
            .wait()
            .unwrap();
    }
    table.compact().unwrap().unwrap();
    let streams = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700);
    let streams = broker.create_topic("Streams", streams).unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
    for n in 0..20 {
        named.send(&streams, Record::new(value(n)).key("k").sequence(n + 1)).unwrap().wait().unwrap();
    }
    let mut both = broker.transaction();
    both.send(plain.partition(0).unwrap(), Record::new("one"));
    both.send(plain.partition(1).unwrap(), Record::new("two"));
    both.commit().unwrap();
    let mut consumer = broker.consumer("group").subscribe(["plain"]).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    consumer.commit(&records).unwrap();
    drop(consumer);
    table.delete_records(Offset::new(1)).unwrap_err();
    // At the beginning of a segment: of one that is shortened, the bytes after its end belong to no
    // record.
    let p = plain.partition(0).unwrap();
    p.truncate_to(p.segments().last().unwrap().base_offset).unwrap();
    broker.maintain().unwrap();
    (disk, broker)
}

#[test]
fn a_whole_directory_has_no_findings() {
    for is_clean in [true, false] {
        let (disk, broker) = rich();
        if is_clean {
            broker.close().unwrap();
        } else {
            broker.sync().unwrap();
            disk.crash(Survive::Everything);
        }
        let report = verify(&disk);
        assert_eq!(report.findings, [], "closed: {is_clean}");
        assert_eq!(report.notes, Vec::<String>::new());
        assert!(report.is_whole());
        assert_eq!(report.partitions, 6);
        assert!(report.records > 100 && report.batches > 70, "{report:?}");
        let bytes: u64 = disk.files().iter().map(|(_, len)| len).sum();
        assert_eq!(report.bytes, bytes);
    }
}

#[test]
fn a_directory_without_a_broker_gets_none() {
    let dir = tempfile::tempdir().unwrap();
    let report = Broker::verify(dir.path(), |_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_whole() && report.notes == ["there is no broker in this directory"]);
    assert!(tree(dir.path()).is_empty(), "not even a lock file");
    let error = Broker::verify(dir.path().join("missing"), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_directory_that_a_broker_has_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open_dir(dir.path()).unwrap();
    let error = Broker::verify(dir.path(), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::AlreadyOpen { .. }), "{error}");
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.close().unwrap();
    let before = tree(dir.path());
    assert!(Broker::verify(dir.path(), |_| ControlFlow::Continue(())).unwrap().is_whole());
    assert_eq!(tree(dir.path()), before);

    // A copy without the lock file.
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    let before = tree(dir.path());
    assert!(Broker::verify(dir.path(), |_| ControlFlow::Continue(())).unwrap().is_whole());
    assert_eq!(tree(dir.path()), before, "none is made");
}

/// The findings about a file.
fn about<'r>(report: &'r VerifyReport, path: &Path) -> Vec<&'r Finding> {
    report.findings.iter().filter(|finding| finding.file.ends_with(path)).collect()
}

#[test]
fn every_damage_of_a_segment_is_named_with_its_offsets_also_in_one_that_was_synced_long_ago() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &p, 40);
    broker.close().unwrap();
    let segments = files(&disk, "topics/t/0", ".log");
    for path in &segments {
        let content = disk.read(path).unwrap();
        let (mut position, mut at) = (SEGMENT_HEADER, Vec::new());
        while position < content.len() {
            let body = u32::from_le_bytes(content[position + 4..position + 8].try_into().unwrap()) as usize;
            let base = u64::from_le_bytes(content[position + 8..position + 16].try_into().unwrap());
            at.push((base, position, BATCH_HEADER + body));
            position += BATCH_HEADER + body;
        }
        for (base, position, len) in &at {
            for byte in [0, 10, 101, BATCH_HEADER, len - 1] {
                let disk = disk.duplicate();
                disk.flip_bit(path, (position + byte) as u64 * 8 + 1).unwrap();
                let report = verify(&disk);
                let found = about(&report, path);
                assert_eq!(
                    (found.len(), report.findings.len()),
                    (1, 1),
                    "{path:?} {base} {byte}: {report:?}"
                );
                let found = found[0];
                assert_eq!(found.kind, FindingKind::Damage);
                assert_eq!((found.position, found.bytes), (*position as u64, *len as u64), "{found:?}");
                assert_eq!(found.offsets, Some((Offset::new(*base), Offset::new(base + 1))), "{found:?}");
                assert_eq!(found.topic.as_ref().map(|topic| topic.as_str()), Some("t"));
                assert_eq!(found.partition.map(|partition| partition.get()), Some(0));
                assert_eq!(found.invariant, Some(2), "{found:?}");
                assert!(!report.is_whole() && !found.what.is_empty());
                assert_eq!(report.records, 39, "the others are looked at all the same");
            }
        }
        let lost = disk.duplicate();
        lost.remove(path).unwrap();
        let report = verify(&lost);
        let found = about(&report, path)[0];
        let (first, last) = (at[0].0, at.last().unwrap().0);
        assert_eq!(found.offsets, Some((Offset::new(first), Offset::new(last + 1))), "{found:?}");
        assert_eq!(found.invariant, Some(1));
    }
}

/// Whatever an opening finds damaged, or a reader, is found here, and in derived files more than
/// either.
#[test]
fn every_flipped_bit_of_a_used_file_is_found() {
    let (disk, broker) = rich();
    broker.close().unwrap();
    let mut random = crate::common::Random(7);
    let mut kinds = std::collections::BTreeMap::new();
    for (path, len) in disk.files() {
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        // The reserve holds no data.
        if len == 0 || ["LOCK", "catalog.old", "reserve"].contains(&name.as_str()) {
            continue;
        }
        let tries = if thorough() { len * 8 } else { 24 };
        for nth in 0..tries {
            let bit = if thorough() { nth } else { random.below(len * 8) };
            let disk = disk.duplicate();
            disk.flip_bit(&path, bit).unwrap();
            let case = format!("bit {bit} of {}", path.display());
            let report = match disk.verify(|_| ControlFlow::Continue(())) {
                Ok(report) => report,
                // Another version of the catalog.
                Err(error) => {
                    assert!(matches!(error, Error::UnsupportedFormat { .. }), "{case}: {error}");
                    continue;
                }
            };
            // The bits of an unused checkpoint or of compatible features are noted only.
            assert!(!report.findings.is_empty() || !report.notes.is_empty(), "{case}");
            let is_derived = ["index", "keys", "producers", "checkpoint", "journal"]
                .iter()
                .any(|kind| name.ends_with(kind));
            let is_lost = report.findings.iter().any(|found| found.kind == FindingKind::Damage);
            assert!(!is_derived || !is_lost, "{case}: {report:?}");
            assert!(is_derived || !report.is_whole(), "{case}: {report:?}");
            for found in report.findings {
                *kinds.entry(format!("{:?}", found.kind)).or_insert(0) += 1;
            }
        }
    }
    assert!(kinds["Damage"] > 100 && kinds["Derived"] > 100, "{kinds:?}");
}

#[test]
fn a_torn_tail_is_distinguished_from_damage() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill(&broker, &p, 6);
    disk.crash(Survive::Everything);
    let segment = files(&disk, "topics/t/0", ".log").remove(0);
    let len = disk.read(&segment).unwrap().len() as u64;
    disk.truncate(&segment, len - 3).unwrap();
    let report = verify(&disk);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    let found = &report.findings[0];
    assert_eq!(found.kind, FindingKind::TornTail);
    assert_eq!(found.offsets, Some((Offset::new(5), Offset::new(6))));
    assert!(report.is_whole(), "the next opening truncates it");
    let broker = open(&disk).unwrap();
    assert_eq!(broker.open_report().truncated_tails[0].position, found.position);
    broker.close().unwrap();
    let report = verify(&disk);
    assert_eq!((report.findings.len(), report.notes.len()), (0, 1), "the kept bytes are named: {report:?}");
}

#[test]
fn a_transaction_that_opening_will_settle_is_no_damage() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let mut both = broker.transaction();
    both.send(topic.partition(0).unwrap(), Record::new("one"));
    both.send(topic.partition(1).unwrap(), Record::new("two"));
    both.commit().unwrap();
    broker.sync().unwrap();
    disk.crash(Survive::Everything);
    let report = verify(&disk);
    assert!(report.findings.is_empty(), "{report:?}");
    // Its record is torn: no batch of it counts.
    let len = disk.read("journal").unwrap().len() as u64;
    disk.truncate("journal", len - 1).unwrap();
    let report = verify(&disk);
    let kinds: Vec<_> = report.findings.iter().map(|found| (found.kind, found.invariant)).collect();
    let torn = FindingKind::TornTail;
    assert_eq!(kinds, [(torn, Some(1)), (torn, Some(13)), (torn, Some(13))], "{report:?}");
}

#[test]
fn progress_reaches_the_end_and_can_end_it() {
    let (disk, broker) = rich();
    broker.close().unwrap();
    let (mut last, mut calls) = (0, 0);
    let report = disk
        .verify(|at| {
            assert!(at.done >= last && at.done <= at.total, "{at:?}");
            (last, calls) = (at.done, calls + 1);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(report.complete && last == report.bytes && calls > 5, "{calls} calls");
    for until in 1..calls {
        let mut calls = 0;
        let report = disk
            .verify(|_| {
                calls += 1;
                if calls == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert!(!report.complete && !report.is_whole() && calls == until);
    }
    assert!(open(&disk).unwrap().open_report().clean, "the lock is free, and nothing has changed");
}

#[test]
fn a_damaged_catalog_does_not_keep_the_rest_from_being_checked() {
    let (disk, broker) = rich();
    broker.close().unwrap();
    let whole = verify(&disk);
    for remove in [false, true] {
        let disk = disk.duplicate();
        if remove {
            disk.remove("catalog").unwrap();
        } else {
            disk.flip_bit("catalog", 900).unwrap();
        }
        let segment = files(&disk, "topics/plain/0", ".log").remove(0);
        disk.flip_bit(&segment, 3_000).unwrap();
        let report = verify(&disk);
        assert!(!report.is_whole());
        assert!(!about(&report, Path::new("catalog")).is_empty(), "{report:?}");
        assert_eq!(about(&report, &segment).len(), 1, "{report:?}");
        assert_eq!(report.partitions, whole.partitions, "{report:?}");
        assert!(report.records + 1 >= whole.records - 1, "{} of {}", report.records, whole.records);
    }
}

#[test]
fn unknown_files_are_noted() {
    let (disk, broker) = rich();
    broker.close().unwrap();
    let strange: [PathBuf; 4] = [
        "notes.txt".into(),
        "topics/plain/0/notes.txt".into(),
        "topics/plain/0/00000000000000000007-0.log".into(),
        "topics/other/0/x".into(),
    ];
    for path in &strange {
        disk.write_new(path, b"abc").unwrap();
    }
    let report = verify(&disk);
    assert!(report.is_whole() && report.findings.is_empty(), "{report:?}");
    assert_eq!(report.notes.len(), strange.len(), "{:?}", report.notes);
}

#[test]
fn accepted_losses_are_no_damage() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &p, 40);
    broker.close().unwrap();
    let segment = files(&disk, "topics/t/0", ".log").remove(1);
    disk.flip_bit(&segment, (SEGMENT_HEADER + 20) as u64 * 8).unwrap();
    assert!(!verify(&disk).is_whole());
    let broker = open(&disk).unwrap();
    let p = broker.topic("t").unwrap().partition(0).unwrap();
    p.accept_loss(&p.damage().unwrap()).unwrap();
    fill(&broker, &p, 45);
    broker.close().unwrap();
    let report = verify(&disk);
    assert!(report.is_whole() && report.findings.is_empty(), "{report:?}");
    assert_eq!(report.records, 44);
}

#[test]
fn a_batch_without_its_end_is_damage_up_to_the_end_of_the_file() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &p, 40);
    broker.close().unwrap();
    let path = files(&disk, "topics/t/0", ".log").remove(1);
    let left = (BATCH_HEADER + 5) as u64;
    disk.truncate(&path, SEGMENT_HEADER as u64 + left).unwrap();
    let report = verify(&disk);
    let found = about(&report, &path);
    let bytes: Vec<_> = found.iter().map(|found| (found.position, found.bytes)).collect();
    assert_eq!(bytes, [(SEGMENT_HEADER as u64, left), (SEGMENT_HEADER as u64 + left, 0)], "{report:?}");
}

/// Every batch and the header of the segment are whole, and belong to the partition.
#[test]
fn a_sealed_segment_with_other_batches_than_the_manifest_lists_is_damage() {
    let written = |letter: &str| {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
        for _ in 0..20 {
            send(&broker, &p, &letter.repeat(100)).unwrap();
        }
        broker.close().unwrap();
        disk
    };
    let (disk, other) = (written("a"), written("b"));
    let path = files(&disk, "topics/t/0", ".log").remove(0);
    disk.overwrite(&path, 0, &other.read(&path).unwrap()).unwrap();
    let report = verify(&disk);
    let found = about(&report, &path);
    assert_eq!(found.len(), 1, "{report:?}");
    assert_eq!((found[0].kind, found[0].invariant), (FindingKind::Damage, Some(6)), "{report:?}");
}
