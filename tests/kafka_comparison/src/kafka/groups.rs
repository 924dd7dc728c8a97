//! Members of the group.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_executor::block_on;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::groups::GroupMemberInfo;
use rdkafka::{Offset, TopicPartitionList};

use super::clients::PATIENCE;
use super::log::offset_reset;
use super::reading::{Of, Reading, drain, text};
use super::{Kafka, first, outcome, refusal};
use crate::history::{Reset, Strategy, Who};
use crate::seen::Seen;
use crate::system::{balance, covers, settled};

/// How long a group may take to settle. A member that has died is noticed in this time.
const SETTLED: Duration = Duration::from_secs(40);

pub(super) struct Member {
    pub(super) reading: Reading,
    is_eager: bool,
    /// As in the history.
    topics: Vec<String>,
}

impl Kafka<'_> {
    pub(super) fn join(
        &mut self,
        who: Who,
        topics: &[String],
        strategy: Strategy,
        reset: Reset,
    ) -> Result<Seen> {
        let mut config = self.clients.consumer(&self.names.group(), &client_id(who), offset_reset(reset));
        config.set(
            "partition.assignment.strategy",
            match strategy {
                Strategy::Range => "range",
                Strategy::RoundRobin => "roundrobin",
                Strategy::Sticky => "cooperative-sticky",
            },
        );
        let reading = Reading::new(&config, &self.names)?;
        let subscriptions: Vec<_> = topics.iter().map(|topic| self.subscription(topic)).collect();
        let subscriptions: Vec<_> = subscriptions.iter().map(String::as_str).collect();
        let subscribed = reading.consumer.subscribe(&subscriptions);
        let is_eager = strategy != Strategy::Sticky;
        self.members.insert(who, Member { reading, is_eager, topics: topics.to_vec() });
        outcome(subscribed)
    }

    /// A pattern is a regular expression here.
    fn subscription(&self, topic: &str) -> String {
        match topic.strip_suffix('*') {
            Some(start) => format!("^{}.*", self.names.full(start)),
            None => self.names.full(topic),
        }
    }

    pub(super) fn leave(&mut self, who: Who) -> Result<Seen> {
        let Some(member) = self.members.remove(&who) else { return Ok(Seen::nothing()) };
        let listener = member.reading.consumer.context().clone();
        drop(member);
        listener.check()?;
        let calls = listener.diary(|diary| std::mem::take(&mut diary.calls));
        Ok(Seen::outcome("done").with("calls", format!("m{who}"), calls))
    }

    /// The member is not polled any more, and leaves the group after `max.poll.interval.ms`.
    pub(super) fn die(&mut self, who: Who) -> Result<Seen> {
        self.dead.extend(self.members.remove(&who));
        Ok(Seen::nothing())
    }

    fn observer(&mut self) -> Result<&BaseConsumer> {
        if self.observer.is_none() {
            let mut config = self.clients.consumer(&self.names.group(), "observer", "earliest");
            // Otherwise it waits for open transactions that commit offsets.
            config.set("isolation.level", "read_uncommitted");
            self.observer = Some(config.create()?);
        }
        self.observer.as_ref().context("the observer was made")
    }

    /// Whether the broker has all live members in the group, no others, no rebalance, and each
    /// member owns what the broker has assigned to it.
    fn is_stable(&mut self) -> Result<bool> {
        let group = self.names.group();
        let list = self.observer()?.fetch_group_list(Some(group.as_str()), PATIENCE)?;
        let Some(found) = list.groups().first() else { return Ok(self.members.is_empty()) };
        if self.members.is_empty() {
            return Ok(found.members().is_empty());
        }
        let owns = |member: &GroupMemberInfo| {
            let own = self.members.iter().find(|(who, _)| client_id(**who) == member.client_id());
            let assigned = member.assignment().and_then(assigned);
            own.zip(assigned).is_some_and(|((_, own), assigned)| own.reading.owned() == assigned)
        };
        Ok(found.state() == "Stable"
            && found.members().len() == self.members.len()
            && found.members().iter().all(owns))
    }

    /// Whether every partition that the members have subscribed to has exactly one owner.
    fn is_shared_out(&self) -> bool {
        let mut wanted = BTreeSet::new();
        let mut owned = Vec::new();
        for member in self.members.values() {
            let topics = self.topics.iter().filter(|(topic, _)| {
                member.topics.iter().any(|wanted| covers(wanted, self.names.short(topic)))
            });
            for (topic, count) in topics {
                wanted.extend((0..*count as i32).map(|partition| (topic.clone(), partition)));
            }
            owned.extend(member.reading.owned());
        }
        owned.len() == wanted.len() && owned.into_iter().collect::<BTreeSet<_>>() == wanted
    }

    pub(super) fn settle(&mut self) -> Result<Seen> {
        let start = Instant::now();
        // Each member learns of a new topic at another time, and starts a rebalance of its own.
        let long_enough = Duration::from_millis(if self.has_new_partitions { 800 } else { 100 });
        self.has_new_partitions = false;
        let mut last = start;
        while last.elapsed() < long_enough {
            let mut any = false;
            for member in self.members.values() {
                any |= member.reading.poll();
                member.reading.consumer.context().check()?;
            }
            if any || !self.is_shared_out() || !self.is_stable()? {
                last = Instant::now();
            }
            if start.elapsed() > SETTLED {
                bail!("the group has not settled in {SETTLED:?}");
            }
        }
        let mut seen = Seen::default();
        for (who, member) in &self.members {
            let mut owned: Vec<_> = member.reading.owned();
            owned.sort();
            let owned = owned.iter().map(|of| text(&self.names, of)).collect();
            let calls = member.reading.diary(|diary| std::mem::take(&mut diary.calls));
            seen = seen.with("assignment", format!("m{who}"), owned);
            seen = settled(seen, *who, calls, member.is_eager);
        }
        Ok(balance(seen, self.members.values().map(|member| member.reading.owned().len())))
    }

    pub(super) fn deliver(&mut self) -> Result<Seen> {
        let readings: Vec<_> = self.members.values().map(|member| &member.reading).collect();
        drain(self.clients, &readings)?;
        let mut seen = Seen::default();
        for (who, member) in &self.members {
            for (of, records) in member.reading.diary(|diary| std::mem::take(&mut diary.delivered)) {
                let of = format!("m{who} {}", text(&self.names, &of));
                let records = records.into_iter().map(|(text, offset)| format!("{offset} {text}"));
                seen = seen.with("delivered", of, records.collect());
            }
        }
        Ok(seen)
    }

    pub(super) fn owner(&self, topic: &str, partition: u32) -> Option<&Member> {
        let of: Of = (self.names.full(topic), partition as i32);
        self.members.values().find(|member| member.reading.owns(&of))
    }

    pub(super) fn commit(&self, topic: &str, partition: u32, next: u64, metadata: &str) -> Result<Seen> {
        match self.owner(topic, partition) {
            Some(member) => self.commit_as(member, topic, partition, next, metadata),
            None => Ok(Seen::nothing()),
        }
    }

    pub(super) fn commit_by(&self, who: Who, topic: &str, partition: u32, next: u64) -> Result<Seen> {
        match self.members.get(&who) {
            Some(member) => self.commit_as(member, topic, partition, next, ""),
            None => Ok(Seen::nothing()),
        }
    }

    fn commit_as(
        &self,
        member: &Member,
        topic: &str,
        partition: u32,
        next: u64,
        metadata: &str,
    ) -> Result<Seen> {
        let list = self.list(topic, partition, Offset::Offset(i64::try_from(next)?))?;
        for mut of in list.elements() {
            of.set_metadata(metadata);
        }
        outcome(member.reading.consumer.commit(&list, CommitMode::Sync))
    }

    /// The group's committed offset of a partition, with its metadata.
    fn committed_offset(&mut self, of: &Of) -> Result<Option<(i64, String)>> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&of.0, of.1);
        let committed = self.observer()?.committed_offsets(list, PATIENCE)?;
        let elements = committed.elements();
        let found = elements.first().context("no offset came back")?;
        found.error()?;
        Ok(match found.offset() {
            Offset::Offset(offset) => Some((offset, found.metadata().to_string())),
            _ => None,
        })
    }

    pub(super) fn committed(&mut self, topic: &str, partition: u32) -> Result<Seen> {
        let of = (self.names.full(topic), i32::try_from(partition)?);
        Ok(Seen::outcome(match self.committed_offset(&of)? {
            Some((offset, metadata)) => format!("{offset} '{metadata}'"),
            None => "none".to_string(),
        }))
    }

    /// The lag of every partition that has a committed offset, as Kafka's tool computes it.
    pub(super) fn lag(&mut self) -> Result<Seen> {
        let topics: Vec<_> = self.topics.iter().map(|(topic, count)| (topic.clone(), *count)).collect();
        let mut seen = Seen::default();
        for (topic, count) in topics {
            for partition in 0..i32::try_from(count)? {
                let of = (topic.clone(), partition);
                if let Some((offset, _)) = self.committed_offset(&of)? {
                    let (_, end) = self.clients.watermarks(&of.0, of.1)?;
                    seen = seen.with("lag", text(&self.names, &of), vec![(end - offset).to_string()]);
                }
            }
        }
        Ok(seen)
    }

    pub(super) fn delete_group(&self) -> Result<Seen> {
        let group = self.names.group();
        let deleted = block_on(self.clients.admin.delete_groups(&[&group], &self.clients.options()));
        match deleted.and_then(first) {
            Ok(()) => Ok(Seen::outcome("done")),
            Err(error) => Ok(Seen::outcome(refusal(&error)?)),
        }
    }
}

/// Assignors sort members by this name: in the order in which they have joined.
fn client_id(who: Who) -> String {
    format!("m{who:03}")
}

/// The partitions of a `ConsumerProtocolAssignment` of Kafka's protocol, sorted. `None` if it is
/// none.
fn assigned(bytes: &[u8]) -> Option<Vec<Of>> {
    let mut bytes = bytes.get(2..)?;
    let mut partitions = Vec::new();
    for _ in 0..number(&mut bytes)? {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        bytes = rest;
        let topic = std::str::from_utf8(name).ok()?;
        for _ in 0..number(&mut bytes)? {
            partitions.push((topic.to_string(), number(&mut bytes)?));
        }
    }
    partitions.sort();
    Some(partitions)
}

fn number(bytes: &mut &[u8]) -> Option<i32> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(i32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read() {
        let bytes = [0, 1, 0, 0, 0, 1, 0, 2, b't', b'0', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1];
        assert_eq!(assigned(&bytes), Some(vec![("t0".to_string(), 1), ("t0".to_string(), 3)]));
        assert_eq!(assigned(&[0, 1, 0, 0, 0, 0]), Some(Vec::new()));
        assert_eq!(assigned(&bytes[..20]), None);
    }
}
