//! What do all logs of a broker share? The medium, the clock, the budgets, and the queues of background work.

pub(crate) mod files;
mod identity;
mod notify;
mod pool;
mod reserve;
mod timer;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::files::{Counted, FileBudget};
pub(crate) use self::identity::Identity;
pub(crate) use self::notify::{Parked, Waiter, Waiters};
pub(crate) use self::pool::{Buffer, BufferPool};
pub(crate) use self::reserve::{MayBeFull, Reserve};
pub(crate) use self::timer::{Task, Timer};
pub(crate) use self::work::{Work, WorkQueue};
use crate::clock::Clock;
use crate::config::{BrokerConfig, ReadMode};
use crate::error::{Corruption, Error, Result};
use crate::format::batch::Secret;
use crate::format::reader::Malformed;
use crate::rng::random_bytes;
use crate::stats::{Event, OnEvent};
use crate::storage::Storage;
use crate::storage::budget::{Budget, BudgetStorage, Claim};
use crate::storage::gate::{GatedStorage, WriteGate};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, OnceLock, Ordering, Rank, about_to_call_user_code};
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// Told that a partition has files from now on. It must take no lock of a log.
type OnFiles = Box<dyn Fn(&Context, &Identity) + Send + Sync>;

/// What the logs of a broker ask of it. Called with no lock of a log held, and none of a group.
pub(crate) trait Keeper: Send + Sync {
    /// The offset from which on retention keeps a partition for the groups that its topic waits for.
    fn hold(&self, of: &Identity) -> Offset;

    /// Deletes what retention lets go, in every partition, now. Returns whether anything went.
    fn make_room(&self) -> bool;

    /// Claims bytes of the budget, with a margin. Deletes the oldest of what may go as long as there is no room.
    ///
    /// # Errors
    /// `OverBudget`: nothing more may go.
    fn evict(&self, budget: &Arc<Budget>, bytes: u64, margin: u64) -> Result<Claim>;
}

/// One per broker.
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
    pub(crate) reserve: Reserve,
    keeper: OnceLock<Box<dyn Keeper>>,
    budget: Option<Arc<Budget>>,
    /// Takes note that a partition has files: the broker's part.
    on_files: OnceLock<OnFiles>,
    /// The wall clock and the monotonic one when the broker was opened.
    opened: (Timestamp, Duration),
    on_event: Option<OnEvent>,
    /// Events that happened while a lock was held.
    events: Mutex<Vec<Event>>,
    has_events: AtomicBool,
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
            on_files: OnceLock::new(),
            opened: (config.clock.now(), config.clock.monotonic()),
            on_event: config.on_event.clone(),
            events: Mutex::new(Rank::Events, Vec::new()),
            has_events: AtomicBool::new(false),
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
    pub(crate) fn hold(&self, of: &Identity) -> Offset {
        self.keeper.get().map_or(Offset::ZERO, |keeper| keeper.hold(of))
    }

    /// See [`Keeper::make_room`].
    pub(crate) fn make_room(&self) -> bool {
        self.keeper.get().is_some_and(|keeper| keeper.make_room())
    }

    /// Claims what a write of so many bytes takes of the budget, if there is one, until the answer is dropped. With no lock of
    /// a log held, and none of a group: the oldest records may have to go first.
    ///
    /// # Errors
    /// `OverBudget`: nothing may go.
    pub(crate) fn claim(&self, bytes: impl FnOnce() -> u64) -> Result<Option<Claim>> {
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
    pub(crate) fn note_files(&self, identity: &Identity) {
        if let Some(note) = self.on_files.get() {
            note(self, identity);
        }
    }

    /// Calls the event listener, if there is one. No lock is held but, by maintenance during a compaction, the right to
    /// compact: a listener must not call the broker.
    pub(crate) fn event(&self, event: &Event) {
        if let Some(f) = &self.on_event {
            about_to_call_user_code("the event listener", &[Rank::Compacting]);
            f(event);
        }
    }

    /// As [`event`](Context::event), for a caller that may hold locks: the listener is called by the next
    /// [`deliver`](Context::deliver).
    pub(crate) fn event_later(&self, event: Event) {
        if self.on_event.is_some() {
            self.events.lock().push(event);
            self.has_events.store(true, Ordering::Release);
        }
    }

    /// Calls the event listener with the events that waited. No lock is held.
    #[inline]
    pub(crate) fn deliver(&self) {
        if self.has_events.load(Ordering::Acquire) {
            self.deliver_all();
        }
    }

    #[cold]
    fn deliver_all(&self) {
        self.has_events.store(false, Ordering::Release);
        let events = std::mem::take(&mut *self.events.lock());
        events.iter().for_each(|event| self.event(event));
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

/// A corruption at a place in one of our files.
pub(crate) fn corrupt(ctx: &Context, path: &Path, position: u64, what: &str) -> Error {
    Error::corrupt(&ctx.display(path), position, what)
}

/// What a decoder's complaint means: an unsupported format, or a corruption. `base` is where the decoded bytes lie in the file.
pub(crate) fn malformed(ctx: &Context, path: &Path, base: u64, malformed: &Malformed) -> Error {
    match malformed.unsupported {
        Some(needs) => Error::UnsupportedFormat {
            path: ctx.display(path),
            found: needs.version(),
            supported: crate::format::FORMAT_VERSION,
            needs: needs.to_string(),
        },
        None => Error::Corrupt(Corruption {
            file: ctx.display(path),
            position: base + malformed.position,
            what: malformed.what.to_string(),
            offset: None,
            resume: None,
        }),
    }
}
