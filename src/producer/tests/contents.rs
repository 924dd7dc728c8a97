//! The records that are stored, and the receipts of many records sent at once.

use std::time::Duration;

use super::fakes::{FakeTopic, assert_stored, flush, outbox, small};
use crate::config::{Compression, TopicConfig};
use crate::error::Error;
use crate::format::compression::Codec;
use crate::partitioner::partition_for_key;
use crate::producer::config::ProducerConfig;
use crate::record::Record;
use crate::types::Timestamp;

#[test]
fn every_kind_of_record_is_stored_unchanged() {
    for compression in [Compression::None, Compression::Lz4] {
        let topic = FakeTopic::new(1, TopicConfig::new().compression(compression));
        let outbox = outbox(&topic, ProducerConfig::new());
        let at = Timestamp::from_millis;
        let records = [
            Record::null(),
            Record::new(""),
            Record::new("v").key(""),
            Record::tombstone("k").timestamp(at(0)),
            Record::new("x".repeat(300))
                .header("a", "1")
                .null_header("a")
                .header("", "")
                .timestamp(at(1 << 62)),
            Record::new([0xff; 9]).key([0xfe; 200]).timestamp(at(5)),
        ];
        let receipts: Vec<_> = records.iter().map(|r| outbox.send(&topic, None, r).unwrap()).collect();
        let now = topic.broker.inner().ctx.clock.now();
        for (pending, record) in receipts.into_iter().zip(&records) {
            assert_eq!(pending.wait().unwrap().timestamp, record.given_timestamp().unwrap_or(now));
        }
        let expected = records.map(|record| {
            let timestamp = record.given_timestamp().unwrap_or(now);
            record.timestamp(timestamp)
        });
        assert_eq!(topic.logs[0].stored(), expected);
    }
}

#[test]
fn a_body_that_does_not_shrink_is_stored_uncompressed() {
    let topic = FakeTopic::new(1, TopicConfig::new().compression(Compression::Lz4));
    let outbox = outbox(&topic, ProducerConfig::new());
    outbox.send(&topic, None, &Record::new("short")).unwrap().wait().unwrap();
    outbox.send(&topic, None, &Record::new("long".repeat(100))).unwrap().wait().unwrap();
    assert_eq!(topic.logs[0].codecs(), [Codec::None, Codec::Lz4]);
}

#[test]
fn many_records_get_their_receipts_in_the_order_of_sending() {
    let topic = FakeTopic::new(3, TopicConfig::new());
    let outbox = outbox(&topic, small());
    outbox.send(&topic, Some(1), &Record::new("before")).unwrap().detach();
    let texts: Vec<_> = (0..500).map(|n| format!("{n} {}", "x".repeat(n % 50))).collect();
    let records = texts.iter().enumerate().map(|(n, text)| {
        let record = Record::new(text).timestamp(Timestamp::from_millis(n as i64));
        if n % 3 == 0 { record } else { record.key(if n % 3 == 1 { "abc" } else { "kafka" }) }
    });
    let pending = outbox.send_all(&topic, None, records).unwrap();
    outbox.send(&topic, Some(1), &Record::new("after")).unwrap().detach();
    let receipts = pending.wait().unwrap();
    assert_eq!(receipts.len(), texts.len());
    for (n, (receipt, text)) in receipts.iter().zip(&texts).enumerate() {
        assert_stored(&topic, receipt, text);
        assert_eq!(receipt.timestamp.as_millis(), n as i64);
        match n % 3 {
            0 => {}
            1 => assert_eq!(receipt.partition.get(), partition_for_key(b"abc", 3)),
            _ => assert_eq!(receipt.partition.get(), partition_for_key(b"kafka", 3)),
        }
    }
    flush(&outbox).unwrap();
    let values = topic.logs[1].values();
    assert_eq!((values.first().unwrap().as_str(), values.last().unwrap().as_str()), ("before", "after"));
    assert_eq!(outbox.core().buffered(), 0);
}

#[test]
fn small_calls_share_a_batch() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new());
    let mut last = Vec::new();
    for n in 0..50 {
        let records = [format!("{n} a"), format!("{n} b")];
        last.push(outbox.send_all(&topic, None, records.into_iter().map(Record::new)).unwrap());
        topic.clock.advance(Duration::from_micros(50));
    }
    let offsets: Vec<_> = last.into_iter().flat_map(|p| p.wait().unwrap()).map(|r| r.offset.get()).collect();
    assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    assert_eq!(topic.logs[0].batches(), 1);
}

#[test]
fn small_calls_without_keys_change_the_partition() {
    let topic = FakeTopic::new(10, TopicConfig::new());
    let outbox = outbox(&topic, small());
    for _ in 0..1_000 {
        outbox.send_all(&topic, None, [Record::new([0; 97])].into_iter()).unwrap().detach();
    }
    flush(&outbox).unwrap();
    let lens: Vec<_> = topic.logs.iter().map(|log| log.values_len()).collect();
    assert!(lens.iter().all(|len| (1..250).contains(len)), "{lens:?}");
}

#[test]
fn all_records_are_taken_or_none() {
    let topic = FakeTopic::new(2, TopicConfig::new().max_record_bytes(1_000));
    let outbox = outbox(&topic, ProducerConfig::new().buffer_bytes(64 << 10));
    outbox.send(&topic, Some(0), &Record::new("before")).unwrap().detach();
    let good = || (0..100).map(|_| Record::new([1; 100]));
    let bad_time = Record::null().timestamp(Timestamp::from_millis(-5));
    let error = outbox.send_all(&topic, Some(0), good().chain([bad_time])).unwrap_err();
    assert!(matches!(error, Error::InvalidTimestamp { index: 100, .. }));
    let error = outbox.send_all(&topic, Some(0), good().chain([Record::new([0; 1_000])])).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { limit: 1_000, .. }));
    let error = outbox.send_all(&topic, Some(0), good().chain(good()).cycle()).unwrap_err();
    assert!(matches!(error, Error::BufferFull { .. }));
    // The caller's iterator may send through the same producer: no lock is held.
    let nested = (0..3).map(|_| {
        outbox.send(&topic, Some(0), &Record::new("nested")).unwrap().detach();
        Record::new("outer")
    });
    outbox.send_all(&topic, Some(0), nested).unwrap().wait().unwrap();
    assert_eq!(outbox.send_all(&topic, None, std::iter::empty()).unwrap().wait().unwrap(), []);
    flush(&outbox).unwrap();
    assert_eq!(topic.logs[0].values(), ["before", "nested", "nested", "nested", "outer", "outer", "outer"]);
    assert_eq!(outbox.core().buffered(), 0);
}
