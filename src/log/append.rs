//! How does a batch get into the log? Under the writer's lock: a roll if one is due, the base offset and the header's checksum,
//! one positional write. Never under it: compression, a body's checksum, a sync of records.

use super::producers::Sender;
use super::streams::StreamCondition;
use super::{Appended, Log, LogSettings, Writer};
use crate::config::{Durability, TimestampType};
use crate::engine::Buffer;
use crate::error::{Error, Result, is_space};
use crate::format::batch::{BatchHeader, HEADER_BYTES, encode_header};
use crate::format::index::IndexEntry;
use crate::format::manifest::SegmentState;
use crate::format::names;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::builder::SealedBatch;
use crate::segment::create::{active_entry, create_segment};
use crate::segment::keys::KeyCount;
use crate::segment::{Batch, ByteView, FIRST_BATCH, Point, Segment, timestamp_or_unknown};
use crate::stats::Event;
use crate::storage::{File, write_all_at};
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::{Offset, Timestamp};
use crate::version::Version;

/// What must hold for an append.
#[derive(Default)]
struct When<'a> {
    /// The log ends here.
    end: Option<Offset>,
    stream: Option<&'a StreamCondition>,
}

/// A header that is complete.
#[derive(Clone, Copy)]
pub(crate) struct Filled {
    pub(super) crc: u32,
}

