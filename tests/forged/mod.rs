//! The directory, its pieces, and the calls.

pub mod exercise;
pub mod pieces;
pub mod shipment;
pub mod world;
