//! What makes a transaction whole after any crash? One record, written before anything of it is written elsewhere, in a
//! file that all partitions of a broker share.
//!
//! The concurrency argument:
//! - The *gate* is shared by whoever writes a transaction and taken alone by whoever starts the file anew, or cuts a log:
//!   so no record ever speaks of offsets that were given to something else. It comes before every lock of a log, and is
//!   not held while somebody waits for a sync.
//! - The journal's own lock is taken with the writers' locks of the partitions held, and held over the choice of an id,
//!   the write of a record and of its batches, and the log ends behind them: positions rise in the order in which records
//!   are written, and who finds a record noted finds its batches written, or the log poisoned before them.
//! - *Durable* means: what precedes the transaction in each of its partitions is on the medium, and so is the record. Who
//!   leads a sync of the journal therefore syncs those segments first, by themselves and not through their logs: a log's
//!   own leader waits for the journal, never the other way round. Nothing is called durable in a log because of it, only
//!   visible. What durable records *cover* without a gap needs no sync of its segment: it is written again if it is lost, in
//!   the order of the records. So transactions in a row take one sync each.
//! - A *cut* of a log that the file speaks of begins the file anew first, and that waits for a sync that is under way: so
//!   the leader never makes visible what was cut off.

use std::collections::HashSet;
use std::path::Path;
use std::task::{Poll, Waker};

use super::batch::Identity;
use super::commit::GroupCommit;
use super::{Context, Log, malformed};
use crate::error::{Error, Result, Space, is_space};
use crate::format::batch::{BatchHeader, HEADER_BYTES, check_body, decode_header};
use crate::format::journal::{self, Committed, CommittedPart, JOURNAL_HEADER_BYTES};
use crate::format::names;
use crate::format::reader::Malformed;
use crate::stats::{Cut, Event, OpenReport};
use crate::storage::{File, OpenMode, read_file, replace_file, write_all_at};
use crate::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Offset, PartitionId, TopicId};

/// A broker's journal. There is no file before the first transaction.
pub(crate) struct Journal {
    gate: RwLock<()>,
    state: Mutex<State>,
    commit: GroupCommit,
    /// During an opening, the records that the file had before. No other lock is taken while it is
    /// held.
    known: Mutex<Option<Known>>,
}

pub(crate) struct State {
    file: Option<Arc<dyn File>>,
    /// Where the next record goes in the file.
    position: u64,
    /// As [`position`](State::position), counted on through all files: what is waited for.
    written: u64,
    /// `written` at the beginning of the file.
    begun: u64,
    floor: u64,
    next_id: u64,
    /// What records of this file speak of.
    involved: Vec<Involved>,
    /// How many of them the last sync took care of.
    settled: usize,
    /// Which records a restart finds is unknown: nothing more is committed.
    failed: Option<Error>,
    /// From where on the file is so large that it should begin anew.
    large_from: u64,
    /// Why it could not begin anew.
    stuck: Option<Error>,
    bytes_max: u64,
}

/// A batch of a transaction.
#[derive(Clone)]
pub(crate) struct Involved {
    pub(crate) log: Arc<Log>,
    /// What comes before it.
    pub(crate) before: Offset,
    pub(crate) end: Offset,
}

/// No file is begun anew while it lives, and no log is cut.
pub(crate) type Entered<'a> = RwLockReadGuard<'a, ()>;

/// Nobody commits while it lives.
pub(crate) type Alone<'a> = RwLockWriteGuard<'a, ()>;

impl Journal {
    pub(crate) fn new() -> Self {
        let state = State {
            file: None,
            position: 0,
            written: 0,
            begun: 0,
            floor: 1,
            next_id: 1,
            involved: Vec::new(),
            settled: 0,
            failed: None,
            large_from: FILE_BYTES,
            stuck: None,
            bytes_max: JOURNAL_BYTES_MAX,
        };
        Journal {
            gate: RwLock::new(()),
            state: Mutex::new(state),
            commit: GroupCommit::new(0),
            known: Mutex::new(None),
        }
    }

