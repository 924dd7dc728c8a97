//! The names of idempotent producers. The catalog stores them durably; the current handle of each
//! name is kept here, so that earlier handles find out that they are fenced.

use super::BrokerInner;
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, Change, ProducerEntry};
use crate::sync::{Arc, AtomicU64, Ordering};

/// A producer's identity, of one handle.
#[derive(Clone, Debug)]
pub(crate) struct ProducerIdentity {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    /// For the headers of its batches. It wraps, so nothing is decided by it.
    pub(crate) epoch: u16,
    /// Which handle of this name it is, of those that this broker has given out.
    handle: u64,
    /// The last one.
    latest: Arc<AtomicU64>,
}

impl ProducerIdentity {
    /// # Errors
    /// `Fenced` if a later handle has been opened.
    pub(crate) fn check(&self) -> Result<()> {
        match self.latest.load(Ordering::Acquire) == self.handle {
            true => Ok(()),
            false => Err(Error::Fenced { producer: self.name.clone() }),
        }
    }
}

impl BrokerInner {
    /// Takes over a name: one commit of the catalog.
    ///
    /// # Errors
    /// `Closed` or `DiskFull`: then the handle before is the last one still. After another I/O
    /// error the next opening may know the name or not.
    pub(crate) fn open_producer(&self, name: &str) -> Result<ProducerIdentity> {
        self.check_open()?;
        let _changing = self.changing.lock();
        self.check_open()?;
        let (known, next_id) =
            self.catalog.with(|catalog| (catalog.producer(name).cloned(), catalog.next_id()));
        let mut changes = Vec::new();
        let (id, epoch) = match known {
            Some(known) => (known.id, known.epoch.wrapping_add(1)),
            None => {
                changes.push(Change::Ids(next_id + 1));
                (next_id, 0)
            }
        };
        changes.push(Change::Producer(ProducerEntry { id, epoch, name: name.to_string() }));
        let names = &self.maintenance.producers;
        changes.extend(names.use_of(id, self.ctx.clock.now()));
        self.catalog.commit(&self.ctx, changes)?;
        let latest = names.latest(id);
        // Under the lock of changes: no other thread gives a handle out.
        let handle = latest.load(Ordering::Acquire) + 1;
        latest.store(handle, Ordering::Release);
        Ok(ProducerIdentity { id, name: name.into(), epoch, handle, latest })
    }

    /// Forgets a name. Returns whether there was such a producer.
    ///
    /// # Errors
    /// `Closed`; an I/O error: then the name is still there.
    pub(super) fn forget_producer(&self, name: &str) -> Result<bool> {
        self.check_open()?;
        let _changing = self.changing.lock();
        self.check_open()?;
        let Some(id) = self.catalog.with(|catalog| catalog.producer(name).map(|known| known.id)) else {
            return Ok(false);
        };
        self.catalog.commit(&self.ctx, vec![Change::ProducerGone(id)])?;
        self.maintenance.producers.fence(id);
        Ok(true)
    }

    /// The names of all producers that have one, sorted.
    pub(super) fn producer_names(&self) -> Vec<String> {
        let names = |catalog: &Catalog| catalog.producers().map(|producer| producer.name.clone()).collect();
        let mut names: Vec<String> = self.catalog.with(names);
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, ProducerEntry};
    use crate::broker::Broker;
    use crate::config::TopicConfig;
    use crate::error::{Error, Result};
    use crate::producer::{Producer, ProducerConfig};
    use crate::record::Record;
    use crate::types::Offset;

    /// A job that opens its name every minute comes there within 46 days.
    #[test]
    fn a_name_can_be_taken_over_after_its_last_epoch() {
        let broker = Broker::in_memory().unwrap();
        let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
        let open = || broker.producer_with(ProducerConfig::new().name("job")).unwrap();
        let send = |producer: &Producer, sequence: u64| -> Result<Offset> {
            let sent = producer.send(&topic, Record::new("row").sequence(sequence))?;
            Ok(sent.wait()?.offset)
        };
        let set_epoch = |epoch| {
            let inner = broker.inner();
            let known = inner.catalog.with(|catalog| catalog.producer("job").cloned().unwrap());
            let set = Change::Producer(ProducerEntry { epoch, ..known });
            inner.catalog.commit(&inner.ctx, vec![set]).unwrap();
        };
        let first = open();
        set_epoch(u16::MAX - 1);
        let before = open();
        assert_eq!(send(&before, 1).unwrap(), 0);
        let after = open();
        let epoch = broker.inner().catalog.with(|catalog| catalog.producer("job").unwrap().epoch);
        assert_eq!(epoch, 0);
        assert_eq!((send(&after, 1).unwrap(), send(&after, 2).unwrap()), (Offset::ZERO, Offset::new(1)));
        // An epoch that the first handle had too, and one that lies half a turn away from all that
        // was written.
        set_epoch(u16::MAX);
        let again = open();
        set_epoch(1 << 15);
        let last = open();
        for old in [&first, &before, &after, &again] {
            assert!(matches!(send(old, 3), Err(Error::Fenced { .. })));
        }
        assert_eq!((send(&last, 2).unwrap(), send(&last, 3).unwrap()), (Offset::new(1), Offset::new(2)));
    }
}
