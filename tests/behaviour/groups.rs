//! Consumer groups: ownership of partitions, rebalances, fencing of commits (KIP-848, KIP-1251),
//! and where a group begins.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Assignor, AssignorMember, AssignorTopic, Broker, BrokerConfig, Consumer, ConsumerBuilder, Durability,
    Error, Offset, OffsetReset, Offsets, Outcome, Partition, Position, RangeAssignor, RebalanceEvent, Record,
    RejectReason, SkipReason, Start, Timestamp, TopicConfig, TopicPartition,
};

use crate::common::{open, send};

const NOW: Duration = Duration::ZERO;

type Place = (String, u32);

/// The calls of listeners, in order: member, event, partitions.
type Story = Arc<Mutex<Vec<(&'static str, RebalanceEvent, Vec<Place>)>>>;

fn broker() -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    (BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap(), clock)
}

fn topic(broker: &Broker, name: &str, partitions: u32) {
    broker.ensure_topic(name, TopicConfig::new().partitions(partitions)).unwrap();
}

fn partition(broker: &Broker, topic: &str, partition: u32) -> Partition {
    broker.topic(topic).unwrap().partition(partition).unwrap()
}

/// Puts `count` records into each partition.
fn fill(broker: &Broker, topic: &str, count: usize) {
    for partition in broker.topic(topic).unwrap().partitions() {
        for n in 0..count {
            send(broker, &partition, &format!("{}-{n}", partition.id())).unwrap();
        }
    }
}

fn owned(consumer: &Consumer) -> Vec<u32> {
    consumer.assignment().iter().map(|of| of.partition.get()).collect()
}

/// Polls each in turn until no assignment changes.
fn settle(consumers: &mut [&mut Consumer]) {
    for _ in 0..4 {
        for consumer in consumers.iter_mut() {
            poll(consumer);
        }
    }
}

/// Polls to run a rebalance; returned records are put back.
fn poll(consumer: &mut Consumer) {
    consumer.poll(NOW).unwrap();
    consumer.rewind();
}

fn values(records: &quipu::Records) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()).collect()
}

fn listening(builder: ConsumerBuilder, name: &'static str, story: &Story) -> ConsumerBuilder {
    let story = story.clone();
    builder.on_rebalance(move |rebalance| {
        let places =
            rebalance.partitions().iter().map(|of| (of.topic.to_string(), of.partition.get())).collect();
        story.lock().unwrap().push((name, rebalance.event(), places));
        Ok(())
    })
}

fn rejected(result: quipu::Result<()>) -> Vec<(u32, RejectReason)> {
    match result {
        Err(Error::CommitRejected { offenders, .. }) => {
            offenders.iter().map(|offender| (offender.partition.get(), offender.reason)).collect()
        }
        other => panic!("not rejected: {other:?}"),
    }
}

// -- one owner --

#[test]
fn each_partition_has_one_owner_and_a_surplus_member_is_idle() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    let mut c = broker.consumer("g").subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut b, &mut c]);
    let mut all = [owned(&a), owned(&b), owned(&c)].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1]);
    assert!(broker.group("g").unwrap().describe().unwrap().stable);
    // The idle one is a stand-by.
    drop(a);
    settle(&mut [&mut b, &mut c]);
    assert_eq!((owned(&b).len(), owned(&c).len()), (1, 1));
}

/// With members or with committed offsets alone, each once.
#[test]
fn groups_are_listed_by_name() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 1);
    let mut members = Vec::new();
    for name in ["c", "a", "d", "b", "e"] {
        let mut consumer = broker.consumer(name).subscribe(["t"]).unwrap();
        let records = consumer.poll(NOW).unwrap();
        consumer.commit(&records).unwrap();
        if name > "b" {
            members.push(consumer);
        }
    }
    assert_eq!(broker.groups().unwrap(), ["a", "b", "c", "d", "e"]);
    drop(members);
    assert_eq!(broker.groups().unwrap(), ["a", "b", "c", "d", "e"]);
    broker.group("c").unwrap().delete().unwrap();
    assert_eq!(broker.groups().unwrap(), ["a", "b", "d", "e"]);
}

#[test]
fn two_groups_are_independent() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let mut a = broker.consumer("a").subscribe(["t"]).unwrap();
    let mut b = broker.consumer("b").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    a.commit(&records).unwrap();
    assert_eq!((records.len(), b.poll(NOW).unwrap().len()), (3, 3));
    assert_eq!(b.committed("t", 0).unwrap(), None);
}

// -- which commits are accepted --

#[test]
fn a_zombie_commit_is_rejected_whole_and_names_the_partitions() {
    let (broker, clock) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 3);
    let builder = || broker.consumer("g").max_poll_interval(Duration::from_secs(10));
    let mut zombie = builder().subscribe(["t"]).unwrap();
    let records = zombie.poll(NOW).unwrap();
    assert_eq!(records.len(), 6);
    clock.advance(Duration::from_secs(10));
    let mut heir = builder().subscribe(["t"]).unwrap();
    let again = heir.poll(NOW).unwrap();
    assert_eq!(again.len(), 6, "delivered again, not skipped");
    assert_eq!(
        rejected(zombie.commit(&records)),
        [(0, RejectReason::NotAMember), (1, RejectReason::NotAMember)]
    );
    assert_eq!(heir.committed("t", 0).unwrap(), None, "nothing was stored");
    heir.commit(&again).unwrap();
    assert_eq!(heir.committed("t", 1).unwrap().unwrap().offset, 3);
}

/// KIP-1251: KIP-848 alone would fence this commit falsely.
#[test]
fn a_commit_with_the_epoch_before_an_unrelated_join_is_accepted() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 1);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    let stays: Vec<_> = records.iter().filter(|record| record.partition().get() == 0).collect();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut b]);
    assert_eq!(owned(&a), [0]);
    a.commit(stays[0]).unwrap();
    assert_eq!(a.committed("t", 0).unwrap().unwrap().offset, 1);
}

#[test]
fn a_commit_of_a_partition_that_moved_away_is_rejected_whole() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 1);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut b]);
    assert_eq!(rejected(a.commit(&records)), [(1, RejectReason::NotOwned)]);
    assert_eq!(a.committed("t", 0).unwrap(), None, "not even the part that is its own");
}

#[test]
fn a_commit_from_an_earlier_ownership_of_the_same_partition_is_rejected() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 3);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let stale = a.poll(NOW).unwrap();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut b]);
    assert_eq!((owned(&a), owned(&b)), (vec![0], vec![1]));
    drop(b);
    settle(&mut [&mut a]);
    assert_eq!(owned(&a), [0, 1]);
    assert_eq!(rejected(a.commit(&stale)), [(1, RejectReason::Stale)]);
    let kept: Vec<_> = stale.into_iter().filter(|record| record.partition().get() == 1).collect();
    assert_eq!(rejected(a.commit(&kept[0])), [(1, RejectReason::Stale)], "owned records remember it too");
}

#[test]
fn a_commit_without_membership_is_accepted_only_while_the_group_is_empty() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 3);
    let mut alone = broker.consumer("g").assign(&[partition(&broker, "t", 1)]).unwrap();
    let records = alone.poll(NOW).unwrap();
    assert_eq!(values(&records), ["1-0", "1-1", "1-2"]);
    alone.commit(&records).unwrap();
    let member = broker.consumer("g").subscribe(["t"]).unwrap();
    assert_eq!(rejected(alone.commit(&records)), [(1, RejectReason::NotAMember)]);
    drop(member);
    alone.commit(&records).unwrap();
    drop(alone);
    let mut member = broker.consumer("g").subscribe(["t"]).unwrap();
    assert_eq!(values(&member.poll(NOW).unwrap()), ["0-0", "0-1", "0-2"], "it continues after that commit");
}

