//! How do records get into a topic? Through a producer: encoded once, gathered into batches,
//! written in order.
//!
//! The data's way, file by file: [`outbox`] finds the buffer of a record's partition, [`buffer`]
//! puts the record into the open batch and later the batch into the log, [`batch`] encodes,
//! compresses and checksums, [`outcome`] keeps the result for the senders, [`pending`] returns it.
//! [`staging`] does the same for many records at once, [`core`] holds the state that all buffers
//! share.

mod batch;
mod buffer;
mod closing;
mod config;
mod core;
mod destination;
mod doorbell;
mod failure;
mod flush;
mod growth;
mod original;
mod outbox;
mod outcome;
mod pending;
mod refused;
mod room;
mod sequenced;
mod sink;
mod staging;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use self::config::ProducerConfig;
use self::core::{Core, RoomWait};
pub use self::destination::Destination;
pub(crate) use self::destination::Target;
use self::outbox::{Outbox, WhenFull};
pub use self::pending::Pending;
pub(crate) use self::pending::Wait;
pub use self::refused::TrySendError;
use crate::broker::{Broker, BrokerInner, ProducerIdentity, TopicState};
use crate::config::invalid;
use crate::error::Result;
use crate::log::idempotence;
use crate::record::Record;
use crate::segment::builder::Measured;
use crate::sync::Arc;
use crate::topic::Partition;
use crate::types::Receipt;

/// Sends records. Clones are the same producer: one buffer, one bound, one flush. Usable from any
/// thread.
///
/// Records are gathered into batches per partition. A batch is written when it is full, when it has
/// lingered ([`ProducerConfig::linger`]), when a caller waits for one of its records, or when the
/// producer is flushed. Records sent to one partition by one thread keep their order.
///
/// # Order after a failed write
/// If writing a batch fails, everything that was accepted for that partition and not written fails
/// with the same error. So does everything that is sent to it from then on, until
///
/// - a [`Pending`] of one of these records has returned the error, or [`flush`](Producer::flush)
///   has, or
/// - none of these `Pending`s is left: each of them was detached or dropped.
///
/// After that the partition takes records again. So no record overtakes one whose failure its
/// sender does not know of yet. A sender keeps its order if it treats a `Pending` that returns an
/// error like this: all records that it has sent to the partition since are to be sent again too,
/// after that one, in the old order, and before any new one. If it waits for them, each of these
/// returns the same error.
///
/// The failure is that of the producer, not of a thread: when several threads share a producer, the
/// first of them that takes the error ends it for all. Threads that each have an order to keep
/// across errors must have a producer each.
///
/// Dropping the last clone hands the buffered records over, to be written as soon as possible, and
/// waits for nothing. Call `flush` to learn the outcome.
///
/// ```
/// # use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let broker = Broker::in_memory()?;
/// let orders = broker.ensure_topic("orders", TopicConfig::new().partitions(4))?;
///
/// let producer = broker.producer();
/// producer.send(&orders, Record::new("42 EUR").key("customer-7"))?.detach();
/// let receipt = producer.send(&orders, Record::new("paid").key("customer-7"))?.wait()?;
/// assert_eq!(receipt.offset.get(), 1);
/// producer.flush()?; // reports what a detached send could not
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    outbox: Outbox<TopicState>,
    /// Below the outbox: the buffered records are handed over before the broker may be dropped.
    broker: Arc<BrokerInner>,
}

impl Broker {
    /// A producer with the default settings. Each has its own buffer, so create one and clone it.
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// let receipt = broker.producer().send(&orders, Record::new("42 EUR"))?.wait()?;
    /// assert_eq!(receipt.offset.get(), 0);
    /// # Ok(()) }
    /// ```
    pub fn producer(&self) -> Producer {
        Producer::unchecked(self.inner().clone(), ProducerConfig::new(), None)
    }

    /// A producer with the given settings.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig).
    pub fn producer_with(&self, config: ProducerConfig) -> Result<Producer> {
        config.validate()?;
        let identity = config.name.as_deref().map(|name| self.inner().open_producer(name)).transpose()?;
        Ok(Producer::unchecked(self.inner().clone(), config, identity))
    }
}

impl Producer {
    /// With settings that have been validated.
    fn unchecked(
        broker: Arc<BrokerInner>,
        config: ProducerConfig,
        identity: Option<ProducerIdentity>,
    ) -> Self {
        // The seed decides where records without a key go.
        let outbox = Outbox::new(Core::new(broker.ctx.clone(), config, identity), broker.next_seed());
        Producer { shared: Arc::new(Shared { outbox, broker }) }
    }

