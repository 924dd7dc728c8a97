//! How does one hold a topic, and one of its partitions? Cheap handles, usable from any thread.

mod append;
mod partition;
mod replicate;

pub use self::partition::Partition;
use self::partition::give_up;
use crate::broker::{Broker, BrokerInner, TopicState};
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::format::names;
use crate::log::Log;
use crate::log::loss::find_damage;
use crate::stats::DamagedRange;
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

impl Broker {
    /// Creates a topic. Names that differ only in case are names of different topics. Files of its
    /// partitions are made when they are first written to.
    ///
    /// # Errors
    /// [`TopicExists`](Error::TopicExists), [`InvalidTopicName`](Error::InvalidTopicName);
    /// [`TopicNameCollides`](Error::TopicNameCollides) if the name differs from that of a topic
    /// only in `.` and `_`, as `orders_v1` and `orders.v1`;
    /// [`InvalidConfig`](Error::InvalidConfig), [`Closed`](Error::Closed);
    /// [`ForeignDirectory`](Error::ForeignDirectory) if there are files that no topic of the broker
    /// has, where those of the topic would go; [`DiskFull`](Error::DiskFull): then the topic does
    /// not exist. [`Io`](Error::Io): the next opening may find it.
    ///
    /// ```
    /// # use quipu::{Broker, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new().partitions(4))?;
    /// assert_eq!(orders.partition_count(), 4);
    /// # Ok(()) }
    /// ```
    pub fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        let created = self.create_topics([(name, config)])?;
        created.into_iter().next().ok_or_else(|| Error::internal("as many topics are created as are given"))
    }

    /// Creates many topics with one change of the catalog: one write and one sync, however many
    /// there are. Returns them in the order in which they were given. If this returns an error
    /// other than [`Io`](Error::Io), none of them exists. After a crash during the call the next
    /// opening may find the first of them without the others.
    ///
    /// # Errors
    /// Those of [`create_topic`](Broker::create_topic), of the first topic that cannot be created;
    /// [`TopicExists`](Error::TopicExists) also for a name that is given twice.
    ///
    /// ```
    /// # use quipu::{Broker, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// let tenants = (0..100).map(|tenant| (format!("tenant-{tenant}"), TopicConfig::new()));
    /// assert_eq!(broker.create_topics(tenants)?.len(), 100);
    /// # Ok(()) }
    /// ```
    pub fn create_topics<N: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = (N, TopicConfig)>,
    ) -> Result<Vec<Topic>> {
        let topics: Vec<_> = topics.into_iter().collect();
        if let Some((name, _)) = topics.iter().find(|(name, _)| names::is_own_topic(name.as_ref())) {
            let reason = "the broker has an internal topic of this name";
            return Err(Error::InvalidTopicName { name: name.as_ref().to_string(), reason });
        }
        let states = self.inner().create_topics(topics)?;
        let names: Vec<_> = states.iter().map(|state| state.name.clone()).collect();
        self.inner().topics_changed(&names);
        Ok(states.into_iter().map(|state| Topic::new(self.inner().clone(), state)).collect())
    }

    /// The topic of this name, created if it is missing, altered if its settings differ.
    /// [`topic_or_create`](Broker::topic_or_create) takes it as it is.
    ///
    /// # Errors
    /// [`ConfigMismatch`](Error::ConfigMismatch) if it has more partitions than asked for, or keeps
    /// streams and is asked not to, or the other way round: the error has the value that was found
    /// and the one asked for. Otherwise those of [`create_topic`](Broker::create_topic) and
    /// [`alter_topic`](Broker::alter_topic).
    pub fn ensure_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        match self.create_topic(name, config.clone()) {
            Err(Error::TopicExists { topic }) if topic == name => {
                self.alter_topic(name, config)?;
                self.topic(name)
            }
            other => other,
        }
    }

    /// The topic of this name as it is, whatever its settings; if it is missing, it is created with
    /// these. [`ensure_topic`](Broker::ensure_topic) alters it instead.
    ///
    /// # Errors
    /// Those of [`create_topic`](Broker::create_topic).
    ///
    /// ```
    /// # use quipu::{Broker, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// broker.create_topic("orders", TopicConfig::new().partitions(8))?; // by an operator
    /// let orders = broker.topic_or_create("orders", TopicConfig::new().partitions(4))?;
    /// assert_eq!(orders.partition_count(), 8);
    /// # Ok(()) }
    /// ```
    pub fn topic_or_create(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        match self.topic(name) {
            Err(Error::UnknownTopic { .. }) => {}
            found => return found,
        }
        match self.create_topic(name, config) {
            // Another thread was faster.
            Err(Error::TopicExists { topic }) if topic == name => self.topic(name),
            created => created,
        }
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`Closed`](Error::Closed).
    pub fn topic(&self, name: &str) -> Result<Topic> {
        Ok(Topic::new(self.inner().clone(), self.inner().topic_state(name)?))
    }

    /// The partitions with known damage: those that the opening found damaged, and those where a
    /// reader has met damage since. The broker's internal topics are included, for example the one
    /// with the groups' commits.
    pub fn damaged(&self) -> Vec<TopicPartition> {
        let logs = self.inner().all_logs();
        let damaged = logs.iter().filter(|log| log.health().has_known_damage());
        damaged.map(|log| log.identity().topic_partition()).collect()
    }

    /// As [`Partition::damage`], also of an internal topic.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`UnknownPartition`](Error::UnknownPartition); those
    /// of [`Partition::damage`].
    pub fn damage(&self, topic: &str, partition: impl Into<PartitionId>) -> Result<Vec<DamagedRange>> {
        find_damage(&*self.inner().any_log(topic, partition.into())?)
    }

    /// As [`Partition::accept_loss`], also of an internal topic: after that, groups work again with
    /// those commits that could still be read.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`UnknownPartition`](Error::UnknownPartition); those
    /// of [`Partition::accept_loss`].
    pub fn accept_loss(
        &self,
        topic: &str,
        partition: impl Into<PartitionId>,
        ranges: &[DamagedRange],
    ) -> Result<Vec<(Offset, Offset)>> {
        give_up(&self.inner().any_log(topic, partition.into())?, ranges)
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Topic> {
        let states = self.inner().topic_states();
        states.into_iter().map(|state| Topic::new(self.inner().clone(), state)).collect()
    }
}

