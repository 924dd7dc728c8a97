//! A disk in memory, with faults on demand.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::error::Result;
use crate::read_only::ReadOnlyBroker;
use crate::stats::{BackupProgress, BackupReport, SalvageReport, VerifyProgress, VerifyReport};
use crate::storage::faults::{Failure, FaultStorage, Faults, Gate, Op};
use crate::storage::fs::FsStorage;
use crate::storage::mem::{MemStorage, Survive, UNBOUNDED};
use crate::storage::{Storage, read_file};
use crate::sync::Arc;

/// A disk in memory that knows which bytes were synced, counts operations, and fails on demand.
///
/// Cheap to clone; all clones are the same disk ([`duplicate`](Disk::duplicate) makes another).
/// Three kinds of calls: those that plan faults for the broker's operations, those that cut the
/// power, and those that change files past the broker, as another program would. The last kind
/// survives power loss, is not counted and does not fail by plan.
///
/// An operation's number counts from the call: 1 is the next one (of that kind), and 0 means 1.
///
/// ```
/// use std::path::Path;
/// use quipu::testing::{Disk, Survive};
///
/// let disk = Disk::new();
/// disk.write_new("dir/file", b"abc")?;
/// let copy = disk.duplicate();
///
/// disk.flip_bit("dir/file", 8)?; // bit 0 of byte 1
/// disk.crash(Survive::Synced);
/// assert_eq!(disk.read("dir/file")?, b"acc");
/// assert_eq!(copy.read("dir/file")?, b"abc");
/// assert_eq!(disk.files(), [(Path::new("dir/file").to_path_buf(), 3)]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Disk {
    medium: MemStorage,
    faults: Faults,
}

impl BrokerConfig {
    /// Opens a simulated disk, for tests that crash it or have its operations fail.
    ///
    /// # Errors
    /// As [`open`](BrokerConfig::open), and the planned faults of the disk.
    pub fn on_disk(self, disk: &Disk) -> Result<Broker> {
        self.validate()?;
        self.open_on(disk.storage())
    }
}

impl Broker {
    /// As [`backup`](Broker::backup), onto a simulated disk.
    ///
    /// # Errors
    /// As [`backup`](Broker::backup), and the planned faults of the disk.
    pub fn backup_on_disk(
        &self,
        disk: &Disk,
        mut progress: impl FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        self.inner().backup(disk.storage(), &mut progress)
    }
}

impl BrokerConfig {
    /// Opens a simulated disk for reading only, as another process would: see
    /// [`open_read_only`](BrokerConfig::open_read_only). The operations of this reader are not
    /// counted, do not fail by plan, and go on after a kill of the broker
    /// ([`Disk::crash`] with [`Survive::Everything`]).
    ///
    /// # Errors
    /// As [`open_read_only`](BrokerConfig::open_read_only).
    pub fn read_only_on_disk(self, disk: &Disk) -> Result<ReadOnlyBroker> {
        self.validate()?;
        ReadOnlyBroker::open_on(self, Arc::new(disk.medium.observe()))
    }
}

