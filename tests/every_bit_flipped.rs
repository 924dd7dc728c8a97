//! Every bit of a directory flipped, one at a time. After a clean close: a corruption is reported, or nothing has changed.
//! After an unclean stop a torn tail cannot always be told from damage: then the cut names the offsets it took. Never wrong
//! data, never a panic.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::PathBuf;

use common::{Dump, thorough};
use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Compression, Durability, Error, Record, Start, TopicConfig};

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

/// What a partition answers when all of it is read: the records up to its end, or up to an error.
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
                            // All of a record is compared: a flipped bit in a key or a header counts too.
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
    errors.extend(broker.open_report().damaged.iter().map(|(_, _, e)| e.clone()));
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
    disk.files().into_iter().flat_map(|(path, len)| (0..len * 8).map(move |bit| (path.clone(), bit)))
}

#[test]
fn after_a_clean_close_it_is_corruption_or_it_changes_nothing() {
    let disk = Disk::new();
    fill(&disk, if thorough() { 30 } else { 6 }).close().unwrap();
    let whole = {
        let disk = disk.duplicate();
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().clean);
        read(&broker).0
    };
    let (mut reported, mut harmless) = (0, 0);
    for (path, bit) in flips(&disk) {
        let case = format!("bit {bit} of {}", path.display());
        let disk = disk.duplicate();
        disk.flip_bit(&path, bit).unwrap();
        match open(&disk) {
            Ok(broker) => {
                let (found, errors) = read(&broker);
                assert_prefixes(&found, &whole, &case);
                assert!(
                    broker.open_report().cuts.is_empty(),
                    "{case}: something was cut after a clean close"
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
    assert!(reported > harmless && reported > 5_000, "{reported} reported, {harmless} harmless");
}

#[test]
fn after_an_unclean_stop_a_cut_names_what_it_took() {
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
    for (path, bit) in flips(&stopped) {
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
            let named =
                report.cuts.iter().find(|cut| cut.topic == *place.0 && cut.partition.get() == place.1);
            if let Some(named) = named {
                assert_eq!(named.from, records.len() as u64, "{case}: the cut is named by its first offset");
                assert!(named.bytes == 0 || named.kept.is_some(), "{case}: the bytes are kept");
            } else if *records != whole[place] {
                assert!(!errors.is_empty(), "{case}: records are missing without a word");
            }
        }
        match (report.cuts.is_empty(), errors.is_empty()) {
            (false, _) => cut += 1,
            (true, false) => reported += 1,
            (true, true) => harmless += 1,
        }
    }
    println!("{} bits: {reported} reported, {cut} cut, {harmless} harmless", reported + cut + harmless);
    assert!(reported > 1_000 && cut > 100, "{reported} reported, {cut} cut, {harmless} harmless");
}

/// What a caller may be told of a flipped bit. A flip in a version field looks like a newer format.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt(_) | Error::UnsupportedFormat { .. })
}
