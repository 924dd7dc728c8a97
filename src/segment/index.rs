//! The sparse index of a segment: the offset and the time of a batch every few kilobytes. A walk
//! starts from an entry; the index is never trusted for more. It can be loaded from a side file, or
//! rebuilt from the segment.

use super::name::SegmentName;
use super::point::FIRST_BATCH;
use super::walker::Walker;
use crate::engine::{Context, Identity};
use crate::format::index::{IndexEntry, IndexFile};
use crate::storage::{OpenMode, read_file, write_all_at};
use crate::sync::{Mutex, Rank};
use crate::types::{Offset, Timestamp};

/// The entries of a segment that are known.
pub(super) struct Index(Mutex<KnownEntries>);

struct KnownEntries {
    entries: Vec<IndexEntry>,
    /// The entries below this byte position are missing. They are loaded or rebuilt by the first
    /// seek.
    missing_below: u64,
    /// Whether the side file has all entries.
    saved: bool,
}

impl Index {
    pub(super) fn missing_below(position: u64) -> Self {
        let known = KnownEntries { entries: Vec::new(), missing_below: position, saved: false };
        Index(Mutex::new(Rank::Index, known))
    }

    /// Adds the entry of a batch after all others.
    pub(super) fn add(&self, entry: IndexEntry) {
        self.0.lock().entries.push(entry);
    }

    /// Sets the whole index.
    pub(super) fn set(&self, entries: Vec<IndexEntry>) {
        *self.0.lock() = KnownEntries { entries, missing_below: FIRST_BATCH, saved: false };
    }

    /// Marks the entries below `position` as missing.
    pub(super) fn set_missing_below(&self, position: u64) {
        self.0.lock().missing_below = position;
    }

    /// Drops the entries at or after `size`, because the segment ends there now.
    pub(super) fn truncate(&self, size: u64) {
        let mut known = self.0.lock();
        known.entries.retain(|entry| u64::from(entry.position) < size);
        known.missing_below = known.missing_below.min(size);
        known.saved = false;
    }

    /// Drops the entries if the side file has them all. `sealed_size` returns the size of the
    /// segment if it is sealed, and is called under the lock: a truncation may change it.
    pub(super) fn release(&self, sealed_size: impl FnOnce() -> Option<u64>) {
        let mut known = self.0.lock();
        if known.saved
            && let Some(missing_below) = sealed_size()
        {
            *known = KnownEntries { entries: Vec::new(), missing_below, saved: true };
        }
    }

    /// Returns the position below which entries are missing, or `None` if all are known.
    #[inline]
    pub(super) fn missing(&self) -> Option<u64> {
        let below = self.0.lock().missing_below;
        (below > FIRST_BATCH).then_some(below)
    }

    /// Adds the entries below `missing`, unless others were found or dropped meanwhile. `saved` is
    /// whether the side file has all entries then.
    pub(super) fn complete(&self, missing: u64, entries: Vec<IndexEntry>, saved: bool) {
        let mut known = self.0.lock();
        if known.missing_below == missing {
            known.entries.splice(0..0, entries);
            known.missing_below = FIRST_BATCH;
            known.saved = saved;
        }
    }

    /// Returns the last entry whose offset is at most `delta` after the segment's base offset.
    #[inline]
    pub(super) fn at(&self, delta: u64) -> Option<IndexEntry> {
        self.last_while(|entry| u64::from(entry.offset_delta) <= delta)
    }

    /// Returns the last entry such that all batches before it are older than `time`.
    #[inline]
    pub(super) fn before(&self, time: Timestamp) -> Option<IndexEntry> {
        self.last_while(|entry| entry.max_before < time.as_millis())
    }

    #[inline]
    fn last_while(&self, is_before: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
        let known = self.0.lock();
        let after = known.entries.partition_point(is_before);
        known.entries.get(after.checked_sub(1)?).copied()
    }

    /// Returns all known entries, or `None` if the side file has them.
    pub(super) fn unsaved(&self) -> Option<Vec<IndexEntry>> {
        let known = self.0.lock();
        (!known.saved).then(|| known.entries.clone())
    }

    pub(super) fn set_saved(&self, saved: bool) {
        self.0.lock().saved = saved;
    }
}

/// Returns the entries of the side file, if it covers exactly the bytes below `covers`.
pub(super) fn load(
    ctx: &Context,
    identity: &Identity,
    segment: &SegmentName,
    covers: u64,
    segment_end: Offset,
) -> Option<Vec<IndexEntry>> {
    let bytes = read_file(&*ctx.storage, &segment.index_path(), u64::from(u32::MAX)).ok()?;
    let file = IndexFile::decode(&bytes).ok()?;
    let ours = file.topic_id == identity.topic_id
        && file.partition == identity.partition
        && (file.base_offset, file.generation, file.log_epoch) == segment.id()
        && file.covers_bytes == covers
        && file.end_offset <= segment_end;
    ours.then_some(file.entries)
}

/// Walks the batch headers of a segment. Returns one entry for each step of `STEP` bytes.
pub(super) fn build(mut walk: Walker<'_>, base: Offset) -> Vec<IndexEntry> {
    const STEP: u64 = 4096;
    let (mut entries, mut noted, mut max_before) = (Vec::new(), FIRST_BATCH, i64::MIN);
    // A damaged batch ends the index here. A reader that reaches it reports the damage.
    while let Ok(Some(met)) = walk.look() {
        if met.position - noted >= STEP {
            if let (Ok(offset_delta), Ok(position)) =
                (u32::try_from(met.header.base_offset.since(base)), u32::try_from(met.position))
            {
                entries.push(IndexEntry { offset_delta, position, max_before });
            }
            noted = met.position;
        }
        max_before = max_before.max(met.header.max_timestamp.as_millis());
        walk.pass(&met);
    }
    entries
}

/// Writes the side file for the first `covers_bytes` bytes, whose last batch ends at `end_offset`.
/// It is derived, so it is not synced.
///
/// # Errors
/// An I/O error, or the entries contradict the end. Then a part of the file may exist.
pub(super) fn write(
    ctx: &Context,
    identity: &Identity,
    segment: &SegmentName,
    covers_bytes: u64,
    end_offset: Offset,
    entries: Vec<IndexEntry>,
) -> std::io::Result<()> {
    let file = IndexFile {
        topic_id: identity.topic_id,
        partition: identity.partition,
        base_offset: segment.base,
        generation: segment.generation,
        log_epoch: segment.epoch,
        covers_bytes,
        end_offset,
        entries,
    };
    // Entries may come from a file of before, of which only a checksum says that it is ours.
    file.check().map_err(|(_, what)| std::io::Error::new(std::io::ErrorKind::InvalidData, what))?;
    let bytes = file.encode();
    let file = ctx.storage.open(&segment.index_path(), OpenMode::Truncate)?;
    write_all_at(&*file, &bytes, 0).map_err(|(_, e)| e)
}
