//! Where do partitions go that are added to an assignment? Where the assignor would put them if it
//! was called with all partitions, and leaves the others where they are. So a topic that a pattern
//! matches costs a group as much as it has partitions, however many the group has already.

use std::any::TypeId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::assignor::Assignor;
use super::range::{RangeAssignor, range_of};
use super::sticky::CooperativeStickyAssignor;
use crate::sync::Arc;
use crate::types::TopicName;

/// An assignor that was chosen for a group.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) assignor: Arc<dyn Assignor>,
    pub(crate) extends: Extends,
}

/// The rule by which an assignor places partitions that are added, as far as the crate knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extends {
    /// Nothing: it must be called with all partitions.
    Unknown,
    /// Those of a [`RangeAssignor`].
    Range,
    /// Those of a [`CooperativeStickyAssignor`].
    Sticky,
}

/// A member that may get some of the partitions that were added.
pub(crate) struct AddedMember {
    /// For each topic with added partitions whether it subscribes to it.
    pub(crate) topics: Vec<bool>,
    /// How many partitions it has been assigned.
    pub(crate) load: usize,
}

/// The partitions that were added to a topic, or all partitions of a new topic.
pub(crate) struct Added<'a> {
    pub(crate) name: &'a TopicName,
    pub(crate) partitions: Range<u32>,
}

impl Chosen {
    pub(crate) fn new<A: Assignor + 'static>(assignor: A) -> Self {
        let id = TypeId::of::<A>();
        let extends = if id == TypeId::of::<CooperativeStickyAssignor>() {
            Extends::Sticky
        } else if id == TypeId::of::<RangeAssignor>() {
            Extends::Range
        } else {
            Extends::Unknown
        };
        Chosen { assignor: Arc::new(assignor), extends }
    }
}

impl Extends {
    /// The added partitions that each member gets, each as the place of its topic and its number.
    /// `None` if the assignor must be called. `topics` are sorted by name. `is_even` returns whether
    /// all members subscribe to the same topics, and own what they are assigned or could take it.
    pub(crate) fn assign(
        self,
        members: &[AddedMember],
        topics: &[Added<'_>],
        is_even: impl FnOnce() -> bool,
    ) -> Option<Vec<Vec<(usize, u32)>>> {
        debug_assert!(topics.is_sorted_by(|a, b| a.name < b.name), "by name, as an assignor gets them");
        match self {
            Extends::Unknown => None,
            Extends::Range => by_range(members, topics),
            Extends::Sticky => {
                let all = members.iter().all(|member| member.topics.iter().all(|subscribes| *subscribes));
                (all && is_even()).then(|| to_the_poorest(members, topics))
            }
        }
    }
}

/// Each topic is shared out for itself; in one that grew partitions change hands.
fn by_range(members: &[AddedMember], topics: &[Added<'_>]) -> Option<Vec<Vec<(usize, u32)>>> {
    let mut given: Vec<Vec<_>> = members.iter().map(|_| Vec::new()).collect();
    for (at, topic) in topics.iter().enumerate() {
        if topic.partitions.start > 0 {
            return None;
        }
        let subscribes = |member: &AddedMember| member.topics.get(at) == Some(&true);
        let count = members.iter().filter(|member| subscribes(member)).count();
        let subscribed = members.iter().zip(&mut given).filter(|(member, _)| subscribes(member));
        for (place, (_, given)) in subscribed.enumerate() {
            given.extend(range_of(topic.partitions.end, count, place).map(|partition| (at, partition)));
        }
    }
    Some(given)
}

/// A balanced assignment stays as it is, because each member has at most its quota of more
/// partitions. So the assignor gives the added ones to the member with the fewest, one after the
/// other.
fn to_the_poorest(members: &[AddedMember], topics: &[Added<'_>]) -> Vec<Vec<(usize, u32)>> {
    let mut given: Vec<Vec<_>> = members.iter().map(|_| Vec::new()).collect();
    let mut poorest: BinaryHeap<_> =
        members.iter().enumerate().map(|(at, member)| Reverse((member.load, at))).collect();
    let added = topics.iter().enumerate();
    for added in added.flat_map(|(at, topic)| topic.partitions.clone().map(move |partition| (at, partition)))
    {
        let Some(Reverse((load, at))) = poorest.pop() else { break };
        if let Some(given) = given.get_mut(at) {
            given.push(added);
        }
        poorest.push(Reverse((load + 1, at)));
    }
    given
}
