//! Reads a log from an offset on: keeps a place in the files and walks. Indexes only seek.

use super::Log;
use crate::engine::{corrupt, malformed};
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, check_body};
use crate::segment::batch::Batch;
use crate::segment::{
    FIRST_BATCH, HeaderError, Purpose, Segment, Source, find_batch_in, misfit, read_records,
};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

/// The position of a reader in one log.
pub(crate) struct Cursor {
    log: Arc<Log>,
    /// The next offset to read.
    next: Offset,
    /// The position of that offset in the files, once it was looked up.
    place: Option<CursorPlace>,
    purpose: Purpose,
}

struct CursorPlace {
    segment: Arc<Segment>,
    position: u64,
    source: Source,
    /// The visible end when the source's window was last read. Bytes of later batches in the window
    /// may be incomplete.
    seen: Offset,
    /// No batch was read since it was looked up.
    is_new: bool,
    /// The revision of the log when the source was given up by [`rest`](Cursor::rest).
    revision: u64,
}

impl Cursor {
    /// Returns a cursor that reads from `next` on. Whether that offset exists is checked when it is
    /// read.
    pub(crate) fn new(log: Arc<Log>, next: Offset) -> Self {
        Cursor { log, next, place: None, purpose: Purpose::Walk }
    }

    /// Returns the same cursor, which reads for another purpose.
    pub(crate) fn reading_for(self, purpose: Purpose) -> Self {
        Cursor { purpose, ..self }
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Returns the next offset to read.
    pub(crate) fn offset(&self) -> Offset {
        self.next
    }

    /// Moves the cursor to another offset.
    pub(crate) fn go_to(&mut self, next: Offset) {
        if next < self.next {
            self.place = None;
        }
        self.next = next;
    }

    /// Gives up the open file or the map until the next call, so that a cursor that waits keeps no
    /// descriptor. The position stays, and the bytes that were read ahead.
    pub(crate) fn rest(&mut self) {
        if let Some(place) = &mut self.place
            && !place.source.is_resting()
        {
            place.revision = self.log.revision();
            place.source.rest();
        }
    }

    /// Returns a copy of a batch that does not refer to a map, if the batch does and maps are
    /// scarce: for a reader that keeps it for a later call.
    pub(crate) fn copy_if_scarce(&self, batch: &Batch) -> Option<Arc<Batch>> {
        let ctx = self.log.ctx();
        if ctx.files.is_short_of_maps() { batch.without_map(ctx).map(Arc::new) } else { None }
    }

    /// Returns whether there may be a record to read.
    pub(crate) fn has_more(&self) -> bool {
        self.next != self.log.visible_end()
    }

    /// Returns the next visible batch with offsets at or after the cursor, and moves past it. Its
    /// first records may be before the cursor's old offset; the caller must drop them. Returns
    /// `None` at the visible end.
    ///
    /// # Errors
    /// Out of range, `Corrupt`, closed, or an I/O error. The cursor does not move.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Arc<Batch>>> {
        let (log, from) = (self.log.clone(), self.next);
        let mut looks = 0;
        log.consistently(|| {
            looks += 1;
            if looks > 1 {
                // The position may not be in the log any more.
                (self.next, self.place) = (from, None);
            }
            self.step().map(Some)
        })
    }

