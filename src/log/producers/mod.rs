//! How does a log learn which batches of named producers it has? From its own headers, when the first such producer comes,
//! and for most of them from a side file; from then on each append is judged and noted. Logs that no named producer ever
//! writes to never look.

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

/// Who sends a batch, as far as its header does not say: a producer with a name.
pub(crate) struct Sender<'a> {
    pub(crate) producer: &'a Arc<str>,
    /// The sequence of its first record, if its records have any.
    pub(crate) first: Option<u64>,
    /// Whether it may still send.
    pub(crate) fence: &'a dyn Fn() -> Result<()>,
}

/// What the side file says of a log.
struct Loaded {
    file: ProducersFile,
    /// Whether all of it is still so. If the log was cut before the file's end, its batches before
    /// that cut were there, and are what is left in the file.
    is_whole: bool,
}

/// What a log remembers of idempotent producers.
pub(crate) struct ProducerTable {
    /// Read from the log when the first of them comes, and again after each revision.
    known: Mutex<Known>,
    /// Whether an idempotent producer may ever have written to the log.
    has_senders: AtomicBool,
    /// Held by the thread that reads, changes and replaces the side file.
    saving: Mutex<()>,
    /// How long the side file was when it was last written here.
    bytes: AtomicU64,
}

impl ProducerTable {
    pub(crate) fn new(has_senders: bool) -> Self {
        ProducerTable {
            known: Mutex::new(Rank::Producers, Known::default()),
            has_senders: AtomicBool::new(has_senders),
            saving: Mutex::new(Rank::SavingProducers, ()),
            bytes: AtomicU64::new(0),
        }
    }

    /// The length of the side file, as far as it was written here.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What is known of a log's named producers.
#[derive(Default)]
pub(super) struct Known {
    /// The revision of the log; `None` if nothing has been read. With the next revision it is worth nothing.
    revision: Option<u64>,
    producers: Producers,
    /// Up to where the side file covers it.
    saved: Option<Offset>,
}

/// A batch that may be appended. While this lives nobody else is judged, and nobody learns what there is.
pub(super) struct Judged<'a> {
    known: MutexGuard<'a, Known>,
    /// If it has sequences.
    claim: Option<Claim>,
}

impl Judged<'_> {
    /// Remembers the batch, which has been written.
    pub(super) fn note(&mut self, header: &BatchHeader) {
        let last = header.base_offset.plus(u64::from(header.last_offset_delta));
        if let Some(claim) = &self.claim {
            self.known.producers.note(claim, header.base_offset, last);
        }
    }
}

