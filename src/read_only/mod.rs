//! A directory that is only read, also while another process has it open.
//!
//! Useful for: looking into a running program from outside, exports, backups, and directories on
//! read-only media. Not useful for: anything that writes, which none of these types can.
//!
//! How an owner is followed is argued in `broker/follow/mod.rs`; the types here are handles.

mod partition;
mod stream;
mod topic;

use std::fmt;
use std::path::{Path, PathBuf};

pub use self::partition::ReadOnlyPartition;
pub use self::stream::ReadOnlyStream;
pub use self::topic::ReadOnlyTopic;
use crate::broker::{Broker, BrokerInner, Follower};
use crate::config::BrokerConfig;
use crate::consumer::GroupDescription;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Owner, Result};
use crate::group::{GroupHost, Host};
use crate::reader::Reader;
use crate::stats::{BrokerStats, OpenReport};
use crate::storage::Storage;
use crate::storage::fs::FsStorage;
use crate::sync::Arc;
use crate::types::{GroupId, Names, Position, Start};

/// A broker's directory that is only read. Calls that write do not exist here.
///
/// Beside a running owner it shows what is visible to the readers of that owner: never a record that
/// waits for its sync, nor a half of a transaction's batch. It follows while the owner appends,
/// rolls, deletes, compacts, truncates, closes, is killed and opened again. Records appear here about
/// a millisecond after they have become visible there. Without an owner it shows what an opening
/// would find, and changes nothing: torn tails are left out, and transactions that were interrupted
/// are completed, in memory.
///
/// A cheap handle; clones are the same. It closes when [`close`](ReadOnlyBroker::close) is called, or
/// when the last handle to anything of it is dropped.
///
/// ```
/// use std::time::Duration;
/// use quipu::testing::Disk;
/// use quipu::{BrokerConfig, Record, Start, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let disk = Disk::new();
/// disk.share();
/// let owner = BrokerConfig::new().on_disk(&disk)?;
/// owner.create_topic("orders", TopicConfig::new())?;
/// owner.producer().send("orders", Record::new("42 EUR"))?.wait()?;
///
/// let outside = BrokerConfig::new().read_only_on_disk(&disk)?;
/// let mut reader = outside.reader(["orders"], Start::Beginning)?;
/// assert_eq!(reader.poll(Duration::from_secs(1))?.len(), 1);
/// owner.producer().send("orders", Record::new("43 EUR"))?.wait()?;
/// assert_eq!(reader.poll(Duration::from_secs(1))?.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReadOnlyBroker {
    broker: Broker,
    follower: Arc<Follower>,
}

impl BrokerConfig {
    /// Opens a directory for reading only, also while another process has it open. Writes nothing,
    /// so a read-only mount will do, or a copy. It holds no lock: an owner may open the directory at
    /// any time.
    ///
    /// Of the settings it uses those of reading: [`clock`](BrokerConfig::clock),
    /// [`read_mode`](BrokerConfig::read_mode), [`max_open_files`](BrokerConfig::max_open_files) and
    /// [`on_event`](BrokerConfig::on_event). One thread follows the owner, except under a manual
    /// clock: see [`ReadOnlyBroker::refresh`].
    ///
    /// Beside an owner that is opening or closing the directory it waits for up to 10 seconds.
    ///
    /// # Errors
    /// [`AlreadyOpen`](Error::AlreadyOpen) if the directory has an owner that does not publish how far
    /// others may read, because it is of an earlier release, or has no space for that file;
    /// [`Io`](Error::Io), with `NotFound` if there is no broker; and otherwise those of
    /// [`open`](BrokerConfig::open).
    pub fn open_read_only(self, dir: impl AsRef<Path>) -> Result<ReadOnlyBroker> {
        self.validate()?;
        ReadOnlyBroker::open_on(self, Arc::new(FsStorage::new(dir.as_ref().to_path_buf())))
    }
}

impl Broker {
    /// Opens a directory for reading only, with the default settings: see
    /// [`BrokerConfig::open_read_only`].
    ///
    /// # Errors
    /// See [`BrokerConfig::open_read_only`].
    ///
    /// ```no_run
    /// let outside = quipu::Broker::open_read_only("data")?;
    /// for topic in outside.topics() {
    ///     println!("{}", topic.name());
    /// }
    /// # Ok::<(), quipu::Error>(())
    /// ```
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<ReadOnlyBroker> {
        BrokerConfig::new().open_read_only(dir)
    }
}

