//! Starts an empty file of the journal in place of one whose transactions are durable in the
//! segments. Their records need no sync for that: no caller was told that one is durable whose
//! record is not, and the records are not needed once the new file is there.

use std::collections::HashMap;

use super::{FILE_BYTES, Journal, Recorded, show};
use crate::engine::{Context, Later, Work};
use crate::error::Result;
use crate::log::durability;
use crate::log::journal::{Alone, LogJournal};
use crate::log::participate::Involved;
use crate::sync::{Arc, OnceLock, Ordering};

impl Journal {
    /// Has an empty file started if this one has become large. The worker does that, because it
    /// syncs the segments; this thread does if there is no worker, or if the worker is late.
    pub(crate) fn keep_small(self: &Arc<Self>, recorded: &Recorded) {
        if recorded.excess > FILE_BYTES || (recorded.excess > 0 && self.ctx.clock.is_manual()) {
            self.checkpoint_if_large();
        } else if recorded.excess > 0 && !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ctx.work.push(self.clone());
        }
    }

    /// Starts an empty file if this one has become large. If that fails, the next attempt is made
    /// after as many bytes again.
    fn checkpoint_if_large(&self) {
        let last = {
            let state = self.state.lock();
            if state.excess() == 0 {
                return;
            }
            last_of_each_log(state.involved.all())
        };
        // Commits continue meanwhile. They wait for the last sync only, which has little left after
        // these, and returns their error again.
        for _ in 0..2 {
            let _ = sync_segments(&self.ctx, &last);
        }
        let _later = Later::new();
        let _alone = self.alone();
        // Check again: another thread may have done it.
        if self.state.lock().excess() > 0
            && let Err(error) = self.checkpoint_alone()
        {
            let mut state = self.state.lock();
            state.large_from = state.position + FILE_BYTES;
            state.stuck = Some(error);
        }
    }

    /// Makes every committed transaction durable in the segments, and starts an empty file if there
    /// is a record. No transaction is committed until the result is dropped.
    ///
    /// # Errors
    /// A partition cannot be synced, or an I/O error: the file stays unchanged.
    pub(crate) fn checkpoint(&self) -> Result<Alone<'_>> {
        let alone = self.alone();
        self.checkpoint_alone().map(|()| alone)
    }

    fn checkpoint_alone(&self) -> Result<()> {
        let (last, written) = {
            let state = self.state.lock();
            if state.written == state.written_before {
                return Ok(());
            }
            state.check()?;
            (last_of_each_log(state.involved.all()), state.written)
        };
        sync_segments(&self.ctx, &last)?;
        // No sync of the old file runs from here on, and none is needed: the segments have it all.
        let lead = self.commit.hold();
        self.state.lock().start_file(&self.ctx, true)?;
        // IMPORTANT: only after that. A power loss before it finds the old file, perhaps without
        // the records, and then none of these transactions counts.
        show(&last);
        lead.finish(Ok(written))
    }

    /// Uses no id up to `largest` from here on: batches with such ids count without a record.
    ///
    /// # Errors
    /// As [`checkpoint`](Journal::checkpoint).
    pub(crate) fn skip_ids(&self, largest: u64) -> Result<()> {
        let _alone = self.checkpoint()?;
        let mut state = self.state.lock();
        state.check()?;
        if largest < state.next_id {
            return Ok(());
        }
        state.next_id = largest.saturating_add(1);
        state.start_file(&self.ctx, true)
    }
}

impl Work for Journal {
    fn work(&self) {
        self.checkpoint_if_large();
        self.is_queued.store(false, Ordering::Release);
    }
}

/// Returns the last batch of each log, in the order of topic id and partition.
fn last_of_each_log(involved: &[Involved]) -> Vec<Involved> {
    let last: HashMap<_, _> = involved.iter().map(|part| (Arc::as_ptr(&part.log), part)).collect();
    let mut last: Vec<Involved> = last.into_values().cloned().collect();
    last.sort_by_key(|part| (part.log.identity().topic_id, part.log.partition()));
    last
}

/// Syncs all records of the logs of these batches in their segments.
fn sync_segments(ctx: &Context, parts: &[Involved]) -> Result<()> {
    let failed = OnceLock::new();
    let sync = |part: &Involved| {
        if let Err(error) = durability::sync_segments(&part.log) {
            let _ = failed.set(error);
        }
    };
    if ctx.in_parallel(parts, sync) {
        return failed.into_inner().map_or(Ok(()), Err);
    }
    parts.iter().try_for_each(|part| durability::sync_segments(&part.log))
}
