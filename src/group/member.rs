//! A member of a group: the terms on which it has joined, its sign of life, and its target.

use std::collections::BTreeSet;
use std::time::Duration;

use super::assign::{Chosen, RebalanceProtocol};
use super::pattern::Pattern;
use super::share::Share;
use crate::engine::Waiter;
use crate::error::Error;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::TopicName;

/// The terms under which a member joins.
pub(crate) struct Joining {
    pub(crate) topics: Vec<Pattern>,
    pub(crate) assignor: Chosen,
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

/// A member of a group.
pub(super) struct Member {
    /// Its subscription: names, sorted.
    names: Vec<Pattern>,
    globs: Vec<Pattern>,
    pub(super) assignor: Chosen,
    pub(super) protocol: RebalanceProtocol,
    pub(super) waiter: Arc<Waiter>,
    pub(super) liveness: Arc<Liveness>,
    /// The generation it has come to: its polls are stamped with it.
    pub(super) generation: u32,
    /// The last one in which it had all of its target.
    pub(super) settled: u32,
    target: BTreeSet<Share>,
    /// The partitions of its target that it does not own.
    missing: BTreeSet<Share>,
    /// The partitions that it owns and that are not in its target.
    surplus: BTreeSet<Share>,
    /// An error that the member did not cause, until its next poll has returned it.
    pub(super) unreported: Option<Error>,
}

impl Member {
    /// One without a target.
    pub(super) fn new(joining: Joining) -> Self {
        let Joining { topics, assignor, protocol, waiter, liveness } = joining;
        let (globs, mut names): (Vec<_>, Vec<_>) = topics.into_iter().partition(Pattern::is_glob);
        names.sort();
        Member {
            names,
            globs,
            assignor,
            protocol,
            waiter,
            liveness,
            generation: 0,
            settled: 0,
            target: BTreeSet::new(),
            missing: BTreeSet::new(),
            surplus: BTreeSet::new(),
            unreported: None,
        }
    }

    /// What it subscribes to.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.names.iter().chain(&self.globs)
    }

    pub(super) fn subscribes(&self, topic: &TopicName) -> bool {
        self.names.binary_search_by(|name| name.0.as_str().cmp(topic.as_str())).is_ok()
            || self.globs.iter().any(|glob| glob.matches(topic.as_str()))
    }

    pub(super) fn target(&self) -> &BTreeSet<Share> {
        &self.target
    }

    /// See the field.
    pub(super) fn missing(&self) -> &BTreeSet<Share> {
        &self.missing
    }

    /// See the field.
    pub(super) fn surplus(&self) -> &BTreeSet<Share> {
        &self.surplus
    }

    /// Gives it another target. [`owns`](Member::owns) must follow for each partition that it owns.
    pub(super) fn set_target(&mut self, target: BTreeSet<Share>) {
        self.surplus.clear();
        self.missing.clone_from(&target);
        self.target = target;
    }

    /// Adds a partition to its target that it does not own.
    pub(super) fn add(&mut self, share: Share) {
        self.missing.insert(share.clone());
        self.target.insert(share);
    }

    /// It owns a partition.
    pub(super) fn owns(&mut self, share: &Share) {
        if !self.missing.remove(share) {
            self.surplus.insert(share.clone());
        }
    }

    /// It has given up a partition that it owned.
    pub(super) fn has_released(&mut self, share: &Share) {
        if !self.surplus.remove(share) {
            self.missing.insert(share.clone());
        }
    }

    /// Takes the partitions of its target that it does not own and that are free.
    pub(super) fn take(&mut self, is_free: impl Fn(&Share) -> bool) -> Vec<Share> {
        let taken: Vec<Share> = self.missing.iter().filter(|share| is_free(share)).cloned().collect();
        for share in &taken {
            self.missing.remove(share);
        }
        taken
    }

    /// It owns its target, and nothing else.
    pub(super) fn has_target(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty()
    }
}
