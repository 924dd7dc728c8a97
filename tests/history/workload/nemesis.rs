//! What goes wrong meanwhile: faults of single operations, members that are too slow, and the end
//! of the process. The threads do it when their turn comes, so that it happens beside the calls of
//! the others.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quipu::testing::{Op, Survive};

use super::{INTERVAL, World};
use crate::common::Random;
use crate::history::{End, Time};

pub(super) struct Nemesis {
    /// The time of its next act.
    next: AtomicU64,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// The process ends so, at this time.
    end: End,
    crash_at: Time,
    /// In every third process operations fail.
    has_faults: bool,
    /// The process has died in an operation, and its threads do not know it yet.
    is_dying: bool,
    crashed: bool,
}

impl Nemesis {
    /// One that does nothing.
    pub(super) fn none() -> Nemesis {
        let mut nemesis = Nemesis::new(End::Closed, 0, &mut Random(0));
        *nemesis.next.get_mut() = u64::MAX;
        nemesis
    }

    pub(super) fn new(end: End, now: Time, random: &mut Random) -> Nemesis {
        let state = State {
            random: Random(random.next()),
            end,
            crash_at: now + 100 + random.below(500),
            has_faults: random.below(3) == 0,
            is_dying: false,
            crashed: false,
        };
        Nemesis { next: AtomicU64::new(now + 20), state: Mutex::new(state) }
    }
}

/// A way in which a process may end.
pub(super) fn crash_of(end: End, random: &mut Random) -> (End, Survive) {
    let survive = match (end, random.below(4)) {
        (End::PowerLost, 0) => Survive::Synced,
        (End::PowerLost, 1) => Survive::Random(random.next()),
        (End::PowerLost, 2) => Survive::Zeroed(random.next()),
        (End::PowerLost, _) => Survive::Subset(random.next()),
        _ => Survive::Everything,
    };
    (end, survive)
}

impl World {
    /// Does the next act if its time has come and no other thread does it.
    pub(super) fn act(&self) {
        let now = self.counters.time.load(Ordering::SeqCst);
        if now < self.nemesis.next.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut state) = self.nemesis.state.try_lock() else { return };
        let state = &mut *state;
        self.nemesis.next.store(now + 10 + state.random.below(60), Ordering::SeqCst);
        if state.end != End::Closed && now >= state.crash_at {
            // In the middle of an operation, or between two.
            if !state.is_dying && state.random.below(2) == 0 {
                state.is_dying = true;
                self.disk.crash_at(1 + state.random.below(10));
                return;
            }
            let (_, survive) = crash_of(state.end, &mut state.random);
            self.disk.crash(survive);
            state.crashed = true;
            self.is_over.store(true, Ordering::SeqCst);
            return;
        }
        match state.random.below(8) {
            // Any of these may fail where a fault is planned.
            0 => drop(self.broker.maintain()),
            1 => drop(self.broker.sync()),
            2 => self.clock.advance(Duration::from_millis(state.random.below(3000))),
            3 => self.clock.advance(INTERVAL + Duration::from_secs(1)),
            4 | 5 if state.has_faults => self.plan_fault(&mut state.random),
            _ => {
                for partition in &self.partitions {
                    // It does nothing where nothing is wrong.
                    let _ = partition.reopen();
                }
            }
        }
    }

    fn plan_fault(&self, random: &mut Random) {
        const KINDS: [Op; 9] = [
            Op::Write,
            Op::Write,
            Op::Sync,
            Op::Sync,
            Op::SyncDir,
            Op::OpenFile,
            Op::Rename,
            Op::Read,
            Op::Len,
        ];
        const ERRORS: [ErrorKind; 3] = [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::TimedOut];
        let nth = 1 + random.below(20);
        match random.below(6) {
            0 => self.disk.tear(nth),
            1 => self.disk.short(if random.below(2) == 0 { Op::Read } else { Op::Write }, nth),
            _ => {
                let op = KINDS[random.below(KINDS.len() as u64) as usize];
                self.disk.fail(op, nth, ERRORS[random.below(3) as usize]);
            }
        }
    }

    /// Ends the process, unless it has ended already. Returns how it has ended.
    pub(super) fn end(self, planned: End, is_last: bool, random: &mut Random) -> End {
        let World { broker, disk, partitions, nemesis, .. } = self;
        let state = nemesis.state.into_inner().unwrap();
        drop(partitions);
        if state.crashed {
            return planned;
        }
        if planned == End::Closed {
            match broker.close() {
                Ok(()) => return End::Closed,
                Err(error) => assert!(!is_last, "{error}"),
            }
        }
        let (end, survive) = crash_of(if planned == End::Closed { End::Killed } else { planned }, random);
        disk.crash(survive);
        end
    }
}
