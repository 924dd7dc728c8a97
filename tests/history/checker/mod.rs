//! The checker: reads a history and returns every contradiction to what the library promises.
//!
//! It uses nothing of the library, and nothing but `std` and the words of
//! [`history`](crate::history). It follows Elle (Kingsbury and Alvaro, "Elle: Inferring Isolation
//! Anomalies from Experimental Observations", VLDB 2020) and Jepsen's workload for logs: because
//! values are unique and offsets order them, the order of all changes of a partition is known, and
//! an execution is right if that order and the order of time have no cycle.

mod atomic;
mod groups;
mod logs;
mod order;

use std::collections::{BTreeMap, HashMap};

use crate::history::{Change, History, Outcome, Value};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An acknowledged or visible record, or a committed position, is gone.
    Lost,
    /// A record is there twice, or its effect is.
    Doubled,
    /// Records or changes are in another order than their calls, or an offset has changed its
    /// record.
    Reordered,
    /// A change is there in part.
    HalfVisible,
    /// A record that was never written, or whose write has failed.
    Invented,
    /// A read missed a record that was acknowledged before it began.
    Stale,
    /// A member passed over records, or began at a position that its group never had.
    Skipped,
    /// A member has committed what another one owned.
    NotFenced,
}

#[derive(Clone, Debug)]
pub struct Anomaly {
    pub kind: Kind,
    pub text: String,
}

/// The records of a life that some client has seen, or that the next opening found.
struct Seen {
    /// For each partition, by offset.
    by_offset: Vec<BTreeMap<u64, Value>>,
}

/// The history, and what several rules need of it.
struct Case<'a> {
    history: &'a History,
    /// The change and the number of the write of each value.
    writer: HashMap<Value, (usize, usize)>,
    /// For each life but the last.
    seen: Vec<Seen>,
    found: Vec<Anomaly>,
}

/// Returns every contradiction, each once, in the order of the rules.
pub fn check(history: &History) -> Vec<Anomaly> {
    let mut writer = HashMap::new();
    let mut found = Vec::new();
    for (change, made) in history.changes.iter().enumerate() {
        for (at, write) in made.writes.iter().enumerate() {
            if writer.insert(write.value, (change, at)).is_some() {
                let text = format!("the history itself sends {} twice", write.value);
                found.push(Anomaly { kind: Kind::Invented, text });
            }
        }
    }
    let mut case = Case { history, writer, seen: Vec::new(), found };
    case.check_logs();
    case.check_order();
    case.check_atomicity();
    case.check_groups();
    case.found
}

impl<'a> Case<'a> {
    fn report(&mut self, kind: Kind, text: String) {
        self.found.push(Anomaly { kind, text });
    }

    fn change_of(&self, value: Value) -> Option<&'a Change> {
        self.writer.get(&value).map(|(change, _)| &self.history.changes[*change])
    }

    /// The number of the life at a time.
    fn life_at(&self, time: u64) -> usize {
        self.history.lives.iter().rposition(|life| life.began <= time).unwrap_or(0)
    }

    /// The name of a value in a report: the change that wrote it.
    fn describe(&self, value: Value) -> String {
        let Some(change) = self.change_of(value) else { return format!("value {value} (never sent)") };
        let Change { session, span, outcome, .. } = change;
        format!("value {value} (session {session}, {}..{}, {outcome:?})", span.from, span.to)
    }

    /// When the effect of a change must have come at the latest. That of an unknown one has no
    /// limit.
    fn latest(change: &Change) -> u64 {
        if change.outcome == Outcome::Done { change.span.to } else { u64::MAX }
    }
}
