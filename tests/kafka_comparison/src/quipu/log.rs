//! Sends, lookups and readers.

use std::collections::BTreeMap;
use std::time::Duration;

use quipu::{Offset, OffsetReset, Position, Receipt, Record, Start, Timestamp, TopicName, TopicPartition};

use super::{Quipu, outcome, refusal};
use crate::history::{Place, Rec, Reset, Who};
use crate::seen::Seen;

impl Quipu {
    pub(super) fn record(&self, record: &Rec) -> Record<'static> {
        let key = record.key.as_deref().map(str::as_bytes);
        let value = record.value.as_deref().map(str::as_bytes);
        let mut made = Record::new(value).key(key).into_owned();
        made = made.timestamp(Timestamp::from_millis(self.names.time(record.at)));
        for (name, value) in &record.headers {
            made = match value {
                Some(value) => made.header(name.clone(), value.clone()),
                None => made.null_header(name.clone()),
            };
        }
        made
    }

    /// Sends the records, then waits for all: they share a batch where one has room.
    pub(super) fn send(&self, topic: &str, partition: Option<u32>, records: &[Rec]) -> Seen {
        let producer = self.broker.producer();
        let send = |record: &Rec| match partition {
            Some(partition) => {
                let partition = self.partition(topic, partition)?;
                producer.send(&partition, self.record(record))
            }
            None => producer.send(self.names.full(topic), self.record(record)),
        };
        let sent: Vec<_> = records.iter().map(send).collect();
        let place = |receipt: Receipt| format!("{}@{}", receipt.partition, receipt.offset);
        let places = sent
            .into_iter()
            .map(|sent| sent.and_then(quipu::Pending::wait).map_or_else(|error| refusal(&error), place));
        Seen::default().with("outcome", "", places.collect())
    }

    pub(super) fn delete_records(&self, topic: &str, partition: u32, before: u64) -> Seen {
        let partition = self.partition(topic, partition);
        let start = partition.and_then(|partition| partition.delete_records(Offset::new(before)));
        Seen::outcome(start.map_or_else(|error| refusal(&error), |start| format!("starts at {start}")))
    }

    pub(super) fn bounds(&self, topic: &str) -> Seen {
        let bounds = || -> quipu::Result<Seen> {
            let mut seen = Seen::default();
            for partition in self.broker.topic(&self.names.full(topic))?.partitions() {
                let bounds = partition.bounds()?;
                let of = format!("{topic}/{}", partition.id());
                seen = seen.with("start", &of, vec![bounds.log_start.to_string()]);
                seen = seen.with("end", &of, vec![bounds.visible_end.to_string()]);
            }
            Ok(seen)
        };
        bounds().unwrap_or_else(|error| Seen::outcome(refusal(&error)))
    }

    pub(super) fn offset_for_time(&self, topic: &str, partition: u32, at: i64) -> Seen {
        let time = Timestamp::from_millis(self.names.time(at));
        let found = self.partition(topic, partition).and_then(|partition| partition.offset_for_time(time));
        Seen::outcome(match found {
            Ok(Some((offset, _))) => offset.to_string(),
            Ok(None) => "none".to_string(),
            Err(error) => refusal(&error),
        })
    }

    pub(super) fn read(&self, topic: &str) -> Seen {
        let read = || -> quipu::Result<Seen> {
            let mut found = Found::default();
            let reader = self.broker.reader(&[&self.names.full(topic)], Start::Beginning)?;
            for records in reader.to_end() {
                found.add(self, &records?);
            }
            Ok(found.seen())
        };
        read().unwrap_or_else(|error| Seen::outcome(refusal(&error)))
    }

    /// Compacts every partition. Facts: the records that are left, and the newest value by key.
    pub(super) fn compact(&self, topic: &str) -> Seen {
        let compact = || -> quipu::Result<()> {
            for partition in self.broker.topic(&self.names.full(topic))?.partitions() {
                partition.compact()?;
            }
            Ok(())
        };
        match compact() {
            Ok(()) => self.read(topic).with("outcome", "", vec!["done".to_string()]),
            Err(error) => outcome(Err(error)),
        }
    }

    /// The position of a place now.
    fn position(&self, topic: &str, partition: u32, place: Place) -> quipu::Result<Position> {
        let partition = self.partition(topic, partition)?;
        let offset = match place {
            Place::Beginning => partition.bounds()?.log_start,
            Place::End => partition.bounds()?.visible_end,
            Place::At(offset) => Offset::new(offset),
        };
        let topic = partition.topic().clone();
        Ok(Position::new(topic, partition.id(), offset, partition.epoch()))
    }

    pub(super) fn assign(&mut self, who: Who, topic: &str, places: &[(u32, Place)], reset: Reset) -> Seen {
        let positions = places.iter().map(|(partition, place)| self.position(topic, *partition, *place));
        let reader = positions.collect::<quipu::Result<Vec<_>>>().and_then(|at| self.broker.reader_at(&at));
        outcome(reader.map(|reader| {
            self.readers.insert(who, reader.offset_reset(offset_reset(reset)));
        }))
    }

    pub(super) fn seek(&mut self, who: Who, topic: &str, partition: u32, to: Place) -> Seen {
        let to = self.position(topic, partition, to);
        match self.readers.get_mut(&who) {
            Some(reader) => outcome(to.and_then(|to| reader.seek(&to))),
            None => Seen::nothing(),
        }
    }

    /// Pauses or resumes a partition of a reader or a member.
    pub(super) fn pause(&mut self, who: Who, topic: &str, partition: u32, pause: bool) -> Seen {
        let topic = self.names.full(topic);
        if let Some(reader) = self.readers.get_mut(&who) {
            return outcome(if pause {
                reader.pause(&topic, partition)
            } else {
                reader.resume(&topic, partition)
            });
        }
        let Some(member) = self.members.get_mut(&who) else { return Seen::nothing() };
        let of = TopicName::new(&topic).map(|name| TopicPartition::new(name, partition));
        if !of.is_ok_and(|of| member.consumer.assignment().contains(&of)) {
            // A program can see that it does not own the partition. What follows depends on that.
            return Seen::nothing();
        }
        let consumer = &mut member.consumer;
        outcome(if pause { consumer.pause(&topic, partition) } else { consumer.resume(&topic, partition) })
    }

    pub(super) fn poll(&mut self, who: Who) -> Seen {
        let Some(mut reader) = self.readers.remove(&who) else { return Seen::nothing() };
        let mut found = Found::default();
        let mut refusals = Vec::new();
        loop {
            match reader.poll(Duration::ZERO) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => found.add(self, &records),
                Err(error) => {
                    refusals.push(refusal(&error));
                    break;
                }
            }
        }
        self.readers.insert(who, reader);
        found.seen().with("outcome", "", refusals)
    }
}

pub(super) fn offset_reset(reset: Reset) -> OffsetReset {
    match reset {
        Reset::Earliest => OffsetReset::Beginning,
        Reset::Latest => OffsetReset::End,
        Reset::Fail => OffsetReset::Fail,
    }
}

/// Records by partition: their content, and their offsets.
#[derive(Default)]
struct Found(BTreeMap<String, (Vec<String>, Vec<String>)>);

impl Found {
    fn add(&mut self, quipu: &Quipu, records: &quipu::Records) {
        for record in records {
            let of = format!("{}/{}", quipu.names.short(record.topic().as_str()), record.partition());
            let (texts, offsets) = self.0.entry(of).or_default();
            texts.push(quipu.text(&record));
            offsets.push(record.offset().to_string());
        }
    }

    fn seen(self) -> Seen {
        let mut seen = Seen::default();
        for (of, (texts, offsets)) in self.0 {
            seen = seen.with("records", &of, texts).with("offsets", &of, offsets);
        }
        seen
    }
}
