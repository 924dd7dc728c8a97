//! Creates a segment: the entry for the manifest, and a file that has only its header.

use std::path::Path;

use crate::engine::Context;
use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::segment::SegmentHeader;
use crate::storage::{File, OpenMode, write_all_at};
use crate::sync::Arc;
use crate::types::Offset;

/// Returns the manifest's entry of a segment that takes appends.
pub(crate) fn active_entry(base_offset: Offset, generation: u32, log_epoch: u32) -> SegmentEntry {
    SegmentEntry {
        base_offset,
        generation,
        log_epoch,
        state: SegmentState::Active,
        size: 0,
        end_offset: Offset::ZERO,
        last_crc: 0,
        max_timestamp: i64::MIN,
        digest: Digest::default(),
    }
}

/// Creates a segment's file with its header. Both its name and the header are durable on return. An
/// existing file of that name is a leftover, because no manifest lists it, and is replaced.
///
/// # Errors
/// An I/O error. No file is left.
pub(crate) fn create_segment(ctx: &Context, dir: &Path, header: &SegmentHeader) -> Result<Arc<dyn File>> {
    create(ctx, dir, header, |file| {
        file.sync_data()?;
        // IMPORTANT: sync the directory before the manifest that lists the segment is renamed into
        // place. Both names are entries of one directory, and a power loss may keep the second and
        // lose the first.
        ctx.storage.sync_dir(dir)
    })
}

/// As [`create_segment`], but neither name nor bytes are durable: used for several segments that
/// are synced together.
///
/// # Errors
/// An I/O error. No file is left.
pub(crate) fn create_segment_file(
    ctx: &Context,
    dir: &Path,
    header: &SegmentHeader,
) -> Result<Arc<dyn File>> {
    create(ctx, dir, header, |_| Ok(()))
}

fn create(
    ctx: &Context,
    dir: &Path,
    header: &SegmentHeader,
    settle: impl FnOnce(&dyn File) -> std::io::Result<()>,
) -> Result<Arc<dyn File>> {
    let path = dir.join(names::segment_file(header.base_offset, header.generation));
    let open = || match ctx.storage.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            ctx.storage.remove_file(&path)?;
            ctx.storage.open(&path, OpenMode::CreateNew)
        }
        other => other,
    };
    let written = open().and_then(|file| {
        write_all_at(&*file, &header.encode(), 0).map_err(|(_, e)| e)?;
        settle(&*file)?;
        Ok(file)
    });
    written.map_err(|e| {
        let _ = ctx.storage.remove_file(&path);
        Error::create(&ctx.display(&path), e)
    })
}
