//! A medium in memory, and its content after a power loss.
//!
//! Useful for: brokers that live as long as their process, and, with crash images, for the states
//! that a broker on a real disk would find. Not useful for: failing operations; for these see
//! [`faults`](crate::storage::faults).
//!
//! There are two images, of files and of directories: the written one, which the running process
//! sees, and the durable one, from which [`MemStorage::crash`] starts, together with the operations
//! in between.

mod content;
mod survive;
mod tree;

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use self::content::{SECTOR, in_sectors};
pub use self::survive::Survive;
use self::tree::{Inode, LockKey, Node, ROOT, Tree};
use crate::storage::{DirEntry, File, Map, OpenMode, Storage, write_all_at};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Rank, RwLock, RwLockReadGuard};

/// A directory tree in memory. Cheap to clone; clones share the tree and belong to the same run of
/// the machine.
///
/// A [`crash`](MemStorage::crash) ends the run: every handle that was opened before, and every
/// `MemStorage` but those attached since, returns an error from all calls, so that a broker which
/// "died" cannot change the medium.
#[derive(Clone)]
pub(crate) struct MemStorage {
    machine: Arc<Machine>,
    /// The run that this handle belongs to.
    run: u64,
}

struct Machine {
    tree: Mutex<Tree>,
    /// The current run. Rises at each crash, with `running` held for writing.
    run: AtomicU64,
    /// The number of power losses plus one.
    boot: AtomicU64,
    /// With crash images every operation holds it for reading, so that a crash and a copy see one
    /// instant. Taken before `tree`, which is taken before a file's content.
    running: Option<RwLock<()>>,
    /// The bytes that all files together may take, in whole sectors. [`UNBOUNDED`]: as many as
    /// there is memory for, and nothing is counted.
    capacity: AtomicU64,
    /// Other processes have the medium too: see [`Storage::is_shared`].
    is_shared: AtomicBool,
}

/// The run of a process that no crash of a broker ends.
const ANY_RUN: u64 = u64::MAX;

impl MemStorage {
    /// An empty storage without crash images: syncs are free and nothing is recorded. Every kind of
    /// crash has the effect of [`Survive::Everything`].
    pub(crate) fn new() -> Self {
        MemStorage::start(Tree::new(false), 1, None, UNBOUNDED)
    }

    /// An empty storage that distinguishes durable from pending operations.
    pub(crate) fn with_crash_images() -> Self {
        MemStorage::start(Tree::new(true), 1, Some(RwLock::new(Rank::Machine, ())), UNBOUNDED)
    }

    fn start(tree: Tree, boot: u64, running: Option<RwLock<()>>, capacity: u64) -> Self {
        let (run, boot, capacity) = (AtomicU64::new(0), AtomicU64::new(boot), AtomicU64::new(capacity));
        let (tree, is_shared) = (Mutex::new(Rank::MemoryTree, tree), AtomicBool::new(false));
        let machine = Machine { tree, run, boot, running, capacity, is_shared };
        MemStorage { machine: Arc::new(machine), run: 0 }
    }

    /// A handle on the same medium that belongs to the current run.
    pub(crate) fn attach(&self) -> Self {
        MemStorage { machine: Arc::clone(&self.machine), run: self.machine.run.load(Ordering::Acquire) }
    }

    /// A handle on the same medium of another process, which a [`crash`](MemStorage::crash) does not
    /// end: it is meant for kills.
    pub(crate) fn observe(&self) -> Self {
        MemStorage { machine: Arc::clone(&self.machine), run: ANY_RUN }
    }

    /// Lets brokers know that other processes have the medium too.
    pub(crate) fn share(&self) {
        self.machine.is_shared.store(true, Ordering::Release);
    }

    /// Ends the current run. Afterwards the medium has the content that `survive` selects; locks
    /// are free, all handles are stale, maps stay readable. Returns a handle for the next run.
    pub(crate) fn crash(&self, survive: Survive) -> Self {
        {
            let _stopped = self.machine.running.as_ref().map(RwLock::write);
            self.machine.run.fetch_add(1, Ordering::AcqRel);
            let mut tree = self.machine.tree.lock();
            if survive == Survive::Everything || self.machine.running.is_none() {
                tree.after_kill();
            } else {
                self.machine.boot.fetch_add(1, Ordering::AcqRel);
                *tree = tree.after_power_loss(survive);
            }
        }
        self.attach()
    }

    /// An independent copy of the medium at this instant, with no lock taken and no file open: both
    /// images, and the unsynced operations between them.
    pub(crate) fn duplicate(&self) -> Self {
        let running = self.machine.running.as_ref();
        let _stopped = running.map(RwLock::write);
        let boot = self.machine.boot.load(Ordering::Acquire);
        let capacity = self.machine.capacity.load(Ordering::Acquire);
        MemStorage::start(
            self.machine.tree.lock().duplicate(),
            boot,
            running.map(|_| RwLock::new(Rank::Machine, ())),
            capacity,
        )
    }

