//! How a command fails: its text, the next thing to do, and the exit code.

use std::fmt;
use std::io::{self, ErrorKind};

use quipu::Error;

/// The exit code for damage.
pub(crate) const DAMAGE: u8 = 10;
const ALREADY_OPEN: u8 = 11;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command did not do everything that it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    Library(Error),
    /// Standard output cannot be written to.
    Output(io::Error),
    /// A file or standard input, and the problem.
    Other(String),
    /// The arguments make no sense together, or with this directory.
    Usage(String),
    /// Where in the input it happened.
    At(String, Box<Failure>),
}

impl Failure {
    /// The same failure, with a place in the input.
    pub(crate) fn at(self, place: String) -> Self {
        Failure::At(place, Box::new(self))
    }

    /// The reader of the output has closed it, as in `quipu cat ... | head`: a clean end.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(e) if e.kind() == ErrorKind::BrokenPipe)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Library(Error::AlreadyOpen { .. }) => ALREADY_OPEN,
            Failure::Library(error) if is_damage(error) => DAMAGE,
            Failure::Usage(_) => 2,
            Failure::At(_, failure) => failure.exit_code(),
            _ if self.is_closed_pipe() => 0,
            _ => 1,
        }
    }

    /// The next thing to do, where there is one.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        let error = match self {
            Failure::Library(error) => error,
            Failure::At(_, failure) => return failure.advice(),
            _ => return None,
        };
        match error {
            Error::AlreadyOpen { .. } => Some(
                "stop the process that has it open; commands that only look (topics, info, groups, cat, streams, \
                 export) work beside it",
            ),
            error if is_damage(error) => {
                Some("`quipu verify DIR` lists all damage, and `quipu salvage DIR NEW` copies what is whole")
            }
            Error::UnknownTopic { .. } => Some("`quipu topics DIR` lists the topics"),
            Error::TopicExists { .. } => Some("`quipu alter` changes its settings"),
            Error::UnknownPartition { .. } => Some("`quipu info DIR TOPIC` lists the partitions"),
            Error::MissingKey { .. } => Some("`quipu produce -K DELIMITER` takes the key from each line"),
            Error::GroupNotEmpty { .. } => Some("close the members of the group first"),
            Error::DiskFull { .. } => Some("make room, then run the command again"),
            Error::BackupUnfinished { .. } => {
                Some("`quipu backup` of the same broker into it finishes it; or remove it")
            }
            Error::NotABackup { .. } => Some("name a directory that is missing, or empty"),
            Error::ReadOnly { .. } => Some("copy the directory to where it can be written, and use the copy"),
            Error::UnsupportedFormat { .. } => {
                Some("for the codec zstd: cargo install quipu --features cli,zstd")
            }
            _ => None,
        }
    }
}

/// Whether the error means that bytes are not those that were written.
pub(crate) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Corrupt(_) => true,
        Error::Poisoned { cause, .. } | Error::JournalFailed { cause, .. } => is_damage(cause),
        _ => false,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Library(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Library(error) => error.fmt(f),
            Failure::Output(error) => write!(f, "cannot write to standard output: {error}"),
            Failure::Other(text) | Failure::Usage(text) => f.write_str(text),
            Failure::At(place, failure) => write!(f, "{place}: {failure}"),
        }
    }
}
