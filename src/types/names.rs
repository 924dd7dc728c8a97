//! The names of topics, partitions and groups.

use std::fmt;
use std::sync::Arc;

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

/// The number of a partition within its topic, from 0 to
/// [`partition_count`](crate::Topic::partition_count) - 1. A call that takes one takes the number
/// too.
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

impl From<PartitionId> for u32 {
    fn from(id: PartitionId) -> Self {
        id.0
    }
}

impl PartialEq<u32> for PartitionId {
    fn eq(&self, other: &u32) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

/// One name or several: of topics, or of groups.
///
/// For example `"orders"`, `["orders", "payments"]`, a `&[&str]`, or a `Vec<String>` from a
/// configuration, each borrowed or owned.
///
/// ```
/// # use quipu::{Broker, Start, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let orders = broker.create_topic("orders", TopicConfig::new())?;
/// let configured = vec![String::from("orders")];
/// let readers = [
///     broker.reader("orders", Start::Beginning)?,
///     broker.reader(["orders"], Start::Beginning)?,
///     broker.reader(&configured, Start::Beginning)?,
///     broker.reader(orders.name(), Start::Beginning)?,
/// ];
/// # assert!(readers.iter().all(|reader| reader.positions().len() == 1));
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a name, and not a list of names",
    label = "expected names: for example `\"a\"`, `[\"a\", \"b\"]`, `&names[..]` or a `Vec<String>`",
    note = "an iterator: collect it first, `names.collect::<Vec<_>>()`",
    note = "a topic: write `topic.name()`"
)]
pub trait Names {
    /// The names, in their order.
    fn into_names(self) -> Vec<String>;
}

fn one(name: &str) -> Vec<String> {
    vec![name.to_string()]
}

fn all<S: AsRef<str>>(names: &[S]) -> Vec<String> {
    names.iter().map(|name| name.as_ref().to_string()).collect()
}

impl Names for &str {
    fn into_names(self) -> Vec<String> {
        one(self)
    }
}

impl Names for &&str {
    fn into_names(self) -> Vec<String> {
        one(self)
    }
}

impl Names for String {
    fn into_names(self) -> Vec<String> {
        vec![self]
    }
}

impl Names for &String {
    fn into_names(self) -> Vec<String> {
        one(self)
    }
}

impl Names for TopicName {
    fn into_names(self) -> Vec<String> {
        one(self.as_str())
    }
}

impl Names for &TopicName {
    fn into_names(self) -> Vec<String> {
        one(self.as_str())
    }
}

impl Names for GroupId {
    fn into_names(self) -> Vec<String> {
        one(self.as_str())
    }
}

impl Names for &GroupId {
    fn into_names(self) -> Vec<String> {
        one(self.as_str())
    }
}

impl<S: AsRef<str>> Names for &[S] {
    fn into_names(self) -> Vec<String> {
        all(self)
    }
}

impl<S: AsRef<str>, const N: usize> Names for [S; N] {
    fn into_names(self) -> Vec<String> {
        all(&self)
    }
}

impl<S: AsRef<str>, const N: usize> Names for &[S; N] {
    fn into_names(self) -> Vec<String> {
        all(self)
    }
}

impl<S: AsRef<str>> Names for Vec<S> {
    fn into_names(self) -> Vec<String> {
        all(&self)
    }
}

impl<S: AsRef<str>> Names for &Vec<S> {
    fn into_names(self) -> Vec<String> {
        all(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["a", "A.b_c-9", &"x".repeat(249), "...", "__internal"] {
            assert!(TopicName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", &"x".repeat(250), "a b", "a/b", "ä", "a\0", "a\\b", "a:b"] {
            assert!(TopicName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_one_or_several_borrowed_or_owned() {
        let (topic, group) = (TopicName::new("a").unwrap(), GroupId::new("a").unwrap());
        let (string, strings) = (String::from("a"), vec![String::from("a"), String::from("b")]);
        let one = [
            "a".into_names(),
            (&"a").into_names(),
            (&string).into_names(),
            string.clone().into_names(),
            (&topic).into_names(),
            topic.clone().into_names(),
            (&group).into_names(),
            group.into_names(),
            [topic].into_names(),
        ];
        assert!(one.iter().all(|names| names == &["a"]));
        let two = [
            ["a", "b"].into_names(),
            (&["a", "b"]).into_names(),
            ["a", "b"].as_slice().into_names(),
            vec!["a", "b"].into_names(),
            (&strings).into_names(),
            (&strings[..]).into_names(),
            strings.clone().into_names(),
        ];
        assert!(two.iter().all(|names| names == &["a", "b"]));
        assert!((&[] as &[&str]).into_names().is_empty());
    }
}
