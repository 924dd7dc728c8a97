//! Copies an open broker into another directory, as of one moment.
//!
//! 1. The directory's lock, and the mark that the backup is not finished; an older backup loses its
//!    catalog. Both are durable before anything else is changed.
//! 2. The broker's [files are held](crate::engine::HeldFiles), and all its logs are
//!    [cut](crate::log::cut) at one moment, with the catalog. From here on the broker works on.
//! 3. Each partition: sealed segments, whose files never change, by hard links where that is
//!    possible; the active one by a copy of its bytes before the cut; then the manifest.
//!    Everything is synced.
//! 4. The catalog, a checkpoint with the mark of a clean close, and the mark that the backup is
//!    finished, in this order.
//!
//! After a crash before the end of 4 the mark states that the backup is not finished, and it is
//! refused by an opening. A backup into the same directory finishes it, and uses the files that are
//! there of a manifest that lists the same segments.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::checkpoint::read_mark;
use super::inner::BrokerInner;
use super::open::lock;
use super::trash::remove_tree;
use crate::engine::{Context, InsideBackup};
use crate::error::{Error, IoAction, Result};
use crate::format::backup::BackupMark;
use crate::format::catalog::{Catalog, Change, Opening};
use crate::format::checkpoint::Checkpoint;
use crate::format::manifest::{Manifest, SegmentEntry};
use crate::format::names;
use crate::format::producers::ProducersFile;
use crate::log::cut::{CutSegment, LogCut, cut_all};
use crate::log::manifest;
use crate::stats::{BackupProgress, BackupReport};
use crate::storage::{OpenMode, Storage, read_file, read_up_to, replace_file, write_all_at};
use crate::sync::{Arc, Ordering};
use crate::types::Position;

impl BrokerInner {
    /// See [`Broker::backup`](super::Broker::backup).
    pub(crate) fn backup(
        &self,
        to: Arc<dyn Storage>,
        progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        self.check_open()?;
        let target = Context::for_reading(to.clone());
        let _lock = lock(&target)?;
        let copy = Copy { from: &self.ctx, to: &target, links: to, can_link: true };
        // IMPORTANT: before the cut.
        let hold = self.ctx.held_files.hold(&*self.ctx.storage);
        let _hold = hold.map_err(|InsideBackup| self.ctx.backup_running())?;
        self.check_open()?;
        copy.begin()?;
        let (cuts, catalog, number) = {
            let _changing = self.changing.lock();
            let (cuts, catalog) = cut_all(self.all_logs(), || self.catalog.with(Catalog::clone));
            (cuts, catalog, self.catalog.place().number)
        };
        cuts.iter().try_for_each(LogCut::check)?;
        let is_closed = || self.closed.load(Ordering::Acquire);
        let total = cuts.iter().flat_map(LogCut::segments).map(|segment| segment.bytes).sum();
        let report = BackupReport::default();
        let run =
            Run { copy, report, progress, at: BackupProgress { done: 0, total }, is_closed: &is_closed };
        run.all(&cuts, catalog, number)
    }
}

/// From one broker to another directory.
struct Copy<'a> {
    from: &'a Context,
    to: &'a Context,
    /// The storage of `to`, where files may get names of a file of `from`.
    links: Arc<dyn Storage>,
    /// No attempt has failed yet.
    can_link: bool,
}

