//! The consumer as its caller holds it, and its handle for other threads.

use std::borrow::Borrow;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use super::commit::{CommittedOffset, Committer};
use super::member::{self, Polling, Session};
use super::offsets::{IntoOffsets, Offsets};
use super::rebalance::Hears;
use crate::error::Result;
use crate::producer::Pending;
use crate::reader::assigned::Assigned;
use crate::reader::fetcher::Fetcher;
use crate::reader::moved::Seen;
use crate::reader::step::PutBack;
use crate::reader::{OneRecord, ReaderHandle, Receive, ReceiveOne, Recv, RecvOne};
use crate::records::Records;
use crate::sync::Arc;
use crate::types::{GroupId, PartitionId, Position, Start, TopicName, TopicPartition};

/// A member of a consumer group, or a consumer of partitions assigned by hand.
///
/// It polls records of the partitions that it owns and commits processed offsets. Delivery is *at
/// least once*: records that were polled and not committed when a partition changes hands are
/// delivered again, to its next owner. Dropping a consumer leaves the group at once and commits
/// nothing.
///
/// Ignoring the error of one batch of records and committing a later one skips the failed records:
/// [`rewind`](Consumer::rewind) goes back to the committed offsets. A
/// [transaction](crate::Transaction) with the consumer's offsets that is not committed has the
/// consumer do so by itself.
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
        self.poll_hearing(timeout, &mut |_, _| Ok(()))
    }

    /// As [`poll`](Consumer::poll). `hears` gets each change of its partitions before the listener.
    ///
    /// # Errors
    /// Those of a poll, and of `hears`.
    pub(crate) fn poll_hearing(&mut self, timeout: Duration, hears: &mut Hears<'_>) -> Result<Records> {
        let Consumer { membership, fetcher } = self;
        let mut polling = Polling::begin(membership);
        let mut records = fetcher.poll(timeout, |fetcher| polling.session().keep_up(fetcher, hears))?;
        let session = polling.session();
        records.set_stamp(session.committer.stamp());
        session.counted.add(records.len());
        Ok(records)
    }

    /// As [`poll`](Consumer::poll) for async code, without a time limit. A future that is dropped
    /// loses nothing.
    ///
    /// While it waits the consumer counts as polling: from its first poll on, until it is woken. A
    /// future that is not polled, or not polled again after it was woken, is no sign of life: at
    /// the latest after twice the [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval)
    /// the partitions go to others.
    ///
    /// # Errors
    /// As [`poll`](Consumer::poll).
    pub fn recv(&mut self) -> Recv<'_, Consumer> {
        Recv::new(self)
    }

    /// The next record, for async code; `None` after a [wake-up](ConsumerHandle::wakeup). May be
    /// dropped at any time, and counts as polling, as [`recv`](Consumer::recv), which costs less
    /// for each record.
    ///
    /// The rest of its batch stays with the partition: neither [`commit`](Consumer::commit) of this
    /// record nor [`auto_commit`](crate::ConsumerBuilder::auto_commit) covers a record that was not
    /// returned, and [`position`](Consumer::position) is after the one that was returned last.
    /// Ranges that are [skipped](Records::skipped) are not reported.
    ///
    /// # Errors
    /// As [`poll`](Consumer::poll).
    ///
    /// ```
    /// # use quipu::{Consumer, Result};
    /// async fn work_until_wakeup(mut consumer: Consumer) -> Result<()> {
    ///     while let Some(record) = consumer.recv_one().await? {
    ///         println!("{record:?}");
    ///         consumer.commit_async(&record).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn recv_one(&mut self) -> RecvOne<'_, Consumer> {
        RecvOne::new(self)
    }

    /// As [`poll`](Consumer::poll) without a time limit, for a future or a stream of the caller's
    /// own: if there is nothing, it returns `Pending` and keeps the waker of `cx` until there is.
    /// [`recv`](Consumer::recv) is made of this; as long as it is pending the consumer counts as
    /// polling, as there.
    ///
    /// # Errors
    /// As [`poll`](Consumer::poll).
    pub fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>> {
        let polled = receive(&mut self.membership, &mut self.fetcher, cx);
        if let Poll::Ready(Ok(records)) = &polled {
            self.membership.counted.add(records.len());
        }
        polled
    }

    /// Commits processed offsets, all of them or none, and returns when they are as safe as the
    /// broker's [durability](crate::BrokerConfig::durability) demands.
    ///
    /// # Errors
    /// [`CommitRejected`](crate::Error::CommitRejected) if another member owns a partition now, or
    /// did in between; those of an append.
    pub fn commit(&self, done: impl IntoOffsets) -> Result<()> {
        self.membership.committer.commit(done.into()).done()
    }

    /// As [`commit`](Consumer::commit), to be waited for later or awaited. It is checked and
    /// written when this returns; only the sync is left. If it was rejected or not written, and the
    /// `Pending` is dropped or detached, the event listener gets
    /// [`CommitFailed`](crate::stats::Event::CommitFailed). The records are then delivered again
    /// after the next rebalance or restart, as those of any commit that was not made.
    pub fn commit_async(&self, done: impl IntoOffsets) -> Pending<()> {
        Pending::other(self.membership.committer.commit(done.into()))
    }

    /// Positions from any source as offsets to [commit](Consumer::commit): each is the next offset
    /// to read of its partition; of two in one partition the last counts. They count as polled
    /// now: a commit that comes after a partition has gone to another member is
    /// [rejected](crate::Error::CommitRejected), also if it has come back since.
    ///
    /// Kafka's `commitSync` with a map of offsets, which counts as polled when it is committed.
    ///
    /// ```
    /// # use quipu::{Broker, Position, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send(&orders, Record::new("v"))?.wait()?;
    /// let stored: Position = "orders/0@1#0".parse().unwrap();
    /// let consumer = broker.consumer("billing").assign(&[orders.partition(0)?])?;
    /// consumer.commit(consumer.offsets_at([&stored]))?;
    /// assert_eq!(consumer.committed("orders", 0)?.unwrap().offset, 1);
    /// # Ok(()) }
    /// ```
    pub fn offsets_at<P: Borrow<Position>>(&self, positions: impl IntoIterator<Item = P>) -> Offsets {
        self.membership.committer.offsets_at(positions)
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

    /// Continues at a position, of a partition that it owns. The next poll checks whether it is in
    /// the log, and follows the [policy](crate::ConsumerBuilder::offset_reset).
    ///
    /// A member gets its partitions by polling. A seek before that is remembered, and applied when
    /// the partition is assigned with the first assignment. If the partition is not among those,
    /// the seek is dropped.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send_all(&orders, ["a", "b", "c"].map(Record::new))?.wait()?;
    /// let mut consumer = broker.consumer("audit").subscribe(&["orders"])?;
    /// consumer.seek(&"orders/0@2#0".parse().unwrap())?;
    /// let records = consumer.poll(Duration::ZERO)?;
    /// assert_eq!(records.iter().next().unwrap().value(), Some(&b"c"[..]));
    /// # Ok(()) }
    /// ```
    pub fn seek(&mut self, to: &Position) -> Result<()> {
        let Consumer { membership, fetcher } = self;
        membership.put_back(fetcher);
        match fetcher.find(to.topic.as_str(), to.partition) {
            Ok(assigned) => assigned.seek(to.offset, to.epoch),
            Err(error) => membership.early_of(to.topic.as_str(), to.partition).ok_or(error)?.seek(to),
        }
        Ok(())
    }

    /// Continues at a place in each partition that it owns now, and in those of its first
    /// assignment, if that is still to come.
    ///
    /// # Errors
    /// Those of [`Partition::offset_for_time`](crate::Partition::offset_for_time); then nothing has
    /// moved. Where a partition is still to be assigned, the poll returns them.
    pub fn seek_all(&mut self, to: Start) -> Result<()> {
        let Consumer { membership, fetcher } = self;
        membership.put_back(fetcher);
        fetcher.seek_all(to)?;
        if let Some(early) = membership.early() {
            early.seek_all(to);
        }
        Ok(())
    }

    /// Goes back to the committed offset in every partition that it owns: all records that were
    /// polled since are delivered again. Where nothing is committed it goes back to where the group
    /// has started, which the first poll of a partition stores, under any
    /// [policy](crate::ConsumerBuilder::offset_reset).
    pub fn rewind(&mut self) {
        let Consumer { membership, fetcher } = self;
        membership.rewind(fetcher);
    }

    /// The partitions that it owns, as of its last poll.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        let mut owned: Vec<_> = self.fetcher.assigned().iter().map(member::topic_partition).collect();
        owned.sort();
        owned
    }

    /// The positions of the next records to deliver, per partition that it owns.
    pub fn positions(&self) -> Vec<Position> {
        let set = self.fetcher.assigned().iter().filter(|assigned| assigned.is_placed());
        set.map(Assigned::position).collect()
    }

    /// The position of the next record to deliver of one partition; `None` if it does not own it.
    pub fn position(&self, topic: &str, partition: impl Into<PartitionId>) -> Option<Position> {
        let partition = partition.into();
        let owned = self.fetcher.assigned().iter().find(|assigned| assigned.is(topic, partition))?;
        owned.is_placed().then(|| owned.position())
    }

    /// Delivers nothing of this partition until [`resume`](Consumer::resume); it stays the
    /// consumer's. Before the first assignment it is remembered as a [`seek`](Consumer::seek) is.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    pub fn pause(&mut self, topic: &str, partition: impl Into<PartitionId>) -> Result<()> {
        self.set_paused(topic, partition.into(), true)
    }

    /// Delivers of this partition again.
    ///
    /// # Errors
    /// [`NotAssigned`](crate::Error::NotAssigned).
    pub fn resume(&mut self, topic: &str, partition: impl Into<PartitionId>) -> Result<()> {
        self.set_paused(topic, partition.into(), false)
    }

    fn set_paused(&mut self, topic: &str, partition: PartitionId, paused: bool) -> Result<()> {
        let Consumer { membership, fetcher } = self;
        let error = match fetcher.find(topic, partition) {
            Ok(assigned) => {
                assigned.set_paused(paused);
                return Ok(());
            }
            Err(error) => error,
        };
        let early = membership.early_of(topic, partition).zip(TopicName::new(topic).ok());
        let (early, topic) = early.ok_or(error)?;
        early.set_paused(TopicPartition::new(topic, partition), paused);
        Ok(())
    }

    /// The partitions that are paused, or will be when they are assigned.
    pub fn paused(&self) -> Vec<TopicPartition> {
        let paused = self.fetcher.assigned().iter().filter(|assigned| assigned.is_paused());
        paused.map(member::topic_partition).chain(self.membership.early_paused().iter().cloned()).collect()
    }

    /// The committed offsets of the partitions that it owns and that the caller has not
    /// [seen](Consumer::seen).
    pub(crate) fn unseen_commits(&self, seen: &Seen) -> Vec<(TopicPartition, CommittedOffset)> {
        let commit = |assigned: &Assigned| {
            let identity = assigned.log().identity();
            let committed =
                self.membership.committer.committed_by_id(&identity.topic_id, identity.partition)?;
            Some((identity.topic_partition(), committed.into()))
        };
        self.fetcher.unseen(seen).iter().filter_map(commit).collect()
    }

    /// Notes that the caller has seen the partitions that it owns.
    pub(crate) fn seen(&self) -> Seen {
        self.fetcher.seen()
    }

    /// How many visible offsets are still to be delivered in the partitions that it owns.
    pub(crate) fn lag(&self) -> u64 {
        self.fetcher.lag()
    }

    /// Whether the last poll returned because of a wake-up.
    pub(crate) fn was_woken_up(&self) -> bool {
        self.fetcher.was_woken_up()
    }

    /// A handle that wakes it up, and can do nothing else.
    pub(crate) fn reader_handle(&self) -> ReaderHandle {
        ReaderHandle::new(self.fetcher.waiter())
    }

    /// Bounds the records of one poll.
    pub(crate) fn limit_records(&mut self, records: usize) {
        self.fetcher.limits_mut().max_records = records;
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

impl PutBack for &mut Consumer {
    fn put_back(&mut self) {
        self.rewind();
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

impl Receive for Consumer {
    type Records = Records;

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>> {
        self.poll_records(cx)
    }

    fn stop_waiting(&mut self) {
        if self.fetcher.stop_waiting() {
            self.membership.end_poll();
        }
    }
}

impl ReceiveOne for Consumer {
    fn receive_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>> {
        let Consumer { membership, fetcher } = self;
        let polled = receive(membership, &mut OneRecord::new(fetcher), cx);
        match &polled {
            Poll::Ready(Ok(records)) => membership.counted.add_one(records.len()),
            _ => membership.counted.add_one(0),
        }
        polled
    }
}

/// See [`Consumer::poll_records`].
fn receive(membership: &mut Session, fetcher: &mut Fetcher, cx: &mut Context<'_>) -> Poll<Result<Records>> {
    let mut polling = Polling::begin(membership);
    let polled = fetcher.poll_records(cx, |fetcher| polling.session().keep_up(fetcher, &mut |_, _| Ok(())));
    if polled.is_pending() {
        polling.wait();
    } else {
        drop(polling);
    }
    polled.map_ok(|mut records| {
        records.set_stamp(membership.committer.stamp());
        records
    })
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
    /// Those of [`Consumer::commit`]; [`CommitRejected`](crate::Error::CommitRejected) for anything
    /// once the consumer was closed or dropped.
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
    pub fn commit(&self, done: impl IntoOffsets) -> Result<()> {
        self.committer.commit(done.into()).done()
    }

    /// See [`Consumer::commit_async`].
    pub fn commit_async(&self, done: impl IntoOffsets) -> Pending<()> {
        Pending::other(self.committer.commit(done.into()))
    }

    pub(crate) fn committer(&self) -> Arc<Committer> {
        self.committer.clone()
    }

    /// The group's name.
    pub fn group(&self) -> &GroupId {
        &self.committer.group.name
    }

    /// Makes the consumer's current poll, or else its next one, return at once without records. The
    /// poll after that returns the records that are there. Calls that come before that poll count
    /// as one.
    pub fn wakeup(&self) {
        self.committer.waiter.wake_up();
    }
}

impl fmt::Debug for ConsumerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerHandle").field("group", self.group()).finish()
    }
}