// -- liveness --

#[test]
fn a_dropped_consumer_leaves_at_once_and_a_stuck_one_after_max_poll_interval() {
    let (broker, clock) = broker();
    topic(&broker, "t", 2);
    let interval = Duration::from_secs(60);
    let builder = || broker.consumer("g").max_poll_interval(interval);
    let mut a = builder().subscribe(["t"]).unwrap();
    let mut b = builder().subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut b]);
    drop(b);
    poll(&mut a);
    assert_eq!(owned(&a), [0, 1], "at once");
    let mut stuck = builder().subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut stuck]);
    clock.advance(interval - Duration::from_nanos(1));
    poll(&mut a);
    assert_eq!(owned(&a).len(), 1, "not a moment too early");
    clock.advance(Duration::from_nanos(1));
    poll(&mut a);
    assert_eq!(owned(&a), [0, 1]);
    assert_eq!(broker.group("g").unwrap().describe().unwrap().members.len(), 1);
    // It finds out when it polls again, and is a member again.
    settle(&mut [&mut stuck, &mut a]);
    assert_eq!((owned(&a).len(), owned(&stuck).len()), (1, 1));
}

#[test]
fn a_member_that_polls_in_time_stays() {
    let (broker, clock) = broker();
    topic(&broker, "t", 1);
    let mut a = broker.consumer("g").max_poll_interval(Duration::from_secs(10)).subscribe(["t"]).unwrap();
    let mut generations = Vec::new();
    for _ in 0..10 {
        a.poll(NOW).unwrap();
        clock.advance(Duration::from_secs(9));
        generations.push(broker.group("g").unwrap().describe().unwrap().generation);
    }
    assert_eq!(generations, [1; 10]);
}

// -- rebalances and listeners (Kafka's `ConsumerRebalanceListener`) --

#[test]
fn revoked_comes_before_assigned_and_each_rebalance_calls_once() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    let story = Story::default();
    let mut a = listening(broker.consumer("g"), "a", &story).subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    a.poll(NOW).unwrap();
    let mut b = listening(broker.consumer("g"), "b", &story).subscribe(["t"]).unwrap();
    b.poll(NOW).unwrap();
    b.poll(NOW).unwrap();
    assert_eq!(owned(&b), Vec::<u32>::new(), "not before the other has given it up");
    a.poll(NOW).unwrap();
    b.poll(NOW).unwrap();
    a.poll(NOW).unwrap();
    let place = |p: u32| ("t".to_string(), p);
    use RebalanceEvent::{Assigned, Revoked};
    assert_eq!(
        *story.lock().unwrap(),
        [
            ("a", Assigned, vec![place(0), place(1)]),
            ("a", Revoked, vec![place(1)]),
            ("a", Assigned, vec![]), // called with an empty set
            ("b", Assigned, vec![place(1)]),
        ]
    );
    story.lock().unwrap().clear();
    a.close().unwrap();
    b.poll(NOW).unwrap();
    assert_eq!(*story.lock().unwrap(), [("a", Revoked, vec![place(0)]), ("b", Assigned, vec![place(0)])]);
}

#[test]
fn assigned_is_called_for_each_added_set_and_once_for_an_empty_one() {
    let (broker, _) = broker();
    topic(&broker, "t", 6);
    let story = Story::default();
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    settle(&mut [&mut a, &mut b]);
    let mut c = listening(broker.consumer("g"), "c", &story).subscribe(["t"]).unwrap();
    poll(&mut c);
    assert!(story.lock().unwrap().is_empty(), "the rebalance is not over for it");
    for other in [&mut a, &mut b] {
        poll(other);
        poll(&mut c);
        poll(&mut c);
    }
    let heard: Vec<_> =
        story.lock().unwrap().iter().map(|(_, event, places)| (*event, places.len())).collect();
    assert_eq!(heard, [(RebalanceEvent::Assigned, 1), (RebalanceEvent::Assigned, 1)]);
    // Nothing comes to it.
    story.lock().unwrap().clear();
    topic(&broker, "t", 7);
    for _ in 0..3 {
        settle(&mut [&mut a, &mut b, &mut c]);
    }
    let heard: Vec<_> =
        story.lock().unwrap().iter().map(|(_, event, places)| (*event, places.len())).collect();
    assert_eq!(heard, [(RebalanceEvent::Assigned, 0)], "{:?}", [owned(&a), owned(&b), owned(&c)]);
}

#[test]
fn expelled_member_gets_lost_not_revoked_for_its_partitions() {
    let (broker, clock) = broker();
    topic(&broker, "t", 1);
    let story = Story::default();
    let interval = Duration::from_secs(10);
    let builder = |name| listening(broker.consumer("g"), name, &story).max_poll_interval(interval);
    let mut a = builder("a").subscribe(["t"]).unwrap();
    let mut idle = builder("idle").subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    idle.poll(NOW).unwrap();
    clock.advance(interval);
    story.lock().unwrap().clear();
    a.poll(NOW).unwrap();
    idle.poll(NOW).unwrap();
    use RebalanceEvent::{Assigned, Lost};
    let place = ("t".to_string(), 0);
    assert_eq!(
        *story.lock().unwrap(),
        [("a", Lost, vec![place.clone()]), ("a", Assigned, vec![place]), ("idle", Assigned, vec![])]
    );
}

/// A member that closes after it was expelled gets `lost`, as it would in `poll`.
#[test]
fn expelled_member_gets_lost_when_it_closes() {
    let (broker, clock) = broker();
    topic(&broker, "t", 2);
    let story = Story::default();
    let builder = || broker.consumer("g").max_poll_interval(Duration::from_secs(10));
    let mut a = listening(builder(), "a", &story).subscribe(["t"]).unwrap();
    poll(&mut a);
    clock.advance(Duration::from_secs(10));
    let mut heir = builder().subscribe(["t"]).unwrap();
    poll(&mut heir);
    story.lock().unwrap().clear();
    a.close().unwrap();
    let both = vec![("t".to_string(), 0), ("t".to_string(), 1)];
    assert_eq!(*story.lock().unwrap(), [("a", RebalanceEvent::Lost, both)]);
    assert_eq!(owned(&heir), [0, 1]);
    // A member without partitions gets no `lost`.
    let idle = listening(builder(), "idle", &story).subscribe(["t"]).unwrap();
    clock.advance(Duration::from_secs(10));
    idle.close().unwrap();
    assert_eq!(story.lock().unwrap().len(), 1);
}

/// Every poll returns the error: the first one must not hide later ones.
#[test]
fn a_member_that_cannot_rejoin_returns_an_error_until_it_can() {
    let (broker, clock) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 1);
    let builder = || broker.consumer("g").max_poll_interval(Duration::from_secs(10));
    let mut a = builder().subscribe(["t"]).unwrap();
    poll(&mut a);
    clock.advance(Duration::from_secs(10));
    let other = builder().assignor(RangeAssignor).subscribe(["t"]).unwrap();
    for _ in 0..3 {
        assert!(matches!(a.poll(NOW), Err(Error::InvalidConfig { field: "assignor", .. })));
    }
    drop(other);
    assert_eq!(a.poll(NOW).unwrap().len(), 1);
}

/// Assigns like the range assignor, unless a test makes it fail.
#[derive(Clone, Debug, Default)]
struct Moody(Arc<AtomicU32>);

