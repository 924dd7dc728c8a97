//! The manifest of a partition. It changes as a whole: the new one is written to another file,
//! synced, and renamed over the old.
//!
//! The manifest in memory lists every segment. That on disk may end before the newest ones, the
//! *successors*: see [`successors`](super::successors). A change is written without the successors
//! that are not *named*, because a manifest must list no segment whose name or header a power loss
//! can take.
//!
//! Two locks: `writing` is held over a change, with its I/O, because two changes must not overtake
//! each other. `current` is held for a moment only, so a roll and a reader do not wait for the
//! medium. A roll that comes while a change is being written is applied to its result again.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use super::invariants;
use super::transitions::{self, SegmentId, id_of};

use crate::engine::{Context, Identity, MayBeFull, corrupt, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{LostRange, Manifest, SegmentEntry, SegmentState};
use crate::format::names;
use crate::segment::Point;
use crate::segment::create::active_entry;
use crate::storage::{read_file, replace_file};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, Rank};
use crate::types::Offset;

/// The manifest, the functions that change it, and the generation numbers of its files.
///
/// Its locks come after the writer's: a thread that needs both takes the writer's first.
pub(crate) struct ManifestStore {
    dir: PathBuf,
    /// The right to change the manifest on disk.
    writing: Mutex<()>,
    current: Mutex<Current>,
    /// The manifest on disk may lack a segment. Stored under the lock of `current`.
    lacks_segments: AtomicBool,
    /// The log has ended: the directory may be deleted, or belong to another topic. Set under the
    /// lock.
    closed: AtomicBool,
    /// How many of the partition's files exist: see [`stage`].
    made: AtomicU8,
    /// The loss of records was accepted; stays set.
    has_lost: AtomicBool,
    /// The greatest generation assigned to a file of the log since it was opened.
    generation: AtomicU32,
    /// Copies of [`compacted_and_dirty`] of the current manifest. Stored and loaded under its lock.
    compacted: AtomicU64,
    dirty: AtomicU64,
}

/// The manifest in memory. It derefs to the manifest.
pub(crate) struct Current {
    manifest: Manifest,
    /// The successors whose name or header may not be durable, oldest first.
    unnamed: Vec<SegmentId>,
    /// The last segment that the manifest on disk lists.
    last_listed: Option<SegmentId>,
    /// While a change is being written: the rolls since it began.
    since: Option<Vec<(Point, SegmentEntry)>>,
}

impl Deref for Current {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.manifest
    }
}

impl DerefMut for Current {
    fn deref_mut(&mut self) -> &mut Manifest {
        &mut self.manifest
    }
}

/// How many of a partition's files exist. Only rises.
pub(crate) mod stage {
    /// No file that must be kept.
    pub(crate) const NOTHING: u8 = 0;
    /// The segment, durably. IMPORTANT: it must stay from here on. A manifest that lists it may be
    /// in place even if writing the manifest returned an error.
    pub(crate) const SEGMENT: u8 = 1;
    /// All files.
    pub(crate) const FILES: u8 = 2;
}

/// The error of a change of the manifest.
pub(crate) struct ManifestError {
    pub(crate) error: Error,
    /// The next opening may find the new manifest.
    pub(crate) unknown: bool,
}

impl ManifestError {
    /// An error before any change.
    pub(crate) fn unchanged(error: Error) -> Self {
        ManifestError { error, unknown: false }
    }
}

impl MayBeFull for ManifestError {
    fn is_full(&self) -> bool {
        !self.unknown && self.error.is_full()
    }
}

