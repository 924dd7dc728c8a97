//! Events for the user's listener: passed at once where no lock is held, queued otherwise.

use crate::stats::{Event, OnEvent};
use crate::sync::{AtomicBool, Mutex, Ordering, Rank, about_to_call_user_code};

/// The listener, and the events that wait for it.
pub(crate) struct Events {
    listener: Option<OnEvent>,
    /// Events that happened while a lock was held.
    queued: Mutex<Vec<Event>>,
    has_queued: AtomicBool,
}

impl Events {
    pub(super) fn new(listener: Option<OnEvent>) -> Self {
        Events { listener, queued: Mutex::new(Rank::Events, Vec::new()), has_queued: AtomicBool::new(false) }
    }

    /// Passes an event to the user's listener, if there is one. The caller must hold no lock except
    /// that of a compaction.
    pub(crate) fn report(&self, event: &Event) {
        if let Some(listener) = &self.listener {
            about_to_call_user_code("the event listener", &[Rank::Compacting]);
            listener(event);
        }
    }

    /// Queues an event for the next [`deliver`](Events::deliver), because the caller holds a lock.
    /// Without a listener the event is dropped.
    pub(crate) fn queue(&self, event: Event) {
        if self.listener.is_some() {
            self.queued.lock().push(event);
            self.has_queued.store(true, Ordering::Release);
        }
    }

    /// Passes all queued events to the listener, oldest first. The caller must hold no lock, as for
    /// [`report`](Events::report). One load if nothing is queued.
    #[inline]
    pub(crate) fn deliver(&self) {
        if self.has_queued.load(Ordering::Acquire) {
            self.deliver_all();
        }
    }

    #[cold]
    fn deliver_all(&self) {
        self.has_queued.store(false, Ordering::Release);
        let queued = std::mem::take(&mut *self.queued.lock());
        queued.iter().for_each(|event| self.report(event));
    }
}
