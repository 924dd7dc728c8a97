//! How do batches get into several logs at once, all of them or none? Checked and given their offsets with all writers held,
//! written to the journal, then to the segments. The order in which writers are locked is that of topic id and partition.

use std::path::Path;
use std::task::{Poll, Waker};

use super::append::Filled;
use super::journal::{Involved, Place, Tail};
use super::keys::KeyCount;
use super::streams::{Counted, StreamCondition};
use super::{Appended, Context, Log, LogSettings, SealedBatch, Writer};
use crate::config::Durability;
use crate::error::{Error, Outcome, Result};
use crate::format::batch::{BatchHeader, HEADER_BYTES, decode_header};
use crate::format::journal::CommittedPart;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::stats::{Event, Unproven};
use crate::storage::{File, write_all_at};
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::Offset;
use crate::version::Version;

/// What a transaction does to one log. There is one part a log.
pub(crate) struct Part {
    pub(crate) log: Arc<Log>,
    pub(crate) batch: Option<SealedBatch>,
    pub(crate) conditions: Conditions,
}

/// What must hold of a log, or nothing is done to any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// It ends here.
    pub(crate) end: Option<Offset>,
    /// Its streams are as expected, one after the other.
    pub(crate) streams: Vec<StreamCondition>,
}

/// A part with its log's writer held.
struct Held<'a> {
    log: &'a Arc<Log>,
    /// Its place among the parts as they were given.
    place: usize,
    writer: MutexGuard<'a, Writer>,
    settings: LogSettings,
    batch: Option<SealedBatch>,
    keys: Vec<KeyCount>,
    conditions: Conditions,
    /// The versions that the streams of the conditions have.
    versions: Vec<Version>,
    filled: Option<Filled>,
    /// Where the batch goes. IMPORTANT: kept from before the record is written, so that nothing but the write can fail then.
    file: Option<Arc<dyn File>>,
}

/// A transaction that is written, and as safe as the strictest of its logs demands once it has been waited for.
pub(crate) struct Committing {
    ctx: Arc<Context>,
    logs: Vec<Arc<Log>>,
    answers: Vec<Option<Appended>>,
    /// Up to where the journal has to be durable for it; `None` if it needs no record.
    upto: Option<u64>,
    /// Whether one of its topics waits for a sync.
    is_strict: bool,
}

/// Appends all batches or none, if all conditions hold. `written` is told where they went before anybody else can append
/// to these logs.
///
/// # Errors
/// `OffsetConflict`, `VersionConflict`, `RecordTooLarge`, `DiskFull`, `JournalFailed`, or a log takes no appends: nothing
/// was done. If a write fails the outcome is unknown until the broker is opened again, and the logs concerned take no
/// appends until then.
pub(crate) fn commit(
    ctx: &Arc<Context>,
    parts: Vec<Part>,
    written: impl FnOnce(&[Option<Appended>]),
) -> Result<Committing> {
    let logs: Vec<Arc<Log>> = parts.iter().map(|part| part.log.clone()).collect();
    // One batch is whole by itself.
    let journaled = parts.iter().filter(|part| part.batch.is_some()).count() > 1;
    let mut events = Vec::new();
    // Once in the journal and once in its segment.
    let needed = |part: &Part| {
        let stored = part.batch.as_ref().map_or(0, |batch| batch.stored.len());
        part.log.bytes_to_append(stored) + stored as u64
    };
    let _claim = ctx.claim(|| parts.iter().map(needed).sum())?;
    let writes = parts.iter().any(|part| part.batch.is_some());
    logs.iter().try_for_each(|log| log.check_writable())?;
    if writes && let Err(error) = ctx.check_reserve() {
        // Whatever this frees is for the next attempt.
        ctx.make_room();
        ctx.check_reserve().map_err(|_| error)?;
    }
    // A single append needs no journal, and waits for nobody who begins it anew.
    let entered = journaled.then(|| ctx.journal.enter());
    let done = if journaled { ctx.journal.prepare(ctx) } else { Ok(()) }
        .and_then(|()| write_all(ctx, &logs, parts, journaled, written, &mut events));
    drop(entered);
    events.iter().for_each(|event| ctx.event(event));
    if !events.is_empty() {
        logs.iter().for_each(Log::request_work);
    }
    if writes {
        ctx.appended(done.as_ref().map(drop));
    }
    match &done {
        Ok(_) => logs.iter().for_each(Log::keep_size),
        // For the next attempt: the batches of this one are gone.
        Err(error) if error.is_full() => drop(ctx.make_room()),
        Err(_) => {}
    }
    let (answers, upto) = done.map_err(|error| match &error {
        Error::OffsetConflict { topic, partition, .. } => {
            let is_it = |log: &&Arc<Log>| (log.topic(), log.partition()) == (topic, *partition);
            logs.iter().find(is_it).map_or(error.clone(), |log| log.answer_conflict(error.clone()))
        }
        Error::VersionConflict { topic, .. } => {
            let of_topic = logs.iter().filter(|log| log.topic() == topic);
            of_topic.fold(error.clone(), |error, log| log.answer_conflict(error))
        }
        _ => error,
    })?;
    let mut committing = Committing { ctx: ctx.clone(), logs, answers, upto, is_strict: false };
    committing.is_strict = committing.announce();
    if journaled {
        ctx.journal.checkpoint_if_large(ctx);
    }
    Ok(committing)
}

