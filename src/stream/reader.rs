//! How does one follow a single stream? From a version on, by the key index while it catches up,
//! and as events come.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use super::handle::Stream;
use super::history::History;
use crate::engine::{Interest, Waiter};
use crate::error::Result;
use crate::log::streams::{self, Limit};
use crate::reader::parking::{look_or_register, wait_for};
use crate::reader::{ReaderHandle, Receive, Recv};
use crate::sync::Arc;
use crate::types::Offset;
use crate::version::Version;

/// Reads one stream from a version on: first the existing events, in pieces of about a mebibyte,
/// and then new ones. Every event once, in order.
///
/// ```
/// use std::time::Duration;
/// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig, Version};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
/// let mut reader = account.reader(Version::ZERO)?;
/// account.append(ExpectedVersion::Any, ["opened", "paid in"].map(Record::from))?;
/// assert_eq!(reader.poll(Duration::from_millis(100))?.len(), 2);
/// account.append(ExpectedVersion::Any, [Record::new("closed")])?;
/// assert_eq!(reader.poll(Duration::from_millis(100))?.version(), 3);
/// # Ok(()) }
/// ```
pub struct StreamReader {
    stream: Stream,
    next: Version,
    /// The end up to which the partition was searched last, and the number of truncations then.
    seen: Option<(Offset, u64)>,
    /// After the last event that was delivered: the offset, and the log epoch.
    after: Option<(Offset, u32)>,
    waiter: Arc<Waiter>,
    /// In the log of the stream.
    interest: Arc<Interest>,
    /// A future of [`recv`](StreamReader::recv) is pending.
    is_parked: bool,
}

impl Stream {
    /// Reads the events after a version, and then those that come: without a gap, none twice. See
    /// [`StreamReader`].
    ///
    /// # Errors
    /// [`TopicDeleted`](crate::Error::TopicDeleted), [`Closed`](crate::Error::Closed).
    pub fn reader(&self, from: Version) -> Result<StreamReader> {
        self.state().check()?;
        Ok(StreamReader::new(self.clone(), from))
    }
}

impl StreamReader {
    pub(super) fn new(stream: Stream, next: Version) -> Self {
        let waiter = Arc::new(Waiter::new(&stream.broker().ctx.events));
        let interest = Arc::new(Interest::new(&waiter, 0));
        stream.log().waiters().add(interest.clone());
        StreamReader { stream, next, seen: None, after: None, waiter, interest, is_parked: false }
    }

    /// The version that it has come to: it continues after that many events.
    pub fn version(&self) -> Version {
        self.next
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The next events, waiting for some for at most `timeout`. If none came, or after a
    /// [wake-up](ReaderHandle::wakeup), the history is empty and has the version that this reader
    /// has come to. Under a manual clock it returns existing events, and never waits.
    ///
    /// # Errors
    /// [`Truncated`](crate::Error::Truncated) if the log was truncated before an event that this
    /// reader has delivered, so that the next events would belong to another history;
    /// [`StreamTruncated`](crate::Error::StreamTruncated) if the log was truncated before the
    /// version to start after; [`VersionConflict`](crate::Error::VersionConflict) if the stream has
    /// fewer events than that version. Otherwise those of [`Stream::load`]. The reader does not
    /// move; discard the events that it has delivered, and read them again with another reader.
    pub fn poll(&mut self, timeout: Duration) -> Result<History> {
        let broker = self.stream.broker().clone();
        broker.run_due();
        let waiter = self.waiter.clone();
        match wait_for(&broker.ctx, &waiter, timeout, || self.look())? {
            Some(history) => Ok(history),
            None => Ok(History::empty_at(self.next)),
        }
    }

    /// The next events, as soon as there are any; none after a [wake-up](ReaderHandle::wakeup).
    /// Needs no particular runtime, and may be dropped at any time.
    ///
    /// # Errors
    /// As [`poll`](StreamReader::poll).
    pub fn recv(&mut self) -> Recv<'_, StreamReader> {
        Recv::new(self)
    }

