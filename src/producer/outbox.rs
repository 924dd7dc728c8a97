//! Where are the buffers of a producer, and which of them gets a record?

use super::buffer::{PartitionBuffer, Placed, Sticking, Unflushed};
use super::core::{Core, RoomWait};
use super::flush::{Flush, FlushPart};
use super::pending::Pending;
use super::sink::Sink;
use super::staging::Staging;
use crate::broker::TopicState;
use crate::error::{Error, Result};
use crate::partitioner::{Partitioner, Sticky, check_stream, murmur2, partition_for_key};
use crate::record::Record;
use crate::segment::builder::Measured;
use crate::sync::{Arc, OnceLock, about_to_call_user_code};
use crate::types::{Offset, PartitionId, Receipt, Timestamp, TopicId, TopicName};

/// The functions of a topic that a producer needs.
pub(super) trait Target: Send + Sync {
    fn id(&self) -> &TopicId;
    fn name(&self) -> &TopicName;
    /// How many partitions there are. They only become more.
    fn partitions(&self) -> u32;
    /// # Errors
    /// The topic has been deleted, or the broker closed.
    fn check(&self) -> Result<()>;
    /// The times that a record sent `now` may be given, both included; `None` if given times are
    /// ignored.
    fn timestamps(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)>;
    /// Whether records must have a key.
    fn needs_keys(&self) -> bool {
        false
    }
    /// Whether its keys are streams.
    fn has_streams(&self) -> bool {
        false
    }
    /// The log of a partition, if there is such a partition.
    fn sink(&self, partition: u32) -> Option<Box<dyn Sink>>;
}

impl Target for TopicState {
    fn id(&self) -> &TopicId {
        &self.id
    }

    fn name(&self) -> &TopicName {
        &self.name
    }

    fn partitions(&self) -> u32 {
        self.log_count()
    }

    fn check(&self) -> Result<()> {
        TopicState::check(self)
    }

    fn timestamps(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        TopicState::timestamps(self, now)
    }

    fn needs_keys(&self) -> bool {
        TopicState::needs_keys(self)
    }

    fn has_streams(&self) -> bool {
        TopicState::has_streams(self)
    }

    fn sink(&self, partition: u32) -> Option<Box<dyn Sink>> {
        let log = self.logs().get(partition as usize)?.clone();
        Some(Box::new(log))
    }
}

/// What a sender does if the buffer is full.
#[derive(Clone, Copy)]
pub(super) enum WhenFull {
    /// It writes batches that no other thread is writing, and blocks if that makes no room.
    Wait,
    /// It writes batches that no other thread is writing.
    Write,
    /// It takes no record.
    Refuse,
}

/// The records that a producer has accepted and not written, by topic and partition. Dropping it
/// hands them over to the timer.
///
/// Looking a buffer up takes no lock and writes no shared memory: topics and partitions are only
/// ever added, in places that are set once. In return, the empty buffers of a deleted topic stay
/// until the producer is dropped.
pub(super) struct Outbox<T: Target> {
    core: Arc<Core>,
    unflushed: Arc<Unflushed>,
    seed: u64,
    /// Topics by the last bits of their random id, in chains.
    topics: [OnceLock<Box<TopicBuffers<T>>>; CHAINS],
}

/// The buffers of one topic.
pub(super) struct TopicBuffers<T> {
    target: Arc<T>,
    sticky: Sticky,
    /// Shelf `i` has places for 2^i partitions, made when the first of them is used: so they become
    /// more and never move.
    shelves: [OnceLock<Shelf>; SHELVES],
    next: OnceLock<Box<TopicBuffers<T>>>,
}

type Shelf = Box<[OnceLock<Arc<PartitionBuffer>>]>;

impl<T: Target> Outbox<T> {
    /// The seed decides where records without a key go.
    pub(super) fn new(core: Core, seed: u64) -> Self {
        Outbox {
            core: Arc::new(core),
            unflushed: Arc::new(Unflushed::new()),
            seed,
            topics: [const { OnceLock::new() }; CHAINS],
        }
    }

