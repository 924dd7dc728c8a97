//! Checks every file of a directory against the invariants of FORMAT.md. Nothing is changed.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use super::survey::{Survey, SurveyedTopic, survey};
use super::tools::{finding, list, not_decoded, of_error, take_lock};
use crate::broker::Broker;
use crate::engine::{Context, Identity};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::Secret;
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::index::IndexFile;
use crate::format::journal;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::names::{self, PartitionFile};
use crate::format::producers::ProducersFile;
use crate::log::create::find_manifest;
use crate::log::recovery::{Look, Note, look, segments_of};
use crate::log::walk::{KnownEnd, Seen, Walked, Watch, walk};
use crate::segment::Segment;
use crate::stats::{Finding, FindingKind, VerifyProgress, VerifyReport};
use crate::storage::fs::FsStorage;
use crate::storage::{OpenMode, Storage, read_file};
use crate::sync::Arc;
use crate::transaction::records::read_records;
use crate::types::{Offset, PartitionId, TopicId};

impl Broker {
    /// Checks every file of a directory that no broker has open, down to the single record, and
    /// reports each fault: file, position, offsets, and the invariant of the format that does not
    /// hold. Nothing is written, so it works for copies and read-only media, too.
    ///
    /// `progress` is called about once a MiB, and can end the check with
    /// [`Break`](ControlFlow::Break): then the report has the findings so far, and is not complete.
    ///
    /// # Errors
    /// [`AlreadyOpen`](Error::AlreadyOpen); [`UnsupportedFormat`](Error::UnsupportedFormat) if a
    /// later release wrote the catalog; [`Io`](Error::Io) of directories. Files that cannot be read
    /// are findings.
    ///
    /// ```no_run
    /// use std::ops::ControlFlow;
    /// let report = quipu::Broker::verify("data", |at| {
    ///     eprintln!("{} of {} bytes", at.done, at.total);
    ///     ControlFlow::Continue(())
    /// })?;
    /// for finding in &report.findings {
    ///     println!("{}: {}", finding.file.display(), finding.what);
    /// }
    /// # Ok::<(), quipu::Error>(())
    /// ```
    pub fn verify(
        dir: impl AsRef<Path>,
        progress: impl FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport> {
        verify_on(Arc::new(FsStorage::new(dir.as_ref().to_path_buf())), progress)
    }
}

pub(crate) fn verify_on(
    storage: Arc<dyn Storage>,
    mut progress: impl FnMut(VerifyProgress) -> ControlFlow<()>,
) -> Result<VerifyReport> {
    let ctx = Context::for_reading(storage);
    let _lock = take_lock(&ctx)?;
    let mut survey = survey(&ctx)?;
    let report = VerifyReport {
        findings: std::mem::take(&mut survey.findings),
        notes: std::mem::take(&mut survey.notes),
        ..VerifyReport::default()
    };
    let meter = Meter { done: 0, total: total_bytes(&ctx)?, told: 0, progress: &mut progress };
    let mut verifier = Verifier { ctx: &ctx, report, meter, transactions: Vec::new() };
    let done = verifier.all(&survey)?;
    let mut report = verifier.report;
    report.bytes = verifier.meter.done;
    report.complete = done.is_continue();
    Ok(report)
}

/// The bytes of all files below the root.
fn total_bytes(ctx: &Context) -> Result<u64> {
    let mut total = bytes_in(ctx, Path::new(""))?;
    for topic in list(ctx, Path::new(names::TOPICS))?.iter().filter(|entry| entry.is_dir) {
        let dir = Path::new(names::TOPICS).join(&topic.name);
        for partition in list(ctx, &dir)?.iter().filter(|entry| entry.is_dir) {
            total += bytes_in(ctx, &dir.join(&partition.name))?;
        }
    }
    Ok(total)
}

fn bytes_in(ctx: &Context, dir: &Path) -> Result<u64> {
    let files = list(ctx, dir)?;
    let len = |name: &str| ctx.storage.open(&dir.join(name), OpenMode::Read).and_then(|file| file.len());
    Ok(files.iter().filter(|entry| !entry.is_dir).map(|entry| len(&entry.name).unwrap_or(0)).sum())
}

/// Counts bytes, and calls `progress`.
struct Meter<'a> {
    done: u64,
    total: u64,
    told: u64,
    progress: &'a mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
}

