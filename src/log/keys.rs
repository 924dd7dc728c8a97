//! Which batches of a segment hold records of a key? Known in memory of the segment that is appended to, read from a side
//! file of all others.
//!
//! Only logs whose topic keeps streams ask. The table in memory is filled as batches are written, under the writer's lock;
//! a sealed segment's is written to its side file by the worker and dropped, so memory grows with the active segment and
//! not with all keys. What is missing, or does not pass its checksum, is built again from the segment.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::path::PathBuf;

use super::Log;
use super::batch::Identity;
use super::context::Context;
use super::cursor::read_batch;
use super::files::Counted;
use super::segment::{FIRST_BATCH, Segment};
use crate::config::ReadMode;
use crate::error::Result;
use crate::format::batch::Seed;
use crate::format::body;
use crate::format::key_hash::{KeyHash, KeyHasher};
use crate::format::key_index::{Entry, HEADER_BYTES, Indexed, IndexedSegment, KeyIndex, Place};
use crate::format::names;
use crate::format::reader::Malformed;
use crate::storage::{File, Map, OpenMode, read_up_to, write_all_at};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

/// How many records of a batch have a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyCount {
    pub(crate) hash: KeyHash,
    pub(crate) records: u32,
}

/// The keys of a batch's records, each once. Records without a key are of no stream.
pub(crate) fn count_keys(hasher: &KeyHasher, body: &[u8], records: u32) -> Vec<KeyCount> {
    let mut counts: Vec<KeyCount> = Vec::new();
    let mut last: Option<&[u8]> = None;
    for key in body::Records::new(body, records).map_while(std::result::Result::ok).filter_map(|r| r.key) {
        match counts.last_mut() {
            // The events of one append are of one stream.
            Some(count) if last == Some(key) => count.records += 1,
            _ => counts.push(KeyCount { hash: hasher.hash(key), records: 1 }),
        }
        last = Some(key);
    }
    counts.sort_unstable_by_key(|count| count.hash);
    counts.dedup_by(|next, kept| {
        let same = next.hash == kept.hash;
        if same {
            kept.records += next.records;
        }
        same
    });
    counts
}

/// The keys of a part of a segment, in memory.
#[derive(Clone, Default)]
pub(crate) struct KeyTable {
    heads: HashMap<KeyHash, Head, BuildHasherDefault<Low>>,
    places: Vec<Noted>,
}

/// What is known of a key.
#[derive(Clone, Copy)]
struct Head {
    records: u32,
    /// The newest of its places.
    newest: u32,
    /// How many records the segments before have of it, once somebody has looked.
    before: u64,
}

/// A batch that holds records of a key.
#[derive(Clone, Copy)]
struct Noted {
    place: Place,
    /// The batch's base offset, minus the segment's.
    offset_delta: u32,
    /// The key's place before this one.
    previous: u32,
}

impl Head {
    fn before(&self) -> Option<u64> {
        (self.before != UNKNOWN).then_some(self.before)
    }
}

const NONE: u32 = u32::MAX;
const UNKNOWN: u64 = u64::MAX;

impl KeyTable {
    /// Notes the keys of a batch that lies behind all that were noted.
    fn note(&mut self, position: u32, offset_delta: u32, counts: &[KeyCount]) {
        for KeyCount { hash, records } in counts {
            let next = u32::try_from(self.places.len()).unwrap_or(NONE);
            let new = Head { records: 0, newest: NONE, before: UNKNOWN };
            let head = self.heads.entry(*hash).or_insert(new);
            let place = Place { position, records: *records };
            self.places.push(Noted { place, offset_delta, previous: head.newest });
            head.newest = next;
            head.records += records;
        }
    }

    /// How many records a key has in batches that begin below this.
    fn count(&self, hash: KeyHash, below: u64) -> u64 {
        let Some(head) = self.heads.get(&hash) else { return 0 };
        let (mut records, mut next) = (u64::from(head.records), head.newest);
        while let Some(noted) = self.places.get(next as usize).filter(|n| u64::from(n.offset_delta) >= below)
        {
            records -= u64::from(noted.place.records);
            next = noted.previous;
        }
        records
    }

