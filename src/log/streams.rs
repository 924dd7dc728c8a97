//! Which records of a log are of one key, how many are there, and may one more be appended? Looked up in the segments'
//! keys, of which only the active segment's are in memory.
//!
//! *Versions and the writer's lock.* Sealed segments have their keys for good, so what they hold of a key is counted
//! without a lock. Under the writer's lock it is enough that the active segment is still the one before which was counted,
//! and that the log was not cut: then the version is that count and what the active segment's table says. Otherwise the
//! lock is given back and the counting begins anew; that takes a roll or a cut, so it ends.

use super::{Common, Log, LogSettings};
use crate::error::{Error, Result};
use crate::format::batch::BatchHeader;
use crate::format::key_hash::KeyHash;
use crate::log::writer::Tip;
use crate::segment::keys::{KeyCount, Owner, count_keys};
use crate::segment::{Batch, Segment, read_batch};
use crate::sync::Arc;
use crate::types::Offset;
use crate::version::{ExpectedVersion, Version};

/// What must hold of a stream, or nothing is appended.
#[derive(Clone, Debug)]
pub(crate) struct StreamCondition {
    pub(crate) key: Arc<[u8]>,
    pub(crate) hash: KeyHash,
    pub(crate) expected: ExpectedVersion,
    /// How many events come before, of those that are appended together.
    pub(crate) ahead: u64,
}

/// What was counted of a stream before the writer's lock was taken.
pub(crate) struct Counted {
    revision: u64,
    active: Arc<Segment>,
    /// In the segments before the active one.
    before: u64,
}

/// How much is loaded at once: batches until they have this, at least one.
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
    /// Those that hold them, in order. They may hold records of other streams too.
    pub(crate) batches: Vec<Arc<Batch>>,
    /// How many events of the first batch come before the first that was asked for.
    pub(crate) skip: u64,
    /// The version before the first event.
    pub(crate) from: Version,
    /// That of the stream.
    pub(crate) version: Version,
}

