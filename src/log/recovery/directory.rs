//! The directory of a partition while it is inspected and repaired.

use std::path::Path;

use crate::engine::{Context, Identity, corrupt};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::Seed;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::log::list::segments_of;
use crate::log::transitions::{SegmentId, id_of};
use crate::segment::Segment;
use crate::storage::File;
use crate::sync::Arc;
use crate::types::Offset;

/// A partition's directory, its manifest, and the segments that the manifest lists.
#[derive(Clone)]
pub(super) struct Directory<'a> {
    pub(super) ctx: &'a Context,
    pub(super) identity: &'a Arc<Identity>,
    pub(super) seed: Seed,
    pub(super) path: &'a Path,
    pub(super) manifest: Manifest,
    pub(super) segments: Vec<Arc<Segment>>,
    /// The segments at the end of `segments`, and of `manifest`, that the manifest on disk does not
    /// list: successors of the last one that it lists.
    pub(super) unlisted: Vec<SegmentId>,
    /// The base offsets of files that may be successors too, in order: see
    /// [`successors`](super::successors).
    pub(super) candidates: Vec<Offset>,
    /// The last segment that the manifest on disk lists.
    pub(super) last_listed: Option<SegmentId>,
}

impl<'a> Directory<'a> {
    pub(super) fn new(
        ctx: &'a Context,
        identity: &'a Arc<Identity>,
        path: &'a Path,
        manifest: Manifest,
        candidates: Vec<Offset>,
    ) -> Self {
        Directory {
            ctx,
            identity,
            seed: identity.seed(),
            path,
            segments: segments_of(path, &manifest),
            last_listed: manifest.segments.last().map(id_of),
            unlisted: Vec::new(),
            candidates: if manifest.has_successors { candidates } else { Vec::new() },
            manifest,
        }
    }

    /// Returns whether the manifest on disk does not list a segment.
    pub(super) fn is_unlisted(&self, segment: &Segment) -> bool {
        self.unlisted.contains(&segment.id())
    }

    /// Returns the segment with this index.
    ///
    /// # Errors
    /// `Corrupt` if the manifest does not list so many.
    pub(super) fn segment(&self, at: usize) -> Result<&Arc<Segment>> {
        self.segments.get(at).ok_or_else(|| self.manifest_damage("the manifest lists no such segment"))
    }

    /// Returns the active segment.
    ///
    /// # Errors
    /// `Corrupt` if the manifest lists no segment.
    pub(super) fn active(&self) -> Result<&Arc<Segment>> {
        self.segments.last().ok_or_else(|| self.manifest_damage("the manifest lists no segment"))
    }

    /// Returns the error of a manifest that cannot be right.
    pub(super) fn manifest_damage(&self, what: &str) -> Error {
        corrupt(self.ctx, &self.path.join(names::MANIFEST), 0, what)
    }

    /// Opens the file of a segment. Returns it and its length.
    ///
    /// # Errors
    /// An I/O error.
    pub(super) fn open(&self, segment: &Arc<Segment>) -> Result<(Arc<dyn File>, u64)> {
        let file = segment.file(self.ctx)?;
        let len = self.len_of(&*file, segment)?;
        Ok((file, len))
    }

    /// Returns the length of the file of a segment.
    ///
    /// # Errors
    /// An I/O error.
    pub(super) fn len_of(&self, file: &dyn File, segment: &Segment) -> Result<u64> {
        file.len().map_err(|e| Error::io(IoAction::Inspect, &self.ctx.display(&segment.path), e))
    }
}
