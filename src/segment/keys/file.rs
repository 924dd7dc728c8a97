//! The open side file of a sealed segment: a lookup reads and checks only the few pieces that it
//! needs.

use std::ops::Range;

use super::table::{KeyCount, KeyTable};
use crate::config::ReadMode;
use crate::engine::files::Holds;
use crate::engine::{Context, Identity, OpenedFile, OpenedMap};
use crate::error::is_no_map;
use crate::format::key_hash::KeyHash;
use crate::format::key_index::{HEADER_BYTES, IndexedSegment, KeyEntry, KeyIndex, KeyPlace};
use crate::format::reader::Malformed;
use crate::segment::name::SegmentName;
use crate::storage::{OpenMode, read_up_to, write_all_at};

/// An open side file. Every piece of it is checked each time it is read.
pub(super) struct KeyFile {
    index: KeyIndex,
    bytes: Bytes,
}

enum Bytes {
    Map(OpenedMap),
    File(OpenedFile),
}

/// The side file is damaged or cannot be read.
pub(super) struct Unusable;

impl From<Malformed> for Unusable {
    fn from(_: Malformed) -> Self {
        Unusable
    }
}

impl KeyFile {
    /// Opens the side file of a segment. Returns `None` if it does not cover exactly the bytes
    /// below `covers`, or cannot be read.
    pub(super) fn open(
        segment: &SegmentName,
        ctx: &Context,
        identity: &Identity,
        covers: u64,
    ) -> Option<KeyFile> {
        let file = ctx.storage.open(&segment.keys_path(), OpenMode::Read).ok()?;
        let mut header = [0; HEADER_BYTES];
        let n = read_up_to(&*file, &mut header, 0).ok()?;
        let index = KeyIndex::decode(header.get(..n)?).ok()?;
        let is_ours =
            index.of == indexed(segment, identity, covers) && file.len().ok()? == index.file_bytes();
        if !is_ours {
            return None;
        }
        let may_map =
            ctx.settings.read_mode != ReadMode::Positional && ctx.files.has_room_for_map(index.file_bytes());
        let map = match may_map.then(|| file.map(index.file_bytes())) {
            Some(Err(e)) if is_no_map(&e).is_none() => return None,
            tried => tried.and_then(std::result::Result::ok),
        };
        let bytes = match map {
            Some(map) => Bytes::Map(ctx.files.count_map(map)),
            None => Bytes::File(ctx.files.count_file(file)),
        };
        Some(KeyFile { index, bytes })
    }

    pub(super) fn holds(&self) -> Holds {
        let maps = matches!(self.bytes, Bytes::Map(_));
        Holds { files: !maps, maps }
    }

    /// Returns the entry of a key, if the file has one.
    pub(super) fn find(&self, hash: KeyHash) -> std::result::Result<Option<KeyEntry>, Unusable> {
        let Some(line) = self.index.filter_line(hash) else { return Ok(None) };
        if !self.read(line, |bytes| self.index.may_have(hash, bytes))? {
            return Ok(None);
        }
        let Some(entry) = self.index.directory_entry(hash) else { return Ok(None) };
        let bucket = self.read(entry, |bytes| self.index.bucket(bytes))?;
        self.read(bucket.range.clone(), |bytes| self.index.find(&bucket, bytes, hash))
    }

    pub(super) fn places(&self, entry: &KeyEntry) -> std::result::Result<Vec<KeyPlace>, Unusable> {
        match self.index.place_range(entry) {
            Some(range) => self.read(range, |bytes| self.index.read_places(entry, bytes)),
            None => Ok(self.index.read_places(entry, &[])?),
        }
    }

    /// Checks every piece, and that the filter has every key.
    pub(super) fn check(&self) -> std::result::Result<(), Unusable> {
        for line in self.index.filter_lines() {
            let at = line.start;
            self.read(line, |bytes| self.index.check_line(at, bytes).map(drop))?;
        }
        for number in 0..self.index.buckets() {
            let bucket = self.read(self.index.directory_at(number), |bytes| self.index.bucket(bytes))?;
            let entries = self.read(bucket.range.clone(), |bytes| {
                self.index.all(&bucket, bytes)?.collect::<std::result::Result<Vec<_>, _>>()
            })?;
            for (hash, entry) in entries {
                self.places(&entry)?;
                let Some(line) = self.index.filter_line(hash) else { return Err(Unusable) };
                if !self.read(line, |bytes| self.index.may_have(hash, bytes))? {
                    return Err(Unusable);
                }
            }
        }
        Ok(())
    }

