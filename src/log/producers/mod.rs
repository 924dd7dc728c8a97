//! Idempotent producers of a log. When the first of them sends, the log reads its side file and the
//! headers of later batches to find their batches. From then on each append is checked and
//! recorded. A log without idempotent producers reads nothing.

mod table;

pub(crate) use self::table::Located;
use self::table::{Claim, Producers};
use super::{Common, Log};
use crate::engine::Identity;
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::format::names;
use crate::format::producers::{ProducersFile, REMEMBERED, Remembered};
use crate::log::cursor::Cursor;
use crate::storage::{ReplaceError, read_file, replace_file};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, Rank};
use crate::types::{Offset, TopicPartition};

/// The sender of a batch, as far as the header does not have it: an idempotent producer.
pub(crate) struct Sender<'a> {
    /// The sequence of its first record, if its records have sequences.
    pub(crate) producer: &'a Arc<str>,
    pub(crate) first: Option<u64>,
    /// Returns an error if the sender has lost its name to a newer one.
    pub(crate) fence: &'a dyn Fn() -> Result<()>,
}

/// The side file of a log.
struct SideFile {
    file: ProducersFile,
    /// Whether all of it is still valid. If the log was truncated before the file's end, only the
    /// batches before the truncation are left in `file`.
    is_whole: bool,
}

/// The state of a log's idempotent producers.
pub(crate) struct ProducerTable {
    /// Read from the log when the first producer sends, and again after each revision.
    known: Mutex<KnownProducers>,
    /// Whether an idempotent producer may have written to the log.
    has_senders: AtomicBool,
    /// Held by the thread that reads, changes and replaces the side file.
    saving: Mutex<()>,
    /// The length of the side file when it was last written here.
    bytes: AtomicU64,
}

impl ProducerTable {
    pub(crate) fn new(has_senders: bool) -> Self {
        ProducerTable {
            known: Mutex::new(Rank::Producers, KnownProducers::default()),
            has_senders: AtomicBool::new(has_senders),
            saving: Mutex::new(Rank::SavingProducers, ()),
            bytes: AtomicU64::new(0),
        }
    }

    /// Returns the length of the side file, if it was written since the log was opened.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The known batches of a log's idempotent producers.
#[derive(Default)]
pub(super) struct KnownProducers {
    /// The revision of the log; `None` if nothing was read. After the next revision the value is
    /// out of date.
    revision: Option<u64>,
    producers: Producers,
    /// Up to where the side file covers it.
    saved: Option<Offset>,
}

/// A batch that may be appended. While it lives no other batch is checked, and no thread reads the
/// table.
pub(super) struct Checked<'a> {
    known: MutexGuard<'a, KnownProducers>,
    /// The sequences of the batch, if it has some.
    claim: Option<Claim>,
}

impl Checked<'_> {
    /// Records the batch, which has been written.
    pub(super) fn note(&mut self, header: &BatchHeader) {
        let last = header.base_offset.plus(u64::from(header.last_offset_delta));
        if let Some(claim) = &self.claim {
            self.known.producers.note(claim, header.base_offset, last);
        }
    }
}

