//! The log of one partition: appending, visibility, durability, and the behavior after a failed
//! write or sync.
//!
//! The concurrency argument, in one place:
//! - *Appending* is serialized by the writer's lock, which owns the [`Tip`](writer::Tip): the
//!   active segment, the point of the next batch, and the current [`Ends`](ends::Ends). Under the
//!   lock: the roll if one is due, the base offset and the header's checksum, one positional write.
//!   Never under it: compression, a body's checksum, a sync of records.
//! - *Ends* are atomics that only grow. The log end is stored after the write, the durable end
//!   after a sync, and the visible end after the one of them that the durability asks for.
//!   Therefore a reader that loads the visible end (acquire) finds every byte before it in the file
//!   or in the tail cache.
//! - *Views*: segments, log start, epoch and ends are one immutable [`View`](list::View), which the
//!   [`SegmentList`](list::SegmentList) replaces as a whole. A reader that needs two of them takes
//!   one view. A roll and retention keep the revision, because a reader may continue with the older
//!   view. A segment's end and size are stored before the view with its successor is published, and
//!   that view is published before an offset of the successor becomes visible. The log start is
//!   stored before the shorter list is published, so a reader that misses a segment checks the log
//!   start again.
//! - *Replacements* (a truncation, a compaction, an accepted loss) shorten or empty segments that
//!   older views share, so they raise the revision first. [`Log::consistently`] repeats a look
//!   until the revision before and after it is the same. Every function that combines several reads
//!   of the log must use it, or compare the revision itself. A truncation holds the `shape` lock,
//!   the lead of the group commit and the writer's lock, so no other thread appends, syncs or
//!   deletes meanwhile. It publishes new ends instead of moving the old ones back.
//! - *Syncs* are shared: the [`GroupCommit`](commit::GroupCommit) in
//!   [`SyncState`](durability::SyncState) has one leader at a time. The leader copies the tip under
//!   the writer's lock, syncs the segments without it, and moves the durable and the visible end. A
//!   failed write or sync poisons the log: [`Health`](health::Health) refuses appends until a
//!   reopen, because the state of the bytes is unknown. Every call checks its flags first.
//! - *Leaving the list*: a segment leaves it only under the `shape` lock. Its files are deleted
//!   after the manifest no longer lists it.
//! - *Locks* are taken in the order of the enum `Rank` in `sync/rank.rs`, which names every lock.

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
use crate::format::manifest::{EpochStart, Manifest};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::segment::create::active_entry;
use crate::segment::{Point, Segment};
use crate::stats::{OpenReport, PartitionStats, SegmentStats};
use crate::sync::{Arc, Rank, RwLock};
use crate::types::{Bounds, Offset, PartitionId, Receipt, Timestamp, TopicName, TopicPartition};

/// The part of a topic's configuration that a log uses. Every append copies it under a short lock.
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

    /// Checks whether a batch may be appended whose first record without a key has the index
    /// `keyless`. Must be called under the writer's lock, under which settings change, because the
    /// batch may have been started under older settings.
    ///
    /// # Errors
    /// `MissingKey` if the topic requires keys.
    fn check_keys(&self, topic: &TopicName, keyless: Option<u32>) -> Result<()> {
        match keyless {
            Some(index) if self.needs_keys() => {
                Err(Error::MissingKey { topic: topic.clone(), index: index as usize })
            }
            _ => Ok(()),
        }
    }

    /// Returns the size of the largest batch, header and body, that fits a segment.
    pub(crate) fn max_batch_bytes(&self) -> usize {
        (self.segment_bytes as usize).saturating_sub(SEGMENT_HEADER_BYTES)
    }

    /// Returns the size of the largest encoded record that is allowed and fits a batch.
    pub(crate) fn max_record_len(&self) -> usize {
        (self.max_record_bytes as usize).min(self.max_batch_bytes().saturating_sub(HEADER_BYTES))
    }
}

/// The position of an appended batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub(crate) base_offset: Offset,
    pub(crate) end: Offset,
    pub(crate) epoch: u32,
    /// The timestamp of all its records, if the topic uses the time of the append.
    pub(crate) append_time: Option<Timestamp>,
}

