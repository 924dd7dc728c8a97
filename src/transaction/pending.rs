//! A transaction that is written: its receipts, and the wait for its sync.

use std::task::{Context, Poll};

use super::commit::Committing;
use crate::broker::BrokerInner;
use crate::error::{Error, Result};
use crate::producer::Wait;
use crate::stats::Event;
use crate::sync::Arc;
use crate::types::{Receipt, Timestamp};

/// The result of a commit.
pub(super) enum CommitResult {
    Now(WrittenTransaction),
    /// It is one that was committed before, with these receipts.
    Before(Vec<Receipt>),
}

impl CommitResult {
    pub(super) fn wait(&self) -> Result<()> {
        match self {
            CommitResult::Now(written) => written.committing.wait(),
            CommitResult::Before(_) => Ok(()),
        }
    }

    pub(super) fn receipts(&self) -> Vec<Receipt> {
        match self {
            CommitResult::Now(written) => written.receipts(),
            CommitResult::Before(receipts) => receipts.clone(),
        }
    }
}

/// A transaction that is written.
pub(super) struct WrittenTransaction {
    pub(super) committing: Committing,
    pub(super) order: Vec<usize>,
    pub(super) times: Vec<Vec<Timestamp>>,
}

impl WrittenTransaction {
    /// The receipts of the records in the order of sending.
    fn receipts(&self) -> Vec<Receipt> {
        let mut times: Vec<_> = self.times.iter().map(|times| (0..).zip(times)).collect();
        let mut receipts = Vec::with_capacity(self.order.len());
        for part in &self.order {
            let next = times.get_mut(*part).and_then(Iterator::next);
            if let (Some((log, appended)), Some((index, timestamp))) =
                (self.committing.written_at(*part), next)
            {
                receipts.push(appended.receipt(log.topic(), log.partition(), index, *timestamp));
            }
        }
        debug_assert_eq!(receipts.len(), self.order.len(), "each record that was sent has a part and a time");
        receipts
    }
}

/// The rest of a commit, for a caller that does not block. Dropping it leaves the sync to the
/// background, and an error to the event listener.
pub(super) struct CommitWait {
    broker: Arc<BrokerInner>,
    /// `None` once the error was reported.
    result: Option<Result<CommitResult>>,
}

impl CommitWait {
    pub(super) fn new(broker: Arc<BrokerInner>, result: Result<CommitResult>) -> Self {
        CommitWait { broker, result: Some(result) }
    }

    /// What was committed, or its error, which is reported with this.
    fn committed(&mut self) -> Result<&CommitResult> {
        if let Some(Err(error)) = self.result.take_if(|result| result.is_err()) {
            return Err(error);
        }
        match &self.result {
            Some(Ok(done)) => Ok(done),
            _ => Err(Error::internal("a future is not polled after it has returned")),
        }
    }
}

impl Wait<Vec<Receipt>> for CommitWait {
    fn wait(mut self: Box<Self>) -> Result<Vec<Receipt>> {
        let done = self.committed()?;
        done.wait()?;
        Ok(done.receipts())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Receipt>>> {
        match self.committed()? {
            CommitResult::Now(written) => {
                written.committing.poll(cx.waker()).map(|polled| polled.map(|()| written.receipts()))
            }
            CommitResult::Before(receipts) => Poll::Ready(Ok(receipts.clone())),
        }
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        Some(&self.broker.ctx)
    }
}

impl Drop for CommitWait {
    fn drop(&mut self) {
        match &self.result {
            Some(Ok(CommitResult::Now(written))) => drop(written.committing.request_sync()),
            Some(Ok(CommitResult::Before(_))) | None => {}
            Some(Err(error)) => {
                self.broker.ctx.events.queue(Event::CommitFailed { cause: error.clone() });
                self.broker.ctx.events.deliver();
            }
        }
    }
}
