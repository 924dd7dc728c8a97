//! How far is a stream, and how far must it be for an append? Pure comparison.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// How many events a stream has: 0 before the first. An event's own version is that of the stream
/// once it was appended, so the first event has version 1.
///
/// A version that a stream has returned also knows the [log epoch](crate::Partition::epoch) in
/// which it was seen. Because of that, the stream recognizes a version of events that were
/// truncated or lost since, even if it has as many events again: see
/// [`StreamTruncated`](crate::Error::StreamTruncated). A version made from a number has no epoch.
/// Store a version as its text, for example with a snapshot, because the text has both.
///
/// *Comparing* versions compares the numbers of events only: `Eq`, `Ord` and `Hash` ignore the
/// epoch. So of one stream a greater version is a later one as long as its log is not truncated.
///
/// ```
/// # use quipu::{ExpectedVersion, Version};
/// let version = Version::new(3);
/// assert_eq!(version.plus(2), Version::new(5));
/// assert_eq!(ExpectedVersion::from(version), ExpectedVersion::Exact(version));
///
/// let stored: Version = "10@e3".parse()?;
/// assert_eq!((stored.get(), stored.epoch()), (10, Some(3)));
/// assert_eq!(stored.to_string(), "10@e3");
/// assert_eq!(stored, Version::new(10));
/// # Ok::<(), quipu::ParseVersionError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Version {
    events: u64,
    /// The log epoch in which it was seen.
    epoch: Option<u32>,
}

impl Version {
    /// That of a stream without events.
    pub const ZERO: Version = Version::new(0);

    /// A version from its number. It has no epoch.
    pub const fn new(events: u64) -> Self {
        Version { events, epoch: None }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.events
    }

    /// The log epoch in which it was seen, if that is known.
    pub const fn epoch(self) -> Option<u32> {
        self.epoch
    }

    /// The version `count` events later, of the same epoch; it stops at `u64::MAX`.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        Version { events: self.events.saturating_add(events), epoch: self.epoch }
    }

    /// How many events lie from `earlier` up to here; 0 if `earlier` is not earlier.
    pub const fn since(self, earlier: Version) -> u64 {
        self.events.saturating_sub(earlier.events)
    }

    /// The same number of events, seen in `epoch`.
    pub(crate) const fn seen_in(self, epoch: u32) -> Self {
        Version { events: self.events, epoch: Some(epoch) }
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.events == other.events
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        self.events.cmp(&other.events)
    }
}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.events.hash(state);
    }
}

impl From<u64> for Version {
    fn from(events: u64) -> Self {
        Version::new(events)
    }
}

impl PartialEq<u64> for Version {
    fn eq(&self, other: &u64) -> bool {
        self.events == *other
    }
}

/// `10@e3`, or `10` without an epoch.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            None => fmt::Display::fmt(&self.events, f),
            Some(epoch) => f.pad(&format!("{}@e{epoch}", self.events)),
        }
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let (events, epoch) = match text.split_once("@e") {
            None => (text, None),
            Some((events, epoch)) => (events, Some(number(epoch)?)),
        };
        Ok(Version { events: number(events)?, epoch })
    }
}

/// Digits only.
fn number<T: FromStr>(text: &str) -> Result<T, ParseVersionError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or(ParseVersionError)
}

/// A text is not a [`Version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version; expected \"events\" or \"events@eepoch\", for example \"10\" or \"10@e3\"")]
pub struct ParseVersionError;

/// The condition on a stream for an append to it.
///
/// KurrentDB's expected revision is one less: it is the number of the last event, counted from 0. A
/// stream of three events is at revision 2 there, and at version 3 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Nothing.
    Any,
    /// It has events.
    Exists,
    /// It has none.
    Empty,
    /// It has exactly these events: no other event was appended since they were loaded.
    Exact(Version),
}

impl ExpectedVersion {
    /// Whether a stream of this version is as expected.
    pub const fn holds(self, current: Version) -> bool {
        match self {
            ExpectedVersion::Any => true,
            ExpectedVersion::Exists => current.events > 0,
            ExpectedVersion::Empty => current.events == 0,
            ExpectedVersion::Exact(version) => current.events == version.events,
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
        let of = |expected: ExpectedVersion| [0, 1, 2].map(|n| expected.holds(Version::new(n)));
        assert_eq!(of(ExpectedVersion::Any), [true, true, true]);
        assert_eq!(of(ExpectedVersion::Exists), [false, true, true]);
        assert_eq!(of(ExpectedVersion::Empty), [true, false, false]);
        assert_eq!(of(Version::new(1).into()), [false, true, false]);
        assert_eq!(of(Version::ZERO.into()), of(ExpectedVersion::Empty));
    }

    #[test]
    fn a_version_comes_back_from_its_text_with_its_epoch() {
        for (text, events, epoch) in [
            ("0", 0, None),
            ("10", 10, None),
            ("10@e0", 10, Some(0)),
            ("18446744073709551615@e4294967295", u64::MAX, Some(u32::MAX)),
        ] {
            let version: Version = text.parse().unwrap();
            assert_eq!(
                (version.get(), version.epoch(), version.to_string()),
                (events, epoch, text.to_string())
            );
        }
        for text in
            ["", "@e1", "1@", "1@e", "1@3", "+1", "1@e+1", "1@e4294967296", "-1", " 1", "1@e1@e1", "a"]
        {
            assert_eq!(text.parse::<Version>(), Err(ParseVersionError), "{text}");
        }
        assert_eq!(format!("{:>7}|{:<7}|", Version::new(3).seen_in(1), Version::new(3)), "   3@e1|3      |");
    }

    #[test]
    fn versions_compare_by_their_events_alone() {
        let (early, late) = (Version::new(3).seen_in(7), Version::new(4).seen_in(2));
        assert!(early < late && early == Version::new(3) && early == 3);
        assert_eq!(early.max(late).epoch(), Some(2));
        let set: std::collections::HashSet<_> = [early, Version::new(3), late].into();
        assert_eq!(set.len(), 2);
    }
}
