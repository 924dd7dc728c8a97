//! Scans a partition: reads the bytes that are not known to be durable, batch by batch, up to the
//! end or to a break, and searches for batches after a break.

use super::transactions::Tail;
use super::{After, Break, Recoverer, Scanned};
use crate::engine::malformed;
use crate::error::Result;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::{FIRST_BATCH, HeaderError, Met, Point, Segment, Source, Walker, Window};
use crate::sync::Arc;
use crate::types::Offset;

impl Recoverer<'_> {
    /// Walks and checks every batch from a point to the end.
    pub(super) fn read_batches(&self, first: usize, from: Point) -> Result<Scanned> {
        let mut point = from;
        let mut accepted = Vec::new();
        let mut tail = Tail { from: from.end, transactions: Vec::new() };
        for (at, segment) in self.segments.iter().enumerate().skip(first) {
            if at > first {
                point = Point::start_of(segment.base, segment.generation, segment.epoch, point.last_crc);
            }
            let begin = point.position;
            let broken = self.read_segment(at, segment, &mut point, &mut tail)?;
            // A segment that the manifest lists as synced is durable, whatever is before it.
            if !segment.is_synced() && point.position > begin {
                // The header was durable before the manifest listed the segment.
                accepted.push((segment.clone(), begin, point.position));
            }
            if broken.is_some() {
                return Ok(Scanned { point, accepted, broken, tail });
            }
        }
        Ok(Scanned { point, accepted, broken: None, tail })
    }

    /// Walks one segment from `point` on, and moves the point past the last valid batch.
    pub(super) fn read_segment(
        &self,
        at: usize,
        segment: &Arc<Segment>,
        point: &mut Point,
        tail: &mut Tail,
    ) -> Result<Option<Break>> {
        let file = self.open(segment)?;
        let len = self.len(&*file, segment)?;
        let limit = if segment.is_sealed() { segment.size().min(len) } else { len };
        let mut source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
        let broken = |position, what: &str, header_end| {
            Ok(Some(Break { at, position, what: what.to_string(), header_end, is_damage: false }))
        };
        // IMPORTANT: never a torn tail. The header was durable before the manifest listed the
        // segment.
        let bad_header = |what: &str| {
            let what = format!("a listed segment has no valid header: {what}");
            Ok(Some(Break { at, position: 0, what, header_end: None, is_damage: true }))
        };
        if point.position == FIRST_BATCH {
            let bytes = source.get(self.ctx, 0, SEGMENT_HEADER_BYTES)?;
            match SegmentHeader::decode(bytes) {
                Ok(header) => {
                    if let Some(what) = segment.mismatch(&header, self.identity) {
                        return bad_header(what);
                    }
                }
                Err(m) if m.unsupported.is_some() => return Err(malformed(self.ctx, &segment.path, 0, &m)),
                Err(m) => return bad_header(m.what),
            }
        }
        // IMPORTANT: set the segment's size only after all of it was read. If a scan stops at
        // damage, the indexes stay marked as missing up to the old size, because there may be many
        // records after the damage.
        let mut walk = Walker::new(self.ctx, self.seed, segment, source, point.position, limit);
        loop {
            let position = walk.position;
            let met = match walk.look() {
                Ok(Some(met)) => met,
                Ok(None) => break,
                Err(HeaderError::Malformed(m)) if m.unsupported.is_none() => {
                    if !segment.is_sealed() && walk.source.is_zero(self.ctx, position, limit)? {
                        // Nothing was ever written here: this is the end.
                        break;
                    }
                    return broken(position, m.what, None);
                }
                Err(failed) => return Err(walk.error(failed)),
            };
            let header = met.header;
            if !self.manifest.fits_epoch(segment.epoch, &header) {
                return broken(position, "a batch of another epoch", None);
            }
            let end = Some(header.end_offset());
            if header.base_offset != point.end {
                return broken(position, "a batch with another offset than expected", end);
            }
            if met.next_position() > limit {
                return broken(position, "the batch ends after the file", end);
            }
            if let Err(what) = walk.body(&met)? {
                return broken(position, what, end);
            }
            tail.pass(&header);
            point.pass(&header, met.crc);
            walk.pass(&met);
        }
        if let Some(end) = segment.end()
            && (point.position != segment.size() || point.end != end)
        {
            return broken(point.position, "the segment ends before the manifest says", None);
        }
        if let Some(entry) = self.manifest.segments.get(at)
            && segment.is_sealed()
            && (point.last_crc, point.digest) != (entry.last_crc, entry.digest)
        {
            return broken(point.position, "the segment holds other batches than the manifest says", None);
        }
        segment.grow(point.position, point.max_timestamp);
        segment.set_index_missing_below(point.position);
        Ok(None)
    }

    /// Searches for batches after a break: witnesses, and batches that a truncation would drop.
    pub(super) fn look_after(&self, broken: &Break, expected: Offset) -> Result<After> {
        let mut after = After { end: broken.header_end.filter(|end| *end > expected), ..After::default() };
        for (at, segment) in self.segments.iter().enumerate().skip(broken.at) {
            let Ok(file) = self.open(segment) else { continue };
            let len = self.len(&*file, segment)?;
            let limit = if segment.is_sealed() { segment.size().min(len) } else { len };
            let source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
            let from = if at == broken.at { broken.position + 1 } else { 0 };
            let mut walk = Walker::new(self.ctx, self.seed, segment, source, from, limit);
            let wanted = |met: &Met| {
                self.manifest.fits_epoch(segment.epoch, &met.header) && met.header.base_offset >= expected
            };
            // IMPORTANT: a header that this build does not support ends the search with an error,
            // because a batch that it does not support must not be truncated.
            while let Some(met) = walk.find(walk.position, wanted).map_err(|failed| walk.error(failed))? {
                let header = &met.header;
                after.synced_upto = after.synced_upto.max(Some((header.synced_upto, header.base_offset)));
                after.resume = after.resume.or(Some(header.base_offset));
                after.end = after.end.max(Some(header.end_offset()));
                walk.position = met.position + 1;
            }
        }
        Ok(after)
    }
}
