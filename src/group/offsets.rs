//! Where are the groups' committed offsets kept? As records in an internal log, written like any
//! others, and in a table of these records, from which all reads are served.
//!
//! The table is read from the log at first use, or at an unclean opening: commits may have survived
//! a power loss that took the records they refer to. Such a commit is set back to the log end
//! before any record can be appended there. The table takes changes as soon as they are appended,
//! before they are durable or visible. After an I/O error the next commit reopens the log, and
//! truncated changes leave the table; an acknowledged commit is never among them.

use std::collections::BTreeSet;

use super::Host;
use super::changes::{Beginning, OffsetChange, StoredOffset, add_to, new_batch};
use super::offset_table::{Table, partitions_of, read_log};
use super::state::Pattern;
use crate::config::Compression;
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::log::reopen::reopen_with;
use crate::log::{Appended, Log};
use crate::stats::ClampedCommit;
use crate::sync::{Arc, Mutex, Rank};
use crate::types::{GroupId, Offset, PartitionId, TopicId};

/// All groups' offsets.
pub(crate) struct OffsetStore {
    state: Mutex<Store>,
}

#[derive(Default)]
struct Store {
    log: Option<Arc<Log>>,
    /// The log epoch in which the table was read last. Changes that were appended in an earlier one
    /// are in the table, or have been truncated.
    epoch: u32,
    /// How often the table was read.
    reads: u64,
    /// The visible end and the revision of the log of another process when it was read.
    followed: Option<(Offset, u64)>,
    table: Table,
    /// Topics that were deleted, and of which groups may still have state.
    deleted: BTreeSet<TopicId>,
    /// The table has been searched for topics that were deleted in an earlier run, or by a call
    /// that was interrupted.
    is_searched: bool,
}

impl OffsetStore {
    pub(crate) fn new() -> Self {
        OffsetStore { state: Mutex::new(Rank::Offsets, Store::default()) }
    }

    /// Ensures that the log exists, has been read, and takes appends again after an I/O error. Must
    /// not be called under a group's lock, because the log may have to be created or synced. If the
    /// log takes no appends, the append returns the error.
    ///
    /// # Errors
    /// An I/O error, `Corrupt` if the log is damaged, `Closed`.
    pub(crate) fn open(&self, host: &dyn Host) -> Result<Arc<Log>> {
        let known = self.state.lock().log.clone();
        let log = match known {
            Some(log) => log,
            None => {
                let log = host.offsets_log()?;
                self.attach(log.clone())?;
                log
            }
        };
        if log.health().is_poisoned() {
            // No other caller can reopen it, because the topic is hidden. If this fails it stays
            // poisoned, and the next commit tries again.
            let _ = reopen_with(&log, || self.read_again(&log));
        }
        Ok(log)
    }

    /// As [`open`](OffsetStore::open) where there may be no log, and none is to be made.
    ///
    /// # Errors
    /// As [`open`](OffsetStore::open).
    pub(crate) fn open_existing(&self, host: &dyn Host) -> Result<()> {
        host.existing_offsets_log().map_or(Ok(()), |log| self.attach(log))
    }

    /// After an unclean stop, before anything is appended anywhere: commits may be beyond records
    /// that are gone. Those are set back to the log end, and commits of partitions that are gone
    /// are deleted. Durable on return.
    ///
    /// # Errors
    /// Those of reading and appending.
    pub(crate) fn settle(
        &self,
        ctx: &Context,
        log: Arc<Log>,
        find: impl Fn(&TopicId, PartitionId) -> Option<Arc<Log>>,
    ) -> Result<Vec<ClampedCommit>> {
        self.attach(log.clone())?;
        let mut clamped = Vec::new();
        for group in self.groups() {
            let mut changes = Vec::new();
            for (topic, partition, committed) in self.commits(&group) {
                let Some(about) = find(&topic, partition) else {
                    changes.push(OffsetChange::Forget(topic, partition));
                    continue;
                };
                let end = about.bounds().log_end;
                // The end of a damaged log is not known.
                if committed.offset <= end || about.health().is_damaged() {
                    continue;
                }
                clamped.push(ClampedCommit {
                    group: group.clone(),
                    topic: about.topic().clone(),
                    partition,
                    from: committed.offset,
                    to: end,
                });
                let epoch = about.epoch();
                changes.push(OffsetChange::Commit(
                    topic,
                    partition,
                    StoredOffset { offset: end, epoch, ..committed },
                ));
            }
            changes.extend(self.settle_begins(&group, &find));
            self.append(ctx, &group, &changes)?;
        }
        log.sync()?;
        Ok(clamped)
    }

