//! The parts that all logs of a broker share: storage, clock, budgets, and the queues of background
//! work. Knows no log and no journal.

mod events;
pub(crate) mod files;
mod held_files;
mod identity;
mod notify;
pub(crate) mod observe;
pub(crate) mod opened;
mod parallel;
mod pool;
pub(crate) mod publish;
mod reserve;
mod room;
mod timer;
mod unpacked;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::events::{Events, Later, caught};
pub(crate) use self::files::FileBudget;
pub(crate) use self::held_files::InsideBackup;
use self::held_files::{HeldFiles, NoBackup};
pub(crate) use self::identity::Identity;
pub(crate) use self::notify::{Interest, Readers, Waiter, Waiters};
pub(crate) use self::opened::{OpenedFile, OpenedMap};
pub(crate) use self::pool::{Buffer, BufferPool};
pub(crate) use self::publish::{Mark, Published, Publisher};
pub(crate) use self::reserve::{MayBeFull, Reserve};
pub(crate) use self::room::Keeper;
use self::room::Room;
pub(crate) use self::timer::{Task, Timer};
pub(crate) use self::unpacked::{Unpacked, UnpackedPlace};
pub(crate) use self::work::{Work, WorkQueue};
use crate::clock::Clock;
use crate::config::{BrokerConfig, ReadMode};
use crate::error::{Corruption, Error, Result};
use crate::format::batch::Secret;
use crate::format::reader::Malformed;
use crate::rng::random_bytes;
use crate::storage::Storage;
use crate::storage::budget::{Budget, BudgetClaim, BudgetStorage};
use crate::storage::descriptors::DescriptorStorage;
use crate::storage::gate::{GatedStorage, WriteGate};
use crate::sync::{Arc, AtomicUsize, OnceLock};
use crate::types::{PartitionId, Timestamp, TopicId};

/// Called when a partition gets its first files. It must take no lock of a log.
type OnFiles = Box<dyn Fn(&Context, &Identity) + Send + Sync>;

/// Called when something of a partition could not be read. Returns whether the partition is another
/// one since, so that the caller should look again.
type OnUnread = Box<dyn Fn(&Identity) -> bool + Send + Sync>;

/// The values of the broker's configuration that its logs use, and how the directory is used.
pub(crate) struct Settings {
    pub(crate) read_mode: ReadMode,
    /// The directory is only read: no file is opened for writing.
    pub(crate) read_only: bool,
    pub(crate) seed: u64,
    /// Set if every run must produce the same bytes.
    pub(crate) fixed_seed: Option<u64>,
    /// The most bytes of [`KeptBatches::tail_bytes`].
    pub(crate) tail_bytes_max: usize,
    pub(crate) compaction_memory: usize,
    pub(crate) compaction_rate: Option<u64>,
    /// The time between two runs of maintenance.
    pub(crate) maintenance_interval: Duration,
    /// How many threads may sync files at once.
    pub(crate) sync_threads: usize,
}

impl Settings {
    fn of(config: &BrokerConfig, seed: u64) -> Self {
        Settings {
            seed,
            read_mode: config.read_mode,
            read_only: false,
            fixed_seed: config.seed,
            tail_bytes_max: config.tail_cache_bytes,
            compaction_memory: config.compaction_memory,
            compaction_rate: config.compaction_bytes_per_second,
            maintenance_interval: config.checkpoint_interval,
            sync_threads: config.sync_threads,
        }
    }
}

/// The batches that are kept in memory for later reads.
pub(crate) struct KeptBatches {
    /// The bytes of the newest batches that all logs keep in memory.
    pub(crate) tail_bytes: AtomicUsize,
    pub(crate) unpacked: Unpacked,
}

/// Whom the logs tell what.
struct Notices {
    /// Readers in other processes, how far they may read.
    publisher: Arc<Publisher>,
    /// The catalog, that a partition has files. Set by the broker.
    on_files: OnceLock<OnFiles>,
    /// The follower of an owner, that something could not be read. Set where there is one.
    on_unread: OnceLock<OnUnread>,
}

/// The state that all logs of a broker share. There is one per broker.
pub(crate) struct Context {
    pub(crate) storage: Arc<dyn Storage>,
    /// The gate that every change through `storage` passes.
    pub(crate) gate: Arc<WriteGate>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The wall clock and the monotonic clock when the broker was opened.
    opened_at: (Timestamp, Duration),
    pub(crate) settings: Settings,
    pub(crate) pool: BufferPool,
    pub(crate) timer: Timer,
    pub(crate) work: WorkQueue,
    pub(crate) files: Arc<FileBudget>,
    pub(crate) readers: Readers,
    pub(crate) kept: KeptBatches,
    pub(crate) reserve: Reserve,
    pub(crate) room: Room,
    pub(crate) held_files: HeldFiles,
    pub(crate) events: Arc<Events>,
    notices: Notices,
}

impl Context {
    pub(crate) fn new(storage: Arc<dyn Storage>, config: &BrokerConfig, seed: u64) -> Self {
        let files = Arc::new(FileBudget::new(config.max_open_files, &storage.process_limits()));
        let budget = config.disk_budget.map(Budget::new);
        let storage = match &budget {
            Some(budget) => Arc::new(BudgetStorage::new(storage, budget)) as Arc<dyn Storage>,
            None => storage,
        };
        let storage: Arc<dyn Storage> = Arc::new(DescriptorStorage::new(storage, files.clone()));
        let publisher = Arc::new(Publisher::new(storage.clone(), &*config.clock));
        let storage = GatedStorage::new(storage);
        let gate = storage.gate();
        let storage: Arc<dyn Storage> = Arc::new(storage);
        Context {
            reserve: Reserve::new(storage.clone()),
            storage,
            gate,
            clock: config.clock.clone(),
            opened_at: (config.clock.now(), config.clock.monotonic()),
            settings: Settings::of(config, seed),
            pool: BufferPool::new(),
            timer: Timer::new(),
            work: WorkQueue::default(),
            files,
            readers: Readers::default(),
            kept: KeptBatches { tail_bytes: AtomicUsize::new(0), unpacked: Unpacked::new() },
            room: Room::new(budget),
            held_files: HeldFiles::default(),
            events: Arc::new(Events::new(config.on_event.clone())),
            notices: Notices { publisher, on_files: OnceLock::new(), on_unread: OnceLock::new() },
        }
    }

