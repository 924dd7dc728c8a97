//! Appends batches to several logs at once: all of them or none. They are checked and given their
//! offsets while the writers of all logs are held, written to the journal, then to the segments.
//! Writers are locked in the order of topic id and partition.

use std::task::{Poll, Waker};

use super::journal::{Journal, Recorded};
use crate::config::Durability;
use crate::engine::Later;
use crate::error::{Error, IoAction, Outcome, Result};
use crate::log::journal::LogJournal;
use crate::log::participate::{HeldPart, Part, hold};
use crate::log::roll::bytes_to_append;
use crate::log::{Appended, Log, durability, retention};
use crate::stats::Event;
use crate::sync::Arc;

/// A written transaction. Once [`wait`](Committing::wait) has returned it is as durable as the
/// strictest of its logs demands.
pub(crate) struct Committing {
    journal: Arc<Journal>,
    logs: Vec<Arc<Log>>,
    answers: Vec<Option<Appended>>,
    /// The position up to which the journal must be durable for it; `None` if it has no record.
    upto: Option<u64>,
    /// Whether one of its topics has the durability `Sync`.
    is_strict: bool,
}

/// Appends all batches or none, if all conditions hold. Calls `written` with their positions before
/// another thread can append to these logs.
///
/// # Errors
/// `OffsetConflict`, `VersionConflict`, `TransactionTooLarge`, `DiskFull`, `JournalFailed`, or a
/// log takes no appends: nothing was written. If a write fails the outcome is unknown until the
/// broker is opened again, and the logs concerned take no appends until then.
pub(crate) fn commit(
    journal: &Arc<Journal>,
    parts: Vec<Part>,
    written: impl FnOnce(&[Option<Appended>]),
) -> Result<Committing> {
    let ctx = journal.ctx();
    let logs: Vec<Arc<Log>> = parts.iter().map(|part| part.log.clone()).collect();
    // A single batch needs no journal, because it is atomic by itself.
    let journaled = parts.iter().filter(|part| part.batch.is_some()).count() > 1;
    let mut events = Vec::new();
    // Each batch is written twice: to the journal and to its segment.
    let needed = |part: &Part| {
        let stored = part.batch.as_ref().map_or(0, |batch| batch.stored.len());
        bytes_to_append(&part.log, stored) + stored as u64
    };
    let _claim = ctx.claim(|| parts.iter().map(needed).sum())?;
    let writes = parts.iter().any(|part| part.batch.is_some());
    logs.iter().try_for_each(|log| log.check_writable())?;
    if writes && let Err(error) = ctx.reserve.check() {
        // The freed room is for the next attempt.
        ctx.room.make_room();
        ctx.reserve.check().map_err(|_| error)?;
    }
    let later = Later::new();
    // A single append needs no record, so it does not wait while the journal's file is replaced.
    let entered = journaled.then(|| journal.enter());
    let done = if journaled { journal.prepare() } else { Ok(()) }
        .and_then(|()| write_all(journal, parts, journaled, written, &mut events));
    drop((entered, later));
    events.iter().for_each(|event| ctx.events.report(event));
    ctx.events.deliver();
    if !events.is_empty() {
        logs.iter().for_each(Log::request_work);
    }
    if writes {
        ctx.reserve.appended(done.as_ref().map(drop));
    }
    match &done {
        Ok(_) => logs.iter().for_each(retention::keep_size),
        // The freed room is for the next attempt: the batches of this one are gone.
        Err(error) if error.is_full() => drop(ctx.room.make_room()),
        Err(_) => {}
    }
    let (answers, recorded) = done.map_err(|error| match &error {
        Error::OffsetConflict { topic, partition, .. } => {
            let is_it = |log: &&Arc<Log>| (log.topic(), log.partition()) == (topic, *partition);
            logs.iter()
                .find(is_it)
                .map_or(error.clone(), |log| durability::resolve_conflict(log, error.clone()))
        }
        Error::VersionConflict { topic, .. } => {
            let of_topic = logs.iter().filter(|log| log.topic() == topic);
            of_topic.fold(error.clone(), |error, log| durability::resolve_conflict(log, error))
        }
        _ => error,
    })?;
    let upto = recorded.as_ref().map(|recorded| recorded.upto);
    let mut committing = Committing { journal: journal.clone(), logs, answers, upto, is_strict: false };
    committing.is_strict = committing.announce();
    if let Some(recorded) = recorded {
        journal.keep_small(&recorded);
    }
    Ok(committing)
}

/// The part of [`commit`] that runs with the writers of all logs held.
fn write_all(
    journal: &Journal,
    mut parts: Vec<Part>,
    journaled: bool,
    written: impl FnOnce(&[Option<Appended>]),
    events: &mut Vec<Event>,
) -> Result<(Vec<Option<Appended>>, Option<Recorded>)> {
    let mut answers: Vec<Option<Appended>> = parts.iter().map(|_| None).collect();
    let mut held = hold(&mut parts)?;
    for part in &mut held {
        events.extend(part.roll()?);
    }
    let recorded = if journaled {
        Some(write_journaled(journal, &mut held, &mut answers)?)
    } else {
        held.iter_mut().for_each(|part| part.fill(0));
        for part in &mut held {
            part.write().map_err(|(written, e)| part.write_failed(written, e))?;
            part.advance(None);
        }
        publish(&mut held, &mut answers);
        None
    };
    written(&answers);
    Ok((answers, recorded))
}

