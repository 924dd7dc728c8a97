//! Replication by raw batches: a partition becomes a copy of another, batch by batch, and damaged,
//! misplaced or forged bytes are refused.

use std::io::ErrorKind;
use std::ops::ControlFlow;

use proptest::prelude::*;
use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Broker, Compression, Durability, Error, Offset, Partition, RawBatches, Record, Timestamp, TimestampType,
    TopicConfig,
};

use crate::common::{Random, assert_filled, at, dump, fill, open, read, small, value};

const ENVELOPE: usize = 92;
const HEADER: usize = 104;

fn partition(broker: &Broker, topic: &str, config: TopicConfig) -> Partition {
    broker.ensure_topic(topic, config).unwrap().partition(0).unwrap()
}

fn offset(offset: u64) -> Offset {
    Offset::new(offset)
}

fn end(partition: &Partition) -> u64 {
    partition.bounds().unwrap().log_end.get()
}

/// Over a transport that knows nothing but bytes.
fn carried(batches: &RawBatches) -> RawBatches {
    let received = RawBatches::from_bytes(batches.as_bytes()).unwrap();
    assert_eq!(&received, batches);
    received
}

/// Ships whatever the copy lacks, in steps of about `max_bytes`. Returns the number of
/// steps.
fn replicate(from: &Partition, to: &Partition, max_bytes: usize) -> usize {
    for steps in 0.. {
        let batches = carried(&from.read_raw(to.bounds().unwrap().log_end, max_bytes).unwrap());
        if batches.is_empty() {
            return steps;
        }
        assert_eq!(to.append_raw(&batches).unwrap(), batches.end_offset());
    }
    unreachable!()
}

/// Sends records as one batch.
fn send_batch(broker: &Broker, to: &Partition, values: impl IntoIterator<Item = String>) {
    let records: Vec<_> = values.into_iter().map(Record::new).collect();
    broker.producer().send_all(to, records).unwrap().wait().unwrap();
}

/// Everything that a reader sees of a partition.
fn everything(partition: &Partition) -> Vec<String> {
    let (mut all, mut from) = (Vec::new(), partition.bounds().unwrap().log_start.get());
    loop {
        let records = partition.read(at(from), 1 << 20).unwrap();
        let Some(last) = records.last() else { return all };
        from = last.offset().get() + 1;
        all.extend(records.iter().map(|r| {
            let headers: Vec<_> = r.headers().map(|(n, v)| (n.to_string(), v.map(<[u8]>::to_vec))).collect();
            format!("{} {} {:?} {:?} {headers:?}", r.offset(), r.timestamp(), r.key(), r.value())
        }));
    }
}

/// Raw batches of any content with matching checksums, as a hostile sender could make them.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = |parts: &[&[u8]]| {
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    };
    let envelope = crc(&[&bytes[..ENVELOPE - 4]]);
    bytes[ENVELOPE - 4..ENVELOPE].copy_from_slice(&envelope.to_le_bytes());
    // The seed: the raw batches' secret, the source's topic id and partition.
    let seed = [&bytes[72..88], &bytes[24..40], &bytes[20..24]].concat();
    let mut at = ENVELOPE;
    while at + HEADER <= bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        if let Some(body) = bytes.get(at + HEADER..(at + HEADER).saturating_add(len)) {
            let body = crc(&[body]);
            bytes[at + 96..at + 100].copy_from_slice(&body.to_le_bytes());
        }
        let header = crc(&[&seed, &bytes[at..at + 100]]);
        bytes[at + 100..at + 104].copy_from_slice(&header.to_le_bytes());
        at = (at + HEADER).saturating_add(len);
    }
    bytes
}

