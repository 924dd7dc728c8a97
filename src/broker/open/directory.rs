//! Reading a directory before it is changed: the lock, the catalog, the checkpoint and the
//! manifests; and making the bytes that were read durable.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;

use crate::broker::catalog::identity;
use crate::broker::checkpoint::{CheckpointStore, read_mark};
use crate::broker::store::{CatalogFile, CatalogStore, damaged};
use crate::config::TopicConfig;
use crate::engine::publish::{owner_of, read_header};
use crate::engine::{Context, malformed};
use crate::error::{Error, IoAction, Owner, Result};
use crate::format::catalog::{CatalogTopic, ReadCatalog};
use crate::format::checkpoint::Checkpoint;
use crate::format::manifest::Manifest;
use crate::format::names::{self};
use crate::format::reader::{Malformed, Unsupported};
use crate::format::settings;
use crate::log::create::find_manifest;
use crate::log::journal::LogJournal;
use crate::stats::OpenReport;
use crate::storage::{OpenMode, Storage};
use crate::sync::Arc;
use crate::transaction::journal::Journal;
use crate::transaction::recovery::check_format as check_journal;
use crate::types::{PartitionId, TopicId};

/// A directory that has been read and may be worked on.
pub(super) struct Directory {
    pub(super) catalog: CatalogStore,
    pub(super) manifests: Manifests,
    pub(super) configs: HashMap<TopicId, TopicConfig>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Nothing has been changed since the broker was closed properly, or made.
    pub(super) is_clean: bool,
    pub(super) proof: Proof,
}

impl Directory {
    /// Makes an empty broker. The catalog comes last: until it is there, the next opening starts
    /// over.
    pub(super) fn create(ctx: &Context) -> Result<Self> {
        sync_root(ctx)?;
        for dir in [names::TOPICS, names::TRASH] {
            let made = ctx.storage.create_dir(Path::new(dir));
            made.map_err(|e| Error::create(&ctx.display(Path::new(dir)), e))?;
        }
        // A catalog promises that the directories are there.
        sync_dir(ctx, Path::new(""))?;
        Ok(Directory {
            catalog: CatalogStore::create(ctx)?,
            manifests: Manifests::default(),
            configs: HashMap::new(),
            checkpoint: None,
            is_clean: true,
            proof: Proof::Nothing,
        })
    }

    /// Reads the files that decide whether and how the directory is opened. Unless the broker was
    /// closed properly, all of them are durable on return.
    ///
    /// # Errors
    /// `Corrupt`, `UnsupportedFormat`, an I/O error.
    pub(super) fn read(journal: &Journal, report: &mut OpenReport) -> Result<Self> {
        let ctx = &**journal.ctx();
        let mut found = CatalogStore::read(ctx)?;
        let (checkpoint, unused) = read_checkpoint(ctx, &found, report)?;
        let configs = read_configs(ctx, &found, report)?;
        let mut manifests = read_manifests(ctx, &found, checkpoint.as_ref())?;
        check_journal(journal)?;
        // IMPORTANT: nothing was changed before this, so that a release that cannot use the
        // directory leaves it alone.
        let is_clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        if !is_clean {
            ctx.publisher().announce();
        }
        let number = found.number;
        if let Some(unused) = &unused {
            // No number is used twice, because a checkpoint identifies the catalog file that it
            // belongs to by it.
            found.number = found.number.max(unused.catalog_number);
            if unused.clean {
                let place = CatalogFile { number: found.number, bytes: found.end };
                ctx.reserve.with_room(|| CheckpointStore::new(None).write(ctx, false, place, Vec::new()))?;
            }
        }
        let last_boot = found.catalog.opening().map_or([0; 16], |last| last.boot);
        let is_same_boot = last_boot != [0; 16] && last_boot == ctx.storage.run_identity().0;
        let proof = match (is_clean, is_same_boot) {
            (true, _) => Proof::Entries,
            (false, true) => Proof::SameBoot,
            (false, false) => Proof::Nothing,
        };
        if is_clean {
            // The manifests are durable: their epochs need not be stored elsewhere too.
            for (id, partition, epoch) in manifests.epochs.drain(..) {
                found.catalog.forget_epochs(id, partition, epoch);
            }
        }
        make_names_durable(ctx, &found, &manifests, checkpoint.as_ref().filter(|_| is_clean))?;
        let is_as_read = found.number == number;
        let catalog = CatalogStore::resume(ctx, found, is_clean, is_as_read)?;
        Ok(Directory { catalog, manifests, configs, checkpoint, is_clean, proof })
    }
}

