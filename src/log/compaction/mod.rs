//! Compaction of a log. The records that stay are written into new segments next to the old ones;
//! then the manifest lists the new ones instead, in one step. Before that step nothing has changed.
//!
//! Readers continue: a reader positioned in a replaced segment keeps it to its end, and then uses
//! the current list. A writer is never blocked by a compaction. If another operation removes
//! segments meanwhile (a truncation, retention, the end of the log), the compaction stops.

mod offset_map;
mod output;
mod pace;
pub(crate) mod policy;

use std::collections::HashMap;

use self::offset_map::OffsetMap;
pub(crate) use self::output::Outputs;
pub(crate) use self::pace::Pace;
use self::policy::{Retries, Span, amounts, compactable, dirtiness, is_due, stays};
use super::{Log, idempotence};
use crate::engine::malformed;
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, Extra, HEADER_BYTES, check_body};
use crate::format::body::{self, encode_raw};
use crate::format::manifest::SegmentEntry;
use crate::format::packing::{repack, unpack};
use crate::log::list::View;
use crate::segment::{FIRST_BATCH, Met, Segment, Walker};
use crate::stats::{Compacted, CompactionStats, Event};
use crate::sync::{Arc, Mutex, MutexGuard, Ordering, Rank};
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

/// What a log knows of its compactions.
pub(crate) struct Compactor {
    /// Held during a whole compaction. Taken before any other lock of the log.
    alone: Mutex<()>,
    stats: Mutex<CompactionStats>,
    retries: Mutex<Retries>,
}

impl Default for Compactor {
    fn default() -> Self {
        Compactor {
            alone: Mutex::new(Rank::Compacting, ()),
            stats: Mutex::new(Rank::CompactionStats, CompactionStats::default()),
            retries: Mutex::new(Rank::CompactionRetries, Retries::default()),
        }
    }
}

impl Compactor {
    /// Waits for a running compaction. No other starts until the result is dropped.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.alone.lock()
    }

    /// Notes that the compaction has read and written so many bytes.
    fn note_progress(&self, bytes: u64) {
        self.stats.lock().running = Some(bytes);
    }

    /// Returns `None` while another thread compacts.
    fn try_lock(&self) -> Option<MutexGuard<'_, ()>> {
        self.alone.try_lock()
    }
}

/// The input of one compaction.
struct Plan {
    /// Consecutive segments of the list.
    inputs: Vec<Arc<Segment>>,
    /// The index of the first that was never compacted; their number if all were.
    dirty: usize,
    revision: u64,
    now: Timestamp,
}

/// The state collected from all inputs.
struct Known {
    map: OffsetMap,
    /// Records before this offset are compacted.
    upto: Offset,
    /// The newest batch of each producer, and the very last batch: they stay, if necessary without
    /// records.
    producers: HashMap<u64, Offset>,
    last: Option<Offset>,
}

impl Log {
    /// Returns how dirty the log is, in millionths, and what a compaction should remove, if one is
    /// due. Calls `tick` now and then, under no lock, because after an opening it must read when
    /// tombstones expire.
    pub(crate) fn wants_compaction(self: &Arc<Self>, tick: &dyn Fn()) -> Option<(u32, Extent)> {
        let settings = self.settings();
        if !settings.cleanup.compacts()
            || self.check_writable().is_err()
            || !self.compactor.retries.lock().may_try(self.ctx.clock.monotonic())
        {
            return None;
        }
        let now = self.ctx.cautious_now();
        let (segments, spans) = self.sealed()?;
        let count = compactable(&settings.compaction, &spans, now);
        let spans = spans.get(..count)?;
        let (clean, dirty) = amounts(spans);
        let oldest = settings.compaction.max_lag.and_then(|_| {
            let first = segments.iter().take(count).find(|segment| !segment.compacted)?;
            let mut source = first.source(&self.ctx, &self.identity).ok()?;
            source.header(&self.ctx, FIRST_BATCH, self.seed).ok().map(|(header, _)| header.max_timestamp)
        });
        let mut pace = Pace::new(self, tick, self.revision(), &[]);
        let goes_on = |_: &&Arc<Segment>| !self.ctx.work.is_stopped();
        let mut looked_at = segments.iter().take(count).take_while(goes_on);
        let mut expired = || looked_at.any(|segment| self.is_expired(segment, now, &mut pace));
        let extent = match is_due(&settings.compaction, clean, dirty, oldest, now) {
            true => Extent::Whole,
            false if expired() => Extent::Tombstones,
            false => return None,
        };
        Some((dirtiness(clean, dirty), extent))
    }

