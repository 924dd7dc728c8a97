//! `Partition::append` and its siblings: one batch, whole and without another record in between, with
//! a condition or without; syncing one partition; waiting for records of it.

use std::future::Future;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Offset, Partition, Record, Start, Timestamp, TopicConfig,
};

use crate::common::open;

/// Longer than any test: a call that returns was woken.
const LONG: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;

fn partition(broker: &Broker, durability: Durability) -> Partition {
    let config = TopicConfig::new().durability(durability);
    broker.create_topic("t", config).unwrap().partition(0).unwrap()
}

fn under_manual_clock(disk: &Disk) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).on_disk(disk).unwrap()
}

fn records(count: usize) -> impl Iterator<Item = Record<'static>> {
    (0..count).map(|n| Record::new(n.to_string()))
}

fn values(partition: &Partition) -> Vec<String> {
    let read = partition.read(Start::Beginning, 1 << 20).unwrap();
    read.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()).collect()
}

// -- append --

#[test]
fn appends_of_several_threads_are_never_mixed() {
    let broker = Broker::in_memory().unwrap();
    let partition = partition(&broker, Durability::Os);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for writer in 0..4 {
            let (partition, start) = (&partition, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..50 {
                    let batch = (0..3).map(|n| Record::new(format!("{writer}-{round}-{n}")));
                    let receipt = partition.append(batch).unwrap();
                    let read = partition.read(Start::At(receipt.offset), 1).unwrap();
                    assert_eq!(
                        read.iter().next().unwrap().value(),
                        Some(format!("{writer}-{round}-0").as_bytes())
                    );
                }
            });
        }
    });
    assert_eq!(partition.bounds().unwrap().visible_end, 600);
    let mut read = partition.read(Start::Beginning, 1).unwrap();
    let mut next = 0;
    while !read.is_empty() {
        // One batch at a time.
        let batch: Vec<_> =
            read.iter().map(|r| String::from_utf8_lossy(r.value().unwrap()).into_owned()).collect();
        let first = batch[0].strip_suffix("-0").unwrap();
        assert_eq!(batch, [0, 1, 2].map(|n| format!("{first}-{n}")));
        next += 3;
        read = partition.read(Start::At(Offset::new(next)), 1).unwrap();
    }
    assert_eq!(next, 600);
}

#[test]
fn an_append_that_is_refused_appends_nothing() {
    let broker = Broker::in_memory().unwrap();
    let config = TopicConfig::new().max_record_bytes(1000);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let large = || [Record::new("small"), Record::new(vec![0u8; 1001])];
    assert!(matches!(partition.append(large()), Err(Error::RecordTooLarge { limit: 1000, .. })));
    assert!(matches!(partition.append_async(large()), Err(Error::RecordTooLarge { .. })));
    let early = Record::new("v").timestamp(Timestamp::from_millis(-1));
    let refused = partition.append([Record::new("v"), early]);
    assert!(matches!(refused, Err(Error::InvalidTimestamp { index: 1, .. })));
    assert!(matches!(partition.append([]), Err(Error::InvalidConfig { field: "records", .. })));
    let sequenced = partition.append([Record::new("v"), Record::new("v").sequence(1)]);
    assert!(matches!(sequenced, Err(Error::InvalidConfig { field: "sequence", .. })));
    assert_eq!(partition.bounds().unwrap().log_end, 0);
    broker.delete_topic("t").unwrap();
    assert!(matches!(partition.append(records(1)), Err(Error::TopicDeleted { .. })));
    assert!(matches!(partition.append_async(records(1)), Err(Error::TopicDeleted { .. })));
}

#[test]
fn a_record_of_a_stream_is_appended_to_its_own_partition_only() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("s", TopicConfig::streams().partitions(2)).unwrap();
    let right = topic.stream("k").unwrap().partition().id();
    for partition in topic.partitions() {
        let appended = partition.append([Record::new("v").key("k")]);
        assert_eq!(appended.is_ok(), partition.id() == right, "{appended:?}");
    }
}

