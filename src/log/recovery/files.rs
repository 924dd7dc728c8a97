//! The files in a partition's directory: those that belong to the log, and leftovers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::Manifest;
use crate::format::names::{self, PartitionFile};
use crate::segment::Segment;
use crate::stats::OpenReport;
use crate::sync::Arc;
use crate::types::Offset;

/// The files of a partition.
pub(super) struct PartitionFiles {
    /// The segments that the manifest lists, and the side file of idempotent producers.
    pub(super) present: HashSet<PathBuf>,
    /// Files left by an interrupted roll, truncation or deletion, if they are no successors.
    pub(super) leftovers: Vec<PathBuf>,
    /// The base offsets of segments that may be successors of the last listed one, in order.
    pub(super) candidates: Vec<Offset>,
}

/// Returns the base offsets of the segments among these files that may be successors of the last
/// one that a manifest lists, in order.
pub(super) fn candidates<'a>(names: impl Iterator<Item = &'a str>, manifest: &Manifest) -> Vec<Offset> {
    let Some(last) = manifest.segments.last() else { return Vec::new() };
    let mut found: Vec<_> = names
        .filter_map(|name| match names::parse_partition_file(name) {
            PartitionFile::Segment { base, generation: 0 } if base > last.base_offset => Some(base),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

/// Lists the files of the directory, and reports those that are not this library's.
///
/// # Errors
/// The directory cannot be listed.
pub(super) fn survey(
    ctx: &Context,
    dir: &Path,
    manifest: &Manifest,
    report: &mut OpenReport,
) -> Result<PartitionFiles> {
    let listed: HashSet<(Offset, u32)> =
        manifest.segments.iter().map(|s| (s.base_offset, s.generation)).collect();
    let entries = ctx.storage.list(dir).map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?;
    let (mut present, mut leftovers) = (HashSet::new(), Vec::new());
    let segments = entries.iter().filter(|entry| !entry.is_dir).map(|entry| entry.name.as_str());
    let candidates = candidates(segments, manifest);
    for entry in entries {
        let path = dir.join(&entry.name);
        match names::parse_partition_file(&entry.name) {
            PartitionFile::Foreign if names::is_of_system(&entry.name) => {}
            PartitionFile::Segment { base, generation }
                if !entry.is_dir && listed.contains(&(base, generation)) =>
            {
                present.insert(path);
            }
            // Unless it is a successor, no acknowledged record is in a segment before the manifest
            // lists it, or after the manifest dropped it.
            PartitionFile::Segment { .. } | PartitionFile::Temporary if !entry.is_dir => leftovers.push(path),
            PartitionFile::Index { base, generation } | PartitionFile::Keys { base, generation }
                if !entry.is_dir =>
            {
                if !listed.contains(&(base, generation)) {
                    leftovers.push(path);
                }
            }
            PartitionFile::Producers if !entry.is_dir => {
                present.insert(path);
            }
            PartitionFile::Manifest | PartitionFile::Torn { .. } | PartitionFile::Lost { .. }
                if !entry.is_dir => {}
            _ => {
                let path = ctx.display(&path);
                report.warnings.push(format!("{} is not ours and was left alone", path.display()));
            }
        }
    }
    Ok(PartitionFiles { present, leftovers, candidates })
}

/// Removes files of no segment of the log. A file that cannot be removed is reported, and tried
/// again by the next opening.
pub(super) fn remove_leftovers(
    ctx: &Context,
    segments: &[Arc<Segment>],
    leftovers: &[PathBuf],
    report: &mut OpenReport,
) {
    // It is a successor, or a repair has made a segment of that name since.
    let kept: HashSet<&Path> = segments.iter().map(|segment| segment.path.as_path()).collect();
    for path in leftovers.iter().filter(|path| !kept.contains(path.as_path())) {
        match ctx.storage.remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let error = Error::io(IoAction::Remove, &ctx.display(path), e);
                report.warnings.push(format!("a file that is not needed any more was left: {error}"));
            }
            _ => {}
        }
    }
}
