//! How far a model is, and steps until nothing is left.

use std::time::Duration;

/// How far a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many events were applied by the call.
    pub applied: u64,
    /// About how many visible events of its partitions are still to be applied.
    pub lag: u64,
    /// Whether the call returned because of [`ReaderHandle::wakeup`](crate::ReaderHandle::wakeup).
    pub woken_up: bool,
}

/// How long a step of catching up waits for events: others may have to hand partitions over first.
const WAIT: Duration = Duration::from_millis(20);

/// Steps until nothing is left, or a wake-up, or several steps bring nothing, because another
/// consumer has the partitions or is about to get them.
pub(super) fn catch_up<E>(
    mut step: impl FnMut(Duration) -> Result<Progress, E>,
    mut report: impl FnMut(&Progress),
) -> Result<u64, E> {
    const IDLE_MAX: u32 = 3;
    let (mut applied, mut idle, mut timeout) = (0, 0, WAIT);
    while idle < IDLE_MAX {
        let progress = step(timeout)?;
        applied += progress.applied;
        report(&progress);
        if progress.woken_up {
            break;
        }
        idle = if progress.applied > 0 { 0 } else { idle + 1 };
        if progress.lag == 0 && applied > 0 {
            // One more step, which reports an error where nothing seems to be left.
            (idle, timeout) = (idle + IDLE_MAX - 1, Duration::ZERO);
        }
    }
    Ok(applied)
}
