//! Walks a log and checks every batch of every segment, down to the single record. Returns the
//! damage between whole batches: its position, and the offsets that the bytes may have held.
//!
//! Useful for: finding out which records a repair would lose, and copying the others. Nothing is
//! written. Not useful for: deciding whether a torn tail is one, which is the task of
//! [`recovery`](super::recovery).

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::invariants::{self, Broken, Held};
use super::list::segments_of;
use crate::engine::{Context, Identity, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::BatchHeader;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::packing;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::{FIRST_BATCH, HeaderError, Met, Point, Segment, Source, Walker, Window};
use crate::storage::{File, OpenMode};
use crate::sync::Arc;
use crate::types::Offset;

/// The content of one segment.
pub(crate) struct Walked {
    /// Whether its file exists.
    pub(crate) is_there: bool,
    pub(crate) path: PathBuf,
    /// Whether its header is valid and belongs to this segment.
    pub(crate) has_header: bool,
    /// The runs of whole batches, in order.
    pub(crate) pieces: Vec<Piece>,
    /// The damage between and around them.
    pub(crate) flaws: Vec<Flaw>,
}

impl Walked {
    /// Opens its file again: a log may have more segments than the process has descriptors. Returns
    /// `None` if the walk has found no file.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn open(&self, ctx: &Context) -> Result<Option<Arc<dyn File>>> {
        if !self.is_there {
            return Ok(None);
        }
        let file = ctx.storage.open(&self.path, OpenMode::Read);
        file.map(Some).map_err(|e| Error::io(IoAction::Open, &ctx.display(&self.path), e))
    }
}

/// Whole batches without damage between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// The position of the first of them in the file.
    pub(crate) position: u64,
    /// Its base offset.
    pub(crate) first: Offset,
    /// Its log epoch.
    pub(crate) epoch: u32,
    /// The end of a segment that would have only these batches.
    pub(crate) end: Point,
}

impl Piece {
    pub(crate) fn bytes(&self) -> u64 {
        self.end.position - FIRST_BATCH
    }
}

/// Bytes of a segment that differ from the written ones, or are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    /// The offsets that they held, as far as that is known: `from` is included, `to` is not.
    pub(crate) from: Offset,
    pub(crate) to: Offset,
    pub(crate) what: String,
    /// The number of the violated invariant in FORMAT.md.
    pub(crate) invariant: u32,
}

/// A whole batch, passed to a watch.
pub(crate) struct Seen<'a> {
    pub(crate) position: u64,
    pub(crate) header: &'a BatchHeader,
}