impl ReadOnlyBroker {
    pub(crate) fn open_on(config: BrokerConfig, storage: Arc<dyn Storage>) -> Result<Self> {
        let (follower, inner) = Follower::open(config, storage)?;
        Ok(ReadOnlyBroker { broker: Broker::of(&inner), follower })
    }

    /// Looks for news of the owner now, and returns whether there was any. The thread does it by
    /// itself; call this for an answer that is not a millisecond old, or in a loop to wait for
    /// records without sleeping. Under a [`ManualClock`](crate::ManualClock) it is done when the clock
    /// is moved, and here.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed); the catalog could not be read. A partition that cannot be read
    /// returns its errors itself.
    pub fn refresh(&self) -> Result<bool> {
        self.follower.refresh()
    }

    /// The process that has the directory open, if that is known: an owner says so with its first
    /// change.
    pub fn owner(&self) -> Option<Owner> {
        self.follower.owner()
    }

    /// The findings of the opening in memory, if there was no owner. Beside an owner it is empty,
    /// because that has the report of its own opening.
    pub fn open_report(&self) -> OpenReport {
        self.follower.report()
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<ReadOnlyTopic> {
        self.broker.topics().into_iter().map(ReadOnlyTopic::new).collect()
    }

    /// A topic.
    ///
    /// # Errors
    /// [`UnknownTopic`](Error::UnknownTopic), [`Closed`](Error::Closed).
    pub fn topic(&self, name: &str) -> Result<ReadOnlyTopic> {
        self.broker.topic(name).map(ReadOnlyTopic::new)
    }

    /// A reader of all partitions of some topics: see [`Broker::reader`]. A poll waits for records of
    /// the owner.
    ///
    /// # Errors
    /// As [`Broker::reader`].
    pub fn reader(&self, topics: impl Names, from: Start) -> Result<Reader> {
        self.broker.reader(topics, from)
    }

    /// A reader that continues at positions: see [`Broker::reader_at`].
    ///
    /// # Errors
    /// As [`Broker::reader_at`].
    pub fn reader_at(&self, next: &[Position]) -> Result<Reader> {
        self.broker.reader_at(next)
    }

    /// The groups that have subscribed, read or committed anything, by name.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed), or an error of the committed offsets.
    pub fn groups(&self) -> Result<Vec<GroupId>> {
        self.read_offsets()?;
        self.broker.groups()
    }

    /// The committed offsets of a group, and its lag. Its members are known to the owner only: there
    /// are none here.
    ///
    /// # Errors
    /// [`InvalidGroupName`](Error::InvalidGroupName), [`Closed`](Error::Closed), or an error of the
    /// committed offsets.
    pub fn group(&self, name: &str) -> Result<GroupDescription> {
        self.read_offsets()?;
        self.broker.group(name)?.describe()
    }

    /// The names of the idempotent producers that have one, sorted.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed).
    pub fn producers(&self) -> Result<Vec<String>> {
        self.broker.producers()
    }

    /// The broker in numbers. What only the owner counts is 0: records appended, syncs, caches.
    pub fn stats(&self) -> BrokerStats {
        self.broker.stats()
    }

    /// Stops following. Every handle returns [`Closed`](Error::Closed) after that. Wakes every reader
    /// that waits. Closing twice is allowed.
    pub fn close(&self) {
        // A directory that is only read has nothing that could fail.
        let _ = self.broker.close();
    }

    fn inner(&self) -> &Arc<BrokerInner> {
        self.broker.inner()
    }

    /// Reads the commits that the owner has written since the last call.
    fn read_offsets(&self) -> Result<()> {
        let inner = self.inner();
        inner.check_open()?;
        match inner.existing_offsets_log() {
            Some(log) => inner.coordinator().offsets().follow(&log),
            None => Ok(()),
        }
    }

    fn dir(&self) -> PathBuf {
        self.inner().ctx.display(Path::new(""))
    }
}

impl fmt::Debug for ReadOnlyBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyBroker").field("dir", &self.dir()).finish_non_exhaustive()
    }
}
