//! The way of a commit into the group's log, through state that a consumer shares with its handles.

use std::borrow::Borrow;
use std::task::{Context, Poll};

use super::offsets::Offsets;
use crate::broker::{BrokerInner, TopicState};
use crate::engine::Waiter;
use crate::error::Result;
use crate::group::changes::StoredOffset;
use crate::group::state::{GONE, Stamp};
use crate::group::{Commit, GroupHost, GroupState, Pin, WrittenCommit, wait};
use crate::producer::Wait;
use crate::reader::step::PutBack;
use crate::stats::Event;
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};
use crate::types::{Offset, PartitionId, Position, Timestamp, TopicId};

/// State that a consumer shares with its handles. It outlives the consumer; after that it commits
/// nothing.
pub(crate) struct Committer {
    pub(super) broker: Arc<BrokerInner>,
    pub(super) group: Arc<GroupState>,
    pub(super) waiter: Arc<Waiter>,
    /// The stamp of the records that the consumer polls now: the member in the upper half, its
    /// generation in the lower.
    stamp: AtomicU64,
    /// A transaction with its offsets was not committed: the consumer goes back to its committed
    /// offsets before it polls again.
    goes_back: AtomicBool,
}

impl Committer {
    pub(super) fn new(broker: Arc<BrokerInner>, group: Arc<GroupState>, waiter: Arc<Waiter>) -> Self {
        Committer { broker, group, waiter, stamp: AtomicU64::new(0), goes_back: AtomicBool::new(false) }
    }

    pub(super) fn stamp(&self) -> Stamp {
        let stamp = self.stamp.load(Ordering::Acquire);
        Stamp { member: (stamp >> 32) as u32, generation: stamp as u32 }
    }

    pub(super) fn set_stamp(&self, stamp: Stamp) {
        let packed = u64::from(stamp.member) << 32 | u64::from(stamp.generation);
        self.stamp.store(packed, Ordering::Release);
    }

    /// The consumer has left or is dropped.
    pub(super) fn end(&self) {
        self.set_stamp(Stamp { member: GONE, generation: 0 });
    }

    /// Whether the consumer must go back. The caller goes back.
    pub(super) fn take_goes_back(&self) -> bool {
        // The swap writes only where there is something to take.
        self.goes_back.load(Ordering::Relaxed) && self.goes_back.swap(false, Ordering::AcqRel)
    }

    /// Offsets that come from no poll, as if they had been polled now.
    pub(super) fn offsets_at<P: Borrow<Position>>(&self, positions: impl IntoIterator<Item = P>) -> Offsets {
        // Before the topics are looked up: the partitions of a later generation may be others.
        let stamp = self.stamp();
        let mut done = Offsets::new();
        for position in positions {
            let position = position.borrow();
            // Without a log the commit is rejected, and names the partition.
            let log =
                self.broker.topic_state(position.topic.as_str()).and_then(|s| s.log(position.partition));
            done.add_position(position, log.ok().map(|log| log.identity().clone()), stamp);
        }
        done
    }

    pub(super) fn commit(&self, done: Offsets) -> PendingCommit {
        self.commit_all(&done.into_commits())
    }

    pub(super) fn commit_all(&self, commits: &[Commit]) -> PendingCommit {
        let result = self.group.commit(&*self.broker, self.stamp(), commits);
        PendingCommit { broker: self.broker.clone(), result }
    }

    /// Checks the offsets that a transaction commits, and keeps the partitions where they are until
    /// the pin is dropped.
    ///
    /// # Errors
    /// `CommitRejected`; those of opening the offsets log.
    pub(crate) fn pin(&self, done: Offsets) -> Result<Pin> {
        self.group.pin(&*self.broker, self.stamp(), &done.into_commits())
    }

    /// # Errors
    /// `ForeignBroker`: it commits to another broker than this.
    pub(crate) fn check_broker(&self, broker: &BrokerInner) -> Result<()> {
        broker.check_own(&self.broker, || format!("a consumer of group {}", self.group.name))
    }

    /// The group's committed offset of a partition.
    pub(super) fn committed(
        &self,
        topic: &TopicState,
        partition: PartitionId,
    ) -> Result<Option<CommittedOffset>> {
        let offsets = self.broker.coordinator().offsets();
        offsets.open_existing(&*self.broker)?;
        Ok(offsets.committed(&self.group.name, &topic.id, partition).map(CommittedOffset::from))
    }

    pub(super) fn committed_by_id(&self, topic: &TopicId, partition: PartitionId) -> Option<StoredOffset> {
        self.broker.coordinator().offsets().committed(&self.group.name, topic, partition)
    }
}

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// The log epoch in which that was true.
    pub epoch: u32,
    /// When it was committed, by the broker's clock.
    pub at: Timestamp,
    /// The committer's text; see [`Offsets::metadata`].
    pub metadata: String,
}

impl From<StoredOffset> for CommittedOffset {
    fn from(committed: StoredOffset) -> Self {
        let StoredOffset { offset, epoch, at, metadata } = committed;
        CommittedOffset { offset, epoch, at, metadata: metadata.to_string() }
    }
}

impl PutBack for Arc<Committer> {
    fn put_back(&mut self) {
        self.goes_back.store(true, Ordering::Release);
    }
}

/// A commit that is written, and as safe as the broker's durability demands after a wait. Dropping
/// it leaves that to the background, and an error to the event listener.
pub(super) struct PendingCommit {
    broker: Arc<BrokerInner>,
    result: Result<WrittenCommit>,
}

impl PendingCommit {
    pub(super) fn done(mut self) -> Result<()> {
        wait(std::mem::replace(&mut self.result, Ok(None))?)
    }

    /// Leaves the sync to the worker.
    pub(super) fn detach(mut self) -> Result<()> {
        self.take_error()
    }

    /// The error, which is reported with this.
    fn take_error(&mut self) -> Result<()> {
        match &self.result {
            Ok(_) => Ok(()),
            Err(_) => std::mem::replace(&mut self.result, Ok(None)).map(drop),
        }
    }
}

impl Wait<()> for PendingCommit {
    fn wait(self: Box<Self>) -> Result<()> {
        self.done()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.take_error()?;
        match &self.result {
            Ok(Some((log, appended))) => {
                let polled = log.poll_visible(appended.end, appended.epoch, cx.waker());
                if polled.is_pending() {
                    log.request_sync();
                }
                polled
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    fn engine(&self) -> Option<&crate::engine::Context> {
        Some(&self.broker.ctx)
    }
}

impl Drop for PendingCommit {
    fn drop(&mut self) {
        match &self.result {
            Ok(Some((log, _))) => log.request_sync(),
            Ok(None) => {}
            Err(error) => {
                self.broker.ctx.events.queue(Event::CommitFailed { cause: error.clone() });
                self.broker.ctx.events.deliver();
            }
        }
    }
}
