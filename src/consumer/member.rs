//! A consumer's side of its group. Before each look for records it compares versions, which costs
//! one load. If they differ, it gives up the partitions that move away, takes those that are free,
//! and calls its listener.

use std::time::Duration;

use super::commit::Committer;
use super::rebalance::{Rebalance, RebalanceEvent};
use crate::engine::Identity;
use crate::error::{Error, Result};
use crate::group::assign::Assignor;
use crate::group::state::{Joining, Liveness, Pattern, Share, Stamp};
use crate::group::{Commit, GroupHost, Host, Seat};
use crate::log::Log;
use crate::reader::OffsetReset;
use crate::reader::assigned::Assigned;
use crate::reader::fetcher::Fetcher;
use crate::sync::{Arc, about_to_call_user_code};
use crate::types::TopicPartition;

/// Called with every change of the partitions that the consumer owns.
pub(super) type Listener = Box<dyn FnMut(&mut Rebalance<'_>) -> Result<()> + Send>;

/// A consumer's side of its group.
pub(super) struct Session {
    pub(super) committer: Arc<Committer>,
    pub(super) reset: OffsetReset,
    /// `None` if the partitions were assigned by hand.
    member: Option<Joined>,
    auto_commit: Option<AutoCommit>,
}

struct Joined {
    subscription: Subscription,
    seat: Seat,
    liveness: Arc<Liveness>,
    /// The group's version that it has come to; `None` before the first time.
    seen: Option<u64>,
}

/// The terms under which a member joins.
pub(super) struct Subscription {
    pub(super) topics: Vec<Pattern>,
    pub(super) assignor: Arc<dyn Assignor>,
    pub(super) max_poll_interval: Duration,
    pub(super) listener: Option<Listener>,
}

struct AutoCommit {
    every: Duration,
    next: Duration,
}

impl Session {
    pub(super) fn new(committer: Arc<Committer>, reset: OffsetReset, auto_commit: Option<Duration>) -> Self {
        let now = committer.broker.ctx.clock.monotonic();
        let auto_commit = auto_commit.map(|every| AutoCommit { every, next: now.saturating_add(every) });
        Session { committer, reset, member: None, auto_commit }
    }

    /// Becomes a member of the group.
    ///
    /// # Errors
    /// Those of joining.
    pub(super) fn join(&mut self, subscription: Subscription) -> Result<()> {
        let (seat, liveness) = take_seat(&self.committer, &subscription)?;
        self.member = Some(Joined { subscription, seat, liveness, seen: None });
        Ok(())
    }

    pub(super) fn begin_poll(&self) {
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
    pub(super) fn keep_up(&mut self, fetcher: &mut Fetcher) -> Result<()> {
        self.committer.broker.check_open()?;
        let is_outdated = |member: &Joined| member.seen != Some(member.seat.group.version());
        let told =
            if self.member.as_ref().is_some_and(is_outdated) { self.reconcile(fetcher) } else { Ok(()) };
        // The listener's error comes first: it is returned once, whereas an automatic commit is
        // tried again.
        told.and(self.commit_if_due(fetcher))?;
        let unset: Vec<TopicPartition> =
            fetcher.assigned().iter().filter(|assigned| assigned.is_unset()).map(topic_partition).collect();
        if unset.is_empty() {
            Ok(())
        } else {
            Err(Error::NoCommittedOffset { group: self.committer.group.name.clone(), partitions: unset })
        }
    }

    /// Takes the steps that the group asks for, until there are none.
    fn reconcile(&mut self, fetcher: &mut Fetcher) -> Result<()> {
        let mut told = Ok(());
        let skips = matches!(self.reset, OffsetReset::Latest | OffsetReset::Fail);
        loop {
            let Some(member) = &mut self.member else { return told };
            // The version first: the next look sees a change after this one.
            let version = member.seat.group.version();
            let (steps, stamp, failed) = {
                let (mut membership, id) = (member.seat.group.lock(), member.seat.id);
                if skips && !member.seat.group.is_noted(&*self.committer.broker, &membership) {
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
                told = told.and(self.lose_all(fetcher));
                match self.come_back() {
                    Ok(()) => continue,
                    Err(error) => return told.and(Err(error)),
                }
            };
            self.committer.set_stamp(stamp);
            if !steps.revoke.is_empty() {
                told = told.and(self.give_up(fetcher, &steps.revoke));
                continue;
            }
            member.seen = Some(version);
            let partitions: Vec<TopicPartition> = steps.take.iter().map(Share::topic_partition).collect();
            for share in &steps.take {
                if let Some(log) = self.committer.broker.log(&share.id, share.partition) {
                    fetcher.assign(self.start(log));
                }
            }
            if steps.settled || !partitions.is_empty() {
                told = told.and(self.tell(fetcher, RebalanceEvent::Assigned, &partitions));
            }
            return told;
        }
    }

    /// The member has been expelled: it owns nothing, and its commits are rejected.
    fn lose_all(&mut self, fetcher: &mut Fetcher) -> Result<()> {
        let lost: Vec<TopicPartition> = fetcher.assigned().iter().map(topic_partition).collect();
        let told = if lost.is_empty() { Ok(()) } else { self.tell(fetcher, RebalanceEvent::Lost, &lost) };
        fetcher.unassign(|_| true);
        told
    }

    /// Joins again. If that fails it stays outdated, so that the next poll tries again.
    fn come_back(&mut self) -> Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        member.seen = None;
        (member.seat, member.liveness) = take_seat(&self.committer, &member.subscription)?;
        member.liveness.begin();
        Ok(())
    }

    /// Lets partitions go to others, after the last commit that they allow.
    fn give_up(&mut self, fetcher: &mut Fetcher, shares: &[Share]) -> Result<()> {
        let partitions: Vec<TopicPartition> = shares.iter().map(Share::topic_partition).collect();
        let committed = if self.auto_commit.is_some() { self.commit_positions(fetcher) } else { Ok(()) };
        let told = self.tell(fetcher, RebalanceEvent::Revoked, &partitions);
        fetcher.unassign(|assigned| {
            let identity = assigned.log().identity();
            shares.iter().any(|share| share.id == identity.topic_id && share.partition == identity.partition)
        });
        if let Some(member) = &self.member {
            member.seat.group.lock().release(member.seat.id, shares);
        }
        told.and(committed)
    }

    /// Calls the listener, if there is one.
    fn tell(
        &mut self,
        fetcher: &mut Fetcher,
        event: RebalanceEvent,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let Some(listener) = &mut member.subscription.listener else { return Ok(()) };
        about_to_call_user_code("the rebalance listener", &[]);
        listener(&mut Rebalance { event, partitions, fetcher, committer: &self.committer })
    }

    /// Where a partition is started: at the committed offset; in one that is newer than the group,
    /// at its beginning; else where the policy chooses.
    pub(super) fn start(&self, log: Arc<Log>) -> Assigned {
        let Committer { broker, group, .. } = &*self.committer;
        let offsets = broker.coordinator().offsets();
        let (id, partition) = (log.identity().topic_id, log.partition());
        // The epoch first: if the log is truncated after this, the first poll sees another one.
        let epoch = log.epoch();
        if let Some(committed) = offsets.committed(&group.name, &id, partition) {
            return Assigned::new(log, committed.offset, committed.epoch);
        }
        let beginning = log.log_start();
        if self.member.is_some() && offsets.joined(&group.name, &id).is_some_and(|had| partition.get() >= had)
        {
            return Assigned::new(log, beginning, epoch);
        }
        match self.reset {
            OffsetReset::Latest => {
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

    /// Commits the positions after earlier polls. A topic that was deleted, or a log that was
    /// truncated since, has nothing to commit, and must not keep the others from being committed.
    fn commit_positions(&self, fetcher: &Fetcher) -> Result<()> {
        let is_there = |assigned: &Assigned| {
            let (log, position) = (assigned.log(), assigned.position());
            let found = self.committer.broker.log(&log.identity().topic_id, position.partition);
            found.is_some() && log.check_position(position.offset, position.epoch).is_ok()
        };
        let commits: Vec<Commit> = fetcher
            .assigned()
            .iter()
            .filter(|assigned| !assigned.is_unset() && is_there(assigned))
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
        let Some(member) = &self.member else {
            return if self.auto_commit.is_some() { self.commit_positions(fetcher) } else { Ok(()) };
        };
        let owned = {
            let membership = member.seat.group.lock();
            membership.stamp(member.seat.id).map(|_| membership.owned(member.seat.id))
        };
        let told = match owned {
            None => self.lose_all(fetcher),
            Some(owned) if owned.is_empty() => Ok(()),
            Some(owned) => self.give_up(fetcher, &owned),
        };
        self.leave();
        told
    }

    fn leave(&mut self) {
        if let Some(member) = self.member.take() {
            self.committer.set_stamp(Stamp { member: u32::MAX, generation: 0 });
            member.seat.group.leave(&*self.committer.broker, member.seat.id);
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

fn commit_of(source: Arc<Identity>, position: crate::types::Position) -> Commit {
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
