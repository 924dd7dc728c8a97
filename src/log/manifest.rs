//! How does a partition's manifest change? As a whole: the new one is written aside, synced, and renamed over the old.

use std::path::{Path, PathBuf};

use crate::engine::{Context, MayBeFull};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::storage::replace_file;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use crate::types::Offset;

/// The manifest as it is on the medium, and the only way to change it.
///
/// Its lock comes behind the writer's: whoever needs both takes the writer's first. It is held over the write, since
/// two changes must not overtake each other.
pub(crate) struct ManifestStore {
    path: PathBuf,
    current: Mutex<Manifest>,
    /// The log has ended: the directory may be gone, or somebody else's. Set under the lock.
    closed: AtomicBool,
}

/// Why a change did not happen, or may have.
pub(crate) struct ManifestError {
    pub(crate) error: Error,
    /// The new manifest may be the one that the next open finds.
    pub(crate) unknown: bool,
}

impl MayBeFull for ManifestError {
    fn is_full(&self) -> bool {
        !self.unknown && self.error.is_full()
    }
}

impl ManifestStore {
    pub(crate) fn new(dir: &Path, current: Manifest) -> Self {
        ManifestStore {
            path: dir.join(names::MANIFEST),
            current: Mutex::new(current),
            closed: AtomicBool::new(false),
        }
    }

    /// The manifest as it is.
    pub(crate) fn get(&self) -> MutexGuard<'_, Manifest> {
        self.current.lock()
    }

    /// Takes no more changes. A change that is under way is waited for.
    pub(crate) fn close(&self) {
        let _current = self.current.lock();
        self.closed.store(true, Ordering::Release);
    }

    /// Applies `change` and makes the result durable.
    ///
    /// # Errors
    /// Before the rename nothing has changed. From it on it is unknown which manifest a power loss leaves.
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
        self.commit_by(change, |path, next| ctx.with_room(|| write(ctx, path, next)))
    }

    fn commit_by(
        &self,
        change: impl FnOnce(&mut Manifest),
        write: impl FnOnce(&Path, &Manifest) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let mut current = self.current.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(ManifestError { error: Error::Closed, unknown: false });
        }
        let mut next = current.clone();
        change(&mut next);
        let start = next.log_start;
        next.clip_lost(start, Offset::MAX);
        write(&self.path, &next)?;
        *current = next;
        Ok(())
    }
}

/// Writes a manifest over the one at `path`.
pub(crate) fn write(ctx: &Context, path: &Path, manifest: &Manifest) -> Result<(), ManifestError> {
    replace_file(&*ctx.storage, path, &manifest.encode()).map_err(|failed| {
        // Nothing of the batch behind this is in the log: "replace" is not among the actions of unknown outcome.
        let error = Error::replace(&ctx.display(path), failed.error);
        ManifestError { error, unknown: failed.replaced }
    })
}
