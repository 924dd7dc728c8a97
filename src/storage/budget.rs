//! The bytes that a directory tree takes, and their bound. A layer that knows the length of every
//! file.
//!
//! Useful for: a bound on everything below a broker's root, for all writers together. Not useful
//! for: the space that a file system needs in addition to the bytes of files. It refuses nothing: a
//! caller *claims* the bytes of a large write first.
//!
//! The lengths are read once, when the lock is taken, because from then on no other process changes
//! the tree. The lock of the table comes before that of a file's entry, and under both no operation
//! of the medium runs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::is_no_descriptor;
use crate::storage::{DirEntry, File, Map, OpenMode, Storage, SyncDir};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Rank};

/// The bound, and the bytes that are taken of it.
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    /// Claimed bytes that are not written yet.
    claimed: AtomicU64,
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Length>>>>,
}

/// The bytes that a file takes. None once it has no name.
struct Length {
    bytes: u64,
    is_named: bool,
}

/// Bytes that are about to be written. No other claim gets them while this value lives.
pub(crate) struct BudgetClaim {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for BudgetClaim {
    fn drop(&mut self) {
        self.budget.claimed.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Budget {
            limit,
            used: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
            files: Mutex::new(Rank::BudgetFiles, BTreeMap::new()),
        })
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes of all files.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Claims bytes, if they and a `margin` are left.
    pub(crate) fn claim(self: &Arc<Self>, bytes: u64, margin: u64) -> Option<BudgetClaim> {
        let claimed = self.claimed.fetch_add(bytes, Ordering::AcqRel);
        let claim = BudgetClaim { budget: self.clone(), bytes };
        let needed = self.used().saturating_add(claimed).saturating_add(bytes).saturating_add(margin);
        (needed <= self.limit).then_some(claim)
    }

    /// As [`claim`](Budget::claim), for bytes that nothing waits for. Another claim is not refused
    /// because of one that finds no room.
    pub(crate) fn claim_spare(self: &Arc<Self>, bytes: u64) -> Option<BudgetClaim> {
        let margin = (self.limit / 8).saturating_add(bytes);
        let taken = self.used().saturating_add(self.claimed.load(Ordering::Acquire));
        let has_room = taken.saturating_add(bytes).saturating_add(margin) <= self.limit;
        if has_room { self.claim(bytes, margin) } else { None }
    }

    /// Adds a new file, or one that was found.
    fn add(&self, path: &Path, bytes: u64) -> Arc<Mutex<Length>> {
        let length = Arc::new(Mutex::new(Rank::BudgetLength, Length { bytes, is_named: true }));
        let replaced = self.files.lock().insert(path.to_path_buf(), length.clone());
        self.used.fetch_add(bytes, Ordering::AcqRel);
        self.forget(replaced);
        length
    }

    fn forget(&self, length: Option<Arc<Mutex<Length>>>) {
        if let Some(length) = length {
            let mut length = length.lock();
            length.is_named = false;
            self.used.fetch_sub(length.bytes, Ordering::AcqRel);
        }
    }

    fn remove(&self, path: &Path) {
        let removed = self.files.lock().remove(path);
        self.forget(removed);
    }

    /// Renames a file, or a directory with everything below it.
    fn rename(&self, from: &Path, to: &Path) {
        let mut files = self.files.lock();
        let replaced = match files.remove(from) {
            Some(length) => files.insert(to.to_path_buf(), length),
            None => {
                let below = files.range(from.to_path_buf()..).map(|(path, _)| path);
                let below: Vec<_> = below.take_while(|path| path.starts_with(from)).cloned().collect();
                for path in below {
                    if let (Ok(rest), Some(length)) = (path.strip_prefix(from), files.remove(&path)) {
                        files.insert(to.join(rest), length);
                    }
                }
                None
            }
        };
        drop(files);
        self.forget(replaced);
    }

    /// Reads the lengths of all files of a tree.
    fn walk(&self, storage: &dyn Storage, dir: &Path) -> io::Result<()> {
        for entry in storage.list(dir)? {
            let path = dir.join(&entry.name);
            if entry.is_dir {
                self.walk(storage, &path)?;
                continue;
            }
            // A file that cannot be inspected is foreign, and is not counted.
            match storage.open(&path, OpenMode::Read).and_then(|file| file.len()) {
                Err(e) if is_no_descriptor(&e) => return Err(e),
                Err(_) => {}
                Ok(bytes) => drop(self.add(&path, bytes)),
            }
        }
        Ok(())
    }
}

/// A storage whose files are counted.
pub(crate) struct BudgetStorage {
    inner: Arc<dyn Storage>,
    budget: Arc<Budget>,
}

impl BudgetStorage {
    pub(crate) fn new(inner: Arc<dyn Storage>, budget: &Arc<Budget>) -> Self {
        BudgetStorage { inner, budget: budget.clone() }
    }
}

impl Storage for BudgetStorage {
    fn display(&self, path: &Path) -> PathBuf {
        self.inner.display(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let lock = self.inner.lock(path)?;
        self.budget.walk(&*self.inner, Path::new(""))?;
        Ok(lock)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_link(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        let length = match mode {
            OpenMode::Read => return Ok(inner),
            OpenMode::Write => {
                let known = self.budget.files.lock().get(path).cloned();
                match known {
                    Some(length) => length,
                    None => self.budget.add(path, inner.len()?),
                }
            }
            OpenMode::CreateNew | OpenMode::Truncate => self.budget.add(path, 0),
        };
        Ok(Arc::new(BudgetFile { inner, budget: self.budget.clone(), length }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        self.budget.rename(from, to);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)?;
        self.budget.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn prepare_sync_dir<'a>(&'a self, dir: &'a Path) -> io::Result<SyncDir<'a>> {
        self.inner.prepare_sync_dir(dir)
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

struct BudgetFile {
    inner: Arc<dyn File>,
    budget: Arc<Budget>,
    length: Arc<Mutex<Length>>,
}

impl File for BudgetFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let written = self.inner.write_at(bytes, position)?;
        let end = position.saturating_add(written as u64);
        let mut length = self.length.lock();
        if end > length.bytes && written > 0 {
            if length.is_named {
                self.budget.used.fetch_add(end - length.bytes, Ordering::AcqRel);
            }
            length.bytes = end;
        }
        Ok(written)
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
