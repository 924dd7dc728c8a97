//! The table of committed offsets: what the records of the log of offsets add up to.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::changes::{Beginning, OffsetChange, StoredOffset, read};
use super::state::Pattern;
use crate::error::Result;
use crate::format::body;
use crate::log::Log;
use crate::log::cursor::Cursor;
use crate::sync::Arc;
use crate::types::{GroupId, Offset, PartitionId, TopicId};

#[derive(Default)]
pub(super) struct Table {
    pub(super) groups: HashMap<GroupId, GroupOffsets>,
    /// The groups that have state of a topic.
    pub(super) by_topic: HashMap<TopicId, BTreeSet<GroupId>>,
}

/// The state of one group. A value's place in the log decides which of two is newer.
#[derive(Default)]
pub(super) struct GroupOffsets {
    pub(super) commits: BTreeMap<(TopicId, PartitionId), (Offset, StoredOffset)>,
    pub(super) joined: HashMap<TopicId, u32>,
    /// Each glob: a topic that matches one and has not been joined came later.
    pub(super) globs: Vec<Pattern>,
    pub(super) begins: BTreeMap<(TopicId, PartitionId), Beginning>,
}

impl GroupOffsets {
    /// Whether there is any state of a topic.
    pub(super) fn knows(&self, topic: &TopicId) -> bool {
        self.joined.contains_key(topic)
            || self.commits.range(partitions_of(topic)).next().is_some()
            || self.begins.range(partitions_of(topic)).next().is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.joined.is_empty() && self.globs.is_empty() && self.begins.is_empty()
    }
}

/// Reads the visible records of the log into a table.
pub(super) fn read_log(log: &Arc<Log>) -> Result<Table> {
    let mut cursor = Cursor::new(log.clone(), log.log_start());
    let mut table = Table::default();
    while let Some(batch) = cursor.next_batch()? {
        let records = body::RawRecords::new(batch.records.as_slice(), batch.header.count);
        for raw in records.map_while(|raw| raw.ok()) {
            let at = batch.header.base_offset.plus(u64::from(raw.offset_delta));
            if let Some((group, change)) = raw.key.and_then(|key| read(key, raw.value)) {
                table.apply(&group, at, change);
            }
        }
    }
    Ok(table)
}

/// The keys of all partitions of a topic.
pub(super) fn partitions_of(topic: &TopicId) -> RangeInclusive<(TopicId, PartitionId)> {
    (*topic, PartitionId::new(0))..=(*topic, PartitionId::new(u32::MAX))
}

impl Table {
    pub(super) fn apply(&mut self, group: &GroupId, at: Offset, change: OffsetChange) {
        let progress = self.groups.entry(group.clone()).or_default();
        match change {
            OffsetChange::Commit(topic, partition, committed) => {
                match progress.commits.entry((topic, partition)) {
                    Entry::Occupied(mut known) if known.get().0 <= at => {
                        known.insert((at, committed));
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(new) => {
                        new.insert((at, committed));
                        self.list(group, topic);
                    }
                }
            }
            OffsetChange::Forget(topic, partition) => {
                if progress.commits.get(&(topic, partition)).is_some_and(|known| known.0 <= at) {
                    progress.commits.remove(&(topic, partition));
                }
                self.unlist_if_unknown(group, &topic);
            }
            OffsetChange::Joined(topic, partitions) => {
                progress.joined.insert(topic, partitions);
                self.list(group, topic);
            }
            OffsetChange::Part(topic) => {
                progress.joined.remove(&topic);
                self.unlist_if_unknown(group, &topic);
            }
            OffsetChange::Subscribed(glob) => {
                if !progress.globs.contains(&glob) {
                    progress.globs.push(glob);
                }
            }
            OffsetChange::Unsubscribed(glob) => {
                progress.globs.retain(|other| *other != glob);
                self.forget_if_empty(group);
            }
            OffsetChange::Began(topic, partition, began) => {
                progress.begins.insert((topic, partition), began);
                self.list(group, topic);
            }
            OffsetChange::ForgetBeginning(topic, partition) => {
                progress.begins.remove(&(topic, partition));
                self.unlist_if_unknown(group, &topic);
            }
        }
    }

    /// A group has state of a topic.
    fn list(&mut self, group: &GroupId, topic: TopicId) {
        self.by_topic.entry(topic).or_default().insert(group.clone());
    }

    /// A group may have no state of a topic any more.
    fn unlist_if_unknown(&mut self, group: &GroupId, topic: &TopicId) {
        if self.groups.get(group).is_some_and(|progress| progress.knows(topic)) {
            return;
        }
        if let Some(groups) = self.by_topic.get_mut(topic) {
            groups.remove(group);
            if groups.is_empty() {
                self.by_topic.remove(topic);
            }
        }
        self.forget_if_empty(group);
    }

    fn forget_if_empty(&mut self, group: &GroupId) {
        if self.groups.get(group).is_some_and(GroupOffsets::is_empty) {
            self.groups.remove(group);
        }
    }
}
