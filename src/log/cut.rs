//! Logs as of one moment, for a backup: which bytes of which files, and the manifest that lists
//! them.
//!
//! All writers are locked at once, for as long as it takes to copy a few numbers of each. So of two
//! appends in any two logs, the later one is in the cut only if the earlier one is, and a
//! transaction, which holds its writers until its last batch is written, is in all of its logs or
//! in none. The cut is at the log end; the last records need not be durable or visible yet.
//!
//! The files of a cut are those of the manifest at that moment. A change that replaces segments
//! commits its manifest before it removes their files, so they are [held](crate::engine::HeldFiles)
//! if the hold was on before the cut.

use std::path::PathBuf;

use super::Log;
use crate::engine::Identity;
use crate::error::Result;
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::producers::ProducersFile;
use crate::segment::Point;
use crate::sync::Arc;
use crate::types::Offset;

/// A log as of one moment.
pub(crate) struct LogCut {
    log: Arc<Log>,
    /// As a backup has it: everything up to the point is synced, and an epoch begins there, so that
    /// the positions of records that come later in the log are refused by the backup.
    pub(crate) manifest: Manifest,
    /// The end of the log.
    pub(crate) point: Point,
    /// The known batches of idempotent producers, if they were read since the log was opened.
    producers: Option<ProducersFile>,
}

/// A segment of a cut.
pub(crate) struct CutSegment {
    /// The name of its file in the partition's directory.
    pub(crate) file: String,
    /// How many bytes of it are part of the cut.
    pub(crate) bytes: u64,
    /// The entry of a sealed segment, whose file never changes. `None` for the active one.
    pub(crate) sealed: Option<SegmentEntry>,
    /// The names of derived files, which may be missing.
    pub(crate) indexes: [String; 2],
}

/// Cuts all logs that have files at one moment, and calls `also` at that moment.
pub(crate) fn cut_all<T>(mut logs: Vec<Arc<Log>>, also: impl FnOnce() -> T) -> (Vec<LogCut>, T) {
    // The order of the writers' locks.
    logs.sort_by_key(|log| (log.identity.topic_id, log.identity.partition));
    let tips: Vec<_> = logs.iter().map(|log| log.writer.lock()).collect();
    let mut cuts = Vec::with_capacity(logs.len());
    for (log, tip) in logs.iter().zip(&tips).filter(|(log, _)| log.has_files()) {
        let known = log.producers.lock();
        let is_known = known.revision == Some(log.revision()) && !known.producers.is_empty();
        let producers = is_known.then(|| known.producers.list());
        drop(known);
        let Identity { topic_id, partition, .. } = *log.identity;
        cuts.push(LogCut {
            log: log.clone(),
            manifest: log.manifest.get().clone(),
            point: tip.point,
            producers: producers.map(|producers| ProducersFile {
                topic_id,
                partition,
                log_epoch: log.epoch(),
                end_offset: tip.point.end,
                producers,
            }),
        });
    }
    let also = also();
    drop(tips);
    cuts.iter_mut().for_each(LogCut::settle);
    (cuts, also)
}

impl LogCut {
    /// Makes the manifest that of the backup.
    fn settle(&mut self) {
        let manifest = &mut self.manifest;
        manifest.has_successors = false;
        for entry in manifest.segments.iter_mut().filter(|entry| entry.state == SegmentState::Sealed) {
            entry.state = SegmentState::Synced;
        }
        manifest.begin_epoch(self.point.end);
        let epoch = manifest.epoch();
        if let Some(producers) = &mut self.producers {
            producers.log_epoch = epoch;
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.log.identity
    }

    /// The directory of the partition.
    pub(crate) fn dir(&self) -> PathBuf {
        self.log.manifest.dir().to_path_buf()
    }

    /// Its segments, oldest first; the last one is the active one.
    pub(crate) fn segments(&self) -> impl Iterator<Item = CutSegment> {
        self.manifest.segments.iter().map(|entry| {
            let is_active = entry.state == SegmentState::Active;
            let (base, generation) = (entry.base_offset, entry.generation);
            CutSegment {
                file: names::segment_file(base, generation),
                bytes: if is_active { self.point.position } else { entry.size },
                sealed: (!is_active).then_some(*entry),
                indexes: [names::index_file(base, generation), names::key_index_file(base, generation)],
            }
        })
    }

    /// The entry of a checkpoint with which an opening reads nothing of the log.
    pub(crate) fn checkpoint(&self) -> CheckpointEntry {
        super::maintenance::entry_of(&self.log, &self.point)
    }

    /// The side file of idempotent producers, given the one `on_disk`: `None` if there is none. It
    /// covers no more than the cut. Where the sequences at the cut are not known any more, it has
    /// only those of records that were deleted before, and the others are read from the log.
    pub(crate) fn producers(&self, on_disk: Option<ProducersFile>) -> Option<ProducersFile> {
        let (start, end) = (self.manifest.log_start, self.point.end);
        match (self.producers.clone(), on_disk) {
            (Some(mut known), on_disk) => {
                for (id, batches) in on_disk.into_iter().flat_map(|file| file.producers) {
                    if let Some(batch) = batches.iter().rev().find(|batch| batch.last_offset < start) {
                        super::producers::add_older(&mut known, id, *batch);
                    }
                }
                Some(known)
            }
            (None, Some(file)) if file.end_offset <= end => Some(file),
            (None, Some(file)) => Some(only_before(file, start)),
            (None, None) => None,
        }
    }

    /// # Errors
    /// The partition is damaged.
    pub(crate) fn check(&self) -> Result<()> {
        let health = self.log.health();
        health.failure().filter(|_| health.is_damaged()).map_or(Ok(()), Err)
    }
}

/// The side file without the batches of records that are in the log.
fn only_before(mut file: ProducersFile, start: Offset) -> ProducersFile {
    for (_, batches) in &mut file.producers {
        batches.retain(|batch| batch.last_offset < start);
    }
    file.producers.retain(|(_, batches)| !batches.is_empty());
    file.end_offset = start;
    file
}
