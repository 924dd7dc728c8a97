//! A record to send: key, value, headers and a timestamp, borrowed from the caller until they are
//! encoded.

mod bytes;

use std::borrow::Cow;

pub use self::bytes::IntoBytes;
use crate::error::{Error, Result};
use crate::event;
use crate::types::{Timestamp, TopicName};

/// A record to send.
///
/// Key and value are bytes, and each may be *null*, which is not the same as empty. A record with a
/// key and a null value is a [`tombstone`](Record::tombstone): compaction takes it as the deletion
/// of the key.
///
/// Borrowed bytes are copied only when the record is encoded, so a record made of slices allocates
/// nothing (a record with headers allocates their list).
///
/// ```
/// use quipu::{Record, Timestamp};
///
/// let payment = Record::new("42 EUR")
///     .key("customer-7")
///     .header("trace", b"\x01\x02")
///     .timestamp(Timestamp::from_millis(1_700_000_000_000));
/// assert_eq!(payment.key_bytes(), Some(&b"customer-7"[..]));
///
/// // Owned bytes are taken over, not copied.
/// let owned = Record::new(vec![1, 2, 3]).key(format!("customer-{}", 7));
/// assert_eq!(owned.value_bytes(), Some(&[1, 2, 3][..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    key: Option<Cow<'a, [u8]>>,
    value: Option<Cow<'a, [u8]>>,
    headers: Vec<Header<'a>>,
    timestamp: Option<Timestamp>,
    sequence: Option<u64>,
}

impl<'a> Record<'a> {
    /// A record with this value and no key: the producer chooses its partition. A value of `None`
    /// is null.
    #[must_use]
    #[inline]
    pub fn new(value: impl IntoBytes<'a>) -> Self {
        Record { value: value.into_bytes(), ..Record::default() }
    }

    /// A record whose value is null: it deletes this key where the topic is compacted.
    ///
    /// ```
    /// let gone = quipu::Record::tombstone("customer-7");
    /// assert!(gone.is_tombstone());
    /// ```
    #[must_use]
    pub fn tombstone(key: impl IntoBytes<'a>) -> Self {
        Record { key: key.into_bytes(), ..Record::default() }
    }

    /// A record whose key and value are null: for example because its headers are enough.
    ///
    /// ```
    /// let mark = quipu::Record::null().header("kind", "end of day");
    /// assert_eq!((mark.key_bytes(), mark.value_bytes()), (None, None));
    /// ```
    #[must_use]
    pub fn null() -> Self {
        Record::default()
    }

    /// Sets the key. Records with the same key go to the same partition and keep their order; an
    /// empty key is a key, and `None` is null.
    ///
    /// Default: null.
    #[must_use]
    #[inline]
    pub fn key(mut self, key: impl IntoBytes<'a>) -> Self {
        self.key = key.into_bytes();
        self
    }

