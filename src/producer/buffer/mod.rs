//! The way from `send` to the log: one open batch per producer and partition, and after it a queue
//! of sealed ones.
//!
//! A record is encoded into the open batch under a short lock. The thread that fills the batch
//! *seals* it: the batch gets the last place of the queue, the lock is released, and the thread
//! *compresses* the batch and computes its checksum under no lock. Then the first thread that finds
//! the head of the queue compressed *drains* the queue: it appends compressed heads until one is
//! not compressed yet; the thread that compresses that one continues from there. So compressing is
//! parallel, appending follows the order of sealing, and no thread waits for another: a thread that
//! finds another draining leaves its batch to it.
//!
//! If an append fails, everything that this producer has accepted for the partition and not written
//! fails with the same error, the open batch included, so that a caller that sends again in the old
//! order keeps that order.

mod drain;

use std::collections::VecDeque;
use std::time::Duration;

pub(in crate::producer) use self::drain::Outgoing;
use self::drain::Turn;
use super::batch::{BatchLimits, Compressed, OpenBatch};
use super::core::Core;
use super::pending::BatchState;
use super::sink::Sink;
use crate::engine::Task;
use crate::error::{Error, Result};
use crate::partitioner::Sticky;
use crate::record::Record;
use crate::sync::{Arc, Mutex, Rank};
use crate::types::{Offset, Timestamp};

/// The buffer of one producer for one partition.
pub(in crate::producer) struct PartitionBuffer {
    core: Arc<Core>,
    sink: Box<dyn Sink>,
    /// The sink's, close at hand.
    partition: u32,
    /// Held while a record is encoded or a batch changes its place, never while one is compressed,
    /// appended or completed.
    queue: Mutex<BatchQueue>,
}

struct BatchQueue {
    open: Option<OpenBatch>,
    /// In the order of sealing. A batch stays until it has been appended, so that a flush finds it.
    sealed: VecDeque<Slot>,
    /// The ticket of the first slot. Tickets are counted through, so a slot is found by its own.
    first_ticket: u64,
    /// A thread is appending the heads, and no other thread may. That thread looks for a compressed
    /// head under this lock before it stops. A thread that marks a head as compressed does so under
    /// this lock and then reads this flag. So a compressed head is never left without a thread to
    /// append it.
    draining: bool,
    /// An entry of the timer will come for the open batch, or earlier.
    timed: bool,
    /// Bytes of records without a key since this partition was chosen for them.
    produced: usize,
    /// After the last record appended, and in which epoch, until a flush has seen it become
    /// visible.
    unconfirmed: Option<(Offset, u32)>,
}

struct Slot {
    batch: Arc<BatchState>,
    body: Body,
}

enum Body {
    /// The thread that sealed it is at work.
    Compressing,
    Compressed(Compressed),
    /// Compressing it unwound.
    Failed(Error),
    /// The thread that drains the queue is at work.
    Appending,
}

/// Work to do after the lock is released.
#[derive(Default)]
struct Chores {
    /// The batch that had no room for the record, and the one that the record filled.
    sealed: [Option<Outgoing>; 2],
    /// By when the timer should come.
    timer: Option<Duration>,
}

/// For a record without a key: the choice that brought it here, and the number of partitions.
#[derive(Clone, Copy)]
pub(in crate::producer) struct Sticking<'a> {
    pub(in crate::producer) sticky: &'a Sticky,
    pub(in crate::producer) partitions: u32,
}

/// Where a record was put.
pub(in crate::producer) struct Placed {
    pub(in crate::producer) batch: Arc<BatchState>,
    pub(in crate::producer) index: u32,
}

impl PartitionBuffer {
    pub(in crate::producer) fn new(core: Arc<Core>, sink: Box<dyn Sink>) -> Self {
        let queue = BatchQueue {
            open: None,
            sealed: VecDeque::new(),
            first_ticket: 0,
            draining: false,
            timed: false,
            produced: 0,
            unconfirmed: None,
        };
        PartitionBuffer {
            core,
            partition: sink.partition().get(),
            sink,
            queue: Mutex::new(Rank::ProducerQueue, queue),
        }
    }