    /// Returns an error if what a partition was found to have proves that the journal has lost a
    /// record. During an opening.
    pub(super) fn check_records(
        &self,
        ctx: &Context,
        identity: &Identity,
        tail: &Tail,
        start: Offset,
    ) -> Result<()> {
        let known = self.known.lock();
        let lost = known.as_ref().and_then(|known| Some((known, tail.lost_record(known, start)?)));
        lost.map_or(Ok(()), |(known, found)| Err(lost_record(ctx, identity, known, found)))
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        self.gate.read()
    }

    /// Waits for who is committing, and lets nobody else until it is dropped. The file may have records.
    pub(crate) fn alone(&self) -> Alone<'_> {
        self.gate.write()
    }

    /// Sees to it that there is a file. With no lock of a log held: the first one is synced.
    ///
    /// # Errors
    /// An earlier failure; or what the medium says.
    pub(crate) fn prepare(&self, ctx: &Context) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        if state.file.is_none() { state.start_file(ctx, false) } else { Ok(()) }
    }

    /// The right to write the next record. With the writers' locks of its partitions held.
    ///
    /// # Errors
    /// An earlier failure.
    pub(crate) fn begin(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        state.check()?;
        Ok(state)
    }

    /// Returns once everything written up to `upto` is durable.
    ///
    /// # Errors
    /// A sync failed, now or before.
    pub(crate) fn make_durable(&self, ctx: &Context, upto: u64) -> Result<()> {
        self.commit.wait(upto, || self.sync(ctx))
    }

    /// As [`make_durable`](Journal::make_durable) for a future, which leaves its waker and the sync to somebody else.
    pub(crate) fn poll_durable(&self, upto: u64, waker: &Waker) -> Poll<Result<()>> {
        self.commit.register(waker);
        // Looked at behind the registration: a sync that finished between is seen here, a later one wakes.
        if self.commit.durable() >= upto {
            return Poll::Ready(Ok(()));
        }
        self.commit.failure().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    /// Up to where it is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.commit.durable()
    }

    /// The leader's part. After a failure nothing is committed any more.
    fn sync(&self, ctx: &Context) -> Result<u64> {
        self.try_sync(ctx).inspect_err(|error| self.state.lock().fail(error))
    }

    fn try_sync(&self, ctx: &Context) -> Result<u64> {
        let (file, written, involved, settled) = {
            let state = self.state.lock();
            let fresh = state.involved.get(state.settled..).unwrap_or_default().to_vec();
            (state.file.clone(), state.written, fresh, state.involved.len())
        };
        let Some(file) = file else { return Ok(written) };
        for part in &involved {
            part.log.sync_before(part.before)?;
        }
        file.sync_data().map_err(|e| Error::io("sync", &ctx.display(Path::new(names::JOURNAL)), e))?;
        // None of these logs is cut before this is done: a cut makes everything durable first that the journal says of it.
        for part in involved {
            part.log.cover(part.end);
            part.log.publish_visible(part.end);
        }
        let mut state = self.state.lock();
        // The file is begun anew only by who is alone, and that one waits for this sync.
        state.settled = state.settled.max(settled);
        Ok(written)
    }

    /// Begins an empty file if this one has become large. If that cannot be done it is tried again when as much more has
    /// been written.
    pub(crate) fn checkpoint_if_large(&self, ctx: &Context) {
        if !self.state.lock().is_large() {
            return;
        }
        let _alone = self.alone();
        // Of several that have seen it one is enough.
        if self.state.lock().is_large()
            && let Err(error) = self.checkpoint_alone(ctx)
        {
            let mut state = self.state.lock();
            state.large_from = state.position + FILE_BYTES;
            state.stuck = Some(error);
        }
    }

    /// Has everything that is committed on the medium, in the segments, and begins an empty file, if there is a record.
    /// Nobody commits until the answer is dropped.
    ///
    /// # Errors
    /// Some partition cannot be synced, or what the medium says: the file stays as it is.
    pub(crate) fn checkpoint(&self, ctx: &Context) -> Result<Alone<'_>> {
        let alone = self.alone();
        self.checkpoint_alone(ctx).map(|()| alone)
    }

    fn checkpoint_alone(&self, ctx: &Context) -> Result<()> {
        let (involved, written) = {
            let state = self.state.lock();
            if state.written == state.begun {
                return Ok(());
            }
            state.check()?;
            (state.involved.clone(), state.written)
        };
        let mut logs: Vec<&Arc<Log>> = involved.iter().map(|part| &part.log).collect();
        logs.sort_by_key(|log| (log.identity().topic_id, log.partition()));
        logs.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for log in logs {
            // Of what is deleted nothing has to be whole. Looked at behind the sync: it may be deleted while that runs.
            log.sync().or_else(|error| if log.is_deleted() { Ok(()) } else { Err(error) })?;
        }
        self.make_durable(ctx, written)?;
        self.state.lock().start_file(ctx, true)
    }

    /// Sees to it that no record speaks of this log, which is about to be cut. Nobody commits until the answer is dropped.
    ///
    /// # Errors
    /// As [`checkpoint`](Journal::checkpoint), if there is such a record.
    pub(crate) fn forget(&self, ctx: &Context, log: &Log) -> Result<Alone<'_>> {
        let alone = self.alone();
        if !self.involves(log) {
            return Ok(alone);
        }
        drop(alone);
        self.checkpoint(ctx)
    }

    /// Gives out no id up to `largest` any more, and lets batches with such ids count without a record.
    ///
    /// # Errors
    /// As [`checkpoint`](Journal::checkpoint).
    pub(crate) fn skip_ids(&self, ctx: &Context, largest: u64) -> Result<()> {
        let _alone = self.checkpoint(ctx)?;
        let mut state = self.state.lock();
        state.check()?;
        if largest < state.next_id {
            return Ok(());
        }
        state.next_id = largest.saturating_add(1);
        state.start_file(ctx, true)
    }

    /// Whether a record of the file speaks of this log.
    pub(crate) fn involves(&self, log: &Log) -> bool {
        self.state.lock().involved.iter().any(|part| std::ptr::eq(&*part.log, log))
    }

    /// The end of the broker: every log has been closed. Nothing of it is needed any more if all could
    /// be synced. Returns whether the file has no record now.
    pub(crate) fn close(&self, ctx: &Context, all_synced: bool) -> Result<bool> {
        let _alone = self.alone();
        let mut state = self.state.lock();
        state.involved.clear();
        let begun = state.written != state.begun;
        let result = match begun {
            false => Ok(state.failed.is_none()),
            true if all_synced && state.failed.is_none() => state.start_file(ctx, true).map(|()| true),
            true => Ok(false),
        };
        state.file = None;
        state.fail(&Error::Closed);
        self.commit.fail(Error::Closed);
        result
    }
}

