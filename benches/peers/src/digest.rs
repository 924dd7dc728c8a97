//! The contents of a log in few numbers, to compare a log that was reopened with the records that
//! were appended.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub count: u64,
    pub bytes: u64,
    /// The same in every order of the records.
    sum: u64,
    /// Depends on the order.
    chain: u64,
    /// Whether every byte counts. A timed scan looks at the first and last eight bytes of each
    /// record only: a reader looks at its records, but its own work must not hide the log's.
    whole: bool,
    /// Records after so many are counted as `extra`, and not looked at.
    limit: u64,
    pub extra: u64,
}

impl Digest {
    /// For a timed scan.
    pub fn quick() -> Self {
        Digest { count: 0, bytes: 0, sum: 0, chain: 0, whole: false, limit: u64::MAX, extra: 0 }
    }

    /// For the comparison of contents.
    pub fn whole() -> Self {
        Digest { whole: true, ..Digest::quick() }
    }

    /// Of the first `limit` records.
    pub fn first(limit: u64) -> Self {
        Digest { limit, ..Digest::whole() }
    }

    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        if self.count == self.limit {
            self.extra += 1;
            return;
        }
        let mut hash = ends(value);
        if self.whole {
            hash ^= u64::from(crc32fast::hash(value)) << 16;
        }
        self.count += 1;
        self.bytes += value.len() as u64;
        self.sum = self.sum.wrapping_add(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.chain = self.chain.wrapping_mul(0x100_0000_01b3).wrapping_add(hash);
    }

    /// Adds records of another thread. Afterwards the order is known only if it is the first one.
    pub fn add(&mut self, other: &Digest) {
        if self.count == 0 {
            self.chain = other.chain;
        }
        self.count += other.count;
        self.bytes += other.bytes;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Whether the records are the same, in order or in any order.
    pub fn is_that_of(&self, other: &Digest, in_order: bool) -> bool {
        (self.count, self.bytes, self.sum) == (other.count, other.bytes, other.sum)
            && (!in_order || self.chain == other.chain)
    }
}

#[inline]
fn ends(value: &[u8]) -> u64 {
    match (value.first_chunk::<8>(), value.last_chunk::<8>()) {
        (Some(first), Some(last)) => u64::from_le_bytes(*first).rotate_left(19) ^ u64::from_le_bytes(*last),
        _ => value.iter().fold(value.len() as u64, |hash, byte| hash << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Digest {
        let mut digest = Digest::whole();
        values.iter().for_each(|value| digest.push(value.as_bytes()));
        digest
    }

    #[test]
    fn another_order_is_noticed_only_where_it_counts() {
        let (one, other) = (of(&["first record", "second record"]), of(&["second record", "first record"]));
        assert!(one.is_that_of(&other, false));
        assert!(!one.is_that_of(&other, true));
    }

    #[test]
    fn every_byte_counts() {
        assert!(!of(&["eight bytes.x.eight bytes"]).is_that_of(&of(&["eight bytes.y.eight bytes"]), false));
        assert!(!of(&["a"]).is_that_of(&of(&["b"]), false));
    }

    #[test]
    fn records_after_the_limit_are_counted_only() {
        let mut first = Digest::first(1);
        first.push(b"a record");
        first.push(b"another one");
        assert!(first.is_that_of(&of(&["a record"]), true));
        assert_eq!(first.extra, 1);
    }
}
