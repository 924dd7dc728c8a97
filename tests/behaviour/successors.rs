//! Rolls of partitions whose appends wait for no sync: they sync nothing and replace no manifest,
//! an opening finds the new segments by their chain, and a power loss takes a tail and no middle.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Clock, Durability, Error, Offset, Partition, Record, Retention, Start,
    TopicConfig,
};

use crate::common::{assert_filled, assert_prefix, files, fill, open, read, small, value};

const DIR: &str = "topics/t/0";
/// Records that fill six segments of [`small`].
const MANY: u64 = 60;

fn config() -> TopicConfig {
    small().durability(Durability::Os)
}

fn partition_of(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

/// A disk on which a process has filled a partition, and was killed.
fn killed(config: TopicConfig, end: u64) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition, end);
    assert!(partition.segments().len() >= 2, "it has rolled");
    disk.crash(Survive::Everything);
    disk
}

fn syncs(disk: &Disk) -> u64 {
    disk.ops_of(Op::Sync) + disk.ops_of(Op::SyncDir) + disk.ops_of(Op::Rename)
}

/// The bytes of the manifest on the disk.
fn manifest(disk: &Disk) -> Vec<u8> {
    disk.read("topics/t/0/manifest").unwrap()
}

/// How many segments the manifest on the disk lists.
fn listed(disk: &Disk) -> u32 {
    let bytes = manifest(disk);
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let epochs = number(72);
    number(80 + 12 * epochs as usize)
}

// -- what a roll does --

/// A call that makes a manifest list segments.
type Call = fn(&Broker, &Partition);

#[test]
fn a_roll_syncs_nothing_and_replaces_no_manifest() {
    for durability in [Durability::Os, Durability::Interval(Duration::from_secs(5))] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", small().durability(durability)).unwrap();
        let partition = topic.partition(0).unwrap();
        fill(&broker, &partition, 1);
        let (before, bytes) = (syncs(&disk), manifest(&disk));
        fill(&broker, &partition, MANY);
        assert!(partition.segments().len() > 4);
        assert_eq!((syncs(&disk), manifest(&disk) == bytes), (before, true), "{durability:?}");
        assert_eq!(listed(&disk), 1);
    }
}

#[test]
fn a_partition_with_sync_lists_each_segment_before_its_first_batch() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small().durability(Durability::Sync)).unwrap();
    let partition = topic.partition(0).unwrap();
    for end in 1..MANY {
        fill(&broker, &partition, end);
        assert_eq!(listed(&disk) as usize, partition.segments().len());
    }
}

#[test]
fn a_sync_a_maintenance_and_a_close_list_every_segment() {
    let list: [(&str, Call); 3] = [
        ("sync", |broker, _| broker.sync().unwrap()),
        ("maintenance", |broker, _| broker.maintain().unwrap()),
        ("close", |broker, _| broker.close().unwrap()),
    ];
    for (name, list) in list {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
        fill(&broker, &partition, MANY);
        let segments = partition.segments().len();
        list(&broker, &partition);
        assert_eq!(listed(&disk) as usize, segments, "{name}");
        let files = files(&disk, DIR, ".log");
        for file in &files {
            let copy = disk.duplicate();
            copy.crash(Survive::Everything);
            copy.remove(file).unwrap();
            let broker = open(&copy).unwrap();
            assert_eq!(broker.open_report().damaged.len(), 1, "{name}: {} is missing", file.display());
        }
    }
}

#[test]
fn a_topic_that_changes_to_os_announces_it_with_its_first_roll_and_one_that_changes_to_sync_lists_again() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small().durability(Durability::Sync)).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 2);
    assert_eq!(manifest(&disk)[12], 0, "no feature");
    broker.alter_topic("t", config()).unwrap();
    fill(&broker, &partition, MANY);
    assert_eq!((manifest(&disk)[12], listed(&disk)), (1, 2), "the first roll has listed its segment");
    broker.alter_topic("t", small().durability(Durability::Sync)).unwrap();
    fill(&broker, &partition, 2 * MANY);
    assert_eq!(listed(&disk) as usize, partition.segments().len());
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert_filled(&partition_of(&broker), 2 * MANY, "all was acknowledged by Sync");
}

// -- what an opening finds --

