//! How much of the past is kept.

use std::time::Duration;

/// Which of a partition's oldest records may be deleted (Kafka's `retention.ms` and
/// `retention.bytes`). Whole segments are deleted, the oldest first, as soon as one of the limits
/// allows it. The log start moves to the end of the last one, and no offset is used twice.
///
/// The default is [`forever`](Retention::forever), unlike Kafka's 7 days: no stored record is
/// deleted by default.
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
    /// Everything stays, until [`delete_records`](crate::Partition::delete_records) is called. The
    /// default.
    pub const fn forever() -> Self {
        Retention { age: None, bytes: None }
    }

    /// A segment is deleted once its youngest record, by the records' timestamps, is older than
    /// this, in whole milliseconds. The segments after it wait for it: one record with a timestamp
    /// far in the future keeps everything after it too.
    ///
    /// The time used is the wall clock, but never more than the wall clock at the opening of the
    /// broker plus the time that has passed since. A forward jump of the wall clock deletes nothing
    /// early.
    pub const fn for_age(age: Duration) -> Self {
        Retention::forever().and_age(age)
    }

    /// The oldest segment is deleted as long as this many bytes of segment files are left without
    /// it. So at least that much of a partition stays, and up to one segment more. Each append
    /// keeps to that bound, however fast appends come: it is exceeded by one batch at most, and by
    /// records that may not be deleted yet (they are not visible, or held for a group).
    pub const fn for_bytes(bytes: u64) -> Self {
        Retention::forever().and_bytes(bytes)
    }

    /// Adds a limit [by age](Retention::for_age): a segment is deleted if either limit allows it.
    pub const fn and_age(self, age: Duration) -> Self {
        Retention { age: Some(age), ..self }
    }

    /// Adds a limit [by size](Retention::for_bytes): a segment is deleted if either limit allows
    /// it.
    pub const fn and_bytes(self, bytes: u64) -> Self {
        Retention { bytes: Some(bytes), ..self }
    }

    /// The limit [by age](Retention::for_age); `None`: there is none.
    pub const fn age(self) -> Option<Duration> {
        self.age
    }

    /// The limit [by size](Retention::for_bytes), in bytes; `None`: there is none.
    pub const fn bytes(self) -> Option<u64> {
        self.bytes
    }
}