    /// A context for reading a directory that no broker has open.
    pub(crate) fn for_reading(storage: Arc<dyn Storage>) -> Self {
        let config = BrokerConfig::new().read_mode(ReadMode::Positional);
        let mut ctx = Context::new(storage, &config, 0);
        ctx.settings.read_only = true;
        ctx
    }

    /// A context for a directory of another owner: every change is refused.
    pub(crate) fn for_following(storage: Arc<dyn Storage>, config: &BrokerConfig) -> Self {
        let config = BrokerConfig { disk_budget: None, ..config.clone() };
        let mut ctx = Context::new(storage, &config, config.seed.unwrap_or(0));
        ctx.settings.read_only = true;
        ctx.gate.shut(|_| Err(std::io::ErrorKind::ReadOnlyFilesystem.into()));
        ctx
    }

    /// Sets the function that is called for a partition that gets its first files. Must be called
    /// once, before the first log is opened.
    pub(crate) fn set_on_files(&self, on_files: impl Fn(&Context, &Identity) + Send + Sync + 'static) {
        let _ = self.notices.on_files.set(Box::new(on_files));
    }

    /// Sets the function that is called when something of a partition could not be read.
    pub(crate) fn set_on_unread(&self, on_unread: impl Fn(&Identity) -> bool + Send + Sync + 'static) {
        let _ = self.notices.on_unread.set(Box::new(on_unread));
    }

    /// Returns whether a partition of which something could not be read is another one since. The
    /// caller must hold no lock.
    #[cold]
    pub(crate) fn has_changed(&self, identity: &Identity) -> bool {
        self.notices.on_unread.get().is_some_and(|look| look(identity))
    }

    /// Keeps a backup from starting, until the guard is dropped. Waits for one that is running. The
    /// caller must hold no lock.
    ///
    /// # Errors
    /// `BackupRunning` if the backup waits for this call.
    pub(crate) fn no_backup(&self) -> Result<NoBackup<'_>> {
        self.held_files.no_backup().map_err(|InsideBackup| self.backup_running())
    }

    /// The error of a call that would have to wait for the backup from which it is made.
    pub(crate) fn backup_running(&self) -> Error {
        Error::BackupRunning { path: self.display(Path::new("")) }
    }

    /// Claims so many bytes of the budget, if there is one, and those of a missing reserve. The
    /// claim lasts until it is dropped. The caller must hold no lock of a log and none of a group,
    /// because the oldest records may have to be deleted first.
    ///
    /// # Errors
    /// `OverBudget` if there is no room and nothing may be deleted.
    #[inline]
    pub(crate) fn claim(&self, bytes: impl FnOnce() -> u64) -> Result<Option<BudgetClaim>> {
        self.room.claim(|| bytes().saturating_add(self.reserve.missing()))
    }

    /// Lets the timer's thread make the calls that this thread has kept with [`Later`] so far.
    /// Under a manual clock there is no such thread, and they wait for the drop of that.
    pub(crate) fn hand_over_calls(&self) {
        if !self.clock.is_manual() {
            self.timer.hand_over_calls(&*self.clock);
        }
    }

    /// Publishes what has changed in the catalog.
    pub(crate) fn publish_catalog(&self) {
        self.notices.publisher.note_catalog(&self.timer, &*self.clock);
    }

    /// Publishes that a log has changed, which its mark has shown.
    #[cold]
    pub(crate) fn publish(&self, mark: &Mark) {
        self.notices.publisher.note(mark, &self.timer, &*self.clock);
    }

    /// Returns the writer of the file `owner`.
    pub(crate) fn publisher(&self) -> &Arc<Publisher> {
        &self.notices.publisher
    }

    /// Reports that a partition has files now.
    pub(crate) fn note_files(&self, identity: &Identity) {
        if let Some(note) = self.notices.on_files.get() {
            note(self, identity);
        }
    }

    /// The time used for deletion: min(wall clock, wall clock at open + monotonic time since). A
    /// forward jump of the wall clock expires nothing.
    pub(crate) fn cautious_now(&self) -> Timestamp {
        let (wall, monotonic) = self.opened_at;
        let passed = self.clock.monotonic().saturating_sub(monotonic);
        self.clock.now().min(wall.plus(passed))
    }

    /// Returns the random bytes of a new partition. Under a fixed seed they are derived from the
    /// seed and the topic's id, which is never used twice.
    pub(crate) fn new_secret(&self, topic_id: TopicId, partition: PartitionId) -> Secret {
        let id = u128::from_le_bytes(topic_id.0);
        let salt = (id as u64) ^ ((id >> 64) as u64).rotate_left(32) ^ u64::from(partition.get());
        Secret(random_bytes(self.settings.fixed_seed, salt))
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
            partition: None,
            file: ctx.display(path),
            position: base + malformed.position,
            what: malformed.what.to_string(),
            offset: None,
            resume: None,
        }),
    }
}
