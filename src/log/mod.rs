//! One partition's log: how is a batch appended, when does it become visible, and what happens when the medium fails?
//!
//! The concurrency argument, in one place:
//! - *Appending* is serialized by the writer's lock. Under it: the roll if one is due, the base offset and the header's
//!   checksum, one positional write. Never under it: compression, a body's checksum, a sync of records.
//! - *Ends* are atomics that only grow, but for a cut: `log_end` is stored behind the write, `durable_end` behind a sync,
//!   `visible_end` behind whichever of the two the durability asks for. A reader that loads the visible end (acquire)
//!   therefore finds every byte below it in the file, or in the tail cache.
//! - *Cuts* hold the `shape` lock, the group commit's lead and the writer's lock: nobody appends, syncs or deletes. The
//!   manifest is replaced; then ends, epoch, tail cache and segment list change while `cuts` is odd. Who puts two of them
//!   together, as every cursor does, notes `cuts` before and looks again if it is another one behind.
//! - *Segments* are an immutable list behind an `Arc`, replaced as a whole; a reader keeps the list it started with and
//!   asks for a newer one when it comes to the end. A segment's end and size are stored before the list with its
//!   successor is published, and that before any offset of the successor becomes visible. What leaves the list, by a
//!   cut or because it lies before the log start, leaves it under the `shape` lock. The log start is stored before
//!   the shorter list is published: a cursor that has looked at the list looks at the log start once more.
//! - *Locks* are taken in this order: the journal's gate, shape, writer (the catalog's comes last, where the writer
//!   makes files), the journal's own, the side file of named producers, named producers, manifest,
//!   segment list, `completing` of a segment's keys, the file budget's, one segment's slots, the reserve's. `cleaning` comes before
//!   all of them; `damage`, `poison` and `ended` are taken under any of them, and nothing is under them. The group commit's lock and the
//!   readers' are taken with none of them held but the shape's, or last; `ends` comes behind the manifest.

pub(crate) mod append;
pub(crate) mod commit;
mod compaction;
pub(crate) mod create;
pub(crate) mod cursor;
mod durability;
mod erase;
pub(crate) mod journal;
mod lookup;
mod loss;
mod maintenance;
pub(crate) mod manifest;
pub(crate) mod participate;
pub(crate) mod producers;
pub(crate) mod recovery;
mod replicate;
mod retention;
pub(crate) mod streams;
pub(crate) mod tail;
#[cfg(test)]
mod tests;
mod truncate;
pub(crate) mod walk;

use std::path::PathBuf;
use std::time::Duration;

use self::commit::GroupCommit;
use self::compaction::policy::Retries;
use self::create::stage;
use self::journal::LogJournal;
use self::manifest::ManifestStore;
use self::recovery::transactions::Tail as RecoveredTail;
use self::recovery::{Note, recover};
pub use self::replicate::RawBatches;
use self::tail::Tail;
use crate::config::{
    Cleanup, CompactionSettings, Compression, Durability, Retention, TimestampType, TopicConfig,
};
use crate::engine::{Context, Identity, Waiters};
use crate::error::{Error, Result};
use crate::format::batch::{HEADER_BYTES, Secret, Seed};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::key_hash::KeyHasher;
use crate::format::manifest::{EpochStart, Manifest};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::segment::create::active_entry;
use crate::segment::{Point, Segment};
use crate::stats::{CompactionStats, OpenReport, PartitionStats, SegmentStats};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, Ordering, RwLock};
use crate::types::{Bounds, Offset, PartitionId, Receipt, Timestamp, TopicName};

/// The segments of a log, oldest first; the last one is active.
pub(crate) type Segments = Arc<[Arc<Segment>]>;

/// What of a topic's configuration a log looks at. Copied out under a short lock at each append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSettings {
    pub(crate) compression: Compression,
    pub(crate) durability: Durability,
    pub(crate) max_record_bytes: u32,
    pub(crate) segment_bytes: u32,
    pub(crate) segment_age: Duration,
    pub(crate) index_interval_bytes: u32,
    pub(crate) timestamps: TimestampType,
    pub(crate) retention: Retention,
    pub(crate) cleanup: Cleanup,
    pub(crate) compaction: CompactionSettings,
    pub(crate) streams: bool,
}