impl Meter<'_> {
    const STEP: u64 = 1 << 20;

    fn pass(&mut self, bytes: u64) -> ControlFlow<()> {
        self.done = (self.done + bytes).min(self.total);
        if self.done - self.told >= Self::STEP { self.tell() } else { ControlFlow::Continue(()) }
    }

    fn tell(&mut self) -> ControlFlow<()> {
        self.told = self.done;
        (self.progress)(VerifyProgress { done: self.done, total: self.total })
    }

    /// Moves on to a place, from any other.
    fn reach(&mut self, done: u64) -> ControlFlow<()> {
        self.done = done.min(self.total).max(self.told);
        self.tell()
    }
}

struct Verifier<'a> {
    ctx: &'a Context,
    report: VerifyReport,
    meter: Meter<'a>,
    /// Every batch of a transaction: its place and its id.
    transactions: Vec<(TopicId, PartitionId, Offset, u64)>,
}

/// The batches of one partition, in order.
struct Batches<'v, 'a> {
    meter: &'v mut Meter<'a>,
    /// Of each segment: position, base offset, greatest time.
    places: Vec<Vec<(u64, Offset, i64)>>,
    /// Of each producer the last sequence.
    sequences: HashMap<u64, u64>,
    /// Batches whose sequences do not rise: segment, position, offset.
    fallen: Vec<(usize, u64, Offset)>,
    transactions: Vec<(Offset, u64)>,
    batches: u64,
    records: u64,
}

impl Watch for Batches<'_, '_> {
    fn batch(&mut self, at: usize, seen: &Seen<'_>) -> ControlFlow<()> {
        let header = seen.header;
        self.batches += 1;
        self.records += u64::from(header.count);
        if self.places.len() <= at {
            self.places.resize_with(at + 1, Vec::new);
        }
        if let Some(places) = self.places.get_mut(at) {
            places.push((seen.position, header.base_offset, header.max_timestamp.as_millis()));
        }
        if header.transaction_id > 0 {
            self.transactions.push((header.base_offset, header.transaction_id));
        }
        if header.producer_id > 0 && header.attributes.given_sequences().is_some() {
            let last = self.sequences.insert(header.producer_id, header.base_sequence);
            if last.is_some_and(|last| last >= header.base_sequence) {
                self.fallen.push((at, seen.position, header.base_offset));
            }
        }
        ControlFlow::Continue(())
    }

    fn passed(&mut self, bytes: u64) -> ControlFlow<()> {
        self.meter.pass(bytes)
    }
}

