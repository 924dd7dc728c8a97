//! The headers that describe an event. There are three, named as in CloudEvents' binding for Kafka,
//! so that other tools know them.
//!
//! Events evolve, and stored events do not change: the reader converts old ones into the newest
//! form. Such a function is called an *upcaster*:
//!
//! ```
//! use quipu::{Broker, ConsumedRecord, ExpectedVersion, Record, TopicConfig};
//!
//! /// By how many cents. Version 1 of the schema had whole euros.
//! fn moved(event: &ConsumedRecord<'_>) -> Option<i64> {
//!     let number: i64 = std::str::from_utf8(event.value()?).ok()?.parse().ok()?;
//!     match (event.event_type()?, event.schema_version().unwrap_or(1)) {
//!         ("account.moved", 1) => Some(number * 100),
//!         ("account.moved", 2) => Some(number),
//!         _ => None,
//!     }
//! }
//!
//! # fn main() -> quipu::Result<()> {
//! # let broker = Broker::in_memory()?;
//! let account = broker.create_topic("accounts", TopicConfig::streams())?.stream("account-7")?;
//! let event = |value| Record::new(value).event_type("account.moved");
//! account.append(ExpectedVersion::Empty, [event("5"), event("150").schema_version(2)])?;
//! assert_eq!(account.load()?.iter().filter_map(|event| moved(&event)).sum::<i64>(), 650);
//! # Ok(()) }
//! ```
//!
//! The headers are a convention: nothing in the log depends on the type or the schema version, and
//! records may lack them. The id is read only when an append to a [stream](crate::Stream::append)
//! is repeated, by itself or in a [transaction](crate::Transaction::append).
//!
//! CloudEvents' binding for Kafka also requires `ce_specversion` and `ce_source`, which the caller
//! adds as headers.

/// The header with an event's id: any bytes that no other event of its stream has, given by the
/// caller that appends it.
pub const ID: &str = "ce_id";
/// The header with an event's type, as text: `account.opened`.
pub const TYPE: &str = "ce_type";
/// The header with the version of the schema of an event's value, as decimal digits; an extension
/// attribute.
pub const SCHEMA_VERSION: &str = "ce_schemaversion";
