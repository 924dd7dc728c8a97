//! Appends a batch. Under the writer's lock: a roll if one is due, the base offset and the header's
//! checksum, one positional write. Never under it: compression, a body's checksum, a sync of
//! records.

use super::durability::arm_interval;
use super::producers::Sender;
use super::streams::StreamCondition;
use super::{Appended, Log, LogSettings};
use crate::config::{Durability, TimestampType};
use crate::engine::Buffer;
use crate::error::{Error, IoAction, Result, is_space};
use crate::format::batch::{BatchHeader, HEADER_BYTES, encode_header};
use crate::format::index::IndexEntry;
use crate::format::names;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::log::switch::NextSegment;
use crate::log::transitions;
use crate::log::writer::Tip;
use crate::segment::batch::Batch;
use crate::segment::builder::SealedBatch;
use crate::segment::keys::KeyCount;
use crate::segment::{ByteView, timestamp_or_unknown};
use crate::stats::Event;
use crate::storage::{File, write_all_at};
use crate::sync::{Arc, MutexGuard};
use crate::types::{Offset, Timestamp};
use crate::version::Version;

/// The conditions of an append.
#[derive(Default)]
struct When<'a> {
    /// The log must end here.
    end: Option<Offset>,
    stream: Option<&'a StreamCondition>,
}

/// The result of completing a header.
#[derive(Clone, Copy)]
pub(crate) struct Filled {
    pub(super) crc: u32,
}

impl Log {
    /// Appends a batch: assigns its offsets and writes it. With `Os` and `Interval` it is visible
    /// on return. With `Sync` the caller must call [`wait_visible`](Log::wait_visible), or ask the
    /// worker to sync.
    ///
    /// # Errors
    /// `RecordTooLarge` if no segment has room for it, `MissingKey`, `DiskFull`: nothing was
    /// appended. After another failure of the write the partition is poisoned.
    pub(crate) fn append(self: &Arc<Self>, batch: SealedBatch) -> Result<Appended> {
        self.append_if(batch, When::default(), None).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), for a batch of an idempotent producer, with sequences or
    /// without.
    ///
    /// # Errors
    /// `Fenced`, `OutOfOrderSequence`, and the errors of `append`.
    pub(crate) fn append_from(self: &Arc<Self>, batch: SealedBatch, sender: &Sender<'_>) -> Result<Appended> {
        self.append_if(batch, When::default(), Some(sender)).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), if the log ends at `expected`.
    ///
    /// # Errors
    /// `OffsetConflict` if it does not, and the errors of `append`.
    pub(crate) fn append_at(self: &Arc<Self>, batch: SealedBatch, expected: Offset) -> Result<Appended> {
        let when = When { end: Some(expected), ..When::default() };
        self.append_if(batch, when, None).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), if a stream's version is as expected. Also returns that version.
    ///
    /// # Errors
    /// `VersionConflict` if it is not, and the errors of reading and of `append`.
    pub(crate) fn append_to_stream(
        self: &Arc<Self>,
        batch: SealedBatch,
        condition: &StreamCondition,
    ) -> Result<(Appended, Version)> {
        self.append_if(batch, When { stream: Some(condition), ..When::default() }, None)
    }

