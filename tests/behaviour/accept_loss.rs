//! A damaged partition can be made usable again: the damage is named and given up, every whole
//! record keeps its offset, readers get a report of the lost offsets, and appends continue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::stats::{DamagedRange, Event};
use quipu::testing::{Disk, ManualClock, Survive, committed, produced};
use quipu::{
    Broker, BrokerConfig, Cleanup, Durability, Error, Offset, Partition, ProducerConfig, Record, SkipReason,
    Start, TopicConfig, TopicPartition,
};

use crate::common::{at, crash_at_each_operation, files, fill, open, send, small, snapshot, value};

const SEGMENT_HEADER: usize = 128;
const BATCH_HEADER: usize = 104;
const RECORDS: u64 = 40;
/// The topic that groups commit to.
const OFFSETS: &str = "__consumer_offsets";

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

/// A disk with several segments of records that were acknowledged one by one as durable, each in a
/// batch of its own.
fn filled(is_clean: bool) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small().durability(Durability::Sync)).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), RECORDS);
    if is_clean {
        broker.close().unwrap();
    } else {
        disk.crash(Survive::Everything);
    }
    disk
}

/// Where the batches of a segment are: base offset, position, length.
fn batches(segment: &[u8]) -> Vec<(u64, usize, usize)> {
    let (mut batches, mut position) = (Vec::new(), SEGMENT_HEADER);
    while segment.len() >= position + BATCH_HEADER {
        let body = u32::from_le_bytes(segment[position + 4..position + 8].try_into().unwrap()) as usize;
        let base = u64::from_le_bytes(segment[position + 8..position + 16].try_into().unwrap());
        batches.push((base, position, BATCH_HEADER + body));
        position += BATCH_HEADER + body;
    }
    batches
}

/// All readable records, with the ranges that were reported to readers as missing.
fn read_all(partition: &Partition) -> (BTreeMap<u64, String>, Vec<(u64, u64)>) {
    let (mut found, mut lost) = (BTreeMap::new(), Vec::new());
    let mut from = partition.bounds().unwrap().log_start.get();
    loop {
        let records = partition.read(at(from), 1).unwrap();
        for skipped in records.skipped() {
            assert_eq!(skipped.reason, SkipReason::Lost, "{skipped}");
            lost.push((skipped.from.get(), skipped.to.get()));
            from = from.max(skipped.to.get());
        }
        if records.is_empty() && records.skipped().is_empty() {
            assert_eq!(
                from,
                partition.bounds().unwrap().visible_end.get(),
                "reading ends at the visible end"
            );
            return (found, lost);
        }
        for record in &records {
            found.insert(record.offset().get(), String::from_utf8(record.value().unwrap().to_vec()).unwrap());
            from = record.offset().get() + 1;
        }
    }
}

fn offsets_of(ranges: &[(Offset, Offset)]) -> Vec<(u64, u64)> {
    ranges.iter().map(|(from, to)| (from.get(), to.get())).collect()
}

/// The records of [`fill`] up to `end`, without these ranges.
fn without(end: u64, lost: &[(u64, u64)]) -> BTreeMap<u64, String> {
    let is_lost = |offset: u64| lost.iter().any(|(from, to)| (*from..*to).contains(&offset));
    (0..end).filter(|offset| !is_lost(*offset)).map(|offset| (offset, value(offset))).collect()
}

/// The partition works: every offset but the lost ones is unchanged, and the next record gets the
/// next offset.
fn assert_works(broker: &Broker, lost: &[(u64, u64)], end: u64, case: &str) {
    let partition = partition(broker);
    let (found, told) = read_all(&partition);
    assert_eq!(found, without(end, lost), "{case}");
    assert_eq!(told, lost, "{case}: readers get a report");
    assert_eq!(partition.damage().unwrap(), [], "{case}");
    assert!(broker.damaged().is_empty(), "{case}");
    assert!(partition.stats().poisoned.is_none(), "{case}");
}

/// One way to damage a file.
type Harm = (String, PathBuf, Box<dyn Fn(&Disk)>, Option<(u64, u64)>);