/// Callbacks of a walk. `Break` ends the walk.
pub(crate) trait Watch {
    /// Called with a whole batch of the segment with this index in the manifest.
    fn batch(&mut self, _at: usize, _seen: &Seen<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Called after so many more bytes were checked.
    fn passed(&mut self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A watch for callers that need only the result.
pub(crate) struct Quiet;

impl Watch for Quiet {}

/// The known end of a log.
#[derive(Clone, Copy)]
pub(crate) struct KnownEnd {
    /// As far as is known, no offset from here on was ever assigned.
    pub(crate) offset: Offset,
    /// The end of the active segment. Bytes after it are no records. `None` if not known: then the
    /// file's end.
    pub(crate) active: Option<u64>,
}

/// Walks all segments of a log. Returns `None` if the watch has ended the walk.
///
/// # Errors
/// An I/O error, except for a missing segment; `UnsupportedFormat`.
pub(crate) fn walk(
    ctx: &Context,
    identity: &Arc<Identity>,
    dir: &std::path::Path,
    manifest: &Manifest,
    known: KnownEnd,
    watch: &mut dyn Watch,
) -> Result<Option<Vec<Walked>>> {
    let segments = segments_of(dir, manifest);
    let mut walked = Vec::with_capacity(segments.len());
    for (at, (segment, entry)) in segments.iter().zip(&manifest.segments).enumerate() {
        let check = Check { ctx, identity, manifest, at, segment, entry, known };
        match check.walk(watch)? {
            Some(one) => walked.push(one),
            None => return Ok(None),
        }
    }
    Ok(Some(walked))
}

struct Check<'a> {
    ctx: &'a Context,
    identity: &'a Identity,
    manifest: &'a Manifest,
    at: usize,
    segment: &'a Arc<Segment>,
    entry: &'a SegmentEntry,
    known: KnownEnd,
}

impl Check<'_> {
    /// Returns the end of the segment's offsets.
    fn end(&self) -> Offset {
        match self.entry.state {
            SegmentState::Active => self.known.offset.max(self.entry.base_offset),
            _ => self.entry.end_offset,
        }
    }

    fn is_active(&self) -> bool {
        self.entry.state == SegmentState::Active
    }

    fn flaw(
        &self,
        position: u64,
        bytes: u64,
        (from, to): (Offset, Offset),
        invariant: u32,
        what: &str,
    ) -> Flaw {
        // Deleted records before the log start are no loss.
        let start = self.manifest.log_start;
        let (from, to) = (from.max(start), to.max(from).max(start));
        Flaw { position, bytes, from, to, what: what.to_string(), invariant }
    }

    fn walk(&self, watch: &mut dyn Watch) -> Result<Option<Walked>> {
        let ctx = self.ctx;
        let path = self.segment.path.clone();
        let mut walked =
            Walked { is_there: false, path, has_header: false, pieces: Vec::new(), flaws: Vec::new() };
        let file = match ctx.storage.open(&walked.path, OpenMode::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let held = (self.entry.base_offset, self.end());
                walked.flaws.push(self.flaw(0, 0, held, 1, "the manifest lists the file, and it is missing"));
                return Ok(Some(walked));
            }
            Err(e) => return Err(Error::io(IoAction::Open, &ctx.display(&walked.path), e)),
        };
        let len = file.len().map_err(|e| Error::io(IoAction::Inspect, &ctx.display(&walked.path), e))?;
        let size = match self.is_active() {
            true => self.known.active.unwrap_or(len),
            false => self.entry.size,
        };
        let limit = size.min(len);
        walked.is_there = true;
        let mut source = Source::Window(Window::new(file, ctx.display(&walked.path)));
        walked.has_header = self.check_header(&mut source, limit, &mut walked.flaws)?;
        let mut walk = Walker::new(ctx, self.identity.seed(), self.segment, source, FIRST_BATCH, limit);
        let mut state = CheckProgress { expected: self.entry.base_offset, joins: false, room: Vec::new() };
        while walk.position < limit {
            let begin = walk.position;
            match self.pass(&mut walk, &mut state, &mut walked, watch)? {
                ControlFlow::Break(()) => return Ok(None),
                ControlFlow::Continue(true) => {}
                ControlFlow::Continue(false) => break,
            }
            if watch.passed(walk.position - begin).is_break() {
                return Ok(None);
            }
        }
        let (position, expected) = (walk.position, state.expected);
        let held = (expected, self.end());
        if len < size {
            let what = format!("it has {len} bytes, and {size} were written");
            walked.flaws.push(self.flaw(len, 0, held, if self.is_active() { 12 } else { 6 }, &what));
        } else if self.is_active() && expected < self.end() {
            walked.flaws.push(self.flaw(position, 0, held, 12, "the log ends before it was known to end"));
        } else if walked.flaws.iter().all(|flaw| flaw.position == 0 && flaw.bytes > 0)
            && !self.is_active()
            && let Err(Broken { number, what }) = self.check_end(&walked)
        {
            walked.flaws.push(self.flaw(position, 0, held, number, what));
        }
        Ok(Some(walked))
    }

