//! A group against a model: members come, go, fall asleep and wake, topics grow and new ones match, the process is killed, and
//! everybody polls and commits whatever he has at any time. At no instant a partition has two owners; each begins exactly
//! where the last accepted commit ended; commits are accepted exactly when KIP-1251 says so.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Consumer, CooperativeStickyAssignor, Error, RangeAssignor, RebalanceEvent, Record,
    Records, RoundRobinAssignor, TopicConfig,
};

const INTERVAL: Duration = Duration::from_secs(10);

type Place = (String, u32);
/// By partition: under which ownership, up to where.
type Done = BTreeMap<Place, (u64, u64)>;
type Events = Arc<Mutex<Vec<(RebalanceEvent, Vec<Place>)>>>;

/// A small generator of its own: a sequence is its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

struct Member {
    consumer: Consumer,
    events: Events,
    /// What it knows to own: the number of each ownership, and the next offset to be delivered.
    owned: BTreeMap<Place, (u64, u64)>,
    /// What it has polled and may commit at any time: by partition, under which ownership, up to where.
    polled: Vec<(Records, Done)>,
    last_poll: Duration,
}

struct World {
    disk: Disk,
    clock: ManualClock,
    now: Duration,
    broker: Broker,
    members: Vec<Member>,
    /// How many records each partition has.
    ends: BTreeMap<Place, u64>,
    committed: BTreeMap<Place, u64>,
    ownerships: u64,
    assignor: u64,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    delivered: u64,
    redelivered: u64,
    accepted: u64,
    rejected: u64,
    lost: u64,
    kills: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = BrokerConfig::new().clock(clock.clone()).seed(seed).on_disk(&disk).unwrap();
        let mut world = World {
            disk,
            clock,
            now: Duration::ZERO,
            broker,
            members: Vec::new(),
            ends: BTreeMap::new(),
            committed: BTreeMap::new(),
            ownerships: 0,
            assignor: seed % 3,
            counts: Counts::default(),
        };
        world.grow("orders.0", 2);
        world
    }

    fn grow(&mut self, topic: &str, partitions: u32) {
        self.broker.ensure_topic(topic, TopicConfig::new().partitions(partitions)).unwrap();
        for partition in 0..partitions {
            self.ends.entry((topic.to_string(), partition)).or_default();
        }
    }

    fn join(&mut self) {
        let events = Events::default();
        let told = events.clone();
        let builder =
            self.broker.consumer("group").max_poll_interval(INTERVAL).on_rebalance(move |rebalance| {
                let places = rebalance.partitions().iter().map(|(t, p)| (t.to_string(), p.get())).collect();
                told.lock().unwrap().push((rebalance.event(), places));
                Ok(())
            });
        let builder = match self.assignor {
            0 => builder.assignor(CooperativeStickyAssignor),
            1 => builder.assignor(RangeAssignor),
            _ => builder.assignor(RoundRobinAssignor),
        };
        let consumer = builder.max_records(3).subscribe(&["orders.*"]).unwrap();
        let (owned, polled) = (BTreeMap::new(), Vec::new());
        self.members.push(Member { consumer, events, owned, polled, last_poll: self.now });
    }

    fn is_expelled(&self, at: usize) -> bool {
        self.now - self.members[at].last_poll >= INTERVAL
    }

    fn poll(&mut self, at: usize) {
        let expelled = self.is_expelled(at);
        let now = self.now;
        let member = &mut self.members[at];
        let records = member.consumer.poll(Duration::ZERO).unwrap();
        member.last_poll = now;
        let mut had_lost = false;
        for (event, places) in member.events.lock().unwrap().drain(..) {
            for place in places {
                match event {
                    RebalanceEvent::Assigned => {
                        self.ownerships += 1;
                        let start = self.committed.get(&place).copied().unwrap_or(0);
                        let before = member.owned.insert(place, (self.ownerships, start));
                        assert!(before.is_none(), "assigned twice");
                    }
                    RebalanceEvent::Revoked => {
                        assert!(member.owned.remove(&place).is_some(), "revoked what it did not own");
                    }
                    _ => {
                        assert!(expelled && member.owned.remove(&place).is_some(), "lost without reason");
                        had_lost = true;
                    }
                }
            }
        }
        self.counts.lost += u64::from(had_lost);
        let mut done = Done::new();
        for record in &records {
            let place = (record.topic().to_string(), record.partition().get());
            let (ownership, next) = member.owned.get_mut(&place).expect("delivered what it does not own");
            assert_eq!(record.offset().get(), *next, "{place:?}: skipped or delivered twice");
            *next += 1;
            self.counts.delivered += 1;
            done.insert(place, (*ownership, *next));
        }
        let known: Vec<Place> =
            member.consumer.assignment().iter().map(|(t, p)| (t.to_string(), p.get())).collect();
        assert!(known.iter().eq(member.owned.keys()), "{known:?} {:?}", member.owned);
        if !records.is_empty() {
            member.polled.push((records, done));
        }
    }

    fn commit(&mut self, at: usize, which: usize) {
        let expelled = self.is_expelled(at);
        let member = &mut self.members[at];
        if member.polled.is_empty() {
            return;
        }
        let which = which % member.polled.len();
        let (records, done) = &member.polled[which];
        let current =
            |place: &Place, ownership: u64| member.owned.get(place).is_some_and(|o| o.0 == ownership);
        let valid = !expelled && done.iter().all(|(place, (ownership, _))| current(place, *ownership));
        match member.consumer.commit(records) {
            Ok(()) => {
                assert!(valid, "a zombie's commit was accepted");
                for (place, (_, next)) in done {
                    self.committed.insert(place.clone(), *next);
                }
                self.counts.accepted += 1;
            }
            Err(Error::CommitRejected { .. }) => {
                assert!(!valid, "a valid commit was rejected");
                self.counts.rejected += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn kill(&mut self) {
        for member in self.members.drain(..) {
            std::mem::forget(member.consumer);
        }
        let fresh = BrokerConfig::new().clock(self.clock.clone()).seed(1);
        self.disk.crash(Survive::Everything);
        let old = std::mem::replace(&mut self.broker, fresh.on_disk(&self.disk).unwrap());
        std::mem::forget(old);
        self.counts.kills += 1;
    }

    fn step(&mut self, random: &mut Random) {
        let count = self.members.len() as u64;
        match random.below(20) {
            0 | 1 if count < 5 => self.join(),
            2 if count > 0 => {
                let member = self.members.remove(random.below(count) as usize);
                if random.below(2) == 0 {
                    member.consumer.close().unwrap();
                }
            }
            3 => {
                self.clock.advance(INTERVAL / 2);
                self.now += INTERVAL / 2;
            }
            4 => {
                let topic = format!("orders.{}", random.below(3));
                let had = self.ends.keys().filter(|(t, _)| *t == topic).count() as u32;
                if had < 5 {
                    self.grow(&topic, had + 1);
                }
            }
            5 if random.below(5) == 0 => self.kill(),
            6..=9 => {
                let at = random.below(self.ends.len() as u64) as usize;
                let (place, end) = self.ends.iter_mut().nth(at).unwrap();
                let partition = self.broker.topic(&place.0).unwrap().partition(place.1).unwrap();
                self.broker.producer().send(&partition, Record::new("v")).unwrap().wait().unwrap();
                *end += 1;
            }
            10..=12 if count > 0 => {
                let (at, which) = (random.below(count) as usize, random.below(100) as usize);
                // Mostly the newest, sometimes any.
                let newest = self.members[at].polled.len().saturating_sub(1);
                self.commit(at, if random.below(3) == 0 { which } else { newest });
            }
            _ if count > 0 => self.poll(random.below(count) as usize),
            _ => self.join(),
        }
        self.assert_one_owner();
    }

    fn assert_one_owner(&self) {
        let mut owned = BTreeSet::new();
        for (at, member) in self.members.iter().enumerate().filter(|(at, _)| !self.is_expelled(*at)) {
            for place in member.owned.keys() {
                assert!(owned.insert(place.clone()), "{at}: {place:?} has two owners");
            }
        }
    }

    /// Everybody polls until nobody moves and nothing comes: then everything is owned, and everything was delivered.
    fn settle(&mut self) {
        if self.members.is_empty() {
            self.join();
        }
        for _ in 0..200 {
            let before = self.counts.delivered;
            (0..self.members.len()).for_each(|at| self.poll(at));
            let stable = self.broker.group("group").unwrap().describe().unwrap().stable;
            if stable && before == self.counts.delivered {
                break;
            }
        }
        let owned: BTreeMap<_, _> = self.members.iter().flat_map(|member| member.owned.clone()).collect();
        assert!(owned.keys().eq(self.ends.keys()), "{:?} of {:?}", owned.keys(), self.ends.keys());
        for (place, (_, next)) in &owned {
            assert_eq!(next, &self.ends[place], "{place:?} was not delivered to its end");
        }
        let group = self.broker.group("group").unwrap();
        for (topic, partition) in self.ends.keys() {
            let found = group.committed(topic, *partition).unwrap().map(|committed| committed.offset.get());
            assert_eq!(found, self.committed.get(&(topic.clone(), *partition)).copied());
        }
    }
}

#[test]
fn two_thousand_random_histories_agree_with_the_model() {
    let mut all = Counts::default();
    for seed in 0..2000 {
        let mut random = Random(seed);
        let mut world = World::new(seed);
        for _ in 0..100 {
            world.step(&mut random);
        }
        world.settle();
        let records: u64 = world.ends.values().sum();
        let Counts { delivered, accepted, rejected, lost, kills, .. } = world.counts;
        all.delivered += delivered;
        all.redelivered += delivered - records;
        all.accepted += accepted;
        all.rejected += rejected;
        all.lost += lost;
        all.kills += kills;
    }
    println!("{all:?}");
    let Counts { redelivered, accepted, rejected, lost, kills, .. } = all;
    assert!(redelivered > 1000 && accepted > 1000 && rejected > 1000 && lost > 100 && kills > 100, "{all:?}");
}

/// On threads and in real time: who owns a partition is written down by the listeners, before anything of it is read.
#[test]
fn members_on_threads_never_share_a_partition_and_miss_nothing() {
    const RECORDS: usize = 4000;
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("orders.0", TopicConfig::new().partitions(8)).unwrap();
    let owners: Arc<Mutex<BTreeMap<u32, usize>>> = Arc::default();
    let seen: Arc<Mutex<BTreeSet<(u32, u64)>>> = Arc::default();
    thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let producer = broker.producer();
            for n in 0..RECORDS {
                producer.send(&topic, Record::new("v").key(n.to_string())).unwrap().detach();
                if n % 50 == 0 {
                    producer.flush().unwrap();
                }
            }
            producer.flush().unwrap();
        });
        for worker in 0..6usize {
            let (broker, owners, seen) = (&broker, &owners, &seen);
            scope.spawn(move || {
                let mut random = Random(worker as u64);
                while seen.lock().unwrap().len() < RECORDS {
                    let table = owners.clone();
                    let mut consumer = broker
                        .consumer("group")
                        .max_records(20)
                        .on_rebalance(move |rebalance| {
                            let mut table = table.lock().unwrap();
                            for (_, partition) in rebalance.partitions() {
                                match rebalance.event() {
                                    RebalanceEvent::Assigned => {
                                        assert_eq!(table.insert(partition.get(), worker), None, "two owners");
                                    }
                                    _ => assert_eq!(table.remove(&partition.get()), Some(worker)),
                                }
                            }
                            Ok(())
                        })
                        .subscribe(&["orders.*"])
                        .unwrap();
                    for _ in 0..5 + random.below(30) {
                        let records = consumer.poll(Duration::from_millis(1)).unwrap();
                        let places = records.iter().map(|r| (r.partition().get(), r.offset().get()));
                        seen.lock().unwrap().extend(places);
                        consumer.commit(&records).unwrap();
                    }
                    consumer.close().unwrap();
                }
            });
        }
        producer.join().unwrap();
    });
    assert_eq!(seen.lock().unwrap().len(), RECORDS);
    assert!(owners.lock().unwrap().is_empty());
    assert_eq!(broker.group("group").unwrap().lag().unwrap(), 0);
}
