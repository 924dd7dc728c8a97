//! How does a log end earlier than it did, or go on elsewhere? The manifest gives the last segment that is kept a new end,
//! the epoch rises, and appending goes on in a new segment. No file is shortened.
//!
//! A batch is never split on the medium: of one that lies across the cut, the records before it are written again, into the
//! new segment, before the manifest lists that.

use super::cursor::Cursor;
use super::manifest::ManifestError;
use super::{Log, Writer};
use crate::engine::{corrupt, malformed};
use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, check_body, encode_header};
use crate::format::body;
use crate::format::compression::Compressor;
use crate::format::manifest::SegmentState;
use crate::format::packing::repack;
use crate::format::segment::SegmentHeader;
use crate::segment::copy::rewrite;
use crate::segment::create::{active_entry, create_segment};
use crate::segment::{FIRST_BATCH, HeaderError, Point, Segment, Source, Window};
use crate::stats::{self, Event};
use crate::storage::write_all_at;
use crate::sync::{Arc, Ordering};
use crate::types::{Offset, Timestamp};

/// What a cut leaves.
struct Cut {
    /// As many segments, from the oldest on.
    kept: usize,
    /// Where the last of them ends, if that is not where it ended.
    last: Option<Point>,
    /// The records before the cut of the batch that lies across it: the first batch of the new segment.
    rest: Option<Rest>,
    /// The log's start and end from now on.
    start: Offset,
    end: Offset,
    /// Positions of earlier epochs are good up to here.
    common: Offset,
}

/// The first batch that is not what was written.
struct Broken {
    segment: Arc<Segment>,
    position: u64,
    /// Where the batches before it end.
    end: Offset,
    what: &'static str,
}

/// The position from which on a segment has to be synced again.
fn first_unsynced(segment: &Segment, durable: &Point) -> u64 {
    let is_its = (segment.base, segment.generation) == (durable.base, durable.generation);
    if is_its { durable.position } else { FIRST_BATCH }
}

/// A batch that is written again with fewer records.
struct Rest {
    header: BatchHeader,
    /// Room for the header, then the body as it is stored.
    stored: Vec<u8>,
}

impl Log {
    /// Takes a poisoned partition back into service: the visible records are checked, written again
    /// and synced, everything after them is cut off, the epoch rises, and appending continues in a
    /// new segment. If the medium no longer shows the bytes of a visible batch, the log ends before
    /// that batch: an event reports it, and readers find `Truncated`. Does nothing if the partition
    /// is not poisoned.
    ///
    /// # Errors
    /// The medium refuses again: the partition stays poisoned.
    pub(crate) fn reopen(&self) -> Result<()> {
        self.reopen_with(|| Ok(()))
    }

    /// As [`reopen`](Log::reopen); `before` is called once the log ends where it will go on, and before anything is
    /// appended there.
    ///
    /// # Errors
    /// As [`reopen`](Log::reopen), and those of `before`.
    pub(crate) fn reopen_with(&self, before: impl FnOnce() -> Result<()>) -> Result<()> {
        // Reported with no lock held: a callback may call the broker.
        if let Some(cut) = self.check_and_reopen(before)? {
            self.waiters.signal();
            self.ctx.event(&Event::Cut(cut));
        }
        Ok(())
    }

