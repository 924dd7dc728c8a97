//! How are several partitions polled as one? In turns, within limits, and asleep when there is
//! nothing.

use std::task::Poll;
use std::time::Duration;

use super::assigned::{Assigned, start_offset};
use super::parking::{Idle, Parking, look_or_register, wait_for};
use super::policy::PollLimits;
use crate::broker::{BrokerInner, TopicState};
use crate::engine::Waiter;
use crate::error::{Error, Result};
use crate::records::Records;
use crate::sync::Arc;
use crate::types::{PartitionId, Start};

/// Reads a set of partitions, each at its own pace.
pub(crate) struct Fetcher {
    broker: Arc<BrokerInner>,
    limits: PollLimits,
    assigned: Vec<Assigned>,
    /// Whose turn it is: after the partition that was served last.
    turn: usize,
    /// Some partition has an error to report.
    failed: bool,
    /// The topics that are read whole, to find added partitions.
    followed: Vec<Followed>,
    /// Signalled by every log in `assigned`: registered when one is assigned, taken out on drop.
    waiter: Arc<Waiter>,
    /// While nothing is assigned.
    idle: Option<Idle>,
    /// While a future of [`poll_records`](Fetcher::poll_records) is pending.
    parking: Option<Parking>,
}

struct Followed {
    state: Arc<TopicState>,
    /// How many of its partitions are assigned: those with lower numbers.
    known: usize,
}

impl Fetcher {
    /// Of no partition yet.
    pub(crate) fn new(broker: Arc<BrokerInner>) -> Self {
        let waiter = Arc::new(Waiter::new(&broker.ctx.events));
        Fetcher {
            idle: Some(Idle::new(&broker.ctx, &waiter)),
            broker,
            limits: PollLimits::default(),
            assigned: Vec::new(),
            turn: 0,
            failed: false,
            followed: Vec::new(),
            waiter,
            parking: None,
        }
    }

    pub(crate) fn broker(&self) -> &Arc<BrokerInner> {
        &self.broker
    }

    pub(crate) fn limits_mut(&mut self) -> &mut PollLimits {
        &mut self.limits
    }

    pub(crate) fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    pub(crate) fn assigned(&self) -> &[Assigned] {
        &self.assigned
    }

    pub(crate) fn assigned_mut(&mut self) -> &mut [Assigned] {
        &mut self.assigned
    }

    /// # Errors
    /// `NotAssigned`.
    pub(crate) fn find(&mut self, topic: &str, partition: PartitionId) -> Result<&mut Assigned> {
        let found = self.assigned.iter_mut().find(|assigned| assigned.is(topic, partition));
        found.ok_or_else(|| Error::NotAssigned { topic: topic.to_string(), partition })
    }

    /// Continues at a place in each partition.
    ///
    /// # Errors
    /// Those of looking for a time; then nothing has moved.
    pub(crate) fn seek_all(&mut self, to: Start) -> Result<()> {
        let mut places = Vec::with_capacity(self.assigned.len());
        for assigned in &self.assigned {
            // The epoch first: if the log is truncated after this, the next poll sees another one.
            let epoch = assigned.log().epoch();
            places.push((start_offset(assigned.log(), to)?, epoch));
        }
        for (assigned, (offset, epoch)) in self.assigned.iter_mut().zip(places) {
            assigned.seek(offset, epoch);
        }
        Ok(())
    }

    /// Reads one more partition.
    pub(crate) fn assign(&mut self, assigned: Assigned) {
        assigned.log().waiters().add(self.waiter.clone());
        self.assigned.push(assigned);
        // After it was registered at the log: one of the two wakes it at any time.
        self.idle = None;
    }

    /// Reads a partition no more.
    pub(crate) fn unassign(&mut self, is_it: impl Fn(&Assigned) -> bool) {
        if self.idle.is_none() {
            self.idle = Some(Idle::new(&self.broker.ctx, &self.waiter));
        }
        let waiter = &self.waiter;
        self.assigned.retain(|assigned| {
            let stays = !is_it(assigned);
            if !stays {
                assigned.log().waiters().remove(waiter);
            }
            stays
        });
        if !self.assigned.is_empty() {
            self.idle = None;
        }
    }

    /// Reads partitions of deleted topics no more. Returns whether there were any.
    pub(crate) fn forget_deleted(&mut self) -> bool {
        let before = self.assigned.len();
        self.unassign(|assigned| assigned.log().health().is_deleted());
        self.assigned.len() < before
    }

    /// How many visible offsets are still to be delivered.
    pub(crate) fn lag(&self) -> u64 {
        self.assigned.iter().map(Assigned::lag).sum()
    }