impl Moody {
    const FAILS: u32 = 1;
    const PANICS: u32 = 2;

    fn becomes(&self, mood: u32) {
        self.0.store(mood, Ordering::Relaxed);
    }
}

impl Assignor for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        match self.0.load(Ordering::Relaxed) {
            Self::FAILS => Vec::new(),
            Self::PANICS => panic!("this assignor panics on purpose"),
            _ => RangeAssignor.assign(members, topics),
        }
    }
}

fn is_invalid_assignment<T>(result: &quipu::Result<T>) -> bool {
    matches!(result, Err(Error::InvalidAssignment { assignor, .. }) if assignor == "moody")
}

#[test]
fn an_assignor_error_when_a_member_leaves_is_reported_to_the_others_and_the_member_gets_lost() {
    for mood in [Moody::FAILS, Moody::PANICS] {
        let (broker, clock) = broker();
        topic(&broker, "t", 2);
        fill(&broker, "t", 1);
        let (moody, story) = (Moody::default(), Story::default());
        let builder = |name| {
            let builder = broker.consumer("g").assignor(moody.clone());
            listening(builder, name, &story).max_poll_interval(Duration::from_secs(10))
        };
        let mut a = builder("a").subscribe(["t"]).unwrap();
        let mut b = builder("b").subscribe(["t"]).unwrap();
        settle(&mut [&mut a, &mut b]);
        assert_eq!((owned(&a), owned(&b)), (vec![0], vec![1]));
        moody.becomes(mood);
        clock.advance(Duration::from_secs(5));
        poll(&mut a);
        story.lock().unwrap().clear();
        clock.advance(Duration::from_secs(5));
        // Once; then it reads its partitions again.
        assert!(is_invalid_assignment(&a.poll(NOW)), "one member must get the error");
        assert_eq!(a.poll(NOW).unwrap().len(), 1);
        assert!(is_invalid_assignment(&b.poll(NOW)), "it cannot rejoin");
        assert_eq!(*story.lock().unwrap(), [("b", RebalanceEvent::Lost, vec![("t".to_string(), 1)])]);
        assert!(!broker.group("g").unwrap().describe().unwrap().stable);
        moody.becomes(0);
        settle(&mut [&mut b, &mut a]);
        assert_eq!((owned(&a), owned(&b)), (vec![0], vec![1]));

        // So when the topics change.
        moody.becomes(mood);
        topic(&broker, "t", 3);
        assert!(is_invalid_assignment(&a.poll(NOW)));
        assert!(is_invalid_assignment(&b.poll(NOW)));
        poll(&mut a);
    }
}

#[test]
fn a_consumer_that_the_assignor_refuses_is_no_member() {
    for mood in [Moody::FAILS, Moody::PANICS] {
        let (broker, _) = broker();
        topic(&broker, "t", 1);
        let moody = Moody::default();
        moody.becomes(mood);
        let joined = broker.consumer("g").assignor(moody.clone()).subscribe(["t"]);
        assert!(is_invalid_assignment(&joined));
        let description = broker.group("g").unwrap().describe().unwrap();
        assert!(description.members.is_empty(), "{description:?}");
        broker.consumer("g").subscribe(["t"]).unwrap();
    }
}

#[test]
fn a_listener_error_is_returned_by_poll_and_does_not_change_the_assignment() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 1);
    let mut a = broker.consumer("g").on_rebalance(|_| Err(Error::listener("no"))).subscribe(["t"]).unwrap();
    assert!(matches!(a.poll(NOW), Err(Error::Listener { .. })));
    assert_eq!(owned(&a), [0]);
    assert_eq!(a.poll(NOW).unwrap().len(), 1);
}

#[test]
fn partitions_that_stay_are_read_during_a_rebalance() {
    let (broker, _) = broker();
    topic(&broker, "t", 4);
    fill(&broker, "t", 2);
    let mut a = broker.consumer("g").max_records(1).subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    a.pause("t", 0).unwrap();
    let before = a.position("t", 1).unwrap();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    assert_eq!(records.len(), 1, "the poll that gives up delivers too");
    assert_eq!(owned(&a), [0, 1]);
    assert!(a.position("t", 1).unwrap().offset >= before.offset);
    assert_eq!(a.paused().len(), 1, "and stays paused where it was");
    b.poll(NOW).unwrap();
    assert_eq!(owned(&b), [2, 3]);
}

#[test]
fn a_commit_in_revoked_is_accepted_and_the_next_owner_starts_there() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 3);
    let mut a = broker
        .consumer("g")
        .on_rebalance(|rebalance| {
            if rebalance.event() == RebalanceEvent::Revoked {
                rebalance.commit(rebalance.offsets_at(rebalance.positions()))?;
            }
            Ok(())
        })
        .subscribe(["t"])
        .unwrap();
    assert_eq!(a.poll(NOW).unwrap().len(), 6);
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    assert!(b.poll(NOW).unwrap().is_empty());
    assert_eq!(b.position("t", 1).unwrap().offset, 3);
    assert_eq!(b.committed("t", 0).unwrap(), None, "only the revoked partitions");
}

#[test]
fn a_listener_may_seek_in_assigned_partitions() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 5);
    let mut a = broker
        .consumer("g")
        .on_rebalance(|rebalance| {
            for mut position in rebalance.positions() {
                position.offset = Offset::new(3);
                rebalance.seek(&position)?;
            }
            Ok(())
        })
        .subscribe(["t"])
        .unwrap();
    assert_eq!(values(&a.poll(NOW).unwrap()), ["0-3", "0-4"]);
}

// -- at least once --

#[test]
fn uncommitted_records_are_delivered_again_and_committed_ones_are_not() {
    let disk = Disk::new();
    for committed in [false, true] {
        let broker = open(&disk).unwrap();
        topic(&broker, "t", 1);
        let before = partition(&broker, "t", 0).bounds().unwrap().log_end;
        fill(&broker, "t", 3);
        let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
        let records = a.poll(NOW).unwrap();
        assert!(records.len() >= 3);
        if committed {
            a.commit(&records).unwrap();
        }
        std::mem::forget((a, broker)); // a kill: nothing is closed
        disk.crash(Survive::Everything);
        let broker = open(&disk).unwrap();
        let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
        let again = b.poll(NOW).unwrap();
        if committed {
            assert!(again.is_empty());
        } else {
            assert_eq!((again.len(), before.get()), (3, 0));
        }
        drop((b, broker));
    }
}

#[test]
fn automatic_commits_cover_records_returned_by_earlier_polls() {
    let (broker, clock) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 4);
    let mut a =
        broker.consumer("g").max_records(2).auto_commit(Duration::from_secs(5)).subscribe(["t"]).unwrap();
    let committed = |a: &Consumer| a.committed("t", 0).unwrap().map(|c| c.offset.get());
    a.poll(NOW).unwrap();
    assert_eq!(committed(&a), None);
    clock.advance(Duration::from_secs(5));
    assert_eq!(committed(&a), None, "inside the next poll, not before");
    a.poll(NOW).unwrap();
    assert_eq!(committed(&a), Some(2), "not what this poll answers with");
    a.close().unwrap();
    assert_eq!(broker.group("g").unwrap().committed("t", 0).unwrap().unwrap().offset, 4, "closing commits");
}

