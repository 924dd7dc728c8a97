//! All states in which a crash may leave a disk, and a check of each.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

use super::disk::Disk;
use crate::error::Result;
use crate::storage::mem::Survive;

/// The history of a disk: [`explore`] passes it to its check, and a failure names it.
///
/// To reproduce the state: `disk.crash_at(cut)`, run the workload, `disk.crash(survive)`; and if
/// there is a `later` loss, run the check, keep what it returns, and `disk.crash(later)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrashState {
    /// The operation of the workload at which it was stopped: this one was not executed, nor any
    /// after it. One more than the workload has if it was not stopped.
    pub cut: u64,
    /// The content that survived. [`Survive::Everything`]: only the process died.
    pub survive: Survive,
    /// After that the check has been run once, and then the power was lost while its result was
    /// still open.
    pub later: Option<Survive>,
}

impl CrashState {
    /// Whether only the process died so far. If so, everything that it noted must be there.
    pub fn is_kill(&self) -> bool {
        self.survive == Survive::Everything && self.later.is_none()
    }
}

impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crash_at({}), then crash({:?})", self.cut, self.survive)?;
        match self.later {
            Some(later) => write!(f, ", checked, then crash({later:?})"),
            None => Ok(()),
        }
    }
}

/// The extent of a run of [`explore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explored {
    /// Operations of the workload: it was stopped at each, and once at none.
    pub operations: u64,
    /// States in which the check was run.
    pub states: u64,
    /// States of those that were reached by a kill, an opening and a power loss.
    pub later: u64,
    /// The number of places where a sample of the power losses was tried, because too many
    /// operations were pending.
    pub sampled: u64,
    /// The most operations that were pending anywhere.
    pub most_pending: usize,
}

/// Stops a program at every operation on its disk, and checks every state that a crash may leave
/// there.
///
/// `workload` is the program: it opens a broker [on the disk](crate::BrokerConfig::on_disk) and
/// notes results, for example that a record was acknowledged. From the stop on all its operations
/// fail; it should return the error. It is run again for each stop, so it must do the same each
/// time: under a [`ManualClock`](crate::testing::ManualClock), with a
/// [seed](crate::BrokerConfig::seed), in one thread.
///
/// `check` opens the disk and panics if something that must be there is missing. It is run
///
/// 1. where only the process was killed,
/// 2. after each of the [power losses](Disk::power_losses) instead of the kill,
/// 3. after each of the power losses that follow on 1: killed, opened by `check`, perhaps written
///    to, then the power lost. The notes of `check` in 1 are passed to it in 3. Its result stays
///    open until the power is lost: return the broker, because a closed broker has nothing pending.
///
/// A workload of n operations has about 10 n to 100 n states; each costs a run of `check`, and each
/// stop a run of the workload: some hundred operations take seconds. Of more than 64 different
/// losses at one place a sample is tried: [`Explored::sampled`] counts these places.
///
/// # Errors
/// That of the workload if it is not stopped.
///
/// # Panics
/// If `check` does, with its message and the [`CrashState`].
///
/// ```
/// use quipu::testing::{ManualClock, explore, produced};
/// use quipu::{BrokerConfig, Durability, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let open = |disk: &_| BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk);
/// let explored = explore(
///     |disk, paid: &mut usize| {
///         let broker = open(disk)?;
///         let topic = broker.create_topic("paid", TopicConfig::new().durability(Durability::Sync))?;
///         broker.producer().send(&topic, Record::new("42 EUR"))?.wait()?;
///         *paid += 1;
///         Ok(())
///     },
///     |disk, paid, state| {
///         let broker = open(disk).unwrap();
///         let found = broker.topic("paid").map_or(0, |_| produced(&broker, "paid").unwrap().len());
///         assert!(found >= *paid, "{found} of {paid} payments are there");
///         if state.is_kill() {
///             // Seen once is seen for ever, whatever happens next.
///             *paid = found;
///         }
///         broker
///     },
/// )?;
/// assert!(explored.states > 10 * explored.operations);
/// # Ok(()) }
/// ```
#[allow(clippy::panic, reason = "a failing check of a test ends it, and the state must be told")]
pub fn explore<T: Clone + Default, R>(
    workload: impl Fn(&Disk, &mut T) -> Result<()>,
    mut check: impl FnMut(&Disk, &mut T, &CrashState) -> R,
) -> Result<Explored> {
    let whole = Disk::new();
    workload(&whole, &mut T::default())?;
    let mut explored = Explored { operations: whole.ops(), ..Explored::default() };
    for cut in 1..=explored.operations.saturating_add(1) {
        let (disk, mut told) = (Disk::new(), T::default());
        disk.crash_at(cut);
        // It may fail or succeed.
        let _ = workload(&disk, &mut told);
        let mut look = |disk: &Disk, told: &mut T, state: CrashState| {
            explored.states = explored.states.saturating_add(1);
            match catch_unwind(AssertUnwindSafe(|| check(disk, told, &state))) {
                Ok(open) => open,
                Err(panic) => panic_any(format!("{}\nstate: {state}", text(&*panic))),
            }
        };
        let losses = disk.power_losses(cut);
        let mut tried = vec![(disk.pending(), losses.clone())];
        for survive in losses {
            let (left, mut told) = (disk.duplicate(), told.clone());
            left.crash(survive);
            drop(look(&left, &mut told, CrashState { cut, survive, later: None }));
        }

        disk.crash(Survive::Everything);
        let killed = CrashState { cut, survive: Survive::Everything, later: None };
        let open = look(&disk, &mut told, killed);
        let losses = disk.power_losses(cut);
        tried.push((disk.pending(), losses.clone()));
        let later = losses.len() as u64;
        for loss in losses {
            let (left, mut told) = (disk.duplicate(), told.clone());
            left.crash(loss);
            drop(look(&left, &mut told, CrashState { later: Some(loss), ..killed }));
        }
        // Dropping it changes nothing any more.
        disk.crash(Survive::Everything);
        drop(open);

        explored.later = explored.later.saturating_add(later);
        for (pending, losses) in tried {
            explored.most_pending = explored.most_pending.max(pending);
            explored.sampled += u64::from(losses.contains(&Survive::Subset(u64::MAX)));
        }
    }
    Ok(explored)
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the check has panicked")
}
