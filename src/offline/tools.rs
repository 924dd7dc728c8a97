//! The listing, the lock and the findings that verifying and salvaging share.

use std::io::ErrorKind;
use std::path::Path;

use crate::engine::{Context, malformed};
use crate::error::{Corruption, Error, IoAction, Result};
use crate::format::names;
use crate::format::reader::Malformed;
use crate::stats::{Finding, FindingKind};
use crate::storage::DirEntry;

/// The entries of a directory, in order; none if it is not there.
pub(super) fn list(ctx: &Context, dir: &Path) -> Result<Vec<DirEntry>> {
    match ctx.storage.list(dir) {
        Ok(mut entries) => {
            entries.sort();
            Ok(entries)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(IoAction::List, &ctx.display(dir), e)),
    }
}

/// Takes the lock of a directory, so that no broker opens it meanwhile. A missing lock file is not
/// created: either no broker has been there, or a copy left it out. On a read-only medium no broker
/// can have the directory open for writing.
///
/// # Errors
/// `AlreadyOpen`; I/O errors.
pub(super) fn take_lock(ctx: &Context) -> Result<Option<Box<dyn Send + Sync>>> {
    let root = Path::new("");
    let entries = ctx.storage.list(root).map_err(|e| Error::io(IoAction::List, &ctx.display(root), e))?;
    if !entries.iter().any(|entry| entry.name == names::LOCK) {
        return Ok(None);
    }
    match ctx.storage.lock(Path::new(names::LOCK)) {
        Ok(lock) => Ok(Some(lock)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            Err(Error::AlreadyOpen { path: ctx.display(root), owner: None })
        }
        Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => Ok(None),
        Err(e) => Err(Error::io(IoAction::Lock, &ctx.display(Path::new(names::LOCK)), e)),
    }
}

/// A finding about one file as a whole.
pub(super) fn finding(
    ctx: &Context,
    kind: FindingKind,
    file: &Path,
    what: impl Into<String>,
    invariant: u32,
) -> Finding {
    Finding {
        kind,
        file: ctx.display(file),
        position: 0,
        bytes: 0,
        topic: None,
        partition: None,
        offsets: None,
        what: what.into(),
        invariant: Some(invariant),
    }
}

/// The finding for a decoder's error about a file.
pub(super) fn not_decoded(
    ctx: &Context,
    kind: FindingKind,
    file: &Path,
    m: &Malformed,
    invariant: u32,
) -> Finding {
    let of_error = of_error(ctx, file, &malformed(ctx, file, 0, m), invariant);
    Finding { kind: if m.unsupported.is_some() { FindingKind::Unreadable } else { kind }, ..of_error }
}

/// The finding for an error about a file.
pub(super) fn of_error(ctx: &Context, file: &Path, error: &Error, invariant: u32) -> Finding {
    match error {
        Error::Corrupt(Corruption { file, position, what, offset, resume, .. }) => Finding {
            file: file.clone(),
            position: *position,
            offsets: offset.map(|from| (from, resume.unwrap_or(from))),
            ..finding(ctx, FindingKind::Damage, Path::new(""), what.clone(), invariant)
        },
        other => Finding {
            invariant: None,
            ..finding(ctx, FindingKind::Unreadable, file, other.to_string(), invariant)
        },
    }
}
