//! A log that another process owns. It appends nothing: it passes the batches that the owner has
//! made visible, as an append does after its write, so everything that reads a log works here too.
//!
//! The owner publishes an epoch, a log start, ends and a revision: its [`Slot`]. The concurrency
//! argument, with an owner that continues at any point of this file:
//! - *Growth*: every byte of a batch is in the file before the visible end that covers it is
//!   published, and is never changed after that. A follower reads the slot first, and then walks up
//!   to the visible end of it, never further: a batch that is not visible, or half written, is after
//!   that.
//! - *Rolls*: where no batch is at the end of a segment, and the visible end is later, the next
//!   segment is the file that is named for that offset, and whose header names the end and the CRC
//!   of the batch before it. All rolls write such a header, whether a manifest lists the segment or
//!   not, so no manifest is read again.
//! - *Truncation, compaction, retention, accepted loss* replace the manifest before the slot. With
//!   another epoch, log start or revision in the slot the manifest is read again. It may be newer
//!   than the slot. If it has a later epoch, only the records before the start of that epoch are
//!   shown: these are the same in both, and were visible before. So no order of the two is wrong.
//! - *Files that are deleted*: the owner deletes a file after no manifest lists it. A reader that
//!   misses one has the manifest read again, whatever the slot says:
//!   [`Log::consistently`]. Open files and maps stay valid.
//! - *A damaged batch* below the visible end is left to readers, who get the error with its place.
//!   The walk continues with the next valid header.
//! - *Readers here* see one [`View`] as always. One that only grew, or lost its oldest segments,
//!   keeps the revision; every other change raises it, so that they look again. A segment that is
//!   the same in both manifests stays the same object, with its maps and indexes.
//!
//! The writer's lock is held over a change, so there is one follower at a time.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::Log;
use super::create::unwritten;
use super::ends::Ends;
use super::journal::LogJournal;
use super::list::{SegmentSet, View, segments_of};
use super::manifest::stage;
use super::open::assemble;
use super::recovery::point_of;
use super::settings::LogSettings;
use super::streams;
use super::transitions::{self, id_of};
use super::writer::Tip;
use crate::engine::Identity;
use crate::error::{Error, IoAction, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::format::owner::Slot;
use crate::format::packing::unpack;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::create::active_entry;
use crate::segment::keys::KeyCount;
use crate::segment::{FIRST_BATCH, Met, Point, Segment, Source, Walker, Window};
use crate::storage::{OpenMode, read_up_to};
use crate::sync::Arc;
use crate::types::Offset;

/// The facts known of a partition beside its slot.
#[derive(Clone, Copy)]
pub(crate) struct Hint<'a> {
    /// Its entry in the checkpoint: the walk through the active segment need not begin before.
    pub(crate) entry: Option<&'a CheckpointEntry>,
    /// The log was followed to this slot before, and the owner is the same.
    pub(crate) last: Option<&'a Slot>,
}

/// Returns the log of a partition of which nothing is known yet: it is empty.
pub(crate) fn open(
    journal: Arc<dyn LogJournal>,
    identity: Identity,
    dir: PathBuf,
    settings: Arc<LogSettings>,
) -> Arc<Log> {
    let unwritten = unwritten(&identity, &dir);
    assemble(journal, Arc::new(identity), dir, settings, unwritten, stage::NOTHING)
}

