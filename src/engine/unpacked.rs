//! The last batches that were decompressed for lookups, so that several lookups in one batch
//! decompress it once.
//!
//! A batch has one slot, which follows from its place. A batch of the same slot displaces it.

use super::pool::Buffer;
use crate::sync::{Arc, Mutex, Rank};

/// The place of a stored batch: the number of the map that it was read through, and its position.
/// Another map of the same file has another number, so nothing that was read before a truncation
/// or a compaction is found after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnpackedPlace {
    pub(crate) map: u64,
    pub(crate) position: u64,
}

/// At most [`SLOTS`] decompressed batches, with at most [`BYTES_MAX`] of memory each: 10 MiB.
pub(crate) struct Unpacked {
    slots: [Mutex<Option<Entry>>; SLOTS],
}

struct Entry {
    place: UnpackedPlace,
    bytes: Arc<Buffer>,
}

const SLOTS: usize = 64;
/// Twice a batch of the producer's default size, and a bit: buffers grow by doubling.
const BYTES_MAX: usize = 160 << 10;

impl Unpacked {
    pub(crate) fn new() -> Self {
        Unpacked { slots: std::array::from_fn(|_| Mutex::new(Rank::Unpacked, None)) }
    }

    /// Returns the bytes that were [kept](Unpacked::keep) for a place, if they are still there.
    pub(crate) fn get(&self, place: UnpackedPlace) -> Option<Arc<Buffer>> {
        let slot = self.slot(place)?.lock();
        slot.as_ref().filter(|entry| entry.place == place).map(|entry| entry.bytes.clone())
    }

    /// Keeps the bytes of a place, unless they take too much memory.
    pub(crate) fn keep(&self, place: UnpackedPlace, bytes: &Arc<Buffer>) {
        if bytes.capacity() > BYTES_MAX {
            return;
        }
        let Some(slot) = self.slot(place) else { return };
        let displaced = slot.lock().replace(Entry { place, bytes: bytes.clone() });
        // Outside the lock: the buffer may return to its pool.
        drop(displaced);
    }

    fn slot(&self, place: UnpackedPlace) -> Option<&Mutex<Option<Entry>>> {
        // Neighbours get different slots: a batch takes 104 bytes or more.
        let mixed = (place.map << 32 ^ place.position >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.slots.get((mixed >> 58) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BufferPool;

    fn buffer(len: usize) -> Arc<Buffer> {
        let mut buffer = BufferPool::new().take(len);
        buffer.resize(len, 7);
        Arc::new(buffer)
    }

    #[test]
    fn a_batch_is_found_at_its_own_place_only() {
        let unpacked = Unpacked::new();
        let place = UnpackedPlace { map: 3, position: 128 };
        let bytes = buffer(1_000);
        assert!(unpacked.get(place).is_none());
        unpacked.keep(place, &bytes);
        assert!(Arc::ptr_eq(&unpacked.get(place).unwrap(), &bytes));
        for map in 0..10_000 {
            let other = UnpackedPlace { map, position: 128 };
            assert_eq!(unpacked.get(other).is_some(), other == place);
            let other = UnpackedPlace { map: 3, position: map };
            assert_eq!(unpacked.get(other).is_some(), other == place);
        }
    }

    #[test]
    fn the_memory_is_bounded_in_number_and_size() {
        let unpacked = Unpacked::new();
        let large = buffer(BYTES_MAX + 1);
        unpacked.keep(UnpackedPlace { map: 0, position: 0 }, &large);
        assert_eq!(Arc::strong_count(&large), 1, "too large a buffer is not kept");
        let bytes = buffer(1_000);
        for position in 0..10_000 {
            unpacked.keep(UnpackedPlace { map: 1, position: position * 30_000 }, &bytes);
        }
        assert_eq!(Arc::strong_count(&bytes) - 1, SLOTS, "each slot is used, and no more");
    }
}
