//! Tests of a log without a broker: batches made by hand, appended, rolled, truncated, recovered
//! and read with a cursor.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::create::find_manifest;
use super::cursor::Cursor;
use super::recovery::Note;
use super::*;
use crate::config::{BrokerConfig, Cleanup, Retention, TopicConfig};
use crate::engine::Work;
use crate::error::IoAction;
use crate::format::batch::{Attributes, BatchHeader, HEADER_BYTES, Secret, body_crc};
use crate::format::body::{RecordFields, encode};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::segment::SegmentHeader;
use crate::segment::builder::SealedBatch;
use crate::stats::OpenReport;
use crate::testing::{Disk, ManualClock, Op, Survive};
use crate::transaction::journal::Journal;
use crate::types::{PartitionId, Timestamp, TopicId, TopicName};

type NoHeaders = (Cow<'static, str>, Option<Cow<'static, [u8]>>);

fn context(disk: &Disk) -> Arc<Context> {
    let config = BrokerConfig::new().clock(ManualClock::new());
    Arc::new(Context::new(disk.storage(), &config, 1))
}

fn identity() -> Identity {
    Identity {
        topic: TopicName::new("t").unwrap(),
        topic_id: TopicId([7; 16]),
        partition: PartitionId::new(3),
        secret: Secret::default(),
        learnt: crate::sync::OnceLock::new(),
    }
}

fn config(durability: Durability) -> TopicConfig {
    TopicConfig::new().segment_bytes(1 << 10).index_interval_bytes(1).durability(durability)
}

fn settings(config: TopicConfig) -> Arc<LogSettings> {
    LogSettings::new(config, Durability::Os)
}

fn create(disk: &Disk, durability: Durability) -> Arc<Log> {
    let ctx = context(disk);
    let mut report = OpenReport::default();
    let log = open::open(
        journal(&ctx),
        identity(),
        PathBuf::from("t/p"),
        settings(config(durability)),
        Note::default(),
        Ok(None),
        &mut report,
    );
    create::make_files(&log, &mut log.writer.lock(), &settings(config(durability))).unwrap();
    log
}

fn open(disk: &Disk, entry: Option<(&CheckpointEntry, bool)>) -> (Arc<Log>, OpenReport) {
    let mut report = OpenReport::default();
    let (entry, clean) = entry.map_or((None, false), |(entry, clean)| (Some(entry), clean));
    let note = Note { entry, clean, ..Note::default() };
    let (ctx, dir) = (context(disk), PathBuf::from("t/p"));
    let found = find_manifest(&ctx, &identity(), &dir, true);
    let log = open::open(
        journal(&ctx),
        identity(),
        dir,
        settings(config(Durability::Os)),
        note,
        found,
        &mut report,
    );
    (log, report)
}

fn journal(ctx: &Arc<Context>) -> Arc<Journal> {
    Arc::new(Journal::new(ctx.clone()))
}

fn batch(log: &Log, values: &[String]) -> SealedBatch {
    batch_of(log, None, values)
}

fn batch_of(log: &Log, key: Option<&str>, values: &[String]) -> SealedBatch {
    let mut stored = log.context().pool.take(1 << 12);
    stored.resize(HEADER_BYTES, 0);
    for value in values {
        let fields: RecordFields<'_, NoHeaders> = RecordFields {
            offset_delta: None,
            timestamp_delta: 0,
            key: key.map(str::as_bytes),
            value: Some(value.as_bytes()),
            headers: &[],
        };
        encode(&fields, &mut stored);
    }
    let len = (stored.len() - HEADER_BYTES) as u32;
    let header = BatchHeader {
        body_len: len,
        base_offset: Offset::ZERO,
        last_offset_delta: values.len() as u32 - 1,
        count: values.len() as u32,
        base_timestamp: Timestamp::from_millis(5),
        max_timestamp: Timestamp::from_millis(5),
        producer_id: 0,
        base_sequence: 0,
        producer_epoch: 0,
        codec: 0,
        table: 0,
        attributes: Attributes::default(),
        uncompressed_len: len,
        transaction_id: 0,
        synced_upto: Offset::ZERO,
        extra: 0,
        log_epoch: 0,
        body_crc: body_crc(&stored[HEADER_BYTES..]),
    };
    SealedBatch { header, stored, raw: None, keyless: key.is_none().then_some(0) }
}

