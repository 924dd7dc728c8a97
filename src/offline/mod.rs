//! Checking a directory that no broker has open, and copying the whole parts of it. The directory
//! is only read, whatever its damage.
//!
//! [`survey`] finds the topics, also where the catalog cannot be used; [`verify`] checks every
//! file; [`salvage`] copies everything whole into another directory.

mod partition;
mod rebuild;
mod salvage;
mod survey;
mod tools;
mod verify;

pub(crate) use self::salvage::salvage_on;
pub(crate) use self::verify::verify_on;
