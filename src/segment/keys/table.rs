//! The keys of batches in memory: each key with the batches that hold its records, and their
//! number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::format::body;
use crate::format::key_hash::{KeyHash, KeyHasher};
use crate::format::key_index::{Indexed, KeyPlace};

/// The number of records of a batch with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyCount {
    pub(crate) hash: KeyHash,
    pub(crate) records: u32,
}

/// The number of records of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordCounts {
    /// The number in a segment.
    pub(crate) records: u64,
    /// The number in the segments before it, if that is known.
    pub(crate) before: Option<u64>,
}

/// Returns the keys of a batch's records, each once. Records without a key belong to no stream.
pub(crate) fn count_keys(hasher: &KeyHasher, body: &[u8], records: u32) -> Vec<KeyCount> {
    let mut counts: Vec<KeyCount> = Vec::new();
    let mut last: Option<&[u8]> = None;
    let mut merge_at = MERGE_AT;
    for key in body::RawRecords::new(body, records).map_while(std::result::Result::ok).filter_map(|r| r.key) {
        match counts.last_mut() {
            // The events of one append belong to one stream.
            Some(count) if last == Some(key) => count.records += 1,
            _ => {
                if counts.len() == merge_at {
                    merge(&mut counts);
                    merge_at = MERGE_AT.max(counts.len() * 2);
                }
                counts.push(KeyCount { hash: hasher.hash(key), records: 1 });
            }
        }
        last = Some(key);
    }
    merge(&mut counts);
    if counts.capacity() > MERGE_AT {
        counts.shrink_to_fit();
    }
    counts
}

/// Equal keys are merged when there are so many entries: few keys that alternate over millions of
/// records take no more memory than so many, and different ones no more than twice their own.
const MERGE_AT: usize = 4_096;

/// Sorts the entries, and makes one of those of the same key.
fn merge(counts: &mut Vec<KeyCount>) {
    counts.sort_unstable_by_key(|count| count.hash);
    counts.dedup_by(|next, kept| {
        let same = next.hash == kept.hash;
        if same {
            kept.records += next.records;
        }
        same
    });
}

/// The keys of a part of a segment, in memory.
#[derive(Clone, Default)]
pub(super) struct KeyTable {
    heads: HashMap<KeyHash, Head, BuildHasherDefault<Low>>,
    places: Vec<Noted>,
}

/// The state of a key.
#[derive(Clone, Copy)]
struct Head {
    records: u32,
    /// The index of its newest batch in `places`.
    newest: u32,
    /// The number of its records in the segments before, once it was looked up.
    before: u64,
}

/// A batch that holds records of a key.
#[derive(Clone, Copy)]
struct Noted {
    place: KeyPlace,
    /// The batch's base offset minus the segment's.
    offset_delta: u32,
    /// The index in `places` of the key's batch before this one.
    previous: u32,
}

impl Head {
    fn before(&self) -> Option<u64> {
        (self.before != UNKNOWN).then_some(self.before)
    }
}

const NONE: u32 = u32::MAX;
const UNKNOWN: u64 = u64::MAX;

