//! Which partition of which topic: what every batch, error and receipt of a log names.

use crate::error::Error;
use crate::format::batch::{Secret, Seed};
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId, TopicName, TopicPartition};

/// Which partition of which topic: what every batch, error and receipt of a log names.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) topic: TopicName,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    /// As the manifest says it.
    pub(crate) secret: Secret,
}

impl Identity {
    /// The seed of the partition's batches.
    pub(crate) fn seed(&self) -> Seed {
        Seed::new(&self.secret, &self.topic_id, self.partition)
    }

    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    /// No file of the partition can be written anew any more.
    pub(crate) fn generations_exhausted(&self) -> Error {
        Error::GenerationsExhausted { topic: self.topic.clone(), partition: self.partition }
    }

    /// The error of an append to a partition that a failed write or sync has poisoned.
    pub(crate) fn poisoned(&self, cause: &Arc<Error>) -> Error {
        Error::Poisoned { topic: self.topic.clone(), partition: self.partition, cause: cause.clone() }
    }
}
