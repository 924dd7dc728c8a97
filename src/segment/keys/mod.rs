//! The keys of a segment: which batches hold records of a key. The active segment has them in
//! memory, every other segment in a side file.
//!
//! Used only by topics with streams. Appends fill the table in memory, under the writer's lock. The
//! worker writes the table of a sealed segment to its side file and drops it, so memory grows with
//! the active segment and not with the number of keys. A missing or damaged side file is rebuilt
//! from the segment.

mod file;
mod lookup;
mod table;

use self::file::{KeyFile, Unusable};
use self::table::KeyTable;
pub(crate) use self::table::{KeyCount, RecordCounts, count_keys};
use super::point::FIRST_BATCH;
use crate::engine::files::Holds;
use crate::engine::{Context, Identity};
use crate::format::key_hash::KeyHash;
use crate::sync::{Arc, Mutex, MutexGuard, Rank};
use crate::types::Offset;

/// The keys of a segment, as far as they are known.
pub(super) struct Keys {
    known: Mutex<KnownKeys>,
    /// Held by the thread that reads or writes the side file.
    completing: Mutex<()>,
}

/// The known keys of a segment.
///
/// Keys are read, built and written without this value's lock, and stored here under it. IMPORTANT:
/// store them only if `truncations` has not changed meanwhile. A truncation sets the segment's new
/// end and drops the keys in one critical section, so the keys found in the longer segment are
/// thrown away. A side file of the longer segment, if it stays, covers another number of bytes and
/// is not used.
#[derive(Default)]
struct KnownKeys {
    /// The keys of the batches at or after `missing_below`. Shared with the thread that writes a
    /// sealed segment's table to the side file: no thread adds to that table.
    table: Arc<KeyTable>,
    /// The keys below this byte position are missing. They are read or rebuilt by the first lookup.
    missing_below: u64,
    /// The side file of a sealed segment, instead of a table. It has all keys.
    file: Option<Arc<KeyFile>>,
    /// The side file was found damaged or could not be read, and may still exist: it is not read
    /// again.
    distrusted: bool,
    /// The number of times that the segment got another end than by appends.
    truncations: u64,
}

/// The log of a segment, as far as a lookup of keys needs it.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) identity: &'a Identity,
    /// The log's visible end, or an earlier one. A side file is written only if the whole segment
    /// is visible.
    pub(crate) visible_end: Offset,
}

/// The whole table of a segment, and the segment at that moment.
struct WholeTable {
    table: Arc<KeyTable>,
    truncations: u64,
    size: u64,
}

/// The keys that are to be looked up.
#[derive(Clone, Copy)]
struct Missing {
    below: u64,
    distrusted: bool,
    truncations: u64,
}

impl KnownKeys {
    fn missing_below(position: u64) -> Self {
        KnownKeys { missing_below: position, ..KnownKeys::default() }
    }

    /// Closes the file. The next lookup opens it again.
    fn release(&mut self, size: u64) {
        if self.file.take().is_some() {
            (self.table, self.missing_below) = (Arc::default(), size);
        }
    }

    /// Drops all keys, because the segment ends at `size` now.
    fn forget(&mut self, size: u64) {
        *self = KnownKeys { truncations: self.truncations + 1, ..KnownKeys::missing_below(size) };
    }

    /// Returns the table, if it has all keys.
    fn whole_table(&self) -> Option<&Arc<KeyTable>> {
        (self.file.is_none() && self.missing_below <= FIRST_BATCH).then_some(&self.table)
    }
}

/// The size of the segment is passed as a function where it must be read under the lock of the
/// keys: a truncation changes both in one critical section.
impl Keys {
    pub(super) fn missing_below(position: u64) -> Self {
        Keys {
            known: Mutex::new(Rank::Keys, KnownKeys::missing_below(position)),
            completing: Mutex::new(Rank::CompletingKeys, ()),
        }
    }

    /// Notes the keys of a batch that was just written.
    pub(super) fn note(&self, position: u32, offset_delta: u32, counts: &[KeyCount]) {
        Arc::make_mut(&mut self.known.lock().table).note(position, offset_delta, counts);
    }

