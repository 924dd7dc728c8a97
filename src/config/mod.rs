//! The settings of a broker and of a topic, and their defaults.
//!
//! Setters consume and return the value; the getter of `partitions` is `get_partitions`. Everything
//! is validated in one place, when the broker is opened or the topic is created. How settings are
//! stored is in `format/settings.rs`.
//!
//! One rule for zero, for these settings and for the bounds of calls elsewhere: it means what it
//! says, none of it or at once; and where nothing could work with that, it is refused by an
//! `InvalidConfig` with the setting, the value and the least value. It never stands for a default,
//! for no limit, or for one. `tests/behaviour/zero.rs` has a row for each.

mod broker;
mod cleanup;
mod compression;
mod getters;
mod retention;
mod topic;
mod values;

pub use self::broker::BrokerConfig;
pub use self::cleanup::Cleanup;
pub(crate) use self::cleanup::CompactionSettings;
pub use self::compression::Compression;
pub use self::retention::Retention;
pub use self::topic::TopicConfig;
pub(crate) use self::topic::{RecordLimit, SEGMENT_FRAMING, TimestampBounds, default_record_bytes};
pub use self::values::{Durability, ReadMode, TimestampType};
pub(crate) use self::values::{invalid, millis, too_small};