/// A bit flipped in each part of the first, a middle and the last segment, and each of these
/// segments missing. Beside it the lost range of the log; none if that is not known beforehand.
fn harms(disk: &Disk) -> Vec<Harm> {
    let segments = files(disk, "topics/t/0", ".log");
    assert!(segments.len() >= 4, "{segments:?}");
    let mut harms: Vec<Harm> = Vec::new();
    for at in [0, segments.len() / 2, segments.len() - 1] {
        let path = segments[at].clone();
        let batches = batches(&disk.read(&path).unwrap());
        let (first, last) = (batches[0].0, batches.last().unwrap().0);
        let flip = |byte: usize| -> Box<dyn Fn(&Disk)> {
            let path = path.clone();
            Box::new(move |disk| disk.flip_bit(&path, byte as u64 * 8 + 3).unwrap())
        };
        harms.push((format!("header of segment {at}"), path.clone(), flip(30), Some((first, first))));
        for batch in [0, batches.len() / 2, batches.len() - 1] {
            let (base, position, _) = batches[batch];
            for (part, byte) in [("magic", 1), ("header", 20), ("body", BATCH_HEADER + 5)] {
                let case = format!("{part} of batch {batch} of segment {at}");
                harms.push((case, path.clone(), flip(position + byte), Some((base, base + 1))));
            }
        }
        let gone = path.clone();
        let harm = Box::new(move |disk: &Disk| disk.remove(&gone).unwrap());
        harms.push((format!("segment {at} is missing"), path.clone(), harm, Some((first, last + 1))));
        let (short, (base, position, _)) = (path.clone(), batches[batches.len() / 2]);
        let harm = Box::new(move |disk: &Disk| disk.truncate(&short, position as u64 + 20).unwrap());
        harms.push((format!("segment {at} is short"), path.clone(), harm, Some((base, last + 1))));
    }
    harms
}

#[test]
fn whole_records_stay_and_damaged_ones_are_given_up_at_any_position() {
    let mut given_up = 0;
    for is_clean in [true, false] {
        let whole = filled(is_clean);
        let last = files(&whole, "topics/t/0", ".log").len() - 1;
        for (case, path, harm, expected) in harms(&whole) {
            let case = format!("{case}, closed: {is_clean}");
            let disk = whole.duplicate();
            harm(&disk);
            let broker = open(&disk).unwrap();
            if !broker.open_report().truncated_tails.is_empty() {
                // The last batches before a kill have no witness: that is the limit of the rule.
                assert!(!is_clean && case.contains("batch") || case.contains("short"), "{case}");
                continue;
            }
            let p = partition(&broker);
            let before = snapshot(&disk);
            let damage = p.damage().unwrap();
            assert!(!damage.is_empty(), "{case}");
            assert!(damage.iter().all(|range| range.file.ends_with(&path)), "{case}: {damage:?}");
            assert_eq!(snapshot(&disk), before, "{case}: looking changes nothing");

            let lost = offsets_of(&p.accept_loss(&damage).unwrap());
            let mut expected: Vec<_> = expected.into_iter().filter(|(from, to)| from < to).collect();
            if !is_clean && case.contains(&format!("segment {last} is missing")) {
                // After a kill its content is unknown.
                expected = Vec::new();
            }
            assert_eq!(lost, expected, "{case}");
            let end = p.bounds().unwrap().log_end.get();
            assert!(end == RECORDS || expected.is_empty(), "{case}");
            assert_works(&broker, &lost, end, &case);
            assert_eq!(p.epoch(), 1, "{case}: the epoch has risen");
            for range in damage.iter().filter(|range| range.bytes > 0) {
                let kept =
                    format!("{}.{}.lost", path.to_str().unwrap().trim_end_matches(".log"), range.position);
                let from = range.position as usize;
                let bytes = &before[&path][from..from + range.bytes as usize];
                assert_eq!(disk.read(&kept).unwrap(), bytes, "{case}: the bytes are kept");
                given_up += 1;
            }

            // Appends continue, now and after a power loss, and the repair stays.
            fill(&broker, &p, RECORDS + 5);
            assert_works(&broker, &lost, RECORDS + 5, &case);
            let broker = disk.crash_and_reopen(Survive::Synced, config()).unwrap();
            assert!(
                broker.open_report().damaged.is_empty() && broker.open_report().truncated_tails.is_empty(),
                "{case}"
            );
            assert_works(&broker, &lost, RECORDS + 5, &case);
            for kept in files(&disk, "topics/t/0", ".lost") {
                let is_its = |range: &&DamagedRange| {
                    kept.to_str().unwrap().ends_with(&format!(".{}.lost", range.position))
                };
                let len = disk.read(&kept).unwrap().len() as u64;
                let bytes = damage.iter().find(is_its).map(|range| range.bytes);
                assert_eq!(bytes, Some(len), "{case}: {kept:?} was durable");
            }
            let p = partition(&broker);
            p.truncate_to(Offset::new(RECORDS - 1)).unwrap();
            let left: Vec<_> = lost.iter().map(|(from, to)| (*from, (*to).min(RECORDS - 1))).collect();
            let left: Vec<_> = left.into_iter().filter(|(from, to)| from < to).collect();
            assert_works(&broker, &left, RECORDS - 1, &case);
            fill(&broker, &p, RECORDS + 1);
            broker.close().unwrap();
            let broker = open(&disk).unwrap();
            assert_works(&broker, &left, RECORDS + 1, &case);
        }
    }
    assert!(given_up > 40, "{given_up}");
}

