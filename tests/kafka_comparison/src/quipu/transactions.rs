//! Transactions.

use super::{Quipu, outcome, refusal};
use crate::history::Rec;
use crate::seen::Seen;

impl Quipu {
    pub(super) fn begin(&mut self, tx: u8) -> Seen {
        self.transactions.insert(tx, self.broker.transaction());
        Seen::outcome("done")
    }

    pub(super) fn send_in(&mut self, tx: u8, topic: &str, partition: u32, record: &Rec) -> Seen {
        let record = self.record(record);
        let to = self.partition(topic, partition);
        let Some(transaction) = self.transactions.get_mut(&tx) else { return Seen::nothing() };
        outcome(to.map(|to| {
            transaction.send(&to, record);
        }))
    }

    pub(super) fn offsets_in(&mut self, tx: u8, topic: &str, partition: u32, next: u64) -> Seen {
        let Some(mut transaction) = self.transactions.remove(&tx) else { return Seen::nothing() };
        let seen = match (self.owner(topic, partition), self.next(topic, partition, next)) {
            (None, _) => Seen::nothing(),
            (_, Err(error)) => Seen::outcome(refusal(&error)),
            (Some(member), Ok(next)) => {
                transaction.offsets(&member.consumer, member.consumer.offsets_at([&next]));
                Seen::outcome("done")
            }
        };
        self.transactions.insert(tx, transaction);
        seen
    }

    /// Aborting is dropping.
    pub(super) fn end(&mut self, tx: u8, commit: bool) -> Seen {
        let Some(transaction) = self.transactions.remove(&tx) else { return Seen::nothing() };
        outcome(if commit { transaction.commit().map(drop) } else { Ok(()) })
    }
}
