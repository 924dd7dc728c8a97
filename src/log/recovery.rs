//! What is in a partition's directory, and what of it counts? Opening after a clean close, and after anything else.
//!
//! After a clean close the checkpoint names the end of the active segment and nothing is read. After anything else every
//! segment that is not known to be synced is read from the last durable point on, batch by batch. Where that stops
//! making sense, a later batch that says "everything up to here was durable when I was written" makes it a
//! corruption, and nothing is touched; without such a witness it is a torn tail, which is kept aside, cut and reported.
//! What is accepted is written again and synced before anybody may read it. See FORMAT.md, "Crash safety".

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::batch::Identity;
use super::context::Context;
use super::journal::Tail;
use super::manifest;
use super::segment::{FIRST_BATCH, HeaderError, Segment, Source, known_timestamp, timestamp_or_unknown};
use super::window::Window;
use super::{corrupt, malformed};
use crate::error::{Error, Result};
use crate::format::batch::{HEADER_BYTES, Seed, check_body, find_batch, is_zero};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::names::{self, PartitionFile};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::stats::{Cut, Event, OpenReport, Recovery};
use crate::storage::{File, OpenMode, read_exact_at, read_file, write_all_at};
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// What the broker's checkpoint says of a partition.
#[derive(Clone, Copy)]
pub(crate) struct Note<'a> {
    pub(crate) entry: &'a CheckpointEntry,
    /// Whether it was written by a clean close: then it names the very end.
    pub(crate) clean: bool,
}

/// A place in the log between two batches, and what appending there needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) base: Offset,
    pub(crate) generation: u32,
    /// That of the segment.
    pub(crate) epoch: u32,
    pub(crate) position: u64,
    pub(crate) end: Offset,
    /// The largest timestamp of the segment's first batch.
    pub(crate) first_timestamp: Option<Timestamp>,
    /// The largest timestamp in the segment up to here.
    pub(crate) max_timestamp: Option<Timestamp>,
    /// The header CRC of the batch before it, 0 if there is none.
    pub(crate) last_crc: u32,
}

impl Point {
    /// The beginning of an empty segment that follows a batch with the header CRC `last_crc`.
    pub(crate) fn start_of(base: Offset, generation: u32, epoch: u32, last_crc: u32) -> Self {
        Point {
            base,
            generation,
            epoch,
            position: FIRST_BATCH,
            end: base,
            first_timestamp: None,
            max_timestamp: None,
            last_crc,
        }
    }
}

/// A partition whose directory has been made sense of.
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Where appending goes on. All before it is on the medium.
    pub(crate) point: Point,
    /// Set if bytes are damaged that had been durable: the partition is for reading only, up to `point.end`.
    pub(crate) damage: Option<Error>,
    pub(crate) tail: Tail,
}

/// Opens a partition's directory.
///
/// # Errors
/// The manifest is missing, damaged or of a newer version, or the medium refused something: nothing of the partition can
/// be used. Nothing that holds records has been changed.
pub(crate) fn recover(
    ctx: &Context,
    identity: &Arc<Identity>,
    dir: &Path,
    note: Option<Note<'_>>,
    report: &mut OpenReport,
) -> Result<Recovered> {
    let manifest = read_manifest(ctx, identity, dir)?;
    let present = sweep(ctx, dir, &manifest, report)?;
    let segments = segments_of(dir, &manifest);
    let seed = Seed::new(&identity.topic_id, identity.partition);
    let tail = Tail::default();
    let recovery = Recoverer { ctx, identity, seed, dir, manifest, segments, report, tail };
    if let Some(missing) = recovery.segments.iter().find(|segment| !present.contains(&segment.path)).cloned()
    {
        let what = "the manifest lists it and it is missing";
        return recovery.damaged(corrupt(ctx, &missing.path, 0, what), None);
    }
    match note {
        Some(note) if note.clean && recovery.is_at_active_segment(note.entry) => recovery.trust(note.entry),
        note => recovery.scan(note.map(|note| note.entry)),
    }
}

