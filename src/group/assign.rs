//! Which member of a group gets which partition? Pure functions of the subscriptions and of the
//! current owners.
//!
//! There are Kafka's three assignors, and a trait for the user's own, whose results are checked
//! before they take effect.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use crate::sync::{Rank, about_to_call_user_code};
use crate::types::{TopicName, TopicPartition};

/// A member of a group, as an [`Assignor`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct AssignorMember<'a> {
    /// Its identity: the longer it is a member, the earlier it sorts.
    pub id: &'a str,
    /// The topics that it subscribes to, by name.
    pub topics: &'a [TopicName],
    /// The partitions that it owns now, sorted.
    pub owned: &'a [TopicPartition],
}

/// A topic that members subscribe to, as an [`Assignor`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct AssignorTopic<'a> {
    /// Its name.
    pub name: &'a TopicName,
    /// How many partitions it has.
    pub partitions: u32,
}

/// How a group shares its partitions out among its members.
///
/// ```
/// use quipu::{Assignor, AssignorMember, AssignorTopic, Broker, TopicConfig, TopicPartition};
///
/// /// Everything goes to the oldest member: one works, the others stand by.
/// #[derive(Debug)]
/// struct HotStandby;
///
/// impl Assignor for HotStandby {
///     fn name(&self) -> &str {
///         "hot-standby"
///     }
///
///     fn assign(
///         &self,
///         members: &[AssignorMember<'_>],
///         topics: &[AssignorTopic<'_>],
///     ) -> Vec<Vec<TopicPartition>> {
///         let mut shares = vec![Vec::new(); members.len()];
///         for topic in topics {
///             let oldest = members.iter().position(|member| member.topics.contains(topic.name)).unwrap();
///             let all = (0..topic.partitions).map(|p| TopicPartition::new(topic.name.clone(), p));
///             shares[oldest].extend(all);
///         }
///         shares
///     }
/// }
///
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// broker.create_topic("orders", TopicConfig::new().partitions(2))?;
/// let mut active = broker.consumer("billing").assignor(HotStandby).subscribe(&["orders"])?;
/// let mut standby = broker.consumer("billing").assignor(HotStandby).subscribe(&["orders"])?;
/// active.poll(std::time::Duration::ZERO)?;
/// standby.poll(std::time::Duration::ZERO)?;
/// assert_eq!((active.assignment().len(), standby.assignment().len()), (2, 0));
/// # Ok(()) }
/// ```
pub trait Assignor: Send + Sync + fmt::Debug {
    /// Its name, by which members make sure that they mean the same.
    fn name(&self) -> &str;

    /// One list per member, in the order of `members`, which are sorted by id, as `topics` are by
    /// name. Every partition of every topic must be in exactly one list, that of a member that
    /// subscribes to the topic. It is called with the group's lock held and must not call the
    /// broker.
    ///
    /// A result that is not an assignment, or a panic, is
    /// [`InvalidAssignment`](Error::InvalidAssignment). A consumer that subscribes gets the error
    /// and does not become a member. If a member left or topics changed, the next poll of each
    /// remaining member returns it, once. They keep their partitions, and a partition without an
    /// owner stays so until members or topics change again.
    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>>;
}

/// Topic by topic, a range of neighbouring partitions to each member: the same numbers of several
/// topics meet at one member. Kafka's `RangeAssignor`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeAssignor;

/// One partition after the other, to one member after the other. Kafka's `RoundRobinAssignor`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinAssignor;

/// Balanced, and moving as little as possible: a member keeps its partitions unless they are more
/// than its share. Kafka's `CooperativeStickyAssignor`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CooperativeStickyAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        let mut shares: Vec<_> = members.iter().map(|_| Vec::new()).collect();
        for topic in topics {
            let subscribers = members.iter().filter(|member| subscribes(member, topic.name)).count();
            let Some(each) = topic.partitions.checked_div(subscribers as u32) else { continue };
            let longer = topic.partitions % subscribers as u32;
            let mut next = 0;
            let subscribed =
                members.iter().zip(&mut shares).filter(|(member, _)| subscribes(member, topic.name));
            for (at, (_, share)) in (0..).zip(subscribed) {
                let until = next + each + u32::from(at < longer);
                share.extend(
                    (next..until).map(|partition| TopicPartition::new(topic.name.clone(), partition)),
                );
                next = until;
            }
        }
        shares
    }
}

