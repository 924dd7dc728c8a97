//! A layer in front of the medium, with a gate that every change of a directory passes.
//!
//! Useful for: doing something before the first change of an opening, refusing changes after the
//! last one, and living with a file system that cannot sync directories. Not useful for: deciding
//! the bytes to write; the rows above do that.
//!
//! The gate is *open* while a directory is being created or recovered, *shut* while the directory
//! is unchanged since its last owner, and *closed* after the broker was closed. The first change at
//! a shut gate runs the preparation, which must succeed before any change is made. So a broker that
//! is opened, read and closed changes nothing. A change at a closed gate fails.

use std::io;
use std::path::{Path, PathBuf};

use crate::storage::{DirEntry, File, Map, OpenMode, Storage, SyncDir};
use crate::sync::{Arc, AtomicBool, AtomicU8, Mutex, Ordering, Rank};

/// The preparation before the first change. Its argument is the medium without the gate. The next
/// change repeats it if it fails.
type Prepare = Box<dyn Fn(&dyn Storage) -> io::Result<()> + Send + Sync>;

/// Decides whether a change may be made. Shared by the storage and all files opened through it.
pub(crate) struct WriteGate {
    medium: Arc<dyn Storage>,
    state: AtomicU8,
    /// Held during the preparation, and taken under no other lock than those of the caller.
    prepare: Mutex<Option<Prepare>>,
    /// A directory could not be synced because the file system has no such operation.
    syncs_no_dirs: AtomicBool,
}

/// The states of a gate.
mod state {
    pub(super) const OPEN: u8 = 0;
    pub(super) const SHUT: u8 = 1;
    pub(super) const CLOSED: u8 = 2;
}

impl WriteGate {
    fn new(medium: Arc<dyn Storage>) -> Self {
        WriteGate {
            medium,
            state: AtomicU8::new(state::OPEN),
            prepare: Mutex::new(Rank::Gate, None),
            syncs_no_dirs: AtomicBool::new(false),
        }
    }

    /// Makes the next change run `prepare` first.
    pub(crate) fn shut(&self, prepare: impl Fn(&dyn Storage) -> io::Result<()> + Send + Sync + 'static) {
        let mut held = self.prepare.lock();
        *held = Some(Box::new(prepare));
        self.state.store(state::SHUT, Ordering::Release);
    }

    /// Whether nothing has been changed since [`shut`](WriteGate::shut).
    pub(crate) fn is_shut(&self) -> bool {
        self.state.load(Ordering::Acquire) == state::SHUT
    }

    /// Lets no change pass any more. Waits for a preparation that is running.
    pub(crate) fn close(&self) {
        let mut held = self.prepare.lock();
        *held = None;
        self.state.store(state::CLOSED, Ordering::Release);
    }

    /// Whether the file system has refused to sync a directory because it has no such operation.
    pub(crate) fn syncs_no_dirs(&self) -> bool {
        self.syncs_no_dirs.load(Ordering::Acquire)
    }

    /// The result of a sync of a directory: one that the file system cannot make is no error.
    fn synced_dir(&self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(e) if is_unsupported(&e) => {
                self.syncs_no_dirs.store(true, Ordering::Release);
                Ok(())
            }
            result => result,
        }
    }

    /// Passes the gate. For a caller that holds a lock which the preparation takes.
    ///
    /// # Errors
    /// The preparation failed, or the gate is closed.
    pub(crate) fn pass(&self) -> io::Result<()> {
        if self.state.load(Ordering::Acquire) == state::OPEN { Ok(()) } else { self.prepare() }
    }

    #[cold]
    fn prepare(&self) -> io::Result<()> {
        let mut held = self.prepare.lock();
        match self.state.load(Ordering::Acquire) {
            state::OPEN => return Ok(()),
            state::SHUT => {}
            _ => return Err(io::Error::other("the broker has been closed")),
        }
        if let Some(prepare) = &*held {
            prepare(&*self.medium)?;
        }
        *held = None;
        self.state.store(state::OPEN, Ordering::Release);
        Ok(())
    }
}

/// A storage whose changes pass a gate.
pub(crate) struct GatedStorage {
    inner: Arc<dyn Storage>,
    gate: Arc<WriteGate>,
}

impl GatedStorage {
    /// A layer in front of `inner`, with an open gate.
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        GatedStorage { gate: Arc::new(WriteGate::new(inner.clone())), inner }
    }

    pub(crate) fn gate(&self) -> Arc<WriteGate> {
        self.gate.clone()
    }
}

