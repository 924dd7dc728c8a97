//! A wake-up ends the waiting of whatever reads: the reader of a stream, a feed, a projector. Once,
//! also if it comes before the call, and nothing is lost.

use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Broker, BrokerConfig, ConsumedRecord, Error, ExpectedVersion, Position, ReadModel, ReaderHandle, Record,
    Records, Result, Stream, Topic, TopicConfig, Transaction, Version,
};

/// Longer than any test: a call that returns earlier was woken.
const LONG: Duration = Duration::from_secs(600);
const NOW: Duration = Duration::ZERO;

fn accounts(broker: &Broker) -> Topic {
    broker.create_topic("accounts", TopicConfig::streams()).unwrap()
}

fn append(stream: &Stream, values: &[&str]) {
    stream.append(ExpectedVersion::Any, values.iter().map(|value| Record::new(*value))).unwrap();
}

/// Counts events.
#[derive(Default)]
struct Count {
    events: usize,
    positions: Vec<Position>,
}

impl ReadModel for Count {
    type Error = Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        Ok(self.positions.clone())
    }

    fn apply(&mut self, events: &Records, next: &[Position]) -> Result<()> {
        self.events += events.len();
        self.positions = next.to_vec();
        Ok(())
    }
}

fn nothing(_: &ConsumedRecord<'_>, _: &mut Transaction) -> Result<()> {
    Ok(())
}

/// Wakes a call on another thread: it may not wait yet, which makes no difference.
fn woken<T: Send>(handle: &ReaderHandle, waiting: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let waiter = scope.spawn(waiting);
        handle.clone().wakeup();
        waiter.join().unwrap()
    })
}

#[test]
fn a_reader_of_a_stream_returns_no_events_once_and_then_those_that_are_there() {
    let broker = Broker::in_memory().unwrap();
    let stream = accounts(&broker).stream("a").unwrap();
    let mut reader = stream.reader(Version::ZERO).unwrap();
    let handle = reader.handle();
    append(&stream, &["1", "2"]);
    assert_eq!(reader.poll(NOW).unwrap().len(), 2);
    let none = woken(&handle, || reader.poll(LONG).unwrap());
    assert_eq!((none.len(), none.version().get()), (0, 2));

    handle.wakeup();
    handle.wakeup();
    append(&stream, &["3"]);
    assert!(reader.poll(NOW).unwrap().is_empty(), "the wake-up comes first");
    assert_eq!(reader.poll(LONG).unwrap().len(), 1);

    handle.wakeup();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(matches!(reader.poll_records(cx), Poll::Ready(Ok(none)) if none.is_empty()));
    assert!(reader.poll_records(cx).is_pending());
    append(&stream, &["4"]);
    assert!(matches!(reader.poll_records(cx), Poll::Ready(Ok(some)) if some.len() == 1));
}

#[test]
fn a_feed_applies_nothing_once_and_reports_that_it_was_woken_up() {
    let broker = Broker::in_memory().unwrap();
    let stream = accounts(&broker).stream("a").unwrap();
    let mut feed = broker.feed("accounts", Count::default()).unwrap();
    let handle = feed.handle();
    let step = woken(&handle, || feed.step(LONG).unwrap());
    assert!(step.woken_up && step.applied == 0, "{step:?}");

    append(&stream, &["1", "2"]);
    handle.wakeup();
    handle.wakeup();
    let step = feed.step(LONG).unwrap();
    assert_eq!((step.woken_up, step.applied, step.lag), (true, 0, 2));
    let step = feed.step(LONG).unwrap();
    assert_eq!((step.woken_up, step.applied, step.lag), (false, 2, 0));
    assert!(!feed.step(NOW).unwrap().woken_up);
    assert_eq!(feed.model().events, 2);
}

#[test]
fn a_projector_applies_nothing_once_and_reports_that_it_was_woken_up() {
    let broker = Broker::in_memory().unwrap();
    let stream = accounts(&broker).stream("a").unwrap();
    let mut projector = broker.consumer("p").project("accounts", nothing).unwrap();
    let handle = projector.handle();
    let step = woken(&handle, || projector.step(LONG).unwrap());
    assert!(step.woken_up && step.applied == 0, "{step:?}");

    append(&stream, &["1", "2"]);
    handle.wakeup();
    let step = projector.step(LONG).unwrap();
    assert_eq!((step.woken_up, step.applied, step.lag), (true, 0, 2));
    let step = projector.step(LONG).unwrap();
    assert_eq!((step.woken_up, step.applied, step.lag), (false, 2, 0));
}

#[test]
fn a_wakeup_ends_catching_up_although_events_are_left() {
    let broker = Broker::in_memory().unwrap();
    let stream = accounts(&broker).stream("a").unwrap();
    append(&stream, &["1", "2", "3", "4"]);
    let mut feed = broker.feed("accounts", Count::default()).unwrap().max_records(1);
    let handle = feed.handle();
    let stop_at = |lag| {
        let handle = handle.clone();
        move |progress: &quipu::Progress| {
            if progress.lag == lag && !progress.woken_up {
                handle.wakeup();
            }
        }
    };
    assert_eq!(feed.catch_up(stop_at(3)).unwrap(), 1);
    assert_eq!(feed.catch_up(|_| {}).unwrap(), 3);
}

#[test]
fn a_rebuild_leaves_a_wakeup_to_the_next_step() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    append(&accounts(&broker).stream("a").unwrap(), &["1"]);
    let mut projector = broker.consumer("p").project("accounts", nothing).unwrap();
    let handle = projector.handle();
    handle.wakeup();
    projector.rebuild().unwrap();
    assert!(projector.step(NOW).unwrap().woken_up);
    assert_eq!(projector.step(NOW).unwrap().applied, 1);

    // Also if the step has to finish the rebuild first.
    disk.fail(Op::Write, 1, std::io::ErrorKind::StorageFull);
    projector.rebuild().unwrap_err();
    handle.wakeup();
    assert!(projector.step(NOW).unwrap().woken_up);
    assert_eq!(projector.step(NOW).unwrap().applied, 1);
}

#[test]
fn a_handle_of_a_consumer_names_its_group() {
    let broker = Broker::in_memory().unwrap();
    accounts(&broker);
    let consumer = broker.consumer("billing").subscribe("accounts").unwrap();
    assert_eq!(consumer.handle().group(), consumer.group());
}