/// Follows the owner of a log to a slot. `manifest` reads the present manifest, with the epochs that
/// only the catalog has. Returns whether something has changed.
///
/// # Errors
/// An I/O error, or damage: the log is followed as far as that is possible.
pub(crate) fn follow(
    log: &Arc<Log>,
    slot: &Slot,
    hint: Hint<'_>,
    manifest: impl FnOnce() -> Result<Manifest>,
) -> Result<bool> {
    let (before, revision) = (log.bounds(), log.revision());
    let shape = log.list.lock_shape();
    let mut tip = log.writer.lock();
    if let Some(ended) = log.health.ended() {
        return Err(ended);
    }
    let is_grown = |last: &Slot| {
        (last.epoch, last.log_start, last.revision) == (slot.epoch, slot.log_start, slot.revision)
            && log.has_files()
            && !log.health.is_damaged()
    };
    let mut visible = slot.visible_end;
    let is_known = hint.last.is_some_and(is_grown);
    let is_followed = is_known && {
        let mut growth = Growth { log, tip: &mut tip, epoch: log.epoch(), next: None };
        growth.advance(visible, false)?
    };
    if !is_followed {
        visible = reload(log, &mut tip, slot, &hint, manifest()?)?;
    }
    tip.ends.follow(visible, slot.durable_end.min(visible));
    drop(tip);
    drop(shape);
    let has_changed = log.revision() != revision || log.bounds() != before;
    if log.revision() != revision {
        log.waiters.signal();
    } else if has_changed {
        log.wake_readers();
    }
    Ok(has_changed)
}

/// Takes a manifest, and the batches after what it lists. Returns the visible end that goes with it.
///
/// IMPORTANT: readers get the new view once all of it is found. In between, one with the new visible
/// end would have too few segments, and one with an earlier visible end would refuse the positions
/// of readers.
fn reload(
    log: &Arc<Log>,
    tip: &mut Tip,
    slot: &Slot,
    hint: &Hint<'_>,
    mut manifest: Manifest,
) -> Result<Offset> {
    let later = manifest.epochs.iter().filter(|epoch| epoch.epoch > slot.epoch);
    let common = later.map(|epoch| epoch.start).min().unwrap_or(Offset::MAX);
    let (log_start, epoch) = (manifest.log_start, manifest.epoch());
    let visible = slot.visible_end.min(common).max(log_start);
    log.identity.learn(manifest.secret);
    let view = log.list.view();
    let is_same_history = hint.last.is_some() && log.has_files() && epoch == view.epoch;
    if is_same_history {
        keep_successors(&mut manifest, &log.manifest.get());
    }
    let old = if is_same_history { view.segments.to_vec() } else { Vec::new() };
    let reused = |fresh: Arc<Segment>| match old.iter().find(|segment| segment.id() == fresh.id()) {
        Some(segment) if (segment.end(), segment.compacted) == (fresh.end(), fresh.compacted) => {
            segment.clone()
        }
        _ => fresh,
    };
    let dir = log.manifest.dir();
    let segments: Vec<_> = segments_of(dir, &manifest).into_iter().map(reused).collect();
    let Some(active) = segments.last().cloned() else { return Ok(visible) };
    let stays = Arc::ptr_eq(&active, &tip.segment);
    let mut found = if stays {
        Tip { indexed: tip.indexed, ..Tip::new(active, tip.point, tip.ends.clone()) }
    } else {
        let point = start_of(&active, hint, &manifest, visible);
        active.grow(point.position, point.max_timestamp);
        active.set_index_missing_below(point.position);
        Tip { indexed: point.position, ..Tip::new(active, point, tip.ends.clone()) }
    };
    let next = Some((&mut manifest, segments));
    let mut growth = Growth { log, tip: &mut found, epoch, next };
    growth.advance(visible, true)?;
    let segments = growth.next.take().map(|(_, segments)| segments).unwrap_or_default();
    // The oldest may be gone, and others may follow the newest.
    let kept = old.iter().position(|old| segments.first().is_some_and(|first| Arc::ptr_eq(old, first)));
    let is_grown = kept.is_some_and(|kept| {
        let old = old.get(kept..).unwrap_or_default();
        old.len() <= segments.len() && old.iter().zip(&segments).all(|(a, b)| Arc::ptr_eq(a, b))
    });
    let is_grown = is_grown && visible >= view.ends.visible();
    let ends = if is_grown {
        view.ends.clone()
    } else {
        Arc::new(Ends::followed(visible, slot.durable_end.min(visible), found.point.end))
    };
    found.ends = ends.clone();
    let next = View { epoch, log_start, segments: Arc::new(SegmentSet::new(segments)), ends };
    log.manifest.adopt(manifest);
    if is_grown {
        log.list.extend(next)
    } else {
        drop(log.list.replace(|_| next))
    }
    log.health.follow(None);
    *tip = found;
    Ok(visible)
}

