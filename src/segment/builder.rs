//! Builds a batch from records: each is encoded once, after the one before it; then the batch is
//! compressed and checksummed once. No lock is held meanwhile.

use crate::config::Compression;
use crate::engine::{Buffer, Context};
use crate::format::batch::{BatchHeader, HEADER_BYTES};
use crate::format::body::{HeaderFields, RecordFields, Shape, encode_shaped};
use crate::format::packing::{NOTED, TABLE_RECORDS_PER_BYTE, pack};
use crate::record::{Header, Record};
use crate::types::Timestamp;

/// A batch ready to be appended.
pub(crate) struct SealedBatch {
    /// Complete except for the fields that the log fills in: base offset, log epoch, `synced_upto`.
    pub(crate) header: BatchHeader,
    /// Room for the header, then the body as stored.
    pub(crate) stored: Buffer,
    /// Room for a header, then the uncompressed body, if the stored one is compressed.
    pub(crate) raw: Option<Buffer>,
    /// The index of the first record without a key.
    pub(crate) keyless: Option<u32>,
}

impl SealedBatch {
    /// Returns the encoded records, uncompressed.
    pub(crate) fn records(&self) -> &[u8] {
        let end = HEADER_BYTES.saturating_add(self.header.uncompressed_len as usize);
        self.raw.as_ref().unwrap_or(&self.stored).get(HEADER_BYTES..end).unwrap_or(&[])
    }
}

/// A batch that still takes records.
pub(crate) struct BatchBuilder {
    /// Room for the header, then the records encoded so far.
    bytes: Buffer,
    count: u32,
    /// The position in the body of every [`NOTED`]-th record, starting with that one. Noted during
    /// encoding, because finding them afterwards takes a walk.
    positions: Vec<u32>,
    /// The index of the first record without a key.
    keyless: Option<u32>,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// Returns an empty builder whose buffer has room for `capacity` bytes, header included.
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

    /// Returns the timestamp that the records' timestamps are stored relative to.
    pub(crate) fn base_timestamp(&self) -> Timestamp {
        self.base_timestamp
    }

    /// Returns the number of records.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Returns the number of bytes, header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the most bytes that the sealed batch has, table of positions included, after `more`
    /// records of `len` bytes together are added.
    #[inline]
    pub(crate) fn sealed_len(&self, more: u32, len: usize) -> usize {
        self.bytes.len() + len + (self.count as usize + more as usize) / TABLE_RECORDS_PER_BYTE
    }

    /// Encodes one more record. Returns its index in the batch.
    #[inline]
    pub(crate) fn push(&mut self, measured: &Measured<'_>, timestamp: Timestamp) -> u32 {
        let Measured { record, shape } = *measured;
        // Valid timestamps are between 0 and 2^62, so this cannot overflow.
        let delta = timestamp.as_millis() - self.base_timestamp.as_millis();
        if self.count.is_multiple_of(NOTED) && self.count > 0 {
            self.note_position();
        }
        encode_shaped(shape.with_timestamp_delta(delta), &fields(record, delta), &mut self.bytes);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let index = self.count;
        if record.key_bytes().is_none() {
            self.keyless.get_or_insert(index);
        }
        self.count += 1;
        index
    }

    /// Appends all records of a batch with the same base timestamp, as they are encoded. Returns
    /// the index of the first.
    pub(crate) fn absorb(&mut self, other: &BatchBuilder) -> u32 {
        // The positions that `other` noted are not those of every 16th record of this batch:
        // sealing finds the missing ones by a walk.
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

    /// Returns the encoded records.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Compresses the records, if a compressor is given, and computes the checksums. A batch that
    /// does not shrink is stored uncompressed. The caller must hold no lock.
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

/// A record and its measures, which are taken once: before it is accepted.
#[derive(Clone, Copy)]
pub(crate) struct Measured<'a> {
    pub(crate) record: &'a Record<'a>,
    shape: Shape,
}

impl<'a> Measured<'a> {
    #[inline]
    pub(crate) fn new(record: &'a Record<'a>) -> Self {
        Measured { record, shape: Shape::of(&fields(record, 0)) }
    }

    /// Returns the encoded size of the record in bytes, without its timestamp delta.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.shape.encoded_len()
    }
}

/// The most bytes that a timestamp delta adds to a record: the delta (a varint of 63 bits) and one
/// more byte of length.
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
