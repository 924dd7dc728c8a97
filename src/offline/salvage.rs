//! Copies the whole parts of a damaged directory into another one, at the same offsets, under the
//! same identities, and reports the rest. The source is only read.
//!
//! An undamaged partition is copied unchanged, and the next opening of the copy recovers it as that
//! of the original would have. Of a damaged one the whole batches are copied, and a manifest is
//! made for them. Where the manifest itself is damaged it is made from the segments' headers: see
//! [`rebuild`](super::rebuild).
//!
//! The catalog is written last. An interrupted copy has none, and so is never used as a whole one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use super::rebuild::{Headers, manifest_of};
use super::survey::{Survey, SurveyedTopic, survey};
use super::tools::{list, not_decoded, of_error, take_lock};
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::engine::{Context, Identity};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::Secret;
use crate::format::catalog::{Catalog, Change};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::manifest::{EpochStart, LostRange, Manifest, SegmentEntry, SegmentState};
use crate::format::names;
use crate::format::producers::ProducersFile;
use crate::format::segment::SegmentHeader;
use crate::log::create::find_manifest;
use crate::log::manifest;
use crate::log::recovered_tail::RecoveredTail;
use crate::log::recovery::{Note, assess};
use crate::log::walk::{KnownEnd, Seen, Walked, Watch, walk};
use crate::segment::FIRST_BATCH;
use crate::segment::copy::in_pieces;
use crate::segment::create::{active_entry, create_segment, create_segment_file};
use crate::stats::{DamagedRange, Finding, FindingKind, SalvageReport};
use crate::storage::fs::FsStorage;
use crate::storage::{Storage, read_file, replace_file, write_all_at};
use crate::sync::{Arc, OnceLock};
use crate::transaction::records::JournalRecords;
use crate::types::{Offset, PartitionId};

impl Broker {
    /// Copies everything whole in `from` into the directory `to`, which must be missing or empty,
    /// and reports the rest. Nothing in `from` is changed, and no broker may have it open.
    ///
    /// The copy has the same topics, settings and partitions, every whole batch at its offset, the
    /// committed offsets of groups, and the names of producers. Readers of the copy
    /// [report](crate::SkipReason::Lost) missing records. No assigned offset is assigned again, as
    /// far as the end of a log is known; a new [epoch](crate::Partition::epoch) starts in every
    /// partition with files, at the latest when the copy is opened.
    ///
    /// This works also if the catalog, the journal or manifests are damaged; the report names the
    /// assumptions. Without a manifest, records that had been truncated, or deleted before the log
    /// start, may be there again.
    ///
    /// # Errors
    /// [`AlreadyOpen`](Error::AlreadyOpen) for either directory;
    /// [`ForeignDirectory`](Error::ForeignDirectory) if `to` is not empty;
    /// [`UnsupportedFormat`](Error::UnsupportedFormat) if a later release wrote the catalog;
    /// [`DiskFull`](Error::DiskFull) or [`Io`](Error::Io): after that `to` is no directory of a
    /// broker, and may be removed.
    ///
    /// ```no_run
    /// let report = quipu::Broker::salvage("data", "data-salvaged")?;
    /// for lost in &report.lost {
    ///     println!("{}/{}: offsets {} to {}: {}", lost.topic, lost.partition, lost.from, lost.to, lost.what);
    /// }
    /// # Ok::<(), quipu::Error>(())
    /// ```
    pub fn salvage(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<SalvageReport> {
        let from = FsStorage::new(from.as_ref().to_path_buf());
        // Before anything is created, because there must be something to copy.
        let root = Path::new("");
        from.list(root).map_err(|e| Error::io(IoAction::List, &from.display(root), e))?;
        let to = to.as_ref();
        let into = FsStorage::new(to.to_path_buf());
        FsStorage::create_root(to).and_then(|()| into.sync_root()).map_err(|e| Error::create(to, e))?;
        salvage_on(Arc::new(from), Arc::new(into))
    }
}

pub(crate) fn salvage_on(from: Arc<dyn Storage>, to: Arc<dyn Storage>) -> Result<SalvageReport> {
    let from = Context::for_reading(from);
    let config = BrokerConfig::new();
    let to = Context::new(to, &config, 0);
    let root = Path::new("");
    if let Some(found) = list(&to, root)?.first() {
        return Err(Error::ForeignDirectory { path: to.display(root), found: found.name.clone() });
    }
    let _read = take_lock(&from)?;
    let lock = to.storage.lock(Path::new(names::LOCK));
    let _written = lock.map_err(|e| match e.kind() {
        ErrorKind::WouldBlock => Error::AlreadyOpen { path: to.display(root), owner: None },
        _ => Error::create(&to.display(Path::new(names::LOCK)), e),
    })?;
    let mut survey = survey(&from)?;
    let report = SalvageReport {
        findings: std::mem::take(&mut survey.findings),
        notes: std::mem::take(&mut survey.notes),
        ..SalvageReport::default()
    };
    let mut salvager = Salvager { from: &from, to: &to, report, last_producer: 0, tails: Vec::new() };
    salvager.all(&survey)?;
    Ok(salvager.report)
}

struct Salvager<'a> {
    from: &'a Context,
    to: &'a Context,
    report: SalvageReport,
    /// The greatest id of a producer in a batch.
    last_producer: u64,
    /// The transactions of each partition that was copied.
    tails: Vec<RecoveredTail>,
}

