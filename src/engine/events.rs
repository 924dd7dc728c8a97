//! Calls of the user's code that no call of the user asked for: wakers, and the listener of events.
//!
//! Such code may block, call the broker, or panic. Therefore it runs under no lock: a thread that
//! is about to take one under which it may wake or report declares a [`Later`] first, and the calls
//! are made when that is dropped. And its panic is caught, because the thread is ours, or that of
//! another caller, whose promise must be kept: it is counted, reported as
//! [`Event::Panicked`](crate::stats::Event::Panicked), and returned by
//! [`Broker::close`](crate::Broker::close).

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Duration;

use super::observe;
use crate::error::{Error, Result};
use crate::stats::{Event, OnEvent};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, Rank, about_to_call_user_code};

/// The listener, the events that wait for it, and the panics of the user's code.
pub(crate) struct Events {
    listener: Option<OnEvent>,
    /// Events that happened while a lock was held.
    queued: Mutex<Vec<Event>>,
    has_queued: AtomicBool,
    /// How many panics were caught.
    panics: AtomicU64,
    /// The first of them: the code that panicked, and its message.
    first_panic: OnceLock<(&'static str, String)>,
}

impl Events {
    pub(crate) fn new(listener: Option<OnEvent>) -> Self {
        Events {
            listener,
            queued: Mutex::new(Rank::Events, Vec::new()),
            has_queued: AtomicBool::new(false),
            panics: AtomicU64::new(0),
            first_panic: OnceLock::new(),
        }
    }

    /// Passes an event to the user's listener, if there is one, at once or after the thread's last
    /// [`Later`]. The caller must hold no lock that it took before that.
    pub(crate) fn report(self: &Arc<Self>, event: &Event) {
        if !self.is_heard() {
            return;
        }
        if is_later() {
            self.queue(event.clone());
            keep(Call::Deliver(self.clone()));
        } else {
            self.call_listener(event);
            self.deliver();
        }
    }

    /// Queues an event for the next [`deliver`](Events::deliver), because the caller holds a lock.
    /// Without a listener the event is dropped.
    pub(crate) fn queue(&self, event: Event) {
        if self.is_heard() {
            self.queued.lock().push(event);
            self.has_queued.store(true, Ordering::Release);
        }
    }

    /// Passes all queued events to the listener, oldest first. The caller must hold no lock, as for
    /// [`report`](Events::report). One load if nothing is queued.
    #[inline]
    pub(crate) fn deliver(self: &Arc<Self>) {
        if self.has_queued.load(Ordering::Acquire) {
            self.deliver_all();
        }
    }

    #[cold]
    fn deliver_all(self: &Arc<Self>) {
        if is_later() {
            return keep(Call::Deliver(self.clone()));
        }
        // A panic of the listener queues nothing, so this ends.
        while self.has_queued.swap(false, Ordering::AcqRel) {
            let queued = std::mem::take(&mut *self.queued.lock());
            queued.iter().for_each(|event| self.call_listener(event));
        }
    }

    /// Whether a listener, `tracing` or `metrics` gets the events.
    fn is_heard(&self) -> bool {
        observe::IS_ON || self.listener.is_some()
    }

    /// Calls a subscriber of `tracing` or a recorder of `metrics`, through a function of
    /// [`observe`]. The caller must hold no lock.
    #[inline]
    pub(crate) fn observe(&self, call: impl FnOnce()) {
        if observe::IS_ON {
            about_to_call_user_code(OBSERVER);
            self.catch(OBSERVER, call);
        }
    }

    fn call_listener(&self, event: &Event) {
        self.observe(|| observe::event(event));
        if let Some(listener) = &self.listener {
            about_to_call_user_code(LISTENER);
            self.catch(LISTENER, || listener(event));
        }
    }

    /// Wakes a task, at once or after the thread's last [`Later`]. The caller must hold no lock
    /// that it took before that.
    pub(crate) fn wake(self: &Arc<Self>, waker: Waker) {
        if is_later() {
            keep(Call::Wake(self.clone(), waker));
        } else {
            self.wake_now(waker);
        }
    }

    fn wake_now(self: &Arc<Self>, waker: Waker) {
        about_to_call_user_code("a waker");
        self.catch("a waker", || waker.wake());
        self.deliver();
    }

    /// Calls code that is the user's, or that calls such code. `None` if it panicked: `which` is
    /// then reported.
    pub(crate) fn catch<T>(&self, which: &'static str, call: impl FnOnce() -> T) -> Option<T> {
        caught(call).map_err(|message| self.note_panic(which, message)).ok()
    }

