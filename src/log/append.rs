//! Appends a batch. Under the writer's lock: a roll if one is due, the base offset and the header's
//! checksum, one positional write. Never under it: compression, a body's checksum, a sync of
//! records.

use super::create::make_files;
use super::durability::arm_interval;
use super::producers::Sender;
use super::roll::{bytes_to_append, roll_if_due};
use super::streams::StreamCondition;
use super::write::{remember, set_append_time, write_batch};
use super::writer::Tip;
use super::{Appended, Log, LogSettings, idempotence, retention, streams};
use crate::config::Durability;
use crate::error::Result;
use crate::format::names;
use crate::segment::builder::SealedBatch;
use crate::segment::keys::KeyCount;
use crate::stats::Event;
use crate::sync::{Arc, MutexGuard};
use crate::types::Offset;
use crate::version::Version;

/// The conditions of an append.
#[derive(Default)]
struct When<'a> {
    /// The log must end here.
    end: Option<Offset>,
    stream: Option<&'a StreamCondition>,
}

impl Log {
    /// Appends a batch: assigns its offsets and writes it. Its buffers may be gone after that,
    /// because readers have them. With `Os` and `Interval` it is visible on return. With `Sync` the caller must call [`wait_visible`](Log::wait_visible), or ask the
    /// worker to sync.
    ///
    /// # Errors
    /// `RecordTooLarge` if no segment has room for it, `MissingKey`, `DiskFull`: nothing was
    /// appended. After another failure of the write the partition is poisoned.
    pub(crate) fn append(self: &Arc<Self>, batch: &mut SealedBatch) -> Result<Appended> {
        append_if(self, batch, When::default(), None).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), for a batch of an idempotent producer, with sequences or
    /// without.
    ///
    /// # Errors
    /// `Fenced`, `OutOfOrderSequence`, and the errors of `append`.
    pub(crate) fn append_from(
        self: &Arc<Self>,
        batch: &mut SealedBatch,
        sender: &Sender<'_>,
    ) -> Result<Appended> {
        append_if(self, batch, When::default(), Some(sender)).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), if the log ends at `expected`.
    ///
    /// # Errors
    /// `OffsetConflict` if it does not, and the errors of `append`.
    pub(crate) fn append_at(self: &Arc<Self>, batch: &mut SealedBatch, expected: Offset) -> Result<Appended> {
        let when = When { end: Some(expected), ..When::default() };
        append_if(self, batch, when, None).map(|(appended, _)| appended)
    }

    /// As [`append`](Log::append), if a stream's version is as expected. Also returns that version.
    ///
    /// # Errors
    /// `VersionConflict` if it is not, and the errors of reading and of `append`.
    pub(crate) fn append_to_stream(
        self: &Arc<Self>,
        batch: &mut SealedBatch,
        condition: &StreamCondition,
    ) -> Result<(Appended, Version)> {
        append_if(self, batch, When { stream: Some(condition), ..When::default() }, None)
    }
}

/// Appends a batch if the conditions hold. Also returns the version of the stream of the condition.
fn append_if(
    log: &Arc<Log>,
    batch: &mut SealedBatch,
    when: When<'_>,
    sender: Option<&Sender<'_>>,
) -> Result<(Appended, Version)> {
    let (settings, changes) = log.settings.get();
    let keys = streams::keys_of(log, &settings, &batch.header, batch.records());
    if batch.stored.len() > settings.max_batch_bytes() {
        return Err(log.too_large(batch.stored.len(), settings.max_batch_bytes()));
    }
    let _claim = match names::is_own_topic(log.topic().as_str()) {
        // No claim for a topic of the broker: its append may release records that a group holds,
        // and the group's lock is held.
        true => None,
        false => log.ctx.claim(|| bytes_to_append(log, batch.stored.len()))?,
    };
    let mut append =
        Append { log, settings, changes, when, sender, batch, keys, rolled: None, is_visible: false };
    let done = append.with_room();
    if let Some(event) = append.rolled {
        log.ctx.events.report(&event);
        log.request_work();
    }
    log.ctx.reserve.appended(done.as_ref().map(drop));
    if done.is_err() {
        log.ctx.events.deliver();
    } else {
        if append.is_visible {
            log.wake_readers();
        }
        if let Durability::Interval(every) = append.settings.durability {
            arm_interval(log, every);
        }
        retention::keep_size(log);
    }
    done
}

