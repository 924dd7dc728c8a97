//! The list of topics and producers on disk: the state after a crash, how damage is reported, what
//! a later release may write, the cost of a change, and when partitions get files.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use quipu::testing::{Disk, Op, Survive, produced};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Offset, ProducerConfig, Record, TopicConfig,
};

use crate::common::{assert_filled, at, files, fill, open, send, small, snapshot};

// -- values and changes of a later release --

/// The error of a refused opening that changed nothing.
fn refused(disk: &Disk) -> Error {
    let before = snapshot(disk);
    let error = open(disk).unwrap_err();
    assert_eq!(snapshot(disk), before, "{error}");
    error
}

fn assert_unsupported(disk: &Disk, needs: &str) {
    let error = refused(disk);
    let is_told = |error: &Error| match error {
        Error::UnsupportedFormat { path, needs: told, .. } => {
            path.ends_with("catalog") && told.contains(needs)
        }
        _ => false,
    };
    assert!(is_told(&error), "{needs}: {error}");
}

/// A directory with one topic, closed properly, of which a setting was changed: its tag, flags and
/// value.
fn with_setting(config: TopicConfig, tag: u16, to: (u16, u8, u8)) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", config).unwrap();
    broker.producer().send("t", Record::new("v").key("k")).unwrap().wait().unwrap();
    broker.close().unwrap();
    edit_topics(&disk, |content| {
        let at = find_setting(content, tag).unwrap();
        content[at..at + 2].copy_from_slice(&to.0.to_le_bytes());
        content[at + 2] = to.1;
        content[at + 7] = to.2;
    });
    disk
}

/// Where a setting with a value of one byte begins in a topic's change.
fn find_setting(content: &[u8], tag: u16) -> Option<usize> {
    let is_it = |at: &[u8]| at[..2] == tag.to_le_bytes() && at[2] <= 1 && at[3..7] == [1, 0, 0, 0];
    content.windows(8).position(is_it)
}

/// The value of a setting, as the last entry of the only topic has it.
fn setting(disk: &Disk, tag: u16) -> Option<(u8, u8)> {
    let bytes = disk.read("catalog").unwrap();
    let content = changes(&bytes).into_iter().rfind(|change| change.kind == 2).unwrap().content;
    let content = &bytes[content];
    find_setting(content, tag).map(|at| (content[at + 2], content[at + 7]))
}

#[test]
fn a_value_of_a_later_release_that_may_be_ignored_changes_no_other_setting_and_is_kept() {
    let disk = with_setting(TopicConfig::streams().compression(Compression::Lz4), 1, (1, 0, 3));
    let broker = open(&disk).unwrap();
    let warnings = &broker.open_report().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("topic t: setting 1"), "{warnings:?}");
    let topic = broker.topic("t").unwrap();
    assert_eq!(topic.config(), TopicConfig::streams());
    let deleted = topic.partition(0).unwrap().delete_records(Offset::new(1));
    assert!(matches!(deleted, Err(Error::Streams { .. })), "{deleted:?}");
    let keyless = broker.producer().send("t", Record::new("v")).and_then(|pending| pending.wait());
    assert!(matches!(keyless, Err(Error::MissingKey { .. })));
    broker.alter_topic("t", TopicConfig::streams().max_record_bytes(5_000)).unwrap();
    assert_eq!((setting(&disk, 1), setting(&disk, 18)), (Some((0, 3)), Some((1, 1))));
    disk.crash(Survive::Synced);
    // The file was replaced, and it is there still.
    let broker = open(&disk).unwrap();
    assert_eq!((setting(&disk, 1), setting(&disk, 18)), (Some((0, 3)), Some((1, 1))));
    assert_eq!(broker.topic("t").unwrap().config(), TopicConfig::streams().max_record_bytes(5_000));
    broker.alter_topic("t", TopicConfig::streams().compression(Compression::Lz4)).unwrap();
    assert_eq!(setting(&disk, 1), Some((0, 1)), "it was given another value");
    broker.close().unwrap();
    assert!(open(&disk).unwrap().open_report().warnings.is_empty());
}

