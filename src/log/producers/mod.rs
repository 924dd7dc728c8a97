//! The state of a log's idempotent producers: the table of their batches, its lock, and the side
//! file. Knows no log; [`idempotence`](super::idempotence) reads the batches, and checks new ones.

mod table;

use std::path::Path;

pub(crate) use self::table::{Located, Producers, SequenceClaim};
use crate::engine::{Context, Identity};
use crate::error::Result;
use crate::format::batch::BatchHeader;
use crate::format::names;
use crate::format::producers::{ProducersFile, REMEMBERED, Remembered};
use crate::storage::{ReplaceError, read_file, replace_file};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, Rank};
use crate::types::Offset;

/// The sender of a batch, as far as the header does not have it: an idempotent producer.
pub(crate) struct Sender<'a> {
    /// The sequence of its first record, if its records have sequences.
    pub(crate) producer: &'a Arc<str>,
    pub(crate) first: Option<u64>,
    /// Returns an error if the sender has lost its name to a newer one.
    pub(crate) fence: &'a dyn Fn() -> Result<()>,
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

    /// Locks the known batches. They may be out of date.
    pub(crate) fn lock(&self) -> MutexGuard<'_, KnownProducers> {
        self.known.lock()
    }

    /// Returns whether an idempotent producer may have written to the log.
    pub(crate) fn has_senders(&self) -> bool {
        self.has_senders.load(Ordering::Acquire)
    }

    /// Notes that an idempotent producer may write to the log.
    pub(crate) fn note_senders(&self) {
        self.has_senders.store(true, Ordering::Release);
    }

    /// Takes the lock for reading, changing and replacing the side file.
    pub(crate) fn lock_file(&self) -> MutexGuard<'_, ()> {
        self.saving.lock()
    }

    /// Returns the length of the side file, if it was written since the log was opened.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Replaces the side file in the partition's directory `dir`, durably.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn write_file(
        &self,
        ctx: &Context,
        dir: &Path,
        file: &ProducersFile,
    ) -> std::result::Result<(), ReplaceError> {
        let bytes = file.encode();
        self.bytes.store(bytes.len() as u64, Ordering::Relaxed);
        replace_file(&*ctx.storage, &dir.join(names::PRODUCERS), &bytes)
    }
}

/// The known batches of a log's idempotent producers.
#[derive(Default)]
pub(crate) struct KnownProducers {
    /// The revision of the log; `None` if nothing was read. After the next revision the value is
    /// out of date.
    pub(crate) revision: Option<u64>,
    pub(crate) producers: Producers,
    /// Up to where the side file covers it.
    pub(crate) saved: Option<Offset>,
}

/// A batch that may be appended. While it lives no other batch is checked, and no thread reads the
/// table.
pub(crate) struct Checked<'a> {
    pub(crate) known: MutexGuard<'a, KnownProducers>,
    /// The sequences of the batch, if it has some.
    pub(crate) claim: Option<SequenceClaim>,
}

impl Checked<'_> {
    /// Records the batch, which has been written.
    pub(crate) fn note(&mut self, header: &BatchHeader) {
        let last = header.base_offset.plus(u64::from(header.last_offset_delta));
        if let Some(claim) = &self.claim {
            self.known.producers.note(claim, header.base_offset, last);
        }
    }
}

/// Reads the side file in a partition's directory. IMPORTANT: returns `None` if it is damaged, or
/// of another partition: then all batches are read from the log.
pub(crate) fn read_side_file(ctx: &Context, dir: &Path, identity: &Identity) -> Option<ProducersFile> {
    let bytes = read_file(&*ctx.storage, &dir.join(names::PRODUCERS), u64::from(u32::MAX)).ok()?;
    let file = ProducersFile::decode(&bytes).ok()?;
    let is_own = file.topic_id == identity.topic_id && file.partition == identity.partition;
    is_own.then_some(file)
}

/// Returns the sequences of a batch's records before `to`, and the last offset of those records.
/// Returns `None` if the batch has no idempotent producer, or if the sequences of the part are
/// unknown.
pub(crate) fn claim_before(header: &BatchHeader, to: Offset) -> Option<(SequenceClaim, Offset)> {
    let dense = header.attributes.given_sequences().filter(|_| header.producer_id != 0)?;
    let gone = header.end_offset().since(to);
    if gone > 0 && !dense {
        return None;
    }
    // For a batch with gaps between its sequences the header has only the last one.
    let last = header.base_sequence.checked_sub(gone)?;
    let span = u64::from(header.last_offset_delta).saturating_sub(gone);
    let first = if dense { last.saturating_sub(span) } else { last };
    Some((SequenceClaim { producer_id: header.producer_id, first, last }, header.base_offset.plus(span)))
}

/// Adds the last batch of a producer's deleted records to a file, unless the file has a newer one
/// of them.
pub(crate) fn add_older(file: &mut ProducersFile, id: u64, batch: Remembered) {
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
