//! How far a file has zeros after the log's end, and how far it should have. Knows no log.

/// A file system gives a file whole blocks of this size, so zeros up to the next multiple take no
/// more space.
const BLOCK: u64 = 4 << 10;

/// The most bytes of zeros.
pub(crate) const STEP_MAX: u64 = 1 << 20;

/// Smaller segments get no zeros: a roll syncs several files, so there the syncs of records are not
/// what costs.
const SEGMENT_MIN: u64 = 64 << 10;

/// The syncs that a step must serve at least. Zeros are written twice, as zeros and as batches, so
/// they do not pay where each sync has many bytes.
const SYNCS_OF_A_STEP: u64 = 16;

/// The zeros after the end of an active segment, as the leaders of group commits need them.
#[derive(Clone, Copy)]
pub(crate) struct ZerosAhead {
    /// The log's end when a leader last looked.
    seen: u64,
    /// No leader needs to write zeros as long as the bytes of the next sync end before it.
    enough_until: u64,
}

impl ZerosAhead {
    /// The state in a file whose length is not known, with the log's end at `position`.
    pub(crate) fn new(position: u64) -> Self {
        ZerosAhead { seen: position, enough_until: 0 }
    }

    /// Notes the log's end at a sync. Returns the bytes since the sync before, if as many do not fit
    /// the zeros that are there.
    #[inline]
    pub(crate) fn look(&mut self, position: u64) -> Option<u64> {
        let grown = position.saturating_sub(std::mem::replace(&mut self.seen, position));
        (grown > 0 && position + grown > self.enough_until).then_some(grown)
    }

    /// Notes that there are zeros up to a position, or that none must be written before the log's
    /// end comes near it.
    pub(crate) fn set_enough_until(&mut self, position: u64) {
        self.enough_until = position;
    }
}

/// Returns up to where a file should have zeros, with the log's end at `position`, `grown` bytes a
/// sync, and no batch after `limit`. Returns `None` if zeros do not pay. The last sync of a segment
/// gets none, because it would hardly ever use all of them.
pub(crate) fn wanted_end(position: u64, grown: u64, limit: u64) -> Option<u64> {
    if limit < SEGMENT_MIN {
        return None;
    }
    let step = position.clamp(BLOCK, STEP_MAX);
    let end = ((position + step) / BLOCK * BLOCK).min(limit.saturating_sub(grown));
    (grown.saturating_mul(SYNCS_OF_A_STEP) <= step && end >= position + grown).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_with_the_file_up_to_one_mebibyte_and_end_with_the_segment() {
        let end = |position| wanted_end(position, 200, 64 << 20);
        assert_eq!(end(300), Some(4 << 10), "the rest of its first block");
        assert_eq!(end(5_000), Some(8 << 10));
        assert_eq!(end(100 << 10), Some(200 << 10));
        assert_eq!(end(10 << 20), Some(11 << 20));
        assert_eq!(end((64 << 20) - 5_000), Some((64 << 20) - 200));
        assert_eq!(end((64 << 20) - 300), None, "the next batch is the last one");
        for position in (128..8 << 20).step_by(997) {
            let ahead = end(position).unwrap_or(position) - position;
            assert!(ahead <= STEP_MAX && ahead <= position.max(BLOCK), "{ahead} bytes at {position}");
        }
    }

    #[test]
    fn zeros_do_not_pay_where_a_sync_has_many_bytes() {
        assert_eq!(wanted_end(300, 257, 64 << 20), None);
        assert_eq!(wanted_end(300, 200, (64 << 10) - 1), None, "rolls cost more there");
        assert_eq!(wanted_end(300, 200, 64 << 10), Some(4 << 10));
        assert_eq!(wanted_end(1 << 20, (64 << 10) + 1, 64 << 20), None);
        assert_eq!(wanted_end(1 << 20, 64 << 10, 64 << 20), Some(2 << 20));
    }

    #[test]
    fn a_leader_looks_again_when_the_next_sync_may_not_fit() {
        let mut zeros = ZerosAhead::new(128);
        assert_eq!(zeros.look(128), None, "nothing was written");
        assert_eq!(zeros.look(328), Some(200));
        zeros.set_enough_until(1_000);
        assert_eq!(zeros.look(600), None);
        assert_eq!(zeros.look(800), None, "the next 200 bytes fit");
        assert_eq!(zeros.look(901), Some(101));
    }
}
