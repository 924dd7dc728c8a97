//! How does a log learn which batches of named producers it has? From its own headers, when the first such producer comes,
//! and for most of them from a side file; from then on each append is judged and noted. Logs that no named producer ever
//! writes to never look.

use super::Log;
use super::producers::{Claim, Located, Producers};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::format::names;
use crate::format::producers::ProducersFile;
use crate::log::cursor::Cursor;
use crate::storage::{OpenMode, read_file, write_all_at};
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::Offset;

/// Who sends a batch, as far as its header does not say: a producer with a name.
pub(crate) struct Sender<'a> {
    /// The sequence of its first record, if its records have any.
    pub(crate) first: Option<u64>,
    /// Whether it may still send.
    pub(crate) fence: &'a dyn Fn() -> Result<()>,
}

/// What is known of a log's named producers.
#[derive(Default)]
pub(super) struct Known {
    /// How often the log had been cut; `None` if nothing has been read. With each cut it is worth nothing any more.
    cuts: Option<u64>,
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
        let mut known = self.producers.lock();
        loop {
            let cuts = self.cuts();
            if known.cuts == Some(cuts) {
                return Ok(known);
            }
            let found = self.find_producers();
            // IMPORTANT: behind the scan. One that the log was cut under has seen what is not in it any more.
            if self.cuts() == cuts {
                let (producers, saved) = found?;
                *known = Known { cuts: Some(cuts), producers, saved };
                return Ok(known);
            }
        }
    }

    /// Reads the side file, and behind what it covers the headers of all batches that are visible: those of named producers
    /// are noted under the lock that they are written under, so what is not visible yet has been noted, or is cut off.
    fn find_producers(self: &Arc<Self>) -> Result<(Producers, Option<Offset>)> {
        let (mut producers, saved) = match self.load_producers() {
            Some(file) => (Producers::new(file.producers), Some(file.end_offset)),
            None => (Producers::default(), None),
        };
        let mut cursor = Cursor::new(self.clone(), self.log_start().max(saved.unwrap_or(Offset::ZERO)));
        loop {
            let header = match cursor.peek_any() {
                Ok(Some(header)) => header,
                Ok(None) => return Ok((producers, saved)),
                // Retention was faster.
                Err(_) if cursor.offset() < self.log_start() => {
                    cursor.go_to(self.log_start());
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(claim) = claim(&header) {
                let last = header.base_offset.plus(u64::from(header.last_offset_delta));
                producers.note(&claim, header.base_offset, last);
            }
            cursor.pass(&header);
        }
    }

    /// What the side file says, if it speaks of what is in this log. IMPORTANT: on any doubt it does not.
    fn load_producers(&self) -> Option<ProducersFile> {
        let path = self.dir.join(names::PRODUCERS);
        let bytes = read_file(&*self.ctx.storage, &path, u64::from(u32::MAX)).ok()?;
        let file = ProducersFile::decode(&bytes).ok()?;
        let is_ours = file.topic_id == self.identity.topic_id && file.partition == self.identity.partition;
        // Of epochs before those that it lists the manifest does not say where they ended.
        let is_known = {
            let manifest = self.manifest.get();
            let oldest = manifest.epochs.first().map_or(u32::MAX, |oldest| oldest.epoch);
            (oldest..=manifest.epoch()).contains(&file.log_epoch)
        };
        let is_part = is_ours
            && is_known
            && file.end_offset <= self.visible_end()
            && self.check_position(file.end_offset, file.log_epoch).is_ok();
        is_part.then_some(file)
    }

    /// What the side file is to say, if more is known than it says. To be [saved](Log::save_producers) once all below its
    /// end is on the medium.
    pub(super) fn unsaved_producers(&self) -> Option<ProducersFile> {
        let known = self.producers.lock();
        // Whoever appends moves the log's end under this lock, behind noting.
        let (log_epoch, end) = (self.epoch(), Offset::new(self.log_end.load(Ordering::Acquire)));
        if known.cuts != Some(self.cuts()) || known.saved >= Some(end) {
            return None;
        }
        Some(ProducersFile {
            topic_id: self.identity.topic_id,
            partition: self.identity.partition,
            log_epoch,
            end_offset: end,
            producers: known.producers.list(),
        })
    }

    /// Writes the side file, all below the end of which is on the medium. It is not synced: what a power loss leaves of it is
    /// believed if it is whole. Nor does it matter if it cannot be written, or if the log is cut meanwhile.
    pub(super) fn save_producers(&self, file: &ProducersFile) {
        let path = self.dir.join(names::PRODUCERS);
        let opened = self.ctx.storage.open(&path, OpenMode::Truncate);
        match opened.and_then(|out| write_all_at(&*out, &file.encode(), 0).map_err(|(_, e)| e)) {
            Ok(()) => {
                let mut known = self.producers.lock();
                if self.epoch() == file.log_epoch {
                    known.saved = Some(file.end_offset);
                }
            }
            Err(_) => drop(self.ctx.storage.remove_file(&path)),
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
    /// `Fenced`; `OutOfOrderSequence`, also for what is there already: the sender looks where it is; those of reading.
    pub(super) fn judge(self: &Arc<Self>, header: &BatchHeader, sender: &Sender<'_>) -> Result<Judged<'_>> {
        // Without sequences nothing need be known.
        let known = if sender.first.is_some() { self.known_producers()? } else { self.producers.lock() };
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
                Err(Error::OutOfOrderSequence { sequence, last: Some(last) })
            }
        }
    }
}

/// What a header says of its sender; `None` if it has no name.
fn claim(header: &BatchHeader) -> Option<Claim> {
    let dense = header.attributes.given_sequences().filter(|_| header.producer_id != 0)?;
    let last = header.base_sequence;
    // Of a batch with gaps only the last one is told.
    let first = if dense { last.saturating_sub(u64::from(header.last_offset_delta)) } else { last };
    Some(Claim { producer_id: header.producer_id, first, last })
}
