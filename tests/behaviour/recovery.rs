//! The state after an unclean stop, the report of what is missing, and how much is read again to
//! find out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Broker, Durability, Error, OffsetReset, Partition, Position, Record, SkipReason, Start, TopicConfig,
};

use crate::common::{
    Random, assert_filled, assert_prefix, at, files, fill, make_files, open, read, send, small, snapshot,
    value,
};

/// The active segment of topics with one segment.
const ACTIVE: &str = "topics/t/0/00000000000000000000-0.log";
const SEGMENT_HEADER: u64 = 128;
const BATCH_HEADER: u64 = 104;

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

/// A killed process's disk with `records` in one segment that nothing was synced of, and where each
/// batch ends.
fn unsynced(records: u64) -> (Disk, Vec<u64>) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let mut ends = vec![SEGMENT_HEADER];
    for end in 1..=records {
        fill(&broker, &partition, end);
        ends.push(partition.stats().bytes);
    }
    disk.crash(Survive::Everything);
    (disk, ends)
}

/// A killed process's disk with several segments of records that were acknowledged one by one as
/// durable.
fn synced(records: u64, config: TopicConfig) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", config.durability(Durability::Sync).partitions(2)).unwrap();
    for partition in topic.partitions() {
        fill(&broker, &partition, records);
    }
    disk.crash(Survive::Everything);
    disk
}

// -- torn tails (Kafka's `LogSegment.recover`) --

#[test]
fn a_tail_torn_at_any_byte_leaves_whole_batches_and_the_truncation_is_reported() {
    let (whole, ends) = unsynced(6);
    let len = *ends.last().unwrap();
    let mut cuts = 0;
    // Of a file that ends within its header see below.
    for torn in SEGMENT_HEADER..=len {
        let disk = whole.duplicate();
        disk.truncate(ACTIVE, torn).unwrap();
        let lost = disk.read(ACTIVE).unwrap();
        let case = format!("{torn} of {len} bytes");
        let broker = open(&disk).unwrap();
        let report = broker.open_report();
        assert!(report.damaged.is_empty() && !report.clean, "{case}: {report:?}");
        let whole_batches = ends.iter().filter(|end| **end <= torn).count().saturating_sub(1) as u64;
        let boundary = ends[whole_batches as usize];
        assert_filled(&partition(&broker), whole_batches, &case);

        let is_cut = torn > boundary;
        assert_eq!(report.truncated_tails.len(), usize::from(is_cut), "{case}");
        assert_eq!(
            partition(&broker).epoch(),
            u32::from(is_cut),
            "{case}: the epoch rises when something was truncated"
        );
        if is_cut {
            cuts += 1;
            let cut = &report.truncated_tails[0];
            assert_eq!((cut.topic.as_str(), cut.partition.get()), ("t", 0));
            assert!(cut.file.ends_with(ACTIVE) && !cut.reason.is_empty(), "{case}: {cut:?}");
            assert_eq!((cut.position, cut.from.get()), (boundary, whole_batches), "{case}");
            let kept = disk.read(relative(cut.kept.as_ref().unwrap())).unwrap();
            let bytes = &lost[boundary as usize..];
            assert!(bytes.starts_with(&kept) && bytes[kept.len()..].iter().all(|byte| *byte == 0), "{case}");
            assert_eq!(cut.bytes, kept.len() as u64, "{case}: all but trailing zeros");
            let seen = torn - boundary >= BATCH_HEADER;
            assert_eq!(
                cut.to.map(|to| to.get()),
                seen.then_some(whole_batches + 1),
                "{case}: the header's field"
            );
        }
        let recovered = report.recovered.iter().find(|r| r.partition.get() == 0).unwrap();
        assert_eq!((recovered.from.get(), recovered.to.get()), (0, whole_batches), "{case}");

        // Appends continue at the end, and the next opening has nothing to report.
        fill(&broker, &partition(&broker), whole_batches + 2);
        disk.crash(Survive::Everything);
        let again = open(&disk).unwrap();
        assert!(
            again.open_report().truncated_tails.is_empty() && again.open_report().damaged.is_empty(),
            "{case}"
        );
        assert_filled(&partition(&again), whole_batches + 2, &case);
        assert_eq!(partition(&again).epoch(), u32::from(is_cut), "{case}");
    }
    assert_eq!(
        cuts,
        len - SEGMENT_HEADER + 1 - ends.len() as u64,
        "every length but the header's and the batches'"
    );
}

