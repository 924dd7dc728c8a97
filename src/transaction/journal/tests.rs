use std::io::ErrorKind;

use super::*;
use crate::broker::Broker;
use crate::clock::ManualClock;
use crate::config::{BrokerConfig, TopicConfig};
use crate::error::Outcome;
use crate::record::Record;
use crate::testing::{Disk, Op};
use crate::topic::Partition;

fn together(broker: &Broker, partitions: [&Partition; 2], bytes: usize) -> Result<()> {
    let mut transaction = broker.transaction();
    for partition in partitions {
        transaction.send(partition, Record::new(vec![7u8; bytes]));
    }
    transaction.commit().map(drop)
}

fn made(disk: &Disk) -> (Broker, [Partition; 4]) {
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(disk).unwrap();
    let topic = broker.ensure_topic("t", TopicConfig::new().partitions(4)).unwrap();
    let partition = |n| topic.partition(n).unwrap();
    (broker, [partition(0), partition(1), partition(2), partition(3)])
}

/// A partition that cannot be synced keeps a new file from being started: the file grows, but
/// only up to a bound, and not every commit tries.
#[test]
fn a_file_that_cannot_be_replaced_grows_up_to_its_bound() {
    let disk = Disk::new();
    let (broker, [a, b, c, d]) = made(&disk);
    let journal = &broker.inner().journal;
    journal.state.lock().bytes_max = 3 * FILE_BYTES;
    together(&broker, [&a, &b], 10).unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    let (mut commits, before) = (0, disk.ops_of(Op::Sync));
    let refused = loop {
        match together(&broker, [&c, &d], 500_000) {
            Ok(()) => commits += 1,
            Err(error) => break error,
        }
        assert!(commits < 100, "without a bound");
    };
    assert!(matches!(refused, Error::JournalFailed { .. }), "{refused}");
    assert_eq!(refused.outcome(), Outcome::NotWritten);
    assert!(commits > 40 && disk.ops_of(Op::Sync) - before < 8, "{commits} commits");
    // An append that needs no record still succeeds, and the next opening makes room.
    broker.producer().send(&c, Record::new("alone")).unwrap().wait().unwrap();
    drop((broker, a, b, c, d));
    let (broker, [_, _, c, d]) = made(&disk);
    together(&broker, [&c, &d], 10).unwrap();
    assert_eq!(c.bounds().unwrap().log_end.get(), commits + 2);
}

#[test]
fn a_large_file_is_replaced_by_an_empty_one() {
    let disk = Disk::new();
    let (broker, [a, b, ..]) = made(&disk);
    (0..40).for_each(|_| together(&broker, [&a, &b], 500_000).unwrap());
    let state = broker.inner().journal.state.lock();
    assert!(state.position < FILE_BYTES + (2 << 20));
    assert!(state.involved.all().len() < 80, "those of the file before are forgotten");
}

/// After a file that could not be replaced for a while, the next one has the usual size again.
#[test]
fn a_new_file_forgets_that_the_one_before_could_not_be_replaced() {
    let disk = Disk::new();
    let (broker, [a, b, ..]) = made(&disk);
    let journal = &broker.inner().journal;
    together(&broker, [&a, &b], 10).unwrap();
    {
        let mut state = journal.state.lock();
        (state.large_from, state.stuck) = (0, Some(Error::Closed));
    }
    together(&broker, [&a, &b], 10).unwrap();
    let state = journal.state.lock();
    assert_eq!((state.position, state.large_from), (JOURNAL_HEADER_BYTES as u64, FILE_BYTES));
    assert!(state.stuck.is_none());
}

/// Many transactions over the same partitions take the memory of one, and a sync handles them as
/// one.
#[test]
fn batches_that_follow_each_other_are_one_run_until_a_sync_takes_it() {
    let disk = Disk::new();
    let (broker, [a, b, c, _d]) = made(&disk);
    let runs = || -> Vec<_> {
        let state = broker.inner().journal.state.lock();
        state.involved.all().iter().map(|run| (run.before.get(), run.end.get())).collect()
    };
    (0..5).for_each(|_| together(&broker, [&a, &b], 10).unwrap());
    together(&broker, [&b, &c], 10).unwrap();
    together(&broker, [&a, &b], 10).unwrap();
    assert_eq!(runs(), [(0, 6), (0, 7), (0, 1)]);
    // A batch of its own lies between: a sync must visit the segment for it.
    broker.producer().send(&a, Record::new("alone")).unwrap().wait().unwrap();
    together(&broker, [&a, &b], 10).unwrap();
    assert_eq!(runs(), [(0, 6), (0, 8), (0, 1), (7, 8)]);
    broker.sync().unwrap();
    together(&broker, [&a, &b], 10).unwrap();
    assert_eq!(runs(), [(0, 6), (0, 8), (0, 1), (7, 8), (8, 9), (8, 9)], "the sync did not know of these");
}
