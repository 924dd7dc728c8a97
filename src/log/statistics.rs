//! The statistics of a log.

use super::{Log, compaction};
use crate::stats::{PartitionStats, SegmentStats};

pub(crate) fn partition_stats(log: &Log) -> PartitionStats {
    let segments: Vec<_> = log
        .segments()
        .iter()
        .filter(|_| log.has_files())
        .map(|segment| SegmentStats {
            file: log.ctx.display(&segment.path),
            base_offset: segment.base,
            bytes: segment.size(),
            sealed: segment.is_sealed(),
        })
        .collect();
    PartitionStats {
        id: log.identity.partition,
        bounds: log.bounds(),
        epoch: log.epoch(),
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        segments,
        records_appended: log.counters.records(),
        batches_appended: log.counters.batches(),
        bytes_appended: log.counters.bytes(),
        syncs: log.counters.syncs(),
        compaction: compaction::stats(log),
        poisoned: log.health.failure(),
    }
}