    /// Bounds the space of all files together from now on. Existing files stay, also if they take
    /// more.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        // Under the tree's lock, so that a running write sees one bound only.
        let _tree = self.machine.tree.lock();
        self.machine.capacity.store(bytes, Ordering::Release);
    }

    /// The space that all files together take: each its length, rounded up to whole sectors.
    pub(crate) fn used(&self) -> u64 {
        self.machine.tree.lock().used()
    }

    /// The number of operations that a power loss may take now.
    pub(crate) fn pending(&self) -> usize {
        self.machine.tree.lock().pending().len()
    }

    /// The masks of all subsets of pending operations that differ after a power loss; `None` if
    /// there are more than `most`.
    pub(crate) fn subsets(&self, most: usize) -> Option<Vec<u64>> {
        self.machine.tree.lock().subsets(most)
    }

    /// A hash of all names and of the bytes that were written.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.machine.tree.lock().hash_into(&mut hasher);
        hasher.finish()
    }

    /// All files with their lengths, sorted by path.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let tree = self.machine.tree.lock();
        tree.files(Path::new(""), ROOT, &mut |path, inode| {
            files.push((path.to_path_buf(), inode.content.read().bytes().len() as u64));
        });
        files
    }

    /// A file's bytes as written.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inode = self.inode(path)?;
        let content = inode.content.read();
        Ok(content.bytes().to_vec())
    }

    /// Changes a file's bytes as another program would that then syncs the file: in both images,
    /// without the rules about mapped bytes. Existing maps keep their bytes.
    pub(crate) fn edit<R>(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>) -> R) -> io::Result<R> {
        let _running = self.machine.running.as_ref().map(RwLock::read);
        let inode = self.inode(path)?;
        let mut content = inode.content.write();
        Ok(content.edit(edit))
    }

    /// Creates a file and its missing directories, all durable.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let here = self.attach();
        let parent = path.parent().unwrap_or(Path::new(""));
        let mut above: Vec<_> = parent.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
        above.reverse();
        for dir in above {
            here.create_dir(dir)?;
            here.sync_dir(dir.parent().unwrap_or(Path::new("")))?;
        }
        let file = here.open(path, OpenMode::CreateNew)?;
        write_all_at(&*file, bytes, 0).map_err(|(_, e)| e)?;
        file.sync_data()?;
        here.sync_dir(parent)
    }

    /// Removes a file, or a directory with all that is in it, durably.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let here = self.attach();
        match here.list(path) {
            Ok(entries) => {
                for entry in entries {
                    self.remove(&path.join(entry.name))?;
                }
                here.remove_dir(path)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => here.remove_file(path)?,
            Err(e) => return Err(e),
        }
        here.sync_dir(path.parent().unwrap_or(Path::new("")))
    }

    fn inode(&self, path: &Path) -> io::Result<Arc<Inode>> {
        let tree = self.machine.tree.lock();
        match tree.node(&tree.key(path)?) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Machine {
    /// A guard that keeps `run` the current run, if it still is.
    fn running(&self, run: u64) -> io::Result<Option<RwLockReadGuard<'_, ()>>> {
        let guard = self.running.as_ref().map(RwLock::read);
        if run == ANY_RUN || self.run.load(Ordering::Acquire) == run {
            Ok(guard)
        } else {
            Err(io::Error::other("stale handle: the machine has crashed since it was opened"))
        }
    }

    /// Writes as many of `bytes` as there is space for. Returns their number.
    ///
    /// The space is counted here, over all files, and not maintained elsewhere. So neither a crash
    /// nor an edit can make the count wrong, and without a bound nothing is counted.
    fn write_within(&self, capacity: u64, inode: &Inode, bytes: &[u8], position: u64) -> io::Result<usize> {
        let tree = self.tree.lock();
        let len = inode.content.read().bytes().len() as u64;
        let held = in_sectors(len);
        let end = position.saturating_add(bytes.len() as u64);
        let room = if in_sectors(end) > held { held + capacity.saturating_sub(tree.used()) } else { end };
        // A write takes whole sectors. Within its last sector a file grows without taking space.
        let until = end.min(room - room % SECTOR as u64).max(end.min(held));
        let fits = until.saturating_sub(position).min(bytes.len() as u64) as usize;
        let part = bytes.get(..fits).unwrap_or(bytes);
        if part.is_empty() && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.content.write().write_at(part, position)?;
        Ok(part.len())
    }
}

/// The capacity of a medium that has none.
pub(crate) const UNBOUNDED: u64 = u64::MAX;

