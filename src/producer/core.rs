//! The state that all buffers of one producer share: the bound on their bytes, and the errors that
//! no caller has received yet.

use std::task::{Context as Polling, Poll, Waker};

use super::config::ProducerConfig;
use super::doorbell::Doorbell;
use super::failure::Failure;
use super::room::RoomQueue;
use crate::broker::ProducerIdentity;
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering, Rank, Weak};

/// One per producer. Buffers hold it, and the timer holds buffers, so it may outlive the producer;
/// it never holds one.
pub(super) struct Core {
    pub(super) ctx: Arc<Context>,
    pub(super) config: ProducerConfig,
    /// The identity of an idempotent producer.
    pub(super) identity: Option<ProducerIdentity>,
    /// Bytes in batches that are not in the log yet. A sender that reads it a moment too early is
    /// off by a batch, which the bound allows for.
    buffered: AtomicUsize,
    /// The wakers of the senders that wait for room. A sender leaves its waker, notes that in
    /// `has_waiting`, and reads `buffered` once more before it sleeps; a thread that gives bytes
    /// back subtracts them, and then reads `has_waiting`. All four are sequentially consistent, so
    /// either the sender sees the room, or the other thread sees that a sender waits.
    waiting: Mutex<RoomQueue>,
    /// Whether `waiting` may have a waker: a batch that is written where no sender waits takes no
    /// lock. Written under that lock.
    has_waiting: AtomicBool,
    /// The first error since the last flush of a batch with an acknowledgement that was given up.
    /// The failure is held by the other acknowledgements, if there are some.
    failure: Mutex<Option<(Error, Weak<Failure>)>>,
}

impl Core {
    pub(super) fn new(ctx: Arc<Context>, config: ProducerConfig, identity: Option<ProducerIdentity>) -> Self {
        Core {
            ctx,
            config,
            identity,
            buffered: AtomicUsize::new(0),
            waiting: Mutex::new(Rank::ProducerWaiting, RoomQueue::default()),
            has_waiting: AtomicBool::new(false),
            failure: Mutex::new(Rank::ProducerFailure, None),
        }
    }

    /// Bytes in batches that are not in the log yet.
    #[inline]
    pub(super) fn buffered(&self) -> usize {
        self.buffered.load(Ordering::SeqCst)
    }

    /// Whether a sender must make room first.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.buffered() >= self.config.buffer_bytes
    }

    /// The bytes that senders may have before one is refused. Beyond the bound there is room for a
    /// batch, because a batch is charged as it grows.
    pub(super) fn limit(&self) -> usize {
        self.config.buffer_bytes.saturating_add(self.config.batch_bytes)
    }

    /// Wakes the senders whose records have room now. One that is woken and does not use the room
    /// must call this.
    pub(super) fn wake_waiting(&self) {
        if self.has_waiting.load(Ordering::SeqCst) {
            self.wake_some();
        }
    }

    #[cold]
    fn wake_some(&self) {
        let mut waiting = self.waiting.lock();
        let room = self.limit().saturating_sub(self.buffered());
        let woken = waiting.take(room);
        self.has_waiting.store(!waiting.is_empty(), Ordering::SeqCst);
        drop(waiting);
        for waker in woken {
            self.ctx.events.wake(waker);
        }
    }

    /// How many senders wait for room.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    pub(super) fn name(&self) -> Option<Arc<str>> {
        self.identity.as_ref().map(|identity| identity.name.clone())
    }

    /// The error of a record that the buffer has no room for.
    #[cold]
    pub(super) fn full(&self) -> Error {
        Error::BufferFull { producer: self.name(), used: self.buffered(), limit: self.config.buffer_bytes }
    }

    /// Keeps an error for the next flush, if it is the first.
    pub(super) fn keep_failure(&self, failure: &Arc<Failure>) {
        self.failure.lock().get_or_insert_with(|| (failure.error().clone(), Arc::downgrade(failure)));
    }

    /// The error for a flush to return.
    pub(super) fn take_failure(&self) -> Option<Error> {
        let (error, failure) = self.failure.lock().take()?;
        if let Some(failure) = failure.upgrade() {
            failure.take();
        }
        Some(error)
    }

    fn give_back(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Ordering::SeqCst);
        self.wake_waiting();
    }
}

/// The place of one sender among those that wait for room. Dropping it gives the place up.
pub(super) struct RoomWait {
    core: Arc<Core>,
    len: usize,
    number: Option<u64>,
}

impl RoomWait {
    /// For a record of this [length](crate::segment::builder::Measured::len).
    pub(super) fn new(core: &Arc<Core>, len: usize) -> Self {
        RoomWait { core: core.clone(), len, number: None }
    }

    /// Tries to send, or leaves the waker until there is room.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Polling<'_>,
        mut send: impl FnMut() -> Result<T>,
    ) -> Poll<Result<T>> {
        let mut done = send();
        if matches!(done, Err(Error::BufferFull { .. })) {
            // Cloned before the lock is taken, because that is code of the user.
            let waker = cx.waker().clone();
            let (number, _before) = {
                let mut waiting = self.core.waiting.lock();
                let left = waiting.wait(self.number, self.len, waker);
                self.core.has_waiting.store(true, Ordering::SeqCst);
                left
            };
            self.number = Some(number);
            // Once more after leaving the waker: room that was made between is seen, room made
            // later wakes.
            done = send();
        }
        match done {
            Err(Error::BufferFull { .. }) => return Poll::Pending,
            Err(_) => self.leave(),
            Ok(_) => {
                // The room is used: the batch that the record is in wakes the next when it is
                // written.
                if let Some(number) = self.number.take() {
                    let _waker = self.core.waiting.lock().leave(number);
                }
            }
        }
        Poll::Ready(done)
    }

    /// As [`poll`](RoomWait::poll), and blocks until there is room, for at most
    /// [`ProducerConfig::max_block`]. Under a manual clock it tries, and does not wait.
    ///
    /// # Errors
    /// `BufferFull` when the time is over, or those of `send`.
    #[cold]
    pub(super) fn block<T>(mut self, mut send: impl FnMut() -> Result<T>) -> Result<T> {
        let core = self.core.clone();
        let clock = &*core.ctx.clock;
        let bell = Doorbell::new();
        let waker = Waker::from(bell.clone());
        let deadline = clock.monotonic().saturating_add(core.config.max_block);
        loop {
            if let Poll::Ready(done) = self.poll(&Polling::from_waker(&waker), &mut send) {
                return done;
            }
            if !bell.wait_until(clock, deadline) {
                return Err(core.full());
            }
        }
    }

    /// Waits no longer. If it has been woken, another sender is woken for the room.
    fn leave(&mut self) {
        let Some(number) = self.number.take() else { return };
        let waker = self.core.waiting.lock().leave(number);
        if waker.is_none() {
            self.core.wake_waiting();
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The part of the producer's bytes that one batch has; given back when it is dropped. It must not
/// be dropped under a lock, because that wakes the threads that wait for room.
pub(super) struct Charge {
    core: Arc<Core>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Charge { core: core.clone(), bytes: 0 }
    }

    /// Grows to at least `len` bytes, in steps, so that most records touch no memory that senders
    /// share.
    #[inline]
    pub(super) fn cover(&mut self, len: usize) -> usize {
        if len > self.bytes {
            self.grow(len);
        }
        self.bytes
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        let bytes = len.next_multiple_of(STEP.min(self.core.config.batch_bytes));
        self.core.buffered.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.core.give_back(self.bytes);
        }
    }
}

/// Bytes are charged in multiples of this.
const STEP: usize = 4 << 10;
