//! Transactions beside partitions that fail, are deleted or roll: a failure of one partition never
//! breaks a promise to another.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Offset, OffsetReset, Outcome, Partition, Position, Receipt,
    Record, Result, Start,
};

use crate::common::{files, make_files, read_from, send, small};

/// Topics of one partition: three that are not synced, and two that are.
const NAMES: [(&str, Durability); 5] = [
    ("a", Durability::Os),
    ("b", Durability::Os),
    ("c", Durability::Os),
    ("s", Durability::Sync),
    ("z", Durability::Sync),
];

fn open(disk: &Disk) -> (Broker, [Partition; 5]) {
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(5).on_disk(disk).unwrap();
    let partitions = NAMES.map(|(name, durability)| {
        broker.ensure_topic(name, small().durability(durability)).unwrap().partition(0).unwrap()
    });
    (broker, partitions)
}

fn together(broker: &Broker, partitions: &[&Partition], value: &str) -> Result<Vec<Receipt>> {
    let mut transaction = broker.transaction();
    for partition in partitions {
        transaction.send(*partition, Record::new(value.to_string()));
    }
    transaction.commit()
}

fn has(partition: &Partition, value: &str) -> bool {
    read_from(partition, Start::Beginning).values().any(|found| found == value)
}

/// Pulls the plug.
fn power_loss(disk: &Disk, broker: Broker) -> (Broker, [Partition; 5]) {
    std::mem::forget(broker);
    disk.crash(Survive::Synced);
    open(disk)
}

#[test]
fn a_deleted_topic_does_not_block_later_transactions() {
    let disk = Disk::new();
    let (broker, [a, b, _, s, z]) = open(&disk);
    send(&broker, &a, "before").unwrap();
    send(&broker, &b, "before").unwrap();
    together(&broker, &[&a, &b], "one").unwrap();
    broker.delete_topic("b").unwrap();
    together(&broker, &[&a, &s], "two").unwrap();
    together(&broker, &[&s, &z], "three").unwrap();
    let (_broker, [a, b, _, s, z]) = power_loss(&disk, broker);
    assert!(["before", "one", "two"].iter().all(|value| has(&a, value)));
    assert!(has(&s, "two") && has(&s, "three") && has(&z, "three") && !has(&b, "one"));
}

/// A failed sync is not tried again for another caller either: the second one would succeed and
/// prove nothing.
#[test]
fn nothing_is_acknowledged_on_a_failed_sync() {
    let disk = Disk::new();
    let (broker, [a, b, _, s, _]) = open(&disk);
    send(&broker, &a, "before").unwrap();
    together(&broker, &[&a, &b], "one").unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    let two = together(&broker, &[&b, &s], "two");
    let (_broker, [a, b, _, s, _]) = power_loss(&disk, broker);
    assert!(two.is_err() || (has(&b, "two") && has(&s, "two")), "it was acknowledged");
    assert_eq!(two.unwrap_err().outcome(), Outcome::NotWritten);
    assert_eq!((has(&a, "one"), has(&b, "two")), (has(&b, "one"), has(&s, "two")));
}

/// A segment that the manifest marks synced is not read again. So the mark must wait for the
/// journal.
#[test]
fn a_segment_is_not_marked_synced_before_its_transactions_records_are() {
    let disk = Disk::new();
    let (broker, [a, b, c, s, _]) = open(&disk);
    send(&broker, &a, "before").unwrap();
    together(&broker, &[&a, &b], "one").unwrap();
    while a.segments().len() < 2 {
        let end = a.bounds().unwrap().log_end;
        a.append_at(end, [Record::new("x".repeat(300))]).unwrap();
    }
    for partition in [&c, &s] {
        make_files(&disk, &broker, partition);
    }
    // The first is that of the segment, the second that of the journal.
    disk.fail(Op::Sync, 2, ErrorKind::Other);
    assert_eq!(together(&broker, &[&c, &s], "two").unwrap_err().outcome(), Outcome::Unknown);
    broker.maintain().unwrap();
    let (_broker, [a, b, c, s, _]) = power_loss(&disk, broker);
    assert_eq!((has(&a, "one"), has(&c, "two")), (has(&b, "one"), has(&s, "two")));
}

