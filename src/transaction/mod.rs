//! How are records of several partitions, and a consumer's progress, committed as one? They are
//! collected here, encoded as they come, and written in one step. Nothing is open in between that
//! another thread would have to wait for.
//!
//! Useful for: consume-transform-produce exactly once, an event with its outbox entry, moving
//! something from one stream to another. Not useful for: throughput; records that need not be there
//! together are sent with a [`Producer`](crate::Producer).

pub(crate) mod commit;
pub(crate) mod journal;
mod pending;
pub(crate) mod records;
pub(crate) mod recovery;

use std::collections::BTreeMap;
use std::fmt;

use self::commit::commit;
use self::pending::{CommitResult, CommitWait, WrittenTransaction};
use crate::broker::{Broker, BrokerInner, Gathering, TopicState, refuse_sequence};
use crate::config::Compression;
use crate::consumer::commit::Committer;
use crate::consumer::{Consumer, ConsumerHandle, IntoOffsets, Offsets};
use crate::error::{Error, Result};
use crate::format::key_hash::KeyHash;
use crate::group::changes::new_batch;
use crate::group::{GroupHost, Pin};
use crate::log::Log;
use crate::log::participate::{Conditions, Part};
use crate::log::streams::StreamCondition;
use crate::partitioner::{check_stream, partition_for_key};
use crate::producer::{Destination, Pending, Target};
use crate::reader::step::Step;
use crate::record::Record;
use crate::rng::SplitMix64;
use crate::stream::{EventIds, Stream};
use crate::sync::Arc;
use crate::topic::Partition;
use crate::types::{Offset, Receipt};
use crate::version::ExpectedVersion;

/// Records for any topics and partitions, conditions, and a consumer's offsets, that are committed
/// together or not at all.
///
/// After any crash either all of it is there or nothing, whatever the topics' durabilities; it
/// survives a power loss if one of the topics is [`Sync`](crate::Durability::Sync). Readers see it
/// partition by partition, and all of it once [`commit`](Transaction::commit) returns; there are no
/// markers in the partitions, and no reader ever waits for a transaction. Dropping it does nothing,
/// except that its consumers go back.
///
/// A transaction with offsets of a consumer that is dropped or fails, or whose thread panics before
/// the commit, has the consumer [rewind](Consumer::rewind) before its next poll or seek: the
/// records that were polled since the last commit come again, and a later commit does not pass over
/// them.
///
/// Unlike Kafka's: a record takes its place in the log at the commit, and keeps the time of its
/// [`send`](Transaction::send). The records for one partition are one batch, which must fit a
/// [segment](crate::TopicConfig::segment_bytes) and 64 MiB. Without a `transactional.id` an older
/// run is fenced only by its consumer's generation, with [offsets](Transaction::offsets).
///
/// Consume, transform, produce, exactly once:
///
/// ```
/// use std::time::Duration;
/// use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # broker.create_topic("orders", TopicConfig::new().partitions(2))?;
/// # let totals = broker.create_topic("totals", TopicConfig::new())?;
/// # broker.producer().send("orders", Record::new("42 EUR").key("customer-7"))?.wait()?;
/// let mut consumer = broker.consumer("totals").subscribe(&["orders"])?;
/// let records = consumer.poll(Duration::from_millis(200))?;
/// let mut transaction = broker.transaction();
/// for record in &records {
///     transaction.send(&totals, Record::from(&record));
/// }
/// transaction.offsets(&consumer, &records);
/// let receipts = transaction.commit()?;
/// assert_eq!(receipts.len(), 1);
/// assert_eq!(broker.group("totals")?.lag()?, 0);
/// # Ok(()) }
/// ```
#[must_use = "it does nothing until it is committed"]
pub struct Transaction {
    broker: Arc<BrokerInner>,
    parts: Vec<Building>,
    /// Of each record, which part it is in.
    order: Vec<usize>,
    offsets: Vec<Processed>,
    /// The appends to streams.
    appends: Vec<Appending>,
    /// Chooses partitions for records without a key: one a topic.
    random: u64,
    error: Option<Error>,
}

/// Offsets that a consumer has processed. Dropped before they are committed, they have the consumer
/// go back to its committed offsets.
struct Processed {
    committer: Step<Arc<Committer>>,
    done: Offsets,
}

/// A consumer's offsets during their commit.
struct Pinned {
    pin: Pin,
    committer: Step<Arc<Committer>>,
}

/// The part of one partition.
struct Building {
    records: Gathering,
    conditions: Conditions,
    /// Of a topic of streams, how many records of each key there are.
    events: BTreeMap<KeyHash, u64>,
}

