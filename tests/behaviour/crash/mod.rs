//! A program that records what it was told, and the states that a crash may leave then: shared by
//! the tests that crash it.
//!
//! Each log has its current state and, during an operation, the state that the operation leads to.
//! A crash must leave one of the two, whole, with everything that was promised: after a kill all
//! acknowledged records, after a power loss all durable ones. A state that an opening has shown is
//! durable from then on, where appends wait for a sync.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Durability, Error, Partition, Position, ProducerConfig, Record, Result,
    Retention, Start, TopicConfig, TopicName,
};

/// The value of an erased record.
const ERASED: &str = "<null>";

/// One log as it may be found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub exists: bool,
    pub start: u64,
    /// The values by offset. The first word of each is its key.
    pub values: BTreeMap<u64, String>,
    pub end: u64,
    /// The log reaches at least so far after a kill, and after a power loss.
    pub acknowledged: u64,
    pub durable: u64,
    pub thinned: Thinned,
}

/// Which of the values need not be there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Thinned {
    #[default]
    No,
    /// All that a later one of its key replaces.
    Compacted,
    /// Those of a key, or of it none at all.
    Erasing(&'static str),
    Erased(&'static str),
}

/// A log, and its state after the running operation.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub now: State,
    pub next: Option<State>,
}

/// All results that a program got.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub logs: BTreeMap<&'static str, Model>,
    /// The parts of each transaction: log, offset and value.
    transactions: Vec<Vec<(&'static str, u64, String)>>,
    /// The group's committed offset of a log, and the one of a running commit.
    committed: BTreeMap<&'static str, (u64, Option<u64>)>,
    /// The last sequence of idempotent producers, durably, and what it may be instead.
    sequences: BTreeMap<&'static str, (Option<u64>, Option<Option<u64>>)>,
    written: u64,
}

/// The content of one log after a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub start: u64,
    pub end: u64,
    pub values: BTreeMap<u64, String>,
}

/// The content after a crash.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    pub logs: BTreeMap<String, Log>,
    pub committed: BTreeMap<String, u64>,
    pub sequences: BTreeMap<String, Option<u64>>,
}

/// The promise that holds after a kind of crash.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promised {
    Acknowledged,
    Durable,
}

impl State {
    fn fits(&self, name: &str, found: Option<&Log>, promised: Promised) -> bool {
        let Some(found) = found else { return !self.exists };
        let promised = if promised == Promised::Durable { self.durable } else { self.acknowledged };
        // Appends keep a bound on the size by themselves: 2,000 bytes are at least three records
        // here.
        let is_retained = name == "sized" && found.start > self.start && found.end >= found.start + 3;
        if !self.exists || (found.start != self.start && !is_retained) {
            return false;
        }
        if found.end > self.end || found.end < promised {
            return false;
        }
        let expected = || self.values.range(found.start.min(found.end)..found.end);
        let key = |value: &str| value.split(' ').next().unwrap().to_string();
        match self.thinned {
            Thinned::No => expected().eq(&found.values),
            Thinned::Compacted => {
                let newest: BTreeMap<String, u64> = expected().map(|(at, value)| (key(value), *at)).collect();
                found.values.iter().all(|(at, value)| self.values.get(at) == Some(value))
                    && newest.values().all(|at| found.values.contains_key(at))
            }
            Thinned::Erasing(erased) | Thinned::Erased(erased) => {
                let may_be_erased = |value: &String| key(value) == erased || value == ERASED;
                let must_be = matches!(self.thinned, Thinned::Erased(_));
                expected().count() == found.values.len()
                    && expected().all(|(at, value)| match found.values.get(at) {
                        Some(there) if there == ERASED => may_be_erased(value),
                        Some(there) => there == value && !(must_be && may_be_erased(value)),
                        None => false,
                    })
            }
        }
    }
}

