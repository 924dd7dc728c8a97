//! Which types do all modules share? Newtypes wherever two integers could be swapped.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The place of a record in its partition: 0 for the first, never reused, never changed.
///
/// Offsets grow by one per record, but a reader must not assume `next = previous + 1`: compaction
/// and atomic operations may leave gaps (Kafka, design document, section 4.8).
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

impl PartialEq<u64> for Offset {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of a partition within its topic: `0..topic.partitions()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(u32);

impl PartitionId {
    /// A partition's id from its number.
    pub const fn new(id: u32) -> Self {
        PartitionId(id)
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl From<u32> for PartitionId {
    fn from(id: u32) -> Self {
        PartitionId(id)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Milliseconds since 1970-01-01 00:00 UTC. Never negative in a stored record.
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

/// The name of a topic: 1 to 249 characters of `[a-zA-Z0-9._-]`, not `.` or `..` (Kafka's
/// `Topic.validate`). As in Kafka, no topic is created beside one whose name differs only in `.`
/// and `_` ([`TopicNameCollides`](crate::Error::TopicNameCollides)).
///
/// Cheap to clone. A value of this type has been validated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The longest name, in characters: with a suffix it still fits a file name of 255 bytes.
    pub const MAX_LEN: usize = 249;

    /// Validates a name.
    ///
    /// # Errors
    /// The rule that the name breaks, as a sentence.
    pub fn new(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() {
            Err("it is empty")
        } else if name == "." || name == ".." {
            Err("it is a directory's own name")
        } else if name.len() > Self::MAX_LEN {
            Err("it is longer than 249 characters")
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            Err("it has a character other than a-z, A-Z, 0-9, '.', '_' and '-'")
        } else {
            Ok(TopicName(Arc::from(name)))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// So that a table by name is asked with a `&str`.
impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for TopicName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for TopicName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A partition of a topic, by the topic's name and the partition's number.
///
/// It sorts by topic, then by number, and is written `topic/partition`.
///
/// ```
/// # use quipu::{TopicName, TopicPartition};
/// let second = TopicPartition::new(TopicName::new("orders").unwrap(), 1);
/// assert_eq!(second.to_string(), "orders/1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition's number in the topic.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: TopicName, partition: impl Into<PartitionId>) -> Self {
        TopicPartition { topic, partition: partition.into() }
    }
}

impl From<(TopicName, PartitionId)> for TopicPartition {
    fn from((topic, partition): (TopicName, PartitionId)) -> Self {
        TopicPartition { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The name of a consumer group: 1 to 249 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 249;

    /// Validates a name.
    ///
    /// # Errors
    /// The rule that the name breaks, as a sentence.
    pub fn new(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() {
            Err("it is empty")
        } else if name.len() > Self::MAX_LEN {
            Err("it is longer than 249 bytes")
        } else if name.chars().any(char::is_control) {
            Err("it has a control character")
        } else {
            Ok(GroupId(Arc::from(name)))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for GroupId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for GroupId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for GroupId {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The random identity a topic gets when it is created: a topic that is deleted and created again
/// under the same name is another topic (KIP-516).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub(crate) [u8; 16]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
                partition: PartitionId(partition.parse().ok()?),
                offset: Offset(offset.parse().ok()?),
                epoch: epoch.parse().ok()?,
            })
        };
        parts().ok_or(ParsePositionError)
    }
}

/// Where a record was stored. Later releases may add fields, for example the number of copies.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// At the oldest record that is still there (the log start).
    Beginning,
    /// After the newest visible record: only records that come later.
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
    fn positions_print_and_parse() {
        let position = Position {
            topic: TopicName::new("a.b_c-1").unwrap(),
            partition: PartitionId(7),
            offset: Offset(u64::MAX - 1),
            epoch: 9,
        };
        assert_eq!(position.to_string().parse::<Position>(), Ok(position.clone()));
        assert_eq!(position.next().offset, Offset(u64::MAX));
        for bad in ["", "a", "a/1", "a/1@2", "a/x@2#3", "a/1@x#3", "a/1@2#x", "é/1@2#3", "/1@2#3", "a/-1@2#3"]
        {
            assert_eq!(bad.parse::<Position>(), Err(ParsePositionError), "{bad}");
        }
    }

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["a", "A.b_c-9", &"x".repeat(249), "...", "__internal"] {
            assert!(TopicName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", &"x".repeat(250), "a b", "a/b", "ä", "a\0", "a\\b", "a:b"] {
            assert!(TopicName::new(bad).is_err(), "{bad}");
        }
    }
}
