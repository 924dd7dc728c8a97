//! Which member of a group gets which partition? Pure functions of the subscriptions and of the
//! current owners.
//!
//! There are Kafka's three assignors, and a trait for the user's own, whose results are checked
//! before they take effect.

mod assignor;
mod sticky;
#[cfg(test)]
mod tests;

use self::assignor::subscribes;
pub use self::assignor::{Assignor, AssignorMember, AssignorTopic, RebalanceProtocol};
pub(crate) use self::assignor::{checked, refuse_in_assignor};
pub use self::sticky::CooperativeStickyAssignor;
use crate::types::TopicPartition;

/// Topic by topic, a range of neighbouring partitions to each member: the same numbers of several
/// topics meet at one member. Kafka's `RangeAssignor`, with its
/// [eager](RebalanceProtocol::Eager) protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeAssignor;

/// One partition after the other, to one member after the other. Kafka's `RoundRobinAssignor`, with
/// its [eager](RebalanceProtocol::Eager) protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinAssignor;

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

    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Eager
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
