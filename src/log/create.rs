//! The files of a partition are made by its first write. A partition without files was never
//! written to.
//!
//! The crash argument: the directories are made first, each durable before a file is made in it;
//! then the segment, durable with its header; then the manifest that lists it. A batch is written
//! only after that. So files that a crash leaves without a manifest hold no record, and are made
//! again. Last the catalog notes that the partition has files: from then on a missing manifest is
//! damage.

use std::path::Path;

use super::manifest::{self, stage};
use super::recovery::Recovered;
use super::{Log, LogSettings};
use crate::config::Durability;
use crate::engine::{Context, Identity, corrupt};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{EpochStart, Manifest};
use crate::format::names::{self, PartitionFile};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::log::recovered_tail::RecoveredTail;
use crate::log::switch::NextSegment;
use crate::log::writer::Tip;
use crate::segment::create::{active_entry, create_segment};
use crate::segment::{Point, Segment};
use crate::storage::OpenMode;
use crate::sync::Arc;
use crate::types::Offset;

/// Returns the state of a partition that was never written to.
pub(super) fn unwritten(identity: &Identity, dir: &Path) -> Recovered {
    let entry = active_entry(Offset::ZERO, 0, 0);
    let segment = Arc::new(Segment::from_entry(dir, &entry, None));
    Recovered {
        manifest: Manifest {
            topic_id: identity.topic_id,
            partition: identity.partition,
            secret: identity.secret(),
            log_start: Offset::ZERO,
            epochs: vec![EpochStart { epoch: 0, start: Offset::ZERO }],
            segments: vec![entry],
            lost: Vec::new(),
            has_successors: false,
        },
        segments: vec![segment],
        point: Point::start_of(Offset::ZERO, 0, 0, 0),
        unsynced: None,
        last_listed: None,
        damage: None,
        has_senders: false,
        tail: RecoveredTail::default(),
    }
}

/// Reads the manifest of a partition. Returns `None` if the partition has no files. `is_marked`:
/// the catalog lists the partition as having files. Changes nothing.
///
/// # Errors
/// `Corrupt` if the manifest is damaged, or is missing although there must be one;
/// `UnsupportedFormat`; an I/O error.
pub(crate) fn find_manifest(
    ctx: &Context,
    identity: &Identity,
    dir: &Path,
    is_marked: bool,
) -> Result<Option<Manifest>> {
    if is_marked || has_files(ctx, dir)? { manifest::read(ctx, identity, dir).map(Some) } else { Ok(None) }
}

/// Returns whether a partition that the catalog lists without files has some: those of a write
/// after which the broker was not closed properly.
///
/// # Errors
/// `Corrupt` if the manifest is missing and there are records; an I/O error.
fn has_files(ctx: &Context, dir: &Path) -> Result<bool> {
    let entries = match ctx.storage.list(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(|e| Error::io(IoAction::List, &ctx.display(dir), e))?,
    };
    if entries.iter().any(|entry| entry.name == names::MANIFEST) {
        return Ok(true);
    }
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        let PartitionFile::Segment { base, generation } = names::parse_partition_file(&entry.name) else {
            continue;
        };
        let path = dir.join(&entry.name);
        let file = ctx.storage.open(&path, OpenMode::Read);
        let len = file
            .and_then(|file| file.len())
            .map_err(|e| Error::io(IoAction::Inspect, &ctx.display(&path), e))?;
        // A batch is written only after the manifest is durable.
        if base != Offset::ZERO || generation != 0 || len > SEGMENT_HEADER_BYTES as u64 {
            let manifest = dir.join(names::MANIFEST);
            return Err(corrupt(ctx, &manifest, 0, "the manifest is missing, and there are records"));
        }
    }
    Ok(false)
}

/// Makes the files of a partition at its first write. Every write calls this first, under the
/// writer's lock.
///
/// # Errors
/// `DiskFull`, or another I/O error: no batch was written, and the next write tries again.
#[inline]
pub(crate) fn make_files(log: &Log, tip: &mut Tip, settings: &LogSettings) -> Result<()> {
    let made = log.manifest.made();
    if made == stage::FILES {
        return Ok(());
    }
    log.check_writable()?;
    if made == stage::NOTHING {
        make_segment(log, tip)?;
        log.manifest.set_made(stage::SEGMENT);
    }
    // The manifest in memory already has the right content. Where a roll will list nothing, the
    // manifest announces that.
    let waits = settings.durability == Durability::Sync;
    let announced = log.manifest.commit(&log.ctx, |manifest| manifest.has_successors = !waits);
    announced.map_err(|failed| failed.error)?;
    log.manifest.set_made(stage::FILES);
    log.ctx.note_files(&log.identity);
    Ok(())
}

fn make_segment(log: &Log, tip: &mut Tip) -> Result<()> {
    let ctx = &*log.ctx;
    let topic = log.manifest.dir().parent().unwrap_or(Path::new(""));
    for dir in [topic, log.manifest.dir()] {
        let parent = dir.parent().unwrap_or(Path::new(""));
        let made = ctx.storage.create_dir(dir).and_then(|()| ctx.storage.sync_dir(parent));
        made.map_err(|e| Error::create(&ctx.display(dir), e))?;
    }
    let base = Offset::ZERO;
    let first = NextSegment { base, generation: 0, epoch: 0, prev_end: base, prev_crc: 0 };
    let file = create_segment(ctx, log.manifest.dir(), &first.header(ctx, &log.identity))?;
    tip.segment.adopt_file(ctx, file);
    Ok(())
}
