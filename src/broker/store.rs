//! How is the catalog changed durably? A change is one write at the end of its file; from time to
//! time a new file with a snapshot replaces it.
//!
//! The crash argument:
//! - A change that is *committed* is written and synced before it is acted on. The sync covers
//!   everything before it in the file, so the order of the file is the order of what happened.
//! - A change that is *noted* is written only. A crash may take it, and with it nothing that was
//!   acted on.
//! - A change of which a crash left a part fails its checksum. Nothing after it was synced, because
//!   a later sync would have covered it; the next opening reports it and replaces the file. If a
//!   later change proves that it was synced, it is damage.
//! - A *replacement* writes the old file aside, then the new one, syncs it and renames it. Before
//!   the rename the old file counts, afterwards the new one; both say the same.

use std::io;
use std::path::Path;

use crate::engine::{Context, malformed};
use crate::error::{Error, IoAction, Result, is_space};
use crate::format::catalog::{self, Catalog, Change, HEADER_BYTES, Opening, ReadCatalog};
use crate::format::names;
use crate::format::reader::Malformed;
use crate::storage::{
    File, OpenMode, Storage, read_exact_at, read_file, replace_and_open, replace_file, write_all_at,
};
use crate::sync::{Arc, Mutex, Rank};
use crate::types::TopicId;

/// The catalog, and the only way to change it. Its lock is the last one: under it no other is
/// taken.
pub(super) struct CatalogStore {
    state: Mutex<StoredCatalog>,
}

struct StoredCatalog {
    catalog: Catalog,
    file: Option<Arc<dyn File>>,
    number: u64,
    snapshot_bytes: u64,
    /// Where the next change goes.
    end: u64,
    /// Everything before this is durable.
    synced: u64,
    /// The file is replaced when it would grow beyond this.
    replace_beyond: u64,
    /// A write or a sync failed: the contents that the next opening finds are unknown, so no more
    /// changes are made.
    broken: Option<Error>,
    closed: bool,
    /// Applied, and written with the next change, or by [`CatalogStore::write_pending`].
    pending: Vec<Change>,
}

/// A file of the catalog, by number and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CatalogFile {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

impl CatalogStore {
    /// Reads the catalog of a directory, and changes nothing.
    ///
    /// # Errors
    /// `UnsupportedFormat`, `Corrupt`, or an I/O error.
    pub(super) fn read(ctx: &Context) -> Result<ReadCatalog> {
        let path = Path::new(names::CATALOG);
        let bytes = read_file(&*ctx.storage, path, FILE_BYTES_MAX)
            .map_err(|e| Error::io(IoAction::Read, &ctx.display(path), e))?;
        catalog::read(&bytes).map_err(|m| damaged(ctx, &m))
    }

    /// Creates the catalog of a new broker, durably. Its directories must be durable.
    ///
    /// # Errors
    /// `DiskFull`, or another I/O error.
    pub(super) fn create(ctx: &Context) -> Result<Self> {
        let mut state = StoredCatalog::new(Catalog::empty(), 0, 0);
        state.begin_file(ctx)?;
        Ok(CatalogStore { state: Mutex::new(Rank::Catalog, state) })
    }

    /// Continues with a catalog that was [read](CatalogStore::read), and still has its number if it
    /// `is_as_read`. Unless the broker was closed properly, the bytes that were read may not be
    /// durable, so a new file replaces the old one; if there is no room for one, the old one is
    /// overwritten with the same bytes.
    ///
    /// # Errors
    /// `DiskFull`, or another I/O error.
    pub(super) fn resume(
        ctx: &Context,
        found: ReadCatalog,
        is_clean: bool,
        is_as_read: bool,
    ) -> Result<Self> {
        let mut state = StoredCatalog::new(found.catalog, found.number, found.end);
        state.snapshot_bytes = found.snapshot_bytes;
        state.set_limit();
        let path = Path::new(names::CATALOG);
        let file = ctx.storage.open(path, OpenMode::Write);
        state.file = Some(file.map_err(|e| Error::io(IoAction::Open, &ctx.display(path), e))?);
        // IMPORTANT: this opening is not noted here, but once the epochs that it has to begin are.
        if !is_clean {
            match ctx.reserve.with_room(|| state.replace(ctx)) {
                // The file is as it was read, so its bytes can be written over themselves.
                Err(error) if error.is_full() && is_as_read => {
                    ctx.reserve.note_full();
                    state.rewrite(ctx)?;
                }
                done => done?,
            }
        }
        Ok(CatalogStore { state: Mutex::new(Rank::Catalog, state) })
    }

