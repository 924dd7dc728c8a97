//! Zeros ahead of the log's end: a sync after a write into blocks that the file already has need not
//! make a length or blocks durable, which costs half of its processor time and of its latency.
//!
//! The argument is in FORMAT.md, "Zeros ahead". In short: they are written by the leader of a group
//! commit, under the writer's lock, after the log's end. So no batch is overwritten. Nothing relies
//! on them, so a failure to write them is none.

use super::Log;
use super::writer::Tip;
use super::zeros::{STEP_MAX, wanted_end};
use crate::config::Durability;
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
    // The last room of a disk is for records, and a medium in memory has no blocks to prepare.
    let may_write =
        log.is_usable() && log.ctx.storage.can_be_full() && log.ctx.reserve.state() == DiskState::Ok;
    // If the file cannot be opened, the sync reports it.
    let file = tip.segment.file(&log.ctx).ok().filter(|_| may_write);
    let reached = file.and_then(|file| {
        let from = file.len().ok()?.max(position);
        if from >= position + grown {
            // An earlier run of the broker has left them.
            return Some(from);
        }
        let missing = end.saturating_sub(from);
        log.ctx.room.with_spare(missing, || fill(&*file, from, end)).flatten()
    });
    tip.zeros.set_enough_until(reached.unwrap_or(position + STEP_MAX));
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
