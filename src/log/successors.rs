//! Successors: segments of rolls that wait for no sync. No manifest on disk lists them yet.
//!
//! A roll writes the header of the new segment, which has the end and the last CRC of the segment
//! before it, and nothing else. So an opening finds the successors of the last listed segment by
//! this chain: see FORMAT.md, "Successors".
//!
//! The argument:
//! - A successor is *named* once its name and its header are durable. Only then may a manifest list
//!   it, because an opening treats a listed segment without a header as damage.
//! - The durable end does not move past a successor's base before it is named. So what was called
//!   durable is found by the chain, whether or not a manifest lists it. A sync lists it as well, so
//!   that a file that is missing later is noticed.
//! - A change that removes segments, or writes them again, names first those that follow. So the
//!   last segment of a manifest on disk is always one that was appended to.
//!
//! An opening of a log whose appends wait for no sync leaves the bytes that it has checked as a
//! running log leaves them: not synced. They are *inherited*. A kill leaves bytes that only the page
//! cache has, and after a failed sync of the last run the page cache may call them clean. Therefore
//! they are checked again and written again before the first sync of the log.

use super::Log;
use super::inherited::Inherited;
use super::transitions::SegmentId;
use crate::engine::corrupt;
use crate::error::{Error, IoAction, Result};
use crate::segment::copy::write_again;
use crate::segment::{FIRST_BATCH, HeaderError, Source, Walker, Window, note_written_again};
use crate::sync::Ordering;
use crate::types::Offset;

/// Makes the names of these segments durable. The caller has synced them since it took the list.
///
/// # Errors
/// An I/O error: the partition is poisoned.
pub(super) fn name(log: &Log, segments: &[SegmentId]) -> Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    let dir = log.manifest.dir();
    let synced = log.ctx.storage.sync_dir(dir);
    synced.map_err(|e| log.sync_failed(Error::io(IoAction::Sync, &log.ctx.display(dir), e)))?;
    log.manifest.note_named(segments);
    Ok(())
}

/// Makes the names and the headers of all segments durable, so that the next manifest lists them.
///
/// # Errors
/// An I/O error: the partition is poisoned.
pub(super) fn name_all(log: &Log) -> Result<()> {
    let unnamed = log.manifest.unnamed_before(Offset::MAX);
    if unnamed.is_empty() {
        return Ok(());
    }
    write_inherited(log)?;
    for segment in log.segments().iter().filter(|segment| unnamed.contains(&segment.id())) {
        segment.sync_if_dirty(&log.ctx).map_err(|error| log.sync_failed(error))?;
    }
    name(log, &unnamed)
}

/// Makes the name and the header of one segment durable, if they may not be.
///
/// # Errors
/// An I/O error: the partition is poisoned.
pub(super) fn name_one(log: &Log, segment: SegmentId) -> Result<()> {
    if !log.manifest.is_unnamed(segment) {
        return Ok(());
    }
    write_inherited(log)?;
    for found in log.segments().iter().filter(|found| found.id() == segment) {
        found.sync_if_dirty(&log.ctx).map_err(|error| log.sync_failed(error))?;
    }
    name(log, &[segment])
}

/// Lists the named segments that the manifest on disk lacks. If there is no room now, a later
/// manifest lists them.
///
/// # Errors
/// It is unknown which manifest a restart finds: the partition is poisoned.
pub(super) fn list_named(log: &Log) -> Result<()> {
    if !log.manifest.can_list_more() {
        return Ok(());
    }
    match log.manifest.commit(&log.ctx, |_| {}) {
        Err(failed) if failed.unknown => Err(log.manifest_failed(failed)),
        _ => Ok(()),
    }
}

/// Names and lists all segments, before the log is closed. May use the reserve.
///
/// # Errors
/// As [`name_all`] and [`list_named`].
pub(super) fn list_all(log: &Log) -> Result<()> {
    name_all(log)?;
    if !log.manifest.can_list_more() {
        return Ok(());
    }
    match log.manifest.commit_freeing(&log.ctx, |_| Ok(())) {
        Err(failed) if failed.unknown => Err(log.manifest_failed(failed)),
        _ => Ok(()),
    }
}

/// Checks the inherited bytes again, and writes them again, so that the next sync of their segments
/// makes them durable. Every sync of a segment must call it first.
///
/// # Errors
/// The bytes are no longer those that the opening has checked, or an I/O error: the partition is
/// poisoned.
pub(super) fn write_inherited(log: &Log) -> Result<()> {
    if !log.durability.has_inherited() {
        return Ok(());
    }
    let mut inherited = log.durability.inherited();
    while let Some(range) = inherited.last() {
        // Retention has deleted the segment: its bytes are not needed. IMPORTANT: look before the
        // file is opened. Another segment may have its name by then, after a reset.
        let is_gone = || range.segment.retired.load(Ordering::Acquire);
        if !is_gone()
            && let Err(error) = check(log, range).and_then(|()| write(log, range))
            && !is_gone()
        {
            return Err(log.sync_failed(error));
        }
        inherited.pop();
    }
    drop(inherited);
    log.durability.forget_inherited();
    Ok(())
}

fn write(log: &Log, Inherited { segment, from, to, .. }: &Inherited) -> Result<()> {
    let file = segment.file(&log.ctx)?;
    write_again(&log.ctx, &*file, &segment.path, *from, *to)?;
    note_written_again(segment);
    Ok(())
}

/// Checks that a range still has whole batches, each at the offset after the one before.
fn check(log: &Log, Inherited { segment, from, to, first }: &Inherited) -> Result<()> {
    if *from < FIRST_BATCH {
        segment.check_header_again(&log.ctx, &log.identity)?;
    }
    let source = Source::Window(Window::new(segment.file(&log.ctx)?, log.ctx.display(&segment.path)));
    let from = (*from).max(FIRST_BATCH);
    let mut walk = Walker::new(&log.ctx, log.seed(), segment, source, from, *to);
    let mut next = *first;
    let changed = |position, what: &str| {
        let what = format!("these are not the bytes that the opening has read: {what}");
        Err(corrupt(&log.ctx, &segment.path, position, &what))
    };
    loop {
        let position = walk.position;
        let met = match walk.look() {
            Ok(Some(met)) => met,
            Ok(None) if position == *to => return Ok(()),
            Ok(None) => return changed(position, "the file is shorter"),
            Err(HeaderError::Malformed(m)) => return changed(position, m.what),
            Err(failed) => return Err(walk.error(failed)),
        };
        if met.header.base_offset != next {
            return changed(position, "another batch");
        }
        if let Err(what) = walk.body(&met)? {
            return changed(position, what);
        }
        next = met.header.end_offset();
        walk.pass(&met);
    }
}
