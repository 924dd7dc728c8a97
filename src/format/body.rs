//! How are records laid out in a batch? One behind the other, each with its length first.
//!
//! [`encode`] is the producer's hot path and [`Records`] the consumer's: neither allocates. [`validate`] is what
//! stands between a body from a disk and everybody who iterates over it.

use super::batch::BatchHeader;
use super::packing::table_entry;
use super::reader::{Malformed, Reader};
use super::varint::{put_varint, unzigzag, varint_len, zigzag};

/// One record to encode.
#[derive(Debug)]
pub(crate) struct RecordFields<'a, H> {
    /// Offset minus the batch's base offset; `None`: one more than the record before, 0 for the first.
    pub(crate) offset_delta: Option<u32>,
    /// Timestamp minus the batch's base timestamp.
    pub(crate) timestamp_delta: i64,
    /// The key; `None` is null, which differs from empty.
    pub(crate) key: Option<&'a [u8]>,
    /// The value; `None` is null.
    pub(crate) value: Option<&'a [u8]>,
    /// The headers, in order; names may repeat.
    pub(crate) headers: &'a [H],
}

/// What a header must tell to be encoded, in whatever form its owner keeps it.
pub(crate) trait HeaderFields {
    /// The name.
    fn name(&self) -> &str;
    /// The value; `None` is null.
    fn value(&self) -> Option<&[u8]>;
}

impl<N: AsRef<str>, V: AsRef<[u8]>> HeaderFields for (N, Option<V>) {
    fn name(&self) -> &str {
        self.0.as_ref()
    }

    fn value(&self) -> Option<&[u8]> {
        self.1.as_ref().map(V::as_ref)
    }
}

/// How many bytes [`encode`] appends.
#[inline]
pub(crate) fn encoded_len<H: HeaderFields>(fields: &RecordFields<'_, H>) -> usize {
    let len = Shape::of(fields).len;
    varint_len(len as u64) + len
}

/// Appends a record to a body.
#[inline]
pub(crate) fn encode<H: HeaderFields>(fields: &RecordFields<'_, H>, out: &mut Vec<u8>) {
    let shape = Shape::of(fields);
    put_fields(&shape, fields, out);
    if shape.flags & HEADERS != 0 {
        put_headers(fields.headers, out);
    }
}

/// Appends a record that was read to another body, with other deltas: how a batch is written again with fewer records.
pub(crate) fn encode_raw(
    record: &RawRecord<'_>,
    offset_delta: Option<u32>,
    timestamp_delta: i64,
    out: &mut Vec<u8>,
) {
    let RawRecord { key, value, headers, .. } = *record;
    let fields =
        RecordFields::<(&str, Option<&[u8]>)> { offset_delta, timestamp_delta, key, value, headers: &[] };
    let mut shape = Shape::of(&fields);
    if headers.len() > 0 {
        shape.flags |= HEADERS;
        shape.len += varint_len(u64::from(headers.count)) + headers.bytes.len();
    }
    put_fields(&shape, &fields, out);
    if headers.len() > 0 {
        put_varint(out, u64::from(headers.count));
        out.extend_from_slice(headers.bytes);
    }
}