impl Told {
    /// Whether a crash may leave this content, and the difference if not.
    pub fn judge(&self, found: &Found, promised: Promised) -> std::result::Result<(), String> {
        for (name, model) in &self.logs {
            let log = found.logs.get(*name);
            let mut states = std::iter::once(&model.now).chain(&model.next);
            if !states.any(|state| state.fits(name, log, promised)) {
                let told = brief(model);
                return Err(format!("{name}: found {}, expected {told} ({promised:?})", brief_log(log)));
            }
        }
        if let Some(name) = found.logs.keys().find(|name| !self.logs.contains_key(name.as_str())) {
            return Err(format!("{name}: it was never created"));
        }
        for parts in &self.transactions {
            let (mut there, mut missing) = (Vec::new(), Vec::new());
            for (name, offset, value) in parts {
                let model = self.logs.get(name).unwrap();
                // Deleted or truncated since, or about to be.
                let is_kept = |state: &State| state.values.get(offset) == Some(value);
                if !std::iter::once(&model.now).chain(&model.next).all(is_kept) {
                    continue;
                }
                let found = found.logs.get(*name).and_then(|log| log.values.get(offset));
                if found == Some(value) { there.push((name, offset)) } else { missing.push((name, offset)) }
            }
            if !there.is_empty() && !missing.is_empty() {
                return Err(format!("half a transaction: there is {there:?}, missing is {missing:?}"));
            }
        }
        for (name, (now, next)) in &self.committed {
            // Records lost in a power loss are not committed any more; a missing log has no commit.
            let Some(end) = found.logs.get(*name).map(|log| log.end) else { continue };
            let there = found.committed.get(*name).copied().unwrap_or_default();
            // After a clean close a commit beyond a truncation stays: its epoch says that it is
            // worth nothing.
            if ![Some(*now), *next].into_iter().flatten().any(|at| at == there || at.min(end) == there) {
                return Err(format!("{name}: {there} is committed, expected {now}, {next:?}"));
            }
        }
        for (name, (now, next)) in self.sequences.iter().filter(|_| found.logs.contains_key("sync")) {
            let there = found.sequences.get(*name).copied().flatten();
            if there != *now && Some(there) != *next {
                return Err(format!("{name}: last sequence {there:?}, expected {now:?}, {next:?}"));
            }
        }
        Ok(())
    }

    /// The state that an opening showed is that of the logs from then on, and durable where appends
    /// wait for a sync.
    pub fn settle(&mut self, found: &Found) {
        for (name, model) in &mut self.logs {
            let thinned = match model.now.thinned {
                Thinned::Erasing(_) | Thinned::Erased(_) => Thinned::No,
                other => other,
            };
            let log = found.logs.get(*name);
            let durable = model.now.durable;
            model.next = None;
            model.now = log.map_or_else(State::default, |log| State {
                exists: true,
                start: log.start,
                values: log.values.clone(),
                end: log.end,
                acknowledged: log.end,
                // What a kill leaves of other logs is synced after the opening.
                durable: if is_sync(name) { log.end } else { durable.min(log.end) },
                thinned,
            });
        }
        let gone: Vec<_> =
            self.logs.iter().filter(|(_, model)| !model.now.exists).map(|(name, _)| *name).collect();
        gone.into_iter().for_each(|name| self.forget(name));
        for (name, committed) in &mut self.committed {
            *committed = (found.committed.get(*name).copied().unwrap_or_default(), None);
        }
        for (name, sequence) in &mut self.sequences {
            *sequence = (found.sequences.get(*name).copied().flatten(), None);
        }
    }

    /// Everything acknowledged is on disk.
    fn synced(&mut self) {
        self.synced_if(|_| true);
    }

    fn synced_if(&mut self, is_synced: fn(&str) -> bool) {
        for (_, model) in self.logs.iter_mut().filter(|(name, _)| is_synced(name)) {
            model.now.durable = model.now.acknowledged;
        }
    }

    /// Results about a log's group and producers hold for no later log of its name.
    fn forget(&mut self, name: &str) {
        self.committed.remove(name);
        if name == "sync" {
            self.sequences.clear();
        }
    }

    fn is_about_names(&self) -> bool {
        !self.sequences.is_empty()
    }
}

fn brief(model: &Model) -> String {
    let state = |state: &State| {
        if !state.exists {
            return "no topic".to_string();
        }
        format!(
            "{}..{} (acknowledged {}, durable {}, {:?}, values {:?})",
            state.start,
            state.end,
            state.acknowledged,
            state.durable,
            state.thinned,
            short(&state.values)
        )
    };
    let next = model.next.as_ref().map(|next| format!(" or {}", state(next)));
    format!("{}{}", state(&model.now), next.unwrap_or_default())
}