/// A topic of a broker. Clones are the same topic.
///
/// ```
/// # use quipu::{Broker, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let broker = Broker::in_memory()?;
/// let orders = broker.create_topic("orders", TopicConfig::new().partitions(2))?;
/// assert_eq!((orders.name().as_str(), orders.partition_count()), ("orders", 2));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Topic {
    broker: Arc<BrokerInner>,
    state: Arc<TopicState>,
}

impl Topic {
    pub(crate) fn new(broker: Arc<BrokerInner>, state: Arc<TopicState>) -> Self {
        Topic { broker, state }
    }

    /// # Errors
    /// `ForeignBroker`: it is not a topic of `broker`.
    #[inline]
    pub(crate) fn check_broker(&self, broker: &BrokerInner) -> Result<()> {
        broker.check_own(&self.broker, || format!("topic {}", self.name()))
    }

    pub(crate) fn state(&self) -> &Arc<TopicState> {
        &self.state
    }

    pub(crate) fn broker(&self) -> &Arc<BrokerInner> {
        &self.broker
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.state.name
    }

    /// Its identity. A topic that is deleted and created again under the same name has another one.
    ///
    /// ```
    /// # use quipu::{Broker, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let first = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.delete_topic("orders")?;
    /// let second = broker.create_topic("orders", TopicConfig::new())?;
    /// assert_ne!(first.id(), second.id());
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> TopicId {
        self.state.id
    }

    /// When it was created, by the broker's clock.
    pub fn created_at(&self) -> Timestamp {
        self.state.created_at
    }

    /// Its settings now.
    pub fn config(&self) -> TopicConfig {
        TopicConfig::clone(&self.state.settings())
    }

    /// How many partitions it has now. They can become more.
    pub fn partition_count(&self) -> u32 {
        self.state.log_count()
    }

    /// One of its partitions, by its number or its id.
    ///
    /// # Errors
    /// [`UnknownPartition`](Error::UnknownPartition); [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed).
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// let receipt = broker.producer().send(&orders, Record::new("42 EUR"))?.wait()?;
    /// assert_eq!(orders.partition(receipt.partition)?.id(), orders.partition(0)?.id());
    /// # Ok(()) }
    /// ```
    pub fn partition(&self, id: impl Into<PartitionId>) -> Result<Partition> {
        self.state.check()?;
        Ok(Partition::new(&self.broker, &self.state, &self.state.log(id.into())?))
    }

    /// All its partitions, by id.
    pub fn partitions(&self) -> Vec<Partition> {
        let partition = |log: &Arc<Log>| Partition::new(&self.broker, &self.state, log);
        self.state.logs().iter().map(partition).collect()
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.state.name).finish_non_exhaustive()
    }
}
