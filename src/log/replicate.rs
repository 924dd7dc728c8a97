//! Replication: a partition becomes a copy of another by taking its batches as stored, under new
//! headers.

use super::cursor::Cursor;
use super::durability::arm_interval;
use super::raw_batches::{RawBatches, invalid};
use super::roll::{bytes_to_append, roll_if_due};
use super::write::write_batch;
use super::writer::Tip;
use super::{Log, LogSettings, retention, streams};
use crate::config::Durability;
use crate::engine::Identity;
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, Secret, encode_header};
use crate::format::body;
use crate::format::packing::{is_optional_codec, unpack};
use crate::format::reader::Malformed;
use crate::format::shipment::{ENVELOPE_BYTES, Envelope, Shipped};
use crate::rng::random_bytes;
use crate::segment::keys::KeyCount;
use crate::stats::Event;
use crate::sync::Arc;
use crate::types::{Offset, Timestamp};

/// Returns the stored bytes of the visible batches from `from` on: at least one if there is
/// one, then as many as `max_bytes` has room for, and none after a gap. All are of one state of
/// the log, and not from before and after a truncation.
///
/// # Errors
/// Out of range, closed, an I/O error; `Corrupt` if the first batch is damaged.
pub(crate) fn read_raw(log: &Arc<Log>, from: Offset, max_bytes: usize) -> Result<RawBatches> {
    log.consistently(|| gather(log, from, max_bytes).map(Some))
}

/// As [`read_raw`], if the log up to `from` is unchanged since `epoch`.
///
/// # Errors
/// `Truncated` if it is not, and the errors of `read_raw`.
pub(crate) fn read_raw_in(log: &Arc<Log>, from: Offset, epoch: u32, max_bytes: usize) -> Result<RawBatches> {
    log.consistently(|| {
        log.check_position(from, epoch)?;
        gather(log, from, max_bytes).map(Some)
    })
}

/// As [`read_raw`], for a log that is not replaced meanwhile.
fn gather(log: &Arc<Log>, from: Offset, max_bytes: usize) -> Result<RawBatches> {
    let log_epoch = log.epoch();
    let Identity { topic_id, partition, .. } = **log.identity();
    let mut envelope = Envelope {
        partition,
        topic_id,
        log_epoch,
        batches: 0,
        base_offset: from,
        end_offset: from,
        bytes: 0,
        // IMPORTANT: do not use the partition's secret. A receiver that knew it could make
        // values that look like batches here.
        secret: Secret(random_bytes(log.ctx.settings.fixed_seed, from.get() ^ u64::from(log_epoch))),
    };
    let seed = envelope.seed();
    // Room for the envelope, which is encoded last.
    let mut bytes = vec![0; ENVELOPE_BYTES];
    let mut cursor = Cursor::new(log.clone(), from);
    loop {
        let (batches, end, taken) = (envelope.batches, envelope.end_offset, bytes.len());
        let next = cursor.next_stored(&mut bytes, |header| {
            let room = max_bytes.saturating_sub(taken - ENVELOPE_BYTES) as u64;
            batches == 0 || (header.base_offset == end && header.stored_bytes() <= room && batches < u32::MAX)
        });
        let header = match next {
            Ok(Some(header)) => header,
            Ok(None) => break,
            // There are good batches before a damaged one: a caller that asks for more gets the
            // error.
            Err(_) if batches > 0 => break,
            Err(error) => return Err(error),
        };
        if let Some(room) = bytes.get_mut(taken..).and_then(<[u8]>::first_chunk_mut::<HEADER_BYTES>) {
            encode_header(&header, seed, room);
        }
        if batches == 0 {
            envelope.base_offset = header.base_offset;
        }
        envelope.batches += 1;
        envelope.end_offset = header.end_offset();
    }
    envelope.bytes = (bytes.len() - ENVELOPE_BYTES) as u64;
    if let Some(room) = bytes.first_chunk_mut::<ENVELOPE_BYTES>()
        && let Ok(encoded) = envelope.encode().try_into()
    {
        *room = encoded;
    }
    Ok(RawBatches::new(bytes, envelope))
}

