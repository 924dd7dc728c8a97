//! The identity of a partition: the topic and partition that every batch, error and receipt of its
//! log refers to.

use crate::error::Error;
use crate::format::batch::{Secret, Seed};
use crate::format::key_hash::KeyHasher;
use crate::sync::{Arc, OnceLock};
use crate::types::{PartitionId, TopicId, TopicName, TopicPartition};

/// The topic and the partition of a log, which its batches, errors and receipts refer to, and the
/// partition's secret.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) topic: TopicName,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    /// The random bytes of the partition, from its manifest. Not known of a partition without files
    /// that another process owns.
    pub(crate) secret: Secret,
    /// The random bytes that are known for good, and the seed that follows from them.
    pub(crate) learnt: OnceLock<(Secret, Seed)>,
}

impl Identity {
    /// The random bytes of the partition.
    pub(crate) fn secret(&self) -> Secret {
        self.learnt.get().map_or(self.secret, |(secret, _)| *secret)
    }

    /// Takes the random bytes of the partition, once.
    pub(crate) fn learn(&self, secret: Secret) {
        let _ = self.learnt.set((secret, Seed::new(&secret, &self.topic_id, self.partition)));
    }

    /// The seed of the partition's batches.
    #[inline]
    pub(crate) fn seed(&self) -> Seed {
        match self.learnt.get() {
            Some((_, seed)) => *seed,
            None => Seed::new(&self.secret, &self.topic_id, self.partition),
        }
    }

    /// The hash function of the partition's keys.
    pub(crate) fn key_hasher(&self) -> KeyHasher {
        KeyHasher::new(&self.secret())
    }

    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    /// The error of a partition whose generation numbers are used up: none of its files can be
    /// rewritten.
    pub(crate) fn generations_exhausted(&self) -> Error {
        Error::GenerationsExhausted { topic: self.topic.clone(), partition: self.partition }
    }

    /// The error of a compaction or an erasure that stopped because the log's segments have
    /// changed.
    pub(crate) fn compaction_aborted(&self) -> Error {
        Error::CompactionAborted { topic: self.topic.clone(), partition: self.partition }
    }

    /// The error of an append to a partition that a failed write or sync has poisoned.
    pub(crate) fn poisoned(&self, cause: &Arc<Error>) -> Error {
        Error::Poisoned { topic: self.topic.clone(), partition: self.partition, cause: cause.clone() }
    }
}
