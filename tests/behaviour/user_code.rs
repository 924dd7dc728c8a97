//! Code of the user that the broker calls (wakers, event listeners, assignors, partitioners, clocks,
//! iterators) runs under no lock of the broker, and its panic harms only its own caller.

use std::future::Future;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Assignor, AssignorMember, AssignorTopic, Broker, BrokerConfig, Cleanup, Clock, Consumer, Durability,
    Error, Offset, Partitioner, ProducerConfig, Record, Retention, Start, SystemClock, Timestamp,
    TopicConfig, TopicName, TopicPartition,
};

const NOW: Duration = Duration::ZERO;

fn send(broker: &Broker, topic: &str, value: &str) {
    broker.producer().send(topic, Record::new(value)).unwrap().wait().unwrap();
}

/// Calls a function when it is woken.
struct Calls(Box<dyn Fn() + Send + Sync>);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(call: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Calls(Box::new(call))))
}

/// An executor that runs its task inside the waker.
struct Inline(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let Some(mut task) = self.0.try_lock().ok().and_then(|mut task| task.take()) else { return };
        let waker = Waker::from(self.clone());
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *self.0.lock().unwrap() = Some(task);
        }
    }
}

fn run_inline(task: impl Future<Output = ()> + Send + 'static) {
    Arc::new(Inline(Mutex::new(Some(Box::pin(task))))).wake();
}

/// A future that is polled by hand, under real time: a test that would wait for ever fails.
fn finish<F: Future>(future: F) -> F::Output {
    let this = thread::current();
    let waker = waker(move || this.unpark());
    let mut future = pin!(future);
    for _ in 0..1_000 {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        thread::park_timeout(Duration::from_millis(50));
    }
    panic!("still pending, and never woken");
}

#[test]
fn the_tests_are_built_with_the_check_that_user_code_runs_under_no_lock() {
    // Set by .cargo/config.toml: without it the other tests here would notice deadlocks only.
    assert!(option_env!("QUIPU_CHECK_USER_CODE").is_some());
}

// -- calls from user code --

#[test]
fn a_waker_may_run_a_reader_in_place_and_drop_it() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let (mut reader, counted) = (broker.reader(["t"], Start::Beginning).unwrap(), read.clone());
    run_inline(async move {
        counted.fetch_add(reader.recv().await.unwrap().len(), Ordering::SeqCst);
        drop(reader);
    });
    send(&broker, "t", "v");
    assert_eq!(read.load(Ordering::SeqCst), 1);
}

#[test]
fn a_waker_may_run_a_member_of_a_group_in_place() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let owned = Arc::new(AtomicUsize::new(usize::MAX));
    let (mut first, noted) = (broker.consumer("g").subscribe(["t"]).unwrap(), owned.clone());
    run_inline(async move {
        while first.recv().await.is_ok() {
            noted.store(first.assignment().len(), Ordering::SeqCst);
        }
    });
    // The first member gives a partition up inside the call that the second one makes.
    let mut second = broker.consumer("g").subscribe(["t"]).unwrap();
    second.poll(NOW).unwrap();
    assert_eq!(second.assignment().len(), 1);
    broker.alter_topic("t", TopicConfig::new().partitions(4)).unwrap();
    second.poll(NOW).unwrap();
    assert_eq!(second.assignment().len(), 2);
    send(&broker, "t", "v");
    drop(second);
    broker.close().unwrap();
    drop(owned);
}

