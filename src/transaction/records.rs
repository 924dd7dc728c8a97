//! The records that a journal's file has.

use std::collections::HashSet;
use std::path::Path;

use crate::engine::{Context, Identity, corrupt};
use crate::error::Error;
use crate::format::journal::{self, Committed, JOURNAL_HEADER_BYTES};
use crate::format::names;
use crate::format::reader::Malformed;
use crate::log::recovery::transactions::{Found, Tail};
use crate::types::Offset;

/// The records of a journal, as an opening has found them.
#[derive(Debug)]
pub(crate) struct Known {
    floor: u64,
    pub(super) ids: HashSet<u64>,
    /// Where the records end in the file.
    end: u64,
}

impl Known {
    pub(super) fn new(floor: u64, records: &[Committed<'_>], end: usize) -> Self {
        Known { floor, ids: records.iter().map(|record| record.id).collect(), end: end as u64 }
    }

    /// What a file has.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn of(file: &[u8]) -> std::result::Result<Self, Malformed> {
        let floor = journal::decode_header(file)?;
        let (records, end) = read_records(file, floor)?;
        Ok(Known::new(floor, &records, end))
    }

    /// The first batch of a tail whose record was on the medium and is not among these. Not a batch before `log_start`: it has
    /// been deleted, and the others of its transaction may be too.
    pub(crate) fn find_lost<'a>(&self, tail: &'a Tail, log_start: Offset) -> Option<&'a Found> {
        tail.transactions.iter().find(|found| {
            found.witness.is_some()
                && found.base >= log_start
                && found.id >= self.floor
                && !self.ids.contains(&found.id)
        })
    }
}

/// The error of a journal that has lost a record.
pub(super) fn lost_record(ctx: &Context, identity: &Identity, known: &Known, found: &Found) -> Error {
    let Found { base, end, id, witness } = found;
    let witness = witness.map_or(0, Offset::get);
    let what = format!(
        "its records end here, and the one of transaction {id} is missing: {}/{} has its batch at {base}..{end}, and the batch \
         at {witness} there says that it was on the medium",
        identity.topic, identity.partition
    );
    corrupt(ctx, Path::new(names::JOURNAL), known.end, &what)
}

/// The records of a file, and where they end in it.
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
            // A later record that was written when this had been on the medium makes it damage; otherwise it is what a
            // crash leaves.
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
