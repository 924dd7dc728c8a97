//! The argument of a consumer's listener. It can commit and seek, on the thread that polls.

use std::borrow::Borrow;
use std::fmt;

use super::commit::Committer;
use super::offsets::{IntoOffsets, Offsets};
use crate::error::Result;
use crate::reader::assigned::Assigned;
use crate::reader::fetcher::Fetcher;
use crate::sync::Arc;
use crate::types::{Position, TopicPartition};

/// A change of the partitions that a consumer owns, passed to
/// [`on_rebalance`](crate::ConsumerBuilder::on_rebalance).
///
/// Kafka's `ConsumerRebalanceListener`: partitions are *revoked* before another member is
/// *assigned* them, and processed offsets can still be committed in that call. They are *lost* if
/// the member had been expelled before, because it did not poll for too long: others may own them
/// now, and nothing can be committed.
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
    /// The consumer owns them now. Called once for every rebalance that the consumer completes:
    /// with the partitions that it got, or with none if it keeps exactly those it has. A partition
    /// that another member must give up first comes after that member has done so. If several do so
    /// one after the other, the listener is called for each part as it comes, before it is read,
    /// and no part is held back for the rest. For a rebalance that is overtaken by another one
    /// before that, it is not called.
    Assigned,
    /// They are the consumer's until this call returns, and then another member's. Under the
    /// [eager](crate::RebalanceProtocol::Eager) protocol these are all partitions that it has, and
    /// it may be assigned some of them again.
    Revoked,
    /// They have not been the consumer's for some time.
    Lost,
}

/// Hears of each change during one poll, before the listener: for what reads with a consumer.
pub(crate) type Hears<'a> = dyn FnMut(RebalanceEvent, &[TopicPartition]) -> Result<()> + 'a;

impl RebalanceEvent {
    /// In one word, for `tracing` and `metrics`.
    pub(super) fn name(self) -> &'static str {
        match self {
            RebalanceEvent::Assigned => "assigned",
            RebalanceEvent::Revoked => "revoked",
            RebalanceEvent::Lost => "lost",
        }
    }
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
        let set = self.fetcher.assigned().iter().filter(concerned).filter(|assigned| assigned.is_placed());
        set.map(Assigned::position).collect()
    }

    /// Commits processed offsets, as [`Consumer::commit`](crate::Consumer::commit) does.
    ///
    /// # Errors
    /// Those of [`Consumer::commit`](crate::Consumer::commit).
    pub fn commit(&self, done: impl IntoOffsets) -> Result<()> {
        self.committer.commit(done.into()).done()
    }

    /// Positions as offsets to commit, as [`Consumer::offsets_at`](crate::Consumer::offsets_at).
    ///
    /// ```
    /// # use quipu::{Broker, RebalanceEvent, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// let consumer = broker.consumer("billing").on_rebalance(|rebalance| {
    ///     if rebalance.event() == RebalanceEvent::Revoked {
    ///         // Everything that it has polled is processed.
    ///         rebalance.commit(rebalance.offsets_at(rebalance.positions()))?;
    ///     }
    ///     Ok(())
    /// });
    /// # consumer.subscribe("orders")?.close()
    /// # }
    /// ```
    pub fn offsets_at<P: Borrow<Position>>(&self, positions: impl IntoIterator<Item = P>) -> Offsets {
        self.committer.offsets_at(positions)
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
