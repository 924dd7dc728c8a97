//! What is a consumer's listener told, and what may it do? It commits and seeks, on the thread that
//! polls.

use std::fmt;

use super::Offsets;
use super::commit::Committer;
use crate::error::Result;
use crate::reader::assigned::Assigned;
use crate::reader::fetcher::Fetcher;
use crate::sync::Arc;
use crate::types::{Position, TopicPartition};

/// A change of what a consumer owns, handed to
/// [`on_rebalance`](crate::ConsumerBuilder::on_rebalance).
///
/// Kafka's `ConsumerRebalanceListener`: partitions are *revoked* before anybody else is *assigned*
/// them, and what was processed can still be committed in that call. They are *lost* if the member
/// had been expelled before, because it did not poll for too long: others may own them now, and
/// nothing can be committed.
pub struct Rebalance<'a> {
    pub(super) event: RebalanceEvent,
    pub(super) partitions: &'a [TopicPartition],
    pub(super) fetcher: &'a mut Fetcher,
    pub(super) committer: &'a Arc<Committer>,
}

/// What happens to the partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebalanceEvent {
    /// They are the consumer's from now on. Told once for every rebalance that the consumer comes
    /// to the end of: with what came to it, or with nothing if it keeps just what it has. What has
    /// to be given up by others first comes when they have: if they do so one after the other, each
    /// lot is told as it comes, before it is read, and none is held back for the rest. A rebalance
    /// that another one overtakes before that is not told by itself.
    Assigned,
    /// They are the consumer's until this call returns, and then somebody else's.
    Revoked,
    /// They have not been the consumer's for some time.
    Lost,
}

impl Rebalance<'_> {
    /// What happens.
    pub fn event(&self) -> RebalanceEvent {
        self.event
    }

    /// The partitions that it happens to.
    pub fn partitions(&self) -> &[TopicPartition] {
        self.partitions
    }

    /// The next offset to read in each of them, as of now.
    pub fn positions(&self) -> Vec<Position> {
        let concerned = |assigned: &&Assigned| {
            self.partitions.iter().any(|of| assigned.is(of.topic.as_str(), of.partition))
        };
        let set = self.fetcher.assigned().iter().filter(concerned).filter(|assigned| !assigned.is_unset());
        set.map(Assigned::position).collect()
    }

    /// Commits what is done, as [`Consumer::commit`](crate::Consumer::commit) does.
    ///
    /// # Errors
    /// Those of [`Consumer::commit`](crate::Consumer::commit).
    pub fn commit(&self, done: impl Into<Offsets>) -> Result<()> {
        self.committer.commit(done.into()).done()
    }

    /// Continues elsewhere in one of the partitions that the consumer owns.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    pub fn seek(&mut self, to: &Position) -> Result<()> {
        self.fetcher.find(to.topic.as_str(), to.partition)?.seek(to.offset, to.epoch);
        Ok(())
    }
}

impl fmt::Debug for Rebalance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebalance").field("event", &self.event).field("partitions", &self.partitions).finish()
    }
}
