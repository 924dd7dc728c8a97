//! The members of a group, the partitions that each should own, and those that it owns now. One
//! group's membership as a value: every step is a function of it, its arguments and the time;
//! nothing here waits, writes or calls other code.
//!
//! The protocol is that of KIP-848, without a network. A *generation* is a target
//! assignment: it rises whenever a member comes or goes or the topics change. Between polls a
//! member reconciles its partitions with its target: it gives up partitions that move away, and
//! takes those that have no other owner any more. So a partition never has two owners, and
//! partitions that do not move are read without a break. Under the eager protocol a member gives up
//! all its partitions first, in each new generation.
//!
//! The commits that a member may make follow KIP-1251: it must own the partition, and must have
//! owned it without a break since it polled the records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assign::RebalanceProtocol;
use super::member::Member;
pub(crate) use super::member::{Joining, Liveness};
pub(crate) use super::owners::NO_MEMBER;
use super::owners::Owners;
pub(crate) use super::pattern::Pattern;
pub(crate) use super::share::{Share, TopicInfo, TopicLookup};
use super::targets::{Growth, extension, targets};
use crate::error::{Error, RejectReason, Result};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::TopicName;

/// The number of a consumer that has left or was dropped: it commits nothing.
pub(crate) const GONE: u32 = u32::MAX;

/// The stamp of polled records: the member, and the generation that it had come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// [`NO_MEMBER`]: no member of a group.
    pub(crate) member: u32,
    pub(crate) generation: u32,
}

/// A group's members and the owners of partitions.
pub(crate) struct Membership {
    generation: u32,
    members: BTreeMap<u32, Member>,
    owners: Owners,
    /// The subscribed topics, as of the last rebalance.
    topics: BTreeMap<TopicName, TopicInfo>,
    /// The members' targets are a result of the assignor for these topics: it did not fail when a
    /// member left or topics changed.
    is_whole: bool,
    /// The members subscribe to the same of these topics.
    is_equal: bool,
    /// How often the table of offsets had been read when it was found to
    /// have all of these topics and the open patterns; `None` if that is not known.
    pub(super) noted: Option<u64>,
    version: Arc<AtomicU64>,
}

/// How topics that have changed concern a group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TopicChange {
    /// Not at all.
    None,
    /// Nothing but partitions were added. Of these topics the group had none.
    Added(Vec<TopicInfo>),
    /// Its partitions were shared out again.
    Rebalanced,
}

/// The next steps of a member.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// Partitions to give up: stop reading them, call the listener, then [`Membership::release`].
    pub(crate) revoke: Vec<Share>,
    /// Partitions that were taken now: start reading them, call the listener.
    pub(crate) take: Vec<Share>,
    /// It has all partitions of its target, in a generation in which it had not before: the
    /// listener is called, even if no partition was taken.
    pub(crate) settled: bool,
}

impl Membership {
    pub(crate) fn new() -> Self {
        Membership {
            generation: 0,
            members: BTreeMap::new(),
            owners: Owners::default(),
            topics: BTreeMap::new(),
            is_whole: true,
            is_equal: true,
            noted: None,
            version: Arc::default(),
        }
    }

