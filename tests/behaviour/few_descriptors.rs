//! A process that has few descriptors, or none left: files of idle partitions are closed, and where
//! there is none to close an operation fails and nothing else does.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, ExpectedVersion, IoAction, Outcome, Partition,
    ReadMode, Record, Start, Topic, TopicConfig,
};

use crate::common::{at, dump, files, read, small};

/// The catalog and the journal stay open.
const ALWAYS: usize = 2;
/// The numbers of `ENFILE` and `ENODEV`.
const ENFILE: i32 = 23;
const ENODEV: i32 = 19;

fn config() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).max_open_files(16).tail_cache_bytes(0)
}

fn send(broker: &Broker, to: &Partition, value: &str) -> quipu::Result<u64> {
    Ok(broker.producer().send(to, Record::new(value))?.wait()?.offset.get())
}

fn fill(broker: &Broker, topic: &Topic, records: u64) {
    for n in 0..records {
        for partition in topic.partitions() {
            send(broker, &partition, &format!("{n} {}", "x".repeat(400))).unwrap();
        }
    }
}

/// The message names the path, the bound and the setting.
fn assert_no_descriptor(error: &Error, action: IoAction, case: &str) {
    let Error::Io { action: found, path, .. } = error else { panic!("{case}: {error:?}") };
    let text = error.to_string();
    assert_eq!(*found, action, "{case}: {text}");
    assert!(text.contains(&path.display().to_string()) && text.contains("Too many open files"), "{text}");
    assert!(text.contains("of max_open_files 16") && text.contains("ulimit -n"), "{case}: {text}");
}

/// Everything that opens files, once each.
fn use_all(broker: &Broker) -> quipu::Result<()> {
    let topic = broker.topic("t")?;
    let streams = broker.topic("streams")?;
    for partition in topic.partitions() {
        send(broker, &partition, &"a".repeat(500))?;
    }
    let mut transaction = broker.transaction();
    for partition in topic.partitions().into_iter().take(2) {
        transaction.send(&partition, Record::new("b".repeat(500)));
    }
    transaction.commit()?;
    for key in 0..4 {
        let stream = streams.stream(format!("s{key}"))?;
        stream.append(ExpectedVersion::Any, [Record::new("c".repeat(300))])?;
        stream.load()?;
    }
    broker.sync()?;
    broker.maintain()?;
    let made = broker.ensure_topic("more", small())?;
    send(broker, &made.partition(0)?, "d")?;
    broker.delete_topic("more")?;
    for partition in topic.partitions() {
        partition.delete_records(quipu::Offset::new(1))?;
        partition.truncate_to(partition.bounds()?.log_end)?;
    }
    dump(broker).map(drop)
}

fn made(disk: &Disk, config: BrokerConfig) -> Broker {
    made_with(disk, config, Durability::Sync)
}

fn made_with(disk: &Disk, config: BrokerConfig, durability: Durability) -> Broker {
    let broker = config.on_disk(disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(6).durability(durability)).unwrap();
    broker
        .create_topic("streams", TopicConfig::streams().segment_bytes(2 << 10).max_record_bytes(700))
        .unwrap();
    fill(&broker, &topic, 4);
    broker
}

#[test]
fn a_process_with_four_descriptors_to_spare_can_do_everything() {
    let disk = Disk::new();
    let broker = made(&disk, config());
    // A roll takes a segment, its manifest and its directory, and a transaction the file of another
    // partition.
    disk.limit_descriptors(ALWAYS + 4);
    use_all(&broker).unwrap();
    broker.close().unwrap();
    drop(broker);
    let broker = config().on_disk(&disk).unwrap();
    assert!(broker.open_report().damaged.is_empty());
    let before = dump(&broker).unwrap();
    disk.crash(Survive::Everything);
    let broker = config().on_disk(&disk).unwrap();
    assert_eq!(dump(&broker).unwrap(), before);
}