fn config() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(1)
}

/// A disk on which a batch in the middle of each of these segments is damaged, after a clean close.
fn damaged(segments: &[usize]) -> Disk {
    let disk = filled(true);
    let paths = files(&disk, "topics/t/0", ".log");
    for at in segments {
        let batches = batches(&disk.read(&paths[*at]).unwrap());
        let (_, position, _) = batches[batches.len() / 2];
        disk.flip_bit(&paths[*at], (position + 20) as u64 * 8).unwrap();
    }
    disk
}

#[test]
fn accept_loss_refuses_damage_that_was_not_named() {
    let disk = damaged(&[1, 2]);
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let damage = p.damage().unwrap();
    assert_eq!(damage.len(), 2);
    let before = snapshot(&disk);
    for named in [&damage[..0], &damage[..1], &damage[1..]] {
        let error = p.accept_loss(named).unwrap_err();
        let Error::LossNotNamed { range, .. } = &error else { panic!("{error}") };
        assert!(!named.contains(range) && damage.contains(range), "{error}");
        assert!(error.to_string().starts_with("t/0 has damage that was not named: offsets "), "{error}");
    }
    assert_eq!(snapshot(&disk), before);
    assert_eq!(p.accept_loss(&damage).unwrap().len(), 2);
    // Again, for example after a lost result: there is nothing left to do.
    let epoch = p.epoch();
    assert_eq!(p.accept_loss(&damage).unwrap(), []);
    assert_eq!((p.epoch(), p.damage().unwrap()), (epoch, Vec::new()));
}

#[test]
fn a_whole_partition_stays_as_it_is() {
    let disk = filled(true);
    let broker = open(&disk).unwrap();
    let before = snapshot(&disk);
    let p = partition(&broker);
    assert_eq!((p.damage().unwrap(), p.accept_loss(&[]).unwrap()), (Vec::new(), Vec::new()));
    let unwritten = broker.create_topic("u", TopicConfig::new()).unwrap().partition(0).unwrap();
    assert_eq!((unwritten.damage().unwrap(), unwritten.accept_loss(&[]).unwrap()), (Vec::new(), Vec::new()));
    let after = snapshot(&disk);
    let is_of_t = |path: &&PathBuf| path.starts_with("topics/t");
    assert_eq!(
        before.keys().find(is_of_t).map(|path| &before[path]),
        after.keys().find(is_of_t).map(|path| &after[path])
    );
    assert_eq!(p.epoch(), 0);
}

/// A reader that stands before, in and after the lost range, and one that reads through.
#[test]
fn readers_skip_the_lost_offsets_and_report_them() {
    let disk = damaged(&[1]);
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let damage = p.damage().unwrap();
    let (from, to) = (damage[0].from, damage[0].to);
    let mut early = broker.reader(["t"], Start::Beginning).unwrap();
    let mut read = 0;
    let error = loop {
        match early.poll(Duration::ZERO) {
            Ok(records) => read += records.len() as u64,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, Error::Corrupt(c) if c.offset == Some(from)), "{error}");
    assert_eq!(read, from.get());
    let position = p.read(Start::At(to), 1).unwrap().iter().next().unwrap().position();
    p.accept_loss(&damage).unwrap();

    // Where it stood it meets no damage any more.
    let stood = early.positions().remove(0);
    assert_eq!(stood.offset, from);
    early.seek(&stood).unwrap();
    let records = early.poll(Duration::ZERO).unwrap();
    let skipped = &records.skipped()[0];
    assert_eq!((skipped.from, skipped.to, skipped.reason), (from, to, SkipReason::Lost));
    assert!(skipped.to_string().contains("have been given up"), "{skipped}");
    assert_eq!(records.iter().next().unwrap().offset(), to);

    // A position after it is as good as it was: the records are the same.
    let mut late = broker.reader_at(&[position]).unwrap();
    let records = late.poll(Duration::ZERO).unwrap();
    assert!(records.skipped().is_empty());
    assert_eq!(records.iter().next().unwrap().offset(), to);
}

