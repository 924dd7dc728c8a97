//! Accepts the loss of damaged records so that the log works again, in place. Whole batches stay
//! where they are, or are copied to new segments; the manifest lists these, and the offsets between
//! them as lost; appending continues in a new segment of the next epoch.
//!
//! The crash argument: first the bytes that are given up are copied aside, then every new segment
//! is written, and all of that is durable before the manifest is replaced. That is the commit
//! point. Before it nothing has changed, and the new files are not listed; after it the old files
//! are not listed. No offset is assigned twice.

use super::ends::Ends;
use super::list::{SegmentSet, Segments, View};
use super::manifest::ManifestError;
use super::switch::NextSegment;
use super::walk::{Flaw, KnownEnd, Piece, Quiet, Walked, walk};
use super::writer::Tip;
use super::{Log, self_check, transitions};
use crate::engine::{Later, corrupt};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{LostRange, Manifest, SegmentEntry, SegmentState};
use crate::format::names;
use crate::segment::copy::{copy_aside, in_pieces, rewrite};
use crate::segment::create::create_segment_file;
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::stats::{DamagedRange, Event};
use crate::storage::write_all_at;
use crate::sync::Arc;
use crate::types::Offset;

/// Returns all damage in the log, in the order of offsets. Reads the whole log. No segment is
/// removed meanwhile.
///
/// # Errors
/// Closed, deleted; the error of a log without any known segment; I/O errors.
pub(crate) fn find_damage(log: &Log) -> Result<Vec<DamagedRange>> {
    let _shape = log.list.lock_shape();
    log.check_readable()?;
    if !log.has_files() {
        return Ok(Vec::new());
    }
    let (manifest, known) = known_state(log, &log.writer.lock());
    Ok(Examined::read(log, manifest, known)?.damage())
}

/// Gives up the damaged records, all of which must be in `named`, and lets the log work again.
/// Returns the lost offsets.
///
/// # Errors
/// `LossNotNamed` if something else is damaged, `Poisoned`, closed, deleted, the error of a log
/// without any known segment, or I/O errors: nothing has changed. The log is poisoned if it is
/// unknown which manifest a restart finds.
pub(crate) fn accept_loss(log: &Log, named: &[DamagedRange]) -> Result<Vec<LostRange>> {
    let _later = Later::new();
    // No compaction may read segments that are replaced here.
    let _compacting = log.compactor.lock();
    // Dropped last of these: it wakes waiting callers.
    let lead;
    // No record of the journal may refer to batches that are given up.
    let alone = log.journal.forget(&log.identity)?;
    let shape = log.list.lock_shape();
    lead = log.durability.commit.hold();
    let mut tip = log.writer.lock();
    log.check_readable()?;
    if let Some(cause) = log.health.poison_cause() {
        return Err(log.identity.poisoned(&cause));
    }
    if !log.has_files() {
        return Ok(Vec::new());
    }
    let (manifest, known) = known_state(log, &tip);
    let examined = Examined::read(log, manifest, known)?;
    let found = examined.damage();
    if let Some(other) = found.iter().find(|range| !named.contains(range)) {
        return Err(Error::LossNotNamed { range: Box::new(other.clone()) });
    }
    if found.is_empty() && !log.health.is_damaged() {
        return Ok(Vec::new());
    }
    let lost = lost_ranges(&found);
    examined.replace_damaged(&mut tip, &lost).map_err(|failed| log.manifest_failed(failed))?;
    log.durability.commit.restart(log.log_end().get());
    log.health.accept_damage();
    let epoch = log.epoch();
    drop((tip, shape, alone));
    drop(lead);
    log.waiters.signal();
    log.publish();
    log.ctx.events.report(&Event::LossAccepted {
        topic: log.topic().clone(),
        partition: log.partition(),
        ranges: lost.iter().map(|range| (range.from, range.to)).collect(),
        epoch,
    });
    Ok(lost)
}

/// Returns the manifest and the known end of the log.
fn known_state(log: &Log, tip: &Tip) -> (Manifest, KnownEnd) {
    let offset = log.log_end();
    // The end of the last segment of a damaged log is not known.
    let active = (!log.health.is_damaged()).then_some(tip.point.position);
    (Manifest::clone(&log.manifest.get()), KnownEnd { offset, active })
}

