//! The way of an acknowledgement back to the sender. All records of a batch share one state; a
//! sender holds that and an index.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::buffer::PartitionBuffer;
use crate::error::{Error, IoAction, Result};
use crate::log::Appended;
use crate::sync::{Arc, AtomicBool, Condvar, HELD_BY_WAKING, Mutex, Ordering, Rank, about_to_call_user_code};
use crate::types::{Receipt, Timestamp};

/// An acknowledgement on its way: [`wait`](Pending::wait) for it, `.await` it, or
/// [`detach`](Pending::detach) it.
///
/// It completes when the topic's durability holds, and with that the record is visible to
/// consumers. Waiting ends the batch's lingering. Dropping it is like detaching it: the record is
/// written all the same, and an error is reported by the producer's next `flush`.
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
#[must_use = "wait for it, or say with `detach` that flush will report errors"]
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
    /// [`Error::outcome`] returns whether sending it again can duplicate it.
    pub fn wait(self) -> Result<T> {
        match self.source {
            Awaited::Record(record, make) => record.wait().map(make),
            Awaited::Other(other) => other.wait(),
        }
    }

    /// Gives the acknowledgement up. The record is written all the same; the producer's next
    /// `flush` reports the first error that could not be reported otherwise.
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
}

/// The state that all records of a batch wait for: the batch is in the log, or has failed.
///
/// It holds the buffer, which holds the open batch, which holds this: a cycle, broken when the
/// batch is completed. Every open batch is completed: the timer has its buffer, and if the broker
/// ends first, the producer's drop completes it.
pub(super) struct BatchState {
    buffer: Arc<PartitionBuffer>,
    progress: Mutex<BatchOutcome>,
    completed: Condvar,
    /// An acknowledgement was dropped. Written under `progress`, where the outcome is written too,
    /// so the second of the two writers knows of the first and keeps the error. Read without the
    /// lock only to see that there is nothing left to do.
    given_up: AtomicBool,
}

#[derive(Default)]
struct BatchOutcome {
    outcome: Option<Result<Appended>>,
    wakers: Vec<Waker>,
}

impl BatchState {
    pub(super) fn new(buffer: Arc<PartitionBuffer>) -> Self {
        BatchState {
            buffer,
            progress: Mutex::new(Rank::Pending, BatchOutcome::default()),
            completed: Condvar::new(),
            given_up: AtomicBool::new(false),
        }
    }

    /// Wakes all waiting threads. Only the first outcome counts.
    pub(super) fn complete(&self, outcome: Result<Appended>) {
        let mut progress = self.progress.lock();
        if progress.outcome.is_some() {
            return;
        }
        if let Err(error) = &outcome
            && self.given_up.load(Ordering::Relaxed)
        {
            self.buffer.core().keep_failure(error);
        }
        progress.outcome = Some(outcome);
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        self.completed.notify_all();
        for waker in wakers {
            about_to_call_user_code("a waker", HELD_BY_WAKING);
            waker.wake();
        }
    }

    /// Blocks until the batch is in the log, which another thread may be seeing to.
    pub(super) fn wait_appended(&self) -> Result<Appended> {
        let mut progress = self.progress.lock();
        loop {
            match &progress.outcome {
                Some(outcome) => return outcome.clone(),
                None => self.completed.wait(&mut progress),
            }
        }
    }

    pub(super) fn poll_appended(&self, waker: &Waker) -> Poll<Result<Appended>> {
        let mut progress = self.progress.lock();
        if let Some(outcome) = &progress.outcome {
            return Poll::Ready(outcome.clone());
        }
        if !progress.wakers.last().is_some_and(|last| last.will_wake(waker)) {
            progress.wakers.push(waker.clone());
        }
        Poll::Pending
    }

    pub(super) fn buffer(&self) -> &Arc<PartitionBuffer> {
        &self.buffer
    }

    /// An acknowledgement of this batch is given up: from now on its error is the flush's.
    #[inline]
    pub(super) fn give_up(&self) {
        if !self.given_up.load(Ordering::Relaxed) {
            self.give_up_first();
        }
    }

    #[cold]
    fn give_up_first(&self) {
        let progress = self.progress.lock();
        if self.given_up.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(Err(error)) = &progress.outcome {
            self.buffer.core().keep_failure(error);
        }
    }

    fn is_completed(&self) -> bool {
        self.progress.lock().outcome.is_some()
    }
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
        let appended = wait_visible(&self.batch);
        self.reported = true;
        self.batch
            .unless_kept(self.index, appended)
            .map(|appended| self.batch.receipt(appended, self.index, self.timestamp))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let polled = poll_visible(&self.batch, cx.waker());
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

impl BatchState {
    /// The outcome of the records of this batch up to one of them: if the log was truncated after
    /// that record, they are still there, whatever the outcome of the rest.
    pub(super) fn unless_kept(&self, last: u32, outcome: Result<Appended>) -> Result<Appended> {
        let Err(Error::Truncated { to, .. }) = outcome else { return outcome };
        match self.wait_appended() {
            Ok(appended) if appended.base_offset.plus(u64::from(last)) < to => Ok(appended),
            _ => outcome,
        }
    }

    /// The receipt for the sender of a record of this batch.
    pub(super) fn receipt(&self, appended: Appended, index: u32, timestamp: Timestamp) -> Receipt {
        let sink = self.buffer.sink();
        appended.receipt(sink.topic(), sink.partition(), u64::from(index), timestamp)
    }
}

/// Writes the batch if it is still open, and blocks until it is visible.
pub(super) fn wait_visible(batch: &Arc<BatchState>) -> Result<Appended> {
    if !batch.is_completed() {
        batch.buffer.write(Some(batch));
    }
    let appended = batch.wait_appended()?;
    batch.buffer.sink().wait_visible(appended.end, appended.epoch)?;
    Ok(appended)
}

/// As [`wait_visible`], leaving the waker with the thread that is at work. The write itself is done
/// here.
pub(super) fn poll_visible(batch: &Arc<BatchState>, waker: &Waker) -> Poll<Result<Appended>> {
    if !batch.is_completed() {
        batch.buffer.write(Some(batch));
    }
    match batch.poll_appended(waker) {
        Poll::Ready(Ok(appended)) => {
            let sink = batch.buffer.sink();
            let polled = sink.poll_visible(appended.end, appended.epoch, waker).map_ok(|()| appended);
            if polled.is_pending() {
                sink.request_sync();
            }
            polled
        }
        other => other,
    }
}

/// The error of a write that unwound: it is unknown which part of it is in the log.
pub(super) fn unwound(buffer: &PartitionBuffer) -> Error {
    let sink = buffer.sink();
    let place = format!("{}/{}", sink.topic(), sink.partition());
    Error::io(
        IoAction::Write,
        place.as_ref(),
        std::io::Error::other("the thread that was writing it panicked"),
    )
}
