//! One offset that a consumer wants to commit, and the reasons to refuse it.

use super::host::Host;
use super::state::{Membership, NO_MEMBER, Share, Stamp};
use crate::engine::Identity;
use crate::error::{Error, RejectReason};
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, TopicName};

/// An offset to commit.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) topic: TopicName,
    /// The log that it was read from, as that was opened; `None` if only the topic's name is known:
    /// the one that has it now.
    pub(crate) source: Option<Arc<Identity>>,
    pub(crate) partition: PartitionId,
    /// The next offset to read.
    pub(crate) next: Offset,
    pub(crate) epoch: u32,
    /// The stamp of the poll; `None` for an offset that does not come from a poll.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) metadata: Arc<str>,
}

/// The longest text beside a committed offset, in bytes: Kafka's default of
/// `offset.metadata.max.bytes`.
pub(crate) const METADATA_MAX: usize = 4096;

/// Why an offset may not be committed, if it may not.
pub(super) fn objection(
    host: &dyn Host,
    membership: &Membership,
    stamp: Stamp,
    share: &Share,
    commit: &Commit,
) -> Option<RejectReason> {
    let Some(log) = host.log(&share.id, share.partition) else { return Some(RejectReason::UnknownPartition) };
    let (size, limit) = (commit.metadata.len(), METADATA_MAX);
    if size > limit {
        return Some(RejectReason::MetadataTooLarge { size, limit });
    }
    let stranger = stamp.member == NO_MEMBER;
    if stranger && !membership.is_empty() {
        return Some(RejectReason::NotAMember);
    }
    // Members are renumbered whenever a broker is opened, and so are its logs made again.
    let elsewhere = |source: &Arc<Identity>| !Arc::ptr_eq(source, log.identity());
    if commit.stamp.is_some() && commit.source.as_ref().is_some_and(elsewhere) {
        return Some(RejectReason::NotAMember);
    }
    if !stranger && let Some(reason) = membership.objection(stamp, share) {
        return Some(reason);
    }
    if let Err(Error::Truncated { to, .. }) = log.check_position(commit.next, commit.epoch) {
        return Some(RejectReason::Truncated { to });
    }
    let end = log.visible_end();
    (commit.next > end).then_some(RejectReason::BeyondEnd { end })
}