    /// The catalog of another process, as it was read. It takes no changes.
    pub(super) fn followed(found: ReadCatalog) -> Self {
        let mut state = StoredCatalog::new(found.catalog, found.number, found.end);
        state.closed = true;
        CatalogStore { state: Mutex::new(Rank::Catalog, state) }
    }

    /// Takes the catalog of another process, as it was read again.
    pub(super) fn follow(&self, found: ReadCatalog) {
        let mut state = self.state.lock();
        (state.catalog, state.number, state.end) = (found.catalog, found.number, found.end);
    }

    /// Looks at the catalog. `look` must take no lock.
    pub(super) fn with<R>(&self, look: impl FnOnce(&Catalog) -> R) -> R {
        look(&self.state.lock().catalog)
    }

    /// Makes changes, all in one write, durably.
    ///
    /// # Errors
    /// `DiskFull`: nothing has changed. After another error nothing has changed either for this
    /// process, and the store takes no more changes.
    pub(super) fn commit(&self, ctx: &Context, changes: Vec<Change>) -> Result<()> {
        pass_gate(ctx)?;
        let mut state = self.state.lock();
        state.check()?;
        state.append(ctx, &changes)?;
        state.sync(ctx)?;
        state.apply(changes);
        drop(state);
        ctx.publish_catalog();
        Ok(())
    }

    /// As [`commit`](CatalogStore::commit), for changes that free space: they may use the reserve.
    ///
    /// # Errors
    /// As [`commit`](CatalogStore::commit).
    pub(super) fn commit_freeing(&self, ctx: &Context, changes: Vec<Change>) -> Result<()> {
        pass_gate(ctx)?;
        // Each attempt takes the lock again. The reserve must not be given up under it, because a
        // thread that has the reserve may pass the gate, whose preparation takes this lock.
        ctx.reserve.with_room(|| {
            let mut state = self.state.lock();
            state.check()?;
            state.append(ctx, &changes)?;
            state.sync(ctx)?;
            state.apply(changes.clone());
            Ok(())
        })?;
        ctx.publish_catalog();
        Ok(())
    }

    /// Makes changes that the next commit makes durable, or [`close`](CatalogStore::close).
    ///
    /// # Errors
    /// As [`commit`](CatalogStore::commit).
    pub(super) fn note(&self, ctx: &Context, changes: Vec<Change>) -> Result<()> {
        pass_gate(ctx)?;
        let mut state = self.state.lock();
        state.check()?;
        state.append(ctx, &changes)?;
        state.apply(changes);
        drop(state);
        ctx.publish_catalog();
        Ok(())
    }

    /// Makes a change that is written before the next one. A crash that takes it must cost nothing.
    pub(super) fn hold_back(&self, change: Change) {
        let mut state = self.state.lock();
        state.pending.push(change.clone());
        state.apply(vec![change]);
    }

