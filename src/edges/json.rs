//! Values of records as JSON.

use std::error::Error as StdError;

use serde::de::{Deserialize, DeserializeOwned};
use serde::ser::Serialize;

use super::codec::Codec;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::records::{ConsumedRecord, OwnedRecord};

/// The [`Codec`] of JSON, by `serde_json`.
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn StdError + Send + Sync>> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl Record<'static> {
    /// A record whose value is this value as JSON, without a key.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode): for example a map whose keys are no text.
    ///
    /// ```
    /// # use quipu::Record;
    /// let record = Record::json(&["42 EUR"])?.key("customer-7");
    /// assert_eq!(record.value_bytes(), Some(&br#"["42 EUR"]"#[..]));
    /// # Ok::<(), quipu::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        serde_json::to_vec(value).map(Record::new).map_err(|error| Error::encode(error.into()))
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl<'a> ConsumedRecord<'a> {
    /// The value, read as JSON; it may borrow from the record. A null value is read as JSON's
    /// `null`: for an `Option` that is `None`.
    ///
    /// # Errors
    /// [`Decode`](Error::Decode), with the record's position.
    ///
    /// ```
    /// # use quipu::{Broker, Error, Record, Start, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # let topic = broker.create_topic("prices", TopicConfig::new())?;
    /// # let producer = broker.producer();
    /// producer.send(&topic, Record::json(&[1, 2])?)?.wait()?;
    /// producer.send(&topic, Record::new("no JSON"))?.wait()?;
    /// let records = topic.partition(0)?.read(Start::Beginning, 1 << 20)?;
    /// let read: Vec<Result<[u32; 2], Error>> = records.iter().map(|record| record.json()).collect();
    /// assert!(matches!(&read[0], Ok([1, 2])));
    /// assert!(matches!(&read[1], Err(Error::Decode { position, .. }) if position.offset == 1));
    /// # Ok(()) }
    /// ```
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T> {
        serde_json::from_slice(self.value().unwrap_or(b"null"))
            .map_err(|error| Error::decode(self.position(), error.into()))
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl OwnedRecord {
    /// See [`ConsumedRecord::json`].
    ///
    /// # Errors
    /// [`Decode`](Error::Decode).
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        self.as_record().json()
    }
}
