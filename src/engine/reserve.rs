//! The reserve makes room on a full disk. It is a file of written bytes in the broker's directory,
//! given up for steps that free space, because these write a little before they delete much.
//!
//! - *Made* by the first write after an opening, not by the opening: a broker that only reads
//!   writes nothing. Its bytes are random, so that no file system stores them as a hole,
//!   compressed, or shared with others.
//! - *Given up* when a step that frees space finds no room: the file is unlinked and the step is
//!   tried once more. Until it is done no thread writes the reserve again. An append, a roll, and a creation of a topic never use it.
//! - *Written again* by every step that frees space, by maintenance, and by appends. While it is
//!   missing, an append writes it first, and returns `DiskFull` if there is no room for it. So
//!   appends do not use the freed room before it is certain that the next deletion works too.
//! - On a file system that copies on write or is thinly provisioned, unlinking a file may free
//!   nothing. Then the step returns `DiskFull`, as if there were no reserve, and nothing has
//!   changed.
//!
//! The reserve's lock is a leaf: no other lock is taken under it.

use std::io;
use std::path::Path;

use crate::error::{Error, Result, Space, is_space};
use crate::format::names;
use crate::rng::SplitMix64;
use crate::stats::DiskState;
use crate::storage::{OpenMode, ReplaceError, Storage, write_all_at};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Mutex, Ordering, Rank};

/// The reserve's file and its state.
pub(crate) struct Reserve {
    storage: Arc<dyn Storage>,
    /// The [`phase`]. It changes only under `file`; appends load it without the lock.
    phase: AtomicU8,
    /// The size that the file must have.
    wanted: AtomicU64,
    file: Mutex<ReserveFile>,
    /// The steps that have given the reserve up and are running: the room is theirs. Raised under
    /// `file`.
    steps: AtomicUsize,
    /// The last append found no room.
    refused: AtomicBool,
}

/// The file, as far as it is known.
#[derive(Default)]
struct ReserveFile {
    bytes: u64,
    is_synced: bool,
}

/// The states of the reserve.
mod phase {
    /// The storage is memory: there is no reserve.
    pub(super) const NONE: u8 = 0;
    /// A new broker: the reserve is made after the first append.
    pub(super) const NEW: u8 = 1;
    /// The file exists, left by an earlier opening. The first append looks up its size.
    pub(super) const EXPECTED: u8 = 2;
    pub(super) const READY: u8 = 3;
    pub(super) const GIVEN_UP: u8 = 4;
}

/// The smallest size of the reserve; every size is a multiple of it.
const STEP: u64 = 64 << 10;

/// An error that may mean that there was no room.
pub(crate) trait MayBeFull {
    /// Returns whether the disk is full, nothing has changed, and deleting a file may help.
    fn is_full(&self) -> bool;
}

impl MayBeFull for Error {
    fn is_full(&self) -> bool {
        Error::is_full(self)
    }
}

impl MayBeFull for ReplaceError {
    fn is_full(&self) -> bool {
        ReplaceError::is_full(self)
    }
}

