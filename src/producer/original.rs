//! The first receipt of a record that was sent before.

use crate::error::{Error, Result};
use crate::log::cursor::Cursor;
use crate::log::{Log, durability};
use crate::reader::read_once;
use crate::record::Record;
use crate::sync::Arc;
use crate::types::{Offset, Receipt, Start};

/// The receipt of a record that was appended at an offset; `None` if it has been deleted since,
/// or compacted away with its batch, or if it must be `alike` a record and is not.
pub(super) fn original(
    log: &Arc<Log>,
    offset: Offset,
    alike: Option<&Record<'_>>,
) -> Result<Option<Receipt>> {
    // It may be written and not visible yet; then its first sender waits for the same.
    durability::sync_to_see(log, offset)?;
    let records = match read_once(log, Start::At(offset), 1) {
        Err(Error::OffsetOutOfRange { .. }) => return Ok(None),
        records => records?,
    };
    let found = records.iter().next().filter(|record| record.offset() == offset);
    if let (Some(found), Some(alike)) = (&found, alike)
        && (found.key(), found.value()) != (alike.key_bytes(), alike.value_bytes())
    {
        return Ok(None);
    }
    let told = match found.map(|record| (record.timestamp(), record.position().epoch)) {
        // The record is gone and its batch is not: the time is that of the batch, as Kafka's
        // is.
        None => match Cursor::new(log.clone(), offset).peek_any() {
            Err(Error::OffsetOutOfRange { .. }) => None,
            header => header?
                .filter(|header| header.base_offset <= offset)
                .map(|header| (header.max_timestamp, header.log_epoch)),
        },
        told => told,
    };
    let (topic, partition) = (log.topic().clone(), log.partition());
    Ok(told.map(|(timestamp, epoch)| Receipt { topic, partition, offset, timestamp, epoch }))
}
