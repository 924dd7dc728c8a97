//! Which segments retention deletes, when, and which it never deletes: by age, by size, by both, by
//! neither; under clocks that jump, on full disks, beside readers that still hold deleted records.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Clock, Durability, Error, Offset, OffsetReset, Partition, Position, Record,
    Retention, SkipReason, Start, TopicConfig,
};

use crate::common::{at, look, send};

const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Segments that hold exactly five of the records that [`append`] appends.
fn fives() -> TopicConfig {
    TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(500)
}

fn settings(clock: &ManualClock) -> BrokerConfig {
    BrokerConfig::new().clock(clock.clone()).seed(1)
}

fn open(disk: &Disk, clock: &ManualClock) -> Broker {
    settings(clock).on_disk(disk).unwrap()
}

fn partition(broker: &Broker, config: TopicConfig) -> Partition {
    broker.ensure_topic("t", config).unwrap().partition(0).unwrap()
}

fn append(broker: &Broker, partition: &Partition, count: usize) {
    for _ in 0..count {
        let end = partition.bounds().unwrap().log_end;
        send(broker, partition, &format!("{end:>60}")).unwrap();
    }
}

// Kafka's `deleteRetentionSizeBreachedSegments`.
#[test]
fn by_size_the_oldest_segments_go_down_to_the_bound_and_not_below() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives());
    append(&broker, &t, 15);
    assert_eq!(look(&disk, &t), (3, 0, 15));
    let five = t.segments()[0].bytes;
    assert!(t.segments().iter().all(|segment| segment.bytes == five));
    for (bytes, expected) in [
        (15 * five, (3, 0, 15)),
        (2 * five + 1, (3, 0, 15)),
        // Kafka's vector: 15 equal records, 5 a segment, 10 to keep.
        (2 * five, (2, 5, 15)),
        (five + 1, (2, 5, 15)),
        (five, (1, 10, 15)),
        (1, (1, 10, 15)),
    ] {
        broker.alter_topic("t", fives().retention(Retention::for_bytes(bytes))).unwrap();
        for _ in 0..3 {
            broker.maintain().unwrap();
            assert_eq!(look(&disk, &t), expected, "{bytes}");
        }
    }
}

// Kafka's `deleteRetentionMsBreachedSegments`.
#[test]
fn by_age_a_segment_goes_when_its_youngest_record_is_older_not_as_old() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives().retention(Retention::for_age(MINUTE)));
    for _ in 0..15 {
        append(&broker, &t, 1);
        clock.advance(Duration::from_secs(1));
    }
    // The youngest records of the segments are of the seconds 4, 9 and 14; this is second 15.
    clock.advance(Duration::from_secs(49));
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (3, 0, 15));
    clock.advance(TICK);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (2, 5, 15));
    clock.advance(Duration::from_secs(5) - TICK);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (2, 5, 15));
    clock.advance(TICK);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 10, 15));
}

// By the records' own times (KIP-1030 bounds those in the future).
#[test]
fn sender_timestamps_decide_and_one_in_the_future_keeps_all_later_segments() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    // A time of tomorrow has to be allowed first: by default an hour ahead is the most.
    let config = fives().retention(Retention::for_age(MINUTE)).timestamp_bounds(None, None);
    let t = partition(&broker, config);
    let now = clock.now();
    let times = |i: u64| match i {
        // Imported, long past; in the second segment one of tomorrow.
        7 => now.plus(DAY),
        _ => quipu::Timestamp::from_millis(now.as_millis() - 1_000_000),
    };
    for i in 0..15 {
        let value = format!("{i:>60}");
        broker.producer().send(&t, Record::new(value.as_str()).timestamp(times(i))).unwrap().wait().unwrap();
    }
    broker.maintain().unwrap();
    let (_, start, end) = look(&disk, &t);
    assert_eq!((start, end), (5, 15));
    clock.advance(DAY + MINUTE);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t).1, 5);
    clock.advance(TICK);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 15, 15));
}

