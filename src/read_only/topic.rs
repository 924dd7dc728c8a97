//! A topic of a directory that is only read.

use std::fmt;

use super::partition::ReadOnlyPartition;
use super::stream::ReadOnlyStream;
use crate::config::TopicConfig;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::record::IntoBytes;
use crate::topic::Topic;
use crate::types::{PartitionId, Timestamp, TopicId, TopicName};

/// A topic of a [`ReadOnlyBroker`](crate::ReadOnlyBroker). A cheap handle, usable from any thread.
#[derive(Clone)]
pub struct ReadOnlyTopic {
    topic: Topic,
}

impl ReadOnlyTopic {
    pub(super) fn new(topic: Topic) -> Self {
        ReadOnlyTopic { topic }
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        self.topic.name()
    }

    /// Its identity: a topic that is created again under this name has another one.
    pub fn id(&self) -> TopicId {
        self.topic.id()
    }

    /// When it was created, by the owner's wall clock.
    pub fn created_at(&self) -> Timestamp {
        self.topic.created_at()
    }

    /// Its settings.
    pub fn config(&self) -> TopicConfig {
        self.topic.config()
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        self.topic.partition_count()
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// [`UnknownPartition`](Error::UnknownPartition), [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed).
    pub fn partition(&self, id: impl Into<PartitionId>) -> Result<ReadOnlyPartition> {
        self.topic.partition(id).map(ReadOnlyPartition::new)
    }

    /// All its partitions, by number.
    pub fn partitions(&self) -> Vec<ReadOnlyPartition> {
        self.topic.partitions().into_iter().map(ReadOnlyPartition::new).collect()
    }

    /// The stream of a key, which has events or not: see [`Topic::stream`](crate::Topic::stream).
    ///
    /// # Errors
    /// As [`Topic::stream`](crate::Topic::stream).
    pub fn stream<'k>(&self, key: impl IntoBytes<'k>) -> Result<ReadOnlyStream> {
        Ok(ReadOnlyStream::new(self.topic.clone(), self.topic.stream(key)?))
    }
}

impl fmt::Debug for ReadOnlyTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyTopic").field("name", self.name()).finish_non_exhaustive()
    }
}
