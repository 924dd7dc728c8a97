//! A range of the bytes of a segment that keeps its map or buffer alive.

use super::map::SegmentMap;
use crate::engine::{Buffer, BufferPool};
use crate::sync::Arc;

/// A range of a map or of a pooled buffer. It keeps the map or the buffer alive.
#[derive(Clone)]
pub(crate) struct ByteView {
    backing: Backing,
    start: usize,
    end: usize,
}

#[derive(Clone)]
enum Backing {
    Map(Arc<SegmentMap>),
    Buffer(Arc<Buffer>),
}

impl ByteView {
    /// Returns `None` if the range is not inside the map.
    pub(crate) fn of_map(map: Arc<SegmentMap>, start: usize, end: usize) -> Option<Self> {
        map.get(start..end)?;
        Some(ByteView { backing: Backing::Map(map), start, end })
    }

    /// Returns `None` if the range is not inside the buffer.
    pub(crate) fn of_buffer(buffer: Arc<Buffer>, start: usize, end: usize) -> Option<Self> {
        buffer.get(start..end)?;
        Some(ByteView { backing: Backing::Buffer(buffer), start, end })
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        // The constructors have checked the range, and neither a map nor a shared buffer changes.
        self.all().get(self.start..self.end).unwrap_or(&[])
    }

    /// Returns the buffer that it is a part of; `None` if it refers to a map.
    pub(super) fn buffer(&self) -> Option<&Arc<Buffer>> {
        match &self.backing {
            Backing::Map(_) => None,
            Backing::Buffer(buffer) => Some(buffer),
        }
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

    /// Returns a copy of it in a buffer, with the `more` bytes that follow it; `None` if it does not
    /// refer to a map.
    pub(crate) fn copy_of_map(&self, pool: &BufferPool, more: usize) -> Option<Self> {
        let Backing::Map(_) = &self.backing else { return None };
        let (own, following) = (self.as_slice(), self.following(more));
        let mut buffer = pool.take_used_for(own.len().saturating_add(following.len()));
        buffer.clear();
        buffer.extend_from_slice(own);
        buffer.extend_from_slice(following);
        ByteView::of_buffer(Arc::new(buffer), 0, own.len())
    }

    /// Returns whether it keeps a buffer alive that is much larger than it is.
    pub(crate) fn is_small_part(&self) -> bool {
        match &self.backing {
            Backing::Map(_) => false,
            Backing::Buffer(buffer) => self.as_slice().len() < buffer.len() / 2,
        }
    }

    #[inline]
    fn all(&self) -> &[u8] {
        match &self.backing {
            Backing::Map(map) => map,
            Backing::Buffer(buffer) => buffer,
        }
    }
}
