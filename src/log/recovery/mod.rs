//! Recovery of a partition's directory: opening after a clean close, and after a crash.
//!
//! After a clean close the checkpoint has the end of the active segment, and nothing is read.
//! Otherwise every segment that is not known to be synced is read from the last durable point on,
//! batch by batch. If a batch is invalid, a later batch whose `synced_upto` covers it makes this a
//! corruption, and nothing is changed. Without such a witness it is a torn tail, which is copied
//! aside, truncated and reported. The accepted batches are written again and synced before any
//! reader may read them. See FORMAT.md, "Crash safety".
//!
//! There are two steps. [`inspect`] decides how far the log is valid, which batches are accepted,
//! and whether it ends there, in a torn tail, or in damage. It writes nothing and reports nothing,
//! so a verifier can use it too. [`repair`] acts on the result.

mod directory;
mod files;
mod inspect;
mod repair;
mod scan;
mod successors;

use std::path::Path;

use self::directory::Directory;
use self::files::{PartitionFiles, remove_leftovers, survey};
use self::inspect::{Inspector, Verdict};
pub(crate) use self::inspect::{Note, point_of};
pub(crate) use self::repair::{Recovered, Unsynced};
use super::journal::LogJournal;
use crate::engine::{Context, Identity};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::stats::OpenReport;
use crate::sync::Arc;
use crate::types::Offset;

/// Opens the directory of a partition with this manifest.
///
/// # Errors
/// An I/O error, or a file of an unsupported format: nothing of the partition can be used. No file
/// with records has been changed.
pub(crate) fn recover(
    journal: &dyn LogJournal,
    identity: &Arc<Identity>,
    dir: &Path,
    manifest: Manifest,
    note: Note<'_>,
    report: &mut OpenReport,
) -> Result<Recovered> {
    let ctx = &**journal.ctx();
    let PartitionFiles { present, leftovers, candidates } = survey(ctx, dir, &manifest, report)?;
    let mut directory = Directory::new(ctx, identity, dir, manifest, candidates);
    let found = Inspector { directory: &mut directory, journal: Some(journal) }.inspect(&present, note)?;
    let has_senders = present.contains(&dir.join(names::PRODUCERS));
    let may_leave_unsynced = note.may_leave_unsynced;
    let recovered =
        Recovered { has_senders, ..repair::repair(directory, found, may_leave_unsynced, report)? };
    // IMPORTANT: last, and only if there is no damage. The manifest that does not list them must be
    // durable: the opening has synced its directory, or the repair has replaced it.
    if recovered.damage.is_none() {
        remove_leftovers(ctx, &recovered.segments, &leftovers, report);
    }
    Ok(recovered)
}

/// What an opening of a partition would find.
pub(crate) struct Assessment {
    /// The manifest, with the successors that an opening would find.
    pub(crate) manifest: Manifest,
    /// The end of the log.
    pub(crate) end: Offset,
    /// The position of the end in the active segment, if the broker was closed there. Bytes after
    /// it are no records.
    pub(crate) closed_at: Option<u64>,
    /// Where an opening would truncate the log, and why: index of the segment, and position.
    pub(crate) torn: Option<(usize, u64, String)>,
    /// Why an opening would report it as damaged.
    pub(crate) damage: Option<Error>,
}

/// Inspects the directory of a partition as an opening would. Changes nothing.
///
/// # Errors
/// As [`recover`].
pub(crate) fn assess(
    ctx: &Context,
    identity: &Arc<Identity>,
    dir: &Path,
    manifest: &Manifest,
    note: Note<'_>,
) -> Result<Assessment> {
    let entries = ctx.storage.list(dir).map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?;
    let present = entries.iter().map(|entry| dir.join(&entry.name)).collect();
    let segments = entries.iter().filter(|entry| !entry.is_dir).map(|entry| entry.name.as_str());
    let candidates = files::candidates(segments, manifest);
    let mut directory = Directory::new(ctx, identity, dir, manifest.clone(), candidates);
    let found = Inspector { directory: &mut directory, journal: None }.inspect(&present, note)?;
    let (manifest, end) = (directory.manifest, found.point.end);
    let mut assessed = Assessment { manifest, end, closed_at: None, torn: None, damage: None };
    match found.verdict {
        Verdict::Closed => assessed.closed_at = Some(found.point.position),
        Verdict::Whole => {}
        Verdict::Torn(broken, _) => assessed.torn = Some((broken.at, broken.position, broken.what)),
        Verdict::Damaged(error) => assessed.damage = Some(error),
    }
    Ok(assessed)
}
