//! A directory tree of the operating system. The only user of `std::fs`.
//!
//! Useful for: every path a broker touches on a disk. Not useful for: which operations need a sync;
//! each method of [`Storage`] states that.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use crate::error::is_no_descriptor;
use crate::storage::gate::is_unsupported;
use crate::storage::{DirEntry, File, Map, OpenMode, ProcessLimits, Storage, SyncDir, read_up_to};
use crate::sync::{Arc, AtomicU64, OnceLock, Ordering, thread};

/// A directory of the operating system's file system.
#[derive(Debug)]
pub(crate) struct FsStorage {
    root: PathBuf,
    /// The identity of the start of the machine, once it was read.
    boot: OnceLock<[u8; 16]>,
}

impl FsStorage {
    /// The storage below `root`. Touches nothing. A relative path is made absolute, so that a later
    /// change of the process's working directory does not move the storage.
    pub(crate) fn new(root: PathBuf) -> Self {
        let root = std::path::absolute(&root).unwrap_or(root);
        FsStorage { root, boot: OnceLock::new() }
    }

    /// Creates the directory `path` and its missing parents, each durably. `NotADirectory` if the
    /// path is something else. Nothing is synced if it exists: the name is durable after
    /// [`sync_root`](Storage::sync_root).
    pub(crate) fn create_root(path: &Path) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        if fs::metadata(&path).is_ok_and(|found| found.is_dir()) { Ok(()) } else { create_durably(&path) }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        if path.as_os_str().is_empty() {
            return Ok(self.root.clone());
        }
        if path.components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.root.join(path))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leads out of the storage"))
        }
    }
}

impl Storage for FsStorage {
    fn display(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.resolve(path)?;
        // A lock belongs to an open file, not to the process: a second one in this process is
        // refused as well.
        match check_regular(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        try_lock(&file)?;
        let mut locked = vec![file];
        // Lock the directory too, because the file has another inode once it was deleted by hand. A
        // directory cannot be locked everywhere (Windows opens no directory, NFS locks no file that
        // is open for reading only); the lock of the file is enough there.
        let dir = fs::File::open(&self.root).and_then(|dir| try_lock(&dir).map(|()| dir));
        match dir {
            Ok(dir) => locked.push(dir),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || is_no_descriptor(&e) => {
                locked.iter().for_each(|file| drop(file.unlock()));
                return Err(e);
            }
            Err(_) => {}
        }
        Ok(Box::new(DirLock { locked, process: std::process::id() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = self.resolve(path)?;
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.resolve(dir)?)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            // A directory may be a link to one on another disk.
            let is_link = kind.is_symlink();
            let is_dir = kind.is_dir() || (is_link && entry.path().is_dir());
            entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir,
                is_link,
            });
        }
        Ok(entries)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::symlink_metadata(self.resolve(path)?)?.is_symlink())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let path = self.resolve(path)?;
        let mut options = fs::OpenOptions::new();
        options.read(true);
        if matches!(mode, OpenMode::Read | OpenMode::Write) {
            check_regular(&path)?;
        }
        let file = match mode {
            OpenMode::Read => options.open(&path)?,
            OpenMode::Write => options.write(true).open(&path)?,
            OpenMode::CreateNew => options.write(true).create_new(true).open(&path)?,
            OpenMode::Truncate => {
                // Not O_TRUNC, because a file that is mapped must not shrink under the map.
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => options.write(true).create_new(true).open(&path)?,
                }
            }
        };
        Ok(Arc::new(FsFile { file, mapped: AtomicU64::new(0) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn link_from(&self, from: &Path, to: &Path) -> io::Result<()> {
        check_regular(from)?;
        fs::hard_link(from, self.resolve(to)?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = self.resolve(path)?;
        match fs::remove_file(&path) {
            // Windows removes a link to a directory as a directory. The target stays.
            Err(_) if cfg!(windows) && path.is_symlink() => fs::remove_dir(&path),
            result => result,
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(self.resolve(path)?)
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        let boot = self.boot.get_or_init(|| {
            // Only Linux has it. A failed read is no error.
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let digits: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
            u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
        });
        (*boot, std::process::id())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_directory(&open_directory(&self.resolve(dir)?)?)
    }

    fn sync_root(&self) -> io::Result<()> {
        self.root.parent().map_or(Ok(()), sync_if_allowed)
    }

    fn prepare_sync_dir<'a>(&'a self, dir: &'a Path) -> io::Result<SyncDir<'a>> {
        let opened = open_directory(&self.resolve(dir)?)?;
        Ok(Box::new(move || sync_directory(&opened)))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        for path in [&self.resolve(path)?, &self.root] {
            match fs::File::open(path) {
                Ok(file) if is_held(&file)? => return Ok(true),
                // A copy has no lock file, and a directory cannot be opened everywhere.
                _ => {}
            }
        }
        Ok(false)
    }

    fn host_name(&self) -> String {
        // Only Linux has it. A failed read is no error.
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().to_string()
    }

    fn process_limits(&self) -> ProcessLimits {
        // Only Linux has them. A failed read is no error.
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        ProcessLimits::parse(&read("/proc/self/limits"), &read("/proc/self/status"))
    }
}

/// Refuses a name that is not that of a regular file. To open a FIFO would wait for another process,
/// to read a device may never end, and a link leads out of the directory. std has no opening that
/// refuses these itself, so a file that is exchanged between this check and the opening is opened.
fn check_regular(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"))
    }
}

/// The lock of a directory. It is released explicitly: closing the files releases it only once
/// every copy of them is closed, and a child process that was just forked has some.
struct DirLock {
    locked: Vec<fs::File>,
    process: u32,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // A forked child must not release what its parent holds.
        if self.process == std::process::id() {
            self.locked.iter().for_each(|file| drop(file.unlock()));
        }
    }
}

/// Whether another open file holds the exclusive lock of this one. The shared lock by which this is
/// found out is held for a moment only.
fn is_held(file: &fs::File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        // There are no locks here, so no process can have it.
        Err(fs::TryLockError::Error(_)) => Ok(false),
    }
}

/// How often a lock is tried that is held, and the time between: a reader may be looking whether it
/// is.
const LOCK_ATTEMPTS: usize = 4;
const LOCK_PAUSE: Duration = Duration::from_micros(500);

fn try_lock(file: &fs::File) -> io::Result<()> {
    let mut attempts = 1;
    loop {
        return match file.try_lock() {
            Ok(()) => Ok(()),
            Err(fs::TryLockError::WouldBlock) if attempts < LOCK_ATTEMPTS => {
                attempts += 1;
                thread::sleep(LOCK_PAUSE);
                continue;
            }
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(fs::TryLockError::Error(e)) => Err(e),
        };
    }
}

struct FsFile {
    file: fs::File,
    /// The longest length mapped through this handle: bytes below it must not change any more.
    mapped: AtomicU64,
}

impl FsFile {
    /// Returns `InvalidInput` unless the bytes to be written below the mapped length equal the
    /// present ones.
    fn check_mapped(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let overlap = self.mapped.load(Ordering::Acquire).saturating_sub(position);
        let rewritten = usize::try_from(overlap).ok().and_then(|n| bytes.get(..n)).unwrap_or(bytes);
        if rewritten.is_empty() {
            return Ok(());
        }
        let mut there = vec![0; rewritten.len()];
        let n = read_up_to(self, &mut there, position)?;
        if there.get(..n) == Some(rewritten) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "mapped bytes cannot be changed"))
    }
}

