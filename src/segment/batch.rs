//! A batch as a reader gets it: checked, with records that are slices of one shared buffer or map.

use super::{ByteView, Segment};
use crate::engine::{Context, Identity};
use crate::format::batch::BatchHeader;
use crate::format::packing::nearest;
use crate::sync::Arc;
use crate::types::Offset;

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
    /// Returns the same batch with its own copy of the records; `None` if it does not refer to a
    /// map.
    pub(crate) fn without_map(&self, ctx: &Context) -> Option<Batch> {
        let table = usize::try_from(self.header.table_bytes()).unwrap_or(0);
        Some(Batch {
            source: self.source.clone(),
            header: self.header,
            records: self.records.copy_of_map(&ctx.pool, table)?,
            segment: self.segment.clone(),
            next_position: self.next_position,
        })
    }

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