    /// Returns what was cut off that had been visible.
    fn check_and_reopen(&self, before: impl FnOnce() -> Result<()>) -> Result<Option<stats::Cut>> {
        // Whoever commits now may be about to write a record that speaks of what would be cut off.
        let _alone = self.journal.alone();
        let _shape = self.shape.lock();
        if let Some(error) = &*self.ended.lock() {
            return Err(error.clone());
        }
        if let Some(error) = &*self.damage.lock() {
            return Err(error.clone());
        }
        let Some(cause) = self.poison.lock().clone() else { return Ok(None) };
        if self.journal.involves(self) {
            // A transaction that has happened may not be in the log yet: opening the broker puts it there.
            return Err(Error::Poisoned { topic: self.topic().clone(), partition: self.partition(), cause });
        }
        // Nobody appends (poisoned) and, behind this, nobody syncs any more: the ends stand still. Before the writer's
        // lock, since a sync that is under way takes that too.
        self.commit.halt(Error::clone(&cause));
        let mut writer = self.writer.lock();
        let visible = self.visible_end();
        let durable = *self.durable_point.lock();
        let segments = self.segments();
        let unsynced = || segments.iter().filter(|s| s.is_dirty() && s.base < visible);
        unsynced().for_each(|segment| segment.release());
        // IMPORTANT: before anything is written again. After a failed sync the page cache may show
        // the bytes of the medium, which are older than those that were written.
        let broken = self.check_again(unsynced(), &durable, visible)?;
        let end = broken.as_ref().map_or(visible, |broken| broken.end);
        if let Some(broken) = broken.as_ref().filter(|broken| broken.end < self.log_start()) {
            // The log start moved there when everything before it was on the medium.
            return Err(corrupt(&self.ctx, &broken.segment.path, broken.position, broken.what));
        }
        // It ends between two batches.
        let (kept, last, _) = self.find_cut(&writer, end)?;
        for segment in unsynced().filter(|segment| segment.base < end) {
            let from = first_unsynced(segment, &durable);
            let to =
                last.filter(|last| last.base == segment.base).map_or(segment.size(), |last| last.position);
            let file = segment.file(&self.ctx)?;
            rewrite(&self.ctx, &*file, &segment.path, from.min(to), to)?;
            segment.mark_synced();
        }
        // Before the epoch: whoever finds out that something was cut off knows why.
        self.reopened.store(self.epoch() + 1, Ordering::Release);
        let cut = Cut { kept, last, rest: None, start: self.log_start(), end, common: end };
        self.begin_epoch_at(&mut writer, cut).map_err(|failed| failed.error)?;
        before()?;
        self.commit.restart(end.get());
        *self.poison.lock() = None;
        self.refuses_appends.store(false, Ordering::Release);
        Ok(broken.map(|broken| self.cut_of(broken, visible)))
    }

