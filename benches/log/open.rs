//! Openings of a broker: in memory, as for a test, compared with starting two threads; after a
//! close; and after its process was killed.
//!
//! Killed means: another process fills a topic, and gets SIGKILL. Its bytes are in the page cache,
//! and an unknown part of them is on the medium. The next process must read and check the part that
//! is not known to be there (the first limit), and must make it durable before any reader may see
//! it (the second).

use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, TopicConfig};

use super::args::{FILL, FillArgs};
use super::records::RecordSet;
use super::scan::fill;
use super::scratch::{Scratch, files_below};
use super::suite::{Metric, Suite, way};

pub(crate) fn run(suite: &mut Suite<'_>) {
    if suite.wants("open/in memory") {
        suite.compare(
            "open/in memory",
            &[Metric::time("", "us")],
            vec![way("Broker::in_memory, drop", || {
                in_memory(|| drop(BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap()))
            })],
            vec![way("two threads, started and joined", || {
                in_memory(|| {
                    let threads = [(); 2].map(|()| std::thread::spawn(|| {}));
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                })
            })],
        );
    }
    let metrics = &[Metric::time("", "ms")];
    if suite.wants("open/after close") {
        let scratch = Scratch::new();
        close_with(scratch.path(), suite.sizes().open_bytes);
        suite.compare(
            "open/after close",
            metrics,
            vec![way("Broker::open", || opened(scratch.path(), true).0)],
            vec![way("opening files, reading the small", || open_files(scratch.path()))],
        );
    }
    for (name, segment_bytes) in
        [("open/after kill, segments of 64 MiB", 64 << 20), ("open/after kill, one segment", 1 << 30)]
    {
        if suite.wants(name) {
            let killed = RefCell::new(Killed::new(segment_bytes));
            suite.compare(
                name,
                metrics,
                vec![way("Broker::open", || killed.borrow_mut().open())],
                vec![
                    way("read, crc", || killed.borrow_mut().check(false)),
                    way("read, crc, write again, sync", || killed.borrow_mut().check(true)),
                ],
            );
            if let Some((_, bytes)) = &killed.borrow().last {
                println!("    ({:.0} MB had to be checked)", *bytes as f64 / 1e6);
            }
        }
    }
}

/// The time of one of many.
fn in_memory(once: impl Fn()) -> Vec<f64> {
    const MANY: u32 = 1_000;
    let start = Instant::now();
    (0..MANY).for_each(|_| once());
    vec![start.elapsed().as_secs_f64() * 1e6 / f64::from(MANY)]
}

/// Fills a broker and prints a line; then waits to be killed. It ends by itself if the parent is
/// gone.
pub(crate) fn fill_until_killed(args: &FillArgs, bytes: u64) -> ! {
    let broker = filled(&args.dir, args.segment_bytes, bytes);
    println!("{FULL}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    // Without unwinding and without closing: as if killed.
    std::mem::forget(broker);
    std::process::abort()
}

fn filled(dir: &Path, segment_bytes: u32, bytes: u64) -> Broker {
    let set = RecordSet::kibibytes(4 << 20);
    let broker = Broker::open(dir).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().segment_bytes(segment_bytes)).unwrap();
    fill(&broker, &topic, &set, set.count_for(bytes));
    broker
}

fn close_with(dir: &Path, bytes: u64) {
    filled(dir, 64 << 20, bytes).close().unwrap();
}

/// Opens a broker: the milliseconds it took, and the bytes that were read again.
fn opened(dir: &Path, clean: bool) -> (Vec<f64>, u64) {
    let start = Instant::now();
    let broker = Broker::open(dir).unwrap();
    let took = millis(start);
    let report = broker.open_report();
    assert_eq!((report.clean, report.truncated_tails.len(), report.damaged.len()), (clean, 0, 0));
    let bytes = report.recovered.iter().map(|recovery| recovery.bytes).sum();
    broker.close().unwrap();
    (took, bytes)
}

fn open_files(dir: &Path) -> Vec<f64> {
    let start = Instant::now();
    for path in files_below(dir, "") {
        let mut file = File::open(&path).unwrap();
        if path.extension().is_none_or(|extension| extension != "log") {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            black_box(crc32fast::hash(&bytes));
        }
    }
    millis(start)
}

/// Brokers that were killed.
struct Killed {
    segment_bytes: u32,
    /// The last one that was opened again, and the bytes that were read for it.
    last: Option<(Scratch, u64)>,
}

impl Killed {
    fn new(segment_bytes: u32) -> Self {
        Killed { segment_bytes, last: None }
    }

    fn open(&mut self) -> Vec<f64> {
        // Only one at a time takes space.
        self.last = None;
        let scratch = Scratch::new();
        kill_one_that_fills(scratch.path(), self.segment_bytes);
        let (took, bytes) = opened(scratch.path(), false);
        self.last = Some((scratch, bytes));
        took
    }

    /// Checks as many of the newest bytes as the last opening did, and perhaps writes them again.
    fn check(&mut self, rewrite: bool) -> Vec<f64> {
        if self.last.is_none() {
            self.open();
        }
        let Some((scratch, bytes)) = &self.last else { return vec![f64::NAN] };
        let files = files_below(scratch.path(), ".log");
        let start = Instant::now();
        let (mut left, mut room) = (*bytes, vec![0; 1 << 20]);
        for path in files.iter().rev() {
            let file = File::options().read(true).write(rewrite).open(path).unwrap();
            let len = file.metadata().unwrap().len();
            let mut position = len - len.min(left);
            left -= len - position;
            while position < len {
                let step = room.len().min((len - position) as usize);
                file.read_exact_at(&mut room[..step], position).unwrap();
                black_box(crc32fast::hash(&room[..step]));
                if rewrite {
                    file.write_all_at(&room[..step], position).unwrap();
                }
                position += step as u64;
            }
            if rewrite {
                file.sync_data().unwrap();
            }
            if left == 0 {
                break;
            }
        }
        millis(start)
    }
}

/// Starts this program again as one that fills a broker, and kills it when the broker is full.
fn kill_one_that_fills(dir: &Path, segment_bytes: u32) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Quick or not is the same for both.
    command.args(std::env::args().filter(|word| word == "--quick"));
    command.arg(FILL).arg(dir).arg(segment_bytes.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(line.trim_end(), FULL);
}

fn millis(start: Instant) -> Vec<f64> {
    vec![start.elapsed().as_secs_f64() * 1e3]
}

const FULL: &str = "full";
