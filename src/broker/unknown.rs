//! Files that the catalog does not know. They are left alone, until a caller adopts them as a
//! topic, or removes them.
//!
//! Such files exist after an older catalog was put back, or copied before a topic was made.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::catalog::{identity, live_entry};
use super::trash::remove_tree;
use super::{BrokerInner, TopicState, check_config, topic_name};
use crate::config::TopicConfig;
use crate::engine::{Later, corrupt};
use crate::error::{Error, IoAction, Result};
use crate::format::catalog::Change;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::log::recovery::Note;
use crate::log::{Log, LogSettings, manifest, open};
use crate::stats::OpenReport;
use crate::sync::Arc;
use crate::types::{PartitionId, TopicId, TopicName};

impl BrokerInner {
    /// Makes a topic of the files that are in the place of one of this name.
    pub(super) fn adopt_topic(&self, name: &str, config: TopicConfig) -> Result<Arc<TopicState>> {
        let name = topic_name(name)?;
        check_config(&config)?;
        self.check_open()?;
        let _later = Later::new();
        let _changing = self.changing.lock();
        self.check_open()?;
        let (ctx, dir) = (&*self.ctx, self.unknown_dir(&name)?);
        let found = self.manifests_in(&dir)?;
        let Some(id) = found.first().map(|(_, manifest)| manifest.topic_id) else {
            return Err(Error::UnknownTopic { topic: name.to_string() });
        };
        if let Some((partition, _)) = found.iter().find(|(_, manifest)| manifest.topic_id != id) {
            let path = names::partition_dir(&name, &id, *partition).join(names::MANIFEST);
            return Err(corrupt(ctx, &path, 0, "the manifest is of another topic than those beside it"));
        }
        if self.catalog.with(|catalog| catalog.topic(&id).is_some()) {
            return Err(Error::TopicExists { topic: name });
        }
        let found_partitions =
            found.iter().map(|(partition, _)| partition.get()).max().map_or(0, |last| last + 1);
        if found_partitions > config.partitions {
            let (found, asked) = (found_partitions.to_string(), config.partitions.to_string());
            return Err(Error::ConfigMismatch { topic: name, field: "partitions", found, asked });
        }
        // IMPORTANT: sync the directories before the catalog refers to them.
        for dir in std::iter::once(Path::new(names::TOPICS).to_path_buf())
            .chain([dir.clone()])
            .chain(found.iter().map(|(partition, _)| names::partition_dir(&name, &id, *partition)))
        {
            ctx.storage.sync_dir(&dir).map_err(|e| Error::io(IoAction::Sync, &ctx.display(&dir), e))?;
        }
        let created_at = ctx.clock.now();
        let entry = live_entry(&name, id, created_at, &config);
        let next_id = self.catalog.with(|catalog| catalog.next_id());
        let with_files = found.iter().map(|(partition, _)| partition.get()).collect();
        let changes =
            vec![Change::Ids(next_id + 1), Change::Topic(entry), Change::Partitions(id, with_files)];
        self.catalog.commit(ctx, changes)?;
        let settings = LogSettings::new(config, self.durability);
        let logs = self.open_found(&name, id, &settings, found)?;
        let state = Arc::new(TopicState::new(id, name, created_at, settings, logs));
        self.add_topic(&state);
        Ok(state)
    }

    /// Removes the files that are in the place of a topic of this name.
    pub(super) fn remove_unknown(&self, name: &str) -> Result<()> {
        let name = topic_name(name)?;
        self.check_open()?;
        let _changing = self.changing.lock();
        self.check_open()?;
        let dir = self.unknown_dir(&name)?;
        remove_tree(&self.ctx, &dir)
    }

    /// The directory of a topic of this name, which must be there and belong to no topic.
    fn unknown_dir(&self, name: &TopicName) -> Result<PathBuf> {
        let (is_known, of_deleted) = self.catalog.with(|catalog| {
            let is_deleting = catalog.deleting().any(|topic| topic.entry.name == *name);
            (catalog.is_live(name), is_deleting)
        });
        if is_known {
            return Err(Error::TopicExists { topic: name.clone() });
        }
        let unknown = || Error::UnknownTopic { topic: name.to_string() };
        // A name too long for a directory is in the catalog only.
        let Some(dir) = names::named_dir(name).filter(|_| !of_deleted) else { return Err(unknown()) };
        let dir = Path::new(names::TOPICS).join(dir);
        match self.ctx.storage.is_link(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(unknown()),
            Err(e) => Err(Error::io(IoAction::Inspect, &self.ctx.display(&dir), e)),
            Ok(_) => Ok(dir),
        }
    }

    /// The manifests of a topic's partitions, by partition.
    fn manifests_in(&self, dir: &Path) -> Result<Vec<(PartitionId, Manifest)>> {
        let ctx = &*self.ctx;
        let entries = ctx.storage.list(dir).map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?;
        let mut found = Vec::new();
        for entry in entries {
            let Some(partition) = names::parse_partition_dir(&entry.name) else { continue };
            let path = dir.join(&entry.name).join(names::MANIFEST);
            match manifest::read_any(ctx, &path) {
                Ok(manifest) if manifest.partition == partition => found.push((partition, manifest)),
                Ok(_) => return Err(corrupt(ctx, &path, 0, "the manifest belongs to another partition")),
                // Its first write never ended.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|(partition, _)| *partition);
        Ok(found)
    }

    /// Recovers partitions of which only their files are known.
    fn open_found(
        &self,
        name: &TopicName,
        id: TopicId,
        settings: &Arc<LogSettings>,
        found: Vec<(PartitionId, Manifest)>,
    ) -> Result<Vec<Arc<Log>>> {
        let mut report = OpenReport::default();
        let mut found = found.into_iter().peekable();
        let mut logs = Vec::new();
        for partition in 0..settings.partitions {
            let identity = identity(name, id, partition);
            let manifest = found.next_if(|(found, _)| *found == identity.partition);
            let dir = names::partition_dir(name, &id, identity.partition);
            let manifest = Ok(manifest.map(|(_, manifest)| manifest));
            logs.push(open::open(
                self.journal.clone(),
                identity,
                dir,
                settings.clone(),
                Note::default(),
                manifest,
                &mut report,
            ));
        }
        let ids = logs.iter().flat_map(|log| log.recovered().transactions.iter().map(|found| found.id));
        // Their transactions have no records here, and count.
        self.journal.skip_ids(ids.max().unwrap_or(0))?;
        let started: Vec<_> = logs
            .iter()
            .filter(|log| log.has_files())
            .filter_map(|log| Some((id, log.partition(), open::begin_epoch(log)?)))
            .collect();
        self.catalog.commit(&self.ctx, vec![Change::Epochs(started)])?;
        Ok(logs)
    }
}
