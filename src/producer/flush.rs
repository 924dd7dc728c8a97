//! A flush: everything that it found was written when it began; this waits until it is visible.

use std::task::{Context, Poll};

use super::buffer::PartitionBuffer;
use super::core::Core;
use super::outcome::BatchState;
use super::pending::Wait;
use crate::error::{Error, Result};
use crate::sync::Arc;
use crate::types::Offset;

/// The parts that a flush waits for.
pub(super) struct Flush {
    core: Arc<Core>,
    parts: Vec<FlushPart>,
    first: Result<()>,
    /// The worker was asked to sync all parts.
    has_asked: bool,
}

pub(super) struct FlushPart {
    buffer: Arc<PartitionBuffer>,
    /// The last batch that another thread had in hand.
    last: Option<Arc<BatchState>>,
}

impl FlushPart {
    pub(super) fn new(buffer: Arc<PartitionBuffer>, last: Option<Arc<BatchState>>) -> Self {
        FlushPart { buffer, last }
    }

    /// Whether waiting for it takes a sync, or another thread's write.
    fn is_hidden(&self) -> bool {
        let is_hidden = |(end, _)| !self.buffer.sink().is_visible(end);
        self.last.is_some() || self.buffer.unconfirmed().is_some_and(is_hidden)
    }

    /// Waits until it is written and visible. The outcome stays there for a second wait.
    fn settle(&self) {
        if let Some(last) = &self.last {
            let _ = last.wait_appended();
        }
        if let Some((end, epoch)) = self.buffer.unconfirmed() {
            let _ = self.buffer.sink().wait_visible(end, epoch);
        }
    }
}

impl Flush {
    pub(super) fn new(core: &Arc<Core>, parts: Vec<FlushPart>) -> Self {
        Flush { core: core.clone(), parts, first: Ok(()), has_asked: false }
    }

    /// The outcome of the next part is known.
    fn part_done(&mut self, buffer: &PartitionBuffer, upto: (Offset, u32), result: Result<()>) {
        buffer.confirm(upto);
        let result = match result {
            // It was truncated on a caller's request: no record is left that would have to become
            // durable.
            Err(Error::Truncated { .. }) if !buffer.sink().may_have_lost(upto.1) => Ok(()),
            result => result,
        };
        if self.first.is_ok() {
            self.first = result;
        }
    }

    /// An error of writing a batch came before an error of making one visible.
    fn result(&mut self) -> Result<()> {
        match self.core.take_failure() {
            Some(error) => Err(error),
            None => std::mem::replace(&mut self.first, Ok(())),
        }
    }
}

impl Wait<()> for Flush {
    fn wait(mut self: Box<Self>) -> Result<()> {
        let hidden: Vec<_> = self.parts.iter().filter(|part| part.is_hidden()).collect();
        self.core.ctx.in_parallel(&hidden, |part| part.settle());
        while let Some(FlushPart { buffer, last }) = self.parts.pop() {
            if let Some(last) = last {
                // Its error goes to its own acknowledgements, or to `take_failure`.
                let _ = last.wait_appended();
            }
            if let Some((end, epoch)) = buffer.unconfirmed() {
                let result = buffer.sink().wait_visible(end, epoch);
                self.part_done(&buffer, (end, epoch), result);
            }
        }
        self.result()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while let Some(FlushPart { buffer, last }) = self.parts.last() {
            if let Some(last) = last
                && last.poll_appended(cx.waker()).is_pending()
            {
                return Poll::Pending;
            }
            let buffer = buffer.clone();
            if let Some((end, epoch)) = buffer.unconfirmed() {
                match buffer.sink().poll_visible(end, epoch, cx.waker()) {
                    Poll::Ready(result) => self.part_done(&buffer, (end, epoch), result),
                    Poll::Pending => {
                        // All at once, so that the worker does not sync one after the other.
                        let has_asked = std::mem::replace(&mut self.has_asked, true);
                        for part in self.parts.iter().filter(|_| !has_asked) {
                            part.buffer.sink().request_sync();
                        }
                        buffer.sink().request_sync();
                        return Poll::Pending;
                    }
                }
            }
            self.parts.pop();
        }
        Poll::Ready(self.result())
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        Some(&self.core.ctx)
    }
}
