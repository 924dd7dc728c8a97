//! How are many records sent as one call? They are encoded on the side and handed to the buffers
//! when all are valid.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::task::{Context, Poll};

use super::batch::{BatchLimits, OpenBatch};
use super::buffer::{PartitionBuffer, Sticking};
use super::core::Core;
use super::outcome::BatchState;
use super::pending::{Pending, Wait};
use crate::error::{Error, Result};
use crate::log::{Appended, LogSettings};
use crate::partitioner::Sticky;
use crate::record::Record;
use crate::segment::builder::record_len;
use crate::sync::Arc;
use crate::types::{Receipt, Timestamp};

/// Records that no other thread sees yet. Dropping it discards them.
pub(super) struct Staging<'a> {
    core: &'a Arc<Core>,
    sticky: &'a Sticky,
    partitions: u32,
    /// Where records without a key go, and how many of their bytes are there.
    stuck_to: Option<(u32, usize)>,
    parts: BTreeMap<u32, StagedPart>,
    places: Vec<StagedRecord>,
    /// The lengths of all records.
    bytes: usize,
}

/// The records of one partition: full batches, and the last one.
struct StagedPart {
    buffer: Arc<PartitionBuffer>,
    settings: Arc<LogSettings>,
    batches: Vec<OpenBatch>,
}

/// Where a record is: in which of its partition's batches, and there at which index.
struct StagedRecord {
    partition: u32,
    batch: usize,
    index: u32,
    timestamp: Timestamp,
}

impl<'a> Staging<'a> {
    pub(super) fn new(core: &'a Arc<Core>, sticky: &'a Sticky, partitions: u32) -> Self {
        Staging {
            core,
            sticky,
            partitions,
            stuck_to: None,
            parts: BTreeMap::new(),
            places: Vec::new(),
            bytes: 0,
        }
    }

    /// The partition of the next record without a key: another one after each batch's worth.
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
    pub(super) fn push(
        &mut self,
        partition: u32,
        record: &Record<'_>,
        timestamp: Timestamp,
        buffer: impl FnOnce() -> Result<Arc<PartitionBuffer>>,
    ) -> Result<()> {
        let len = record_len(record);
        self.bytes = self.bytes.saturating_add(len);
        let part = match self.parts.entry(partition) {
            Entry::Occupied(part) => part.into_mut(),
            Entry::Vacant(place) => {
                let buffer = buffer()?;
                place.insert(StagedPart { settings: buffer.sink().settings(), buffer, batches: Vec::new() })
            }
        };
        let limits = BatchLimits::new(self.core, &part.settings);
        if len > limits.record {
            return Err(part.buffer.too_large(len, limits.record));
        }
        if self.bytes > self.core.config.buffer_bytes {
            return Err(Error::BufferFull);
        }
        if !part.batches.last().is_some_and(|batch| batch.fits(len)) {
            // The first may then be appended to the open batch by copying.
            let base = if part.batches.is_empty() { part.buffer.base_timestamp() } else { None };
            let state = Arc::new(BatchState::new(part.buffer.clone()));
            let base = base.unwrap_or(timestamp);
            part.batches.push(OpenBatch::new(self.core, limits, part.settings.compression, base, len, state));
        }
        let batch = part.batches.len().saturating_sub(1);
        if let Some(open) = part.batches.last_mut() {
            let index = open.push(record, timestamp);
            self.places.push(StagedRecord { partition, batch, index, timestamp });
        }
        Ok(())
    }

    /// Hands everything to the buffers; from here on nothing is refused.
    pub(super) fn publish(mut self) -> Pending<Vec<Receipt>> {
        let mut sealed = Vec::new();
        let mut homes: Vec<(Arc<BatchState>, u32)> = Vec::new();
        let mut first_home = BTreeMap::new();
        let choice = Sticking { sticky: self.sticky, partitions: self.partitions };
        for (partition, part) in std::mem::take(&mut self.parts) {
            first_home.insert(partition, homes.len());
            let stuck =
                self.stuck_to.map_or(0, |(stuck_to, bytes)| if stuck_to == partition { bytes } else { 0 });
            part.buffer.adopt(part.batches, (stuck, choice), &mut homes, &mut sealed);
        }
        for sealed in sealed {
            sealed.compress(None);
        }
        let batches = homes.iter().map(|(state, _)| state.clone()).collect();
        let records = self.places.iter().filter_map(|place| {
            let home = first_home.get(&place.partition)? + place.batch;
            let (_, first) = homes.get(home)?;
            Some((home, first + place.index, place.timestamp))
        });
        let records: Vec<_> = records.collect();
        debug_assert_eq!(records.len(), self.places.len(), "each record was adopted with its batch");
        Pending::other(ManyWait { records, batches, reported: false })
    }
}

/// The acknowledgement of many records, which are all acknowledged when the last one is.
struct ManyWait {
    batches: Vec<Arc<BatchState>>,
    /// In the order of sending: which batch, which index in it, which time.
    records: Vec<(usize, u32, Timestamp)>,
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
}

impl ManyWait {
    /// Others may have records after these in the same batch.
    fn unless_kept(&self, home: usize, outcome: Result<Appended>) -> Result<Appended> {
        if outcome.is_ok() {
            return outcome;
        }
        let last = self.records.iter().filter(|(at, ..)| *at == home).map(|(_, index, _)| *index).max();
        match (self.batches.get(home), last) {
            (Some(batch), Some(last)) => batch.unless_kept(last, outcome),
            _ => outcome,
        }
    }

    fn receipts(&self, appended: &[Appended]) -> Vec<Receipt> {
        let receipt = |(home, index, timestamp): &(usize, u32, Timestamp)| {
            let batch = self.batches.get(*home)?;
            Some(batch.receipt(*appended.get(*home)?, *index, *timestamp))
        };
        let receipts: Vec<_> = self.records.iter().filter_map(receipt).collect();
        debug_assert_eq!(receipts.len(), self.records.len(), "each record is of one of the batches");
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
