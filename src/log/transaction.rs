//! How do batches get into several logs at once, all of them or none? Checked and given their offsets with all writers held,
//! written to the journal, then to the segments. The order in which writers are locked is that of topic id and partition.

use super::append::Filled;
use super::journal::{Place, Tail};
use super::{Appended, Context, Log, LogSettings, SealedBatch, Writer};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::batch::{HEADER_BYTES, decode_header};
use crate::format::journal::CommittedPart;
use crate::stats::Event;
use crate::storage::write_all_at;
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::Offset;

/// What a transaction does to one log. There is one part a log.
pub(crate) struct Part {
    pub(crate) log: Arc<Log>,
    pub(crate) batch: Option<SealedBatch>,
    pub(crate) condition: Option<Condition>,
}

/// What must hold of a log, or nothing is done to any.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// It ends here.
    End(Offset),
}

/// A part with its log's writer held.
struct Held<'a> {
    log: &'a Arc<Log>,
    /// Its place among the parts as they were given.
    place: usize,
    writer: MutexGuard<'a, Writer>,
    settings: LogSettings,
    batch: Option<SealedBatch>,
    condition: Option<Condition>,
    filled: Option<Filled>,
}

/// Appends all batches or none, if all conditions hold. Answers for each part where its batch went; `written` is told the
/// same before anybody else can append to these logs. Everything is visible, and as durable as the strictest of these logs
/// demands, on return.
///
/// # Errors
/// `OffsetConflict`, `RecordTooLarge`, `DiskFull`, or a log takes no appends: nothing was done. If a write or sync fails
/// the outcome is unknown until the broker is opened again, and the logs concerned take no appends until then.
pub(crate) fn commit(
    ctx: &Arc<Context>,
    parts: Vec<Part>,
    written: impl FnOnce(&[Option<Appended>]),
) -> Result<Vec<Option<Appended>>> {
    let mut answers: Vec<Option<Appended>> = parts.iter().map(|_| None).collect();
    let logs: Vec<Arc<Log>> = parts.iter().map(|part| part.log.clone()).collect();
    let mut order: Vec<(usize, Part)> = parts.into_iter().enumerate().collect();
    order.sort_by_key(|(_, part)| (part.log.identity().topic_id, part.log.partition()));
    // One batch is whole by itself.
    let journaled = order.iter().filter(|(_, part)| part.batch.is_some()).count() > 1;
    let entered = ctx.journal.enter();
    let mut events = Vec::new();
    let mut upto = None;
    {
        let mut places = order.iter_mut().map(|(place, part)| (*place, part.batch.take(), part.condition));
        let taken: Vec<_> = places.by_ref().collect();
        let mut held: Vec<Held<'_>> = Vec::with_capacity(taken.len());
        for (place, batch, condition) in taken {
            let Some(log) = logs.get(place) else { continue };
            let writer = log.writer.lock();
            let settings = log.settings();
            held.push(Held { log, place, writer, settings, batch, condition, filled: None });
        }
        for part in &held {
            part.check()?;
        }
        for part in &mut held {
            events.extend(part.roll()?);
        }
        if journaled {
            let mut journal = ctx.journal.begin(ctx)?;
            let id = journal.next_id();
            held.iter_mut().for_each(|part| part.fill(id));
            let parts = held.iter().filter_map(Held::committed).collect();
            let logs = held.iter().filter(|part| part.batch.is_some()).map(|part| part.log.clone());
            let end = journal.write(ctx, ctx.journal.durable(), parts, logs)?;
            upto = Some(end);
            // From here on it has happened.
            if let Err(error) = held.iter().try_for_each(|part| part.write(ctx)) {
                journal.fail(&error);
                drop(journal);
                for part in held.iter().filter(|part| part.batch.is_some()) {
                    part.log.poison(error.clone());
                }
                return Err(error);
            }
            drop(journal);
            for part in &mut held {
                part.advance(Some(end));
            }
        } else {
            held.iter_mut().for_each(|part| part.fill(0));
            for part in &mut held {
                part.write(ctx).or_else(|error| part.write_failed(error))?;
                part.advance(None);
            }
        }
        for part in held {
            let (place, appended) = (part.place, part.publish());
            if let (Some(answer), Some(appended)) = (answers.get_mut(place), appended) {
                *answer = Some(appended);
            }
        }
        written(&answers);
    }
    events.iter().for_each(|event| ctx.event(event));
    let finished = finish(ctx, &logs, &answers, upto, !events.is_empty());
    drop(entered);
    finished?;
    if ctx.journal.is_large() {
        // If that cannot be done now, the next transaction tries again, and says so.
        drop(ctx.journal.checkpoint(ctx));
    }
    Ok(answers)
}