/// Checks a whole decompressed body against its header: every record is well-formed, they are `count`, nothing is
/// left over, offsets rise strictly within the batch, timestamps lie between 0 and the batch's maximum, header names
/// are UTF-8, and `table` has the positions of the records that it should have.
///
/// A caller that iterates over a validated body meets no error.
pub(crate) fn validate(header: &BatchHeader, body: &[u8], table: &[u8]) -> Result<(), Malformed> {
    let (base, max) = (header.base_timestamp.as_millis(), header.max_timestamp.as_millis());
    if header.count > 0 && max < 0 {
        return Err(Malformed::new(0, "negative timestamp"));
    }
    // The deltas with which base + delta lies between 0 and max; any with append time, where they mean nothing.
    let (least, greatest) = match base.checked_neg() {
        _ if header.attributes.append_time() => (i64::MIN, i64::MAX),
        Some(least) => (least, max.saturating_sub(base)),
        None => (i64::MAX, i64::MIN),
    };
    let mut records = Records::new(body, header.count);
    let mut table = Reader::new(table);
    // Runs between two entries of the table, so that the walk over records need not count.
    let run = 1_u32.checked_shl(u32::from(header.table)).filter(|_| header.table > 0).unwrap_or(u32::MAX);
    loop {
        let last = records.remaining.saturating_sub(run);
        let mut start = records.reader;
        while records.remaining > last {
            let record = records.read()?;
            if record.offset_delta > header.last_offset_delta {
                return Err(start.malformed("offset delta behind the batch's last"));
            }
            if record.timestamp_delta < least || record.timestamp_delta > greatest {
                return Err(start.malformed("timestamp out of the batch's bounds"));
            }
            if record.headers.len() > 0 {
                record.headers.check().map_err(|what| start.malformed(what))?;
            }
            records.remaining -= 1;
            start = records.reader;
        }
        if records.remaining == 0 {
            break;
        }
        if table_entry(header, &mut table)? != records.position() {
            return Err(start.malformed("position table"));
        }
    }
    table.expect_end("position table")?;
    records.reader.expect_end("bytes behind the last record")
}

/// A record as it lies in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    /// Offset minus the batch's base offset.
    pub(crate) offset_delta: u32,
    /// Timestamp minus the batch's base timestamp; see [`BatchHeader::timestamp`].
    pub(crate) timestamp_delta: i64,
    /// The key; `None` is null.
    pub(crate) key: Option<&'a [u8]>,
    /// The value; `None` is null.
    pub(crate) value: Option<&'a [u8]>,
    /// The headers.
    pub(crate) headers: RawHeaders<'a>,
}

/// The headers of a record as they lie in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawHeaders<'a> {
    /// Everything behind the count.
    bytes: &'a [u8],
    count: u32,
}

impl<'a> RawHeaders<'a> {
    /// How many there are.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.count as usize
    }

    /// Names and values, in order. In a body that was not validated, it may end early.
    pub(crate) fn iter(self) -> HeadersIter<'a> {
        HeadersIter { reader: Reader::new(self.bytes), remaining: self.count }
    }

    fn check(self) -> Result<(), &'static str> {
        let mut headers = self.iter();
        while headers.remaining > 0 {
            headers.read().map_err(|error| error.what)?;
        }
        headers.reader.expect_end("bytes behind the last header").map_err(|error| error.what)
    }
}

impl<'a> IntoIterator for RawHeaders<'a> {
    type Item = (&'a str, Option<&'a [u8]>);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// Iterates over [`RawHeaders`].
#[derive(Clone, Debug)]
pub(crate) struct HeadersIter<'a> {
    reader: Reader<'a>,
    remaining: u32,
}

impl<'a> HeadersIter<'a> {
    fn read(&mut self) -> Result<(&'a str, Option<&'a [u8]>), Malformed> {
        let name = self.reader.prefixed("header name")?;
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(self.reader.malformed("header name that is not UTF-8"));
        };
        let value = match self.reader.varint("header value")?.checked_sub(1) {
            Some(len) => Some(self.reader.take(usize::try_from(len).unwrap_or(usize::MAX), "header value")?),
            None => None,
        };
        self.remaining = self.remaining.saturating_sub(1);
        Ok((name, value))
    }
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return None;
        }
        let header = self.read().ok();
        if header.is_none() {
            self.remaining = 0;
        }
        header
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.remaining as usize))
    }
}

/// Iterates over the records of a decompressed body, and can say where it is and go on from there.
///
/// It is safe on any bytes: after the first malformed record it ends. It looks at neither the inside of headers nor
/// what is behind the last record: [`validate`] does.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    reader: Reader<'a>,
    remaining: u32,
    next_offset_delta: u32,
}