    /// Adds a header. Headers keep their order, and a name may come more than once. A value of
    /// `None` is null.
    ///
    /// Default: none.
    ///
    /// ```
    /// let record = quipu::Record::new("v").header("a", "1").header("a", "2").null_header("b");
    /// let names: Vec<_> = record.headers().iter().map(|h| (h.name(), h.value())).collect();
    /// assert_eq!(names, [("a", Some(&b"1"[..])), ("a", Some(&b"2"[..])), ("b", None)]);
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'a, str>>, value: impl IntoBytes<'a>) -> Self {
        self.headers.push(Header { name: name.into(), value: value.into_bytes() });
        self
    }

    /// Removes all headers of this name, and adds one: for example to count the attempts of a record
    /// that is forwarded.
    ///
    /// ```
    /// # use quipu::Record;
    /// let received = Record::new("v").header("attempt", "1").header("from", "a");
    /// let retried = received.replace_header("attempt", "2").remove_header("from");
    /// assert_eq!(retried, Record::new("v").header("attempt", "2"));
    /// ```
    #[must_use]
    pub fn replace_header(self, name: impl Into<Cow<'a, str>>, value: impl IntoBytes<'a>) -> Self {
        let name = name.into();
        self.remove_header(&name).header(name, value)
    }

    /// Removes all headers of this name, if there are any.
    #[must_use]
    pub fn remove_header(mut self, name: &str) -> Self {
        self.headers.retain(|header| header.name != name);
        self
    }

    /// Adds a header whose value is null.
    #[must_use]
    pub fn null_header(mut self, name: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push(Header { name: name.into(), value: None });
        self
    }

    /// Adds the header [`event::ID`]: it must differ from those of all other events of the stream.
    /// With it an append whose outcome is unknown can be [repeated](crate::Stream::append).
    ///
    /// ```
    /// let event = quipu::Record::new("{}").event_id("5f0c").event_type("account.opened").schema_version(2);
    /// let names: Vec<_> = event.headers().iter().map(|header| header.name()).collect();
    /// assert_eq!(names, ["ce_id", "ce_type", "ce_schemaversion"]);
    /// ```
    #[must_use]
    pub fn event_id(self, id: impl IntoBytes<'a>) -> Self {
        self.header(event::ID, id)
    }

    /// Adds the header [`event::TYPE`]: the kind of event.
    #[must_use]
    pub fn event_type(self, name: impl Into<Cow<'a, str>>) -> Self {
        self.header(event::TYPE, name.into())
    }

    /// Adds the header [`event::SCHEMA_VERSION`]: which version of its type's schema the value has.
    #[must_use]
    pub fn schema_version(self, version: u32) -> Self {
        self.header(event::SCHEMA_VERSION, version.to_string())
    }

    /// Sets the record's time, which must lie between 0 and 2^62 milliseconds and within the
    /// topic's [bounds](crate::TopicConfig::timestamp_bounds), by default at most an hour ahead;
    /// sending checks it. With [`TimestampType::Append`](crate::TimestampType::Append) it does not
    /// count.
    ///
    /// Default: the time of sending.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// The key; `None` is null.
    pub fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value; `None` is null.
    pub fn value_bytes(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The headers, in the order in which they were added.
    pub fn headers(&self) -> &[Header<'a>] {
        &self.headers
    }

    /// Sets a sequence, for example the row id of an outbox table or the position in a source. Only
    /// a producer with a [name](crate::ProducerConfig::name) takes records with sequences: a record
    /// that it has sent to the partition before is not appended again. Sequences must rise within a
    /// partition; gaps do not matter. A record that comes too late is
    /// [refused](crate::Error::OutOfOrderSequence), for example a row that was committed after
    /// others with greater ids. A [`Transaction`](crate::Transaction),
    /// [`Partition::append_at`](crate::Partition::append_at) and
    /// [`Stream::append`](crate::Stream::append) refuse records with sequences.
    #[must_use]
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// The sequence that was given, if any was.
    #[inline]
    pub fn given_sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The time that was set, if any was.
    pub fn given_timestamp(&self) -> Option<Timestamp> {
        self.timestamp
    }

    /// Returns the record's own time if it is valid, or `now` if it has none. `bounds` returns the
    /// valid times, or `None` where given times are ignored; `index` is the record's index in the
    /// call.
    #[inline]
    pub(crate) fn timestamp_within(
        &self,
        topic: &TopicName,
        now: Timestamp,
        index: usize,
        bounds: impl FnOnce() -> Option<(Timestamp, Timestamp)>,
    ) -> Result<Timestamp> {
        let given = self.timestamp.and_then(|given| Some((given, bounds()?)));
        let (timestamp, (earliest, latest)) = given.unwrap_or((now, (Timestamp::default(), Timestamp::MAX)));
        if earliest <= timestamp && timestamp <= latest {
            Ok(timestamp)
        } else {
            Err(Error::InvalidTimestamp { topic: topic.clone(), timestamp, index, earliest, latest })
        }
    }

    /// Whether it has a key and no value.
    pub fn is_tombstone(&self) -> bool {
        self.key.is_some() && self.value.is_none()
    }

    /// The same record, borrowing nothing: to keep it, or to take it to another thread.
    pub fn into_owned(self) -> Record<'static> {
        Record {
            key: self.key.map(owned),
            value: self.value.map(owned),
            headers: self.headers.into_iter().map(Header::into_owned).collect(),
            timestamp: self.timestamp,
            sequence: self.sequence,
        }
    }
}

impl<'a> From<&'a str> for Record<'a> {
    fn from(value: &'a str) -> Self {
        Record::new(value)
    }
}

