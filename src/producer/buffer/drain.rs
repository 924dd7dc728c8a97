//! From a sealed batch to the log: compressing under no lock, appending in the order of sealing.

use std::collections::VecDeque;

use super::queue::{BatchQueue, Body, PartitionBuffer, Slot};
use crate::producer::batch::{Compressed, OpenBatch};
use crate::producer::failure::Failure;
use crate::producer::outcome::BatchState;
use crate::producer::sink::unwound;
use crate::sync::Arc;

/// A batch that was taken out of the buffer to be compressed. Its slot is settled in any case,
/// because the batches after it would wait forever otherwise.
pub(crate) struct Outgoing {
    buffer: Arc<PartitionBuffer>,
    ticket: u64,
    batch: Option<OpenBatch>,
    /// Its slot knows.
    settled: bool,
}

impl BatchQueue {
    /// Gives the open batch the last place.
    pub(super) fn seal(&mut self, buffer: &Arc<PartitionBuffer>) -> Option<Outgoing> {
        let batch = self.open.take()?;
        batch.state.set_records(batch.count());
        let ticket = self.first_ticket + self.sealed.len() as u64;
        self.sealed.push_back(Slot { batch: batch.state.clone(), body: Body::Compressing });
        Some(Outgoing { buffer: buffer.clone(), ticket, batch: Some(batch), settled: false })
    }
}

impl PartitionBuffer {
    /// Appends compressed heads of the queue until there is none, unless another thread does.
    fn drain(&self, awaited: Option<&Arc<BatchState>>) {
        let Some(mut turn) = Turn::begin(self) else { return };
        let mut unattended = false;
        while let Some((batch, body)) = turn.next() {
            unattended = !awaited.is_some_and(|awaited| Arc::ptr_eq(awaited, &batch));
            turn.append(&batch, body);
        }
        if unattended {
            self.sink.request_sync();
        }
    }
}

impl Outgoing {
    /// Compresses and checksums the batch, and writes the batches that can be written.
    pub(crate) fn compress(mut self, awaited: Option<&Arc<BatchState>>) {
        if let Some(batch) = self.batch.take() {
            // If this unwinds, the drop settles it.
            let compressed = batch.compress(&self.buffer.core);
            self.settle(Body::Compressed(compressed), awaited);
        }
    }

    fn settle(&mut self, body: Body, awaited: Option<&Arc<BatchState>>) {
        self.settled = true;
        let mut unwanted = None;
        {
            let mut queue = self.buffer.queue.lock();
            let place =
                self.ticket.checked_sub(queue.first_ticket).and_then(|place| usize::try_from(place).ok());
            match place.and_then(|place| queue.sealed.get_mut(place)) {
                Some(slot) => slot.body = body,
                // It has failed with one before it. Its bytes are freed outside the lock.
                None => unwanted = Some(body),
            }
        }
        drop(unwanted);
        self.buffer.drain(awaited);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.settled {
            let error = unwound(&*self.buffer.sink);
            self.settle(Body::Failed(error), None);
        }
    }
}

/// One thread's turn to append the heads of a queue.
pub(super) struct Turn<'a> {
    buffer: &'a PartitionBuffer,
    over: bool,
    /// Something was appended in this turn.
    served: bool,
}

impl<'a> Turn<'a> {
    /// `None` if it is another thread's.
    pub(super) fn begin(buffer: &'a PartitionBuffer) -> Option<Self> {
        let mut queue = buffer.queue.lock();
        if queue.draining {
            return None;
        }
        queue.draining = true;
        Some(Turn { buffer, over: false, served: false })
    }

    /// The head, if it is compressed; if not, the turn is over. It is over too when something was
    /// appended and a thread is still compressing: that thread continues from here, so no thread
    /// appends for others forever.
    pub(super) fn next(&mut self) -> Option<(Arc<BatchState>, Body)> {
        let mut queue = self.buffer.queue.lock();
        let relieved = self.served && queue.sealed.iter().any(|slot| matches!(slot.body, Body::Compressing));
        if !relieved
            && let Some(head) = queue.sealed.front_mut()
            && !matches!(head.body, Body::Compressing)
        {
            self.served = true;
            return Some((head.batch.clone(), std::mem::replace(&mut head.body, Body::Appending)));
        }
        queue.draining = false;
        self.over = true;
        None
    }

    /// Writes the head, completes it, and takes it off the queue. If the append fails, all batches
    /// after it fail too.
    pub(super) fn append(&self, batch: &BatchState, body: Body) {
        let (outcome, charge) = match body {
            Body::Compressed(Compressed { batch, charge }) => {
                (self.buffer.sink.append(batch, self.buffer.core.identity.as_ref()), Some(charge))
            }
            Body::Failed(error) => (Err(error), None),
            Body::Compressing | Body::Appending => (Err(unwound(&*self.buffer.sink)), None),
        };
        match outcome {
            Ok(appended) => {
                {
                    let mut queue = self.buffer.queue.lock();
                    queue.sealed.pop_front();
                    queue.first_ticket += 1;
                    queue.note_written((appended.end, appended.epoch));
                }
                batch.complete(Ok(appended));
            }
            Err(error) => {
                let failure = Arc::new(Failure::new(error));
                let failed = self.buffer.queue.lock().fail(&failure);
                complete(failed, &failure);
            }
        }
        drop(charge);
    }
}

impl Drop for Turn<'_> {
    /// If an append unwound, no thread would ever end the turn.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let failure = Arc::new(Failure::new(unwound(&*self.buffer.sink)));
        let failed = {
            let mut queue = self.buffer.queue.lock();
            queue.draining = false;
            queue.fail(&failure)
        };
        complete(failed, &failure);
    }
}

/// Fails the batches that were taken off the queue, in order.
fn complete((sealed, open): (VecDeque<Slot>, Option<OpenBatch>), failure: &Arc<Failure>) {
    for slot in sealed {
        slot.batch.complete(Err(failure.clone()));
    }
    if let Some(open) = open {
        open.fail(failure);
    }
}