impl Verifier<'_> {
    fn all(&mut self, survey: &Survey) -> Result<ControlFlow<()>> {
        let root = Path::new("");
        for entry in list(self.ctx, root)? {
            if !names::is_root_entry(&entry.name) && entry.name != "lost+found" {
                self.foreign(Path::new(&entry.name));
            }
        }
        let checkpoint = self.checkpoint(survey);
        let is_clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        let of_root = bytes_in(self.ctx, root)?;
        if self.meter.reach(of_root).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let entries = checkpoint.as_ref().map_or(&[][..], |checkpoint| &checkpoint.entries);
        let notes: HashMap<(TopicId, u32), &CheckpointEntry> =
            entries.iter().map(|entry| ((entry.topic_id, entry.partition.get()), entry)).collect();
        for entry in list(self.ctx, Path::new(names::TOPICS))? {
            if !survey.topics.iter().any(|topic| topic.dir == entry.name) {
                self.foreign(&Path::new(names::TOPICS).join(&entry.name));
            }
        }
        for topic in &survey.topics {
            for partition in 0..topic.entry.partitions {
                let entry = notes.get(&(topic.entry.id, partition)).copied();
                let note = entry.map(|entry| Note { entry, clean: is_clean });
                let before = self.meter.done;
                let dir = Path::new(names::TOPICS).join(&topic.dir).join(partition.to_string());
                match self.partition(survey, topic, partition, &dir, note) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(stopped) => return Ok(stopped),
                    Err(error) => {
                        let found = of_error(self.ctx, &dir, &error, 1);
                        self.report.findings.push(about(found, topic, partition));
                    }
                }
                if self.meter.reach(before + bytes_in(self.ctx, &dir)?).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        self.journal(survey, is_clean);
        let total = self.meter.total;
        Ok(self.meter.reach(total))
    }

    fn foreign(&mut self, path: &Path) {
        self.report.notes.push(format!("{} is not a file of the broker", self.ctx.display(path).display()));
    }

    /// The checkpoint, if an opening would use it.
    fn checkpoint(&mut self, survey: &Survey) -> Option<Checkpoint> {
        let path = Path::new(names::CHECKPOINT);
        let checkpoint = match read_file(&*self.ctx.storage, path, 256 << 20) {
            Ok(bytes) => match Checkpoint::decode(&bytes) {
                Ok(checkpoint) => checkpoint,
                Err(m) => {
                    self.report.findings.push(not_decoded(self.ctx, FindingKind::Derived, path, &m, 1));
                    return None;
                }
            },
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => {
                let error = Error::io(IoAction::Read, &self.ctx.display(path), e);
                self.report.findings.push(of_error(self.ctx, path, &error, 1));
                return None;
            }
        };
        let catalog = Path::new(names::CATALOG);
        let Some(found) = &survey.found else { return Some(Checkpoint { clean: false, ..checkpoint }) };
        let is_of_another = checkpoint.catalog_number > found.number
            || (checkpoint.clean && checkpoint.catalog_number != found.number);
        if is_of_another {
            self.report.notes.push(format!(
                "{} belongs to another catalog and is not used",
                self.ctx.display(path).display()
            ));
            return None;
        }
        if checkpoint.clean && (found.end < checkpoint.catalog_bytes || found.torn > 0) {
            let what = "a change that was on the medium when the broker was closed";
            let lost = finding(self.ctx, FindingKind::Damage, catalog, what, 1);
            self.report.findings.push(Finding { position: found.end, bytes: found.torn, ..lost });
        } else if found.torn > 0 {
            let torn =
                finding(self.ctx, FindingKind::TornTail, catalog, "a change that was never completed", 1);
            self.report.findings.push(Finding { position: found.end, bytes: found.torn, ..torn });
        }
        Some(checkpoint)
    }

    fn partition(
        &mut self,
        survey: &Survey,
        topic: &SurveyedTopic,
        partition: u32,
        dir: &Path,
        note: Option<Note<'_>>,
    ) -> Result<ControlFlow<()>> {
        let ctx = self.ctx;
        let is_marked = topic.with_files.contains(&partition) || note.is_some();
        let identity = Identity {
            topic: topic.entry.name.clone(),
            topic_id: topic.entry.id,
            partition: PartitionId::new(partition),
            secret: Secret::default(),
        };
        let mut manifest = match find_manifest(ctx, &identity, dir, is_marked) {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(error) => {
                self.report.partitions += 1;
                let path = dir.join(names::MANIFEST);
                let found = of_error(ctx, &path, &error, if path_is_missing(ctx, &path) { 15 } else { 1 });
                self.report.findings.push(about(found, topic, partition));
                return Ok(ControlFlow::Continue(()));
            }
        };
        self.report.partitions += 1;
        for epoch in survey.catalog.epochs(&identity.topic_id, identity.partition) {
            manifest.adopt_epoch(*epoch);
        }
        let identity = Arc::new(Identity { secret: manifest.secret, ..identity });
        self.names(dir, &manifest)?;
        let looked = look(ctx, &identity, dir, &manifest, note)?;
        let known = KnownEnd { offset: looked.end, active: looked.closed_at };
        let mut batches = Batches {
            meter: &mut self.meter,
            places: Vec::new(),
            sequences: HashMap::new(),
            fallen: Vec::new(),
            transactions: Vec::new(),
            batches: 0,
            records: 0,
        };
        let walked = walk(ctx, &identity, dir, &manifest, known, &mut batches)?;
        let Batches { places, fallen, transactions, batches, records, .. } = batches;
        self.report.batches += batches;
        self.report.records += records;
        let of_here = |(base, id)| (identity.topic_id, identity.partition, base, id);
        self.transactions.extend(transactions.into_iter().map(of_here));
        let Some(walked) = walked else { return Ok(ControlFlow::Break(())) };
        let mut found = flaws(ctx, &walked, &looked);
        if let Some(error) = looked.damage.as_ref().filter(|_| found.is_empty()) {
            found.push(of_error(ctx, dir, error, 12));
        }
        for (at, position, offset) in fallen {
            let Some(one) = walked.get(at) else { continue };
            let what = "sequences of a producer do not rise";
            let fell = finding(ctx, FindingKind::Damage, &one.path, what, 17);
            found.push(Finding { position, offsets: Some((offset, offset)), ..fell });
        }
        if looked.damage.is_none() {
            found.extend(epochs_and_start(ctx, dir, &manifest, looked.end));
        }
        let segments = segments_of(dir, &manifest);
        for (at, (segment, one)) in segments.iter().zip(&walked).enumerate() {
            let places = places.get(at).map_or(&[][..], Vec::as_slice);
            found.extend(side_files(ctx, &identity, &manifest, at, segment, one, places, &looked));
        }
        found.extend(producers(ctx, &identity, dir, looked.end));
        self.report.findings.extend(found.into_iter().map(|found| about(found, topic, partition)));
        Ok(ControlFlow::Continue(()))
    }

    /// Adds the files of a partition's directory that the manifest does not list.
    fn names(&mut self, dir: &Path, manifest: &Manifest) -> Result<()> {
        let is_listed = |base, generation| {
            manifest.segments.iter().any(|entry| (entry.base_offset, entry.generation) == (base, generation))
        };
        for entry in list(self.ctx, dir)? {
            let path = self.ctx.display(&dir.join(&entry.name));
            match names::parse_partition_file(&entry.name) {
                _ if entry.is_dir => self.foreign(&dir.join(&entry.name)),
                PartitionFile::Foreign => self.foreign(&dir.join(&entry.name)),
                PartitionFile::Segment { base, generation }
                | PartitionFile::Index { base, generation }
                | PartitionFile::Keys { base, generation }
                    if !is_listed(base, generation) =>
                {
                    let what = "is left over: the manifest does not list it";
                    self.report.notes.push(format!("{} {what}", path.display()));
                }
                PartitionFile::Torn { .. } | PartitionFile::Lost { .. } => {
                    self.report.notes.push(format!(
                        "{} keeps bytes that were removed as a torn tail or given up",
                        path.display()
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares the transactions of the journal with the batches of partitions.
    fn journal(&mut self, survey: &Survey, is_clean: bool) {
        let (ctx, path) = (self.ctx, Path::new(names::JOURNAL));
        let kind = if is_clean { FindingKind::Damage } else { FindingKind::TornTail };
        let file = match read_file(&*ctx.storage, path, 4 << 30) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return,
            Err(e) => {
                let error = Error::io(IoAction::Read, &ctx.display(path), e);
                return self.report.findings.push(of_error(ctx, path, &error, 1));
            }
        };
        // After a clean close it has no content that could be lost.
        let of_damage = if is_clean { FindingKind::Derived } else { FindingKind::Damage };
        let floor = match journal::decode_header(&file) {
            Ok(floor) => floor,
            Err(m) => return self.report.findings.push(not_decoded(ctx, of_damage, path, &m, 1)),
        };
        let (records, end) = match read_records(&file, floor) {
            Ok(read) => read,
            Err(m) => return self.report.findings.push(not_decoded(ctx, of_damage, path, &m, 1)),
        };
        if end < file.len() {
            let what = "a record that was never completed";
            self.report.findings.push(finding(ctx, FindingKind::TornTail, path, what, 1));
        }
        let mut unknown = Vec::new();
        for (id, partition, base, transaction) in self.transactions.iter().filter(|batch| batch.3 >= floor) {
            let is_known = records.iter().any(|record| {
                record.id == *transaction
                    && record.parts.iter().any(|part| {
                        (part.topic, part.partition, part.base_offset) == (*id, *partition, *base)
                    })
            });
            if !is_known {
                unknown.push((*id, *partition, *base));
            }
        }
        for (id, partition, base) in unknown {
            let topic = survey.topics.iter().find(|topic| topic.entry.id == id);
            let what = "a batch of a transaction that the journal does not have";
            let found = finding(ctx, kind, path, what, 13);
            let found = Finding { offsets: Some((base, base)), ..found };
            self.report.findings.push(match topic {
                Some(topic) => about(found, topic, partition.get()),
                None => found,
            });
        }
        if is_clean && !records.is_empty() {
            let what = "it has records, although the broker was closed properly";
            self.report.findings.push(finding(ctx, FindingKind::Derived, path, what, 13));
        }
    }
}

fn path_is_missing(ctx: &Context, path: &Path) -> bool {
    ctx.storage.open(path, OpenMode::Read).is_err_and(|e| e.kind() == ErrorKind::NotFound)
}

/// Adds the partition to a finding.
fn about(found: Finding, topic: &SurveyedTopic, partition: u32) -> Finding {
    let partition = Some(PartitionId::new(partition));
    Finding { topic: Some(topic.entry.name.clone()), partition, ..found }
}

/// The faults of segments. At and after the place where an opening would truncate the log they are
/// a torn tail.
fn flaws(ctx: &Context, walked: &[Walked], looked: &Look) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut has_torn = false;
    for (at, one) in walked.iter().enumerate() {
        for flaw in &one.flaws {
            let is_torn = looked
                .torn
                .as_ref()
                .is_some_and(|(torn, position, _)| at > *torn || (at == *torn && flaw.position >= *position));
            has_torn |= is_torn;
            let kind = if is_torn { FindingKind::TornTail } else { FindingKind::Damage };
            found.push(Finding {
                position: flaw.position,
                bytes: flaw.bytes,
                offsets: Some((flaw.from, flaw.to)),
                ..finding(ctx, kind, &one.path, flaw.what.clone(), flaw.invariant)
            });
        }
    }
    if let Some((at, position, what)) = looked.torn.as_ref().filter(|_| !has_torn)
        && let Some(one) = walked.get(*at)
    {
        let torn = finding(ctx, FindingKind::TornTail, &one.path, what.clone(), 2);
        found.push(Finding { position: *position, ..torn });
    }
    found
}

/// The contradictions to invariants 10 and 11 in a manifest.
fn epochs_and_start(ctx: &Context, dir: &Path, manifest: &Manifest, end: Offset) -> Vec<Finding> {
    let path = dir.join(names::MANIFEST);
    let of_manifest = |what: &str, invariant| finding(ctx, FindingKind::Damage, &path, what, invariant);
    let mut found = Vec::new();
    if manifest.log_start > end {
        found.push(of_manifest("the log ends before its start", 10));
    }
    if !manifest.epochs.is_sorted_by(|a, b| a.start < b.start) {
        found.push(of_manifest("the starts of the log epochs do not rise", 11));
    }
    if manifest.epochs.iter().any(|epoch| epoch.start > end) {
        found.push(of_manifest("a log epoch begins after the log's end", 11));
    }
    found
}

/// The faults of the derived files of a segment.
#[allow(clippy::too_many_arguments)]
fn side_files(
    ctx: &Context,
    identity: &Identity,
    manifest: &Manifest,
    at: usize,
    segment: &Segment,
    one: &Walked,
    places: &[(u64, Offset, i64)],
    looked: &Look,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let entry = manifest.segments.get(at);
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
                found.extend(contradiction(&index, places).map(|what| derived(&path, what)));
            }
        }
        Ok(Err(m)) => found.push(not_decoded(ctx, FindingKind::Derived, &path, &m, 1)),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => found.push(derived(&path, &e.to_string())),
    }
    // That of an active segment is valid after a clean close only.
    let covers = if is_active { looked.closed_at } else { Some(segment.size()) };
    if let Some(what) = covers.and_then(|covers| segment.keys_damage(ctx, identity, covers)) {
        found.push(derived(&segment.keys_path(), what));
    }
    found
}

/// The entries of an index that contradict its segment.
fn contradiction(index: &IndexFile, places: &[(u64, Offset, i64)]) -> Option<&'static str> {
    let end = places.last().map_or(u64::MAX, |_| index.covers_bytes);
    let (mut at, mut max_before) = (0, i64::MIN);
    for entry in &index.entries {
        let position = u64::from(entry.position);
        while let Some((_, _, max)) = places.get(at).filter(|place| place.0 < position) {
            max_before = max_before.max(*max);
            at += 1;
        }
        let base = index.base_offset.plus(u64::from(entry.offset_delta));
        match places.get(at) {
            Some(place) if (place.0, place.1) == (position, base) && position < end => {}
            _ => return Some("no batch starts at a position of it"),
        }
        if entry.max_before < max_before {
            return Some("a batch is later than its entry");
        }
    }
    None
}

/// The faults of the state of idempotent producers.
fn producers(ctx: &Context, identity: &Identity, dir: &Path, end: Offset) -> Option<Finding> {
    let path = dir.join(names::PRODUCERS);
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
        Ok(file) if file.end_offset > end => "it covers more than the log has",
        Ok(_) => return None,
    };
    Some(finding(ctx, FindingKind::Derived, &path, what, 16))
}
