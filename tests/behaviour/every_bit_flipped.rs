//! Every bit of a directory is flipped, one at a time. After a clean close a corruption is reported
//! or nothing has changed. After an unclean stop a torn tail cannot always be distinguished from
//! damage: then the report of the truncation names the removed offsets. No record is ever wrong,
//! and nothing panics. The same holds for a compacted log, and damage is not compacted away.
//!
//! By default every third bit is flipped (so every bit of a byte, somewhere), with
//! `QUIPU_THOROUGH=1` every one, of larger directories.

use std::path::PathBuf;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, Durability, Error, ProducerConfig, Record, Start, TopicConfig,
};

use crate::common::{Dump, thorough};

fn open(disk: &Disk) -> quipu::Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk)
}

/// A directory with every feature of the format in it, still open.
fn fill(disk: &Disk, records: usize) -> Broker {
    let broker = open(disk).unwrap();
    let small = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(300).index_interval_bytes(200);
    let plain = broker.create_topic("plain", small.clone().durability(Durability::Sync)).unwrap();
    let packed = broker.create_topic("packed", small.compression(Compression::Lz4)).unwrap();
    let producer = broker.producer();
    for i in 0..records {
        let record = Record::new(format!("value {i} {}", "abc".repeat(i % 20))).key(format!("key {}", i % 3));
        let record = if i % 5 == 0 { record.header("kind", "test").null_header("none") } else { record };
        producer.send(&plain, record).unwrap().wait().unwrap();
        let many = (0..4).map(|n| Record::new(format!("packed {i} {n} {}", "z".repeat(40))));
        producer.send_all(&packed, many).unwrap().wait().unwrap();
    }
    producer.send(&plain, Record::tombstone("key 1")).unwrap().wait().unwrap();
    broker
}

/// The result of reading all of a partition: the records up to its end, or up to an error.
fn read(broker: &Broker) -> (Dump, Vec<Error>) {
    let (mut dump, mut errors) = (Dump::new(), Vec::new());
    for topic in broker.topics() {
        for partition in topic.partitions() {
            let mut records = Vec::new();
            let mut from = match partition.bounds() {
                Ok(bounds) => bounds.log_start,
                Err(e) => {
                    errors.push(e);
                    continue;
                }
            };
            loop {
                match partition.read(Start::At(from), 1 << 20) {
                    Ok(some) => {
                        let Some(last) = some.last() else { break };
                        from = last.offset().plus(1);
                        for r in &some {
                            // All of a record is compared: a flipped bit in a key or a header
                            // counts too.
                            let headers: Vec<_> =
                                r.headers().map(|(n, v)| (n.to_string(), v.map(<[u8]>::to_vec))).collect();
                            let all =
                                format!("{:?} {:?} {:?} {}", r.key(), r.value(), headers, r.timestamp());
                            records.push((r.offset().get(), all.into_bytes()));
                        }
                    }
                    Err(e) => {
                        errors.push(e);
                        break;
                    }
                }
            }
            dump.insert((topic.name().to_string(), partition.id().get()), records);
        }
    }
    errors.extend(broker.open_report().damaged.iter().map(|(_, e)| e.clone()));
    (dump, errors)
}

fn assert_prefixes(found: &Dump, whole: &Dump, case: &str) {
    for (place, records) in found {
        let whole = &whole[place];
        assert!(
            records.len() <= whole.len() && *records == whole[..records.len()],
            "{case}: wrong data in {place:?}"
        );
    }
}

fn flips(disk: &Disk) -> impl Iterator<Item = (PathBuf, u64)> {
    // The reserve holds no data.
    let files = disk.files().into_iter().filter(|(path, _)| path.as_os_str() != "reserve");
    files.flat_map(|(path, len)| (0..len * 8).map(move |bit| (path.clone(), bit)))
}

