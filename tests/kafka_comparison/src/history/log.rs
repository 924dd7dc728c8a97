//! One log: sends, deletions, lookups, and readers that seek.

use super::{Place, Rec, Reset, Step, Topic};
use crate::random::Random;

const KEYS: [&str; 8] = ["", "a", "b", "customer-7", "kafka", "\u{e4}\u{f6}", "0", "a rather long key"];

/// What the generator knows of a topic.
struct Known {
    name: String,
    partitions: u32,
    /// About where each partition ends.
    ends: Vec<u64>,
}

pub fn steps(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut topics = Vec::new();
    for number in 0..random.between(1, 2) {
        let mut topic = Topic::new(&format!("t{number}"), random.between(1, 4) as u32);
        topic.segment_ms = random.chance(60).then(|| random.between(1, 20) * 100);
        topics.push(Known {
            name: topic.name.clone(),
            partitions: topic.partitions,
            ends: vec![0; topic.partitions as usize],
        });
        steps.push(Step::CreateTopic(topic));
    }
    let mut clock = -100_000;
    for _ in 0..random.between(8, 24) {
        let topic = random.below(topics.len() as u64) as usize;
        step(random, &mut topics[topic], &mut clock, &mut steps);
    }
    for topic in &topics {
        steps.push(Step::Bounds { topic: topic.name.clone() });
        steps.push(Step::Read { topic: topic.name.clone() });
    }
    steps
}

fn step(random: &mut Random, topic: &mut Known, clock: &mut i64, steps: &mut Vec<Step>) {
    let name = topic.name.clone();
    let partition = random.below(u64::from(topic.partitions)) as u32;
    let end = topic.ends[partition as usize];
    match random.below(100) {
        0..45 => steps.push(send(random, topic, clock)),
        45..53 => {
            let before = random.below(end + 3);
            steps.push(Step::DeleteRecords { topic: name, partition, before });
        }
        53..60 => steps.push(Step::Bounds { topic: name }),
        60..72 => {
            let at = -100_000 + random.below((*clock + 100_000) as u64 + 500) as i64 - 200;
            steps.push(Step::OffsetForTime { topic: name, partition, at });
        }
        72..78 => steps.push(Step::Read { topic: name }),
        _ => walk(random, topic, steps),
    }
}

/// A consumer with one to three partitions reads, seeks, pauses, reads.
fn walk(random: &mut Random, topic: &Known, steps: &mut Vec<Step>) {
    let who = random.below(2) as u8;
    let name = &topic.name;
    let reset = *random.pick(&[Reset::Earliest, Reset::Latest, Reset::Fail]);
    let count = if reset == Reset::Fail { 1 } else { random.between(1, u64::from(topic.partitions)) as u32 };
    let first = random.below(u64::from(topic.partitions - count + 1)) as u32;
    let place = |random: &mut Random, partition: u32| match random.below(5) {
        0 => Place::Beginning,
        1 => Place::End,
        _ => Place::At(random.below(topic.ends[partition as usize] + 3)),
    };
    let places: Vec<_> = (first..first + count).map(|of| (of, place(random, of))).collect();
    steps.push(Step::Assign { who, topic: name.clone(), places, reset });
    steps.push(Step::Poll { who });
    for _ in 0..random.below(3) {
        let partition = first + random.below(u64::from(count)) as u32;
        let topic = name.clone();
        match random.below(4) {
            0 => steps.push(Step::Pause { who, topic, partition }),
            1 => steps.push(Step::Resume { who, topic, partition }),
            _ => {
                let to = place(random, partition);
                steps.push(Step::Seek { who, topic, partition, to });
            }
        }
        steps.push(Step::Poll { who });
    }
}

fn send(random: &mut Random, topic: &mut Known, clock: &mut i64) -> Step {
    let partition = random.chance(60).then(|| random.below(u64::from(topic.partitions)) as u32);
    let records: Vec<_> =
        (0..random.between(1, 6)).map(|_| record(random, partition.is_none(), clock)).collect();
    for record in &records {
        let key = record.key.as_deref().unwrap_or_default();
        let at = partition.unwrap_or_else(|| quipu::partition_for_key(key.as_bytes(), topic.partitions));
        topic.ends[at as usize] += 1;
    }
    Step::Send { topic: topic.name.clone(), partition, records }
}

/// A record of any form. Times mostly grow.
fn record(random: &mut Random, has_key: bool, clock: &mut i64) -> Rec {
    *clock += random.below(600) as i64;
    let at = if random.chance(15) { *clock - random.below(3000) as i64 } else { *clock };
    let key = (has_key || random.chance(40)).then(|| random.pick(&KEYS).to_string());
    let value = (!random.chance(10)).then(|| match random.below(6) {
        0 => String::new(),
        1 => "x".repeat(random.below(3000) as usize),
        _ => format!("v{}", random.below(1000)),
    });
    let header = |random: &mut Random| {
        let name = *random.pick(&["h", "trace", "h"]);
        (name.to_string(), random.chance(80).then(|| random.pick(&["", "1", "abc"]).to_string()))
    };
    let headers = (0..random.below(6).saturating_sub(3)).map(|_| header(random)).collect();
    Rec { key, value, headers, at }
}
