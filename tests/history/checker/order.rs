//! The rules for the order: the order of offsets, of each session and of time have no cycle.
//!
//! Two kinds of graphs, each for one life. In that of all changes an edge leads from each change to
//! the next one of a partition, and from each to those that were called after it had returned. So
//! all changes are serializable, in an order that agrees with time. In the graph of one partition
//! there are its reads as well: a read comes after the change whose record it returned last, and
//! before the change whose record stands where it found the end. So each partition is linearizable.
//! There is no graph of reads of several partitions, because a transaction becomes visible
//! partition by partition.

use std::collections::BTreeMap;

use super::{Case, Kind};
use crate::history::{Span, Step};

/// One call: the time before which it has no effect, and the time at which it has had it.
struct Node {
    from: u64,
    to: u64,
    name: String,
    is_read: bool,
}

#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.edges.push(Vec::new());
        self.nodes.len() - 1
    }

    /// Adds the order of time: a chain with a link for each return of a call. A call leads to the
    /// link of its return, and the last link before a call leads to it.
    fn add_time(&mut self) {
        let calls = self.nodes.len();
        let mut returns: Vec<(u64, usize)> =
            (0..calls).filter(|n| self.nodes[*n].to != u64::MAX).map(|n| (self.nodes[n].to, n)).collect();
        returns.sort_unstable();
        let mut links: Vec<(u64, usize)> = Vec::new();
        for (time, call) in &returns {
            let name = String::new();
            let link = self.add(Node { from: *time, to: *time, name, is_read: false });
            self.edges[*call].push(link);
            if let Some((_, before)) = links.last() {
                self.edges[*before].push(link);
            }
            links.push((*time, link));
        }
        for call in 0..calls {
            let before = links.partition_point(|(time, _)| *time < self.nodes[call].from);
            if let Some((_, link)) = before.checked_sub(1).map(|at| links[at]) {
                self.edges[link].push(call);
            }
        }
    }

    /// The calls of a cycle, if there is one.
    fn cycle(&self) -> Option<Vec<usize>> {
        // 0: not visited, 1: on the path, 2: done.
        let mut state = vec![0u8; self.nodes.len()];
        for start in 0..self.nodes.len() {
            if state[start] != 0 {
                continue;
            }
            let mut path = vec![(start, 0)];
            state[start] = 1;
            while let Some((node, next)) = path.last_mut() {
                let Some(&to) = self.edges[*node].get(*next) else {
                    state[*node] = 2;
                    path.pop();
                    continue;
                };
                *next += 1;
                match state[to] {
                    0 => {
                        state[to] = 1;
                        path.push((to, 0));
                    }
                    1 => {
                        let from = path.iter().position(|(node, _)| *node == to).unwrap_or(0);
                        return Some(path[from..].iter().map(|(node, _)| *node).collect());
                    }
                    _ => {}
                }
            }
        }
        None
    }

    fn text(&self, cycle: &[usize]) -> String {
        let calls = cycle.iter().map(|node| &self.nodes[*node]).filter(|node| !node.name.is_empty());
        calls
            .map(|node| format!("{} ({}..{})", node.name, node.from, node.to))
            .collect::<Vec<_>>()
            .join(" -> ")
    }
}

