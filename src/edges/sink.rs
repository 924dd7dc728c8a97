//! A producer as a `Sink` of records for one destination.
//!
//! The trait asks for room before it gives a record, so before the length of the record is known.
//! Therefore the sink always takes one record, keeps it if the buffer is full, and is not ready
//! before that one has room.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_sink::Sink;

use crate::error::{Error, Result};
use crate::producer::{Destination, Pending, Producer, WaitingRecord};
use crate::record::Record;

/// A [`Producer`] as a `Sink` for one destination. Made by [`Producer::sink`].
///
/// - *Ready*: as [`Producer::send_async`], it waits without blocking until the producer's buffer
///   has room for the record that it was given last. An error of that record is returned here.
/// - *Flush* and *close*: as [`Producer::flush_async`], which also flushes records that were sent
///   otherwise by this producer and its clones, and returns the error of a record whose write
///   failed. After it each record is as safe as the durability of its topic demands.
///
/// Dropping it loses the record that waits for room, if one does, and no other.
#[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
#[must_use = "it sends nothing by itself"]
pub struct ProducerSink<'r, D> {
    producer: Producer,
    to: D,
    /// The record that was given last, while there is no room for it.
    waiting: Option<WaitingRecord<'r>>,
    /// A flush of all records up to one.
    flushing: Option<Pending<()>>,
    /// Whether records came after the begin of the last flush.
    is_dirty: bool,
}

#[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
impl Producer {
    /// A `Sink` for records of one destination.
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::pin::Pin;
    /// use futures_sink::Sink;
    /// use quipu::{Broker, ProducerSink, Record, Result, Topic, TopicConfig};
    ///
    /// // `sink.send(record).await` and `stream.forward(sink).await` with the crate `futures-util`.
    /// async fn copy<'r>(lines: &'r str, mut sink: ProducerSink<'r, Topic>) -> Result<()> {
    ///     for line in lines.lines() {
    ///         poll_fn(|cx| Pin::new(&mut sink).poll_ready(cx)).await?;
    ///         Pin::new(&mut sink).start_send(Record::new(line))?;
    ///     }
    ///     poll_fn(|cx| Pin::new(&mut sink).poll_close(cx)).await
    /// }
    /// # use std::task::{Context, Poll, Waker};
    /// # fn main() -> Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let orders = broker.create_topic("orders", TopicConfig::new())?;
    /// let copying = copy("42 EUR\n43 EUR", broker.producer().sink(orders.clone()));
    /// # let mut copying = std::pin::pin!(copying);
    /// # while copying.as_mut().poll(&mut Context::from_waker(Waker::noop()))?.is_pending() {}
    /// assert_eq!(orders.partition(0)?.bounds()?.visible_end, 2);
    /// # Ok(()) }
    /// ```
    pub fn sink<'r, D: Destination>(&self, to: D) -> ProducerSink<'r, D> {
        ProducerSink { producer: self.clone(), to, waiting: None, flushing: None, is_dirty: false }
    }
}

impl<'r, D: Destination> Sink<Record<'r>> for ProducerSink<'r, D> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if let Some(waiting) = &mut this.waiting {
            let taken = ready!(this.producer.poll_take(&this.to, waiting, cx));
            this.waiting = None;
            taken?.detach();
        }
        Poll::Ready(Ok(()))
    }

    /// # Errors
    /// Those of [`Producer::send`], except that a record for which there is no room is kept. If the
    /// sink was not ready, those of the record that is kept, and [`BufferFull`](Error::BufferFull)
    /// if there is still no room for that: the new one is not taken.
    fn start_send(self: Pin<&mut Self>, record: Record<'r>) -> Result<()> {
        let this = self.get_mut();
        if let Some(earlier) = &this.waiting {
            let taken = this.producer.take_now(&this.to, earlier);
            if !matches!(taken, Err(Error::BufferFull { .. })) {
                this.waiting = None;
            }
            taken?.detach();
        }
        this.is_dirty = true;
        let waiting = this.producer.waiting(record);
        match this.producer.take_now(&this.to, &waiting) {
            Err(Error::BufferFull { .. }) => this.waiting = Some(waiting),
            taken => taken?.detach(),
        }
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.as_mut().poll_ready(cx))?;
        let this = self.get_mut();
        loop {
            let flushing = match &mut this.flushing {
                Some(flushing) => flushing,
                None if !this.is_dirty => return Poll::Ready(Ok(())),
                None => {
                    this.is_dirty = false;
                    this.flushing.insert(this.producer.flush_async())
                }
            };
            let flushed = ready!(Pin::new(flushing).poll(cx));
            this.flushing = None;
            flushed?;
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_flush(cx)
    }
}

impl<D> fmt::Debug for ProducerSink<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerSink").field("is_ready", &self.waiting.is_none()).finish_non_exhaustive()
    }
}
