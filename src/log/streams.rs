//! The records of one key: which there are, how many, and whether one more may be appended. Looked
//! up in the keys of the segments; only those of the active segment are in memory.
//!
//! *Versions and the writer's lock.* The keys of sealed segments do not change, so their records of
//! a key are counted without a lock. Under the writer's lock it is enough to check that the active
//! segment is still the one up to which was counted, and that the log was not replaced. Then the
//! version is that count plus the count of the active segment's table. Otherwise the lock is
//! released and counting starts over. Only a roll or a replacement causes that, so it ends.

use super::writer::Tip;
use super::{Common, Log, LogSettings};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::format::key_hash::KeyHash;
use crate::segment::batch::Batch;
use crate::segment::keys::{KeyCount, Owner, count_keys};
use crate::segment::{Segment, read_batch};
use crate::sync::Arc;
use crate::types::Offset;
use crate::version::{ExpectedVersion, Version};

/// A condition on a stream: if it does not hold, no record is appended.
#[derive(Clone, Debug)]
pub(crate) struct StreamCondition {
    pub(crate) key: Arc<[u8]>,
    pub(crate) hash: KeyHash,
    pub(crate) expected: ExpectedVersion,
    /// The number of events of the same append that precede this condition.
    pub(crate) ahead: u64,
}

/// The number of a stream's events, counted before the writer's lock was taken.
pub(crate) struct Counted {
    revision: u64,
    active: Arc<Segment>,
    /// The number in the segments before the active one.
    before: u64,
}

/// How much is loaded at once: batches until this is reached, but at least one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) events: u64,
    pub(crate) bytes: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Limit { events: u64::MAX, bytes: usize::MAX }
    }
}

/// Events of a stream.
pub(crate) struct Loaded {
    /// The batches that hold the events, in order. They may hold records of other streams too.
    pub(crate) batches: Vec<Arc<Batch>>,
    /// The number of events of the first batch before the first event that was asked for.
    pub(crate) skip: u64,
    /// The version before the first event.
    pub(crate) from: Version,
    /// The version of the stream.
    pub(crate) version: Version,
}

/// Returns what the keys of segments need to know of their log.
pub(super) fn owner(log: &Log) -> Owner<'_> {
    Owner { ctx: &log.ctx, identity: &log.identity, visible_end: log.visible_end() }
}

/// Returns the keys of a batch that is to be appended; empty unless the topic has streams. Must be
/// called before any lock is taken.
pub(super) fn keys_of(
    log: &Log,
    settings: &LogSettings,
    header: &BatchHeader,
    records: &[u8],
) -> Vec<KeyCount> {
    if settings.streams { count_keys(&log.identity.key_hasher(), records, header.count) } else { Vec::new() }
}

/// Counts a stream's events in all segments except the active one, and checks that the expected
/// version belongs to this log's history, if the log is not truncated after that.
///
/// # Errors
/// The errors of reading; `StreamTruncated`.
pub(super) fn count_before(log: &Arc<Log>, condition: &StreamCondition) -> Result<Counted> {
    let StreamCondition { key, hash, expected, ahead } = condition;
    let counted = count_sealed(log, *hash)?;
    if let ExpectedVersion::Exact(version) = expected {
        // A truncation in between is noticed under the writer's lock.
        check_version(log, key, *hash, *version, *ahead)?;
    }
    Ok(counted)
}

