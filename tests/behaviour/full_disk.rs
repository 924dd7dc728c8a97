//! The operations that work on a full disk, and those that make room again.

use std::io::ErrorKind;
use std::time::Duration;

use quipu::stats::DiskState;
use quipu::testing::{Disk, ManualClock, Op, Survive, produced};
use quipu::{
    Broker, BrokerConfig, Error, Offset, Outcome, Partition, ProducerConfig, Record, Result, Retention,
    Space, Start, Timestamp, TopicConfig,
};

use crate::common::{crash_at_each_operation, open};

/// A topic "t" with one partition and segments of 4 KiB.
fn opened(disk: &Disk, config: TopicConfig) -> (Broker, Partition) {
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(disk).unwrap();
    let topic = broker.ensure_topic("t", config.segment_bytes(4096).max_record_bytes(1000)).unwrap();
    (broker, topic.partition(0).unwrap())
}

fn send(broker: &Broker, value: u64) -> Result<u64> {
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO))?;
    let mut bytes = vec![7; 500];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    Ok(producer.send("t", Record::new(bytes))?.wait()?.offset.get())
}

#[test]
fn a_full_disk_a_full_quota_and_a_file_too_large_are_different_errors() {
    let kinds = [
        (ErrorKind::StorageFull, Space::NoSpace, "the file system is full"),
        (ErrorKind::QuotaExceeded, Space::Quota, "the quota is used up"),
        (ErrorKind::FileTooLarge, Space::FileTooLarge, "the file would become larger than it may be"),
    ];
    for (kind, expected, words) in kinds {
        let disk = Disk::new();
        let (broker, _) = opened(&disk, TopicConfig::new());
        send(&broker, 0).unwrap();
        disk.fail(Op::Write, 1, kind);
        let error = send(&broker, 1).unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotWritten);
        let text = error.to_string();
        assert!(text.contains("topics/t/0/") && text.ends_with(words), "{text}");
        match error {
            Error::DiskFull { cause, .. } => assert_eq!(cause, expected),
            other => panic!("{other}"),
        }
        assert_eq!(send(&broker, 2).unwrap(), 1, "the log continues");
    }
}

/// The values of all records of "t", each the number that it was sent with.
fn read(broker: &Broker) -> Vec<u64> {
    let records = produced(broker, "t").unwrap();
    let number = |value: &[u8]| u64::from_le_bytes(value[..8].try_into().unwrap());
    records.iter().map(|record| number(record.value().unwrap())).collect()
}

/// 100 records of half a kilobyte in segments of 4 KiB, a topic "old" with a record, and then not
/// one byte more.
fn full(retention: Retention) -> (Disk, Broker, Partition) {
    let disk = Disk::new();
    let (broker, partition) = opened(&disk, TopicConfig::new().retention(retention));
    broker.create_topic("old", TopicConfig::new()).unwrap();
    broker.producer().send("old", Record::new("v")).unwrap().wait().unwrap();
    for n in 0..100 {
        send(&broker, n).unwrap();
    }
    disk.capacity(disk.used());
    (disk, broker, partition)
}

fn has_reserve(disk: &Disk) -> bool {
    disk.files().iter().any(|(path, bytes)| path.ends_with("reserve") && *bytes >= 64 << 10)
}

fn is_full(result: Result<u64>) -> bool {
    matches!(result, Err(Error::DiskFull { cause: Space::NoSpace, .. }))
}

/// Appends until there is no room. Returns how many there was room for.
fn fill(broker: &Broker, first: u64) -> u64 {
    (first..)
        .find(|n| {
            is_full(send(broker, *n).map_err(|e| {
                assert_eq!(e.outcome(), Outcome::NotWritten, "{e}");
                e
            }))
        })
        .unwrap()
        - first
}

fn segment_bytes(partition: &Partition) -> u64 {
    partition.stats().bytes
}

fn clock_time(clock: &ManualClock) -> Timestamp {
    use quipu::Clock;
    clock.now()
}