// Kafka's `UnifiedLogTest.testThatGarbageCollectingSegmentsDoesntChangeOffset`.
#[test]
fn after_everything_is_deleted_appends_continue_at_the_end_and_no_offset_is_reused() {
    for survive in [None, Some(Survive::Everything), Some(Survive::Synced), Some(Survive::Random(5))] {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = open(&disk, &clock);
        let config = fives().retention(Retention::for_age(MINUTE));
        let t = partition(&broker, config.clone());
        append(&broker, &t, 13);
        clock.advance(MINUTE + TICK);
        for _ in 0..3 {
            // The first rolls; the others find an empty segment, which stays.
            broker.maintain().unwrap();
            assert_eq!(look(&disk, &t), (1, 13, 13));
        }
        assert!(t.read(Start::Beginning, 1).unwrap().is_empty(), "empty, and no error");
        match survive {
            None => broker.close().unwrap(),
            Some(survive) => disk.crash(survive),
        }
        let broker = open(&disk, &clock);
        assert!(broker.open_report().damaged.is_empty());
        let t = partition(&broker, config);
        let (_, start, end) = look(&disk, &t);
        assert_eq!((start, end), (13, 13), "{survive:?}");
        append(&broker, &t, 6);
        assert_eq!(look(&disk, &t), (2, 13, 19), "{survive:?}");
    }
}

// Kafka's `retention.ms` and `retention.bytes`: -1 and 0.
#[test]
fn without_limits_nothing_ever_goes_and_with_none_left_at_the_next_tick() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives());
    append(&broker, &t, 15);
    assert_eq!(TopicConfig::new(), TopicConfig::new().retention(Retention::forever()));
    assert_eq!(Retention::forever(), Retention::default());
    clock.advance(4_000 * DAY);
    broker.maintain().unwrap();
    assert_eq!((look(&disk, &t).1, look(&disk, &t).2), (0, 15));

    append(&broker, &t, 1);
    broker.alter_topic("t", fives().retention(Retention::for_age(Duration::ZERO))).unwrap();
    broker.maintain().unwrap();
    assert_eq!((look(&disk, &t).1, look(&disk, &t).2), (15, 16), "the last one is not older than now");
    clock.advance(TICK);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 16, 16));

    append(&broker, &t, 3);
    broker.alter_topic("t", fives().retention(Retention::for_bytes(0))).unwrap();
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 19, 19));
}

#[test]
fn retention_by_age_and_size_deletes_the_union_of_both() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives());
    append(&broker, &t, 5);
    clock.advance(MINUTE);
    append(&broker, &t, 15);
    let five = t.segments()[0].bytes;
    let both = Retention::for_bytes(2 * five).and_age(MINUTE);
    assert_eq!(both, Retention::for_age(MINUTE).and_bytes(2 * five));
    broker.alter_topic("t", fives().retention(both)).unwrap();
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (2, 10, 20), "by size");
    clock.advance(MINUTE + TICK);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 20, 20), "by age");
}

#[test]
fn the_setting_is_kept_in_the_catalog_and_can_be_altered() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    for retention in [
        Retention::for_age(MINUTE),
        Retention::for_bytes(u64::MAX),
        Retention::for_age(Duration::ZERO).and_bytes(0),
        Retention::forever(),
    ] {
        let config = fives().retention(retention);
        let broker = open(&disk, &clock);
        broker.ensure_topic("t", config.clone()).unwrap();
        broker.close().unwrap();
        let broker = open(&disk, &clock);
        assert_eq!(broker.topic("t").unwrap().config(), config);
        broker.close().unwrap();
    }
}

/// A broker with 15 records of a minute ago in three segments that go after an hour.
fn hourly(disk: &Disk, clock: &ManualClock) -> (Broker, Partition) {
    let broker = open(disk, clock);
    let t = partition(&broker, fives().retention(Retention::for_age(60 * MINUTE)));
    append(&broker, &t, 15);
    clock.advance(MINUTE);
    (broker, t)
}

#[test]
fn a_wall_clock_that_jumps_ahead_deletes_nothing_early() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let (broker, t) = hourly(&disk, &clock);
    let right = clock.now();
    clock.set_wall(right.plus(365 * DAY));
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t).1, 0);
    // Records written meanwhile have times in the future and are kept until then. They roll,
    // because they are that much younger.
    append(&broker, &t, 1);
    clock.advance(59 * MINUTE + TICK);
    broker.maintain().unwrap();
    assert_eq!((look(&disk, &t).1, look(&disk, &t).2), (15, 16), "an hour has passed by all clocks");
    clock.set_wall(right.plus(60 * MINUTE));
    broker.maintain().unwrap();
    assert_eq!((look(&disk, &t).1, look(&disk, &t).2), (15, 16));
}

