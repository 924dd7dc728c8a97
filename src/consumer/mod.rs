//! How do several readers share topics, and continue where they were? As members of a group: each
//! partition belongs to one member, processed offsets are committed, and the next member that gets
//! a partition starts there.
//!
//! Useful for: workers that share the load, and programs that let the broker store their positions.
//! Not useful for: programs that keep their positions beside their own results; use a
//! [`Reader`](crate::Reader) for that.
//!
//! [`member`] keeps a consumer in step with its group, [`commit`] carries commits, [`offsets`] has
//! their contents, [`rebalance`] the argument of a listener. [`admin`] looks at groups from
//! outside.

mod admin;
mod builder;
pub(crate) mod commit;
mod counted;
mod departure;
mod early;
mod handle;
mod member;
mod offsets;
mod rebalance;
mod settings;

pub use self::admin::{Group, GroupDescription, GroupMember, GroupPartition};
pub use self::builder::ConsumerBuilder;
pub use self::commit::CommittedOffset;
pub use self::handle::{Consumer, ConsumerHandle};
pub use self::offsets::{IntoOffsets, Offsets};
pub use self::rebalance::{Rebalance, RebalanceEvent};
