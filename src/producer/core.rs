//! The state that all buffers of one producer share: the bound on their bytes, and the errors that no
//! caller has received yet.

use std::task::Waker;

use super::config::ProducerConfig;
use super::failure::Failure;
use crate::broker::ProducerIdentity;
use crate::engine::Context;
use crate::error::Error;
use crate::sync::{Arc, AtomicUsize, HELD_BY_WAKING, Mutex, Ordering, Rank, Weak, about_to_call_user_code};

/// One per producer. Buffers hold it, and the timer holds buffers, so it may outlive the producer;
/// it never holds one.
pub(super) struct Core {
    pub(super) ctx: Arc<Context>,
    pub(super) config: ProducerConfig,
    /// The identity of an idempotent producer.
    pub(super) identity: Option<ProducerIdentity>,
    /// Bytes in batches that are not in the log yet. A counter and nothing more: it orders no other
    /// memory, and a sender that reads it a moment too early is off by a batch, which the bound
    /// allows for.
    buffered: AtomicUsize,
    /// The wakers of the threads that wait for room. A waiter leaves its waker and tries once more
    /// before it sleeps; a thread that gives bytes back subtracts them and then takes this lock. So
    /// either the second try sees the room, or the waker is found.
    waiting: Mutex<Vec<Waker>>,
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
            waiting: Mutex::new(Rank::ProducerWaiting, Vec::new()),
            failure: Mutex::new(Rank::ProducerFailure, None),
        }
    }

    /// Bytes in batches that are not in the log yet.
    #[inline]
    pub(super) fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Has `waker` woken when bytes are given back.
    pub(super) fn wait_for_room(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
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
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        let woken = std::mem::take(&mut *self.waiting.lock());
        for waker in woken {
            about_to_call_user_code("a waker", HELD_BY_WAKING);
            waker.wake();
        }
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
