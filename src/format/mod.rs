#![doc = include_str!("FORMAT.md")]
// No decoder may panic, whatever the bytes are.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod body;
pub(crate) mod catalog;
pub(crate) mod checkpoint;
pub(crate) mod compression;
pub(crate) mod digest;
pub(crate) mod envelope;
pub(crate) mod index;
pub(crate) mod journal;
pub(crate) mod key_hash;
pub(crate) mod key_index;
pub(crate) mod manifest;
pub(crate) mod names;
pub(crate) mod offsets;
pub(crate) mod owner;
pub(crate) mod packing;
pub(crate) mod producers;
pub(crate) mod reader;
pub(crate) mod segment;
pub(crate) mod settings;
pub(crate) mod shipment;
pub(crate) mod varint;

#[cfg(test)]
mod damage;

/// The version that this build writes and reads. Version 1 was never released.
pub(crate) const FORMAT_VERSION: u32 = 2;
