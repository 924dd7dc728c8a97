//! How is a directory opened? Looked at, locked, its catalog read, its partitions recovered, in
//! this order; nothing is changed before the lock is held and the format is known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;

use super::catalog::{self, identity, random_u64};
use super::checkpoint::CheckpointStore;
use super::groups::offsets_log;
use super::maintenance::{Threads, Upkeep};
use super::store::{CatalogStore, Place, damaged};
use super::{BrokerInner, TopicState};
use crate::config::{self, BrokerConfig, TopicConfig};
use crate::error::{Error, Result};
use crate::format::catalog::{Change, Found, Topic, TopicEntry};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::manifest::Manifest;
use crate::format::names::{self, TopicDir};
use crate::format::reader::{Malformed, Unsupported};
use crate::group::Coordinator;
use crate::log::create::find_manifest;
use crate::log::journal::{check_format as check_journal, settle};
use crate::log::recovery::Note;
use crate::log::{Context, Log, LogSettings, malformed};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::storage::Storage;
use crate::sync::{Arc, AtomicBool, Mutex, RwLock, Weak};
use crate::types::{PartitionId, TopicId};

pub(super) fn open(config: &BrokerConfig, storage: Arc<dyn Storage>) -> Result<Arc<BrokerInner>> {
    let seed = config.seed.unwrap_or_else(random_u64);
    let ctx = Arc::new(Context::new(storage, config, seed));
    let mut report = OpenReport::default();
    // Looked at first, so that nothing is left in a foreign directory; and again under the lock,
    // because another opener may have made a broker, used and closed it in between.
    look(&ctx, &mut OpenReport::default())?;
    let lock = take_lock(&ctx)?;
    let is_new = look(&ctx, &mut report)?;
    let mut manifests = Manifests::default();
    // Which logs are proven to end where they seem to.
    let mut proof = Proof::Nothing;
    let (catalog, checkpoint, mut configs) = if is_new {
        (create(&ctx)?, None, HashMap::new())
    } else {
        let mut found = CatalogStore::read(&ctx)?;
        let (checkpoint, unused) = read_checkpoint(&ctx, &found, &mut report)?;
        let configs = read_configs(&ctx, &found, &mut report)?;
        manifests = read_manifests(&ctx, &found, checkpoint.as_ref())?;
        check_journal(&ctx)?;
        // IMPORTANT: nothing was changed before this, so that a release that cannot use the
        // directory leaves it alone.
        let place = Place { number: found.number, bytes: found.end };
        let is_clean = take_back_clean(&ctx, checkpoint.as_ref(), unused.as_ref(), place)?;
        // No number comes twice: a checkpoint tells by it which file it was written beside.
        found.number = found.number.max(unused.map_or(0, |unused| unused.catalog_number));
        let last_boot = found.catalog.opening().map_or([0; 16], |last| last.boot);
        let is_same_boot = last_boot != [0; 16] && last_boot == ctx.storage.run_identity().0;
        proof = match (is_clean, is_same_boot) {
            (true, _) => Proof::Entries,
            (false, true) => Proof::SameBoot,
            (false, false) => Proof::Nothing,
        };
        if is_clean {
            // The manifests are on the medium: the epochs that they have need no second place.
            for (id, partition, epoch) in manifests.epochs.drain(..) {
                found.catalog.forget_epochs(id, partition, epoch);
            }
        }
        (CatalogStore::resume(&ctx, found, is_clean)?, checkpoint, configs)
    };
    let catalog = Arc::new(catalog);
    let store = catalog.clone();
    ctx.tell_files(move |ctx, identity| {
        // What cannot be noted now is noted by the next opening; whatever is wrong with the catalog
        // its next change says.
        let _ = store.note_files(ctx, identity.topic_id, identity.partition.get());
    });
    // In this order: what is being deleted goes to the trash, which a copy of the directory may
    // lack.
    empty_trash(&ctx, &mut report)?;
    catalog::settle(&ctx, &catalog)?;
    let topics =
        open_topics(config, &ctx, &catalog, &mut configs, manifests, checkpoint.as_ref(), &mut report)?;
    if !is_new {
        let is_clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        settle_transactions(&ctx, &topics, is_clean, &mut report)?;
    }
    begin_epochs(&ctx, &catalog, &topics, proof, checkpoint.as_ref())?;
    report.clean = is_new || (checkpoint.as_ref().is_some_and(|c| c.clean) && report.recovered.is_empty());
    let groups = Coordinator::new();
    if !report.clean {
        settle_groups(&ctx, &groups, &topics, &mut report);
    }
    let entries = topics
        .iter()
        .flat_map(|topic| topic.logs().iter().filter_map(|log| log.checkpoint()).collect::<Vec<_>>());
    let entries = entries.collect();
    let noted = checkpoint.map(|checkpoint| Checkpoint { clean: false, ..checkpoint });
    let upkeep = Arc::new(Upkeep {
        ctx: ctx.clone(),
        topics: RwLock::new(topics),
        catalog: catalog.clone(),
        checkpoints: CheckpointStore::new(noted),
        groups,
    });
    let broker = Arc::new(BrokerInner {
        durability: config.durability,
        catalog: catalog.clone(),
        changing: Mutex::new(()),
        is_seeded: config.seed.is_some(),
        upkeep: upkeep.clone(),
        producers: Mutex::new(HashMap::new()),
        random: Mutex::new(SplitMix64::new(seed)),
        report,
        threads: Threads::none(),
        closed: AtomicBool::new(false),
        lock: Mutex::new(Some(lock)),
        ctx,
    });
    // What was recovered need not be read again if this run ends like the last one.
    upkeep.checkpoints.write(&upkeep.ctx, false, catalog.place(), entries)?;
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
        broker.threads.start(&upkeep);
    }
    Ok(broker)
}