#[test]
fn a_setting_of_a_later_release_that_may_be_ignored_is_kept() {
    let disk = with_setting(TopicConfig::new(), 1, (0x7777, 0, 9));
    let broker = open(&disk).unwrap();
    let warnings = &broker.open_report().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(&format!("setting {}", 0x7777)), "{warnings:?}");
    broker.alter_topic("t", TopicConfig::new().compression(Compression::Lz4)).unwrap();
    broker.create_topic("other", TopicConfig::new()).unwrap();
    broker.delete_topic("other").unwrap();
    disk.crash(Survive::Everything);
    drop(open(&disk).unwrap());
    assert_eq!((setting(&disk, 0x7777), setting(&disk, 1)), (Some((0, 9)), Some((0, 1))));
}

#[test]
fn a_setting_that_must_be_understood_and_is_not_refuses_and_changes_nothing() {
    for (tag, to) in
        [(1, (20, 1, 2)), (1, (23, 1, 1)), (1, (1, 1, 3)), (10, (10, 1, 7)), (10, (0x7777, 1, 0))]
    {
        let disk = with_setting(TopicConfig::new(), tag, to);
        assert_unsupported(&disk, &format!("setting {}", to.0));
        // The same without a clean close.
        disk.remove("checkpoint").unwrap();
        assert_unsupported(&disk, &format!("setting {}", to.0));
    }
}

#[test]
fn an_unknown_listed_feature_refuses_to_open_and_changes_nothing() {
    let whole = closed();
    for (at, value, needs) in [
        (8, 3, "format version 3"),
        (13, 1, "features 0x100"),
        (36, 3, "format version 3"),
        (41, 1, "features 0x100"),
    ] {
        let disk = whole.duplicate();
        edit(&disk, |bytes| {
            bytes[at] = value;
            let crc = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        });
        assert_unsupported(&disk, needs);
    }
}

#[test]
fn a_change_of_a_later_release_refuses_or_is_passed_over() {
    for (kind, is_refused) in [(9, true), (127, true), (129, false), (255, false)] {
        let disk = closed();
        edit(&disk, |bytes| append(bytes, &[&[kind][..], &0u64.to_le_bytes(), b"later"].concat()));
        if is_refused {
            assert_unsupported(&disk, &format!("catalog changes of kind {kind}"));
        } else {
            let broker = open(&disk).unwrap();
            assert!(broker.open_report().clean && broker.open_report().warnings.is_empty());
            assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 5, "beside it");
        }
    }
}

// -- damage and torn tails --

#[test]
fn after_a_clean_close_every_lost_byte_is_damage() {
    let whole = closed();
    let len = whole.read("catalog").unwrap().len();
    for cut in 0..len {
        for is_zeroed in [false, true] {
            let disk = whole.duplicate();
            edit(&disk, |bytes| {
                bytes.truncate(cut);
                if is_zeroed {
                    bytes.resize(len, 0);
                }
            });
            if disk.read("catalog").unwrap() == whole.read("catalog").unwrap() {
                continue;
            }
            let error = refused(&disk);
            assert!(matches!(&error, Error::Corrupt(c) if c.file.ends_with("catalog")), "{cut}: {error}");
        }
    }
    for bit in (0..len as u64 * 8).step_by(3) {
        let disk = whole.duplicate();
        disk.flip_bit("catalog", bit).unwrap();
        let error = refused(&disk);
        let is_told = matches!(&error, Error::Corrupt(c) if c.file.ends_with("catalog"));
        assert!(
            is_told || matches!(&error, Error::UnsupportedFormat { .. }) && bit / 8 < 12,
            "{bit}: {error}"
        );
    }
    // Room after the end is no change.
    edit(&whole, |bytes| bytes.resize(len + 100, 0));
    let broker = open(&whole).unwrap();
    assert!(broker.open_report().clean && broker.open_report().warnings.is_empty());
    broker.create_topic("next", TopicConfig::new()).unwrap();
    whole.crash(Survive::Synced);
    assert!(open(&whole).unwrap().topic("next").is_ok());
}

#[test]
fn after_a_crash_a_torn_change_is_truncated_and_reported() {
    let whole = killed();
    let bytes = whole.read("catalog").unwrap();
    let last = changes(&bytes).pop().unwrap();
    for cut in last.position + 1..bytes.len() {
        let disk = whole.duplicate();
        edit(&disk, |bytes| bytes.truncate(cut));
        let broker = open(&disk).unwrap();
        let warnings = &broker.open_report().warnings;
        let expected = format!("catalog: {} bytes at {}", cut - last.position, last.position);
        assert!(warnings.len() == 1 && warnings[0].contains(&expected), "{cut}: {warnings:?}");
        assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 5, "the earlier records");
        broker.create_topic("again", TopicConfig::new()).unwrap();
        broker.close().unwrap();
        assert!(open(&disk).unwrap().open_report().warnings.is_empty());
    }
}