#[test]
fn retention_by_size_is_kept_by_a_burst_of_appends_alone() {
    const KEPT: u64 = 20_000;
    let disk = Disk::new();
    let (broker, partition) = opened(&disk, TopicConfig::new().retention(Retention::for_bytes(KEPT)));
    let mut largest = 0;
    for n in 0..500 {
        send(&broker, n).unwrap();
        largest = largest.max(segment_bytes(&partition));
    }
    // The oldest segment, and the batch that has just been written.
    assert!(largest <= KEPT + 4096 + 1000, "{largest} bytes");
    assert!(segment_bytes(&partition) >= KEPT, "no more goes than may");
    let last = read(&broker);
    assert_eq!(last, (500 - last.len() as u64..500).collect::<Vec<_>>());
}

#[test]
fn retention_by_size_that_a_burst_runs_waits_for_the_groups_that_it_holds_for() {
    let disk = Disk::new();
    let config = TopicConfig::new().retention(Retention::for_bytes(10_000)).retention_holds_for(["g"]);
    let (broker, partition) = opened(&disk, config);
    for n in 0..100 {
        send(&broker, n).unwrap();
    }
    assert_eq!(partition.bounds().unwrap().log_start, 0);
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    consumer.commit(&records).unwrap();
    let committed = records.iter().map(|record| record.offset().get()).max().unwrap() + 1;
    drop(records);
    for n in 100..120 {
        send(&broker, n).unwrap();
    }
    let start = partition.bounds().unwrap().log_start.get();
    assert!(start > 0 && start <= committed, "{start} of {committed}");
}

#[test]
fn an_append_without_room_deletes_due_segments_and_succeeds() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let aged = TopicConfig::new().segment_bytes(4096).max_record_bytes(1000);
    let aged = aged.retention(Retention::for_age(Duration::from_secs(60)));
    broker.create_topic("aged", aged.clone()).unwrap();
    broker.create_topic("t", aged.retention(Retention::forever())).unwrap();
    let at = clock_time(&clock);
    for _ in 0..50 {
        let record = Record::new(vec![7; 500]).timestamp(at);
        broker.producer().send("aged", record).unwrap().wait().unwrap();
    }
    send(&broker, 0).unwrap();
    disk.capacity(disk.used());
    assert!(is_full(send(&broker, 1)), "nothing is due");
    assert_eq!(broker.stats().disk, DiskState::Full);
    clock.advance(Duration::from_secs(120));
    assert_eq!(send(&broker, 2).unwrap(), 1, "what another topic had to let go");
    assert_eq!(broker.stats().disk, DiskState::Ok);
    assert_eq!(read(&broker), [0, 2]);
}

#[test]
fn retention_works_on_a_full_disk() {
    let (disk, broker, partition) = full(Retention::forever());
    let config = TopicConfig::new().segment_bytes(4096).max_record_bytes(1000);
    disk.capacity(None);
    broker.alter_topic("t", config.retention(Retention::for_bytes(10_000))).unwrap();
    disk.capacity(disk.used());
    broker.maintain().unwrap();
    assert!(segment_bytes(&partition) < 15_000, "{}", segment_bytes(&partition));
    assert!(has_reserve(&disk), "it is there again");
    assert_eq!(broker.stats().disk, DiskState::Ok);
    send(&broker, 100).unwrap();
}

#[test]
fn records_are_deleted_on_a_full_disk() {
    let (disk, broker, partition) = full(Retention::forever());
    assert!(is_full(send(&broker, 100)));
    partition.delete_records(Offset::new(90)).unwrap();
    assert_eq!(partition.bounds().unwrap().log_start, 90);
    assert!(has_reserve(&disk), "it is there again");
    assert_eq!(broker.stats().disk, DiskState::Full, "until an append finds room");
    assert_eq!(send(&broker, 101).unwrap(), 100);
    assert_eq!(broker.stats().disk, DiskState::Ok);
}

