//! A record that was read: borrowed from its batch, or owned and sharing it.

use std::fmt;

use crate::engine::Identity;
use crate::event;
use crate::format::body::{self, RawHeaders, RawRecord};
use crate::group::state::Stamp;
use crate::record::Record;
use crate::segment::batch::Batch;
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, Position, Timestamp, TopicName};

/// A record as a reader gets it: slices of the batch it lies in. Cheap to copy.
///
/// To keep it beyond its [`Records`](crate::Records), or to give it to another thread, take
/// [`into_owned`](ConsumedRecord::into_owned).
///
/// ```
/// # use quipu::{Broker, Record, Start, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # let topic = broker.create_topic("orders", TopicConfig::new())?;
/// broker.producer().send(&topic, Record::new("42 EUR").key("customer-7").header("trace", "ab"))?.wait()?;
/// let records = topic.partition(0)?.read(Start::Beginning, 1 << 20)?;
/// let record = records.iter().next().unwrap();
/// assert_eq!(record.key(), Some(&b"customer-7"[..]));
/// assert_eq!(record.value_str(), Some("42 EUR"));
/// assert_eq!(record.header("trace"), Some(Some(&b"ab"[..])));
/// assert_eq!(record.position().to_string(), "orders/0@0#0");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct ConsumedRecord<'a> {
    raw: RawRecord<'a>,
    origin: Origin<'a>,
    /// The stamp of the poll.
    stamp: Stamp,
}

/// Where the slices of a record come from, which also has the values that all records of a batch
/// share.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// A batch, and the record's position in its body.
    Batch(&'a Arc<Batch>, usize),
    Copy(&'a Arc<Detached>),
}

impl<'a> ConsumedRecord<'a> {
    #[inline]
    pub(super) fn in_batch(batch: &'a Arc<Batch>, position: usize, raw: RawRecord<'a>, stamp: Stamp) -> Self {
        ConsumedRecord { raw, origin: Origin::Batch(batch, position), stamp }
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The key; `None` is null, which is not the same as empty.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.raw.key
    }

    /// The value; `None` is null. A null value with a key is a
    /// [tombstone](ConsumedRecord::is_tombstone).
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.raw.value
    }

    /// The key as text; `None` if it is null, or is not UTF-8: [`key`](ConsumedRecord::key) tells
    /// the two apart.
    pub fn key_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.key()?).ok()
    }

    /// The value as text; `None` if it is null, or is not UTF-8:
    /// [`value`](ConsumedRecord::value) tells the two apart.
    pub fn value_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value()?).ok()
    }

    /// Whether it has a key and no value.
    pub fn is_tombstone(&self) -> bool {
        self.raw.key.is_some() && self.raw.value.is_none()
    }

    /// Names and values of the headers, in the order in which they were sent. Names may repeat; a
    /// value may be null.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.raw.headers.iter()
    }

    /// The value of the last header of this name (Kafka's `lastHeader`): `None` if there is no such
    /// header, `Some(None)` if its value is null.
    pub fn header(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.headers().filter(|(other, _)| *other == name).last().map(|(_, value)| value)
    }

    /// The event's id, if it was given [one](Record::event_id).
    pub fn event_id(&self) -> Option<&'a [u8]> {
        self.header(event::ID).flatten()
    }

    /// The event's type, if it was given [one](Record::event_type) and it is text.
    pub fn event_type(&self) -> Option<&'a str> {
        std::str::from_utf8(self.header(event::TYPE).flatten()?).ok()
    }

    /// The version of the schema of its value, if it was given [one](Record::schema_version) and it
    /// is a number.
    pub fn schema_version(&self) -> Option<u32> {
        std::str::from_utf8(self.header(event::SCHEMA_VERSION).flatten()?).ok()?.parse().ok()
    }

    /// Its place in the partition.
    #[inline]
    pub fn offset(&self) -> Offset {
        match self.origin {
            Origin::Batch(batch, _) => batch.header.base_offset.plus(u64::from(self.raw.offset_delta)),
            Origin::Copy(copy) => copy.offset,
        }
    }

    /// The time it was given when it was sent, or that of its append if the batch is marked so.
    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        match self.origin {
            Origin::Batch(batch, _) => batch.header.timestamp(self.raw.timestamp_delta),
            Origin::Copy(copy) => copy.timestamp,
        }
    }

    /// The topic's name.
    pub fn topic(&self) -> &'a TopicName {
        &self.source().topic
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.source().partition
    }

    /// Its position, for example to store it. To continue after the record, use
    /// [`next`](Position::next).
    pub fn position(&self) -> Position {
        let epoch = match self.origin {
            Origin::Batch(batch, _) => batch.header.log_epoch,
            Origin::Copy(copy) => copy.epoch,
        };
        Position { topic: self.topic().clone(), partition: self.partition(), offset: self.offset(), epoch }
    }

    /// The same record, to keep: it shares the buffer of its whole batch and keeps it alive.
    pub fn into_owned(self) -> OwnedRecord {
        OwnedRecord(match self.origin {
            Origin::Batch(batch, position) => Owned::Shared {
                batch: batch.clone(),
                position,
                offset_delta: self.raw.offset_delta,
                stamp: self.stamp,
            },
            Origin::Copy(copy) => Owned::Detached(copy.clone()),
        })
    }

    /// The log that it was read from.
    pub(crate) fn source(&self) -> &'a Arc<Identity> {
        match self.origin {
            Origin::Batch(batch, _) => &batch.source,
            Origin::Copy(copy) => &copy.source,
        }
    }
}