    /// The changes that set back, as commits are, the places where a group has started.
    fn settle_begins(
        &self,
        group: &GroupId,
        find: impl Fn(&TopicId, PartitionId) -> Option<Arc<Log>>,
    ) -> Vec<OffsetChange> {
        let settle = |(topic, partition, began): (TopicId, PartitionId, Beginning)| {
            let Some(about) = find(&topic, partition) else {
                return Some(OffsetChange::ForgetBeginning(topic, partition));
            };
            let end = about.bounds().log_end;
            if began.offset <= end || about.health().is_damaged() {
                return None;
            }
            let began = Beginning { offset: end, epoch: about.epoch(), ..began };
            Some(OffsetChange::Began(topic, partition, began))
        };
        self.begins(group).into_iter().filter_map(settle).collect()
    }

    /// Reads the log, if that has not been done.
    ///
    /// # Errors
    /// As [`open`](OffsetStore::open).
    pub(crate) fn attach(&self, log: Arc<Log>) -> Result<()> {
        let mut state = self.state.lock();
        if state.log.is_some() {
            return Ok(());
        }
        log.check_readable()?;
        state.table = read_log(&log)?;
        state.epoch = log.epoch();
        state.reads += 1;
        state.log = Some(log);
        Ok(())
    }

    /// Reads the log of another process, unless nothing was appended to it since the last call.
    ///
    /// # Errors
    /// As [`open`](OffsetStore::open).
    pub(crate) fn follow(&self, log: &Arc<Log>) -> Result<()> {
        let at = (log.visible_end(), log.revision());
        if self.state.lock().followed == Some(at) {
            return Ok(());
        }
        self.read_again(log)?;
        let mut state = self.state.lock();
        (state.log, state.followed) = (Some(log.clone()), Some(at));
        Ok(())
    }

    /// The log was truncated: changes in the table may be gone. No thread appends meanwhile.
    fn read_again(&self, log: &Arc<Log>) -> Result<()> {
        let table = read_log(log)?;
        let mut state = self.state.lock();
        (state.table, state.epoch) = (table, log.epoch());
        state.reads += 1;
        state.is_searched = false;
        Ok(())
    }

    /// How often the log was read: with another number changes that were appended before may not be
    /// there any more.
    pub(crate) fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// Appends changes as one batch, all of them or none, and takes them into the table. The caller
    /// must still wait for the append. `None` if there is nothing to change.
    ///
    /// # Errors
    /// Those of an append.
    pub(crate) fn append(
        &self,
        ctx: &Context,
        group: &GroupId,
        changes: &[OffsetChange],
    ) -> Result<Option<(Arc<Log>, Appended)>> {
        let Some(log) = self.state.lock().log.clone().filter(|_| !changes.is_empty()) else {
            return Ok(None);
        };
        let mut builder = new_batch(ctx);
        add_to(&mut builder, group, changes);
        let appended = log.append(&mut builder.seal(ctx, Compression::None))?;
        self.apply(group, changes, appended.base_offset, appended.epoch);
        Ok(Some((log, appended)))
    }

    /// Takes changes into the table whose records begin at `base`, appended in `epoch`.
    pub(crate) fn apply(&self, group: &GroupId, changes: &[OffsetChange], base: Offset, epoch: u32) {
        let mut state = self.state.lock();
        if epoch < state.epoch {
            return;
        }
        for (index, change) in (0..).zip(changes) {
            state.table.apply(group, base.plus(index), change.clone());
        }
    }

    pub(crate) fn committed(
        &self,
        group: &GroupId,
        topic: &TopicId,
        partition: PartitionId,
    ) -> Option<StoredOffset> {
        let state = self.state.lock();
        let (_, committed) = state.table.groups.get(group)?.commits.get(&(*topic, partition))?;
        Some(committed.clone())
    }

    /// Where a group has started in a partition; `None` if no member has polled it.
    pub(crate) fn began(
        &self,
        group: &GroupId,
        topic: &TopicId,
        partition: PartitionId,
    ) -> Option<Beginning> {
        self.state.lock().table.groups.get(group)?.begins.get(&(*topic, partition)).cloned()
    }

    /// The next offset to read of a group in a partition, and its epoch: the committed one, or the
    /// one at which the group has started. `None` if no member has polled the partition.
    pub(crate) fn next(
        &self,
        group: &GroupId,
        topic: &TopicId,
        partition: PartitionId,
    ) -> Option<(Offset, u32)> {
        let state = self.state.lock();
        let (known, place) = (state.table.groups.get(group)?, (*topic, partition));
        let committed = known.commits.get(&place).map(|(_, committed)| (committed.offset, committed.epoch));
        committed.or_else(|| known.begins.get(&place).map(|began| (began.offset, began.epoch)))
    }

    /// The offset from which a group still needs the records of a log: the one that it has
    /// committed, or else the one at which it has started; the end of the common history if the log
    /// was truncated since. The beginning if it has neither.
    pub(crate) fn holds(&self, group: &GroupId, log: &Log) -> Offset {
        match self.next(group, &log.identity().topic_id, log.partition()) {
            Some((offset, epoch)) => match log.check_position(offset, epoch) {
                Err(Error::Truncated { to, .. }) => to,
                _ => offset,
            },
            None => Offset::ZERO,
        }
    }

