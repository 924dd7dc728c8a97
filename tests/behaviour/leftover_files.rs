//! Files that cannot be removed prevent no other work; a deletion never follows a link; files that
//! the catalog does not know are left alone until a caller decides.

use std::fs;
use std::io::ErrorKind;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, IoAction, Offset, Partition, Record, Start, TopicConfig,
};

use crate::common::{
    assert_filled, crash_at_each_operation, files, fill, open, open_dir, send, small, tree, warnings,
};

fn partition(broker: &Broker, topic: &str) -> Partition {
    broker.topic(topic).unwrap().partition(0).unwrap()
}

/// Two topics with ten records each.
fn two_topics(broker: &Broker) {
    for topic in ["good", "gone"] {
        broker.create_topic(topic, small()).unwrap();
        fill(broker, &partition(broker, topic), 10);
    }
}

// -- deletions --

#[test]
fn a_topic_that_cannot_be_moved_is_removed_where_it_is() {
    for kind in [ErrorKind::CrossesDevices, ErrorKind::ResourceBusy, ErrorKind::PermissionDenied] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        two_topics(&broker);
        disk.fail_always(Op::Rename, 1, kind);
        broker.delete_topic("gone").unwrap();
        assert!(files(&disk, "topics/gone", "").is_empty() && files(&disk, "trash", "").is_empty());
        disk.clear_faults();
        broker.create_topic("gone", small()).unwrap();
        drop(broker);
        let broker = open(&disk).unwrap();
        assert_filled(&partition(&broker, "good"), 10, "the other");
        assert_filled(&partition(&broker, "gone"), 0, "the new one");
    }
}

#[test]
fn a_topic_that_can_neither_be_moved_nor_removed_is_deleted_and_its_files_are_tried_again() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    two_topics(&broker);
    disk.fail_always(Op::Rename, 1, ErrorKind::CrossesDevices);
    disk.fail_always(Op::Remove, 1, ErrorKind::PermissionDenied);
    let error = broker.delete_topic("gone").unwrap_err();
    assert!(matches!(&error, Error::Io { action: IoAction::Remove, .. }), "{error}");
    assert!(matches!(broker.topic("gone"), Err(Error::UnknownTopic { .. })), "it is deleted nevertheless");
    let error = broker.create_topic("gone", small()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }), "its files are in the way: {error}");
    assert_filled(&partition(&broker, "good"), 10, "the other");
    // The process dies, and the system refuses the same to the next one.
    disk.clear_faults();
    disk.crash(Survive::Everything);
    disk.fail_always(Op::Remove, 1, ErrorKind::PermissionDenied);
    let broker = open(&disk).unwrap();
    assert_eq!(warnings(&broker).len(), 2, "{:?}", warnings(&broker));
    assert!(warnings(&broker).iter().all(|warning| warning.contains("has left files")));
    assert_eq!(broker.topics().len(), 1);
    assert_filled(&partition(&broker, "good"), 10, "the other");
    send(&broker, &partition(&broker, "good"), "and it takes more").unwrap();
    broker.maintain().unwrap();
    assert!(!files(&disk, "trash", "").is_empty());
    // Now it can be removed: by the next maintenance, not only by an opening.
    disk.clear_faults();
    broker.maintain().unwrap();
    assert!(files(&disk, "topics/gone", "").is_empty() && files(&disk, "trash", "").is_empty());
    broker.create_topic("gone", small()).unwrap();
    broker.close().unwrap();
    assert!(warnings(&open(&disk).unwrap()).is_empty());
}

#[test]
fn a_file_in_a_partition_that_cannot_be_removed_is_reported_and_the_partition_works() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    two_topics(&broker);
    broker.close().unwrap();
    disk.write_new("topics/good/0/00000000000000009999-0.log", b"what a roll left").unwrap();
    disk.fail(Op::Remove, 1, ErrorKind::PermissionDenied);
    let broker = open(&disk).unwrap();
    let told = warnings(&broker);
    assert!(told.len() == 1 && told[0].contains("9999-0.log"), "{told:?}");
    fill(&broker, &partition(&broker, "good"), 12);
    broker.close().unwrap();
    assert!(warnings(&open(&disk).unwrap()).is_empty());
    assert!(files(&disk, "topics/good/0", "9999-0.log").is_empty());
}

