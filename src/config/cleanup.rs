//! How old records are removed: as they age, or when newer ones of their key replace them.

use std::time::Duration;

/// What keeps a topic from growing forever (Kafka's `cleanup.policy`).
///
/// A compacted topic keeps at least the newest record of every key. Records need a key there; one
/// without a value, a [tombstone](crate::Record::tombstone), deletes its key. Offsets and order
/// never change: removed records leave gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cleanup {
    /// The oldest segments are deleted by the limits of [`Retention`](crate::Retention).
    #[default]
    Delete,
    /// Records are removed once a newer one of the same key replaces them; retention does not
    /// apply.
    Compact,
    /// Both.
    CompactAndDelete,
    /// Every record stays, whatever the limits of retention are. The policy of topics of
    /// [streams](crate::TopicConfig::streams).
    None,
}

impl Cleanup {
    pub(crate) fn compacts(self) -> bool {
        matches!(self, Cleanup::Compact | Cleanup::CompactAndDelete)
    }

    pub(crate) fn deletes(self) -> bool {
        matches!(self, Cleanup::Delete | Cleanup::CompactAndDelete)
    }
}

/// When a log is compacted, and what a compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactionSettings {
    /// In millionths.
    pub(crate) min_dirty_ratio: u32,
    pub(crate) delete_retention: Duration,
    pub(crate) min_lag: Duration,
    pub(crate) max_lag: Option<Duration>,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        CompactionSettings {
            min_dirty_ratio: 500_000,
            delete_retention: Duration::from_secs(24 * 3600),
            min_lag: Duration::ZERO,
            max_lag: None,
        }
    }
}
