//! How does a read model keep up with its events? Either it is stored in topics of the same broker,
//! and its records and its position are committed in one transaction; or it is stored elsewhere,
//! together with its position.
//!
//! Both apply every event exactly once, in the order of each partition, whenever the process stops.
//! A topic with one partition is a total order; of a topic with several each has its own.

use std::fmt;
use std::time::Duration;

use crate::broker::Broker;
use crate::config::invalid;
use crate::consumer::{Consumer, Offsets};
use crate::error::{Error, Result};
use crate::reader::{OffsetReset, Reader};
use crate::records::{ConsumedRecord, Records, SkipReason, Skipped};
use crate::sync::about_to_call_user_code;
use crate::transaction::Transaction;
use crate::types::{Offset, Position, Start, TopicPartition};

/// Derives records from events: for example a table in a compacted topic, or a stream per customer.
///
/// It may keep state in memory, which must be rebuilt from the records that it has sent: the state
/// is lost with a restart, and it may include events that were not committed.
pub trait Projection {
    /// Its error. [`Error`] is enough if it has no errors of its own.
    type Error: From<Error>;

    /// Adds the records that follow from an event to `changes`.
    ///
    /// # Errors
    /// The projection's own: nothing of this step is committed, and the event comes again.
    fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<(), Self::Error>;