    fn append_if(
        self: &Arc<Self>,
        batch: SealedBatch,
        when: When<'_>,
        sender: Option<&Sender<'_>>,
    ) -> Result<(Appended, Version)> {
        let settings = self.settings();
        let keys = self.keys_of(&settings, &batch.header, batch.records());
        if batch.stored.len() > settings.max_batch_bytes() {
            return Err(Error::RecordTooLarge {
                topic: self.topic().clone(),
                size: batch.stored.len(),
                limit: settings.max_batch_bytes(),
            });
        }
        let _claim = match names::is_own_topic(self.topic().as_str()) {
            // No claim for a topic of the broker: its append may release records that a group
            // holds, and the group's lock is held.
            true => None,
            false => self.ctx.claim(|| self.bytes_to_append(batch.stored.len()))?,
        };
        let mut rolled = None;
        let mut batch = Some(batch);
        let done = self.append_with_room(&mut batch, &when, sender, &keys, &mut rolled);
        if let Some(event) = rolled {
            self.ctx.events.report(&event);
            self.request_work();
        }
        self.ctx.reserve.appended(done.as_ref().map(drop));
        if done.is_err() {
            self.ctx.events.deliver();
        } else {
            if settings.durability != Durability::Sync {
                self.wake_readers();
            }
            if let Durability::Interval(every) = settings.durability {
                arm_interval(self, every);
            }
            self.keep_size();
        }
        done
    }

    /// Appends. If there is no room, deletes the records that retention may delete, in any
    /// partition, and tries once more.
    fn append_with_room(
        self: &Arc<Self>,
        batch: &mut Option<SealedBatch>,
        when: &When<'_>,
        sender: Option<&Sender<'_>>,
        keys: &[KeyCount],
        rolled: &mut Option<Event>,
    ) -> Result<(Appended, Version)> {
        match self.append_now(batch, when, sender, keys, rolled) {
            // IMPORTANT: not for a commit of offsets, which is appended under its group's lock,
            // because `make_room` asks the groups which records they hold.
            Err(error) if error.is_full() && !names::is_own_topic(self.topic().as_str()) => {
                if !self.ctx.room.make_room() {
                    return Err(error);
                }
                self.append_now(batch, when, sender, keys, rolled)
            }
            done => done,
        }
    }

    /// Appends the batch, and takes it out of `batch` if that succeeds.
    fn append_now(
        self: &Arc<Self>,
        batch: &mut Option<SealedBatch>,
        when: &When<'_>,
        sender: Option<&Sender<'_>>,
        keys: &[KeyCount],
        rolled: &mut Option<Event>,
    ) -> Result<(Appended, Version)> {
        self.check_writable()?;
        self.ctx.reserve.check()?;
        let (mut tip, version) = self.lock_when(when)?;
        let settings = self.settings();
        let Some(SealedBatch { header, stored, keyless, .. }) = batch else {
            return Err(Error::internal("a batch that was taken has been appended"));
        };
        if keyless.is_some() {
            settings.check_keys(self.topic(), *keyless)?;
        }
        if sender.is_some() {
            // The side file of idempotent producers is made before their first batch.
            self.make_files(&mut tip)?;
        }
        // Keep the producer-table guard until the batch is recorded, so that no other append of
        // this producer is checked in between.
        let mut checked = sender.map(|sender| self.check_sender(header, sender)).transpose()?;
        let append_time = self.set_append_time(header, &settings);
        if let Some(event) = self.roll_if_due(&mut tip, header, stored.len(), &settings)? {
            *rolled = Some(event);
        }
        let epoch = self.epoch();
        let end = self.write_batch(&mut tip, header, stored, keys, &settings)?;
        if let Some(condition) = when.stream {
            self.note_version(&tip, condition, version, keys);
        }
        if let Some(checked) = &mut checked {
            checked.note(header);
        }
        let base_offset = header.base_offset;
        if let Some(SealedBatch { header, stored, raw, .. }) = batch.take() {
            self.remember(&tip, header, stored, raw);
        }
        tip.ends.note_written(end, settings.durability != Durability::Sync);
        Ok((Appended { base_offset, end, epoch, append_time }, version))
    }

    /// Returns the most bytes on disk that an append of so many bytes takes, if it rolls.
    pub(crate) fn bytes_to_append(&self, stored: usize) -> u64 {
        (stored + SEGMENT_HEADER_BYTES) as u64 + self.manifest_bytes()
    }

