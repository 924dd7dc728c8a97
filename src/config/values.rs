//! Values that settings have, and the error of one that cannot be.

use std::fmt::Display;
use std::time::Duration;

use crate::error::{Error, Result};

/// What an acknowledgement means, and with it what consumers may see: a record becomes visible when
/// its topic's durability holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Acknowledged once the operating system has it. It survives the death of the process
    /// (`kill -9`), but not a power loss, after which a prefix of the log is there.
    #[default]
    Os,
    /// As [`Os`](Durability::Os), and synced to the medium at least this often: a power loss takes
    /// at most the records since the last sync.
    Interval(Duration),
    /// Acknowledged once it is on the medium: it survives a power loss. Appends that wait at the
    /// same time share a sync.
    Sync,
}

impl Durability {
    pub(super) fn validate(self) -> Result<()> {
        match self {
            Durability::Interval(every) if every < Duration::from_millis(1) => {
                Err(too_small("durability", format!("an interval of {every:?}"), "1 ms"))
            }
            _ => Ok(()),
        }
    }
}

/// Which time the timestamp of a stored record is (Kafka's `message.timestamp.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TimestampType {
    /// The time that its sender gave it, or the time of sending. It may be out of order.
    #[default]
    Create,
    /// The time at which its batch was appended, by the broker's clock, whatever its sender gave
    /// it. All records of a batch share it.
    Append,
}

/// How segments are read, and how often a batch is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ReadMode {
    /// Through read-only memory maps: nothing is copied. If the medium fails under a map, or
    /// another process truncates the file, the process is killed with SIGBUS. A segment that cannot
    /// be mapped is read by position: see
    /// [`max_open_files`](crate::BrokerConfig::max_open_files).
    ///
    /// The segment that takes appends is read by position where it is read in order. Once several
    /// single records of it were read, it is mapped up to its last batch, and that map is extended
    /// as the segment grows.
    ///
    /// A batch is checked by its first read through a map, and not again by later reads through the
    /// same map. A segment is mapped again after it was truncated, compacted, or closed because too
    /// many files were open. So bytes that the medium changes after the first read may be returned;
    /// [`Checked`](ReadMode::Checked) avoids that. Records that are written again, by a compaction
    /// for example, are always checked before.
    #[default]
    Map,
    /// By positional reads: one copy, and a failing medium is an error like any other. Each read
    /// checks its batches.
    Positional,
    /// As [`Map`](ReadMode::Map), and each read checks its batches. A read of one record then takes
    /// as long as the checksum of its whole batch.
    Checked,
}

/// A duration in whole milliseconds, as it is stored.
pub(crate) fn millis(duration: Duration) -> u64 {
    // The longest duration has 2^64 seconds. One of 584 million years is as good as any longer.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The error of a value below the least one.
pub(crate) fn too_small(field: &'static str, value: impl Display, least: &str) -> Error {
    invalid(field, &format!("{value}; it must be at least {least}"))
}

pub(crate) fn invalid(field: &'static str, reason: &str) -> Error {
    Error::InvalidConfig { field, reason: reason.to_string() }
}
