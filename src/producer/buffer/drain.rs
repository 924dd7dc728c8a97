//! From a sealed batch to the log: compressing under no lock, appending in the order of sealing.

use std::collections::VecDeque;

use super::queue::{BatchQueue, Body, PartitionBuffer, Slot};
use crate::error::{Error, Result};
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
    batch: Option<Box<OpenBatch>>,
    /// It was sealed as the head, so the thread that compresses it also has the turn to append:
    /// nothing can be appended before it.
    is_head: bool,
    /// Its slot knows.
    settled: bool,
}

impl BatchQueue {
    /// Gives the open batch the last place.
    pub(super) fn seal(&mut self, buffer: &Arc<PartitionBuffer>) -> Option<Outgoing> {
        let batch = self.open.take()?;
        batch.state.set_records(batch.count());
        let ticket = self.first_ticket + self.sealed.len() as u64;
        let is_head = self.sealed.is_empty() && !self.draining;
        self.draining |= is_head;
        let body = if is_head { Body::Appending } else { Body::Compressing };
        self.sealed.push_back(Slot { batch: batch.state.clone(), body });
        Some(Outgoing { buffer: buffer.clone(), ticket, batch: Some(batch), is_head, settled: false })
    }

    /// Starts to append the head, if it is compressed; if not, the turn is over. It is over too when
    /// something was appended and a thread is still compressing: that thread continues from here,
    /// so no thread appends for others forever.
    fn next_head(&mut self, served: bool) -> Option<Head> {
        let relieved = served && self.sealed.iter().any(|slot| matches!(slot.body, Body::Compressing));
        if !relieved
            && let Some(head) = self.sealed.front_mut()
            && !matches!(head.body, Body::Compressing)
        {
            return Some((head.batch.clone(), std::mem::replace(&mut head.body, Body::Appending)));
        }
        self.draining = false;
        None
    }
}

/// The first batch of a queue, taken out of its slot to be appended.
type Head = (Arc<BatchState>, Body);

impl PartitionBuffer {
    /// Appends compressed heads of the queue until there is none, unless another thread does.
    fn drain(&self, awaited: Option<&Arc<BatchState>>) {
        let head = {
            let mut queue = self.queue.lock();
            if queue.draining {
                return;
            }
            queue.draining = true;
            queue.next_head(false)
        };
        if let Some((batch, body)) = head {
            Turn { buffer: self, over: false }.append_from(batch, taken_out(self, body), awaited);
        }
    }
}

impl Outgoing {
    /// Compresses and checksums the batch, and writes the batches that can be written.
    pub(crate) fn compress(mut self, awaited: Option<&Arc<BatchState>>) {
        let Some(batch) = self.batch.take() else { return };
        // If this unwinds, the drop settles it.
        let state = batch.state.clone();
        let compressed = batch.compress(&self.buffer.core);
        if self.is_head {
            self.settled = true;
            Turn { buffer: &self.buffer, over: false }.append_from(state, Ok(compressed), awaited);
        } else {
            self.settle(Body::Compressed(Box::new(compressed)), awaited);
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
        if self.settled {
            return;
        }
        if self.is_head {
            drop(Turn { buffer: &self.buffer, over: false });
        } else {
            let error = unwound(&*self.buffer.sink);
            self.settle(Body::Failed(error), None);
        }
    }
}

/// What a slot held.
fn taken_out(buffer: &PartitionBuffer, body: Body) -> Result<Compressed> {
    match body {
        Body::Compressed(compressed) => Ok(*compressed),
        Body::Failed(error) => Err(error),
        Body::Compressing | Body::Appending => Err(unwound(&*buffer.sink)),
    }
}

/// One thread's turn to append the heads of a queue: while it has it, the queue's `draining` is
/// set. If an append unwinds, its drop ends it, because no other thread ever would.
struct Turn<'a> {
    buffer: &'a PartitionBuffer,
    over: bool,
}

impl Turn<'_> {
    /// Appends the head, and compressed ones after it.
    fn append_from(
        mut self,
        mut batch: Arc<BatchState>,
        mut body: Result<Compressed>,
        awaited: Option<&Arc<BatchState>>,
    ) {
        let unattended = loop {
            let next = self.append(&batch, body);
            let Some((next, taken)) = next else {
                break !awaited.is_some_and(|awaited| Arc::ptr_eq(awaited, &batch));
            };
            (batch, body) = (next, taken_out(self.buffer, taken));
        };
        if unattended {
            self.buffer.sink.request_sync();
        }
    }

    /// Writes the head, takes it off the queue, completes it, and returns the next one. If the
    /// append fails, all batches after it fail too.
    fn append(&mut self, batch: &BatchState, body: Result<Compressed>) -> Option<Head> {
        let mut body = body;
        let outcome = match &mut body {
            Ok(compressed) => {
                self.buffer.sink.append(&mut compressed.batch, self.buffer.core.identity.as_ref())
            }
            Err(error) => Err(error.clone()),
        };
        match outcome {
            Ok(appended) => {
                let next = {
                    let mut queue = self.buffer.queue.lock();
                    queue.sealed.pop_front();
                    queue.first_ticket += 1;
                    queue.note_written((appended.end, appended.epoch));
                    let next = queue.next_head(true);
                    self.over = next.is_none();
                    next
                };
                batch.complete(Ok(appended));
                next
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Ends the turn: everything in the queue fails.
    fn fail(&mut self, error: Error) {
        self.over = true;
        let failure = Arc::new(Failure::new(error));
        let failed = {
            let mut queue = self.buffer.queue.lock();
            queue.draining = false;
            queue.fail(&failure)
        };
        complete(failed, &failure);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.fail(unwound(&*self.buffer.sink));
        }
    }
}

/// Fails the batches that were taken off the queue, in order.
fn complete((sealed, open): (VecDeque<Slot>, Option<Box<OpenBatch>>), failure: &Arc<Failure>) {
    for slot in sealed {
        slot.batch.complete(Err(failure.clone()));
    }
    if let Some(open) = open {
        open.fail(failure);
    }
}
