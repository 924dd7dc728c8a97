//! A projection whose records and position are committed in one transaction.

use std::fmt;
use std::time::Duration;

use super::contract::Projection;
use super::progress::{Progress, catch_up};
use super::stateful::Stateful;
use crate::broker::Broker;
use crate::config::invalid;
use crate::consumer::{Consumer, ConsumerBuilder, Offsets};
use crate::error::{Error, Result};
use crate::reader::ReaderHandle;
use crate::reader::moved::Seen;
use crate::reader::step::Step;
use crate::records::{SkipReason, Skipped};
use crate::types::{Names, Offset, Start};

impl ConsumerBuilder {
    /// Runs a projection of topics. Its position is that of the group, and several projectors of
    /// one group share the partitions. The settings are those of the group's consumer:
    /// [`max_records`](ConsumerBuilder::max_records) bounds the events of a step, and so of a
    /// transaction; [`offset_reset`](ConsumerBuilder::offset_reset) decides where it begins, and
    /// never where it continues, because it would miss events. A listener must neither seek nor
    /// commit.
    ///
    /// # Errors
    /// Those of [`subscribe`](ConsumerBuilder::subscribe); [`InvalidConfig`](Error::InvalidConfig)
    /// with [`auto_commit`](ConsumerBuilder::auto_commit), because each step commits.
    ///
    /// ```
    /// use quipu::{Broker, Cleanup, ConsumedRecord, Record, TopicConfig, Transaction};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
    /// broker.create_topic("owners", TopicConfig::new().cleanup(Cleanup::Compact))?;
    /// # use quipu::ExpectedVersion;
    /// let event = Record::new("opened by Ada");
    /// accounts.stream("account-7")?.append(ExpectedVersion::Empty, event)?;
    ///
    /// let owners = |event: &ConsumedRecord<'_>, changes: &mut Transaction| -> quipu::Result<()> {
    ///     let owner = event.value_str().and_then(|event| event.strip_prefix("opened by "));
    ///     if let (Some(account), Some(owner)) = (event.key(), owner) {
    ///         changes.send("owners", Record::new(owner).key(account));
    ///     }
    ///     Ok(())
    /// };
    /// let mut projector = broker.consumer("owners").project(&["accounts"], owners)?;
    /// assert_eq!(projector.catch_up(|_| {})?, 1);
    /// # Ok(()) }
    /// ```
    pub fn project<P: Projection>(self, topics: impl Names, projection: P) -> Result<Projector<P>> {
        if self.get_auto_commit().is_some() {
            return Err(invalid("auto_commit", "a projector commits with each step"));
        }
        let (broker, bound) = (Broker::of(self.broker()), Bound::new(self.get_max_records()));
        Ok(Projector {
            broker,
            consumer: self.subscribe(topics)?,
            state: Stateful::new(projection),
            bound,
            seen: Seen::default(),
            unfinished: false,
        })
    }
}

/// A [`Projection`] that runs.
pub struct Projector<P> {
    broker: Broker,
    consumer: Consumer,
    state: Stateful<P>,
    bound: Bound,
    /// The partitions whose commits were found as this projection has left them: only an opening of
    /// the broker sets a commit back, and no partition is assigned before that.
    seen: Seen,
    /// The projection has been reset, and the group has not been set to the beginning yet.
    unfinished: bool,
}

/// How many events a step takes.
struct Bound {
    most: usize,
    now: usize,
    /// How many steps have gone through since it was changed.
    steps: u32,
}

impl Bound {
    /// After so many steps a divided one takes twice as many events again. A step that is too large
    /// costs as much as one that goes through, so it is to be rare.
    const STEPS: u32 = 16;

    fn new(most: usize) -> Self {
        Bound { most, now: most, steps: 0 }
    }

    /// A step of so many events made too much.
    fn divide(&mut self, events: usize) {
        (self.now, self.steps) = ((events / 2).max(1), 0);
    }