#[test]
fn a_full_disk_prevents_a_new_journal_until_there_is_room() {
    let disk = Disk::new();
    let (broker, [a, b, c, ..]) = open(&disk);
    let full = |result: Result<Vec<Receipt>>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }) && error.outcome() == Outcome::NotWritten, "{error}");
    };
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    full(together(&broker, &[&a, &b], "no file"));
    together(&broker, &[&a, &b], "one").unwrap();
    // And a new one cannot be started: the old one continues.
    disk.fail_always(Op::Write, 1, ErrorKind::StorageFull);
    assert!(matches!(a.truncate_to(Offset::ZERO), Err(Error::DiskFull { .. })));
    disk.clear_faults();
    together(&broker, &[&a, &b, &c], "two").unwrap();
    a.truncate_to(Offset::new(1)).unwrap();
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    let (_broker, [a, b, c, ..]) = open(&disk);
    assert!(has(&a, "one") && !has(&a, "two") && has(&b, "two") && has(&c, "two"));
}

#[test]
fn a_poisoned_partition_does_not_prevent_truncation_of_others() {
    let disk = Disk::new();
    let (broker, [a, b, c, ..]) = open(&disk);
    send(&broker, &c, "one").unwrap();
    send(&broker, &c, "two").unwrap();
    together(&broker, &[&a, &b], "v").unwrap();
    send(&broker, &a, "w").unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    assert!(b.truncate_to(Offset::ZERO).is_err(), "the journal speaks of it");
    c.truncate_to(Offset::new(1)).unwrap();
    c.reset_to(Offset::new(9)).unwrap();
}

