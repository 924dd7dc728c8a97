//! How far is a stream, and how far must it be for an append? Pure comparison.

use std::fmt;

/// How many events a stream has: 0 before the first. An event's own version is that of the stream once it was appended, so
/// the first has version 1.
///
/// ```
/// # use quipu::{ExpectedVersion, Version};
/// let version = Version::new(3);
/// assert_eq!(version.plus(2), Version::new(5));
/// assert_eq!(ExpectedVersion::from(version), ExpectedVersion::Exact(version));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// That of a stream without events.
    pub const ZERO: Version = Version(0);

    /// A version from its number.
    pub const fn new(events: u64) -> Self {
        Version(events)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version so many events further on; it stops at `u64::MAX`.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        Version(self.0.saturating_add(events))
    }

    /// How many events lie from `earlier` up to here; 0 if `earlier` is not earlier.
    pub const fn since(self, earlier: Version) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<u64> for Version {
    fn from(events: u64) -> Self {
        Version(events)
    }
}

impl PartialEq<u64> for Version {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What must hold of a stream for an append to it.
///
/// KurrentDB's expected revision is one less: it is the number of the last event, counted from 0. A stream of three events is at
/// revision 2 there, and at version 3 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Nothing.
    Any,
    /// It has events.
    Exists,
    /// It has none.
    Empty,
    /// It has exactly these: what was loaded is all there is, and nobody has appended since.
    Exact(Version),
}

impl ExpectedVersion {
    /// Whether a stream of this version is as expected.
    pub const fn holds(self, current: Version) -> bool {
        match self {
            ExpectedVersion::Any => true,
            ExpectedVersion::Exists => current.0 > 0,
            ExpectedVersion::Empty => current.0 == 0,
            ExpectedVersion::Exact(version) => current.0 == version.0,
        }
    }

    /// The one version that is as expected, if there is only one.
    pub(crate) const fn exact(self) -> Option<Version> {
        match self {
            ExpectedVersion::Any | ExpectedVersion::Exists => None,
            ExpectedVersion::Empty => Some(Version::ZERO),
            ExpectedVersion::Exact(version) => Some(version),
        }
    }
}

impl From<Version> for ExpectedVersion {
    fn from(version: Version) -> Self {
        ExpectedVersion::Exact(version)
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpectedVersion::Any => f.write_str("any version"),
            ExpectedVersion::Exists => f.write_str("at least one event"),
            ExpectedVersion::Empty => f.write_str("no events"),
            ExpectedVersion::Exact(version) => write!(f, "version {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expectation_holds_for_its_versions() {
        let of = |expected: ExpectedVersion| [0, 1, 2].map(|n| expected.holds(Version(n)));
        assert_eq!(of(ExpectedVersion::Any), [true, true, true]);
        assert_eq!(of(ExpectedVersion::Exists), [false, true, true]);
        assert_eq!(of(ExpectedVersion::Empty), [true, false, false]);
        assert_eq!(of(Version(1).into()), [false, true, false]);
        assert_eq!(of(Version::ZERO.into()), of(ExpectedVersion::Empty));
    }
}
