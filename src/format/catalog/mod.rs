//! The catalog: the topics and the producers that have a name. Its file is a snapshot and the
//! changes since, one after the other.
//!
//! [`read`] makes a state from the bytes of a file, [`Catalog::snapshot`] makes the bytes of a new
//! file, and [`encode_change`] makes the bytes to append for one change. The caller decides what a
//! damaged file means for the broker.

mod file;
mod state;

pub(crate) use self::file::{HEADER_BYTES, ReadCatalog, encode_change, read};
pub(crate) use self::state::{
    Catalog, CatalogTopic, Change, Opening, ProducerEntry, TopicEntry, TopicState, folded,
};

#[cfg(test)]
mod tests;
