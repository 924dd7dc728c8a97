//! A log that records its calls, fails on demand, and stops on demand; and the topic that it is of.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::broker::{Broker, ProducerIdentity};
use crate::clock::ManualClock;
use crate::config::{BrokerConfig, Durability, TopicConfig};
use crate::error::{Error, Result, Space};
use crate::format::batch::{HEADER_BYTES, check_body};
use crate::format::body::{RawRecords, validate};
use crate::format::compression::{Codec, decompress};
use crate::log::{Appended, LogSettings};
use crate::producer::config::ProducerConfig;
use crate::producer::core::Core;
use crate::producer::outbox::{Outbox, Target};
use crate::producer::pending::Wait;
use crate::producer::sink::{BatchSettings, Sink};
use crate::record::Record;
use crate::segment::builder::SealedBatch;
use crate::sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, thread};
use crate::types::{Offset, PartitionId, Receipt, Timestamp, TopicId, TopicName};

/// A topic whose logs are lists. Its broker is there for the clock, the timer and the memory.
pub(super) struct FakeTopic {
    pub(super) id: TopicId,
    pub(super) name: TopicName,
    pub(super) logs: Vec<Arc<FakeLog>>,
    pub(super) partitions: AtomicUsize,
    pub(super) ended: AtomicBool,
    pub(super) broker: Broker,
    pub(super) clock: ManualClock,
}

impl FakeTopic {
    pub(super) fn new(partitions: u32, config: TopicConfig) -> Arc<Self> {
        let clock = ManualClock::new();
        FakeTopic::with(BrokerConfig::new().clock(clock.clone()), clock, partitions, config)
    }

    /// The `clock` is not the broker's.
    pub(super) fn in_real_time(partitions: u32, config: TopicConfig) -> Arc<Self> {
        FakeTopic::with(BrokerConfig::new(), ManualClock::new(), partitions, config)
    }

    fn with(broker: BrokerConfig, clock: ManualClock, partitions: u32, config: TopicConfig) -> Arc<Self> {
        let broker = broker.in_memory().unwrap();
        let name = TopicName::new("fake").unwrap();
        let log = |partition| Arc::new(FakeLog::new(&name, partition, &config));
        let logs: Vec<_> = (0..partitions).map(log).collect();
        let partitions = AtomicUsize::new(logs.len());
        // All in one chain of the outbox: the hardest case.
        Arc::new(FakeTopic {
            id: TopicId([7; 16]),
            name,
            logs,
            partitions,
            ended: AtomicBool::new(false),
            broker,
            clock,
        })
    }
}

impl Target for FakeTopic {
    fn id(&self) -> &TopicId {
        &self.id
    }

    fn name(&self) -> &TopicName {
        &self.name
    }

    fn partitions(&self) -> u32 {
        self.partitions.load(Ordering::SeqCst) as u32
    }

    fn check(&self) -> Result<()> {
        if self.ended.load(Ordering::SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }

    fn timestamps(&self, _: Timestamp) -> Option<(Timestamp, Timestamp)> {
        Some((Timestamp::default(), Timestamp::MAX))
    }

    fn sink(&self, partition: u32) -> Option<Box<dyn Sink>> {
        (partition < self.partitions())
            .then(|| Box::new(self.logs[partition as usize].clone()) as Box<dyn Sink>)
    }
}

pub(super) struct FakeLog {
    pub(super) topic: TopicName,
    pub(super) partition: PartitionId,
    pub(super) settings: Arc<LogSettings>,
    pub(super) state: Mutex<FakeState>,
    pub(super) gate: AppendGate,
}

#[derive(Default)]
pub(super) struct FakeState {
    pub(super) stored: Vec<Record<'static>>,
    pub(super) sizes: Vec<usize>,
    pub(super) counts: Vec<u32>,
    pub(super) codecs: Vec<Codec>,
    fault: Option<(usize, Fault)>,
    pub(super) visible: u64,
    pub(super) waits: usize,
    pub(super) sync_requests: usize,
    pub(super) wakers: Vec<Waker>,
}

#[derive(Clone, Copy)]
enum Fault {
    Error,
    Unwind,
}

impl FakeLog {
    pub(super) fn new(topic: &TopicName, partition: u32, config: &TopicConfig) -> Self {
        FakeLog {
            topic: topic.clone(),
            partition: PartitionId::new(partition),
            settings: LogSettings::new(config.clone(), Durability::Os),
            state: Mutex::new(crate::sync::Rank::Test, Default::default()),
            gate: AppendGate::default(),
        }
    }

    pub(super) fn fail_append(&self, nth: usize) {
        self.state.lock().fault = Some((nth, Fault::Error));
    }

    pub(super) fn unwind_append(&self, nth: usize) {
        self.state.lock().fault = Some((nth, Fault::Unwind));
    }

    pub(super) fn stored(&self) -> Vec<Record<'static>> {
        self.state.lock().stored.clone()
    }