/// Adds to a manifest the segments after its last one that were found before: it may not list the
/// newest.
fn keep_successors(manifest: &mut Manifest, known: &Manifest) {
    let Some(last) = manifest.segments.last().map(id_of) else { return };
    let at = known.segments.iter().position(|entry| id_of(entry) == last);
    if let Some(rest) = at.and_then(|at| known.segments.get(at..))
        && rest.len() > 1
    {
        manifest.segments.pop();
        manifest.segments.extend_from_slice(rest);
    }
}

/// Returns the point of the active segment at which the walk begins.
fn start_of(active: &Segment, hint: &Hint<'_>, manifest: &Manifest, visible: Offset) -> Point {
    let is_of = |entry: &&CheckpointEntry| {
        (entry.base_offset, entry.generation, entry.log_epoch)
            == (active.base, active.generation, active.epoch)
            && entry.end_offset <= visible
    };
    if let Some(entry) = hint.entry.filter(is_of) {
        return point_of(entry);
    }
    let before = manifest.segments.iter().rev().nth(1);
    let last_crc = before.map_or(0, |entry| entry.last_crc);
    Point::start_of(active.base, active.generation, active.epoch, last_crc)
}

/// The end of a log while batches are passed.
struct Growth<'a> {
    log: &'a Arc<Log>,
    tip: &'a mut Tip,
    epoch: u32,
    /// The manifest and the segments, if they are not those that readers see.
    next: Option<(&'a mut Manifest, Vec<Arc<Segment>>)>,
}

