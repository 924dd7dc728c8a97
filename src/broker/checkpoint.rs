//! What need not be read again? The broker-wide checkpoint: a durable point for each partition, and
//! whether the broker was closed properly. Derived: without it everything not known to be synced is
//! read again.

use std::path::Path;

use super::store::CatalogFile;
use crate::engine::{Context, malformed};
use crate::error::{Error, Result};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::names;
use crate::storage::{read_file, replace_file};
use crate::sync::{Mutex, Rank};

/// Writes checkpoints, if they say something new.
pub(super) struct CheckpointStore {
    state: Mutex<LastCheckpoint>,
}

struct LastCheckpoint {
    /// What the file says, if that is known.
    last: Option<Checkpoint>,
    /// The broker has been closed: the last word is said, and the directory may be somebody else's.
    closed: bool,
}

impl CheckpointStore {
    /// Reads what the last owner left. Anything but a good checkpoint counts as none; if there is a
    /// bad one, why.
    ///
    /// # Errors
    /// `UnsupportedFormat`: a later release wrote it, and what else that did is not known.
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

    /// Replaces the checkpoint, if it says anything else than the last one.
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
        // Unknown from here on: after a failure the next attempt writes, whatever it says.
        state.last = None;
        let bytes = next.encode();
        let replace = || replace_file(&*ctx.storage, path, &bytes);
        // The last one is worth the reserve: without it the next opening reads much more.
        let replaced = if clean { ctx.with_room(replace) } else { replace() };
        replaced.map_err(|failed| Error::replace(&ctx.display(path), failed.error))?;
        state.last = Some(next);
        Ok(())
    }
}