/// A torn part is written again, unchanged. So a reader past it has seen nothing that is not there.
#[test]
fn a_position_after_a_surviving_transaction_is_not_called_truncated() {
    let mut redone = 0;
    for seed in 0..60 {
        let disk = Disk::new();
        let (broker, [_, _, _, s, z]) = open(&disk);
        send(&broker, &s, "before").unwrap();
        let receipts = together(&broker, &[&s, &z], &"x".repeat(600)).unwrap();
        std::mem::forget(broker);
        disk.crash(if seed % 2 == 0 { Survive::Random(seed) } else { Survive::Zeroed(seed) });
        let (broker, partitions) = open(&disk);
        redone += usize::from(partitions.iter().any(|partition| partition.epoch() > 0));
        assert!(
            broker.open_report().truncated_tails.is_empty(),
            "seed {seed}: {:?}",
            broker.open_report().truncated_tails
        );
        let consumer = broker.consumer("g").assign(&partitions).unwrap();
        for receipt in receipts {
            let next = receipt.position().next();
            consumer.commit(consumer.offsets_at([&next])).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
    assert!(redone > 0, "none was torn");
}

/// It is unknown whether the record is there: an append after it could contradict it.
#[test]
fn a_journal_that_could_not_be_written_keeps_its_partitions_from_appends() {
    let disk = Disk::new();
    let (broker, [a, b, c, s, _]) = open(&disk);
    together(&broker, &[&a, &b], "one").unwrap();
    make_files(&disk, &broker, &s);
    disk.tear(1);
    assert_eq!(together(&broker, &[&a, &s], "two").unwrap_err().outcome(), Outcome::Unknown);
    for partition in [&a, &s] {
        assert!(matches!(send(&broker, partition, "v"), Err(Error::Poisoned { .. })));
        assert!(matches!(partition.reopen(), Err(Error::Poisoned { .. })));
    }
    // Others are appended to, by plain appends.
    let refused = together(&broker, &[&b, &c], "three").unwrap_err();
    assert!(matches!(refused, Error::JournalFailed { .. }) && refused.outcome() == Outcome::NotWritten);
    together(&broker, &[&b], "alone").unwrap();
    c.truncate_to(Offset::ZERO).unwrap();
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    let (broker, [a, b, _, s, _]) = open(&disk);
    assert!(has(&a, "one") && has(&b, "one") && has(&b, "alone") && !has(&a, "two") && !has(&s, "two"));
    together(&broker, &[&a, &s], "four").unwrap();
}

#[test]
fn a_conflict_is_returned_when_it_can_be_read_and_names_the_partition() {
    let disk = Disk::new();
    let (broker, [a, _, _, s, _]) = open(&disk);
    let mut unseen = broker.transaction();
    unseen.send(&s, Record::new("not synced yet"));
    let unseen = unseen.commit_async();
    assert_eq!(s.bounds().unwrap().visible_end, 0);
    let mut transaction = broker.transaction();
    transaction.expect_end(&a, Offset::ZERO).expect_end(&s, Offset::ZERO);
    transaction.send(&a, Record::new("v"));
    let conflict = transaction.commit().unwrap_err();
    unseen.detach();
    let Error::OffsetConflict { topic, end, .. } = conflict else { panic!("{conflict}") };
    assert_eq!((topic.as_str(), end, s.bounds().unwrap().visible_end), ("s", end, end));
}

/// The leader of a log and that of the journal sync the same segment. What the first one has lost,
/// the second would not notice.
#[test]
fn a_sync_that_succeeds_beside_a_failed_one_of_the_same_file_is_not_trusted() {
    for journal_first in [false, true] {
        let disk = Disk::new();
        let (broker, [_, _, _, s, z]) = open(&disk);
        send(&broker, &s, "before").unwrap();
        // A batch that is not synced yet: the transaction after it must sync the segment, as must
        // its own log.
        let mut unsynced = broker.transaction();
        unsynced.send(&s, Record::new("plain"));
        let plain_pending = unsynced.commit_async();
        let mut transaction = broker.transaction();
        transaction.send(&s, Record::new("both")).send(&z, Record::new("both"));
        let together_pending = transaction.commit_async();
        let gate = disk.hold(Op::Sync, 1);
        disk.fail(Op::Sync, 1, ErrorKind::Other);
        type Waits<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;
        let plain_waits: Waits<'_> = Box::new(|| plain_pending.wait().map(drop));
        let both_wait: Waits<'_> = Box::new(|| together_pending.wait().map(drop));
        let (first, second) = if journal_first { (both_wait, plain_waits) } else { (plain_waits, both_wait) };
        let (first, second) = thread::scope(|scope| {
            let first = scope.spawn(first);
            gate.wait_until_reached();
            let second = scope.spawn(second);
            // It comes to the file that is being synced, and waits there.
            for _ in 0..200 {
                thread::yield_now();
            }
            drop(gate);
            (first.join().unwrap(), second.join().unwrap())
        });
        let (plain_done, both_done) = if journal_first { (second, first) } else { (first, second) };
        assert!(send(&broker, &s, "later").is_err());
        let (_broker, [_, _, _, s, z]) = power_loss(&disk, broker);
        assert!(plain_done.is_err() || has(&s, "plain"), "journal first: {journal_first}: plain");
        assert!(
            both_done.is_err() || (has(&s, "both") && has(&z, "both")),
            "journal first: {journal_first}: both"
        );
        assert_eq!(has(&s, "both"), has(&z, "both"));
    }
}

/// A sync of another caller fails, and it reopens the partition while a transaction is between its
/// checks and its record.
#[test]
fn a_reopen_takes_nothing_from_a_transaction_that_is_being_committed() {
    let disk = Disk::new();
    let (broker, [_, _, _, s, z]) = open(&disk);
    send(&broker, &z, "before").unwrap();
    // The next one rolls: its directory is synced before the record is written.
    while s.segments().iter().map(|segment| segment.bytes).sum::<u64>() < 900 {
        send(&broker, &s, &"x".repeat(100)).unwrap();
    }
    let mut unsynced = broker.transaction();
    unsynced.send(&s, Record::new("lost"));
    let lost = unsynced.commit_async();
    let syncing = disk.hold(Op::Sync, 1);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    let rolling = disk.hold(Op::SyncDir, 1);
    let done = thread::scope(|scope| {
        let reopening = scope.spawn(|| {
            lost.wait().unwrap_err();
            s.reopen()
        });
        syncing.wait_until_reached();
        let committing = scope.spawn(|| together(&broker, &[&s, &z], &"y".repeat(300)));
        rolling.wait_until_reached();
        drop(syncing);
        while s.stats().poisoned.is_none() {
            thread::yield_now();
        }
        // It may get as far as the writer, which the transaction holds.
        for _ in 0..200 {
            thread::yield_now();
        }
        drop(rolling);
        let _ = reopening.join().unwrap();
        committing.join().unwrap()
    });
    let value = "y".repeat(300);
    assert!(done.is_err() || (has(&s, &value) && has(&z, &value)), "it was acknowledged");
    let (_broker, [_, _, _, s, z]) = power_loss(&disk, broker);
    assert!(done.is_err() || has(&s, &value), "it was acknowledged");
    assert_eq!(has(&s, &value), has(&z, &value));
}

/// More parts than files may be open, and no more can be opened: after the record nothing but a
/// write can fail.
#[test]
fn a_file_that_cannot_be_opened_fails_a_transaction_before_it_has_happened() {
    for nth in 1..40 {
        let disk = Disk::new();
        let config = || BrokerConfig::new().clock(ManualClock::new()).seed(5).max_open_files(8);
        let broker = config().on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", small().partitions(20)).unwrap();
        let parts: Vec<_> = topic.partitions();
        together(&broker, &parts.iter().collect::<Vec<_>>(), "one").unwrap();
        disk.fail(Op::OpenFile, nth, ErrorKind::Other);
        let two = together(&broker, &parts.iter().collect::<Vec<_>>(), "two");
        disk.clear_faults();
        if let Err(error) = &two {
            assert_eq!(error.outcome(), Outcome::NotWritten, "{nth}: {error}");
        }
        together(&broker, &parts.iter().collect::<Vec<_>>(), "three").unwrap();
        drop((broker, topic, parts));
        disk.crash(Survive::Everything);
        let broker = config().on_disk(&disk).unwrap();
        for partition in broker.topic("t").unwrap().partitions() {
            assert_eq!((has(&partition, "two"), has(&partition, "three")), (two.is_ok(), true), "{nth}");
        }
    }
}

/// As a plain append: nothing was written, and the next one works when there is room.
#[test]
fn a_full_disk_refuses_a_transaction_over_one_partition() {
    let disk = Disk::new();
    let (broker, [a, ..]) = open(&disk);
    together(&broker, &[&a], "one").unwrap();
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    // Not even zeros find room.
    disk.fail_always(Op::Write, 2, ErrorKind::StorageFull);
    let full = together(&broker, &[&a], "two").unwrap_err();
    assert!(matches!(full, Error::DiskFull { .. }) && full.outcome() == Outcome::NotWritten, "{full}");
    disk.clear_faults();
    together(&broker, &[&a], "three").unwrap();
    assert!(has(&a, "one") && !has(&a, "two") && has(&a, "three"));
}

/// In a row they need one sync each, however many partitions they are over: what comes before is in
/// the journal, durably.
#[test]
fn records_covered_by_the_journal_are_not_synced_again() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(5).on_disk(&disk).unwrap();
    let config = quipu::TopicConfig::new().partitions(8).durability(Durability::Sync);
    let parts = broker.create_topic("t", config).unwrap().partitions();
    let all: Vec<_> = parts.iter().collect();
    together(&broker, &all, "first").unwrap();
    let before = disk.ops_of(Op::Sync);
    (0..10).for_each(|n| drop(together(&broker, &all, &format!("value {n}")).unwrap()));
    assert_eq!(disk.ops_of(Op::Sync) - before, 10);
    // A plain append in between is durable by itself; an unsynced one is synced with the next
    // transaction.
    send(&broker, &parts[0], "plain").unwrap();
    let mut unsynced = broker.transaction();
    unsynced.send(&parts[1], Record::new("not synced"));
    unsynced.commit_async().detach();
    together(&broker, &all, "last").unwrap();
    std::mem::forget(broker);
    disk.crash(Survive::Synced);
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(5).on_disk(&disk).unwrap();
    for (n, partition) in broker.topic("t").unwrap().partitions().iter().enumerate() {
        assert!((0..10).all(|n| has(partition, &format!("value {n}"))) && has(partition, "last"));
        assert_eq!((has(partition, "plain"), has(partition, "not synced")), (n == 0, n == 1));
    }
}

/// Several that are written before the first is waited for share its sync, also over the same
/// partitions. A record without a place in the journal, between two of them, is synced in its
/// segment.
#[test]
fn transactions_over_the_same_partitions_share_one_sync() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(5).on_disk(&disk).unwrap();
    let config = quipu::TopicConfig::new().partitions(4).durability(Durability::Sync);
    let parts = broker.create_topic("t", config).unwrap().partitions();
    let all: Vec<_> = parts.iter().collect();
    together(&broker, &all, "first").unwrap();
    let write = |parts: &[&Partition], value: String| {
        let mut transaction = broker.transaction();
        for part in parts {
            transaction.send(*part, Record::new(value.clone()));
        }
        transaction.commit_async()
    };

    let before = disk.ops_of(Op::Sync);
    let several: Vec<_> = (0..5).map(|n| write(&all, format!("value {n}"))).collect();
    several.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    assert_eq!(disk.ops_of(Op::Sync) - before, 1);

    let before = disk.ops_of(Op::Sync);
    let one = write(&all, "value 5".into());
    write(&all[..1], "alone".into()).detach();
    let two = write(&all, "value 6".into());
    one.wait().unwrap();
    two.wait().unwrap();
    assert_eq!(disk.ops_of(Op::Sync) - before, 2, "the journal, and the segment with a record of its own");

    std::mem::forget(broker);
    disk.crash(Survive::Synced);
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(5).on_disk(&disk).unwrap();
    for (n, partition) in broker.topic("t").unwrap().partitions().iter().enumerate() {
        assert!((0..7).all(|n| has(partition, &format!("value {n}"))));
        assert_eq!(has(partition, "alone"), n == 0);
    }
}

