//! Handles and errors may cross `catch_unwind`.
//!
//! The compiler does not derive it, because handles hold locks, callbacks and `dyn` objects. The
//! argument: a thread that unwinds in a call leaves no half-done change for the next caller.
//!
//! - An error is not changed after it was made.
//! - All changes of shared state are made under locks that are not poisoned, by code of this crate
//!   that does not panic, and no code of the user runs under them (see CONTRIBUTING.md, "Locks";
//!   assignors and clocks are the exceptions, and are called before the change that they decide).
//! - Code of the user that panics on the caller's thread (an iterator, a partitioner, a listener)
//!   runs between changes. Work in hand is settled by guards that are dropped while unwinding: a
//!   batch that is being written fails, and a step of a projection is taken back.

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::broker::Broker;
use crate::consumer::{Consumer, ConsumerHandle, Group};
use crate::error::Error;
use crate::producer::{Pending, Producer};
use crate::reader::{Reader, ReaderHandle};
use crate::records::Records;
use crate::stream::{History, Stream, StreamReader};
use crate::topic::{Partition, Topic};
use crate::transaction::Transaction;

macro_rules! unwind_safe {
    ($($handle:ty),+ $(,)?) => {
        $(
            impl UnwindSafe for $handle {}
            impl RefUnwindSafe for $handle {}
        )+
    };
}

unwind_safe!(
    Broker,
    Consumer,
    ConsumerHandle,
    Error,
    Group,
    History,
    Partition,
    Producer,
    Reader,
    ReaderHandle,
    Records,
    Stream,
    StreamReader,
    Topic,
    Transaction,
);

impl<T> UnwindSafe for Pending<T> {}
impl<T> RefUnwindSafe for Pending<T> {}
