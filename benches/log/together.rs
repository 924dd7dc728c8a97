//! Transactions over several partitions, compared with the same records sent one by one and waited
//! for together.

use std::time::Instant;

use quipu::{BrokerConfig, Durability, Partition, Pending, Record, TopicConfig};

use super::scratch::Scratch;
use super::suite::{Metric, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    for (mode, durability) in [("os", Durability::Os), ("sync", Durability::Sync)] {
        for width in [1, 4, 16] {
            let name = format!("transaction/{mode}, {width} partitions");
            if suite.wants(&name) {
                let scratch = Scratch::new();
                let broker = BrokerConfig::new().durability(durability).open(scratch.path()).unwrap();
                let partitions = |name: &str| {
                    broker.create_topic(name, TopicConfig::new().partitions(width)).unwrap().partitions()
                };
                let (ours, theirs) = (partitions("together"), partitions("apart"));
                let divisor = width as usize * if durability == Durability::Sync { 50 } else { 4 };
                let count = suite.sizes().random_reads / divisor;
                suite.compare(
                    &name,
                    &[Metric::rate("k/s")],
                    vec![way("transaction", || {
                        repeat(count, || {
                            let mut transaction = broker.transaction();
                            for partition in &ours {
                                transaction.send(partition, record());
                            }
                            transaction.commit().unwrap();
                        })
                    })],
                    vec![way("without one", || {
                        let producer = broker.producer();
                        repeat(count, || {
                            let send = |partition: &Partition| producer.send(partition, record()).unwrap();
                            let sent: Vec<Pending> = theirs.iter().map(send).collect();
                            for pending in sent {
                                pending.wait().unwrap();
                            }
                        })
                    })],
                );
            }
        }
    }
}

fn record() -> Record<'static> {
    Record::new(
        "a hundred bytes, about that, whose content has no meaning here, only a length like that of records.",
    )
}

fn repeat(count: usize, mut once: impl FnMut()) -> Vec<f64> {
    let start = Instant::now();
    for _ in 0..count {
        once();
    }
    vec![count as f64 / start.elapsed().as_secs_f64() / 1e3]
}
