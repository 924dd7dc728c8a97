//! Makes a history: eight threads on one simulated disk, in several processes one after the other.
//!
//! Two producers, one of an idempotent producer's name, one of transactions, two members of a group
//! that writes what it makes of its input together with its positions, and two members of a group
//! that only commits, which read meanwhile. The threads also plan faults, repair, maintain and
//! crash, when their turn comes.

mod clients;
mod members;
mod nemesis;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock};
use quipu::{
    Broker, BrokerConfig, CooperativeStickyAssignor, Durability, Error, Partition, RangeAssignor, Record,
    RoundRobinAssignor, Start, TopicConfig,
};

use self::clients::{Client, Job};
use self::nemesis::Nemesis;
use crate::common::Random;
use crate::history::{Change, Commit, End, History, Life, Outcome, Read, Snapshot, Span, Time, Value, Write};

pub const INPUTS: usize = 3;
const OUTPUTS: usize = 2;
pub const EXACTLY_ONCE: usize = 0;
pub const AT_LEAST_ONCE: usize = 1;
const GROUPS: [&str; 2] = ["exactly-once", "at-least-once"];
/// Of a member between two polls.
const INTERVAL: Duration = Duration::from_secs(10);

/// A bug that the threads pretend the library to have, so that the checker has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// `Sync` acknowledges before it syncs.
    AcknowledgesBeforeTheSync,
    /// An append is tried again although it was written.
    AppendsTwice,
    /// Records that are sent one after the other are written in another order.
    ReordersRecords,
    /// The records of a transaction are appended one by one.
    AppendsTransactionsOneByOne,
    /// The positions of a transaction are committed by themselves, after its records.
    CommitsPositionsApart,
}

/// What a run is like, from its seed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    bug: Option<Bug>,
    input: Durability,
    output: Durability,
    broker: Durability,
    /// Time stands still until a thread moves it, and the broker has no threads of its own.
    is_manual: bool,
}

impl Plan {
    fn of(seed: u64, bug: Option<Bug>) -> Plan {
        let soon = Durability::Interval(Duration::from_millis(1));
        let (input, output, broker) = match seed % 5 {
            0 | 1 => (Durability::Sync, Durability::Sync, Durability::Sync),
            2 => (Durability::Os, Durability::Os, Durability::Os),
            3 => (Durability::Os, Durability::Sync, Durability::Sync),
            _ => (soon, soon, soon),
        };
        Plan { seed, bug, input, output, broker, is_manual: (seed / 5).is_multiple_of(2) }
    }

    fn open(&self, disk: &Disk, clock: &ManualClock) -> quipu::Result<Broker> {
        let config = BrokerConfig::new().seed(self.seed).durability(self.broker);
        let config = if self.is_manual { config.clock(clock.clone()) } else { config };
        let broker = config.on_disk(disk)?;
        // Segments of a few records.
        let late = self.bug == Some(Bug::AcknowledgesBeforeTheSync);
        let of = |promised: Durability| if late { Durability::Os } else { promised };
        let topic =
            || TopicConfig::new().segment_bytes(2 << 10).max_record_bytes(700).index_interval_bytes(300);
        broker.ensure_topic("in", topic().partitions(INPUTS as u32).durability(of(self.input)))?;
        broker.ensure_topic("out", topic().partitions(OUTPUTS as u32).durability(of(self.output)))?;
        Ok(broker)
    }
}

/// One process, as its threads see it.
struct World {
    plan: Plan,
    broker: Broker,
    disk: Disk,
    clock: ManualClock,
    /// Those of the input, then those of the output.
    partitions: Vec<Partition>,
    is_sync: Vec<bool>,
    counters: Arc<Counters>,
    is_over: AtomicBool,
    nemesis: Nemesis,
}

/// Numbers for times, values and sessions. Each run has its own.
#[derive(Default)]
struct Counters {
    time: AtomicU64,
    value: AtomicU64,
    session: AtomicU64,
}