#[test]
fn a_copy_is_equal_in_records_offsets_and_stored_bodies() {
    for compression in [Compression::None, Compression::Lz4] {
        for max_bytes in [1, 1000, 1 << 20] {
            let (here, there) = (open(&Disk::new()).unwrap(), open(&Disk::new()).unwrap());
            let source = partition(&here, "orders", small().compression(compression));
            let copy = partition(&there, "copy-of-orders", small());
            let producer = here.producer();
            for i in 0..60u64 {
                let text = format!("value {i} {}", "abc".repeat(i as usize % 30));
                let record = Record::new(text).key(format!("key {}", i % 3)).header("kind", "test");
                producer.send(&source, record.null_header("none")).unwrap().wait().unwrap();
            }
            producer.send(&source, Record::tombstone("key 1")).unwrap().wait().unwrap();
            assert!(source.segments().len() > 2, "several segments");

            let steps = replicate(&source, &copy, max_bytes);
            assert_eq!(steps == 1, max_bytes == 1 << 20, "{steps} steps");
            assert_eq!(everything(&copy), everything(&source));
            assert_eq!(copy.bounds().unwrap(), source.bounds().unwrap());
            assert_eq!(copy.stats().bytes, source.stats().bytes, "stored as they were");
            assert!(copy.segments().len() > 2, "the copy rolls by itself");

            // The copy can be replicated again, and takes appends of its own.
            let next = partition(&there, "copy-of-copy", small());
            replicate(&copy, &next, max_bytes);
            assert_eq!(everything(&next), everything(&source));
            send_batch(&there, &copy, ["promoted".into()]);
            assert_eq!(copy.last_n(1).unwrap().last().unwrap().value(), Some(&b"promoted"[..]));
        }
    }
}

#[test]
fn raw_batches_are_whole_and_report_offsets_partition_and_epoch() {
    let broker = open(&Disk::new()).unwrap();
    let source = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap().partition(1).unwrap();
    send_batch(&broker, &source, (0..3).map(value));
    send_batch(&broker, &source, (3..5).map(value));
    // Whole batches: the one that holds offset 1 begins before it.
    let one = source.read_raw(offset(1), 1).unwrap();
    assert_eq!((one.base_offset().get(), one.end_offset().get(), one.len()), (0, 3, 1));
    let all = source.read_raw(offset(0), usize::MAX).unwrap();
    assert_eq!((all.base_offset().get(), all.end_offset().get(), all.len()), (0, 5, 2));
    assert_eq!((all.partition(), all.epoch()), (source.id(), 0));
    let second = source.read_raw(offset(3), 1 << 20).unwrap();
    assert_eq!(one.as_bytes().len() + second.as_bytes().len() - ENVELOPE, all.as_bytes().len());
    // A limit that the bytes meet exactly.
    let exact = all.as_bytes().len() - ENVELOPE;
    assert_eq!(source.read_raw(offset(0), exact).unwrap().len(), 2);
    assert_eq!(source.read_raw(offset(0), exact - 1).unwrap().len(), 1);
    let none = source.read_raw(offset(5), 1 << 20).unwrap();
    assert!(none.is_empty());
    assert_eq!((none.base_offset().get(), none.end_offset().get(), none.len()), (5, 5, 0));
    assert_eq!(none.as_bytes().len(), ENVELOPE);
    assert_eq!(all.clone().into_bytes(), all.as_bytes());
    assert!(format!("{all:?}").contains("len: 2"), "{all:?}");
    for outside in [6, u64::MAX] {
        assert!(matches!(source.read_raw(offset(outside), 1), Err(Error::OffsetOutOfRange { .. })));
    }
    source.delete_records(offset(4)).unwrap();
    assert!(matches!(source.read_raw(offset(3), 1), Err(Error::OffsetOutOfRange { .. })));
    assert_eq!(source.read_raw(offset(4), 1).unwrap().base_offset(), 3, "the log starts within a batch");
}

#[test]
fn any_range_of_batches_may_be_replicated_again() {
    let broker = open(&Disk::new()).unwrap();
    let (source, copy) = (partition(&broker, "a", small()), partition(&broker, "b", small()));
    fill(&broker, &source, 30);
    for until in 0..=30 {
        for from in 0..until {
            let first = source.read_raw(offset(from), 1).unwrap();
            if from == end(&copy) {
                copy.append_raw(&first).unwrap();
            }
        }
        // All windows that end here: skipped in part, or wholly.
        for from in 0..until {
            let window = source.read_raw(offset(from), 700).unwrap();
            let expected = end(&copy).max(window.end_offset().get());
            assert_eq!(copy.append_raw(&window).unwrap(), expected);
        }
        assert_filled(&copy, end(&copy), "windows");
    }
    let appended = copy.stats().batches_appended;
    for from in 0..=30 {
        assert_eq!(copy.append_raw(&source.read_raw(offset(from), 1 << 20).unwrap()).unwrap(), 30);
    }
    assert_eq!((copy.stats().batches_appended, appended), (30, 30));
}