impl fmt::Debug for ConsumedRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumedRecord")
            .field("position", &format_args!("{}", self.position()))
            .field("timestamp", &self.timestamp().as_millis())
            .field("key", &Short(self.key()))
            .field("value", &Short(self.value()))
            .field("headers", &self.raw.headers.len())
            .finish()
    }
}

/// Key, value and headers, to send on. Not the timestamp: the new record has its own time, unless
/// it is [set](Record::timestamp). Headers can be [replaced](Record::replace_header) and
/// [removed](Record::remove_header).
impl<'a> From<&ConsumedRecord<'a>> for Record<'a> {
    fn from(record: &ConsumedRecord<'a>) -> Self {
        let start = Record::new(record.value()).key(record.key());
        record.headers().fold(start, |sent, (name, value)| sent.header(name, value))
    }
}

/// As from a borrowed one.
impl<'a> From<&'a OwnedRecord> for Record<'a> {
    fn from(record: &'a OwnedRecord) -> Self {
        Record::from(record.as_record())
    }
}

impl<'a> From<ConsumedRecord<'a>> for Record<'a> {
    fn from(record: ConsumedRecord<'a>) -> Self {
        Record::from(&record)
    }
}

/// A record to keep: it shares the buffer of the batch it was read from. Cheap to clone.
///
/// Buffers hold whole batches, and a map a whole segment. To keep a few records of many for long,
/// [detach](OwnedRecord::detach) them.
#[derive(Clone)]
pub struct OwnedRecord(Owned);

#[derive(Clone)]
enum Owned {
    Shared { batch: Arc<Batch>, position: usize, offset_delta: u32, stamp: Stamp },
    Detached(Arc<Detached>),
}

/// The bytes of one record, with the values of its batch.
struct Detached {
    source: Arc<Identity>,
    epoch: u32,
    offset: Offset,
    timestamp: Timestamp,
    offset_delta: u32,
    stamp: Stamp,
    bytes: Box<[u8]>,
}

