//! The compactor of a log: the right to compact it, the results of past compactions, and when the
//! next may be tried after a failure.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::stats::{Compacted, CompactionStats};
use crate::sync::{Mutex, MutexGuard, Rank};

/// What a log knows of its compactions.
pub(crate) struct Compactor {
    /// Held during a whole compaction. Taken before any other lock of the log.
    alone: Mutex<()>,
    stats: Mutex<CompactionStats>,
    retries: Mutex<Retries>,
}

impl Default for Compactor {
    fn default() -> Self {
        Compactor {
            alone: Mutex::new(Rank::Compacting, ()),
            stats: Mutex::new(Rank::CompactionStats, CompactionStats::default()),
            retries: Mutex::new(Rank::CompactionRetries, Retries::default()),
        }
    }
}

impl Compactor {
    /// Waits for a running compaction. No other starts until the result is dropped.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.alone.lock()
    }

    /// Returns `None` while another thread compacts.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, ()>> {
        self.alone.try_lock()
    }

    /// Returns whether a compaction may be tried, after the failures so far. `now` is by the
    /// monotonic clock.
    pub(crate) fn may_try(&self, now: Duration) -> bool {
        self.retries.lock().may_try(now)
    }

    /// Forgets earlier failures, so that the next compaction may be tried at once.
    pub(crate) fn forget_failures(&self) {
        *self.retries.lock() = Retries::default();
    }

    /// Notes that the running compaction has read and written so many bytes.
    pub(crate) fn note_progress(&self, bytes: u64) {
        self.stats.lock().running = Some(bytes);
    }

    /// Notes the outcome of a compaction that ended at `now`, by the monotonic clock. After a
    /// failure the next one may be tried after a delay that depends on `every`, the interval of
    /// maintenance. An aborted compaction does not count as a failure.
    pub(crate) fn note_outcome(&self, done: &Result<Compacted>, now: Duration, every: Duration) {
        match done {
            Ok(_) => self.forget_failures(),
            Err(Error::CompactionAborted { .. } | Error::Closed) => {}
            Err(_) => self.retries.lock().failed(now, every),
        }
        let mut stats = self.stats.lock();
        stats.running = None;
        stats.failed = done.as_ref().err().cloned();
        if let Ok(done) = done {
            stats.compactions += 1;
            stats.bytes_read += done.bytes_before;
            stats.bytes_written += done.bytes_after;
            stats.records_removed += done.records_before - done.records_after;
        }
    }

    /// Returns the results of past compactions, and the progress of a running one.
    pub(crate) fn stats(&self) -> CompactionStats {
        self.stats.lock().clone()
    }
}

/// When a log is compacted again after a failure. A failed compaction has written as much as it
/// read if the disk is full, so other logs should be compacted first.
#[derive(Default)]
struct Retries {
    failures: u32,
    /// By the monotonic clock.
    not_before: Duration,
}

impl Retries {
    const DELAY_MAX: Duration = Duration::from_secs(600);

    /// Notes a failure. After the first, the next maintenance tries again, after `every`. Then the
    /// delay begins with `every`, and doubles.
    fn failed(&mut self, now: Duration, every: Duration) {
        let delay = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => every.saturating_mul(1 << doublings.min(31)).min(Self::DELAY_MAX),
        };
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(delay);
    }

    fn may_try(&self, now: Duration) -> bool {
        now >= self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_that_keeps_failing_is_tried_less_often() {
        let (every, mut now, mut retries) =
            (Duration::from_secs(100), Duration::from_secs(7), Retries::default());
        assert!(retries.may_try(Duration::ZERO));
        for delay in [0, 100, 200, 400, 600, 600].map(Duration::from_secs) {
            retries.failed(now, every);
            assert!(delay.is_zero() || !retries.may_try(now + delay - Duration::from_nanos(1)), "{delay:?}");
            now += delay;
            assert!(retries.may_try(now), "{delay:?}");
        }
        (0..100).for_each(|_| retries.failed(now, Duration::MAX));
        assert!(retries.may_try(now + Duration::from_secs(600)));
    }
}