impl State {
    /// # Errors
    /// Nothing can be committed any more.
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

    fn is_large(&self) -> bool {
        self.position > self.large_from
    }

    /// Writes the record of a transaction with the id [`next_id`](State::next_id): from here on it has happened. Answers
    /// up to where the journal has to be durable for it.
    ///
    /// # Errors
    /// `DiskFull`, `RecordTooLarge`: nothing has happened; nor has it with `JournalFailed`: the file has grown as far as it may,
    /// since some partition keeps it from being begun anew. Or what else the medium says: a restart may find the record, and
    /// nothing is committed any more until then.
    pub(crate) fn write(
        &mut self,
        ctx: &Context,
        durable: u64,
        parts: Vec<CommittedPart<'_>>,
        involved: Vec<Involved>,
    ) -> Result<u64> {
        let path = ctx.display(Path::new(names::JOURNAL));
        let Some(file) = self.file.clone() else { return Err(Error::Closed) };
        let synced_upto = durable.saturating_sub(self.begun) + JOURNAL_HEADER_BYTES as u64;
        let size = parts.iter().map(|part| part.batch.len()).sum();
        if size > RECORD_BYTES_MAX {
            return Err(Error::RecordTooLarge { size, limit: RECORD_BYTES_MAX });
        }
        if self.position > self.bytes_max {
            // Opening reads all of it.
            let cause = self.stuck.clone().unwrap_or(Error::DiskFull { path, cause: Space::FileTooLarge });
            return Err(Error::JournalFailed { cause: Arc::new(cause) });
        }
        let record = Committed { id: self.next_id, synced_upto, parts }.encode(self.floor, self.position);
        if let Err((written, e)) = write_all_at(&*file, &record, self.position) {
            // Zeros over the part, where there is room by now: it cannot look like a record that was torn.
            if let Some(cause) = is_space(&e)
                && write_all_at(&*file, &vec![0; written], self.position).is_ok()
            {
                return Err(Error::DiskFull { path, cause });
            }
            let error = Error::io("write", &path, e);
            self.fail(&error);
            // The record may be there nevertheless: these logs wait for the next opening.
            self.involved.extend(involved);
            return Err(error);
        }
        self.next_id += 1;
        self.position += record.len() as u64;
        self.written += record.len() as u64;
        self.involved.extend(involved);
        Ok(self.written)
    }

