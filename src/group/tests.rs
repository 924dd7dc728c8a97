//! A group's membership against one whose assignor is called with all partitions at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assign::{
    Assignor, AssignorMember, AssignorTopic, Chosen, CooperativeStickyAssignor, Extends, RangeAssignor,
    RebalanceProtocol, RoundRobinAssignor,
};
use super::state::{Joining, Liveness, Membership, Pattern, Share, TopicChange, TopicInfo, TopicLookup};
use crate::engine::Waiter;
use crate::rng::SplitMix64;
use crate::sync::Arc;
use crate::types::{TopicId, TopicName, TopicPartition};

/// An assignor of the user's, with the results of one of ours.
#[derive(Debug)]
struct Whole<A>(A);

impl<A: Assignor> Assignor for Whole<A> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        self.0.assign(members, topics)
    }
}

#[derive(Default)]
struct Topics(BTreeMap<TopicName, TopicInfo>);

impl TopicLookup for Topics {
    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.0.get(name).cloned()
    }

    fn matching(&self, glob: &Pattern) -> Vec<TopicInfo> {
        self.0.values().filter(|topic| glob.matches(topic.name.as_str())).cloned().collect()
    }
}

/// Two groups with the same history.
struct Pair {
    quick: Membership,
    whole: Membership,
    assignors: [Chosen; 2],
    protocol: RebalanceProtocol,
    topics: Topics,
    members: Vec<u32>,
    next: u64,
    pinned: Vec<Share>,
    extended: usize,
}

impl Pair {
    fn new<A: Assignor + Clone + 'static>(assignor: A, protocol: RebalanceProtocol) -> Self {
        let assignors = [Chosen::new(assignor.clone()), Chosen::new(Whole(assignor))];
        assert_eq!(assignors[1].extends, Extends::Unknown);
        Pair {
            quick: Membership::new(),
            whole: Membership::new(),
            assignors,
            protocol,
            topics: Topics::default(),
            members: Vec::new(),
            next: 1,
            pinned: Vec::new(),
            extended: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn join(&mut self, patterns: &[&str]) {
        let id = self.next() as u32;
        let patterns: Vec<_> = patterns.iter().map(|pattern| Pattern(pattern.to_string())).collect();
        for (membership, assignor) in [&mut self.quick, &mut self.whole].into_iter().zip(&self.assignors) {
            let joining = Joining {
                topics: patterns.clone(),
                assignor: assignor.clone(),
                protocol: self.protocol,
                waiter: Arc::new(Waiter::default()),
                liveness: Arc::new(Liveness::polling()),
            };
            membership.join(id, joining, &self.topics).unwrap();
        }
        self.members.push(id);
    }

    fn set(&mut self, name: &str, partitions: u32) -> TopicName {
        let name = TopicName::new(name).unwrap();
        let id = self.next();
        let topic = self.topics.0.entry(name.clone()).or_insert_with(|| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&id.to_be_bytes());
            TopicInfo { name: name.clone(), id: TopicId(bytes), partitions: 0 }
        });
        topic.partitions += partitions;
        name
    }

    fn changed(&mut self, names: &[TopicName]) {
        let change = self.quick.topics_changed(&self.topics, names);
        self.whole.topics_changed(&self.topics, names);
        self.extended += usize::from(matches!(change, TopicChange::Added(_)));
    }

    fn reconcile(&mut self, id: u32, release: bool) {
        let steps = self.quick.reconcile(id);
        assert_eq!(steps, self.whole.reconcile(id));
        let revoked = steps.map_or(Vec::new(), |steps| steps.revoke);
        if release && !revoked.is_empty() {
            self.quick.release(id, &revoked);
            self.whole.release(id, &revoked);
        }
    }

    fn pin(&mut self, share: Share) {
        self.quick.pin(&share);
        self.whole.pin(&share);
        self.pinned.push(share);
    }

    fn unpin(&mut self, at: usize) {
        let share = self.pinned.swap_remove(at);
        self.quick.unpin(&share);
        self.whole.unpin(&share);
    }

    fn check(&self) {
        let (quick, whole) = (&self.quick, &self.whole);
        assert_eq!(quick.targets(), whole.targets());
        assert_eq!(quick.is_stable(), whole.is_stable());
        assert!(quick.owners().eq(whole.owners()));
        assert!(quick.topics().eq(whole.topics()));
        let all: BTreeSet<_> = quick.targets().into_iter().flat_map(|(_, target)| target).collect();
        let wanted: u32 = quick.topics().map(|topic| topic.partitions).sum();
        assert_eq!(all.len(), wanted as usize, "each partition is in one target");
    }
}