    /// Rises whenever a member may have steps to take: while it is unchanged, no member has.
    pub(crate) fn version(&self) -> &Arc<AtomicU64> {
        &self.version
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &TopicInfo> {
        self.topics.values()
    }

    /// The members' subscriptions to topics that may come later: the globs, and the names of which
    /// there is no topic.
    pub(crate) fn open_patterns(&self) -> impl Iterator<Item = &Pattern> {
        let is_there = move |pattern: &Pattern| self.topics.contains_key(pattern.0.as_str());
        let all = self.members.values().flat_map(Member::patterns);
        all.filter(move |pattern| pattern.is_glob() || !is_there(pattern))
    }

    /// Takes in a member.
    ///
    /// # Errors
    /// `InvalidConfig` if the group shares its partitions in another way; `InvalidAssignment`: then
    /// it is not a member.
    pub(crate) fn join(&mut self, id: u32, joining: Joining, topics: &dyn TopicLookup) -> Result<()> {
        let name = joining.assignor.assignor.name();
        if let Some(other) = self.members.values().find(|other| other.assignor.assignor.name() != name) {
            let reason = format!("the group's other members use {:?}", other.assignor.assignor.name());
            return Err(Error::InvalidConfig { field: "assignor", reason });
        }
        let protocol = joining.protocol;
        if let Some(other) = self.members.values().find(|other| other.protocol != protocol) {
            let reason = format!("{protocol:?}; the group's other members use {:?}", other.protocol);
            return Err(Error::InvalidConfig { field: "rebalance_protocol", reason });
        }
        self.members.insert(id, Member::new(joining));
        self.rebalance(topics).inspect_err(|_| {
            self.members.remove(&id);
        })
    }

    /// Removes a member, and returns its subscription; `None` if there is no such member. If the
    /// assignor fails, the other members get the error and keep their partitions: those of the
    /// member have no owner until the next rebalance.
    pub(crate) fn leave(&mut self, id: u32, topics: &dyn TopicLookup) -> Option<Vec<Pattern>> {
        let member = self.members.remove(&id)?;
        self.owners.release_all(id);
        self.rebalance_or_tell(topics);
        Some(member.patterns().cloned().collect())
    }

    /// Whether a member has not polled for too long at `now`.
    pub(crate) fn is_overdue(&self, id: u32, now: Duration) -> bool {
        let deadline = self.members.get(&id).and_then(|member| member.liveness.deadline());
        deadline.is_some_and(|deadline| now >= deadline)
    }

    /// These topics have changed: one that grew, a new one that a pattern matches, one that is gone.
    /// Where partitions were only added, and the assignor's result is known to be the targets and
    /// these, nothing else is looked at. If the assignor fails the members get the error, and
    /// nothing changes.
    pub(crate) fn topics_changed(&mut self, topics: &dyn TopicLookup, changed: &[TopicName]) -> TopicChange {
        if self.members.is_empty() {
            return TopicChange::None;
        }
        match self.growths(topics, changed) {
            Some(growths) if growths.is_empty() => TopicChange::None,
            Some(growths) if self.extend(&growths) => {
                let new = growths.into_iter().filter(|growth| growth.had == 0);
                TopicChange::Added(new.map(|growth| growth.topic).collect())
            }
            _ => {
                if self.subscribed(topics) != self.topics {
                    self.rebalance_or_tell(topics);
                }
                TopicChange::Rebalanced
            }
        }
    }

    /// The steps of a member to the current generation. It owns the partitions that it takes on
    /// return, and those that it gives up until [`release`](Membership::release). `None` if it is
    /// no longer a member.
    pub(crate) fn reconcile(&mut self, id: u32) -> Option<Steps> {
        let member = self.members.get_mut(&id)?;
        let mut steps = Steps::default();
        let revokes_all = member.protocol == RebalanceProtocol::Eager && member.generation != self.generation;
        steps.revoke = if revokes_all {
            let owned = self.owners.iter().filter(|(owner, _)| *owner == id);
            owned.map(|(_, share)| share.clone()).collect()
        } else {
            member.surplus().iter().cloned().collect()
        };
        if !steps.revoke.is_empty() {
            // Revocations come first: partitions are taken in the generation that the member has
            // come to after them.
            return Some(steps);
        }
        steps.take = member.take(|share| self.owners.is_free(share));
        for share in &steps.take {
            self.owners.take(share.clone(), id, self.generation);
        }
        if member.missing().is_empty() {
            steps.settled = member.settled != self.generation;
            member.settled = self.generation;
        }
        member.generation = self.generation;
        Some(steps)
    }

    /// Keeps an error for each member, whose next poll returns it.
    pub(crate) fn tell(&mut self, error: &Error) {
        for member in self.members.values_mut() {
            member.unreported = Some(error.clone());
        }
        // Also for a member that has been expelled and must notice it.
        self.signal_all();
    }

    /// The error kept for a member, once.
    pub(crate) fn take_unreported(&mut self, id: u32) -> Option<Error> {
        self.members.get_mut(&id)?.unreported.take()
    }

    /// A member has given up these partitions. The others are signalled.
    pub(crate) fn release(&mut self, id: u32, shares: &[Share]) {
        for share in shares {
            if self.owners.release(share, id)
                && let Some(member) = self.members.get_mut(&id)
            {
                member.has_released(share);
            }
        }
        self.signal_all();
    }

    /// The stamp of the records that a member polls now.
    pub(crate) fn stamp(&self, id: u32) -> Option<Stamp> {
        self.members.get(&id).map(|member| Stamp { member: id, generation: member.generation })
    }

    /// Why the holder of a stamp may not commit a partition, if it may not. KIP-1251's rule.
    pub(crate) fn objection(&self, stamp: Stamp, share: &Share) -> Option<RejectReason> {
        let Some(member) = self.members.get(&stamp.member) else { return Some(RejectReason::NotAMember) };
        match self.owners.owner(share) {
            Some((owner, since)) if owner == stamp.member => {
                let held = since <= stamp.generation && stamp.generation <= member.generation;
                (!held).then_some(RejectReason::Stale)
            }
            _ => Some(RejectReason::NotOwned),
        }
    }

    /// Keeps a partition where it is until [`unpin`](Membership::unpin); one without an owner is
    /// not taken.
    pub(crate) fn pin(&mut self, share: &Share) {
        self.owners.pin(share, self.generation);
    }

    /// Whether a transaction is under way that commits offsets of the group.
    pub(crate) fn is_pinned(&self) -> bool {
        self.owners.is_any_pinned()
    }

    /// Whether a transaction is under way that commits offsets of this partition.
    pub(crate) fn is_pinned_in(&self, share: &Share) -> bool {
        self.owners.is_pinned(share)
    }

    pub(crate) fn unpin(&mut self, share: &Share) {
        if self.owners.unpin(share) {
            self.signal_all();
        }
    }

    /// The partitions that a member owns.
    pub(crate) fn owned(&self, id: u32) -> Vec<Share> {
        self.owners().filter(|(owner, _)| *owner == id).map(|(_, share)| share.clone()).collect()
    }

    /// The partitions that members own, each with its member.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u32, &Share)> {
        self.owners.iter()
    }