    /// Nothing is committed any more until the broker is opened again.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone());
    }

    /// Puts an empty file in the place of the old one. Everything in that is in the segments, on the medium. If that
    /// `frees` space it may use the reserve.
    fn start_file(&mut self, ctx: &Context, frees: bool) -> Result<()> {
        let path = Path::new(names::JOURNAL);
        let floor = self.next_id;
        let replace = || replace_file(&*ctx.storage, path, &journal::encode_header(floor));
        let replaced = if frees { ctx.with_room(replace) } else { replace() };
        let opened = replaced.map_err(|failed| (failed.error, failed.replaced)).and_then(|()| {
            let opened = ctx.storage.open(path, OpenMode::Write);
            opened.map_err(|error| (error, true))
        });
        match opened {
            Ok(file) => self.file = Some(file),
            Err((error, replaced)) => {
                let error = Error::create(&ctx.display(path), error);
                if replaced {
                    // Either file will do for the next opening, but no more can be written to the old one.
                    self.fail(&error);
                }
                return Err(error);
            }
        }
        self.begin_at(floor);
        Ok(())
    }
}

impl State {
    /// Empties the file where it is, for lack of room for another. The header is one write within a
    /// sector: its higher floor ends every record, because a record's checksum is seeded with it.
    fn empty_file(&mut self, ctx: &Context) -> Result<()> {
        let path = Path::new(names::JOURNAL);
        let failed = |e| Error::unless_full("write", &ctx.display(path), e);
        let file = ctx.storage.open(path, OpenMode::Write).map_err(failed)?;
        write_all_at(&*file, &journal::encode_header(self.next_id), 0).map_err(|(_, e)| failed(e))?;
        file.sync_data().map_err(|e| Error::io("sync", &ctx.display(path), e))?;
        self.file = Some(file);
        self.begin_at(self.next_id);
        Ok(())
    }

    fn begin_at(&mut self, floor: u64) {
        self.floor = floor;
        self.position = JOURNAL_HEADER_BYTES as u64;
        self.begun = self.written;
        self.involved.clear();
        self.settled = 0;
        (self.large_from, self.stuck) = (FILE_BYTES, None);
    }
}