/// What opening removes is what a manifest does not list that a power loss cannot take back any
/// more.
#[test]
fn nothing_is_removed_on_the_word_of_a_manifest_that_a_power_loss_can_take_back() {
    type Act = fn(&Partition) -> quipu::Result<()>;
    let acts: [Act; 3] = [
        |p| p.truncate_to(Offset::new(12)),
        |p| p.delete_records(Offset::new(25)).map(drop),
        |p| p.reset_to(Offset::new(100)),
    ];
    let (mut states, mut kept, mut done) = (0, 0, 0);
    for act in acts {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", small().durability(Durability::Sync)).unwrap();
        fill(&broker, &topic.partition(0).unwrap(), 30);
        for nth in 1.. {
            let disk = disk.duplicate();
            disk.crash(Survive::Everything);
            let broker = open(&disk).unwrap();
            let p = partition(&broker, "t");
            disk.crash_at(nth);
            let finished = act(&p).is_ok();
            drop((p, broker));
            disk.crash(Survive::Everything);
            crash_at_each_operation(&disk, open, |disk, _| {
                disk.crash(Survive::Synced);
                let broker = open(disk).unwrap();
                assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report());
                let bounds = partition(&broker, "t").bounds().unwrap();
                let is_old = (bounds.log_start.get(), bounds.log_end.get()) == (0, 30);
                assert!(is_old || !finished || nth > 1, "{bounds:?}");
                if is_old {
                    assert_filled(&partition(&broker, "t"), 30, "unchanged");
                    kept += 1;
                } else {
                    done += 1;
                }
                states += 1;
            });
            if finished {
                break;
            }
        }
    }
    println!("{states} states: {kept} as before, {done} as after");
    assert!(kept > 100 && done > 100, "{kept} {done}");
}

