//! When does a projection load its state, and when does it drop it? Its state must be that of the
//! last commit whenever it applies an event.
//!
//! Two lists are kept for it: the partitions that came and whose state it has not loaded, and
//! whether the state of all may include events that were not committed, because a call of it has
//! not returned, or its changes were not committed.

use std::time::Duration;

use super::contract::Projection;
use crate::consumer::{Consumer, RebalanceEvent};
use crate::error::{Error, Result};
use crate::records::Records;
use crate::sync::about_to_call_user_code;
use crate::transaction::Transaction;
use crate::types::TopicPartition;

/// A projection, and how much of its state it must load.
pub(super) struct Stateful<P> {
    pub(super) projection: P,
    /// The partitions that came since it has loaded its state.
    unloaded: Vec<TopicPartition>,
    /// The state of all partitions must be loaded again.
    is_stale: bool,
}

impl<P: Projection> Stateful<P> {
    pub(super) fn new(projection: P) -> Self {
        Stateful { projection, unloaded: Vec::new(), is_stale: false }
    }

    /// Polls, and tells the projection which partitions go.
    ///
    /// # Errors
    /// Those of the poll and of the projection.
    pub(super) fn poll(&mut self, consumer: &mut Consumer, timeout: Duration) -> Result<Records, P::Error> {
        Ok(self.poll_once(consumer, timeout)??)
    }

    /// Polls for the partitions only, also where the group cannot continue: a rebuild is for that.
    /// A wake-up is left to the next step.
    ///
    /// # Errors
    /// Those of the poll and of the projection.
    pub(super) fn rebalance(&mut self, consumer: &mut Consumer) -> Result<(), P::Error> {
        let polled = self.poll_once(consumer, Duration::ZERO)?;
        if consumer.was_woken_up() {
            consumer.reader_handle().wakeup();
        }
        match polled {
            Ok(_)
            | Err(
                Error::NoCommittedOffset { .. } | Error::OffsetOutOfRange { .. } | Error::Truncated { .. },
            ) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The result of the poll, unless the projection returned an error.
    fn poll_once(&mut self, consumer: &mut Consumer, timeout: Duration) -> Result<Result<Records>, P::Error> {
        let mut failed = None;
        let polled = consumer.poll_hearing(timeout, &mut |event, partitions| {
            self.hear(event, partitions).map_err(|error| {
                failed.get_or_insert(error);
                Error::Internal { what: "the error of a projection is returned in place of this one" }
            })
        });
        failed.map_or(Ok(polled), Err)
    }

    fn hear(&mut self, event: RebalanceEvent, partitions: &[TopicPartition]) -> Result<(), P::Error> {
        if event == RebalanceEvent::Assigned {
            self.unloaded.extend_from_slice(partitions);
            return Ok(());
        }
        self.unloaded.retain(|of| !partitions.contains(of));
        self.change(|projection| projection.revoked(partitions))
    }

    /// Has the projection load what it must. The consumer is at its committed offsets.
    ///
    /// # Errors
    /// Those of the projection, which must load all of it with the next call.
    pub(super) fn load(&mut self, consumer: &Consumer) -> Result<(), P::Error> {
        if self.is_stale {
            self.unloaded = consumer.assignment();
            self.is_stale = false;
        }
        if !self.unloaded.is_empty() {
            let unloaded = std::mem::take(&mut self.unloaded);
            self.change(|projection| projection.assigned(&unloaded))?;
        }
        Ok(())
    }

    /// Has the projection apply events. Its state is stale until
    /// [`committed`](Stateful::committed).
    ///
    /// # Errors
    /// Those of the projection.
    pub(super) fn apply(&mut self, events: &Records, changes: &mut Transaction) -> Result<(), P::Error> {
        self.is_stale = true;
        about_to_call_user_code("a projection");
        events.iter().try_for_each(|event| self.projection.apply(&event, changes))
    }

    /// Has the projection clear its state, which is stale until [`committed`](Stateful::committed).
    ///
    /// # Errors
    /// Those of the projection.
    pub(super) fn reset(&mut self, changes: &mut Transaction) -> Result<(), P::Error> {
        self.is_stale = true;
        about_to_call_user_code("a projection");
        self.projection.reset(changes)
    }

    /// The state is that of the commit that was made just now.
    pub(super) fn committed(&mut self) {
        self.is_stale = false;
    }

    /// Calls the projection. If that fails or panics, its state is stale.
    fn change(&mut self, call: impl FnOnce(&mut P) -> Result<(), P::Error>) -> Result<(), P::Error> {
        let was_stale = std::mem::replace(&mut self.is_stale, true);
        about_to_call_user_code("a projection");
        call(&mut self.projection)?;
        self.is_stale = was_stale;
        Ok(())
    }
}