#[test]
fn a_wall_clock_that_jumps_back_only_delays() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let (broker, t) = hourly(&disk, &clock);
    let right = clock.now();
    clock.set_wall(quipu::Timestamp::from_millis(0));
    clock.advance(60 * MINUTE);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t).1, 0, "by the wall clock nothing is old");
    // Records of a late clock are old once it is right again, but wait for those before them.
    append(&broker, &t, 5);
    clock.set_wall(right);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t).1, 0);
    clock.set_wall(right.plus(60 * MINUTE));
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 20, 20));
}

#[test]
fn a_broker_opened_under_a_late_clock_catches_up_at_its_next_opening() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let (broker, t) = hourly(&disk, &clock);
    drop(t);
    broker.close().unwrap();
    let right = clock.now();
    clock.set_wall(quipu::Timestamp::from_millis(0));
    let broker = open(&disk, &clock);
    clock.set_wall(right.plus(DAY));
    broker.maintain().unwrap();
    let t = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(look(&disk, &t).1, 0, "too late is harmless");
    drop(t);
    broker.close().unwrap();
    let broker = open(&disk, &clock);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &broker.topic("t").unwrap().partition(0).unwrap()), (1, 15, 15));
}

#[test]
fn deleted_segments_are_reported_as_an_event() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let broker = BrokerConfig::new()
        .clock(clock)
        .on_event(move |event| seen.lock().unwrap().push(event.clone()))
        .on_disk(&disk)
        .unwrap();
    let t = partition(&broker, fives());
    append(&broker, &t, 15);
    let five = t.segments()[0].bytes;
    broker.alter_topic("t", fives().retention(Retention::for_bytes(five))).unwrap();
    broker.maintain().unwrap();
    broker.maintain().unwrap();
    t.delete_records(12.into()).unwrap();
    let mut told = Vec::new();
    for event in events.lock().unwrap().iter() {
        if let Event::Retained { topic, partition, log_start, segments, bytes, .. } = event {
            assert_eq!((topic.as_str(), partition.get()), ("t", 0));
            told.push((log_start.get(), *segments, *bytes));
        }
    }
    assert_eq!(told, [(10, 2, 2 * five), (12, 0, 0)]);
}

#[test]
fn a_segment_that_is_sealed_to_delete_its_records_is_reported_as_an_event() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let broker = settings(&clock)
        .on_event(move |event| {
            if let Event::Rolled { base_offset, .. } = event {
                seen.lock().unwrap().push(base_offset.get());
            }
        })
        .on_disk(&disk)
        .unwrap();
    let t = partition(&broker, fives().retention(Retention::for_age(MINUTE)));
    append(&broker, &t, 3);
    clock.advance(MINUTE + TICK);
    broker.maintain().unwrap();
    assert_eq!((start(&broker, &t), t.bounds().unwrap().log_end.get()), (3, 3));
    assert_eq!(*events.lock().unwrap(), [3]);
}

#[test]
fn a_full_disk_leaves_everything_as_it_was_until_the_next_time() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let (broker, t) = hourly(&disk, &clock);
    broker.maintain().unwrap();
    clock.advance(60 * MINUTE);
    disk.fail_always(Op::Write, 1, ErrorKind::StorageFull);
    let _ = broker.maintain();
    disk.clear_faults();
    assert_eq!(look(&disk, &t), (3, 0, 15));
    assert!(t.stats().poisoned.is_none());
    // Without the room for a new segment the sealed ones go nevertheless.
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 10, 15));
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 15, 15));
    append(&broker, &t, 1);
}