#[test]
fn after_a_kill_everything_is_there_and_the_opening_syncs_none_of_it() {
    let disk = killed(config(), MANY);
    let files = files(&disk, DIR, ".log");
    let written = disk.ops_of(Op::Write);
    let broker = open(&disk).unwrap();
    let partition = partition_of(&broker);
    assert_filled(&partition, MANY, "after a kill");
    assert_eq!(partition.segments().len(), files.len());
    assert_eq!(listed(&disk), 1, "the opening has listed nothing");
    let bounds = partition.bounds().unwrap();
    assert_eq!((bounds.durable_end.get(), bounds.visible_end.get()), (0, MANY));
    assert!(disk.ops_of(Op::Write) - written < 10, "only the catalog and the checkpoint");
    fill(&broker, &partition, 2 * MANY);
    broker.maintain().unwrap();
    assert_eq!(partition.bounds().unwrap().durable_end.get(), 2 * MANY);
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert_filled(&partition_of(&broker), 2 * MANY, "after maintenance and a power loss");
}

#[test]
fn bytes_that_a_failed_sync_has_lost_before_a_kill_are_written_again() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, MANY);
    // Each file counts as clean afterwards, and its bytes are not on the medium.
    disk.fail_always(Op::Sync, 1, std::io::ErrorKind::Other);
    broker.sync().unwrap_err();
    disk.clear_faults();
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    broker.sync().unwrap();
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert_filled(&partition_of(&broker), MANY, "after a failed sync, a kill, and a sync that succeeds");
}

/// Every power loss after a kill and an opening leaves a prefix, at least up to the last sync.
#[test]
fn a_kill_an_opening_and_a_power_loss_leave_a_prefix() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 25);
    broker.sync().unwrap();
    fill(&broker, &partition, MANY);
    let mut disks = vec![disk.duplicate()];
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    disks.push(disk.duplicate());
    fill(&broker, &partition_of(&broker), MANY + 20);
    disks.push(disk.duplicate());
    for (n, disk) in disks.iter().enumerate() {
        let losses = disk.power_losses(n as u64).into_iter().chain((100..140).map(Survive::Random));
        for loss in losses {
            let copy = disk.duplicate();
            copy.crash(loss);
            let broker = open(&copy).unwrap();
            let report = broker.open_report();
            assert!(report.damaged.is_empty(), "{n} {loss:?}: {:?}", report.damaged);
            let (end, error) = assert_prefix(&partition_of(&broker), &format!("{n} {loss:?}"));
            assert!(error.is_none() && end >= 25, "{n} {loss:?}: {end} {error:?}");
            fill(&broker, &partition_of(&broker), end + 30);
            broker.close().unwrap();
            let broker = open(&copy).unwrap();
            assert_filled(&partition_of(&broker), end + 30, "appended again");
        }
    }
}

// -- the states of one successor --

/// Opens a killed disk after `change` of the segment files, whose first is listed. Returns the end.
fn end_after(case: &str, change: impl Fn(&Disk, &[std::path::PathBuf])) -> (u64, bool) {
    let disk = killed(config(), MANY);
    // So that it is no kill: bytes of a power loss.
    disk.crash(Survive::Subset(u64::MAX));
    change(&disk, &files(&disk, DIR, ".log"));
    let found = disk.verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
    let broker = open(&disk).unwrap();
    let report = broker.open_report();
    assert!(report.damaged.is_empty(), "{case}: {:?}", report.damaged);
    let (end, error) = assert_prefix(&partition_of(&broker), case);
    assert!(error.is_none(), "{case}: {error:?}");
    assert!(
        found.findings.iter().all(|found| found.kind == quipu::stats::FindingKind::TornTail),
        "{case}: {found:?}"
    );
    let cut = !report.truncated_tails.is_empty();
    assert_eq!(cut, !found.findings.is_empty(), "{case}: {found:?}");
    fill(&broker, &partition_of(&broker), end + 20);
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert_filled(&partition_of(&broker), end + 20, case);
    assert_eq!(broker.open_report().damaged.len(), 0);
    (end, cut)
}

fn base_of(path: &std::path::Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap()[..20].parse().unwrap()
}

#[test]
fn a_whole_chain_is_followed_to_its_end() {
    assert_eq!(end_after("whole", |_, _| ()), (MANY, false));
}

#[test]
fn a_missing_successor_ends_the_log_and_later_ones_are_kept_aside() {
    let base = std::cell::Cell::new(0);
    let found = end_after("missing", |disk, files| {
        base.set(base_of(&files[2]));
        disk.remove(&files[2]).unwrap();
    });
    assert_eq!(found, (base.get(), true));
}