impl Log {
    /// Appends a batch: assigns its offsets and writes it. With `Os` and `Interval` it is visible on return; with `Sync`
    /// somebody calls [`wait_visible`](Log::wait_visible) or the worker is asked to.
    ///
    /// # Errors
    /// `RecordTooLarge` if no segment has room for it, `MissingKey`, `DiskFull`: nothing was appended. After another
    /// failure of the write the partition is poisoned.
    pub(crate) fn append(self: &Arc<Self>, batch: SealedBatch) -> Result<Appended> {
        self.append_if(batch, When::default(), None).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append) of a batch that a named producer sends, with sequences or without.
    ///
    /// # Errors
    /// `Fenced`, `OutOfOrderSequence`, beside those of `append`.
    pub(crate) fn append_from(self: &Arc<Self>, batch: SealedBatch, sender: &Sender<'_>) -> Result<Appended> {
        self.append_if(batch, When::default(), Some(sender)).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), if the log ends at `expected`.
    ///
    /// # Errors
    /// `OffsetConflict` if it does not, beside those of `append`.
    pub(crate) fn append_at(self: &Arc<Self>, batch: SealedBatch, expected: Offset) -> Result<Appended> {
        let when = When { end: Some(expected), ..When::default() };
        self.append_if(batch, when, None).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), if a stream's version is as expected. Answers with that version too.
    ///
    /// # Errors
    /// `VersionConflict` if it is not, and those of reading, beside those of `append`.
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
                size: batch.stored.len(),
                limit: settings.max_batch_bytes(),
            });
        }
        let _claim = match names::is_own_topic(self.topic().as_str()) {
            // It may be what lets records go that a group holds; and its group's lock is held.
            true => None,
            false => self.ctx.claim(|| self.bytes_to_append(batch.stored.len()))?,
        };
        let mut rolled = None;
        let mut batch = Some(batch);
        let done = self.append_with_room(&mut batch, &when, sender, &keys, &mut rolled);
        if let Some(event) = rolled {
            self.ctx.event(&event);
            self.request_work();
        }
        self.ctx.appended(done.as_ref().map(drop));
        if done.is_ok() {
            if settings.durability != Durability::Sync {
                self.wake_readers();
            }
            if let Durability::Interval(every) = settings.durability {
                self.arm_interval(every);
            }
            self.keep_size();
        }
        done
    }

    /// Appends, and if there is no room deletes what retention lets go, in any partition, and tries once more.
    fn append_with_room(
        self: &Arc<Self>,
        batch: &mut Option<SealedBatch>,
        when: &When<'_>,
        sender: Option<&Sender<'_>>,
        keys: &[KeyCount],
        rolled: &mut Option<Event>,
    ) -> Result<(Appended, Version)> {
        match self.append_now(batch, when, sender, keys, rolled) {
            // IMPORTANT: not for a commit, which is appended under its group's lock: the groups are asked what they hold.
            Err(error) if error.is_full() && !names::is_own_topic(self.topic().as_str()) => {
                if !self.ctx.make_room() {
                    return Err(error);
                }
                self.append_now(batch, when, sender, keys, rolled)
            }
            done => done,
        }
    }

    /// Takes the batch if it has been appended.
    fn append_now(
        self: &Arc<Self>,
        batch: &mut Option<SealedBatch>,
        when: &When<'_>,
        sender: Option<&Sender<'_>>,
        keys: &[KeyCount],
        rolled: &mut Option<Event>,
    ) -> Result<(Appended, Version)> {
        self.check_writable()?;
        self.ctx.check_reserve()?;
        let (mut writer, version) = self.lock_when(when)?;
        let settings = self.settings();
        let Some(SealedBatch { header, stored, keyless, .. }) = batch else {
            debug_assert!(false, "a batch that was taken has been appended");
            return Err(Error::Closed);
        };
        if keyless.is_some() {
            settings.check_keys(*keyless)?;
        }
        if sender.is_some() {
            // Before the first batch of a named producer, its side file is made.
            self.make_files(&mut writer)?;
        }
        // Held to the end: what is noted is what was judged, and whoever asks behind it finds all of it.
        let mut judged = sender.map(|sender| self.judge(header, sender)).transpose()?;
        let append_time = self.set_append_time(header, &settings);
        if let Some(event) = self.roll_if_due(&mut writer, header, stored.len(), &settings)? {
            *rolled = Some(event);
        }
        let epoch = self.epoch();
        let end = self.write_batch(&mut writer, header, stored, keys, &settings)?;
        if let Some(condition) = when.stream {
            self.note_version(&writer, condition, version, keys);
        }
        if let Some(judged) = &mut judged {
            judged.note(header);
        }
        let base_offset = header.base_offset;
        if let Some(SealedBatch { header, stored, raw, .. }) = batch.take() {
            self.remember(&writer, header, stored, raw);
        }
        self.publish_end(end, &settings);
        Ok((Appended { base_offset, end, epoch, append_time }, version))
    }

    /// What an append of so many bytes takes on the medium, if it rolls.
    pub(crate) fn bytes_to_append(&self, stored: usize) -> u64 {
        (stored + SEGMENT_HEADER_BYTES) as u64 + self.manifest_bytes()
    }

    /// Takes the writer's lock, if what is demanded holds. Answers with the version of the stream that it is about.
    fn lock_when(self: &Arc<Self>, when: &When<'_>) -> Result<(MutexGuard<'_, Writer>, Version)> {
        loop {
            let counted = when.stream.map(|condition| self.count_before(condition)).transpose()?;
            let writer = self.writer.lock();
            self.check_writable()?;
            if when.end.is_some_and(|end| end != writer.point.end) {
                return Err(self.conflict(writer.point.end));
            }
            let (Some(condition), Some(counted)) = (when.stream, counted) else {
                return Ok((writer, Version::ZERO));
            };
            if let Some(version) = self.check_stream(&writer, condition, &counted)? {
                return Ok((writer, version));
            }
        }
    }

    /// Fills in what only the log knows of a batch, writes it at the log's end, and moves the writer behind it.
    /// [`publish_end`](Log::publish_end) is next. The batch, of which the header is `header`, has room for that in front.
    ///
    /// # Errors
    /// `DiskFull`: nothing was appended. After another failure of the write the partition is poisoned.
    pub(super) fn write_batch(
        &self,
        writer: &mut Writer,
        header: &mut BatchHeader,
        stored: &mut [u8],
        keys: &[KeyCount],
        settings: &LogSettings,
    ) -> Result<Offset> {
        let Some(filled) = self.fill_header(writer, header, stored) else {
            return Err(Error::RecordTooLarge { size: 0, limit: 0 });
        };
        let file = writer.segment.file(&self.ctx)?;
        if let Err((written, e)) = write_all_at(&*file, stored, writer.point.position) {
            return Err(self.write_failed(writer, &*file, written, e));
        }
        self.advance(writer, header, filled.crc, stored.len() as u64, keys, settings.index_interval_bytes);
        Ok(header.end_offset())
    }

    /// Fills in what only the log knows of a batch that goes to its end. `None` if there is no room for the header in
    /// front.
    pub(super) fn fill_header(
        &self,
        writer: &Writer,
        header: &mut BatchHeader,
        stored: &mut [u8],
    ) -> Option<Filled> {
        header.base_offset = writer.point.end;
        header.log_epoch = self.epoch();
        header.synced_upto = Offset::new(self.durable_end.load(Ordering::Acquire));
        let crc = encode_header(header, self.seed, stored.first_chunk_mut::<HEADER_BYTES>()?);
        Some(Filled { crc })
    }

    /// Gives a batch the time of its append, where the topic asks for that.
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

    /// Moves the log's end, and the visible one where no sync is waited for, behind a batch that was written. Under the
    /// writer's lock.
    pub(super) fn publish_end(&self, end: Offset, settings: &LogSettings) {
        self.log_end.store(end.get(), Ordering::Release);
        if settings.durability != Durability::Sync {
            self.visible_end.fetch_max(end.get(), Ordering::AcqRel);
        }
    }

    /// The time now, within what a record may have: a clock may show anything.
    fn append_time(&self) -> Timestamp {
        self.ctx.clock.now().clamp(Timestamp::default(), Timestamp::MAX)
    }

    /// Moves the writer behind a batch that has just been written.
    pub(super) fn advance(
        &self,
        writer: &mut Writer,
        header: &BatchHeader,
        crc: u32,
        stored: u64,
        keys: &[KeyCount],
        index_interval: u32,
    ) {
        let point = &mut writer.point;
        if !keys.is_empty() {
            writer.segment.note_keys(point.position, header.base_offset, keys);
        }
        if point.position - writer.indexed >= u64::from(index_interval)
            && let (Ok(offset_delta), Ok(position)) =
                (u32::try_from(header.base_offset.since(point.base)), u32::try_from(point.position))
        {
            let max_before = timestamp_or_unknown(point.max_timestamp);
            writer.segment.add_index_entry(IndexEntry { offset_delta, position, max_before });
            writer.indexed = point.position;
        }
        debug_assert_eq!(stored, header.stored_bytes(), "a batch is as long as its header says");
        point.pass(header, crc);
        writer.segment.grow(point.position, point.max_timestamp);
        if point.position >= self.size_limit.load(Ordering::Relaxed) {
            self.is_over_size.store(true, Ordering::Relaxed);
        }
        self.records_appended.fetch_add(u64::from(header.count), Ordering::Relaxed);
        self.batches_appended.fetch_add(1, Ordering::Relaxed);
        self.bytes_appended.fetch_add(stored, Ordering::Relaxed);
    }

    /// Keeps the batch for readers that follow the end of the log.
    pub(super) fn remember(&self, writer: &Writer, header: BatchHeader, stored: Buffer, raw: Option<Buffer>) {
        if !self.waiters.anybody() {
            // Nobody follows this log: the buffers serve the next batch, while they are still in the processor's cache.
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
                segment: writer.segment.clone(),
                next_position: writer.point.position,
            };
            self.tail.push(&self.ctx, batch);
        }
    }

    /// A write failed: either nothing of it counts and the log goes on, or the partition is poisoned.
    pub(super) fn write_failed(
        &self,
        writer: &Writer,
        file: &dyn File,
        written: usize,
        e: std::io::Error,
    ) -> Error {
        let path = self.ctx.display(&writer.segment.path);
        if let Some(cause) = is_space(&e) {
            // The part that was written lies behind the log's end and is no whole batch. Zeros over it, where there is
            // room by now, so that it cannot look like a torn tail; the next append overwrites it in any case.
            if write_all_at(file, &vec![0; written], writer.point.position).is_ok() {
                return Error::DiskFull { path, cause };
            }
        }
        self.poison(Error::io("write", &path, e))
    }

    /// Seals the active segment and begins the next one if this batch asks for it (Kafka's `LogSegment.shouldRoll`). Before
    /// the first batch of all there are no files: then they are made.
    pub(super) fn roll_if_due(
        &self,
        writer: &mut Writer,
        header: &BatchHeader,
        stored: usize,
        settings: &LogSettings,
    ) -> Result<Option<Event>> {
        self.make_files(writer)?;
        let point = &writer.point;
        if point.position == FIRST_BATCH {
            return Ok(None);
        }
        let full = point.position + stored as u64 > u64::from(settings.segment_bytes);
        let spread = point.end.since(point.base) + u64::from(header.last_offset_delta) > i32::MAX as u64;
        let aged = point
            .first_timestamp
            .is_some_and(|first| header.max_timestamp > first.plus(settings.segment_age));
        if full || spread || aged { self.roll(writer).map(Some) } else { Ok(None) }
    }

    /// Begins a new segment at the log's end. The manifest lists it before a batch is written to
    /// it; the old one is synced later, by the worker or by a caller that waits for durability.
    ///
    /// IMPORTANT: the header is on the medium before the manifest lists the segment. An opening
    /// takes a listed segment without a valid header for damage, because no crash leaves one.
    pub(super) fn roll(&self, writer: &mut Writer) -> Result<Event> {
        let (old, base) = (writer.point, writer.point.end);
        let header = SegmentHeader {
            partition: self.identity.partition,
            topic_id: self.identity.topic_id,
            base_offset: base,
            prev_end: base,
            prev_crc: old.last_crc,
            generation: 0,
            log_epoch: self.epoch(),
            created_at: self.ctx.clock.now(),
            secret: self.identity.secret,
        };
        let file = create_segment(&self.ctx, &self.dir, &header)?;
        let next = active_entry(base, 0, header.log_epoch);
        let committed = self.manifest.commit(&self.ctx, |manifest| {
            if let Some(last) = manifest.segments.last_mut() {
                last.state = SegmentState::Sealed;
                old.end_entry(last);
            }
            manifest.segments.push(next);
        });
        if let Err(failed) = committed {
            if failed.unknown {
                // Which of the two manifests a restart finds is open: nothing more may go to the old segment.
                return Err(self.poison(failed.error));
            }
            let _ = self.ctx.storage.remove_file(&self.dir.join(names::segment_file(base, 0)));
            return Err(failed.error);
        }
        writer.segment.seal(old.end, old.position, old.max_timestamp);
        let segment = Arc::new(Segment::from_entry(&self.dir, &next, Some((base, old.last_crc))));
        segment.adopt_file(&self.ctx, file);
        // Nothing is in it but the header, which has been synced.
        segment.mark_synced();
        self.publish_segments(|segments| segments.push(segment.clone()));
        *writer = Writer {
            segment,
            point: Point::start_of(base, 0, header.log_epoch, old.last_crc),
            indexed: FIRST_BATCH,
            journal_upto: writer.journal_upto,
        };
        self.size_limit.store(0, Ordering::Relaxed);
        Ok(Event::Rolled {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            base_offset: base,
        })
    }

    pub(super) fn publish_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut current = self.segments.write();
        let mut next = current.to_vec();
        change(&mut next);
        *current = next.into();
    }
}
