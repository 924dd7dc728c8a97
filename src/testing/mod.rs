//! For tests: a broker's disk that fails, loses its power and fills up on demand, and a clock that
//! the test moves.
//!
//! Useful for: testing a program that uses this crate against faults, crashes and power losses, in
//! memory and without sleeping. Not useful for: production; a broker in memory needs no [`Disk`].

mod disk;
mod explore;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walks;

use std::collections::BTreeMap;

pub use self::disk::Disk;
pub use self::explore::{CrashState, Explored, explore};
use crate::broker::Broker;
pub use crate::clock::ManualClock;
use crate::error::Result;
use crate::records::OwnedRecord;
pub use crate::storage::faults::{Gate, Op};
pub use crate::storage::mem::Survive;
use crate::types::{Offset, Start, TopicPartition};

/// All records of a topic, partition by partition.
///
/// # Errors
/// Those of [`Broker::reader`] and of reading.
///
/// ```
/// use quipu::testing::produced;
/// # use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// broker.create_topic("orders", TopicConfig::new())?;
/// broker.producer().send("orders", Record::new("42 EUR").key("customer-7"))?.wait()?;
/// assert_eq!(produced(&broker, "orders")?[0].value(), Some(&b"42 EUR"[..]));
/// # Ok(()) }
/// ```
pub fn produced(broker: &Broker, topic: &str) -> Result<Vec<OwnedRecord>> {
    let mut all = Vec::new();
    for records in broker.reader([topic], Start::Beginning)?.to_end() {
        all.extend(records?);
    }
    all.sort_by_key(|record| (record.partition(), record.offset()));
    Ok(all)
}

/// The committed offsets of a group: the next offset to read, by topic and partition.
///
/// # Errors
/// Those of [`Group::describe`](crate::Group::describe).
///
/// ```
/// use quipu::testing::{committed, owners};
/// # use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// # broker.create_topic("orders", TopicConfig::new())?;
/// # broker.producer().send("orders", Record::new("42 EUR"))?.wait()?;
/// let mut consumer = broker.consumer("billing").subscribe(&["orders"])?;
/// let records = consumer.poll(std::time::Duration::ZERO)?;
/// assert!(committed(&broker, "billing")?.is_empty());
/// consumer.commit(&records)?;
/// assert_eq!(committed(&broker, "billing")?.into_values().next().unwrap(), 1);
/// assert_eq!(owners(&broker, "billing")?.len(), 1);
/// # Ok(()) }
/// ```
pub fn committed(broker: &Broker, group: &str) -> Result<BTreeMap<TopicPartition, Offset>> {
    let partitions = broker.group(group)?.describe()?.partitions.into_iter();
    let committed =
        partitions.filter_map(|at| Some((TopicPartition::new(at.topic, at.partition), at.committed?.offset)));
    Ok(committed.collect())
}

/// The owners of a group's partitions: the member's number, by topic and partition. A partition
/// without an owner is left out.
///
/// # Errors
/// Those of [`Group::describe`](crate::Group::describe).
pub fn owners(broker: &Broker, group: &str) -> Result<BTreeMap<TopicPartition, u32>> {
    let partitions = broker.group(group)?.describe()?.partitions.into_iter();
    Ok(partitions.filter_map(|at| Some((TopicPartition::new(at.topic, at.partition), at.owner?))).collect())
}
