//! The state of an idempotent producer is durable before its records are removed by deletion,
//! retention, compaction, or a truncation to the log start. So no row is stored twice, however the
//! run ends.

use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Broker, Cleanup, Durability, Error, Offset, Partition, Producer, ProducerConfig, Record, Retention,
    TopicConfig,
};

use crate::common::open;

const STATE: &str = "topics/t/0/producers";

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

fn named(broker: &Broker, name: &str) -> Producer {
    broker.producer_with(ProducerConfig::new().name(name)).unwrap()
}

fn send_rows(broker: &Broker, name: &str, rows: std::ops::RangeInclusive<u64>) {
    let producer = named(broker, name);
    for row in rows {
        producer.send(partition(broker), Record::new("row").sequence(row)).unwrap().wait().unwrap();
    }
}

fn last(broker: &Broker, name: &str) -> Option<u64> {
    named(broker, name).last_sequence(&partition(broker)).unwrap()
}

fn config() -> TopicConfig {
    let config = TopicConfig::new().durability(Durability::Sync).segment_bytes(4096).max_record_bytes(2048);
    config.retention(Retention::for_bytes(4096))
}

/// Rows 1 to 10 at the offsets 0 to 9.
fn made() -> (Disk, Broker) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", config()).unwrap();
    send_rows(&broker, "outbox", 1..=10);
    (disk, broker)
}

/// Records without a sender until retention has taken the first ten.
fn expire(broker: &Broker) {
    for _ in 0..20 {
        broker.producer().send(partition(broker), Record::new([7u8; 1000])).unwrap().wait().unwrap();
    }
    broker.maintain().unwrap();
    assert!(partition(broker).bounds().unwrap().log_start >= Offset::new(10));
}

/// Kills, power losses, and a clean close: none of them forgets.
fn assert_remembered(disk: &Disk, broker: Broker, expected: Option<u64>, case: &str) {
    for survive in [Survive::Everything, Survive::Synced, Survive::Random(3), Survive::Zeroed(4)] {
        let disk = disk.duplicate();
        disk.crash(survive);
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().damaged.is_empty(), "{case}");
        assert_eq!(last(&broker, "outbox"), expected, "{case}, {survive:?}");
        // Also by the run after that, which has not asked.
        broker.close().unwrap();
        drop(broker);
        assert_eq!(last(&open(&disk).unwrap(), "outbox"), expected, "{case}, {survive:?}, again");
    }
    broker.close().unwrap();
    drop(broker);
    assert_eq!(last(&open(disk).unwrap(), "outbox"), expected, "{case}, closed");
}

#[test]
fn rows_that_were_deleted_stay_known_after_a_kill() {
    let (disk, broker) = made();
    partition(&broker).delete_records(Offset::new(10)).unwrap();
    assert_remembered(&disk, broker, Some(10), "deleted");
}

#[test]
fn rows_that_have_expired_stay_known_after_a_power_loss() {
    let (disk, broker) = made();
    expire(&broker);
    assert_remembered(&disk, broker, Some(10), "expired");
}

#[test]
fn rows_that_expire_in_a_run_without_their_producer_stay_known() {
    for survive in [Survive::Everything, Survive::Synced] {
        let (disk, broker) = made();
        disk.crash(survive);
        drop(broker);
        let broker = open(&disk).unwrap();
        expire(&broker);
        assert_remembered(&disk, broker, Some(10), "expired without it");
    }
}

#[test]
fn rows_stay_known_when_newer_ones_are_truncated() {
    // The newer rows are more than a log remembers of a producer, so that only the file knows
    // the older one.
    for (case, deleted, to, expected) in [
        ("between", 10, 15, 15),
        ("just after the start", 10, 11, 11),
        ("at the start", 10, 10, 10),
        ("at a start that was moved twice", 12, 12, 12),
    ] {
        for closes in [false, true] {
            let (disk, mut broker) = made();
            partition(&broker).delete_records(Offset::new(10)).unwrap();
            send_rows(&broker, "outbox", 11..=20);
            if closes {
                broker.close().unwrap();
                drop(broker);
                broker = open(&disk).unwrap();
            }
            partition(&broker).delete_records(Offset::new(deleted)).unwrap();
            partition(&broker).truncate_to(Offset::new(to)).unwrap();
            let case = format!("{case}, closed before: {closes}");
            assert_eq!(last(&broker, "outbox"), Some(expected), "{case}");
            assert_remembered(&disk, broker, Some(expected), &case);
        }
    }
}

