//! The log of one partition: appending, visibility, durability, and the behavior after a failed
//! write or sync.
//!
//! A [`Log`] consists of parts, each of which owns its lock and knows no log. This file puts them
//! together, and has the calls that nearly every caller needs. An operation is a function of its
//! own module, such as [`lookup`], [`replicate`] or [`close`]; the operations use the log and its
//! parts, and this file uses no operation.
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
//!   [`SyncState`](sync_state::SyncState) has one leader at a time. The leader copies the tip under
//!   the writer's lock, syncs the segments without it, and moves the durable and the visible end. A
//!   failed write or sync poisons the log: [`Health`](health::Health) refuses appends until a
//!   reopen, because the state of the bytes is unknown. Every call checks its flags first.
//! - *Successors*: the manifest on disk may lack the newest segments. What that allows is argued in
//!   [`successors`]; the manifest in memory always has all of them.
//! - *Leaving the list*: a segment leaves it only under the `shape` lock. Its files are deleted
//!   after the manifest no longer lists it.
//! - *Locks* are taken in the order of the enum `Rank` in `sync/rank.rs`, which names every lock.

// The parts of a log, and what they are made of. They know no log.
pub(crate) mod commit;
mod compactor;
mod counters;
pub(crate) mod ends;
mod health;
mod inherited;
pub(crate) mod invariants;
pub(crate) mod journal;
pub(crate) mod list;
pub(crate) mod manifest;
mod maxima;
pub(crate) mod producers;
pub(crate) mod raw_batches;
pub(crate) mod recovered_tail;
pub(crate) mod recovery;
mod settings;
mod switch;
mod sync_state;
pub(crate) mod tail;
mod transitions;
pub(crate) mod walk;
mod writer;
pub(crate) mod zeros;

// The operations on a log.
pub(crate) mod ahead;
mod append;
pub(crate) mod close;
pub(crate) mod compaction;
pub(crate) mod create;
pub(crate) mod cursor;
pub(crate) mod cut;
pub(crate) mod durability;
pub(crate) mod erase;
pub(crate) mod follow;
pub(crate) mod idempotence;
pub(crate) mod lookup;
pub(crate) mod loss;
pub(crate) mod maintenance;
pub(crate) mod open;
pub(crate) mod participate;
pub(crate) mod redo;
pub(crate) mod reopen;
pub(crate) mod replicate;
pub(crate) mod retention;
pub(crate) mod roll;
mod self_check;
pub(crate) mod statistics;
pub(crate) mod streams;
mod successors;
pub(crate) mod truncate;
mod write;

#[cfg(test)]
mod tests;

use self::compactor::Compactor;
use self::counters::Counters;
use self::health::Health;
use self::journal::LogJournal;
use self::list::{SegmentList, Segments};
use self::manifest::{ManifestError, ManifestStore, stage};
use self::producers::ProducerTable;
use self::recovered_tail::RecoveredTail;
use self::settings::CurrentSettings;
pub(crate) use self::settings::LogSettings;
use self::sync_state::SyncState;
use self::tail::TailCache;
use self::writer::Writer;
use crate::config::Durability;
use crate::engine::{Context, Identity, Mark, Published, Waiters};
use crate::error::{Error, Result};
use crate::format::batch::Seed;
use crate::format::owner::Slot;
use crate::stats::Event;
use crate::sync::{Arc, Ordering, fence};
use crate::types::{Bounds, Offset, PartitionId, Receipt, Timestamp, TopicName, TopicPartition};

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
    settings: CurrentSettings,
    list: SegmentList,
    writer: Writer,
    manifest: ManifestStore,
    tail: TailCache,
    waiters: Waiters,
    health: Health,
    durability: SyncState,
    compactor: Compactor,
    producers: ProducerTable,
    counters: Counters,
    /// The transactions that opening found after the last point known to be durable.
    recovered: RecoveredTail,
    mark: Mark,
}

