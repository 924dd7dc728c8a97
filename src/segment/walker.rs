//! A walk over the batches of a segment, from header to header. The caller decides what to do with
//! each, and where to stop.

use std::ops::Range;

use super::name::SegmentName;
use super::source::{HeaderError, Source};
use crate::engine::{Context, corrupt, malformed};
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, Seed, check_body, find_batch};
use crate::types::Offset;

/// A batch with a valid header.
#[derive(Clone, Copy)]
pub(crate) struct Met {
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
    /// The checksum of the header.
    pub(crate) crc: u32,
}

/// A walk over the batches of one segment.
pub(crate) struct Walker<'a> {
    ctx: &'a Context,
    seed: Seed,
    segment: &'a SegmentName,
    pub(crate) source: Source,
    /// The position of the next batch.
    pub(crate) position: u64,
    /// No batch begins here or after.
    pub(crate) until: u64,
    /// The end of the batch before.
    least: Offset,
    /// The end of the segment's offsets, if it is sealed.
    end: Offset,
}

impl Met {
    /// Returns the position after the batch.
    pub(crate) fn next_position(&self) -> u64 {
        self.position.saturating_add(self.header.stored_bytes())
    }

    /// Returns whether it belongs to this segment, as far as its header shows.
    pub(crate) fn is_of(&self, segment: &SegmentName) -> bool {
        self.header.log_epoch >= segment.epoch && self.header.base_offset >= segment.base
    }
}

/// Returns why a batch with this header cannot be in a segment of a log of this epoch, where no batch
/// ends after `end`.
pub(crate) fn misfit(segment: &SegmentName, header: &BatchHeader, end: Offset, epoch: u32) -> Option<String> {
    if header.log_epoch < segment.epoch || header.base_offset < segment.base {
        Some("the batch is of another epoch or segment".to_string())
    } else if header.log_epoch > epoch {
        Some(format!("the batch is of epoch {}, and the log of {epoch}", header.log_epoch))
    } else if header.end_offset() > end {
        Some(format!("the batch ends at offset {}, after the end {end}", header.end_offset()))
    } else {
        None
    }
}

impl<'a> Walker<'a> {
    /// Returns the same walk with another end.
    pub(crate) fn until(self, until: u64) -> Self {
        Walker { until, ..self }
    }

    /// Returns the same walk, over a sealed segment whose offsets end here.
    pub(crate) fn ending_at(self, end: Offset) -> Self {
        Walker { end, ..self }
    }

    /// Returns a walk over the batches between two positions.
    pub(crate) fn new(
        ctx: &'a Context,
        seed: Seed,
        segment: &'a SegmentName,
        source: Source,
        position: u64,
        until: u64,
    ) -> Self {
        let (least, end) = (segment.base, Offset::MAX);
        Walker { ctx, seed, segment, source, position, until, least, end }
    }

    /// Returns the batch at the walk's position, without moving. Returns `None` at the end.
    ///
    /// # Errors
    /// An I/O error, or there is no valid header.
    pub(crate) fn look(&mut self) -> std::result::Result<Option<Met>, HeaderError> {
        if self.position >= self.until {
            return Ok(None);
        }
        let position = self.position;
        let (header, crc) = self.source.header(self.ctx, position, self.seed)?;
        Ok(Some(Met { position, header, crc }))
    }

    /// Returns the next batch, and moves past it. Returns `None` at the end.
    ///
    /// # Errors
    /// An I/O error; `Corrupt` or `UnsupportedFormat` if there is no valid header of this segment.
    pub(crate) fn step(&mut self) -> Result<Option<Met>> {
        let met = self.look().map_err(|failed| self.error(failed))?;
        let Some(met) = met else { return Ok(None) };
        let what = misfit(self.segment, &met.header, self.end, u32::MAX).or_else(|| {
            let (base, least) = (met.header.base_offset, self.least);
            (base < least).then(|| {
                format!("the batch begins at offset {base}, before the end {least} of the one before")
            })
        });
        if let Some(what) = what {
            return Err(corrupt(self.ctx, &self.segment.path, met.position, &what));
        }
        self.pass(&met);
        Ok(Some(met))
    }

    /// Moves past a batch.
    pub(crate) fn pass(&mut self, met: &Met) {
        self.position = met.next_position();
        self.least = met.header.end_offset();
    }

    /// Returns the batch as stored, header and body.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn stored(&mut self, met: &Met) -> Result<&[u8]> {
        self.source.get(self.ctx, met.position, HEADER_BYTES + met.header.body_len as usize)
    }

    /// Reads the body of a batch as stored. Returns it, or the damage that its checksum shows.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn body(&mut self, met: &Met) -> Result<std::result::Result<&[u8], &'static str>> {
        let at = met.position + HEADER_BYTES as u64;
        let body = self.source.get(self.ctx, at, met.header.body_len as usize)?;
        Ok(check_body(&met.header, body).map(|()| body).map_err(|m| m.what))
    }

    /// Returns the first wanted batch with a valid header at or after `from`. Does not move.
    ///
    /// # Errors
    /// As [`find_batch_in`].
    pub(crate) fn find(
        &mut self,
        from: u64,
        wanted: impl FnMut(&Met) -> bool,
    ) -> std::result::Result<Option<Met>, HeaderError> {
        find_batch_in(self.ctx, self.seed, &mut self.source, from..self.until, wanted)
    }

    /// Returns the error of a failed look, for a caller that expects a batch.
    pub(crate) fn error(&self, failed: HeaderError) -> Error {
        match failed {
            HeaderError::Io(error) => error,
            HeaderError::Malformed(m) => malformed(self.ctx, &self.segment.path, self.position, &m),
        }
    }
}

/// Returns the first wanted batch with a valid header in a range of positions. The bytes between
/// are searched one by one.
///
/// # Errors
/// An I/O error; a header of an unsupported format.
pub(crate) fn find_batch_in(
    ctx: &Context,
    seed: Seed,
    source: &mut Source,
    range: Range<u64>,
    mut wanted: impl FnMut(&Met) -> bool,
) -> std::result::Result<Option<Met>, HeaderError> {
    const STEP: usize = 256 << 10;
    let mut position = range.start;
    while position < range.end {
        let room = usize::try_from(range.end - position).unwrap_or(STEP);
        let bytes = source.get(ctx, position, STEP.min(room)).map_err(HeaderError::Io)?;
        if bytes.len() < HEADER_BYTES {
            break;
        }
        let Some(at) = find_batch(bytes, 0, seed) else {
            position += (bytes.len() - HEADER_BYTES + 1) as u64;
            continue;
        };
        position += at as u64;
        match source.header(ctx, position, seed) {
            Ok((header, crc)) => {
                let met = Met { position, header, crc };
                if wanted(&met) {
                    return Ok(Some(met));
                }
            }
            Err(HeaderError::Malformed(m)) if m.unsupported.is_none() => {}
            Err(failed) => return Err(failed),
        }
        position += 1;
    }
    Ok(None)
}
