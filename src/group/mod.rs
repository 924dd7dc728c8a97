//! Which member owns which partition, and which offsets has each group committed? The work of a
//! server's group coordinator, as function calls.
//!
//! [`state`] is one group's membership, a value without locks; [`assign`] shares partitions out;
//! [`offsets`] keeps the committed offsets. This file puts a lock around each group and passes
//! commits to the log.
//!
//! *Locks*: a group's lock is held over validation and the append of a commit, so that a partition
//! cannot change hands between the two; a sync is always waited for outside. A transaction, which
//! takes longer, pins its partitions instead: they change hands only when it is over. Topics, the
//! offsets table and logs may be read with a group's lock held. The catalog must not, because a
//! thread that holds the catalog's lock may take a group's.

pub(crate) mod assign;
pub(crate) mod changes;
mod commit;
mod guard;
mod host;
mod joined;
mod member;
mod offset_table;
pub(crate) mod offsets;
mod owners;
mod pattern;
mod registry;
mod share;
pub(crate) mod state;
mod targets;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::assign::refuse_in_assignor;
use self::changes::{Beginning, OffsetChange, StoredOffset, add_to};
use self::commit::objection;
pub(crate) use self::commit::{Commit, METADATA_MAX};
use self::guard::MembershipGuard;
pub(crate) use self::host::Host;
use self::offsets::OffsetStore;
use self::registry::Registry;
use self::state::{GONE, Joining, Liveness, Membership, Share, Stamp};
use crate::engine::{Context, Task, Waiter};
use crate::error::{Error, Offender, RejectReason, Result};
use crate::log::{Appended, Log};
use crate::segment::builder::BatchBuilder;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, Rank, Weak};
use crate::types::{GroupId, Offset, PartitionId, TopicId, TopicName, TopicPartition};

/// A host that also has the coordinator.
pub(crate) trait GroupHost: Host {
    fn coordinator(&self) -> &Coordinator;
}

/// All groups of a broker.
pub(crate) struct Coordinator {
    groups: Mutex<Registry<GroupState>>,
    offsets: OffsetStore,
    /// The number of the next member of any group; 0 means no member.
    next_member: AtomicU32,
}

/// One group.
pub(crate) struct GroupState {
    pub(crate) name: GroupId,
    membership: Mutex<Membership>,
    version: Arc<AtomicU64>,
}

/// An append to the offsets log that is still to be waited for.
pub(crate) type WrittenCommit = Option<(Arc<Log>, Appended)>;

/// Returns once the commit is as safe as the broker's durability demands. Must not be called under
/// a group's lock.
///
/// # Errors
/// The sync failed.
pub(crate) fn wait(written: WrittenCommit) -> Result<()> {
    match written {
        Some((log, appended)) => log.wait_visible(appended.end, appended.epoch),
        None => Ok(()),
    }
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        Coordinator {
            groups: Mutex::new(Rank::Groups, Registry::new()),
            offsets: OffsetStore::new(),
            next_member: AtomicU32::new(1),
        }
    }

    pub(crate) fn offsets(&self) -> &OffsetStore {
        &self.offsets
    }

    /// The group of this name. Its membership is kept while a handle or a member has it: after that
    /// nothing is known of the group but the offsets that it has committed.
    pub(crate) fn group(&self, name: &GroupId) -> Arc<GroupState> {
        self.groups.lock().get_or_insert(name, || GroupState::new(name.clone()))
    }

    /// The groups that have members.
    pub(crate) fn active(&self) -> Vec<GroupId> {
        let groups = self.groups.lock().all();
        groups.iter().filter(|group| !group.lock().is_empty()).map(|group| group.name.clone()).collect()
    }

    /// These topics came, grew or were deleted: the groups that subscribe to them rebalance. Other
    /// groups are not looked at.
    pub(crate) fn topics_changed(&self, host: &dyn GroupHost, topics: &[TopicName]) {
        let groups = self.groups.lock().concerned_by(topics);
        let mut written = Vec::new();
        for group in groups {
            let mut membership = group.lock();
            // IMPORTANT: look topics up while holding the group lock, here and below. Otherwise a
            // thread with an older list could overwrite a newer assignment.
            let change = membership.topics_changed(host, topics);
            let stored =
                joined::store_change(&self.offsets, host.ctx(), &group.name, &mut membership, &change);
            drop(membership);
            written.push((group, stored));
        }
        // After the appends of all groups, which share a sync.
        for (group, stored) in written {
            // No caller is waiting for the error; the next poll that would skip records because of
            // it tries again.
            if let Err(error) = stored.and_then(wait) {
                group.lock().tell(&error);
            }
        }
    }

    /// A topic was deleted: the offsets that groups have committed of it are deleted. Those that
    /// cannot be written now are written the next time.
    ///
    /// # Errors
    /// Those of reading the offsets log and of an append.
    pub(crate) fn topic_deleted(&self, host: &dyn GroupHost, topic: TopicId) -> Result<()> {
        if host.existing_offsets_log().is_none() {
            return Ok(());
        }
        self.offsets.note_deleted(topic);
        self.offsets.open(host)?;
        let is_there = |topic: &TopicId| host.log(topic, PartitionId::new(0)).is_some();
        for topic in self.offsets.deleted_topics(is_there) {
            for name in self.offsets.groups_of(&topic) {
                let group = self.group(&name);
                // Held over the append, so that no member commits offsets meanwhile.
                let membership = group.lock();
                let changes = self.offsets.erasure_of(&name, &topic);
                self.offsets.append(host.ctx(), &name, &changes)?;
                drop(membership);
            }
            self.offsets.note_erased(&topic);
        }
        Ok(())
    }
}