impl Log {
    /// Locks the table. Reads it from the log if that was not done yet, or if the log was replaced
    /// since. Called before the writer's lock is taken, because that may read many headers; under
    /// the writer's lock it reads only if the log was replaced in between.
    fn known_producers(self: &Arc<Self>) -> Result<MutexGuard<'_, KnownProducers>> {
        let mut known = self.producers.known.lock();
        if known.revision == Some(self.revision()) {
            return Ok(known);
        }
        // IMPORTANT: use the result of a scan only if the log was not replaced meanwhile, because
        // the scan may have seen batches that are no longer in the log; and only if the log start
        // has not moved, because the scan may have missed batches that are now only in the side
        // file.
        let (revision, found) = self.consistently(|| {
            let (revision, start) = (self.revision(), self.log_start());
            let found = self.find_producers()?;
            Ok((self.log_start() == start).then_some((revision, found)))
        })?;
        let (producers, saved) = found;
        if !producers.is_empty() {
            self.producers.has_senders.store(true, Ordering::Release);
        }
        *known = KnownProducers { revision: Some(revision), producers, saved };
        Ok(known)
    }

    /// Reads the side file, and the headers of all visible batches after its end. Batches of
    /// idempotent producers are recorded under the lock under which they are written, so batches
    /// that are not visible yet have been recorded, or are truncated.
    fn find_producers(self: &Arc<Self>) -> Result<(Producers, Option<Offset>)> {
        match self.load_producers() {
            Some(SideFile { file, is_whole: true }) => {
                let mut producers = Producers::new(file.producers);
                self.scan_producers(file.end_offset, Offset::MAX, &mut producers)?;
                Ok((producers, Some(file.end_offset)))
            }
            other => {
                let mut producers = Producers::default();
                self.scan_producers(Offset::ZERO, Offset::MAX, &mut producers)?;
                producers.merge(other.map_or(Vec::new(), |loaded| loaded.file.producers));
                Ok((producers, None))
            }
        }
    }

    /// Records the batches of idempotent producers from `from`, or from the log start if that is
    /// later, up to `to`. Of a batch across `to`, records only the part before it.
    fn scan_producers(self: &Arc<Self>, from: Offset, to: Offset, producers: &mut Producers) -> Result<()> {
        let mut cursor = Cursor::new(self.clone(), from.max(self.log_start()));
        loop {
            let header = match cursor.peek_any() {
                Ok(Some(header)) if header.base_offset < to => header,
                Ok(_) => return Ok(()),
                // Retention has deleted the batch meanwhile.
                Err(_) if cursor.offset() < self.log_start() => {
                    cursor.go_to(self.log_start());
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
    fn load_producers(&self) -> Option<SideFile> {
        let path = self.manifest.dir().join(names::PRODUCERS);
        let bytes = read_file(&*self.ctx.storage, &path, u64::from(u32::MAX)).ok()?;
        let mut file = ProducersFile::decode(&bytes).ok()?;
        if file.topic_id != self.identity.topic_id || file.partition != self.identity.partition {
            return None;
        }
        // The manifest does not have the ends of epochs before those that it lists.
        let oldest = self.manifest.get().epochs.first().map_or(u32::MAX, |oldest| oldest.epoch);
        let common = match self.common_end(file.log_epoch) {
            _ if file.log_epoch < oldest => return None,
            Common::All => self.visible_end(),
            Common::UpTo(end) => end.min(self.visible_end()),
            Common::Unknown => return None,
        };
        let is_whole = file.end_offset <= common;
        if !is_whole {
            file.producers
                .iter_mut()
                .for_each(|(_, batches)| batches.retain(|batch| batch.last_offset < common));
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
    pub(super) fn keep_producers(self: &Arc<Self>, upto: Offset, is_end: bool) -> Result<()> {
        if !self.producers.has_senders.load(Ordering::Acquire) {
            return Ok(());
        }
        let _saving = self.producers.saving.lock();
        let loaded = self.load_producers();
        let mut below = Producers::default();
        let mut from = Offset::ZERO;
        while let Err(error) = self.scan_producers(from, upto, &mut below) {
            // Records that cannot be read must still be deletable.
            match error {
                Error::Corrupt(damage) => {
                    match damage.resume.filter(|resume| *resume > from && *resume < upto) {
                        Some(resume) => from = resume,
                        None => break,
                    }
                }
                other => return Err(other),
            }
        }
        let mut known = loaded.as_ref().map_or(Vec::new(), |loaded| loaded.file.producers.clone());
        known.iter_mut().for_each(|(_, batches)| batches.retain(|batch| batch.last_offset < upto));
        below.merge(known);
        let epoch = self.epoch();
        let file = match loaded {
            Some(SideFile { file, is_whole: true }) if file.end_offset >= upto && !is_end => {
                let mut next = ProducersFile { log_epoch: epoch, ..file.clone() };
                below.newest().for_each(|(id, batch)| add_older(&mut next, id, batch));
                if next == file {
                    return Ok(());
                }
                next
            }
            _ => self.producers_file(epoch, upto, below.list()),
        };
        // Records are about to be deleted, so this frees space and may use the reserve.
        let written = self.ctx.reserve.with_room(|| self.write_producers(&file));
        written.map_err(|failed| self.producers_failed(failed))
    }

    fn producers_file(
        &self,
        log_epoch: u32,
        end_offset: Offset,
        producers: Vec<(u64, Vec<Remembered>)>,
    ) -> ProducersFile {
        let Identity { topic_id, partition, .. } = *self.identity;
        ProducersFile { topic_id, partition, log_epoch, end_offset, producers }
    }

    /// Replaces the side file, durably.
    fn write_producers(&self, file: &ProducersFile) -> std::result::Result<(), ReplaceError> {
        let path = self.manifest.dir().join(names::PRODUCERS);
        let bytes = file.encode();
        self.producers.bytes.store(bytes.len() as u64, Ordering::Relaxed);
        replace_file(&*self.ctx.storage, &path, &bytes)
    }

    fn producers_failed(&self, failed: ReplaceError) -> Error {
        // The log is unchanged: "replace" is not among the actions of unknown outcome.
        Error::replace(&self.ctx.display(&self.manifest.dir().join(names::PRODUCERS)), failed.error)
    }

    /// Notes, before the first batch of an idempotent producer is written, that the log will have
    /// such batches: writes a side file without batches. A log without the file never had one, so
    /// nothing has to be kept when its records are deleted. The caller must hold the writer's lock,
    /// and the log must have files.
    fn note_senders(&self) -> Result<()> {
        if self.producers.has_senders.load(Ordering::Acquire) {
            return Ok(());
        }
        let _saving = self.producers.saving.lock();
        // IMPORTANT: the file must not cover more than the log start. If it was removed by hand,
        // the log may have such batches.
        let file = self.producers_file(self.epoch(), self.log_start(), Vec::new());
        self.write_producers(&file).map_err(|e| self.producers_failed(e))?;
        self.producers.has_senders.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns the content of the next side file, if the current one does not cover all known
    /// batches. Must be passed to [`save_producers`](Log::save_producers) only after all records
    /// before its end are durable.
    pub(super) fn unsaved_producers(&self) -> Option<ProducersFile> {
        let known = self.producers.known.lock();
        // An append moves the log's end under this lock, after the batch is recorded.
        let (log_epoch, end) = (self.epoch(), self.log_end());
        if known.revision != Some(self.revision()) || known.saved >= Some(end) || known.producers.is_empty() {
            return None;
        }
        Some(self.producers_file(log_epoch, end, known.producers.list()))
    }

    /// Writes the side file. All records before its end must be durable. Batches of deleted records
    /// that the old file has are kept. A failure is ignored, and a truncation meanwhile does no
    /// harm.
    pub(super) fn save_producers(&self, file: &ProducersFile) {
        let _saving = self.producers.saving.lock();
        let mut file = file.clone();
        let start = self.log_start();
        let loaded = self.load_producers();
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
        if self.write_producers(&file).is_ok() {
            let mut known = self.producers.known.lock();
            if self.epoch() == file.log_epoch {
                known.saved = Some(file.end_offset);
            }
        }
    }

    /// Returns the last sequence of a producer in this log, and the location of the record with a
    /// given sequence.
    ///
    /// # Errors
    /// The errors of reading.
    pub(crate) fn locate(
        self: &Arc<Self>,
        producer_id: u64,
        sequence: u64,
    ) -> Result<(Option<u64>, Located)> {
        let known = self.known_producers()?;
        Ok((known.producers.last_sequence(producer_id), known.producers.locate(producer_id, sequence)))
    }

    /// Checks a batch and its sender. The caller must hold the writer's lock.
    ///
    /// # Errors
    /// `Fenced`; `OutOfOrderSequence`, also for a batch that is in the log already: the sender
    /// looks up its offset; the errors of reading; an I/O error of the side file.
    pub(super) fn check_sender(
        self: &Arc<Self>,
        header: &BatchHeader,
        sender: &Sender<'_>,
    ) -> Result<Checked<'_>> {
        if sender.first.is_some() {
            self.note_senders()?;
        }
        // Without sequences the table need not be read.
        let known =
            if sender.first.is_some() { self.known_producers()? } else { self.producers.known.lock() };
        // IMPORTANT: check the fence under this lock. A program that takes over the name reads the
        // table under the same lock, so it either sees the batch of an older handle, or that handle
        // is fenced.
        (sender.fence)()?;
        let claim = sender.first.map(|first| Claim {
            producer_id: header.producer_id,
            first,
            last: header.base_sequence,
        });
        match claim.as_ref().map_or(Ok(()), |claim| known.producers.check(claim)) {
            Ok(()) => Ok(Checked { known, claim }),
            Err(last) => {
                let sequence = sender.first.unwrap_or(header.base_sequence);
                let producer = sender.producer.clone();
                let TopicPartition { topic, partition } = self.identity.topic_partition();
                Err(Error::OutOfOrderSequence { producer, topic, partition, sequence, last: Some(last) })
            }
        }
    }
}

/// Returns the sequences of a batch's records before `to`, and the last offset of those records.
/// Returns `None` if the batch has no idempotent producer, or if the sequences of the part are
/// unknown.
fn claim_before(header: &BatchHeader, to: Offset) -> Option<(Claim, Offset)> {
    let dense = header.attributes.given_sequences().filter(|_| header.producer_id != 0)?;
    let gone = header.end_offset().since(to);
    if gone > 0 && !dense {
        return None;
    }
    // For a batch with gaps between its sequences the header has only the last one.
    let last = header.base_sequence.checked_sub(gone)?;
    let span = u64::from(header.last_offset_delta).saturating_sub(gone);
    let first = if dense { last.saturating_sub(span) } else { last };
    Some((Claim { producer_id: header.producer_id, first, last }, header.base_offset.plus(span)))
}

/// Adds the last batch of a producer's deleted records to a file, unless the file has a newer one
/// of them.
fn add_older(file: &mut ProducersFile, id: u64, batch: Remembered) {
    if batch.last_offset >= file.end_offset {
        return;
    }
    let at = file.producers.partition_point(|(known, _)| *known < id);
    match file.producers.get_mut(at).filter(|(known, _)| *known == id) {
        Some((_, batches)) => {
            // The file may have the same batch as a whole, or only the part before a log start.
            if batches.iter().any(|known| known.base_offset == batch.base_offset) {
                return;
            }
            batches.retain(|known| known.base_offset > batch.base_offset);
            let older = batches.len().saturating_sub(REMEMBERED);
            batches.drain(..older);
            if batches
                .first()
                .is_none_or(|first| batch.last < first.first && batch.last_offset < first.base_offset)
            {
                batches.insert(0, batch);
            }
        }
        None => file.producers.insert(at, (id, vec![batch])),
    }
}
