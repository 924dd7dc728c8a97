//! How does a damaged log work again? What is damaged is given up, in place: the whole batches stay where they are, or are
//! copied beside it, the manifest lists those and the offsets between them as lost, and appending continues in a new
//! segment of the next epoch.
//!
//! The crash argument: the bytes that are given up are copied aside first, then every new segment is written, and all of that
//! is on the medium before the manifest is replaced. That is the commit point. Before it nothing has changed, and what was
//! written is listed nowhere; after it the old files are listed nowhere. No offset that was given out is given out again.

use super::manifest::ManifestError;
use super::walk::{KnownEnd, Piece, Quiet, Walked, walk};
use super::{Log, Writer};
use crate::engine::corrupt;
use crate::error::{Error, Result};
use crate::format::manifest::{LostRange, Manifest, SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::segment::SegmentHeader;
use crate::segment::copy::{copy_aside, in_pieces, rewrite};
use crate::segment::create::{active_entry, create_segment, create_segment_file};
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::stats::{DamagedRange, Event};
use crate::storage::write_all_at;
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::Offset;

/// What the log is to be.
#[derive(Default)]
struct Plan {
    /// Its segments, without the active one.
    entries: Vec<Planned>,
    /// The numbers of the segments of which nothing is listed any more.
    gone: Vec<usize>,
}

/// A segment of the log to be.
struct Planned {
    entry: SegmentEntry,
    from: From,
}

enum From {
    /// The segment with this number, unchanged.
    Whole(usize),
    /// The beginning of it.
    Shortened(usize, Point),
    /// A copy of some of its batches, in a file of their own.
    Copied(usize, Piece),
}

impl Log {
    /// Everything that is damaged in the log, in the order of its offsets. All of it is read. No segment is removed meanwhile.
    ///
    /// # Errors
    /// Closed, deleted; that of a log of which no segment is known; I/O errors.
    pub(crate) fn find_damage(&self) -> Result<Vec<DamagedRange>> {
        let _shape = self.shape.lock();
        self.check_readable()?;
        if !self.has_files() {
            return Ok(Vec::new());
        }
        let (manifest, known) = self.what_is_known(&self.writer.lock());
        let walked = self.walk_all(&manifest, known)?;
        Ok(self.ranges(&walked))
    }

    /// Gives up what is damaged, which must be among what is `named`, and lets the log work again. Returns the offsets that
    /// were given up.
    ///
    /// # Errors
    /// `LossNotNamed` if something else is damaged, `Poisoned`, closed, deleted, that of a log of which no segment is known,
    /// or I/O errors: nothing has changed. The log is poisoned if it is unknown which manifest a restart finds.
    pub(crate) fn accept_loss(self: &Arc<Self>, named: &[DamagedRange]) -> Result<Vec<LostRange>> {
        // No cleaning is at work on segments that are replaced here.
        let _cleaning = self.cleaning.lock();
        // No record of the journal may speak of what is given up.
        let _alone = self.journal.forget(self)?;
        let shape = self.shape.lock();
        let lead = self.commit.hold();
        let mut writer = self.writer.lock();
        self.check_readable()?;
        if let Some(cause) = self.poison.lock().clone() {
            return Err(Error::Poisoned { topic: self.topic().clone(), partition: self.partition(), cause });
        }
        if !self.has_files() {
            return Ok(Vec::new());
        }
        let (manifest, known) = self.what_is_known(&writer);
        let walked = self.walk_all(&manifest, known)?;
        let found = self.ranges(&walked);
        if let Some(other) = found.iter().find(|range| !named.contains(range)) {
            return Err(Error::LossNotNamed { range: Box::new(other.clone()) });
        }
        if found.is_empty() && !self.is_damaged() {
            return Ok(Vec::new());
        }
        let lost = lost_ranges(&found);
        self.replace_damaged(&mut writer, &manifest, known.offset, &walked, &lost).map_err(|failed| {
            match failed.unknown {
                true => self.poison(failed.error),
                false => failed.error,
            }
        })?;
        self.commit.restart(self.log_end.load(Ordering::Acquire));
        *self.damage.lock() = None;
        self.damaged.store(false, Ordering::Release);
        self.met_damage.store(false, Ordering::Release);
        self.refuses_appends.store(false, Ordering::Release);
        let epoch = self.epoch();
        drop((writer, lead, shape));
        self.waiters.signal();
        self.ctx.event(&Event::LossAccepted {
            topic: self.topic().clone(),
            partition: self.partition(),
            ranges: lost.iter().map(|range| (range.from, range.to)).collect(),
            epoch,
        });
        Ok(lost)
    }

    /// The manifest, and where the log ends.
    fn what_is_known(&self, writer: &MutexGuard<'_, Writer>) -> (Manifest, KnownEnd) {
        let offset = Offset::new(self.log_end.load(Ordering::Acquire));
        // Of a log that was found damaged nobody knows where its last segment ends.
        let active = (!self.is_damaged()).then_some(writer.point.position);
        (self.manifest.get().clone(), KnownEnd { offset, active })
    }

    fn walk_all(&self, manifest: &Manifest, known: KnownEnd) -> Result<Vec<Walked>> {
        let walked = walk(&self.ctx, &self.identity, &self.dir, manifest, known, &mut Quiet)?;
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

    /// Puts the whole batches, and nothing else, in the place of the log's segments.
    fn replace_damaged(
        &self,
        writer: &mut Writer,
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
        let epoch = self.epoch() + 1;
        let generation = match segments.iter().any(|segment| segment.base == end) {
            true => self.next_generation().map_err(unchanged)?,
            false => 0,
        };
        let active = active_entry(end, generation, epoch);
        let header = self.header_of(&active, last.as_ref());
        let written = self
            .write_planned(manifest, walked, &plan)
            // IMPORTANT: last. It makes the names of all of them durable.
            .and_then(|()| create_segment(&self.ctx, &self.dir, &header));
        let remove_written = || {
            let copied = plan.entries.iter().filter(|planned| matches!(planned.from, From::Copied(..)));
            for planned in copied {
                let name = names::segment_file(planned.entry.base_offset, planned.entry.generation);
                let _ = self.ctx.storage.remove_file(&self.dir.join(name));
            }
        };
        let file = written.map_err(|error| {
            remove_written();
            unchanged(error)
        })?;
        let segment = Arc::new(Segment::from_entry(&self.dir, &active, None));
        let committed = self.manifest.commit(&self.ctx, |manifest| {
            manifest.segments = plan.entries.iter().map(|planned| planned.entry).collect();
            manifest.segments.push(active);
            manifest.begin_epoch(end);
            lost.iter().for_each(|range| manifest.add_lost(*range));
        });
        if let Err(failed) = committed {
            if !failed.unknown {
                remove_written();
                let _ = self.ctx.storage.remove_file(&segment.path);
            }
            return Err(failed);
        }
        segment.adopt_file(&self.ctx, file);
        segment.mark_synced();
        self.has_lost.store(true, Ordering::Release);
        let gone: Vec<_> = plan.gone.iter().filter_map(|at| segments.get(*at)).collect();
        {
            let _ends = self.ends.lock();
            // Odd from here to the end of the block: as in a cut.
            self.cuts.fetch_add(1, Ordering::AcqRel);
            for stored in [&self.durable_end, &self.covered_end, &self.visible_end, &self.log_end] {
                stored.store(end.get(), Ordering::Release);
            }
            self.epoch.store(epoch, Ordering::Release);
            self.tail.clear(&self.ctx);
            let mut list: Vec<Arc<Segment>> = Vec::with_capacity(plan.entries.len() + 1);
            for planned in &plan.entries {
                list.extend(match &planned.from {
                    From::Whole(at) => segments.get(*at).cloned().inspect(|same| {
                        same.mark_synced();
                        same.forget_keys(same.size());
                    }),
                    From::Shortened(at, point) => segments.get(*at).cloned().inspect(|shorter| {
                        shorter.cut(point.end, point.position, point.max_timestamp);
                    }),
                    From::Copied(..) => Some(Arc::new(Segment::from_entry(&self.dir, &planned.entry, None))),
                });
            }
            list.push(segment.clone());
            if self.settings().streams {
                // Again: one may have been written meanwhile, with the counts of before.
                let _ = self.forget_counts(&plan.entries);
            }
            self.publish_segments(|all| *all = list);
            for segment in &gone {
                // A reader that stands in it continues wherever the list says now.
                segment.empty();
            }
            self.cuts.fetch_add(1, Ordering::AcqRel);
        }
        let point = Point::start_of(end, generation, epoch, header.prev_crc);
        *self.durable_point.lock() = point;
        *writer = Writer { segment, point, indexed: FIRST_BATCH, journal_upto: 0 };
        for segment in gone {
            segment.retire(&self.ctx);
        }
        Ok(())
    }

    /// Decides what becomes of each segment. Nothing is written.
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
                // Where a header was damaged the base offset may be that of the old file. Of a segment that was written
                // again readers expect gaps, and its generation says so.
                let is_first = piece.first == entry.base_offset;
                let is_new = entry.generation == 0 && !is_first;
                entry.generation = if is_new { 0 } else { self.next_generation()? };
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

    fn header_of(&self, entry: &SegmentEntry, before: Option<&SegmentEntry>) -> SegmentHeader {
        SegmentHeader {
            partition: self.identity.partition,
            topic_id: self.identity.topic_id,
            base_offset: entry.base_offset,
            prev_end: before.map_or(entry.base_offset, |before| before.end_offset),
            prev_crc: before.map_or(0, |before| before.last_crc),
            generation: entry.generation,
            log_epoch: entry.log_epoch,
            created_at: self.ctx.clock.now(),
            secret: self.identity.secret,
        }
    }

    /// Writes and syncs what is given up, what is copied, and again what stays and is not known to be on the medium.
    fn write_planned(&self, manifest: &Manifest, walked: &[Walked], plan: &Plan) -> Result<()> {
        for (entry, one) in manifest.segments.iter().zip(walked) {
            let Some(file) = &one.file else { continue };
            for flaw in one.flaws.iter().filter(|flaw| flaw.bytes > 0) {
                let name = names::lost_file(entry.base_offset, entry.generation, flaw.position);
                let (from, to) = (flaw.position, flaw.position + flaw.bytes);
                copy_aside(&self.ctx, &**file, &one.path, from, to, &self.dir.join(name))?;
            }
        }
        let segments = self.segments();
        let mut before: Option<&SegmentEntry> = None;
        for Planned { entry, from } in &plan.entries {
            let previous = before.replace(entry);
            match from {
                From::Whole(at) | From::Shortened(at, _) => {
                    let Some(segment) = segments.get(*at) else { continue };
                    if !self.is_damaged() {
                        segment.sync_if_dirty(&self.ctx).map_err(|error| self.poison(error))?;
                    } else if !segment.is_synced() {
                        // Nothing says that what was read is on the medium, and only written bytes are synced.
                        let file = segment.file(&self.ctx)?;
                        rewrite(&self.ctx, &*file, &segment.path, 0, entry.size)?;
                    }
                }
                From::Copied(at, piece) => {
                    let source = walked.get(*at).and_then(|one| Some((one.file.as_ref()?, &one.path)));
                    let Some((source, path)) = source else {
                        return Err(corrupt(&self.ctx, &self.dir, 0, "a segment that is not there"));
                    };
                    let file = create_segment_file(&self.ctx, &self.dir, &self.header_of(entry, previous))?;
                    let name = names::segment_file(entry.base_offset, entry.generation);
                    let target = self.ctx.display(&self.dir.join(name));
                    let to = piece.position + piece.bytes();
                    in_pieces(&**source, &self.ctx.display(path), piece.position, to, |at, bytes| {
                        let position = at - piece.position + FIRST_BATCH;
                        // Nothing of the log has changed, whatever comes of it.
                        write_all_at(&*file, bytes, position).map_err(|(_, e)| Error::create(&target, e))
                    })?;
                    file.sync_data().map_err(|e| Error::create(&target, e))?;
                }
            }
        }
        // Before the manifest says so: after a crash in between they are made again.
        if self.settings().streams { self.forget_counts(&plan.entries) } else { Ok(()) }
    }

    /// Removes the key indexes of segments that stay: they say how many records of a key come before, and there are fewer now.
    fn forget_counts(&self, entries: &[Planned]) -> Result<()> {
        let segments = self.segments();
        for Planned { from, .. } in entries {
            let (From::Whole(at) | From::Shortened(at, _)) = from else { continue };
            let Some(path) = segments.get(*at).map(|segment| segment.keys_path()) else { continue };
            match self.ctx.storage.remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &self.ctx.display(&path), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    // -- what readers are told --

    /// The first range at or after an offset whose records were given up, as far as readers may see.
    #[inline]
    pub(crate) fn lost_after(&self, offset: Offset) -> Option<LostRange> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        self.manifest.get().lost.iter().find(|range| range.to > offset).copied()
    }

    /// A reader has met damage.
    pub(super) fn note_damage(&self) {
        self.met_damage.store(true, Ordering::Release);
    }

    /// Whether opening, or a reader since, has found damage.
    pub(crate) fn has_known_damage(&self) -> bool {
        self.is_damaged() || self.met_damage.load(Ordering::Acquire)
    }
}

/// The offsets of what was found damaged, those that meet as one.
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
