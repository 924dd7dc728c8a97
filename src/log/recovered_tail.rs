//! The transactions that a scan finds in one log, for comparison with the records of the journal.

use crate::format::batch::BatchHeader;
use crate::types::Offset;

/// The transactions at the end of a log that was not closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecoveredTail {
    /// All batches before it were known to be durable.
    pub(crate) from: Offset,
    /// The batches of transactions after it, in order.
    pub(crate) transactions: Vec<RecoveredTransaction>,
}

/// A batch of a transaction that a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecoveredTransaction {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) id: u64,
    /// The base offset of a later batch whose `synced_upto` covers this one. A log moves its
    /// durable end only after the records of its transactions are durable, so such a batch proves
    /// that the journal's record was durable.
    pub(crate) witness: Option<Offset>,
}

impl RecoveredTail {
    /// Notes the next batch of the log.
    pub(crate) fn pass(&mut self, header: &BatchHeader) {
        self.attest(header.base_offset, header.synced_upto);
        if header.transaction_id > 0 {
            self.transactions.push(RecoveredTransaction {
                base: header.base_offset,
                end: header.end_offset(),
                id: header.transaction_id,
                witness: None,
            });
        }
    }

    /// Notes that a later batch, at `witness`, proves that all records before `synced_upto` were
    /// durable.
    pub(crate) fn attest(&mut self, witness: Offset, synced_upto: Offset) {
        // They are in the order of their offsets, so those with a witness come first. Start with
        // the newest, because the older ones of a long log are covered already.
        let covered = self.transactions.partition_point(|found| found.end <= synced_upto);
        let newly =
            self.transactions.iter_mut().take(covered).rev().take_while(|found| found.witness.is_none());
        newly.for_each(|found| found.witness = Some(witness));
    }
}
