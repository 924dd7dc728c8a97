//! The checker finds bugs of each kind: those that the threads pretend the library to have, those
//! that are edited into right histories, and those of small histories by hand.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::{Kind, check};
use crate::common::Random;
use crate::history::{Change, Commit, End, History, Life, Outcome, Read, Snapshot, Span, Step, Write};
use crate::workload::{AT_LEAST_ONCE, Bug, EXACTLY_ONCE, run};

fn kinds(history: &History) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = check(history).into_iter().map(|wrong| wrong.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// A bug that the threads pretend is found as one of these kinds, in some of the histories at
/// least.
fn assert_found(bug: Bug, kind: Kind) {
    let mut seen = Vec::new();
    for seed in 0..60 {
        let kinds = kinds(&run(seed, Some(bug)));
        if kinds.contains(&kind) {
            return;
        }
        seen.extend(kinds);
    }
    panic!("{bug:?} is not noticed as {kind:?}: {seen:?}");
}

#[test]
fn a_sync_that_comes_after_the_acknowledgement_is_found_as_lost_records() {
    assert_found(Bug::AcknowledgesBeforeTheSync, Kind::Lost);
}

#[test]
fn an_append_that_is_written_twice_is_found() {
    assert_found(Bug::AppendsTwice, Kind::Doubled);
}

#[test]
fn records_in_another_order_than_their_sends_are_found() {
    assert_found(Bug::ReordersRecords, Kind::Reordered);
}

#[test]
fn a_transaction_that_a_crash_leaves_in_part_is_found() {
    assert_found(Bug::AppendsTransactionsOneByOne, Kind::HalfVisible);
}

#[test]
fn positions_that_are_not_committed_with_their_records_are_found() {
    assert_found(Bug::CommitsPositionsApart, Kind::HalfVisible);
}

/// Edits histories of which nothing is wrong: every edit must be found, as this kind among others.
fn assert_every_edit_is_found(kind: Kind, edit: fn(&mut History, &mut Random) -> Option<()>) {
    let mut edited = 0;
    for seed in 0..20 {
        let mut history = run(seed, None);
        assert_eq!(kinds(&history), [], "history {seed}");
        let mut random = Random(seed);
        if edit(&mut history, &mut random).is_some() {
            edited += 1;
            let found = kinds(&history);
            assert!(found.contains(&kind), "history {seed}: {found:?}");
        }
    }
    assert!(edited > 10, "only {edited} histories could be edited");
}

fn pick<T>(mut all: Vec<T>, random: &mut Random) -> Option<T> {
    if all.is_empty() { None } else { Some(all.swap_remove(random.below(all.len() as u64) as usize)) }
}

/// The partitions that have a record at the last opening.
fn not_empty(history: &History) -> Vec<usize> {
    let logs = &history.lives.last().unwrap().opened.logs;
    (0..logs.len()).filter(|partition| !logs[*partition].is_empty()).collect()
}

/// The values that the last opening found.
fn there(history: &History) -> BTreeSet<u64> {
    history.lives.last().unwrap().opened.logs.iter().flatten().map(|(_, value)| *value).collect()
}

#[test]
fn a_newest_record_that_is_gone_after_a_close_is_lost() {
    assert_every_edit_is_found(Kind::Lost, |history, random| {
        let partition = pick(not_empty(history), random)?;
        let last = &mut history.lives.last_mut()?.opened;
        last.logs[partition].pop()?;
        last.ends[partition] -= 1;
        Some(())
    });
}

#[test]
fn a_committed_position_that_goes_back_is_lost() {
    assert_every_edit_is_found(Kind::Lost, |history, _| {
        let last = &mut history.lives.last_mut()?.opened;
        let at =
            last.committed.iter_mut().find(|((group, _), next)| *group == AT_LEAST_ONCE && **next > 0)?;
        *at.1 -= 1;
        Some(())
    });
}

#[test]
fn a_record_that_is_there_twice_is_doubled() {
    assert_every_edit_is_found(Kind::Doubled, |history, random| {
        let partition = pick(not_empty(history), random)?;
        let last = &mut history.lives.last_mut()?.opened;
        let (_, value) = pick(last.logs[partition].clone(), random)?;
        last.logs[partition].push((last.ends[partition], value));
        last.ends[partition] += 1;
        Some(())
    });
}

#[test]
fn an_input_whose_result_is_there_twice_is_doubled() {
    assert_every_edit_is_found(Kind::Doubled, |history, random| {
        let there = there(history);
        let made = history.changes.iter_mut().flat_map(|change| &mut change.writes);
        let mut made: Vec<&mut Write> = made
            .filter(|write| write.of.is_some_and(|of| there.contains(&of)) && there.contains(&write.value))
            .collect();
        let of = made.first()?.of;
        let other = 1 + random.below((made.len() as u64).checked_sub(1).filter(|n| *n > 0)?);
        made[other as usize].of = of;
        Some(())
    });
}

/// Two appends, one after the other, whose records have changed places wherever they were seen.
#[test]
fn records_that_change_places_are_reordered() {
    assert_every_edit_is_found(Kind::Reordered, |history, random| {
        let alone = |change: &&Change| {
            change.outcome == Outcome::Done && change.writes.len() == 1 && change.writes[0].offset.is_some()
        };
        let changes: Vec<&Change> = history.changes.iter().filter(alone).collect();
        let began: Vec<u64> = history.lives.iter().map(|life| life.began).collect();
        let life = |change: &Change| began.iter().rposition(|began| *began <= change.span.to);
        let mut pairs = Vec::new();
        for one in &changes {
            for other in &changes {
                let is_pair = one.writes[0].partition == other.writes[0].partition
                    && one.span.to < other.span.from
                    && life(one) == life(other);
                if is_pair {
                    pairs.push((one.writes[0], other.writes[0]));
                }
            }
        }
        let (one, other) = pick(pairs, random)?;
        swap(history, one.value, other.value);
        Some(())
    });
}

/// Swaps two values in all logs, reads, polls and acknowledgements.
fn swap(history: &mut History, one: u64, other: u64) {
    let swapped = |value: &mut u64| {
        *value = if *value == one {
            other
        } else if *value == other {
            one
        } else {
            *value
        };
    };
    for life in &mut history.lives {
        life.opened.logs.iter_mut().flatten().for_each(|(_, value)| swapped(value));
    }
    history.reads.iter_mut().flat_map(|read| &mut read.got).for_each(|(_, value)| swapped(value));
    for step in history.members.iter_mut().flat_map(|member| &mut member.steps) {
        if let Step::Polled { got, .. } = step {
            got.iter_mut().for_each(|(.., value)| swapped(value));
        }
    }
    let mut writes: BTreeMap<u64, &mut Write> = history
        .changes
        .iter_mut()
        .flat_map(|change| &mut change.writes)
        .filter(|write| [one, other].contains(&write.value))
        .map(|write| (write.value, write))
        .collect();
    let offsets: Vec<_> = writes.values().map(|write| write.offset).collect();
    writes.values_mut().zip(offsets.iter().rev()).for_each(|(write, offset)| write.offset = *offset);
}

/// The last record of an output partition goes, wherever it was seen, and its change is one that
/// may or may not have happened: the rest of it must not be there.
#[test]
fn a_change_of_which_a_part_is_missing_is_half_visible() {
    assert_every_edit_is_found(Kind::HalfVisible, |history, _| {
        let inputs = history.inputs;
        let logs = &history.lives.last()?.opened.logs;
        let lasts: Vec<u64> =
            logs[inputs..].iter().filter_map(|log| log.last().map(|(_, value)| *value)).collect();
        let change = history.changes.iter_mut().find(|change| {
            change.writes.len() > 1 && change.writes.iter().any(|write| lasts.contains(&write.value))
        })?;
        change.outcome = Outcome::Unknown;
        let gone = change.writes.iter().map(|write| write.value).find(|value| lasts.contains(value))?;
        for life in &mut history.lives {
            for (log, end) in life.opened.logs.iter_mut().zip(&mut life.opened.ends) {
                if log.pop_if(|(_, value)| *value == gone).is_some() {
                    *end -= 1;
                }
            }
        }
        history.reads.iter_mut().for_each(|read| read.got.retain(|(_, value)| *value != gone));
        Some(())
    });
}

#[test]
fn positions_before_their_records_are_half_visible() {
    assert_every_edit_is_found(Kind::HalfVisible, |history, _| {
        let at = |life: &mut Life| {
            let mut committed = life.opened.committed.iter_mut();
            let (_, next) = committed.find(|((group, _), next)| *group == EXACTLY_ONCE && **next > 0)?;
            *next -= 1;
            Some(())
        };
        history.lives.iter_mut().skip(1).find_map(at)
    });
}

#[test]
fn a_record_of_a_call_that_has_failed_is_invented() {
    assert_every_edit_is_found(Kind::Invented, |history, random| {
        let there = there(history);
        let value = pick(there.into_iter().collect(), random)?;
        let mut changes = history.changes.iter_mut();
        let change = changes.find(|change| change.writes.iter().any(|write| write.value == value))?;
        change.outcome = Outcome::Failed;
        Some(())
    });
}

#[test]
fn a_read_that_misses_an_acknowledged_record_is_stale() {
    assert_every_edit_is_found(Kind::Stale, |history, random| {
        let there = there(history);
        let acknowledged = history.changes.iter().filter(|change| change.outcome == Outcome::Done);
        let writes =
            acknowledged.flat_map(|change| change.writes.iter().map(|write| (change.span.to, *write)));
        let is_there = |write: &Write| write.offset.is_some() && there.contains(&write.value);
        let (returned, write) = pick(writes.filter(|(_, write)| is_there(write)).collect(), random)?;
        let span = Span { from: returned + 1, to: returned + 1 };
        let (partition, from) = (write.partition, write.offset?);
        history.reads.push(Read { session: 999, span, partition, from, got: Vec::new(), at_end: true });
        Some(())
    });
}

#[test]
fn a_poll_that_passes_over_a_record_is_found() {
    assert_every_edit_is_found(Kind::Skipped, |history, random| {
        let steps = history.members.iter_mut().flat_map(|member| &mut member.steps);
        let mut places = Vec::new();
        for step in steps {
            if let Step::Polled { got, .. } = step {
                let between = (1..got.len().saturating_sub(1))
                    .find(|at| got[at - 1].0 == got[*at].0 && got[*at].0 == got[at + 1].0);
                if let Some(at) = between {
                    places.push((got, at));
                }
            }
        }
        let (got, at) = pick(places, random)?;
        got.remove(at);
        Some(())
    });
}

#[test]
fn a_commit_of_a_member_that_has_left_is_not_fenced() {
    assert_every_edit_is_found(Kind::NotFenced, |history, random| {
        let left: Vec<(u64, u64)> = history
            .members
            .iter()
            .filter_map(|member| match member.steps.last() {
                Some(Step::Left { time }) => Some((member.session, *time)),
                _ => None,
            })
            .collect();
        let is_late = |change: &&mut Change| {
            left.iter().any(|(session, time)| *session == change.session && *time < change.span.from)
        };
        let late: Vec<&mut Change> = history.changes.iter_mut().filter(is_late).collect();
        pick(late, random)?.outcome = Outcome::Done;
        Some(())
    });
}

/// Two partitions, one life, nothing else: for histories by hand.
fn small(changes: Vec<Change>, logs: [&[u64]; 2]) -> History {
    let log = |values: &&[u64]| (0..).zip(values.iter().copied()).collect();
    let opened = Snapshot {
        logs: logs.iter().map(log).collect(),
        ends: logs.iter().map(|values| values.len() as u64).collect(),
        committed: BTreeMap::new(),
    };
    let empty = Snapshot { logs: vec![Vec::new(); 2], ends: vec![0; 2], committed: BTreeMap::new() };
    let lives = vec![
        Life { began: 0, opened: empty, end: End::Killed },
        Life { began: 1000, opened, end: End::Closed },
    ];
    History { is_sync: vec![true; 2], changes, lives, ..History::default() }
}

fn change(session: u64, from: u64, to: u64, writes: &[(usize, u64)]) -> Change {
    let write = |&(partition, value): &(usize, u64)| Write { partition, value, of: None, offset: None };
    Change {
        session,
        span: Span { from, to },
        outcome: Outcome::Done,
        is_durable: true,
        writes: writes.iter().map(write).collect(),
        commits: Vec::<Commit>::new(),
    }
}

/// Both run at the same time, and each is before the other in one of the partitions.
#[test]
fn two_transactions_that_are_each_before_the_other_are_reordered() {
    let both = || vec![change(1, 1, 10, &[(0, 11), (1, 12)]), change(2, 2, 9, &[(0, 21), (1, 22)])];
    assert_eq!(kinds(&small(both(), [&[11, 21], &[12, 22]])), []);
    assert_eq!(kinds(&small(both(), [&[21, 11], &[22, 12]])), []);
    assert_eq!(kinds(&small(both(), [&[11, 21], &[22, 12]])), [Kind::Reordered]);
}

/// A cycle of three, over two partitions and the order of time.
#[test]
fn a_cycle_through_the_order_of_time_is_reordered() {
    let changes = || {
        vec![change(1, 1, 20, &[(0, 11), (1, 12)]), change(2, 2, 5, &[(0, 21)]), change(3, 6, 9, &[(1, 31)])]
    };
    // 21 had returned before 31 was called.
    assert_eq!(kinds(&small(changes(), [&[21, 11], &[12, 31]])), []);
    assert_eq!(kinds(&small(changes(), [&[11, 21], &[31, 12]])), [Kind::Reordered]);
}

#[test]
fn records_of_one_session_must_be_in_the_order_of_its_sends() {
    let sent = || vec![change(1, 1, 9, &[(0, 11)]), change(1, 2, 10, &[(0, 12)])];
    assert_eq!(kinds(&small(sent(), [&[11, 12], &[]])), []);
    assert_eq!(kinds(&small(sent(), [&[12, 11], &[]])), [Kind::Reordered]);
}
