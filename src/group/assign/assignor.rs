//! How is an assignor called, and what makes its result an assignment?

use std::cell::Cell;
use std::fmt;

use crate::engine::caught;
use crate::error::{Error, Result};
use crate::sync::{Rank, about_to_call_user_code_with};
use crate::types::{TopicName, TopicPartition};

/// A member of a group, as an [`Assignor`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AssignorMember<'a> {
    /// Its identity: the longer it is a member, the earlier it sorts.
    pub id: &'a str,
    /// The topics that it subscribes to, by name.
    pub topics: &'a [TopicName],
    /// The partitions that it owns now, sorted.
    pub owned: &'a [TopicPartition],
}

impl<'a> AssignorMember<'a> {
    /// A member, to call an [`Assignor`] in its own tests.
    pub fn new(id: &'a str, topics: &'a [TopicName], owned: &'a [TopicPartition]) -> Self {
        AssignorMember { id, topics, owned }
    }
}

/// A topic that members subscribe to, as an [`Assignor`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AssignorTopic<'a> {
    /// Its name.
    pub name: &'a TopicName,
    /// How many partitions it has.
    pub partitions: u32,
}

impl<'a> AssignorTopic<'a> {
    /// A topic, to call an [`Assignor`] in its own tests.
    pub fn new(name: &'a TopicName, partitions: u32) -> Self {
        AssignorTopic { name, partitions }
    }
}

/// What a member does with its partitions at a rebalance.
///
/// All members of a group must use the same: a member that joins with another one gets
/// [`InvalidConfig`](Error::InvalidConfig). An [`Assignor`] has one of its own, which
/// [`ConsumerBuilder::rebalance_protocol`](crate::ConsumerBuilder::rebalance_protocol) overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebalanceProtocol {
    /// At each rebalance every member gives up all its partitions, and then takes those of its new
    /// assignment, each from the committed offset on. Records that were polled and not committed
    /// are delivered again, also of partitions that stay, and a commit of records that were polled
    /// before is [rejected](Error::CommitRejected). The listener is called with all partitions as
    /// [revoked](crate::RebalanceEvent::Revoked), then as
    /// [assigned](crate::RebalanceEvent::Assigned).
    ///
    /// Kafka's protocol for `RangeAssignor` and `RoundRobinAssignor`, and so the default of its
    /// Java client and of librdkafka. A program that will run there is tested with it. In contrast
    /// to Kafka no member waits for the others: it takes each partition as soon as that is free.
    Eager,
    /// A member keeps reading the partitions that stay, and gives up only those that move away
    /// (KIP-429, KIP-848). The default.
    Cooperative,
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

    /// What members that use it do at a rebalance, unless they are configured otherwise. Default:
    /// [`RebalanceProtocol::Cooperative`].
    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Cooperative
    }

    /// One list per member, in the order of `members`, which are sorted by id, as `topics` are by
    /// name. Every partition of every topic must be in exactly one list, that of a member that
    /// subscribes to the topic. It is called with the group's lock held, on the thread that causes
    /// the rebalance, so it must be short, and must not wait for a thread that uses the group. Calls
    /// to the broker that change or look at topics or groups return
    /// [`InvalidAssignment`](Error::InvalidAssignment) in here. A consumer that is dropped in here
    /// leaves its group soon after.
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

/// Calls an assignor, and checks that its result is an assignment.
///
/// # Errors
/// `InvalidAssignment`.
pub(crate) fn checked(
    assignor: &dyn Assignor,
    members: &[AssignorMember<'_>],
    topics: &[AssignorTopic<'_>],
) -> Result<Vec<Vec<TopicPartition>>> {
    let invalid = |reason: String| {
        let assignor = caught(|| assignor.name().to_string()).unwrap_or_default();
        Error::InvalidAssignment { assignor, reason }
    };
    // The group's lock is held, so that no member comes or goes meanwhile: the user is told of it.
    // The thread is the one that causes a rebalance, which may be that of the timer.
    about_to_call_user_code_with("an assignor", &[Rank::Membership]);
    let shares = {
        let _inside = Inside::enter();
        caught(|| assignor.assign(members, topics))
    }
    .map_err(|message| invalid(format!("it panicked: {message}")))?;
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

thread_local! {
    /// The thread is inside an assignor, and so holds the lock of a group.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the thread is inside an assignor.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Refuses calls of an assignor: they could wait for ever for the lock of its group.
///
/// # Errors
/// `InvalidAssignment` inside an assignor.
#[inline]
pub(crate) fn refuse_in_assignor() -> Result<()> {
    if INSIDE.get() { Err(called_back()) } else { Ok(()) }
}

#[cold]
fn called_back() -> Error {
    Error::InvalidAssignment {
        assignor: "the one that runs".to_string(),
        reason: "an assignor must not call the broker, because the lock of its group is held".to_string(),
    }
}

pub(super) fn subscribes(member: &AssignorMember<'_>, topic: &TopicName) -> bool {
    member.topics.binary_search(topic).is_ok()
}
