//! Faults on demand: the n-th operation fails, is short, or stops until it is released.
//!
//! Useful for: failing every operation of a run in turn, and for stopping a thread at an exact
//! place. Not useful for: power losses; for these see [`mem`](crate::storage::mem).
//!
//! [`Faults`] has the plan and the counters, [`FaultStorage`] is a layer over any storage that
//! follows it. No operation blocks or runs while the plan is locked.

mod descriptor;
mod failure;
mod hold;

use std::io;
use std::path::{Path, PathBuf};

use self::descriptor::{Descriptor, Descriptors};
pub(crate) use self::failure::Failure;
use self::hold::Door;
pub use self::hold::Gate;
use crate::storage::{DirEntry, File, Map, OpenMode, Storage, SyncDir};
use crate::sync::{Arc, Mutex, Rank};

/// The kinds of operations of a medium.
///
/// ```
/// use std::io;
/// use std::path::Path;
/// use quipu::testing::{Disk, Op};
///
/// let disk = Disk::new();
/// // A broker on this disk will fail at its third write.
/// disk.fail(Op::Write, 3, io::ErrorKind::StorageFull);
/// assert_eq!(disk.ops(), 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Each of the others.
    Any,
    /// Taking the lock of the directory.
    Lock,
    /// Creating a directory.
    CreateDir,
    /// Listing a directory.
    List,
    /// Opening or creating a file.
    OpenFile,
    /// Renaming a file or a directory.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Making the entries of a directory durable.
    SyncDir,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Making a file's bytes durable.
    Sync,
    /// Reading a file's length or kind.
    Len,
    /// Mapping a file.
    Map,
}

impl Op {
    /// The number of kinds, [`Op::Any`] included: one counter for each.
    const KINDS: usize = Op::Map as usize + 1;
}

/// The planned faults, and the number of operations so far. Cheap to clone; clones are the same
/// plan.
///
/// "The n-th" is counted from the call that asks for it, 1 being the next one; 0 means 1.
#[derive(Clone)]
pub(crate) struct Faults {
    plan: Arc<Mutex<FaultPlan>>,
    descriptors: Descriptors,
}

impl Default for Faults {
    fn default() -> Self {
        let plan = Arc::new(Mutex::new(Rank::Faults, FaultPlan::default()));
        Faults { plan, descriptors: Descriptors::default() }
    }
}

#[derive(Default)]
struct FaultPlan {
    /// The storages that may act: those created since the last [`Faults::revive`].
    run: u64,
    ops: u64,
    ops_of: [u64; Op::KINDS],
    rules: Vec<Rule>,
    /// The number of operations that may still be executed; `None` for any number.
    left_to_live: Option<u64>,
    /// Whether one more than that was attempted.
    is_dead: bool,
    is_hostile: bool,
    /// In hostile mode: whether the last read or write was interrupted.
    was_interrupted: bool,
}

struct Rule {
    op: Op,
    /// The number of operations of the kind that pass before it applies.
    pass: u64,
    /// Whether it stays in force after that.
    always: bool,
    effect: Effect,
}

#[derive(Clone)]
enum Effect {
    Fail(Failure),
    Short,
    Tear,
    Hold(Arc<Door>),
    HoldAfter(Arc<Door>),
}

/// The part of a read or write that is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Whole,
    /// Half of the bytes, at least one.
    Half,
    /// One byte.
    Single,
    /// Half of the bytes, then an error.
    Torn,
}

impl Faults {
    /// A plan without faults.
    pub(crate) fn new() -> Self {
        Faults::default()
    }

    /// The number of operations so far.
    pub(crate) fn ops(&self) -> u64 {
        self.plan.lock().ops
    }

    /// The number of operations of a kind so far.
    pub(crate) fn ops_of(&self, op: Op) -> u64 {
        let plan = self.plan.lock();
        if op == Op::Any { plan.ops } else { plan.ops_of.get(op as usize).copied().unwrap_or_default() }
    }

    /// Fails the n-th operation of a kind. It is not executed.
    pub(crate) fn fail(&self, op: Op, nth: u64, kind: io::ErrorKind) {
        self.fail_with(op, nth, false, Failure::Kind(kind));
    }

    /// Fails the n-th operation of a kind and all after it.
    pub(crate) fn fail_always(&self, op: Op, nth: u64, kind: io::ErrorKind) {
        self.fail_with(op, nth, true, Failure::Kind(kind));
    }

    /// Fails the n-th operation of a kind, and all after it if `always`.
    pub(crate) fn fail_with(&self, op: Op, nth: u64, always: bool, failure: Failure) {
        self.add(op, nth, always, Effect::Fail(failure));
    }

    /// Bounds the descriptors of the process: see
    /// [`Disk::limit_descriptors`](crate::testing::Disk::limit_descriptors).
    pub(crate) fn limit_descriptors(&self, limit: Option<usize>) {
        self.descriptors.set_limit(limit);
    }