    /// Takes a record, for this partition, or for the one that its key chooses.
    #[inline]
    pub(super) fn take(
        &self,
        target: &Arc<T>,
        partition: Option<u32>,
        record: &Record<'_>,
        full: WhenFull,
    ) -> Result<Pending> {
        target.check()?;
        let now = self.core.ctx.clock.now();
        let timestamp = record.timestamp_within(target.name(), now, 0, || target.timestamps(now))?;
        if record.key_bytes().is_none() && target.needs_keys() {
            return Err(Error::MissingKey { topic: target.name().clone(), index: 0 });
        }
        if self.core.is_full() {
            self.make_room_for(target, record, full)?;
        }
        let topic = self.topic(target);
        let measured = Measured::new(record);
        let partitions = target.partitions();
        let chosen = self.route(target, partition, record, partitions)?;
        loop {
            let (partition, sticking) = match chosen {
                Some(partition) => (partition, None),
                None => {
                    (topic.sticky.current(partitions), Some(Sticking { sticky: &topic.sticky, partitions }))
                }
            };
            let buffer = topic.buffer(self, partition)?;
            // Only a record without a key is ever declined, and then has another partition to go
            // to.
            if let Some(Placed { batch, index }) = buffer.push(&measured, timestamp, sticking)? {
                return Ok(Pending::record(batch, index, timestamp));
            }
        }
    }

    /// Makes room for a record as its sender wants it. All that differs between the kinds of
    /// senders is here, so that a sender with room pays nothing for the choice.
    ///
    /// # Errors
    /// `BufferFull`; the topic has been deleted, or the broker closed.
    #[cold]
    fn make_room_for(&self, target: &Arc<T>, record: &Record<'_>, full: WhenFull) -> Result<()> {
        match full {
            WhenFull::Refuse => Err(self.core.full()),
            WhenFull::Write => self.write_largest(),
            WhenFull::Wait => {
                if self.write_largest().is_ok() {
                    return Ok(());
                }
                let room = RoomWait::new(&self.core, Measured::new(record).len());
                room.block(|| {
                    target.check()?;
                    self.make_room()
                })?;
                // The record may still be refused for another reason. Then the room is for the next
                // sender, which no other thread would wake.
                self.core.wake_waiting();
                Ok(())
            }
        }
    }

