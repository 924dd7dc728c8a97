//! Reads the records of a batch: checked, uncompressed, and as a view of the bytes of its segment
//! where these are not compressed. Through a map a batch is checked once.

use super::name::SegmentName;
use super::source::{HeaderError, Source};
use super::view::ByteView;
use super::walker::Met;
use crate::engine::{Context, corrupt, malformed};
use crate::error::Result;
use crate::format::batch::{BatchHeader, HEADER_BYTES, Seed, check_body};
use crate::format::packing;
use crate::format::reader::Malformed;
use crate::sync::Arc;

/// What the records of a batch are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Some of them are returned. Other reads of the same batch may follow, so it is kept for a
    /// while if it was decompressed.
    Lookup,
    /// They are returned, and then the batches after it.
    Walk,
    /// They are written again. IMPORTANT: the batch is checked even if it was checked before through
    /// the same map, because its records get a new checksum.
    Rewrite,
}

/// Reads, checks and decompresses the batch at a position of a segment.
///
/// # Errors
/// An I/O error; `Corrupt` if there is no batch of this segment at the position.
pub(crate) fn read_batch(
    ctx: &Context,
    seed: Seed,
    segment: &SegmentName,
    source: &mut Source,
    position: u64,
) -> Result<(BatchHeader, ByteView)> {
    let (header, crc) = source.header(ctx, position, seed).map_err(|failed| match failed {
        HeaderError::Io(error) => error,
        HeaderError::Malformed(m) => malformed(ctx, &segment.path, position, &m),
    })?;
    let met = Met { position, header, crc };
    if !met.is_of(segment) {
        return Err(corrupt(ctx, &segment.path, position, "the batch is of another epoch or segment"));
    }
    Ok((header, read_records_of(ctx, segment, source, &met, Purpose::Lookup)?))
}

/// The records of a batch that was met: checked, uncompressed and valid.
///
/// # Errors
/// An I/O error; corrupt.
pub(crate) fn read_records_of(
    ctx: &Context,
    segment: &SegmentName,
    source: &mut Source,
    met: &Met,
    purpose: Purpose,
) -> Result<ByteView> {
    let records = read_records(ctx, source, met.position, &met.header, purpose)?;
    records.map_err(|m| malformed(ctx, &segment.path, met.position + HEADER_BYTES as u64, &m))
}

/// Reads the records of the batch at `position` with this header. Returns them checked,
/// uncompressed and valid, or the damage that was found.
///
/// # Errors
/// An I/O error.
pub(crate) fn read_records(
    ctx: &Context,
    source: &mut Source,
    position: u64,
    header: &BatchHeader,
    purpose: Purpose,
) -> Result<std::result::Result<ByteView, Malformed>> {
    let (body, stored) = (position + HEADER_BYTES as u64, header.body_len as usize);
    let is_rewritten = purpose == Purpose::Rewrite;
    let place = if header.codec == 0 || is_rewritten { None } else { source.unpacked_place(position) };
    if let Some(unpacked) = place.and_then(|place| ctx.kept.unpacked.get(place)) {
        let records = header.uncompressed_len as usize;
        return Ok(ByteView::of_buffer(unpacked, 0, records).ok_or_else(body_is_gone));
    }
    let is_checked = !is_rewritten && source.is_checked(position);
    if !is_checked && let Err(damage) = check_body(header, source.get(ctx, body, stored)?) {
        return Ok(Err(damage));
    }
    let records = uncompressed(ctx, source, header, body, is_checked);
    if let Ok(records) = &records {
        if !is_checked {
            source.note_checked(position);
        }
        if purpose == Purpose::Lookup
            && let (Some(place), Some(buffer)) = (place, records.buffer())
        {
            ctx.kept.unpacked.keep(place, buffer);
        }
    }
    Ok(records)
}

/// Returns the records of a body at `position` that has passed its checksum. Its records are checked
/// too unless it `is_checked`.
fn uncompressed(
    ctx: &Context,
    source: &Source,
    header: &BatchHeader,
    position: u64,
    is_checked: bool,
) -> std::result::Result<ByteView, Malformed> {
    let stored = header.body_len as usize;
    let shared = match source {
        Source::Map(map) => usize::try_from(position)
            .ok()
            .and_then(|start| ByteView::of_map(map.clone(), start, start.checked_add(stored)?)),
        Source::Window(window) => window
            .share(position)
            .and_then(|(buffer, start)| ByteView::of_buffer(buffer, start, start.checked_add(stored)?)),
        Source::Resting => None,
    }
    .ok_or_else(body_is_gone)?;
    let records = header.uncompressed_len as usize;
    let whole = records.saturating_add(usize::try_from(header.table_bytes()).unwrap_or(0));
    match packing::unpack_shared(header, shared.as_slice(), is_checked, || ctx.pool.take_used_for(whole))? {
        // The next scattered batch is read into the same window, and this one keeps its own bytes.
        None if matches!(source, Source::Window(window) if window.is_of_few()) && shared.is_small_part() => {
            let mut own = ctx.pool.take_used_for(stored);
            own.clear();
            own.extend_from_slice(shared.as_slice());
            ByteView::of_buffer(Arc::new(own), 0, records)
        }
        None => shared.shortened(records),
        Some(buffer) => ByteView::of_buffer(Arc::new(buffer), 0, records),
    }
    .ok_or_else(body_is_gone)
}

fn body_is_gone() -> Malformed {
    Malformed::new(0, "the body is gone")
}
