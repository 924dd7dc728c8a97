//! Runs of records of one batch, and the rest of a batch that a poll took a part of.

use super::consumed::{ConsumedRecord, OwnedRecord};
use crate::engine::Identity;
use crate::format::body;
use crate::group::state::Stamp;
use crate::segment::batch::Batch;
use crate::sync::Arc;
use crate::types::Offset;

/// A place between two records of a batch.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    /// In the batch's body.
    position: usize,
    /// How many records follow.
    remaining: u32,
    next_offset_delta: u32,
}

impl Mark {
    /// Before the record that the iterator returns next.
    fn before_next(records: &body::RawRecords<'_>) -> Self {
        Mark {
            position: records.position(),
            remaining: records.remaining(),
            next_offset_delta: records.next_offset_delta(),
        }
    }
}

/// Where a run of records ends.
pub(crate) struct ChunkEnd<'a> {
    pub(crate) source: &'a Arc<Identity>,
    /// The next offset to read.
    pub(crate) next: Offset,
    /// The log epoch in which that is true.
    pub(crate) epoch: u32,
    pub(crate) stamp: Stamp,
}

/// A run of records of one batch.
#[derive(Clone)]
pub(crate) struct Chunk {
    pub(super) batch: Arc<Batch>,
    pub(super) from: Mark,
    pub(super) count: u32,
    pub(super) bytes: usize,
    /// Where reading continues after it.
    pub(super) end: Offset,
    pub(super) stamp: Stamp,
}

impl Chunk {
    #[inline]
    pub(super) fn iter(&self) -> ChunkIter<'_> {
        let Mark { position, next_offset_delta, .. } = self.from;
        // The body is looked up here, once: later uses would have to distinguish the owners.
        let body = self.batch.records.as_slice();
        ChunkIter {
            batch: &self.batch,
            records: body::RawRecords::resume(body, position, self.count, next_offset_delta),
            stamp: self.stamp,
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<OwnedRecord> {
        let mut records = self.iter();
        let record = records.next()?.into_owned();
        let (position, next_offset_delta) = (records.records.position(), records.records.next_offset_delta());
        self.count = records.records.remaining();
        self.from = Mark { position, remaining: self.count, next_offset_delta };
        Some(record)
    }
}

/// Iterates over a chunk.
#[derive(Clone)]
pub(super) struct ChunkIter<'a> {
    batch: &'a Arc<Batch>,
    records: body::RawRecords<'a>,
    stamp: Stamp,
}

impl<'a> Iterator for ChunkIter<'a> {
    type Item = ConsumedRecord<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<ConsumedRecord<'a>> {
        let position = self.records.position();
        // The body has been validated: an error means that another process has changed a mapped
        // file since.
        let raw = self.records.next()?.ok()?;
        Some(ConsumedRecord::in_batch(self.batch, position, raw, self.stamp))
    }
}

/// The runs of records of a batch that have a key, but for the first `skip` of them, which are
/// counted off.
pub(super) fn chunks_of_key(batch: &Arc<Batch>, key: &[u8], skip: &mut u64) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut records = body::RawRecords::new(batch.records.as_slice(), batch.header.count);
    // Whether the last chunk ends here.
    let mut joins = false;
    loop {
        let (position, next_offset_delta) = (records.position(), records.next_offset_delta());
        let remaining = records.remaining();
        let Some(Ok(record)) = records.next() else { break };
        let counts = record.key == Some(key) && {
            let skipped = *skip > 0;
            *skip -= u64::from(skipped);
            !skipped
        };
        let bytes = records.position().saturating_sub(position);
        let end = batch.header.base_offset.plus(u64::from(records.next_offset_delta()));
        match chunks.last_mut().filter(|_| joins && counts) {
            Some(chunk) => {
                chunk.count += 1;
                chunk.bytes += bytes;
                chunk.end = end;
            }
            None if counts => {
                let from = Mark { position, remaining, next_offset_delta };
                let stamp = Stamp::default();
                chunks.push(Chunk { batch: batch.clone(), from, count: 1, bytes, end, stamp });
            }
            None => {}
        }
        joins = counts;
    }
    chunks
}

/// The rest of a batch of which a poll took a part. The next poll needs no second read, check or
/// decompression.
pub(crate) struct Unread {
    batch: Arc<Batch>,
    mark: Mark,
}

impl Unread {
    /// The records of a batch with offsets of at least `from`.
    pub(crate) fn new(batch: Arc<Batch>, from: Offset) -> Self {
        let mark = Mark { position: 0, remaining: batch.header.count, next_offset_delta: 0 };
        let mut unread = Unread { batch, mark };
        if from > unread.batch.header.base_offset {
            unread.skip_below(from);
        }
        unread
    }

    /// The offset to read next: after the last record taken, and after the whole batch once nothing
    /// is left, however many offsets its last surviving record left unused.
    pub(crate) fn next_offset(&self) -> Offset {
        match self.mark.remaining {
            0 => self.batch.header.end_offset(),
            _ => self.batch.header.base_offset.plus(u64::from(self.mark.next_offset_delta)),
        }
    }

    /// The batch.
    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Continues with a copy of the batch.
    pub(crate) fn replace_batch(&mut self, copy: Arc<Batch>) {
        self.batch = copy;
    }

    pub(crate) fn base_offset(&self) -> Offset {
        self.batch.header.base_offset
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.mark.remaining == 0
    }

    /// The size of the rest.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.records.as_slice().len().saturating_sub(self.mark.position)
    }

    /// Takes the next `max` records, or all that are left.
    pub(crate) fn take(&mut self, max: usize) -> Chunk {
        let from = self.mark;
        // A batch counts its records in a u32.
        let count = u32::try_from(max).unwrap_or(u32::MAX).min(from.remaining);
        self.mark = if count == from.remaining {
            Mark { position: self.batch.records.as_slice().len(), remaining: 0, ..from }
        } else {
            self.mark_after(count)
        };
        let bytes = self.mark.position.saturating_sub(from.position);
        Chunk {
            batch: self.batch.clone(),
            from,
            count,
            bytes,
            end: self.next_offset(),
            stamp: Stamp::default(),
        }
    }

    pub(super) fn skip_below(&mut self, offset: Offset) {
        let least = offset.since(self.batch.header.base_offset);
        let (index, position) = self.batch.nearest(offset);
        let remaining = self.mark.remaining.saturating_sub(index);
        self.mark = Mark { position, remaining, next_offset_delta: index };
        let mut records = self.records();
        let mut mark = loop {
            let mark = Mark::before_next(&records);
            match records.next() {
                Some(Ok(record)) if u64::from(record.offset_delta) < least => {}
                _ => break mark,
            }
        };
        // Nothing lies between the last record below and the next one: the rest starts at the
        // offset asked for.
        let least = u32::try_from(least).unwrap_or(u32::MAX);
        mark.next_offset_delta = mark.next_offset_delta.max(least);
        self.mark = mark;
    }

    /// The place after the next `count` records.
    pub(super) fn mark_after(&self, count: u32) -> Mark {
        let mut records = self.records();
        for _ in 0..count {
            records.next();
        }
        Mark::before_next(&records)
    }

    pub(super) fn records(&self) -> body::RawRecords<'_> {
        let Mark { position, remaining, next_offset_delta } = self.mark;
        body::RawRecords::resume(self.batch.records.as_slice(), position, remaining, next_offset_delta)
    }
}