#[test]
fn the_whole_system_without_descriptors_is_the_same() {
    let disk = Disk::new();
    let broker = made(&disk, config());
    for n in 0..30 {
        disk.fail_with_number(Op::OpenFile, 3 * n, ENFILE);
    }
    use_all(&broker).unwrap();
}

/// Without any descriptor, operations fail; afterwards everything works, and no record that was
/// acknowledged is gone.
#[test]
fn a_lack_of_descriptors_poisons_nothing() {
    for limit in 0..ALWAYS + 4 {
        for durability in [Durability::Sync, Durability::Os] {
            let disk = Disk::new();
            let poisoned = Arc::new(Mutex::new(Vec::new()));
            let told = poisoned.clone();
            let config = config().on_event(move |event| {
                if let Event::Poisoned { cause, .. } = event {
                    told.lock().unwrap().push(cause.to_string());
                }
            });
            let broker = made_with(&disk, config, durability);
            let topic = broker.topic("t").unwrap();
            let mut acknowledged = BTreeMap::new();
            for round in 0..6 {
                disk.limit_descriptors(limit);
                for partition in topic.partitions() {
                    let value = format!("{round} {}", "y".repeat(400));
                    if let Ok(offset) = send(&broker, &partition, &value) {
                        acknowledged.insert((partition.id().get(), offset), value);
                    }
                    let _ = broker.sync();
                    let _ = broker.maintain();
                }
                let _ = use_all(&broker);
                disk.limit_descriptors(None);
                // Files that are open from here on are found open under the limit.
                send(&broker, &topic.partition(round % 6).unwrap(), "open").unwrap();
            }
            let case = format!("limit {limit}, {durability:?}");
            assert!(poisoned.lock().unwrap().is_empty(), "{case}: {:?}", poisoned.lock().unwrap());
            use_all(&broker).unwrap();
            let found = dump(&broker).unwrap();
            for ((partition, offset), value) in acknowledged {
                let records = &found[&("t".to_string(), partition)];
                let record = records.iter().find(|(at, _)| *at == offset);
                // `use_all` deletes the first record.
                assert!(offset == 0 || record.unwrap().1 == value.as_bytes(), "{case}");
            }
            broker.sync().unwrap();
            disk.crash(Survive::Synced);
            let broker = config_of(&disk);
            assert!(broker.open_report().damaged.is_empty(), "{case}");
            assert_eq!(dump(&broker).unwrap(), found, "{case}");
        }
    }
}

fn config_of(disk: &Disk) -> Broker {
    config().on_disk(disk).unwrap()
}

#[test]
fn an_append_without_a_descriptor_is_refused_by_an_error_that_names_path_bound_and_setting() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(40)).unwrap();
    fill(&broker, &topic, 1);
    let closed = topic.partition(0).unwrap();
    disk.limit_descriptors(0);
    let error = send(&broker, &closed, "refused").unwrap_err();
    assert_no_descriptor(&error, IoAction::Open, "an append");
    assert_eq!(error.outcome(), Outcome::NotWritten);
    assert_eq!(broker.stats().open_files, 0, "all that could be closed was");
    let error = closed.read(at(0), 100).unwrap_err();
    assert_no_descriptor(&error, IoAction::Open, "a read");
    assert_no_descriptor(&broker.create_topic("u", small()).unwrap_err(), IoAction::List, "a topic");
    disk.limit_descriptors(None);
    let other = broker.create_topic("u", small()).unwrap().partition(0).unwrap();
    disk.limit_descriptors(0);
    let error = send(&broker, &other, "refused").unwrap_err();
    assert_no_descriptor(&error, IoAction::Create, "the files of a partition");
    disk.limit_descriptors(None);
    assert_eq!(send(&broker, &closed, "taken").unwrap(), 1);
    assert_eq!(closed.read(at(0), 10_000).unwrap().len(), 2);
}

