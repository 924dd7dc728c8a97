//! Which values do errors carry? Each is a type that a caller can match on.

use std::path::PathBuf;
use std::{fmt, io};

use crate::types::{Offset, PartitionId, Timestamp, TopicName, TopicPartition};

/// The bound that a write met because it found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Space {
    /// The file system is full (`ENOSPC`): deleting any file on it makes room.
    #[error("the file system is full")]
    NoSpace,
    /// The quota of a user, a group or a directory is used up (`EDQUOT`): other files of the same
    /// owner count, and files of other owners do not.
    #[error("the quota is used up")]
    Quota,
    /// The file would become larger than the file system or the process may make it (`EFBIG`, for
    /// example by `RLIMIT_FSIZE`): deleting other files makes no room.
    #[error("the file would become larger than it may be")]
    FileTooLarge,
}

/// The bound that an I/O error reports; `None` if it reports another failure. After such an error
/// the file is unchanged.
pub(crate) fn is_space(error: &io::Error) -> Option<Space> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some(Space::NoSpace),
        io::ErrorKind::QuotaExceeded => Some(Space::Quota),
        io::ErrorKind::FileTooLarge => Some(Space::FileTooLarge),
        _ => None,
    }
}

/// An operation that the operating system refused: see [`Error::Io`](super::Error::Io).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum IoAction {
    /// A file was to be opened.
    #[error("open")]
    Open,
    /// Bytes were to be read.
    #[error("read")]
    Read,
    /// Bytes were to be written to a file whose contents count after a restart: they may be there.
    #[error("write")]
    Write,
    /// Earlier writes were to be made durable: they may be, or not.
    #[error("sync")]
    Sync,
    /// A file or directory was to be created. Nothing refers to it yet.
    #[error("create")]
    Create,
    /// A file was to be replaced by another. The old one is still in place.
    #[error("replace")]
    Replace,
    /// The catalog was to be changed. The next opening may find the change or not.
    #[error("change")]
    Change,
    /// A directory was to be listed.
    #[error("list")]
    List,
    /// The size or the existence of a file was to be looked up.
    #[error("look at")]
    Inspect,
    /// A file or directory was to be removed.
    #[error("remove")]
    Remove,
    /// A directory was to be locked.
    #[error("lock")]
    Lock,
    /// A file was to be mapped into memory.
    #[error("map")]
    Map,
    /// A background thread was to be started for the broker of this directory.
    #[error("start a thread for")]
    StartThread,
}

impl IoAction {
    /// Whether records may be in the log although this action failed. No wildcard, so that a new
    /// action must decide.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            IoAction::Write | IoAction::Sync => Outcome::Unknown,
            IoAction::Open
            | IoAction::Read
            | IoAction::Create
            | IoAction::Replace
            | IoAction::Change
            | IoAction::List
            | IoAction::Inspect
            | IoAction::Remove
            | IoAction::Lock
            | IoAction::Map
            | IoAction::StartThread => Outcome::NotWritten,
        }
    }
}

/// The decision that an [`Error`](super::Error) asks for: see [`Error::kind`](super::Error::kind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call cannot succeed with these arguments or settings: change the program, or refuse the
    /// input that it came from.
    InvalidInput,
    /// There is no such topic or partition, or no longer one: create it, or ask for it again.
    NotFound,
    /// Something of this name exists, and differs: use it, or take another name.
    AlreadyExists,
    /// The state is another than the caller assumed: read again, and decide again.
    Conflict,
    /// A later producer of the same name has the place of this one: end.
    Fenced,
    /// A record with a sequence was refused: it may be there already. The variant states how to
    /// continue.
    Sequence,
    /// Another thread, member or process is in the way: make the same call later.
    Busy,
    /// There is no room: free some, or wait for retention, and make the same call again.
    NoSpace,
    /// The directory, a file or the operating system failed: a person must look at it.
    Storage,
    /// Code of the user failed or panicked: a listener, a waker.
    UserCode,
    /// The broker or the handle was closed: end.
    Closed,
    /// A bug of this library.
    Internal,
}

