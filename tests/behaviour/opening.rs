//! Opening a directory in every state: foreign, newer, damaged, in use; and what an opening leaves
//! unchanged.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use quipu::testing::{Disk, Op, Survive};
use quipu::{Broker, Durability, Error, ProducerConfig, Record, Start, TopicConfig};
use tempfile::tempdir;

use crate::common::{
    Random, assert_filled, at, dump, files, fill, open, open_dir, read, send, small, snapshot, tree, value,
};

/// How long the refusal of a second opener may take.
const AT_ONCE: Duration = Duration::from_millis(10);

// -- something else in place of the directory --

#[test]
fn a_file_in_the_place_of_the_directory_is_named_and_left_alone() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"precious").unwrap();
    for place in [file.clone(), file.join("below")] {
        let error = open_dir(&place).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(&file)), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn missing_parents_are_created() {
    let dir = tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    let broker = open_dir(&deep).unwrap();
    assert!(broker.open_report().clean && broker.open_report().warnings.is_empty());
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 3);
    broker.close().unwrap();
    assert!(deep.join("catalog").is_file());
    assert_filled(&open_dir(&deep).unwrap().topic("t").unwrap().partition(0).unwrap(), 3, "reopened");
}

#[cfg(unix)]
#[test]
fn a_directory_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempdir().unwrap();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), b"").is_ok() {
        println!("skipped: permissions do not bind this user");
        return;
    }
    for place in [closed.clone(), closed.join("below")] {
        let error = open_dir(&place).unwrap_err();
        let denied = |error: &Error| match error {
            Error::Io { path, source, .. } | Error::ReadOnly { path, source, .. } => {
                path.starts_with(&closed) && source.kind() == ErrorKind::PermissionDenied
            }
            _ => false,
        };
        assert!(denied(&error), "{error}");
    }
    assert!(tree(&closed).is_empty());
}

#[test]
fn a_medium_that_denies_permission_is_named_and_nothing_is_changed() {
    for op in [Op::List, Op::Lock] {
        let disk = filled(1);
        let before = snapshot(&disk);
        disk.fail(op, 1, ErrorKind::PermissionDenied);
        let error = open(&disk).unwrap_err();
        match op {
            Op::Lock => assert!(matches!(&error, Error::ReadOnly { .. }), "{error}"),
            _ => assert!(matches!(&error, Error::Io { .. }), "{error}"),
        }
        assert_eq!(snapshot(&disk), before, "{op:?}");
        open(&disk).unwrap();
    }
}

// -- one owner --

#[test]
fn a_second_opening_in_this_process_is_refused_at_once_and_changes_nothing() {
    let dir = tempdir().unwrap();
    let broker = open_dir(dir.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 5);
    let before = tree(dir.path());
    let attempt = || {
        let began = Instant::now();
        let error = open_dir(dir.path()).unwrap_err();
        let took = began.elapsed();
        assert!(matches!(&error, Error::AlreadyOpen { path, .. } if path == dir.path()), "{error}");
        took
    };
    let fastest = (0..20).map(|_| attempt()).min().unwrap();
    assert!(fastest < AT_ONCE, "{fastest:?}");
    assert_eq!(tree(dir.path()), before);
    // The owner is not disturbed.
    fill(&broker, &topic.partition(0).unwrap(), 10);
    assert_filled(&topic.partition(0).unwrap(), 10, "the first broker");
}

#[test]
fn the_lock_is_free_after_a_close_while_handles_are_still_held() {
    let dir = tempdir().unwrap();
    let first = open_dir(dir.path()).unwrap();
    let topic = first.create_topic("t", TopicConfig::new()).unwrap();
    first.close().unwrap();
    let second = open_dir(dir.path()).unwrap();
    assert!(second.open_report().clean);
    assert!(matches!(topic.partition(0), Err(Error::Closed)));
    first.close().unwrap();
    assert!(
        matches!(open_dir(dir.path()), Err(Error::AlreadyOpen { .. })),
        "closing twice does not unlock the second"
    );
}

#[test]
fn the_lock_is_free_after_the_last_handle_is_dropped() {
    let dir = tempdir().unwrap();
    let first = open_dir(dir.path()).unwrap();
    let topic = first.create_topic("t", TopicConfig::new()).unwrap();
    drop(first);
    assert!(matches!(open_dir(dir.path()), Err(Error::AlreadyOpen { .. })), "a handle keeps it open");
    drop(topic);
    assert!(open_dir(dir.path()).unwrap().open_report().clean);
}

