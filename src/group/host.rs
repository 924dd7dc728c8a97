//! The functions of the broker that groups need.

use super::state::TopicLookup;
use crate::engine::Context;
use crate::error::Result;
use crate::log::Log;
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId};

/// The functions of the broker that groups need.
pub(crate) trait Host: TopicLookup + Send + Sync {
    fn ctx(&self) -> &Arc<Context>;

    /// The log of a partition, if that is (still) there.
    fn log(&self, topic: &TopicId, partition: PartitionId) -> Option<Arc<Log>>;

    /// The log that offsets are committed to, created if it is missing.
    ///
    /// # Errors
    /// Those of creating a topic.
    fn offsets_log(&self) -> Result<Arc<Log>>;

    /// The same, if it is there.
    fn existing_offsets_log(&self) -> Option<Arc<Log>>;
}