    fn note_panic(&self, which: &'static str, message: String) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.first_panic.get_or_init(|| (which, message.clone()));
        // A listener that panics does not hear of it: it could panic at each event for ever. So
        // could a subscriber, which hears of the same events.
        if which != LISTENER && which != OBSERVER {
            self.queue(Event::Panicked { which, message });
        }
    }

    /// How many panics were caught.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `Panicked` if a panic was caught.
    pub(crate) fn check_panics(&self) -> Result<()> {
        match self.first_panic.get() {
            None => Ok(()),
            Some((which, message)) => {
                Err(Error::Panicked { which, message: message.clone(), times: self.panics() })
            }
        }
    }
}

const LISTENER: &str = "the event listener";

const OBSERVER: &str = "a subscriber or recorder";

/// How long a thread of ours waits after a panic, so that a clock that always panics takes no
/// processor.
pub(super) const AFTER_A_PANIC: Duration = Duration::from_millis(100);

/// Calls code of the user. Every panic that this crate catches is caught here.
///
/// # Errors
/// The message of its panic.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = message_of(&*payload);
        // The drop of the payload is code of the user too.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        message
    })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_string()
}

/// While it lives, its thread calls no waker and no listener. The calls are made when the thread's
/// last one is dropped. Declare it *before* the guard of a lock, so that it is dropped after that.
#[must_use]
pub(crate) struct Later(PhantomData<*const ()>);

/// A call that waits for the drop of the last [`Later`].
enum Call {
    Wake(Arc<Events>, Waker),
    Deliver(Arc<Events>),
}

/// Calls that were taken from a thread, to be made by another.
pub(super) struct KeptCalls(Vec<Call>);

/// The state of one thread.
struct ThreadCalls {
    laters: usize,
    calls: Vec<Call>,
}

thread_local! {
    static KEPT: RefCell<ThreadCalls> = const { RefCell::new(ThreadCalls { laters: 0, calls: Vec::new() }) };
}

impl Later {
    pub(crate) fn new() -> Self {
        with(|kept| kept.laters += 1);
        Later(PhantomData)
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let calls = with(|kept| {
            kept.laters = kept.laters.saturating_sub(1);
            if kept.laters == 0 { std::mem::take(&mut kept.calls) } else { Vec::new() }
        });
        calls.into_iter().flatten().for_each(Call::make);
    }
}

impl Call {
    fn make(self) {
        match self {
            Call::Wake(events, waker) => events.wake_now(waker),
            Call::Deliver(events) => events.deliver(),
        }
    }
}

impl KeptCalls {
    /// Those that this thread has kept so far; `None` if there are none.
    pub(super) fn take() -> Option<Self> {
        let calls = with(|kept| std::mem::take(&mut kept.calls)).unwrap_or_default();
        (!calls.is_empty()).then_some(KeptCalls(calls))
    }

    /// Makes them, or keeps them for the drop of this thread's last [`Later`].
    pub(super) fn make(self) {
        self.0.into_iter().for_each(|call| if is_later() { keep(call) } else { call.make() });
    }
}

/// Whether this thread has declared a [`Later`].
pub(super) fn is_later() -> bool {
    with(|kept| kept.laters > 0) == Some(true)
}

fn keep(call: Call) {
    with(|kept| kept.calls.push(call));
}

/// `None` while the thread ends.
fn with<T>(look: impl FnOnce(&mut ThreadCalls) -> T) -> Option<T> {
    KEPT.try_with(|kept| look(&mut kept.borrow_mut())).ok()
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) < 2, "the third call");
        }
    }

    #[test]
    fn calls_wait_for_the_last_later_and_a_panic_is_kept() {
        let (events, count) = (Arc::new(Events::new(None)), Arc::new(Count(AtomicU64::new(0))));
        let lock = Mutex::new(Rank::Manifest, ());
        let wake = || events.wake(Waker::from(count.clone()));
        {
            let _outer = Later::new();
            let _held = lock.lock();
            let inner = Later::new();
            wake();
            drop(inner);
            assert_eq!(count.0.load(Ordering::Relaxed), 0);
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        wake();
        assert!(events.check_panics().is_ok());
        wake();
        assert_eq!((count.0.load(Ordering::Relaxed), events.panics()), (3, 1));
        let error = events.check_panics().unwrap_err();
        assert!(
            matches!(&error, Error::Panicked { which: "a waker", message, times: 1 } if message == "the third call"),
            "{error:?}"
        );
    }

    #[test]
    fn calls_that_were_taken_are_made_by_another_thread() {
        let (events, count) = (Arc::new(Events::new(None)), Arc::new(Count(AtomicU64::new(0))));
        let later = Later::new();
        assert!(KeptCalls::take().is_none());
        events.wake(Waker::from(count.clone()));
        let taken = KeptCalls::take().unwrap();
        drop(later);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        crate::sync::thread::spawn(move || taken.make()).join().unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
