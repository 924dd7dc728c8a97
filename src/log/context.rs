//! What do all logs of a broker share? The medium, the clock, the budgets, and the queues of background work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Log;
use super::batch::Identity;
use super::files::FileBudget;
use super::journal::Journal;
use super::notify::Parked;
use super::pool::BufferPool;
use super::reserve::Reserve;
use super::timer::Timer;
use crate::clock::Clock;
use crate::config::{BrokerConfig, ReadMode};
use crate::error::{Error, Result};
use crate::format::batch::Secret;
use crate::rng::random_bytes;
use crate::stats::{Event, OnEvent};
use crate::storage::Storage;
use crate::storage::budget::{Budget, BudgetStorage, Claim};
use crate::storage::gate::{GatedStorage, WriteGate};
use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, OnceLock};
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// Told that a partition has files from now on. It must take no lock of a log.
type OnFiles = Box<dyn Fn(&Context, &Identity) + Send + Sync>;

/// What the logs of a broker ask of it. Called with no lock of a log held, and none of a group.
pub(crate) trait Keeper: Send + Sync {
    /// The offset from which on retention keeps a partition for the groups that its topic waits for.
    fn hold(&self, log: &Log) -> Offset;

    /// Deletes what retention lets go, in every partition, now. Returns whether anything went.
    fn make_room(&self) -> bool;

    /// Claims bytes of the budget, with a margin. Deletes the oldest of what may go as long as there is no room.
    ///
    /// # Errors
    /// `OverBudget`: nothing more may go.
    fn evict(&self, budget: &Arc<Budget>, bytes: u64, margin: u64) -> Result<Claim>;
}

/// One per broker. It holds no log for long, so a log may hold it.
pub(crate) struct Context {
    pub(crate) storage: Arc<dyn Storage>,
    /// What every change through `storage` passes.
    pub(crate) gate: Arc<WriteGate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: u64,
    /// Set if every run is to be the same.
    pub(crate) fixed_seed: Option<u64>,
    pub(crate) read_mode: ReadMode,
    /// Nothing is written: no file is opened for it.
    pub(crate) read_only: bool,
    pub(crate) pool: BufferPool,
    pub(crate) timer: Timer,
    pub(crate) work: WorkQueue,
    pub(crate) files: FileBudget,
    pub(crate) parked: Parked,
    pub(crate) tail_bytes_max: usize,
    pub(crate) compaction_memory: usize,
    pub(crate) compaction_rate: Option<u64>,
    /// How often there is upkeep.
    pub(crate) upkeep_interval: Duration,
    pub(crate) tail_bytes: AtomicUsize,
    /// Empty of logs whenever the broker is closed.
    pub(crate) journal: Journal,
    pub(crate) reserve: Reserve,
    keeper: OnceLock<Box<dyn Keeper>>,
    budget: Option<Arc<Budget>>,
    /// Takes note that a partition has files: the broker's part.
    on_files: OnceLock<OnFiles>,
    /// The wall clock and the monotonic one when the broker was opened.
    opened: (Timestamp, Duration),
    on_event: Option<OnEvent>,
}

impl Context {
    pub(crate) fn new(storage: Arc<dyn Storage>, config: &BrokerConfig, seed: u64) -> Self {
        let budget = config.disk_budget.map(Budget::new);
        let storage = match &budget {
            Some(budget) => Arc::new(BudgetStorage::new(storage, budget)) as Arc<dyn Storage>,
            None => storage,
        };
        let storage = GatedStorage::new(storage);
        Context {
            budget,
            reserve: Reserve::new(storage.can_be_full()),
            keeper: OnceLock::new(),
            gate: storage.gate(),
            storage: Arc::new(storage),
            clock: config.clock.clone(),
            seed,
            fixed_seed: config.seed,
            read_mode: config.read_mode,
            read_only: false,
            pool: BufferPool::new(),
            timer: Timer::new(),
            work: WorkQueue::default(),
            files: FileBudget::new(config.max_open_files),
            parked: Parked::default(),
            tail_bytes_max: config.tail_cache_bytes,
            compaction_memory: config.compaction_memory,
            compaction_rate: config.compaction_bytes_per_second,
            upkeep_interval: config.checkpoint_interval,
            tail_bytes: AtomicUsize::new(0),
            journal: Journal::new(),
            on_files: OnceLock::new(),
            opened: (config.clock.now(), config.clock.monotonic()),
            on_event: config.on_event.clone(),
        }
    }

    /// For who only looks at a directory that no broker has open.
    pub(crate) fn for_reading(storage: Arc<dyn Storage>) -> Self {
        let config = BrokerConfig::new().read_mode(ReadMode::Positional);
        Context { read_only: true, ..Context::new(storage, &config, 0) }
    }