/// The path of a file on the disk from the one in a message.
fn relative(path: &Path) -> PathBuf {
    path.strip_prefix("mem:/").unwrap().to_path_buf()
}

#[test]
fn garbage_after_the_end_is_truncated_kept_aside_and_reported() {
    let (whole, ends) = unsynced(4);
    let end = *ends.last().unwrap();
    let (batch, mut random) = (whole.read(ACTIVE).unwrap(), Random(5));
    let noise: Vec<u8> = (0..700).map(|_| random.next() as u8).collect();
    let cases = [
        ("one byte", vec![7]),
        ("noise", noise),
        ("zeros, then a byte", [vec![0; 300], vec![1]].concat()),
        ("a header's beginning", b"QBAT".to_vec()),
        ("an old batch again", batch[SEGMENT_HEADER as usize..ends[1] as usize].to_vec()),
        ("the last batch again", batch[ends[3] as usize..].to_vec()),
        ("a segment's header", batch[..SEGMENT_HEADER as usize].to_vec()),
    ];
    for (case, garbage) in cases {
        let disk = whole.duplicate();
        disk.overwrite(ACTIVE, end, &garbage).unwrap();
        let broker = open(&disk).unwrap();
        assert_filled(&partition(&broker), 4, case);
        let cut = &broker.open_report().truncated_tails[0];
        assert_eq!((cut.position, cut.bytes, cut.from.get()), (end, garbage.len() as u64, 4), "{case}");
        assert_eq!(disk.read(relative(cut.kept.as_ref().unwrap())).unwrap(), garbage, "{case}");
        fill(&broker, &partition(&broker), 9);
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        let (end, error) = assert_prefix(&partition(&broker), case);
        assert!(end >= 4 && error.is_none(), "{case}: accepted records were made durable");
    }
}

/// Zero means "nothing here": the bytes that preallocation, or a file system that writes lengths
/// before data, leave.
#[test]
fn zeros_after_the_end_are_no_truncation() {
    for zeros in [1, 95, 100, 512, 4096, 300_000] {
        let (disk, ends) = unsynced(4);
        disk.truncate(ACTIVE, ends[4] + zeros).unwrap();
        let broker = open(&disk).unwrap();
        assert!(
            broker.open_report().truncated_tails.is_empty(),
            "{:?}",
            broker.open_report().truncated_tails
        );
        assert_eq!(partition(&broker).epoch(), 0);
        fill(&broker, &partition(&broker), 8);
        disk.crash(Survive::Everything);
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().truncated_tails.is_empty(), "{zeros}");
        assert_filled(&partition(&broker), 8, "after zeros");
    }
}

/// A segment is listed once its header is on disk. So one without a header was damaged, and
/// is not new: not the first one, not one right after a roll, and not one that has had batches.
#[test]
fn a_listed_segment_without_its_header_is_damage() {
    let damages = |disk: &Disk, segments: usize, records: u64| {
        let list = files(disk, "topics/t/0", ".log");
        assert_eq!(list.len(), segments);
        let (last, before) = (list.last().unwrap(), dump_files(disk));
        let whole = disk.read(last).unwrap();
        for len in [0, 1, 8, 127, whole.len() as u64] {
            for zeroed in [false, true] {
                if len >= SEGMENT_HEADER && !zeroed {
                    continue;
                }
                let disk = disk.duplicate();
                disk.truncate(last, len).unwrap();
                if zeroed {
                    disk.overwrite(last, 0, &vec![0; len as usize]).unwrap();
                }
                let case = format!("{len} bytes, zeroed: {zeroed}");
                for _ in 0..2 {
                    let broker = open(&disk).unwrap();
                    let report = broker.open_report();
                    assert!(report.truncated_tails.is_empty(), "{case}: {:?}", report.truncated_tails);
                    let [(of, Error::Corrupt(corruption))] = &report.damaged[..] else {
                        panic!("{case}: {:?}", report.damaged)
                    };
                    assert_eq!((of.topic.as_str(), corruption.position), ("t", 0), "{case}");
                    assert!(corruption.file.ends_with(last), "{case}: {corruption:?}");
                    let refused = send(&broker, &partition(&broker), "no").unwrap_err();
                    assert!(matches!(refused, Error::Corrupt(_)), "{case}: {refused}");
                    // Records before it can be read.
                    let (end, _) = assert_prefix(&partition(&broker), &case);
                    assert!(end >= records, "{case}: {end} of {records}");
                    disk.crash(Survive::Everything);
                }
                disk.truncate(last, 0).unwrap();
                disk.overwrite(last, 0, &whole).unwrap();
                assert_eq!(dump_files(&disk), before, "{case}: nothing was changed");
                assert!(open(&disk).unwrap().open_report().damaged.is_empty(), "{case}");
            }
        }
    };
    let made = || {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
        (disk, broker, p)
    };
    // The first segment: nothing in it yet, and then a record.
    let (disk, broker, p) = made();
    make_files(&disk, &broker, &p);
    disk.crash(Survive::Everything);
    damages(&disk, 1, 0);
    let (disk, broker, p) = made();
    fill(&broker, &p, 2);
    disk.crash(Survive::Everything);
    damages(&disk, 1, 0);
    // After rolls, acknowledged records in it and none in it.
    let (disk, broker, p) = made();
    while p.segments().len() < 4 {
        fill(&broker, &p, p.bounds().unwrap().log_end.get() + 1);
    }
    let base = p.segments()[3].base_offset.get();
    broker.sync().unwrap();
    disk.crash(Survive::Everything);
    damages(&disk, 4, base);
}