    /// Writes everything that is [held back](CatalogStore::hold_back), past the gate, and syncs it
    /// if it `must_last`. For the gate's preparation.
    ///
    /// # Errors
    /// Nothing was written, and the next attempt may succeed; or the store takes no more changes.
    pub(super) fn write_pending(&self, medium: &dyn Storage, must_last: bool) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.pending.is_empty() {
            return Ok(());
        }
        let path = Path::new(names::CATALOG);
        let shown = medium.display(path);
        state.check().map_err(io::Error::other)?;
        let (bytes, end) = (state.encode(&[]), state.end);
        let file = medium.open(path, OpenMode::Write)?;
        if let Err((_, e)) = write_all_at(&*file, &bytes, end) {
            // Zeros over the part, so that it cannot look like a change that was torn.
            if write_all_at(&*file, &vec![0; bytes.len()], end).is_err() && is_space(&e).is_none() {
                state.fail(Error::io(IoAction::Change, &shown, io::Error::from(e.kind())));
            }
            return Err(e);
        }
        if must_last {
            file.sync_data().inspect_err(|e| {
                state.fail(Error::io(IoAction::Change, &shown, io::Error::from(e.kind())));
            })?;
        }
        state.end += bytes.len() as u64;
        if must_last {
            state.synced = state.end;
        }
        state.pending.clear();
        Ok(())
    }

    /// Notes that a partition has files.
    ///
    /// # Errors
    /// As [`commit`](CatalogStore::commit).
    pub(super) fn note_files(&self, ctx: &Context, topic: TopicId, partition: u32) -> Result<()> {
        let is_known = |catalog: &Catalog| {
            catalog.topic(&topic).is_none_or(|topic| topic.with_files.contains(&partition))
        };
        // IMPORTANT: before the gate is passed. A broker that changes nothing writes nothing.
        if self.with(is_known) {
            return Ok(());
        }
        pass_gate(ctx)?;
        let mut state = self.state.lock();
        state.check()?;
        if is_known(&state.catalog) {
            return Ok(());
        }
        let changes = vec![Change::Partitions(topic, [partition].into())];
        state.append(ctx, &changes)?;
        state.apply(changes);
        Ok(())
    }

    /// The change that notes this opening. Its boot identity proves to the next opening where logs
    /// ended; it has none unless it `is_whole`.
    pub(super) fn this_opening(&self, ctx: &Context, is_whole: bool) -> Opening {
        let (boot, process) = ctx.storage.run_identity();
        let boot = if is_whole { boot } else { [0; 16] };
        let run = self.with(|catalog| catalog.opening().map_or(0, |last| last.run)).saturating_add(1);
        Opening { boot, run, at: ctx.clock.now(), process }
    }

    /// Which file the catalog is in, and how long that is.
    pub(super) fn place(&self) -> CatalogFile {
        let state = self.state.lock();
        CatalogFile { number: state.number, bytes: state.end }
    }

    /// Makes everything durable, and takes no more changes.
    ///
    /// # Errors
    /// An earlier failure, or that of the sync: the contents that the next opening finds are
    /// unknown.
    pub(super) fn close(&self, ctx: &Context) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Ok(());
        }
        let synced = match &state.broken {
            Some(error) => Err(error.clone()),
            None if state.synced < state.end => state.sync(ctx),
            None => Ok(()),
        };
        state.closed = true;
        state.file = None;
        synced
    }
}

impl StoredCatalog {
    fn new(catalog: Catalog, number: u64, end: u64) -> Self {
        StoredCatalog {
            catalog,
            file: None,
            number,
            snapshot_bytes: end,
            end,
            synced: end,
            replace_beyond: u64::MAX,
            broken: None,
            closed: false,
            pending: Vec::new(),
        }
    }

