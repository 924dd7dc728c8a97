//! The topics of a directory: those of the catalog; if it cannot be used, those of the catalog
//! before it, and those that have files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use super::tools::{finding, list, not_decoded, of_error};
use crate::broker::offsets_config;
use crate::config::TopicConfig;
use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::format::catalog::{self, Catalog, CatalogTopic, Change, ReadCatalog, TopicEntry, TopicState};
use crate::format::manifest::Manifest;
use crate::format::names::{self, PartitionFile, TopicDir};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::settings;
use crate::stats::{Finding, FindingKind};
use crate::storage::{OpenMode, read_file, read_up_to};
use crate::types::{PartitionId, Timestamp, TopicId, TopicName};

/// The findings about a directory as a whole.
pub(super) struct Survey {
    /// The catalog's file, if it can be used.
    pub(super) found: Option<ReadCatalog>,
    /// Topics, producers, ids and epochs, from every source.
    pub(super) catalog: Catalog,
    /// The topics that may be used, by name.
    pub(super) topics: Vec<SurveyedTopic>,
    pub(super) findings: Vec<Finding>,
    pub(super) notes: Vec<String>,
}

pub(super) struct SurveyedTopic {
    pub(super) entry: TopicEntry,
    /// The place of its files: the directory may have another name.
    pub(super) dir: String,
    /// The partitions that must have files.
    pub(super) with_files: BTreeSet<u32>,
}

/// Reads the catalog, and the directories of topics if the catalog cannot be used.
///
/// # Errors
/// I/O errors of directories; `UnsupportedFormat` of the catalog.
pub(super) fn survey(ctx: &Context) -> Result<Survey> {
    let mut survey = Survey {
        found: None,
        catalog: Catalog::empty(),
        topics: Vec::new(),
        findings: Vec::new(),
        notes: Vec::new(),
    };
    match read_catalog(ctx, names::CATALOG)? {
        Ok(found) => {
            for topic in found.catalog.live() {
                survey.topics.push(SurveyedTopic {
                    entry: topic.entry.clone(),
                    dir: names::encode_topic(&topic.entry.name, &topic.entry.id),
                    with_files: topic.with_files.clone(),
                });
            }
            for topic in found.catalog.deleting() {
                survey.notes.push(format!("topic {} is being deleted", topic.entry.name));
            }
            survey.catalog = found.catalog.clone();
            survey.found = Some(found);
            return Ok(survey);
        }
        Err(Some(damage)) => survey.findings.push(damage),
        Err(None) => {
            let root = list(ctx, Path::new(""))?;
            let was_used = root.iter().any(|entry| {
                [names::CATALOG_OLD, names::CHECKPOINT, names::JOURNAL].contains(&entry.name.as_str())
            });
            if !was_used && list(ctx, Path::new(names::TOPICS))?.is_empty() {
                survey.notes.push("there is no broker in this directory".to_string());
                return Ok(survey);
            }
            let path = Path::new(names::CATALOG);
            let what = "the catalog is missing, and there are topics, or there was a broker";
            survey.findings.push(finding(ctx, FindingKind::Damage, path, what, 1));
        }
    }
    without_catalog(ctx, &mut survey)?;
    Ok(survey)
}

/// The file of a catalog, or its fault; nothing if it is missing.
fn read_catalog(ctx: &Context, name: &str) -> Result<std::result::Result<ReadCatalog, Option<Finding>>> {
    const LIMIT: u64 = 1 << 30;
    let path = Path::new(name);
    let bytes = match read_file(&*ctx.storage, path, LIMIT) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Err(None)),
        Err(e) => {
            let error = Error::io(IoAction::Read, &ctx.display(path), e);
            return Ok(Err(Some(of_error(ctx, path, &error, 1))));
        }
    };
    match catalog::read(&bytes) {
        Ok(found) => Ok(Ok(found)),
        Err(m) if m.unsupported.is_some() => Err(crate::engine::malformed(ctx, path, 0, &m)),
        Err(m) => Ok(Err(Some(not_decoded(ctx, FindingKind::Damage, path, &m, 14)))),
    }
}

/// Makes a catalog from the one before it and from the topics that have files.
fn without_catalog(ctx: &Context, survey: &mut Survey) -> Result<()> {
    let old = catalog_before(ctx, survey)?;
    let mut topics = topics_with_files(ctx, survey)?;
    for known in old.iter().flat_map(Catalog::live) {
        add_known(known, &mut topics, survey);
    }
    survey.catalog = catalog_of(old.as_ref(), &topics);
    survey.topics = topics.into_values().collect();
    survey.topics.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    Ok(())
}

/// The catalog before the one that cannot be used, if it can be used itself.
fn catalog_before(ctx: &Context, survey: &mut Survey) -> Result<Option<Catalog>> {
    match read_catalog(ctx, names::CATALOG_OLD)? {
        Ok(old) => {
            survey.notes.push(format!(
                "{} was used instead of the catalog: changes since it was replaced are not known",
                ctx.display(Path::new(names::CATALOG_OLD)).display()
            ));
            Ok(Some(old.catalog))
        }
        Err(damage) => {
            survey.findings.extend(damage.map(|found| Finding { kind: FindingKind::Derived, ..found }));
            survey.notes.push(
                "no catalog can be used: topics are named after their directories and have default settings, the names of \
                 producers are not known"
                    .to_string(),
            );
            Ok(None)
        }
    }
}

