//! Counters of records, batches, bytes and syncs since the log was opened.

use crate::sync::{AtomicU64, Ordering};

/// Numbers for the partition's statistics. No other state depends on them.
#[derive(Default)]
pub(crate) struct Counters {
    records: AtomicU64,
    batches: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Counters {
    /// Counts a batch of so many records, which takes `bytes` in its segment.
    #[inline]
    pub(crate) fn count_batch(&self, records: u32, bytes: u64) {
        self.records.fetch_add(u64::from(records), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}
