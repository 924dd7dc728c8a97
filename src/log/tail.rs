//! The tail cache: readers at the end of the log share the batches that producers just sealed,
//! without reading a file.

use std::collections::VecDeque;

use crate::engine::Context;
use crate::segment::batch::Batch;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Rank};
use crate::types::Offset;

/// The newest batches of one log, uncompressed, within a budget for all logs of the broker.
///
/// They need no check, because this process made them. They have been written, but may not be
/// visible yet.
pub(crate) struct TailCache {
    /// The first offset in the cache, or `u64::MAX` if it is empty: a reader far before it skips
    /// the cache without the lock. It is only a hint; `get` checks under the lock.
    start: AtomicU64,
    batches: Mutex<CachedBatches>,
}

#[derive(Default)]
struct CachedBatches {
    queue: VecDeque<Arc<Batch>>,
    bytes: usize,
}

/// The most bytes that one log keeps, so that a busy one leaves room for others.
const BYTES_PER_LOG_MAX: usize = 2 << 20;

impl TailCache {
    pub(crate) fn new() -> Self {
        TailCache {
            start: AtomicU64::new(u64::MAX),
            batches: Mutex::new(Rank::Tail, CachedBatches::default()),
        }
    }

    /// Adds the batch that was just written, and drops the oldest beyond the budget. Drops all of
    /// them if the batch does not follow the last one, because [`get`](TailCache::get) relies on
    /// the cache having no gaps.
    pub(crate) fn push(&self, ctx: &Context, batch: Batch) {
        let bytes = batch.records.as_slice().len();
        let mut batches = self.batches.lock();
        let mut forgotten = Vec::new();
        if batches.queue.back().is_some_and(|last| last.header.end_offset() != batch.header.base_offset) {
            ctx.kept.tail_bytes.fetch_sub(batches.bytes, Ordering::Relaxed);
            batches.bytes = 0;
            forgotten.extend(batches.queue.drain(..));
        }
        let mut used = ctx.kept.tail_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        batches.bytes += bytes;
        batches.queue.push_back(Arc::new(batch));
        while used > ctx.settings.tail_bytes_max || batches.bytes > BYTES_PER_LOG_MAX {
            let Some(oldest) = batches.queue.pop_front() else { break };
            let bytes = oldest.records.as_slice().len();
            batches.bytes -= bytes;
            used = ctx.kept.tail_bytes.fetch_sub(bytes, Ordering::Relaxed) - bytes;
            forgotten.push(oldest);
        }
        let start = batches.queue.front().map_or(u64::MAX, |first| first.header.base_offset.get());
        self.start.store(start, Ordering::Release);
        drop(batches);
        // Their buffers return to the pool here, outside the lock.
        drop(forgotten);
    }

    /// Returns the batch that contains `offset`, or the first one after it, if the cache reaches
    /// back to `offset`.
    pub(crate) fn get(&self, offset: Offset) -> Option<Arc<Batch>> {
        if offset.get() < self.start.load(Ordering::Acquire) {
            return None;
        }
        let batches = self.batches.lock();
        if batches.queue.front()?.header.base_offset > offset {
            return None;
        }
        let at = batches.queue.partition_point(|batch| batch.header.last_offset() < offset);
        batches.queue.get(at).cloned()
    }

    /// Drops all batches, because the log was truncated, closed or deleted.
    pub(crate) fn clear(&self, ctx: &Context) {
        let mut batches = self.batches.lock();
        self.start.store(u64::MAX, Ordering::Release);
        let old = std::mem::take(&mut *batches);
        ctx.kept.tail_bytes.fetch_sub(old.bytes, Ordering::Relaxed);
    }
}