impl Storage for MemStorage {
    fn display(&self, path: &Path) -> PathBuf {
        Path::new("mem:/").join(path)
    }

    fn can_be_full(&self) -> bool {
        // Without crash images there are no bytes to make durable.
        self.machine.running.is_some()
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        let boot = u128::from(self.machine.boot.load(Ordering::Acquire));
        (boot.to_le_bytes(), 0)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        let key = tree.key(path)?;
        let inode = match tree.node(&key) {
            Some(Node::File(inode)) => inode,
            Some(Node::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None => tree.create_file(key),
        };
        let key = tree.lock(&inode).ok_or(io::ErrorKind::WouldBlock)?;
        Ok(Box::new(MemLock { machine: Arc::clone(&self.machine), key }))
    }

    fn is_shared(&self) -> bool {
        self.machine.is_shared.load(Ordering::Acquire)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let mut tree = self.machine.tree.lock();
        let Some(Node::File(inode)) = tree.node(&tree.key(path)?) else { return Ok(false) };
        match tree.lock(&inode) {
            Some(key) => tree.unlock(key),
            None => return Ok(true),
        }
        Ok(false)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let key = tree.key(path)?;
        match tree.node(&key) {
            Some(Node::Dir(_)) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                tree.create_dir(key);
                Ok(())
            }
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let _running = self.machine.running(self.run)?;
        let tree = self.machine.tree.lock();
        Ok(tree.list(tree.dir(dir)?))
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        let _running = self.machine.running(self.run)?;
        let tree = self.machine.tree.lock();
        // There are none here.
        tree.node(&tree.key(path)?).map(|_| false).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        let key = tree.key(path)?;
        let inode = match (tree.node(&key), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::Dir(_)), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(inode)), OpenMode::Read | OpenMode::Write) => inode,
            (Some(Node::File(_)), OpenMode::Truncate) => {
                // Handles and maps of the old file keep the inode.
                tree.unlink(key.clone());
                tree.create_file(key)
            }
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::CreateNew | OpenMode::Truncate) => tree.create_file(key),
        };
        let machine = Arc::clone(&self.machine);
        Ok(Arc::new(MemFile { machine, run: self.run, inode, is_writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        let (from_key, to_key) = (tree.key(from)?, tree.key(to)?);
        let node = tree.node(&from_key).ok_or(io::ErrorKind::NotFound)?;
        if from_key == to_key {
            return Ok(());
        }
        match (&node, tree.node(&to_key)) {
            (Node::Dir(_), _) if to.starts_with(from) => return Err(io::ErrorKind::InvalidInput.into()),
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Dir(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
        tree.rename(from_key, to_key, node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        let key = tree.key(path)?;
        match tree.node(&key) {
            Some(Node::File(_)) => tree.unlink(key),
            Some(Node::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        let key = tree.key(path)?;
        match tree.node(&key) {
            Some(Node::Dir(dir)) if tree.list(dir).is_empty() => tree.unlink(key),
            Some(Node::Dir(_)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _running = self.machine.running(self.run)?;
        let mut tree = self.machine.tree.lock();
        let dir = tree.dir(dir)?;
        tree.sync(dir);
        Ok(())
    }
}

struct MemFile {
    machine: Arc<Machine>,
    run: u64,
    inode: Arc<Inode>,
    is_writable: bool,
}

impl File for MemFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let _running = self.machine.running(self.run)?;
        Ok(self.inode.content.read().read_at(buffer, position))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let _running = self.machine.running(self.run)?;
        if !self.is_writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match self.machine.capacity.load(Ordering::Acquire) {
            UNBOUNDED => {
                self.inode.content.write().write_at(bytes, position)?;
                Ok(bytes.len())
            }
            capacity => self.machine.write_within(capacity, &self.inode, bytes, position),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let _running = self.machine.running(self.run)?;
        // Without crash images there is nothing to do, and no reader to wait for.
        if self.machine.running.is_some() { self.inode.content.write().sync() } else { Ok(()) }
    }

    fn lose_unsynced(&self) {
        if let Ok(_running) = self.machine.running(self.run) {
            self.inode.content.write().lose_unsynced();
        }
    }

    fn len(&self) -> io::Result<u64> {
        let _running = self.machine.running(self.run)?;
        Ok(self.inode.content.read().bytes().len() as u64)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let _running = self.machine.running(self.run)?;
        self.inode.content.write().map(len)
    }
}

struct MemLock {
    machine: Arc<Machine>,
    key: LockKey,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.machine.tree.lock().unlock(self.key);
    }
}

impl fmt::Debug for MemStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crash_images = self.machine.running.is_some();
        f.debug_struct("MemStorage").field("run", &self.run).field("crash_images", &crash_images).finish()
    }
}