/// The journal has a part that belongs into a partition which cannot be looked at just now. If it
/// were thrown away, the next opening would find the partition without it.
#[test]
fn a_partition_that_cannot_be_read_now_keeps_its_part_of_the_journal() {
    let (mut refused, mut nth) = (0, 1);
    loop {
        let disk = Disk::new();
        let (broker, [_, _, _, s, z]) = open(&disk);
        send(&broker, &s, "before").unwrap();
        together(&broker, &[&s, &z], "both").unwrap();
        std::mem::forget(broker);
        // Of the segments nothing is left, of the journal everything.
        disk.crash(Survive::Synced);
        let ops = disk.ops();
        let kind = if nth % 2 == 0 { ErrorKind::StorageFull } else { ErrorKind::Other };
        disk.fail(Op::Any, nth, kind);
        let config = BrokerConfig::new().clock(ManualClock::new()).seed(5);
        match config.on_disk(&disk) {
            Ok(broker) => {
                // Others are served, if nothing of the journal was in the way.
                if disk.ops() - ops < nth {
                    break;
                }
                std::mem::forget(broker);
            }
            Err(_) => refused += 1,
        }
        disk.clear_faults();
        disk.crash(Survive::Synced);
        let (_broker, [_, _, _, s, z]) = open(&disk);
        assert!(has(&s, "before") && has(&s, "both") && has(&z, "both"), "{nth}");
        nth += 1;
    }
    assert!(nth > 50 && refused > 10, "{refused} of {nth}");
}