/// Appends batches of one to three records until there are `to` records.
fn fill(log: &Arc<Log>, to: u64) {
    while log.bounds().log_end < Offset::new(to) {
        let from = log.bounds().log_end.get();
        let count = (from % 3 + 1).min(to - from);
        let values: Vec<_> = (from..from + count).map(value).collect();
        log.append(&mut batch(log, &values)).unwrap();
    }
}

fn value(i: u64) -> String {
    format!("value {i} {}", "x".repeat(i as usize % 90))
}

/// Reads from `from` on and checks each value. Returns the offset after the last one.
fn read(log: &Arc<Log>, from: u64) -> Result<u64> {
    let mut cursor = Cursor::new(log.clone(), Offset::new(from));
    let mut next = from;
    while let Some(batch) = cursor.next_batch()? {
        let base = batch.header.base_offset.get();
        for record in crate::format::body::RawRecords::new(batch.records.as_slice(), batch.header.count) {
            let record = record.unwrap();
            let offset = base + u64::from(record.offset_delta);
            if offset >= next {
                assert_eq!(offset, next);
                assert_eq!(record.value.unwrap(), value(offset).as_bytes());
                next += 1;
            }
        }
    }
    Ok(next)
}

#[test]
fn every_offset_is_a_place_to_start_from() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    log.waiters().add(Arc::default());
    fill(&log, 200);
    assert!(log.segments().len() > 5, "rolled");
    assert!(log.tail.get(Offset::new(199)).is_some());
    for pass in ["with the tail cache", "from the files"] {
        for from in 0..=200 {
            assert_eq!(read(&log, from).unwrap(), 200, "{pass}, from {from}");
        }
        log.tail.clear(&log.ctx);
    }
    assert!(matches!(read(&log, 201), Err(Error::OffsetOutOfRange { .. })));
}

#[test]
fn the_tail_cache_serves_readers_at_the_end_and_skips_no_batch() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    let reader = Arc::new(crate::engine::Interest::default());
    for to in [20, 40, 60, 80] {
        match to % 40 {
            20 => log.waiters().add(reader.clone()),
            _ => log.waiters().remove(&reader),
        }
        fill(&log, to);
        assert_eq!(log.tail.get(Offset::new(to - 1)).is_some(), to % 40 == 20);
        for from in 0..to {
            assert_eq!(read(&log, from).unwrap(), to, "from {from}");
        }
    }
}

#[test]
fn a_clean_close_is_opened_without_reading_a_body() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    fill(&log, 100);
    let entry = close::close(&log).unwrap().unwrap();
    assert_eq!(entry.end_offset, 100);
    let reads = disk.ops_of(Op::Read);
    let (log, report) = open(&disk, Some((&entry, true)));
    assert!(report.recovered.is_empty());
    assert!(disk.ops_of(Op::Read) - reads <= 2, "the manifest, and no segment");
    assert_eq!(read(&log, 0).unwrap(), 100);
    fill(&log, 150);
    assert_eq!(read(&log, 42).unwrap(), 150);
}

#[test]
fn an_unclean_stop_is_scanned_from_the_checkpoint() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    fill(&log, 100);
    log.sync().unwrap();
    let entry = maintenance::checkpoint(&log).unwrap();
    fill(&log, 130);
    drop(log);
    disk.crash(Survive::Everything);
    let (log, report) = open(&disk, Some((&entry, false)));
    assert_eq!((report.recovered[0].from, report.recovered[0].to), (Offset::new(100), Offset::new(130)));
    assert!(report.truncated_tails.is_empty());
    assert_eq!(read(&log, 0).unwrap(), 130);
    // All of it is durable now.
    disk.crash(Survive::Synced);
    let (log, _) = open(&disk, None);
    assert_eq!(read(&log, 0).unwrap(), 130);
}

#[test]
fn a_poisoned_log_reopens_at_its_visible_end_in_the_next_epoch() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Sync);
    fill(&log, 50);
    log.sync().unwrap();
    fill(&log, 60);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    assert!(matches!(log.sync(), Err(Error::Io { action: IoAction::Sync, .. })));
    assert!(matches!(log.sync(), Err(Error::Io { .. })), "never retried");
    assert!(matches!(log.append(&mut batch(&log, &[value(60)])), Err(Error::Poisoned { .. })));
    assert_eq!(read(&log, 0).unwrap(), 50, "reading goes on");
    reopen::reopen(&log).unwrap();
    assert_eq!((log.epoch(), log.bounds().log_end), (1, Offset::new(50)));
    assert!(matches!(log.check_position(Offset::new(55), 0), Err(Error::Truncated { .. })));
    log.check_position(Offset::new(50), 0).unwrap();
    fill(&log, 70);
    log.sync().unwrap();
    assert_eq!(read(&log, 0).unwrap(), 70);
    disk.crash(Survive::Synced);
    let (log, report) = open(&disk, None);
    assert!(report.truncated_tails.is_empty() && report.damaged.is_empty());
    assert_eq!((read(&log, 0).unwrap(), log.epoch()), (70, 1));
}

