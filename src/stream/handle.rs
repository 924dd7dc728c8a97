//! The handle of one stream: loads its events, and appends events at an expected version.

use std::fmt;

use super::history::{History, StreamReceipt};
use super::repeat::{EventIds, LOOK_BACK, NEVER, first_of};
use crate::broker::{BrokerInner, TopicState, prepare};
use crate::config::invalid;
use crate::error::{Error, Result};
use crate::format::key_hash::KeyHash;
use crate::log::erase::erase_key;
use crate::log::streams::{Limit, StreamCondition};
use crate::log::{Log, durability, streams};
use crate::partitioner::partition_for_key;
use crate::record::{IntoBytes, Record};
use crate::records::OwnedRecord;
use crate::sync::Arc;
use crate::topic::{Partition, Topic};
use crate::types::{Receipt, TopicName};
use crate::version::{ExpectedVersion, Version};

impl Topic {
    /// The stream of a key, which has events or not. A cheap handle.
    ///
    /// # Errors
    /// [`Streams`](Error::Streams) if the topic was not created with
    /// [`TopicConfig::streams`](crate::TopicConfig::streams);
    /// [`MissingKey`](Error::MissingKey) for a null key; [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed).
    ///
    /// ```
    /// # use quipu::{Broker, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
    /// assert!(accounts.stream("account-7")?.load()?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn stream<'k>(&self, key: impl IntoBytes<'k>) -> Result<Stream> {
        self.state().check()?;
        self.check_streams()?;
        let missing = || Error::MissingKey { topic: self.name().clone(), index: 0 };
        let key: Arc<[u8]> = key.into_bytes().ok_or_else(missing)?.as_ref().into();
        let partition = self.partition(partition_for_key(&key, self.partition_count()))?;
        let hash = partition.log().identity().key_hasher().hash(&key);
        Ok(Stream { broker: self.broker().clone(), partition, key, hash })
    }

    /// Erases the values and headers of a stream's events for good. Empty events with the stream's
    /// key, their offsets and their times stay, so that its versions continue and it can be
    /// appended to as before. Returns the number of events that were erased; a second call returns
    /// 0.
    ///
    /// Every segment that holds some of them is rewritten. So is every segment whose file is longer
    /// than its records, because that is the result of a truncation and may hold some of them, too.
    /// The cost is proportional to the size of these segments. Appending and reading continue; a
    /// caller that has loaded the events keeps them. The old files are deleted; the disk may keep
    /// their blocks. The key stays, so it must not identify a person. Ids are erased, so an earlier
    /// append that is [repeated](Stream::append) at any version appends again. `.torn` files, which
    /// a crash may leave, are not searched, and the caller must erase copies elsewhere.
    ///
    /// # Errors
    /// [`Streams`](Error::Streams); [`CompactionAborted`](Error::CompactionAborted),
    /// [`Corrupt`](Error::Corrupt), [`Poisoned`](Error::Poisoned), [`DiskFull`](Error::DiskFull),
    /// [`TopicDeleted`](Error::TopicDeleted), [`Closed`](Error::Closed), or another I/O error: some
    /// events may be erased and others not; call it again. If an old file could not be removed, the
    /// next opening does that.
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let people = broker.create_topic("people", TopicConfig::streams())?;
    /// let person = people.stream("person-7")?;
    /// person.append(ExpectedVersion::Empty, ["born", "moved to Uyuni"].map(Record::from))?;
    /// assert_eq!(people.erase_stream("person-7")?, 2);
    /// let history = person.load()?;
    /// assert!(history.iter().all(|event| event.value().is_none()));
    /// assert_eq!(history.version(), 2);
    /// # Ok(()) }
    /// ```
    pub fn erase_stream<'k>(&self, key: impl IntoBytes<'k>) -> Result<u64> {
        let stream = self.stream(key)?;
        erase_key(stream.log(), &stream.key, stream.hash)
    }

    /// # Errors
    /// `Streams`: it keeps none.
    pub(crate) fn check_streams(&self) -> Result<()> {
        if self.state().has_streams() {
            return Ok(());
        }
        let reason = "it does not keep streams; create it with TopicConfig::streams()";
        Err(Error::Streams { topic: self.name().clone(), reason })
    }
}

