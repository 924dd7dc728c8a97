//! Where to begin reading: kcat's `-o`.

use std::str::FromStr;

use quipu::{Offset, Position, Timestamp};

use crate::failure::Result;
use crate::open::ReadingPartition;
use crate::time;

/// A place in each partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Beginning,
    End,
    At(u64),
    /// So many offsets before the end.
    Last(u64),
    /// The first record that is not older, in milliseconds since 1970.
    Time(i64),
}

impl Place {
    /// The position in a partition. An offset is taken as it is, whether or not the log has it.
    pub(crate) fn position(self, partition: &ReadingPartition) -> Result<Position> {
        let bounds = partition.bounds()?;
        let end = bounds.visible_end;
        let offset = match self {
            Place::Beginning => bounds.log_start,
            Place::End => end,
            Place::At(offset) => Offset::new(offset),
            Place::Last(count) => Offset::new(end.get().saturating_sub(count)).max(bounds.log_start),
            Place::Time(millis) => {
                let found = partition.offset_for_time(Timestamp::from_millis(millis))?;
                found.map_or(end, |(offset, _)| offset)
            }
        };
        Ok(Position::new(partition.topic().clone(), partition.id(), offset, partition.epoch()))
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let of = |number: &str| {
            number.parse().map_err(|_| {
                format!("{text:?} is none of beginning, end, an offset, -N for the last N, and s@TIME")
            })
        };
        match text {
            "beginning" => Ok(Place::Beginning),
            "end" => Ok(Place::End),
            _ => match (text.strip_prefix("s@"), text.strip_prefix('-')) {
                (Some(at), _) => time::parse(at).map(Place::Time),
                (_, Some(count)) => of(count).map(Place::Last),
                _ => of(text).map(Place::At),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn places_are_read_as_kcat_reads_them() {
        let all = ["beginning", "end", "17", "-5", "s@1000", "s@1970-01-01T00:00:02Z"].map(str::parse);
        let times = [Place::Time(1000), Place::Time(2000)].map(Ok);
        assert_eq!(all[..4], [Place::Beginning, Place::End, Place::At(17), Place::Last(5)].map(Ok));
        assert_eq!(all[4..], times);
        assert!("stored".parse::<Place>().is_err());
    }
}
