//! Readers and consumers as a `Stream`: what their `recv` returns, again and again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::consumer::Consumer;
use crate::error::Result;
use crate::reader::{Reader, Receive};
use crate::records::Records;
use crate::stream::{History, StreamReader};

/// The next records, as [`recv`](Reader::recv) returns them, and the end after a
/// [wake-up](crate::ReaderHandle::wakeup). It may be polled again after the end, and goes on where
/// it was. An error does not end it: the next poll returns it again if it still holds.
///
/// ```
/// use std::pin::Pin;
/// use futures_core::Stream;
/// use quipu::{Broker, Record, Start, TopicConfig};
/// # use std::task::{Context, Poll, Waker};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let orders = broker.create_topic("orders", TopicConfig::new())?;
/// # broker.producer().send_all(&orders, ["a", "b"].map(Record::new))?.wait()?;
/// # let mut cx = Context::from_waker(Waker::noop());
/// let mut reader = broker.reader("orders", Start::Beginning)?;
/// // `reader.next().await` with the crate `futures-util`.
/// let next = Pin::new(&mut reader).poll_next(&mut cx);
/// assert!(matches!(next, Poll::Ready(Some(Ok(records))) if records.len() == 2));
/// # Ok(()) }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
impl Stream for Reader {
    type Item = Result<Records>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Records>>> {
        next(self.get_mut(), cx, is_wake_up)
    }
}

/// The next records, as [`recv`](Consumer::recv) returns them, and the end after a
/// [wake-up](crate::ConsumerHandle::wakeup). It may be polled again after the end, and goes on
/// where it was. An error does not end it. While it is pending the consumer counts as polling, as
/// there.
///
/// `&mut consumer` is a stream too, so that the consumer can commit between two items.
#[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
impl Stream for Consumer {
    type Item = Result<Records>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Records>>> {
        next(self.get_mut(), cx, is_wake_up)
    }
}

/// The next events, as [`recv`](StreamReader::recv) returns them, and the end after a
/// [wake-up](crate::ReaderHandle::wakeup). It may be polled again after the end, and goes on where
/// it was. An error does not end it.
#[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
impl Stream for StreamReader {
    type Item = Result<History>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<History>>> {
        next(self.get_mut(), cx, History::is_empty)
    }
}

fn next<R: Receive>(
    reader: &mut R,
    cx: &mut Context<'_>,
    is_wake_up: impl Fn(&R::Records) -> bool,
) -> Poll<Option<Result<R::Records>>> {
    Poll::Ready(match ready!(reader.receive(cx)) {
        Ok(records) if is_wake_up(&records) => None,
        received => Some(received),
    })
}

/// Records that come without a wake-up are some, or ranges that were skipped.
fn is_wake_up(records: &Records) -> bool {
    records.is_empty() && records.skipped().is_empty()
}
