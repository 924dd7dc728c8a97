//! A segment: a file of batches with a header at its start, the open handles of the file, its
//! sparse index, and its keys.

pub(crate) mod batch;
pub(crate) mod builder;
pub(crate) mod copy;
pub(crate) mod create;
mod handles;
mod index;
pub(crate) mod keys;
mod map;
mod marks;
mod name;
mod point;
mod read;
mod source;
mod view;
mod walker;
mod window;

use std::ops::Deref;
use std::path::Path;

use self::handles::Handles;
use self::index::Index;
use self::keys::Keys;
use self::map::SegmentMap;
use self::marks::SyncMarks;
use self::name::SegmentName;
pub(crate) use self::point::{FIRST_BATCH, Point, known_timestamp, timestamp_or_unknown};
pub(crate) use self::read::{Purpose, read_batch, read_records, read_records_of};
pub(crate) use self::source::{HeaderError, Source};
pub(crate) use self::view::ByteView;
pub(crate) use self::walker::{Met, Walker, find_batch_in, misfit};
pub(crate) use self::window::Window;
use crate::config::ReadMode;
use crate::engine::files::{Holder, Holds};
use crate::engine::{Context, Identity};
use crate::error::Result;
use crate::format::index::IndexEntry;
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::storage::File;
use crate::sync::{Arc, AtomicBool, AtomicI64, AtomicU64, OnceLock, Ordering};
use crate::types::{Offset, Timestamp};

/// One segment of a log, active or sealed. It derefs to its name, which is all that a walk over its
/// batches needs.
pub(crate) struct Segment {
    name: SegmentName,
    /// Compaction has rewritten it: its state in the manifest is `Compacted`.
    pub(crate) compacted: bool,
    /// The time after which its first tombstone may be removed, once that was looked up.
    pub(crate) horizon: OnceLock<Option<Timestamp>>,
    /// When it was created, once its header was read.
    created_at: OnceLock<Timestamp>,
    /// The offset after its last record; `u64::MAX` while it is active.
    ///
    /// Stored before the next segment is published, and read after an acquiring load of the visible
    /// end. So a reader that sees an offset of the next segment as visible also sees this segment's
    /// end.
    end: AtomicU64,
    /// The size of its valid bytes; while it is active, the bytes written so far.
    size: AtomicU64,
    /// The greatest `max_timestamp` of its batches; `i64::MIN` if there is none or it is not known.
    /// In the active segment it is stored before a batch becomes visible, so a reader that sees a
    /// record sees a time that is not less than the record's.
    max_timestamp: AtomicI64,
    marks: SyncMarks,
    /// It is before the log start, and its files are being deleted.
    pub(crate) retired: AtomicBool,
    handles: Handles,
    index: Index,
    /// Used only by topics with streams.
    keys: Keys,
}

impl Deref for Segment {
    type Target = SegmentName;

    #[inline]
    fn deref(&self) -> &SegmentName {
        &self.name
    }
}

impl Segment {
    /// Returns a segment as a manifest lists it. `previous` is the end offset and the last CRC of
    /// the entry before it.
    pub(crate) fn from_entry(dir: &Path, entry: &SegmentEntry, previous: Option<(Offset, u32)>) -> Self {
        let sealed = entry.state != SegmentState::Active;
        let size = if sealed { entry.size } else { FIRST_BATCH };
        Segment {
            name: SegmentName::of(dir, entry, previous),
            compacted: entry.state == SegmentState::Compacted,
            horizon: OnceLock::new(),
            created_at: OnceLock::new(),
            end: AtomicU64::new(if sealed { entry.end_offset.get() } else { u64::MAX }),
            size: AtomicU64::new(size),
            max_timestamp: AtomicI64::new(entry.max_timestamp),
            marks: SyncMarks::new(entry.state.is_synced()),
            retired: AtomicBool::new(false),
            handles: Handles::new(),
            index: Index::missing_below(size),
            keys: Keys::missing_below(size),
        }
    }

    /// Returns the offset after its last record, or `None` while it is active.
    pub(crate) fn end(&self) -> Option<Offset> {
        match self.end.load(Ordering::Acquire) {
            u64::MAX => None,
            end => Some(Offset::new(end)),
        }
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.end().is_some()
    }

    /// Returns the size of its valid bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Returns an upper bound of the timestamps of its records, or `None` if none is known. An
    /// active segment that takes appends and is not empty always has one.
    pub(crate) fn max_timestamp(&self) -> Option<Timestamp> {
        known_timestamp(self.max_timestamp.load(Ordering::Acquire))
    }

