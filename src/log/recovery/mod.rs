//! Recovery of a partition's directory: opening after a clean close, and after a crash.
//!
//! After a clean close the checkpoint has the end of the active segment, and nothing is read.
//! Otherwise every segment that is not known to be synced is read from the last durable point on,
//! batch by batch. If a batch is invalid, a later batch whose `synced_upto` covers it makes this a
//! corruption, and nothing is changed. Without such a witness it is a torn tail, which is copied
//! aside, truncated and reported. The accepted batches are written again and synced before any
//! reader may read them. See FORMAT.md, "Crash safety".
//!
//! There are two steps. [`Recoverer::inspect`] reads and decides: how far the log is valid, which
//! batches are accepted, and whether it ends there, in a torn tail, or in damage. It writes nothing
//! and reports nothing, so a verifier can use it too. [`Recoverer::repair`] acts on the result. The
//! decisions are in this file; [`scan`] reads, [`repair`] writes.

mod repair;
mod scan;
pub(crate) mod transactions;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use self::transactions::Tail;
use super::journal::LogJournal;
use super::manifest;
use crate::engine::{Context, Identity, corrupt, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::Seed;
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::names::{self, PartitionFile};
use crate::segment::{FIRST_BATCH, Point, Segment, known_timestamp};
use crate::stats::{Event, OpenReport, Recovery};
use crate::storage::{File, read_file};
use crate::sync::Arc;
use crate::types::Offset;

/// The entry of a partition in the broker's checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Note<'a> {
    pub(crate) entry: &'a CheckpointEntry,
    /// Whether a clean close wrote it. Then it has the end of the log.
    pub(crate) clean: bool,
}

/// A partition after its recovery.
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The point where appending continues. All batches before it are durable.
    pub(crate) point: Point,
    /// Set if durable bytes are damaged: then the partition is read-only, up to `point.end`.
    pub(crate) damage: Option<Error>,
    /// Whether there is a side file of idempotent producers.
    pub(crate) has_senders: bool,
    pub(crate) tail: Tail,
}

/// Opens the directory of a partition with this manifest.
///
/// # Errors
/// An I/O error, or a file of an unsupported format: nothing of the partition can be used. No file
/// with records has been changed.
pub(crate) fn recover(
    journal: &dyn LogJournal,
    identity: &Arc<Identity>,
    dir: &Path,
    manifest: Manifest,
    note: Option<Note<'_>>,
    report: &mut OpenReport,
) -> Result<Recovered> {
    let ctx = &**journal.ctx();
    let Found { present, leftovers } = survey(ctx, dir, &manifest, report)?;
    let recovered = repair_or_trust(journal, identity, dir, manifest, note, &present, report)?;
    // IMPORTANT: last, and only if there is no damage. The manifest that does not list them must be
    // durable: the opening has synced its directory, or the repair has replaced it.
    if recovered.damage.is_none() {
        remove_leftovers(ctx, &recovered.manifest, leftovers, report);
    }
    Ok(recovered)
}

fn repair_or_trust(
    journal: &dyn LogJournal,
    identity: &Arc<Identity>,
    dir: &Path,
    manifest: Manifest,
    note: Option<Note<'_>>,
    present: &HashSet<PathBuf>,
    report: &mut OpenReport,
) -> Result<Recovered> {
    let ctx = &**journal.ctx();
    let segments = segments_of(dir, &manifest);
    let seed = identity.seed();
    let has_senders = present.contains(&dir.join(names::PRODUCERS));
    let recovery = Recoverer { ctx, journal: Some(journal), identity, seed, dir, manifest, segments };
    let found = recovery.inspect(present, note)?;
    let recovered = recovery.repair(found, report)?;
    Ok(Recovered { has_senders, ..recovered })
}

/// The result of an inspection.
pub(crate) struct Look {
    /// The end of the log.
    pub(crate) end: Offset,
    /// The position of the end in the active segment, if the broker was closed there. Bytes after
    /// it are no records.
    pub(crate) closed_at: Option<u64>,
    /// Where an opening would truncate the log, and why: index of the segment, and position.
    pub(crate) torn: Option<(usize, u64, String)>,
    /// Why an opening would report it as damaged.
    pub(crate) damage: Option<Error>,
}

