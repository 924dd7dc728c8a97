//! The journal makes a transaction atomic across any crash: one record, written before any of its
//! batches is written, in a file that all partitions of a broker share.
//!
//! The concurrency argument:
//! - The *gate* is shared by threads that write a transaction. A thread that starts a new file or
//!   truncates a log takes it alone, so no record ever refers to offsets that were given to other
//!   records. It is taken before every lock of a log. No commit holds it during its sync.
//! - The journal's own lock is taken with the writers' locks of the partitions held. It is held
//!   while the id is chosen and the record is written, so ids and positions rise in the order in
//!   which records are written. The batches are written after it is released, so transactions over
//!   different partitions wait for each other only for their records. No thread needs the batches:
//!   if they are lost, the record has them, and the writers' locks keep all other batches of these
//!   logs after them.
//! - The exception is a transaction with a batch that readers must not see before the record is
//!   durable. It keeps the journal's lock until the log ends are stored: a thread that syncs the
//!   journal moves the visible end of each log in `involved` up to its log end, and must find the
//!   batches there.
//! - *Durable* means: the records before the transaction in each of its partitions are durable, and
//!   so is the journal's record. Therefore the thread that leads a sync of the journal first syncs
//!   those segments, directly and not through their logs: a log's own leader waits for the journal,
//!   never the other way round. In a log this makes records visible, but not durable. Batches that
//!   durable records *cover* without a gap need no sync of their segment: if lost, they are written
//!   again, in the order of the records. So consecutive transactions take one sync each, and those
//!   of several threads share one: a batch right after one that the same sync covers needs no sync
//!   of its segment either.
//! - A *truncation* of a log that the file refers to starts a new file first, and that waits for a
//!   running sync. So the leader never makes truncated records visible.

mod checkpoint;
mod involved;

use std::collections::HashMap;
use std::path::Path;
use std::task::{Poll, Waker};

use self::involved::InvolvedRuns;
use super::records::{JournalRecords, lost_record};
use crate::engine::{Context, Identity, Later};
use crate::error::{Error, IoAction, Result, Space, is_space};
use crate::format::journal::{self, Committed, CommittedPart, JOURNAL_HEADER_BYTES};
use crate::format::names;
use crate::log::ahead::fill_ahead;
use crate::log::commit::GroupCommit;
use crate::log::durability;
use crate::log::journal::{Alone, LogJournal};
use crate::log::participate::{Involved, InvolvedBatch};
use crate::log::recovered_tail::RecoveredTail;
use crate::log::zeros::{STEP_MAX, ZerosAhead, wanted_end};
use crate::storage::{File, OpenMode, replace_and_open, write_all_at};
use crate::sync::{Arc, AtomicBool, Mutex, MutexGuard, Ordering, Rank, RwLock, RwLockReadGuard};
use crate::types::Offset;

/// A broker's journal. It has no file before the first transaction.
pub(crate) struct Journal {
    ctx: Arc<Context>,
    gate: RwLock<()>,
    /// There is a file. So a commit takes the lock of the state only for its record.
    has_file: AtomicBool,
    /// The worker was asked to start an empty file.
    is_queued: AtomicBool,
    state: Mutex<JournalState>,
    commit: GroupCommit,
    /// The records that the file had before an opening. No other lock is taken under this one.
    known: Mutex<Option<JournalRecords>>,
}

pub(crate) struct JournalState {
    pub(super) file: Option<Arc<dyn File>>,
    /// The position of the next record in the file.
    pub(super) position: u64,
    /// As [`position`](JournalState::position), but counted through all files: commits wait for it.
    written: u64,
    /// `written` at the start of the file.
    written_before: u64,
    pub(super) floor: u64,
    pub(super) next_id: u64,
    /// The batches that records of this file refer to.
    involved: InvolvedRuns,
    /// The zeros after the last record.
    zeros: ZerosAhead,
    /// A write or sync failed: it is unknown which records a restart finds. No more commits.
    pub(super) failed: Option<Error>,
    /// The position from which on the file is so large that a new one should be started.
    large_from: u64,
    /// Why no new file could be started.
    stuck: Option<Error>,
    bytes_max: u64,
}

