//! Memory maps of files. The only `unsafe` in the crate.
//!
//! Useful for: the bytes of a file that never change again, as one slice that keeps them alive. Not
//! useful for: writing. There is no writable map, because a store through one escapes every check
//! and every error.

// Mapping a file is unsafe because the compiler does not see other writers of the file. One call;
// the argument is below.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::{fmt, io};

use memmap2::{Mmap, MmapAsRawDesc, MmapOptions};

use crate::sync::Arc;

/// The first bytes of a file, for reading: mapped from a disk, or shared with a file in memory.
/// They stay readable after the file was unlinked and all its handles were closed.
pub(crate) struct Map {
    source: MapBytes,
}

enum MapBytes {
    Disk(Mmap),
    Memory { bytes: Arc<Vec<u8>>, len: usize },
}

impl Map {
    /// Maps the first `len` bytes of an open file that has `file_len` bytes; `InvalidInput` if
    /// those are fewer.
    pub(super) fn of_file(file: impl MmapAsRawDesc, file_len: u64, len: u64) -> io::Result<Map> {
        let len = checked_len(file_len, len)?;
        if len == 0 {
            // An empty mapping is an error to some systems and needs no file.
            return Map::of_memory(Arc::default(), 0);
        }
        // SAFETY: two things can make a mapped slice unsound: the bytes vanish, or they change
        // while a `&[u8]` is out.
        //
        // Vanish: an access after the file's end is SIGBUS, which kills the process; it is no
        // undefined behaviour. The caller passes the length that the open file has now, so the map
        // starts inside it. No code of this process shrinks a file: `File` has no method for it,
        // and `OpenMode::Truncate` creates a new file in the place of the old one. Other brokers
        // are kept out by the directory's lock. A foreign process that truncates our files, or a
        // medium that fails to deliver a page, is SIGBUS; `ReadMode::Positional` avoids it.
        //
        // Change: this process never writes other bytes below a mapped length (`File::map`'s
        // contract, checked by both storages at every write). If a foreign process does, the
        // compiler may at worst see a byte twice with two values. Nothing is built on a byte's
        // value that such a change could break: the map is only ever seen as `u8`, which has no
        // invalid bit pattern, no reference to any other type is made from it, and a parser checks
        // every length against the slice, in safe code, whether or not it compares a checksum.
        // Code that is not safe, as that of a decoder, must get a copy of the bytes. The content of
        // the disk is not part of this argument.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Map { source: MapBytes::Disk(map) })
    }

    /// Returns the first `len` bytes of a buffer; `InvalidInput` if it is shorter.
    pub(super) fn of_memory(bytes: Arc<Vec<u8>>, len: u64) -> io::Result<Map> {
        let len = checked_len(bytes.len() as u64, len)?;
        Ok(Map { source: MapBytes::Memory { bytes, len } })
    }

    /// The mapped bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.source {
            MapBytes::Disk(map) => map,
            MapBytes::Memory { bytes, len } => bytes.get(..*len).unwrap_or_default(),
        }
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }
}

fn checked_len(file_len: u64, len: u64) -> io::Result<usize> {
    if len > file_len {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot map {len} bytes of a file of {file_len}"),
        ));
    }
    usize::try_from(len)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "more than the address space holds"))
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let medium = match self.source {
            MapBytes::Disk(_) => "disk",
            MapBytes::Memory { .. } => "memory",
        };
        f.debug_struct("Map").field("medium", &medium).field("len", &self.len()).finish()
    }
}