    /// Compacts now, if there is anything to remove.
    ///
    /// # Errors
    /// The topic is not compacted, aborted, the partition takes no appends, or an I/O error:
    /// nothing has changed.
    pub(crate) fn compact(self: &Arc<Self>) -> Result<Option<Compacted>> {
        if !self.settings().cleanup.compacts() {
            return Err(Error::NotCompacted { topic: self.identity.topic.clone() });
        }
        let alone = self.compactor.lock();
        // The caller may have made room, so earlier failures do not count.
        *self.compactor.retries.lock() = Retries::default();
        let done = self.compact_extent(Extent::Whole, alone, &|| {});
        self.ctx.events.deliver();
        done
    }

    /// As [`compact`](Log::compact), for maintenance: calls `tick` now and then, under no lock
    /// except the compactor's. Also returns `None` while another thread compacts, because
    /// maintenance should not wait for that.
    pub(crate) fn compact_in_passing(
        self: &Arc<Self>,
        extent: Extent,
        tick: &dyn Fn(),
    ) -> Result<Option<Compacted>> {
        let Some(alone) = self.compactor.try_lock() else { return Ok(None) };
        self.compact_extent(extent, alone, tick)
    }

    fn compact_extent(
        self: &Arc<Self>,
        extent: Extent,
        alone: MutexGuard<'_, ()>,
        tick: &dyn Fn(),
    ) -> Result<Option<Compacted>> {
        self.check_writable()?;
        self.finish_sealed();
        let done = match self.plan(extent, tick)? {
            Some(plan) => {
                let mut pace = Pace::new(self, tick, plan.revision, &plan.inputs);
                pace.is_shown = true;
                self.compactor.stats.lock().running = Some(0);
                let done = self.carry_out(&plan, &mut pace);
                self.note_outcome(&done);
                let mut stats = self.compactor.stats.lock();
                stats.running = None;
                stats.failed = done.as_ref().err().cloned();
                if let Ok(done) = &done {
                    stats.compactions += 1;
                    stats.bytes_read += done.bytes_before;
                    stats.bytes_written += done.bytes_after;
                    stats.records_removed += done.records_before - done.records_after;
                }
                Some(done?)
            }
            None => None,
        };
        drop(alone);
        self.ctx.events.deliver();
        if let Some(done) = &done {
            self.ctx.events.report(&Event::Compacted(done.clone()));
        }
        Ok(done)
    }

    /// Notes when the next compaction may be tried. An aborted compaction does not count as a
    /// failure.
    fn note_outcome(&self, done: &Result<Compacted>) {
        let mut retries = self.compactor.retries.lock();
        match done {
            Ok(_) => *retries = Retries::default(),
            Err(Error::CompactionAborted { .. } | Error::Closed) => {}
            Err(_) => retries.failed(self.ctx.clock.monotonic(), self.ctx.settings.maintenance_interval),
        }
    }

    /// Returns the results of past compactions, and the bytes that the next one would read.
    pub(crate) fn compaction_stats(&self) -> CompactionStats {
        let mut stats = self.compactor.stats.lock().clone();
        if self.settings().cleanup.compacts()
            && let Some((_, spans)) = self.sealed()
        {
            (stats.compacted_bytes, stats.dirty_bytes) = amounts(&spans);
        }
        stats
    }

    /// Returns the oldest segments that are durable and take no appends, and their spans. Returns
    /// `None` while they are being replaced.
    pub(crate) fn sealed(&self) -> Option<(Vec<Arc<Segment>>, Vec<Span>)> {
        let manifest = self.manifest.get();
        let list = self.segments();
        let entries = manifest.segments.iter().take_while(|entry| entry.state.is_synced());
        let mut found = (Vec::new(), Vec::new());
        for (at, entry) in entries.enumerate() {
            let segment = list.get(at).filter(|segment| is_entry(segment, entry))?;
            found.0.push(segment.clone());
            found.1.push(Span {
                bytes: entry.size,
                max_timestamp: entry.max_timestamp(),
                compacted: segment.compacted,
            });
        }
        Some(found)
    }