#[test]
fn a_damaged_change_that_was_on_the_medium_refuses_and_names_the_older_file() {
    let whole = killed();
    drop(open(&whole).unwrap());
    whole.crash(Survive::Everything);
    let broker = open(&whole).unwrap();
    for name in ["a", "b", "c"] {
        broker.create_topic(name, TopicConfig::new()).unwrap();
    }
    whole.crash(Survive::Everything);
    let bytes = whole.read("catalog").unwrap();
    let changes = changes(&bytes);
    let of_a =
        changes.iter().rfind(|change| bytes[change.content.clone()].windows(2).any(|w| w == [1, b'a']));
    let disk = whole.duplicate();
    disk.flip_bit("catalog", of_a.unwrap().position as u64 * 8 + 300).unwrap();
    let error = refused(&disk);
    let text = error.to_string();
    assert!(matches!(&error, Error::Corrupt(_)), "{error}");
    assert!(text.contains("/catalog is corrupt") && text.contains("/catalog.old"), "{text}");
    assert!(open(&whole).unwrap().topic("c").is_ok());
}

/// An older catalog lacks topics, and what it lacks would be taken for foreign: only a person may
/// decide that.
#[test]
fn the_older_file_is_never_used_by_itself() {
    let disk = killed();
    let broker = open(&disk).unwrap();
    broker.create_topic("later", TopicConfig::new()).unwrap();
    broker.close().unwrap();
    drop(broker);
    assert!(disk.read("catalog.old").is_ok(), "an opening that is not clean replaces the file");
    disk.remove("catalog").unwrap();
    let error = refused(&disk);
    assert!(matches!(&error, Error::Corrupt(c) if c.file.ends_with("catalog")), "{error}");
    assert!(error.to_string().contains("catalog.old"), "{error}");
    // By hand it can be put in place, and the checkpoint does not vouch for it.
    disk.rename("catalog.old", "catalog").unwrap();
    let broker = open(&disk).unwrap();
    let report = broker.open_report();
    assert!(!report.clean);
    assert!(report.warnings.iter().any(|w| w.contains("checkpoint was not used")), "{:?}", report.warnings);
    assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 5, "read again");
    assert!(broker.topic("later").is_err());
}

#[test]
fn without_a_catalog_nothing_that_was_used_becomes_a_new_broker() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.close().unwrap();
    disk.remove("catalog").unwrap();
    assert!(matches!(refused(&disk), Error::Corrupt(_)), "no directory of a topic is there");
}

// -- failures --

#[test]
fn a_change_that_finds_no_room_has_not_happened_and_the_next_may() {
    let disk = closed();
    let broker = open(&disk).unwrap();
    changed(&broker);
    let before = disk.read("catalog").unwrap();
    for torn in [false, true] {
        if torn {
            disk.short(Op::Write, 1);
            disk.fail(Op::Write, 2, ErrorKind::StorageFull);
        } else {
            disk.fail(Op::Write, 1, ErrorKind::StorageFull);
        }
        let error = broker.create_topic("new", TopicConfig::new()).unwrap_err();
        assert!(matches!(&error, Error::DiskFull { path, .. } if path.ends_with("catalog")), "{error}");
        let after = disk.read("catalog").unwrap();
        assert!(after.starts_with(&before) && after[before.len()..].iter().all(|byte| *byte == 0));
    }
    broker.create_topic("new", TopicConfig::new()).unwrap();
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert!(broker.topic("new").is_ok() && broker.open_report().warnings.is_empty());
}