#[test]
fn after_a_clean_close_a_flipped_bit_is_reported_or_harmless() {
    let disk = Disk::new();
    fill(&disk, if thorough() { 30 } else { 6 }).close().unwrap();
    let whole = {
        let disk = disk.duplicate();
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().clean);
        read(&broker).0
    };
    let (mut reported, mut harmless) = (0, 0);
    for (path, bit) in flips(&disk).filter(|(_, bit)| thorough() || bit % 3 == 0) {
        let case = format!("bit {bit} of {}", path.display());
        let disk = disk.duplicate();
        disk.flip_bit(&path, bit).unwrap();
        match open(&disk) {
            Ok(broker) => {
                let (found, errors) = read(&broker);
                assert_prefixes(&found, &whole, &case);
                assert!(
                    broker.open_report().truncated_tails.is_empty(),
                    "{case}: something was truncated after a clean close"
                );
                for error in &errors {
                    assert!(is_damage(error), "{case}: {error}");
                }
                if found == whole && errors.is_empty() {
                    harmless += 1;
                } else {
                    assert!(!errors.is_empty(), "{case}: records are missing without a word");
                    reported += 1;
                }
            }
            Err(error) => {
                assert!(is_damage(&error), "{case}: {error}");
                reported += 1;
            }
        }
    }
    println!("{} bits: {reported} reported, {harmless} harmless", reported + harmless);
    assert!(reported > harmless && reported > 3_000, "{reported} reported, {harmless} harmless");
}

#[test]
fn after_an_unclean_stop_a_truncation_names_the_removed_offsets() {
    let disk = Disk::new();
    let broker = fill(&disk, if thorough() { 18 } else { 4 });
    let stopped = disk.duplicate();
    drop(broker);
    stopped.crash(Survive::Everything);
    let whole = {
        let disk = stopped.duplicate();
        let broker = open(&disk).unwrap();
        assert!(!broker.open_report().clean);
        read(&broker).0
    };
    let (mut reported, mut cut, mut harmless) = (0, 0, 0);
    for (path, bit) in flips(&stopped).filter(|(_, bit)| thorough() || bit % 3 == 1) {
        let case = format!("bit {bit} of {}", path.display());
        let disk = stopped.duplicate();
        disk.flip_bit(&path, bit).unwrap();
        let broker = match open(&disk) {
            Ok(broker) => broker,
            Err(error) => {
                assert!(is_damage(&error), "{case}: {error}");
                reported += 1;
                continue;
            }
        };
        let (found, errors) = read(&broker);
        assert_prefixes(&found, &whole, &case);
        for error in &errors {
            assert!(is_damage(error), "{case}: {error}");
        }
        let report = broker.open_report();
        for (place, records) in &found {
            let named = report
                .truncated_tails
                .iter()
                .find(|cut| cut.topic == *place.0 && cut.partition.get() == place.1);
            if let Some(named) = named {
                assert_eq!(
                    named.from,
                    records.len() as u64,
                    "{case}: the truncation is named by its first offset"
                );
                assert!(named.bytes == 0 || named.kept.is_some(), "{case}: the bytes are kept");
            } else if *records != whole[place] {
                assert!(!errors.is_empty(), "{case}: records are missing without a word");
            }
        }
        match (report.truncated_tails.is_empty(), errors.is_empty()) {
            (false, _) => cut += 1,
            (true, false) => reported += 1,
            (true, true) => harmless += 1,
        }
    }
    println!("{} bits: {reported} reported, {cut} truncated, {harmless} harmless", reported + cut + harmless);
    assert!(reported > 500 && cut > 100, "{reported} reported, {cut} truncated, {harmless} harmless");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Two compacted logs, plain and compressed: batches with gaps and without records, tombstones,
/// segments that were merged, and after those sealed and not yet compacted ones.
fn fill_compacted(disk: &Disk, rounds: u64) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(disk).unwrap();
    let producer = broker.producer();
    for (name, compression) in [("plain", Compression::None), ("packed", Compression::Lz4)] {
        let config = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(300).compression(compression);
        let config =
            config.cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(1.0).delete_retention(100 * DAY);
        let partition = broker.create_topic(name, config).unwrap().partition(0).unwrap();
        let outbox = broker.producer_with(ProducerConfig::new().name("outbox")).unwrap();
        let send = |round: u64| {
            let records = (0..4).filter(|n| *n != round % 4).map(|n| match n {
                3 => Record::tombstone(format!("key {}", round % 5)),
                _ => Record::new(format!("value {round} {n} {}", "z".repeat(30)))
                    .key(format!("key {}", n * round % 7)),
            });
            producer
                .send_all(&partition, records.map(|record| record.header("kind", "test")))
                .unwrap()
                .wait()
                .unwrap();
        };
        let first = Record::new("sent once").key("key 0").sequence(1);
        outbox.send(&partition, first).unwrap().wait().unwrap();
        (0..rounds).for_each(send);
        clock.advance(8 * DAY);
        broker.maintain().unwrap();
        let done = partition.compact().unwrap().unwrap();
        assert!(
            done.segments_after < done.segments_before && done.records_after < done.records_before,
            "{done:?}"
        );
        (rounds..rounds + 2).for_each(send);
        clock.advance(8 * DAY);
        broker.maintain().unwrap();
    }
    broker.close().unwrap();
}

