//! The part of a log in a transaction.

use std::path::PathBuf;

use super::roll::roll_if_due;
use super::streams::{Counted, StreamCondition};
use super::write::{Filled, advance, fill_header, remember, set_append_time, write_failed};
use super::{Appended, Log, LogSettings, streams};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::journal::CommittedPart;
use crate::log::writer::Tip;
use crate::segment::builder::SealedBatch;
use crate::segment::keys::KeyCount;
use crate::stats::Event;
use crate::storage::{File, write_all_at};
use crate::sync::{Arc, MutexGuard};
use crate::types::Offset;
use crate::version::Version;

/// The part of a transaction in one log. A log has at most one part.
pub(crate) struct Part {
    pub(crate) log: Arc<Log>,
    pub(crate) batch: Option<SealedBatch>,
    pub(crate) conditions: Conditions,
}

/// The conditions on a log. If one does not hold, no log is changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// The log must end here.
    pub(crate) end: Option<Offset>,
    /// Its streams must be as expected, one after the other.
    pub(crate) streams: Vec<StreamCondition>,
}

/// A part before its log's writer is locked.
struct EnteringPart<'a> {
    log: &'a Arc<Log>,
    /// Its index among the parts in the caller's order.
    place: usize,
    batch: &'a mut Option<SealedBatch>,
    keys: Vec<KeyCount>,
    conditions: &'a Conditions,
}

/// A part while its log's writer is locked.
pub(crate) struct HeldPart<'a> {
    log: &'a Arc<Log>,
    place: usize,
    tip: MutexGuard<'a, Tip>,
    settings: Arc<LogSettings>,
    batch: &'a mut Option<SealedBatch>,
    keys: Vec<KeyCount>,
    conditions: &'a Conditions,
    /// The versions of the streams of the conditions.
    versions: Vec<Version>,
    filled: Option<Filled>,
    /// The file that the batch is written to. IMPORTANT: opened before the record is written, so
    /// that only the write can fail after that.
    file: Option<Arc<dyn File>>,
}

/// Locks the writers of all logs, in their order, once all conditions hold.
pub(crate) fn hold(parts: &mut [Part]) -> Result<Vec<HeldPart<'_>>> {
    let mut order = Vec::with_capacity(parts.len());
    for (place, Part { log, batch, conditions }) in parts.iter_mut().enumerate() {
        let keys = batch
            .as_ref()
            .map(|batch| streams::keys_of(log, &log.settings(), &batch.header, batch.records()));
        order.push(EnteringPart { log, place, batch, keys: keys.unwrap_or_default(), conditions });
    }
    order.sort_by_key(|part| (part.log.identity().topic_id, part.log.partition()));
    loop {
        // Count with no writer locked, because that may read files.
        let mut counted = Vec::with_capacity(order.len());
        for EnteringPart { log, conditions, .. } in &order {
            let of_part = conditions.streams.iter().map(|stream| streams::count_before(log, stream));
            counted.push(of_part.collect::<Result<Vec<_>>>()?);
        }
        let writers: Vec<_> = order.iter().map(|part| part.log.writer.lock_for_transaction()).collect();
        let mut checked = Vec::with_capacity(order.len());
        for ((part, counted), tip) in order.iter().zip(&counted).zip(&writers) {
            let settings = part.log.settings();
            checked.extend(check(part, counted, tip, &settings)?.map(|versions| (settings, versions)));
        }
        if checked.len() < order.len() {
            continue;
        }
        let held = order.into_iter().zip(writers).zip(checked).map(|((part, tip), (settings, versions))| {
            let EnteringPart { log, place, batch, keys, conditions } = part;
            let (filled, file) = (None, None);
            HeldPart { log, place, tip, settings, batch, keys, conditions, versions, filled, file }
        });
        return Ok(held.collect());
    }
}

/// Returns the versions of the streams that a part has conditions on; `None` if they must be
/// counted again.
///
/// # Errors
/// A condition does not hold, or the log cannot take the part.
fn check(
    part: &EnteringPart<'_>,
    counted: &[Counted],
    tip: &Tip,
    settings: &LogSettings,
) -> Result<Option<Vec<Version>>> {
    let log = part.log;
    log.check_writable()?;
    if let Some(expected) = part.conditions.end.filter(|end| *end != tip.point.end) {
        return Err(log.conflict(expected, tip.point.end));
    }
    if let Some(batch) = part.batch.as_ref() {
        let (size, limit) = (batch.stored.len(), settings.max_batch_bytes());
        if size > limit {
            let partition = Some(log.identity().topic_partition());
            return Err(Error::TransactionTooLarge { partition, size, limit });
        }
        settings.check_keys(log.topic(), batch.keyless)?;
    }
    let streams = part.conditions.streams.iter().zip(counted);
    streams.map(|(condition, counted)| streams::check_condition(log, tip, condition, counted)).collect()
}

