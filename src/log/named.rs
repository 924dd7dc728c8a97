//! How does a log learn which batches of named producers it has? From its own headers, when the first such producer comes;
//! from then on each append is judged and noted. Logs that no named producer ever writes to never look.

use super::Log;
use super::producers::{Claim, Located, Producers};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::log::cursor::Cursor;
use crate::sync::{Arc, MutexGuard};

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
                *known = Known { cuts: Some(cuts), producers: found? };
                return Ok(known);
            }
        }
    }

    /// Reads the headers of all batches that are visible: those of named producers are noted under the lock that they are
    /// written under, so what is not visible yet has been noted, or is cut off.
    fn find_producers(self: &Arc<Self>) -> Result<Producers> {
        let mut producers = Producers::default();
        let mut cursor = Cursor::new(self.clone(), self.log_start());
        loop {
            let header = match cursor.peek_any() {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(producers),
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
