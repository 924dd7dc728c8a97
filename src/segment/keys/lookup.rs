//! Looks up the keys of a segment: in the table, or in the side file. Missing ones are read or
//! rebuilt first.

use std::ops::Range;

use super::file::{self, KeyFile, Unusable};
use super::table::{KeyCount, KeyTable, RecordCounts, count_keys};
use super::{Owner, WholeTable};
use crate::engine::{Context, Identity};
use crate::error::Result;
use crate::format::key_hash::{KeyHash, KeyHasher};
use crate::format::key_index::{KeyEntry, KeyPlace};
use crate::segment::{Purpose, Segment, read_records_of};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

impl Segment {
    /// Notes the keys of a batch that was just written at `position`.
    pub(crate) fn note_keys(&self, position: u64, base: Offset, counts: &[KeyCount]) {
        let (Ok(position), Ok(delta)) = (u32::try_from(position), u32::try_from(base.since(self.base)))
        else {
            // No segment has that size.
            return;
        };
        self.keys.note(position, delta, counts);
    }

    /// Notes how many records of a key the segments before this one have.
    pub(crate) fn note_before(&self, hash: KeyHash, before: u64) {
        self.keys.note_before(hash, before);
    }

    /// Returns the number of records of a key in this segment, which is active. Returns `None` if
    /// keys must be read first.
    pub(crate) fn known_key(&self, hash: KeyHash) -> Option<RecordCounts> {
        self.keys.counts_of(hash)
    }

    /// Returns whether it is sealed and its keys are still in memory.
    pub(crate) fn holds_keys(&self) -> bool {
        self.is_sealed() && self.keys.has_whole_table()
    }

    /// Drops all keys. Those of the bytes below `size` are looked up by the next lookup.
    pub(crate) fn forget_keys(&self, size: u64) {
        self.keys.forget(size);
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
        self.handles.touch(owner.ctx);
        loop {
            if let Some(found) = self.keys.find(&table, &file, || self.size()) {
                return Ok(found);
            }
            self.complete_keys(owner.ctx, owner.identity, owner.visible_end)?;
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
        let _alone = self.keys.complete_alone();
        loop {
            let Some(missing) = self.keys.missing() else { return Ok(()) };
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
                    self.keys.prepend(missing, table);
                    continue;
                }
            }
            match self.build_keys(ctx, identity, missing.below) {
                Ok(table) => self.keys.prepend(missing, table),
                // The keys that the segment has now are looked up again.
                Err(_) if self.keys.is_truncated_since(&missing) => continue,
                Err(error) => return Err(error),
            }
            // IMPORTANT: write a side file only if the whole segment is visible. The file does not
            // contain which records are visible.
            if self.end().is_some_and(|end| end <= visible) {
                self.write_keys(ctx, identity);
            }
        }
    }

    /// Replaces the table of the sealed segment by a side file that covers it. Returns false if the
    /// segment was truncated since it had `truncations`.
    fn adopt_keys(self: &Arc<Self>, ctx: &Context, file: KeyFile, truncations: u64, covers: u64) -> bool {
        let adopted = self.keys.adopt(Arc::new(file), truncations, covers, || self.size());
        if adopted {
            ctx.files.make_room(self.clone());
        }
        adopted
    }

    /// Walks the batches below `end`.
    fn build_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity, end: u64) -> Result<KeyTable> {
        let hasher = KeyHasher::new(&identity.secret());
        let mut walk = self.walk(ctx, identity)?.until(end);
        let mut table = KeyTable::default();
        while let Some(met) = walk.step()? {
            let records = read_records_of(ctx, self, &mut walk.source, &met, Purpose::Rewrite)?;
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
            let _alone = self.keys.complete_alone();
            self.write_keys(ctx, identity);
        }
    }

    /// As [`save_keys`](Segment::save_keys), for the active segment at a clean close. The next
    /// opening reads the file.
    pub(crate) fn save_active_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity, covers: u64) {
        if self.complete_keys(ctx, identity, Offset::ZERO).is_ok() {
            let _alone = self.keys.complete_alone();
            if let Some(WholeTable { table, .. }) = self.keys.whole_table(|| covers) {
                file::write(self, ctx, identity, &table, covers, || !self.retired.load(Ordering::Acquire));
            }
        }
    }

    /// Writes the whole table of a sealed segment to the side file, and replaces the table by the
    /// file. The caller must hold the right to read and write the side file.
    fn write_keys(self: &Arc<Self>, ctx: &Context, identity: &Identity) {
        let Some(whole) = self.keys.whole_table(|| self.size()) else { return };
        let WholeTable { table, truncations, size: covers } = whole;
        if file::write(self, ctx, identity, &table, covers, || !self.retired.load(Ordering::Acquire))
            && let Some(file) = KeyFile::open(self, ctx, identity, covers)
        {
            self.adopt_keys(ctx, file, truncations, covers);
        }
    }
}