impl HeldPart<'_> {
    pub(crate) fn roll(&mut self) -> Result<Option<Event>> {
        let Some(batch) = self.batch.as_mut() else { return Ok(None) };
        set_append_time(self.log, &mut batch.header, &self.settings);
        let rolled = roll_if_due(self.log, &mut self.tip, &batch.header, batch.stored.len(), &self.settings)?;
        self.file = Some(self.tip.segment.file(self.log.ctx())?);
        Ok(rolled)
    }

    pub(crate) fn fill(&mut self, transaction: u64) {
        if let Some(batch) = self.batch.as_mut() {
            batch.header.transaction_id = transaction;
            self.filled = fill_header(self.log, &self.tip, &mut batch.header, &mut batch.stored);
        }
    }

    /// Returns whether the batch is hidden from readers until a sync.
    pub(crate) fn hides_records(&self) -> bool {
        self.batch.is_some() && self.settings.durability == Durability::Sync
    }

    pub(crate) fn committed(&self) -> Option<CommittedPart<'_>> {
        let batch = self.batch.as_ref()?;
        Some(CommittedPart {
            topic: self.log.identity().topic_id,
            partition: self.log.partition(),
            base_offset: batch.header.base_offset,
            batch: &batch.stored,
        })
    }

    pub(crate) fn involved(&self) -> Option<InvolvedBatch<'_>> {
        let header = &self.batch.as_ref()?.header;
        Some(InvolvedBatch { log: self.log, before: header.base_offset, end: header.end_offset() })
    }

    /// Writes the batch. The error contains how many bytes were written.
    pub(crate) fn write(&self) -> Result<(), (usize, std::io::Error)> {
        let (Some(batch), Some(file)) = (self.batch.as_ref(), &self.file) else { return Ok(()) };
        write_all_at(&**file, &batch.stored, self.tip.point.position)
    }

    /// Handles the failed write of a single batch, as for any append.
    pub(crate) fn write_failed(&self, written: usize, e: std::io::Error) -> Error {
        match &self.file {
            Some(file) => write_failed(self.log, &self.tip, &**file, written, e),
            None => Error::Closed,
        }
    }

    pub(crate) fn advance(&mut self, journal: Option<u64>) {
        if let (Some(batch), Some(filled)) = (self.batch.as_ref(), self.filled) {
            let stored = batch.stored.len() as u64;
            let interval = self.settings.index_interval_bytes;
            advance(self.log, &mut self.tip, &batch.header, filled.crc, stored, &self.keys, interval);
            for (condition, version) in self.conditions.streams.iter().zip(&self.versions) {
                streams::note_version(&self.tip, condition, *version, &self.keys);
            }
            self.tip.journal_upto = journal.unwrap_or(self.tip.journal_upto);
        }
    }

    /// Makes the batch visible to readers, unless it must wait for a sync. Returns the index of the
    /// part, and the position of the batch.
    pub(crate) fn publish(&mut self) -> Option<(usize, Appended)> {
        let header = self.batch.as_ref()?.header;
        if self.log.waiters.any()
            && let Some(SealedBatch { stored, raw, .. }) = self.batch.take()
        {
            remember(self.log, &self.tip, header, stored, raw);
        }
        self.tip.ends.note_written(header.end_offset(), self.settings.durability != Durability::Sync);
        let append_time = header.attributes.append_time().then_some(header.max_timestamp);
        let appended = Appended {
            base_offset: header.base_offset,
            end: header.end_offset(),
            epoch: header.log_epoch,
            append_time,
        };
        Some((self.place, appended))
    }

    /// Returns the file that the batch is written to, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.log.ctx.display(&self.tip.segment.path)
    }

    /// Poisons the log, because the write of a batch failed after the journal's record was written.
    pub(crate) fn poison(&self, error: &Error) {
        if self.batch.is_some() {
            self.log.poison(error.clone());
        }
    }
}

/// A batch of a transaction.
pub(crate) struct InvolvedBatch<'a> {
    pub(crate) log: &'a Arc<Log>,
    /// The offset at which it begins.
    pub(crate) before: Offset,
    pub(crate) end: Offset,
}

impl InvolvedBatch<'_> {
    pub(crate) fn to_run(&self) -> Involved {
        Involved { log: self.log.clone(), before: self.before, end: self.end }
    }
}

/// Batches of transactions that follow each other in one log without a gap.
#[derive(Clone)]
pub(crate) struct Involved {
    pub(crate) log: Arc<Log>,
    /// The offset at which the first one begins.
    pub(crate) before: Offset,
    pub(crate) end: Offset,
}

impl Involved {
    pub(crate) fn is_of(&self, log: &Arc<Log>) -> bool {
        Arc::ptr_eq(&self.log, log)
    }
}
