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

mod append;
pub(crate) mod commit;
mod compaction;
mod counters;
pub(crate) mod create;
pub(crate) mod cursor;
mod durability;
pub(crate) mod ends;
mod erase;
mod health;
pub(crate) mod journal;
pub(crate) mod list;
mod lookup;
mod loss;
mod maintenance;
pub(crate) mod manifest;
pub(crate) mod participate;
pub(crate) mod producers;
pub(crate) mod recovery;
mod reopen;
mod replicate;
mod retention;
pub(crate) mod streams;
mod switch;
pub(crate) mod tail;
#[cfg(test)]
mod tests;
mod transitions;
mod truncate;
pub(crate) mod walk;
mod writer;

use std::path::PathBuf;

use self::compaction::Compactor;
use self::counters::Counters;
use self::create::stage;
use self::durability::SyncState;
use self::health::Health;
use self::journal::LogJournal;
use self::list::{SegmentList, Segments};
use self::manifest::ManifestStore;
use self::producers::ProducerTable;
use self::recovery::transactions::Tail as RecoveredTail;
use self::recovery::{Note, recover};
pub use self::replicate::RawBatches;
use self::tail::Tail;
use self::writer::Writer;
use crate::config::{Durability, TopicConfig};
use crate::engine::{Context, Identity, Waiters};
use crate::error::{Error, Result};
use crate::format::batch::{HEADER_BYTES, Secret, Seed};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::key_hash::KeyHasher;
use crate::format::manifest::{EpochStart, Manifest};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::segment::create::active_entry;
use crate::segment::{Point, Segment};
use crate::stats::{OpenReport, PartitionStats, SegmentStats};
use crate::sync::{Arc, Rank, RwLock};
use crate::types::{Bounds, Offset, PartitionId, Receipt, Timestamp, TopicName, TopicPartition};

/// The settings of a topic: one value, shared by the topic and its logs, and replaced as a whole
/// when the topic is altered.
///
/// The topic and each log hold it under a lock of their own, which is taken to clone the `Arc` and
/// no longer. A log replaces it under its writer's lock.
#[derive(Debug)]
pub(crate) struct LogSettings {
    config: TopicConfig,
    /// The durability of the topic, or else the broker's.
    pub(crate) durability: Durability,
}

impl std::ops::Deref for LogSettings {
    type Target = TopicConfig;

    fn deref(&self) -> &TopicConfig {
        &self.config
    }
}

impl LogSettings {
    pub(crate) fn new(config: TopicConfig, default_durability: Durability) -> Arc<Self> {
        Arc::new(LogSettings { durability: config.durability.unwrap_or(default_durability), config })
    }