/// A power loss that takes the newer rows, and their part of the file.
#[test]
fn rows_stay_known_when_a_power_loss_takes_newer_ones() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", config().durability(Durability::Os)).unwrap();
    send_rows(&broker, "outbox", 1..=10);
    partition(&broker).delete_records(Offset::new(10)).unwrap();
    send_rows(&broker, "outbox", 11..=20);
    disk.crash(Survive::Synced);
    drop(broker);
    let broker = open(&disk).unwrap();
    assert_eq!(partition(&broker).bounds().unwrap().log_end, 10);
    assert_eq!(last(&broker, "outbox"), Some(10));
    send_rows(&broker, "outbox", 11..=11);
    broker.sync().unwrap();
    assert_remembered(&disk, broker, Some(11), "sent again");
}

/// Of a batch across the log start the rows before it have been stored, and are gone after a
/// truncation to it.
#[test]
fn the_rows_of_a_batch_across_the_log_start_stay_known() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", config()).unwrap();
    let rows = (1..=6).map(|row| Record::new("row").sequence(row));
    named(&broker, "outbox").send_all(partition(&broker), rows).unwrap().wait().unwrap();
    partition(&broker).delete_records(Offset::new(4)).unwrap();
    assert_eq!(last(&broker, "outbox"), Some(6));
    assert_remembered(&disk.duplicate(), open_copy(&disk), Some(6), "the batch is there");
    partition(&broker).truncate_to(Offset::new(4)).unwrap();
    assert_eq!(last(&broker, "outbox"), Some(4));
    assert_remembered(&disk, broker, Some(4), "truncated within it");
}

fn open_copy(disk: &Disk) -> Broker {
    let copy = disk.duplicate();
    copy.crash(Survive::Everything);
    open(&copy).unwrap()
}

#[test]
fn rows_stay_known_after_a_crash_at_any_operation_of_a_deletion() {
    let count = {
        let (disk, broker) = made();
        let before = disk.ops();
        partition(&broker).delete_records(Offset::new(10)).unwrap();
        disk.ops() - before
    };
    assert!(count > 8, "{count}");
    for nth in 1..=count {
        for survive in [Survive::Everything, Survive::Synced, Survive::Random(nth), Survive::Zeroed(nth)] {
            let (disk, broker) = made();
            disk.crash_at(disk.ops() + nth);
            let deleted = partition(&broker).delete_records(Offset::new(10));
            disk.crash(survive);
            drop(broker);
            let broker = open(&disk).unwrap();
            let case = format!("operation {nth}, {survive:?}, {}", deleted.is_ok());
            assert!(broker.open_report().damaged.is_empty(), "{case}");
            assert_eq!(last(&broker, "outbox"), Some(10), "{case}");
            // A row that is sent again is not stored again: its offset is returned, or
            // refused once its record is gone.
            let again = named(&broker, "outbox").send(partition(&broker), Record::new("row").sequence(9));
            match again.and_then(|sent| sent.wait()) {
                Ok(receipt) => assert_eq!(receipt.offset, 8, "{case}"),
                Err(Error::DuplicateSequence { sequence: 9, .. }) => {
                    assert_eq!(partition(&broker).bounds().unwrap().log_start, 10, "{case}");
                }
                Err(error) => panic!("{case}: {error}"),
            }
            send_rows(&broker, "outbox", 11..=11);
            assert_eq!(partition(&broker).bounds().unwrap().log_end, 11, "{case}");
        }
    }
}

#[test]
fn nothing_is_deleted_when_the_producer_snapshot_cannot_be_written() {
    let (disk, broker) = made();
    for op in [Op::Write, Op::Sync, Op::Rename] {
        disk.fail(op, 1, std::io::ErrorKind::Other);
        partition(&broker).delete_records(Offset::new(10)).unwrap_err();
        assert_eq!(partition(&broker).bounds().unwrap().log_start, 0, "{op:?}");
        disk.clear_faults();
    }
    // Always, so that the reserve does not help either.
    disk.fail_always(Op::Write, 1, std::io::ErrorKind::StorageFull);
    let full = partition(&broker).delete_records(Offset::new(10));
    assert!(matches!(full, Err(Error::DiskFull { .. })), "{full:?}");
    disk.clear_faults();
    partition(&broker).delete_records(Offset::new(10)).unwrap();
    assert_remembered(&disk, broker, Some(10), "at last");
}