impl LogSettings {
    pub(crate) fn new(config: &TopicConfig, default_durability: Durability) -> Self {
        LogSettings {
            compression: config.compression,
            durability: config.durability.unwrap_or(default_durability),
            max_record_bytes: config.max_record_bytes,
            segment_bytes: config.segment_bytes,
            segment_age: config.segment_age,
            index_interval_bytes: config.index_interval_bytes,
            timestamps: config.timestamps,
            retention: config.retention,
            cleanup: config.cleanup,
            compaction: config.compaction,
            streams: config.streams,
        }
    }

    /// Whether a batch whose first record without a key is `keyless` may be appended. Judged under the writer's lock, under
    /// which settings change: a batch may have been begun before.
    ///
    /// # Errors
    /// `MissingKey`.
    fn check_keys(&self, keyless: Option<u32>) -> Result<()> {
        match keyless {
            Some(index) if self.cleanup.compacts() || self.streams => {
                Err(Error::MissingKey { index: index as usize })
            }
            _ => Ok(()),
        }
    }

    /// The largest batch, header and body, that fits a segment.
    pub(crate) fn max_batch_bytes(&self) -> usize {
        (self.segment_bytes as usize).saturating_sub(SEGMENT_HEADER_BYTES)
    }

    /// The largest record, as it is encoded, that is allowed and fits a batch.
    pub(crate) fn max_record_len(&self) -> usize {
        (self.max_record_bytes as usize).min(self.max_batch_bytes().saturating_sub(HEADER_BYTES))
    }
}

/// Where a batch went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub(crate) base_offset: Offset,
    pub(crate) end: Offset,
    pub(crate) epoch: u32,
    /// The time of all its records, if that is the time of the append.
    pub(crate) append_time: Option<Timestamp>,
}

impl Appended {
    /// What the sender of one of its records gets to know.
    pub(crate) fn receipt(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        index: u64,
        timestamp: Timestamp,
    ) -> Receipt {
        Receipt {
            topic: topic.clone(),
            partition,
            offset: self.base_offset.plus(index),
            timestamp: self.append_time.unwrap_or(timestamp),
            epoch: self.epoch,
        }
    }
}

/// One partition's log.
pub(crate) struct Log {
    ctx: Arc<Context>,
    /// The journal of the transactions that this log takes part in.
    journal: Arc<dyn LogJournal>,
    identity: Arc<Identity>,
    seed: Seed,
    hasher: KeyHasher,
    dir: PathBuf,
    settings: RwLock<LogSettings>,
    writer: Mutex<Writer>,
    manifest: ManifestStore,
    segments: RwLock<Segments>,
    tail: Tail,
    commit: GroupCommit,
    waiters: Waiters,
    log_start: AtomicU64,
    visible_end: AtomicU64,
    durable_end: AtomicU64,
    /// What is before this is on the medium, here or in the journal.
    covered_end: AtomicU64,
    log_end: AtomicU64,
    epoch: AtomicU32,
    /// The last point known to be on the medium: what the next checkpoint says.
    durable_point: Mutex<Point>,
    /// Set at opening if durable bytes are damaged: for reading only, until the loss is accepted.
    damage: Mutex<Option<Error>>,
    /// Mirrors `damage`.
    damaged: AtomicBool,
    /// A reader has met damage.
    met_damage: AtomicBool,
    /// Records of it were given up; stays set.
    has_lost: AtomicBool,
    /// What is remembered of producers that have a name; read from the log when the first of them comes,
    /// and anew behind each cut.
    producers: Mutex<producers::Known>,
    /// Whether a named producer may ever have written to it.
    has_senders: AtomicBool,
    /// Held by the thread that reads, changes and replaces the side file of named producers.
    saving_producers: Mutex<()>,
    /// How long the side file of named producers was when it was last written here.
    producers_bytes: AtomicU64,
    /// What opening found at its end.
    recovered: RecoveredTail,
    /// How much of its files there is: see [`create`].
    made: AtomicU8,
    poison: Mutex<Option<Arc<Error>>>,
    /// What every call answers once the broker is closed or the topic deleted.
    ended: Mutex<Option<Error>>,
    /// Mirrors `damage`, `poison` and `ended`, so that an append that may go on looks at one flag.
    refuses_appends: AtomicBool,
    refuses_reads: AtomicBool,
    /// Held by whoever takes segments out of the list. Appending and rolling go on.
    shape: Mutex<()>,
    /// Held over a whole cleaning, before any other lock; what the cleanings so far have done.
    cleaning: Mutex<()>,
    cleaned: Mutex<CompactionStats>,
    retries: Mutex<Retries>,
    /// Held while a cut moves the ends, and by whoever wants to see them together.
    ends: Mutex<()>,
    /// How often the log was cut, times two; odd while a cut moves the ends and the segment list.
    cuts: AtomicU64,
    /// The greatest generation that a file of the log has, or was to have, since it was opened.
    generation: AtomicU32,
    /// The epoch that the last reopen began.
    reopened: AtomicU32,
    queued: AtomicBool,
    wants_sync: AtomicBool,
    interval_armed: AtomicBool,
    /// From this size of the active segment on, retention by size may let something go. 0: not known.
    size_limit: AtomicU64,
    /// An append has come to that size.
    is_over_size: AtomicBool,
    records_appended: AtomicU64,
    batches_appended: AtomicU64,
    bytes_appended: AtomicU64,
    syncs: AtomicU64,
}

