//! Scans a partition: reads the bytes that are not known to be durable, batch by batch, up to the
//! end or to a break, and searches for batches after a break.

use super::directory::Directory;
use crate::engine::malformed;
use crate::error::{Error, Result};
use crate::format::manifest::SegmentEntry;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::log::invariants;
use crate::log::recovered_tail::RecoveredTail;
use crate::segment::{
    FIRST_BATCH, HeaderError, Met, Point, Segment, Source, Walker, Window, timestamp_or_unknown,
};
use crate::sync::Arc;
use crate::types::Offset;

/// A range of a segment that was read and is part of the log, but is not known to be durable.
pub(super) struct AcceptedRange {
    pub(super) segment: Arc<Segment>,
    pub(super) from: u64,
    pub(super) to: u64,
    /// The base offset of the first batch in it.
    pub(super) first: Offset,
}

/// Where and why a scan stopped before the end.
pub(super) struct Break {
    /// The index of the segment.
    pub(super) at: usize,
    pub(super) position: u64,
    pub(super) what: String,
    /// The end of the damaged batch, if its header could be read.
    pub(super) header_end: Option<Offset>,
    /// No crash leaves this, so it is damage without a witness.
    pub(super) is_damage: bool,
}

/// The batches after a break.
#[derive(Default)]
pub(super) struct LaterBatches {
    /// The largest `synced_upto` of a later batch, and the base offset of that batch.
    pub(super) synced_upto: Option<(Offset, Offset)>,
    /// The base offset of the first later batch.
    pub(super) resume: Option<Offset>,
    /// The offset after the last offset of all later batches.
    pub(super) end: Option<Offset>,
}

/// The result of a scan.
pub(super) struct Scanned {
    pub(super) point: Point,
    pub(super) accepted: Vec<AcceptedRange>,
    pub(super) broken: Option<Break>,
    /// The transactions that it found.
    pub(super) tail: RecoveredTail,
}

/// The next batch of a segment.
enum NextBatch {
    Valid(Met),
    /// The end of a batch whose header could be read, if it could, and the reason.
    Invalid(Option<Offset>, &'static str),
    /// There is none.
    End,
}

/// Walks and checks every batch from a point to the end. Adds the successors that it comes to to
/// the directory; at a break also all segments after it.
///
/// # Errors
/// An I/O error, or a batch of an unsupported format.
pub(super) fn read_batches(directory: &mut Directory<'_>, first: usize, from: Point) -> Result<Scanned> {
    let mut point = from;
    let mut accepted = Vec::new();
    let mut tail = RecoveredTail { from: from.end, transactions: Vec::new() };
    let mut at = first;
    while let Some(segment) = directory.segments.get(at).cloned() {
        if at > first {
            point = Point::start_of(segment.base, segment.generation, segment.epoch, point.last_crc);
        }
        let (from, first) = (point.position, point.end);
        let broken = read_segment(directory, at, &segment, &mut point, &mut tail)?;
        // A segment that the manifest lists as synced is durable, whatever is before it. The header
        // was durable before the manifest listed the segment.
        let from = if directory.is_unlisted(&segment) { 0 } else { from };
        if !segment.is_synced() && point.position > from {
            accepted.push(AcceptedRange { segment: segment.clone(), from, to: point.position, first });
        }
        let is_last = at + 1 == directory.segments.len();
        let whole = broken.is_none().then_some(point);
        let broken = match broken {
            None if is_last && !directory.follow(&point)? => directory.gap_after(at, &point)?,
            broken => broken,
        };
        if broken.is_some() {
            directory.add_rest(Some((at, whole)))?;
            return Ok(Scanned { point, accepted, broken, tail });
        }
        at += 1;
    }
    Ok(Scanned { point, accepted, broken: None, tail })
}

/// Walks one segment from `point` on, and moves the point past the last valid batch.
pub(super) fn read_segment(
    directory: &Directory<'_>,
    at: usize,
    segment: &Arc<Segment>,
    point: &mut Point,
    tail: &mut RecoveredTail,
) -> Result<Option<Break>> {
    let ctx = directory.ctx;
    let (file, len) = directory.open(segment)?;
    let limit = limit_of(segment, len);
    let mut source = Source::Window(Window::new(file, ctx.display(&segment.path)));
    if point.position == FIRST_BATCH
        && let Some(what) = header_flaw(directory, segment, &mut source)?
    {
        // IMPORTANT: never a torn tail. The header was durable before the manifest listed the
        // segment.
        let what = format!("a listed segment has no valid header: {what}");
        return Ok(Some(Break { at, position: 0, what, header_end: None, is_damage: true }));
    }
    let broken = |position, header_end, what: &str| {
        Ok(Some(Break { at, position, what: what.to_string(), header_end, is_damage: false }))
    };
    // IMPORTANT: set the segment's size only after all of it was read. If a scan stops at damage,
    // the indexes stay marked as missing up to the old size, because there may be many records
    // after the damage.
    let mut walk = Walker::new(ctx, directory.seed, segment, source, point.position, limit);
    loop {
        let position = walk.position;
        match next_batch(directory, segment, &mut walk, point.end)? {
            NextBatch::Valid(met) => {
                tail.pass(&met.header);
                point.pass(&met.header, met.crc);
                walk.pass(&met);
            }
            NextBatch::Invalid(header_end, what) => return broken(position, header_end, what),
            NextBatch::End => break,
        }
    }
    if let Some(what) = contradiction(directory, at, segment, point) {
        return broken(point.position, None, what);
    }
    segment.grow(point.position, point.max_timestamp);
    segment.set_index_missing_below(point.position);
    Ok(None)
}

/// Returns up to which position a segment of `len` bytes may have batches.
fn limit_of(segment: &Segment, len: u64) -> u64 {
    if segment.is_sealed() { segment.size().min(len) } else { len }
}

/// Returns why the header of a segment is not the one that it must have.
fn header_flaw(
    directory: &Directory<'_>,
    segment: &Segment,
    source: &mut Source,
) -> Result<Option<&'static str>> {
    let bytes = source.get(directory.ctx, 0, SEGMENT_HEADER_BYTES)?;
    match SegmentHeader::decode(bytes) {
        Ok(header) => Ok(segment.mismatch(&header, directory.identity)),
        Err(m) if m.unsupported.is_some() => Err(malformed(directory.ctx, &segment.path, 0, &m)),
        Err(m) => Ok(Some(m.what)),
    }
}