    /// The places of those records of a key that `range` counts from its first one here, oldest first. Looks at none that is
    /// older.
    fn places(&self, hash: KeyHash, range: &Range<u64>) -> Vec<Place> {
        let Some(head) = self.heads.get(&hash) else { return Vec::new() };
        let (mut places, mut end, mut next) = (Vec::new(), u64::from(head.records), head.newest);
        while let Some(noted) = self.places.get(next as usize).filter(|_| end > range.start) {
            let begin = end.saturating_sub(u64::from(noted.place.records));
            if begin < range.end {
                places.push(noted.place);
            }
            (end, next) = (begin, noted.previous);
        }
        places.reverse();
        places
    }

    /// Puts what was found before the first batch that was noted in front of all.
    fn put_in_front(&mut self, older: KeyTable) {
        let newer = std::mem::replace(self, older);
        let mut all: Vec<(KeyHash, Noted)> = Vec::with_capacity(newer.places.len());
        for (hash, head) in &newer.heads {
            let mut next = head.newest;
            while let Some(noted) = newer.places.get(next as usize) {
                all.push((*hash, *noted));
                next = noted.previous;
            }
        }
        all.sort_unstable_by_key(|(_, noted)| noted.place.position);
        for (hash, noted) in all {
            let count = KeyCount { hash, records: noted.place.records };
            self.note(noted.place.position, noted.offset_delta, &[count]);
        }
        for (hash, head) in newer.heads {
            if let (Some(known), Some(before)) = (self.heads.get_mut(&hash), head.before()) {
                known.before = before;
            }
        }
    }

    /// All keys with their places, in the order of the keys.
    fn sorted(&self) -> Vec<Indexed> {
        let indexed = |(hash, head): (&KeyHash, &Head)| Indexed {
            hash: *hash,
            before: head.before(),
            places: self.places(*hash, &(0..u64::from(head.records))),
        };
        let mut all: Vec<_> = self.heads.iter().map(indexed).collect();
        all.sort_unstable_by_key(|key| key.hash);
        all
    }
}

