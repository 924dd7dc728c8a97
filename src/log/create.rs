//! When does a partition get files? When it is first written to: a partition without any is one
//! that was never written to.
//!
//! The crash argument: the directories come first, each durable before something is made in it;
//! then the segment, durable with its header; then the manifest that lists it. A batch is written
//! only after that. So whatever a crash leaves without a manifest holds no record, and is made
//! again. That the partition has files is noted in the catalog last: from then on a missing
//! manifest is damage.

use std::path::Path;

use super::Log;
use super::recovery::{Recovered, read_manifest};
use crate::engine::{Context, Identity, corrupt};
use crate::error::{Error, IoAction, Result};
use crate::format::manifest::{EpochStart, Manifest};
use crate::format::names::{self, PartitionFile};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::log::recovery::transactions::Tail;
use crate::log::switch::NextSegment;
use crate::log::writer::Tip;
use crate::segment::create::{active_entry, create_segment};
use crate::segment::{Point, Segment};
use crate::storage::OpenMode;
use crate::sync::Arc;
use crate::types::Offset;

/// How much of a partition's files has been made. Rises only.
pub(super) mod stage {
    /// Nothing that would have to be kept.
    pub(crate) const NOTHING: u8 = 0;
    /// The segment, durably. IMPORTANT: from here on it stays. A manifest that lists it may be in
    /// place although that was answered with an error.
    pub(crate) const SEGMENT: u8 = 1;
    /// All.
    pub(crate) const FILES: u8 = 2;
}

/// The state of a partition that was never written to.
pub(super) fn unwritten(identity: &Identity, dir: &Path) -> Recovered {
    let entry = active_entry(Offset::ZERO, 0, 0);
    let segment = Arc::new(Segment::from_entry(dir, &entry, None));
    Recovered {
        manifest: Manifest {
            topic_id: identity.topic_id,
            partition: identity.partition,
            secret: identity.secret,
            log_start: Offset::ZERO,
            epochs: vec![EpochStart { epoch: 0, start: Offset::ZERO }],
            segments: vec![entry],
            lost: Vec::new(),
        },
        segments: vec![segment],
        point: Point::start_of(Offset::ZERO, 0, 0, 0),
        damage: None,
        has_senders: false,
        tail: Tail::default(),
    }
}

/// The manifest of a partition; `None` if it has no files. The catalog says of those that are marked that they have some.
/// Nothing is changed.
///
/// # Errors
/// `Corrupt` if the manifest is damaged, or is missing and should be there; `UnsupportedFormat`; an I/O error.
pub(crate) fn find_manifest(
    ctx: &Context,
    identity: &Identity,
    dir: &Path,
    is_marked: bool,
) -> Result<Option<Manifest>> {
    if is_marked || has_files(ctx, dir)? { read_manifest(ctx, identity, dir).map(Some) } else { Ok(None) }
}

/// Whether a partition that the catalog does not say has files has some: those of a write after
/// which the broker was not closed properly.
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
        // A batch is written only after the manifest is on the medium.
        if base != Offset::ZERO || generation != 0 || len > SEGMENT_HEADER_BYTES as u64 {
            let manifest = dir.join(names::MANIFEST);
            return Err(corrupt(ctx, &manifest, 0, "there are records and this is missing"));
        }
    }
    Ok(false)
}

impl Log {
    /// Whether it has files. A log without any is empty, and begins and ends at 0.
    pub(crate) fn has_files(&self) -> bool {
        self.manifest.made() == stage::FILES
    }

    /// Makes the files of a partition that is written to for the first time. The first thing that a
    /// write does, under the writer's lock.
    ///
    /// # Errors
    /// `DiskFull`, or another I/O error: nothing was written, and the next write tries again.
    pub(super) fn make_files(&self, tip: &mut Tip) -> Result<()> {
        let made = self.manifest.made();
        if made == stage::FILES {
            return Ok(());
        }
        self.check_writable()?;
        if made == stage::NOTHING {
            self.make_segment(tip)?;
            self.manifest.set_made(stage::SEGMENT);
        }
        // It says what is known already.
        self.manifest.commit(&self.ctx, |_| {}).map_err(|failed| failed.error)?;
        self.manifest.set_made(stage::FILES);
        self.ctx.note_files(&self.identity);
        Ok(())
    }

    fn make_segment(&self, tip: &mut Tip) -> Result<()> {
        let ctx = &*self.ctx;
        let topic = self.manifest.dir().parent().unwrap_or(Path::new(""));
        for dir in [topic, self.manifest.dir()] {
            let parent = dir.parent().unwrap_or(Path::new(""));
            let made = ctx.storage.create_dir(dir).and_then(|()| ctx.storage.sync_dir(parent));
            made.map_err(|e| Error::create(&ctx.display(dir), e))?;
        }
        let base = Offset::ZERO;
        let first = NextSegment { base, generation: 0, epoch: 0, prev_end: base, prev_crc: 0 };
        let file = create_segment(ctx, self.manifest.dir(), &first.header(ctx, &self.identity))?;
        tip.segment.adopt_file(ctx, file);
        Ok(())
    }
}
