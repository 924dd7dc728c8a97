//! Money moves between accounts in partitions of all durabilities, and the process or the machine
//! dies at random moments, several times. The sum of the accounts stays, and no promised transfer
//! is lost.

use std::collections::BTreeMap;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Compression, Durability, Partition, Receipt, Record, Result, Start};

use crate::common::{Random, read_from, small, thorough};

const TOPICS: [(&str, Durability, Compression); 3] = [
    ("os", Durability::Os, Compression::None),
    ("sync", Durability::Sync, Compression::None),
    ("lz4", Durability::Os, Compression::Lz4),
];

/// A transfer: its partitions and its result.
struct Transfer {
    parts: Vec<usize>,
    receipts: Option<Vec<Receipt>>,
}

fn open(disk: &Disk, seed: u64) -> Result<(Broker, Vec<Partition>)> {
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(seed).on_disk(disk)?;
    let mut all = Vec::new();
    for (name, durability, compression) in TOPICS {
        let config = small().partitions(2).durability(durability).compression(compression);
        all.extend(broker.ensure_topic(name, config)?.partitions());
    }
    Ok((broker, all))
}

/// Whether the partition is one of the topic with `Sync`.
fn is_synced(at: &usize) -> bool {
    (2..4).contains(at)
}

/// Does things at random until it is done or dies.
fn run(disk: &Disk, seed: u64, rng: &mut Random, transfers: &mut BTreeMap<u64, Transfer>) -> Result<()> {
    let (broker, all) = open(disk, seed)?;
    for _ in 0..12 {
        match rng.below(10) {
            0 => broker.maintain()?,
            1 => broker.sync()?,
            2 | 3 => {
                let to = &all[rng.below(6) as usize];
                broker.producer().send(to, Record::new("0 plain"))?.wait()?;
            }
            4 => {
                // A topic that comes, takes part, and goes.
                let side = broker.create_topic("side", small())?;
                let mut transaction = broker.transaction();
                transaction
                    .send(&side, Record::new("0"))
                    .send(&all[rng.below(6) as usize], Record::new("0 side"));
                transaction.commit()?;
                broker.delete_topic("side")?;
            }
            _ => {
                let number = rng.next() >> 16;
                let mut parts: Vec<usize> = (0..2 + rng.below(3)).map(|_| rng.below(6) as usize).collect();
                parts.dedup();
                let mut transaction = broker.transaction();
                let mut left = 0;
                for (index, at) in parts.iter().enumerate() {
                    let amount = if index + 1 == parts.len() { -left } else { rng.below(100) as i64 };
                    left += amount;
                    let padding = "x".repeat(rng.below(200) as usize);
                    transaction.expect_end(&all[*at], all[*at].bounds()?.log_end);
                    transaction.send(&all[*at], Record::new(format!("{amount} t{number} {padding}")));
                }
                transfers.insert(number, Transfer { parts, receipts: None });
                let receipts = if rng.below(2) == 0 {
                    transaction.commit()?
                } else {
                    transaction.commit_async().wait()?
                };
                transfers.get_mut(&number).unwrap().receipts = Some(receipts);
            }
        }
    }
    if rng.below(3) == 0 { broker.close() } else { Ok(()) }
}

fn check(disk: &Disk, seed: u64, survive: Survive, transfers: &mut BTreeMap<u64, Transfer>, case: &str) {
    let (broker, all) = open(disk, seed).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report().damaged);
    let mut sum = 0;
    let mut found: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, partition) in all.iter().enumerate() {
        let values = read_from(partition, Start::Beginning);
        assert!(values.keys().copied().eq(0..values.len() as u64), "{case}: {:?}", values.keys());
        for value in values.values() {
            let mut words = value.split(' ');
            sum += words.next().unwrap().parse::<i64>().unwrap();
            if let Some(number) = words.next().and_then(|word| word.strip_prefix('t')) {
                found.entry(number.parse().unwrap()).or_default().push(at);
            }
        }
    }
    assert_eq!(sum, 0, "{case}");
    let consumer = broker.consumer("g").assign(&all).unwrap();
    for (number, transfer) in transfers.iter() {
        let mut expected = transfer.parts.clone();
        expected.sort_unstable();
        let there = found.get(number);
        assert!(there.is_none_or(|there| *there == expected), "{case}: {number} is in {there:?}");
        let is_safe = survive == Survive::Everything || transfer.parts.iter().any(is_synced);
        if let Some(receipts) = transfer.receipts.as_ref().filter(|_| is_safe) {
            assert!(there.is_some(), "{case}: {number} was acknowledged");
            for receipt in receipts {
                // A position that was reached must stay valid.
                let next = receipt.position().next();
                consumer
                    .commit(consumer.offsets_at([&next]))
                    .unwrap_or_else(|e| panic!("{case}: {next}: {e}"));
            }
        }
    }
    // Missing records must not come back. The opening has made durable what a partition with `Sync`
    // takes part in. It leaves other records to the next sync, so they may go now, but only whole.
    transfers.retain(|number, _| found.contains_key(number));
    std::mem::forget(broker);
    disk.crash(Survive::Synced);
    let (broker, all) = open(disk, seed).unwrap();
    let values: Vec<_> = all.iter().map(|partition| read_from(partition, Start::Beginning)).collect();
    transfers.retain(|number, transfer| {
        let word = format!(" t{number} ");
        let is_in = |at: &usize| values[*at].values().any(|value| value.contains(&word));
        let there = transfer.parts.iter().filter(|at| is_in(at)).count();
        let is_whole = there == transfer.parts.len();
        assert!(is_whole || there == 0, "{case}: {number} is in {there} of {:?}", transfer.parts);
        assert!(is_whole || !transfer.parts.iter().any(is_synced), "{case}: {number} went later");
        is_whole
    });
    std::mem::forget(broker);
    disk.crash(Survive::Everything);
}

#[test]
fn transfers_keep_their_sum_wherever_the_crashes_fall() {
    let (mut died, mut acknowledged) = (0, 0);
    for seed in 0..if thorough() { 5_000 } else { 300 } {
        let (disk, mut rng, mut transfers) = (Disk::new(), Random(seed), BTreeMap::new());
        for round in 0..3 {
            disk.crash_at(1 + rng.below(if round == 0 { 500 } else { 250 }));
            died += usize::from(run(&disk, seed, &mut rng, &mut transfers).is_err());
            let survive = match rng.below(4) {
                0 => Survive::Everything,
                1 => Survive::Synced,
                2 => Survive::Random(rng.next()),
                _ => Survive::Zeroed(rng.next()),
            };
            acknowledged += transfers.values().filter(|transfer| transfer.receipts.is_some()).count();
            disk.crash(survive);
            if rng.below(2) == 0 {
                // The recovery does not come through either.
                disk.crash_at(1 + rng.below(60));
                drop(open(&disk, seed));
                disk.crash(if survive == Survive::Everything {
                    survive
                } else {
                    Survive::Random(rng.next())
                });
            }
            let case = format!("seed {seed}, round {round}, {survive:?}");
            check(&disk, seed, survive, &mut transfers, &case);
        }
    }
    println!("{died} deaths, {acknowledged} acknowledged transfers looked at");
    assert!(died > 100 && acknowledged > 500, "{died}, {acknowledged}");
}
