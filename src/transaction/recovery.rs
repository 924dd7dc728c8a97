//! Settles transactions when a broker is opened, by the records of the journal: each transaction is
//! completed or taken back.

use std::path::Path;

use super::journal::{FILE_BYTES_MAX, Journal};
use super::records::{JournalRecords, lost_record, read_records};
use crate::engine::{Context, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::{HEADER_BYTES, check_body, decode_header};
use crate::format::journal::{
    Committed, CommittedPart, JOURNAL_HEADER_BYTES, decode_header as decode_header_of,
};
use crate::format::names;
use crate::log::Log;
use crate::log::journal::LogJournal;
use crate::log::recovered_tail::RecoveredTransaction;
use crate::log::redo::{Presence, presence_of, redo};
use crate::log::truncate::truncate_to;
use crate::stats::{Event, OpenReport, TruncatedTail};
use crate::storage::{OpenMode, read_file, write_all_at};
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, TopicId};

/// Reads the journal, if there is one, before anything is written. Stores its records for the
/// recovery of the partitions.
///
/// # Errors
/// `UnsupportedFormat`; an I/O error. Damage is reported by [`settle`].
pub(crate) fn check_format(journal: &Journal) -> Result<()> {
    let ctx = journal.ctx();
    let path = Path::new(names::JOURNAL);
    match read_file(&*ctx.storage, path, FILE_BYTES_MAX) {
        Ok(file) => match decode_header_of(&file) {
            Err(m) if m.unsupported.is_some() => Err(malformed(ctx, path, 0, &m)),
            _ => {
                journal.know(JournalRecords::of(&file).ok());
                Ok(())
            }
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(IoAction::Read, &ctx.display(path), e)),
    }
}

/// Completes every committed transaction and takes back every other. Must be called before any
/// record is served. On return all of that is durable, and the journal is empty.
///
/// A transaction with a record counts if every part is in its partition or can be appended there.
/// Under the durability `Os` a power loss may have taken the records before a part; then no caller
/// was promised the transaction, and none of it counts. A crash during this function does not
/// change these decisions: a part that was appended is still there, and a part that could not be
/// appended cannot be appended after the others were truncated either.
///
/// # Errors
/// `Corrupt` if the journal is damaged where it had been durable, or has lost a durable record;
/// `UnsupportedFormat`; an I/O error, also of a partition that could not be opened for another
/// reason than damage.
pub(crate) fn settle(
    journal: &Journal,
    logs: &[Arc<Log>],
    find: impl Fn(&TopicId, PartitionId) -> Option<Arc<Log>>,
    is_clean: bool,
    report: &mut OpenReport,
) -> Result<()> {
    let ctx = journal.ctx();
    let path = Path::new(names::JOURNAL);
    let seen: Vec<(&Arc<Log>, RecoveredTransaction)> = logs
        .iter()
        .flat_map(|log| log.recovered().transactions.iter().map(move |found| (log, *found)))
        .collect();
    let largest = seen.iter().map(|(_, found)| found.id).max().unwrap_or(0);
    let file = match read_file(&*ctx.storage, path, FILE_BYTES_MAX) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            note_missing(journal, largest, report);
            return Ok(());
        }
        Err(e) => return Err(Error::io(IoAction::Read, &ctx.display(path), e)),
    };
    let read = decode_header_of(&file)
        .and_then(|floor| read_records(&file, floor).map(|(records, end)| (floor, records, end)));
    journal.know(None);
    let is_empty = matches!(&read, Ok((_, records, end)) if records.is_empty() && *end == file.len());
    if is_clean && !is_empty {
        let what = read.map_or_else(|m| m.what, |_| "it is not empty");
        return replace_after_clean_close(journal, largest, what, report);
    }
    let (floor, records, end) = read.map_err(|m| malformed(ctx, path, 0, &m))?;
    let (known, torn) = (JournalRecords::new(floor, &records, end), end < file.len());
    check_logs(ctx, logs, &known, !is_clean || torn || !records.is_empty())?;
    make_durable(ctx, path, file.get(..end).unwrap_or_default(), &records)?;
    // First take back the batches without a record, because the batches after them do not count
    // either.
    for (log, found) in &seen {
        if found.id >= floor && !known.ids.contains(&found.id) {
            take_back(ctx, log, found.base, report)?;
        }
    }
    for record in &records {
        let parts: Vec<_> =
            record.parts.iter().filter_map(|part| Some((part, find(&part.topic, part.partition)?))).collect();
        complete_or_take_back(ctx, record.id, &parts, report)?;
    }
    // Without a transaction no log needs a sync: what an opening has left unsynced stays so.
    let is_settled = records.is_empty() && !torn && seen.is_empty();
    for log in logs.iter().filter(|log| !is_settled && log.is_usable()) {
        log.sync()?;
    }
    let next_id =
        records.iter().map(|record| record.id + 1).chain([floor, largest + 1]).max().unwrap_or(floor);
    if records.is_empty() && !torn {
        keep_empty_file(journal, floor, next_id)
    } else {
        replace_by_empty_file(journal, next_id)
    }
}