    /// Checks the bytes at the walk's position, notes what they are, and moves the walk past them.
    /// Returns false if nothing was ever written from there on, and `Break` if the watch ends the
    /// walk.
    fn pass(
        &self,
        walk: &mut Walker<'_>,
        state: &mut CheckProgress,
        walked: &mut Walked,
        watch: &mut dyn Watch,
    ) -> Result<ControlFlow<(), bool>> {
        let (position, expected) = (walk.position, state.expected);
        match self.batch(walk, expected, &mut state.room)? {
            Step::Whole(met) => {
                let header = &met.header;
                if let Err(Broken { number, what }) =
                    invariants::of_place(self.entry.generation, expected, header)
                {
                    let held = (expected, header.base_offset);
                    walked.flaws.push(self.flaw(position, 0, held, number, what));
                    state.joins = false;
                }
                if !state.joins {
                    let (first, epoch) = (header.base_offset, header.log_epoch);
                    let end = Point::start_of(first, self.entry.generation, epoch, 0);
                    walked.pieces.push(Piece { position, first, epoch, end });
                }
                if let Some(piece) = walked.pieces.last_mut() {
                    piece.end.pass(header, met.crc);
                }
                state.joins = true;
                state.expected = header.end_offset();
                walk.pass(&met);
                if watch.batch(self.at, &Seen { position, header }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Step::Spoilt(header, what, invariant) => {
                let bytes = header.stored_bytes().min(walk.until - position);
                let held = (header.base_offset.max(expected), header.end_offset().max(expected));
                walked.flaws.push(self.flaw(position, bytes, held, invariant, &what));
                state.joins = false;
                state.expected = expected.max(header.end_offset());
                walk.position += bytes;
            }
            Step::Nothing => return Ok(ControlFlow::Continue(false)),
            Step::Broken(what, invariant) => {
                let next = self.find(walk, expected)?;
                let (end, to) = next.unwrap_or((walk.until, self.end()));
                let held = (expected, to);
                walked.flaws.push(self.flaw(position, end - position, held, invariant, &what));
                state.joins = false;
                state.expected = expected.max(to);
                walk.position = end;
            }
        }
        Ok(ControlFlow::Continue(true))
    }

    /// Checks that the batches of a sealed segment, all of them whole, are those of the manifest.
    fn check_end(&self, walked: &Walked) -> Held {
        let empty = Point::start_of(self.entry.base_offset, 0, 0, 0);
        invariants::of_end(self.entry, walked.pieces.last().map_or(&empty, |piece| &piece.end))
    }

    /// Returns whether the segment has its own header.
    fn check_header(&self, source: &mut Source, limit: u64, flaws: &mut Vec<Flaw>) -> Result<bool> {
        let bytes = source.get(self.ctx, 0, SEGMENT_HEADER_BYTES)?;
        let none = (self.entry.base_offset, self.entry.base_offset);
        let room = FIRST_BATCH.min(limit);
        let (what, invariant) = match SegmentHeader::decode(bytes) {
            Ok(header) => match self.segment.mismatch(&header, self.identity) {
                // The chain to the segment before it is checked last.
                Some(what) if self.segment.is_own(&header, self.identity) => (what, 9),
                Some(what) => (what, 8),
                None => return Ok(true),
            },
            Err(m) if m.unsupported.is_some() => {
                return Err(malformed(self.ctx, &self.segment.path, 0, &m));
            }
            Err(m) => (m.what, 1),
        };
        flaws.push(self.flaw(0, room, none, invariant, &format!("the segment's header: {what}")));
        Ok(false)
    }

    /// Checks the bytes where a batch should begin. `room` is for decompressed records.
    fn batch(&self, walk: &mut Walker<'_>, expected: Offset, room: &mut Vec<u8>) -> Result<Step> {
        let position = walk.position;
        let met = match walk.look() {
            Ok(Some(met)) => met,
            Ok(None) => return Ok(Step::Nothing),
            Err(HeaderError::Malformed(m)) if m.unsupported.is_none() => {
                // Nothing is missing in a sealed segment whose size is not known either.
                let may_end = self.is_active() || expected >= self.end();
                let is_end = may_end && walk.source.is_zero(self.ctx, position, walk.until)?;
                return Ok(if is_end { Step::Nothing } else { Step::Broken(m.what.to_string(), 2) });
            }
            Err(failed) => return Err(walk.error(failed)),
        };
        let header = met.header;
        if !self.belongs(&header, expected) {
            // Its offsets are not about this position.
            return Ok(Step::Broken("a batch that does not belong here".to_string(), 4));
        }
        if met.next_position() > walk.until {
            return Ok(Step::Spoilt(header, "the batch ends after the file".to_string(), 2));
        }
        let body = match walk.body(&met)? {
            Ok(body) => body,
            Err(what) => return Ok(Step::Spoilt(header, what.to_string(), 2)),
        };
        if let Err(m) = packing::check(&header, body, room) {
            return Ok(Step::Spoilt(header, m.what.to_string(), 3));
        }
        Ok(match invariants::of_header(&header) {
            Ok(()) => Step::Whole(met),
            Err(Broken { number, what }) => Step::Spoilt(header, what.to_string(), number),
        })
    }

    /// Returns whether a batch with this header may be here.
    fn belongs(&self, header: &BatchHeader, expected: Offset) -> bool {
        let is_within = self.is_active() || header.end_offset() <= self.entry.end_offset;
        self.manifest.fits_epoch(self.segment.epoch, header) && header.base_offset >= expected && is_within
    }

    /// Returns position and base offset of the first valid header after the walk's position that
    /// may be here.
    fn find(&self, walk: &mut Walker<'_>, expected: Offset) -> Result<Option<(u64, Offset)>> {
        let found = walk.find(walk.position + 1, |met| self.belongs(&met.header, expected));
        let found = found.map_err(|failed| walk.error(failed))?;
        Ok(found.map(|met| (met.position, met.header.base_offset)))
    }
}

/// The progress of a segment's check.
struct CheckProgress {
    /// The offset that the next batch must have, if none is missing.
    expected: Offset,
    /// Whether the last piece ends at the walk's position.
    joins: bool,
    /// Room for decompressed records.
    room: Vec<u8>,
}

/// The content at a position.
enum Step {
    /// A batch of the log.
    Whole(Met),
    /// A valid header, with a damaged or missing body.
    Spoilt(BatchHeader, String, u32),
    /// No valid header.
    Broken(String, u32),
    /// Nothing was ever written from here on.
    Nothing,
}