    /// Sends a record: it is copied into the buffer, so that nothing of the caller's stays
    /// borrowed.
    ///
    /// If the [buffer](ProducerConfig::buffer_bytes) is full, the call writes batches of it in this
    /// thread, and if other threads are writing all of them, it waits for those, for at most
    /// [`max_block`](ProducerConfig::max_block). So it must not be called where the same thread is
    /// writing for this producer: by a waker, or by a listener of events.
    /// [`try_send`](Producer::try_send) refuses the record instead, and
    /// [`send_async`](Producer::send_async) awaits room.
    ///
    /// # Errors
    /// The record was not taken, and nothing of it will be written:
    /// [`RecordTooLarge`](crate::Error::RecordTooLarge),
    /// [`InvalidTimestamp`](crate::Error::InvalidTimestamp),
    /// [`UnknownTopic`](crate::Error::UnknownTopic),
    /// [`UnknownPartition`](crate::Error::UnknownPartition),
    /// [`ForeignBroker`](crate::Error::ForeignBroker) for a handle of another broker,
    /// [`TopicDeleted`](crate::Error::TopicDeleted), [`Closed`](crate::Error::Closed), or
    /// [`BufferFull`](crate::Error::BufferFull) if there was no room for
    /// [`max_block`](ProducerConfig::max_block). An error of the write itself is returned by the
    /// [`Pending`]. A producer with a [name](ProducerConfig::name) may be
    /// [`Fenced`](crate::Error::Fenced).
    ///
    /// A record with a [sequence](Record::sequence) is not buffered: the call writes it, and
    /// returns an error of the write. If the record was sent before, the `Pending` returns its
    /// first receipt, or the call returns [`DuplicateSequence`](crate::Error::DuplicateSequence) if
    /// that is not known any more. If it comes too late, the call returns
    /// [`OutOfOrderSequence`](crate::Error::OutOfOrderSequence). If the topic was given more
    /// partitions, a record with a key is also searched for where its key belonged before; without
    /// a key, or with a [partitioner](ProducerConfig::partitioner), or if the records there are
    /// deleted, the call may return [`PossibleDuplicate`](crate::Error::PossibleDuplicate).
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.ensure_topic("t", TopicConfig::new().partitions(2))?;
    /// let producer = broker.producer();
    /// producer.send("t", Record::new("by name"))?.detach();
    /// producer.send(&topic, Record::new("by handle").key("k"))?.detach();
    /// let receipt = producer.send(&topic.partition(1)?, Record::tombstone("k"))?.wait()?;
    /// assert_eq!(receipt.partition.get(), 1);
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn send(&self, to: impl Destination, record: Record<'_>) -> Result<Pending> {
        self.take(to.target(), &record, WhenFull::Wait)
    }

