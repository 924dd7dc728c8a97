//! How many records has a consumer returned? A number for `metrics`, which is published by each
//! poll, and in pieces where records are returned one by one.

use super::commit::Committer;
use crate::engine::observe::{self, Consumed};
use crate::group::assign::refuse_in_assignor;
use crate::sync::Arc;

/// So many records that were returned one by one are published together, because publishing looks
/// the counter up. The rest is published once there is no record, and by the drop.
const CHUNK: usize = 256;

/// The records that a consumer has returned.
pub(super) struct Counted {
    committer: Arc<Committer>,
    consumed: Consumed,
}

impl Counted {
    pub(super) fn new(committer: &Arc<Committer>) -> Self {
        Counted { committer: committer.clone(), consumed: Consumed::default() }
    }

    /// A poll has returned so many records.
    pub(super) fn add(&mut self, records: usize) {
        self.add_and_publish(records, 1);
    }

    /// A poll for a single record has returned one, or none.
    #[inline]
    pub(super) fn add_one(&mut self, records: usize) {
        self.add_and_publish(records, if records == 0 { 1 } else { CHUNK });
    }

    #[inline]
    fn add_and_publish(&mut self, records: usize, at_least: usize) {
        if let Some(records) = self.consumed.add(records, at_least) {
            let Committer { broker, group, .. } = &*self.committer;
            broker.ctx.events.observe(|| observe::consumed(&group.name, records));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // An assignor that drops a consumer does so under the lock of a group.
        if refuse_in_assignor().is_ok() {
            self.add(0);
        }
    }
}
