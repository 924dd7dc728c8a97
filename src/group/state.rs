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

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::assign::{Assignor, AssignorMember, AssignorTopic, RebalanceProtocol, checked};
pub(crate) use super::pattern::Pattern;
use crate::engine::Waiter;
use crate::error::{Error, RejectReason, Result};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::{PartitionId, TopicId, TopicName, TopicPartition};

/// A topic as a group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    pub(crate) name: TopicName,
    pub(crate) id: TopicId,
    pub(crate) partitions: u32,
}

/// Where a group looks up the topics that its members subscribe to.
pub(crate) trait TopicLookup {
    /// The topic of this name.
    fn topic(&self, name: &str) -> Option<TopicInfo>;

    /// The topics that match a glob.
    fn matching(&self, glob: &Pattern) -> Vec<TopicInfo>;
}

/// One partition of one topic, which is that topic forever: one that is created again under its
/// name is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Share {
    pub(crate) topic: TopicName,
    pub(crate) id: TopicId,
    pub(crate) partition: PartitionId,
}

impl Share {
    /// Its name and number.
    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }
}

/// The number of no member.
pub(crate) const NO_MEMBER: u32 = 0;

/// The number of a consumer that has left or was dropped: it commits nothing.
pub(crate) const GONE: u32 = u32::MAX;

/// The stamp of polled records: the member, and the generation that it had come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// [`NO_MEMBER`]: no member of a group.
    pub(crate) member: u32,
    pub(crate) generation: u32,
}

/// The terms under which a member joins.
pub(crate) struct Joining {
    pub(crate) topics: Vec<Pattern>,
    pub(crate) assignor: Arc<dyn Assignor>,
    pub(crate) protocol: RebalanceProtocol,
    /// Signalled when there is something to reconcile.
    pub(crate) waiter: Arc<Waiter>,
    pub(crate) liveness: Arc<Liveness>,
}

/// When a member must have polled again. Set by the member without a lock.
#[derive(Debug)]
pub(crate) struct Liveness(AtomicU64);

impl Liveness {
    /// Of a member that is inside a poll.
    pub(crate) fn polling() -> Self {
        Liveness(AtomicU64::new(u64::MAX))
    }

    /// A poll begins.
    pub(crate) fn begin(&self) {
        self.0.store(u64::MAX, Ordering::Release);
    }