#[test]
fn each_producer_is_kept_and_none_of_another_partition() {
    let (disk, broker) = made();
    send_rows(&broker, "second", 100..=100);
    send_rows(&broker, "outbox", 11..=30);
    partition(&broker).delete_records(Offset::new(15)).unwrap();
    disk.crash(Survive::Synced);
    drop(broker);
    let broker = open(&disk).unwrap();
    assert_eq!(
        (last(&broker, "outbox"), last(&broker, "second"), last(&broker, "third")),
        (Some(30), Some(100), None)
    );
    partition(&broker).truncate_to(Offset::new(15)).unwrap();
    // Row 100 is at offset 10, row 14 at 14.
    assert_eq!((last(&broker, "outbox"), last(&broker, "second")), (Some(14), Some(100)));
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert_eq!((last(&broker, "outbox"), last(&broker, "second")), (Some(14), Some(100)));
}

/// Compaction leaves of each producer the last batch; the earlier ones become the last by a
/// truncation.
#[test]
fn rows_that_compaction_took_stay_known_when_the_last_one_is_truncated() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync).segment_bytes(1024).max_record_bytes(700);
    broker.create_topic("t", config.cleanup(Cleanup::Compact)).unwrap();
    let producer = named(&broker, "outbox");
    for row in 1..=10 {
        let record = Record::new("row").key("k").sequence(row);
        producer.send(partition(&broker), record).unwrap().wait().unwrap();
    }
    let filler = |n: u64| Record::new([7u8; 600]).key(format!("filler {n}"));
    (0..4).for_each(|n| drop(broker.producer().send(partition(&broker), filler(n)).unwrap().wait().unwrap()));
    let compacted = partition(&broker).compact().unwrap().unwrap();
    assert!(compacted.records_after < compacted.records_before);
    disk.crash(Survive::Synced);
    drop((broker, producer));
    let broker = open(&disk).unwrap();
    partition(&broker).truncate_to(Offset::new(8)).unwrap();
    assert_remembered(&disk, broker, Some(8), "compacted and truncated");
}

/// A log that no idempotent producer writes to reads and writes nothing for all this, also beside
/// one that has some.
#[test]
fn deleting_from_a_log_without_idempotent_producers_costs_no_extra_io() {
    let ops = |with_names: bool| {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let other = broker.create_topic("other", TopicConfig::new()).unwrap();
        broker.create_topic("t", config()).unwrap();
        if with_names {
            named(&broker, "outbox").send(&other, Record::new("row").sequence(1)).unwrap().wait().unwrap();
        } else {
            broker.producer().send(&other, Record::new("row")).unwrap().wait().unwrap();
        }
        for _ in 0..20 {
            broker.producer().send(partition(&broker), Record::new([7u8; 1000])).unwrap().wait().unwrap();
        }
        broker.sync().unwrap();
        let count =
            || [Op::Read, Op::Map, Op::Write, Op::Sync, Op::Rename, Op::OpenFile].map(|op| disk.ops_of(op));
        let before = count();
        partition(&broker).delete_records(Offset::new(7)).unwrap();
        let after = count();
        let spent: Vec<_> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        assert!(!disk.files().iter().any(|(path, _)| path.ends_with("topics/t/0/producers")));
        spent
    };
    let without = ops(false);
    assert_eq!(ops(true), without);
    assert_eq!(without[0..2], [0, 0], "nothing is read");
    // With producers it is the replacement of one small file.
    let (disk, broker) = made();
    let syncs = disk.ops_of(Op::Sync);
    partition(&broker).delete_records(Offset::new(5)).unwrap();
    assert_eq!(disk.ops_of(Op::Sync) - syncs, 2, "of the file and of the manifest");
}

/// A file that was removed by hand while the broker was closed: the log is read instead,
/// and the file is written again.
#[test]
fn without_the_producer_snapshot_the_log_is_read() {
    let (disk, broker) = made();
    broker.close().unwrap();
    drop(broker);
    disk.remove(STATE).unwrap();
    let broker = open(&disk).unwrap();
    send_rows(&broker, "second", 1..=1);
    disk.crash(Survive::Everything);
    drop(broker);
    let broker = open(&disk).unwrap();
    assert_eq!((last(&broker, "outbox"), last(&broker, "second")), (Some(10), Some(1)));
    partition(&broker).delete_records(Offset::new(11)).unwrap();
    assert_remembered(&disk, broker, Some(10), "found and kept");
}

/// So the next opening reads only the records after them.
#[test]
fn maintenance_stores_the_producers_of_sealed_segments() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700)).unwrap();
    send_rows(&broker, "outbox", 1..=40);
    assert!(partition(&broker).segments().len() > 2);
    let before = disk.read(STATE).unwrap();
    broker.maintain().unwrap();
    let after = disk.read(STATE).unwrap();
    assert!(after.len() > before.len(), "{} and {} bytes", before.len(), after.len());
}
