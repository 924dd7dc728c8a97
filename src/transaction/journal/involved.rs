//! The batches that the records of a journal's file refer to, as far as its syncs need them: in
//! which logs, and from where to where.

use crate::log::participate::{Involved, InvolvedBatch};

/// The runs of batches of one file. A *run* is batches of one log that follow each other without a
/// gap, because a sync handles these as one: so a file with many transactions over the same
/// partitions has few runs.
#[derive(Default)]
pub(super) struct InvolvedRuns {
    runs: Vec<Involved>,
    /// How many of the runs the last sync has handled.
    settled: usize,
    /// A sync has taken the runs before it. IMPORTANT: they must not grow, because that sync does
    /// not know of batches that are added to them.
    taken: usize,
}

impl InvolvedRuns {
    /// Adds the batches of a record that was written.
    pub(super) fn add<'a>(&mut self, batches: impl Iterator<Item = InvolvedBatch<'a>>) {
        for batch in batches {
            let open = self.runs.get_mut(self.taken..).unwrap_or_default();
            // Only the last run of a log can end where the batch begins.
            let last = open.iter_mut().rev().take(LOOK_BACK).find(|run| run.is_of(batch.log));
            match last.filter(|run| run.end == batch.before) {
                Some(run) => run.end = batch.end,
                None => self.runs.push(batch.to_run()),
            }
        }
    }

    /// Returns the runs that no sync has handled, for a sync to handle, and the number for
    /// [`settle`](InvolvedRuns::settle) after it.
    pub(super) fn take(&mut self) -> (Vec<Involved>, usize) {
        self.taken = self.runs.len();
        (self.runs.get(self.settled..).unwrap_or_default().to_vec(), self.taken)
    }

    /// Notes that a sync has handled so many runs.
    pub(super) fn settle(&mut self, taken: usize) {
        self.settled = self.settled.max(taken);
    }

    pub(super) fn all(&self) -> &[Involved] {
        &self.runs
    }
}

/// How many runs are compared with a batch. More would cost more than they save; another run for
/// the same log is no mistake.
const LOOK_BACK: usize = 64;
