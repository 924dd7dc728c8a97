//! Erases the events of one stream. Each segment that has some is rewritten without their values
//! and headers, and the manifest lists the new one instead, as for compaction. Keys, offsets and
//! times stay, so versions keep counting.
//!
//! Segments are rewritten one after the other: a crash in between leaves some of them unchanged,
//! and another call erases the rest.

use super::compaction::inputs::sealed;
use super::compaction::output::Outputs;
use super::compaction::pace::Pace;
use super::compaction::read::{records_of, walk};
use super::compaction::swap::swap;
use super::manifest::ManifestError;
use super::streams::owner;
use super::{Log, maintenance, roll};
use crate::engine::Later;
use crate::error::{Error, IoAction, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES};
use crate::format::body::{self, RawRecord, encode_raw};
use crate::format::key_hash::KeyHash;
use crate::format::packing::repack;
use crate::segment::copy::last_nonzero;
use crate::segment::{FIRST_BATCH, Segment};
use crate::sync::Arc;
use crate::types::Offset;

/// Erases values and headers of all records of a key. Returns the number of erased records.
///
/// # Errors
/// Aborted by a truncation or the end of the log, the partition takes no appends, `Corrupt`, or an
/// I/O error: some segments may have been rewritten.
pub(crate) fn erase_key(log: &Arc<Log>, key: &[u8], hash: KeyHash) -> Result<u64> {
    let erased = Erasure { log, key, hash }.run();
    log.ctx.events.deliver();
    erased
}

/// The erasure of one key.
struct Erasure<'a> {
    log: &'a Arc<Log>,
    key: &'a [u8],
    hash: KeyHash,
}

