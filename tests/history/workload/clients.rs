//! The threads that write and read.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quipu::{Error, Producer, ProducerConfig, Receipt, Record, Start};

use super::members::{AtLeastOnce, ExactlyOnce};
use super::{Bug, Counters, INPUTS, Notes, World, outcome, value_of};
use crate::common::Random;
use crate::history::{Change, Outcome, Read, Span, Value, Write};

/// The calls of one thread in one process.
const STEPS: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Sends several records before it waits, and appends batches.
    Produce,
    /// Sends records with sequences, again and again until they are acknowledged.
    Outbox,
    /// Writes to several partitions at once.
    Transact,
    /// A member that writes what it makes of its input in a transaction with its positions.
    ExactlyOnce,
    /// A member that only commits, and reads other partitions too.
    AtLeastOnce,
}

impl Job {
    pub(super) const ALL: [Job; 8] = [
        Job::Produce,
        Job::Produce,
        Job::Outbox,
        Job::Transact,
        Job::ExactlyOnce,
        Job::ExactlyOnce,
        Job::AtLeastOnce,
        Job::AtLeastOnce,
    ];
}

/// A record of the outbox that is not acknowledged yet.
struct Row {
    sequence: u64,
    write: Write,
    text: String,
    sent: Option<u64>,
    may_be_there: bool,
}

pub(super) struct Client {
    pub(super) job: Job,
    session: u64,
    random: Random,
    pub(super) notes: Notes,
    outbox: Vec<Row>,
    sequence: u64,
    counters: Arc<Counters>,
}

impl Client {
    pub(super) fn new(job: Job, counters: &Arc<Counters>, random: &mut Random) -> Client {
        Client {
            job,
            session: counters.session(),
            random: Random(random.next()),
            notes: Notes::default(),
            outbox: Vec::new(),
            sequence: 0,
            counters: counters.clone(),
        }
    }

    /// One process of the thread.
    pub(super) fn live(&mut self, world: &World) {
        match self.job {
            Job::Produce => self.repeat(world, world.broker.producer(), Client::produce),
            Job::Outbox => {
                // Its name is durable, so a fault may refuse it.
                let named = || world.broker.producer_with(ProducerConfig::new().name("outbox"));
                if let Some(producer) = (0..STEPS).find_map(|_| named().ok()) {
                    self.repeat(world, producer, Client::send_rows);
                }
            }
            Job::Transact => self.repeat(world, world.broker.producer(), Client::transact),
            Job::ExactlyOnce => {
                let mut member = ExactlyOnce::new();
                self.each(world, |client, world| member.step(world, &mut client.random, &mut client.notes));
                member.leave(world, &mut self.notes, false);
            }
            Job::AtLeastOnce => {
                let mut member = AtLeastOnce::new();
                self.each(world, |client, world| {
                    member.step(world, &mut client.random, &mut client.notes);
                    client.read(world);
                });
                member.leave(world, &mut self.notes);
            }
        }
    }

    fn each(&mut self, world: &World, mut step: impl FnMut(&mut Client, &World)) {
        for _ in 0..STEPS {
            if world.is_over.load(Ordering::SeqCst) {
                return;
            }
            step(self, world);
            world.act();
        }
    }

    fn repeat(&mut self, world: &World, producer: Producer, step: fn(&mut Client, &World, &Producer)) {
        self.each(world, |client, world| step(client, world, &producer));
    }

    fn some_partition(&mut self, world: &World) -> usize {
        self.random.below(world.partitions.len() as u64) as usize
    }

    fn produce(&mut self, world: &World, producer: &Producer) {
        if self.random.below(3) == 0 {
            return self.append(world);
        }
        let mut sent = Vec::new();
        for _ in 0..1 + self.random.below(5) {
            let partition = self.some_partition(world);
            let (write, record) = world.write(partition, None, &mut self.random);
            let from = world.now();
            let to = &world.partitions[partition];
            if world.plan.bug == Some(Bug::AppendsTwice) && self.random.below(20) == 0 {
                drop(producer.send(to, record.clone()));
            }
            sent.push((from, write, producer.send(to, record)));
        }
        if world.plan.bug == Some(Bug::ReordersRecords) {
            sent.sort_by_key(|(from, ..)| Reverse(*from));
            let times: Vec<_> = sent.iter().rev().map(|(from, ..)| *from).collect();
            sent.iter_mut().zip(times).for_each(|((from, ..), time)| *from = time);
        }
        for (from, mut write, sent) in sent {
            let result = sent.and_then(|pending| pending.wait());
            let span = Span { from, to: world.now() };
            write.offset = result.as_ref().ok().map(|receipt| receipt.offset.get());
            self.notes.changes.push(world.change(
                self.session,
                span,
                outcome(&result),
                vec![write],
                Vec::new(),
            ));
        }
    }

    /// Several records as one batch.
    fn append(&mut self, world: &World) {
        let partition = self.some_partition(world);
        let count = 1 + self.random.below(4);
        let (mut writes, records): (Vec<_>, Vec<_>) =
            (0..count).map(|_| world.write(partition, None, &mut self.random)).unzip();
        let from = world.now();
        let result = world.partitions[partition].append(records);
        let span = Span { from, to: world.now() };
        if let Ok(receipt) = &result {
            for (write, offset) in writes.iter_mut().zip(receipt.offset.get()..) {
                write.offset = Some(offset);
            }
        }
        self.notes.changes.push(world.change(self.session, span, outcome(&result), writes, Vec::new()));
    }