/// Syncs every directory with a name that this opening relies on. The last owner may have been
/// killed between a rename and the sync of its directory: the name is there now, and a power loss
/// can take it.
///
/// After a clean close this concerns only partitions that the checkpoint has no entry of, because
/// they had failed.
///
/// The bytes need no sync: a file that is renamed into place was synced before (a catalog, a
/// manifest, a journal), and a file that grows is rewritten by its own recovery.
fn make_names_durable(
    ctx: &Context,
    found: &ReadCatalog,
    manifests: &Manifests,
    closed: Option<&Checkpoint>,
) -> Result<()> {
    let entries = closed.map_or(&[][..], |closed| &closed.entries);
    let known: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition)).collect();
    if closed.is_none() {
        sync_root(ctx)?;
        make_missing_dirs(ctx)?;
        for dir in ["", names::TOPICS, names::TRASH] {
            sync_dir(ctx, Path::new(dir))?;
        }
    }
    for CatalogTopic { entry, .. } in found.catalog.live() {
        let of_topic = manifests.found.get(&entry.id).map_or(&[][..], Vec::as_slice);
        let mut synced_topic = false;
        for (partition, manifest) in (0..).map(PartitionId::new).zip(of_topic) {
            if !matches!(manifest, Ok(Some(_))) || known.contains(&(entry.id, partition)) {
                continue;
            }
            if !synced_topic {
                sync_dir(ctx, &names::topic_dir(&entry.name, &entry.id))?;
                synced_topic = true;
            }
            sync_dir(ctx, &names::partition_dir(&entry.name, &entry.id, partition))?;
        }
    }
    Ok(())
}

/// Makes the directories that every broker has, where one is missing.
pub(super) fn make_missing_dirs(ctx: &Context) -> Result<()> {
    for dir in [names::TOPICS, names::TRASH].map(Path::new) {
        match ctx.storage.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                ctx.storage.create_dir(dir).map_err(|e| Error::create(&ctx.display(dir), e))?;
                sync_dir(ctx, Path::new(""))?;
            }
            Err(e) => return Err(Error::io(IoAction::List, &ctx.display(dir), e)),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Makes the name of the broker's directory durable. Its creator may have died before it did that,
/// or may be a tool that does not.
fn sync_root(ctx: &Context) -> Result<()> {
    ctx.storage.sync_root().map_err(|e| Error::unless_full(IoAction::Sync, &ctx.display(Path::new("")), e))
}

fn sync_dir(ctx: &Context, dir: &Path) -> Result<()> {
    ctx.storage.sync_dir(dir).map_err(|e| Error::io(IoAction::Sync, &ctx.display(dir), e))
}

pub(super) fn left_alone(ctx: &Context, path: &Path) -> String {
    format!("{} is not a file of the broker and was left alone", ctx.display(path).display())
}

/// Why logs are known to end where they seem to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The broker was closed properly: those that the checkpoint has an entry of.
    Entries,
    /// Only the process died: all of them.
    SameBoot,
    /// None of them.
    Nothing,
}