impl Growth<'_> {
    /// Passes the batches before the visible end. Returns false if it comes to a place where there
    /// is none, and may not skip that.
    fn advance(&mut self, visible: Offset, may_skip: bool) -> Result<bool> {
        while self.tip.point.end < visible {
            self.walk(visible)?;
            if self.tip.point.end >= visible || self.roll()? {
                continue;
            }
            if !may_skip {
                return Ok(false);
            }
            self.skip_damage(visible)?;
        }
        Ok(true)
    }

    fn fits_epoch(&self, segment: &Segment, met: &Met) -> bool {
        match &self.next {
            Some((manifest, _)) => manifest.fits_epoch(segment.epoch, &met.header),
            None => self.log.manifest.get().fits_epoch(segment.epoch, &met.header),
        }
    }

    /// Passes the batches of the active segment, up to the visible end or to the first that is not
    /// valid.
    fn walk(&mut self, visible: Offset) -> Result<()> {
        let (log, segment) = (self.log, self.tip.segment.clone());
        segment.check_header(&log.ctx, &log.identity)?;
        let (settings, mut room) = (log.settings(), Vec::new());
        let mut walk = walker(log, &segment, self.tip.point.position)?;
        while self.tip.point.end < visible {
            let Ok(Some(met)) = walk.look() else { break };
            let is_next = met.header.base_offset == self.tip.point.end
                && self.fits_epoch(&segment, &met)
                && met.next_position() <= walk.until;
            if !is_next {
                break;
            }
            let keys = match settings.streams {
                true => keys_of(log, &settings, &mut walk, &met, &mut room)?,
                false => Vec::new(),
            };
            self.tip.pass(&met.header, met.crc, &keys, settings.index_interval_bytes);
            walk.pass(&met);
        }
        Ok(())
    }

    /// Continues with the segment that the owner has started at the end of the active one. Returns
    /// whether there is one.
    fn roll(&mut self) -> Result<bool> {
        let (log, old) = (self.log, self.tip.point);
        if old.end <= old.base {
            return Ok(false);
        }
        let Some(header) = read_header(log, old.end)? else { return Ok(false) };
        let identity = &log.identity;
        let follows = (header.topic_id, header.partition, header.secret)
            == (identity.topic_id, identity.partition, identity.secret())
            && (header.base_offset, header.generation) == (old.end, 0)
            && (header.prev_end, header.prev_crc) == (old.end, old.last_crc)
            && (old.epoch..=self.epoch).contains(&header.log_epoch);
        if !follows {
            return Ok(false);
        }
        let entry = active_entry(old.end, 0, header.log_epoch);
        let previous = Some((old.end, old.last_crc));
        let segment = Arc::new(Segment::from_entry(log.manifest.dir(), &entry, previous));
        self.tip.segment.seal(old.end, old.position, old.max_timestamp);
        match &mut self.next {
            Some((manifest, segments)) => {
                transitions::roll(manifest, &old, entry);
                segments.push(segment.clone());
            }
            None => {
                transitions::roll(&mut log.manifest.get(), &old, entry);
                log.list.push(segment.clone());
            }
        }
        let point = Point::start_of(old.end, 0, header.log_epoch, old.last_crc);
        *self.tip = Tip::new(segment, point, self.tip.ends.clone());
        Ok(true)
    }

    /// Continues after damage: with the next batch that has a valid header, or at the end of the
    /// file.
    fn skip_damage(&mut self, visible: Offset) -> Result<()> {
        let segment = self.tip.segment.clone();
        let mut walk = walker(self.log, &segment, self.tip.point.position)?;
        let (from, end) = (self.tip.point.position.max(FIRST_BATCH) + 1, self.tip.point.end);
        let found = walk.find(from, |met| met.header.base_offset >= end && self.fits_epoch(&segment, met));
        let next = found.map_err(|failed| walk.error(failed))?;
        let point = &mut self.tip.point;
        match next.filter(|met| met.header.base_offset < visible) {
            Some(met) => (point.position, point.end) = (met.position, met.header.base_offset),
            None => (point.position, point.end) = (walk.until.max(point.position), visible),
        }
        segment.grow(point.position, point.max_timestamp);
        segment.set_index_missing_below(point.position);
        Ok(())
    }
}

fn walker<'a>(log: &'a Log, segment: &'a Arc<Segment>, from: u64) -> Result<Walker<'a>> {
    let ctx = &*log.ctx;
    let file = segment.file(ctx)?;
    let len = file.len().map_err(|e| Error::io(IoAction::Inspect, &ctx.display(&segment.path), e))?;
    let source = Source::Window(Window::new(file, ctx.display(&segment.path)));
    Ok(Walker::new(ctx, log.seed(), segment, source, from, len))
}

/// Returns the keys of a batch. Those of a damaged one are not known: a lookup that needs them finds
/// the damage.
fn keys_of(
    log: &Log,
    settings: &LogSettings,
    walk: &mut Walker<'_>,
    met: &Met,
    room: &mut Vec<u8>,
) -> Result<Vec<KeyCount>> {
    room.clear();
    let Ok(body) = walk.body(met)? else { return Ok(Vec::new()) };
    let records = unpack(&met.header, body, room).unwrap_or_default();
    Ok(streams::keys_of(log, settings, &met.header, records))
}

/// Reads the header of the segment of generation 0 with this base offset. Returns `None` if there is
/// none, or no valid one yet.
fn read_header(log: &Log, base: Offset) -> Result<Option<SegmentHeader>> {
    let ctx = &*log.ctx;
    let path = log.manifest.dir().join(names::segment_file(base, 0));
    let failed = |e| Error::io(IoAction::Read, &ctx.display(&path), e);
    let file = match ctx.storage.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let n = read_up_to(&*file, &mut bytes, 0).map_err(failed)?;
    Ok(SegmentHeader::decode(bytes.get(..n).unwrap_or_default()).ok())
}