/// Appends the batches of a shipment after the log's end, and returns the log's end once they are
/// visible. If keys are streams, `belongs` checks that a key belongs to this partition.
///
/// # Errors
/// The error of `belongs`; `MissingKey` with the number of the record in the shipment, if a record
/// to be written needs a key. The whole shipment is checked before anything is written. `DiskFull`:
/// the batches before the one without room are in the log. After another failure of a write the
/// partition is poisoned.
pub(crate) fn append_raw(
    log: &Arc<Log>,
    shipment: &RawBatches,
    belongs: impl Fn(&[u8]) -> Result<()>,
) -> Result<Offset> {
    log.check_writable()?;
    let settings = log.settings();
    let mut room = log.ctx.pool.take_used();
    let batches = check(log, shipment, &settings, belongs, &mut room)?;
    compare(log, &batches)?;
    let stored = || batches.iter().map(|batch| bytes_to_append(log, batch.shipped.stored.len())).sum();
    let _claim = log.ctx.claim(stored)?;
    log.ctx.reserve.check()?;
    let mut rolls = Vec::new();
    let WrittenShipment { end, epoch, batches: written, result } =
        write(log, shipment, &batches, &mut room, &mut rolls)?;
    if settings.durability != Durability::Sync {
        log.wake_readers();
    }
    if !rolls.is_empty() {
        rolls.iter().for_each(|event| log.ctx.events.report(event));
        log.request_work();
    }
    if let Durability::Interval(every) = settings.durability
        && written > 0
    {
        arm_interval(log, every);
    }
    log.ctx.reserve.appended(result.as_ref().map(drop));
    log.ctx.events.deliver();
    match &result {
        Ok(()) => retention::keep_size(log),
        // The freed room is for the next attempt: the batches written before count.
        Err(error) if error.is_full() => drop(log.ctx.room.make_room()),
        Err(_) => {}
    }
    result?;
    log.wait_visible(end, epoch)?;
    Ok(end)
}

/// A batch of a shipment whose records were checked.
struct CheckedBatch<'a> {
    shipped: Shipped<'a>,
    keys: Vec<KeyCount>,
    /// The number of its first record without a key, among the records of the shipment.
    keyless: Option<u32>,
}

/// Checks all batches of a shipment. `room` is for decompressed records.
///
/// # Errors
/// `InvalidBatches`, `RecordTooLarge`, the error of `belongs`.
fn check<'a>(
    log: &Log,
    shipment: &'a RawBatches,
    settings: &LogSettings,
    belongs: impl Fn(&[u8]) -> Result<()>,
    room: &mut Vec<u8>,
) -> Result<Vec<CheckedBatch<'a>>> {
    let mut batches = Vec::with_capacity(shipment.len());
    let mut passed = 0_u32;
    for shipped in shipment.batches() {
        let shipped = shipped.map_err(|m| invalid(&m))?;
        let (header, position) = (&shipped.header, shipped.position);
        let checked = check_records(&shipped, room);
        // A build without the feature of the codec cannot read the records. A log that needs no
        // keys can hold the batch, because its checksum has been checked.
        let is_unread = checked.as_ref().is_err_and(is_optional_codec) && !settings.needs_keys();
        let records = match checked {
            Err(_) if is_unread => &[],
            checked => checked.map_err(|m| invalid(&m.shifted(position + HEADER_BYTES as u64)))?,
        };
        let keys = streams::keys_of(log, settings, header, records);
        let decoded = || body::RawRecords::new(records, header.count).map_while(std::result::Result::ok);
        if settings.streams {
            decoded().filter_map(|record| record.key).try_for_each(&belongs)?;
        }
        // If the topic is altered meanwhile so that it needs keys, a batch that was not read is
        // refused.
        let first = if is_unread { Some(0) } else { decoded().position(|record| record.key.is_none()) };
        let keyless = first.and_then(|at| passed.checked_add(u32::try_from(at).ok()?));
        passed = passed.saturating_add(header.count);
        if shipped.stored.len() > settings.max_batch_bytes() {
            let (size, limit) = (shipped.stored.len(), settings.max_batch_bytes());
            return Err(log.too_large(size, limit));
        }
        batches.push(CheckedBatch { shipped, keys, keyless });
    }
    Ok(batches)
}

/// The outcome of writing a shipment.
struct WrittenShipment {
    /// The log's end and epoch after it.
    end: Offset,
    epoch: u32,
    /// The number of batches that the log did not have.
    batches: usize,
    /// The error of the batch that could not be written.
    result: Result<()>,
}

