//! Reads, copies and rewrites parts of a segment's file, piece by piece.

use std::path::Path;

use crate::engine::Context;
use crate::error::{Error, IoAction, Result};
use crate::storage::{File, OpenMode, read_exact_at, write_all_at};

/// Copies `from..to` of a file into a new file `target`, and syncs its bytes. The name `target` is
/// not durable yet.
pub(crate) fn copy_aside(
    ctx: &Context,
    file: &dyn File,
    path: &Path,
    from: u64,
    to: u64,
    target: &Path,
) -> Result<()> {
    let shown = ctx.display(target);
    let copy = ctx.storage.open(target, OpenMode::Truncate).map_err(|e| Error::create(&shown, e))?;
    in_pieces(file, &ctx.display(path), from, to, |position, piece| {
        write_all_at(&*copy, piece, position - from).map_err(|(_, e)| Error::write(&shown, e))
    })?;
    copy.sync_data().map_err(|e| Error::io(IoAction::Sync, &shown, e))
}

/// Reads `from..to` of a file, and calls `each` with the position and the bytes of every piece.
pub(crate) fn in_pieces(
    file: &dyn File,
    path: &Path,
    from: u64,
    to: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = Vec::new();
    let mut position = from;
    while position < to {
        let len = PIECE.min(to - position);
        buffer.resize(len as usize, 0);
        read_exact_at(file, &mut buffer, position).map_err(|e| Error::io(IoAction::Read, path, e))?;
        each(position, &buffer)?;
        position += len;
    }
    Ok(())
}

/// Rewrites `from..to` of a file with the same bytes, and syncs it.
pub(crate) fn rewrite(ctx: &Context, file: &dyn File, path: &Path, from: u64, to: u64) -> Result<()> {
    write_again(ctx, file, path, from, to)?;
    file.sync_data().map_err(|e| Error::io(IoAction::Sync, &ctx.display(path), e))
}

/// Rewrites `from..to` of a file with the same bytes: the next sync writes them, also if the page
/// cache took them for written.
pub(crate) fn write_again(ctx: &Context, file: &dyn File, path: &Path, from: u64, to: u64) -> Result<()> {
    let path = ctx.display(path);
    in_pieces(file, &path, from, to, |position, piece| {
        write_all_at(file, piece, position).map_err(|(_, e)| Error::io(IoAction::Write, &path, e))
    })
}

/// Returns the position after the last nonzero byte of `from..to`; `from` if all are zero.
pub(crate) fn last_nonzero(ctx: &Context, file: &dyn File, path: &Path, from: u64, to: u64) -> Result<u64> {
    let mut last = from;
    in_pieces(file, &ctx.display(path), from, to, |position, piece| {
        if let Some(at) = piece.iter().rposition(|byte| *byte != 0) {
            last = position + at as u64 + 1;
        }
        Ok(())
    })?;
    Ok(last)
}
