//! How does a log end earlier than it did? The manifest gives the last segment a new end, the epoch rises, and appending goes
//! on in a new segment. No file is shortened.

use super::recovery::{self, Point, active_entry, create_segment};
use super::segment::{FIRST_BATCH, HeaderError, Segment, timestamp_or_unknown};
use super::{Log, Writer, malformed};
use crate::error::{Error, Result};
use crate::format::manifest::{EpochStart, SegmentState};
use crate::format::segment::SegmentHeader;
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

impl Log {
    /// Takes a poisoned partition back into service: what is visible is written again and synced, whatever lies behind
    /// is cut off, the epoch rises, and appending goes on in a new segment. Nothing to do if it is not poisoned.
    ///
    /// # Errors
    /// The medium refuses again: the partition stays poisoned.
    pub(crate) fn reopen(&self) -> Result<()> {
        let _shape = self.shape.lock();
        if let Some(error) = &*self.ended.lock() {
            return Err(error.clone());
        }
        if let Some(error) = &self.damage {
            return Err(error.clone());
        }
        let Some(cause) = self.poison.lock().clone() else { return Ok(()) };
        // Nobody appends (poisoned) and, behind this, nobody syncs any more: the ends stand still. Before the writer's
        // lock, since a sync that is under way takes that too.
        self.commit.halt(Error::clone(&cause));
        let mut writer = self.writer.lock();
        let end = self.visible_end();
        let durable = *self.durable_point.lock();
        let cut = self.find_cut(&writer, end)?;
        for segment in self.segments().iter().filter(|s| s.is_dirty() && s.base < end) {
            segment.release();
            let (from, to) = (
                if segment.base == durable.base { durable.position } else { 0 },
                if segment.base == cut.base { cut.position } else { segment.size() },
            );
            let from = if from == FIRST_BATCH { 0 } else { from };
            let file = segment.file(&self.ctx)?;
            recovery::rewrite(&self.ctx, &*file, &segment.path, from.min(to), to)?;
            segment.mark_synced();
        }
        self.begin_epoch_at(&mut writer, cut)?;
        self.tail.clear(&self.ctx);
        *self.durable_point.lock() = writer.point;
        self.log_end.store(end.get(), Ordering::Release);
        self.durable_end.store(end.get(), Ordering::Release);
        self.commit.restart(end.get());
        *self.poison.lock() = None;
        self.refuses_appends.store(false, Ordering::Release);
        Ok(())
    }

    /// The point at a batch boundary: where the batch that begins at `end`, or the log's end, lies.
    fn find_cut(&self, writer: &Writer, end: Offset) -> Result<Point> {
        if writer.point.end == end {
            return Ok(writer.point);
        }
        let segments = self.segments();
        let at = segments.partition_point(|segment| segment.base < end).saturating_sub(1);
        let Some(segment) = segments.get(at) else { return Ok(writer.point) };
        let start = Point::start_of(segment.base, segment.generation, 0);
        if segment.end() == Some(end) {
            let manifest = self.manifest.get();
            let entry = manifest.segments.iter().find(|s| s.base_offset == segment.base);
            let last_crc = entry.map_or(0, |entry| entry.last_crc);
            let max_timestamp = entry.and_then(|entry| entry.max_timestamp());
            return Ok(Point { position: segment.size(), end, last_crc, max_timestamp, ..start });
        }
        let mut source = segment.source(&self.ctx, &self.identity)?;
        let mut point = start;
        while point.end < end {
            let (header, crc) = source.header(&self.ctx, point.position, self.seed).map_err(|e| match e {
                HeaderError::Io(e) => e,
                HeaderError::Malformed(m) => malformed(&self.ctx, &segment.path, point.position, &m),
            })?;
            point.position += header.stored_bytes();
            point.end = header.end_offset();
            point.last_crc = crc;
            point.max_timestamp = point.max_timestamp.max(Some(header.max_timestamp));
        }
        Ok(point)
    }

    /// Ends the log at a point, raises the epoch, and goes on in a new segment. The manifest is the commit point.
    fn begin_epoch_at(&self, writer: &mut Writer, cut: Point) -> Result<()> {
        let epoch = self.epoch() + 1;
        let segments = self.segments();
        let emptied = cut.position == FIRST_BATCH;
        let kept = segments.partition_point(|s| if emptied { s.base < cut.end } else { s.base <= cut.base });
        let taken =
            segments.iter().filter(|s| s.base == cut.end).map(|s| s.generation + 1).max().unwrap_or(0);
        let header = SegmentHeader {
            partition: self.identity.partition,
            topic_id: self.identity.topic_id,
            base_offset: cut.end,
            prev_end: cut.end,
            prev_crc: cut.last_crc,
            generation: taken,
            log_epoch: epoch,
            created_at: self.ctx.clock.now(),
        };
        let file = create_segment(&self.ctx, &self.dir, &header, true)?;
        let next = active_entry(cut.end, taken, epoch);
        let committed = self.manifest.commit(&self.ctx, |manifest| {
            manifest.segments.truncate(kept);
            for entry in &mut manifest.segments {
                entry.state = SegmentState::Synced;
            }
            if let Some(last) =
                manifest.segments.last_mut().filter(|last| !emptied && last.base_offset == cut.base)
            {
                last.size = cut.position;
                last.end_offset = cut.end;
                last.last_crc = cut.last_crc;
                last.max_timestamp = timestamp_or_unknown(cut.max_timestamp);
            }
            manifest.epochs.push(EpochStart { epoch, start: cut.end });
            manifest.segments.push(next);
        });
        committed.map_err(|failed| failed.error)?;
        if !emptied && let Some(last) = kept.checked_sub(1).and_then(|at| segments.get(at)) {
            last.seal(cut.end, cut.position, cut.max_timestamp);
        }
        let segment = Arc::new(Segment::from_entry(&self.dir, &next, None));
        segment.adopt_file(&self.ctx, file);
        self.publish_segments(|list| {
            list.truncate(kept);
            list.push(segment.clone());
        });
        for gone in segments.iter().skip(kept) {
            // A reader that stands at its beginning goes on in the new one.
            gone.seal(gone.base, FIRST_BATCH, None);
            let _ = self.ctx.storage.remove_file(&gone.path);
            let _ = self.ctx.storage.remove_file(&gone.index_path());
        }
        self.epoch.store(epoch, Ordering::Release);
        let point = Point::start_of(cut.end, taken, cut.last_crc);
        *writer = Writer { segment, point, indexed: FIRST_BATCH };
        Ok(())
    }
}