#[test]
fn a_gap_and_a_partial_overlap_are_refused() {
    let broker = open(&Disk::new()).unwrap();
    let (source, copy) = (partition(&broker, "a", small()), partition(&broker, "b", small()));
    send_batch(&broker, &source, (0..3).map(value));
    send_batch(&broker, &source, (3..6).map(value));
    let conflict = |from: u64, ends: u64| {
        let batches = source.read_raw(offset(from), 1 << 20).unwrap();
        match copy.append_raw(&batches) {
            Err(Error::OffsetConflict { end, .. }) => assert_eq!(end, ends),
            other => panic!("{other:?}"),
        }
        assert_eq!(end(&copy), ends);
    };
    conflict(3, 0);
    conflict(6, 0); // no batches at all: the sender takes the copy for further than it is
    send_batch(&broker, &copy, (0..2).map(value));
    conflict(0, 2);
    conflict(3, 2);
    send_batch(&broker, &copy, (2..4).map(value));
    conflict(3, 4);
    assert_eq!(read(&copy).0, (0..4).map(value).collect::<Vec<_>>());

    // The source's log start has moved: there is no beginning to begin with.
    let late = partition(&broker, "late", small());
    source.delete_records(offset(3)).unwrap();
    let batches = source.read_raw(offset(3), 1 << 20).unwrap();
    assert!(matches!(late.append_raw(&batches), Err(Error::OffsetConflict { end, .. }) if end == 0));
}

#[test]
fn a_diverged_copy_is_detected() {
    let broker = open(&Disk::new()).unwrap();
    let (source, copy) = (partition(&broker, "a", small()), partition(&broker, "b", small()));
    fill(&broker, &source, 4);
    fill(&broker, &copy, 2);
    send_batch(&broker, &copy, ["somebody else's".into()]);
    let refused = copy.append_raw(&source.read_raw(offset(0), 1 << 20).unwrap());
    assert!(matches!(refused, Err(Error::Diverged { offset, .. }) if offset == 2), "{refused:?}");
    assert_eq!(end(&copy), 3);
    // Deleted records cannot be compared any more, and are skipped.
    copy.delete_records(offset(3)).unwrap();
    assert_eq!(copy.append_raw(&source.read_raw(offset(0), 1 << 20).unwrap()).unwrap(), 4);
}

/// Raw batches: one compressed batch and two others.
fn small_raw_batches() -> RawBatches {
    let broker = open(&Disk::new()).unwrap();
    let source = partition(&broker, "t", TopicConfig::new().compression(Compression::Lz4));
    send_batch(&broker, &source, ["a".repeat(100), "a".repeat(50)]);
    broker.producer().send(&source, Record::new("v").key("k").header("h", "x")).unwrap().wait().unwrap();
    broker.producer().send(&source, Record::tombstone("k")).unwrap().wait().unwrap();
    source.read_raw(offset(0), 1 << 20).unwrap()
}

#[test]
fn every_flipped_bit_and_every_short_transfer_is_refused() {
    let raw = small_raw_batches().into_bytes();
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = RawBatches::from_bytes(flipped);
        assert!(matches!(refused, Err(Error::InvalidBatches { .. })), "bit {bit}: {refused:?}");
    }
    for len in 0..raw.len() {
        assert!(RawBatches::from_bytes(&raw[..len]).is_err(), "{len} bytes");
    }
    assert!(RawBatches::from_bytes([&raw[..], &[0]].concat()).is_err(), "a byte too many");
    assert!(RawBatches::from_bytes([&raw[..], &raw[..]].concat()).is_err(), "twice");
    assert!(RawBatches::from_bytes(signed(raw.clone())).is_ok(), "signing makes what the crate makes");
    // A newer version is recognised, whatever else it changed.
    let mut newer = raw;
    newer[8] = 3;
    let refused = RawBatches::from_bytes(newer).unwrap_err().to_string();
    assert!(refused.contains("format version 3"), "{refused}");
}

