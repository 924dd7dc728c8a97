//! Offsets after a power loss: an opening that cannot prove where a log ended starts an epoch,
//! durably, with one change of the catalog for any number of partitions. After the death of the
//! process alone the proof exists, because the machine did not restart.

use std::time::Duration;

use quipu::testing::{Disk, Op, Survive};
use quipu::{Broker, Durability, Error, Partition, Start, TopicConfig};

use crate::common::{assert_filled, fill, open, small};

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").unwrap().partition(0).unwrap()
}

/// Ten records that nothing synced, and none of them left after a power loss; a position at their
/// end.
fn lost() -> (Disk, quipu::Position) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 4);
    broker.sync().unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 10);
    let last = topic.partition(0).unwrap().last_n(1).unwrap().last().unwrap().position();
    assert_eq!((last.offset.get(), last.epoch), (9, 0));
    disk.crash(Survive::Synced);
    (disk, last)
}

#[test]
fn a_position_of_records_that_a_power_loss_took_is_recognised() {
    let (disk, last) = lost();
    let broker = open(&disk).unwrap();
    let p = partition(&broker);
    // The usual power loss: not a torn byte to be seen.
    assert!(broker.open_report().truncated_tails.is_empty());
    assert_eq!((p.bounds().unwrap().log_end.get(), p.epoch()), (4, 1));
    // The offsets are given out again, to other records.
    fill(&broker, &p, 20);
    assert_eq!(p.last_n(1).unwrap().last().unwrap().position().epoch, 1);
    let mut reader = broker.reader_at(std::slice::from_ref(&last)).unwrap();
    let records = reader.poll(Duration::ZERO);
    match records {
        Err(Error::Truncated { to, .. }) => assert_eq!(to, 4),
        Ok(records) => assert!(!records.skipped().is_empty(), "{records:?}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn only_a_power_loss_begins_an_epoch() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 30);
    broker.close().unwrap();
    drop((broker, topic));
    let mut epoch = 0;
    for (n, survive) in [
        None,
        Some(Survive::Everything),
        Some(Survive::Synced),
        Some(Survive::Everything),
        None,
        Some(Survive::Zeroed(1)),
        Some(Survive::Random(2)),
        None,
    ]
    .into_iter()
    .enumerate()
    {
        let broker = open(&disk).unwrap();
        let p = partition(&broker);
        let end = p.bounds().unwrap().log_end.get();
        fill(&broker, &p, end + 5);
        broker.sync().unwrap();
        let before = p.epoch();
        assert_eq!(before, epoch, "stop {n}");
        match survive {
            None => broker.close().unwrap(),
            Some(survive) => disk.crash(survive),
        }
        drop((broker, p));
        let lost = survive.is_some_and(|survive| survive != Survive::Everything);
        epoch += u32::from(lost);
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report().damaged);
        assert_eq!(partition(&broker).epoch(), epoch, "after stop {n}");
        assert_filled(&partition(&broker), end + 5, "synced");
        disk.crash(Survive::Everything);
    }
}

/// Whatever comes after it: another power loss at once, a roll that writes it into the manifest,
/// clean stops.
#[test]
fn an_epoch_is_durable_before_anything_is_served() {
    let (disk, last) = lost();
    let first = open(&disk).unwrap();
    disk.crash(Survive::Synced);
    drop(first);
    let broker = open(&disk).unwrap();
    assert_eq!(partition(&broker).epoch(), 2, "the first opening's was durable");
    // Batches of the new epoch, in the segment of the old one, are found again by every kind of
    // opening.
    fill(&broker, &partition(&broker), 9);
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().truncated_tails.is_empty() && broker.open_report().damaged.is_empty());
    assert_filled(&partition(&broker), 9, "of two epochs");
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert_filled(&partition(&broker), 9, "after a clean stop");
    // The next manifest has it, and then the catalog need not.
    partition(&broker).truncate_to(6.into()).unwrap();
    assert_eq!(partition(&broker).epoch(), 3);
    broker.close().unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(partition(&broker).epoch(), 3);
    let skipped = broker.reader_at(std::slice::from_ref(&last)).unwrap().poll(Duration::ZERO);
    assert!(skipped.is_err() || !skipped.unwrap().skipped().is_empty());
    let read = partition(&broker).read(Start::Beginning, 1 << 20).unwrap();
    assert_eq!(read.iter().map(|r| r.position().epoch).collect::<Vec<_>>(), [0, 0, 0, 0, 2, 2]);
}

#[test]
fn it_costs_one_sync_however_many_partitions_there_are() {
    let syncs = |partitions: u32, power: bool| {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", small().partitions(partitions)).unwrap();
        topic.partitions().iter().for_each(|p| fill(&broker, p, 2));
        broker.sync().unwrap();
        broker.maintain().unwrap();
        disk.crash(if power { Survive::Synced } else { Survive::Everything });
        let before = disk.ops_of(Op::Sync) + disk.ops_of(Op::SyncDir);
        let broker = open(&disk).unwrap();
        let epochs = broker.topic("t").unwrap().partitions().iter().map(Partition::epoch).collect::<Vec<_>>();
        assert_eq!(epochs, vec![u32::from(power); partitions as usize]);
        disk.ops_of(Op::Sync) + disk.ops_of(Op::SyncDir) - before
    };
    for partitions in [1, 10, 100] {
        assert_eq!(syncs(partitions, true) - syncs(partitions, false), 1, "{partitions} partitions");
    }
}

/// Whatever kills the first opening after a power loss, or keeps it from ending: the next one, of
/// the same boot, still knows that nothing proves where the log ended.
#[test]
fn an_opening_that_is_interrupted_proves_nothing() {
    let ops = {
        let (disk, _) = lost();
        let before = disk.ops();
        let _broker = open(&disk).unwrap();
        disk.ops() - before
    };
    for nth in 1..=ops {
        let (disk, _) = lost();
        disk.crash_at(disk.ops() + nth);
        let first = open(&disk);
        let died = first.is_err();
        disk.crash(Survive::Everything);
        drop(first);
        let broker = open(&disk).unwrap();
        let (epoch, end) = (partition(&broker).epoch(), partition(&broker).bounds().unwrap().log_end.get());
        assert!(
            (1..=2).contains(&epoch) && end == 4,
            "operation {nth}, died {died}: epoch {epoch}, end {end}"
        );
    }
}

/// A partition that could not be opened when the epochs began, or not be closed properly, gets its
/// own later.
#[test]
fn a_partition_without_a_proven_end_begins_an_epoch_of_its_own() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic =
        broker.create_topic("t", TopicConfig::new().partitions(2).durability(Durability::Os)).unwrap();
    topic.partitions().iter().for_each(|p| fill(&broker, p, 5));
    broker.sync().unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 9);
    // Closing cannot sync partition 0.
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    broker.close().unwrap_err();
    drop((broker, topic));
    disk.clear_faults();
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    let topic = broker.topic("t").unwrap();
    let epochs: Vec<_> = topic.partitions().iter().map(Partition::epoch).collect();
    assert_eq!((topic.partition(0).unwrap().bounds().unwrap().log_end.get(), epochs), (5, vec![1, 0]));
}