    /// Returns the whole file as a table.
    pub(super) fn read_all(&self) -> std::result::Result<KeyTable, Unusable> {
        let (mut all, mut befores) = (Vec::with_capacity(self.index.keys() as usize), Vec::new());
        for number in 0..self.index.buckets() {
            let bucket = self.read(self.index.directory_at(number), |bytes| self.index.bucket(bytes))?;
            let entries = self.read(bucket.range.clone(), |bytes| {
                self.index.all(&bucket, bytes)?.collect::<std::result::Result<Vec<_>, _>>()
            })?;
            for (hash, entry) in entries {
                all.extend(self.places(&entry)?.into_iter().map(|place| (hash, place)));
                befores.extend(entry.before().map(|before| (hash, before)));
            }
        }
        all.sort_unstable_by_key(|(_, place)| place.position);
        let mut table = KeyTable::default();
        for (hash, KeyPlace { position, records }) in all {
            // Every batch of a side file is visible, so the offset is not needed.
            table.note(position, 0, &[KeyCount { hash, records }]);
        }
        for (hash, before) in befores {
            table.note_before(hash, before);
        }
        Ok(table)
    }

    fn read<T>(
        &self,
        range: Range<u64>,
        f: impl FnOnce(&[u8]) -> std::result::Result<T, Malformed>,
    ) -> std::result::Result<T, Unusable> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        match &self.bytes {
            Bytes::Map(map) => {
                let start = usize::try_from(range.start).unwrap_or(usize::MAX);
                let bytes = map.as_slice().get(start..start.saturating_add(len)).ok_or(Unusable)?;
                Ok(f(bytes)?)
            }
            Bytes::File(file) => {
                // At most the size of the file.
                let mut bytes = vec![0; len];
                let n = read_up_to(file, &mut bytes, range.start).map_err(|_| Unusable)?;
                Ok(f(bytes.get(..n).unwrap_or(&[]))?)
            }
        }
    }
}

/// Writes a whole table to the side file of a segment that ends at `covers`. Removes the file if it
/// is incomplete, or if `is_kept` returns false after it is written. Returns whether there is one.
pub(super) fn write(
    segment: &SegmentName,
    ctx: &Context,
    identity: &Identity,
    table: &KeyTable,
    covers: u64,
    is_kept: impl FnOnce() -> bool,
) -> bool {
    if !ctx.reserve.may_write_derived() {
        return false;
    }
    let of = indexed(segment, identity, covers);
    let Some(bytes) = KeyIndex::encode(&of, &table.sorted()) else { return false };
    let path = segment.keys_path();
    // The old file is unlinked and not truncated, because a reader may have it open or mapped.
    let written = ctx
        .storage
        .open(&path, OpenMode::Truncate)
        .and_then(|file| write_all_at(&*file, &bytes, 0).map_err(|(_, e)| e));
    let kept = written.is_ok() && is_kept();
    if !kept {
        let _ = ctx.storage.remove_file(&path);
    }
    kept
}

fn indexed(segment: &SegmentName, identity: &Identity, covers_bytes: u64) -> IndexedSegment {
    IndexedSegment {
        topic_id: identity.topic_id,
        partition: identity.partition,
        base_offset: segment.base,
        generation: segment.generation,
        log_epoch: segment.epoch,
        covers_bytes,
    }
}

impl SegmentName {
    /// Checks every piece of the side file of the keys, if there is one. Returns the damage.
    pub(crate) fn keys_damage(
        &self,
        ctx: &Context,
        identity: &Identity,
        covers: u64,
    ) -> Option<&'static str> {
        match ctx.storage.open(&self.keys_path(), OpenMode::Read) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(_) => return Some("the key index cannot be opened"),
            Ok(_) => {}
        }
        match KeyFile::open(self, ctx, identity, covers) {
            None => Some("the key index is damaged, or of another segment"),
            Some(file) => file.check().err().map(|_| "a piece of the key index is damaged"),
        }
    }
}