/// Makes the records durable that were read, before a part of one is appended.
///
/// IMPORTANT: an appended batch has a `synced_upto`, which proves to a later opening that the records
/// of the transactions before it were durable. After a kill they may be in the page cache only. They
/// are written again because after a failed sync the page cache may call them clean.
///
/// # Errors
/// An I/O error.
fn make_durable(ctx: &Context, path: &Path, bytes: &[u8], records: &[Committed<'_>]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let failed = |action| move |e| Error::io(action, &ctx.display(path), e);
    let file = ctx.storage.open(path, OpenMode::Write).map_err(failed(IoAction::Open))?;
    write_all_at(&*file, bytes, 0).map_err(|(_, e)| failed(IoAction::Write)(e))?;
    file.sync_data().map_err(failed(IoAction::Sync))
}

/// There is no file: no transaction was ever committed, or the file was deleted. Then each batch
/// counts by itself.
fn note_missing(journal: &Journal, largest: u64, report: &mut OpenReport) {
    let ctx = journal.ctx();
    if largest > 0 {
        report.warnings.push(format!(
            "{} is missing: each batch of a transaction counts by itself",
            ctx.display(Path::new(names::JOURNAL)).display()
        ));
    }
    journal.state().next_id = fresh_id(ctx, largest);
}

/// A clean close leaves an empty file: all batches of its records are in the segments. So a file
/// that is not empty after one is reported and replaced.
fn replace_after_clean_close(
    journal: &Journal,
    largest: u64,
    what: &str,
    report: &mut OpenReport,
) -> Result<()> {
    let ctx = journal.ctx();
    report.warnings.push(format!(
        "{} does not look like after a clean close ({what}): it is replaced by an empty one",
        ctx.display(Path::new(names::JOURNAL)).display()
    ));
    let mut state = journal.state();
    state.next_id = fresh_id(ctx, largest);
    state.start_file(ctx, true)
}

/// Checks that the journal has every record that a log proves, and, where a partition may have to
/// be written (`may_write`), that all of them can be read.
///
/// # Errors
/// `Corrupt` if the journal has lost a record; the error of a partition that could not be opened.
fn check_logs(ctx: &Context, logs: &[Arc<Log>], known: &JournalRecords, may_write: bool) -> Result<()> {
    let mut lost =
        logs.iter().filter_map(|log| Some((log, known.find_lost(log.recovered(), log.log_start())?)));
    if let Some((log, found)) = lost.next() {
        // IMPORTANT: check this before a batch without a record is truncated. Nothing has been
        // changed in that log.
        return Err(lost_record(ctx, log.identity(), known, found));
    }
    match logs.iter().find_map(|log| log.health().unread()) {
        // IMPORTANT: return while the file still has the batches that this partition lacks. A
        // damaged partition is never served again as it was, but this one may be usable at the next
        // opening.
        Some(error) if may_write => Err(error),
        _ => Ok(()),
    }
}

/// Appends the missing parts of a committed transaction; or, if one of them can no longer be
/// appended, truncates the others.
fn complete_or_take_back(
    ctx: &Context,
    id: u64,
    parts: &[(&CommittedPart<'_>, Arc<Log>)],
    report: &mut OpenReport,
) -> Result<()> {
    let possible = parts.iter().all(|(part, log)| match presence_of(log, part, id) {
        Presence::Present => true,
        Presence::Next => check_part(log, part),
        Presence::Elsewhere => false,
    });
    for (part, log) in parts {
        match presence_of(log, part, id) {
            Presence::Next if possible => {
                let end = redo(log, part.batch)?;
                restored(report, log, part, end);
            }
            // IMPORTANT: take it back before the next record is checked. The next one may follow
            // it.
            Presence::Present if !possible => take_back(ctx, log, part.base_offset, report)?,
            _ => {}
        }
    }
    Ok(())
}

/// The file has no records and no torn bytes: this run continues it.
fn keep_empty_file(journal: &Journal, floor: u64, next_id: u64) -> Result<()> {
    let (ctx, path) = (journal.ctx(), Path::new(names::JOURNAL));
    let mut state = journal.state();
    state.next_id = next_id;
    let opened = ctx.storage.open(path, OpenMode::Write);
    state.file = Some(opened.map_err(|e| Error::io(IoAction::Open, &ctx.display(path), e))?);
    state.floor = floor;
    state.position = JOURNAL_HEADER_BYTES as u64;
    Ok(())
}

/// Starts another file; if there is no room for one, empties this one.
fn replace_by_empty_file(journal: &Journal, next_id: u64) -> Result<()> {
    let ctx = journal.ctx();
    let mut state = journal.state();
    state.next_id = next_id;
    match state.start_file(ctx, true) {
        Err(error) if error.is_full() && state.failed.is_none() => {
            ctx.reserve.note_full();
            state.empty_file(ctx)
        }
        started => started,
    }
}

/// Returns the next transaction's id when the journal does not show which ids were used: greater
/// than the largest id found, and greater than every id that could have been used before this time
/// at a million per millisecond.
///
/// IMPORTANT: no id is used twice. A later opening may scan an old batch again (for example if the
/// checkpoint is lost), and takes back every batch whose id is not below the journal's floor and
/// has no record.
fn fresh_id(ctx: &Context, largest: u64) -> u64 {
    let millis = u64::try_from(ctx.clock.now().as_millis()).unwrap_or(0);
    largest.saturating_add(1).max(millis.min(u64::MAX >> 21) << 20)
}

/// Removes from the report the part of a truncation that was written again unchanged.
fn restored(report: &mut OpenReport, log: &Log, part: &CommittedPart<'_>, end: Offset) {
    let len = part.batch.len() as u64;
    let of_it = |tail: &TruncatedTail| {
        (&tail.topic, tail.partition, tail.from) == (log.topic(), log.partition(), part.base_offset)
    };
    report.truncated_tails.retain_mut(|tail| {
        if !of_it(tail) {
            return true;
        }
        tail.from = end;
        tail.position += len;
        tail.bytes = tail.bytes.saturating_sub(len);
        tail.to = tail.to.filter(|to| *to > end);
        tail.bytes > 0 || tail.to.is_some()
    });
}

/// Returns whether a part is a batch of this log. The record has passed its own checksum.
fn check_part(log: &Log, part: &CommittedPart<'_>) -> bool {
    let body = part.batch.get(HEADER_BYTES..).unwrap_or_default();
    decode_header(part.batch, log.seed()).is_ok_and(|(header, _)| check_body(&header, body).is_ok())
}

/// Truncates a log before a batch that does not count, if the batch is (still) there.
fn take_back(ctx: &Context, log: &Arc<Log>, base: Offset, report: &mut OpenReport) -> Result<()> {
    let to = log.bounds().log_end;
    if base >= to || base < log.log_start() || !log.is_usable() {
        return Ok(());
    }
    truncate_to(log, base)?;
    let tail = TruncatedTail {
        topic: log.topic().clone(),
        partition: log.partition(),
        file: ctx.display(Path::new(names::JOURNAL)),
        position: 0,
        bytes: 0,
        reason: "the batch is of a transaction that was not committed completely".to_string(),
        from: base,
        to: Some(to),
        kept: None,
    };
    ctx.events.report(&Event::TailTruncated(tail.clone()));
    report.truncated_tails.push(tail);
    Ok(())
}