#[test]
fn automatic_commits_come_before_revocation_and_a_drop_commits_nothing() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 2);
    let auto = || broker.consumer("g").auto_commit(Duration::from_secs(5));
    let mut a = auto().subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    assert!(b.poll(NOW).unwrap().is_empty(), "the new owner continues after it");
    assert_eq!(owned(&b), [1]);
    drop((a, b));
    topic(&broker, "u", 1);
    fill(&broker, "u", 2);
    let mut c = broker.consumer("h").auto_commit(Duration::from_secs(5)).subscribe(["u"]).unwrap();
    c.poll(NOW).unwrap();
    drop(c);
    assert_eq!(broker.group("h").unwrap().committed("u", 0).unwrap(), None);
}

/// Deleted and truncated records cannot be committed; the other partitions are.
#[test]
fn automatic_commits_leave_out_deleted_or_truncated_partitions() {
    let (broker, _) = broker();
    for name in ["cut", "gone", "kept"] {
        topic(&broker, name, 1);
        fill(&broker, name, 3);
    }
    let mut a = broker.consumer("g").auto_commit(NOW).subscribe(["*"]).unwrap();
    assert_eq!(a.poll(NOW).unwrap().len(), 9);
    broker.delete_topic("gone").unwrap();
    partition(&broker, "cut", 0).truncate_to(Offset::new(1)).unwrap();
    // Appends continue at the truncation.
    fill(&broker, "cut", 1);
    let records = a.poll(NOW);
    assert!(matches!(records, Ok(_) | Err(Error::Truncated { .. })), "{records:?}");
    assert_eq!(a.committed("kept", 0).unwrap().unwrap().offset, 3);
    assert_eq!(owned(&a).len(), 2);
}

#[test]
fn a_committed_offset_is_the_next_offset_to_read() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    let first = records.iter().next().unwrap();
    a.commit(first).unwrap();
    assert_eq!(a.committed("t", 0).unwrap().unwrap().offset, 1);
    a.commit(a.offsets_at([&first.position()])).unwrap();
    assert_eq!(a.committed("t", 0).unwrap().unwrap().offset, 0);
    drop(a);
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    assert_eq!(values(&b.poll(NOW).unwrap()), ["0-0", "0-1", "0-2"]);
}

// -- the bounds of a commit, resets, manual assignment --

#[test]
fn a_commit_beyond_the_log_end_is_rejected() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    let mut position = a.position("t", 0).unwrap();
    a.commit(a.offsets_at([&position])).unwrap();
    position.offset = Offset::new(4);
    let beyond = rejected(a.commit(a.offsets_at([&position])));
    assert!(matches!(beyond[..], [(0, RejectReason::BeyondEnd { end, .. })] if end == 3), "{beyond:?}");
}

#[test]
fn the_owner_may_commit_backwards_and_an_empty_group_can_be_reset() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 10);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    a.commit(&records).unwrap();
    let third = records.iter().nth(2).unwrap();
    a.commit(third).unwrap();
    a.rewind();
    assert_eq!(a.poll(NOW).unwrap().iter().next().unwrap().offset(), 3);
    let group = broker.group("g").unwrap();
    assert!(matches!(group.reset("t", Start::Beginning), Err(Error::GroupNotEmpty { .. })));
    assert!(matches!(group.delete(), Err(Error::GroupNotEmpty { .. })));
    a.close().unwrap();
    let reset = |to: Start| group.reset("t", to).unwrap()[0].offset.get();
    let shift = |by: i64| group.shift("t", by).unwrap()[0].offset.get();
    assert_eq!(reset(Start::Beginning), 0);
    assert_eq!(shift(4), 4);
    assert_eq!(shift(-1), 3);
    assert_eq!(shift(-10), 0, "no further than to the log start");
    assert_eq!(reset(Start::End), 10);
    assert_eq!(shift(10), 10, "no further than to the end");
    assert_eq!(reset(Start::At(Offset::new(7))), 7);
    assert_eq!(reset(Start::At(Offset::new(11))), 10);
    assert_eq!(shift(i64::MIN), 0);
    assert_eq!(shift(i64::MAX), 10);
    let time = partition(&broker, "t", 0).read(Start::At(Offset::new(5)), 1).unwrap();
    let time = time.iter().next().unwrap().timestamp();
    assert_eq!(reset(Start::Time(time)), 0, "all have the same time here");
    assert_eq!(group.lag().unwrap(), 10);
    group.delete().unwrap();
    assert_eq!(group.committed("t", 0).unwrap(), None);
    assert!(broker.groups().unwrap().is_empty());
}

#[test]
fn a_shift_counts_from_where_the_group_has_started_if_it_has_committed_nothing() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 10);
    let mut a = broker.consumer("g").offset_reset(OffsetReset::End).subscribe(["t"]).unwrap();
    assert!(a.poll(NOW).unwrap().is_empty());
    fill(&broker, "t", 10);
    let mut position = a.position("t", 1).unwrap();
    position.offset = Offset::new(12);
    a.commit(a.offsets_at([&position])).unwrap();
    a.close().unwrap();
    let group = broker.group("g").unwrap();
    let offsets =
        |by: i64| -> Vec<u64> { group.shift("t", by).unwrap().iter().map(|at| at.offset.get()).collect() };
    assert_eq!(offsets(-3), [7, 9]);
    assert_eq!(offsets(5), [12, 14], "from the commits that the reset has made");
    // Without a start it counts from the log start.
    topic(&broker, "u", 1);
    fill(&broker, "u", 10);
    assert_eq!(group.shift("u", 4).unwrap()[0].offset, 4);
}

#[test]
fn subscribe_and_assign_exclude_each_other_and_bad_names_are_refused() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    let unknown = broker.consumer("g").subscribe(["not a name"]).unwrap_err();
    assert!(matches!(unknown, Error::InvalidTopicName { .. }));
    for name in ["", "a\nb", &"x".repeat(250)] {
        let bad = broker.consumer(name).subscribe(["t"]).unwrap_err();
        assert!(matches!(bad, Error::InvalidGroupName { .. }), "{name:?}");
        assert!(matches!(broker.group(name), Err(Error::InvalidGroupName { .. })));
    }
    let none = broker.consumer("g").subscribe(&[] as &[&str]).unwrap_err();
    assert!(matches!(none, Error::InvalidConfig { field: "topics", .. }));
    let p = partition(&broker, "t", 0);
    let twice = broker.consumer("g").assign(&[p.clone(), p]).unwrap_err();
    assert!(matches!(twice, Error::InvalidConfig { field: "partitions", .. }));
    let _a = broker.consumer("g").subscribe(["t"]).unwrap();
    let other = broker.consumer("g").assignor(RangeAssignor).subscribe(["t"]).unwrap_err();
    assert!(matches!(other, Error::InvalidConfig { field: "assignor", .. }));
}

// -- durability of commits --

#[test]
fn committed_offsets_never_expire_and_membership_is_not_stored() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let open = || BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let broker = open();
    topic(&broker, "t", 2);
    fill(&broker, "t", 3);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    a.commit(Offsets::from(&records).metadata("row 17")).unwrap();
    drop(a);
    broker.close().unwrap();
    drop(broker);
    for _ in 0..3 {
        let broker = open();
        clock.advance(Duration::from_secs(3600 * 24 * 365));
        broker.maintain().unwrap();
        let description = broker.group("g").unwrap().describe().unwrap();
        assert!(description.members.is_empty());
        let committed: Vec<_> =
            description.partitions.iter().map(|p| p.committed.clone().unwrap().offset.get()).collect();
        assert_eq!((committed, description.partitions[0].lag), (vec![3, 3], 0));
        assert_eq!(description.partitions[1].committed.as_ref().unwrap().metadata, "row 17");
        assert_eq!(broker.groups().unwrap().len(), 1);
    }
}

