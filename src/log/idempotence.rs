//! Idempotent producers of a log. When the first of them sends, the log reads its side file and the
//! headers of later batches to find their batches. From then on each append is checked and
//! recorded. A log without idempotent producers reads nothing.

use super::cursor::Cursor;
use super::producers::{
    Checked, KnownProducers, Located, Producers, Sender, SequenceClaim, add_older, claim_before,
    read_side_file,
};
use super::{Common, Log};
use crate::engine::Identity;
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::format::names;
use crate::format::producers::{ProducersFile, REMEMBERED, Remembered};
use crate::storage::ReplaceError;
use crate::sync::{Arc, MutexGuard};
use crate::types::{Offset, TopicPartition};

/// The side file of a log, compared with the log's history.
struct SideFile {
    file: ProducersFile,
    /// Whether all of it is still valid. If the log was truncated before the file's end, only the
    /// batches before the truncation are left in `file`.
    is_whole: bool,
}

/// Locks the table. Reads it from the log if that was not done yet, or if the log was replaced
/// since. Called before the writer's lock is taken, because that may read many headers; under the
/// writer's lock it reads only if the log was replaced in between.
fn lock_known(log: &Arc<Log>) -> Result<MutexGuard<'_, KnownProducers>> {
    let mut known = log.producers.lock();
    if known.revision == Some(log.revision()) {
        return Ok(known);
    }
    // IMPORTANT: use the result of a scan only if the log was not replaced meanwhile, because
    // the scan may have seen batches that are no longer in the log; and only if the log start
    // has not moved, because the scan may have missed batches that are now only in the side
    // file.
    let (revision, found) = log.consistently(|| {
        let (revision, start) = (log.revision(), log.log_start());
        let found = find(log)?;
        Ok((log.log_start() == start).then_some((revision, found)))
    })?;
    let (producers, saved) = found;
    if !producers.is_empty() {
        log.producers.note_senders();
    }
    *known = KnownProducers { revision: Some(revision), producers, saved };
    Ok(known)
}

/// Reads the side file, and the headers of all visible batches after its end. Batches of
/// idempotent producers are recorded under the lock under which they are written, so batches
/// that are not visible yet have been recorded, or are truncated.
fn find(log: &Arc<Log>) -> Result<(Producers, Option<Offset>)> {
    match load(log) {
        Some(SideFile { file, is_whole: true }) => {
            let mut producers = Producers::new(file.producers);
            scan(log, file.end_offset, Offset::MAX, &mut producers)?;
            Ok((producers, Some(file.end_offset)))
        }
        other => {
            let mut producers = Producers::default();
            scan(log, Offset::ZERO, Offset::MAX, &mut producers)?;
            producers.merge(other.map_or(Vec::new(), |loaded| loaded.file.producers));
            Ok((producers, None))
        }
    }
}

