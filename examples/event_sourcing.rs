//! Event-sourced accounts: commands decide by the events so far and decide again after a conflict,
//! snapshots keep loading short, events of an old schema are upcast, and a projection maintains the
//! balances.
//!
//!     cargo run --release --example event_sourcing [-- THREADS [COMMANDS]]
//!
//! THREADS (4) threads give COMMANDS (3,000) commands each to 50 accounts: pay in, pay out,
//! transfer from one to another. The last line is `ok` if no cent was lost or created, according to
//! the streams, the snapshots and the projection.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;

use quipu::{
    Broker, Cleanup, Compression, ConsumedRecord, Error, ExpectedVersion, Position, Projection, Record,
    Start, Stream, Topic, TopicConfig, TopicPartition, Transaction, Version,
};

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

const ACCOUNTS: u64 = 50;
const SNAPSHOT_EVERY: u64 = 20;

fn main() -> ExitCode {
    let args: Option<Vec<u64>> = std::env::args().skip(1).map(|arg| arg.parse().ok()).collect();
    let (threads, commands) = match args.as_deref() {
        Some([]) => (4, 3_000),
        Some([threads @ 1..=64]) => (*threads, 3_000),
        Some([threads @ 1..=64, commands]) => (*threads, *commands),
        _ => {
            eprintln!("usage: event_sourcing [THREADS [COMMANDS]]");
            return ExitCode::from(2);
        }
    };
    let dir = std::env::temp_dir().join(format!("quipu-event-sourcing-{}", std::process::id()));
    let done = run(&dir, threads, commands);
    let removed = std::fs::remove_dir_all(&dir);
    match done.and_then(|line| Ok(removed.map(|()| line)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("event_sourcing: {e}");
            ExitCode::FAILURE
        }
    }
}

// -- what happens, and what an account is --

/// An event of an account, in the newest schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Opened,
    /// By so many cents, which may be negative.
    Moved(i64),
}

