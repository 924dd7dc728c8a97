//! What can go wrong, and what can the caller do about it? One variant per decision.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::{GroupId, Offset, PartitionId, Timestamp, TopicName, TopicPartition};
use crate::version::{ExpectedVersion, Version};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Cheap to clone: one failed batch fails every acknowledgement that waits for it.
///
/// Whether it is safe to send the same records again is answered by [`Error::outcome`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An append was conditioned on the log's end, and the log ends elsewhere. Read on from there and decide again (raw
    /// batches: fetch from there).
    #[error("{topic}/{partition} ends at offset {end}, not where the append expected it")]
    OffsetConflict {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// Where the log ends now.
        end: Offset,
    },
    /// A stream is not as an append expected it; or it has fewer events than were to be loaded behind. Nothing was appended.
    /// [Load](crate::Stream::load) it and decide again: what it has now is visible.
    #[error("stream \"{}\" of {topic} is at version {current}, expected was {expected}", key.escape_ascii())]
    VersionConflict {
        /// The topic.
        topic: TopicName,
        /// The stream's key.
        key: Arc<[u8]>,
        /// What was expected.
        expected: ExpectedVersion,
        /// The version that it has; in a transaction, before it.
        current: Version,
    },
    /// A version of a stream was seen before events of it were cut off, or lost with a power loss:
    /// those that the stream has in their place are not the ones that were counted. Nothing was
    /// appended. Throw away what was made of the events after `to`.
    #[error(
        "stream \"{}\" of {topic} has another past than version {version}: its events up to version {to} are the same",
        key.escape_ascii()
    )]
    StreamTruncated {
        /// The topic.
        topic: TopicName,
        /// The stream's key.
        key: Arc<[u8]>,
        /// The version that is of another past.
        version: Version,
        /// The version up to which both have the same events; 0 if that is not known, because the
        /// log has not had the version's epoch.
        to: Version,
    },
    /// The topic does not keep [streams](crate::TopicConfig::streams), or it does and this would take events from them:
    /// records are not deleted there, and a key has one partition.
    #[error("topic {topic}: {reason}")]
    Streams {
        /// The topic.
        topic: TopicName,
        /// What is wrong.
        reason: &'static str,
    },
    /// The requested offset is not in the log any more, or not yet. Seek to a valid one.
    #[error("offset {requested} of {topic}/{partition} is out of range: readable are {earliest} to {latest}")]
    OffsetOutOfRange {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The offset asked for.
        requested: Offset,
        /// The oldest readable offset.
        earliest: Offset,
        /// The visible end: the newest offset one may ask for.
        latest: Offset,
    },
    /// The position was taken before records were cut off the log's end, or lost with a power loss,
    /// and it lies beyond that place. Or it was taken in a [log epoch](crate::Partition::epoch)
    /// that the log has not had, for example because an older copy of the directory was put in
    /// place.
    #[error(
        "{topic}/{partition} has another past after offset {to} than this position: it was cut there since, or never was there"
    )]
    Truncated {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// Where the log that the position knew ends: the two have the same records before it. If
        /// the log has not had the position's epoch that is not known, and this is the position's
        /// offset, or the log's end if that is less.
        to: Offset,
    },
    /// A record is larger than the topic or the buffer allows. Nothing was appended.
    #[error("a record of {size} bytes is larger than the limit of {limit} bytes")]
    RecordTooLarge {
        /// The encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A record without a key was sent to a topic that is [compacted](crate::Cleanup::Compact) or keeps
    /// [streams](crate::TopicConfig::streams). Nothing was appended.
    #[error("record number {index} has no key, which the topic needs")]
    MissingKey {
        /// Which record of the call it was, from 0; of the batch, where the topic was altered while a producer had that open;
        /// of the shipment, where it came as [`RawBatches`](crate::RawBatches).
        index: usize,
    },
    /// The topic is [only compacted](crate::Cleanup::Compact): its records are deleted by tombstones, not by offset.
    #[error("records of {topic} are not deleted by offset: it is only compacted")]
    CompactedTopic {
        /// The topic.
        topic: TopicName,
    },
    /// A partition has damage that [`accept_loss`](crate::Partition::accept_loss) was not given the range of. Nothing was given
    /// up. [Look](crate::Partition::damage) at all of it and decide again.
    #[error(
        "{}/{} has damage that was not named: offsets {} to {}, {} bytes at byte {} of {}",
        range.topic, range.partition, range.from, range.to, range.bytes, range.position, range.file.display()
    )]
    LossNotNamed {
        /// The first such damage.
        range: Box<crate::stats::DamagedRange>,
    },
    /// There is nothing to compact: the topic's [cleanup](crate::TopicConfig::cleanup) does not say so.
    #[error("{topic} is not a compacted topic")]
    NotCompacted {
        /// The topic.
        topic: TopicName,
    },
    /// The log was cut, shortened or closed while it was cleaned. Nothing has changed; it may be tried again.
    #[error("the cleaning of {topic}/{partition} was overtaken by another change")]
    CompactionAborted {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
    },
    /// A partition whose files have been written anew four thousand million times has no number left for another. Nothing
    /// has changed.
    #[error("{topic}/{partition} has been written anew as often as can be")]
    GenerationsExhausted {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
    },
    /// A timestamp before 1970, or one that no stored record may have, or out of the topic's
    /// [bounds](crate::TopicConfig::timestamp_bounds). Nothing was appended.
    #[error("timestamp {timestamp} (number {index} of the call) is not between {earliest} and {latest}")]
    InvalidTimestamp {
        /// The timestamp given.
        timestamp: Timestamp,
        /// Which record of the call it was, from 0.
        index: usize,
        /// The earliest timestamp that could have been given.
        earliest: Timestamp,
        /// The latest one.
        latest: Timestamp,
    },
    /// The producer's buffer is full and cannot be written just now.
    #[error("the producer's buffer is full")]
    BufferFull,
    /// There is no topic of this name.
    #[error("there is no topic {topic:?}")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has no such partition, or a custom partitioner chose one that does not exist. Nothing was appended.
    #[error("topic {topic} has {count} partitions and no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// The partition asked for.
        partition: u32,
        /// How many partitions there are.
        count: u32,
    },
    /// The reader does not read this partition.
    #[error("the reader does not read {topic}/{partition}")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
    },
    /// A topic of this name exists already.
    #[error("topic {topic} exists already")]
    TopicExists {
        /// The existing topic's name.
        topic: TopicName,
    },
    /// The handle's topic has been deleted since. Ask the broker for the topic again.
    #[error("topic {topic} has been deleted")]
    TopicDeleted {
        /// The deleted topic's name.
        topic: TopicName,
    },
    /// A name that no topic may have.
    #[error("{name:?} is no topic name: {reason}")]
    InvalidTopicName {
        /// The name given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `ensure_topic` found the topic with a configuration that cannot be altered into the one asked for.
    #[error("topic {topic} exists with another {field}")]
    ConfigMismatch {
        /// The topic.
        topic: TopicName,
        /// The setting that differs.
        field: &'static str,
    },
    /// A setting is out of its bounds.
    #[error("invalid {field}: {reason}")]
    InvalidConfig {
        /// The setting.
        field: &'static str,
        /// Its bounds, or what it conflicts with.
        reason: String,
    },
    /// A name that no consumer group may have.
    #[error("{name:?} is no group name: {reason}")]
    InvalidGroupName {
        /// The name given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing of this commit was stored, because some of it may not be: its partitions are others' by now, or were in
    /// between. Poll again; whoever owns them has begun where the last commit ended.
    #[error("group {group}: the commit was rejected: {}", list(offenders))]
    CommitRejected {
        /// The group.
        group: GroupId,
        /// The partitions that prevent it.
        offenders: Vec<Offender>,
    },
    /// These partitions have no committed offset, and the [reset policy](crate::OffsetReset) is to fail. Seek in each.
    #[error("group {group} has no committed offset in {}", comma_separated(partitions))]
    NoCommittedOffset {
        /// The group.
        group: GroupId,
        /// All partitions without one.
        partitions: Vec<TopicPartition>,
    },
    /// A producer was opened under the same name since: this one sends no more, and what it had buffered is not written.
    #[error("a later producer has the same name")]
    Fenced,
    /// The record with this sequence is not in the partition, and greater sequences are, or are given before it: it comes too
    /// late. Nothing was appended to that partition. A row that was committed late in an outbox,
    /// with an id that was given out early, is told this way: read rows in the order of their commits, or send this one
    /// without a sequence.
    #[error("sequence {sequence} comes too late, behind {last:?}")]
    OutOfOrderSequence {
        /// The sequence given.
        sequence: u64,
        /// The last one before it, where it is known.
        last: Option<u64>,
    },
    /// The record with this sequence was sent before, or skipped: nobody can tell any more. It lies further back than the
    /// producer's last five batches in the partition, or in a batch with gaps between its sequences, or it has been deleted
    /// since. Nothing was appended to that partition. If the caller sends its rows in rising order and leaves none
    /// out, this one was sent: go on with the next one, or at once behind `last`. If rows may come late, look for it in the
    /// partition.
    #[error("sequence {sequence} was sent before, or skipped: the last one is {last}")]
    DuplicateSequence {
        /// The sequence given.
        sequence: u64,
        /// The last one that is in the log.
        last: u64,
    },
    /// A name that no producer may have: it has 1 to 249 bytes.
    #[error("{name:?} is no producer's name: it has 1 to 249 bytes")]
    InvalidProducerName {
        /// The name given.
        name: String,
    },
    /// This can only be done to a group without members, of which no transaction commits offsets just now: close its
    /// consumers first.
    #[error("group {group} has members, or a transaction commits offsets of it")]
    GroupNotEmpty {
        /// The group.
        group: GroupId,
    },
    /// An [`Assignor`](crate::Assignor) left a partition out, gave one out twice or to a member that does not subscribe to
    /// its topic. Nothing has changed.
    #[error("assignor {assignor:?}: {reason}")]
    InvalidAssignment {
        /// The assignor's name.
        assignor: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory is open already, in this process or another. Nothing was touched.
    #[error("{} is already open, in this process or another", path.display())]
    AlreadyOpen {
        /// The broker's directory.
        path: PathBuf,
    },
    /// The directory cannot be written to: the file system is mounted read-only, or this process may
    /// not write there. A broker has to, if only to lock it. Nothing was touched.
    #[error("{} cannot be written to: {source}", path.display())]
    ReadOnly {
        /// The broker's directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The directory holds something that its broker did not make: it is not a broker's directory, or it has files where
    /// those of a topic or a partition that is to be created would go. Nothing was touched.
    #[error("{} holds {found:?}, which is not a file of its broker: nothing was touched", path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// The entry that is not ours.
        found: String,
    },
    /// A file is whole, and needs something of the format that this build does not have: another version, or a feature.
    /// Nothing was touched. Open the directory with the release that wrote it, or with a later one.
    #[error(
        "{} needs {needs}; this build has format version {supported}: nothing was changed, open the directory with the \
         release that wrote it or a later one",
        path.display()
    )]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The version of the format that it is written in.
        found: u32,
        /// The version that this build reads and writes.
        supported: u32,
        /// The thing that is missing, in words: for example `format version 3` or `features 0x4 of format version 2`.
        needs: String,
    },
    /// Bytes on the medium are not what was written.
    #[error("{0}")]
    Corrupt(Corruption),
    /// These bytes are no [`RawBatches`](crate::RawBatches), or not whole, or not any more: fetch them again. Nothing was
    /// appended.
    #[error("no raw batches: {what} at byte {position}")]
    InvalidBatches {
        /// Where in the bytes.
        position: u64,
        /// What is wrong there.
        what: String,
    },
    /// The partition has other records at an offset than the raw batches that were to be appended: it is no copy of their
    /// source up to there. Nothing was appended. If it is to be one, `Partition::truncate_to` that offset.
    #[error("{topic}/{partition} holds other records from offset {offset} on than the batches to append")]
    Diverged {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The first offset of the first batch that differs.
        offset: Offset,
    },
    /// A write or sync of this partition failed earlier, so what it holds past the visible end is unknown. It takes
    /// no appends until `Partition::reopen` or a restart; reading goes on.
    #[error("{topic}/{partition} takes no appends since an earlier failure: {cause}")]
    Poisoned {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The failure.
        cause: Arc<Error>,
    },
    /// The journal failed earlier, and with it a transaction. Nothing of this one was done, and no other is until the broker
    /// is opened again; what concerns one partition only goes on.
    #[error("no transaction is committed since an earlier failure: {cause}")]
    JournalFailed {
        /// The failure.
        cause: Arc<Error>,
    },
    /// There is no room for this write. Nothing of it is in the log; the same call may succeed once there is room.
    #[error("no space left to write {}: {cause}", path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
        /// Which bound was met: who can do something about it depends on that.
        cause: Space,
    },
    /// The append would take the broker's directory over its [budget](crate::BrokerConfig::disk_budget), and nothing there may
    /// be deleted to make room: what is left belongs to topics without a limit of retention, is not visible yet, or is held
    /// for a group. Nothing was appended; the same call may succeed once that has changed.
    #[error(
        "the files of the broker have {used} bytes of a budget of {limit}, and nothing of it may be deleted{}",
        held_by.as_ref().map_or(String::new(), |group| format!(": group {group} has not read the oldest records yet"))
    )]
    OverBudget {
        /// The budget.
        limit: u64,
        /// What the files have now.
        used: u64,
        /// The group that holds the oldest of the records which could go otherwise, if it is for a group.
        held_by: Option<GroupId>,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done: "open", "write", "sync", ...
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The broker, or this handle, has been closed.
    #[error("the broker is closed")]
    Closed,
}

