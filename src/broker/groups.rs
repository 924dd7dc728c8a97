//! The broker's side of groups: its topics and their logs, and one internal topic.

use super::{BrokerInner, TopicState};
use crate::config::{Cleanup, TopicConfig};
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::format::names::OFFSETS_TOPIC;
use crate::group::state::{Pattern, TopicInfo, TopicLookup};
use crate::group::{Coordinator, GroupHost, Host};
use crate::log::Log;
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId, TopicName};

impl Host for BrokerInner {
    fn ctx(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn log(&self, topic: &TopicId, partition: PartitionId) -> Option<Arc<Log>> {
        self.maintenance.topics.read().log(topic, partition)
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
        self.maintenance.topics.read().offsets_log()
    }
}

impl TopicLookup for BrokerInner {
    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.maintenance.topics.read().get(name).map(|state| info(state))
    }

    fn matching(&self, glob: &Pattern) -> Vec<TopicInfo> {
        self.maintenance.topics.read().matching(glob).map(|state| info(state)).collect()
    }
}

fn info(state: &TopicState) -> TopicInfo {
    TopicInfo { name: state.name.clone(), id: state.id, partitions: state.log_count() }
}

impl GroupHost for BrokerInner {
    fn coordinator(&self) -> &Coordinator {
        &self.maintenance.groups
    }
}

impl BrokerInner {
    /// These topics were created, or grew.
    pub(crate) fn topics_changed(&self, topics: &[TopicName]) {
        self.coordinator().topics_changed(self, topics);
    }

    /// A topic was deleted. It is gone even if the groups' offsets of it cannot be deleted now.
    pub(crate) fn topic_deleted(&self, topic: &TopicState) {
        self.topics_changed(std::slice::from_ref(&topic.name));
        // After that: now no group counts it among its own, and notes it again.
        let _ = self.coordinator().topic_deleted(self, topic.id);
    }
}

/// The settings of the topic that offsets are committed to. Only the last commit of each partition
/// counts, and older ones are deleted after their segment has been sealed: the log is never more
/// than a few small segments larger than its contents.
pub(crate) fn offsets_config() -> TopicConfig {
    TopicConfig::new().cleanup(Cleanup::Compact).segment_bytes(16 << 20)
}
