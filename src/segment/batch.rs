//! A batch as a reader gets it: checked, with records that are slices of one shared buffer or map.

use super::Segment;
use crate::engine::{Buffer, Identity};
use crate::format::batch::BatchHeader;
use crate::format::packing::nearest;
use crate::storage::Map;
use crate::sync::Arc;
use crate::types::Offset;

/// A range of a map or of a pooled buffer. It keeps the map or the buffer alive.
#[derive(Clone)]
pub(crate) struct ByteView {
    backing: Backing,
    start: usize,
    end: usize,
}

#[derive(Clone)]
enum Backing {
    Map(Arc<Map>),
    Buffer(Arc<Buffer>),
}

impl ByteView {
    /// Returns `None` if the range is not inside the map.
    pub(crate) fn of_map(map: Arc<Map>, start: usize, end: usize) -> Option<Self> {
        map.as_slice().get(start..end)?;
        Some(ByteView { backing: Backing::Map(map), start, end })
    }

    /// Returns `None` if the range is not inside the buffer.
    pub(crate) fn of_buffer(buffer: Arc<Buffer>, start: usize, end: usize) -> Option<Self> {
        buffer.get(start..end)?;
        Some(ByteView { backing: Backing::Buffer(buffer), start, end })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // The constructors have checked the range, and neither a map nor a shared buffer changes.
        self.all().get(self.start..self.end).unwrap_or(&[])
    }

    /// Returns the first `len` bytes of it, or `None` if it has fewer.
    pub(crate) fn shortened(self, len: usize) -> Option<Self> {
        let end = self.start.checked_add(len).filter(|end| *end <= self.end)?;
        Some(ByteView { end, ..self })
    }

    /// Returns the `len` bytes that follow it in the map or the buffer, or an empty slice if there
    /// are fewer.
    pub(crate) fn following(&self, len: usize) -> &[u8] {
        self.end.checked_add(len).and_then(|end| self.all().get(self.end..end)).unwrap_or(&[])
    }

    fn all(&self) -> &[u8] {
        match &self.backing {
            Backing::Map(map) => map.as_slice(),
            Backing::Buffer(buffer) => buffer,
        }
    }
}

/// A batch as readers see it: header and records, checked, uncompressed.
pub(crate) struct Batch {
    pub(crate) source: Arc<Identity>,
    pub(crate) header: BatchHeader,
    /// The encoded records: valid by construction or by [`crate::format::body::validate`]. If they
    /// were read from a file, the table of their positions follows.
    pub(crate) records: ByteView,
    /// The batch's segment, from which a reader continues.
    pub(crate) segment: Arc<Segment>,
    /// The byte position after the batch in its segment.
    pub(crate) next_position: u64,
}

impl Batch {
    /// Returns the number and the position of a record from which a walk to `offset` can start. It
    /// is at or before the record of `offset`. Returns the first record if the batch has offsets
    /// without a record, because then numbers do not follow from offsets.
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