    /// Takes all records or none. Blocks until there is room.
    pub(super) fn send_all<'r>(
        &self,
        target: &Arc<T>,
        partition: Option<u32>,
        records: impl Iterator<Item = Record<'r>>,
    ) -> Result<Pending<Vec<Receipt>>> {
        target.check()?;
        if self.make_room().is_err() {
            RoomWait::new(&self.core, 0).block(|| self.make_room())?;
        }
        let sent = self.stage_all(target, partition, records);
        if sent.is_err() {
            // The room that it may have waited for is left to the next sender.
            self.core.wake_waiting();
        }
        sent
    }

    fn stage_all<'r>(
        &self,
        target: &Arc<T>,
        partition: Option<u32>,
        records: impl Iterator<Item = Record<'r>>,
    ) -> Result<Pending<Vec<Receipt>>> {
        let topic = self.topic(target);
        let partitions = target.partitions();
        let mut staging = Staging::new(&self.core, &topic.sticky, partitions);
        let now = self.core.ctx.clock.now();
        about_to_call_user_code("an iterator");
        for (index, record) in records.enumerate() {
            let timestamp = record.timestamp_within(target.name(), now, index, || target.timestamps(now))?;
            if record.key_bytes().is_none() && target.needs_keys() {
                return Err(Error::MissingKey { topic: target.name().clone(), index });
            }
            let measured = Measured::new(&record);
            let partition = match self.route(target, partition, &record, partitions)? {
                Some(partition) => partition,
                None => staging.sticky_partition(measured.len()),
            };
            staging.push(partition, &measured, timestamp, || topic.buffer(self, partition).cloned())?;
        }
        Ok(staging.publish())
    }

    /// Everything that has been accepted so far, to be waited for. It is written here; the flush
    /// then waits until it is visible, and for batches that other threads are about to write. Its
    /// cost is that of the partitions with something to write or to wait for, of however many the
    /// producer has written.
    pub(super) fn flush(&self) -> Flush {
        let mut parts = Vec::new();
        let unflushed = self.unflushed.list();
        // One after the other each would wait for the syncs of its own files only.
        let new: Vec<_> = unflushed.iter().filter(|buffer| buffer.sink().is_new()).collect();
        self.core.ctx.in_parallel(&new, |buffer| buffer.write(None));
        for buffer in unflushed {
            buffer.write(None);
            let last = buffer.last_sealed();
            if last.is_some() || buffer.unconfirmed().is_some() {
                parts.push(FlushPart::new(buffer, last));
            }
        }
        Flush::new(&self.core, parts)
    }

    /// Something was written past the buffers, up to this end and in this epoch: a flush waits for
    /// that too.
    ///
    /// # Errors
    /// There is no such partition.
    pub(super) fn note_written(&self, target: &Arc<T>, partition: u32, end: (Offset, u32)) -> Result<()> {
        self.topic(target).buffer(self, partition)?.note_written(end);
        Ok(())
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    #[cfg(test)]
    pub(super) fn send(
        &self,
        target: &Arc<T>,
        partition: Option<u32>,
        record: &Record<'_>,
    ) -> Result<Pending> {
        self.take(target, partition, record, WhenFull::Write)
    }

    /// How many partitions the next flush visits.
    #[cfg(test)]
    pub(super) fn unflushed(&self) -> usize {
        self.unflushed.list().len()
    }

    #[inline]
    fn route(
        &self,
        target: &Arc<T>,
        partition: Option<u32>,
        record: &Record<'_>,
        partitions: u32,
    ) -> Result<Option<u32>> {
        let partitioner = self.core.config.partitioner.as_ref();
        if partition.is_none() && partitioner.is_none() && record.key_bytes().is_none() {
            return Ok(None);
        }
        route(partitioner, &**target, partition, record, partitions)
    }

    /// Writes buffered records if there are too many. It waits for no other thread; the batches
    /// that other threads are writing still count.
    ///
    /// # Errors
    /// `BufferFull` if other threads are writing more than a batch beyond the bound.
    fn make_room(&self) -> Result<()> {
        if self.core.is_full() { self.write_largest() } else { Ok(()) }
    }

    /// Only open batches are left to write: a sealed one is in the hands of the thread that sealed
    /// it, or of the one that drains its queue.
    #[cold]
    fn write_largest(&self) -> Result<()> {
        let unflushed = self.unflushed.list();
        let mut open: Vec<_> = unflushed.iter().map(|buffer| (buffer.open_bytes(), buffer)).collect();
        open.retain(|(bytes, _)| *bytes > 0);
        open.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        // Down to half, so that not every record after this one comes here again.
        let enough = self.core.config.buffer_bytes / 2;
        let mut left = self.core.buffered();
        open.retain(|(bytes, _)| {
            let is_next = left > enough;
            left = left.saturating_sub(*bytes);
            is_next
        });
        // One after the other each would wait for the syncs of its own files only.
        let new: Vec<_> = open.iter().filter(|(_, buffer)| buffer.sink().is_new()).collect();
        self.core.ctx.in_parallel(&new, |(_, buffer)| buffer.write(None));
        for (_, buffer) in open {
            if self.core.buffered() <= enough {
                break;
            }
            buffer.write(None);
        }
        if self.core.buffered() < self.core.limit() { Ok(()) } else { Err(self.core.full()) }
    }

    #[inline]
    fn topic(&self, target: &Arc<T>) -> &TopicBuffers<T> {
        let [.., last] = target.id().0;
        // The remainder is below the number of chains, so the first is never taken in place of
        // another.
        let [first, ..] = &self.topics;
        let mut place = self.topics.get(usize::from(last) % CHAINS).unwrap_or(first);
        loop {
            let found = place.get_or_init(|| Box::new(TopicBuffers::new(target.clone(), self.seed)));
            if Arc::ptr_eq(&found.target, target) {
                return found;
            }
            place = &found.next;
        }
    }

    fn topics(&self) -> impl Iterator<Item = &TopicBuffers<T>> {
        self.topics.iter().flat_map(|first| {
            std::iter::successors(first.get(), |topic| topic.next.get()).map(|topic| &**topic)
        })
    }
}

