//! The settings of a producer.

use std::fmt;
use std::time::Duration;

use crate::config::{invalid, too_small};
use crate::error::{Error, Result};
use crate::partitioner::Partitioner;
use crate::sync::Arc;

/// The settings of a producer. The defaults suit most programs; see
/// [`Broker::producer_with`](crate::Broker::producer_with).
///
/// ```
/// use std::time::Duration;
/// use quipu::ProducerConfig;
///
/// let config = ProducerConfig::new().batch_bytes(256 << 10).linger(Duration::from_millis(20));
/// ```
#[derive(Clone)]
#[must_use]
pub struct ProducerConfig {
    pub(super) batch_bytes: usize,
    pub(super) linger: Duration,
    pub(super) buffer_bytes: usize,
    pub(super) max_block: Duration,
    pub(super) partitioner: Option<Arc<dyn Partitioner>>,
    pub(super) name: Option<String>,
}

impl ProducerConfig {
    /// The defaults named at each setter.
    pub fn new() -> Self {
        ProducerConfig {
            batch_bytes: 64 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            max_block: Duration::from_secs(60),
            partitioner: None,
            name: None,
        }
    }

    /// How large a batch becomes before it is written, uncompressed and with its header. A record
    /// that is larger gets a batch of its own; where a topic's segments are smaller, so are its
    /// batches.
    ///
    /// Default: 64 KiB. 1 KiB to 16 MiB, in bytes (Kafka's `batch.size`).
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// How long a batch waits for more records before it is written. Waiting for a record, or
    /// flushing, ends it at once. Zero writes every record in the call that sends it.
    ///
    /// Default: 5 ms (Kafka's `linger.ms` since 4.0).
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How many bytes may be sent and not written yet, over all topics. When they are reached, the
    /// sender writes buffered batches before its own record is accepted, or waits for the threads
    /// that write them ([`max_block`](ProducerConfig::max_block)). The bound may be exceeded by one
    /// batch or record per sending thread.
    ///
    /// Default: 32 MiB. At least one batch, in bytes (Kafka's `buffer.memory`).
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How long a [`send`](crate::Producer::send) or [`send_all`](crate::Producer::send_all) waits
    /// for room at most, before it returns [`BufferFull`](Error::BufferFull). It waits only if the
    /// buffer is full of batches that other threads are writing: others it writes itself. Zero
    /// waits for no other thread. Under a [`ManualClock`](crate::testing::ManualClock) no call
    /// waits.
    ///
    /// Default: 60 s (Kafka's `max.block.ms`).
    pub fn max_block(mut self, max: Duration) -> Self {
        self.max_block = max;
        self
    }

    /// The function that chooses the partitions of records without a given one.
    ///
    /// Default: the hash of the key as Kafka computes it, and without a key a partition that
    /// changes about once a batch (KIP-794).
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// Makes this an *idempotent producer* under a lasting name (Kafka's `transactional.id`,
    /// KIP-98). It continues the identity of the earlier producer of this name, and that one is
    /// [fenced](Error::Fenced): it writes nothing after this one has read or written. Records that
    /// have a [sequence](crate::Record::sequence) are in each partition once, however often they
    /// are sent, also by a later run of the program, and also if the topic was given more
    /// partitions meanwhile. Default: none.
    ///
    /// ```
    /// use quipu::{Broker, ProducerConfig, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// let topic = broker.create_topic("orders", TopicConfig::new())?;
    /// let rows = [(1, "a"), (4, "b"), (9, "c")];
    /// for _run in 0..2 {
    ///     let outbox = broker.producer_with(ProducerConfig::new().name("outbox"))?;
    ///     let sent = outbox.last_sequence(&topic.partition(0)?)?.unwrap_or(0);
    ///     for (id, row) in rows.iter().filter(|(id, _)| *id > sent) {
    ///         outbox.send(&topic, Record::new(*row).sequence(*id))?.wait()?;
    ///     }
    ///     // One that is sent again is answered as it was the first time.
    ///     assert_eq!(outbox.send(&topic, Record::new("c").sequence(9))?.wait()?.offset, 2);
    /// }
    /// assert_eq!(topic.partition(0)?.bounds()?.log_end, 3);
    /// # Ok(()) }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// See [`batch_bytes`](ProducerConfig::batch_bytes).
    pub fn get_batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// See [`linger`](ProducerConfig::linger).
    pub fn get_linger(&self) -> Duration {
        self.linger
    }

    /// See [`buffer_bytes`](ProducerConfig::buffer_bytes).
    pub fn get_buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// See [`max_block`](ProducerConfig::max_block).
    pub fn get_max_block(&self) -> Duration {
        self.max_block
    }

    /// See [`partitioner`](ProducerConfig::partitioner); `None`: the default one.
    pub fn get_partitioner(&self) -> Option<&dyn Partitioner> {
        self.partitioner.as_deref()
    }

    /// See [`name`](ProducerConfig::name).
    pub fn get_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !(BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&self.batch_bytes) {
            return Err(invalid(
                "batch_bytes",
                &format!("{} bytes; it must be 1 KiB to 16 MiB", self.batch_bytes),
            ));
        }
        if let Some(name) = self.name.as_ref().filter(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(Error::InvalidProducerName { name: name.clone() });
        }
        if self.buffer_bytes < self.batch_bytes {
            let (value, least) =
                (format!("{} bytes", self.buffer_bytes), format!("{} bytes, one batch", self.batch_bytes));
            return Err(too_small("buffer_bytes", value, &least));
        }
        Ok(())
    }
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ProducerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerConfig")
            .field("batch_bytes", &self.batch_bytes)
            .field("linger", &self.linger)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("max_block", &self.max_block)
            .field("name", &self.name)
            .field("partitioner", &self.partitioner.as_ref().map(|_| "custom"))
            .finish()
    }
}

const NAME_BYTES_MAX: usize = 249;
const BATCH_BYTES_MIN: usize = 1 << 10;
const BATCH_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_read_back() {
        let config = ProducerConfig::new().batch_bytes(2_000).buffer_bytes(3_000).name("n");
        let config = config.linger(Duration::from_millis(4)).max_block(Duration::from_secs(7));
        assert_eq!(config.get_max_block(), Duration::from_secs(7));
        assert_eq!((config.get_batch_bytes(), config.get_buffer_bytes()), (2_000, 3_000));
        assert_eq!((config.get_linger(), config.get_name()), (Duration::from_millis(4), Some("n")));
        assert!(config.get_partitioner().is_none());
    }

    #[test]
    fn bounds_are_checked() {
        let config = ProducerConfig::new;
        for good in [
            config(),
            config().batch_bytes(1 << 10),
            config().batch_bytes(16 << 20),
            config().linger(Duration::MAX),
        ] {
            assert!(good.validate().is_ok(), "{good:?}");
        }
        for bad in [
            config().batch_bytes(1023),
            config().batch_bytes((16 << 20) + 1),
            config().batch_bytes(4096).buffer_bytes(4095),
        ] {
            assert!(matches!(bad.validate(), Err(Error::InvalidConfig { .. })), "{bad:?}");
        }
    }
}
