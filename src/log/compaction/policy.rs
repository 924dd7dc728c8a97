//! The policy of compaction: which segments are compacted, when, and which records stay. Pure
//! functions of the segments and the time.

use super::offset_map::OffsetMap;
use crate::config::CompactionSettings;
use crate::format::batch::{BatchHeader, Extra};
use crate::types::{Offset, Timestamp};

/// The records that a compaction removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Compacts every segment that was never compacted, together with all segments before it. If
    /// there is none, removes expired tombstones.
    Whole,
    /// Only removes expired tombstones, and rewrites only the segments with some. That is valid
    /// whatever follows them, because older records of their keys were removed by the first
    /// compaction that saw the tombstones.
    Tombstones,
}

/// The data of a durable sealed segment that the decision needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactionCandidate {
    pub(crate) bytes: u64,
    pub(crate) max_timestamp: Option<Timestamp>,
    /// It was compacted, and has no newer records.
    pub(crate) compacted: bool,
}

/// Returns how many of the oldest segments may be compacted: those before the first that was never
/// compacted and has a record that is too young. The active segment is not among them.
pub(crate) fn compactable(
    settings: &CompactionSettings,
    segments: &[CompactionCandidate],
    now: Timestamp,
) -> usize {
    let oldest = now.minus(settings.min_lag);
    let too_young = |segment: &CompactionCandidate| {
        let young = segment.max_timestamp.is_none_or(|newest| newest > oldest);
        !segment.compacted && !settings.min_lag.is_zero() && young
    };
    segments.iter().position(too_young).unwrap_or(segments.len())
}

/// Returns the bytes that were compacted, and those that were not.
pub(crate) fn amounts(segments: &[CompactionCandidate]) -> (u64, u64) {
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let compacted: u64 =
        segments.iter().take_while(|segment| segment.compacted).map(|segment| segment.bytes).sum();
    (compacted, total - compacted)
}

/// Returns the share of the bytes that were not compacted, in millionths.
pub(crate) fn dirtiness(compacted: u64, dirty: u64) -> u32 {
    let (dirty, total) = (u128::from(dirty), u128::from(compacted) + u128::from(dirty));
    u32::try_from((dirty * 1_000_000).checked_div(total).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// Returns whether a compaction is due: the dirty share is strictly greater than the ratio, as in
/// Kafka, or the oldest record that was never compacted has waited too long.
pub(crate) fn is_due(
    settings: &CompactionSettings,
    compacted: u64,
    dirty: u64,
    oldest_dirty: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let overdue =
        settings.max_lag.is_some_and(|lag| oldest_dirty.is_some_and(|oldest| oldest < now.minus(lag)));
    dirty > 0 && (dirtiness(compacted, dirty) > settings.min_dirty_ratio || overdue)
}

/// Returns when the tombstones of a batch expire, if a compaction has set that.
pub(super) fn horizon_of(header: &BatchHeader) -> Option<Timestamp> {
    let stamped = header.attributes.extra() == Extra::DeleteHorizon;
    stamped.then(|| Timestamp::from_millis(i64::try_from(header.extra).unwrap_or(i64::MAX)))
}

/// Returns whether a record before the end of the map stays: it must have a key, there must be no
/// newer record of that key, and it must not be an expired tombstone. `horizon` is the time at
/// which it expires.
pub(crate) fn stays(
    map: &OffsetMap,
    key: Option<&[u8]>,
    is_tombstone: bool,
    offset: Offset,
    horizon: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let Some(key) = key else { return false };
    let is_newest = map.get(key).is_none_or(|newest| newest <= offset);
    is_newest && !(is_tombstone && horizon.is_some_and(|horizon| horizon <= now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn segment(bytes: u64, max: i64, compacted: bool) -> CompactionCandidate {
        CompactionCandidate { bytes, max_timestamp: Some(Timestamp::from_millis(max)), compacted }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn segments_that_are_too_young_and_all_after_them_wait() {
        let lag = CompactionSettings { min_lag: Duration::from_millis(10), ..CompactionSettings::default() };
        let segments =
            [segment(1, 95, true), segment(1, 90, false), segment(1, 91, false), segment(1, 1, false)];
        assert_eq!(compactable(&lag, &segments, at(100)), 2);
        assert_eq!(compactable(&lag, &segments, at(101)), 4);
        assert_eq!(compactable(&CompactionSettings::default(), &segments, at(0)), 4);
    }

    #[test]
    fn due_above_the_ratio_or_after_the_lag() {
        let settings = CompactionSettings::default();
        let due =
            |settings: &_, compacted, dirty, oldest| is_due(settings, compacted, dirty, oldest, at(100));
        assert!(!due(&settings, 50, 50, None));
        assert!(due(&settings, 50, 51, None));
        assert!(!due(&settings, 0, 0, None));
        let lag = CompactionSettings { max_lag: Some(Duration::from_millis(10)), ..settings };
        assert!(due(&lag, 99, 1, Some(at(89))));
        assert!(!due(&lag, 99, 1, Some(at(90))));
        assert_eq!(amounts(&[segment(1, 0, true), segment(2, 0, false), segment(4, 0, true)]), (1, 6));
    }

    /// Kafka's vector: keys 0, 1, 0, 1, 0 and a map of one key.
    #[test]
    fn a_map_of_one_key_needs_several_passes() {
        let mut log: Vec<(u64, &[u8])> = vec![(0, b"0"), (1, b"1"), (2, b"0"), (3, b"1"), (4, b"0")];
        let after: [(u64, &[u64]); 3] = [(2, &[1, 2, 3, 4]), (3, &[2, 3, 4]), (4, &[3, 4])];
        for (from, expected) in after {
            let mut map = OffsetMap::new(1);
            let upto = log.iter().filter(|(offset, _)| *offset >= from).find_map(|(offset, key)| {
                map.put(key, Offset::new(*offset));
                map.is_full().then_some(offset + 1)
            });
            log.retain(|(offset, key)| {
                *offset >= upto.unwrap() || stays(&map, Some(key), false, Offset::new(*offset), None, at(0))
            });
            assert!(log.iter().map(|(offset, _)| *offset).eq(expected.iter().copied()), "from {from}");
        }
    }

    #[test]
    fn the_newest_record_of_a_key_stays() {
        let mut map = OffsetMap::new(100);
        map.put(b"k", Offset::new(5));
        let stays = |key: Option<&[u8]>, tombstone, offset, horizon: Option<i64>| {
            stays(&map, key, tombstone, Offset::new(offset), horizon.map(at), at(100))
        };
        assert!(!stays(Some(b"k"), false, 4, None));
        assert!(stays(Some(b"k"), false, 5, None));
        assert!(stays(Some(b"k"), true, 5, None), "no compaction has stamped it yet");
        assert!(stays(Some(b"k"), true, 5, Some(101)));
        assert!(!stays(Some(b"k"), true, 5, Some(100)));
        assert!(stays(Some(b"k"), false, 5, Some(100)));
        assert!(stays(Some(b"other"), false, 1, None));
        assert!(!stays(None, false, 9, None));
    }
}