impl Appended {
    /// Returns the receipt of one of its records.
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

/// The log of one partition.
pub(crate) struct Log {
    ctx: Arc<Context>,
    /// The journal of the transactions that this log takes part in.
    journal: Arc<dyn LogJournal>,
    identity: Arc<Identity>,
    seed: Seed,
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
    /// The transactions that opening found after the last point known to be durable.
    recovered: RecoveredTail,
}

impl Log {
    /// Opens a partition with this manifest. The files of a partition without a manifest are made
    /// by the first write. Never fails: a partition that cannot be used returns its error from
    /// every call, so that the others can be used.
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
            Some(manifest) => recover(&*journal, &identity, &dir, manifest, note, report),
            None => Ok(create::unwritten(&identity, &dir)),
        });
        let has_senders = recovered.as_ref().is_ok_and(|found| found.has_senders);
        let (manifest, segments, point, damage, tail) = match recovered {
            Ok(found) => {
                if let Some(active) = found.segments.last().filter(|_| found.damage.is_none()) {
                    // The recovery has synced all of it.
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

    // -- state --

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

    /// Returns the next offset to be assigned.
    pub(crate) fn log_end(&self) -> Offset {
        self.list.view().ends.log()
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let view = self.list.view();
        let (visible_end, durable_end) = (view.ends.visible(), view.ends.durable());
        // Load it last, because the other ends must not be greater.
        let log_end = view.ends.log();
        Bounds { log_start: view.log_start, visible_end, durable_end, log_end }
    }

    /// Returns a number that changes with each truncation, compaction and accepted loss.
    pub(crate) fn revision(&self) -> u64 {
        self.list.revision()
    }

    /// Calls `look` until the log is not replaced during the call, so that the results of one call
    /// belong together. `look` returns `None` to be called again.
    ///
    /// # Errors
    /// Closed, deleted, nothing of the partition can be read; or an error of `look`. An error is
    /// returned only if the log start has not moved meanwhile, because a file that retention
    /// deletes looks like damage.
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

    /// Returns the engine that this log shares with the others of its broker.
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

    /// The error of an append that expected the log to end at `expected` when it ends at `end`.
    fn conflict(&self, expected: Offset, end: Offset) -> Error {
        let TopicPartition { topic, partition } = self.identity.topic_partition();
        Error::OffsetConflict { topic, partition, expected, end }
    }

    /// Begins an epoch at the log's end, because it cannot be proven where the log had ended before
    /// this opening: offsets from here on may have been assigned before, to records that are lost.
    /// Must be called before any record is served. The caller makes the epoch durable; the next
    /// manifest that is written includes it too.
    ///
    /// Returns `None` if the log takes no appends, because then no offset is assigned again.
    pub(crate) fn begin_epoch_of_opening(&self) -> Option<EpochStart> {
        self.check_writable().ok()?;
        let start = self.log_end();
        let mut manifest = self.manifest.get();
        manifest.begin_epoch(start);
        let epoch = manifest.epoch();
        self.list.begin_epoch(epoch);
        Some(EpochStart { epoch, start })
    }

    /// Checks that a position taken in `epoch` still refers to the same records.
    ///
    /// # Errors
    /// `Truncated` if the log was truncated before the position since. Also if the epoch is later
    /// than the log's, for example because an older copy of the directory was put in place: then it
    /// is unknown how far the two histories are the same. (Kafka returns an undefined end offset
    /// for such a request, and the consumer resets.)
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

    /// Returns up to which offset the log is unchanged since `epoch`.
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

    // -- settings and the end --

    /// Takes a new configuration. Records that no longer wait for a sync become visible.
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

    /// Syncs and closes the log. From here on every call returns `Closed`. Returns the point for
    /// the record of a clean shutdown, if all records are durable.
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
        // A broker that has changed nothing must leave the directory unchanged.
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
        // Damage was reported at opening. It does not make closing fail.
        match synced {
            Ok(()) => Ok(self.checkpoint()),
            Err(_) if self.health.is_damaged() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Syncs an active segment that has only its header. No append waits for this sync, but the
    /// mark of a clean close requires it.
    fn sync_empty(&self) -> Result<()> {
        let segment = self.writer.lock().segment.clone();
        if segment.is_dirty() { segment.sync(&self.ctx).map_err(|e| self.poison(e)) } else { Ok(()) }
    }

    /// Ends the log, because the broker was closed or the topic deleted: from here on every call
    /// returns `error`. Wakes readers. On return no compaction is running, so no thread writes or
    /// removes files of the log.
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
        // Take the compactor's lock after all of the above, so that a running compaction notices
        // the end and stops. This cannot deadlock: a compaction, and its `tick`, take locks of
        // logs, of the journal and of the checkpoint, and read the list of topics. The caller must
        // hold none of these (the catalog's lock is not among them). No other thread waits for this
        // one, except for the end itself. The worker is joined before a broker closes its logs. No
        // compaction ends a log: it drops no handle, and a listener of events must not call the
        // broker.
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

/// Up to which offset a log is unchanged since an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Common {
    /// The log was not truncated since.
    All,
    /// It is unchanged up to an offset.
    UpTo(Offset),
    /// The epoch is later than the log's.
    Unknown,
}