/// Wakes readers, and waits for the strictest durability.
fn finish(
    ctx: &Context,
    logs: &[Arc<Log>],
    answers: &[Option<Appended>],
    upto: Option<u64>,
    rolled: bool,
) -> Result<()> {
    let mut strict = false;
    let written = || logs.iter().zip(answers).filter_map(|(log, answer)| Some((log, answer.as_ref()?)));
    for (log, _) in written() {
        match log.settings().durability {
            Durability::Sync => strict = true,
            Durability::Interval(every) => {
                log.arm_interval(every);
                log.wake_readers();
            }
            Durability::Os => log.wake_readers(),
        }
        if rolled {
            log.request_work();
        }
    }
    if !strict {
        return Ok(());
    }
    match upto {
        None => written().try_for_each(|(log, appended)| log.wait_visible(appended.end, appended.epoch)),
        Some(upto) => {
            ctx.journal
                .make_durable(ctx, upto)
                .inspect_err(|error| written().for_each(|(log, _)| drop(log.poison(error.clone()))))?;
            for (log, appended) in written() {
                // What is below it in this log was synced before the journal was.
                log.visible_end.fetch_max(appended.end.get(), Ordering::AcqRel);
                log.wake_readers();
            }
            Ok(())
        }
    }
}

impl Held<'_> {
    fn check(&self) -> Result<()> {
        self.log.check_writable()?;
        match self.condition {
            Some(Condition::End(end)) if end != self.writer.point.end => {
                return Err(Error::OffsetConflict { end: self.writer.point.end });
            }
            _ => {}
        }
        let limit = self.settings.max_batch_bytes();
        match &self.batch {
            Some(batch) if batch.stored.len() > limit => {
                Err(Error::RecordTooLarge { size: batch.stored.len(), limit })
            }
            _ => Ok(()),
        }
    }

    fn roll(&mut self) -> Result<Option<Event>> {
        let Some(batch) = &mut self.batch else { return Ok(None) };
        self.log.set_append_time(&mut batch.header, &self.settings);
        let rolled =
            self.log.roll_if_due(&mut self.writer, &batch.header, batch.stored.len(), &self.settings)?;
        // Opened now, so that only the write itself can fail later.
        self.writer.segment.file(&self.log.ctx)?;
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

    fn write(&self, ctx: &Context) -> Result<()> {
        let Some(batch) = &self.batch else { return Ok(()) };
        let file = self.writer.segment.file(ctx)?;
        write_all_at(&*file, &batch.stored, self.writer.point.position)
            .map_err(|(_, e)| Error::io("write", &ctx.display(&self.writer.segment.path), e))
    }

    /// Of a single batch, as of any append.
    fn write_failed(&self, error: Error) -> Result<()> {
        let Error::Io { source, .. } = &error else { return Err(error) };
        let file = self.writer.segment.file(&self.log.ctx)?;
        let len = self.batch.as_ref().map_or(0, |batch| batch.stored.len());
        Err(self.log.write_failed(
            &self.writer,
            &*file,
            len,
            std::io::Error::new(source.kind(), source.to_string()),
        ))
    }

    fn advance(&mut self, journal: Option<u64>) {
        if let (Some(batch), Some(filled)) = (&self.batch, self.filled) {
            let stored = batch.stored.len() as u64;
            let interval = self.settings.index_interval_bytes;
            self.log.advance(&mut self.writer, &batch.header, filled.crc, stored, interval);
            self.writer.journal_upto = journal.unwrap_or(self.writer.journal_upto);
        }
    }

    /// Lets readers see it, as far as nothing has to be waited for.
    fn publish(self) -> Option<Appended> {
        let SealedBatch { header, stored, raw } = self.batch?;
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
        if self.durable_end.load(Ordering::Acquire) >= before.get() {
            return Ok(());
        }
        for segment in self.segments().iter().filter(|segment| segment.base < before) {
            segment.sync_if_dirty(&self.ctx).map_err(|e| self.poison(e))?;
        }
        Ok(())
    }

    /// What opening found behind the last point that was known to be on the medium.
    pub(crate) fn recovered(&self) -> &Tail {
        &self.recovered
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
        let there = tail.transactions.contains(&(base, id)) && base < end;
        if there { Place::Present } else { Place::Elsewhere }
    }

    /// Appends a batch of the journal at the log's end, where it belongs.
    ///
    /// # Errors
    /// Those of an append.
    pub(super) fn redo(&self, batch: &[u8]) -> Result<()> {
        let path = || self.ctx.display(std::path::Path::new(crate::format::names::JOURNAL));
        let (mut header, _) =
            decode_header(batch, self.seed()).map_err(|m| Error::corrupt(&path(), m.position, m.what))?;
        let settings = self.settings();
        let mut writer = self.writer.lock();
        let mut stored = batch.to_vec();
        debug_assert!(stored.len() >= HEADER_BYTES);
        self.roll_if_due(&mut writer, &header, stored.len(), &settings)?;
        let end = self.write_batch(&mut writer, &mut header, &mut stored, &settings)?;
        self.publish_end(end, &settings);
        Ok(())
    }
}
