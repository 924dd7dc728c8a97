//! Which topics has a group subscribed to, and how many partitions had each at that time? Partitions
//! that come later are read from their beginning, whatever the policy.
//!
//! All of them are looked up when a member joins. When a topic is added only that topic is, as long
//! as the table is known to have the others.

use super::changes::OffsetChange;
use super::offsets::OffsetStore;
use super::state::{Membership, TopicChange};
use crate::engine::Context;
use crate::error::Result;
use crate::log::{Appended, Log};
use crate::sync::Arc;
use crate::types::GroupId;

/// An append that is still to be waited for, if there was something to store.
type Stored = Result<Option<(Arc<Log>, Appended)>>;

/// Stores the topics that a group subscribes to. All their partitions are later ones if they come
/// `late`, to a group that exists already.
///
/// # Errors
/// Those of an append.
pub(super) fn store(
    offsets: &OffsetStore,
    ctx: &Context,
    group: &GroupId,
    membership: &mut Membership,
    late: bool,
) -> Stored {
    // The number first: if the table is read again after this, all topics are looked up again.
    let reads = offsets.reads();
    let written = offsets.append(ctx, group, &missing(offsets, group, membership, late))?;
    membership.noted = Some(reads);
    Ok(written)
}

/// Stores the topics that a change has added to those that a group subscribes to.
///
/// # Errors
/// Those of an append.
pub(super) fn store_change(
    offsets: &OffsetStore,
    ctx: &Context,
    group: &GroupId,
    membership: &mut Membership,
    change: &TopicChange,
) -> Stored {
    let reads = offsets.reads();
    let is_noted = std::mem::take(&mut membership.noted) == Some(reads);
    let new = match change {
        TopicChange::None if is_noted => [].as_slice(),
        TopicChange::Added(new) if is_noted => new,
        _ => return store(offsets, ctx, group, membership, true),
    };
    let new = new.iter().filter(|topic| offsets.joined(group, &topic.id).is_none());
    let changes: Vec<_> = new.map(|topic| OffsetChange::Joined(topic.id, 0)).collect();
    let written = offsets.append(ctx, group, &changes)?;
    membership.noted = Some(reads);
    Ok(written)
}

/// Whether the topics that a group subscribes to are stored.
pub(super) fn is_stored(offsets: &OffsetStore, group: &GroupId, membership: &mut Membership) -> bool {
    let reads = Some(offsets.reads());
    if membership.noted != reads {
        let is_stored = missing(offsets, group, membership, true).is_empty();
        membership.noted = reads.filter(|_| is_stored);
    }
    membership.noted.is_some()
}

/// The changes that store a group's subscriptions. All partitions are later ones also if a topic
/// matches a glob, or has a name, to which the group has subscribed before: topics that existed then
/// have been stored.
fn missing(offsets: &OffsetStore, group: &GroupId, membership: &Membership, late: bool) -> Vec<OffsetChange> {
    let known = offsets.globs(group);
    let new = membership.topics().filter(|topic| offsets.joined(group, &topic.id).is_none());
    let joined = new.map(|topic| {
        let late = late || known.iter().any(|glob| glob.matches(topic.name.as_str()));
        OffsetChange::Joined(topic.id, if late { 0 } else { topic.partitions })
    });
    let open = membership.open_patterns().filter(|pattern| !known.contains(pattern));
    joined.chain(open.cloned().map(OffsetChange::Subscribed)).collect()
}
