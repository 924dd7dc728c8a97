//! Whether a soak lost or changed a record.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quipu::{Broker, Start};

/// The number of the record that was written last for each key.
pub struct Keys(Vec<Option<u64>>);

impl Keys {
    pub fn new(count: u64) -> Self {
        Keys(vec![None; count as usize])
    }

    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn wrote(&mut self, key: u64, number: u64) {
        self.0[key as usize] = Some(number);
    }

    /// Opens the log again, and compares the newest record of every key.
    pub fn check(&self, dir: &Path) {
        let broker = Broker::open(dir).unwrap();
        let mut found = vec![None; self.0.len()];
        for records in broker.reader(&["latest"], Start::Beginning).unwrap().to_end() {
            for record in &records.unwrap() {
                found[number(record.key()) as usize] = Some(number(record.value()));
            }
        }
        assert!(found == self.0, "the newest record of a key is another one");
        broker.close().unwrap();
    }
}

/// The first eight bytes.
fn number(bytes: Option<&[u8]>) -> u64 {
    u64::from_le_bytes(*bytes.and_then(|bytes| bytes.first_chunk()).expect("eight bytes"))
}

/// Follows the events, which have the even numbers in their order, and counts them.
pub fn follow(broker: &Broker, stop: &AtomicBool, count: &AtomicU64) {
    let mut reader = broker.reader(&["events"], Start::Beginning).unwrap();
    let mut next = 0;
    loop {
        // Looked at before the poll: what was sent before the stop is seen by it.
        let is_last = stop.load(Ordering::Acquire);
        let records = reader.poll(Duration::from_millis(100)).unwrap();
        for record in &records {
            assert_eq!(number(record.value()), 2 * next, "the event of offset {}", record.offset());
            next += 1;
        }
        if is_last && records.is_empty() {
            break;
        }
    }
    count.store(next, Ordering::Release);
}