impl Copy<'_> {
    /// Checks the directory, and marks it as a backup that is not finished.
    ///
    /// # Errors
    /// `ForeignDirectory`, `NotABackup`: nothing was touched. An I/O error.
    fn begin(&self) -> Result<()> {
        let to = self.to;
        self.check_directory()?;
        let at = self.from.clock.now();
        self.mark(&BackupMark { finished: false, at, catalog_number: 0, catalog_bytes: 0 })?;
        // Without the catalog first: everything else is nothing without it.
        for name in [
            names::CATALOG,
            names::CHECKPOINT,
            names::CATALOG_OLD,
            names::JOURNAL,
            names::RESERVE,
            names::OWNER,
        ] {
            remove(to, Path::new(name))?;
        }
        for dir in [names::TOPICS, names::TRASH] {
            make_dir(to, Path::new(dir))?;
        }
        to.storage
            .sync_root()
            .map_err(|e| Error::unless_full(IoAction::Sync, &to.display(Path::new("")), e))?;
        sync_dir(to, Path::new(""))
    }

    fn check_directory(&self) -> Result<()> {
        let (to, root) = (self.to, Path::new(""));
        let path = || to.display(root);
        let entries = to.storage.list(root).map_err(|e| Error::io(IoAction::List, &path(), e))?;
        let is_own = |name: &str| names::is_root_entry(name) || names::is_of_system(name);
        if let Some(foreign) = entries.iter().find(|entry| !is_own(&entry.name)) {
            return Err(Error::ForeignDirectory { path: path(), found: foreign.name.clone() });
        }
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        let refuse = |what: &str| Err(Error::NotABackup { path: path(), what: what.to_string() });
        if !has(names::BACKUP) {
            let is_used =
                [names::CATALOG, names::CHECKPOINT, names::JOURNAL, names::TOPICS].into_iter().any(has);
            return if is_used { refuse("it is the directory of a broker, and no backup") } else { Ok(()) };
        }
        match read_mark(to)? {
            Some(mark) if mark.finished => {
                let is_as_left = |checkpoint: Checkpoint| {
                    checkpoint.clean
                        && (checkpoint.catalog_number, checkpoint.catalog_bytes)
                            == (mark.catalog_number, mark.catalog_bytes)
                };
                let checkpoint = read_file(&*to.storage, Path::new(names::CHECKPOINT), CHECKPOINT_BYTES_MAX)
                    .ok()
                    .and_then(|bytes| Checkpoint::decode(&bytes).ok());
                match checkpoint.is_some_and(is_as_left) {
                    true => Ok(()),
                    false => refuse("the backup there was used as a broker since it was made"),
                }
            }
            _ => Ok(()),
        }
    }

    fn mark(&self, mark: &BackupMark) -> Result<()> {
        replace(self.to, Path::new(names::BACKUP), &mark.encode())
    }

    /// The manifest of an older backup of the same partition.
    fn older(&self, cut: &LogCut) -> Option<Manifest> {
        let older = manifest::read(self.to, cut.identity(), &cut.dir()).ok()?;
        (older.secret == cut.manifest.secret).then_some(older)
    }

    /// Gives a file that never changes a second name. Returns whether that was possible.
    fn link(&mut self, path: &Path) -> Result<bool> {
        if !self.can_link {
            return Ok(false);
        }
        let linked = self.links.link_from(&self.from.display(path), path);
        self.can_link = linked.is_ok();
        if linked.is_err() {
            return Ok(false);
        }
        // Not all of a sealed segment need be on the medium yet.
        let synced = self.to.storage.open(path, OpenMode::Write).and_then(|file| file.sync_data());
        synced.map_err(|e| Error::unless_full(IoAction::Sync, &self.to.display(path), e))?;
        Ok(true)
    }
}

/// A backup under way.
struct Run<'a> {
    copy: Copy<'a>,
    report: BackupReport,
    progress: &'a mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    at: BackupProgress,
    is_closed: &'a dyn Fn() -> bool,
}