impl Known {
    fn new(floor: u64, records: &[Committed<'_>], end: usize) -> Self {
        Known { floor, ids: records.iter().map(|record| record.id).collect(), end: end as u64 }
    }

    /// What a file has.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn of(file: &[u8]) -> Result<Self, Malformed> {
        let floor = journal::decode_header(file)?;
        let (records, end) = read_records(file, floor)?;
        Ok(Known::new(floor, &records, end))
    }
}

/// The error of a journal that has lost a record.
fn lost_record(ctx: &Context, identity: &Identity, known: &Known, found: &Found) -> Error {
    let Found { base, end, id, witness } = found;
    let witness = witness.map_or(0, Offset::get);
    let what = format!(
        "its records end here, and the one of transaction {id} is missing: {}/{} has its batch at {base}..{end}, and the batch \
         at {witness} there says that it was on the medium",
        identity.topic, identity.partition
    );
    super::corrupt(ctx, Path::new(names::JOURNAL), known.end, &what)
}

/// Looks at the journal, if there is one, before anything is written. Notes which records it has,
/// for the recovery of the partitions.
///
/// # Errors
/// `UnsupportedFormat`; an I/O error. Damage is for [`settle`] to report.
pub(crate) fn check_format(ctx: &Context) -> Result<()> {
    let path = Path::new(names::JOURNAL);
    match read_file(&*ctx.storage, path, FILE_BYTES_MAX) {
        Ok(file) => match journal::decode_header(&file) {
            Err(m) if m.unsupported.is_some() => Err(malformed(ctx, path, 0, &m)),
            _ => {
                *ctx.journal.known.lock() = Known::of(&file).ok();
                Ok(())
            }
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("read", &ctx.display(path), e)),
    }
}

