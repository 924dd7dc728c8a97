//! How is a directory opened? Looked at, locked, its catalog read, its partitions recovered, in
//! this order; nothing is changed before the lock is held and the format is known.

mod directory;
mod topics;

use std::io;
use std::path::Path;
use std::time::Duration;

use self::directory::{Directory, left_alone, look, make_missing_dirs, take_lock};
use self::topics::{begin_epochs, open_topics};
use super::catalog::random_u64;
use super::checkpoint::CheckpointStore;
use super::maintenance::{Maintenance, Threads};
use super::producer_names::ProducerNames;
use super::store::CatalogStore;
use super::topics::Topics;
use super::{BrokerInner, trash};
use crate::config::BrokerConfig;
use crate::engine::{Context, Published};
use crate::error::Result;
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::names::{self};
use crate::group::Coordinator;
use crate::log::{Log, durability, maintenance};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::storage::{OpenMode, Storage, replace_file, write_all_at};
use crate::sync::{Arc, AtomicBool, Mutex, Rank, RwLock, Weak};
use crate::transaction::journal::Journal;
use crate::transaction::recovery::settle;
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
    ctx.set_on_files(move |ctx, identity| {
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
    let topics = open_topics(
        config,
        &journal,
        &catalog,
        &mut configs,
        manifests,
        (checkpoint.as_ref(), proof),
        &mut report,
    )?;
    let topics = Topics::new(topics);
    if !is_new {
        settle_transactions(&journal, &topics, is_clean, &mut report)?;
    }
    begin_epochs(&ctx, &catalog, topics.iter(), proof, checkpoint.as_ref(), &mut report)?;
    report.clean = is_clean && report.recovered.is_empty();
    let groups = Coordinator::new();
    if !report.clean {
        settle_groups(&ctx, &groups, &topics, &mut report);
    }
    let maintenance =
        start_maintenance(&ctx, &catalog, groups, topics, config.producer_expiration, checkpoint)?;
    remove_leftovers(&ctx, &catalog, &mut report);
    report_disk(&ctx, &mut report);
    let broker = Arc::new(BrokerInner {
        durability: config.durability,
        journal,
        catalog,
        changing: maintenance.changing.clone(),
        is_seeded: config.seed.is_some(),
        maintenance,
        random: Mutex::new(Rank::Random, SplitMix64::new(seed)),
        report,
        threads: Threads::none(),
        closed: AtomicBool::new(false),
        process: ctx.storage.run_identity().1,
        lock: Mutex::new(Rank::Directory, Some(lock)),
        ctx,
    });
    let logs = broker.all_logs();
    let published = logs.iter().map(|log| -> Weak<dyn Published> { Arc::downgrade(log) as _ });
    broker.ctx.publisher().ready(published.collect(), broker.ctx.gate.is_shut());
    logs.iter().for_each(durability::sync_inherited);
    run_background_work(&broker)?;
    Ok(broker)
}

/// Takes the lock of a directory that another broker is copied into.
///
/// # Errors
/// As those of opening it.
pub(super) fn lock(ctx: &Context) -> Result<Box<dyn Send + Sync>> {
    take_lock(ctx)
}

/// As [`open`], on a storage that keeps changes in memory. `config` must have a manual clock, so that
/// nothing else is done.
pub(super) fn open_in_memory(config: &BrokerConfig, storage: Arc<dyn Storage>) -> Result<Arc<BrokerInner>> {
    debug_assert!(config.clock.is_manual(), "no thread is to change anything");
    open(config, storage)
}

/// Makes the part of the broker that the background threads use, and writes the first checkpoint.
fn start_maintenance(
    ctx: &Arc<Context>,
    catalog: &Arc<CatalogStore>,
    groups: Coordinator,
    topics: Topics,
    producer_expiration: Option<Duration>,
    checkpoint: Option<Checkpoint>,
) -> Result<Arc<Maintenance>> {
    let entries = topics.iter().flat_map(|topic| {
        topic.logs().iter().filter_map(|log| maintenance::checkpoint(log)).collect::<Vec<_>>()
    });
    let entries: Vec<_> = entries.collect();
    let noted = checkpoint.map(|checkpoint| Checkpoint { clean: false, ..checkpoint });
    let maintenance = Arc::new(Maintenance {
        ctx: ctx.clone(),
        topics: RwLock::new(Rank::Topics, topics),
        catalog: catalog.clone(),
        checkpoints: CheckpointStore::new(noted),
        groups,
        producers: ProducerNames::new(producer_expiration),
        changing: Arc::new(Mutex::new(Rank::Changing, ())),
        making_room: Mutex::new(Rank::MakingRoom, ()),
    });
    ctx.room.set_keeper(Arc::downgrade(&maintenance));
    write_first_checkpoint(&maintenance, catalog, entries)?;
    Ok(maintenance)
}

/// Writes the reserve again where it is missing, and reports the room and the abilities of the
/// disk.
fn report_disk(ctx: &Context, report: &mut OpenReport) {
    if !ctx.gate.is_shut() {
        ctx.reserve.restore();
    }
    if ctx.gate.syncs_no_dirs() {
        report.warnings.push(format!(
            "{}: this file system cannot sync directories: a power loss may take new files, or bring \
             removed ones back",
            ctx.display(Path::new("")).display()
        ));
    }
    report.disk = ctx.reserve.state();
}

/// Starts the threads; under a manual clock, runs due work whenever the clock is moved.
///
/// # Errors
/// The system refuses a thread.
fn run_background_work(broker: &Arc<BrokerInner>) -> Result<()> {
    if broker.ctx.clock.is_manual() {
        run_when_advanced(broker);
        Ok(())
    } else {
        broker.threads.start(&broker.maintenance)
    }
}

/// Runs due work whenever the manual clock of a broker is moved, as long as the broker lives.
pub(super) fn run_when_advanced(broker: &Arc<BrokerInner>) {
    let weak: Weak<BrokerInner> = Arc::downgrade(broker);
    broker.ctx.clock.on_advance(Box::new(move || match weak.upgrade() {
        Some(broker) => {
            broker.run_due();
            true
        }
        None => false,
    }));
}

/// Recovered bytes need not be read again if this run ends like the last one.
fn write_first_checkpoint(
    maintenance: &Maintenance,
    catalog: &CatalogStore,
    entries: Vec<CheckpointEntry>,
) -> Result<()> {
    let ctx = &maintenance.ctx;
    if ctx.gate.is_shut() {
        return Ok(());
    }
    let write = || maintenance.checkpoints.write(ctx, false, catalog.place(), entries.clone());
    match ctx.reserve.with_room(write) {
        Err(error) if error.is_full() => {
            ctx.reserve.note_full();
            Ok(())
        }
        written => written,
    }
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
    let publisher = ctx.publisher().clone();
    ctx.gate.shut(move |medium| {
        // Before the mark is taken back: see `engine::publish`.
        publisher.begin();
        // An opening after a close syncs nothing, so the name of the directory may not be durable.
        medium.sync_root()?;
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
    if let Err(error) = trash::settle(ctx, catalog) {
        report.warnings.push(format!("a topic that was deleted has left files: {error}"));
    }
    let trash = Path::new(names::TRASH);
    for entry in ctx.storage.list(trash).unwrap_or_default() {
        let path = trash.join(&entry.name);
        if names::parse_trash(&entry.name).is_some() {
            if let Err(error) = trash::remove_tree(ctx, &path) {
                report.warnings.push(format!("a topic that was deleted has left files: {error}"));
            }
        } else if !names::is_of_system(&entry.name) {
            report.warnings.push(left_alone(ctx, &path));
        }
    }
}

/// Makes transactions whole that the last stop interrupted, and takes back those that never
/// happened.
fn settle_transactions(
    journal: &Journal,
    topics: &Topics,
    is_clean: bool,
    report: &mut OpenReport,
) -> Result<()> {
    let logs: Vec<Arc<Log>> = topics.iter().flat_map(|topic| topic.logs().to_vec()).collect();
    let find = |id: &TopicId, partition: PartitionId| topics.log(id, partition);
    settle(journal, &logs, find, is_clean, report)
}

/// Sets back commits beyond the records that the last stop took. If that fails now, groups return
/// the error.
fn settle_groups(ctx: &Context, groups: &Coordinator, topics: &Topics, report: &mut OpenReport) {
    let Some(log) = topics.offsets_log() else { return };
    let find = |id: &TopicId, partition: PartitionId| topics.log(id, partition);
    match groups.offsets().settle(ctx, log, find) {
        Ok(clamped) => report.clamped = clamped,
        Err(error) => report.warnings.push(format!("committed offsets cannot be used: {error}")),
    }
}
