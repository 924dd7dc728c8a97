//! Who does the background work? Functions of the state and the time, called by two threads, or by a test itself.
//!
//! The timer runs what is due (lingering batches); the worker syncs, finishes sealed segments and writes checkpoints.
//! Neither keeps the broker alive. Under a manual clock neither exists: moving the clock, polling a reader and
//! [`maintain`](crate::Broker::maintain) run the same functions.

use std::time::Duration;

use super::TopicState;
use super::checkpoint::CheckpointStore;
use crate::error::Result;
use crate::log::Context;
use crate::sync::{Arc, Mutex, RwLock, thread};

/// What background work looks at. Apart from the broker, so that a thread that holds it does not keep the broker open: when
/// the last handle goes, the directory's lock goes with it, not some time later.
pub(super) struct Upkeep {
    pub(super) ctx: Arc<Context>,
    /// By name.
    pub(super) topics: RwLock<Vec<Arc<TopicState>>>,
    pub(super) checkpoints: CheckpointStore,
}

/// The broker's two threads, if it has them.
pub(super) struct Threads(Mutex<Vec<thread::JoinHandle<()>>>);

impl Threads {
    pub(super) fn none() -> Self {
        Threads(Mutex::new(Vec::new()))
    }

    /// Starts both. A system that refuses threads gets them done by `maintain`.
    pub(super) fn start(&self, upkeep: &Arc<Upkeep>, every: Duration) {
        let ctx = upkeep.ctx.clone();
        let timer = thread::Builder::new()
            .name("quipu-timer".to_string())
            .spawn(move || ctx.timer.run_until_stopped(&*ctx.clock));
        let upkeep = upkeep.clone();
        let worker =
            thread::Builder::new().name("quipu-worker".to_string()).spawn(move || run_worker(&upkeep, every));
        self.0.lock().extend([timer, worker].into_iter().flatten());
    }

    /// Stops both and waits for them.
    pub(super) fn stop(&self, ctx: &Context) {
        ctx.timer.stop();
        ctx.work.stop();
        for handle in std::mem::take(&mut *self.0.lock()) {
            // A panic in it has been printed by the runtime; there is nothing to add.
            let _ = handle.join();
        }
    }
}

fn run_worker(upkeep: &Upkeep, every: Duration) {
    let ctx = &upkeep.ctx;
    let mut next = ctx.clock.monotonic().saturating_add(every);
    loop {
        let timeout = next.saturating_sub(ctx.clock.monotonic());
        let Some(logs) = ctx.work.wait(&*ctx.clock, timeout) else { return };
        for log in logs {
            log.work();
        }
        if ctx.clock.monotonic() >= next {
            // A checkpoint that could not be written is written the next time.
            let _ = upkeep.maintain();
            next = ctx.clock.monotonic().saturating_add(every);
        }
    }
}

impl Upkeep {
    /// Under a manual clock: runs what is due, and what was asked of the worker.
    pub(super) fn run_due(&self) {
        if self.ctx.clock.is_manual() {
            self.do_due();
        }
    }

    fn do_due(&self) {
        self.ctx.timer.run_due(self.ctx.clock.monotonic());
        for log in self.ctx.work.take() {
            log.work();
        }
    }

    pub(super) fn maintain(&self) -> Result<()> {
        self.do_due();
        let mut entries = Vec::new();
        for state in self.topics.read().clone() {
            for log in state.logs().iter() {
                log.maintain();
                entries.extend(log.checkpoint());
            }
        }
        let written = self.checkpoints.write(&self.ctx, false, entries);
        self.compact();
        written
    }

    /// Cleans the logs that ask for it, the dirtiest first. What fails is told in the partition's numbers, and tried again the
    /// next time.
    fn compact(&self) {
        let logs = self.topics.read().clone();
        let logs = logs.iter().flat_map(|state| state.logs().to_vec());
        let mut dirty: Vec<_> = logs.filter_map(|log| Some((log.wants_cleaning()?, log))).collect();
        dirty.sort_by_key(|(dirtiness, _)| std::cmp::Reverse(*dirtiness));
        for (_, log) in dirty {
            // As long as passes get somewhere.
            while let Ok(Some(done)) = log.clean(|| self.do_due_work()) {
                if done.complete || self.ctx.work.is_stopped() {
                    break;
                }
            }
        }
    }

    /// What was asked of the worker while it cleans.
    fn do_due_work(&self) {
        for log in self.ctx.work.take() {
            log.work();
        }
    }
}