fn brief_log(log: Option<&Log>) -> String {
    log.map_or("no topic".to_string(), |log| format!("{}..{} {:?}", log.start, log.end, short(&log.values)))
}

fn short(values: &BTreeMap<u64, String>) -> Vec<String> {
    values.iter().map(|(at, value)| format!("{at}={}", value.trim_end_matches(['x', ' ']))).collect()
}

/// The topics of the workloads: the name of each gives its durability.
fn config(name: &str) -> TopicConfig {
    let small = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700).index_interval_bytes(200);
    match name {
        "os" | "os2" => small.durability(Durability::Os),
        "aged" => small.retention(Retention::for_age(Duration::from_secs(60))).durability(Durability::Os),
        "sized" => small.retention(Retention::for_bytes(2_000)).durability(Durability::Sync),
        "table" => {
            small.cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(1.0).durability(Durability::Sync)
        }
        "streams" => {
            TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700).durability(Durability::Sync)
        }
        _ => small.durability(Durability::Sync),
    }
}

/// Opens the disk. Groups' offsets survive a power loss, as do topics without a setting of their
/// own.
pub fn open(disk: &Disk, clock: &ManualClock) -> Result<Broker> {
    BrokerConfig::new().clock(clock.clone()).seed(7).durability(Durability::Sync).on_disk(disk)
}

/// A program that runs on a disk.
pub struct Run<'a> {
    disk: &'a Disk,
    pub told: &'a mut Told,
    clock: ManualClock,
    pub broker: Broker,
    /// At which operation from now on it is killed.
    cut: Option<u64>,
}

impl<'a> Run<'a> {
    /// A program that opens the disk, and dies at an operation counted from there.
    pub fn new(disk: &'a Disk, told: &'a mut Told, cut: Option<u64>) -> Result<Self> {
        if let Some(cut) = cut {
            disk.crash_at(cut);
        }
        let cut = cut.map(|cut| cut + disk.ops());
        let clock = ManualClock::new();
        let broker = open(disk, &clock)?;
        Ok(Run { disk, told, clock, broker, cut })
    }

    /// A program that continues with an open broker.
    pub fn with(disk: &'a Disk, told: &'a mut Told, clock: ManualClock, broker: Broker) -> Self {
        Run { disk, told, clock, broker, cut: None }
    }

    fn partition(&self, name: &str) -> Result<Partition> {
        self.broker.topic(name)?.partition(0)
    }

    fn model(&mut self, name: &'static str) -> &mut Model {
        self.told.logs.entry(name).or_default()
    }

    /// Something that has one commit point.
    fn act(&mut self, name: &'static str, next: State, act: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.model(name).next = Some(next.clone());
        act(self)?;
        *self.model(name) = Model { now: next, next: None };
        Ok(())
    }

    /// Makes a topic unless it is there.
    pub fn create(&mut self, name: &'static str) -> Result<()> {
        if self.model(name).now.exists {
            return Ok(());
        }
        let next = State { exists: true, ..State::default() };
        self.act(name, next, |run| run.broker.ensure_topic(name, config(name)).map(drop))
    }

    pub fn delete(&mut self, name: &'static str) -> Result<()> {
        if !self.model(name).now.exists {
            return Ok(());
        }
        self.act(name, State::default(), |run| run.broker.delete_topic(name))?;
        self.told.forget(name);
        Ok(())
    }

    fn value(&mut self, bytes: usize) -> String {
        self.told.written += 1;
        let n = self.told.written;
        format!("k{} {n} {:x<bytes$}", n % 3, "")
    }

    /// Notes the result of an append before the append.
    fn note(&mut self, name: &'static str, value: &str) -> u64 {
        let now = &mut self.model(name).now;
        now.values.insert(now.end, value.to_string());
        now.end += 1;
        now.end - 1
    }

    fn acknowledged(&mut self, name: &'static str, durable: bool) {
        let now = &mut self.model(name).now;
        now.acknowledged = now.end;
        if durable {
            now.durable = now.end;
        }
    }

