//! The rules for changes of several records: after an opening all of a change is there or nothing,
//! its records of one partition stand together, and what a group makes of its input is there
//! exactly as far as its position.

use std::collections::{HashMap, HashSet};

use super::{Case, Kind};
use crate::history::{End, Value};

impl Case<'_> {
    pub(super) fn check_atomicity(&mut self) {
        for life in 0..self.history.lives.len() {
            self.check_whole(life);
            self.check_exactly_once(life);
        }
        for life in 0..self.seen.len() {
            self.check_contiguous(life);
        }
    }

    fn check_whole(&mut self, life: usize) {
        let history = self.history;
        let there: HashSet<Value> =
            history.lives[life].opened.logs.iter().flatten().map(|(_, value)| *value).collect();
        for change in history.changes.iter().filter(|change| change.writes.len() > 1) {
            let missing: Vec<_> = change
                .writes
                .iter()
                .map(|write| write.value)
                .filter(|value| !there.contains(value))
                .collect();
            if !missing.is_empty() && missing.len() < change.writes.len() {
                let all: Vec<_> = change.writes.iter().map(|write| (write.partition, write.value)).collect();
                let text = format!(
                    "opening {life}: of {all:?} (session {}, {:?}, {:?}) {missing:?} are missing",
                    change.session, change.span, change.outcome
                );
                self.report(Kind::HalfVisible, text);
            }
        }
    }

    /// The records of a change in one partition follow each other, in the order of the call.
    fn check_contiguous(&mut self, life: usize) {
        let mut wrong = Vec::new();
        for (partition, log) in self.seen[life].by_offset.iter().enumerate() {
            // By change: the offset that its first record must have.
            let mut first: HashMap<usize, Option<u64>> = HashMap::new();
            for (offset, value) in log {
                let Some(&(change, write)) = self.writer.get(value) else { continue };
                let before = &self.history.changes[change].writes[..write];
                let before = before.iter().filter(|write| write.partition == partition).count() as u64;
                let begin = offset.checked_sub(before);
                if begin.is_none() || *first.entry(change).or_insert(begin) != begin {
                    wrong.push((partition, *value));
                }
            }
        }
        for (partition, value) in wrong {
            let value = self.describe(value);
            self.report(
                Kind::Reordered,
                format!("life {life}: {value} in {partition} is not beside its change"),
            );
        }
    }

    /// What was made of an input record is there once if the group has committed it, else not at
    /// all.
    fn check_exactly_once(&mut self, life: usize) {
        let history = self.history;
        let opened = &history.lives[life].opened;
        let mut made: HashMap<Value, Vec<Value>> = HashMap::new();
        for (_, value) in opened.logs.iter().flatten() {
            if let Some(&(change, write)) = self.writer.get(value)
                && let Some(of) = history.changes[change].writes[write].of
            {
                made.entry(of).or_default().push(*value);
            }
        }
        for (partition, log) in opened.logs.iter().enumerate().take(history.inputs) {
            let committed = opened.committed.get(&(history.exactly_once, partition)).copied().unwrap_or(0);
            for &(offset, value) in log {
                let made = made.remove(&value).unwrap_or_default();
                let is_committed = offset < committed;
                let kind = match made.len() {
                    2.. => Kind::Doubled,
                    0 if is_committed => Kind::Lost,
                    1 if !is_committed => Kind::HalfVisible,
                    _ => continue,
                };
                let text = format!(
                    "opening {life}: committed {committed} of {partition}; of {} at {offset} there are {made:?}",
                    self.describe(value)
                );
                self.report(kind, text);
            }
        }
        // The rest was made of records that only a power loss can have taken.
        let can_lose = (0..history.inputs).any(|partition| !history.is_sync[partition])
            && history.lives[..life].iter().any(|life| life.end == End::PowerLost);
        if !can_lose && let Some((of, made)) = made.into_iter().next() {
            let text = format!("opening {life}: {made:?} were made of {}, which is gone", self.describe(of));
            self.report(Kind::Lost, text);
        }
    }
}