/// The record of a transaction was written.
pub(crate) struct Recorded {
    /// The position up to which the journal must be durable for it.
    pub(crate) upto: u64,
    /// By how many bytes the file is larger than it should be.
    excess: u64,
}

/// While it lives, no new file is started and no log is truncated.
pub(crate) type Entered<'a> = RwLockReadGuard<'a, ()>;

impl Journal {
    pub(crate) fn new(ctx: Arc<Context>) -> Self {
        let state = JournalState {
            file: None,
            position: 0,
            written: 0,
            written_before: 0,
            floor: 1,
            next_id: 1,
            involved: InvolvedRuns::default(),
            zeros: ZerosAhead::new(0),
            failed: None,
            large_from: FILE_BYTES,
            stuck: None,
            bytes_max: JOURNAL_BYTES_MAX,
        };
        Journal {
            commit: GroupCommit::new(0, &ctx.events),
            ctx,
            gate: RwLock::new(Rank::JournalGate, ()),
            has_file: AtomicBool::new(false),
            is_queued: AtomicBool::new(false),
            state: Mutex::new(Rank::Journal, state),
            known: Mutex::new(Rank::JournalRecords, None),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock()
    }

    /// Stores, during an opening, the records that the file has.
    pub(super) fn know(&self, records: Option<JournalRecords>) {
        *self.known.lock() = records;
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        self.gate.read()
    }

    /// Ensures that there is a file. The caller must hold no lock of a log, because the first file
    /// is synced.
    ///
    /// # Errors
    /// `JournalFailed` after an earlier failure; an I/O error.
    pub(crate) fn prepare(&self) -> Result<()> {
        // Only the closing takes the file away, and `begin` returns an error after that.
        if self.has_file.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state.lock();
        state.check()?;
        if state.file.is_none() {
            state.start_file(&self.ctx, false)?;
        }
        self.has_file.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes the lock under which the next record is written. The caller must hold the writers'
    /// locks of its partitions.
    ///
    /// # Errors
    /// `JournalFailed` after an earlier failure.
    pub(crate) fn begin(&self) -> Result<MutexGuard<'_, JournalState>> {
        let state = self.state.lock();
        state.check()?;
        Ok(state)
    }

    /// As [`make_durable`](Journal::make_durable) for a future: registers its waker, and leaves the
    /// sync to another thread.
    pub(crate) fn poll_durable(&self, upto: u64, waker: &Waker) -> Poll<Result<()>> {
        self.commit.register(waker);
        // Check again: a sync that finished in between is seen here, a later one wakes.
        if self.commit.durable() >= upto {
            return Poll::Ready(Ok(()));
        }
        self.commit.failure().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    /// Returns the position up to which the journal is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.commit.durable()
    }

    /// The leader's part. After a failure no transaction is committed.
    fn sync(&self) -> Result<u64> {
        self.try_sync().inspect_err(|error| {
            // Without a descriptor a sync was not tried.
            if !error.is_no_descriptor() {
                self.state.lock().fail(error);
            }
        })
    }

    fn try_sync(&self) -> Result<u64> {
        let (file, written, (involved, taken)) = {
            let mut state = self.state.lock();
            state.write_zeros_ahead(&self.ctx);
            (state.file.clone(), state.written, state.involved.take())
        };
        let Some(file) = file else { return Ok(written) };
        let mut ends = HashMap::new();
        for part in &involved {
            // What comes right before it may be an earlier part of this sync.
            if ends.insert(Arc::as_ptr(&part.log), part.end) != Some(part.before) {
                durability::sync_before(&part.log, part.before)?;
            }
        }
        file.sync_data()
            .map_err(|e| Error::io(IoAction::Sync, &self.ctx.display(Path::new(names::JOURNAL)), e))?;
        // None of these logs is truncated before this is done, because a truncation first makes
        // every transaction durable that has a record.
        show(&involved);
        // Only a thread that is alone starts a new file, and it takes the lead for that.
        self.state.lock().involved.settle(taken);
        Ok(written)
    }

    /// Called at the broker's end, after every log was closed. If all logs were synced, the records
    /// are no longer needed. Returns whether the file has no record now.
    pub(crate) fn close(&self, all_synced: bool) -> Result<bool> {
        let _later = Later::new();
        let _alone = self.alone();
        let mut state = self.state.lock();
        state.involved = InvolvedRuns::default();
        let has_records = state.written != state.written_before;
        let result = match has_records {
            false => Ok(state.failed.is_none()),
            true if all_synced && state.failed.is_none() => state.start_file(&self.ctx, true).map(|()| true),
            true => Ok(false),
        };
        state.file = None;
        state.fail(&Error::Closed);
        drop(state);
        self.commit.fail(Error::Closed);
        result
    }
}

impl LogJournal for Journal {
    fn ctx(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn make_durable(&self, upto: u64) -> Result<()> {
        self.commit.wait(upto, || self.sync())
    }

    fn alone(&self) -> Alone<'_> {
        self.gate.write()
    }

