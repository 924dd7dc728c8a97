//! An open file or a map that counts against the budget of a broker until its last user has dropped
//! it.

use std::io;
use std::ops::Deref;

use crate::storage::{File, Map};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering};

/// The files and maps that are open now, whichever thread uses them.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) files: AtomicUsize,
    pub(super) maps: AtomicUsize,
    pub(super) mapped: AtomicU64,
}

/// A file or a map that counts against the budget until it is dropped.
pub(crate) struct Opened<T> {
    value: T,
    /// The bytes of a map; `None` for a file.
    mapped: Option<u64>,
    counts: Arc<Counts>,
}

/// An open file that counts.
pub(crate) type OpenedFile = Opened<Arc<dyn File>>;
/// A map that counts.
pub(crate) type OpenedMap = Opened<Map>;

impl<T> Opened<T> {
    pub(super) fn new(value: T, mapped: Option<u64>, counts: &Arc<Counts>) -> Self {
        match mapped {
            Some(bytes) => {
                counts.maps.fetch_add(1, Ordering::Relaxed);
                counts.mapped.fetch_add(bytes, Ordering::Relaxed);
            }
            None => drop(counts.files.fetch_add(1, Ordering::Relaxed)),
        }
        Opened { value, mapped, counts: counts.clone() }
    }
}

impl<T> Deref for Opened<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Opened<T> {
    fn drop(&mut self) {
        match self.mapped {
            Some(bytes) => {
                self.counts.maps.fetch_sub(1, Ordering::Relaxed);
                self.counts.mapped.fetch_sub(bytes, Ordering::Relaxed);
            }
            None => drop(self.counts.files.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}

impl File for OpenedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.value.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.value.write_at(bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.value.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.value.len()
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.value.map(len)
    }

    fn grows_while_mapped(&self) -> bool {
        self.value.grows_while_mapped()
    }

    fn lose_unsynced(&self) {
        self.value.lose_unsynced();
    }
}

impl Counts {
    pub(super) fn open(&self) -> usize {
        self.files.load(Ordering::Relaxed) + self.maps.load(Ordering::Relaxed)
    }

    /// Returns whether another map of so many bytes is within these limits.
    pub(super) fn has_room(&self, maps: usize, mapped: u64, bytes: u64) -> bool {
        self.maps.load(Ordering::Relaxed) < maps
            && self.mapped.load(Ordering::Relaxed).saturating_add(bytes) <= mapped
    }
}