/// The topics according to the files in their directories.
fn topics_with_files(ctx: &Context, survey: &mut Survey) -> Result<BTreeMap<TopicId, SurveyedTopic>> {
    let mut topics = BTreeMap::new();
    for entry in list(ctx, Path::new(names::TOPICS))?.into_iter().filter(|entry| entry.is_dir) {
        match topic_of_dir(ctx, &entry.name)? {
            Some(topic) => drop(topics.insert(topic.entry.id, topic)),
            None => survey.notes.push(format!(
                "{}: none of its files names its topic",
                ctx.display(&Path::new(names::TOPICS).join(&entry.name)).display()
            )),
        }
    }
    Ok(topics)
}

/// Adds a topic of the catalog before to those that have files.
fn add_known(known: &CatalogTopic, topics: &mut BTreeMap<TopicId, SurveyedTopic>, survey: &mut Survey) {
    let is_replaced = topics.values().any(|other| other.entry.name == known.entry.name);
    match topics.get_mut(&known.entry.id) {
        Some(topic) => {
            let partitions = topic.entry.partitions.max(known.entry.partitions);
            topic.entry = TopicEntry { partitions, ..known.entry.clone() };
            topic.with_files.extend(&known.with_files);
        }
        // Another topic of that name was created since, or it never had files.
        None if is_replaced => {}
        None if known.with_files.is_empty() => {
            let (entry, with_files) = (known.entry.clone(), BTreeSet::new());
            let dir = names::encode_topic(&entry.name, &entry.id);
            topics.insert(entry.id, SurveyedTopic { entry, dir, with_files });
        }
        None => survey.notes.push(format!(
            "topic {} is in the catalog that was used, and has no files: it was deleted since, or they are gone",
            known.entry.name
        )),
    }
}

/// A catalog of these topics, with the ids, producers and epochs of the catalog before.
fn catalog_of(old: Option<&Catalog>, topics: &BTreeMap<TopicId, SurveyedTopic>) -> Catalog {
    let mut catalog = Catalog::empty();
    let mut apply = |change| catalog.apply(change).is_ok();
    if let Some(old) = old {
        apply(Change::Ids(old.next_id()));
        for producer in old.producers() {
            apply(Change::Producer(producer.clone()));
        }
    }
    for topic in topics.values() {
        apply(Change::Topic(topic.entry.clone()));
        for partition in (0..topic.entry.partitions).map(PartitionId::new) {
            let epochs = old.map_or(&[][..], |old| old.epochs(&topic.entry.id, partition));
            let epochs: Vec<_> = epochs.iter().map(|start| (topic.entry.id, partition, *start)).collect();
            if !epochs.is_empty() {
                apply(Change::Epochs(epochs));
            }
        }
    }
    catalog
}

/// The topic according to the files in its directory.
fn topic_of_dir(ctx: &Context, name: &str) -> Result<Option<SurveyedTopic>> {
    let dir = Path::new(names::TOPICS).join(name);
    let (mut id, mut created_at, mut with_files) = (None, None, BTreeSet::new());
    let mut has_streams = false;
    for entry in list(ctx, &dir)?.into_iter().filter(|entry| entry.is_dir) {
        let Some(partition) = names::parse_partition_dir(&entry.name) else { continue };
        let dir = dir.join(&entry.name);
        if let Ok(bytes) = read_file(&*ctx.storage, &dir.join(names::MANIFEST), 256 << 20) {
            with_files.insert(partition.get());
            id = id.or(Manifest::decode(&bytes).ok().map(|manifest| manifest.topic_id));
        }
        for file in list(ctx, &dir)? {
            match names::parse_partition_file(&file.name) {
                PartitionFile::Segment { .. } => {
                    with_files.insert(partition.get());
                    if (id.is_none() || created_at.is_none())
                        && let Some(header) = read_header(ctx, &dir.join(&file.name))
                    {
                        id = id.or(Some(header.topic_id));
                        created_at = created_at.or(Some(header.created_at));
                    }
                }
                PartitionFile::Keys { .. } => has_streams = true,
                _ => {}
            }
        }
    }
    let (Some(id), Some(last)) = (id, with_files.last().copied()) else { return Ok(None) };
    let named = match names::parse_topic(name) {
        Some(TopicDir::Named(name)) => Some(name),
        // Only the catalog had its name.
        Some(TopicDir::Identified(_)) => TopicName::new(&format!("recovered-{id}")).ok(),
        None => None,
    };
    let Some(named) = named else { return Ok(None) };
    let config = match has_streams {
        _ if names::is_own_topic(named.as_str()) => offsets_config(),
        true => TopicConfig::streams(),
        false => TopicConfig::new(),
    };
    let entry = TopicEntry {
        id,
        state: TopicState::Live,
        partitions: last.saturating_add(1),
        created_at: created_at.unwrap_or(Timestamp::default()),
        name: named,
        settings: settings::of_config(&config),
        earlier_partitions: Vec::new(),
        rest: Vec::new(),
    };
    Ok(Some(SurveyedTopic { entry, dir: name.to_string(), with_files }))
}

/// The header of a segment, if it has a whole one.
pub(super) fn read_header(ctx: &Context, path: &Path) -> Option<SegmentHeader> {
    let file = ctx.storage.open(path, OpenMode::Read).ok()?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let n = read_up_to(&*file, &mut bytes, 0).ok()?;
    SegmentHeader::decode(bytes.get(..n)?).ok()
}
