//! The acknowledgement of a record, as its sender holds it: the state of the record's batch, and
//! the record's index in it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::doorbell::Doorbell;
use super::outcome::BatchState;
use crate::engine::Context as Engine;
use crate::error::Result;
use crate::sync::Arc;
use crate::types::{Receipt, Timestamp};

/// An acknowledgement on its way: [`wait`](Pending::wait) for it, `.await` it, or
/// [`detach`](Pending::detach) it.
///
/// It completes when the topic's durability holds, and with that the record is visible to
/// consumers. Waiting ends the batch's lingering. Dropping it is like detaching it. The origin then
/// decides which caller gets an error:
///
/// | from | an error after it was detached or dropped |
/// |---|---|
/// | [`Producer`](crate::Producer) | is returned by the producer's next `flush`, and reported as [`SendFailed`](crate::stats::Event::SendFailed); the record is written all the same |
/// | [`Consumer::commit_async`](crate::Consumer::commit_async), [`Transaction::commit_async`](crate::Transaction::commit_async) | if nothing was committed: goes to the [event listener](crate::BrokerConfig::on_event) as [`CommitFailed`](crate::stats::Event::CommitFailed). If the sync fails later, as [`Poisoned`](crate::stats::Event::Poisoned) |
/// | [`Broker::close_async`](crate::Broker::close_async) | is lost; the broker is closed all the same |
///
/// If writing the record fails, its partition takes no records until one of the `Pending`s that
/// failed with it has returned the error, or all of them are gone (see [order after a failed
/// write](crate::Producer#order-after-a-failed-write)). So a `Pending` that is kept must be waited
/// for or dropped at some time.
///
/// ```
/// # use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # broker.ensure_topic("t", TopicConfig::new())?;
/// let producer = broker.producer();
/// let first = producer.send("t", Record::new("one"))?;
/// let second = producer.send("t", Record::new("two"))?;
/// assert_eq!(first.wait()?.offset.get(), 0);
/// assert_eq!(second.wait()?.offset.get(), 1);
/// # Ok(()) }
/// ```
#[must_use = "wait for it, or state with `detach` that this caller needs no error"]
pub struct Pending<T = Receipt> {
    source: Awaited<T>,
}

enum Awaited<T> {
    /// One record. The function converts its receipt without an allocation.
    Record(RecordWait, fn(Receipt) -> T),
    Other(Box<dyn Wait<T>>),
}

impl<T> Pending<T> {
    /// Blocks until the outcome is known. The calling thread does the remaining work: it writes the
    /// batch, and for a topic with [`Durability::Sync`](crate::Durability::Sync) it syncs the log
    /// if no other thread does.
    ///
    /// # Errors
    /// The error that kept the record from being written, or from becoming durable;
    /// [`Error::outcome`](crate::Error::outcome) returns whether sending it again can duplicate it.
    pub fn wait(self) -> Result<T> {
        match self.source {
            Awaited::Record(record, make) => record.wait().map(make),
            Awaited::Other(other) => other.wait(),
        }
    }

    /// As [`wait`](Pending::wait), for at most `timeout`: then the `Pending` is returned in `Err`, to be
    /// waited for again. The calling thread writes the batch, which the timeout does not end, and
    /// leaves the sync to the broker's thread. With a timeout of zero it waits for no other thread.
    ///
    /// Under a [`ManualClock`](crate::testing::ManualClock) the calling thread writes and syncs. If
    /// another thread is writing the record, the call returns the `Pending` at once.
    ///
    /// # Errors
    /// The `Pending`. In `Ok`, those of [`wait`](Pending::wait).
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # use std::time::Duration;
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.ensure_topic("t", TopicConfig::new())?;
    /// let mut pending = broker.producer().send("t", Record::new("v"))?;
    /// let receipt = loop {
    ///     match pending.wait_timeout(Duration::from_secs(1)) {
    ///         Ok(outcome) => break outcome?,
    ///         Err(still_pending) => pending = still_pending, // and report that the disk is slow
    ///     }
    /// };
    /// assert_eq!(receipt.offset, 0);
    /// # Ok(()) }
    /// ```
    pub fn wait_timeout(mut self, timeout: Duration) -> std::result::Result<Result<T>, Self> {
        let bell = Doorbell::new();
        let waker = Waker::from(bell.clone());
        let mut deadline = None;
        loop {
            if let Poll::Ready(outcome) = Pin::new(&mut self).poll(&mut Context::from_waker(&waker)) {
                return Ok(outcome);
            }
            let has_rung = self.engine().is_some_and(|engine| {
                let clock = &*engine.clock;
                let deadline = *deadline.get_or_insert_with(|| clock.monotonic().saturating_add(timeout));
                bell.wait_until(clock, deadline)
            });
            if !has_rung {
                return Err(self);
            }
        }
    }

    fn engine(&self) -> Option<&Engine> {
        match &self.source {
            Awaited::Record(record, _) => Some(record.batch.ctx()),
            Awaited::Other(other) => other.engine(),
        }
    }

    /// Gives the acknowledgement up, as dropping it does. What was started is completed all the
    /// same. An error goes where the [table](Pending) states for its origin: a producer's next
    /// `flush` returns the first one, and a commit's goes to the event listener.
    pub fn detach(self) {}

    /// An acknowledgement of something else than a record that was sent.
    pub(crate) fn other(wait: impl Wait<T> + 'static) -> Self {
        Pending { source: Awaited::Other(Box::new(wait)) }
    }
}

impl Pending<Receipt> {
    /// That of the record with this index in its batch.
    #[inline]
    pub(super) fn record(batch: Arc<BatchState>, index: u32, timestamp: Timestamp) -> Self {
        let record = RecordWait { batch, index, timestamp, reported: false };
        Pending { source: Awaited::Record(record, |receipt| receipt) }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.get_mut().source {
            Awaited::Record(record, make) => record.poll(cx).map(|result| result.map(*make)),
            Awaited::Other(other) => other.poll(cx),
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Something that can be waited for in both ways. Dropping it gives it up.
pub(crate) trait Wait<T>: Send {
    /// Blocks until it is there.
    fn wait(self: Box<Self>) -> Result<T>;
    /// Looks whether it is there, or leaves the waker.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T>>;
    /// The engine whose clock a wait is measured by. `None` if there is nothing left to wait for.
    fn engine(&self) -> Option<&Engine>;
}

/// The acknowledgement of one record.
struct RecordWait {
    batch: Arc<BatchState>,
    index: u32,
    timestamp: Timestamp,
    /// The caller has the outcome: dropping this loses no error.
    reported: bool,
}

impl RecordWait {
    fn wait(mut self) -> Result<Receipt> {
        let appended = self.batch.wait_visible();
        self.reported = true;
        self.batch
            .unless_kept(self.index, appended)
            .map(|appended| self.batch.receipt(appended, self.index, self.timestamp))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let polled = self.batch.poll_visible(cx.waker());
        self.reported |= polled.is_ready();
        polled.map(|appended| {
            self.batch
                .unless_kept(self.index, appended)
                .map(|appended| self.batch.receipt(appended, self.index, self.timestamp))
        })
    }
}

impl Drop for RecordWait {
    #[inline]
    fn drop(&mut self) {
        if !self.reported {
            self.batch.give_up();
        }
    }
}
