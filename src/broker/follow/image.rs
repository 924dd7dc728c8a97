//! The broker whose topics and logs follow an owner: made without any, and then given those of the
//! catalog and the ends of the slots.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::broker::catalog::identity;
use crate::broker::checkpoint::CheckpointStore;
use crate::broker::inner::BrokerInner;
use crate::broker::maintenance::{Maintenance, Threads};
use crate::broker::producer_names::ProducerNames;
use crate::broker::store::CatalogStore;
use crate::broker::topic_state::TopicState;
use crate::broker::topics::Topics;
use crate::config::{BrokerConfig, TopicConfig};
use crate::engine::{Context, Identity, malformed};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, ReadCatalog, TopicEntry};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::format::owner::Slot;
use crate::format::reader::{Malformed, Unsupported};
use crate::format::settings;
use crate::group::Coordinator;
use crate::log::follow::{self, Hint};
use crate::log::{Log, LogSettings, manifest};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::sync::{Arc, AtomicBool, Mutex, Rank, RwLock};
use crate::transaction::journal::Journal;
use crate::types::{PartitionId, TopicId};

type Place = (TopicId, PartitionId);

/// The entries of a checkpoint.
pub(super) type Entries = HashMap<Place, CheckpointEntry>;

/// The slots of an owner, and how far they were followed.
#[derive(Default)]
pub(super) struct Slots {
    run: Option<u64>,
    catalog: Option<u64>,
    /// The newest ones.
    seen: HashMap<Place, Slot>,
    /// Those that the logs were followed to, with this owner.
    followed: HashMap<Place, Slot>,
    /// The partitions that could not be followed.
    failed: BTreeSet<Place>,
}

impl Slots {
    /// Another source begins.
    pub(super) fn forget(&mut self) {
        *self = Slots::default();
    }

    /// Notes the run of the owner. Returns whether it is another one: what was followed is not known
    /// to be a part of it.
    pub(super) fn begin(&mut self, run: u64) -> bool {
        let is_new = self.run != Some(run);
        if is_new {
            *self = Slots { run: Some(run), ..Slots::default() };
        }
        is_new
    }

    /// Returns whether the catalog has been changed so often that it must be read again.
    pub(super) fn has_other_catalog(&self, changes: u64) -> bool {
        self.catalog != Some(changes)
    }

    /// Notes that the catalog was read after so many changes.
    pub(super) fn note_catalog(&mut self, changes: u64) {
        self.catalog = Some(changes);
    }
}

/// Makes a broker without topics.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub(super) fn empty_broker(ctx: &Arc<Context>, config: &BrokerConfig) -> Result<Arc<BrokerInner>> {
    // A directory without a broker is refused. The topics are added later.
    let found = ReadCatalog { catalog: Catalog::empty(), ..CatalogStore::read(ctx)? };
    let catalog = Arc::new(CatalogStore::followed(found));
    let changing = Arc::new(Mutex::new(Rank::Changing, ()));
    let maintenance = Arc::new(Maintenance {
        ctx: ctx.clone(),
        topics: RwLock::new(Rank::Topics, Topics::default()),
        catalog: catalog.clone(),
        checkpoints: CheckpointStore::new(None),
        groups: Coordinator::new(),
        producers: ProducerNames::new(None::<Duration>),
        changing: changing.clone(),
        making_room: Mutex::new(Rank::MakingRoom, ()),
    });
    Ok(Arc::new(BrokerInner {
        ctx: ctx.clone(),
        journal: Arc::new(Journal::new(ctx.clone())),
        durability: config.durability,
        catalog,
        changing,
        is_seeded: config.seed.is_some(),
        maintenance,
        random: Mutex::new(Rank::Random, SplitMix64::new(ctx.settings.seed)),
        report: OpenReport::default(),
        threads: Threads::none(),
        closed: AtomicBool::new(false),
        process: ctx.storage.run_identity().1,
        lock: Mutex::new(Rank::Directory, None),
    }))
}

/// The entries of the checkpoint; none if it cannot be read.
pub(super) fn checkpoint_entries(ctx: &Context) -> Entries {
    let read = CheckpointStore::read(ctx).ok().and_then(|(checkpoint, _)| checkpoint);
    let entries = read.map(|checkpoint| checkpoint.entries).unwrap_or_default();
    entries.into_iter().map(|entry| ((entry.topic_id, entry.partition), entry)).collect()
}

/// Reads the catalog again: adds, alters and removes topics.
///
/// # Errors
/// It cannot be read, or a topic needs a later release.
pub(super) fn follow_catalog(broker: &Arc<BrokerInner>, slots: &mut Slots) -> Result<()> {
    let ctx = &*broker.ctx;
    let found = CatalogStore::read(ctx)?;
    let mut live = Vec::new();
    let ids: HashSet<_> = found.catalog.live().map(|topic| topic.entry.id).collect();
    for topic in found.catalog.live() {
        live.push((topic.entry.clone(), config_of(ctx, &topic.entry)?));
    }
    broker.catalog.follow(found);
    let before = broker.maintenance.topics.read().to_vec();
    for state in before.iter().filter(|state| !ids.contains(&state.id)) {
        broker.maintenance.topics.write().remove(state);
        slots.seen.retain(|(id, _), _| *id != state.id);
        slots.followed.retain(|(id, _), _| *id != state.id);
        state.delete();
    }
    for (entry, config) in live {
        let known = broker.maintenance.topics.read().by_id(&entry.id).cloned();
        match known {
            Some(state) => alter(broker, &state, &entry, config),
            None => {
                let settings = LogSettings::new(config, broker.durability);
                let logs = new_logs(broker, &entry, &settings, 0..entry.partitions);
                let state = TopicState::new(entry.id, entry.name.clone(), entry.created_at, settings, logs);
                let state = Arc::new(state.with_earlier(&entry.earlier_partitions));
                broker.maintenance.topics.write().insert(state);
            }
        }
    }
    Ok(())
}

