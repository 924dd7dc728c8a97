//! A consumer's side of its group. Before each look for records it compares versions, which costs
//! one load. If they differ, it gives up the partitions that move away, takes those that are free,
//! and calls its listener.

use std::collections::HashSet;
use std::time::Duration;

use super::commit::Committer;
use super::counted::Counted;
use super::departure::leave;
use super::early::Early;
use super::rebalance::{Hears, Rebalance, RebalanceEvent};
use crate::config::Durability;
use crate::engine::{Identity, observe};
use crate::error::{Error, Result};
use crate::group::assign::{Chosen, RebalanceProtocol};
use crate::group::state::{Joining, Liveness, Pattern, Share};
use crate::group::{Commit, GroupHost, Host, Seat, wait};
use crate::log::Log;
use crate::reader::OffsetReset;
use crate::reader::assigned::Assigned;
use crate::reader::fetcher::Fetcher;
use crate::sync::{Arc, about_to_call_user_code};
use crate::types::{Offset, PartitionId, Position, TopicPartition};

/// Called with every change of the partitions that the consumer owns.
pub(super) type Listener = Box<dyn FnMut(&mut Rebalance<'_>) -> Result<()> + Send>;

/// A consumer's side of its group.
pub(super) struct Session {
    pub(super) committer: Arc<Committer>,
    pub(super) reset: OffsetReset,
    pub(super) counted: Counted,
    /// `None` if the partitions were assigned by hand.
    member: Option<Joined>,
    auto_commit: Option<AutoCommit>,
    /// The partitions that were assigned since the last poll that stored where the group starts.
    starting: Vec<Starting>,
}

/// A partition whose first records are still to be delivered.
struct Starting {
    identity: Arc<Identity>,
    /// The offset, and its epoch, once it is known.
    at: Option<(Offset, u32)>,
}

struct Joined {
    subscription: Subscription,
    seat: Seat,
    liveness: Arc<Liveness>,
    /// The group's version that it has come to; `None` before the first time.
    seen: Option<u64>,
    /// Seeks and pauses until it has all partitions of its first assignment; `None` after that.
    early: Option<Early>,
}

/// The terms under which a member joins.
pub(super) struct Subscription {
    pub(super) topics: Vec<Pattern>,
    pub(super) assignor: Chosen,
    pub(super) protocol: RebalanceProtocol,
    pub(super) max_poll_interval: Duration,
    pub(super) listener: Option<Listener>,
}

/// One poll of a member. After it the next one is due, also if a listener has panicked.
pub(super) struct Polling<'a> {
    session: &'a mut Session,
    waits: bool,
}

impl<'a> Polling<'a> {
    pub(super) fn begin(session: &'a mut Session) -> Self {
        session.begin_poll();
        Polling { session, waits: false }
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session
    }

    /// A future waits to be woken: until then the member counts as polling.
    pub(super) fn wait(mut self) {
        self.waits = true;
        // Once more: a look at the group may have noted an earlier wake-up during the poll.
        self.session.begin_poll();
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        if !self.waits {
            self.session.end_poll();
        }
    }
}

struct AutoCommit {
    every: Duration,
    next: Duration,
}

impl Session {
    pub(super) fn new(committer: Arc<Committer>, reset: OffsetReset, auto_commit: Option<Duration>) -> Self {
        let now = committer.broker.ctx.clock.monotonic();
        let auto_commit = auto_commit.map(|every| AutoCommit { every, next: now.saturating_add(every) });
        let counted = Counted::new(&committer);
        Session { committer, reset, counted, member: None, auto_commit, starting: Vec::new() }
    }

    pub(super) fn subscription(&self) -> Option<&Subscription> {
        Some(&self.member.as_ref()?.subscription)
    }

    pub(super) fn auto_commit(&self) -> Option<Duration> {
        Some(self.auto_commit.as_ref()?.every)
    }

    /// Becomes a member of the group.
    ///
    /// # Errors
    /// Those of joining.
    pub(super) fn join(&mut self, subscription: Subscription) -> Result<()> {
        let (seat, liveness) = take_seat(&self.committer, &subscription)?;
        let early = Some(Early::default());
        self.member = Some(Joined { subscription, seat, liveness, seen: None, early });
        Ok(())
    }

    /// Where seeks and pauses of a partition wait that the consumer may still get with its first
    /// assignment.
    pub(super) fn early_of(&mut self, topic: &str, partition: PartitionId) -> Option<&mut Early> {
        let member = self.member.as_mut()?;
        let state = self.committer.broker.topic_state(topic).ok()?;
        let may_get = member.subscription.topics.iter().any(|pattern| pattern.matches(topic))
            && partition.get() < state.log_count();
        member.early.as_mut().filter(|_| may_get)
    }

