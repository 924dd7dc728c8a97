use std::borrow::Cow;

use proptest::prelude::*;

use super::super::batch::Attributes;
use super::super::damage::{Random, hex};
use super::*;
use crate::types::{Offset, Timestamp};

type Headers<'a> = &'a [(&'a str, Option<&'a [u8]>)];

fn fields<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: Headers<'a>) -> Fields<'a> {
    RecordFields { offset_delta: None, timestamp_delta: 0, key, value, headers }
}

type Fields<'a> = RecordFields<'a, (&'a str, Option<&'a [u8]>)>;

fn body(records: &[Fields<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let before = out.len();
        encode(record, &mut out);
        assert_eq!(out.len() - before, encoded_len(record));
    }
    out
}

fn header(count: u32, body: &[u8]) -> BatchHeader {
    BatchHeader {
        body_len: body.len() as u32,
        base_offset: Offset::ZERO,
        last_offset_delta: 99,
        count,
        base_timestamp: Timestamp::from_millis(1_000),
        max_timestamp: Timestamp::from_millis(2_000),
        producer_id: 0,
        base_sequence: 0,
        producer_epoch: 0,
        codec: 0,
        table: 0,
        attributes: Attributes::default(),
        uncompressed_len: body.len() as u32,
        transaction_id: 0,
        synced_upto: Offset::ZERO,
        extra: 0,
        log_epoch: 0,
        body_crc: 0,
    }
}

fn example() -> Vec<u8> {
    body(&[
        fields(Some(b"key"), Some(b"value"), &[]),
        fields(None, None, &[]),
        RecordFields {
            offset_delta: Some(9),
            timestamp_delta: -300,
            ..fields(Some(b""), None, &[("a", Some(b"1")), ("a", None), ("", Some(b""))])
        },
        fields(None, Some(b""), &[]),
    ])
}

#[test]
fn bytes_are_pinned() {
    assert_eq!(hex(&example()), "0b03036b65790576616c756501000f1dd704090003016102310161000001020200");
}

#[test]
fn null_is_not_empty_and_headers_keep_order_and_repeats() {
    let bytes = example();
    let records: Vec<_> = RawRecords::new(&bytes, 4).map(Result::unwrap).collect();
    assert_eq!(
        records.iter().map(|r| (r.offset_delta, r.timestamp_delta, r.key, r.value)).collect::<Vec<_>>(),
        [
            (0, 0, Some(&b"key"[..]), Some(&b"value"[..])),
            (1, 0, None, None),
            (9, -300, Some(&b""[..]), None),
            (10, 0, None, Some(&b""[..])),
        ]
    );
    assert_eq!(records.iter().map(|r| r.headers.len()).collect::<Vec<_>>(), [0, 0, 3, 0]);
    let headers: Vec<_> = records[2].headers.into_iter().collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("a", None), ("", Some(&b""[..]))]);
}

#[test]
fn headers_are_encoded_from_what_owns_or_borrows_them() {
    let owned = [(Cow::from("n".to_string()), Some(Cow::from(b"v".to_vec()))), (Cow::from("m"), None)];
    let owned =
        RecordFields { offset_delta: None, timestamp_delta: 0, key: None, value: None, headers: &owned };
    let mut out = Vec::new();
    encode(&owned, &mut out);
    assert_eq!(out, body(&[fields(None, None, &[("n", Some(b"v")), ("m", None)])]));
}

#[test]
fn reading_resumes_where_it_stopped() {
    let bytes = example();
    let whole: Vec<_> = RawRecords::new(&bytes, 4).collect();
    for stop in 0..=4 {
        let mut first = RawRecords::new(&bytes, 4);
        let mut read: Vec<_> = first.by_ref().take(stop).collect();
        let (position, remaining) = (first.position(), first.remaining());
        assert_eq!(remaining as usize, 4 - stop);
        read.extend(RawRecords::resume(&bytes, position, remaining, first.next_offset_delta()));
        assert_eq!(read, whole);
    }
}

#[test]
fn a_whole_body_is_valid_and_any_part_of_it_is_not() {
    let bytes = body(&[
        RecordFields { timestamp_delta: 1_000, ..fields(Some(b"key"), Some(b"value"), &[("a", None)]) },
        RecordFields { offset_delta: Some(99), timestamp_delta: -1_000, ..fields(None, None, &[]) },
    ]);
    assert_eq!(validate(&header(2, &bytes), &bytes, &[]), Ok(()));
    for len in 0..bytes.len() {
        assert!(validate(&header(2, &bytes), &bytes[..len], &[]).is_err(), "truncated to {len}");
    }
    for count in [0, 1, 3, u32::MAX] {
        assert!(validate(&header(count, &bytes), &bytes, &[]).is_err(), "{count}");
    }
    assert_eq!(validate(&header(0, &[]), &[], &[]), Ok(()));
}

