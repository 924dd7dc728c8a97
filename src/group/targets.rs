//! Which partitions should each member have? The result of the assignor, with the partitions as a
//! group sees them; and the same result at a lower cost, where partitions were only added.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::assign::{Added, AddedMember, AssignorMember, AssignorTopic, checked};
use super::member::Member;
use super::owners::Owners;
use super::share::{Share, TopicInfo};
use crate::error::Result;
use crate::types::{PartitionId, TopicId, TopicName, TopicPartition};

/// A result of an assignor.
pub(super) struct Targets {
    /// One for each member.
    pub(super) shares: Vec<BTreeSet<Share>>,
    /// All members subscribe to the same topics.
    pub(super) is_equal: bool,
}

/// Partitions that were added to a group's topics: those of a new topic, or of one that grew.
pub(super) struct Growth {
    pub(super) topic: TopicInfo,
    /// How many partitions it had.
    pub(super) had: u32,
}

/// Calls the assignor.
///
/// # Errors
/// `InvalidAssignment`.
pub(super) fn targets(
    members: &BTreeMap<u32, Member>,
    owners: &Owners,
    topics: &BTreeMap<TopicName, TopicInfo>,
) -> Result<Targets> {
    let Some(first) = members.values().next() else {
        return Ok(Targets { shares: Vec::new(), is_equal: true });
    };
    let mut owned = owned_or_wanted(members, owners, topics);
    let views: Vec<_> = members
        .iter()
        .map(|(id, member)| {
            let matching = topics.keys().filter(|topic| member.subscribes(topic));
            let subscribed: Vec<_> = matching.cloned().collect();
            let owned = owned.remove(id).unwrap_or_default();
            (format!("{id:010}"), subscribed, owned.into_iter().collect::<Vec<_>>())
        })
        .collect();
    let members: Vec<_> =
        views.iter().map(|(id, topics, owned)| AssignorMember { id, topics, owned }).collect();
    let infos: Vec<_> = topics
        .values()
        .map(|topic| AssignorTopic { name: &topic.name, partitions: topic.partitions })
        .collect();
    let assigned = checked(&*first.assignor.assignor, &members, &infos)?;
    let share = |TopicPartition { topic, partition }| {
        topics.get(&topic).map(|info| Share { topic, id: info.id, partition })
    };
    let shares = assigned.into_iter().map(|shares| shares.into_iter().filter_map(share).collect()).collect();
    let is_equal = members.windows(2).all(|pair| matches!(pair, [a, b] if a.topics == b.topics));
    Ok(Targets { shares, is_equal })
}

/// The partitions that each member owns, and those of its target that are free: a rebalance that
/// overtakes another must not move more because of that.
fn owned_or_wanted(
    members: &BTreeMap<u32, Member>,
    owners: &Owners,
    topics: &BTreeMap<TopicName, TopicInfo>,
) -> BTreeMap<u32, BTreeSet<TopicPartition>> {
    let ids: HashSet<TopicId> = topics.values().map(|topic| topic.id).collect();
    let wanted =
        members.iter().flat_map(|(id, member)| member.target().iter().map(move |share| (*id, share)));
    let wanted = wanted.filter(|(_, share)| owners.is_free(share));
    let mut owned: BTreeMap<u32, BTreeSet<TopicPartition>> = BTreeMap::new();
    for (id, share) in owners.iter().chain(wanted).filter(|(_, share)| ids.contains(&share.id)) {
        owned.entry(id).or_default().insert(share.topic_partition());
    }
    owned
}

/// The partitions that each member gets in addition, if the assignor's result for all partitions
/// would be the members' targets and these. `None` if the assignor must be called. The members'
/// targets must be a result of the assignor, for members that all subscribe to the same topics if
/// `is_equal`.
pub(super) fn extension(
    members: &BTreeMap<u32, Member>,
    owners: &Owners,
    is_equal: bool,
    growths: &[Growth],
) -> Option<Vec<Vec<Share>>> {
    let first = members.values().next()?;
    // Otherwise the assignor would get other owners than those of the targets.
    let is_settled = || !owners.is_any_held() && members.values().all(|member| member.surplus().is_empty());
    let views: Vec<_> = members
        .values()
        .map(|member| AddedMember {
            topics: growths.iter().map(|growth| member.subscribes(&growth.topic.name)).collect(),
            load: member.target().len(),
        })
        .collect();
    let added: Vec<_> = growths
        .iter()
        .map(|growth| Added { name: &growth.topic.name, partitions: growth.had..growth.topic.partitions })
        .collect();
    let given = first.assignor.extends.assign(&views, &added, || is_equal && is_settled())?;
    let share = |(at, partition): (usize, u32)| {
        let TopicInfo { name, id, .. } = &growths.get(at)?.topic;
        Some(Share { topic: name.clone(), id: *id, partition: PartitionId::new(partition) })
    };
    Some(given.into_iter().map(|given| given.into_iter().filter_map(share).collect()).collect())
}
