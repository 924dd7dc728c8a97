//! The futures of whatever reads: the next records, or the next one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::Result;
use crate::records::{OwnedRecord, Records};

/// A reader that can be awaited. Implemented by [`Reader`](crate::Reader),
/// [`Consumer`](crate::Consumer) and [`StreamReader`](crate::StreamReader); it is sealed.
pub trait Receive: Send {
    /// The result of a poll.
    type Records;

    /// As the reader's `poll_records`.
    ///
    /// # Errors
    /// Those of the reader.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::Records>>;

    /// No future waits any more. Does nothing if none did.
    fn stop_waiting(&mut self);
}

/// A reader of which the next record alone can be awaited.
pub trait ReceiveOne: Receive {
    /// As `receive`, for at most one record. The rest of its batch stays with its partition.
    ///
    /// # Errors
    /// Those of the reader.
    fn receive_one(&mut self, cx: &mut Context<'_>) -> Poll<Result<Records>>;
}

/// The next records of a [`Reader`](crate::Reader::recv), a [`Consumer`](crate::Consumer::recv) or
/// a [`StreamReader`](crate::StreamReader::recv), as a future. Its output is that of their `poll`.
///
/// It may be dropped at any time: records that were not returned come with the next call.
///
/// ```
/// use std::future::Future;
/// use std::pin::Pin;
/// use std::task::{Context, Poll};
/// use quipu::{Consumer, Records, Recv, Result};
///
/// /// A future that has a name can be a field.
/// struct Job<'a> {
///     next: Recv<'a, Consumer>,
/// }
///
/// impl Future for Job<'_> {
///     type Output = Result<usize>;
///
///     fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<usize>> {
///         Pin::new(&mut self.next).poll(cx).map_ok(|records: Records| records.len())
///     }
/// }
/// ```
#[must_use = "a future does nothing until it is awaited"]
pub struct Recv<'a, R: Receive> {
    reader: &'a mut R,
}

impl<'a, R: Receive> Recv<'a, R> {
    pub(crate) fn new(reader: &'a mut R) -> Self {
        Recv { reader }
    }
}

impl<R: Receive> Future for Recv<'_, R> {
    type Output = Result<R::Records>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().reader.receive(cx)
    }
}

impl<R: Receive> Drop for Recv<'_, R> {
    fn drop(&mut self) {
        self.reader.stop_waiting();
    }
}

impl<R: Receive> fmt::Debug for Recv<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recv").finish_non_exhaustive()
    }
}

/// The next record of a [`Reader`](crate::Reader::recv_one) or a
/// [`Consumer`](crate::Consumer::recv_one), as a future. `None` after a wake-up.
///
/// It may be dropped at any time: a record that was not returned comes with the next call.
#[must_use = "a future does nothing until it is awaited"]
pub struct RecvOne<'a, R: ReceiveOne> {
    reader: &'a mut R,
}

impl<'a, R: ReceiveOne> RecvOne<'a, R> {
    pub(crate) fn new(reader: &'a mut R) -> Self {
        RecvOne { reader }
    }
}

impl<R: ReceiveOne> Future for RecvOne<'_, R> {
    type Output = Result<Option<OwnedRecord>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reader = &mut *self.get_mut().reader;
        loop {
            let records = match reader.receive_one(cx) {
                Poll::Ready(records) => records?,
                Poll::Pending => return Poll::Pending,
            };
            // Where reading only moved on, the record is still to come.
            let has_moved = !records.skipped().is_empty();
            let record = records.into_iter().next();
            if record.is_some() || !has_moved {
                return Poll::Ready(Ok(record));
            }
        }
    }
}

impl<R: ReceiveOne> Drop for RecvOne<'_, R> {
    fn drop(&mut self) {
        self.reader.stop_waiting();
    }
}

impl<R: ReceiveOne> fmt::Debug for RecvOne<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvOne").finish_non_exhaustive()
    }
}
