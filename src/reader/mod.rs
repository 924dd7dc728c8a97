//! Reading without a group. A reader walks partitions from given positions and keeps its position
//! itself.
//!
//! Useful for: projections, exports, tests, and everything that stores its positions beside its own
//! results. Not useful for: sharing partitions among several members, or letting the broker store
//! the positions; use groups for that. Fetching is in [`fetcher`], the position in one partition in
//! [`assigned`]; a group's consumer uses the same two.

pub(crate) mod assigned;
pub(crate) mod fetcher;
mod handle;
pub(crate) mod moved;
mod once;
mod one_record;
pub(crate) mod parking;
mod policy;
mod ready;
mod recv;
pub(crate) mod step;
mod to_end;

use std::collections::HashSet;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use self::assigned::Assigned;
use self::fetcher::Fetcher;
pub use self::handle::ReaderHandle;
pub(crate) use self::once::{read_last, read_once};
pub(crate) use self::one_record::OneRecord;
pub use self::policy::OffsetReset;
pub(crate) use self::policy::{PollLimits, check_max_bytes};
pub(crate) use self::recv::{Receive, ReceiveOne};
pub use self::recv::{Recv, RecvOne};
use self::to_end::ToEnd;
use crate::broker::{Broker, BrokerInner};
use crate::config::invalid;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::log::Log;
use crate::records::Records;
use crate::sync::Arc;
use crate::types::{Names, PartitionId, Position, Start, TopicPartition};

/// Reads partitions from given places on, without a group and without commits.
///
/// Each poll returns records of one or several partitions, in order within each, and starts after
/// the partition that was served last. A batch that cannot be read does not hide the good ones
/// before it: those are delivered, and the next poll returns the error, again and again until the
/// caller [seeks](Reader::seek) past the damage (to
/// [`Corruption::resume`](crate::Corruption::resume)) or [pauses](Reader::pause) the partition. The
/// other partitions are served meanwhile, as by Kafka's consumer: between two polls that return the
/// error of a partition, one returns the records of the others, if there are any.
///
/// ```
/// use std::time::Duration;
/// use quipu::{Broker, Record, Start, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let broker = Broker::in_memory()?;
/// let orders = broker.create_topic("orders", TopicConfig::new().partitions(4))?;
/// broker.producer().send(&orders, Record::new("42 EUR").key("customer-7"))?.wait()?;
///
/// let mut reader = broker.reader(&["orders"], Start::Beginning)?;
/// for record in &reader.poll(Duration::from_millis(200))? {
///     assert_eq!(record.value(), Some(&b"42 EUR"[..]));
/// }
///
/// // Its place can be stored and come back to.
/// let stored: Vec<String> = reader.positions().iter().map(ToString::to_string).collect();
/// let positions = stored.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
/// let reader = broker.reader_at(&positions)?;
/// assert_eq!(reader.to_end().count(), 0, "all has been read");
/// # Ok(()) }
/// ```
pub struct Reader {
    fetcher: Fetcher,
}

impl Broker {
    /// A reader over all partitions of these topics, and, from their beginning, over those that are
    /// added to them later. It belongs to no group and commits nothing.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`Closed`](Error::Closed); with [`Start::Time`] those
    /// of [`Partition::offset_for_time`](crate::Partition::offset_for_time).
    ///
    /// ```
    /// # use quipu::{Broker, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// broker.create_topic("orders", TopicConfig::new().partitions(4))?;
    /// let reader = broker.reader(&["orders"], Start::Beginning)?;
    /// assert_eq!(reader.positions().len(), 4);
    /// # Ok(()) }
    /// ```
    pub fn reader(&self, topics: impl Names, from: Start) -> Result<Reader> {
        Reader::new(self.inner().clone(), &topics.into_names(), from)
    }

    /// A reader of the partitions of these positions and of no others, each from its position on. A
    /// position is that of the *next* record to read: for a record that has been processed, pass
    /// [`Position::next`].
    ///
    /// The first poll checks whether a position is still in the log, and follows the [reset
    /// policy](Reader::offset_reset).
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`UnknownPartition`](Error::UnknownPartition),
    /// [`Closed`](Error::Closed); [`InvalidConfig`](Error::InvalidConfig) for two positions in one
    /// partition.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # let producer = broker.producer();
    /// let done = producer.send(&orders, Record::new("first"))?.wait()?.position();
    /// producer.send(&orders, Record::new("second"))?.wait()?;
    /// let records = broker.reader_at(&[done.next()])?.poll(std::time::Duration::ZERO)?;
    /// assert_eq!(records.iter().next().unwrap().value(), Some(&b"second"[..]));
    /// # Ok(()) }
    /// ```
    pub fn reader_at(&self, next: &[Position]) -> Result<Reader> {
        Reader::at(self.inner().clone(), next)
    }
}