#[test]
fn a_full_disk_leaves_the_log_unchanged() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    fill(&log, 10);
    for nth in 1..=3 {
        disk.fail(Op::Write, nth, ErrorKind::StorageFull);
        let mut refused = 0;
        for _ in 0..8 {
            let at = log.bounds().log_end.get();
            match log.append(&mut batch(&log, &[value(at)])) {
                Ok(_) => {}
                Err(Error::DiskFull { .. }) => refused += 1,
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(refused, 1, "write {nth}");
    }
    let end = log.bounds().log_end.get();
    assert_eq!(read(&log, 0).unwrap(), end);
    disk.crash(Survive::Everything);
    let (log, report) = open(&disk, None);
    assert!(report.truncated_tails.is_empty(), "{:?}", report.truncated_tails);
    assert_eq!(read(&log, 0).unwrap(), end);
}

#[test]
fn invisible_records_are_not_deleted() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Sync);
    log.set_settings(&settings(config(Durability::Sync).retention(Retention::for_bytes(0))));
    fill(&log, 60);
    assert!(log.segments().len() > 3 && log.visible_end() == 0);
    retention::delete_expired(&log, Offset::new(u64::MAX));
    assert_eq!(log.log_start(), 0);
    log.sync().unwrap();
    fill(&log, 61);
    retention::delete_expired(&log, Offset::new(u64::MAX));
    let bounds = log.bounds();
    assert!(bounds.log_start > Offset::new(40) && bounds.log_start <= Offset::new(60), "{bounds:?}");
    assert_eq!((bounds.visible_end, bounds.log_end), (Offset::new(60), Offset::new(61)));
    assert_eq!(log.segments().len(), 1, "the active segment holds what nobody can see yet");
    log.sync().unwrap();
    retention::delete_expired(&log, Offset::new(u64::MAX));
    assert_eq!((log.log_start(), log.bounds().log_end), (Offset::new(61), Offset::new(61)));
}

#[test]
fn a_segment_started_after_the_last_sync_is_durable_after_a_close() {
    for synced in [true, false] {
        let disk = Disk::new();
        let log = create(&disk, Durability::Os);
        fill(&log, 10);
        if synced {
            log.sync().unwrap();
        }
        roll::roll(&log, &mut log.writer.lock(), &settings(config(Durability::Os))).unwrap();
        let entry = close::close(&log).unwrap().unwrap();
        disk.crash(Survive::Synced);
        let (log, report) = open(&disk, Some((&entry, true)));
        assert!(report.damaged.is_empty(), "{:?}", report.damaged);
        fill(&log, 12);
        assert_eq!(read(&log, 0).unwrap(), 12);
    }
}

#[test]
fn a_sync_after_the_deletion_of_its_segment_does_nothing() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    fill(&log, 40);
    // The state of a leader's sync that took the list of segments before.
    let segments = log.segments();
    retention::delete_records(&log, Offset::new(35)).unwrap();
    assert!(log.segments().len() < segments.len());
    segments[0].sync(&log.ctx).unwrap();
    // An index that is written late is removed too.
    let (size, end) = (segments[0].size(), segments[0].end().unwrap());
    segments[0].save_index(&log.ctx, &log.identity, size, end);
    let left = disk.files().into_iter().filter(|(path, _)| path.starts_with("t/p")).count();
    assert_eq!(left, log.segments().len() + 1, "{:?}", disk.files());
}

#[test]
fn without_a_generation_left_no_file_is_rewritten_and_no_record_is_lost() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    fill(&log, 60);
    log.work();
    log.set_settings(&settings(config(Durability::Os).cleanup(Cleanup::Compact)));
    let second = log.segments()[1].base;
    log.manifest.set_generation(u32::MAX);
    assert!(matches!(compaction::compact(&log), Err(Error::GenerationsExhausted { .. })));
    log.set_settings(&settings(config(Durability::Os)));
    assert!(matches!(truncate::truncate_to(&log, Offset::ZERO), Err(Error::GenerationsExhausted { .. })));
    assert!(matches!(truncate::reset_to(&log, second), Err(Error::GenerationsExhausted { .. })));
    assert_eq!(read(&log, 0).unwrap(), 60);
    log.manifest.set_generation(u32::MAX - 1);
    truncate::truncate_to(&log, second).unwrap();
    fill(&log, 60);
    assert_eq!(read(&log, 0).unwrap(), 60);
    assert!(matches!(truncate::truncate_to(&log, second), Err(Error::GenerationsExhausted { .. })));
    // If no file has the base offset, no generation is needed.
    truncate::truncate_to(&log, Offset::new(2)).unwrap();
    close::close(&log).unwrap();
    let (log, report) = open(&disk, None);
    assert!(report.damaged.is_empty(), "{report:?}");
    assert_eq!(read(&log, 0).unwrap(), 2);
}