/// All events of one aggregate: the records of one key in a topic of
/// [streams](crate::TopicConfig::streams).
///
/// Load the events, decide, and append new events at the version that was loaded. If another writer
/// has appended in between, the append fails: load and decide again.
///
/// ```
/// use quipu::{Broker, Error, ExpectedVersion, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
/// let account = accounts.stream("account-7")?;
/// account.append(ExpectedVersion::Empty, [Record::new("+100")])?;
///
/// // Pays 30, if they are there.
/// let paid = loop {
///     let history = account.load()?;
///     let amount = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<i64>().ok();
///     let balance: i64 = history.iter().filter_map(|event| amount(event.value()?)).sum();
///     assert!(balance >= 30);
///     match account.append(history.version(), [Record::new("-30")]) {
///         // Another writer was faster: decide again.
///         Err(Error::VersionConflict { .. }) => continue,
///         done => break done?,
///     }
/// };
/// assert_eq!(paid.version, 2);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Stream {
    broker: Arc<BrokerInner>,
    partition: Partition,
    key: Arc<[u8]>,
    hash: KeyHash,
}

impl Stream {
    /// The topic's name.
    pub fn topic(&self) -> &TopicName {
        self.partition.topic()
    }

    /// Its key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The partition that it is in, among other streams.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// All its events and its version, read in one step. Only batches that hold events of the
    /// stream are read. The events share the memory they were read into; a stream of very many
    /// events is read in pieces by a [`reader`](Stream::reader).
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) if a batch that holds some of them is damaged, or a segment
    /// whose keys have to be looked up again; [`TopicDeleted`](Error::TopicDeleted),
    /// [`Closed`](Error::Closed), or an I/O error.
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let accounts = broker.create_topic("accounts", TopicConfig::streams())?;
    /// let account = accounts.stream("account-7")?;
    /// account.append(ExpectedVersion::Empty, [Record::new("opened"), Record::new("paid in")])?;
    /// let history = account.load()?;
    /// let values: Vec<_> = history.iter().filter_map(|event| event.value()).collect();
    /// assert_eq!((values, history.version().get()), (vec![&b"opened"[..], b"paid in"], 2));
    /// # Ok(()) }
    /// ```
    pub fn load(&self) -> Result<History> {
        self.load_from(Version::ZERO)
    }

    /// The events after a version: for example those since a snapshot.
    ///
    /// # Errors
    /// [`StreamTruncated`](Error::StreamTruncated) if the events up to that version were truncated
    /// or lost since it was seen, by a version that knows its [epoch](Version::epoch), so that the
    /// snapshot is of another history: rebuild it from the events.
    /// [`VersionConflict`](Error::VersionConflict) if the stream has fewer events than that;
    /// otherwise as [`load`](Stream::load).
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig, Version};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
    /// account.append(ExpectedVersion::Any, ["opened", "paid in", "paid out"].map(Record::from))?;
    /// let since = account.load_from(Version::new(2))?;
    /// assert_eq!(since.iter().next().and_then(|event| event.value()), Some(&b"paid out"[..]));
    /// # Ok(()) }
    /// ```
    pub fn load_from(&self, version: Version) -> Result<History> {
        let history = self.load_some(|_| version, Limit::default())?;
        // After the load, so that events of another history are not delivered.
        self.check_version(version)?;
        self.check_history(history, version)
    }

    /// The newest `n` events, or all if there are fewer, *oldest first*; `iter().rev()` starts at
    /// the newest.
    ///
    /// # Errors
    /// As [`load`](Stream::load).
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
    /// account.append(ExpectedVersion::Any, ["opened", "paid in", "paid out"].map(Record::from))?;
    /// let newest = account.last_n(2)?;
    /// let values: Vec<_> = newest.iter().rev().filter_map(|event| event.value()).collect();
    /// assert_eq!(values, [&b"paid out"[..], b"paid in"]);
    /// # Ok(()) }
    /// ```
    pub fn last_n(&self, n: usize) -> Result<History> {
        let after = |version: Version| Version::new(version.get().saturating_sub(n as u64));
        self.load_some(after, Limit::default())
    }

    /// The newest event. `None` if there is none.
    ///
    /// # Errors
    /// As [`load`](Stream::load).
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
    /// assert!(account.last()?.is_none());
    /// account.append(ExpectedVersion::Any, ["opened", "closed"].map(Record::from))?;
    /// assert_eq!(account.last()?.unwrap().value(), Some(&b"closed"[..]));
    /// # Ok(()) }
    /// ```
    pub fn last(&self) -> Result<Option<OwnedRecord>> {
        Ok(self.last_n(1)?.iter().next_back().map(|event| event.into_owned()))
    }

    /// Its version: how many visible events it has. Reads no event.
    ///
    /// # Errors
    /// As [`load`](Stream::load).
    pub fn version(&self) -> Result<Version> {
        self.load_some(|version| version, Limit::default()).map(|history| history.version())
    }

    /// Appends events as one batch, if the stream has the expected version: all of them or none.
    /// They get the stream's key. Returns once they are as safe as the topic's durability demands,
    /// with the version to expect next.
    ///
    /// *Trying again.* After an error of unknown [outcome](Error::outcome), or a crash, it is
    /// unknown whether the events are there. If each of them has an [id](Record::event_id), the
    /// same call can simply be made again: if they were appended at the expected version, it
    /// returns the result of the first call. With [`Any`](ExpectedVersion::Any) and
    /// [`Exists`](ExpectedVersion::Exists) it searches the newest 64 events, or as many as are
    /// appended.
    ///
    /// # Errors
    /// [`VersionConflict`](Error::VersionConflict) if it has another version: nothing was appended,
    /// and the events there are visible; load and decide again.
    /// [`StreamTruncated`](Error::StreamTruncated) if the expected version is of events that were
    /// truncated or lost since. Those of [`load`](Stream::load) and of [`Partition::append_at`];
    /// [`InvalidConfig`](Error::InvalidConfig) if there are no events, or one has another key or a
    /// [sequence](Record::sequence).
    ///
    /// ```
    /// # use quipu::{Broker, Error, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
    /// let opened = || [Record::new("{}").event_type("account.opened").event_id("e-1")];
    /// let receipt = account.append(ExpectedVersion::Empty, opened())?;
    /// assert_eq!(receipt.version, 1);
    ///
    /// // The same again is answered as before; something else in its place is a conflict.
    /// assert_eq!(account.append(ExpectedVersion::Empty, opened())?, receipt);
    /// let other = account.append(ExpectedVersion::Empty, [Record::new("{}").event_id("e-2")]);
    /// assert!(matches!(other, Err(Error::VersionConflict { current, .. }) if current == 1));
    /// # Ok(()) }
    /// ```
    pub fn append<'r>(
        &self,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<StreamReceipt> {
        let expected = expected.into();
        let events: Vec<Record<'_>> = events.into_iter().map(|e| self.event(e)).collect::<Result<_>>()?;
        let ids = EventIds::of(&events);
        loop {
            let condition = match (&ids, expected.exact()) {
                (Some(ids), None) => {
                    let newest = self.last_n(ids.len().max(LOOK_BACK))?;
                    if let Some(receipt) = ids.find_in(&newest) {
                        return Ok(receipt);
                    }
                    // IMPORTANT: no events may be appended between this check and the append,
                    // because they might be the same ones. So if the visible events do not have the
                    // expected version, nothing is appended: the events may be written and not
                    // visible yet. The conflict makes them visible, and they are checked again if
                    // the version is the expected one.
                    match expected.holds(newest.version()) {
                        true => newest.version().into(),
                        false => NEVER,
                    }
                }
                _ => expected,
            };
            match self.append_once(condition, &events) {
                Err(Error::VersionConflict { topic, key, current, .. }) => {
                    if condition != expected && expected.holds(current) {
                        continue;
                    }
                    if let (Some(ids), Some(version)) = (&ids, expected.exact())
                        && let Some(first) = self.find_repeated(version, ids)?.and_then(first_of)
                    {
                        let version = version.plus(events.len() as u64).seen_in(first.epoch);
                        return Ok(StreamReceipt { first, version });
                    }
                    return Err(Error::VersionConflict { topic, key, expected, current });
                }
                done => return done,
            }
        }
    }

    fn append_once(&self, expected: ExpectedVersion, events: &[Record<'_>]) -> Result<StreamReceipt> {
        let log = self.log();
        let (mut batch, timestamps) = prepare(&self.broker.ctx, self.state(), log, events)?;
        let Some(first) = timestamps.first().copied() else {
            return Err(Error::internal("a prepared batch has a record"));
        };
        let condition = self.condition(expected);
        let (appended, before) =
            log.append_to_stream(&mut batch, &condition).map_err(|error| match error {
                Error::VersionConflict { .. } => durability::resolve_conflict(log, error),
                error => error,
            })?;
        log.wait_visible(appended.end, appended.epoch)?;
        let first = appended.receipt(self.topic(), self.partition.id(), 0, first);
        Ok(StreamReceipt { first, version: before.plus(events.len() as u64) })
    }

    /// The receipts of events that were appended at a version before, if they were.
    pub(crate) fn find_repeated(&self, version: Version, ids: &EventIds) -> Result<Option<Vec<Receipt>>> {
        let limit = Limit { events: ids.len() as u64, ..Limit::default() };
        let history = self.load_some(|_| version, limit)?;
        Ok(ids.are_first_of(&history))
    }

    pub(crate) fn load_some(&self, from: impl Fn(Version) -> Version, limit: Limit) -> Result<History> {
        self.state().check()?;
        let loaded = streams::load(self.log(), self.hash, from, limit)?;
        Ok(History::new(loaded, &self.key))
    }

    /// # Errors
    /// `VersionConflict`: events were requested after more events than there are.
    pub(crate) fn check_history(&self, history: History, asked: Version) -> Result<History> {
        if history.from_version() <= history.version() {
            return Ok(history);
        }
        Err(Error::VersionConflict {
            topic: self.topic().clone(),
            key: self.key.clone(),
            expected: asked.into(),
            current: history.version(),
        })
    }

    /// # Errors
    /// `StreamTruncated`; those of reading.
    pub(crate) fn check_version(&self, version: Version) -> Result<()> {
        streams::check_version(self.log(), &self.key, self.hash, version, 0)
    }

    /// The same event with the stream's key.
    ///
    /// # Errors
    /// `InvalidConfig` if it has another one.
    pub(crate) fn event<'r>(&'r self, event: Record<'r>) -> Result<Record<'r>> {
        match event.key_bytes() {
            Some(key) if *key == *self.key => Ok(event),
            Some(_) => Err(invalid("key", "an event has the key of another stream")),
            None => Ok(event.key(&*self.key)),
        }
    }

    pub(crate) fn condition(&self, expected: ExpectedVersion) -> StreamCondition {
        StreamCondition { key: self.key.clone(), hash: self.hash, expected, ahead: 0 }
    }

    /// # Errors
    /// `ForeignBroker`: it is not a stream of `broker`.
    pub(crate) fn check_broker(&self, broker: &BrokerInner) -> Result<()> {
        let what = || format!("stream \"{}\" of {}", self.key().escape_ascii(), self.topic());
        broker.check_own(&self.broker, what)
    }

    pub(crate) fn broker(&self) -> &Arc<BrokerInner> {
        &self.broker
    }

    pub(crate) fn state(&self) -> &Arc<TopicState> {
        self.partition.state()
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        self.partition.log()
    }

    pub(crate) fn hash(&self) -> KeyHash {
        self.hash
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("topic", self.topic())
            .field("key", &format_args!("\"{}\"", self.key.escape_ascii()))
            .finish_non_exhaustive()
    }
}
