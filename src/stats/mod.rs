//! Numbers about the broker, and events as they happen.

mod copies;

use std::path::PathBuf;

pub use self::copies::{
    BackupProgress, BackupReport, Finding, FindingKind, SalvageReport, VerifyProgress, VerifyReport,
};
pub use crate::error::DamagedRange;
use crate::error::Error;
use crate::sync::Arc;
use crate::types::{Bounds, GroupId, Offset, PartitionId, TopicName, TopicPartition};

/// Something worth knowing has happened, most often to a partition. See
/// [`BrokerConfig::on_event`](crate::BrokerConfig::on_event).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A segment was sealed and the next one started.
    #[non_exhaustive]
    Rolled {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The first offset of the new segment.
        base_offset: Offset,
    },
    /// The log start moved, by retention or by
    /// [`delete_records`](crate::Partition::delete_records), and the segments before it were
    /// deleted.
    #[non_exhaustive]
    Retained {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The oldest offset that can be read from now on.
        log_start: Offset,
        /// How many segments were deleted.
        segments: usize,
        /// How many bytes were in them.
        bytes: u64,
    },
    /// A compaction has ended, and its output has replaced the segments that it read.
    Compacted(Compacted),
    /// Records were truncated from the end of the log, by
    /// [`truncate_to`](crate::Partition::truncate_to) or [`reset_to`](crate::Partition::reset_to).
    #[non_exhaustive]
    Truncated {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// Where the log ends now.
        to: Offset,
        /// The log epoch that begins there.
        epoch: u32,
    },
    /// Records after the last checkpoint were read again when the broker was opened, because it had
    /// not been closed properly.
    Recovered(Recovery),
    /// Bytes after the last good batch were truncated, by an opening or by
    /// [`reopen`](crate::Partition::reopen).
    TailTruncated(TruncatedTail),
    /// Records that were damaged were [given up](crate::Partition::accept_loss): the partition
    /// works again.
    #[non_exhaustive]
    LossAccepted {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The offsets whose records are gone: each from the first up to, and without, the second.
        ranges: Vec<(Offset, Offset)>,
        /// The log epoch that begins at the log's end.
        epoch: u32,
    },
    /// A commit that no caller waits for has failed, and nothing of it was done: the
    /// [`Pending`](crate::Pending) of a [`commit_async`](crate::Consumer::commit_async) or of a
    /// [transaction](crate::Transaction::commit_async) was dropped or detached.
    #[non_exhaustive]
    CommitFailed {
        /// Why. It names the group or the partitions.
        cause: Error,
    },
    /// Records were not written, and the sender of some of them has given up the acknowledgement:
    /// a [`Pending`](crate::Pending) of the batch was dropped or detached. A `Pending` of the same
    /// batch that was kept returns the cause too, and so does the producer's next
    /// [`flush`](crate::Producer::flush), which has no more than the first one. One event for each
    /// batch. A failed sync after the write is [`Poisoned`](Event::Poisoned).
    #[non_exhaustive]
    SendFailed {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The name of the producer, if it has one.
        producer: Option<Arc<str>>,
        /// How many records the batch has.
        records: u32,
        /// Why.
        cause: Error,
    },
    /// A write or sync failed: the partition takes no more appends until it is reopened.
    #[non_exhaustive]
    Poisoned {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// Why.
        cause: Error,
    },
    /// Code of the user panicked on a thread that is not the user's, or in a call of another
    /// caller: a waker, the clock. The panic was caught. A panic of the event listener itself, and
    /// of a subscriber of `tracing` or a recorder of `metrics`, is counted in
    /// [`BrokerStats::panics`], and is no event.
    #[non_exhaustive]
    Panicked {
        /// The code that panicked: for example `a waker`.
        which: &'static str,
        /// The message of its panic.
        message: String,
    },
}

/// The user's callback for events.
pub(crate) type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