/// Inspects the directory of a partition as an opening would. Changes nothing.
///
/// # Errors
/// As [`recover`].
pub(crate) fn look(
    ctx: &Context,
    identity: &Arc<Identity>,
    dir: &Path,
    manifest: &Manifest,
    note: Option<Note<'_>>,
) -> Result<Look> {
    let entries = ctx.storage.list(dir).map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?;
    let present = entries.iter().map(|entry| dir.join(&entry.name)).collect();
    let (manifest, segments) = (manifest.clone(), segments_of(dir, manifest));
    let recovery = Recoverer { ctx, journal: None, identity, seed: identity.seed(), dir, manifest, segments };
    let found = recovery.inspect(&present, note)?;
    let mut look = Look { end: found.point.end, closed_at: None, torn: None, damage: None };
    match found.verdict {
        Verdict::Closed => look.closed_at = Some(found.point.position),
        Verdict::Whole => {}
        Verdict::Torn(broken, _) => look.torn = Some((broken.at, broken.position, broken.what)),
        Verdict::Damaged(error) => look.damage = Some(error),
    }
    Ok(look)
}

/// Returns the segments of a manifest. Each has the end of the segment before it.
pub(crate) fn segments_of(dir: &Path, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let mut previous: Option<(Offset, u32)> = None;
    let mut segments = Vec::with_capacity(manifest.segments.len());
    for entry in &manifest.segments {
        // A reset leaves a gap, and a compacted file has another last batch. Then there is nothing
        // to compare.
        let follows = previous.filter(|(end, _)| *end == entry.base_offset && entry.generation == 0);
        segments.push(Arc::new(Segment::from_entry(dir, entry, follows)));
        previous = (entry.generation == 0).then_some((entry.end_offset, entry.last_crc));
    }
    segments
}

/// Reads a manifest of any partition.
///
/// # Errors
/// The manifest is damaged, of an unsupported format, or cannot be read.
pub(crate) fn decode_manifest(ctx: &Context, path: &Path) -> Result<Manifest> {
    const LIMIT: u64 = 256 << 20;
    let bytes = read_file(&*ctx.storage, path, LIMIT)
        .map_err(|e| Error::io(IoAction::Read, &ctx.display(path), e))?;
    Manifest::decode(&bytes).map_err(|m| malformed(ctx, path, 0, &m))
}

/// Reads a partition's manifest. Changes nothing.
///
/// # Errors
/// The manifest is missing, damaged, of an unsupported format, or cannot be read: nothing of the
/// partition can be used.
pub(crate) fn read_manifest(ctx: &Context, identity: &Identity, dir: &Path) -> Result<Manifest> {
    let path = dir.join(names::MANIFEST);
    let manifest = decode_manifest(ctx, &path).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            corrupt(ctx, &path, 0, "the catalog lists the partition and this is missing")
        }
        error => error,
    })?;
    if manifest.topic_id != identity.topic_id || manifest.partition != identity.partition {
        return Err(corrupt(ctx, &path, 0, "the manifest belongs to another partition"));
    }
    if manifest.segments.last().is_none_or(|last| last.state != SegmentState::Active) {
        return Err(corrupt(ctx, &path, 0, "the manifest lists no active segment"));
    }
    Ok(manifest)
}

/// The files of a partition.
struct Found {
    /// The segments that the manifest lists, and the side file of idempotent producers.
    present: HashSet<PathBuf>,
    /// Files left by an interrupted roll, truncation or deletion.
    leftovers: Vec<PathBuf>,
}