fn run(mut pair: Pair, seed: u64, subscriptions: &[&[&str]]) -> usize {
    let mut random = SplitMix64::new(seed);
    let mut pick = move |n: usize| (random.next_u64() % n as u64) as usize;
    const NAMES: [&str; 8] = ["a0", "a1", "a2", "a3", "b0", "b1", "c0", "a00"];
    for _ in 0..60 {
        match pick(10) {
            0 => pair.join(subscriptions[pick(subscriptions.len())]),
            1 if pair.members.len() > 1 && pick(2) == 0 => {
                let at = pick(pair.members.len());
                let id = pair.members.swap_remove(at);
                pair.quick.leave(id, &pair.topics).unwrap();
                pair.whole.leave(id, &pair.topics).unwrap();
            }
            2 if pick(3) == 0 => {
                let name = NAMES[pick(NAMES.len())];
                pair.topics.0.remove(name);
                let again = pick(2) == 0;
                let name = if again { pair.set(name, 2) } else { TopicName::new(name).unwrap() };
                pair.changed(&[name]);
            }
            3..=5 => {
                let count = 1 + pick(3);
                let names: Vec<_> =
                    (0..count).map(|_| pair.set(NAMES[pick(NAMES.len())], 1 + pick(4) as u32)).collect();
                pair.changed(&names);
            }
            6 if !pair.members.is_empty() => {
                let owned = pair.quick.owned(pair.members[pick(pair.members.len())]);
                if !owned.is_empty() {
                    pair.pin(owned[pick(owned.len())].clone());
                }
            }
            7 if !pair.pinned.is_empty() => pair.unpin(pick(pair.pinned.len())),
            _ if !pair.members.is_empty() => {
                // Most often all of them, so that nothing is moving.
                let id = pair.members[pick(pair.members.len())];
                let all = pick(3) > 0;
                for id in if all { [&pair.members[..], &pair.members].concat() } else { vec![id] } {
                    pair.reconcile(id, all || pick(2) == 0);
                    pair.reconcile(id, all);
                }
            }
            _ => {}
        }
        pair.check();
    }
    pair.extended
}

#[test]
fn partitions_that_are_added_are_shared_out_as_if_the_assignor_were_called_with_all() {
    let equal: &[&[&str]] = &[&["a*"]];
    let same_topics: &[&[&str]] = &[&["a*", "b*"], &["b*", "a*"], &["a?", "a*", "b0", "b1"]];
    let unequal: &[&[&str]] = &[&["a*"], &["*"], &["b0", "a1"], &["a0"]];
    let mut extended = [0; 4];
    for seed in 0..20 {
        for subscriptions in [equal, same_topics, unequal] {
            for protocol in [RebalanceProtocol::Cooperative, RebalanceProtocol::Eager] {
                let sticky = Pair::new(CooperativeStickyAssignor, protocol);
                extended[usize::from(subscriptions == unequal)] += run(sticky, seed, subscriptions);
                extended[2] += run(Pair::new(RangeAssignor, protocol), seed, subscriptions);
                extended[3] += run(Pair::new(RoundRobinAssignor, protocol), seed, subscriptions);
            }
        }
    }
    println!("changes that called no assignor: {extended:?}");
    assert!(extended[0] > 300 && extended[1] > 30 && extended[2] > 100 && extended[3] == 0, "{extended:?}");
}

#[test]
fn a_member_that_has_its_target_is_not_looked_at_for_a_topic_that_was_added() {
    let mut pair = Pair::new(CooperativeStickyAssignor, RebalanceProtocol::Cooperative);
    let names: Vec<_> = (0..100).map(|at| pair.set(&format!("t{at:03}"), 2)).collect();
    pair.join(&["t*"]);
    pair.join(&["t*"]);
    for _ in 0..2 {
        for id in pair.members.clone() {
            pair.reconcile(id, true);
        }
    }
    assert!(pair.quick.is_stable());
    let added = pair.set("t0005", 1);
    assert_eq!(pair.quick.topics_changed(&pair.topics, &names), TopicChange::None);
    let change = pair.quick.topics_changed(&pair.topics, std::slice::from_ref(&added));
    assert_eq!(change, TopicChange::Added(vec![pair.topics.topic("t0005").unwrap()]));
    assert_eq!(pair.quick.topics_changed(&pair.topics, &[added]), TopicChange::None);
    let taken: Vec<_> = pair.members.iter().flat_map(|id| pair.quick.reconcile(*id).unwrap().take).collect();
    assert_eq!(taken.len(), 1);
    assert!(pair.quick.is_stable() && !pair.quick.is_overdue(pair.members[0], Duration::MAX));
}