    fn forget(&self, log: &Identity) -> Result<Alone<'_>> {
        let alone = self.alone();
        if !self.involves(log) {
            return Ok(alone);
        }
        drop(alone);
        self.checkpoint()
    }

    fn involves(&self, log: &Identity) -> bool {
        let state = self.state.lock();
        state.involved.all().iter().any(|part| std::ptr::eq(&**part.log.identity(), log))
    }

    fn check_records(&self, identity: &Identity, tail: &RecoveredTail, log_start: Offset) -> Result<()> {
        let known = self.known.lock();
        let lost = known.as_ref().and_then(|known| Some((known, known.find_lost(tail, log_start)?)));
        lost.map_or(Ok(()), |(known, found)| Err(lost_record(&self.ctx, identity, known, found)))
    }
}

impl JournalState {
    /// # Errors
    /// The journal failed or was closed: nothing can be committed.
    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(Error::Closed) => Err(Error::Closed),
            Some(error) => Err(Error::JournalFailed { cause: Arc::new(error.clone()) }),
            None => Ok(()),
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Returns by how many bytes the file is larger than it should be.
    fn excess(&self) -> u64 {
        self.position.saturating_sub(self.large_from)
    }

    /// Writes the record of a transaction with the id [`next_id`](JournalState::next_id): from here
    /// on the transaction has happened.
    ///
    /// # Errors
    /// `DiskFull`, `TransactionTooLarge`: nothing has happened. `JournalFailed`: nothing has
    /// happened either; the file has its largest size, because a partition prevents a new one.
    /// Another I/O error: a restart may find the record, and nothing is committed until then.
    pub(crate) fn write<'a>(
        &mut self,
        ctx: &Context,
        durable: u64,
        parts: Vec<CommittedPart<'_>>,
        involved: impl Iterator<Item = InvolvedBatch<'a>>,
    ) -> Result<Recorded> {
        let path = || ctx.display(Path::new(names::JOURNAL));
        let Some(file) = self.file.clone() else { return Err(Error::Closed) };
        let synced_upto = durable.saturating_sub(self.written_before) + JOURNAL_HEADER_BYTES as u64;
        let size = parts.iter().map(|part| part.batch.len()).sum();
        if size > RECORD_BYTES_MAX {
            return Err(Error::TransactionTooLarge { partition: None, size, limit: RECORD_BYTES_MAX });
        }
        if self.position > self.bytes_max {
            // The bound exists because an opening reads the whole file.
            let cause = self
                .stuck
                .clone()
                .unwrap_or_else(|| Error::DiskFull { path: path(), cause: Space::FileTooLarge });
            return Err(Error::JournalFailed { cause: Arc::new(cause) });
        }
        let record = Committed { id: self.next_id, synced_upto, parts }.encode(self.floor, self.position);
        if let Err((written, e)) = write_all_at(&*file, &record, self.position) {
            // Overwrite the part with zeros, if there is room now, so that it does not look like a
            // torn record.
            if let Some(cause) = is_space(&e)
                && write_all_at(&*file, &vec![0; written], self.position).is_ok()
            {
                return Err(Error::DiskFull { path: path(), cause });
            }
            let error = Error::io(IoAction::Write, &path(), e);
            self.fail(&error);
            // The record may exist nevertheless: these logs take no appends until the next opening.
            self.involved.add(involved);
            return Err(error);
        }
        self.next_id += 1;
        self.position += record.len() as u64;
        self.written += record.len() as u64;
        self.involved.add(involved);
        Ok(Recorded { upto: self.written, excess: self.excess() })
    }

    /// Writes zeros after the last record, if they are due, as partitions with `Sync` do (see
    /// [`ahead`](crate::log::ahead)). The caller leads a sync of the file, which then need not make
    /// a length or blocks durable. Nothing relies on the zeros.
    fn write_zeros_ahead(&mut self, ctx: &Context) {
        let position = self.position;
        let (Some(grown), Some(file)) = (self.zeros.look(position), &self.file) else { return };
        // Near its end a file gets none, because it is replaced.
        let Some(end) = wanted_end(position, grown, self.large_from) else { return };
        let reached = fill_ahead(ctx, &**file, position, grown, end);
        self.zeros.set_enough_until(reached.unwrap_or(position + STEP_MAX));
    }

    /// Nothing is committed any more until the broker is opened again.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone());
    }

    /// Replaces the file by an empty one. The batches of all its records must be durable in the
    /// segments. If that `frees` space it may use the reserve.
    pub(super) fn start_file(&mut self, ctx: &Context, frees: bool) -> Result<()> {
        let path = Path::new(names::JOURNAL);
        let floor = self.next_id;
        let replace = || replace_and_open(&*ctx.storage, path, &journal::encode_header(floor));
        let replaced = if frees { ctx.reserve.with_room(replace) } else { replace() };
        match replaced {
            Ok(file) => self.file = Some(file),
            Err(failed) => {
                let error = Error::create(&ctx.display(path), failed.error);
                if failed.replaced {
                    // The next opening can use either file, but no more can be written to the old
                    // one.
                    self.fail(&error);
                }
                return Err(error);
            }
        }
        self.begin_at(floor);
        Ok(())
    }

    /// Empties the file in place, if there is no room for another. The header is one write within a
    /// sector. Its higher floor invalidates every record, because a record's checksum is seeded
    /// with it.
    pub(super) fn empty_file(&mut self, ctx: &Context) -> Result<()> {
        let path = Path::new(names::JOURNAL);
        let failed = |e| Error::unless_full(IoAction::Write, &ctx.display(path), e);
        let file = ctx.storage.open(path, OpenMode::Write).map_err(failed)?;
        write_all_at(&*file, &journal::encode_header(self.next_id), 0).map_err(|(_, e)| failed(e))?;
        file.sync_data().map_err(|e| Error::io(IoAction::Sync, &ctx.display(path), e))?;
        self.file = Some(file);
        self.begin_at(self.next_id);
        Ok(())
    }

    fn begin_at(&mut self, floor: u64) {
        self.floor = floor;
        self.position = JOURNAL_HEADER_BYTES as u64;
        self.written_before = self.written;
        self.involved = InvolvedRuns::default();
        self.zeros = ZerosAhead::new(self.position);
        (self.large_from, self.stuck) = (FILE_BYTES, None);
    }
}

/// Notes that these batches are durable, and makes them visible.
fn show(involved: &[Involved]) {
    for part in involved {
        durability::cover(&part.log, part.end);
        durability::show(&part.log, part.end);
    }
}

/// The largest size of all batches of a transaction together, because an opening reads the file
/// into memory.
const RECORD_BYTES_MAX: usize = 1 << 30;

/// A new file is started once the file is larger than this.
const FILE_BYTES: u64 = 16 << 20;

/// If no new file can be started, nothing more is committed once the file is larger than this.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// A larger file was not written by this library.
pub(super) const FILE_BYTES_MAX: u64 = JOURNAL_BYTES_MAX + 2 * RECORD_BYTES_MAX as u64;

#[cfg(test)]
mod tests;