impl Run<'_> {
    fn all(mut self, cuts: &[LogCut], catalog: Catalog, number: u64) -> Result<BackupReport> {
        let to = self.copy.to;
        let mut wanted = BTreeSet::new();
        for cut in cuts {
            let identity = cut.identity();
            let topic = names::topic_dir(&identity.topic, &identity.topic_id);
            if wanted.insert(topic.clone()) {
                make_dir(to, &topic)?;
            }
            if self.partition(cut)?.is_break() {
                return Ok(self.report);
            }
        }
        self.remove_others(cuts, &wanted)?;
        for topic in &wanted {
            sync_dir(to, topic)?;
        }
        sync_dir(to, Path::new(names::TOPICS))?;
        self.finish(cuts, catalog, number)?;
        Ok(self.report)
    }

    fn partition(&mut self, cut: &LogCut) -> Result<ControlFlow<()>> {
        let (to, dir) = (self.copy.to, cut.dir());
        make_dir(to, &dir)?;
        let older = self.copy.older(cut);
        let mut wanted = BTreeSet::from([names::MANIFEST.to_string()]);
        for segment in cut.segments() {
            let is_there = segment
                .sealed
                .as_ref()
                .is_some_and(|entry| self.is_there(&dir, entry, older.as_ref(), &segment));
            if is_there {
                self.report.bytes_kept += segment.bytes;
                self.at.done += segment.bytes;
            } else if self.segment(&dir, &segment)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if segment.sealed.is_some() {
                for index in &segment.indexes {
                    if self.index(&dir.join(index), is_there) {
                        wanted.insert(index.clone());
                    }
                }
            }
            wanted.insert(segment.file);
            if self.tell()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if let Some(file) = cut.producers(self.side_file(&dir)) {
            replace(to, &dir.join(names::PRODUCERS), &file.encode())?;
            wanted.insert(names::PRODUCERS.to_string());
        }
        replace(to, &dir.join(names::MANIFEST), &cut.manifest.encode())?;
        self.remove_unlisted(&dir, &wanted)?;
        sync_dir(to, &dir)?;
        self.report.partitions += 1;
        if !names::is_own_topic(cut.identity().topic.as_str()) {
            self.report.ends.push(end_of(cut));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether an older backup has the same sealed segment.
    fn is_there(
        &self,
        dir: &Path,
        entry: &SegmentEntry,
        older: Option<&Manifest>,
        segment: &CutSegment,
    ) -> bool {
        let is_same = |other: &&SegmentEntry| SegmentEntry { state: entry.state, ..**other } == *entry;
        let is_listed = older.is_some_and(|older| {
            older.segments.iter().any(|other| other.state.is_synced() && is_same(&other))
        });
        let file = self.copy.to.storage.open(&dir.join(&segment.file), OpenMode::Read);
        is_listed && file.and_then(|file| file.len()).is_ok_and(|len| len >= segment.bytes)
    }

    /// Links or copies the file of a segment.
    fn segment(&mut self, dir: &Path, segment: &CutSegment) -> Result<ControlFlow<()>> {
        let path = dir.join(&segment.file);
        remove(self.copy.to, &path)?;
        if segment.sealed.is_some() && self.copy.link(&path)? {
            self.report.bytes_linked += segment.bytes;
            self.at.done += segment.bytes;
            return Ok(ControlFlow::Continue(()));
        }
        let (from, to) = (self.copy.from, self.copy.to);
        let read = |e| Error::io(IoAction::Read, &from.display(&path), e);
        let write = |e| Error::unless_full(IoAction::Write, &to.display(&path), e);
        let source = from.storage.open(&path, OpenMode::Read).map_err(read)?;
        let file =
            to.storage.open(&path, OpenMode::CreateNew).map_err(|e| Error::create(&to.display(&path), e))?;
        let mut buffer = vec![0; STEP];
        let mut position = 0;
        while position < segment.bytes {
            let len = usize::try_from(segment.bytes - position).unwrap_or(STEP).min(STEP);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            if read_up_to(&*source, piece, position).map_err(read)? < len {
                return Err(read(ErrorKind::UnexpectedEof.into()));
            }
            write_all_at(&*file, piece, position).map_err(|(_, e)| write(e))?;
            position += len as u64;
            self.at.done += len as u64;
            if self.tell()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        file.sync_data().map_err(|e| Error::unless_full(IoAction::Sync, &to.display(&path), e))?;
        self.report.bytes_copied += segment.bytes;
        Ok(ControlFlow::Continue(()))
    }

    /// Links or copies a derived file, if there is one. Without it an opening, or the first lookup,
    /// makes it again. One that belongs to a segment that `is_there` stays.
    fn index(&mut self, path: &Path, is_there: bool) -> bool {
        let (from, to) = (self.copy.from, self.copy.to);
        if is_there && to.storage.open(path, OpenMode::Read).is_ok() {
            return true;
        }
        if from.storage.open(path, OpenMode::Read).is_err() || remove(to, path).is_err() {
            return false;
        }
        if self.copy.link(path).is_ok_and(|linked| linked) {
            return true;
        }
        let bytes = read_file(&*from.storage, path, u64::from(u32::MAX));
        bytes.is_ok_and(|bytes| replace_file(&*to.storage, path, &bytes).is_ok())
    }

    fn side_file(&self, dir: &Path) -> Option<ProducersFile> {
        let path = dir.join(names::PRODUCERS);
        let bytes = read_file(&*self.copy.from.storage, &path, u64::from(u32::MAX)).ok()?;
        ProducersFile::decode(&bytes).ok()
    }

    /// Calls the progress function, under no lock.
    fn tell(&mut self) -> Result<ControlFlow<()>> {
        if (self.is_closed)() {
            return Err(Error::Closed);
        }
        crate::sync::about_to_call_user_code("the progress function of a backup");
        Ok((self.progress)(self.at))
    }

    /// Removes what an older backup has in a partition, and this one has not.
    fn remove_unlisted(&self, dir: &Path, wanted: &BTreeSet<String>) -> Result<()> {
        let to = self.copy.to;
        let entries = to.storage.list(dir).map_err(|e| Error::io(IoAction::List, &to.display(dir), e))?;
        let is_other = |name: &String| !wanted.contains(name) && !names::is_of_system(name);
        entries
            .into_iter()
            .map(|entry| entry.name)
            .filter(is_other)
            .try_for_each(|name| remove(to, &dir.join(name)))
    }

    /// Removes the topics and partitions that an older backup has, and this one has not.
    fn remove_others(&self, cuts: &[LogCut], topics: &BTreeSet<PathBuf>) -> Result<()> {
        let to = self.copy.to;
        let partitions: BTreeSet<PathBuf> = cuts.iter().map(LogCut::dir).collect();
        let list =
            |dir: &Path| to.storage.list(dir).map_err(|e| Error::io(IoAction::List, &to.display(dir), e));
        for topic in list(Path::new(names::TOPICS))? {
            let dir = Path::new(names::TOPICS).join(&topic.name);
            if names::is_of_system(&topic.name) {
                continue;
            }
            if !topics.contains(&dir) {
                remove_tree(to, &dir)?;
                continue;
            }
            for partition in list(&dir)? {
                let path = dir.join(&partition.name);
                if !partitions.contains(&path) && !names::is_of_system(&partition.name) {
                    remove_tree(to, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what makes the directory that of a broker which was closed at the cut.
    fn finish(&mut self, cuts: &[LogCut], mut catalog: Catalog, number: u64) -> Result<()> {
        let to = self.copy.to;
        let gone: Vec<_> = catalog.deleting().map(|topic| topic.entry.id).collect();
        let files = cuts.iter().map(|cut| {
            let identity = cut.identity();
            Change::Partitions(identity.topic_id, BTreeSet::from([identity.partition.get()]))
        });
        // No boot is that of the backup: its opening must not take the page cache for whole.
        let opening = Opening { boot: [0; 16], process: 0, ..catalog.opening().unwrap_or_default() };
        let changes = gone.into_iter().map(Change::TopicGone).chain(files).chain([Change::Opening(opening)]);
        for change in changes.collect::<Vec<_>>() {
            catalog.apply(change).map_err(Error::internal)?;
        }
        // The manifests have them.
        catalog.epochs.clear();
        let bytes = catalog.snapshot(number);
        let catalog_bytes = bytes.len() as u64;
        replace(to, Path::new(names::CATALOG), &bytes)?;
        let entries = cuts.iter().map(LogCut::checkpoint).collect();
        let checkpoint = Checkpoint { clean: true, catalog_number: number, catalog_bytes, entries };
        replace(to, Path::new(names::CHECKPOINT), &checkpoint.encode())?;
        let at = self.copy.from.clock.now();
        self.copy.mark(&BackupMark { finished: true, at, catalog_number: number, catalog_bytes })?;
        self.report.complete = true;
        Ok(())
    }
}

/// The end of a partition, as the backup has it.
fn end_of(cut: &LogCut) -> Position {
    let identity = cut.identity();
    Position::new(identity.topic.clone(), identity.partition, cut.point.end, cut.manifest.epoch())
}

fn make_dir(ctx: &Context, dir: &Path) -> Result<()> {
    ctx.storage.create_dir(dir).map_err(|e| Error::create(&ctx.display(dir), e))
}

fn sync_dir(ctx: &Context, dir: &Path) -> Result<()> {
    ctx.storage.sync_dir(dir).map_err(|e| Error::unless_full(IoAction::Sync, &ctx.display(dir), e))
}

fn remove(ctx: &Context, path: &Path) -> Result<()> {
    match ctx.storage.remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(IoAction::Remove, &ctx.display(path), e)),
        _ => Ok(()),
    }
}

fn replace(ctx: &Context, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(&*ctx.storage, path, bytes)
        .map_err(|failed| Error::replace(&ctx.display(path), failed.error))
}

/// Bytes between two calls of the progress function.
const STEP: usize = 1 << 20;
const CHECKPOINT_BYTES_MAX: u64 = 256 << 20;
