//! Repairs a partition so that it can take appends. The accepted ranges are written again. The
//! bytes of a torn tail are copied aside, the log ends before it, and appending continues in a new
//! segment.

use std::path::PathBuf;

use super::directory::Directory;
use super::inspect::{Inspection, Verdict};
use super::scan::{AcceptedRange, Break, LaterBatches};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::names;
use crate::log::inherited::Inherited;
use crate::log::list::segments_of;
use crate::log::manifest;
use crate::log::recovered_tail::RecoveredTail;
use crate::log::switch::NextSegment;
use crate::log::transitions::SegmentId;
use crate::segment::copy::{copy_aside, last_nonzero, rewrite};
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::stats::{Event, OpenReport, Recovery, TruncatedTail};
use crate::sync::Arc;

/// A partition after its recovery.
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The point where appending continues.
    pub(crate) point: Point,
    /// Set if not all batches before the point are durable: the last point known to be.
    pub(crate) unsynced: Option<Unsynced>,
    /// Set if the manifest on disk lists only the segments up to this one.
    pub(crate) last_listed: Option<SegmentId>,
    /// Set if durable bytes are damaged: then the partition is read-only, up to `point.end`.
    pub(crate) damage: Option<Error>,
    /// Whether there is a side file of idempotent producers.
    pub(crate) has_senders: bool,
    pub(crate) tail: RecoveredTail,
}

/// What an opening has checked, and left to the next sync.
pub(crate) struct Unsynced {
    /// All batches before it are durable.
    pub(crate) from: Point,
    pub(crate) inherited: Vec<Inherited>,
    /// The segments whose headers may not be durable.
    pub(crate) unnamed: Vec<SegmentId>,
}

/// Acts on the result of an inspection.
///
/// # Errors
/// An I/O error.
pub(super) fn repair(
    directory: Directory<'_>,
    found: Inspection,
    may_leave_unsynced: bool,
    report: &mut OpenReport,
) -> Result<Recovered> {
    match &found.verdict {
        // The outcome of transactions is settled next, and relies on durable batches.
        Verdict::Whole if may_leave_unsynced && found.tail.transactions.is_empty() => {
            Ok(leave_unsynced(directory, found, report))
        }
        Verdict::Closed => {
            if let Some(active) = directory.segments.last() {
                active.grow(found.point.position, found.point.max_timestamp);
                active.set_index_missing_below(found.point.position);
            }
            Ok(recovered(directory, found.point, found.tail, None))
        }
        Verdict::Whole => {
            make_durable(&directory, &found.accepted)?;
            resume(directory, found, report)
        }
        Verdict::Torn(broken, later) => {
            make_durable(&directory, &found.accepted)?;
            let truncate = || truncate(directory.clone(), &found, broken, later, report);
            match directory.ctx.reserve.with_room(truncate) {
                Err(error) if error.is_full() => Ok(leave_torn(directory, broken.at, &found, error)),
                truncated => truncated,
            }
        }
        Verdict::Damaged(error) => {
            let error = error.clone();
            Ok(leave(directory, found, error))
        }
    }
}

fn recovered(
    directory: Directory<'_>,
    point: Point,
    tail: RecoveredTail,
    damage: Option<Error>,
) -> Recovered {
    let Directory { manifest, segments, last_listed, unlisted, .. } = directory;
    let last_listed = last_listed.filter(|_| !unlisted.is_empty());
    Recovered { manifest, segments, point, unsynced: None, last_listed, damage, has_senders: false, tail }
}

/// Leaves everything that was checked as a running log leaves it whose appends wait for no sync.
/// Only the process has died, so every byte is in the page cache. The names were made durable
/// before.
fn leave_unsynced(directory: Directory<'_>, found: Inspection, report: &mut OpenReport) -> Recovered {
    note_recovery(&directory, &found, report);
    let unnamed = directory.unlisted.clone();
    let inherited: Vec<_> = found
        .accepted
        .into_iter()
        .map(|AcceptedRange { segment, from, to, first }| Inherited { segment, from, to, first })
        .collect();
    let is_durable = inherited.is_empty() && unnamed.is_empty();
    let unsynced = (!is_durable).then_some(Unsynced { from: found.from, inherited, unnamed });
    Recovered { unsynced, ..recovered(directory, found.point, found.tail, None) }
}