#[cfg(unix)]
#[test]
fn a_deletion_removes_a_link_and_not_its_target() {
    for what in ["topic", "partition"] {
        let dir = tempfile::tempdir().unwrap();
        let (root, far) = (dir.path().join("db"), dir.path().join("far"));
        fs::create_dir(&far).unwrap();
        let broker = open_dir(&root).unwrap();
        two_topics(&broker);
        broker.close().unwrap();
        let from = root.join(if what == "topic" { "topics/gone" } else { "topics/gone/0" });
        let to = far.join("elsewhere");
        fs::rename(&from, &to).unwrap();
        symlink(&to, &from).unwrap();
        let before = tree(&far);
        let broker = open_dir(&root).unwrap();
        assert_filled(&partition(&broker, "gone"), 10, "a link works");
        broker.delete_topic("gone").unwrap();
        assert_eq!(tree(&far), before, "{what}");
        assert!(!from.is_symlink() && !root.join("topics/gone").exists());
        broker.create_topic("gone", small()).unwrap();
        fill(&broker, &partition(&broker, "gone"), 3);
        drop(broker);
        let broker = open_dir(&root).unwrap();
        assert_filled(&partition(&broker, "good"), 10, what);
        assert_filled(&partition(&broker, "gone"), 3, what);
        assert_eq!(tree(&far), before, "{what}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_in_the_trash_is_removed_by_the_next_opening_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (root, far) = (dir.path().join("db"), dir.path().join("far"));
    fs::create_dir(&far).unwrap();
    fs::write(far.join("precious"), b"x").unwrap();
    drop(open_dir(&root).unwrap());
    let link = root.join("trash/000102030405060708090a0b0c0d0e0f");
    symlink(&far, &link).unwrap();
    assert!(warnings(&open_dir(&root).unwrap()).is_empty());
    assert!(!link.is_symlink() && far.join("precious").exists());
}

// -- names that a file system refuses --

#[cfg(unix)]
#[test]
fn a_topic_that_the_file_system_cannot_name_is_refused_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().to_path_buf();
    while dir.as_os_str().len() < 3_700 {
        dir.push("d".repeat(200));
    }
    dir.push("d".repeat(3_950usize.saturating_sub(dir.as_os_str().len()).clamp(1, 200)));
    let broker = open_dir(&dir).unwrap();
    two_topics(&broker);
    // The first has no room for the topic's directory, the second none for a segment in it.
    for len in [200, 100] {
        let error = broker.create_topic(&"x".repeat(len), small()).map(drop).unwrap_err();
        assert!(matches!(&error, Error::Io { .. }), "{len}: {error}");
    }
    broker.close().unwrap();
    let broker = open_dir(&dir).unwrap();
    assert!(broker.open_report().clean && warnings(&broker).is_empty());
    assert_filled(&partition(&broker, "good"), 10, "the others");
}

// -- files that the catalog does not know --

/// A disk with the files of topic `t`, 30 records, that its catalog does not know.
fn with_unknown() -> Disk {
    let disk = Disk::new();
    open(&disk).unwrap().close().unwrap();
    let (catalog, checkpoint) = (disk.read("catalog").unwrap(), disk.read("checkpoint").unwrap());
    let broker = open(&disk).unwrap();
    broker.create_topic("t", small().partitions(3)).unwrap();
    fill(&broker, &partition(&broker, "t"), 30);
    broker.close().unwrap();
    for (path, bytes) in [("catalog", catalog), ("checkpoint", checkpoint)] {
        disk.remove(path).unwrap();
        disk.write_new(path, &bytes).unwrap();
    }
    disk
}

#[test]
fn unknown_files_block_only_a_topic_of_their_own_name() {
    let disk = with_unknown();
    let before = files(&disk, "topics", "");
    let broker = open(&disk).unwrap();
    let told = warnings(&broker);
    assert!(told.len() == 1 && told[0].ends_with("and was left alone"), "{told:?}");
    for made in [broker.ensure_topic("t", small()), broker.create_topic("t", small())] {
        let error = made.map(drop).unwrap_err();
        assert!(matches!(&error, Error::ForeignDirectory { found, .. } if found == "t"), "{error}");
    }
    assert_eq!(files(&disk, "topics", ""), before);
    broker.create_topic("other", small()).unwrap();
}

#[test]
fn files_that_the_catalog_does_not_know_are_taken_over_on_request() {
    for killed in [false, true] {
        let disk = with_unknown();
        let broker = open(&disk).unwrap();
        let missing = broker.adopt_topic("nothing", small()).unwrap_err();
        assert!(matches!(missing, Error::UnknownTopic { .. }), "{missing}");
        broker.adopt_topic("t", small().partitions(3)).unwrap();
        assert_filled(&partition(&broker, "t"), 30, "taken over");
        assert_eq!(partition(&broker, "t").epoch(), 1, "nothing proves that this is its end");
        fill(&broker, &partition(&broker, "t"), 35);
        assert!(matches!(broker.adopt_topic("t", small()), Err(Error::TopicExists { .. })));
        assert!(matches!(broker.remove_unknown("t"), Err(Error::TopicExists { .. })));
        broker.sync().unwrap();
        if killed {
            disk.crash(Survive::Synced);
        } else {
            broker.close().unwrap();
        }
        let broker = open(&disk).unwrap();
        assert!(warnings(&broker).is_empty());
        assert_filled(&partition(&broker, "t"), 35, "and kept");
        assert_eq!(broker.topic("t").unwrap().partition_count(), 3);
    }
}

#[test]
fn a_takeover_needs_room_for_every_partition_and_whole_manifests() {
    let disk = with_unknown();
    let broker = open(&disk).unwrap();
    disk.write_new("topics/t/1/manifest", &disk.read("topics/t/0/manifest").unwrap()).unwrap();
    let error = broker.adopt_topic("t", small().partitions(3)).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    disk.remove("topics/t/1").unwrap();
    let error = broker.adopt_topic("t", small().partitions(0)).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    disk.flip_bit("topics/t/0/manifest", 300).unwrap();
    let error = broker.adopt_topic("t", small()).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    disk.flip_bit("topics/t/0/manifest", 300).unwrap();
    broker.adopt_topic("t", small()).unwrap();
    assert_filled(&partition(&broker, "t"), 30, "after all");
}

#[test]
fn a_takeover_is_whole_or_has_not_happened() {
    let disk = with_unknown();
    for nth in 1.. {
        let disk = disk.duplicate();
        let broker = open(&disk).unwrap();
        disk.crash_at(nth);
        let finished = broker.adopt_topic("t", small()).is_ok();
        for survive in [Survive::Everything, Survive::Synced, Survive::Random(nth)] {
            let disk = disk.duplicate();
            disk.crash(survive);
            let broker = open(&disk).unwrap();
            if broker.topic("t").is_err() {
                assert!(!finished, "{nth} {survive:?}");
                broker.adopt_topic("t", small()).unwrap();
            }
            assert_filled(&partition(&broker, "t"), 30, "taken over");
        }
        if finished {
            break;
        }
    }
}

#[test]
fn files_that_the_catalog_does_not_know_are_removed_on_request() {
    let disk = with_unknown();
    let broker = open(&disk).unwrap();
    assert!(matches!(broker.remove_unknown("nothing"), Err(Error::UnknownTopic { .. })));
    broker.remove_unknown("t").unwrap();
    assert!(files(&disk, "topics", "").is_empty());
    broker.create_topic("t", small()).unwrap();
    fill(&broker, &partition(&broker, "t"), 2);
}

/// Transactions of files that are taken over have no records in this journal: they count, also when
/// they are scanned again.
#[test]
fn transactions_in_files_that_are_taken_over_count() {
    let disk = Disk::new();
    open(&disk).unwrap().close().unwrap();
    let catalog = disk.read("catalog").unwrap();
    // Ids follow the time, and these files are of a machine whose clock is ahead.
    let ahead = ManualClock::new();
    ahead.advance(Duration::from_secs(3600));
    let broker = BrokerConfig::new().clock(ahead).seed(1).on_disk(&disk).unwrap();
    for topic in ["t", "u"] {
        broker.create_topic(topic, TopicConfig::new()).unwrap();
    }
    for value in ["one", "two"] {
        let mut transaction = broker.transaction();
        for topic in ["t", "u"] {
            transaction.send(partition(&broker, topic), Record::new(value));
        }
        transaction.commit().unwrap();
    }
    broker.close().unwrap();
    for path in ["catalog", "journal", "checkpoint"] {
        disk.remove(path).unwrap();
    }
    disk.write_new("catalog", &catalog).unwrap();
    let broker = open(&disk).unwrap();
    broker.adopt_topic("t", TopicConfig::new()).unwrap();
    let values = |broker: &Broker| -> Vec<Vec<u8>> {
        let records = partition(broker, "t").read(Start::Beginning, 1 << 20).unwrap();
        records.iter().map(|record| record.value().unwrap().to_vec()).collect()
    };
    assert_eq!(values(&broker).len(), 2);
    // A transaction of this broker starts a journal.
    broker.create_topic("v", TopicConfig::new()).unwrap();
    let mut transaction = broker.transaction();
    for topic in ["t", "v"] {
        transaction.send(partition(&broker, topic), Record::new("three"));
    }
    transaction.commit().unwrap();
    disk.crash(Survive::Everything);
    disk.remove("checkpoint").unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(values(&broker).len(), 3, "{:?}", broker.open_report());
}

// -- the entries of a volume's root --

#[test]
fn entries_that_operating_systems_create_are_ignored() {
    let names =
        ["lost+found/x", ".snapshot/x", ".zfs/x", ".DS_Store", "@eaDir/x", ".Trash-1000/x", ".nfs000001"];
    let disk = Disk::new();
    for name in names {
        disk.write_new(Path::new(name), b"").unwrap();
    }
    let broker = open(&disk).unwrap();
    two_topics(&broker);
    for below in ["topics", "topics/good", "topics/good/0"] {
        disk.write_new(Path::new(below).join(".DS_Store"), b"").unwrap();
    }
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert!(warnings(&broker).is_empty(), "{:?}", warnings(&broker));
    drop(broker);
    disk.write_new("mine", b"").unwrap();
    assert_eq!(warnings(&open(&disk).unwrap()).len(), 1);
}

// -- directories that cannot be synced --

#[test]
fn a_file_system_that_syncs_no_directories_is_used_and_reported() {
    for kind in [ErrorKind::InvalidInput, ErrorKind::Unsupported] {
        let disk = Disk::new();
        disk.fail_always(Op::SyncDir, 1, kind);
        let broker = open(&disk).unwrap();
        let told = warnings(&broker);
        assert!(told.len() == 1 && told[0].contains("cannot sync directories"), "{told:?}");
        two_topics(&broker);
        broker.delete_topic("gone").unwrap();
        disk.crash(Survive::Everything);
        disk.fail_always(Op::SyncDir, 1, kind);
        let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
        assert_eq!(warnings(&broker).len(), 1);
        assert_filled(&partition(&broker, "good"), 10, "there");
    }
}

#[test]
fn a_directory_whose_sync_fails_otherwise_is_an_error() {
    let disk = Disk::new();
    disk.fail(Op::SyncDir, 1, ErrorKind::Other);
    let error = open(&disk).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Io { action: IoAction::Sync, .. }), "{error}");
    open(&disk).unwrap();
}
