//! Groups from outside: their state, and setting them to other offsets. Kafka's
//! `kafka-consumer-groups`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::commit::CommittedOffset;
use crate::broker::{Broker, BrokerInner, TopicState};
use crate::engine::Waiter;
use crate::error::{Error, Result};
use crate::group::changes::{OffsetChange, StoredOffset};
use crate::group::{GroupHost, GroupState, wait};
use crate::log::Log;
use crate::log::cursor::Cursor;
use crate::reader::assigned::start_offset;
use crate::reader::parking::Idle;
use crate::records::Unread;
use crate::sync::Arc;
use crate::types::{GroupId, Offset, PartitionId, Position, Start, TopicId, TopicName, TopicPartition};

impl Broker {
    /// A group, whether or not it has members or has committed anything. Nothing is created: a
    /// group that was only looked up is not among the [`groups`](Broker::groups), and leaves
    /// nothing on disk or in memory.
    ///
    /// # Errors
    /// [`InvalidGroupName`](Error::InvalidGroupName), [`Closed`](Error::Closed), or an I/O error.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send_all(&orders, ["a", "b", "c"].map(Record::new))?.wait()?;
    /// let mut consumer = broker.consumer("billing").subscribe(&["orders"])?;
    /// let records = consumer.poll(Duration::from_millis(200))?;
    /// consumer.commit(&records)?;
    ///
    /// let group = broker.group("billing")?;
    /// assert_eq!((group.describe()?.members.len(), group.lag()?), (1, 0));
    ///
    /// consumer.close()?; // a group without members can be set back
    /// group.reset("orders", Start::Beginning)?;
    /// assert_eq!(group.lag()?, 3);
    /// # Ok(()) }
    /// ```
    pub fn group(&self, name: &str) -> Result<Group> {
        let name = GroupId::new(name)
            .map_err(|reason| Error::InvalidGroupName { name: name.to_string(), reason })?;
        let broker = self.inner().clone();
        broker.check_open()?;
        broker.coordinator().offsets().open_existing(&*broker)?;
        Ok(Group { group: broker.coordinator().group(&name), broker })
    }

    /// The groups that have members, or have subscribed, read or committed anything, by name.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed), or an I/O error.
    pub fn groups(&self) -> Result<Vec<GroupId>> {
        let broker = self.inner();
        broker.check_open()?;
        broker.coordinator().offsets().open_existing(&**broker)?;
        let mut names = broker.coordinator().active();
        names.extend(broker.coordinator().offsets().groups());
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// A consumer group, from outside.
#[derive(Clone)]
pub struct Group {
    broker: Arc<BrokerInner>,
    group: Arc<GroupState>,
}

/// A group's members, partitions and progress.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// Its name.
    pub name: GroupId,
    /// How often its partitions were shared out again since the broker was opened.
    pub generation: u32,
    /// Every member owns all partitions of its target: no rebalance is under way.
    pub stable: bool,
    /// Its members, by number.
    pub members: Vec<GroupMember>,
    /// Every partition that it subscribes to or has committed an offset of, by topic.
    pub partitions: Vec<GroupPartition>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// Its number, which no other member of any group has had since the broker was opened. The
    /// numbers start over with the next opening; records that were polled before that can no longer
    /// be committed.
    pub id: u32,
    /// The partitions that it owns now.
    pub partitions: Vec<TopicPartition>,
}

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The member that owns it now.
    pub owner: Option<u32>,
    /// The committed offset.
    pub committed: Option<CommittedOffset>,
    /// The visible end.
    pub end: Offset,
    /// How many offsets there are between the committed offset, or else the one at which the group
    /// has started, or else the log start, and the visible end. Offsets before the log start do not
    /// count (Kafka's tool counts them). 0 if no record is left there, because compaction has
    /// removed the newest ones or damaged ones were given up.
    pub lag: u64,
}

impl Group {
    /// Its name.
    pub fn name(&self) -> &GroupId {
        &self.group.name
    }

