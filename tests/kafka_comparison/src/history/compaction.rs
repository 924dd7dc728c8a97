//! A compacted topic: keys that are written again, and tombstones.

use super::{Rec, Step, Topic};
use crate::random::Random;

pub fn steps(random: &mut Random) -> Vec<Step> {
    let mut topic = Topic::new("c", random.between(1, 2) as u32);
    topic.is_compacted = true;
    topic.segment_ms = Some(1000);
    let (name, partitions) = (topic.name.clone(), topic.partitions);
    let mut steps = vec![Step::CreateTopic(topic)];
    let mut clock = -500_000;
    let keys = random.between(2, 9);
    for _ in 0..random.between(4, 16) {
        let partition = random.below(u64::from(partitions)) as u32;
        let records = (0..random.between(1, 8)).map(|_| record(random, keys, &mut clock)).collect();
        steps.push(Step::Send { topic: name.clone(), partition: Some(partition), records });
    }
    // The newest segment is compacted on neither system: this record has it for itself.
    for partition in 0..partitions {
        let last = Rec {
            key: Some("last".into()),
            value: Some("v".into()),
            headers: Vec::new(),
            at: clock + 60_000,
        };
        steps.push(Step::Send { topic: name.clone(), partition: Some(partition), records: vec![last] });
    }
    steps.push(Step::Compact { topic: name.clone() });
    steps.push(Step::Bounds { topic: name });
    steps
}

fn record(random: &mut Random, keys: u64, clock: &mut i64) -> Rec {
    *clock += random.below(700) as i64;
    let value = (!random.chance(20)).then(|| format!("v{}", random.below(1000)));
    Rec { key: Some(format!("k{}", random.below(keys))), value, headers: Vec::new(), at: *clock }
}