/// The segments and the manifest of the partition.
fn dump_files(disk: &Disk) -> Vec<(PathBuf, Vec<u8>)> {
    let is_primary = |path: &Path| {
        path.starts_with("topics")
            && (path.ends_with("manifest") || path.extension().is_some_and(|e| e == "log"))
    };
    let primary = disk.files().into_iter().filter(|(path, _)| is_primary(path));
    primary.map(|(path, _)| (path.clone(), disk.read(&path).unwrap())).collect()
}

/// A segment after a torn tail, which a truncation would drop: its header shows whether it was
/// damaged.
#[test]
fn a_listed_segment_without_its_header_is_damage_also_after_a_torn_tail() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small().durability(Durability::Sync)).unwrap().partition(0).unwrap();
    fill(&broker, &p, 1);
    // Its first roll announces that others list nothing, and lists.
    broker.alter_topic("t", small().durability(Durability::Os)).unwrap();
    while p.segments().len() < 2 {
        fill(&broker, &p, p.bounds().unwrap().log_end.get() + 1);
    }
    disk.crash(Survive::Everything);
    let list = files(&disk, "topics/t/0", ".log");
    // The end of the first one, which nothing has synced.
    let len = disk.read(&list[0]).unwrap().len() as u64;
    disk.truncate(&list[0], len - 1).unwrap();
    let torn = disk.duplicate();
    assert_eq!(open(&torn).unwrap().open_report().truncated_tails.len(), 1, "by itself it is truncated");
    disk.truncate(&list[1], 0).unwrap();
    let before = files(&disk, "topics/t/0", ".log");
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().truncated_tails.is_empty());
    assert!(matches!(&broker.open_report().damaged[0].1, Error::Corrupt(c) if c.file.ends_with(&list[1])));
    assert_eq!(files(&disk, "topics/t/0", ".log"), before);
}

/// A roll makes the header durable: no power loss leaves a listed segment without it, whatever it
/// takes of the records.
#[test]
fn a_roll_costs_one_sync_of_the_header() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = small().durability(Durability::Sync);
    let p = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    fill(&broker, &p, 1);
    let (mut rolls, before) = (0, disk.ops_of(Op::Sync));
    while rolls < 5 {
        let segments = p.segments().len();
        let syncs = disk.ops_of(Op::Sync);
        fill(&broker, &p, p.bounds().unwrap().log_end.get() + 1);
        let rolled = (p.segments().len() - segments) as u64;
        rolls += rolled;
        // Of the header, and of the new manifest.
        assert!(disk.ops_of(Op::Sync) - syncs >= 2 * rolled);
    }
    // The worker's syncs of sealed segments, and their mark in the manifest, are the rest.
    assert!(disk.ops_of(Op::Sync) - before >= 10);
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    let report = broker.open_report();
    assert!(report.damaged.is_empty(), "{:?}", report.damaged);
}