/// An append in progress: at most two attempts.
struct Append<'a> {
    log: &'a Arc<Log>,
    settings: Arc<LogSettings>,
    /// How often the settings had changed when they were copied.
    changes: u64,
    when: When<'a>,
    sender: Option<&'a Sender<'a>>,
    /// Without its buffers once readers have them.
    batch: &'a mut SealedBatch,
    keys: Vec<KeyCount>,
    /// The event of the roll, to be delivered without a lock. Set even if the append failed after
    /// it.
    rolled: Option<Event>,
    /// The batch was visible at once: readers must be told.
    is_visible: bool,
}

impl<'a> Append<'a> {
    /// Appends. If there is no room, deletes the records that retention may delete, in any
    /// partition, and tries once more.
    fn with_room(&mut self) -> Result<(Appended, Version)> {
        match self.append_now() {
            // IMPORTANT: not for a commit of offsets, which is appended under its group's lock,
            // because `make_room` asks the groups which records they hold.
            Err(error) if error.is_full() && !names::is_own_topic(self.log.topic().as_str()) => {
                if !self.log.ctx.room.make_room() {
                    return Err(error);
                }
                self.append_now()
            }
            done => done,
        }
    }

    /// Appends the batch. Must not be called again once it has succeeded.
    fn append_now(&mut self) -> Result<(Appended, Version)> {
        let log = self.log;
        log.check_writable()?;
        log.ctx.reserve.check()?;
        let (mut tip, version) = self.lock_writer()?;
        // They change under this lock only.
        if log.settings.changes() != self.changes {
            (self.settings, self.changes) = log.settings.get();
        }
        let settings = &*self.settings;
        let SealedBatch { header, stored, raw, keyless } = &mut *self.batch;
        if keyless.is_some() {
            settings.check_keys(log.topic(), *keyless)?;
        }
        if self.sender.is_some() {
            // The side file of idempotent producers is made before their first batch.
            make_files(log, &mut tip, settings)?;
        }
        // Keep the producer-table guard until the batch is recorded, so that no other append of
        // this producer is checked in between.
        let mut checked =
            self.sender.map(|sender| idempotence::check_sender(log, header, sender)).transpose()?;
        let append_time = set_append_time(log, header, settings);
        if let Some(event) = roll_if_due(log, &mut tip, header, stored.len(), settings)? {
            self.rolled = Some(event);
        }
        let epoch = log.epoch();
        let end = write_batch(log, &mut tip, header, stored, &self.keys, settings)?;
        if let Some(condition) = self.when.stream {
            streams::note_version(&tip, condition, version, &self.keys);
        }
        if let Some(checked) = &mut checked {
            checked.note(header);
        }
        let base_offset = header.base_offset;
        // Without a reader that follows this log the next batch reuses the buffers, while they are
        // still in the processor's cache.
        if log.waiters.any() {
            remember(log, &tip, *header, stored.take(), raw.take());
        }
        self.is_visible = settings.durability != Durability::Sync;
        tip.ends.note_written(end, self.is_visible);
        Ok((Appended { base_offset, end, epoch, append_time }, version))
    }

    /// Takes the writer's lock, if the conditions hold. Also returns the version of the stream of
    /// the condition.
    fn lock_writer(&self) -> Result<(MutexGuard<'a, Tip>, Version)> {
        let log = self.log;
        loop {
            let counted =
                self.when.stream.map(|condition| streams::count_before(log, condition)).transpose()?;
            let tip = log.writer.lock();
            log.check_writable()?;
            if let Some(expected) = self.when.end.filter(|end| *end != tip.point.end) {
                return Err(log.conflict(expected, tip.point.end));
            }
            let (Some(condition), Some(counted)) = (self.when.stream, counted) else {
                return Ok((tip, Version::ZERO));
            };
            if let Some(version) = streams::check_condition(log, &tip, condition, &counted)? {
                return Ok((tip, version));
            }
        }
    }
}