impl Event {
    fn record(self) -> Record<'static> {
        match self {
            Event::Opened => Record::new("").event_type("account.opened"),
            Event::Moved(cents) => {
                Record::new(cents.to_string()).event_type("account.moved").schema_version(2)
            }
        }
    }

    /// Reads an event of any schema: version 1 had whole euros. An upcaster is a function from
    /// bytes to the newest event; stored events are never changed.
    fn read(record: &ConsumedRecord<'_>) -> Outcome<Event> {
        let number =
            || -> Outcome<i64> { Ok(std::str::from_utf8(record.value().unwrap_or_default())?.parse()?) };
        match (record.event_type(), record.schema_version()) {
            (Some("account.opened"), _) => Ok(Event::Opened),
            (Some("account.moved"), Some(2)) => Ok(Event::Moved(number()?)),
            (Some("account.moved"), None | Some(1)) => Ok(Event::Moved(number()? * 100)),
            (other, version) => Err(format!("an event of type {other:?}, schema {version:?}").into()),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    is_open: bool,
    cents: i64,
}

impl Account {
    fn after(self, event: Event) -> Account {
        match event {
            Event::Opened => Account { is_open: true, ..self },
            Event::Moved(cents) => Account { cents: self.cents + cents, ..self },
        }
    }
}

// -- loading: the newest snapshot, and what has happened since --

struct Accounts {
    broker: Broker,
    events: Topic,
    snapshots: Topic,
    /// The position of each account's newest snapshot. After a restart it is read from the topic,
    /// which compaction keeps short.
    newest: std::sync::Mutex<BTreeMap<u64, Position>>,
    conflicts: AtomicU64,
    refused: AtomicU64,
    paid_in: AtomicI64,
}

impl Accounts {
    fn stream(&self, id: u64) -> quipu::Result<Stream> {
        self.events.stream(format!("account-{id}"))
    }

    fn load(&self, id: u64) -> Outcome<(Account, Version)> {
        let (mut account, mut version) = (Account::default(), Version::ZERO);
        let newest = self.newest.lock().map_err(|_| "poisoned")?.get(&id).cloned();
        if let Some(position) = newest {
            let partition = self.snapshots.partition(position.partition)?;
            let records = partition.read(Start::At(position.offset), 1)?;
            let snapshot = records.iter().next().ok_or("the snapshot is gone")?;
            let text = std::str::from_utf8(snapshot.value().unwrap_or_default())?;
            let (at, cents) = text.split_once(' ').ok_or("a snapshot is a version and a balance")?;
            (account, version) = (Account { is_open: true, cents: cents.parse()? }, at.parse::<Version>()?);
        }
        let history = self.stream(id)?.load_from(version)?;
        for event in &history {
            account = account.after(Event::read(&event)?);
        }
        if history.len() as u64 >= SNAPSHOT_EVERY {
            let snapshot = Record::new(format!("{} {}", history.version(), account.cents));
            let receipt = self
                .broker
                .producer()
                .send(&self.snapshots, snapshot.key(format!("account-{id}")))?
                .wait()?;
            self.newest.lock().map_err(|_| "poisoned")?.insert(id, receipt.position());
        }
        Ok((account, history.version()))
    }

    // -- commands: load, decide, append; on a conflict again --

    fn pay(&self, id: u64, cents: i64) -> Outcome<()> {
        loop {
            let (account, version) = self.load(id)?;
            let events: &[Event] = match (account.is_open, account.cents + cents >= 0) {
                (_, false) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                (true, true) => &[Event::Moved(cents)],
                (false, true) => &[Event::Opened, Event::Moved(cents)],
            };
            match self.stream(id)?.append(version, events.iter().map(|event| event.record())) {
                Err(Error::VersionConflict { .. }) => self.conflicts.fetch_add(1, Ordering::Relaxed),
                Err(e) => return Err(e.into()),
                Ok(_) => {
                    self.paid_in.fetch_add(cents, Ordering::Relaxed);
                    return Ok(());
                }
            };
        }
    }

    /// Both accounts or neither.
    fn transfer(&self, from: u64, to: u64, cents: i64) -> Outcome<()> {
        loop {
            let (account, version) = self.load(from)?;
            if account.cents < cents || from == to {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            let mut transaction = self.broker.transaction();
            transaction.append(&self.stream(from)?, version, [Event::Moved(-cents).record()]);
            transaction.append(&self.stream(to)?, ExpectedVersion::Exists, [Event::Moved(cents).record()]);
            match transaction.commit() {
                Err(Error::VersionConflict { expected: ExpectedVersion::Exists, .. }) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Error::VersionConflict { .. }) => self.conflicts.fetch_add(1, Ordering::Relaxed),
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(()),
            };
        }
    }
}

/// The balances, a table that follows the events. It is loaded where it begins to follow them, so that
/// it is right after a restart and after a step that failed.
struct Balances {
    table: Topic,
    cents: BTreeMap<String, i64>,
}

impl Projection for Balances {
    type Error = Box<dyn StdError + Send + Sync>;

    fn apply(&mut self, event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Outcome<()> {
        let key = event.key_str().ok_or("an event without an account")?;
        let cents = self.cents.entry(key.to_string()).or_default();
        *cents = Account { is_open: true, cents: *cents }.after(Event::read(event)?).cents;
        changes.send(&self.table, Record::new(cents.to_string()).key(key));
        Ok(())
    }

    fn assigned(&mut self, _: &[TopicPartition]) -> Outcome<()> {
        self.cents.clear();
        for row in &self.table.partition(0)?.read(Start::Beginning, usize::MAX)? {
            match (row.key_str(), row.value_str()) {
                (Some(key), Some(cents)) => drop(self.cents.insert(key.to_string(), cents.parse()?)),
                (Some(key), None) => drop(self.cents.remove(key)),
                _ => {}
            }
        }
        Ok(())
    }

    fn reset(&mut self, changes: &mut Transaction) -> Outcome<()> {
        for key in std::mem::take(&mut self.cents).into_keys() {
            changes.send(&self.table, Record::tombstone(key));
        }
        Ok(())
    }
}

fn run(dir: &Path, threads: u64, commands: u64) -> Outcome<String> {
    let broker = Broker::open(dir)?;
    // One partition: a total order of all events, in which projections read them.
    let events = broker.create_topic("accounts", TopicConfig::streams().compression(Compression::Lz4))?;
    let table = TopicConfig::new()
        .cleanup(Cleanup::Compact)
        .min_cleanable_dirty_ratio(0.1)
        .segment_bytes(16 << 10)
        .max_record_bytes(4 << 10);
    let snapshots = broker.create_topic("snapshots", table.clone())?;
    let balances = broker.create_topic("balances", table.segment_bytes(4 << 20))?;
    let accounts = Accounts {
        broker: broker.clone(),
        events: events.clone(),
        snapshots: snapshots.clone(),
        newest: Default::default(),
        conflicts: 0.into(),
        refused: 0.into(),
        paid_in: 0.into(),
    };
    // Events of an old program: whole euros, without a schema version.
    let old = ["5", "7"].map(|euros| Record::new(euros).event_type("account.moved"));
    accounts.stream(0)?.append(ExpectedVersion::Empty, [Event::Opened.record()].into_iter().chain(old))?;
    accounts.paid_in.fetch_add(1_200, Ordering::Relaxed);

    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let accounts = &accounts;
                    move || work(accounts, n, commands)
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })?;

    let project = Balances { table: balances, cents: BTreeMap::new() };
    let mut projector = broker.consumer("balances").project(["accounts"], project)?;
    let projected =
        projector.catch_up(|progress| println!("projected {}, {} to go", progress.applied, progress.lag))?;
    let balances = projector.into_projection().cents;

    let (mut by_streams, mut by_snapshots) = (0, 0);
    for id in 0..ACCOUNTS {
        let history = accounts.stream(id)?.load()?;
        let whole = history.iter().try_fold(Account::default(), |account, event| {
            Event::read(&event).map(|event| account.after(event))
        })?;
        by_streams += whole.cents;
        by_snapshots += accounts.load(id)?.0.cents;
        let key = format!("account-{id}");
        let projected = balances.get(&key).copied().unwrap_or(0);
        if projected != whole.cents || whole.cents < 0 {
            return Err(format!("{key} has {} cents, and {projected} by the projection", whole.cents).into());
        }
    }
    let paid_in = accounts.paid_in.load(Ordering::Relaxed);
    if (by_streams, by_snapshots) != (paid_in, paid_in) {
        return Err(
            format!("{paid_in} cents came in, {by_streams} are there, {by_snapshots} by snapshots").into()
        );
    }
    let stored = snapshots.partition(0)?.bounds()?.log_end.get();
    while snapshots.partition(0)?.compact()?.is_some() {}
    let left = broker
        .reader(["snapshots"], Start::Beginning)?
        .to_end()
        .try_fold(0, |sum, some| some.map(|s| sum + s.len()))?;
    println!("of {stored} snapshots {left} are left");
    let (conflicts, refused) =
        (accounts.conflicts.load(Ordering::Relaxed), accounts.refused.load(Ordering::Relaxed));
    drop(accounts);
    broker.close()?;
    Ok(format!(
        "ok: {projected} events, {conflicts} conflicts decided again, {refused} commands refused, {paid_in} cents all there"
    ))
}

fn work(accounts: &Accounts, thread: u64, commands: u64) -> Outcome<()> {
    let mut state = thread + 1;
    for _ in 0..commands {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (a, b, cents) =
            ((state >> 33) % ACCOUNTS, (state >> 43) % ACCOUNTS, (state >> 53) as i64 % 1_000);
        match state >> 62 {
            0 | 1 => accounts.pay(a, cents)?,
            2 => accounts.pay(a, -cents)?,
            _ => accounts.transfer(a, b, cents)?,
        }
    }
    Ok(())
}
