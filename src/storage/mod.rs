//! Bytes and the medium: the operations that the engine needs, and the promise of each about power
//! loss.
//!
//! Useful for: running the same engine on a disk ([`fs`]), in memory with a written and a synced
//! image ([`mem`]), and below a layer that fails, tears or holds the n-th operation ([`faults`]).
//! Not useful for: the meaning of the bytes; no format is known here. `conformance` has the one
//! list of tests that all of them pass.
//!
//! Paths are relative to the storage's root; `""` is the root itself. All methods take `&self` and
//! may be called from any thread. Errors are plain [`io::Error`]s; the caller adds the action and
//! the path.

use std::io;
use std::path::{Path, PathBuf};

use crate::sync::Arc;

pub(crate) mod budget;
#[cfg(test)]
mod conformance;
pub(crate) mod descriptors;
pub(crate) mod faults;
pub(crate) mod fs;
pub(crate) mod gate;
pub(crate) mod limits;
pub(crate) mod mem;
pub(crate) mod mmap;
pub(crate) mod overlay;

pub(crate) use limits::ProcessLimits;
pub(crate) use mmap::Map;

/// A sync of a directory that has all that it needs: see [`Storage::prepare_sync_dir`].
pub(crate) type SyncDir<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

/// A directory tree on some medium.
pub(crate) trait Storage: Send + Sync {
    /// The storage that this one is a layer of, for the methods that a layer leaves to it.
    fn below(&self) -> Option<&dyn Storage> {
        None
    }

    /// Where a relative path lies, for messages: the absolute path on a disk, `mem:/...` in memory.
    fn display(&self, path: &Path) -> PathBuf;

    /// Takes the exclusive lock file `path` (created if missing) without waiting; `WouldBlock` if
    /// it is held, in this process or another. The lock ends when the guard is dropped or the
    /// process dies.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// Creates the directory `path`; its parent must exist. Returns `Ok` if it exists already.
    /// Durable only after the parent's [`sync_dir`](Storage::sync_dir).
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a directory, in no particular order. `NotFound` if it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether `path` itself is a symbolic link, independent of its target. `NotFound` if there is
    /// nothing.
    fn is_link(&self, path: &Path) -> io::Result<bool>;

    /// Opens a file for reading and writing. `NotFound` or `AlreadyExists`, according to `mode`. A
    /// file that was created is durable only after its directory's [`sync_dir`](Storage::sync_dir).
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Renames a file or a directory over nothing or over a file. Atomic for every reader; durable
    /// only after [`sync_dir`](Storage::sync_dir) of both directories.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file outside of this storage, at the absolute path `from`, the name `to` in it as
    /// well, which must be free. Durable only after the directory's [`sync_dir`](Storage::sync_dir).
    /// `Unsupported` where there is no such file system, or not one for both.
    fn link_from(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unlinks a file, or a symbolic link and not its target. Maps and handles of it stay valid.
    /// Durable only after the directory's [`sync_dir`](Storage::sync_dir).
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable: creations, renames and removals in it before this
    /// call.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the name of the root durable, in the directory above it. Does nothing where there is no
    /// such directory, or where it cannot be synced.
    fn sync_root(&self) -> io::Result<()> {
        self.below().map_or(Ok(()), |below| below.sync_root())
    }

    /// As [`sync_dir`](Storage::sync_dir), in two steps: the first opens what the second needs. A
    /// caller whose change must not be left half done prepares the sync before the change, so that
    /// a lack of descriptors is met before it.
    fn prepare_sync_dir<'a>(&'a self, dir: &'a Path) -> io::Result<SyncDir<'a>> {
        Ok(Box::new(move || self.sync_dir(dir)))
    }

    /// Whether it can run out of space such that deleting files frees some.
    fn can_be_full(&self) -> bool {
        true
    }

    /// The start of the machine, and the process. As long as the first is the same, and not zero,
    /// every write that was not synced is still there. Zeros if they are not known.
    fn run_identity(&self) -> ([u8; 16], u32);

    /// Whether other processes can have the same directory open: then its owner tells them how far
    /// they may read.
    fn is_shared(&self) -> bool {
        self.below().is_some_and(|below| below.is_shared())
    }

    /// Whether some opener holds the lock file `path`, and so the directory. Takes no lock that an
    /// opener would meet for longer than this call.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.below().map_or(Ok(false), |below| below.is_locked(path))
    }

    /// The name of the machine, for messages; empty if it is not known.
    fn host_name(&self) -> String {
        self.below().map(|below| below.host_name()).unwrap_or_default()
    }

