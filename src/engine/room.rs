//! Room on the disk: the budget of all files, and the broker that deletes records to stay within
//! it.

use super::identity::Identity;
use crate::error::{Error, Result};
use crate::storage::budget::{Budget, BudgetClaim};
use crate::sync::{Arc, OnceLock};
use crate::types::Offset;

/// The broker, as its logs see it. The caller must hold no lock of a log and none of a group.
pub(crate) trait Keeper: Send + Sync {
    /// Returns the offset from which on retention must keep the partition, because a group that its
    /// topic waits for has not read the records from there on.
    fn hold(&self, of: &Identity) -> Offset;

    /// Deletes the records that retention may delete, in every partition, now. Returns whether any
    /// were deleted.
    fn make_room(&self) -> bool;

    /// Claims bytes of the budget, with a margin. Deletes the oldest deletable records until there
    /// is room.
    ///
    /// # Errors
    /// `OverBudget` if nothing more may be deleted.
    fn evict(&self, budget: &Arc<Budget>, bytes: u64, margin: u64) -> Result<BudgetClaim>;
}

/// The budget of the directory, if it has one, and the keeper that deletes records.
pub(crate) struct Room {
    budget: Option<Arc<Budget>>,
    keeper: OnceLock<Box<dyn Keeper>>,
}

impl Room {
    pub(super) fn new(budget: Option<Arc<Budget>>) -> Self {
        Room { budget, keeper: OnceLock::new() }
    }

    /// Sets the keeper. Must be called once, after opening: before that nothing is deleted to make
    /// room.
    pub(crate) fn set_keeper(&self, keeper: impl Keeper + 'static) {
        let _ = self.keeper.set(Box::new(keeper));
    }

    /// See [`Keeper::hold`]. Without a keeper, returns zero: every record is held.
    pub(crate) fn hold(&self, of: &Identity) -> Offset {
        self.keeper.get().map_or(Offset::ZERO, |keeper| keeper.hold(of))
    }

    /// See [`Keeper::make_room`]. Without a keeper, returns false.
    pub(crate) fn make_room(&self) -> bool {
        self.keeper.get().is_some_and(|keeper| keeper.make_room())
    }

    /// Claims so many bytes of the budget, if there is one. The claim lasts until it is dropped.
    /// The caller must hold no lock of a log and none of a group, because the oldest records may
    /// have to be deleted first.
    ///
    /// # Errors
    /// `OverBudget` if there is no room and nothing may be deleted.
    #[inline]
    pub(super) fn claim(&self, bytes: impl FnOnce() -> u64) -> Result<Option<BudgetClaim>> {
        match &self.budget {
            Some(budget) => self.claim_of(budget, bytes()).map(Some),
            None => Ok(None),
        }
    }

    /// Calls `write`, which writes so many bytes that nothing waits for, if the budget has plenty of
    /// room for them. Deletes nothing for them. Any lock may be held.
    pub(crate) fn with_spare<T>(&self, bytes: u64, write: impl FnOnce() -> T) -> Option<T> {
        let _claim = match &self.budget {
            Some(budget) => Some(budget.claim_spare(bytes)?),
            None => None,
        };
        Some(write())
    }

    fn claim_of(&self, budget: &Arc<Budget>, bytes: u64) -> Result<BudgetClaim> {
        // Room for the files written along the way: indexes, the checkpoint, the catalog.
        let margin = (budget.limit() / 16).min(64 << 10);
        if let Some(claim) = budget.claim(bytes, margin) {
            return Ok(claim);
        }
        match self.keeper.get() {
            Some(keeper) => keeper.evict(budget, bytes, margin),
            None => Err(Error::OverBudget { limit: budget.limit(), used: budget.used(), held_by: None }),
        }
    }
}
