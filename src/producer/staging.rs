//! How are many records sent as one call? They are encoded on the side and handed to the buffers
//! when all are valid.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use super::batch::{BatchLimits, OpenBatch};
use super::buffer::{PartitionBuffer, Sticking};
use super::core::Core;
use super::outcome::BatchState;
use super::pending::{Pending, Wait};
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::log::Appended;
use crate::partitioner::Sticky;
use crate::segment::builder::Measured;
use crate::sync::Arc;
use crate::types::{Receipt, Timestamp};

/// Records that no other thread sees yet. Dropping it discards them.
pub(super) struct Staging<'a> {
    core: &'a Arc<Core>,
    sticky: &'a Sticky,
    partitions: u32,
    /// Where records without a key go, and how many of their bytes are there.
    stuck_to: Option<(u32, usize)>,
    /// In the order of their first records.
    parts: Vec<StagedPart>,
    /// The index in `parts` of each partition.
    known: BTreeMap<u32, usize>,
    /// The index in `parts` of the last record's partition, which most often is the next one's too.
    current: usize,
    runs: Vec<StagedRun>,
    /// The lengths of all records.
    bytes: usize,
}

/// The records of one partition: full batches, and the last one.
struct StagedPart {
    partition: u32,
    buffer: Arc<PartitionBuffer>,
    compression: Compression,
    limits: BatchLimits,
    batches: Vec<OpenBatch>,
    /// The index among the batches of the call of its first one, once they are handed over.
    first_home: usize,
}

/// Records that follow each other, in the order of sending and in their staged batch, with one
/// time. So the acknowledgement keeps a few words a batch, and not a few a record.
struct StagedRun {
    part: usize,
    /// The index of the batch in its part.
    batch: usize,
    /// The index in the batch of the first of them.
    first: u32,
    count: u32,
    timestamp: Timestamp,
}

/// As [`StagedRun`], once the batches are handed over.
struct Run {
    /// The index of the batch among those of the call.
    home: usize,
    /// The index in that batch of the first of them.
    first: u32,
    count: u32,
    timestamp: Timestamp,
}

impl<'a> Staging<'a> {
    pub(super) fn new(core: &'a Arc<Core>, sticky: &'a Sticky, partitions: u32) -> Self {
        Staging {
            core,
            sticky,
            partitions,
            stuck_to: None,
            parts: Vec::new(),
            known: BTreeMap::new(),
            current: 0,
            runs: Vec::new(),
            bytes: 0,
        }
    }

    /// The partition of the next record without a key: another one after each batch's worth.
    #[inline]
    pub(super) fn sticky_partition(&mut self, len: usize) -> u32 {
        let (partition, produced) = match self.stuck_to {
            Some((partition, produced)) if Sticky::is_time(produced, self.core.config.batch_bytes, true) => {
                (self.sticky.leave(partition, self.partitions), 0)
            }
            Some(stuck) => stuck,
            None => (self.sticky.current(self.partitions), 0),
        };
        self.stuck_to = Some((partition, produced + len));
        partition
    }

    /// Encodes a record for a partition, whose buffer is fetched for the first one.
    ///
    /// # Errors
    /// It is too large, or all together do not fit the producer's buffer.
    #[inline]
    pub(super) fn push(
        &mut self,
        partition: u32,
        record: &Measured<'_>,
        timestamp: Timestamp,
        buffer: impl FnOnce() -> Result<Arc<PartitionBuffer>>,
    ) -> Result<()> {
        let len = record.len();
        self.bytes = self.bytes.saturating_add(len);
        if self.parts.get(self.current).is_none_or(|part| part.partition != partition) {
            self.turn_to(partition, buffer)?;
        }
        let lost = || Error::internal("the buffer of a record's partition was fetched before");
        let part = self.parts.get_mut(self.current).ok_or_else(lost)?;
        if self.bytes > self.core.config.buffer_bytes && len <= part.limits.record {
            return Err(self.core.full());
        }
        if !part.batches.last().is_some_and(|batch| batch.fits(len)) {
            part.open(self.core, len, timestamp)?;
        }
        let open = part.batches.last_mut().ok_or_else(lost)?;
        let index = open.push(record, timestamp);
        let batch = part.batches.len().saturating_sub(1);
        let place = (self.current, batch, timestamp);
        match self.runs.last_mut() {
            Some(run) if (run.part, run.batch, run.timestamp) == place && run.first + run.count == index => {
                run.count += 1;
            }
            _ => {
                self.runs.push(StagedRun { part: self.current, batch, first: index, count: 1, timestamp });
            }
        }
        Ok(())
    }

    /// Makes this partition the current one.
    #[cold]
    fn turn_to(
        &mut self,
        partition: u32,
        buffer: impl FnOnce() -> Result<Arc<PartitionBuffer>>,
    ) -> Result<()> {
        self.current = match self.known.get(&partition) {
            Some(at) => *at,
            None => {
                let buffer = buffer()?;
                let settings = buffer.sink().batch_settings();
                let limits = BatchLimits::new(self.core, &settings);
                let compression = settings.compression;
                let batches = Vec::new();
                let part = StagedPart { partition, buffer, compression, limits, batches, first_home: 0 };
                self.parts.push(part);
                let at = self.parts.len().saturating_sub(1);
                self.known.insert(partition, at);
                at
            }
        };
        Ok(())
    }