impl Counters {
    fn now(&self) -> Time {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    fn value(&self) -> Value {
        self.value.fetch_add(1, Ordering::SeqCst)
    }

    fn session(&self) -> u64 {
        self.session.fetch_add(1, Ordering::SeqCst)
    }
}

impl World {
    fn now(&self) -> Time {
        self.counters.now()
    }

    /// A new record for a partition, and its note. Some fill a good part of a segment.
    fn write(&self, partition: usize, of: Option<Value>, random: &mut Random) -> (Write, Record<'static>) {
        let value = self.counters.value();
        let pad = "x".repeat([0, 3, 40, 300][random.below(4) as usize]);
        let text = match of {
            Some(of) => format!("{value}<{of} {pad}"),
            None => format!("{value} {pad}"),
        };
        (Write { partition, value, of, offset: None }, Record::new(text))
    }

    /// Whether the acknowledgement of a change promises that no power loss takes it: the strictest
    /// durability of its topics counts.
    fn is_durable(&self, writes: &[Write], commits: &[Commit]) -> bool {
        let commits_are_sync = self.plan.broker == Durability::Sync && !commits.is_empty();
        commits_are_sync || writes.iter().any(|write| self.is_sync[write.partition])
    }

    fn change(
        &self,
        session: u64,
        span: Span,
        outcome: Outcome,
        writes: Vec<Write>,
        commits: Vec<Commit>,
    ) -> Change {
        let is_durable = self.is_durable(&writes, &commits);
        Change { session, span, outcome, is_durable, writes, commits }
    }

