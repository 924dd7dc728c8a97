//! A workload of transactions over three topics of three partitions and a consumer's offsets, with
//! plain appends, rolls and deleted records between them, crashes at every single operation, and
//! the simulated disk is left in every way a crash may leave it. Each transaction is whole or
//! absent, and every acknowledged record is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Compression, Durability, Partition, Position, Record, Result, Start};

use crate::common::{after_each_crash, crash_at_each_operation, read_from, send, small, thorough};

const TOPICS: [&str; 3] = ["a", "b", "c"];
const INPUT: u64 = 20;

/// The results of the run, and its unfinished operation.
#[derive(Clone, Default)]
struct Told {
    /// By number: the partitions that a transaction writes to.
    transactions: BTreeMap<u64, Vec<usize>>,
    /// The transactions, and the plain records by partition, that were acknowledged.
    committed: Vec<u64>,
    sent: Vec<(usize, String)>,
}

fn broker(disk: &Disk, topics: Topics) -> Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(3).durability(topics.durability()).on_disk(disk)
}

/// The durability of the topics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Topics {
    Os,
    Sync,
    /// The second one a power loss, the others not.
    Mixed,
}

impl Topics {
    fn durability(self) -> Durability {
        if self == Topics::Sync { Durability::Sync } else { Durability::Os }
    }

    /// Whether the consumer is a member of its group.
    fn has_member(self) -> bool {
        self != Topics::Os
    }

    /// Whether something acknowledged that is about these partitions has to be there.
    fn promise(self, survive: Survive, mut about: impl Iterator<Item = usize>) -> bool {
        match self {
            _ if survive == Survive::Everything => true,
            Topics::Os => false,
            Topics::Sync => true,
            Topics::Mixed => about.any(|at| (3..6).contains(&at)),
        }
    }
}

fn partitions(broker: &Broker, topics: Topics) -> Result<Vec<Partition>> {
    let mut all = Vec::new();
    for name in TOPICS {
        let config = match (name, topics) {
            ("b", Topics::Mixed) => small().durability(Durability::Sync),
            ("b", _) => small().compression(Compression::Lz4),
            _ => small(),
        };
        all.extend(broker.ensure_topic(name, config.partitions(3))?.partitions());
    }
    Ok(all)
}

fn workload(disk: &Disk, topics: Topics, told: &mut Told) -> Result<()> {
    let broker = broker(disk, topics)?;
    let all = partitions(&broker, topics)?;
    let input = broker.ensure_topic("input", small())?.partition(0)?;
    while input.bounds()?.log_end.get() < INPUT {
        send(&broker, &input, "in")?;
    }
    // A member that commits what it has polled, or a caller without membership that gives its
    // position.
    let builder = broker.consumer("group").max_records(1);
    let mut consumer =
        if topics.has_member() { builder.subscribe(["input"])? } else { builder.assign(&[input])? };
    for number in 0..12u64 {
        // Some are about two partitions, some about all nine.
        let chosen: Vec<usize> =
            (0..9).filter(|at| (at * 7 + number as usize * 5) % 9 <= 1 + number as usize).collect();
        told.transactions.insert(number, chosen.clone());
        let mut transaction = broker.transaction();
        for at in &chosen {
            let value = format!("t{number} {}", "x".repeat((number as usize * 37 + at * 11) % 200));
            transaction.send(&all[*at], Record::new(value));
        }
        let records = consumer.poll(Duration::ZERO)?;
        if number % 3 == 0 && topics.has_member() {
            transaction.offsets(&consumer, &records);
        } else if number % 3 == 0 {
            let position = Position::new("input".parse().unwrap(), 0, number + 1, 0);
            transaction.offsets(&consumer, consumer.offsets_at([&position]));
        }
        transaction.commit()?;
        told.committed.push(number);
        let at = (number as usize * 4) % 9;
        let value = format!("p{number} {}", "y".repeat(number as usize * 29 % 150));
        send(&broker, &all[at], &value)?;
        told.sent.push((at, value));
        if number == 5 {
            // The last partition may hold any part of it; the others are searched too.
            let end = all[8].bounds()?.visible_end;
            all[8].delete_records(end)?;
            broker.maintain()?;
        }
    }
    drop(consumer);
    broker.close()
}