    /// Reads all partitions of a topic, and from their beginning those that are added to it.
    ///
    /// # Errors
    /// Those of looking for a time.
    pub(crate) fn follow(&mut self, state: Arc<TopicState>, from: Start) -> Result<()> {
        let logs = state.logs();
        for log in logs.iter() {
            // The epoch first: if the log is truncated after this, the first poll sees another one.
            let epoch = log.epoch();
            self.assign(Assigned::new(log.clone(), start_offset(log, from)?, epoch));
        }
        self.followed.push(Followed { state, known: logs.len() });
        Ok(())
    }

    /// After this [`collect`](Fetcher::collect) delivers only records that are visible now.
    pub(crate) fn stop_at_end(&mut self) {
        self.broker.run_due();
        self.adopt_added();
        self.followed.clear();
        for assigned in &mut self.assigned {
            assigned.stop_at_end();
        }
    }

    /// See [`Reader::poll`](super::Reader::poll). `before` comes before every look for records: it
    /// may assign and unassign.
    pub(crate) fn poll(
        &mut self,
        timeout: Duration,
        mut before: impl FnMut(&mut Fetcher) -> Result<()>,
    ) -> Result<Records> {
        self.broker.run_due();
        let (ctx, waiter) = (self.broker.ctx.clone(), self.waiter.clone());
        let found = wait_for(&ctx, &waiter, timeout, || {
            before(self)?;
            self.look()
        })?;
        Ok(found.unwrap_or_default())
    }

    /// As [`poll`](Fetcher::poll) without a time limit, for a future: registers its waker if it has
    /// to wait. A caller that gives up waiting must call [`stop_waiting`](Fetcher::stop_waiting).
    pub(crate) fn poll_records(
        &mut self,
        cx: &mut std::task::Context<'_>,
        mut before: impl FnMut(&mut Fetcher) -> Result<()>,
    ) -> Poll<Result<Records>> {
        self.broker.run_due();
        let found = match before(self).and_then(|()| self.look()) {
            Ok(None) => {
                let waiter = self.waiter.clone();
                if self.parking.is_none() {
                    self.parking = Some(Parking::announce(&self.broker.ctx));
                }
                look_or_register(&waiter, cx.waker(), || {
                    before(self)?;
                    self.look()
                })
            }
            found => found,
        };
        match found.transpose() {
            Some(done) => {
                self.stop_waiting();
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }

    /// No future waits any more for a wake-up by [`poll_records`](Fetcher::poll_records).
    pub(crate) fn stop_waiting(&mut self) {
        if self.parking.take().is_some() {
            self.waiter.forget_waker();
        }
    }

    /// The result of a poll now: the records there are, or none if it was woken up.
    fn look(&mut self) -> Result<Option<Records>> {
        if self.waiter.take_wake_up() {
            return Ok(Some(Records::default()));
        }
        if self.assigned.is_empty() {
            // No log returns the error.
            self.broker.check_open()?;
        }
        self.collect()
    }

    /// The next records within the limits. `None` if there is neither a record nor a skipped range.
    ///
    /// # Errors
    /// That of a partition, if it was met after the records of an earlier call or before any record
    /// of this one.
    pub(crate) fn collect(&mut self) -> Result<Option<Records>> {
        self.adopt_added();
        self.report_failed()?;
        let mut records = Records::default();
        let count = self.assigned.len();
        let first = if self.turn < count { self.turn } else { 0 };
        for at in (first..count).chain(0..first) {
            let Some(assigned) = self.assigned.get_mut(at).filter(|assigned| assigned.is_ready()) else {
                continue;
            };
            let before = records.len();
            let full = assigned.deliver(&self.limits, &mut records).unwrap_or_else(|error| {
                assigned.fail(error);
                self.failed = true;
                false
            });
            if records.len() > before {
                self.turn = at + 1;
            }
            if full {
                break;
            }
        }
        if records.is_empty() && records.skipped().is_empty() {
            self.report_failed()?;
            return Ok(None);
        }
        Ok(Some(records))
    }

    /// # Errors
    /// The error of the first partition that has one.
    fn report_failed(&mut self) -> Result<()> {
        if !self.failed {
            return Ok(());
        }
        match self.assigned.iter_mut().find_map(Assigned::failure) {
            Some(error) => Err(error),
            None => {
                // Those of paused partitions are still to come.
                self.failed = self.assigned.iter().any(Assigned::has_failed);
                Ok(())
            }
        }
    }

    /// Takes in the partitions that were added to the followed topics. They are read from their
    /// beginning wherever the reader started, because their records came after it.
    fn adopt_added(&mut self) {
        let mut added = Vec::new();
        for followed in &mut self.followed {
            if followed.state.log_count() as usize > followed.known {
                let logs = followed.state.logs();
                added.extend(logs.iter().skip(followed.known).cloned());
                followed.known = logs.len();
            }
        }
        for log in added {
            let epoch = log.epoch();
            let start = log.log_start();
            self.assign(Assigned::new(log, start, epoch));
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        for assigned in &self.assigned {
            assigned.log().waiters().remove(&self.waiter);
        }
    }
}
