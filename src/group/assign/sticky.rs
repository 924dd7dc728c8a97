//! Kafka's sticky assignment: balanced, and moving as few partitions as possible.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use super::assignor::{Assignor, AssignorMember, AssignorTopic, subscribes};
use crate::types::TopicPartition;

/// Balanced, and moving as little as possible: a member keeps its partitions unless they are more
/// than its share. Kafka's `CooperativeStickyAssignor`.
///
/// With different subscriptions balanced means: no move of one partition, and no chain of moves in
/// which each member gives one partition to the next, takes one from a member and gives one to a
/// member that has at least two fewer.
#[derive(Clone, Copy, Debug, Default)]
pub struct CooperativeStickyAssignor;

impl Assignor for CooperativeStickyAssignor {
    fn name(&self) -> &str {
        "cooperative-sticky"
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        let mut sharing = Sharing::new(members, topics);
        let equal = members.windows(2).all(|pair| matches!(pair, [a, b] if a.topics == b.topics));
        if equal {
            sharing.keep_up_to_quota();
            sharing.fill_evenly();
        } else {
            sharing.keep_all();
            sharing.fill();
            sharing.balance();
            // Each of these steps leaves less imbalance, or as much and fewer that moved: so this
            // ends.
            while sharing.take_back() {
                sharing.balance();
            }
        }
        sharing.finish()
    }
}

/// A sticky assignment in the making. Partitions are numbered through, by topic and number.
struct Sharing<'a> {
    members: &'a [AssignorMember<'a>],
    topics: &'a [AssignorTopic<'a>],
    /// The number of each topic's first partition, and the number of all at the end.
    bases: Vec<usize>,
    /// The member that gets each partition.
    owners: Vec<Option<usize>>,
    /// The member that owned it before and may keep it.
    homes: Vec<Option<usize>>,
    /// How many each member is to have.
    loads: Vec<usize>,
    /// The subscribers of each topic.
    subscribers: Vec<Vec<usize>>,
}

