//! Which topics are served? A table by name and by identity, so that no look-up costs more because
//! there are many topics.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::topic_state::TopicState;
use crate::format::names::{OFFSETS_TOPIC, is_own_topic};
use crate::group::state::Pattern;
use crate::log::Log;
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId, TopicName};

/// The topics that are served, those of the broker's own among them.
#[derive(Default)]
pub(super) struct Topics {
    by_name: BTreeMap<TopicName, Arc<TopicState>>,
    by_id: HashMap<TopicId, Arc<TopicState>>,
}

impl Topics {
    pub(super) fn new(states: Vec<Arc<TopicState>>) -> Self {
        let mut topics = Topics::default();
        states.into_iter().for_each(|state| topics.insert(state));
        topics
    }

    pub(super) fn insert(&mut self, state: Arc<TopicState>) {
        self.by_id.insert(state.id, state.clone());
        self.by_name.insert(state.name.clone(), state);
    }

    pub(super) fn remove(&mut self, state: &TopicState) {
        self.by_id.remove(&state.id);
        self.by_name.remove(state.name.as_str());
    }

    /// The topic of this name, also one of the broker's own.
    pub(super) fn any(&self, name: &str) -> Option<&Arc<TopicState>> {
        self.by_name.get(name)
    }

    /// The topic of this name, of those that the user sees.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<TopicState>> {
        self.any(name).filter(|_| !is_own_topic(name))
    }

    pub(super) fn by_id(&self, id: &TopicId) -> Option<&Arc<TopicState>> {
        self.by_id.get(id)
    }

    /// The log of a partition.
    pub(super) fn log(&self, id: &TopicId, partition: PartitionId) -> Option<Arc<Log>> {
        self.by_id(id)?.logs().get(partition.get() as usize).cloned()
    }

    /// The log that offsets are committed to, if there is one.
    pub(super) fn offsets_log(&self) -> Option<Arc<Log>> {
        self.any(OFFSETS_TOPIC)?.logs().first().cloned()
    }

    /// All topics, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<TopicState>> {
        self.by_name.values()
    }

    /// The topics that the user sees, by name.
    pub(super) fn of_user(&self) -> impl Iterator<Item = &Arc<TopicState>> {
        self.iter().filter(|state| !is_own_topic(state.name.as_str()))
    }

    /// The topics that the user sees and that match a glob, by name. Looks only at the names that
    /// begin like the glob.
    pub(super) fn matching(&self, glob: &Pattern) -> impl Iterator<Item = &Arc<TopicState>> {
        let prefix = glob.literal_prefix();
        let from_prefix = (Bound::Included(prefix), Bound::Unbounded);
        let candidates = self.by_name.range::<str, _>(from_prefix).map(|(_, state)| state);
        let candidates = candidates.take_while(move |state| state.name.as_str().starts_with(prefix));
        candidates.filter(|state| {
            let name = state.name.as_str();
            !is_own_topic(name) && glob.matches(name)
        })
    }

    /// A copy of the list, for a caller that must not hold the lock.
    pub(super) fn to_vec(&self) -> Vec<Arc<TopicState>> {
        self.iter().cloned().collect()
    }
}
