//! The broker's side of groups: its topics and their logs, and one internal topic.

use super::topic_state::offsets_log;
use super::{BrokerInner, TopicState};
use crate::config::{Cleanup, TopicConfig};
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::format::names::{OFFSETS_TOPIC, is_own_topic};
use crate::group::state::TopicInfo;
use crate::group::{Coordinator, GroupHost, Host};
use crate::log::Log;
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId};

impl Host for BrokerInner {
    fn ctx(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn topics(&self) -> Vec<TopicInfo> {
        let topics = self.maintenance.topics.read();
        let info = |state: &Arc<TopicState>| TopicInfo {
            name: state.name.clone(),
            id: state.id,
            partitions: state.log_count(),
        };
        topics.iter().filter(|state| !is_own_topic(state.name.as_str())).map(info).collect()
    }

    fn log(&self, topic: &TopicId, partition: PartitionId) -> Option<Arc<Log>> {
        let topics = self.maintenance.topics.read();
        let state = topics.iter().find(|state| state.id == *topic)?;
        state.logs().get(partition.get() as usize).cloned()
    }

    fn offsets_log(&self) -> Result<Arc<Log>> {
        self.check_open()?;
        if let Some(log) = self.existing_offsets_log() {
            return Ok(log);
        }
        match self.create_topic(OFFSETS_TOPIC, offsets_config()) {
            // Another thread was faster.
            Err(Error::TopicExists { .. }) => {}
            created => drop(created?),
        }
        self.existing_offsets_log().ok_or_else(|| Error::UnknownTopic { topic: OFFSETS_TOPIC.to_string() })
    }

    fn existing_offsets_log(&self) -> Option<Arc<Log>> {
        offsets_log(&self.maintenance.topics.read())
    }
}

impl GroupHost for BrokerInner {
    fn coordinator(&self) -> &Coordinator {
        &self.maintenance.groups
    }
}

impl BrokerInner {
    /// Topics were created, grew or were deleted.
    pub(crate) fn topics_changed(&self) {
        self.coordinator().topics_changed(self);
    }

    /// A topic was deleted. It is gone even if the groups' offsets of it cannot be deleted now.
    pub(crate) fn topic_deleted(&self) {
        self.topics_changed();
        // After that: now no group counts it among its own, and notes it again.
        let _ = self.coordinator().topics_deleted(self);
    }
}

/// The settings of the topic that offsets are committed to. Only the last commit of each partition
/// counts, and older ones are deleted after their segment has been sealed: the log is never more
/// than a few small segments larger than its contents.
pub(crate) fn offsets_config() -> TopicConfig {
    TopicConfig::new().cleanup(Cleanup::Compact).segment_bytes(16 << 20)
}