/// Records the batches of idempotent producers from `from`, or from the log start if that is
/// later, up to `to`. Of a batch across `to`, records only the part before it.
fn scan(log: &Arc<Log>, from: Offset, to: Offset, producers: &mut Producers) -> Result<()> {
    let mut cursor = Cursor::new(log.clone(), from.max(log.log_start()));
    loop {
        let header = match cursor.peek_any() {
            Ok(Some(header)) if header.base_offset < to => header,
            Ok(_) => return Ok(()),
            // Retention has deleted the batch meanwhile.
            Err(_) if cursor.offset() < log.log_start() => {
                cursor.go_to(log.log_start());
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some((claim, last)) = claim_before(&header, to) {
            producers.note(&claim, header.base_offset, last);
        }
        cursor.pass(&header);
    }
}

/// Reads the side file, if it belongs to this log. IMPORTANT: in any doubt returns `None`.
fn load(log: &Log) -> Option<SideFile> {
    let mut file = read_side_file(&log.ctx, log.manifest.dir(), &log.identity)?;
    // The manifest does not have the ends of epochs before those that it lists.
    let oldest = log.manifest.get().epochs.first().map_or(u32::MAX, |oldest| oldest.epoch);
    let common = match log.common_end(file.log_epoch) {
        _ if file.log_epoch < oldest => return None,
        Common::All => log.visible_end(),
        Common::UpTo(end) => end.min(log.visible_end()),
        Common::Unknown => return None,
    };
    let is_whole = file.end_offset <= common;
    if !is_whole {
        file.producers.iter_mut().for_each(|(_, batches)| batches.retain(|batch| batch.last_offset < common));
        file.producers.retain(|(_, batches)| !batches.is_empty());
    }
    Some(SideFile { file, is_whole })
}

/// Makes the batches of idempotent producers before `upto` durable in the side file: their last
/// ones. Must be called before the manifest that drops the records. `is_end`: the log will end
/// at `upto` too.
///
/// Costs nothing in a log without idempotent producers. Otherwise the headers of the batches
/// before `upto` are read.
///
/// # Errors
/// The errors of reading, except for damage, because damaged records cannot be known; an I/O
/// error. Nothing has changed.
pub(crate) fn keep_producers(log: &Arc<Log>, upto: Offset, is_end: bool) -> Result<()> {
    if !log.producers.has_senders() {
        return Ok(());
    }
    let _saving = log.producers.lock_file();
    let loaded = load(log);
    let mut below = Producers::default();
    let mut from = Offset::ZERO;
    while let Err(error) = scan(log, from, upto, &mut below) {
        // Records that cannot be read must still be deletable.
        match error {
            Error::Corrupt(damage) => match damage.resume.filter(|resume| *resume > from && *resume < upto) {
                Some(resume) => from = resume,
                None => break,
            },
            other => return Err(other),
        }
    }
    let mut known = loaded.as_ref().map_or(Vec::new(), |loaded| loaded.file.producers.clone());
    known.iter_mut().for_each(|(_, batches)| batches.retain(|batch| batch.last_offset < upto));
    below.merge(known);
    let epoch = log.epoch();
    let file = match loaded {
        Some(SideFile { file, is_whole: true }) if file.end_offset >= upto && !is_end => {
            let mut next = ProducersFile { log_epoch: epoch, ..file.clone() };
            below.newest().for_each(|(id, batch)| add_older(&mut next, id, batch));
            if next == file {
                return Ok(());
            }
            next
        }
        _ => file_of(log, epoch, upto, below.list()),
    };
    // Records are about to be deleted, so this frees space and may use the reserve.
    let written = log.ctx.reserve.with_room(|| write(log, &file));
    written.map_err(|failed| write_failed(log, failed))
}

fn file_of(
    log: &Log,
    log_epoch: u32,
    end_offset: Offset,
    producers: Vec<(u64, Vec<Remembered>)>,
) -> ProducersFile {
    let Identity { topic_id, partition, .. } = *log.identity;
    ProducersFile { topic_id, partition, log_epoch, end_offset, producers }
}

/// Replaces the side file, durably.
fn write(log: &Log, file: &ProducersFile) -> std::result::Result<(), ReplaceError> {
    log.producers.write_file(&log.ctx, log.manifest.dir(), file)
}

fn write_failed(log: &Log, failed: ReplaceError) -> Error {
    // The log is unchanged: "replace" is not among the actions of unknown outcome.
    Error::replace(&log.ctx.display(&log.manifest.dir().join(names::PRODUCERS)), failed.error)
}

/// Notes, before the first batch of an idempotent producer is written, that the log will have
/// such batches: writes a side file without batches. A log without the file never had one, so
/// nothing has to be kept when its records are deleted. The caller must hold the writer's lock,
/// and the log must have files.
fn note_senders(log: &Log) -> Result<()> {
    if log.producers.has_senders() {
        return Ok(());
    }
    let _saving = log.producers.lock_file();
    // IMPORTANT: the file must not cover more than the log start. If it was removed by hand,
    // the log may have such batches.
    let file = file_of(log, log.epoch(), log.log_start(), Vec::new());
    write(log, &file).map_err(|e| write_failed(log, e))?;
    log.producers.note_senders();
    Ok(())
}

/// Returns the content of the next side file, if the current one does not cover all known
/// batches. Must be passed to [`save_producers`] only after all
/// records before its end are durable.
pub(crate) fn unsaved_producers(log: &Log) -> Option<ProducersFile> {
    let known = log.producers.lock();
    // An append moves the log's end under this lock, after the batch is recorded.
    let (log_epoch, end) = (log.epoch(), log.log_end());
    if known.revision != Some(log.revision()) || known.saved >= Some(end) || known.producers.is_empty() {
        return None;
    }
    Some(file_of(log, log_epoch, end, known.producers.list()))
}

/// Writes the side file. All records before its end must be durable. Batches of deleted records
/// that the old file has are kept. A failure is ignored, and a truncation meanwhile does no
/// harm.
pub(crate) fn save_producers(log: &Log, file: &ProducersFile) {
    let _saving = log.producers.lock_file();
    let mut file = file.clone();
    let start = log.log_start();
    let loaded = load(log);
    if loaded.as_ref().is_some_and(|known| known.is_whole && known.file.end_offset >= file.end_offset) {
        // Another thread has replaced it meanwhile, because records are about to be deleted.
        return;
    }
    for (id, batches) in loaded.map_or(Vec::new(), |loaded| loaded.file.producers) {
        let is_older = batches.len() > REMEMBERED;
        let gone = batches.iter().rev().find(|batch| batch.last_offset < start);
        if let Some(batch) = gone.or(batches.first().filter(|_| is_older)) {
            add_older(&mut file, id, *batch);
        }
    }
    if write(log, &file).is_ok() {
        let mut known = log.producers.lock();
        if log.epoch() == file.log_epoch {
            known.saved = Some(file.end_offset);
        }
    }
}

/// Returns the last sequence of a producer in this log, and the location of the record with a
/// given sequence.
///
/// # Errors
/// The errors of reading.
pub(crate) fn locate(log: &Arc<Log>, producer_id: u64, sequence: u64) -> Result<(Option<u64>, Located)> {
    let known = lock_known(log)?;
    Ok((known.producers.last_sequence(producer_id), known.producers.locate(producer_id, sequence)))
}

/// As [`locate`], for the sequences of one call.
///
/// # Errors
/// The errors of reading.
pub(crate) fn locate_all(
    log: &Arc<Log>,
    producer_id: u64,
    sequences: &[u64],
) -> Result<(Option<u64>, Vec<Located>)> {
    let known = lock_known(log)?;
    let located = known.producers.locate_all(producer_id, sequences);
    Ok((known.producers.last_sequence(producer_id), located))
}

/// Checks a batch and its sender. The caller must hold the writer's lock.
///
/// # Errors
/// `Fenced`; `OutOfOrderSequence`, also for a batch that is in the log already: the sender
/// looks up its offset; the errors of reading; an I/O error of the side file.
pub(crate) fn check_sender<'a>(
    log: &'a Arc<Log>,
    header: &BatchHeader,
    sender: &Sender<'_>,
) -> Result<Checked<'a>> {
    if sender.first.is_some() {
        note_senders(log)?;
    }
    // Without sequences the table need not be read.
    let known = if sender.first.is_some() { lock_known(log)? } else { log.producers.lock() };
    // IMPORTANT: check the fence under this lock. A program that takes over the name reads the
    // table under the same lock, so it either sees the batch of an older handle, or that handle
    // is fenced.
    (sender.fence)()?;
    let claim = sender.first.map(|first| SequenceClaim {
        producer_id: header.producer_id,
        first,
        last: header.base_sequence,
    });
    match claim.as_ref().map_or(Ok(()), |claim| known.producers.check(claim)) {
        Ok(()) => Ok(Checked { known, claim }),
        Err(last) => {
            let sequence = sender.first.unwrap_or(header.base_sequence);
            let producer = sender.producer.clone();
            let TopicPartition { topic, partition } = log.identity.topic_partition();
            Err(Error::OutOfOrderSequence { producer, topic, partition, sequence, last: Some(last) })
        }
    }
}
