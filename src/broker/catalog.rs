//! How do topics come and go? Through the catalog, whose replacement is each change's commit point.
//!
//! What takes several steps is announced first: a topic to be created is listed as `Creating` before its directory is
//! made, one to grow lists the partitions it intends, one to be deleted is listed as `Deleting` before its directory is
//! moved to the trash. A crash between leaves an announcement, and the next opening takes it back or finishes it.

use std::path::{Path, PathBuf};

use super::{BrokerInner, TopicState, check_config, topic_name};
use crate::config::TopicConfig;
use crate::error::{Error, Result, is_space};
use crate::format::catalog::{Catalog, TopicEntry, TopicState as EntryState};
use crate::format::names;
use crate::log::batch::Identity;
use crate::log::{Context, Log, LogSettings};
use crate::rng::SplitMix64;
use crate::stats::OpenReport;
use crate::storage::{Storage, replace_file};
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId, TopicName};

/// The catalog as it is on the medium, and the only way to change it.
pub(super) struct CatalogStore {
    current: Catalog,
    /// A replacement failed halfway: which catalog the next opening finds is open, so nothing more is changed.
    broken: Option<Error>,
}

impl CatalogStore {
    pub(super) fn new(current: Catalog) -> Self {
        CatalogStore { current, broken: None }
    }

    pub(super) fn current(&self) -> &Catalog {
        &self.current
    }