/// Makes transactions whole that the last stop interrupted, and takes back those that never
/// happened.
fn settle_transactions(
    ctx: &Arc<Context>,
    topics: &[Arc<TopicState>],
    is_clean: bool,
    report: &mut OpenReport,
) -> Result<()> {
    let logs: Vec<Arc<Log>> = topics.iter().flat_map(|topic| topic.logs().to_vec()).collect();
    let find = |id: &TopicId, partition: PartitionId| {
        let topic = topics.iter().find(|topic| topic.id == *id)?;
        topic.logs().get(partition.get() as usize).cloned()
    };
    settle(ctx, &logs, find, is_clean, report)
}

/// Has no commit speak of records that the last stop took. If that cannot be done now, groups
/// answer with the reason.
fn settle_groups(ctx: &Context, groups: &Coordinator, topics: &[Arc<TopicState>], report: &mut OpenReport) {
    let logs = |id: &TopicId| topics.iter().find(|state| state.id == *id).map(|state| state.logs());
    let Some(log) = offsets_log(topics) else { return };
    let find = |id: &TopicId, partition: PartitionId| logs(id)?.get(partition.get() as usize).cloned();
    match groups.offsets().settle(ctx, log, find) {
        Ok(clamped) => report.clamped = clamped,
        Err(error) => report.warnings.push(format!("what groups have committed cannot be used: {error}")),
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

/// Begins an epoch in every log of which no proof is left where it ended, with one change and one sync however many there are, and
/// notes this opening.
///
/// IMPORTANT: in one write, the epochs first. With the opening's boot identity the next opening would take the ends for known.
fn begin_epochs(
    ctx: &Context,
    catalog: &CatalogStore,
    topics: &[Arc<TopicState>],
    proof: Proof,
    checkpoint: Option<&Checkpoint>,
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
                Some(epoch) => begun.push((topic.id, log.partition(), epoch)),
                // It takes no appends now. When it does again its end is not known either.
                None => is_whole = false,
            }
        }
    }
    let opening = Change::Opening(catalog.this_opening(ctx, is_whole));
    if begun.is_empty() {
        // Not synced: if it is lost, the machine was started again, and the opening before had another boot identity.
        catalog.note(ctx, vec![opening])
    } else {
        catalog.commit(ctx, vec![Change::Epochs(begun), opening])
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
}

