//! Files of segments that stay on the medium while a backup copies them, although their log has
//! removed them from its list.
//!
//! The argument: a backup turns the hold on before it looks at any log, and a segment that it has
//! seen in a list loses its files after that, so while the hold is on. Published files never shrink
//! and never change below their logical end, so the backup finds the bytes that it saw. After a
//! crash the files that were held are leftovers that no manifest lists; the next opening removes
//! them.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::storage::Storage;
use crate::sync::{Condvar, Mutex, Rank, thread};

/// The hold of a broker's segment files.
pub(crate) struct HeldFiles {
    state: Mutex<HoldState>,
    changed: Condvar,
}

#[derive(Default)]
struct HoldState {
    /// The thread that has the hold. No lock is held meanwhile, because it calls the user.
    backup: Option<thread::ThreadId>,
    /// Operations that keep a backup from starting.
    excluding: usize,
    /// The files to remove after the hold, those of one segment together.
    held: Vec<[PathBuf; 3]>,
}

/// A call that would have to wait for the backup from which it is made.
#[derive(Debug)]
pub(crate) struct InsideBackup;

impl Default for HeldFiles {
    fn default() -> Self {
        HeldFiles { state: Mutex::new(Rank::HeldFiles, HoldState::default()), changed: Condvar::default() }
    }
}

impl HeldFiles {
    /// Waits until no backup is running, and keeps one from starting: for an operation after which
    /// no copy of some bytes may be left, or which moves directories. The caller must hold no lock.
    ///
    /// # Errors
    /// The calling thread runs the backup.
    pub(crate) fn no_backup(&self) -> Result<NoBackup<'_>, InsideBackup> {
        let mut state = self.state.lock();
        while let Some(backup) = state.backup {
            if backup == thread::current().id() {
                return Err(InsideBackup);
            }
            self.changed.wait(&mut state);
        }
        state.excluding += 1;
        Ok(NoBackup(self))
    }

    /// Turns the hold on, until the guard is dropped. Waits for what keeps it from starting. The
    /// caller must hold no lock.
    ///
    /// # Errors
    /// The calling thread runs a backup already.
    pub(crate) fn hold<'a>(&'a self, storage: &'a dyn Storage) -> Result<FileHold<'a>, InsideBackup> {
        let this = thread::current().id();
        let mut state = self.state.lock();
        while state.backup.is_some() || state.excluding > 0 {
            if state.backup == Some(this) {
                return Err(InsideBackup);
            }
            self.changed.wait(&mut state);
        }
        state.backup = Some(this);
        Ok(FileHold { files: self, storage })
    }

    /// Removes the files of one segment, in this order and as far as that is possible; while the
    /// hold is on, after it.
    pub(crate) fn remove(&self, storage: &dyn Storage, files: [PathBuf; 3]) {
        {
            let mut state = self.state.lock();
            if state.backup.is_some() {
                state.held.push(files);
                return;
            }
        }
        remove(storage, &files);
    }
}

/// The first that cannot be removed keeps the others: the last one shows that a file is left.
fn remove(storage: &dyn Storage, files: &[PathBuf]) {
    for file in files {
        match storage.remove_file(file) {
            Err(e) if e.kind() != ErrorKind::NotFound => return,
            _ => {}
        }
    }
}

/// While it lives, no file of a segment is removed.
pub(crate) struct FileHold<'a> {
    files: &'a HeldFiles,
    storage: &'a dyn Storage,
}

impl Drop for FileHold<'_> {
    fn drop(&mut self) {
        let held = {
            let mut state = self.files.state.lock();
            state.backup = None;
            std::mem::take(&mut state.held)
        };
        self.files.changed.notify_all();
        for files in held {
            remove(self.storage, &files);
        }
    }
}

/// While it lives, no backup starts.
pub(crate) struct NoBackup<'a>(&'a HeldFiles);

impl Drop for NoBackup<'_> {
    fn drop(&mut self) {
        self.0.state.lock().excluding -= 1;
        self.0.changed.notify_all();
    }
}
