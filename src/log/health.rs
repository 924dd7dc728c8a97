//! Whether a log may be read and appended to. No call is allowed after its end, no append after a
//! failed write or sync, and no append where the log is damaged.

use crate::engine::Identity;
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicBool, AtomicU32, Mutex, Ordering, Rank};

/// The reasons for refusing calls of a log.
///
/// Its lock may be taken under any other, and no lock is taken under it.
pub(crate) struct Health {
    state: Mutex<Reasons>,
    /// Mirrors `state`, so that an append checks only one flag.
    refuses_appends: AtomicBool,
    refuses_reads: AtomicBool,
    /// Mirrors `damage`.
    is_damaged: AtomicBool,
    /// A reader has found damage.
    met_damage: AtomicBool,
    /// The epoch that the last reopen began.
    reopened: AtomicU32,
}

#[derive(Default)]
struct Reasons {
    /// Durable bytes were found damaged: the log is read-only until the loss is accepted.
    damage: Option<Error>,
    /// A write or a sync failed: no appends until the log is reopened.
    poison: Option<Arc<Error>>,
    /// The broker was closed or the topic deleted: no calls at all.
    ended: Option<Error>,
}

impl Health {
    /// `is_readable`: whether some of its segments are known.
    pub(crate) fn new(damage: Option<Error>, is_readable: bool) -> Self {
        Health {
            refuses_appends: AtomicBool::new(damage.is_some()),
            refuses_reads: AtomicBool::new(!is_readable),
            is_damaged: AtomicBool::new(damage.is_some()),
            met_damage: AtomicBool::new(false),
            reopened: AtomicU32::new(0),
            state: Mutex::new(Rank::Health, Reasons { damage, ..Reasons::default() }),
        }
    }

    /// # Errors
    /// Closed, deleted, or nothing of the partition can be read.
    #[inline]
    pub(crate) fn check_readable(&self) -> Result<()> {
        if self.refuses_reads.load(Ordering::Acquire) { self.refuse_read() } else { Ok(()) }
    }

    #[cold]
    fn refuse_read(&self) -> Result<()> {
        let state = self.state.lock();
        match (&state.ended, &state.damage) {
            (Some(error), _) | (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(()),
        }
    }

    /// # Errors
    /// Closed, deleted, damaged, `Poisoned`.
    #[inline]
    pub(crate) fn check_writable(&self, of: &Identity) -> Result<()> {
        if self.refuses_appends.load(Ordering::Acquire) { self.refuse_append(of) } else { Ok(()) }
    }

    #[cold]
    fn refuse_append(&self, of: &Identity) -> Result<()> {
        let state = self.state.lock();
        match (&state.ended, &state.damage, &state.poison) {
            (Some(error), _, _) | (None, Some(error), _) => Err(error.clone()),
            (None, None, Some(cause)) => Err(of.poisoned(cause)),
            (None, None, None) => Ok(()),
        }
    }

    /// Returns whether durable bytes were found damaged when the log was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    /// Returns whether the opening, or a reader since, has found damage.
    pub(crate) fn has_known_damage(&self) -> bool {
        self.is_damaged() || self.met_damage.load(Ordering::Acquire)
    }

    /// Notes that a reader has found damage.
    pub(crate) fn note_damage(&self) {
        self.met_damage.store(true, Ordering::Release);
    }

    pub(crate) fn damage(&self) -> Option<Error> {
        self.state.lock().damage.clone()
    }

    /// Returns why the log could not be opened, if the reason is not damage.
    pub(crate) fn unread(&self) -> Option<Error> {
        let is_damage = |error: &Error| matches!(error, Error::Corrupt(_) | Error::UnsupportedFormat { .. });
        self.damage().filter(|error| !is_damage(error))
    }

    /// Forgets the damage, because the loss of the damaged records was accepted.
    pub(crate) fn accept_damage(&self) {
        let mut state = self.state.lock();
        state.damage = None;
        self.is_damaged.store(false, Ordering::Release);
        self.met_damage.store(false, Ordering::Release);
        self.renew(&state);
    }

    /// Notes whether a log of another process can be read: `error` is why not.
    pub(crate) fn follow(&self, error: Option<Error>) {
        let mut state = self.state.lock();
        let refuses = error.is_some() || state.ended.is_some();
        self.is_damaged.store(error.is_some(), Ordering::Release);
        state.damage = error;
        self.refuses_reads.store(refuses, Ordering::Release);
        self.renew(&state);
    }

    /// Returns whether the log takes no appends until it is reopened.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.refuses_appends.load(Ordering::Acquire) && self.poison_cause().is_some()
    }

    pub(crate) fn poison_cause(&self) -> Option<Arc<Error>> {
        self.state.lock().poison.clone()
    }

    /// Refuses appends until the log is reopened. Returns whether this is the first reason.
    pub(crate) fn poison(&self, cause: &Error) -> bool {
        let mut state = self.state.lock();
        let is_first = state.poison.is_none();
        state.poison.get_or_insert_with(|| Arc::new(cause.clone()));
        self.renew(&state);
        is_first
    }

    /// Notes that a reopen is about to begin `epoch`. Must be called before it does, so that a
    /// caller that finds its record truncated gets the right error.
    pub(crate) fn note_reopening(&self, epoch: u32) {
        self.reopened.store(epoch, Ordering::Release);
    }

    /// Returns whether a record that was appended up to `epoch` may have been truncated by a
    /// reopen, and not by a caller's request.
    pub(crate) fn may_have_lost(&self, epoch: u32) -> bool {
        self.reopened.load(Ordering::Acquire) > epoch
    }

    /// Allows appends again.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        state.poison = None;
        self.renew(&state);
    }

    /// Returns the error of the end, if the log has ended.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.state.lock().ended.clone()
    }

    /// Returns whether the topic was deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        matches!(self.state.lock().ended, Some(Error::TopicDeleted { .. }))
    }

    /// Refuses appends; reads continue until [`end`](Health::end). Returns false if the log had
    /// ended before.
    pub(crate) fn begin_end(&self, error: Error) -> bool {
        let mut state = self.state.lock();
        let is_first = state.ended.is_none();
        state.ended.get_or_insert(error);
        self.renew(&state);
        is_first
    }

    /// Refuses all calls: each returns the error of the end.
    pub(crate) fn end(&self, error: Error) {
        let _ = self.begin_end(error);
        self.refuses_reads.store(true, Ordering::Release);
    }

    /// Returns why appends are refused, unless the reason is the end.
    pub(crate) fn failure(&self) -> Option<Error> {
        let state = self.state.lock();
        state.damage.clone().or_else(|| state.poison.as_ref().map(|cause| Error::clone(cause)))
    }

    fn renew(&self, state: &Reasons) {
        let refuses = state.damage.is_some() || state.poison.is_some() || state.ended.is_some();
        self.refuses_appends.store(refuses, Ordering::Release);
    }
}