impl KeyTable {
    /// Notes the keys of a batch, which must be after all batches noted before.
    pub(super) fn note(&mut self, position: u32, offset_delta: u32, counts: &[KeyCount]) {
        for KeyCount { hash, records } in counts {
            let next = u32::try_from(self.places.len()).unwrap_or(NONE);
            let new = Head { records: 0, newest: NONE, before: UNKNOWN };
            let head = self.heads.entry(*hash).or_insert(new);
            let place = KeyPlace { position, records: *records };
            self.places.push(Noted { place, offset_delta, previous: head.newest });
            head.newest = next;
            head.records += records;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Returns the numbers of records of a key.
    pub(super) fn known(&self, hash: KeyHash) -> RecordCounts {
        let known = |head: &Head| RecordCounts { records: u64::from(head.records), before: head.before() };
        self.heads.get(&hash).map_or(RecordCounts::default(), known)
    }

    /// Notes how many records of a key the segments before have. Ignored if the table does not have
    /// the key.
    pub(super) fn note_before(&mut self, hash: KeyHash, before: u64) {
        if let Some(head) = self.heads.get_mut(&hash) {
            head.before = before;
        }
    }

    /// Returns how many records of a key are in batches with an offset delta less than `below`.
    pub(super) fn count(&self, hash: KeyHash, below: u64) -> u64 {
        let Some(head) = self.heads.get(&hash) else { return 0 };
        let (mut records, mut next) = (u64::from(head.records), head.newest);
        while let Some(noted) = self.places.get(next as usize).filter(|n| u64::from(n.offset_delta) >= below)
        {
            records -= u64::from(noted.place.records);
            next = noted.previous;
        }
        records
    }

    /// Returns the batches with those records of a key that `range` counts from the key's first
    /// record here, oldest first. Visits no older batch.
    pub(super) fn places(&self, hash: KeyHash, range: &Range<u64>) -> Vec<KeyPlace> {
        let Some(head) = self.heads.get(&hash) else { return Vec::new() };
        let (mut places, mut end, mut next) = (Vec::new(), u64::from(head.records), head.newest);
        while let Some(noted) = self.places.get(next as usize).filter(|_| end > range.start) {
            let begin = end.saturating_sub(u64::from(noted.place.records));
            if begin < range.end {
                places.push(noted.place);
            }
            (end, next) = (begin, noted.previous);
        }
        places.reverse();
        places
    }

    /// Adds the table of older batches, all of which must be before the first noted batch.
    pub(super) fn prepend(&mut self, older: KeyTable) {
        let newer = std::mem::replace(self, older);
        let mut all: Vec<(KeyHash, Noted)> = Vec::with_capacity(newer.places.len());
        for (hash, head) in &newer.heads {
            let mut next = head.newest;
            while let Some(noted) = newer.places.get(next as usize) {
                all.push((*hash, *noted));
                next = noted.previous;
            }
        }
        all.sort_unstable_by_key(|(_, noted)| noted.place.position);
        for (hash, noted) in all {
            let count = KeyCount { hash, records: noted.place.records };
            self.note(noted.place.position, noted.offset_delta, &[count]);
        }
        for (hash, head) in newer.heads {
            if let (Some(known), Some(before)) = (self.heads.get_mut(&hash), head.before()) {
                known.before = before;
            }
        }
    }

    /// Returns all keys with their batches, sorted by key.
    pub(super) fn sorted(&self) -> Vec<Indexed> {
        let indexed = |(hash, head): (&KeyHash, &Head)| Indexed {
            hash: *hash,
            before: head.before(),
            places: self.places(*hash, &(0..u64::from(head.records))),
        };
        let mut all: Vec<_> = self.heads.iter().map(indexed).collect();
        all.sort_unstable_by_key(|key| key.hash);
        all
    }
}

/// Hashes of keys are random already, so this hasher keeps their low bits.
#[derive(Default)]
pub(super) struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> KeyHash {
        KeyHasher::new(&crate::format::batch::Secret([7; 16])).hash(&n.to_le_bytes())
    }

    pub(super) fn count(n: u64, records: u32) -> KeyCount {
        KeyCount { hash: hash(n), records }
    }

    fn place(position: u32, records: u32) -> KeyPlace {
        KeyPlace { position, records }
    }

    #[test]
    fn a_table_returns_the_batches_of_a_key_in_order_up_to_the_visible_end() {
        let mut table = KeyTable::default();
        table.note(100, 0, &[count(1, 2)]);
        table.note(200, 2, &[count(1, 1), count(2, 4)]);
        table.note(300, 7, &[count(1, 3)]);
        let places = |key, range| table.places(hash(key), &range);
        assert_eq!(places(1, 0..6), [place(100, 2), place(200, 1), place(300, 3)]);
        assert_eq!(places(1, 0..9), places(1, 0..6), "there are no more");
        assert_eq!(places(1, 0..3), [place(100, 2), place(200, 1)]);
        assert_eq!(places(1, 1..2), [place(100, 2)]);
        assert_eq!(places(1, 2..4), [place(200, 1), place(300, 3)]);
        assert_eq!(places(1, 5..6), [place(300, 3)]);
        assert_eq!((places(1, 0..0), places(1, 6..6)), (vec![], vec![]));
        assert_eq!([0, 2, 3, 7, 8, u64::MAX].map(|below| table.count(hash(1), below)), [0, 2, 3, 3, 6, 6]);
        assert_eq!(places(2, 0..4), [place(200, 4)]);
        assert_eq!(places(3, 0..4), []);
    }

    #[test]
    fn keys_of_older_batches_are_prepended() {
        let mut table = KeyTable::default();
        table.note(300, 7, &[count(1, 3), count(3, 1)]);
        table.heads.get_mut(&hash(1)).unwrap().before = 9;
        let mut older = KeyTable::default();
        older.note(100, 0, &[count(1, 2)]);
        older.note(200, 2, &[count(2, 4)]);
        table.prepend(older);
        assert_eq!(table.places(hash(1), &(0..5)), [place(100, 2), place(300, 3)]);
        assert_eq!(table.count(hash(1), 7), 2);
        assert_eq!((table.heads[&hash(1)].records, table.heads[&hash(1)].before), (5, 9));
        assert_eq!(table.places(hash(2), &(0..4)), [place(200, 4)]);
        let sorted = table.sorted();
        assert_eq!(sorted.len(), 3);
        assert!(sorted.is_sorted_by_key(|key| key.hash));
    }
}