impl<'a> Sharing<'a> {
    fn new(members: &'a [AssignorMember<'a>], topics: &'a [AssignorTopic<'a>]) -> Self {
        let mut bases = vec![0];
        let mut total = 0;
        for topic in topics {
            total += topic.partitions as usize;
            bases.push(total);
        }
        let subscribers = topics
            .iter()
            .map(|topic| {
                let subscribed = members.iter().enumerate().filter(|(_, m)| subscribes(m, topic.name));
                subscribed.map(|(at, _)| at).collect()
            })
            .collect();
        Sharing {
            members,
            topics,
            bases,
            owners: vec![None; total],
            homes: vec![None; total],
            loads: vec![0; members.len()],
            subscribers,
        }
    }

    /// The numbers of the partitions that a member owns and may keep.
    fn keepable(&self, member: &AssignorMember<'_>) -> Vec<usize> {
        let number = |TopicPartition { topic: name, partition }: &TopicPartition| {
            let at = self.topics.binary_search_by(|topic| topic.name.cmp(name)).ok()?;
            let topic = self.topics.get(at)?;
            let fits = partition.get() < topic.partitions && subscribes(member, name);
            fits.then(|| self.bases.get(at).map(|base| base + partition.get() as usize)).flatten()
        };
        member.owned.iter().filter_map(number).collect()
    }

    fn give(&mut self, number: usize, member: usize) {
        if let (Some(owner), Some(load)) = (self.owners.get_mut(number), self.loads.get_mut(member)) {
            *owner = Some(member);
            *load += 1;
        } else {
            debug_assert!(false, "partition {number} and member {member} are of this assignment");
        }
    }

    fn is_free(&self, number: usize) -> bool {
        self.owners.get(number).is_some_and(Option::is_none)
    }

    fn load(&self, member: usize) -> usize {
        debug_assert!(member < self.loads.len(), "member {member} is of this assignment");
        self.loads.get(member).copied().unwrap_or(usize::MAX)
    }

    fn topic_of(&self, number: usize) -> usize {
        self.bases.partition_point(|base| *base <= number).saturating_sub(1)
    }

    /// If all members have the same subscription: each keeps its partitions up to its quota. As
    /// many quotas are greater by one as the remainder of the division; members that have that many
    /// partitions already get those first.
    fn keep_up_to_quota(&mut self) {
        let all = self.wanted();
        let (Some(least), Some(mut greater)) =
            (all.checked_div(self.members.len()), all.checked_rem(self.members.len()))
        else {
            return;
        };
        for (at, member) in self.members.iter().enumerate() {
            let mine: Vec<_> =
                self.keepable(member).into_iter().filter(|number| self.is_free(*number)).collect();
            let quota = if mine.len() > least && greater > 0 {
                greater -= 1;
                least + 1
            } else {
                least
            };
            for number in mine.into_iter().take(quota) {
                self.give(number, at);
            }
        }
    }

    /// How many partitions have a subscriber.
    fn wanted(&self) -> usize {
        let wanted = self.topics.iter().zip(&self.subscribers).filter(|(_, who)| !who.is_empty());
        wanted.map(|(topic, _)| topic.partitions as usize).sum()
    }

    /// If all members have the same subscription: a free partition goes to the member with the
    /// fewest.
    fn fill_evenly(&mut self) {
        let mut poorest: BinaryHeap<_> =
            self.loads.iter().enumerate().map(|(at, load)| Reverse((*load, at))).collect();
        for number in 0..self.owners.len() {
            let wanted = self.subscribers.get(self.topic_of(number)).is_some_and(|who| !who.is_empty());
            if !wanted || !self.is_free(number) {
                continue;
            }
            if let Some(Reverse((load, at))) = poorest.pop() {
                self.give(number, at);
                poorest.push(Reverse((load + 1, at)));
            }
        }
    }

    fn keep_all(&mut self) {
        for (at, member) in self.members.iter().enumerate() {
            for number in self.keepable(member) {
                if self.is_free(number) {
                    self.give(number, at);
                }
            }
        }
        self.homes.clone_from(&self.owners);
    }

    /// The previous owner of a partition, which may keep it, and its new owner, if they differ.
    fn moved_from(&self, number: usize) -> Option<(usize, usize)> {
        let (home, owner) = (self.homes.get(number).copied()??, self.owners.get(number).copied()??);
        (home != owner).then_some((home, owner))
    }

    /// Undoes moves that balance does not need: of a partition to a member that has more now, and
    /// of one that makes room for another which could have moved there instead. Returns whether
    /// there were any.
    fn take_back(&mut self) -> bool {
        // The partitions that each member gets and did not have before.
        let mut new: Vec<Vec<usize>> = self.members.iter().map(|_| Vec::new()).collect();
        for (number, owner) in self.owners.iter().enumerate() {
            if let Some(owner) = owner.filter(|_| self.homes.get(number) != Some(owner))
                && let Some(new) = new.get_mut(owner)
            {
                new.push(number);
            }
        }
        let mut any = false;
        for number in 0..self.owners.len() {
            let Some((home, to)) = self.moved_from(number) else { continue };
            if self.load(home) >= self.load(to) {
                let Some(new) = new.get_mut(home) else { continue };
                let fits = |other: &usize| {
                    // It may have gone on since.
                    self.owners.get(*other) == Some(&Some(home)) && self.may_have(to, *other)
                };
                let Some(at) = new.iter().position(fits) else { continue };
                let other = new.swap_remove(at);
                self.move_to(other, to);
            }
            self.move_to(number, home);
            any = true;
        }
        any
    }

    fn may_have(&self, member: usize, number: usize) -> bool {
        self.subscribers.get(self.topic_of(number)).is_some_and(|who| who.contains(&member))
    }

    fn move_to(&mut self, number: usize, member: usize) {
        let owner = self.owners.get(number).copied().flatten();
        if let Some(load) = owner.and_then(|owner| self.loads.get_mut(owner)) {
            *load -= 1;
        }
        self.give(number, member);
    }

    /// A free partition goes to the subscriber with the fewest; topics with the fewest subscribers
    /// come first.
    fn fill(&mut self) {
        let mut order: Vec<usize> = (0..self.topics.len()).collect();
        order.sort_by_key(|topic| self.subscribers.get(*topic).map_or(0, Vec::len));
        for topic in order {
            let numbers = self.numbers(topic);
            for number in numbers.filter(|number| self.is_free(*number)).collect::<Vec<_>>() {
                if let Some(at) = self.poorest(topic) {
                    self.give(number, at);
                }
            }
        }
    }

    /// Moves partitions until no chain of moves improves the balance. Each move makes the sum of
    /// the squares of the loads smaller, so this ends, and then the sum is the least possible
    /// (Harvey and others: Semi-Matchings for Bipartite Graphs and Load Balancing, 2003).
    fn balance(&mut self) {
        self.balance_by_single_moves();
        while self.move_along_chain() {
            self.balance_by_single_moves();
        }
    }

    /// Moves one partition along each link of a chain of members, of which the last has at least
    /// two fewer than the first. The loads of the others stay. Returns whether there was a chain.
    fn move_along_chain(&mut self) -> bool {
        let topics_of = self.topics_of_members();
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|at| (Reverse(self.load(*at)), *at));
        // Not reset for the next member: it has at most as many as this one, so a member that is
        // reached from this one in vain is reached from that one in vain too.
        let mut is_reached = vec![false; self.members.len()];
        let mut is_asked = vec![false; self.topics.len()];
        let mut links = vec![None; self.members.len()];
        for first in order {
            let mut queue = VecDeque::new();
            if mark(&mut is_reached, first) {
                queue.push_back(first);
            }
            while let Some(giver) = queue.pop_front() {
                let topics = topics_of.get(giver).into_iter().flatten();
                for topic in topics.copied().filter(|topic| mark(&mut is_asked, *topic)) {
                    for taker in self.subscribers.get(topic).into_iter().flatten().copied() {
                        if !mark(&mut is_reached, taker) {
                            continue;
                        }
                        if let Some(link) = links.get_mut(taker) {
                            *link = Some((giver, topic));
                        }
                        if self.load(first) > self.load(taker) + 1 {
                            self.follow(&links, first, taker);
                            return true;
                        }
                        queue.push_back(taker);
                    }
                }
            }
        }
        false
    }

    /// Gives the last member of a chain one more partition and the first one fewer. `links` has for
    /// each member the one before it, and a topic of which that one has a partition.
    fn follow(&mut self, links: &[Option<(usize, usize)>], first: usize, last: usize) {
        let mut taker = last;
        while taker != first {
            let Some((giver, topic)) = links.get(taker).copied().flatten() else { return };
            // Any of them: needless moves are taken back at the end.
            let is_givers = |number: &usize| self.owners.get(*number) == Some(&Some(giver));
            if let Some(number) = self.numbers(topic).find(is_givers) {
                self.move_to(number, taker);
            }
            taker = giver;
        }
    }

    /// The topics of which each member has a partition.
    fn topics_of_members(&self) -> Vec<BTreeSet<usize>> {
        let mut topics_of = vec![BTreeSet::new(); self.members.len()];
        for topic in 0..self.topics.len() {
            for number in self.numbers(topic) {
                let owner = self.owners.get(number).copied().flatten();
                if let Some(topics) = owner.and_then(|owner| topics_of.get_mut(owner)) {
                    topics.insert(topic);
                }
            }
        }
        topics_of
    }

    /// Moves single partitions to members that have at least two fewer, until there are none.
    fn balance_by_single_moves(&mut self) {
        loop {
            let mut moved = false;
            for topic in 0..self.topics.len() {
                for number in self.numbers(topic) {
                    let (Some(to), Some(Some(from))) =
                        (self.poorest(topic), self.owners.get(number).copied())
                    else {
                        continue;
                    };
                    if self.load(from) > self.load(to) + 1 {
                        self.move_to(number, to);
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn numbers(&self, topic: usize) -> std::ops::Range<usize> {
        debug_assert!(topic + 1 < self.bases.len(), "topic {topic} is of this assignment");
        let base = |at: usize| self.bases.get(at).copied().unwrap_or(0);
        base(topic)..base(topic + 1)
    }

    fn poorest(&self, topic: usize) -> Option<usize> {
        self.subscribers.get(topic)?.iter().copied().min_by_key(|at| (self.load(*at), *at))
    }

    fn finish(self) -> Vec<Vec<TopicPartition>> {
        let mut shares: Vec<_> = self.members.iter().map(|_| Vec::new()).collect();
        for (topic, info) in self.topics.iter().enumerate() {
            for (partition, number) in (0..).zip(self.numbers(topic)) {
                let owner = self.owners.get(number).copied().flatten();
                if let Some(share) = owner.and_then(|owner| shares.get_mut(owner)) {
                    share.push(TopicPartition::new(info.name.clone(), partition));
                }
            }
        }
        shares
    }
}

/// Sets a flag. Returns whether it was not set before.
fn mark(flags: &mut [bool], at: usize) -> bool {
    flags.get_mut(at).is_some_and(|flag| !std::mem::replace(flag, true))
}
