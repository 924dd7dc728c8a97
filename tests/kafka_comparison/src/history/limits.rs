//! Limits and refusals: names, sizes, times, things that do not exist.

use super::{Rec, Reset, Step, Strategy, Topic};
use crate::random::Random;

const NAMES: [&str; 8] = ["", ".", "..", "a b", "a/b", "\u{e4}", "a*", "a:b"];

pub fn steps(random: &mut Random) -> Vec<Step> {
    let mut topic = Topic::new("t", 2);
    topic.max_bytes = Some(random.between(10, 60) as u32 * 100);
    let limit = topic.max_bytes.unwrap_or_default() as usize;
    let mut compacted = Topic::new("c", 1);
    compacted.is_compacted = true;
    let mut steps = vec![
        Step::CreateTopic(topic),
        Step::CreateTopic(compacted),
        Step::Join {
            who: 0,
            topics: vec!["t".to_string()],
            strategy: Strategy::Range,
            reset: Reset::Earliest,
        },
        Step::Settle,
    ];
    for _ in 0..random.between(4, 9) {
        probe(random, limit, &mut steps);
    }
    steps.extend([Step::Leave { who: 0 }, Step::Settle, Step::DeleteGroup]);
    steps.push(Step::Read { topic: "t".to_string() });
    steps
}

fn probe(random: &mut Random, limit: usize, steps: &mut Vec<Step>) {
    match random.below(9) {
        0 => names(random, steps),
        1 | 2 => sizes(random, limit, steps),
        3 | 4 => unknown(random, steps),
        5 => {
            // An hour after the present is the limit; one test of each side, well away from it.
            let at = *random.pick(&[1_800_000, 7_200_000]);
            steps.push(send("t", 0, vec![value(10, at)]));
        }
        6 => steps.push(send("c", 0, vec![value(10, 0)])),
        7 => {
            let length = *random.pick(&[4095, 4096, 4097, 9000]);
            let metadata = "m".repeat(length);
            steps.push(Step::Commit { topic: "t".to_string(), partition: 0, next: 0, metadata });
            steps.push(Step::Committed { topic: "t".to_string(), partition: 0 });
        }
        _ => match random.below(3) {
            0 => steps.push(Step::DeleteGroup),
            1 => {
                steps.push(Step::AddPartitions { topic: "t".to_string(), count: random.between(1, 2) as u32 })
            }
            _ => steps.push(Step::CreateTopic(Topic::new("zero", 0))),
        },
    }
}

fn names(random: &mut Random, steps: &mut Vec<Step>) {
    match random.below(3) {
        0 => {
            let mut topic = Topic::new(random.pick::<&str>(&NAMES), 1);
            topic.is_literal = true;
            steps.push(Step::CreateTopic(topic));
        }
        1 => steps.push(Step::CreateTopic(Topic::new(&"x".repeat(*random.pick(&[100, 250])), 1))),
        _ => {
            for _ in 0..2 {
                steps.push(Step::CreateTopic(Topic::new(
                    random.pick::<&str>(&["a.b", "a_b", "A.b", "a-b"]),
                    1,
                )));
            }
        }
    }
}

/// One record or several, below the limit, above it, or near it.
fn sizes(random: &mut Random, limit: usize, steps: &mut Vec<Step>) {
    let size = match random.below(4) {
        0 => limit / 2,
        1 => limit * 2,
        2 => limit - 100 + random.below(110) as usize,
        _ => limit - 60,
    };
    let count = if random.chance(40) { 3 } else { 1 };
    steps.push(send("t", 1, (0..count).map(|_| value(size, 0)).collect()));
}

fn unknown(random: &mut Random, steps: &mut Vec<Step>) {
    let topic = "nope".to_string();
    match random.below(7) {
        0 => steps.push(send("nope", 0, vec![value(3, 0)])),
        1 => steps.push(send("t", 7, vec![value(3, 0)])),
        2 => steps.push(Step::DeleteTopic { topic }),
        3 => steps.push(Step::DeleteRecords { topic, partition: 0, before: 0 }),
        4 => steps.push(Step::AddPartitions { topic, count: 3 }),
        5 => steps.push(Step::CommitBy { who: 0, topic, partition: 0, next: 0 }),
        _ => steps.push(Step::CreateTopic(Topic::new("t", 2))),
    }
}

fn value(size: usize, at: i64) -> Rec {
    Rec { key: None, value: Some("x".repeat(size)), headers: Vec::new(), at }
}

fn send(topic: &str, partition: u32, records: Vec<Rec>) -> Step {
    Step::Send { topic: topic.to_string(), partition: Some(partition), records }
}