    /// Whether a batch whose first record without a key is `keyless` may be appended. Judged under the writer's lock, under
    /// which settings change: a batch may have been begun before.
    ///
    /// # Errors
    /// `MissingKey`.
    fn check_keys(&self, topic: &TopicName, keyless: Option<u32>) -> Result<()> {
        match keyless {
            Some(index) if self.needs_keys() => {
                Err(Error::MissingKey { topic: topic.clone(), index: index as usize })
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
    settings: RwLock<Arc<LogSettings>>,
    list: SegmentList,
    writer: Writer,
    manifest: ManifestStore,
    tail: Tail,
    waiters: Waiters,
    health: Health,
    durability: SyncState,
    compactor: Compactor,
    producers: ProducerTable,
    counters: Counters,
    /// The transactions that opening found after the last point known to be on the medium.
    recovered: RecoveredTail,
}

impl Log {
    /// Opens a partition that has this manifest; files of one without a manifest are made when it is first written to. Never
    /// fails: a partition that cannot be used answers with its error, so that the others can be.
    pub(crate) fn open(
        journal: Arc<dyn LogJournal>,
        identity: Identity,
        dir: PathBuf,
        settings: Arc<LogSettings>,
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
            report.damaged.push((identity.topic_partition(), error.clone()));
        }
        let is_readable = !segments.is_empty();
        let active = segments
            .last()
            .cloned()
            .unwrap_or_else(|| Arc::new(Segment::from_entry(&dir, &active_entry(Offset::ZERO, 0, 0), None)));
        let list = SegmentList::new(manifest.epoch(), manifest.log_start, segments, point.end);
        Arc::new(Log {
            ctx,
            journal,
            seed: identity.seed(),
            hasher: KeyHasher::new(&identity.secret),
            settings: RwLock::new(Rank::Settings, settings),
            writer: Writer::new(active, point, list.view().ends.clone()),
            list,
            manifest: ManifestStore::new(dir, manifest, made),
            tail: Tail::new(),
            waiters: Waiters::default(),
            health: Health::new(damage, is_readable),
            durability: SyncState::new(point),
            compactor: Compactor::default(),
            producers: ProducerTable::new(has_senders),
            counters: Counters::default(),
            recovered: tail,
            identity,
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

    pub(crate) fn settings(&self) -> Arc<LogSettings> {
        self.settings.read().clone()
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.list.epoch()
    }

    #[inline]
    pub(crate) fn log_start(&self) -> Offset {
        self.list.log_start()
    }

    #[inline]
    pub(crate) fn visible_end(&self) -> Offset {
        self.list.visible_end()
    }

    /// The next offset to be given out.
    pub(crate) fn log_end(&self) -> Offset {
        self.list.view().ends.log()
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let view = self.list.view();
        let (visible_end, durable_end) = (view.ends.visible(), view.ends.durable());
        // After those that cannot pass it.
        let log_end = view.ends.log();
        Bounds { log_start: view.log_start, visible_end, durable_end, log_end }
    }

    /// A number that changes with each truncation, compaction and accepted loss.
    pub(crate) fn revision(&self) -> u64 {
        self.list.revision()
    }

    /// Calls `look` until the log was not replaced meanwhile: what one call has found belongs together. `look` returns `None`
    /// to be called again.
    ///
    /// # Errors
    /// Closed, deleted, nothing of the partition can be read; or that of `look`. An error is believed only if the log start
    /// has not moved meanwhile, because a file that retention deletes looks like damage.
    #[inline]
    pub(crate) fn consistently<T>(&self, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            self.check_readable()?;
            let (revision, start) = (self.list.revision(), self.list.log_start());
            let looked = look();
            let is_same = self.list.revision() == revision;
            match looked {
                Ok(Some(found)) if is_same => return Ok(found),
                Err(error) if is_same && self.list.log_start() == start => {
                    // A log that has ended since has no files any more: that is the reason then.
                    return self.check_readable().and(Err(error));
                }
                _ => {}
            }
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
        self.list.view().segments.clone()
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

    /// The error of an append that expected the log to end at `expected`, and it ends at `end`.
    fn conflict(&self, expected: Offset, end: Offset) -> Error {
        let TopicPartition { topic, partition } = self.identity.topic_partition();
        Error::OffsetConflict { topic, partition, expected, end }
    }

    /// Begins an epoch at the log's end, because where the log had ended before this opening cannot be proven: offsets from here
    /// on may have been given out before, to records that are gone. Before any is served. The caller makes it durable; the next
    /// manifest that is written has it too.
    ///
    /// Returns nothing if the log takes no appends, because then no offset is given out again.
    pub(crate) fn begin_epoch_of_opening(&self) -> Option<EpochStart> {
        self.check_writable().ok()?;
        let start = self.log_end();
        let mut manifest = self.manifest.get();
        manifest.begin_epoch(start);
        let epoch = manifest.epoch();
        self.list.begin_epoch(epoch);
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
                let end = self.log_end();
                Some(offset.min(end)).filter(|_| offset > Offset::ZERO)
            }
        };
        match cut {
            Some(to) => Err(Error::Truncated {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                offset,
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
    #[inline]
    pub(crate) fn check_readable(&self) -> Result<()> {
        self.health.check_readable()
    }

    /// # Errors
    /// Closed, deleted, damaged, `Poisoned`.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.health.check_writable(&self.identity)
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    // -- its end --

    /// Takes a new configuration. What waits for a sync that is not asked for any more becomes visible.
    pub(crate) fn set_settings(&self, settings: &Arc<LogSettings>) {
        let tip = self.writer.lock();
        *self.settings.write() = settings.clone();
        self.writer.size.forget();
        if settings.durability != Durability::Sync && self.health.poison_cause().is_none() {
            tip.ends.show(tip.point.end);
        }
        drop(tip);
        self.wake_readers();
    }

    /// Syncs and closes everything. From now on every call answers `Closed`. Answers the point that a clean shutdown
    /// may name, if everything is on the medium.
    pub(crate) fn close(&self) -> Result<Option<CheckpointEntry>> {
        {
            let _shape = self.list.lock_shape();
            let _tip = self.writer.lock();
            if !self.health.begin_end(Error::Closed) {
                return Ok(None);
            }
        }
        let synced = match self.health.failure() {
            Some(error) => Err(error),
            None => self.sync().and_then(|()| self.sync_empty()),
        };
        // A broker that has changed nothing leaves the directory as it found it.
        if synced.is_ok() && self.has_files() && !self.ctx.gate.is_shut() {
            self.finish_sealed();
            if let Some(file) = self.unsaved_producers() {
                self.save_producers(&file);
            }
            let (segment, point) = {
                let tip = self.writer.lock();
                (tip.segment.clone(), tip.point)
            };
            self.durability.set_point(point);
            segment.save_index(&self.ctx, &self.identity, point.position, point.end);
            if self.settings().streams {
                segment.save_active_keys(&self.ctx, &self.identity, point.position);
            }
        }
        self.end(Error::Closed);
        // Damage has been reported at opening; it does not make closing fail.
        match synced {
            Ok(()) => Ok(self.checkpoint()),
            Err(_) if self.health.is_damaged() => Ok(None),
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
            let _shape = self.list.lock_shape();
            let _tip = self.writer.lock();
            self.health.end(error.clone());
        }
        self.manifest.close();
        self.durability.commit.fail(error);
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
        drop(self.compactor.lock());
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
            records_appended: self.counters.records(),
            batches_appended: self.counters.batches(),
            bytes_appended: self.counters.bytes(),
            syncs: self.counters.syncs(),
            compaction: self.compaction_stats(),
            poisoned: self.health.failure(),
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