/// Reads and checks the batch at the position of a walk, which must begin at the offset `expected`.
fn next_batch(
    directory: &Directory<'_>,
    segment: &Segment,
    walk: &mut Walker<'_>,
    expected: Offset,
) -> Result<NextBatch> {
    let (position, limit) = (walk.position, walk.until);
    let met = match walk.look() {
        Ok(Some(met)) => met,
        Ok(None) => return Ok(NextBatch::End),
        Err(HeaderError::Malformed(m)) if m.unsupported.is_none() => {
            if !segment.is_sealed() && walk.source.is_zero(directory.ctx, position, limit)? {
                // Nothing was ever written here: this is the end.
                return Ok(NextBatch::End);
            }
            return Ok(NextBatch::Invalid(None, m.what));
        }
        Err(failed) => return Err(walk.error(failed)),
    };
    let header = &met.header;
    if !directory.manifest.fits_epoch(segment.epoch, header) {
        return Ok(NextBatch::Invalid(None, "a batch of another epoch"));
    }
    let end = Some(header.end_offset());
    if header.base_offset != expected {
        return Ok(NextBatch::Invalid(end, "a batch with another offset than expected"));
    }
    if met.next_position() > limit {
        return Ok(NextBatch::Invalid(end, "the batch ends after the file"));
    }
    match walk.body(&met)? {
        Ok(_) => Ok(NextBatch::Valid(met)),
        Err(what) => Ok(NextBatch::Invalid(end, what)),
    }
}

/// Returns how a segment that was read up to `point` differs from its entry in the manifest.
fn contradiction(
    directory: &Directory<'_>,
    at: usize,
    segment: &Segment,
    point: &Point,
) -> Option<&'static str> {
    let entry = directory.manifest.segments.get(at).filter(|_| segment.is_sealed())?;
    // The point knows no time of the batches before the place where the scan began.
    let entry = SegmentEntry { max_timestamp: timestamp_or_unknown(point.max_timestamp), ..*entry };
    invariants::of_end(&entry, point).err().map(|broken| broken.what)
}

/// Searches for batches after a break: witnesses, and batches that a truncation would drop.
pub(super) fn look_after(
    directory: &Directory<'_>,
    broken: &Break,
    expected: Offset,
) -> Result<LaterBatches> {
    let ctx = directory.ctx;
    let end = broken.header_end.filter(|end| *end > expected);
    let mut later = LaterBatches { end, ..LaterBatches::default() };
    for (at, segment) in directory.segments.iter().enumerate().skip(broken.at) {
        let file = match segment.file(ctx) {
            Ok(file) => file,
            // It is missing.
            Err(Error::Corrupt(_)) => continue,
            // IMPORTANT: a file that cannot be opened now may have witnesses, and batches that a
            // truncation would drop.
            Err(error) => return Err(error),
        };
        let limit = limit_of(segment, directory.len_of(&*file, segment)?);
        let source = Source::Window(Window::new(file, ctx.display(&segment.path)));
        let from = if at == broken.at { broken.position + 1 } else { 0 };
        let mut walk = Walker::new(ctx, directory.seed, segment, source, from, limit);
        let wanted = |met: &Met| {
            directory.manifest.fits_epoch(segment.epoch, &met.header) && met.header.base_offset >= expected
        };
        // IMPORTANT: a header that this build does not support ends the search with an error,
        // because a batch that it does not support must not be truncated.
        while let Some(met) = walk.find(walk.position, wanted).map_err(|failed| walk.error(failed))? {
            let header = &met.header;
            later.synced_upto = later.synced_upto.max(Some((header.synced_upto, header.base_offset)));
            later.resume = later.resume.or(Some(header.base_offset));
            later.end = later.end.max(Some(header.end_offset()));
            walk.position = met.position + 1;
        }
    }
    Ok(later)
}
