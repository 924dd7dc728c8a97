//! One change of the committed offsets, and its record in the internal log.

use super::state::Pattern;
use crate::engine::Context;
use crate::format::offsets::{BeganValue, CommitValue, Key, decode_partitions, encode_partitions};
use crate::record::Record;
use crate::segment::builder::{BatchBuilder, Measured};
use crate::sync::Arc;
use crate::types::{GroupId, Offset, PartitionId, Timestamp, TopicId};

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredOffset {
    /// The next offset to read.
    pub(crate) offset: Offset,
    /// The log epoch in which that was true.
    pub(crate) epoch: u32,
    pub(crate) at: Timestamp,
    pub(crate) metadata: Arc<str>,
}

/// Where a group has started in a partition in which it has committed nothing yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub(crate) offset: Offset,
    /// The log epoch in which that was true.
    pub(crate) epoch: u32,
    pub(crate) at: Timestamp,
}

/// One change of the table.
#[derive(Clone, Debug)]
pub(crate) enum OffsetChange {
    Commit(TopicId, PartitionId, StoredOffset),
    Forget(TopicId, PartitionId),
    /// How many partitions a topic had when the group first subscribed to it.
    Joined(TopicId, u32),
    Part(TopicId),
    /// The group has subscribed to all topics that match.
    Subscribed(Pattern),
    Unsubscribed(Pattern),
    Began(TopicId, PartitionId, Beginning),
    ForgetBeginning(TopicId, PartitionId),
}

/// A batch of the offsets log, of now.
pub(crate) fn new_batch(ctx: &Context) -> BatchBuilder {
    BatchBuilder::new(ctx, 0, ctx.clock.now().clamp(Timestamp::default(), Timestamp::MAX))
}

/// Adds the records of changes, as they go into the log.
pub(crate) fn add_to(builder: &mut BatchBuilder, group: &GroupId, changes: &[OffsetChange]) {
    let now = builder.base_timestamp();
    for change in changes {
        let group = group.as_str();
        let record = match change {
            OffsetChange::Commit(topic, partition, committed) => {
                let StoredOffset { offset, epoch, at, metadata } = committed;
                let key = Key::Commit { group, topic: *topic, partition: *partition };
                let value = CommitValue { offset: *offset, epoch: *epoch, at: *at, metadata };
                Record::new(value.encode()).key(key.encode())
            }
            OffsetChange::Forget(topic, partition) => {
                Record::tombstone(Key::Commit { group, topic: *topic, partition: *partition }.encode())
            }
            OffsetChange::Joined(topic, partitions) => {
                Record::new(encode_partitions(*partitions)).key(Key::Joined { group, topic: *topic }.encode())
            }
            OffsetChange::Part(topic) => Record::tombstone(Key::Joined { group, topic: *topic }.encode()),
            OffsetChange::Subscribed(Pattern(glob)) => {
                Record::new("").key(Key::Glob { group, glob }.encode())
            }
            OffsetChange::Unsubscribed(Pattern(glob)) => {
                Record::tombstone(Key::Glob { group, glob }.encode())
            }
            OffsetChange::Began(topic, partition, began) => {
                let Beginning { offset, epoch, at } = began.clone();
                let key = Key::Began { group, topic: *topic, partition: *partition };
                Record::new(BeganValue { offset, epoch, at }.encode()).key(key.encode())
            }
            OffsetChange::ForgetBeginning(topic, partition) => {
                Record::tombstone(Key::Began { group, topic: *topic, partition: *partition }.encode())
            }
        };
        builder.push(&Measured::new(&record), now);
    }
}

/// Decodes a record. `None` if it is of another kind, or of a later version: the log passed its
/// checksums.
pub(super) fn read(key: &[u8], value: Option<&[u8]>) -> Option<(GroupId, OffsetChange)> {
    let key = Key::decode(key).ok()??;
    Some(match (key, value) {
        (Key::Commit { group, topic, partition }, Some(value)) => {
            let CommitValue { offset, epoch, at, metadata } = CommitValue::decode(value).ok()?;
            let committed = StoredOffset { offset, epoch, at, metadata: metadata.into() };
            (GroupId::new(group).ok()?, OffsetChange::Commit(topic, partition, committed))
        }
        (Key::Commit { group, topic, partition }, None) => {
            (GroupId::new(group).ok()?, OffsetChange::Forget(topic, partition))
        }
        (Key::Joined { group, topic }, Some(value)) => {
            (GroupId::new(group).ok()?, OffsetChange::Joined(topic, decode_partitions(value).ok()?))
        }
        (Key::Joined { group, topic }, None) => (GroupId::new(group).ok()?, OffsetChange::Part(topic)),
        (Key::Glob { group, glob }, value) => {
            let glob = Pattern(glob.to_string());
            let change = if value.is_some() {
                OffsetChange::Subscribed(glob)
            } else {
                OffsetChange::Unsubscribed(glob)
            };
            (GroupId::new(group).ok()?, change)
        }
        (Key::Began { group, topic, partition }, Some(value)) => {
            let BeganValue { offset, epoch, at } = BeganValue::decode(value).ok()?;
            let began = Beginning { offset, epoch, at };
            (GroupId::new(group).ok()?, OffsetChange::Began(topic, partition, began))
        }
        (Key::Began { group, topic, partition }, None) => {
            (GroupId::new(group).ok()?, OffsetChange::ForgetBeginning(topic, partition))
        }
    })
}
