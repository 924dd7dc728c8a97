//! The open handles of a segment's file: the file and its map. They count against the budget of
//! open files, which closes the least recently used.

use std::path::Path;

use super::map::SegmentMap;
use crate::config::ReadMode;
use crate::engine::files::{Holder, Holds};
use crate::engine::{Context, corrupt};
use crate::error::{Error, IoAction, NoMap, Result, is_no_map};
use crate::storage::{File, OpenMode};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Rank};

/// The open file and the map of a segment, each opened by its first use.
pub(super) struct Handles {
    file: Mutex<Option<Arc<dyn File>>>,
    map: Mutex<Option<Arc<SegmentMap>>>,
    /// How many reads have met bytes after the map since it was made.
    beyond_map: AtomicU64,
    /// The file system has no maps.
    unmappable: AtomicBool,
    /// The file's header was checked.
    header_checked: AtomicBool,
    /// The holder is in the list of the budget of open files.
    registered: AtomicBool,
    last_used: AtomicU64,
}

/// A segment that grows is mapped, or mapped again, after so many reads that met no map, or one for
/// each [`BYTES_PER_READ`] of the map that there is.
const READS_MIN: u64 = 16;
const BYTES_PER_READ: u64 = 4 << 20;
/// It is mapped at once for a reader that has so many bytes before it, or an eighth of the map that
/// there is: reading them by position copies each.
const AHEAD_MIN: u64 = 1 << 20;

impl Handles {
    pub(super) fn new() -> Self {
        Handles {
            file: Mutex::new(Rank::SegmentFile, None),
            map: Mutex::new(Rank::SegmentMap, None),
            beyond_map: AtomicU64::new(0),
            unmappable: AtomicBool::new(false),
            header_checked: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
        }
    }

    /// Notes that the segment is used now.
    #[inline]
    pub(super) fn touch(&self, ctx: &Context) {
        self.last_used.store(ctx.files.tick(), Ordering::Relaxed);
    }

    /// Returns the open file of `holder`. Opens it if it is not open: for reading only if all its
    /// bytes are synced.
    ///
    /// # Errors
    /// A missing file is `Corrupt`, because the manifest lists it. Otherwise an I/O error.
    #[inline]
    pub(super) fn file(
        &self,
        ctx: &Context,
        path: &Path,
        holder: &Arc<impl Holder + 'static>,
        is_synced: impl FnOnce() -> bool,
    ) -> Result<Arc<dyn File>> {
        self.touch(ctx);
        if let Some(opened) = &*self.file.lock() {
            return Ok(opened.clone());
        }
        self.open_file(ctx, path, holder, is_synced)
    }

    #[cold]
    fn open_file(
        &self,
        ctx: &Context,
        path: &Path,
        holder: &Arc<impl Holder + 'static>,
        is_synced: impl FnOnce() -> bool,
    ) -> Result<Arc<dyn File>> {
        let read_only = is_synced() || ctx.settings.read_only;
        // IMPORTANT: open it with no lock of a segment held. Where the process has no descriptor
        // left, this closes files of other segments.
        let opened = open(ctx, path, if read_only { OpenMode::Read } else { OpenMode::Write })?;
        let opened = ctx.files.count_file(opened);
        // If another thread was faster, both use its file.
        let file = self.file.lock().get_or_insert_with(|| -> Arc<dyn File> { Arc::new(opened) }).clone();
        ctx.files.make_room(holder.clone());
        Ok(file)
    }

    /// Takes the file of `holder` that was just created, with its header.
    pub(super) fn adopt_file(&self, ctx: &Context, holder: &Arc<impl Holder + 'static>, file: Arc<dyn File>) {
        self.note_header_checked();
        *self.file.lock() = Some(Arc::new(ctx.files.count_file(file)));
        self.touch(ctx);
        ctx.files.make_room(holder.clone());
    }

    /// Returns the map, if there is one that has at least so many bytes.
    #[inline]
    pub(super) fn map_of(&self, bytes: u64) -> Option<Arc<SegmentMap>> {
        self.map.lock().as_ref().filter(|map| map.len() as u64 >= bytes).cloned()
    }