#[test]
fn appends_are_refused_until_the_reserve_can_be_written_again() {
    let (disk, broker, partition) = full(Retention::forever());
    // Another program has taken 40 KiB more.
    disk.capacity(disk.used() - (40 << 10));
    partition.delete_records(Offset::new(10)).unwrap();
    assert_eq!(partition.bounds().unwrap().log_start, 10);
    assert!(!has_reserve(&disk));
    assert_eq!(broker.stats().disk, DiskState::ReserveUsed);
    assert!(is_full(send(&broker, 101)), "there would be room for this one, and then for no deletion");
    partition.delete_records(Offset::new(15)).unwrap();
    disk.capacity(disk.used() + (100 << 10));
    assert_eq!(send(&broker, 102).unwrap(), 100);
    assert!(has_reserve(&disk));
    assert_eq!(broker.stats().disk, DiskState::Ok);
}

#[test]
fn a_log_is_truncated_and_reset_on_a_full_disk() {
    let (_disk, broker, partition) = full(Retention::forever());
    partition.truncate_to(Offset::new(3)).unwrap();
    assert_eq!(read(&broker), [0, 1, 2]);
    let (_disk, broker, partition) = full(Retention::forever());
    partition.reset_to(Offset::new(500)).unwrap();
    assert!(read(&broker).is_empty());
    assert_eq!(partition.bounds().unwrap().log_end, 500);
}

#[test]
fn a_topic_is_deleted_on_a_full_disk() {
    let (disk, broker, _) = full(Retention::forever());
    // Its change finds no room in the catalog's last sector.
    while broker.create_topic(&format!("n{}", disk.ops()), TopicConfig::new()).is_ok() {}
    let before = disk.used();
    broker.delete_topic("t").unwrap();
    assert!(disk.used() < before);
    assert!(matches!(broker.topic("t"), Err(Error::UnknownTopic { .. })));
    drop(broker);
    let broker =
        disk.crash_and_reopen(Survive::Synced, BrokerConfig::new().clock(ManualClock::new())).unwrap();
    assert!(matches!(broker.topic("t"), Err(Error::UnknownTopic { .. })), "durably");
}

#[test]
fn a_broker_is_closed_on_a_full_disk_and_opens_clean() {
    let (disk, broker, _) = full(Retention::forever());
    broker.close().unwrap();
    drop(broker);
    let (broker, partition) = opened(&disk, TopicConfig::new());
    assert!(broker.open_report().clean, "{:?}", broker.open_report());
    assert_eq!(read(&broker), (0..100).collect::<Vec<_>>());
    partition.delete_records(Offset::new(60)).unwrap();
    disk.capacity(None);
    assert_eq!(send(&broker, 100).unwrap(), 100);
}

/// On such a disk a reserve cannot help: an operation that frees space must be written first.
#[test]
fn without_a_free_byte_deletions_fail_with_a_typed_error_and_change_nothing() {
    let disk = Disk::new();
    let (broker, partition) = opened(&disk, TopicConfig::new());
    broker.create_topic("old", TopicConfig::new()).unwrap();
    for n in 0..100 {
        send(&broker, n).unwrap();
    }
    disk.fail_always(Op::Write, 1, ErrorKind::StorageFull);
    let all = [
        partition.delete_records(Offset::new(90)).map(drop),
        partition.truncate_to(Offset::new(50)),
        partition.reset_to(Offset::new(50)),
        broker.delete_topic("old"),
    ];
    for result in all {
        assert!(matches!(result, Err(Error::DiskFull { .. })), "{result:?}");
    }
    assert_eq!(broker.stats().disk, DiskState::ReserveUsed);
    assert!(is_full(send(&broker, 100)));
    assert_eq!(read(&broker), (0..100).collect::<Vec<_>>());
    broker.topic("old").unwrap();
    disk.clear_faults();
    assert_eq!(send(&broker, 100).unwrap(), 100, "and nothing is poisoned");
    assert!(has_reserve(&disk));
    partition.delete_records(Offset::new(90)).unwrap();
    assert_eq!(read(&broker), (90..101).collect::<Vec<_>>());
}

