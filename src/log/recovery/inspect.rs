//! Inspects a partition: decides how far the log is valid, and whether it ends there, in a torn
//! tail, or in damage. Writes nothing and reports nothing, so a verifier can use it too.

use std::collections::HashSet;
use std::path::PathBuf;

use super::directory::Directory;
use super::scan::{AcceptedRange, Break, LaterBatches, Scanned, look_after, read_batches};
use crate::engine::corrupt;
use crate::error::{Error, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::log::invariants;
use crate::log::journal::LogJournal;
use crate::log::recovered_tail::RecoveredTail;
use crate::segment::{FIRST_BATCH, Point, Segment, known_timestamp};
use crate::sync::Arc;
use crate::types::Offset;

/// What the broker knows of a partition before it opens it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Note<'a> {
    /// Its entry in the checkpoint.
    pub(crate) entry: Option<&'a CheckpointEntry>,
    /// Whether a clean close wrote that. Then it has the end of the log.
    pub(crate) clean: bool,
    /// Whether only the process died, and no append of the log waits for a sync.
    pub(crate) may_leave_unsynced: bool,
}

/// The result of an inspection. Nothing on disk has been changed.
pub(super) struct Inspection {
    /// The point after the last batch of the log. In a damaged log its `end` is after all known
    /// offsets.
    pub(super) point: Point,
    /// The point where reading began: everything before it is durable.
    pub(super) from: Point,
    pub(super) accepted: Vec<AcceptedRange>,
    /// The transactions found from the position where reading began.
    pub(super) tail: RecoveredTail,
    pub(super) verdict: Verdict,
}

/// The decision.
pub(super) enum Verdict {
    /// The broker was closed there: there is nothing to do.
    Closed,
    /// The log ends there. The accepted ranges must be made durable.
    Whole,
    /// A crash has left bytes there, which must be truncated.
    Torn(Break, LaterBatches),
    /// Durable bytes are damaged: nothing may be changed.
    Damaged(Error),
}

/// An inspection of a partition's directory.
pub(super) struct Inspector<'a, 'b> {
    /// The inspection adds the successors that it finds.
    pub(super) directory: &'a mut Directory<'b>,
    /// `None` if the directory is not about to be opened.
    pub(super) journal: Option<&'a dyn LogJournal>,
}

impl Inspector<'_, '_> {
    /// Reads the bytes that are not known to be durable, and decides. Writes, truncates and reports
    /// nothing. `present` are the existing segment files.
    ///
    /// # Errors
    /// An I/O error, or a file of an unsupported format.
    pub(super) fn inspect(&mut self, present: &HashSet<PathBuf>, note: Note<'_>) -> Result<Inspection> {
        let segments = &self.directory.segments;
        let missing = segments.iter().find(|segment| !present.contains(&segment.path)).cloned();
        if let Some(missing) = missing {
            self.directory.add_rest(None)?;
            let what = "the manifest lists the file, and it is missing";
            let found = self.damaged(corrupt(self.directory.ctx, &missing.path, 0, what), None);
            // IMPORTANT: include the end in the checkpoint. Offsets before it were assigned, even
            // if their records are lost.
            let segments = &self.directory.segments;
            let noted = note.entry.filter(|entry| segments.iter().any(|segment| is_of(entry, segment)));
            let end = noted.map_or(found.point.end, |entry| found.point.end.max(entry.end_offset));
            return Ok(Inspection { point: Point { end, ..found.point }, ..found });
        }
        let is_closed_at = |entry| segments.last().is_some_and(|last| is_of(entry, last));
        match note.entry {
            Some(entry) if note.clean && is_closed_at(entry) => self.trust(entry),
            entry => self.scan(entry),
        }
    }