    /// Takes the writer's lock, if the conditions hold. Also returns the version of the stream of
    /// the condition.
    fn lock_when(self: &Arc<Self>, when: &When<'_>) -> Result<(MutexGuard<'_, Tip>, Version)> {
        loop {
            let counted = when.stream.map(|condition| self.count_before(condition)).transpose()?;
            let tip = self.writer.lock();
            self.check_writable()?;
            if let Some(expected) = when.end.filter(|end| *end != tip.point.end) {
                return Err(self.conflict(expected, tip.point.end));
            }
            let (Some(condition), Some(counted)) = (when.stream, counted) else {
                return Ok((tip, Version::ZERO));
            };
            if let Some(version) = self.check_stream(&tip, condition, &counted)? {
                return Ok((tip, version));
            }
        }
    }

    /// Fills in the header fields that only the log knows, writes the batch at the log's end, and
    /// moves the writer past it. The caller must move the log end next. `stored` has room for
    /// `header` at its start.
    ///
    /// # Errors
    /// `DiskFull`: nothing was appended. After another failure of the write the partition is
    /// poisoned.
    pub(super) fn write_batch(
        &self,
        tip: &mut Tip,
        header: &mut BatchHeader,
        stored: &mut [u8],
        keys: &[KeyCount],
        settings: &LogSettings,
    ) -> Result<Offset> {
        let Some(filled) = self.fill_header(tip, header, stored) else {
            return Err(Error::internal("a sealed batch has room for its header"));
        };
        let file = tip.segment.file(&self.ctx)?;
        if let Err((written, e)) = write_all_at(&*file, stored, tip.point.position) {
            return Err(self.write_failed(tip, &*file, written, e));
        }
        self.advance(tip, header, filled.crc, stored.len() as u64, keys, settings.index_interval_bytes);
        Ok(header.end_offset())
    }

    /// Fills in the header fields that only the log knows, for a batch at the log's end. Returns
    /// `None` if `stored` has no room for the header.
    pub(super) fn fill_header(
        &self,
        tip: &Tip,
        header: &mut BatchHeader,
        stored: &mut [u8],
    ) -> Option<Filled> {
        header.base_offset = tip.point.end;
        header.log_epoch = self.epoch();
        header.synced_upto = tip.ends.durable();
        let crc = encode_header(header, self.seed, stored.first_chunk_mut::<HEADER_BYTES>()?);
        Some(Filled { crc })
    }

    /// Sets the time of the append in a batch, if the topic uses it.
    pub(super) fn set_append_time(
        &self,
        header: &mut BatchHeader,
        settings: &LogSettings,
    ) -> Option<Timestamp> {
        if settings.timestamps != TimestampType::Append {
            return None;
        }
        header.attributes = header.attributes.with_append_time(true);
        header.max_timestamp = self.append_time();
        Some(header.max_timestamp)
    }

    /// Returns the time now, within the range of valid timestamps, because a clock may return any
    /// time.
    fn append_time(&self) -> Timestamp {
        self.ctx.clock.now().clamp(Timestamp::default(), Timestamp::MAX)
    }

    /// Moves the writer past a batch that was just written.
    pub(super) fn advance(
        &self,
        tip: &mut Tip,
        header: &BatchHeader,
        crc: u32,
        stored: u64,
        keys: &[KeyCount],
        index_interval: u32,
    ) {
        let point = &mut tip.point;
        if !keys.is_empty() {
            tip.segment.note_keys(point.position, header.base_offset, keys);
        }
        if point.position - tip.indexed >= u64::from(index_interval)
            && let (Ok(offset_delta), Ok(position)) =
                (u32::try_from(header.base_offset.since(point.base)), u32::try_from(point.position))
        {
            let max_before = timestamp_or_unknown(point.max_timestamp);
            tip.segment.add_index_entry(IndexEntry { offset_delta, position, max_before });
            tip.indexed = point.position;
        }
        debug_assert_eq!(stored, header.stored_bytes(), "a batch is as long as its header says");
        point.pass(header, crc);
        tip.segment.grow(point.position, point.max_timestamp);
        self.writer.size.note(point.position);
        self.counters.count_batch(header.count, stored);
    }

