//! Who has which name among producers? The catalog knows, durably; which handle of a name is the last one is kept here, where
//! the handles before it find out that they are not.

use super::BrokerInner;
use crate::error::{Error, Result};
use crate::format::catalog::ProducerEntry;
use crate::sync::{Arc, AtomicU64, Ordering};

/// A producer's identity, of one handle.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) id: u64,
    /// For the headers of its batches. It wraps, so nothing is decided by it.
    pub(crate) epoch: u16,
    /// Which handle of this name it is, of those that this broker has given out.
    handle: u64,
    /// The last one.
    latest: Arc<AtomicU64>,
}

impl Named {
    /// # Errors
    /// `Fenced` if a later handle has been opened.
    pub(crate) fn check(&self) -> Result<()> {
        if self.latest.load(Ordering::Acquire) == self.handle { Ok(()) } else { Err(Error::Fenced) }
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
        let epoch = known.as_ref().map_or(0, |known| known.epoch.wrapping_add(1));
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
        // Under the catalog's lock: nobody else gives a handle out.
        let handle = latest.load(Ordering::Acquire) + 1;
        latest.store(handle, Ordering::Release);
        Ok(Named { id, epoch, handle, latest })
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::Broker;
    use crate::config::TopicConfig;
    use crate::error::{Error, Result};
    use crate::producer::{Producer, ProducerConfig};
    use crate::record::Record;
    use crate::types::Offset;

    /// A job that opens its name every minute comes there within 46 days.
    #[test]
    fn a_name_is_taken_over_more_often_than_its_epoch_counts() {
        let broker = Broker::in_memory().unwrap();
        let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
        let named = || broker.producer_with(ProducerConfig::new().name("job")).unwrap();
        let send = |producer: &Producer, sequence: u64| -> Result<Offset> {
            let sent = producer.send(&topic, Record::new("row").sequence(sequence))?;
            Ok(sent.wait()?.offset)
        };
        let set_epoch = |epoch| {
            let inner = broker.inner();
            let set = |catalog: &mut crate::format::catalog::Catalog| catalog.producers[0].epoch = epoch;
            inner.catalog.lock().commit(&inner.ctx, set).unwrap();
        };
        let first = named();
        set_epoch(u16::MAX - 1);
        let before = named();
        assert_eq!(send(&before, 1).unwrap(), 0);
        let behind = named();
        assert_eq!(broker.inner().catalog.lock().current().producers[0].epoch, 0);
        assert_eq!((send(&behind, 1).unwrap(), send(&behind, 2).unwrap()), (Offset::ZERO, Offset::new(1)));
        // An epoch that the first handle had too, and one that lies half a turn away from all that was written.
        set_epoch(u16::MAX);
        let again = named();
        set_epoch(1 << 15);
        let last = named();
        for old in [&first, &before, &behind, &again] {
            assert!(matches!(send(old, 3), Err(Error::Fenced)));
        }
        assert_eq!((send(&last, 2).unwrap(), send(&last, 3).unwrap()), (Offset::new(1), Offset::new(2)));
    }
}
