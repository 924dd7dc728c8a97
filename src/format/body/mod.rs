//! The layout of records in the body of a batch: one after the other, each with its length first.
//!
//! [`encode_shaped`] is the producer's hot path and [`Records`] the consumer's: neither allocates.
//! Every body that was read from a medium must pass [`validate`] before a caller iterates over it.

use super::batch::BatchHeader;
use super::reader::{ByteReader, Malformed};
use super::varint::{put_varint, unzigzag, varint_len, zigzag};

/// One record to encode.
#[derive(Debug)]
pub(crate) struct RecordFields<'a, H> {
    /// Offset minus the batch's base offset; `None`: one more than the record before, 0 for the
    /// first.
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

/// The fields of a record header to encode, in whatever form the caller keeps them.
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
#[cfg(test)]
pub(crate) fn encoded_len<H: HeaderFields>(fields: &RecordFields<'_, H>) -> usize {
    Shape::of(fields).encoded_len()
}

/// Appends a record to a body.
#[cfg(test)]
pub(crate) fn encode<H: HeaderFields>(fields: &RecordFields<'_, H>, out: &mut Vec<u8>) {
    encode_shaped(Shape::of(fields), fields, out);
}

/// Appends a record of this shape to a body.
#[inline]
pub(crate) fn encode_shaped<H: HeaderFields>(shape: Shape, fields: &RecordFields<'_, H>, out: &mut Vec<u8>) {
    put_fields(&shape, fields, out);
    if shape.flags & HEADERS != 0 {
        put_headers(fields.headers, out);
    }
}

/// Appends a record that was read, with other deltas, to another body. For a batch that is written
/// again with fewer records.
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

/// Checks a whole decompressed body against its header: every record is well-formed, they are
/// `count`, nothing is left over, offsets rise strictly within the batch, timestamps lie between 0
/// and the batch's maximum, header names are UTF-8, and `table` has the positions of the records
/// that it should have.
///
/// A caller that iterates over a validated body meets no error.
pub(crate) fn validate(header: &BatchHeader, body: &[u8], table: &[u8]) -> Result<(), Malformed> {
    let (base, max) = (header.base_timestamp.as_millis(), header.max_timestamp.as_millis());
    if header.count > 0 && max < 0 {
        return Err(Malformed::new(0, "negative timestamp"));
    }
    // The deltas with which base + delta lies between 0 and max. With append time any delta,
    // because none is used.
    let (least, greatest) = match base.checked_neg() {
        _ if header.attributes.append_time() => (i64::MIN, i64::MAX),
        Some(least) => (least, max.saturating_sub(base)),
        None => (i64::MAX, i64::MIN),
    };
    let mut records = RawRecords::new(body, header.count);
    let mut table = ByteReader::new(table);
    // Runs between two entries of the table, so that the walk over records need not count.
    let run = 1_u32.checked_shl(u32::from(header.table)).filter(|_| header.table > 0).unwrap_or(u32::MAX);
    loop {
        let last = records.remaining.saturating_sub(run);
        let mut start = records.reader;
        while records.remaining > last {
            let record = records.read()?;
            if record.offset_delta > header.last_offset_delta {
                return Err(start.malformed("offset delta after the batch's last"));
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
        if header.table_entry(&mut table)? != records.position() {
            return Err(start.malformed("position table"));
        }
    }
    table.expect_end("position table")?;
    records.reader.expect_end("bytes after the last record")
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
    /// The bytes after the count.
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
        HeadersIter { reader: ByteReader::new(self.bytes), remaining: self.count }
    }

    fn check(self) -> Result<(), &'static str> {
        let mut headers = self.iter();
        while headers.remaining > 0 {
            headers.read().map_err(|error| error.what)?;
        }
        headers.reader.expect_end("bytes after the last header").map_err(|error| error.what)
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
    reader: ByteReader<'a>,
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

/// Iterates over the records of a decompressed body. Its state can be saved and resumed.
///
/// It is safe on any bytes: after the first malformed record it ends. It does not check the content
/// of headers, nor the bytes after the last record: [`validate`] does.
#[derive(Clone, Debug)]
pub(crate) struct RawRecords<'a> {
    reader: ByteReader<'a>,
    remaining: u32,
    next_offset_delta: u32,
}

impl<'a> RawRecords<'a> {
    /// All `count` records of a body.
    #[inline]
    pub(crate) fn new(body: &'a [u8], count: u32) -> Self {
        RawRecords { reader: ByteReader::new(body), remaining: count, next_offset_delta: 0 }
    }

    /// Continues where another iterator over the same body stopped, from the three values that it
    /// returned.
    #[inline]
    pub(crate) fn resume(body: &'a [u8], position: usize, remaining: u32, next_offset_delta: u32) -> Self {
        RawRecords { reader: ByteReader::at(body, position), remaining, next_offset_delta }
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

    /// The offset delta of the next record if it has none of its own, and the least that it may
    /// have.
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

    /// Reads a well-formed record of the common form: no headers, the next offset, lengths below 16
    /// KiB. Returns `None` for any other, and then the position is unchanged. This is the hot path
    /// of every read: a few comparisons and no error value.
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

    /// Reads any record.
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
            fields.expect_end("bytes after the record's value")?;
            RawHeaders::default()
        };
        let Some(next) = offset_delta.checked_add(1) else { return Err(fields.malformed("offset delta")) };
        self.next_offset_delta = next;
        Ok(RawRecord { offset_delta, timestamp_delta, key, value, headers })
    }
}

impl<'a> Iterator for RawRecords<'a> {
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

/// The flags of a record to encode, and its length without the length field.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    flags: u8,
    len: usize,
}

impl Shape {
    /// Looks at all fields, which is much of the cost of encoding a small record.
    #[inline]
    pub(crate) fn of<H: HeaderFields>(fields: &RecordFields<'_, H>) -> Shape {
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

    /// The shape of the same record with this timestamp delta, where it had none.
    #[inline]
    pub(crate) fn with_timestamp_delta(mut self, delta: i64) -> Shape {
        if delta != 0 {
            self.add(TIMESTAMP, varint_len(zigzag(delta)));
        }
        self
    }

    /// How many bytes [`encode_shaped`] appends.
    #[inline]
    pub(crate) fn encoded_len(self) -> usize {
        varint_len(self.len as u64) + self.len
    }

    #[inline]
    fn add(&mut self, flag: u8, len: usize) {
        self.flags |= flag;
        self.len += len;
    }
}

/// Appends the fields before the headers.
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

/// Reads the count of the headers, and takes their bytes unread.
fn read_headers(mut fields: ByteReader<'_>) -> Result<RawHeaders<'_>, Malformed> {
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
mod tests;
