//! What does a reader get? A checked batch whose records are slices of one shared buffer or map.

use super::pool::Buffer;
use super::segment::Segment;
use crate::error::Error;
use crate::format::batch::BatchHeader;
use crate::storage::Map;
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId, TopicName};

/// Which partition of which topic: what every batch, error and receipt of a log names.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) topic: TopicName,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
}

impl Identity {
    /// No file of the partition can be written anew any more.
    pub(crate) fn generations_exhausted(&self) -> Error {
        Error::GenerationsExhausted { topic: self.topic.clone(), partition: self.partition }
    }
}

/// Bytes that somebody else keeps alive: a range of a map or of a pooled buffer.
#[derive(Clone)]
pub(crate) struct ByteView {
    owner: Owner,
    start: usize,
    end: usize,
}

#[derive(Clone)]
enum Owner {
    Map(Arc<Map>),
    Buffer(Arc<Buffer>),
}

impl ByteView {
    /// `None` if the range does not lie in the map.
    pub(crate) fn of_map(map: Arc<Map>, start: usize, end: usize) -> Option<Self> {
        map.as_slice().get(start..end)?;
        Some(ByteView { owner: Owner::Map(map), start, end })
    }

    /// `None` if the range does not lie in the buffer.
    pub(crate) fn of_buffer(buffer: Arc<Buffer>, start: usize, end: usize) -> Option<Self> {
        buffer.get(start..end)?;
        Some(ByteView { owner: Owner::Buffer(buffer), start, end })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Map(map) => map.as_slice(),
            Owner::Buffer(buffer) => buffer,
        };
        // The constructors have seen that the range is there, and neither a map nor a shared buffer changes.
        all.get(self.start..self.end).unwrap_or(&[])
    }
}

/// A batch as readers see it: header and records, checked, uncompressed.
pub(crate) struct Batch {
    pub(crate) source: Arc<Identity>,
    pub(crate) header: BatchHeader,
    /// The encoded records: valid by construction or by [`crate::format::body::validate`].
    pub(crate) records: ByteView,
    /// Where it lies, so that a reader can walk on behind it.
    pub(crate) segment: Arc<Segment>,
    /// The byte position behind it in its segment.
    pub(crate) next_position: u64,
}