#[test]
fn a_waker_may_change_topics_and_partitions_whatever_woke_it() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    fn small() -> TopicConfig {
        TopicConfig::new().segment_bytes(8 << 10).max_record_bytes(4 << 10)
    }
    type Change<'a> = (&'a str, &'a (dyn Fn(&Broker) + 'a));
    let changes: [Change<'_>; 8] = [
        ("append", &|broker| send(broker, "t", "v")),
        ("alter", &|broker| {
            broker.alter_topic("t", small().partitions(2).cleanup(Cleanup::Compact)).unwrap();
        }),
        ("truncate", &|broker| {
            broker.topic("t").unwrap().partition(0).unwrap().truncate_to(Offset::new(1)).unwrap();
        }),
        ("reset", &|broker| {
            broker.topic("t").unwrap().partition(0).unwrap().reset_to(Offset::new(7)).unwrap();
        }),
        ("compact", &|broker| {
            broker.alter_topic("t", small().cleanup(Cleanup::Compact)).unwrap();
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            let mut records = (0..20).map(|_| Record::new(vec![1; 3_000]).key("k"));
            broker.producer().send_all(&partition, &mut records).unwrap().wait().unwrap();
            partition.compact().unwrap();
        }),
        ("maintain", &|broker| broker.maintain().unwrap()),
        ("join", &|broker| drop(broker.consumer("g").subscribe(["t"]).unwrap())),
        ("delete", &|broker| broker.delete_topic("t").unwrap()),
    ];
    for (name, change) in changes {
        let _ = broker.delete_topic("t");
        broker.create_topic("t", small()).unwrap();
        for value in ["a", "b"] {
            send(&broker, "t", value);
        }
        let mut reader = broker.reader(["t"], Start::End).unwrap();
        let mut member = broker.consumer("g").subscribe(["t"]).unwrap();
        member.poll(NOW).unwrap();
        let (caller, calls) = (broker.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let waker = waker(move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let topic = format!("of-{name}-{number}");
            let topic = caller.create_topic(&topic, TopicConfig::new()).unwrap();
            topic.partition(0).unwrap().truncate_to(Offset::new(0)).unwrap();
            caller.delete_topic(topic.name().as_str()).unwrap();
            if let Ok(topic) = caller.topic("t") {
                let partition = topic.partition(0).unwrap();
                let _ = (partition.compact(), partition.truncate_to(Offset::new(100)), caller.maintain());
            }
            caller.topics();
        });
        let (mut recv, mut of_group) = (pin!(reader.recv()), pin!(member.recv()));
        assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{name}");
        assert!(of_group.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{name}");
        change(&broker);
        let is_quiet = name == "maintain";
        assert!(is_quiet || calls.load(Ordering::SeqCst) > 0, "{name} wakes");
    }
    broker.close().unwrap();
}

#[test]
fn a_listener_of_events_may_call_the_broker() {
    let clock = ManualClock::new();
    let (late, heard) = (Arc::new(OnceLock::<Broker>::new()), Arc::new(Mutex::new(Vec::new())));
    let (caller, noted, inside) = (late.clone(), heard.clone(), AtomicBool::new(false));
    let listen = move |event: &Event| {
        let Some(broker) = caller.get() else { return };
        let is_nested = inside.swap(true, Ordering::SeqCst);
        let text = format!("{event:?}");
        noted.lock().unwrap().push(text.split([' ', '(']).next().unwrap().to_string());
        if is_nested {
            return;
        }
        // Each takes locks of the broker, of groups and of logs.
        let _ = broker.create_topic("heard", TopicConfig::new());
        send(broker, "heard", "v");
        let topic = broker.topic("heard").unwrap();
        topic.partition(0).unwrap().truncate_to(Offset::new(1)).unwrap();
        let _ = broker.topic("c").unwrap().partition(0).unwrap().compact();
        inside.store(false, Ordering::SeqCst);
    };
    let config = BrokerConfig::new().clock(clock.clone()).disk_budget(2 << 20);
    let broker = config.on_event(listen).in_memory().unwrap();
    assert!(late.set(broker.clone()).is_ok());
    let small = || TopicConfig::new().segment_bytes(64 << 10).max_record_bytes(32 << 10);
    broker.create_topic("c", small().cleanup(Cleanup::Compact)).unwrap();
    broker.create_topic("r", small().retention(Retention::for_bytes(u64::MAX))).unwrap();
    for _ in 0..100 {
        let record = || Record::new(vec![7; 20_000]).key("k");
        broker.producer().send("c", record()).unwrap().wait().unwrap();
        // Deletes the oldest, because the budget is used up.
        broker.producer().send("r", record()).unwrap().wait().unwrap();
        broker.maintain().unwrap();
    }
    broker.topic("r").unwrap().partition(0).unwrap().reset_to(Offset::new(1_000)).unwrap();
    let heard = heard.lock().unwrap().clone();
    for kind in ["Rolled", "Retained", "Compacted", "Truncated"] {
        assert!(heard.iter().any(|event| event == kind), "{kind} of {} events", heard.len());
    }
    assert_eq!(broker.stats().panics, 0);
    broker.close().unwrap();
}

