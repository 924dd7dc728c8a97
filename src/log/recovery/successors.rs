//! Finds the successors of the last segment that a manifest lists: segments of rolls that have
//! synced nothing and replaced no manifest. See FORMAT.md, "Successors".

use super::directory::Directory;
use super::scan::{Break, read_segment};
use crate::error::{Error, IoAction, Result};
use crate::format::names;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::log::recovered_tail::RecoveredTail;
use crate::log::transitions::{self, id_of};
use crate::segment::copy::last_nonzero;
use crate::segment::create::active_entry;
use crate::segment::{FIRST_BATCH, Point, Segment, Source, Walker, Window};
use crate::storage::{File, OpenMode, read_up_to};
use crate::sync::Arc;
use crate::types::Offset;

/// A file that may be a successor.
struct Candidate {
    /// `None` if it has no valid one.
    header: Option<SegmentHeader>,
    len: u64,
    segment: Arc<Segment>,
}

impl Directory<'_> {
    /// Adds the successor of the last segment, which was read to its end at `point`, if there is
    /// one: the file of this base offset, whose header names the point. Returns whether there is.
    ///
    /// # Errors
    /// An I/O error, or a file of an unsupported format.
    pub(super) fn follow(&mut self, point: &Point) -> Result<bool> {
        let is_later = self.segments.last().is_none_or(|last| last.base < point.end);
        if !is_later || self.candidates.binary_search(&point.end).is_err() {
            return Ok(false);
        }
        let Candidate { header, .. } = self.candidate(point.end)?;
        let follows = |header: &SegmentHeader| {
            self.is_of_history(header) && (header.prev_end, header.prev_crc) == (point.end, point.last_crc)
        };
        let Some(header) = header.filter(follows) else { return Ok(false) };
        self.add(point, header.base_offset, header.log_epoch);
        Ok(true)
    }

    /// Returns the break after the last segment, which ends at `point` and has no successor, if a
    /// later file has batches of the log: those between are missing.
    ///
    /// # Errors
    /// As [`follow`](Directory::follow).
    pub(super) fn gap_after(&self, at: usize, point: &Point) -> Result<Option<Break>> {
        let last = self.active()?.base;
        for base in self.candidates.iter().filter(|base| **base >= point.end && **base > last) {
            let candidate = self.candidate(*base)?;
            if !self.is_foreign(&candidate) && self.has_batches(&candidate, point.end)? {
                let what = match *base == point.end {
                    true => "the segment after it does not follow the one before it",
                    false => "the segment after it is missing, and later ones are there",
                };
                return Ok(Some(Break {
                    at,
                    position: point.position,
                    what: what.to_string(),
                    header_end: None,
                    is_damage: false,
                }));
            }
        }
        Ok(None)
    }

    /// Adds all segments that may be part of the log after a break, so that they are judged with
    /// it. `read` is the index of the last segment that was read, and its end if it was whole.
    ///
    /// # Errors
    /// As [`follow`](Directory::follow).
    pub(super) fn add_rest(&mut self, read: Option<(usize, Option<Point>)>) -> Result<()> {
        if self.candidates.is_empty() {
            return Ok(());
        }
        let mut end = match read {
            Some((at, end)) if at + 1 == self.segments.len() => end,
            _ => self.end_of_last(0)?,
        };
        loop {
            if let Some(before) = end
                && self.follow(&before)?
            {
                end = self.end_of_last(before.last_crc)?;
                continue;
            }
            let Some(next) = self.next_candidate()? else { return Ok(()) };
            let crc = next.header.map_or(0, |header| header.prev_crc);
            let end_of_last = match end.filter(|end| end.end <= next.segment.base) {
                Some(end) => end,
                // It is damaged. The next one's header knows where it ended.
                None => self.end_before(next.segment.base, crc)?,
            };
            self.add(&end_of_last, next.segment.base, next.segment.epoch);
            end = self.end_of_last(crc)?;
        }
    }

    /// Reads the last segment from its beginning. Returns its end, or `None` if it is damaged.
    fn end_of_last(&self, prev_crc: u32) -> Result<Option<Point>> {
        let last = self.active()?;
        let mut point = Point::start_of(last.base, last.generation, last.epoch, prev_crc);
        let mut tail = RecoveredTail::default();
        match read_segment(self, self.segments.len() - 1, last, &mut point, &mut tail) {
            Ok(None) => Ok(Some(point)),
            Ok(Some(_)) | Err(Error::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the end of the last segment, which is damaged, and is followed by one of a `base`.
    fn end_before(&self, base: Offset, crc: u32) -> Result<Point> {
        let last = self.active()?;
        let len = match self.open(last) {
            Ok((file, len)) => last_nonzero(self.ctx, &*file, &last.path, FIRST_BATCH.min(len), len)?,
            Err(Error::Corrupt(_)) => FIRST_BATCH,
            Err(error) => return Err(error),
        };
        let start = Point::start_of(last.base, last.generation, last.epoch, crc);
        Ok(Point { end: base, position: len.max(FIRST_BATCH), ..start })
    }

    /// Returns the next candidate after the last segment that may be part of the log.
    fn next_candidate(&self) -> Result<Option<Candidate>> {
        let last = self.active()?.base;
        for base in self.candidates.iter().filter(|base| **base > last) {
            let candidate = self.candidate(*base)?;
            if !self.is_foreign(&candidate) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    /// Ends the last segment at a point, and adds the next one.
    fn add(&mut self, end: &Point, base: Offset, epoch: u32) {
        let entry = active_entry(base, 0, epoch);
        if let Some(last) = self.segments.last() {
            last.seal(end.end, end.position, end.max_timestamp);
        }
        transitions::roll(&mut self.manifest, end, entry);
        let previous = (end.end == base).then_some((end.end, end.last_crc));
        self.segments.push(Arc::new(Segment::from_entry(self.path, &entry, previous)));
        self.unlisted.push(id_of(&entry));
    }

    /// Returns whether a header is one that a roll of this log may have written after its last
    /// segment.
    fn is_of_history(&self, header: &SegmentHeader) -> bool {
        let identity = self.identity;
        let earliest = self.segments.last().map_or(0, |last| last.epoch);
        (header.topic_id, header.partition, header.secret)
            == (identity.topic_id, identity.partition, identity.secret())
            && header.generation == 0
            && header.prev_end == header.base_offset
            && (earliest..=self.manifest.epoch()).contains(&header.log_epoch)
    }

    /// Returns whether a file is no successor: a truncation has left it, or a change that came to
    /// no end; or it has neither a header nor anything else.
    fn is_foreign(&self, candidate: &Candidate) -> bool {
        match &candidate.header {
            Some(header) => !self.is_of_history(header) || header.base_offset != candidate.segment.base,
            None => candidate.len <= FIRST_BATCH,
        }
    }

    /// Returns whether there is a header of a batch of the log, at or after an offset.
    fn has_batches(&self, candidate: &Candidate, from: Offset) -> Result<bool> {
        let segment = &candidate.segment;
        let file = self.open_candidate(segment)?;
        let source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
        let mut walk = Walker::new(self.ctx, self.seed, segment, source, 0, candidate.len);
        let found = walk.find(0, |met| {
            self.manifest.fits_epoch(segment.epoch, &met.header) && met.header.base_offset >= from
        });
        found.map(|found| found.is_some()).map_err(|failed| walk.error(failed))
    }

    fn open_candidate(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        let opened = self.ctx.storage.open(&segment.path, OpenMode::Read);
        opened.map_err(|e| Error::io(IoAction::Open, &self.ctx.display(&segment.path), e))
    }

    /// Reads the header of a candidate.
    fn candidate(&self, base: Offset) -> Result<Candidate> {
        let path = self.path.join(names::segment_file(base, 0));
        let failed = |e| Error::io(IoAction::Read, &self.ctx.display(&path), e);
        let file = self.ctx.storage.open(&path, OpenMode::Read).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let n = read_up_to(&*file, &mut bytes, 0).map_err(failed)?;
        let header = match SegmentHeader::decode(bytes.get(..n).unwrap_or(&[])) {
            Ok(header) => Some(header),
            Err(m) if m.unsupported.is_some() => {
                return Err(crate::engine::malformed(self.ctx, &path, 0, &m));
            }
            Err(_) => None,
        };
        let last = self.segments.last().map_or(0, |last| last.epoch);
        let epoch = header.as_ref().map_or(last, |header| header.log_epoch);
        let segment = Arc::new(Segment::from_entry(self.path, &active_entry(base, 0, epoch), None));
        Ok(Candidate { header, len, segment })
    }
}