/// A short segment before a valid one is no torn tail if the missing part had been synced.
#[test]
fn a_short_segment_before_a_valid_one_is_a_corruption() {
    let disk = synced(30, small());
    let before = files(&disk, "topics/t/0", ".log");
    for short in &before[..before.len() - 1] {
        for len in [0, 60, SEGMENT_HEADER, 300] {
            let disk = disk.duplicate();
            disk.truncate(short, len).unwrap();
            let broker = open(&disk).unwrap();
            assert!(
                broker.open_report().truncated_tails.is_empty(),
                "{short:?} {len}: {:?}",
                broker.open_report().truncated_tails
            );
            let (_, error) = assert_prefix(&partition(&broker), "the beginning");
            assert!(matches!(error, Some(Error::Corrupt(c)) if c.file.ends_with(short)), "{short:?} {len}");
            assert_eq!(files(&disk, "topics/t/0", ".log"), before, "nothing is removed");
        }
    }
}

// -- damage --

#[test]
fn damage_in_the_middle_of_synced_data_is_a_corruption_and_costs_nothing_else() {
    let whole = synced(10, TopicConfig::new());
    let content = whole.read(ACTIVE).unwrap();
    let ends = batch_ends(&content);
    for (victim, bit) in [(0, 3), (0, 900), (4, 0), (4, 100), (4, 831), (4, 837), (8, 880)] {
        let disk = whole.duplicate();
        disk.flip_bit(ACTIVE, ends[victim] * 8 + bit).unwrap();
        let case = format!("batch {victim}, bit {bit}");
        let before = snapshot(&disk);
        let broker = open(&disk).unwrap();
        let report = broker.open_report();
        assert!(report.truncated_tails.is_empty(), "{case}");
        let (of, Error::Corrupt(corruption)) = &report.damaged[0] else { panic!("{case}: {report:?}") };
        assert_eq!((of.topic.as_str(), of.partition.get(), report.damaged.len()), ("t", 0, 1), "{case}");
        assert!(
            corruption.file.ends_with(ACTIVE) && corruption.position == ends[victim],
            "{case}: {corruption}"
        );
        let next = (victim < 9).then_some(victim as u64 + 1);
        assert_eq!(corruption.offset.map(|o| o.get()), Some(victim as u64), "{case}");
        assert_eq!(corruption.resume.map(|o| o.get()), next, "{case}");

        // Records before it can be read, and later ones from `resume` on.
        let damaged = partition(&broker);
        let (readable, error) = assert_prefix(&damaged, &case);
        let Some(Error::Corrupt(met)) = error else { panic!("{case}: {error:?}") };
        assert_eq!((readable, met.resume.map(|o| o.get())), (victim as u64, next), "{case}: {met}");
        let mut reader = broker.reader_at(&[position(0, 0)]).unwrap();
        if victim > 0 {
            assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), victim, "{case}: the good ones before");
        }
        for _ in 0..3 {
            let error = reader.poll(Duration::ZERO).unwrap_err();
            assert!(
                matches!(&error, Error::Corrupt(c) if c.resume.map(|o| o.get()) == next),
                "{case}: {error}"
            );
        }
        reader.seek(&position(next.unwrap(), 0)).unwrap();
        let rest = reader.poll(Duration::ZERO).unwrap();
        let found: Vec<_> = rest.iter().map(|r| r.value().unwrap().to_vec()).collect();
        assert_eq!(found, (next.unwrap()..10).map(|o| value(o).into_bytes()).collect::<Vec<_>>(), "{case}");

        // It takes no appends; the other partition does.
        let error = send(&broker, &damaged, "no").unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{case}: {error}");
        assert!(matches!(damaged.reopen(), Err(Error::Corrupt(_))), "{case}");
        fill(&broker, &broker.topic("t").unwrap().partition(1).unwrap(), 20);
        drop((reader, rest, damaged));
        broker.close().unwrap();
        for (path, content) in before.iter().filter(|(path, _)| path.starts_with("topics/t/0")) {
            assert_eq!(disk.read(path).unwrap(), *content, "{case}: nothing of it is touched");
        }
        let again = open(&disk).unwrap();
        assert_eq!(again.open_report().damaged.len(), 1, "{case}: it is reported every time");
        assert_filled(&again.topic("t").unwrap().partition(1).unwrap(), 20, &case);
    }
}

