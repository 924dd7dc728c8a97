//! Counters of records, batches, bytes and syncs since the log was opened.

#[cfg(feature = "metrics")]
use crate::engine::observe::Grown;
use crate::sync::{AtomicU64, Ordering};

/// Numbers for the partition's statistics. No other state depends on them.
#[derive(Default)]
pub(crate) struct Counters {
    records: AtomicU64,
    batches: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
    #[cfg(feature = "metrics")]
    sync_nanos: AtomicU64,
    /// The counters at the last publication: records, bytes, syncs, nanoseconds of syncs.
    #[cfg(feature = "metrics")]
    published: [AtomicU64; 4],
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

    /// Adds the time of a sync that [`count_sync`](Counters::count_sync) has counted.
    #[cfg(feature = "metrics")]
    pub(crate) fn count_sync_time(&self, took: std::time::Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the growth since the last call.
    #[cfg(feature = "metrics")]
    pub(crate) fn grown(&self) -> Grown {
        let [records, bytes, syncs, nanos] = &self.published;
        let since = |last: &AtomicU64, now: u64| now.saturating_sub(last.swap(now, Ordering::Relaxed));
        Grown {
            records: since(records, self.records()),
            bytes: since(bytes, self.bytes()),
            syncs: since(syncs, self.syncs()),
            sync_seconds: since(nanos, self.sync_nanos.load(Ordering::Relaxed)) as f64 / 1e9,
        }
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