    pub fn append(&mut self, name: &'static str, bytes: usize) -> Result<()> {
        self.create(name)?;
        let value = self.value(bytes);
        let at = self.note(name, &value);
        let key = value.split(' ').next().unwrap();
        let record = Record::new(value.as_str()).key(key);
        let receipt = self.broker.producer().send(&self.partition(name)?, record)?.wait()?;
        assert_eq!(receipt.offset, at, "{name}: an offset that is not the next one");
        self.acknowledged(name, is_sync(name));
        Ok(())
    }

    /// Appends until a segment is full.
    pub fn roll(&mut self, name: &'static str) -> Result<()> {
        self.append(name, 500)?;
        self.append(name, 500)
    }

    /// One record to each. The strictest of the topics decides its durability.
    pub fn transaction(&mut self, names: &[&'static str]) -> Result<()> {
        for name in names {
            self.create(name)?;
        }
        let values: Vec<_> = names.iter().map(|name| (*name, self.value(20))).collect();
        let mut transaction = self.broker.transaction();
        for (name, value) in &values {
            let key = value.split(' ').next().unwrap();
            transaction.send(&self.partition(name)?, Record::new(value.as_str()).key(key));
        }
        let parts: Vec<_> =
            values.into_iter().map(|(name, value)| (name, self.note(name, &value), value)).collect();
        self.told.transactions.push(parts);
        transaction.commit()?;
        let durable = names.iter().any(|name| is_sync(name));
        for name in names {
            self.acknowledged(name, durable);
        }
        Ok(())
    }

    /// Truncates records at the end.
    pub fn truncate(&mut self, name: &'static str, back: u64) -> Result<()> {
        let mut next = self.model(name).now.clone();
        if !next.exists {
            return Ok(());
        }
        next.end = next.end.saturating_sub(back).max(next.start);
        next.values.retain(|at, _| *at < next.end);
        if back > 0 {
            // Whatever is kept is on disk.
            (next.acknowledged, next.durable) = (next.end, next.end);
        }
        let to = next.end;
        // A producer's last record may be among those that go.
        if name == "sync" {
            self.told.sequences.clear();
        }
        self.act(name, next, |run| run.partition(name)?.truncate_to(to.into()))
    }

    pub fn reset(&mut self, name: &'static str, to: u64) -> Result<()> {
        let next =
            State { exists: true, start: to, end: to, acknowledged: to, durable: to, ..State::default() };
        self.act(name, next, |run| run.partition(name)?.reset_to(to.into()))
    }

    pub fn delete_records(&mut self, name: &'static str, count: u64) -> Result<()> {
        let now = &self.model(name).now;
        if !now.exists {
            return Ok(());
        }
        let next = begun_later(now, (now.start + count).min(now.end));
        let before = next.start;
        self.act(name, next, |run| run.partition(name)?.delete_records(before.into()).map(drop))
    }

    /// Time passes, and due work is done: retention deletes all but the active segments.
    pub fn maintain(&mut self) -> Result<()> {
        let mut gone = Vec::new();
        for (name, model) in &mut self.told.logs {
            if !model.now.exists || !["aged", "sized"].contains(name) {
                continue;
            }
            let partition = self.broker.topic(name)?.partition(0)?;
            let start = if *name == "aged" { model.now.end } else { kept_by_size(&partition, 2_000) };
            if start > model.now.start {
                model.next = Some(begun_later(&model.now, start));
                gone.push(*name);
            }
        }
        self.clock.advance(Duration::from_secs(61));
        self.broker.maintain()?;
        for name in gone {
            let start = self.partition(name)?.bounds()?.log_start.get();
            let expected = self.model(name).next.as_ref().unwrap().start;
            if start != expected {
                // A failed retention is tried again by the next round, and no caller gets the
                // error: the process has died.
                let died = self.broker.create_topic("after-retention", TopicConfig::new()).map(drop);
                return Err(died.expect_err(&format!("{name}: retention ends at {start}, not at {expected}")));
            }
            let model = self.model(name);
            model.now = model.next.take().unwrap();
        }
        Ok(())
    }

    /// Of every key in the sealed segments the newest stays.
    pub fn compact(&mut self, name: &'static str) -> Result<()> {
        let mut next = self.model(name).now.clone();
        next.thinned = Thinned::Compacted;
        // From the first pass on it may be either: both fit.
        self.model(name).now.thinned = Thinned::Compacted;
        self.act(name, next, |run| {
            while run.partition(name)?.compact()?.is_some() {}
            Ok(())
        })
    }

    pub fn event(&mut self, key: &'static str) -> Result<()> {
        self.create("streams")?;
        self.told.written += 1;
        let value = format!("{key} {} {:x<120}", self.told.written, "");
        self.note("streams", &value);
        let stream = self.broker.topic("streams")?.stream(key)?;
        stream.append(quipu::ExpectedVersion::Any, [Record::new(value.as_str())])?;
        self.acknowledged("streams", true);
        Ok(())
    }

    pub fn erase(&mut self, key: &'static str) -> Result<()> {
        let mut next = self.model("streams").now.clone();
        next.thinned = Thinned::Erased(key);
        self.model("streams").now.thinned = Thinned::Erasing(key);
        self.act("streams", next, |run| run.broker.topic("streams")?.erase_stream(key).map(drop))?;
        let now = &mut self.model("streams").now;
        for value in now.values.values_mut().filter(|value| value.starts_with(&format!("{key} "))) {
            *value = ERASED.to_string();
        }
        now.thinned = Thinned::No;
        Ok(())
    }

    /// Commits, up to the log's end, by a member of the group or without one.
    pub fn commit(&mut self, name: &'static str) -> Result<()> {
        self.create(name)?;
        let bounds = self.partition(name)?.bounds()?;
        let end = bounds.visible_end.get();
        let entry = self.told.committed.entry(name).or_default();
        entry.1 = Some(end);
        let consumer = self.broker.consumer("group").assign(&[self.partition(name)?])?;
        let epoch = self.partition(name)?.epoch();
        let position = Position::new(TopicName::new(name).unwrap(), 0, end, epoch);
        consumer.commit(consumer.offsets_at([&position]))?;
        self.told.committed.insert(name, (end, None));
        Ok(())
    }

    /// An idempotent producer's record with a sequence, in `sync`.
    pub fn send_as(&mut self, producer: &'static str) -> Result<()> {
        let name = "sync";
        self.create(name)?;
        let value = self.value(30);
        let known = self.told.sequences.entry(producer).or_default();
        let sequence = known.0.map_or(1, |last| last + 1);
        known.1 = Some(Some(sequence));
        let named = self.broker.producer_with(ProducerConfig::new().name(producer))?;
        let partition = self.partition(name)?;
        self.note(name, &value);
        named.send(&partition, Record::new(value.as_str()).sequence(sequence))?.wait()?;
        self.acknowledged(name, true);
        self.told.sequences.insert(producer, (Some(sequence), None));
        Ok(())
    }

    pub fn forget(&mut self, producer: &'static str) -> Result<()> {
        self.told.sequences.entry(producer).or_default().1 = Some(None);
        self.broker.forget_producer(producer)?;
        self.told.sequences.insert(producer, (None, None));
        Ok(())
    }

    pub fn sync(&mut self) -> Result<()> {
        self.broker.sync()?;
        self.told.synced();
        Ok(())
    }

    /// Closes properly, and opens again.
    pub fn reopen(&mut self) -> Result<()> {
        self.broker.close()?;
        self.told.synced();
        self.broker = open(self.disk, &self.clock)?;
        Ok(())
    }

    pub fn close(&mut self) -> Result<()> {
        self.broker.close()?;
        self.told.synced();
        Ok(())
    }

    /// The process is killed and opens the disk again: where appends wait for a sync, all content is
    /// durable then, because it can be read.
    pub fn be_killed(&mut self) -> Result<()> {
        // Whether it has crashed before.
        self.broker.topics().first().map_or(Ok(()), |topic| topic.partition(0).map(drop))?;
        let done = self.disk.ops();
        if self.cut.is_some_and(|cut| done + 1 >= cut) {
            return Err(Error::Closed);
        }
        self.disk.crash(Survive::Everything);
        if let Some(cut) = self.cut {
            self.disk.crash_at(cut - done);
        }
        self.broker = open(self.disk, &self.clock)?;
        self.told.synced_if(is_sync);
        Ok(())
    }
}

/// Whether acknowledged records of this topic survive a power loss.
fn is_sync(name: &str) -> bool {
    !["os", "os2", "aged"].contains(&name)
}

/// The state without the oldest records. Offsets that were assigned and deleted are not assigned
/// again.
fn begun_later(state: &State, start: u64) -> State {
    let mut next = state.clone();
    next.values.retain(|at, _| *at >= start);
    next.start = start;
    next.acknowledged = next.acknowledged.max(start);
    next.durable = next.durable.max(start);
    next
}

/// Where a log starts when whole segments are gone, the oldest first, as long as enough is left.
fn kept_by_size(partition: &quipu::Partition, bytes: u64) -> u64 {
    let stats = partition.stats();
    let (mut left, mut start) = (stats.bytes, stats.bounds.log_start);
    for pair in partition.segments().windows(2) {
        left -= pair[0].bytes;
        if left < bytes {
            break;
        }
        start = start.max(pair[1].base_offset);
    }
    start.get()
}

/// Looks at everything. Nothing is damaged, everything can be read, no file of a listed segment is
/// missing.
pub fn look(disk: &Disk, broker: &Broker, told: &Told) -> std::result::Result<Found, String> {
    let report = broker.open_report();
    if !report.damaged.is_empty() {
        return Err(format!("damaged: {:?}", report.damaged));
    }
    let mut found = Found::default();
    let files: BTreeSet<_> =
        disk.files().into_iter().map(|(path, _)| format!("mem:/{}", path.display())).collect();
    for topic in broker.topics() {
        let partition = topic.partition(0).map_err(|e| e.to_string())?;
        for segment in partition.segments() {
            if !files.contains(&segment.file.display().to_string()) {
                return Err(format!("{} is listed and missing", segment.file.display()));
            }
        }
        let bounds = partition.bounds().map_err(|e| format!("{}: {e}", topic.name()))?;
        let (mut values, mut from) = (BTreeMap::new(), bounds.log_start);
        loop {
            let records =
                partition.read(Start::At(from), 1 << 20).map_err(|e| format!("{}: {e}", topic.name()))?;
            let Some(last) = records.last() else { break };
            from = last.offset().plus(1);
            for record in &records {
                let value = record.value().map_or(ERASED.into(), |v| String::from_utf8_lossy(v).into_owned());
                values.insert(record.offset().get(), value);
            }
        }
        let log = Log { start: bounds.log_start.get(), end: bounds.visible_end.get(), values };
        found.logs.insert(topic.name().to_string(), log);
    }
    if !told.committed.is_empty() {
        let committed = quipu::testing::committed(broker, "group").map_err(|e| format!("group: {e}"))?;
        found.committed = committed.into_iter().map(|(of, at)| (of.topic.to_string(), at.get())).collect();
    }
    if told.is_about_names() && found.logs.contains_key("sync") {
        // Last, because it takes the names over.
        let partition =
            broker.topic("sync").and_then(|topic| topic.partition(0)).map_err(|e| e.to_string())?;
        for name in told.sequences.keys() {
            let last = broker
                .producer_with(ProducerConfig::new().name(*name))
                .and_then(|named| named.last_sequence(&partition));
            found.sequences.insert((*name).to_string(), last.map_err(|e| format!("{name}: {e}"))?);
        }
    }
    Ok(found)
}

/// The number of states, and the failures.
#[derive(Debug, Default)]
pub struct Counts {
    pub operations: u64,
    /// Power losses without a kill before; after a kill and a whole opening; after that and further
    /// operations; after a kill and an opening that crashed.
    pub direct: u64,
    pub opened: u64,
    pub continued: u64,
    pub cut_openings: u64,
    /// How many of these were the same, with the same promises, as an earlier one of the same stop:
    /// these are not looked at again.
    pub same: u64,
    /// How often the second opening was held against the first.
    pub agreed: u64,
    /// Each failing state, and the reason.
    pub failures: Vec<(String, String)>,
}

impl Counts {
    pub fn states(&self) -> u64 {
        self.direct + self.opened + self.continued + self.cut_openings
    }

