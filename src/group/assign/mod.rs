//! Which member of a group gets which partition? Pure functions of the subscriptions and of the
//! current owners.
//!
//! There are Kafka's three assignors, and a trait for the user's own, whose results are checked
//! before they take effect.

mod assignor;
mod extend;
mod range;
mod sticky;
#[cfg(test)]
mod tests;

use self::assignor::subscribes;
pub use self::assignor::{Assignor, AssignorMember, AssignorTopic, RebalanceProtocol};
pub(crate) use self::assignor::{checked, refuse_in_assignor};
#[cfg(test)]
pub(crate) use self::extend::Extends;
pub(crate) use self::extend::{Added, AddedMember, Chosen};
pub use self::range::RangeAssignor;
pub use self::sticky::CooperativeStickyAssignor;
use crate::types::TopicPartition;

/// One partition after the other, to one member after the other. Kafka's `RoundRobinAssignor`, with
/// its [eager](RebalanceProtocol::Eager) protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinAssignor;

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
