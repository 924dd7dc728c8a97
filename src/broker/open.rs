//! How is a directory opened? Looked at, locked, its catalog read, its partitions recovered, in
//! this order; nothing is changed before the lock is held and the format is known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;

use super::catalog::{self, identity, random_u64};
use super::checkpoint::CheckpointStore;
use super::groups::offsets_log;
use super::maintenance::{Maintenance, Threads};
use super::store::{CatalogFile, CatalogStore, damaged};
use super::{BrokerInner, TopicState};
use crate::config::{self, BrokerConfig, TopicConfig};
use crate::engine::{Context, malformed};
use crate::error::{Error, IoAction, Result};
use crate::format::catalog::{Change, Found, Topic, TopicEntry};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::manifest::Manifest;
use crate::format::names::{self, TopicDir};
use crate::format::reader::{Malformed, Unsupported};
use crate::group::Coordinator;
use crate::log::create::find_manifest;
use crate::log::journal::LogJournal;
use crate::log::recovery::Note;
use crate::log::{Log, LogSettings};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::storage::{OpenMode, Storage, replace_file, write_all_at};
use crate::sync::{Arc, AtomicBool, Mutex, Rank, RwLock, Weak};
use crate::transaction::journal::Journal;
use crate::transaction::recovery::{check_format as check_journal, settle};
use crate::types::{PartitionId, TopicId};

/// IMPORTANT: the order. Nothing is changed before everything is read that decides whether it may
/// be changed. Then names and bytes that were read, and that may be in the page cache only, are
/// made durable. Then the partitions are repaired. Files are removed last: in another order, after
/// a kill, files could be removed because of a manifest that a power loss can still take back.
pub(super) fn open(config: &BrokerConfig, storage: Arc<dyn Storage>) -> Result<Arc<BrokerInner>> {
    let seed = config.seed.unwrap_or_else(random_u64);
    let ctx = Arc::new(Context::new(storage, config, seed));
    let journal = Arc::new(Journal::new(ctx.clone()));
    let mut report = OpenReport::default();
    // Looked at first, so that nothing is left in a foreign directory; and again under the lock,
    // because another opener may have made a broker, used and closed it in between.
    look(&ctx, &mut OpenReport::default())?;
    let lock = take_lock(&ctx)?;
    let is_new = look(&ctx, &mut report)?;
    let Directory { catalog, manifests, mut configs, checkpoint, is_clean, proof } =
        if is_new { Directory::create(&ctx)? } else { Directory::read(&journal, &mut report)? };
    let catalog = Arc::new(catalog);
    let store = catalog.clone();
    ctx.tell_files(move |ctx, identity| {
        // A failure is repeated by the next opening; a broken catalog returns its error with the
        // next change.
        let _ = store.note_files(ctx, identity.topic_id, identity.partition.get());
    });
    if is_clean && !is_new {
        shut_gate(&ctx, &catalog, checkpoint.as_ref());
        // A copy made by a tool that leaves empty directories out lacks them: fine, if nothing else
        // is missing.
        make_missing_dirs(&ctx)?;
    }
    let topics =
        open_topics(config, &journal, &catalog, &mut configs, manifests, checkpoint.as_ref(), &mut report)?;
    if !is_new {
        settle_transactions(&journal, &topics, is_clean, &mut report)?;
    }
    begin_epochs(&ctx, &catalog, &topics, proof, checkpoint.as_ref(), &mut report)?;
    report.clean = is_clean && report.recovered.is_empty();
    let groups = Coordinator::new();
    if !report.clean {
        settle_groups(&ctx, &groups, &topics, &mut report);
    }
    let entries = topics
        .iter()
        .flat_map(|topic| topic.logs().iter().filter_map(|log| log.checkpoint()).collect::<Vec<_>>());
    let entries: Vec<_> = entries.collect();
    let noted = checkpoint.map(|checkpoint| Checkpoint { clean: false, ..checkpoint });
    let maintenance = Arc::new(Maintenance {
        ctx: ctx.clone(),
        topics: RwLock::new(Rank::Topics, topics),
        catalog: catalog.clone(),
        checkpoints: CheckpointStore::new(noted),
        groups,
        making_room: Mutex::new(Rank::MakingRoom, ()),
    });
    ctx.set_keeper(Arc::downgrade(&maintenance));
    if !ctx.gate.is_shut() {
        // Recovered bytes need not be read again if this run ends like the last one.
        let write = || maintenance.checkpoints.write(&ctx, false, catalog.place(), entries.clone());
        match ctx.with_room(write) {
            Err(error) if error.is_full() => ctx.reserve.note_full(),
            written => written?,
        }
    }
    remove_leftovers(&ctx, &catalog, &mut report);
    if !ctx.gate.is_shut() {
        ctx.restore_reserve();
    }
    if ctx.gate.syncs_no_dirs() {
        report.warnings.push(format!(
            "{}: this file system cannot sync directories: a power loss may take new files, or bring \
             removed ones back",
            ctx.display(Path::new("")).display()
        ));
    }
    report.disk = ctx.reserve.state();
    let broker = Arc::new(BrokerInner {
        durability: config.durability,
        journal,
        catalog,
        changing: Mutex::new(Rank::Changing, ()),
        is_seeded: config.seed.is_some(),
        maintenance: maintenance.clone(),
        producers: Mutex::new(Rank::ProducerHandles, HashMap::new()),
        random: Mutex::new(Rank::Random, SplitMix64::new(seed)),
        report,
        threads: Threads::none(),
        closed: AtomicBool::new(false),
        process: ctx.storage.run_identity().1,
        lock: Mutex::new(Rank::Directory, Some(lock)),
        ctx,
    });
    if broker.ctx.clock.is_manual() {
        let weak: Weak<BrokerInner> = Arc::downgrade(&broker);
        broker.ctx.clock.on_advance(Box::new(move || match weak.upgrade() {
            Some(broker) => {
                broker.run_due();
                true
            }
            None => false,
        }));
    } else {
        broker.threads.start(&maintenance);
    }
    Ok(broker)
}