    /// Where seeks and pauses wait, if its first assignment is not complete.
    pub(super) fn early(&mut self) -> Option<&mut Early> {
        self.member.as_mut()?.early.as_mut()
    }

    /// The partitions that will be paused when they are assigned.
    pub(super) fn early_paused(&self) -> &[TopicPartition] {
        self.member.as_ref().and_then(|member| member.early.as_ref()).map_or(&[], Early::paused)
    }

    /// Goes back to the committed offsets, if a transaction with the consumer's offsets was not
    /// committed.
    pub(super) fn put_back(&self, fetcher: &mut Fetcher) {
        if self.committer.take_goes_back() {
            self.rewind(fetcher);
        }
    }

    /// Goes back to where each partition would start.
    pub(super) fn rewind(&self, fetcher: &mut Fetcher) {
        for assigned in fetcher.assigned_mut() {
            let start = self.start(assigned.log().clone());
            let position = start.position();
            assigned.seek(position.offset, position.epoch);
            if start.is_unset() {
                assigned.set_unset();
            }
        }
    }

    fn begin_poll(&self) {
        if let Some(member) = &self.member {
            member.liveness.begin();
        }
    }

    pub(super) fn end_poll(&self) {
        if let Some(member) = &self.member {
            let now = self.committer.broker.ctx.clock.monotonic();
            member.liveness.end(now.saturating_add(member.subscription.max_poll_interval));
        }
    }

    /// Called before each look for records.
    ///
    /// # Errors
    /// The first error of the listener, which does not change the ownership; `NoCommittedOffset`;
    /// those of joining again after an expulsion, and of an automatic commit.
    pub(super) fn keep_up(&mut self, fetcher: &mut Fetcher, hears: &mut Hears<'_>) -> Result<()> {
        self.committer.broker.check_open()?;
        self.put_back(fetcher);
        let is_outdated = |member: &Joined| member.seen != Some(member.seat.group.version());
        let is_outdated = self.member.as_ref().is_some_and(is_outdated);
        let told = if is_outdated { self.reconcile(fetcher, hears) } else { Ok(()) };
        // The listener's error comes first: it is returned once, whereas an automatic commit is
        // tried again.
        told.and(self.commit_if_due(fetcher))?;
        let unset = fetcher.unset();
        if !unset.is_empty() {
            let group = self.committer.group.name.clone();
            return Err(Error::NoCommittedOffset { group, partitions: unset });
        }
        if self.starting.is_empty() { Ok(()) } else { self.store_starts(fetcher) }
    }

    /// Takes a partition that is read from now on.
    pub(super) fn assign(&mut self, fetcher: &mut Fetcher, assigned: Assigned) {
        self.starting.push(Starting { identity: assigned.log().identity().clone(), at: None });
        fetcher.assign(assigned);
    }

    /// Stores where the group starts in partitions of which it has committed nothing, before their
    /// first records are delivered. Otherwise [`rewind`](Session::rewind), or another member after
    /// this one, could start after records that were delivered.
    ///
    /// # Errors
    /// Those of the append, if the policy would start elsewhere without the record: then the next
    /// poll tries again.
    fn store_starts(&mut self, fetcher: &mut Fetcher) -> Result<()> {
        for Starting { identity, .. } in &self.starting {
            fetcher.find_by_id(identity).map_or(Ok(()), Assigned::look_up)?;
        }
        let (mut starts, mut is_strict) = (Vec::new(), false);
        for starting in &mut self.starting {
            let Some(assigned) = fetcher.get_by_id(&starting.identity) else { continue };
            // If the last attempt failed, records may have been delivered since.
            starting.at = starting.at.or_else(|| assigned.lands(self.reset));
            if let Some((offset, epoch)) = starting.at {
                is_strict |= assigned.log().settings().durability == Durability::Sync;
                let position = Position { offset, epoch, ..assigned.position() };
                starts.push(commit_of(starting.identity.clone(), position));
            }
        }
        let Committer { broker, group, .. } = &*self.committer;
        let written = group.begin(&**broker, self.committer.stamp(), &starts).and_then(|written| {
            let log = written.as_ref().filter(|_| is_strict).map(|(log, _)| log.clone());
            wait(written)?;
            log.map_or(Ok(()), |log| log.sync().map(drop))
        });
        match written {
            Err(error) if self.skips() => Err(error),
            // Without the record it would start at the log's beginning, which skips nothing.
            Err(_) => Ok(()),
            Ok(()) => {
                // One without an offset has nothing to deliver before the caller seeks.
                let is_left = |starting: &Starting| {
                    starting.at.is_none() && fetcher.get_by_id(&starting.identity).is_some()
                };
                self.starting.retain(is_left);
                Ok(())
            }
        }
    }

