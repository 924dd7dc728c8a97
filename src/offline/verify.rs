//! Checks every file of a directory against the invariants of FORMAT.md. Nothing is changed.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use super::partition::{Fallen, PartitionCheck};
use super::survey::{Survey, SurveyedTopic, survey};
use super::tools::{finding, list, not_decoded, of_error, take_lock};
use crate::broker::Broker;
use crate::engine::{Context, Identity};
use crate::error::{Error, IoAction, Result};
use crate::format::batch::Secret;
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::journal;
use crate::format::manifest::Manifest;
use crate::format::names::{self, PartitionFile};
use crate::log::create::find_manifest;
use crate::log::invariants::{BatchPlace, Sequences};
use crate::log::recovery::{Note, assess};
use crate::log::walk::{KnownEnd, Seen, Watch, walk};
use crate::stats::{Finding, FindingKind, VerifyProgress, VerifyReport};
use crate::storage::fs::FsStorage;
use crate::storage::{OpenMode, Storage, read_file};
use crate::sync::{Arc, OnceLock};
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
struct BatchNotes<'v, 'a> {
    meter: &'v mut Meter<'a>,
    /// Of each segment, in order.
    places: Vec<Vec<BatchPlace>>,
    sequences: Sequences,
    /// Batches whose sequences do not rise.
    fallen: Vec<Fallen>,
    transactions: Vec<(Offset, u64)>,
    batches: u64,
    records: u64,
}

impl Watch for BatchNotes<'_, '_> {
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
        if let Err(broken) = self.sequences.pass(header) {
            let (position, offset) = (seen.position, header.base_offset);
            self.fallen.push(Fallen { at, position, offset, broken });
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
                let note = Note { entry, clean: is_clean, ..Note::default() };
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
        note: Note<'_>,
    ) -> Result<ControlFlow<()>> {
        let ctx = self.ctx;
        let is_marked = topic.with_files.contains(&partition) || note.entry.is_some();
        let identity = Identity {
            learnt: OnceLock::new(),
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
        let looked = assess(ctx, &identity, dir, &manifest, note)?;
        let manifest = looked.manifest.clone();
        self.names(dir, &manifest)?;
        let known = KnownEnd { offset: looked.end, active: looked.closed_at };
        let mut batches = BatchNotes {
            meter: &mut self.meter,
            places: Vec::new(),
            sequences: Sequences::default(),
            fallen: Vec::new(),
            transactions: Vec::new(),
            batches: 0,
            records: 0,
        };
        let walked = walk(ctx, &identity, dir, &manifest, known, &mut batches)?;
        let BatchNotes { places, fallen, transactions, batches, records, .. } = batches;
        self.report.batches += batches;
        self.report.records += records;
        let of_here = |(base, id)| (identity.topic_id, identity.partition, base, id);
        self.transactions.extend(transactions.into_iter().map(of_here));
        let Some(walked) = walked else { return Ok(ControlFlow::Break(())) };
        let check = PartitionCheck { ctx, identity: &identity, dir, manifest: &manifest, looked: &looked };
        let found = check.findings(&walked, &places, fallen);
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
        // Zeros are written ahead of the records.
        if file.get(end..).unwrap_or_default().iter().any(|byte| *byte != 0) {
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
