//! Reads of one partition without a reader.

use super::assigned::{Assigned, start_offset};
use super::policy::{OffsetReset, PollLimits};
use crate::error::{Error, Result};
use crate::log::{Log, lookup};
use crate::records::Records;
use crate::sync::Arc;
use crate::types::Start;

/// Reads one partition once, without a reader: the records from a position on, at least one batch
/// if there is any.
///
/// # Errors
/// `InvalidConfig` for 0 bytes; out of range, corrupt if the first batch is, deleted, closed, or an
/// I/O error.
pub(crate) fn read_once(log: &Arc<Log>, from: Start, max_bytes: usize) -> Result<Records> {
    let limits = PollLimits { max_records: usize::MAX, max_bytes, reset: OffsetReset::Fail };
    limits.check()?;
    loop {
        let mut records = Records::default();
        let epoch = log.epoch();
        let mut place = Assigned::new(log.clone(), start_offset(log, from)?, epoch);
        match place.deliver(&limits, &mut records) {
            // Good records before a bad batch: the read after them returns the error.
            Ok(_) => return Ok(records),
            Err(_) if !records.is_empty() => return Ok(records),
            // Retention or a truncation was faster; the beginning, or the end, is elsewhere now.
            Err(Error::OffsetOutOfRange { .. } | Error::Truncated { .. })
                if !matches!(from, Start::At(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The newest `n` visible records of one partition, oldest first.
///
/// # Errors
/// Corrupt if any of them is, deleted, closed, or an I/O error.
pub(crate) fn read_last(log: &Arc<Log>, n: usize) -> Result<Records> {
    log.check_readable()?;
    if n == 0 {
        return Ok(Records::default());
    }
    let limits = PollLimits { max_records: n, max_bytes: usize::MAX, reset: OffsetReset::Fail };
    loop {
        let epoch = log.epoch();
        let from = lookup::nth_newest(log, n as u64)?;
        let mut records = Records::default();
        match Assigned::new(log.clone(), from, epoch).deliver(&limits, &mut records) {
            Ok(_) => return Ok(records),
            // Retention or a truncation was faster.
            Err(Error::OffsetOutOfRange { .. } | Error::Truncated { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}