/// A log all of whose segments were read. None of them is removed while this lives, because the
/// caller holds the shape lock.
struct Examined<'a> {
    log: &'a Log,
    manifest: Manifest,
    end: Offset,
    segments: Segments,
    /// The result of each segment, in the order of the manifest.
    walked: Vec<Walked>,
}

/// The new state of the log.
#[derive(Default)]
struct Replacement {
    /// Its segments, without the active one.
    segments: Vec<NewSegment>,
    /// The indexes of the segments that are dropped completely.
    gone: Vec<usize>,
}

/// A segment of the new state.
struct NewSegment {
    entry: SegmentEntry,
    origin: Origin,
}

/// Where a segment of the new state comes from. The numbers are indexes of the old segments.
enum Origin {
    /// The whole segment, unchanged.
    Whole(usize),
    /// The beginning of a segment.
    Shortened(usize, Point),
    /// A copy of some of its batches, in a new file.
    Copied(usize, Piece),
}

impl<'a> Examined<'a> {
    fn read(log: &'a Log, manifest: Manifest, known: KnownEnd) -> Result<Self> {
        let walked = walk(&log.ctx, &log.identity, log.manifest.dir(), &manifest, known, &mut Quiet)?;
        let (end, segments) = (known.offset, log.segments());
        Ok(Examined { log, manifest, end, segments, walked: walked.unwrap_or_default() })
    }

    fn damage(&self) -> Vec<DamagedRange> {
        let of_segment = |one: &Walked| {
            let file = self.log.ctx.display(&one.path);
            let range = |flaw: &Flaw| DamagedRange {
                topic: self.log.topic().clone(),
                partition: self.log.partition(),
                file: file.clone(),
                position: flaw.position,
                bytes: flaw.bytes,
                from: flaw.from,
                to: flaw.to,
                what: flaw.what.clone(),
                invariant: flaw.invariant,
            };
            one.flaws.iter().map(range).collect::<Vec<_>>()
        };
        self.walked.iter().flat_map(of_segment).collect()
    }

    /// Replaces the log's segments by segments of the whole batches only.
    fn replace_damaged(&self, tip: &mut Tip, lost: &[LostRange]) -> Result<(), ManifestError> {
        let log = self.log;
        let new = self.plan().map_err(ManifestError::unchanged)?;
        let next = self.next_after(&new).map_err(ManifestError::unchanged)?;
        let (segment, point) = self.commit(&new, next, lost).inspect_err(|failed| {
            if !failed.unknown {
                self.remove_copies(&new);
            }
        })?;
        log.manifest.note_lost();
        let gone: Vec<_> = new.gone.iter().filter_map(|at| self.segments.get(*at)).collect();
        let view = log.list.replace(|view| {
            log.tail.clear(&log.ctx);
            let mut list = self.settle(&new);
            list.push(segment.clone());
            // A reader positioned in one of them continues in the new list.
            gone.iter().for_each(|segment| segment.empty());
            View {
                epoch: next.epoch,
                log_start: view.log_start,
                segments: Arc::new(SegmentSet::new(list)),
                ends: Arc::new(Ends::new(next.base)),
            }
        });
        if log.settings().streams {
            // Remove them again: one with the old counts may have been written meanwhile.
            let _ = self.forget_counts(&new);
        }
        log.durability.set_point(point);
        *tip = Tip::new(segment, point, view.ends.clone());
        self_check::segments_changed(log, Some(tip));
        for segment in gone {
            segment.retire(&log.ctx);
        }
        Ok(())
    }

