//! What does a projector ask of a projection? To derive records from events, and to have the state
//! of the last commit while it does.

use crate::error::Error;
use crate::records::ConsumedRecord;
use crate::transaction::Transaction;
use crate::types::TopicPartition;

/// Derives records from events: for example a table in a compacted topic, or a stream per customer.
///
/// A projection without state may be a closure. One with state loads and drops it as the projector
/// asks, so that it is that of the last commit whenever an event is applied: not more after a step
/// that failed, not less after a restart, nothing of before after a
/// [rebuild](super::Projector::rebuild).
///
/// ```
/// use std::collections::HashMap;
/// use quipu::{
///     Broker, Cleanup, ConsumedRecord, ExpectedVersion, PartitionId, Projection, Record, Result,
///     Start, Topic, TopicConfig, TopicPartition, Transaction,
/// };
///
/// /// Balances by account, in a compacted topic with as many partitions as that of the events.
/// struct Balances {
///     table: Topic,
///     cents: HashMap<PartitionId, HashMap<Vec<u8>, i64>>,
/// }
///
/// impl Projection for Balances {
///     type Error = quipu::Error;
///
///     fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<()> {
///         let paid = event.value_str().and_then(|cents| cents.parse::<i64>().ok());
///         let (Some(account), Some(paid)) = (event.key(), paid) else { return Ok(()) };
///         let partition = self.cents.entry(event.partition()).or_default();
///         let cents = partition.entry(account.to_vec()).or_default();
///         *cents += paid;
///         let row = Record::new(cents.to_string()).key(account);
///         changes.send(self.table.partition(event.partition())?, row);
///         Ok(())
///     }
///
///     fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<()> {
///         for of in partitions {
///             let mut cents = HashMap::new();
///             let table = self.table.partition(of.partition)?;
///             for row in &table.read(Start::Beginning, usize::MAX)? {
///                 let balance = row.value_str().and_then(|cents| cents.parse().ok());
///                 cents.insert(row.key().unwrap_or_default().to_vec(), balance.unwrap_or(0));
///             }
///             self.cents.insert(of.partition, cents);
///         }
///         Ok(())
///     }
///
///     fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
///         partitions.iter().for_each(|of| drop(self.cents.remove(&of.partition)));
///         Ok(())
///     }
///
///     fn reset(&mut self, changes: &mut Transaction) -> Result<()> {
///         for (partition, cents) in &mut self.cents {
///             for (account, _) in cents.drain() {
///                 changes.send(self.table.partition(*partition)?, Record::tombstone(account));
///             }
///         }
///         Ok(())
///     }
/// }
///
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// let accounts = broker.create_topic("accounts", TopicConfig::streams().partitions(4))?;
/// let table = TopicConfig::new().partitions(4).cleanup(Cleanup::Compact);
/// let table = broker.create_topic("balances", table)?;
/// let balances = || Balances { table: table.clone(), cents: HashMap::new() };
/// accounts.stream("account-7")?.append(ExpectedVersion::Any, ["500", "-80"].map(Record::new))?;
/// broker.consumer("balances").project("accounts", balances())?.catch_up(|_| {})?;
///
/// accounts.stream("account-7")?.append(ExpectedVersion::Any, Record::new("-20"))?;
/// let mut restarted = broker.consumer("balances").project("accounts", balances())?;
/// restarted.catch_up(|_| {})?;
/// restarted.rebuild()?;
/// restarted.catch_up(|_| {})?;
/// let cents = &restarted.projection().cents;
/// assert_eq!(cents.values().find_map(|cents| cents.get(&b"account-7"[..])), Some(&400));
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projection",
    note = "without state: write `|event: &ConsumedRecord<'_>, changes: &mut Transaction| -> quipu::Result<()> {{ .. }}`",
    note = "with state: implement `Projection` for a type of your own, which loads and clears it"
)]
pub trait Projection {
    /// Its error. [`Error`] is enough if it has no errors of its own.
    type Error: From<Error>;

    /// Adds the records that follow from an event to `changes`.
    ///
    /// # Errors
    /// The projection's own: nothing of this step is committed, and the event comes again.
    fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<(), Self::Error>;

    /// Loads the state of these partitions, from the records that it has sent, and discards the
    /// state that it has of them. Does nothing by default.
    ///
    /// Called by a step before events of partitions that came to it are applied, and, with all of
    /// its partitions, after a step or another call of this projection that ended early: the state
    /// may include events that were not committed. The member that had a partition before has
    /// committed its last step, and commits no other.
    ///
    /// # Errors
    /// The projection's own: nothing is applied, and the next step calls this again.
    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), Self::Error> {
        let _ = partitions;
        Ok(())
    }

    /// Drops the state of these partitions, which go to another member when it returns, or have
    /// gone to one because this member did not step for longer than the
    /// [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval). Does nothing by default.
    /// Not called when the projector is dropped.
    ///
    /// # Errors
    /// The projection's own: the step applies nothing, and the partitions go all the same.
    fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<(), Self::Error> {
        let _ = partitions;
        Ok(())
    }

    /// Clears its state, because it is [rebuilt](super::Projector::rebuild): all events of its
    /// partitions come again. `changes` are committed together with that, so a projection that
    /// loads its state from the records that it has sent must remove these here: a tombstone for
    /// each row of a table. Does nothing by default.
    ///
    /// # Errors
    /// The projection's own: it is not rebuilt.
    fn reset(&mut self, changes: &mut Transaction) -> Result<(), Self::Error> {
        let _ = changes;
        Ok(())
    }
}

/// A closure that changes nothing that it has captured: state in it would be wrong after a failed
/// step, a restart and a rebuild.
impl<F, E> Projection for F
where
    F: Fn(&ConsumedRecord<'_>, &mut Transaction) -> Result<(), E>,
    E: From<Error>,
{
    type Error = E;

    fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<(), E> {
        self(event, changes)
    }
}
