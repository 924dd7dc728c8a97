//! Transactions over different partitions at the same time. Each waits for the others only while it
//! writes its record.

use std::io::ErrorKind;
use std::thread;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{Broker, BrokerConfig, Durability, Error, Outcome, Partition, Receipt, Record, Result, Start};

use crate::common::{read_from, send, small};

fn open(disk: &Disk) -> (Broker, Vec<Partition>) {
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(5).on_disk(disk).unwrap();
    let config = small().partitions(4).durability(Durability::Os);
    let partitions = broker.ensure_topic("t", config).unwrap().partitions();
    (broker, partitions)
}

fn together(broker: &Broker, partitions: &[Partition], value: &str) -> Result<Vec<Receipt>> {
    let mut transaction = broker.transaction();
    for partition in partitions {
        transaction.send(partition, Record::new(value.to_string()));
    }
    transaction.commit()
}

fn count(partitions: &[Partition], value: &str) -> usize {
    let has = |partition: &&Partition| read_from(partition, Start::Beginning).values().any(|v| v == value);
    partitions.iter().filter(has).count()
}

/// A broker with a file for each partition, and for the journal.
fn begun() -> (Disk, Broker, Vec<Partition>) {
    let disk = Disk::new();
    let (broker, partitions) = open(&disk);
    together(&broker, &partitions, "first").unwrap();
    (disk, broker, partitions)
}

#[test]
fn a_transaction_does_not_wait_for_the_batches_of_another() {
    let (disk, broker, all) = begun();
    let (one, two) = all.split_at(2);
    // The first write is that of the record.
    let batch = disk.hold(Op::Write, 2);
    thread::scope(|scope| {
        let committing = scope.spawn(|| together(&broker, one, "one"));
        batch.wait_until_reached();
        together(&broker, two, "two").unwrap();
        assert_eq!((count(one, "one"), count(two, "two")), (0, 2));
        // A process that is killed now has committed both.
        let left = disk.duplicate();
        left.crash(Survive::Everything);
        let (_broker, found) = open(&left);
        assert_eq!((count(&found, "one"), count(&found, "two")), (2, 2));
        drop(batch);
        committing.join().unwrap().unwrap();
    });
    assert_eq!(count(one, "one"), 2);
}

#[test]
fn a_batch_that_could_not_be_written_leaves_a_later_transaction_whole() {
    let (disk, broker, all) = begun();
    let (one, two) = all.split_at(2);
    let batch = disk.hold(Op::Write, 2);
    disk.fail(Op::Write, 2, ErrorKind::Other);
    thread::scope(|scope| {
        let committing = scope.spawn(|| together(&broker, one, "one"));
        batch.wait_until_reached();
        together(&broker, two, "two").unwrap();
        drop(batch);
        assert_eq!(committing.join().unwrap().unwrap_err().outcome(), Outcome::Unknown);
    });
    assert!(matches!(together(&broker, two, "three"), Err(Error::JournalFailed { .. })));
    assert!(matches!(send(&broker, &one[0], "alone"), Err(Error::Poisoned { .. })));
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
    let (_broker, all) = open(&disk);
    assert_eq!(["one", "two", "three"].map(|value| count(&all, value)), [2, 2, 0]);
}