#[test]
fn an_unknown_outcome_deletes_nothing_and_poisons() {
    for op in [Op::Rename, Op::SyncDir] {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let (broker, t) = hourly(&disk, &clock);
        broker.maintain().unwrap();
        broker.alter_topic("t", fives().retention(Retention::for_bytes(1))).unwrap();
        disk.fail(op, 1, ErrorKind::Other);
        broker.maintain().unwrap();
        assert!(t.stats().poisoned.is_some(), "{op:?}");
        assert_eq!(look(&disk, &t), (3, 0, 15), "{op:?}: reading continues at its position");
        broker.maintain().unwrap();
        assert_eq!(look(&disk, &t).1, 0, "a poisoned partition is left alone");
        // The state after a crash is valid with either manifest.
        let copy = disk.duplicate();
        copy.crash(Survive::Random(3));
        let reopened = open(&copy, &clock);
        assert!(reopened.open_report().damaged.is_empty());
        let (_, start, end) = look(&copy, &reopened.topic("t").unwrap().partition(0).unwrap());
        assert!((start == 0 || start == 10) && end == 15, "{op:?}: {start} {end}");
        t.reopen().unwrap();
        broker.maintain().unwrap();
        assert_eq!(t.bounds().unwrap().log_end, 15);
        assert!(t.bounds().unwrap().log_start.get() >= 10);
        append(&broker, &t, 3);
    }
}

// Kafka's `LocalLog.removeAndDeleteSegments` with `asyncDelete`.
#[test]
fn readers_keep_their_records_and_the_next_poll_reports_the_skipped_offsets() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    // No batches of the tail: everything is read from the files.
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).tail_cache_bytes(0).on_disk(&disk).unwrap();
    let t = partition(&broker, fives());
    append(&broker, &t, 15);
    broker.maintain().unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(2);
    let held = reader.poll(Duration::ZERO).unwrap();
    assert_eq!(held.len(), 2);
    let open_before = broker.stats().open_files;
    broker.alter_topic("t", fives().retention(Retention::for_bytes(1))).unwrap();
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 10, 15));
    assert!(broker.stats().open_files <= open_before, "what went is closed");
    for (record, offset) in held.iter().zip(0u64..) {
        assert_eq!(record.value().unwrap(), format!("{offset:>60}").as_bytes());
    }
    let next = reader.poll(Duration::ZERO).unwrap();
    let [skipped] = next.skipped() else { panic!("{:?}", next.skipped()) };
    assert_eq!((skipped.from.get(), skipped.to.get()), (2, 10));
    assert_eq!(skipped.reason, SkipReason::OutOfRange);
    assert_eq!(next.iter().next().unwrap().offset(), 10);
    assert!(t.read(at(9), 1).is_err());
}