    pub(super) fn values(&self) -> Vec<String> {
        let text = |record: &Record<'_>| {
            String::from_utf8_lossy(record.value_bytes().unwrap_or_default()).into_owned()
        };
        self.state.lock().stored.iter().map(text).collect()
    }

    pub(super) fn values_len(&self) -> usize {
        self.state.lock().stored.len()
    }

    pub(super) fn batches(&self) -> usize {
        self.state.lock().sizes.len()
    }

    pub(super) fn sizes(&self) -> Vec<usize> {
        self.state.lock().sizes.clone()
    }

    pub(super) fn counts(&self) -> Vec<u32> {
        self.state.lock().counts.clone()
    }

    pub(super) fn codecs(&self) -> Vec<Codec> {
        self.state.lock().codecs.clone()
    }

    pub(super) fn waits(&self) -> usize {
        self.state.lock().waits
    }

    pub(super) fn sync_requests(&self) -> usize {
        self.state.lock().sync_requests
    }

    pub(super) fn make_visible(&self) {
        let mut state = self.state.lock();
        state.visible = state.stored.len() as u64;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Sink for Arc<FakeLog> {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn partition(&self) -> PartitionId {
        self.partition
    }

    fn batch_settings(&self) -> BatchSettings {
        BatchSettings::of(&self.settings)
    }

    fn append(&self, batch: &mut SealedBatch, _: Option<&ProducerIdentity>) -> Result<Appended> {
        self.gate.pass();
        let mut state = self.state.lock();
        if let Some((left, fault)) = &mut state.fault {
            *left -= 1;
            let (left, fault) = (*left, *fault);
            if left == 0 {
                state.fault = None;
                drop(state);
                match fault {
                    Fault::Error => {
                        return Err(Error::DiskFull { path: "fake".into(), cause: Space::NoSpace });
                    }
                    Fault::Unwind => panic!("the append unwinds"),
                }
            }
        }
        let SealedBatch { header, stored, raw, .. } = batch;
        check_body(header, &stored[HEADER_BYTES..]).unwrap();
        let codec = Codec::from_number(header.codec).unwrap();
        let mut body = Vec::new();
        let (records, table) =
            stored[HEADER_BYTES..].split_at(stored.len() - HEADER_BYTES - header.table_bytes() as usize);
        decompress(codec, records, header.uncompressed_len as usize, &mut body).unwrap();
        assert_eq!(raw.is_some(), codec != Codec::None);
        assert!(raw.as_ref().is_none_or(|raw| raw[HEADER_BYTES..] == body));
        validate(header, &body, table).unwrap();
        let base = state.stored.len() as u64;
        let mut max = Timestamp::from_millis(i64::MIN);
        for record in RawRecords::new(&body, header.count) {
            let record = record.unwrap();
            let timestamp = header.timestamp(record.timestamp_delta);
            max = max.max(timestamp);
            let mut copy = Record::new(record.value).key(record.key).timestamp(timestamp);
            for (name, value) in record.headers {
                copy = match value {
                    Some(value) => copy.header(name, value),
                    None => copy.null_header(name),
                };
            }
            state.stored.push(copy.into_owned());
        }
        assert_eq!(max, header.max_timestamp);
        assert_eq!(header.last_offset_delta + 1, header.count);
        state.sizes.push(stored.len());
        state.counts.push(header.count);
        state.codecs.push(codec);
        let end = state.stored.len() as u64;
        if self.settings.durability == Durability::Os {
            state.visible = end;
        }
        Ok(Appended { base_offset: Offset::new(base), end: Offset::new(end), epoch: 7, append_time: None })
    }

    fn is_visible(&self, end: Offset) -> bool {
        self.state.lock().visible >= end.get()
    }

    fn wait_visible(&self, end: Offset, _: u32) -> Result<()> {
        let mut state = self.state.lock();
        state.waits += 1;
        state.visible = state.visible.max(end.get());
        Ok(())
    }

    fn poll_visible(&self, end: Offset, _: u32, waker: &Waker) -> Poll<Result<()>> {
        let mut state = self.state.lock();
        if state.visible >= end.get() {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(waker.clone());
        Poll::Pending
    }

    fn may_have_lost(&self, _: u32) -> bool {
        false
    }

    fn request_sync(&self) {
        self.state.lock().sync_requests += 1;
    }

    fn is_new(&self) -> bool {
        false
    }
}

/// A place that appends pass, unless it is shut.
pub(super) struct AppendGate {
    /// Shut, and how many stand there.
    pub(super) state: Mutex<(bool, usize)>,
    pub(super) changed: Condvar,
}

impl Default for AppendGate {
    fn default() -> Self {
        AppendGate { state: Mutex::new(crate::sync::Rank::Test, (false, 0)), changed: Condvar::new() }
    }
}

impl AppendGate {
    pub(super) fn shut(&self) {
        self.state.lock().0 = true;
    }

    pub(super) fn open(&self) {
        self.state.lock().0 = false;
        self.changed.notify_all();
    }

    pub(super) fn wait_until_a_thread_stops_there(&self) {
        let mut state = self.state.lock();
        while state.1 == 0 {
            self.changed.wait(&mut state);
        }
    }

    pub(super) fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            self.changed.wait(&mut state);
        }
        state.1 -= 1;
    }
}

pub(super) fn outbox(topic: &Arc<FakeTopic>, config: ProducerConfig) -> Outbox<FakeTopic> {
    config.validate().unwrap();
    Outbox::new(Core::new(topic.broker.inner().ctx.clone(), config, None), 42)
}

pub(super) fn flush(outbox: &Outbox<FakeTopic>) -> Result<()> {
    Box::new(outbox.flush()).wait()
}

/// The smallest batches, and no lingering that could be noticed.
pub(super) fn small() -> ProducerConfig {
    ProducerConfig::new().batch_bytes(1 << 10).linger(Duration::from_secs(3_600))
}

/// No two of these fit one of [`small`]'s batches, nor one beside another record.
pub(super) fn big() -> Record<'static> {
    Record::new([b'b'; 910])
}

pub(super) fn assert_stored(topic: &FakeTopic, receipt: &Receipt, text: &str) {
    let state = topic.logs[receipt.partition.get() as usize].state.lock();
    assert_eq!(state.stored[receipt.offset.get() as usize].value_bytes(), Some(text.as_bytes()));
}

pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn waker() -> (Waker, Arc<AtomicBool>) {
        let flag = Arc::new(AtomicBool::new(false));
        (Waker::from(Arc::new(Flag(flag.clone()))), flag)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
