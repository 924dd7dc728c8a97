//! What does a reader get? A checked batch whose records are slices of one shared buffer or map.

use super::Segment;
use crate::engine::{Buffer, Identity};
use crate::format::batch::BatchHeader;
use crate::format::packing::nearest;
use crate::storage::Map;
use crate::sync::Arc;
use crate::types::Offset;

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
        // The constructors have seen that the range is there, and neither a map nor a shared buffer changes.
        self.all().get(self.start..self.end).unwrap_or(&[])
    }

    /// The first `len` bytes of it; `None` if it has fewer.
    pub(crate) fn shortened(self, len: usize) -> Option<Self> {
        let end = self.start.checked_add(len).filter(|end| *end <= self.end)?;
        Some(ByteView { end, ..self })
    }

    /// The `len` bytes that follow it in the map or the buffer; nothing if there are not as many.
    pub(crate) fn following(&self, len: usize) -> &[u8] {
        self.end.checked_add(len).and_then(|end| self.all().get(self.end..end)).unwrap_or(&[])
    }

    fn all(&self) -> &[u8] {
        match &self.owner {
            Owner::Map(map) => map.as_slice(),
            Owner::Buffer(buffer) => buffer,
        }
    }
}

/// A batch as readers see it: header and records, checked, uncompressed.
pub(crate) struct Batch {
    pub(crate) source: Arc<Identity>,
    pub(crate) header: BatchHeader,
    /// The encoded records: valid by construction or by [`crate::format::body::validate`]. Where they were read from a
    /// file, the table of their positions follows.
    pub(crate) records: ByteView,
    /// Where it lies, so that a reader can walk on behind it.
    pub(crate) segment: Arc<Segment>,
    /// The byte position behind it in its segment.
    pub(crate) next_position: u64,
}

impl Batch {
    /// A record at or before the one of this offset to start walking from: its number and its position. Only where every
    /// offset of the batch has its record do numbers follow from offsets: otherwise the first record.
    pub(crate) fn nearest(&self, offset: Offset) -> (u32, usize) {
        let header = &self.header;
        if header.last_offset_delta.checked_add(1) != Some(header.count) {
            return (0, 0);
        }
        let index = u32::try_from(offset.since(header.base_offset)).unwrap_or(u32::MAX);
        let table = self.records.following(usize::try_from(header.table_bytes()).unwrap_or(0));
        nearest(header, table, index)
    }
}