/// Checks that a version still counts the same events as when it was read. `ahead` of them are not
/// appended yet. A version without an epoch is not checked, because it has no history to compare.
///
/// # Errors
/// `StreamTruncated` if it does not; the errors of reading.
pub(crate) fn check_version(
    log: &Arc<Log>,
    key: &Arc<[u8]>,
    hash: KeyHash,
    version: Version,
    ahead: u64,
) -> Result<()> {
    let seen = version.get().saturating_sub(ahead);
    let Some(epoch) = version.epoch().filter(|epoch| *epoch != log.epoch() && seen > 0) else {
        return Ok(());
    };
    let mut common = Version::ZERO;
    match log.common_end(epoch) {
        Common::All => return Ok(()),
        Common::Unknown => {}
        Common::UpTo(end) => {
            if is_event_before(log, hash, seen, end)? {
                return Ok(());
            }
            // Events are in the order of their offsets: those before the end come first.
            let (mut low, mut high) = (0, seen - 1);
            while low < high {
                let middle = high - (high - low) / 2;
                if is_event_before(log, hash, middle, end)? {
                    low = middle;
                } else {
                    high = middle - 1;
                }
            }
            common = Version::new(low).seen_in(log.epoch());
        }
    }
    Err(Error::StreamTruncated { topic: log.topic().clone(), key: key.clone(), version, to: common })
}

/// Returns whether the stream has an event with this number, counted from 1, before `end`. An epoch
/// must begin at `end`, so that no batch lies across it.
///
/// # Errors
/// The errors of reading.
fn is_event_before(log: &Arc<Log>, hash: KeyHash, number: u64, end: Offset) -> Result<bool> {
    let one = Limit { events: 1, ..Limit::default() };
    let loaded = load(log, hash, |_| Version::new(number.saturating_sub(1)), one)?;
    let is_there = loaded.version.get() >= number;
    Ok(is_there && loaded.batches.first().is_some_and(|batch| batch.header.base_offset < end))
}

/// Counts a stream's events in all segments except the active one.
///
/// # Errors
/// The errors of reading.
fn count_sealed(log: &Arc<Log>, hash: KeyHash) -> Result<Counted> {
    log.consistently(|| {
        let revision = log.revision();
        let segments = log.segments();
        let Some((active, sealed)) = segments.split_last() else {
            return Err(log.out_of_range(log.log_start()));
        };
        let before = count_in(log, active, sealed, hash)?;
        Ok(Some(Counted { revision, active: active.clone(), before }))
    })
}

/// Counts a stream's events in the `sealed` segments. The walk ends at a segment whose count of
/// earlier events is known.
fn count_in(log: &Log, active: &Arc<Segment>, sealed: &[Arc<Segment>], hash: KeyHash) -> Result<u64> {
    active.complete_keys(&log.ctx, &log.identity, log.visible_end())?;
    if let Some(before) = active.known_key(hash).and_then(|known| known.before) {
        return Ok(before);
    }
    let mut before = 0;
    for segment in sealed.iter().rev() {
        let known = segment.count_key(&owner(log), hash, Offset::MAX)?;
        before += known.records;
        if let Some(rest) = known.before {
            return Ok(before + rest);
        }
    }
    Ok(before)
}

/// Returns the current version of the stream if the condition holds. Returns `None` if the count is
/// out of date. The caller must hold the writer's lock.
///
/// # Errors
/// `VersionConflict` if the condition does not hold.
pub(super) fn check_condition(
    log: &Log,
    tip: &Tip,
    condition: &StreamCondition,
    counted: &Counted,
) -> Result<Option<Version>> {
    if !Arc::ptr_eq(&tip.segment, &counted.active) || log.revision() != counted.revision {
        return Ok(None);
    }
    let Some(known) = tip.segment.known_key(condition.hash) else { return Ok(None) };
    let current = Version::new(counted.before + known.records).seen_in(log.epoch());
    if condition.expected.holds(current.plus(condition.ahead)) {
        return Ok(Some(current));
    }
    Err(Error::VersionConflict {
        topic: log.topic().clone(),
        key: condition.key.clone(),
        expected: condition.expected,
        current,
    })
}

/// Notes how many events of a stream are before the active segment. The batch with the newest
/// events must already be in that segment. The caller must hold the writer's lock.
pub(super) fn note_version(tip: &Tip, condition: &StreamCondition, version: Version, keys: &[KeyCount]) {
    let at = keys.binary_search_by_key(&condition.hash, |count| count.hash).ok();
    let appended = at.and_then(|at| keys.get(at));
    let total = version.plus(appended.map_or(0, |count| u64::from(count.records)));
    if let Some(known) = tip.segment.known_key(condition.hash) {
        tip.segment.note_before(condition.hash, total.get().saturating_sub(known.records));
    }
}