    fn plan(self: &Arc<Self>, extent: Extent, tick: &dyn Fn()) -> Result<Option<Plan>> {
        let (revision, now) = (self.revision(), self.ctx.cautious_now());
        let Some((mut inputs, spans)) = self.sealed() else { return Err(self.aborted()) };
        inputs.truncate(compactable(&self.settings().compaction, &spans, now));
        let dirty = inputs.iter().position(|segment| !segment.compacted).unwrap_or(inputs.len());
        if dirty == inputs.len() || extent == Extent::Tombstones {
            inputs.truncate(dirty);
            let mut pace = Pace::new(self, tick, revision, &[]);
            let mut expired = |segment: &Arc<Segment>| self.is_expired(segment, now, &mut pace);
            let (Some(first), Some(last)) =
                (inputs.iter().position(&mut expired), inputs.iter().rposition(&mut expired))
            else {
                return Ok(None);
            };
            inputs.truncate(last + 1);
            let inputs = inputs.split_off(first);
            return Ok(Some(Plan { dirty: inputs.len(), inputs, revision, now }));
        }
        Ok(Some(Plan { inputs, dirty, revision, now }))
    }

    /// Returns whether a compacted segment has expired tombstones.
    fn is_expired(&self, segment: &Arc<Segment>, now: Timestamp, pace: &mut Pace<'_>) -> bool {
        if !segment.compacted {
            return false;
        }
        let known = segment.horizon.get().copied().or_else(|| {
            let mut least = None;
            self.walk(segment, |_, met| {
                if let Some(horizon) = horizon_of(&met.header) {
                    least = Some(least.map_or(horizon, |least: Timestamp| least.min(horizon)));
                }
                pace.pass(&met.header).map(|()| true)
            })
            .ok()?;
            // Another thread may have set the same value.
            let _ = segment.horizon.set(least);
            Some(least)
        });
        known.flatten().is_some_and(|horizon| horizon <= now)
    }

    pub(crate) fn aborted(&self) -> Error {
        Error::CompactionAborted { topic: self.identity.topic.clone(), partition: self.identity.partition }
    }