    /// # Errors
    /// That of the replacement after which it is unknown what the medium says.
    fn check(&self) -> Result<()> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Applies `change` and makes the result durable.
    ///
    /// # Errors
    /// What the medium says. Before the rename nothing has changed; from it on the store takes no more changes.
    pub(super) fn commit(&mut self, ctx: &Context, change: impl FnOnce(&mut Catalog)) -> Result<()> {
        self.check()?;
        let mut next = self.current.clone();
        change(&mut next);
        let path = Path::new(names::CATALOG);
        match replace_file(&*ctx.storage, path, &next.encode()) {
            Ok(()) => {
                self.current = next;
                Ok(())
            }
            Err(failed) => {
                let path = ctx.display(path);
                let error = match failed.error {
                    e if is_space(&e) => Error::DiskFull { path },
                    e => Error::io("replace", &path, e),
                };
                if failed.replaced {
                    self.broken = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    fn commit_entry(
        &mut self,
        ctx: &Context,
        id: TopicId,
        change: impl FnOnce(&mut TopicEntry),
    ) -> Result<()> {
        self.commit(ctx, |catalog| {
            if let Some(entry) = catalog.topics.iter_mut().find(|entry| entry.id == id) {
                change(entry);
            }
        })
    }

    fn forget(&mut self, ctx: &Context, id: TopicId) -> Result<()> {
        self.commit(ctx, |catalog| catalog.topics.retain(|entry| entry.id != id))
    }
}

impl BrokerInner {
    pub(crate) fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Arc<TopicState>> {
        let name = topic_name(name)?;
        check_config(&config)?;
        // Held throughout: creations, alterations and deletions are one after the other.
        let mut catalog = self.catalog.lock();
        self.check_open()?;
        if let Some(existing) = self
            .upkeep
            .topics
            .read()
            .iter()
            .find(|other| other.name.as_str().eq_ignore_ascii_case(name.as_str()))
        {
            return Err(Error::TopicExists { topic: existing.name.clone() });
        }
        let ctx = &*self.ctx;
        catalog.check()?;
        // What failed halfway under this name has to be out of the way: its announcement would take the new topic too.
        let leftover = |entry: &&TopicEntry| {
            entry.state != EntryState::Live && entry.name.as_str().eq_ignore_ascii_case(name.as_str())
        };
        while let Some(entry) = catalog.current().topics.iter().find(leftover).cloned() {
            discard(ctx, &entry.name, entry.id)?;
            catalog.forget(ctx, entry.id)?;
        }
        let id = self.topic_id(catalog.current().next_id);
        let created_at = ctx.clock.now();
        let entry = TopicEntry {
            id,
            name: name.clone(),
            state: EntryState::Creating,
            partitions: 0,
            intended_partitions: config.partitions,
            created_at,
            config: config.to_tags(),
        };
        catalog.commit(ctx, |catalog| {
            catalog.next_id += 1;
            catalog.topics.push(entry);
        })?;
        let created = self.create_partitions(&name, id, &config, 0..config.partitions).and_then(|logs| {
            catalog.commit_entry(ctx, id, |entry| {
                entry.state = EntryState::Live;
                entry.partitions = config.partitions;
            })?;
            Ok(logs)
        });
        let logs = match created {
            Ok(logs) => logs,
            Err(e) => {
                // Taken back as far as the medium allows; the next creation or opening does the rest. Not if the medium
                // may say already that the topic is there: then its files had better be.
                if catalog.check().is_ok() && discard(ctx, &name, id).is_ok() {
                    let _ = catalog.forget(ctx, id);
                }
                return Err(e);
            }
        };
        let state = Arc::new(TopicState::new(id, name, created_at, config, logs));
        let mut topics = self.upkeep.topics.write();
        let at = topics.partition_point(|other| other.name < state.name);
        topics.insert(at, state.clone());
        Ok(state)
    }

    pub(super) fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        check_config(&config)?;
        let mut catalog = self.catalog.lock();
        let state = self.topic_state(name)?;
        let had = state.log_count();
        if *state.config() == config {
            return Ok(());
        }
        let mismatch = |field| Err(Error::ConfigMismatch { topic: state.name.clone(), field });
        if config.streams != state.config().streams {
            return mismatch("streams");
        }
        // With another number of partitions keys would have other partitions, and a stream more than one.
        if config.partitions < had || (config.streams && config.partitions > had) {
            return mismatch("partitions");
        }
        let (ctx, id) = (&*self.ctx, state.id);
        let mut added = Vec::new();
        if config.partitions > had {
            catalog.commit_entry(ctx, id, |entry| entry.intended_partitions = config.partitions)?;
            added = self.create_partitions(&state.name, id, &config, had..config.partitions)?;
        }
        catalog.commit_entry(ctx, id, |entry| {
            entry.partitions = config.partitions;
            entry.intended_partitions = config.partitions;
            entry.config = config.to_tags();
        })?;
        let settings = LogSettings::new(&config, self.durability);
        for log in state.logs().iter() {
            log.set_settings(settings);
        }
        state.alter(config, added);
        Ok(())
    }

    pub(super) fn delete_topic(&self, name: &str) -> Result<()> {
        let mut catalog = self.catalog.lock();
        let state = self.topic_state(name)?;
        let ctx = &*self.ctx;
        catalog.commit_entry(ctx, state.id, |entry| entry.state = EntryState::Deleting)?;
        self.upkeep.topics.write().retain(|other| other.id != state.id);
        state.delete();
        discard(ctx, &state.name, state.id)?;
        catalog.forget(ctx, state.id)
    }

    /// Makes and opens the partitions that an announced entry intends. Durable on return.
    fn create_partitions(
        &self,
        name: &TopicName,
        id: TopicId,
        config: &TopicConfig,
        partitions: std::ops::Range<u32>,
    ) -> Result<Vec<Arc<Log>>> {
        make_partitions(&self.ctx, name, id, partitions.clone())?;
        let settings = LogSettings::new(config, self.durability);
        let mut report = OpenReport::default();
        let logs = partitions
            .map(|partition| {
                let identity = identity(name, id, partition);
                let dir = names::partition_dir(name, identity.partition);
                Log::open_new(&self.ctx, identity, dir, settings, &mut report)
            })
            .collect();
        match report.damaged.pop() {
            // The medium refused to show what has just been made.
            Some((_, _, error)) => Err(error),
            None => Ok(logs),
        }
    }

    /// A random identity. Under a fixed seed every opening would begin with the same numbers, so the catalog's counter,
    /// which is never given out twice, goes into it.
    fn topic_id(&self, next_id: u64) -> TopicId {
        let mut random = SplitMix64::new(self.ctx.seed ^ next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut id = [0; 16];
        for (half, bytes) in [random.next_u64(), random.next_u64()].into_iter().zip(id.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&half.to_le_bytes());
        }
        TopicId(id)
    }
}

pub(super) fn identity(name: &TopicName, topic_id: TopicId, partition: u32) -> Identity {
    Identity { topic: name.clone(), topic_id, partition: PartitionId::new(partition) }
}

/// Makes the directories of partitions that an announced entry intends. Durable on return.
fn make_partitions(
    ctx: &Context,
    name: &TopicName,
    id: TopicId,
    partitions: std::ops::Range<u32>,
) -> Result<()> {
    let dir = names::topic_dir(name);
    ctx.storage.create_dir(&dir).map_err(|e| Error::create(&ctx.display(&dir), e))?;
    for partition in partitions {
        Log::create(
            ctx,
            &identity(name, id, partition),
            &names::partition_dir(name, PartitionId::new(partition)),
        )?;
    }
    for dir in [dir.as_path(), Path::new(names::TOPICS)] {
        ctx.storage.sync_dir(dir).map_err(|e| Error::io("sync", &ctx.display(dir), e))?;
    }
    Ok(())
}

/// Takes back or finishes what a crash left announced, and empties the trash.
pub(super) fn settle(ctx: &Context, catalog: &mut CatalogStore) -> Result<()> {
    for entry in catalog.current().topics.clone() {
        match entry.state {
            EntryState::Live if entry.intended_partitions > entry.partitions => {
                for partition in entry.partitions..entry.intended_partitions {
                    remove_tree(ctx, &names::partition_dir(&entry.name, PartitionId::new(partition)))?;
                }
                catalog.commit_entry(ctx, entry.id, |entry| entry.intended_partitions = entry.partitions)?;
            }
            EntryState::Live => {}
            EntryState::Creating | EntryState::Deleting => {
                discard(ctx, &entry.name, entry.id)?;
                catalog.forget(ctx, entry.id)?;
            }
        }
    }
    Ok(())
}

/// Moves a topic's directory to the trash and removes it there. Fine if any of that has been done before.
fn discard(ctx: &Context, name: &TopicName, id: TopicId) -> Result<()> {
    let (dir, trash) = (names::topic_dir(name), names::trash_dir(&id));
    match ctx.storage.rename(&dir, &trash) {
        Ok(()) => {
            for dir in [names::TOPICS, names::TRASH] {
                ctx.storage
                    .sync_dir(Path::new(dir))
                    .map_err(|e| Error::io("sync", &ctx.display(Path::new(dir)), e))?;
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("move", &ctx.display(&dir), e)),
    }
    remove_tree(ctx, &trash)
}

/// Removes a directory and all below it. Fine if it is not there.
pub(super) fn remove_tree(ctx: &Context, dir: &Path) -> Result<()> {
    fn remove(storage: &dyn Storage, dir: &Path) -> std::result::Result<(), (PathBuf, std::io::Error)> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |e| (path, e)
        };
        let entries = match storage.list(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(at(dir))?,
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            if entry.is_dir {
                remove(storage, &path)?
            } else {
                storage.remove_file(&path).map_err(at(&path))?
            }
        }
        storage.remove_dir(dir).map_err(at(dir))
    }
    remove(&*ctx.storage, dir).map_err(|(path, e)| Error::io("remove", &ctx.display(&path), e))?;
    let parent = dir.parent().unwrap_or(Path::new(""));
    ctx.storage.sync_dir(parent).map_err(|e| Error::io("sync", &ctx.display(parent), e))
}