/// What only the appender knows.
pub(crate) struct Writer {
    segment: Arc<Segment>,
    point: Point,
    /// Where the last index entry points.
    indexed: u64,
    /// Up to where the journal has to be durable before what has been appended may be called so.
    journal_upto: u64,
}

impl Log {
    /// Opens a partition that has this manifest; files of one without a manifest are made when it is first written to. Never
    /// fails: a partition that cannot be used answers with its error, so that the others can be.
    pub(crate) fn open(
        journal: Arc<dyn LogJournal>,
        identity: Identity,
        dir: PathBuf,
        settings: LogSettings,
        note: Option<Note<'_>>,
        found: Result<Option<Manifest>>,
        report: &mut OpenReport,
    ) -> Arc<Self> {
        let ctx = journal.ctx().clone();
        let manifest = found;
        let made = if let Ok(None) = &manifest { stage::NOTHING } else { stage::FILES };
        let secret = match &manifest {
            Ok(Some(manifest)) => manifest.secret,
            Ok(None) => ctx.new_secret(identity.topic_id, identity.partition),
            Err(_) => Secret::default(),
        };
        let identity = Arc::new(Identity { secret, ..identity });
        let recovered = manifest.and_then(|manifest| match manifest {
            Some(manifest) => recover(&ctx, &*journal, &identity, &dir, manifest, note, report),
            None => Ok(create::unwritten(&identity, &dir)),
        });
        let has_senders = recovered.as_ref().is_ok_and(|found| found.has_senders);
        let (manifest, segments, point, damage, tail) = match recovered {
            Ok(found) => {
                if let Some(active) = found.segments.last().filter(|_| found.damage.is_none()) {
                    // All of it is on the medium, as the recovery saw to it.
                    active.mark_synced();
                }
                (found.manifest, found.segments, found.point, found.damage, found.tail)
            }
            Err(error) => {
                let manifest = Manifest {
                    topic_id: identity.topic_id,
                    partition: identity.partition,
                    secret,
                    log_start: Offset::ZERO,
                    epochs: Vec::new(),
                    segments: Vec::new(),
                    lost: Vec::new(),
                };
                (
                    manifest,
                    Vec::new(),
                    Point::start_of(Offset::ZERO, 0, 0, 0),
                    Some(error),
                    RecoveredTail::default(),
                )
            }
        };
        if let Some(error) = &damage {
            report.damaged.push((identity.topic.clone(), identity.partition, error.clone()));
        }
        let unusable = segments.is_empty();
        let active = segments
            .last()
            .cloned()
            .unwrap_or_else(|| Arc::new(Segment::from_entry(&dir, &active_entry(Offset::ZERO, 0, 0), None)));
        let end = point.end.get();
        Arc::new(Log {
            ctx,
            journal,
            seed: identity.seed(),
            hasher: KeyHasher::new(&identity.secret),
            settings: RwLock::new(settings),
            writer: Mutex::new(Writer { segment: active, point, indexed: point.position, journal_upto: 0 }),
            segments: RwLock::new(segments.into()),
            tail: Tail::new(),
            commit: GroupCommit::new(end),
            waiters: Waiters::default(),
            log_start: AtomicU64::new(manifest.log_start.get()),
            visible_end: AtomicU64::new(end),
            durable_end: AtomicU64::new(end),
            covered_end: AtomicU64::new(end),
            log_end: AtomicU64::new(end),
            epoch: AtomicU32::new(manifest.epoch()),
            generation: AtomicU32::new(manifest.segments.iter().map(|s| s.generation).max().unwrap_or(0)),
            durable_point: Mutex::new(point),
            refuses_appends: AtomicBool::new(damage.is_some()),
            has_lost: AtomicBool::new(!manifest.lost.is_empty()),
            manifest: ManifestStore::new(&dir, manifest),
            refuses_reads: AtomicBool::new(unusable),
            damaged: AtomicBool::new(damage.is_some()),
            damage: Mutex::new(damage),
            met_damage: AtomicBool::new(false),
            producers: Mutex::default(),
            has_senders: AtomicBool::new(has_senders),
            saving_producers: Mutex::new(()),
            producers_bytes: AtomicU64::new(0),
            recovered: tail,
            made: AtomicU8::new(made),
            poison: Mutex::new(None),
            ended: Mutex::new(None),
            shape: Mutex::new(()),
            cleaning: Mutex::new(()),
            cleaned: Mutex::new(CompactionStats::default()),
            retries: Mutex::new(Retries::default()),
            ends: Mutex::new(()),
            cuts: AtomicU64::new(0),
            reopened: AtomicU32::new(0),
            queued: AtomicBool::new(false),
            wants_sync: AtomicBool::new(false),
            interval_armed: AtomicBool::new(false),
            size_limit: AtomicU64::new(0),
            is_over_size: AtomicBool::new(false),
            records_appended: AtomicU64::new(0),
            batches_appended: AtomicU64::new(0),
            bytes_appended: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            identity,
            dir,
        })
    }

