//! How do records for one partition become one batch? They are checked like any others, encoded and
//! compressed, before a lock is taken.

use std::borrow::Borrow;

use super::TopicState;
use crate::config::invalid;
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::format::batch::{HEADER_BYTES, MAX_UNCOMPRESSED};
use crate::log::{Log, LogSettings};
use crate::record::Record;
use crate::segment::builder::{BatchBuilder, Measured, SealedBatch};
use crate::sync::Arc;
use crate::types::{Timestamp, TopicPartition};

/// A batch of records for one partition that is being built, and the values for their receipts.
pub(crate) struct Gathering {
    topic: Arc<TopicState>,
    log: Arc<Log>,
    settings: Arc<LogSettings>,
    builder: Option<BatchBuilder>,
    timestamps: Vec<Timestamp>,
}

impl Gathering {
    /// Without a record.
    pub(crate) fn new(topic: &Arc<TopicState>, log: &Arc<Log>) -> Self {
        Gathering {
            topic: topic.clone(),
            log: log.clone(),
            settings: log.settings(),
            builder: None,
            timestamps: Vec::new(),
        }
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Encodes one more record, number `index` of a call made `now`.
    ///
    /// # Errors
    /// `InvalidTimestamp`, `MissingKey`, `RecordTooLarge`. The caller must check the size of the
    /// batch after each call.
    pub(crate) fn push(
        &mut self,
        ctx: &Context,
        record: &Record<'_>,
        now: Timestamp,
        index: usize,
    ) -> Result<()> {
        let timestamp =
            record.timestamp_within(&self.topic.name, now, index, || self.topic.timestamps(now))?;
        if record.key_bytes().is_none() && self.topic.needs_keys() {
            return Err(Error::MissingKey { topic: self.topic.name.clone(), index });
        }
        let measured = Measured::new(record);
        let (size, limit) = (measured.len(), self.settings.max_record_len());
        if size > limit {
            return Err(self.too_large(size, limit));
        }
        let builder =
            self.builder.get_or_insert_with(|| BatchBuilder::new(ctx, HEADER_BYTES + size, timestamp));
        builder.push(&measured, timestamp);
        self.timestamps.push(timestamp);
        Ok(())
    }

    /// Checks the size of the batch as the part of a transaction.
    ///
    /// # Errors
    /// `TransactionTooLarge`.
    pub(crate) fn check_part(&self) -> Result<()> {
        let Some((size, limit)) = self.excess() else { return Ok(()) };
        let partition = Some(self.log.identity().topic_partition());
        Err(Error::TransactionTooLarge { partition, size, limit })
    }

    /// Returns the size of the records and the limit of a batch, if they are larger.
    fn excess(&self) -> Option<(usize, usize)> {
        let size = self.builder.as_ref().map_or(0, |builder| builder.body().len());
        let limit = MAX_UNCOMPRESSED as usize;
        (size > limit).then_some((size, limit))
    }

    fn too_large(&self, size: usize, limit: usize) -> Error {
        let TopicPartition { topic, partition } = self.log.identity().topic_partition();
        Error::RecordTooLarge { topic, partition, size, limit }
    }

    /// Compresses and checksums the batch; `None` if there is no record. Returns the times of the
    /// records too.
    ///
    /// # Errors
    /// `TopicDeleted`, `Closed`.
    pub(crate) fn seal(self, ctx: &Context) -> Result<(Option<SealedBatch>, Vec<Timestamp>)> {
        self.topic.check()?;
        let batch = self.builder.map(|builder| builder.seal(ctx, self.settings.compression));
        Ok((batch, self.timestamps))
    }
}

/// Encodes `records`, which have no sequences, as one batch for `log`, a partition of `topic`.
/// Beside it the times of the records.
///
/// # Errors
/// Those of [`Gathering`], `RecordTooLarge` for the batch; `InvalidConfig` if there are no records,
/// or one has a sequence.
pub(crate) fn prepare<'r>(
    ctx: &Context,
    topic: &Arc<TopicState>,
    log: &Arc<Log>,
    records: impl IntoIterator<Item: Borrow<Record<'r>>>,
) -> Result<(SealedBatch, Vec<Timestamp>)> {
    prepare_checked(ctx, topic, log, records, refuse_sequence)
}

/// As [`prepare`], of records that all have sequences.
///
/// # Errors
/// As `prepare`, but for the sequences.
pub(crate) fn prepare_sequenced<'r>(
    ctx: &Context,
    topic: &Arc<TopicState>,
    log: &Arc<Log>,
    records: impl IntoIterator<Item: Borrow<Record<'r>>>,
) -> Result<(SealedBatch, Vec<Timestamp>)> {
    prepare_checked(ctx, topic, log, records, |_| Ok(()))
}

/// # Errors
/// `InvalidConfig` if a record has a sequence where that would mean nothing.
pub(crate) fn refuse_sequence(record: &Record<'_>) -> Result<()> {
    match record.given_sequence() {
        Some(_) => Err(invalid(
            "sequence",
            "only an idempotent producer, which has a name, takes records with sequences",
        )),
        None => Ok(()),
    }
}

fn prepare_checked<'r>(
    ctx: &Context,
    topic: &Arc<TopicState>,
    log: &Arc<Log>,
    records: impl IntoIterator<Item: Borrow<Record<'r>>>,
    check: impl Fn(&Record<'_>) -> Result<()>,
) -> Result<(SealedBatch, Vec<Timestamp>)> {
    topic.check()?;
    let (mut gathering, now) = (Gathering::new(topic, log), ctx.clock.now());
    for (index, record) in records.into_iter().enumerate() {
        check(record.borrow())?;
        gathering.push(ctx, record.borrow(), now, index)?;
        if let Some((size, limit)) = gathering.excess() {
            return Err(gathering.too_large(size, limit));
        }
    }
    match gathering.seal(ctx)? {
        (Some(batch), timestamps) => Ok((batch, timestamps)),
        (None, _) => Err(invalid("records", "at least one must be given")),
    }
}
