//! Appends to one partition as single batches, with a condition and without, and what a caller
//! waits for there: durability, and records of others.
//!
//! The concurrency argument: a batch is encoded and compressed before, and its offsets are assigned
//! and its condition is checked under the writer's lock under which it is written. So it is in the
//! log whole or not at all, no other record is between its own, and no record comes between a check
//! and the append. The sync is waited for outside of that lock.

use std::task::{Context, Poll};
use std::time::Duration;

use super::partition::Partition;
use crate::broker::prepare;
use crate::engine::{Interest, Waiter};
use crate::error::{Error, Result};
use crate::log::{Appended, Log, durability};
use crate::partitioner::check_stream;
use crate::producer::{Pending, Wait};
use crate::reader::parking::wait_for;
use crate::record::Record;
use crate::segment::builder::SealedBatch;
use crate::sync::Arc;
use crate::types::{Offset, Receipt};

impl Partition {
    /// Appends records as one batch: all of them or none, one after the other without a gap or
    /// another record in between. Returns the receipt of the first record, once all of them are as
    /// safe as the topic's durability demands.
    ///
    /// A producer gathers records into batches, which is faster for many small calls; its records
    /// that are not written yet come after these.
    ///
    /// # Errors
    /// Those of [`Producer::send`](crate::Producer::send);
    /// [`RecordTooLarge`](Error::RecordTooLarge) also if no segment has room for the batch;
    /// [`InvalidConfig`](Error::InvalidConfig) if there are no records, or one has a
    /// [sequence](crate::Record::sequence).
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let ledger = broker.create_topic("ledger", TopicConfig::new())?.partition(0)?;
    /// let receipt = ledger.append([Record::new("-42 EUR"), Record::new("+42 EUR")])?;
    /// assert_eq!((receipt.offset.get(), ledger.bounds()?.visible_end.get()), (0, 2));
    /// # Ok(()) }
    /// ```
    pub fn append<'r>(&self, records: impl IntoIterator<Item = Record<'r>>) -> Result<Receipt> {
        self.write_and_wait(None, records)
    }

    /// As [`append`](Partition::append), to be waited for later or awaited. The batch is written
    /// when this returns; only the sync is left, if the topic's durability demands one. If that
    /// fails and the `Pending` is dropped or detached, the error is an event,
    /// [`Poisoned`](crate::stats::Event::Poisoned), and that of later appends.
    ///
    /// # Errors
    /// As [`append`](Partition::append); nothing was appended.
    ///
    /// ```
    /// # use quipu::{Broker, Durability, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let config = TopicConfig::new().durability(Durability::Sync);
    /// let ledger = broker.create_topic("ledger", config)?.partition(0)?;
    /// let first = ledger.append_async([Record::new("first")])?;
    /// let second = ledger.append_async([Record::new("second")])?;
    /// assert_eq!((first.wait()?.offset.get(), second.wait()?.offset.get()), (0, 1)); // one sync
    /// # Ok(()) }
    /// ```
    pub fn append_async<'r>(
        &self,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Pending<Receipt>> {
        Ok(self.leave(self.write(None, records)?))
    }

    /// As [`append`](Partition::append), if the partition ends at `end`, that is, if no record was
    /// appended after those that the caller has read.
    ///
    /// # Errors
    /// [`OffsetConflict`](Error::OffsetConflict) if it ends elsewhere: nothing was appended; read
    /// on from `end` and decide again. Those of [`append`](Partition::append).
    ///
    /// ```
    /// # use quipu::{Broker, Error, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.create_topic("ledger", TopicConfig::new())?;
    /// let ledger = topic.partition(0)?;
    /// let seen = ledger.bounds()?.log_end;
    /// let receipt = ledger.append_at(seen, [Record::new("opened"), Record::new("paid in")])?;
    /// assert_eq!(receipt.offset, 0);
    /// let late = ledger.append_at(seen, [Record::new("paid out")]);
    /// assert!(matches!(late, Err(Error::OffsetConflict { end, .. }) if end == 2));
    /// # Ok(()) }
    /// ```
    pub fn append_at<'r>(
        &self,
        end: Offset,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Receipt> {
        self.write_and_wait(Some(end), records)
    }

    /// As [`append_at`](Partition::append_at), to be waited for later or awaited, as
    /// [`append_async`](Partition::append_async). A caller that is the only writer may append the
    /// next batch at once, at the end of this one.
    ///
    /// # Errors
    /// As [`append_at`](Partition::append_at); nothing was appended.
    ///
    /// ```
    /// # use quipu::{Broker, Offset, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let ledger = broker.create_topic("ledger", TopicConfig::new())?.partition(0)?;
    /// let entries = ["a", "b", "c"].map(Record::new);
    /// let pending: Vec<_> = (0..)
    ///     .zip(entries)
    ///     .map(|(end, entry)| ledger.append_at_async(Offset::new(end), [entry]))
    ///     .collect::<quipu::Result<_>>()?;
    /// for acknowledged in pending {
    ///     acknowledged.wait()?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn append_at_async<'r>(
        &self,
        end: Offset,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Pending<Receipt>> {
        Ok(self.leave(self.write(Some(end), records)?))
    }

    fn write_and_wait<'r>(
        &self,
        end: Option<Offset>,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Receipt> {
        let (end, receipt) = self.write(end, records)?;
        self.log().wait_visible(end, receipt.epoch)?;
        Ok(receipt)
    }

    fn leave(&self, (end, receipt): (Offset, Receipt)) -> Pending<Receipt> {
        Pending::other(Written { log: self.log().clone(), end, receipt })
    }

    /// Appends records as one batch, if the log ends at `end`. Returns its end, and the receipt of
    /// its first record.
    fn write<'r>(
        &self,
        end: Option<Offset>,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<(Offset, Receipt)> {
        let (state, log) = (self.state(), self.log());
        let mut misplaced = Ok(());
        let records = records.into_iter().inspect(|record| {
            if state.has_streams() && misplaced.is_ok() {
                let count = state.log_count();
                misplaced = check_stream(self.topic(), record.key_bytes(), self.id().get(), count);
            }
        });
        let prepared = prepare(log.context(), state, log, records);
        misplaced?;
        let (batch, timestamps) = prepared?;
        let Some(first) = timestamps.first().copied() else {
            return Err(Error::internal("a prepared batch has a record"));
        };
        let appended = append_if(log, batch, end)?;
        let receipt = appended.receipt(self.topic(), self.id(), 0, first);
        Ok((appended.end, receipt))
    }

    /// Makes all records durable that have been appended to this partition so far, whatever the
    /// topic's [durability](crate::TopicConfig::durability), and visible. Records in the open
    /// batches of producers are not appended yet: flush those first. Callers at the same time share
    /// a sync.
    ///
    /// # Errors
    /// [`Poisoned`](Error::Poisoned) or [`Corrupt`](Error::Corrupt) if the partition takes no
    /// appends; [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed); or the I/O error
    /// of the sync: the partition is poisoned.
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// for order in 0..100 {
    ///     orders.append([Record::new(order.to_string())])?;
    /// }
    /// orders.sync()?; // one for all of them
    /// assert_eq!(orders.bounds()?.durable_end, 100);
    /// # Ok(()) }
    /// ```
    pub fn sync(&self) -> Result<()> {
        self.state().check()?;
        self.log().check_writable()?;
        let synced = self.log().sync();
        self.log().context().events.deliver();
        synced
    }

    /// Waits until the partition is visible to after `offset`, that is, until there is or was a
    /// visible record at this offset or a later one, and returns whether that came within
    /// `timeout`. With [`Duration::ZERO`], and under a [`ManualClock`](crate::ManualClock), it
    /// never waits. A [`Reader`](crate::Reader) waits for records of several partitions, and async
    /// code with [`recv`](crate::Reader::recv).
    ///
    /// # Errors
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), also if that happens while
    /// it waits; or the error that damaged all of the partition.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?.partition(0)?;
    /// let next = orders.bounds()?.visible_end;
    /// let writer = orders.clone();
    /// let thread = std::thread::spawn(move || writer.append([Record::new("first")]));
    /// assert!(orders.wait_for(next, Duration::from_secs(60))?);
    /// assert_eq!(orders.read(Start::At(next), 1 << 20)?.len(), 1);
    /// # thread.join().unwrap()?;
    /// # Ok(()) }
    /// ```
    pub fn wait_for(&self, offset: Offset, timeout: Duration) -> Result<bool> {
        let (state, log) = (self.state(), self.log());
        let watch = Watch::new(log);
        let look = || {
            // IMPORTANT: arm before the look. A record that comes after the look then signals.
            log.waiters().arm(&watch.interest);
            state.check()?;
            log.check_readable()?;
            Ok((log.visible_end() > offset).then_some(()))
        };
        Ok(wait_for(log.context(), &watch.waiter, timeout, look)?.is_some())
    }
}