impl Log {
    /// What is known of named producers, read from the log if nothing is, or if the log was cut since. Asked before the
    /// writer's lock is taken, since that may read much; behind it only if the log was cut in between.
    fn known_producers(self: &Arc<Self>) -> Result<MutexGuard<'_, Known>> {
        let mut known = self.producers.known.lock();
        if known.revision == Some(self.revision()) {
            return Ok(known);
        }
        // IMPORTANT: what a scan finds is believed only if the log was not replaced meanwhile, because it may have seen batches
        // that are not in the log any more; and only if the log start has not moved, because it may have missed some that
        // only the side file now tells of.
        let (revision, found) = self.consistently(|| {
            let (revision, start) = (self.revision(), self.log_start());
            let found = self.find_producers()?;
            Ok((self.log_start() == start).then_some((revision, found)))
        })?;
        let (producers, saved) = found;
        if !producers.is_empty() {
            self.producers.has_senders.store(true, Ordering::Release);
        }
        *known = Known { revision: Some(revision), producers, saved };
        Ok(known)
    }

    /// Reads the side file, and after what it covers the headers of all batches that are visible:
    /// those of named producers are noted under the lock that they are written under, so what is
    /// not visible yet has been noted, or is cut off.
    fn find_producers(self: &Arc<Self>) -> Result<(Producers, Option<Offset>)> {
        match self.load_producers() {
            Some(Loaded { file, is_whole: true }) => {
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

    /// Notes the batches of named producers from `from`, or the log start if that is later, up to
    /// `to`. Of a batch across `to` only the records before it.
    fn scan_producers(self: &Arc<Self>, from: Offset, to: Offset, producers: &mut Producers) -> Result<()> {
        let mut cursor = Cursor::new(self.clone(), from.max(self.log_start()));
        loop {
            let header = match cursor.peek_any() {
                Ok(Some(header)) if header.base_offset < to => header,
                Ok(_) => return Ok(()),
                // Retention was faster.
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

    /// What the side file says, if it speaks of what is in this log. IMPORTANT: on any doubt it does not.
    fn load_producers(&self) -> Option<Loaded> {
        let path = self.manifest.dir().join(names::PRODUCERS);
        let bytes = read_file(&*self.ctx.storage, &path, u64::from(u32::MAX)).ok()?;
        let mut file = ProducersFile::decode(&bytes).ok()?;
        if file.topic_id != self.identity.topic_id || file.partition != self.identity.partition {
            return None;
        }
        // Of epochs before those that it lists the manifest does not say where they ended.
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
        Some(Loaded { file, is_whole })
    }

    /// Makes durable what the log's records before `upto`, which are about to go, say of named
    /// producers: their last batches before it. Before the manifest that lets the records go.
    /// `is_end` if the log is to end there, too.
    ///
    /// Costs nothing in a log that no named producer ever wrote to; otherwise the headers of the
    /// batches before `upto` are read.
    ///
    /// # Errors
    /// Those of reading, but for damage, of which nothing can be known; what the medium says.
    /// Nothing has changed.
    pub(super) fn keep_producers(self: &Arc<Self>, upto: Offset, is_end: bool) -> Result<()> {
        if !self.producers.has_senders.load(Ordering::Acquire) {
            return Ok(());
        }
        let _saving = self.producers.saving.lock();
        let loaded = self.load_producers();
        let mut below = Producers::default();
        let mut from = Offset::ZERO;
        while let Err(error) = self.scan_producers(from, upto, &mut below) {
            // Records that cannot be read must be able to go.
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
            Some(Loaded { file, is_whole: true }) if file.end_offset >= upto && !is_end => {
                let mut next = ProducersFile { log_epoch: epoch, ..file.clone() };
                below.newest().for_each(|(id, batch)| add_older(&mut next, id, batch));
                if next == file {
                    return Ok(());
                }
                next
            }
            _ => self.producers_file(epoch, upto, below.list()),
        };
        // It is written because records go: that frees space.
        let written = self.ctx.with_room(|| self.write_producers(&file));
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
        // Nothing of the log has changed: "replace" is not among the actions of unknown outcome.
        Error::replace(&self.ctx.display(&self.manifest.dir().join(names::PRODUCERS)), failed.error)
    }

    /// Notes, before the first batch of a named producer is written, that there are such batches
    /// here: by a side file that knows of none yet. A log without the file never had one, so
    /// nothing has to be kept when its records go. Under the writer's lock; the log has files.
    fn note_senders(&self) -> Result<()> {
        if self.producers.has_senders.load(Ordering::Acquire) {
            return Ok(());
        }
        let _saving = self.producers.saving.lock();
        // IMPORTANT: only up to the log start. If the file was removed by hand there may be such
        // batches.
        let file = self.producers_file(self.epoch(), self.log_start(), Vec::new());
        self.write_producers(&file).map_err(|e| self.producers_failed(e))?;
        self.producers.has_senders.store(true, Ordering::Release);
        Ok(())
    }

    /// What the side file is to say, if more is known than it says. To be [saved](Log::save_producers) once all below its
    /// end is on the medium.
    pub(super) fn unsaved_producers(&self) -> Option<ProducersFile> {
        let known = self.producers.known.lock();
        // Whoever appends moves the log's end under this lock, behind noting.
        let (log_epoch, end) = (self.epoch(), self.log_end());
        if known.revision != Some(self.revision()) || known.saved >= Some(end) || known.producers.is_empty() {
            return None;
        }
        Some(self.producers_file(log_epoch, end, known.producers.list()))
    }

    /// Writes the side file, all below the end of which is on the medium. What the file before says
    /// of records that have gone stays in it. It does not matter if it cannot be written, or if the
    /// log is cut meanwhile.
    pub(super) fn save_producers(&self, file: &ProducersFile) {
        let _saving = self.producers.saving.lock();
        let mut file = file.clone();
        let start = self.log_start();
        let loaded = self.load_producers();
        if loaded.as_ref().is_some_and(|known| known.is_whole && known.file.end_offset >= file.end_offset) {
            // It was replaced meanwhile, because records are about to go.
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

    /// The last sequence of a producer here, and where the record with a given one is.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn locate(
        self: &Arc<Self>,
        producer_id: u64,
        sequence: u64,
    ) -> Result<(Option<u64>, Located)> {
        let known = self.known_producers()?;
        Ok((known.producers.last_sequence(producer_id), known.producers.locate(producer_id, sequence)))
    }

    /// Judges a batch. Under the writer's lock.
    ///
    /// # Errors
    /// `Fenced`; `OutOfOrderSequence`, also for what is there already: the sender looks where it
    /// is; those of reading; what the medium says to the side file.
    pub(super) fn judge(self: &Arc<Self>, header: &BatchHeader, sender: &Sender<'_>) -> Result<Judged<'_>> {
        if sender.first.is_some() {
            self.note_senders()?;
        }
        // Without sequences nothing need be known.
        let known =
            if sender.first.is_some() { self.known_producers()? } else { self.producers.known.lock() };
        // IMPORTANT: behind that lock. Whoever takes the name over asks what there is, under the same lock: what an older
        // handle appends is seen by him, or is not appended any more.
        (sender.fence)()?;
        let claim = sender.first.map(|first| Claim {
            producer_id: header.producer_id,
            first,
            last: header.base_sequence,
        });
        match claim.as_ref().map_or(Ok(()), |claim| known.producers.check(claim)) {
            Ok(()) => Ok(Judged { known, claim }),
            Err(last) => {
                let sequence = sender.first.unwrap_or(header.base_sequence);
                let producer = sender.producer.clone();
                let TopicPartition { topic, partition } = self.identity.topic_partition();
                Err(Error::OutOfOrderSequence { producer, topic, partition, sequence, last: Some(last) })
            }
        }
    }
}

/// What a header says of its sender, as far as its records before `to` go, and the last offset of
/// those; `None` if it has no name, or if it cannot be said of a part.
fn claim_before(header: &BatchHeader, to: Offset) -> Option<(Claim, Offset)> {
    let dense = header.attributes.given_sequences().filter(|_| header.producer_id != 0)?;
    let gone = header.end_offset().since(to);
    if gone > 0 && !dense {
        return None;
    }
    // Of a batch with gaps only the last one is told.
    let last = header.base_sequence.checked_sub(gone)?;
    let span = u64::from(header.last_offset_delta).saturating_sub(gone);
    let first = if dense { last.saturating_sub(span) } else { last };
    Some((Claim { producer_id: header.producer_id, first, last }, header.base_offset.plus(span)))
}

/// Adds to a file the last batch of a producer of those that are gone, if no newer batch of those
/// lies in it.
fn add_older(file: &mut ProducersFile, id: u64, batch: Remembered) {
    if batch.last_offset >= file.end_offset {
        return;
    }
    let at = file.producers.partition_point(|(known, _)| *known < id);
    match file.producers.get_mut(at).filter(|(known, _)| *known == id) {
        Some((_, batches)) => {
            // The same batch may be listed in whole, or as far as it was before a log start.
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
