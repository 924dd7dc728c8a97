//! How does a log learn which batches of named producers it has? From its own headers, when the first such producer comes;
//! from then on each append is judged and noted. Logs that no named producer ever writes to never look.

use super::producers::{Claim, Located, Producers, Refusal, Sequencing, Verdict};
use super::{Appended, Log};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::log::cursor::Cursor;
use crate::sync::{Arc, MutexGuard};

/// What is to be done with a batch. While it lives nobody else is judged.
pub(super) enum Judged<'a> {
    /// To be appended, and then noted, if it is a named producer's.
    New(Option<Noting<'a>>),
    /// It is in the log already.
    Repetition(Appended),
}

/// The log's memory of producers, held.
pub(super) struct Noting<'a>(MutexGuard<'a, Option<Producers>>);

impl Noting<'_> {
    /// Remembers a batch that has been written.
    pub(super) fn note_batch(&mut self, header: &BatchHeader) {
        if let Some(producers) = &mut *self.0 {
            note(producers, header);
        }
    }
}

impl Log {
    /// Reads what there is of named producers, unless it is known. Before the writer's lock, since this may read much.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn know_producers(self: &Arc<Self>) -> Result<()> {
        let mut known = self.producers.lock();
        if known.is_some() {
            return Ok(());
        }
        let mut producers = Producers::default();
        let mut cursor = Cursor::new(self.clone(), self.log_start());
        while let Some(header) = cursor.peek_any()? {
            note(&mut producers, &header);
            cursor.pass(&header);
        }
        *known = Some(producers);
        Ok(())
    }

    /// The last sequence of a producer here, and where the record with a given one is.
    pub(crate) fn locate(&self, producer_id: u64, sequence: u64) -> (Option<u64>, Located) {
        match &*self.producers.lock() {
            Some(producers) => {
                (producers.last_sequence(producer_id), producers.locate(producer_id, sequence))
            }
            None => (None, Located::New),
        }
    }

    /// Judges a batch. Under the writer's lock.
    ///
    /// # Errors
    /// `Fenced`, `OutOfOrderSequence`.
    pub(super) fn judge(&self, header: &BatchHeader) -> Result<Judged<'_>> {
        let Some(claim) = claim(header) else { return Ok(Judged::New(None)) };
        let known = self.producers.lock();
        let Some(producers) = &*known else {
            // The log was cut since it was asked about its producers: the caller asks again.
            return Err(Error::OutOfOrderSequence { sequence: claim.first, last: None });
        };
        match producers.check(&claim) {
            Ok(Verdict::New) => Ok(Judged::New(Some(Noting(known)))),
            Ok(Verdict::Duplicate(batch)) => Ok(Judged::Repetition(Appended {
                base_offset: batch.base_offset,
                end: batch.last_offset.plus(1),
                epoch: self.epoch(),
                append_time: None,
            })),
            Err(Refusal::Fenced { .. }) => Err(Error::Fenced),
            Err(Refusal::OutOfOrder { last }) => {
                Err(Error::OutOfOrderSequence { sequence: claim.first, last })
            }
            Err(Refusal::Mixed) => Err(Error::OutOfOrderSequence { sequence: claim.first, last: None }),
        }
    }
}

fn note(producers: &mut Producers, header: &BatchHeader) {
    if let Some(claim) = claim(header) {
        let last = header.base_offset.plus(u64::from(header.last_offset_delta));
        producers.note(&claim, header.base_offset, last, header.max_timestamp);
    }
}

/// What a header says of its sender; `None` if it has no name.
fn claim(header: &BatchHeader) -> Option<Claim> {
    let dense = header.attributes.given_sequences().filter(|_| header.producer_id != 0)?;
    let last = header.base_sequence;
    // Of a batch with gaps only the last one is told.
    let first = if dense { last.saturating_sub(u64::from(header.last_offset_delta)) } else { last };
    Some(Claim {
        producer_id: header.producer_id,
        epoch: header.producer_epoch,
        sequencing: Sequencing::Given,
        first,
        last,
    })
}