#[test]
fn what_is_wrong_is_said() {
    let refused = |count: u32, bytes: &[u8]| validate(&header(count, bytes), bytes, &[]).unwrap_err().what;
    let timed = |timestamp_delta| body(&[RecordFields { timestamp_delta, ..fields(None, None, &[]) }]);
    let offset = |delta| RecordFields { offset_delta: Some(delta), ..fields(None, None, &[]) };
    assert_eq!(refused(1, &timed(1_001)), "timestamp out of the batch's bounds");
    assert_eq!(refused(1, &timed(-1_001)), "timestamp out of the batch's bounds");
    assert_eq!(refused(1, &timed(i64::MAX)), "timestamp out of the batch's bounds");
    assert_eq!(refused(1, &timed(i64::MIN)), "timestamp out of the batch's bounds");
    assert_eq!(refused(1, &body(&[offset(100)])), "offset delta after the batch's last");
    assert_eq!(refused(2, &body(&[offset(5), offset(5)])), "offset delta");
    assert_eq!(refused(1, &body(&[offset(u32::MAX)])), "offset delta");
    assert_eq!(refused(1, &[0]), "record flags");
    assert_eq!(refused(1, &[1, 0x20]), "record flags");
    assert_eq!(refused(1, &[2, 0, 0]), "bytes after the record's value");
    assert_eq!(refused(1, &[4, VALUE, 2, 0]), "record length");
    assert_eq!(refused(1, &[3, VALUE, 2, 0, 0]), "record value");
    assert_eq!(refused(1, &[3, HEADERS, 1, 0]), "header count");
    assert_eq!(refused(1, &[5, HEADERS, 1, 1, 0xff, 0]), "header name that is not UTF-8");
    assert_eq!(refused(1, &[4, HEADERS, 1, 0, 2]), "header value");
    assert_eq!(refused(1, &[5, HEADERS, 1, 0, 0, 0]), "bytes after the last header");
    assert_eq!(refused(1, &[1, 0, 0]), "bytes after the last record");
    let malformed = validate(&header(2, &[]), &[1, 0, 1, 0x20], &[]).unwrap_err();
    assert_eq!((malformed.position, malformed.what), (4, "record flags"));
}

#[test]
fn timestamps_at_the_ends_of_their_range_are_told_apart() {
    for base in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
        for max in [0, 1, i64::MAX] {
            for delta in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
                let bytes = body(&[RecordFields { timestamp_delta: delta, ..fields(None, None, &[]) }]);
                let header = BatchHeader {
                    base_timestamp: Timestamp::from_millis(base),
                    max_timestamp: Timestamp::from_millis(max),
                    ..header(1, &bytes)
                };
                let within = (0..=i128::from(max)).contains(&(i128::from(base) + i128::from(delta)));
                assert_eq!(validate(&header, &bytes, &[]).is_ok(), within, "{base} {max} {delta}");
            }
        }
    }
}

#[test]
fn append_time_makes_deltas_meaningless() {
    let bytes = body(&[RecordFields { timestamp_delta: i64::MAX, ..fields(None, None, &[]) }]);
    let header = header(1, &bytes);
    assert!(validate(&header, &bytes, &[]).is_err());
    let header = BatchHeader { attributes: header.attributes.with_append_time(true), ..header };
    assert_eq!(validate(&header, &bytes, &[]), Ok(()));
    assert!(
        validate(&BatchHeader { max_timestamp: Timestamp::from_millis(-1), ..header }, &bytes, &[]).is_err()
    );
}

#[test]
fn reading_stops_at_the_first_malformed_record() {
    let mut records = RawRecords::new(&[1, 0x80, 1, 0], 2);
    assert!(records.next().unwrap().is_err());
    assert_eq!(records.next(), None);
}

#[test]
fn any_bytes_are_read_without_a_panic_and_without_end() {
    let mut random = Random(3);
    let good = example();
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { good.clone() } else { random.bytes(round % 100) };
        for _ in 0..random.next() % 4 {
            if !bytes.is_empty() {
                let at = random.next() as usize % bytes.len();
                bytes[at] = random.next() as u8;
            }
        }
        for record in RawRecords::new(&bytes, u32::MAX).flatten() {
            assert!(record.headers.iter().count() <= record.headers.len());
        }
        if validate(&header(4, &bytes), &bytes, &[]).is_ok() {
            let records: Result<Vec<_>, _> = RawRecords::new(&bytes, 4).collect();
            assert!(records.unwrap().iter().all(|r| r.headers.iter().count() == r.headers.len()));
        }
    }
}

fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn records_come_back(
        records in proptest::collection::vec(
            (bytes(), bytes(), -1_000i64..=1_000, 0u32..3, proptest::collection::vec((name(), bytes()), 0..4)),
            0..30,
        ),
    ) {
        let (mut out, mut moved, mut next) = (Vec::new(), Vec::new(), 0);
        for (key, value, timestamp_delta, gap, headers) in &records {
            let offset_delta = (*gap > 0).then_some(next + gap);
            next = offset_delta.unwrap_or(next) + 1;
            let (key, value, timestamp_delta) = (key.as_deref(), value.as_deref(), *timestamp_delta);
            let record = RecordFields { offset_delta, timestamp_delta, key, value, headers };
            let before = out.len();
            encode(&record, &mut out);
            prop_assert_eq!(out.len() - before, encoded_len(&record));
        }
        let header = BatchHeader { last_offset_delta: 1_000, ..header(records.len() as u32, &out) };
        prop_assert_eq!(validate(&header, &out, &[]), Ok(()));
        let mut next = 0;
        for (raw, (key, value, timestamp_delta, gap, headers)) in RawRecords::new(&out, header.count).zip(&records) {
            let raw = raw.unwrap();
            prop_assert_eq!(raw.offset_delta, next + gap);
            prop_assert_eq!(raw.timestamp_delta, *timestamp_delta);
            prop_assert_eq!((raw.key, raw.value), (key.as_deref(), value.as_deref()));
            let expected: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            prop_assert_eq!(raw.headers.iter().collect::<Vec<_>>(), expected);
            encode_raw(&raw, (*gap > 0).then_some(raw.offset_delta), raw.timestamp_delta, &mut moved);
            next = raw.offset_delta + 1;
        }
        prop_assert_eq!(moved, out);
    }
}