/// Returns whether a stream may have visible events in batches that begin at or after `since`,
/// which was the visible end. If it returns false, there are none.
///
/// # Errors
/// The errors of reading.
pub(crate) fn may_have_since(log: &Arc<Log>, hash: KeyHash, since: Offset) -> Result<bool> {
    log.consistently(|| {
        let segments = log.segments();
        let visible = log.visible_end();
        // From the newest segment back to the one that contains `since`.
        let first = segments.partition_point(|segment| segment.base <= since).saturating_sub(1);
        for segment in segments.iter().skip(first).rev() {
            if segment.may_have_since(&owner(log), hash, since, visible)? {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    })
}

/// Returns the visible events of a stream after the version that `from` computes from the stream's
/// version, within a limit.
///
/// # Errors
/// The errors of reading; `Corrupt` if a batch with such events is damaged.
pub(crate) fn load(
    log: &Arc<Log>,
    hash: KeyHash,
    from: impl Fn(Version) -> Version,
    limit: Limit,
) -> Result<Loaded> {
    log.consistently(|| {
        let view = log.list.view();
        load_from(log, &view.segments, view.epoch, hash, &from, limit).map(Some)
    })
}

/// As [`load`], with the segments and the epoch of one view.
fn load_from(
    log: &Arc<Log>,
    segments: &[Arc<Segment>],
    epoch: u32,
    hash: KeyHash,
    from: impl Fn(Version) -> Version,
    limit: Limit,
) -> Result<Loaded> {
    let visible = log.visible_end();
    // From the newest segment back, until the number of earlier events is known and none of them is
    // asked for.
    let (mut found, mut events, mut before) = (Vec::new(), 0, None::<u64>);
    for segment in segments.iter().rev() {
        if before.is_some_and(|before| before <= from(Version::new(before + events)).get()) {
            break;
        }
        // IMPORTANT: skip a segment that is not visible. The events before a segment are counted as
        // a whole, so all of them must be visible.
        if segment.base >= visible {
            continue;
        }
        let known = segment.count_key(&owner(log), hash, visible)?;
        events += known.records;
        before = known.before.or(before.map(|before| before.saturating_sub(known.records)));
        if known.records > 0 {
            found.push((segment, known.records));
        }
    }
    let before = before.unwrap_or(0);
    let version = Version::new(before + events).seen_in(epoch);
    let from = Version::new(from(version).get()).seen_in(epoch);
    let (mut passed, mut skip, mut batches) = (from.get().saturating_sub(before), 0, Vec::new());
    let (mut events, mut bytes) = (0, 0);
    for (segment, count) in found.into_iter().rev() {
        if passed >= count {
            passed -= count;
            continue;
        }
        // IMPORTANT: take only the events that were counted, even if there are more now.
        let range = passed..count;
        let places = segment.places_of_key(&owner(log), hash, &range)?;
        if batches.is_empty() {
            // The first batch may begin before the range.
            let held: u64 = places.iter().map(|place| u64::from(place.records)).sum();
            skip = held.saturating_sub(range.end - range.start);
        }
        passed = 0;
        let mut source = segment.source(&log.ctx, &log.identity)?.of_few();
        for place in places {
            if events >= limit.events.saturating_add(skip) || bytes >= limit.bytes {
                return Ok(Loaded { batches, skip, from, version });
            }
            events += u64::from(place.records);
            let position = u64::from(place.position);
            let (header, records) = read_batch(&log.ctx, log.seed(), segment, &mut source, position)?;
            bytes += records.as_slice().len();
            batches.push(Arc::new(Batch {
                source: log.identity.clone(),
                header,
                records,
                segment: segment.clone(),
                next_position: position + header.stored_bytes(),
            }));
        }
    }
    Ok(Loaded { batches, skip, from, version })
}