impl ManifestStore {
    /// `made` is a [`stage`].
    pub(crate) fn new(dir: PathBuf, current: Manifest, made: u8) -> Self {
        let generation = current.segments.iter().map(|entry| entry.generation).max().unwrap_or(0);
        let (compacted, dirty) = compacted_and_dirty(&current);
        ManifestStore {
            dir,
            compacted: AtomicU64::new(compacted),
            dirty: AtomicU64::new(dirty),
            closed: AtomicBool::new(false),
            made: AtomicU8::new(made),
            has_lost: AtomicBool::new(!current.lost.is_empty()),
            generation: AtomicU32::new(generation),
            writing: Mutex::new(Rank::ManifestFile, ()),
            lacks_segments: AtomicBool::new(false),
            current: Mutex::new(
                Rank::Manifest,
                Current {
                    last_listed: current.segments.last().map(id_of),
                    manifest: current,
                    unnamed: Vec::new(),
                    since: None,
                },
            ),
        }
    }

    /// Notes the successors that an opening has found, and that the manifest on disk does not list.
    /// Of `unnamed` the headers may not be durable.
    pub(crate) fn note_successors(&self, last_listed: SegmentId, unnamed: Vec<SegmentId>) {
        let mut current = self.current.lock();
        (current.last_listed, current.unnamed) = (Some(last_listed), unnamed);
        self.lacks_segments.store(true, Ordering::Release);
    }

    /// The directory of the partition.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns how many of the partition's files exist.
    #[inline]
    pub(crate) fn made(&self) -> u8 {
        self.made.load(Ordering::Acquire)
    }

    /// Notes that a stage is reached. It only rises.
    pub(crate) fn set_made(&self, stage: u8) {
        self.made.store(stage, Ordering::Release);
    }

