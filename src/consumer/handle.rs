//! The consumer as its caller holds it, and its handle for other threads.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::commit::{CommittedOffset, Committer};
use super::member::{self, Session};
use super::offsets::Offsets;
use crate::error::Result;
use crate::producer::Pending;
use crate::reader::assigned::Assigned;
use crate::reader::fetcher::Fetcher;
use crate::records::Records;
use crate::sync::Arc;
use crate::types::{GroupId, PartitionId, Position, Start, TopicPartition};

/// A member of a consumer group, or a consumer of partitions assigned by hand.
///
/// It polls records of the partitions that it owns and commits processed offsets. Delivery is *at
/// least once*: records that were polled and not committed when a partition changes hands are
/// delivered again, to its next owner. Dropping a consumer leaves the group at once and commits
/// nothing.
///
/// Ignoring the error of one batch of records and committing a later one skips the failed records:
/// [`rewind`](Consumer::rewind) goes back to the committed offsets.
///
/// ```
/// use std::time::Duration;
/// use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let broker = Broker::in_memory()?;
/// let orders = broker.create_topic("orders", TopicConfig::new())?;
/// broker.producer().send_all(&orders, ["a", "b"].map(Record::new))?.wait()?;
///
/// let mut first = broker.consumer("billing").max_records(1).subscribe(&["orders"])?;
/// let records = first.poll(Duration::from_millis(200))?;
/// first.commit(&records)?;
/// first.poll(Duration::from_millis(200))?; // "b", but never committed
/// drop(first);
///
/// let mut second = broker.consumer("billing").subscribe(&["orders"])?;
/// let again = second.poll(Duration::from_millis(200))?;
/// assert_eq!(again.iter().next().unwrap().value(), Some(&b"b"[..]));
/// # Ok(()) }
/// ```
pub struct Consumer {
    pub(super) membership: Session,
    pub(super) fetcher: Fetcher,
}

impl Consumer {
    /// The next records of the partitions that it owns, waiting up to `timeout` for the first. A
    /// consumer stays in the group by polling: rebalances happen in here. Empty if there is nothing
    /// in time, or after a [wake-up](ConsumerHandle::wakeup). Under a
    /// [`ManualClock`](crate::ManualClock) it never waits.
    ///
    /// # Errors
    /// [`NoCommittedOffset`](crate::Error::NoCommittedOffset) under
    /// [`OffsetReset::Fail`](crate::OffsetReset::Fail); an error of the listener;
    /// [`InvalidAssignment`](crate::Error::InvalidAssignment) if a rebalance failed;
    /// [`Corrupt`](crate::Error::Corrupt), [`OffsetOutOfRange`](crate::Error::OffsetOutOfRange) and
    /// [`Truncated`](crate::Error::Truncated) as [`Reader::poll`](crate::Reader::poll);
    /// [`Closed`](crate::Error::Closed), or an I/O error.
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        let Consumer { membership, fetcher } = self;
        membership.begin_poll();
        let polled = fetcher.poll(timeout, |fetcher| membership.keep_up(fetcher));
        membership.end_poll();
        let mut records = polled?;
        records.set_stamp(membership.committer.stamp());
        Ok(records)
    }

    /// As [`poll`](Consumer::poll) for async code, without a time limit. A future that is dropped
    /// loses nothing. While it waits the consumer counts as polling.
    pub fn recv(&mut self) -> impl Future<Output = Result<Records>> + Send {
        self.membership.begin_poll();
        ConsumerRecv(self)
    }

    /// Commits processed offsets, all of them or none, and returns when they are as safe as the
    /// broker's [durability](crate::BrokerConfig::durability) demands.
    ///
    /// # Errors
    /// [`CommitRejected`](crate::Error::CommitRejected) if another member owns a partition now, or
    /// did in between; those of an append.
    pub fn commit(&self, done: impl Into<Offsets>) -> Result<()> {
        self.membership.committer.commit(done.into()).done()
    }

    /// As [`commit`](Consumer::commit), to be waited for later or awaited.
    pub fn commit_async(&self, done: impl Into<Offsets>) -> Pending<()> {
        Pending::other(self.membership.committer.commit(done.into()))
    }

    /// The group's committed offset of a partition, whichever member owns that.
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::Error::UnknownTopic), [`Closed`](crate::Error::Closed), or an I/O
    /// error.
    pub fn committed(
        &self,
        topic: &str,
        partition: impl Into<PartitionId>,
    ) -> Result<Option<CommittedOffset>> {
        let committer = &self.membership.committer;
        let state = committer.broker.topic_state(topic)?;
        committer.committed(&state, partition.into())
    }

    /// Continues at a position, of a partition that it owns.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    pub fn seek(&mut self, to: &Position) -> Result<()> {
        self.fetcher.find(to.topic.as_str(), to.partition)?.seek(to.offset, to.epoch);
        Ok(())
    }

    /// Continues at a place in each partition that it owns now.
    ///
    /// # Errors
    /// Those of [`Partition::offset_for_time`](crate::Partition::offset_for_time); then nothing has
    /// moved.
    pub fn seek_all(&mut self, to: Start) -> Result<()> {
        self.fetcher.seek_all(to)
    }

    /// Goes back to the committed offset in every partition that it owns, or to where it would
    /// start: all records that were polled since are delivered again.
    pub fn rewind(&mut self) {
        let Consumer { membership, fetcher } = self;
        for assigned in fetcher.assigned_mut() {
            let start = membership.start(assigned.log().clone());
            let position = start.position();
            assigned.seek(position.offset, position.epoch);
            if start.is_unset() {
                assigned.set_unset();
            }
        }
    }

    /// The partitions that it owns, as of its last poll.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        let mut owned: Vec<_> = self.fetcher.assigned().iter().map(member::topic_partition).collect();
        owned.sort();
        owned
    }

    /// The positions of the next records to deliver, per partition that it owns.
    pub fn positions(&self) -> Vec<Position> {
        let set = self.fetcher.assigned().iter().filter(|assigned| !assigned.is_unset());
        set.map(Assigned::position).collect()
    }

    /// The position of the next record to deliver of one partition; `None` if it does not own it.
    pub fn position(&self, topic: &str, partition: impl Into<PartitionId>) -> Option<Position> {
        let partition = partition.into();
        let owned = self.fetcher.assigned().iter().find(|assigned| assigned.is(topic, partition))?;
        (!owned.is_unset()).then(|| owned.position())
    }

    /// Delivers nothing of this partition until [`resume`](Consumer::resume); it stays the
    /// consumer's.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    pub fn pause(&mut self, topic: &str, partition: impl Into<PartitionId>) -> Result<()> {
        self.fetcher.find(topic, partition.into())?.set_paused(true);
        Ok(())
    }

    /// Delivers of this partition again.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    pub fn resume(&mut self, topic: &str, partition: impl Into<PartitionId>) -> Result<()> {
        self.fetcher.find(topic, partition.into())?.set_paused(false);
        Ok(())
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        let paused = self.fetcher.assigned().iter().filter(|assigned| assigned.is_paused());
        paused.map(member::topic_partition).collect()
    }

    /// The group's name.
    pub fn group(&self) -> &GroupId {
        &self.membership.committer.group.name
    }

    /// A handle for other threads, to commit and to wake it up.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle { committer: self.membership.committer.clone() }
    }

    /// The state through which a transaction commits its offsets.
    pub(crate) fn committer(&self) -> Arc<Committer> {
        self.membership.committer.clone()
    }

    /// Gives its partitions up, telling its listener, and leaves the group. With
    /// [`auto_commit`](crate::ConsumerBuilder::auto_commit) it commits first.
    ///
    /// # Errors
    /// The first of the listener's, or of the commit. It has left in any case.
    pub fn close(mut self) -> Result<()> {
        let Consumer { membership, fetcher } = &mut self;
        membership.close(fetcher)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", self.group())
            .field("positions", &self.positions().iter().map(ToString::to_string).collect::<Vec<_>>())
            .finish()
    }
}