    /// Decides the new state of each segment. Writes nothing.
    fn plan(&self) -> Result<Replacement> {
        let mut new = Replacement::default();
        for (at, (entry, one)) in self.manifest.segments.iter().zip(&self.walked).enumerate() {
            let state = match entry.state {
                SegmentState::Active | SegmentState::Sealed => SegmentState::Synced,
                known => known,
            };
            let is_sealed = entry.state != SegmentState::Active;
            if one.flaws.is_empty() && is_sealed {
                let entry = SegmentEntry { state, ..*entry };
                new.segments.push(NewSegment { entry, origin: Origin::Whole(at) });
                continue;
            }
            let mut stays = false;
            for piece in &one.pieces {
                let mut entry = SegmentEntry { state, ..*entry };
                if one.has_header && piece.position == FIRST_BATCH {
                    piece.end.end_entry(&mut entry);
                    new.segments.push(NewSegment { entry, origin: Origin::Shortened(at, piece.end) });
                    stays = true;
                    continue;
                }
                // If a header was damaged, the base offset may be that of the old file. Readers
                // expect gaps only in a segment whose generation is not 0.
                let is_first = piece.first == entry.base_offset;
                let is_new = entry.generation == 0 && !is_first;
                entry.generation =
                    if is_new { 0 } else { self.log.manifest.next_generation(&self.log.identity)? };
                entry.base_offset = piece.first;
                entry.log_epoch = piece.epoch;
                piece.end.end_entry(&mut entry);
                new.segments.push(NewSegment { entry, origin: Origin::Copied(at, *piece) });
            }
            if !stays {
                new.gone.push(at);
            }
        }
        Ok(new)
    }

    /// Returns the segment in which appending continues, at the log's end.
    fn next_after(&self, new: &Replacement) -> Result<NextSegment> {
        let last = new.segments.last().map(|last| last.entry);
        let base = self.end.max(last.map_or(self.manifest.log_start, |last| last.end_offset));
        let generation = match self.segments.iter().any(|segment| segment.base == base) {
            true => self.log.manifest.next_generation(&self.log.identity)?,
            false => 0,
        };
        let (prev_end, prev_crc) = last.map_or((base, 0), |last| (last.end_offset, last.last_crc));
        Ok(NextSegment { base, generation, epoch: self.log.epoch() + 1, prev_end, prev_crc })
    }

    /// Writes the new state and then the manifest, which is the commit point. Returns the new
    /// active segment.
    fn commit(
        &self,
        new: &Replacement,
        next: NextSegment,
        lost: &[LostRange],
    ) -> Result<(Arc<Segment>, Point), ManifestError> {
        let log = self.log;
        let unlisted = self
            .write(new)
            // IMPORTANT: last, because it makes the names of all of them durable.
            .and_then(|()| next.begin(&log.ctx, &log.identity, log.manifest.dir()))
            .map_err(ManifestError::unchanged)?;
        log.durability.forget_inherited();
        log.manifest.note_named(&log.manifest.unnamed_before(Offset::MAX));
        unlisted.list(|active| {
            log.manifest.commit(&log.ctx, |manifest| {
                let entries = new.segments.iter().map(|segment| segment.entry);
                transitions::give_up(manifest, entries, active, next.base, lost);
            })
        })
    }

    /// Removes the files of copied segments.
    fn remove_copies(&self, new: &Replacement) {
        for NewSegment { entry, origin } in &new.segments {
            if matches!(origin, Origin::Copied(..)) {
                let name = names::segment_file(entry.base_offset, entry.generation);
                let _ = self.log.ctx.storage.remove_file(&self.log.manifest.dir().join(name));
            }
        }
    }

    /// Writes and syncs the bytes that are given up and the copies. Writes kept segments again if
    /// they are not known to be durable.
    fn write(&self, new: &Replacement) -> Result<()> {
        self.keep_aside()?;
        let mut before: Option<&SegmentEntry> = None;
        for NewSegment { entry, origin } in &new.segments {
            let previous = before.replace(entry);
            match origin {
                Origin::Whole(at) | Origin::Shortened(at, _) => {
                    if let Some(segment) = self.segments.get(*at) {
                        self.make_durable(segment, entry.size)?;
                    }
                }
                Origin::Copied(at, piece) => self.copy(*at, piece, entry, previous)?,
            }
        }
        // Before the manifest: after a crash in between they are made again.
        if self.log.settings().streams { self.forget_counts(new) } else { Ok(()) }
    }

    /// Copies the bytes that are given up into files next to the segments.
    fn keep_aside(&self) -> Result<()> {
        let log = self.log;
        for (entry, one) in self.manifest.segments.iter().zip(&self.walked) {
            if one.flaws.iter().all(|flaw| flaw.bytes == 0) {
                continue;
            }
            let Some(file) = one.open(&log.ctx)? else { continue };
            for flaw in one.flaws.iter().filter(|flaw| flaw.bytes > 0) {
                let name = names::lost_file(entry.base_offset, entry.generation, flaw.position);
                let (from, to) = (flaw.position, flaw.position + flaw.bytes);
                copy_aside(&log.ctx, &*file, &one.path, from, to, &log.manifest.dir().join(name))?;
            }
        }
        Ok(())
    }