    /// The partitions that each member should have.
    #[cfg(test)]
    pub(super) fn targets(&self) -> Vec<(u32, Vec<Share>)> {
        self.members.iter().map(|(id, member)| (*id, member.target().iter().cloned().collect())).collect()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.keys().copied()
    }

    /// No partition is moving, and each is with the member that should have it.
    pub(crate) fn is_stable(&self) -> bool {
        // Not stable if the assignor failed to assign the partitions of a member that left.
        let wanted: usize = self.topics.values().map(|topic| topic.partitions as usize).sum();
        let targets: usize = self.members.values().map(|member| member.target().len()).sum();
        self.members.is_empty()
            || targets == wanted
                && self
                    .members
                    .values()
                    .all(|member| member.generation == self.generation && member.has_target())
    }

    /// Computes a new target for each member.
    fn rebalance(&mut self, topics: &dyn TopicLookup) -> Result<()> {
        let topics = self.subscribed(topics);
        let targets = targets(&self.members, &self.owners, &topics)?;
        self.topics = topics;
        (self.is_whole, self.is_equal, self.noted) = (true, targets.is_equal, None);
        for (member, target) in self.members.values_mut().zip(targets.shares) {
            member.set_target(target);
        }
        for (id, share) in self.owners.iter() {
            if let Some(member) = self.members.get_mut(&id) {
                member.owns(share);
            }
        }
        self.next_generation();
        Ok(())
    }

    /// A rebalance that no caller asked for: the members get its error.
    fn rebalance_or_tell(&mut self, topics: &dyn TopicLookup) {
        if let Err(error) = self.rebalance(topics) {
            self.is_whole = false;
            self.tell(&error);
        }
    }

    /// The partitions that were added to topics that have changed, by topic. `None` if something
    /// else has changed too.
    fn growths(&self, topics: &dyn TopicLookup, changed: &[TopicName]) -> Option<Vec<Growth>> {
        if !self.is_whole {
            return None;
        }
        let mut growths = Vec::new();
        for name in changed.iter().collect::<BTreeSet<_>>() {
            let is_subscribed = self.members.values().any(|member| member.subscribes(name));
            let now = topics.topic(name.as_str()).filter(|_| is_subscribed);
            match (self.topics.get(name), now) {
                (None, None) => {}
                (None, Some(topic)) => growths.push(Growth { topic, had: 0 }),
                (Some(known), Some(topic)) if *known == topic => {}
                (Some(known), Some(topic)) if known.id == topic.id && known.partitions < topic.partitions => {
                    growths.push(Growth { topic, had: known.partitions });
                }
                _ => return None,
            }
        }
        Some(growths)
    }

    /// Adds partitions to the members' targets. Returns false, and changes nothing, if the assignor
    /// must be called.
    fn extend(&mut self, growths: &[Growth]) -> bool {
        let Some(added) = extension(&self.members, &self.owners, self.is_equal, growths) else {
            return false;
        };
        for (member, shares) in self.members.values_mut().zip(added) {
            shares.into_iter().for_each(|share| member.add(share));
        }
        for Growth { topic, .. } in growths {
            self.topics.insert(topic.name.clone(), topic.clone());
        }
        self.next_generation();
        true
    }

    /// The topics that some member subscribes to. Only these are looked up, however many others
    /// there are.
    fn subscribed(&self, topics: &dyn TopicLookup) -> BTreeMap<TopicName, TopicInfo> {
        let patterns: BTreeSet<&Pattern> = self.members.values().flat_map(Member::patterns).collect();
        let look_up = |pattern: &Pattern| match pattern.is_glob() {
            true => topics.matching(pattern),
            false => topics.topic(&pattern.0).into_iter().collect(),
        };
        patterns.into_iter().flat_map(look_up).map(|topic| (topic.name.clone(), topic)).collect()
    }

    fn next_generation(&mut self) {
        self.generation += 1;
        self.signal_all();
    }

    fn signal_all(&self) {
        self.version.fetch_add(1, Ordering::Release);
        for member in self.members.values() {
            member.waiter.signal();
        }
    }
}
