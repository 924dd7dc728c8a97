//! A consumer, and when it has read everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::clients::{Clients, is_trouble};
use super::refusal;
use crate::history::record_text;
use crate::system::Names;

/// A partition whose end cannot be recognised has been read if nothing has come for this time.
const QUIET: Duration = Duration::from_millis(1500);

/// How long the broker may take to send anything.
const STUCK: Duration = Duration::from_secs(30);

/// A topic, by its full name, and a partition.
pub type Of = (String, i32);

/// What a program sees in a consumer, since it was asked last.
#[derive(Default)]
pub struct Diary {
    pub calls: Vec<String>,
    /// Text and offset of each record, since the partition was assigned.
    pub delivered: BTreeMap<Of, Vec<(String, i64)>>,
    pub refusals: Vec<String>,
    /// The partitions that it owns, and the next offset where that is known.
    next: BTreeMap<Of, Option<i64>>,
    /// Partitions whose end was reported.
    ended: BTreeSet<Of>,
    /// Partitions to which records were sent since they were assigned. A report of an end may be
    /// older than the records, so it does not count.
    sent: BTreeSet<Of>,
    trouble: Option<String>,
}

pub struct Listener {
    names: Names,
    diary: Mutex<Diary>,
}

impl ClientContext for Listener {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Listener {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let (event, list) = match rebalance {
            Rebalance::Assign(list) => ("assigned", list),
            Rebalance::Revoke(list) if consumer.assignment_lost() => ("lost", list),
            Rebalance::Revoke(list) => ("revoked", list),
            Rebalance::Error(error) => {
                self.diary(|diary| diary.trouble = Some(error.to_string()));
                return;
            }
        };
        let of: Vec<Of> = list.elements().iter().map(|of| (of.topic().to_string(), of.partition())).collect();
        self.diary(|diary| diary.rebalance(&self.names, event, &of));
    }
}

impl Listener {
    /// An error if the consumer cannot be used any more.
    pub fn check(&self) -> Result<()> {
        match self.diary(|diary| diary.trouble.take()) {
            Some(trouble) => bail!("a consumer has stopped: {trouble}"),
            None => Ok(()),
        }
    }

