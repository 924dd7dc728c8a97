//! The result of loading a stream: events, and the version that they bring it to.

use std::fmt;

use crate::log::streams::Loaded;
use crate::records::{self, ConsumedRecord, Records};
use crate::types::Receipt;
use crate::version::Version;

/// Events of one stream, oldest first, and the version of the stream when they were loaded.
///
/// As [`Records`] they share the memory that they were read from.
#[derive(Clone)]
pub struct History {
    records: Records,
    from: Version,
    version: Version,
}

/// Where events of a stream were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamReceipt {
    /// The receipt of the first of them; the others follow it without a gap.
    pub first: Receipt,
    /// The stream's version after the last of them: the next append may expect it.
    pub version: Version,
}

impl History {
    pub(super) fn new(loaded: Loaded, key: &[u8]) -> Self {
        let Loaded { batches, skip, from, version } = loaded;
        History { records: Records::of_key(batches, key, skip), from, version }
    }

    /// No events, of a stream that is at `version`.
    pub(super) fn empty_at(version: Version) -> Self {
        History { records: Records::default(), from: version, version }
    }

    /// The stream's version: it counts all visible events, whether they are in here or not. An
    /// append may expect it.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The version before the first of these events.
    pub fn from_version(&self) -> Version {
        self.from
    }

    /// The version after the last of these events.
    pub fn to_version(&self) -> Version {
        self.from.plus(self.records.len() as u64)
    }

    /// How many events these are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The events, oldest first; `rev()` goes from the newest on.
    pub fn iter(&self) -> records::Iter<'_> {
        self.records.iter()
    }

    /// The events, each with its own version: that of the stream after its append.
    ///
    /// ```
    /// # use quipu::{Broker, ExpectedVersion, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
    /// account.append(ExpectedVersion::Any, ["opened", "closed"].map(Record::from))?;
    /// for (version, event) in account.load()?.versions() {
    ///     println!("{version}: {:?}", event.value());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn versions(&self) -> impl Iterator<Item = (Version, ConsumedRecord<'_>)> {
        let from = self.from;
        self.iter().enumerate().map(move |(at, event)| (from.plus(at as u64 + 1), event))
    }

    /// The events as records.
    pub fn into_records(self) -> Records {
        self.records
    }
}

impl<'a> IntoIterator for &'a History {
    type Item = ConsumedRecord<'a>;
    type IntoIter = records::Iter<'a>;

    fn into_iter(self) -> records::Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("from", &self.from)
            .field("len", &self.len())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