/// The batch that is written again is the first of its epoch: the epoch still begins before it.
#[test]
fn a_position_in_truncated_records_stays_truncated_when_a_transaction_is_written_again() {
    let disk = Disk::new();
    let (broker, [.., s, _]) = open(&disk);
    for value in ["0", "1", "torn"] {
        send(&broker, &s, value).unwrap();
    }
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    let segments = || files(&disk, &format!("topics/{}/{}", s.topic(), s.id()), ".log");
    let path = segments().remove(0);
    disk.truncate(&path, disk.read(&path).unwrap().len() as u64 - 1).unwrap();
    let (broker, [.., s, z]) = open(&disk);
    let receipts = together(&broker, &[&s, &z], "both").unwrap();
    assert_eq!((receipts[0].offset.get(), receipts[0].epoch), (2, 1));
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    // The batch is lost, and the journal has it.
    disk.truncate(segments().pop().unwrap(), 128).unwrap();
    let (broker, [.., s, _]) = open(&disk);
    assert!(has(&s, "both"));
    let old = Position::new(s.topic().clone(), s.id(), 3, 0);
    let mut reader = broker.reader_at(&[old]).unwrap().offset_reset(OffsetReset::Fail);
    let error = reader.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(&error, Error::Truncated { to, .. } if *to == 2), "{error}");
}