impl Storage for GatedStorage {
    fn display(&self, path: &Path) -> PathBuf {
        self.inner.display(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.pass()?;
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_link(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if matches!(mode, OpenMode::CreateNew | OpenMode::Truncate) {
            self.gate.pass()?;
        }
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(GatedFile { inner, gate: self.gate.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.gate.pass()?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.gate.pass()?;
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.pass()?;
        self.inner.remove_dir(path)
    }

    /// A file system that cannot sync directories (it returns `InvalidInput` or `Unsupported`) is
    /// used nevertheless, because its names cannot be made safer. [`WriteGate::syncs_no_dirs`]
    /// reports it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.gate.synced_dir(self.inner.sync_dir(dir))
    }

    fn prepare_sync_dir<'a>(&'a self, dir: &'a Path) -> io::Result<SyncDir<'a>> {
        match self.inner.prepare_sync_dir(dir) {
            Ok(sync_dir) => Ok(Box::new(move || self.gate.synced_dir(sync_dir()))),
            Err(e) => self.gate.synced_dir(Err(e)).map(|()| -> SyncDir<'a> { Box::new(|| Ok(())) }),
        }
    }

    fn can_be_full(&self) -> bool {
        self.inner.can_be_full()
    }

    fn below(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        self.inner.run_identity()
    }
}

/// Whether a sync of a directory failed because the file system has no such operation: `EINVAL` and
/// `ENOTSUP` (CIFS of older kernels, some FUSE file systems, some network volumes).
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

struct GatedFile {
    inner: Arc<dyn File>,
    gate: Arc<WriteGate>,
}

impl File for GatedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.gate.pass()?;
        self.inner.write_at(bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.inner.map(len)
    }

    fn grows_while_mapped(&self) -> bool {
        self.inner.grows_while_mapped()
    }

    fn lose_unsynced(&self) {
        self.inner.lose_unsynced();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faults::{FaultStorage, Faults, Op};
    use crate::storage::mem::MemStorage;
    use crate::storage::write_all_at;
    use crate::sync::AtomicUsize;

    fn gated() -> (GatedStorage, Faults) {
        let faults = Faults::new();
        let medium = FaultStorage::new(Arc::new(MemStorage::new()), &faults);
        (GatedStorage::new(Arc::new(medium)), faults)
    }

    #[test]
    fn the_first_change_is_prepared_once_and_reading_is_not() {
        let (storage, _) = gated();
        let path = Path::new("file");
        let file = storage.open(path, OpenMode::CreateNew).unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        storage.gate().shut(move |medium| {
            counted.fetch_add(1, Ordering::Relaxed);
            medium.create_dir(Path::new("prepared"))
        });
        assert!(storage.open(path, OpenMode::Read).is_ok() && storage.list(Path::new("")).is_ok());
        assert!(storage.open(path, OpenMode::Write).unwrap().sync_data().is_ok());
        assert!(storage.gate().is_shut());
        assert_eq!(runs.load(Ordering::Relaxed), 0);
        write_all_at(&*file, b"x", 0).unwrap();
        storage.remove_file(path).unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        assert!(!storage.gate().is_shut());
        assert_eq!(storage.list(Path::new("")).unwrap().len(), 1);
    }

    #[test]
    fn a_preparation_that_fails_lets_no_change_pass_and_is_tried_again() {
        let (storage, faults) = gated();
        storage.gate().shut(|medium| medium.create_dir(Path::new("prepared")));
        faults.fail(Op::CreateDir, 1, io::ErrorKind::StorageFull);
        let failed = storage.create_dir(Path::new("mine")).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        assert_eq!(storage.list(Path::new("")).unwrap(), []);
        storage.create_dir(Path::new("mine")).unwrap();
        assert_eq!(storage.list(Path::new("")).unwrap().len(), 2);
    }

    #[test]
    fn a_closed_gate_refuses_every_change() {
        let (storage, _) = gated();
        let path = Path::new("file");
        let file = storage.open(path, OpenMode::CreateNew).unwrap();
        storage.gate().close();
        assert!(write_all_at(&*file, b"x", 0).is_err());
        assert!(storage.create_dir(Path::new("dir")).is_err());
        assert!(storage.open(Path::new("new"), OpenMode::CreateNew).is_err());
        assert!(storage.open(path, OpenMode::Truncate).is_err());
        assert!(storage.rename(path, Path::new("other")).is_err());
        assert!(storage.remove_file(path).is_err());
        assert!(storage.remove_dir(Path::new("dir")).is_err());
        assert!(storage.open(path, OpenMode::Read).is_ok());
    }

    #[test]
    fn directories_that_cannot_be_synced_are_told_and_failures_are_failures() {
        for kind in [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported] {
            let (storage, faults) = gated();
            assert!(!storage.gate().syncs_no_dirs());
            faults.fail(Op::SyncDir, 1, kind);
            storage.sync_dir(Path::new("")).unwrap();
            assert!(storage.gate().syncs_no_dirs());
        }
        let (storage, faults) = gated();
        faults.fail(Op::SyncDir, 1, io::ErrorKind::Other);
        assert!(storage.sync_dir(Path::new("")).is_err());
        assert!(!storage.gate().syncs_no_dirs());
    }
}