#[test]
fn damage_that_only_a_reader_meets_is_given_up_while_appends_continue() {
    let disk = damaged(&[1]);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let events = seen.clone();
    let told = move |event: &Event| {
        if let Event::LossAccepted { ranges, epoch, .. } = event {
            events.lock().unwrap().push((ranges.clone(), *epoch));
        }
    };
    let broker = config().on_event(told).on_disk(&disk).unwrap();
    let p = partition(&broker);
    // A clean close vouches for the end; nothing before it was read.
    assert!(broker.open_report().damaged.is_empty() && broker.damaged().is_empty());
    fill(&broker, &p, RECORDS + 3);
    assert!(produced(&broker, "t").is_err());
    assert_eq!(broker.damaged(), [TopicPartition::from(&p)]);
    let damage = p.damage().unwrap();
    let lost = p.accept_loss(&damage).unwrap();
    assert_works(&broker, &offsets_of(&lost), RECORDS + 3, "in a log that is served");
    assert_eq!(*seen.lock().unwrap(), [(lost.clone(), p.epoch())]);
    fill(&broker, &p, RECORDS + 6);
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert_works(&broker, &offsets_of(&lost), RECORDS + 6, "after a power loss");
}

#[test]
fn a_crash_at_any_operation_leaves_the_damage_or_the_repaired_partition() {
    for segments in [&[0][..], &[1, 2], &[0, 3]] {
        for survive in [Survive::Synced, Survive::Everything] {
            let disk = damaged(segments);
            // Found damaged at opening, so that nothing but the acceptance changes the partition.
            let before = snapshot(&disk);
            let (mut old, mut new) = (0, 0);
            for nth in 1.. {
                let disk = disk.duplicate();
                let broker = open(&disk).unwrap();
                let p = partition(&broker);
                let damage = p.damage().unwrap();
                disk.crash_at(nth);
                let finished = p.accept_loss(&damage).is_ok();
                let broker = disk.crash_and_reopen(survive, config()).unwrap();
                let p = partition(&broker);
                let found = p.damage().unwrap();
                let case = format!("segments {segments:?}, operation {nth}, {survive:?}");
                assert!(broker.open_report().truncated_tails.is_empty(), "{case}");
                if found.is_empty() {
                    new += 1;
                    let lost: Vec<_> =
                        damage.iter().map(|range| (range.from.get(), range.to.get())).collect();
                    assert_works(&broker, &lost, RECORDS, &case);
                } else {
                    old += 1;
                    assert!(!finished, "{case}: acknowledged and gone");
                    assert_eq!(found, damage, "{case}");
                    for (path, bytes) in &before {
                        if path.starts_with("topics/t/0") && path.extension().is_some_and(|e| e == "log") {
                            assert_eq!(disk.read(path).unwrap(), *bytes, "{case}: {path:?}");
                        }
                    }
                    p.accept_loss(&found).unwrap();
                }
                fill(&broker, &p, RECORDS + 2);
                if finished {
                    break;
                }
            }
            assert!(old >= 5 && new >= 1, "{segments:?}: {old} old, {new} new");
        }
    }
}