    /// As [`send`](Producer::send), but if the buffer is full, the call writes and waits for
    /// nothing, and gives the record back. Batches are written when they have
    /// [lingered](ProducerConfig::linger), so there is room later; [`flush`](Producer::flush) makes
    /// room at once.
    ///
    /// A record that fills its batch, or comes without lingering, is written by the call, as by
    /// `send`.
    ///
    /// # Errors
    /// Those of [`send`](Producer::send), with the record.
    /// [`BufferFull`](crate::Error::BufferFull) if the buffer is full.
    ///
    /// ```
    /// # use quipu::{Broker, Error, ProducerConfig, Record, TopicConfig};
    /// # use std::time::Duration;
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.ensure_topic("t", TopicConfig::new().partitions(4))?;
    /// let config = ProducerConfig::new().batch_bytes(4 << 10).buffer_bytes(4 << 10);
    /// let producer = broker.producer_with(config.linger(Duration::from_secs(60)))?;
    /// for number in 0..1_000 {
    ///     let record = Record::new(vec![0; 100]).key(number.to_string());
    ///     match producer.try_send("t", record) {
    ///         Ok(sent) => sent.detach(),
    ///         Err(refused) if matches!(refused.cause(), Error::BufferFull { .. }) => {
    ///             producer.flush()?; // or drop a reading of a sensor, and count it
    ///             producer.send("t", refused.into_record())?.detach();
    ///         }
    ///         Err(refused) => return Err(refused.into_cause()),
    ///     }
    /// }
    /// # producer.flush()
    /// # }
    /// ```
    pub fn try_send<'r>(
        &self,
        to: impl Destination,
        record: Record<'r>,
    ) -> std::result::Result<Pending, TrySendError<'r>> {
        self.take(to.target(), &record, WhenFull::Refuse).map_err(|cause| TrySendError::new(record, cause))
    }

    /// Sends many records: all of them are taken, or on an error none.
    ///
    /// Records for the same partition stay together in their order. Each partition's are written in
    /// as many batches as their size requires, so a crash may keep a prefix of them.
    ///
    /// # Errors
    /// As [`send`](Producer::send); `InvalidTimestamp` has the index of the record.
    /// [`BufferFull`](crate::Error::BufferFull) also if the records together are larger than
    /// [`ProducerConfig::buffer_bytes`]: send them in pieces.
    ///
    /// Records with sequences are written as one batch for each partition, and an error of one
    /// partition keeps no other from being written. Send all of them again, the same records, until
    /// the call succeeds: those that are there are found, also by a later run of the program. As a
    /// batch with gaps between its sequences does not list them, it is recognized as a whole, by
    /// its keys and values; a part of it, or another record in place of one, is a
    /// [`DuplicateSequence`](crate::Error::DuplicateSequence).
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.ensure_topic("t", TopicConfig::new())?;
    /// let lines = "one\ntwo\nthree";
    /// let receipts = broker.producer().send_all("t", lines.lines().map(Record::new))?.wait()?;
    /// assert_eq!(receipts.last().unwrap().offset.get(), 2);
    /// # Ok(()) }
    /// ```
    pub fn send_all<'r>(
        &self,
        to: impl Destination,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Pending<Vec<Receipt>>> {
        let outbox = &self.shared.outbox;
        let mut records = records.into_iter().peekable();
        self.check_name()?;
        if records.peek().is_some_and(|record| record.given_sequence().is_some()) {
            return Ok(Pending::other(self.send_sequenced(to.target(), records.collect())?));
        }
        match to.target() {
            Target::Topic(topic) => {
                topic.check_broker(&self.shared.broker)?;
                outbox.send_all(topic.state(), None, records)
            }
            Target::Partition(partition) => {
                partition.check_broker(&self.shared.broker)?;
                outbox.send_all(partition.state(), Some(partition.id().get()), records)
            }
            Target::Name(name) => outbox.send_all(&self.shared.broker.topic_state(name)?, None, records),
        }
    }

    /// As [`send`](Producer::send) and awaiting the receipt; if the buffer is full it awaits room,
    /// for as long as it takes, and blocks no thread for it.
    ///
    /// Nothing happens before it is first polled. Dropped before it was taken, the record is not
    /// sent; dropped later, it is as if the acknowledgement had been detached.
    ///
    /// # Errors
    /// Those of [`send`](Producer::send) but `BufferFull`, and those of [`Pending::wait`].
    ///
    /// ```
    /// # use quipu::{Producer, Receipt, Record, Result};
    /// async fn ship(producer: &Producer, order: &str) -> Result<Receipt> {
    ///     producer.send_async("orders", Record::new(order)).await
    /// }
    /// ```
    pub fn send_async<'a, D: Destination>(&'a self, to: D, record: Record<'a>) -> SendFuture<'a, D> {
        SendFuture { producer: self, to, waiting: self.waiting(record), sent: None }
    }

    /// A record that is to be sent once there is room for it.
    pub(crate) fn waiting<'r>(&self, record: Record<'r>) -> WaitingRecord<'r> {
        let room = RoomWait::new(self.shared.outbox.core(), Measured::new(&record).len());
        WaitingRecord { record, room }
    }

    /// Sends a record that waits, or leaves the waker until there is room.
    pub(crate) fn poll_take(
        &self,
        to: &impl Destination,
        waiting: &mut WaitingRecord<'_>,
        cx: &Context<'_>,
    ) -> Poll<Result<Pending>> {
        let WaitingRecord { record, room } = waiting;
        room.poll(cx, || self.take(to.target(), record, WhenFull::Write))
    }

    /// Writes everything that was sent before this call and blocks until each topic's durability
    /// holds for it.
    ///
    /// # Errors
    /// The first error since the last flush that no [`Pending`] returned, because it was detached
    /// or dropped, or the error that kept a topic's records from becoming durable. It is reported
    /// once; everything else has been written nevertheless. If records have been truncated since
    /// with [`truncate_to`](crate::Partition::truncate_to) or
    /// [`reset_to`](crate::Partition::reset_to), that is not an error here.
    pub fn flush(&self) -> Result<()> {
        Box::new(self.shared.outbox.flush()).wait()
    }

    /// As [`flush`](Producer::flush): writes everything now, and leaves the waiting to the
    /// [`Pending`].
    pub fn flush_async(&self) -> Pending<()> {
        Pending::other(self.shared.outbox.flush())
    }

    #[inline]
    fn take(&self, to: Target<'_>, record: &Record<'_>, full: WhenFull) -> Result<Pending> {
        self.check_name()?;
        if record.given_sequence().is_some() {
            let sent = self.send_sequenced(to, vec![record.clone()])?;
            return Ok(Pending::other(sequenced::One(sent)));
        }
        let outbox = &self.shared.outbox;
        match to {
            Target::Topic(topic) => {
                topic.check_broker(&self.shared.broker)?;
                outbox.take(topic.state(), None, record, full)
            }
            Target::Partition(partition) => {
                partition.check_broker(&self.shared.broker)?;
                outbox.take(partition.state(), Some(partition.id().get()), record, full)
            }
            Target::Name(name) => outbox.take(&self.shared.broker.topic_state(name)?, None, record, full),
        }
    }
}