#[test]
fn a_sync_without_a_descriptor_is_not_a_failed_sync() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(40)).unwrap();
    fill(&broker, &topic, 1);
    disk.limit_descriptors(0);
    let error = broker.sync().unwrap_err();
    assert_no_descriptor(&error, IoAction::Sync, "a sync");
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(broker.stats().topics[0].partitions.iter().all(|partition| partition.poisoned.is_none()));
    disk.limit_descriptors(None);
    broker.sync().unwrap();
    fill(&broker, &topic, 1);
    broker.sync().unwrap();
    disk.crash(Survive::Synced);
    let broker = config_of(&disk);
    assert!(dump(&broker).unwrap().values().all(|records| records.len() == 2));
}

/// The sync of a transaction needs the segments before it. Without a descriptor for one of them it
/// fails, and the journal works afterwards.
#[test]
fn a_transaction_whose_sync_finds_no_descriptor_leaves_the_journal_working() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let strict = broker.create_topic("strict", small().durability(Durability::Sync)).unwrap();
    let lax = broker.create_topic("lax", small()).unwrap();
    let others = broker.create_topic("others", small().partitions(20)).unwrap();
    let begin = || {
        let mut transaction = broker.transaction();
        transaction.send(&strict, Record::new("a"));
        transaction.send(&lax, Record::new("b".repeat(600)));
        transaction.commit_async()
    };
    // A sealed segment that is not synced, and is closed.
    fill(&broker, &lax, 2);
    let pending = begin();
    fill(&broker, &others, 1);
    disk.limit_descriptors(0);
    let error = pending.wait().unwrap_err();
    assert_no_descriptor(&error, IoAction::Sync, "a transaction");
    disk.limit_descriptors(None);
    assert!(broker.stats().topics.iter().all(|t| t.partitions.iter().all(|p| p.poisoned.is_none())));
    begin().wait().unwrap();
    disk.crash(Survive::Synced);
    let found = dump(&config_of(&disk)).unwrap();
    assert_eq!(found[&("strict".to_string(), 0)].len(), 2);
}

/// The manifest is renamed only when the directory, which must be synced then, is open.
#[test]
fn a_file_is_replaced_only_with_a_descriptor_for_the_sync_of_its_directory() {
    for free in 0..3 {
        let disk = Disk::new();
        let broker = config().on_disk(&disk).unwrap();
        let config = small().durability(Durability::Sync);
        let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        send(&broker, &partition, &"x".repeat(600)).unwrap();
        // The active segment is open, and the next record needs another one.
        disk.limit_descriptors(disk.descriptors() + free);
        let rolled = send(&broker, &partition, &"x".repeat(600));
        disk.limit_descriptors(None);
        assert!(partition.stats().poisoned.is_none(), "{free} descriptors: {rolled:?}");
        let end = partition.bounds().unwrap().log_end.get();
        assert_eq!(send(&broker, &partition, &"x".repeat(600)).unwrap(), end);
        assert_eq!(rolled.is_ok(), free > 1, "a segment, its manifest or its directory");
        disk.crash(Survive::Synced);
        config_of(&disk);
    }
}

// -- readers --

#[test]
fn readers_of_three_hundred_partitions_keep_no_more_files_than_the_bound() {
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let disk = Disk::new();
        let broker = config().read_mode(mode).on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", small().partitions(300)).unwrap();
        fill(&broker, &topic, 5);
        broker.maintain().unwrap();
        let assert_bound = |case: &str| {
            let (open, descriptors) = (broker.stats().open_files, disk.descriptors());
            assert!(open <= 16, "{mode:?}: {case}: {open} files and maps");
            assert!(descriptors <= 16 + ALWAYS, "{mode:?}: {case}: {descriptors} descriptors");
        };
        let mut consumer = broker.consumer("g").max_records(100).subscribe(["t"]).unwrap();
        let mut readers: Vec<_> = topic
            .partitions()
            .iter()
            .map(|partition| {
                let (topic, epoch) = (topic.name().clone(), partition.epoch());
                let at_start = quipu::Position::new(topic, partition.id(), 0, epoch);
                broker.reader_at(&[at_start]).unwrap().max_records(1)
            })
            .collect();
        let mut counts = [0, 0];
        for _ in 0..5 {
            for reader in &mut readers {
                counts[0] += reader.poll(std::time::Duration::ZERO).unwrap().len();
            }
            assert_bound("readers");
        }
        loop {
            let records = consumer.poll(std::time::Duration::ZERO).unwrap();
            if records.is_empty() {
                break;
            }
            counts[1] += records.len();
            drop(records);
            assert_bound("a consumer");
        }
        assert_eq!(counts, [1500, 1500], "{mode:?}");
        // They follow on from where they were.
        fill(&broker, &topic, 1);
        for reader in &mut readers {
            assert_eq!(reader.poll(std::time::Duration::ZERO).unwrap().len(), 1);
        }
        assert_bound("the next record");
    }
}