    pub fn add(&mut self, other: Counts) {
        self.operations += other.operations;
        self.direct += other.direct;
        self.opened += other.opened;
        self.continued += other.continued;
        self.cut_openings += other.cut_openings;
        self.same += other.same;
        self.agreed += other.agreed;
        self.failures.extend(other.failures);
    }

    /// Prints the counts, and fails with the first failures if there are any.
    pub fn conclude(self, name: &str) {
        println!(
            "{name}: {} operations, {} states ({} power losses, {} after an opening, {} after going on, {} after a cut \
             opening; {} the same as another), {} second openings",
            self.operations,
            self.states(),
            self.direct,
            self.opened,
            self.continued,
            self.cut_openings,
            self.same,
            self.agreed
        );
        // Of each kind the first one.
        let mut kinds: BTreeMap<String, (usize, &(String, String))> = BTreeMap::new();
        for failure in &self.failures {
            let kind = failure.1.chars().filter(|c| !c.is_ascii_digit()).take(200).collect();
            kinds.entry(kind).or_insert((0, failure)).0 += 1;
        }
        let lines: Vec<_> =
            kinds.values().map(|(count, (case, what))| format!("{count} times: {case}: {what}")).collect();
        assert!(
            lines.is_empty(),
            "{name}: {} of the states are wrong:\n{}",
            self.failures.len(),
            lines.join("\n")
        );
    }
}

/// How thoroughly a crash is checked.
#[derive(Clone, Copy)]
pub struct Depth {
    /// At most so many power losses at one place.
    pub losses: usize,
    /// Every so many-th operation of an opening crashes; none if it is 0.
    pub opening_step: u64,
    /// Which of the continuations are tried after an opening.
    pub continuations: Continue,
    /// Every so many-th state is opened a second time.
    pub second_opening: u64,
}

/// The operations that are tried after a program was killed and has opened its disk again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Continue {
    Nothing,
    InTurn,
    All,
}