/// The next compaction, which drops tombstones too, of every partition that can be opened.
fn compact(broker: &Broker) -> Vec<Error> {
    let partitions = broker.topics().into_iter().flat_map(|topic| topic.partitions());
    partitions.filter_map(|partition| partition.compact().err()).collect()
}

/// A flipped bit in a compacted log is found by every reader, and by the next compaction, which
/// leaves the log unchanged then: no record is lost over it.
#[test]
fn in_a_compacted_log_a_flipped_bit_is_reported_and_never_compacted_away() {
    let disk = Disk::new();
    fill_compacted(&disk, if thorough() { 20 } else { 8 });
    let open = |disk: &Disk| {
        let clock = ManualClock::new();
        clock.advance(200 * DAY);
        BrokerConfig::new().clock(clock).seed(1).on_disk(disk)
    };
    let (before, after) = {
        let disk = disk.duplicate();
        let broker = open(&disk).unwrap();
        let before = read(&broker).0;
        assert!(compact(&broker).is_empty());
        (before, read(&broker).0)
    };
    assert!(
        before.keys().all(|place| after[place].len() < before[place].len()),
        "there is something to clean"
    );
    let (mut reported, mut harmless, mut cleaned) = (0, 0, 0);
    // The catalog and the checkpoint are as in any directory.
    let ours = |(path, bit): &(PathBuf, u64)| thorough() || (path.starts_with("topics") && bit % 3 == 0);
    for (path, bit) in flips(&disk).filter(ours) {
        let case = format!("bit {bit} of {}", path.display());
        let flipped = disk.duplicate();
        flipped.flip_bit(&path, bit).unwrap();
        let broker = match open(&flipped) {
            Ok(broker) => broker,
            Err(error) => {
                assert!(is_damage(&error), "{case}: {error}");
                reported += 1;
                continue;
            }
        };
        // Compacted first: bytes that no reader has checked are not trusted either.
        let refused = compact(&broker);
        let (found, errors) = read(&broker);
        assert!(
            broker.open_report().truncated_tails.is_empty(),
            "{case}: something was truncated after a clean close"
        );
        for error in errors.iter().chain(&refused) {
            assert!(is_damage(error), "{case}: {error}");
        }
        for (place, records) in &found {
            let (before, after) = (&before[place], &after[place]);
            let is_prefix = |whole: &Vec<_>| whole.get(..records.len()) == Some(&records[..]);
            assert!(records == after || is_prefix(before), "{case}: wrong data in {place:?}");
            if records != after {
                assert!(!refused.is_empty() || !errors.is_empty(), "{case}: {place:?} without a word");
                assert!(records == before || !errors.is_empty(), "{case}: records of {place:?} are missing");
            }
            cleaned += u64::from(records == after);
        }
        match errors.is_empty() && refused.is_empty() {
            true => harmless += 1,
            false => reported += 1,
        }
    }
    println!(
        "{} bits: {reported} reported, {harmless} harmless, {cleaned} logs compacted",
        reported + harmless
    );
    assert!(reported > harmless && reported > 3_000, "{reported} reported, {harmless} harmless");
}

/// The possible errors for a flipped bit. A flip in a version field looks like a newer format.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt(_) | Error::UnsupportedFormat { .. })
}