/// A poll that returns a part of a batch keeps the rest for the next one, and no map of it once maps
/// are scarce.
#[test]
fn the_rest_of_a_batch_does_not_keep_a_map_where_maps_are_scarce() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let plain =
        TopicConfig::new().segment_bytes(4 << 10).max_record_bytes(3_000).compression(Compression::None);
    let topic = broker.create_topic("t", plain.partitions(60)).unwrap();
    for partition in topic.partitions() {
        for batch in 0..3 {
            let records = (0..10).map(|n| Record::new(format!("{batch} {n} {}", "z".repeat(200))));
            broker.producer().send_all(&partition, records).unwrap().wait().unwrap();
        }
    }
    let other = broker.create_topic("other", small().partitions(4)).unwrap();
    fill(&broker, &other, 3);
    broker.maintain().unwrap();
    let reader = |_| broker.reader(["t"], Start::Beginning).unwrap().max_records(3);
    let mut readers: Vec<_> = (0..20).map(reader).collect();
    let mut seen = vec![BTreeMap::new(); readers.len()];
    for round in 0..600 {
        for (reader, seen) in readers.iter_mut().zip(&mut seen) {
            for record in &reader.poll(std::time::Duration::ZERO).unwrap() {
                let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                let (batch, n) = (record.offset().get() / 10, record.offset().get() % 10);
                assert!(value.starts_with(&format!("{batch} {n} ")), "{value}");
                seen.insert((record.partition(), record.offset()), ());
            }
        }
        assert!(broker.stats().open_files <= 16, "{} files and maps", broker.stats().open_files);
        if round == 70 {
            // Every reader has the rest of a batch, and others still get their maps.
            let maps = disk.ops_of(Op::Map);
            for partition in other.partitions() {
                partition.read(at(0), 1).unwrap();
            }
            assert!(disk.ops_of(Op::Map) >= maps + 3, "the rests of batches keep every map");
        }
    }
    assert!(seen.iter().all(|seen| seen.len() == 60 * 30));
}

/// Records that the caller keeps refer to maps, which cannot be taken back: other segments are read
/// by position then, and files are left.
#[test]
fn records_that_are_kept_take_a_part_of_the_bound_and_never_more() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(40).compression(Compression::None)).unwrap();
    fill(&broker, &topic, 3);
    broker.maintain().unwrap();
    let kept: Vec<_> = topic.partitions().iter().map(|partition| partition.read(at(0), 1).unwrap()).collect();
    assert!(broker.stats().open_files <= 16);
    fill(&broker, &topic, 1);
    assert!(broker.stats().open_files <= 16 && disk.descriptors() <= 16 + ALWAYS);
    for records in kept {
        assert!(records.iter().next().unwrap().value().unwrap().starts_with(b"0 x"));
    }
}