/// A member's place in its group.
pub(crate) struct Seat {
    pub(crate) group: Arc<GroupState>,
    pub(crate) id: u32,
}

impl GroupState {
    fn new(name: GroupId) -> Self {
        let membership = Membership::new();
        GroupState {
            name,
            version: membership.version().clone(),
            membership: Mutex::new(Rank::Membership, membership),
        }
    }

    pub(crate) fn lock(&self) -> MembershipGuard<'_> {
        MembershipGuard::take(&self.membership)
    }

    /// The group, to be reset: no member joins while the guard lives.
    ///
    /// # Errors
    /// `GroupNotEmpty` if it has members, or a transaction commits offsets of it just now.
    pub(crate) fn lock_empty(&self) -> Result<MembershipGuard<'_>> {
        let membership = self.lock();
        if membership.is_empty() && !membership.is_pinned() {
            Ok(membership)
        } else {
            Err(Error::GroupNotEmpty { group: self.name.clone() })
        }
    }

    /// See [`Membership::version`].
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes in a member that polls at least every `max_poll_interval`.
    ///
    /// # Errors
    /// Those of [`Membership::join`] and of opening the offsets log.
    pub(crate) fn join(
        self: &Arc<Self>,
        host: &Arc<dyn GroupHost>,
        joining: Joining,
        max_poll_interval: Duration,
    ) -> Result<Seat> {
        refuse_in_assignor()?;
        let coordinator = host.coordinator();
        coordinator.offsets.open(&**host)?;
        let id = coordinator.next_member.fetch_add(1, Ordering::Relaxed);
        let (liveness, waiter) = (joining.liveness.clone(), joining.waiter.clone());
        let patterns = joining.topics.clone();
        // IMPORTANT: before topics are looked up. A topic that is not found then comes later, and
        // finds this group concerned.
        coordinator.groups.lock().subscribe(&self.name, &patterns);
        let mut membership = self.lock();
        if let Err(error) = membership.join(id, joining, &**host) {
            drop(membership);
            coordinator.groups.lock().unsubscribe(&self.name, &patterns);
            return Err(error);
        }
        let stored = joined::store(&coordinator.offsets, host.ctx(), &self.name, &mut membership, false);
        drop(membership);
        if let Err(error) = stored.and_then(wait) {
            self.leave(&**host, id);
            return Err(error);
        }
        let now = host.ctx().clock.monotonic();
        liveness.end(now.saturating_add(max_poll_interval));
        let group = Arc::downgrade(self);
        let host_ref = Arc::downgrade(host);
        let expiry = Expiry { host: host_ref, group, id, liveness, waiter, every: max_poll_interval };
        expiry.schedule(host.ctx(), now);
        Ok(Seat { group: self.clone(), id })
    }

    /// Whether of every topic that it subscribes to is known which partitions are new to it.
    pub(crate) fn is_noted(&self, host: &dyn GroupHost, membership: &mut Membership) -> bool {
        joined::is_stored(host.coordinator().offsets(), &self.name, membership)
    }

    /// Stores subscriptions that could not be stored when the topics changed.
    ///
    /// # Errors
    /// Those of an append, and of the sync that the broker's durability demands.
    pub(crate) fn note(&self, host: &dyn GroupHost) -> Result<()> {
        let offsets = host.coordinator().offsets();
        offsets.open(host)?;
        let stored = joined::store(offsets, host.ctx(), &self.name, &mut self.lock(), true);
        stored.and_then(wait)
    }

    /// Removes a member; the others get its partitions at once. Does nothing if it has been
    /// expelled.
    pub(crate) fn leave(&self, host: &dyn GroupHost, id: u32) {
        let mut membership = self.lock();
        let left = membership.leave(id, host);
        drop(membership);
        if let Some(patterns) = left {
            host.coordinator().groups.lock().unsubscribe(&self.name, &patterns);
        }
    }

    /// Commits offsets, all of them or none. `own` is the stamp of offsets that come from no poll:
    /// the caller's current one, or that of no member. A committer that is not a member may commit
    /// as long as the group has none.
    ///
    /// # Errors
    /// `CommitRejected` naming every offset that may not be committed; those of an append.
    pub(crate) fn commit(
        &self,
        host: &dyn GroupHost,
        own: Stamp,
        commits: &[Commit],
    ) -> Result<WrittenCommit> {
        refuse_in_assignor()?;
        let coordinator = host.coordinator();
        coordinator.offsets.open(host)?;
        let membership = self.lock();
        let changes = self.check(host, &membership, own, commits)?;
        let changes: Vec<_> = changes.into_iter().map(|(_, change)| change).collect();
        coordinator.offsets.append(host.ctx(), &self.name, &changes)
    }

    /// Stores where the group starts in partitions in which it has neither committed nor started
    /// yet, so that its next member there starts at the same offset. Leaves out partitions that the
    /// caller may not commit.
    ///
    /// # Errors
    /// Those of opening the offsets log and of an append.
    pub(crate) fn begin(&self, host: &dyn GroupHost, own: Stamp, starts: &[Commit]) -> Result<WrittenCommit> {
        let offsets = host.coordinator().offsets();
        offsets.open(host)?;
        let at = host.ctx().clock.now();
        // Held over the append, so that a partition does not change hands in between.
        let membership = self.lock();
        let change = |start: &Commit| {
            let id = start.source.as_ref()?.topic_id;
            let share = Share { topic: start.topic.clone(), id, partition: start.partition };
            let is_new = offsets.committed(&self.name, &id, start.partition).is_none()
                && offsets.began(&self.name, &id, start.partition).is_none();
            let may = is_new && objection(host, &membership, own, &share, start).is_none();
            let began = Beginning { offset: start.next, epoch: start.epoch, at };
            may.then_some(OffsetChange::Began(id, start.partition, began))
        };
        let changes: Vec<_> = starts.iter().filter_map(change).collect();
        offsets.append(host.ctx(), &self.name, &changes)
    }

    /// Deletes the offsets of partitions, all of them or none.
    ///
    /// # Errors
    /// `GroupSubscribed` if a member subscribes to one of the topics, or a transaction commits
    /// offsets of one of the partitions; those of an append.
    pub(crate) fn delete_offsets(
        &self,
        host: &dyn GroupHost,
        partitions: &[(TopicId, TopicPartition)],
    ) -> Result<WrittenCommit> {
        let offsets = host.coordinator().offsets();
        offsets.open_existing(host)?;
        // Held over the append, so that no member joins in between.
        let membership = self.lock();
        let mut changes = Vec::new();
        for (id, of) in partitions {
            let share = Share { topic: of.topic.clone(), id: *id, partition: of.partition };
            if membership.topics().any(|topic| topic.id == *id) || membership.is_pinned_in(&share) {
                let (group, topic) = (self.name.clone(), of.topic.clone());
                return Err(Error::GroupSubscribed { group, topic });
            }
            changes.extend(offsets.erasure_in(&self.name, *id, of.partition));
        }
        offsets.append(host.ctx(), &self.name, &changes)
    }

    /// Checks offsets that are to be committed with a transaction, and keeps their partitions where
    /// they are until the pin is dropped.
    ///
    /// # Errors
    /// `CommitRejected` naming every offset that may not be committed.
    pub(crate) fn pin(self: &Arc<Self>, host: &dyn GroupHost, own: Stamp, commits: &[Commit]) -> Result<Pin> {
        refuse_in_assignor()?;
        host.coordinator().offsets.open(host)?;
        let mut membership = self.lock();
        let (shares, changes): (Vec<_>, Vec<_>) =
            self.check(host, &membership, own, commits)?.into_iter().unzip();
        for share in &shares {
            membership.pin(share);
        }
        drop(membership);
        Ok(Pin { group: self.clone(), shares, changes })
    }

    /// The changes of a commit.
    fn check(
        &self,
        host: &dyn GroupHost,
        membership: &Membership,
        own: Stamp,
        commits: &[Commit],
    ) -> Result<Vec<(Share, OffsetChange)>> {
        let at = host.ctx().clock.now();
        let mut changes = Vec::with_capacity(commits.len());
        let mut offenders = Vec::new();
        for commit in commits {
            let named = || host.topic(commit.topic.as_str()).map(|topic| topic.id);
            let known = commit.source.as_ref().map(|source| source.topic_id);
            let checked = match known.or_else(named) {
                Some(id) => {
                    let share = Share { topic: commit.topic.clone(), id, partition: commit.partition };
                    // The handle of a consumer that is gone commits nothing, whichever member
                    // polled it.
                    let stamp = if own.member == GONE { own } else { commit.stamp.unwrap_or(own) };
                    match objection(host, membership, stamp, &share, commit) {
                        Some(reason) => Err(reason),
                        None => Ok(share),
                    }
                }
                None => Err(RejectReason::UnknownPartition),
            };
            match checked {
                Ok(share) => {
                    let committed = StoredOffset {
                        offset: commit.next,
                        epoch: commit.epoch,
                        at,
                        metadata: commit.metadata.clone(),
                    };
                    let change = OffsetChange::Commit(share.id, share.partition, committed);
                    changes.push((share, change));
                }
                Err(reason) => offenders.push(Offender {
                    topic: commit.topic.clone(),
                    partition: commit.partition,
                    offset: commit.next,
                    reason,
                }),
            }
        }
        if offenders.is_empty() {
            Ok(changes)
        } else {
            Err(Error::CommitRejected { group: self.name.clone(), offenders })
        }
    }
}