    // -- what it is --

    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    pub(crate) fn topic(&self) -> &TopicName {
        &self.identity.topic
    }

    pub(crate) fn partition(&self) -> PartitionId {
        self.identity.partition
    }

    pub(crate) fn settings(&self) -> LogSettings {
        *self.settings.read()
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn visible_end(&self) -> Offset {
        Offset::new(self.visible_end.load(Ordering::Acquire))
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let _no_cut = self.ends.lock();
        // Each end is read before those that it cannot pass.
        let (log_start, visible_end, durable_end) =
            (self.log_start(), self.visible_end(), Offset::new(self.durable_end.load(Ordering::Acquire)));
        Bounds {
            log_start,
            visible_end,
            durable_end,
            log_end: Offset::new(self.log_end.load(Ordering::Acquire)),
        }
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// What this log shares with the others of its broker.
    #[cfg(test)]
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn ctx(&self) -> &Context {
        &self.ctx
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    fn tail(&self) -> &Tail {
        &self.tail
    }

    fn segments(&self) -> Segments {
        self.segments.read().clone()
    }

    /// The error of a read at an offset that is not in the log.
    pub(crate) fn out_of_range(&self, requested: Offset) -> Error {
        Error::OffsetOutOfRange {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            requested,
            earliest: self.log_start(),
            latest: self.visible_end(),
        }
    }

    /// The error of an append that expected the log to end elsewhere than at `end`.
    fn conflict(&self, end: Offset) -> Error {
        Error::OffsetConflict { topic: self.identity.topic.clone(), partition: self.identity.partition, end }
    }

    /// A number that changes with every cut. Waits for the end of one that is under way, which takes no I/O.
    pub(crate) fn cuts(&self) -> u64 {
        loop {
            let cuts = self.cuts.load(Ordering::Acquire);
            if cuts.is_multiple_of(2) {
                return cuts;
            }
            drop(self.ends.lock());
        }
    }

    /// A generation for files beside others of the same base offset. Nobody else gets it: what is written under it is
    /// the caller's, to list or to remove, whoever else writes such files meanwhile. Generation 0 is none of them: it goes to
    /// the segments that are begun at an offset where there is none.
    ///
    /// # Errors
    /// There is none left.
    fn next_generation(&self) -> Result<u32> {
        let next = |last: u32| last.checked_add(1);
        let given = self.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        given.map(|last| last.saturating_add(1)).map_err(|_| self.identity.generations_exhausted())
    }

    /// Begins an epoch at the log's end, because where the log had ended before this opening cannot be proven: offsets from here
    /// on may have been given out before, to records that are gone. Before any is served. The caller makes it durable; the next
    /// manifest that is written has it too.
    ///
    /// Returns nothing if the log takes no appends, because then no offset is given out again.
    pub(crate) fn begin_epoch_of_opening(&self) -> Option<EpochStart> {
        self.check_writable().ok()?;
        let start = Offset::new(self.log_end.load(Ordering::Acquire));
        let mut manifest = self.manifest.get();
        manifest.begin_epoch(start);
        let epoch = manifest.epoch();
        self.epoch.store(epoch, Ordering::Release);
        Some(EpochStart { epoch, start })
    }

    /// Whether a position taken in `epoch` still means the same place.
    ///
    /// # Errors
    /// `Truncated` if the log was cut before it since. Also if the epoch is later than the log's,
    /// for example because an older copy of the directory was put in place: then nothing says how
    /// far the two pasts are the same. (Kafka answers such a request with an undefined end offset,
    /// and the consumer resets.)
    pub(crate) fn check_position(&self, offset: Offset, epoch: u32) -> Result<()> {
        let cut = match self.common_end(epoch) {
            Common::All => None,
            Common::UpTo(to) => Some(to).filter(|to| offset > *to),
            Common::Unknown => {
                let end = Offset::new(self.log_end.load(Ordering::Acquire));
                Some(offset.min(end)).filter(|_| offset > Offset::ZERO)
            }
        };
        match cut {
            Some(to) => Err(Error::Truncated {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                to,
            }),
            _ => Ok(()),
        }
    }

    /// How far the log is what it was in `epoch`.
    pub(crate) fn common_end(&self, epoch: u32) -> Common {
        let manifest = self.manifest.get();
        if epoch > manifest.epoch() {
            return Common::Unknown;
        }
        let later = manifest.epochs.iter().filter(|later| later.epoch > epoch);
        later.map(|later| later.start).min().map_or(Common::All, Common::UpTo)
    }

    /// # Errors
    /// Closed, deleted, or nothing of the partition can be read.
    pub(crate) fn check_readable(&self) -> Result<()> {
        if !self.refuses_reads.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(error) = &*self.ended.lock() {
            return Err(error.clone());
        }
        self.damage.lock().clone().map_or(Ok(()), Err)
    }

    /// Whether its topic has been deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        matches!(&*self.ended.lock(), Some(Error::TopicDeleted { .. }))
    }

    /// Whether durable bytes were found damaged when it was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Whether it takes no appends until it is [reopened](Log::reopen).
    pub(crate) fn is_poisoned(&self) -> bool {
        self.refuses_appends.load(Ordering::Acquire) && self.poison.lock().is_some()
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if !self.refuses_appends.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(error) = &*self.ended.lock() {
            return Err(error.clone());
        }
        if let Some(error) = &*self.damage.lock() {
            return Err(error.clone());
        }
        match &*self.poison.lock() {
            Some(cause) => Err(Error::Poisoned {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    // -- its end --

    /// Takes a new configuration. What waits for a sync that is not asked for any more becomes visible.
    pub(crate) fn set_settings(&self, settings: LogSettings) {
        let writer = self.writer.lock();
        *self.settings.write() = settings;
        self.size_limit.store(0, Ordering::Relaxed);
        if settings.durability != Durability::Sync && self.poison.lock().is_none() {
            self.visible_end.fetch_max(writer.point.end.get(), Ordering::AcqRel);
        }
        drop(writer);
        self.wake_readers();
    }

    /// Syncs and closes everything. From now on every call answers `Closed`. Answers the point that a clean shutdown
    /// may name, if everything is on the medium.
    pub(crate) fn close(&self) -> Result<Option<CheckpointEntry>> {
        {
            let _shape = self.shape.lock();
            let _writer = self.writer.lock();
            let mut ended = self.ended.lock();
            if ended.is_some() {
                return Ok(None);
            }
            *ended = Some(Error::Closed);
            self.refuses_appends.store(true, Ordering::Release);
        }
        let synced = match (&*self.damage.lock(), &*self.poison.lock()) {
            (None, None) => None,
            (Some(error), _) => Some(Err(error.clone())),
            (None, Some(cause)) => Some(Err(Error::clone(cause))),
        };
        let synced = synced.unwrap_or_else(|| self.sync().and_then(|()| self.sync_empty()));
        // A broker that has changed nothing leaves the directory as it found it.
        if synced.is_ok() && self.has_files() && !self.ctx.gate.is_shut() {
            self.finish_sealed();
            if let Some(file) = self.unsaved_producers() {
                self.save_producers(&file);
            }
            let (segment, point) = {
                let writer = self.writer.lock();
                (writer.segment.clone(), writer.point)
            };
            *self.durable_point.lock() = point;
            segment.save_index(&self.ctx, &self.identity, point.position, point.end);
            if self.settings().streams {
                segment.save_active_keys(&self.ctx, &self.identity, point.position);
            }
        }
        self.end(Error::Closed);
        // Damage has been reported at opening; it does not make closing fail.
        match synced {
            Ok(()) => Ok(self.checkpoint()),
            Err(_) if self.is_damaged() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Syncs an active segment of which nothing has been written but its header: no append waits for that one, and the
    /// mark of a clean close vouches for it.
    fn sync_empty(&self) -> Result<()> {
        let segment = self.writer.lock().segment.clone();
        if segment.is_dirty() { segment.sync(&self.ctx).map_err(|e| self.poison(e)) } else { Ok(()) }
    }

    /// From now on every call answers with `error`: the broker was closed or the topic deleted. Readers are woken. On return
    /// nobody cleans any more, so nobody writes or removes files of the log.
    pub(crate) fn end(&self, error: Error) {
        {
            let _shape = self.shape.lock();
            let _writer = self.writer.lock();
            self.ended.lock().get_or_insert(error.clone());
            self.refuses_appends.store(true, Ordering::Release);
            self.refuses_reads.store(true, Ordering::Release);
        }
        self.manifest.close();
        self.commit.fail(error);
        self.waiters.signal();
        self.tail.clear(&self.ctx);
        for segment in self.segments().iter() {
            segment.release();
        }
        // Behind all of the above, so that a cleaning finds out and gives up, and last: nobody waits for this thread but whoever
        // waits for the end. It cannot be waited for in turn. A cleaning, and what it ticks for, takes locks of logs, of the
        // journal and of the checkpoint, and reads the list of topics; who calls this holds none of those (the catalog's is
        // not among them), what they cover is not waited for by others once the log has ended, and the worker has been
        // joined before a broker closes its logs. Nobody ends a log while cleaning: no handle is dropped there, and who is
        // told of an event must not call the broker.
        drop(self.cleaning.lock());
    }

    pub(crate) fn stats(&self) -> PartitionStats {
        let segments: Vec<_> = self
            .segments()
            .iter()
            .filter(|_| self.has_files())
            .map(|segment| SegmentStats {
                file: self.ctx.display(&segment.path),
                base_offset: segment.base,
                bytes: segment.size(),
                sealed: segment.is_sealed(),
            })
            .collect();
        PartitionStats {
            id: self.identity.partition,
            bounds: self.bounds(),
            epoch: self.epoch(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            records_appended: self.records_appended.load(Ordering::Relaxed),
            batches_appended: self.batches_appended.load(Ordering::Relaxed),
            bytes_appended: self.bytes_appended.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            compaction: self.compaction_stats(),
            poisoned: self
                .damage
                .lock()
                .clone()
                .or_else(|| self.poison.lock().as_ref().map(|cause| Error::clone(cause))),
        }
    }
}

/// How far a log is what it was in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Common {
    /// It was not cut since.
    All,
    /// Up to an offset.
    UpTo(Offset),
    /// The epoch is a later one than the log's.
    Unknown,
}