// On a real file system, by the names in the directory and the maps that outlive them.
#[test]
fn deleted_files_stay_readable_through_their_maps() {
    let dir = std::env::temp_dir().join(format!("quipu-retention-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock).tail_cache_bytes(0).open(&dir).unwrap();
    let t = partition(&broker, fives());
    append(&broker, &t, 15);
    broker.maintain().unwrap();
    let held = t.read(Start::Beginning, 300).unwrap();
    assert!(!held.is_empty());
    broker.alter_topic("t", fives().retention(Retention::for_bytes(1))).unwrap();
    broker.maintain().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.join("topics/t/0"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["00000000000000000010-0.log", "manifest"]);
    for (record, offset) in held.iter().zip(0u64..) {
        assert_eq!(record.value().unwrap(), format!("{offset:>60}").as_bytes());
    }
    broker.close().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The worker runs retention by itself, and a partition of `Sync` keeps records that are not
/// visible yet.
#[test]
fn a_broker_under_the_systems_clock_retains_by_itself() {
    let broker = BrokerConfig::new().checkpoint_interval(Duration::from_millis(5)).in_memory().unwrap();
    let config = fives().durability(Durability::Sync).retention(Retention::for_bytes(2_000));
    let t = partition(&broker, config);
    append(&broker, &t, 60);
    for _ in 0..2_000 {
        if t.bounds().unwrap().log_start.get() > 40 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{:?}", t.stats());
}

// -- retention that waits for groups --

/// Commits an offset for a group, without membership.
fn commit(broker: &Broker, group: &str, partition: &Partition, offset: u64) {
    let position = Position::new(partition.topic().clone(), partition.id(), offset, partition.epoch());
    let consumer = broker.consumer(group).assign(&[]).unwrap();
    consumer.commit(consumer.offsets_at([&position])).unwrap();
}

fn start(broker: &Broker, partition: &Partition) -> u64 {
    broker.maintain().unwrap();
    partition.bounds().unwrap().log_start.get()
}

#[test]
fn retention_keeps_records_that_a_held_group_has_not_committed() {
    for retention in [Retention::for_age(MINUTE), Retention::for_bytes(1)] {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = open(&disk, &clock);
        let t = partition(&broker, fives().retention(retention).retention_holds_for(["slow", "fast"]));
        append(&broker, &t, 15);
        clock.advance(MINUTE + TICK);
        assert_eq!(start(&broker, &t), 0, "neither has committed anything");
        commit(&broker, "fast", &t, 15);
        commit(&broker, "other", &t, 15);
        assert_eq!(start(&broker, &t), 0, "one of them has not");
        for (committed, expected) in [(0, 0), (4, 0), (5, 5), (9, 5), (3, 5)] {
            commit(&broker, "slow", &t, committed);
            assert_eq!(start(&broker, &t), expected, "{retention:?} {committed}");
        }
        // Other deletions do not wait for groups.
        assert_eq!(t.delete_records(Offset::new(7)).unwrap(), 7);
        assert_eq!(start(&broker, &t), 7);
        commit(&broker, "slow", &t, 15);
        let expected = if retention == Retention::for_bytes(1) { 10 } else { 15 };
        assert_eq!(start(&broker, &t), expected, "{retention:?}");
    }
}

/// A group that has started needs nothing before that, also if it has committed nothing.
#[test]
fn a_held_group_without_a_commit_holds_from_where_it_has_started() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives().retention(Retention::for_bytes(1)).retention_holds_for(["g"]));
    append(&broker, &t, 15);
    assert_eq!(start(&broker, &t), 0, "it has not started");
    let latest = |broker: &Broker| {
        broker.consumer("g").offset_reset(OffsetReset::End).subscribe([t.topic().as_str()]).unwrap()
    };
    let mut consumer = latest(&broker);
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    append(&broker, &t, 10);
    assert_eq!(start(&broker, &t), 15, "it starts there again after a restart");
    drop(consumer);
    let broker = disk.crash_and_reopen(Survive::Synced, settings(&clock)).unwrap();
    let t = broker.topic("t").unwrap().partition(0).unwrap();
    append(&broker, &t, 5);
    assert_eq!(start(&broker, &t), 15);
    assert_eq!(latest(&broker).poll(Duration::ZERO).unwrap().iter().next().unwrap().offset(), 15);
    broker.group("g").unwrap().delete().unwrap();
    append(&broker, &t, 5);
    assert_eq!(start(&broker, &t), 15, "it has started nowhere any more");
}

#[test]
fn segments_before_the_log_start_are_deleted_despite_held_groups() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives().retention_holds_for(["never"]));
    append(&broker, &t, 13);
    t.delete_records(Offset::new(13)).unwrap();
    broker.maintain().unwrap();
    assert_eq!(look(&disk, &t), (1, 13, 13), "the active segment too");
}

#[test]
fn each_partition_is_held_by_its_own_committed_offset() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let config = fives().retention(Retention::for_bytes(1)).retention_holds_for(["g"]);
    let topic = broker.create_topic("t", config.clone().partitions(2)).unwrap();
    let partitions = topic.partitions();
    for partition in &partitions {
        append(&broker, partition, 15);
    }
    commit(&broker, "g", &partitions[1], 11);
    assert_eq!((start(&broker, &partitions[0]), start(&broker, &partitions[1])), (0, 10));
    // So is one that comes later.
    broker.alter_topic("t", config.partitions(3)).unwrap();
    let third = topic.partition(2).unwrap();
    append(&broker, &third, 15);
    assert_eq!(start(&broker, &third), 0);
}