    /// Notes that it was written up to `size`, and the greatest timestamp up to there.
    pub(crate) fn grow(&self, size: u64, max_timestamp: Option<Timestamp>) {
        self.max_timestamp.store(timestamp_or_unknown(max_timestamp), Ordering::Release);
        self.size.store(size, Ordering::Release);
        self.marks.note_written();
    }

    /// Ends the segment: it takes no more appends.
    pub(crate) fn seal(&self, end: Offset, size: u64, max_timestamp: Option<Timestamp>) {
        self.max_timestamp.store(timestamp_or_unknown(max_timestamp), Ordering::Release);
        self.size.store(size, Ordering::Release);
        self.end.store(end.get(), Ordering::Release);
    }

    /// Gives the segment an earlier end than it had. All bytes that it keeps must be durable.
    pub(crate) fn truncate(&self, end: Offset, size: u64, max_timestamp: Option<Timestamp>) {
        self.end_at(end, size, max_timestamp);
        self.mark_synced();
        self.handles.close_map();
        self.index.truncate(size);
    }

    /// Ends the segment at its base offset, because it is no longer part of the log. A reader
    /// positioned in it continues elsewhere.
    pub(crate) fn empty(&self) {
        self.end_at(self.base, FIRST_BATCH, None);
    }

    /// Gives it an end that does not come from appends. Its keys are dropped with the same lock:
    /// see [`Keys`].
    fn end_at(&self, end: Offset, size: u64, max_timestamp: Option<Timestamp>) {
        self.keys.truncate(size, || self.seal(end, size, max_timestamp));
    }

    /// Returns whether all its bytes are known to be durable and the manifest may list it as
    /// synced.
    pub(crate) fn is_synced(&self) -> bool {
        self.marks.is_synced()
    }

    /// Makes every byte written before this call durable.
    ///
    /// # Errors
    /// An I/O error, of this sync or of an earlier one. Then the state of the bytes is unknown.
    pub(crate) fn sync(self: &Arc<Self>, ctx: &Context) -> Result<()> {
        let sync = |file| marks::sync_file(ctx, &self.path, &self.retired, file);
        self.marks.sync(|| self.is_sealed(), || self.open_to_sync(ctx), sync)
    }

    /// As [`sync`](Segment::sync), if a byte was written since the last sync. Waits for a sync that
    /// is running.
    ///
    /// # Errors
    /// As [`sync`](Segment::sync).
    pub(crate) fn sync_if_dirty(self: &Arc<Self>, ctx: &Context) -> Result<()> {
        let sync = |file| marks::sync_file(ctx, &self.path, &self.retired, file);
        self.marks.sync_if_dirty(|| self.is_sealed(), || self.open_to_sync(ctx), sync)
    }

    /// Opens the file for a sync. Returns `None` if retention has deleted the segment meanwhile.
    #[inline]
    fn open_to_sync(self: &Arc<Self>, ctx: &Context) -> Result<Option<Arc<dyn File>>> {
        match self.file(ctx) {
            Ok(file) => Ok(Some(file)),
            Err(_) if self.retired.load(Ordering::Acquire) => Ok(None),
            Err(error) => Err(error.of_sync()),
        }
    }

    /// Notes that all its bytes were synced by other means. If a sync had failed, the bytes must
    /// have been rewritten first.
    pub(crate) fn mark_synced(&self) {
        self.marks.mark_synced(|| self.is_sealed());
    }

    /// Returns whether some written bytes are not synced.
    pub(crate) fn is_dirty(&self) -> bool {
        self.marks.is_dirty()
    }

    /// Returns the open file, for reading and writing (once sealed and synced, for reading only).
    /// Opens it if it is not open.
    ///
    /// # Errors
    /// A missing file is `Corrupt`, because the manifest lists it. Otherwise an I/O error.
    #[inline]
    pub(crate) fn file(self: &Arc<Self>, ctx: &Context) -> Result<Arc<dyn File>> {
        self.handles.file(ctx, &self.path, self, || self.is_synced())
    }

    /// Takes the file that was just created for this segment.
    pub(crate) fn adopt_file(self: &Arc<Self>, ctx: &Context, file: Arc<dyn File>) {
        self.handles.adopt_file(ctx, self, file);
    }

