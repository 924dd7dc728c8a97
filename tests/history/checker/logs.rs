//! The rules for one partition by itself: what was seen stays, nothing is there twice, nothing is
//! there that was not sent, and no offset is missing.

use std::collections::{BTreeMap, HashMap};

use super::{Case, Kind, Seen};
use crate::history::{End, Outcome, Snapshot, Step, Value};

impl Case<'_> {
    pub(super) fn check_logs(&mut self) {
        for life in 0..self.history.lives.len() {
            self.check_snapshot(life);
        }
        for life in 0..self.history.lives.len().saturating_sub(1) {
            let seen = self.collect(life);
            let later = self.compare_with_next(life, seen);
            self.seen.push(later);
        }
    }

    /// Offsets follow each other from 0 to the log's end, and no value is there twice.
    fn check_snapshot(&mut self, life: usize) {
        let Snapshot { logs, ends, .. } = &self.history.lives[life].opened;
        let mut places: HashMap<Value, (usize, u64)> = HashMap::new();
        for (partition, log) in logs.iter().enumerate() {
            let mut next = 0;
            for &(offset, value) in log {
                if offset != next {
                    self.report(Kind::Lost, format!("opening {life}: partition {partition} lacks {next}"));
                }
                next = offset + 1;
                if let Some(place) = places.insert(value, (partition, offset)) {
                    let value = self.describe(value);
                    let text = format!("opening {life}: {value} is at {place:?} and {partition}/{offset}");
                    self.report(Kind::Doubled, text);
                }
            }
            if next < ends[partition] {
                let text =
                    format!("opening {life}: {partition} ends at {} and lacks {next}", ends[partition]);
                self.report(Kind::Lost, text);
            }
        }
    }

    /// Everything that was observed from an opening to the end of its process.
    fn collect(&mut self, life: usize) -> Seen {
        let history = self.history;
        let began = history.lives[life].began;
        let ended = history.lives[life + 1].began;
        let mut observed: Vec<(usize, u64, Value, u64)> = Vec::new();
        for (partition, log) in history.lives[life].opened.logs.iter().enumerate() {
            observed.extend(log.iter().map(|(offset, value)| (partition, *offset, *value, began)));
        }
        let within = |time: u64| began <= time && time < ended;
        for change in &history.changes {
            if change.outcome == Outcome::Done && within(change.span.to) {
                for write in &change.writes {
                    let at =
                        write.offset.map(|offset| (write.partition, offset, write.value, change.span.to));
                    observed.extend(at);
                }
            }
        }
        for read in history.reads.iter().filter(|read| within(read.span.to)) {
            for (index, &(offset, value)) in read.got.iter().enumerate() {
                let expected = read.from + index as u64;
                if offset != expected {
                    let text = format!(
                        "session {} read {offset} of {} for {expected}",
                        read.session, read.partition
                    );
                    self.report(Kind::Lost, text);
                    break;
                }
                observed.push((read.partition, offset, value, read.span.to));
            }
        }
        for member in &history.members {
            for step in &member.steps {
                if let Step::Polled { span, got } = step
                    && within(span.to)
                {
                    observed.extend(
                        got.iter().map(|(partition, offset, value)| (*partition, *offset, *value, span.to)),
                    );
                }
            }
        }
        self.join(life, observed)
    }

    /// Puts observations of one life together.
    fn join(&mut self, life: usize, observed: Vec<(usize, u64, Value, u64)>) -> Seen {
        let mut by_offset = vec![BTreeMap::new(); self.history.is_sync.len()];
        let mut places: HashMap<Value, (usize, u64)> = HashMap::new();
        for (partition, offset, value, time) in observed {
            let other = *by_offset[partition].entry(offset).or_insert(value);
            if other != value {
                let (one, two) = (self.describe(other), self.describe(value));
                let text = format!("life {life}: {partition}/{offset} is {one} and {two}");
                self.report(Kind::Reordered, text);
                continue;
            }
            let place = *places.entry(value).or_insert((partition, offset));
            if place != (partition, offset) {
                let value = self.describe(value);
                self.report(
                    Kind::Doubled,
                    format!("life {life}: {value} is at {place:?} and {partition}/{offset}"),
                );
            }
            self.check_was_sent(partition, value, time);
        }
        Seen { by_offset }
    }

    /// A value that is seen was sent there before, and its call has not failed.
    fn check_was_sent(&mut self, partition: usize, value: Value, time: u64) {
        let text = match self.writer.get(&value) {
            None => format!("{value} in {partition} was never sent"),
            Some(&(change, write)) => {
                let change = &self.history.changes[change];
                if change.writes[write].partition != partition {
                    format!("{} is in {partition}", self.describe(value))
                } else if change.outcome == Outcome::Failed {
                    format!("{} is in {partition}, and its call has failed", self.describe(value))
                } else if change.span.from > time {
                    format!("{} was seen at {time}", self.describe(value))
                } else {
                    return;
                }
            }
        };
        self.report(Kind::Invented, text);
    }

    /// What was seen is there at the next opening, unless a power loss may have taken it: then only
    /// the newest records are gone, and none whose durability was promised.
    fn compare_with_next(&mut self, life: usize, mut seen: Seen) -> Seen {
        let history = self.history;
        let end = history.lives[life].end;
        let began = history.lives[life].began;
        let next = &history.lives[life + 1].opened;
        for partition in 0..history.is_sync.len() {
            let later: BTreeMap<u64, Value> = next.logs[partition].iter().copied().collect();
            for (&offset, &value) in &seen.by_offset[partition] {
                let change = self.change_of(value);
                let promised = change.is_some_and(|c| c.outcome == Outcome::Done && c.is_durable);
                let may_go = end == End::PowerLost && !history.is_sync[partition] && !promised;
                match later.get(&offset) {
                    Some(other) if *other == value => {}
                    Some(other) => {
                        let (one, two) = (self.describe(value), self.describe(*other));
                        let text = format!("opening {}: {partition}/{offset} was {one}, is {two}", life + 1);
                        let is_elsewhere = next.logs.iter().flatten().any(|(_, other)| *other == value);
                        let kind = if is_elsewhere { Kind::Reordered } else { Kind::Lost };
                        self.report(kind, text);
                    }
                    None if may_go && offset >= next.ends[partition] => {}
                    None => {
                        let value = self.describe(value);
                        let text = format!(
                            "opening {} after {end:?}: {value} of {partition}/{offset} is gone",
                            life + 1
                        );
                        self.report(Kind::Lost, text);
                    }
                }
            }
            for (&offset, &value) in &later {
                if seen.by_offset[partition].get(&offset) == Some(&value) {
                    continue;
                }
                self.check_was_sent(partition, value, history.lives[life + 1].began);
                // An opening decides about all that came before it.
                if let Some(change) = self.change_of(value)
                    && change.span.to < began
                {
                    let text = format!("opening {}: {} was not there before", life + 1, self.describe(value));
                    self.report(Kind::Invented, text);
                }
                seen.by_offset[partition].entry(offset).or_insert(value);
            }
        }
        seen
    }
}