/// Writes the accepted ranges again and syncs them: after a failed sync, or a kill, the disk may
/// lack bytes that the page cache has, and a sync writes only dirty pages. The names were made
/// durable before.
fn make_durable(directory: &Directory<'_>, accepted: &[AcceptedRange]) -> Result<()> {
    for AcceptedRange { segment, from, to, .. } in accepted {
        let file = segment.file(directory.ctx)?;
        rewrite(directory.ctx, &*file, &segment.path, *from, *to)?;
    }
    Ok(())
}

/// Returns the state of a segment that has been checked and written again. IMPORTANT: it must not
/// be `Synced` while the outcome of transactions in it is not settled, because after a crash the
/// next opening must find them again.
fn state_of_checked(found: &Inspection) -> SegmentState {
    if found.tail.transactions.is_empty() { SegmentState::Synced } else { SegmentState::Sealed }
}

/// Continues in the active segment: nothing was truncated.
fn resume(mut directory: Directory<'_>, found: Inspection, report: &mut OpenReport) -> Result<Recovered> {
    let mut changed = !directory.unlisted.is_empty();
    let before = directory.manifest.clone();
    let state = state_of_checked(&found);
    for entry in &mut directory.manifest.segments {
        if entry.state == SegmentState::Sealed && state == SegmentState::Synced {
            entry.state = SegmentState::Synced;
            changed = true;
        }
    }
    if changed {
        let path = directory.path.join(names::MANIFEST);
        match manifest::write(directory.ctx, &path, &directory.manifest) {
            Err(failed) if failed.error.is_full() => {
                // The next opening reads them again.
                directory.ctx.reserve.note_full();
                directory.manifest = before;
            }
            Err(failed) => return Err(failed.error),
            Ok(()) => {
                directory.unlisted.clear();
                // Take their states from the manifest, but keep the active segment, which has state
                // from the scan.
                let active = directory.segments.pop();
                directory.segments = segments_of(directory.path, &directory.manifest);
                if let (Some(active), Some(last)) = (active, directory.segments.last_mut()) {
                    *last = active;
                }
            }
        }
    }
    note_recovery(&directory, &found, report);
    Ok(recovered(directory, found.point, found.tail, None))
}

/// Truncates a torn tail: copies its bytes aside, ends the log before it, raises the epoch, and
/// continues in a new segment.
fn truncate(
    mut directory: Directory<'_>,
    found: &Inspection,
    broken: &Break,
    later: &LaterBatches,
    report: &mut OpenReport,
) -> Result<Recovered> {
    let point = found.point;
    let (bytes, kept) = keep_aside(&directory, broken)?;
    let torn = directory.segment(broken.at)?.clone();
    // Offsets that the manifest lists as written, even if none of their records can be read.
    let truncated = directory.manifest.segments.iter().skip(broken.at);
    let sealed_end = truncated.filter(|s| s.state != SegmentState::Active).map(|s| s.end_offset).max();
    let known_end = later.end.max(sealed_end).filter(|end| *end > point.end);
    let mut gone: Vec<Arc<Segment>> = directory.segments.iter().skip(broken.at + 1).cloned().collect();
    if !end_manifest(&mut directory.manifest, found, broken.at) {
        gone.push(torn.clone());
    }
    let something_lost = bytes > 0 || known_end.is_some();
    let next = next_after(&directory, &point, &gone, &torn, something_lost)?;
    if something_lost {
        directory.manifest.begin_epoch(point.end);
    }
    list(&mut directory, &next, &gone)?;
    note_recovery(&directory, found, report);
    if something_lost {
        let cut = TruncatedTail {
            topic: directory.identity.topic.clone(),
            partition: directory.identity.partition,
            file: directory.ctx.display(&torn.path),
            position: broken.position,
            bytes,
            reason: broken.what.clone(),
            from: point.end,
            to: known_end,
            kept: kept.map(|path| directory.ctx.display(&path)),
        };
        directory.ctx.events.report(&Event::TailTruncated(cut.clone()));
        report.truncated_tails.push(cut);
    }
    let point = Point::start_of(next.base, next.generation, next.epoch, next.prev_crc);
    Ok(recovered(directory, point, found.tail.clone(), None))
}

/// Ends a manifest at the point that an inspection has found, in the segment with the index `at`.
/// Returns whether that segment stays.
fn end_manifest(manifest: &mut Manifest, found: &Inspection, at: usize) -> bool {
    manifest.segments.truncate(at + 1);
    let stays = found.point.position > FIRST_BATCH;
    if !stays {
        manifest.segments.pop();
    } else if let Some(last) = manifest.segments.last_mut() {
        last.state = state_of_checked(found);
        found.point.end_entry(last);
    }
    stays
}