#[test]
fn after_a_change_that_may_have_happened_none_is_made_until_the_next_opening() {
    for op in [Op::Write, Op::Sync] {
        let disk = closed();
        let broker = open(&disk).unwrap();
        changed(&broker);
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        disk.fail(op, 1, ErrorKind::Other);
        for name in ["new", "other"] {
            let error = broker.create_topic(name, TopicConfig::new()).unwrap_err();
            assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("catalog")), "{error}");
        }
        assert!(broker.delete_topic("t").is_err() && broker.topic("new").is_err());
        fill(&broker, &partition, 9);
        assert!(broker.close().is_err(), "it was not closed properly");
        let broker = open(&disk).unwrap();
        assert!(!broker.open_report().clean);
        assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 9, "appends went on");
        broker.ensure_topic("new", TopicConfig::new()).unwrap();
    }
}

/// A long file is replaced by a short one of equal content, at whichever operation the process
/// dies.
#[test]
fn a_crash_at_any_operation_of_a_replacement_leaves_the_same_topics() {
    let alter = |broker: &Broker, n: u64| {
        let config = small().partitions(2).max_record_bytes(100 + (n % 7) as u32);
        broker.alter_topic("t", config.clone()).map(|()| config)
    };
    let number = |disk: &Disk| disk.read("catalog").unwrap()[20];
    let disk = closed();
    let broker = open(&disk).unwrap();
    let (first, mut n) = (number(&disk), 0);
    while number(&disk) == first {
        drop(alter(&broker, n).unwrap());
        n += 1;
    }
    assert!(disk.read("catalog").unwrap().len() < 2_000 && n > 200, "{n} changes");
    // Another one, which is to be replaced soon.
    let long = closed();
    let broker = open(&long).unwrap();
    (0..n - 5).for_each(|n| drop(alter(&broker, n).unwrap()));
    broker.close().unwrap();
    for nth in 1.. {
        let disk = long.duplicate();
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().clean && number(&disk) == first);
        disk.crash_at(nth);
        let (mut done, mut config) = (n - 5, broker.topic("t").unwrap().config());
        while done < n + 5
            && let Ok(altered) = alter(&broker, done)
        {
            (done, config) = (done + 1, altered);
        }
        let is_finished = done == n + 5;
        let tried = config.clone().max_record_bytes(100 + (done % 7) as u32);
        assert!(!is_finished || number(&disk) == first + 1);
        for survive in [Survive::Everything, Survive::Synced, Survive::Random(nth), Survive::Zeroed(nth)] {
            let disk = disk.duplicate();
            disk.crash(survive);
            let broker = open(&disk).unwrap_or_else(|e| panic!("{nth} {survive:?}: {e}"));
            let topic = broker.topic("t").unwrap();
            assert!(topic.config() == config || !is_finished && topic.config() == tried, "{nth} {survive:?}");
            assert_filled(&topic.partition(0).unwrap(), 5, "the topic's files");
            assert!(broker.forget_producer("n").unwrap(), "{nth} {survive:?}");
        }
        if is_finished {
            assert!(nth > 25, "{nth}");
            break;
        }
    }
}

#[test]
fn a_file_that_cannot_be_replaced_for_lack_of_room_keeps_growing() {
    let disk = closed();
    let broker = open(&disk).unwrap();
    // The first change takes back the mark of the clean close.
    broker.alter_topic("t", small().partitions(2).max_record_bytes(99)).unwrap();
    disk.fail_always(Op::OpenFile, 1, ErrorKind::StorageFull);
    for n in 0..2_000u32 {
        broker.alter_topic("t", small().partitions(2).max_record_bytes(100 + n % 7)).unwrap();
    }
    assert!(disk.read("catalog").unwrap().len() > 128 << 10);
    disk.clear_faults();
    for n in 0..1_000u32 {
        broker.alter_topic("t", small().partitions(2).max_record_bytes(100 + n % 7)).unwrap();
    }
    assert!(disk.read("catalog").unwrap().len() < 128 << 10, "it is tried again");
    broker.close().unwrap();
    assert!(open(&disk).unwrap().open_report().clean);
}

// -- partitions get their files when they are written to --