    pub fn diary<T>(&self, f: impl FnOnce(&mut Diary) -> T) -> T {
        f(&mut self.diary.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Diary {
    fn rebalance(&mut self, names: &Names, event: &str, partitions: &[Of]) {
        for of in partitions {
            self.delivered.remove(of);
            self.ended.remove(of);
            self.sent.remove(of);
            match event {
                "assigned" => self.next.insert(of.clone(), None),
                _ => self.next.remove(of),
            };
        }
        if !partitions.is_empty() {
            let mut texts: Vec<_> = partitions.iter().map(|of| text(names, of)).collect();
            texts.sort();
            self.calls.push(format!("{event} {}", texts.join(" ")));
        }
    }

    /// The end of a partition was reported, by its number only: it counts where one topic has it.
    fn end(&mut self, partition: i32) {
        let of: Vec<_> = self.next.keys().filter(|of| of.1 == partition).cloned().collect();
        if let [of] = of.as_slice()
            && !self.sent.contains(of)
        {
            self.ended.insert(of.clone());
        }
    }

    fn has_reached(&self, of: &Of, end: i64) -> bool {
        self.ended.contains(of) || self.next.get(of).copied().flatten().is_some_and(|next| next >= end)
    }

    /// Everything up to these ends was read.
    fn is_at(&mut self, ends: BTreeMap<Of, i64>) {
        for (of, end) in ends {
            if let Some(next) = self.next.get_mut(&of) {
                *next = Some(next.unwrap_or(end).max(end));
            }
        }
    }

    /// Whether it shows that this partition has been read to its end.
    fn is_recognised(&self, of: &Of) -> bool {
        let is_known = self.next.get(of).copied().flatten().is_some();
        let is_alone = self.next.keys().filter(|other| other.1 == of.1).count() == 1;
        is_known || (is_alone && !self.sent.contains(of))
    }
}

pub fn text(names: &Names, of: &Of) -> String {
    format!("{}/{}", names.short(&of.0), of.1)
}

pub struct Reading {
    pub consumer: BaseConsumer<Listener>,
    config: ClientConfig,
    pub paused: BTreeSet<Of>,
}

impl Reading {
    pub fn new(config: &ClientConfig, names: &Names) -> Result<Self> {
        let listener = Listener { names: names.clone(), diary: Mutex::default() };
        Ok(Reading {
            consumer: config.create_with_context(listener)?,
            config: config.clone(),
            paused: BTreeSet::new(),
        })
    }

    pub fn diary<T>(&self, f: impl FnOnce(&mut Diary) -> T) -> T {
        self.consumer.context().diary(f)
    }

    pub fn owned(&self) -> Vec<Of> {
        self.diary(|diary| diary.next.keys().cloned().collect())
    }

    pub fn owns(&self, of: &Of) -> bool {
        self.diary(|diary| diary.next.contains_key(of))
    }

    /// Assigns partitions by hand. `next` is the offset to read next, where it is known.
    pub fn assign(&self, list: &TopicPartitionList, next: BTreeMap<Of, Option<i64>>) -> KafkaResult<()> {
        self.diary(|diary| diary.next = next);
        self.consumer.assign(list)
    }

    /// A new consumer of the same partitions, one of them from another place on.
    pub fn again(&self, moved: &Of, to: Offset, known: Option<i64>) -> Result<Self> {
        let again = Reading::new(&self.config, &self.consumer.context().names)?;
        let mut list = TopicPartitionList::new();
        let mut next = self.diary(|diary| diary.next.clone());
        next.insert(moved.clone(), known);
        for (of, next) in &next {
            let at = if of == moved { to } else { next.map_or(Offset::Beginning, Offset::Offset) };
            list.add_partition_offset(&of.0, of.1, at)?;
        }
        again.assign(&list, next)?;
        let mut paused = TopicPartitionList::new();
        for of in &self.paused {
            paused.add_partition(&of.0, of.1);
        }
        again.consumer.pause(&paused)?;
        Ok(Reading { paused: self.paused.clone(), ..again })
    }

    /// The next offset to read of a partition is another one, which may not be known.
    pub fn moved(&self, of: &Of, next: Option<i64>) {
        self.diary(|diary| {
            diary.ended.remove(of);
            diary.sent.remove(of);
            diary.next.insert(of.clone(), next);
        });
    }

    /// Records were sent to a partition.
    pub fn has_more(&self, of: &Of) {
        self.diary(|diary| {
            diary.ended.remove(of);
            diary.sent.insert(of.clone());
        });
    }

    /// Takes the records that are there, and waits a moment for the first. Returns whether there was a record or a call.
    pub fn poll(&self) -> bool {
        let calls = || self.diary(|diary| diary.calls.len());
        let before = calls();
        let mut any = false;
        let mut wait = Duration::from_millis(5);
        while let Some(polled) = self.consumer.poll(wait) {
            any |= self.take(polled);
            wait = Duration::ZERO;
        }
        any || calls() > before
    }

    fn take(&self, polled: KafkaResult<BorrowedMessage<'_>>) -> bool {
        let names = &self.consumer.context().names;
        self.diary(|diary| match polled {
            Ok(message) => {
                let of = (message.topic().to_string(), message.partition());
                diary.ended.remove(&of);
                diary.next.insert(of.clone(), Some(message.offset() + 1));
                diary
                    .delivered
                    .entry(of)
                    .or_default()
                    .push((message_text(names, &message), message.offset()));
                true
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                diary.end(partition);
                false
            }
            Err(error) => {
                let code = error.rdkafka_error_code();
                match refusal(&error) {
                    Ok(class) => diary.refusals.push(class),
                    // It tries again by itself.
                    Err(_) if code.is_some_and(is_trouble) => {}
                    Err(trouble) => diary.trouble = Some(trouble.to_string()),
                }
                false
            }
        })
    }

    /// The partitions to read, with their ends.
    fn ends(&self, clients: &Clients) -> Result<BTreeMap<Of, i64>> {
        let mut ends = BTreeMap::new();
        for of in self.owned() {
            if !self.paused.contains(&of) {
                let (_, end) = clients.watermarks(&of.0, of.1)?;
                ends.insert(of, end);
            }
        }
        Ok(ends)
    }
}

/// Polls the consumers in turn until each has read all of its partitions.
pub fn drain(clients: &Clients, readings: &[&Reading]) -> Result<()> {
    let ends = readings.iter().map(|reading| reading.ends(clients)).collect::<Result<Vec<_>>>()?;
    readings.iter().for_each(|reading| reading.diary(|diary| diary.refusals.clear()));
    let mut last = Instant::now();
    let start = last;
    loop {
        for reading in readings {
            if reading.poll() {
                last = Instant::now();
            }
            reading.consumer.context().check()?;
        }
        let missing: Vec<_> =
            readings.iter().zip(&ends).flat_map(|(reading, ends)| missing(reading, ends)).collect();
        let is_quiet = last.elapsed() > QUIET && missing.iter().all(|(_, is_recognised)| !is_recognised);
        if missing.is_empty() || is_quiet {
            break;
        }
        if last.elapsed() > STUCK || start.elapsed() > STUCK * 2 {
            bail!("no end of {missing:?} was reported in {:?}", start.elapsed());
        }
    }
    for (reading, ends) in readings.iter().zip(ends) {
        reading.diary(|diary| diary.is_at(ends));
    }
    Ok(())
}

/// The partitions that the consumer has still to read, and whether their ends are recognised. None
/// after a refusal: then nothing more comes.
fn missing(reading: &Reading, ends: &BTreeMap<Of, i64>) -> Vec<(Of, bool)> {
    reading.diary(|diary| {
        if !diary.refusals.is_empty() {
            return Vec::new();
        }
        let missing = ends.iter().filter(|(of, end)| !diary.has_reached(of, **end));
        missing.map(|(of, _)| (of.clone(), diary.is_recognised(of))).collect()
    })
}

fn message_text(names: &Names, message: &BorrowedMessage<'_>) -> String {
    let headers = message.headers().map(|headers| {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_string(), header.value.map(|value| String::from_utf8_lossy(value).into_owned()))
        };
        headers.iter().map(header).collect::<Vec<_>>()
    });
    let at = names.at(message.timestamp().to_millis().unwrap_or_default());
    record_text(message.key(), message.payload(), at, &headers.unwrap_or_default())
}