    fn send_rows(&mut self, world: &World, producer: &Producer) {
        let partition = world.plan.seed as usize % INPUTS;
        for _ in self.outbox.len() as u64..1 + self.random.below(3) {
            let (write, _) = world.write(partition, None, &mut self.random);
            self.sequence += 1;
            let (sequence, text) = (self.sequence, format!("{} row", write.value));
            self.outbox.push(Row { sequence, write, text, sent: None, may_be_there: false });
        }
        let mut sent = Vec::new();
        for row in &mut self.outbox {
            row.sent.get_or_insert_with(|| world.now());
            let record = Record::new(row.text.clone()).sequence(row.sequence);
            sent.push(producer.send(&world.partitions[partition], record));
        }
        let results: Vec<_> = sent.into_iter().map(|sent| sent.and_then(|pending| pending.wait())).collect();
        let to = world.now();
        let mut results = results.into_iter();
        let mut left = Vec::new();
        for mut row in self.outbox.drain(..) {
            let result = results.next().unwrap();
            match (&result, outcome(&result)) {
                (Ok(receipt), _) => {
                    row.write.offset = Some(receipt.offset.get());
                    let span = Span { from: row.sent.unwrap(), to };
                    let change = world.change(self.session, span, Outcome::Done, vec![row.write], Vec::new());
                    self.notes.changes.push(change);
                }
                // It is there, from a call before.
                (Err(Error::DuplicateSequence { .. }), _) => {
                    let span = Span { from: row.sent.unwrap(), to };
                    let change = world.change(self.session, span, Outcome::Done, vec![row.write], Vec::new());
                    self.notes.changes.push(change);
                }
                (_, outcome) => {
                    row.may_be_there |= outcome == Outcome::Unknown;
                    left.push(row);
                }
            }
        }
        self.outbox = left;
    }

    fn transact(&mut self, world: &World, producer: &Producer) {
        let mut transaction = world.broker.transaction();
        let mut writes = Vec::new();
        for _ in 0..2 + self.random.below(3) {
            let partition = self.some_partition(world);
            let (write, record) = world.write(partition, None, &mut self.random);
            transaction.send(&world.partitions[partition], record);
            writes.push(write);
        }
        let from = world.now();
        let result = match world.plan.bug {
            Some(Bug::AppendsTransactionsOneByOne) => one_by_one(producer, world, &writes),
            _ => transaction.commit(),
        };
        let span = Span { from, to: world.now() };
        if let Ok(receipts) = &result {
            for (write, receipt) in writes.iter_mut().zip(receipts) {
                write.offset = Some(receipt.offset.get());
            }
        }
        self.notes.changes.push(world.change(self.session, span, outcome(&result), writes, Vec::new()));
    }

    /// Sends the rows of the outbox until all of them are acknowledged.
    pub(super) fn empty_outbox(&mut self, world: &World) {
        let producer = world.broker.producer_with(ProducerConfig::new().name("outbox")).unwrap();
        for _ in 0..10 {
            self.send_rows(world, &producer);
            if self.outbox.is_empty() {
                return;
            }
        }
        panic!("{:?}: {} rows cannot be sent", world.plan, self.outbox.len());
    }

    /// Reads one partition, from any place or from its end.
    fn read(&mut self, world: &World) {
        let partition = self.some_partition(world);
        let Ok(bounds) = world.partitions[partition].bounds() else { return };
        let end = bounds.visible_end.get();
        let from = if self.random.below(2) == 0 { end } else { self.random.below(end + 1) };
        let began = world.now();
        let most = [1, 400, 4000][self.random.below(3) as usize];
        let Ok(records) = world.partitions[partition].read(Start::At(from.into()), most) else { return };
        let span = Span { from: began, to: world.now() };
        let got: Vec<(u64, Value)> =
            records.iter().map(|record| (record.offset().get(), value_of(record.value()))).collect();
        let at_end = got.is_empty();
        self.notes.reads.push(Read { session: self.session, span, partition, from, got, at_end });
    }

    /// The notes of all its processes.
    pub(super) fn finish(mut self) -> Notes {
        let to = self.counters.now();
        for row in self.outbox {
            let Some(from) = row.sent else { continue };
            let outcome = if row.may_be_there { Outcome::Unknown } else { Outcome::Failed };
            let change = Change {
                session: self.session,
                span: Span { from, to },
                outcome,
                is_durable: false,
                writes: vec![row.write],
                commits: Vec::new(),
            };
            self.notes.changes.push(change);
        }
        self.notes
    }
}

/// A transaction that is none: the same records, each by itself.
fn one_by_one(producer: &Producer, world: &World, writes: &[Write]) -> quipu::Result<Vec<Receipt>> {
    let send = |write: &Write| {
        let record = Record::new(format!("{} alone", write.value));
        producer.send(&world.partitions[write.partition], record)?.wait()
    };
    let receipts: quipu::Result<Vec<_>> = writes.iter().map(send).collect();
    receipts
}
