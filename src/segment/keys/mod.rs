//! The keys of a segment: which batches hold records of a key. The active segment has them in
//! memory, every other segment in a side file.
//!
//! Used only by topics with streams. Appends fill the table in memory, under the writer's lock. The
//! worker writes the table of a sealed segment to its side file and drops it, so memory grows with
//! the active segment and not with the number of keys. A missing or damaged side file is rebuilt
//! from the segment.

mod file;
mod table;

use std::ops::Range;
use std::path::PathBuf;

use self::file::{KeyFile, Unusable};
use self::table::KeyTable;
pub(crate) use self::table::{KeyCount, count_keys};
use super::{FIRST_BATCH, Segment, Walker, read_records_of};
use crate::engine::{Context, Identity, Opened};
use crate::error::Result;
use crate::format::key_hash::{KeyHash, KeyHasher};
use crate::format::key_index::{IndexedSegment, KeyEntry, KeyIndex, KeyPlace};
use crate::format::names;
use crate::storage::{OpenMode, write_all_at};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

/// The known keys of a segment.
///
/// Keys are read, built and written without this value's lock, and stored here under it. IMPORTANT:
/// store them only if `truncations` has not changed meanwhile. A truncation sets the segment's new
/// end and drops the keys in one critical section, so the keys found in the longer segment are
/// thrown away. A side file of the longer segment, if it stays, covers another number of bytes and
/// is not used.
#[derive(Default)]
pub(crate) struct Keys {
    /// The keys of the batches at or after `missing_below`. Shared with the thread that writes a
    /// sealed segment's table to the side file: no thread adds to that table.
    table: Arc<KeyTable>,
    /// The keys below this byte position are missing. They are read or rebuilt by the first lookup.
    missing_below: u64,
    /// The side file of a sealed segment, instead of a table. It has all keys.
    file: Option<Opened<Arc<KeyFile>>>,
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

/// The keys that are to be looked up.
#[derive(Clone, Copy)]
struct Missing {
    below: u64,
    distrusted: bool,
    truncations: u64,
}

impl Keys {
    pub(crate) fn missing_below(position: u64) -> Self {
        Keys { missing_below: position, ..Keys::default() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the file. The next lookup opens it again.
    pub(crate) fn release(&mut self, size: u64) {
        if self.file.take().is_some() {
            (self.table, self.missing_below) = (Arc::default(), size);
        }
    }

    /// Drops all keys, because the segment ends at `size` now.
    pub(crate) fn forget(&mut self, size: u64) {
        *self = Keys { truncations: self.truncations + 1, ..Keys::missing_below(size) };
    }

    /// Returns the table, if it has all keys.
    fn whole_table(&self) -> Option<&Arc<KeyTable>> {
        (self.file.is_none() && self.missing_below <= FIRST_BATCH).then_some(&self.table)
    }

    /// Returns `None` if there is a file or the whole table.
    fn missing(&self) -> Option<Missing> {
        let Keys { missing_below: below, distrusted, truncations, .. } = *self;
        (self.file.is_none() && below > FIRST_BATCH).then_some(Missing { below, distrusted, truncations })
    }
}

/// The number of records of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordCounts {
    /// The number in a segment.
    pub(crate) records: u64,
    /// The number in the segments before it, if that is known.
    pub(crate) before: Option<u64>,
}

impl Segment {
    /// Notes the keys of a batch that was just written at `position`.
    pub(crate) fn note_keys(&self, position: u64, base: Offset, counts: &[KeyCount]) {
        let (Ok(position), Ok(delta)) = (u32::try_from(position), u32::try_from(base.since(self.base)))
        else {
            // No segment has that size.
            return;
        };
        Arc::make_mut(&mut self.keys.lock().table).note(position, delta, counts);
    }

    /// Notes how many records of a key the segments before this one have.
    pub(crate) fn note_before(&self, hash: KeyHash, before: u64) {
        Arc::make_mut(&mut self.keys.lock().table).note_before(hash, before);
    }

    /// Returns the number of records of a key in this segment, which is active. Returns `None` if
    /// keys must be read first.
    pub(crate) fn known_key(&self, hash: KeyHash) -> Option<RecordCounts> {
        let keys = self.keys.lock();
        Some(keys.whole_table()?.known(hash))
    }

    /// Returns whether a batch at or after `since` holds records of a key. For a sealed segment
    /// true may be wrong.
    ///
    /// # Errors
    /// As [`count_key`](Segment::count_key).
    pub(crate) fn may_have_since(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        hash: KeyHash,
        since: Offset,
        visible: Offset,
    ) -> Result<bool> {
        let delta = |offset: Offset| offset.since(self.base);
        let in_table = |table: &KeyTable| table.count(hash, delta(visible)) > table.count(hash, delta(since));
        self.look_up_keys(owner, in_table, |file| Ok(file.find(hash)?.is_some()))
    }