    /// Sets what is told of partitions that get files. Once, before the first log is opened.
    pub(crate) fn tell_files(&self, tell: impl Fn(&Context, &Identity) + Send + Sync + 'static) {
        let _ = self.on_files.set(Box::new(tell));
    }

    /// Sets what retention asks. Once, when opening is done: before that nothing is let go to make room.
    pub(crate) fn set_keeper(&self, keeper: impl Keeper + 'static) {
        let _ = self.keeper.set(Box::new(keeper));
    }

    /// See [`Keeper::hold`]. Without a keeper everything is held.
    pub(super) fn hold(&self, log: &Log) -> Offset {
        self.keeper.get().map_or(Offset::ZERO, |keeper| keeper.hold(log))
    }

    /// See [`Keeper::make_room`].
    pub(super) fn make_room(&self) -> bool {
        self.keeper.get().is_some_and(|keeper| keeper.make_room())
    }

    /// Claims what a write of so many bytes takes of the budget, if there is one, until the answer is dropped. With no lock of
    /// a log held, and none of a group: the oldest records may have to go first.
    ///
    /// # Errors
    /// `OverBudget`: nothing may go.
    pub(super) fn claim(&self, bytes: impl FnOnce() -> u64) -> Result<Option<Claim>> {
        let Some(budget) = &self.budget else { return Ok(None) };
        let bytes = bytes().saturating_add(self.reserve.missing());
        // For the files that are written beside: indexes, the checkpoint, the catalog.
        let margin = (budget.limit() / 16).min(64 << 10);
        if let Some(claim) = budget.claim(bytes, margin) {
            return Ok(Some(claim));
        }
        match self.keeper.get() {
            Some(keeper) => keeper.evict(budget, bytes, margin).map(Some),
            None => Err(Error::OverBudget { limit: budget.limit(), used: budget.used(), held_by: None }),
        }
    }

    /// A partition has files now.
    pub(super) fn note_files(&self, identity: &Identity) {
        if let Some(note) = self.on_files.get() {
            note(self, identity);
        }
    }

    /// Tells whoever asked to be told.
    pub(crate) fn event(&self, event: &Event) {
        if let Some(f) = &self.on_event {
            f(event);
        }
    }

    /// What time it is for whoever deletes what is old: no later than the wall clock says, and no later than it can be by
    /// the time that has passed since the broker was opened. So a wall clock that jumps ahead makes nothing old.
    pub(crate) fn cautious_now(&self) -> Timestamp {
        let (wall, monotonic) = self.opened;
        let passed = self.clock.monotonic().saturating_sub(monotonic);
        self.clock.now().min(wall.plus(passed))
    }

    /// The random bytes of a new partition. Under a fixed seed they follow from that and from the topic's identity, which is
    /// never given out twice.
    pub(crate) fn new_secret(&self, topic_id: TopicId, partition: PartitionId) -> Secret {
        let id = u128::from_le_bytes(topic_id.0);
        let salt = (id as u64) ^ ((id >> 64) as u64).rotate_left(32) ^ u64::from(partition.get());
        Secret(random_bytes(self.fixed_seed, salt))
    }

    /// A path for messages.
    pub(crate) fn display(&self, path: &Path) -> PathBuf {
        self.storage.display(path)
    }
}

/// The logs that want the worker: to sync what is not visible yet, and to finish sealed segments.
#[derive(Default)]
pub(crate) struct WorkQueue {
    state: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    logs: Vec<Arc<Log>>,
    stopped: bool,
}

impl WorkQueue {
    /// Asks for [`Log::work`] on a log. The log itself sees to it that it is queued once.
    pub(crate) fn push(&self, log: Arc<Log>) {
        self.state.lock().logs.push(log);
        self.changed.notify_one();
    }

    /// Whatever is queued.
    pub(crate) fn take(&self) -> Vec<Arc<Log>> {
        std::mem::take(&mut self.state.lock().logs)
    }

    /// Waits for work for at most `timeout`; `None` once stopped.
    pub(crate) fn wait(&self, clock: &dyn Clock, timeout: Duration) -> Option<Vec<Arc<Log>>> {
        let mut state = self.state.lock();
        if state.logs.is_empty() && !state.stopped {
            crate::clock::wait_timeout(clock, &self.changed, &mut state, timeout);
        }
        if state.stopped { None } else { Some(std::mem::take(&mut state.logs)) }
    }

    /// Whether the broker is being closed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Ends [`wait`](WorkQueue::wait).
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}
