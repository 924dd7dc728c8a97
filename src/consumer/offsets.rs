//! The offsets up to which a consumer has processed its partitions, to be committed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::engine::Identity;
use crate::group::state::Stamp;
use crate::group::{Commit, METADATA_MAX};
use crate::records::{ConsumedRecord, OwnedRecord, Records};
use crate::sync::Arc;
use crate::types::{Offset, Position, TopicPartition};

/// Processed offsets, which [`Consumer::commit`](crate::Consumer::commit) takes.
///
/// Made from the records that a poll returned, or from one of them: then that record and those
/// before it in its partition count as processed. The stored offset per partition is that of the
/// *next* record to read. It remembers under which assignment the records were polled: a commit
/// that comes after its partitions have gone to another member is
/// [rejected](crate::Error::CommitRejected).
///
/// ```
/// use std::time::Duration;
/// use quipu::{Broker, Offsets, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let orders = broker.create_topic("orders", TopicConfig::new())?;
/// # broker.producer().send_all(&orders, ["a", "b", "c"].map(Record::new))?.wait()?;
/// let mut consumer = broker.consumer("billing").subscribe(&["orders"])?;
/// let records = consumer.poll(Duration::from_millis(200))?;
///
/// let mut done = Offsets::new();
/// for record in records.iter().take(2) {
///     done.add(&record); // processed
/// }
/// consumer.commit(done)?;
/// assert_eq!(consumer.committed("orders", 0)?.unwrap().offset, 2);
/// # Ok(()) }
/// ```
///
/// It can be collected from records, for example from those that several workers are done with, in
/// any order: of each partition the highest offset counts.
///
/// ```
/// # use std::time::Duration;
/// # use quipu::{Broker, Offsets, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let orders = broker.create_topic("orders", TopicConfig::new())?;
/// # broker.producer().send_all(&orders, ["a", "b", "c"].map(Record::new))?.wait()?;
/// # let mut consumer = broker.consumer("billing").subscribe("orders")?;
/// # let records = consumer.poll(Duration::from_millis(200))?;
/// let done: Offsets = records.iter().rev().collect();
/// consumer.commit(done)?;
/// assert_eq!(consumer.committed("orders", 0)?.unwrap().offset, 3);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    partitions: BTreeMap<TopicPartition, Done>,
}

/// How far one partition is done.
#[derive(Clone, Debug)]
struct Done {
    /// The log that it was read from; `None` if only the topic's name is known.
    source: Option<Arc<Identity>>,
    next: Offset,
    epoch: u32,
    stamp: Option<Stamp>,
    metadata: Arc<str>,
}

impl Offsets {
    /// The longest [text](Offsets::metadata) beside an offset, in bytes: 4096, Kafka's default of
    /// `offset.metadata.max.bytes`.
    pub const MAX_METADATA_BYTES: usize = METADATA_MAX;

    /// Nothing is done.
    pub fn new() -> Self {
        Offsets::default()
    }

    /// Whether it names no partition.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Adds processed offsets; if both have a partition, the one that was added last counts.
    pub fn add(&mut self, done: impl IntoOffsets) -> &mut Self {
        self.partitions.extend(done.into().partitions);
        self
    }

    /// Stores a text beside every offset added so far, which
    /// [`Group::describe`](crate::Group::describe) returns. It has at most
    /// [`MAX_METADATA_BYTES`](Offsets::MAX_METADATA_BYTES); with a longer one the whole commit is
    /// [rejected](crate::Error::CommitRejected), as
    /// [`MetadataTooLarge`](crate::RejectReason::MetadataTooLarge).
    pub fn metadata(&mut self, metadata: &str) -> &mut Self {
        let metadata: Arc<str> = Arc::from(metadata);
        for done in self.partitions.values_mut() {
            done.metadata = metadata.clone();
        }
        self
    }

    /// Stores every offset also as its own metadata. If a commit is set back later, that still has
    /// the offset that was processed.
    pub(crate) fn note_themselves(&mut self) -> &mut Self {
        for done in self.partitions.values_mut() {
            done.metadata = done.next.to_string().into();
        }
        self
    }

    /// The next offset to read, per partition.
    pub fn positions(&self) -> Vec<Position> {
        let position = |(of, done): (&TopicPartition, &Done)| Position {
            topic: of.topic.clone(),
            partition: of.partition,
            offset: done.next,
            epoch: done.epoch,
        };
        self.partitions.iter().map(position).collect()
    }

