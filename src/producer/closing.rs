//! Closing a broker for a caller that must not block: a thread of its own does it.

use std::task::{Context, Poll, Waker};

use super::pending::{Pending, Wait};
use crate::broker::Broker;
use crate::error::Result;
use crate::sync::{Arc, Condvar, Mutex, Rank, thread};

impl Broker {
    /// As [`close`](Broker::close), in a thread that ends with it; so an async task can await it. It
    /// has begun when this returns, and is completed also if the [`Pending`] is dropped; an error is
    /// lost then. Under a [`ManualClock`](crate::testing::ManualClock), and if the system refuses a
    /// thread, the call itself closes the broker.
    ///
    /// ```
    /// # use quipu::{Broker, Error, Record, TopicConfig};
    /// async fn shut_down(broker: Broker) -> quipu::Result<()> {
    ///     broker.close_async().await
    /// }
    /// # fn main() -> quipu::Result<()> {
    /// # let broker = Broker::in_memory()?;
    /// # broker.create_topic("t", TopicConfig::new())?;
    /// broker.close_async().wait()?;
    /// assert!(matches!(broker.topic("t"), Err(Error::Closed)));
    /// # Ok(()) }
    /// ```
    pub fn close_async(&self) -> Pending<()> {
        let closing = Arc::new(Closing {
            outcome: Mutex::new(Rank::Pending, Outcome::default()),
            closed: Condvar::new(),
        });
        let close = {
            let (broker, closing) = (self.clone(), closing.clone());
            move || closing.run(&broker)
        };
        let has_thread = !self.inner().ctx.clock.is_manual()
            && thread::Builder::new().name("quipu-close".to_string()).spawn(close).is_ok();
        if !has_thread {
            closing.run(self);
        }
        Pending::other(CloseWait { broker: self.clone(), closing })
    }
}

/// A close that is under way.
struct Closing {
    outcome: Mutex<Outcome>,
    closed: Condvar,
}

#[derive(Default)]
struct Outcome {
    result: Option<Result<()>>,
    waker: Option<Waker>,
}

impl Closing {
    fn run(&self, broker: &Broker) {
        let events = &broker.inner().ctx.events;
        let closed = events.catch("the close of the broker", || broker.close());
        let mut outcome = self.outcome.lock();
        outcome.result = Some(closed.unwrap_or_else(|| events.check_panics()));
        let waker = outcome.waker.take();
        drop(outcome);
        self.closed.notify_all();
        if let Some(waker) = waker {
            events.wake(waker);
        }
    }
}

struct CloseWait {
    broker: Broker,
    closing: Arc<Closing>,
}

impl Wait<()> for CloseWait {
    fn wait(self: Box<Self>) -> Result<()> {
        let mut outcome = self.closing.outcome.lock();
        loop {
            match outcome.result.take() {
                Some(result) => return result,
                None => self.closing.closed.wait(&mut outcome),
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // Cloned and dropped under no lock, because that is code of the user.
        let mut waker = Some(cx.waker().clone());
        let mut outcome = self.closing.outcome.lock();
        let result = outcome.result.take();
        if result.is_none() {
            std::mem::swap(&mut outcome.waker, &mut waker);
        }
        drop(outcome);
        drop(waker);
        result.map_or(Poll::Pending, Poll::Ready)
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        Some(&self.broker.inner().ctx)
    }
}