impl Reader {
    /// A reader over all partitions of these topics, and over those that are added to them later.
    ///
    /// # Errors
    /// `UnknownTopic`, `Closed`, those of looking for a time.
    pub(crate) fn new(broker: Arc<BrokerInner>, topics: &[String], from: Start) -> Result<Self> {
        let mut states = Vec::with_capacity(topics.len());
        for (at, name) in topics.iter().enumerate() {
            if !topics.iter().take(at).any(|earlier| earlier == name) {
                states.push(broker.topic_state(name)?);
            }
        }
        let mut fetcher = Fetcher::new(broker);
        for state in states {
            fetcher.follow(state, from)?;
        }
        Ok(Reader { fetcher })
    }

    /// A reader of the partitions of these positions, and of no others.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, `Closed`; `InvalidConfig` for two positions in one
    /// partition.
    pub(crate) fn at(broker: Arc<BrokerInner>, next: &[Position]) -> Result<Self> {
        let mut fetcher = Fetcher::new(broker);
        let mut seen = HashSet::with_capacity(next.len());
        for position in next {
            if !seen.insert((&position.topic, position.partition)) {
                let reason = format!("there are two in {}/{}", position.topic, position.partition);
                return Err(invalid("positions", &reason));
            }
            let log = find_log(fetcher.broker(), position)?;
            fetcher.assign(Assigned::new(log, position.offset, position.epoch));
        }
        Ok(Reader { fetcher })
    }

    /// The most records of one poll.
    ///
    /// Default: no limit but that on bytes (Kafka's `max.poll.records` is 500). At least 1: with 0
    /// each poll returns [`InvalidConfig`](Error::InvalidConfig).
    #[must_use]
    pub fn max_records(mut self, records: usize) -> Self {
        self.fetcher.limits_mut().max_records = records;
        self
    }