    /// Returns how many records of a key are in batches of this segment that begin below `visible`,
    /// and how many are before the segment.
    ///
    /// # Errors
    /// An I/O error; `Corrupt` if keys must be looked up in a damaged segment.
    pub(crate) fn count_key(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        hash: KeyHash,
        visible: Offset,
    ) -> Result<RecordCounts> {
        let in_table = |table: &KeyTable| RecordCounts {
            records: table.count(hash, visible.since(self.base)),
            ..table.known(hash)
        };
        self.look_up_keys(owner, in_table, |file| {
            let known =
                |entry: KeyEntry| RecordCounts { records: u64::from(entry.records), before: entry.before() };
            Ok(file.find(hash)?.map_or(RecordCounts::default(), known))
        })
    }

    /// Returns the batches with those records of a key that `range` counts from the key's first
    /// record in this segment, in order. A count from an earlier call stays valid, even if records
    /// were appended and the table was replaced by a file since.
    ///
    /// # Errors
    /// As [`count_key`](Segment::count_key).
    pub(crate) fn places_of_key(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        hash: KeyHash,
        range: &Range<u64>,
    ) -> Result<Vec<KeyPlace>> {
        let in_file = |file: &KeyFile| {
            let Some(entry) = file.find(hash)? else { return Ok(Vec::new()) };
            let (mut places, mut begin) = (file.places(&entry)?, 0);
            places.retain(|place| {
                let end = begin + u64::from(place.records);
                let is_in = begin < range.end && end > range.start;
                begin = end;
                is_in
            });
            Ok(places)
        };
        self.look_up_keys(owner, |table| table.places(hash, range), in_file)
    }

    /// Runs `table` on the table, or `file` on the side file if there is one.
    fn look_up_keys<T>(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        table: impl Fn(&KeyTable) -> T,
        file: impl Fn(&KeyFile) -> std::result::Result<T, Unusable>,
    ) -> Result<T> {
        let ctx = owner.ctx;
        self.last_used.store(ctx.files.tick(), Ordering::Relaxed);
        loop {
            let opened = {
                let keys = self.keys.lock();
                if let Some(whole) = keys.whole_table() {
                    return Ok(table(whole));
                }
                keys.file.as_ref().map(|file| file.value.clone())
            };
            match opened.as_deref().map(&file) {
                Some(Ok(answer)) => return Ok(answer),
                // The file is derived: a damaged or unreadable one is rebuilt from the segment, and
                // written again if possible.
                Some(Err(Unusable)) => {
                    let mut keys = self.keys.lock();
                    keys.release(self.size());
                    keys.distrusted = true;
                }
                None => self.complete_keys(ctx, owner.identity, owner.visible_end)?,
            }
        }
    }

    /// Reads or rebuilds the missing keys.
    ///
    /// # Errors
    /// An I/O error; `Corrupt` if the segment is damaged and there is no usable side file.
    pub(crate) fn complete_keys(
        self: &Arc<Self>,
        ctx: &Context,
        identity: &Identity,
        visible: Offset,
    ) -> Result<()> {
        // One thread at a time, because there is one side file.
        let _completing = self.completing.lock();
        loop {
            let Some(missing) = self.keys.lock().missing() else { return Ok(()) };
            let file = match missing.distrusted {
                true => None,
                false => KeyFile::open(self, ctx, identity, missing.below),
            };
            if let Some(file) = file {
                if self.is_sealed() && missing.below == self.size() {
                    if self.adopt_keys(ctx, file, missing.truncations, missing.below) {
                        return Ok(());
                    }
                    continue;
                }
                if let Ok(table) = file.read_all() {
                    self.prepend_keys(missing, table);
                    continue;
                }
            }
            match self.build_keys(ctx, identity, missing.below) {
                Ok(table) => self.prepend_keys(missing, table),
                // The segment was truncated meanwhile: the keys that it has now are looked up
                // again.
                Err(_) if self.keys.lock().truncations != missing.truncations => continue,
                Err(error) => return Err(error),
            }
            // IMPORTANT: write a side file only if the whole segment is visible. The file does not
            // contain which records are visible.
            if self.end().is_some_and(|end| end <= visible) {
                self.write_keys(ctx, identity);
            }
        }
    }

    fn prepend_keys(&self, missing: Missing, older: KeyTable) {
        let mut keys = self.keys.lock();
        if keys.truncations == missing.truncations && keys.missing_below == missing.below {
            Arc::make_mut(&mut keys.table).prepend(older);
            keys.missing_below = FIRST_BATCH;
        }
    }

