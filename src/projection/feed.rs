//! A model outside of the broker, which is stored together with its positions.

use std::fmt;
use std::time::Duration;

use super::progress::{Progress, catch_up};
use crate::broker::Broker;
use crate::error::{Error, Result};
use crate::reader::step::{PutBack, Step};
use crate::reader::{OffsetReset, Reader, ReaderHandle};
use crate::records::Records;
use crate::sync::about_to_call_user_code;
use crate::types::{Names, Position, Start};

/// A model that is stored outside of the broker, in a database or a file.
pub trait ReadModel {
    /// Its error. [`Error`] is enough if it has no errors of its own.
    type Error: From<Error>;

    /// Where to continue in each partition: the positions that the last [`apply`](ReadModel::apply)
    /// was given. A partition that is not named is read from its beginning, so a model without
    /// positions is rebuilt.
    ///
    /// # Errors
    /// The model's own.
    fn positions(&mut self) -> Result<Vec<Position>, Self::Error>;

    /// Applies events, and stores their changes together with `next`: both or neither.
    ///
    /// # Errors
    /// The model's own: it is asked again for its [positions](ReadModel::positions), and gets the
    /// events after them.
    fn apply(&mut self, events: &Records, next: &[Position]) -> Result<(), Self::Error>;
}

impl Broker {
    /// Feeds a model that is stored elsewhere with the events of topics, from the positions that it
    /// returns.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic); [`NotAssigned`](Error::NotAssigned) for a position of
    /// another topic; [`Closed`](Error::Closed); those of the model.
    ///
    /// ```
    /// use quipu::{Broker, ExpectedVersion, Position, ReadModel, Record, Records, TopicConfig};
    ///
    /// /// Stands for a table and a row with the positions, written in one transaction of some database.
    /// #[derive(Default)]
    /// struct Count {
    ///     events: usize,
    ///     positions: Vec<Position>,
    /// }
    ///
    /// impl ReadModel for Count {
    ///     type Error = quipu::Error;
    ///
    ///     fn positions(&mut self) -> quipu::Result<Vec<Position>> {
    ///         Ok(self.positions.clone())
    ///     }
    ///
    ///     fn apply(&mut self, events: &Records, next: &[Position]) -> quipu::Result<()> {
    ///         self.events += events.len();
    ///         self.positions = next.to_vec();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
    /// accounts.stream("account-7")?.append(ExpectedVersion::Any, ["opened", "closed"].map(Record::from))?;
    /// let mut feed = broker.feed(&["accounts"], Count::default())?;
    /// feed.catch_up(|_| {})?;
    /// let stored = feed.into_model();
    ///
    /// accounts.stream("account-8")?.append(ExpectedVersion::Any, [Record::new("opened")])?;
    /// let mut feed = broker.feed(&["accounts"], stored)?;
    /// assert_eq!(feed.catch_up(|_| {})?, 1);
    /// assert_eq!(feed.model().events, 3);
    /// # Ok(()) }
    /// ```
    pub fn feed<M: ReadModel>(&self, topics: impl Names, model: M) -> Result<Feed<M>, M::Error> {
        let topics = topics.into_names();
        // A model that has applied records which are gone must not continue silently.
        let reader = self.reader(&topics, Start::Beginning)?.offset_reset(OffsetReset::Fail);
        let source = Source { topics, reader, positions: Vec::new(), is_placed: false };
        let mut feed = Feed { source, model };
        feed.place()?;
        Ok(feed)
    }
}

/// A [`ReadModel`] that is being fed.
pub struct Feed<M> {
    source: Source,
    model: M,
}

/// The reader of a feed.
struct Source {
    topics: Vec<String>,
    reader: Reader,
    /// Those of the reader, after the last step that had events.
    positions: Vec<Position>,
    /// Whether the reader is where the model is.
    is_placed: bool,
}

impl PutBack for &mut Source {
    fn put_back(&mut self) {
        self.is_placed = false;
    }
}

impl Source {
    /// Moves the reader to the model's positions.
    fn place(&mut self, positions: &[Position]) -> Result<()> {
        self.reader.forget_deleted();
        // Those that it does not name, one that was added just now among them.
        self.reader.seek_all(Start::Beginning)?;
        for position in positions {
            match self.reader.seek(position) {
                Err(Error::NotAssigned { topic, .. }) if self.was_deleted(topic.as_str()) => {}
                sought => sought?,
            }
        }
        self.is_placed = true;
        Ok(())
    }

    /// Whether the feed has read this topic, and the topic was deleted.
    fn was_deleted(&self, topic: &str) -> bool {
        let is_read = || self.reader.positions().iter().any(|position| position.topic == *topic);
        self.topics.iter().any(|name| name == topic) && !is_read()
    }