/// Between two polls the segment of a reader is compacted, deleted or truncated, and its file is
/// closed.
#[test]
fn a_reader_continues_after_its_segment_was_replaced_and_closed() {
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let disk = Disk::new();
        let broker = config().max_open_files(8).read_mode(mode).on_disk(&disk).unwrap();
        let compacted = small().cleanup(quipu::Cleanup::Compact);
        let partition = broker.create_topic("t", compacted).unwrap().partition(0).unwrap();
        let others = broker.create_topic("others", small().partitions(20)).unwrap();
        for n in 0..30 {
            let record = Record::new(format!("{n} {}", "x".repeat(90))).key(format!("{}", n % 3));
            broker.producer().send(&partition, record).unwrap().wait().unwrap();
        }
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(1);
        let poll = |reader: &mut quipu::Reader| -> Option<u64> {
            let records = reader.poll(std::time::Duration::ZERO).unwrap();
            records.iter().next().map(|record| record.offset().get())
        };
        assert_eq!(poll(&mut reader), Some(0));
        assert_eq!(poll(&mut reader), Some(1));
        assert!(partition.segments()[1].base_offset.get() > 2, "in the middle of a segment");
        // Compacts the partition, because all of it is dirty.
        broker.maintain().unwrap();
        fill(&broker, &others, 1);
        let next = poll(&mut reader).unwrap();
        assert!(next > 2 && next < 29, "{next}");
        let mut last = next;
        while let Some(offset) = poll(&mut reader) {
            assert!(offset > last);
            last = offset;
        }
        assert_eq!(last, 29, "{mode:?}");

        let plain = broker.create_topic("plain", small()).unwrap();
        let fill_plain = |records: u64| {
            let partition = plain.partition(0).unwrap();
            for _ in 0..records {
                send(&broker, &partition, &"z".repeat(90)).unwrap();
            }
        };
        fill_plain(20);
        broker.maintain().unwrap();
        let mut reader = broker.reader(["plain"], Start::Beginning).unwrap().max_records(1);
        assert_eq!([0, 1, 2].map(|_| poll(&mut reader)), [Some(0), Some(1), Some(2)]);
        plain.partition(0).unwrap().truncate_to(quipu::Offset::new(3)).unwrap();
        fill(&broker, &others, 1);
        assert_eq!(poll(&mut reader), None);
        fill_plain(10);
        assert_eq!([0, 1].map(|_| poll(&mut reader)), [Some(3), Some(4)]);
        plain.partition(0).unwrap().delete_records(quipu::Offset::new(8)).unwrap();
        fill(&broker, &others, 1);
        assert_eq!(std::iter::from_fn(|| poll(&mut reader)).last(), Some(12), "{mode:?}");
    }
}

/// A log may have more segments than the process has descriptors.
#[test]
fn damage_is_looked_for_one_segment_at_a_time() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    fill(&broker, &topic, 40);
    broker.maintain().unwrap();
    disk.limit_descriptors(ALWAYS + 2);
    assert_eq!(topic.partition(0).unwrap().damage().unwrap(), []);
}

/// Damage is told from a torn tail by what later batches say. A file that cannot be opened now is
/// not one without such batches.
#[test]
fn an_opening_that_cannot_open_a_later_segment_truncates_nothing() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    fill(&broker, &topic, 7);
    broker.sync().unwrap();
    fill(&broker, &topic, 4);
    disk.crash(Survive::Everything);
    let segments = files(&disk, "topics/t/0", ".log");
    disk.flip_bit(&segments[1], 8 * 300).unwrap();
    let look = |disk: &Disk| {
        let broker = config().on_disk(disk).unwrap();
        let (values, error) = read(&broker.topic("t").unwrap().partition(0).unwrap());
        let report = broker.open_report();
        (report.damaged.len(), report.truncated_tails.len(), values, error.is_some())
    };
    let expected = look(&disk.duplicate());
    assert_eq!((expected.0, expected.1), (1, 0), "synced records are damaged, and not torn");
    for nth in 1.. {
        let disk = disk.duplicate();
        disk.fail(Op::OpenFile, nth, ErrorKind::PermissionDenied);
        let before = disk.ops_of(Op::OpenFile);
        drop(config().on_disk(&disk));
        if disk.ops_of(Op::OpenFile) - before < nth {
            assert!(nth > 8, "{nth} files were opened");
            break;
        }
        disk.clear_faults();
        assert_eq!(look(&disk), expected, "without file {nth}");
    }
}

// -- maps --