impl Erasure<'_> {
    fn run(&self) -> Result<u64> {
        let log = self.log;
        let _later = Later::new();
        // A backup may have erased records only if it was made before.
        let _no_backup = log.ctx.no_backup()?;
        let _alone = log.compactor.lock();
        log.check_writable()?;
        if !log.has_files() {
            return Ok(0);
        }
        let upto = self.seal_active()?;
        // Until this is done the journal has the bytes of transactions.
        drop(log.journal.forget(&log.identity)?);
        maintenance::finish_sealed(log);
        log.check_writable()?;
        let (segments, _) = sealed(log).ok_or_else(|| log.identity.compaction_aborted())?;
        let concerned = |segments: &[Arc<Segment>]| segments.partition_point(|segment| segment.base < upto);
        if concerned(&segments) != concerned(&log.segments()) {
            return Err(log.identity.compaction_aborted());
        }
        let mut erased = 0;
        for segment in segments.iter().filter(|segment| segment.base < upto) {
            // Bytes after the end of a segment, left by a truncation, may be events of the stream
            // too. Zeros are none.
            let path = log.ctx.display(&segment.path);
            let file = segment.file(&log.ctx)?;
            let len = file.len().map_err(|e| Error::io(IoAction::Inspect, &path, e))?;
            let len = last_nonzero(&log.ctx, &*file, &segment.path, segment.size(), len)?;
            if self.is_in(segment)? || len > segment.size() {
                erased += self.erase_from(segment, len)?;
            }
        }
        let synced = log.ctx.storage.sync_dir(log.manifest.dir());
        synced.map_err(|e| Error::io(IoAction::Sync, &log.ctx.display(log.manifest.dir()), e))?;
        Ok(erased)
    }

    /// Seals the active segment if it has records of the key. Returns the base offset of the active
    /// segment.
    fn seal_active(&self) -> Result<Offset> {
        let log = self.log;
        let segments = log.segments();
        let has = match segments.last().filter(|active| active.size() > FIRST_BATCH) {
            Some(active) => self.is_in(active)?,
            None => false,
        };
        let mut tip = log.writer.lock();
        log.check_writable()?;
        // Unless another thread has rolled it meanwhile.
        let is_it = segments.last().is_some_and(|active| Arc::ptr_eq(&tip.segment, active));
        let rolled = if has && is_it { Some(roll::roll(log, &mut tip, &log.settings())?) } else { None };
        let base = tip.segment.base;
        drop(tip);
        rolled.into_iter().for_each(|event| log.ctx.events.queue(event));
        Ok(base)
    }

    /// Removes the file of a segment that was replaced. A compaction may leave that to the next
    /// opening; erasing must not.
    fn remove_unlisted(&self, segment: &Segment) -> Result<()> {
        let log = self.log;
        // Take both locks, so that no thread starts another segment of that name. A truncation
        // before may have started one.
        let (_shape, _writer) = (log.list.lock_shape(), log.writer.lock());
        if log.segments().iter().any(|listed| listed.path == segment.path) {
            return Ok(());
        }
        match log.ctx.storage.remove_file(&segment.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(IoAction::Remove, &log.ctx.display(&segment.path), e))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a segment has records of the key.
    fn is_in(&self, segment: &Arc<Segment>) -> Result<bool> {
        Ok(segment.count_key(&owner(self.log), self.hash, Offset::MAX)?.records > 0)
    }

    /// Erases from one sealed segment, whose file has `len` bytes. Returns the number of erased
    /// records.
    fn erase_from(&self, segment: &Arc<Segment>, len: u64) -> Result<u64> {
        let log = self.log;
        let revision = log.revision();
        let mut outputs = Outputs::new(log, log.manifest.next_generation(&log.identity)?);
        let walked = self.rewrite(segment, &mut outputs);
        if walked.as_ref().is_ok_and(|erased| *erased == 0) && len <= segment.size() {
            // All of it was erased before.
            outputs.remove();
            return Ok(0);
        }
        let pace = Pace::new(log, &|| {}, revision, std::slice::from_ref(segment));
        let settled = walked.and_then(|erased| outputs.settle().map(|()| erased));
        let swapped = settled
            .map_err(ManifestError::unchanged)
            .and_then(|erased| swap(log, &outputs, &pace).map(|()| erased));
        let erased = swapped.map_err(|failed| {
            if !failed.unknown {
                outputs.remove();
            }
            failed.error
        })?;
        self.remove_unlisted(segment)?;
        // The batches have other positions in the new segments. A lookup finds them there.
        let is_new = |other: &&Arc<Segment>| other.base >= segment.base && other.end() <= segment.end();
        for written in log.segments().iter().filter(|other| other.end().is_some()).filter(is_new) {
            written.save_keys(&log.ctx, &log.identity);
        }
        Ok(erased)
    }

    /// Writes all batches of a segment, without the values and headers of the key's records.
    /// Returns the number of erased records.
    fn rewrite(&self, segment: &Arc<Segment>, outputs: &mut Outputs<'_>) -> Result<u64> {
        let log = self.log;
        let has_content = |record: &RawRecord<'_>| record.value.is_some() || record.headers.len() > 0;
        let is_erased = |record: &RawRecord<'_>| record.key == Some(self.key) && has_content(record);
        let (mut erased, mut room, mut kept) = (0, Vec::new(), Vec::new());
        let compression = log.settings().compression;
        walk(log, segment, |walk, met| {
            let header = &met.header;
            log.check_writable()?;
            let stored = walk.stored(met)?;
            let records = records_of(log, segment, header, met.position, stored, &mut room)?;
            let decoded = || body::RawRecords::new(records, header.count).map_while(std::result::Result::ok);
            let count = decoded().filter(is_erased).count() as u64;
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
                let record = if is_erased(&record) {
                    RawRecord { value: None, headers: Default::default(), ..record }
                } else {
                    record
                };
                encode_raw(&record, stated, record.timestamp_delta, &mut kept);
            }
            let mut new: BatchHeader = *header;
            repack(&mut new, header.count, compression, &mut kept);
            outputs.put(&new, &kept, true).map(|()| true)
        })?;
        Ok(erased)
    }
}