impl OwnedRecord {
    /// The same record, borrowed. Each call decodes it, so keep the result for several uses.
    pub fn as_record(&self) -> ConsumedRecord<'_> {
        match &self.0 {
            Owned::Shared { batch, position, offset_delta, stamp } => {
                let (raw, _) = decode(batch.records.as_slice(), *position, *offset_delta);
                ConsumedRecord::in_batch(batch, *position, raw, *stamp)
            }
            Owned::Detached(copy) => {
                let (raw, _) = decode(&copy.bytes, 0, copy.offset_delta);
                ConsumedRecord { raw, origin: Origin::Copy(copy), stamp: copy.stamp }
            }
        }
    }

    /// Copies the record's bytes, so that its batch is not kept alive any more.
    #[must_use]
    pub fn detach(self) -> OwnedRecord {
        let Owned::Shared { batch, position, offset_delta, stamp } = &self.0 else { return self };
        let record = self.as_record();
        let body = batch.records.as_slice();
        let (_, end) = decode(body, *position, *offset_delta);
        OwnedRecord(Owned::Detached(Arc::new(Detached {
            source: batch.source.clone(),
            epoch: batch.header.log_epoch,
            offset: record.offset(),
            timestamp: record.timestamp(),
            offset_delta: *offset_delta,
            stamp: *stamp,
            // Empty only where `decode` met bytes that have changed.
            bytes: body.get(*position..end).unwrap_or_default().into(),
        })))
    }

    /// See [`ConsumedRecord::key`].
    pub fn key(&self) -> Option<&[u8]> {
        self.as_record().key()
    }

    /// See [`ConsumedRecord::value`].
    pub fn value(&self) -> Option<&[u8]> {
        self.as_record().value()
    }

    /// See [`ConsumedRecord::key_str`].
    pub fn key_str(&self) -> Option<&str> {
        self.as_record().key_str()
    }

    /// See [`ConsumedRecord::value_str`].
    pub fn value_str(&self) -> Option<&str> {
        self.as_record().value_str()
    }

    /// See [`ConsumedRecord::is_tombstone`].
    pub fn is_tombstone(&self) -> bool {
        self.as_record().is_tombstone()
    }

    /// See [`ConsumedRecord::headers`].
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.as_record().headers()
    }

    /// See [`ConsumedRecord::header`].
    pub fn header(&self, name: &str) -> Option<Option<&[u8]>> {
        self.as_record().header(name)
    }

    /// See [`ConsumedRecord::event_id`].
    pub fn event_id(&self) -> Option<&[u8]> {
        self.as_record().event_id()
    }

    /// See [`ConsumedRecord::event_type`].
    pub fn event_type(&self) -> Option<&str> {
        self.as_record().event_type()
    }

    /// See [`ConsumedRecord::schema_version`].
    pub fn schema_version(&self) -> Option<u32> {
        self.as_record().schema_version()
    }

    /// See [`ConsumedRecord::offset`].
    pub fn offset(&self) -> Offset {
        self.as_record().offset()
    }

    /// See [`ConsumedRecord::timestamp`].
    pub fn timestamp(&self) -> Timestamp {
        self.as_record().timestamp()
    }

    /// See [`ConsumedRecord::topic`].
    pub fn topic(&self) -> &TopicName {
        self.as_record().topic()
    }

    /// See [`ConsumedRecord::partition`].
    pub fn partition(&self) -> PartitionId {
        self.as_record().partition()
    }

    /// See [`ConsumedRecord::position`].
    pub fn position(&self) -> Position {
        self.as_record().position()
    }
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_record().fmt(f)
    }
}

/// The record at a position of a body that it was read from before, and the position after it.
fn decode(body: &[u8], position: usize, offset_delta: u32) -> (RawRecord<'_>, usize) {
    // An iterator that expects this delta next accepts the record whether or not it states its
    // delta.
    let mut records = body::RawRecords::resume(body, position, 1, offset_delta);
    let raw = records.next().and_then(Result::ok).unwrap_or(RawRecord {
        // Only if another process changed a mapped file after it was validated.
        offset_delta,
        timestamp_delta: 0,
        key: None,
        value: None,
        headers: RawHeaders::default(),
    });
    (raw, records.position())
}

/// Bytes for people: escaped, and no more of them than help.
struct Short<'a>(Option<&'a [u8]>);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        match self.0 {
            None => f.write_str("null"),
            Some(bytes) => match bytes.get(..SHOWN).filter(|_| bytes.len() > SHOWN) {
                None => write!(f, "\"{}\"", bytes.escape_ascii()),
                Some(start) => write!(f, "\"{}\"... ({} bytes)", start.escape_ascii(), bytes.len()),
            },
        }
    }
}