    /// After a clean close: the end is the one in the checkpoint.
    fn trust(&self, entry: &CheckpointEntry) -> Result<Inspection> {
        let point = point_of(entry);
        let active = self.directory.active()?;
        let (_, len) = self.directory.open(active)?;
        if len < point.position {
            let what = format!("it has {len} bytes, and had {} when the broker was closed", point.position);
            let error = corrupt(self.directory.ctx, &active.path, len, &what);
            return Ok(self.damaged(error, Some(point)));
        }
        if let Some(error) = self.header_damage(active)? {
            return Ok(self.damaged(error, Some(point)));
        }
        let start = self.directory.manifest.log_start;
        if invariants::start_in_log(start, point.end).is_err() {
            let what = format!("the log starts at offset {start}, after its end {}", point.end);
            return Ok(self.damaged(self.directory.manifest_damage(&what), Some(point)));
        }
        Ok(Inspection {
            point,
            from: point,
            accepted: Vec::new(),
            tail: RecoveredTail { from: point.end, transactions: Vec::new() },
            verdict: Verdict::Closed,
        })
    }

    /// After anything but a clean close: reads the bytes that are not known to be synced, and
    /// decides.
    fn scan(&mut self, entry: Option<&CheckpointEntry>) -> Result<Inspection> {
        let (first, from) = self.scan_start(entry);
        if let Some(error) = self.start_damage(first, &from)? {
            self.directory.add_rest(None)?;
            return Ok(self.damaged(error, Some(from)));
        }
        let Scanned { point, accepted, broken, tail } = read_batches(self.directory, first, from)?;
        if let Err(error) = self.check_journal(&tail) {
            return Ok(Inspection { tail, ..self.damaged(error, Some(point)) });
        }
        let starts = invariants::start_in_log(self.directory.manifest.log_start, point.end);
        let broken = match (broken, starts) {
            (Some(broken), _) => broken,
            (None, Err(broken)) => Break {
                at: self.directory.segments.len().saturating_sub(1),
                position: point.position,
                what: broken.what.to_string(),
                header_end: None,
                is_damage: false,
            },
            (None, Ok(())) => return Ok(Inspection { point, from, accepted, tail, verdict: Verdict::Whole }),
        };
        let found = Inspection { point, from, accepted, tail, verdict: Verdict::Whole };
        self.judge(broken, found)
    }

    /// Decides whether a break is a torn tail or damage.
    fn judge(&self, broken: Break, found: Inspection) -> Result<Inspection> {
        let Inspection { point, from, accepted, mut tail, .. } = found;
        let later = look_after(self.directory, &broken, point.end)?;
        if let Some((synced_upto, witness)) = later.synced_upto {
            tail.attest(witness, synced_upto);
        }
        let end = later.end.unwrap_or(point.end).max(point.end);
        let has_witness = later.synced_upto.is_some_and(|(upto, _)| upto > point.end);
        if has_witness || broken.is_damage {
            let path = &self.directory.segment(broken.at)?.path;
            let witness = if has_witness { "; a later batch says that this was on the medium" } else { "" };
            let what = format!("{}{witness}", broken.what);
            let mut error = corrupt(self.directory.ctx, path, broken.position, &what);
            if let Error::Corrupt(corruption) = &mut error {
                corruption.offset = Some(point.end);
                corruption.resume = later.resume;
            }
            return Ok(Inspection { tail, ..self.damaged(error, Some(Point { end, ..point })) });
        }
        if let Err(error) = self.check_journal(&tail) {
            return Ok(Inspection { tail, ..self.damaged(error, Some(point)) });
        }
        // A truncation drops the segments after the break. Their headers were durable before the
        // manifest listed them, so a damaged one is damage.
        let after = self.directory.segments.iter().skip(broken.at + 1);
        for segment in after.filter(|segment| !self.directory.is_unlisted(segment)) {
            if let Some(error) = self.header_damage(segment)? {
                return Ok(Inspection { tail, ..self.damaged(error, Some(Point { end, ..point })) });
            }
        }
        Ok(Inspection { point, from, accepted, tail, verdict: Verdict::Torn(broken, later) })
    }

