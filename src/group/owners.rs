//! Which member owns which partition now?

use std::collections::BTreeMap;

use super::share::Share;

/// The number of no member.
pub(crate) const NO_MEMBER: u32 = 0;

/// The owners of partitions. One that is not here is free.
#[derive(Default)]
pub(super) struct Owners {
    by_share: BTreeMap<Share, Ownership>,
    /// How many of them are [released](Ownership::released), and not free because of a pin.
    held: usize,
}

struct Ownership {
    member: u32,
    /// The generation in which it was taken.
    since: u32,
    /// How many transactions are under way that commit offsets of it: it cannot change hands
    /// meanwhile.
    pins: u32,
    /// Its owner has gone, or has given it up: free once nothing pins it.
    released: bool,
}

impl Owners {
    pub(super) fn is_free(&self, share: &Share) -> bool {
        !self.by_share.contains_key(share)
    }

    /// The member that owns a partition, and the generation since which it does.
    pub(super) fn owner(&self, share: &Share) -> Option<(u32, u32)> {
        let owner = self.by_share.get(share).filter(|owner| !owner.released)?;
        Some((owner.member, owner.since))
    }

    /// The partitions that members own, each with its member.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Share)> {
        let owned = self.by_share.iter().filter(|(_, owner)| !owner.released);
        owned.map(|(share, owner)| (owner.member, share))
    }

    /// Whether a partition has no owner and is not free, because a transaction is under way.
    pub(super) fn is_any_held(&self) -> bool {
        self.held > 0
    }

    /// A member takes a free partition.
    pub(super) fn take(&mut self, share: Share, member: u32, since: u32) {
        debug_assert!(self.is_free(&share), "only a free partition is taken");
        self.by_share.insert(share, Ownership { member, since, pins: 0, released: false });
    }

    /// A member gives up a partition. Returns false if it did not own it.
    pub(super) fn release(&mut self, share: &Share, member: u32) -> bool {
        let owner = self.by_share.get_mut(share).filter(|owner| owner.member == member && !owner.released);
        let Some(owner) = owner else { return false };
        owner.released = true;
        if owner.pins > 0 {
            self.held += 1;
        } else {
            self.by_share.remove(share);
        }
        true
    }

    /// A member has gone.
    pub(super) fn release_all(&mut self, member: u32) {
        let owned: Vec<_> =
            self.iter().filter(|(owner, _)| *owner == member).map(|(_, s)| s.clone()).collect();
        for share in owned {
            self.release(&share, member);
        }
    }

    /// Keeps a partition where it is until [`unpin`](Owners::unpin); one without an owner is not
    /// taken.
    pub(super) fn pin(&mut self, share: &Share, generation: u32) {
        let held = &mut self.held;
        let unowned = || {
            *held += 1;
            Ownership { member: NO_MEMBER, since: generation, pins: 0, released: true }
        };
        self.by_share.entry(share.clone()).or_insert_with(unowned).pins += 1;
    }

    /// Returns whether the partition is free now, and was not before.
    pub(super) fn unpin(&mut self, share: &Share) -> bool {
        let pinned = self.by_share.get_mut(share).filter(|owner| owner.pins > 0);
        debug_assert!(pinned.is_some(), "each unpin follows a pin, which keeps the owner");
        let Some(owner) = pinned else { return false };
        owner.pins -= 1;
        let is_free = owner.released && owner.pins == 0;
        if is_free {
            self.held -= 1;
            self.by_share.remove(share);
        }
        is_free
    }

    /// Whether a transaction is under way that commits offsets of the group.
    pub(super) fn is_any_pinned(&self) -> bool {
        self.by_share.values().any(|owner| owner.pins > 0)
    }

    /// Whether a transaction is under way that commits offsets of this partition.
    pub(super) fn is_pinned(&self, share: &Share) -> bool {
        self.by_share.get(share).is_some_and(|owner| owner.pins > 0)
    }
}
