//! What is reported of checks and copies of a whole directory.

use std::path::PathBuf;

use crate::error::DamagedRange;
use crate::types::{Offset, PartitionId, Position, TopicName};

/// How far [`Broker::backup`](crate::Broker::backup) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupProgress {
    /// Bytes of segments that are in the backup.
    pub done: u64,
    /// Bytes of all its segments.
    pub total: u64,
}

/// What [`Broker::backup`](crate::Broker::backup) has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackupReport {
    /// Whether the backup is finished; false if it was ended by the progress function.
    pub complete: bool,
    /// Partitions with files.
    pub partitions: u64,
    /// Bytes of segments that share the broker's files.
    pub bytes_linked: u64,
    /// Bytes of segments that were copied.
    pub bytes_copied: u64,
    /// Bytes of segments that were there, from an older backup.
    pub bytes_kept: u64,
    /// The end of each partition that has files, in the epoch that begins there in the backup. A
    /// position before it is true in both.
    pub ends: Vec<Position>,
}

/// How far [`Broker::verify`](crate::Broker::verify) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Bytes that have been checked.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// What [`Broker::verify`](crate::Broker::verify) has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Everything that is not as it should be, file by file.
    pub findings: Vec<Finding>,
    /// Files that are not the broker's, leftovers that the next opening removes, and files that
    /// could not be checked.
    pub notes: Vec<String>,
    /// Partitions that have files.
    pub partitions: u64,
    /// Bytes that were checked.
    pub bytes: u64,
    /// Whole batches.
    pub batches: u64,
    /// The records in them.
    pub records: u64,
    /// Whether everything was checked; false if it was cancelled.
    pub complete: bool,
}

impl VerifyReport {
    /// Whether everything was checked, and nothing is lost or unreadable. Torn tails, which the
    /// next opening truncates, and damaged derived files, which it writes again, do not count.
    pub fn is_whole(&self) -> bool {
        let counts =
            |finding: &Finding| matches!(finding.kind, FindingKind::Damage | FindingKind::Unreadable);
        self.complete && !self.findings.iter().any(counts)
    }
}

/// Something in a broker's directory that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub kind: FindingKind,
    /// The file.
    pub file: PathBuf,
    /// The byte position in the file.
    pub position: u64,
    /// How many bytes are concerned; 0 if that is not known, or if they are missing.
    pub bytes: u64,
    /// The topic, where it is about one.
    pub topic: Option<TopicName>,
    /// The partition, where it is about one.
    pub partition: Option<PartitionId>,
    /// The offsets concerned: from the first up to, and without, the second. The same if no record
    /// is.
    pub offsets: Option<(Offset, Offset)>,
    /// The problem in words.
    pub what: String,
    /// The number of the invariant in `FORMAT.md` that does not hold, where it is one.
    pub invariant: Option<u32>,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindingKind {
    /// Bytes that were durable are damaged or missing.
    Damage,
    /// Writes that were never synced, left by a crash: the next opening truncates or completes
    /// them.
    TornTail,
    /// A derived file is damaged: nothing is lost, it is written again.
    Derived,
    /// It could not be read: an I/O error, or a later release wrote it.
    Unreadable,
}

/// The report of [`Broker::salvage`](crate::Broker::salvage).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The topics that were copied, by name, and how many partitions with files each has.
    pub topics: Vec<(TopicName, u64)>,
    /// Whole batches that were copied.
    pub batches: u64,
    /// The records in them.
    pub records: u64,
    /// Damage in segments: these offsets are not in the copy.
    pub lost: Vec<DamagedRange>,
    /// Other files that are damaged, or missing, and the consequence.
    pub findings: Vec<Finding>,
    /// Assumptions that were made where a file could not be used, and files that were left out.
    pub notes: Vec<String>,
}
