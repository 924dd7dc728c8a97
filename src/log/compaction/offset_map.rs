//! The newest offset of each key, for as many batches as memory allows.
//!
//! A table of its own, because a map of boxed keys allocates once per key, and takes twice the
//! memory for short keys.

use std::hash::{BuildHasher, RandomState};

use crate::types::Offset;

/// It has the keys themselves and not only their hashes, so two keys are never taken for one.
pub(crate) struct OffsetMap {
    /// Open addressing. The length is a power of two; at most three quarters are used. 0 in an
    /// empty slot; otherwise the upper bits of the hash, and the number of the entry plus 1.
    slots: Vec<(u32, u32)>,
    entries: Vec<KeyEntry>,
    /// All keys, one after the other.
    keys: Vec<u8>,
    hasher: RandomState,
    bytes_max: usize,
}

struct KeyEntry {
    newest: u64,
    /// The start of its key in `keys`. It ends where the next one starts.
    key_start: u64,
}

const SLOT_BYTES: usize = size_of::<(u32, u32)>();
const ENTRY_BYTES: usize = size_of::<KeyEntry>();
const SLOTS_LEAST: usize = 64;
/// Entries are counted in 32 bits, and all keys of a batch are added before `is_full` is called.
const ENTRIES_MAX: usize = 1 << 30;

/// The slot of a key, whether the key is in the map or not.
struct KeySlot {
    slot: usize,
    tag: u32,
    entry: Option<usize>,
}

impl OffsetMap {
    pub(crate) fn new(bytes_max: usize) -> Self {
        OffsetMap {
            slots: vec![(0, 0); SLOTS_LEAST],
            entries: Vec::new(),
            keys: Vec::new(),
            hasher: RandomState::new(),
            bytes_max,
        }
    }

    /// Notes a key at an offset, which must be greater than all offsets before.
    pub(crate) fn put(&mut self, key: &[u8], offset: Offset) {
        let found = self.find(key);
        if let Some(entry) = found.entry.and_then(|at| self.entries.get_mut(at)) {
            entry.newest = offset.get();
            return;
        }
        self.entries.push(KeyEntry { newest: offset.get(), key_start: self.keys.len() as u64 });
        self.keys.extend_from_slice(key);
        let number = self.entries.len();
        if let Some(slot) = self.slots.get_mut(found.slot) {
            *slot = (found.tag, u32::try_from(number).unwrap_or(u32::MAX));
        }
        if number >= self.slots.len() / 4 * 3 {
            self.grow();
        }
    }

    /// Returns whether a bound is reached: of its memory, or of the number of keys.
    pub(crate) fn is_full(&self) -> bool {
        let bytes = self.keys.len() + self.entries.len() * (ENTRY_BYTES + 2 * SLOT_BYTES);
        bytes >= self.bytes_max || self.entries.len() >= ENTRIES_MAX
    }

    /// Returns the newest offset of a key, if the map has the key.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Offset> {
        let entry = self.entries.get(self.find(key).entry?)?;
        Some(Offset::new(entry.newest))
    }

    #[inline]
    fn find(&self, key: &[u8]) -> KeySlot {
        let hash = self.hasher.hash_one(key);
        let (mut slot, tag) = (hash as usize, (hash >> 32) as u32);
        loop {
            slot &= self.slots.len().wrapping_sub(1);
            // The mask keeps it inside the table, a quarter of which is empty.
            let (there, number) = self.slots.get(slot).copied().unwrap_or_default();
            let Some(at) = (number as usize).checked_sub(1) else {
                return KeySlot { slot, tag, entry: None };
            };
            if there == tag && self.key(at) == Some(key) {
                return KeySlot { slot, tag, entry: Some(at) };
            }
            slot = slot.wrapping_add(1);
        }
    }

    #[inline]
    fn key(&self, at: usize) -> Option<&[u8]> {
        let start = self.entries.get(at)?.key_start as usize;
        let end = self.entries.get(at + 1).map_or(self.keys.len(), |next| next.key_start as usize);
        self.keys.get(start..end)
    }

    #[cold]
    fn grow(&mut self) {
        let mut slots = vec![(0, 0); self.slots.len() * 2];
        let mask = slots.len() - 1;
        for (at, number) in (0..self.entries.len()).zip(1..) {
            let Some(key) = self.key(at) else { continue };
            let hash = self.hasher.hash_one(key);
            let mut slot = hash as usize & mask;
            while slots.get(slot).is_some_and(|(_, there)| *there != 0) {
                slot = (slot + 1) & mask;
            }
            if let Some(free) = slots.get_mut(slot) {
                *free = ((hash >> 32) as u32, number);
            }
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::rng::SplitMix64;

    #[test]
    fn it_agrees_with_a_map_of_the_standard_library() {
        let mut random = SplitMix64::new(1);
        for keys in [1, 5, 1000, 60_000] {
            let (mut map, mut expected) = (OffsetMap::new(usize::MAX), HashMap::new());
            for offset in 0..100_000 {
                let number = random.below(keys);
                // Keys of any length, also empty ones, and keys that are prefixes of others.
                let key = number.to_string().repeat((number % 4) as usize).into_bytes();
                map.put(&key, Offset::new(offset));
                expected.insert(key, offset);
            }
            assert_eq!(map.entries.len(), expected.len());
            for (key, offset) in &expected {
                assert_eq!(map.get(key), Some(Offset::new(*offset)));
            }
            assert_eq!(map.get(b"another"), None);
            assert!(map.slots.len() > map.entries.len());
        }
    }

    #[test]
    fn it_is_full_when_its_keys_take_the_memory() {
        let mut map = OffsetMap::new(1000);
        let mut put = 0;
        while !map.is_full() {
            map.put(format!("a key of 20 byt {put:4}").as_bytes(), Offset::new(put));
            put += 1;
        }
        assert_eq!(put, 20, "20 bytes of key, and 32 beside it");
        map.put(b"a key of 20 byt    0", Offset::new(put));
        assert_eq!(map.entries.len(), 20, "one that is there takes no more");
    }
}