impl Case<'_> {
    pub(super) fn check_order(&mut self) {
        for life in 0..self.seen.len() {
            self.check_sessions(life);
            self.check_changes(life);
            for partition in 0..self.history.is_sync.len() {
                self.check_partition(life, partition);
            }
        }
    }

    /// The records of a session are in the order of its calls.
    fn check_sessions(&mut self, life: usize) {
        for partition in 0..self.history.is_sync.len() {
            let mut last: BTreeMap<u64, (u64, usize, u64)> = BTreeMap::new();
            let mut wrong = Vec::new();
            for value in self.seen[life].by_offset[partition].values() {
                let Some(&(change, write)) = self.writer.get(value) else { continue };
                let made = &self.history.changes[change];
                let place = (made.span.from, write, *value);
                if let Some(before) = last.insert(made.session, place)
                    && before > place
                {
                    wrong.push((before.2, *value));
                }
            }
            for (one, two) in wrong {
                let (one, two) = (self.describe(one), self.describe(two));
                self.report(
                    Kind::Reordered,
                    format!("life {life}: in {partition} {one} stands before {two}"),
                );
            }
        }
    }

    /// The changes of a partition in the order of their offsets.
    fn changes_of(&self, life: usize, partition: usize) -> Vec<usize> {
        let values = self.seen[life].by_offset[partition].values();
        let mut changes: Vec<usize> = values.filter_map(|value| Some(self.writer.get(value)?.0)).collect();
        changes.dedup();
        changes
    }

    fn add_change(&self, graph: &mut Graph, change: usize) -> usize {
        let made = &self.history.changes[change];
        let values: Vec<_> = made.writes.iter().map(|write| write.value).collect();
        let name = format!("{values:?} of session {}", made.session);
        graph.add(Node { from: made.span.from, to: Self::latest(made), name, is_read: false })
    }

    fn check_changes(&mut self, life: usize) {
        let mut graph = Graph::default();
        let mut nodes: BTreeMap<usize, usize> = BTreeMap::new();
        for partition in 0..self.history.is_sync.len() {
            let mut before = None;
            for change in self.changes_of(life, partition) {
                let node = match nodes.get(&change) {
                    Some(node) => *node,
                    None => self.add_change(&mut graph, change),
                };
                nodes.insert(change, node);
                if let Some(before) = before.replace(node).filter(|before| *before != node) {
                    graph.edges[before].push(node);
                }
            }
        }
        graph.add_time();
        if let Some(cycle) = graph.cycle() {
            let text = graph.text(&cycle);
            self.report(Kind::Reordered, format!("life {life}: a cycle of changes: {text}"));
        }
    }

    /// The reads and polls of a partition in a life: their spans, the end of what they returned,
    /// and whether they found the end.
    fn looks(&self, life: usize, partition: usize) -> Vec<(u64, Span, Option<u64>, Option<u64>)> {
        let mut looks = Vec::new();
        for read in self.history.reads.iter().filter(|read| read.partition == partition) {
            let last = read
                .got
                .last()
                .map(|(offset, _)| *offset)
                .or(read.from.checked_sub(1).filter(|_| read.at_end));
            looks.push((read.session, read.span, last, read.at_end.then_some(read.from)));
        }
        for member in &self.history.members {
            for step in &member.steps {
                if let Step::Polled { span, got } = step {
                    let last =
                        got.iter().filter(|(of, ..)| *of == partition).map(|(_, offset, _)| *offset).max();
                    looks.push((member.session, *span, last, None));
                }
            }
        }
        looks.retain(|(_, span, ..)| self.life_at(span.to) == life);
        looks
    }

    fn check_partition(&mut self, life: usize, partition: usize) {
        let mut graph = Graph::default();
        // By offset: the node of the change that wrote it.
        let mut writers: BTreeMap<u64, usize> = BTreeMap::new();
        let mut before: Option<(usize, usize)> = None;
        for (offset, value) in &self.seen[life].by_offset[partition] {
            let Some(&(change, _)) = self.writer.get(value) else { continue };
            if before.is_none_or(|(last, _)| last != change) {
                let node = self.add_change(&mut graph, change);
                if let Some((_, last)) = before.replace((change, node)) {
                    graph.edges[last].push(node);
                }
            }
            writers.insert(*offset, graph.nodes.len() - 1);
        }
        for (session, span, last, end) in self.looks(life, partition) {
            if last.is_none() && end.is_none() {
                continue;
            }
            let name = format!("the read of session {session} up to {last:?}");
            let node = graph.add(Node { from: span.from, to: span.to, name, is_read: true });
            if let Some(last) = last
                && let Some((_, writer)) = writers.range(..=last).next_back()
            {
                graph.edges[*writer].push(node);
            }
            if let Some(end) = end
                && let Some((_, writer)) = writers.range(end..).next()
            {
                graph.edges[node].push(*writer);
            }
        }
        graph.add_time();
        if let Some(cycle) = graph.cycle() {
            let has_read = cycle.iter().any(|node| graph.nodes[*node].is_read);
            let kind = if has_read { Kind::Stale } else { Kind::Reordered };
            let text = graph.text(&cycle);
            self.report(kind, format!("life {life}: a cycle in partition {partition}: {text}"));
        }
    }
}
