//! The statistics of a log.

use super::{Log, compaction};
use crate::segment::Segment;
use crate::stats::{PartitionStats, SegmentStats};
use crate::sync::Arc;

/// Returns the partition in numbers that are kept when they change: it adds nothing up.
pub(crate) fn partition_stats(log: &Log) -> PartitionStats {
    let segments = log.segments();
    let (bytes, count) = if log.has_files() { (segments.bytes(), segments.len()) } else { (0, 0) };
    PartitionStats {
        id: log.identity.partition,
        bounds: log.bounds(),
        epoch: log.epoch(),
        bytes,
        segments: count,
        records_appended: log.counters.records(),
        batches_appended: log.counters.batches(),
        bytes_appended: log.counters.bytes(),
        syncs: log.counters.syncs(),
        compaction: compaction::stats(log),
        poisoned: log.health.failure(),
    }
}

/// Returns the segments in numbers, oldest first.
pub(crate) fn segment_stats(log: &Log) -> Vec<SegmentStats> {
    if !log.has_files() {
        return Vec::new();
    }
    let stats = |segment: &Arc<Segment>| SegmentStats {
        file: log.ctx.display(&segment.path),
        base_offset: segment.base,
        bytes: segment.size(),
        sealed: segment.is_sealed(),
    };
    log.segments().iter().map(stats).collect()
}