impl<'a> Records<'a> {
    /// All `count` records of a body.
    #[inline]
    pub(crate) fn new(body: &'a [u8], count: u32) -> Self {
        Records { reader: Reader::new(body), remaining: count, next_offset_delta: 0 }
    }

    /// Goes on where another iterator over the same body stood: what it said of itself.
    #[inline]
    pub(crate) fn resume(body: &'a [u8], position: usize, remaining: u32, next_offset_delta: u32) -> Self {
        Records { reader: Reader::at(body, position), remaining, next_offset_delta }
    }

    /// The position of the next record in the body.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.reader.position() as usize
    }

    /// How many records are left.
    #[inline]
    pub(crate) fn remaining(&self) -> u32 {
        self.remaining
    }

    /// The offset delta of the next record if it states none, and the least that it may state.
    #[inline]
    pub(crate) fn next_offset_delta(&self) -> u32 {
        self.next_offset_delta
    }

    #[inline(always)]
    fn read(&mut self) -> Result<RawRecord<'a>, Malformed> {
        match self.read_common() {
            Some(record) => Ok(record),
            None => self.read_any(),
        }
    }

    /// A well-formed record as most are: no headers, the next offset, lengths below 16 KiB. Anything else is `None`, and
    /// nothing has moved. This is the hot path of every read: a few compares, no error to carry about.
    #[inline(always)]
    fn read_common(&mut self) -> Option<RawRecord<'a>> {
        let mut reader = self.reader;
        let len = reader.short_varint()?;
        let mut fields = reader.short_take(len)?;
        let flags = fields.short_u8()?;
        if flags & !(TIMESTAMP | KEY | VALUE) != 0 {
            return None;
        }
        let timestamp_delta =
            if flags & TIMESTAMP != 0 { unzigzag(fields.short_varint()? as u64) } else { 0 };
        let key = if flags & KEY != 0 {
            let len = fields.short_varint()?;
            Some(fields.short_take(len)?.rest())
        } else {
            None
        };
        let value = if flags & VALUE != 0 {
            let len = fields.short_varint()?;
            Some(fields.short_take(len)?.rest())
        } else {
            None
        };
        let offset_delta = self.next_offset_delta;
        if fields.remaining() != 0 || offset_delta == u32::MAX {
            return None;
        }
        self.reader = reader;
        self.next_offset_delta = offset_delta + 1;
        Some(RawRecord { offset_delta, timestamp_delta, key, value, headers: RawHeaders::default() })
    }

    /// Any record, or what is wrong with it.
    #[inline(never)]
    fn read_any(&mut self) -> Result<RawRecord<'a>, Malformed> {
        let mut fields = self.reader.prefixed_reader("record length")?;
        let flags = fields.u8("record flags")?;
        if flags & !ALL_FLAGS != 0 {
            return Err(fields.malformed("record flags"));
        }
        let timestamp_delta = if flags & TIMESTAMP != 0 { fields.zigzag("timestamp delta")? } else { 0 };
        let offset_delta = if flags & OFFSET != 0 {
            let stated = fields.varint("offset delta")?;
            match u32::try_from(stated) {
                Ok(delta) if delta >= self.next_offset_delta => delta,
                _ => return Err(fields.malformed("offset delta")),
            }
        } else {
            self.next_offset_delta
        };
        let key = if flags & KEY != 0 { Some(fields.prefixed("record key")?) } else { None };
        let value = if flags & VALUE != 0 { Some(fields.prefixed("record value")?) } else { None };
        let headers = if flags & HEADERS != 0 {
            read_headers(fields)?
        } else {
            fields.expect_end("bytes behind the record's value")?;
            RawHeaders::default()
        };
        let Some(next) = offset_delta.checked_add(1) else { return Err(fields.malformed("offset delta")) };
        self.next_offset_delta = next;
        Ok(RawRecord { offset_delta, timestamp_delta, key, value, headers })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RawRecord<'a>, Malformed>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let left = self.remaining.checked_sub(1)?;
        let record = self.read();
        self.remaining = if record.is_ok() { left } else { 0 };
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.remaining as usize))
    }
}

