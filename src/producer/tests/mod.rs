//! The producer against a log that records its calls, fails on demand, and stops on demand.

mod contents;
mod destinations;
mod fakes;
mod futures;
mod order;
mod partitioning;
mod refusal;
mod room;
mod writing;
