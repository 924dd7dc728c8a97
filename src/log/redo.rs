//! The part of a log in the recovery of transactions: whether a batch of the journal is in the log,
//! and writing it again if it is not.

use std::path::Path;

use super::Log;
use super::roll::roll_if_due;
use super::write::write_batch;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, decode_header};
use crate::format::journal::CommittedPart;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::types::Offset;

/// The state of a part of a transaction in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The batch is there, or was there and has been deleted since.
    Present,
    /// The batch would be the next one.
    Next,
    /// Another batch is there, or batches before it are missing.
    Elsewhere,
}

/// Returns whether a part of a record of the journal is in its log. `id` is the transaction's.
pub(crate) fn presence_of(log: &Log, part: &CommittedPart<'_>, id: u64) -> Presence {
    let (base, end) = (part.base_offset, log.bounds().log_end);
    let tail = &log.recovered;
    if !log.is_usable() || base < log.log_start() || (base < tail.from && base < end) {
        return Presence::Present;
    }
    if base == end {
        return Presence::Next;
    }
    let there = base < end
        && tail.transactions.binary_search_by_key(&(base, id), |found| (found.base, found.id)).is_ok();
    if there { Presence::Present } else { Presence::Elsewhere }
}

/// Appends a batch of the journal at the log's end. Returns the new log end.
///
/// # Errors
/// The errors of an append, and of replacing the manifest.
pub(crate) fn redo(log: &Log, batch: &[u8]) -> Result<Offset> {
    let path = || log.ctx.display(Path::new(names::JOURNAL));
    let (mut header, _) =
        decode_header(batch, log.seed()).map_err(|m| Error::corrupt(&path(), m.position, m.what))?;
    let settings = log.settings();
    let mut tip = log.writer.lock();
    keep_positions(log, &header)?;
    let mut stored = batch.to_vec();
    debug_assert!(stored.len() >= HEADER_BYTES);
    roll_if_due(log, &mut tip, &header, stored.len(), &settings)?;
    let end = write_batch(log, &mut tip, &mut header, &mut stored, &[], &settings)?;
    // Its keys are looked up by the first lookup.
    tip.segment.forget_keys(tip.point.position);
    tip.ends.note_written(end, settings.durability != Durability::Sync);
    Ok(end)
}

/// If recovery has truncated a batch that is now written again unchanged, the history of the
/// batch's epoch is the same up to the batch's end, and not only up to the truncation:
/// positions after it stay valid. IMPORTANT: change the manifest before the batch is written.
/// After a crash in between, the next opening writes the batch in any case; a batch that is
/// present is not written again.
fn keep_positions(log: &Log, header: &BatchHeader) -> Result<()> {
    let was_truncated = |manifest: &Manifest| {
        let last = manifest.epochs.last();
        last.is_some_and(|last| last.epoch > header.log_epoch && last.start == header.base_offset)
    };
    if !was_truncated(&log.manifest.get()) {
        return Ok(());
    }
    let committed = log.manifest.commit(&log.ctx, |manifest| {
        manifest.move_last_epoch_behind(header);
    });
    committed.map_err(|failed| failed.error)
}