/// Every manifest, read before anything is written.
#[derive(Default)]
pub(super) struct Manifests {
    /// Of each partition of a topic; one of which nothing can be used has its error.
    pub(super) found: HashMap<TopicId, Vec<Result<Option<Manifest>>>>,
    /// Partitions that have files, and that the catalog does not mark.
    pub(super) unmarked: Vec<(TopicId, u32)>,
    /// The current epoch of each, as the manifest has it.
    pub(super) epochs: Vec<(TopicId, PartitionId, u32)>,
    /// The names in the directory of topics.
    pub(super) present: BTreeSet<String>,
}

/// Reads the manifest of every partition that has files. The epochs that only the catalog has are
/// added to them.
///
/// # Errors
/// `UnsupportedFormat`: then the broker is not opened, because nothing of a directory is changed
/// that a later release has changed; an I/O error of the directory of topics.
fn read_manifests(
    ctx: &Context,
    catalog: &ReadCatalog,
    checkpoint: Option<&Checkpoint>,
) -> Result<Manifests> {
    let mut manifests = Manifests::default();
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let listed: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition.get())).collect();
    manifests.present = list_topics(ctx)?;
    for CatalogTopic { entry, with_files } in catalog.catalog.live() {
        let is_there = manifests.present.contains(&names::encode_topic(&entry.name, &entry.id));
        let mut of_topic = Vec::with_capacity(entry.partitions as usize);
        for partition in 0..entry.partitions {
            // An entry of the checkpoint is as good as a mark.
            let is_marked = with_files.contains(&partition) || listed.contains(&(entry.id, partition));
            let found = if is_marked || is_there {
                let identity = identity(&entry.name, entry.id, partition);
                let dir = names::partition_dir(&entry.name, &entry.id, identity.partition);
                find_manifest(ctx, &identity, &dir, is_marked)
            } else {
                Ok(None)
            };
            of_topic.push(match found {
                Err(error @ Error::UnsupportedFormat { .. }) => return Err(error),
                Ok(Some(mut manifest)) => {
                    let epochs = catalog.catalog.epochs(&entry.id, PartitionId::new(partition));
                    manifests.epochs.push((entry.id, PartitionId::new(partition), manifest.epoch()));
                    epochs.iter().for_each(|epoch| manifest.adopt_epoch(*epoch));
                    if !with_files.contains(&partition) {
                        manifests.unmarked.push((entry.id, partition));
                    }
                    Ok(Some(manifest))
                }
                other => other,
            });
        }
        manifests.found.insert(entry.id, of_topic);
    }
    Ok(manifests)
}

/// Inspects the directory without changing it. Returns whether a broker must be created.
pub(super) fn look(ctx: &Context, report: &mut OpenReport) -> Result<bool> {
    let root = Path::new("");
    let entries = ctx.storage.list(root).map_err(|e| Error::io(IoAction::List, &ctx.display(root), e))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let is_new = !has(names::CATALOG);
    if !is_new {
        ctx.reserve.found(has(names::RESERVE));
    }
    if has(names::BACKUP) && !read_mark(ctx)?.is_some_and(|mark| mark.finished) {
        return Err(Error::BackupUnfinished { path: ctx.display(root) });
    }
    for entry in &entries {
        if names::is_root_entry(&entry.name) || names::is_of_system(&entry.name) {
            continue;
        }
        if is_new {
            return Err(Error::ForeignDirectory { path: ctx.display(root), found: entry.name.clone() });
        }
        report.warnings.push(left_alone(ctx, Path::new(&entry.name)));
    }
    // The catalog is written when the directories are there, empty, and everything else comes after
    // it.
    let topics = Path::new(names::TOPICS);
    let has_topics = || has(names::TOPICS) && ctx.storage.list(topics).is_ok_and(|topics| !topics.is_empty());
    let was_used = [names::CATALOG_OLD, names::CHECKPOINT, names::JOURNAL].into_iter().any(has);
    if is_new && (was_used || has_topics()) {
        let what = "the catalog is missing, but there are topics or other files of a broker";
        return Err(damaged(ctx, &Malformed::new(0, what)));
    }
    Ok(is_new)
}

