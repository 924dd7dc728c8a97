//! How fast may a compaction go? It waits where it took too much, calls back now and then, and gives up when it was overtaken.

use std::time::Duration;

use crate::clock::wait_timeout_with;
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::log::Log;
use crate::segment::Segment;
use crate::sync::{Arc, Condvar, Mutex, Ordering, Rank};

/// Where the time goes that cleaning must not take from others.
pub(crate) struct Pace<'a> {
    log: &'a Log,
    pub(crate) tick: &'a dyn Fn(),
    /// What must stay as it is: how often the log was cut, and these segments in its list.
    pub(crate) revision: u64,
    pub(crate) inputs: &'a [Arc<Segment>],
    /// The partition's numbers say how far it came.
    pub(crate) is_shown: bool,
    begun: Duration,
    bytes: u64,
    ticked: u64,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(log: &'a Log, tick: &'a dyn Fn(), revision: u64, inputs: &'a [Arc<Segment>]) -> Self {
        let begun = log.ctx.clock.monotonic();
        Pace { log, tick, revision, inputs, is_shown: false, begun, bytes: 0, ticked: 0 }
    }

    /// The same pace, that looks after these inputs only.
    pub(crate) fn over(&self, inputs: &'a [Arc<Segment>]) -> Self {
        Pace { inputs, ..*self }
    }

    /// As [`keep`](Pace::keep), for a batch of which the header was looked at: the medium gives no less than a page.
    pub(crate) fn pass(&mut self, header: &BatchHeader) -> Result<()> {
        const PAGE: u64 = 4096;
        self.keep(header.stored_bytes().min(PAGE))
    }

    /// Notes bytes that were read or written, and waits where they were too many for the time.
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
        if let Some(rate) = ctx.compaction_rate
            && !ctx.clock.is_manual()
        {
            let takes = Duration::try_from_secs_f64(self.bytes as f64 / rate as f64).unwrap_or(Duration::MAX);
            let (never, waiting) = (Condvar::new(), Mutex::new(Rank::Pause, ()));
            while let Some(left) = takes.checked_sub(ctx.clock.monotonic().saturating_sub(self.begun))
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
        self.log.check_writable()?;
        if self.log.ctx.work.is_stopped() {
            return Err(Error::Closed);
        }
        // There is no point in going on: what is written could not take the place of what was read.
        let is_gone = |segment: &Arc<Segment>| segment.retired.load(Ordering::Acquire);
        let overtaken = self.log.revision() != self.revision || self.inputs.iter().any(is_gone);
        if overtaken { Err(self.log.aborted()) } else { Ok(()) }
    }
}