/// Reads the manifest of every partition that has files. The epochs that only the catalog has are added to them.
///
/// # Errors
/// `UnsupportedFormat`: then the broker is not opened, because nothing of a directory is changed that a later release has
/// changed; an I/O error of the directory of topics.
fn read_manifests(ctx: &Context, catalog: &Found, checkpoint: Option<&Checkpoint>) -> Result<Manifests> {
    let mut manifests = Manifests::default();
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let listed: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition.get())).collect();
    // A copy made by a tool that leaves empty directories out may lack it.
    let present = match ctx.storage.list(Path::new(names::TOPICS)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        _ => list_topics(ctx)?,
    };
    for Topic { entry, with_files } in catalog.catalog.live() {
        let is_there = present.contains(&names::encode_topic(&entry.name, &entry.id));
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

/// Looks at what is there, without touching it. Answers whether a broker has to be made.
fn look(ctx: &Context, report: &mut OpenReport) -> Result<bool> {
    let root = Path::new("");
    let entries = ctx.storage.list(root).map_err(|e| Error::io("list", &ctx.display(root), e))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let is_new = !has(names::CATALOG);
    for entry in &entries {
        if names::is_root_entry(&entry.name) || entry.name == "lost+found" {
            continue;
        }
        if is_new {
            return Err(Error::ForeignDirectory { path: ctx.display(root), found: entry.name.clone() });
        }
        report.warnings.push(format!(
            "{} is not ours and was left alone",
            ctx.display(Path::new(&entry.name)).display()
        ));
    }
    // The catalog is written when the directories are there, empty, and everything else comes after
    // it.
    let topics = Path::new(names::TOPICS);
    let has_topics = || has(names::TOPICS) && ctx.storage.list(topics).is_ok_and(|topics| !topics.is_empty());
    let was_used = [names::CATALOG_OLD, names::CHECKPOINT, names::JOURNAL].into_iter().any(has);
    if is_new && (was_used || has_topics()) {
        let what = "the catalog is missing, and there are topics, or there was a broker";
        return Err(damaged(ctx, &Malformed::new(0, what)));
    }
    Ok(is_new)
}

fn take_lock(ctx: &Context) -> Result<Box<dyn Send + Sync>> {
    let root = ctx.display(Path::new(""));
    ctx.storage.lock(Path::new(names::LOCK)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::AlreadyOpen { path: root },
        _ if crate::error::is_space(&e) => Error::DiskFull { path: root },
        _ => Error::io("lock", &ctx.display(Path::new(names::LOCK)), e),
    })
}

/// Makes an empty broker. The catalog comes last: until it is there, the next opening starts over.
fn create(ctx: &Context) -> Result<CatalogStore> {
    for dir in [names::TOPICS, names::TRASH] {
        ctx.storage.create_dir(Path::new(dir)).map_err(|e| Error::create(&ctx.display(Path::new(dir)), e))?;
    }
    // A catalog promises that the directories are there.
    let root = Path::new("");
    ctx.storage.sync_dir(root).map_err(|e| Error::io("sync", &ctx.display(root), e))?;
    CatalogStore::create(ctx)
}