/// Makes every committed transaction whole and takes back every other, before anybody is served. All of that is on the
/// medium on return, and the journal is empty.
///
/// A transaction whose record is there counts if every part is in its partition or can be appended there. Under `Os` a
/// power loss may have taken what came before a part; then nobody was promised it, and none of it counts. Crashing in
/// between changes nothing about these answers: a part that has been appended is there, and one that could not be
/// appended cannot be appended after the others have been cut off either.
///
/// # Errors
/// `Corrupt` if the journal is damaged where it had been on the medium, or has lost a record that
/// was; `UnsupportedFormat`; or what the medium says, also of a partition that could not be opened
/// for another reason than damage.
pub(crate) fn settle(
    ctx: &Arc<Context>,
    logs: &[Arc<Log>],
    find: impl Fn(&TopicId, PartitionId) -> Option<Arc<Log>>,
    is_clean: bool,
    report: &mut OpenReport,
) -> Result<()> {
    let path = Path::new(names::JOURNAL);
    let seen: Vec<(&Arc<Log>, Found)> = logs
        .iter()
        .flat_map(|log| log.recovered().transactions.iter().map(move |found| (log, *found)))
        .collect();
    let largest = seen.iter().map(|(_, found)| found.id).max().unwrap_or(0);
    let file = match read_file(&*ctx.storage, path, FILE_BYTES_MAX) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // No transaction was ever committed, or somebody has deleted the file: then each batch counts by itself.
            if largest > 0 {
                let path = ctx.display(path);
                report.warnings.push(format!("{} is missing: batches count one by one", path.display()));
            }
            ctx.journal.state.lock().next_id = fresh_id(ctx, largest);
            return Ok(());
        }
        Err(e) => return Err(Error::io("read", &ctx.display(path), e)),
    };
    let read = journal::decode_header(&file)
        .and_then(|floor| read_records(&file, floor).map(|(records, end)| (floor, records, end)));
    *ctx.journal.known.lock() = None;
    let is_empty = matches!(&read, Ok((_, records, end)) if records.is_empty() && *end == file.len());
    if is_clean && !is_empty {
        // A clean close leaves an empty file: all that was ever in it is in the segments.
        let what = read.map_or_else(|m| m.what, |_| "it is not empty");
        report.warnings.push(format!(
            "{} is not as a clean close leaves it ({what}): it is replaced by an empty one",
            ctx.display(path).display()
        ));
        let mut state = ctx.journal.state.lock();
        state.next_id = fresh_id(ctx, largest);
        return state.start_file(ctx, true);
    }
    let (floor, records, end) = read.map_err(|m| malformed(ctx, path, 0, &m))?;
    let (known, torn) = (Known::new(floor, &records, end), end < file.len());
    let mut lost =
        logs.iter().filter_map(|log| Some((log, log.recovered().lost_record(&known, log.log_start())?)));
    if let Some((log, found)) = lost.next() {
        // IMPORTANT: before anything is cut for lack of a record. Nothing has been changed in that
        // log.
        return Err(lost_record(ctx, log.identity(), &known, found));
    }
    let unread = logs.iter().find_map(|log| log.unread());
    if let Some(error) = unread.filter(|_| !is_clean || torn || !records.is_empty()) {
        // IMPORTANT: while the file still has what belongs there, or is known not to. A partition that is damaged is never served
        // again as it is; this one may be with the next opening.
        return Err(error);
    }
    // First what has no record: what others have put behind it does not count either.
    for (log, found) in &seen {
        if found.id >= floor && !known.ids.contains(&found.id) {
            take_back(ctx, log, found.base, report)?;
        }
    }
    for record in &records {
        let parts: Vec<_> =
            record.parts.iter().filter_map(|part| Some((part, find(&part.topic, part.partition)?))).collect();
        let possible = parts.iter().all(|(part, log)| match log.place_of(part, record.id) {
            Place::Present => true,
            Place::Next => check_part(log, part),
            Place::Elsewhere => false,
        });
        for (part, log) in &parts {
            match log.place_of(part, record.id) {
                Place::Next if possible => {
                    let end = log.redo(part.batch)?;
                    restored(report, log, part, end);
                }
                // IMPORTANT: before the next record is looked at. It may stand on this one.
                Place::Present if !possible => take_back(ctx, log, part.base_offset, report)?,
                _ => {}
            }
        }
    }
    for log in logs.iter().filter(|log| log.is_usable()) {
        log.sync()?;
    }
    let mut state = ctx.journal.state.lock();
    state.next_id =
        records.iter().map(|record| record.id + 1).chain([floor, largest + 1]).max().unwrap_or(floor);
    if records.is_empty() && !torn {
        let opened = ctx.storage.open(path, OpenMode::Write);
        state.file = Some(opened.map_err(|e| Error::io("open", &ctx.display(path), e))?);
        state.floor = floor;
        state.position = JOURNAL_HEADER_BYTES as u64;
        return Ok(());
    }
    match state.start_file(ctx, true) {
        Err(error) if error.is_full() && state.failed.is_none() => {
            ctx.reserve.note_full();
            state.empty_file(ctx)
        }
        started => started,
    }
}

/// The next transaction's id where the journal cannot say which ids were given out: after the largest
/// id that was seen, and after all that could be given out before this time at a million a
/// millisecond.
///
/// IMPORTANT: no id is given out twice. A later opening may scan an old batch again (for example when
/// the checkpoint is lost), and takes back each batch whose id is not below the journal's floor and
/// has no record.
fn fresh_id(ctx: &Context, largest: u64) -> u64 {
    let millis = u64::try_from(ctx.clock.now().as_millis()).unwrap_or(0);
    largest.saturating_add(1).max(millis.min(u64::MAX >> 21) << 20)
}

/// The records of a file, and where they end in it.
pub(crate) fn read_records(file: &[u8], floor: u64) -> Result<(Vec<Committed<'_>>, usize), Malformed> {
    let mut records = Vec::new();
    let mut position = JOURNAL_HEADER_BYTES;
    while position < file.len() {
        match Committed::decode(file, floor, position) {
            Ok((record, end)) => {
                records.push(record);
                position = end;
            }
            // A later record that was written when this had been on the medium makes it damage; otherwise it is what a
            // crash leaves.
            Err(m) => {
                let synced = journal::synced_upto_behind(file, floor, position + 1);
                return if synced.is_some_and(|upto| upto > position as u64) {
                    Err(m)
                } else {
                    Ok((records, position))
                };
            }
        }
    }
    Ok((records, position))
}