#[derive(Debug)]
struct CallsTheBroker(Broker, Arc<Mutex<Vec<String>>>);

impl Assignor for CallsTheBroker {
    fn name(&self) -> &str {
        "calls"
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        let CallsTheBroker(broker, refused) = self;
        let refusals = [
            broker.create_topic("new", TopicConfig::new()).map(drop),
            broker.delete_topic("t"),
            broker.consumer("g").subscribe(["*"]).map(drop),
            broker.consumer("other").subscribe(["t"]).map(drop),
        ];
        refused.lock().unwrap().extend(refusals.map(|refused| refused.unwrap_err().to_string()));
        let mut shares = vec![Vec::new(); members.len()];
        for topic in topics {
            shares[0].extend((0..topic.partitions).map(|p| TopicPartition::new(topic.name.clone(), p)));
        }
        shares
    }
}

#[test]
fn an_assignor_that_calls_the_broker_is_refused_by_an_error() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let refused = Arc::new(Mutex::new(Vec::new()));
    let assignor = CallsTheBroker(broker.clone(), refused.clone());
    let mut member = broker.consumer("g").assignor(assignor).subscribe(["t"]).unwrap();
    member.poll(NOW).unwrap();
    assert_eq!(member.assignment().len(), 1);
    let refused = refused.lock().unwrap();
    assert_eq!(refused.len(), 4);
    assert!(refused.iter().all(|text| text.contains("an assignor must not call the broker")), "{refused:?}");
    // The thread may call it again.
    broker.create_topic("new", TopicConfig::new()).unwrap();
}

/// Drops a consumer of the group whose lock is held.
#[derive(Debug)]
struct DropsAConsumer(Arc<Mutex<Option<Consumer>>>);

impl Assignor for DropsAConsumer {
    fn name(&self) -> &str {
        "drops"
    }

