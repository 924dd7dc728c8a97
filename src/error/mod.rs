//! What can go wrong, and what can the caller do about it? One variant per decision.

mod constructors;
mod details;
mod kind;
mod system;
#[cfg(test)]
mod tests;
mod texts;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use self::details::is_space;
pub use self::details::{
    Corruption, DamagedRange, ErrorKind, IoAction, Offender, Outcome, Owner, RejectReason, Space,
};
pub(crate) use self::system::{NoDescriptor, NoMap, is_no_descriptor, is_no_map};
use crate::types::{GroupId, Offset, PartitionId, Timestamp, TopicName, TopicPartition};
use crate::version::{ExpectedVersion, Version};

/// The result of every function here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Cheap to clone, because one failed batch fails every
/// acknowledgement that waits for it.
///
/// [`Error::kind`] groups the variants by what a caller can do, [`Error::is_retriable`] returns
/// whether the same call may succeed later, and [`Error::outcome`] whether it is safe to send the
/// same records again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An append was conditional on the log's end, and the log ends elsewhere. Read up to the end
    /// and decide again (raw batches: fetch from the end).
    #[error("{topic}/{partition} ends at offset {end}, the append expected offset {expected}")]
    #[non_exhaustive]
    OffsetConflict {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// Where the append expected the log to end.
        expected: Offset,
        /// Where the log ends now.
        end: Offset,
    },
    /// A stream does not have the version that an append expected, or it has fewer events than the
    /// version to load from. Nothing was appended. [Load](crate::Stream::load) the stream and
    /// decide again: the events that it has now are visible.
    #[error("stream \"{}\" of {topic} is at version {current}, expected was {expected}", key.escape_ascii())]
    #[non_exhaustive]
    VersionConflict {
        /// The topic.
        topic: TopicName,
        /// The stream's key.
        key: Arc<[u8]>,
        /// The version that the append expected.
        expected: ExpectedVersion,
        /// The stream's version; in a transaction, its version before the transaction.
        current: Version,
    },
    /// Events of a stream were truncated, or lost with a power loss, after the caller saw this
    /// version of it: the events that the stream has now in their place are not the ones that the
    /// version counts. Nothing was appended. Discard everything that was derived from events after
    /// `to`.
    #[error("{}", texts::stream_truncated(topic, key, *version, *to))]
    #[non_exhaustive]
    StreamTruncated {
        /// The topic.
        topic: TopicName,
        /// The stream's key.
        key: Arc<[u8]>,
        /// The version that belongs to the history before the truncation.
        version: Version,
        /// The version up to which both histories have the same events. 0 if that is not known,
        /// because the log never had the version's epoch.
        to: Version,
    },
    /// The topic does not keep [streams](crate::TopicConfig::streams); or it does, and the
    /// operation is not allowed there: records of streams are not deleted, and a key must stay in
    /// one partition.
    #[error("topic {topic}: {reason}")]
    #[non_exhaustive]
    Streams {
        /// The topic.
        topic: TopicName,
        /// The rule that was broken.
        reason: &'static str,
    },
    /// The requested offset is no longer in the log, or not yet. Seek to a valid one.
    #[error("offset {requested} of {topic}/{partition} is out of range: readable are {earliest} to {latest}")]
    #[non_exhaustive]
    OffsetOutOfRange {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The offset asked for.
        requested: Offset,
        /// The oldest readable offset.
        earliest: Offset,
        /// The visible end: the largest offset that a caller may ask for.
        latest: Offset,
    },
    /// Records were truncated from the log's end, or lost with a power loss, after this position
    /// was taken, and the position lies beyond that offset. Or the position was taken in a [log
    /// epoch](crate::Partition::epoch) that the log never had, for example because an older copy of
    /// the directory was put in place.
    #[error("{}", texts::truncated(topic, *partition, *offset, *to))]
    #[non_exhaustive]
    Truncated {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The position's offset.
        offset: Offset,
        /// The end of the history that the log and the position share: before it both have the same
        /// records. If the log never had the position's epoch, that is not known, and this is the
        /// position's offset or the log's end, whichever is less.
        to: Offset,
    },
    /// A record, or the batch that it is in, is larger than the topic or the buffer allows. Nothing
    /// was appended.
    #[error(
        "{topic}/{partition}: a record or batch of {size} bytes is larger than the limit of {limit} bytes"
    )]
    #[non_exhaustive]
    RecordTooLarge {
        /// The topic.
        topic: TopicName,
        /// The partition that it was to be appended to.
        partition: PartitionId,
        /// The encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The records of a transaction for one partition are larger than one batch and a
    /// [segment](crate::TopicConfig::segment_bytes) can be, or all its batches together are larger
    /// than the journal allows. Nothing was committed.
    #[error("{}", texts::transaction_too_large(partition.as_ref(), *size, *limit))]
    #[non_exhaustive]
    TransactionTooLarge {
        /// The partition; `None` for all batches together.
        partition: Option<TopicPartition>,
        /// The encoded size in bytes; if the limit was exceeded by a record, up to that record.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A record without a key was sent to a topic that is [compacted](crate::Cleanup::Compact) or
    /// keeps [streams](crate::TopicConfig::streams), or the key of a stream is null. Nothing was
    /// appended.
    #[error("record number {index} for {topic} has no key, which the topic requires")]
    #[non_exhaustive]
    MissingKey {
        /// The topic.
        topic: TopicName,
        /// The index of the record, from 0: in the call; in the batch, if the topic was altered
        /// while a producer had that batch open; in the shipment of
        /// [`RawBatches`](crate::RawBatches).
        index: usize,
    },
    /// The topic is [only compacted](crate::Cleanup::Compact): its records are deleted by
    /// tombstones, not by offset.
    #[error("records of {topic} are not deleted by offset: it is only compacted")]
    #[non_exhaustive]
    CompactedTopic {
        /// The topic.
        topic: TopicName,
    },
    /// A partition has damage whose range was not passed to
    /// [`accept_loss`](crate::Partition::accept_loss). Nothing was given up.
    /// [List](crate::Partition::damage) all damage and decide again.
    #[error("{}", texts::loss_not_named(range))]
    #[non_exhaustive]
    LossNotNamed {
        /// The first such damage.
        range: Box<DamagedRange>,
    },
    /// There is nothing to compact: the topic's [cleanup](crate::TopicConfig::cleanup) does not
    /// include compaction.
    #[error("{topic} is not a compacted topic")]
    #[non_exhaustive]
    NotCompacted {
        /// The topic.
        topic: TopicName,
    },
    /// The log was truncated, shortened or closed during a compaction. Nothing has changed; the
    /// caller may try again.
    #[error("the compaction of {topic}/{partition} was overtaken by another change")]
    #[non_exhaustive]
    CompactionAborted {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
    },
    /// Each rewrite of a partition's files takes a new generation number, and all four thousand
    /// million numbers are used up. Nothing has changed.
    #[error("{topic}/{partition} has no generation number left for a rewrite of its files")]
    #[non_exhaustive]
    GenerationsExhausted {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
    },
    /// A timestamp before 1970, or one that no stored record may have, or one outside the topic's
    /// [bounds](crate::TopicConfig::timestamp_bounds). Nothing was appended.
    #[error(
        "timestamp {timestamp} of record number {index} for {topic} is not between {earliest} and {latest}"
    )]
    #[non_exhaustive]
    InvalidTimestamp {
        /// The topic.
        topic: TopicName,
        /// The timestamp given.
        timestamp: Timestamp,
        /// The index of the record in the call, from 0.
        index: usize,
        /// The earliest valid timestamp.
        earliest: Timestamp,
        /// The latest valid timestamp.
        latest: Timestamp,
    },
    /// The producer's [buffer](crate::ProducerConfig::buffer_bytes) had no room for the record, for
    /// the time that the call may [wait](crate::ProducerConfig::max_block). Nothing was taken; the
    /// same call succeeds once other threads have written their batches. Or the records of one
    /// [`send_all`](crate::Producer::send_all) are larger than the buffer: send them in pieces.
    #[error("{}", texts::buffer_full(producer.as_deref(), *used, *limit))]
    #[non_exhaustive]
    BufferFull {
        /// The producer's name, if it has one.
        producer: Option<Arc<str>>,
        /// The bytes of the records in the buffer.
        used: usize,
        /// The size of the buffer in bytes.
        limit: usize,
    },
    /// There is no topic of this name.
    #[error("there is no topic {topic:?}")]
    #[non_exhaustive]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has no such partition, or a custom partitioner returned a number that does not
    /// exist. Nothing was appended.
    #[error("topic {topic} has {count} partitions and no partition {partition}")]
    #[non_exhaustive]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// The partition asked for.
        partition: PartitionId,
        /// How many partitions the topic has.
        count: u32,
    },
    /// The reader or consumer does not read this partition.
    #[error("{topic}/{partition} is not assigned to this reader or consumer")]
    #[non_exhaustive]
    NotAssigned {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
    },
    /// A topic of this name exists already.
    #[error("topic {topic} exists already")]
    #[non_exhaustive]
    TopicExists {
        /// The existing topic's name.
        topic: TopicName,
    },
    /// The name differs from that of another topic only in `.` and `_`. Kafka refuses it too.
    #[error("topic {topic} is not created beside {other}: their names differ only in '.' and '_'")]
    #[non_exhaustive]
    TopicNameCollides {
        /// The topic that was to be created.
        topic: TopicName,
        /// The existing topic.
        other: TopicName,
    },
    /// The handle's topic has been deleted. Ask the broker for the topic again.
    #[error("topic {topic} has been deleted")]
    #[non_exhaustive]
    TopicDeleted {
        /// The deleted topic's name.
        topic: TopicName,
    },
    /// The name is not valid for a topic.
    #[error("{name:?} is not a valid topic name: {reason}")]
    #[non_exhaustive]
    InvalidTopicName {
        /// The name given.
        name: String,
        /// The rule that was broken.
        reason: &'static str,
    },
    /// The topic exists with a configuration that cannot be altered into the one asked for.
    #[error("topic {topic} exists with {field} {found}, asked for was {asked}")]
    #[non_exhaustive]
    ConfigMismatch {
        /// The topic.
        topic: TopicName,
        /// The setting that differs.
        field: &'static str,
        /// The value that the topic has.
        found: String,
        /// The value asked for.
        asked: String,
    },
    /// A setting is out of its bounds.
    #[error("invalid {field}: {reason}")]
    #[non_exhaustive]
    InvalidConfig {
        /// The setting.
        field: &'static str,
        /// Its bounds, or the setting that it conflicts with.
        reason: String,
    },
    /// A topic, partition, stream or consumer of another broker was passed to an operation of this
    /// one. Nothing was done. Ask this broker for the topic; a handle of a broker that was closed
    /// and opened again is one of another broker too.
    #[error("{what} belongs to the broker of {}, and not to this one, of {}", other.display(), own.display())]
    #[non_exhaustive]
    ForeignBroker {
        /// The handle in words: for example `topic orders`, or `a consumer of group billing`.
        what: String,
        /// The directory of the broker that the operation belongs to.
        own: PathBuf,
        /// The directory of the broker that the handle belongs to.
        other: PathBuf,
    },
    /// The name is not valid for a consumer group.
    #[error("{name:?} is not a valid group name: {reason}")]
    #[non_exhaustive]
    InvalidGroupName {
        /// The name given.
        name: String,
        /// The rule that was broken.
        reason: &'static str,
    },
    /// Nothing of this commit was stored, because part of it is not allowed: some of its partitions
    /// belong to other members now, or did so in between. Poll again; the member that owns such a
    /// partition has started where the last commit ended.
    #[error("group {group}: the commit was rejected: {}", texts::list(offenders))]
    #[non_exhaustive]
    CommitRejected {
        /// The group.
        group: GroupId,
        /// The partitions that prevent it.
        offenders: Vec<Offender>,
    },
    /// These partitions have no committed offset, and the [reset policy](crate::OffsetReset) is to
    /// fail. Seek in each of them.
    #[error("group {group} has no committed offset in {}", texts::comma_separated(partitions))]
    #[non_exhaustive]
    NoCommittedOffset {
        /// The group.
        group: GroupId,
        /// All partitions without one.
        partitions: Vec<TopicPartition>,
    },
    /// A later producer was opened under the same name. This one sends no more records, and the
    /// records in its buffer are not written.
    #[error("producer {producer:?} was fenced: a later producer has the same name")]
    #[non_exhaustive]
    Fenced {
        /// The producer's name.
        producer: Arc<str>,
    },
    /// The record with this sequence is not in the partition, and it comes too late: greater
    /// sequences are there, or come before it in the same call. Nothing was appended to that
    /// partition. For example, a row of an outbox table that was committed late with an id that was
    /// given out early. Read rows in the order of their commits, or send this record without a
    /// sequence.
    #[error("{}", texts::out_of_order(producer, topic, *partition, *sequence, *last))]
    #[non_exhaustive]
    OutOfOrderSequence {
        /// The producer's name.
        producer: Arc<str>,
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The sequence given.
        sequence: u64,
        /// The last one before it, if it is known.
        last: Option<u64>,
    },
    /// The record with this sequence was sent before, or it was skipped: the log cannot tell which.
    /// It is older than the producer's last five batches in the partition, or falls into a batch
    /// with gaps between its sequences, or has been deleted. Nothing was appended to that
    /// partition. If the caller sends its rows in rising order and leaves none out, this one was
    /// sent: continue with the next one, or directly after `last`. If rows may come late, search
    /// for it in the partition.
    #[error("{}", texts::duplicate(producer, topic, *partition, *sequence, *last))]
    #[non_exhaustive]
    DuplicateSequence {
        /// The producer's name.
        producer: Arc<str>,
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The sequence given.
        sequence: u64,
        /// The last sequence in the log.
        last: u64,
    },
    /// A record with a sequence may have been sent before its topic was given more partitions, to
    /// another partition than it would go to now, and that cannot be decided. Nothing of it was
    /// appended. Look whether it is there; if not, send it to a partition that the caller names.
    #[error("{}", texts::possible_duplicate(producer, topic, *partition, *sequence, reason))]
    #[non_exhaustive]
    PossibleDuplicate {
        /// The producer's name.
        producer: Arc<str>,
        /// The topic.
        topic: TopicName,
        /// The partition that it may be in.
        partition: PartitionId,
        /// The sequence given.
        sequence: u64,
        /// Why it cannot be decided.
        reason: &'static str,
    },
    /// The name is not valid for a producer: it must have 1 to 249 bytes.
    #[error("{name:?} is not a valid producer name: it has {} bytes and must have 1 to 249", name.len())]
    #[non_exhaustive]
    InvalidProducerName {
        /// The name given.
        name: String,
    },
    /// The operation requires a group without members, and without a transaction that is committing
    /// offsets of it. Close the group's consumers first.
    #[error("group {group} has members, or a transaction commits offsets of it")]
    #[non_exhaustive]
    GroupNotEmpty {
        /// The group.
        group: GroupId,
    },
    /// The group's offsets of this topic cannot be deleted, because a member subscribes to the
    /// topic, or a transaction is committing offsets of the partition.
    #[error("a member of group {group} subscribes to topic {topic}, or a transaction commits offsets of it")]
    #[non_exhaustive]
    GroupSubscribed {
        /// The group.
        group: GroupId,
        /// The topic.
        topic: TopicName,
    },
    /// An [`Assignor`](crate::Assignor) left a partition out, assigned one twice or assigned one to
    /// a member that does not subscribe to its topic. Nothing has changed.
    #[error("assignor {assignor:?}: {reason}")]
    #[non_exhaustive]
    InvalidAssignment {
        /// The assignor's name.
        assignor: String,
        /// The rule that was broken.
        reason: String,
    },
    /// A listener of a consumer [refused](Error::listener) a change of its partitions. The poll
    /// that called it returns this; the partitions have changed nevertheless.
    #[error("the rebalance listener failed: {message}")]
    #[non_exhaustive]
    Listener {
        /// The reason that the listener gave.
        message: String,
    },
    /// The directory is open already, in this process or another. Nothing was touched.
    #[error("{}", texts::already_open(path, owner.as_ref()))]
    #[non_exhaustive]
    AlreadyOpen {
        /// The broker's directory.
        path: PathBuf,
        /// Who has it open, if the owner has said so: it does with its first change.
        owner: Option<Owner>,
    },
    /// The directory is not writable: the file system is mounted read-only, or this process lacks
    /// the permission. A broker must write, if only to lock the directory. Nothing was touched.
    #[error("{} cannot be written to: {source}", path.display())]
    #[non_exhaustive]
    ReadOnly {
        /// The broker's directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The directory holds an entry that no broker made: it is not a broker's directory, or it has
    /// files at the paths where those of a new topic or partition would go. Nothing was touched.
    #[error("{} holds {found:?}, which is not a file of its broker: nothing was touched", path.display())]
    #[non_exhaustive]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// The foreign entry.
        found: String,
    },
    /// A backup was interrupted: the directory is no broker's yet. A backup into it finishes it.
    #[error("{} is a backup that was not finished", path.display())]
    #[non_exhaustive]
    BackupUnfinished {
        /// The directory.
        path: PathBuf,
    },
    /// A backup is refused because of the directory that it was to be made in. Nothing was touched.
    #[error("no backup can be made in {}: {what}", path.display())]
    #[non_exhaustive]
    NotABackup {
        /// The directory.
        path: PathBuf,
        /// What the directory is instead.
        what: String,
    },
    /// The call was made by the progress function of a backup, and would have to wait for the end
    /// of that.
    #[error("{}: the call would wait for the backup from which it is made", path.display())]
    #[non_exhaustive]
    BackupRunning {
        /// The broker's directory.
        path: PathBuf,
    },
    /// A file is whole, and it requires something of the format that this build does not have:
    /// another version, a feature, or the codec of a batch (a feature of this crate). Nothing was
    /// touched. Use the release that wrote it or a later one, built with that feature.
    #[error("{}", texts::unsupported(path, needs, *supported))]
    #[non_exhaustive]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The version of the format that the file is written in.
        found: u32,
        /// The version that this build reads and writes.
        supported: u32,
        /// The missing thing in words: for example `format version 3`, or `codec 2, zstd, which is
        /// the feature `zstd` of this crate`.
        needs: String,
    },
    /// A file does not hold the bytes that were written.
    #[error("{0}")]
    Corrupt(Corruption),
    /// These bytes are not [`RawBatches`](crate::RawBatches), or they are incomplete or damaged:
    /// fetch them again. Nothing was appended.
    #[error("invalid raw batches: {what} at byte {position}")]
    #[non_exhaustive]
    InvalidBatches {
        /// The byte position in the raw batches.
        position: u64,
        /// The defect there.
        what: String,
    },
    /// The partition has other records at this offset than the raw batches to append: up to there
    /// it is not a copy of their source. Nothing was appended. To make it a copy, call
    /// `Partition::truncate_to` with that offset.
    #[error("{topic}/{partition} holds other records from offset {offset} on than the batches to append")]
    #[non_exhaustive]
    Diverged {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The first offset of the first batch that differs.
        offset: Offset,
    },
    /// An earlier write or sync of this partition failed, so its contents after the visible end are
    /// unknown. The partition takes no appends until `Partition::reopen` or a restart; reading
    /// still works.
    #[error("{topic}/{partition} takes no appends since an earlier failure: {cause}")]
    #[non_exhaustive]
    Poisoned {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The failure.
        cause: Arc<Error>,
    },
    /// The journal failed earlier, and with it a transaction. Nothing of this transaction was done,
    /// and no other is committed until the broker is opened again. Operations on a single partition
    /// still work.
    #[error("no transaction is committed since an earlier failure: {cause}")]
    #[non_exhaustive]
    JournalFailed {
        /// The failure.
        cause: Arc<Error>,
    },
    /// There is no room for this write. Nothing of it is in the log; the same call may succeed once
    /// there is room.
    #[error("no space left to write {}: {cause}", path.display())]
    #[non_exhaustive]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
        /// The bound that was met. It decides how to make room.
        cause: Space,
    },
    /// The append would take the broker's directory over its
    /// [budget](crate::BrokerConfig::disk_budget), and no record may be deleted to make room: the
    /// rest belongs to topics without a retention limit, is not visible yet, or is held for a
    /// group. Nothing was appended; the same call may succeed once that has changed.
    #[error("{}", texts::over_budget(*limit, *used, held_by.as_ref()))]
    #[non_exhaustive]
    OverBudget {
        /// The budget in bytes.
        limit: u64,
        /// The size of the broker's files in bytes.
        used: u64,
        /// The group that holds the oldest of the records that could be deleted otherwise, if one
        /// does.
        held_by: Option<GroupId>,
    },
    /// The value of a record cannot be read as the type asked for. Only this record is concerned:
    /// to leave it out, continue after its position.
    #[cfg(feature = "serde")]
    #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
    #[error("cannot decode the value of the record at {position}: {source}")]
    #[non_exhaustive]
    Decode {
        /// The record's position.
        position: crate::types::Position,
        /// The decoder's error: for JSON a `serde_json::Error`, by `downcast_ref`.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A value cannot be written in its encoding. Nothing was sent.
    #[cfg(feature = "serde")]
    #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
    #[error("cannot encode a value: {source}")]
    #[non_exhaustive]
    Encode {
        /// The encoder's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    #[non_exhaustive]
    Io {
        /// The operation that failed.
        action: IoAction,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// Code of the user panicked where no caller could get the panic: see
    /// [`Event::Panicked`](crate::stats::Event::Panicked). [`close`](crate::Broker::close) returns
    /// this after everything else was done.
    #[error("{which} panicked, as the first of {times} panics that were caught: {message}")]
    #[non_exhaustive]
    Panicked {
        /// The code that panicked first: for example `a waker`.
        which: &'static str,
        /// The message of its panic.
        message: String,
        /// How many panics were caught.
        times: u64,
    },
    /// The broker, or this handle, has been closed.
    #[error("the broker is closed")]
    Closed,
    /// The library met a state that it considers impossible, and did nothing further. This is a bug
    /// in it: please report it. In a debug build it panics instead.
    #[error("internal error, please report it: {what}")]
    #[non_exhaustive]
    Internal {
        /// The invariant that does not hold.
        what: &'static str,
    },
}
