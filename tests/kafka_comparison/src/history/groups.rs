//! One group: members join, leave and die; topics come later; offsets are committed.

use std::collections::BTreeMap;

use super::{Rec, Reset, Step, Strategy, Topic, Who};
use crate::random::Random;

/// What the generator knows.
struct Known {
    /// Where each partition of each topic ends.
    ends: BTreeMap<String, Vec<u64>>,
    members: Vec<Who>,
    /// The topics, or the pattern, that each member subscribed to.
    subscribed: BTreeMap<Who, Vec<String>>,
    joined: Who,
    strategy: Strategy,
    reset: Reset,
    sent: u64,
}

pub fn steps(random: &mut Random) -> Vec<Step> {
    let mut known = Known {
        ends: BTreeMap::new(),
        members: Vec::new(),
        subscribed: BTreeMap::new(),
        joined: 0,
        strategy: *random.pick(&[Strategy::Range, Strategy::RoundRobin, Strategy::Sticky]),
        reset: if random.chance(25) { Reset::Latest } else { Reset::Earliest },
        sent: 0,
    };
    let mut steps = Vec::new();
    for number in 0..random.between(1, 2) {
        known.create(random, number, &mut steps);
    }
    known.join(random, &mut steps);
    for _ in 0..random.between(4, 9) {
        known.change(random, &mut steps);
    }
    steps.push(Step::Deliver);
    steps
}

impl Known {
    fn create(&mut self, random: &mut Random, number: u64, steps: &mut Vec<Step>) {
        let topic = Topic::new(&format!("t{number}"), random.between(1, 5) as u32);
        self.ends.insert(topic.name.clone(), vec![0; topic.partitions as usize]);
        let (name, partitions) = (topic.name.clone(), topic.partitions);
        steps.push(Step::CreateTopic(topic));
        for partition in 0..partitions {
            if random.chance(70) {
                self.send(random, &name, partition, steps);
            }
        }
    }

    fn send(&mut self, random: &mut Random, topic: &str, partition: u32, steps: &mut Vec<Step>) {
        let Some(ends) = self.ends.get_mut(topic) else { return };
        let count = random.between(1, 5);
        let record = |_| {
            self.sent += 1;
            Rec {
                key: None,
                value: Some(format!("v{}", self.sent)),
                headers: Vec::new(),
                at: self.sent as i64,
            }
        };
        let records = (0..count).map(record).collect();
        ends[partition as usize] += count;
        steps.push(Step::Send { topic: topic.to_string(), partition: Some(partition), records });
    }

    fn partition(&self, random: &mut Random) -> (String, u32, u64) {
        let names: Vec<_> = self.ends.keys().collect();
        let topic = (*random.pick(&names)).clone();
        let ends = &self.ends[&topic];
        let partition = random.below(ends.len() as u64) as u32;
        let end = ends[partition as usize];
        (topic, partition, end)
    }

    /// Under `latest` a member starts where its first poll finds the end, so that comes at once.
    fn settle(&self, random: &mut Random, steps: &mut Vec<Step>) {
        steps.push(Step::Settle);
        if self.reset == Reset::Latest || random.chance(60) {
            steps.push(Step::Deliver);
        }
    }

    fn join(&mut self, random: &mut Random, steps: &mut Vec<Step>) {
        let topics = match random.below(10) {
            0..2 => vec!["t*".to_string()],
            2..5 => vec!["t0".to_string()],
            _ => self.ends.keys().cloned().collect(),
        };
        let who = self.joined;
        self.joined += 1;
        self.members.push(who);
        self.subscribed.insert(who, topics.clone());
        steps.push(Step::Join { who, topics, strategy: self.strategy, reset: self.reset });
        self.settle(random, steps);
    }

    /// A member of librdkafka that leads a group does not learn of new partitions of a topic that only others subscribe
    /// to, so the group never hands them out.
    fn all_subscribe(&self, topic: &str) -> bool {
        let matches = |name: &String| name == "t*" || name == topic;
        self.members.iter().all(|who| self.subscribed[who].iter().any(matches))
    }

    fn change(&mut self, random: &mut Random, steps: &mut Vec<Step>) {
        match random.below(100) {
            0..24 if self.members.len() < 4 => self.join(random, steps),
            24..38 if self.members.len() > 1 => {
                let at = random.below(self.members.len() as u64) as usize;
                let who = self.members.remove(at);
                steps.push(if random.chance(30) { Step::Die { who } } else { Step::Leave { who } });
                self.settle(random, steps);
            }
            38..42 if !self.ends.contains_key("t2") => {
                self.create(random, 2, steps);
                self.settle(random, steps);
            }
            42..46 => {
                let (topic, ..) = self.partition(random);
                if !self.all_subscribe(&topic) {
                    return;
                }
                let count = self.ends[&topic].len() + 1;
                self.ends.insert(topic.clone(), [&self.ends[&topic][..], &[0]].concat());
                steps.push(Step::AddPartitions { topic, count: count as u32 });
                self.settle(random, steps);
            }
            46..62 => {
                let (topic, partition, _) = self.partition(random);
                self.send(random, &topic, partition, steps);
                steps.push(Step::Deliver);
            }
            62..66 => {
                let (topic, partition, end) = self.partition(random);
                let before = random.below(end + 1);
                steps.push(Step::DeleteRecords { topic, partition, before });
            }
            66..70 => {
                let (topic, partition, end) = self.partition(random);
                let next = end + random.below(2);
                let who = *random.pick(&self.members);
                steps.push(Step::CommitBy { who, topic, partition, next });
            }
            70..74 => self.pause(random, steps),
            _ => self.commit(random, steps),
        }
    }

    /// Pauses a partition of a member over a delivery.
    fn pause(&mut self, random: &mut Random, steps: &mut Vec<Step>) {
        let (topic, partition, _) = self.partition(random);
        let who = *random.pick(&self.members);
        steps.push(Step::Deliver);
        steps.push(Step::Pause { who, topic: topic.clone(), partition });
        self.send(random, &topic, partition, steps);
        steps.push(Step::Deliver);
        steps.push(Step::Resume { who, topic, partition });
        steps.push(Step::Deliver);
    }

    fn commit(&mut self, random: &mut Random, steps: &mut Vec<Step>) {
        steps.push(Step::Deliver);
        for _ in 0..random.between(1, 3) {
            let (topic, partition, end) = self.partition(random);
            let next = if random.chance(50) { end } else { random.below(end + 1) };
            let metadata = random.pick(&["", "", "host-1", "\u{e4} b"]).to_string();
            steps.push(Step::Commit { topic: topic.clone(), partition, next, metadata });
            if random.chance(40) {
                steps.push(Step::Committed { topic, partition });
            }
        }
        if random.chance(40) {
            steps.push(Step::Lag);
        }
    }
}
