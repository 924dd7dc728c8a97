//! How are several partitions polled as one? In turns, within limits, and asleep when there is
//! nothing.

use std::collections::HashMap;
use std::task::Poll;
use std::time::Duration;

use super::assigned::{Assigned, start_offset};
use super::moved::{Moved, Seen};
use super::parking::{Idle, look_or_register, park_for};
use super::policy::PollLimits;
use super::ready::Ready;
use crate::broker::{BrokerInner, TopicState};
use crate::engine::{Identity, Waiter};
use crate::error::{Error, Result};
use crate::records::Records;
use crate::sync::Arc;
use crate::types::{PartitionId, Position, Start, TopicId, TopicPartition};

/// Reads a set of partitions, each at its own pace.
pub(crate) struct Fetcher {
    broker: Arc<BrokerInner>,
    limits: PollLimits,
    assigned: Vec<Assigned>,
    /// The place of each of them.
    places: HashMap<(TopicId, PartitionId), usize>,
    /// Those that a caller which keeps their positions must look at again.
    moved: Moved,
    /// How often partitions have changed their places.
    shifts: u64,
    /// Those of them that may have something to deliver.
    ready: Ready,
    /// Whether one of them may have [no position](Assigned::is_unset).
    may_be_unset: bool,
    /// Whose turn it is: after the partition that was served last.
    turn: usize,
    /// Some partition has an error to report.
    failed: bool,
    /// The topics that are read whole, to find added partitions.
    followed: Vec<Followed>,
    /// The [number](crate::engine::Readers::grown) of additions that it has seen.
    grown: u64,
    /// Signalled by every log in `assigned`: registered when one is assigned, taken out on drop.
    waiter: Arc<Waiter>,
    /// While nothing is assigned.
    idle: Option<Idle>,
    /// A future of [`poll_records`](Fetcher::poll_records) is pending.
    is_parked: bool,
    /// The last poll returned because of a wake-up.
    was_woken_up: bool,
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
            grown: broker.ctx.readers.grown(),
            broker,
            limits: PollLimits::default(),
            assigned: Vec::new(),
            places: HashMap::new(),
            moved: Moved::default(),
            shifts: 0,
            ready: Ready::default(),
            may_be_unset: false,
            turn: 0,
            failed: false,
            followed: Vec::new(),
            waiter,
            is_parked: false,
            was_woken_up: false,
        }
    }

    pub(crate) fn broker(&self) -> &Arc<BrokerInner> {
        &self.broker
    }

    pub(crate) fn limits(&self) -> &PollLimits {
        &self.limits
    }

    pub(crate) fn limits_mut(&mut self) -> &mut PollLimits {
        &mut self.limits
    }

    pub(crate) fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    /// Whether the last poll returned because of [`Waiter::wake_up`].
    pub(crate) fn was_woken_up(&self) -> bool {
        self.was_woken_up
    }

    pub(crate) fn assigned(&self) -> &[Assigned] {
        &self.assigned
    }

    /// All of them count as ready after this, because the caller may move them.
    pub(crate) fn assigned_mut(&mut self) -> &mut [Assigned] {
        self.ready.add_all();
        self.moved.note_all();
        self.may_be_unset = true;
        &mut self.assigned
    }

    /// Brings the positions up to date that the last call has left in `positions`. Costs as much as
    /// there are positions that may have moved since.
    pub(crate) fn update(&mut self, positions: &mut Vec<Position>) {
        match self.moved.take() {
            Some(moved) => {
                for at in moved {
                    if let (Some(known), Some(assigned)) = (positions.get_mut(at), self.assigned.get(at)) {
                        *known = assigned.position();
                    }
                }
            }
            None => positions.clear(),
        }
        positions.extend(self.assigned.iter().skip(positions.len()).map(Assigned::position));
    }

    /// The partitions that were assigned after a caller has [seen](Fetcher::seen) the others; all
    /// of them if some have changed their places since.
    pub(crate) fn unseen(&self, seen: &Seen) -> &[Assigned] {
        let known = if seen.shifts == self.shifts { seen.count } else { 0 };
        self.assigned.get(known..).unwrap_or_default()
    }

    /// Notes that a caller has seen all partitions.
    pub(crate) fn seen(&self) -> Seen {
        Seen { shifts: self.shifts, count: self.assigned.len() }
    }

    /// Returns the partitions that have no position. Costs nothing if there is none, and none was
    /// moved since the last call.
    pub(crate) fn unset(&mut self) -> Vec<TopicPartition> {
        if !self.may_be_unset {
            return Vec::new();
        }
        let unset = self.assigned.iter().filter(|assigned| assigned.is_unset());
        let unset: Vec<_> = unset.map(|assigned| assigned.log().identity().topic_partition()).collect();
        self.may_be_unset = !unset.is_empty();
        unset
    }

    /// It counts as ready after this, because the caller may move it.
    ///
    /// # Errors
    /// `NotAssigned`, or `InvalidTopicName` for a name that no topic has.
    pub(crate) fn find(&mut self, topic: &str, partition: PartitionId) -> Result<&mut Assigned> {
        let is_it = |assigned: &Assigned| assigned.is(topic, partition);
        // The topic that has the name now, or else one that had it.
        let now = self.broker.topic_state(topic).ok();
        let at = now.and_then(|state| self.places.get(&(state.id, partition)).copied());
        let at = at.or_else(|| self.assigned.iter().position(is_it));
        match at {
            Some(at) => self.at_mut(at).ok_or(Error::Internal { what: "a place without a partition" }),
            None => Err(Error::NotAssigned { topic: topic.parse()?, partition }),
        }
    }

    /// As [`find`](Fetcher::find), by identity.
    pub(crate) fn find_by_id(&mut self, identity: &Identity) -> Option<&mut Assigned> {
        self.at_mut(*self.places.get(&key(identity))?)
    }

    pub(crate) fn get_by_id(&self, identity: &Identity) -> Option<&Assigned> {
        self.assigned.get(*self.places.get(&key(identity))?)
    }

    fn at_mut(&mut self, at: usize) -> Option<&mut Assigned> {
        let found = self.assigned.get_mut(at)?;
        self.ready.insert(at);
        self.moved.note(at);
        Some(found)
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
        for (assigned, (offset, epoch)) in self.assigned_mut().iter_mut().zip(places) {
            assigned.seek(offset, epoch);
        }
        Ok(())
    }

    /// Reads one more partition.
    pub(crate) fn assign(&mut self, assigned: Assigned) {
        self.ready.add(assigned.log(), &self.waiter);
        self.may_be_unset |= assigned.is_unset();
        self.places.insert(key(assigned.log().identity()), self.assigned.len());
        self.assigned.push(assigned);
        // After it was registered at the log: one of the two wakes it at any time.
        self.idle = None;
    }

    /// Reads a partition no more.
    pub(crate) fn unassign(&mut self, is_it: impl Fn(&Assigned) -> bool) {
        if self.idle.is_none() {
            self.idle = Some(Idle::new(&self.broker.ctx, &self.waiter));
        }
        let stays: Vec<bool> = self.assigned.iter().map(|assigned| !is_it(assigned)).collect();
        let stays = |at: usize| stays.get(at).is_some_and(|stays| *stays);
        for (at, assigned) in self.assigned.iter().enumerate().filter(|(at, _)| !stays(*at)) {
            self.ready.release(at, assigned.log());
        }
        let mut at = 0..;
        self.assigned.retain(|_| at.next().is_some_and(stays));
        self.ready.retain(stays);
        let keys = self.assigned.iter().map(|assigned| key(assigned.log().identity()));
        self.places = keys.zip(0..).collect();
        self.moved.note_all();
        self.shifts += 1;
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

    /// How many visible offsets are still to be delivered. Looks only at the partitions that may
    /// have records: by the invariant of `engine/notify.rs` the others have none.
    pub(crate) fn lag(&self) -> u64 {
        let places = self.ready.with_records(self.waiter.noted());
        places.into_iter().filter_map(|at| self.assigned.get(at)).map(Assigned::lag).sum()
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
        for assigned in self.assigned_mut() {
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
        self.was_woken_up = false;
        self.broker.run_due();
        before(self)?;
        if let Some(found) = self.look()? {
            return Ok(found);
        }
        if timeout.is_zero() {
            // A reader that polls in a loop writes to no memory that other threads use.
            return Ok(Records::default());
        }
        let (ctx, waiter) = (self.broker.ctx.clone(), self.waiter.clone());
        let found = park_for(&ctx, &waiter, timeout, || {
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
                self.is_parked = true;
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

    /// No future waits any more for a wake-up by [`poll_records`](Fetcher::poll_records). Returns
    /// whether one did.
    pub(crate) fn stop_waiting(&mut self) -> bool {
        let was_parked = std::mem::take(&mut self.is_parked);
        if was_parked {
            self.waiter.forget_waker();
        }
        was_parked
    }

    /// The result of a poll now: the records there are, or none if it was woken up.
    fn look(&mut self) -> Result<Option<Records>> {
        self.was_woken_up = self.waiter.take(&mut self.ready);
        if self.was_woken_up {
            return Ok(Some(Records::default()));
        }
        if self.assigned.is_empty() {
            // No log returns the error.
            self.broker.check_open()?;
        }
        self.collect()
    }

    /// The next records up to the end, of which [`stop_at_end`](Fetcher::stop_at_end) has told.
    ///
    /// # Errors
    /// As [`collect`](Fetcher::collect).
    pub(crate) fn collect_to_end(&mut self) -> Result<Option<Records>> {
        // A truncation, or the end of a log.
        self.waiter.take(&mut self.ready);
        self.collect()
    }

    /// The next records within the limits. `None` if there is neither a record nor a skipped range.
    /// Then an interest in every log is armed.
    ///
    /// # Errors
    /// That of a partition, if it was met by an earlier call, after the records of which it is
    /// returned once, or if there is no record of any other partition. So a partition that cannot
    /// be read keeps no other from being served, and no other keeps its error from being seen.
    fn collect(&mut self) -> Result<Option<Records>> {
        self.limits.check()?;
        self.adopt_added();
        self.report_failed()?;
        let mut records = Records::default();
        let count = self.assigned.len();
        let first = self.turn.min(count);
        let mut left = first..count;
        let mut then = Some(0..first);
        loop {
            let Some(at) = self.ready.first_in(left.clone()) else {
                let Some(others) = then.take() else { break };
                left = others;
                continue;
            };
            left.start = at + 1;
            if !self.rests(at) && self.deliver(at, &mut records) {
                break;
            }
        }
        if records.is_empty() && records.skipped().is_empty() {
            self.report_failed()?;
            return Ok(None);
        }
        Ok(Some(records))
    }

    /// Adds the next records of a partition; returns whether the limits ended it.
    fn deliver(&mut self, at: usize, records: &mut Records) -> bool {
        let Some(assigned) = self.assigned.get_mut(at) else { return false };
        self.moved.note(at);
        let before = records.len();
        let delivered = assigned.deliver(&self.limits, records);
        assigned.rest();
        match delivered {
            Ok(full) => {
                if records.len() > before {
                    self.turn = at + 1;
                } else if !full && !self.rests(at) {
                    // Something came since. IMPORTANT: without the signal this reader could wait
                    // although there is a record, because the log was not armed when it came.
                    self.waiter.signal();
                }
                full
            }
            Err(error) => {
                assigned.fail(error);
                self.failed = true;
                if records.len() > before {
                    self.turn = at + 1;
                }
                false
            }
        }
    }

    /// Takes a partition off the ready list if it has nothing to deliver; returns whether it did.
    fn rests(&mut self, at: usize) -> bool {
        let Some(assigned) = self.assigned.get(at) else {
            self.ready.remove(at, false);
            return true;
        };
        if assigned.is_ready() {
            return false;
        }
        self.ready.arm(at, assigned.log());
        // IMPORTANT: look again. The log of a record that came before this is not armed when the
        // writer looks; a later record puts the partition on the list again.
        if assigned.is_ready() {
            return false;
        }
        self.ready.remove(at, assigned.is_paused());
        true
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
                self.failed = self.assigned.iter().any(Assigned::is_failure_due);
                Ok(())
            }
        }
    }

    /// Takes in the partitions that were added to the followed topics. They are read from their
    /// beginning wherever the reader started, because their records came after it.
    fn adopt_added(&mut self) {
        // The number first: partitions that are added after this raise it again.
        let grown = self.broker.ctx.readers.grown();
        if std::mem::replace(&mut self.grown, grown) == grown {
            return;
        }
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

fn key(identity: &Identity) -> (TopicId, PartitionId) {
    (identity.topic_id, identity.partition)
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        for (at, assigned) in self.assigned.iter().enumerate() {
            self.ready.release(at, assigned.log());
        }
    }
}
