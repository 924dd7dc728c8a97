//! The bytes of a segment, mapped or read.

use super::window::Window;
use crate::engine::{Context, OpenedMap};
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, Seed, decode_header, is_zero};
use crate::format::reader::Malformed;
use crate::sync::Arc;

/// The bytes of a segment, mapped or read.
pub(crate) enum Source {
    /// A sealed segment.
    Map(Arc<OpenedMap>),
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
                let all = map.as_slice();
                let start = usize::try_from(position).unwrap_or(usize::MAX).min(all.len());
                Ok(all.get(start..start.saturating_add(len).min(all.len())).unwrap_or(&[]))
            }
            Source::Window(window) => window.get(ctx, position, len),
            Source::Resting => Err(Error::internal("a source that rests was read")),
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
