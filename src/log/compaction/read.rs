//! Reads the segments that are rewritten, batch by batch.

use crate::engine::malformed;
use crate::error::Result;
use crate::format::batch::{BatchHeader, HEADER_BYTES, check_body};
use crate::format::packing::unpack;
use crate::log::Log;
use crate::segment::{Met, Segment, Walker};
use crate::sync::{Arc, Ordering};

/// Calls `each` with every batch of a segment, until it returns false.
///
/// # Errors
/// `CompactionAborted` if the segment's files were deleted meanwhile; the error of `each`;
/// `Corrupt`, or an I/O error.
pub(in crate::log) fn walk(
    log: &Log,
    segment: &Arc<Segment>,
    each: impl FnMut(&mut Walker<'_>, &Met) -> Result<bool>,
) -> Result<()> {
    walk_listed(log, segment, each).map_err(|error| match segment.retired.load(Ordering::Acquire) {
        // A thread has removed it from the list and deleted its files.
        true if log.check_writable().is_ok() => log.identity.compaction_aborted(),
        _ => error,
    })
}

fn walk_listed(
    log: &Log,
    segment: &Arc<Segment>,
    mut each: impl FnMut(&mut Walker<'_>, &Met) -> Result<bool>,
) -> Result<()> {
    let mut walk = segment.walk(&log.ctx, &log.identity)?;
    while let Some(met) = walk.step()? {
        if !each(&mut walk, &met)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the encoded records of a batch, checked. `stored` is the batch; `room` receives the
/// records if they are compressed.
///
/// # Errors
/// `Corrupt`, or a codec that this build does not have.
pub(in crate::log) fn records_of<'a>(
    log: &Log,
    segment: &Segment,
    header: &BatchHeader,
    position: u64,
    stored: &'a [u8],
    room: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let body = stored.get(HEADER_BYTES..).unwrap_or_default();
    let records = check_body(header, body).and_then(|()| unpack(header, body, room));
    records.map_err(|m| malformed(&log.ctx, &segment.path, position + HEADER_BYTES as u64, &m))
}
