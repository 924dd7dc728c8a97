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

/// A part while its log's writer is locked.
pub(crate) struct HeldPart<'a> {
    log: &'a Arc<Log>,
    /// Its index among the parts in the caller's order.
    place: usize,
    tip: MutexGuard<'a, Tip>,
    settings: Arc<LogSettings>,
    batch: Option<SealedBatch>,
    keys: Vec<KeyCount>,
    conditions: Conditions,
    /// The versions of the streams of the conditions.
    versions: Vec<Version>,
    filled: Option<Filled>,
    /// The file that the batch is written to. IMPORTANT: opened before the record is written, so
    /// that only the write can fail after that.
    file: Option<Arc<dyn File>>,
}

/// Locks the writers of all logs, in their order, once all conditions hold.
pub(crate) fn hold(logs: &[Arc<Log>], parts: Vec<Part>) -> Result<Vec<HeldPart<'_>>> {
    let mut order: Vec<(usize, Part, Vec<KeyCount>, &Arc<Log>)> = Vec::with_capacity(parts.len());
    for (place, (part, log)) in parts.into_iter().zip(logs).enumerate() {
        let keys = part
            .batch
            .as_ref()
            .map(|batch| streams::keys_of(log, &log.settings(), &batch.header, batch.records()));
        order.push((place, part, keys.unwrap_or_default(), log));
    }
    order.sort_by_key(|(_, _, _, log)| (log.identity().topic_id, log.partition()));
    loop {
        // Count with no writer locked, because that may read files.
        let mut counted = Vec::with_capacity(order.len());
        for (_, part, _, log) in &order {
            let of_part = part.conditions.streams.iter().map(|stream| streams::count_before(log, stream));
            counted.push(of_part.collect::<Result<Vec<_>>>()?);
        }
        let writers: Vec<_> = order.iter().map(|(_, _, _, log)| log.writer.lock()).collect();
        let mut versions = Vec::with_capacity(order.len());
        for (((_, part, _, log), counted), tip) in order.iter().zip(&counted).zip(&writers) {
            versions.push(check(log, part, counted, tip)?);
        }
        let Some(versions) = versions.into_iter().collect::<Option<Vec<_>>>() else { continue };
        let held = order.into_iter().zip(writers).zip(versions);
        return Ok(held
            .map(|(((place, part, keys, log), tip), versions)| {
                let Part { batch, conditions, .. } = part;
                let settings = log.settings();
                HeldPart {
                    log,
                    place,
                    tip,
                    settings,
                    batch,
                    keys,
                    conditions,
                    versions,
                    filled: None,
                    file: None,
                }
            })
            .collect());
    }
}

/// Returns the versions of the streams that a part has conditions on; `None` if they must be
/// counted again.
///
/// # Errors
/// A condition does not hold, or the log cannot take the part.
fn check(log: &Log, part: &Part, counted: &[Counted], tip: &Tip) -> Result<Option<Vec<Version>>> {
    log.check_writable()?;
    if let Some(expected) = part.conditions.end.filter(|end| *end != tip.point.end) {
        return Err(log.conflict(expected, tip.point.end));
    }
    if let Some(batch) = &part.batch {
        let settings = log.settings();
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
        let Some(batch) = &mut self.batch else { return Ok(None) };
        set_append_time(self.log, &mut batch.header, &self.settings);
        let rolled = roll_if_due(self.log, &mut self.tip, &batch.header, batch.stored.len(), &self.settings)?;
        self.file = Some(self.tip.segment.file(self.log.ctx())?);
        Ok(rolled)
    }

    pub(crate) fn fill(&mut self, transaction: u64) {
        if let Some(batch) = &mut self.batch {
            batch.header.transaction_id = transaction;
            self.filled = fill_header(self.log, &self.tip, &mut batch.header, &mut batch.stored);
        }
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

    pub(crate) fn involved(&self) -> Option<Involved> {
        let header = self.batch.as_ref()?.header;
        Some(Involved { log: self.log.clone(), before: header.base_offset, end: header.end_offset() })
    }

    /// Writes the batch. The error contains how many bytes were written.
    pub(crate) fn write(&self) -> Result<(), (usize, std::io::Error)> {
        let (Some(batch), Some(file)) = (&self.batch, &self.file) else { return Ok(()) };
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
        if let (Some(batch), Some(filled)) = (&self.batch, self.filled) {
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
        let SealedBatch { header, stored, raw, .. } = self.batch.take()?;
        if self.log.waiters.any() {
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
#[derive(Clone)]
pub(crate) struct Involved {
    pub(crate) log: Arc<Log>,
    /// The offset at which it begins.
    pub(crate) before: Offset,
    pub(crate) end: Offset,
}
