//! A poll of a single record.

use std::ops::{Deref, DerefMut};

use super::fetcher::Fetcher;

/// While it lives, a poll returns at most one record. The rest of its batch stays with the
/// partition, so positions, seeks and commits are right without a buffer.
pub(crate) struct OneRecord<'a> {
    fetcher: &'a mut Fetcher,
    /// The limit to go back to.
    max_records: usize,
}

impl<'a> OneRecord<'a> {
    pub(crate) fn new(fetcher: &'a mut Fetcher) -> Self {
        let limits = fetcher.limits_mut();
        let max_records = limits.max_records;
        // 0 stays, and is refused.
        limits.max_records = max_records.min(1);
        OneRecord { fetcher, max_records }
    }
}

impl Deref for OneRecord<'_> {
    type Target = Fetcher;

    fn deref(&self) -> &Fetcher {
        self.fetcher
    }
}

impl DerefMut for OneRecord<'_> {
    fn deref_mut(&mut self) -> &mut Fetcher {
        self.fetcher
    }
}

impl Drop for OneRecord<'_> {
    fn drop(&mut self) {
        self.fetcher.limits_mut().max_records = self.max_records;
    }
}
