//! The input of a compaction: which segments of the list it reads and replaces.

use super::pace::Pace;
use super::policy::{CompactionCandidate, Extent, compactable, horizon_of};
use super::read::walk;
use crate::error::Result;
use crate::format::manifest::SegmentEntry;
use crate::log::Log;
use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::Timestamp;

/// The input of one compaction.
pub(super) struct Inputs {
    /// Consecutive segments of the list.
    pub(super) segments: Vec<Arc<Segment>>,
    /// The index of the first that was never compacted; their number if all were.
    pub(super) dirty: usize,
    pub(super) revision: u64,
    pub(super) now: Timestamp,
}

impl Inputs {
    /// Returns `None` if there is nothing to remove.
    ///
    /// # Errors
    /// `CompactionAborted` while segments of the log are being replaced.
    pub(super) fn choose(log: &Log, extent: Extent, tick: &dyn Fn()) -> Result<Option<Self>> {
        let (revision, now) = (log.revision(), log.ctx.cautious_now());
        let Some((mut segments, candidates)) = sealed(log) else {
            return Err(log.identity.compaction_aborted());
        };
        segments.truncate(compactable(&log.settings().compaction, &candidates, now));
        let dirty = segments.iter().position(|segment| !segment.compacted).unwrap_or(segments.len());
        if dirty < segments.len() && extent == Extent::Whole {
            return Ok(Some(Inputs { segments, dirty, revision, now }));
        }
        segments.truncate(dirty);
        let mut pace = Pace::new(log, tick, revision, &[]);
        let mut has_expired = |segment: &Arc<Segment>| is_expired(log, segment, now, &mut pace);
        let (Some(first), Some(last)) =
            (segments.iter().position(&mut has_expired), segments.iter().rposition(&mut has_expired))
        else {
            return Ok(None);
        };
        segments.truncate(last + 1);
        let segments = segments.split_off(first);
        Ok(Some(Inputs { dirty: segments.len(), segments, revision, now }))
    }
}

/// Returns the oldest segments that are durable and take no appends, and the data of each that the
/// policy needs. Returns `None` while they are being replaced.
pub(in crate::log) fn sealed(log: &Log) -> Option<(Vec<Arc<Segment>>, Vec<CompactionCandidate>)> {
    let manifest = log.manifest.get();
    let list = log.segments();
    let entries = manifest.segments.iter().take_while(|entry| entry.state.is_synced());
    let mut found = (Vec::new(), Vec::new());
    for (at, entry) in entries.enumerate() {
        let segment = list.get(at).filter(|segment| is_entry(segment, entry))?;
        found.0.push(segment.clone());
        found.1.push(CompactionCandidate {
            bytes: entry.size,
            max_timestamp: entry.max_timestamp(),
            compacted: segment.compacted,
        });
    }
    Some(found)
}

fn is_entry(segment: &Segment, entry: &SegmentEntry) -> bool {
    (segment.base, segment.generation, segment.epoch)
        == (entry.base_offset, entry.generation, entry.log_epoch)
}

/// Returns whether a compacted segment has expired tombstones.
pub(super) fn is_expired(log: &Log, segment: &Arc<Segment>, now: Timestamp, pace: &mut Pace<'_>) -> bool {
    if !segment.compacted {
        return false;
    }
    let known = segment.horizon.get().copied().or_else(|| {
        let mut least = None;
        walk(log, segment, |_, met| {
            if let Some(horizon) = horizon_of(&met.header) {
                least = Some(least.map_or(horizon, |least: Timestamp| least.min(horizon)));
            }
            pace.pass(&met.header).map(|()| true)
        })
        .ok()?;
        // Another thread may have set the same value.
        let _ = segment.horizon.set(least);
        Some(least)
    });
    known.flatten().is_some_and(|horizon| horizon <= now)
}
