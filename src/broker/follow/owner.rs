//! Whether the directory has an owner, and what that publishes.

use std::path::Path;

use crate::engine::publish::{owner_of, read_header};
use crate::error::Owner;
use crate::format::checkpoint::Checkpoint;
use crate::format::names;
use crate::format::owner::{OWNER_HEADER_BYTES, OwnerHeader, OwnerState, SLOT_BYTES, Slot};
use crate::storage::{File, OpenMode, Storage, read_file, read_up_to};
use crate::sync::Arc;

/// Whether the directory has an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owned {
    /// By a broker that publishes its ends.
    Open(OwnerHeader),
    /// By a broker that does not publish them yet, or not at all.
    Hidden(Option<OwnerHeader>),
    /// By none; or by one that has changed nothing since a clean close.
    Free(Option<OwnerHeader>),
}

/// Finds out whether a directory has an owner.
///
/// The owner of a directory that was closed properly writes the file `owner` before it takes the
/// mark of the close back. So the file is read first: where the mark is there after that, nothing
/// was changed when the file was read. Elsewhere the lock decides.
pub(super) fn find_owner(medium: &dyn Storage) -> Owned {
    let header = open(medium).and_then(|file| read_header(&*file));
    let is_closed = header.as_ref().is_none_or(|header| header.state == OwnerState::Closed);
    if is_closed && is_clean(medium) {
        return Owned::Free(header);
    }
    if !medium.is_locked(Path::new(names::LOCK)).unwrap_or(false) {
        return Owned::Free(header);
    }
    match header {
        Some(header) if header.state == OwnerState::Open => Owned::Open(header),
        header => Owned::Hidden(header),
    }
}

/// Returns who has the directory open, if that is known.
pub(super) fn owner(medium: &dyn Storage) -> Option<Owner> {
    match find_owner(medium) {
        Owned::Open(header) | Owned::Hidden(Some(header)) => owner_of(&header),
        Owned::Hidden(None) | Owned::Free(_) => None,
    }
}

/// Whether the broker was closed properly, and nothing was changed since.
fn is_clean(medium: &dyn Storage) -> bool {
    const LIMIT: u64 = 256 << 20;
    let bytes = read_file(medium, Path::new(names::CHECKPOINT), LIMIT);
    bytes.is_ok_and(|bytes| Checkpoint::decode(&bytes).is_ok_and(|checkpoint| checkpoint.clean))
}

fn open(medium: &dyn Storage) -> Option<Arc<dyn File>> {
    medium.open(Path::new(names::OWNER), OpenMode::Read).ok()
}

/// The file of an owner, and what was read of it.
pub(super) struct OwnerFile {
    file: Arc<dyn File>,
    header: OwnerHeader,
    /// The slots as they were read last.
    slots: Vec<u8>,
}

impl OwnerFile {
    /// Opens the file. Returns `None` if there is no valid one.
    pub(super) fn open(medium: &dyn Storage) -> Option<Self> {
        let file = open(medium)?;
        let header = read_header(&*file)?;
        Some(OwnerFile { file, header, slots: Vec::new() })
    }

    /// The header that was read last.
    pub(super) fn header(&self) -> &OwnerHeader {
        &self.header
    }

    /// Reads the header again. Returns whether it has changed. A file that cannot be read has not.
    pub(super) fn look(&mut self) -> bool {
        match read_header(&*self.file) {
            Some(header) if header != self.header => {
                if header.run != self.header.run {
                    self.slots.clear();
                }
                self.header = header;
                true
            }
            _ => false,
        }
    }

    /// Reads the slots, and returns those that have changed since the last call. One that is being
    /// written is returned by a later call.
    pub(super) fn changed(&mut self) -> Vec<Slot> {
        let len = self.file.len().unwrap_or(0).saturating_sub(OWNER_HEADER_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = read_up_to(&*self.file, &mut bytes, OWNER_HEADER_BYTES as u64).unwrap_or(0);
        bytes.truncate(read - read % SLOT_BYTES);
        self.slots.resize(bytes.len(), 0);
        let mut changed = Vec::new();
        let slots = bytes.chunks_exact(SLOT_BYTES).zip(self.slots.chunks_exact_mut(SLOT_BYTES));
        for (number, (new, old)) in (0..).zip(slots) {
            if new == old {
                continue;
            }
            if let Some(slot) = Slot::decode(new, self.header.run, number) {
                old.copy_from_slice(new);
                changed.push(slot);
            }
        }
        changed
    }
}
