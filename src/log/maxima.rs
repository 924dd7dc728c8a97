//! The greatest of a list of numbers, in any part of the list: the greatest times of a log's
//! segments, so that a lookup by time visits few of them.
//!
//! A complete binary tree in an array. Node 1 is the root, and the children of a node `n` are
//! `2 * n` and `2 * n + 1`. Each node has the greatest number of its leaves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The tree.
#[derive(Clone)]
pub(crate) struct Maxima {
    tree: Vec<i64>,
    /// The node of the first number: a power of two, and at least their count.
    leaves: usize,
    len: usize,
}

impl Maxima {
    pub(crate) fn of(numbers: impl ExactSizeIterator<Item = i64>) -> Self {
        let len = numbers.len();
        let leaves = len.next_power_of_two();
        let mut tree = vec![i64::MIN; leaves];
        tree.extend(numbers);
        tree.resize(2 * leaves, i64::MIN);
        let mut maxima = Maxima { tree, leaves, len };
        (1..leaves).rev().for_each(|node| maxima.update(node));
        maxima
    }

    /// Returns the same numbers and one more. Copies the tree, and computes it again each time that
    /// the list doubles.
    pub(crate) fn with(&self, number: i64) -> Self {
        if self.len == self.leaves {
            let numbers: Vec<i64> = self.tree.iter().skip(self.leaves).copied().chain([number]).collect();
            return Maxima::of(numbers.into_iter());
        }
        let mut more = self.clone();
        let mut node = more.leaves + more.len;
        more.len += 1;
        if let Some(leaf) = more.tree.get_mut(node) {
            *leaf = number;
        }
        while node > 1 {
            node /= 2;
            more.update(node);
        }
        more
    }

    /// Returns the index of the first number at or after `from` that is at least `least`.
    pub(crate) fn first_at_least(&self, from: usize, least: i64) -> Option<usize> {
        let mut node = self.leaves + Some(from).filter(|from| *from < self.len)?;
        while self.at(node) < least {
            // To the next part on the right: from a right child up, then to the sibling.
            while node % 2 == 1 {
                node /= 2;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.leaves {
            node *= 2;
            if self.at(node) < least {
                node += 1;
            }
        }
        Some(node - self.leaves).filter(|at| *at < self.len)
    }

    /// Returns the numbers with their indexes, the greatest first; of equal ones, the first first.
    pub(crate) fn descending(&self) -> Descending<'_> {
        let mut heap = BinaryHeap::new();
        if self.len > 0 {
            heap.push((self.at(1), Reverse(0), 1));
        }
        Descending { maxima: self, heap }
    }

    fn update(&mut self, node: usize) {
        let greatest = self.at(2 * node).max(self.at(2 * node + 1));
        if let Some(place) = self.tree.get_mut(node) {
            *place = greatest;
        }
    }

    fn at(&self, node: usize) -> i64 {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
        self.tree.get(node).copied().unwrap_or(i64::MIN)
    }

    /// Returns the index of the first number below a node.
    fn first_below(&self, mut node: usize) -> usize {
        while node < self.leaves {
            node *= 2;
        }
        node - self.leaves
    }
}

/// See [`Maxima::descending`]. A number costs a step for each level of the tree.
pub(crate) struct Descending<'a> {
    maxima: &'a Maxima,
    /// Nodes whose numbers are still to come: the greatest number, the index of the first, the
    /// node.
    heap: BinaryHeap<(i64, Reverse<usize>, usize)>,
}

impl Descending<'_> {
    /// Returns the number that comes next.
    pub(crate) fn peek(&self) -> Option<i64> {
        self.heap.peek().map(|(greatest, _, _)| *greatest)
    }
}

impl Iterator for Descending<'_> {
    type Item = (i64, usize);

    fn next(&mut self) -> Option<(i64, usize)> {
        loop {
            let (greatest, Reverse(first), node) = self.heap.pop()?;
            if node >= self.maxima.leaves {
                return Some((greatest, first));
            }
            for child in [2 * node, 2 * node + 1] {
                let first = self.maxima.first_below(child);
                if first < self.maxima.len {
                    self.heap.push((self.maxima.at(child), Reverse(first), child));
                }
            }
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How many nodes this thread has looked at.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    #[test]
    fn lookups_agree_with_a_scan_of_the_list() {
        let mut rng = SplitMix64::new(7);
        let mut numbers: Vec<i64> = Vec::new();
        let mut maxima = Maxima::of(numbers.clone().into_iter());
        for _ in 0..70 {
            for least in (0..12).chain([i64::MIN, i64::MAX]) {
                for from in 0..=numbers.len() {
                    let expected =
                        numbers.iter().enumerate().skip(from).find(|(_, n)| **n >= least).map(|(at, _)| at);
                    assert_eq!(maxima.first_at_least(from, least), expected, "{least} {from} {numbers:?}");
                }
            }
            let mut expected: Vec<_> = numbers.iter().copied().zip(0..).collect();
            expected.sort_by_key(|(number, at)| (Reverse(*number), *at));
            let mut descending = maxima.descending();
            for found in &expected {
                assert_eq!(descending.peek(), Some(found.0));
                assert_eq!(descending.next(), Some(*found));
            }
            assert_eq!((descending.peek(), descending.next()), (None, None));
            let number = match rng.below(9) {
                0 => i64::MAX,
                1 => i64::MIN,
                number => number as i64,
            };
            numbers.push(number);
            maxima = maxima.with(number);
        }
    }

    #[test]
    fn a_lookup_visits_a_few_nodes_of_each_level() {
        for levels in [4u32, 7, 10, 13] {
            let len = 1i64 << levels;
            let maxima = Maxima::of((0..1usize << levels).map(|at| at as i64));
            for least in [0, 1, len / 3, len / 2, len - 1, len] {
                STEPS.set(0);
                assert_eq!(
                    maxima.first_at_least(0, least),
                    usize::try_from(least).ok().filter(|_| least < len)
                );
                assert!(STEPS.get() <= u64::from(2 * levels + 2), "{} steps in {len}", STEPS.get());
            }
            STEPS.set(0);
            assert_eq!(maxima.descending().next(), Some((len - 1, len as usize - 1)));
            assert!(STEPS.get() <= u64::from(2 * levels + 2), "{} steps in {len}", STEPS.get());
        }
    }
}