#[test]
fn hostile_bytes_with_fitting_checksums_are_refused_or_harmless() {
    let raw = small_raw_batches().into_bytes();
    let (mut refused, mut taken) = (0, 0);
    let mut attempt = |bytes: Vec<u8>, case: &str| {
        let Ok(batches) = RawBatches::from_bytes(signed(bytes)) else {
            refused += 1;
            return;
        };
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let copy = partition(&broker, "t", TopicConfig::new());
        let appended = copy.append_raw(&batches);
        let expected = if appended.is_ok() { batches.end_offset().get() } else { 0 };
        assert_eq!(end(&copy), expected, "{case}: {appended:?}");
        taken += u64::from(appended.is_ok());
        refused += u64::from(appended.is_err());
        let before = dump(&broker).unwrap();
        disk.crash(Survive::Everything);
        let broker = open(&disk).unwrap();
        assert!(
            broker.open_report().truncated_tails.is_empty() && broker.open_report().damaged.is_empty(),
            "{case}"
        );
        assert_eq!(dump(&broker).unwrap(), before, "{case}");
    };
    let mut random = Random(7);
    for at in 12..raw.len() {
        for byte in [0, 0x7f, 0xff, raw[at] ^ 1, random.next() as u8] {
            let mut bytes = raw.clone();
            bytes[at] = byte;
            attempt(bytes, &format!("byte {at} is {byte}"));
        }
    }
    // Every length and number of the envelope and of each batch's header at its extremes.
    let mut heads = vec![];
    let mut at = ENVELOPE;
    while at < raw.len() {
        heads.push(at);
        at += HEADER + u32::from_le_bytes(raw[at + 4..at + 8].try_into().unwrap()) as usize;
    }
    let fields = heads.iter().flat_map(|head| (4..96).step_by(4).map(move |at| head + at));
    for at in (40..72).step_by(4).chain(fields) {
        for number in [0, 1, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX] {
            let mut bytes = raw.clone();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            attempt(bytes, &format!("{number} at {at}"));
        }
    }
    assert!(refused > 1000 && taken > 100, "{refused} refused, {taken} taken");
}

