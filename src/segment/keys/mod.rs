//! Which batches of a segment hold records of a key? Known in memory of the segment that is appended to, read from a side
//! file of all others.
//!
//! Only logs whose topic keeps streams ask. The table in memory is filled as batches are written, under the writer's lock;
//! a sealed segment's is written to its side file by the worker and dropped, so memory grows with the active segment and
//! not with all keys. What is missing, or does not pass its checksum, is built again from the segment.

mod file;
mod table;

use std::ops::Range;
use std::path::PathBuf;

use self::file::{Doubt, KeyFile};
use self::table::KeyTable;
pub(crate) use self::table::{KeyCount, count_keys};
use super::{FIRST_BATCH, Segment, Walker, read_records_of};
use crate::engine::{Context, Counted, Identity};
use crate::error::Result;
use crate::format::key_hash::{KeyHash, KeyHasher};
use crate::format::key_index::{Entry, IndexedSegment, KeyIndex, Place};
use crate::format::names;
use crate::storage::{OpenMode, write_all_at};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

/// What a segment knows of its keys.
///
/// Keys are read, built and written without this value's lock, and put here under it: IMPORTANT: only if `ends` is what it
/// was when that began. A cut gives the segment its new end and forgets the keys in one critical section, so whatever was
/// found of the longer segment is thrown away; a file of it, should it stay, says that it covers another number of bytes.
#[derive(Default)]
pub(crate) struct Keys {
    /// Those of the batches at or behind `missing_below`. Shared with whoever writes it to the side file, which is done with a
    /// sealed segment's: nobody adds to that.
    table: Arc<KeyTable>,
    /// Up to this byte position the keys are missing: they are read or built again when somebody asks.
    missing_below: u64,
    /// Of a sealed segment, instead of a table: all of them.
    file: Option<Counted<Arc<KeyFile>>>,
    /// The side file was found damaged, or could not be read, and may still be there: it is not asked again.
    distrusted: bool,
    /// How often the segment got another end than by appends.
    ends: u64,
}

/// The log of a segment, as far as a lookup of keys needs it.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) identity: &'a Identity,
    /// The log's visible end, or an earlier one: a side file is written only of a segment that is visible to its end.
    pub(crate) visible_end: Offset,
}

/// What is to be looked up.
#[derive(Clone, Copy)]
struct Missing {
    below: u64,
    distrusted: bool,
    ends: u64,
}

impl Keys {
    pub(crate) fn missing_below(position: u64) -> Self {
        Keys { missing_below: position, ..Keys::default() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the file; it is opened again when somebody asks.
    pub(crate) fn release(&mut self, size: u64) {
        if self.file.take().is_some() {
            (self.table, self.missing_below) = (Arc::default(), size);
        }
    }

    /// Forgets everything: the segment ends at `size` now.
    pub(crate) fn forget(&mut self, size: u64) {
        *self = Keys { ends: self.ends + 1, ..Keys::missing_below(size) };
    }

    /// The whole table, if it is here.
    fn whole_table(&self) -> Option<&Arc<KeyTable>> {
        (self.file.is_none() && self.missing_below <= FIRST_BATCH).then_some(&self.table)
    }

    /// `None` if there is a file, or the whole table.
    fn missing(&self) -> Option<Missing> {
        let Keys { missing_below: below, distrusted, ends, .. } = *self;
        (self.file.is_none() && below > FIRST_BATCH).then_some(Missing { below, distrusted, ends })
    }
}

/// How many records of a key there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// In a segment.
    pub(crate) records: u64,
    /// In the segments before it, if that is known.
    pub(crate) before: Option<u64>,
}

impl Segment {
    /// Notes the keys of a batch that was just written at `position`.
    pub(crate) fn note_keys(&self, position: u64, base: Offset, counts: &[KeyCount]) {
        let (Ok(position), Ok(delta)) = (u32::try_from(position), u32::try_from(base.since(self.base)))
        else {
            // No segment is that large.
            return;
        };
        Arc::make_mut(&mut self.keys.lock().table).note(position, delta, counts);
    }

    /// Notes how many records of a key the segments before this one have.
    pub(crate) fn note_before(&self, hash: KeyHash, before: u64) {
        Arc::make_mut(&mut self.keys.lock().table).note_before(hash, before);
    }

    /// What this segment, which is active, has of a key; `None` if that would have to be read first.
    pub(crate) fn known_key(&self, hash: KeyHash) -> Option<Known> {
        let keys = self.keys.lock();
        Some(keys.whole_table()?.known(hash))
    }

    /// Whether a batch that begins at or behind `since` holds records of a key: may be wrong in saying so once the segment is
    /// sealed.
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
        self.ask_keys(owner, in_table, |file| Ok(file.find(hash)?.is_some()))
    }

    /// How many records of a key are in batches of this segment that begin below `visible`, and how many before it.
    ///
    /// # Errors
    /// What the medium says; corrupt, if the keys have to be looked up in a damaged segment.
    pub(crate) fn count_key(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        hash: KeyHash,
        visible: Offset,
    ) -> Result<Known> {
        let in_table = |table: &KeyTable| Known {
            records: table.count(hash, visible.since(self.base)),
            ..table.known(hash)
        };
        self.ask_keys(owner, in_table, |file| {
            let known = |entry: Entry| Known { records: u64::from(entry.records), before: entry.before() };
            Ok(file.find(hash)?.map_or(Known::default(), known))
        })
    }

