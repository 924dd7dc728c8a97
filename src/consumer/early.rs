//! The seeks and pauses of a member that has not got its first partitions yet.

use crate::reader::assigned::Assigned;
use crate::types::{Position, Start, TopicPartition};

/// The seeks and pauses that wait for the partitions of a member's first assignment.
#[derive(Clone, Default)]
pub(super) struct Early {
    everywhere: Option<Start>,
    /// Later than `everywhere`.
    seeks: Vec<Position>,
    paused: Vec<TopicPartition>,
}

impl Early {
    /// One partition will continue at a position.
    pub(super) fn seek(&mut self, to: &Position) {
        self.seeks.push(to.clone());
    }

    /// All partitions will continue at a place.
    pub(super) fn seek_all(&mut self, to: Start) {
        self.seeks.clear();
        self.everywhere = Some(to);
    }

    /// A partition will be paused, or not.
    pub(super) fn set_paused(&mut self, of: TopicPartition, paused: bool) {
        self.paused.retain(|other| *other != of);
        if paused {
            self.paused.push(of);
        }
    }

    pub(super) fn paused(&self) -> &[TopicPartition] {
        &self.paused
    }

    /// Moves and pauses a partition that the member has got.
    pub(super) fn apply(&self, assigned: &mut Assigned) {
        let of = assigned.log().identity().topic_partition();
        match self.seeks.iter().rev().find(|to| (&to.topic, to.partition) == (&of.topic, of.partition)) {
            Some(to) => assigned.seek(to.offset, to.epoch),
            None => {
                if let Some(place) = self.everywhere {
                    assigned.seek_to(place);
                    // So that the listener has a position. The poll tries again, and returns the
                    // error.
                    let _ = assigned.look_up();
                }
            }
        }
        assigned.set_paused(self.paused.contains(&of));
    }
}