    pub(in crate::producer) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(in crate::producer) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Takes a record of this [`record_len`](crate::segment::builder::record_len). `None` if
    /// records without a key go elsewhere now: choose again.
    ///
    /// # Errors
    /// The record is too large; nothing was taken.
    #[inline]
    pub(in crate::producer) fn push(
        self: &Arc<Self>,
        record: &Record<'_>,
        len: usize,
        timestamp: Timestamp,
        sticking: Option<Sticking<'_>>,
    ) -> Result<Option<Placed>> {
        let mut chores = Chores::default();
        let pushed = self.push_locked(record, len, timestamp, sticking, &mut chores);
        if !chores.is_empty() {
            self.finish(&mut chores);
        }
        pushed
    }

    #[inline]
    fn push_locked(
        self: &Arc<Self>,
        record: &Record<'_>,
        len: usize,
        timestamp: Timestamp,
        sticking: Option<Sticking<'_>>,
        chores: &mut Chores,
    ) -> Result<Option<Placed>> {
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        if sticking.is_some_and(|choice| !choice.sticky.is(self.partition)) {
            return Ok(None);
        }
        let batch = match &mut queue.open {
            Some(open) if open.fits(len) => open,
            _ => match self.make_open(queue, len, timestamp, sticking, chores)? {
                Some(open) => open,
                None => return Ok(None),
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
            let [_, filled] = &mut chores.sealed;
            *filled = queue.seal(self);
        }
        Ok(Some(placed))
    }

    pub(in crate::producer) fn too_large(&self, size: usize, limit: usize) -> Error {
        Error::RecordTooLarge { topic: self.sink.topic().clone(), size, limit }
    }

    /// An open batch that has room for a record of `len` bytes; `None` if a record without a key
    /// goes elsewhere, because the batch that has no room for it completes the share of this
    /// partition.
    #[cold]
    fn make_open<'a>(
        self: &Arc<Self>,
        queue: &'a mut BatchQueue,
        len: usize,
        timestamp: Timestamp,
        sticking: Option<Sticking<'_>>,
        chores: &mut Chores,
    ) -> Result<Option<&'a mut OpenBatch>> {
        let settings = self.sink.settings();
        let limits = BatchLimits::new(&self.core, &settings);
        if len > limits.record {
            return Err(self.too_large(len, limits.record));
        }
        if let Some(left) = queue.seal(self) {
            chores.sealed = [Some(left), None];
            if let Some(choice) = sticking
                && Sticky::is_time(queue.produced + len, limits.body(), true)
            {
                self.leave(queue, choice);
                return Ok(None);
            }
        }
        let state = Arc::new(BatchState::new(self.clone()));
        let open = OpenBatch::new(&self.core, limits, settings.compression, timestamp, len, state);
        let (open, timer) = self.open(queue, open);
        chores.timer = timer;
        Ok(Some(open))
    }

    /// Lets a batch take records, and returns when the timer should come if it would not come
    /// anyway.
    fn open<'a>(
        &self,
        queue: &'a mut BatchQueue,
        mut batch: OpenBatch,
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
    fn finish(self: &Arc<Self>, chores: &mut Chores) {
        if let Some(at) = chores.timer.take() {
            self.schedule(at);
        }
        for sealed in &mut chores.sealed {
            if let Some(sealed) = sealed.take() {
                sealed.compress(None);
            }
        }
    }

    fn schedule(self: &Arc<Self>, at: Duration) {
        self.core.ctx.timer.schedule(at, self.clone());
    }

    /// Takes batches that were encoded elsewhere, and adds to `homes` where each one's records are
    /// now: in which batch, from which index on. The batches to be compressed are added to
    /// `sealed`. Of the bytes, `stuck` are of records without a key.
    pub(in crate::producer) fn adopt(
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
                timer = timer.or(self.open(queue, batch).1);
            }
            if queue.open.as_ref().is_some_and(OpenBatch::is_full) || self.core.config.linger.is_zero() {
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
        drop(guard);
        drop(absorbed);
        if let Some(at) = timer {
            self.schedule(at);
        }
    }

    /// The time from which a batch should count that [`adopt`](PartitionBuffer::adopt) could append
    /// to the open one.
    pub(in crate::producer) fn base_timestamp(&self) -> Option<Timestamp> {
        self.queue.lock().open.as_ref().map(OpenBatch::base_timestamp)
    }

    /// Seals the open batch, or if one is `awaited` only that, and writes the batches that can be
    /// written. The caller will wait until the awaited batch is visible, so no sync is requested
    /// for it.
    pub(in crate::producer) fn write(self: &Arc<Self>, awaited: Option<&Arc<BatchState>>) {
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
    pub(in crate::producer) fn open_bytes(&self) -> usize {
        self.queue.lock().open.as_ref().map_or(0, OpenBatch::len)
    }

    /// The last batch that is sealed and not in the log.
    pub(in crate::producer) fn last_sealed(&self) -> Option<Arc<BatchState>> {
        self.queue.lock().sealed.back().map(|slot| slot.batch.clone())
    }

    /// The end and the epoch of the appended records, unless a flush has seen them become visible.
    pub(in crate::producer) fn unconfirmed(&self) -> Option<(Offset, u32)> {
        self.queue.lock().unconfirmed
    }

    /// Something of this producer was written past the buffer, up to this end and in this epoch.
    pub(in crate::producer) fn note_written(&self, end: (Offset, u32)) {
        self.queue.lock().note_written(end);
    }

    /// A flush knows the outcome of everything up to this
    /// [`unconfirmed`](PartitionBuffer::unconfirmed) end.
    pub(in crate::producer) fn confirm(&self, end: (Offset, u32)) {
        let mut queue = self.queue.lock();
        if queue.unconfirmed == Some(end) {
            queue.unconfirmed = None;
        }
    }

    /// The producer is dropped: the timer writes the open batch as soon as it can.
    pub(in crate::producer) fn hand_over(self: &Arc<Self>) {
        let due = {
            let mut queue = self.queue.lock();
            queue.open.as_mut().map(|open| open.deadline = Duration::ZERO).is_some()
        };
        if due {
            self.schedule(self.core.ctx.clock.monotonic());
        }
    }

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

impl BatchQueue {
    /// Gives the open batch the last place.
    fn seal(&mut self, buffer: &Arc<PartitionBuffer>) -> Option<Outgoing> {
        let batch = self.open.take()?;
        let ticket = self.first_ticket + self.sealed.len() as u64;
        self.sealed.push_back(Slot { batch: batch.state.clone(), body: Body::Compressing });
        Some(Outgoing { buffer: buffer.clone(), ticket, batch: Some(batch), settled: false })
    }

    /// An earlier write may be noted after a later one. Of two ends the later one covers both; an
    /// end in a later epoch is later, whatever its offset.
    fn note_written(&mut self, (end, epoch): (Offset, u32)) {
        let is_later = self.unconfirmed.is_none_or(|(noted, in_epoch)| (epoch, end) > (in_epoch, noted));
        if is_later {
            self.unconfirmed = Some((end, epoch));
        }
    }

    /// Everything that is not in the log.
    fn take_all(&mut self) -> (VecDeque<Slot>, Option<OpenBatch>) {
        self.first_ticket += self.sealed.len() as u64;
        (std::mem::take(&mut self.sealed), self.open.take())
    }
}

impl Chores {
    #[inline]
    fn is_empty(&self) -> bool {
        self.timer.is_none() && self.sealed.iter().all(Option::is_none)
    }
}