/// The report of opening a broker. It names everything that was skipped, truncated or set aside.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether the broker had been closed properly, so that nothing had to be checked.
    pub clean: bool,
    /// The partitions of which something was read again, and how much.
    pub recovered: Vec<Recovery>,
    /// The torn tails that were truncated, and the offsets in them.
    pub truncated_tails: Vec<TruncatedTail>,
    /// The partitions whose end this opening could not prove. Empty after a clean close, and if
    /// only the process died.
    pub unproven: Vec<Unproven>,
    /// Commits of groups beyond the log end, because a power loss took the records. They were set
    /// back to the log end, so that the records appended there now are delivered.
    pub clamped: Vec<ClampedCommit>,
    /// The partitions that could not be opened for appending: they return this error, and the
    /// others work.
    pub damaged: Vec<(TopicPartition, Error)>,
    /// Whether there was room on the disk for everything that an opening writes. If not, the broker
    /// can be read, and operations that free space are tried; appends return
    /// [`DiskFull`](Error::DiskFull).
    pub disk: DiskState,
    /// Files that are not the broker's and were left alone, and derived files that were rebuilt.
    pub warnings: Vec<String>,
}

/// A partition whose last records may be lost without a trace, because the machine was restarted
/// after they were written. Records that were not synced are lost then, and often no torn byte
/// shows it.
///
/// From [`checked`](Unproven::checked) on, earlier records may have been lost; before it none was.
/// The partition's [epoch](crate::Partition::epoch) has risen, so an older position after
/// [`end`](Unproven::end) returns [`Truncated`](crate::Error::Truncated).
///
/// # The limit of this
/// Under [`Durability::Sync`](crate::Durability::Sync) a power loss takes no acknowledged record,
/// and this report is then about records that were never acknowledged. But if a disk loses *synced*
/// bytes at the very end of a log, as zeros or as a shorter file, the files look the same as after
/// such a power loss, because no later batch proves that the bytes were there. Such a loss is
/// listed here too, and only here. If the process died and the machine was not restarted, the page
/// cache still had everything; a loss of bytes at the end between that and the opening is not
/// noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unproven {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// Where the knowledge of the last checkpoint ends: everything before it was durable. With
    /// [`checkpoint_interval`](crate::BrokerConfig::checkpoint_interval) it is written every few
    /// seconds.
    pub checked: Offset,
    /// Where the log ends now.
    pub end: Offset,
}

/// A group's commit that was set back to the log end. Its metadata is unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClampedCommit {
    /// The group.
    pub group: GroupId,
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The offset that was committed.
    pub from: Offset,
    /// The offset that is committed now.
    pub to: Offset,
}

/// How much of a partition was read again after an unclean stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// Where reading began: everything before was known to be durable.
    pub from: Offset,
    /// The log end that was found.
    pub to: Offset,
    /// How many bytes were checked. They are durable, because they were written again; of a topic
    /// whose appends wait for no sync, after the kill of a process, they are so after its next sync.
    pub bytes: u64,
}

/// A torn tail that was truncated: the bytes after the last whole batch, left by a crash.
///
/// If the partition's durability was [`Sync`](crate::Durability::Sync) and the process crashed, the
/// tail can only hold records that were never acknowledged. But it looks the same as damage to the
/// last synced batches, so its records are "possibly acknowledged".
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TruncatedTail {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The segment file that was truncated.
    pub file: PathBuf,
    /// The byte position where the file was truncated.
    pub position: u64,
    /// How many bytes lay after it.
    pub bytes: u64,
    /// The reason why the bytes there are not a batch.
    pub reason: String,
    /// The first offset that was truncated: the log end now.
    pub from: Offset,
    /// The offset after the last one seen in the truncated bytes, if any could be read there.
    pub to: Option<Offset>,
    /// The file that keeps the bytes for inspection.
    pub kept: Option<PathBuf>,
}

