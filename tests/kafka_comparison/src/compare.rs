//! Runs a history on both systems, and makes one that shows a difference shorter.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::differences::{Differences, Verdict};
use crate::history::{History, Step};
use crate::seen::{Difference, differences};
use crate::system::System;

/// How long shortening a history may take.
const SHORTENING: Duration = Duration::from_secs(90);

/// What came of a history.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The steps that were compared.
    pub steps: usize,
    /// The listed differences that were met, by name, and how often.
    pub met: BTreeMap<String, u64>,
    /// The first difference that is not listed.
    pub unlisted: Option<Difference>,
}

/// Makes both systems of a history, new ones at each call.
pub type Systems<'a> = dyn Fn(&History) -> Result<(Box<dyn System + 'a>, Box<dyn System + 'a>)> + 'a;

/// Runs a history. Ends at the first difference that is not listed, and at a listed one after which
/// the states differ.
pub fn compare(history: &History, systems: &Systems<'_>, list: &Differences) -> Result<Comparison> {
    let (mut quipu, mut kafka) = systems(history)?;
    let mut comparison = Comparison::default();
    for (at, step) in history.steps.iter().enumerate() {
        let of = || format!("step {at}, {step:?}");
        let expected = kafka.step(step).with_context(of)?;
        let seen = quipu.step(step).with_context(of)?;
        comparison.steps += 1;
        let mut ends = false;
        for difference in differences(at, step.name(), &history.tags(at), &seen, &expected) {
            match list.verdict(&difference) {
                Verdict::Listed { name, ends: does_end } => {
                    *comparison.met.entry(name.to_string()).or_default() += 1;
                    ends |= does_end;
                }
                Verdict::Unlisted => {
                    comparison.unlisted.get_or_insert(difference);
                }
            }
        }
        if ends || comparison.unlisted.is_some() {
            break;
        }
    }
    Ok(comparison)
}

/// The shortest history that was found to show such a difference, and the difference that it shows.
/// Drops halves of the steps, then quarters, down to single steps.
pub fn shorten(
    history: &History,
    difference: &Difference,
    systems: &Systems<'_>,
    list: &Differences,
) -> (History, Difference) {
    let start = Instant::now();
    let mut shortest = History { steps: first(&history.steps, difference.at + 1), ..history.clone() };
    let mut shown = difference.clone();
    let mut size = shortest.steps.len().div_ceil(2);
    loop {
        let mut from = 0;
        let mut has_dropped = false;
        while from < shortest.steps.len() && start.elapsed() < SHORTENING {
            let candidate = History { steps: without(&shortest.steps, from, size), ..shortest.clone() };
            let comparison = candidate.is_determined().then(|| compare(&candidate, systems, list));
            let found = comparison.and_then(Result::ok).and_then(|comparison| comparison.unlisted);
            match found.filter(|found| found.is_like(difference)) {
                Some(found) => {
                    let steps = first(&candidate.steps, found.at + 1);
                    shortest = History { steps, ..candidate };
                    shown = found;
                    has_dropped = true;
                }
                None => from += size,
            }
        }
        if start.elapsed() >= SHORTENING || (size == 1 && !has_dropped) {
            return (shortest, shown);
        }
        size = size.div_ceil(2).max(1);
    }
}

fn first(steps: &[Step], count: usize) -> Vec<Step> {
    steps.iter().take(count).cloned().collect()
}

fn without(steps: &[Step], from: usize, size: usize) -> Vec<Step> {
    let kept = steps.iter().enumerate().filter(|(at, _)| !(from..from + size).contains(at));
    kept.map(|(_, step)| step.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::history::Kind;
    use crate::quipu::Quipu;
    use crate::seen::Seen;
    use crate::system::Names;

    /// Names that no other test has: a directory may have one of them.
    fn names() -> Names {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Names::new(format!("test-{}-{number}-", std::process::id()), 1_700_000_000_000)
    }

    fn quipu(names: &Names, on_disk: bool) -> Result<Box<dyn System>> {
        Ok(Box::new(Quipu::new(names.clone(), on_disk)?))
    }

    /// Quipu, but it loses the second deletion of records.
    struct Faulty(Box<dyn System>, u32);

    impl System for Faulty {
        fn step(&mut self, step: &Step) -> Result<Seen> {
            if let Step::DeleteRecords { .. } = step {
                self.1 += 1;
                if self.1 == 2 {
                    return Ok(Seen::outcome("lost"));
                }
            }
            self.0.step(step)
        }
    }

    #[test]
    fn memory_and_a_directory_show_the_same() {
        let list = Differences::load().unwrap();
        for kind in Kind::ALL {
            for seed in 0..6 {
                let history = History::new(kind, seed);
                let systems = |_: &History| {
                    let names = names();
                    Ok((quipu(&names, false)?, quipu(&names, true)?))
                };
                let comparison = compare(&history, &systems, &list).unwrap();
                assert!(comparison.unlisted.is_none(), "{history}\n{:?}", comparison.unlisted);
                assert_eq!(comparison.steps, history.steps.len());
            }
        }
    }

    #[test]
    fn a_fault_is_found_and_its_history_shortened() {
        let list = Differences::load().unwrap();
        let systems = |_: &History| {
            let names = names();
            let faulty: Box<dyn System> = Box::new(Faulty(quipu(&names, false)?, 0));
            Ok((quipu(&names, false)?, faulty))
        };
        let mut histories = (0..).map(|seed| History::new(Kind::Log, seed));
        let found = histories.find_map(|history| {
            let unlisted = compare(&history, &systems, &list).unwrap().unlisted?;
            Some((history, unlisted))
        });
        let (history, difference) = found.unwrap();
        let (shortest, shown) = shorten(&history, &difference, &systems, &list);
        // The topic, records to delete, and two deletions.
        let is_deletion = |step: &&Step| matches!(step, Step::DeleteRecords { .. });
        assert_eq!(shortest.steps.iter().filter(is_deletion).count(), 2, "{shortest}");
        assert!(shortest.steps.len() <= 4 && history.steps.len() > 8, "{shortest}");
        assert_eq!(shown.kafka, ["lost"]);
    }
}