/// Partitions that do not change hands while it lives, and the offsets to commit of them.
pub(crate) struct Pin {
    group: Arc<GroupState>,
    shares: Vec<Share>,
    changes: Vec<OffsetChange>,
}

impl Pin {
    /// Adds the records of the commit to a batch for the offsets log.
    pub(crate) fn add_to(&self, builder: &mut BatchBuilder) {
        add_to(builder, &self.group.name, &self.changes);
    }

    /// How many records that are.
    pub(crate) fn len(&self) -> u64 {
        self.changes.len() as u64
    }

    /// The commit has been written to the offsets log, from `base` on, in `epoch`.
    pub(crate) fn written(&self, host: &dyn GroupHost, base: Offset, epoch: u32) {
        host.coordinator().offsets().apply(&self.group.name, &self.changes, base, epoch);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut membership = self.group.lock();
        for share in &self.shares {
            membership.unpin(share);
        }
    }
}

/// Looks whether a member still polls.
///
/// A member that awaits records counts as polling until its future is woken. The wake-up has no
/// clock, so the next look notes that it has come, and the member has the interval from then on.
struct Expiry {
    host: Weak<dyn GroupHost>,
    group: Weak<GroupState>,
    id: u32,
    liveness: Arc<Liveness>,
    waiter: Arc<Waiter>,
    every: Duration,
}

impl Expiry {
    fn schedule(self, ctx: &Context, now: Duration) {
        let at = self.liveness.deadline().unwrap_or(now.saturating_add(self.every));
        ctx.timer.schedule(at, Arc::new(self));
    }
}

impl Task for Expiry {
    fn run(self: Arc<Self>, now: Duration) {
        let (Some(host), Some(group)) = (self.host.upgrade(), self.group.upgrade()) else { return };
        if now == Duration::MAX {
            // The broker is being closed.
            return;
        }
        let membership = group.lock();
        let (is_member, is_overdue) =
            (membership.stamp(self.id).is_some(), membership.is_overdue(self.id, now));
        drop(membership);
        if !is_member {
            return;
        }
        if is_overdue {
            group.leave(&*host, self.id);
            return;
        }
        self.liveness.note_woken(&self.waiter, now.saturating_add(self.every));
        if let Ok(this) = Arc::try_unwrap(self) {
            this.schedule(host.ctx(), now);
        }
    }
}
