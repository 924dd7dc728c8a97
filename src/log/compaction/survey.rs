//! The first pass of a compaction: reads all inputs, and collects the newest offset of each key and
//! the batches that must stay.

use std::collections::HashMap;

use super::inputs::Inputs;
use super::offset_map::OffsetMap;
use super::pace::Pace;
use super::read::{records_of, walk};
use crate::error::Result;
use crate::format::batch::BatchHeader;
use crate::format::body;
use crate::log::Log;
use crate::types::Offset;

/// The state collected from all inputs.
pub(super) struct Survey {
    /// The newest offset of each key before `upto`.
    pub(super) map: OffsetMap,
    /// Records before this offset are compacted.
    pub(super) upto: Offset,
    /// The newest batch of each producer, and the very last batch: they stay, if necessary without
    /// records.
    producers: HashMap<u64, Offset>,
    last: Option<Offset>,
}

impl Survey {
    /// Reads the inputs and collects the newest offset of each key in the segments that were never
    /// compacted, as far as memory allows.
    ///
    /// # Errors
    /// `CompactionAborted`, closed, `Corrupt`, or an I/O error.
    pub(super) fn of(log: &Log, inputs: &Inputs, pace: &mut Pace<'_>) -> Result<Self> {
        let mut map = OffsetMap::new(log.ctx.settings.compaction_memory);
        let mut upto = inputs.segments.last().and_then(|last| last.end()).unwrap_or(Offset::ZERO);
        let (mut producers, mut last, mut room) = (HashMap::new(), None, Vec::new());
        for (at, segment) in inputs.segments.iter().enumerate() {
            let is_dirty = at >= inputs.dirty;
            walk(log, segment, |walk, met| {
                let header = &met.header;
                last = Some(header.base_offset);
                if header.producer_id != 0 {
                    producers.insert(header.producer_id, header.base_offset);
                }
                if !is_dirty {
                    return pace.pass(header).map(|()| true);
                }
                let stored = walk.stored(met)?;
                let records = records_of(log, segment, header, met.position, stored, &mut room)?;
                for record in body::RawRecords::new(records, header.count).map_while(std::result::Result::ok)
                {
                    if let Some(key) = record.key {
                        map.put(key, header.base_offset.plus(u64::from(record.offset_delta)));
                    }
                }
                pace.keep(header.stored_bytes())?;
                if map.is_full() {
                    upto = header.end_offset();
                }
                Ok(!map.is_full())
            })?;
            if map.is_full() {
                break;
            }
        }
        Ok(Survey { map, upto, producers, last })
    }

    /// Returns whether a batch must stay, if necessary without records: the last one, so that the
    /// end of the log stays, and the newest of each producer, because it has the producer's
    /// sequence.
    pub(super) fn must_stay(&self, header: &BatchHeader) -> bool {
        self.last == Some(header.base_offset)
            || (header.producer_id != 0
                && self.producers.get(&header.producer_id) == Some(&header.base_offset))
    }
}
