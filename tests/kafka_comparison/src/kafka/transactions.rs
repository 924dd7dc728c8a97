//! Transactions.

use anyhow::{Context as _, Result};
use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::producer::Producer;

use super::clients::PATIENCE;
use super::{Kafka, outcome, refusal};
use crate::history::Rec;
use crate::seen::Seen;

impl Kafka<'_> {
    pub(super) fn begin(&mut self, tx: u8) -> Result<Seen> {
        let producer = self.clients.transactional(&self.names.full(&format!("tx{tx}")))?;
        let begun = producer.begin_transaction();
        self.transactions.insert(tx, producer);
        outcome(begun)
    }

    pub(super) fn send_in(&mut self, tx: u8, topic: &str, partition: u32, record: &Rec) -> Result<Seen> {
        let Some(producer) = self.transactions.get(&tx) else { return Ok(Seen::nothing()) };
        producer.context().take();
        let queued = self.queue(producer, &self.names.full(topic), Some(partition), record, 0);
        if queued.is_err() {
            return outcome(queued);
        }
        // The next step of another producer comes after it.
        producer.flush(PATIENCE)?;
        match producer.context().take().pop() {
            Some((_, Err(error))) => Ok(Seen::outcome(refusal(&error)?)),
            _ => Ok(Seen::outcome("done")),
        }
    }

    pub(super) fn offsets_in(&mut self, tx: u8, topic: &str, partition: u32, next: u64) -> Result<Seen> {
        let Some(producer) = self.transactions.get(&tx) else { return Ok(Seen::nothing()) };
        let Some(member) = self.owner(topic, partition) else { return Ok(Seen::nothing()) };
        let list = self.list(topic, partition, Offset::Offset(i64::try_from(next)?))?;
        let group = member.reading.consumer.group_metadata().context("a member has a group")?;
        outcome(producer.send_offsets_to_transaction(&list, &group, PATIENCE))
    }

    pub(super) fn end(&mut self, tx: u8, commit: bool) -> Result<Seen> {
        let Some(producer) = self.transactions.remove(&tx) else { return Ok(Seen::nothing()) };
        outcome(if commit {
            producer.commit_transaction(PATIENCE)
        } else {
            producer.abort_transaction(PATIENCE)
        })
    }
}
