//! Continues a log in a new segment. A roll, a truncation, an accepted loss and the recovery of a
//! torn tail all use this.
//!
//! 1. Write the segment's file, with its header and perhaps one batch, and sync it; then sync its
//!    directory.
//! 2. Replace the manifest by one that lists the segment: the commit point.
//!
//! After a crash before 2 the file is a leftover that no manifest lists, and nothing has changed.
//! After 2 the old segments are in the state that the manifest lists. IMPORTANT: 1 must be durable
//! before 2. An opening treats a listed segment without a valid header as damage, because no crash
//! leaves one.

use std::path::Path;

use super::manifest::ManifestError;
use crate::engine::{Context, Identity};
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, encode_header};
use crate::format::manifest::SegmentEntry;
use crate::format::segment::SegmentHeader;
use crate::segment::create::{active_entry, create_segment, create_segment_file};
use crate::segment::{FIRST_BATCH, Point, Segment};
use crate::storage::{File, write_all_at};
use crate::sync::Arc;
use crate::types::Offset;

/// A segment that is about to be started.
#[derive(Clone, Copy)]
pub(crate) struct NextSegment {
    pub(crate) base: Offset,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
    /// The end of the batch before it, and the CRC of that batch's header; 0 if there is none.
    pub(crate) prev_end: Offset,
    pub(crate) prev_crc: u32,
}

/// The records that a truncation keeps of a batch: the first batch of the new segment.
pub(crate) struct FirstBatch {
    pub(crate) header: BatchHeader,
    /// Room for the header, then the body as stored.
    pub(crate) stored: Vec<u8>,
}

/// A segment that no manifest lists yet.
pub(crate) struct UnlistedSegment<'a> {
    ctx: &'a Context,
    pub(crate) entry: SegmentEntry,
    /// The point in it where appending continues.
    pub(crate) point: Point,
    segment: Arc<Segment>,
    file: Arc<dyn File>,
}

impl NextSegment {
    pub(crate) fn header(&self, ctx: &Context, identity: &Identity) -> SegmentHeader {
        SegmentHeader {
            partition: identity.partition,
            topic_id: identity.topic_id,
            base_offset: self.base,
            prev_end: self.prev_end,
            prev_crc: self.prev_crc,
            generation: self.generation,
            log_epoch: self.epoch,
            created_at: ctx.clock.now(),
            secret: identity.secret(),
        }
    }

    /// Makes the file. On return its name and its header are durable.
    ///
    /// # Errors
    /// `DiskFull`, or another I/O error: no file is left.
    pub(crate) fn begin<'a>(
        &self,
        ctx: &'a Context,
        identity: &Identity,
        dir: &Path,
    ) -> Result<UnlistedSegment<'a>> {
        let file = create_segment(ctx, dir, &self.header(ctx, identity))?;
        Ok(self.begun(ctx, dir, file))
    }

    /// As [`begin`](NextSegment::begin), but neither the name nor the header are durable on return:
    /// for a [successor](super::successors), which no manifest lists before they are.
    ///
    /// # Errors
    /// As [`begin`](NextSegment::begin).
    pub(crate) fn begin_unsynced<'a>(
        &self,
        ctx: &'a Context,
        identity: &Identity,
        dir: &Path,
    ) -> Result<UnlistedSegment<'a>> {
        let file = create_segment_file(ctx, dir, &self.header(ctx, identity))?;
        Ok(self.begun(ctx, dir, file))
    }

    fn begun<'a>(&self, ctx: &'a Context, dir: &Path, file: Arc<dyn File>) -> UnlistedSegment<'a> {
        let entry = active_entry(self.base, self.generation, self.epoch);
        // The batch before it is known only if the segment is the first of its name.
        let previous =
            (self.generation == 0 && self.prev_end == self.base).then_some((self.base, self.prev_crc));
        UnlistedSegment {
            ctx,
            entry,
            point: Point::start_of(self.base, self.generation, self.epoch, self.prev_crc),
            segment: Arc::new(Segment::from_entry(dir, &entry, previous)),
            file,
        }
    }
}

impl UnlistedSegment<'_> {
    /// Writes the first batch, durably.
    ///
    /// # Errors
    /// `DiskFull`, or another I/O error: no file of the segment is left.
    pub(crate) fn write_first(&mut self, identity: &Identity, first: FirstBatch) -> Result<()> {
        let FirstBatch { mut header, mut stored } = first;
        header.log_epoch = self.entry.log_epoch;
        let path = self.ctx.display(&self.segment.path);
        let Some(room) = stored.first_chunk_mut::<HEADER_BYTES>() else {
            return Err(Error::internal("the first batch of a segment has room for its header"));
        };
        let crc = encode_header(&header, identity.seed(), room);
        // The log is unchanged before the manifest is replaced: "create" is not among the actions
        // of unknown outcome.
        let written = self
            .ctx
            .reserve
            .with_room(|| {
                write_all_at(&*self.file, &stored, FIRST_BATCH).map_err(|(_, e)| Error::create(&path, e))
            })
            .and_then(|()| self.file.sync_data().map_err(|e| Error::create(&path, e)));
        written.inspect_err(|_| self.remove())?;
        self.point.pass(&header, crc);
        Ok(())
    }

    /// Calls `commit` to replace the manifest by one that lists the segment. Returns the segment,
    /// which is active from here on.
    ///
    /// # Errors
    /// The errors of `commit`. If the manifest was not replaced, no file of the segment is left.
    pub(crate) fn list(
        self,
        commit: impl FnOnce(SegmentEntry) -> std::result::Result<(), ManifestError>,
    ) -> std::result::Result<(Arc<Segment>, Point), ManifestError> {
        if let Err(failed) = commit(self.entry) {
            if !failed.unknown {
                self.remove();
            }
            return Err(failed);
        }
        let UnlistedSegment { ctx, segment, file, point, .. } = self;
        segment.adopt_file(ctx, file);
        if point.position > FIRST_BATCH {
            segment.grow(point.position, point.max_timestamp);
            // The keys of its first batch are looked up by the first lookup.
            segment.forget_keys(point.position);
        }
        segment.mark_synced();
        Ok((segment, point))
    }

    /// Returns the segment and its point. It is active from here on, and not listed. The roll has
    /// noted it.
    pub(crate) fn follow(self) -> (Arc<Segment>, Point) {
        // Dirty: its header may not be durable.
        debug_assert!(self.segment.is_dirty());
        self.segment.adopt_file(self.ctx, self.file);
        (self.segment, self.point)
    }

    /// A file that cannot be removed is a leftover, which the next opening removes.
    fn remove(&self) {
        let _ = self.ctx.storage.remove_file(&self.segment.path);
    }
}