    /// Keeps the batch for readers that follow the end of the log.
    pub(super) fn remember(&self, tip: &Tip, header: BatchHeader, stored: Buffer, raw: Option<Buffer>) {
        if !self.waiters.any() {
            // No reader follows this log: the buffers are reused by the next batch, while they are
            // still in the processor's cache.
            return;
        }
        let records = Arc::new(raw.unwrap_or(stored));
        // A table of positions may follow.
        let end = HEADER_BYTES.saturating_add(header.uncompressed_len as usize);
        if let Some(records) = ByteView::of_buffer(records, HEADER_BYTES, end) {
            let batch = Batch {
                source: self.identity.clone(),
                header,
                records,
                segment: tip.segment.clone(),
                next_position: tip.point.position,
            };
            self.tail.push(&self.ctx, batch);
        }
    }

    /// Handles a failed write: either none of it counts and appends continue, or the partition is
    /// poisoned.
    pub(super) fn write_failed(
        &self,
        tip: &Tip,
        file: &dyn File,
        written: usize,
        e: std::io::Error,
    ) -> Error {
        let path = self.ctx.display(&tip.segment.path);
        if let Some(cause) = is_space(&e) {
            // The written part is after the log's end and is no whole batch. Overwrite it with
            // zeros, if there is room now, so that it cannot look like a torn tail. The next append
            // overwrites it in any case.
            if write_all_at(file, &vec![0; written], tip.point.position).is_ok() {
                return Error::DiskFull { path, cause };
            }
        }
        self.poison(Error::io(IoAction::Write, &path, e))
    }

    /// Seals the active segment and starts the next one if this batch requires it (Kafka's
    /// `LogSegment.shouldRoll`). Before the first batch of all, makes the partition's files.
    pub(super) fn roll_if_due(
        &self,
        tip: &mut Tip,
        header: &BatchHeader,
        stored: usize,
        settings: &LogSettings,
    ) -> Result<Option<Event>> {
        self.make_files(tip)?;
        if tip.is_empty() {
            return Ok(None);
        }
        let point = &tip.point;
        let full = point.position + stored as u64 > u64::from(settings.segment_bytes);
        let spread = point.end.since(point.base) + u64::from(header.last_offset_delta) > i32::MAX as u64;
        let aged = point
            .first_timestamp
            .is_some_and(|first| header.max_timestamp > first.plus(settings.segment_age));
        if full || spread || aged { self.roll(tip).map(Some) } else { Ok(None) }
    }

    /// Starts a new segment at the log's end. The old one is synced later, by the worker or by a
    /// caller that waits for durability.
    ///
    /// # Errors
    /// `DiskFull`, or another I/O error: the old segment stays active. If it is unknown which
    /// manifest a restart finds, the partition is poisoned.
    pub(super) fn roll(&self, tip: &mut Tip) -> Result<Event> {
        let (old, base) = (tip.point, tip.point.end);
        let next =
            NextSegment { base, generation: 0, epoch: self.epoch(), prev_end: base, prev_crc: old.last_crc };
        let begun = next.begin(&self.ctx, &self.identity, self.manifest.dir())?;
        let listed = begun
            .list(|next| self.manifest.commit(&self.ctx, |manifest| transitions::roll(manifest, &old, next)));
        // If that is unknown, no more batches may be written to the old segment.
        let (segment, point) = listed.map_err(|failed| self.manifest_failed(failed))?;
        tip.segment.seal(old.end, old.position, old.max_timestamp);
        self.list.push(segment.clone());
        *tip = Tip { journal_upto: tip.journal_upto, ..Tip::new(segment, point, tip.ends.clone()) };
        self.writer.size.forget();
        Ok(Event::Rolled {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            base_offset: base,
        })
    }
}
