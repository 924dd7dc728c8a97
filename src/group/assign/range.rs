//! Kafka's range assignment: topic by topic.

use std::ops::Range;

use super::assignor::{Assignor, AssignorMember, AssignorTopic, RebalanceProtocol, subscribes};
use crate::types::TopicPartition;

/// Topic by topic, a range of neighbouring partitions to each member: the same numbers of several
/// topics meet at one member. Kafka's `RangeAssignor`, with its
/// [eager](RebalanceProtocol::Eager) protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Eager
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        let mut shares: Vec<_> = members.iter().map(|_| Vec::new()).collect();
        for topic in topics {
            let subscribers = members.iter().filter(|member| subscribes(member, topic.name)).count();
            let subscribed =
                members.iter().zip(&mut shares).filter(|(member, _)| subscribes(member, topic.name));
            for (place, (_, share)) in subscribed.enumerate() {
                let range = range_of(topic.partitions, subscribers, place);
                share.extend(range.map(|partition| TopicPartition::new(topic.name.clone(), partition)));
            }
        }
        shares
    }
}

/// The range of the `place`-th of some subscribers: the first ones get one more if there is a
/// remainder.
pub(super) fn range_of(partitions: u32, subscribers: usize, place: usize) -> Range<u32> {
    let (subscribers, place) = (subscribers as u32, place as u32);
    let Some(each) = partitions.checked_div(subscribers) else { return 0..0 };
    let longer = partitions % subscribers;
    let start = place * each + place.min(longer);
    start..start + each + u32::from(place < longer)
}
