//! Topics and partitions as a group sees them.

use super::pattern::Pattern;
use crate::types::{PartitionId, TopicId, TopicName, TopicPartition};

/// A topic as a group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    pub(crate) name: TopicName,
    pub(crate) id: TopicId,
    pub(crate) partitions: u32,
}

/// Where a group looks up the topics that its members subscribe to.
pub(crate) trait TopicLookup {
    /// The topic of this name.
    fn topic(&self, name: &str) -> Option<TopicInfo>;

    /// The topics that match a glob.
    fn matching(&self, glob: &Pattern) -> Vec<TopicInfo>;
}

/// One partition of one topic, which is that topic forever: one that is created again under its
/// name is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Share {
    pub(crate) topic: TopicName,
    pub(crate) id: TopicId,
    pub(crate) partition: PartitionId,
}

impl Share {
    /// Its name and number.
    pub(crate) fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }
}
