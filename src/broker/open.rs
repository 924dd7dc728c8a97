//! How is a directory opened? Looked at, locked, its catalog read, its partitions recovered, in this order; nothing is
//! changed before the lock is held and the format is known.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::catalog::{self, CatalogStore, identity};
use super::checkpoint::CheckpointStore;
use super::groups::offsets_log;
use super::maintenance::{Threads, Upkeep};
use super::{BrokerInner, TopicState};
use crate::config::{BrokerConfig, TopicConfig};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, TopicEntry};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::names;
use crate::group::Coordinator;
use crate::log::journal::settle;
use crate::log::recovery::Note;
use crate::log::{Context, Log, LogSettings, malformed};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::storage::{Storage, read_file};
use crate::sync::{Arc, AtomicBool, Mutex, RwLock, Weak};
use crate::types::{PartitionId, TopicId};

pub(super) fn open(config: &BrokerConfig, storage: Arc<dyn Storage>) -> Result<Arc<BrokerInner>> {
    let seed = config.seed.unwrap_or_else(random_seed);
    let ctx = Arc::new(Context::new(storage, config, seed));
    let mut report = OpenReport::default();
    // Looked at first, so that nothing is left in a foreign directory; and again under the lock, since somebody may have
    // made a broker, used and closed it in between.
    look(&ctx, &mut OpenReport::default())?;
    let lock = take_lock(&ctx)?;
    let is_new = look(&ctx, &mut report)?;
    let mut catalog = if is_new { create(&ctx)? } else { read_catalog(&ctx)? };
    let checkpoint = take_checkpoint(&ctx, &mut report)?;
    catalog::settle(&ctx, &mut catalog)?;
    empty_trash(&ctx, &mut report)?;
    let topics = open_topics(config, &ctx, catalog.current(), checkpoint.as_ref(), is_new, &mut report);
    if !is_new {
        let is_clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        settle_transactions(&ctx, &topics, is_clean, &mut report)?;
    }
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
        checkpoints: CheckpointStore::new(noted),
        groups,
    });
    let broker = Arc::new(BrokerInner {
        durability: config.durability,
        catalog: Mutex::new(catalog),
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
    upkeep.checkpoints.write(&upkeep.ctx, false, entries)?;
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

/// Makes transactions whole that the last stop interrupted, and takes back those that never happened.
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

/// Has no commit speak of records that the last stop took. If that cannot be done now, groups answer with the reason.
fn settle_groups(ctx: &Context, groups: &Coordinator, topics: &[Arc<TopicState>], report: &mut OpenReport) {
    let logs = |id: &TopicId| topics.iter().find(|state| state.id == *id).map(|state| state.logs());
    let Some(log) = offsets_log(topics) else { return };
    let find = |id: &TopicId, partition: PartitionId| logs(id)?.get(partition.get() as usize).cloned();
    match groups.offsets().settle(ctx, log, find) {
        Ok(clamped) => report.clamped = clamped,
        Err(error) => report.warnings.push(format!("what groups have committed cannot be used: {error}")),
    }
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
    // The catalog is written when the directories stand, empty: topics without a catalog mean that it was lost.
    let topics = Path::new(names::TOPICS);
    if is_new && has(names::TOPICS) && ctx.storage.list(topics).is_ok_and(|topics| !topics.is_empty()) {
        let path = ctx.display(Path::new(names::CATALOG));
        return Err(Error::corrupt(&path, 0, "the catalog is missing and there are topics"));
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
    let mut catalog = CatalogStore::new(Catalog { next_id: 1, topics: Vec::new(), producers: Vec::new() });
    catalog.commit(ctx, |_| {})?;
    Ok(catalog)
}

fn read_catalog(ctx: &Context) -> Result<CatalogStore> {
    const LIMIT: u64 = 1 << 30;
    let path = Path::new(names::CATALOG);
    let bytes =
        read_file(&*ctx.storage, path, LIMIT).map_err(|e| Error::io("read", &ctx.display(path), e))?;
    let catalog = Catalog::decode(&bytes).map_err(|m| malformed(ctx, path, 0, &m))?;
    Ok(CatalogStore::new(catalog))
}

/// Reads the checkpoint and, before anything else happens, durably takes its word back that all is clean.
fn take_checkpoint(ctx: &Context, report: &mut OpenReport) -> Result<Option<Checkpoint>> {
    let (checkpoint, warning) = CheckpointStore::read(ctx);
    report.warnings.extend(warning);
    if let Some(checkpoint) = checkpoint.as_ref().filter(|checkpoint| checkpoint.clean) {
        CheckpointStore::new(None).write(ctx, false, checkpoint.entries.clone())?;
    }
    Ok(checkpoint)
}

/// Removes what interrupted deletions left in the trash.
fn empty_trash(ctx: &Context, report: &mut OpenReport) -> Result<()> {
    let trash = Path::new(names::TRASH);
    // A copy made by a tool that leaves empty directories out lacks them: fine, if nothing else is missing.
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
    catalog: &Catalog,
    checkpoint: Option<&Checkpoint>,
    is_new: bool,
    report: &mut OpenReport,
) -> Vec<Arc<TopicState>> {
    let clean = checkpoint.is_some_and(|checkpoint| checkpoint.clean);
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let notes: HashMap<(TopicId, PartitionId), &CheckpointEntry> =
        entries.iter().map(|entry| ((entry.topic_id, entry.partition), entry)).collect();
    let mut topics: Vec<_> = catalog
        .topics
        .iter()
        .map(|entry| {
            open_topic(config, ctx, entry, report, |partition| {
                notes.get(&(entry.id, partition)).map(|&entry| Note { entry, clean })
            })
        })
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    if !is_new {
        warn_of_foreign_topics(ctx, &topics, report);
    }
    topics
}

fn open_topic<'a>(
    broker: &BrokerConfig,
    ctx: &Arc<Context>,
    entry: &TopicEntry,
    report: &mut OpenReport,
    note: impl Fn(PartitionId) -> Option<Note<'a>>,
) -> Arc<TopicState> {
    // The catalog passed its checksum, so settings that do not parse are those of a later version: its defaults serve.
    let config = TopicConfig::from_tags(entry.partitions, &entry.config).unwrap_or_else(|| {
        report
            .warnings
            .push(format!("topic {}: settings of a later version were left to their defaults", entry.name));
        TopicConfig::new().partitions(entry.partitions)
    });
    let settings = LogSettings::new(&config, broker.durability);
    let logs = (0..entry.partitions)
        .map(|partition| {
            let identity = identity(&entry.name, entry.id, partition);
            let (id, dir) = (identity.partition, names::partition_dir(&entry.name, identity.partition));
            Log::open(ctx, identity, dir, settings, note(id), report)
        })
        .collect();
    Arc::new(TopicState::new(entry.id, entry.name.clone(), entry.created_at, config, logs))
}

/// Names what lies beside the topics and beside their partitions without being in the catalog.
fn warn_of_foreign_topics(ctx: &Context, topics: &[Arc<TopicState>], report: &mut OpenReport) {
    let mut warn = |dir: &Path, ours: &dyn Fn(&str) -> bool| {
        for entry in ctx.storage.list(dir).unwrap_or_default() {
            if !ours(&entry.name) {
                let path = ctx.display(&dir.join(&entry.name));
                report.warnings.push(format!("{} is not in the catalog and was left alone", path.display()));
            }
        }
    };
    let is_topic = |name: &str| topics.binary_search_by(|topic| topic.name.as_str().cmp(name)).is_ok();
    warn(Path::new(names::TOPICS), &is_topic);
    for topic in topics {
        let is_partition = |name: &str| {
            names::parse_partition_dir(name).is_some_and(|partition| partition.get() < topic.log_count())
        };
        warn(&names::topic_dir(&topic.name), &is_partition);
    }
}

/// A number from the operating system's randomness, by way of the standard library's hasher keys.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