    /// About how many bytes of records one poll may return, uncompressed. The first batch is
    /// delivered even if it is larger, because a reader could be stuck before it otherwise.
    ///
    /// Default: 1 MiB, in bytes. At least 1, with which each poll returns a single batch: with 0
    /// each poll returns [`InvalidConfig`](Error::InvalidConfig).
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.fetcher.limits_mut().max_bytes = bytes;
        self
    }

    /// The policy for a next offset that is not in the log.
    ///
    /// Default: [`OffsetReset::Beginning`].
    #[must_use]
    pub fn offset_reset(mut self, reset: OffsetReset) -> Self {
        self.fetcher.limits_mut().reset = reset;
        self
    }

    /// See [`max_records`](Reader::max_records); `usize::MAX` without a limit.
    pub fn get_max_records(&self) -> usize {
        self.fetcher.limits().max_records
    }

    /// See [`max_bytes`](Reader::max_bytes).
    pub fn get_max_bytes(&self) -> usize {
        self.fetcher.limits().max_bytes
    }

    /// See [`offset_reset`](Reader::offset_reset).
    pub fn get_offset_reset(&self) -> OffsetReset {
        self.fetcher.limits().reset
    }

    /// The next records, waiting for some for at most `timeout`. Empty if none came, or if
    /// [`ReaderHandle::wakeup`] was called; without records but with [`skipped`](Records::skipped)
    /// ranges if reading only moved on.
    ///
    /// Under a manual clock it runs due work, returns the records that are there, and never waits.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) and an I/O error of a partition at its turn, after the good
    /// records before it; [`OffsetOutOfRange`](Error::OffsetOutOfRange) and
    /// [`Truncated`](Error::Truncated) with [`OffsetReset::Fail`];
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed). No position has moved. The
    /// next poll returns the records of other partitions, and the one after it, or the next if
    /// there are none, returns the error again if it still holds. `Corrupt` names the partition and
    /// the offset.
    ///
    /// ```
    /// # use quipu::{Broker, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("orders", TopicConfig::new())?;
    /// let mut reader = broker.reader(&["orders"], Start::End)?;
    /// assert!(reader.poll(std::time::Duration::from_millis(1))?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        self.fetcher.poll(timeout, |_| Ok(()))
    }

    /// The next records, as soon as there are any. Needs no particular runtime, and may be dropped
    /// at any time: records that were not returned come with the next call.
    ///
    /// Under a manual clock, moving the clock wakes it if that brings records.
    ///
    /// # Errors
    /// As [`poll`](Reader::poll).
    ///
    /// ```
    /// # use quipu::{Reader, Result};
    /// async fn print_all(mut reader: Reader) -> Result<()> {
    ///     loop {
    ///         for record in &reader.recv().await? {
    ///             println!("{record:?}");
    ///         }
    ///     }
    /// }
    /// ```
    pub fn recv(&mut self) -> Recv<'_, Reader> {
        Recv::new(self)
    }

    /// The next record, as soon as there is one; `None` after a [wake-up](ReaderHandle::wakeup).
    /// May be dropped at any time, as [`recv`](Reader::recv), which costs less for each record.
    ///
    /// The rest of its batch stays with the partition: [`position`](Reader::position) is after the
    /// record that was returned last, and a [`seek`](Reader::seek) counts for the next one. Ranges
    /// that are [skipped](Records::skipped) are not reported; with [`OffsetReset::Fail`] those that
    /// are out of range are errors.
    ///
    /// # Errors
    /// As [`poll`](Reader::poll).
    ///
    /// ```
    /// # use quipu::{Reader, Result};
    /// async fn print_until_wakeup(mut reader: Reader) -> Result<()> {
    ///     while let Some(record) = reader.recv_one().await? {
    ///         println!("{record:?}");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn recv_one(&mut self) -> RecvOne<'_, Reader> {
        RecvOne::new(self)
    }

    /// As [`poll`](Reader::poll) without a time limit, for a future or a stream of the caller's
    /// own: if there is nothing, it returns `Pending` and keeps the waker of `cx` until there is.
    /// [`recv`](Reader::recv) is made of this.
    ///
    /// # Errors
    /// As [`poll`](Reader::poll).
    pub fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>> {
        self.fetcher.poll_records(cx, |_| Ok(()))
    }

    /// All records up to the current visible ends, and then the end. Records that are appended
    /// meanwhile, partitions that are added, paused ones and [`wakeup`](ReaderHandle::wakeup) are
    /// left out. An error ends it too.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # let producer = broker.producer();
    /// for n in 0..3 {
    ///     producer.send(&orders, Record::new(n.to_string()))?.wait()?;
    /// }
    /// let mut values = Vec::new();
    /// for records in broker.reader(&["orders"], Start::Beginning)?.to_end() {
    ///     values.extend(records?.iter().map(|record| record.value().unwrap().to_vec()));
    /// }
    /// assert_eq!(values, [b"0", b"1", b"2"]);
    /// # Ok(()) }
    /// ```
    pub fn to_end(self) -> impl Iterator<Item = Result<Records>> + Send {
        ToEnd::new(self.fetcher)
    }

    /// Continues at a position. The next poll checks whether it is in the log, and follows the
    /// [reset policy](Reader::offset_reset).
    ///
    /// # Errors
    /// [`NotAssigned`](Error::NotAssigned) if this is no partition of the reader's.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # let producer = broker.producer();
    /// let paid = producer.send(&orders, Record::new("paid"))?.wait()?;
    /// let mut reader = broker.reader(&["orders"], Start::End)?;
    /// reader.seek(&paid.position())?;
    /// let records = reader.poll(std::time::Duration::ZERO)?;
    /// assert_eq!(records.last().unwrap().value(), Some(&b"paid"[..]));
    /// # Ok(()) }
    /// ```
    pub fn seek(&mut self, to: &Position) -> Result<()> {
        self.fetcher.find(to.topic.as_str(), to.partition)?.seek(to.offset, to.epoch);
        Ok(())
    }

    /// Continues at the same kind of place in all partitions, with the current ends.
    ///
    /// # Errors
    /// With [`Start::Time`] those of
    /// [`Partition::offset_for_time`](crate::Partition::offset_for_time); then no position has
    /// moved. Otherwise none.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, Timestamp, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # let producer = broker.producer();
    /// for time in [1_000, 2_000, 3_000] {
    ///     let record = Record::new(time.to_string()).timestamp(Timestamp::from_millis(time));
    ///     producer.send(&orders, record)?.wait()?;
    /// }
    /// let mut reader = broker.reader(&["orders"], Start::End)?;
    /// reader.seek_all(Start::Time(Timestamp::from_millis(1_500)))?;
    /// let records = reader.poll(std::time::Duration::ZERO)?;
    /// assert_eq!(records.iter().next().unwrap().value(), Some(&b"2000"[..]));
    /// # Ok(()) }
    /// ```
    pub fn seek_all(&mut self, to: Start) -> Result<()> {
        self.fetcher.seek_all(to)
    }

    /// Where each partition continues. Store them to continue later with
    /// [`Broker::reader_at`](crate::Broker::reader_at).
    pub fn positions(&self) -> Vec<Position> {
        self.fetcher.assigned().iter().map(Assigned::position).collect()
    }

    /// Brings the [positions](Reader::positions) up to date that the last call has left in
    /// `positions`.
    pub(crate) fn update(&mut self, positions: &mut Vec<Position>) {
        self.fetcher.update(positions);
    }

    /// Where one partition continues; `None` if it is none of the reader's.
    pub fn position(&self, topic: &str, partition: impl Into<PartitionId>) -> Option<Position> {
        let partition = partition.into();
        self.fetcher.assigned().iter().find(|assigned| assigned.is(topic, partition)).map(Assigned::position)
    }

    /// Leaves a partition out until it is [resumed](Reader::resume): its position stays, its
    /// records wait, and an error it has does not come up.
    ///
    /// # Errors
    /// [`NotAssigned`](Error::NotAssigned) if this is no partition of the reader's.
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # use std::time::Duration;
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.producer().send(&orders, Record::new("v"))?.wait()?;
    /// let mut reader = broker.reader(&["orders"], Start::Beginning)?;
    /// reader.pause("orders", 0)?;
    /// assert!(reader.poll(Duration::ZERO)?.is_empty());
    /// reader.resume("orders", 0)?;
    /// assert_eq!(reader.poll(Duration::ZERO)?.len(), 1);
    /// # Ok(()) }
    /// ```
    pub fn pause(&mut self, topic: &str, partition: impl Into<PartitionId>) -> Result<()> {
        self.fetcher.find(topic, partition.into())?.set_paused(true);
        Ok(())
    }

    /// Takes a [paused](Reader::pause) partition in again. Fine if it is not paused.
    ///
    /// # Errors
    /// [`NotAssigned`](Error::NotAssigned) if this is no partition of the reader's.
    pub fn resume(&mut self, topic: &str, partition: impl Into<PartitionId>) -> Result<()> {
        self.fetcher.find(topic, partition.into())?.set_paused(false);
        Ok(())
    }

    /// Reads partitions of deleted topics no more. Returns whether there were any.
    pub(crate) fn forget_deleted(&mut self) -> bool {
        self.fetcher.forget_deleted()
    }

    /// Whether the last poll returned because of a wake-up.
    pub(crate) fn was_woken_up(&self) -> bool {
        self.fetcher.was_woken_up()
    }

    /// How many visible offsets are still to be read.
    pub(crate) fn lag(&self) -> u64 {
        self.fetcher.lag()
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        let paused = self.fetcher.assigned().iter().filter(|assigned| assigned.is_paused());
        paused.map(|assigned| assigned.log().identity().topic_partition()).collect()
    }

    /// A handle to interrupt this reader's waiting from elsewhere.
    ///
    /// ```
    /// # use quipu::{Broker, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("orders", TopicConfig::new())?;
    /// let mut reader = broker.reader(&["orders"], Start::End)?;
    /// let handle = reader.handle();
    /// std::thread::spawn(move || handle.wakeup());
    /// assert!(reader.poll(std::time::Duration::from_secs(3600))?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn handle(&self) -> ReaderHandle {
        ReaderHandle::new(self.fetcher.waiter())
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.fetcher.assigned().iter().map(|assigned| assigned.position().to_string());
        f.debug_list().entries(places).finish()
    }
}

/// The log that a position is in.
fn find_log(broker: &BrokerInner, position: &Position) -> Result<Arc<Log>> {
    broker.topic_state(position.topic.as_str())?.log(position.partition)
}

impl Receive for Reader {
    type Records = Records;

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>> {
        self.poll_records(cx)
    }

    fn stop_waiting(&mut self) {
        self.fetcher.stop_waiting();
    }
}

impl ReceiveOne for Reader {
    fn receive_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>> {
        OneRecord::new(&mut self.fetcher).poll_records(cx, |_| Ok(()))
    }
}

#[cfg(test)]
mod tests;
