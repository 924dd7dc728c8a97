//! A topic whose values have one type.

use std::fmt;
use std::marker::PhantomData;

use super::codec::Codec;
use super::json::Json;
use crate::error::{Error, Result};
use crate::producer::{Pending, Producer};
use crate::record::{IntoBytes, Record};
use crate::records::{ConsumedRecord, Records};
use crate::topic::Topic;

/// A view of a topic: its values have the type `T`, in the encoding `C`. Producers, consumers and
/// readers stay what they are. Made by [`Topic::typed`].
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use quipu::{Broker, TopicConfig};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct Order { item: String, cents: u64 }
///
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// let orders = broker.create_topic("orders", TopicConfig::new())?.typed::<Order>();
/// let order = Order { item: "tea".into(), cents: 420 };
/// orders.send(&broker.producer(), "customer-7", &order)?.wait()?;
///
/// let mut consumer = broker.consumer("billing").subscribe("orders")?;
/// let records = consumer.poll(std::time::Duration::from_secs(1))?;
/// for (record, read) in orders.values(&records) {
///     match read {
///         Ok(Some(read)) => assert_eq!(read, order),
///         Ok(None) => println!("{:?} was deleted", record.key_str()),
///         Err(bad) => println!("left out: {bad}"), // with the position; the next ones follow
///     }
/// }
/// consumer.commit(&records)?;
/// # Ok(()) }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
pub struct Typed<T, C = Json> {
    topic: Topic,
    codec: C,
    values: PhantomData<fn(T) -> T>,
}

#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl Topic {
    /// This topic with values of the type `T`, as JSON.
    pub fn typed<T>(&self) -> Typed<T> {
        self.typed_with(Json)
    }

    /// This topic with values of the type `T` in another encoding.
    pub fn typed_with<T, C>(&self, codec: C) -> Typed<T, C> {
        Typed { topic: self.clone(), codec, values: PhantomData }
    }
}

impl<T, C: Codec<T>> Typed<T, C> {
    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// A record with this value, and no key yet: to add headers or a timestamp, or to send it in a
    /// transaction.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode).
    pub fn record(&self, value: &T) -> Result<Record<'static>> {
        self.codec.encode(value).map(Record::new).map_err(Error::encode)
    }

    /// Sends a value with this key; `None` is no key.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode), and those of [`Producer::send`].
    pub fn send<'k>(&self, producer: &Producer, key: impl IntoBytes<'k>, value: &T) -> Result<Pending> {
        let record: Record<'k> = self.record(value)?;
        producer.send(&self.topic, record.key(key))
    }

    /// The value of a record; `None` if it is null.
    ///
    /// # Errors
    /// [`Decode`](Error::Decode), with the record's position.
    pub fn value(&self, record: &ConsumedRecord<'_>) -> Result<Option<T>> {
        let decode = |bytes| self.codec.decode(bytes);
        record.value().map(decode).transpose().map_err(|error| Error::decode(record.position(), error))
    }

    /// The records of this topic with their values, each as [`value`](Typed::value) returns it: an
    /// error does not end the iteration. Records of other topics are left out.
    pub fn values<'r>(
        &self,
        records: &'r Records,
    ) -> impl Iterator<Item = (ConsumedRecord<'r>, Result<Option<T>>)> + use<'r, '_, T, C> {
        let ours = |record: &ConsumedRecord<'_>| record.topic() == self.topic.name();
        records.iter().filter(ours).map(|record| (record, self.value(&record)))
    }
}

impl<T, C: Clone> Clone for Typed<T, C> {
    fn clone(&self) -> Self {
        Typed { topic: self.topic.clone(), codec: self.codec.clone(), values: PhantomData }
    }
}

impl<T, C> fmt::Debug for Typed<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = std::any::type_name::<T>();
        f.debug_struct("Typed").field("topic", self.topic.name()).field("values", &values).finish()
    }
}