#[test]
fn a_bad_last_batch_refuses_all_batches_of_the_call() {
    let broker = open(&Disk::new()).unwrap();
    let source = partition(&broker, "t", TopicConfig::new().compression(Compression::Lz4));
    send_batch(&broker, &source, ["plain".into()]);
    send_batch(&broker, &source, ["x".repeat(500)]);
    let mut bytes = source.read_raw(offset(0), 1 << 20).unwrap().into_bytes();
    let last = bytes.len() - 1;
    bytes[last] ^= 0xff;
    // The sum fits, the block may decompress: then to something else. Its first byte does not.
    let second = ENVELOPE
        + HEADER
        + u32::from_le_bytes(bytes[ENVELOPE + 4..ENVELOPE + 8].try_into().unwrap()) as usize;
    bytes[second + HEADER] = 0xff;
    let batches = RawBatches::from_bytes(signed(bytes)).unwrap();
    let copy = partition(&broker, "copy", TopicConfig::new());
    let refused = copy.append_raw(&batches);
    assert!(matches!(refused, Err(Error::InvalidBatches { .. })), "{refused:?}");
    assert_eq!(end(&copy), 0);

    // Nothing is written of a call with a batch that fits no segment of the receiver.
    let tight = partition(&broker, "tight", small());
    send_batch(&broker, &source, (0..400u64).map(|i| format!("{:x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    let refused = tight.append_raw(&source.read_raw(offset(0), 1 << 20).unwrap());
    assert!(matches!(refused, Err(Error::RecordTooLarge { .. })), "{refused:?}");
    assert_eq!(end(&tight), 0);
}

#[test]
fn replication_to_or_from_a_closed_or_deleted_handle_is_a_typed_error() {
    let broker = open(&Disk::new()).unwrap();
    let (source, copy) = (partition(&broker, "a", small()), partition(&broker, "b", small()));
    fill(&broker, &source, 2);
    let batches = source.read_raw(offset(0), 1 << 20).unwrap();
    broker.delete_topic("b").unwrap();
    assert!(matches!(copy.append_raw(&batches), Err(Error::TopicDeleted { .. })));
    assert!(matches!(copy.read_raw(offset(0), 1), Err(Error::TopicDeleted { .. })));
    broker.close().unwrap();
    assert!(matches!(source.append_raw(&batches), Err(Error::Closed)));
    assert!(matches!(source.read_raw(offset(0), 1), Err(Error::Closed)));
}

#[test]
fn invisible_records_are_not_replicated() {
    let broker = open(&Disk::new()).unwrap();
    let source = partition(&broker, "t", small().durability(Durability::Sync));
    fill(&broker, &source, 2);
    // Full batches are written, and no caller has requested the sync yet.
    let producer = broker.producer();
    let pending: Vec<_> =
        (0..6).map(|_| producer.send(&source, Record::new("x".repeat(500))).unwrap()).collect();
    let bounds = source.bounds().unwrap();
    assert!(bounds.visible_end == 2 && bounds.log_end.get() > 2, "{bounds:?}");
    assert_eq!(source.read_raw(offset(0), 1 << 20).unwrap().end_offset(), 2);
    assert!(source.read_raw(offset(2), 1 << 20).unwrap().is_empty());
    assert!(matches!(source.read_raw(offset(3), 1), Err(Error::OffsetOutOfRange { .. })));
    pending.into_iter().for_each(|pending| assert!(pending.wait().is_ok()));
    assert_eq!(source.read_raw(offset(0), 1 << 20).unwrap().end_offset(), 8);
}

#[test]
fn a_replica_has_the_durability_of_its_own_topic() {
    let here = open(&Disk::new()).unwrap();
    let source = partition(&here, "t", small());
    fill(&here, &source, 40);
    for (durability, survive) in [(Durability::Sync, Survive::Synced), (Durability::Os, Survive::Everything)]
    {
        let disk = Disk::new();
        let there = open(&disk).unwrap();
        let copy = partition(&there, "t", small().durability(durability));
        let copied = copy.append_raw(&source.read_raw(offset(0), 4000).unwrap()).unwrap().get();
        assert!(copied > 10 && copied < 40 && copy.segments().len() > 1);
        disk.crash(survive);
        let there = open(&disk).unwrap();
        let copy = partition(&there, "t", small());
        assert_filled(&copy, copied, "after the crash");
        replicate(&source, &copy, 1000);
        assert_filled(&copy, 40, "replicated again");
    }
}

#[test]
fn a_replica_that_crashes_at_any_operation_is_resumed() {
    let here = open(&Disk::new()).unwrap();
    let source = partition(&here, "t", small());
    fill(&here, &source, 25);
    let fresh = Disk::new();
    let there = open(&fresh).unwrap();
    partition(&there, "t", small().durability(Durability::Sync));
    there.close().unwrap();
    for survive in [Survive::Everything, Survive::Synced] {
        for nth in 1.. {
            let disk = fresh.duplicate();
            let there = open(&disk).unwrap();
            let copy = there.topic("t").unwrap().partition(0).unwrap();
            disk.crash_at(nth);
            let mut acknowledged = 0;
            let done = loop {
                let batches = source.read_raw(offset(acknowledged), 400).unwrap();
                if batches.is_empty() {
                    break true;
                }
                match copy.append_raw(&batches) {
                    Ok(end) => acknowledged = end.get(),
                    Err(_) => break false,
                }
            };
            disk.crash(survive);
            drop(there);
            let there = open(&disk).unwrap();
            let copy = there.topic("t").unwrap().partition(0).unwrap();
            let found = end(&copy);
            assert!(found >= acknowledged, "operation {nth}: {found} of {acknowledged}");
            assert_filled(&copy, found, &format!("operation {nth}"));
            replicate(&source, &copy, 400);
            assert_filled(&copy, 25, &format!("resumed after operation {nth}"));
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_keeps_the_batches_that_fitted_and_a_failed_write_poisons() {
    let here = open(&Disk::new()).unwrap();
    let source = partition(&here, "t", small());
    fill(&here, &source, 30);
    let all = source.read_raw(offset(0), 1 << 20).unwrap();
    for (kind, poisons) in [(ErrorKind::StorageFull, false), (ErrorKind::Other, true)] {
        for nth in 1..30 {
            let disk = Disk::new();
            let there = open(&disk).unwrap();
            let copy = partition(&there, "t", small());
            disk.fail(Op::Write, nth, kind);
            match copy.append_raw(&all) {
                Err(Error::DiskFull { .. }) => assert!(!poisons),
                Err(Error::Io { .. }) => assert!(poisons, "write {nth}"),
                // The note in the catalog that there are files: it is made again by the next
                // opening.
                Ok(_) if nth == 3 => continue,
                other => panic!("write {nth}: {other:?}"),
            }
            let kept = end(&copy);
            assert!(kept < 30 && kept >= nth.saturating_sub(3) / 4, "write {nth}: {kept}");
            assert_filled(&copy, kept, "before it went wrong");
            if copy.stats().poisoned.is_some() {
                assert!(matches!(copy.append_raw(&all), Err(Error::Poisoned { .. })));
                copy.reopen().unwrap();
            }
            assert_eq!(copy.append_raw(&all).unwrap(), 30);
            assert_filled(&copy, 30, "sent again");
        }
    }
}

#[test]
fn a_copy_stays_a_copy_while_other_threads_append_the_same_batches() {
    let broker = Broker::in_memory().unwrap();
    let (source, copy) = (partition(&broker, "a", small()), partition(&broker, "b", small()));
    fill(&broker, &source, 200);
    std::thread::scope(|scope| {
        for max_bytes in [1, 300, 3000] {
            let (source, copy) = (&source, &copy);
            scope.spawn(move || {
                let mut next = offset(0);
                while next < offset(200) {
                    next = copy.append_raw(&source.read_raw(next, max_bytes).unwrap()).unwrap();
                }
            });
        }
    });
    assert_filled(&copy, 200, "three at once");
    assert_eq!(copy.stats().batches_appended, 200);
}

#[test]
fn append_times_are_those_of_the_source() {
    let (here, there) = (open(&Disk::new()).unwrap(), open(&Disk::new()).unwrap());
    let source = partition(&here, "t", small().timestamps(TimestampType::Append));
    let copy = partition(&there, "t", small().timestamps(TimestampType::Append));
    fill(&here, &source, 3);
    replicate(&source, &copy, 1 << 20);
    assert_eq!(everything(&copy), everything(&source));
}

#[test]
fn a_reader_at_the_end_of_a_copy_sees_replicated_and_sent_records_in_order() {
    let broker = open(&Disk::new()).unwrap();
    let (source, copy) = (partition(&broker, "a", small()), partition(&broker, "b", small()));
    fill(&broker, &source, 5);
    fill(&broker, &copy, 2);
    copy.append_raw(&source.read_raw(offset(0), 1 << 20).unwrap()).unwrap();
    fill(&broker, &copy, 7);
    for from in 0..7 {
        let records = copy.read(at(from), 1).unwrap();
        assert_eq!(records.iter().next().unwrap().offset(), from);
    }
    assert_filled(&copy, 7, "mixed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Batches of any sizes, replicated in windows of any place and size, with restarts between:
    /// the copy is a prefix of the model at every moment, and only what continues it is taken.
    #[test]
    fn a_copy_is_always_a_prefix(
        sizes in prop::collection::vec(1usize..6, 1..30),
        windows in prop::collection::vec((0u64..100, 1usize..3000, any::<bool>()), 1..40),
        packed in any::<bool>(),
    ) {
        let compression = if packed { Compression::Lz4 } else { Compression::None };
        let (here, disk) = (open(&Disk::new()).unwrap(), Disk::new());
        let source = partition(&here, "t", small().compression(compression));
        let mut model = Vec::new();
        for size in sizes {
            let next = model.len() as u64;
            let values: Vec<_> = (next..next + size as u64).map(value).collect();
            model.extend(values.clone());
            send_batch(&here, &source, values);
        }
        let mut there = open(&disk).unwrap();
        for (from, max_bytes, restart) in windows {
            let copy = partition(&there, "t", small());
            let batches = carried(&source.read_raw(offset(from % (model.len() as u64 + 1)), max_bytes).unwrap());
            let before = end(&copy);
            match copy.append_raw(&batches) {
                Ok(now) => prop_assert_eq!(now.get(), before.max(batches.end_offset().get())),
                Err(Error::OffsetConflict { end, .. }) => {
                    prop_assert_eq!(end, before);
                    prop_assert!(batches.base_offset() > end);
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
            let (values, error) = read(&copy);
            prop_assert!(error.is_none());
            prop_assert_eq!(&values[..], &model[..values.len()]);
            prop_assert_eq!(values.len() as u64, end(&copy));
            if restart {
                disk.crash(Survive::Everything);
                there = open(&disk).unwrap();
            }
        }
        let copy = partition(&there, "t", small());
        replicate(&source, &copy, 500);
        prop_assert_eq!(read(&copy).0, model);
    }
}

// 24
#[test]
fn a_copy_behind_its_sources_log_start_is_reset_to_it() {
    for compression in [Compression::None, Compression::Lz4] {
        let (disk, broker) = (Disk::new(), open(&Disk::new()).unwrap());
        let source = partition(&broker, "a", small().compression(compression));
        let there = open(&disk).unwrap();
        let copy = partition(&there, "b", small());
        let batches = |from: u64, to: u64| {
            for base in (from..to).step_by(4) {
                send_batch(&broker, &source, (base..base + 4).map(value));
            }
        };
        batches(0, 20);
        replicate(&source, &copy, 1);
        batches(20, 60);
        source.delete_records(offset(42)).unwrap();

        let Err(Error::OffsetOutOfRange { earliest, .. }) = source.read_raw(offset(20), 1 << 20) else {
            panic!("that is gone")
        };
        let raw = carried(&source.read_raw(earliest, 1 << 20).unwrap());
        assert_eq!((earliest.get(), raw.base_offset().get()), (42, 40), "whole batches");
        assert!(matches!(copy.append_raw(&raw), Err(Error::OffsetConflict { end, .. }) if end == 20));
        copy.reset_to(raw.base_offset()).unwrap();
        assert_eq!(copy.append_raw(&raw).unwrap(), 60);
        assert_eq!(copy.append_raw(&raw).unwrap(), 60, "sent again");
        copy.delete_records(earliest).unwrap();
        assert_eq!(everything(&copy), everything(&source));
        batches(60, 80);
        replicate(&source, &copy, 300);
        there.sync().unwrap();
        disk.crash(Survive::Synced);
        let there = open(&disk).unwrap();
        let copy = partition(&there, "b", small());
        assert_eq!(copy.bounds().unwrap().log_start, earliest);
        assert_eq!(everything(&copy), everything(&source));
    }
}

// 20
#[test]
fn a_copy_truncates_like_its_source_and_continues() {
    for compression in [Compression::None, Compression::Lz4] {
        // At a batch's end, within one, within the first, to nothing; and whether the copy learns
        // where.
        for (to, told) in [12, 10, 8, 3, 1, 0].into_iter().flat_map(|to| [(to, false), (to, true)]) {
            let (here, there) = (open(&Disk::new()).unwrap(), open(&Disk::new()).unwrap());
            let source = partition(&here, "a", small().compression(compression));
            let copy = partition(&there, "b", small());
            for base in (0..20).step_by(4) {
                send_batch(&here, &source, (base..base + 4).map(value));
            }
            replicate(&source, &copy, 1);
            let before = source.read_raw(offset(0), 1).unwrap().epoch();
            source.truncate_to(offset(to)).unwrap();
            assert!(matches!(source.read_raw(offset(20), 1), Err(Error::OffsetOutOfRange { .. })));
            let left = source.read_raw(offset(0), 1 << 20).unwrap();
            assert_eq!((left.end_offset().get(), left.epoch()), (to, before + 1));
            for n in 0..4 {
                send_batch(&here, &source, (0..5).map(|i| format!("other {n} {i}")));
            }
            if told {
                // The same records are truncated in the same way: the rest is equal down to its
                // bytes.
                copy.truncate_to(offset(to)).unwrap();
                assert_eq!(copy.append_raw(&carried(&left)).unwrap(), to, "{to}");
            } else {
                let refused = copy.append_raw(&carried(&source.read_raw(offset(0), 1 << 20).unwrap()));
                let Err(Error::Diverged { offset, .. }) = refused else { panic!("{to}: {refused:?}") };
                assert_eq!(offset, to / 4 * 4, "the batch that differs, which may have been truncated");
                copy.truncate_to(offset).unwrap();
            }
            replicate(&source, &copy, 1);
            assert_eq!(everything(&copy), everything(&source), "{to}");
            assert_eq!(end(&copy), to + 20);
            // And every window of the source agrees.
            for from in 0..to + 20 {
                assert_eq!(copy.append_raw(&source.read_raw(offset(from), 500).unwrap()).unwrap(), to + 20);
            }
        }
    }
}

/// All batches of one call are of one log, never some from before a truncation and some from after
/// it.
#[test]
fn truncation_races_with_replication() {
    let broker = Broker::in_memory().unwrap();
    let source = partition(&broker, "a", small());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (source, broker, done) = (&source, &broker, &done);
        scope.spawn(move || {
            let (mut random, mut log, mut written) = (Random(3), vec![0u64], 0);
            for _ in 0..2_000 {
                let to = random.below(log.len() as u64) as usize;
                source.truncate_to(offset(to as u64)).unwrap();
                log.truncate(to + 1);
                while log.len() < 12 {
                    // Each value holds the one that it follows.
                    written += 1;
                    crate::common::send(broker, source, &format!("{} {written}", log.last().unwrap()))
                        .unwrap();
                    log.push(written);
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut several = 0;
        for copy in 0.. {
            if done.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            let Ok(raw) = source.read_raw(offset(copy % 3), 1 << 20) else { continue };
            let copies = Broker::in_memory().unwrap();
            let copy = partition(&copies, "b", small());
            copy.reset_to(raw.base_offset()).unwrap();
            copy.append_raw(&raw).unwrap();
            let mut before = None;
            for record in &copy.read(quipu::Start::Beginning, 1 << 20).unwrap() {
                let text = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                let (follows, this) = text.split_once(' ').unwrap();
                assert!(before.as_ref().is_none_or(|before| before == follows), "{text} after {before:?}");
                before = Some(this.to_string());
            }
            several += usize::from(raw.len() > 1);
        }
        assert!(several > 10, "{several}");
    });
}

#[test]
fn a_record_with_the_latest_timestamp_that_a_sender_may_set_is_copied_and_is_no_damage() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let any_time = || TopicConfig::new().timestamp_bounds(None, None);
    let source = partition(&broker, "source", any_time());
    let copy = partition(&broker, "copy", any_time());
    let latest = Timestamp::from_millis(1 << 62);
    broker.producer().send(&source, Record::new("v").timestamp(latest)).unwrap().wait().unwrap();
    let later = Timestamp::from_millis((1 << 62) + 1);
    let refused = broker.producer().send(&source, Record::new("v").timestamp(later));
    refused.and_then(|pending| pending.wait()).unwrap_err();
    replicate(&source, &copy, 1 << 20);
    let copied = copy.read(at(0), 1 << 10).unwrap();
    assert_eq!(copied.iter().next().unwrap().timestamp(), latest);
    broker.close().unwrap();
    let report = disk.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_whole() && report.findings.is_empty(), "{report:?}");
}
