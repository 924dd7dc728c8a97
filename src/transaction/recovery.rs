//! How does an opening settle transactions? By the records of the journal: each becomes whole, or is taken back.

use std::path::Path;

use super::journal::{FILE_BYTES_MAX, Journal};
use super::records::{Known, lost_record, read_records};
use crate::engine::{Context, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::{HEADER_BYTES, check_body, decode_header};
use crate::format::journal::{CommittedPart, JOURNAL_HEADER_BYTES, decode_header as decode_header_of};
use crate::format::names;
use crate::log::Log;
use crate::log::journal::LogJournal;
use crate::log::participate::Place;
use crate::log::recovery::transactions::Found;
use crate::stats::{Cut, Event, OpenReport};
use crate::storage::{OpenMode, read_file};
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, TopicId};

/// Looks at the journal, if there is one, before anything is written. Notes which records it has,
/// for the recovery of the partitions.
///
/// # Errors
/// `UnsupportedFormat`; an I/O error. Damage is for [`settle`] to report.
pub(crate) fn check_format(journal: &Journal) -> Result<()> {
    let ctx = journal.ctx();
    let path = Path::new(names::JOURNAL);
    match read_file(&*ctx.storage, path, FILE_BYTES_MAX) {
        Ok(file) => match decode_header_of(&file) {
            Err(m) if m.unsupported.is_some() => Err(malformed(ctx, path, 0, &m)),
            _ => {
                journal.know(Known::of(&file).ok());
                Ok(())
            }
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(IoAction::Read, &ctx.display(path), e)),
    }
}

/// Makes every committed transaction whole and takes back every other, before anybody is served. All of that is on the
/// medium on return, and the journal is empty.
///
/// A transaction whose record is there counts if every part is in its partition or can be appended there. Under `Os` a
/// power loss may have taken what came before a part; then nobody was promised it, and none of it counts. Crashing in
/// between changes nothing about these answers: a part that has been appended is there, and one that could not be
/// appended cannot be appended after the others have been cut off either.
///
/// # Errors
/// `Corrupt` if the journal is damaged where it had been on the medium, or has lost a record that
/// was; `UnsupportedFormat`; or what the medium says, also of a partition that could not be opened
/// for another reason than damage.
pub(crate) fn settle(
    journal: &Journal,
    logs: &[Arc<Log>],
    find: impl Fn(&TopicId, PartitionId) -> Option<Arc<Log>>,
    is_clean: bool,
    report: &mut OpenReport,
) -> Result<()> {
    let ctx = journal.ctx();
    let path = Path::new(names::JOURNAL);
    let seen: Vec<(&Arc<Log>, Found)> = logs
        .iter()
        .flat_map(|log| log.recovered().transactions.iter().map(move |found| (log, *found)))
        .collect();
    let largest = seen.iter().map(|(_, found)| found.id).max().unwrap_or(0);
    let file = match read_file(&*ctx.storage, path, FILE_BYTES_MAX) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // No transaction was ever committed, or somebody has deleted the file: then each batch counts by itself.
            if largest > 0 {
                let path = ctx.display(path);
                report.warnings.push(format!("{} is missing: batches count one by one", path.display()));
            }
            journal.state().next_id = fresh_id(ctx, largest);
            return Ok(());
        }
        Err(e) => return Err(Error::io(IoAction::Read, &ctx.display(path), e)),
    };
    let read = decode_header_of(&file)
        .and_then(|floor| read_records(&file, floor).map(|(records, end)| (floor, records, end)));
    journal.know(None);
    let is_empty = matches!(&read, Ok((_, records, end)) if records.is_empty() && *end == file.len());
    if is_clean && !is_empty {
        // A clean close leaves an empty file: all that was ever in it is in the segments.
        let what = read.map_or_else(|m| m.what, |_| "it is not empty");
        report.warnings.push(format!(
            "{} is not as a clean close leaves it ({what}): it is replaced by an empty one",
            ctx.display(path).display()
        ));
        let mut state = journal.state();
        state.next_id = fresh_id(ctx, largest);
        return state.start_file(ctx, true);
    }
    let (floor, records, end) = read.map_err(|m| malformed(ctx, path, 0, &m))?;
    let (known, torn) = (Known::new(floor, &records, end), end < file.len());
    let mut lost =
        logs.iter().filter_map(|log| Some((log, known.find_lost(log.recovered(), log.log_start())?)));
    if let Some((log, found)) = lost.next() {
        // IMPORTANT: before anything is cut for lack of a record. Nothing has been changed in that
        // log.
        return Err(lost_record(ctx, log.identity(), &known, found));
    }
    let unread = logs.iter().find_map(|log| log.unread());
    if let Some(error) = unread.filter(|_| !is_clean || torn || !records.is_empty()) {
        // IMPORTANT: while the file still has what belongs there, or is known not to. A partition that is damaged is never served
        // again as it is; this one may be with the next opening.
        return Err(error);
    }
    // First what has no record: what others have put behind it does not count either.
    for (log, found) in &seen {
        if found.id >= floor && !known.ids.contains(&found.id) {
            take_back(ctx, log, found.base, report)?;
        }
    }
    for record in &records {
        let parts: Vec<_> =
            record.parts.iter().filter_map(|part| Some((part, find(&part.topic, part.partition)?))).collect();
        let possible = parts.iter().all(|(part, log)| match log.place_of(part, record.id) {
            Place::Present => true,
            Place::Next => check_part(log, part),
            Place::Elsewhere => false,
        });
        for (part, log) in &parts {
            match log.place_of(part, record.id) {
                Place::Next if possible => {
                    let end = log.redo(part.batch)?;
                    restored(report, log, part, end);
                }
                // IMPORTANT: before the next record is looked at. It may stand on this one.
                Place::Present if !possible => take_back(ctx, log, part.base_offset, report)?,
                _ => {}
            }
        }
    }
    for log in logs.iter().filter(|log| log.is_usable()) {
        log.sync()?;
    }
    let mut state = journal.state();
    state.next_id =
        records.iter().map(|record| record.id + 1).chain([floor, largest + 1]).max().unwrap_or(floor);
    if records.is_empty() && !torn {
        let opened = ctx.storage.open(path, OpenMode::Write);
        state.file = Some(opened.map_err(|e| Error::io(IoAction::Open, &ctx.display(path), e))?);
        state.floor = floor;
        state.position = JOURNAL_HEADER_BYTES as u64;
        return Ok(());
    }
    match state.start_file(ctx, true) {
        Err(error) if error.is_full() && state.failed.is_none() => {
            ctx.reserve.note_full();
            state.empty_file(ctx)
        }
        started => started,
    }
}