    /// As [`poll`](StreamReader::poll) without a time limit, for a future or a stream of the
    /// caller's own: if there is nothing, it returns `Pending` and keeps the waker of `cx` until
    /// there is. [`recv`](StreamReader::recv) is made of this.
    ///
    /// # Errors
    /// As [`poll`](StreamReader::poll).
    pub fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<Result<History>> {
        let broker = self.stream.broker().clone();
        broker.run_due();
        self.is_parked = true;
        let waiter = self.waiter.clone();
        match look_or_register(&waiter, cx.waker(), || self.look()).transpose() {
            Some(done) => {
                self.stop_waiting();
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }

    /// A handle to interrupt this reader's waiting from elsewhere.
    ///
    /// ```
    /// # use quipu::{Broker, TopicConfig, Version};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
    /// let mut reader = account.reader(Version::ZERO)?;
    /// let handle = reader.handle();
    /// std::thread::spawn(move || handle.wakeup());
    /// assert!(reader.poll(std::time::Duration::from_secs(3600))?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn handle(&self) -> ReaderHandle {
        ReaderHandle::new(&self.waiter)
    }

    /// The next events, if there are any, or none if it was woken up. Otherwise the interest in the
    /// log is armed.
    fn look(&mut self) -> Result<Option<History>> {
        // It has one log, so the noted places add nothing.
        if self.waiter.take(&mut Vec::new()) {
            return Ok(Some(History::empty_at(self.next)));
        }
        if let Some(history) = self.look_once()? {
            return Ok(Some(history));
        }
        self.stream.log().waiters().arm(&self.interest);
        // IMPORTANT: look again. See the head of `engine/notify.rs`.
        self.look_once()
    }

    fn look_once(&mut self) -> Result<Option<History>> {
        let log = self.stream.log();
        let (cuts, visible) = (log.revision(), log.visible_end());
        if let Some((seen, _)) = self.seen.filter(|(_, at)| *at == cuts)
            && (seen == visible || !streams::may_have_since(log, self.stream.hash(), seen)?)
        {
            self.seen = Some((visible, cuts));
            self.stream.state().check()?;
            return Ok(None);
        }
        let next = self.next;
        let history = self.stream.load_some(|_| next, PIECE)?;
        if let Some((offset, epoch)) = self.after {
            // After the load, so that events of another history are not delivered.
            log.check_position(offset, epoch)?;
        }
        // Of a version that an earlier look has returned this asks nothing, unless the log was
        // truncated since.
        self.stream.check_version(next)?;
        let history = self.stream.check_history(history, next)?;
        if let Some(last) = history.iter().next_back() {
            let position = last.position();
            self.after = Some((position.offset.plus(1), position.epoch));
        }
        self.next = history.to_version();
        if self.next >= history.version() {
            self.seen = Some((visible, cuts));
        }
        Ok(Some(history).filter(|history| !history.is_empty()))
    }
}

/// The limit of one look.
const PIECE: Limit = Limit { events: u64::MAX, bytes: 1 << 20 };

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.stream.log().waiters().remove(&self.interest);
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader")
            .field("stream", &self.stream)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Receive for StreamReader {
    type Records = History;

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<History>> {
        self.poll_records(cx)
    }

    fn stop_waiting(&mut self) {
        if std::mem::take(&mut self.is_parked) {
            self.waiter.forget_waker();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::types::Start;
    use crate::version::Version;
    use crate::{Broker, TopicConfig};

    #[test]
    fn readers_that_are_gone_are_not_signalled() {
        let broker = Broker::in_memory().unwrap();
        let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
        let stream = topic.stream("k").unwrap();
        let is_signalled = || stream.log().waiters().any();
        assert!(!is_signalled());
        let reader = stream.reader(Version::ZERO).unwrap();
        assert!(is_signalled());
        drop(reader);
        assert!(!is_signalled());
        let reader = broker.reader(["t"], Start::Beginning).unwrap();
        assert!(is_signalled());
        drop(reader);
        assert!(!is_signalled());
        let consumer = broker.consumer("g").assign(&topic.partitions()).unwrap();
        assert!(is_signalled());
        drop(consumer);
        assert!(!is_signalled());
    }
}