#[test]
fn the_reserve_is_made_by_the_first_write_and_looked_for_after_an_opening() {
    let disk = Disk::new();
    let (broker, _) = opened(&disk, TopicConfig::new());
    broker.maintain().unwrap();
    assert!(!has_reserve(&disk), "nothing was written");
    send(&broker, 0).unwrap();
    assert!(has_reserve(&disk));
    let bytes = disk.read("reserve").unwrap();
    assert!(bytes.chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)), "a hole takes no room");
    broker.close().unwrap();
    drop(broker);
    disk.remove("reserve").unwrap();
    disk.capacity(disk.used() + (10 << 10));
    let (broker, _) = opened(&disk, TopicConfig::new());
    assert_eq!(read(&broker), [0]);
    assert!(!has_reserve(&disk), "there is no room for it");
    assert_eq!(broker.stats().disk, DiskState::ReserveUsed);
    // An append could take the room that is left.
    assert!(is_full(send(&broker, 1)));
    disk.capacity(disk.used() + (100 << 10));
    send(&broker, 1).unwrap();
    assert!(has_reserve(&disk));
}

#[test]
fn the_reserve_grows_with_the_files_that_it_stands_for() {
    let disk = Disk::new();
    let (broker, _) = opened(&disk, TopicConfig::new());
    send(&broker, 0).unwrap();
    let size = || disk.files().iter().find(|(path, _)| path.ends_with("reserve")).unwrap().1;
    assert_eq!(size(), 64 << 10);
    for n in 0..600 {
        broker
            .create_topic(&format!("a-rather-long-name-of-a-topic-number-{n}"), TopicConfig::new())
            .unwrap();
    }
    broker.maintain().unwrap();
    let catalog = disk.read("catalog").unwrap().len() as u64;
    assert!(size() >= 2 * catalog && size() % (64 << 10) == 0, "{} for a catalog of {catalog}", size());
    assert!(catalog > 32 << 10, "or this test shows nothing: {catalog}");
}

/// Less than retention leaves and the reserve takes. With more of it retention would make room for
/// ever, because rolls take none.
const ROOM: u64 = 340 << 10;

/// Opened, read, retained, deleted from, closed, opened again, appended to, each time up to the
/// last byte.
#[test]
fn a_disk_is_filled_and_freed_many_times_without_a_lost_acknowledgement() {
    let cycles = if std::env::var_os("QUIPU_THOROUGH").is_some() { 1_000 } else { 60 };
    let disk = Disk::new();
    disk.capacity(ROOM);
    let config = || TopicConfig::new().retention(Retention::for_bytes(300 << 10));
    // The numbers that are in the log: the first, and the one after the last.
    let (mut start, mut end) = (0, 0);
    let (mut appended, mut kills) = (0, 0);
    for cycle in 0..cycles {
        let (broker, partition) = opened(&disk, config());
        assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}");
        let filled = fill(&broker, end);
        (end, appended) = (end + filled, appended + filled);
        start = partition.bounds().unwrap().log_start.get();
        assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}, full");
        // Not a byte more, whatever is rounded.
        disk.capacity(disk.used());
        // There may be no room for a checkpoint, which is derived.
        let upkept = broker.maintain();
        assert!(matches!(upkept, Ok(()) | Err(Error::DiskFull { .. })), "{upkept:?}");
        match cycle % 4 {
            0 => drop(partition.delete_records(Offset::new((start + end) / 2)).unwrap()),
            1 => {
                end -= 7;
                partition.truncate_to(Offset::new(end)).unwrap();
                partition.delete_records(Offset::new(start + (end - start) / 4)).unwrap();
            }
            2 => drop(partition.delete_records(Offset::new(end)).unwrap()),
            _ => {
                broker.close().unwrap();
                drop((broker, partition));
                let (broker, partition) = opened(&disk, config());
                assert!(broker.open_report().clean, "cycle {cycle}: {:?}", broker.open_report());
                assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}, again");
                partition.delete_records(Offset::new(start + (end - start) / 3)).unwrap();
                start = partition.bounds().unwrap().log_start.get();
                disk.capacity(ROOM);
                broker.close().unwrap();
                continue;
            }
        }
        start = partition.bounds().unwrap().log_start.get();
        assert_eq!(read(&broker), (start..end).collect::<Vec<_>>(), "cycle {cycle}, freed");
        disk.capacity(ROOM);
        if cycle % 8 == 0 {
            // Of a broker that is not closed everything is there as well, as long as the machine
            // is.
            kills += 1;
            disk.crash(Survive::Everything);
        } else {
            broker.close().unwrap();
        }
    }
    println!("{cycles} cycles, {kills} kills, {appended} appended");
    assert!(appended > cycles * 20, "{appended}");
}

