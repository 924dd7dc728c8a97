//! What both systems share: the interface, the names and times, and the words for refusals.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::history::{Step, Who};
use crate::seen::Seen;

/// A system that makes the steps of one history.
pub trait System {
    /// Makes a step and returns what a program sees of it. A refusal is something that a program
    /// sees; an error is one that says nothing about the system, for example a timeout.
    fn step(&mut self, step: &Step) -> Result<Seen>;
}

/// Names of topics and times of records. Both systems have the same, so that everything that
/// depends on them is equal, and a run leaves the names of other runs alone.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
    /// The start of the run, in milliseconds since 1970.
    base: i64,
}

impl Names {
    /// `prefix` must be letters, digits and `-`.
    pub fn new(prefix: String, base: i64) -> Self {
        Names { prefix, base }
    }

    /// A topic's name, or a pattern of names, in the broker.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A topic's name in the history.
    pub fn short<'a>(&self, full: &'a str) -> &'a str {
        full.strip_prefix(&self.prefix).unwrap_or(full)
    }

    pub fn group(&self) -> String {
        self.full("g")
    }

    /// A time of the history in milliseconds since 1970.
    pub fn time(&self, at: i64) -> i64 {
        self.base + at
    }

    /// A time of the broker in milliseconds after the start of the run.
    pub fn at(&self, time: i64) -> i64 {
        time - self.base
    }
}

/// Whether a subscription of a history stands for this topic of it.
pub fn covers(subscription: &str, topic: &str) -> bool {
    match subscription.strip_suffix('*') {
        Some(start) => topic.starts_with(start),
        None => subscription == topic,
    }
}

/// How many partitions the members have, the fewest first.
pub fn balance(seen: Seen, owned: impl Iterator<Item = usize>) -> Seen {
    let mut counts: Vec<_> = owned.collect();
    counts.sort_unstable();
    seen.with("balance", "", counts.iter().map(ToString::to_string).collect())
}

/// The calls of a rebalance listener until the group had settled, as facts of member `who`.
///
/// An assignment that was given up again before that is left out: how many there are depends on
/// when each member of Kafka learns of a change. Assignments without another call between them are
/// one item; `is_eager`: the number of calls that they came in is a fact of its own.
pub fn settled(seen: Seen, who: Who, calls: Vec<String>, is_eager: bool) -> Seen {
    let mut settled: Vec<(String, BTreeSet<String>, usize)> = Vec::new();
    for call in calls {
        let mut words = call.split(' ').map(str::to_string);
        let event = words.next().unwrap_or_default();
        let partitions: BTreeSet<_> = words.collect();
        match settled.last_mut() {
            Some((last, of, _)) if event == "revoked" && last == "assigned" && *of == partitions => {
                settled.pop();
            }
            Some((last, of, parts)) if event == "assigned" && last == "assigned" => {
                of.extend(partitions);
                *parts += 1;
            }
            _ => settled.push((event, partitions, 1)),
        }
    }
    let parts: Vec<_> =
        settled.iter().filter(|call| call.0 == "assigned").map(|call| call.2.to_string()).collect();
    let text = |(event, of, _): (String, BTreeSet<String>, usize)| {
        format!("{event} {}", of.into_iter().collect::<Vec<_>>().join(" "))
    };
    let seen = seen.with("calls", format!("m{who}"), settled.into_iter().map(text).collect());
    if is_eager { seen.with("assigned in parts", format!("m{who}"), parts) } else { seen }
}

/// The words for refusals: errors of both systems are reduced to them before they are compared.
pub mod refused {
    pub const UNKNOWN_TOPIC: &str = "refused: unknown topic";
    pub const UNKNOWN_PARTITION: &str = "refused: unknown partition";
    pub const TOPIC_EXISTS: &str = "refused: topic exists";
    pub const NAME: &str = "refused: name";
    pub const TOO_LARGE: &str = "refused: too large";
    pub const TIME: &str = "refused: time";
    pub const NO_KEY: &str = "refused: no key";
    pub const OUT_OF_RANGE: &str = "refused: out of range";
    pub const NOT_A_MEMBER: &str = "refused: not a member";
    pub const NOT_OWNED: &str = "refused: not owned";
    pub const METADATA: &str = "refused: metadata too large";
    pub const GROUP_NOT_EMPTY: &str = "refused: group has members";
    pub const NO_GROUP: &str = "refused: no such group";
    pub const NOT_ASSIGNED: &str = "refused: not assigned";
    pub const PARTITIONS: &str = "refused: number of partitions";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::differences;

    fn seen(calls: &[&str]) -> Seen {
        settled(Seen::nothing(), 0, calls.iter().map(ToString::to_string).collect(), true)
    }

    #[test]
    fn assignments_that_were_given_up_again_are_left_out() {
        let long = seen(&["revoked a b", "assigned a", "revoked a", "assigned a b"]);
        let short = seen(&["revoked a b", "assigned b a"]);
        assert!(differences(0, "settle", &[], &long, &short).is_empty());
    }

    #[test]
    fn an_assignment_in_parts_is_one_item_and_its_parts_are_counted() {
        let found =
            differences(0, "settle", &[], &seen(&["assigned a", "assigned b"]), &seen(&["assigned a b"]));
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].fact, &found[0].quipu[0], &found[0].kafka[0]),
            ("assigned in parts", &"2".to_string(), &"1".to_string())
        );
    }
}