/// Several records a batch, compressed, and keys that are compacted away: gaps that are no loss are
/// not reported as one.
#[test]
fn in_a_compacted_log_only_damaged_offsets_are_reported_as_lost() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small().cleanup(Cleanup::Compact)).unwrap().partition(0).unwrap();
    for n in 0..60 {
        broker.producer().send(&p, Record::new(value(n)).key(format!("{}", n % 40))).unwrap().wait().unwrap();
    }
    p.compact().unwrap().unwrap();
    broker.close().unwrap();
    let whole = {
        let disk = disk.duplicate();
        read_all(&partition(&open(&disk).unwrap())).0
    };
    assert!(whole.len() < 60);
    let segment = files(&disk, "topics/t/0", ".log").remove(0);
    let batches = batches(&disk.read(&segment).unwrap());
    let (base, position, _) = batches[1];
    disk.flip_bit(&segment, (position + BATCH_HEADER + 2) as u64 * 8).unwrap();
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let lost = p.accept_loss(&p.damage().unwrap()).unwrap();
    assert_eq!(offsets_of(&lost), [(base, base + 1)]);
    let (found, told) = read_all(&p);
    assert_eq!(told, [(base, base + 1)]);
    let expected: BTreeMap<_, _> = whole.into_iter().filter(|(offset, _)| *offset != base).collect();
    assert_eq!(found, expected);
    // It is still reported after the next compaction.
    for n in 60..90 {
        broker.producer().send(&p, Record::new(value(n)).key(format!("{}", n % 40))).unwrap().wait().unwrap();
    }
    p.compact().unwrap().unwrap();
    assert_eq!(read_all(&p).1, [(base, base + 1)]);
    assert_eq!(p.damage().unwrap(), []);
}

#[test]
fn retention_forgets_losses_before_the_log_start() {
    let disk = damaged(&[1]);
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let lost = p.accept_loss(&p.damage().unwrap()).unwrap();
    p.delete_records(lost[0].1).unwrap();
    assert_eq!(read_all(&p).1, []);
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(read_all(&partition(&broker)).1, []);
    assert_eq!(partition(&broker).bounds().unwrap().log_start, lost[0].1);
}

/// One flipped bit ended all groups for good.
#[test]
fn groups_work_again_after_damage_to_committed_offsets() {
    for is_clean in [true, false] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
        fill(&broker, &topic.partition(0).unwrap(), 6);
        for group in ["first", "second", "third"] {
            let mut consumer = broker.consumer(group).subscribe(["t"]).unwrap();
            let records = consumer.poll(Duration::ZERO).unwrap();
            consumer.commit(&records).unwrap();
            // A later batch proves that this was durable.
            broker.sync().unwrap();
        }
        if is_clean {
            broker.close().unwrap();
        } else {
            disk.crash(Survive::Everything);
        }
        let segment = files(&disk, "topics/__consumer_offsets/0", ".log").remove(0);
        let (_, position, _) = batches(&disk.read(&segment).unwrap())[1];
        disk.flip_bit(&segment, (position + BATCH_HEADER + 4) as u64 * 8).unwrap();

        let broker = open(&disk).unwrap();
        let refused = committed(&broker, "second").unwrap_err();
        assert!(matches!(refused, Error::Corrupt(_)), "{refused}");
        let damaged = broker.damaged();
        assert_eq!(damaged.len(), 1);
        let (topic, partition) = (damaged[0].topic.as_str(), damaged[0].partition.get());
        assert_eq!((topic, partition), (OFFSETS, 0));
        let damage: Vec<DamagedRange> = broker.damage(topic, partition).unwrap();
        assert_eq!(damage.len(), 1);
        broker.accept_loss(topic, partition, &damage).unwrap();

        assert!(broker.damaged().is_empty());
        let mut left = 0;
        for group in ["first", "second", "third"] {
            left += committed(&broker, group).unwrap().len();
            let mut consumer = broker.consumer(group).subscribe(["t"]).unwrap();
            let records = consumer.poll(Duration::ZERO).unwrap();
            consumer.commit(&records).unwrap();
        }
        assert!(left >= 2, "{left} commits were not damaged");
        broker.close().unwrap();
        let broker = open(&disk).unwrap();
        for group in ["first", "second", "third"] {
            assert_eq!(
                committed(&broker, group).unwrap().into_values().collect::<Vec<_>>(),
                [Offset::new(6)]
            );
        }
    }
}