fn config_of(ctx: &Context, entry: &TopicEntry) -> Result<TopicConfig> {
    let config = settings::to_config(entry.partitions, &entry.settings);
    let (config, _) = config.map_err(|tag| {
        let needs = Unsupported::Setting(tag);
        malformed(ctx, names::CATALOG.as_ref(), 0, &Malformed::unsupported(0, "setting", needs))
    })?;
    Ok(config)
}

/// Gives a topic its present settings and partitions.
fn alter(broker: &Arc<BrokerInner>, state: &Arc<TopicState>, entry: &TopicEntry, config: TopicConfig) {
    if **state.settings() == config {
        return;
    }
    let settings = LogSettings::new(config, broker.durability);
    let added = new_logs(broker, entry, &settings, state.log_count()..entry.partitions);
    for log in state.logs().iter() {
        log.set_settings(&settings);
    }
    state.alter(settings, added, &broker.ctx.readers);
}

fn new_logs(
    broker: &BrokerInner,
    entry: &TopicEntry,
    settings: &Arc<LogSettings>,
    partitions: std::ops::Range<u32>,
) -> Vec<Arc<Log>> {
    let open = |partition| {
        let identity = identity(&entry.name, entry.id, partition);
        let dir = names::partition_dir(&entry.name, &entry.id, identity.partition);
        follow::open(broker.journal.clone(), identity, dir, settings.clone())
    };
    partitions.map(open).collect()
}

/// Follows slots that have changed, and those that could not be followed before. Returns whether a
/// log has changed.
///
/// # Errors
/// The catalog cannot be read. A partition that cannot be followed returns its errors itself.
pub(super) fn follow_slots(
    broker: &Arc<BrokerInner>,
    slots: &mut Slots,
    entries: &Entries,
    changed: Vec<Slot>,
) -> Result<bool> {
    let mut places = std::mem::take(&mut slots.failed);
    for slot in changed {
        let place = (slot.topic_id, slot.partition);
        slots.seen.insert(place, slot);
        places.insert(place);
    }
    if places.iter().any(|place| broker.maintenance.topics.read().log(&place.0, place.1).is_none()) {
        // The slot was written after the catalog was read.
        follow_catalog(broker, slots)?;
    }
    let mut any = false;
    for place in places {
        let followed = follow_slot(broker, slots, entries, place, false);
        // The owner may have replaced something in between.
        match followed.or_else(|_| follow_slot(broker, slots, entries, place, true)) {
            Ok(changed) => any |= changed,
            Err(_) => drop(slots.failed.insert(place)),
        }
    }
    Ok(any)
}

/// Reads the manifest of a partition again, whatever its slot says. If that fails, it is tried
/// again later.
pub(super) fn reload(broker: &Arc<BrokerInner>, slots: &mut Slots, entries: &Entries, of: &Identity) {
    let _ = follow_slot(broker, slots, entries, (of.topic_id, of.partition), true);
}

/// Follows the log of a partition to its newest slot.
fn follow_slot(
    broker: &Arc<BrokerInner>,
    slots: &mut Slots,
    entries: &Entries,
    place: Place,
    must_reload: bool,
) -> Result<bool> {
    let Some(slot) = slots.seen.get(&place).copied() else { return Ok(false) };
    // It was deleted.
    let Some(log) = broker.maintenance.topics.read().log(&place.0, place.1) else { return Ok(false) };
    let entry = entries.get(&place);
    let mut last = slots.followed.get(&place).copied();
    if must_reload {
        // The same history, and anything else may have changed.
        last = last.map(|last| Slot { revision: last.revision.wrapping_sub(1), ..last });
    }
    let followed = follow::follow(&log, &slot, Hint { entry, last: last.as_ref() }, || {
        read_manifest(broker, &log, &slot)
    });
    match followed {
        Ok(changed) => {
            slots.followed.insert(place, slot);
            Ok(changed)
        }
        Err(error) => {
            slots.followed.remove(&place);
            if log.visible_end() == log.log_start() && matches!(error, Error::Corrupt(_)) {
                // Nothing of it was shown yet: readers get the reason.
                log.health().follow(Some(error.clone()));
            }
            Err(error)
        }
    }
}

/// Reads the manifest of a log, with the epochs that only the catalog has.
fn read_manifest(broker: &Arc<BrokerInner>, log: &Log, slot: &Slot) -> Result<Manifest> {
    let (ctx, identity) = (&*broker.ctx, log.identity());
    let mut found = manifest::read(ctx, identity, log.manifest().dir())?;
    let adopt = |found: &mut Manifest| {
        broker.catalog.with(|catalog| {
            let epochs = catalog.epochs(&identity.topic_id, identity.partition);
            epochs.iter().for_each(|epoch| found.adopt_epoch(*epoch));
        });
    };
    adopt(&mut found);
    if found.epoch() < slot.epoch {
        // An opening has begun one since the catalog was read.
        broker.catalog.follow(CatalogStore::read(ctx)?);
        adopt(&mut found);
    }
    Ok(found)
}