#[test]
fn a_partition_that_was_never_written_to_has_no_files_and_works() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = small().partitions(3).cleanup(quipu::Cleanup::CompactAndDelete);
    let topic = broker.create_topic("t", config).unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("n")).unwrap();
    for round in 0..3 {
        let partition = topic.partition(1).unwrap();
        let bounds = partition.bounds().unwrap();
        assert_eq!((bounds.log_start, bounds.log_end), (Offset::ZERO, Offset::ZERO));
        assert!(partition.read(at(0), 1 << 20).unwrap().is_empty());
        assert!(matches!(partition.read(at(1), 1 << 20), Err(Error::OffsetOutOfRange { .. })));
        partition.truncate_to(Offset::ZERO).unwrap();
        assert_eq!(partition.delete_records(Offset::ZERO).unwrap(), Offset::ZERO);
        partition.compact().unwrap();
        assert_eq!((partition.stats().bytes, partition.segments().len()), (0, 0));
        assert!(partition.reopen().is_ok() && partition.read_raw(Offset::ZERO, 1 << 20).unwrap().is_empty());
        broker.sync().unwrap();
        broker.maintain().unwrap();
        assert!(files(&disk, "topics", "").is_empty(), "round {round}");
    }
    drop(named);
    broker.close().unwrap();
    assert!(files(&disk, "topics", "").is_empty());
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().clean);
    let topic = broker.topic("t").unwrap();
    // Whatever writes makes the files, of the partition that is written to.
    topic.partition(2).unwrap().reset_to(Offset::new(7)).unwrap();
    assert_eq!(files(&disk, "topics", "manifest"), [Path::new("topics/t/2/manifest")]);
    let record = Record::new("v").key("k");
    broker.producer().send(topic.partition(0).unwrap(), record).unwrap().wait().unwrap();
    let raw = topic.partition(0).unwrap().read_raw(Offset::ZERO, 1 << 20).unwrap();
    topic.partition(1).unwrap().append_raw(&raw).unwrap();
    assert_eq!(files(&disk, "topics", "manifest").len(), 3);
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().damaged.is_empty());
    assert_eq!(broker.topic("t").unwrap().partition(2).unwrap().bounds().unwrap().log_start, 7);
    broker.delete_topic("t").unwrap();
    assert!(files(&disk, "topics", "").is_empty() && files(&disk, "trash", "").is_empty());
}

#[test]
fn a_partition_of_streams_that_was_never_written_to_works() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("s", TopicConfig::streams().partitions(2)).unwrap();
    let stream = topic.stream("k").unwrap();
    assert_eq!(topic.erase_stream("k").unwrap(), 0);
    assert_eq!(stream.version().unwrap().get(), 0);
    assert!(stream.last().unwrap().is_none() && stream.last_n(3).unwrap().iter().next().is_none());
    for partition in topic.partitions() {
        assert!(partition.last_n(3).unwrap().is_empty() && partition.max_timestamp().unwrap().is_none());
        assert!(partition.offset_for_time(quipu::Timestamp::from_millis(1)).unwrap().is_none());
    }
    let refused = stream.append(quipu::ExpectedVersion::Exists, [Record::new("v")]);
    assert!(matches!(refused, Err(Error::VersionConflict { .. })));
    let refused = stream.partition().append_at(Offset::new(1), [Record::new("v").key("k")]);
    assert!(matches!(refused, Err(Error::OffsetConflict { .. })), "{refused:?}");
    broker.maintain().unwrap();
    assert!(files(&disk, "topics", "").is_empty(), "a refused topic makes no files");
    stream.append(quipu::ExpectedVersion::Empty, [Record::new("v")]).unwrap();
    assert_eq!((files(&disk, "topics", "manifest").len(), stream.version().unwrap().get()), (1, 1));
    assert_eq!(topic.erase_stream("k").unwrap(), 1);
}

/// A write that fails while the files are made has not happened, and the next one makes them.
#[test]
fn a_first_write_that_fails_can_be_repeated() {
    for op in [Op::CreateDir, Op::OpenFile, Op::Write, Op::Sync, Op::SyncDir, Op::Rename] {
        for nth in 1..=4 {
            for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                let case = format!("{op:?} {nth} {kind:?}");
                let disk = Disk::new();
                let broker = open(&disk).unwrap();
                let topic = broker.create_topic("t", small().durability(Durability::Sync)).unwrap();
                let partition = topic.partition(0).unwrap();
                disk.fail(op, nth, kind);
                let sent = send(&broker, &partition, &crate::common::value(0));
                disk.clear_faults();
                if partition.stats().poisoned.is_some() {
                    // The write itself, or its sync.
                    partition.reopen().unwrap();
                }
                fill(&broker, &partition, 3);
                assert_filled(&partition, 3, &case);
                disk.crash(Survive::Synced);
                let broker = open(&disk).unwrap();
                assert!(broker.open_report().damaged.is_empty(), "{case}: {sent:?}");
                assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 3, &case);
            }
        }
    }
}

