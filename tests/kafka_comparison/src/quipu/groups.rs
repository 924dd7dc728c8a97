//! Members of the group.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quipu::{
    Consumer, ConsumerBuilder, CooperativeStickyAssignor, Position, RangeAssignor, RebalanceEvent,
    RoundRobinAssignor, TopicName, TopicPartition,
};

use super::log::offset_reset;
use super::{Quipu, done, outcome, refusal};
use crate::history::{Reset, Strategy, Who};
use crate::seen::Seen;
use crate::system::{balance, refused, settled};

/// How long a member may stay away.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Member {
    pub(super) consumer: Consumer,
    is_eager: bool,
    diary: Arc<Mutex<Diary>>,
}

/// What a member has seen since it was asked last.
#[derive(Default)]
struct Diary {
    calls: Vec<String>,
    /// By partition, since the member got that.
    delivered: BTreeMap<String, Vec<String>>,
}

impl Member {
    fn diary<T>(&self, f: impl FnOnce(&mut Diary) -> T) -> T {
        f(&mut self.diary.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Quipu {
    pub(super) fn join(&mut self, who: Who, topics: &[String], strategy: Strategy, reset: Reset) -> Seen {
        let builder = self.broker.consumer(&self.names.group());
        let builder = builder.offset_reset(offset_reset(reset)).max_poll_interval(MAX_POLL_INTERVAL);
        let builder = with_strategy(builder, strategy);
        let diary = Arc::new(Mutex::new(Diary::default()));
        let (names, listener) = (self.names.clone(), diary.clone());
        let builder = builder.on_rebalance(move |rebalance| {
            let mut diary = listener.lock().unwrap_or_else(PoisonError::into_inner);
            let of = |of: &TopicPartition| format!("{}/{}", names.short(of.topic.as_str()), of.partition);
            let mut partitions: Vec<_> = rebalance.partitions().iter().map(of).collect();
            partitions.sort();
            for partition in &partitions {
                diary.delivered.remove(partition);
            }
            if !partitions.is_empty() {
                diary.calls.push(format!("{} {}", event(rebalance.event()), partitions.join(" ")));
            }
            Ok(())
        });
        let topics: Vec<_> = topics.iter().map(|topic| self.names.full(topic)).collect();
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        outcome(builder.subscribe(&topics).map(|consumer| {
            self.members.insert(who, Member { consumer, is_eager: strategy != Strategy::Sticky, diary });
        }))
    }

    pub(super) fn leave(&mut self, who: Who) -> Seen {
        let Some(Member { consumer, diary, .. }) = self.members.remove(&who) else { return Seen::nothing() };
        let closed = done(consumer.close());
        let calls = std::mem::take(&mut diary.lock().unwrap_or_else(PoisonError::into_inner).calls);
        Seen::outcome(closed).with("calls", format!("m{who}"), calls)
    }

    /// The member is not polled any more. The clock moves until it has lost its partitions.
    pub(super) fn die(&mut self, who: Who) -> Seen {
        let Some(member) = self.members.remove(&who) else { return Seen::nothing() };
        self.dead.push(member);
        for _ in 0..3 {
            self.clock.advance(MAX_POLL_INTERVAL / 2);
            self.poll_members();
        }
        Seen::nothing()
    }

    /// Polls each member once, and returns whether anything came of it.
    fn poll_members(&mut self) -> bool {
        let mut any = false;
        let members = std::mem::take(&mut self.members);
        let poll = |(who, mut member): (Who, Member)| {
            let before = member.diary(|diary| diary.calls.len());
            match member.consumer.poll(Duration::ZERO) {
                Ok(records) => {
                    any |= !records.is_empty();
                    for record in &records {
                        let of =
                            format!("{}/{}", self.names.short(record.topic().as_str()), record.partition());
                        let text = format!("{} {}", record.offset(), self.text(&record));
                        member.diary(|diary| diary.delivered.entry(of).or_default().push(text));
                    }
                }
                Err(error) => member.diary(|diary| diary.calls.push(refusal(&error))),
            }
            any |= member.diary(|diary| diary.calls.len()) > before;
            (who, member)
        };
        self.members = members.into_iter().map(poll).collect();
        any
    }

    fn poll_until_quiet(&mut self) {
        let mut quiet = 0;
        for _ in 0..1000 {
            quiet = if self.poll_members() { 0 } else { quiet + 1 };
            if quiet == 3 {
                return;
            }
        }
    }

    pub(super) fn settle(&mut self) -> Seen {
        self.poll_until_quiet();
        let mut seen = Seen::default();
        for (who, member) in &self.members {
            let of =
                |of: &TopicPartition| format!("{}/{}", self.names.short(of.topic.as_str()), of.partition);
            let owned = member.consumer.assignment().iter().map(of).collect();
            seen = seen.with("assignment", format!("m{who}"), owned);
            let calls = member.diary(|diary| std::mem::take(&mut diary.calls));
            seen = settled(seen, *who, calls, member.is_eager);
        }
        balance(seen, self.members.values().map(|member| member.consumer.assignment().len()))
    }

    pub(super) fn deliver(&mut self) -> Seen {
        self.poll_until_quiet();
        let mut seen = Seen::default();
        for (who, member) in &self.members {
            for (of, records) in member.diary(|diary| std::mem::take(&mut diary.delivered)) {
                seen = seen.with("delivered", format!("m{who} {of}"), records);
            }
        }
        seen
    }

    pub(super) fn next(&self, topic: &str, partition: u32, next: u64) -> quipu::Result<Position> {
        let partition = self.partition(topic, partition)?;
        let topic = partition.topic().clone();
        Ok(Position::new(topic, partition.id(), next, partition.epoch()))
    }

    pub(super) fn owner(&self, topic: &str, partition: u32) -> Option<&Member> {
        let topic = TopicName::new(&self.names.full(topic)).ok()?;
        let of = TopicPartition::new(topic, partition);
        self.members.values().find(|member| member.consumer.assignment().contains(&of))
    }

    pub(super) fn commit(&self, topic: &str, partition: u32, next: u64, metadata: &str) -> Seen {
        let Some(member) = self.owner(topic, partition) else { return Seen::nothing() };
        outcome(self.next(topic, partition, next).and_then(|next| {
            member.consumer.commit(member.consumer.offsets_at([&next]).metadata(metadata))
        }))
    }

    pub(super) fn commit_by(&self, who: Who, topic: &str, partition: u32, next: u64) -> Seen {
        let Some(member) = self.members.get(&who) else { return Seen::nothing() };
        let next = self.next(topic, partition, next);
        outcome(next.and_then(|next| member.consumer.commit(member.consumer.offsets_at([&next]))))
    }

    pub(super) fn committed(&self, topic: &str, partition: u32) -> Seen {
        let group = self.broker.group(&self.names.group());
        let committed = group.and_then(|group| group.committed(&self.names.full(topic), partition));
        Seen::outcome(match committed {
            Ok(Some(committed)) => format!("{} '{}'", committed.offset, committed.metadata),
            Ok(None) => "none".to_string(),
            Err(error) => refusal(&error),
        })
    }

    /// The lag of every partition that has a committed offset.
    pub(super) fn lag(&self) -> Seen {
        let description = match self.broker.group(&self.names.group()).and_then(|group| group.describe()) {
            Ok(description) => description,
            Err(error) => return Seen::outcome(refusal(&error)),
        };
        let mut seen = Seen::default();
        for of in description.partitions.iter().filter(|of| of.committed.is_some()) {
            let name = format!("{}/{}", self.names.short(of.topic.as_str()), of.partition);
            seen = seen.with("lag", name, vec![of.lag.to_string()]);
        }
        seen
    }

    pub(super) fn delete_group(&self) -> Seen {
        let group = self.broker.group(&self.names.group());
        Seen::outcome(match group.and_then(|group| group.delete()) {
            Ok(()) => "done".to_string(),
            Err(quipu::Error::UnknownTopic { .. }) => refused::NO_GROUP.to_string(),
            Err(error) => refusal(&error),
        })
    }
}

fn with_strategy(builder: ConsumerBuilder, strategy: Strategy) -> ConsumerBuilder {
    match strategy {
        Strategy::Range => builder.assignor(RangeAssignor),
        Strategy::RoundRobin => builder.assignor(RoundRobinAssignor),
        Strategy::Sticky => builder.assignor(CooperativeStickyAssignor),
    }
}

fn event(event: RebalanceEvent) -> &'static str {
    match event {
        RebalanceEvent::Assigned => "assigned",
        RebalanceEvent::Revoked => "revoked",
        RebalanceEvent::Lost => "lost",
        _ => "another event",
    }
}