/// Writes the record of a transaction, and then its batches.
///
/// # Errors
/// Those of [`JournalState::write`](super::journal::JournalState::write): nothing was written. If a
/// batch could not be written, or it is unknown whether the record was, the logs are poisoned.
fn write_journaled(
    journal: &Journal,
    held: &mut [HeldPart<'_>],
    answers: &mut [Option<Appended>],
) -> Result<Recorded> {
    let hides_records = held.iter().any(HeldPart::hides_records);
    let mut state = journal.begin()?;
    let id = state.next_id();
    held.iter_mut().for_each(|part| part.fill(id));
    let parts = held.iter().filter_map(HeldPart::committed).collect();
    let involved = held.iter().filter_map(HeldPart::involved);
    let done = state.write(journal.ctx(), journal.durable(), parts, involved).and_then(|recorded| {
        // The record is written: from here on the transaction has happened. IMPORTANT: keep the
        // journal's lock if a batch is hidden until the record is durable. A thread that syncs the
        // journal moves the visible ends up to the log ends, so it must not come before these are
        // stored.
        let kept = hides_records.then_some(state);
        let written = held
            .iter()
            .try_for_each(|part| part.write().map_err(|(_, e)| Error::io(IoAction::Write, &part.path(), e)));
        if let Err(error) = &written {
            kept.unwrap_or_else(|| journal.state()).fail(error);
            return written.map(|()| recorded);
        }
        held.iter_mut().for_each(|part| part.advance(Some(recorded.upto)));
        publish(held, answers);
        drop(kept);
        Ok(recorded)
    });
    done.inspect_err(|error| {
        if error.outcome() == Outcome::Unknown {
            held.iter().for_each(|part| part.poison(error));
        }
    })
}

/// Moves the log ends, and makes the batches visible that must not wait for a sync.
fn publish(held: &mut [HeldPart<'_>], answers: &mut [Option<Appended>]) {
    for part in held {
        if let Some((place, appended)) = part.publish()
            && let Some(answer) = answers.get_mut(place)
        {
            *answer = Some(appended);
        }
    }
}

impl Committing {
    fn written(&self) -> impl Iterator<Item = (&Arc<Log>, &Appended)> {
        self.logs.iter().zip(&self.answers).filter_map(|(log, answer)| Some((log, answer.as_ref()?)))
    }

    /// Returns the position of the batch of a part.
    pub(crate) fn written_at(&self, place: usize) -> Option<(&Arc<Log>, &Appended)> {
        Some((self.logs.get(place)?, self.answers.get(place)?.as_ref()?))
    }

    /// Wakes readers of the batches that are visible already, and schedules the sync of the others.
    /// Returns whether the caller must wait for one of the logs.
    fn announce(&self) -> bool {
        let mut is_strict = false;
        for (log, _) in self.written() {
            // Whatever the durability is now: it may have been another one when the batch was
            // published.
            log.wake_readers();
            match log.settings().durability {
                Durability::Sync => is_strict = true,
                Durability::Interval(every) => durability::arm_interval(log, every),
                Durability::Os => {}
            }
        }
        is_strict
    }

    /// Returns once all batches are visible, and as durable as the strictest of the logs demands.
    ///
    /// # Errors
    /// A sync failed: the logs take no appends until the broker is opened again.
    pub(crate) fn wait(&self) -> Result<()> {
        match self.upto {
            _ if !self.is_strict => Ok(()),
            None => self.written().try_for_each(|(log, at)| log.wait_visible(at.end, at.epoch)),
            Some(upto) => self.journal.make_durable(upto).inspect_err(|e| self.failed(e)),
        }
    }

    /// As [`wait`](Committing::wait) for a future: registers the waker, and leaves the sync to the
    /// worker.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<()>> {
        let Some(upto) = self.upto.filter(|_| self.is_strict && !self.journal.ctx().clock.is_manual()) else {
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
        let polled = self.journal.poll_durable(upto, waker);
        match &polled {
            Poll::Pending if self.request_sync() => {}
            Poll::Pending => return Poll::Ready(self.wait()),
            Poll::Ready(Err(error)) => self.failed(error),
            Poll::Ready(Ok(())) => {}
        }
        polled
    }

    /// Leaves the sync to the worker. Returns false if the worker would not do it.
    pub(crate) fn request_sync(&self) -> bool {
        if !self.is_strict || self.upto.is_some_and(|upto| self.journal.durable() >= upto) {
            return true;
        }
        // The worker syncs the journal together with any of these logs.
        let asked = self.written().map(|(log, _)| log).find(|log| log.is_usable());
        asked.inspect(|log| durability::want_sync(log)).is_some()
    }

    fn failed(&self, error: &Error) {
        if error.is_no_descriptor() {
            // The sync was not tried.
            return;
        }
        self.written().for_each(|(log, _)| drop(log.poison(error.clone())));
    }
}