/// Two openers of an empty directory: the second has looked, and is overtaken before it has the
/// lock. Its view of the directory is stale then.
#[test]
fn an_opener_that_was_overtaken_does_not_start_over() {
    let disk = Disk::new();
    let gate = disk.hold(Op::Lock, 1);
    thread::scope(|scope| {
        let slow = scope.spawn(|| open(&disk));
        gate.wait_until_reached();
        let fast = open(&disk).unwrap();
        let topic = fast.create_topic("t", TopicConfig::new()).unwrap();
        fill(&fast, &topic.partition(0).unwrap(), 3);
        fast.close().unwrap();
        drop((fast, topic));
        gate.release();
        let broker = slow.join().unwrap().unwrap();
        assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 3, "the topic of the faster opener");
    });
}

// -- foreign things --

#[test]
fn a_foreign_directory_is_refused_and_nothing_is_created_in_it() {
    for (found, is_dir) in [("notes.txt", false), ("photos", true), ("LOCK.bak", false), (".hidden", false)] {
        let dir = tempdir().unwrap();
        let entry = dir.path().join(found);
        if is_dir {
            fs::create_dir(&entry).unwrap()
        } else {
            fs::write(&entry, b"mine").unwrap()
        }
        let before = tree(dir.path());
        let error = open_dir(dir.path()).unwrap_err();
        assert!(
            matches!(&error, Error::ForeignDirectory { path, found: name, .. } if path == dir.path() && name == found),
            "{error}"
        );
        assert_eq!(tree(dir.path()), before, "not even a lock");
    }
}

#[test]
fn a_fresh_file_system_and_an_interrupted_first_opening_are_no_foreign_directories() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("LOCK"), b"").unwrap();
    let broker = open_dir(dir.path()).unwrap();
    assert!(broker.open_report().warnings.is_empty(), "{:?}", broker.open_report().warnings);
    broker.create_topic("t", TopicConfig::new()).unwrap();
}

#[test]
fn foreign_files_in_a_brokers_directory_are_named_and_left_alone() {
    let disk = filled(2);
    let foreign = [
        "notes.txt",
        "photos/one.jpg",
        "topics/README",
        "topics/unknown/0/manifest",
        "topics/t/0/notes.txt",
        "topics/t/0/00000000000000000000-0.log.bak",
        "topics/t/0/007-0.log",
        "topics/t/0/sub/file",
        "trash/notes.txt",
    ];
    for path in foreign {
        disk.write_new(path, path.as_bytes()).unwrap();
    }
    for round in 0..2 {
        let broker = open(&disk).unwrap();
        let warnings = &broker.open_report().warnings;
        for path in foreign {
            // Of a foreign directory the directory itself is named.
            let named = Path::new(path).ancestors().any(|part| {
                part != Path::new("")
                    && warnings.iter().any(|warning| warning.contains(&format!("{} ", part.display())))
            });
            assert!(named, "round {round}: {path} in {warnings:?}");
            assert_eq!(disk.read(path).unwrap(), path.as_bytes());
        }
        for partition in broker.topic("t").unwrap().partitions() {
            assert_filled(&partition, 20, "beside foreign files");
        }
        broker.close().unwrap();
    }
}

// -- newer formats --

#[test]
fn a_newer_catalog_is_recognised_and_nothing_is_touched() {
    let disk = filled(2);
    disk.overwrite("catalog", 8, &77u32.to_le_bytes()).unwrap();
    let before = snapshot(&disk);
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(&error, Error::UnsupportedFormat { path, found: 77, supported: 2, .. } if path.ends_with("catalog")),
        "{error}"
    );
    assert_eq!(snapshot(&disk), before);
    disk.overwrite("catalog", 8, &2u32.to_le_bytes()).unwrap();
    assert!(open(&disk).unwrap().open_report().clean, "and it was a clean close still");
}

#[test]
fn a_newer_catalog_is_recognised_in_a_directory_too() {
    let dir = tempdir().unwrap();
    open_dir(dir.path()).unwrap().close().unwrap();
    let catalog = dir.path().join("catalog");
    let mut bytes = fs::read(&catalog).unwrap();
    bytes[8] = 3;
    fs::write(&catalog, bytes).unwrap();
    let before = tree(dir.path());
    let error = open_dir(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::UnsupportedFormat { path, found: 3, .. } if *path == catalog), "{error}");
    assert_eq!(tree(dir.path()), before);
}

