//! Which offset is the newest of each key? As far as memory allows, over as many batches as that takes.

use std::collections::HashMap;

use crate::types::Offset;

/// The keys themselves, not their hashes: two keys are never taken for one.
pub(super) struct OffsetMap {
    newest: HashMap<Box<[u8]>, u64>,
    bytes: usize,
    bytes_max: usize,
}

/// What an entry takes beside its key, roughly.
const ENTRY_BYTES: usize = 48;

impl OffsetMap {
    pub(super) fn new(bytes_max: usize) -> Self {
        OffsetMap { newest: HashMap::new(), bytes: 0, bytes_max }
    }

    /// Notes a key at an offset that is greater than all before.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) {
        if let Some(newest) = self.newest.get_mut(key) {
            *newest = offset.get();
        } else {
            self.bytes += key.len() + ENTRY_BYTES;
            self.newest.insert(key.into(), offset.get());
        }
    }

    /// Whether its bound is reached.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// The newest offset of a key, if it has one here.
    pub(super) fn get(&self, key: &[u8]) -> Option<Offset> {
        self.newest.get(key).copied().map(Offset::new)
    }
}