impl Assignor for RoundRobinAssignor {
    fn name(&self) -> &str {
        "roundrobin"
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        let mut shares: Vec<Vec<_>> = members.iter().map(|_| Vec::new()).collect();
        let mut turn = 0;
        for topic in topics.iter().filter(|topic| members.iter().any(|member| subscribes(member, topic.name)))
        {
            for partition in 0..topic.partitions {
                // A member subscribes, so one round finds it.
                let round = (0..members.len()).map(|step| (turn + step) % members.len());
                let mut round =
                    round.filter(|at| members.get(*at).is_some_and(|m| subscribes(m, topic.name)));
                let Some(at) = round.next() else { break };
                if let Some(share) = shares.get_mut(at) {
                    share.push(TopicPartition::new(topic.name.clone(), partition));
                }
                turn = at + 1;
            }
        }
        shares
    }
}

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
    /// Who is to have each partition.
    owners: Vec<Option<usize>>,
    /// Who owned it before and may keep it.
    homes: Vec<Option<usize>>,
    /// How many each member is to have.
    loads: Vec<usize>,
    /// Who subscribes to each topic.
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

    /// Who owned a partition before and may keep it, if another one is to have it.
    fn strayed(&self, number: usize) -> Option<(usize, usize)> {
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
            let Some((home, to)) = self.strayed(number) else { continue };
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

    /// Moves single partitions to members that have at least two fewer, until there are none: each
    /// move makes the sum of the squares of the loads smaller, so this ends.
    fn balance(&mut self) {
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

/// Calls an assignor, and checks that its result is an assignment.
///
/// # Errors
/// `InvalidAssignment`.
pub(crate) fn checked(
    assignor: &dyn Assignor,
    members: &[AssignorMember<'_>],
    topics: &[AssignorTopic<'_>],
) -> Result<Vec<Vec<TopicPartition>>> {
    let invalid = |reason: String| Error::InvalidAssignment { assignor: assignor.name().to_string(), reason };
    // It runs with locks held, on the thread that causes a rebalance, which may be that of the
    // timer.
    about_to_call_user_code("an assignor", &[Rank::Membership]);
    let shares = catch_unwind(AssertUnwindSafe(|| assignor.assign(members, topics)))
        .map_err(|_| invalid("it panicked".to_string()))?;
    if shares.len() != members.len() {
        return Err(invalid(format!("{} lists for {} members", shares.len(), members.len())));
    }
    let mut given: Vec<Vec<bool>> = topics.iter().map(|t| vec![false; t.partitions as usize]).collect();
    for (member, share) in members.iter().zip(&shares) {
        for TopicPartition { topic: name, partition } in share {
            if !subscribes(member, name) {
                return Err(invalid(format!("{name}/{partition} to a member that does not subscribe to it")));
            }
            let at = topics.binary_search_by(|topic| topic.name.cmp(name)).ok();
            let given = at.and_then(|at| given.get_mut(at)?.get_mut(partition.get() as usize));
            match given {
                None => return Err(invalid(format!("there is no {name}/{partition}"))),
                Some(true) => return Err(invalid(format!("{name}/{partition} is assigned twice"))),
                Some(given) => *given = true,
            }
        }
    }
    for (topic, given) in topics.iter().zip(&given) {
        let left_out = (0u32..).zip(given).find(|(_, given)| !**given).map(|(partition, _)| partition);
        if let Some(partition) = left_out
            && members.iter().any(|member| subscribes(member, topic.name))
        {
            return Err(invalid(format!("{}/{partition} is left out", topic.name)));
        }
    }
    Ok(shares)
}

fn subscribes(member: &AssignorMember<'_>, topic: &TopicName) -> bool {
    member.topics.binary_search(topic).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::SplitMix64;

    type Shares = Vec<Vec<TopicPartition>>;

    struct Case {
        topics: Vec<(TopicName, u32)>,
        members: Vec<Someone>,
    }

    /// Id, subscription, owned.
    type Someone = (String, Vec<TopicName>, Vec<TopicPartition>);

    fn name(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    /// `t0p1`: partition 1 of topic `t0`.
    fn short(shares: &Shares) -> Vec<Vec<String>> {
        let all = shares.iter().map(|share| {
            let mut share: Vec<_> = share.iter().map(|of| format!("{}p{}", of.topic, of.partition)).collect();
            share.sort();
            share
        });
        all.collect()
    }

    impl Case {
        fn new(topics: &[(&str, u32)], members: &[(&str, &[&str])]) -> Case {
            let subscription = |topics: &[&str]| topics.iter().map(|t| name(t)).collect();
            Case {
                topics: topics.iter().map(|(t, n)| (name(t), *n)).collect(),
                members: members
                    .iter()
                    .map(|(id, t)| (id.to_string(), subscription(t), Vec::new()))
                    .collect(),
            }
        }

        fn assign(&self, assignor: &dyn Assignor) -> Shares {
            let members: Vec<_> =
                self.members.iter().map(|(id, topics, owned)| AssignorMember { id, topics, owned }).collect();
            let topics: Vec<_> = self
                .topics
                .iter()
                .map(|(name, partitions)| AssignorTopic { name, partitions: *partitions })
                .collect();
            let shares = checked(assignor, &members, &topics).unwrap();
            assert_eq!(shares, assignor.assign(&members, &topics), "the same again");
            shares
        }

        /// Assigns, and makes each member own its partitions.
        fn settle(&mut self) -> Vec<Vec<String>> {
            let shares = self.assign(&CooperativeStickyAssignor);
            for ((_, _, owned), share) in self.members.iter_mut().zip(&shares) {
                owned.clone_from(share);
                owned.sort();
            }
            short(&shares)
        }
    }

    const UNEQUAL: [(&str, u32); 3] = [("t0", 1), ("t1", 2), ("t2", 3)];
    const UNEQUAL_MEMBERS: [(&str, &[&str]); 3] =
        [("C0", &["t0"]), ("C1", &["t0", "t1"]), ("C2", &["t0", "t1", "t2"])];

    #[test]
    fn range_of_two_topics_of_three_for_two() {
        let case = Case::new(&[("t0", 3), ("t1", 3)], &[("C0", &["t0", "t1"]), ("C1", &["t0", "t1"])]);
        let shares = short(&case.assign(&RangeAssignor));
        assert_eq!(shares, [vec!["t0p0", "t0p1", "t1p0", "t1p1"], vec!["t0p2", "t1p2"]]);
    }

    #[test]
    fn round_robin_of_two_topics_of_three_for_two() {
        let case = Case::new(&[("t0", 3), ("t1", 3)], &[("C0", &["t0", "t1"]), ("C1", &["t0", "t1"])]);
        let shares = short(&case.assign(&RoundRobinAssignor));
        assert_eq!(shares, [["t0p0", "t0p2", "t1p1"], ["t0p1", "t1p0", "t1p2"]]);
    }

    #[test]
    fn round_robin_of_unequal_subscriptions() {
        let case = Case::new(&UNEQUAL, &UNEQUAL_MEMBERS);
        let shares = short(&case.assign(&RoundRobinAssignor));
        assert_eq!(shares, [vec!["t0p0"], vec!["t1p0"], vec!["t1p1", "t2p0", "t2p1", "t2p2"]]);
    }

    #[test]
    fn round_robin_of_unequal_subscriptions_keeps_three_of_six_when_the_first_leaves() {
        let mut case = Case::new(&UNEQUAL, &UNEQUAL_MEMBERS);
        let before = case.assign(&RoundRobinAssignor);
        case.members.remove(0);
        let after = case.assign(&RoundRobinAssignor);
        assert_eq!(short(&after), [vec!["t0p0", "t1p1"], vec!["t1p0", "t2p0", "t2p1", "t2p2"]]);
        let kept = after
            .iter()
            .zip(&before[1..])
            .flat_map(|(after, before)| after.iter().filter(|share| before.contains(share)));
        assert_eq!(kept.count(), 3);
    }

    #[test]
    fn sticky_of_unequal_subscriptions_keeps_five_of_six_when_the_first_leaves() {
        let mut case = Case::new(&UNEQUAL, &UNEQUAL_MEMBERS);
        assert_eq!(case.settle(), [vec!["t0p0"], vec!["t1p0", "t1p1"], vec!["t2p0", "t2p1", "t2p2"]]);
        case.members.remove(0);
        assert_eq!(case.settle(), [["t0p0", "t1p0", "t1p1"], ["t2p0", "t2p1", "t2p2"]]);
    }

    #[test]
    fn sticky_of_four_topics_of_two_for_three() {
        let all: &[&str] = &["t0", "t1", "t2", "t3"];
        let topics = [("t0", 2), ("t1", 2), ("t2", 2), ("t3", 2)];
        let mut case = Case::new(&topics, &[("C0", all), ("C1", all), ("C2", all)]);
        assert_eq!(
            case.settle(),
            [vec!["t0p0", "t1p1", "t3p0"], vec!["t0p1", "t2p0", "t3p1"], vec!["t1p0", "t2p1"]]
        );
        case.members.remove(1);
        assert_eq!(case.settle(), [["t0p0", "t1p1", "t2p0", "t3p0"], ["t0p1", "t1p0", "t2p1", "t3p1"]]);
    }

    #[test]
    fn sticky_of_one_topic_of_three_as_a_second_member_comes_and_the_first_goes() {
        let mut case = Case::new(&[("t", 3)], &[("C1", &["t"])]);
        assert_eq!(case.settle(), [["tp0", "tp1", "tp2"]]);
        case.members.push(("C2".to_string(), vec![name("t")], Vec::new()));
        assert_eq!(case.settle(), [vec!["tp0", "tp1"], vec!["tp2"]]);
        case.members.remove(0);
        assert_eq!(case.settle(), [["tp0", "tp1", "tp2"]]);
    }

    /// One at a time would be apache/iggy#3334.
    #[test]
    fn a_join_moves_all_that_is_too_much_at_once() {
        let mut case = Case::new(&[("t", 12)], &[("C1", &["t"])]);
        case.settle();
        case.members.push(("C2".to_string(), vec![name("t")], Vec::new()));
        assert_eq!(case.settle().iter().map(Vec::len).collect::<Vec<_>>(), [6, 6]);
    }

    #[test]
    fn whoever_comes_and_goes_partitions_stay_balanced_and_move_as_little_as_possible() {
        let mut random = SplitMix64::new(7);
        let mut pick = move |n: u64| random.next_u64() % n;
        let (mut checked_moves, mut checked_unequal) = (0, 0);
        for _ in 0..300 {
            let names = ["a", "b", "c", "d"];
            let equal = pick(2) == 0;
            let mut case = Case::new(&[("a", 1), ("b", 3), ("c", 5), ("d", 2)], &[]);
            let mut next = 0;
            for _ in 0..12 {
                match pick(4) {
                    0 if case.members.len() > 1 => {
                        let gone = pick(case.members.len() as u64) as usize;
                        case.members.remove(gone);
                    }
                    1 => case.topics[pick(4) as usize].1 += 1,
                    _ => {
                        let subscription = names.iter().filter(|_| equal || pick(2) == 0).map(|t| name(t));
                        let subscription: Vec<_> = subscription.collect();
                        case.members.push((format!("m{next:04}"), subscription, Vec::new()));
                        next += 1;
                    }
                }
                for assignor in [&RangeAssignor as &dyn Assignor, &RoundRobinAssignor] {
                    case.assign(assignor);
                }
                let before: Vec<_> = case.members.iter().map(|(_, _, owned)| owned.clone()).collect();
                let loads: Vec<_> = case.settle().iter().map(Vec::len).collect();
                assert_eq!(short(&case.assign(&CooperativeStickyAssignor)), short_owned(&case), "settled");
                if !equal || case.members.is_empty() {
                    balanced_without_needless_moves(&before, &case);
                    checked_unequal += 1;
                    continue;
                }
                let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
                assert!(most - least <= 1, "{loads:?}");
                for (before, (id, _, owned)) in before.iter().zip(&case.members) {
                    let owned: BTreeSet<_> = owned.iter().collect();
                    let kept = before.iter().filter(|share| owned.contains(share)).count();
                    assert!(kept >= before.len().min(*least), "{id} kept {kept} of {before:?}");
                    checked_moves += 1;
                }
            }
        }
        assert!(checked_moves > 1000 && checked_unequal > 1000);
    }

    /// For members with different subscriptions: no member could take a partition of another one
    /// that has two more; and no partition has moved that could be moved back, or exchanged for one
    /// that is new there, without harm to the balance.
    fn balanced_without_needless_moves(before: &Shares, case: &Case) {
        let load = |at: usize| case.members[at].2.len();
        let wants = |at: usize, topic: &TopicName| case.members[at].1.contains(topic);
        let all = || 0..case.members.len();
        for from in all() {
            for share in &case.members[from].2 {
                for to in all().filter(|to| wants(*to, &share.topic)) {
                    assert!(load(from) <= load(to) + 1, "{from} has {}, {to} has {}", load(from), load(to));
                }
            }
        }
        for home in all() {
            let moved = before[home].iter().filter(|share| wants(home, &share.topic));
            for share in moved.filter(|share| !case.members[home].2.contains(share)) {
                let Some(to) = all().find(|at| case.members[*at].2.contains(share)) else { continue };
                assert!(load(home) >= load(to), "{share:?} could be given back");
                let new = case.members[home]
                    .2
                    .iter()
                    .find(|other| !before[home].contains(other) && wants(to, &other.topic));
                assert_eq!(new, None, "it came instead of {share:?}");
            }
        }
    }

    fn short_owned(case: &Case) -> Vec<Vec<String>> {
        short(&case.members.iter().map(|(_, _, owned)| owned.clone()).collect())
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        #[derive(Debug)]
        struct Says(Shares);
        impl Assignor for Says {
            fn name(&self) -> &str {
                "says"
            }
            fn assign(&self, _: &[AssignorMember<'_>], _: &[AssignorTopic<'_>]) -> Shares {
                self.0.clone()
            }
        }
        let topics = [name("a")];
        let members = [
            AssignorMember { id: "1", topics: &topics, owned: &[] },
            AssignorMember { id: "2", topics: &[], owned: &[] },
        ];
        let two = [AssignorTopic { name: &topics[0], partitions: 2 }];
        let p = |n: u32| TopicPartition::new(name("a"), n);
        for (shares, reason) in [
            (vec![vec![p(0), p(1)]], "1 lists for 2 members"),
            (vec![vec![p(0)], vec![]], "a/1 is left out"),
            (vec![vec![p(0), p(1), p(1)], vec![]], "a/1 is assigned twice"),
            (vec![vec![p(0), p(1), p(2)], vec![]], "there is no a/2"),
            (vec![vec![p(0)], vec![p(1)]], "a/1 to a member that does not subscribe to it"),
        ] {
            match checked(&Says(shares), &members, &two) {
                Err(Error::InvalidAssignment { reason: found, .. }) => assert_eq!(found, reason),
                other => panic!("{other:?}"),
            }
        }
        assert!(checked(&Says(vec![vec![p(0), p(1)], vec![]]), &members, &two).is_ok());
    }
}