/// Takes back the report of a cut as far as it was of a part that has been written again, as it was.
fn restored(report: &mut OpenReport, log: &Log, part: &CommittedPart<'_>, end: Offset) {
    let len = part.batch.len() as u64;
    let of_it =
        |cut: &Cut| (&cut.topic, cut.partition, cut.from) == (log.topic(), log.partition(), part.base_offset);
    report.cuts.retain_mut(|cut| {
        if !of_it(cut) {
            return true;
        }
        cut.from = end;
        cut.position += len;
        cut.bytes = cut.bytes.saturating_sub(len);
        cut.to = cut.to.filter(|to| *to > end);
        cut.bytes > 0 || cut.to.is_some()
    });
}

/// Whether a part is a batch of this log: the record has passed its own checksum.
fn check_part(log: &Log, part: &CommittedPart<'_>) -> bool {
    let body = part.batch.get(HEADER_BYTES..).unwrap_or_default();
    decode_header(part.batch, log.seed()).is_ok_and(|(header, _)| check_body(&header, body).is_ok())
}

/// Lets a log end before a batch that does not count, if that is (still) there.
fn take_back(ctx: &Context, log: &Arc<Log>, base: Offset, report: &mut OpenReport) -> Result<()> {
    let to = log.bounds().log_end;
    if base >= to || base < log.log_start() || !log.is_usable() {
        return Ok(());
    }
    log.truncate_to(base)?;
    let cut = Cut {
        topic: log.topic().clone(),
        partition: log.partition(),
        file: ctx.display(Path::new(names::JOURNAL)),
        position: 0,
        bytes: 0,
        reason: "a transaction that was never committed whole".to_string(),
        from: base,
        to: Some(to),
        kept: None,
    };
    ctx.event(&Event::Cut(cut.clone()));
    report.cuts.push(cut);
    Ok(())
}

/// Where a part of a transaction stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is there, or has been and was let go since.
    Present,
    /// It would be the next batch.
    Next,
    /// Something else is there, or something before it is missing.
    Elsewhere,
}

/// What a scan found at the end of a log that was not closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    /// Everything before was known to be on the medium.
    pub(crate) from: Offset,
    /// The batches of transactions after it, in their order.
    pub(crate) transactions: Vec<Found>,
}

/// A batch of a transaction that a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) id: u64,
    /// The base offset of a later batch whose `synced_upto` covers this one. A log calls nothing
    /// durable before the records of its transactions are, so such a batch proves that the
    /// journal's record was on the medium.
    pub(crate) witness: Option<Offset>,
}

impl Tail {
    /// Notes the next batch of the log.
    pub(crate) fn pass(&mut self, header: &BatchHeader) {
        self.attest(header.base_offset, header.synced_upto);
        if header.transaction_id > 0 {
            self.transactions.push(Found {
                base: header.base_offset,
                end: header.end_offset(),
                id: header.transaction_id,
                witness: None,
            });
        }
    }

    /// Notes that a later batch, at `witness`, says that everything before `synced_upto` was on the
    /// medium.
    pub(crate) fn attest(&mut self, witness: Offset, synced_upto: Offset) {
        // They are in the order of their offsets, so those that have a witness come first. From the
        // newest on, because the older ones of a long log are covered already.
        let covered = self.transactions.partition_point(|found| found.end <= synced_upto);
        let newly =
            self.transactions.iter_mut().take(covered).rev().take_while(|found| found.witness.is_none());
        newly.for_each(|found| found.witness = Some(witness));
    }

