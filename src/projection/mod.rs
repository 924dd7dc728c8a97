//! How does a read model keep up with its events? Either it is stored in topics of the same broker,
//! and its records and its position are committed in one transaction; or it is stored elsewhere,
//! together with its position.
//!
//! Both apply every event exactly once, in the order of each partition, whenever the process stops.
//! A topic with one partition is a total order; of a topic with several each has its own.

mod contract;
mod feed;
mod progress;
mod projector;
mod stateful;

pub use self::contract::Projection;
pub use self::feed::{Feed, ReadModel};
pub use self::progress::Progress;
pub use self::projector::Projector;
