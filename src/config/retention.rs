//! How much of the past is kept?

use std::time::Duration;

/// Which of a partition's oldest records may go. Whole segments go, the oldest first, as soon as one of the limits says
/// so; the log start moves behind them, and no offset is ever used again.
///
/// The default is [`forever`](Retention::forever), unlike Kafka's 7 days: nothing that was stored is deleted by default.
/// Kafka: `retention.ms`, `retention.bytes`.
///
/// ```
/// use std::time::Duration;
/// use quipu::{Retention, TopicConfig};
///
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let config = TopicConfig::new().retention(Retention::for_age(week).and_bytes(1 << 30));
/// # let _ = config;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    pub(crate) age: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

impl Retention {
    /// Everything stays, until [`delete_records`](crate::Partition::delete_records) says otherwise. The default.
    pub const fn forever() -> Self {
        Retention { age: None, bytes: None }
    }

    /// A segment goes once its youngest record, by the records' timestamps, is older than this, in whole milliseconds.
    /// Those behind it wait for it: one record with a timestamp far in the future keeps everything after it, too.
    ///
    /// This compares with the wall clock, which counts here no faster than time goes by since the broker was opened: one
    /// that jumps ahead deletes nothing early.
    pub const fn for_age(age: Duration) -> Self {
        Retention::forever().and_age(age)
    }

    /// The oldest segment goes as long as this many bytes of segment files are left without it. So at least that much of
    /// a partition stays, and up to one segment more. Each append keeps to that bound, however fast they come: it is passed by
    /// one batch at most, and by what may not go yet (is not visible, or held for a group).
    pub const fn for_bytes(bytes: u64) -> Self {
        Retention::forever().and_bytes(bytes)
    }

    /// And, beside the other limit, [by age](Retention::for_age): what either of the two lets go, goes.
    pub const fn and_age(self, age: Duration) -> Self {
        Retention { age: Some(age), ..self }
    }

    /// And, beside the other limit, [by size](Retention::for_bytes): what either of the two lets go, goes.
    pub const fn and_bytes(self, bytes: u64) -> Self {
        Retention { bytes: Some(bytes), ..self }
    }
}
