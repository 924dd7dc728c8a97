//! A stream is all records of one key, with a version that counts them: the events of one
//! aggregate.
//!
//! Useful for: event sourcing; any decision that depends on earlier events and must not be made
//! twice. Not useful for: reading all streams in order; use a [`Reader`](crate::Reader) or a
//! [`Consumer`](crate::Consumer) of the topic. With one partition that is the order of all appends;
//! of several partitions each has its own order.

mod handle;
mod history;
mod reader;
mod repeat;

pub use self::handle::Stream;
pub use self::history::{History, StreamReceipt};
pub use self::reader::StreamReader;
pub(crate) use self::repeat::EventIds;
