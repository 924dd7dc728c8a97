//! Positions, commits and raw batches of records that the log does not hold: records lost in a
//! power loss, and epochs that the log never had.

use std::time::Duration;

use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Broker, Durability, Error, Offset, OffsetReset, Partition, Position, RejectReason, SkipReason,
    TopicConfig,
};

use crate::common::{fill, open};

fn made(records: u64) -> (Disk, Broker, Partition) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, records);
    (disk, broker, partition)
}

fn position(text: &str) -> Position {
    text.parse().unwrap()
}

/// Offsets of records, and ranges that were skipped.
type Found = (Vec<u64>, Vec<(u64, u64)>);

/// The first result of a reader that begins at a position, under a policy.
fn read(broker: &Broker, at: &str, policy: OffsetReset) -> quipu::Result<Found> {
    let records = broker.reader_at(&[position(at)])?.offset_reset(policy).poll(Duration::ZERO)?;
    let offsets = records.iter().map(|record| record.offset().get()).collect();
    for skipped in records.skipped() {
        assert!(matches!(skipped.reason, SkipReason::Truncated { .. }), "{skipped}");
    }
    Ok((offsets, records.skipped().iter().map(|skipped| (skipped.from.get(), skipped.to.get())).collect()))
}

#[test]
fn a_position_with_an_epoch_later_than_the_logs_is_not_trusted() {
    let (_disk, broker, _partition) = made(5);
    for (at, to) in [("t/0@3#7", 3), ("t/0@5#7", 5), ("t/0@9#7", 5), ("t/0@1#1", 1)] {
        let refused = read(&broker, at, OffsetReset::Fail);
        assert!(
            matches!(refused, Err(Error::Truncated { to: found, .. }) if found == to),
            "{at}: {refused:?}"
        );
    }
    // Nothing comes before the first offset, so nothing can differ.
    assert_eq!(read(&broker, "t/0@0#7", OffsetReset::Fail).unwrap(), (vec![0, 1, 2, 3, 4], vec![]));
    // The policy decides, and the range is reported.
    assert_eq!(
        read(&broker, "t/0@3#7", OffsetReset::Beginning).unwrap(),
        (vec![0, 1, 2, 3, 4], vec![(3, 0)])
    );
    assert_eq!(read(&broker, "t/0@3#7", OffsetReset::End).unwrap(), (vec![], vec![(3, 5)]));
    assert_eq!(read(&broker, "t/0@3#7", OffsetReset::Nearest).unwrap(), (vec![3, 4], vec![(3, 3)]));
    assert_eq!(read(&broker, "t/0@9#7", OffsetReset::Nearest).unwrap(), (vec![], vec![(9, 5)]));
}

#[test]
fn a_commit_of_a_later_epoch_is_rejected() {
    let (_disk, broker, partition) = made(5);
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    let rejected = consumer.commit(consumer.offsets_at([&position("t/0@3#7")]));
    let Err(Error::CommitRejected { offenders, .. }) = rejected else { panic!("{rejected:?}") };
    assert!(matches!(offenders[0].reason, RejectReason::Truncated { to, .. } if to == 3), "{offenders:?}");
    assert_eq!(consumer.committed("t", 0).unwrap(), None);
    // One of the log's own epoch counts, and is recognised when the log has another past.
    consumer.commit(&records).unwrap();
    drop(consumer);
    partition.truncate_to(Offset::new(1)).unwrap();
    fill(&broker, &partition, 6);
    let mut consumer = broker.consumer("g").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
    let refused = consumer.poll(Duration::ZERO);
    assert!(matches!(refused, Err(Error::Truncated { to, .. }) if to == 1), "{refused:?}");
}

/// A commit that was made in a later epoch than the log has now: the directory of the topic is an
/// older copy.
#[test]
fn a_group_that_has_committed_in_a_later_epoch_follows_the_policy() {
    let (disk, broker, partition) = made(5);
    broker.sync().unwrap();
    broker.close().unwrap();
    drop((broker, partition));
    let old: Vec<_> =
        disk.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with("topics/t")).collect();
    let old: Vec<_> = old.into_iter().map(|path| (path.clone(), disk.read(&path).unwrap())).collect();
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    // Until the segment is full the same file continues, so only the manifest distinguishes the
    // two.
    partition.truncate_to(Offset::new(4)).unwrap();
    fill(&broker, &partition, 9);
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    consumer.commit(&records).unwrap();
    broker.close().unwrap();
    drop((consumer, broker, partition));
    for (path, bytes) in old {
        disk.truncate(&path, 0).unwrap();
        disk.overwrite(&path, 0, &bytes).unwrap();
    }
    disk.truncate("checkpoint", 0).unwrap();
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    // The opening sets back what lies after the end, and nothing of what a group has is taken for
    // another record.
    assert_eq!(partition.bounds().unwrap().log_end, 5);
    fill(&broker, &partition, 12);
    let mut consumer = broker.consumer("g").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
    match consumer.poll(Duration::ZERO) {
        Ok(records) => assert_eq!(records.iter().next().unwrap().offset().get(), 5),
        Err(Error::Truncated { to, .. }) => assert!(to.get() <= 9),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_group_recognises_records_that_a_power_loss_took() {
    for synced in [0, 5] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
        let partition = topic.partition(0).unwrap();
        fill(&broker, &partition, synced);
        broker.sync().unwrap();
        broker.maintain().unwrap();
        let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
        fill(&broker, &partition, 100);
        let records = consumer.poll(Duration::ZERO).unwrap();
        let stored = records.last().unwrap().position().next();
        consumer.commit(&records).unwrap();
        disk.crash(Survive::Synced);
        drop((broker, consumer));
        let broker = open(&disk).unwrap();
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        let end = partition.bounds().unwrap().log_end;
        if synced > 0 {
            assert_eq!((end.get(), partition.epoch()), (synced, 1));
        }
        fill(&broker, &partition, 200);
        // A reader: unless the partition is a new one, that never had the position's epoch or any
        // record.
        let refused = read(&broker, &stored.to_string(), OffsetReset::Fail);
        assert!(
            matches!(refused, Err(Error::Truncated { to, .. }) if to == end)
                || (synced == 0 && partition.epoch() == 0),
            "{synced}: {refused:?}"
        );
        // The group: its commit was set back, or is refused.
        let mut consumer = broker.consumer("g").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
        if let Ok(records) = consumer.poll(Duration::ZERO) {
            assert_eq!(records.iter().next().unwrap().offset(), end);
        }
    }
}

