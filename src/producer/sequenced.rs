//! How does a record that has a sequence get into a partition once? Past the buffers: what is there already is left out, the
//! rest is appended as one batch, and the log judges that batch under the lock that it is written under.

use std::task::{Context, Poll};

use super::outbox::{self, Outbox};
use super::pending::Wait;
use crate::broker::{BrokerInner, Named, TopicState, prepare_sequenced};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::log::cursor::Cursor;
use crate::log::producers::Located;
use crate::log::producers::Sender;
use crate::reader::read_once;
use crate::record::Record;
use crate::sync::Arc;
use crate::types::{Offset, Receipt, Start};

/// The records of one call that go to one partition.
struct Share<'r> {
    log: Arc<Log>,
    records: Vec<Record<'r>>,
    /// Which of the call's they are.
    places: Vec<usize>,
}

/// What is waited for: everything is written. Dropping it leaves that to the background.
#[derive(Default)]
pub(super) struct Sent {
    waits: Vec<(Arc<Log>, Offset, u32)>,
    receipts: Vec<Receipt>,
}

/// Appends records with sequences, those that are not there yet, and answers for all of them.
///
/// # Errors
/// `Fenced`, `OutOfOrderSequence`, `DuplicateSequence`, and those of an append. Partition by partition: what went before
/// into other partitions is there, and found there by the next try.
pub(super) fn send<'r>(
    broker: &BrokerInner,
    named: &Named,
    outbox: &Outbox<TopicState>,
    topic: &Arc<TopicState>,
    partition: Option<u32>,
    records: Vec<Record<'r>>,
) -> Result<Sent> {
    let total = records.len();
    let mut shares: Vec<Share<'r>> = Vec::new();
    for (place, record) in records.into_iter().enumerate() {
        let log = route(outbox, topic, partition, &record)?;
        match shares.iter_mut().find(|share| Arc::ptr_eq(&share.log, &log)) {
            Some(share) => {
                share.records.push(record);
                share.places.push(place);
            }
            None => shares.push(Share { log, records: vec![record], places: vec![place] }),
        }
    }
    shares.iter().try_for_each(Share::check_rising)?;
    let mut receipts: Vec<Option<Receipt>> = vec![None; total];
    let mut sent = Sent::default();
    for share in &shares {
        // If another one fails, what this one has written is seen to by the drop.
        let (end, epoch) = share.send(broker, named, topic, &mut receipts)?;
        sent.waits.push((share.log.clone(), end, epoch));
        outbox.note_written(topic, share.log.partition().get(), (end, epoch))?;
    }
    sent.receipts = receipts.into_iter().flatten().collect();
    Ok(sent)
}

/// The partition as ever; where neither caller nor key says which, the sequence does, so that it is the same one when the
/// record is sent again.
fn route(
    outbox: &Outbox<TopicState>,
    topic: &Arc<TopicState>,
    partition: Option<u32>,
    record: &Record<'_>,
) -> Result<Arc<Log>> {
    let (count, partitioner) = (topic.log_count(), outbox.core().config.partitioner.as_ref());
    let by_sequence = || {
        let turn = record.given_sequence().unwrap_or(0) % u64::from(count.max(1));
        u32::try_from(turn).unwrap_or(0)
    };
    let chosen = outbox::route(partitioner, &**topic, partition, record, count)?.unwrap_or_else(by_sequence);
    let logs = topic.logs();
    let unknown = || Error::UnknownPartition { topic: topic.name.clone(), partition: chosen, count };
    logs.get(chosen as usize).cloned().ok_or_else(unknown)
}

