//! Who has which name among producers? The catalog knows, durably; the epoch of the last handle is kept here as well, where
//! the handles before it find out that they are not the last.

use super::BrokerInner;
use crate::error::{Error, Result};
use crate::format::catalog::ProducerEntry;
use crate::sync::{Arc, AtomicU32, Ordering};

/// A producer's identity, of one handle.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) id: u64,
    pub(crate) epoch: u16,
    /// The epoch of the last handle.
    latest: Arc<AtomicU32>,
}

impl Named {
    /// # Errors
    /// `Fenced` if a later handle has been opened.
    pub(crate) fn check(&self) -> Result<()> {
        let is_latest = self.latest.load(Ordering::Acquire) == u32::from(self.epoch);
        if is_latest { Ok(()) } else { Err(Error::Fenced) }
    }
}

impl BrokerInner {
    /// Takes over a name: one commit of the catalog.
    ///
    /// # Errors
    /// `Closed`; what the medium says: then the handle before is the last one still.
    pub(crate) fn open_producer(&self, name: &str) -> Result<Named> {
        let mut catalog = self.catalog.lock();
        self.check_open()?;
        let known = catalog.current().producers.iter().find(|producer| producer.name == name).cloned();
        let id = known.as_ref().map_or(catalog.current().next_id, |known| known.id);
        let epoch = match &known {
            None => 0,
            Some(known) => known.epoch.checked_add(1).ok_or_else(|| {
                crate::config::invalid("name", "it has been taken over as often as can be counted")
            })?,
        };
        catalog.commit(&self.ctx, |catalog| {
            match catalog.producers.iter_mut().find(|producer| producer.id == id) {
                Some(producer) => producer.epoch = epoch,
                None => {
                    catalog.next_id += 1;
                    catalog.producers.push(ProducerEntry { id, epoch, name: name.to_string() });
                }
            }
        })?;
        let latest = self.producers.lock().entry(id).or_default().clone();
        latest.store(u32::from(epoch), Ordering::Release);
        Ok(Named { id, epoch, latest })
    }
}