    /// The first batch whose record was on the medium, and is not among `ids` of a journal that
    /// begins at `floor`. Not one before `start`, the log start: it has been let go, whatever
    /// became of the others of its transaction.
    pub(crate) fn lost_record(&self, known: &Known, start: Offset) -> Option<&Found> {
        self.transactions.iter().find(|found| {
            found.witness.is_some()
                && found.base >= start
                && found.id >= known.floor
                && !known.ids.contains(&found.id)
        })
    }
}

/// The records of a journal, as an opening has found them.
#[derive(Debug)]
pub(crate) struct Known {
    floor: u64,
    ids: HashSet<u64>,
    /// Where the records end in the file.
    end: u64,
}

/// All batches of a transaction together are no larger: opening holds the file in memory.
const RECORD_BYTES_MAX: usize = 1 << 30;

/// The file is begun anew once it is larger than this.
const FILE_BYTES: u64 = 16 << 20;

/// If it cannot be begun anew, nothing more is committed once it is larger than this.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// A larger file is none of ours.
const FILE_BYTES_MAX: u64 = JOURNAL_BYTES_MAX + 2 * RECORD_BYTES_MAX as u64;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::broker::Broker;
    use crate::clock::ManualClock;
    use crate::config::{BrokerConfig, TopicConfig};
    use crate::error::Outcome;
    use crate::record::Record;
    use crate::testing::{Disk, Op};
    use crate::topic::Partition;

    fn together(broker: &Broker, partitions: [&Partition; 2], bytes: usize) -> Result<()> {
        let mut transaction = broker.transaction();
        for partition in partitions {
            transaction.send(partition, Record::new(vec![7u8; bytes]));
        }
        transaction.commit().map(drop)
    }

    fn made(disk: &Disk) -> (Broker, [Partition; 4]) {
        let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(disk).unwrap();
        let topic = broker.ensure_topic("t", TopicConfig::new().partitions(4)).unwrap();
        let partition = |n| topic.partition(n).unwrap();
        (broker, [partition(0), partition(1), partition(2), partition(3)])
    }

    /// A partition that cannot be synced keeps the file from being begun anew: it grows, but not without a bound, and not every
    /// commit tries.
    #[test]
    fn a_file_that_cannot_begin_anew_grows_no_further_than_its_bound() {
        let disk = Disk::new();
        let (broker, [a, b, c, d]) = made(&disk);
        let journal = &broker.inner().ctx.journal;
        journal.state.lock().bytes_max = 3 * FILE_BYTES;
        together(&broker, [&a, &b], 10).unwrap();
        disk.fail(Op::Sync, 1, ErrorKind::Other);
        broker.sync().unwrap_err();
        let (mut commits, before) = (0, disk.ops_of(Op::Sync));
        let refused = loop {
            match together(&broker, [&c, &d], 500_000) {
                Ok(()) => commits += 1,
                Err(error) => break error,
            }
            assert!(commits < 100, "without a bound");
        };
        assert!(matches!(refused, Error::JournalFailed { .. }), "{refused}");
        assert_eq!(refused.outcome(), Outcome::NotWritten);
        assert!(commits > 40 && disk.ops_of(Op::Sync) - before < 8, "{commits} commits");
        // What needs no record goes on, and the next opening makes room.
        broker.producer().send(&c, Record::new("alone")).unwrap().wait().unwrap();
        drop((broker, a, b, c, d));
        let (broker, [_, _, c, d]) = made(&disk);
        together(&broker, [&c, &d], 10).unwrap();
        assert_eq!(c.bounds().unwrap().log_end.get(), commits + 2);
    }

    #[test]
    fn a_large_file_begins_anew() {
        let disk = Disk::new();
        let (broker, [a, b, ..]) = made(&disk);
        (0..40).for_each(|_| together(&broker, [&a, &b], 500_000).unwrap());
        assert!(broker.inner().ctx.journal.state.lock().position < FILE_BYTES + (2 << 20));
    }
}