    /// Its members, the partitions that they own, and its progress. The cost is that of the topics
    /// that it subscribes to or has committed offsets of, of however many the broker has.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed), or an I/O error.
    pub fn describe(&self) -> Result<GroupDescription> {
        self.open()?;
        let membership = self.group.lock();
        let mut members: BTreeMap<u32, Vec<TopicPartition>> =
            membership.members().map(|id| (id, Vec::new())).collect();
        for (id, share) in membership.owners() {
            members.entry(id).or_default().push(share.topic_partition());
        }
        let members: Vec<_> =
            members.into_iter().map(|(id, partitions)| GroupMember { id, partitions }).collect();
        let (generation, stable) = (membership.generation(), membership.is_stable());
        let mut known: HashSet<_> = membership.topics().map(|topic| topic.id).collect();
        let subscribed = known.clone();
        drop(membership);
        let owned = members.iter().flat_map(|member| member.partitions.iter().map(|of| (of, member.id)));
        let owners: HashMap<_, _> = owned.collect();
        let commits = self.broker.coordinator().offsets().commits(&self.group.name).into_iter();
        let mut commits: HashMap<_, _> =
            commits.map(|(topic, partition, committed)| ((topic, partition), committed)).collect();
        known.extend(commits.keys().map(|(topic, _)| *topic));
        let mut topics: Vec<_> = known.iter().filter_map(|id| self.broker.topic_of(id)).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        let mut partitions = Vec::new();
        for state in topics {
            for log in state.logs().iter() {
                let committed = commits.remove(&(state.id, log.partition()));
                if committed.is_none() && !subscribed.contains(&state.id) {
                    continue;
                }
                let of = log.identity().topic_partition();
                let offsets = self.broker.coordinator().offsets();
                let next = match &committed {
                    Some(committed) => Some(committed.offset),
                    None => offsets.next(&self.group.name, &state.id, of.partition).map(|(offset, _)| offset),
                };
                partitions.push(GroupPartition {
                    owner: owners.get(&of).copied(),
                    end: log.visible_end(),
                    lag: lag(log, next.unwrap_or_default()),
                    committed: committed.map(CommittedOffset::from),
                    topic: of.topic,
                    partition: of.partition,
                });
            }
        }
        drop(owners);
        Ok(GroupDescription { name: self.group.name.clone(), generation, stable, members, partitions })
    }

    /// How many offsets lie between the committed offsets and the visible ends, over all its
    /// [partitions](GroupPartition::lag).
    ///
    /// # Errors
    /// As [`describe`](Group::describe).
    pub fn lag(&self) -> Result<u64> {
        Ok(self.describe()?.partitions.iter().map(|partition| partition.lag).sum())
    }