/// Events that it appends to one stream.
struct Appending {
    stream: Stream,
    expected: ExpectedVersion,
    events: usize,
    /// If each has one.
    ids: Option<EventIds>,
}

impl Broker {
    /// A transaction without anything in it.
    pub fn transaction(&self) -> Transaction {
        Transaction {
            broker: self.inner().clone(),
            parts: Vec::new(),
            order: Vec::new(),
            offsets: Vec::new(),
            appends: Vec::new(),
            random: self.inner().next_seed(),
            error: None,
        }
    }
}

impl Transaction {
    /// Adds a record. Its partition is chosen as by a producer with default settings, except that
    /// all records of one topic without a key go to one partition. An error is returned by
    /// [`commit`](Transaction::commit), which then does nothing.
    pub fn send(&mut self, to: impl Destination, record: Record<'_>) -> &mut Self {
        let sent = self.try_send(to.target(), &record);
        self.note(sent)
    }

    /// Makes it a condition that a partition ends at `end`, as for [`Partition::append_at`]: no
    /// record was appended after those that the caller has read.
    pub fn expect_end(&mut self, partition: &Partition, end: Offset) -> &mut Self {
        let expected = self.try_expect_end(partition, end);
        self.note(expected)
    }

    /// Adds events to a stream, if it has the expected version, which counts the events that this
    /// transaction has added to it before. As for [`Stream::append`], they get the stream's key. A
    /// transaction of nothing but appends to streams at exact versions, in which every event has an
    /// id, can be repeated after an unknown outcome: it returns the original receipts.
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
    /// let (from, to) = (accounts.stream("account-7")?, accounts.stream("account-8")?);
    /// # from.append(ExpectedVersion::Empty, [Record::new("opened")])?;
    /// let seen = from.load()?;
    /// let mut transaction = broker.transaction();
    /// transaction.append(&from, seen.version(), [Record::new("-42 EUR")]);
    /// transaction.append(&to, ExpectedVersion::Any, [Record::new("+42 EUR")]);
    /// transaction.commit()?;
    /// assert_eq!((from.version()?.get(), to.version()?.get()), (2, 1));
    /// # Ok(()) }
    /// ```
    pub fn append<'r>(
        &mut self,
        stream: &Stream,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = Record<'r>>,
    ) -> &mut Self {
        let added = self.try_append(stream, expected.into(), events);
        self.note(added)
    }

    /// Adds offsets that a consumer has processed: they are committed for its group if and only if
    /// everything else is committed. The whole transaction fails if they may not be committed any
    /// more, for example because partitions have gone to another member.
    pub fn offsets(&mut self, consumer: &Consumer, done: impl IntoOffsets) -> &mut Self {
        self.add_offsets(consumer.committer(), done.into())
    }

    /// As [`offsets`](Transaction::offsets), on another thread than the consumer's.
    pub fn offsets_of(&mut self, consumer: &ConsumerHandle, done: impl IntoOffsets) -> &mut Self {
        self.add_offsets(consumer.committer(), done.into())
    }

    /// Commits all of it, and returns the receipts of its records in the order in which they were
    /// sent, once all of it is visible and as safe as the strictest durability among its topics. A
    /// transaction over one partition is a plain append.
    ///
    /// # Errors
    /// Nothing was done: the first error of [`send`](Transaction::send) and
    /// [`append`](Transaction::append), also [`InvalidConfig`](Error::InvalidConfig) for a record
    /// with a [sequence](Record::sequence); [`ForeignBroker`](Error::ForeignBroker) for a topic,
    /// partition, stream or consumer of another broker;
    /// [`StreamTruncated`](Error::StreamTruncated); [`VersionConflict`](Error::VersionConflict),
    /// which names a stream that has another version, or [`OffsetConflict`](Error::OffsetConflict),
    /// which names a partition that ends elsewhere: the events and records there can be read;
    /// [`CommitRejected`](Error::CommitRejected); [`RecordTooLarge`](Error::RecordTooLarge) for a
    /// record; for those of one partition, or all of them above 1 GiB,
    /// [`TransactionTooLarge`](Error::TransactionTooLarge); [`DiskFull`](Error::DiskFull);
    /// [`Poisoned`](Error::Poisoned), [`JournalFailed`](Error::JournalFailed),
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed). If
    /// [`outcome`](Error::outcome) is unknown, a write or sync failed: all of the transaction or
    /// nothing will be there once the broker has been opened again, and until then its partitions
    /// take no appends.
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("orders", TopicConfig::new())?;
    /// # broker.create_topic("outbox", TopicConfig::new())?;
    /// let mut transaction = broker.transaction();
    /// transaction.send("orders", Record::new("42 EUR")).send("outbox", Record::new("tell customer-7"));
    /// let receipts = transaction.commit()?;
    /// assert_eq!(receipts[1].topic, "outbox");
    /// # Ok(()) }
    /// ```
    pub fn commit(self) -> Result<Vec<Receipt>> {
        let (done, pins) = self.write()?;
        done.wait()?;
        // Only now may the partitions of consumers change hands.
        settle(pins);
        Ok(done.receipts())
    }

    /// As [`commit`](Transaction::commit), to be waited for later or awaited. Conditions have been
    /// checked and everything is written when this returns; only the sync is left, if one of the
    /// topics demands it. Dropping the `Pending` leaves that to the background; if nothing was
    /// committed, the event listener gets [`CommitFailed`](crate::stats::Event::CommitFailed).
    ///
    /// ```
    /// # use quipu::{Broker, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("orders", TopicConfig::new().partitions(2))?;
    /// let mut transaction = broker.transaction();
    /// transaction.send("orders", Record::new("42 EUR").key("a")).send("orders", Record::new("1 EUR").key("b"));
    /// let committing = transaction.commit_async();
    /// assert_eq!(committing.wait()?.len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn commit_async(self) -> Pending<Vec<Receipt>> {
        let broker = self.broker.clone();
        let written = self.write().map(|(done, pins)| {
            settle(pins);
            done
        });
        Pending::other(CommitWait::new(broker, written))
    }

    /// Does all of it but to wait, or finds that it was done before.
    fn write(mut self) -> Result<(CommitResult, Vec<Pinned>)> {
        let appends = std::mem::take(&mut self.appends);
        // A repetition can only be recognized in streams, by the ids of their events.
        let by_ids = self.offsets.is_empty()
            && self.parts.iter().all(|part| part.conditions.end.is_none())
            && self.order.len() == appends.iter().map(|append| append.events).sum::<usize>();
        match self.write_now() {
            Ok((written, pins)) => Ok((CommitResult::Now(written), pins)),
            Err(error @ Error::VersionConflict { .. }) if by_ids => match find_repeated(&appends)? {
                Some(receipts) => Ok((CommitResult::Before(receipts), Vec::new())),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn write_now(self) -> Result<(WrittenTransaction, Vec<Pinned>)> {
        let Transaction { broker, parts, order, offsets, error, .. } = self;
        if let Some(error) = error {
            return Err(error);
        }
        broker.check_open()?;
        let ctx = &broker.ctx;
        // Pinned first: no partition changes hands until all is written.
        let pin = |Processed { committer, done }| Ok(Pinned { pin: committer.pin(done)?, committer });
        let pins: Vec<Pinned> = offsets.into_iter().map(pin).collect::<Result<_>>()?;
        let mut work = Vec::with_capacity(parts.len() + 1);
        let mut times = Vec::with_capacity(parts.len());
        for Building { records, conditions, .. } in parts {
            let log = records.log().clone();
            let (batch, timestamps) = records.seal(ctx)?;
            times.push(timestamps);
            work.push(Part { log, batch, conditions });
        }
        let records = work.len();
        if pins.iter().any(|pinned| pinned.pin.len() > 0) {
            let mut builder = new_batch(ctx);
            pins.iter().for_each(|pinned| pinned.pin.add_to(&mut builder));
            let log = broker.coordinator().offsets().open(&*broker)?;
            let batch = Some(builder.seal(ctx, Compression::None));
            work.push(Part { log, batch, conditions: Conditions::default() });
        }
        let committing = commit(&broker.journal, work, |answers| {
            if let Some(Some(appended)) = answers.get(records) {
                let mut base = appended.base_offset;
                for Pinned { pin, .. } in &pins {
                    pin.written(&*broker, base, appended.epoch);
                    base = base.plus(pin.len());
                }
            }
        })?;
        Ok((WrittenTransaction { committing, order, times }, pins))
    }

    fn note(&mut self, result: Result<()>) -> &mut Self {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
        self
    }

    fn add_offsets(&mut self, committer: Arc<Committer>, done: Offsets) -> &mut Self {
        let own = committer.check_broker(&self.broker);
        self.offsets.push(Processed { committer: Step::new(committer), done });
        self.note(own)
    }

    fn try_expect_end(&mut self, partition: &Partition, end: Offset) -> Result<()> {
        partition.check_broker(&self.broker)?;
        let (_, part) = part_of(&mut self.parts, partition.state(), partition.log())?;
        match part.conditions.end {
            Some(other) if other != end => {
                let (topic, partition) = (partition.topic().clone(), partition.id());
                Err(Error::OffsetConflict { topic, partition, expected: end, end: other })
            }
            _ => {
                part.conditions.end = Some(end);
                Ok(())
            }
        }
    }

    fn try_append<'r>(
        &mut self,
        stream: &Stream,
        expected: ExpectedVersion,
        events: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<()> {
        stream.check_broker(&self.broker)?;
        let (state, log) = (stream.state(), stream.log());
        state.check()?;
        let (_, part) = part_of(&mut self.parts, state, log)?;
        // The events that this transaction has added to the stream before.
        let ahead = part.events.get(&stream.hash()).copied().unwrap_or(0);
        part.conditions.streams.push(StreamCondition { ahead, ..stream.condition(expected) });
        let events: Vec<_> = events.into_iter().map(|event| stream.event(event)).collect::<Result<_>>()?;
        let (stream, ids) = (stream.clone(), EventIds::of(&events));
        self.appends.push(Appending { stream, expected, events: events.len(), ids });
        events.iter().try_for_each(|event| self.push(state, log, event))
    }

    fn try_send(&mut self, to: Target<'_>, record: &Record<'_>) -> Result<()> {
        let named;
        let (state, partition) = match to {
            Target::Topic(topic) => {
                topic.check_broker(&self.broker)?;
                (topic.state(), None)
            }
            Target::Partition(partition) => {
                partition.check_broker(&self.broker)?;
                (partition.state(), Some(partition))
            }
            Target::Name(name) => {
                named = self.broker.topic_state(name)?;
                (&named, None)
            }
        };
        state.check()?;
        let count = state.log_count();
        let chosen = match (partition, record.key_bytes()) {
            (Some(partition), _) => partition.id().get(),
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => {
                let [first, ..] = state.id.0;
                let mut random = SplitMix64::new(self.random ^ u64::from(first));
                // The remainder is less than `count`.
                (random.next_u64() % u64::from(count.max(1))) as u32
            }
        };
        if state.has_streams() {
            check_stream(&state.name, record.key_bytes(), chosen, count)?;
        }
        if let Some(partition) = partition {
            return self.push(state, partition.log(), record);
        }
        let unknown =
            || Error::UnknownPartition { topic: state.name.clone(), partition: chosen.into(), count };
        let log = state.logs().get(chosen as usize).cloned().ok_or_else(unknown)?;
        self.push(state, &log, record)
    }

    /// Adds a record to a partition's part.
    fn push(&mut self, state: &Arc<TopicState>, log: &Arc<Log>, record: &Record<'_>) -> Result<()> {
        refuse_sequence(record)?;
        let now = self.broker.ctx.clock.now();
        let (at, part) = part_of(&mut self.parts, state, log)?;
        part.records.push(&self.broker.ctx, record, now, self.order.len())?;
        part.records.check_part()?;
        if let Some(key) = record.key_bytes().filter(|_| state.has_streams()) {
            *part.events.entry(log.identity().key_hasher().hash(key)).or_default() += 1;
        }
        self.order.push(at);
        Ok(())
    }
}

/// A partition's part and its index, which is added if it is missing.
fn part_of<'p>(
    parts: &'p mut Vec<Building>,
    topic: &Arc<TopicState>,
    log: &Arc<Log>,
) -> Result<(usize, &'p mut Building)> {
    let known = parts.iter().position(|part| Arc::ptr_eq(part.records.log(), log));
    let at = known.unwrap_or(parts.len());
    if known.is_none() {
        parts.push(Building {
            records: Gathering::new(topic, log),
            conditions: Conditions::default(),
            events: BTreeMap::new(),
        });
    }
    let part = parts.get_mut(at);
    part.map(|part| (at, part)).ok_or_else(|| Error::internal("a part that was found or added is there"))
}

/// The offsets are committed: the positions of their consumers stay.
fn settle(pins: Vec<Pinned>) {
    pins.into_iter().for_each(|Pinned { committer, .. }| committer.done());
}

/// The receipts of events that were appended to streams before, if all of them were. There are
/// conditions for it: each has an id, and there is one version at which they can have been.
fn find_repeated(appends: &[Appending]) -> Result<Option<Vec<Receipt>>> {
    let mut receipts = Vec::new();
    for Appending { stream, expected, events, ids } in appends {
        if *events == 0 {
            continue;
        }
        let (Some(ids), Some(version)) = (ids, expected.exact()) else { return Ok(None) };
        // The expected version counts the events that this transaction appends before.
        let Some(found) = stream.find_repeated(version, ids)? else { return Ok(None) };
        receipts.extend(found);
    }
    Ok((!receipts.is_empty()).then_some(receipts))
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("records", &self.order.len())
            .field("partitions", &self.parts.len())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
