//! How does one hold a topic, and one of its partitions? Cheap handles, usable from any thread.

use crate::broker::{BrokerInner, TopicState};
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::log::Log;
use crate::reader::read_once;
use crate::records::Records;
use crate::stats::PartitionStats;
use crate::sync::Arc;
use crate::types::{Bounds, PartitionId, Start, Timestamp, TopicName};

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

    pub(crate) fn state(&self) -> &Arc<TopicState> {
        &self.state
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.state.name
    }

    /// When it was created, by the broker's clock.
    pub fn created_at(&self) -> Timestamp {
        self.state.created_at
    }

    /// Its settings now.
    pub fn config(&self) -> TopicConfig {
        TopicConfig::clone(&self.state.config())
    }

    /// How many partitions it has now. They can become more.
    pub fn partition_count(&self) -> u32 {
        self.state.log_count()
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// [`UnknownPartition`](Error::UnknownPartition); [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed).
    pub fn partition(&self, id: u32) -> Result<Partition> {
        self.state.check()?;
        let logs = self.state.logs();
        match logs.get(id as usize) {
            Some(log) => {
                Ok(Partition { broker: self.broker.clone(), state: self.state.clone(), log: log.clone() })
            }
            None => Err(Error::UnknownPartition {
                topic: self.state.name.clone(),
                partition: id,
                count: self.state.log_count(),
            }),
        }
    }

    /// All its partitions, by id.
    pub fn partitions(&self) -> Vec<Partition> {
        let partition = |log: &Arc<Log>| Partition {
            broker: self.broker.clone(),
            state: self.state.clone(),
            log: log.clone(),
        };
        self.state.logs().iter().map(partition).collect()
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.state.name).finish_non_exhaustive()
    }
}

/// One partition of a topic: a handle without a position of its own.
#[derive(Clone)]
pub struct Partition {
    /// Keeps the broker open.
    #[allow(dead_code, reason = "held for its drop")]
    broker: Arc<BrokerInner>,
    state: Arc<TopicState>,
    log: Arc<Log>,
}

impl Partition {
    pub(crate) fn state(&self) -> &Arc<TopicState> {
        &self.state
    }

    #[cfg(test)]
    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The topic's name.
    pub fn topic(&self) -> &TopicName {
        &self.state.name
    }

    /// Its number within the topic.
    pub fn id(&self) -> PartitionId {
        self.log.partition()
    }

    /// Where it begins and ends.
    ///
    /// # Errors
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or the error that damaged all of it.
    pub fn bounds(&self) -> Result<Bounds> {
        self.state.check()?;
        self.log.check_readable()?;
        Ok(self.log.bounds())
    }

    /// Its log epoch: how often its end was cut off so far.
    pub fn epoch(&self) -> u32 {
        self.log.epoch()
    }

    /// Reads the records from a place on, about `max_bytes` of them, at least one batch. At the visible end there are
    /// none, and that is no error; in a gap reading begins behind it.
    ///
    /// # Errors
    /// [`OffsetOutOfRange`](Error::OffsetOutOfRange) below the log start and above the visible end;
    /// [`Corrupt`](Error::Corrupt) if the first batch is damaged; [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed), or what the medium says.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// broker.producer().send(&topic, Record::new("first"))?.wait()?;
    /// let records = topic.partition(0)?.read(Start::Beginning, 1 << 20)?;
    /// assert_eq!(records.iter().next().unwrap().value(), Some(&b"first"[..]));
    /// # Ok(()) }
    /// ```
    pub fn read(&self, from: Start, max_bytes: usize) -> Result<Records> {
        self.state.check()?;
        read_once(&self.log, from, max_bytes)
    }

    /// Takes the partition back into service after a failed write or sync ([`Poisoned`](Error::Poisoned)): what was
    /// visible is written and synced again, what was not is cut off, and the log epoch rises. Fine if nothing is wrong.
    ///
    /// # Errors
    /// The medium refuses again, and the partition stays poisoned; [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed).
    pub fn reopen(&self) -> Result<()> {
        self.state.check()?;
        self.log.reopen()
    }

    /// The partition in numbers.
    pub fn stats(&self) -> PartitionStats {
        self.log.stats()
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("topic", &self.state.name)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