/// The part of [`commit`] with the writers of all logs held.
fn write_all(
    ctx: &Arc<Context>,
    logs: &[Arc<Log>],
    parts: Vec<Part>,
    journaled: bool,
    written: impl FnOnce(&[Option<Appended>]),
    events: &mut Vec<Event>,
) -> Result<(Vec<Option<Appended>>, Option<u64>)> {
    let mut answers: Vec<Option<Appended>> = parts.iter().map(|_| None).collect();
    let mut held = hold(logs, parts)?;
    for part in &mut held {
        events.extend(part.roll()?);
    }
    let mut upto = None;
    let journal = if journaled {
        let mut journal = ctx.journal.begin()?;
        let id = journal.next_id();
        held.iter_mut().for_each(|part| part.fill(id));
        let parts = held.iter().filter_map(Held::committed).collect();
        let involved = held.iter().filter_map(Held::involved).collect();
        let done = journal.write(ctx, ctx.journal.durable(), parts, involved).and_then(|end| {
            upto = Some(end);
            // From here on it has happened.
            let written = held.iter().try_for_each(|part| {
                part.write().map_err(|(_, e)| Error::io("write", &ctx.display(&part.writer.segment.path), e))
            });
            written.inspect_err(|error| journal.fail(error))
        });
        if let Err(error) = done {
            drop(journal);
            if error.outcome() == Outcome::Unknown {
                for part in held.iter().filter(|part| part.batch.is_some()) {
                    part.log.poison(error.clone());
                }
            }
            return Err(error);
        }
        for part in &mut held {
            part.advance(upto);
        }
        Some(journal)
    } else {
        held.iter_mut().for_each(|part| part.fill(0));
        for part in &mut held {
            part.write().map_err(|(written, e)| part.write_failed(written, e))?;
            part.advance(None);
        }
        None
    };
    for part in &mut held {
        let (place, appended) = (part.place, part.publish());
        if let (Some(answer), Some(appended)) = (answers.get_mut(place), appended) {
            *answer = Some(appended);
        }
    }
    // IMPORTANT: behind the log ends. Whoever syncs the journal moves the visible ends up to them.
    drop(journal);
    written(&answers);
    Ok((answers, upto))
}

