//! The way from `send` to the log: one open batch per producer and partition, and after it a queue
//! of sealed ones.
//!
//! A record is encoded into the open batch under a short lock. The thread that fills the batch
//! *seals* it: the batch gets the last place of the queue, the lock is released, and the thread
//! *compresses* the batch and computes its checksum under no lock. Then the first thread that finds
//! the head of the queue compressed *drains* the queue: it appends compressed heads until one is
//! not compressed yet; the thread that compresses that one continues from there. So compressing is
//! parallel, appending follows the order of sealing, and no thread waits for another: a thread that
//! finds another draining leaves its batch to it. A batch that is sealed while the queue is empty is
//! the head already, so its thread has the turn to append from the start.
//!
//! If an append fails, everything that this producer has accepted for the partition and not written
//! fails with the same error, the open batch included. Until a caller has taken the error, or no
//! acknowledgement is left that could return it, records that come later fail with it too
//! ([`Failure`](super::failure::Failure)), so that a caller that sends again in the old order keeps
//! that order. This costs a record nothing: after a failure there is no open batch, so the first
//! record that comes opens one, and looks.

mod drain;
mod queue;

use std::collections::VecDeque;
use std::time::Duration;

pub(super) use self::drain::Outgoing;
use self::queue::BatchQueue;
pub(super) use self::queue::{PartitionBuffer, Unflushed};
use super::batch::{BatchLimits, OpenBatch};
use super::core::Core;
use super::outcome::{BatchState, Buffer};
use super::sink::Sink;
use crate::engine::Task;
use crate::error::{Error, Result};
use crate::partitioner::Sticky;
use crate::segment::builder::Measured;
use crate::sync::{Arc, Mutex, Rank, Weak};
use crate::types::{Offset, Timestamp};

/// Work to do after the lock is released.
#[derive(Default)]
struct Chores {
    /// The batch that had no room for the record, and the one that the record filled.
    sealed: [Option<Outgoing>; 2],
    /// By when the timer should come.
    timer: Option<Duration>,
    /// The buffer has something for a flush now, and is not listed.
    list: bool,
}

/// For a record without a key: the choice that brought it here, and the number of partitions.
#[derive(Clone, Copy)]
pub(super) struct Sticking<'a> {
    pub(super) sticky: &'a Sticky,
    pub(super) partitions: u32,
}

/// The open batch for a record.
enum Opened<'a> {
    Batch(&'a mut OpenBatch),
    /// A record without a key goes elsewhere: the batch that has no room for it completes the share
    /// of this partition.
    Elsewhere,
    /// None. The record fails with an earlier write.
    Failed(Arc<BatchState>),
}

/// Where a record was put.
pub(super) struct Placed {
    pub(super) batch: Arc<BatchState>,
    pub(super) index: u32,
}

impl PartitionBuffer {
    pub(super) fn new(core: Arc<Core>, unflushed: Arc<Unflushed>, sink: Box<dyn Sink>) -> Self {
        let queue = BatchQueue {
            open: None,
            sealed: VecDeque::new(),
            first_ticket: 0,
            draining: false,
            listed: false,
            timed: false,
            produced: 0,
            failure: Weak::new(),
            unconfirmed: None,
        };
        PartitionBuffer {
            core,
            unflushed,
            partition: sink.partition().get(),
            sink,
            queue: Mutex::new(Rank::ProducerQueue, queue),
        }
    }

    pub(super) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Takes a record. `None` if records without a key go elsewhere now: choose again.
    ///
    /// # Errors
    /// The record is too large; nothing was taken.
    #[inline]
    pub(super) fn push(
        self: &Arc<Self>,
        record: &Measured<'_>,
        timestamp: Timestamp,
        sticking: Option<Sticking<'_>>,
    ) -> Result<Option<Placed>> {
        let mut chores = None;
        let pushed = self.push_locked(record, timestamp, sticking, &mut chores);
        if let Some(chores) = chores {
            self.finish(chores);
        }
        pushed
    }