/// The future of [`Consumer::recv`].
struct ConsumerRecv<'a>(&'a mut Consumer);

impl Future for ConsumerRecv<'_> {
    type Output = Result<Records>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Consumer { membership, fetcher } = &mut *self.get_mut().0;
        let polled = fetcher.poll_records(cx, |fetcher| membership.keep_up(fetcher));
        polled.map_ok(|mut records| {
            records.set_stamp(membership.committer.stamp());
            records
        })
    }
}

impl Drop for ConsumerRecv<'_> {
    fn drop(&mut self) {
        self.0.fetcher.stop_waiting();
        self.0.membership.end_poll();
    }
}

/// A consumer's handle for other threads, to commit and to wake it up. Clones are handles of the
/// same one.
#[derive(Clone)]
pub struct ConsumerHandle {
    committer: Arc<Committer>,
}

impl ConsumerHandle {
    /// See [`Consumer::commit`].
    ///
    /// # Errors
    /// Those of [`Consumer::commit`]; [`CommitRejected`](crate::Error::CommitRejected) also once
    /// the consumer is gone.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send(&orders, Record::new("v"))?.wait()?;
    /// let mut consumer = broker.consumer("billing").subscribe(&["orders"])?;
    /// let (records, handle) = (consumer.poll(Duration::from_millis(200))?, consumer.handle());
    /// std::thread::spawn(move || handle.commit(&records)).join().unwrap()?;
    /// assert_eq!(consumer.committed("orders", 0)?.unwrap().offset, 1);
    /// # Ok(()) }
    /// ```
    pub fn commit(&self, done: impl Into<Offsets>) -> Result<()> {
        self.committer.commit(done.into()).done()
    }

    /// See [`Consumer::commit_async`].
    pub fn commit_async(&self, done: impl Into<Offsets>) -> Pending<()> {
        Pending::other(self.committer.commit(done.into()))
    }

    pub(crate) fn committer(&self) -> Arc<Committer> {
        self.committer.clone()
    }

    /// Makes the consumer's current poll, or else its next one, return at once.
    pub fn wakeup(&self) {
        self.committer.waiter.wake_up();
    }
}

impl fmt::Debug for ConsumerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerHandle").field("group", &self.committer.group.name).finish()
    }
}