    /// A poll has ended; the next one is to begin before `deadline`.
    pub(crate) fn end(&self, deadline: Duration) {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Release);
    }

    /// The member awaits records. If its future was woken and has not been polled since, it must be
    /// polled before `deadline`. The member itself calls [`begin`](Liveness::begin) before and
    /// after a poll of the future.
    pub(crate) fn note_woken(&self, waiter: &Waiter, deadline: Duration) {
        if self.deadline().is_some() || !waiter.future_woken() {
            return;
        }
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let noted = self.0.compare_exchange(u64::MAX, nanos, Ordering::AcqRel, Ordering::Acquire);
        // If the future was polled in between, it may have been before the exchange.
        if noted.is_ok() && !waiter.future_woken() {
            let _ = self.0.compare_exchange(nanos, u64::MAX, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// The monotonic time at which its member is expelled; `None` inside a poll.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Acquire)).filter(|nanos| *nanos != u64::MAX).map(Duration::from_nanos)
    }
}

/// A group's members and the owners of partitions.
pub(crate) struct Membership {
    generation: u32,
    members: BTreeMap<u32, Member>,
    owners: BTreeMap<Share, Ownership>,
    /// The subscribed topics, as of the last rebalance.
    topics: Vec<TopicInfo>,
    version: Arc<AtomicU64>,
}

struct Member {
    topics: Vec<Pattern>,
    assignor: Arc<dyn Assignor>,
    protocol: RebalanceProtocol,
    waiter: Arc<Waiter>,
    liveness: Arc<Liveness>,
    /// The generation it has come to: its polls are stamped with it.
    generation: u32,
    /// The last one in which it had all of its target.
    settled: u32,
    target: BTreeSet<Share>,
    /// An error that the member did not cause, until its next poll has returned it.
    unreported: Option<Error>,
}

struct Ownership {
    member: u32,
    /// The generation in which it was taken.
    since: u32,
    /// How many transactions are under way that commit offsets of it: it cannot change hands
    /// meanwhile.
    pins: u32,
    /// Its owner has gone, or has given it up: free once nothing pins it.
    released: bool,
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
            owners: BTreeMap::new(),
            topics: Vec::new(),
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

    pub(crate) fn topics(&self) -> &[TopicInfo] {
        &self.topics
    }

    /// The members' subscriptions to topics that may come later: the globs, and the names of which
    /// there is no topic.
    pub(crate) fn open_patterns(&self) -> impl Iterator<Item = &Pattern> {
        let find = move |name: &str| self.topics.binary_search_by(|topic| topic.name.as_str().cmp(name));
        let is_there = move |pattern: &Pattern| find(&pattern.0).is_ok();
        let all = self.members.values().flat_map(|member| &member.topics);
        all.filter(move |pattern| pattern.is_glob() || !is_there(pattern))
    }

    /// Takes in a member.
    ///
    /// # Errors
    /// `InvalidConfig` if the group shares its partitions in another way; `InvalidAssignment`: then
    /// it is not a member.
    pub(crate) fn join(&mut self, id: u32, joining: Joining, topics: &dyn TopicLookup) -> Result<()> {
        let Joining { topics: patterns, assignor, protocol, waiter, liveness } = joining;
        if let Some(other) = self.members.values().find(|other| other.assignor.name() != assignor.name()) {
            let reason = format!("the group's other members use {:?}", other.assignor.name());
            return Err(Error::InvalidConfig { field: "assignor", reason });
        }
        if let Some(other) = self.members.values().find(|other| other.protocol != protocol) {
            let reason = format!("{protocol:?}; the group's other members use {:?}", other.protocol);
            return Err(Error::InvalidConfig { field: "rebalance_protocol", reason });
        }
        let target = BTreeSet::new();
        let member = Member {
            topics: patterns,
            assignor,
            protocol,
            waiter,
            liveness,
            generation: 0,
            settled: 0,
            target,
            unreported: None,
        };
        self.members.insert(id, member);
        self.rebalance(topics).inspect_err(|_| {
            self.members.remove(&id);
        })
    }

    /// Removes a member, and returns its subscription; `None` if there is no such member. If the
    /// assignor fails, the other members get the error and keep their partitions: those of the
    /// member have no owner until the next rebalance.
    pub(crate) fn leave(&mut self, id: u32, topics: &dyn TopicLookup) -> Option<Vec<Pattern>> {
        let member = self.members.remove(&id)?;
        for owner in self.owners.values_mut().filter(|owner| owner.member == id) {
            owner.released = true;
        }
        self.owners.retain(|_, owner| !owner.is_free());
        self.rebalance_or_tell(topics);
        Some(member.topics)
    }

    /// Whether a member has not polled for too long at `now`.
    pub(crate) fn is_overdue(&self, id: u32, now: Duration) -> bool {
        let deadline = self.members.get(&id).and_then(|member| member.liveness.deadline());
        deadline.is_some_and(|deadline| now >= deadline)
    }

    /// The topics may have changed: a topic that grew, a new one that a pattern matches, one that
    /// is gone. If the assignor fails the members get the error, and nothing changes.
    pub(crate) fn topics_changed(&mut self, topics: &dyn TopicLookup) {
        if !self.members.is_empty() && self.subscribed(topics) != self.topics {
            self.rebalance_or_tell(topics);
        }
    }

    /// The steps of a member to the current generation. It owns the partitions that it takes on
    /// return, and those that it gives up until [`release`](Membership::release). `None` if it is
    /// no longer a member.
    pub(crate) fn reconcile(&mut self, id: u32) -> Option<Steps> {
        let member = self.members.get_mut(&id)?;
        let owned = |(_, owner): &(&Share, &Ownership)| owner.member == id && !owner.released;
        let mut steps = Steps::default();
        let revokes_all = member.protocol == RebalanceProtocol::Eager && member.generation != self.generation;
        for (share, _) in self.owners.iter().filter(owned) {
            if revokes_all || !member.target.contains(share) {
                steps.revoke.push(share.clone());
            }
        }
        if !steps.revoke.is_empty() {
            // Revocations come first: partitions are taken in the generation that the member has
            // come to after them.
            return Some(steps);
        }
        let mut complete = true;
        for share in &member.target {
            match self.owners.get(share) {
                Some(owner) => complete &= owner.member == id && !owner.released,
                None => {
                    let owner = Ownership { member: id, since: self.generation, pins: 0, released: false };
                    self.owners.insert(share.clone(), owner);
                    steps.take.push(share.clone());
                }
            }
        }
        if complete {
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
            if let Some(owner) = self.owners.get_mut(share).filter(|owner| owner.member == id) {
                owner.released = true;
            }
        }
        self.owners.retain(|_, owner| !owner.is_free());
        self.signal_all();
    }

    /// The stamp of the records that a member polls now.
    pub(crate) fn stamp(&self, id: u32) -> Option<Stamp> {
        self.members.get(&id).map(|member| Stamp { member: id, generation: member.generation })
    }

    /// Why the holder of a stamp may not commit a partition, if it may not. KIP-1251's rule.
    pub(crate) fn objection(&self, stamp: Stamp, share: &Share) -> Option<RejectReason> {
        let Some(member) = self.members.get(&stamp.member) else { return Some(RejectReason::NotAMember) };
        match self.owners.get(share) {
            Some(owner) if owner.member == stamp.member && !owner.released => {
                let held = owner.since <= stamp.generation && stamp.generation <= member.generation;
                (!held).then_some(RejectReason::Stale)
            }
            _ => Some(RejectReason::NotOwned),
        }
    }

    /// Keeps a partition where it is until [`unpin`](Membership::unpin); one without an owner is
    /// not taken.
    pub(crate) fn pin(&mut self, share: &Share) {
        let unowned = || Ownership { member: NO_MEMBER, since: self.generation, pins: 0, released: true };
        self.owners.entry(share.clone()).or_insert_with(unowned).pins += 1;
    }

    /// Whether a transaction is under way that commits offsets of the group.
    pub(crate) fn is_pinned(&self) -> bool {
        self.owners.values().any(|owner| owner.pins > 0)
    }

    /// Whether a transaction is under way that commits offsets of this partition.
    pub(crate) fn is_pinned_in(&self, share: &Share) -> bool {
        self.owners.get(share).is_some_and(|owner| owner.pins > 0)
    }

    pub(crate) fn unpin(&mut self, share: &Share) {
        let pinned = self.owners.get_mut(share).filter(|owner| owner.pins > 0);
        debug_assert!(pinned.is_some(), "each unpin follows a pin, which keeps the owner");
        if let Some(owner) = pinned {
            owner.pins -= 1;
            if owner.is_free() {
                self.owners.remove(share);
                self.signal_all();
            }
        }
    }

    /// The partitions that a member owns.
    pub(crate) fn owned(&self, id: u32) -> Vec<Share> {
        let owned = self.owners.iter().filter(|(_, owner)| owner.member == id && !owner.released);
        owned.map(|(share, _)| share.clone()).collect()
    }

    /// The partitions that members own, each with its member.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u32, &Share)> {
        let owned = self.owners.iter().filter(|(_, owner)| !owner.released);
        owned.map(|(share, owner)| (owner.member, share))
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.keys().copied()
    }

    /// No partition is moving, and each is with the member that should have it.
    pub(crate) fn is_stable(&self) -> bool {
        // Not stable if the assignor failed to assign the partitions of a member that left.
        let wanted: usize = self.topics.iter().map(|topic| topic.partitions as usize).sum();
        let targets: usize = self.members.values().map(|member| member.target.len()).sum();
        self.members.is_empty()
            || targets == wanted
                && self.members.iter().all(|(id, member)| {
                    member.generation == self.generation && self.owned(*id).iter().eq(member.target.iter())
                })
    }

    /// Computes a new target for each member.
    fn rebalance(&mut self, topics: &dyn TopicLookup) -> Result<()> {
        let topics = self.subscribed(topics);
        let targets = self.targets(&topics)?;
        self.topics = topics;
        self.generation += 1;
        for (member, target) in self.members.values_mut().zip(targets) {
            member.target = target;
        }
        self.signal_all();
        Ok(())
    }

    /// A rebalance that no caller asked for: the members get its error.
    fn rebalance_or_tell(&mut self, topics: &dyn TopicLookup) {
        if let Err(error) = self.rebalance(topics) {
            self.tell(&error);
        }
    }

    fn targets(&self, topics: &[TopicInfo]) -> Result<Vec<BTreeSet<Share>>> {
        let Some(first) = self.members.values().next() else { return Ok(Vec::new()) };
        let assignor = first.assignor.clone();
        let ids: HashSet<TopicId> = topics.iter().map(|topic| topic.id).collect();
        let views: Vec<_> = self
            .members
            .iter()
            .map(|(id, member)| {
                let matching = topics.iter().filter(|topic| member.subscribes(&topic.name));
                let subscribed: Vec<_> = matching.map(|topic| topic.name.clone()).collect();
                // The partitions that it owns, and those of its target: a rebalance that overtakes
                // another must not move more because of that.
                let owned: BTreeSet<_> = self
                    .owned(*id)
                    .into_iter()
                    .chain(member.target.iter().filter(|share| !self.owners.contains_key(share)).cloned())
                    .filter(|share| ids.contains(&share.id))
                    .map(|share| TopicPartition::new(share.topic, share.partition))
                    .collect();
                (format!("{id:010}"), subscribed, owned.into_iter().collect::<Vec<_>>())
            })
            .collect();
        let members: Vec<_> =
            views.iter().map(|(id, topics, owned)| AssignorMember { id, topics, owned }).collect();
        let infos: Vec<_> = topics
            .iter()
            .map(|topic| AssignorTopic { name: &topic.name, partitions: topic.partitions })
            .collect();
        let assigned = checked(&*assignor, &members, &infos)?;
        let share = |TopicPartition { topic: name, partition }| {
            let at = topics.binary_search_by(|topic| topic.name.cmp(&name)).ok()?;
            topics.get(at).map(|topic| Share { topic: name, id: topic.id, partition })
        };
        Ok(assigned.into_iter().map(|shares| shares.into_iter().filter_map(share).collect()).collect())
    }

    /// The topics that some member subscribes to, by name. Only these are looked up, however many
    /// others there are.
    fn subscribed(&self, topics: &dyn TopicLookup) -> Vec<TopicInfo> {
        let patterns: BTreeSet<&Pattern> = self.members.values().flat_map(|member| &member.topics).collect();
        let look_up = |pattern: &Pattern| match pattern.is_glob() {
            true => topics.matching(pattern),
            false => topics.topic(&pattern.0).into_iter().collect(),
        };
        let found = patterns.into_iter().flat_map(look_up).map(|topic| (topic.name.clone(), topic));
        found.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    fn signal_all(&self) {
        self.version.fetch_add(1, Ordering::Release);
        for member in self.members.values() {
            member.waiter.signal();
        }
    }
}

impl Member {
    fn subscribes(&self, topic: &TopicName) -> bool {
        self.topics.iter().any(|pattern| pattern.matches(topic.as_str()))
    }
}

impl Ownership {
    fn is_free(&self) -> bool {
        self.released && self.pins == 0
    }
}