    /// Whether the policy passes over records of a partition in which nothing is committed.
    fn skips(&self) -> bool {
        matches!(self.reset, OffsetReset::End | OffsetReset::Fail)
    }

    /// Takes the steps that the group asks for, until there are none.
    fn reconcile(&mut self, fetcher: &mut Fetcher, hears: &mut Hears<'_>) -> Result<()> {
        let mut told = Ok(());
        let skips = self.skips();
        loop {
            let Some(member) = &mut self.member else { return told };
            // The version first: the next look sees a change after this one.
            let version = member.seat.group.version();
            let (steps, stamp, failed) = {
                let (mut membership, id) = (member.seat.group.lock(), member.seat.id);
                if skips && !member.seat.group.is_noted(&*self.committer.broker, &mut membership) {
                    // Otherwise new partitions would be treated as known ones, whose records the
                    // policy passes over.
                    drop(membership);
                    match member.seat.group.note(&*self.committer.broker) {
                        Ok(()) => continue,
                        Err(error) => return told.and(Err(error)),
                    }
                }
                (membership.reconcile(id), membership.stamp(id), membership.take_unreported(id))
            };
            told = told.and(failed.map_or(Ok(()), Err));
            let (Some(steps), Some(stamp)) = (steps, stamp) else {
                told = told.and(self.lose_all(fetcher, hears));
                match self.come_back() {
                    Ok(()) => continue,
                    Err(error) => return told.and(Err(error)),
                }
            };
            self.committer.set_stamp(stamp);
            if !steps.revoke.is_empty() {
                told = told.and(self.give_up(fetcher, &steps.revoke, hears));
                continue;
            }
            member.seen = Some(version);
            let partitions: Vec<TopicPartition> = steps.take.iter().map(Share::topic_partition).collect();
            let early = if steps.settled { member.early.take() } else { member.early.clone() };
            for share in &steps.take {
                if let Some(log) = self.committer.broker.log(&share.id, share.partition) {
                    let mut assigned = self.start(log);
                    if let Some(early) = &early {
                        early.apply(&mut assigned);
                    }
                    self.assign(fetcher, assigned);
                }
            }
            if steps.settled || !partitions.is_empty() {
                told = told.and(self.tell(fetcher, RebalanceEvent::Assigned, &partitions, hears));
            }
            return told;
        }
    }

    /// The member has been expelled: it owns nothing, and its commits are rejected.
    fn lose_all(&mut self, fetcher: &mut Fetcher, hears: &mut Hears<'_>) -> Result<()> {
        let lost: Vec<TopicPartition> = fetcher.assigned().iter().map(topic_partition).collect();
        let told =
            if lost.is_empty() { Ok(()) } else { self.tell(fetcher, RebalanceEvent::Lost, &lost, hears) };
        fetcher.unassign(|_| true);
        told
    }