    /// The number of a partition in the history.
    fn number(topic: &str, partition: u32) -> usize {
        partition as usize + if topic == "in" { 0 } else { INPUTS }
    }
}

/// The result of a call, as its error states it.
fn outcome<T>(result: &quipu::Result<T>) -> Outcome {
    match result.as_ref().map_err(Error::outcome) {
        Ok(_) => Outcome::Done,
        Err(quipu::Outcome::NotWritten) => Outcome::Failed,
        Err(_) => Outcome::Unknown,
    }
}

/// The value of a record.
fn value_of(bytes: Option<&[u8]>) -> Value {
    let text = std::str::from_utf8(bytes.unwrap()).unwrap();
    let first = text.split(['<', ' ']).next().unwrap();
    first.parse().unwrap_or_else(|_| panic!("a record that no client has written: {text}"))
}

/// All of a broker, as its opening has left it.
fn snapshot(broker: &Broker) -> Snapshot {
    let report = broker.open_report();
    assert!(report.damaged.is_empty(), "a crash leaves no damage: {report:?}");
    let mut found = Snapshot::default();
    for topic in ["in", "out"] {
        for partition in broker.topic(topic).unwrap().partitions() {
            let end = partition.bounds().unwrap().visible_end;
            let mut log = Vec::new();
            let mut from = quipu::Offset::ZERO;
            while from < end {
                let records = partition.read(Start::At(from), 64 << 10).unwrap();
                let Some(last) = records.last() else { break };
                from = last.offset() + 1;
                log.extend(records.iter().map(|record| (record.offset().get(), value_of(record.value()))));
            }
            found.logs.push(log);
            found.ends.push(end.get());
        }
    }
    for (group, name) in GROUPS.iter().enumerate() {
        for partition in 0..INPUTS {
            if let Some(at) = broker.group(name).unwrap().committed("in", partition as u32).unwrap() {
                found.committed.insert((group, partition), at.offset.get());
            }
        }
    }
    found
}

/// Everything that the threads have noted.
#[derive(Default)]
struct Notes {
    changes: Vec<Change>,
    reads: Vec<Read>,
    members: Vec<crate::history::Member>,
}

/// Runs one history.
pub fn run(seed: u64, bug: Option<Bug>) -> History {
    let plan = Plan::of(seed, bug);
    let mut random = Random(seed);
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let counters: Arc<Counters> = Arc::default();
    let is_sync: Vec<bool> = (0..INPUTS + OUTPUTS)
        .map(|at| if at < INPUTS { plan.input } else { plan.output } == Durability::Sync)
        .collect();
    let mut history = History {
        is_sync: is_sync.clone(),
        commits_are_sync: plan.broker == Durability::Sync,
        inputs: INPUTS,
        exactly_once: EXACTLY_ONCE,
        groups: GROUPS.len(),
        is_drained: true,
        ..History::default()
    };
    let mut clients: Vec<Client> =
        Job::ALL.iter().map(|job| Client::new(*job, &counters, &mut random)).collect();
    let lives = 2 + random.below(3);
    let mut broker = plan.open(&disk, &clock).unwrap();
    for life in 0..=lives {
        let (opened, began) = (snapshot(&broker), counters.now());
        let ends = [End::Closed, End::Killed, End::PowerLost, End::PowerLost];
        let is_last = life == lives;
        let planned = if is_last { End::Closed } else { ends[random.below(4) as usize] };
        let partitions =
            ["in", "out"].iter().flat_map(|topic| broker.topic(topic).unwrap().partitions()).collect();
        let nemesis = if is_last { Nemesis::none() } else { Nemesis::new(planned, began, &mut random) };
        let world = World {
            plan,
            broker,
            disk: disk.clone(),
            clock: clock.clone(),
            partitions,
            is_sync: is_sync.clone(),
            counters: counters.clone(),
            is_over: AtomicBool::new(false),
            nemesis,
        };
        if is_last {
            let outbox = clients.iter_mut().find(|client| client.job == Job::Outbox).unwrap();
            outbox.empty_outbox(&world);
            members::drain(&world, &mut clients[0].notes);
        } else {
            thread::scope(|scope| {
                for client in &mut clients {
                    let world = &world;
                    scope.spawn(move || client.live(world));
                }
            });
        }
        let end = world.end(planned, is_last, &mut random);
        history.lives.push(Life { began, opened, end });
        let (opened, lost) = reopen(&plan, &disk, &clock, is_last, &mut random);
        if lost && let Some(life) = history.lives.last_mut() {
            life.end = End::PowerLost;
        }
        broker = opened;
    }
    let (opened, began) = (snapshot(&broker), counters.now());
    history.lives.push(Life { began, opened, end: End::Closed });
    for client in clients {
        let notes = client.finish();
        history.changes.extend(notes.changes);
        history.reads.extend(notes.reads);
        history.members.extend(notes.members);
    }
    history
}

/// Opens the disk again, sometimes after an opening that a crash has ended. Returns whether that
/// was a power loss.
fn reopen(
    plan: &Plan,
    disk: &Disk,
    clock: &ManualClock,
    is_last: bool,
    random: &mut Random,
) -> (Broker, bool) {
    let mut lost = false;
    disk.clear_faults();
    while !is_last && random.below(3) == 0 {
        disk.crash_at(1 + random.below(60));
        let opened = plan.open(disk, clock);
        let (end, survive) =
            nemesis::crash_of(if random.below(2) == 0 { End::Killed } else { End::PowerLost }, random);
        lost |= end == End::PowerLost;
        disk.crash(survive);
        drop(opened);
    }
    let broker = plan.open(disk, clock).unwrap_or_else(|error| panic!("{plan:?}: {error}"));
    (broker, lost)
}

/// The partitions that positions name, in the history's words.
fn commits_of(group: usize, next: &BTreeMap<usize, u64>) -> Vec<Commit> {
    next.iter().map(|(partition, next)| Commit { group, partition: *partition, next: *next }).collect()
}

fn assignor(builder: quipu::ConsumerBuilder, seed: u64) -> quipu::ConsumerBuilder {
    match seed / 2 % 3 {
        0 => builder.assignor(CooperativeStickyAssignor),
        1 => builder.assignor(RangeAssignor),
        _ => builder.assignor(RoundRobinAssignor),
    }
}
