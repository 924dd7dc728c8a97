//! The limits of a poll, and the policy for a position that is not in the log.

use crate::config::too_small;
use crate::error::Result;

/// Where to continue when the next offset is not in the log: retention has passed it, or records
/// were truncated from the log's end since the position was taken.
///
/// Every such step is reported by [`Records::skipped`](crate::Records::skipped), also when no
/// record comes with it. A seek in the meantime makes it void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(alias = "auto.offset.reset")]
#[non_exhaustive]
pub enum OffsetReset {
    /// At the log start: Kafka's `earliest`. The default, unlike Kafka's, which is `latest` and so
    /// loses the records that a slow reader has not seen.
    #[default]
    #[doc(alias = "earliest")]
    Beginning,
    /// At the visible end: only records that come later. Kafka's `latest`. Partitions that are
    /// added to a topic are read from their beginning nevertheless.
    #[doc(alias = "latest")]
    End,
    /// At the nearest offset that is in the log: its start when retention has passed the position,
    /// its end when the position lies after it, the end of the common history when the log was
    /// truncated. No record that is still there is left out.
    Nearest,
    /// Nowhere: each poll returns the error, and the position stays, until the caller seeks.
    Fail,
}

/// The limits of one poll.
pub(crate) struct PollLimits {
    pub(crate) max_records: usize,
    /// Soft for the first batch.
    pub(crate) max_bytes: usize,
    pub(crate) reset: OffsetReset,
}

impl PollLimits {
    /// # Errors
    /// `InvalidConfig`: a poll could return nothing, ever.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_records == 0 {
            return Err(too_small("max_records", "0 records", "1"));
        }
        check_max_bytes(self.max_bytes)
    }
}

/// Checks how many bytes a read may return.
///
/// # Errors
/// `InvalidConfig`.
#[inline]
pub(crate) fn check_max_bytes(bytes: usize) -> Result<()> {
    if bytes == 0 { Err(too_small("max_bytes", "0 bytes", "1 byte")) } else { Ok(()) }
}

impl Default for PollLimits {
    fn default() -> Self {
        PollLimits { max_records: usize::MAX, max_bytes: 1 << 20, reset: OffsetReset::default() }
    }
}
