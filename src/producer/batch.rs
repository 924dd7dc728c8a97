//! How does a producer gather records? Into a batch that is within limits, charged to its buffer,
//! and acknowledged as one.

use std::time::Duration;

use super::core::{Charge, Core};
use super::failure::Failure;
use super::outcome::BatchState;
use super::sink::BatchSettings;
use crate::config::Compression;
use crate::format::batch::HEADER_BYTES;
use crate::segment::builder::{BatchBuilder, DELTA_BYTES_MAX, Measured, SealedBatch};
use crate::sync::Arc;
use crate::types::Timestamp;

/// A batch that takes records.
pub(super) struct OpenBatch {
    records: BatchBuilder,
    limits: BatchLimits,
    compression: Compression,
    charge: Charge,
    /// When it is written at the latest, by the monotonic clock.
    pub(super) deadline: Duration,
    /// Shared by the acknowledgements of its records.
    pub(super) state: Arc<BatchState>,
}

impl OpenBatch {
    pub(super) fn new(
        core: &Arc<Core>,
        limits: BatchLimits,
        compression: Compression,
        base_timestamp: Timestamp,
        first_len: usize,
        state: Arc<BatchState>,
    ) -> Self {
        let mut charge = Charge::new(core);
        let capacity = charge.cover(HEADER_BYTES + first_len);
        let records = BatchBuilder::new(&core.ctx, capacity, base_timestamp);
        OpenBatch { records, limits, compression, charge, deadline: Duration::MAX, state }
    }

    pub(super) fn limits(&self) -> BatchLimits {
        self.limits
    }

    pub(super) fn base_timestamp(&self) -> Timestamp {
        self.records.base_timestamp()
    }

    pub(super) fn count(&self) -> u32 {
        self.records.count()
    }

    /// It is not written: all its records fail with this write.
    pub(super) fn fail(&self, failure: &Arc<Failure>) {
        self.state.set_records(self.count());
        self.state.complete(Err(failure.clone()));
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether a record of this [length](crate::segment::builder::Measured::len) is allowed and
    /// finds room.
    #[inline]
    pub(super) fn fits(&self, len: usize) -> bool {
        len <= self.limits.record && self.records.sealed_len(1, len + DELTA_BYTES_MAX) <= self.limits.batch
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limits.batch
    }

    /// Encodes a record after the others, and returns its index in the batch.
    #[inline]
    pub(super) fn push(&mut self, record: &Measured<'_>, timestamp: Timestamp) -> u32 {
        let index = self.records.push(record, timestamp);
        self.charge.cover(self.records.len());
        index
    }

    /// Puts the records of `other` after its own, if they count their times from the same base and
    /// find room, and returns the index of the first of them.
    pub(super) fn absorb(&mut self, other: &OpenBatch) -> Option<u32> {
        let records = &other.records;
        if records.base_timestamp() != self.base_timestamp()
            || self.records.sealed_len(records.count(), records.body().len()) > self.limits.batch
        {
            return None;
        }
        let first = self.records.absorb(records);
        self.charge.cover(self.records.len());
        Some(first)
    }

    /// Compresses and checksums the body: everything that can be done before the offset is known.
    /// Under no lock.
    pub(super) fn compress(self, core: &Core) -> Compressed {
        let OpenBatch { records, compression, charge, .. } = self;
        Compressed { batch: records.seal(&core.ctx, compression), _charge: charge }
    }
}

/// A batch that only lacks its offset.
pub(super) struct Compressed {
    pub(super) batch: SealedBatch,
    /// Given back when the batch is in the log, or has failed.
    pub(super) _charge: Charge,
}

/// How large things may be in one partition, as of the opening of a batch.
#[derive(Clone, Copy)]
pub(super) struct BatchLimits {
    /// A batch with its header; only a single record may make it larger.
    pub(super) batch: usize,
    /// A record as [`Measured::len`](crate::segment::builder::Measured::len) counts it.
    pub(super) record: usize,
}

impl BatchLimits {
    pub(super) fn new(core: &Core, settings: &BatchSettings) -> Self {
        let batch_max = settings.max_batch_bytes;
        BatchLimits {
            batch: core.config.batch_bytes.min(batch_max),
            record: settings.max_record_len.min(core.config.buffer_bytes),
        }
    }

    /// The records of a full batch.
    pub(super) fn body(&self) -> usize {
        self.batch.saturating_sub(HEADER_BYTES)
    }
}