impl Log {
    #[inline]
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
        self.settings.get().0
    }

    /// Calls `look` with the settings, under their lock.
    pub(crate) fn with_settings<T>(&self, look: impl FnOnce(&LogSettings) -> T) -> T {
        self.settings.with(look)
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
                    self.check_readable()?;
                    if !self.ctx.has_changed(&self.identity) {
                        return Err(error);
                    }
                }
                _ => {}
            }
        }
    }

    /// Returns how many bytes are written when records are deleted: the manifest, and the side file
    /// of idempotent producers.
    pub(crate) fn deletion_bytes(&self) -> u64 {
        self.manifest.get().encoded_len() as u64 + self.producers.bytes()
    }

    pub(crate) fn manifest(&self) -> &ManifestStore {
        &self.manifest
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Returns the engine that this log shares with the others of its broker.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn ctx(&self) -> &Context {
        &self.ctx
    }

    #[inline]
    pub(crate) fn seed(&self) -> Seed {
        self.identity.seed()
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

    /// The error of a record or a batch that is larger than the log takes.
    fn too_large(&self, size: usize, limit: usize) -> Error {
        let TopicPartition { topic, partition } = self.identity.topic_partition();
        Error::RecordTooLarge { topic, partition, size, limit }
    }

    /// The error of an append that expected the log to end at `expected` when it ends at `end`.
    fn conflict(&self, expected: Offset, end: Offset) -> Error {
        let TopicPartition { topic, partition } = self.identity.topic_partition();
        Error::OffsetConflict { topic, partition, expected, end }
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

    /// Returns whether the log takes appends.
    pub(crate) fn is_usable(&self) -> bool {
        self.check_writable().is_ok()
    }

    /// Returns what opening found after the last point known to be durable.
    pub(crate) fn recovered(&self) -> &RecoveredTail {
        &self.recovered
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Returns whether the log has files. A log without files is empty, and starts and ends at 0.
    pub(crate) fn has_files(&self) -> bool {
        self.manifest.made() == stage::FILES
    }

    /// Refuses appends until a reopen. Returns the error it was given, for the caller to pass on.
    pub(crate) fn poison(&self, cause: Error) -> Error {
        if self.health.poison(&cause) {
            self.ctx.events.queue(Event::Poisoned {
                topic: self.identity.topic.clone(),
                partition: self.identity.partition,
                cause: cause.clone(),
            });
        }
        cause
    }

    /// Handles a failed change of the manifest. If it is unknown which manifest a restart finds,
    /// poisons the partition.
    pub(crate) fn manifest_failed(&self, failed: ManifestError) -> Error {
        if failed.unknown { self.poison(failed.error) } else { failed.error }
    }

    /// Tells readers that wait for this log of new visible records. Must be called after every
    /// move of the visible end.
    #[inline]
    pub(crate) fn wake_readers(&self) {
        self.waiters.appended();
        if self.mark.is_cleared() {
            self.ctx.publish(&self.mark);
        }
    }

    /// Tells readers in other processes of another change. Must be called after it.
    pub(crate) fn publish(&self) {
        fence(Ordering::SeqCst);
        if self.mark.is_cleared() {
            self.ctx.publish(&self.mark);
        }
    }

    /// Asks the worker to work for this log.
    pub(crate) fn request_work(self: &Arc<Self>) {
        if self.durability.note_queued() {
            self.ctx.work.push(self.clone());
        }
    }

    /// Takes a new configuration. Records that no longer wait for a sync become visible.
    pub(crate) fn set_settings(&self, settings: &Arc<LogSettings>) {
        let tip = self.writer.lock();
        self.settings.set(settings.clone());
        self.writer.size.forget();
        if settings.durability != Durability::Sync && self.health.poison_cause().is_none() {
            tip.ends.show(tip.point.end);
        }
        drop(tip);
        self.wake_readers();
    }
}

impl Published for Log {
    fn slot(&self) -> Option<Slot> {
        if !self.has_files() {
            return None;
        }
        loop {
            let revision = self.list.revision();
            let ends = self.list.view().ends.clone();
            // In this order: the list of a later view has the segments of all that is visible now.
            let (durable_end, visible_end) = (ends.durable(), ends.visible());
            let view = self.list.view();
            if Arc::ptr_eq(&view.ends, &ends) {
                return Some(Slot {
                    topic_id: self.identity.topic_id,
                    partition: self.identity.partition,
                    epoch: view.epoch,
                    log_start: view.log_start,
                    visible_end,
                    durable_end: durable_end.min(visible_end),
                    revision,
                });
            }
        }
    }

    fn mark(&self) -> &Mark {
        &self.mark
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
