//! Accepts the loss of damaged records so that the log works again, in place. Whole batches stay
//! where they are, or are copied to new segments; the manifest lists these, and the offsets between
//! them as lost; appending continues in a new segment of the next epoch.
//!
//! The crash argument: first the bytes that are given up are copied aside, then every new segment
//! is written, and all of that is durable before the manifest is replaced. That is the commit
//! point. Before it nothing has changed, and the new files are not listed; after it the old files
//! are not listed. No offset is assigned twice.

use super::Log;
use super::manifest::ManifestError;
use super::walk::{KnownEnd, Piece, Quiet, Walked, walk};
use crate::engine::corrupt;
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{LostRange, Manifest, SegmentEntry, SegmentState};
use crate::format::names;
use crate::log::ends::Ends;
use crate::log::list::View;
use crate::log::switch::NextSegment;
use crate::log::transitions;
use crate::log::writer::Tip;
use crate::segment::copy::{copy_aside, in_pieces, rewrite};
use crate::segment::create::create_segment_file;
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::stats::{DamagedRange, Event};
use crate::storage::write_all_at;
use crate::sync::Arc;
use crate::types::Offset;

/// The new state of the log.
#[derive(Default)]
struct Plan {
    /// Its segments, without the active one.
    entries: Vec<Planned>,
    /// The indexes of the segments that are dropped completely.
    gone: Vec<usize>,
}

/// A segment of the new state.
struct Planned {
    entry: SegmentEntry,
    from: From,
}

enum From {
    /// The segment with this index, unchanged.
    Whole(usize),
    /// The beginning of it.
    Shortened(usize, Point),
    /// A copy of some of its batches, in a new file.
    Copied(usize, Piece),
}

impl Log {
    /// Returns all damage in the log, in the order of offsets. Reads the whole log. No segment is
    /// removed meanwhile.
    ///
    /// # Errors
    /// Closed, deleted; the error of a log without any known segment; I/O errors.
    pub(crate) fn find_damage(&self) -> Result<Vec<DamagedRange>> {
        let _shape = self.list.lock_shape();
        self.check_readable()?;
        if !self.has_files() {
            return Ok(Vec::new());
        }
        let (manifest, known) = self.known_state(&self.writer.lock());
        let walked = self.walk_all(&manifest, known)?;
        Ok(self.ranges(&walked))
    }

    /// Gives up the damaged records, all of which must be in `named`, and lets the log work again.
    /// Returns the lost offsets.
    ///
    /// # Errors
    /// `LossNotNamed` if something else is damaged, `Poisoned`, closed, deleted, the error of a log
    /// without any known segment, or I/O errors: nothing has changed. The log is poisoned if it is
    /// unknown which manifest a restart finds.
    pub(crate) fn accept_loss(self: &Arc<Self>, named: &[DamagedRange]) -> Result<Vec<LostRange>> {
        // No compaction may read segments that are replaced here.
        let _compacting = self.compactor.lock();
        // No record of the journal may refer to batches that are given up.
        // Dropped last of these: it wakes waiting callers.
        let lead;
        let alone = self.journal.forget(&self.identity)?;
        let shape = self.list.lock_shape();
        lead = self.durability.commit.hold();
        let mut tip = self.writer.lock();
        self.check_readable()?;
        if let Some(cause) = self.health.poison_cause() {
            return Err(self.identity.poisoned(&cause));
        }
        if !self.has_files() {
            return Ok(Vec::new());
        }
        let (manifest, known) = self.known_state(&tip);
        let walked = self.walk_all(&manifest, known)?;
        let found = self.ranges(&walked);
        if let Some(other) = found.iter().find(|range| !named.contains(range)) {
            return Err(Error::LossNotNamed { range: Box::new(other.clone()) });
        }
        if found.is_empty() && !self.health.is_damaged() {
            return Ok(Vec::new());
        }
        let lost = lost_ranges(&found);
        self.replace_damaged(&mut tip, &manifest, known.offset, &walked, &lost)
            .map_err(|failed| self.manifest_failed(failed))?;
        self.durability.commit.restart(self.log_end().get());
        self.health.accept_damage();
        let epoch = self.epoch();
        drop((tip, shape, alone));
        drop(lead);
        self.waiters.signal();
        self.ctx.events.report(&Event::LossAccepted {
            topic: self.topic().clone(),
            partition: self.partition(),
            ranges: lost.iter().map(|range| (range.from, range.to)).collect(),
            epoch,
        });
        Ok(lost)
    }

    /// Returns the manifest and the known end of the log.
    fn known_state(&self, tip: &Tip) -> (Manifest, KnownEnd) {
        let offset = self.log_end();
        // The end of the last segment of a damaged log is not known.
        let active = (!self.health.is_damaged()).then_some(tip.point.position);
        (self.manifest.get().clone(), KnownEnd { offset, active })
    }