impl Reserve {
    /// Returns the reserve of a broker's directory. Memory that cannot be full has none.
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        Reserve {
            phase: AtomicU8::new(if storage.can_be_full() { phase::NEW } else { phase::NONE }),
            wanted: AtomicU64::new(STEP),
            file: Mutex::new(Rank::Reserve, ReserveFile::default()),
            steps: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            storage,
        }
    }

    /// A broker has used the directory before. If the reserve `is_there`, the first append looks up
    /// its size.
    pub(crate) fn found(&self, is_there: bool) {
        if self.phase.load(Ordering::Acquire) != phase::NONE {
            let phase = if is_there { phase::EXPECTED } else { phase::GIVEN_UP };
            self.phase.store(phase, Ordering::Release);
        }
    }

    /// A step of the opening found no room.
    pub(crate) fn note_full(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> DiskState {
        match (self.phase.load(Ordering::Acquire), self.refused.load(Ordering::Relaxed)) {
            (phase::GIVEN_UP, _) => DiskState::ReserveUsed,
            (_, true) => DiskState::Full,
            _ => DiskState::Ok,
        }
    }

    /// Returns how many bytes writing the reserve will take; 0 if it is complete.
    pub(crate) fn missing(&self) -> u64 {
        match self.phase.load(Ordering::Acquire) {
            phase::NONE | phase::READY => 0,
            _ => self.wanted.load(Ordering::Acquire),
        }
    }

    /// Returns the size that a reserve must have so that files of so many bytes in total can be
    /// replaced.
    pub(crate) fn size_for(bytes: u64) -> u64 {
        // A file takes whole blocks, and its name takes a few.
        bytes.saturating_add(STEP / 2).div_ceil(STEP).max(1).saturating_mul(STEP)
    }

    /// Called before an append: writes the reserve again if it is missing. Any lock may be held.
    ///
    /// # Errors
    /// `DiskFull` if there is no room for the reserve.
    pub(crate) fn check(&self) -> Result<()> {
        match self.phase.load(Ordering::Acquire) {
            phase::EXPECTED | phase::GIVEN_UP => self.write(),
            _ => Ok(()),
        }
    }

    /// Returns whether a derived file, which can also be written later, may be written now. It may
    /// not while the reserve is missing and there is no room for it: the last bytes are for steps
    /// that free space.
    pub(crate) fn may_write_derived(&self) -> bool {
        self.phase.load(Ordering::Acquire) != phase::GIVEN_UP || self.write().is_ok()
    }

    /// Called after an append with its result: makes the reserve of a new broker, and notes whether
    /// there was room.
    pub(crate) fn appended(&self, done: Result<(), &Error>) {
        match done {
            Ok(()) => {
                if self.refused.load(Ordering::Relaxed) {
                    self.refused.store(false, Ordering::Relaxed);
                }
                if self.phase.load(Ordering::Relaxed) == phase::NEW {
                    // The append stays valid. The next one reports that there is no room.
                    let _ = self.write();
                }
            }
            Err(error) if error.is_full() => self.refused.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    /// The part of maintenance: makes the reserve if there should be one, with at least `size`
    /// bytes, and syncs it.
    pub(crate) fn maintain(&self, size: u64) {
        self.wanted.store(size, Ordering::Release);
        if !matches!(self.phase.load(Ordering::Acquire), phase::NONE | phase::NEW) {
            // If there is no room, `state` reports it.
            let _ = self.write();
            self.sync();
        }
    }

    /// Writes the reserve again if it was given up. Called after a step that has freed space.
    pub(crate) fn restore(&self) {
        if self.phase.load(Ordering::Acquire) == phase::GIVEN_UP {
            // If there is no room, `state` reports it.
            let _ = self.write();
        }
    }

    /// Runs a step that frees space. If the step finds no room, gives up the reserve and runs the
    /// step once more.
    ///
    /// # Errors
    /// The errors of the step.
    pub(crate) fn with_room<T, E: MayBeFull>(
        &self,
        mut step: impl FnMut() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        match step() {
            Err(error) if error.is_full() => match self.give_up() {
                Some(_room) => step(),
                None => Err(error),
            },
            done => done,
        }
    }

    /// Unlinks the reserve, if there is one. No thread writes it again before the result is
    /// dropped.
    fn give_up(&self) -> Option<FreedRoom<'_>> {
        let mut made = self.file.lock();
        if matches!(self.phase.load(Ordering::Acquire), phase::NONE | phase::GIVEN_UP) {
            return None;
        }
        match self.storage.remove_file(Path::new(names::RESERVE)) {
            Ok(()) => {
                *made = ReserveFile::default();
                self.phase.store(phase::GIVEN_UP, Ordering::Release);
                // Some file systems free the blocks of a file only after its removal is durable. If
                // this sync fails, the step reports it.
                let _ = self.storage.sync_dir(Path::new(""));
                self.steps.fetch_add(1, Ordering::Relaxed);
                Some(FreedRoom(self))
            }
            Err(e) => {
                if e.kind() == io::ErrorKind::NotFound {
                    *made = ReserveFile::default();
                    self.phase.store(phase::GIVEN_UP, Ordering::Release);
                }
                None
            }
        }
    }

    /// Makes the reserve, or extends it to the size that it must have.
    ///
    /// # Errors
    /// `DiskFull` if there is no reserve and no room for one. Other errors do not concern the
    /// caller, because writing is tried again later.
    fn write(&self) -> Result<()> {
        let mut made = self.file.lock();
        let wanted = self.wanted.load(Ordering::Acquire);
        let was_ready = self.phase.load(Ordering::Acquire) == phase::READY;
        if self.phase.load(Ordering::Acquire) == phase::NONE || (was_ready && made.bytes >= wanted) {
            return Ok(());
        }
        let path = Path::new(names::RESERVE);
        // IMPORTANT: the room that a step has just been given is for that step. Another thread that
        // wrote the reserve again now would make it fail.
        if self.steps.load(Ordering::Relaxed) > 0 {
            return Err(Error::DiskFull { path: self.storage.display(path), cause: Space::NoSpace });
        }
        let written = (|| {
            let (file, there) = match self.storage.open(path, OpenMode::Write) {
                Ok(file) => {
                    let len = file.len()?;
                    (file, len)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    (self.storage.open(path, OpenMode::CreateNew)?, 0)
                }
                Err(e) => return Err(e),
            };
            if there < wanted {
                write_all_at(&*file, &noise(there, wanted), there).map_err(|(_, e)| e)?;
            }
            Ok(there.max(wanted))
        })();
        match written {
            Ok(bytes) => {
                *made = ReserveFile { bytes, is_synced: made.is_synced && made.bytes == bytes };
                self.phase.store(phase::READY, Ordering::Release);
                Ok(())
            }
            // The existing file is better than none. It is extended when there is room.
            Err(_) if was_ready => Ok(()),
            Err(e) => match is_space(&e) {
                Some(cause) => {
                    // Part of it may exist. It would take the last room from steps that free space.
                    let _ = self.storage.remove_file(path);
                    self.phase.store(phase::GIVEN_UP, Ordering::Release);
                    Err(Error::DiskFull { path: self.storage.display(path), cause })
                }
                None => Ok(()),
            },
        }
    }

    /// Makes the reserve's blocks durable: before the sync a file system may only have promised
    /// them.
    fn sync(&self) {
        let mut made = self.file.lock();
        if made.is_synced || self.phase.load(Ordering::Acquire) != phase::READY {
            return;
        }
        let file = self.storage.open(Path::new(names::RESERVE), OpenMode::Write);
        made.is_synced = file.and_then(|file| file.sync_data()).is_ok();
    }
}

/// The room of a reserve that was given up, until its step is done.
struct FreedRoom<'a>(&'a Reserve);

impl Drop for FreedRoom<'_> {
    fn drop(&mut self) {
        self.0.steps.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the random bytes of the reserve from `from` to `to`.
fn noise(from: u64, to: u64) -> Vec<u8> {
    let mut rng = SplitMix64::new(from ^ 0x7175_6970_7521);
    let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Disk;

    /// What a background thread does meanwhile is called here by the step itself.
    #[test]
    fn the_room_of_a_step_is_not_taken_by_the_reserve_again() {
        let disk = Disk::new();
        let reserve = Reserve::new(disk.storage());
        reserve.appended(Ok(()));
        assert!(disk.used() >= STEP);
        let full = || Error::DiskFull { path: "manifest".into(), cause: Space::NoSpace };
        let mut tries = 0;
        let done: Result<()> = reserve.with_room(|| {
            tries += 1;
            if tries == 1 {
                return Err(full());
            }
            assert!(!reserve.may_write_derived() && reserve.check().is_err());
            reserve.restore();
            reserve.maintain(STEP);
            assert_eq!(disk.used(), 0, "the room is the step's");
            Ok(())
        });
        done.unwrap();
        reserve.restore();
        assert!(disk.used() >= STEP && reserve.check().is_ok());
    }
}