/// Every kind of read gives the same results without maps.
#[test]
fn all_is_read_by_position_where_maps_fail() {
    let written = |disk: &Disk| -> Broker {
        let broker = made(disk, config());
        use_all(&broker).unwrap();
        let compacted = small().cleanup(quipu::Cleanup::Compact);
        let partition = broker.create_topic("keys", compacted).unwrap().partition(0).unwrap();
        for n in 0..30 {
            let record = Record::new(format!("{n} {}", "x".repeat(200))).key(format!("{}", n % 3));
            broker.producer().send(&partition, record).unwrap().wait().unwrap();
        }
        broker.maintain().unwrap();
        broker
    };
    let good = Disk::new();
    let expected = {
        let broker = written(&good);
        broker.topic("keys").unwrap().partition(0).unwrap().compact().unwrap();
        dump(&broker).unwrap()
    };
    type Plan = (&'static str, fn(&Disk));
    let plans: [Plan; 4] = [
        ("the file system has none", |disk| disk.fail_always_with_number(Op::Map, 1, ENODEV)),
        ("no support", |disk| disk.fail_always(Op::Map, 1, ErrorKind::Unsupported)),
        ("no memory", |disk| disk.fail_always(Op::Map, 1, ErrorKind::OutOfMemory)),
        ("no memory now and then", |disk| {
            (0..400).for_each(|n| disk.fail(Op::Map, 1 + 3 * n, ErrorKind::OutOfMemory));
        }),
    ];
    for (case, plan) in plans {
        let disk = Disk::new();
        plan(&disk);
        let broker = written(&disk);
        let partition = broker.topic("keys").unwrap().partition(0).unwrap();
        partition.compact().unwrap();
        assert_eq!(dump(&broker).unwrap(), expected, "{case}");
        broker.close().unwrap();
        drop(broker);
        let broker = config_of(&disk);
        assert_eq!(dump(&broker).unwrap(), expected, "{case}: after reopening");
        for key in 0..4 {
            let stream = broker.topic("streams").unwrap().stream(format!("s{key}")).unwrap();
            assert_eq!(stream.load().unwrap().len(), 1, "{case}");
        }
        disk.crash(Survive::Synced);
        assert_eq!(dump(&config_of(&disk)).unwrap(), expected, "{case}: after a crash");
    }
}

#[test]
fn another_failure_of_a_map_is_an_error() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    fill(&broker, &topic, 4);
    broker.maintain().unwrap();
    disk.fail(Op::Map, 1, ErrorKind::Other);
    let error = topic.partition(0).unwrap().read(at(0), 100).unwrap_err();
    assert!(matches!(error, Error::Io { action: IoAction::Map, .. }), "{error}");
}

#[test]
fn a_map_without_room_closes_other_maps_and_is_tried_again() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(4)).unwrap();
    fill(&broker, &topic, 4);
    broker.maintain().unwrap();
    let read = |n: u32| drop(topic.partition(n).unwrap().read(at(0), 100).unwrap());
    (0..3).for_each(read);
    let (open, maps) = (broker.stats().open_files, disk.ops_of(Op::Map));
    disk.fail(Op::Map, 1, ErrorKind::OutOfMemory);
    read(3);
    assert_eq!(disk.ops_of(Op::Map), maps + 2, "tried again");
    assert!(broker.stats().open_files < open, "maps were closed");
    read(3);
    assert_eq!(disk.ops_of(Op::Map), maps + 2, "it has its map");
}

/// A file system without maps is asked once for each segment.
#[test]
fn a_segment_that_cannot_be_mapped_is_not_tried_at_each_read() {
    let disk = Disk::new();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    fill(&broker, &topic, 4);
    broker.maintain().unwrap();
    disk.fail_always_with_number(Op::Map, 1, ENODEV);
    let maps = disk.ops_of(Op::Map);
    for _ in 0..10 {
        assert_eq!(topic.partition(0).unwrap().read(at(0), 1).unwrap().len(), 1);
    }
    assert_eq!(disk.ops_of(Op::Map), maps + 1);
}