/// Damage in a segment that was sealed and not finished yet. Maintenance does not finish it: the
/// manifest would claim that it need not be read again, and the damage would never be reported.
#[test]
fn damage_is_reported_at_every_opening_despite_maintenance() {
    for streams in [false, true] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let config = if streams { TopicConfig::streams() } else { TopicConfig::new() };
        let config = config.segment_bytes(1 << 10).max_record_bytes(700).durability(Durability::Sync);
        let p = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        for offset in 0..30 {
            let record = Record::new(value(offset)).key("k");
            broker.producer().send(&p, record).unwrap().wait().unwrap();
        }
        assert!(p.segments().len() > 2);
        disk.crash(Survive::Synced);
        drop((p, broker));
        let ends = batch_ends(&disk.read(ACTIVE).unwrap());
        disk.flip_bit(ACTIVE, (ends[1] + BATCH_HEADER + 5) * 8).unwrap();
        let before = snapshot(&disk);
        for run in 0..3 {
            let broker = open(&disk).unwrap();
            assert_eq!(broker.open_report().damaged.len(), 1, "streams: {streams}, run {run}");
            let (_, error) = read(&partition(&broker));
            assert!(matches!(error, Some(Error::Corrupt(_))), "streams: {streams}, run {run}: {error:?}");
            broker.maintain().unwrap();
            broker.close().unwrap();
        }
        for (path, content) in before.iter().filter(|(path, _)| path.starts_with("topics")) {
            assert_eq!(disk.read(path).unwrap(), *content, "nothing of it is touched");
        }
    }
}

/// Where the batches of a segment end: header plus body, by its length at byte 4.
fn batch_ends(content: &[u8]) -> Vec<u64> {
    let mut ends = vec![SEGMENT_HEADER];
    while let Some(header) = content.get(*ends.last().unwrap() as usize..).filter(|rest| rest.len() >= 104) {
        let body = u32::from_le_bytes(header[4..8].try_into().unwrap());
        ends.push(ends.last().unwrap() + BATCH_HEADER + u64::from(body));
    }
    ends
}

fn position(offset: u64, epoch: u32) -> Position {
    format!("t/0@{offset}#{epoch}").parse().unwrap()
}

/// Bytes synced before the last checkpoint are not read again; a segment that lost some of them is
/// found nevertheless.
#[test]
fn a_segment_shorter_than_its_synced_length_is_a_corruption() {
    for clean in [true, false] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let p = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
        fill(&broker, &p, 10);
        broker.sync().unwrap();
        broker.maintain().unwrap();
        let ends = batch_ends(&disk.read(ACTIVE).unwrap());
        if clean {
            broker.close().unwrap();
        } else {
            disk.crash(Survive::Everything);
        }
        for len in [0, 50, SEGMENT_HEADER, ends[3], ends[9], ends[10] - 1] {
            let disk = disk.duplicate();
            disk.truncate(ACTIVE, len).unwrap();
            let case = format!("{len} bytes, clean: {clean}");
            let broker = open(&disk).unwrap();
            assert!(broker.open_report().truncated_tails.is_empty(), "{case}");
            let error = broker.open_report().damaged.first().map(|(_, error)| error.clone());
            assert!(
                matches!(&error, Some(Error::Corrupt(c)) if c.file.ends_with(ACTIVE)),
                "{case}: {error:?}"
            );
            assert!(matches!(send(&broker, &partition(&broker), "no"), Err(Error::Corrupt(_))), "{case}");
            let (_, error) = assert_prefix(&partition(&broker), &case);
            assert!(matches!(error, Some(Error::Corrupt(_))), "{case}: {error:?}");
        }
    }
}

// -- segments that are not where they should be --