impl Log {
    pub(super) fn owner(&self) -> Owner<'_> {
        Owner { ctx: &self.ctx, identity: &self.identity, visible_end: self.visible_end() }
    }

    /// What stands for a key.
    pub(crate) fn hash_key(&self, key: &[u8]) -> KeyHash {
        self.hasher.hash(key)
    }

    /// The keys of a batch that is to be appended, where anybody asks for them. Before any lock is taken.
    pub(super) fn keys_of(
        &self,
        settings: &LogSettings,
        header: &BatchHeader,
        records: &[u8],
    ) -> Vec<KeyCount> {
        if settings.streams { count_keys(&self.hasher, records, header.count) } else { Vec::new() }
    }

    /// Counts a stream's events in all segments but the active one. The version that the condition
    /// expects is of this past, if the log is not cut after that.
    ///
    /// # Errors
    /// Those of reading; `StreamTruncated`.
    pub(super) fn count_before(self: &Arc<Self>, condition: &StreamCondition) -> Result<Counted> {
        let StreamCondition { key, hash, expected, ahead } = condition;
        let counted = self.count_sealed(*hash)?;
        if let ExpectedVersion::Exact(version) = expected {
            // A cut in between is noticed under the writer's lock.
            self.check_version(key, *hash, *version, *ahead)?;
        }
        Ok(counted)
    }

    /// Whether a version still counts the events that it counted when it was seen; `ahead` of them
    /// are not appended yet. One without an epoch does not say which they were.
    ///
    /// # Errors
    /// `StreamTruncated` if it does not; those of reading.
    pub(crate) fn check_version(
        self: &Arc<Self>,
        key: &Arc<[u8]>,
        hash: KeyHash,
        version: Version,
        ahead: u64,
    ) -> Result<()> {
        let seen = version.get().saturating_sub(ahead);
        let Some(epoch) = version.epoch().filter(|epoch| *epoch != self.epoch() && seen > 0) else {
            return Ok(());
        };
        let mut common = Version::ZERO;
        match self.common_end(epoch) {
            Common::All => return Ok(()),
            Common::Unknown => {}
            Common::UpTo(end) => {
                if self.is_event_before(hash, seen, end)? {
                    return Ok(());
                }
                // Events are in the order of their offsets: those before the end come first.
                let (mut low, mut high) = (0, seen - 1);
                while low < high {
                    let middle = high - (high - low) / 2;
                    if self.is_event_before(hash, middle, end)? {
                        low = middle;
                    } else {
                        high = middle - 1;
                    }
                }
                common = Version::new(low).seen_in(self.epoch());
            }
        }
        Err(Error::StreamTruncated { topic: self.topic().clone(), key: key.clone(), version, to: common })
    }

    /// Whether the stream has an event of this number, counted from 1, and it lies before `end`,
    /// where an epoch begins, so that no batch lies across.
    ///
    /// # Errors
    /// Those of reading.
    fn is_event_before(self: &Arc<Self>, hash: KeyHash, number: u64, end: Offset) -> Result<bool> {
        let one = Limit { events: 1, ..Limit::default() };
        let loaded = self.load_stream(hash, |_| Version::new(number.saturating_sub(1)), one)?;
        let is_there = loaded.version.get() >= number;
        Ok(is_there && loaded.batches.first().is_some_and(|batch| batch.header.base_offset < end))
    }

    /// Counts a stream's events in all segments but the active one.
    ///
    /// # Errors
    /// Those of reading.
    fn count_sealed(self: &Arc<Self>, hash: KeyHash) -> Result<Counted> {
        self.consistently(|| {
            let revision = self.revision();
            let segments = self.segments();
            let Some((active, sealed)) = segments.split_last() else {
                return Err(self.out_of_range(self.log_start()));
            };
            let before = self.count_in(active, sealed, hash)?;
            Ok(Some(Counted { revision, active: active.clone(), before }))
        })
    }

    /// Counts a stream's events in the `sealed` segments. One that knows how many come before it ends the walk.
    fn count_in(&self, active: &Arc<Segment>, sealed: &[Arc<Segment>], hash: KeyHash) -> Result<u64> {
        active.complete_keys(&self.ctx, &self.identity, self.visible_end())?;
        if let Some(before) = active.known_key(hash).and_then(|known| known.before) {
            return Ok(before);
        }
        let mut before = 0;
        for segment in sealed.iter().rev() {
            let known = segment.count_key(&self.owner(), hash, Offset::MAX)?;
            before += known.records;
            if let Some(rest) = known.before {
                return Ok(before + rest);
            }
        }
        Ok(before)
    }

    /// The version that a condition is about, if it holds; `None` if what was counted is not the whole truth any more. Under
    /// the writer's lock.
    ///
    /// # Errors
    /// `VersionConflict`: it does not hold.
    pub(super) fn check_stream(
        &self,
        tip: &Tip,
        condition: &StreamCondition,
        counted: &Counted,
    ) -> Result<Option<Version>> {
        if !Arc::ptr_eq(&tip.segment, &counted.active) || self.revision() != counted.revision {
            return Ok(None);
        }
        let Some(known) = tip.segment.known_key(condition.hash) else { return Ok(None) };
        let current = Version::new(counted.before + known.records).seen_in(self.epoch());
        if condition.expected.holds(current.plus(condition.ahead)) {
            return Ok(Some(current));
        }
        Err(Error::VersionConflict {
            topic: self.topic().clone(),
            key: condition.key.clone(),
            expected: condition.expected,
            current,
        })
    }

    /// Keeps in mind how many events of a stream lie before the active segment, which has the batch by now in which
    /// `appended` more are. Under the writer's lock.
    pub(super) fn note_version(
        &self,
        tip: &Tip,
        condition: &StreamCondition,
        version: Version,
        keys: &[KeyCount],
    ) {
        let at = keys.binary_search_by_key(&condition.hash, |count| count.hash).ok();
        let appended = at.and_then(|at| keys.get(at));
        let total = version.plus(appended.map_or(0, |count| u64::from(count.records)));
        if let Some(known) = tip.segment.known_key(condition.hash) {
            tip.segment.note_before(condition.hash, total.get().saturating_sub(known.records));
        }
    }

    /// Whether a stream may have visible events in batches that begin at or behind `since`, which was the visible end: where it
    /// says no, there are none.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn may_have_since(self: &Arc<Self>, hash: KeyHash, since: Offset) -> Result<bool> {
        self.consistently(|| {
            let segments = self.segments();
            let visible = self.visible_end();
            // From the newest on, up to the one in which that was.
            let first = segments.partition_point(|segment| segment.base <= since).saturating_sub(1);
            for segment in segments.iter().skip(first).rev() {
                if segment.may_have_since(&self.owner(), hash, since, visible)? {
                    return Ok(Some(true));
                }
            }
            Ok(Some(false))
        })
    }

    /// The visible events of a stream behind the version that `from` makes of its own, within a limit.
    ///
    /// # Errors
    /// Those of reading; corrupt, if a batch that holds some is damaged.
    pub(crate) fn load_stream(
        self: &Arc<Self>,
        hash: KeyHash,
        from: impl Fn(Version) -> Version,
        limit: Limit,
    ) -> Result<Loaded> {
        self.consistently(|| {
            let view = self.list.view();
            self.load_from(&view.segments, view.epoch, hash, &from, limit).map(Some)
        })
    }

    /// As [`load_stream`](Log::load_stream), if these are the segments, and this is the epoch,
    /// until the end.
    fn load_from(
        self: &Arc<Self>,
        segments: &[Arc<Segment>],
        epoch: u32,
        hash: KeyHash,
        from: impl Fn(Version) -> Version,
        limit: Limit,
    ) -> Result<Loaded> {
        let visible = self.visible_end();
        // From the newest on, until it is known how many there are before, and that none of those is asked for.
        let (mut found, mut events, mut before) = (Vec::new(), 0, None::<u64>);
        for segment in segments.iter().rev() {
            if before.is_some_and(|before| before <= from(Version::new(before + events)).get()) {
                break;
            }
            // IMPORTANT: what lies before a segment counts as a whole, so it has to be visible as a whole.
            if segment.base >= visible {
                continue;
            }
            let known = segment.count_key(&self.owner(), hash, visible)?;
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
            // IMPORTANT: of those that were counted, however many there are by now.
            let range = passed..count;
            let places = segment.places_of_key(&self.owner(), hash, &range)?;
            if batches.is_empty() {
                // The first of them may begin before the range.
                let held: u64 = places.iter().map(|place| u64::from(place.records)).sum();
                skip = held.saturating_sub(range.end - range.start);
            }
            passed = 0;
            let mut source = segment.source_of_few(&self.ctx, &self.identity)?;
            for place in places {
                if events >= limit.events.saturating_add(skip) || bytes >= limit.bytes {
                    return Ok(Loaded { batches, skip, from, version });
                }
                events += u64::from(place.records);
                let position = u64::from(place.position);
                let (header, records) = read_batch(&self.ctx, self.seed, segment, &mut source, position)?;
                bytes += records.as_slice().len();
                batches.push(Arc::new(Batch {
                    source: self.identity.clone(),
                    header,
                    records,
                    segment: segment.clone(),
                    next_position: position + header.stored_bytes(),
                }));
            }
        }
        Ok(Loaded { batches, skip, from, version })
    }
}