impl<T: Target> Drop for Outbox<T> {
    fn drop(&mut self) {
        for topic in self.topics() {
            // Where nothing can be written any more the timer may be gone too; then this wakes the
            // waiting threads.
            let ended = topic.target.check().is_err();
            for buffer in topic.buffers() {
                if ended { buffer.write(None) } else { buffer.hand_over() }
            }
        }
    }
}

impl<T: Target> TopicBuffers<T> {
    fn new(target: Arc<T>, seed: u64) -> Self {
        let seed = seed ^ u64::from(murmur2(target.name().as_str().as_bytes()));
        TopicBuffers {
            target,
            sticky: Sticky::new(seed),
            shelves: [const { OnceLock::new() }; SHELVES],
            next: OnceLock::new(),
        }
    }

    #[inline]
    fn buffer(&self, outbox: &Outbox<T>, partition: u32) -> Result<&Arc<PartitionBuffer>> {
        let unknown = || unknown_partition(&*self.target, partition);
        let number = partition.checked_add(1).ok_or_else(unknown)?;
        let shelf = number.ilog2();
        let shelf_len = 1usize << shelf;
        let places = self.shelves.get(shelf as usize).ok_or_else(unknown)?;
        let places = places.get_or_init(|| (0..shelf_len).map(|_| OnceLock::new()).collect());
        let place = places.get(number as usize - shelf_len).ok_or_else(unknown)?;
        if let Some(buffer) = place.get() {
            return Ok(buffer);
        }
        let sink = self.target.sink(partition).ok_or_else(unknown)?;
        let (core, unflushed) = (&outbox.core, &outbox.unflushed);
        Ok(place.get_or_init(|| Arc::new(PartitionBuffer::new(core.clone(), unflushed.clone(), sink))))
    }

    fn buffers(&self) -> impl Iterator<Item = &Arc<PartitionBuffer>> {
        self.shelves.iter().filter_map(OnceLock::get).flatten().filter_map(OnceLock::get)
    }
}

/// The partition of a record; `None` if it has no key and the caller chose none.
///
/// # Errors
/// The chosen partition does not exist, or the stream of its key is in another one.
#[inline]
pub(super) fn route(
    partitioner: Option<&Arc<dyn Partitioner>>,
    target: &impl Target,
    partition: Option<u32>,
    record: &Record<'_>,
    partitions: u32,
) -> Result<Option<u32>> {
    let key = record.key_bytes();
    if let Some(chosen) = partition {
        if target.has_streams() {
            check_stream(target.name(), key, chosen, partitions)?;
        }
        return Ok(partition);
    }
    if let Some(custom) = partitioner
        && let Some(chosen) = {
            about_to_call_user_code("a partitioner");
            custom.partition(target.name(), key, record.value_bytes(), partitions)
        }
    {
        if chosen >= partitions {
            return Err(unknown_partition(target, chosen));
        }
        if target.has_streams() {
            check_stream(target.name(), key, chosen, partitions)?;
        }
        return Ok(Some(chosen));
    }
    Ok(key.map(|key| partition_for_key(key, partitions)))
}

fn unknown_partition(target: &impl Target, partition: u32) -> Error {
    let partition = PartitionId::new(partition);
    Error::UnknownPartition { topic: target.name().clone(), partition, count: target.partitions() }
}

/// Chains of topics. With a thousand topics a chain has sixteen.
const CHAINS: usize = 64;
/// Enough for the most partitions that a topic may have, 100,000.
const SHELVES: usize = 17;

const _: () = assert!((1u64 << SHELVES) > crate::config::TopicConfig::MAX_PARTITIONS as u64);
