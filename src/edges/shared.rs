//! Keys and values of records as `Bytes`, without a copy.

use bytes::Bytes;

use crate::records::OwnedRecord;

#[cfg_attr(docsrs, doc(cfg(feature = "bytes")))]
impl OwnedRecord {
    /// The key as `Bytes`, without a copy; `None` is null. It shares the record's buffer and keeps
    /// it alive, as the record does: [detach](OwnedRecord::detach) the record first to keep a few of
    /// many for long.
    pub fn shared_key(&self) -> Option<Bytes> {
        self.key()?;
        Some(Bytes::from_owner(KeyOf(self.clone())))
    }

    /// The value as `Bytes`, without a copy; `None` is null. See
    /// [`shared_key`](OwnedRecord::shared_key).
    ///
    /// ```
    /// # use quipu::{Broker, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let topic = broker.create_topic("t", TopicConfig::new())?;
    /// broker.producer().send(&topic, Record::new(bytes::Bytes::from_static(b"42 EUR")))?.wait()?;
    /// let records = topic.partition(0)?.read(Start::Beginning, 1 << 20)?;
    /// let record = records.iter().next().unwrap().into_owned();
    /// assert_eq!(record.shared_value().unwrap(), "42 EUR");
    /// # Ok(()) }
    /// ```
    pub fn shared_value(&self) -> Option<Bytes> {
        self.value()?;
        Some(Bytes::from_owner(ValueOf(self.clone())))
    }
}

struct KeyOf(OwnedRecord);

impl AsRef<[u8]> for KeyOf {
    fn as_ref(&self) -> &[u8] {
        self.0.key().unwrap_or_default()
    }
}

struct ValueOf(OwnedRecord);

impl AsRef<[u8]> for ValueOf {
    fn as_ref(&self) -> &[u8] {
        self.0.value().unwrap_or_default()
    }
}
