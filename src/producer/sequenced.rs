//! Records with sequences get into a partition once. They bypass the buffers: records that are
//! there already are left out, the rest is appended as one batch, and the log checks that batch
//! under the lock that it is written under.

use std::task::{Context, Poll};

use super::growth::Grown;
use super::original::original;
use super::outbox::{self, Outbox};
use super::pending::Wait;
use crate::broker::{BrokerInner, ProducerIdentity, TopicState, prepare_sequenced};
use crate::error::{Error, Result};
use crate::log::producers::{Located, Sender};
use crate::log::{Log, idempotence};
use crate::record::Record;
use crate::sync::Arc;
use crate::types::{Offset, Receipt, TopicPartition};

/// The records of one call that go to one partition.
struct Portion<'r> {
    log: Arc<Log>,
    records: Vec<Record<'r>>,
    /// The sequence of each record.
    sequences: Vec<u64>,
    /// The index of each record in the call.
    indices: Vec<usize>,
}

/// Everything is written; this waits until it is visible. Dropping it leaves that to the
/// background.
#[derive(Default)]
pub(super) struct Sent {
    waits: Vec<(Arc<Log>, Offset, u32)>,
    receipts: Vec<Receipt>,
}

/// Appends records with sequences, those that are not there yet, and returns the receipts of all.
///
/// # Errors
/// `Fenced`, `OutOfOrderSequence`, `DuplicateSequence`, and those of an append. It works partition
/// by partition: an error of one keeps no other from being written, and the next try finds what is
/// there. So the call can be repeated until all of it is.
pub(super) fn send<'r>(
    broker: &BrokerInner,
    identity: &ProducerIdentity,
    outbox: &Outbox<TopicState>,
    topic: &Arc<TopicState>,
    partition: Option<u32>,
    records: Vec<Record<'r>>,
) -> Result<Sent> {
    let total = records.len();
    let mut receipts: Vec<Option<Receipt>> = vec![None; total];
    let mut sent = Sent::default();
    let mut grown = if partition.is_none() { Grown::of(topic, identity, outbox) } else { None };
    let mut shares: Vec<Portion<'r>> = Vec::new();
    for (index, record) in records.into_iter().enumerate() {
        let Some(sequence) = record.given_sequence() else {
            return Err(crate::config::invalid("sequence", "either all records of a call have one, or none"));
        };
        let log = route(outbox, topic, partition, &record, sequence)?;
        if let Some(grown) = &mut grown
            && let Some((earlier, receipt)) = grown.find(&record, sequence, &log)?
        {
            sent.waits.push((earlier, receipt.offset.plus(1), receipt.epoch));
            if let Some(answer) = receipts.get_mut(index) {
                *answer = Some(receipt);
            }
            continue;
        }
        let share = match shares.iter_mut().position(|share| Arc::ptr_eq(&share.log, &log)) {
            Some(at) => at,
            None => {
                shares.push(Portion { log, records: Vec::new(), sequences: Vec::new(), indices: Vec::new() });
                shares.len() - 1
            }
        };
        if let Some(share) = shares.get_mut(share) {
            share.records.push(record);
            share.sequences.push(sequence);
            share.indices.push(index);
        }
    }
    shares.iter().try_for_each(|share| share.check_rising(identity))?;
    let mut failed = None;
    for share in &shares {
        // If another partition fails, dropping `sent` requests the sync of this one.
        let written = share.send(broker, identity, topic, &mut receipts).and_then(|(end, epoch)| {
            sent.waits.push((share.log.clone(), end, epoch));
            outbox.note_written(topic, share.log.partition().get(), (end, epoch))
        });
        if let Err(error) = written {
            failed = more_telling(failed, error);
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    sent.receipts = receipts.into_iter().flatten().collect();
    if sent.receipts.len() != total {
        return Err(Error::internal("each record of a call has a receipt"));
    }
    Ok(sent)
}

/// The partition as for any record; if neither the caller nor the key chooses one, the sequence
/// does, so that it is the same one when the record is sent again.
fn route(
    outbox: &Outbox<TopicState>,
    topic: &Arc<TopicState>,
    partition: Option<u32>,
    record: &Record<'_>,
    sequence: u64,
) -> Result<Arc<Log>> {
    let (count, partitioner) = (topic.log_count(), outbox.core().config.partitioner.as_ref());
    // The remainder is less than `count`.
    let by_sequence = || (sequence % u64::from(count.max(1))) as u32;
    let chosen = outbox::route(partitioner, &**topic, partition, record, count)?.unwrap_or_else(by_sequence);
    let logs = topic.logs();
    let unknown = || Error::UnknownPartition { topic: topic.name.clone(), partition: chosen.into(), count };
    logs.get(chosen as usize).cloned().ok_or_else(unknown)
}

/// Of the errors of two partitions the first one; but one that keeps records out of the log comes
/// before one of records that are there.
fn more_telling(first: Option<Error>, error: Error) -> Option<Error> {
    let is_there = |error: &Error| matches!(error, Error::DuplicateSequence { .. });
    match first {
        Some(first) if is_there(&error) || !is_there(&first) => Some(first),
        _ => Some(error),
    }
}

impl Portion<'_> {
    /// # Errors
    /// `OutOfOrderSequence` if the sequences do not rise.
    fn check_rising(&self, identity: &ProducerIdentity) -> Result<()> {
        match self.sequences.windows(2).find(|pair| matches!(pair, [earlier, later] if later <= earlier)) {
            Some(&[earlier, later]) => Err(self.out_of_order(identity, later, Some(earlier))),
            _ => Ok(()),
        }
    }

    fn out_of_order(&self, identity: &ProducerIdentity, sequence: u64, last: Option<u64>) -> Error {
        let TopicPartition { topic, partition } = self.log.identity().topic_partition();
        Error::OutOfOrderSequence { producer: identity.name.clone(), topic, partition, sequence, last }
    }

    /// `last` is known, because the log knows sequences of this producer.
    fn duplicate(&self, identity: &ProducerIdentity, sequence: u64, last: Option<u64>) -> Error {
        let TopicPartition { topic, partition } = self.log.identity().topic_partition();
        let Some(last) = last else {
            return Error::internal("a sequence that the log has located has a last one");
        };
        Error::DuplicateSequence { producer: identity.name.clone(), topic, partition, sequence, last }
    }

    /// Returns up to where it has to be waited.
    fn send(
        &self,
        broker: &BrokerInner,
        identity: &ProducerIdentity,
        topic: &Arc<TopicState>,
        receipts: &mut [Option<Receipt>],
    ) -> Result<(Offset, u32)> {
        topic.check()?;
        // Comes again if another thread was faster with some of them, or the log was truncated.
        'again: loop {
            identity.check()?;
            let cuts = self.log.revision();
            let mut known = 0;
            let mut end = (Offset::ZERO, self.log.epoch());
            let (last, located) = idempotence::locate_all(&self.log, identity.id, &self.sequences)?;
            let before = last;
            let records = self.records.iter().zip(&self.sequences).zip(&self.indices);
            for (((record, &sequence), index), located) in records.zip(located) {
                match located {
                    Located::New => break,
                    Located::At(offset) | Located::Likely(offset) => {
                        let alike = matches!(located, Located::Likely(_)).then_some(record);
                        let receipt = original(&self.log, offset, alike);
                        if self.log.revision() != cuts {
                            // Another record may be at the offset now.
                            continue 'again;
                        }
                        let Some(receipt) = receipt? else {
                            return Err(self.duplicate(identity, sequence, last));
                        };
                        end.0 = end.0.max(offset.plus(1));
                        if let Some(answer) = receipts.get_mut(*index) {
                            *answer = Some(receipt);
                        }
                    }
                    Located::Missing => return Err(self.out_of_order(identity, sequence, last)),
                    Located::Unknown => return Err(self.duplicate(identity, sequence, last)),
                }
                known += 1;
            }
            let (Some(&first), Some(&last)) = (self.sequences.get(known), self.sequences.last()) else {
                return Ok(end);
            };
            let fresh = self.records.iter().skip(known);
            let count = self.records.len().saturating_sub(known) as u64;
            let (mut batch, timestamps) = prepare_sequenced(&broker.ctx, topic, &self.log, fresh)?;
            let dense = last.checked_sub(first) == count.checked_sub(1);
            batch.header.producer_id = identity.id;
            batch.header.producer_epoch = identity.epoch;
            batch.header.base_sequence = last;
            batch.header.attributes = batch.header.attributes.with_given_sequences(Some(dense));
            let sender = Sender { first: Some(first), producer: &identity.name, fence: &|| identity.check() };
            match self.log.append_from(&mut batch, &sender) {
                Ok(appended) => {
                    let indices = self.indices.iter().skip(known);
                    for (at, (index, timestamp)) in (0..).zip(indices.zip(timestamps)) {
                        if let Some(answer) = receipts.get_mut(*index) {
                            let (topic, partition) = (self.log.topic(), self.log.partition());
                            *answer = Some(appended.receipt(topic, partition, at, timestamp));
                        }
                    }
                    return Ok((appended.end, appended.epoch));
                }
                Err(Error::OutOfOrderSequence { last, .. }) if last != before => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Wait<Vec<Receipt>> for Sent {
    fn wait(mut self: Box<Self>) -> Result<Vec<Receipt>> {
        while let Some((log, end, epoch)) = self.waits.last() {
            log.wait_visible(*end, *epoch)?;
            self.waits.pop();
        }
        Ok(std::mem::take(&mut self.receipts))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Receipt>>> {
        while let Some((log, end, epoch)) = self.waits.last() {
            match log.poll_visible(*end, *epoch, cx.waker()) {
                Poll::Ready(Ok(())) => drop(self.waits.pop()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    log.request_sync();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(std::mem::take(&mut self.receipts)))
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        self.waits.last().map(|(log, ..)| &**log.context())
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        for (log, ..) in &self.waits {
            log.request_sync();
        }
    }
}

fn no_receipt() -> Error {
    Error::internal("a call with one record has one receipt")
}

/// The only one of them.
pub(super) struct One(pub(super) Sent);

impl Wait<Receipt> for One {
    fn wait(self: Box<Self>) -> Result<Receipt> {
        let receipts = Box::new(self.0).wait()?;
        receipts.into_iter().next().ok_or_else(no_receipt)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        self.0.poll(cx).map(|receipts| receipts?.into_iter().next().ok_or_else(no_receipt))
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        self.0.engine()
    }
}