/// Writes the batches of a shipment that the log does not have, up to the first that fails. Adds
/// the events of rolls to `rolls`.
///
/// # Errors
/// `OffsetConflict`, `MissingKey`, or the log takes no appends: nothing was written.
fn write(
    log: &Log,
    shipment: &RawBatches,
    batches: &[CheckedBatch<'_>],
    room: &mut Vec<u8>,
    rolls: &mut Vec<Event>,
) -> Result<WrittenShipment> {
    let mut tip = log.writer.lock();
    log.check_writable()?;
    let end = tip.point.end;
    let known = batches.partition_point(|batch| batch.shipped.header.end_offset() <= end);
    let new = batches.get(known..).unwrap_or_default();
    let follows = match new.first() {
        Some(first) => first.shipped.header.base_offset == end,
        None => shipment.base_offset() <= end,
    };
    if !follows {
        return Err(log.conflict(shipment.base_offset(), end));
    }
    let needed = log.settings();
    new.iter().try_for_each(|batch| needed.check_keys(log.topic(), batch.keyless))?;
    // These batches are not kept in the tail cache. It notices the gap and starts over.
    let result = new.iter().try_for_each(|batch| append_shipped(log, &mut tip, batch, room, rolls));
    Ok(WrittenShipment { end: tip.point.end, epoch: log.epoch(), batches: new.len(), result })
}

/// Writes one batch of a shipment at the log's end, under a header of this log.
fn append_shipped(
    log: &Log,
    tip: &mut Tip,
    batch: &CheckedBatch<'_>,
    room: &mut Vec<u8>,
    rolls: &mut Vec<Event>,
) -> Result<()> {
    // Read them under the lock: `set_settings` may have changed them.
    let settings = log.settings();
    let CheckedBatch { shipped, keys, .. } = batch;
    let mut header = shipped.header;
    // The id belongs to a commit in the journal of the source.
    header.transaction_id = 0;
    // The producer id belongs to the source too: another producer may have it here.
    (header.producer_id, header.producer_epoch, header.base_sequence) = (0, 0, 0);
    header.attributes = header.attributes.with_given_sequences(None);
    rolls.extend(roll_if_due(log, tip, &header, shipped.stored.len(), &settings)?);
    room.clear();
    room.extend_from_slice(shipped.stored);
    let end = write_batch(log, tip, &mut header, room, keys, &settings)?;
    tip.ends.note_written(end, settings.durability != Durability::Sync);
    Ok(())
}

/// Checks that the batches of a shipment that the log already has are the same, as far as their
/// headers show.
fn compare(log: &Arc<Log>, batches: &[CheckedBatch<'_>]) -> Result<()> {
    let Some(first) = batches.first().map(|batch| &batch.shipped) else { return Ok(()) };
    // Without the writer's lock, because this may read files: visible records do not change,
    // and if they are truncated meanwhile, more of the shipment is new.
    let (start, visible) = (log.log_start(), log.visible_end());
    let mut cursor = Cursor::new(log.clone(), first.header.base_offset);
    let here =
        |batch: &&Shipped<'_>| batch.header.base_offset >= start && batch.header.end_offset() <= visible;
    for Shipped { header: theirs, .. } in batches.iter().map(|batch| &batch.shipped).filter(here) {
        // Compaction, on either side, rewrites batches, so they cannot be compared.
        let compacted_there = theirs.last_offset_delta.checked_add(1) != Some(theirs.count);
        let compacted_to = log.segments().iter().rfind(|s| s.compacted).and_then(|s| s.end());
        if compacted_there || compacted_to.is_some_and(|end| theirs.base_offset < end) {
            continue;
        }
        cursor.go_to(theirs.base_offset);
        let ours = match cursor.peek() {
            Ok(ours) => ours,
            // Retention has deleted the batch meanwhile.
            Err(Error::OffsetOutOfRange { .. }) => continue,
            Err(error) => return Err(error),
        };
        if !ours.is_some_and(|ours| is_same(&ours, theirs)) {
            return Err(Error::Diverged {
                topic: log.topic().clone(),
                partition: log.partition(),
                offset: theirs.base_offset,
            });
        }
    }
    Ok(())
}

/// Returns whether the headers of two batches state the same records.
fn is_same(ours: &BatchHeader, theirs: &BatchHeader) -> bool {
    (ours.base_offset, ours.last_offset_delta) == (theirs.base_offset, theirs.last_offset_delta)
        && (ours.body_len, ours.body_crc) == (theirs.body_len, theirs.body_crc)
        && (ours.base_timestamp, ours.max_timestamp) == (theirs.base_timestamp, theirs.max_timestamp)
}

/// Checks the content of a body that has passed its checksum: it must decompress to the length in
/// its header, and to valid records. Returns the records.
fn check_records<'a>(batch: &Shipped<'a>, room: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let Shipped { header, .. } = batch;
    if header.max_timestamp > Timestamp::MAX {
        return Err(Malformed::new(0, "timestamp later than any record may have"));
    }
    unpack(header, batch.body(), room)
}
