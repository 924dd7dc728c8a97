//! The manifest of a partition. It changes as a whole: the new one is written to another file,
//! synced, and renamed over the old.

use std::path::{Path, PathBuf};

use crate::engine::{Context, Identity, MayBeFull, corrupt, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{LostRange, Manifest, SegmentState};
use crate::format::names;
use crate::storage::{read_file, replace_file};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, Rank};
use crate::types::Offset;

/// The manifest as it is on disk, the functions that change it, and the generation numbers of its
/// files.
///
/// Its lock comes after the writer's: a thread that needs both takes the writer's first. The lock
/// is held over the write, because two changes must not overtake each other.
pub(crate) struct ManifestStore {
    dir: PathBuf,
    current: Mutex<Manifest>,
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
            current: Mutex::new(Rank::Manifest, current),
        }
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
    pub(crate) fn get(&self) -> MutexGuard<'_, Manifest> {
        self.current.lock()
    }

    /// Refuses all later changes. Waits for a running change.
    pub(crate) fn close(&self) {
        let _current = self.current.lock();
        self.closed.store(true, Ordering::Release);
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
        self.commit_by(change, |path, next| write(ctx, path, next))
    }

    /// As [`commit`](ManifestStore::commit), for a change that frees space: it may use the reserve.
    ///
    /// # Errors
    /// As [`commit`](ManifestStore::commit).
    pub(crate) fn commit_freeing(
        &self,
        ctx: &Context,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<(), ManifestError> {
        self.commit_by(change, |path, next| ctx.reserve.with_room(|| write(ctx, path, next)))
    }

    fn commit_by(
        &self,
        change: impl FnOnce(&mut Manifest),
        write: impl FnOnce(&Path, &Manifest) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let mut current = self.current.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(ManifestError::unchanged(Error::Closed));
        }
        let mut next = current.clone();
        change(&mut next);
        let start = next.log_start;
        next.clip_lost(start, Offset::MAX);
        write(&self.dir.join(names::MANIFEST), &next)?;
        let (compacted, dirty) = compacted_and_dirty(&next);
        self.compacted.store(compacted, Ordering::Relaxed);
        self.dirty.store(dirty, Ordering::Relaxed);
        *current = next;
        Ok(())
    }
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
