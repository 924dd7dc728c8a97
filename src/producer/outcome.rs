//! The outcome of a batch, for which the senders of all its records wait.

use std::task::{Poll, Waker};

use super::core::Core;
use super::failure::Failure;
use super::sink::Sink;
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::log::Appended;
use crate::stats::Event;
use crate::sync::{Arc, AtomicBool, AtomicU32, Condvar, Mutex, Ordering, Rank};
use crate::types::{Receipt, Timestamp};

/// The buffer that a batch is in, for the threads that wait for the batch.
pub(super) trait Buffer: Send + Sync {
    fn core(&self) -> &Core;
    /// The log that the batch is written to.
    fn sink(&self) -> &dyn Sink;
    /// Seals the batch if it is open, and writes the batches that can be written.
    fn write_awaited(self: Arc<Self>, batch: &Arc<BatchState>);
}

/// The state that all records of a batch wait for: the batch is in the log, or has failed.
///
/// It holds the buffer, which holds the open batch, which holds this: a cycle, broken when the
/// batch is completed. Every open batch is completed: the timer has its buffer, and if the broker
/// ends first, the producer's drop completes it.
pub(super) struct BatchState {
    buffer: Arc<dyn Buffer>,
    progress: Mutex<BatchOutcome>,
    completed: Condvar,
    /// The outcome is there. Written after it, under `progress`; read without the lock.
    is_completed: AtomicBool,
    /// An acknowledgement was dropped. Written under `progress`, where the outcome is written too,
    /// so the second of the two writers knows of the first and keeps the error. Read without the
    /// lock only to see that there is nothing left to do.
    given_up: AtomicBool,
    /// How many records it has. Written before the outcome, and read after that.
    records: AtomicU32,
}

type Outcome = std::result::Result<Appended, Arc<Failure>>;

#[derive(Default)]
struct BatchOutcome {
    outcome: Option<Outcome>,
    wakers: Vec<Waker>,
}

impl BatchState {
    pub(super) fn new(buffer: Arc<dyn Buffer>) -> Self {
        BatchState {
            buffer,
            progress: Mutex::new(Rank::Pending, BatchOutcome::default()),
            completed: Condvar::new(),
            is_completed: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            records: AtomicU32::new(1),
        }
    }

    /// Of a record that comes after a failed write.
    pub(super) fn failed(buffer: Arc<dyn Buffer>, failure: Arc<Failure>) -> Self {
        let outcome = BatchOutcome { outcome: Some(Err(failure)), wakers: Vec::new() };
        let is_completed = AtomicBool::new(true);
        BatchState { progress: Mutex::new(Rank::Pending, outcome), is_completed, ..BatchState::new(buffer) }
    }

    /// It takes no more records.
    pub(super) fn set_records(&self, records: u32) {
        self.records.store(records, Ordering::Relaxed);
    }

    /// Wakes all waiting threads. Only the first outcome counts.
    pub(super) fn complete(&self, outcome: Outcome) {
        let mut progress = self.progress.lock();
        if progress.outcome.is_some() {
            return;
        }
        let mut lost = None;
        if let Err(failure) = &outcome
            && self.given_up.load(Ordering::Relaxed)
        {
            self.buffer.core().keep_failure(failure);
            lost = Some(failure.clone());
        }
        progress.outcome = Some(outcome);
        self.is_completed.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        self.completed.notify_all();
        for waker in wakers {
            self.buffer.core().ctx.events.wake(waker);
        }
        lost.inspect(|failure| self.report_loss(failure));
    }

    /// Once for a batch: by the second of the threads that write its outcome and that an
    /// acknowledgement was given up.
    #[cold]
    fn report_loss(&self, failure: &Failure) {
        let (core, sink) = (self.buffer.core(), self.buffer.sink());
        core.ctx.events.report(&Event::SendFailed {
            topic: sink.topic().clone(),
            partition: sink.partition(),
            producer: core.name(),
            records: self.records.load(Ordering::Relaxed),
            cause: failure.error().clone(),
        });
    }

    /// Blocks until the batch is in the log or has failed; another thread may be writing it.
    pub(super) fn wait_appended(&self) -> Outcome {
        let mut progress = self.progress.lock();
        loop {
            match &progress.outcome {
                Some(outcome) => return outcome.clone(),
                None => self.completed.wait(&mut progress),
            }
        }
    }

