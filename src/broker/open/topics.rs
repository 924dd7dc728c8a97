//! Opening the topics of a directory, and the epochs that an opening must begin.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::directory::{Manifests, Proof};
use crate::broker::TopicState;
use crate::broker::catalog::identity;
use crate::broker::store::CatalogStore;
use crate::config::{BrokerConfig, Durability, TopicConfig};
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::format::catalog::{CatalogTopic, Change, TopicEntry};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::manifest::Manifest;
use crate::format::names::{self, TopicDir};
use crate::log::journal::LogJournal;
use crate::log::recovery::Note;
use crate::log::{self, LogSettings};
use crate::stats::OpenReport;
use crate::sync::Arc;
use crate::transaction::journal::Journal;
use crate::types::{PartitionId, TopicId};

/// Begins an epoch in every log of which no proof is left where it ended, with one change and one
/// sync however many there are, and notes this opening.
///
/// IMPORTANT: in one write, the epochs first. With the opening's boot identity the next opening
/// would take the ends for known.
pub(super) fn begin_epochs<'a>(
    ctx: &Context,
    catalog: &Arc<CatalogStore>,
    topics: impl Iterator<Item = &'a Arc<TopicState>>,
    proof: Proof,
    checkpoint: Option<&Checkpoint>,
    report: &mut OpenReport,
) -> Result<()> {
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.entries);
    let listed: HashSet<_> = entries.iter().map(|entry| (entry.topic_id, entry.partition)).collect();
    let (mut started, mut is_whole) = (Vec::new(), true);
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
            match log::open::begin_epoch(log) {
                Some(epoch) => {
                    started.push((topic.id, log.partition(), epoch));
                    report.unproven.push(log::open::unproven(log));
                }
                // It takes no appends now. When it does again its end is not known either.
                None => is_whole = false,
            }
        }
    }
    let opening = Change::Opening(catalog.this_opening(ctx, is_whole));
    if started.is_empty() && ctx.gate.is_shut() {
        catalog.hold_back(opening);
        return Ok(());
    }
    // Not synced without an epoch: if it is lost, the machine was started again, and the opening
    // before had another boot identity.
    let must_last = !started.is_empty();
    let changes: Vec<_> = must_last.then_some(Change::Epochs(started)).into_iter().chain([opening]).collect();
    let noted = ctx.reserve.with_room(|| match must_last {
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

pub(super) fn open_topics(
    config: &BrokerConfig,
    journal: &Arc<Journal>,
    catalog: &CatalogStore,
    configs: &mut HashMap<TopicId, TopicConfig>,
    mut manifests: Manifests,
    (checkpoint, proof): (Option<&Checkpoint>, Proof),
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
    let (listed, deleting): (Vec<CatalogTopic>, Vec<String>) = catalog.with(|catalog| {
        let dir = |topic: &CatalogTopic| names::encode_topic(&topic.entry.name, &topic.entry.id);
        (catalog.live().cloned().collect(), catalog.deleting().map(dir).collect())
    });
    let mut topics = Vec::with_capacity(listed.len());
    let mut dirs: HashSet<String> = deleting.into_iter().collect();
    for CatalogTopic { entry, .. } in &listed {
        let read = (configs.remove(&entry.id), manifests.found.remove(&entry.id));
        let (Some(config_of_topic), Some(found)) = read else {
            return Err(Error::internal("the settings and manifests of every live topic have been read"));
        };
        let dir = names::encode_topic(&entry.name, &entry.id);
        let is_there = present.contains(&dir);
        dirs.insert(dir);
        topics.push(open_topic(config, journal, entry, config_of_topic, report, found, |partition| {
            let entry = notes.get(&(entry.id, partition)).copied();
            Note { entry, clean, may_leave_unsynced: proof == Proof::SameBoot }
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

/// Opens a topic of which these manifests were found. `note` returns the checkpoint's entry of a
/// partition.
fn open_topic<'a>(
    broker: &BrokerConfig,
    journal: &Arc<Journal>,
    entry: &TopicEntry,
    config: TopicConfig,
    report: &mut OpenReport,
    found: Vec<Result<Option<Manifest>>>,
    note: impl Fn(PartitionId) -> Note<'a>,
) -> Arc<TopicState> {
    let settings = LogSettings::new(config, broker.durability);
    let open = |(partition, found)| {
        let identity = identity(&entry.name, entry.id, partition);
        let dir = names::partition_dir(&entry.name, &entry.id, identity.partition);
        let mut note = note(identity.partition);
        note.may_leave_unsynced &= settings.durability != Durability::Sync;
        log::open::open(journal.clone(), identity, dir, settings.clone(), note, found, report)
    };
    let logs = (0..entry.partitions).zip(found).map(open).collect();
    let state = TopicState::new(entry.id, entry.name.clone(), entry.created_at, settings, logs);
    Arc::new(state.with_earlier(&entry.earlier_partitions))
}

/// Reports entries beside a topic's partitions that are not partitions.
fn warn_of_foreign_partitions(ctx: &Context, entry: &TopicEntry, report: &mut OpenReport) {
    let dir = names::topic_dir(&entry.name, &entry.id);
    // A directory that cannot be listed has no entry to report.
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
