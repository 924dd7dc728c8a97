//! The assignors, against expected shares and against random histories of a group.

use std::collections::BTreeSet;

use super::*;
use crate::error::Error;
use crate::rng::SplitMix64;
use crate::types::TopicName;

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
            members: members.iter().map(|(id, t)| (id.to_string(), subscription(t), Vec::new())).collect(),
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
fn a_join_moves_all_surplus_partitions_at_once() {
    let mut case = Case::new(&[("t", 12)], &[("C1", &["t"])]);
    case.settle();
    case.members.push(("C2".to_string(), vec![name("t")], Vec::new()));
    assert_eq!(case.settle().iter().map(Vec::len).collect::<Vec<_>>(), [6, 6]);
}

#[test]
fn partitions_stay_balanced_and_move_as_little_as_possible_as_members_come_and_go() {
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

/// Seen on Kafka 4.1.2: loads of 1, 1, 1, 1 and 2. `m1` may have only `t0p0`.
#[test]
fn sticky_gives_each_of_five_members_a_partition_where_a_chain_of_two_moves_is_needed() {
    let both: &[&str] = &["t0", "t1"];
    let members = [("m0", both), ("m1", &["t0"] as &[&str]), ("m2", both), ("m3", both), ("m4", both)];
    let mut case = Case::new(&[("t0", 1), ("t1", 5)], &members);
    let p = |topic: &str, number: u32| TopicPartition::new(name(topic), number);
    case.members[3].2 = vec![p("t0", 0), p("t1", 1), p("t1", 3)];
    case.members[4].2 = vec![p("t1", 0), p("t1", 2), p("t1", 4)];
    let mut loads: Vec<_> = case.settle().iter().map(Vec::len).collect();
    loads.sort_unstable();
    assert_eq!(loads, [1, 1, 1, 1, 2]);
    no_chain_of_moves_improves(&case);
}

#[test]
fn sticky_leaves_no_chain_of_moves_that_improves_the_balance_of_a_random_group() {
    let mut random = SplitMix64::new(11);
    let mut pick = move |n: u64| random.next_u64() % n;
    let names = ["a", "b", "c", "d", "e"];
    for _ in 0..4_000 {
        let topics: Vec<_> = names[..1 + pick(5) as usize].iter().map(|t| (*t, 1 + pick(5) as u32)).collect();
        let mut case = Case::new(&topics, &[]);
        for member in 0..1 + pick(6) {
            let subscription = topics.iter().filter(|_| pick(2) == 0).map(|(t, _)| name(t)).collect();
            case.members.push((format!("m{member}"), subscription, Vec::new()));
        }
        // Some owners of before, whatever their loads are.
        for (topic, partitions) in &topics {
            for number in 0..*partitions {
                let owner = pick(case.members.len() as u64) as usize;
                let (_, topics, owned) = &mut case.members[owner];
                if pick(4) > 0 && topics.contains(&name(topic)) {
                    owned.push(TopicPartition::new(name(topic), number));
                }
            }
        }
        case.settle();
        no_chain_of_moves_improves(&case);
    }
}

/// No member has two more than another one that it could reach by a chain of moves: each member of
/// the chain gives a partition to the next, which subscribes to its topic.
fn no_chain_of_moves_improves(case: &Case) {
    let count = case.members.len();
    let gives = |from: usize, to: usize| {
        case.members[from].2.iter().any(|share| case.members[to].1.contains(&share.topic))
    };
    let mut reaches: Vec<Vec<bool>> =
        (0..count).map(|from| (0..count).map(|to| gives(from, to)).collect()).collect();
    for through in 0..count {
        for from in 0..count {
            for to in 0..count {
                reaches[from][to] |= reaches[from][through] && reaches[through][to];
            }
        }
    }
    let loads: Vec<_> = case.members.iter().map(|(_, _, owned)| owned.len()).collect();
    for from in 0..count {
        for to in (0..count).filter(|to| reaches[from][*to]) {
            assert!(loads[from] <= loads[to] + 1, "from member {from} to member {to}: {loads:?}");
        }
    }
}

fn short_owned(case: &Case) -> Vec<Vec<String>> {
    short(&case.members.iter().map(|(_, _, owned)| owned.clone()).collect())
}

#[test]
fn a_result_that_is_not_an_assignment_is_refused() {
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