impl<'a> From<&'a [u8]> for Record<'a> {
    fn from(value: &'a [u8]) -> Self {
        Record::new(value)
    }
}

impl From<String> for Record<'_> {
    fn from(value: String) -> Self {
        Record::new(value)
    }
}

impl From<Vec<u8>> for Record<'_> {
    fn from(value: Vec<u8>) -> Self {
        Record::new(value)
    }
}

/// One record, for a call that takes several: for example
/// [`Stream::append`](crate::Stream::append).
impl<'a> IntoIterator for Record<'a> {
    type Item = Record<'a>;
    type IntoIter = std::iter::Once<Record<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self)
    }
}

/// One header of a [`Record`]: a name, and a value that may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    name: Cow<'a, str>,
    value: Option<Cow<'a, [u8]>>,
}

impl Header<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value; `None` is null.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn into_owned(self) -> Header<'static> {
        Header { name: Cow::Owned(self.name.into_owned()), value: self.value.map(owned) }
    }
}

fn owned(bytes: Cow<'_, [u8]>) -> Cow<'static, [u8]> {
    Cow::Owned(bytes.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrowed_bytes_stay_borrowed_and_owned_ones_are_taken_over() {
        let text = String::from("text");
        let bytes = vec![1u8, 2];
        let vec = vec![7u8; 100];
        let address = vec.as_ptr();
        let borrowed = [
            Record::new(&text),
            Record::new(text.as_str()),
            Record::new(&bytes),
            Record::new(&bytes[..]),
            Record::new(b"abc"),
            Record::new(Cow::Borrowed("x")),
        ];
        assert!(borrowed.iter().all(|r| matches!(r.value, Some(Cow::Borrowed(_)))));
        assert_eq!(Record::new(vec).value_bytes().unwrap().as_ptr(), address);
        assert_eq!(Record::new(text.clone()), Record::new(text.as_bytes()));
        assert_eq!(Record::new([1, 2]), Record::new(&bytes));
        assert_eq!(Record::new(Cow::<str>::Owned("x".into())), Record::from("x"));
        assert_eq!(Record::new(Cow::<[u8]>::Borrowed(b"x")), Record::from(&b"x"[..]));
        assert_eq!(Record::from(text.clone()), Record::from(text.into_bytes()));
    }

    #[test]
    fn headers_are_replaced_and_removed_by_name() {
        let received = Record::new("v").header("a", "1").header("b", "2").header("a", "3");
        let expected = Record::new("v").header("b", "2").header("a", "4");
        assert_eq!(received.clone().replace_header("a", "4"), expected);
        assert_eq!(received.clone().replace_header("c", "5"), received.clone().header("c", "5"));
        assert_eq!(received.clone().remove_header("a"), Record::new("v").header("b", "2"));
        assert_eq!(received.clone().remove_header("none"), received);
    }

    #[test]
    fn null_and_empty_differ() {
        assert_eq!(Record::null().value_bytes(), None);
        assert_eq!(Record::new("").value_bytes(), Some(&b""[..]));
        assert_eq!(Record::new("").key_bytes(), None);
        assert_eq!(Record::new("").key("").key_bytes(), Some(&b""[..]));
        assert!(Record::tombstone("").is_tombstone());
        assert!(!Record::null().is_tombstone() && !Record::new("").key("k").is_tombstone());
        assert_eq!(Record::new(None::<&str>).key(Some("k")), Record::tombstone("k"));
        assert_eq!(Record::new(Some(vec![1])).key(None::<String>), Record::new([1]));
        assert_eq!(Record::null().header("a", None::<&[u8]>), Record::null().null_header("a"));
    }

    #[test]
    fn an_owned_record_is_equal_and_outlives_its_parts() {
        let owned: Record<'static> = {
            let (key, name, value) = (String::from("k"), String::from("h"), vec![1]);
            let record = Record::new(&value).key(&key).header(&name, &value).null_header("n");
            let record = record.timestamp(Timestamp::from_millis(5));
            assert_eq!(record.clone().into_owned(), record);
            record.into_owned()
        };
        assert_eq!(owned.headers().len(), 2);
        assert_eq!(owned.headers()[0].value(), Some(&[1][..]));
        assert_eq!(owned.given_timestamp(), Some(Timestamp::from_millis(5)));
    }
}