    /// Joins again. If that fails it stays outdated, so that the next poll tries again.
    fn come_back(&mut self) -> Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        (member.seat, member.liveness) = take_seat(&self.committer, &member.subscription)?;
        member.liveness.begin();
        Ok(())
    }

    /// Lets partitions go to others, after the last commit that they allow.
    fn give_up(&mut self, fetcher: &mut Fetcher, shares: &[Share], hears: &mut Hears<'_>) -> Result<()> {
        let partitions: Vec<TopicPartition> = shares.iter().map(Share::topic_partition).collect();
        let committed = if self.auto_commit.is_some() { self.commit_positions(fetcher) } else { Ok(()) };
        let told = self.tell(fetcher, RebalanceEvent::Revoked, &partitions, hears);
        let shared: HashSet<_> = shares.iter().map(|share| (share.id, share.partition)).collect();
        fetcher.unassign(|assigned| {
            let identity = assigned.log().identity();
            shared.contains(&(identity.topic_id, identity.partition))
        });
        if let Some(member) = &self.member {
            member.seat.group.lock().release(member.seat.id, shares);
        }
        told.and(committed)
    }

    /// Calls `hears` and the listener, if there is one, also if the first returns an error.
    fn tell(
        &mut self,
        fetcher: &mut Fetcher,
        event: RebalanceEvent,
        partitions: &[TopicPartition],
        hears: &mut Hears<'_>,
    ) -> Result<()> {
        let Committer { broker, group, .. } = &*self.committer;
        broker.ctx.events.observe(|| observe::rebalanced(&group.name, event.name(), partitions));
        let heard = hears(event, partitions);
        let Some(member) = &mut self.member else { return heard };
        let Some(listener) = &mut member.subscription.listener else { return heard };
        about_to_call_user_code("the rebalance listener");
        heard.and(listener(&mut Rebalance { event, partitions, fetcher, committer: &self.committer }))
    }

    /// Where a partition is started: at the committed offset; where the group has started before,
    /// if it has committed nothing; in a partition that is newer than the group, at its beginning;
    /// else where the policy chooses.
    pub(super) fn start(&self, log: Arc<Log>) -> Assigned {
        let Committer { broker, group, .. } = &*self.committer;
        let offsets = broker.coordinator().offsets();
        let (id, partition) = (log.identity().topic_id, log.partition());
        // The epoch first: if the log is truncated after this, the first poll sees another one.
        let epoch = log.epoch();
        if let Some(committed) = offsets.committed(&group.name, &id, partition) {
            return Assigned::new(log, committed.offset, committed.epoch);
        }
        if let Some(began) = offsets.began(&group.name, &id, partition) {
            return Assigned::new(log, began.offset, began.epoch);
        }
        let beginning = log.log_start();
        if self.member.is_some() && offsets.joined(&group.name, &id).is_some_and(|had| partition.get() >= had)
        {
            return Assigned::new(log, beginning, epoch);
        }
        match self.reset {
            OffsetReset::End => {
                let end = log.visible_end();
                Assigned::new(log, end, epoch)
            }
            OffsetReset::Fail => {
                let mut assigned = Assigned::new(log, beginning, epoch);
                assigned.set_unset();
                assigned
            }
            _ => Assigned::new(log, beginning, epoch),
        }
    }

    fn commit_if_due(&mut self, fetcher: &Fetcher) -> Result<()> {
        let now = self.committer.broker.ctx.clock.monotonic();
        match &mut self.auto_commit {
            Some(auto) if auto.next <= now => {
                auto.next = now.saturating_add(auto.every);
                self.commit_positions(fetcher)
            }
            _ => Ok(()),
        }
    }

    /// Commits the positions after earlier polls. A position that is not in the log, because the
    /// topic was deleted, the log truncated, or a seek has gone elsewhere and no poll has checked
    /// it, has nothing to commit, and must not keep the others from being committed.
    fn commit_positions(&self, fetcher: &Fetcher) -> Result<()> {
        let is_there = |assigned: &Assigned| {
            let identity = assigned.log().identity();
            self.committer.broker.log(&identity.topic_id, identity.partition).is_some()
                && assigned.is_in_log()
        };
        let commits: Vec<Commit> = fetcher
            .assigned()
            .iter()
            .filter(|assigned| is_there(assigned))
            .filter_map(|assigned| {
                let (source, position) = (assigned.log().identity(), assigned.position());
                let known = self.committer.committed_by_id(&source.topic_id, position.partition);
                let moved = known
                    .is_none_or(|known| (known.offset, known.epoch) != (position.offset, position.epoch));
                moved.then(|| commit_of(source.clone(), position))
            })
            .collect();
        if commits.is_empty() { Ok(()) } else { self.committer.commit_all(&commits).detach() }
    }

    /// Gives everything up and leaves.
    ///
    /// # Errors
    /// The first of the listener's, or of the automatic commit.
    pub(super) fn close(&mut self, fetcher: &mut Fetcher) -> Result<()> {
        self.put_back(fetcher);
        let Some(member) = &self.member else {
            return if self.auto_commit.is_some() { self.commit_positions(fetcher) } else { Ok(()) };
        };
        let owned = {
            let membership = member.seat.group.lock();
            membership.stamp(member.seat.id).map(|_| membership.owned(member.seat.id))
        };
        let told = match owned {
            None => self.lose_all(fetcher, &mut |_, _| Ok(())),
            Some(owned) if owned.is_empty() => Ok(()),
            Some(owned) => self.give_up(fetcher, &owned, &mut |_, _| Ok(())),
        };
        self.leave();
        told
    }

    fn leave(&mut self) {
        self.committer.end();
        if let Some(member) = self.member.take() {
            leave(&self.committer.broker, member.seat);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
    }
}

fn take_seat(committer: &Committer, subscription: &Subscription) -> Result<(Seat, Arc<Liveness>)> {
    let liveness = Arc::new(Liveness::polling());
    let joining = Joining {
        topics: subscription.topics.clone(),
        assignor: subscription.assignor.clone(),
        protocol: subscription.protocol,
        waiter: committer.waiter.clone(),
        liveness: liveness.clone(),
    };
    let host: Arc<dyn GroupHost> = committer.broker.clone();
    let seat = committer.group.join(&host, joining, subscription.max_poll_interval)?;
    Ok((seat, liveness))
}

pub(super) fn topic_partition(assigned: &Assigned) -> TopicPartition {
    assigned.log().identity().topic_partition()
}

fn commit_of(source: Arc<Identity>, position: Position) -> Commit {
    Commit {
        topic: position.topic,
        source: Some(source),
        partition: position.partition,
        next: position.offset,
        epoch: position.epoch,
        stamp: None,
        metadata: Arc::from(""),
    }
}