    /// Counts a read that meets bytes after the map of a segment that grows, `ahead` of its end.
    /// Returns whether they should be mapped: if they are many, or after some reads, and the more
    /// the longer the map is, because each page of a new map costs its first reader a page fault,
    /// and the notes are copied.
    pub(super) fn is_worth_a_map(&self, ahead: u64) -> bool {
        let reads = self.beyond_map.fetch_add(1, Ordering::Relaxed) + 1;
        let mapped = self.map.lock().as_ref().map_or(0, |map| map.len() as u64);
        ahead >= AHEAD_MIN.max(mapped / 8) || reads >= READS_MIN.max(mapped / BYTES_PER_READ)
    }

    /// Returns whether a map of so many bytes may be tried. Closes other maps for it.
    pub(super) fn may_map(&self, ctx: &Context, size: u64) -> bool {
        !self.unmappable.load(Ordering::Relaxed) && ctx.files.has_room_for_map(size)
    }

    /// Maps the first `size` bytes of an open file. Returns `None` if the process has no room for
    /// the map, or the file system has no maps: then the file must be read by position. The caller
    /// must make room for the map.
    ///
    /// # Errors
    /// `Corrupt` if the file is shorter; an I/O error.
    pub(super) fn map_file(
        &self,
        ctx: &Context,
        path: &Path,
        file: &dyn File,
        size: u64,
    ) -> Result<Option<Arc<SegmentMap>>> {
        let len = file.len().map_err(|e| Error::io(IoAction::Inspect, &ctx.display(path), e))?;
        if len < size {
            let what = format!("the file has {len} bytes, the manifest lists {size}");
            return Err(corrupt(ctx, path, len, &what));
        }
        let map = match file.map(size) {
            Err(e) if is_no_map(&e) == Some(NoMap::NoRoom) && ctx.files.close_maps() => file.map(size),
            mapped => mapped,
        };
        match map {
            Ok(map) => {
                let keeps_notes = ctx.settings.read_mode != ReadMode::Checked;
                let map = ctx.files.count_map(map);
                let map = Arc::new(match self.map_of(0) {
                    Some(before) => SegmentMap::extending(map, &before, keeps_notes),
                    None => SegmentMap::new(map, ctx.files.tick(), keeps_notes),
                });
                self.beyond_map.store(0, Ordering::Relaxed);
                let mut current = self.map.lock();
                // Another thread may have mapped more meanwhile.
                let longest = current.take().filter(|other| other.len() > map.len()).unwrap_or(map);
                *current = Some(longest.clone());
                Ok(Some(longest))
            }
            Err(e) => match is_no_map(&e) {
                Some(reason) => {
                    self.unmappable.store(reason == NoMap::Unsupported, Ordering::Relaxed);
                    Ok(None)
                }
                None => Err(Error::io(IoAction::Map, &ctx.display(path), e)),
            },
        }
    }

    /// Returns whether the header was checked since the last
    /// [`forget_header`](Handles::forget_header).
    #[inline]
    pub(super) fn is_header_checked(&self) -> bool {
        self.header_checked.load(Ordering::Acquire)
    }

    pub(super) fn note_header_checked(&self) {
        self.header_checked.store(true, Ordering::Release);
    }

    pub(super) fn forget_header(&self) {
        self.header_checked.store(false, Ordering::Release);
    }

    /// Closes the file. A thread that uses it keeps it open until it is done.
    pub(super) fn close_file(&self) {
        *self.file.lock() = None;
    }

    /// Closes the map. A thread that uses it keeps it until it is done.
    pub(super) fn close_map(&self) {
        *self.map.lock() = None;
    }

    pub(super) fn holds(&self) -> Holds {
        let maps = self.map.lock().is_some();
        let files = self.file.lock().is_some();
        Holds { files, maps }
    }

    /// See [`Holder::register`].
    pub(super) fn register(&self) -> bool {
        !self.registered.swap(true, Ordering::AcqRel)
    }

    /// See [`Holder::forget`].
    pub(super) fn forget(&self) -> bool {
        self.registered.store(false, Ordering::Release);
        false
    }

    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }
}

fn open(ctx: &Context, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
    ctx.storage.open(path, mode).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            corrupt(ctx, path, 0, "the manifest lists the file, and it is missing")
        }
        _ => Error::io(IoAction::Open, &ctx.display(path), e),
    })
}
