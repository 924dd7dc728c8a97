//! Deleting the files of topics: first into the trash, then for good.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::store::CatalogStore;
use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::format::catalog::{CatalogTopic, Change};
use crate::format::names;
use crate::storage::Storage;
use crate::types::{TopicId, TopicName};

/// Finishes the deletions that were interrupted, each as far as it can be.
///
/// # Errors
/// The first error. The topics concerned stay in the catalog, to be tried again.
pub(super) fn settle(ctx: &Context, catalog: &CatalogStore) -> Result<()> {
    let deleting: Vec<_> = catalog.with(|catalog| {
        let of = |topic: &CatalogTopic| (topic.entry.id, topic.entry.name.clone());
        catalog.deleting().map(of).collect()
    });
    let mut first = Ok(());
    let mut gone = Vec::new();
    for (id, name) in deleting {
        match discard(ctx, &name, id) {
            Ok(()) => gone.push(Change::TopicGone(id)),
            Err(error) => first = first.and(Err(error)),
        }
    }
    if gone.is_empty() {
        return first;
    }
    // IMPORTANT: a rename that the last run made may not be durable yet; otherwise a power loss
    // brings the files back, under a name that is free.
    for dir in [names::TOPICS, names::TRASH] {
        let synced = ctx.storage.sync_dir(Path::new(dir));
        synced.map_err(|e| Error::io(IoAction::Sync, &ctx.display(Path::new(dir)), e))?;
    }
    first.and(catalog.note(ctx, gone))
}

/// Moves a topic's directory to the trash and removes it there. Where it cannot be moved (it is a
/// mount point, or part of a lower layer of a file system) it is removed where it is. Fine if any
/// of that has been done before.
pub(super) fn discard(ctx: &Context, name: &TopicName, id: TopicId) -> Result<()> {
    let (dir, trash) = (names::topic_dir(name, &id), names::trash_dir(&id));
    match ctx.storage.rename(&dir, &trash) {
        Ok(()) => {
            for dir in [names::TOPICS, names::TRASH] {
                ctx.storage
                    .sync_dir(Path::new(dir))
                    .map_err(|e| Error::io(IoAction::Sync, &ctx.display(Path::new(dir)), e))?;
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        // The topic is gone from the catalog, so no reader opens its files.
        Err(_) => remove_tree(ctx, &dir)?,
    }
    remove_tree(ctx, &trash)
}

/// Removes a directory and all below it, and of a symbolic link the link alone. A file that cannot
/// be removed does not stop the removal of the rest. A missing directory is not an error.
///
/// # Errors
/// The first error.
pub(super) fn remove_tree(ctx: &Context, dir: &Path) -> Result<()> {
    type Failed = (PathBuf, std::io::Error);
    fn fine_if_missing(path: &Path, result: std::io::Result<()>) -> std::result::Result<(), Failed> {
        match result {
            Err(e) if e.kind() != ErrorKind::NotFound => Err((path.to_path_buf(), e)),
            _ => Ok(()),
        }
    }
    fn remove(storage: &dyn Storage, dir: &Path) -> std::result::Result<(), Failed> {
        let entries = match storage.list(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|e| (dir.to_path_buf(), e))?,
        };
        let mut first = Ok(());
        for entry in entries {
            let path = dir.join(&entry.name);
            let removed = if entry.is_dir && !entry.is_link {
                remove(storage, &path)
            } else {
                fine_if_missing(&path, storage.remove_file(&path))
            };
            first = first.and(removed);
        }
        first.and_then(|()| fine_if_missing(dir, storage.remove_dir(dir)))
    }
    let storage = &*ctx.storage;
    let removed = match storage.is_link(dir) {
        Ok(true) => fine_if_missing(dir, storage.remove_file(dir)),
        Ok(false) => remove(storage, dir),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => Err((dir.to_path_buf(), e)),
    };
    removed.map_err(|(path, e)| Error::io(IoAction::Remove, &ctx.display(&path), e))?;
    // Only the root has no parent, and it is not removed.
    let parent = dir.parent().unwrap_or(Path::new(""));
    ctx.storage.sync_dir(parent).map_err(|e| Error::io(IoAction::Sync, &ctx.display(parent), e))
}