/// The segments of a manifest, each knowing what the one before it was.
fn segments_of(dir: &Path, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let mut previous: Option<(Offset, u32)> = None;
    let mut segments = Vec::with_capacity(manifest.segments.len());
    for entry in &manifest.segments {
        // A reset leaves a gap, and a compacted file has another last batch: then there is nothing to compare.
        let follows = previous.filter(|(end, _)| *end == entry.base_offset && entry.generation == 0);
        segments.push(Arc::new(Segment::from_entry(dir, entry, follows)));
        previous = (entry.generation == 0).then_some((entry.end_offset, entry.last_crc));
    }
    segments
}

fn read_manifest(ctx: &Context, identity: &Identity, dir: &Path) -> Result<Manifest> {
    const LIMIT: u64 = 256 << 20;
    let path = dir.join(names::MANIFEST);
    let bytes = read_file(&*ctx.storage, &path, LIMIT).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            corrupt(ctx, &path, 0, "the catalog lists the partition and this is missing")
        }
        _ => Error::io("read", &ctx.display(&path), e),
    })?;
    let manifest = Manifest::decode(&bytes).map_err(|m| malformed(ctx, &path, 0, &m))?;
    if manifest.topic_id != identity.topic_id || manifest.partition != identity.partition {
        return Err(corrupt(ctx, &path, 0, "the manifest belongs to another partition"));
    }
    if manifest.segments.last().is_none_or(|last| last.state != SegmentState::Active) {
        return Err(corrupt(ctx, &path, 0, "the manifest lists no active segment"));
    }
    Ok(manifest)
}

/// Removes what an interrupted roll, cut or deletion left, names what is foreign, and answers which segment files are there.
fn sweep(
    ctx: &Context,
    dir: &Path,
    manifest: &Manifest,
    report: &mut OpenReport,
) -> Result<HashSet<PathBuf>> {
    let listed: HashSet<(Offset, u32)> =
        manifest.segments.iter().map(|s| (s.base_offset, s.generation)).collect();
    let entries = ctx.storage.list(dir).map_err(|e| Error::io("list", &ctx.display(dir), e))?;
    let mut present = HashSet::new();
    for entry in entries {
        let path = dir.join(&entry.name);
        let leftover = match names::parse_partition_file(&entry.name) {
            _ if entry.is_dir => {
                report
                    .warnings
                    .push(format!("{} is not ours and was left alone", ctx.display(&path).display()));
                false
            }
            PartitionFile::Segment { base, generation } if listed.contains(&(base, generation)) => {
                present.insert(path.clone());
                false
            }
            // No acknowledged record is in a segment before the manifest lists it, nor behind its being dropped.
            PartitionFile::Segment { .. } | PartitionFile::Temporary => true,
            PartitionFile::Index { base, generation } => !listed.contains(&(base, generation)),
            PartitionFile::Manifest | PartitionFile::Torn { .. } => false,
            PartitionFile::Foreign => {
                report
                    .warnings
                    .push(format!("{} is not ours and was left alone", ctx.display(&path).display()));
                false
            }
        };
        if leftover {
            ctx.storage.remove_file(&path).map_err(|e| Error::io("remove", &ctx.display(&path), e))?;
        }
    }
    Ok(present)
}

struct Recoverer<'a> {
    ctx: &'a Context,
    identity: &'a Arc<Identity>,
    seed: Seed,
    dir: &'a Path,
    manifest: Manifest,
    segments: Vec<Arc<Segment>>,
    report: &'a mut OpenReport,
    tail: Tail,
}

/// Where and why a scan stopped before the end.
struct Break {
    /// Which segment.
    at: usize,
    position: u64,
    what: String,
    /// The end of the damaged batch, if its header could be read.
    header_end: Option<Offset>,
    /// No crash leaves this: it is damage without any further witness.
    is_foreign: bool,
}

/// What lies behind a break.
#[derive(Default)]
struct Behind {
    /// The largest `synced_upto` of a later batch.
    synced_upto: Option<Offset>,
    /// The base offset of the first later batch.
    resume: Option<Offset>,
    /// Behind the last offset of any later batch.
    end: Option<Offset>,
}

/// How far a scan got.
struct Scanned {
    point: Point,
    accepted: Vec<(Arc<Segment>, u64, u64)>,
    broken: Option<Break>,
    /// The batches of transactions: base offset and transaction.
    transactions: Vec<(Offset, u64)>,
}

