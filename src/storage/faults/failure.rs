//! The error of an operation that fails by plan.

use std::io;

#[derive(Clone, Copy)]
pub(crate) enum Failure {
    Kind(io::ErrorKind),
    /// By its number, for errors that have no kind.
    Number(i32),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Kind(kind) => kind.into(),
            Failure::Number(number) => io::Error::from_raw_os_error(number),
        }
    }
}
