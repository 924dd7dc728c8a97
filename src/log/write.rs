//! Writes a batch at the end of a log. The caller holds the writer's lock.

use super::writer::Tip;
use super::{Log, LogSettings, invariants};
use crate::config::TimestampType;
use crate::engine::Buffer;
use crate::error::{Error, IoAction, Result, is_space};
use crate::format::batch::{BatchHeader, HEADER_BYTES, encode_header};
use crate::segment::ByteView;
use crate::segment::batch::Batch;
use crate::segment::keys::KeyCount;
use crate::storage::{File, write_all_at};
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// The result of completing a header.
#[derive(Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) crc: u32,
}

/// Fills in the header fields that only the log knows, writes the batch at the log's end, and
/// moves the writer past it. The caller must move the log end next. `stored` has room for
/// `header` at its start.
///
/// # Errors
/// `DiskFull`: nothing was appended. After another failure of the write the partition is
/// poisoned.
pub(crate) fn write_batch(
    log: &Log,
    tip: &mut Tip,
    header: &mut BatchHeader,
    stored: &mut [u8],
    keys: &[KeyCount],
    settings: &LogSettings,
) -> Result<Offset> {
    let Some(filled) = fill_header(log, tip, header, stored) else {
        return Err(Error::internal("a sealed batch has room for its header"));
    };
    let file = tip.segment.file(&log.ctx)?;
    if let Err((written, e)) = write_all_at(&*file, stored, tip.point.position) {
        return Err(write_failed(log, tip, &*file, written, e));
    }
    advance(log, tip, header, filled.crc, stored.len() as u64, keys, settings.index_interval_bytes);
    Ok(header.end_offset())
}

/// Fills in the header fields that only the log knows, for a batch at the log's end. Returns
/// `None` if `stored` has no room for the header.
#[inline]
pub(crate) fn fill_header(
    log: &Log,
    tip: &Tip,
    header: &mut BatchHeader,
    stored: &mut [u8],
) -> Option<Filled> {
    header.base_offset = tip.point.end;
    header.log_epoch = log.epoch();
    header.synced_upto = tip.ends.durable();
    let crc = encode_header(header, log.seed(), stored.first_chunk_mut::<HEADER_BYTES>()?);
    Some(Filled { crc })
}

/// Sets the time of the append in a batch, if the topic uses it.
#[inline]
pub(crate) fn set_append_time(
    log: &Log,
    header: &mut BatchHeader,
    settings: &LogSettings,
) -> Option<Timestamp> {
    if settings.timestamps != TimestampType::Append {
        return None;
    }
    header.attributes = header.attributes.with_append_time(true);
    header.max_timestamp = append_time(log);
    Some(header.max_timestamp)
}

/// Returns the time now, within the range of valid timestamps, because a clock may return any
/// time.
#[inline]
fn append_time(log: &Log) -> Timestamp {
    log.ctx.clock.now().clamp(Timestamp::default(), Timestamp::MAX)
}

/// Moves the writer past a batch that was just written.
#[inline]
pub(crate) fn advance(
    log: &Log,
    tip: &mut Tip,
    header: &BatchHeader,
    crc: u32,
    stored: u64,
    keys: &[KeyCount],
    index_interval: u32,
) {
    debug_assert_eq!(stored, header.stored_bytes(), "a batch is as long as its header says");
    debug_assert_eq!(invariants::of_place(0, tip.point.end, header), Ok(()), "batches follow each other");
    debug_assert_eq!(invariants::of_header(header), Ok(()), "a header keeps the invariants");
    tip.pass(header, crc, keys, index_interval);
    log.writer.size.note(tip.point.position);
    log.counters.count_batch(header.count, stored);
}

/// Keeps the batch for readers that follow the end of the log. The caller has checked that there
/// are any.
pub(crate) fn remember(log: &Log, tip: &Tip, header: BatchHeader, stored: Buffer, raw: Option<Buffer>) {
    let records = Arc::new(raw.unwrap_or(stored));
    // A table of positions may follow.
    let end = HEADER_BYTES.saturating_add(header.uncompressed_len as usize);
    if let Some(records) = ByteView::of_buffer(records, HEADER_BYTES, end) {
        let batch = Batch {
            source: log.identity.clone(),
            header,
            records,
            segment: tip.segment.clone(),
            next_position: tip.point.position,
        };
        log.tail.push(&log.ctx, batch);
    }
}

/// Handles a failed write: either none of it counts and appends continue, or the partition is
/// poisoned.
pub(crate) fn write_failed(
    log: &Log,
    tip: &Tip,
    file: &dyn File,
    written: usize,
    e: std::io::Error,
) -> Error {
    let path = log.ctx.display(&tip.segment.path);
    if let Some(cause) = is_space(&e) {
        // The written part is after the log's end and is no whole batch. Overwrite it with
        // zeros, if there is room now, so that it cannot look like a torn tail. The next append
        // overwrites it in any case.
        if write_all_at(file, &vec![0; written], tip.point.position).is_ok() {
            return Error::DiskFull { path, cause };
        }
    }
    log.poison(Error::io(IoAction::Write, &path, e))
}
