//! Compaction of a log. The records that stay are written into new segments next to the old ones;
//! then the manifest lists the new ones instead, in one step. Before that step nothing has changed.
//!
//! Readers continue: a reader positioned in a replaced segment keeps it to its end, and then uses
//! the current list. A writer is never blocked by a compaction. If another operation removes
//! segments meanwhile (a truncation, retention, the end of the log), the compaction stops.
//!
//! The steps, in their order:
//! 1. [`inputs`] chooses the segments.
//! 2. [`survey`] reads them, and collects the newest offset of each key.
//! 3. [`rewrite`] reads them again, and writes the records that stay into [`output`].
//! 4. [`swap`] replaces the manifest and the list.

pub(super) mod inputs;
mod offset_map;
pub(super) mod output;
pub(super) mod pace;
pub(crate) mod policy;
pub(super) mod read;
mod rewrite;
mod survey;
pub(super) mod swap;

use self::inputs::{Inputs, is_expired, sealed};
use self::pace::Pace;
pub(crate) use self::policy::Extent;
use self::policy::{amounts, compactable, dirtiness, is_due};
use super::{Log, maintenance};
use crate::engine::{Later, observe};
use crate::error::{Error, Result};
use crate::segment::FIRST_BATCH;
use crate::stats::{Compacted, CompactionStats, Event};
use crate::sync::{Arc, MutexGuard};

/// Returns how dirty the log is, in millionths, and what a compaction should remove, if one is due.
/// Calls `tick` now and then, under no lock, because after an opening it must read when tombstones
/// expire.
pub(crate) fn is_wanted(log: &Log, tick: &dyn Fn()) -> Option<(u32, Extent)> {
    let settings = log.settings();
    if !settings.cleanup.compacts()
        || log.check_writable().is_err()
        || !log.compactor.may_try(log.ctx.clock.monotonic())
    {
        return None;
    }
    let now = log.ctx.cautious_now();
    let (segments, candidates) = sealed(log)?;
    let count = compactable(&settings.compaction, &candidates, now);
    let (compacted, dirty) = amounts(candidates.get(..count)?);
    let oldest = settings.compaction.max_lag.and_then(|_| {
        let first = segments.iter().take(count).find(|segment| !segment.compacted)?;
        let mut source = first.source(&log.ctx, &log.identity).ok()?;
        source.header(&log.ctx, FIRST_BATCH, log.seed()).ok().map(|(header, _)| header.max_timestamp)
    });
    let mut pace = Pace::new(log, tick, log.revision(), &[]);
    let is_running = |_: &&Arc<_>| !log.ctx.work.is_stopped();
    let mut looked_at = segments.iter().take(count).take_while(is_running);
    let mut has_expired = || looked_at.any(|segment| is_expired(log, segment, now, &mut pace));
    let extent = match is_due(&settings.compaction, compacted, dirty, oldest, now) {
        true => Extent::Whole,
        false if has_expired() => Extent::Tombstones,
        false => return None,
    };
    Some((dirtiness(compacted, dirty), extent))
}

/// Compacts now, if there is anything to remove.
///
/// # Errors
/// The topic is not compacted, aborted, the partition takes no appends, or an I/O error: nothing
/// has changed.
pub(crate) fn compact(log: &Arc<Log>) -> Result<Option<Compacted>> {
    if !log.settings().cleanup.compacts() {
        return Err(Error::NotCompacted { topic: log.identity.topic.clone() });
    }
    let _span = observe::compacting(&log.identity);
    let _later = Later::new();
    let alone = log.compactor.lock();
    // The caller may have made room, so earlier failures do not count.
    log.compactor.forget_failures();
    let done = compact_extent(log, Extent::Whole, alone, &|| {});
    log.ctx.events.deliver();
    done
}

/// As [`compact`], for maintenance: calls `tick` now and then, under no lock except the
/// compactor's. Also returns `None` while another thread compacts, because maintenance should not
/// wait for that.
pub(crate) fn compact_in_passing(
    log: &Arc<Log>,
    extent: Extent,
    tick: &dyn Fn(),
) -> Result<Option<Compacted>> {
    let _span = observe::compacting(&log.identity);
    let _later = Later::new();
    let Some(alone) = log.compactor.try_lock() else { return Ok(None) };
    compact_extent(log, extent, alone, tick)
}

fn compact_extent(
    log: &Arc<Log>,
    extent: Extent,
    alone: MutexGuard<'_, ()>,
    tick: &dyn Fn(),
) -> Result<Option<Compacted>> {
    log.check_writable()?;
    maintenance::finish_sealed(log);
    let done = match Inputs::choose(log, extent, tick)? {
        Some(inputs) => {
            let mut pace = Pace::new(log, tick, inputs.revision, &inputs.segments);
            pace.is_shown = true;
            log.compactor.note_progress(0);
            let done = rewrite::rewrite(log, &inputs, &mut pace);
            log.compactor.note_outcome(
                &done,
                log.ctx.clock.monotonic(),
                log.ctx.settings.maintenance_interval,
            );
            Some(done?)
        }
        None => None,
    };
    drop(alone);
    log.ctx.events.deliver();
    if let Some(done) = &done {
        log.ctx.events.report(&Event::Compacted(done.clone()));
    }
    Ok(done)
}

/// Returns the results of past compactions, and the bytes that the next one would read.
pub(crate) fn stats(log: &Log) -> CompactionStats {
    let mut stats = log.compactor.stats();
    if log.settings().cleanup.compacts() {
        (stats.compacted_bytes, stats.dirty_bytes) = log.manifest.compacted_and_dirty();
    }
    stats
}
