//! The side file of a sealed segment, open: a lookup reads and checks the few pieces of it that it needs.

use std::ops::Range;

use super::table::{KeyCount, KeyTable};
use crate::config::ReadMode;
use crate::engine::{Context, Identity};
use crate::format::key_hash::KeyHash;
use crate::format::key_index::{Entry, HEADER_BYTES, KeyIndex, Place};
use crate::format::reader::Malformed;
use crate::segment::Segment;
use crate::storage::{File, Map, OpenMode, read_up_to};
use crate::sync::Arc;

/// A side file that is open. Every piece of it is checked each time it is looked at.
pub(super) struct KeyFile {
    index: KeyIndex,
    bytes: Bytes,
}

enum Bytes {
    Map(Map),
    File(Arc<dyn File>),
}

/// A side file does not answer: it is damaged, or cannot be read.
pub(super) struct Doubt;

impl From<Malformed> for Doubt {
    fn from(_: Malformed) -> Self {
        Doubt
    }
}

impl KeyFile {
    /// The side file of a segment, if it speaks of exactly the bytes below `covers`.
    pub(super) fn open(
        segment: &Segment,
        ctx: &Context,
        identity: &Identity,
        covers: u64,
    ) -> Option<KeyFile> {
        let file = ctx.storage.open(&segment.keys_path(), OpenMode::Read).ok()?;
        let mut header = [0; HEADER_BYTES];
        let n = read_up_to(&*file, &mut header, 0).ok()?;
        let index = KeyIndex::decode(header.get(..n)?).ok()?;
        let is_ours = index.of == segment.indexed(identity, covers) && file.len().ok()? == index.file_bytes();
        if !is_ours {
            return None;
        }
        let bytes = match ctx.read_mode {
            ReadMode::Map => Bytes::Map(file.map(index.file_bytes()).ok()?),
            ReadMode::Positional => Bytes::File(file),
        };
        Some(KeyFile { index, bytes })
    }

    /// What it says of a key.
    pub(super) fn find(&self, hash: KeyHash) -> std::result::Result<Option<Entry>, Doubt> {
        let Some(line) = self.index.filter_line(hash) else { return Ok(None) };
        if !self.look_at(line, |bytes| self.index.may_have(hash, bytes))? {
            return Ok(None);
        }
        let Some(entry) = self.index.directory_entry(hash) else { return Ok(None) };
        let bucket = self.look_at(entry, |bytes| self.index.bucket(bytes))?;
        self.look_at(bucket.range.clone(), |bytes| self.index.find(&bucket, bytes, hash))
    }

    pub(super) fn places(&self, entry: &Entry) -> std::result::Result<Vec<Place>, Doubt> {
        match self.index.place_range(entry) {
            Some(range) => self.look_at(range, |bytes| self.index.read_places(entry, bytes)),
            None => Ok(self.index.read_places(entry, &[])?),
        }
    }

    /// Checks every piece, and that the filter knows every key.
    pub(super) fn check(&self) -> std::result::Result<(), Doubt> {
        for line in self.index.filter_lines() {
            let at = line.start;
            self.look_at(line, |bytes| self.index.check_line(at, bytes).map(drop))?;
        }
        for number in 0..self.index.buckets() {
            let bucket = self.look_at(self.index.directory_at(number), |bytes| self.index.bucket(bytes))?;
            let entries = self.look_at(bucket.range.clone(), |bytes| {
                self.index.all(&bucket, bytes)?.collect::<std::result::Result<Vec<_>, _>>()
            })?;
            for (hash, entry) in entries {
                self.places(&entry)?;
                let Some(line) = self.index.filter_line(hash) else { return Err(Doubt) };
                if !self.look_at(line, |bytes| self.index.may_have(hash, bytes))? {
                    return Err(Doubt);
                }
            }
        }
        Ok(())
    }

    /// All of it, as a table.
    pub(super) fn read_all(&self) -> std::result::Result<KeyTable, Doubt> {
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
            table.note_before(hash, before);
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