    /// Called before it is [rebuilt](Projector::rebuild): all events come again. Does nothing by
    /// default.
    ///
    /// # Errors
    /// The projection's own: it is not rebuilt.
    fn reset(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl<F, E> Projection for F
where
    F: FnMut(&ConsumedRecord<'_>, &mut Transaction) -> Result<(), E>,
    E: From<Error>,
{
    type Error = E;

    fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<(), E> {
        self(event, changes)
    }
}

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

/// How far a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many events were applied by the call.
    pub applied: u64,
    /// About how many visible events of its partitions are still to be applied.
    pub lag: u64,
}

impl Broker {
    /// Runs a projection of topics under a name: the name of the consumer group that stores its
    /// position. Several projectors of the same name share the partitions.
    ///
    /// # Errors
    /// Those of [`subscribe`](crate::ConsumerBuilder::subscribe).
    ///
    /// ```
    /// use quipu::{Broker, Cleanup, ConsumedRecord, ExpectedVersion, Record, TopicConfig, Transaction};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
    /// broker.create_topic("owners", TopicConfig::new().cleanup(Cleanup::Compact))?;
    /// accounts.stream("account-7")?.append(ExpectedVersion::Empty, [Record::new("opened by Ada")])?;
    ///
    /// let owners = |event: &ConsumedRecord<'_>, changes: &mut Transaction| -> quipu::Result<()> {
    ///     if let (Some(account), Some(owner)) = (event.key(), event.value().and_then(|v| v.strip_prefix(b"opened by "))) {
    ///         changes.send("owners", Record::new(owner).key(account));
    ///     }
    ///     Ok(())
    /// };
    /// let mut projector = broker.projector("owners", &["accounts"], owners)?;
    /// assert_eq!(projector.catch_up(|_| {})?, 1);
    /// # Ok(()) }
    /// ```
    pub fn projector<P: Projection>(
        &self,
        name: &str,
        topics: &[&str],
        projection: P,
    ) -> Result<Projector<P>> {
        let consumer = self.consumer(name).subscribe(topics)?;
        Ok(Projector { broker: self.clone(), consumer, projection })
    }

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
    pub fn feed<M: ReadModel>(&self, topics: &[&str], model: M) -> Result<Feed<M>, M::Error> {
        // A model that has applied records which are gone must not continue silently.
        let reader = self.reader(topics, Start::Beginning)?.offset_reset(OffsetReset::Fail);
        let mut feed = Feed { broker: self.clone(), reader, model, is_placed: false };
        feed.place()?;
        Ok(feed)
    }
}

/// A [`Projection`] that runs.
pub struct Projector<P> {
    broker: Broker,
    consumer: Consumer,
    projection: P,
}

impl<P: Projection> Projector<P> {
    /// Applies the next events, waiting for some for at most `timeout`, and commits their changes
    /// together with the position after them.
    ///
    /// # Errors
    /// [`Truncated`](Error::Truncated) or [`OffsetOutOfRange`](Error::OffsetOutOfRange): it has
    /// applied events that are gone, or retention deleted events before it applied them. This step
    /// and every later one apply nothing until the caller [rebuilds](Projector::rebuild) it. The
    /// same holds if a power loss took events whose results were durable, whatever has been
    /// appended in their place and however often the broker is opened: the position is also in the
    /// [metadata](crate::CommittedOffset::metadata) of each commit, and a commit that was [set
    /// back](crate::stats::OpenReport::clamped) is less than that.
    ///
    /// Those of [`Consumer::poll`], [`Transaction::commit`] and the projection. Nothing was
    /// committed, or it is unknown whether it was; in both cases the next step starts after the
    /// last commit.
    pub fn step(&mut self, timeout: Duration) -> Result<Progress, P::Error> {
        let events = self.consumer.poll(timeout)?;
        if let Some(error) = self.set_back()? {
            self.consumer.rewind();
            return Err(error.into());
        }
        // Damaged records that were given up do not come again, however often they are read.
        if let Some(skipped) = events.skipped().iter().find(|skipped| skipped.reason != SkipReason::Lost) {
            // To continue elsewhere is for consumers; here it would apply events again, or never.
            let error = self.unlike(skipped);
            self.consumer.rewind();
            return Err(error?.into());
        }
        if !events.is_empty() {
            let mut changes = self.broker.transaction();
            about_to_call_user_code("a projection", &[]);
            let applied = events.iter().try_for_each(|event| self.projection.apply(&event, &mut changes));
            let committed = applied.and_then(|()| {
                changes.offsets(&self.consumer, Offsets::from(&events).note_themselves());
                changes.commit().map_err(P::Error::from)
            });
            if let Err(error) = committed {
                self.consumer.rewind();
                return Err(error);
            }
        }
        let lag = lag(&self.broker, &self.consumer.positions())?;
        Ok(Progress { applied: events.len() as u64, lag })
    }

    /// Applies events until there are no more, and calls `report` with the progress after each
    /// step. Returns their number.
    ///
    /// # Errors
    /// As [`step`](Projector::step).
    pub fn catch_up(&mut self, report: impl FnMut(&Progress)) -> Result<u64, P::Error> {
        catch_up(|timeout| self.step(timeout), report)
    }

    /// The error if it has applied more than it has committed, because the commit was set back:
    /// nothing may follow.
    fn set_back(&self) -> Result<Option<Error>> {
        for TopicPartition { topic, partition } in self.consumer.assignment() {
            let Some(committed) = self.consumer.committed(topic.as_str(), partition)? else { continue };
            let applied = committed.metadata.parse().ok().map(Offset::new);
            if let Some(offset) = applied.filter(|applied| *applied > committed.offset) {
                return Ok(Some(Error::Truncated { topic, partition, offset, to: committed.offset }));
            }
        }
        Ok(None)
    }

    /// The error if the event to apply next does not follow the last one that was applied.
    fn unlike(&self, skipped: &Skipped) -> Result<Error> {
        let Skipped { topic, partition, from, reason, .. } = skipped;
        let (topic, partition) = (topic.clone(), *partition);
        Ok(match *reason {
            SkipReason::Truncated { at } => Error::Truncated { topic, partition, offset: *from, to: at },
            SkipReason::OutOfRange | SkipReason::Lost => {
                let bounds = self.broker.topic(topic.as_str())?.partition(partition.get())?.bounds()?;
                let (earliest, latest) = (bounds.log_start, bounds.visible_end);
                Error::OffsetOutOfRange { topic, partition, requested: *from, earliest, latest }
            }
        })
    }

    /// Starts over: [resets](Projection::reset) the projection, and all events of the partitions
    /// that it has now come again with the next steps, also after a restart. If several projectors
    /// of the same name share the partitions, each rebuilds its own. The records that it has sent
    /// stay; in a compacted topic newer records replace them.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) if it has no partition now; those of
    /// [`Consumer::poll`], [`Consumer::commit`] and of the projection. If the reset succeeds and
    /// the commit fails, it is at its beginning only until a restart: call this again.
    pub fn rebuild(&mut self) -> Result<(), P::Error> {
        // A projector that has joined just now gets its partitions with a poll.
        drop(self.consumer.poll(Duration::ZERO)?);
        if self.consumer.assignment().is_empty() {
            return Err(invalid(
                "rebuild",
                "it has no partition: other projectors of this name have all of them",
            )
            .into());
        }
        self.projection.reset()?;
        self.consumer.seek_all(Start::Beginning)?;
        let mut started = Offsets::new();
        for position in self.consumer.positions() {
            started.next(&position);
        }
        Ok(self.consumer.commit(started)?)
    }

    /// The projection.
    pub fn projection(&self) -> &P {
        &self.projection
    }

    /// The consumer that it reads with.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Stops, and gives the projection back.
    pub fn into_projection(self) -> P {
        self.projection
    }
}

impl<P> fmt::Debug for Projector<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projector").field("name", self.consumer.group()).finish_non_exhaustive()
    }
}

