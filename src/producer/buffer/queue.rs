//! The batches of one producer for one partition, in the order in which they are written.

use std::collections::VecDeque;

use crate::error::Error;
use crate::producer::batch::{Compressed, OpenBatch};
use crate::producer::core::Core;
use crate::producer::failure::Failure;
use crate::producer::outcome::BatchState;
use crate::producer::sink::Sink;
use crate::sync::{Arc, Mutex, Rank, Weak};
use crate::types::Offset;

/// The buffers of a producer that have something for a flush. Each is here once, from the time at
/// which it gets something until a flush or a full buffer finds it without anything.
pub(crate) struct Unflushed {
    /// Taken before a buffer's lock.
    buffers: Mutex<Vec<Weak<PartitionBuffer>>>,
}

impl Unflushed {
    pub(crate) fn new() -> Self {
        Unflushed { buffers: Mutex::new(Rank::ProducerUnflushed, Vec::new()) }
    }

    /// Adds a buffer after it has been marked as listed.
    pub(super) fn add(&self, buffer: &Arc<PartitionBuffer>) {
        self.buffers.lock().push(Arc::downgrade(buffer));
    }

    /// The buffers that have something. Forgets the others.
    pub(crate) fn list(&self) -> Vec<Arc<PartitionBuffer>> {
        let mut listed = Vec::new();
        self.buffers.lock().retain(|buffer| {
            let Some(buffer) = buffer.upgrade() else { return false };
            let stays = buffer.queue.lock().stays_listed();
            if stays {
                listed.push(buffer);
            }
            stays
        });
        listed
    }
}

/// The buffer of one producer for one partition.
pub(crate) struct PartitionBuffer {
    pub(super) core: Arc<Core>,
    pub(super) unflushed: Arc<Unflushed>,
    pub(super) sink: Box<dyn Sink>,
    /// The sink's, close at hand.
    pub(super) partition: u32,
    /// Held while a record is encoded or a batch changes its place, never while one is compressed,
    /// appended or completed.
    pub(super) queue: Mutex<BatchQueue>,
}

pub(super) struct BatchQueue {
    /// In a box, so that it is moved without copying it.
    pub(super) open: Option<Box<OpenBatch>>,
    /// In the order of sealing. A batch stays until it has been appended, so that a flush finds it.
    pub(super) sealed: VecDeque<Slot>,
    /// The ticket of the first slot. Tickets are counted through, so a slot is found by its own.
    pub(super) first_ticket: u64,
    /// A thread is appending the heads, or compressing the first one, and no other thread may append.
    /// That thread looks for a compressed head under this lock before it stops. A thread that marks
    /// a head as compressed does so under this lock and then reads this flag. So a compressed head
    /// is never left without a thread to append it.
    pub(super) draining: bool,
    /// It is among the [`Unflushed`], or the thread that has marked it is about to add it.
    pub(super) listed: bool,
    /// An entry of the timer will come for the open batch, or earlier.
    pub(super) timed: bool,
    /// Bytes of records without a key since this partition was chosen for them.
    pub(super) produced: usize,
    /// The last failed write. While a caller is to learn of it, nothing is taken: there is no open
    /// batch, and no sealed one.
    pub(super) failure: Weak<Failure>,
    /// After the last record appended, and in which epoch, until a flush has seen it become
    /// visible.
    pub(super) unconfirmed: Option<(Offset, u32)>,
}

pub(super) struct Slot {
    pub(super) batch: Arc<BatchState>,
    pub(super) body: Body,
}

pub(super) enum Body {
    /// The thread that sealed it is at work.
    Compressing,
    Compressed(Box<Compressed>),
    /// Compressing it unwound.
    Failed(Error),
    /// The thread that drains the queue is at work.
    Appending,
}

impl BatchQueue {
    /// An earlier write may be noted after a later one. Of two ends the later one covers both; an
    /// end in a later epoch is later, whatever its offset.
    pub(super) fn note_written(&mut self, (end, epoch): (Offset, u32)) {
        let is_later = self.unconfirmed.is_none_or(|(noted, in_epoch)| (epoch, end) > (in_epoch, noted));
        if is_later {
            self.unconfirmed = Some((end, epoch));
        }
    }

    /// Marks it as listed. Returns whether the caller must add it.
    pub(super) fn list(&mut self) -> bool {
        !std::mem::replace(&mut self.listed, true)
    }

    /// Whether there is something for a flush: it is listed from now on, or it is not.
    fn stays_listed(&mut self) -> bool {
        self.listed = self.open.is_some() || !self.sealed.is_empty() || self.unconfirmed.is_some();
        self.listed
    }

    /// Takes everything that is not in the log, which fails with this write.
    pub(super) fn fail(&mut self, failure: &Arc<Failure>) -> (VecDeque<Slot>, Option<Box<OpenBatch>>) {
        self.failure = Arc::downgrade(failure);
        self.first_ticket += self.sealed.len() as u64;
        (std::mem::take(&mut self.sealed), self.open.take())
    }

    /// The failed write that a caller is to learn of before anything more is taken.
    pub(super) fn unreported_failure(&self) -> Option<Arc<Failure>> {
        self.failure.upgrade().filter(|failure| !failure.is_taken())
    }
}