impl File for FsFile {
    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, position)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, buffer, position)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.check_mapped(bytes, position)?;
        std::os::unix::fs::FileExt::write_at(&self.file, bytes, position)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.check_mapped(bytes, position)?;
        std::os::windows::fs::FileExt::seek_write(&self.file, bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let map = Map::of_file(&self.file, self.len()?, len)?;
        self.mapped.fetch_max(len, Ordering::Release);
        Ok(map)
    }

    fn grows_while_mapped(&self) -> bool {
        true
    }
}

fn create_durably(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        // The root of the file system, or of a drive. It exists, or it cannot be created here.
        return fs::metadata(path).map(drop);
    };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            // A process that died before it synced the parent may have created it.
            return sync_if_allowed(parent);
        }
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    create_durably(parent)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result?,
    }
    sync_parent(parent)
}

/// As [`sync_parent`], for the parent of a directory that exists. Where the parent must not be
/// opened, the creator of that directory is responsible for its durability.
fn sync_if_allowed(parent: &Path) -> io::Result<()> {
    match sync_parent(parent) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Syncs a directory above the broker's, where the file system can do that.
fn sync_parent(path: &Path) -> io::Result<()> {
    match open_directory(path).and_then(|dir| sync_directory(&dir)) {
        Err(e) if is_unsupported(&e) => Ok(()),
        synced => synced,
    }
}

#[cfg(unix)]
fn open_directory(path: &Path) -> io::Result<fs::File> {
    let dir = fs::File::open(path)?;
    if dir.metadata()?.is_dir() { Ok(dir) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

#[cfg(unix)]
fn sync_directory(dir: &fs::File) -> io::Result<()> {
    dir.sync_all()
}

/// Windows opens no directory as a file.
#[cfg(windows)]
fn open_directory(path: &Path) -> io::Result<()> {
    fs::read_dir(path).map(drop)
}

/// Windows has no such operation; NTFS journals its metadata.
#[cfg(windows)]
fn sync_directory((): &()) -> io::Result<()> {
    Ok(())
}
