//! Consume, transform, produce: transactions that commit or abort, beside plain sends.

use super::{Rec, Reset, Step, Strategy, Topic};
use crate::random::Random;

struct Known {
    partitions: u32,
    /// Where each partition of `in` ends.
    ends: Vec<u64>,
    open: Vec<u8>,
    next_tx: u8,
    sent: i64,
}

pub fn steps(random: &mut Random) -> Vec<Step> {
    let partitions = random.between(1, 3) as u32;
    let mut known =
        Known { partitions, ends: vec![0; partitions as usize], open: Vec::new(), next_tx: 0, sent: 0 };
    let mut steps = vec![
        Step::CreateTopic(Topic::new("in", partitions)),
        Step::CreateTopic(Topic::new("out", partitions)),
    ];
    for partition in 0..partitions {
        known.send(random, "in", partition, &mut steps);
    }
    let topics = vec!["in".to_string()];
    steps.push(Step::Join {
        who: 0,
        topics: topics.clone(),
        strategy: Strategy::Range,
        reset: Reset::Earliest,
    });
    steps.push(Step::Settle);
    steps.push(Step::Deliver);
    for _ in 0..random.between(5, 14) {
        known.step(random, &mut steps);
    }
    for tx in std::mem::take(&mut known.open) {
        steps.push(Step::End { tx, commit: random.chance(60) });
    }
    steps.push(Step::Read { topic: "out".to_string() });
    for partition in 0..partitions {
        steps.push(Step::Committed { topic: "in".to_string(), partition });
    }
    // A successor starts at the offsets that the transactions have committed.
    steps.extend([Step::Leave { who: 0 }, Step::Settle]);
    steps.push(Step::Join { who: 1, topics, strategy: Strategy::Range, reset: Reset::Earliest });
    steps.push(Step::Settle);
    steps.push(Step::Deliver);
    steps
}

impl Known {
    fn record(&mut self) -> Rec {
        self.sent += 1;
        Rec { key: None, value: Some(format!("v{}", self.sent)), headers: Vec::new(), at: self.sent }
    }

    fn send(&mut self, random: &mut Random, topic: &str, partition: u32, steps: &mut Vec<Step>) {
        let count = random.between(1, 4);
        let records = (0..count).map(|_| self.record()).collect();
        if topic == "in" {
            self.ends[partition as usize] += count;
        }
        steps.push(Step::Send { topic: topic.to_string(), partition: Some(partition), records });
    }

    fn step(&mut self, random: &mut Random, steps: &mut Vec<Step>) {
        let partition = random.below(u64::from(self.partitions)) as u32;
        match random.below(100) {
            0..30 if self.open.len() < 2 => {
                let tx = self.next_tx;
                self.next_tx += 1;
                self.open.push(tx);
                steps.push(Step::Begin { tx });
                self.write(random, tx, steps);
            }
            30..50 if !self.open.is_empty() => {
                let tx = *random.pick(&self.open);
                self.write(random, tx, steps);
            }
            50..75 if !self.open.is_empty() => {
                let at = random.below(self.open.len() as u64) as usize;
                let tx = self.open.remove(at);
                steps.push(Step::End { tx, commit: random.chance(65) });
            }
            75..82 => self.send(random, "out", partition, steps),
            82..90 => {
                self.send(random, "in", partition, steps);
                steps.push(Step::Deliver);
            }
            90..94 => steps.push(Step::Bounds { topic: "out".to_string() }),
            94..97 => steps.push(Step::Committed { topic: "in".to_string(), partition }),
            _ => steps.push(Step::Read { topic: "out".to_string() }),
        }
    }

    fn write(&mut self, random: &mut Random, tx: u8, steps: &mut Vec<Step>) {
        for _ in 0..random.between(1, 3) {
            let partition = random.below(u64::from(self.partitions)) as u32;
            let record = self.record();
            steps.push(Step::SendIn { tx, topic: "out".to_string(), partition, record });
        }
        if random.chance(50) {
            let partition = random.below(u64::from(self.partitions)) as u32;
            let next = random.below(self.ends[partition as usize] + 1);
            steps.push(Step::OffsetsIn { tx, topic: "in".to_string(), partition, next });
        }
    }
}
