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
//! - A builder is moved into each call that changes it or makes something of it, so none is left
//!   half-changed.
//!
//! A [`Feed`](crate::Feed) and a [`Projector`](crate::Projector) consist of such handles and of the
//! user's model, so the compiler derives that they are unwind safe if the model is: after a panic
//! in the middle of its `apply`, the model is as it has left itself.

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::broker::Broker;
use crate::consumer::{Consumer, ConsumerBuilder, ConsumerHandle, Group};
use crate::error::Error;
use crate::producer::{Pending, Producer};
use crate::reader::{Reader, ReaderHandle};
use crate::records::Records;
use crate::stream::{History, Stream, StreamReader};
use crate::topic::{Partition, Topic};
use crate::transaction::Transaction;

impl UnwindSafe for Broker {}
impl RefUnwindSafe for Broker {}
impl UnwindSafe for Consumer {}
impl RefUnwindSafe for Consumer {}
impl UnwindSafe for ConsumerBuilder {}
impl RefUnwindSafe for ConsumerBuilder {}
impl UnwindSafe for ConsumerHandle {}
impl RefUnwindSafe for ConsumerHandle {}
impl UnwindSafe for Error {}
impl RefUnwindSafe for Error {}
impl UnwindSafe for Group {}
impl RefUnwindSafe for Group {}
impl UnwindSafe for History {}
impl RefUnwindSafe for History {}
impl UnwindSafe for Partition {}
impl RefUnwindSafe for Partition {}
impl UnwindSafe for Producer {}
impl RefUnwindSafe for Producer {}
impl UnwindSafe for Reader {}
impl RefUnwindSafe for Reader {}
impl UnwindSafe for ReaderHandle {}
impl RefUnwindSafe for ReaderHandle {}
impl UnwindSafe for Records {}
impl RefUnwindSafe for Records {}
impl UnwindSafe for Stream {}
impl RefUnwindSafe for Stream {}
impl UnwindSafe for StreamReader {}
impl RefUnwindSafe for StreamReader {}
impl UnwindSafe for Topic {}
impl RefUnwindSafe for Topic {}
impl UnwindSafe for Transaction {}
impl RefUnwindSafe for Transaction {}
impl<T> UnwindSafe for Pending<T> {}
impl<T> RefUnwindSafe for Pending<T> {}
