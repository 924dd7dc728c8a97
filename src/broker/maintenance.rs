//! Background work: functions of the state and the time, called by two threads, or by a test.
//!
//! The timer runs due work (lingering batches); the worker syncs, finishes sealed segments and
//! writes checkpoints. For many partitions at once it starts other threads, and waits for them.
//! None of these threads keeps the broker alive. Under a manual clock none exists: moving the clock,
//! polling a reader and [`maintain`](crate::Broker::maintain) run the same functions.

use std::cell::Cell;
use std::path::Path;

use super::checkpoint::CheckpointStore;
use super::producer_names::ProducerNames;
use super::store::CatalogStore;
use super::topic_state::TopicState;
use super::topics::Topics;
use crate::engine::{Context, Identity, Keeper, Later, Reserve, Work};
use crate::error::{Error, IoAction, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::journal::JOURNAL_HEADER_BYTES;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::group::Coordinator;
use crate::log::{Log, compaction, maintenance, retention};
use crate::storage::budget::{Budget, BudgetClaim};
use crate::sync::{Arc, Mutex, Rank, RwLock, Weak, thread};
use crate::types::{GroupId, Offset, PartitionId};

/// The state that background work uses. Separate from the broker, so that a thread that holds it
/// does not keep the broker open: when the last handle goes, the directory's lock goes with it, not
/// some time later.
pub(super) struct Maintenance {
    pub(super) ctx: Arc<Context>,
    pub(super) topics: RwLock<Topics>,
    pub(super) catalog: Arc<CatalogStore>,
    pub(super) checkpoints: CheckpointStore,
    pub(super) groups: Coordinator,
    pub(super) producers: ProducerNames,
    /// Held over each change of topics and names of producers, before any other lock.
    pub(super) changing: Arc<Mutex<()>>,
    /// Held by the thread that deletes to make room.
    pub(super) making_room: Mutex<()>,
}

/// The broker's two threads, if it has them.
pub(super) struct Threads(Mutex<Vec<thread::JoinHandle<()>>>);

impl Threads {
    pub(super) fn none() -> Self {
        Threads(Mutex::new(Rank::Threads, Vec::new()))
    }

    /// Starts both.
    ///
    /// # Errors
    /// The system refuses a thread: without both, lingering batches would not be written and
    /// nothing would be synced.
    pub(super) fn start(&self, maintenance: &Arc<Maintenance>) -> Result<()> {
        let ctx = maintenance.ctx.clone();
        self.spawn("quipu-timer", maintenance, move || {
            ctx.timer.run_until_stopped(&*ctx.clock, &ctx.events)
        })?;
        let of_worker = maintenance.clone();
        self.spawn("quipu-worker", maintenance, move || run_worker(&of_worker))
    }

    /// Starts the timer only: a directory that is followed has no other work.
    ///
    /// # Errors
    /// As [`start`](Threads::start).
    pub(super) fn start_timer(&self, maintenance: &Arc<Maintenance>) -> Result<()> {
        let ctx = maintenance.ctx.clone();
        self.spawn("quipu-follower", maintenance, move || {
            ctx.timer.run_until_stopped(&*ctx.clock, &ctx.events)
        })
    }

    fn spawn(
        &self,
        name: &str,
        maintenance: &Maintenance,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let dir = maintenance.ctx.display(Path::new(""));
        let started = thread::Builder::new().name(name.to_string()).spawn(body);
        let handle = started.map_err(|e| Error::io(IoAction::StartThread, &dir, e))?;
        self.0.lock().push(handle);
        Ok(())
    }

    /// Stops both and waits for them, except for the one that calls this.
    pub(super) fn stop(&self, ctx: &Context) {
        ctx.timer.stop();
        ctx.work.stop();
        let this = thread::current().id();
        for handle in std::mem::take(&mut *self.0.lock()) {
            if handle.thread().id() == this {
                // The last handle was dropped here, for example by a waker that was called: this
                // thread ends once it comes back from there, and changes nothing more.
                continue;
            }
            // It ends without a panic: all are caught and kept for the result of the close.
            let _ = handle.join();
        }
    }
}

/// The body of the worker's thread. Work that panics ends neither the thread nor other work.
fn run_worker(maintenance: &Maintenance) {
    let events = &maintenance.ctx.events;
    while events.catch(WORKER, || work_until_stopped(maintenance)).is_none() {
        if maintenance.ctx.work.pause() {
            return;
        }
    }
}

const WORKER: &str = "work of the worker, or the clock";

fn work_until_stopped(maintenance: &Maintenance) {
    let (ctx, every) = (&maintenance.ctx, maintenance.ctx.settings.maintenance_interval);
    let mut next = ctx.clock.monotonic().saturating_add(every);
    loop {
        let timeout = next.saturating_sub(ctx.clock.monotonic());
        let Some(logs) = ctx.work.wait(&*ctx.clock, timeout) else { return };
        maintenance.work_for(logs);
        if ctx.clock.monotonic() >= next {
            // A checkpoint that could not be written is written the next time.
            let _ = maintenance.maintain();
            next = ctx.clock.monotonic().saturating_add(every);
        }
        ctx.events.deliver();
    }
}

impl Maintenance {
    /// Under a manual clock: runs due work, and work that was requested of the worker.
    pub(super) fn run_due(&self) {
        if self.ctx.clock.is_manual() {
            self.do_due();
        }
    }

    fn do_due(&self) {
        self.ctx.timer.run_due(self.ctx.clock.monotonic());
        self.work_for(self.ctx.work.take());
    }

    /// Does requested work. IMPORTANT: all of it, also after one has panicked. A log is queued
    /// once, and callers wait for its sync.
    fn work_for(&self, queued: Vec<Arc<dyn Work>>) {
        let work_caught = |work: &Arc<dyn Work>| {
            self.ctx.events.catch(WORKER, || work.work());
        };
        if !self.ctx.in_parallel(&queued, work_caught) {
            queued.iter().for_each(work_caught);
        }
    }

    pub(super) fn maintain(&self) -> Result<()> {
        self.do_due();
        let written = self.look_after_logs();
        self.compact();
        if self.catalog.with(|catalog| catalog.deleting().next().is_some()) {
            // A deletion that is under way notes its end itself, and must be the only one that does.
            let _changing = self.changing.lock();
            // Files that cannot be removed now are removed the next time.
            let _ = super::trash::settle(&self.ctx, &self.catalog);
        }
        let expired = {
            let _changing = self.changing.lock();
            self.producers.expire(&self.ctx, &self.catalog)
        };
        // Under a manual clock the timer may not have been due.
        self.ctx.publisher().publish();
        written.and(expired)
    }

    /// The periodic work, except compaction.
    fn look_after_logs(&self) -> Result<()> {
        let mut entries = Vec::new();
        let topics = self.topics.read().to_vec();
        for state in &topics {
            let holds = self.holds(state);
            for log in state.logs().iter() {
                maintenance::maintain(log, hold_of(holds.as_deref(), log.partition()));
                entries.extend(maintenance::checkpoint(log));
            }
        }
        self.ctx.reserve.maintain(self.reserve_size(&topics, entries.len()));
        self.checkpoints.write(&self.ctx, false, self.catalog.place(), entries)
    }

    /// How large the reserve has to be: for one replacement of the largest manifest, the catalog
    /// and the copy of it, the checkpoint, an empty journal, and a segment's header.
    fn reserve_size(&self, topics: &[Arc<TopicState>], entries: usize) -> u64 {
        let logs = topics.iter().flat_map(|state| state.logs().to_vec());
        let manifest = logs.map(|log| log.deletion_bytes()).max().unwrap_or(0);
        let headers = SEGMENT_HEADER_BYTES + JOURNAL_HEADER_BYTES + Checkpoint::encoded_len(entries);
        Reserve::size_for(manifest + 2 * self.catalog.place().bytes + headers as u64)
    }

    /// From where on retention keeps each partition of a topic for the groups that it is to wait
    /// for; `None` if there is none.
    fn holds(&self, state: &TopicState) -> Option<Vec<Offset>> {
        let config = state.settings();
        if config.retention_holds.is_empty() {
            return None;
        }
        let groups = config.retention_holds.iter().filter_map(|group| GroupId::new(group).ok());
        let groups: Vec<_> = groups.collect();
        let everything = vec![Offset::ZERO; state.logs().len()];
        // Without a log no group has committed anything.
        let Some(log) = self.topics.read().offsets_log() else { return Some(everything) };
        let offsets = self.groups.offsets();
        let read = offsets.attach(log.clone()).map(|()| {
            let hold = |log: &Arc<Log>| {
                let committed = groups.iter().map(|group| offsets.holds(group, log));
                committed.min().unwrap_or(Offset::ZERO)
            };
            state.logs().iter().map(hold).collect()
        });
        // IMPORTANT: sync after the look. Commits that a power loss could take back must not let
        // records be deleted.
        Some(read.and_then(|holds| log.sync().map(|()| holds)).unwrap_or(everything))
    }

    /// Deletes segments as retention allows. Returns whether there were any.
    fn make_room(&self) -> bool {
        let _later = Later::new();
        let Some(_alone) = self.making_room.try_lock() else {
            // Another thread is doing it. Whatever that has freed may be enough.
            drop(self.making_room.lock());
            return true;
        };
        let topics = self.topics.read().to_vec();
        let mut went = false;
        for state in topics.iter().filter(|state| state.settings().cleanup.deletes()) {
            let holds = self.holds(state);
            for log in state.logs().iter() {
                went |= retention::delete_expired(log, hold_of(holds.as_deref(), log.partition()));
            }
        }
        went
    }

    /// Claims bytes of the budget, after deleting the oldest segments that may be deleted while
    /// there is no room.
    fn evict(&self, budget: &Arc<Budget>, bytes: u64, margin: u64) -> Result<BudgetClaim> {
        let _later = Later::new();
        // One at a time: two would delete twice as much as is needed.
        let _alone = self.making_room.lock();
        let topics = self.topics.read().to_vec();
        let mut expirable = Vec::new();
        for state in topics.iter().filter(|state| {
            let config = state.settings();
            config.cleanup.deletes() && (config.retention.age.is_some() || config.retention.bytes.is_some())
        }) {
            let holds = self.holds(state);
            let logs = state.logs().to_vec();
            expirable
                .extend(logs.into_iter().map(|log| (hold_of(holds.as_deref(), log.partition()), state, log)));
        }
        let everything = Offset::new(u64::MAX);
        loop {
            if let Some(claim) = budget.claim(bytes, margin) {
                return Ok(claim);
            }
            let oldest = expirable.iter().enumerate().filter_map(|(at, (hold, _, log))| {
                retention::oldest_evictable(log, *hold).map(|oldest| (oldest, at))
            });
            let oldest = oldest.min().map(|(_, at)| at);
            let Some((at, (hold, _, log))) = oldest.and_then(|at| Some((at, expirable.get(at)?))) else {
                let held = expirable.iter().filter_map(|(_, state, log)| {
                    retention::oldest_evictable(log, everything).map(|oldest| (oldest, state, log))
                });
                let held = held.min_by_key(|(oldest, _, _)| *oldest);
                let held_by = held.and_then(|(_, state, log)| self.holder(state, log));
                return Err(Error::OverBudget { limit: budget.limit(), used: budget.used(), held_by });
            };
            if !retention::evict(log, *hold) {
                // It cannot be deleted now: an I/O error, or another thread was faster.
                expirable.swap_remove(at);
            }
        }
    }

    /// The group that holds the most of a partition.
    fn holder(&self, state: &TopicState, log: &Log) -> Option<GroupId> {
        let config = state.settings();
        let groups = config.retention_holds.iter().filter_map(|group| GroupId::new(group).ok());
        let offsets = self.groups.offsets();
        groups.min_by_key(|group| offsets.holds(group, log))
    }

    /// Compacts the logs that ask for it, the dirtiest first. A failure is reported in the
    /// partition's statistics, and the compaction is tried again the next time; after repeated
    /// failures less and less often.
    fn compact(&self) {
        if !self.ctx.reserve.may_write_derived() {
            return;
        }
        let logs = self.topics.read().to_vec();
        let logs = logs.iter().flat_map(|state| state.logs().to_vec());
        // A cleaning may take hours. IMPORTANT: nothing else waits for it.
        let next_time = || self.ctx.clock.monotonic().saturating_add(self.ctx.settings.maintenance_interval);
        let next = Cell::new(next_time());
        let tick = || {
            self.work_for(self.ctx.work.take());
            if self.ctx.clock.monotonic() >= next.get() {
                let _ = self.look_after_logs();
                next.set(next_time());
            }
        };
        let mut dirty: Vec<_> =
            logs.filter_map(|log| Some((compaction::is_wanted(&log, &tick)?, log))).collect();
        dirty.sort_by_key(|((dirtiness, _), _)| std::cmp::Reverse(*dirtiness));
        for ((_, extent), log) in dirty {
            // As long as passes get somewhere.
            while let Ok(Some(done)) = compaction::compact_in_passing(&log, extent, &tick) {
                if done.complete || self.ctx.work.is_stopped() {
                    break;
                }
            }
        }
    }
}

/// From where on one partition is kept. One that has been added since holds everything.
fn hold_of(holds: Option<&[Offset]>, partition: PartitionId) -> Offset {
    let Some(holds) = holds else { return Offset::new(u64::MAX) };
    holds.get(partition.get() as usize).copied().unwrap_or(Offset::ZERO)
}

impl Keeper for Weak<Maintenance> {
    fn hold(&self, of: &Identity) -> Offset {
        let Some(maintenance) = self.upgrade() else { return Offset::ZERO };
        let state = maintenance.topics.read().by_id(&of.topic_id).cloned();
        let Some(state) = state else { return Offset::ZERO };
        hold_of(maintenance.holds(&state).as_deref(), of.partition)
    }

    fn make_room(&self) -> bool {
        self.upgrade().is_some_and(|maintenance| maintenance.make_room())
    }

    fn evict(&self, budget: &Arc<Budget>, bytes: u64, margin: u64) -> Result<BudgetClaim> {
        self.upgrade().map_or(Err(Error::Closed), |maintenance| maintenance.evict(budget, bytes, margin))
    }
}