/// Takes the writers of all logs, in their order, once all conditions hold.
fn hold(logs: &[Arc<Log>], parts: Vec<Part>) -> Result<Vec<Held<'_>>> {
    let mut order: Vec<(usize, Part, Vec<KeyCount>, &Arc<Log>)> = Vec::with_capacity(parts.len());
    for (place, (part, log)) in parts.into_iter().zip(logs).enumerate() {
        let keys =
            part.batch.as_ref().map(|batch| log.keys_of(&log.settings(), &batch.header, batch.records()));
        order.push((place, part, keys.unwrap_or_default(), log));
    }
    order.sort_by_key(|(_, _, _, log)| (log.identity().topic_id, log.partition()));
    loop {
        // Looked up with no writer held: that may read files.
        let mut counted = Vec::with_capacity(order.len());
        for (_, part, _, log) in &order {
            let of_part = part.conditions.streams.iter().map(|stream| log.count_before(stream));
            counted.push(of_part.collect::<Result<Vec<_>>>()?);
        }
        let writers: Vec<_> = order.iter().map(|(_, _, _, log)| log.writer.lock()).collect();
        let mut versions = Vec::with_capacity(order.len());
        for (((_, part, _, log), counted), writer) in order.iter().zip(&counted).zip(&writers) {
            versions.push(check(log, part, counted, writer)?);
        }
        let Some(versions) = versions.into_iter().collect::<Option<Vec<_>>>() else { continue };
        let held = order.into_iter().zip(writers).zip(versions);
        return Ok(held
            .map(|(((place, part, keys, log), writer), versions)| {
                let Part { batch, conditions, .. } = part;
                let settings = log.settings();
                Held {
                    log,
                    place,
                    writer,
                    settings,
                    batch,
                    keys,
                    conditions,
                    versions,
                    filled: None,
                    file: None,
                }
            })
            .collect());
    }
}

/// The versions of the streams that a part has conditions about; `None` if they have to be looked up again.
///
/// # Errors
/// A condition does not hold, or the log cannot take the part.
fn check(log: &Log, part: &Part, counted: &[Counted], writer: &Writer) -> Result<Option<Vec<Version>>> {
    log.check_writable()?;
    if part.conditions.end.is_some_and(|end| end != writer.point.end) {
        return Err(log.conflict(writer.point.end));
    }
    if let Some(batch) = &part.batch {
        let settings = log.settings();
        let (size, limit) = (batch.stored.len(), settings.max_batch_bytes());
        if size > limit {
            return Err(Error::RecordTooLarge { size, limit });
        }
        settings.check_keys(batch.keyless)?;
    }
    let streams = part.conditions.streams.iter().zip(counted);
    streams.map(|(condition, counted)| log.check_stream(writer, condition, counted)).collect()
}

impl Committing {
    fn written(&self) -> impl Iterator<Item = (&Arc<Log>, &Appended)> {
        self.logs.iter().zip(&self.answers).filter_map(|(log, answer)| Some((log, answer.as_ref()?)))
    }

    /// Where the batch of a part went.
    pub(crate) fn written_at(&self, place: usize) -> Option<(&Arc<Log>, &Appended)> {
        Some((self.logs.get(place)?, self.answers.get(place)?.as_ref()?))
    }

    /// Wakes readers of what is visible already, and sees to it that the rest is synced in time. Answers whether one of the
    /// logs has to be waited for.
    fn announce(&self) -> bool {
        let mut is_strict = false;
        for (log, _) in self.written() {
            match log.settings().durability {
                Durability::Sync => is_strict = true,
                Durability::Interval(every) => {
                    log.arm_interval(every);
                    log.wake_readers();
                }
                Durability::Os => log.wake_readers(),
            }
        }
        is_strict
    }

    /// Returns once everything is visible, and as durable as the strictest of the logs demands.
    ///
    /// # Errors
    /// A sync failed: the logs take no appends until the broker is opened again.
    pub(crate) fn wait(&self) -> Result<()> {
        match self.upto {
            _ if !self.is_strict => Ok(()),
            None => self.written().try_for_each(|(log, at)| log.wait_visible(at.end, at.epoch)),
            Some(upto) => self.ctx.journal.make_durable(&self.ctx, upto).inspect_err(|e| self.failed(e)),
        }
    }

