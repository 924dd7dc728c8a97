//! How is a partition made fit to go on? What was accepted is written again; of what was torn the bytes are kept aside, the
//! log ends before it, and appending goes on in a new segment.

use std::path::{Path, PathBuf};

use super::{Behind, Break, Inspection, Point, Recovered, Recoverer, segments_of};
use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::segment::SegmentHeader;
use crate::log::context::Context;
use crate::log::segment::{FIRST_BATCH, Segment};
use crate::stats::{Cut, Event, OpenReport};
use crate::storage::{File, OpenMode, read_exact_at, write_all_at};
use crate::sync::Arc;
use crate::types::Offset;

impl Recoverer<'_> {
    /// Writes what was accepted again and syncs it: after a failed sync, or a kill, the medium may lack what the page
    /// cache shows, and only written bytes are synced. The names were made durable before.
    pub(super) fn make_durable(&self, accepted: &[(Arc<Segment>, u64, u64)]) -> Result<()> {
        for (segment, from, to) in accepted {
            let file = self.open(segment)?;
            rewrite(self.ctx, &*file, &segment.path, *from, *to)?;
        }
        Ok(())
    }

    /// What the manifest may say of a segment that has been checked and written again. IMPORTANT: not that it need never
    /// be read again, while it has to be seen yet whether the transactions in it happened: a crash before that is settled
    /// must find them once more.
    pub(super) fn state_of_checked(found: &Inspection) -> SegmentState {
        if found.tail.transactions.is_empty() { SegmentState::Synced } else { SegmentState::Sealed }
    }

    /// Goes on in the active segment: nothing was cut.
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
            // They are read again by the next opening.
            self.ctx.reserve.note_full();
            self.manifest = before;
        } else if changed {
            written?;
            // Their states are read from the manifest; all that was noted on the active one is kept.
            let active = self.segments.pop();
            self.segments = segments_of(self.dir, &self.manifest);
            if let (Some(active), Some(last)) = (active, self.segments.last_mut()) {
                *last = active;
            }
        }
        self.note_recovery(&found, report);
        Ok(self.recovered(found.point, found.tail, None))
    }

    /// Cuts a torn tail: keeps its bytes aside, ends the log before it, raises the epoch and goes on in a new segment.
    pub(super) fn cut(
        mut self,
        found: &Inspection,
        broken: &Break,
        behind: &Behind,
        report: &mut OpenReport,
    ) -> Result<Recovered> {
        let point = found.point;
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
        let created = SegmentHeader {
            partition: self.identity.partition,
            topic_id: self.identity.topic_id,
            base_offset: base,
            prev_end: point.end,
            prev_crc: point.last_crc,
            generation,
            log_epoch: epoch,
            created_at: self.ctx.clock.now(),
            secret: self.identity.secret,
        };
        create_segment(self.ctx, self.dir, &created)?;
        self.manifest.segments.push(active_entry(base, generation, epoch));
        self.manifest.clip_lost(self.manifest.log_start, base);
        self.write_manifest()?;
        for segment in gone {
            // Named as leftovers by the next open if this fails.
            let _ = self.ctx.storage.remove_file(&segment.path);
            let _ = self.ctx.storage.remove_file(&segment.index_path());
            let _ = self.ctx.storage.remove_file(&segment.keys_path());
        }
        self.segments = segments_of(self.dir, &self.manifest);
        self.note_recovery(found, report);
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
            report.cuts.push(cut);
        }
        let point = Point::start_of(base, generation, epoch, point.last_crc);
        Ok(self.recovered(point, found.tail.clone(), None))
    }

    /// Copies every byte that a cut will take into files beside the segments. Answers how many bytes that were, without
    /// trailing zeros, and the first copy.
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
        digest: Digest::default(),
    }
}

/// Creates a segment's file with its header; both its name and the header are durable on return. A
/// file of that name that is there already is a leftover, because no manifest lists it.
///
/// # Errors
/// Nothing is left of the file.
pub(crate) fn create_segment(ctx: &Context, dir: &Path, header: &SegmentHeader) -> Result<Arc<dyn File>> {
    create(ctx, dir, header, |file| {
        file.sync_data()?;
        // IMPORTANT: before the manifest that lists it is renamed into place. Both are entries of one directory, and a
        // power loss may keep the second and lose the first.
        ctx.storage.sync_dir(dir)
    })
}

/// As [`create_segment`], but neither name nor bytes are durable: for one of several, before all of them are.
///
/// # Errors
/// Nothing is left of the file.
pub(crate) fn create_segment_file(
    ctx: &Context,
    dir: &Path,
    header: &SegmentHeader,
) -> Result<Arc<dyn File>> {
    create(ctx, dir, header, |_| Ok(()))
}

fn create(
    ctx: &Context,
    dir: &Path,
    header: &SegmentHeader,
    settle: impl FnOnce(&dyn File) -> std::io::Result<()>,
) -> Result<Arc<dyn File>> {
    let path = dir.join(names::segment_file(header.base_offset, header.generation));
    let open = || match ctx.storage.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            ctx.storage.remove_file(&path)?;
            ctx.storage.open(&path, OpenMode::CreateNew)
        }
        other => other,
    };
    let written = open().and_then(|file| {
        write_all_at(&*file, &header.encode(), 0).map_err(|(_, e)| e)?;
        settle(&*file)?;
        Ok(file)
    });
    written.map_err(|e| {
        let _ = ctx.storage.remove_file(&path);
        Error::create(&ctx.display(&path), e)
    })
}

/// Copies `from..to` of a file into one of their own, and syncs that. Its name is not durable yet.
pub(crate) fn copy_aside(
    ctx: &Context,
    file: &dyn File,
    path: &Path,
    from: u64,
    to: u64,
    target: &Path,
) -> Result<()> {
    let shown = ctx.display(target);
    let copy = ctx.storage.open(target, OpenMode::Truncate).map_err(|e| Error::create(&shown, e))?;
    in_pieces(file, &ctx.display(path), from, to, |position, piece| {
        write_all_at(&*copy, piece, position - from).map_err(|(_, e)| Error::write(&shown, e))
    })?;
    copy.sync_data().map_err(|e| Error::io("sync", &shown, e))
}

/// Reads `from..to` of a file piece by piece.
pub(crate) fn in_pieces(
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