    /// Returns the damage of a segment before the point where a scan starts: bytes before it were
    /// durable, and no torn tail can begin there.
    fn start_damage(&self, first: usize, from: &Point) -> Result<Option<Error>> {
        if from.position == FIRST_BATCH {
            return Ok(None);
        }
        let segment = self.directory.segment(first)?;
        let (_, len) = self.directory.open(segment)?;
        if len < from.position {
            let what = format!("it has {len} bytes, and {} were on the medium", from.position);
            return Ok(Some(corrupt(self.directory.ctx, &segment.path, len, &what)));
        }
        self.header_damage(segment)
    }

    /// Returns the damage of the header of a segment that is not read from its beginning. Appending
    /// continues in the segment, so it must belong to this log and have a known version.
    fn header_damage(&self, segment: &Arc<Segment>) -> Result<Option<Error>> {
        match segment.check_header(self.directory.ctx, self.directory.identity) {
            Ok(()) => Ok(None),
            Err(error @ (Error::Corrupt(_) | Error::UnsupportedFormat { .. })) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Checks that the journal still has the records of the transactions found here. IMPORTANT:
    /// must be called before anything is truncated, because a truncation may remove the batch that
    /// proves that a record is missing.
    fn check_journal(&self, tail: &RecoveredTail) -> Result<()> {
        let Directory { identity, manifest, .. } = &*self.directory;
        match self.journal {
            Some(journal) => journal.check_records(identity, tail, manifest.log_start),
            None => Ok(()),
        }
    }

    /// Returns the last point known to be durable: that of the checkpoint, or else the start of the
    /// first segment not known to be synced.
    fn scan_start(&self, entry: Option<&CheckpointEntry>) -> (usize, Point) {
        let Directory { segments, manifest, .. } = &*self.directory;
        let noted = entry.and_then(|entry| {
            let at = segments.iter().position(|segment| is_of(entry, segment))?;
            // A segment that was truncated since ends before the checkpoint's point.
            let holds = segments.get(at)?.end().is_none_or(|end| entry.end_offset <= end);
            holds.then(|| (at, point_of(entry)))
        });
        let unsynced = segments.iter().position(|s| !s.is_synced()).unwrap_or(0);
        match noted {
            Some((at, point)) if at >= unsynced => (at, point),
            _ => {
                let before = unsynced.checked_sub(1).and_then(|at| manifest.segments.get(at));
                let last_crc = before.map_or(0, |entry| entry.last_crc);
                let start = segments.get(unsynced).map(|s| (s.base, s.generation, s.epoch));
                let (base, generation, epoch) = start.unwrap_or((Offset::ZERO, 0, 0));
                (unsynced, Point::start_of(base, generation, epoch, last_crc))
            }
        }
    }

    /// Returns the inspection of a partition with damage in durable bytes. `known` is the point up
    /// to which it was read.
    fn damaged(&self, error: Error, known: Option<Point>) -> Inspection {
        let Directory { segments, manifest, .. } = &*self.directory;
        let point = known.unwrap_or_else(|| {
            let base = segments.last().map_or(manifest.log_start, |last| last.base);
            Point::start_of(base, 0, 0, 0)
        });
        let point = Point { end: point.end.max(manifest.log_start), ..point };
        Inspection {
            point,
            from: point,
            accepted: Vec::new(),
            tail: RecoveredTail::default(),
            verdict: Verdict::Damaged(error),
        }
    }
}

/// Returns whether a checkpoint's entry is of this segment. IMPORTANT: compare the epoch too,
/// because a truncated segment may have had the same name.
fn is_of(entry: &CheckpointEntry, segment: &Segment) -> bool {
    (entry.base_offset, entry.generation, entry.log_epoch)
        == (segment.base, segment.generation, segment.epoch)
}

pub(crate) fn point_of(entry: &CheckpointEntry) -> Point {
    Point {
        base: entry.base_offset,
        generation: entry.generation,
        epoch: entry.log_epoch,
        position: entry.position,
        end: entry.end_offset,
        first_timestamp: known_timestamp(entry.first_timestamp),
        max_timestamp: known_timestamp(entry.max_timestamp),
        last_crc: entry.last_crc,
        digest: entry.digest,
    }
}