pub(super) fn take_lock(ctx: &Context) -> Result<Box<dyn Send + Sync>> {
    let root = ctx.display(Path::new(""));
    ctx.storage.lock(Path::new(names::LOCK)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::AlreadyOpen { path: root, owner: read_owner(&*ctx.storage) },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::ReadOnly { path: root, source: Arc::new(e) }
        }
        _ => Error::unless_full(IoAction::Lock, &ctx.display(Path::new(names::LOCK)), e),
    })
}

/// Who has the directory open, as far as its owner has said so.
fn read_owner(storage: &dyn Storage) -> Option<Owner> {
    let file = storage.open(Path::new(names::OWNER), OpenMode::Read).ok()?;
    owner_of(&read_header(&*file)?)
}

/// Reads the checkpoint. One that belongs to another file of the catalog is ignored.
///
/// # Errors
/// `Corrupt` if the catalog has lost something since the broker was closed properly;
/// `UnsupportedFormat`.
fn read_checkpoint(
    ctx: &Context,
    found: &ReadCatalog,
    report: &mut OpenReport,
) -> Result<(Option<Checkpoint>, Option<Checkpoint>)> {
    let path = ctx.display(Path::new(names::CATALOG));
    let (mut checkpoint, warning) = CheckpointStore::read(ctx)?;
    report.warnings.extend(warning);
    // A crash between the replacement of the catalog and the next checkpoint leaves a checkpoint
    // with a smaller number, which is still valid. It is never one of a clean close.
    let is_of_another = |checkpoint: &mut Checkpoint| {
        checkpoint.catalog_number > found.number
            || (checkpoint.clean && checkpoint.catalog_number != found.number)
    };
    let unused = checkpoint.take_if(is_of_another);
    if let Some(other) = &unused {
        report.warnings.push(format!(
            "{} was not used: it belongs to a catalog with number {}, and {} has number {}",
            ctx.display(Path::new(names::CHECKPOINT)).display(),
            other.catalog_number,
            path.display(),
            found.number
        ));
    }
    if let Some(closed) = checkpoint.as_ref().filter(|checkpoint| checkpoint.clean)
        && (found.end < closed.catalog_bytes || found.torn > 0)
    {
        let what = "a change that was on the medium when the broker was closed is missing (if an older catalog was \
                    put back on purpose, remove the checkpoint too)";
        return Err(damaged(ctx, &Malformed::new(found.end, what)));
    }
    if found.torn > 0 {
        report.warnings.push(format!(
            "{}: {} bytes at {} were left of a change that was never completed; they were truncated",
            path.display(),
            found.torn,
            found.end
        ));
    }
    Ok((checkpoint, unused))
}

/// Reads the topics' settings.
///
/// # Errors
/// `UnsupportedFormat` if one of them must be understood, and is not.
fn read_configs(
    ctx: &Context,
    found: &ReadCatalog,
    report: &mut OpenReport,
) -> Result<HashMap<TopicId, TopicConfig>> {
    let mut configs = HashMap::new();
    for CatalogTopic { entry, .. } in found.catalog.live() {
        let (config, ignored) = settings::to_config(entry.partitions, &entry.settings).map_err(|tag| {
            let needs = Unsupported::Setting(tag);
            malformed(ctx, Path::new(names::CATALOG), 0, &Malformed::unsupported(0, "setting", needs))
        })?;
        for tag in ignored {
            let what = "or its value, is of a later version: the default is used, and the setting is kept";
            report.warnings.push(format!("topic {}: setting {tag}, {what}", entry.name));
        }
        configs.insert(entry.id, config);
    }
    Ok(configs)
}

/// The names in the directory of topics.
pub(super) fn list_topics(ctx: &Context) -> Result<BTreeSet<String>> {
    let dir = Path::new(names::TOPICS);
    let entries = match ctx.storage.list(dir) {
        // A copy made by a tool that leaves empty directories out may lack it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?,
    };
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}