#[test]
fn missing_files_of_a_partition_that_had_some_are_damage() {
    for (is_clean, removed) in [
        (true, "topics/t/0"),
        (true, "topics/t"),
        (true, "topics/t/0/manifest"),
        (false, "topics/t/0"),
        (false, "topics/t"),
        (false, "topics/t/0/manifest"),
    ] {
        let disk = if is_clean { closed() } else { killed() };
        disk.remove(removed).unwrap();
        let broker = open(&disk).unwrap();
        let damaged = &broker.open_report().damaged;
        let told: Vec<_> = damaged.iter().map(|(of, error)| (of.partition.get(), error)).collect();
        assert!(
            matches!(&told[..], [(0, Error::Corrupt(c))] if c.file.ends_with("topics/t/0/manifest")),
            "{removed}, clean: {is_clean}: {told:?}"
        );
        let topic = broker.topic("t").unwrap();
        assert!(send(&broker, &topic.partition(0).unwrap(), "v").is_err());
        fill(&broker, &topic.partition(1).unwrap(), 3);
    }
}

/// A power loss takes the note that a partition has files, not the files; the next opening notes
/// them again.
#[test]
fn files_are_found_without_the_note_and_noted_again() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(2).durability(Durability::Sync)).unwrap();
    fill(&broker, &topic.partition(1).unwrap(), 5);
    disk.crash(Survive::Synced);
    let noted = |disk: &Disk| changes(&disk.read("catalog").unwrap()).iter().any(|change| change.kind == 6);
    assert!(!noted(&disk));
    let broker = open(&disk).unwrap();
    assert_filled(&broker.topic("t").unwrap().partition(1).unwrap(), 5, "without the note");
    assert!(noted(&disk));
    disk.crash(Survive::Synced);
    // The epoch that a power loss begins was synced, and with it the note before it.
    assert!(noted(&disk));
    disk.remove("topics/t/1/manifest").unwrap();
    let broker = open(&disk).unwrap();
    assert!(matches!(&broker.open_report().damaged[..], [(_, Error::Corrupt(_))]));
}

#[test]
fn files_that_the_catalog_does_not_know_are_not_taken_over() {
    let disk = closed();
    for path in ["topics/new/0/manifest", "topics/t/2/x", "topics/t/7/x"] {
        disk.write_new(path, b"mine").unwrap();
    }
    let broker = open(&disk).unwrap();
    let before = snapshot(&disk);
    for (error, held) in [
        (broker.create_topic("new", TopicConfig::new()).unwrap_err(), "new"),
        (broker.alter_topic("t", small().partitions(3)).unwrap_err(), "2"),
    ] {
        assert!(matches!(&error, Error::ForeignDirectory { found, .. } if found == held), "{error}");
    }
    assert_eq!(snapshot(&disk), before);
    assert!(broker.topic("new").is_err());
    assert_eq!(broker.topic("t").unwrap().partition_count(), 2);
    disk.remove("topics/new").unwrap();
    broker.create_topic("new", TopicConfig::new()).unwrap();
}

/// Each opening is counted, and a clean close makes everything durable, noted changes too.
#[test]
fn openings_are_counted_and_a_clean_close_makes_every_note_durable() {
    let disk = Disk::new();
    for run in 1..=5u64 {
        let broker = open(&disk).unwrap();
        let topic = broker.ensure_topic("t", small().partitions(5)).unwrap();
        fill(&broker, &topic.partition(run as u32 - 1).unwrap(), 1);
        if run % 2 == 1 {
            broker.close().unwrap();
        }
        disk.crash(if run % 2 == 1 { Survive::Synced } else { Survive::Everything });
        let bytes = disk.read("catalog").unwrap();
        let last = changes(&bytes).into_iter().rfind(|change| change.kind == 7).unwrap().content;
        let content = &bytes[last];
        assert_eq!(content.len(), 9 + 16 + 8 + 8 + 4);
        assert_eq!(u64::from_le_bytes(content[25..33].try_into().unwrap()), run);
        let broker = open(&disk.duplicate()).unwrap();
        assert_eq!(broker.open_report().clean, run % 2 == 1);
        // Every partition so far is known to have files.
        for partition in 0..run {
            let disk = disk.duplicate();
            disk.remove(format!("topics/t/{partition}")).unwrap();
            assert_eq!(open(&disk).unwrap().open_report().damaged.len(), 1, "run {run}, {partition}");
        }
    }
}