/// A broker in numbers.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BrokerStats {
    /// Every topic, by name.
    pub topics: Vec<TopicStats>,
    /// Segment files and maps open now, those that calls under way and the user's records hold
    /// included.
    pub open_files: usize,
    /// How many may be open: [`BrokerConfig::max_open_files`](crate::BrokerConfig::max_open_files),
    /// or its default in this process.
    pub max_open_files: usize,
    /// Bytes of newest batches kept in memory now.
    pub tail_cache_bytes: usize,
    /// Whether there is room on the disk.
    pub disk: DiskState,
    /// How many panics of the user's code were caught since the broker was opened: those of wakers,
    /// of the event listener, of a subscriber or recorder, and of a clock on a background thread.
    /// See [`Event::Panicked`].
    pub panics: u64,
}

/// Whether the disk has room. A broker keeps a file `reserve` of at least 64 KiB, which it gives up
/// so that deleting works on a full disk: see [`BrokerStats::disk`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DiskState {
    /// No append has been refused for lack of room, or one was accepted since.
    #[default]
    Ok,
    /// The last append found no room. The reserve is there, so operations that free space work.
    Full,
    /// The reserve was given up to free space, or is missing, and there has been no room to write
    /// it since. Appends return [`DiskFull`](Error::DiskFull) until it can be written again; each
    /// append, maintenance, and each operation that frees space tries that. Operations that free
    /// space may find no room themselves.
    ReserveUsed,
}

/// A topic in numbers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TopicStats {
    /// Its name.
    pub name: TopicName,
    /// Its partitions, by id.
    pub partitions: Vec<PartitionStats>,
}

/// A partition in numbers. The counters start at 0 when the broker is opened.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PartitionStats {
    /// Its id.
    pub id: PartitionId,
    /// Where it begins and ends.
    pub bounds: Bounds,
    /// Its log epoch.
    pub epoch: u32,
    /// Bytes in its segments.
    pub bytes: u64,
    /// How many segments it has. [`Partition::segments`](crate::Partition::segments) lists them.
    pub segments: usize,
    /// Records appended since opening.
    pub records_appended: u64,
    /// Batches appended since opening.
    pub batches_appended: u64,
    /// Bytes appended since opening, as stored.
    pub bytes_appended: u64,
    /// Syncs since opening.
    pub syncs: u64,
    /// Compaction so far, and the compaction that is due.
    pub compaction: CompactionStats,
    /// Whether it takes no appends, and why.
    pub poisoned: Option<Error>,
}

/// The result of one compaction. See [`Partition::compact`](crate::Partition::compact).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Compacted {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// Everything before this offset has been compacted.
    pub compacted_to: Offset,
    /// Whether all that was to be compacted is; else the keys did not fit the memory, and the next
    /// pass continues.
    pub complete: bool,
    /// How many segments were replaced, and their bytes and records.
    pub segments_before: usize,
    /// Bytes before.
    pub bytes_before: u64,
    /// Records before.
    pub records_before: u64,
    /// How many segments replaced them.
    pub segments_after: usize,
    /// Bytes after.
    pub bytes_after: u64,
    /// Records after.
    pub records_after: u64,
}

/// Compaction of one partition, in numbers since opening.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionStats {
    /// How many compactions came to their end.
    pub compactions: u64,
    /// Whether one is under way, and how many bytes it has read and written so far. Bytes that were
    /// never compacted are read twice.
    pub running: Option<u64>,
    /// Bytes of the segments that were replaced.
    pub bytes_read: u64,
    /// Bytes of those that replaced them.
    pub bytes_written: u64,
    /// Records that were removed.
    pub records_removed: u64,
    /// Sealed bytes that have been compacted.
    pub compacted_bytes: u64,
    /// Sealed bytes that have not.
    pub dirty_bytes: u64,
    /// Why the last compaction failed, if it did.
    pub failed: Option<Error>,
}

/// A segment in numbers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SegmentStats {
    /// Its file.
    pub file: PathBuf,
    /// Its first offset.
    pub base_offset: Offset,
    /// Its bytes that count.
    pub bytes: u64,
    /// Whether it takes no more appends.
    pub sealed: bool,
}
