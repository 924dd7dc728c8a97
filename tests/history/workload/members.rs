//! The members of the two groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::{Consumer, ConsumerHandle, Error, RebalanceEvent, Records};

use super::{
    AT_LEAST_ONCE, Bug, EXACTLY_ONCE, GROUPS, INPUTS, INTERVAL, Notes, OUTPUTS, World, assignor, commits_of,
    outcome, value_of,
};
use crate::common::Random;
use crate::history::{Member, Outcome, Span, Step, Value};

/// A consumer, and the notes of its calls and of its listener.
struct Joined {
    consumer: Consumer,
    session: u64,
    group: usize,
    steps: Arc<Mutex<Vec<Step>>>,
}

/// What a poll has returned: the records, and the positions after them.
struct Batch {
    records: Records,
    got: Vec<(usize, u64, Value)>,
    next: BTreeMap<usize, u64>,
}

impl Joined {
    fn join(world: &World, group: usize) -> Option<Joined> {
        let steps: Arc<Mutex<Vec<Step>>> = Arc::default();
        let (noted, counters) = (steps.clone(), world.counters.clone());
        let builder = world.broker.consumer(GROUPS[group]).max_poll_interval(INTERVAL).max_records(7);
        let builder = assignor(builder, world.plan.seed).on_rebalance(move |rebalance| {
            let at: BTreeMap<u32, u64> = rebalance
                .positions()
                .iter()
                .map(|position| (position.partition.get(), position.offset.get()))
                .collect();
            let is_assigned = rebalance.event() == RebalanceEvent::Assigned;
            let mut steps = noted.lock().unwrap();
            for of in rebalance.partitions() {
                let (time, partition) = (counters.now(), of.partition.get() as usize);
                steps.push(match is_assigned {
                    true => Step::Assigned { time, partition, at: at.get(&of.partition.get()).copied() },
                    false => Step::Gone { time, partition },
                });
            }
            Ok(())
        });
        let consumer = builder.subscribe("in").ok()?;
        Some(Joined { consumer, session: world.counters.session(), group, steps })
    }

    fn note(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }

    /// Polls once, and notes what came.
    fn poll(&mut self, world: &World) -> Option<Batch> {
        let from = world.now();
        let records = self.consumer.poll(Duration::ZERO).ok()?;
        let span = Span { from, to: world.now() };
        let place = |record: &quipu::ConsumedRecord<'_>| {
            let partition = World::number(record.topic().as_str(), record.partition().get());
            (partition, record.offset().get(), value_of(record.value()))
        };
        let got: Vec<_> = records.iter().map(|record| place(&record)).collect();
        let next = got.iter().map(|(partition, offset, _)| (*partition, offset + 1)).collect();
        self.note(Step::Polled { span, got: got.clone() });
        (!records.is_empty()).then_some(Batch { records, got, next })
    }

    /// Leaves the group, with or without the calls of its listener.
    fn leave(self, world: &World, notes: &mut Notes, close: bool) {
        let Joined { consumer, session, group, steps } = self;
        if close {
            let _ = consumer.close();
        } else {
            drop(consumer);
        }
        let mut steps = std::mem::take(&mut *steps.lock().unwrap());
        steps.push(Step::Left { time: world.now() });
        notes.members.push(Member { session, group, steps });
    }
}

pub(super) struct ExactlyOnce {
    joined: Option<Joined>,
}

impl ExactlyOnce {
    pub(super) fn new() -> ExactlyOnce {
        ExactlyOnce { joined: None }
    }

    /// Polls and writes what it makes of the records, or joins, or leaves.
    pub(super) fn step(&mut self, world: &World, random: &mut Random, notes: &mut Notes) {
        let Some(joined) = &mut self.joined else {
            self.joined = Joined::join(world, EXACTLY_ONCE);
            return;
        };
        if random.below(12) == 0 {
            return self.leave(world, notes, random.below(2) == 0);
        }
        let Some(Batch { records, got, next }) = joined.poll(world) else { return };
        let mut transaction = world.broker.transaction();
        let mut writes = Vec::new();
        for (_, _, value) in got {
            let partition = INPUTS + value as usize % OUTPUTS;
            let (write, record) = world.write(partition, Some(value), random);
            transaction.send(&world.partitions[partition], record);
            writes.push(write);
        }
        let apart = world.plan.bug == Some(Bug::CommitsPositionsApart);
        if !apart {
            transaction.offsets(&joined.consumer, &records);
        }
        let from = world.now();
        // It may end without a commit, as by an error of the program.
        let result = if random.below(10) == 0 {
            Err(Error::listener("the program fails"))
        } else if apart {
            transaction.commit().and_then(|receipts| joined.consumer.commit(&records).map(|()| receipts))
        } else {
            transaction.commit()
        };
        let span = Span { from, to: world.now() };
        if let Ok(receipts) = &result {
            for (write, receipt) in writes.iter_mut().zip(receipts) {
                write.offset = Some(receipt.offset.get());
            }
        }
        let commits = commits_of(EXACTLY_ONCE, &next);
        notes.changes.push(world.change(joined.session, span, outcome(&result), writes, commits));
        if result.is_err() {
            joined.note(Step::WentBack { time: world.now() });
        }
    }