    /// As [`wait`](Committing::wait) for a future: leaves the waker, and the sync to the worker.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<()>> {
        let Some(upto) = self.upto.filter(|_| self.is_strict && !self.ctx.clock.is_manual()) else {
            if !self.is_strict || self.upto.is_some() {
                return Poll::Ready(self.wait());
            }
            let mut polled = Poll::Ready(Ok(()));
            for (log, at) in self.written() {
                polled = log.poll_visible(at.end, at.epoch, waker);
                if polled.is_pending() {
                    log.request_sync();
                }
            }
            return polled;
        };
        let polled = self.ctx.journal.poll_durable(upto, waker);
        match &polled {
            Poll::Pending if self.request_sync() => {}
            Poll::Pending => return Poll::Ready(self.wait()),
            Poll::Ready(Err(error)) => self.failed(error),
            Poll::Ready(Ok(())) => {}
        }
        polled
    }

    /// Leaves the sync to the worker. Answers false if that would not come to it.
    pub(crate) fn request_sync(&self) -> bool {
        if !self.is_strict || self.upto.is_some_and(|upto| self.ctx.journal.durable() >= upto) {
            return true;
        }
        // With any of these logs the worker syncs the journal.
        let asked = self.written().map(|(log, _)| log).find(|log| log.is_usable());
        asked.inspect(|log| log.want_sync()).is_some()
    }

    fn failed(&self, error: &Error) {
        self.written().for_each(|(log, _)| drop(log.poison(error.clone())));
    }
}

impl Held<'_> {
    fn roll(&mut self) -> Result<Option<Event>> {
        let Some(batch) = &mut self.batch else { return Ok(None) };
        self.log.set_append_time(&mut batch.header, &self.settings);
        let rolled =
            self.log.roll_if_due(&mut self.writer, &batch.header, batch.stored.len(), &self.settings)?;
        self.file = Some(self.writer.segment.file(&self.log.ctx)?);
        Ok(rolled)
    }

    fn fill(&mut self, transaction: u64) {
        if let Some(batch) = &mut self.batch {
            batch.header.transaction_id = transaction;
            self.filled = self.log.fill_header(&self.writer, &mut batch.header, &mut batch.stored);
        }
    }

    fn committed(&self) -> Option<CommittedPart<'_>> {
        let batch = self.batch.as_ref()?;
        Some(CommittedPart {
            topic: self.log.identity().topic_id,
            partition: self.log.partition(),
            base_offset: batch.header.base_offset,
            batch: &batch.stored,
        })
    }

    fn involved(&self) -> Option<Involved> {
        let header = self.batch.as_ref()?.header;
        Some(Involved { log: self.log.clone(), before: header.base_offset, end: header.end_offset() })
    }

    /// Answers with how much was written, if not all was.
    fn write(&self) -> Result<(), (usize, std::io::Error)> {
        let (Some(batch), Some(file)) = (&self.batch, &self.file) else { return Ok(()) };
        write_all_at(&**file, &batch.stored, self.writer.point.position)
    }

    /// Of a single batch, as of any append.
    fn write_failed(&self, written: usize, e: std::io::Error) -> Error {
        match &self.file {
            Some(file) => self.log.write_failed(&self.writer, &**file, written, e),
            None => Error::Closed,
        }
    }

    fn advance(&mut self, journal: Option<u64>) {
        if let (Some(batch), Some(filled)) = (&self.batch, self.filled) {
            let stored = batch.stored.len() as u64;
            let interval = self.settings.index_interval_bytes;
            self.log.advance(&mut self.writer, &batch.header, filled.crc, stored, &self.keys, interval);
            for (condition, version) in self.conditions.streams.iter().zip(&self.versions) {
                self.log.note_version(&self.writer, condition, *version, &self.keys);
            }
            self.writer.journal_upto = journal.unwrap_or(self.writer.journal_upto);
        }
    }

    /// Lets readers see it, as far as nothing has to be waited for.
    fn publish(&mut self) -> Option<Appended> {
        let SealedBatch { header, stored, raw, .. } = self.batch.take()?;
        self.log.remember(&self.writer, header, stored, raw);
        self.log.publish_end(header.end_offset(), &self.settings);
        let append_time = header.attributes.append_time().then_some(header.max_timestamp);
        Some(Appended {
            base_offset: header.base_offset,
            end: header.end_offset(),
            epoch: header.log_epoch,
            append_time,
        })
    }
}