    /// The outcome, or registers the waker.
    pub(super) fn poll_appended(&self, waker: &Waker) -> Poll<Outcome> {
        let is_there =
            |progress: &BatchOutcome| progress.wakers.last().is_some_and(|last| last.will_wake(waker));
        {
            let progress = self.progress.lock();
            match &progress.outcome {
                Some(outcome) => return Poll::Ready(outcome.clone()),
                None if is_there(&progress) => return Poll::Pending,
                None => {}
            }
        }
        // Cloned under no lock, because that is code of the user, and only to be stored.
        let mut own = Some(waker.clone());
        let mut progress = self.progress.lock();
        let outcome = progress.outcome.clone();
        if outcome.is_none() && !is_there(&progress) {
            progress.wakers.extend(own.take());
        }
        // A clone that was not stored is dropped after the lock is released.
        drop(progress);
        outcome.map_or(Poll::Pending, Poll::Ready)
    }

    /// Writes the batch, unless that is done. The caller waits for it.
    pub(super) fn write(self: &Arc<Self>) {
        self.buffer.clone().write_awaited(self);
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
        let Some(Err(failure)) = &progress.outcome else { return };
        let failure = failure.clone();
        self.buffer.core().keep_failure(&failure);
        drop(progress);
        self.report_loss(&failure);
    }

    #[inline]
    fn is_completed(&self) -> bool {
        self.is_completed.load(Ordering::Acquire)
    }

    /// Writes the batch if it is still open, and blocks until it is visible. The caller takes the
    /// error.
    pub(super) fn wait_visible(self: &Arc<Self>) -> Result<Appended> {
        if !self.is_completed() {
            self.write();
        }
        let appended = self.wait_appended().map_err(taken)?;
        self.buffer.sink().wait_visible(appended.end, appended.epoch)?;
        Ok(appended)
    }

    pub(super) fn ctx(&self) -> &Context {
        &self.buffer.core().ctx
    }

    /// Whether waiting for it takes a sync, or another thread's write.
    pub(super) fn is_hidden(&self) -> bool {
        let outcome = self.progress.lock().outcome.clone();
        match outcome {
            Some(Ok(appended)) => !self.buffer.sink().is_visible(appended.end),
            Some(Err(_)) => false,
            None => true,
        }
    }

    /// Waits until it is written and visible. The outcome stays there for a second wait.
    pub(super) fn settle(&self) {
        if let Ok(appended) = self.wait_appended() {
            let _ = self.buffer.sink().wait_visible(appended.end, appended.epoch);
        }
    }

    /// As [`wait_visible`](BatchState::wait_visible), leaving the waker with the thread that is at
    /// work. The write itself is done here.
    pub(super) fn poll_visible(self: &Arc<Self>, waker: &Waker) -> Poll<Result<Appended>> {
        if !self.is_completed() {
            self.write();
        }
        match self.poll_appended(waker) {
            Poll::Ready(Ok(appended)) => {
                let sink = self.buffer.sink();
                let polled = sink.poll_visible(appended.end, appended.epoch, waker).map_ok(|()| appended);
                if polled.is_pending() {
                    sink.request_sync();
                }
                polled
            }
            Poll::Ready(Err(failure)) => Poll::Ready(Err(taken(failure))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The outcome of the records of this batch up to one of them: if the log was truncated after
    /// that record, they are still there, whatever the outcome of the rest.
    #[inline]
    pub(super) fn unless_kept(&self, last: u32, outcome: Result<Appended>) -> Result<Appended> {
        let Err(Error::Truncated { to, .. }) = outcome else { return outcome };
        match self.wait_appended() {
            Ok(appended) if appended.base_offset.plus(u64::from(last)) < to => Ok(appended),
            _ => outcome,
        }
    }

    /// The receipt for the sender of a record of this batch.
    #[inline]
    pub(super) fn receipt(&self, appended: Appended, index: u32, timestamp: Timestamp) -> Receipt {
        let sink = self.buffer.sink();
        appended.receipt(sink.topic(), sink.partition(), u64::from(index), timestamp)
    }
}

/// The error, which a caller takes.
fn taken(failure: Arc<Failure>) -> Error {
    failure.take();
    failure.error().clone()
}