/// A directory that has been read and may be worked on.
struct Directory {
    catalog: CatalogStore,
    manifests: Manifests,
    configs: HashMap<TopicId, TopicConfig>,
    checkpoint: Option<Checkpoint>,
    /// Nothing has been changed since the broker was closed properly, or made.
    is_clean: bool,
    proof: Proof,
}

impl Directory {
    /// Makes an empty broker. The catalog comes last: until it is there, the next opening starts
    /// over.
    fn create(ctx: &Context) -> Result<Self> {
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
    fn read(journal: &Journal, report: &mut OpenReport) -> Result<Self> {
        let ctx = &**journal.ctx();
        let mut found = CatalogStore::read(ctx)?;
        let (checkpoint, unused) = read_checkpoint(ctx, &found, report)?;
        let configs = read_configs(ctx, &found, report)?;
        let mut manifests = read_manifests(ctx, &found, checkpoint.as_ref())?;
        check_journal(journal)?;
        // IMPORTANT: nothing was changed before this, so that a release that cannot use the
        // directory leaves it alone.
        let is_clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        let number = found.number;
        if let Some(unused) = &unused {
            // No number is used twice, because a checkpoint identifies the catalog file that it
            // belongs to by it.
            found.number = found.number.max(unused.catalog_number);
            if unused.clean {
                let place = CatalogFile { number: found.number, bytes: found.end };
                ctx.with_room(|| CheckpointStore::new(None).write(ctx, false, place, Vec::new()))?;
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
    found: &Found,
    manifests: &Manifests,
    closed: Option<&Checkpoint>,
) -> Result<()> {
    let entries = closed.map_or(&[][..], |closed| &closed.entries);
    let known: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition)).collect();
    if closed.is_none() {
        make_missing_dirs(ctx)?;
        for dir in ["", names::TOPICS, names::TRASH] {
            sync_dir(ctx, Path::new(dir))?;
        }
    }
    for Topic { entry, .. } in found.catalog.live() {
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
fn make_missing_dirs(ctx: &Context) -> Result<()> {
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

fn sync_dir(ctx: &Context, dir: &Path) -> Result<()> {
    ctx.storage.sync_dir(dir).map_err(|e| Error::io(IoAction::Sync, &ctx.display(dir), e))
}

/// After a clean close: makes the first change remove the mark of the clean close durably, and note
/// this opening.
///
/// The crash argument: until that change is made the directory is as the close left it, so a crash
/// leaves a directory that was closed properly. The mark is durably removed before the change is
/// made. The note may be lost, by a crash between the two or because the catalog was in use: then
/// the next opening finds the boot identity of an earlier one, which proves an end only if that is
/// the same boot, in which case the page cache still has everything.
fn shut_gate(ctx: &Context, catalog: &Arc<CatalogStore>, checkpoint: Option<&Checkpoint>) {
    let Some(checkpoint) = checkpoint else { return };
    let unclean = Checkpoint { clean: false, ..checkpoint.clone() }.encode();
    let catalog = catalog.clone();
    ctx.gate.shut(move |medium| {
        take_back_mark(medium, &unclean)?;
        // Best effort: see above.
        let _ = catalog.write_pending(medium, false);
        Ok(())
    });
}

/// Replaces the checkpoint of a clean close by one with the same entries and without the mark. If
/// there is no room for another file it is overwritten: a crash then leaves either of them, or one
/// that fails its checksum and is ignored.
fn take_back_mark(medium: &dyn Storage, unclean: &[u8]) -> io::Result<()> {
    let path = Path::new(names::CHECKPOINT);
    match replace_file(medium, path, unclean) {
        Err(failed) if failed.is_full() => {
            let file = medium.open(path, OpenMode::Write)?;
            if file.len()? != unclean.len() as u64 {
                return Err(failed.error);
            }
            write_all_at(&*file, unclean, 0).map_err(|(_, e)| e)?;
            file.sync_data()
        }
        replaced => replaced.map_err(|failed| failed.error),
    }
}

/// Removes the leftovers of interrupted deletions: the files of topics that are being deleted, and
/// the trash. Files that cannot be removed are reported, and tried again by maintenance and by the
/// next opening. A directory that cannot be listed has no leftovers to report.
fn remove_leftovers(ctx: &Context, catalog: &CatalogStore, report: &mut OpenReport) {
    if let Err(error) = catalog::settle(ctx, catalog) {
        report.warnings.push(format!("a topic that was deleted has left files: {error}"));
    }
    let trash = Path::new(names::TRASH);
    for entry in ctx.storage.list(trash).unwrap_or_default() {
        let path = trash.join(&entry.name);
        if names::parse_trash(&entry.name).is_some() {
            if let Err(error) = catalog::remove_tree(ctx, &path) {
                report.warnings.push(format!("a topic that was deleted has left files: {error}"));
            }
        } else if !names::is_of_system(&entry.name) {
            report.warnings.push(left_alone(ctx, &path));
        }
    }
}

fn left_alone(ctx: &Context, path: &Path) -> String {
    format!("{} is not a file of the broker and was left alone", ctx.display(path).display())
}

/// Makes transactions whole that the last stop interrupted, and takes back those that never
/// happened.
fn settle_transactions(
    journal: &Journal,
    topics: &[Arc<TopicState>],
    is_clean: bool,
    report: &mut OpenReport,
) -> Result<()> {
    let logs: Vec<Arc<Log>> = topics.iter().flat_map(|topic| topic.logs().to_vec()).collect();
    let find = |id: &TopicId, partition: PartitionId| {
        let topic = topics.iter().find(|topic| topic.id == *id)?;
        topic.logs().get(partition.get() as usize).cloned()
    };
    settle(journal, &logs, find, is_clean, report)
}

/// Sets back commits beyond the records that the last stop took. If that fails now, groups return
/// the error.
fn settle_groups(ctx: &Context, groups: &Coordinator, topics: &[Arc<TopicState>], report: &mut OpenReport) {
    let logs = |id: &TopicId| topics.iter().find(|state| state.id == *id).map(|state| state.logs());
    let Some(log) = offsets_log(topics) else { return };
    let find = |id: &TopicId, partition: PartitionId| logs(id)?.get(partition.get() as usize).cloned();
    match groups.offsets().settle(ctx, log, find) {
        Ok(clamped) => report.clamped = clamped,
        Err(error) => report.warnings.push(format!("committed offsets cannot be used: {error}")),
    }
}

/// Why logs are known to end where they seem to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The broker was closed properly: those that the checkpoint has an entry of.
    Entries,
    /// Only the process died: all of them.
    SameBoot,
    /// None of them.
    Nothing,
}

/// Begins an epoch in every log of which no proof is left where it ended, with one change and one
/// sync however many there are, and notes this opening.
///
/// IMPORTANT: in one write, the epochs first. With the opening's boot identity the next opening
/// would take the ends for known.
fn begin_epochs(
    ctx: &Context,
    catalog: &Arc<CatalogStore>,
    topics: &[Arc<TopicState>],
    proof: Proof,
    checkpoint: Option<&Checkpoint>,
    report: &mut OpenReport,
) -> Result<()> {
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let listed: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition)).collect();
    let (mut begun, mut is_whole) = (Vec::new(), true);
    for topic in topics {
        for log in topic.logs().iter().filter(|log| log.has_files()) {
            let is_known = match proof {
                Proof::Entries => listed.contains(&(topic.id, log.partition())),
                Proof::SameBoot => true,
                Proof::Nothing => false,
            };
            if is_known {
                continue;
            }
            match log.begin_epoch_of_opening() {
                Some(epoch) => {
                    begun.push((topic.id, log.partition(), epoch));
                    report.unproven.push(log.unproven());
                }
                // It takes no appends now. When it does again its end is not known either.
                None => is_whole = false,
            }
        }
    }
    let opening = Change::Opening(catalog.this_opening(ctx, is_whole));
    if begun.is_empty() && ctx.gate.is_shut() {
        catalog.hold_back(opening);
        return Ok(());
    }
    // Not synced without an epoch: if it is lost, the machine was started again, and the opening
    // before had another boot identity.
    let must_last = !begun.is_empty();
    let changes: Vec<_> = must_last.then_some(Change::Epochs(begun)).into_iter().chain([opening]).collect();
    let noted = ctx.with_room(|| match must_last {
        true => catalog.commit(ctx, changes.clone()),
        false => catalog.note(ctx, changes.clone()),
    });
    match noted {
        // The broker can be read. Nothing can be changed before there is room for this.
        Err(error) if error.is_full() => {
            ctx.reserve.note_full();
            changes.into_iter().for_each(|change| catalog.hold_back(change));
            let catalog = catalog.clone();
            ctx.gate.shut(move |medium| catalog.write_pending(medium, must_last));
            Ok(())
        }
        noted => noted,
    }
}

/// Every manifest, read before anything is written.
#[derive(Default)]
struct Manifests {
    /// Of each partition of a topic; one of which nothing can be used has its error.
    found: HashMap<TopicId, Vec<Result<Option<Manifest>>>>,
    /// Partitions that have files, and that the catalog does not mark.
    unmarked: Vec<(TopicId, u32)>,
    /// The current epoch of each, as the manifest has it.
    epochs: Vec<(TopicId, PartitionId, u32)>,
    /// The names in the directory of topics.
    present: BTreeSet<String>,
}

/// Reads the manifest of every partition that has files. The epochs that only the catalog has are
/// added to them.
///
/// # Errors
/// `UnsupportedFormat`: then the broker is not opened, because nothing of a directory is changed
/// that a later release has changed; an I/O error of the directory of topics.
fn read_manifests(ctx: &Context, catalog: &Found, checkpoint: Option<&Checkpoint>) -> Result<Manifests> {
    let mut manifests = Manifests::default();
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let listed: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition.get())).collect();
    manifests.present = list_topics(ctx)?;
    for Topic { entry, with_files } in catalog.catalog.live() {
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
fn look(ctx: &Context, report: &mut OpenReport) -> Result<bool> {
    let root = Path::new("");
    let entries = ctx.storage.list(root).map_err(|e| Error::io(IoAction::List, &ctx.display(root), e))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let is_new = !has(names::CATALOG);
    if !is_new {
        ctx.reserve.found(has(names::RESERVE));
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

fn take_lock(ctx: &Context) -> Result<Box<dyn Send + Sync>> {
    let root = ctx.display(Path::new(""));
    ctx.storage.lock(Path::new(names::LOCK)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::AlreadyOpen { path: root },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::ReadOnly { path: root, source: Arc::new(e) }
        }
        _ => Error::unless_full(IoAction::Lock, &ctx.display(Path::new(names::LOCK)), e),
    })
}

/// Reads the checkpoint. One that belongs to another file of the catalog is ignored.
///
/// # Errors
/// `Corrupt` if the catalog has lost something since the broker was closed properly;
/// `UnsupportedFormat`.
fn read_checkpoint(
    ctx: &Context,
    found: &Found,
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
    found: &Found,
    report: &mut OpenReport,
) -> Result<HashMap<TopicId, TopicConfig>> {
    let mut configs = HashMap::new();
    for Topic { entry, .. } in found.catalog.live() {
        let (config, ignored) = config::read(entry.partitions, &entry.settings).map_err(|tag| {
            let needs = Unsupported::Setting(tag);
            malformed(ctx, Path::new(names::CATALOG), 0, &Malformed::unsupported(0, "setting", needs))
        })?;
        for tag in ignored {
            let what = "or its value, is of a later version: the default serves, and the setting is kept";
            report.warnings.push(format!("topic {}: setting {tag}, {what}", entry.name));
        }
        configs.insert(entry.id, config);
    }
    Ok(configs)
}

fn open_topics(
    config: &BrokerConfig,
    journal: &Arc<Journal>,
    catalog: &CatalogStore,
    configs: &mut HashMap<TopicId, TopicConfig>,
    mut manifests: Manifests,
    checkpoint: Option<&Checkpoint>,
    report: &mut OpenReport,
) -> Result<Vec<Arc<TopicState>>> {
    let ctx = journal.ctx();
    let clean = checkpoint.is_some_and(|checkpoint| checkpoint.clean);
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let notes: HashMap<(TopicId, PartitionId), &CheckpointEntry> =
        entries.iter().map(|entry| ((entry.topic_id, entry.partition), entry)).collect();
    for (id, partition) in manifests.unmarked {
        // If this fails the next opening finds them again.
        let _ = catalog.note_files(ctx, id, partition);
    }
    let present = manifests.present;
    let (listed, deleting): (Vec<Topic>, Vec<String>) = catalog.with(|catalog| {
        let dir = |topic: &Topic| names::encode_topic(&topic.entry.name, &topic.entry.id);
        (catalog.live().cloned().collect(), catalog.deleting().map(dir).collect())
    });
    let mut topics = Vec::with_capacity(listed.len());
    let mut dirs: HashSet<String> = deleting.into_iter().collect();
    for Topic { entry, .. } in &listed {
        let Some(config_of_topic) = configs.remove(&entry.id) else { continue };
        let dir = names::encode_topic(&entry.name, &entry.id);
        let is_there = present.contains(&dir);
        dirs.insert(dir);
        let found = manifests.found.remove(&entry.id).unwrap_or_default();
        topics.push(open_topic(config, journal, entry, config_of_topic, report, found, |partition| {
            notes.get(&(entry.id, partition)).map(|&entry| Note { entry, clean })
        }));
        if is_there {
            warn_of_foreign_partitions(ctx, entry, report);
        }
    }
    for name in present.iter().filter(|name| !dirs.contains(*name) && !names::is_of_system(name)) {
        let path = ctx.display(&Path::new(names::TOPICS).join(name));
        let whose = match names::parse_topic(name) {
            Some(TopicDir::Named(topic)) => format!(" (a topic {topic} would have its files there)"),
            Some(TopicDir::Identified(id)) => {
                format!(" (a topic with the id {id} would have its files there)")
            }
            None => String::new(),
        };
        report.warnings.push(format!("{} is not in the catalog{whose} and was left alone", path.display()));
    }
    // By name, as the catalog lists them.
    Ok(topics)
}

/// The names in the directory of topics.
fn list_topics(ctx: &Context) -> Result<BTreeSet<String>> {
    let dir = Path::new(names::TOPICS);
    let entries = match ctx.storage.list(dir) {
        // A copy made by a tool that leaves empty directories out may lack it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?,
    };
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// Opens a topic of which these manifests were found. `note` returns the checkpoint's entry of a
/// partition.
fn open_topic<'a>(
    broker: &BrokerConfig,
    journal: &Arc<Journal>,
    entry: &TopicEntry,
    config: TopicConfig,
    report: &mut OpenReport,
    found: Vec<Result<Option<Manifest>>>,
    note: impl Fn(PartitionId) -> Option<Note<'a>>,
) -> Arc<TopicState> {
    let settings = LogSettings::new(&config, broker.durability);
    let open = |(partition, found)| {
        let identity = identity(&entry.name, entry.id, partition);
        let dir = names::partition_dir(&entry.name, &entry.id, identity.partition);
        let note = note(identity.partition);
        Log::open(journal.clone(), identity, dir, settings, note, found, report)
    };
    let logs = (0..entry.partitions).zip(found).map(open).collect();
    Arc::new(TopicState::new(entry.id, entry.name.clone(), entry.created_at, config, logs))
}

/// Reports entries beside a topic's partitions that are not partitions.
fn warn_of_foreign_partitions(ctx: &Context, entry: &TopicEntry, report: &mut OpenReport) {
    let dir = names::topic_dir(&entry.name, &entry.id);
    for found in ctx.storage.list(&dir).unwrap_or_default() {
        let partition = names::parse_partition_dir(&found.name);
        if partition.is_none_or(|partition| partition.get() >= entry.partitions)
            && !names::is_of_system(&found.name)
        {
            let path = ctx.display(&dir.join(&found.name));
            report.warnings.push(format!("{} is not in the catalog and was left alone", path.display()));
        }
    }
}