impl Log {
    /// Syncs what was written before an offset, without calling it durable.
    ///
    /// # Errors
    /// What the medium says: the partition is poisoned.
    pub(super) fn sync_before(&self, before: Offset) -> Result<()> {
        let known = [&self.durable_end, &self.covered_end].map(|end| end.load(Ordering::Acquire));
        if known.iter().any(|known| *known >= before.get()) {
            return Ok(());
        }
        let failed = match self.commit.failure() {
            Some(error) => error,
            None => {
                let segments = self.segments();
                let mut before = segments.iter().filter(|segment| segment.base < before);
                match before.try_for_each(|segment| segment.sync_if_dirty(&self.ctx)) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
        };
        // Of what is deleted nothing has to be whole.
        if self.is_deleted() { Ok(()) } else { Err(self.poison(failed)) }
    }

    /// Notes that everything before `end` is on the medium, here or as records of the journal, which are written again in their
    /// order if the medium loses them here.
    pub(super) fn cover(&self, end: Offset) {
        self.covered_end.fetch_max(end.get(), Ordering::AcqRel);
    }

    /// Why it could not be opened, if that was for another reason than damage.
    pub(super) fn unread(&self) -> Option<Error> {
        let is_damage = |error: &Error| matches!(error, Error::Corrupt(_) | Error::UnsupportedFormat { .. });
        self.damage.lock().clone().filter(|error| !is_damage(error))
    }

    /// What opening found behind the last point that was known to be on the medium.
    pub(crate) fn recovered(&self) -> &Tail {
        &self.recovered
    }

    /// What an opening reports that cannot prove where the log had ended.
    pub(crate) fn unproven(&self) -> Unproven {
        let end = self.bounds().log_end;
        let checked = self.recovered.from.min(end);
        Unproven { topic: self.topic().clone(), partition: self.partition(), checked, end }
    }

    /// Whether it can be appended to.
    pub(crate) fn is_usable(&self) -> bool {
        self.check_writable().is_ok()
    }

    pub(super) fn place_of(&self, part: &CommittedPart<'_>, id: u64) -> Place {
        let (base, end) = (part.base_offset, self.bounds().log_end);
        let tail = &self.recovered;
        if !self.is_usable() || base < self.log_start() || (base < tail.from && base < end) {
            return Place::Present;
        }
        if base == end {
            return Place::Next;
        }
        let there = base < end
            && tail.transactions.binary_search_by_key(&(base, id), |found| (found.base, found.id)).is_ok();
        if there { Place::Present } else { Place::Elsewhere }
    }

    /// Appends a batch of the journal at the log's end, where it belongs. Answers where the log ends then.
    ///
    /// # Errors
    /// Those of an append, and of replacing the manifest.
    pub(super) fn redo(&self, batch: &[u8]) -> Result<Offset> {
        let path = || self.ctx.display(Path::new(names::JOURNAL));
        let (mut header, _) =
            decode_header(batch, self.seed()).map_err(|m| Error::corrupt(&path(), m.position, m.what))?;
        let settings = self.settings();
        let mut writer = self.writer.lock();
        self.keep_positions(&header)?;
        let mut stored = batch.to_vec();
        debug_assert!(stored.len() >= HEADER_BYTES);
        self.roll_if_due(&mut writer, &header, stored.len(), &settings)?;
        let end = self.write_batch(&mut writer, &mut header, &mut stored, &[], &settings)?;
        // Its keys are looked up when somebody asks.
        writer.segment.forget_keys(writer.point.position);
        self.publish_end(end, &settings);
        Ok(end)
    }

    /// If recovery has cut off what is left of a batch that is now written again as it was, the records of the epoch in
    /// which it was appended are the same up to its end, not only up to where that cut was: a position behind it is still
    /// one. IMPORTANT: said before it is written. Whoever comes after a crash in between writes it again, in any case, and
    /// a batch that is there is not written again.
    fn keep_positions(&self, header: &BatchHeader) -> Result<()> {
        let was_cut = |manifest: &Manifest| {
            let last = manifest.epochs.last();
            last.is_some_and(|last| last.epoch > header.log_epoch && last.start == header.base_offset)
        };
        if !was_cut(&self.manifest.get()) {
            return Ok(());
        }
        let committed = self.manifest.commit(&self.ctx, |manifest| {
            manifest.move_last_epoch_behind(header);
        });
        committed.map_err(|failed| failed.error)
    }
}