/// Which bound a write met that found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Space {
    /// The file system is full (`ENOSPC`): deleting anything on it makes room.
    #[error("the file system is full")]
    NoSpace,
    /// The quota of a user, a group or a directory is used up (`EDQUOT`): other files of the same owner count, and
    /// other owners' files do not.
    #[error("the quota is used up")]
    Quota,
    /// The file would become larger than the file system or the process may make it (`EFBIG`, for example by
    /// `RLIMIT_FSIZE`): deleting other files makes no room.
    #[error("the file would become larger than it may be")]
    FileTooLarge,
}

/// A partition of which an offset may not be committed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offender {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// Why.
    pub reason: RejectReason,
}

/// Why an offset may not be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The committer is no member of the group (any more), or has no place in a group that has members.
    #[error("the committer is no member of the group")]
    NotAMember,
    /// The partition is not the committer's.
    #[error("it is not the committer's")]
    NotOwned,
    /// The partition has been somebody else's since the records were polled.
    #[error("it was somebody else's since the records were polled")]
    Stale,
    /// The offset lies behind the visible end.
    #[error("it ends at offset {end}")]
    BeyondEnd {
        /// The visible end.
        end: Offset,
    },
    /// The log was cut before the offset since.
    #[error("it was cut at offset {to} since")]
    Truncated {
        /// Where it was cut.
        to: Offset,
    },
    /// There is no such partition (any more).
    #[error("there is no such partition")]
    UnknownPartition,
}

