//! A point between two batches of a segment, with the state that appending there needs.

use crate::format::batch::BatchHeader;
use crate::format::digest::Digest;
use crate::format::manifest::SegmentEntry;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::types::{Offset, Timestamp};

/// The position of the first batch of a segment.
pub(crate) const FIRST_BATCH: u64 = SEGMENT_HEADER_BYTES as u64;

/// A point in the log between two batches, with the state that appending there needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) base: Offset,
    pub(crate) generation: u32,
    /// The epoch of the segment.
    pub(crate) epoch: u32,
    pub(crate) position: u64,
    pub(crate) end: Offset,
    /// The largest timestamp of the segment's first batch.
    pub(crate) first_timestamp: Option<Timestamp>,
    /// The largest timestamp in the segment up to here.
    pub(crate) max_timestamp: Option<Timestamp>,
    /// The header CRC of the batch before the point; 0 if there is none.
    pub(crate) last_crc: u32,
    /// The digest of the segment's batches before the point.
    pub(crate) digest: Digest,
}

impl Point {
    /// Returns the start of an empty segment after a batch with the header CRC `last_crc`.
    pub(crate) fn start_of(base: Offset, generation: u32, epoch: u32, last_crc: u32) -> Self {
        Point {
            base,
            generation,
            epoch,
            position: FIRST_BATCH,
            end: base,
            first_timestamp: None,
            max_timestamp: None,
            last_crc,
            digest: Digest::default(),
        }
    }

    /// Moves past the batch that begins at this point, which has this header and CRC.
    pub(crate) fn pass(&mut self, header: &BatchHeader, crc: u32) {
        self.position += header.stored_bytes();
        self.end = header.end_offset();
        self.last_crc = crc;
        self.digest.add(crc, header.body_crc);
        self.first_timestamp.get_or_insert(header.max_timestamp);
        self.max_timestamp = self.max_timestamp.max(Some(header.max_timestamp));
    }

    /// Sets the end of its segment in the manifest's entry to this point.
    pub(crate) fn end_entry(&self, entry: &mut SegmentEntry) {
        entry.size = self.position;
        entry.end_offset = self.end;
        entry.last_crc = self.last_crc;
        entry.max_timestamp = timestamp_or_unknown(self.max_timestamp);
        entry.digest = self.digest;
    }
}

/// Returns a timestamp from its form in files, where -2^63 stands for "none" and "not known".
pub(crate) fn known_timestamp(millis: i64) -> Option<Timestamp> {
    (millis != i64::MIN).then(|| Timestamp::from_millis(millis))
}

/// Returns the form of a timestamp in files: the reverse of [`known_timestamp`].
pub(crate) fn timestamp_or_unknown(timestamp: Option<Timestamp>) -> i64 {
    timestamp.map_or(i64::MIN, Timestamp::as_millis)
}