    fn assign(
        &self,
        members: &[AssignorMember<'_>],
        topics: &[AssignorTopic<'_>],
    ) -> Vec<Vec<TopicPartition>> {
        drop(self.0.lock().unwrap().take());
        let mut shares = vec![Vec::new(); members.len()];
        for topic in topics {
            let last = shares.last_mut().unwrap();
            last.extend((0..topic.partitions).map(|p| TopicPartition::new(topic.name.clone(), p)));
        }
        shares
    }
}

#[test]
fn a_consumer_that_an_assignor_drops_leaves_its_group() {
    let clock = ManualClock::new();
    for manual in [false, true] {
        let config = if manual { BrokerConfig::new().clock(clock.clone()) } else { BrokerConfig::new() };
        let broker = config.in_memory().unwrap();
        broker.create_topic("t", TopicConfig::new()).unwrap();
        let place = Arc::new(Mutex::new(None));
        let join = || broker.consumer("g").assignor(DropsAConsumer(place.clone())).subscribe(["t"]).unwrap();
        let first = join();
        *place.lock().unwrap() = Some(first);
        let mut second = join();
        clock.advance(Duration::from_millis(1));
        while broker.group("g").unwrap().describe().unwrap().members.len() > 1 {
            assert!(!manual, "the clock was moved");
            std::thread::yield_now();
        }
        second.poll(NOW).unwrap();
        assert_eq!(second.assignment().len(), 1);
    }
}

// -- panics --

#[test]
fn a_waker_that_panics_ends_no_other_work_and_is_reported() {
    let (clock, events) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let noted = events.clone();
    let config = BrokerConfig::new().clock(clock.clone());
    let broker = config
        .on_event(move |event| {
            if let Event::Panicked { which, message, .. } = event {
                noted.lock().unwrap().push(format!("{which}: {message}"));
            }
        })
        .in_memory()
        .unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let (mut bad, mut good) =
        (broker.reader(["t"], Start::Beginning).unwrap(), broker.reader(["t"], Start::Beginning).unwrap());
    let woken = Arc::new(AtomicUsize::new(0));
    let counted = woken.clone();
    let (panics, counts) = (
        waker(|| panic!("the runtime is gone")),
        waker(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }),
    );
    let (mut bad, mut good) = (pin!(bad.recv()), pin!(good.recv()));
    assert!(bad.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    assert!(good.as_mut().poll(&mut Context::from_waker(&counts)).is_pending());
    let producer = broker.producer();
    for partition in topic.partitions() {
        producer.send(&partition, Record::new("v")).unwrap().detach();
    }
    clock.advance(Duration::from_secs(1));
    let ends = topic.partitions().into_iter().map(|partition| partition.bounds().unwrap().visible_end.get());
    assert_eq!(ends.collect::<Vec<_>>(), [1, 1], "both lingered long enough");
    assert!(woken.load(Ordering::SeqCst) > 0);
    assert_eq!(broker.stats().panics, 1);
    assert_eq!(*events.lock().unwrap(), ["a waker: the runtime is gone"]);
    let closed = broker.close();
    assert!(matches!(closed, Err(Error::Panicked { which: "a waker", times: 1, .. })), "{closed:?}");
}

#[test]
fn a_waker_that_panics_does_not_end_the_thread_of_the_timer() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let panics = waker(|| panic!("the runtime is gone"));
    let mut recv = pin!(reader.recv());
    assert!(recv.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    let producer = broker.producer();
    for count in 1..=3 {
        // The timer writes it, and wakes.
        producer.send("t", Record::new("v")).unwrap().detach();
        let mut reader = broker.reader(["t"], Start::At(Offset::new(count - 1))).unwrap();
        assert_eq!(finish(reader.recv()).unwrap().len(), 1);
    }
    assert_eq!(broker.stats().panics, 1);
    assert!(matches!(broker.close(), Err(Error::Panicked { .. })));
}

#[test]
fn a_listener_that_panics_does_not_end_the_thread_of_the_worker() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_event(|_| panic!("a bug in a metric")).on_disk(&disk).unwrap();
    let interval = Durability::Interval(Duration::from_millis(5));
    let damaged = broker.create_topic("a", TopicConfig::new().durability(interval)).unwrap();
    broker.create_topic("s", TopicConfig::new().durability(Durability::Sync)).unwrap();
    // Makes its files.
    broker.producer().send(&damaged, Record::new("v")).unwrap().wait().unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.producer().send(&damaged, Record::new("v")).unwrap().wait().unwrap();
    // The worker reports the failed sync.
    let mut looks = 0;
    while broker.stats().panics == 0 {
        assert!(looks < 2_000, "no panic was counted");
        looks += 1;
        thread::park_timeout(Duration::from_millis(10));
    }
    // The worker syncs it, because no thread waits.
    finish(broker.producer().send_async("s", Record::new("w"))).unwrap();
    let closed = broker.close();
    assert!(closed.is_err());
}

#[test]
fn a_listener_that_panics_does_not_fail_the_append_that_it_was_told_of() {
    let clock = ManualClock::new();
    let config = BrokerConfig::new().clock(clock);
    let broker = config.on_event(|_| panic!("a bug in a metric")).in_memory().unwrap();
    let small = TopicConfig::new().segment_bytes(4096).max_record_bytes(2000);
    broker.create_topic("t", small).unwrap();
    for offset in 0..10 {
        let receipt = broker.producer().send("t", Record::new(vec![1; 1500])).unwrap().wait().unwrap();
        assert_eq!(receipt.offset.get(), offset);
    }
    assert!(broker.stats().panics > 0, "it was told of new segments");
    let closed = broker.close();
    assert!(matches!(closed, Err(Error::Panicked { which: "the event listener", .. })), "{closed:?}");
}

#[derive(Debug)]
struct PanickingAssignor;

impl Assignor for PanickingAssignor {
    fn name(&self) -> &str {
        "panicking"
    }