    /// Makes the first `size` bytes of a kept segment durable.
    fn make_durable(&self, segment: &Arc<Segment>, size: u64) -> Result<()> {
        let log = self.log;
        if !log.health.is_damaged() && !log.durability.has_inherited() {
            return segment.sync_if_dirty(&log.ctx).map_err(|error| log.sync_failed(error));
        }
        if segment.is_synced() {
            return Ok(());
        }
        // It is not known whether the bytes that were read are durable, and a sync writes only
        // dirty pages.
        let file = segment.file(&log.ctx)?;
        rewrite(&log.ctx, &*file, &segment.path, 0, size)
    }

    /// Copies a piece of the segment with the index `at` into a new file, durably. The new segment
    /// follows `previous`.
    fn copy(
        &self,
        at: usize,
        piece: &Piece,
        entry: &SegmentEntry,
        previous: Option<&SegmentEntry>,
    ) -> Result<()> {
        let (ctx, dir) = (&self.log.ctx, self.log.manifest.dir());
        let Some(one) = self.walked.get(at) else {
            return Err(corrupt(ctx, dir, 0, "a segment that is not there"));
        };
        let Some(source) = one.open(ctx)? else {
            return Err(corrupt(ctx, dir, 0, "a segment that is not there"));
        };
        let segment = NextSegment {
            base: entry.base_offset,
            generation: entry.generation,
            epoch: entry.log_epoch,
            prev_end: previous.map_or(entry.base_offset, |previous| previous.end_offset),
            prev_crc: previous.map_or(0, |previous| previous.last_crc),
        };
        let file = create_segment_file(ctx, dir, &segment.header(ctx, &self.log.identity))?;
        let target = ctx.display(&dir.join(names::segment_file(entry.base_offset, entry.generation)));
        let to = piece.position + piece.bytes();
        in_pieces(&*source, &ctx.display(&one.path), piece.position, to, |at, bytes| {
            let position = at - piece.position + FIRST_BATCH;
            // The log is unchanged, whatever the outcome of this write.
            write_all_at(&*file, bytes, position).map_err(|(_, e)| Error::create(&target, e))
        })?;
        file.sync_data().map_err(|e| Error::create(&target, e))
    }

    /// Returns the segments of the new state, each with its new size.
    fn settle(&self, new: &Replacement) -> Vec<Arc<Segment>> {
        let settled = new.segments.iter().filter_map(|NewSegment { entry, origin }| match origin {
            Origin::Whole(at) => self.segments.get(*at).cloned().inspect(|same| {
                same.mark_synced();
                same.forget_keys(same.size());
            }),
            Origin::Shortened(at, point) => self.segments.get(*at).cloned().inspect(|shorter| {
                shorter.truncate(point.end, point.position, point.max_timestamp);
            }),
            Origin::Copied(..) => Some(Arc::new(Segment::from_entry(self.log.manifest.dir(), entry, None))),
        });
        settled.collect()
    }

    /// Removes the key indexes of segments that stay: their counts of earlier records of a key are
    /// too high now.
    fn forget_counts(&self, new: &Replacement) -> Result<()> {
        let ctx = &self.log.ctx;
        for NewSegment { origin, .. } in &new.segments {
            let (Origin::Whole(at) | Origin::Shortened(at, _)) = origin else { continue };
            let Some(path) = self.segments.get(*at).map(|segment| segment.keys_path()) else { continue };
            match ctx.storage.remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(IoAction::Remove, &ctx.display(&path), e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Merges the offsets of damaged ranges.
fn lost_ranges(found: &[DamagedRange]) -> Vec<LostRange> {
    let mut lost: Vec<LostRange> = Vec::new();
    for range in found.iter().filter(|range| range.from < range.to) {
        match lost.last_mut().filter(|last| range.from <= last.to) {
            Some(last) => last.to = last.to.max(range.to),
            None => lost.push(LostRange { from: range.from, to: range.to }),
        }
    }
    lost
}