#[test]
fn a_last_successor_that_is_missing_or_has_no_header_ends_the_log_silently() {
    for len in [None, Some(0), Some(50), Some(128)] {
        let base = std::cell::Cell::new(0);
        let found = end_after(&format!("{len:?}"), |disk, files| {
            let last = files.last().unwrap();
            base.set(base_of(last));
            match len {
                None => disk.remove(last).unwrap(),
                Some(len) => disk.truncate(last, len).unwrap(),
            }
        });
        assert_eq!(found, (base.get(), false), "{len:?}");
    }
}

#[test]
fn a_torn_header_before_whole_batches_is_a_torn_tail() {
    for bit in [8 * 3, 8 * 50, 8 * 57, 8 * 100] {
        let base = std::cell::Cell::new(0);
        let found = end_after("header", |disk, files| {
            base.set(base_of(&files[1]));
            disk.flip_bit(&files[1], bit).unwrap();
        });
        assert_eq!(found, (base.get(), true));
    }
}

#[test]
fn a_torn_batch_in_any_segment_ends_the_log_there() {
    for n in 0..4 {
        let next = std::cell::Cell::new((0, 0));
        let (end, cut) = end_after(&format!("segment {n}"), |disk, files| {
            next.set((base_of(&files[n]), files.get(n + 1).map_or(MANY, |file| base_of(file))));
            disk.flip_bit(&files[n], 8 * 500).unwrap();
        });
        assert!((next.get().0..next.get().1).contains(&end) && cut, "{n}: {end}");
    }
}

#[test]
fn a_segment_that_is_shorter_than_its_successor_says_ends_the_log() {
    let bounds = std::cell::Cell::new((0, 0));
    let (end, cut) = end_after("short", |disk, files| {
        bounds.set((base_of(&files[1]), base_of(&files[2])));
        disk.truncate(&files[1], 400).unwrap();
    });
    assert!((bounds.get().0..bounds.get().1).contains(&end) && cut, "{end}");
}

#[test]
fn damage_before_the_durable_end_is_damage_and_later_successors_stay_readable() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 30);
    broker.sync().unwrap();
    fill(&broker, &partition, MANY);
    assert!(partition.segments().len() > listed(&disk) as usize + 1);
    let files = files(&disk, DIR, ".log");
    for (at, file) in files.iter().enumerate().take(listed(&disk) as usize) {
        let copy = disk.duplicate();
        copy.crash(Survive::Everything);
        copy.flip_bit(file, 8 * 300).unwrap();
        let broker = open(&copy).unwrap();
        assert_eq!(broker.open_report().damaged.len(), 1, "segment {at}");
        let partition = partition_of(&broker);
        assert_eq!(partition.bounds().unwrap().log_end, MANY);
        let last = partition.read(Start::At(Offset::new(MANY - 1)), 1 << 10).unwrap();
        assert_eq!(last.iter().next().unwrap().value().unwrap(), value(MANY - 1).as_bytes());
        let damage = partition.damage().unwrap();
        partition.accept_loss(&damage).unwrap();
        let lost: u64 = damage.iter().map(|range| range.to.get() - range.from.get()).sum();
        assert!(lost < 8, "only what was damaged: {damage:?}");
        assert_eq!(partition.bounds().unwrap().log_end, MANY);
        fill(&broker, &partition, MANY + 10);
        broker.close().unwrap();
        let broker = open(&copy).unwrap();
        assert_eq!(
            (broker.open_report().damaged.len(), partition_of(&broker).bounds().unwrap().log_end),
            (0, Offset::new(MANY + 10))
        );
    }
}

// -- steps that follow a roll directly --

#[test]
fn steps_that_remove_records_directly_after_rolls_survive_every_power_loss() {
    let steps: [(&str, Call); 5] = [
        ("truncation", |_, partition| partition.truncate_to(Offset::new(33)).unwrap()),
        ("reset", |_, partition| partition.reset_to(Offset::new(1_000)).unwrap()),
        ("deletion", |_, partition| assert_eq!(partition.delete_records(Offset::new(45)).unwrap(), 45)),
        ("everything", |_, partition| assert_eq!(partition.delete_records(Offset::new(MANY)).unwrap(), MANY)),
        ("topic", |broker, _| broker.delete_topic("t").unwrap()),
    ];
    for (name, step) in steps {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
        fill(&broker, &partition, MANY);
        step(&broker, &partition);
        let bounds = partition.bounds().ok();
        for loss in disk.power_losses(7).into_iter().chain([Survive::Everything]) {
            let copy = disk.duplicate();
            copy.crash(loss);
            let broker = open(&copy).unwrap();
            let case = format!("{name} {loss:?}");
            assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report().damaged);
            let Some(bounds) = bounds else {
                assert!(broker.topic("t").is_err(), "{case}");
                continue;
            };
            let found = partition_of(&broker).bounds().unwrap();
            assert_eq!((found.log_start, found.log_end), (bounds.log_start, bounds.log_end), "{case}");
            for offset in bounds.log_start.get()..bounds.log_end.get() {
                let read = partition_of(&broker).read(Start::At(Offset::new(offset)), 1).unwrap();
                assert_eq!(
                    read.iter().next().unwrap().value().unwrap(),
                    value(offset).as_bytes(),
                    "{case} {offset}"
                );
            }
        }
    }
}