    #[inline]
    fn push_locked(
        self: &Arc<Self>,
        record: &Measured<'_>,
        timestamp: Timestamp,
        sticking: Option<Sticking<'_>>,
        chores: &mut Option<Chores>,
    ) -> Result<Option<Placed>> {
        let len = record.len();
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        if sticking.is_some_and(|choice| !choice.sticky.is(self.partition)) {
            return Ok(None);
        }
        let batch = match &mut queue.open {
            Some(open) if open.fits(len) => open,
            _ => match self.make_open(queue, len, timestamp, sticking, chores.get_or_insert_default())? {
                Opened::Batch(open) => open,
                Opened::Failed(batch) => return Ok(Some(Placed { batch, index: 0 })),
                Opened::Elsewhere => return Ok(None),
            },
        };
        let index = batch.push(record, timestamp);
        let placed = Placed { batch: batch.state.clone(), index };
        let full = batch.is_full() || self.core.config.linger.is_zero();
        let share = batch.limits().body();
        if let Some(choice) = sticking {
            queue.produced += len;
            if Sticky::is_time(queue.produced, share, full) {
                self.leave(queue, choice);
            }
        }
        if full {
            let [_, filled] = &mut chores.get_or_insert_default().sealed;
            *filled = queue.seal(self);
        }
        Ok(Some(placed))
    }

    pub(super) fn too_large(&self, size: usize, limit: usize) -> Error {
        let (topic, partition) = (self.sink.topic().clone(), self.sink.partition());
        Error::RecordTooLarge { topic, partition, size, limit }
    }