    /// Returns the bytes of the segment, mapped: all of a sealed one; of the active one those up to
    /// some batch after `position`, if there are many or after some reads that met no map. Returns
    /// `None` if they must be read by position, because there is no room for the map or the file
    /// system has none.
    ///
    /// # Errors
    /// `Corrupt` if the file is shorter than in the manifest, or its header is not this segment's.
    fn map(
        self: &Arc<Self>,
        ctx: &Context,
        identity: &Identity,
        position: Option<u64>,
    ) -> Result<Option<Arc<SegmentMap>>> {
        self.handles.touch(ctx);
        // In this order: the size of a sealed segment is the last one. A map ends after a batch,
        // because the size does.
        let (is_sealed, size) = (self.is_sealed(), self.size());
        let wanted = if is_sealed { Some(size) } else { position.map(|position| position + 1) };
        let Some(wanted) = wanted.filter(|wanted| *wanted <= size) else { return Ok(None) };
        if let Some(map) = self.handles.map_of(wanted) {
            return Ok(Some(map));
        }
        let ahead = size.saturating_sub(wanted);
        // Another process may write after the bytes that were found here.
        let may_grow = || {
            let is_ours = !ctx.settings.read_only;
            Ok(is_ours && self.handles.is_worth_a_map(ahead) && self.file(ctx)?.grows_while_mapped())
        };
        if !(is_sealed || may_grow()?) || !self.handles.may_map(ctx, size) {
            return Ok(None);
        }
        self.check_header(ctx, identity)?;
        let file = self.file(ctx)?;
        let Some(map) = self.handles.map_file(ctx, &self.path, &*file, size)? else {
            return Ok(None);
        };
        // The map keeps the bytes. A file that is never written again needs no open handle as well.
        if is_sealed && self.is_synced() {
            self.handles.close_file();
        }
        ctx.files.make_room(self.clone());
        Ok(Some(map))
    }