/// The version of each file, in a directory with all of them: a version that refuses the broker
/// changes nothing at all, a segment nothing of its partition, and a derived file is made again.
#[test]
fn a_newer_version_of_any_file_is_recognised() {
    let full = Disk::new();
    let broker = open(&full).unwrap();
    let topic = broker.create_topic("t", small().partitions(2)).unwrap();
    let named = broker.producer_with(ProducerConfig::new().name("n")).unwrap();
    let partitions = topic.partitions();
    fill(&broker, &partitions[1], 30);
    named.send(&partitions[0], Record::new("a").sequence(1)).unwrap().wait().unwrap();
    let mut transaction = broker.transaction();
    for partition in &partitions {
        transaction.send(partition, Record::new("x"));
    }
    transaction.commit().unwrap();
    broker.close().unwrap();
    let content = |disk: &Disk| {
        let files = disk.files().into_iter();
        files.map(|(file, _)| (file.clone(), disk.read(&file).unwrap())).collect::<Vec<_>>()
    };
    let (mut refused, mut partition, mut derived) = (0, 0, 0);
    for (file, bytes) in content(&full) {
        if bytes.len() < 12 {
            continue;
        }
        let name = file.display().to_string();
        for version in [3, 77, u32::MAX] {
            let disk = full.duplicate();
            disk.overwrite(&file, 8, &version.to_le_bytes()).unwrap();
            let before = content(&disk);
            let opened = open(&disk);
            if ["catalog", "checkpoint", "journal"].contains(&name.as_str()) || name.ends_with("manifest") {
                let error = opened.unwrap_err();
                let says = format!("needs format version {version}");
                assert!(error.to_string().contains(&says), "{name}: {error}");
                assert!(
                    matches!(&error, Error::UnsupportedFormat { path, .. } if path.ends_with(&file)),
                    "{error}"
                );
                assert_eq!(content(&disk), before, "{name}");
                refused += 1;
                continue;
            }
            let broker = opened.unwrap();
            if name.ends_with(".log") {
                let id: u32 = if name.starts_with("topics/t/0") { 0 } else { 1 };
                let read = broker.topic("t").unwrap().partition(id).unwrap().read(at(0), 1 << 20);
                let is_first = name.contains("/00000000000000000000-");
                assert_eq!(
                    matches!(read, Err(Error::UnsupportedFormat { .. })),
                    is_first,
                    "{name}: {read:?}"
                );
                broker.close().unwrap();
                assert_eq!(
                    disk.read(&file).unwrap()[..12],
                    before.iter().find(|(f, _)| *f == file).unwrap().1[..12]
                );
                partition += 1;
            } else {
                let values = crate::common::read(&broker.topic("t").unwrap().partition(1).unwrap());
                assert!(values.1.is_none() && values.0.len() == 31, "{name}: {values:?}");
                derived += 1;
            }
        }
    }
    assert!(refused >= 15 && partition >= 9 && derived >= 6, "{refused} {partition} {derived}");
}

#[test]
fn files_under_reserved_names_are_passed_over() {
    let disk = filled(1);
    disk.write_new("owner", b"of a later release").unwrap();
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().warnings.is_empty(), "{:?}", broker.open_report().warnings);
    broker.close().unwrap();
    assert_eq!(disk.read("owner").unwrap(), b"of a later release");
}

/// Manifests are read before anything is written: one of a later release keeps the whole broker
/// closed.
#[test]
fn a_newer_manifest_refuses_the_broker_and_nothing_is_touched() {
    for clean in [true, false] {
        let disk = if clean { filled(2) } else { killed(2) };
        let file = files(&disk, "topics/t/1", "manifest").pop().unwrap();
        disk.overwrite(&file, 8, &9u32.to_le_bytes()).unwrap();
        let content =
            || disk.files().into_iter().map(|(f, _)| (f.clone(), disk.read(f).unwrap())).collect::<Vec<_>>();
        let before = content();
        let error = open(&disk).unwrap_err();
        assert!(is_newer(&error, &file), "{error}");
        assert!(
            error.to_string().contains("needs format version 9; this build has format version 2"),
            "{error}"
        );
        assert_eq!(before, content(), "clean: {clean}");
    }
}

