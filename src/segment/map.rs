//! The map of a segment, and which of its batches were checked since it was made.
//!
//! Nothing writes other bytes below a map while it is there (see `File::map`). So a batch whose
//! checksum and records were checked through a map is not checked again through the same map. The
//! notes of that are part of the map and end with it: the next reader of a segment that was
//! truncated, compacted, reopened, or closed by the budget of open files makes another map, and
//! checks again.
//!
//! The map of the active segment ends after the last batch that was written when it was made. The
//! map that replaces it when the segment has grown shows the same bytes and more, so it takes the
//! notes over.
//!
//! Not noticed: bytes that change on the medium after the check, until the next map. With
//! [`ReadMode::Checked`](crate::ReadMode::Checked) there are no notes.

use std::ops::Deref;

use crate::engine::{OpenedMap, UnpackedPlace};
use crate::sync::{AtomicU16, Ordering};

/// A map of the first bytes of a segment's file.
pub(crate) struct SegmentMap {
    map: OpenedMap,
    /// No map of other bytes has it.
    number: u64,
    /// For each [`BLOCK`] of the file the batch that was checked last among those that begin there:
    /// 1 plus its position in the block; 0 if there is none. So small batches displace each other,
    /// and a batch costs no more to check again than it is long. Two bytes for 4 KiB.
    checked: Box<[AtomicU16]>,
}

const BLOCK: u64 = 4 << 10;

impl SegmentMap {
    /// `keeps_notes`: whether a batch that was checked need not be checked again.
    pub(super) fn new(map: OpenedMap, number: u64, keeps_notes: bool) -> Self {
        let blocks = if keeps_notes { map.len().div_ceil(BLOCK as usize) } else { 0 };
        SegmentMap { map, number, checked: (0..blocks).map(|_| AtomicU16::new(0)).collect() }
    }

    /// Returns a map of the same file, which is longer than `before`, with its number and its notes.
    pub(super) fn extending(map: OpenedMap, before: &SegmentMap, keeps_notes: bool) -> Self {
        let extended = SegmentMap::new(map, before.number, keeps_notes);
        for (note, known) in extended.checked.iter().zip(&before.checked) {
            // A note that another thread makes meanwhile may be missing: its batch is checked again.
            note.store(known.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        extended
    }

    /// Returns whether the batch at `position` was checked through this map.
    #[inline]
    pub(super) fn is_checked(&self, position: u64) -> bool {
        // The note is all that threads exchange: the map shows the same bytes to each of them.
        self.slot(position).is_some_and(|(slot, note)| slot.load(Ordering::Relaxed) == note)
    }

    /// Notes that the batch at `position` was checked through this map: its header, its body's
    /// checksum, and its records.
    pub(super) fn note_checked(&self, position: u64) {
        if let Some((slot, note)) = self.slot(position) {
            slot.store(note, Ordering::Relaxed);
        }
    }

    /// Returns the place of the batch at `position` among the decompressed ones, or `None` if each
    /// read must check and decompress it again.
    pub(super) fn unpacked_place(&self, position: u64) -> Option<UnpackedPlace> {
        (!self.checked.is_empty()).then_some(UnpackedPlace { map: self.number, position })
    }

    #[inline]
    fn slot(&self, position: u64) -> Option<(&AtomicU16, u16)> {
        let block = usize::try_from(position / BLOCK).ok()?;
        Some((self.checked.get(block)?, (position % BLOCK) as u16 + 1))
    }
}

impl Deref for SegmentMap {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.map.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::FileBudget;
    use crate::storage::mem::MemStorage;
    use crate::storage::{OpenMode, ProcessLimits, Storage, write_all_at};

    fn map(bytes: usize, keeps_notes: bool) -> SegmentMap {
        let file = MemStorage::new().open(Path::new("file"), OpenMode::CreateNew).unwrap();
        write_all_at(&*file, &vec![7; bytes], 0).unwrap();
        let budget = FileBudget::new(None, &ProcessLimits::default());
        SegmentMap::new(budget.count_map(file.map(bytes as u64).unwrap()), 0, keeps_notes)
    }

    #[test]
    fn a_note_is_about_one_position() {
        let map = map(10_000, true);
        for position in [0, 128, 4_095, 4_096, 9_999] {
            assert!(!map.is_checked(position));
            map.note_checked(position);
            assert!(map.is_checked(position));
            assert!(!map.is_checked(position + 1) && !map.is_checked(position + 4_096));
        }
    }

    #[test]
    fn batches_that_begin_in_the_same_block_displace_each_other() {
        let map = map(10_000, true);
        map.note_checked(128);
        map.note_checked(500);
        assert!(map.is_checked(500) && !map.is_checked(128));
    }

    #[test]
    fn notes_take_two_bytes_for_four_kilobytes_and_none_where_each_read_checks() {
        let map_of = |keeps_notes| map(1 << 20, keeps_notes);
        assert_eq!(size_of_val(&*map_of(true).checked), 512);
        let checked = map_of(false);
        checked.note_checked(0);
        assert!(checked.checked.is_empty() && !checked.is_checked(0) && checked.unpacked_place(0).is_none());
    }

    #[test]
    fn a_longer_map_of_the_same_file_keeps_the_notes_and_the_number() {
        let before = SegmentMap { number: 7, ..map(10_000, true) };
        before.note_checked(128);
        before.note_checked(9_000);
        let longer = SegmentMap::extending(map(30_000, true).map, &before, true);
        for position in [128, 9_000] {
            assert!(longer.is_checked(position));
        }
        assert!(!longer.is_checked(20_000));
        longer.note_checked(20_000);
        assert!(longer.is_checked(20_000));
        assert_eq!(longer.unpacked_place(128), before.unpacked_place(128));
        let unchecked = SegmentMap::extending(map(30_000, true).map, &before, false);
        assert!(!unchecked.is_checked(128));
    }

    #[test]
    fn positions_outside_the_map_have_no_notes() {
        let map = map(4_096, true);
        for position in [4_096, u64::MAX] {
            map.note_checked(position);
            assert!(!map.is_checked(position));
        }
    }
}
