//! A manifest for a partition that has lost its own, from the headers of its segments.
//!
//! Of two segments the one of the later epoch counts where they overlap, because a truncated log
//! continues in a later epoch; of the same epoch that of the greater generation, because a segment
//! that is written again gets one. A segment ends at the `prev end` of the next one.

use std::path::Path;

use super::survey::read_header;
use super::tools::{finding, list};
use crate::engine::{Context, Identity};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{EpochStart, Manifest, SegmentEntry, SegmentState};
use crate::format::names::{self, PartitionFile};
use crate::format::segment::SegmentHeader;
use crate::segment::FIRST_BATCH;
use crate::segment::create::active_entry;
use crate::stats::{Finding, FindingKind};
use crate::storage::OpenMode;
use crate::types::Offset;

/// The headers of the segments of a partition.
pub(super) struct Headers {
    /// Those that make up the log, in the order of their offsets, all with the secret of the last.
    pub(super) kept: Vec<SegmentHeader>,
    /// A finding for each segment that nothing identifies.
    pub(super) unidentified: Vec<Finding>,
}

impl Headers {
    /// Reads the headers of all segments in the directory of a partition.
    ///
    /// # Errors
    /// An I/O error of the directory.
    pub(super) fn find(ctx: &Context, identity: &Identity, dir: &Path) -> Result<Self> {
        let mut found = Headers { kept: Vec::new(), unidentified: Vec::new() };
        for entry in list(ctx, dir)? {
            let path = dir.join(&entry.name);
            let PartitionFile::Segment { base, generation } = names::parse_partition_file(&entry.name) else {
                continue;
            };
            let is_ours = |header: &SegmentHeader| {
                let of_topic = (header.topic_id, header.partition) == (identity.topic_id, identity.partition);
                of_topic && (header.base_offset, header.generation) == (base, generation)
            };
            match read_header(ctx, &path).filter(is_ours) {
                Some(header) => found.kept.push(header),
                None => {
                    let what = "neither the manifest nor its header identifies it";
                    found.unidentified.push(finding(ctx, FindingKind::Damage, &path, what, 8));
                }
            }
        }
        found.drop_superseded();
        Ok(found)
    }

    /// Keeps one header where segments overlap.
    fn drop_superseded(&mut self) {
        let mut headers = std::mem::take(&mut self.kept);
        headers.sort_by_key(|header| (header.base_offset, header.log_epoch, header.generation));
        for header in headers {
            if self.kept.last().is_some_and(|last| last.log_epoch > header.log_epoch) {
                // It was truncated before this epoch started, or it was compacted; only its file is
                // still there.
                continue;
            }
            self.kept.retain(|before| before.base_offset < header.base_offset);
            self.kept.push(header);
        }
        if let Some(secret) = self.kept.last().map(|last| last.secret) {
            self.kept.retain(|header| header.secret == secret);
        }
    }
}

/// Returns a manifest that lists the segments of these headers, and in which every batch is of a
/// known epoch: the batches show where epochs started.
///
/// # Errors
/// An I/O error of a segment.
pub(super) fn manifest_of(
    ctx: &Context,
    identity: &Identity,
    dir: &Path,
    headers: &[SegmentHeader],
) -> Result<Manifest> {
    let mut segments = Vec::with_capacity(headers.len());
    for (at, header) in headers.iter().enumerate() {
        let base = SegmentEntry {
            log_epoch: header.log_epoch,
            ..active_entry(header.base_offset, header.generation, 0)
        };
        let path = dir.join(names::segment_file(header.base_offset, header.generation));
        let file = ctx.storage.open(&path, OpenMode::Read);
        let len = file
            .and_then(|file| file.len())
            .map_err(|e| Error::io(IoAction::Inspect, &ctx.display(&path), e))?;
        segments.push(match headers.get(at + 1) {
            None => base,
            Some(next) => SegmentEntry {
                state: SegmentState::Sealed,
                size: len.max(FIRST_BATCH),
                end_offset: next.prev_end.max(header.base_offset),
                ..base
            },
        });
    }
    Ok(Manifest {
        topic_id: identity.topic_id,
        partition: identity.partition,
        secret: identity.secret(),
        log_start: headers.first().map_or(Offset::ZERO, |first| first.base_offset),
        epochs: vec![EpochStart { epoch: u32::MAX - 1, start: Offset::MAX }],
        segments,
        lost: Vec::new(),
        has_successors: false,
    })
}