    /// As [`next_batch`](Cursor::next_batch), for a log that is not replaced meanwhile.
    fn step(&mut self) -> Result<Option<Arc<Batch>>> {
        let visible = self.check()?;
        while self.next < visible {
            let batch = match self.log.tail.get(self.next) {
                Some(batch) => Ok(self.adopt(batch)),
                None => self.load(visible),
            };
            self.check_start()?;
            let Some(batch) = batch? else { return Ok(None) };
            if batch.header.base_offset >= visible {
                // A gap extends to the visible end, and the batch after it is not visible yet.
                return Ok(None);
            }
            // Use the header's last offset and not the last record's: compaction may have emptied
            // the batch.
            self.next = batch.header.end_offset();
            if let Some(place) = &mut self.place {
                place.position = batch.next_position;
                if self.next >= visible
                    && let Source::Window(window) = &mut place.source
                {
                    // A reader of many partitions that has come to their ends keeps no bytes of
                    // them.
                    window.forget();
                }
            }
            if batch.header.count > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// IMPORTANT: call this after reading from the files. If retention has passed the cursor
    /// meanwhile, the segment list may begin after it already, which looks like a gap, or a file
    /// may be deleted, which looks like damage.
    fn check_start(&mut self) -> Result<()> {
        if self.next < self.log.log_start() {
            self.place = None;
            return Err(self.log.out_of_range(self.next));
        }
        Ok(())
    }

    /// Returns the header of the batch that [`next_batch`](Cursor::next_batch) would return. Does
    /// not read or check its records, and does not move past it: see [`pass`](Cursor::pass).
    ///
    /// # Errors
    /// As `next_batch`, except for damage of the records.
    pub(crate) fn peek(&mut self) -> Result<Option<BatchHeader>> {
        while let Some(header) = self.peek_any()? {
            if header.count > 0 {
                return Ok(Some(header));
            }
            self.pass(&header);
        }
        Ok(None)
    }

    /// As [`peek`](Cursor::peek), but also returns a batch that compaction has emptied.
    ///
    /// # Errors
    /// As [`peek`](Cursor::peek).
    pub(crate) fn peek_any(&mut self) -> Result<Option<BatchHeader>> {
        let log = self.log.clone();
        let mut looks = 0;
        log.consistently(|| {
            looks += 1;
            if looks > 1 {
                self.place = None;
            }
            let visible = self.check()?;
            if self.next >= visible {
                return Ok(Some(None));
            }
            let header = match self.log.tail.get(self.next) {
                Some(batch) => Some(batch.header),
                None => self.find(visible)?,
            };
            Ok(Some(header.filter(|header| header.base_offset < visible)))
        })
    }

    /// If the next visible batch is `wanted`, appends its header and body as stored to `out`, and
    /// moves past it. Checks both checksums; decompresses nothing. Returns `None` at the visible
    /// end, and if the batch is not wanted.
    ///
    /// # Errors
    /// As `next_batch`, except for damage that only decompression or the records would show. `out`
    /// is unchanged.
    pub(crate) fn next_stored(
        &mut self,
        out: &mut Vec<u8>,
        wanted: impl FnOnce(&BatchHeader) -> bool,
    ) -> Result<Option<BatchHeader>> {
        self.log.check_readable()?;
        let visible = self.check()?;
        if self.next >= visible {
            return Ok(None);
        }
        let before = out.len();
        let found = self.find(visible).and_then(|header| match (header, self.place.take()) {
            (Some(header), Some(mut place)) if header.base_offset < visible && wanted(&header) => {
                let copied = self.copy_stored(&mut place, &header, out);
                self.place = Some(place);
                copied.map(|()| Some(header))
            }
            (_, place) => {
                self.place = place;
                Ok(None)
            }
        });
        self.check_start().inspect_err(|_| out.truncate(before))?;
        if let Some(header) = found.as_ref().ok().and_then(Option::as_ref) {
            self.next = header.end_offset();
            if let Some(place) = &mut self.place {
                place.position += header.stored_bytes();
            }
        }
        found
    }

    /// Copies the batch at `place`, which has this header, after its body has passed its checksum.
    fn copy_stored(&self, place: &mut CursorPlace, header: &BatchHeader, out: &mut Vec<u8>) -> Result<()> {
        let ctx = self.log.ctx();
        let (position, stored) = (place.position, HEADER_BYTES + header.body_len as usize);
        let bytes = place.source.get(ctx, position, stored)?;
        match check_body(header, bytes.get(HEADER_BYTES..).unwrap_or_default()) {
            Ok(()) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Err(m) => {
                let body = position + HEADER_BYTES as u64;
                Err(self.damaged(place, malformed(ctx, &place.segment.path, body, &m)))
            }
        }
    }

    /// Moves past a batch without reading it.
    pub(crate) fn pass(&mut self, header: &BatchHeader) {
        self.next = header.end_offset();
    }

    /// Returns the visible end, if the cursor's offset is in the log.
    fn check(&mut self) -> Result<Offset> {
        let visible = self.log.visible_end();
        if self.next < self.log.log_start() || self.next > visible {
            self.place = None;
            return Err(self.log.out_of_range(self.next));
        }
        Ok(visible)
    }

    /// Continues after a batch of the tail cache.
    fn adopt(&mut self, batch: Arc<Batch>) -> Option<Arc<Batch>> {
        let here = self.place.as_ref().is_some_and(|place| Arc::ptr_eq(&place.segment, &batch.segment));
        if !here {
            // It is looked up again if this cursor reads from a file later.
            self.place = None;
        }
        Some(batch)
    }

    /// Reads the batch at the cursor's position from the files.
    fn load(&mut self, visible: Offset) -> Result<Option<Arc<Batch>>> {
        let Some(header) = self.find(visible)? else { return Ok(None) };
        let Some(mut place) = self.place.take() else { return Ok(None) };
        let loaded = self.load_at(&mut place, header);
        self.place = Some(place);
        loaded.map(Some)
    }

    /// Moves the cursor's position to the batch with its offset, or to the first one after it, and
    /// reads the header.
    fn find(&mut self, visible: Offset) -> Result<Option<BatchHeader>> {
        loop {
            let place = match self.place.take() {
                // If the segment has ended, by a roll or a truncation, look the offset up in the
                // current list.
                Some(place) if place.segment.end().is_none_or(|end| self.next < end) => self.wake(place)?,
                _ => None,
            };
            let place = match place {
                Some(place) => Some(place),
                None => self.seek(visible)?,
            };
            let Some(mut place) = place else { return Ok(None) };
            if self.next < place.segment.base
                && place.segment.end().is_none()
                && place.segment.size() <= FIRST_BATCH
            {
                // A gap extends to the log's end, and nothing was appended since the truncation
                // that left it.
                self.place = Some(place);
                return Ok(None);
            }
            if place.source.ends_at(place.position) && place.position < place.segment.size() {
                (place.source, place.seen) = (self.source_at(&place.segment, place.position)?, visible);
            }
            if let Source::Window(window) = &mut place.source
                && place.seen <= self.next
            {
                window.forget_up_to(place.segment.size());
                place.seen = visible;
            }
            let looked = self.read_header(&mut place, visible);
            self.place = Some(place);
            match looked? {
                Looked::Here(header) => return Ok(Some(header)),
                Looked::Before => {}
            }
        }
    }

    /// Reads and checks the header at `place`. Steps over a batch that ends before the cursor
    /// without reading it.
    fn read_header(&self, place: &mut CursorPlace, visible: Offset) -> Result<Looked> {
        let ctx = self.log.ctx();
        let seed = self.log.seed();
        let position = place.position;
        let (header, _) = match place.source.header(ctx, position, seed) {
            Ok(found) => found,
            Err(HeaderError::Io(e)) => return Err(e),
            Err(HeaderError::Malformed(m)) => {
                // The damage may be before the cursor's offset. Then this reader need not report
                // it.
                let reaches = |header: &BatchHeader| header.end_offset() > self.next;
                if let Some((found, header)) = self.find_after(place, reaches)
                    && header.base_offset <= self.next
                {
                    place.position = found;
                    return Ok(Looked::Before);
                }
                return Err(self.damaged(place, malformed(ctx, &place.segment.path, position, &m)));
            }
        };
        // A batch becomes visible as a whole.
        let visible = if header.base_offset < visible { visible } else { Offset::MAX };
        let end = place.segment.end().unwrap_or(Offset::MAX).min(visible);
        // The log stores its epoch before it appends in it.
        if let Some(what) = misfit(&place.segment, &header, end, self.log.epoch()) {
            return Err(self.damaged(place, corrupt(ctx, &place.segment.path, position, &what)));
        }
        if header.end_offset() <= self.next {
            place.position += header.stored_bytes();
            return Ok(Looked::Before);
        }
        if header.base_offset > self.next && place.segment.generation == 0 && self.next > place.segment.base {
            // In a segment that was never compacted offsets have no gaps, and a seek starts at or
            // before its offset. So a walk from any position notices a missing batch here.
            let what = format!("the batch begins at offset {} and not at {}", header.base_offset, self.next);
            return Err(self.damaged(place, corrupt(ctx, &place.segment.path, position, &what)));
        }
        Ok(Looked::Here(header))
    }

    /// Reads, checks and decompresses the batch at `place`, which has this header.
    fn load_at(&self, place: &mut CursorPlace, header: BatchHeader) -> Result<Arc<Batch>> {
        let ctx = self.log.ctx();
        // A read of one record looks its place up and then reads one batch.
        let is_lookup = std::mem::take(&mut place.is_new) && self.purpose == Purpose::Walk;
        let purpose = if is_lookup { Purpose::Lookup } else { self.purpose };
        match read_records(ctx, &mut place.source, place.position, &header, purpose)? {
            Ok(records) => Ok(Arc::new(Batch {
                source: self.log.identity().clone(),
                header,
                records,
                segment: place.segment.clone(),
                next_position: place.position + header.stored_bytes(),
            })),
            Err(m) => {
                let body = place.position + HEADER_BYTES as u64;
                Err(self.damaged(place, malformed(ctx, &place.segment.path, body, &m)))
            }
        }
    }

    /// Finds the segment of the cursor's offset, or the first one after it, and a position in it at
    /// or before the offset's batch.
    fn seek(&self, visible: Offset) -> Result<Option<CursorPlace>> {
        let ctx = self.log.ctx();
        let segments = self.log.segments();
        // The first segment that does not end at or before the offset.
        let at = segments.partition_point(|segment| segment.end().is_some_and(|end| end <= self.next));
        let Some(segment) = segments.get(at).cloned() else { return Ok(None) };
        let position = match segment.base < self.next {
            true => segment
                .seek(ctx, self.log.identity(), self.next)
                .map_err(|error| self.unreadable(&segment, error))?,
            false => FIRST_BATCH,
        };
        let source = self.source_at(&segment, position)?;
        let mut place = CursorPlace { segment, position, source, seen: visible, is_new: true, revision: 0 };
        // Index entries are hints. Use one only if there is a batch at or before the offset at its
        // position.
        let hint_holds = place
            .source
            .header(ctx, position, self.log.seed())
            .is_ok_and(|(header, _)| header.base_offset <= self.next);
        if !hint_holds {
            place.position = FIRST_BATCH;
        }
        Ok(Some(place))
    }

    /// Opens the source of a place again, if it was given up. Returns `None` if the segment may no
    /// longer be part of the log: then the offset must be looked up again.
    fn wake(&self, mut place: CursorPlace) -> Result<Option<CursorPlace>> {
        if !place.source.is_resting() {
            return Ok(Some(place));
        }
        if self.log.revision() != place.revision {
            return Ok(None);
        }
        let (ctx, segment) = (self.log.ctx(), &place.segment);
        let woken = match &mut place.source {
            Source::Window(window) => segment.file(ctx).map(|file| window.wake(file)),
            given_up => segment.source(ctx, self.log.identity()).map(|source| *given_up = source),
        };
        match woken {
            Ok(()) => Ok(Some(place)),
            // Its files were deleted meanwhile.
            Err(_) if place.segment.retired.load(Ordering::Acquire) => Ok(None),
            Err(error) => Err(self.unreadable(&place.segment, error)),
        }
    }

    fn source_at(&self, segment: &Arc<Segment>, position: u64) -> Result<Source> {
        let source = segment.source_at(self.log.ctx(), self.log.identity(), Some(position));
        source.map_err(|error| self.unreadable(segment, error))
    }

    /// Adds to an error that makes a whole segment unreadable the affected offset, and the start of
    /// the next segment.
    fn unreadable(&self, segment: &Segment, error: Error) -> Error {
        let Error::Corrupt(mut corruption) = error else { return error };
        self.log.health().note_damage();
        corruption.offset.get_or_insert(self.next.max(segment.base));
        corruption.resume = corruption.resume.or_else(|| self.next_segment(segment));
        Error::Corrupt(corruption)
    }

    /// Returns the base offset of the segment after this one, if some of it is visible.
    fn next_segment(&self, segment: &Segment) -> Option<Offset> {
        let segments = self.log.segments();
        let after = segments.partition_point(|other| other.base <= segment.base);
        segments.get(after).map(|next| next.base).filter(|base| *base < self.log.visible_end())
    }

    /// Adds to an error of damage the offset that cannot be read, and the next one that can.
    fn damaged(&self, place: &mut CursorPlace, error: Error) -> Error {
        let Error::Corrupt(mut corruption) = error else { return error };
        self.log.health().note_damage();
        corruption.partition = Some(self.log.identity.topic_partition());
        (corruption.offset, corruption.resume) = (Some(self.next), self.resume_after(place));
        Error::Corrupt(corruption)
    }

    /// Returns the base offset of the next valid batch after a damaged position.
    fn resume_after(&self, place: &mut CursorPlace) -> Option<Offset> {
        if let Some((_, header)) = self.find_after(place, |header| header.base_offset > self.next) {
            return Some(header.base_offset);
        }
        self.next_segment(&place.segment)
    }

    /// Returns the first valid and wanted batch of the segment after a damaged position, and its
    /// position.
    fn find_after(
        &self,
        place: &mut CursorPlace,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Option<(u64, BatchHeader)> {
        let CursorPlace { segment, position, source, .. } = place;
        let range = *position + 1..segment.size();
        if source.ends_at(range.end.saturating_sub(1)) {
            *source = segment.source(self.log.ctx(), self.log.identity()).ok()?;
        }
        let found = find_batch_in(self.log.ctx(), self.log.seed(), source, range, |met| {
            met.header.log_epoch >= segment.epoch && wanted(&met.header)
        });
        found.ok().flatten().map(|met| (met.position, met.header))
    }
}

enum Looked {
    Here(BatchHeader),
    /// The batch ends before the cursor. The position has moved past it.
    Before,
}