    /// The limits that the process has now, as far as they concern this medium and are known.
    fn process_limits(&self) -> ProcessLimits {
        ProcessLimits::default()
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DirEntry {
    /// The name, as text. A name that is not UTF-8 is converted lossily, because it is foreign in
    /// any case.
    pub(crate) name: String,
    /// Whether it is a directory, or a symbolic link to one.
    pub(crate) is_dir: bool,
    /// Whether it is a symbolic link.
    pub(crate) is_link: bool,
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// It must exist; for reading only (a file system may be mounted read-only, permissions may be
    /// narrow).
    Read,
    /// It must exist; for reading and writing.
    Write,
    /// It must not exist; created for reading and writing.
    CreateNew,
    /// Created empty; a file that has the name is unlinked first, so its handles and maps keep
    /// their bytes.
    Truncate,
}

/// An open file. Positions are bytes from its beginning.
pub(crate) trait File: Send + Sync {
    /// Reads into `buffer` from `position`: as many bytes as there are, at least one unless
    /// `position` is at or after the end or the buffer is empty. May be short. On `Interrupted` the
    /// caller must repeat the call.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes at `position`, growing the file; a hole left before it reads as zeros. May be short.
    /// The bytes are in the page cache afterwards: they survive the process, not a power loss.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// Makes all bytes written before this call durable, and the length needed to read them back.
    /// IMPORTANT: after an error a caller must not retry. The state of the bytes is unknown, and a
    /// later success does not mean that they are on the medium.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Maps the first `len` bytes for reading. `InvalidInput` if the file is shorter. The bytes
    /// below `len` must never change again. Therefore a later write there returns `InvalidInput`
    /// unless it writes the same bytes, as recovery does to get them onto the medium. No method
    /// here can shrink the file.
    fn map(&self, len: u64) -> io::Result<Map>;

    /// Whether bytes may be written after a mapped part at no other cost than that of the write.
    fn grows_while_mapped(&self) -> bool {
        false
    }

    /// The effect of a failed [`sync_data`](File::sync_data): bytes that are not durable yet count
    /// as clean, stay readable, and reach the medium only if they are written again. For the
    /// storages that simulate this in tests; a real disk does it by itself.
    fn lose_unsynced(&self) {}
}

/// Reads exactly `buffer.len()` bytes; `UnexpectedEof` if the file ends before.
pub(crate) fn read_exact_at(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<()> {
    match read_up_to(file, buffer, position)? {
        n if n == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes.
pub(crate) fn read_up_to(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`. An error contains the number of bytes that were written before it.
pub(crate) fn write_all_at(file: &dyn File, bytes: &[u8], position: u64) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, position + done as u64) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((done, e)),
        }
    }
    Ok(())
}

/// A whole file, if it is no longer than `limit` bytes (`InvalidData` otherwise).
pub(crate) fn read_file(storage: &dyn Storage, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the file has {len} bytes, and a file of this kind has at most {limit}"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?];
    let n = read_up_to(&*file, &mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// Why a file could not be replaced.
#[derive(Debug)]
pub(crate) struct ReplaceError {
    pub(crate) error: io::Error,
    /// The rename was tried: a power loss may leave the old content or the new. Never for a lack of
    /// descriptors.
    pub(crate) replaced: bool,
}

impl ReplaceError {
    /// Whether there was no space, and the old content is there.
    pub(crate) fn is_full(&self) -> bool {
        use crate::error::{Space, is_space};
        !self.replaced && matches!(is_space(&self.error), Some(Space::NoSpace | Space::Quota))
    }
}

/// Replaces a file's content so that after a crash at any instant there is the old content or the
/// new. Writes a temporary file, syncs it, renames it, and syncs the directory.
pub(crate) fn replace_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    replace_and_open(storage, path, bytes).map(drop)
}

/// As [`replace_file`]. Returns the new file, open for reading and writing.
pub(crate) fn replace_and_open(
    storage: &dyn Storage,
    path: &Path,
    bytes: &[u8],
) -> Result<Arc<dyn File>, ReplaceError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let parent = path.parent().unwrap_or(Path::new(""));
    let written = (|| {
        let file = storage.open(&temporary, OpenMode::Truncate)?;
        write_all_at(&*file, bytes, 0).map_err(|(_, e)| e)?;
        file.sync_data()?;
        Ok((file, storage.prepare_sync_dir(parent)?))
    })();
    let (file, sync_dir) = match written {
        Ok(written) => written,
        Err(error) => {
            // Best effort: a leftover is overwritten by the next attempt and ignored otherwise.
            let _ = storage.remove_file(&temporary);
            return Err(ReplaceError { error, replaced: false });
        }
    };
    storage
        .rename(&temporary, path)
        .and_then(|()| sync_dir())
        .map_err(|error| ReplaceError { error, replaced: true })?;
    Ok(file)
}