#[test]
fn a_commit_has_the_durability_of_the_broker() {
    for (durability, survive, expected) in [
        (Durability::Sync, Survive::Synced, Some(3)),
        (Durability::Os, Survive::Everything, Some(3)),
        (Durability::Os, Survive::Synced, None),
    ] {
        let disk = Disk::new();
        let config = || BrokerConfig::new().clock(ManualClock::new()).durability(durability);
        let broker = config().on_disk(&disk).unwrap();
        topic(&broker, "t", 1);
        fill(&broker, "t", 3);
        let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
        broker.sync().unwrap();
        let records = a.poll(NOW).unwrap();
        a.commit(&records).unwrap();
        std::mem::forget((a, broker));
        disk.crash(survive);
        let broker = config().on_disk(&disk).unwrap();
        let committed = broker.group("g").unwrap().committed("t", 0).unwrap();
        assert_eq!(committed.map(|c| c.offset.get()), expected, "{durability:?} {survive:?}");
    }
}

/// The commit was synced, its records were not. Member numbers start over with
/// each opening; records polled under an earlier one belong to no member.
#[test]
fn a_commit_of_records_polled_before_a_restart_is_rejected() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let mut before = broker.consumer("g").max_records(2).subscribe(["t"]).unwrap();
    let old = before.poll(NOW).unwrap();
    let one = old.iter().next().unwrap().into_owned();
    let broker = disk
        .crash_and_reopen(Survive::Everything, BrokerConfig::new().clock(ManualClock::new()).seed(1))
        .unwrap();
    let mut now = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = now.poll(NOW).unwrap();
    now.commit(&records).unwrap();
    assert_eq!(rejected(now.commit(&old)), [(0, RejectReason::NotAMember)]);
    assert_eq!(rejected(now.commit(&one)), [(0, RejectReason::NotAMember)]);
    assert_eq!(now.committed("t", 0).unwrap().unwrap().offset, 3);
    now.commit(records.iter().next().unwrap()).unwrap();
}

#[test]
fn a_commit_of_records_that_a_power_loss_took_is_set_back_and_reported() {
    let disk = Disk::new();
    let config = || BrokerConfig::new().clock(ManualClock::new()).durability(Durability::Sync);
    let broker = config().on_disk(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    let t = partition(&broker, "t", 0);
    send(&broker, &t, "kept").unwrap();
    broker.sync().unwrap();
    fill(&broker, "t", 4);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    a.commit(&records).unwrap();
    std::mem::forget((a, broker, t));
    disk.crash(Survive::Synced);
    let broker = config().on_disk(&disk).unwrap();
    let clamped = &broker.open_report().clamped;
    assert_eq!(clamped.len(), 1);
    assert_eq!((clamped[0].from.get(), clamped[0].to.get()), (5, 1));
    fill(&broker, "t", 1);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    assert_eq!(values(&a.poll(NOW).unwrap()), ["0-0"], "what comes there now is not skipped");
    // And that lasts, too.
    std::mem::forget((a, broker));
    disk.crash(Survive::Synced);
    let broker = config().on_disk(&disk).unwrap();
    assert!(broker.open_report().clamped.is_empty());
    assert_eq!(broker.group("g").unwrap().committed("t", 0).unwrap().unwrap().offset, 1);
}

// -- rebalancing for other reasons --

#[test]
fn a_topic_that_grows_and_one_that_matches_a_pattern_rebalance() {
    let (broker, _) = broker();
    topic(&broker, "orders.eu", 1);
    topic(&broker, "other", 1);
    let mut a = broker.consumer("g").subscribe(["orders.*"]).unwrap();
    poll(&mut a);
    assert_eq!(a.assignment().len(), 1);
    topic(&broker, "orders.us", 2);
    fill(&broker, "orders.us", 1);
    assert_eq!(a.poll(NOW).unwrap().len(), 2);
    assert_eq!(a.assignment().len(), 3);
    topic(&broker, "orders.eu", 3);
    poll(&mut a);
    assert_eq!(a.assignment().len(), 5);
    broker.delete_topic("orders.us").unwrap();
    a.poll(NOW).unwrap();
    assert_eq!(a.assignment().len(), 3);
}

/// A thread with an older topic list must not overwrite a newer assignment.
#[test]
fn topics_created_at_the_same_time_are_all_assigned() {
    let (broker, _) = broker();
    let mut a = broker.consumer("g").subscribe(["*"]).unwrap();
    for round in 0..1500 {
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for n in 0..4 {
                let (broker, barrier) = (&broker, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    topic(broker, &format!("t{n}"), 1);
                });
            }
        });
        poll(&mut a);
        assert_eq!(a.assignment().len(), 4, "round {round}");
        for n in 0..4 {
            broker.delete_topic(&format!("t{n}")).unwrap();
        }
    }
}

/// Topics of a day each: the groups' offsets are removed with them.
#[test]
fn committed_offsets_of_a_deleted_topic_are_removed() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    topic(&broker, "stays", 1);
    for (group, topics) in [("g", vec!["day"]), ("h", vec!["day", "stays"])] {
        for day in 0..3 {
            topic(&broker, "day", 2);
            fill(&broker, "day", 1);
            let mut consumer = broker.consumer(group).subscribe(&topics).unwrap();
            let records = consumer.poll(NOW).unwrap();
            assert_eq!(records.len(), 2, "{group}, day {day}");
            consumer.commit(&records).unwrap();
            drop(consumer);
            assert!(broker.groups().unwrap().iter().any(|name| *name == group));
            broker.delete_topic("day").unwrap();
        }
    }
    assert_eq!(broker.groups().unwrap(), ["h"], "that one has subscribed to what stays");
    drop(broker);
    let broker = open(&disk).unwrap();
    assert_eq!(broker.groups().unwrap(), ["h"]);
    broker.delete_topic("stays").unwrap();
    assert!(broker.groups().unwrap().is_empty());
}

#[test]
fn a_recreated_topic_is_read_from_its_beginning() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let mut a = broker.consumer("g").subscribe(["t*"]).unwrap();
    let records = a.poll(NOW).unwrap();
    a.commit(&records).unwrap();
    broker.delete_topic("t").unwrap();
    topic(&broker, "t", 1);
    fill(&broker, "t", 2);
    assert_eq!(values(&a.poll(NOW).unwrap()), ["0-0", "0-1"]);
    assert_eq!(rejected(a.commit(&records)), [(0, RejectReason::UnknownPartition)]);
}

// -- where a group begins --

#[test]
fn without_a_committed_offset_the_reset_policy_decides() {
    let (broker, _) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 2);
    let first = |group: &str, reset| {
        let mut a = broker.consumer(group).offset_reset(reset).subscribe(["t"]).unwrap();
        a.poll(NOW).map(|records| records.len())
    };
    assert_eq!(first("earliest", OffsetReset::Beginning).unwrap(), 4);
    assert_eq!(first("nearest", OffsetReset::Nearest).unwrap(), 4);
    assert_eq!(first("latest", OffsetReset::End).unwrap(), 0);
    match first("fail", OffsetReset::Fail) {
        Err(Error::NoCommittedOffset { partitions, .. }) => {
            assert_eq!(
                partitions.iter().map(|of| of.partition.get()).collect::<Vec<_>>(),
                [0, 1],
                "all of them"
            )
        }
        other => panic!("{other:?}"),
    }
    let mut a = broker.consumer("sought").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
    assert!(a.poll(NOW).is_err());
    a.seek_all(Start::At(Offset::new(1))).unwrap();
    assert_eq!(a.poll(NOW).unwrap().len(), 2);
}

