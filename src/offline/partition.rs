//! The faults of one partition, from its manifest, the walk over its batches, and its derived
//! files.

use std::io::ErrorKind;
use std::path::Path;

use super::tools::{finding, not_decoded, of_error};
use crate::engine::{Context, Identity};
use crate::format::index::IndexFile;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::names;
use crate::format::producers::ProducersFile;
use crate::log::invariants::{self, BatchPlace, Broken};
use crate::log::list::segments_of;
use crate::log::recovery::Assessment;
use crate::log::walk::Walked;
use crate::segment::Segment;
use crate::stats::{Finding, FindingKind};
use crate::storage::read_file;
use crate::types::Offset;

/// A batch of a segment with this index in the manifest, whose header contradicts one before it.
pub(super) struct Fallen {
    pub(super) at: usize,
    pub(super) position: u64,
    pub(super) offset: Offset,
    pub(super) broken: Broken,
}

/// A partition to check.
pub(super) struct PartitionCheck<'a> {
    pub(super) ctx: &'a Context,
    pub(super) identity: &'a Identity,
    pub(super) dir: &'a Path,
    pub(super) manifest: &'a Manifest,
    /// The result of inspecting it as an opening would.
    pub(super) looked: &'a Assessment,
}

impl PartitionCheck<'_> {
    /// Returns all faults. `places` has the batches of each segment that was walked; `fallen` has
    /// the batches whose sequences do not rise.
    pub(super) fn findings(
        &self,
        walked: &[Walked],
        places: &[Vec<BatchPlace>],
        fallen: Vec<Fallen>,
    ) -> Vec<Finding> {
        let mut found = self.flaws(walked);
        if let Some(error) = self.looked.damage.as_ref().filter(|_| found.is_empty()) {
            found.push(of_error(self.ctx, self.dir, error, 12));
        }
        for Fallen { at, position, offset, broken } in fallen {
            let Some(one) = walked.get(at) else { continue };
            let fell = finding(self.ctx, FindingKind::Damage, &one.path, broken.what, broken.number);
            found.push(Finding { position, offsets: Some((offset, offset)), ..fell });
        }
        if self.looked.damage.is_none() {
            found.extend(self.epochs_and_start());
        }
        let segments = segments_of(self.dir, self.manifest);
        for (at, (segment, one)) in segments.iter().zip(walked).enumerate() {
            let places = places.get(at).map_or(&[][..], Vec::as_slice);
            found.extend(self.side_files(at, segment, one, places));
        }
        found.extend(self.producers());
        found
    }

    /// The faults of segments. At and after the place where an opening would truncate the log they
    /// are a torn tail.
    fn flaws(&self, walked: &[Walked]) -> Vec<Finding> {
        let torn = self.looked.torn.as_ref();
        let mut found = Vec::new();
        let mut has_torn = false;
        for (at, one) in walked.iter().enumerate() {
            for flaw in &one.flaws {
                let is_torn = torn.is_some_and(|(torn, position, _)| {
                    at > *torn || (at == *torn && flaw.position >= *position)
                });
                has_torn |= is_torn;
                let kind = if is_torn { FindingKind::TornTail } else { FindingKind::Damage };
                found.push(Finding {
                    position: flaw.position,
                    bytes: flaw.bytes,
                    offsets: Some((flaw.from, flaw.to)),
                    ..finding(self.ctx, kind, &one.path, flaw.what.clone(), flaw.invariant)
                });
            }
        }
        if let Some((at, position, what)) = torn.filter(|_| !has_torn)
            && let Some(one) = walked.get(*at)
        {
            let torn = finding(self.ctx, FindingKind::TornTail, &one.path, what.clone(), 2);
            found.push(Finding { position: *position, ..torn });
        }
        found
    }

    /// The contradictions to invariants 10 and 11 in the manifest.
    fn epochs_and_start(&self) -> Vec<Finding> {
        let (manifest, end) = (self.manifest, self.looked.end);
        let path = self.dir.join(names::MANIFEST);
        let of_manifest =
            |what: &str, invariant| finding(self.ctx, FindingKind::Damage, &path, what, invariant);
        invariants::of_bounds(manifest, end).map(|broken| of_manifest(broken.what, broken.number)).collect()
    }

    /// The faults of the derived files of a segment.
    fn side_files(&self, at: usize, segment: &Segment, one: &Walked, places: &[BatchPlace]) -> Vec<Finding> {
        let (ctx, identity) = (self.ctx, self.identity);
        let mut found = Vec::new();
        let entry = self.manifest.segments.get(at);
        let is_active = entry.is_some_and(|entry| entry.state == SegmentState::Active);
        let derived = |path: &Path, what: &str| finding(ctx, FindingKind::Derived, path, what, 16);
        let path = segment.index_path();
        match read_file(&*ctx.storage, &path, u64::from(u32::MAX)).map(|bytes| IndexFile::decode(&bytes)) {
            Ok(Ok(index)) => {
                let is_ours = index.topic_id == identity.topic_id
                    && index.partition == identity.partition
                    && index.base_offset == segment.base
                    && index.generation == segment.generation;
                if !is_ours {
                    found.push(derived(&path, "it is of another segment"));
                } else if one.flaws.is_empty() && index.log_epoch == segment.epoch {
                    let broken = invariants::of_index(&index, places).err();
                    found.extend(broken.map(|broken| derived(&path, broken.what)));
                }
            }
            Ok(Err(m)) => found.push(not_decoded(ctx, FindingKind::Derived, &path, &m, 1)),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => found.push(derived(&path, &e.to_string())),
        }
        // That of an active segment is valid after a clean close only.
        let covers = if is_active { self.looked.closed_at } else { Some(segment.size()) };
        if let Some(what) = covers.and_then(|covers| segment.keys_damage(ctx, identity, covers)) {
            found.push(derived(&segment.keys_path(), what));
        }
        found
    }

    /// The faults of the state of idempotent producers.
    fn producers(&self) -> Option<Finding> {
        let (ctx, identity) = (self.ctx, self.identity);
        let path = self.dir.join(names::PRODUCERS);
        let bytes = match read_file(&*ctx.storage, &path, u64::from(u32::MAX)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => return Some(finding(ctx, FindingKind::Derived, &path, e.to_string(), 1)),
        };
        let what = match ProducersFile::decode(&bytes) {
            Err(m) => return Some(not_decoded(ctx, FindingKind::Derived, &path, &m, 1)),
            Ok(file) if file.topic_id != identity.topic_id || file.partition != identity.partition => {
                "it is of another partition"
            }
            Ok(file) if file.end_offset > self.looked.end => "it covers more than the log has",
            Ok(_) => return None,
        };
        Some(finding(ctx, FindingKind::Derived, &path, what, 16))
    }
}