    /// Notes how many records of a key the segments before this one have.
    pub(super) fn note_before(&self, hash: KeyHash, before: u64) {
        Arc::make_mut(&mut self.known.lock().table).note_before(hash, before);
    }

    /// Returns the number of records of a key, or `None` if keys must be read first.
    pub(super) fn counts_of(&self, hash: KeyHash) -> Option<RecordCounts> {
        Some(self.known.lock().whole_table()?.known(hash))
    }

    /// Returns whether keys are in memory, and all of them are.
    pub(super) fn has_whole_table(&self) -> bool {
        self.known.lock().whole_table().is_some_and(|table| !table.is_empty())
    }

    /// Whether the side file is open, or mapped.
    pub(super) fn holds(&self) -> Holds {
        self.known.lock().file.as_ref().map(|file| file.holds()).unwrap_or_default()
    }

    /// Closes the side file. The next lookup opens it again.
    pub(super) fn release(&self, size: impl FnOnce() -> u64) {
        let mut known = self.known.lock();
        let size = size();
        known.release(size);
    }

    /// Drops all keys. Those of the bytes below `size` are looked up by the next lookup.
    pub(super) fn forget(&self, size: u64) {
        self.known.lock().forget(size);
    }

    /// Sets another end of the segment with `set_end`, and drops all keys, in one critical section.
    pub(super) fn truncate(&self, size: u64, set_end: impl FnOnce()) {
        let mut known = self.known.lock();
        set_end();
        known.forget(size);
    }

    /// Takes the right to read or write the side file.
    fn complete_alone(&self) -> MutexGuard<'_, ()> {
        self.completing.lock()
    }

    /// Returns the result of `table` for the table, or of `file` for the side file if there is one.
    /// Returns `None` if keys are missing, or if the side file turns out to be unusable.
    fn find<T>(
        &self,
        table: impl Fn(&KeyTable) -> T,
        file: impl Fn(&KeyFile) -> std::result::Result<T, Unusable>,
        size: impl Fn() -> u64,
    ) -> Option<T> {
        let opened = {
            let known = self.known.lock();
            if let Some(whole) = known.whole_table() {
                return Some(table(whole));
            }
            known.file.clone()?
        };
        match file(&opened) {
            Ok(found) => Some(found),
            // The file is derived: a damaged or unreadable one is rebuilt from the segment, and
            // written again if possible.
            Err(Unusable) => {
                let mut known = self.known.lock();
                known.release(size());
                known.distrusted = true;
                None
            }
        }
    }

    /// Returns `None` if there is a file or the whole table.
    fn missing(&self) -> Option<Missing> {
        let known = self.known.lock();
        let KnownKeys { missing_below: below, distrusted, truncations, .. } = *known;
        let is_missing = known.file.is_none() && below > FIRST_BATCH;
        is_missing.then_some(Missing { below, distrusted, truncations })
    }

    /// Returns whether the segment was truncated since keys were found missing.
    fn is_truncated_since(&self, missing: &Missing) -> bool {
        self.known.lock().truncations != missing.truncations
    }

    /// Adds the missing keys, unless the segment was truncated meanwhile.
    fn prepend(&self, missing: Missing, older: KeyTable) {
        let mut known = self.known.lock();
        if known.truncations == missing.truncations && known.missing_below == missing.below {
            Arc::make_mut(&mut known.table).prepend(older);
            known.missing_below = FIRST_BATCH;
        }
    }

    /// Replaces the table by a side file that covers the bytes below `covers`. Returns false if
    /// the segment has another size, or was truncated since it had `truncations`.
    fn adopt(&self, file: Arc<KeyFile>, truncations: u64, covers: u64, size: impl FnOnce() -> u64) -> bool {
        let mut known = self.known.lock();
        if known.truncations != truncations || size() != covers {
            return false;
        }
        *known = KnownKeys { file: Some(file), truncations, ..KnownKeys::missing_below(covers) };
        true
    }

    /// Returns the table, if it has all keys.
    fn whole_table(&self, size: impl FnOnce() -> u64) -> Option<WholeTable> {
        let known = self.known.lock();
        let table = known.whole_table()?.clone();
        Some(WholeTable { table, truncations: known.truncations, size: size() })
    }
}