#[test]
fn a_batch_survives_a_power_loss_whole_or_not_at_all() {
    let disk = Disk::new();
    let broker = under_manual_clock(&disk);
    let partition = partition(&broker, Durability::Os);
    partition.append(records(5)).unwrap();
    partition.sync().unwrap();
    partition.append(records(7)).unwrap();
    let mut ends = std::collections::BTreeSet::new();
    for survive in disk.power_losses(1) {
        let disk = disk.duplicate();
        disk.crash(survive);
        let broker = open(&disk).unwrap();
        ends.insert(broker.topic("t").unwrap().partition(0).unwrap().bounds().unwrap().visible_end.get());
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [5, 12]);
}

// -- append_async, append_at_async --

#[test]
fn asynchronous_appends_are_written_in_order_and_share_a_sync() {
    let disk = Disk::new();
    let broker = under_manual_clock(&disk);
    let partition = partition(&broker, Durability::Sync);
    partition.append(records(1)).unwrap();
    let syncs = disk.ops_of(Op::Sync);
    let first = partition.append_async(records(2)).unwrap();
    let second = partition.append_at_async(Offset::new(3), records(1)).unwrap();
    let bounds = partition.bounds().unwrap();
    assert_eq!((bounds.log_end.get(), bounds.visible_end.get()), (4, 1), "written, and not yet visible");
    assert_eq!(second.wait().unwrap().offset, 3);
    assert_eq!(partition.bounds().unwrap().durable_end, 4);
    let mut first = pin!(first);
    let polled = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Ok(receipt)) if receipt.offset == 1));
    assert_eq!(disk.ops_of(Op::Sync), syncs + 1);
    assert_eq!(values(&partition), ["0", "0", "1", "0"]);
}

