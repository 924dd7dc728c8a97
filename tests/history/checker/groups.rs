//! The rules for groups: a member starts where its group is, passes over nothing, and commits
//! nothing that another member owns; positions that were committed are there after an opening.

use std::collections::{BTreeMap, HashMap};

use super::{Case, Kind};
use crate::history::{Change, Commit, End, Member, Outcome, Step};

/// The positions that a partition of a group may have: at least the last one that was acknowledged,
/// at most the greatest one that was tried.
#[derive(Clone, Copy, Debug)]
struct Range {
    least: u64,
    most: u64,
}

impl<'a> Case<'a> {
    pub(super) fn check_groups(&mut self) {
        let history = self.history;
        for member in &history.members {
            self.check_member(member);
        }
        for life in 0..history.lives.len().saturating_sub(1) {
            for group in 0..history.groups {
                for partition in 0..history.inputs {
                    self.check_committed(life, group, partition);
                }
            }
        }
        self.check_fencing();
        self.check_drained();
    }

    fn commits(&self, group: usize, partition: usize) -> impl Iterator<Item = (&'a Change, u64)> + use<'a> {
        let of = move |commit: &&Commit| commit.group == group && commit.partition == partition;
        let history = self.history;
        history.changes.iter().filter_map(move |change| Some((change, change.commits.iter().find(of)?.next)))
    }

    /// The positions that are possible in a life between two times: commits that had returned
    /// before the first one count, and those that were called before the second may.
    fn range(&self, group: usize, partition: usize, life: usize, (returned, called): (u64, u64)) -> Range {
        let life = &self.history.lives[life];
        let first = life.opened.committed.get(&(group, partition)).copied().unwrap_or(0);
        let mut range = Range { least: first, most: first };
        let commits = self.commits(group, partition).filter(|(change, _)| change.span.to >= life.began);
        for (change, next) in commits {
            if change.outcome == Outcome::Done && change.span.to < returned {
                range.least = range.least.max(next);
            }
            if change.outcome != Outcome::Failed && change.span.from < called {
                range.most = range.most.max(next);
            }
        }
        range
    }

    /// Each ownership of a partition starts within the range, and its records follow each other.
    fn check_member(&mut self, member: &Member) {
        // By partition: the next offset, and whether it may have gone back since.
        let mut owned: BTreeMap<usize, (Option<u64>, bool)> = BTreeMap::new();
        // The time before which a call of the member had returned: the poll that is running began
        // later.
        let mut returned = 0;
        for step in &member.steps {
            match step {
                Step::Assigned { time, partition, at } => {
                    if let Some(at) = *at {
                        self.check_start(member, (*partition, at), (returned, *time));
                    }
                    owned.insert(*partition, (*at, false));
                }
                Step::Gone { time, partition } => {
                    returned = *time;
                    owned.remove(partition);
                }
                Step::WentBack { time } => {
                    returned = *time;
                    owned.values_mut().for_each(|(_, may_go_back)| *may_go_back = true);
                }
                Step::Left { .. } => owned.clear(),
                Step::Polled { span, got } => {
                    returned = span.to;
                    self.check_polled(member, &mut owned, (span.from, span.to), got);
                }
            }
        }
    }

    fn check_start(&mut self, member: &Member, (partition, at): (usize, u64), times: (u64, u64)) {
        let Member { session, group, .. } = member;
        let range = self.range(*group, partition, self.life_at(times.1), times);
        if at < range.least || at > range.most {
            let text =
                format!("session {session} of group {group} starts {partition} at {at}, not in {range:?}");
            self.report(Kind::Skipped, text);
        }
    }

    fn check_polled(
        &mut self,
        member: &Member,
        owned: &mut BTreeMap<usize, (Option<u64>, bool)>,
        (from, to): (u64, u64),
        got: &[(usize, u64, u64)],
    ) {
        let session = member.session;
        for &(partition, offset, value) in got {
            let Some((next, may_go_back)) = owned.get_mut(&partition) else {
                let text = format!("session {session} polled {partition}/{offset}, which it does not own");
                self.report(Kind::NotFenced, text);
                continue;
            };
            let went_back = std::mem::take(may_go_back);
            let Some(expected) = next.replace(offset + 1) else {
                self.check_start(member, (partition, offset), (from, to));
                continue;
            };
            if offset == expected {
                continue;
            }
            let range = self.range(member.group, partition, self.life_at(to), (from, to));
            if went_back && offset < expected && (range.least..=range.most).contains(&offset) {
                continue;
            }
            let kind = if offset > expected { Kind::Skipped } else { Kind::Doubled };
            let value = self.describe(value);
            self.report(
                kind,
                format!("session {session} polled {value} at {partition}/{offset}, not {expected}"),
            );
        }
    }

    fn check_committed(&mut self, life: usize, group: usize, partition: usize) {
        let history = self.history;
        let (this, next) = (&history.lives[life], &history.lives[life + 1]);
        let range = self.range(group, partition, life, (next.began, next.began));
        let found = next.opened.committed.get(&(group, partition)).copied().unwrap_or(0);
        let most = range.most.min(next.opened.ends[partition].max(range.least));
        // A power loss may take positions, and records before those that it leaves.
        let promised = self.commits(group, partition).filter(|(change, _)| {
            change.outcome == Outcome::Done && change.is_durable && change.span.to < next.began
        });
        let promised = promised.map(|(_, next)| next).max().unwrap_or(0);
        let least = match this.end {
            End::PowerLost if history.commits_are_sync => range.least.min(next.opened.ends[partition]),
            End::PowerLost => promised.min(range.least).min(next.opened.ends[partition]),
            _ => range.least,
        };
        if found < least || found > most {
            let end = this.end;
            let text = format!(
                "opening {} after {end:?}: group {group} is at {found} of {partition}, and not in {least}..={most}",
                life + 1
            );
            self.report(if found < least { Kind::Lost } else { Kind::Skipped }, text);
        }
    }

    /// Once another member owns a partition, no commit for it is accepted that an earlier owner
    /// calls, unless that one has got it again. None is accepted of a member that has left.
    fn check_fencing(&mut self) {
        let mut wrong = Vec::new();
        for group in 0..self.history.groups {
            let members = || self.history.members.iter().filter(move |member| member.group == group);
            let left: HashMap<u64, u64> = members()
                .filter_map(|member| match member.steps.last() {
                    Some(Step::Left { time }) => Some((member.session, *time)),
                    _ => None,
                })
                .collect();
            for partition in 0..self.history.inputs {
                let mut owners: Vec<(u64, u64)> = Vec::new();
                for member in members() {
                    owners.extend(member.steps.iter().filter_map(|step| match step {
                        Step::Assigned { time, partition: of, .. } if *of == partition => {
                            Some((*time, member.session))
                        }
                        _ => None,
                    }));
                }
                owners.sort_unstable();
                for (change, next) in self.commits(group, partition) {
                    let (session, called) = (change.session, change.span.from);
                    let last = owners.iter().rfind(|(time, _)| *time < called);
                    let is_other = last.is_some_and(|(_, owner)| *owner != session);
                    let is_gone = left.get(&session).is_some_and(|left| *left < called);
                    if change.outcome == Outcome::Done && (is_other || is_gone) {
                        wrong.push((group, partition, session, next, last.copied()));
                    }
                }
            }
        }
        for (group, partition, session, next, owner) in wrong {
            let text = format!(
                "session {session} has committed {next} of {partition} for group {group}; the owner is {owner:?}"
            );
            self.report(Kind::NotFenced, text);
        }
    }

    fn check_drained(&mut self) {
        let Some(last) = self.history.lives.last().filter(|_| self.history.is_drained) else { return };
        for group in 0..self.history.groups {
            for partition in 0..self.history.inputs {
                let committed = last.opened.committed.get(&(group, partition)).copied().unwrap_or(0);
                if committed != last.opened.ends[partition] {
                    let end = last.opened.ends[partition];
                    let text =
                        format!("group {group} has polled all of {partition}, is at {committed} of {end}");
                    self.report(Kind::Lost, text);
                }
            }
        }
    }
}
