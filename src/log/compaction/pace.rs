//! The pace of a compaction: it waits if it used too much bandwidth, calls back now and then, and
//! stops if it was overtaken.

use std::time::Duration;

use crate::clock::wait_timeout_with;
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::log::Log;
use crate::segment::Segment;
use crate::sync::{Arc, Condvar, Mutex, Ordering, Rank};

/// Limits the work of a compaction, so that it does not slow down other threads.
pub(crate) struct Pace<'a> {
    log: &'a Log,
    pub(crate) tick: &'a dyn Fn(),
    /// The conditions under which the compaction may continue: the revision is the same, and these
    /// segments are still in the list.
    pub(crate) revision: u64,
    pub(crate) inputs: &'a [Arc<Segment>],
    /// Whether the partition's statistics show the progress.
    pub(crate) is_shown: bool,
    started: Duration,
    bytes: u64,
    ticked: u64,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(log: &'a Log, tick: &'a dyn Fn(), revision: u64, inputs: &'a [Arc<Segment>]) -> Self {
        let started = log.ctx.clock.monotonic();
        Pace { log, tick, revision, inputs, is_shown: false, started, bytes: 0, ticked: 0 }
    }

    /// Returns the same pace, for other inputs.
    pub(crate) fn over(&self, inputs: &'a [Arc<Segment>]) -> Self {
        Pace { inputs, ..*self }
    }

    /// As [`keep`](Pace::keep), for a batch of which only the header was read: a read takes at
    /// least a page.
    pub(crate) fn pass(&mut self, header: &BatchHeader) -> Result<()> {
        const PAGE: u64 = 4096;
        self.keep(header.stored_bytes().min(PAGE))
    }

    /// Notes bytes that were read or written, and waits if they were too many for the time.
    pub(crate) fn keep(&mut self, bytes: u64) -> Result<()> {
        const TICK_BYTES: u64 = 1 << 20;
        const SLICE: Duration = Duration::from_millis(50);
        self.bytes += bytes;
        let ctx = &self.log.ctx;
        let due = self.bytes - self.ticked >= TICK_BYTES;
        if due {
            self.ticked = self.bytes;
            if self.is_shown {
                self.log.compactor.note_progress(self.bytes);
            }
            self.check()?;
        }
        if let Some(rate) = ctx.settings.compaction_rate
            && !ctx.clock.is_manual()
        {
            let takes = Duration::try_from_secs_f64(self.bytes as f64 / rate as f64).unwrap_or(Duration::MAX);
            let (never, waiting) = (Condvar::new(), Mutex::new(Rank::Pause, ()));
            while let Some(left) = takes.checked_sub(ctx.clock.monotonic().saturating_sub(self.started))
                && !left.is_zero()
            {
                self.check()?;
                // A compaction that is held up holds up nothing but compactions of this log.
                let also = &[Rank::Compacting];
                wait_timeout_with(&*ctx.clock, &never, &mut waiting.lock(), left.min(SLICE), also);
            }
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        (self.tick)();
        // The compactor's lock is held, perhaps for hours.
        self.log.ctx.hand_over_calls();
        self.log.check_writable()?;
        if self.log.ctx.work.is_stopped() {
            return Err(Error::Closed);
        }
        // Stop, because the output could not replace the input any more.
        let is_gone = |segment: &Arc<Segment>| segment.retired.load(Ordering::Acquire);
        let overtaken = self.log.revision() != self.revision || self.inputs.iter().any(is_gone);
        if overtaken { Err(self.log.identity.compaction_aborted()) } else { Ok(()) }
    }
}
