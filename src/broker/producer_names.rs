//! Which handle of a producer's name is the last one, and when is a name forgotten?
//!
//! With an expiration the catalog notes when a name was used last: when it is opened, and from time
//! to time while a handle of it lives. A name without a note counts as used when it is first met,
//! because a release that does not know the note, or a broker without the setting, leaves it out.

use std::collections::HashMap;
use std::time::Duration;

use super::store::CatalogStore;
use crate::engine::Context;
use crate::error::Result;
use crate::format::catalog::Change;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Rank};
use crate::types::Timestamp;

/// The names of a broker's idempotent producers, as far as the catalog does not have them.
pub(super) struct ProducerNames {
    /// By producer id: which of its handles is the last one. Each handle shares the number.
    latest: Mutex<HashMap<u64, Arc<AtomicU64>>>,
    /// A name that has not been used for so long is forgotten.
    expiration: Option<Duration>,
}

impl ProducerNames {
    pub(super) fn new(expiration: Option<Duration>) -> Self {
        ProducerNames { latest: Mutex::new(Rank::ProducerHandles, HashMap::new()), expiration }
    }

    /// The number of the last handle of a producer.
    pub(super) fn latest(&self, id: u64) -> Arc<AtomicU64> {
        self.latest.lock().entry(id).or_default().clone()
    }

    /// The name of a producer is forgotten: all of its handles are fenced.
    pub(super) fn fence(&self, id: u64) {
        if let Some(latest) = self.latest.lock().remove(&id) {
            // No handle has this number.
            latest.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The change that notes a use, if uses are noted.
    pub(super) fn use_of(&self, id: u64, now: Timestamp) -> Option<Change> {
        self.expiration.map(|_| Change::ProducerUsed(id, now))
    }

    /// Forgets the names that have not been used for long enough, and notes uses. The caller must
    /// hold the right to change names of producers.
    ///
    /// # Errors
    /// Those of the catalog: then it is tried again the next time.
    pub(super) fn expire(&self, ctx: &Context, catalog: &CatalogStore) -> Result<()> {
        let Some(expiration) = self.expiration else { return Ok(()) };
        let known: Vec<_> = catalog.with(|catalog| {
            catalog.producers().map(|producer| (producer.id, catalog.last_use(producer.id))).collect()
        });
        // A note may be so much older than the use.
        let (now, slack) = (ctx.cautious_now(), expiration / 8);
        let (mut used, mut expired) = (Vec::new(), Vec::new());
        {
            let latest = self.latest.lock();
            for (id, last) in known {
                let is_open = latest.get(&id).is_some_and(|latest| Arc::strong_count(latest) > 1);
                match last.map(|last| passed(last, now)) {
                    None => used.push(Change::ProducerUsed(id, now)),
                    Some(passed) if is_open && passed < slack => {}
                    Some(_) if is_open => used.push(Change::ProducerUsed(id, now)),
                    Some(passed) if passed >= expiration.saturating_add(slack) => expired.push(id),
                    Some(_) => {}
                }
            }
        }
        if !used.is_empty() {
            catalog.note(ctx, used)?;
        }
        if !expired.is_empty() {
            catalog.commit(ctx, expired.iter().map(|id| Change::ProducerGone(*id)).collect())?;
            expired.into_iter().for_each(|id| self.fence(id));
        }
        Ok(())
    }
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    let millis = now.as_millis().saturating_sub(since.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