impl Recoverer<'_> {
    fn is_at_active_segment(&self, entry: &CheckpointEntry) -> bool {
        self.segments.last().is_some_and(|last| is_of(entry, last))
    }

    /// After a clean close: the end is where the checkpoint says.
    fn trust(self, entry: &CheckpointEntry) -> Result<Recovered> {
        let point = point_of(entry);
        let Some(active) = self.segments.last().cloned() else { return self.no_segments() };
        let file = self.open(&active)?;
        let len = self.len(&*file, &active)?;
        if len < point.position {
            let what = format!("it has {len} bytes, and had {} when the broker was closed", point.position);
            let error = corrupt(self.ctx, &active.path, len, &what);
            return self.damaged(error, Some(point));
        }
        if let Some(error) = self.header_damage(&active)? {
            return self.damaged(error, Some(point));
        }
        active.grow(point.position, point.max_timestamp);
        active.set_index_missing_below(point.position);
        let tail = Tail { from: point.end, transactions: Vec::new() };
        Ok(Recovered { manifest: self.manifest, segments: self.segments, point, damage: None, tail })
    }

    /// What is wrong with the header of a segment that is not read from its beginning. Appending goes on in it: it had
    /// better be ours, and of a version that we know.
    fn header_damage(&self, segment: &Arc<Segment>) -> Result<Option<Error>> {
        match segment.check_header(self.ctx, self.identity) {
            Ok(()) => Ok(None),
            Err(error @ (Error::Corrupt(_) | Error::UnsupportedFormat { .. })) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// After anything else: read what is not known to be synced, decide, repair.
    fn scan(mut self, entry: Option<&CheckpointEntry>) -> Result<Recovered> {
        let (first, from) = self.scan_start(entry);
        let begin = from.end;
        if from.position > FIRST_BATCH {
            // What is before was on the medium, and no torn tail can begin there.
            let segment = self.segment(first)?;
            let len = self.len(&*self.open(&segment)?, &segment)?;
            if len < from.position {
                let what = format!("it has {len} bytes, and {} were on the medium", from.position);
                let error = corrupt(self.ctx, &segment.path, len, &what);
                return self.damaged(error, Some(from));
            }
            if let Some(error) = self.header_damage(&segment)? {
                return self.damaged(error, Some(from));
            }
        }
        let Scanned { point, accepted, broken, transactions } = self.read_batches(first, from)?;
        self.tail = Tail { from: begin, transactions };
        let broken = match broken {
            Some(broken) => broken,
            None if point.end < self.manifest.log_start => Break {
                at: self.segments.len().saturating_sub(1),
                position: point.position,
                what: "the log ends before its start".to_string(),
                header_end: None,
                is_foreign: false,
            },
            None => {
                self.make_durable(&accepted)?;
                return self.resume(point, begin, &accepted);
            }
        };
        let behind = self.look_behind(&broken, point.end)?;
        let has_witness = behind.synced_upto.is_some_and(|upto| upto > point.end);
        if has_witness || broken.is_foreign {
            let path = self.segment(broken.at)?.path.clone();
            let witness = if has_witness { "; a later batch says that this was on the medium" } else { "" };
            let what = format!("{}{witness}", broken.what);
            let mut error = corrupt(self.ctx, &path, broken.position, &what);
            if let Error::Corrupt(corruption) = &mut error {
                corruption.offset = Some(point.end);
                corruption.resume = behind.resume;
            }
            let end = behind.end.unwrap_or(point.end).max(point.end);
            return self.damaged(error, Some(Point { end, ..point }));
        }
        self.make_durable(&accepted)?;
        self.cut(point, begin, &accepted, &broken, &behind)
    }

    /// The last point known to be durable: that of the checkpoint, or else the first segment not known to be synced.
    fn scan_start(&self, entry: Option<&CheckpointEntry>) -> (usize, Point) {
        let noted = entry.and_then(|entry| {
            let at = self.segments.iter().position(|segment| is_of(entry, segment))?;
            // A segment that was cut since ends before the note.
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

    /// Walks and checks every batch from a point to the end.
    fn read_batches(&self, first: usize, from: Point) -> Result<Scanned> {
        let mut point = from;
        let (mut accepted, mut transactions) = (Vec::new(), Vec::new());
        for (at, segment) in self.segments.iter().enumerate().skip(first) {
            if at > first {
                point = Point::start_of(segment.base, segment.generation, segment.epoch, point.last_crc);
            }
            let begin = point.position;
            let broken = self.read_segment(at, segment, &mut point, &mut transactions)?;
            // What the manifest calls synced is, whatever comes before it.
            if !segment.is_synced() && (point.position > FIRST_BATCH || broken.is_none()) {
                // The header is written again too: nothing says that it is on the medium.
                let begin = if begin == FIRST_BATCH { 0 } else { begin };
                accepted.push((segment.clone(), begin, point.position));
            }
            if broken.is_some() {
                return Ok(Scanned { point, accepted, broken, transactions });
            }
        }
        Ok(Scanned { point, accepted, broken: None, transactions })
    }

    /// Walks one segment from `point` on and moves the point behind the last good batch.
    fn read_segment(
        &self,
        at: usize,
        segment: &Arc<Segment>,
        point: &mut Point,
        transactions: &mut Vec<(Offset, u64)>,
    ) -> Result<Option<Break>> {
        let file = self.open(segment)?;
        let len = self.len(&*file, segment)?;
        let limit = if segment.is_sealed() { segment.size().min(len) } else { len };
        let mut source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
        let broken = |position, what: &str, header_end| {
            Ok(Some(Break { at, position, what: what.to_string(), header_end, is_foreign: false }))
        };
        if point.position == FIRST_BATCH {
            let bytes = source.get(self.ctx, 0, SEGMENT_HEADER_BYTES)?;
            match SegmentHeader::decode(bytes) {
                Ok(header) => {
                    if let Some(what) = segment.foreign(&header, self.identity) {
                        let what = what.to_string();
                        return Ok(Some(Break { at, position: 0, what, header_end: None, is_foreign: true }));
                    }
                    if let Some(what) = segment.mismatch(&header, self.identity) {
                        return broken(0, what, None);
                    }
                }
                Err(m) if m.version.is_some() => return Err(malformed(self.ctx, &segment.path, 0, &m)),
                Err(m) => return broken(0, m.what, None),
            }
        }
        segment.set_index_missing_below(point.position);
        while point.position < limit {
            let position = point.position;
            let (header, crc) = match source.header(self.ctx, position, self.seed) {
                Ok(found) => found,
                Err(HeaderError::Io(e)) => return Err(e),
                Err(HeaderError::Malformed(m)) => {
                    if !segment.is_sealed() && self.is_zero_from(&mut source, position, limit)? {
                        // Nothing was ever written here: the end.
                        break;
                    }
                    return broken(position, m.what, None);
                }
            };
            if header.log_epoch != segment.epoch {
                return broken(position, "a batch of another epoch", None);
            }
            if header.base_offset != point.end {
                return broken(
                    position,
                    "a batch with another offset than expected",
                    Some(header.end_offset()),
                );
            }
            if position + header.stored_bytes() > limit {
                return broken(position, "the batch ends behind the file", Some(header.end_offset()));
            }
            let body = source.get(self.ctx, position + HEADER_BYTES as u64, header.body_len as usize)?;
            if let Err(m) = check_body(&header, body) {
                return broken(position, m.what, Some(header.end_offset()));
            }
            if header.transaction_id > 0 {
                transactions.push((header.base_offset, header.transaction_id));
            }
            point.position += header.stored_bytes();
            point.end = header.end_offset();
            point.last_crc = crc;
            point.first_timestamp.get_or_insert(header.max_timestamp);
            point.max_timestamp = point.max_timestamp.max(Some(header.max_timestamp));
        }
        if let Some(end) = segment.end()
            && (point.position != segment.size() || point.end != end)
        {
            return broken(point.position, "the segment ends before the manifest says", None);
        }
        segment.grow(point.position, point.max_timestamp);
        segment.set_index_missing_below(point.position);
        Ok(None)
    }

    /// Looks for batches behind a break: witnesses, and what a cut would take.
    fn look_behind(&self, broken: &Break, expected: Offset) -> Result<Behind> {
        const STEP: usize = 1 << 20;
        let mut behind = Behind { end: broken.header_end.filter(|end| *end > expected), ..Behind::default() };
        for (at, segment) in self.segments.iter().enumerate().skip(broken.at) {
            let Ok(file) = self.open(segment) else { continue };
            let len = self.len(&*file, segment)?;
            let limit = if segment.is_sealed() { segment.size().min(len) } else { len };
            let mut source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
            let mut position = if at == broken.at { broken.position + 1 } else { 0 };
            while position < limit {
                let wanted = STEP.min(usize::try_from(limit - position).unwrap_or(STEP));
                let bytes = source.get(self.ctx, position, wanted)?;
                if bytes.len() < HEADER_BYTES {
                    break;
                }
                let Some(found) = find_batch(bytes, 0, self.seed) else {
                    position += (bytes.len() - HEADER_BYTES + 1) as u64;
                    continue;
                };
                position += found as u64;
                if let Ok((header, _)) = source.header(self.ctx, position, self.seed)
                    && header.log_epoch == segment.epoch
                    && header.base_offset >= expected
                {
                    behind.synced_upto = behind.synced_upto.max(Some(header.synced_upto));
                    behind.resume = behind.resume.or(Some(header.base_offset));
                    behind.end = behind.end.max(Some(header.end_offset()));
                }
                position += 1;
            }
        }
        Ok(behind)
    }

    /// Writes what was accepted again and syncs it: after a failed sync, or a kill, the medium may lack what the page
    /// cache shows, and only written bytes are synced.
    fn make_durable(&self, accepted: &[(Arc<Segment>, u64, u64)]) -> Result<()> {
        for (segment, from, to) in accepted {
            let file = self.open(segment)?;
            rewrite(self.ctx, &*file, &segment.path, *from, *to)?;
        }
        self.ctx.storage.sync_dir(self.dir).map_err(|e| Error::io("sync", &self.ctx.display(self.dir), e))
    }

    /// What the manifest may say of a segment that has been checked and written again. IMPORTANT: not that it need never
    /// be read again, while it has to be seen yet whether the transactions in it happened: a crash before that is settled
    /// must find them once more.
    fn state_of_checked(&self) -> SegmentState {
        if self.tail.transactions.is_empty() { SegmentState::Synced } else { SegmentState::Sealed }
    }

    /// Goes on in the active segment: nothing was cut.
    fn resume(
        mut self,
        point: Point,
        begin: Offset,
        accepted: &[(Arc<Segment>, u64, u64)],
    ) -> Result<Recovered> {
        let mut changed = false;
        let state = self.state_of_checked();
        for entry in &mut self.manifest.segments {
            if entry.state == SegmentState::Sealed && state == SegmentState::Synced {
                entry.state = SegmentState::Synced;
                changed = true;
            }
        }
        if changed {
            self.write_manifest()?;
            // Their states are read from the manifest; all that was noted on the active one is kept.
            let active = self.segments.pop();
            self.segments = segments_of(self.dir, &self.manifest);
            if let (Some(active), Some(last)) = (active, self.segments.last_mut()) {
                *last = active;
            }
        }
        self.note_recovery(begin, point.end, accepted);
        Ok(Recovered {
            manifest: self.manifest,
            segments: self.segments,
            point,
            damage: None,
            tail: self.tail,
        })
    }

    /// Cuts a torn tail: keeps its bytes aside, ends the log before it, raises the epoch and goes on in a new segment.
    fn cut(
        mut self,
        point: Point,
        begin: Offset,
        accepted: &[(Arc<Segment>, u64, u64)],
        broken: &Break,
        behind: &Behind,
    ) -> Result<Recovered> {
        let (bytes, kept) = self.keep_aside(broken)?;
        let torn = self.segment(broken.at)?;
        // What the manifest knows to have been here, even where nothing of it can be read.
        let cut_entries = self.manifest.segments.iter().skip(broken.at);
        let sealed_end = cut_entries.filter(|s| s.state != SegmentState::Active).map(|s| s.end_offset).max();
        let known_end = behind.end.max(sealed_end).filter(|end| *end > point.end);
        let dropped: Vec<Arc<Segment>> = self.segments.iter().skip(broken.at + 1).cloned().collect();
        self.manifest.segments.truncate(broken.at + 1);
        // Offsets before the log start have been given out, whatever became of their records.
        let base = point.end.max(self.manifest.log_start);
        let mut gone = dropped;
        let mut generation =
            gone.iter().filter(|s| s.base == base).map(|s| s.generation + 1).max().unwrap_or(0);
        if point.position > FIRST_BATCH {
            let state = self.state_of_checked();
            if let Some(last) = self.manifest.segments.last_mut() {
                last.state = state;
                last.size = point.position;
                last.end_offset = point.end;
                last.last_crc = point.last_crc;
                last.max_timestamp = timestamp_or_unknown(point.max_timestamp);
            }
        } else {
            self.manifest.segments.pop();
            generation = generation.max(torn.generation + 1);
            gone.push(torn.clone());
        }
        let something_lost = bytes > 0 || known_end.is_some();
        let epoch = self.manifest.epoch() + u32::from(something_lost);
        if something_lost {
            self.manifest.begin_epoch(point.end);
        }
        let created = SegmentHeader {
            partition: self.identity.partition,
            topic_id: self.identity.topic_id,
            base_offset: base,
            prev_end: point.end,
            prev_crc: point.last_crc,
            generation,
            log_epoch: epoch,
            created_at: self.ctx.clock.now(),
        };
        create_segment(self.ctx, self.dir, &created, true)?;
        self.manifest.segments.push(active_entry(base, generation, epoch));
        self.write_manifest()?;
        for segment in gone {
            // Named as leftovers by the next open if this fails.
            let _ = self.ctx.storage.remove_file(&segment.path);
            let _ = self.ctx.storage.remove_file(&segment.index_path());
        }
        self.segments = segments_of(self.dir, &self.manifest);
        self.note_recovery(begin, point.end, accepted);
        if something_lost {
            let cut = Cut {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                file: self.ctx.display(&torn.path),
                position: broken.position,
                bytes,
                reason: broken.what.clone(),
                from: point.end,
                to: known_end,
                kept: kept.map(|path| self.ctx.display(&path)),
            };
            self.ctx.event(&Event::Cut(cut.clone()));
            self.report.cuts.push(cut);
        }
        let point = Point::start_of(base, generation, epoch, point.last_crc);
        Ok(Recovered {
            manifest: self.manifest,
            segments: self.segments,
            point,
            damage: None,
            tail: self.tail,
        })
    }

    /// Copies every byte that a cut will take into files beside the segments. Answers how many bytes that were, without
    /// trailing zeros, and the first copy.
    fn keep_aside(&self, broken: &Break) -> Result<(u64, Option<PathBuf>)> {
        let (mut total, mut first) = (0, None);
        for (at, segment) in self.segments.iter().enumerate().skip(broken.at) {
            let file = self.open(segment)?;
            let len = self.len(&*file, segment)?;
            let from = if at == broken.at { broken.position } else { FIRST_BATCH.min(len) };
            let to = last_nonzero(self.ctx, &*file, &segment.path, from, len)?;
            if to <= from {
                continue;
            }
            total += to - from;
            let path = self.dir.join(names::torn_file(segment.base, segment.generation, from));
            let copy = self
                .ctx
                .storage
                .open(&path, OpenMode::Truncate)
                .map_err(|e| Error::create(&self.ctx.display(&path), e))?;
            let source = self.ctx.display(&segment.path);
            in_pieces(&*file, &source, from, to, |position, piece| {
                write_all_at(&*copy, piece, position - from)
                    .map_err(|(_, e)| Error::write(&self.ctx.display(&path), e))
            })?;
            copy.sync_data().map_err(|e| Error::io("sync", &self.ctx.display(&path), e))?;
            first.get_or_insert(path);
        }
        Ok((total, first))
    }

    /// A partition that can be read, around the damage, and not appended to. Nothing on the medium has been changed.
    fn damaged(self, error: Error, known: Option<Point>) -> Result<Recovered> {
        if let Some(active) = self.segments.last()
            && let Ok(file) = self.open(active)
            && let Ok(len) = self.len(&*file, active)
        {
            active.grow(len, None);
            active.set_index_missing_below(len);
        }
        let point = known.unwrap_or_else(|| {
            let base = self.segments.last().map_or(self.manifest.log_start, |last| last.base);
            Point::start_of(base, 0, 0, 0)
        });
        let point = Point { end: point.end.max(self.manifest.log_start), ..point };
        Ok(Recovered {
            manifest: self.manifest,
            segments: self.segments,
            point,
            damage: Some(error),
            tail: self.tail,
        })
    }

    fn note_recovery(&mut self, from: Offset, to: Offset, accepted: &[(Arc<Segment>, u64, u64)]) {
        let bytes = accepted.iter().map(|(_, from, to)| to - from).sum();
        let recovery = Recovery {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            from,
            to,
            bytes,
        };
        self.ctx.event(&Event::Recovered(recovery.clone()));
        self.report.recovered.push(recovery);
    }

    fn write_manifest(&self) -> Result<()> {
        manifest::write(self.ctx, &self.dir.join(names::MANIFEST), &self.manifest)
            .map_err(|failed| failed.error)
    }

    fn open(&self, segment: &Arc<Segment>) -> Result<Arc<dyn File>> {
        segment.file(self.ctx)
    }

    fn len(&self, file: &dyn File, segment: &Segment) -> Result<u64> {
        file.len().map_err(|e| Error::io("look at", &self.ctx.display(&segment.path), e))
    }

    fn is_zero_from(&self, source: &mut Source, mut position: u64, end: u64) -> Result<bool> {
        const STEP: usize = 256 << 10;
        while position < end {
            let wanted = STEP.min(usize::try_from(end - position).unwrap_or(STEP));
            let bytes = source.get(self.ctx, position, wanted)?;
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

    fn no_segments(self) -> Result<Recovered> {
        Err(corrupt(self.ctx, &self.dir.join(names::MANIFEST), 0, "the manifest lists no segment"))
    }
}

/// Whether a checkpoint speaks of this segment. IMPORTANT: not of another one of its name, that was cut off since.
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
    }
}

/// The manifest's entry of a segment that is being appended to.
pub(crate) fn active_entry(base_offset: Offset, generation: u32, log_epoch: u32) -> SegmentEntry {
    SegmentEntry {
        base_offset,
        generation,
        log_epoch,
        state: SegmentState::Active,
        size: 0,
        end_offset: Offset::ZERO,
        last_crc: 0,
        max_timestamp: i64::MIN,
    }
}

/// Creates a segment's file with its header; its name is durable on return, its bytes if `sync` says so. A file of that name that is there already is a leftover: no manifest
/// lists it.
///
/// # Errors
/// Nothing is left of the file.
pub(crate) fn create_segment(
    ctx: &Context,
    dir: &Path,
    header: &SegmentHeader,
    sync: bool,
) -> Result<Arc<dyn File>> {
    let path = dir.join(names::segment_file(header.base_offset, header.generation));
    let create = || match ctx.storage.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            ctx.storage.remove_file(&path)?;
            ctx.storage.open(&path, OpenMode::CreateNew)
        }
        other => other,
    };
    let written = create().and_then(|file| {
        write_all_at(&*file, &header.encode(), 0).map_err(|(_, e)| e)?;
        if sync {
            file.sync_data()?;
        }
        // IMPORTANT: before the manifest that lists it is renamed into place. Both are entries of one directory, and a
        // power loss may keep the second and lose the first.
        ctx.storage.sync_dir(dir)?;
        Ok(file)
    });
    written.map_err(|e| {
        let _ = ctx.storage.remove_file(&path);
        Error::create(&ctx.display(&path), e)
    })
}

/// Reads `from..to` of a file piece by piece.
fn in_pieces(
    file: &dyn File,
    path: &Path,
    from: u64,
    to: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = Vec::new();
    let mut position = from;
    while position < to {
        let len = PIECE.min(to - position);
        buffer.resize(len as usize, 0);
        read_exact_at(file, &mut buffer, position).map_err(|e| Error::io("read", path, e))?;
        each(position, &buffer)?;
        position += len;
    }
    Ok(())
}

/// Writes `from..to` of a file over itself and syncs it.
pub(crate) fn rewrite(ctx: &Context, file: &dyn File, path: &Path, from: u64, to: u64) -> Result<()> {
    let path = ctx.display(path);
    in_pieces(file, &path, from, to, |position, piece| {
        write_all_at(file, piece, position).map_err(|(_, e)| Error::io("write", &path, e))
    })?;
    file.sync_data().map_err(|e| Error::io("sync", &path, e))
}

/// Behind the last byte of `from..to` that is not zero.
fn last_nonzero(ctx: &Context, file: &dyn File, path: &Path, from: u64, to: u64) -> Result<u64> {
    let mut last = from;
    in_pieces(file, &ctx.display(path), from, to, |position, piece| {
        if let Some(at) = piece.iter().rposition(|byte| *byte != 0) {
            last = position + at as u64 + 1;
        }
        Ok(())
    })?;
    Ok(last)
}