    /// How many partitions a topic had when a group first subscribed to it; `None` if it never has.
    pub(crate) fn joined(&self, group: &GroupId, topic: &TopicId) -> Option<u32> {
        self.state.lock().table.groups.get(group)?.joined.get(topic).copied()
    }

    /// The globs that a group has ever subscribed with.
    pub(crate) fn globs(&self, group: &GroupId) -> Vec<Pattern> {
        self.state.lock().table.groups.get(group).map_or(Vec::new(), |progress| progress.globs.clone())
    }

    /// The changes that delete all state of a group.
    pub(crate) fn erasure(&self, group: &GroupId) -> Vec<OffsetChange> {
        let state = self.state.lock();
        let Some(progress) = state.table.groups.get(group) else { return Vec::new() };
        let forgotten = progress.commits.keys().map(|(topic, at)| OffsetChange::Forget(*topic, *at));
        let begins = progress.begins.keys().map(|(topic, at)| OffsetChange::ForgetBeginning(*topic, *at));
        let parted = progress.joined.keys().map(|topic| OffsetChange::Part(*topic));
        let unsubscribed = progress.globs.iter().cloned().map(OffsetChange::Unsubscribed);
        forgotten.chain(begins).chain(parted).chain(unsubscribed).collect()
    }

    /// The changes that delete a group's state of a topic.
    pub(crate) fn erasure_of(&self, group: &GroupId, topic: &TopicId) -> Vec<OffsetChange> {
        let state = self.state.lock();
        let Some(progress) = state.table.groups.get(group) else { return Vec::new() };
        let commits = progress.commits.range(partitions_of(topic));
        let forgotten = commits.map(|((topic, at), _)| OffsetChange::Forget(*topic, *at));
        let begins = progress.begins.range(partitions_of(topic));
        let begins = begins.map(|((topic, at), _)| OffsetChange::ForgetBeginning(*topic, *at));
        let parted = progress.joined.get(topic).map(|_| OffsetChange::Part(*topic));
        forgotten.chain(begins).chain(parted).collect()
    }

    /// The changes that delete a group's state of one partition.
    pub(crate) fn erasure_in(
        &self,
        group: &GroupId,
        topic: TopicId,
        partition: PartitionId,
    ) -> Vec<OffsetChange> {
        let state = self.state.lock();
        let Some(progress) = state.table.groups.get(group) else { return Vec::new() };
        let place = (topic, partition);
        let forget = progress.commits.get(&place).map(|_| OffsetChange::Forget(topic, partition));
        let begins = progress.begins.get(&place).map(|_| OffsetChange::ForgetBeginning(topic, partition));
        forget.into_iter().chain(begins).collect()
    }

    /// All places where a group has started.
    fn begins(&self, group: &GroupId) -> Vec<(TopicId, PartitionId, Beginning)> {
        let state = self.state.lock();
        let Some(progress) = state.table.groups.get(group) else { return Vec::new() };
        let begins = progress.begins.iter();
        begins.map(|((topic, partition), began)| (*topic, *partition, began.clone())).collect()
    }

    /// A topic was deleted: it is among the [deleted topics](OffsetStore::deleted_topics) until
    /// [`note_erased`](OffsetStore::note_erased).
    pub(crate) fn note_deleted(&self, topic: TopicId) {
        self.state.lock().deleted.insert(topic);
    }

    /// No group has state of a deleted topic any more.
    pub(crate) fn note_erased(&self, topic: &TopicId) {
        self.state.lock().deleted.remove(topic);
    }

    /// The topics that were deleted, and of which groups may still have state. The first call after
    /// the log was read searches the table for topics that are not `there`; after that only the
    /// topics are returned that were noted.
    pub(crate) fn deleted_topics(&self, is_there: impl Fn(&TopicId) -> bool) -> Vec<TopicId> {
        let mut state = self.state.lock();
        if !state.is_searched {
            let gone: Vec<_> =
                state.table.by_topic.keys().filter(|topic| !is_there(topic)).copied().collect();
            state.deleted.extend(gone);
            state.is_searched = true;
        }
        state.deleted.iter().copied().collect()
    }

    /// The groups that have state of a topic.
    pub(crate) fn groups_of(&self, topic: &TopicId) -> Vec<GroupId> {
        let state = self.state.lock();
        state.table.by_topic.get(topic).into_iter().flatten().cloned().collect()
    }

    /// All commits of a group.
    pub(crate) fn commits(&self, group: &GroupId) -> Vec<(TopicId, PartitionId, StoredOffset)> {
        let state = self.state.lock();
        let Some(progress) = state.table.groups.get(group) else { return Vec::new() };
        let commits = progress.commits.iter();
        commits.map(|((topic, partition), (_, committed))| (*topic, *partition, committed.clone())).collect()
    }

    /// The groups of which anything is kept.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let state = self.state.lock();
        state.table.groups.keys().cloned().collect()
    }
}
