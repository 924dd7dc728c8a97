//! Repairs a partition so that it can take appends. The accepted ranges are written again. The
//! bytes of a torn tail are copied aside, the log ends before it, and appending continues in a new
//! segment.

use std::path::PathBuf;

use super::{After, Break, Inspection, Recovered, Recoverer, segments_of};
use crate::error::Result;
use crate::format::manifest::SegmentState;
use crate::format::names;
use crate::log::manifest;
use crate::log::switch::NextSegment;
use crate::segment::copy::{copy_aside, last_nonzero, rewrite};
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::stats::{Event, OpenReport, TruncatedTail};
use crate::sync::Arc;

impl Recoverer<'_> {
    /// Writes the accepted ranges again and syncs them: after a failed sync, or a kill, the disk
    /// may lack bytes that the page cache has, and a sync writes only dirty pages. The names were
    /// made durable before.
    pub(super) fn make_durable(&self, accepted: &[(Arc<Segment>, u64, u64)]) -> Result<()> {
        for (segment, from, to) in accepted {
            let file = self.open(segment)?;
            rewrite(self.ctx, &*file, &segment.path, *from, *to)?;
        }
        Ok(())
    }

    /// Returns the state of a segment that has been checked and written again. IMPORTANT: it must
    /// not be `Synced` while the outcome of transactions in it is not settled, because after a
    /// crash the next opening must find them again.
    pub(super) fn state_of_checked(found: &Inspection) -> SegmentState {
        if found.tail.transactions.is_empty() { SegmentState::Synced } else { SegmentState::Sealed }
    }

    /// Continues in the active segment: nothing was truncated.
    pub(super) fn resume(mut self, found: Inspection, report: &mut OpenReport) -> Result<Recovered> {
        let mut changed = false;
        let before = self.manifest.clone();
        let state = Self::state_of_checked(&found);
        for entry in &mut self.manifest.segments {
            if entry.state == SegmentState::Sealed && state == SegmentState::Synced {
                entry.state = SegmentState::Synced;
                changed = true;
            }
        }
        let written = if changed { self.write_manifest() } else { Ok(()) };
        if let Err(error) = &written
            && error.is_full()
        {
            // The next opening reads them again.
            self.ctx.reserve.note_full();
            self.manifest = before;
        } else if changed {
            written?;
            // Take their states from the manifest, but keep the active segment, which has state
            // from the scan.
            let active = self.segments.pop();
            self.segments = segments_of(self.dir, &self.manifest);
            if let (Some(active), Some(last)) = (active, self.segments.last_mut()) {
                *last = active;
            }
        }
        self.note_recovery(&found, report);
        Ok(self.recovered(found.point, found.tail, None))
    }

    /// Truncates a torn tail: copies its bytes aside, ends the log before it, raises the epoch, and
    /// continues in a new segment.
    pub(super) fn cut(
        mut self,
        found: &Inspection,
        broken: &Break,
        after: &After,
        report: &mut OpenReport,
    ) -> Result<Recovered> {
        let point = found.point;
        let (bytes, kept) = self.keep_aside(broken)?;
        let torn = self.segment(broken.at)?;
        // Offsets that the manifest lists as written, even if none of their records can be read.
        let cut_entries = self.manifest.segments.iter().skip(broken.at);
        let sealed_end = cut_entries.filter(|s| s.state != SegmentState::Active).map(|s| s.end_offset).max();
        let known_end = after.end.max(sealed_end).filter(|end| *end > point.end);
        let dropped: Vec<Arc<Segment>> = self.segments.iter().skip(broken.at + 1).cloned().collect();
        self.manifest.segments.truncate(broken.at + 1);
        // Offsets before the log start were assigned, even if their records are lost.
        let base = point.end.max(self.manifest.log_start);
        let mut gone = dropped;
        if point.position > FIRST_BATCH {
            let state = Self::state_of_checked(found);
            if let Some(last) = self.manifest.segments.last_mut() {
                last.state = state;
                point.end_entry(last);
            }
        } else {
            self.manifest.segments.pop();
            gone.push(torn.clone());
        }
        let replaced = gone.iter().filter(|s| s.base == base || Arc::ptr_eq(s, &torn));
        let generation = match replaced.map(|s| s.generation).max() {
            Some(last) => last.checked_add(1).ok_or_else(|| self.identity.generations_exhausted())?,
            None => 0,
        };
        let something_lost = bytes > 0 || known_end.is_some();
        let epoch = self.manifest.epoch() + u32::from(something_lost);
        if something_lost {
            self.manifest.begin_epoch(point.end);
        }
        let next = NextSegment { base, generation, epoch, prev_end: point.end, prev_crc: point.last_crc };
        let begun = next.begin(self.ctx, self.identity, self.dir)?;
        let listed = begun.list(|next| {
            self.manifest.segments.push(next);
            self.manifest.clip_lost(self.manifest.log_start, base);
            manifest::write(self.ctx, &self.dir.join(names::MANIFEST), &self.manifest)
        });
        listed.map_err(|failed| failed.error)?;
        for segment in gone {
            // If this fails, the next opening removes them as leftovers.
            let _ = self.ctx.storage.remove_file(&segment.path);
            let _ = self.ctx.storage.remove_file(&segment.index_path());
            let _ = self.ctx.storage.remove_file(&segment.keys_path());
        }
        self.segments = segments_of(self.dir, &self.manifest);
        self.note_recovery(found, report);
        if something_lost {
            let tail = TruncatedTail {
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
            self.ctx.events.report(&Event::TailTruncated(tail.clone()));
            report.truncated_tails.push(tail);
        }
        let point = Point::start_of(base, generation, epoch, point.last_crc);
        Ok(self.recovered(point, found.tail.clone(), None))
    }

    /// Copies all bytes that a truncation will drop into files next to the segments. Returns their
    /// number, without trailing zeros, and the path of the first copy.
    pub(super) fn keep_aside(&self, broken: &Break) -> Result<(u64, Option<PathBuf>)> {
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
            copy_aside(self.ctx, &*file, &segment.path, from, to, &path)?;
            first.get_or_insert(path);
        }
        Ok((total, first))
    }
}