    /// Adds the next offset to read of a partition, read from `source` under this stamp.
    pub(super) fn add_position(&mut self, position: &Position, source: Option<Arc<Identity>>, stamp: Stamp) {
        let done = Done {
            source,
            next: position.offset,
            epoch: position.epoch,
            stamp: polled(stamp),
            metadata: Arc::from(""),
        };
        self.partitions.insert(position.topic_partition(), done);
    }

    pub(crate) fn into_commits(self) -> Vec<Commit> {
        let commit = |(TopicPartition { topic, partition }, done): (TopicPartition, Done)| Commit {
            topic,
            source: done.source,
            partition,
            next: done.next,
            epoch: done.epoch,
            stamp: done.stamp,
            metadata: done.metadata,
        };
        self.partitions.into_iter().map(commit).collect()
    }
}

/// The types that [`Consumer::commit`](crate::Consumer::commit) takes: records, one or all of a
/// poll, and [`Offsets`], each owned or borrowed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name processed records",
    label = "expected the records that are processed, one of them, or `Offsets`",
    note = "all records of a poll: write `commit(&records)`",
    note = "the records up to this one in its partition: write `commit(&record)`",
    note = "several records: collect them first, `records.iter().collect::<Offsets>()`"
)]
pub trait IntoOffsets: Into<Offsets> {}

impl IntoOffsets for Offsets {}
impl IntoOffsets for &Offsets {}
impl IntoOffsets for &mut Offsets {}
impl IntoOffsets for Records {}
impl IntoOffsets for &Records {}
impl IntoOffsets for ConsumedRecord<'_> {}
impl IntoOffsets for &ConsumedRecord<'_> {}
impl IntoOffsets for OwnedRecord {}
impl IntoOffsets for &OwnedRecord {}

/// Of each partition the highest offset counts; of different log epochs, that of the latest epoch.
impl<D: IntoOffsets> Extend<D> for Offsets {
    fn extend<I: IntoIterator<Item = D>>(&mut self, done: I) {
        for (of, done) in done.into_iter().flat_map(|done| done.into().partitions) {
            match self.partitions.entry(of) {
                Entry::Vacant(entry) => drop(entry.insert(done)),
                Entry::Occupied(mut entry) => {
                    let known = entry.get_mut();
                    if (known.epoch, known.next) < (done.epoch, done.next) {
                        *known = done;
                    }
                }
            }
        }
    }
}

/// As [`extend`](Extend::extend): the highest offset of each partition.
impl<D: IntoOffsets> FromIterator<D> for Offsets {
    fn from_iter<I: IntoIterator<Item = D>>(done: I) -> Self {
        let mut offsets = Offsets::new();
        offsets.extend(done);
        offsets
    }
}

/// An offset that was read without a group has no stamp of its own, so that of the committer
/// counts.
fn polled(stamp: Stamp) -> Option<Stamp> {
    (stamp != Stamp::default()).then_some(stamp)
}

/// All of them are done.
impl From<&Records> for Offsets {
    fn from(records: &Records) -> Self {
        let mut offsets = Offsets::new();
        for end in records.ends() {
            let done = Done {
                source: Some(end.source.clone()),
                next: end.next,
                epoch: end.epoch,
                stamp: polled(end.stamp),
                metadata: Arc::from(""),
            };
            offsets.partitions.insert(end.source.topic_partition(), done);
        }
        offsets
    }
}

/// It and the records before it in its partition are processed.
impl From<&ConsumedRecord<'_>> for Offsets {
    fn from(record: &ConsumedRecord<'_>) -> Self {
        let next = record.position().next();
        let done = Done {
            source: Some(record.source().clone()),
            next: next.offset,
            epoch: next.epoch,
            stamp: polled(record.stamp()),
            metadata: Arc::from(""),
        };
        Offsets { partitions: BTreeMap::from([(next.topic_partition(), done)]) }
    }
}

/// It and the records before it in its partition are processed.
impl From<&OwnedRecord> for Offsets {
    fn from(record: &OwnedRecord) -> Self {
        Offsets::from(&record.as_record())
    }
}

impl From<Records> for Offsets {
    fn from(records: Records) -> Self {
        Offsets::from(&records)
    }
}

impl From<ConsumedRecord<'_>> for Offsets {
    fn from(record: ConsumedRecord<'_>) -> Self {
        Offsets::from(&record)
    }
}

impl From<OwnedRecord> for Offsets {
    fn from(record: OwnedRecord) -> Self {
        Offsets::from(&record)
    }
}

impl From<&Offsets> for Offsets {
    fn from(offsets: &Offsets) -> Self {
        offsets.clone()
    }
}

impl From<&mut Offsets> for Offsets {
    fn from(offsets: &mut Offsets) -> Self {
        offsets.clone()
    }
}