    /// A step went through.
    fn grow(&mut self) {
        self.steps += u32::from(self.now < self.most);
        if self.steps == Self::STEPS {
            (self.now, self.steps) = (self.now.saturating_mul(2).min(self.most), 0);
        }
    }
}

impl<P: Projection> Projector<P> {
    /// Applies the next events, waiting for some for at most `timeout` or until a
    /// [wake-up](Projector::handle), and commits their changes together with the position after
    /// them.
    ///
    /// If that makes more records than a segment of one of their topics or a transaction can hold,
    /// the step is divided: it starts again with half as many events, down to one. The projection
    /// gets these events again.
    ///
    /// A step that ends early has applied nothing, whether by an error or because the projection
    /// panicked: the events come again with the next step, after the projection has
    /// [loaded](Projection::assigned) its state.
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
    /// [`RecordTooLarge`](Error::RecordTooLarge) or
    /// [`TransactionTooLarge`](Error::TransactionTooLarge) if a single event makes too much.
    ///
    /// Those of [`Consumer::poll`], [`Transaction::commit`](crate::Transaction::commit) and the
    /// projection. Nothing was committed, or it is unknown whether it was; in both cases the next
    /// step starts after the last commit.
    pub fn step(&mut self, timeout: Duration) -> Result<Progress, P::Error> {
        if self.unfinished {
            self.start_over()?;
        }
        let mut timeout = timeout;
        loop {
            self.consumer.limit_records(self.bound.now);
            let mut step = Step::new(&mut self.consumer);
            let events = self.state.poll(&mut step, timeout)?;
            if let Some(error) = set_back(&step, &self.seen) {
                return Err(error.into());
            }
            self.seen = step.seen();
            // Damaged records that were given up do not come again, however often they are read.
            if let Some(skipped) = events.skipped().iter().find(|skipped| skipped.reason != SkipReason::Lost)
            {
                // To continue elsewhere is for consumers; here it would apply events again, or
                // never.
                return Err(unlike(&self.broker, skipped)?.into());
            }
            self.state.load(&step)?;
            let applied = events.len();
            if applied > 0 {
                let mut changes = self.broker.transaction();
                self.state.apply(&events, &mut changes)?;
                changes.offsets(&step, Offsets::from(&events).note_themselves());
                match changes.commit() {
                    Err(Error::RecordTooLarge { .. } | Error::TransactionTooLarge { .. }) if applied > 1 => {
                        self.bound.divide(applied);
                        timeout = Duration::ZERO;
                        continue;
                    }
                    committed => drop(committed?),
                }
                self.state.committed();
                self.bound.grow();
            }
            step.done();
            let (lag, woken_up) = (self.consumer.lag(), self.consumer.was_woken_up());
            return Ok(Progress { applied: applied as u64, lag, woken_up });
        }
    }

    /// Applies events until there are no more, or until a [wake-up](Projector::handle), and calls
    /// `report` with the progress after each step. Returns their number.
    ///
    /// # Errors
    /// As [`step`](Projector::step).
    pub fn catch_up(&mut self, report: impl FnMut(&Progress)) -> Result<u64, P::Error> {
        catch_up(|timeout| self.step(timeout), report)
    }

    /// Starts over: [resets](Projection::reset) the projection, and all events of the partitions
    /// that it has now come again with the next steps, also after a restart. If several projectors
    /// of one group share the partitions, each rebuilds its own. The records that it has sent stay,
    /// unless the projection removes them; in a compacted topic newer records replace them.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) if it has no partition now; those of
    /// [`Consumer::poll`] and of the projection: it is not rebuilt, and continues where it was.
    /// Those of [`Transaction::commit`](crate::Transaction::commit): the projection has been reset,
    /// and the next step starts over before it applies anything. A restart before that continues at
    /// the old position: call this again.
    pub fn rebuild(&mut self) -> Result<(), P::Error> {
        if !self.start_over()? {
            let reason = "it has no partition: other projectors of this group have all of them";
            return Err(invalid("rebuild", reason).into());
        }
        Ok(())
    }

