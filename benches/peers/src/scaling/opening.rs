//! Times of opening a log.

use std::time::{Duration, Instant};

use quipu::{Broker, TopicConfig};

use super::rates::send;
use super::{Measured, Point};
use crate::UNTIL_KILLED;
use crate::runs::child::{self, Until};

const VALUE: [u8; 1024] = [b'v'; 1024];
/// The log before the part that is not synced.
const SYNCED: u64 = 100;
const QUICK_SYNCED: u64 = 5;

/// Appends so many megabytes of records.
fn fill(broker: &Broker, megabytes: u64) {
    let topic = broker.ensure_topic("t", TopicConfig::new()).unwrap();
    let (producer, partition) = (broker.producer(), topic.partition(0).unwrap());
    for _ in 0..megabytes * 1_000_000 / VALUE.len() as u64 {
        send(&producer, &partition, &VALUE);
    }
    producer.flush().unwrap();
}

fn open(point: &Point) -> f64 {
    let start = Instant::now();
    let broker = Broker::open(&point.dir).unwrap();
    let took = start.elapsed();
    let bounds = broker.topic("t").unwrap().partition(0).unwrap().bounds().unwrap();
    assert!(bounds.visible_end.get() >= point.x * 1_000_000 / VALUE.len() as u64, "{bounds:?}");
    took.as_secs_f64() * 1e3
}

pub fn closed(point: &Point) -> f64 {
    let broker = Broker::open(&point.dir).unwrap();
    fill(&broker, point.x);
    broker.close().unwrap();
    drop(broker);
    open(point)
}

pub fn killed(point: &Point) -> f64 {
    let broker = Broker::open(&point.dir).unwrap();
    fill(&broker, if point.quick { QUICK_SYNCED } else { SYNCED });
    broker.close().unwrap();
    drop(broker);
    child::run::<_, Measured>(UNTIL_KILLED, point, Until::Outcome, Duration::from_secs(60)).unwrap();
    open(point)
}

/// The process that is killed: it has appended, and closes nothing.
pub fn until_killed(point: &Point) -> ! {
    let broker = Broker::open(&point.dir).unwrap();
    fill(&broker, point.x);
    println!("{}", serde_json::to_string(&Measured { y: 0.0 }).expect("a number"));
    std::thread::sleep(Duration::from_secs(60));
    std::process::abort()
}