    /// The descriptors that the process has now.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors.open()
    }

    /// Shortens the n-th read or write (of either kind, for [`Op::Any`]) to half of its bytes, at
    /// least one.
    pub(crate) fn short(&self, op: Op, nth: u64) {
        self.add(op, nth, false, Effect::Short);
    }

    /// Executes half of the n-th write, then fails it.
    pub(crate) fn tear(&self, nth: u64) {
        self.add(Op::Write, nth, false, Effect::Tear);
    }

    /// Stops the n-th operation of a kind before it is executed, until the gate is released.
    pub(crate) fn hold(&self, op: Op, nth: u64) -> Gate {
        let door = Arc::new(Door::default());
        self.add(op, nth, false, Effect::Hold(Arc::clone(&door)));
        Gate::of(door)
    }

    /// Stops the n-th operation of a kind after it was executed, before it returns to its caller.
    pub(crate) fn hold_after(&self, op: Op, nth: u64) -> Gate {
        let door = Arc::new(Door::default());
        self.add(op, nth, false, Effect::HoldAfter(Arc::clone(&door)));
        Gate::of(door)
    }

    /// The process dies at the n-th operation: neither that one is executed nor any after it; all
    /// fail.
    pub(crate) fn crash_at(&self, nth: u64) {
        self.plan.lock().left_to_live = Some(nth.saturating_sub(1));
    }

    /// Reads and writes move one byte a call, and every other call is interrupted.
    #[cfg(test)]
    pub(crate) fn be_hostile(&self) {
        self.plan.lock().is_hostile = true;
    }

    /// Forgets all faults that have not happened yet. A process that died stays dead.
    pub(crate) fn clear(&self) {
        let mut plan = self.plan.lock();
        plan.rules.clear();
        plan.is_hostile = false;
        plan.left_to_live = None;
    }

    /// A new process: storages made from now on work, those created before never again. Forgets a
    /// planned or past [`crash_at`](Faults::crash_at); other faults stay planned.
    pub(crate) fn revive(&self) {
        let mut plan = self.plan.lock();
        plan.run = plan.run.saturating_add(1);
        plan.left_to_live = None;
        plan.is_dead = false;
        let run = plan.run;
        drop(plan);
        self.descriptors.start_run(run);
    }

    fn add(&self, op: Op, nth: u64, always: bool, effect: Effect) {
        self.plan.lock().rules.push(Rule { op, pass: nth.saturating_sub(1), always, effect });
    }

    /// Counts an operation and calls `act` with the part of it to execute. A process that has died
    /// does nothing.
    fn run<R>(
        &self,
        run: u64,
        op: Op,
        act: impl FnOnce(io::Result<Transfer>) -> io::Result<R>,
    ) -> io::Result<R> {
        let verdict = self.plan.lock().judge(run, op)?;
        self.pass(run, &verdict.before)?;
        let result = act(verdict.outcome);
        self.pass(run, &verdict.after)?;
        result
    }

    fn pass(&self, run: u64, doors: &[Arc<Door>]) -> io::Result<()> {
        if doors.is_empty() {
            return Ok(());
        }
        doors.iter().for_each(|door| door.pass());
        // The process may have died while it was held.
        self.plan.lock().check_alive(run)
    }
}

struct Verdict {
    /// The gates before the operation, and those after it.
    before: Vec<Arc<Door>>,
    after: Vec<Arc<Door>>,
    outcome: io::Result<Transfer>,
}

impl FaultPlan {
    fn check_alive(&self, run: u64) -> io::Result<()> {
        if self.run == run && !self.is_dead { Ok(()) } else { Err(io::Error::other("the process has died")) }
    }

    fn judge(&mut self, run: u64, op: Op) -> io::Result<Verdict> {
        if run == self.run && self.left_to_live == Some(0) {
            self.is_dead = true;
        }
        self.check_alive(run)?;
        self.left_to_live = self.left_to_live.map(|left| left.saturating_sub(1));
        self.ops = self.ops.saturating_add(1);
        if let Some(count) = self.ops_of.get_mut(op as usize) {
            *count = count.saturating_add(1);
        }

        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut outcome = None;
        self.rules.retain_mut(|rule| {
            if !rule.concerns(op) {
                return true;
            }
            if rule.pass > 0 {
                rule.pass -= 1;
                return true;
            }
            match &rule.effect {
                Effect::Hold(door) => before.push(Arc::clone(door)),
                Effect::HoldAfter(door) => after.push(Arc::clone(door)),
                Effect::Fail(failure) => drop(outcome.get_or_insert(Err((*failure).into()))),
                Effect::Short => drop(outcome.get_or_insert(Ok(Transfer::Half))),
                Effect::Tear => drop(outcome.get_or_insert(Ok(Transfer::Torn))),
            }
            rule.always
        });
        let outcome = outcome.unwrap_or_else(|| self.usual(op));
        Ok(Verdict { before, after, outcome })
    }