#[test]
fn holds_survive_a_restart_and_follow_the_commits_left_by_a_power_loss() {
    for (survive, keeps) in [(None, true), (Some(Survive::Everything), true), (Some(Survive::Synced), false)]
    {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = open(&disk, &clock);
        let config = fives().retention(Retention::for_bytes(1)).durability(Durability::Sync);
        let t = partition(&broker, config.clone().retention_holds_for(["g"]));
        append(&broker, &t, 15);
        commit(&broker, "g", &t, 6);
        match survive {
            None => broker.close().unwrap(),
            Some(survive) => disk.crash(survive),
        }
        let broker = open(&disk, &clock);
        let t = broker.topic("t").unwrap().partition(0).unwrap();
        assert_eq!(start(&broker, &t), if keeps { 5 } else { 0 }, "{survive:?}");

        // Records were deleted only for commits that no power loss takes back.
        commit(&broker, "g", &t, 10);
        assert_eq!(start(&broker, &t), 10, "{survive:?}");
        let broker = disk.crash_and_reopen(Survive::Synced, settings(&clock)).unwrap();
        let committed = broker.group("g").unwrap().committed("t", 0).unwrap().unwrap();
        assert_eq!(committed.offset, 10, "{survive:?}");
    }
}

#[test]
fn a_deleted_group_holds_everything_until_it_is_reset_or_the_topic_altered() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let config = fives().retention(Retention::for_bytes(1));
    let t = partition(&broker, config.clone().retention_holds_for(["g"]));
    append(&broker, &t, 15);
    let g = broker.group("g").unwrap();
    commit(&broker, "g", &t, 7);
    assert_eq!(start(&broker, &t), 5);
    g.delete().unwrap();
    commit(&broker, "other", &t, 15);
    assert_eq!(start(&broker, &t), 5, "it has committed nothing any more");
    g.reset("t", Start::End).unwrap();
    assert_eq!(start(&broker, &t), 10);

    append(&broker, &t, 10);
    assert_eq!(start(&broker, &t), 15);
    broker.alter_topic("t", config.clone()).unwrap();
    assert_eq!(start(&broker, &t), 20, "no group is held");
    // Before the append, which would delete records that no group holds.
    broker.alter_topic("t", config.retention_holds_for(["g", "new"])).unwrap();
    append(&broker, &t, 5);
    assert_eq!(start(&broker, &t), 20);
}

#[test]
fn a_commit_beyond_a_truncation_holds_from_the_truncation_on() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let t = partition(&broker, fives().retention(Retention::for_bytes(1)).retention_holds_for(["g"]));
    append(&broker, &t, 15);
    commit(&broker, "g", &t, 15);
    t.truncate_to(Offset::new(5)).unwrap();
    append(&broker, &t, 15);
    assert_eq!(start(&broker, &t), 5, "what came instead is new to it");
}

#[test]
fn nothing_is_deleted_when_commits_cannot_be_read_or_made_durable() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = open(&disk, &clock);
    let config = fives().retention(Retention::for_bytes(1)).durability(Durability::Sync);
    let t = partition(&broker, config.retention_holds_for(["g"]));
    append(&broker, &t, 15);
    commit(&broker, "g", &t, 10);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    assert_eq!(start(&broker, &t), 0);
    broker.close().unwrap_err();

    // Damaged where it is known to be on disk.
    let broker = open(&disk, &clock);
    commit(&broker, "g", &broker.topic("t").unwrap().partition(0).unwrap(), 10);
    broker.close().unwrap();
    let log = crate::common::files(&disk, "topics/__consumer_offsets", ".log").pop().unwrap();
    let broker = {
        disk.flip_bit(&log, 8 * 200).unwrap();
        open(&disk, &clock)
    };
    let t = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(start(&broker, &t), 0);
}

#[test]
fn held_group_names_are_checked_and_kept_in_the_catalog() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let config = fives().retention_holds_for(["b", "a", "b"]);
    let broker = open(&disk, &clock);
    broker.create_topic("t", config.clone()).unwrap();
    broker.ensure_topic("t", fives().retention_holds_for(["a", "b"])).unwrap();
    for name in ["", "a\n", &"a".repeat(250)] {
        let refused = broker.create_topic("u", fives().retention_holds_for(["a", name]));
        assert!(matches!(refused, Err(Error::InvalidConfig { field: "retention_holds_for", .. })));
    }
    broker.close().unwrap();
    assert_eq!(open(&disk, &clock).topic("t").unwrap().config(), config);
}