fn list(offenders: &[Offender]) -> String {
    let offenders = offenders.iter().map(|o| format!("{}/{}: {}", o.topic, o.partition, o.reason));
    offenders.collect::<Vec<_>>().join("; ")
}

fn comma_separated(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What an error says of the records that were being appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are not in the log and never will be: sending them again cannot duplicate them.
    NotWritten,
    /// They may be in the log after a restart, or not. Look before sending them again.
    Unknown,
}

impl Error {
    /// Whether the records of a failed append may still turn up.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Io { action, .. } if *action == "write" || *action == "sync" => Outcome::Unknown,
            _ => Outcome::NotWritten,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { action, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// The error of a write of which nothing counts: a lack of space has its own variant.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Error::unless_full("write", path, source)
    }

    /// The error of a file or directory that could not be made.
    pub(crate) fn create(path: &Path, source: io::Error) -> Self {
        Error::unless_full("create", path, source)
    }

    /// The error of a file that could not be replaced.
    pub(crate) fn replace(path: &Path, source: io::Error) -> Self {
        Error::unless_full("replace", path, source)
    }

    /// `DiskFull` if that is what the system said, `Io` otherwise.
    pub(crate) fn unless_full(action: &'static str, path: &Path, source: io::Error) -> Self {
        match is_space(&source) {
            Some(cause) => Error::DiskFull { path: path.to_path_buf(), cause },
            None => Error::io(action, path, source),
        }
    }

    /// Whether deleting something may make room for it.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Error::DiskFull { cause: Space::NoSpace | Space::Quota, .. })
    }

    pub(crate) fn corrupt(file: &Path, position: u64, what: impl Into<String>) -> Self {
        Error::Corrupt(Corruption {
            file: file.to_path_buf(),
            position,
            what: what.into(),
            offset: None,
            resume: None,
        })
    }
}

/// Which bound an I/O error says was met; nothing if it says something else. After such an error a file is as it was.
pub(crate) fn is_space(error: &io::Error) -> Option<Space> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some(Space::NoSpace),
        io::ErrorKind::QuotaExceeded => Some(Space::Quota),
        io::ErrorKind::FileTooLarge => Some(Space::FileTooLarge),
        _ => None,
    }
}

/// Where bytes were found that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// The byte position in the file.
    pub position: u64,
    /// What is wrong there.
    pub what: String,
    /// The offset of the first record that cannot be read, where it is known.
    pub offset: Option<Offset>,
    /// The offset of the next good record behind the damage, where there is one: seek there to go on without the
    /// records between.
    pub resume: Option<Offset>,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