    /// The outcome of an operation that no rule concerns.
    fn usual(&mut self, op: Op) -> io::Result<Transfer> {
        if !self.is_hostile || !matches!(op, Op::Read | Op::Write) {
            return Ok(Transfer::Whole);
        }
        self.was_interrupted = !self.was_interrupted;
        if self.was_interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(Transfer::Single) }
    }
}

impl Rule {
    fn concerns(&self, op: Op) -> bool {
        let is_transfer = matches!(op, Op::Read | Op::Write);
        (self.op == op || self.op == Op::Any) && (is_transfer || !matches!(self.effect, Effect::Short))
    }
}

impl Transfer {
    fn bytes(self, asked: usize) -> usize {
        match self {
            Transfer::Whole => asked,
            Transfer::Half => asked.div_ceil(2).min(asked.saturating_sub(1).max(1)),
            Transfer::Single => asked.min(1),
            Transfer::Torn => asked / 2,
        }
    }
}

/// A storage whose operations are counted and fail as planned.
pub(crate) struct FaultStorage {
    inner: Arc<dyn Storage>,
    process: Process,
}

/// The plan, and the run of the process that acts.
#[derive(Clone)]
struct Process {
    faults: Faults,
    run: u64,
}

impl Process {
    /// Counts an operation, and executes it unless it must fail.
    fn run<R>(&self, op: Op, act: impl FnOnce(Transfer) -> io::Result<R>) -> io::Result<R> {
        self.run_or_fail(op, |verdict| verdict.and_then(act))
    }

    /// As [`run`](Process::run), for an operation that has an effect also if it fails.
    fn run_or_fail<R>(
        &self,
        op: Op,
        act: impl FnOnce(io::Result<Transfer>) -> io::Result<R>,
    ) -> io::Result<R> {
        self.faults.run(self.run, op, act)
    }

    /// Takes a descriptor.
    ///
    /// # Errors
    /// `EMFILE` if the process has none left.
    fn descriptor(&self) -> io::Result<Descriptor> {
        self.faults.descriptors.take(self.run)
    }
}

impl FaultStorage {
    /// A layer over `inner` that follows `faults`, until the next [`Faults::revive`].
    pub(crate) fn new(inner: Arc<dyn Storage>, faults: &Faults) -> Self {
        let run = faults.plan.lock().run;
        FaultStorage { inner, process: Process { faults: faults.clone(), run } }
    }
}

impl Storage for FaultStorage {
    fn display(&self, path: &Path) -> PathBuf {
        self.inner.display(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        // Its descriptors count for no limit: it is taken first, and kept.
        self.process.run(Op::Lock, |_| self.inner.lock(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.process.run(Op::CreateDir, |_| self.inner.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let _descriptor = self.process.descriptor()?;
        self.process.run(Op::List, |_| self.inner.list(dir))
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.process.run(Op::Len, |_| self.inner.is_link(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let descriptor = self.process.descriptor()?;
        let inner = self.process.run(Op::OpenFile, |_| self.inner.open(path, mode))?;
        Ok(Arc::new(FaultFile { inner, process: self.process.clone(), _descriptor: descriptor }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.process.run(Op::Rename, |_| self.inner.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.process.run(Op::Remove, |_| self.inner.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.process.run(Op::Remove, |_| self.inner.remove_dir(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.prepare_sync_dir(dir)?()
    }

    fn prepare_sync_dir<'a>(&'a self, dir: &'a Path) -> io::Result<SyncDir<'a>> {
        let descriptor = self.process.descriptor()?;
        Ok(Box::new(move || {
            let _descriptor = descriptor;
            self.process.run(Op::SyncDir, |_| self.inner.sync_dir(dir))
        }))
    }

    fn can_be_full(&self) -> bool {
        self.inner.can_be_full()
    }

    fn below(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        self.inner.run_identity()
    }
}

struct FaultFile {
    inner: Arc<dyn File>,
    process: Process,
    _descriptor: Descriptor,
}

impl File for FaultFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.process.run(Op::Read, |transfer| {
            let n = transfer.bytes(buffer.len());
            self.inner.read_at(buffer.get_mut(..n).unwrap_or_default(), position)
        })
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.process.run(Op::Write, |transfer| {
            let part = bytes.get(..transfer.bytes(bytes.len())).unwrap_or_default();
            let written = self.inner.write_at(part, position)?;
            if transfer == Transfer::Torn {
                return Err(io::Error::other("the write was torn"));
            }
            Ok(written)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = |verdict: io::Result<Transfer>| match verdict {
            Ok(_) => self.inner.sync_data(),
            Err(e) => {
                self.inner.lose_unsynced();
                Err(e)
            }
        };
        self.process.run_or_fail(Op::Sync, sync)
    }

    fn lose_unsynced(&self) {
        self.inner.lose_unsynced();
    }

    fn len(&self) -> io::Result<u64> {
        self.process.run(Op::Len, |_| self.inner.len())
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.process.run(Op::Map, |_| self.inner.map(len))
    }

    fn grows_while_mapped(&self) -> bool {
        self.inner.grows_while_mapped()
    }
}