/// Which transactions a partition has.
fn transactions_in(values: &BTreeMap<u64, String>) -> Vec<u64> {
    let number = |value: &String| value.strip_prefix('t')?.split(' ').next()?.parse().ok();
    values.values().filter_map(number).collect()
}

/// Returns the content, to be compared with that of a second opening.
fn check(disk: &Disk, topics: Topics, survive: Survive, told: &Told, case: &str) -> Vec<Vec<u64>> {
    let broker = broker(disk, topics).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report().damaged);
    let names = TOPICS.iter().filter_map(|name| broker.topic(name).ok());
    let all: Vec<Partition> = names.flat_map(|topic| topic.partitions()).collect();
    let values: Vec<_> = all.iter().map(|partition| read_from(partition, Start::Beginning)).collect();
    let found: Vec<Vec<u64>> = values.iter().map(transactions_in).collect();
    let mut offset = 0;
    for (number, chosen) in &told.transactions {
        // The last partition forgets.
        let looked_at: Vec<_> = chosen.iter().filter(|at| **at != 8).collect();
        let there =
            looked_at.iter().filter(|at| found.get(***at).is_some_and(|f| f.contains(number))).count();
        assert!(there == 0 || there == looked_at.len(), "{case}: {number} is in {there} of {looked_at:?}");
        if topics.promise(survive, chosen.iter().copied()) && told.committed.contains(number) {
            assert!(there > 0, "{case}: {number} was acknowledged");
        }
        if number % 3 == 0 && there > 0 {
            offset = number + 1;
        }
    }
    let committed = broker.group("group").unwrap().describe().unwrap();
    let committed = committed.partitions.first().and_then(|p| p.committed.clone());
    // A power loss may have taken its records, and then it was set back.
    let input = broker.topic("input").and_then(|topic| topic.partition(0)?.bounds());
    let offset = offset.min(input.map_or(0, |bounds| bounds.log_end.get()));
    assert_eq!(committed.map_or(0, |c| c.offset.get()), offset, "{case}: the consumer's offset");
    let promised = |at: usize| at != 8 && topics.promise(survive, std::iter::once(at));
    for (at, value) in told.sent.iter().filter(|(at, _)| promised(*at)) {
        assert!(values[*at].values().any(|found| found == value), "{case}: {value} was acknowledged");
    }
    for (at, values) in values.iter().enumerate() {
        let offsets: Vec<u64> = values.keys().copied().collect();
        assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{case}: {at}: {offsets:?}");
    }
    // And appends continue.
    if all.len() == 9 {
        let mut transaction = broker.transaction();
        for partition in &all {
            transaction.send(partition, Record::new("behind the crash"));
        }
        transaction.commit().unwrap_or_else(|e| panic!("{case}: {e}"));
    }
    // It dies: closing it changes nothing on the disk, and a hundred thousand of them take no
    // memory.
    disk.crash_at(1);
    drop((broker, all));
    found
}