/// A copy requests the batches after its end with the epoch of the last batches that it took.
#[test]
fn a_copy_does_not_continue_after_records_that_its_source_has_lost() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let source = broker
        .create_topic("t", TopicConfig::new().durability(Durability::Os))
        .unwrap()
        .partition(0)
        .unwrap();
    let other = open(&Disk::new()).unwrap();
    let copy = other.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    fill(&broker, &source, 4);
    broker.sync().unwrap();
    fill(&broker, &source, 10);
    let shipped = source.read_raw(Offset::ZERO, 1 << 20).unwrap();
    let (end, epoch) = (copy.append_raw(&shipped).unwrap(), shipped.epoch());
    assert!(source.read_raw_in(end, epoch, 1 << 20).unwrap().is_empty());
    disk.crash(Survive::Synced);
    drop((broker, source));
    let broker = open(&disk).unwrap();
    let source = broker.topic("t").unwrap().partition(0).unwrap();
    fill(&broker, &source, 20);
    // By its offset alone the copy would continue.
    assert_eq!(source.read_raw(end, 1 << 20).unwrap().base_offset(), end);
    let refused = source.read_raw_in(end, epoch, 1 << 20);
    let Err(Error::Truncated { to, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(to, 4);
    copy.truncate_to(to).unwrap();
    let shipped = source.read_raw_in(to, epoch, 1 << 20).unwrap();
    assert_eq!(copy.append_raw(&shipped).unwrap(), 20);
    let values = |p: &Partition| {
        p.read(quipu::Start::Beginning, 1 << 20)
            .unwrap()
            .iter()
            .map(|r| r.value().unwrap().to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&copy), values(&source));
    // An epoch that the source never had.
    let refused = source.read_raw_in(Offset::new(3), 9, 1 << 20);
    assert!(matches!(refused, Err(Error::Truncated { to, .. }) if to == 3), "{refused:?}");
}

/// The range that may be lost without a trace is bounded by the checkpoint, and reported.
#[test]
fn an_opening_reports_the_partitions_whose_end_it_cannot_prove() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic =
        broker.create_topic("t", TopicConfig::new().partitions(3).durability(Durability::Sync)).unwrap();
    let of = |n| topic.partition(n).unwrap();
    fill(&broker, &of(0), 3);
    fill(&broker, &of(1), 5);
    broker.maintain().unwrap();
    fill(&broker, &of(0), 6);
    let unproven = |broker: &Broker| -> Vec<(u32, u64, u64)> {
        let list = broker.open_report().unproven.iter();
        list.map(|u| (u.partition.get(), u.checked.get(), u.end.get())).collect()
    };
    assert_eq!(unproven(&broker), []);
    // Only the process dies: the page cache had everything.
    let killed = disk.duplicate();
    killed.crash(Survive::Everything);
    assert_eq!(unproven(&open(&killed).unwrap()), []);
    // The machine is started again. A partition that was never written to has nothing to lose.
    let restarted = disk.duplicate();
    restarted.crash(Survive::Synced);
    assert_eq!(unproven(&open(&restarted).unwrap()), [(0, 3, 6), (1, 5, 5)]);
    // Synced bytes at the end are gone as well: nothing else shows it.
    let log = "topics/t/0/00000000000000000000-0.log";
    let bytes = disk.read(log).unwrap();
    let mut ends = vec![128_usize];
    while *ends.last().unwrap() < bytes.len() {
        let at = ends[ends.len() - 1];
        ends.push(at + 104 + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize);
    }
    for zeros in [true, false] {
        let lost = disk.duplicate();
        lost.crash(Survive::Synced);
        lost.truncate(log, ends[4] as u64).unwrap();
        if zeros {
            lost.truncate(log, bytes.len() as u64).unwrap();
        }
        let broker = open(&lost).unwrap();
        assert!(broker.open_report().truncated_tails.is_empty() && broker.open_report().damaged.is_empty());
        assert_eq!(unproven(&broker), [(0, 3, 4), (1, 5, 5)]);
        broker.close().unwrap();
        drop(broker);
        assert_eq!(unproven(&open(&lost).unwrap()), [], "after a clean close all is known");
    }
    // A partition that could not be closed properly, beside one that was.
    fill(&broker, &of(0), 7);
    let topic_os = broker
        .create_topic("os", TopicConfig::new().durability(Durability::Os))
        .unwrap()
        .partition(0)
        .unwrap();
    fill(&broker, &topic_os, 2);
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    broker.close().unwrap_err();
    disk.clear_faults();
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    assert!(
        broker.open_report().unproven.iter().all(|u| u.topic.as_str() == "os"),
        "{:?}",
        broker.open_report().unproven
    );
}
