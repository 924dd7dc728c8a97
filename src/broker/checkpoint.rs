//! The broker-wide checkpoint: a durable point for each partition, and whether the broker was
//! closed properly. It is derived: without it, all bytes that are not known to be synced are read
//! again.

use std::path::Path;

use super::store::CatalogFile;
use crate::engine::{Context, malformed};
use crate::error::{Error, Result};
use crate::format::backup::BackupMark;
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::names;
use crate::storage::{read_file, replace_file};
use crate::sync::{Mutex, Rank};

/// Writes checkpoints, if they differ from the last one.
pub(super) struct CheckpointStore {
    state: Mutex<LastCheckpoint>,
}

struct LastCheckpoint {
    /// The contents of the file, if they are known.
    last: Option<Checkpoint>,
    /// The broker has been closed: no checkpoint may be written, because another process may own
    /// the directory.
    closed: bool,
}

impl CheckpointStore {
    /// Reads the checkpoint of the last owner. A bad checkpoint counts as none; the reason is
    /// returned.
    ///
    /// # Errors
    /// `UnsupportedFormat`: a later release wrote it, and other files may be of its format too.
    pub(super) fn read(ctx: &Context) -> Result<(Option<Checkpoint>, Option<String>)> {
        const LIMIT: u64 = 256 << 20;
        let path = Path::new(names::CHECKPOINT);
        let bad = |what: &str| Some(format!("{} was not used: {what}", ctx.display(path).display()));
        Ok(match read_file(&*ctx.storage, path, LIMIT) {
            Ok(bytes) => match Checkpoint::decode(&bytes) {
                Ok(checkpoint) => (Some(checkpoint), None),
                Err(m) if m.unsupported.is_some() => return Err(malformed(ctx, path, 0, &m)),
                Err(m) => (None, bad(m.what)),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (None, None),
            Err(e) => (None, bad(&e.to_string())),
        })
    }

    pub(super) fn new(last: Option<Checkpoint>) -> Self {
        CheckpointStore { state: Mutex::new(Rank::Checkpoint, LastCheckpoint { last, closed: false }) }
    }

    /// Replaces the checkpoint, if it differs from the last one.
    pub(super) fn write(
        &self,
        ctx: &Context,
        clean: bool,
        catalog: CatalogFile,
        entries: Vec<CheckpointEntry>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let next =
            Checkpoint { clean, catalog_number: catalog.number, catalog_bytes: catalog.bytes, entries };
        if state.closed || state.last.as_ref() == Some(&next) {
            return Ok(());
        }
        state.closed |= clean;
        let path = Path::new(names::CHECKPOINT);
        // Unknown from here on: after a failure the next attempt writes in any case.
        state.last = None;
        let bytes = next.encode();
        let replace = || replace_file(&*ctx.storage, path, &bytes);
        // The last one is worth the reserve: without it the next opening reads much more.
        let replaced = if clean { ctx.reserve.with_room(replace) } else { replace() };
        replaced.map_err(|failed| Error::replace(&ctx.display(path), failed.error))?;
        state.last = Some(next);
        Ok(())
    }
}

/// Reads the mark of a backup. Returns `None` if there is none, or it cannot be read: such a backup
/// was not finished.
///
/// # Errors
/// `UnsupportedFormat`: a later release wrote it.
pub(super) fn read_mark(ctx: &Context) -> Result<Option<BackupMark>> {
    const LIMIT: u64 = 4 << 10;
    let path = Path::new(names::BACKUP);
    let Ok(bytes) = read_file(&*ctx.storage, path, LIMIT) else { return Ok(None) };
    match BackupMark::decode(&bytes) {
        Ok(mark) => Ok(Some(mark)),
        Err(m) if m.unsupported.is_some() => Err(malformed(ctx, path, 0, &m)),
        Err(_) => Ok(None),
    }
}