#[test]
fn a_newer_active_segment_is_reported_by_its_partition_and_the_others_work() {
    for clean in [true, false] {
        let disk = if clean { filled(2) } else { killed(2) };
        let file = files(&disk, "topics/t/1", ".log").pop().unwrap();
        disk.overwrite(&file, 8, &9u32.to_le_bytes()).unwrap();
        let content = |disk: &Disk| {
            files(disk, "topics/t/1", "").iter().map(|f| disk.read(f).unwrap()).collect::<Vec<_>>()
        };
        let before = content(&disk);
        let broker = open(&disk).unwrap();
        let topic = broker.topic("t").unwrap();
        fill(&broker, &topic.partition(0).unwrap(), 30);
        assert_filled(&topic.partition(0).unwrap(), 30, "the other partition");
        let damaged = topic.partition(1).unwrap();
        let error = send(&broker, &damaged, "no").unwrap_err();
        assert!(is_newer(&error, &file), "clean: {clean}: {error}");
        let named = &broker.open_report().damaged;
        assert!(
            named.iter().any(|(of, error)| of.partition.get() == 1 && is_newer(error, &file)),
            "{named:?}"
        );
        drop((broker, topic, damaged));
        assert_eq!(before, content(&disk), "clean: {clean}: nothing of it was touched");
    }
}

/// A sealed segment is checked when it is read.
#[test]
fn a_newer_sealed_segment_is_reported_when_it_is_read() {
    for disk in [filled(1), killed(1)] {
        let file = files(&disk, "topics/t/0", ".log").remove(0);
        disk.overwrite(&file, 8, &9u32.to_le_bytes()).unwrap();
        let broker = open(&disk).unwrap();
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        let error = partition.read(at(0), 1 << 20).unwrap_err();
        assert!(is_newer(&error, &file), "{error}");
        let second = partition.segments()[1].base_offset;
        let records = partition.read(Start::At(second), 1 << 20).unwrap();
        assert_eq!(records.iter().next().unwrap().value(), Some(value(second.get()).as_bytes()));
    }
}

fn is_newer(error: &Error, file: &Path) -> bool {
    matches!(error, Error::UnsupportedFormat { path, found: 9, supported: 2, .. } if path.ends_with(file))
}

// -- missing and damaged files of the broker --

#[test]
fn topics_without_a_catalog_are_a_corruption_and_nothing_is_touched() {
    let disk = filled(1);
    disk.remove("catalog").unwrap();
    let before = snapshot(&disk);
    let error = open(&disk).unwrap_err();
    assert!(matches!(&error, Error::Corrupt(c) if c.file.ends_with("catalog")), "{error}");
    assert_eq!(snapshot(&disk), before);
}

#[test]
fn a_short_or_garbled_catalog_is_a_corruption_and_nothing_is_touched() {
    let whole = filled(1);
    let len = whole.read("catalog").unwrap().len() as u64;
    for cut in 0..len {
        let disk = whole.duplicate();
        disk.truncate("catalog", cut).unwrap();
        let before = snapshot(&disk);
        let error = open(&disk).unwrap_err();
        assert!(matches!(&error, Error::Corrupt(c) if c.file.ends_with("catalog")), "{cut}: {error}");
        assert_eq!(snapshot(&disk), before, "{cut}");
    }
}

/// The checkpoint is derived from the log.
#[test]
fn without_a_good_checkpoint_the_same_records_are_there() {
    for whole in [filled(2), killed(2)] {
        let len = whole.read("checkpoint").unwrap().len() as u64;
        for case in 0..len + 2 {
            let disk = whole.duplicate();
            match case {
                _ if case < len => disk.truncate("checkpoint", case).unwrap(),
                _ if case == len => disk.remove("checkpoint").unwrap(),
                _ => disk.overwrite("checkpoint", 0, &vec![0xa5; 2 * len as usize]).unwrap(),
            }
            let broker = open(&disk).unwrap();
            let report = broker.open_report();
            assert!(
                report.damaged.is_empty() && report.truncated_tails.is_empty() && !report.clean,
                "{case}: {report:?}"
            );
            assert_eq!(report.warnings.len(), usize::from(case != len), "{case}: {:?}", report.warnings);
            let topic = broker.topic("t").unwrap();
            for partition in topic.partitions() {
                assert_filled(&partition, 20, &format!("case {case}"));
                fill(&broker, &partition, 21);
            }
        }
    }
}

type Damage<'a> = &'a dyn Fn(&Disk, &PathBuf);