/// The operations of a program after it was killed and has opened its disk again.
type Continuation = fn(&mut Run<'_>) -> Result<()>;

const CONTINUATIONS: [(&str, Continuation); 6] = [
    ("appends", |run| {
        run.append("sync", 10)?;
        run.append("os", 10)?;
        run.append("sync", 600)
    }),
    ("a transaction", |run| run.transaction(&["sync", "os"])),
    ("a truncation", |run| {
        let name = run.longest();
        run.truncate(name, 2)?;
        run.append(name, 10)
    }),
    ("deleted records", |run| {
        let name = run.longest();
        run.delete_records(name, 3)
    }),
    ("a deleted topic", |run| {
        let name = run.longest();
        run.delete(name)?;
        run.append("sync", 10)
    }),
    ("maintenance", |run| {
        run.maintain()?;
        run.append("sync", 10)
    }),
];

impl Run<'_> {
    /// The log with most records; one of several.
    fn longest(&self) -> &'static str {
        let may_be_cut = |name: &&str| !["streams", "table"].contains(name);
        let logs = self.told.logs.iter().filter(|(name, model)| model.now.exists && may_be_cut(name));
        logs.max_by_key(|(_, model)| model.now.end - model.now.start).map_or("sync", |(name, _)| name)
    }
}