#[test]
fn an_asynchronous_append_elsewhere_than_at_the_end_appends_nothing() {
    let broker = Broker::in_memory().unwrap();
    let partition = partition(&broker, Durability::Os);
    partition.append(records(3)).unwrap();
    for wrong in [0, 2, 4, u64::MAX] {
        match partition.append_at_async(Offset::new(wrong), records(1)) {
            Err(Error::OffsetConflict { end, .. }) => assert_eq!(end, 3),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(partition.bounds().unwrap().log_end, 3);
}

#[test]
fn a_dropped_append_is_synced_in_the_background() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let partition = partition(&broker, Durability::Sync);
    drop(partition.append_async(records(2)).unwrap());
    assert!(partition.wait_for(Offset::new(1), LONG).unwrap());
    assert_eq!(partition.bounds().unwrap().durable_end, 2);
}

#[test]
fn a_failed_sync_is_the_error_of_the_appends_that_wait_for_it() {
    let disk = Disk::new();
    let broker = under_manual_clock(&disk);
    let partition = partition(&broker, Durability::Sync);
    partition.append(records(1)).unwrap();
    let pending = partition.append_async(records(1)).unwrap();
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    assert!(partition.append(records(1)).is_err());
    assert!(matches!(pending.wait(), Err(Error::Poisoned { .. } | Error::Io { .. })));
    assert!(matches!(partition.append_async(records(1)), Err(Error::Poisoned { .. })));
    assert!(matches!(partition.sync(), Err(Error::Poisoned { .. })));
}

// -- sync --

#[test]
fn a_sync_makes_the_records_of_its_partition_durable_in_every_mode() {
    for durability in [Durability::Os, Durability::Interval(LONG), Durability::Sync] {
        let disk = Disk::new();
        let broker = under_manual_clock(&disk);
        let partition = partition(&broker, durability);
        let other = broker.create_topic("other", TopicConfig::new()).unwrap().partition(0).unwrap();
        other.append(records(4)).unwrap();
        partition.append_async(records(3)).unwrap().detach();
        partition.sync().unwrap();
        let bounds = partition.bounds().unwrap();
        assert_eq!((bounds.durable_end.get(), bounds.visible_end.get()), (3, 3), "{durability:?}");
        assert_eq!(other.bounds().unwrap().durable_end, 0, "no other partition is synced");
        let syncs = disk.ops_of(Op::Sync);
        partition.sync().unwrap();
        assert_eq!(disk.ops_of(Op::Sync), syncs, "there was nothing to sync");
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        assert_eq!(values(&broker.topic("t").unwrap().partition(0).unwrap()), ["0", "1", "2"]);
    }
}

#[test]
fn a_sync_of_a_partition_that_cannot_be_synced_returns_why() {
    let disk = Disk::new();
    let broker = under_manual_clock(&disk);
    let partition = partition(&broker, Durability::Os);
    partition.append(records(1)).unwrap();
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    assert!(partition.sync().is_err());
    assert!(matches!(partition.sync(), Err(Error::Poisoned { .. })));
    broker.delete_topic("t").unwrap();
    assert!(matches!(partition.sync(), Err(Error::TopicDeleted { .. })));
    let last = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    broker.close().unwrap();
    assert!(matches!(last.sync(), Err(Error::Closed)));
}

// -- wait_for --

#[test]
fn a_wait_ends_when_a_record_at_the_offset_or_after_it_is_visible() {
    let broker = Broker::in_memory().unwrap();
    let partition = partition(&broker, Durability::Os);
    assert!(!partition.wait_for(Offset::ZERO, NOW).unwrap());
    assert!(!partition.wait_for(Offset::ZERO, Duration::from_millis(20)).unwrap());
    for offset in [0, 2] {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| partition.wait_for(Offset::new(offset), LONG));
            while partition.bounds().unwrap().visible_end <= offset {
                partition.append(records(1)).unwrap();
            }
            assert!(waiting.join().unwrap().unwrap());
        });
    }
    for offset in 0..3 {
        assert!(partition.wait_for(Offset::new(offset), NOW).unwrap(), "it is there already");
    }
    assert!(!partition.wait_for(Offset::new(3), NOW).unwrap());
}

#[test]
fn a_wait_for_records_to_come_misses_none() {
    let broker = Broker::in_memory().unwrap();
    let partition = partition(&broker, Durability::Os);
    thread::scope(|scope| {
        scope.spawn(|| (0..2_000).for_each(|_| drop(partition.append(records(1)).unwrap())));
        for offset in 0..2_000 {
            assert!(partition.wait_for(Offset::new(offset), LONG).unwrap());
        }
    });
}

#[test]
fn a_wait_returns_the_error_of_a_close_and_of_a_deletion() {
    for is_closed in [true, false] {
        let broker = Broker::in_memory().unwrap();
        let partition = partition(&broker, Durability::Os);
        let waiter = partition.clone();
        let waiting = thread::spawn(move || waiter.wait_for(Offset::ZERO, LONG));
        (0..100).for_each(|_| thread::yield_now());
        if is_closed {
            broker.close().unwrap()
        } else {
            broker.delete_topic("t").unwrap()
        }
        match (waiting.join().unwrap(), is_closed) {
            (Err(Error::Closed), true) | (Err(Error::TopicDeleted { .. }), false) => {}
            (other, _) => panic!("{other:?}"),
        }
        assert!(partition.wait_for(Offset::ZERO, LONG).is_err(), "afterwards at once");
    }
}

#[test]
fn under_a_manual_clock_no_wait_waits() {
    let broker = under_manual_clock(&Disk::new());
    let partition = partition(&broker, Durability::Os);
    assert!(!partition.wait_for(Offset::ZERO, LONG).unwrap());
    partition.append(records(1)).unwrap();
    assert!(partition.wait_for(Offset::ZERO, LONG).unwrap());
}
