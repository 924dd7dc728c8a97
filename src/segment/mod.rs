//! A segment: a file of batches with a header at its start, the open handles of the file, and its
//! sparse index.

mod batch;
pub(crate) mod builder;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod keys;
mod point;
mod source;
mod walker;
mod window;

use std::path::{Path, PathBuf};

pub(crate) use self::batch::{Batch, ByteView};
use self::keys::Keys;
pub(crate) use self::point::{FIRST_BATCH, Point, known_timestamp, timestamp_or_unknown};
pub(crate) use self::source::{HeaderError, Source, read_batch, read_records, read_records_of};
pub(crate) use self::walker::{Met, Walker, find_batch_in};
pub(crate) use self::window::Window;
use crate::config::ReadMode;
use crate::engine::files::Holder;
use crate::engine::{Context, Identity, Opened, corrupt, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::index::{IndexEntry, IndexFile};
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::storage::{File, Map, OpenMode, read_up_to, write_all_at};
use crate::sync::{Arc, AtomicBool, AtomicI64, AtomicU64, Mutex, OnceLock, Ordering, Rank};
use crate::types::{Offset, Timestamp};

/// One segment of a log, active or sealed.
pub(crate) struct Segment {
    pub(crate) base: Offset,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
    pub(crate) path: PathBuf,
    /// Compaction has rewritten it: its state in the manifest is `Compacted`.
    pub(crate) compacted: bool,
    /// The time after which its first tombstone may be removed, once that was looked up.
    pub(crate) horizon: OnceLock<Option<Timestamp>>,
    /// The end offset and the last CRC of the segment before it, as its header must have them, if
    /// that segment is known and unchanged.
    previous: Option<(Offset, u32)>,
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
    /// Whether some written bytes may not be durable.
    dirty: AtomicBool,
    /// Held during a sync, so only one thread syncs at a time. A thread that holds it and finds the
    /// segment not dirty knows that no sync of it is running. It contains the error of a failed
    /// sync. IMPORTANT: never retry a failed sync. A second one would succeed and hide that bytes
    /// of the first one are lost.
    syncing: Mutex<Option<Error>>,
    synced: AtomicBool,
    /// It is before the log start, and its files are being deleted.
    pub(crate) retired: AtomicBool,
    file: Mutex<Option<Opened<Arc<dyn File>>>>,
    map: Mutex<Option<Opened<Arc<Map>>>>,
    header_checked: AtomicBool,
    index: Mutex<Index>,
    /// Its keys. Used only by topics with streams.
    pub(crate) keys: Mutex<Keys>,
    /// Held by the thread that reads or writes the side file of the keys.
    pub(crate) completing: Mutex<()>,
    registered: AtomicBool,
    pub(crate) last_used: AtomicU64,
}

/// A sparse index: the offset of a batch every few kilobytes. A walk starts from it; it is never
/// trusted for more.
#[derive(Default)]
struct Index {
    entries: Vec<IndexEntry>,
    /// The entries below this byte position are missing. They are loaded or rebuilt by the first
    /// seek.
    missing_below: u64,
    /// Whether the side file has all entries.
    saved: bool,
}

impl Segment {
    /// Returns a segment as a manifest lists it. `previous` is the end offset and the last CRC of
    /// the entry before it.
    pub(crate) fn from_entry(dir: &Path, entry: &SegmentEntry, previous: Option<(Offset, u32)>) -> Self {
        let sealed = entry.state != SegmentState::Active;
        Segment {
            base: entry.base_offset,
            generation: entry.generation,
            epoch: entry.log_epoch,
            path: dir.join(names::segment_file(entry.base_offset, entry.generation)),
            previous,
            end: AtomicU64::new(if sealed { entry.end_offset.get() } else { u64::MAX }),
            size: AtomicU64::new(if sealed { entry.size } else { FIRST_BATCH }),
            max_timestamp: AtomicI64::new(entry.max_timestamp),
            syncing: Mutex::new(Rank::Syncing, None),
            compacted: entry.state == SegmentState::Compacted,
            horizon: OnceLock::new(),
            dirty: AtomicBool::new(!entry.state.is_synced()),
            synced: AtomicBool::new(entry.state.is_synced()),
            retired: AtomicBool::new(false),
            file: Mutex::new(Rank::SegmentFile, None),
            map: Mutex::new(Rank::SegmentMap, None),
            header_checked: AtomicBool::new(false),
            index: Mutex::new(
                Rank::Index,
                Index {
                    entries: Vec::new(),
                    missing_below: if sealed { entry.size } else { FIRST_BATCH },
                    saved: false,
                },
            ),
            keys: Mutex::new(Rank::Keys, Keys::missing_below(if sealed { entry.size } else { FIRST_BATCH })),
            completing: Mutex::new(Rank::CompletingKeys, ()),
            registered: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
        }
    }

    /// Returns base offset, generation and log epoch. No other segment of the log has the same.
    pub(crate) fn id(&self) -> (Offset, u32, u32) {
        (self.base, self.generation, self.epoch)
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
        self.dirty.store(true, Ordering::Release);
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
        *self.map.lock() = None;
        let mut index = self.index.lock();
        index.entries.retain(|entry| u64::from(entry.position) < size);
        index.missing_below = index.missing_below.min(size);
        index.saved = false;
    }

    /// Ends the segment at its base offset, because it is no longer part of the log. A reader
    /// positioned in it continues elsewhere.
    pub(crate) fn empty(&self) {
        self.end_at(self.base, FIRST_BATCH, None);
    }

    /// Gives it an end that does not come from appends. See [`Keys`].
    fn end_at(&self, end: Offset, size: u64, max_timestamp: Option<Timestamp>) {
        let mut keys = self.keys.lock();
        self.seal(end, size, max_timestamp);
        keys.forget(size);
    }

    /// Returns whether all its bytes are known to be durable and the manifest may list it as
    /// synced.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Makes every byte written before this call durable.
    ///
    /// # Errors
    /// An I/O error, of this sync or of an earlier one. Then the state of the bytes is unknown.
    pub(crate) fn sync(self: &Arc<Self>, ctx: &Context) -> Result<()> {
        let mut failed = self.syncing.lock();
        self.sync_alone(ctx, &mut failed)
    }

    fn sync_alone(self: &Arc<Self>, ctx: &Context, failed: &mut Option<Error>) -> Result<()> {
        if let Some(error) = failed {
            return Err(error.clone());
        }
        // Load it before the sync: an append during the sync makes the segment dirty again, and a
        // seal during the sync does not count.
        let sealed = self.is_sealed();
        self.dirty.store(false, Ordering::Release);
        let synced = self.file(ctx).and_then(|file| {
            file.sync_data().map_err(|e| Error::io(IoAction::Sync, &ctx.display(&self.path), e))
        });
        match synced {
            Ok(()) => {}
            // Retention has deleted the segment meanwhile: its bytes are no longer needed.
            Err(_) if self.retired.load(Ordering::Acquire) => return Ok(()),
            Err(error) => {
                self.dirty.store(true, Ordering::Release);
                *failed = Some(error.clone());
                return Err(error);
            }
        }
        if sealed {
            self.synced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// As [`sync`](Segment::sync), if a byte was written since the last sync. Waits for a sync that
    /// is running.
    ///
    /// # Errors
    /// As [`sync`](Segment::sync).
    pub(crate) fn sync_if_dirty(self: &Arc<Self>, ctx: &Context) -> Result<()> {
        let mut failed = self.syncing.lock();
        if self.is_dirty() { self.sync_alone(ctx, &mut failed) } else { Ok(()) }
    }

    /// Notes that all its bytes were synced by other means. If a sync had failed, the bytes must
    /// have been rewritten first.
    pub(crate) fn mark_synced(&self) {
        *self.syncing.lock() = None;
        self.dirty.store(false, Ordering::Release);
        self.synced.store(self.is_sealed(), Ordering::Release);
    }

    /// Returns the open file, for reading and writing (once sealed and synced, for reading only).
    /// Opens it if it is not open.
    ///
    /// # Errors
    /// A missing file is `Corrupt`, because the manifest lists it. Otherwise an I/O error.
    pub(crate) fn file(self: &Arc<Self>, ctx: &Context) -> Result<Arc<dyn File>> {
        self.last_used.store(ctx.files.tick(), Ordering::Relaxed);
        let mut slot = self.file.lock();
        if let Some(counted) = &*slot {
            return Ok(counted.value.clone());
        }
        let mode = if self.is_synced() || ctx.settings.read_only { OpenMode::Read } else { OpenMode::Write };
        let file = ctx.storage.open(&self.path, mode).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                corrupt(ctx, &self.path, 0, "the manifest lists the file, and it is missing")
            }
            _ => Error::io(IoAction::Open, &ctx.display(&self.path), e),
        })?;
        *slot = Some(ctx.files.count(file.clone()));
        drop(slot);
        ctx.files.make_room(self.clone());
        Ok(file)
    }

    /// Takes the file that was just created for this segment.
    pub(crate) fn adopt_file(self: &Arc<Self>, ctx: &Context, file: Arc<dyn File>) {
        self.header_checked.store(true, Ordering::Release);
        *self.file.lock() = Some(ctx.files.count(file));
        self.last_used.store(ctx.files.tick(), Ordering::Relaxed);
        ctx.files.make_room(self.clone());
    }

    /// Returns the bytes of a sealed segment, mapped.
    ///
    /// # Errors
    /// `Corrupt` if the file is shorter than in the manifest, or its header is not this segment's.
    pub(crate) fn map(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<Arc<Map>> {
        self.last_used.store(ctx.files.tick(), Ordering::Relaxed);
        if let Some(counted) = &*self.map.lock() {
            return Ok(counted.value.clone());
        }
        self.check_header(ctx, identity)?;
        let file = self.file(ctx)?;
        let size = self.size();
        let len = file.len().map_err(|e| Error::io(IoAction::Inspect, &ctx.display(&self.path), e))?;
        if len < size {
            let what = format!("the file has {len} bytes, the manifest lists {size}");
            return Err(corrupt(ctx, &self.path, len, &what));
        }
        let map = file.map(size).map_err(|e| Error::io(IoAction::Map, &ctx.display(&self.path), e))?;
        let map = Arc::new(map);
        *self.map.lock() = Some(ctx.files.count(map.clone()));
        // The map keeps the bytes. A file that is never written again needs no open handle as well.
        if self.is_synced() {
            *self.file.lock() = None;
        }
        ctx.files.make_room(self.clone());
        Ok(map)
    }

    /// Returns the bytes of the segment, mapped or read, according to the read mode.
    ///
    /// # Errors
    /// As [`map`](Segment::map) and [`file`](Segment::file).
    pub(crate) fn source(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<Source> {
        if self.is_sealed() && ctx.settings.read_mode == ReadMode::Map {
            return Ok(Source::Map(self.map(ctx, identity)?));
        }
        self.check_header(ctx, identity)?;
        let file = self.file(ctx)?;
        Ok(Source::Window(Window::new(file, ctx.display(&self.path))))
    }

    /// As [`source`](Segment::source), for reading a few scattered batches: reads ahead no more
    /// than a batch of few records needs.
    ///
    /// # Errors
    /// As [`source`](Segment::source).
    pub(crate) fn source_of_few(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<Source> {
        self.source(ctx, identity).map(|source| match source {
            Source::Window(window) => Source::Window(window.of_few()),
            Source::Map(map) => Source::Map(map),
        })
    }

    /// Reads and checks the file's header, once.
    ///
    /// # Errors
    /// `Corrupt` or `UnsupportedFormat` if the header is not this segment's; an I/O error.
    pub(crate) fn check_header(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<()> {
        if self.header_checked.load(Ordering::Acquire) {
            return Ok(());
        }
        let file = self.file(ctx)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let n = read_up_to(&*file, &mut bytes, 0)
            .map_err(|e| Error::io(IoAction::Read, &ctx.display(&self.path), e))?;
        let header = SegmentHeader::decode(bytes.get(..n).unwrap_or(&[]))
            .map_err(|m| malformed(ctx, &self.path, 0, &m))?;
        if let Some(what) = self.mismatch(&header, identity) {
            return Err(corrupt(ctx, &self.path, 0, what));
        }
        self.header_checked.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns whether a valid header is this segment's, without a check of its fields about the
    /// segment before it.
    pub(crate) fn is_own(&self, header: &SegmentHeader, identity: &Identity) -> bool {
        (header.topic_id, header.partition, header.secret)
            == (identity.topic_id, identity.partition, identity.secret)
            && (header.base_offset, header.generation, header.log_epoch)
                == (self.base, self.generation, self.epoch)
    }

    /// As [`check_header`](Segment::check_header), even if it was checked before.
    ///
    /// # Errors
    /// As [`check_header`](Segment::check_header).
    pub(crate) fn check_header_again(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<()> {
        self.header_checked.store(false, Ordering::Release);
        self.check_header(ctx, identity)
    }

    /// Returns why a valid header is not this segment's; `None` if it is.
    pub(crate) fn mismatch(&self, header: &SegmentHeader, identity: &Identity) -> Option<&'static str> {
        if header.topic_id != identity.topic_id || header.partition != identity.partition {
            Some("the segment belongs to another partition")
        } else if header.base_offset != self.base || header.generation != self.generation {
            Some("the segment's header contradicts its file name")
        } else if header.secret != identity.secret {
            Some("the segment's secret contradicts the manifest")
        } else if header.log_epoch != self.epoch {
            Some("the segment's log epoch contradicts the manifest")
        } else if self.previous.is_some_and(|previous| previous != (header.prev_end, header.prev_crc)) {
            Some("the segment does not follow the one before it")
        } else {
            None
        }
    }

    /// Returns whether some written bytes are not synced.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Closes the open files. A thread that uses one of them keeps it open until it is done.
    pub(crate) fn release(&self) {
        *self.file.lock() = None;
        *self.map.lock() = None;
        let mut index = self.index.lock();
        if index.saved && self.is_sealed() {
            *index = Index { entries: Vec::new(), missing_below: self.size(), saved: true };
        }
        self.keys.lock().release(self.size());
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
        let is_gone = |path: &Path| match ctx.storage.remove_file(path) {
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        if is_gone(&self.index_path()) && is_gone(&self.keys_path()) {
            is_gone(&self.path);
        }
    }

    // -- the index --

    /// Notes the position of a batch that is about to be written.
    pub(crate) fn add_index_entry(&self, entry: IndexEntry) {
        self.index.lock().entries.push(entry);
    }

    /// Sets the whole index of a segment that was just written.
    pub(crate) fn set_index(&self, entries: Vec<IndexEntry>) {
        *self.index.lock() = Index { entries, missing_below: FIRST_BATCH, saved: false };
    }

    /// Marks the entries and keys below `position` as missing.
    pub(crate) fn set_index_missing_below(&self, position: u64) {
        self.index.lock().missing_below = position;
        self.forget_keys(position);
    }

    /// Returns the position of a batch that is not after the batch of `offset`: a walk starts
    /// there.
    ///
    /// # Errors
    /// As [`source`](Segment::source), if the index must be rebuilt.
    pub(crate) fn seek(self: &Arc<Self>, ctx: &Context, identity: &Identity, offset: Offset) -> Result<u64> {
        self.complete_index(ctx, identity)?;
        let index = self.index.lock();
        let delta = offset.since(self.base);
        let at = index.entries.partition_point(|entry| u64::from(entry.offset_delta) <= delta);
        Ok(at
            .checked_sub(1)
            .and_then(|at| index.entries.get(at))
            .map_or(FIRST_BATCH, |e| u64::from(e.position)))
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
        let index = self.index.lock();
        let at = index.entries.partition_point(|entry| entry.max_before < time.as_millis());
        let last = at.checked_sub(1).and_then(|at| index.entries.get(at));
        Ok(last.map_or(self.base, |entry| self.base.plus(u64::from(entry.offset_delta))))
    }

    /// Loads or rebuilds the entries that are not in memory.
    fn complete_index(self: &Arc<Self>, ctx: &Context, identity: &Identity) -> Result<()> {
        let missing = self.index.lock().missing_below;
        if missing <= FIRST_BATCH {
            return Ok(());
        }
        let (entries, saved) = match self.load_index(ctx, identity, missing) {
            Some(entries) => (entries, true),
            None => (self.rebuild_index(ctx, identity, missing)?, false),
        };
        let mut index = self.index.lock();
        if index.missing_below == missing {
            index.entries.splice(0..0, entries);
            index.missing_below = FIRST_BATCH;
            index.saved = saved && self.is_sealed();
        }
        Ok(())
    }

    /// Returns the entries of the side file, if it covers exactly the bytes below `covers`.
    fn load_index(&self, ctx: &Context, identity: &Identity, covers: u64) -> Option<Vec<IndexEntry>> {
        let bytes = crate::storage::read_file(&*ctx.storage, &self.index_path(), u64::from(u32::MAX)).ok()?;
        let file = IndexFile::decode(&bytes).ok()?;
        let ours = file.topic_id == identity.topic_id
            && file.partition == identity.partition
            && file.base_offset == self.base
            && file.generation == self.generation
            && file.log_epoch == self.epoch
            && file.covers_bytes == covers;
        ours.then_some(file.entries)
    }

    /// Walks the batch headers below `end`. Notes one entry for each step of `STEP` bytes.
    fn rebuild_index(
        self: &Arc<Self>,
        ctx: &Context,
        identity: &Identity,
        end: u64,
    ) -> Result<Vec<IndexEntry>> {
        const STEP: u64 = 4096;
        let mut walk = Walker::over(ctx, identity, self)?.until(end);
        let (mut entries, mut noted, mut max_before) = (Vec::new(), FIRST_BATCH, i64::MIN);
        // A damaged batch ends the index here. A reader that reaches it reports the damage.
        while let Ok(Some(met)) = walk.look() {
            if met.position - noted >= STEP {
                if let (Ok(offset_delta), Ok(position)) =
                    (u32::try_from(met.header.base_offset.since(self.base)), u32::try_from(met.position))
                {
                    entries.push(IndexEntry { offset_delta, position, max_before });
                }
                noted = met.position;
            }
            max_before = max_before.max(met.header.max_timestamp.as_millis());
            walk.pass(&met);
        }
        Ok(entries)
    }

    /// Writes the side file for the first `covers` bytes. It is derived, so it is not synced, and a
    /// failure is not reported.
    pub(crate) fn save_index(self: &Arc<Self>, ctx: &Context, identity: &Identity, covers: u64, end: Offset) {
        if self.complete_index(ctx, identity).is_err() {
            return;
        }
        let entries = {
            let index = self.index.lock();
            if index.saved {
                return;
            }
            index.entries.clone()
        };
        if !ctx.reserve.may_write_derived() {
            return;
        }
        let bytes = IndexFile {
            topic_id: identity.topic_id,
            partition: identity.partition,
            base_offset: self.base,
            generation: self.generation,
            log_epoch: self.epoch,
            covers_bytes: covers,
            end_offset: end,
            entries,
        }
        .encode();
        let written = ctx
            .storage
            .open(&self.index_path(), OpenMode::Truncate)
            .and_then(|file| write_all_at(&*file, &bytes, 0).map_err(|(_, e)| e));
        match written {
            Ok(()) if !self.retired.load(Ordering::Acquire) => self.index.lock().saved = self.is_sealed(),
            _ => {
                // A partial index would be rebuilt anyway, and no thread reads the index of a
                // retired segment.
                let _ = ctx.storage.remove_file(&self.index_path());
            }
        }
    }

    /// Returns the path of the side file of the index.
    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_file_name(names::index_file(self.base, self.generation))
    }
}

impl Holder for Segment {
    fn register(&self) -> bool {
        !self.registered.swap(true, Ordering::AcqRel)
    }

    fn forget(&self) -> bool {
        self.registered.store(false, Ordering::Release);
        false
    }

    fn is_open(&self) -> bool {
        self.file.lock().is_some() || self.map.lock().is_some() || self.keys.lock().is_open()
    }

    fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    fn release(&self) {
        Segment::release(self);
    }
}