#[test]
fn missing_swapped_and_foreign_segments_are_reported_and_never_read_as_others() {
    for clean in [true, false] {
        let whole = if clean {
            let disk = synced(40, small());
            open(&disk).unwrap().close().unwrap();
            disk
        } else {
            synced(40, small())
        };
        let names = files(&whole, "topics/t/0", ".log");
        let others = files(&whole, "topics/t/1", ".log");
        assert!(names.len() > 5 && names.len() == others.len());
        let last = names.len() - 1;
        type Damage<'a> = Box<dyn Fn(&Disk) + 'a>;
        let missing = |at: usize| {
            let name = names[at].clone();
            Box::new(move |disk: &Disk| disk.remove(&name).unwrap()) as Damage<'_>
        };
        let swapped = |a: usize, b: usize| {
            let (a, b) = (names[a].clone(), names[b].clone());
            Box::new(move |disk: &Disk| {
                disk.rename(&a, "aside").unwrap();
                disk.rename(&b, &a).unwrap();
                disk.rename("aside", &b).unwrap();
            }) as Damage<'_>
        };
        let foreign = |at: usize| {
            let (ours, theirs) = (names[at].clone(), others[at].clone());
            Box::new(move |disk: &Disk| {
                disk.remove(&ours).unwrap();
                disk.rename(&theirs, &ours).unwrap();
            }) as Damage<'_>
        };
        let damages = [
            ("the first is missing", missing(0)),
            ("one in the middle is missing", missing(3)),
            ("the last is missing", missing(last)),
            ("two are swapped", swapped(1, 2)),
            ("the first and the last are swapped", swapped(0, last)),
            ("the last two are swapped", swapped(last - 1, last)),
            ("the first is another partition's", foreign(0)),
            ("one in the middle is another partition's", foreign(3)),
            ("the last is another partition's", foreign(last)),
        ];
        for (case, damage) in damages {
            let case = format!("{case}, clean: {clean}");
            let disk = whole.duplicate();
            damage(&disk);
            let broker = open(&disk).unwrap();
            assert!(
                broker.open_report().truncated_tails.is_empty(),
                "{case}: {:?}",
                broker.open_report().truncated_tails
            );
            let told = broker
                .open_report()
                .damaged
                .iter()
                .any(|(of, e)| of.partition.get() == 0 && matches!(e, Error::Corrupt(_)));
            let (_, error) = assert_prefix(&partition(&broker), &case);
            assert!(told || matches!(error, Some(Error::Corrupt(_))), "{case}: {error:?}");
            if case.contains("missing") || case.contains("last") {
                assert!(told, "{case}: known at once");
                assert!(matches!(send(&broker, &partition(&broker), "no"), Err(Error::Corrupt(_))), "{case}");
            }
            // From any other place too there is the right record or the error.
            for offset in 0..40 {
                match partition(&broker).read(at(offset), 1) {
                    Ok(records) => {
                        if let Some(first) = records.iter().next() {
                            assert_eq!(
                                (first.offset().get(), first.value()),
                                (offset, Some(value(offset).as_bytes())),
                                "{case}"
                            );
                        }
                    }
                    Err(Error::Corrupt(_) | Error::OffsetOutOfRange { .. }) => {}
                    Err(error) => panic!("{case}: {error}"),
                }
            }
        }
    }
}

/// A segment that the manifest does not list is not part of the log, whatever it is called.
#[test]
fn a_copy_of_a_segment_under_another_name_is_not_part_of_the_log() {
    let whole = synced(40, small());
    let names = files(&whole, "topics/t/0", ".log");
    for copy in ["00000000000000000000-1.log", "00000000000000000002-0.log", "00000000000000000040-0.log"] {
        for original in [&names[0], names.last().unwrap()] {
            let disk = whole.duplicate();
            disk.write_new(Path::new("topics/t/0").join(copy), &disk.read(original).unwrap()).unwrap();
            let broker = open(&disk).unwrap();
            assert!(
                broker.open_report().damaged.is_empty() && broker.open_report().truncated_tails.is_empty()
            );
            assert_filled(&partition(&broker), 40, copy);
            fill(&broker, &partition(&broker), 80);
            assert_filled(&partition(&broker), 80, copy);
        }
    }
}

// -- how much is read again (vectors 28 and 29) --

#[test]
fn after_a_clean_close_no_segment_is_read_again() {
    let reads = |records: u64| {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let p = broker.create_topic("t", small().durability(Durability::Sync)).unwrap().partition(0).unwrap();
        fill(&broker, &p, records);
        broker.close().unwrap();
        let before = disk.ops_of(Op::Read);
        let broker = open(&disk).unwrap();
        let after = disk.ops_of(Op::Read);
        assert!(broker.open_report().clean && broker.open_report().recovered.is_empty());
        assert_filled(&partition(&broker), records, "after a clean close");
        after - before
    };
    assert_eq!(reads(5), reads(500), "opening reads as much of a long log as of a short one");
}

/// A broker that changes nothing leaves the directory as it was closed, to the byte; the first
/// change takes back the mark of the clean close before it is made.
#[test]
fn the_first_change_removes_the_clean_shutdown_mark_and_reading_does_not() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    fill(&broker, &broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap(), 5);
    broker.close().unwrap();
    let before = snapshot(&disk);
    for survive in [Survive::Synced, Survive::Everything, Survive::Random(1)] {
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().clean);
        assert_filled(&partition(&broker), 5, "looked at");
        broker.maintain().unwrap();
        broker.sync().unwrap();
        assert_eq!(snapshot(&disk), before, "nothing was changed");
        let killed = disk.duplicate();
        broker.close().unwrap();
        assert_eq!(snapshot(&disk), before, "nor by closing");
        killed.crash(survive);
        assert!(open(&killed).unwrap().open_report().clean, "{survive:?}");
    }
    for survive in [Survive::Synced, Survive::Everything] {
        let disk = disk.duplicate();
        let broker = open(&disk).unwrap();
        let gate = disk.hold(Op::Write, 3);
        let sender = {
            let broker = broker.clone();
            std::thread::spawn(move || fill(&broker, &partition(&broker), 6))
        };
        gate.wait_until_reached();
        // The checkpoint and the note of this opening are written, the record is not.
        let held = disk.duplicate();
        held.crash(survive);
        assert!(!open(&held).unwrap().open_report().clean, "{survive:?}");
        gate.release();
        sender.join().unwrap();
    }
}