/// Some of the losses: the first, the last and others in turn.
fn some(losses: Vec<Survive>, most: usize, turn: u64) -> Vec<Survive> {
    let count = losses.len();
    if count <= most {
        return losses;
    }
    let step = count / most;
    let first = turn as usize % step.max(1);
    losses.into_iter().skip(first).step_by(step).take(most).collect()
}

/// Looks at everything that one stop of a program may lead to: `disk` is as the program left it
/// when it died.
pub fn explore_stop(disk: &Disk, told: &Told, case: &str, turn: u64, depth: Depth, counts: &mut Counts) {
    let fail = |counts: &mut Counts, case: &str, what: String| counts.failures.push((case.to_string(), what));
    // After the crash; what has more to promise comes first.
    let check =
        |disk: &Disk, told: &Told, promised, seen: &mut BTreeSet<u64>, case: &str, counts: &mut Counts| {
            if !seen.insert(disk.fingerprint()) {
                counts.same += 1;
                return;
            }
            let clock = ManualClock::new();
            let result = open(disk, &clock).map_err(|e| format!("opening: {e}")).and_then(|broker| {
                let found = look(disk, &broker, told).and_then(|found| {
                    told.judge(&found, promised)?;
                    Ok(found)
                });
                if (counts.states() - counts.same).is_multiple_of(depth.second_opening)
                    && let Ok(found) = &found
                {
                    counts.agreed += 1;
                    let again = disk.duplicate();
                    again.crash(Survive::Synced);
                    let second = open(&again, &clock).map_err(|e| format!("second opening: {e}"))?;
                    let mut told = told.clone();
                    told.settle(found);
                    let agrees =
                        look(&again, &second, &told).and_then(|found| told.judge(&found, Promised::Durable));
                    again.crash_at(1);
                    agrees.map_err(|e| format!("the second opening: {e}"))?;
                }
                // It dies: closing it changes nothing.
                disk.crash_at(1);
                found.map(drop)
            });
            if let Err(what) = result {
                fail(counts, case, what);
            }
        };

    let mut durable = BTreeSet::new();
    for survive in some(disk.power_losses(turn), depth.losses, turn) {
        let left = disk.duplicate();
        left.crash(survive);
        check(&left, told, Promised::Durable, &mut durable, &format!("{case}, {survive:?}"), counts);
        counts.direct += 1;
    }

    let killed = disk.duplicate();
    killed.crash(Survive::Everything);
    let chosen = turn as usize % CONTINUATIONS.len();
    for (n, (what, go_on)) in CONTINUATIONS.iter().enumerate() {
        if n != chosen && depth.continuations != Continue::All {
            continue;
        }
        let case = format!("{case}, killed, opened");
        let (disk, mut told) = (killed.duplicate(), told.clone());
        let clock = ManualClock::new();
        // After all that was sent before: a record of the future would stay.
        clock.advance(Duration::from_secs(10_000));
        let broker = match open(&disk, &clock) {
            Ok(broker) => broker,
            Err(e) => {
                fail(counts, &case, format!("opening: {e}"));
                break;
            }
        };
        let seen = look(&disk, &broker, &told).and_then(|found| {
            told.judge(&found, Promised::Acknowledged)?;
            Ok(found)
        });
        match seen {
            Ok(found) => told.settle(&found),
            Err(what) => {
                fail(counts, &case, what);
                disk.crash_at(1);
                break;
            }
        }
        if n == chosen {
            let mut seen = BTreeSet::new();
            for survive in some(disk.power_losses(turn), depth.losses, turn) {
                let left = disk.duplicate();
                left.crash(survive);
                check(&left, &told, Promised::Durable, &mut seen, &format!("{case}, {survive:?}"), counts);
                counts.opened += 1;
            }
        }
        if depth.continuations == Continue::Nothing {
            disk.crash_at(1);
            break;
        }
        let case = format!("{case}, {what}");
        let result = go_on(&mut Run::with(&disk, &mut told, clock, broker.clone()));
        if let Err(e) = result {
            fail(counts, &case, format!("it does not continue: {e}"));
        } else {
            let mut seen = BTreeSet::new();
            for survive in some(disk.power_losses(turn), depth.losses, turn) {
                let left = disk.duplicate();
                left.crash(survive);
                check(&left, &told, Promised::Durable, &mut seen, &format!("{case}, {survive:?}"), counts);
                counts.continued += 1;
            }
        }
        disk.crash_at(1);
    }

    if depth.opening_step == 0 {
        return;
    }
    let mut acknowledged = BTreeSet::new();
    // The opening crashes, and then the power is lost, or the process is killed again and opens the
    // disk.
    for nth in (1 + turn % depth.opening_step..).step_by(depth.opening_step as usize) {
        let disk = killed.duplicate();
        disk.crash_at(nth);
        let finished = open(&disk, &ManualClock::new()).is_ok();
        let case = format!("{case}, killed, opening crash at {nth}");
        for survive in some(disk.power_losses(nth), depth.losses.div_ceil(2), nth) {
            let left = disk.duplicate();
            left.crash(survive);
            check(&left, told, Promised::Durable, &mut durable, &format!("{case}, {survive:?}"), counts);
            counts.cut_openings += 1;
        }
        disk.crash(Survive::Everything);
        check(
            &disk,
            told,
            Promised::Acknowledged,
            &mut acknowledged,
            &format!("{case}, killed again"),
            counts,
        );
        counts.cut_openings += 1;
        if finished {
            break;
        }
    }
}