fn crash_everywhere(topics: Topics) {
    let whole = {
        let (disk, mut told) = (Disk::new(), Told::default());
        workload(&disk, topics, &mut told).unwrap();
        assert_eq!((told.committed.len(), told.sent.len()), (12, 12));
        check(&disk, topics, Survive::Everything, &told, "uncut");
        disk.ops()
    };
    let (mut cases, mut nested, mut absent) = (0, 0, 0);
    // Every fifth operation by default, other ones for each durability.
    let (first, step) = if thorough() { (1, 1) } else { (1 + topics as u64, 5) };
    for nth in (first..=whole).step_by(step) {
        let (disk, mut told) = (Disk::new(), Told::default());
        disk.crash_at(nth);
        let _ = workload(&disk, topics, &mut told);
        let survivals = [
            Survive::Everything,
            Survive::Synced,
            Survive::Random(nth),
            Survive::Random(nth + 7919),
            Survive::Zeroed(nth),
        ];
        after_each_crash(&disk, survivals, &mut BTreeSet::new(), |left, survive| {
            let case = format!("{topics:?}, crash at operation {nth} of {whole}, {survive:?}");
            // The recovery crashes too: at one operation by default, at many of them to be
            // thorough.
            let recovery = {
                let disk = left.duplicate();
                drop(broker(&disk, topics).unwrap_or_else(|e| panic!("{case}: {e}")));
                disk.ops()
            };
            let cuts: Vec<u64> = match thorough() {
                true => (1 + nth % 29..=recovery).step_by(29).collect(),
                false => vec![1 + (nth * 31) % recovery.max(1)],
            };
            for cut in cuts {
                let again = left.duplicate();
                again.crash_at(cut);
                drop(broker(&again, topics));
                // Where only a kill is survived, the second one is no more than that.
                let second = match survive {
                    Survive::Everything => survive,
                    _ => Survive::Random(nth ^ cut),
                };
                again.crash(second);
                check(&again, topics, survive, &told, &format!("{case}, again at {cut}"));
                nested += 1;
            }
            let found = check(left, topics, survive, &told, &case);
            absent += told.transactions.len() - found.iter().flatten().collect::<BTreeSet<_>>().len();
            // Accepted records stay.
            left.crash(Survive::Synced);
            let broker = broker(left, topics).unwrap();
            let names = TOPICS.iter().filter_map(|name| broker.topic(name).ok());
            for (at, partition) in names.flat_map(|topic| topic.partitions()).enumerate() {
                let later = transactions_in(&read_from(&partition, Start::Beginning));
                assert!(found[at].iter().all(|number| later.contains(number)), "{case}: {at} lost some");
            }
            cases += 1;
        });
    }
    println!(
        "{topics:?}: {whole} operations, {cases} crashes, {nested} of them twice, {absent} transactions absent"
    );
    assert!(whole > 200 && absent > 50, "{whole} operations, {absent} absent");
}

#[test]
fn a_crash_at_any_operation_leaves_each_transaction_whole_or_absent_under_os() {
    crash_everywhere(Topics::Os);
}

#[test]
fn a_crash_at_any_operation_leaves_each_transaction_whole_or_absent_under_sync() {
    crash_everywhere(Topics::Sync);
}

#[test]
fn a_crash_at_any_operation_leaves_each_transaction_whole_or_absent_with_mixed_durability() {
    crash_everywhere(Topics::Mixed);
}

/// A kill leaves records of transactions in the page cache only. An opening completes them, and may
/// lose power before it ends: what it has appended must not prove that a record was durable which
/// was not.
#[test]
fn a_power_loss_in_an_opening_that_completes_transactions_leaves_a_broker_that_opens() {
    let commit = |broker: &Broker| {
        let mut both = broker.transaction();
        both.send("a", Record::new("v"));
        both.send("b", Record::new("v"));
        both.commit()
    };
    let (mut seen, mut openings) = (BTreeSet::new(), 0);
    for nth in 1.. {
        let disk = Disk::new();
        let one = broker(&disk, Topics::Os).unwrap();
        one.create_topics(["a", "b"].map(|name| (name, small()))).unwrap();
        commit(&one).unwrap();
        disk.crash_at(nth);
        let is_over = commit(&one).is_ok();
        disk.crash(Survive::Everything);
        drop(one);
        crash_at_each_operation(
            &disk,
            |disk| broker(disk, Topics::Os),
            |cut, at| {
                after_each_crash(cut, cut.power_losses(at), &mut seen, |left, survive| {
                    openings += 1;
                    if let Err(error) = broker(left, Topics::Os) {
                        panic!("killed at {nth}, cut at {at}, {survive:?}: {error}");
                    }
                });
            },
        );
        if is_over {
            break;
        }
    }
    println!("{openings} openings");
    assert!(openings > 200, "{openings}");
}