    /// The batches of this segment that hold those records of a key that `range` counts from its first one here, in order.
    /// What was counted before stays so: more may have been appended since, and the table be a file by now.
    ///
    /// # Errors
    /// As [`count_key`](Segment::count_key).
    pub(crate) fn places_of_key(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        hash: KeyHash,
        range: &Range<u64>,
    ) -> Result<Vec<Place>> {
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
        self.ask_keys(owner, |table| table.places(hash, range), in_file)
    }

    /// Asks the table, or the file once it is there.
    fn ask_keys<T>(
        self: &Arc<Self>,
        owner: &Owner<'_>,
        table: impl Fn(&KeyTable) -> T,
        file: impl Fn(&KeyFile) -> std::result::Result<T, Doubt>,
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
                // It is derived: what is damaged or cannot be read is built again, and made anew where that can be done.
                Some(Err(Doubt)) => {
                    let mut keys = self.keys.lock();
                    keys.release(self.size());
                    keys.distrusted = true;
                }
                None => self.complete_keys(ctx, owner.identity, owner.visible_end)?,
            }
        }
    }

    /// Reads or builds what is missing.
    ///
    /// # Errors
    /// What the medium says; corrupt, if the segment is damaged and its side file does not help.
    pub(crate) fn complete_keys(
        self: &Arc<Self>,
        ctx: &Context,
        identity: &Identity,
        visible: Offset,
    ) -> Result<()> {
        // One at a time: there is one side file.
        let _completing = self.completing.lock();
        loop {
            let Some(missing) = self.keys.lock().missing() else { return Ok(()) };
            let file = match missing.distrusted {
                true => None,
                false => KeyFile::open(self, ctx, identity, missing.below),
            };
            if let Some(file) = file {
                if self.is_sealed() && missing.below == self.size() {
                    if self.adopt_keys(ctx, file, missing.ends, missing.below) {
                        return Ok(());
                    }
                    continue;
                }
                if let Ok(table) = file.read_all() {
                    self.put_keys_in_front(missing, table);
                    continue;
                }
            }
            match self.build_keys(ctx, identity, missing.below) {
                Ok(table) => self.put_keys_in_front(missing, table),
                // Cut meanwhile: what it has now is another question.
                Err(_) if self.keys.lock().ends != missing.ends => continue,
                Err(error) => return Err(error),
            }
            // IMPORTANT: a side file does not say what is visible, so all of it has to be.
            if self.end().is_some_and(|end| end <= visible) {
                self.write_keys(ctx, identity);
            }
        }
    }

    fn put_keys_in_front(&self, missing: Missing, older: KeyTable) {
        let mut keys = self.keys.lock();
        if keys.ends == missing.ends && keys.missing_below == missing.below {
            Arc::make_mut(&mut keys.table).put_in_front(older);
            keys.missing_below = FIRST_BATCH;
        }
    }

    /// Goes on with a side file that covers the segment, which is sealed, instead of a table. Not if it was cut since `ends`.
    fn adopt_keys(self: &Arc<Self>, ctx: &Context, file: KeyFile, ends: u64, covers: u64) -> bool {
        let file = ctx.files.count(Arc::new(file));
        {
            let mut keys = self.keys.lock();
            if keys.ends != ends || self.size() != covers {
                return false;
            }
            *keys = Keys { file: Some(file), ends, ..Keys::missing_below(covers) };
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

    /// Sees to it that the side file of this segment, which is sealed and visible to its end, is there, and drops the table.
    /// Derived: not synced, and no error if it fails.
    pub(crate) fn save_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity) {
        if self.complete_keys(ctx, identity, Offset::MAX).is_ok() {
            let _completing = self.completing.lock();
            self.write_keys(ctx, identity);
        }
    }

    /// As [`save_keys`](Segment::save_keys) of the active segment at a clean close, which the next opening reads.
    pub(crate) fn save_active_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity, covers: u64) {
        if self.complete_keys(ctx, identity, Offset::ZERO).is_ok() {
            let _completing = self.completing.lock();
            let table = self.keys.lock().whole_table().cloned();
            if let Some(table) = table {
                self.put_keys_file(ctx, identity, &table, covers);
            }
        }
    }

    /// Whether it is sealed and its keys are in memory, where they are not to stay.
    pub(crate) fn holds_keys(&self) -> bool {
        self.is_sealed() && self.keys.lock().whole_table().is_some_and(|table| !table.is_empty())
    }

    /// Writes the whole table of a sealed segment to the side file, and goes on with that one. `completing` is held.
    fn write_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity) {
        let (table, ends, covers) = {
            let keys = self.keys.lock();
            let Some(table) = keys.whole_table() else { return };
            (table.clone(), keys.ends, self.size())
        };
        if self.put_keys_file(ctx, identity, &table, covers)
            && let Some(file) = KeyFile::open(self, ctx, identity, covers)
        {
            self.adopt_keys(ctx, file, ends, covers);
        }
    }

    fn put_keys_file(&self, ctx: &Context, identity: &Identity, table: &KeyTable, covers: u64) -> bool {
        if !ctx.may_write_beside() {
            return false;
        }
        let of = self.indexed(identity, covers);
        let Some(bytes) = KeyIndex::encode(&of, &table.sorted()) else { return false };
        let path = self.keys_path();
        // A new file, whoever has the old one open or mapped: it is unlinked, not made shorter.
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

    /// Forgets all keys: those of the bytes below `size` are looked up when somebody asks.
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

    /// What is wrong with the side file of the keys, if there is one: every piece of it is checked.
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
            None => Some("it is damaged, or of another segment"),
            Some(file) => file.check().err().map(|_| "a piece of it is damaged"),
        }
    }

    /// The path of the side file.
    pub(crate) fn keys_path(&self) -> PathBuf {
        self.path.with_file_name(names::key_index_file(self.base, self.generation))
    }
}