/// A disk with the records of a killed process, not one byte of room, and no reserve.
fn full_and_killed(survive: Survive) -> (Disk, u64) {
    let (disk, broker, partition) = full(Retention::forever());
    let end = partition.bounds().unwrap().log_end.get();
    disk.clear_faults();
    std::mem::forget((broker, partition));
    disk.crash(survive);
    if has_reserve(&disk) {
        disk.remove("reserve").unwrap();
    }
    disk.capacity(disk.used());
    (disk, end)
}

#[test]
fn a_broker_that_was_killed_opens_on_a_disk_without_any_room() {
    for survive in [Survive::Everything, Survive::Synced, Survive::Random(1), Survive::Random(2)] {
        let (disk, _) = full_and_killed(survive);
        let broker = open(&disk).unwrap_or_else(|e| panic!("{survive:?}: {e}"));
        assert_ne!(broker.open_report().disk, DiskState::Ok, "{survive:?}");
        let there = read(&broker);
        assert!(is_full(send(&broker, 1_000)), "{survive:?}");
        assert_eq!(read(&broker), there, "{survive:?}");
        // Nothing of that depends on luck: it is so again, and after a power loss.
        drop(broker);
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap_or_else(|e| panic!("{survive:?}: {e}"));
        assert_eq!(read(&broker), there, "{survive:?}");
        drop(broker);
        // With room it takes appends again, also without another opening.
        let broker = open(&disk).unwrap();
        disk.capacity(None);
        let broker = if broker.open_report().damaged.is_empty() {
            broker
        } else {
            drop(broker);
            open(&disk).unwrap()
        };
        send(&broker, 1_000).unwrap();
        broker.sync().unwrap();
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().damaged.is_empty());
        let now = read(&broker);
        assert_eq!(now[..there.len()], there, "{survive:?}");
        assert_eq!(now.len(), there.len() + 1, "{survive:?}");
    }
}

/// Opening on a disk without room crashes at each of its operations, and each of those states
/// opens.
#[test]
fn an_opening_without_room_may_crash_at_any_operation() {
    for survive in [Survive::Everything, Survive::Synced, Survive::Random(1)] {
        let (full, _) = full_and_killed(survive);
        let expected = read(&open(&full.duplicate()).unwrap());
        crash_at_each_operation(&full, open, |disk, nth| {
            for survive in [Survive::Everything, Survive::Synced, Survive::Random(nth)] {
                let disk = disk.duplicate();
                disk.crash(survive);
                let broker = open(&disk).unwrap_or_else(|e| panic!("{nth} {survive:?}: {e}"));
                // Nothing was synced: a power loss before the opening is done may take anything.
                let found = read(&broker);
                assert!(expected.starts_with(&found), "{nth} {survive:?}");
                assert!(survive != Survive::Everything || found == expected, "{nth}");
            }
        });
    }
}

#[test]
fn a_transaction_that_was_left_half_is_settled_on_a_disk_without_room() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let p =
        ["a", "b"].map(|name| broker.create_topic(name, TopicConfig::new()).unwrap().partition(0).unwrap());
    for value in ["one", "two"] {
        let mut transaction = broker.transaction();
        for partition in &p {
            transaction.send(partition, Record::new(value));
        }
        transaction.commit().unwrap();
    }
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    if has_reserve(&disk) {
        disk.remove("reserve").unwrap();
    }
    disk.capacity(disk.used());
    for round in 0..3 {
        let broker = open(&disk).unwrap();
        for name in ["a", "b"] {
            let partition = broker.topic(name).unwrap().partition(0).unwrap();
            let found = partition.read(Start::Beginning, 1 << 20).unwrap();
            assert_eq!(found.iter().count(), 2, "{name}, opening {round}");
        }
        std::mem::forget(broker);
        disk.crash(if round == 0 { Survive::Everything } else { Survive::Synced });
    }
}