/// What a record looks like before it is written: its flags, and its length without the length field.
struct Shape {
    flags: u8,
    len: usize,
}

impl Shape {
    #[inline]
    fn of<H: HeaderFields>(fields: &RecordFields<'_, H>) -> Shape {
        let mut shape = Shape { flags: 0, len: 1 };
        if fields.timestamp_delta != 0 {
            shape.add(TIMESTAMP, varint_len(zigzag(fields.timestamp_delta)));
        }
        if let Some(delta) = fields.offset_delta {
            shape.add(OFFSET, varint_len(u64::from(delta)));
        }
        if let Some(key) = fields.key {
            shape.add(KEY, varint_len(key.len() as u64) + key.len());
        }
        if let Some(value) = fields.value {
            shape.add(VALUE, varint_len(value.len() as u64) + value.len());
        }
        if !fields.headers.is_empty() {
            shape.add(HEADERS, headers_len(fields.headers));
        }
        shape
    }

    #[inline]
    fn add(&mut self, flag: u8, len: usize) {
        self.flags |= flag;
        self.len += len;
    }
}

/// Everything up to the headers.
#[inline]
fn put_fields<H>(shape: &Shape, fields: &RecordFields<'_, H>, out: &mut Vec<u8>) {
    out.reserve(MAX_VARINT + shape.len);
    put_varint(out, shape.len as u64);
    out.push(shape.flags);
    if fields.timestamp_delta != 0 {
        put_varint(out, zigzag(fields.timestamp_delta));
    }
    if let Some(delta) = fields.offset_delta {
        put_varint(out, u64::from(delta));
    }
    if let Some(key) = fields.key {
        put_varint(out, key.len() as u64);
        out.extend_from_slice(key);
    }
    if let Some(value) = fields.value {
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn headers_len<H: HeaderFields>(headers: &[H]) -> usize {
    let entry = |header: &H| {
        let (name, value) = (header.name().len(), header.value().map_or(0, <[u8]>::len));
        // A value of usize::MAX bytes cannot exist, so the length plus one is a length.
        let value_field = header.value().map_or(0, |value| value.len() as u64 + 1);
        varint_len(name as u64) + name + varint_len(value_field) + value
    };
    varint_len(headers.len() as u64) + headers.iter().map(entry).sum::<usize>()
}

fn put_headers<H: HeaderFields>(headers: &[H], out: &mut Vec<u8>) {
    put_varint(out, headers.len() as u64);
    for header in headers {
        put_varint(out, header.name().len() as u64);
        out.extend_from_slice(header.name().as_bytes());
        match header.value() {
            Some(value) => {
                put_varint(out, value.len() as u64 + 1);
                out.extend_from_slice(value);
            }
            None => out.push(0),
        }
    }
}

/// The headers' count, and their bytes unread.
fn read_headers(mut fields: Reader<'_>) -> Result<RawHeaders<'_>, Malformed> {
    let start = fields;
    let count = fields.varint("header count")?;
    match u32::try_from(count) {
        // The shortest header has two bytes.
        Ok(count) if count as usize <= fields.remaining() / 2 => {
            Ok(RawHeaders { bytes: fields.rest(), count })
        }
        _ => Err(start.malformed("header count")),
    }
}

const KEY: u8 = 1;
const VALUE: u8 = 1 << 1;
const HEADERS: u8 = 1 << 2;
const TIMESTAMP: u8 = 1 << 3;
const OFFSET: u8 = 1 << 4;
const ALL_FLAGS: u8 = KEY | VALUE | HEADERS | TIMESTAMP | OFFSET;
const MAX_VARINT: usize = 10;

#[cfg(test)]
mod tests {
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
        let records: Vec<_> = Records::new(&bytes, 4).map(Result::unwrap).collect();
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
        let whole: Vec<_> = Records::new(&bytes, 4).collect();
        for stop in 0..=4 {
            let mut first = Records::new(&bytes, 4);
            let mut read: Vec<_> = first.by_ref().take(stop).collect();
            let (position, remaining) = (first.position(), first.remaining());
            assert_eq!(remaining as usize, 4 - stop);
            read.extend(Records::resume(&bytes, position, remaining, first.next_offset_delta()));
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
            assert!(validate(&header(2, &bytes), &bytes[..len], &[]).is_err(), "cut to {len}");
        }
        for count in [0, 1, 3, u32::MAX] {
            assert!(validate(&header(count, &bytes), &bytes, &[]).is_err(), "{count}");
        }
        assert_eq!(validate(&header(0, &[]), &[], &[]), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused =
            |count: u32, bytes: &[u8]| validate(&header(count, bytes), bytes, &[]).unwrap_err().what;
        let timed = |timestamp_delta| body(&[RecordFields { timestamp_delta, ..fields(None, None, &[]) }]);
        let offset = |delta| RecordFields { offset_delta: Some(delta), ..fields(None, None, &[]) };
        assert_eq!(refused(1, &timed(1_001)), "timestamp out of the batch's bounds");
        assert_eq!(refused(1, &timed(-1_001)), "timestamp out of the batch's bounds");
        assert_eq!(refused(1, &timed(i64::MAX)), "timestamp out of the batch's bounds");
        assert_eq!(refused(1, &timed(i64::MIN)), "timestamp out of the batch's bounds");
        assert_eq!(refused(1, &body(&[offset(100)])), "offset delta behind the batch's last");
        assert_eq!(refused(2, &body(&[offset(5), offset(5)])), "offset delta");
        assert_eq!(refused(1, &body(&[offset(u32::MAX)])), "offset delta");
        assert_eq!(refused(1, &[0]), "record flags");
        assert_eq!(refused(1, &[1, 0x20]), "record flags");
        assert_eq!(refused(1, &[2, 0, 0]), "bytes behind the record's value");
        assert_eq!(refused(1, &[4, VALUE, 2, 0]), "record length");
        assert_eq!(refused(1, &[3, VALUE, 2, 0, 0]), "record value");
        assert_eq!(refused(1, &[3, HEADERS, 1, 0]), "header count");
        assert_eq!(refused(1, &[5, HEADERS, 1, 1, 0xff, 0]), "header name that is not UTF-8");
        assert_eq!(refused(1, &[4, HEADERS, 1, 0, 2]), "header value");
        assert_eq!(refused(1, &[5, HEADERS, 1, 0, 0, 0]), "bytes behind the last header");
        assert_eq!(refused(1, &[1, 0, 0]), "bytes behind the last record");
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
            validate(&BatchHeader { max_timestamp: Timestamp::from_millis(-1), ..header }, &bytes, &[])
                .is_err()
        );
    }

    #[test]
    fn reading_stops_at_the_first_malformed_record() {
        let mut records = Records::new(&[1, 0x80, 1, 0], 2);
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
            for record in Records::new(&bytes, u32::MAX).flatten() {
                assert!(record.headers.iter().count() <= record.headers.len());
            }
            if validate(&header(4, &bytes), &bytes, &[]).is_ok() {
                let records: Result<Vec<_>, _> = Records::new(&bytes, 4).collect();
                assert!(records.unwrap().iter().all(|r| r.headers.iter().count() == r.headers.len()));
            }
        }
    }

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))
    }

    proptest! {
        #[test]
        fn records_come_back(
            records in proptest::collection::vec(
                (bytes(), bytes(), -1_000i64..=1_000, 0u32..3, proptest::collection::vec((".{0,8}", bytes()), 0..4)),
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
            for (raw, (key, value, timestamp_delta, gap, headers)) in Records::new(&out, header.count).zip(&records) {
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
}
