//! The lock of a group, which wakes members only after it is released.

use std::ops::{Deref, DerefMut};

use super::state::Membership;
use crate::engine::Later;
use crate::sync::{Mutex, MutexGuard};

/// The lock of a group. Members that it signals are woken after it is released.
pub(crate) struct MembershipGuard<'a> {
    /// IMPORTANT: before the other field, so that it is dropped first.
    membership: MutexGuard<'a, Membership>,
    _later: Later,
}

impl<'a> MembershipGuard<'a> {
    pub(super) fn take(membership: &'a Mutex<Membership>) -> Self {
        let later = Later::new();
        MembershipGuard { membership: membership.lock(), _later: later }
    }
}

impl Deref for MembershipGuard<'_> {
    type Target = Membership;

    fn deref(&self) -> &Membership {
        &self.membership
    }
}

impl DerefMut for MembershipGuard<'_> {
    fn deref_mut(&mut self) -> &mut Membership {
        &mut self.membership
    }
}