    /// Returns the first range of lost records that ends after an offset.
    #[inline]
    pub(crate) fn lost_after(&self, offset: Offset) -> Option<LostRange> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        self.get().lost.iter().find(|range| range.to > offset).copied()
    }

    /// Notes that the loss of records was accepted.
    pub(crate) fn note_lost(&self) {
        self.has_lost.store(true, Ordering::Release);
    }

    #[cfg(test)]
    pub(crate) fn set_generation(&self, generation: u32) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Returns a generation for files with a base offset that other files have too. No other caller
    /// gets the same: files of that generation are the caller's, to list or to remove, whatever
    /// other threads write meanwhile. Generation 0 is never returned, because the first segment at
    /// each offset has it.
    ///
    /// # Errors
    /// `GenerationsExhausted` if none is left.
    pub(crate) fn next_generation(&self, of: &Identity) -> Result<u32> {
        let next = |last: u32| last.checked_add(1);
        let given = self.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        given.map(|last| last.saturating_add(1)).map_err(|_| of.generations_exhausted())
    }

    /// Returns the durable sealed bytes that have been compacted, and those that have not. Adds
    /// nothing up.
    pub(crate) fn compacted_and_dirty(&self) -> (u64, u64) {
        let _current = self.current.lock();
        (self.compacted.load(Ordering::Relaxed), self.dirty.load(Ordering::Relaxed))
    }

    /// Locks and returns the manifest.
    pub(crate) fn get(&self) -> MutexGuard<'_, Current> {
        self.current.lock()
    }

    /// Refuses all later changes. Waits for a running change.
    pub(crate) fn close(&self) {
        let _writing = self.writing.lock();
        self.closed.store(true, Ordering::Release);
    }

    /// Ends the active segment at `old` and adds `next` after it, in memory only. Neither the name
    /// nor the header of `next` need be durable. The caller must hold the writer's lock.
    pub(crate) fn add_successor(&self, old: &Point, next: SegmentEntry) {
        let mut current = self.current.lock();
        debug_assert!(current.has_successors, "a manifest on disk announces successors before the first");
        transitions::roll(&mut current.manifest, old, next);
        current.unnamed.push(id_of(&next));
        if let Some(since) = &mut current.since {
            since.push((*old, next));
        }
        self.lacks_segments.store(true, Ordering::Release);
    }

    /// Returns whether the manifest on disk may lack a segment. Costs one load.
    #[inline]
    pub(crate) fn lacks_segments(&self) -> bool {
        self.lacks_segments.load(Ordering::Acquire)
    }

    /// Returns the segments before an offset whose name or header may not be durable. A caller that
    /// makes them durable must take the list first.
    pub(crate) fn unnamed_before(&self, before: Offset) -> Vec<SegmentId> {
        if !self.lacks_segments() {
            return Vec::new();
        }
        let current = self.current.lock();
        current.unnamed.iter().filter(|(base, ..)| *base < before).copied().collect()
    }

    /// Returns whether the name or the header of a segment may not be durable.
    pub(crate) fn is_unnamed(&self, segment: SegmentId) -> bool {
        self.lacks_segments() && self.current.lock().unnamed.contains(&segment)
    }

    /// Notes that the names and the headers of these segments are durable: a manifest may list
    /// them.
    pub(crate) fn note_named(&self, named: &[SegmentId]) {
        self.current.lock().unnamed.retain(|segment| !named.contains(segment));
    }

    /// Takes the manifest that the owner of the log has written.
    pub(crate) fn adopt(&self, manifest: Manifest) {
        let (compacted, dirty) = compacted_and_dirty(&manifest);
        let mut current = self.current.lock();
        self.compacted.store(compacted, Ordering::Relaxed);
        self.dirty.store(dirty, Ordering::Relaxed);
        self.has_lost.store(!manifest.lost.is_empty(), Ordering::Release);
        current.manifest = manifest;
        self.set_made(stage::FILES);
    }

    /// Returns whether a change would list segments that the manifest on disk lacks.
    pub(crate) fn can_list_more(&self) -> bool {
        if !self.lacks_segments() {
            return false;
        }
        let current = self.current.lock();
        let listed = listed_of(&current.manifest, &current.unnamed);
        listed.as_ref().unwrap_or(&current.manifest).segments.last().map(id_of) != current.last_listed
    }

    /// Applies `change` and makes the result durable.
    ///
    /// # Errors
    /// Before the rename nothing has changed. After it, it is unknown which manifest a power loss
    /// leaves.
    pub(crate) fn commit(
        &self,
        ctx: &Context,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<(), ManifestError> {
        self.commit_by(
            |manifest| {
                change(manifest);
                Ok(())
            },
            |path, next| write(ctx, path, next),
        )
    }

    /// As [`commit`](ManifestStore::commit), for a change that frees space: it may use the reserve.
    ///
    /// # Errors
    /// As [`commit`](ManifestStore::commit), and an error of `change`: then nothing has changed.
    pub(crate) fn commit_freeing(
        &self,
        ctx: &Context,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<(), ManifestError> {
        self.commit_by(change, |path, next| ctx.reserve.with_room(|| write(ctx, path, next)))
    }

    fn commit_by(
        &self,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
        write: impl FnOnce(&Path, &Manifest) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let _writing = self.writing.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(ManifestError::unchanged(Error::Closed));
        }
        let mut next = {
            let mut current = self.current.lock();
            current.since = Some(Vec::new());
            current.manifest.clone()
        };
        let written = change(&mut next).map_err(ManifestError::unchanged).and_then(|()| {
            let start = next.log_start;
            next.clip_lost(start, Offset::MAX);
            let listed = listed_of(&next, &self.current.lock().unnamed);
            let listed = listed.as_ref().unwrap_or(&next);
            write(&self.dir.join(names::MANIFEST), listed).map(|()| listed.segments.last().map(id_of))
        });
        let mut current = self.current.lock();
        let since = current.since.take().unwrap_or_default();
        let last_listed = written?;
        since.iter().for_each(|(old, entry)| transitions::roll(&mut next, old, *entry));
        debug_assert_eq!(invariants::of_manifest(&next), Ok(()), "a change keeps the invariants");
        let (compacted, dirty) = compacted_and_dirty(&next);
        self.compacted.store(compacted, Ordering::Relaxed);
        self.dirty.store(dirty, Ordering::Relaxed);
        self.lacks_segments.store(next.segments.last().map(id_of) != last_listed, Ordering::Release);
        current.unnamed.retain(|segment| next.segments.iter().any(|entry| id_of(entry) == *segment));
        (current.manifest, current.last_listed) = (next, last_listed);
        Ok(())
    }
}

