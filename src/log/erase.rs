//! Erases the events of one stream. Each segment that has some is rewritten without their values
//! and headers, and the manifest lists the new one instead, as for compaction. Keys, offsets and
//! times stay, so versions keep counting.
//!
//! Segments are rewritten one after the other: a crash in between leaves some of them unchanged,
//! and another call erases the rest.

use super::compaction::{Outputs, Pace};
use super::roll::roll;
use crate::error::{Error, IoAction, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES};
use crate::format::body::{self, RawRecord, encode_raw};
use crate::format::key_hash::KeyHash;
use crate::format::packing::repack;
use crate::log::Log;
use crate::segment::{FIRST_BATCH, Segment};
use crate::sync::Arc;
use crate::types::Offset;

impl Log {
    /// Erases values and headers of all records of a key. Returns the number of erased records.
    ///
    /// # Errors
    /// Aborted by a truncation or the end of the log, the partition takes no appends, `Corrupt`, or
    /// an I/O error: some segments may have been rewritten.
    pub(crate) fn erase_key(self: &Arc<Self>, key: &[u8], hash: KeyHash) -> Result<u64> {
        let erased = self.erase_alone(key, hash);
        self.ctx.events.deliver();
        erased
    }

    fn erase_alone(self: &Arc<Self>, key: &[u8], hash: KeyHash) -> Result<u64> {
        let _alone = self.compactor.lock();
        self.check_writable()?;
        if !self.has_files() {
            return Ok(0);
        }
        let upto = self.roll_if_it_has(hash)?;
        // Until this is done the journal has the bytes of transactions.
        drop(self.journal.forget(&self.identity)?);
        self.finish_sealed();
        self.check_writable()?;
        let (segments, _) = self.sealed().ok_or_else(|| self.aborted())?;
        let concerned = |segments: &[Arc<Segment>]| segments.partition_point(|segment| segment.base < upto);
        if concerned(&segments) != concerned(&self.segments()) {
            return Err(self.aborted());
        }
        let mut erased = 0;
        for segment in segments.iter().filter(|segment| segment.base < upto) {
            // Bytes after the end of a segment, left by a truncation, may be events of the stream
            // too.
            let path = self.ctx.display(&segment.path);
            let len = segment.file(&self.ctx)?.len().map_err(|e| Error::io(IoAction::Inspect, &path, e))?;
            if segment.count_key(&self.owner(), hash, Offset::MAX)?.records > 0 || len > segment.size() {
                erased += self.erase_from(segment, key, len)?;
            }
        }
        let synced = self.ctx.storage.sync_dir(self.manifest.dir());
        synced.map_err(|e| Error::io(IoAction::Sync, &self.ctx.display(self.manifest.dir()), e))?;
        Ok(erased)
    }

    /// Seals the active segment if it has records of the key. Returns the base offset of the active
    /// segment.
    fn roll_if_it_has(self: &Arc<Self>, hash: KeyHash) -> Result<Offset> {
        let segments = self.segments();
        let has = match segments.last().filter(|active| active.size() > FIRST_BATCH) {
            Some(active) => active.count_key(&self.owner(), hash, Offset::MAX)?.records > 0,
            None => false,
        };
        let mut tip = self.writer.lock();
        self.check_writable()?;
        // Unless another thread has rolled it meanwhile.
        let is_it = segments.last().is_some_and(|active| Arc::ptr_eq(&tip.segment, active));
        let rolled = if has && is_it { Some(roll(self, &mut tip)?) } else { None };
        let base = tip.segment.base;
        drop(tip);
        rolled.into_iter().for_each(|event| self.ctx.events.queue(event));
        Ok(base)
    }

    /// Removes the file of a segment that was replaced. A compaction may leave that to the next
    /// opening; erasing must not.
    fn remove_unlisted(&self, segment: &Segment) -> Result<()> {
        // Take both locks, so that no thread starts another segment of that name. A truncation
        // before may have started one.
        let (_shape, _writer) = (self.list.lock_shape(), self.writer.lock());
        if self.segments().iter().any(|listed| listed.path == segment.path) {
            return Ok(());
        }
        match self.ctx.storage.remove_file(&segment.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(IoAction::Remove, &self.ctx.display(&segment.path), e))
            }
            _ => Ok(()),
        }
    }

    /// Erases from one sealed segment, whose file has `len` bytes.
    fn erase_from(self: &Arc<Self>, segment: &Arc<Segment>, key: &[u8], len: u64) -> Result<u64> {
        let revision = self.revision();
        let mut outputs = Outputs::new(self, self.manifest.next_generation(&self.identity)?);
        let says_something = |record: &RawRecord<'_>| record.value.is_some() || record.headers.len() > 0;
        let is_to_go = |record: &RawRecord<'_>| record.key == Some(key) && says_something(record);
        let (mut erased, mut room, mut kept) = (0, Vec::new(), Vec::new());
        let compression = self.settings().compression;
        let walked = self.walk(segment, |walk, met| {
            let header = &met.header;
            self.check_writable()?;
            let stored = walk.stored(met)?;
            let records = self.records_of(segment, header, met.position, stored, &mut room)?;
            let decoded = || body::RawRecords::new(records, header.count).map_while(std::result::Result::ok);
            let count = decoded().filter(is_to_go).count() as u64;
            if count == 0 {
                return outputs.put(header, stored, true).map(|()| true);
            }
            erased += count;
            kept.clear();
            kept.resize(HEADER_BYTES, 0);
            let mut next = 0;
            for record in decoded() {
                let stated = (record.offset_delta != next).then_some(record.offset_delta);
                next = record.offset_delta.saturating_add(1);
                let record = if is_to_go(&record) {
                    RawRecord { value: None, headers: Default::default(), ..record }
                } else {
                    record
                };
                encode_raw(&record, stated, record.timestamp_delta, &mut kept);
            }
            let mut new: BatchHeader = *header;
            repack(&mut new, header.count, compression, &mut kept);
            outputs.put(&new, &kept, true).map(|()| true)
        });
        if walked.is_ok() && erased == 0 && len <= segment.size() {
            // All of it was erased before.
            outputs.remove();
            return Ok(0);
        }
        let pace = Pace::new(self, &|| {}, revision, std::slice::from_ref(segment));
        let swapped = walked.and_then(|()| outputs.settle()).map_err(|error| (error, false));
        let swapped = swapped.and_then(|()| self.swap(&outputs, &pace));
        swapped.map_err(|(error, unknown): (Error, bool)| {
            if !unknown {
                outputs.remove();
            }
            error
        })?;
        self.remove_unlisted(segment)?;
        // The batches have other positions in the new segments. A lookup finds them there.
        let is_new = |other: &&Arc<Segment>| other.base >= segment.base && other.end() <= segment.end();
        for written in self.segments().iter().filter(|other| other.end().is_some()).filter(is_new) {
            written.save_keys(&self.ctx, &self.identity);
        }
        Ok(erased)
    }
}