    /// Resets the projection, and sets the group to the beginning of the partitions that it has.
    /// Returns whether it has any.
    fn start_over(&mut self) -> Result<bool, P::Error> {
        let mut step = Step::new(&mut self.consumer);
        // A projector that has joined just now gets its partitions with a poll; and if another has
        // joined since, the commit is to be one of this generation.
        self.state.rebalance(&mut step)?;
        if step.assignment().is_empty() {
            self.unfinished = false;
            return Ok(false);
        }
        self.state.load(&step)?;
        let mut changes = self.broker.transaction();
        self.state.reset(&mut changes)?;
        self.unfinished = true;
        step.seek_all(Start::Beginning)?;
        let started = step.offsets_at(step.positions());
        changes.offsets(&step, started);
        changes.commit()?;
        step.done();
        self.state.committed();
        self.unfinished = false;
        Ok(true)
    }

    /// A handle to interrupt this projector's waiting from elsewhere: its current step, or else its
    /// next one, applies nothing and returns at once.
    ///
    /// ```
    /// # use quipu::{Broker, ConsumedRecord, TopicConfig, Transaction};
    /// # use std::time::Duration;
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("accounts", TopicConfig::streams())?;
    /// # fn owners(_: &ConsumedRecord<'_>, _: &mut Transaction) -> quipu::Result<()> { Ok(()) }
    /// let mut projector = broker.consumer("owners").project(&["accounts"], owners)?;
    /// let handle = projector.handle();
    /// let worker = std::thread::spawn(move || -> quipu::Result<()> {
    ///     while !projector.step(Duration::MAX)?.woken_up {}
    ///     Ok(())
    /// });
    /// handle.wakeup();
    /// worker.join().unwrap()?;
    /// # Ok(()) }
    /// ```
    pub fn handle(&self) -> ReaderHandle {
        self.consumer.reader_handle()
    }

    /// The most events of a step: see [`max_records`](ConsumerBuilder::max_records). `usize::MAX`
    /// without a limit. A step that is [divided](Projector::step) takes fewer.
    pub fn max_records(&self) -> usize {
        self.bound.most
    }

    /// The projection.
    pub fn projection(&self) -> &P {
        &self.state.projection
    }

    /// The consumer that it reads with: its group, topics, partitions and settings.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Stops, and gives the projection back.
    pub fn into_projection(self) -> P {
        self.state.projection
    }
}

impl<P> fmt::Debug for Projector<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projector").field("group", self.consumer.group()).finish_non_exhaustive()
    }
}

/// The error if it has applied more than it has committed in a partition that it has not seen yet,
/// because the commit was set back: nothing may follow.
fn set_back(consumer: &Consumer, seen: &Seen) -> Option<Error> {
    consumer.unseen_commits(seen).into_iter().find_map(|(of, committed)| {
        let applied = committed.metadata.parse().ok().map(Offset::new);
        let offset = applied.filter(|applied| *applied > committed.offset)?;
        Some(Error::Truncated { topic: of.topic, partition: of.partition, offset, to: committed.offset })
    })
}

/// The error if the event to apply next does not follow the last one that was applied.
fn unlike(broker: &Broker, skipped: &Skipped) -> Result<Error> {
    let Skipped { topic, partition, from, reason, .. } = skipped;
    let (topic, partition) = (topic.clone(), *partition);
    Ok(match *reason {
        SkipReason::Truncated { at } => Error::Truncated { topic, partition, offset: *from, to: at },
        SkipReason::OutOfRange | SkipReason::Lost => {
            let bounds = broker.topic(topic.as_str())?.partition(partition)?.bounds()?;
            let (earliest, latest) = (bounds.log_start, bounds.visible_end);
            Error::OffsetOutOfRange { topic, partition, requested: *from, earliest, latest }
        }
    })
}