    /// Calls `each` with every batch of a segment, until it returns false.
    ///
    /// # Errors
    /// `CompactionAborted` if the segment's files were deleted meanwhile; the error of `each`;
    /// `Corrupt`, or an I/O error.
    pub(crate) fn walk(
        &self,
        segment: &Arc<Segment>,
        each: impl FnMut(&mut Walker<'_>, &Met) -> Result<bool>,
    ) -> Result<()> {
        self.walk_listed(segment, each).map_err(|error| match segment.retired.load(Ordering::Acquire) {
            // A thread has removed it from the list and deleted its files.
            true if self.check_writable().is_ok() => self.aborted(),
            _ => error,
        })
    }

    fn walk_listed(
        &self,
        segment: &Arc<Segment>,
        mut each: impl FnMut(&mut Walker<'_>, &Met) -> Result<bool>,
    ) -> Result<()> {
        let mut walk = segment.walk(&self.ctx, &self.identity)?;
        while let Some(met) = walk.step()? {
            if !each(&mut walk, &met)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the encoded records of a batch, checked.
    pub(crate) fn records_of<'a>(
        &self,
        segment: &Segment,
        header: &BatchHeader,
        position: u64,
        stored: &'a [u8],
        room: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let body = stored.get(HEADER_BYTES..).unwrap_or_default();
        let records = check_body(header, body).and_then(|()| unpack(header, body, room));
        records.map_err(|m| malformed(&self.ctx, &segment.path, position + HEADER_BYTES as u64, &m))
    }

    /// Reads the inputs and collects the newest offset of each key in the segments that were never
    /// compacted, as far as memory allows.
    fn look_through(&self, plan: &Plan, pace: &mut Pace<'_>) -> Result<Known> {
        let mut map = OffsetMap::new(self.ctx.settings.compaction_memory);
        let mut upto = plan.inputs.last().and_then(|last| last.end()).unwrap_or(Offset::ZERO);
        let (mut producers, mut last, mut room) = (HashMap::new(), None, Vec::new());
        for (at, segment) in plan.inputs.iter().enumerate() {
            let is_dirty = at >= plan.dirty;
            self.walk(segment, |walk, met| {
                let header = &met.header;
                last = Some(header.base_offset);
                if header.producer_id != 0 {
                    producers.insert(header.producer_id, header.base_offset);
                }
                if !is_dirty {
                    return pace.pass(header).map(|()| true);
                }
                let stored = walk.stored(met)?;
                let records = self.records_of(segment, header, met.position, stored, &mut room)?;
                for record in body::RawRecords::new(records, header.count).map_while(std::result::Result::ok)
                {
                    if let Some(key) = record.key {
                        map.put(key, header.base_offset.plus(u64::from(record.offset_delta)));
                    }
                }
                pace.keep(header.stored_bytes())?;
                if map.is_full() {
                    upto = header.end_offset();
                }
                Ok(!map.is_full())
            })?;
            if map.is_full() {
                break;
            }
        }
        Ok(Known { map, upto, producers, last })
    }

    fn carry_out(self: &Arc<Self>, plan: &Plan, pace: &mut Pace<'_>) -> Result<Compacted> {
        let known = self.look_through(plan, pace)?;
        let count = plan.inputs.partition_point(|segment| segment.base < known.upto);
        let inputs = plan.inputs.get(..count).unwrap_or_default();
        let mut done = Compacted {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            compacted_to: known.upto,
            complete: plan.inputs.last().and_then(|last| last.end()) == Some(known.upto),
            segments_before: inputs.len(),
            bytes_before: inputs.iter().map(|segment| segment.size()).sum(),
            records_before: 0,
            segments_after: 0,
            bytes_after: 0,
            records_after: 0,
        };
        let mut outputs = Outputs::new(self, self.manifest.next_generation(&self.identity)?);
        let written = self
            .rewrite_all(plan, &known, inputs, &mut outputs, &mut done, pace)
            .and_then(|()| outputs.settle())
            .map_err(|error| (error, false))
            .and_then(|()| {
                done.segments_after = outputs.written.len();
                done.bytes_after = outputs.written.iter().map(|written| written.entry.size).sum();
                self.swap(&outputs, &pace.over(inputs))
            });
        match written {
            Ok(()) => Ok(done),
            Err((error, unknown)) => {
                if !unknown {
                    outputs.remove();
                }
                Err(error)
            }
        }
    }

    fn rewrite_all(
        &self,
        plan: &Plan,
        known: &Known,
        inputs: &[Arc<Segment>],
        outputs: &mut Outputs<'_>,
        done: &mut Compacted,
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        let delete_retention = self.settings().compaction.delete_retention;
        let (mut room, mut stay, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let compression = self.settings().compression;
        for segment in inputs {
            self.walk(segment, |walk, met| {
                let (header, position) = (&met.header, met.position);
                let stored = walk.stored(met)?;
                done.records_before += u64::from(header.count);
                let before = header.stored_bytes();
                if header.base_offset >= known.upto {
                    if let Err(m) = check_body(header, stored.get(HEADER_BYTES..).unwrap_or_default()) {
                        return Err(malformed(&self.ctx, &segment.path, position, &m));
                    }
                    done.records_after += u64::from(header.count);
                    outputs.put(header, stored, false)?;
                    pace.keep(2 * before)?;
                    return Ok(true);
                }
                let records = self.records_of(segment, header, position, stored, &mut room)?;
                let horizon = horizon_of(header);
                let decoded =
                    || body::RawRecords::new(records, header.count).map_while(std::result::Result::ok);
                stay.clear();
                let (mut count, mut latest, mut tombstones) = (0, None::<Timestamp>, false);
                for record in decoded() {
                    let offset = header.base_offset.plus(u64::from(record.offset_delta));
                    let dead = record.value.is_none();
                    let stays = stays(&known.map, record.key, dead, offset, horizon, plan.now);
                    stay.push(stays);
                    if stays {
                        count += 1;
                        latest = latest.max(Some(header.timestamp(record.timestamp_delta)));
                        tombstones |= dead;
                    }
                }
                let must_stay = known.last == Some(header.base_offset)
                    || (header.producer_id != 0
                        && known.producers.get(&header.producer_id) == Some(&header.base_offset));
                if count == 0 && !must_stay {
                    return pace.keep(before).map(|()| true);
                }
                done.records_after += u64::from(count);
                let mut new = *header;
                let extra = if tombstones {
                    let until = horizon.unwrap_or_else(|| plan.now.plus(delete_retention));
                    new.extra = u64::try_from(until.as_millis()).unwrap_or(0);
                    Extra::DeleteHorizon
                } else {
                    new.extra = 0;
                    Extra::Nothing
                };
                new.attributes = new.attributes.with_extra(extra);
                if count == header.count {
                    outputs.put(&new, stored, true)?;
                } else {
                    kept.clear();
                    kept.resize(HEADER_BYTES, 0);
                    let mut next = 0;
                    for (record, _) in decoded().zip(&stay).filter(|(_, stays)| **stays) {
                        let stated = (record.offset_delta != next).then_some(record.offset_delta);
                        encode_raw(&record, stated, record.timestamp_delta, &mut kept);
                        next = record.offset_delta.saturating_add(1);
                    }
                    repack(&mut new, count, compression, &mut kept);
                    new.max_timestamp = latest.unwrap_or(new.max_timestamp);
                    outputs.put(&new, &kept, true)?;
                }
                pace.keep(before + new.stored_bytes()).map(|()| true)
            })?;
        }
        Ok(())
    }

    /// Replaces the old segments by the new ones. The manifest is the commit point.
    pub(crate) fn swap(
        self: &Arc<Self>,
        outputs: &Outputs<'_>,
        pace: &Pace<'_>,
    ) -> Result<(), (Error, bool)> {
        let known = |error| (error, false);
        let inputs = pace.inputs;
        let shape = self.list.lock_shape();
        self.check_writable().map_err(known)?;
        let first = inputs.first().and_then(|first| {
            let list = self.segments();
            let at = list.iter().position(|segment| Arc::ptr_eq(segment, first))?;
            let there = list.get(at..at + inputs.len())?;
            there.iter().zip(inputs).all(|(a, b)| Arc::ptr_eq(a, b)).then_some(at)
        });
        let Some(first) = first.filter(|_| self.revision() == pace.revision) else {
            return Err(known(self.aborted()));
        };
        let behind = first + inputs.len();
        // The last batch of each producer stays, if necessary without records. An earlier one may
        // become the last by a truncation, so the side file must have it.
        if let Some(upto) = inputs.last().and_then(|last| last.end()) {
            idempotence::keep_producers(self, upto, false).map_err(known)?;
        }
        // The list and the manifest have the same segments, one by one. Both only grow at their
        // ends while the shape is locked.
        let committed = self.manifest.commit(&self.ctx, |manifest| {
            manifest.segments.splice(first..behind, outputs.written.iter().map(|written| written.entry));
        });
        committed
            .map_err(|failed| (failed.unknown, self.manifest_failed(failed)))
            .map_err(|(unknown, e)| (e, unknown))?;
        let segments: Vec<_> =
            outputs.written.iter().map(|written| Arc::new(written.to_segment(self))).collect();
        // As in a truncation: a reader that has looked something up in the old list looks again.
        self.list.replace(|view| {
            self.tail.clear(&self.ctx);
            let mut list = view.segments.to_vec();
            list.splice(first..behind, segments.iter().cloned());
            View { segments: list.into(), ..view.clone() }
        });
        // Unlink under the shape lock, while no other thread removes segments, or makes one that
        // may have the name of an old one.
        for segment in inputs {
            segment.unlink(&self.ctx);
        }
        drop(shape);
        for segment in inputs {
            segment.release();
            (pace.tick)();
        }
        for segment in &segments {
            if let Some(end) = segment.end() {
                segment.save_index(&self.ctx, &self.identity, segment.size(), end);
            }
        }
        Ok(())
    }
}

fn is_entry(segment: &Segment, entry: &SegmentEntry) -> bool {
    (segment.base, segment.generation, segment.epoch)
        == (entry.base_offset, entry.generation, entry.log_epoch)
}

/// Returns when the tombstones of a batch expire, if a compaction has set that.
fn horizon_of(header: &BatchHeader) -> Option<Timestamp> {
    let stamped = header.attributes.extra() == Extra::DeleteHorizon;
    stamped.then(|| Timestamp::from_millis(i64::try_from(header.extra).unwrap_or(i64::MAX)))
}
