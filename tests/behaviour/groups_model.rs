//! A group against a model: members join, leave, stop polling and poll again, topics are created,
//! grow and are recreated, the process is killed or loses its power, and every member polls and
//! commits at any time, also records that others polled, and after it has left. A partition never
//! has two owners; each starts exactly at the last accepted commit; commits are accepted exactly
//! when KIP-1251 says so; after a crash the commits are a prefix of what was accepted, all of it
//! where that was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Consumer, ConsumerHandle, CooperativeStickyAssignor, Durability, Error, Offsets,
    RangeAssignor, RebalanceEvent, Record, Records, RoundRobinAssignor, TopicConfig,
};

use crate::common::{Random, thorough};

const INTERVAL: Duration = Duration::from_secs(10);
const TOPICS: u64 = 3;

/// A partition of a topic, and the how manieth topic of that name it is.
type Place = (String, u32, u64);
/// By partition: under which ownership, up to where.
type Done = BTreeMap<Place, (u64, u64)>;
/// The calls of a listener, and its commits in them.
type Told = (RebalanceEvent, Vec<(String, u32)>, Vec<(String, u32, u64)>);
type Events = Arc<Mutex<Vec<Told>>>;

/// The commits that a member makes by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Nothing.
    None,
    /// Its listener commits the positions of revoked partitions.
    WhenRevoked,
    /// Every poll commits the records of the one before.
    Automatic,
}

struct Member {
    consumer: Consumer,
    events: Events,
    habit: Habit,
    pattern: &'static str,
    /// The partitions that it owns: the number of each ownership, and the next offset to be
    /// delivered.
    owned: Done,
    last_poll: Duration,
}

/// Polled records, which any member may commit at any time.
struct Polled {
    records: Records,
    done: Done,
}

struct World {
    disk: Disk,
    clock: ManualClock,
    now: Duration,
    broker: Broker,
    durability: (Durability, Durability),
    members: Vec<Member>,
    /// Of members that are gone.
    ghosts: Vec<ConsumerHandle>,
    polled: Vec<Polled>,
    /// How many records each partition has.
    ends: BTreeMap<Place, u64>,
    /// How many topics of each name there have been.
    incarnations: BTreeMap<String, u64>,
    committed: BTreeMap<Place, u64>,
    /// The committed offsets after each accepted commit since the last crash.
    history: Vec<BTreeMap<Place, u64>>,
    /// The last of them that a caller waited for; no caller waits for automatic ones.
    promised: usize,
    ownerships: u64,
    assignor: u64,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    records: u64,
    delivered: u64,
    accepted: u64,
    by_listeners: u64,
    rejected: u64,
    lost: u64,
    kills: u64,
    /// Power losses that took commits, and that took records of which commits spoke.
    forgotten: u64,
    clamped: u64,
    recreated: u64,
}