impl Share<'_> {
    /// # Errors
    /// `OutOfOrderSequence` if they do not rise, or one is missing.
    fn check_rising(&self) -> Result<()> {
        let mut last = None;
        for record in &self.records {
            let Some(sequence) = record.given_sequence() else {
                let reason = "either all records of a call have one, or none";
                return Err(crate::config::invalid("sequence", reason));
            };
            if last.is_some_and(|last| sequence <= last) {
                return Err(Error::OutOfOrderSequence { sequence, last });
            }
            last = Some(sequence);
        }
        Ok(())
    }

    /// Answers up to where it has to be waited.
    fn send(
        &self,
        broker: &BrokerInner,
        named: &Named,
        topic: &Arc<TopicState>,
        receipts: &mut [Option<Receipt>],
    ) -> Result<(Offset, u32)> {
        topic.check()?;
        // Comes again if another thread was faster with some of them, or the log was cut.
        'again: loop {
            named.check()?;
            let cuts = self.log.revision();
            let mut known = 0;
            let mut end = (Offset::ZERO, self.log.epoch());
            let mut before = None;
            for (record, place) in self.records.iter().zip(&self.places) {
                let sequence = record.given_sequence().unwrap_or(0);
                let (last, located) = self.log.locate(named.id, sequence)?;
                before = last;
                match located {
                    Located::New => break,
                    Located::At(offset) => {
                        let receipt = self.original(offset);
                        if self.log.revision() != cuts {
                            // What is there now may be another record.
                            continue 'again;
                        }
                        let Some(receipt) = receipt? else {
                            return Err(Error::DuplicateSequence {
                                sequence,
                                last: last.unwrap_or(sequence),
                            });
                        };
                        end.0 = end.0.max(offset.plus(1));
                        if let Some(answer) = receipts.get_mut(*place) {
                            *answer = Some(receipt);
                        }
                    }
                    Located::Missing => return Err(Error::OutOfOrderSequence { sequence, last }),
                    Located::Unknown => {
                        return Err(Error::DuplicateSequence { sequence, last: last.unwrap_or(sequence) });
                    }
                }
                known += 1;
            }
            let fresh = self.records.get(known..).unwrap_or_default();
            let (Some(first), Some(last)) = (fresh.first(), fresh.last()) else {
                return Ok(end);
            };
            let (first, last) = (first.given_sequence().unwrap_or(0), last.given_sequence().unwrap_or(0));
            let (mut batch, timestamps) = prepare_sequenced(&broker.ctx, topic, &self.log, fresh)?;
            let dense = last.checked_sub(first) == Some(fresh.len() as u64 - 1);
            batch.header.producer_id = named.id;
            batch.header.producer_epoch = named.epoch;
            batch.header.base_sequence = last;
            batch.header.attributes = batch.header.attributes.with_given_sequences(Some(dense));
            let sender = Sender { first: Some(first), fence: &|| named.check() };
            match self.log.append_from(batch, &sender) {
                Ok(appended) => {
                    let places = self.places.iter().skip(known);
                    for (index, (place, timestamp)) in (0..).zip(places.zip(timestamps)) {
                        if let Some(answer) = receipts.get_mut(*place) {
                            let (topic, partition) = (self.log.topic(), self.log.partition());
                            *answer = Some(appended.receipt(topic, partition, index, timestamp));
                        }
                    }
                    return Ok((appended.end, appended.epoch));
                }
                Err(Error::OutOfOrderSequence { last, .. }) if last != before => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The receipt of a record that was appended at an offset; `None` if it has been deleted since, or compacted away with its
    /// batch.
    fn original(&self, offset: Offset) -> Result<Option<Receipt>> {
        // It may be written and not visible yet; then its first sender waits for the same.
        self.log.sync_to_see(offset)?;
        let records = match read_once(&self.log, Start::At(offset), 1) {
            Err(Error::OffsetOutOfRange { .. }) => return Ok(None),
            records => records?,
        };
        let found = records.iter().next().filter(|record| record.offset() == offset);
        let told = match found.map(|record| (record.timestamp(), record.position().epoch)) {
            // The record is gone and its batch is not: the time is that of the batch, as Kafka's is.
            None => match Cursor::new(self.log.clone(), offset).peek_any() {
                Err(Error::OffsetOutOfRange { .. }) => None,
                header => header?
                    .filter(|header| header.base_offset <= offset)
                    .map(|header| (header.max_timestamp, header.log_epoch)),
            },
            told => told,
        };
        let (topic, partition) = (self.log.topic().clone(), self.log.partition());
        Ok(told.map(|(timestamp, epoch)| Receipt { topic, partition, offset, timestamp, epoch }))
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
}

impl Drop for Sent {
    fn drop(&mut self) {
        for (log, ..) in &self.waits {
            log.request_sync();
        }
    }
}

/// The only one of them.
pub(super) struct One(pub(super) Sent);

impl Wait<Receipt> for One {
    fn wait(self: Box<Self>) -> Result<Receipt> {
        let receipts = Box::new(self.0).wait()?;
        receipts.into_iter().next().ok_or(Error::Closed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        self.0.poll(cx).map(|receipts| receipts?.into_iter().next().ok_or(Error::Closed))
    }
}