    /// Hands everything to the buffers; from here on nothing is refused.
    pub(super) fn publish(mut self) -> Pending<Vec<Receipt>> {
        let mut sealed = Vec::new();
        let mut homes: Vec<(Arc<BatchState>, u32)> = Vec::new();
        let choice = Sticking { sticky: self.sticky, partitions: self.partitions };
        for (partition, at) in self.known {
            let Some(part) = self.parts.get_mut(at) else { continue };
            part.first_home = homes.len();
            let stuck =
                self.stuck_to.map_or(0, |(stuck_to, bytes)| if stuck_to == partition { bytes } else { 0 });
            let batches = std::mem::take(&mut part.batches);
            part.buffer.adopt(batches, (stuck, choice), &mut homes, &mut sealed);
        }
        for sealed in sealed {
            sealed.compress(None);
        }
        let staged = self.runs.len();
        let adopted = |run: StagedRun| {
            let home = self.parts.get(run.part)?.first_home + run.batch;
            let (_, first) = homes.get(home)?;
            Some(Run { home, first: first + run.first, count: run.count, timestamp: run.timestamp })
        };
        let runs: Vec<_> = self.runs.into_iter().filter_map(adopted).collect();
        debug_assert_eq!(runs.len(), staged, "each record was adopted with its batch");
        let batches = homes.into_iter().map(|(state, _)| state).collect();
        Pending::other(ManyWait { runs, batches, reported: false })
    }
}

impl StagedPart {
    /// Adds a batch for a record that the last one has no room for.
    ///
    /// # Errors
    /// The record is too large for any.
    #[cold]
    fn open(&mut self, core: &Arc<Core>, len: usize, timestamp: Timestamp) -> Result<()> {
        if len > self.limits.record {
            return Err(self.buffer.too_large(len, self.limits.record));
        }
        // The first may then be appended to the open batch by copying.
        let base = if self.batches.is_empty() { self.buffer.base_timestamp() } else { None };
        let state = Arc::new(BatchState::new(self.buffer.clone()));
        let base = base.unwrap_or(timestamp);
        self.batches.push(OpenBatch::new(core, self.limits, self.compression, base, len, state));
        Ok(())
    }
}

/// The acknowledgement of many records, which are all acknowledged when the last one is.
struct ManyWait {
    batches: Vec<Arc<BatchState>>,
    /// In the order of sending.
    runs: Vec<Run>,
    reported: bool,
}

impl Wait<Vec<Receipt>> for ManyWait {
    fn wait(mut self: Box<Self>) -> Result<Vec<Receipt>> {
        self.reported = true;
        // All are written before the first is waited for.
        for batch in &self.batches {
            batch.write();
        }
        let hidden: Vec<_> = self.batches.iter().filter(|batch| batch.is_hidden()).collect();
        if let Some(first) = hidden.first() {
            first.ctx().in_parallel(&hidden, |batch| batch.settle());
        }
        let wait = |(home, batch): (usize, &Arc<BatchState>)| self.unless_kept(home, batch.wait_visible());
        let appended = self.batches.iter().enumerate().map(wait).collect::<Result<Vec<_>>>()?;
        Ok(self.receipts(&appended))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Receipt>>> {
        let mut appended = Vec::with_capacity(self.batches.len());
        for (home, batch) in self.batches.iter().enumerate() {
            // Each is written by the first poll, and leaves its waker.
            match batch.poll_visible(cx.waker()).map(|outcome| self.unless_kept(home, outcome)) {
                Poll::Ready(Ok(one)) => appended.push(one),
                Poll::Ready(Err(error)) => {
                    self.reported = true;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {}
            }
        }
        if appended.len() < self.batches.len() {
            return Poll::Pending;
        }
        self.reported = true;
        Poll::Ready(Ok(self.receipts(&appended)))
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        self.batches.first().map(|batch| batch.ctx())
    }
}

impl ManyWait {
    /// Others may have records after these in the same batch.
    fn unless_kept(&self, home: usize, outcome: Result<Appended>) -> Result<Appended> {
        if outcome.is_ok() {
            return outcome;
        }
        let runs = self.runs.iter().filter(|run| run.home == home);
        let last = runs.map(|run| run.first + run.count.saturating_sub(1)).max();
        match (self.batches.get(home), last) {
            (Some(batch), Some(last)) => batch.unless_kept(last, outcome),
            _ => outcome,
        }
    }

    fn receipts(&self, appended: &[Appended]) -> Vec<Receipt> {
        let count = self.runs.iter().map(|run| run.count as usize).sum();
        let mut receipts = Vec::with_capacity(count);
        for run in &self.runs {
            let (Some(batch), Some(appended)) = (self.batches.get(run.home), appended.get(run.home)) else {
                continue;
            };
            let indexes = run.first..run.first + run.count;
            receipts.extend(indexes.map(|index| batch.receipt(*appended, index, run.timestamp)));
        }
        debug_assert_eq!(receipts.len(), count, "each run is in one of the batches");
        receipts
    }
}

impl Drop for ManyWait {
    fn drop(&mut self) {
        if !self.reported {
            for batch in &self.batches {
                batch.give_up();
            }
        }
    }
}