    /// The next events. Without the topics that were deleted it continues with the others.
    fn poll(&mut self, timeout: Duration) -> Result<Records> {
        loop {
            match self.reader.poll(timeout) {
                Err(Error::TopicDeleted { .. }) if self.reader.forget_deleted() => {}
                polled => return polled,
            }
        }
    }
}

impl<M: ReadModel> Feed<M> {
    /// How many events a step gives the model at most. At least 1: with 0 each step returns
    /// [`InvalidConfig`](crate::Error::InvalidConfig).
    ///
    /// Default: as many as a poll gives, which is about 1 MiB of them.
    #[must_use]
    pub fn max_records(mut self, events: usize) -> Self {
        self.source.reader = self.source.reader.max_records(events);
        self
    }

    /// About how many bytes of events, uncompressed, a step gives the model: see
    /// [`Reader::max_bytes`]. Default: 1 MiB. At least 1: with 0 each step returns
    /// [`InvalidConfig`](crate::Error::InvalidConfig).
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.source.reader = self.source.reader.max_bytes(bytes);
        self
    }

    /// See [`max_records`](Feed::max_records); `usize::MAX` without a limit.
    pub fn get_max_records(&self) -> usize {
        self.source.reader.get_max_records()
    }

    /// See [`max_bytes`](Feed::max_bytes).
    pub fn get_max_bytes(&self) -> usize {
        self.source.reader.get_max_bytes()
    }

    /// The topics that it was made for, also those that were deleted since.
    pub fn topics(&self) -> &[String] {
        &self.source.topics
    }

    /// Where it reads on in each partition, which is where the model is: after a step that ended
    /// early once the next one has begun.
    pub fn positions(&self) -> Vec<Position> {
        self.source.reader.positions()
    }

    /// Gives the model the next events, waiting for some for at most `timeout`, or until a
    /// [wake-up](Feed::handle). Where a topic was deleted it continues with the others.
    ///
    /// # Errors
    /// Those of [`Reader::poll`] and of the model, whose [positions](ReadModel::positions) are read
    /// again with the next step, because it may have stored the events although it returned an
    /// error or panicked. [`OffsetOutOfRange`](Error::OffsetOutOfRange) or
    /// [`Truncated`](Error::Truncated): the model has applied events that are gone, or has missed
    /// some; rebuild it.
    pub fn step(&mut self, timeout: Duration) -> Result<Progress, M::Error> {
        if !self.source.is_placed {
            self.place()?;
        }
        let mut step = Step::new(&mut self.source);
        let events = step.poll(timeout)?;
        if !events.is_empty() {
            about_to_call_user_code("a read model");
            let Source { reader, positions, .. } = &mut **step;
            reader.update(positions);
            self.model.apply(&events, positions)?;
        }
        let (lag, woken_up) = (step.reader.lag(), step.reader.was_woken_up());
        step.done();
        Ok(Progress { applied: events.len() as u64, lag, woken_up })
    }

    /// Moves the reader to the model's positions.
    fn place(&mut self) -> Result<(), M::Error> {
        about_to_call_user_code("a read model");
        let positions = self.model.positions()?;
        Ok(self.source.place(&positions)?)
    }

    /// Gives it events until there are no more, or until a [wake-up](Feed::handle), and calls
    /// `report` with the progress after each step. Returns their number.
    ///
    /// # Errors
    /// As [`step`](Feed::step).
    pub fn catch_up(&mut self, report: impl FnMut(&Progress)) -> Result<u64, M::Error> {
        catch_up(|timeout| self.step(timeout), report)
    }

    /// A handle to interrupt this feed's waiting from elsewhere: its current step, or else its next
    /// one, gives the model no events and returns at once.
    ///
    /// ```
    /// # use quipu::{Broker, Position, ReadModel, Records, TopicConfig};
    /// # use std::time::Duration;
    /// # struct Table;
    /// # impl ReadModel for Table {
    /// #     type Error = quipu::Error;
    /// #     fn positions(&mut self) -> quipu::Result<Vec<Position>> { Ok(Vec::new()) }
    /// #     fn apply(&mut self, _: &Records, _: &[Position]) -> quipu::Result<()> { Ok(()) }
    /// # }
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("accounts", TopicConfig::streams())?;
    /// let mut feed = broker.feed(&["accounts"], Table)?;
    /// let handle = feed.handle();
    /// let worker = std::thread::spawn(move || -> quipu::Result<()> {
    ///     while !feed.step(Duration::MAX)?.woken_up {}
    ///     Ok(())
    /// });
    /// handle.wakeup();
    /// worker.join().unwrap()?;
    /// # Ok(()) }
    /// ```
    pub fn handle(&self) -> ReaderHandle {
        self.source.reader.handle()
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Stops, and gives the model back.
    pub fn into_model(self) -> M {
        self.model
    }
}

impl<M> fmt::Debug for Feed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("positions", &self.source.reader.positions()).finish_non_exhaustive()
    }
}