/// Returns the segment that follows a truncation at `point`, which drops the segments `gone`.
fn next_after(
    directory: &Directory<'_>,
    point: &Point,
    gone: &[Arc<Segment>],
    torn: &Arc<Segment>,
    something_lost: bool,
) -> Result<NextSegment> {
    // Offsets before the log start were assigned, even if their records are lost.
    let base = point.end.max(directory.manifest.log_start);
    let replaced = gone.iter().filter(|s| s.base == base || Arc::ptr_eq(s, torn));
    let generation = match replaced.map(|s| s.generation).max() {
        Some(last) => last.checked_add(1).ok_or_else(|| directory.identity.generations_exhausted())?,
        None => 0,
    };
    let epoch = directory.manifest.epoch() + u32::from(something_lost);
    Ok(NextSegment { base, generation, epoch, prev_end: point.end, prev_crc: point.last_crc })
}

/// Starts `next`, and writes the manifest that lists it, which is the commit point. Then removes
/// the files of the segments `gone`.
fn list(directory: &mut Directory<'_>, next: &NextSegment, gone: &[Arc<Segment>]) -> Result<()> {
    let Directory { ctx, identity, path, ref mut manifest, ref mut segments, .. } = *directory;
    let listed = next.begin(ctx, identity, path)?.list(|active| {
        manifest.segments.push(active);
        manifest.clip_lost(manifest.log_start, next.base);
        manifest::write(ctx, &path.join(names::MANIFEST), manifest)
    });
    listed.map_err(|failed| failed.error)?;
    directory.unlisted.clear();
    for segment in gone {
        // If this fails, the next opening removes them as leftovers.
        let _ = ctx.storage.remove_file(&segment.path);
        let _ = ctx.storage.remove_file(&segment.index_path());
        let _ = ctx.storage.remove_file(&segment.keys_path());
    }
    *segments = segments_of(path, manifest);
    Ok(())
}

/// Copies all bytes that a truncation will drop into files next to the segments. Returns their
/// number, without trailing zeros, and the path of the first copy.
fn keep_aside(directory: &Directory<'_>, broken: &Break) -> Result<(u64, Option<PathBuf>)> {
    let (mut total, mut first) = (0, None);
    for (at, segment) in directory.segments.iter().enumerate().skip(broken.at) {
        let (file, len) = directory.open(segment)?;
        let from = if at == broken.at { broken.position } else { FIRST_BATCH.min(len) };
        let to = last_nonzero(directory.ctx, &*file, &segment.path, from, len)?;
        if to <= from {
            continue;
        }
        total += to - from;
        let path = directory.path.join(names::torn_file(segment.base, segment.generation, from));
        copy_aside(directory.ctx, &*file, &segment.path, from, to, &path)?;
        first.get_or_insert(path);
    }
    Ok((total, first))
}

/// Leaves a damaged partition unchanged. It can be read around the damage, and takes no appends.
fn leave(directory: Directory<'_>, found: Inspection, error: Error) -> Recovered {
    if let Some(active) = directory.segments.last()
        && let Ok((_, len)) = directory.open(active)
    {
        active.grow(len, None);
        active.set_index_missing_below(len);
    }
    recovered(directory, found.point, found.tail, Some(error))
}

/// Leaves a torn tail that cannot be truncated for lack of room. The log can be read up to it.
/// Nothing on disk is changed, and the next opening with room truncates it.
fn leave_torn(mut directory: Directory<'_>, at: usize, found: &Inspection, error: Error) -> Recovered {
    directory.ctx.reserve.note_full();
    directory.segments.truncate(at + 1);
    let point = Point { end: found.point.end.max(directory.manifest.log_start), ..found.point };
    if let Some(last) = directory.segments.last() {
        last.truncate(found.point.end, found.point.position, found.point.max_timestamp);
    }
    recovered(directory, point, found.tail.clone(), Some(error))
}

fn note_recovery(directory: &Directory<'_>, found: &Inspection, report: &mut OpenReport) {
    let recovery = Recovery {
        topic: directory.identity.topic.clone(),
        partition: directory.identity.partition,
        from: found.tail.from,
        to: found.point.end,
        bytes: found.accepted.iter().map(|range| range.to - range.from.max(FIRST_BATCH)).sum(),
    };
    directory.ctx.events.report(&Event::Recovered(recovery.clone()));
    report.recovered.push(recovery);
}