/// Indexes are derived from the log (Kafka's `LogLoaderTest.testIndexRebuild`): with any content of
/// their files the results are the same.
#[test]
fn without_good_indexes_the_answers_are_the_same() {
    for whole in [filled(1), killed(1)] {
        let indexes = files(&whole, "topics/t/0", ".index");
        assert!(indexes.len() > 2, "{indexes:?}");
        let damages: [Damage<'_>; 6] = [
            &|disk, path| disk.remove(path).unwrap(),
            &|disk, path| disk.truncate(path, 0).unwrap(),
            &|disk, path| disk.truncate(path, disk.read(path).unwrap().len() as u64 / 2).unwrap(),
            &|disk, path| disk.overwrite(path, 0, &[0x5a; 500]).unwrap(),
            &|disk, path| disk.overwrite(path, 45, &[0xff; 4]).unwrap(),
            // That of another segment.
            &|disk, path| {
                let other = disk
                    .read(files(disk, "topics/t/0", ".index").iter().find(|p| *p != path).unwrap())
                    .unwrap();
                disk.truncate(path, 0).unwrap();
                disk.overwrite(path, 0, &other).unwrap();
            },
        ];
        for (at_damage, damage) in damages.iter().enumerate() {
            let disk = whole.duplicate();
            for index in &indexes {
                damage(&disk, index);
                if at_damage == 0 && index == indexes.last().unwrap() {
                    assert!(files(&disk, "topics/t/0", ".index").is_empty());
                }
            }
            let broker = open(&disk).unwrap();
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            let mut random = Random(3);
            for _ in 0..40 {
                let offset = random.below(20);
                let records = partition.read(at(offset), 1).unwrap();
                let first = records.iter().next().unwrap();
                assert_eq!((first.offset().get(), first.value()), (offset, Some(value(offset).as_bytes())));
            }
            assert_filled(&partition, 20, &format!("damage {at_damage}"));
        }
    }
}

// -- the beginning of everything --

#[test]
fn a_crash_at_any_operation_of_the_first_opening_leaves_something_to_open() {
    for operation in 1.. {
        let disk = Disk::new();
        disk.crash_at(operation);
        let opened = open(&disk);
        let finished = opened.is_ok();
        drop(opened);
        for survive in
            [Survive::Everything, Survive::Synced, Survive::Random(operation), Survive::Zeroed(operation)]
        {
            let disk = disk.duplicate();
            disk.crash(survive);
            let broker = open(&disk).unwrap_or_else(|e| panic!("operation {operation}, {survive:?}: {e}"));
            let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
            fill(&broker, &topic.partition(0).unwrap(), 2);
            disk.crash(Survive::Synced);
            assert_filled(
                &open(&disk).unwrap().topic("t").unwrap().partition(0).unwrap(),
                2,
                "after the crash",
            );
        }
        if finished {
            assert!(operation > 10, "{operation}");
            break;
        }
    }
}

#[test]
fn brokers_in_one_process_are_independent() {
    let dirs: Vec<_> = (0..4).map(|_| tempdir().unwrap()).collect();
    let on_disk = dirs.iter().map(|dir| open_dir(dir.path()).unwrap());
    let brokers: Vec<Broker> = on_disk.chain((0..4).map(|_| Broker::in_memory().unwrap())).collect();
    thread::scope(|scope| {
        for (n, broker) in brokers.iter().enumerate() {
            scope.spawn(move || {
                let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
                for i in 0..50 {
                    send(broker, &topic.partition(0).unwrap(), &format!("{n} {i}")).unwrap();
                }
            });
        }
    });
    brokers[0].close().unwrap();
    brokers[5].close().unwrap();
    for (n, broker) in brokers.iter().enumerate().filter(|(n, _)| ![0, 5].contains(n)) {
        let (values, error) = read(&broker.topic("t").unwrap().partition(0).unwrap());
        assert!(error.is_none());
        assert_eq!(values, (0..50).map(|i| format!("{n} {i}")).collect::<Vec<_>>());
    }
    let reopened = open_dir(dirs[0].path()).unwrap();
    assert_eq!(dump(&reopened).unwrap()[&("t".to_string(), 0)].len(), 50);
}

// -- helpers --

/// A disk with the topic "t" of several small segments, closed properly.
fn filled(partitions: u32) -> Disk {
    let disk = Disk::new();
    write(&disk, partitions).close().unwrap();
    disk
}

/// As [`filled`], but the process was killed.
fn killed(partitions: u32) -> Disk {
    let disk = Disk::new();
    let broker = write(&disk, partitions);
    broker.maintain().unwrap();
    disk.crash(Survive::Everything);
    drop(broker);
    disk
}

fn write(disk: &Disk, partitions: u32) -> Broker {
    let broker = open(disk).unwrap();
    let topic =
        broker.create_topic("t", small().partitions(partitions).durability(Durability::Sync)).unwrap();
    for partition in topic.partitions() {
        fill(&broker, &partition, 20);
    }
    broker
}