#[test]
fn only_batches_after_the_recovery_point_are_read_again() {
    let reopen = |before: u64, behind: u64| {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let p = broker.create_topic("t", small().durability(Durability::Sync)).unwrap().partition(0).unwrap();
        fill(&broker, &p, before);
        broker.maintain().unwrap();
        let earlier = p.stats();
        fill(&broker, &p, before + behind);
        let appended = p.stats().bytes_appended - earlier.bytes_appended;
        disk.crash(Survive::Everything);
        let reads = disk.ops_of(Op::Read);
        let broker = open(&disk).unwrap();
        let reads = disk.ops_of(Op::Read) - reads;
        let recovered = broker.open_report().recovered.clone();
        assert_eq!(recovered.len(), 1);
        assert_eq!((recovered[0].from.get(), recovered[0].to.get()), (before, before + behind));
        assert_eq!(recovered[0].bytes, appended, "batches");
        assert_filled(&partition(&broker), before + behind, "recovered");
        reads
    };
    // As many as a segment holds: so both times the last segment has as many.
    let full = {
        let broker = open(&Disk::new()).unwrap();
        let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
        fill(&broker, &p, 40);
        p.segments()[1].base_offset.get()
    };
    assert_eq!(reopen(full, 12), reopen(full * 70, 12), "the long past is not looked at");
    assert!(reopen(full, 70) > reopen(full, 2));
}

// -- the log epoch --

#[test]
fn the_epoch_rises_only_when_records_were_truncated() {
    let (disk, _) = unsynced(3);
    let mut epoch = 0;
    let mut end = 3;
    for round in 0..12 {
        let broker = open(&disk).unwrap();
        assert_eq!(partition(&broker).epoch(), epoch, "round {round}");
        assert_eq!(partition(&broker).bounds().unwrap().log_end, end);
        end += 1;
        let receipt = send(&broker, &partition(&broker), "v").unwrap();
        assert_eq!((receipt.epoch, receipt.offset.get() + 1), (epoch, end));
        match round % 4 {
            0 => broker.close().unwrap(),
            1 => {
                disk.crash(Survive::Everything);
            }
            2 => {
                disk.crash(Survive::Everything);
                // The last batch is torn.
                let active = files(&disk, "topics/t/0", ".log").pop().unwrap();
                let len = disk.read(&active).unwrap().len() as u64;
                disk.truncate(&active, len - 1).unwrap();
                (epoch, end) = (epoch + 1, end - 1);
            }
            _ => drop(broker),
        }
    }
    assert_eq!(epoch, 3);
}

#[test]
fn a_position_beyond_a_truncation_never_reads_another_record() {
    let (disk, ends) = unsynced(10);
    let old = |offset| position(offset, 0);
    disk.truncate(ACTIVE, ends[6] + 30).unwrap();
    let broker = open(&disk).unwrap();
    // The log grows past the old place again, with other records.
    for _ in 0..8 {
        send(&broker, &partition(&broker), "other").unwrap();
    }
    for beyond in [7, 9, 10] {
        let mut reader = broker.reader_at(&[old(beyond)]).unwrap().offset_reset(OffsetReset::Fail);
        for _ in 0..2 {
            let error = reader.poll(Duration::ZERO).unwrap_err();
            assert!(matches!(&error, Error::Truncated { to, .. } if *to == 6), "{beyond}: {error}");
        }
        for (reset, to) in [(OffsetReset::Nearest, 6), (OffsetReset::Beginning, 0), (OffsetReset::End, 14)] {
            let mut reader = broker.reader_at(&[old(beyond)]).unwrap().offset_reset(reset);
            let records = reader.poll(Duration::ZERO).unwrap();
            let skipped = &records.skipped()[0];
            assert_eq!((skipped.from.get(), skipped.to.get()), (beyond, to), "{reset:?}");
            assert!(matches!(skipped.reason, SkipReason::Truncated { at, .. } if at == 6), "{skipped}");
            assert_eq!(records.iter().next().map(|r| r.offset().get()), (to < 14).then_some(to), "{reset:?}");
        }
    }
    for before in 0..=6 {
        let mut reader = broker.reader_at(&[old(before)]).unwrap().offset_reset(OffsetReset::Fail);
        let records = reader.poll(Duration::ZERO).unwrap();
        assert_eq!(
            records.iter().next().unwrap().offset(),
            before,
            "a position before the truncation is still valid"
        );
        assert_eq!(records.len() as u64, 14 - before);
    }
    // In the new epoch the same offsets are good.
    let mut reader = broker.reader_at(&[position(9, 1)]).unwrap().offset_reset(OffsetReset::Fail);
    assert_eq!(reader.poll(Duration::ZERO).unwrap().iter().next().unwrap().value(), Some(&b"other"[..]));
}