#[test]
fn partitions_added_after_the_group_subscribed_are_read_from_their_beginning() {
    let disk = Disk::new();
    for reset in [OffsetReset::End, OffsetReset::Fail] {
        let name = format!("t-{reset:?}");
        let broker = open(&disk).unwrap();
        topic(&broker, &name, 1);
        fill(&broker, &name, 1);
        let subscribe = |broker: &Broker| {
            broker.consumer("g").offset_reset(reset).subscribe([&*format!("{name}*")]).unwrap()
        };
        let mut a = subscribe(&broker);
        match a.poll(NOW) {
            Ok(records) => assert!(records.is_empty(), "{reset:?}"),
            Err(error) => assert!(matches!(error, Error::NoCommittedOffset { .. })),
        }
        a.seek_all(Start::End).unwrap();
        topic(&broker, &name, 2);
        topic(&broker, &format!("{name}-new"), 1);
        send(&broker, &partition(&broker, &name, 1), "added").unwrap();
        send(&broker, &partition(&broker, &format!("{name}-new"), 0), "new").unwrap();
        let mut seen = values(&a.poll(NOW).unwrap());
        seen.sort();
        assert_eq!(seen, ["added", "new"], "{reset:?}");
        drop((a, broker));
        // Nothing was committed, and the group still knows which partitions are new to it.
        let broker = open(&disk).unwrap();
        let mut a = subscribe(&broker);
        let _ = a.poll(NOW);
        a.seek_all(Start::End).unwrap();
        a.rewind();
        assert_eq!(a.position(&name, 1).unwrap().offset, 0);
        drop((a, broker));
    }
}

/// A consumer that gets only partitions new to its group, after its first poll.
fn latest(broker: &Broker, topics: &str) -> Consumer {
    broker.consumer("g").offset_reset(OffsetReset::End).subscribe([topics]).unwrap()
}

#[test]
fn partitions_new_to_the_group_stay_new_after_a_power_loss() {
    for pattern in ["t", "t*"] {
        let disk = Disk::new();
        let broker = synced(&disk);
        topic(&broker, "t", 1);
        fill(&broker, "t", 1);
        let mut a = latest(&broker, pattern);
        assert!(a.poll(NOW).unwrap().is_empty());
        topic(&broker, "t", 2);
        send(&broker, &partition(&broker, "t", 1), "added").unwrap();
        disk.crash(Survive::Synced);
        let broker = synced(&disk);
        assert_eq!(values(&latest(&broker, pattern).poll(NOW).unwrap()), ["added"], "{pattern}");
    }
}

#[test]
fn a_topic_created_while_the_group_is_empty_is_new_to_it() {
    for restart in [false, true] {
        let disk = Disk::new();
        let mut broker = synced(&disk);
        topic(&broker, "orders.eu", 1);
        fill(&broker, "orders.eu", 1);
        topic(&broker, "other", 1);
        fill(&broker, "other", 1);
        assert!(latest(&broker, "orders.*").poll(NOW).unwrap().is_empty());
        topic(&broker, "orders.us", 2);
        fill(&broker, "orders.us", 1);
        if restart {
            disk.crash(Survive::Synced);
            broker = synced(&disk);
        }
        let mut seen = values(&latest(&broker, "orders.*").poll(NOW).unwrap());
        seen.sort();
        assert_eq!(seen, ["0-0", "1-0"], "restart: {restart}");
        // A first subscription alone does not make a partition new to the group.
        assert!(latest(&broker, "oth*").poll(NOW).unwrap().is_empty());
        // Nor is anything to a group that has been deleted.
        broker.group("g").unwrap().delete().unwrap();
        assert!(latest(&broker, "orders.*").poll(NOW).unwrap().is_empty());
        assert_eq!(broker.groups().unwrap(), ["g"]);
        broker.group("g").unwrap().delete().unwrap();
        assert!(broker.groups().unwrap().is_empty());
    }
}

/// A poll returns the failure of the note, and the next one writes it before any record is skipped.
#[test]
fn a_topic_created_on_a_full_disk_is_still_new_to_the_group() {
    let mut told = 0;
    for nth in 1..20 {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        topic(&broker, "t", 1);
        let mut a = latest(&broker, "t*");
        a.poll(NOW).unwrap();
        disk.fail(Op::Write, nth, ErrorKind::StorageFull);
        let made = broker.create_topic("t2", TopicConfig::new());
        disk.clear_faults();
        if made.is_err() {
            continue;
        }
        fill(&broker, "t2", 1);
        let polled = a.poll(NOW).or_else(|error| {
            assert!(matches!(error, Error::DiskFull { .. }), "{error}");
            told += 1;
            a.poll(NOW)
        });
        assert_eq!(values(&polled.unwrap()), ["0-0"], "write {nth}");
        drop((a, made, broker));
        let mut again = latest(&open(&disk).unwrap(), "t*");
        assert_eq!(values(&again.poll(NOW).unwrap()), ["0-0"], "write {nth}");
    }
    assert_eq!(told, 1, "one of the writes is the note's");
}

// -- handles, waiting, closing --

#[test]
fn a_waiting_poll_wakes_for_records_for_rebalances_and_for_its_handle() {
    let broker = Broker::in_memory().unwrap();
    topic(&broker, "t", 2);
    let long = Duration::from_secs(60);
    let (told, tells) = channel();
    let mut a = broker
        .consumer("g")
        .on_rebalance(move |rebalance| {
            let _ = told.send((rebalance.event(), rebalance.partitions().len()));
            Ok(())
        })
        .subscribe(["t"])
        .unwrap();
    let handle = a.handle();
    let waiting = std::thread::spawn(move || {
        let first = a.poll(long).unwrap().len();
        (first, a.poll(long).unwrap().len(), a)
    });
    assert_eq!(tells.recv().unwrap(), (RebalanceEvent::Assigned, 2));
    // A rebalance takes place while it waits.
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    assert_eq!(tells.recv().unwrap(), (RebalanceEvent::Revoked, 1));
    send(&broker, &partition(&broker, "t", 1), "for b").unwrap();
    assert_eq!(b.poll(long).unwrap().len(), 1);
    send(&broker, &partition(&broker, "t", 0), "for a").unwrap();
    handle.wakeup();
    let (first, second, a) = waiting.join().unwrap();
    assert!(first + second <= 1, "one of them was woken up");
    drop(a);
}

#[test]
fn a_future_waits_for_records_and_loses_nothing_when_it_is_dropped() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    {
        let mut waiting = Box::pin(a.recv());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
    }
    send(&broker, &partition(&broker, "t", 0), "v").unwrap();
    let mut waiting = Box::pin(a.recv());
    match waiting.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(records) => assert_eq!(records.unwrap().len(), 1),
        std::task::Poll::Pending => panic!("there is a record"),
    }
}

#[test]
fn a_commit_after_the_consumer_is_gone_is_rejected_and_after_the_broker_is_closed_fails() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 1);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let (records, handle) = (a.poll(NOW).unwrap(), a.handle());
    handle.commit_async(&records).wait().unwrap();
    a.close().unwrap();
    assert_eq!(rejected(handle.commit(&records)), [(0, RejectReason::NotAMember)]);
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    b.poll(NOW).unwrap();
    broker.close().unwrap();
    assert!(matches!(b.poll(NOW), Err(Error::Closed)));
    assert!(matches!(broker.consumer("g").subscribe(["t"]), Err(Error::Closed)));
    assert!(matches!(broker.group("g"), Err(Error::Closed)));
}

