//! The errors that the crate makes itself, where making one takes a decision, and the outcome that
//! an error stands for.

use std::io;
use std::path::Path;
use std::str::FromStr;

use super::{Corruption, Error, IoAction, Outcome, Space, is_no_descriptor, is_space};
use crate::types::{GroupId, TopicName, TopicPartition};

impl Error {
    /// Whether the records of a failed append may still appear in the log.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Io { action, .. } => action.outcome(),
            _ => Outcome::NotWritten,
        }
    }

    /// The error that a [listener](crate::ConsumerBuilder::on_rebalance) returns for a failure of
    /// its own.
    ///
    /// ```
    /// # use quipu::{Broker, Error, TopicConfig};
    /// # use std::time::Duration;
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("orders", TopicConfig::new())?;
    /// let refuses = |_: &mut quipu::Rebalance<'_>| Err(Error::listener("the cache is not there"));
    /// let mut consumer = broker.consumer("billing").on_rebalance(refuses).subscribe("orders")?;
    /// assert!(matches!(consumer.poll(Duration::ZERO), Err(Error::Listener { .. })));
    /// # Ok(()) }
    /// ```
    pub fn listener(message: impl Into<String>) -> Self {
        Error::Listener { message: message.into() }
    }

    /// The error of a decoder, for the value of the record at a position.
    #[cfg(feature = "serde")]
    pub(crate) fn decode(
        position: crate::types::Position,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> Self {
        Error::Decode { position, source: source.into() }
    }

    /// The error of an encoder.
    #[cfg(feature = "serde")]
    pub(crate) fn encode(source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Error::Encode { source: source.into() }
    }

    /// The error for a state that cannot occur. `what` is the invariant that does not hold.
    pub(crate) fn internal(what: &'static str) -> Self {
        debug_assert!(false, "{what}");
        Error::Internal { what }
    }

    pub(crate) fn io(action: IoAction, path: &Path, source: io::Error) -> Self {
        Error::Io { action, path: path.to_path_buf(), source: source.into() }
    }

    /// The error of a write of which nothing counts: a lack of space has its own variant.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Error::unless_full(IoAction::Write, path, source)
    }

    /// The error of a file or directory that could not be created.
    pub(crate) fn create(path: &Path, source: io::Error) -> Self {
        Error::unless_full(IoAction::Create, path, source)
    }

    /// The error of a file that could not be replaced.
    pub(crate) fn replace(path: &Path, source: io::Error) -> Self {
        Error::unless_full(IoAction::Replace, path, source)
    }

    /// `DiskFull` if `source` is a lack of space, `Io` otherwise.
    pub(crate) fn unless_full(action: IoAction, path: &Path, source: io::Error) -> Self {
        match is_space(&source) {
            Some(cause) => Error::DiskFull { path: path.to_path_buf(), cause },
            None => Error::io(action, path, source),
        }
    }

    /// Whether deleting files may make room for the operation.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Error::DiskFull { cause: Space::NoSpace | Space::Quota, .. })
    }

    /// Whether the process had no descriptor left: the operation has had no effect, and may succeed
    /// later.
    pub(crate) fn is_no_descriptor(&self) -> bool {
        matches!(self, Error::Io { source, .. } if is_no_descriptor(source))
    }

    /// The error of a sync whose file could not be opened: the bytes were written before, so the
    /// [outcome](Error::outcome) is that of a sync.
    pub(crate) fn of_sync(self) -> Self {
        match self {
            Error::Io { action: IoAction::Open, path, source } => {
                Error::Io { action: IoAction::Sync, path, source }
            }
            error => error,
        }
    }

    /// Adds to an error of damage the partition that it was met in, if that is not known.
    pub(crate) fn in_partition(self, of: impl FnOnce() -> TopicPartition) -> Self {
        match self {
            Error::Corrupt(Corruption { partition: None, file, position, what, offset, resume }) => {
                Error::Corrupt(Corruption { partition: Some(of()), file, position, what, offset, resume })
            }
            error => error,
        }
    }

    pub(crate) fn corrupt(file: &Path, position: u64, what: impl Into<String>) -> Self {
        Error::Corrupt(Corruption {
            partition: None,
            file: file.to_path_buf(),
            position,
            what: what.into(),
            offset: None,
            resume: None,
        })
    }
}

/// Validates a name.
///
/// ```
/// # use quipu::TopicName;
/// let name: TopicName = "orders".parse()?;
/// assert_eq!(name, "orders");
/// # Ok::<(), quipu::Error>(())
/// ```
impl FromStr for TopicName {
    type Err = Error;

    /// # Errors
    /// [`InvalidTopicName`](Error::InvalidTopicName).
    fn from_str(name: &str) -> Result<Self, Error> {
        TopicName::new(name).map_err(|reason| Error::InvalidTopicName { name: name.to_string(), reason })
    }
}

/// Validates a name.
impl FromStr for GroupId {
    type Err = Error;

    /// # Errors
    /// [`InvalidGroupName`](Error::InvalidGroupName).
    fn from_str(name: &str) -> Result<Self, Error> {
        GroupId::new(name).map_err(|reason| Error::InvalidGroupName { name: name.to_string(), reason })
    }
}