#[cfg(feature = "futures")]
impl Producer {
    /// As the first try of [`poll_take`](Producer::poll_take), without a waker.
    ///
    /// # Errors
    /// `BufferFull`, and those of a send.
    pub(crate) fn take_now(&self, to: &impl Destination, waiting: &WaitingRecord<'_>) -> Result<Pending> {
        self.take(to.target(), &waiting.record, WhenFull::Write)
    }
}

impl Producer {
    /// Its settings.
    ///
    /// ```
    /// # use quipu::{Broker, ProducerConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let producer = broker.producer_with(ProducerConfig::new().name("outbox"))?;
    /// assert_eq!(producer.config().get_name(), Some("outbox"));
    /// # Ok(()) }
    /// ```
    pub fn config(&self) -> &ProducerConfig {
        &self.shared.outbox.core().config
    }

    /// The last sequence that the producer of this name has sent to a partition, now or in an
    /// earlier run: continue with the next one. `None` if it has sent none.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig) without a [name](ProducerConfig::name);
    /// [`Fenced`](crate::Error::Fenced); [`ForeignBroker`](crate::Error::ForeignBroker);
    /// [`TopicDeleted`](crate::Error::TopicDeleted), [`Closed`](crate::Error::Closed),
    /// [`Corrupt`](crate::Error::Corrupt) if the stored sequences cannot be read, or an I/O error.
    /// See [`ProducerConfig::name`] for an example.
    pub fn last_sequence(&self, partition: &Partition) -> Result<Option<u64>> {
        let identity = self.identity()?;
        identity.check()?;
        partition.check_broker(&self.shared.broker)?;
        partition.state().check()?;
        Ok(idempotence::locate(partition.log(), identity.id, u64::MAX)?.0)
    }

    /// # Errors
    /// `Fenced` if another has its name now.
    #[inline]
    fn check_name(&self) -> Result<()> {
        self.shared.outbox.core().identity.as_ref().map_or(Ok(()), ProducerIdentity::check)
    }

    fn identity(&self) -> Result<&ProducerIdentity> {
        let reason = "only an idempotent producer, which has a name, knows its sequences";
        self.shared.outbox.core().identity.as_ref().ok_or_else(|| invalid("sequence", reason))
    }

    fn send_sequenced(&self, to: Target<'_>, records: Vec<Record<'_>>) -> Result<sequenced::Sent> {
        let (broker, identity, outbox) = (&self.shared.broker, self.identity()?, &self.shared.outbox);
        let send = |topic: &Arc<TopicState>, partition| {
            sequenced::send(broker, identity, outbox, topic, partition, records)
        };
        match to {
            Target::Topic(topic) => {
                topic.check_broker(broker)?;
                send(topic.state(), None)
            }
            Target::Partition(partition) => {
                partition.check_broker(broker)?;
                send(partition.state(), Some(partition.id().get()))
            }
            Target::Name(name) => send(&broker.topic_state(name)?, None),
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.shared.outbox.core();
        f.debug_struct("Producer").field("config", &core.config).field("buffered", &core.buffered()).finish()
    }
}

/// The future of [`Producer::send_async`]. It may be dropped at any time: before the record was
/// taken, it is not sent; later, it is as if the acknowledgement had been
/// [detached](Pending::detach).
///
/// `D` is the destination as it was passed: for example `SendFuture<'a, &'a Topic>` can be a field.
#[must_use = "nothing is sent before it is polled"]
pub struct SendFuture<'a, D> {
    producer: &'a Producer,
    to: D,
    waiting: WaitingRecord<'a>,
    /// Once there was room.
    sent: Option<Pending>,
}

/// A record, and its place among those that wait for room.
pub(crate) struct WaitingRecord<'a> {
    record: Record<'a>,
    room: RoomWait,
}

impl<D: Destination> Future for SendFuture<'_, D> {
    type Output = Result<Receipt>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let this = self.get_mut();
        let sent = match &mut this.sent {
            Some(sent) => sent,
            None => match this.producer.poll_take(&this.to, &mut this.waiting, cx) {
                Poll::Ready(pending) => this.sent.insert(pending?),
                Poll::Pending => return Poll::Pending,
            },
        };
        Pin::new(sent).poll(cx)
    }
}

impl<D> fmt::Debug for SendFuture<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendFuture").field("taken", &self.sent.is_some()).finish_non_exhaustive()
    }
}