    pub(super) fn leave(&mut self, world: &World, notes: &mut Notes, close: bool) {
        if let Some(joined) = self.joined.take() {
            joined.leave(world, notes, close);
        }
    }
}

pub(super) struct AtLeastOnce {
    joined: Option<Joined>,
    /// The newest records that are not committed.
    polled: Option<Batch>,
    /// Of a member that has left: its handle must commit nothing.
    ghost: Option<(ConsumerHandle, u64, Batch)>,
}

impl AtLeastOnce {
    pub(super) fn new() -> AtLeastOnce {
        AtLeastOnce { joined: None, polled: None, ghost: None }
    }

    /// Polls and commits, or joins, or leaves.
    pub(super) fn step(&mut self, world: &World, random: &mut Random, notes: &mut Notes) {
        if let Some((handle, session, Batch { records, next, .. })) =
            self.ghost.take_if(|_| random.below(3) == 0)
        {
            let from = world.now();
            let result = handle.commit(&records);
            let span = Span { from, to: world.now() };
            let commits = commits_of(AT_LEAST_ONCE, &next);
            notes.changes.push(world.change(session, span, outcome(&result), Vec::new(), commits));
        }
        let Some(joined) = &mut self.joined else {
            self.joined = Joined::join(world, AT_LEAST_ONCE);
            return;
        };
        if random.below(12) == 0 {
            let handle = joined.consumer.handle();
            let session = joined.session;
            self.ghost = self.polled.take().map(|polled| (handle, session, polled));
            return self.leave(world, notes);
        }
        if let Some(polled) = joined.poll(world) {
            self.polled = Some(polled);
        }
        if random.below(2) == 0 {
            self.commit(world, notes);
        }
    }

    fn commit(&mut self, world: &World, notes: &mut Notes) {
        let Some((joined, Batch { records, next, .. })) = self.joined.as_ref().zip(self.polled.take()) else {
            return;
        };
        let from = world.now();
        let result = joined.consumer.commit(&records);
        let span = Span { from, to: world.now() };
        let commits = commits_of(AT_LEAST_ONCE, &next);
        notes.changes.push(world.change(joined.session, span, outcome(&result), Vec::new(), commits));
    }

    pub(super) fn leave(&mut self, world: &World, notes: &mut Notes) {
        self.polled = None;
        if let Some(joined) = self.joined.take() {
            joined.leave(world, notes, true);
        }
    }
}

/// Each group polls and commits until nothing is left, one member alone and without faults.
pub(super) fn drain(world: &World, notes: &mut Notes) {
    let mut random = Random(world.plan.seed);
    let mut one = ExactlyOnce::new();
    let mut other = AtLeastOnce::new();
    // A record at a time would do; most of the steps join, leave, and fail on purpose.
    for _ in 0..2000 {
        one.step(world, &mut random, notes);
        other.step(world, &mut random, notes);
        other.commit(world, notes);
        let is_done = |group: usize| {
            let group = world.broker.group(GROUPS[group]).unwrap();
            world.partitions[..INPUTS].iter().all(|partition| {
                let committed = group.committed("in", partition.id()).unwrap();
                committed.map_or(0, |at| at.offset.get()) == partition.bounds().unwrap().visible_end.get()
            })
        };
        if is_done(EXACTLY_ONCE) && is_done(AT_LEAST_ONCE) {
            break;
        }
    }
    one.leave(world, notes, true);
    other.leave(world, notes);
    debug_assert!(notes.changes.iter().any(|change| change.outcome == Outcome::Done));
}
