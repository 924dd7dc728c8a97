//! Which types do all modules share? Newtypes wherever two integers could be swapped.

mod names;

use std::cmp::Ordering;
use std::fmt;
use std::ops::Add;
use std::str::FromStr;
use std::time::Duration;

pub use self::names::{GroupId, Names, PartitionId, TopicId, TopicName, TopicPartition};

/// The place of a record in its partition: 0 for the first, never reused, never changed.
///
/// Offsets grow by one per record, but a reader must not assume `next = previous + 1`: compaction
/// and atomic operations may leave gaps (Kafka, design document, section 4.8).
///
/// It compares with numbers, and converts from and into them:
///
/// ```
/// # use quipu::Offset;
/// let offset = Offset::new(17);
/// assert!(offset == 17 && offset + 1 > 17);
/// assert_eq!((u64::from(offset), Offset::from(17)), (17, offset));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of a new partition.
    pub const ZERO: Offset = Offset(0);
    pub(crate) const MAX: Offset = Offset(u64::MAX);

    /// An offset from its number.
    pub const fn new(offset: u64) -> Self {
        Offset(offset)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `count` places further on; it stops at `u64::MAX`.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Offset(self.0.saturating_add(count))
    }

    /// How many offsets lie from `earlier` up to here; 0 if `earlier` is not earlier.
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<u64> for Offset {
    fn from(offset: u64) -> Self {
        Offset(offset)
    }
}

impl From<Offset> for u64 {
    fn from(offset: Offset) -> Self {
        offset.0
    }
}

/// As [`plus`](Offset::plus): it stops at `u64::MAX`.
impl Add<u64> for Offset {
    type Output = Offset;

    fn add(self, count: u64) -> Offset {
        self.plus(count)
    }
}

impl PartialEq<u64> for Offset {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}

impl PartialOrd<u64> for Offset {
    fn partial_cmp(&self, other: &u64) -> Option<Ordering> {
        self.0.partial_cmp(other)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Milliseconds since 1970-01-01 00:00 UTC. Never negative in a stored record.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use quipu::Timestamp;
///
/// let an_hour_ago = Timestamp::now().minus(Duration::from_secs(3600));
/// assert!(SystemTime::from(an_hour_ago) < SystemTime::now());
/// assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH), Timestamp::from_millis(0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time that a record may have: so differences of two never overflow.
    pub(crate) const MAX: Timestamp = Timestamp(1 << 62);

    /// A timestamp from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time plus a duration (whole milliseconds); it stops at the largest timestamp.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time minus a duration (whole milliseconds); it stops at the smallest timestamp.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A place in the log that can be stored and come back to: topic, partition, offset and the log
/// epoch in which the offset was true.
///
/// The epoch rises whenever records were truncated from the end of a partition, so a position that
/// points past such a truncation is recognised instead of silently meaning other records.
///
/// ```
/// # use quipu::Position;
/// let position: Position = "orders/2@17#3".parse().unwrap();
/// assert_eq!(position.offset.get(), 17);
/// assert_eq!(position.to_string(), "orders/2@17#3");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Position {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The offset of a record, or where the next record will be.
    pub offset: Offset,
    /// The partition's log epoch when the position was taken.
    pub epoch: u32,
}

impl Position {
    /// The position of an offset in a partition, in the log epoch in which the offset was true: see
    /// [`Partition::epoch`](crate::Partition::epoch).
    ///
    /// ```
    /// # use quipu::Position;
    /// let position = Position::new("orders".parse()?, 2, 17, 3);
    /// assert_eq!(position.to_string(), "orders/2@17#3");
    /// # Ok::<(), quipu::Error>(())
    /// ```
    pub fn new(
        topic: TopicName,
        partition: impl Into<PartitionId>,
        offset: impl Into<Offset>,
        epoch: u32,
    ) -> Self {
        Position { topic, partition: partition.into(), offset: offset.into(), epoch }
    }

    /// The partition that the position is in.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    /// The position after this one: where to continue after this record.
    #[must_use]
    pub fn next(&self) -> Self {
        Position { offset: self.offset.plus(1), ..self.clone() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}#{}", self.topic, self.partition, self.offset, self.epoch)
    }
}

/// A text that is no [`Position`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsePositionError;

impl fmt::Display for ParsePositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is written topic/partition@offset#epoch")
    }
}

impl std::error::Error for ParsePositionError {}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let parts = || {
            let (topic, rest) = text.split_once('/')?;
            let (partition, rest) = rest.split_once('@')?;
            let (offset, epoch) = rest.split_once('#')?;
            Some(Position {
                topic: TopicName::new(topic).ok()?,
                partition: PartitionId::new(partition.parse().ok()?),
                offset: Offset(offset.parse().ok()?),
                epoch: epoch.parse().ok()?,
            })
        };
        parts().ok_or(ParsePositionError)
    }
}

/// Where a record was stored. Later releases may add fields, for example the number of copies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Receipt {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
    /// The timestamp stored with the record.
    pub timestamp: Timestamp,
    /// The partition's log epoch.
    pub epoch: u32,
}

impl Receipt {
    /// The record's position, to store or to seek to.
    pub fn position(&self) -> Position {
        Position {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            epoch: self.epoch,
        }
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Where to start reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// At the oldest record that is still there (the log start). Kafka's `earliest`.
    #[doc(alias = "earliest")]
    Beginning,
    /// After the newest visible record: only records that come later. Kafka's `latest`.
    #[doc(alias = "latest")]
    End,
    /// At this offset; in a gap, at the next record after it.
    At(Offset),
    /// At the record with the smallest offset of those with at least this timestamp
    /// ([`Partition::offset_for_time`](crate::Partition::offset_for_time)); where there is none, at
    /// the end. After it older ones may come: timestamps need not be in order.
    Time(Timestamp),
}

impl From<Offset> for Start {
    fn from(offset: Offset) -> Self {
        Start::At(offset)
    }
}

/// The four offsets that bound a partition: `log_start <= durable_end <= log_end` and
/// `log_start <= visible_end <= log_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Bounds {
    /// The oldest offset that may be read.
    pub log_start: Offset,
    /// After the newest record that consumers may read.
    pub visible_end: Offset,
    /// After the newest record known to be durable.
    pub durable_end: Offset,
    /// After the newest record written: the offset the next record gets.
    pub log_end: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_compared_and_converted_as_its_number() {
        let offset = Offset::new(17);
        assert_eq!((offset + 1, Offset::MAX + 1), (Offset::new(18), Offset::MAX));
        assert!(offset < 18 && offset > 16 && offset <= 17 && offset >= 17 && offset == 17);
        assert_eq!((u64::from(offset), Offset::from(17)), (17, offset));
        assert_eq!((u32::from(PartitionId::new(3)), PartitionId::from(3)), (3, PartitionId::new(3)));
        assert!(PartitionId::new(3) == 3 && PartitionId::new(3) != 4);
    }

    #[test]
    fn positions_print_and_parse() {
        let position = Position::new(TopicName::new("a.b_c-1").unwrap(), 7, u64::MAX - 1, 9);
        assert_eq!(position.to_string().parse::<Position>(), Ok(position.clone()));
        assert_eq!(position.next().offset, Offset(u64::MAX));
        for bad in ["", "a", "a/1", "a/1@2", "a/x@2#3", "a/1@x#3", "a/1@2#x", "é/1@2#3", "/1@2#3", "a/-1@2#3"]
        {
            assert_eq!(bad.parse::<Position>(), Err(ParsePositionError), "{bad}");
        }
    }
}