    /// Waits until the lag is at most `lag`, and returns whether that came within `timeout`. Under
    /// a [`ManualClock`](crate::ManualClock) it never waits.
    ///
    /// # Errors
    /// As [`describe`](Group::describe).
    pub fn wait_for_lag(&self, lag: u64, timeout: Duration) -> Result<bool> {
        /// A commit does not signal this waiter, so this looks again from time to time.
        const EVERY: Duration = Duration::from_millis(5);
        let clock = &*self.broker.ctx.clock;
        let deadline = clock.monotonic().saturating_add(timeout);
        let waiter = Arc::new(Waiter::new(&self.broker.ctx.events));
        let _idle = Idle::new(&self.broker.ctx, &waiter);
        loop {
            if self.lag()? <= lag {
                return Ok(true);
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() || clock.is_manual() {
                return Ok(false);
            }
            waiter.wait(clock, left.min(EVERY));
        }
    }

    /// The committed offset of a partition.
    pub fn committed(
        &self,
        topic: &str,
        partition: impl Into<PartitionId>,
    ) -> Result<Option<CommittedOffset>> {
        self.open()?;
        let state = self.broker.topic_state(topic)?;
        let offsets = self.broker.coordinator().offsets();
        Ok(offsets.committed(&self.group.name, &state.id, partition.into()).map(CommittedOffset::from))
    }

    /// Sets the group to the same place in all partitions of a topic, and returns the positions. An
    /// offset outside the log is moved to its nearer end. [`Start::Time`] without such a record
    /// means the end.
    ///
    /// Kafka's `kafka-consumer-groups --reset-offsets`.
    ///
    /// # Errors
    /// [`GroupNotEmpty`](Error::GroupNotEmpty): only a group without members can be set, and not
    /// while a transaction commits offsets of it; [`UnknownTopic`](Error::UnknownTopic),
    /// [`Closed`](Error::Closed), or an I/O error: then nothing is changed.
    pub fn reset(&self, topic: &str, to: impl Into<Start>) -> Result<Vec<Position>> {
        let (to, state) = (to.into(), self.broker.topic_state(topic)?);
        self.set(self.logs_of(&state), |log, _| start_offset(log, to))
    }

    /// Sets the group to these positions, all of them or none, for example those of another group
    /// or of a backup, and returns the positions at which it is now, in the order of their
    /// partitions. Of two in one partition the last counts. An offset outside the log is moved to
    /// its nearer end, and one whose records were truncated to the place where the truncation was.
    ///
    /// # Errors
    /// As [`reset`](Group::reset), and [`UnknownPartition`](Error::UnknownPartition).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Position, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send_all(&orders, ["a", "b", "c"].map(Record::new))?.wait()?;
    /// let stored: Position = "orders/0@2#0".parse().unwrap();
    /// broker.group("billing")?.reset_to(&[stored])?;
    /// let mut consumer = broker.consumer("billing").subscribe("orders")?;
    /// assert_eq!(consumer.poll(Duration::ZERO)?.iter().next().unwrap().offset(), 2);
    /// # Ok(()) }
    /// ```
    pub fn reset_to(&self, positions: &[Position]) -> Result<Vec<Position>> {
        let mut wanted = BTreeMap::new();
        for position in positions {
            let state = self.broker.topic_state(position.topic.as_str())?;
            let log = state.log(position.partition)?;
            wanted.insert(position.topic_partition(), (state.id, log, position));
        }
        let logs = wanted.values().map(|(id, log, _)| (*id, log.clone())).collect();
        self.set(logs, |log, _| {
            let position = wanted.get(&log.identity().topic_partition()).map(|(_, _, position)| position);
            let position = position.ok_or_else(|| Error::internal("every log has a position"))?;
            match log.check_position(position.offset, position.epoch) {
                Err(Error::Truncated { to, .. }) => Ok(to),
                checked => checked.map(|()| position.offset),
            }
        })
    }

    /// Moves the group by this many offsets in each partition of a topic, back if negative, and
    /// returns the positions. It counts from the committed offset; where nothing is committed, from
    /// the offset at which the group has started, or else from the log start. It goes no further
    /// than to the ends of the log.
    ///
    /// Kafka's `kafka-consumer-groups --reset-offsets --shift-by`.
    ///
    /// # Errors
    /// As [`reset`](Group::reset).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send_all(&orders, ["a", "b", "c"].map(Record::new))?.wait()?;
    /// let mut consumer = broker.consumer("billing").subscribe("orders")?;
    /// let records = consumer.poll(Duration::from_millis(200))?;
    /// consumer.commit(&records)?; // of three records
    /// consumer.close()?;
    ///
    /// let group = broker.group("billing")?;
    /// assert_eq!(group.shift("orders", -2)?[0].offset, 1);
    /// assert_eq!(group.lag()?, 2);
    /// # Ok(()) }
    /// ```
    pub fn shift(&self, topic: &str, by: i64) -> Result<Vec<Position>> {
        let state = self.broker.topic_state(topic)?;
        self.set(self.logs_of(&state), |log, next| {
            let from = next.unwrap_or_else(|| log.log_start());
            Ok(Offset::new(from.get().saturating_add_signed(by)))
        })
    }

    fn logs_of(&self, state: &TopicState) -> Vec<(TopicId, Arc<Log>)> {
        state.logs().iter().map(|log| (state.id, log.clone())).collect()
    }

    /// Commits in each of these logs the offset that `wanted` returns for it and the offset from
    /// which the group would continue.
    fn set(
        &self,
        logs: Vec<(TopicId, Arc<Log>)>,
        wanted: impl Fn(&Arc<Log>, Option<Offset>) -> Result<Offset>,
    ) -> Result<Vec<Position>> {
        let coordinator = self.broker.coordinator();
        coordinator.offsets().open(&*self.broker)?;
        let (mut changes, mut positions) = (Vec::new(), Vec::new());
        let at = self.broker.ctx.clock.now();
        // Held to the end, so that no member joins in between.
        let membership = self.group.lock_empty()?;
        for (id, log) in &logs {
            let epoch = log.epoch();
            let next = coordinator.offsets().next(&self.group.name, id, log.partition());
            let wanted = wanted(log, next.map(|(offset, _)| offset))?;
            let offset = wanted.min(log.visible_end()).max(log.log_start());
            let committed = StoredOffset { offset, epoch, at, metadata: Arc::from("") };
            changes.push(OffsetChange::Commit(*id, log.partition(), committed));
            let TopicPartition { topic, partition } = log.identity().topic_partition();
            positions.push(Position { topic, partition, offset, epoch });
        }
        let written = coordinator.offsets().append(&self.broker.ctx, &self.group.name, &changes)?;
        drop(membership);
        wait(written)?;
        Ok(positions)
    }

    /// Deletes all committed offsets and subscriptions of the group, and where it has started.
    ///
    /// # Errors
    /// [`GroupNotEmpty`](Error::GroupNotEmpty) as for [`reset`](Group::reset),
    /// [`Closed`](Error::Closed), or an I/O error.
    pub fn delete(&self) -> Result<()> {
        self.open()?;
        let coordinator = self.broker.coordinator();
        let membership = self.group.lock_empty()?;
        let erasure = coordinator.offsets().erasure(&self.group.name);
        let written = coordinator.offsets().append(&self.broker.ctx, &self.group.name, &erasure)?;
        drop(membership);
        wait(written)
    }

    /// Deletes the committed offsets of some partitions, all of them or none, and where the group
    /// has started in them. A later member starts there as in a partition that the group has never
    /// read. Returns when that is as safe as the broker's
    /// [durability](crate::BrokerConfig::durability) demands. A partition without a committed
    /// offset is left as it is.
    ///
    /// Kafka's `Admin.deleteConsumerGroupOffsets`.
    ///
    /// # Errors
    /// [`GroupSubscribed`](Error::GroupSubscribed) while a member of the group subscribes to one of
    /// the topics, or a transaction commits offsets of one of the partitions;
    /// [`UnknownTopic`](Error::UnknownTopic), [`UnknownPartition`](Error::UnknownPartition);
    /// [`Closed`](Error::Closed), or an I/O error: then nothing is deleted.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send(&orders, Record::new("v"))?.wait()?;
    /// # let mut consumer = broker.consumer("billing").subscribe(&["orders"])?;
    /// # let records = consumer.poll(Duration::from_millis(200))?;
    /// consumer.commit(&records)?;
    /// let read = consumer.assignment();
    /// consumer.close()?;
    ///
    /// let group = broker.group("billing")?;
    /// group.delete_offsets(&read)?;
    /// assert_eq!(group.committed("orders", 0)?, None);
    /// # Ok(()) }
    /// ```
    pub fn delete_offsets(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.open()?;
        let mut found = Vec::with_capacity(partitions.len());
        for of in partitions {
            let state = self.broker.topic_state(of.topic.as_str())?;
            state.log(of.partition)?;
            found.push((state.id, of.clone()));
        }
        wait(self.group.delete_offsets(&*self.broker, &found)?)
    }

    fn open(&self) -> Result<()> {
        self.broker.check_open()?;
        self.broker.coordinator().offsets().open_existing(&*self.broker)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.group.name).finish()
    }
}

/// How many offsets lie between an offset and the visible end; 0 if none of them has a record.
fn lag(log: &Arc<Log>, next: Offset) -> u64 {
    let from = next.max(log.log_start());
    let lag = log.visible_end().since(from);
    let may_have_gaps = || log.settings().cleanup.compacts() || log.manifest().lost_after(from).is_some();
    // What cannot be read may be records.
    if lag > 0 && may_have_gaps() && matches!(has_records(log, from), Ok(false)) { 0 } else { lag }
}

/// Whether there is a visible record at an offset or after it.
fn has_records(log: &Arc<Log>, from: Offset) -> Result<bool> {
    let mut cursor = Cursor::new(log.clone(), from);
    while let Some(header) = cursor.peek()? {
        if header.base_offset >= from {
            return Ok(true);
        }
        // A batch that begins before the offset may have lost the records after it.
        let Some(batch) = cursor.next_batch()? else { return Ok(false) };
        if !Unread::new(batch, from).is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
