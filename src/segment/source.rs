//! The bytes of a segment, mapped or read.

use super::map::SegmentMap;
use super::window::Window;
use crate::engine::{Context, UnpackedPlace};
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, Seed, decode_header, is_zero};
use crate::format::reader::Malformed;
use crate::sync::Arc;

/// The bytes of a segment, mapped or read.
pub(crate) enum Source {
    /// A sealed segment; or the active one up to a batch of it.
    Map(Arc<SegmentMap>),
    /// The active segment; every segment if maps are not used or cannot be had.
    Window(Window),
    /// A map that was given up by [`rest`](Source::rest).
    Resting,
}

impl Source {
    /// Gives up the map, or the open file; the bytes that a window has read stay. Nothing can be
    /// read until the window [wakes](Window::wake), or another source takes the place of the map.
    pub(crate) fn rest(&mut self) {
        match self {
            Source::Map(_) | Source::Resting => *self = Source::Resting,
            Source::Window(window) => window.rest(),
        }
    }

    pub(crate) fn is_resting(&self) -> bool {
        match self {
            Source::Map(_) => false,
            Source::Window(window) => window.is_resting(),
            Source::Resting => true,
        }
    }

    /// Returns the source for reading a few scattered batches: it reads ahead no more than a batch of
    /// few records needs.
    pub(crate) fn of_few(self) -> Self {
        match self {
            Source::Window(window) => Source::Window(window.of_few()),
            other => other,
        }
    }

    /// Returns whether it has no byte at `position` although the segment may have one: the segment
    /// has grown since it was mapped.
    pub(crate) fn ends_at(&self, position: u64) -> bool {
        matches!(self, Source::Map(map) if position >= map.len() as u64)
    }

    /// Returns whether all bytes between two positions are zero, up to the end of the file.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn is_zero(&mut self, ctx: &Context, mut position: u64, end: u64) -> Result<bool> {
        const STEP: usize = 256 << 10;
        while position < end {
            let wanted = STEP.min(usize::try_from(end - position).unwrap_or(STEP));
            let bytes = self.get(ctx, position, wanted)?;
            if bytes.is_empty() {
                break;
            }
            if !is_zero(bytes) {
                return Ok(false);
            }
            position += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Returns the `len` bytes at `position`, or as many as there are.
    pub(crate) fn get(&mut self, ctx: &Context, position: u64, len: usize) -> Result<&[u8]> {
        match self {
            Source::Map(map) => {
                let start = usize::try_from(position).unwrap_or(usize::MAX).min(map.len());
                Ok(map.get(start..start.saturating_add(len).min(map.len())).unwrap_or(&[]))
            }
            Source::Window(window) => window.get(ctx, position, len),
            Source::Resting => Err(Error::internal("a source that rests was read")),
        }
    }

    /// Returns whether the batch at `position` was checked through this map. False without a map:
    /// bytes that are read again may be others.
    #[inline]
    pub(super) fn is_checked(&self, position: u64) -> bool {
        matches!(self, Source::Map(map) if map.is_checked(position))
    }

    /// Returns the place of the batch at `position` among the decompressed ones, if there is a map.
    pub(super) fn unpacked_place(&self, position: u64) -> Option<UnpackedPlace> {
        match self {
            Source::Map(map) => map.unpacked_place(position),
            Source::Window(_) | Source::Resting => None,
        }
    }

    /// Notes that the batch at `position` was checked.
    pub(super) fn note_checked(&self, position: u64) {
        if let Source::Map(map) = self {
            map.note_checked(position);
        }
    }

    /// Returns the batch header at `position` and its CRC, checked.
    pub(crate) fn header(
        &mut self,
        ctx: &Context,
        position: u64,
        seed: Seed,
    ) -> std::result::Result<(BatchHeader, u32), HeaderError> {
        let bytes = self.get(ctx, position, HEADER_BYTES).map_err(HeaderError::Io)?;
        decode_header(bytes, seed).map_err(HeaderError::Malformed)
    }
}

/// The reason why there is no valid header.
pub(crate) enum HeaderError {
    Io(Error),
    Malformed(Malformed),
}
