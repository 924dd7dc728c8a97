//! The settings of a consumer, read back.

use std::time::Duration;

use super::handle::Consumer;
use crate::group::assign::{Assignor, RebalanceProtocol};
use crate::reader::OffsetReset;

/// Its settings: see the methods of the same names of [`ConsumerBuilder`](crate::ConsumerBuilder).
///
/// ```
/// # use quipu::{Broker, OffsetReset, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # broker.create_topic("orders", TopicConfig::new())?;
/// let billing = broker.consumer("billing").max_records(500).subscribe("orders")?;
/// assert_eq!((billing.max_records(), billing.subscription()), (500, vec!["orders"]));
/// assert_eq!(billing.offset_reset(), OffsetReset::Beginning);
/// # Ok(()) }
/// ```
impl Consumer {
    /// The topics and globs that it [subscribes](crate::ConsumerBuilder::subscribe) to; empty if
    /// its partitions were [assigned](crate::ConsumerBuilder::assign).
    pub fn subscription(&self) -> Vec<&str> {
        let topics = self.membership.subscription().map(|subscription| subscription.topics.as_slice());
        topics.unwrap_or_default().iter().map(|pattern| pattern.0.as_str()).collect()
    }

    /// See [`offset_reset`](crate::ConsumerBuilder::offset_reset).
    pub fn offset_reset(&self) -> OffsetReset {
        self.membership.reset
    }

    /// See [`max_records`](crate::ConsumerBuilder::max_records); `usize::MAX` without a limit.
    pub fn max_records(&self) -> usize {
        self.fetcher.limits().max_records
    }

    /// See [`max_bytes`](crate::ConsumerBuilder::max_bytes).
    pub fn max_bytes(&self) -> usize {
        self.fetcher.limits().max_bytes
    }

    /// See [`auto_commit`](crate::ConsumerBuilder::auto_commit); `None`: it commits nothing by
    /// itself.
    pub fn auto_commit(&self) -> Option<Duration> {
        self.membership.auto_commit()
    }

    /// See [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval); `None` if its
    /// partitions were [assigned](crate::ConsumerBuilder::assign): it may stay away as long as it
    /// likes.
    pub fn max_poll_interval(&self) -> Option<Duration> {
        Some(self.membership.subscription()?.max_poll_interval)
    }

    /// See [`assignor`](crate::ConsumerBuilder::assignor); `None` if its partitions were
    /// [assigned](crate::ConsumerBuilder::assign).
    pub fn assignor(&self) -> Option<&dyn Assignor> {
        Some(&*self.membership.subscription()?.assignor.assignor)
    }

    /// See [`rebalance_protocol`](crate::ConsumerBuilder::rebalance_protocol); `None` if its
    /// partitions were [assigned](crate::ConsumerBuilder::assign).
    pub fn rebalance_protocol(&self) -> Option<RebalanceProtocol> {
        Some(self.membership.subscription()?.protocol)
    }
}