// -- names of producers --

#[test]
fn a_producer_that_was_forgotten_is_fenced_and_a_later_one_is_new() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", small().durability(Durability::Sync)).unwrap();
    let named = |broker: &Broker| broker.producer_with(ProducerConfig::new().name("job")).unwrap();
    let send = |producer: &quipu::Producer, sequence| {
        producer.send("t", Record::new("v").sequence(sequence)).and_then(|pending| pending.wait())
    };
    let first = named(&broker);
    send(&first, 1).unwrap();
    assert!(!broker.forget_producer("other").unwrap() && !broker.forget_producer("").unwrap());
    assert!(broker.forget_producer("job").unwrap());
    assert!(!broker.forget_producer("job").unwrap());
    assert!(matches!(send(&first, 2), Err(Error::Fenced { .. })));
    let second = named(&broker);
    assert_eq!(send(&second, 1).unwrap().offset, 1, "what the first one sent is not recognised");
    assert!(matches!(send(&first, 3), Err(Error::Fenced { .. })), "still");
    assert!(broker.forget_producer("job").unwrap());
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert!(!broker.forget_producer("job").unwrap(), "durably");
    assert_eq!(send(&named(&broker), 1).unwrap().offset, 2);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    assert!(broker.forget_producer("job").is_err());
    broker.close().unwrap_err();
    assert!(matches!(broker.forget_producer("job"), Err(Error::Closed)));
}

// -- identities --

#[test]
fn identities_of_topics_come_from_the_system_or_from_the_seed() {
    let ids = |config: fn() -> BrokerConfig| {
        let of_run = || {
            let broker = config().in_memory().unwrap();
            let names = ["a", "b", "c"];
            names.map(|name| {
                let topic = broker.create_topic(name, TopicConfig::new()).unwrap();
                topic.partition(0).unwrap().read_raw(Offset::ZERO, 1).unwrap().topic_id()
            })
        };
        [of_run(), of_run()]
    };
    let [first, second] = ids(|| BrokerConfig::new().seed(7));
    assert_eq!(first, second);
    let all: std::collections::BTreeSet<_> =
        ids(BrokerConfig::new).into_iter().flatten().chain(first).collect();
    assert_eq!(all.len(), 9);
}

// -- cost --

/// Operations and bytes that a change asks of the disk.
fn cost(disk: &Disk, change: impl FnOnce()) -> (u64, u64) {
    let len = || disk.read("catalog").unwrap().len() as u64;
    let (ops, before) = (disk.ops(), len());
    change();
    (disk.ops() - ops, len().saturating_sub(before))
}

/// The 2,000th change costs what the 10th does, but for the replacements of the file, which become
/// rarer as it grows.
#[test]
fn a_change_costs_the_same_however_many_topics_there_are() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let run = |change: &dyn Fn(u32)| {
        let costs: Vec<_> = (0..2_000).map(|n| cost(&disk, || change(n))).collect();
        let usual = costs[10];
        let unusual: Vec<_> = costs.iter().skip(10).filter(|cost| **cost != usual).collect();
        // Replacements: each takes twelve operations or so.
        assert!(unusual.len() <= 6, "{usual:?}: {unusual:?}");
        assert!(unusual.iter().all(|cost| cost.0 <= usual.0 + 16), "{usual:?}: {unusual:?}");
        usual
    };
    let created = run(&|n| drop(broker.create_topic(&format!("topic-{n:04}"), TopicConfig::new()).unwrap()));
    let named = |n: u32| broker.producer_with(ProducerConfig::new().name(format!("name-{n:04}"))).unwrap();
    let learned = run(&|n| drop(named(n)));
    let altered = run(&|n| {
        broker.alter_topic(&format!("topic-{n:04}"), TopicConfig::new().partitions(2)).unwrap();
    });
    let forgotten = run(&|n| assert!(broker.forget_producer(&format!("name-{n:04}")).unwrap()));
    let deleted = run(&|n| broker.delete_topic(&format!("topic-{n:04}")).unwrap());
    println!(
        "create {created:?}, name {learned:?}, alter {altered:?}, forget {forgotten:?}, delete {deleted:?}"
    );
    assert_eq!([created.0, learned.0, altered.0, forgotten.0], [4, 2, 4, 2]);
    assert!(
        deleted.0 <= 6 && [created, learned, altered, forgotten, deleted].iter().all(|cost| cost.1 < 400)
    );
}

