//! A layer in front of the medium, for a process that has no file descriptor left: it closes files
//! that can be opened again, and tries again.
//!
//! Useful for: every operation that opens something, whatever it is for. Not useful for: a bound on
//! the number of open files; the rows above keep that.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{NoDescriptor, is_no_descriptor};
use crate::storage::{DirEntry, File, OpenMode, ProcessLimits, Storage, SyncDir};
use crate::sync::Arc;

/// Knows the open files that can be closed.
pub(crate) trait Closer: Send + Sync {
    /// Closes some files that can be opened again. Returns false if there was none. The caller may
    /// hold any lock of the rows above, but none of the medium.
    fn close_some(&self) -> bool;

    /// Returns how many files and maps are open, and how many may be, for messages.
    fn open_and_max(&self) -> (usize, usize);
}

/// A storage that closes files where there is no descriptor left.
pub(crate) struct DescriptorStorage {
    inner: Arc<dyn Storage>,
    closer: Arc<dyn Closer>,
}

/// Other threads take descriptors too, so one that was just freed may be gone. After so many
/// attempts an operation fails.
const ATTEMPTS: usize = 64;

impl DescriptorStorage {
    pub(crate) fn new(inner: Arc<dyn Storage>, closer: Arc<dyn Closer>) -> Self {
        DescriptorStorage { inner, closer }
    }

    /// Calls `open` until it does not fail for lack of a descriptor.
    ///
    /// # Errors
    /// The error of `open`; a [`NoDescriptor`] if no file can be closed.
    fn with_descriptor<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut attempts = 1;
        loop {
            match open() {
                Err(e) if is_no_descriptor(&e) => {
                    if attempts == ATTEMPTS || !self.closer.close_some() {
                        let (open, max) = self.closer.open_and_max();
                        return Err(io::Error::other(NoDescriptor { open, max, cause: e }));
                    }
                    attempts += 1;
                }
                done => return done,
            }
        }
    }
}

impl Storage for DescriptorStorage {
    fn display(&self, path: &Path) -> PathBuf {
        self.inner.display(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.with_descriptor(|| self.inner.lock(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.with_descriptor(|| self.inner.list(dir))
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_link(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.with_descriptor(|| self.inner.open(path, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // Only the opening of the directory is repeated: a sync that has failed must not be.
        self.prepare_sync_dir(dir)?()
    }

    fn prepare_sync_dir<'a>(&'a self, dir: &'a Path) -> io::Result<SyncDir<'a>> {
        self.with_descriptor(|| self.inner.prepare_sync_dir(dir))
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

    fn process_limits(&self) -> ProcessLimits {
        self.inner.process_limits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faults::{FaultStorage, Faults};
    use crate::storage::mem::MemStorage;
    use crate::sync::{Mutex, Rank};

    /// Holds open files, and closes one at a time.
    struct Held(Mutex<Vec<Arc<dyn File>>>);

    impl Closer for Held {
        fn close_some(&self) -> bool {
            self.0.lock().pop().is_some()
        }

        fn open_and_max(&self) -> (usize, usize) {
            (self.0.lock().len(), 7)
        }
    }

    #[test]
    fn held_files_are_closed_where_no_descriptor_is_left_and_then_it_is_an_error() {
        let faults = Faults::new();
        let medium = Arc::new(FaultStorage::new(Arc::new(MemStorage::new()), &faults));
        let held = Arc::new(Held(Mutex::new(Rank::Test, Vec::new())));
        let storage = DescriptorStorage::new(medium, held.clone());
        faults.limit_descriptors(Some(3));
        for n in 0..3 {
            let file = storage.open(Path::new(&n.to_string()), OpenMode::CreateNew).unwrap();
            held.0.lock().push(file);
        }
        let mine = storage.open(Path::new("3"), OpenMode::CreateNew).unwrap();
        assert_eq!(held.0.lock().len(), 2);
        // Each takes the descriptor that the one before has given back.
        assert_eq!(storage.list(Path::new("")).unwrap().len(), 4);
        storage.sync_dir(Path::new("")).unwrap();
        assert_eq!((held.0.lock().len(), faults.descriptors()), (1, 2));
        let others = [0, 1].map(|n| storage.open(Path::new(&n.to_string()), OpenMode::Read).unwrap());
        assert_eq!(held.0.lock().len(), 0);
        for failed in [
            storage.open(Path::new("4"), OpenMode::CreateNew).map(drop),
            storage.list(Path::new("")).map(drop),
            storage.sync_dir(Path::new("")),
        ] {
            let error = failed.unwrap_err();
            assert!(is_no_descriptor(&error));
            assert!(error.to_string().contains("of max_open_files 7;"), "{error}");
        }
        drop((mine, others));
        storage.open(Path::new("4"), OpenMode::CreateNew).unwrap();
    }
}