#[test]
fn the_internal_topic_is_never_assigned() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    let _a = broker.consumer("g").subscribe(["*"]).unwrap();
    assert_eq!(broker.topics().len(), 1);
    for name in ["__consumer_offsets", "__Consumer_Offsets"] {
        let refused = broker.create_topic(name, TopicConfig::new()).unwrap_err();
        assert!(matches!(refused, Error::InvalidTopicName { .. }));
    }
    let name = "__consumer_offsets";
    assert!(matches!(broker.topic(name), Err(Error::UnknownTopic { .. })));
    assert!(matches!(broker.delete_topic(name), Err(Error::UnknownTopic { .. })));
    assert!(matches!(broker.producer().send(name, Record::new("v")), Err(Error::UnknownTopic { .. })));
}

#[test]
fn a_full_disk_refuses_a_commit_and_the_next_one_works() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    topic(&broker, "t", 1);
    fill(&broker, "t", 2);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    disk.fail(Op::Write, 0, ErrorKind::StorageFull);
    assert!(matches!(a.commit(&records), Err(Error::DiskFull { .. })));
    assert_eq!(a.committed("t", 0).unwrap(), None);
    a.commit(&records).unwrap();
    assert_eq!(a.committed("t", 0).unwrap().unwrap().offset, 2);
}

// -- the offsets log fails --

fn synced(disk: &Disk) -> Broker {
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    config.on_disk(disk).unwrap()
}

/// The next offset in each of the two partitions of "t".
fn committed(broker: &Broker, group: &str) -> [Option<u64>; 2] {
    let group = broker.group(group).unwrap();
    [0, 1].map(|partition| Some(group.committed("t", partition).unwrap()?.offset.get()))
}

fn next(broker: &Broker, number: u32, offset: u64) -> Position {
    let partition = partition(broker, "t", number);
    let (topic, epoch) = (partition.topic().clone(), partition.epoch());
    Position::new(topic, partition.id(), offset, epoch)
}

#[test]
fn after_a_failed_sync_or_a_torn_write_commits_work_again_and_acknowledged_ones_are_kept() {
    for torn in [false, true] {
        let disk = Disk::new();
        let broker = synced(&disk);
        topic(&broker, "t", 2);
        fill(&broker, "t", 5);
        let consumer = broker.consumer("g").assign(&[]).unwrap();
        consumer.commit(consumer.offsets_at([next(&broker, 0, 1)])).unwrap();
        consumer.commit(consumer.offsets_at([next(&broker, 1, 1)])).unwrap();
        for round in 0..3 {
            match torn {
                true => disk.tear(1),
                false => disk.fail(Op::Sync, 1, ErrorKind::Other),
            }
            let failed = consumer.commit(consumer.offsets_at([next(&broker, 0, 4)])).unwrap_err();
            assert_eq!(failed.outcome(), Outcome::Unknown, "{failed}");
            // The result of the next commit holds, and nothing is left of the failed one.
            consumer.commit(consumer.offsets_at([next(&broker, 1, 2 + round)])).unwrap();
            assert_eq!(committed(&broker, "g"), [Some(1), Some(2 + round)], "torn: {torn}");
            let copy = disk.duplicate();
            copy.crash(Survive::Synced);
            assert_eq!(committed(&synced(&copy), "g"), [Some(1), Some(2 + round)], "torn: {torn}");
        }
        consumer.commit(consumer.offsets_at([next(&broker, 0, 3)])).unwrap();
        broker.close().unwrap();
        assert_eq!(committed(&synced(&disk), "g"), [Some(3), Some(4)]);
    }
}

#[test]
fn commits_return_io_errors_until_the_medium_works() {
    let disk = Disk::new();
    let broker = synced(&disk);
    topic(&broker, "t", 2);
    fill(&broker, "t", 5);
    let consumer = broker.consumer("g").assign(&[]).unwrap();
    consumer.commit(consumer.offsets_at([next(&broker, 0, 1)])).unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    consumer.commit(consumer.offsets_at([next(&broker, 0, 2)])).unwrap_err();
    for (op, kind) in
        [(Op::Write, ErrorKind::StorageFull), (Op::Sync, ErrorKind::Other), (Op::Read, ErrorKind::Other)]
    {
        disk.fail_always(op, 1, kind);
        for _ in 0..2 {
            let refused = consumer.commit(consumer.offsets_at([next(&broker, 0, 3)]));
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{op:?}: {refused:?}");
        }
        disk.clear_faults();
    }
    consumer.commit(consumer.offsets_at([next(&broker, 1, 3)])).unwrap();
    assert_eq!(committed(&broker, "g"), [Some(1), Some(3)]);
    // It is read by others as well, and joined and left.
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    assert_eq!(records.len(), 4 + 2);
    a.commit(&records).unwrap();
    disk.crash(Survive::Synced);
    assert_eq!(committed(&synced(&disk), "g"), [Some(5), Some(5)]);
}

#[test]
fn offsets_that_a_transaction_of_the_journal_has_committed_wait_for_the_next_opening() {
    let disk = Disk::new();
    let broker = synced(&disk);
    topic(&broker, "t", 2);
    fill(&broker, "t", 5);
    let consumer = broker.consumer("g").assign(&[]).unwrap();
    let mut transaction = broker.transaction();
    transaction.send("t", Record::new("out")).offsets(&consumer, consumer.offsets_at([next(&broker, 0, 2)]));
    transaction.commit().unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    consumer.commit(consumer.offsets_at([next(&broker, 0, 3)])).unwrap_err();
    for _ in 0..2 {
        assert!(matches!(
            consumer.commit(consumer.offsets_at([next(&broker, 0, 4)])),
            Err(Error::Poisoned { .. })
        ));
    }
    disk.crash(Survive::Synced);
    let broker = synced(&disk);
    assert!(committed(&broker, "g")[0] >= Some(2));
    let consumer = broker.consumer("g").assign(&[]).unwrap();
    consumer.commit(consumer.offsets_at([next(&broker, 0, 4)])).unwrap();
}

// -- regressions --

/// An automatic commit is tried again; a listener's error is returned once.
#[test]
fn a_failed_automatic_commit_does_not_hide_a_listener_error() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    topic(&broker, "t", 2);
    fill(&broker, "t", 2);
    let mut a = broker
        .consumer("g")
        .auto_commit(Duration::from_secs(5))
        .on_rebalance(|rebalance| match rebalance.event() {
            RebalanceEvent::Assigned => Ok(()),
            _ => Err(Error::listener("no")),
        })
        .subscribe(["t"])
        .unwrap();
    a.poll(NOW).unwrap();
    a.poll(NOW).unwrap();
    let _b = broker.consumer("g").subscribe(["t"]).unwrap();
    clock.advance(Duration::from_secs(5));
    disk.fail_always(Op::Write, 1, ErrorKind::StorageFull);
    assert!(matches!(a.poll(NOW), Err(Error::Listener { .. })));
    clock.advance(Duration::from_secs(5));
    assert!(matches!(a.poll(NOW), Err(Error::DiskFull { .. })));
    disk.clear_faults();
    clock.advance(Duration::from_secs(5));
    a.poll(NOW).unwrap();
    assert_eq!(a.committed("t", 0).unwrap().unwrap().offset, 2);
}

// -- a group whose committed offset retention has passed --

/// Five records in each of two partitions. The group is at 0 in the first, and at 1 in the second,
/// of which three are gone.
fn passed() -> (Broker, ManualClock) {
    let (broker, clock) = broker();
    topic(&broker, "t", 2);
    fill(&broker, "t", 5);
    let consumer = broker.consumer("g").assign(&[]).unwrap();
    consumer.commit(consumer.offsets_at([next(&broker, 0, 0)])).unwrap();
    consumer.commit(consumer.offsets_at([next(&broker, 1, 1)])).unwrap();
    partition(&broker, "t", 1).delete_records(Offset::new(3)).unwrap();
    (broker, clock)
}

