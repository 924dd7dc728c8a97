//! Bytes that an opening has left unsynced: see [`successors`](super::successors). Knows no log.

use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::Offset;

/// Bytes of a segment that an opening has checked, and that may not be durable.
pub(crate) struct Inherited {
    pub(crate) segment: Arc<Segment>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The base offset of the first batch at or after `from`.
    pub(crate) first: Offset,
}
