use super::*;
use crate::config::TopicConfig;
use crate::format::batch::{Attributes, BatchHeader, HEADER_BYTES};
use crate::format::body::{RecordFields, encode};
use crate::log::Log;
use crate::log::cursor::Cursor;
use crate::record::Record;
use crate::segment::builder::SealedBatch;
use crate::types::Timestamp;
use crate::{Broker, Topic};

type Headers<'a> = &'a [(&'a str, Option<&'a [u8]>)];

/// A record of a batch made by hand: its offset delta, key, value and headers.
pub(crate) type Made<'a> = (u32, Option<&'a [u8]>, Option<&'a [u8]>, Headers<'a>);

/// Appends a batch that owns `span` offsets, as compaction leaves them: with any of its records
/// gone.
pub(crate) fn append(log: &Arc<Log>, span: u32, records: &[Made<'_>]) {
    append_with(log, span, records, Attributes::default());
}

fn append_with(log: &Arc<Log>, span: u32, records: &[Made<'_>], attributes: Attributes) {
    let mut stored = log.context().pool.take(0);
    stored.resize(HEADER_BYTES, 0);
    for (at, (offset_delta, key, value, headers)) in records.iter().enumerate() {
        let timestamp_delta = at as i64;
        encode(
            &RecordFields {
                offset_delta: Some(*offset_delta),
                timestamp_delta,
                key: *key,
                value: *value,
                headers,
            },
            &mut stored,
        );
    }
    let body = &stored[HEADER_BYTES..];
    let header = BatchHeader {
        body_len: body.len() as u32,
        base_offset: Offset::ZERO,
        last_offset_delta: span - 1,
        count: records.len() as u32,
        base_timestamp: Timestamp::from_millis(1_000),
        max_timestamp: Timestamp::from_millis(2_000),
        producer_id: 0,
        base_sequence: 0,
        producer_epoch: 0,
        codec: 0,
        table: 0,
        attributes,
        uncompressed_len: body.len() as u32,
        transaction_id: 0,
        synced_upto: Offset::ZERO,
        extra: 0,
        log_epoch: 0,
        body_crc: crc32fast::hash(body),
    };
    let appended = log.append(&mut SealedBatch { header, stored, raw: None, keyless: None }).unwrap();
    log.wait_visible(appended.end, appended.epoch).unwrap();
}

pub(crate) fn value(offset_delta: u32, value: &[u8]) -> Made<'_> {
    (offset_delta, None, Some(value), &[])
}

fn topic() -> Topic {
    Broker::in_memory().unwrap().create_topic("t", TopicConfig::new().partitions(2)).unwrap()
}

fn log(topic: &Topic, partition: u32) -> Arc<Log> {
    topic.partition(partition).unwrap().log().clone()
}

fn batches(log: &Arc<Log>) -> Vec<Arc<Batch>> {
    let mut cursor = Cursor::new(log.clone(), Offset::ZERO);
    std::iter::from_fn(|| cursor.next_batch().unwrap()).collect()
}

fn all(log: &Arc<Log>) -> Records {
    let mut records = Records::default();
    for batch in batches(log) {
        records.push(Unread::new(batch, Offset::ZERO).take(usize::MAX));
    }
    records
}

fn offsets(records: &Records) -> Vec<u64> {
    records.iter().map(|record| record.offset().get()).collect()
}

#[test]
fn null_and_empty_differ_and_the_last_header_of_a_name_counts() {
    let topic = topic();
    let headers: Headers<'_> = &[("a", Some(b"1")), ("b", None), ("a", Some(b"2"))];
    append(
        &log(&topic, 0),
        3,
        &[
            (0, None, Some(b""), headers),
            (1, Some(b""), None, &[]),
            (2, Some(b"k"), Some(b"v"), &[("", Some(b""))]),
        ],
    );
    let records = all(&log(&topic, 0));
    let seen: Vec<_> = records.iter().collect();
    assert_eq!((seen[0].key(), seen[0].value()), (None, Some(&b""[..])));
    assert_eq!(seen[0].headers().collect::<Vec<_>>(), headers);
    assert_eq!(seen[0].header("a"), Some(Some(&b"2"[..])));
    assert_eq!(seen[0].header("b"), Some(None));
    assert_eq!(seen[0].header("c"), None);
    assert!(seen[1].is_tombstone() && !seen[0].is_tombstone());
    assert_eq!(seen[2].header(""), Some(Some(&b""[..])));
    assert_eq!(seen[2].position().to_string(), "t/0@2#0");
    assert_eq!(records.last().unwrap().offset(), 2);
}

#[test]
fn a_timestamp_is_the_records_own_unless_the_batch_has_append_time() {
    let topic = topic();
    let made = [value(0, b"a"), value(1, b"b")];
    append(&log(&topic, 0), 2, &made);
    append_with(&log(&topic, 0), 2, &made, Attributes::default().with_append_time(true));
    let times: Vec<_> = all(&log(&topic, 0)).iter().map(|record| record.timestamp().as_millis()).collect();
    assert_eq!(times, [1_000, 1_001, 2_000, 2_000]);
}

#[test]
fn an_iterator_knows_how_many_are_left() {
    let topic = topic();
    for _ in 0..3 {
        append(&log(&topic, 0), 2, &[value(0, b"a"), value(1, b"b")]);
    }
    let records = all(&log(&topic, 0));
    let (mut borrowed, mut owned) = (records.iter(), records.clone().into_iter());
    for left in (0..6).rev() {
        assert!(borrowed.next().is_some() && owned.next().is_some());
        assert_eq!((borrowed.len(), owned.len()), (left, left));
    }
    assert!(borrowed.next().is_none() && owned.next().is_none());
    assert_eq!(
        records.into_iter().map(|record| record.offset().get()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
}

#[test]
fn the_pieces_of_a_batch_make_up_the_batch() {
    let topic = topic();
    let made: Vec<_> = [0, 1, 4, 5, 9].map(|delta| value(delta, b"some value")).to_vec();
    append(&log(&topic, 0), 20, &made);
    let batch = batches(&log(&topic, 0)).remove(0);
    for size in 1..7 {
        let mut unread = Unread::new(batch.clone(), Offset::ZERO);
        let (mut records, mut next) = (Records::default(), Vec::new());
        while !unread.is_empty() {
            assert_eq!(records.bytes() + unread.bytes(), batch.records.as_slice().len());
            records.push(unread.take(size));
            next.push(unread.next_offset().get());
        }
        assert_eq!(offsets(&records), [0, 1, 4, 5, 9]);
        assert_eq!(records.len(), 5);
        assert_eq!(records.bytes(), batch.records.as_slice().len());
        // The next offset is the end in the batch's header, not that of the last surviving record
        // plus one.
        assert_eq!(next.last(), Some(&20));
        let owned: Vec<_> = records.into_iter().map(|record| record.offset().get()).collect();
        assert_eq!(owned, [0, 1, 4, 5, 9]);
    }
}

#[test]
fn records_below_the_position_are_dropped_and_the_position_stays() {
    let topic = topic();
    append(&log(&topic, 0), 20, &[value(2, b"a"), value(3, b"b"), value(7, b"c")]);
    let batch = batches(&log(&topic, 0)).remove(0);
    // R2, R3.
    for (from, first) in [(0, 2), (2, 2), (3, 3), (4, 7), (6, 7), (7, 7)] {
        let mut unread = Unread::new(batch.clone(), Offset::new(from));
        assert_eq!(unread.next_offset(), from);
        let mut records = Records::default();
        records.push(unread.take(1));
        assert_eq!(offsets(&records), [first], "from {from}");
    }
    for from in [8, 19] {
        let unread = Unread::new(batch.clone(), Offset::new(from));
        assert!(unread.is_empty());
        assert_eq!(unread.next_offset(), 20);
    }
}

#[test]
fn an_owned_record_shares_its_batch_until_it_is_detached() {
    let topic = topic();
    let headers: Headers<'_> = &[("h", Some(b"x"))];
    append(&log(&topic, 0), 9, &[value(0, b"first"), (5, Some(b"k"), Some(b"v"), headers)]);
    let records = all(&log(&topic, 0));
    let batch = records.chunks[0].batch.clone();
    let owned = records.last().unwrap().into_owned();
    let shared = owned.value().unwrap().as_ptr();
    assert!(batch.records.as_slice().as_ptr_range().contains(&shared));
    let with_owned = Arc::strong_count(&batch);
    let copy = owned.clone().detach();
    assert_eq!(Arc::strong_count(&batch), with_owned, "the clone has let go");
    assert!(!batch.records.as_slice().as_ptr_range().contains(&copy.value().unwrap().as_ptr()));
    drop(records);
    for record in [owned, copy.clone(), copy.detach()] {
        assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!(record.headers().collect::<Vec<_>>(), headers);
        assert_eq!(record.position().to_string(), "t/0@5#0");
        assert_eq!(record.timestamp().as_millis(), 1_001);
        assert_eq!(record.as_record().into_owned().offset(), 5);
    }
}

#[test]
fn partitions_are_separated_with_their_skipped_ranges() {
    let topic = topic();
    append(&log(&topic, 0), 2, &[value(0, b"a"), value(1, b"b")]);
    append(&log(&topic, 1), 1, &[value(0, b"c")]);
    let mut records = all(&log(&topic, 1));
    all(&log(&topic, 0)).chunks.into_iter().for_each(|chunk| records.push(chunk));
    let skipped = Skipped::new(&log(&topic, 0), Offset::ZERO, Offset::new(7), SkipReason::OutOfRange);
    let elsewhere = Skipped { partition: PartitionId::new(9), ..skipped.clone() };
    records.skip(skipped.clone());
    records.skip(elsewhere.clone());
    let parts = records.by_partition();
    let lens: Vec<_> = parts.iter().map(|part| (part.len(), part.skipped().to_vec())).collect();
    assert_eq!(lens, [(1, vec![]), (2, vec![skipped.clone()]), (0, vec![elsewhere])]);
    assert_eq!(skipped.to_string(), "t/0 continues at offset 7 instead of 0: it is out of range");
}

#[test]
fn a_record_can_be_sent_on() {
    let topic = topic();
    append(&log(&topic, 0), 1, &[(0, Some(b"k"), None, &[("h", Some(b"x")), ("n", None)])]);
    let records = all(&log(&topic, 0));
    let sent = Record::from(records.iter().next().unwrap());
    assert_eq!(sent, Record::tombstone("k").header("h", "x").null_header("n"));
}

#[test]
fn debug_output_is_short_and_escaped() {
    let topic = topic();
    append(&log(&topic, 0), 1, &[(0, Some(b"\0\xff"), Some(&[b'x'; 100]), &[])]);
    let records = all(&log(&topic, 0));
    let text = format!("{:?}", records.iter().next().unwrap());
    assert!(text.contains(r#"key: "\x00\xff""#) && text.contains("(100 bytes)"), "{text}");
    assert!(text.len() < 200, "{text}");
}

#[test]
fn records_cross_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Records>();
    check::<OwnedRecord>();
    check::<Skipped>();
}