#[test]
fn an_idempotent_producer_is_still_known_and_its_retries_are_not_stored_twice() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
    for n in 0..30 {
        named.send(&p, Record::new(value(n)).sequence(n + 1)).unwrap().wait().unwrap();
    }
    broker.close().unwrap();
    let segment = files(&disk, "topics/t/0", ".log").remove(0);
    let (_, position, _) = batches(&disk.read(&segment).unwrap())[1];
    disk.flip_bit(&segment, (position + 20) as u64 * 8).unwrap();
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    p.accept_loss(&p.damage().unwrap()).unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("import")).unwrap();
    named.send(&p, Record::new(value(29)).sequence(30)).unwrap().wait().unwrap();
    assert_eq!(p.bounds().unwrap().log_end, 30);
    named.send(&p, Record::new(value(30)).sequence(31)).unwrap().wait().unwrap();
    assert_eq!(p.bounds().unwrap().log_end, 31);
}

#[test]
fn a_damaged_manifest_is_left_to_salvage() {
    let disk = filled(true);
    disk.flip_bit("topics/t/0/manifest", 300).unwrap();
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let before = snapshot(&disk);
    for error in [p.damage().unwrap_err(), p.accept_loss(&[]).unwrap_err()] {
        assert!(matches!(&error, Error::Corrupt(c) if c.file.ends_with("topics/t/0/manifest")), "{error}");
    }
    assert_eq!(snapshot(&disk), before);
}

#[test]
fn a_full_disk_changes_nothing() {
    let disk = damaged(&[0, 2]);
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let damage = p.damage().unwrap();
    for nth in 1..40 {
        // From there on, so that the reserve does not help either.
        disk.fail_always(quipu::testing::Op::Write, nth, std::io::ErrorKind::StorageFull);
        match p.accept_loss(&damage) {
            Err(error) => assert!(matches!(error, Error::DiskFull { .. }), "{error}"),
            Ok(_) => {
                assert!(nth > 3);
                disk.clear_faults();
                fill(&broker, &p, RECORDS + 2);
                return;
            }
        }
        disk.clear_faults();
        assert_eq!(p.damage().unwrap(), damage);
    }
    panic!("it never had enough writes");
}

/// The offsets that a lost active segment had given out are known from its successor's absence
/// only: none is given out again.
#[test]
fn no_offset_that_was_given_out_is_given_out_again() {
    let disk = filled(true);
    let last = files(&disk, "topics/t/0", ".log").pop().unwrap();
    disk.remove(&last).unwrap();
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    let end = p.bounds().unwrap().log_end;
    assert_eq!(end, RECORDS, "the checkpoint of the clean close knows it");
    p.accept_loss(&p.damage().unwrap()).unwrap();
    let receipt = send(&broker, &p, "next").unwrap();
    assert!(receipt.offset >= end && receipt.epoch > 0, "{receipt}");
    assert_eq!(crash_at_every_opening(&disk), p.bounds().unwrap().log_end);
}

/// The log end after a crash at any operation of the next opening.
fn crash_at_every_opening(disk: &Disk) -> Offset {
    let mut end = None;
    crash_at_each_operation(&disk.duplicate(), open, |disk, _| {
        disk.crash(Survive::Everything);
        let broker = open(disk).unwrap();
        let found = partition(&broker).bounds().unwrap().log_end;
        assert_eq!(*end.get_or_insert(found), found);
    });
    end.unwrap()
}

#[test]
fn the_kept_bytes_are_left_alone_by_later_openings() {
    let disk = damaged(&[1]);
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    p.accept_loss(&p.damage().unwrap()).unwrap();
    broker.close().unwrap();
    let kept = files(&disk, "topics/t/0", ".lost");
    assert_eq!(kept.len(), 1);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().warnings.is_empty(), "{:?}", broker.open_report().warnings);
    assert_eq!(files(&disk, "topics/t/0", ".lost"), kept);
    assert!(Path::new(&kept[0]).starts_with("topics/t/0"));
}

/// Accepted records must be durable before the manifest marks them as checked.
#[test]
fn records_that_were_not_synced_are_on_the_medium_afterwards() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p = broker.create_topic("t", small().durability(Durability::Os)).unwrap().partition(0).unwrap();
    fill(&broker, &p, 10);
    broker.sync().unwrap();
    // These prove that the first ones were durable.
    fill(&broker, &p, RECORDS);
    disk.crash(Survive::Everything);
    let segment = files(&disk, "topics/t/0", ".log").remove(0);
    let (base, position, _) = batches(&disk.read(&segment).unwrap())[2];
    disk.flip_bit(&segment, (position + 20) as u64 * 8).unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(broker.open_report().damaged.len(), 1);
    let p = partition(&broker);
    p.accept_loss(&p.damage().unwrap()).unwrap();
    let broker = disk.crash_and_reopen(Survive::Synced, config()).unwrap();
    assert_works(&broker, &[(base, base + 1)], RECORDS, "after a power loss");
}