/// What an error means for the records that were being appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// They are not in the log and never will be: sending them again cannot duplicate them.
    NotWritten,
    /// They may be in the log after a restart, or not. Check before sending them again.
    Unknown,
}

/// A partition of which an offset may not be committed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offender {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The offset that was to be committed.
    pub offset: Offset,
    /// Why.
    pub reason: RejectReason,
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at offset {}: {}", self.topic, self.partition, self.offset, self.reason)
    }
}

/// Why an offset may not be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The committer is not a member of the group, or no longer one; or it is not a member and the
    /// group has members.
    #[error("the committer is not a member of the group")]
    NotAMember,
    /// The partition is not assigned to the committer.
    #[error("the partition is not assigned to the committer")]
    NotOwned,
    /// Another member has owned the partition since the records were polled.
    #[error("another member has owned the partition since the records were polled")]
    Stale,
    /// The offset lies beyond the visible end.
    #[error("the partition ends at offset {end}")]
    #[non_exhaustive]
    BeyondEnd {
        /// The visible end.
        end: Offset,
    },
    /// The log was truncated before the offset.
    #[error("the partition was truncated to offset {to}")]
    #[non_exhaustive]
    Truncated {
        /// The log's end after the truncation.
        to: Offset,
    },
    /// There is no such partition, or no longer one.
    #[error("there is no such partition")]
    UnknownPartition,
    /// The text beside the offset is too long: see
    /// [`Offsets::metadata`](crate::Offsets::metadata).
    #[error("its metadata has {size} bytes, and the limit is {limit} bytes")]
    #[non_exhaustive]
    MetadataTooLarge {
        /// The length of the text in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// Where a file does not hold the bytes that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The partition that the file belongs to, if it is one of a partition.
    pub partition: Option<TopicPartition>,
    /// The file.
    pub file: PathBuf,
    /// The byte position in the file.
    pub position: u64,
    /// The defect there.
    pub what: String,
    /// The offset of the first record that cannot be read, if it is known.
    pub offset: Option<Offset>,
    /// The offset of the next good record after the damage, if there is one: seek there to continue
    /// without the records between.
    pub resume: Option<Offset>,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(partition) = &self.partition {
            write!(f, "{partition}: ")?;
        }
        write!(f, "{} is corrupt at byte {}: {}", self.file.display(), self.position, self.what)?;
        if let Some(offset) = self.offset {
            write!(f, " (from offset {offset}")?;
            match self.resume {
                Some(resume) => write!(f, "; good again from offset {resume})")?,
                None => write!(f, ")")?,
            }
        }
        Ok(())
    }
}

/// The process that has a directory open. It says so in the file `owner` of the directory, with its
/// first change after an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// Its process id; 0 if it is not known.
    pub process: u32,
    /// The name of its machine; empty if it is not known.
    pub host: String,
    /// When it opened the directory, by its wall clock.
    pub since: Timestamp,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process)?;
        if !self.host.is_empty() {
            write!(f, " on {}", self.host)?;
        }
        write!(f, ", since {} ms", self.since)
    }
}

/// Bytes of a segment that differ from those that were written, or are missing. See
/// [`Partition::damage`](crate::Partition::damage).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedRange {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The segment file.
    pub file: PathBuf,
    /// The byte position where the damage begins.
    pub position: u64,
    /// How many bytes are concerned; 0 if they are missing, or if only the manifest contradicts
    /// the file.
    pub bytes: u64,
    /// The first offset whose record cannot be read.
    pub from: Offset,
    /// The first offset after those. The same as `from` if no record is lost, for example with a
    /// damaged segment header.
    pub to: Offset,
    /// The damage in words.
    pub what: String,
    /// The number of the invariant in `FORMAT.md` that does not hold.
    pub invariant: u32,
}
