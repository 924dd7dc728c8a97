//! How do records become a batch? Encoded once, one behind the other, then compressed and checksummed once.

use std::time::Duration;

use super::core::{Charge, Core};
use super::pending::BatchState;
use crate::config::Compression;
use crate::format::batch::{Attributes, BatchHeader, HEADER_BYTES, body_crc};
use crate::format::body::{HeaderFields, RecordFields, encode, encoded_len};
use crate::format::compression::Codec;
use crate::log::{Buffer, LogSettings, SealedBatch};
use crate::record::{Header, Record};
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// A batch that takes records.
pub(super) struct OpenBatch {
    /// Room for the header, then the records.
    bytes: Buffer,
    count: u32,
    /// Deltas count from here: the time of the first record, or of the batch that this one may be appended to.
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    limits: Limits,
    compression: Compression,
    charge: Charge,
    /// When it is written at the latest, by the monotonic clock.
    pub(super) deadline: Duration,
    /// What its records' acknowledgements share.
    pub(super) state: Arc<BatchState>,
}

impl OpenBatch {
    pub(super) fn new(
        core: &Arc<Core>,
        limits: Limits,
        compression: Compression,
        base_timestamp: Timestamp,
        first_len: usize,
        state: Arc<BatchState>,
    ) -> Self {
        let mut charge = Charge::new(core);
        let capacity = charge.cover(HEADER_BYTES + first_len);
        let mut bytes = core.ctx.pool.take(capacity);
        bytes.resize(HEADER_BYTES, 0);
        OpenBatch {
            bytes,
            count: 0,
            base_timestamp,
            max_timestamp: Timestamp::default(),
            limits,
            compression,
            charge,
            deadline: Duration::MAX,
            state,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn base_timestamp(&self) -> Timestamp {
        self.base_timestamp
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a record of this [`record_len`] is allowed and finds room.
    #[inline]
    pub(super) fn fits(&self, len: usize) -> bool {
        len <= self.limits.record && self.bytes.len() + len + DELTA_BYTES_MAX <= self.limits.batch
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.limits.batch
    }

    /// Encodes a record behind the others, and says which of the batch it is.
    #[inline]
    pub(super) fn push(&mut self, record: &Record<'_>, timestamp: Timestamp) -> u32 {
        // Valid timestamps lie between 0 and 2^62, so this cannot overflow.
        let delta = timestamp.as_millis() - self.base_timestamp.as_millis();
        encode(&fields(record, delta), &mut self.bytes);
        self.charge.cover(self.bytes.len());
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let index = self.count;
        self.count += 1;
        index
    }

    /// Puts the records of `other` behind its own, if they count their times from the same base and find room, and says
    /// which of the batch the first of them is now.
    pub(super) fn absorb(&mut self, other: &OpenBatch) -> Option<u32> {
        let records = other.bytes.get(HEADER_BYTES..)?;
        if other.base_timestamp != self.base_timestamp || self.bytes.len() + records.len() > self.limits.batch
        {
            return None;
        }
        self.bytes.extend_from_slice(records);
        self.charge.cover(self.bytes.len());
        self.max_timestamp = self.max_timestamp.max(other.max_timestamp);
        let first = self.count;
        self.count += other.count;
        Some(first)
    }

    /// Compresses and checksums the body: everything that can be done before the offset is known. Under no lock.
    pub(super) fn press(self, core: &Core) -> Pressed {
        let OpenBatch { bytes, count, base_timestamp, max_timestamp, compression, charge, .. } = self;
        let uncompressed_len = body_len(&bytes);
        let (codec, stored, raw) = match compression {
            Compression::None => (Codec::None, bytes, None),
            Compression::Lz4 => match compress(core, &bytes) {
                Some(compressed) => (Codec::Lz4, compressed, Some(bytes)),
                None => (Codec::None, bytes, None),
            },
        };
        let header = BatchHeader {
            body_len: body_len(&stored),
            base_offset: Offset::ZERO,
            last_offset_delta: count.saturating_sub(1),
            count,
            base_timestamp,
            max_timestamp,
            producer_id: 0,
            base_sequence: 0,
            producer_epoch: 0,
            attributes: Attributes::default().with_codec_bits(codec.bits()),
            uncompressed_len,
            transaction_id: 0,
            synced_upto: Offset::ZERO,
            extra: 0,
            log_epoch: 0,
            body_crc: body_crc(stored.get(HEADER_BYTES..).unwrap_or_default()),
        };
        Pressed { batch: SealedBatch { header, stored, raw }, charge }
    }
}

/// A batch that only lacks its offset.
pub(super) struct Pressed {
    pub(super) batch: SealedBatch,
    /// Given back when the batch is in the log, or has failed.
    pub(super) charge: Charge,
}

/// How large things may be in one partition, as of the opening of a batch.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// A batch with its header; only a single record may make it larger.
    pub(super) batch: usize,
    /// A record as [`record_len`] counts it.
    pub(super) record: usize,
}

impl Limits {
    pub(super) fn new(core: &Core, settings: &LogSettings) -> Self {
        let batch_max = settings.max_batch_bytes();
        Limits {
            batch: core.config.batch_bytes.min(batch_max),
            record: (settings.max_record_bytes as usize)
                .min(batch_max.saturating_sub(HEADER_BYTES))
                .min(core.config.buffer_bytes),
        }
    }

    /// The records of a full batch.
    pub(super) fn body(&self) -> usize {
        self.batch.saturating_sub(HEADER_BYTES)
    }
}

/// The encoded size of a record in bytes, its place in time not counted.
#[inline]
pub(super) fn record_len(record: &Record<'_>) -> usize {
    encoded_len(&fields(record, 0))
}

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

/// The compressed body behind room for a header; `None` if it would not be smaller.
fn compress(core: &Core, bytes: &[u8]) -> Option<Buffer> {
    let body = bytes.get(HEADER_BYTES..)?;
    let mut out = core.ctx.pool.take(HEADER_BYTES + body.len());
    out.resize(HEADER_BYTES, 0);
    let mut compressor = core.take_compressor();
    let smaller = compressor.compress(body, &mut out);
    core.return_compressor(compressor);
    smaller.then_some(out)
}

/// A batch is 16 MiB, or one record of 32 MiB, at most: this fits.
fn body_len(bytes: &[u8]) -> u32 {
    bytes.len().saturating_sub(HEADER_BYTES) as u32
}

/// What a record's place in time adds to its size at most: the delta (a varint of 63 bits) and one more byte of length.
const DELTA_BYTES_MAX: usize = 11;
