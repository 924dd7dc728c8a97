//! A partition of a directory that is only read.

use std::fmt;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::records::Records;
use crate::stats::{PartitionStats, SegmentStats};
use crate::topic::Partition;
use crate::types::{Bounds, Offset, PartitionId, Start, Timestamp, TopicName, TopicPartition};

/// A partition of a [`ReadOnlyTopic`](crate::ReadOnlyTopic). A cheap handle, usable from any thread.
#[derive(Clone)]
pub struct ReadOnlyPartition {
    partition: Partition,
}

impl ReadOnlyPartition {
    pub(super) fn new(partition: Partition) -> Self {
        ReadOnlyPartition { partition }
    }

    /// The name of its topic.
    pub fn topic(&self) -> &TopicName {
        self.partition.topic()
    }

    /// Its number in the topic.
    pub fn id(&self) -> PartitionId {
        self.partition.id()
    }

    /// Its first offset and its ends. The log end is the visible end, because nothing after that is
    /// seen here; the durable end may be an earlier one of the owner.
    ///
    /// # Errors
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or why nothing of the
    /// partition can be read.
    pub fn bounds(&self) -> Result<Bounds> {
        self.partition.bounds()
    }

    /// Its log epoch: see [`Partition::epoch`](crate::Partition::epoch).
    pub fn epoch(&self) -> u32 {
        self.partition.epoch()
    }

    /// Visible records from a place on: see [`Partition::read`](crate::Partition::read).
    ///
    /// # Errors
    /// As [`Partition::read`](crate::Partition::read).
    pub fn read(&self, from: Start, max_bytes: usize) -> Result<Records> {
        self.partition.read(from, max_bytes)
    }

    /// The newest `n` visible records: see [`Partition::last_n`](crate::Partition::last_n).
    ///
    /// # Errors
    /// As [`Partition::last_n`](crate::Partition::last_n).
    pub fn last_n(&self, n: usize) -> Result<Records> {
        self.partition.last_n(n)
    }

    /// The first visible record at or after a time: see
    /// [`Partition::offset_for_time`](crate::Partition::offset_for_time).
    ///
    /// # Errors
    /// As [`Partition::offset_for_time`](crate::Partition::offset_for_time).
    pub fn offset_for_time(&self, time: Timestamp) -> Result<Option<(Offset, Timestamp)>> {
        self.partition.offset_for_time(time)
    }

    /// The first of the visible records with the greatest timestamp: see
    /// [`Partition::max_timestamp`](crate::Partition::max_timestamp).
    ///
    /// # Errors
    /// As [`Partition::max_timestamp`](crate::Partition::max_timestamp).
    pub fn max_timestamp(&self) -> Result<Option<(Offset, Timestamp)>> {
        self.partition.max_timestamp()
    }

    /// The partition in numbers. What only the owner counts is 0.
    pub fn stats(&self) -> PartitionStats {
        self.partition.stats()
    }

    /// Its segments in numbers, oldest first.
    pub fn segments(&self) -> Vec<SegmentStats> {
        self.partition.segments()
    }
}

impl From<&ReadOnlyPartition> for TopicPartition {
    fn from(partition: &ReadOnlyPartition) -> Self {
        TopicPartition::from(&partition.partition)
    }
}

impl fmt::Debug for ReadOnlyPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyPartition")
            .field("topic", self.topic())
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