fn append_if(log: &Arc<Log>, mut batch: SealedBatch, end: Option<Offset>) -> Result<Appended> {
    let Some(end) = end else { return log.append(&mut batch) };
    log.append_at(&mut batch, end).map_err(|error| match error {
        Error::OffsetConflict { .. } => durability::resolve_conflict(log, error),
        error => error,
    })
}

/// A batch that is written and may not be synced yet. Dropping it leaves the sync to the
/// background.
struct Written {
    log: Arc<Log>,
    end: Offset,
    /// That of its first record.
    receipt: Receipt,
}

impl Wait<Receipt> for Written {
    fn wait(self: Box<Self>) -> Result<Receipt> {
        self.log.wait_visible(self.end, self.receipt.epoch)?;
        Ok(self.receipt.clone())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let polled = self.log.poll_visible(self.end, self.receipt.epoch, cx.waker());
        if polled.is_pending() {
            self.log.request_sync();
        }
        polled.map_ok(|()| self.receipt.clone())
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        Some(self.log.context())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.log.request_sync();
    }
}

/// While it lives, changes of a log signal its waiter.
struct Watch<'a> {
    log: &'a Log,
    waiter: Arc<Waiter>,
    interest: Arc<Interest>,
}

impl<'a> Watch<'a> {
    fn new(log: &'a Log) -> Self {
        let waiter = Arc::new(Waiter::new(&log.context().events));
        let interest = Arc::new(Interest::new(&waiter, 0));
        log.waiters().add(interest.clone());
        Watch { log, waiter, interest }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.log.waiters().remove(&self.interest);
    }
}