/// Reads the checkpoint. One that was written beside another file of the catalog says nothing of
/// this one.
///
/// # Errors
/// `Corrupt` if the catalog has lost something since the broker was closed properly; `UnsupportedFormat`.
fn read_checkpoint(
    ctx: &Context,
    found: &Found,
    report: &mut OpenReport,
) -> Result<(Option<Checkpoint>, Option<Checkpoint>)> {
    let path = ctx.display(Path::new(names::CATALOG));
    let (mut checkpoint, warning) = CheckpointStore::read(ctx)?;
    report.warnings.extend(warning);
    // Between the replacement of the catalog and the next checkpoint a crash leaves a smaller
    // number in a checkpoint, which is good nevertheless. It is never one of a clean close.
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
        let what = "a change that was on the medium when the broker was closed";
        return Err(damaged(ctx, &Malformed::new(found.end, what)));
    }
    if found.torn > 0 {
        report.warnings.push(format!(
            "{}: {} bytes at {} were left of a change that was never completed; they were cut off",
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

/// Before anything else happens, durably takes back that all is clean, also where that was not believed. Returns whether it
/// is.
fn take_back_clean(
    ctx: &Context,
    checkpoint: Option<&Checkpoint>,
    unused: Option<&Checkpoint>,
    place: Place,
) -> Result<bool> {
    let is_clean = checkpoint.is_some_and(|checkpoint| checkpoint.clean);
    if is_clean || unused.is_some_and(|unused| unused.clean) {
        let entries = checkpoint.map_or(Vec::new(), |checkpoint| checkpoint.entries.clone());
        CheckpointStore::new(None).write(ctx, false, place, entries)?;
    }
    Ok(is_clean)
}

/// Removes what interrupted deletions left in the trash.
fn empty_trash(ctx: &Context, report: &mut OpenReport) -> Result<()> {
    let trash = Path::new(names::TRASH);
    // A copy made by a tool that leaves empty directories out lacks them: fine, if nothing else is
    // missing.
    for dir in [names::TOPICS, names::TRASH] {
        ctx.storage
            .create_dir(Path::new(dir))
            .map_err(|e| Error::io("create", &ctx.display(Path::new(dir)), e))?;
    }
    for entry in ctx.storage.list(trash).map_err(|e| Error::io("list", &ctx.display(trash), e))? {
        let path = trash.join(&entry.name);
        if names::parse_trash(&entry.name).is_some() {
            super::catalog::remove_tree(ctx, &path)?;
        } else {
            report.warnings.push(format!("{} is not ours and was left alone", ctx.display(&path).display()));
        }
    }
    Ok(())
}

fn open_topics(
    config: &BrokerConfig,
    ctx: &Arc<Context>,
    catalog: &CatalogStore,
    configs: &mut HashMap<TopicId, TopicConfig>,
    mut manifests: Manifests,
    checkpoint: Option<&Checkpoint>,
    report: &mut OpenReport,
) -> Result<Vec<Arc<TopicState>>> {
    let clean = checkpoint.is_some_and(|checkpoint| checkpoint.clean);
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let notes: HashMap<(TopicId, PartitionId), &CheckpointEntry> =
        entries.iter().map(|entry| ((entry.topic_id, entry.partition), entry)).collect();
    for (id, partition) in manifests.unmarked {
        // If this fails the next opening finds them again.
        let _ = catalog.note_files(ctx, id, partition);
    }
    // Again, because what was being deleted is in the trash now.
    let present = list_topics(ctx)?;
    let listed: Vec<Topic> = catalog.with(|catalog| catalog.live().cloned().collect());
    let mut topics = Vec::with_capacity(listed.len());
    let mut dirs = HashSet::with_capacity(listed.len());
    for Topic { entry, .. } in &listed {
        let Some(config_of_topic) = configs.remove(&entry.id) else { continue };
        let dir = names::encode_topic(&entry.name, &entry.id);
        let is_there = present.contains(&dir);
        dirs.insert(dir);
        let found = manifests.found.remove(&entry.id).unwrap_or_default();
        topics.push(open_topic(config, ctx, entry, config_of_topic, report, found, |partition| {
            notes.get(&(entry.id, partition)).map(|&entry| Note { entry, clean })
        }));
        if is_there {
            warn_of_foreign_partitions(ctx, entry, report);
        }
    }
    for name in present.iter().filter(|name| !dirs.contains(*name)) {
        let path = ctx.display(&Path::new(names::TOPICS).join(name));
        let whose = match names::parse_topic(name) {
            Some(TopicDir::Named(topic)) => format!("; a topic {topic} would have its files there"),
            Some(TopicDir::Identified(id)) => {
                format!("; a topic with the id {id} would have its files there")
            }
            None => String::new(),
        };
        report.warnings.push(format!("{} is not in the catalog and was left alone{whose}", path.display()));
    }
    // By name, as the catalog lists them.
    Ok(topics)
}

/// The names of what is in the directory of topics.
fn list_topics(ctx: &Context) -> Result<BTreeSet<String>> {
    let dir = Path::new(names::TOPICS);
    let entries = ctx.storage.list(dir).map_err(|e| Error::io("list", &ctx.display(dir), e))?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// Opens a topic, of which these manifests were found. `note` returns what the checkpoint knows of a partition.
fn open_topic<'a>(
    broker: &BrokerConfig,
    ctx: &Arc<Context>,
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
        Log::open(ctx, identity, dir, settings, note, found, report)
    };
    let logs = (0..entry.partitions).zip(found).map(open).collect();
    Arc::new(TopicState::new(entry.id, entry.name.clone(), entry.created_at, config, logs))
}

/// Names what lies beside a topic's partitions without being one.
fn warn_of_foreign_partitions(ctx: &Context, entry: &TopicEntry, report: &mut OpenReport) {
    let dir = names::topic_dir(&entry.name, &entry.id);
    for found in ctx.storage.list(&dir).unwrap_or_default() {
        let partition = names::parse_partition_dir(&found.name);
        if partition.is_none_or(|partition| partition.get() >= entry.partitions) {
            let path = ctx.display(&dir.join(&found.name));
            report.warnings.push(format!("{} is not in the catalog and was left alone", path.display()));
        }
    }
}