    fn assign(&self, members: &[AssignorMember<'_>], _: &[AssignorTopic<'_>]) -> Vec<Vec<TopicPartition>> {
        assert!(members.len() < 2, "too many members");
        let all = members[0].topics.iter().map(|topic| TopicPartition::new(topic.clone(), 0));
        vec![all.collect()]
    }
}

#[test]
fn an_assignor_that_panics_is_an_error_with_its_message_and_its_group_works() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let builder = || broker.consumer("g").assignor(PanickingAssignor);
    let mut first = builder().subscribe(["t"]).unwrap();
    let error = builder().subscribe(["t"]).unwrap_err();
    let Error::InvalidAssignment { assignor, reason, .. } = error else { panic!("{error}") };
    assert_eq!((assignor.as_str(), reason.as_str()), ("panicking", "it panicked: too many members"));
    send(&broker, "t", "v");
    assert_eq!(first.poll(NOW).unwrap().len(), 1);
    broker.close().unwrap();
}

struct PanickingPartitioner;

impl Partitioner for PanickingPartitioner {
    fn partition(&self, _: &TopicName, key: Option<&[u8]>, _: Option<&[u8]>, _: u32) -> Option<u32> {
        assert_ne!(key, Some(&b"bad"[..]), "this key");
        Some(0)
    }
}

#[test]
fn a_panic_of_a_partitioner_or_an_iterator_reaches_its_caller_and_harms_nothing_else() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let config = ProducerConfig::new().partitioner(PanickingPartitioner).linger(Duration::from_secs(3600));
    let producer = broker.producer_with(config).unwrap();
    let first = producer.send("t", Record::new("1").key("k")).unwrap();
    let panicked = |call: &dyn Fn()| catch_unwind(AssertUnwindSafe(call)).is_err();
    assert!(panicked(&|| drop(producer.send("t", Record::new("-").key("bad")))));
    assert!(panicked(&|| {
        let records = ["-", "bad"].map(|key| Record::new("-").key(key));
        drop(producer.send_all("t", records));
    }));
    assert!(panicked(&|| {
        let records =
            (0..3).map(|n| if n < 2 { Record::new("-").key("k") } else { panic!("the source is gone") });
        drop(producer.send_all("t", records));
    }));
    let last = producer.send("t", Record::new("2").key("k")).unwrap();
    assert_eq!((first.wait().unwrap().offset.get(), last.wait().unwrap().offset.get()), (0, 1));
    producer.flush().unwrap();
    assert_eq!(broker.stats().panics, 0, "its caller has it");
    broker.close().unwrap();
}

/// Panics on threads of the broker, some times.
struct PanickingClock(SystemClock, Arc<AtomicU32>);

impl PanickingClock {
    fn check(&self) {
        let is_ours = thread::current().name().is_some_and(|name| name.starts_with("quipu-"));
        let take = |left: u32| left.checked_sub(1);
        if is_ours && self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            panic!("no time");
        }
    }
}

impl Clock for PanickingClock {
    fn now(&self) -> Timestamp {
        self.check();
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.check();
        self.0.monotonic()
    }
}

#[test]
fn a_clock_that_panics_on_a_background_thread_does_not_end_it() {
    let left = Arc::new(AtomicU32::new(0));
    let broker =
        BrokerConfig::new().clock(PanickingClock(SystemClock::new(), left.clone())).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    left.store(4, Ordering::SeqCst);
    // The timer writes the batch, and the worker syncs it.
    let (producer, mut reader) = (broker.producer(), broker.reader(["t"], Start::Beginning).unwrap());
    producer.send("t", Record::new("v")).unwrap().detach();
    assert_eq!(finish(reader.recv()).unwrap().len(), 1);
    assert!(broker.stats().panics > 0);
    assert!(matches!(broker.close(), Err(Error::Panicked { .. })));
}