/// Hashes are random already.
#[derive(Default)]
pub(crate) struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

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
        if let Some(head) = Arc::make_mut(&mut self.keys.lock().table).heads.get_mut(&hash) {
            head.before = before;
        }
    }

    /// What this segment, which is active, has of a key; `None` if that would have to be read first.
    pub(crate) fn known_key(&self, hash: KeyHash) -> Option<Known> {
        let keys = self.keys.lock();
        let head = keys.whole_table()?.heads.get(&hash);
        Some(Known {
            records: head.map_or(0, |head| u64::from(head.records)),
            before: head.and_then(Head::before),
        })
    }

    /// Whether a batch that begins at or behind `since` holds records of a key: may be wrong in saying so once the segment is
    /// sealed.
    ///
    /// # Errors
    /// As [`count_key`](Segment::count_key).
    pub(crate) fn may_have_since(
        self: &Arc<Self>,
        log: &Log,
        hash: KeyHash,
        since: Offset,
        visible: Offset,
    ) -> Result<bool> {
        let delta = |offset: Offset| offset.since(self.base);
        let in_table = |table: &KeyTable| table.count(hash, delta(visible)) > table.count(hash, delta(since));
        self.ask_keys(log, in_table, |file| Ok(file.find(hash)?.is_some()))
    }

    /// How many records of a key are in batches of this segment that begin below `visible`, and how many before it.
    ///
    /// # Errors
    /// What the medium says; corrupt, if the keys have to be looked up in a damaged segment.
    pub(crate) fn count_key(self: &Arc<Self>, log: &Log, hash: KeyHash, visible: Offset) -> Result<Known> {
        let in_table = |table: &KeyTable| Known {
            records: table.count(hash, visible.since(self.base)),
            before: table.heads.get(&hash).and_then(Head::before),
        };
        self.ask_keys(log, in_table, |file| {
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
        log: &Log,
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
        self.ask_keys(log, |table| table.places(hash, range), in_file)
    }

    /// Asks the table, or the file once it is there.
    fn ask_keys<T>(
        self: &Arc<Self>,
        log: &Log,
        table: impl Fn(&KeyTable) -> T,
        file: impl Fn(&KeyFile) -> std::result::Result<T, Doubt>,
    ) -> Result<T> {
        let ctx = log.ctx();
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
                None => self.complete_keys(ctx, log.identity(), log.visible_end())?,
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
        ctx.files.make_room(self);
        true
    }

    /// Walks the batches below `end`.
    fn build_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity, end: u64) -> Result<KeyTable> {
        let (hasher, seed) =
            (KeyHasher::new(&identity.topic_id), Seed::new(&identity.topic_id, identity.partition));
        let mut source = self.source(ctx, identity)?;
        let (mut table, mut position) = (KeyTable::default(), FIRST_BATCH);
        while position < end {
            let (header, records) = read_batch(ctx, seed, self, &mut source, position)?;
            let counts = count_keys(&hasher, records.as_slice(), header.count);
            let delta = u32::try_from(header.base_offset.since(self.base)).unwrap_or(0);
            table.note(u32::try_from(position).unwrap_or(u32::MAX), delta, &counts);
            position += header.stored_bytes();
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
        self.is_sealed() && self.keys.lock().whole_table().is_some_and(|table| !table.heads.is_empty())
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

    /// The path of the side file.
    pub(crate) fn keys_path(&self) -> PathBuf {
        self.path.with_file_name(names::key_index_file(self.base, self.generation))
    }
}

/// A side file that is open. Every piece of it is checked each time it is looked at.
pub(crate) struct KeyFile {
    index: KeyIndex,
    bytes: Bytes,
}

enum Bytes {
    Map(Map),
    File(Arc<dyn File>),
}

/// A side file does not answer: it is damaged, or cannot be read.
struct Doubt;

impl From<Malformed> for Doubt {
    fn from(_: Malformed) -> Self {
        Doubt
    }
}

impl KeyFile {
    /// The side file of a segment, if it speaks of exactly the bytes below `covers`.
    fn open(segment: &Segment, ctx: &Context, identity: &Identity, covers: u64) -> Option<KeyFile> {
        let file = ctx.storage.open(&segment.keys_path(), OpenMode::Read).ok()?;
        let mut header = [0; HEADER_BYTES];
        let n = read_up_to(&*file, &mut header, 0).ok()?;
        let index = KeyIndex::decode(header.get(..n)?).ok()?;
        let of = segment.indexed(identity, covers);
        let ours = (index.topic_id, index.partition) == (of.topic_id, of.partition)
            && (index.base_offset, index.generation) == (of.base_offset, of.generation)
            && index.log_epoch == of.log_epoch
            && index.covers_bytes == of.covers_bytes
            && file.len().ok()? == index.file_bytes();
        if !ours {
            return None;
        }
        let bytes = match ctx.read_mode {
            ReadMode::Map => Bytes::Map(file.map(index.file_bytes()).ok()?),
            ReadMode::Positional => Bytes::File(file),
        };
        Some(KeyFile { index, bytes })
    }

    /// What it says of a key.
    fn find(&self, hash: KeyHash) -> std::result::Result<Option<Entry>, Doubt> {
        let Some(line) = self.index.filter_line(hash) else { return Ok(None) };
        if !self.look_at(line, |bytes| self.index.may_have(hash, bytes))? {
            return Ok(None);
        }
        let Some(entry) = self.index.directory_entry(hash) else { return Ok(None) };
        let bucket = self.look_at(entry, |bytes| self.index.bucket(bytes))?;
        self.look_at(bucket.range.clone(), |bytes| self.index.find(&bucket, bytes, hash))
    }

    fn places(&self, entry: &Entry) -> std::result::Result<Vec<Place>, Doubt> {
        match self.index.place_range(entry) {
            Some(range) => self.look_at(range, |bytes| self.index.read_places(entry, bytes)),
            None => Ok(self.index.read_places(entry, &[])?),
        }
    }

    /// All of it, as a table.
    fn read_all(&self) -> std::result::Result<KeyTable, Doubt> {
        let (mut all, mut befores) = (Vec::with_capacity(self.index.keys() as usize), Vec::new());
        for number in 0..self.index.buckets() {
            let bucket = self.look_at(self.index.directory_at(number), |bytes| self.index.bucket(bytes))?;
            let entries = self.look_at(bucket.range.clone(), |bytes| {
                self.index.all(&bucket, bytes)?.collect::<std::result::Result<Vec<_>, _>>()
            })?;
            for (hash, entry) in entries {
                all.extend(self.places(&entry)?.into_iter().map(|place| (hash, place)));
                befores.extend(entry.before().map(|before| (hash, before)));
            }
        }
        all.sort_unstable_by_key(|(_, place)| place.position);
        let mut table = KeyTable::default();
        for (hash, Place { position, records }) in all {
            // Whatever is read from a file is visible: as if it came first.
            table.note(position, 0, &[KeyCount { hash, records }]);
        }
        for (hash, before) in befores {
            if let Some(head) = table.heads.get_mut(&hash) {
                head.before = before;
            }
        }
        Ok(table)
    }

    fn look_at<T>(
        &self,
        range: Range<u64>,
        f: impl FnOnce(&[u8]) -> std::result::Result<T, Malformed>,
    ) -> std::result::Result<T, Doubt> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        match &self.bytes {
            Bytes::Map(map) => {
                let start = usize::try_from(range.start).unwrap_or(usize::MAX);
                let bytes = map.as_slice().get(start..start.saturating_add(len)).ok_or(Doubt)?;
                Ok(f(bytes)?)
            }
            Bytes::File(file) => {
                // As long as the file is at most.
                let mut bytes = vec![0; len];
                let n = read_up_to(&**file, &mut bytes, range.start).map_err(|_| Doubt)?;
                Ok(f(bytes.get(..n).unwrap_or(&[]))?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> KeyHash {
        KeyHasher::new(&crate::types::TopicId([7; 16])).hash(&n.to_le_bytes())
    }

    fn count(n: u64, records: u32) -> KeyCount {
        KeyCount { hash: hash(n), records }
    }

    fn place(position: u32, records: u32) -> Place {
        Place { position, records }
    }

    #[test]
    fn a_table_knows_the_places_of_a_key_in_order_and_up_to_what_is_visible() {
        let mut table = KeyTable::default();
        table.note(100, 0, &[count(1, 2)]);
        table.note(200, 2, &[count(1, 1), count(2, 4)]);
        table.note(300, 7, &[count(1, 3)]);
        let places = |key, range| table.places(hash(key), &range);
        assert_eq!(places(1, 0..6), [place(100, 2), place(200, 1), place(300, 3)]);
        assert_eq!(places(1, 0..9), places(1, 0..6), "there are no more");
        assert_eq!(places(1, 0..3), [place(100, 2), place(200, 1)]);
        assert_eq!(places(1, 1..2), [place(100, 2)]);
        assert_eq!(places(1, 2..4), [place(200, 1), place(300, 3)]);
        assert_eq!(places(1, 5..6), [place(300, 3)]);
        assert_eq!((places(1, 0..0), places(1, 6..6)), (vec![], vec![]));
        assert_eq!([0, 2, 3, 7, 8, u64::MAX].map(|below| table.count(hash(1), below)), [0, 2, 3, 3, 6, 6]);
        assert_eq!(places(2, 0..4), [place(200, 4)]);
        assert_eq!(places(3, 0..4), []);
    }

    #[test]
    fn what_is_found_later_and_lies_before_goes_in_front() {
        let mut table = KeyTable::default();
        table.note(300, 7, &[count(1, 3), count(3, 1)]);
        table.heads.get_mut(&hash(1)).unwrap().before = 9;
        let mut older = KeyTable::default();
        older.note(100, 0, &[count(1, 2)]);
        older.note(200, 2, &[count(2, 4)]);
        table.put_in_front(older);
        assert_eq!(table.places(hash(1), &(0..5)), [place(100, 2), place(300, 3)]);
        assert_eq!(table.count(hash(1), 7), 2);
        assert_eq!((table.heads[&hash(1)].records, table.heads[&hash(1)].before), (5, 9));
        assert_eq!(table.places(hash(2), &(0..4)), [place(200, 4)]);
        let sorted = table.sorted();
        assert_eq!(sorted.len(), 3);
        assert!(sorted.is_sorted_by_key(|key| key.hash));
    }
}
