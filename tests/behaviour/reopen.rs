//! After a failed sync the page cache may show older bytes of the disk. A reopen checks every batch
//! that it is about to write again and to mark as synced.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{Broker, BrokerConfig, Error, OffsetReset, Partition, Start, TopicConfig};

use crate::common::{assert_filled, files, fill, small};

type Cuts = Arc<Mutex<Vec<quipu::stats::TruncatedTail>>>;

fn open(disk: &Disk) -> (Broker, Cuts) {
    let cuts = Cuts::default();
    let noted = cuts.clone();
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_event(move |event| {
        if let Event::TailTruncated(cut) = event {
            noted.lock().unwrap().push(cut.clone());
        }
    });
    (config.on_disk(disk).unwrap(), cuts)
}

/// A partition with 3 records that were synced and `more` after them that a failed sync may have
/// lost, over several segments; and the segments with their lengths before and after those.
struct Failed {
    disk: Disk,
    broker: Broker,
    cuts: Cuts,
    partition: Partition,
    synced: u64,
}

fn failed(config: TopicConfig, more: u64) -> Failed {
    let disk = Disk::new();
    let (broker, cuts) = open(&disk);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 3);
    broker.sync().unwrap();
    let synced = partition.stats().bytes;
    fill(&broker, &partition, 3 + more);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    Failed { disk, broker, cuts, partition, synced }
}

fn first(disk: &Disk) -> PathBuf {
    files(disk, "topics/t/0", ".log").remove(0)
}

#[test]
fn a_batch_that_the_medium_no_longer_shows_ends_the_log_and_is_reported() {
    for how in ["zeros", "garbage", "one bit of a body", "an older batch"] {
        let Failed { disk, broker, cuts, partition, synced } = failed(TopicConfig::new(), 3);
        let position = partition.last_n(1).unwrap().last().unwrap().position().next();
        let file = first(&disk);
        let bytes = disk.read(&file).unwrap();
        let len = bytes.len() as u64;
        match how {
            "zeros" => disk.overwrite(&file, synced, &vec![0; (len - synced) as usize]).unwrap(),
            "garbage" => disk.overwrite(&file, synced, &vec![7; (len - synced) as usize]).unwrap(),
            "one bit of a body" => {
                disk.overwrite(&file, synced + 110, &[bytes[synced as usize + 110] ^ 1]).unwrap()
            }
            _ => disk.overwrite(&file, synced, &bytes[128..(128 + len - synced) as usize]).unwrap(),
        }
        let mut reader =
            broker.reader_at(std::slice::from_ref(&position)).unwrap().offset_reset(OffsetReset::Fail);
        partition.reopen().unwrap();
        let bounds = partition.bounds().unwrap();
        assert_eq!((bounds.log_end.get(), bounds.durable_end.get(), partition.epoch()), (3, 3, 1), "{how}");
        {
            let cuts = cuts.lock().unwrap();
            let [cut] = &cuts[..] else { panic!("{how}: {cuts:?}") };
            assert_eq!((cut.from.get(), cut.to.unwrap().get(), cut.position), (3, 6, synced), "{how}");
            assert!(
                cut.file.ends_with(&file) && cut.reason.contains("not the written bytes"),
                "{how}: {cut:?}"
            );
        }
        for found in [
            reader.poll(Duration::ZERO),
            broker.reader_at(&[position]).unwrap().offset_reset(OffsetReset::Fail).poll(Duration::ZERO),
        ] {
            assert!(matches!(found, Err(Error::Truncated { to, .. }) if to == 3), "{how}: {found:?}");
        }
        // Appends continue, and everything marked synced is durable.
        fill(&broker, &partition, 8);
        broker.sync().unwrap();
        disk.crash(Survive::Synced);
        let (broker, _) = open(&disk);
        assert!(
            broker.open_report().damaged.is_empty() && broker.open_report().truncated_tails.is_empty(),
            "{how}"
        );
        assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 8, how);
    }
}

#[test]
fn only_lost_batches_are_truncated_at_any_position() {
    // Whole segments may be unsynced, and the loss in any of them.
    let segments = {
        let failed = failed(small(), 30);
        failed.partition.segments().len()
    };
    assert!(segments > 4, "{segments}");
    for lost in 1..segments - 1 {
        let Failed { disk, broker, cuts, partition, .. } = failed(small(), 30);
        let bases: Vec<u64> = partition.segments().iter().map(|s| s.base_offset.get()).collect();
        let file = files(&disk, "topics/t/0", ".log").remove(lost);
        let len = disk.read(&file).unwrap().len() as u64;
        // The last byte of the segment's last batch.
        let byte = *disk.read(&file).unwrap().last().unwrap();
        disk.overwrite(&file, len - 1, &[byte ^ 0x80]).unwrap();
        partition.reopen().unwrap();
        let end = bases[lost + 1] - 1;
        assert_eq!(partition.bounds().unwrap().log_end.get(), end, "segment {lost}");
        assert_eq!(
            cuts.lock().unwrap().iter().map(|c| (c.from.get(), c.to.unwrap().get())).collect::<Vec<_>>(),
            [(end, 33)]
        );
        assert_filled(&partition, end, "before it");
        fill(&broker, &partition, 40);
        assert_filled(&partition, 40, "and after");
        broker.sync().unwrap();
        disk.crash(Survive::Synced);
        assert_filled(&open(&disk).0.topic("t").unwrap().partition(0).unwrap(), 40, "after a power loss");
    }
}

#[test]
fn a_reopen_that_finds_every_batch_truncates_nothing_visible() {
    for config in [TopicConfig::new(), small()] {
        let Failed { disk, broker, cuts, partition, .. } = failed(config, 30);
        partition.reopen().unwrap();
        assert_eq!((partition.bounds().unwrap().durable_end.get(), partition.epoch()), (33, 1));
        assert!(cuts.lock().unwrap().is_empty());
        disk.crash(Survive::Synced);
        drop((broker, partition));
        let (broker, _) = open(&disk);
        assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 33, "all of it was written again");
    }
}

#[test]
fn a_header_that_was_on_the_medium_and_is_damaged_keeps_the_partition_poisoned() {
    let Failed { disk, broker: _broker, partition, .. } = failed(TopicConfig::new(), 3);
    let before = disk.read(first(&disk)).unwrap();
    disk.overwrite(first(&disk), 30, &[before[30] ^ 1]).unwrap();
    let refused = partition.reopen();
    assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
    assert!(partition.stats().poisoned.is_some());
    disk.overwrite(first(&disk), 30, &[before[30]]).unwrap();
    partition.reopen().unwrap();
    assert_eq!(partition.read(Start::Beginning, 1 << 20).unwrap().len(), 6);
}
