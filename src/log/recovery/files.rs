//! The files in a partition's directory: those that belong to the log, and leftovers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::Manifest;
use crate::format::names::{self, PartitionFile};
use crate::stats::OpenReport;
use crate::types::Offset;

/// The files of a partition.
pub(super) struct PartitionFiles {
    /// The segments that the manifest lists, and the side file of idempotent producers.
    pub(super) present: HashSet<PathBuf>,
    /// Files left by an interrupted roll, truncation or deletion.
    pub(super) leftovers: Vec<PathBuf>,
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
    for entry in entries {
        let path = dir.join(&entry.name);
        match names::parse_partition_file(&entry.name) {
            PartitionFile::Foreign if names::is_of_system(&entry.name) => {}
            PartitionFile::Segment { base, generation }
                if !entry.is_dir && listed.contains(&(base, generation)) =>
            {
                present.insert(path);
            }
            // No acknowledged record is in a segment before the manifest lists it, or after the
            // manifest dropped it.
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
    Ok(PartitionFiles { present, leftovers })
}

/// Removes files that no manifest lists. A file that cannot be removed is reported, and tried again
/// by the next opening.
pub(super) fn remove_leftovers(
    ctx: &Context,
    manifest: &Manifest,
    leftovers: &[PathBuf],
    report: &mut OpenReport,
) {
    // A repair may have made a segment of that name since.
    let listed = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match names::parse_partition_file(&name) {
            PartitionFile::Segment { base, generation } => {
                manifest.segments.iter().any(|s| (s.base_offset, s.generation) == (base, generation))
            }
            _ => false,
        }
    };
    for path in leftovers.iter().filter(|path| !listed(path)) {
        match ctx.storage.remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let error = Error::io(IoAction::Remove, &ctx.display(path), e);
                report.warnings.push(format!("a file that is not needed any more was left: {error}"));
            }
            _ => {}
        }
    }
}
