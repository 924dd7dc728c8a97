//! Batches as stored, on their way from a partition to a copy of it.

use crate::error::{Error, Result};
use crate::format::FORMAT_VERSION;
use crate::format::reader::{Malformed, Unsupported};
use crate::format::shipment::{self, Envelope, ShipmentBatches};
use crate::types::{Offset, PartitionId, TopicId};

/// Batches of a partition as stored there, to be sent to a copy of it over any transport.
///
/// Made by [`Partition::read_raw`](crate::Partition::read_raw), taken by
/// [`Partition::append_raw`](crate::Partition::append_raw). The bytes carry checksums over
/// everything. The format's documentation describes them under "Raw shipping".
#[derive(Clone, PartialEq, Eq)]
pub struct RawBatches {
    /// Complete: has passed [`shipment::check`], or was made of batches that were checked when they
    /// were read.
    bytes: Vec<u8>,
    envelope: Envelope,
}

impl RawBatches {
    /// Takes the bytes that [`as_bytes`](RawBatches::as_bytes) returned at the source. Checks every
    /// checksum; the records are checked when they are appended.
    ///
    /// # Errors
    /// [`InvalidBatches`](Error::InvalidBatches) if the bytes are incomplete or changed.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        let envelope = shipment::check(&bytes).map_err(|m| invalid(&m))?;
        Ok(RawBatches { bytes, envelope })
    }

    /// `bytes` must be complete, and `envelope` the one at their start.
    pub(crate) fn new(bytes: Vec<u8>, envelope: Envelope) -> Self {
        RawBatches { bytes, envelope }
    }

    /// Returns the batches one by one.
    pub(crate) fn batches(&self) -> ShipmentBatches<'_> {
        ShipmentBatches::new(&self.envelope, &self.bytes)
    }

    /// Returns the bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the bytes to send, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns whether there is no batch, because the source had none at or after the requested
    /// offset.
    pub fn is_empty(&self) -> bool {
        self.envelope.batches == 0
    }

    /// Returns the number of batches.
    pub fn len(&self) -> usize {
        self.envelope.batches as usize
    }

    /// Returns the first offset of the first batch; without any batch, the requested offset.
    pub fn base_offset(&self) -> Offset {
        self.envelope.base_offset
    }

    /// Returns the offset after the last batch, from which to ask for more.
    pub fn end_offset(&self) -> Offset {
        self.envelope.end_offset
    }

    /// Returns the topic that the batches were read from.
    pub fn topic_id(&self) -> TopicId {
        self.envelope.topic_id
    }

    /// Returns the partition of that topic.
    pub fn partition(&self) -> PartitionId {
        self.envelope.partition
    }

    /// Returns the log epoch of that partition when the batches were read. A copy must store it
    /// together with its own end, and pass both to [`read_raw_in`](crate::Partition::read_raw_in)
    /// for the next batches. If the epoch has risen since the last shipment, the source was
    /// truncated, and the copy may hold records that the source has lost. Then ask for batches that
    /// the copy already has: [`append_raw`](crate::Partition::append_raw) returns
    /// [`Diverged`](Error::Diverged) if they differ, with the offset to
    /// [truncate](crate::Partition::truncate_to) the copy to.
    pub fn epoch(&self) -> u32 {
        self.envelope.log_epoch
    }
}

impl std::fmt::Debug for RawBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawBatches")
            .field("base_offset", &self.base_offset())
            .field("end_offset", &self.end_offset())
            .field("len", &self.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// The error for bytes that are incomplete, damaged, or need another build.
pub(crate) fn invalid(malformed: &Malformed) -> Error {
    let what = match malformed.unsupported {
        Some(needs @ Unsupported::Codec { .. }) => format!("this build does not have {needs}:"),
        Some(needs) => format!("they need {needs}, and this build has format version {FORMAT_VERSION}:"),
        None => malformed.what.to_string(),
    };
    Error::InvalidBatches { position: malformed.position, what }
}