/// A [`ReadModel`] that is being fed.
pub struct Feed<M> {
    broker: Broker,
    reader: Reader,
    model: M,
    /// Whether the reader is where the model is.
    is_placed: bool,
}

impl<M: ReadModel> Feed<M> {
    /// Gives the model the next events, waiting for some for at most `timeout`.
    ///
    /// # Errors
    /// Those of [`Reader::poll`] and of the model, whose [positions](ReadModel::positions) are read
    /// again with the next step, because it may have stored the events although it returned an
    /// error. [`OffsetOutOfRange`](Error::OffsetOutOfRange) or [`Truncated`](Error::Truncated): the
    /// model has applied events that are gone, or has missed some; rebuild it.
    pub fn step(&mut self, timeout: Duration) -> Result<Progress, M::Error> {
        if !self.is_placed {
            self.place()?;
        }
        let events = self.reader.poll(timeout)?;
        if !events.is_empty() {
            self.is_placed = false;
            about_to_call_user_code("a read model", &[]);
            self.model.apply(&events, &self.reader.positions())?;
            self.is_placed = true;
        }
        let lag = lag(&self.broker, &self.reader.positions())?;
        Ok(Progress { applied: events.len() as u64, lag })
    }

    /// Moves the reader to the model's positions.
    fn place(&mut self) -> Result<(), M::Error> {
        let positions = self.model.positions()?;
        // Those that it does not name, one that was added just now among them.
        self.reader.seek_all(Start::Beginning)?;
        for position in positions {
            self.reader.seek(&position)?;
        }
        self.is_placed = true;
        Ok(())
    }

    /// Gives it events until there are no more, and calls `report` with the progress after each
    /// step. Returns their number.
    ///
    /// # Errors
    /// As [`step`](Feed::step).
    pub fn catch_up(&mut self, report: impl FnMut(&Progress)) -> Result<u64, M::Error> {
        catch_up(|timeout| self.step(timeout), report)
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
        f.debug_struct("Feed").field("positions", &self.reader.positions()).finish_non_exhaustive()
    }
}

/// How long a step of catching up waits for events: others may have to hand partitions over first.
const WAIT: Duration = Duration::from_millis(20);

/// Steps until nothing is left, or several steps bring nothing, because another consumer has the
/// partitions or is about to get them.
fn catch_up<E>(
    mut step: impl FnMut(Duration) -> Result<Progress, E>,
    mut report: impl FnMut(&Progress),
) -> Result<u64, E> {
    const IDLE_MAX: u32 = 3;
    let (mut applied, mut idle, mut timeout) = (0, 0, WAIT);
    while idle < IDLE_MAX {
        let progress = step(timeout)?;
        applied += progress.applied;
        report(&progress);
        idle = if progress.applied > 0 { 0 } else { idle + 1 };
        if progress.lag == 0 && applied > 0 {
            // One more step, which reports an error where nothing seems to be left.
            (idle, timeout) = (idle + IDLE_MAX - 1, Duration::ZERO);
        }
    }
    Ok(applied)
}

/// How many visible offsets lie after these positions.
fn lag(broker: &Broker, positions: &[Position]) -> Result<u64> {
    let mut lag = 0;
    for position in positions {
        let partition = broker.topic(position.topic.as_str())?.partition(position.partition.get())?;
        lag += partition.bounds()?.visible_end.since(position.offset);
    }
    Ok(lag)
}