    /// An open batch that has room for a record of `len` bytes.
    #[cold]
    fn make_open<'a>(
        self: &Arc<Self>,
        queue: &'a mut BatchQueue,
        len: usize,
        timestamp: Timestamp,
        sticking: Option<Sticking<'_>>,
        chores: &mut Chores,
    ) -> Result<Opened<'a>> {
        let settings = self.sink.batch_settings();
        let limits = BatchLimits::new(&self.core, &settings);
        if len > limits.record {
            return Err(self.too_large(len, limits.record));
        }
        if let Some(failure) = queue.unreported_failure() {
            return Ok(Opened::Failed(Arc::new(BatchState::failed(self.clone(), failure))));
        }
        if let Some(left) = queue.seal(self) {
            chores.sealed = [Some(left), None];
            if let Some(choice) = sticking
                && Sticky::is_time(queue.produced + len, limits.body(), true)
            {
                self.leave(queue, choice);
                return Ok(Opened::Elsewhere);
            }
        }
        let state = Arc::new(BatchState::new(self.clone()));
        let open = Box::new(OpenBatch::new(&self.core, limits, settings.compression, timestamp, len, state));
        chores.list = queue.list();
        let (open, timer) = self.open(queue, open);
        chores.timer = timer;
        Ok(Opened::Batch(open))
    }

    /// Lets a batch take records, and returns when the timer should come if it would not come
    /// anyway.
    fn open<'a>(
        &self,
        queue: &'a mut BatchQueue,
        mut batch: Box<OpenBatch>,
    ) -> (&'a mut OpenBatch, Option<Duration>) {
        let linger = self.core.config.linger;
        let mut timer = None;
        if !linger.is_zero() {
            batch.deadline = self.core.ctx.clock.monotonic().saturating_add(linger);
            if !queue.timed {
                queue.timed = true;
                timer = Some(batch.deadline);
            }
        }
        (queue.open.insert(batch), timer)
    }

    /// Records without a key go elsewhere from now on.
    fn leave(&self, queue: &mut BatchQueue, choice: Sticking<'_>) {
        queue.produced = 0;
        choice.sticky.leave(self.partition, choice.partitions);
    }

    #[cold]
    fn finish(self: &Arc<Self>, chores: Chores) {
        if chores.list {
            self.unflushed.add(self);
        }
        if let Some(at) = chores.timer {
            self.schedule(at);
        }
        for sealed in chores.sealed.into_iter().flatten() {
            sealed.compress(None);
        }
    }

    fn schedule(self: &Arc<Self>, at: Duration) {
        self.core.ctx.timer.schedule(at, self.clone());
    }

    /// Takes batches that were encoded elsewhere, and adds to `homes` where each one's records are
    /// now: in which batch, from which index on. The batches to be compressed are added to
    /// `sealed`. Of the bytes, `stuck` are of records without a key.
    pub(super) fn adopt(
        self: &Arc<Self>,
        batches: Vec<OpenBatch>,
        (stuck, choice): (usize, Sticking<'_>),
        homes: &mut Vec<(Arc<BatchState>, u32)>,
        sealed: &mut Vec<Outgoing>,
    ) {
        // Kept until the lock is released: their charges are given back when they are dropped.
        let mut absorbed = Vec::new();
        let mut timer = None;
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        if let Some(failure) = queue.unreported_failure() {
            drop(guard);
            for batch in batches {
                batch.fail(&failure);
                homes.push((batch.state, 0));
            }
            return;
        }
        for batch in batches {
            let share = batch.limits().body();
            let mut complete = false;
            let home = queue.open.as_mut().and_then(|open| Some((open.absorb(&batch)?, open.state.clone())));
            if let Some((first, state)) = home {
                homes.push((state, first));
                absorbed.push(batch);
            } else {
                homes.push((batch.state.clone(), 0));
                if let Some(left) = queue.seal(self) {
                    sealed.push(left);
                    complete = true;
                }
                timer = timer.or(self.open(queue, Box::new(batch)).1);
            }
            if queue.open.as_ref().is_some_and(|open| open.is_full()) || self.core.config.linger.is_zero() {
                sealed.extend(queue.seal(self));
                complete = true;
            }
            if stuck > 0 && Sticky::is_time(queue.produced + stuck, share, complete) {
                self.leave(queue, choice);
            }
        }
        if stuck > 0 && choice.sticky.is(self.partition) {
            queue.produced += stuck;
        }
        let list = queue.list();
        drop(guard);
        drop(absorbed);
        if list {
            self.unflushed.add(self);
        }
        if let Some(at) = timer {
            self.schedule(at);
        }
    }

    /// The time from which a batch should count that [`adopt`](PartitionBuffer::adopt) could append
    /// to the open one.
    pub(super) fn base_timestamp(&self) -> Option<Timestamp> {
        self.queue.lock().open.as_ref().map(|open| open.base_timestamp())
    }

    /// Seals the open batch, or if one is `awaited` only that, and writes the batches that can be
    /// written. The caller will wait until the awaited batch is visible, so no sync is requested
    /// for it.
    pub(super) fn write(self: &Arc<Self>, awaited: Option<&Arc<BatchState>>) {
        let sealed = {
            let mut queue = self.queue.lock();
            match (&queue.open, awaited) {
                (Some(open), Some(awaited)) if !Arc::ptr_eq(&open.state, awaited) => None,
                _ => queue.seal(self),
            }
        };
        if let Some(sealed) = sealed {
            sealed.compress(awaited);
        }
    }

    /// Bytes in the open batch.
    pub(super) fn open_bytes(&self) -> usize {
        self.queue.lock().open.as_ref().map_or(0, |open| open.len())
    }

    /// The last batch that is sealed and not in the log.
    pub(super) fn last_sealed(&self) -> Option<Arc<BatchState>> {
        self.queue.lock().sealed.back().map(|slot| slot.batch.clone())
    }

    /// The end and the epoch of the appended records, unless a flush has seen them become visible.
    pub(super) fn unconfirmed(&self) -> Option<(Offset, u32)> {
        self.queue.lock().unconfirmed
    }

    /// Something of this producer was written past the buffer, up to this end and in this epoch.
    pub(super) fn note_written(self: &Arc<Self>, end: (Offset, u32)) {
        let list = {
            let mut queue = self.queue.lock();
            queue.note_written(end);
            queue.list()
        };
        if list {
            self.unflushed.add(self);
        }
    }

    /// A flush knows the outcome of everything up to this
    /// [`unconfirmed`](PartitionBuffer::unconfirmed) end.
    pub(super) fn confirm(&self, end: (Offset, u32)) {
        let mut queue = self.queue.lock();
        if queue.unconfirmed == Some(end) {
            queue.unconfirmed = None;
        }
    }

    /// The producer is dropped: the timer writes the open batch as soon as it can.
    pub(super) fn hand_over(self: &Arc<Self>) {
        let due = {
            let mut queue = self.queue.lock();
            queue.open.as_mut().map(|open| open.deadline = Duration::ZERO).is_some()
        };
        if due {
            self.schedule(self.core.ctx.clock.monotonic());
        }
    }
}

impl Buffer for PartitionBuffer {
    fn core(&self) -> &Core {
        &self.core
    }

    fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    fn write_awaited(self: Arc<Self>, batch: &Arc<BatchState>) {
        self.write(Some(batch));
    }
}

impl Task for PartitionBuffer {
    /// Writes the open batch if it has lingered long enough.
    fn run(self: Arc<Self>, now: Duration) {
        let mut queue = self.queue.lock();
        queue.timed = false;
        let Some(deadline) = queue.open.as_ref().map(|open| open.deadline) else { return };
        if deadline > now {
            // The batch for which the timer was set is gone, and this one is younger.
            queue.timed = true;
            drop(queue);
            self.schedule(deadline);
            return;
        }
        let sealed = queue.seal(&self);
        drop(queue);
        if let Some(sealed) = sealed {
            sealed.compress(None);
        }
    }
}
