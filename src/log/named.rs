//! How does a log learn which batches of named producers it has? From its own headers, when the first such producer comes;
//! from then on each append is judged and noted. Logs that no named producer ever writes to never look.

use super::Log;
use super::producers::{Claim, Located, Producers, Refusal, Sequencing, Verdict};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::log::cursor::Cursor;
use crate::sync::{Arc, MutexGuard};

/// Who sends a batch, as far as its header does not say.
pub(crate) struct Sender<'a> {
    /// The sequence of its first record.
    pub(crate) first: u64,
    /// Whether it may still send.
    pub(crate) fence: &'a dyn Fn() -> Result<()>,
}

/// A batch that may be appended. While this lives nobody else is judged, and nobody learns what there is.
pub(super) struct Judged<'a> {
    known: MutexGuard<'a, Option<Producers>>,
    claim: Claim,
}

impl Judged<'_> {
    /// Remembers the batch, which has been written.
    pub(super) fn note(mut self, header: &BatchHeader) {
        let last = header.base_offset.plus(u64::from(header.last_offset_delta));
        if let Some(producers) = &mut *self.known {
            producers.note(&self.claim, header.base_offset, last, header.max_timestamp);
        }
    }
}

impl Log {
    /// What is known of named producers, read from the log if nothing is. Asked before the writer's lock is taken, since
    /// that may read much; behind it only if the log was cut in between.
    fn known_producers(self: &Arc<Self>) -> Result<MutexGuard<'_, Option<Producers>>> {
        let mut known = self.producers.lock();
        if known.is_none() {
            let mut producers = Producers::default();
            let mut cursor = Cursor::new(self.clone(), self.log_start());
            while let Some(header) = cursor.peek_any()? {
                if let Some(claim) = claim(&header) {
                    let last = header.base_offset.plus(u64::from(header.last_offset_delta));
                    producers.note(&claim, header.base_offset, last, header.max_timestamp);
                }
                cursor.pass(&header);
            }
            *known = Some(producers);
        }
        Ok(known)
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
        let found = known
            .as_ref()
            .map(|known| (known.last_sequence(producer_id), known.locate(producer_id, sequence)));
        Ok(found.unwrap_or((None, Located::New)))
    }

    /// Judges a batch. Under the writer's lock.
    ///
    /// # Errors
    /// `Fenced`; `OutOfOrderSequence`, also for what is there already: the sender looks where it is; those of reading.
    pub(super) fn judge(self: &Arc<Self>, header: &BatchHeader, sender: &Sender<'_>) -> Result<Judged<'_>> {
        let known = self.known_producers()?;
        // IMPORTANT: behind that lock. Whoever takes the name over asks what there is, under the same lock: what an older
        // handle appends is seen by him, or is not appended any more.
        (sender.fence)()?;
        let claim = Claim {
            producer_id: header.producer_id,
            epoch: header.producer_epoch,
            sequencing: Sequencing::Given,
            first: sender.first,
            last: header.base_sequence,
        };
        let refused = |last| Error::OutOfOrderSequence { sequence: claim.first, last };
        let verdict = known.as_ref().map_or(Ok(Verdict::New), |known| known.check(&claim));
        match verdict {
            Ok(Verdict::New) => Ok(Judged { known, claim }),
            Ok(Verdict::Duplicate(batch)) => Err(refused(Some(batch.last))),
            Err(Refusal::Fenced { .. }) => Err(Error::Fenced),
            Err(Refusal::OutOfOrder { last }) => Err(refused(last)),
            Err(Refusal::Mixed) => Err(refused(None)),
        }
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
