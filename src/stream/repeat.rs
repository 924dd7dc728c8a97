//! Appends that are repeated after an unknown outcome: recognized by the ids of their events.

use super::history::{History, StreamReceipt};
use crate::event;
use crate::record::Record;
use crate::records::ConsumedRecord;
use crate::types::{Position, Receipt};
use crate::version::{ExpectedVersion, Version};

/// The ids of events that are appended together, each of which has one.
pub(crate) struct EventIds(Vec<Vec<u8>>);

impl EventIds {
    /// `None` if there are no events, or some have no id.
    pub(crate) fn of(events: &[Record<'_>]) -> Option<Self> {
        let id = |event: &Record<'_>| {
            let mut headers = event.headers().iter().rev();
            Some(headers.find(|header| header.name() == event::ID)?.value()?.to_vec())
        };
        let ids: Vec<_> = events.iter().map(id).collect::<Option<_>>()?;
        (!ids.is_empty()).then_some(EventIds(ids))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The receipts of the first events of a history, if these are they.
    pub(super) fn are_first_of(&self, history: &History) -> Option<Vec<Receipt>> {
        let mut events = history.iter();
        self.0
            .iter()
            .map(|id| events.next().filter(|e| e.event_id() == Some(id)).map(|e| receipt(&e)))
            .collect()
    }

    /// The receipt of these events, if they are in a history one after the other.
    pub(super) fn find_in(&self, history: &History) -> Option<StreamReceipt> {
        let known: Vec<_> = history.iter().map(|event| event.event_id()).collect();
        let is_it = |ids: &[Option<&[u8]>]| ids.iter().zip(&self.0).all(|(a, b)| *a == Some(b.as_slice()));
        let at = known.windows(self.0.len()).position(is_it)?;
        let first = history.iter().nth(at).map(|event| receipt(&event))?;
        Some(StreamReceipt { first, version: history.from_version().plus((at + self.0.len()) as u64) })
    }
}

pub(super) fn first_of(receipts: Vec<Receipt>) -> Option<Receipt> {
    receipts.into_iter().next()
}

/// The receipt that the sender of a record got.
pub(super) fn receipt(event: &ConsumedRecord<'_>) -> Receipt {
    let Position { topic, partition, offset, epoch } = event.position();
    Receipt { topic, partition, offset, timestamp: event.timestamp(), epoch }
}

/// A version that no stream has.
pub(super) const NEVER: ExpectedVersion = ExpectedVersion::Exact(Version::new(u64::MAX));

/// How many of the newest events are searched for events that are appended again at any version.
pub(super) const LOOK_BACK: usize = 64;