    fn walk_all(&self, manifest: &Manifest, known: KnownEnd) -> Result<Vec<Walked>> {
        let walked = walk(&self.ctx, &self.identity, self.manifest.dir(), manifest, known, &mut Quiet)?;
        Ok(walked.unwrap_or_default())
    }

    fn ranges(&self, walked: &[Walked]) -> Vec<DamagedRange> {
        let of_segment = |one: &Walked| {
            let file = self.ctx.display(&one.path);
            let range = |flaw: &super::walk::Flaw| DamagedRange {
                topic: self.topic().clone(),
                partition: self.partition(),
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
        walked.iter().flat_map(of_segment).collect()
    }

    /// Replaces the log's segments by segments of the whole batches only.
    fn replace_damaged(
        &self,
        tip: &mut Tip,
        manifest: &Manifest,
        known_end: Offset,
        walked: &[Walked],
        lost: &[LostRange],
    ) -> std::result::Result<(), ManifestError> {
        let unchanged = |error| ManifestError { error, unknown: false };
        let segments = self.segments();
        let plan = self.plan_loss(manifest, walked).map_err(unchanged)?;
        let last = plan.entries.last().map(|planned| planned.entry);
        let end = known_end.max(last.map_or(manifest.log_start, |last| last.end_offset));
        let generation = match segments.iter().any(|segment| segment.base == end) {
            true => self.manifest.next_generation(&self.identity).map_err(unchanged)?,
            false => 0,
        };
        let (prev_end, prev_crc) = last.map_or((end, 0), |last| (last.end_offset, last.last_crc));
        let next = NextSegment { base: end, generation, epoch: self.epoch() + 1, prev_end, prev_crc };
        let remove_written = || {
            let copied = plan.entries.iter().filter(|planned| matches!(planned.from, From::Copied(..)));
            for planned in copied {
                let name = names::segment_file(planned.entry.base_offset, planned.entry.generation);
                let _ = self.ctx.storage.remove_file(&self.manifest.dir().join(name));
            }
        };
        let begun = self
            .write_planned(manifest, walked, &plan)
            // IMPORTANT: last, because it makes the names of all of them durable.
            .and_then(|()| next.begin(&self.ctx, &self.identity, self.manifest.dir()));
        let begun = begun.map_err(|error| {
            remove_written();
            unchanged(error)
        })?;
        let listed = begun.list(|next| {
            self.manifest.commit(&self.ctx, |manifest| {
                let entries = plan.entries.iter().map(|planned| planned.entry);
                transitions::give_up(manifest, entries, next, end, lost);
            })
        });
        let (segment, point) = listed.inspect_err(|failed| {
            if !failed.unknown {
                remove_written();
            }
        })?;
        self.manifest.note_lost();
        let gone: Vec<_> = plan.gone.iter().filter_map(|at| segments.get(*at)).collect();
        let view = self.list.replace(|view| {
            self.tail.clear(&self.ctx);
            let mut list = self.settle_planned(&plan, &segments);
            list.push(segment.clone());
            // A reader positioned in one of them continues in the new list.
            gone.iter().for_each(|segment| segment.empty());
            View {
                epoch: next.epoch,
                log_start: view.log_start,
                segments: list.into(),
                ends: Arc::new(Ends::new(end)),
            }
        });
        if self.settings().streams {
            // Remove them again: one with the old counts may have been written meanwhile.
            let _ = self.forget_counts(&plan.entries);
        }
        self.durability.set_point(point);
        *tip = Tip::new(segment, point, view.ends.clone());
        for segment in gone {
            segment.retire(&self.ctx);
        }
        Ok(())
    }

    /// Returns the segments of the new state, each with its new size.
    fn settle_planned(&self, plan: &Plan, segments: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
        let settled = plan.entries.iter().filter_map(|planned| match &planned.from {
            From::Whole(at) => segments.get(*at).cloned().inspect(|same| {
                same.mark_synced();
                same.forget_keys(same.size());
            }),
            From::Shortened(at, point) => segments.get(*at).cloned().inspect(|shorter| {
                shorter.truncate(point.end, point.position, point.max_timestamp);
            }),
            From::Copied(..) => {
                Some(Arc::new(Segment::from_entry(self.manifest.dir(), &planned.entry, None)))
            }
        });
        settled.collect()
    }

    /// Decides the new state of each segment. Writes nothing.
    fn plan_loss(&self, manifest: &Manifest, walked: &[Walked]) -> Result<Plan> {
        let mut plan = Plan::default();
        for (at, (entry, one)) in manifest.segments.iter().zip(walked).enumerate() {
            let state = match entry.state {
                SegmentState::Active | SegmentState::Sealed => SegmentState::Synced,
                known => known,
            };
            let is_sealed = entry.state != SegmentState::Active;
            if one.flaws.is_empty() && is_sealed {
                plan.entries.push(Planned { entry: SegmentEntry { state, ..*entry }, from: From::Whole(at) });
                continue;
            }
            let mut stays = false;
            for piece in &one.pieces {
                let mut entry = SegmentEntry { state, ..*entry };
                if one.has_header && piece.position == FIRST_BATCH {
                    piece.end.end_entry(&mut entry);
                    plan.entries.push(Planned { entry, from: From::Shortened(at, piece.end) });
                    stays = true;
                    continue;
                }
                // If a header was damaged, the base offset may be that of the old file. Readers
                // expect gaps only in a segment whose generation is not 0.
                let is_first = piece.first == entry.base_offset;
                let is_new = entry.generation == 0 && !is_first;
                entry.generation = if is_new { 0 } else { self.manifest.next_generation(&self.identity)? };
                entry.base_offset = piece.first;
                entry.log_epoch = piece.epoch;
                piece.end.end_entry(&mut entry);
                plan.entries.push(Planned { entry, from: From::Copied(at, *piece) });
            }
            if !stays {
                plan.gone.push(at);
            }
        }
        Ok(plan)
    }

    /// Returns the header data of a copied segment, which follows `before`.
    fn copy_of(&self, entry: &SegmentEntry, before: Option<&SegmentEntry>) -> NextSegment {
        NextSegment {
            base: entry.base_offset,
            generation: entry.generation,
            epoch: entry.log_epoch,
            prev_end: before.map_or(entry.base_offset, |before| before.end_offset),
            prev_crc: before.map_or(0, |before| before.last_crc),
        }
    }

    /// Writes and syncs the bytes that are given up and the copies. Writes kept segments again if
    /// they are not known to be durable.
    fn write_planned(&self, manifest: &Manifest, walked: &[Walked], plan: &Plan) -> Result<()> {
        for (entry, one) in manifest.segments.iter().zip(walked) {
            let Some(file) = &one.file else { continue };
            for flaw in one.flaws.iter().filter(|flaw| flaw.bytes > 0) {
                let name = names::lost_file(entry.base_offset, entry.generation, flaw.position);
                let (from, to) = (flaw.position, flaw.position + flaw.bytes);
                copy_aside(&self.ctx, &**file, &one.path, from, to, &self.manifest.dir().join(name))?;
            }
        }
        let segments = self.segments();
        let mut before: Option<&SegmentEntry> = None;
        for Planned { entry, from } in &plan.entries {
            let previous = before.replace(entry);
            match from {
                From::Whole(at) | From::Shortened(at, _) => {
                    let Some(segment) = segments.get(*at) else { continue };
                    if !self.health.is_damaged() {
                        segment.sync_if_dirty(&self.ctx).map_err(|error| self.poison(error))?;
                    } else if !segment.is_synced() {
                        // It is not known whether the bytes that were read are durable, and a sync
                        // writes only dirty pages.
                        let file = segment.file(&self.ctx)?;
                        rewrite(&self.ctx, &*file, &segment.path, 0, entry.size)?;
                    }
                }
                From::Copied(at, piece) => {
                    let source = walked.get(*at).and_then(|one| Some((one.file.as_ref()?, &one.path)));
                    let Some((source, path)) = source else {
                        return Err(corrupt(
                            &self.ctx,
                            self.manifest.dir(),
                            0,
                            "a segment that is not there",
                        ));
                    };
                    let file = create_segment_file(
                        &self.ctx,
                        self.manifest.dir(),
                        &self.copy_of(entry, previous).header(&self.ctx, &self.identity),
                    )?;
                    let name = names::segment_file(entry.base_offset, entry.generation);
                    let target = self.ctx.display(&self.manifest.dir().join(name));
                    let to = piece.position + piece.bytes();
                    in_pieces(&**source, &self.ctx.display(path), piece.position, to, |at, bytes| {
                        let position = at - piece.position + FIRST_BATCH;
                        // The log is unchanged, whatever the outcome of this write.
                        write_all_at(&*file, bytes, position).map_err(|(_, e)| Error::create(&target, e))
                    })?;
                    file.sync_data().map_err(|e| Error::create(&target, e))?;
                }
            }
        }
        // Before the manifest: after a crash in between they are made again.
        if self.settings().streams { self.forget_counts(&plan.entries) } else { Ok(()) }
    }

    /// Removes the key indexes of segments that stay: their counts of earlier records of a key are
    /// too high now.
    fn forget_counts(&self, entries: &[Planned]) -> Result<()> {
        let segments = self.segments();
        for Planned { from, .. } in entries {
            let (From::Whole(at) | From::Shortened(at, _)) = from else { continue };
            let Some(path) = segments.get(*at).map(|segment| segment.keys_path()) else { continue };
            match self.ctx.storage.remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(IoAction::Remove, &self.ctx.display(&path), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    // -- lost offsets, for readers --

    /// Returns the first range of lost records that ends after an offset.
    #[inline]
    pub(crate) fn lost_after(&self, offset: Offset) -> Option<LostRange> {
        if !self.manifest.has_lost() {
            return None;
        }
        self.manifest.get().lost.iter().find(|range| range.to > offset).copied()
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