impl Disk {
    /// A disk with the files of a directory, durable: for tests that begin with real data, for
    /// example with a [backup](Broker::backup).
    ///
    /// # Errors
    /// Those of reading the directory.
    ///
    /// ```no_run
    /// # use quipu::{BrokerConfig, testing::Disk};
    /// let disk = Disk::load("backup")?;
    /// let broker = BrokerConfig::new().on_disk(&disk)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(dir: impl AsRef<Path>) -> io::Result<Self> {
        let (disk, from) = (Disk::new(), FsStorage::new(dir.as_ref().to_path_buf()));
        let mut left = vec![PathBuf::new()];
        while let Some(dir) = left.pop() {
            for entry in from.list(&dir)?.into_iter().filter(|entry| !entry.is_link) {
                let path = dir.join(&entry.name);
                if entry.is_dir {
                    left.push(path);
                } else {
                    disk.write_new(&path, &read_file(&from, &path, u64::MAX)?)?;
                }
            }
        }
        Ok(disk)
    }

    /// An empty disk that works.
    pub fn new() -> Self {
        Disk { medium: MemStorage::with_crash_images(), faults: Faults::new() }
    }

    /// An independent disk with the same content, durable and pending. Nothing is locked on it, no
    /// fault is planned, no operation is counted. So one run can be crashed in many ways.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Disk { medium: self.medium.duplicate(), faults: Faults::new() }
    }

    /// Lets brokers that are opened from now on publish how far other processes may read, as they do
    /// on a real disk. Off at first: then no operation of a test is one of that file.
    pub fn share(&self) {
        self.medium.share();
    }

    /// Stops every broker on this disk and leaves the content that `survive` selects.
    ///
    /// Every operation of a broker that was open here fails from now on, also while it is dropped;
    /// its lock is free. A [`crash_at`](Disk::crash_at) has happened or is cancelled; other planned
    /// faults stay.
    pub fn crash(&self, survive: Survive) {
        self.faults.revive();
        self.medium.crash(survive);
    }

    /// Lets the process die at its n-th operation: that one is not executed, nor any after it,
    /// until [`crash`](Disk::crash) is called.
    pub fn crash_at(&self, nth: u64) {
        self.faults.crash_at(nth);
    }

    /// The number of operations so far. Those of a dead process do not count.
    pub fn ops(&self) -> u64 {
        self.faults.ops()
    }

    /// The number of operations of one kind so far.
    pub fn ops_of(&self, op: Op) -> u64 {
        self.faults.ops_of(op)
    }

    /// Fails the n-th operation of a kind with an error of this kind, without executing it.
    ///
    /// A failed sync has the effect that it has on real systems: the bytes stay readable and count
    /// as clean, so that a later sync succeeds and does not make them durable.
    pub fn fail(&self, op: Op, nth: u64, kind: io::ErrorKind) {
        self.faults.fail(op, nth, kind);
    }

    /// As [`fail`](Disk::fail), for the n-th operation and all after it.
    pub fn fail_always(&self, op: Op, nth: u64, kind: io::ErrorKind) {
        self.faults.fail_always(op, nth, kind);
    }

    /// As [`fail`](Disk::fail), with an error of the operating system by its number, for example 23
    /// (`ENFILE`) or 19 (`ENODEV`), which have no kind.
    pub fn fail_with_number(&self, op: Op, nth: u64, number: i32) {
        self.faults.fail_with(op, nth, false, Failure::Number(number));
    }

    /// As [`fail_with_number`](Disk::fail_with_number), for the n-th operation and all after it.
    pub fn fail_always_with_number(&self, op: Op, nth: u64, number: i32) {
        self.faults.fail_with(op, nth, true, Failure::Number(number));
    }

    /// Bounds the descriptors of a process from now on, as `ulimit -n` does. `None` removes the
    /// bound. Every open file takes one; listing a directory and syncing one take one for the time
    /// of the operation. An operation that gets none fails with `EMFILE`, is not executed and not
    /// counted. The lock of the directory takes none here.
    ///
    /// ```
    /// use quipu::testing::Disk;
    /// use quipu::{BrokerConfig, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let disk = Disk::new();
    /// let broker = BrokerConfig::new().on_disk(&disk)?;
    /// let topic = broker.create_topic("t", TopicConfig::new().partitions(20))?;
    /// disk.limit_descriptors(disk.descriptors() + 3);
    /// for partition in topic.partitions() {
    ///     broker.producer().send(&partition, Record::new("v"))?.wait()?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn limit_descriptors(&self, limit: impl Into<Option<usize>>) {
        self.faults.limit_descriptors(limit.into());
    }

    /// The descriptors that the process has now, without the lock of the directory.
    pub fn descriptors(&self) -> usize {
        self.faults.descriptors()
    }

    /// Shortens the n-th read or write: half of the bytes, at least one, and no error. With
    /// [`Op::Any`] the n-th of either; other kinds cannot be short.
    pub fn short(&self, op: Op, nth: u64) {
        self.faults.short(op, nth);
    }

    /// Writes half of the bytes of the n-th write, then fails it.
    pub fn tear(&self, nth: u64) {
        self.faults.tear(nth);
    }

    /// Stops the n-th operation of a kind before it is executed, until the gate is released or
    /// dropped.
    #[must_use = "a gate that is dropped holds nothing"]
    pub fn hold(&self, op: Op, nth: u64) -> Gate {
        self.faults.hold(op, nth)
    }

    /// Stops the n-th operation of a kind after it was executed, before it returns to its caller,
    /// until the gate is released or dropped. Another thread sees its effect, and a crash finds it.
    #[must_use = "a gate that is dropped holds nothing"]
    pub fn hold_after(&self, op: Op, nth: u64) -> Gate {
        self.faults.hold_after(op, nth)
    }

    /// Cancels all faults that have not happened yet.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// The number of operations that are not durable yet: writes, and operations on directories. A
    /// power loss may take each of them ([`Survive::Subset`]); a kill takes none, and leaves them
    /// pending.
    ///
    /// ```
    /// # use quipu::testing::{Disk, Survive};
    /// # use quipu::{BrokerConfig, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let disk = Disk::new();
    /// let broker = BrokerConfig::new().on_disk(&disk)?;
    /// broker.create_topic("quick", TopicConfig::new())?;
    /// broker.producer().send("quick", Record::new("v"))?.wait()?;
    /// assert!(disk.pending() > 0, "nothing has synced it");
    /// let losses = disk.power_losses(1);
    /// assert!(losses.len() > 2);
    /// for loss in losses {
    ///     let left = disk.duplicate();
    ///     left.crash(loss);
    ///     assert_eq!(left.pending(), 0);
    ///     BrokerConfig::new().on_disk(&left)?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn pending(&self) -> usize {
        self.medium.pending()
    }

    /// The ways to lose the power now. While no more than 64 subsets of the pending operations
    /// differ (always for up to 6 operations): each of these subsets, and two losses that tear or
    /// garble writes. If there are more, a sample: all pending operations and none, all but one (of
    /// the first 63), lengths without data, and five by seeds.
    ///
    /// The same `seed` and the same disk give the same losses.
    pub fn power_losses(&self, seed: u64) -> Vec<Survive> {
        const MOST: usize = 64;
        let random = |n: u64| Survive::Random(seed.wrapping_mul(31).wrapping_add(n));
        match self.medium.subsets(MOST) {
            // Nothing is pending.
            Some(subsets) if subsets.len() == 1 => vec![Survive::Synced],
            Some(subsets) => {
                let torn = [Survive::Zeroed(seed), random(0)];
                subsets.into_iter().map(Survive::Subset).chain(torn).collect()
            }
            None => {
                let all = [Survive::Subset(u64::MAX), Survive::Synced, Survive::Zeroed(seed)];
                let but_one = (0..self.pending().min(63)).map(|n| Survive::Subset(!(1 << n)));
                all.into_iter().chain(but_one).chain((0..5).map(random)).collect()
            }
        }
    }

    /// Bounds the bytes of all files together from now on. `None` removes the bound. A file takes
    /// its length, rounded up to 512 bytes; a directory takes nothing. Existing files stay, also if
    /// they take more.
    ///
    /// A write within the space that a file already takes needs no further space. A write that fits
    /// only in part writes that part, as a real one does, and the next fails with
    /// [`StorageFull`](io::ErrorKind::StorageFull). Removing a file frees its space, and so does
    /// renaming another one over it, also while it is still open. A crash and
    /// [`duplicate`](Disk::duplicate) keep the bound. [`write_new`](Disk::write_new) is bounded
    /// too: it writes the part that fits, and fails. Changing a file by hand
    /// ([`truncate`](Disk::truncate), [`overwrite`](Disk::overwrite)) is not.
    ///
    /// ```
    /// use quipu::testing::Disk;
    /// use quipu::{BrokerConfig, Error, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let disk = Disk::new();
    /// let broker = BrokerConfig::new().on_disk(&disk)?;
    /// let topic = broker.create_topic("t", TopicConfig::new())?;
    /// let send = || broker.producer().send(&topic, Record::new(vec![7; 1000])).and_then(|sent| sent.wait());
    /// send()?;
    /// disk.capacity(disk.used());
    /// assert!(matches!(send(), Err(Error::DiskFull { .. })));
    /// disk.capacity(None);
    /// send()?;
    /// # Ok(()) }
    /// ```
    pub fn capacity(&self, bytes: impl Into<Option<u64>>) {
        self.medium.set_capacity(bytes.into().unwrap_or(UNBOUNDED));
    }

    /// The bytes that all files take together, each rounded up to 512. [`capacity`](Disk::capacity)
    /// bounds them.
    pub fn used(&self) -> u64 {
        self.medium.used()
    }

    /// A hash of the names of all files and directories, and of the bytes of the files as written,
    /// synced or not. Two disks with the same contents have the same fingerprint, within one build
    /// of a program. A test of crashes need not look twice at what it has seen.
    ///
    /// ```
    /// use quipu::testing::{Disk, Survive};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = Disk::new();
    /// disk.write_new("a", b"same")?;
    /// let copy = disk.duplicate();
    /// assert_eq!(copy.fingerprint(), disk.fingerprint());
    /// copy.overwrite("a", 0, b"S")?;
    /// assert_ne!(copy.fingerprint(), disk.fingerprint());
    /// # Ok(()) }
    /// ```
    pub fn fingerprint(&self) -> u64 {
        self.medium.fingerprint()
    }

    /// All files with their lengths, sorted by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.medium.files()
    }

    /// The bytes of a file as written, synced or not.
    ///
    /// # Errors
    /// `NotFound`, or `IsADirectory`.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        self.medium.read(path.as_ref())
    }

    /// Replaces the bytes at `position`, or appends at the end. All of the file counts as synced
    /// afterwards. Existing maps of a broker keep the old bytes.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, or `InvalidInput` if `position` lies after the end.
    pub fn overwrite(&self, path: impl AsRef<Path>, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.medium.edit(path.as_ref(), |content| {
            let from =
                usize::try_from(position).ok().filter(|from| *from <= content.len()).ok_or_else(after_end)?;
            let until = from.saturating_add(bytes.len()).min(content.len());
            content.splice(from..until, bytes.iter().copied());
            Ok(())
        })?
    }

    /// Flips one bit: bit `bit % 8` of byte `bit / 8`. Otherwise as [`overwrite`](Disk::overwrite).
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, or `InvalidInput` if the bit lies after the end.
    pub fn flip_bit(&self, path: impl AsRef<Path>, bit: u64) -> io::Result<()> {
        self.medium.edit(path.as_ref(), |content| {
            let byte =
                usize::try_from(bit / 8).ok().and_then(|at| content.get_mut(at)).ok_or_else(after_end)?;
            *byte ^= 1 << (bit % 8);
            Ok(())
        })?
    }

    /// Truncates a file, or extends it with zeros. Otherwise as [`overwrite`](Disk::overwrite).
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, or `StorageFull`.
    pub fn truncate(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        self.medium.edit(path.as_ref(), |content| {
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?;
            let missing = len.saturating_sub(content.len());
            content.try_reserve_exact(missing).map_err(|_| io::ErrorKind::StorageFull)?;
            content.resize(len, 0);
            Ok(())
        })?
    }

    /// Creates a file with these bytes, and the directories that it needs.
    ///
    /// # Errors
    /// `AlreadyExists`, or `NotADirectory` for a parent.
    pub fn write_new(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        self.medium.write_new(path.as_ref(), bytes)
    }

    /// Removes a file, or a directory with its content.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.medium.remove(path.as_ref())
    }

    /// Renames a file or a directory, over a file or over nothing.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let here = self.medium.attach();
        here.rename(from, to)?;
        here.sync_dir(from.parent().unwrap_or(Path::new("")))?;
        here.sync_dir(to.parent().unwrap_or(Path::new("")))
    }

    /// Crashes, and opens the disk again. Handles of the earlier broker return errors from now on;
    /// dropping them changes nothing.
    ///
    /// # Errors
    /// Those of [`BrokerConfig::open`].
    ///
    /// ```
    /// use quipu::testing::{Disk, Survive, produced};
    /// use quipu::{BrokerConfig, Durability, Record, TopicConfig};
    /// # fn main() -> quipu::Result<()> {
    /// let disk = Disk::new();
    /// let broker = BrokerConfig::new().on_disk(&disk)?;
    /// broker.create_topic("safe", TopicConfig::new().durability(Durability::Sync))?;
    /// broker.create_topic("quick", TopicConfig::new())?;
    /// for topic in ["safe", "quick"] {
    ///     broker.producer().send(topic, Record::new("v"))?.wait()?;
    /// }
    /// let broker = disk.crash_and_reopen(Survive::Synced, BrokerConfig::new())?;
    /// assert_eq!((produced(&broker, "safe")?.len(), produced(&broker, "quick")?.len()), (1, 0));
    /// # Ok(()) }
    /// ```
    pub fn crash_and_reopen(&self, survive: Survive, config: BrokerConfig) -> Result<Broker> {
        self.crash(survive);
        config.on_disk(self)
    }

    /// As [`Broker::verify`], of this disk. Its operations are counted and fail by plan, as a
    /// broker's do.
    ///
    /// # Errors
    /// Those of [`Broker::verify`].
    pub fn verify(&self, progress: impl FnMut(VerifyProgress) -> ControlFlow<()>) -> Result<VerifyReport> {
        crate::offline::verify_on(self.storage(), progress)
    }

    /// As [`Broker::salvage`], from this disk to another one, which must be empty.
    ///
    /// # Errors
    /// Those of [`Broker::salvage`].
    pub fn salvage(&self, to: &Disk) -> Result<SalvageReport> {
        crate::offline::salvage_on(self.storage(), to.storage())
    }

    /// The disk for a process that starts now. It is stale after the next crash; call this again.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(FaultStorage::new(Arc::new(self.medium.attach()), &self.faults))
    }
}

impl Default for Disk {
    fn default() -> Self {
        Disk::new()
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("files", &self.files().len()).field("ops", &self.ops()).finish()
    }
}

fn after_end() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the position lies after the end of the file")
}