#[test]
fn reading_when_tombstones_expire_calls_tick() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    let compacted = settings(config(Durability::Os).cleanup(Cleanup::Compact).segment_bytes(1 << 18));
    log.set_settings(&compacted);
    for n in 0..10_000 {
        let mut one = batch_of(&log, Some(&n.to_string()), &["x".repeat(40)]);
        log.append(&mut one).unwrap();
    }
    log.work();
    compaction::compact(&log).unwrap().unwrap();
    close::close(&log).unwrap();
    let (log, _) = open(&disk, None);
    log.set_settings(&compacted);
    let ticks = std::cell::Cell::new(0);
    let wants = || compaction::is_wanted(&log, &|| ticks.set(ticks.get() + 1));
    assert!(wants().is_none());
    assert!(ticks.get() > 0);
    // It is known from then on, unless the reading was stopped.
    ticks.set(0);
    assert!(wants().is_none());
    assert_eq!(ticks.get(), 0);
    let (log, _) = open(&disk, None);
    log.set_settings(&compacted);
    log.context().work.stop();
    let (before, counted) = (disk.ops(), std::cell::Cell::new(0));
    assert!(compaction::is_wanted(&log, &|| counted.set(counted.get() + 1)).is_none());
    assert!(disk.ops() - before < 20, "it ends with the broker");
}

/// As many offsets as a batch may own: compaction may leave one of them a record.
const SPAN: u64 = 1 << 25;

fn sparse(log: &Arc<Log>, key: &str) -> SealedBatch {
    let mut batch = batch_of(log, Some(key), &["v".to_string()]);
    batch.header.last_offset_delta = SPAN as u32 - 1;
    batch
}

/// The base offsets of the segments, in spans.
fn bases(log: &Log) -> Vec<u64> {
    log.segments().iter().map(|segment| segment.base.get() / SPAN).collect()
}

#[test]
fn a_segment_spans_no_more_offsets_than_31_bits_tell_apart() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    log.set_settings(&settings(config(Durability::Os).segment_bytes(1 << 20)));
    for number in 0..130 {
        log.append(&mut sparse(&log, &number.to_string())).unwrap();
    }
    assert_eq!(bases(&log), [0, 64, 128], "64 batches end at 2^31");
    log.tail.clear(&log.ctx);
    let mut cursor = Cursor::new(log.clone(), Offset::new(64 * SPAN - 1));
    for base in [63, 64] {
        assert_eq!(cursor.next_batch().unwrap().unwrap().header.base_offset, base * SPAN);
    }
}

#[test]
fn compacted_segments_span_no_more_offsets_either() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    let config = config(Durability::Os).segment_bytes(1 << 20);
    log.set_settings(&settings(config.cleanup(Cleanup::Compact)));
    // All of them would fit one by their bytes. The first is replaced.
    for number in 0..130 {
        log.append(&mut sparse(&log, &if number == 70 { 0 } else { number }.to_string())).unwrap();
    }
    log.work();
    assert_eq!(bases(&log), [0, 64, 128]);
    compaction::compact(&log).unwrap().unwrap();
    assert_eq!(bases(&log), [1, 65, 128], "64 batches each, from another one on");
    for segment in log.segments().iter().filter(|segment| segment.is_sealed()) {
        assert!(segment.end().unwrap().since(segment.base) <= 1 << 31);
    }
    let mut cursor = Cursor::new(log.clone(), Offset::ZERO);
    let mut found = Vec::new();
    while let Some(batch) = cursor.next_batch().unwrap() {
        found.push(batch.header.base_offset.get() / SPAN);
    }
    assert!(found.into_iter().eq(1..130));
}