#[test]
fn retention_by_size_keeps_up_with_a_storm_of_rolls() {
    let retention = Retention::for_bytes(3 << 10);
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config().retention(retention)).unwrap().partition(0).unwrap();
    for round in 1..20 {
        fill(&broker, &partition, round * 25);
        assert!(partition.stats().bytes <= 5 << 10, "{}", partition.stats().bytes);
        let bounds = partition.bounds().unwrap();
        for loss in [Survive::Synced, Survive::Random(round), Survive::Everything] {
            let copy = disk.duplicate();
            copy.crash(loss);
            let broker = open(&copy).unwrap();
            assert!(broker.open_report().damaged.is_empty(), "{round} {loss:?}");
            let found = partition_of(&broker).bounds().unwrap();
            assert!(found.log_start <= bounds.log_start && found.log_end >= found.log_start);
            assert!(loss != Survive::Everything || found.log_end == bounds.log_end);
        }
    }
}

#[test]
fn compaction_directly_after_rolls_keeps_the_newest_value_of_each_key() {
    let clock = ManualClock::new();
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let config = config().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.01);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let producer = broker.producer();
    for n in 0..MANY {
        let record = Record::new(value(n)).key(format!("{}", n % 5));
        producer.send(&partition, record).unwrap().wait().unwrap();
    }
    partition.compact().unwrap();
    for n in MANY..2 * MANY {
        let record = Record::new(value(n)).key(format!("{}", n % 5));
        producer.send(&partition, record).unwrap().wait().unwrap();
    }
    assert!(clock.now().as_millis() >= 0);
    for loss in disk.power_losses(3) {
        let copy = disk.duplicate();
        copy.crash(loss);
        let broker = open(&copy).unwrap();
        assert!(broker.open_report().damaged.is_empty(), "{loss:?}");
        let partition = partition_of(&broker);
        let end = partition.bounds().unwrap().log_end.get();
        assert!(end >= MANY - 15, "what was compacted is durable: {end}");
        let mut newest = std::collections::BTreeMap::new();
        let mut from = 0;
        loop {
            let records = partition.read(Start::At(Offset::new(from)), 1 << 10).unwrap();
            let Some(last) = records.last() else { break };
            from = last.offset().get() + 1;
            for record in &records {
                newest.insert(record.key().unwrap().to_vec(), record.value().unwrap().to_vec());
            }
        }
        for key in 0..5 {
            let last = (0..end).rev().find(|n| n % 5 == key).unwrap();
            assert_eq!(newest[key.to_string().as_bytes()], value(last).as_bytes(), "{loss:?} {key}");
        }
    }
}

// -- failures --

#[test]
fn a_sync_whose_manifest_finds_no_room_succeeds_and_a_later_one_lists() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, MANY);
    let reserve = disk.ops_of(Op::Write);
    disk.fail(Op::Write, 1, std::io::ErrorKind::StorageFull);
    broker.sync().unwrap();
    assert_eq!((listed(&disk), disk.ops_of(Op::Write) > reserve), (1, true));
    let copy = disk.duplicate();
    copy.crash(Survive::Synced);
    assert_filled(&partition_of(&open(&copy).unwrap()), MANY, "it is durable although it is not listed");
    broker.maintain().unwrap();
    assert_eq!(listed(&disk) as usize, partition.segments().len());
}

#[test]
fn a_directory_that_cannot_be_synced_acknowledges_nothing() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", config()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, MANY);
    disk.fail(Op::SyncDir, 1, std::io::ErrorKind::Other);
    broker.sync().unwrap_err();
    assert_eq!(partition.bounds().unwrap().durable_end, 0);
    assert!(matches!(broker.sync(), Err(Error::Poisoned { .. } | Error::Io { .. })));
    partition.reopen().unwrap();
    let (values, error) = read(&partition);
    assert!(error.is_none() && values.len() as u64 == MANY);
    disk.crash(Survive::Synced);
    assert_filled(&partition_of(&open(&disk).unwrap()), MANY, "reopened");
}
