//! The parts that all logs of a broker share: storage, clock, budgets, and the queues of background
//! work. Knows no log and no journal.

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
use crate::storage::budget::{Budget, BudgetClaim, BudgetStorage};
use crate::storage::gate::{GatedStorage, WriteGate};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, OnceLock, Ordering, Rank, about_to_call_user_code};
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// Called when a partition gets its first files. It must take no lock of a log.
type OnFiles = Box<dyn Fn(&Context, &Identity) + Send + Sync>;

/// The broker, as its logs see it. The caller must hold no lock of a log and none of a group.
pub(crate) trait Keeper: Send + Sync {
    /// Returns the offset from which on retention must keep the partition, because a group that its
    /// topic waits for has not read the records from there on.
    fn hold(&self, of: &Identity) -> Offset;

    /// Deletes the records that retention may delete, in every partition, now. Returns whether any
    /// were deleted.
    fn make_room(&self) -> bool;

    /// Claims bytes of the budget, with a margin. Deletes the oldest deletable records until there
    /// is room.
    ///
    /// # Errors
    /// `OverBudget` if nothing more may be deleted.
    fn evict(&self, budget: &Arc<Budget>, bytes: u64, margin: u64) -> Result<BudgetClaim>;
}

/// The state that all logs of a broker share. There is one per broker.
pub(crate) struct Context {
    pub(crate) storage: Arc<dyn Storage>,
    /// The gate that every change through `storage` passes.
    pub(crate) gate: Arc<WriteGate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: u64,
    /// Set if every run must produce the same bytes.
    pub(crate) fixed_seed: Option<u64>,
    pub(crate) read_mode: ReadMode,
    /// The directory is only read: no file is opened for writing.
    pub(crate) read_only: bool,
    pub(crate) pool: BufferPool,
    pub(crate) timer: Timer,
    pub(crate) work: WorkQueue,
    pub(crate) files: FileBudget,
    pub(crate) parked: Parked,
    pub(crate) tail_bytes_max: usize,
    pub(crate) compaction_memory: usize,
    pub(crate) compaction_rate: Option<u64>,
    /// The time between two runs of maintenance.
    pub(crate) maintenance_interval: Duration,
    pub(crate) tail_bytes: AtomicUsize,
    pub(crate) reserve: Reserve,
    keeper: OnceLock<Box<dyn Keeper>>,
    budget: Option<Arc<Budget>>,
    /// Notes that a partition has files. Set by the broker.
    on_files: OnceLock<OnFiles>,
    /// The wall clock and the monotonic clock when the broker was opened.
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
            maintenance_interval: config.checkpoint_interval,
            tail_bytes: AtomicUsize::new(0),
            on_files: OnceLock::new(),
            opened: (config.clock.now(), config.clock.monotonic()),
            on_event: config.on_event.clone(),
            events: Mutex::new(Rank::Events, Vec::new()),
            has_events: AtomicBool::new(false),
        }
    }

    /// A context for reading a directory that no broker has open.
    pub(crate) fn for_reading(storage: Arc<dyn Storage>) -> Self {
        let config = BrokerConfig::new().read_mode(ReadMode::Positional);
        Context { read_only: true, ..Context::new(storage, &config, 0) }
    }

    /// Sets the function that is called for a partition that gets its first files. Must be called
    /// once, before the first log is opened.
    pub(crate) fn set_on_files(&self, on_files: impl Fn(&Context, &Identity) + Send + Sync + 'static) {
        let _ = self.on_files.set(Box::new(on_files));
    }

    /// Sets the keeper. Must be called once, after opening: before that nothing is deleted to make
    /// room.
    pub(crate) fn set_keeper(&self, keeper: impl Keeper + 'static) {
        let _ = self.keeper.set(Box::new(keeper));
    }

    /// See [`Keeper::hold`]. Without a keeper, returns zero: every record is held.
    pub(crate) fn hold(&self, of: &Identity) -> Offset {
        self.keeper.get().map_or(Offset::ZERO, |keeper| keeper.hold(of))
    }

    /// See [`Keeper::make_room`]. Without a keeper, returns false.
    pub(crate) fn make_room(&self) -> bool {
        self.keeper.get().is_some_and(|keeper| keeper.make_room())
    }

    /// Claims so many bytes of the budget, if there is one. The claim lasts until it is dropped.
    /// The caller must hold no lock of a log and none of a group, because the oldest records may
    /// have to be deleted first.
    ///
    /// # Errors
    /// `OverBudget` if there is no room and nothing may be deleted.
    pub(crate) fn claim(&self, bytes: impl FnOnce() -> u64) -> Result<Option<BudgetClaim>> {
        let Some(budget) = &self.budget else { return Ok(None) };
        let bytes = bytes().saturating_add(self.reserve.missing());
        // Room for the files written along the way: indexes, the checkpoint, the catalog.
        let margin = (budget.limit() / 16).min(64 << 10);
        if let Some(claim) = budget.claim(bytes, margin) {
            return Ok(Some(claim));
        }
        match self.keeper.get() {
            Some(keeper) => keeper.evict(budget, bytes, margin).map(Some),
            None => Err(Error::OverBudget { limit: budget.limit(), used: budget.used(), held_by: None }),
        }
    }

    /// Reports that a partition has files now.
    pub(crate) fn note_files(&self, identity: &Identity) {
        if let Some(note) = self.on_files.get() {
            note(self, identity);
        }
    }

    /// Passes an event to the user's callback, if there is one.
    pub(crate) fn event(&self, event: &Event) {
        if let Some(f) = &self.on_event {
            about_to_call_user_code("the event listener", &[Rank::Compacting]);
            f(event);
        }
    }

    /// The time used for deletion: min(wall clock, wall clock at open + monotonic time since). A
    /// forward jump of the wall clock expires nothing.
    pub(crate) fn event_later(&self, event: Event) {
        if self.on_event.is_some() {
            self.events.lock().push(event);
            self.has_events.store(true, Ordering::Release);
        }
    }
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
    pub(crate) fn cautious_now(&self) -> Timestamp {
        let (wall, monotonic) = self.opened;
        let passed = self.clock.monotonic().saturating_sub(monotonic);
        self.clock.now().min(wall.plus(passed))
    }

    /// Returns the random bytes of a new partition. Under a fixed seed they are derived from the
    /// seed and the topic's id, which is never used twice.
    pub(crate) fn new_secret(&self, topic_id: TopicId, partition: PartitionId) -> Secret {
        let id = u128::from_le_bytes(topic_id.0);
        let salt = (id as u64) ^ ((id >> 64) as u64).rotate_left(32) ^ u64::from(partition.get());
        Secret(random_bytes(self.fixed_seed, salt))
    }

    /// Returns a path as messages show it.
    pub(crate) fn display(&self, path: &Path) -> PathBuf {
        self.storage.display(path)
    }
}

/// The error for damage at a position of a file of this broker.
pub(crate) fn corrupt(ctx: &Context, path: &Path, position: u64, what: &str) -> Error {
    Error::corrupt(&ctx.display(path), position, what)
}

/// Turns a decoder's failure into an error: unsupported format, or corruption. `base` is the file
/// position of the decoded bytes.
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