#[test]
fn a_truncation_in_a_gap_drops_the_batches_after_it() {
    use crate::records::tests::{append, value as made};
    let offsets = |log: &Arc<Log>| -> Vec<u64> {
        let (mut cursor, mut offsets) = (Cursor::new(log.clone(), log.log_start()), Vec::new());
        while let Some(batch) = cursor.next_batch().unwrap() {
            let records = crate::format::body::RawRecords::new(batch.records.as_slice(), batch.header.count);
            let base = batch.header.base_offset;
            offsets.extend(records.map(|record| base.plus(u64::from(record.unwrap().offset_delta)).get()));
        }
        offsets
    };
    for (to, left) in [
        (46, vec![40, 43, 45]),
        (45, vec![40, 43]),
        (44, vec![40, 43]),
        (43, vec![40]),
        (42, vec![40]),
        (41, vec![40]),
        (40, vec![]),
    ] {
        let disk = Disk::new();
        let open = || BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
        let log_of = |broker: &crate::Broker| {
            broker.ensure_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap().log().clone()
        };
        let broker = open();
        let log = log_of(&broker);
        truncate::reset_to(&log, Offset::new(40)).unwrap();
        // 40 and 43 in one batch, then one of which only the second record is left.
        append(&log, 4, &[made(0, b"40"), made(3, b"43")]);
        append(&log, 3, &[made(1, b"45")]);
        assert_eq!(offsets(&log), [40, 43, 45]);
        truncate::truncate_to(&log, Offset::new(to)).unwrap();
        assert_eq!(offsets(&log), left, "{to}");
        assert_eq!(log.bounds().log_end, Offset::new(to));
        let latest = lookup::find_latest(&log).unwrap().map(|(offset, _)| offset.get());
        assert_eq!(latest.is_some(), !left.is_empty(), "{to}");
        broker.close().unwrap();
        drop((broker, log));
        let broker = open();
        assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report().damaged);
        let log = log_of(&broker);
        assert_eq!(offsets(&log), left, "{to}");
        assert_eq!(log.bounds().log_end, Offset::new(to));
        append(&log, 1, &[made(0, b"new")]);
        assert_eq!(offsets(&log), [&left[..], &[to]].concat(), "{to}");
    }
}

#[test]
fn the_tail_cache_returns_no_truncated_batch() {
    use crate::records::tests::{append, value as made};
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    log.waiters().add(Arc::default());
    let three = |text: &[u8]| append(&log, 3, &[made(0, text), made(1, text), made(2, text)]);
    three(b"first");
    three(b"second");
    let mut reader = Cursor::new(log.clone(), Offset::ZERO);
    reader.next_batch().unwrap().unwrap();
    assert!(log.tail.get(Offset::new(5)).is_some());
    truncate::truncate_to(&log, Offset::new(4)).unwrap();
    assert!(log.tail.get(Offset::new(3)).is_none());
    let rest = reader.next_batch().unwrap().unwrap();
    assert_eq!((rest.header.base_offset.get(), rest.header.end_offset().get(), rest.header.count), (3, 4, 1));
    three(b"third");
    assert!(log.tail.get(Offset::new(3)).is_none() && log.tail.get(Offset::new(4)).is_some());
    let mut reader = Cursor::new(log.clone(), Offset::ZERO);
    for end in [3, 4, 7] {
        assert_eq!(reader.next_batch().unwrap().unwrap().header.end_offset(), end);
    }
    truncate::reset_to(&log, Offset::new(5)).unwrap();
    assert!(log.tail.get(Offset::new(5)).is_none());
    three(b"fourth");
    let found = Cursor::new(log.clone(), Offset::new(5)).next_batch().unwrap().unwrap();
    assert_eq!(found.header.base_offset, 5);
    assert!(found.records.as_slice().windows(6).any(|bytes| bytes == b"fourth"));
}

/// A file of another history of the same log does not take its place.
#[test]
fn a_segment_that_was_started_must_follow_the_batch_before_it() {
    let disk = Disk::new();
    let log = create(&disk, Durability::Os);
    fill(&log, 40);
    let segment = log.segments().last().unwrap().clone();
    let header = SegmentHeader::decode(&disk.read(&segment.path).unwrap()).unwrap();
    assert_eq!(header.prev_end, header.base_offset);
    assert_eq!(segment.mismatch(&header, log.identity()), None);
    for other in [
        SegmentHeader { prev_crc: header.prev_crc ^ 1, ..header },
        SegmentHeader { prev_end: Offset::ZERO, ..header },
    ] {
        let found = segment.mismatch(&other, log.identity());
        assert_eq!(found, Some("the segment does not follow the one before it"));
    }
}