    /// Returns the bytes of the segment, mapped or read, according to the read mode. Those of the
    /// active segment are read, and others too where a map cannot be had.
    ///
    /// # Errors
    /// As [`map`](Segment::map) and [`file`](Segment::file).
    pub(crate) fn source(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<Source> {
        self.source_at(ctx, identity, None)
    }

    /// As [`source`](Segment::source), for a reader that looks a `position` up. The active segment
    /// may be mapped too. Then the map has the batch at the position, and may
    /// [end](Source::ends_at) before others.
    ///
    /// # Errors
    /// As [`source`](Segment::source).
    pub(crate) fn source_at(
        self: &Arc<Self>,
        ctx: &Context,
        identity: &Identity,
        position: Option<u64>,
    ) -> Result<Source> {
        if ctx.settings.read_mode != ReadMode::Positional
            && let Some(map) = self.map(ctx, identity, position)?
        {
            return Ok(Source::Map(map));
        }
        self.check_header(ctx, identity)?;
        let file = self.file(ctx)?;
        Ok(Source::Window(Window::new(file, ctx.display(&self.path)).up_to(self.size())))
    }

    /// Reads and checks the file's header, once.
    ///
    /// # Errors
    /// `Corrupt` or `UnsupportedFormat` if the header is not this segment's; an I/O error.
    pub(crate) fn check_header(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<()> {
        if self.handles.is_header_checked() {
            return Ok(());
        }
        let file = self.file(ctx)?;
        let header = self.read_header(ctx, identity, &*file)?;
        let _ = self.created_at.set(header.created_at);
        self.handles.note_header_checked();
        Ok(())
    }

    /// Returns when the segment was created, by the wall clock. Reads its header, once.
    ///
    /// # Errors
    /// As [`check_header`](Segment::check_header).
    pub(crate) fn created_at(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<Timestamp> {
        if let Some(created_at) = self.created_at.get() {
            return Ok(*created_at);
        }
        let created_at = self.read_header(ctx, identity, &*self.file(ctx)?)?.created_at;
        Ok(*self.created_at.get_or_init(|| created_at))
    }

    /// As [`check_header`](Segment::check_header), even if it was checked before.
    ///
    /// # Errors
    /// As [`check_header`](Segment::check_header).
    pub(crate) fn check_header_again(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<()> {
        self.handles.forget_header();
        self.check_header(ctx, identity)
    }

    /// Returns a walk over all batches that the segment has now.
    ///
    /// # Errors
    /// As [`source`](Segment::source).
    pub(crate) fn walk<'a>(self: &'a Arc<Self>, ctx: &'a Context, identity: &Identity) -> Result<Walker<'a>> {
        let source = self.source(ctx, identity)?;
        // The end first: a segment that is sealed after this has the batches up to its size.
        let end = self.end();
        let walk = Walker::new(ctx, identity.seed(), self, source, FIRST_BATCH, self.size());
        Ok(match end {
            Some(end) => walk.ending_at(end),
            None => walk,
        })
    }

    /// Closes the open files. A thread that uses one of them keeps it open until it is done.
    pub(crate) fn release(&self) {
        self.handles.close_file();
        self.handles.close_map();
        self.index.release(|| self.is_sealed().then(|| self.size()));
        self.keys.release(|| self.size());
    }

    /// Deletes the files of a segment that is no longer part of the log. A thread that uses one of
    /// them keeps it open until it is done. The next opening removes a file that cannot be deleted
    /// now, because no manifest lists it.
    pub(crate) fn retire(&self, ctx: &Context) {
        self.unlink(ctx);
        self.release();
    }

    /// As [`retire`](Segment::retire), but open files stay open until
    /// [`release`](Segment::release): a file system frees the room of a file when its last user
    /// closes it, and that may take a while.
    pub(crate) fn unlink(&self, ctx: &Context) {
        // Before the files are deleted: a thread that misses one of them checks this flag.
        self.retired.store(true, Ordering::Release);
        // Delete the indexes first. If one stays, the segment stays too, and its name shows that a
        // file is left.
        let files = [self.index_path(), self.keys_path(), self.path.clone()];
        ctx.held_files.remove(&*ctx.storage, files);
    }

    // -- the index --

    /// Notes the position of a batch that is about to be written.
    pub(crate) fn add_index_entry(&self, entry: IndexEntry) {
        self.index.add(entry);
    }

    /// Sets the whole index of a segment that was just written.
    pub(crate) fn set_index(&self, entries: Vec<IndexEntry>) {
        self.index.set(entries);
    }

    /// Marks the entries and keys below `position` as missing.
    pub(crate) fn set_index_missing_below(&self, position: u64) {
        self.index.set_missing_below(position);
        self.forget_keys(position);
    }

    /// Returns the position of a batch that is not after the batch of `offset`: a walk starts
    /// there.
    ///
    /// # Errors
    /// As [`source`](Segment::source), if the index must be rebuilt.
    pub(crate) fn seek(self: &Arc<Self>, ctx: &Context, identity: &Identity, offset: Offset) -> Result<u64> {
        self.complete_index(ctx, identity)?;
        let entry = self.index.at(offset.since(self.base));
        Ok(entry.map_or(FIRST_BATCH, |entry| u64::from(entry.position)))
    }

    /// Returns an offset such that every batch of the segment before it is older than `time`: a
    /// walk starts there.
    ///
    /// # Errors
    /// As [`source`](Segment::source), if the index must be rebuilt.
    pub(crate) fn seek_time(
        self: &Arc<Self>,
        ctx: &Context,
        identity: &Identity,
        time: Timestamp,
    ) -> Result<Offset> {
        self.complete_index(ctx, identity)?;
        let entry = self.index.before(time);
        Ok(entry.map_or(self.base, |entry| self.base.plus(u64::from(entry.offset_delta))))
    }

    /// Loads or rebuilds the entries that are not in memory.
    fn complete_index(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<()> {
        let Some(missing) = self.index.missing() else { return Ok(()) };
        let (entries, saved) =
            match index::load(ctx, identity, self, missing, self.end().unwrap_or(Offset::MAX)) {
                Some(entries) => (entries, self.is_sealed()),
                None => (index::build(self.walk(ctx, identity)?.until(missing), self.base), false),
            };
        self.index.complete(missing, entries, saved);
        Ok(())
    }

    /// Writes the side file for the first `covers` bytes. It is derived, so it is not synced, and a
    /// failure is not reported.
    pub(crate) fn save_index(self: &Arc<Self>, ctx: &Context, identity: &Identity, covers: u64, end: Offset) {
        if self.complete_index(ctx, identity).is_err() {
            return;
        }
        let Some(entries) = self.index.unsaved() else { return };
        if !ctx.reserve.may_write_derived() {
            return;
        }
        match index::write(ctx, identity, self, covers, end, entries) {
            Ok(()) if !self.retired.load(Ordering::Acquire) => self.index.set_saved(self.is_sealed()),
            _ => {
                // A partial index would be rebuilt anyway, and no thread reads the index of a
                // retired segment.
                let _ = ctx.storage.remove_file(&self.index_path());
            }
        }
    }
}

/// Notes that some bytes of a segment were written again, unchanged: they may not be durable.
pub(crate) fn note_written_again(segment: &Segment) {
    segment.marks.note_written();
}

impl Holder for Segment {
    fn register(&self) -> bool {
        self.handles.register()
    }

    fn forget(&self) -> bool {
        self.handles.forget()
    }

    fn holds(&self) -> Holds {
        let (own, keys) = (self.handles.holds(), self.keys.holds());
        Holds { files: own.files || keys.files, maps: own.maps || keys.maps }
    }

    fn is_dirty(&self) -> bool {
        self.marks.is_dirty()
    }

    fn last_used(&self) -> u64 {
        self.handles.last_used()
    }

    fn release(&self) {
        Segment::release(self);
    }
}