/// Versions count the events that are there, whatever an index had counted before, and whether or
/// not there is one.
#[test]
fn streams_hold_their_remaining_events() {
    streams_hold_their_remaining_events_with(true);
    streams_hold_their_remaining_events_with(false);
}

fn streams_hold_their_remaining_events_with(indexes: bool) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700);
    let topic = broker.create_topic("t", config).unwrap();
    for n in 0..40 {
        let event = Record::new(value(n)).key(["a", "b"][n as usize % 2]);
        broker.producer().send(&topic, event).unwrap().wait().unwrap();
    }
    broker.maintain().unwrap();
    broker.close().unwrap();
    assert!(files(&disk, "topics/t/0", ".keys").len() >= 4);
    if !indexes {
        files(&disk, "topics/t/0", ".keys").iter().for_each(|path| disk.remove(path).unwrap());
    }
    let segment = files(&disk, "topics/t/0", ".log").remove(1);
    let (base, position, _) = batches(&disk.read(&segment).unwrap())[1];
    disk.flip_bit(&segment, (position + 20) as u64 * 8).unwrap();
    let broker = open(&disk).unwrap();
    // An index is open while its counts become wrong.
    let stream = |broker: &Broker, key: &str| broker.topic("t").unwrap().stream(key).unwrap();
    let _ = stream(&broker, "a").version();
    let p = partition(&broker);
    p.accept_loss(&p.damage().unwrap()).unwrap();
    let lost = ["a", "b"][base as usize % 2];
    for run in 0..3 {
        let broker = if run == 0 { broker.clone() } else { open(&disk).unwrap() };
        for key in ["a", "b"] {
            let expected = if key == lost { 19 } else { 20 };
            let stream = stream(&broker, key);
            assert_eq!(stream.version().unwrap().get(), expected, "{key}, run {run}");
            let events = stream.load().unwrap();
            assert_eq!(events.len() as u64, expected, "{key}, run {run}");
        }
        broker.close().unwrap();
    }
}

/// A projection that has applied everything before the damage continues after it: the lost events
/// never come.
#[test]
fn a_projection_continues_after_the_lost_offsets() {
    let disk = damaged(&[1]);
    let broker = open(&disk).unwrap();
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let apply = {
        let seen = seen.clone();
        move |event: &quipu::ConsumedRecord<'_>, _: &mut quipu::Transaction| -> quipu::Result<()> {
            seen.borrow_mut().push(event.offset().get());
            Ok(())
        }
    };
    let mut projector = broker.consumer("view").project(["t"], apply).unwrap();
    let error = projector.catch_up(|_| {}).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    let p = partition(&broker);
    let lost = p.accept_loss(&p.damage().unwrap()).unwrap();
    drop(projector);
    let apply = {
        let seen = seen.clone();
        move |event: &quipu::ConsumedRecord<'_>, _: &mut quipu::Transaction| -> quipu::Result<()> {
            seen.borrow_mut().push(event.offset().get());
            Ok(())
        }
    };
    let mut projector = broker.consumer("view").project(["t"], apply).unwrap();
    projector.catch_up(|_| {}).unwrap();
    let expected: Vec<_> = without(RECORDS, &offsets_of(&lost)).into_keys().collect();
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn damaged_batches_that_follow_each_other_are_one_lost_range() {
    let disk = filled(true);
    let segment = files(&disk, "topics/t/0", ".log").remove(1);
    let batches = batches(&disk.read(&segment).unwrap());
    for (_, position, _) in &batches[1..3] {
        disk.flip_bit(&segment, (position + BATCH_HEADER + 5) as u64 * 8).unwrap();
    }
    let p = partition(&open(&disk).unwrap());
    let damage = p.damage().unwrap();
    assert_eq!(damage.len(), 2, "{damage:?}");
    let lost = p.accept_loss(&damage).unwrap();
    assert_eq!(offsets_of(&lost), [(batches[1].0, batches[3].0)]);
}
