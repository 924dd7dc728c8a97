//! The output of a compaction: batches one after the other in new segments of limited size, each
//! with its index. Names and bytes of all of them are durable before the manifest lists them.

use std::path::{Path, PathBuf};

use super::policy::horizon_of;
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, encode_header};
use crate::format::digest::Digest;
use crate::format::index::IndexEntry;
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::segment::SegmentHeader;
use crate::log::Log;
use crate::segment::create::create_segment_file;
use crate::segment::{FIRST_BATCH, Segment, timestamp_or_unknown};
use crate::storage::{File, write_all_at};
use crate::sync::Arc;
use crate::types::Timestamp;

/// The segments that a compaction writes.
pub(crate) struct Outputs<'a> {
    log: &'a Log,
    generation: u32,
    segment_bytes: u64,
    index_interval: u64,
    open: Option<OpenOutput>,
    /// The bytes of these segments are durable. Their names are once [`settle`](Outputs::settle)
    /// has returned.
    pub(crate) written: Vec<Written>,
}

/// A segment that was written.
pub(crate) struct Written {
    pub(crate) entry: SegmentEntry,
    pub(crate) horizon: Option<Timestamp>,
    index: Vec<IndexEntry>,
    path: PathBuf,
}

struct OpenOutput {
    file: Arc<dyn File>,
    written: Written,
    /// The position of the last index entry.
    indexed: u64,
    /// Bytes that are not written yet.
    pending: Vec<u8>,
}

const PENDING_MAX: usize = 1 << 20;

impl<'a> Outputs<'a> {
    pub(crate) fn new(log: &'a Log, generation: u32) -> Self {
        let settings = log.settings();
        Outputs {
            log,
            generation,
            segment_bytes: u64::from(settings.segment_bytes),
            index_interval: u64::from(settings.index_interval_bytes),
            open: None,
            written: Vec::new(),
        }
    }

    /// Adds a batch, with a new header, to the open segment or to a new one.
    pub(crate) fn put(&mut self, header: &BatchHeader, stored: &[u8], compacted: bool) -> Result<()> {
        let state = if compacted { SegmentState::Compacted } else { SegmentState::Synced };
        let fits = self.open.as_ref().is_some_and(|open| {
            let entry = &open.written.entry;
            entry.log_epoch == header.log_epoch
                && entry.state == state
                && entry.size + stored.len() as u64 <= self.segment_bytes
                && header.last_offset().since(entry.base_offset) <= i32::MAX as u64
        });
        if !fits {
            self.finish()?;
            self.open(header, state)?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let Written { entry, horizon, index, .. } = &mut open.written;
        if entry.size - open.indexed >= self.index_interval
            && let (Ok(offset_delta), Ok(position)) =
                (u32::try_from(header.base_offset.since(entry.base_offset)), u32::try_from(entry.size))
        {
            index.push(IndexEntry { offset_delta, position, max_before: entry.max_timestamp });
            open.indexed = entry.size;
        }
        let at = open.pending.len();
        open.pending.extend_from_slice(stored);
        if let Some(room) = open.pending.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<HEADER_BYTES>) {
            entry.last_crc = encode_header(header, self.log.seed(), room);
            entry.digest.add(entry.last_crc, header.body_crc);
        }
        entry.size += stored.len() as u64;
        entry.end_offset = header.end_offset();
        entry.max_timestamp = entry.max_timestamp.max(header.max_timestamp.as_millis());
        if let Some(until) = horizon_of(header) {
            *horizon = Some(horizon.map_or(until, |least| least.min(until)));
        }
        if open.pending.len() >= PENDING_MAX { self.write() } else { Ok(()) }
    }

    fn open(&mut self, first: &BatchHeader, state: SegmentState) -> Result<()> {
        let (log, base) = (self.log, first.base_offset);
        let before = self.written.last().map(|written| &written.entry);
        let header = SegmentHeader {
            partition: log.identity.partition,
            topic_id: log.identity.topic_id,
            base_offset: base,
            prev_end: before.map_or(base, |entry| entry.end_offset),
            prev_crc: before.map_or(0, |entry| entry.last_crc),
            generation: self.generation,
            log_epoch: first.log_epoch,
            created_at: log.ctx.clock.now(),
            secret: log.identity.secret(),
        };
        let file = create_segment_file(&log.ctx, log.manifest.dir(), &header)?;
        let entry = SegmentEntry {
            base_offset: base,
            generation: self.generation,
            log_epoch: first.log_epoch,
            state,
            size: FIRST_BATCH,
            end_offset: base,
            last_crc: 0,
            max_timestamp: timestamp_or_unknown(None),
            digest: Digest::default(),
        };
        let path = log.manifest.dir().join(names::segment_file(base, self.generation));
        let written = Written { entry, horizon: None, index: Vec::new(), path };
        self.open = Some(OpenOutput { file, written, indexed: FIRST_BATCH, pending: Vec::new() });
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let at = open.written.entry.size - open.pending.len() as u64;
        write_all_at(&*open.file, &open.pending, at)
            .map_err(|(_, e)| failed(&self.log.ctx.display(&open.written.path), e))?;
        open.pending.clear();
        Ok(())
    }

    /// Writes and syncs the open segment, if there is one.
    fn finish(&mut self) -> Result<()> {
        self.write()?;
        let Some(open) = &self.open else { return Ok(()) };
        open.file.sync_data().map_err(|e| failed(&self.log.ctx.display(&open.written.path), e))?;
        self.written.extend(self.open.take().map(|open| open.written));
        Ok(())
    }

    /// Must be called after the last batch. On return all segments are durable.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.finish()?;
        // IMPORTANT: sync the directory before the manifest that lists them is renamed into place.
        // Once for all of them: until then no thread needs them.
        let dir = self.log.manifest.dir();
        self.log.ctx.storage.sync_dir(dir).map_err(|e| failed(&self.log.ctx.display(dir), e))
    }

    /// Removes the written files. One that stays is a leftover, which no manifest lists.
    pub(crate) fn remove(&self) {
        for written in self.written.iter().chain(self.open.iter().map(|open| &open.written)) {
            let _ = self.log.ctx.storage.remove_file(&written.path);
        }
    }
}

impl Written {
    /// Returns the segment in `dir`, with its index.
    pub(crate) fn to_segment(&self, dir: &Path) -> Segment {
        let segment = Segment::from_entry(dir, &self.entry, None);
        let _ = segment.horizon.set(self.horizon);
        segment.set_index(self.index.clone());
        segment
    }
}

/// The log is unchanged: "create" is not among the actions of unknown outcome.
fn failed(path: &Path, e: std::io::Error) -> Error {
    Error::create(path, e)
}
