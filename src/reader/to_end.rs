//! Reads up to the current ends, and then ends.

use std::iter::FusedIterator;

use super::fetcher::Fetcher;
use crate::error::Result;
use crate::records::Records;

/// See [`Reader::to_end`](super::Reader::to_end).
pub(super) struct ToEnd {
    fetcher: Option<Fetcher>,
}

impl ToEnd {
    pub(super) fn new(mut fetcher: Fetcher) -> Self {
        fetcher.stop_at_end();
        ToEnd { fetcher: Some(fetcher) }
    }
}

impl Iterator for ToEnd {
    type Item = Result<Records>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.fetcher.as_mut()?.collect_to_end().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.fetcher = None;
        }
        next
    }
}

impl FusedIterator for ToEnd {}
