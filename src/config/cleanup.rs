//! What becomes of old records: deleted as they age, or as newer ones of their key replace them?

use std::time::Duration;

/// What keeps a topic from growing for ever (Kafka's `cleanup.policy`).
///
/// A compacted topic keeps at least the newest record of every key. Records need a key there; one without a value, a
/// [tombstone](crate::Record::tombstone), deletes its key. Offsets and order never change: what is gone leaves gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cleanup {
    /// The oldest segments go as [`Retention`](crate::Retention) says.
    #[default]
    Delete,
    /// Records that a newer one of the same key replaces go; retention does not apply.
    Compact,
    /// Both.
    CompactAndDelete,
    /// Nothing: every record stays for good, whatever retention says. What topics of [streams](crate::TopicConfig::streams)
    /// have.
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

/// When a compacted topic is cleaned.
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
