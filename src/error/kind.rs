//! What can a caller do about an error? One kind per decision, so that a program need not list the
//! variants.

use super::{Error, ErrorKind, Outcome};

impl Error {
    /// The decision that it asks for.
    ///
    /// ```
    /// # use quipu::{Broker, ErrorKind, Record};
    /// # fn main() -> quipu::Result<()> {
    /// let broker = Broker::in_memory()?;
    /// let error = broker.producer().send("missing", Record::new("v")).unwrap_err();
    /// assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::NotFound, false));
    /// # Ok(()) }
    /// ```
    pub fn kind(&self) -> ErrorKind {
        // No wildcard, so that a new variant must decide.
        match self {
            Error::Streams { .. }
            | Error::RecordTooLarge { .. }
            | Error::TransactionTooLarge { .. }
            | Error::MissingKey { .. }
            | Error::CompactedTopic { .. }
            | Error::NotCompacted { .. }
            | Error::InvalidTimestamp { .. }
            | Error::NotAssigned { .. }
            | Error::InvalidTopicName { .. }
            | Error::InvalidConfig { .. }
            | Error::ForeignBroker { .. }
            | Error::InvalidGroupName { .. }
            | Error::InvalidProducerName { .. }
            | Error::InvalidBatches { .. }
            | Error::NotABackup { .. }
            | Error::BackupRunning { .. }
            | Error::InvalidAssignment { .. } => ErrorKind::InvalidInput,
            Error::UnknownTopic { .. } | Error::UnknownPartition { .. } | Error::TopicDeleted { .. } => {
                ErrorKind::NotFound
            }
            Error::TopicExists { .. } | Error::TopicNameCollides { .. } | Error::ConfigMismatch { .. } => {
                ErrorKind::AlreadyExists
            }
            Error::OffsetConflict { .. }
            | Error::VersionConflict { .. }
            | Error::StreamTruncated { .. }
            | Error::OffsetOutOfRange { .. }
            | Error::Truncated { .. }
            | Error::LossNotNamed { .. }
            | Error::CommitRejected { .. }
            | Error::NoCommittedOffset { .. }
            | Error::Diverged { .. } => ErrorKind::Conflict,
            Error::Fenced { .. } => ErrorKind::Fenced,
            Error::OutOfOrderSequence { .. }
            | Error::DuplicateSequence { .. }
            | Error::PossibleDuplicate { .. } => ErrorKind::Sequence,
            Error::BufferFull { .. }
            | Error::CompactionAborted { .. }
            | Error::GroupNotEmpty { .. }
            | Error::GroupSubscribed { .. }
            | Error::AlreadyOpen { .. } => ErrorKind::Busy,
            Error::DiskFull { .. } | Error::OverBudget { .. } => ErrorKind::NoSpace,
            Error::Io { .. }
            | Error::ReadOnly { .. }
            | Error::ForeignDirectory { .. }
            | Error::BackupUnfinished { .. }
            | Error::UnsupportedFormat { .. }
            | Error::Corrupt(_)
            | Error::Poisoned { .. }
            | Error::JournalFailed { .. }
            | Error::GenerationsExhausted { .. } => ErrorKind::Storage,
            #[cfg(feature = "serde")]
            Error::Decode { .. } | Error::Encode { .. } => ErrorKind::InvalidInput,
            Error::Listener { .. } | Error::Panicked { .. } => ErrorKind::UserCode,
            Error::Closed => ErrorKind::Closed,
            Error::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// Whether the same call may succeed later although the caller changes nothing: it is
    /// [busy](ErrorKind::Busy), or there is no [room](ErrorKind::NoSpace), or the process has no
    /// descriptor left. Nothing of the call was done, so repeating it duplicates no record.
    pub fn is_retriable(&self) -> bool {
        let may_pass = matches!(self.kind(), ErrorKind::Busy | ErrorKind::NoSpace) || self.is_no_descriptor();
        may_pass && self.outcome() == Outcome::NotWritten
    }
}