// -- random corruption (Kafka's `LogSegmentTest.testRecoveryWithCorruptMessage`) --

/// Kafka's `testCorruptLog`: everything before the damage is there, nothing after it.
#[test]
fn random_corruption_leaves_exactly_the_records_before_it() {
    let (whole, ends) = unsynced(20);
    for seed in 0..500 {
        let mut random = Random(seed);
        let disk = whole.duplicate();
        let victim = random.below(20) as usize;
        let (from, to) = (ends[victim], ends[victim + 1]);
        let content = disk.read(ACTIVE).unwrap();
        let start = from + random.below(to - from);
        let len = 1 + random.below(to - start);
        let noise: Vec<u8> = content[start as usize..(start + len) as usize]
            .iter()
            // Every byte is another one than before.
            .map(|byte| byte.wrapping_add(1 + random.below(255) as u8))
            .collect();
        disk.overwrite(ACTIVE, start, &noise).unwrap();
        let case = format!("seed {seed}: batch {victim}, {len} bytes at {start}");
        let mut torn = disk.read(ACTIVE).unwrap().split_off(from as usize);
        torn.truncate(torn.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        let broker = open(&disk).unwrap();
        assert_filled(&partition(&broker), victim as u64, &case);
        let cut = &broker.open_report().truncated_tails[0];
        assert_eq!((cut.from.get(), cut.position), (victim as u64, from), "{case}");
        // Batches after the damage were found: the report names them as possibly acknowledged.
        let last = if victim == 19 { cut.to.map_or(20, |to| to.get()) } else { cut.to.unwrap().get() };
        assert_eq!(last, 20, "{case}");
        assert_eq!(disk.read(relative(cut.kept.as_ref().unwrap())).unwrap(), torn, "{case}");
        assert_eq!(partition(&broker).bounds().unwrap().log_end, victim as u64, "{case}");
        fill(&broker, &partition(&broker), 22);
        disk.crash(Survive::Everything);
        assert_filled(&partition(&open(&disk).unwrap()), 22, &case);
    }
}

/// A reader that starts at the beginning sees the same as one that reads piece by piece.
#[test]
fn a_recovered_log_reads_the_same_in_every_way() {
    let (disk, ends) = unsynced(12);
    disk.truncate(ACTIVE, ends[7] + 3).unwrap();
    let broker = open(&disk).unwrap();
    broker
        .producer()
        .send_all(partition(&broker), (7..30).map(|o| Record::new(value(o))))
        .unwrap()
        .wait()
        .unwrap();
    let all: Vec<_> = (0..30).map(value).collect();
    assert_eq!(read(&partition(&broker)).0, all);
    let reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(3);
    let walked: Vec<_> = reader
        .to_end()
        .flat_map(|records| {
            records
                .unwrap()
                .iter()
                .map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(walked, all);
}

#[test]
fn a_torn_first_batch_is_reported_without_an_end_that_nothing_proves() {
    let (disk, ends) = unsynced(1);
    // Its header would name its end.
    disk.truncate(ACTIVE, ends[0] + BATCH_HEADER - 1).unwrap();
    let broker = open(&disk).unwrap();
    let [cut] = &broker.open_report().truncated_tails[..] else { panic!("{:?}", broker.open_report()) };
    assert_eq!((cut.from.get(), cut.to, cut.bytes), (0, None, BATCH_HEADER - 1));
}
