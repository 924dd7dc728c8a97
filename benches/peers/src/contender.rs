//! A store that is measured, and the calls that the workloads make.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The calls that a contender may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `append_batch`, without a sync.
    Batch,
    /// `append_one`.
    One,
    /// `append_through`.
    Through,
    /// `durable_writer`, from one thread.
    Durable,
    /// `durable_writer`, from several threads at once.
    DurableThreads,
    /// `scan`, fast enough to read a log of these sizes.
    Scan,
    Get,
    /// `pair`, polling.
    TailSpinning,
    /// `pair`, with a receiver that waits in the library.
    TailSleeping,
    /// The log can be opened again after it was closed, by a call that makes it ready.
    Closed,
    /// The log can be opened again after its process was killed, and read to its end.
    Killed,
    /// Stores the records compressed with LZ4.
    Lz4,
    /// Stores the records uncompressed.
    Plain,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub lz4: bool,
    /// The appends of this run are durable ones.
    pub durable: bool,
    /// About so many bytes of records will be appended, for stores that need a size.
    pub bytes: u64,
    /// The bytes of the longest record.
    pub longest: usize,
    /// For Quipu's own rows; 1 in all others.
    pub partitions: u32,
}

/// Sends one record.
pub type Send<'a> = Box<dyn FnMut(&[u8]) + std::marker::Send + 'a>;
/// Receives the records that have arrived, perhaps none.
pub type Receive<'a> = Box<dyn FnMut(&mut dyn FnMut(&[u8])) + std::marker::Send + 'a>;

/// One store in one directory. A call that `CAN` doesn't list is never made.
pub trait Contender: Sized + Sync {
    const NAME: &'static str;
    /// What its appends without a sync and its durable ones mean, and what its reads check.
    const ABOUT: &'static str;
    const CAN: &'static [Need];
    /// The most records of a batch.
    const BATCH: usize = usize::MAX;

    /// Creates the store, or opens it with all that is needed before the first append and read.
    fn open(dir: &Path, settings: &Settings) -> Self;

    /// Appends these records by the library's call for many, or in one of its transactions.
    fn append_batch(&mut self, _batch: &[&[u8]]) {
        unreachable!("not listed")
    }

    /// Appends one record by one call. The library may keep it in a buffer of the process; one
    /// that has no such buffer appends it as `append_through` does.
    fn append_one(&mut self, value: &[u8]) {
        self.append_through(value);
    }

    /// Appends one record, which is in the page cache at the return.
    fn append_through(&mut self, _value: &[u8]) {
        unreachable!("not listed")
    }

    /// Everything that was appended is in the page cache at the return.
    fn flush(&mut self) {}

    /// Appends one record durably, for one of several threads.
    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        unreachable!("not listed")
    }

    /// Reads every record, in the order of the log.
    fn scan(&mut self, _digest: &mut Digest) {
        unreachable!("not listed")
    }

    /// Goes back to the first record, if the store's reader only goes forward. Not timed.
    fn rewind(&mut self) {}

    /// Reads every record, in the order of the log, to compare it. Not timed: a store whose own
    /// reader is too slow for this may decode its files.
    fn verify(&mut self, digest: &mut Digest) {
        self.scan(digest);
    }

    /// Finds out what the caller of `get` has to keep, if the store has no numbers or keys. Not
    /// timed.
    fn prepare_gets(&mut self) {}

    /// Reads the record of this number, and passes it on.
    fn get<R>(&mut self, _number: u64, _seen: impl FnOnce(&[u8]) -> R) -> R {
        unreachable!("not listed")
    }

    /// A sender and a receiver at the end of the log. A sent record is visible to the receiver at
    /// the return. A receiver that is `sleeping` waits for records, but at most about a second.
    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        unreachable!("not listed")
    }

    /// Ends its work in good order.
    fn close(self) {}
}
