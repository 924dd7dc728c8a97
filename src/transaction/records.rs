//! The records of a journal's file.

use std::collections::HashSet;
use std::path::Path;

use crate::engine::{Context, Identity, corrupt};
use crate::error::Error;
use crate::format::journal::{self, Committed, JOURNAL_HEADER_BYTES};
use crate::format::names;
use crate::format::reader::Malformed;
use crate::log::recovered_tail::{RecoveredTail, RecoveredTransaction};
use crate::types::Offset;

/// The records of a journal, as an opening has read them.
#[derive(Debug)]
pub(crate) struct JournalRecords {
    floor: u64,
    pub(super) ids: HashSet<u64>,
    /// The position after the last record in the file.
    end: u64,
}

impl JournalRecords {
    pub(super) fn new(floor: u64, records: &[Committed<'_>], end: usize) -> Self {
        JournalRecords { floor, ids: records.iter().map(|record| record.id).collect(), end: end as u64 }
    }

    /// Reads the records of a file.
    ///
    /// # Errors
    /// The file is damaged.
    pub(crate) fn of(file: &[u8]) -> std::result::Result<Self, Malformed> {
        let floor = journal::decode_header(file)?;
        let (records, end) = read_records(file, floor)?;
        Ok(JournalRecords::new(floor, &records, end))
    }

    /// Returns the first batch of a tail whose record was durable and is not among these records,
    /// and the batch that proves it. Ignores batches before `log_start`: they have been deleted,
    /// and the others of their transaction may be too.
    pub(crate) fn find_lost<'a>(
        &self,
        tail: &'a RecoveredTail,
        log_start: Offset,
    ) -> Option<(&'a RecoveredTransaction, Offset)> {
        let is_lost = |found: &RecoveredTransaction| {
            found.base >= log_start && found.id >= self.floor && !self.ids.contains(&found.id)
        };
        tail.transactions
            .iter()
            .filter(|found| is_lost(found))
            .find_map(|found| Some((found, found.witness?)))
    }
}

/// The error of a journal that has lost a record.
pub(super) fn lost_record(
    ctx: &Context,
    identity: &Identity,
    known: &JournalRecords,
    (found, witness): (&RecoveredTransaction, Offset),
) -> Error {
    let RecoveredTransaction { base, end, id, .. } = found;
    let what = format!(
        "the records end here, and the record of transaction {id} is missing: {}/{} has its batch at {base}..{end}, and the \
         batch at {witness} proves that the record was durable",
        identity.topic, identity.partition
    );
    corrupt(ctx, Path::new(names::JOURNAL), known.end, &what)
}

/// Returns the records of a file, and the position where they end.
pub(crate) fn read_records(
    file: &[u8],
    floor: u64,
) -> std::result::Result<(Vec<Committed<'_>>, usize), Malformed> {
    let mut records = Vec::new();
    let mut position = JOURNAL_HEADER_BYTES;
    while position < file.len() {
        match Committed::decode(file, floor, position) {
            Ok((record, end)) => {
                records.push(record);
                position = end;
            }
            // If a later record was written after this one was durable, this one is damaged.
            // Otherwise a crash tore it.
            Err(m) => {
                let synced = journal::synced_upto_behind(file, floor, position + 1);
                return if synced.is_some_and(|upto| upto > position as u64) {
                    Err(m)
                } else {
                    Ok((records, position))
                };
            }
        }
    }
    Ok((records, position))
}
