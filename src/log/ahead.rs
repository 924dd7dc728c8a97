//! Zeros ahead of the end of a log, or of the journal: a sync after a write into blocks that the
//! file already has need not make a length or blocks durable, which costs half of its processor
//! time and of its latency.
//!
//! The argument is in FORMAT.md, "Zeros ahead". In short: they are written by the leader of a group
//! commit, under the lock under which the file is written, after its end. So nothing is
//! overwritten. Nothing relies on them, so a failure to write them is none.

use super::Log;
use super::writer::Tip;
use super::zeros::{STEP_MAX, wanted_end};
use crate::config::Durability;
use crate::engine::Context;
use crate::stats::DiskState;
use crate::storage::{File, write_all_at};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes zeros after the log's end, if they are due. The caller is about to sync the active
/// segment, and holds the writer's lock: a batch must not be written at the same time.
#[inline]
pub(super) fn write_zeros_ahead(log: &Log, tip: &mut Tip) {
    if let Some(grown) = tip.zeros.look(tip.point.position) {
        extend(log, tip, grown);
    }
}

#[cold]
fn extend(log: &Log, tip: &mut Tip, grown: u64) {
    let settings = log.settings();
    let position = tip.point.position;
    // A caller waits for each sync of `Sync` only.
    if settings.durability != Durability::Sync {
        return;
    }
    let Some(end) = wanted_end(position, grown, u64::from(settings.segment_bytes)) else { return };
    // If the file cannot be opened, the sync reports it.
    let file = tip.segment.file(&log.ctx).ok().filter(|_| log.is_usable());
    let reached = file.and_then(|file| fill_ahead(&log.ctx, &*file, position, grown, end));
    tip.zeros.set_enough_until(reached.unwrap_or(position + STEP_MAX));
}

/// Fills a file with zeros from its end up to `end`, or finds that it has some for the next `grown`
/// bytes after `position`. Returns up to where it has zeros; `None` if none may be written, or that
/// failed.
pub(crate) fn fill_ahead(ctx: &Context, file: &dyn File, position: u64, grown: u64, end: u64) -> Option<u64> {
    // The last room of a disk is for records, and a medium in memory has no blocks to prepare.
    if !ctx.storage.can_be_full() || ctx.reserve.state() != DiskState::Ok {
        return None;
    }
    let from = file.len().ok()?.max(position);
    if from >= position + grown {
        // An earlier run of the broker has left them.
        return Some(from);
    }
    let missing = end.saturating_sub(from);
    ctx.room.with_spare(missing, || fill(file, from, end)).flatten()
}

/// Fills a file with zeros between two positions. Returns the position up to which it has some;
/// `None` if that failed.
fn fill(file: &dyn File, from: u64, end: u64) -> Option<u64> {
    let mut position = from;
    while position < end {
        let missing = usize::try_from(end - position).unwrap_or(usize::MAX);
        let piece = ZEROS.get(..missing).unwrap_or(&ZEROS);
        write_all_at(file, piece, position).ok()?;
        position += piece.len() as u64;
    }
    Some(position)
}