/// The next transaction's id where the journal cannot say which ids were given out: after the largest
/// id that was seen, and after all that could be given out before this time at a million a
/// millisecond.
///
/// IMPORTANT: no id is given out twice. A later opening may scan an old batch again (for example when
/// the checkpoint is lost), and takes back each batch whose id is not below the journal's floor and
/// has no record.
fn fresh_id(ctx: &Context, largest: u64) -> u64 {
    let millis = u64::try_from(ctx.clock.now().as_millis()).unwrap_or(0);
    largest.saturating_add(1).max(millis.min(u64::MAX >> 21) << 20)
}

/// Takes back the report of a cut as far as it was of a part that has been written again, as it was.
fn restored(report: &mut OpenReport, log: &Log, part: &CommittedPart<'_>, end: Offset) {
    let len = part.batch.len() as u64;
    let of_it =
        |cut: &Cut| (&cut.topic, cut.partition, cut.from) == (log.topic(), log.partition(), part.base_offset);
    report.cuts.retain_mut(|cut| {
        if !of_it(cut) {
            return true;
        }
        cut.from = end;
        cut.position += len;
        cut.bytes = cut.bytes.saturating_sub(len);
        cut.to = cut.to.filter(|to| *to > end);
        cut.bytes > 0 || cut.to.is_some()
    });
}

/// Whether a part is a batch of this log: the record has passed its own checksum.
fn check_part(log: &Log, part: &CommittedPart<'_>) -> bool {
    let body = part.batch.get(HEADER_BYTES..).unwrap_or_default();
    decode_header(part.batch, log.seed()).is_ok_and(|(header, _)| check_body(&header, body).is_ok())
}

/// Lets a log end before a batch that does not count, if that is (still) there.
fn take_back(ctx: &Context, log: &Arc<Log>, base: Offset, report: &mut OpenReport) -> Result<()> {
    let to = log.bounds().log_end;
    if base >= to || base < log.log_start() || !log.is_usable() {
        return Ok(());
    }
    log.truncate_to(base)?;
    let cut = Cut {
        topic: log.topic().clone(),
        partition: log.partition(),
        file: ctx.display(Path::new(names::JOURNAL)),
        position: 0,
        bytes: 0,
        reason: "a transaction that was never committed whole".to_string(),
        from: base,
        to: Some(to),
        kept: None,
    };
    ctx.event(&Event::Cut(cut.clone()));
    report.cuts.push(cut);
    Ok(())
}
