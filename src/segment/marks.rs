//! Which bytes of a segment are durable, and the right to sync it.

use std::path::Path;

use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::storage::File;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Rank};

/// The marks of a segment's durability.
pub(super) struct SyncMarks {
    /// Whether some written bytes may not be durable.
    dirty: AtomicBool,
    /// Whether all bytes of the sealed segment are known to be durable.
    synced: AtomicBool,
    /// Held during a sync, so only one thread syncs at a time. A thread that holds it and finds the
    /// segment not dirty knows that no sync of it is running. It contains the error of a failed
    /// sync. IMPORTANT: never retry a failed sync. A second one would succeed and hide that bytes
    /// of the first one are lost.
    syncing: Mutex<Option<Error>>,
}

impl SyncMarks {
    pub(super) fn new(is_synced: bool) -> Self {
        SyncMarks {
            dirty: AtomicBool::new(!is_synced),
            synced: AtomicBool::new(is_synced),
            syncing: Mutex::new(Rank::Syncing, None),
        }
    }

    #[inline]
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Notes that bytes were written.
    #[inline]
    pub(super) fn note_written(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Runs `sync` on the result of `open`, and makes so every byte written before it durable.
    /// `sync` returns false if the file was deleted meanwhile, because its bytes are no longer
    /// needed.
    ///
    /// # Errors
    /// The error of `open`: nothing has changed. The error of `sync`, or of an earlier one: then the
    /// state of the bytes is unknown.
    #[inline]
    pub(super) fn sync<F>(
        &self,
        is_sealed: impl FnOnce() -> bool,
        open: impl FnOnce() -> Result<F>,
        sync: impl FnOnce(F) -> Result<bool>,
    ) -> Result<()> {
        let mut failed = self.syncing.lock();
        self.sync_alone(&mut failed, is_sealed, open, sync)
    }

    /// As [`sync`](SyncMarks::sync), if a byte was written since the last sync. Waits for a sync
    /// that is running.
    ///
    /// # Errors
    /// As [`sync`](SyncMarks::sync).
    #[inline]
    pub(super) fn sync_if_dirty<F>(
        &self,
        is_sealed: impl FnOnce() -> bool,
        open: impl FnOnce() -> Result<F>,
        sync: impl FnOnce(F) -> Result<bool>,
    ) -> Result<()> {
        let mut failed = self.syncing.lock();
        if self.is_dirty() { self.sync_alone(&mut failed, is_sealed, open, sync) } else { Ok(()) }
    }

    #[inline]
    fn sync_alone<F>(
        &self,
        failed: &mut Option<Error>,
        is_sealed: impl FnOnce() -> bool,
        open: impl FnOnce() -> Result<F>,
        sync: impl FnOnce(F) -> Result<bool>,
    ) -> Result<()> {
        if let Some(error) = failed {
            return Err(error.clone());
        }
        // Not a failed sync: it may be tried again.
        let file = open()?;
        // Load it before the sync: an append during the sync makes the segment dirty again, and a
        // seal during the sync does not count.
        let sealed = is_sealed();
        let was_dirty = self.dirty.swap(false, Ordering::AcqRel);
        match sync(file) {
            Ok(is_there) => {
                if sealed && is_there {
                    self.synced.store(true, Ordering::Release);
                }
                Ok(())
            }
            Err(error) => {
                if was_dirty {
                    self.dirty.store(true, Ordering::Release);
                }
                *failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Notes that all bytes were synced by other means. If a sync had failed, the bytes must have
    /// been rewritten first.
    pub(super) fn mark_synced(&self, is_sealed: impl FnOnce() -> bool) {
        *self.syncing.lock() = None;
        self.dirty.store(false, Ordering::Release);
        self.synced.store(is_sealed(), Ordering::Release);
    }
}

/// Syncs the file, if there is one. Returns false if there is none, or if retention has deleted
/// the segment meanwhile: then it is `retired`.
#[inline]
pub(super) fn sync_file(
    ctx: &Context,
    path: &Path,
    retired: &AtomicBool,
    file: Option<Arc<dyn File>>,
) -> Result<bool> {
    let Some(file) = file else { return Ok(false) };
    match file.sync_data() {
        Ok(()) => Ok(true),
        Err(_) if retired.load(Ordering::Acquire) => Ok(false),
        Err(e) => Err(Error::io(IoAction::Sync, &ctx.display(path), e)),
    }
}
