//! The second pass of a compaction: reads the inputs again, and writes the records that stay.

use std::time::Duration;

use super::inputs::Inputs;
use super::output::Outputs;
use super::pace::Pace;
use super::policy::{horizon_of, stays};
use super::read::{records_of, walk};
use super::survey::Survey;
use super::swap::swap;
use crate::config::Compression;
use crate::engine::malformed;
use crate::error::Result;
use crate::format::batch::{BatchHeader, Extra, HEADER_BYTES, check_body};
use crate::format::body::{self, encode_raw};
use crate::format::packing::repack;
use crate::log::Log;
use crate::log::manifest::ManifestError;
use crate::segment::{Met, Segment};
use crate::stats::Compacted;
use crate::sync::Arc;
use crate::types::Timestamp;

/// Writes the records of the inputs that stay, and replaces the inputs.
///
/// # Errors
/// `CompactionAborted`, closed, `Corrupt`, or an I/O error: nothing has changed, or the log is
/// poisoned.
pub(super) fn rewrite(log: &Arc<Log>, inputs: &Inputs, pace: &mut Pace<'_>) -> Result<Compacted> {
    let survey = Survey::of(log, inputs, pace)?;
    let count = inputs.segments.partition_point(|segment| segment.base < survey.upto);
    let segments = inputs.segments.get(..count).unwrap_or_default();
    let mut rewriter = Rewriter {
        log,
        survey: &survey,
        now: inputs.now,
        delete_retention: log.settings().compaction.delete_retention,
        compression: log.settings().compression,
        outputs: Outputs::new(log, log.manifest.next_generation(&log.identity)?),
        records_before: 0,
        records_after: 0,
        room: Vec::new(),
        stay: Vec::new(),
        kept: Vec::new(),
    };
    let written = segments.iter().try_for_each(|segment| rewriter.rewrite_segment(segment, pace));
    let Rewriter { mut outputs, records_before, records_after, .. } = rewriter;
    let swapped = written
        .and_then(|()| outputs.settle())
        .map_err(ManifestError::unchanged)
        .and_then(|()| swap(log, &outputs, &pace.over(segments)));
    if let Err(failed) = swapped {
        if !failed.unknown {
            outputs.remove();
        }
        return Err(failed.error);
    }
    Ok(Compacted {
        topic: log.identity.topic.clone(),
        partition: log.identity.partition,
        compacted_to: survey.upto,
        complete: inputs.segments.last().and_then(|last| last.end()) == Some(survey.upto),
        segments_before: segments.len(),
        bytes_before: segments.iter().map(|segment| segment.size()).sum(),
        records_before,
        segments_after: outputs.written.len(),
        bytes_after: outputs.written.iter().map(|written| written.entry.size).sum(),
        records_after,
    })
}

struct Rewriter<'a> {
    log: &'a Log,
    survey: &'a Survey,
    now: Timestamp,
    delete_retention: Duration,
    compression: Compression,
    outputs: Outputs<'a>,
    records_before: u64,
    records_after: u64,
    // Used again for each batch: its decompressed records, whether each of them stays, and the new
    // batch.
    room: Vec<u8>,
    stay: Vec<bool>,
    kept: Vec<u8>,
}

/// The records of a batch that stay.
#[derive(Default)]
struct Staying {
    count: u32,
    latest: Option<Timestamp>,
    has_tombstones: bool,
}

impl Rewriter<'_> {
    fn rewrite_segment(&mut self, segment: &Arc<Segment>, pace: &mut Pace<'_>) -> Result<()> {
        walk(self.log, segment, |walk, met| {
            let stored = walk.stored(met)?;
            self.records_before += u64::from(met.header.count);
            let written = match met.header.base_offset >= self.survey.upto {
                true => self.copy(segment, met, stored)?,
                false => self.compact(segment, met, stored)?,
            };
            pace.keep(met.header.stored_bytes() + written).map(|()| true)
        })
    }

    /// Copies a batch that the map of this compaction does not cover. Returns the written bytes.
    fn copy(&mut self, segment: &Segment, met: &Met, stored: &[u8]) -> Result<u64> {
        let header = &met.header;
        check_body(header, stored.get(HEADER_BYTES..).unwrap_or_default())
            .map_err(|m| malformed(&self.log.ctx, &segment.path, met.position, &m))?;
        self.records_after += u64::from(header.count);
        self.outputs.put(header, stored, false)?;
        Ok(header.stored_bytes())
    }

    /// Writes the records of a batch that stay. Returns the written bytes.
    fn compact(&mut self, segment: &Segment, met: &Met, stored: &[u8]) -> Result<u64> {
        let header = &met.header;
        let records = records_of(self.log, segment, header, met.position, stored, &mut self.room)?;
        let staying = choose(self.survey, header, records, self.now, &mut self.stay);
        if staying.count == 0 && !self.survey.must_stay(header) {
            return Ok(0);
        }
        self.records_after += u64::from(staying.count);
        let mut new = *header;
        let extra = if staying.has_tombstones {
            let until = horizon_of(header).unwrap_or_else(|| self.now.plus(self.delete_retention));
            new.extra = u64::try_from(until.as_millis()).unwrap_or(0);
            Extra::DeleteHorizon
        } else {
            new.extra = 0;
            Extra::Nothing
        };
        new.attributes = new.attributes.with_extra(extra);
        if staying.count == header.count {
            self.outputs.put(&new, stored, true)?;
            return Ok(new.stored_bytes());
        }
        self.kept.clear();
        self.kept.resize(HEADER_BYTES, 0);
        let mut next = 0;
        for (record, _) in decoded(header, records).zip(&self.stay).filter(|(_, stays)| **stays) {
            let stated = (record.offset_delta != next).then_some(record.offset_delta);
            encode_raw(&record, stated, record.timestamp_delta, &mut self.kept);
            next = record.offset_delta.saturating_add(1);
        }
        repack(&mut new, staying.count, self.compression, &mut self.kept);
        new.max_timestamp = staying.latest.unwrap_or(new.max_timestamp);
        self.outputs.put(&new, &self.kept, true)?;
        Ok(new.stored_bytes())
    }
}

/// Decides which records of a batch stay, and stores that in `stay`, one value per record.
fn choose(
    survey: &Survey,
    header: &BatchHeader,
    records: &[u8],
    now: Timestamp,
    stay: &mut Vec<bool>,
) -> Staying {
    let horizon = horizon_of(header);
    let mut staying = Staying::default();
    stay.clear();
    for record in decoded(header, records) {
        let offset = header.base_offset.plus(u64::from(record.offset_delta));
        let is_tombstone = record.value.is_none();
        let stays = stays(&survey.map, record.key, is_tombstone, offset, horizon, now);
        stay.push(stays);
        if stays {
            staying.count += 1;
            staying.latest = staying.latest.max(Some(header.timestamp(record.timestamp_delta)));
            staying.has_tombstones |= is_tombstone;
        }
    }
    staying
}

/// The records were checked, so none is left out.
fn decoded<'a>(header: &BatchHeader, records: &'a [u8]) -> impl Iterator<Item = body::RawRecord<'a>> {
    body::RawRecords::new(records, header.count).map_while(std::result::Result::ok)
}
