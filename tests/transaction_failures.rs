//! Transactions beside partitions that fail, go away or are rolled: what one of them suffers never makes a promise to
//! another one untrue.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::ErrorKind;

use common::{read_from, send, small};
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Offset, Offsets, Outcome, Partition, Position, Receipt, Record,
    Result, Start,
};

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
fn a_topic_that_was_deleted_holds_no_later_transaction_up() {
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

/// A sync that failed is not tried again on behalf of somebody else either: the second one would succeed, and say nothing.
#[test]
fn nobody_is_promised_what_stands_on_a_failed_sync() {
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

/// What the manifest calls synced is not read again. So it has to wait for the journal, whoever synced the file.
#[test]
fn a_segment_is_not_called_synced_before_the_records_of_its_transactions_are() {
    let disk = Disk::new();
    let (broker, [a, b, c, s, _]) = open(&disk);
    send(&broker, &a, "before").unwrap();
    together(&broker, &[&a, &b], "one").unwrap();
    while a.stats().segments.len() < 2 {
        let end = a.bounds().unwrap().log_end;
        a.append_at(end, [Record::new("x".repeat(300))]).unwrap();
    }
    // The first is that of the segment, the second that of the journal.
    disk.fail(Op::Sync, 2, ErrorKind::Other);
    assert_eq!(together(&broker, &[&c, &s], "two").unwrap_err().outcome(), Outcome::Unknown);
    broker.maintain().unwrap();
    let (_broker, [a, b, c, s, _]) = power_loss(&disk, broker);
    assert_eq!((has(&a, "one"), has(&c, "two")), (has(&b, "one"), has(&s, "two")));
}

#[test]
fn a_full_disk_keeps_a_journal_from_being_begun_for_as_long_as_it_is_full() {
    let disk = Disk::new();
    let (broker, [a, b, c, ..]) = open(&disk);
    let full = |result: Result<Vec<Receipt>>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }) && error.outcome() == Outcome::NotWritten, "{error}");
    };
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    full(together(&broker, &[&a, &b], "no file"));
    together(&broker, &[&a, &b], "one").unwrap();
    // And from being begun anew: the old one goes on.
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    assert!(matches!(a.truncate_to(Offset::ZERO), Err(Error::DiskFull { .. })));
    together(&broker, &[&a, &b, &c], "two").unwrap();
    a.truncate_to(Offset::new(1)).unwrap();
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    let (_broker, [a, b, c, ..]) = open(&disk);
    assert!(has(&a, "one") && !has(&a, "two") && has(&b, "two") && has(&c, "two"));
}

#[test]
fn a_poisoned_partition_keeps_no_other_one_from_being_cut() {
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

/// A part that was torn is written again, as it was. So whoever has come behind it has not seen anything that is not there.
#[test]
fn a_position_behind_a_transaction_that_survived_is_not_called_cut_off() {
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
        assert!(broker.open_report().cuts.is_empty(), "seed {seed}: {:?}", broker.open_report().cuts);
        let consumer = broker.consumer("g").assign(&partitions).unwrap();
        for receipt in receipts {
            let next = Position {
                topic: receipt.topic,
                partition: receipt.partition,
                offset: receipt.offset.plus(1),
                epoch: receipt.epoch,
            };
            consumer.commit(Offsets::new().next(&next)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
    assert!(redone > 0, "none was torn");
}

/// Nobody knows whether the record is there: what is appended behind it could contradict it.
#[test]
fn a_journal_that_could_not_be_written_keeps_its_partitions_from_appends() {
    let disk = Disk::new();
    let (broker, [a, b, c, s, _]) = open(&disk);
    together(&broker, &[&a, &b], "one").unwrap();
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
fn a_conflict_is_told_when_it_can_be_read_and_names_the_partition() {
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