    /// Reads and checks the batches of segments that a failed sync may have lost, up to `visible`:
    /// those that the durable point does not cover. Returns where the first one is that is not what
    /// was written, if there is one.
    ///
    /// # Errors
    /// A segment's header is damaged, which was on the medium; or an I/O error.
    fn check_again<'a>(
        &self,
        unsynced: impl Iterator<Item = &'a Arc<Segment>>,
        durable: &Point,
        visible: Offset,
    ) -> Result<Option<Broken>> {
        for segment in unsynced {
            let mut position = first_unsynced(segment, durable);
            let mut end = if position == FIRST_BATCH { segment.base } else { durable.end };
            segment.check_header_again(&self.ctx, &self.identity)?;
            let file = segment.file(&self.ctx)?;
            let mut source = Source::Window(Window::new(file, self.ctx.display(&segment.path)));
            while position < segment.size() && end < visible {
                match self.check_batch(&mut source, segment, position, end)? {
                    Ok(header) => {
                        position += header.stored_bytes();
                        end = header.end_offset();
                    }
                    Err(what) => return Ok(Some(Broken { segment: segment.clone(), position, end, what })),
                }
            }
        }
        Ok(None)
    }

    /// The header of the batch that must be at a position and begin at `offset`; or what is wrong
    /// with it.
    ///
    /// # Errors
    /// An I/O error.
    fn check_batch(
        &self,
        source: &mut Source,
        segment: &Segment,
        position: u64,
        offset: Offset,
    ) -> Result<std::result::Result<BatchHeader, &'static str>> {
        let header = match source.header(&self.ctx, position, self.seed) {
            Ok((header, _)) => header,
            Err(HeaderError::Io(error)) => return Err(error),
            Err(HeaderError::Malformed(m)) => return Ok(Err(m.what)),
        };
        if header.base_offset != offset || !self.manifest.get().fits_epoch(segment.epoch, &header) {
            return Ok(Err("another batch"));
        }
        if position.saturating_add(header.stored_bytes()) > segment.size() {
            return Ok(Err("a longer batch"));
        }
        let body = source.get(&self.ctx, position + HEADER_BYTES as u64, header.body_len as usize)?;
        Ok(check_body(&header, body).map(|()| header).map_err(|m| m.what))
    }

    /// What a reopen reports of records that were visible and are gone.
    fn cut_of(&self, broken: Broken, visible: Offset) -> stats::Cut {
        let Broken { segment, position, end, what } = broken;
        stats::Cut {
            topic: self.topic().clone(),
            partition: self.partition(),
            file: self.ctx.display(&segment.path),
            position,
            bytes: segment.size().saturating_sub(position),
            reason: format!("a sync failed, and this is not what was written: {what}"),
            from: end,
            to: Some(visible),
            kept: None,
        }
    }

    /// Lets the log end at `to`: whatever lies at or behind it is not part of the log any more. Nothing to do if the log
    /// ends there or before.
    ///
    /// # Errors
    /// Out of range below the log start; the partition takes no appends; corrupt where it has to look; or what the medium
    /// says, and then nothing has changed, or it is unknown what has and the partition is poisoned.
    pub(crate) fn truncate_to(self: &Arc<Self>, to: Offset) -> Result<()> {
        // No record of the journal may speak of what is cut off.
        let _alone = self.journal.forget(self)?;
        let shape = self.shape.lock();
        // Nobody else syncs until this is dropped; before the writer's lock, as every leader does.
        let lead = self.commit.hold();
        self.check_writable()?;
        let start = self.log_start();
        if to < start {
            return Err(self.out_of_range(to));
        }
        if to.get() >= self.log_end.load(Ordering::Acquire) {
            return Ok(());
        }
        // IMPORTANT: what is kept is on the medium before the manifest calls it synced.
        let synced = self.sync_written().inspect_err(|error| self.commit.fail(error.clone()))?;
        if to.get() >= synced {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        self.check_writable()?;
        let cut = if to == start {
            // Nothing that may be read is kept, even where the log starts within a batch. The
            // records before the start say what named producers have sent.
            self.keep_producers(to, true)?;
            Cut { kept: 0, last: None, rest: None, start, end: to, common: to }
        } else {
            let (kept, last, split) = self.find_cut(&writer, to)?;
            let rest = split.map(|header| self.shorten(&header, to)).transpose()?.flatten();
            Cut { kept, last, rest, start, end: to, common: to }
        };
        let event = self.cut(&mut writer, cut)?;
        drop((writer, lead, shape));
        self.waiters.signal();
        self.ctx.event(&event);
        Ok(())
    }

    /// Drops every record and lets the log go on at `offset`, wherever that lies.
    ///
    /// # Errors
    /// Out of range if it lies so far that offsets would run out; the partition takes no appends; or what the medium says,
    /// and then nothing has changed, or it is unknown what has and the partition is poisoned.
    pub(crate) fn reset_to(&self, offset: Offset) -> Result<()> {
        if offset > MAX_RESET {
            return Err(self.out_of_range(offset));
        }
        let _alone = self.journal.forget(self)?;
        let shape = self.shape.lock();
        let lead = self.commit.hold();
        let mut writer = self.writer.lock();
        self.check_writable()?;
        self.make_files(&mut writer)?;
        // Not a record is what it was, from the first one on, and no offset that comes was anybody's.
        let common = offset.min(self.log_start());
        let cut = Cut { kept: 0, last: None, rest: None, start: offset, end: offset, common };
        let event = self.cut(&mut writer, cut)?;
        drop((writer, lead, shape));
        self.waiters.signal();
        self.ctx.event(&event);
        Ok(())
    }

    /// Makes a cut that was asked for. The caller holds the shape's lock and the group commit's lead.
    fn cut(&self, writer: &mut Writer, cut: Cut) -> Result<Event> {
        let to = cut.end;
        self.begin_epoch_at(writer, cut).map_err(|failed| match failed.unknown {
            true => self.poison(failed.error),
            false => failed.error,
        })?;
        self.commit.restart(to.get());
        Ok(Event::Truncated {
            topic: self.identity.topic.clone(),
            partition: self.identity.partition,
            to,
            epoch: self.epoch(),
        })
    }

    /// What is kept below `end`: how many segments, where the last of them ends if it becomes shorter, and the batch across
    /// the cut, if there is one.
    fn find_cut(&self, writer: &Writer, end: Offset) -> Result<(usize, Option<Point>, Option<BatchHeader>)> {
        let segments = self.segments();
        let kept = segments.partition_point(|segment| segment.base < end);
        let Some(segment) = kept.checked_sub(1).and_then(|at| segments.get(at)) else {
            return Ok((0, None, None));
        };
        if segment.end().is_some_and(|at| at <= end) {
            return Ok((kept, None, None));
        }
        if Arc::ptr_eq(segment, &writer.segment) && writer.point.end <= end {
            return Ok((kept, Some(writer.point), None));
        }
        let mut source = segment.source(&self.ctx, &self.identity)?;
        let mut point = Point::start_of(segment.base, segment.generation, segment.epoch, 0);
        let mut split = None;
        while point.end < end && point.position < segment.size() {
            let (header, crc) = source.header(&self.ctx, point.position, self.seed).map_err(|e| match e {
                HeaderError::Io(e) => e,
                HeaderError::Malformed(m) => malformed(&self.ctx, &segment.path, point.position, &m),
            })?;
            if header.end_offset() > end {
                // It lies behind the cut, or across it.
                split = Some(header).filter(|header| header.base_offset < end);
                break;
            }
            point.pass(&header, crc);
        }
        let emptied = point.position == FIRST_BATCH;
        Ok((kept - usize::from(emptied), Some(point).filter(|_| !emptied), split))
    }

    /// The batch of a header with its records before `to` only, if there are any.
    fn shorten(self: &Arc<Self>, header: &BatchHeader, to: Offset) -> Result<Option<Rest>> {
        // Within the batch, and not below the log start: a cursor finds and checks it.
        let within = Offset::new(to.get().saturating_sub(1)).max(self.log_start());
        let batch = match header.count {
            0 => None,
            _ => Cursor::new(self.clone(), within).next_batch()?,
        };
        let Some(batch) = batch.filter(|batch| batch.header.base_offset == header.base_offset) else {
            return Ok(None);
        };
        let mut header = batch.header;
        let kept = to.since(header.base_offset);
        let mut stored = vec![0; HEADER_BYTES];
        let (mut count, mut next, mut latest) = (0, 0, None::<Timestamp>);
        let records = body::Records::new(batch.records.as_slice(), header.count);
        // They are valid: none is left out.
        for record in records.map_while(std::result::Result::ok) {
            if u64::from(record.offset_delta) >= kept {
                break;
            }
            let stated = (record.offset_delta != next).then_some(record.offset_delta);
            body::encode_raw(&record, stated, record.timestamp_delta, &mut stored);
            latest = latest.max(Some(header.timestamp(record.timestamp_delta)));
            count += 1;
            next = record.offset_delta.saturating_add(1);
        }
        let Some(latest) = latest else { return Ok(None) };
        let Ok(owned) = u32::try_from(kept) else {
            let what = "a batch that owns more offsets than batches do";
            return Err(corrupt(&self.ctx, &batch.segment.path, 0, what));
        };
        header.count = count;
        repack(&mut header, &mut stored, &mut Compressor::default());
        let dropped = u64::from(header.last_offset_delta).saturating_sub(kept.saturating_sub(1));
        match header.attributes.given_sequences() {
            Some(true) => header.base_sequence = header.base_sequence.saturating_sub(dropped),
            // Only the caller knows which sequences the records that are left had. IMPORTANT: it does not say the old one, or
            // what is sent again would be taken for a repetition and lost.
            Some(false) => {
                (header.producer_id, header.producer_epoch, header.base_sequence) = (0, 0, 0);
                header.attributes = header.attributes.with_given_sequences(None);
            }
            None => {}
        }
        header.last_offset_delta = owned.saturating_sub(1);
        header.max_timestamp = latest;
        header.synced_upto = header.base_offset;
        Ok(Some(Rest { header, stored }))
    }

    /// Ends the log where the cut says, raises the epoch, and goes on in a new segment. The manifest is the commit point.
    /// The caller holds the shape's lock and sees to it that nobody syncs, and that what is kept is on the medium.
    fn begin_epoch_at(&self, writer: &mut Writer, cut: Cut) -> std::result::Result<(), ManifestError> {
        let Cut { kept, last, rest, start, end, common } = cut;
        let unchanged = |error| ManifestError { error, unknown: false };
        let epoch = self.epoch() + 1;
        let segments = self.segments();
        let base = rest.as_ref().map_or(end, |rest| rest.header.base_offset);
        // IMPORTANT: one that nobody else has. A cleaning may be writing a file with this base offset just now.
        let generation = match segments.iter().any(|segment| segment.base == base) {
            true => self.next_generation().map_err(unchanged)?,
            false => 0,
        };
        let (prev_end, prev_crc) = match (last, kept.checked_sub(1)) {
            (Some(last), _) => (last.end, last.last_crc),
            (None, Some(at)) => {
                let manifest = self.manifest.get();
                manifest.segments.get(at).map_or((base, 0), |entry| (entry.end_offset, entry.last_crc))
            }
            (None, None) => (base, 0),
        };
        let header = SegmentHeader {
            partition: self.identity.partition,
            topic_id: self.identity.topic_id,
            base_offset: base,
            prev_end,
            prev_crc,
            generation,
            log_epoch: epoch,
            created_at: self.ctx.clock.now(),
            secret: self.identity.secret,
        };
        let next = active_entry(base, generation, epoch);
        let segment = Arc::new(Segment::from_entry(&self.dir, &next, None));
        let create = || create_segment(&self.ctx, &self.dir, &header);
        let file = self.ctx.with_room(create).map_err(unchanged)?;
        let mut point = Point::start_of(base, generation, epoch, prev_crc);
        if let Some(Rest { mut header, mut stored }) = rest {
            header.log_epoch = epoch;
            let crc = match stored.first_chunk_mut::<HEADER_BYTES>() {
                Some(room) => encode_header(&header, self.seed, room),
                None => 0,
            };
            let path = self.ctx.display(&segment.path);
            // Nothing of the log changes before the manifest: "create" is not among the actions of unknown outcome.
            let write =
                || write_all_at(&*file, &stored, FIRST_BATCH).map_err(|(_, e)| Error::create(&path, e));
            let sync = || file.sync_data().map_err(|e| Error::create(&path, e));
            if let Err(error) = self.ctx.with_room(write).and_then(|()| sync()) {
                let _ = self.ctx.storage.remove_file(&segment.path);
                return Err(unchanged(error));
            }
            point.pass(&header, crc);
        }
        let mut unindexed = Vec::new();
        let committed = self.manifest.commit_freeing(&self.ctx, |manifest| {
            manifest.log_start = start;
            manifest.segments.truncate(kept);
            for entry in manifest.segments.iter_mut().filter(|entry| !entry.state.is_synced()) {
                entry.state = SegmentState::Synced;
                unindexed.push(entry.base_offset);
            }
            if let (Some(last), Some(entry)) = (last, manifest.segments.last_mut()) {
                last.end_entry(entry);
                unindexed.push(entry.base_offset);
            }
            manifest.begin_epoch(common);
            manifest.clip_lost(start, end);
            manifest.segments.push(next);
        });
        if let Err(failed) = committed {
            if !failed.unknown {
                let _ = self.ctx.storage.remove_file(&segment.path);
            }
            return Err(failed);
        }
        segment.adopt_file(&self.ctx, file);
        segment.grow(point.position, point.max_timestamp);
        segment.mark_synced();
        // Of the batch across the cut the keys are looked up when somebody asks.
        segment.forget_keys(point.position);
        let gone = segments.get(kept..).unwrap_or(&[]);
        {
            let _ends = self.ends.lock();
            // Odd from here to the end of the block: what is seen meanwhile may be half old, half new.
            self.cuts.fetch_add(1, Ordering::AcqRel);
            self.log_start.store(start.get(), Ordering::Release);
            for stored in [&self.durable_end, &self.covered_end, &self.visible_end, &self.log_end] {
                stored.store(end.get(), Ordering::Release);
            }
            self.epoch.store(epoch, Ordering::Release);
            self.tail.clear(&self.ctx);
            if let (Some(last), Some(shorter)) = (last, kept.checked_sub(1).and_then(|at| segments.get(at))) {
                shorter.cut(last.end, last.position, last.max_timestamp);
            }
            self.publish_segments(|list| {
                list.truncate(kept);
                list.push(segment.clone());
            });
            for segment in gone {
                // A reader that stands in it goes on wherever the list says now.
                segment.empty();
            }
            self.cuts.fetch_add(1, Ordering::AcqRel);
        }
        *self.durable_point.lock() = point;
        *writer = Writer { segment, point, indexed: FIRST_BATCH, journal_upto: 0 };
        for segment in segments.iter().take(kept).filter(|segment| unindexed.contains(&segment.base)) {
            segment.mark_synced();
            if let Some(end) = segment.end() {
                segment.save_index(&self.ctx, &self.identity, segment.size(), end);
            }
        }
        for segment in gone {
            segment.retire(&self.ctx);
        }
        self.size_limit.store(0, Ordering::Relaxed);
        self.ctx.restore_reserve();
        Ok(())
    }
}

/// A log goes on at most here: half of all offsets are left to be given out.
const MAX_RESET: Offset = Offset::new(1 << 63);