    /// # Errors
    /// The store takes no more changes.
    fn check(&self) -> Result<()> {
        if self.closed {
            return Err(Error::Closed);
        }
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn file(&self) -> Result<Arc<dyn File>> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None if self.closed => Err(Error::Closed),
            None => Err(Error::internal("a catalog that is not closed has a file")),
        }
    }

    /// Takes changes that were written. They were checked by the caller, under the lock that
    /// serializes it.
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            let applied = self.catalog.apply(change);
            debug_assert_eq!(applied, Ok(()), "only what fits is written");
        }
    }

    /// Writes changes at the end of the file, after replacing it if it has become too long.
    fn append(&mut self, ctx: &Context, changes: &[Change]) -> Result<()> {
        let mut bytes = self.encode(changes);
        if self.end + bytes.len() as u64 > self.replace_beyond {
            self.replace_if_possible(ctx)?;
            // A change carries its place.
            bytes = self.encode(changes);
        }
        let path = ctx.display(Path::new(names::CATALOG));
        let file = self.file()?;
        if let Err((written, e)) = write_all_at(&*file, &bytes, self.end) {
            // Zeros over the part, where there is room now: it cannot look like a change that was
            // torn.
            if let Some(cause) = is_space(&e)
                && write_all_at(&*file, &vec![0; written], self.end).is_ok()
            {
                return Err(Error::DiskFull { path, cause });
            }
            return Err(self.fail(Error::io(IoAction::Change, &path, e)));
        }
        self.end += bytes.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// The changes that are held back, and then `changes`.
    fn encode(&self, changes: &[Change]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for change in self.pending.iter().chain(changes) {
            catalog::encode_change(&mut bytes, self.number, self.end, self.synced, change);
        }
        bytes
    }

    fn sync(&mut self, ctx: &Context) -> Result<()> {
        let file = self.file()?;
        match file.sync_data() {
            Ok(()) => {
                self.synced = self.end;
                Ok(())
            }
            Err(e) => Err(self.fail(Error::io(IoAction::Change, &ctx.display(Path::new(names::CATALOG)), e))),
        }
    }

    /// Nothing is changed any more until the broker is opened again.
    fn fail(&mut self, error: Error) -> Error {
        self.broken = Some(error.clone());
        error
    }

    /// Replaces the file. Where that cannot be done and nothing has changed, it is tried again when
    /// as much more has been written: a change is not refused because a long file could not be made
    /// shorter.
    fn replace_if_possible(&mut self, ctx: &Context) -> Result<()> {
        match self.replace(ctx) {
            Err(error) if self.broken.is_some() => Err(error),
            Err(_) => {
                self.replace_beyond = self.end + self.growth();
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Copies the file aside, and replaces it by a new one with the same contents.
    ///
    /// # Errors
    /// Nothing has changed; from the rename on the store takes no more changes.
    fn replace(&mut self, ctx: &Context) -> Result<()> {
        let path = Path::new(names::CATALOG);
        let read = |e| Error::io(IoAction::Read, &ctx.display(path), e);
        if let Some(file) = &self.file {
            let len = file.len().map_err(read)?;
            // Opening reads no larger file.
            let mut old = vec![0; len.min(FILE_BYTES_MAX) as usize];
            read_exact_at(&**file, &mut old, 0).map_err(read)?;
            let aside = Path::new(names::CATALOG_OLD);
            // For a person, should it ever be needed: that it cannot be had keeps nothing from
            // continuing, and there may be no room for it.
            let _ = replace_file(&*ctx.storage, aside, &old);
        }
        self.begin_file(ctx)
    }

    /// Writes the file over itself, zeros after its last change, and syncs it.
    fn rewrite(&mut self, ctx: &Context) -> Result<()> {
        let file = self.file()?;
        let path = ctx.display(Path::new(names::CATALOG));
        let len = file.len().map_err(|e| Error::io(IoAction::Read, &path, e))?;
        // Opening reads no larger file.
        let (end, len) = (self.end.min(FILE_BYTES_MAX) as usize, len.min(FILE_BYTES_MAX) as usize);
        let mut bytes = vec![0; end];
        read_exact_at(&*file, &mut bytes, 0).map_err(|e| Error::io(IoAction::Read, &path, e))?;
        bytes.resize(end.max(len), 0);
        write_all_at(&*file, &bytes, 0).map_err(|(_, e)| Error::unless_full(IoAction::Change, &path, e))?;
        self.sync(ctx)
    }

    fn begin_file(&mut self, ctx: &Context) -> Result<()> {
        let path = Path::new(names::CATALOG);
        let bytes = self.catalog.snapshot(self.number + 1);
        let file = match replace_and_open(&*ctx.storage, path, &bytes) {
            Ok(file) => file,
            Err(failed) => {
                let error = Error::replace(&ctx.display(path), failed.error);
                return Err(if failed.replaced { self.fail(error) } else { error });
            }
        };
        debug_assert!(bytes.len() >= HEADER_BYTES);
        self.file = Some(file);
        // The snapshot has it.
        self.pending.clear();
        self.number += 1;
        self.end = bytes.len() as u64;
        (self.snapshot_bytes, self.synced) = (self.end, self.end);
        self.set_limit();
        Ok(())
    }

    fn set_limit(&mut self) {
        self.replace_beyond = self.snapshot_bytes + self.growth();
    }

    /// How many bytes of changes there may be before the file is replaced.
    fn growth(&self) -> u64 {
        GROWTH_MIN.max(self.snapshot_bytes.saturating_mul(2))
    }
}

/// Passes the gate, before the catalog's lock is taken: the preparation takes it.
fn pass_gate(ctx: &Context) -> Result<()> {
    let path = ctx.display(Path::new(names::CATALOG));
    ctx.gate.pass().map_err(|e| Error::unless_full(IoAction::Change, &path, e))
}

/// The error that the catalog cannot be used. Where there is an older one it is named, and left to
/// the user.
pub(super) fn damaged(ctx: &Context, m: &Malformed) -> Error {
    let mut error = malformed(ctx, Path::new(names::CATALOG), 0, m);
    if let Error::Corrupt(corruption) = &mut error {
        // Without a list the error lacks the hint only.
        let entries = ctx.storage.list(Path::new("")).unwrap_or_default();
        if entries.iter().any(|entry| entry.name == names::CATALOG_OLD) {
            let old = ctx.display(Path::new(names::CATALOG_OLD));
            corruption.what = format!(
                "{}; {} is an older one, and nothing continues from that by itself",
                corruption.what,
                old.display()
            );
        }
    }
    error
}

/// Opening reads all of it.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// As many bytes of changes are always allowed.
const GROWTH_MIN: u64 = 64 << 10;