/// The parts of a partition that are copied.
struct Whole {
    manifest: Manifest,
    walked: Vec<Walked>,
    /// The missing ranges.
    lost: Vec<LostRange>,
    /// As far as known, every offset below was assigned.
    end: Offset,
}

/// Counts copied batches, and finds the starts of epochs.
#[derive(Default)]
struct BatchCount {
    batches: u64,
    records: u64,
    last_producer: u64,
    epochs: Vec<EpochStart>,
    /// The transactions in it.
    tail: RecoveredTail,
}

impl Watch for BatchCount {
    fn batch(&mut self, _: usize, seen: &Seen<'_>) -> ControlFlow<()> {
        self.batches += 1;
        self.records += u64::from(seen.header.count);
        self.last_producer = self.last_producer.max(seen.header.producer_id);
        self.tail.pass(seen.header);
        let (epoch, start) = (seen.header.log_epoch, seen.header.base_offset);
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, start });
        }
        ControlFlow::Continue(())
    }
}

impl Salvager<'_> {
    fn all(&mut self, survey: &Survey) -> Result<()> {
        for dir in [names::TOPICS, names::TRASH] {
            self.make_dir(Path::new(dir))?;
        }
        let checkpoint = self.checkpoint(survey);
        let mut catalog = Catalog::empty();
        let mut with_files = Vec::new();
        for topic in &survey.topics {
            let mut copied = BTreeSet::new();
            for partition in 0..topic.entry.partitions {
                let entry = checkpoint.as_ref().and_then(|checkpoint| {
                    let is_it = |entry: &&CheckpointEntry| {
                        (entry.topic_id, entry.partition.get()) == (topic.entry.id, partition)
                    };
                    checkpoint.entries.iter().find(is_it)
                });
                let clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
                let note = Note { entry, clean, ..Note::default() };
                if self.partition(survey, topic, partition, note)? {
                    copied.insert(partition);
                }
            }
            self.report.topics.push((topic.entry.name.clone(), copied.len() as u64));
            with_files.push((topic.entry.id, copied));
        }
        self.journal()?;
        let next_id = survey.catalog.next_id().max(self.last_producer.saturating_add(1));
        let mut changes = vec![Change::Ids(next_id)];
        changes.extend(survey.topics.iter().map(|topic| Change::Topic(topic.entry.clone())));
        let marks = with_files.into_iter().filter(|(_, partitions)| !partitions.is_empty());
        changes.extend(marks.map(|(id, partitions)| Change::Partitions(id, partitions)));
        changes.extend(survey.catalog.producers().cloned().map(Change::Producer));
        for ((id, partition), starts) in &survey.catalog.epochs {
            if survey.topics.iter().any(|topic| topic.entry.id == *id) {
                let starts = starts.iter().map(|start| (*id, *partition, *start));
                changes.push(Change::Epochs(starts.collect()));
            }
        }
        // Without the last opening: nothing proves the ends of logs, so the next opening starts an
        // epoch in each.
        let path = Path::new(names::CATALOG);
        for change in changes {
            catalog.apply(change).map_err(|what| Error::corrupt(&self.from.display(path), 0, what))?;
        }
        let number = survey.found.as_ref().map_or(1, |found| found.number + 1);
        replace_file(&*self.to.storage, path, &catalog.snapshot(number))
            .map_err(|failed| Error::create(&self.to.display(path), failed.error))
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        let parent = dir.parent().unwrap_or(Path::new(""));
        let made = self.to.storage.create_dir(dir).and_then(|()| self.to.storage.sync_dir(parent));
        made.map_err(|e| Error::create(&self.to.display(dir), e))
    }

    /// The checkpoint, if it is of the catalog that was found.
    fn checkpoint(&mut self, survey: &Survey) -> Option<Checkpoint> {
        let path = Path::new(names::CHECKPOINT);
        let bytes = read_file(&*self.from.storage, path, 256 << 20).ok()?;
        let checkpoint = match Checkpoint::decode(&bytes) {
            Ok(checkpoint) => checkpoint,
            Err(m) => {
                self.report.findings.push(not_decoded(self.from, FindingKind::Derived, path, &m, 1));
                return None;
            }
        };
        match &survey.found {
            Some(found) => {
                let is_of_another = checkpoint.catalog_number > found.number
                    || (checkpoint.clean && checkpoint.catalog_number != found.number);
                (!is_of_another).then_some(checkpoint)
            }
            // The catalog that it was written for is not known. Its checked and synced positions do
            // not depend on that.
            None => Some(checkpoint),
        }
    }

    /// Copies the journal, if all of it makes sense: the opening of the copy settles its
    /// transactions.
    fn journal(&mut self) -> Result<()> {
        let path = Path::new(names::JOURNAL);
        let file = match read_file(&*self.from.storage, path, 4 << 30) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                let error = Error::io(IoAction::Read, &self.from.display(path), e);
                self.report.findings.push(of_error(self.from, path, &error, 1));
                return Ok(());
            }
        };
        let usable = match JournalRecords::of(&file) {
            Err(m) => {
                self.report.findings.push(not_decoded(self.from, FindingKind::Damage, path, &m, 1));
                None
            }
            // The copy would not be opened with it.
            Ok(known) => {
                let lost = self.tails.iter().find_map(|tail| known.find_lost(tail, Offset::ZERO));
                lost.is_none().then_some(())
            }
        };
        if usable.is_none() {
            self.report.notes.push(
                "the journal was left out, because it is damaged or has lost a record: batches of transactions \
                 count one by one, as far as they are in their partitions"
                    .to_string(),
            );
            return Ok(());
        }
        replace_file(&*self.to.storage, path, &file)
            .map_err(|failed| Error::create(&self.to.display(path), failed.error))
    }

    /// Copies a partition. Returns whether it has files in the copy.
    fn partition(
        &mut self,
        survey: &Survey,
        topic: &SurveyedTopic,
        partition: u32,
        note: Note<'_>,
    ) -> Result<bool> {
        let dir = Path::new(names::TOPICS).join(&topic.dir).join(partition.to_string());
        let identity = Identity {
            learnt: OnceLock::new(),
            topic: topic.entry.name.clone(),
            topic_id: topic.entry.id,
            partition: PartitionId::new(partition),
            secret: Secret::default(),
        };
        let is_marked = topic.with_files.contains(&partition) || note.entry.is_some();
        let mut count = BatchCount::default();
        let found = match find_manifest(self.from, &identity, &dir, is_marked) {
            Ok(None) => return Ok(false),
            Ok(Some(mut manifest)) => {
                for epoch in survey.catalog.epochs(&identity.topic_id, identity.partition) {
                    manifest.adopt_epoch(*epoch);
                }
                let identity = Arc::new(Identity { secret: manifest.secret, ..identity.clone() });
                self.of_manifest(&identity, &dir, manifest, note, &mut count)
            }
            Err(error @ Error::Corrupt(_)) => {
                let found = of_error(self.from, &dir.join(names::MANIFEST), &error, 1);
                self.report.findings.push(self.about(found, &identity));
                self.rebuild(&identity, &dir, note, &mut count)
            }
            Err(error) => Err(error),
        };
        let whole = match found {
            Ok(Some(whole)) => whole,
            Ok(None) => return Ok(false),
            // It is not copied; the others are.
            Err(error) => {
                let found = of_error(self.from, &dir, &error, 1);
                self.report.findings.push(self.about(found, &identity));
                return Ok(false);
            }
        };
        let identity = Identity { secret: whole.manifest.secret, ..identity };
        let target = names::partition_dir(&identity.topic, &identity.topic_id, identity.partition);
        self.make_dir(target.parent().unwrap_or(Path::new("")))?;
        self.make_dir(&target)?;
        self.report.batches += count.batches;
        self.report.records += count.records;
        self.last_producer = self.last_producer.max(count.last_producer);
        self.tails.push(count.tail);
        self.write(&identity, &dir, &target, &whole)?;
        Ok(true)
    }

    fn about(&self, found: Finding, identity: &Identity) -> Finding {
        Finding { topic: Some(identity.topic.clone()), partition: Some(identity.partition), ..found }
    }

    /// The whole parts of a partition that has its manifest.
    fn of_manifest(
        &mut self,
        identity: &Arc<Identity>,
        dir: &Path,
        manifest: Manifest,
        note: Note<'_>,
        count: &mut BatchCount,
    ) -> Result<Option<Whole>> {
        let looked = assess(self.from, identity, dir, &manifest, note)?;
        let manifest = looked.manifest.clone();
        let known = KnownEnd { offset: looked.end, active: looked.closed_at };
        let Some(mut walked) = walk(self.from, identity, dir, &manifest, known, count)? else {
            return Ok(None);
        };
        if let Some((torn, position, what)) = &looked.torn {
            self.report.notes.push(format!(
                "{}/{}: the bytes after {position} of segment {torn} were left out, as an opening would: {what}",
                identity.topic, identity.partition
            ));
            for (at, one) in walked.iter_mut().enumerate() {
                one.flaws.retain(|flaw| at < *torn || (at == *torn && flaw.position < *position));
                one.pieces.retain(|piece| at < *torn || (at == *torn && piece.position < *position));
            }
        }
        let lost = self.note_lost(identity, &walked);
        Ok(Some(Whole { manifest, walked, lost, end: looked.end }))
    }

    /// Adds the damage to the report. Returns its offsets.
    fn note_lost(&mut self, identity: &Identity, walked: &[Walked]) -> Vec<LostRange> {
        let mut lost = Vec::new();
        for one in walked {
            for flaw in &one.flaws {
                self.report.lost.push(DamagedRange {
                    topic: identity.topic.clone(),
                    partition: identity.partition,
                    file: self.from.display(&one.path),
                    position: flaw.position,
                    bytes: flaw.bytes,
                    from: flaw.from,
                    to: flaw.to,
                    what: flaw.what.clone(),
                    invariant: flaw.invariant,
                });
                lost.push(LostRange { from: flaw.from, to: flaw.to });
            }
        }
        lost
    }

    /// The whole parts of a partition without a manifest, from the headers of its segments.
    fn rebuild(
        &mut self,
        identity: &Identity,
        dir: &Path,
        note: Note<'_>,
        count: &mut BatchCount,
    ) -> Result<Option<Whole>> {
        let Headers { kept, unidentified } = Headers::find(self.from, identity, dir)?;
        for found in unidentified {
            self.report.findings.push(self.about(found, identity));
        }
        let Some(last) = kept.last() else { return Ok(None) };
        let identity = Arc::new(Identity { secret: last.secret, ..identity.clone() });
        let manifest = manifest_of(self.from, &identity, dir, &kept)?;
        let noted = note.entry.map_or(Offset::ZERO, |entry| entry.end_offset);
        let known = KnownEnd { offset: noted, active: None };
        let Some(mut walked) = walk(self.from, &identity, dir, &manifest, known, count)? else {
            return Ok(None);
        };
        for one in &mut walked {
            // Its size and its digest are not known, and the bytes after its end have been left
            // out.
            one.flaws.retain(|flaw| flaw.from < flaw.to);
        }
        let start = manifest.log_start;
        let mut epochs = std::mem::take(&mut count.epochs);
        if epochs.is_empty() {
            epochs.push(EpochStart { epoch: last.log_epoch, start });
        }
        self.report.notes.push(format!(
            "{}/{}: a manifest was made of {} segments; the log start is taken to be {start}, and what had been truncated \
             or deleted may be there again",
            identity.topic,
            identity.partition,
            kept.len()
        ));
        let lost = self.note_lost(&identity, &walked);
        Ok(Some(Whole { manifest: Manifest { epochs, ..manifest }, walked, lost, end: noted }))
    }

    /// Writes the whole batches of a partition, and a manifest of them.
    fn write(&mut self, identity: &Identity, dir: &Path, target: &Path, whole: &Whole) -> Result<()> {
        let Whole { manifest, walked, lost, end } = whole;
        let mut made = Manifest { segments: Vec::new(), ..manifest.clone() };
        let header_of = |entry: &SegmentEntry, before: Option<&SegmentEntry>| SegmentHeader {
            partition: identity.partition,
            topic_id: identity.topic_id,
            base_offset: entry.base_offset,
            prev_end: before.map_or(entry.base_offset, |before| before.end_offset),
            prev_crc: before.map_or(0, |before| before.last_crc),
            generation: entry.generation,
            log_epoch: entry.log_epoch,
            created_at: self.to.clock.now(),
            secret: identity.secret(),
        };
        for (entry, one) in manifest.segments.iter().zip(walked) {
            let Some(source) = one.open(self.from)? else { continue };
            for piece in &one.pieces {
                let state = match entry.state {
                    // IMPORTANT: never mark it as synced. The opening of the copy looks for
                    // transactions only in segments that are not, as that of the original would.
                    SegmentState::Active | SegmentState::Sealed => SegmentState::Sealed,
                    known => known,
                };
                let mut entry = SegmentEntry { state, base_offset: piece.first, ..*entry };
                if piece.position != FIRST_BATCH || !one.has_header {
                    entry.log_epoch = piece.epoch;
                }
                piece.end.end_entry(&mut entry);
                let header = header_of(&entry, made.segments.last());
                let file = create_segment_file(self.to, target, &header)?;
                let path = target.join(names::segment_file(entry.base_offset, entry.generation));
                let shown = self.to.display(&path);
                let to = piece.position + piece.bytes();
                in_pieces(&*source, &self.from.display(&one.path), piece.position, to, |at, bytes| {
                    let position = at - piece.position + FIRST_BATCH;
                    write_all_at(&*file, bytes, position).map_err(|(_, e)| Error::create(&shown, e))
                })?;
                file.sync_data().map_err(|e| Error::create(&shown, e))?;
                made.segments.push(entry);
            }
        }
        let last = made.segments.last().copied();
        let end = (*end).max(last.map_or(manifest.log_start, |last| last.end_offset)).max(manifest.log_start);
        let epoch = made.epoch().saturating_add(1);
        let generation =
            made.segments.iter().filter(|entry| entry.base_offset == end).map(|entry| entry.generation + 1);
        let active = active_entry(end, generation.max().unwrap_or(0), epoch);
        create_segment(self.to, target, &header_of(&active, last.as_ref()))?;
        made.begin_epoch(end);
        made.segments.push(active);
        lost.iter().for_each(|range| made.add_lost(*range));
        made.clip_lost(made.log_start, end);
        manifest::write(self.to, &target.join(names::MANIFEST), &made).map_err(|failed| failed.error)?;
        self.producers(identity, dir, target, end)
    }

    /// Copies the state of idempotent producers, if it is not about later records.
    fn producers(&mut self, identity: &Identity, dir: &Path, target: &Path, end: Offset) -> Result<()> {
        let Ok(bytes) = read_file(&*self.from.storage, &dir.join(names::PRODUCERS), u64::from(u32::MAX))
        else {
            return Ok(());
        };
        let is_ours = ProducersFile::decode(&bytes).is_ok_and(|file| {
            file.topic_id == identity.topic_id
                && file.partition == identity.partition
                && file.end_offset <= end
        });
        if !is_ours {
            return Ok(());
        }
        let path = target.join(names::PRODUCERS);
        replace_file(&*self.to.storage, &path, &bytes)
            .map_err(|failed| Error::create(&self.to.display(&path), failed.error))
    }
}
