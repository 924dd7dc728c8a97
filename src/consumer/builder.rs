//! The settings of a consumer, and its start: as a member of a group, or with partitions assigned
//! by hand.

use std::fmt;
use std::time::Duration;

use super::commit::Committer;
use super::handle::Consumer;
use super::member::{Listener, Session, Subscription};
use super::rebalance::Rebalance;
use crate::broker::{Broker, BrokerInner};
use crate::config::{invalid, too_small};
use crate::error::{Error, Result};
use crate::group::GroupHost;
use crate::group::assign::{Assignor, Chosen, CooperativeStickyAssignor, RebalanceProtocol};
use crate::group::state::Pattern;
use crate::reader::fetcher::Fetcher;
use crate::reader::{OffsetReset, PollLimits};
use crate::sync::Arc;
use crate::topic::Partition;
use crate::types::{GroupId, Names};

impl Broker {
    /// A consumer of the group `group`, to be configured and
    /// [subscribed](ConsumerBuilder::subscribe). The group is made by its first member.
    ///
    /// ```
    /// use std::time::Duration;
    /// use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new().partitions(4))?;
    /// broker.producer().send(&orders, Record::new("42 EUR").key("customer-7"))?.wait()?;
    ///
    /// let mut billing = broker.consumer("billing").subscribe(&["orders"])?;
    /// let records = billing.poll(Duration::from_millis(200))?;
    /// assert_eq!(records.len(), 1);
    /// billing.commit(&records)?; // the next member with this partition continues after it
    /// # Ok(()) }
    /// ```
    pub fn consumer(&self, group: &str) -> ConsumerBuilder {
        ConsumerBuilder {
            broker: self.inner().clone(),
            group: group.to_string(),
            reset: OffsetReset::default(),
            max_records: usize::MAX,
            max_bytes: PollLimits::default().max_bytes,
            max_poll_interval: Duration::from_secs(300),
            assignor: Chosen::new(CooperativeStickyAssignor),
            protocol: None,
            auto_commit: None,
            listener: None,
        }
    }
}

/// A consumer to be.
#[must_use = "it consumes nothing until it is subscribed or assigned partitions"]
pub struct ConsumerBuilder {
    broker: Arc<BrokerInner>,
    group: String,
    reset: OffsetReset,
    max_records: usize,
    max_bytes: usize,
    max_poll_interval: Duration,
    assignor: Chosen,
    /// `None`: the assignor's.
    protocol: Option<RebalanceProtocol>,
    auto_commit: Option<Duration>,
    listener: Option<Listener>,
}

impl ConsumerBuilder {
    /// Where to start in a partition without a committed offset, and where to continue when the
    /// next offset is not in the log. Default: [`OffsetReset::Beginning`], unlike Kafka's.
    ///
    /// The group's first poll of a partition stores where it starts there, as durably as a commit
    /// and as the records of the topic. Until the group commits, a [rewind](Consumer::rewind) and
    /// its next member start at that offset and not where the policy would choose then (under
    /// Kafka's `latest` a member that dies before its first commit loses what it has polled).
    /// [`committed`](Consumer::committed) returns `None` all the same.
    ///
    /// Partitions that came after the group first subscribed to their topic, or to a glob that it
    /// matches, are read from their beginning in any case: their records are new to the group
    /// (Kafka's `latest` loses them, KAFKA-20539). That is remembered as commits are, over restarts
    /// and until the [group is deleted](crate::Group::delete).
    pub fn offset_reset(mut self, reset: OffsetReset) -> Self {
        self.reset = reset;
        self
    }

    /// How many records a poll returns at most. Default: no limit but
    /// [`max_bytes`](ConsumerBuilder::max_bytes). At least 1.
    pub fn max_records(mut self, records: usize) -> Self {
        self.max_records = records;
        self
    }