    /// Replaces the table of the sealed segment by a side file that covers it. Returns false if the
    /// segment was truncated since it had `truncations`.
    fn adopt_keys(self: &Arc<Self>, ctx: &Context, file: KeyFile, truncations: u64, covers: u64) -> bool {
        let file = ctx.files.count(Arc::new(file));
        {
            let mut keys = self.keys.lock();
            if keys.truncations != truncations || self.size() != covers {
                return false;
            }
            *keys = Keys { file: Some(file), truncations, ..Keys::missing_below(covers) };
        }
        ctx.files.make_room(self.clone());
        true
    }

    /// Walks the batches below `end`.
    fn build_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity, end: u64) -> Result<KeyTable> {
        let hasher = KeyHasher::new(&identity.secret);
        let mut walk = Walker::over(ctx, identity, self)?.until(end);
        let mut table = KeyTable::default();
        while let Some(met) = walk.step()? {
            let records = read_records_of(ctx, self, &mut walk.source, &met)?;
            let counts = count_keys(&hasher, records.as_slice(), met.header.count);
            let delta = u32::try_from(met.header.base_offset.since(self.base)).unwrap_or(0);
            table.note(u32::try_from(met.position).unwrap_or(u32::MAX), delta, &counts);
        }
        Ok(table)
    }

    /// Ensures that this segment, which must be sealed and visible to its end, has a side file, and
    /// drops the table. The file is derived, so it is not synced, and a failure is not reported.
    pub(crate) fn save_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity) {
        if self.complete_keys(ctx, identity, Offset::MAX).is_ok() {
            let _completing = self.completing.lock();
            self.write_keys(ctx, identity);
        }
    }

    /// As [`save_keys`](Segment::save_keys), for the active segment at a clean close. The next
    /// opening reads the file.
    pub(crate) fn save_active_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity, covers: u64) {
        if self.complete_keys(ctx, identity, Offset::ZERO).is_ok() {
            let _completing = self.completing.lock();
            let table = self.keys.lock().whole_table().cloned();
            if let Some(table) = table {
                self.put_keys_file(ctx, identity, &table, covers);
            }
        }
    }

    /// Returns whether it is sealed and its keys are still in memory.
    pub(crate) fn holds_keys(&self) -> bool {
        self.is_sealed() && self.keys.lock().whole_table().is_some_and(|table| !table.is_empty())
    }

    /// Writes the whole table of a sealed segment to the side file, and replaces the table by the
    /// file. The caller must hold `completing`.
    fn write_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity) {
        let (table, truncations, covers) = {
            let keys = self.keys.lock();
            let Some(table) = keys.whole_table() else { return };
            (table.clone(), keys.truncations, self.size())
        };
        if self.put_keys_file(ctx, identity, &table, covers)
            && let Some(file) = KeyFile::open(self, ctx, identity, covers)
        {
            self.adopt_keys(ctx, file, truncations, covers);
        }
    }

    fn put_keys_file(&self, ctx: &Context, identity: &Identity, table: &KeyTable, covers: u64) -> bool {
        if !ctx.reserve.may_write_derived() {
            return false;
        }
        let of = self.indexed(identity, covers);
        let Some(bytes) = KeyIndex::encode(&of, &table.sorted()) else { return false };
        let path = self.keys_path();
        // The old file is unlinked and not truncated, because a reader may have it open or mapped.
        let written = ctx
            .storage
            .open(&path, OpenMode::Truncate)
            .and_then(|file| write_all_at(&*file, &bytes, 0).map_err(|(_, e)| e));
        let kept = written.is_ok() && !self.retired.load(Ordering::Acquire);
        if !kept {
            let _ = ctx.storage.remove_file(&path);
        }
        kept
    }

    /// Drops all keys. Those of the bytes below `size` are looked up by the next lookup.
    pub(crate) fn forget_keys(&self, size: u64) {
        self.keys.lock().forget(size);
    }

    fn indexed(&self, identity: &Identity, covers_bytes: u64) -> IndexedSegment {
        IndexedSegment {
            topic_id: identity.topic_id,
            partition: identity.partition,
            base_offset: self.base,
            generation: self.generation,
            log_epoch: self.epoch,
            covers_bytes,
        }
    }

    /// Checks every piece of the side file of the keys, if there is one. Returns the damage.
    pub(crate) fn keys_damage(
        &self,
        ctx: &Context,
        identity: &Identity,
        covers: u64,
    ) -> Option<&'static str> {
        let there = ctx.storage.open(&self.keys_path(), crate::storage::OpenMode::Read);
        if there.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return None;
        }
        match KeyFile::open(self, ctx, identity, covers) {
            None => Some("the key index is damaged, or of another segment"),
            Some(file) => file.check().err().map(|_| "a piece of the key index is damaged"),
        }
    }

    /// Returns the path of the side file of the keys.
    pub(crate) fn keys_path(&self) -> PathBuf {
        self.path.with_file_name(names::key_index_file(self.base, self.generation))
    }
}
