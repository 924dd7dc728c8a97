//! A bank: threads transfer money between accounts, each transfer all or nothing, and the sum stays.
//!
//!     cargo run --release --example bank
//!
//! Each account is a stream of events, its balance the sum of them. A transfer loads the account
//! that pays, decides, and appends to both streams in one transaction. It names the version of the
//! account that it has loaded: if the account has changed meanwhile, nothing is appended, and the
//! thread decides again. `event_sourcing` is the larger example, with snapshots and a projection.

use std::thread;

use quipu::{Broker, Error, ExpectedVersion, Record, Result, Stream, Topic, TopicConfig, Version};

const ACCOUNTS: u64 = 10;
const START_CENTS: i64 = 1_000;
const THREADS: u64 = 4;
const TRANSFERS: u64 = 200;

fn account(accounts: &Topic, number: u64) -> Result<Stream> {
    accounts.stream(format!("account-{number}"))
}

fn moved(cents: i64) -> Record<'static> {
    Record::new(cents.to_string()).event_type("moved")
}

/// The balance, and the version at which it was so.
fn balance(account: &Stream) -> Result<(i64, Version)> {
    let history = account.load()?;
    let cents = history.iter().map(|event| event.value_str().and_then(|text| text.parse::<i64>().ok()));
    Ok((cents.map(|cents| cents.expect("a number")).sum(), history.version()))
}

/// Returns how often it decided again; `None` if the account has too little.
fn transfer(broker: &Broker, from: &Stream, to: &Stream, cents: i64) -> Result<Option<u64>> {
    for again in 0.. {
        let (available, version) = balance(from)?;
        if available < cents {
            return Ok(None);
        }
        let mut transaction = broker.transaction();
        transaction.append(from, version, moved(-cents));
        // The other account must exist. Whatever its version is, it can take money.
        transaction.append(to, ExpectedVersion::Exists, moved(cents));
        match transaction.commit() {
            Ok(_) => return Ok(Some(again)),
            Err(Error::VersionConflict { .. }) => continue,
            Err(e) => return Err(e),
        }
    }
    unreachable!()
}

fn main() -> Result<()> {
    let broker = Broker::in_memory()?;
    let accounts = broker.create_topic("accounts", TopicConfig::streams().partitions(4))?;
    for number in 0..ACCOUNTS {
        account(&accounts, number)?.append(ExpectedVersion::Empty, moved(START_CENTS))?;
    }

    let work = |thread: u64| -> Result<(u64, u64, u64)> {
        let (mut done, mut refused, mut again, mut random) = (0, 0, 0, thread + 1);
        for _ in 0..TRANSFERS {
            random =
                6_364_136_223_846_793_005_u64.wrapping_mul(random).wrapping_add(1_442_695_040_888_963_407);
            let from = (random >> 33) % ACCOUNTS;
            let to = (from + 1 + (random >> 40) % (ACCOUNTS - 1)) % ACCOUNTS;
            let cents = 1 + (random >> 50) as i64 % 400;
            match transfer(&broker, &account(&accounts, from)?, &account(&accounts, to)?, cents)? {
                Some(times) => (done, again) = (done + 1, again + times),
                None => refused += 1,
            }
        }
        Ok((done, refused, again))
    };
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;

    let (mut sum, mut events) = (0, 0);
    for number in 0..ACCOUNTS {
        let (cents, version) = balance(&account(&accounts, number)?)?;
        assert!(cents >= 0, "no account is overdrawn");
        (sum, events) = (sum + cents, events + version.get());
    }
    let done: u64 = counts.iter().map(|(done, ..)| done).sum();
    let refused: u64 = counts.iter().map(|(_, refused, _)| refused).sum();
    let again: u64 = counts.iter().map(|(.., again)| again).sum();
    assert_eq!(sum, ACCOUNTS as i64 * START_CENTS, "no cent is lost or created");
    assert_eq!(events, ACCOUNTS + 2 * done, "two events for each transfer");
    println!("ok: {done} transfers, {refused} refused, {again} decided again, {sum} cents all there");
    Ok(())
}