    /// About how many bytes of records a poll returns at most, but one batch if that is larger.
    /// Default: 1 MiB. At least 1 byte.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long the consumer may stay away between two polls before its partitions go to others.
    /// Default: 5 minutes, as Kafka's `max.poll.interval.ms`. At least 1 ms. There is no other sign
    /// of life in one process: a consumer that is dropped leaves at once. For
    /// [`recv`](Consumer::recv) see there.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.max_poll_interval = interval;
        self
    }

    /// How the group shares its partitions out. All members have to agree. Default:
    /// [`CooperativeStickyAssignor`]. (Kafka's Java client and librdkafka use
    /// [`RangeAssignor`](crate::RangeAssignor) by default, whose protocol is
    /// [eager](RebalanceProtocol::Eager).)
    pub fn assignor(mut self, assignor: impl Assignor + 'static) -> Self {
        self.assignor = Chosen::new(assignor);
        self
    }

    /// What the consumer does with its partitions at a rebalance. All members have to agree.
    /// Default: that of the [assignor](Assignor::protocol), which is
    /// [`Eager`](RebalanceProtocol::Eager) for [`RangeAssignor`](crate::RangeAssignor) and
    /// [`RoundRobinAssignor`](crate::RoundRobinAssignor), and
    /// [`Cooperative`](RebalanceProtocol::Cooperative) for
    /// [`CooperativeStickyAssignor`] and others.
    pub fn rebalance_protocol(mut self, protocol: RebalanceProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Commits the records of earlier polls automatically: at the first poll after each `interval`,
    /// before partitions are given up, and at [`close`](Consumer::close). Off by default: polled
    /// records count as processed even if the program never processed them, and are not delivered
    /// again after a crash. With [`Duration::ZERO`] each poll commits. A position that is not in
    /// the log is not committed, for example after a seek that no poll has checked, nor are records
    /// of a transaction that was not committed.
    pub fn auto_commit(mut self, interval: Duration) -> Self {
        self.auto_commit = Some(interval);
        self
    }

    /// Called with every change of the partitions that the consumer owns, from within
    /// [`poll`](Consumer::poll) and [`close`](Consumer::close), on the thread that calls those. It
    /// may commit and seek. That poll returns an error of the callback; the ownership changes all
    /// the same. Not called when the consumer is dropped. No lock is held: it may call the broker.
    /// A panic of it reaches the caller of the poll. The consumer can be used after that, and a
    /// callback that has not returned is made again by the next poll, except for `Assigned`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, RebalanceEvent, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("orders", TopicConfig::new().partitions(2))?;
    /// let mut consumer = broker
    ///     .consumer("billing")
    ///     .on_rebalance(|rebalance| {
    ///         match rebalance.event() {
    ///             RebalanceEvent::Assigned => println!("mine now: {:?}", rebalance.partitions()),
    ///             RebalanceEvent::Revoked => println!("finish these: {:?}", rebalance.partitions()),
    ///             _ => println!("lost: {:?}", rebalance.partitions()),
    ///         }
    ///         Ok(())
    ///     })
    ///     .subscribe(&["orders"])?;
    /// consumer.poll(Duration::ZERO)?;
    /// assert_eq!(consumer.assignment().len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn on_rebalance(
        mut self,
        listener: impl FnMut(&mut Rebalance<'_>) -> Result<()> + Send + 'static,
    ) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Joins the group and shares these topics with its other members. A name with `*` (any
    /// characters) or `?` (one) stands for all topics that match it, also those created later. A
    /// topic that does not exist yet is waited for in the same way, as in Kafka: its partitions
    /// come to the members once it is created. The consumer gets its partitions at its first poll.
    ///
    /// # Errors
    /// [`InvalidTopicName`](Error::InvalidTopicName) for a name that no topic can have, unless it
    /// is a pattern; [`UnknownTopic`](Error::UnknownTopic) for a topic of the broker itself;
    /// [`InvalidGroupName`](Error::InvalidGroupName); [`InvalidConfig`](Error::InvalidConfig)
    /// without a topic, for a setting below its least value, or if the group's members use another
    /// assignor or protocol;
    /// [`InvalidAssignment`](Error::InvalidAssignment); [`Closed`](Error::Closed), or an I/O error.
    pub fn subscribe(self, topics: impl Names) -> Result<Consumer> {
        let topics = topics.into_names();
        if topics.is_empty() {
            return Err(invalid("topics", "at least one must be given"));
        }
        let patterns: Vec<_> = topics.into_iter().map(Pattern).collect();
        for pattern in patterns.iter().filter(|pattern| !pattern.is_glob()) {
            self.broker.check_topic_name(&pattern.0)?;
        }
        let (mut consumer, subscription) = self.build(patterns)?;
        consumer.membership.join(subscription)?;
        Ok(consumer)
    }

    /// Takes exactly these partitions, without sharing and without being a member, and begins where
    /// the group has committed. It may commit only as long as the group has no members.
    ///
    /// # Errors
    /// [`InvalidGroupName`](Error::InvalidGroupName); [`InvalidConfig`](Error::InvalidConfig) for a
    /// partition named twice, or a setting below its least value;
    /// [`ForeignBroker`](Error::ForeignBroker) for a partition of another broker;
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or an I/O error.
    pub fn assign(self, partitions: &[Partition]) -> Result<Consumer> {
        let broker = self.broker.clone();
        broker.coordinator().offsets().open(&*broker)?;
        let (mut consumer, _) = self.build(Vec::new())?;
        for (at, partition) in partitions.iter().enumerate() {
            partition.check_broker(&broker)?;
            partition.state().check()?;
            let same =
                |other: &Partition| other.state().id == partition.state().id && other.id() == partition.id();
            if partitions.iter().take(at).any(same) {
                let place = format!("{}/{} is named twice", partition.topic(), partition.id());
                return Err(invalid("partitions", &place));
            }
            let assigned = consumer.membership.start(partition.log().clone());
            consumer.membership.assign(&mut consumer.fetcher, assigned);
        }
        Ok(consumer)
    }

    pub(crate) fn broker(&self) -> &Arc<BrokerInner> {
        &self.broker
    }

    fn build(self, topics: Vec<Pattern>) -> Result<(Consumer, Subscription)> {
        if self.max_poll_interval < Duration::from_millis(1) {
            return Err(too_small("max_poll_interval", format!("{:?}", self.max_poll_interval), "1 ms"));
        }
        let group = GroupId::new(&self.group)
            .map_err(|reason| Error::InvalidGroupName { name: self.group.clone(), reason })?;
        // IMPORTANT: before the group is looked up. An assignor calls this under the lock of a
        // group.
        self.broker.check_open()?;
        let group = self.broker.coordinator().group(&group);
        let protocol = self.get_rebalance_protocol();
        let mut fetcher = Fetcher::new(self.broker.clone());
        let limits = fetcher.limits_mut();
        limits.max_records = self.max_records;
        limits.max_bytes = self.max_bytes;
        limits.reset = self.reset;
        limits.check()?;
        let committer = Arc::new(Committer::new(self.broker, group, fetcher.waiter().clone()));
        let membership = Session::new(committer, self.reset, self.auto_commit);
        let subscription = Subscription {
            topics,
            protocol,
            assignor: self.assignor,
            max_poll_interval: self.max_poll_interval,
            listener: self.listener,
        };
        Ok((Consumer { membership, fetcher }, subscription))
    }
}

/// Its settings, read back: see the methods of the same names without `get_`.
///
/// ```
/// # use quipu::{Broker, OffsetReset};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// let builder = broker.consumer("billing").max_records(500);
/// assert_eq!((builder.get_group(), builder.get_max_records()), ("billing", 500));
/// assert_eq!(builder.get_offset_reset(), OffsetReset::Beginning);
/// # Ok(()) }
/// ```
impl ConsumerBuilder {
    /// The name of the group. It is checked when the consumer is made.
    pub fn get_group(&self) -> &str {
        &self.group
    }

    /// See [`offset_reset`](ConsumerBuilder::offset_reset).
    pub fn get_offset_reset(&self) -> OffsetReset {
        self.reset
    }

    /// See [`max_records`](ConsumerBuilder::max_records); `usize::MAX` without a limit.
    pub fn get_max_records(&self) -> usize {
        self.max_records
    }

    /// See [`max_bytes`](ConsumerBuilder::max_bytes).
    pub fn get_max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// See [`max_poll_interval`](ConsumerBuilder::max_poll_interval).
    pub fn get_max_poll_interval(&self) -> Duration {
        self.max_poll_interval
    }

    /// See [`assignor`](ConsumerBuilder::assignor).
    pub fn get_assignor(&self) -> &dyn Assignor {
        &*self.assignor.assignor
    }

    /// See [`rebalance_protocol`](ConsumerBuilder::rebalance_protocol): that of the assignor unless
    /// it was set.
    pub fn get_rebalance_protocol(&self) -> RebalanceProtocol {
        self.protocol.unwrap_or_else(|| self.assignor.assignor.protocol())
    }

    /// See [`auto_commit`](ConsumerBuilder::auto_commit); `None`: it commits nothing by itself.
    pub fn get_auto_commit(&self) -> Option<Duration> {
        self.auto_commit
    }
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("group", &self.group)
            .field("offset_reset", &self.reset)
            .field("assignor", &self.assignor.assignor)
            .finish_non_exhaustive()
    }
}
