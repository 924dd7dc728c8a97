//! Opening a log, after it was closed or after its process was killed.

use std::time::Instant;

use super::append::digest;
use super::{Outcome, Task};
use crate::contender::Contender;
use crate::digest::Digest;
use crate::records::Records;

pub fn until_killed<C: Contender>(task: &Task, bytes: u64) -> ! {
    let records = Records::of(task.kind);
    let values = records.values();
    let count = records.count_for(bytes);
    let mut log = C::open(&task.dir, &task.settings);
    let mut done = 0;
    let batch = task.kind.batch().min(C::BATCH);
    for batch in std::iter::repeat_with(|| values.chunks(batch)).flatten() {
        log.append_batch(batch);
        let before = done;
        done += batch.len() as u64;
        if before < count && done >= count {
            log.flush();
            let outcome = Outcome { digest: Some(digest(&values, done)), ..Outcome::default() };
            println!("{}", serde_json::to_string(&outcome).expect("numbers"));
        }
        // Not for ever: the process that kills this one may be gone.
        if done > 4 * count {
            break;
        }
    }
    std::process::abort()
}

pub fn run<C: Contender>(task: &Task, expected: Digest, outcome: &mut Outcome) {
    let start = Instant::now();
    let mut log = C::open(&task.dir, &task.settings);
    outcome.put("open", start.elapsed().as_secs_f64() * 1e3);
    let mut found = Digest::first(expected.count);
    log.verify(&mut found);
    assert!(found.is_that_of(&expected, true), "acknowledged {expected:?}, found {found:?}");
    outcome.put("extra", found.extra as f64);
    log.close();
}