#[test]
fn a_group_passed_by_retention_follows_its_reset_policy_and_gets_a_report() {
    for (reset, to, left) in [
        (OffsetReset::Beginning, 3, vec!["1-3", "1-4"]),
        (OffsetReset::Nearest, 3, vec!["1-3", "1-4"]),
        (OffsetReset::End, 5, vec![]),
    ] {
        let (broker, _) = passed();
        let second = partition(&broker, "t", 1);
        let mut a = broker.consumer("g").offset_reset(reset).assign(&[second]).unwrap();
        let records = a.poll(NOW).unwrap();
        let skipped: Vec<_> =
            records.skipped().iter().map(|s| (s.from.get(), s.to.get(), s.reason)).collect();
        assert_eq!(skipped, [(1, to, SkipReason::OutOfRange)], "{reset:?}");
        assert_eq!(values(&records), left, "{reset:?}");
        assert_eq!(a.position("t", 1).unwrap().offset, 5);
        assert_eq!(committed(&broker, "g"), [Some(0), Some(1)], "nothing was committed for it");
    }
}

#[test]
fn an_out_of_range_result_is_dropped_after_a_seek_or_a_revocation() {
    let out_of_range = |polled: quipu::Result<quipu::Records>| {
        assert!(matches!(polled, Err(Error::OffsetOutOfRange { .. })), "{polled:?}");
    };
    let subscribe = |broker: &Broker| {
        let mut a = broker.consumer("g").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
        // The result of the second comes with the next poll.
        assert_eq!(values(&a.poll(NOW).unwrap()).len(), 5);
        a
    };
    let (broker, _) = passed();
    let mut a = subscribe(&broker);
    out_of_range(a.poll(NOW));
    out_of_range(a.poll(NOW));
    assert_eq!(a.position("t", 1).unwrap().offset, 1, "it stays where it is");

    let (broker, _) = passed();
    let mut a = subscribe(&broker);
    let mut to = a.position("t", 1).unwrap();
    to.offset = Offset::new(4);
    a.seek(&to).unwrap();
    assert_eq!(values(&a.poll(NOW).unwrap()), ["1-4"]);

    let (broker, _) = passed();
    let mut a = subscribe(&broker);
    let mut b = broker.consumer("g").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
    assert!(a.poll(NOW).unwrap().is_empty());
    assert_eq!(owned(&a), [0]);
    out_of_range(b.poll(NOW));
}

#[test]
fn a_commit_before_the_log_start_is_accepted_and_the_reset_policy_decides() {
    let (broker, _) = passed();
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    poll(&mut a);
    a.commit(a.offsets_at([next(&broker, 1, 2)])).unwrap();
    assert_eq!(committed(&broker, "g")[1], Some(2));
    assert_eq!(broker.group("g").unwrap().lag().unwrap(), 5 + 2, "deleted records are not part of the lag");
    drop(a);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    assert_eq!((records.len(), records.skipped()[0].from.get()), (5 + 2, 2));
}

#[test]
fn a_reset_by_time_goes_to_the_first_record_at_or_after_the_time() {
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    let t = partition(&broker, "t", 0);
    for time in [100, 300, 200, 300, 400] {
        let record = Record::new("v").timestamp(Timestamp::from_millis(time));
        broker.producer().send(&t, record).unwrap().wait().unwrap();
    }
    let group = broker.group("g").unwrap();
    for (time, offset) in [(0, 0), (100, 0), (101, 1), (200, 1), (300, 1), (301, 4), (400, 4), (401, 5)] {
        let reset = group.reset("t", Start::Time(Timestamp::from_millis(time))).unwrap();
        assert_eq!(reset[0].offset, offset, "{time}");
        assert_eq!(group.committed("t", 0).unwrap().unwrap().offset, offset, "{time}");
    }
}

#[test]
fn waiting_for_a_lag_ends_when_it_is_reached_or_at_the_timeout() {
    let long = Duration::from_secs(60);
    let (broker, _) = broker();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let group = broker.group("g").unwrap();
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(NOW).unwrap();
    assert!(group.wait_for_lag(3, long).unwrap(), "at most");
    assert!(!group.wait_for_lag(2, long).unwrap(), "under a manual clock no call waits");
    a.commit(&records).unwrap();
    assert!(group.wait_for_lag(0, NOW).unwrap());

    let broker = Broker::in_memory().unwrap();
    topic(&broker, "t", 1);
    fill(&broker, "t", 3);
    let group = broker.group("g").unwrap();
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = a.poll(long).unwrap();
    assert!(!group.wait_for_lag(2, Duration::from_millis(20)).unwrap());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| group.wait_for_lag(0, long));
        a.commit(&records).unwrap();
        assert!(waiting.join().unwrap().unwrap());
    });
    broker.close().unwrap();
    assert!(matches!(group.wait_for_lag(0, long), Err(Error::Closed)));
}

/// A commit without a waiting caller is made durable by the background thread.
#[test]
fn a_commit_that_is_detached_survives_a_power_loss_once_the_background_has_run() {
    let disk = Disk::new();
    let config = || BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    send(&broker, &topic.partition(0).unwrap(), "one").unwrap();
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    assert_eq!(records.len(), 1);
    consumer.commit_async(&records).detach();
    broker.maintain().unwrap();
    disk.crash(Survive::Synced);
    let broker = config().on_disk(&disk).unwrap();
    let committed = quipu::testing::committed(&broker, "g").unwrap();
    assert_eq!(committed.into_values().collect::<Vec<_>>(), [Offset::new(1)]);
}

/// Committed offsets are kept in a compacted log, which drops earlier commits and nothing else.
#[test]
fn compaction_keeps_the_last_commits_across_a_restart() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let open = || BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let broker = open();
    topic(&broker, "t", 2);
    fill(&broker, "t", 20);
    let commit = |broker: &Broker, group: &str, offset: u64| {
        broker.group(group).unwrap().reset("t", Start::At(Offset::new(offset))).unwrap();
    };
    for n in 0..20 {
        commit(&broker, "a", n);
        commit(&broker, "b", 19 - n);
    }
    commit(&broker, "gone", 1);
    broker.group("gone").unwrap().delete().unwrap();
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    broker.maintain().unwrap();
    let stats = |broker: &Broker| {
        let topics = broker.stats().topics;
        topics.into_iter().find(|t| t.name.as_str() == "__consumer_offsets").unwrap().partitions.remove(0)
    };
    let cleaned = stats(&broker).compaction;
    assert_eq!(cleaned.compactions, 1);
    assert!(cleaned.records_removed >= 2 * 2 * 19, "{cleaned:?}");
    let check = |broker: &Broker| {
        for (group, offset) in [("a", 19), ("b", 0)] {
            let found = quipu::testing::committed(broker, group).unwrap();
            assert_eq!(found.len(), 2, "{group}");
            assert!(found.values().all(|at| *at == offset), "{group}: {found:?}");
        }
        assert!(!broker.groups().unwrap().iter().any(|group| group.as_str() == "gone"));
    };
    check(&broker);
    commit(&broker, "b", 7);
    commit(&broker, "b", 0);
    broker.close().unwrap();
    drop(broker);
    let broker = open();
    check(&broker);
    // Nothing is lost after a power loss either.
    drop(broker);
    disk.crash(Survive::Everything);
    let broker = open();
    assert!(broker.open_report().damaged.is_empty());
    check(&broker);
}
