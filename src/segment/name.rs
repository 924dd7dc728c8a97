//! The name of a segment: which one of a log it is, where its files are, and the header that its
//! file must have.

use std::path::{Path, PathBuf};

use crate::engine::{Context, Identity, corrupt, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::SegmentEntry;
use crate::format::names;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::storage::{File, read_up_to};
use crate::types::Offset;

/// Which segment of a log. It never changes.
pub(crate) struct SegmentName {
    pub(crate) base: Offset,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
    pub(crate) path: PathBuf,
    /// The end offset and the last CRC of the segment before it, as its header must have them, if
    /// that segment is known and unchanged.
    previous: Option<(Offset, u32)>,
}

impl SegmentName {
    /// Returns the name of a segment that a manifest lists. `previous` is the end offset and the
    /// last CRC of the entry before it.
    pub(super) fn of(dir: &Path, entry: &SegmentEntry, previous: Option<(Offset, u32)>) -> Self {
        SegmentName {
            base: entry.base_offset,
            generation: entry.generation,
            epoch: entry.log_epoch,
            path: dir.join(names::segment_file(entry.base_offset, entry.generation)),
            previous,
        }
    }

    /// Returns base offset, generation and log epoch. No other segment of the log has the same.
    pub(crate) fn id(&self) -> (Offset, u32, u32) {
        (self.base, self.generation, self.epoch)
    }

    /// Returns the path of the side file of the index.
    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_file_name(names::index_file(self.base, self.generation))
    }

    /// Returns the path of the side file of the keys.
    pub(crate) fn keys_path(&self) -> PathBuf {
        self.path.with_file_name(names::key_index_file(self.base, self.generation))
    }

    /// Reads the header of the segment's open file, and checks it.
    ///
    /// # Errors
    /// `Corrupt` or `UnsupportedFormat` if the header is not this segment's; an I/O error.
    pub(super) fn read_header(
        &self,
        ctx: &Context,
        identity: &Identity,
        file: &dyn File,
    ) -> Result<SegmentHeader> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let n = read_up_to(file, &mut bytes, 0)
            .map_err(|e| Error::io(IoAction::Read, &ctx.display(&self.path), e))?;
        let header = SegmentHeader::decode(bytes.get(..n).unwrap_or(&[]))
            .map_err(|m| malformed(ctx, &self.path, 0, &m))?;
        match self.mismatch(&header, identity) {
            Some(what) => Err(corrupt(ctx, &self.path, 0, what)),
            None => Ok(header),
        }
    }

    /// Returns whether a valid header is this segment's, without a check of its fields about the
    /// segment before it.
    pub(crate) fn is_own(&self, header: &SegmentHeader, identity: &Identity) -> bool {
        (header.topic_id, header.partition, header.secret)
            == (identity.topic_id, identity.partition, identity.secret())
            && (header.base_offset, header.generation, header.log_epoch) == self.id()
    }

    /// Returns why a valid header is not this segment's; `None` if it is.
    pub(crate) fn mismatch(&self, header: &SegmentHeader, identity: &Identity) -> Option<&'static str> {
        if header.topic_id != identity.topic_id || header.partition != identity.partition {
            Some("the segment belongs to another partition")
        } else if header.base_offset != self.base || header.generation != self.generation {
            Some("the segment's header contradicts its file name")
        } else if header.secret != identity.secret() {
            Some("the segment's secret contradicts the manifest")
        } else if header.log_epoch != self.epoch {
            Some("the segment's log epoch contradicts the manifest")
        } else if self.previous.is_some_and(|previous| previous != (header.prev_end, header.prev_crc)) {
            Some("the segment does not follow the one before it")
        } else {
            None
        }
    }
}
