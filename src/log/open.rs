//! Opens a log: puts its parts together from the result of the recovery.

use std::path::{Path, PathBuf};

use super::Log;
use super::compactor::Compactor;
use super::counters::Counters;
use super::create::unwritten;
use super::ends::Ends;
use super::health::Health;
use super::journal::LogJournal;
use super::list::SegmentList;
use super::manifest::{ManifestStore, stage};
use super::producers::ProducerTable;
use super::recovered_tail::RecoveredTail;
use super::recovery::{Note, Recovered, Unsynced, recover};
use super::settings::{CurrentSettings, LogSettings};
use super::sync_state::SyncState;
use super::tail::TailCache;
use super::writer::Writer;
use crate::engine::{Identity, Mark, Waiters};
use crate::error::{Error, Result};
use crate::format::batch::Secret;
use crate::format::manifest::{EpochStart, Manifest};
use crate::segment::create::active_entry;
use crate::segment::{Point, Segment};
use crate::stats::{OpenReport, Unproven};
use crate::sync::Arc;
use crate::types::Offset;

/// Opens a partition with this manifest. The files of a partition without a manifest are made by
/// the first write. Never fails: a partition that cannot be used returns its error from every call,
/// so that the others can be used.
pub(crate) fn open(
    journal: Arc<dyn LogJournal>,
    identity: Identity,
    dir: PathBuf,
    settings: Arc<LogSettings>,
    note: Note<'_>,
    found: Result<Option<Manifest>>,
    report: &mut OpenReport,
) -> Arc<Log> {
    let ctx = journal.ctx().clone();
    let made = if let Ok(None) = &found { stage::NOTHING } else { stage::FILES };
    let secret = match &found {
        Ok(Some(manifest)) => manifest.secret,
        Ok(None) => ctx.new_secret(identity.topic_id, identity.partition),
        Err(_) => Secret::default(),
    };
    let identity = Arc::new(Identity { secret, ..identity });
    let recovered = found.and_then(|manifest| match manifest {
        Some(manifest) => recover(&*journal, &identity, &dir, manifest, note, report),
        None => Ok(unwritten(&identity, &dir)),
    });
    let mut found = recovered.unwrap_or_else(|error| unusable(&identity, error));
    found.damage = found.damage.map(|error| error.in_partition(|| identity.topic_partition()));
    if let Some(active) = found.segments.last().filter(|_| found.damage.is_none() && found.unsynced.is_none())
    {
        // The recovery has synced all of it.
        active.mark_synced();
    }
    if let Some(error) = &found.damage {
        report.damaged.push((identity.topic_partition(), error.clone()));
    }
    assemble(journal, identity, dir, settings, found, made)
}

/// Puts the parts of a log together. `made` is a [`stage`].
pub(super) fn assemble(
    journal: Arc<dyn LogJournal>,
    identity: Arc<Identity>,
    dir: PathBuf,
    settings: Arc<LogSettings>,
    found: Recovered,
    made: u8,
) -> Arc<Log> {
    let ctx = journal.ctx().clone();
    if !ctx.settings.read_only {
        identity.learn(identity.secret());
    }
    let Recovered { manifest, segments, point, unsynced, last_listed, damage, has_senders, tail } = found;
    let Unsynced { from, inherited, unnamed } =
        unsynced.unwrap_or(Unsynced { from: point, inherited: Vec::new(), unnamed: Vec::new() });
    let health = Health::new(damage, !segments.is_empty());
    let active = segments.last().cloned().unwrap_or_else(|| first_segment(&dir));
    let ends = Ends::unsynced_after(from.end, point.end);
    let list = SegmentList::new(manifest.epoch(), manifest.log_start, segments, ends);
    let manifest = ManifestStore::new(dir, manifest, made);
    if let Some(last_listed) = last_listed {
        manifest.note_successors(last_listed, unnamed);
    }
    Arc::new(Log {
        durability: SyncState::new(from, inherited, &ctx.events),
        ctx,
        journal,
        settings: CurrentSettings::new(settings),
        writer: Writer::new(active, point, list.view().ends.clone()),
        list,
        manifest,
        tail: TailCache::new(),
        waiters: Waiters::default(),
        health,
        compactor: Compactor::default(),
        producers: ProducerTable::new(has_senders),
        counters: Counters::default(),
        recovered: tail,
        mark: Mark::default(),
        identity,
    })
}

/// Returns the state of a partition of which nothing can be used, because of `error`.
fn unusable(identity: &Identity, error: Error) -> Recovered {
    Recovered {
        manifest: Manifest {
            topic_id: identity.topic_id,
            partition: identity.partition,
            secret: identity.secret(),
            log_start: Offset::ZERO,
            epochs: Vec::new(),
            segments: Vec::new(),
            lost: Vec::new(),
            has_successors: false,
        },
        segments: Vec::new(),
        point: Point::start_of(Offset::ZERO, 0, 0, 0),
        unsynced: None,
        last_listed: None,
        damage: Some(error),
        has_senders: false,
        tail: RecoveredTail::default(),
    }
}

/// Returns the first segment of a log, for a log without segments: it has no file.
fn first_segment(dir: &Path) -> Arc<Segment> {
    Arc::new(Segment::from_entry(dir, &active_entry(Offset::ZERO, 0, 0), None))
}

/// Begins an epoch at the log's end, because it cannot be proven where the log had ended before
/// this opening: offsets from here on may have been assigned before, to records that are lost. Must
/// be called before any record is served. The caller makes the epoch durable; the next manifest
/// that is written includes it too.
///
/// Returns `None` if the log takes no appends, because then no offset is assigned again.
pub(crate) fn begin_epoch(log: &Log) -> Option<EpochStart> {
    log.check_writable().ok()?;
    let start = log.log_end();
    let mut manifest = log.manifest.get();
    manifest.begin_epoch(start);
    let epoch = manifest.epoch();
    log.list.begin_epoch(epoch);
    Some(EpochStart { epoch, start })
}

/// Returns the report of an opening that cannot prove where the log had ended.
pub(crate) fn unproven(log: &Log) -> Unproven {
    let end = log.bounds().log_end;
    let checked = log.recovered.from.min(end);
    Unproven { topic: log.topic().clone(), partition: log.partition(), checked, end }
}
