//! How do records that are to go into one partition together become one batch? Checked like any others, encoded and
//! compressed, before anybody holds a lock.

use super::TopicState;
use crate::config::{Compression, invalid};
use crate::error::{Error, Result};
use crate::format::batch::{HEADER_BYTES, MAX_UNCOMPRESSED};
use crate::format::compression::Compressor;
use crate::log::builder::{BatchBuilder, record_len};
use crate::log::{Appended, Context, Log, SealedBatch};
use crate::record::Record;
use crate::types::{Receipt, Timestamp};

/// A batch for one partition, and what its receipts need.
pub(crate) struct Prepared {
    pub(crate) batch: SealedBatch,
    timestamps: Vec<Timestamp>,
}

impl Prepared {
    /// Encodes `records` as one batch for `log`, a partition of `topic`.
    ///
    /// # Errors
    /// `TopicDeleted`, `Closed`, `InvalidTimestamp`; `RecordTooLarge` for one record, or for a batch that no segment has
    /// room for; `InvalidConfig` if there are no records.
    pub(crate) fn new<'r>(
        ctx: &Context,
        topic: &TopicState,
        log: &Log,
        records: impl IntoIterator<Item = Record<'r>>,
    ) -> Result<Self> {
        topic.check()?;
        let settings = log.settings();
        let largest_batch = settings.max_batch_bytes();
        let largest = (settings.max_record_bytes as usize).min(largest_batch.saturating_sub(HEADER_BYTES));
        let now = ctx.clock.now();
        let mut timestamps = Vec::new();
        let mut builder: Option<BatchBuilder> = None;
        for (index, record) in records.into_iter().enumerate() {
            let timestamp = record.timestamp_within(now, index, || topic.timestamps(now))?;
            if record.key_bytes().is_none() && topic.needs_keys() {
                return Err(Error::MissingKey { index });
            }
            let size = record_len(&record);
            if size > largest {
                return Err(Error::RecordTooLarge { size, limit: largest });
            }
            let builder =
                builder.get_or_insert_with(|| BatchBuilder::new(ctx, HEADER_BYTES + size, timestamp));
            builder.push(&record, timestamp);
            if builder.body().len() > MAX_UNCOMPRESSED as usize {
                return Err(Error::RecordTooLarge {
                    size: builder.body().len(),
                    limit: MAX_UNCOMPRESSED as usize,
                });
            }
            timestamps.push(timestamp);
        }
        let Some(builder) = builder else { return Err(invalid("records", "there are none")) };
        let batch = match settings.compression {
            Compression::None => builder.seal(ctx, None),
            Compression::Lz4 => builder.seal(ctx, Some(&mut Compressor::default())),
        };
        if batch.stored.len() > largest_batch {
            return Err(Error::RecordTooLarge { size: batch.stored.len(), limit: largest_batch });
        }
        Ok(Prepared { batch, timestamps })
    }

    /// What the senders of its records get to know once the batch is in the log.
    pub(crate) fn receipts<'a>(
        log: &'a Log,
        timestamps: &'a [Timestamp],
        appended: Appended,
    ) -> impl Iterator<Item = Receipt> + 'a {
        (0..).zip(timestamps).map(move |(index, &timestamp)| Receipt {
            topic: log.topic().clone(),
            partition: log.partition(),
            offset: appended.base_offset.plus(index),
            timestamp: appended.append_time.unwrap_or(timestamp),
            epoch: appended.epoch,
        })
    }

    /// The batch, and the times of its records.
    pub(crate) fn into_parts(self) -> (SealedBatch, Vec<Timestamp>) {
        (self.batch, self.timestamps)
    }
}
