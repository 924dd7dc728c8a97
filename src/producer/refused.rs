//! A record that was not taken, given back.

use std::fmt;

use crate::error::Error;
use crate::record::Record;

/// The error of [`Producer::try_send`](crate::Producer::try_send): the cause, and the record, of
/// which nothing will be written.
pub struct TrySendError<'r> {
    /// In a box, so that the result of a call that succeeds is small.
    refused: Box<(Record<'r>, Error)>,
}

impl<'r> TrySendError<'r> {
    #[cold]
    pub(super) fn new(record: Record<'r>, cause: Error) -> Self {
        TrySendError { refused: Box::new((record, cause)) }
    }

    /// Why it was refused.
    pub fn cause(&self) -> &Error {
        &self.refused.1
    }

    /// The error that [`send`](crate::Producer::send) would return.
    pub fn into_cause(self) -> Error {
        self.refused.1
    }

    /// The record, to be sent again.
    #[must_use]
    pub fn into_record(self) -> Record<'r> {
        self.refused.0
    }
}

impl std::error::Error for TrySendError<'_> {}

/// The text of the cause.
impl fmt::Display for TrySendError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause().fmt(f)
    }
}

impl fmt::Debug for TrySendError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrySendError").field("cause", self.cause()).finish_non_exhaustive()
    }
}