/// Lists the files of the directory, and reports those that are not this library's.
fn survey(ctx: &Context, dir: &Path, manifest: &Manifest, report: &mut OpenReport) -> Result<Found> {
    let listed: HashSet<(Offset, u32)> =
        manifest.segments.iter().map(|s| (s.base_offset, s.generation)).collect();
    let entries = ctx.storage.list(dir).map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?;
    let (mut present, mut leftovers) = (HashSet::new(), Vec::new());
    for entry in entries {
        let path = dir.join(&entry.name);
        match names::parse_partition_file(&entry.name) {
            PartitionFile::Foreign if names::is_of_system(&entry.name) => {}
            PartitionFile::Segment { base, generation }
                if !entry.is_dir && listed.contains(&(base, generation)) =>
            {
                present.insert(path);
            }
            // No acknowledged record is in a segment before the manifest lists it, or after the
            // manifest dropped it.
            PartitionFile::Segment { .. } | PartitionFile::Temporary if !entry.is_dir => leftovers.push(path),
            PartitionFile::Index { base, generation } | PartitionFile::Keys { base, generation }
                if !entry.is_dir =>
            {
                if !listed.contains(&(base, generation)) {
                    leftovers.push(path);
                }
            }
            PartitionFile::Producers if !entry.is_dir => {
                present.insert(path);
            }
            PartitionFile::Manifest | PartitionFile::Torn { .. } | PartitionFile::Lost { .. }
                if !entry.is_dir => {}
            _ => {
                let path = ctx.display(&path);
                report.warnings.push(format!("{} is not ours and was left alone", path.display()));
            }
        }
    }
    Ok(Found { present, leftovers })
}

/// Removes files that no manifest lists. A file that cannot be removed is reported, and tried again
/// by the next opening.
fn remove_leftovers(ctx: &Context, manifest: &Manifest, leftovers: Vec<PathBuf>, report: &mut OpenReport) {
    // A repair may have made a segment of that name since.
    let listed = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match names::parse_partition_file(&name) {
            PartitionFile::Segment { base, generation } => {
                manifest.segments.iter().any(|s| (s.base_offset, s.generation) == (base, generation))
            }
            _ => false,
        }
    };
    for path in leftovers.iter().filter(|path| !listed(path)) {
        match ctx.storage.remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let error = Error::io(IoAction::Remove, &ctx.display(path), e);
                report.warnings.push(format!("a file that is not needed any more was left: {error}"));
            }
            _ => {}
        }
    }
}

#[derive(Clone)]
struct Recoverer<'a> {
    ctx: &'a Context,
    /// `None` for an inspection only.
    journal: Option<&'a dyn LogJournal>,
    identity: &'a Arc<Identity>,
    seed: Seed,
    dir: &'a Path,
    manifest: Manifest,
    segments: Vec<Arc<Segment>>,
}

/// The result of an inspection. Nothing on disk has been changed.
struct Inspection {
    /// The point after the last batch of the log. In a damaged log its `end` is after all known
    /// offsets.
    point: Point,
    /// The ranges that were read and are part of the log, but are not known to be durable.
    accepted: Vec<(Arc<Segment>, u64, u64)>,
    /// The transactions found from the position where reading began.
    tail: Tail,
    verdict: Verdict,
}

/// The decision.
enum Verdict {
    /// The broker was closed there: there is nothing to do.
    Closed,
    /// The log ends there. The accepted ranges must be made durable.
    Whole,
    /// A crash has left bytes there, which must be truncated.
    Torn(Break, After),
    /// Durable bytes are damaged: nothing may be changed.
    Damaged(Error),
}

/// Where and why a scan stopped before the end.
struct Break {
    /// The index of the segment.
    at: usize,
    position: u64,
    what: String,
    /// The end of the damaged batch, if its header could be read.
    header_end: Option<Offset>,
    /// No crash leaves this, so it is damage without a witness.
    is_damage: bool,
}

/// The batches after a break.
#[derive(Default)]
struct After {
    /// The largest `synced_upto` of a later batch, and the base offset of that batch.
    synced_upto: Option<(Offset, Offset)>,
    /// The base offset of the first later batch.
    resume: Option<Offset>,
    /// The offset after the last offset of all later batches.
    end: Option<Offset>,
}

/// The result of a scan.
struct Scanned {
    point: Point,
    accepted: Vec<(Arc<Segment>, u64, u64)>,
    broken: Option<Break>,
    /// The transactions that it found.
    tail: Tail,
}