/// Returns the manifest without the segments that it must not list yet: the first one of `unnamed`,
/// and all after it. The segment before it is listed as active, as it was. Returns `None` if all of
/// them may be listed.
fn listed_of(manifest: &Manifest, unnamed: &[SegmentId]) -> Option<Manifest> {
    // They are the newest ones, in order, without those that were removed meanwhile.
    let place = |segment: &SegmentId| manifest.segments.iter().rposition(|entry| id_of(entry) == *segment);
    let kept = unnamed.iter().find_map(place)?;
    debug_assert!(kept > 0, "the oldest segment is named before a manifest begins with it");
    let mut listed = manifest.clone();
    listed.segments.truncate(kept.max(1));
    if let Some(last) = listed.segments.last_mut() {
        debug_assert!(kept == 0 || last.generation == 0 || last.state != SegmentState::Compacted);
        *last = active_entry(last.base_offset, last.generation, last.log_epoch);
    }
    Some(listed)
}

/// Returns the bytes of the oldest segments that were compacted, and the bytes of the other durable
/// sealed segments.
fn compacted_and_dirty(manifest: &Manifest) -> (u64, u64) {
    let durable = manifest.segments.iter().take_while(|entry| entry.state.is_synced());
    let total: u64 = durable.map(|entry| entry.size).sum();
    let compacted = manifest.segments.iter().take_while(|entry| entry.state == SegmentState::Compacted);
    let compacted: u64 = compacted.map(|entry| entry.size).sum();
    (compacted, total - compacted)
}

/// Writes a manifest over the one at `path`.
///
/// # Errors
/// `Corrupt` if the next opening would refuse it, because the files that it is made from contradict
/// each other. Nothing was written then.
pub(crate) fn write(ctx: &Context, path: &Path, manifest: &Manifest) -> Result<(), ManifestError> {
    manifest.check().map_err(|what| {
        let what = format!("the manifest to replace this one would be wrong: {what}");
        ManifestError::unchanged(corrupt(ctx, path, 0, &what))
    })?;
    replace_file(&*ctx.storage, path, &manifest.encode()).map_err(|failed| {
        // The batch that needs this change is not in the log: "replace" is not among the actions of
        // unknown outcome.
        let error = Error::replace(&ctx.display(path), failed.error);
        ManifestError { error, unknown: failed.replaced }
    })
}

/// Reads a manifest of any partition.
///
/// # Errors
/// The manifest is damaged, of an unsupported format, or cannot be read.
pub(crate) fn read_any(ctx: &Context, path: &Path) -> Result<Manifest> {
    const LIMIT: u64 = 256 << 20;
    let bytes = read_file(&*ctx.storage, path, LIMIT)
        .map_err(|e| Error::io(IoAction::Read, &ctx.display(path), e))?;
    Manifest::decode(&bytes).map_err(|m| malformed(ctx, path, 0, &m))
}

/// Reads a partition's manifest. Changes nothing.
///
/// # Errors
/// The manifest is missing, damaged, of an unsupported format, or cannot be read: nothing of the
/// partition can be used.
pub(crate) fn read(ctx: &Context, identity: &Identity, dir: &Path) -> Result<Manifest> {
    let path = dir.join(names::MANIFEST);
    let manifest = read_any(ctx, &path).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            corrupt(ctx, &path, 0, "the catalog lists the partition and this is missing")
        }
        error => error,
    })?;
    if manifest.topic_id != identity.topic_id || manifest.partition != identity.partition {
        return Err(corrupt(ctx, &path, 0, "the manifest belongs to another partition"));
    }
    if manifest.segments.last().is_none_or(|last| last.state != SegmentState::Active) {
        return Err(corrupt(ctx, &path, 0, "the manifest lists no active segment"));
    }
    Ok(manifest)
}
