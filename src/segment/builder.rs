//! How do records become a batch? Encoded once, one behind the other, then compressed and checksummed once; all of it
//! before anybody holds a lock.

use crate::config::Compression;
use crate::engine::{Buffer, Context};
use crate::format::batch::{BatchHeader, HEADER_BYTES};
use crate::format::body::{HeaderFields, RecordFields, encode, encoded_len};
use crate::format::packing::{NOTED, TABLE_RECORDS_PER_BYTE, pack};
use crate::record::{Header, Record};
use crate::types::Timestamp;

/// A batch ready to be appended.
pub(crate) struct SealedBatch {
    /// Complete but for what the log fills in: base offset, log epoch, `synced_upto`.
    pub(crate) header: BatchHeader,
    /// Room for the header, then the body as it is stored.
    pub(crate) stored: Buffer,
    /// Room for a header, then the uncompressed body, if the stored one is compressed.
    pub(crate) raw: Option<Buffer>,
    /// The first of its records that has no key.
    pub(crate) keyless: Option<u32>,
}

impl SealedBatch {
    /// The encoded records, uncompressed.
    pub(crate) fn records(&self) -> &[u8] {
        let end = HEADER_BYTES.saturating_add(self.header.uncompressed_len as usize);
        self.raw.as_ref().unwrap_or(&self.stored).get(HEADER_BYTES..end).unwrap_or(&[])
    }
}

/// A batch that still takes records.
pub(crate) struct BatchBuilder {
    /// Room for the header, then the records as encoded so far.
    bytes: Buffer,
    count: u32,
    /// Where in the body every [`NOTED`]-th record begins, from that one on. Kept while they are encoded: to find them afterwards
    /// costs a walk.
    positions: Vec<u32>,
    /// The first that has no key.
    keyless: Option<u32>,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// An empty one whose buffer has room for `capacity` bytes, header included.
    pub(crate) fn new(ctx: &Context, capacity: usize, base_timestamp: Timestamp) -> Self {
        let mut bytes = ctx.pool.take(capacity.max(HEADER_BYTES));
        bytes.resize(HEADER_BYTES, 0);
        BatchBuilder {
            bytes,
            count: 0,
            positions: Vec::new(),
            keyless: None,
            base_timestamp,
            max_timestamp: Timestamp::default(),
        }
    }

    /// The time that the records' times are told from.
    pub(crate) fn base_timestamp(&self) -> Timestamp {
        self.base_timestamp
    }

    /// How many records it has.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes it has, header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes it has at most once it is sealed with `more` records of `len` bytes added: with the table of their
    /// positions.
    #[inline]
    pub(crate) fn sealed_len(&self, more: u32, len: usize) -> usize {
        self.bytes.len() + len + (self.count as usize + more as usize) / TABLE_RECORDS_PER_BYTE
    }

    /// Encodes one more record; answers with its place in the batch.
    #[inline]
    pub(crate) fn push(&mut self, record: &Record<'_>, timestamp: Timestamp) -> u32 {
        // Valid timestamps lie between 0 and 2^62, so this cannot overflow.
        let delta = timestamp.as_millis() - self.base_timestamp.as_millis();
        if self.count.is_multiple_of(NOTED) && self.count > 0 {
            self.note_position();
        }
        encode(&fields(record, delta), &mut self.bytes);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let index = self.count;
        if record.key_bytes().is_none() {
            self.keyless.get_or_insert(index);
        }
        self.count += 1;
        index
    }

    /// Takes over all records of a batch with the same base timestamp as they are encoded; answers with the place of
    /// the first.
    pub(crate) fn absorb(&mut self, other: &BatchBuilder) -> u32 {
        // The positions that `other` noted are not of every 16th record of this batch: sealing finds the missing ones by a walk.
        self.bytes.extend_from_slice(other.body());
        self.max_timestamp = self.max_timestamp.max(other.max_timestamp);
        let first = self.count;
        self.keyless = self.keyless.or_else(|| Some(first + other.keyless?));
        self.count += other.count;
        first
    }

    #[cold]
    fn note_position(&mut self) {
        // A body has less than 2^32 bytes.
        self.positions.push(self.bytes.len().saturating_sub(HEADER_BYTES) as u32);
    }

    /// The encoded records.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Compresses the records, unless they do not shrink, and makes their checksum. Under no lock.
    pub(crate) fn seal(self, ctx: &Context, compression: Compression) -> SealedBatch {
        let BatchBuilder { bytes, count, positions, keyless, base_timestamp, max_timestamp } = self;
        let mut header = BatchHeader {
            last_offset_delta: count.saturating_sub(1),
            count,
            base_timestamp,
            max_timestamp,
            ..BatchHeader::default()
        };
        let (stored, raw) = pack(&mut header, compression, &positions, bytes, |len| ctx.pool.take(len));
        SealedBatch { header, stored, raw, keyless }
    }
}

/// The encoded size of a record in bytes, its place in time not counted.
#[inline]
pub(crate) fn record_len(record: &Record<'_>) -> usize {
    encoded_len(&fields(record, 0))
}

/// What a record's place in time adds to its size at most: the delta (a varint of 63 bits) and one more byte of length.
pub(crate) const DELTA_BYTES_MAX: usize = 11;

#[inline]
fn fields<'a>(record: &'a Record<'_>, timestamp_delta: i64) -> RecordFields<'a, Header<'a>> {
    RecordFields {
        offset_delta: None,
        timestamp_delta,
        key: record.key_bytes(),
        value: record.value_bytes(),
        headers: record.headers(),
    }
}

impl HeaderFields for Header<'_> {
    fn name(&self) -> &str {
        Header::name(self)
    }

    fn value(&self) -> Option<&[u8]> {
        Header::value(self)
    }
}
