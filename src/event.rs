//! What do events say of themselves? Three headers, named as CloudEvents names them in its Kafka
//! binding, so that other tools know them.
//!
//! Events evolve and what is stored does not: whoever reads them turns old ones into the newest
//! form. That is a function, an *upcaster*:
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
//! They are a convention: nothing in the log depends on the type or the schema version, and records
//! without them are fine. The id is looked at when an append to a [stream](crate::Stream::append)
//! is repeated, by itself or in a [transaction](crate::Transaction::append), and nowhere else.
//!
//! CloudEvents' binding for Kafka wants `ce_specversion` and `ce_source` besides, as headers of
//! yours.

/// The header with an event's id: any bytes that no other event of its stream has, given by whoever
/// appends it.
pub const ID: &str = "ce_id";
/// The header with an event's type, as text: `account.opened`.
pub const TYPE: &str = "ce_type";
/// The header with the version of the schema of an event's value, as decimal digits; an extension
/// attribute.
pub const SCHEMA_VERSION: &str = "ce_schemaversion";