impl Recoverer<'_> {
    fn is_at_active_segment(&self, entry: &CheckpointEntry) -> bool {
        self.segments.last().is_some_and(|last| is_of(entry, last))
    }

    /// Reads the bytes that are not known to be durable, and decides. Writes, truncates and reports
    /// nothing. `present` are the existing segment files.
    ///
    /// # Errors
    /// An I/O error, or a file of an unsupported format.
    fn inspect(&self, present: &HashSet<PathBuf>, note: Option<Note<'_>>) -> Result<Inspection> {
        if let Some(missing) = self.segments.iter().find(|segment| !present.contains(&segment.path)) {
            let what = "the manifest lists the file, and it is missing";
            let found = self.damaged(corrupt(self.ctx, &missing.path, 0, what), None);
            // IMPORTANT: include the end in the checkpoint. Offsets before it were assigned, even
            // if their records are lost.
            let noted = note
                .map(|note| note.entry)
                .filter(|entry| self.segments.iter().any(|segment| is_of(entry, segment)));
            let end = noted.map_or(found.point.end, |entry| found.point.end.max(entry.end_offset));
            return Ok(Inspection { point: Point { end, ..found.point }, ..found });
        }
        match note {
            Some(note) if note.clean && self.is_at_active_segment(note.entry) => self.trust(note.entry),
            note => self.scan(note.map(|note| note.entry)),
        }
    }

    /// Acts on the result of an inspection.
    ///
    /// # Errors
    /// An I/O error.
    fn repair(self, found: Inspection, report: &mut OpenReport) -> Result<Recovered> {
        match found.verdict {
            Verdict::Closed => {
                if let Some(active) = self.segments.last() {
                    active.grow(found.point.position, found.point.max_timestamp);
                    active.set_index_missing_below(found.point.position);
                }
                Ok(self.recovered(found.point, found.tail, None))
            }
            Verdict::Whole => {
                self.make_durable(&found.accepted)?;
                self.resume(found, report)
            }
            Verdict::Torn(ref broken, ref after) => {
                self.make_durable(&found.accepted)?;
                let cut = self.ctx.reserve.with_room(|| self.clone().cut(&found, broken, after, report));
                match cut {
                    Err(error) if error.is_full() => Ok(self.leave_torn(broken.at, &found, error)),
                    cut => cut,
                }
            }
            Verdict::Damaged(error) => self.leave(found.point, found.tail, error),
        }
    }

    fn recovered(self, point: Point, tail: Tail, damage: Option<Error>) -> Recovered {
        Recovered {
            manifest: self.manifest,
            segments: self.segments,
            point,
            damage,
            has_senders: false,
            tail,
        }
    }

    /// After a clean close: the end is the one in the checkpoint.
    fn trust(&self, entry: &CheckpointEntry) -> Result<Inspection> {
        let point = point_of(entry);
        let Some(active) = self.segments.last().cloned() else { return self.no_segments() };
        let file = self.open(&active)?;
        let len = self.len(&*file, &active)?;
        if len < point.position {
            let what = format!("it has {len} bytes, and had {} when the broker was closed", point.position);
            let error = corrupt(self.ctx, &active.path, len, &what);
            return Ok(self.damaged(error, Some(point)));
        }
        if let Some(error) = self.header_damage(&active)? {
            return Ok(self.damaged(error, Some(point)));
        }
        Ok(Inspection {
            point,
            accepted: Vec::new(),
            tail: Tail { from: point.end, transactions: Vec::new() },
            verdict: Verdict::Closed,
        })
    }

    /// Returns the damage of the header of a segment that is not read from its beginning. Appending
    /// continues in the segment, so it must belong to this log and have a known version.
    fn header_damage(&self, segment: &Arc<Segment>) -> Result<Option<Error>> {
        match segment.check_header(self.ctx, self.identity) {
            Ok(()) => Ok(None),
            Err(error @ (Error::Corrupt(_) | Error::UnsupportedFormat { .. })) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// After anything but a clean close: reads the bytes that are not known to be synced, and
    /// decides.
    fn scan(&self, entry: Option<&CheckpointEntry>) -> Result<Inspection> {
        let (first, from) = self.scan_start(entry);
        if from.position > FIRST_BATCH {
            // Bytes before it were durable, and no torn tail can begin there.
            let segment = self.segment(first)?;
            let len = self.len(&*self.open(&segment)?, &segment)?;
            if len < from.position {
                let what = format!("it has {len} bytes, and {} were on the medium", from.position);
                let error = corrupt(self.ctx, &segment.path, len, &what);
                return Ok(self.damaged(error, Some(from)));
            }
            if let Some(error) = self.header_damage(&segment)? {
                return Ok(self.damaged(error, Some(from)));
            }
        }
        let Scanned { point, accepted, broken, mut tail } = self.read_batches(first, from)?;
        if let Err(error) = self.check_journal(&tail) {
            return Ok(Inspection { tail, ..self.damaged(error, Some(point)) });
        }
        let broken = match broken {
            Some(broken) => broken,
            None if point.end < self.manifest.log_start => Break {
                at: self.segments.len().saturating_sub(1),
                position: point.position,
                what: "the log ends before its start".to_string(),
                header_end: None,
                is_damage: false,
            },
            None => {
                return Ok(Inspection { point, accepted, tail, verdict: Verdict::Whole });
            }
        };
        let after = self.look_after(&broken, point.end)?;
        if let Some((synced_upto, witness)) = after.synced_upto {
            tail.attest(witness, synced_upto);
        }
        let has_witness = after.synced_upto.is_some_and(|(upto, _)| upto > point.end);
        if has_witness || broken.is_damage {
            let path = self.segment(broken.at)?.path.clone();
            let witness = if has_witness { "; a later batch says that this was on the medium" } else { "" };
            let what = format!("{}{witness}", broken.what);
            let mut error = corrupt(self.ctx, &path, broken.position, &what);
            if let Error::Corrupt(corruption) = &mut error {
                corruption.offset = Some(point.end);
                corruption.resume = after.resume;
            }
            let end = after.end.unwrap_or(point.end).max(point.end);
            let found = self.damaged(error, Some(Point { end, ..point }));
            return Ok(Inspection { tail, ..found });
        }
        if let Err(error) = self.check_journal(&tail) {
            return Ok(Inspection { tail, ..self.damaged(error, Some(point)) });
        }
        // A truncation drops the segments after the break. Their headers were durable before the
        // manifest listed them, so a damaged one is damage.
        for segment in self.segments.iter().skip(broken.at + 1) {
            if let Some(error) = self.header_damage(segment)? {
                let end = after.end.unwrap_or(point.end).max(point.end);
                let found = self.damaged(error, Some(Point { end, ..point }));
                return Ok(Inspection { tail, ..found });
            }
        }
        Ok(Inspection { point, accepted, tail, verdict: Verdict::Torn(broken, after) })
    }

    /// Checks that the journal still has the records of the transactions found here. IMPORTANT:
    /// must be called before anything is truncated, because a truncation may remove the batch that
    /// proves that a record is missing.
    fn check_journal(&self, tail: &Tail) -> Result<()> {
        match self.journal {
            Some(journal) => journal.check_records(self.identity, tail, self.manifest.log_start),
            None => Ok(()),
        }
    }

    /// Returns the last point known to be durable: that of the checkpoint, or else the start of the
    /// first segment not known to be synced.
    fn scan_start(&self, entry: Option<&CheckpointEntry>) -> (usize, Point) {
        let noted = entry.and_then(|entry| {
            let at = self.segments.iter().position(|segment| is_of(entry, segment))?;
            // A segment that was truncated since ends before the checkpoint's point.
            let holds = self.segments.get(at)?.end().is_none_or(|end| entry.end_offset <= end);
            holds.then(|| (at, point_of(entry)))
        });
        let unsynced = self.segments.iter().position(|s| !s.is_synced()).unwrap_or(0);
        match noted {
            Some((at, point)) if at >= unsynced => (at, point),
            _ => {
                let last_crc = unsynced
                    .checked_sub(1)
                    .and_then(|i| self.manifest.segments.get(i))
                    .map_or(0, |s| s.last_crc);
                let start = self.segments.get(unsynced).map(|s| (s.base, s.generation, s.epoch));
                let (base, generation, epoch) = start.unwrap_or((Offset::ZERO, 0, 0));
                (unsynced, Point::start_of(base, generation, epoch, last_crc))
            }
        }
    }

    /// Returns the inspection of a partition with damage in durable bytes. `known` is the point up
    /// to which it was read.
    fn damaged(&self, error: Error, known: Option<Point>) -> Inspection {
        let point = known.unwrap_or_else(|| {
            let base = self.segments.last().map_or(self.manifest.log_start, |last| last.base);
            Point::start_of(base, 0, 0, 0)
        });
        Inspection {
            point: Point { end: point.end.max(self.manifest.log_start), ..point },
            accepted: Vec::new(),
            tail: Tail::default(),
            verdict: Verdict::Damaged(error),
        }
    }

    /// Leaves a partition unchanged. It can be read around the damage, and takes no appends.
    fn leave(self, point: Point, tail: Tail, error: Error) -> Result<Recovered> {
        if let Some(active) = self.segments.last()
            && let Ok(file) = self.open(active)
            && let Ok(len) = self.len(&*file, active)
        {
            active.grow(len, None);
            active.set_index_missing_below(len);
        }
        Ok(self.recovered(point, tail, Some(error)))
    }

    /// Leaves a torn tail that cannot be truncated for lack of room. The log can be read up to it.
    /// Nothing on disk is changed, and the next opening with room truncates it.
    fn leave_torn(mut self, at: usize, found: &Inspection, error: Error) -> Recovered {
        self.ctx.reserve.note_full();
        self.segments.truncate(at + 1);
        let point = Point { end: found.point.end.max(self.manifest.log_start), ..found.point };
        if let Some(last) = self.segments.last() {
            last.truncate(found.point.end, found.point.position, found.point.max_timestamp);
        }
        self.recovered(point, found.tail.clone(), Some(error))
    }

    fn note_recovery(&self, found: &Inspection, report: &mut OpenReport) {
        let (from, to) = (found.tail.from, found.point.end);
        let bytes = found.accepted.iter().map(|(_, from, to)| to - from).sum();
        let recovery = Recovery {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            from,
            to,
            bytes,
        };
        self.ctx.events.report(&Event::Recovered(recovery.clone()));
        report.recovered.push(recovery);
    }

    fn write_manifest(&self) -> Result<()> {
        manifest::write(self.ctx, &self.dir.join(names::MANIFEST), &self.manifest)
            .map_err(|failed| failed.error)
    }

    fn open(&self, segment: &Arc<Segment>) -> Result<Arc<dyn File>> {
        segment.file(self.ctx)
    }

    fn len(&self, file: &dyn File, segment: &Segment) -> Result<u64> {
        file.len().map_err(|e| Error::io(IoAction::Inspect, &self.ctx.display(&segment.path), e))
    }

    fn segment(&self, at: usize) -> Result<Arc<Segment>> {
        match self.segments.get(at) {
            Some(segment) => Ok(segment.clone()),
            None => Err(corrupt(
                self.ctx,
                &self.dir.join(names::MANIFEST),
                0,
                "the manifest lists no such segment",
            )),
        }
    }

    fn no_segments<T>(&self) -> Result<T> {
        Err(corrupt(self.ctx, &self.dir.join(names::MANIFEST), 0, "the manifest lists no segment"))
    }
}

/// Returns whether a checkpoint's entry is of this segment. IMPORTANT: compare the epoch too,
/// because a truncated segment may have had the same name.
fn is_of(entry: &CheckpointEntry, segment: &Segment) -> bool {
    (entry.base_offset, entry.generation, entry.log_epoch)
        == (segment.base, segment.generation, segment.epoch)
}

fn point_of(entry: &CheckpointEntry) -> Point {
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
