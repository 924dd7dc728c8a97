//! Sends, lookups and readers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_executor::block_on;
use rdkafka::consumer::Consumer;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::clients::{Deliveries, PATIENCE};
use super::reading::{Of, Reading, drain, text};
use super::{Kafka, outcome, refusal};
use crate::history::{Place, Rec, Reset, Who};
use crate::seen::Seen;
use crate::system::refused;

/// How long Kafka may take to compact a topic: its cleaner looks every 15 seconds.
const COMPACTION: Duration = Duration::from_secs(90);

impl Kafka<'_> {
    /// Sends the records, then waits for all.
    pub(super) fn send(&self, topic: &str, partition: Option<u32>, records: &[Rec]) -> Result<Seen> {
        let producer = if self.is_idempotent { &self.clients.idempotent } else { &self.clients.plain };
        let name = self.names.full(topic);
        producer.context().take();
        let mut places = vec![String::new(); records.len()];
        for (number, record) in records.iter().enumerate() {
            if let Err(error) = self.queue(producer, &name, partition, record, number) {
                places[number] = refusal(&error)?;
            }
        }
        producer.flush(PATIENCE)?;
        for (number, delivery) in producer.context().take() {
            places[number] = match delivery {
                Ok((partition, offset)) => {
                    self.has_more(&(name.clone(), partition));
                    format!("{partition}@{offset}")
                }
                Err(error) => refusal(&error)?,
            };
        }
        Ok(Seen::default().with("outcome", "", places))
    }

    fn has_more(&self, of: &Of) {
        let members = self.members.values().map(|member| &member.reading);
        members.chain(self.readers.values()).for_each(|reading| reading.has_more(of));
    }

    pub(super) fn queue(
        &self,
        producer: &BaseProducer<Deliveries>,
        topic: &str,
        partition: Option<u32>,
        record: &Rec,
        number: usize,
    ) -> rdkafka::error::KafkaResult<()> {
        let mut made: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(topic, number);
        made = made.timestamp(self.names.time(record.at));
        if let Some(partition) = partition {
            made = made.partition(partition as i32);
        }
        if let Some(key) = &record.key {
            made = made.key(key.as_bytes());
        }
        if let Some(value) = &record.value {
            made = made.payload(value.as_bytes());
        }
        if !record.headers.is_empty() {
            made = made.headers(headers(record));
        }
        producer.send(made).map_err(|(error, _)| error)
    }

    pub(super) fn delete_records(&self, topic: &str, partition: u32, before: u64) -> Result<Seen> {
        if let Some(refused) = self.missing(topic, partition)? {
            return Ok(refused);
        }
        let list = self.list(topic, partition, Offset::Offset(i64::try_from(before)?))?;
        let deleted = block_on(self.clients.admin.delete_records(&list, &self.clients.options()));
        let start = deleted.and_then(|list| {
            let elements = list.elements();
            let Some(of) = elements.first() else { return Ok(0) };
            of.error().map(|()| of.offset().to_raw().unwrap_or_default())
        });
        Ok(Seen::outcome(match start {
            Ok(start) => format!("starts at {start}"),
            Err(error) => refusal(&error)?,
        }))
    }

    /// The refusal of a call whose topic or partition does not exist, as metadata shows it. The
    /// client would wait for the topic.
    fn missing(&self, topic: &str, partition: u32) -> Result<Option<Seen>> {
        Ok(match self.clients.partitions(&self.names.full(topic))? {
            None => Some(Seen::outcome(refused::UNKNOWN_TOPIC)),
            Some(count) if partition >= count => Some(Seen::outcome(refused::UNKNOWN_PARTITION)),
            Some(_) => None,
        })
    }

    pub(super) fn bounds(&self, topic: &str) -> Result<Seen> {
        let name = self.names.full(topic);
        let Some(count) = self.clients.partitions(&name)? else {
            return Ok(Seen::outcome(refused::UNKNOWN_TOPIC));
        };
        let mut seen = Seen::default();
        for partition in 0..count {
            let (start, end) = self.clients.watermarks(&name, i32::try_from(partition)?)?;
            let of = format!("{topic}/{partition}");
            seen = seen.with("start", &of, vec![start.to_string()]).with("end", &of, vec![end.to_string()]);
        }
        Ok(seen)
    }

    pub(super) fn offset_for_time(&self, topic: &str, partition: u32, at: i64) -> Result<Seen> {
        if let Some(refused) = self.missing(topic, partition)? {
            return Ok(refused);
        }
        let list = self.list(topic, partition, Offset::Offset(self.names.time(at)))?;
        let found = self.clients.lookup.offsets_for_times(list, PATIENCE)?;
        let elements = found.elements();
        let found = elements.first().context("no offset came back")?;
        Ok(Seen::outcome(match (found.error(), found.offset()) {
            (Err(error), _) => refusal(&error)?,
            (Ok(()), Offset::Offset(offset)) => offset.to_string(),
            (Ok(()), _) => "none".to_string(),
        }))
    }

    /// A new consumer of all partitions of the topic, at their beginnings.
    fn reader(&self, name: &str, count: u32) -> Result<Reading> {
        let config = self.clients.consumer(&self.names.full("reader"), "reader", "earliest");
        let reading = Reading::new(&config, &self.names)?;
        let mut list = TopicPartitionList::new();
        let mut next = BTreeMap::new();
        for partition in 0..i32::try_from(count)? {
            list.add_partition_offset(name, partition, Offset::Beginning)?;
            next.insert((name.to_string(), partition), None);
        }
        reading.assign(&list, next)?;
        Ok(reading)
    }

    pub(super) fn read(&self, topic: &str) -> Result<Seen> {
        let name = self.names.full(topic);
        let Some(count) = self.clients.partitions(&name)? else {
            return Ok(Seen::outcome(refused::UNKNOWN_TOPIC));
        };
        let reading = self.reader(&name, count)?;
        drain(self.clients, &[&reading])?;
        Ok(self.found(&reading))
    }

    /// The records by partition, and their offsets.
    fn found(&self, reading: &Reading) -> Seen {
        let mut seen = Seen::default();
        for (of, records) in reading.diary(|diary| std::mem::take(&mut diary.delivered)) {
            let of = text(&self.names, &of);
            let (texts, offsets): (Vec<_>, Vec<_>) =
                records.into_iter().map(|(text, offset)| (text, offset.to_string())).unzip();
            seen = seen.with("records", &of, texts).with("offsets", &of, offsets);
        }
        seen
    }

    /// Reads until no key is there twice before the last record, which has a segment for itself.
    pub(super) fn compact(&self, topic: &str) -> Result<Seen> {
        let start = Instant::now();
        let name = self.names.full(topic);
        let Some(count) = self.clients.partitions(&name)? else {
            return Ok(Seen::outcome(refused::UNKNOWN_TOPIC));
        };
        loop {
            let reading = self.reader(&name, count)?;
            drain(self.clients, &[&reading])?;
            let is_compacted =
                reading.diary(|diary| diary.delivered.values().all(|records| has_no_key_twice(records)));
            if is_compacted {
                return Ok(self.found(&reading).with("outcome", "", vec!["done".to_string()]));
            }
            if start.elapsed() > COMPACTION {
                bail!("{topic} was not compacted in {COMPACTION:?}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Where a place is: for the client, and as an offset if it is one in the log.
    fn place(&self, of: &Of, place: Place) -> Result<(Offset, Option<i64>)> {
        let (start, end) = self.clients.watermarks(&of.0, of.1)?;
        Ok(match place {
            Place::Beginning => (Offset::Beginning, Some(start)),
            Place::End => (Offset::End, Some(end)),
            Place::At(offset) => {
                let offset = i64::try_from(offset)?;
                (Offset::Offset(offset), (start..=end).contains(&offset).then_some(offset))
            }
        })
    }

    pub(super) fn assign(
        &mut self,
        who: Who,
        topic: &str,
        places: &[(u32, Place)],
        reset: Reset,
    ) -> Result<Seen> {
        for (partition, _) in places {
            if let Some(refused) = self.missing(topic, *partition)? {
                return Ok(refused);
            }
        }
        let config = self.clients.consumer(&self.names.full("reader"), "reader", offset_reset(reset));
        let reading = Reading::new(&config, &self.names)?;
        let mut list = TopicPartitionList::new();
        let mut next = BTreeMap::new();
        for (partition, place) in places {
            let of = (self.names.full(topic), i32::try_from(*partition)?);
            let (offset, known) = self.place(&of, *place)?;
            list.add_partition_offset(&of.0, of.1, offset)?;
            next.insert(of, known);
        }
        let assigned = reading.assign(&list, next);
        self.readers.insert(who, reading);
        outcome(assigned)
    }

    pub(super) fn seek(&mut self, who: Who, topic: &str, partition: u32, to: Place) -> Result<Seen> {
        let of = (self.names.full(topic), i32::try_from(partition)?);
        let Some(reading) = self.readers.get(&who) else { return Ok(Seen::nothing()) };
        if !reading.owns(&of) {
            return Ok(Seen::outcome(refused::NOT_ASSIGNED));
        }
        let (offset, known) = self.place(&of, to)?;
        match reading.consumer.seek(&of.0, of.1, offset, PATIENCE) {
            Ok(()) => reading.moved(&of, known),
            // The client gives a partition up after a refusal.
            Err(_) => {
                let again = reading.again(&of, offset, known)?;
                self.readers.insert(who, again);
            }
        }
        Ok(Seen::outcome("done"))
    }

    /// Pauses or resumes a partition of a reader or a member.
    pub(super) fn pause(&mut self, who: Who, topic: &str, partition: u32, pause: bool) -> Result<Seen> {
        let of = (self.names.full(topic), i32::try_from(partition)?);
        let is_reader = self.readers.contains_key(&who);
        let member = self.members.get_mut(&who).map(|member| &mut member.reading);
        let Some(reading) = self.readers.get_mut(&who).or(member) else { return Ok(Seen::nothing()) };
        if !reading.owns(&of) {
            return Ok(if is_reader { Seen::outcome(refused::NOT_ASSIGNED) } else { Seen::nothing() });
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&of.0, of.1);
        let result = if pause { reading.consumer.pause(&list) } else { reading.consumer.resume(&list) };
        if pause {
            reading.paused.insert(of);
        } else {
            reading.paused.remove(&of);
        }
        outcome(result)
    }

    pub(super) fn poll(&mut self, who: Who) -> Result<Seen> {
        let Some(reading) = self.readers.get(&who) else { return Ok(Seen::nothing()) };
        drain(self.clients, &[reading])?;
        let refusals = reading.diary(|diary| std::mem::take(&mut diary.refusals));
        Ok(self.found(reading).with("outcome", "", refusals))
    }
}

pub(super) fn offset_reset(reset: Reset) -> &'static str {
    match reset {
        Reset::Earliest => "earliest",
        Reset::Latest => "latest",
        Reset::Fail => "error",
    }
}

fn headers(record: &Rec) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    record
        .headers
        .iter()
        .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }))
}

/// Whether each key is there once among all records but the last. A text begins with its key.
fn has_no_key_twice(records: &[(String, i64)]) -> bool {
    let keys: Vec<_> = records.iter().filter_map(|(text, _)| text.split('=').next()).collect();
    let before = keys.split_last().map(|(_, before)| before).unwrap_or_default();
    before.iter().collect::<BTreeSet<_>>().len() == before.len()
}