#[test]
fn ten_thousand_topics_are_opened_within_a_time_limit() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    for n in 0..10_000 {
        broker.create_topic(&format!("topic-{n:05}"), TopicConfig::new()).unwrap();
    }
    fill(&broker, &broker.topic("topic-04711").unwrap().partition(0).unwrap(), 5);
    for is_clean in [true, false] {
        if is_clean {
            broker.close().unwrap();
        } else {
            let killed = open(&disk).unwrap();
            killed.create_topic("one-more", TopicConfig::new()).unwrap();
            killed.delete_topic("one-more").unwrap();
            disk.crash(Survive::Everything);
            drop(killed);
        }
        let began = Instant::now();
        let broker = open(&disk).unwrap();
        let took = began.elapsed();
        println!("clean: {is_clean}, {took:?}");
        assert!(took.as_secs() < 5, "{took:?}");
        assert_eq!((broker.open_report().clean, broker.topics().len()), (is_clean, 10_000));
        assert_eq!(produced(&broker, "topic-04711").unwrap().len(), 5);
    }
}

// -- helpers --

/// The first change of an opening takes back the mark of the clean close; this is one.
fn changed(broker: &Broker) {
    broker.producer_with(ProducerConfig::new().name("first change")).unwrap();
}

/// One change of a catalog's file.
struct Change {
    position: usize,
    kind: u8,
    content: std::ops::Range<usize>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn changes(bytes: &[u8]) -> Vec<Change> {
    let (mut found, mut position) = (Vec::new(), 64);
    while bytes.get(position..position + 4) == Some(b"QCHG") {
        let start = position + 12;
        let content = start..start + u32_at(bytes, position + 4) as usize;
        let kind = bytes[content.start];
        found.push(Change { position, kind, content: content.clone() });
        position = content.end;
    }
    found
}

fn crc_of(bytes: &[u8], position: usize, content: &[u8]) -> u32 {
    let len = content.len() as u32;
    let number = &bytes[20..28];
    let covered = [number, &(position as u64).to_le_bytes(), &len.to_le_bytes(), content].concat();
    crc32fast::hash(&covered)
}

/// Appends a change with a checksum that fits.
fn append(bytes: &mut Vec<u8>, content: &[u8]) {
    let crc = crc_of(bytes, bytes.len(), content);
    let len = content.len() as u32;
    bytes.extend([&b"QCHG"[..], &len.to_le_bytes(), &crc.to_le_bytes(), content].concat());
}

/// Changes the file of the catalog.
fn edit(disk: &Disk, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.read("catalog").unwrap();
    change(&mut bytes);
    disk.truncate("catalog", bytes.len() as u64).unwrap();
    disk.overwrite("catalog", 0, &bytes).unwrap();
}

/// Changes every entry of a topic, under a checksum that fits.
fn edit_topics(disk: &Disk, change: impl Fn(&mut [u8])) {
    edit(disk, |bytes| {
        for found in changes(bytes).into_iter().filter(|change| change.kind == 2) {
            change(&mut bytes[found.content.clone()]);
            let content = bytes[found.content.clone()].to_vec();
            let crc = crc_of(bytes, found.position, &content);
            bytes[found.position + 8..found.position + 12].copy_from_slice(&crc.to_le_bytes());
        }
    });
}

/// A topic of two partitions, of which one was written to, and a producer with a name.
fn written(disk: &Disk) -> Broker {
    let broker = open(disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(2).durability(Durability::Sync)).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 5);
    drop(broker.producer_with(ProducerConfig::new().name("n")).unwrap());
    broker
}

fn closed() -> Disk {
    let disk = Disk::new();
    written(&disk).close().unwrap();
    disk
}

fn killed() -> Disk {
    let disk = Disk::new();
    let broker = written(&disk);
    disk.crash(Survive::Everything);
    drop(broker);
    disk
}