fn matches(pattern: &str, topic: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => topic.starts_with(head) && topic.ends_with(tail),
        None => pattern == topic,
    }
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        // The broker's own topic, and the others.
        let durability = match seed / 3 % 3 {
            0 => (Durability::Os, Durability::Os),
            1 => (Durability::Sync, Durability::Sync),
            _ => (Durability::Sync, Durability::Os),
        };
        let config = BrokerConfig::new().clock(clock.clone()).seed(seed).durability(durability.0);
        let broker = config.on_disk(&disk).unwrap();
        let mut world = World {
            disk,
            clock,
            now: Duration::ZERO,
            broker,
            durability,
            members: Vec::new(),
            ghosts: Vec::new(),
            polled: Vec::new(),
            ends: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            committed: BTreeMap::new(),
            history: vec![BTreeMap::new()],
            promised: 0,
            ownerships: 0,
            assignor: seed % 3,
            counts: Counts::default(),
        };
        world.grow("orders.0", 2);
        world
    }

    fn place(&self, (topic, partition): (String, u32)) -> Place {
        let incarnation = self.incarnations[&topic];
        (topic, partition, incarnation)
    }

    fn grow(&mut self, topic: &str, partitions: u32) {
        let config = TopicConfig::new().partitions(partitions).durability(self.durability.1);
        self.broker.ensure_topic(topic, config).unwrap();
        self.incarnations.entry(topic.to_string()).or_default();
        for partition in 0..partitions {
            self.ends.entry(self.place((topic.to_string(), partition))).or_default();
        }
    }

    /// Deletes a topic and makes another one under its name.
    fn recreate(&mut self, topic: &str) {
        self.broker.delete_topic(topic).unwrap();
        *self.incarnations.get_mut(topic).unwrap() += 1;
        self.ends.retain(|(name, _, _), _| name != topic);
        self.committed.retain(|(name, _, _), _| name != topic);
        self.grow(topic, 1);
        self.counts.recreated += 1;
    }

    fn join(&mut self, random: &mut Random) {
        let (events, habit) = (Events::default(), [Habit::None, Habit::WhenRevoked, Habit::Automatic]);
        let habit = habit[random.below(3) as usize];
        // Those that match nothing yet may do so later.
        let pattern = ["orders.*", "orders.*", "*.0", "orders.1*"][random.below(4) as usize];
        let told = events.clone();
        let builder =
            self.broker.consumer("group").max_poll_interval(INTERVAL).on_rebalance(move |rebalance| {
                let event = rebalance.event();
                let places = rebalance
                    .partitions()
                    .iter()
                    .map(|of| (of.topic.to_string(), of.partition.get()))
                    .collect();
                let mut committed = Vec::new();
                if habit == Habit::WhenRevoked && event == RebalanceEvent::Revoked {
                    for position in rebalance.positions() {
                        // Of a topic that was deleted nothing can be committed.
                        if rebalance.commit(rebalance.offsets_at([&position])).is_ok() {
                            let (topic, partition) = (position.topic.to_string(), position.partition.get());
                            committed.push((topic, partition, position.offset.get()));
                        }
                    }
                }
                told.lock().unwrap().push((event, places, committed));
                Ok(())
            });
        let builder = match self.assignor {
            0 => builder.assignor(CooperativeStickyAssignor),
            1 => builder.assignor(RangeAssignor),
            _ => builder.assignor(RoundRobinAssignor),
        };
        let builder = if habit == Habit::Automatic { builder.auto_commit(Duration::ZERO) } else { builder };
        let consumer = builder.max_records(3).subscribe([pattern]).unwrap();
        let owned = Done::new();
        self.members.push(Member { consumer, events, habit, pattern, owned, last_poll: self.now });
    }

    fn is_expelled(&self, at: usize) -> bool {
        self.now - self.members[at].last_poll >= INTERVAL
    }

    fn accepted(&mut self, place: Place, next: u64) {
        // Automatic commits name what has changed.
        if self.committed.insert(place, next) != Some(next) {
            self.history.push(self.committed.clone());
        }
    }

    /// The commits of a member by itself, for the partitions that it still has.
    fn automatic(&mut self, owned: &Done) {
        for (place, (_, next)) in owned {
            if self.ends.contains_key(place) {
                self.accepted(place.clone(), *next);
            }
        }
    }

    /// Follows the calls of a member's listener since.
    fn follow(&mut self, member: &mut Member, expelled: bool) {
        let mut had_lost = false;
        let told: Vec<Told> = member.events.lock().unwrap().drain(..).collect();
        for (event, places, committed) in told {
            if event == RebalanceEvent::Revoked && member.habit == Habit::Automatic {
                self.automatic(&member.owned);
            }
            for (topic, partition, next) in committed {
                let place = self.place((topic, partition));
                assert_eq!(member.owned.get(&place).map(|o| o.1), Some(next), "committed elsewhere");
                self.accepted(place, next);
                self.promised = self.history.len() - 1;
                self.counts.by_listeners += 1;
            }
            for (topic, partition) in places {
                let of = |member: &Member| {
                    member.owned.keys().find(|p| (&p.0, p.1) == (&topic, partition)).cloned()
                };
                match event {
                    RebalanceEvent::Assigned => {
                        assert_eq!(of(member), None, "assigned twice");
                        let place = self.place((topic.clone(), partition));
                        self.ownerships += 1;
                        let start = self.committed.get(&place).copied().unwrap_or(0);
                        member.owned.insert(place, (self.ownerships, start));
                    }
                    RebalanceEvent::Revoked => {
                        let place = of(member).expect("revoked what it did not own");
                        member.owned.remove(&place);
                    }
                    _ => {
                        assert!(expelled, "lost without reason");
                        let place = of(member).expect("lost what it did not own");
                        member.owned.remove(&place);
                        had_lost = true;
                    }
                }
            }
        }
        self.counts.lost += u64::from(had_lost);
    }

    fn poll(&mut self, at: usize) {
        let expelled = self.is_expelled(at);
        let mut member = self.members.remove(at);
        let records = member.consumer.poll(Duration::ZERO).unwrap();
        member.last_poll = self.now;
        self.follow(&mut member, expelled);
        if member.habit == Habit::Automatic {
            self.automatic(&member.owned);
        }
        let mut done = Done::new();
        for record in &records {
            let place = self.place((record.topic().to_string(), record.partition().get()));
            let (ownership, next) = member.owned.get_mut(&place).expect("delivered what it does not own");
            assert_eq!(record.offset().get(), *next, "{place:?}: skipped or delivered twice");
            *next += 1;
            self.counts.delivered += 1;
            done.insert(place, (*ownership, *next));
        }
        let assigned: Vec<Place> = member
            .consumer
            .assignment()
            .iter()
            .map(|of| self.place((of.topic.to_string(), of.partition.get())))
            .collect();
        assert!(assigned.iter().eq(member.owned.keys()), "{assigned:?} {:?}", member.owned);
        if !records.is_empty() {
            self.polled.push(Polled { records, done });
        }
        self.members.insert(at, member);
    }

    fn commit(&mut self, random: &mut Random) {
        if self.polled.is_empty() {
            return;
        }
        // Mostly new records, sometimes any.
        let old = if random.below(3) == 0 { random.below(100) } else { random.below(3) } as usize;
        let which = self.polled.len() - 1 - old.min(self.polled.len() - 1);
        let Polled { records, done } = &self.polled[which];
        // All of it, or up to one of the records.
        let (offsets, done) = match random.below(3) {
            0 => {
                let record = records.iter().nth(random.below(records.len() as u64) as usize).unwrap();
                let named = (record.topic().to_string(), record.partition().get());
                let (place, (ownership, _)) = done.iter().find(|(p, _)| (p.0.clone(), p.1) == named).unwrap();
                let done = Done::from([(place.clone(), (*ownership, record.offset().get() + 1))]);
                (Offsets::from(&record), done)
            }
            _ => (Offsets::from(records), done.clone()),
        };
        // The member that polled counts, not the one that commits.
        let held = |(place, (ownership, _)): (&Place, &(u64, u64))| {
            let owns = |member: &Member| member.owned.get(place).is_some_and(|o| o.0 == *ownership);
            let owner = self.members.iter().position(owns);
            owner.is_some_and(|at| !self.is_expelled(at)) && self.ends.contains_key(place)
        };
        let valid = done.iter().all(held);
        let by = random.below((self.members.len() + self.ghosts.len()) as u64) as usize;
        // But a consumer that is gone commits nothing, not even for another member.
        let valid = valid && by < self.members.len();
        let outcome = match self.members.get(by) {
            Some(member) => member.consumer.commit(offsets),
            None => self.ghosts[by - self.members.len()].commit(offsets),
        };
        match outcome {
            Ok(()) => {
                assert!(valid, "a zombie's commit was accepted");
                for (place, (_, next)) in &done {
                    self.committed.insert(place.clone(), *next);
                }
                self.history.push(self.committed.clone());
                self.promised = self.history.len() - 1;
                self.counts.accepted += 1;
            }
            Err(Error::CommitRejected { .. }) => {
                assert!(!valid, "a valid commit was rejected");
                self.counts.rejected += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A member goes, with or without a word.
    fn leave(&mut self, at: usize, close: bool) {
        let expelled = self.is_expelled(at);
        let Member { consumer, events, habit, pattern, owned, last_poll } = self.members.remove(at);
        self.ghosts.push(consumer.handle());
        if !close {
            drop(consumer);
            assert!(events.lock().unwrap().is_empty(), "called for its own end");
            return;
        }
        consumer.close().unwrap();
        // Its listener is called for all its partitions, as in a poll: see `follow`.
        let placeholder = self.broker.consumer("placeholder").assign(&[]).unwrap();
        let mut member = Member { consumer: placeholder, events, habit, pattern, owned, last_poll };
        self.follow(&mut member, expelled);
        assert!(
            member.owned.is_empty(),
            "{:?} did not get its last call, expelled: {expelled}",
            member.owned
        );
    }

    fn crash(&mut self, random: &mut Random) {
        self.members.clear();
        self.ghosts.clear();
        // Records of an earlier process cannot be committed.
        self.polled.clear();
        let survive = match random.below(5) {
            0 | 1 => Survive::Everything,
            2 => Survive::Synced,
            3 => Survive::Random(random.next()),
            _ => Survive::Zeroed(random.next()),
        };
        let config = BrokerConfig::new().clock(self.clock.clone()).seed(1).durability(self.durability.0);
        let before = self.ends.clone();
        self.broker = self.disk.crash_and_reopen(survive, config).unwrap();
        self.counts.kills += 1;
        let kept = self.durability.1 == Durability::Sync || survive == Survive::Everything;
        for ((topic, partition, _), end) in &mut self.ends {
            let found = self.broker.topic(topic).unwrap().partition(*partition).unwrap();
            let found = found.bounds().unwrap().log_end.get();
            assert!(if kept { found == *end } else { found <= *end }, "{survive:?}");
            *end = found;
        }
        let group = self.broker.group("group").unwrap();
        let found: BTreeMap<Place, u64> = self
            .ends
            .keys()
            .filter_map(|place| {
                let committed = group.committed(&place.0, place.1).unwrap()?;
                Some((place.clone(), committed.offset.get()))
            })
            .collect();
        let as_of = |history: &BTreeMap<Place, u64>| -> BTreeMap<Place, u64> {
            let there = history
                .iter()
                .filter_map(|(place, next)| Some((place.clone(), *next.min(self.ends.get(place)?))));
            there.collect()
        };
        let kept_from = match (survive, self.durability.0) {
            (Survive::Everything, _) => self.history.len() - 1,
            (_, Durability::Sync) => self.promised,
            _ => 0,
        };
        let legal = self.history[kept_from..].iter().any(|history| as_of(history) == found);
        assert!(legal, "{survive:?}: {found:?} of {:?}", &self.history[kept_from..]);
        self.counts.forgotten += u64::from(as_of(&self.committed) != found);
        self.counts.clamped += u64::from(!self.broker.open_report().clamped.is_empty());
        // Lost records cannot be delivered.
        self.counts.records -= before.values().sum::<u64>() - self.ends.values().sum::<u64>();
        self.committed = found.clone();
        (self.history, self.promised) = (vec![found], 0);
    }

    fn step(&mut self, random: &mut Random) {
        let count = self.members.len() as u64;
        match random.below(20) {
            0 | 1 if count < 5 => self.join(random),
            2 if count > 0 => self.leave(random.below(count) as usize, random.below(2) == 0),
            3 => {
                self.clock.advance(INTERVAL / 2);
                self.now += INTERVAL / 2;
            }
            4 => {
                let topic = format!("orders.{}", random.below(TOPICS));
                let had = self.ends.keys().filter(|(t, _, _)| *t == topic).count() as u32;
                match random.below(8) {
                    0 if had > 0 => self.recreate(&topic),
                    _ if had < 5 => self.grow(&topic, had + 1),
                    _ => {}
                }
            }
            5 if random.below(4) == 0 => self.crash(random),
            6..=9 => {
                let at = random.below(self.ends.len() as u64) as usize;
                let (place, end) = self.ends.iter_mut().nth(at).unwrap();
                let partition = self.broker.topic(&place.0).unwrap().partition(place.1).unwrap();
                self.broker.producer().send(&partition, Record::new("v")).unwrap().wait().unwrap();
                *end += 1;
                self.counts.records += 1;
            }
            10..=12 if count > 0 => self.commit(random),
            _ if count > 0 => self.poll(random.below(count) as usize),
            _ => self.join(random),
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

    /// All members poll until no partition moves and no record comes: then each subscribed
    /// partition is owned by one subscriber, and was delivered to its end.
    fn settle(&mut self, random: &mut Random) {
        if self.members.is_empty() {
            self.join(random);
        }
        for round in 0.. {
            assert!(round < 200, "it does not become stable");
            let before = self.counts.delivered;
            (0..self.members.len()).for_each(|at| self.poll(at));
            let stable = self.broker.group("group").unwrap().describe().unwrap().stable;
            if stable && before == self.counts.delivered {
                break;
            }
        }
        let owned: Vec<_> =
            self.members.iter().flat_map(|m| m.owned.keys().map(|p| (m.pattern, p))).collect();
        assert!(owned.iter().all(|(pattern, place)| matches(pattern, &place.0)), "{owned:?}");
        let mut owned: Vec<_> = owned.into_iter().map(|(_, place)| place.clone()).collect();
        owned.sort();
        let subscribed = |place: &&Place| self.members.iter().any(|m| matches(m.pattern, &place.0));
        let wanted: Vec<_> = self.ends.keys().filter(subscribed).cloned().collect();
        assert_eq!(owned, wanted);
        for (place, (_, next)) in self.members.iter().flat_map(|member| &member.owned) {
            assert_eq!(next, &self.ends[place], "{place:?} was not delivered to its end");
        }
        let group = self.broker.group("group").unwrap();
        for place in self.ends.keys() {
            let found = group.committed(&place.0, place.1).unwrap().map(|committed| committed.offset.get());
            assert_eq!(found, self.committed.get(place).copied(), "{place:?}");
        }
        // Sticky and round robin: as many to each, or one more, where all subscribe to the same.
        let shares: Vec<_> = self.members.iter().map(|member| member.owned.len()).collect();
        let equal = self.members.windows(2).all(|pair| pair[0].pattern == pair[1].pattern);
        if equal && self.assignor != 1 {
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    let mut all = Counts::default();
    for seed in 0..if thorough() { 10_000 } else { 1000 } {
        // A failure names the seed.
        let history = std::panic::catch_unwind(|| {
            let mut random = Random(seed);
            let mut world = World::new(seed);
            for _ in 0..100 {
                world.step(&mut random);
            }
            world.settle(&mut random);
            world.counts
        });
        let Ok(counts) = history else { panic!("the history of seed {seed}") };
        all.records += counts.records;
        all.delivered += counts.delivered;
        all.accepted += counts.accepted;
        all.by_listeners += counts.by_listeners;
        all.rejected += counts.rejected;
        all.lost += counts.lost;
        all.kills += counts.kills;
        all.forgotten += counts.forgotten;
        all.clamped += counts.clamped;
        all.recreated += counts.recreated;
    }
    println!("{all:?}");
    let often = [all.delivered, all.accepted, all.rejected, all.by_listeners, all.kills];
    let rarely = [all.lost, all.forgotten, all.clamped, all.recreated];
    assert!(often.iter().all(|n| *n > 1000) && rarely.iter().all(|n| *n > 30), "{all:?}");
}

/// The owner of a partition according to its listeners, and whether that member may be expelled
/// without noticing.
type Table = Arc<Mutex<BTreeMap<u32, (usize, bool)>>>;

/// On threads and in real time: listeners note the owner of a partition before any of its records
/// is read. Members close, are dropped, leave what they polled undone, or oversleep and are
/// expelled; the topic grows meanwhile.
#[test]
fn members_on_threads_never_share_a_partition_and_miss_nothing() {
    const RECORDS: usize = 4000;
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("orders.0", TopicConfig::new().partitions(4)).unwrap();
    let table = Table::default();
    let seen: Arc<Mutex<BTreeSet<(u32, u64)>>> = Arc::default();
    let acknowledged: Arc<Mutex<BTreeMap<u32, u64>>> = Arc::default();
    thread::scope(|scope| {
        let producer = scope.spawn(|| {
            for partitions in 5..=12 {
                let producer = broker.producer();
                for n in 0..RECORDS / 8 {
                    producer.send("orders.0", Record::new("v").key(n.to_string())).unwrap().detach();
                    if n % 50 == 0 {
                        producer.flush().unwrap();
                    }
                }
                producer.flush().unwrap();
                broker.ensure_topic("orders.0", TopicConfig::new().partitions(partitions)).unwrap();
            }
        });
        for worker in 0..8usize {
            let (broker, table, seen, acknowledged) = (&broker, &table, &seen, &acknowledged);
            scope.spawn(move || {
                let mut random = Random(worker as u64);
                while seen.lock().unwrap().len() < RECORDS {
                    let sleeper = random.below(5) == 0;
                    let interval = if sleeper { Duration::from_millis(5) } else { Duration::from_secs(300) };
                    let (told, committed) = (table.clone(), acknowledged.clone());
                    let mut consumer = broker
                        .consumer("group")
                        .max_records(20)
                        .max_poll_interval(interval)
                        .on_rebalance(move |rebalance| {
                            let mut table = told.lock().unwrap();
                            let event = rebalance.event();
                            assert!(sleeper || event != RebalanceEvent::Lost);
                            for of in rebalance.partitions() {
                                let partition = of.partition.get();
                                if event == RebalanceEvent::Assigned {
                                    let before = table.insert(partition, (worker, sleeper));
                                    assert!(before.is_none_or(|(_, expelled)| expelled), "two owners");
                                } else if table.get(&partition) == Some(&(worker, sleeper)) {
                                    table.remove(&partition);
                                } else {
                                    assert!(sleeper, "another member has had it");
                                }
                            }
                            if event == RebalanceEvent::Assigned {
                                let committed = committed.lock().unwrap();
                                for position in rebalance.positions() {
                                    let least = committed.get(&position.partition.get()).copied();
                                    assert!(position.offset.get() >= least.unwrap_or(0), "{position}");
                                }
                            }
                            Ok(())
                        })
                        .subscribe(["orders.*"])
                        .unwrap();
                    for _ in 0..5 + random.below(30) {
                        let records = consumer.poll(Duration::from_millis(1)).unwrap();
                        let places = records.iter().map(|r| (r.partition().get(), r.offset().get()));
                        seen.lock().unwrap().extend(places);
                        if random.below(8) == 0 {
                            // Another member will do it again.
                            break;
                        }
                        if sleeper && random.below(4) == 0 {
                            thread::sleep(2 * interval);
                        }
                        match consumer.commit(&records) {
                            Ok(()) => {
                                let mut acknowledged = acknowledged.lock().unwrap();
                                for done in Offsets::from(&records).positions() {
                                    let at = acknowledged.entry(done.partition.get()).or_default();
                                    *at = done.offset.get().max(*at);
                                }
                            }
                            Err(Error::CommitRejected { .. }) if sleeper => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    if random.below(2) == 0 {
                        consumer.close().unwrap();
                    } else {
                        // No listener is called when a consumer is dropped.
                        table.lock().unwrap().retain(|_, owner| *owner != (worker, sleeper));
                        drop(consumer);
                    }
                }
            });
        }
        producer.join().unwrap();
    });
    assert_eq!(seen.lock().unwrap().len(), RECORDS);
    assert!(table.lock().unwrap().is_empty(), "{table:?}");
    let mut last = broker.consumer("group").subscribe(["orders.0"]).unwrap();
    while broker.group("group").unwrap().lag().unwrap() > 0 {
        let records = last.poll(Duration::from_millis(1)).unwrap();
        last.commit(&records).unwrap();
    }
}
