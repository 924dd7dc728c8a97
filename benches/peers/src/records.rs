//! The records: JSON as applications log it, the same in every process, which LZ4 shrinks about
//! fourfold; and the lines of real logs, where `../shared/data` is beside the project.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// About so many bytes of distinct records: more than the caches of a core hold.
const DISTINCT_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Bytes10,
    Bytes100,
    Bytes1024,
    Lines,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bytes10 => "10B",
            Kind::Bytes100 => "100B",
            Kind::Bytes1024 => "1KiB",
            Kind::Lines => "lines",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Kind::Bytes10 => "records of 10 B",
            Kind::Bytes100 => "records of 100 B",
            Kind::Bytes1024 => "records of 1 KiB",
            Kind::Lines => "lines of real logs",
        }
    }

    /// How many records a batch has, unless a contender takes fewer.
    pub fn batch(self) -> usize {
        if self == Kind::Bytes1024 { 256 } else { 1000 }
    }

    /// Whether there are such records here.
    pub fn is_there(self) -> bool {
        self != Kind::Lines || !log_files().is_empty()
    }
}

/// Values of one kind. A run appends them in turn, from the first on.
pub struct Records {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Records {
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Bytes10 => Records::generate(10, DISTINCT_BYTES / 8),
            Kind::Bytes100 => Records::generate(100, DISTINCT_BYTES),
            Kind::Bytes1024 => Records::generate(1024, DISTINCT_BYTES),
            Kind::Lines => Records::lines(),
        }
    }

    fn generate(size: usize, bytes: usize) -> Self {
        let mut random = Random(size as u64);
        let mut records = Records { bytes: Vec::with_capacity(bytes), ends: Vec::new() };
        let mut text = String::new();
        for number in 0..bytes / size {
            text.clear();
            match size {
                0..100 => write!(text, "{:010}", random.below(10_000_000_000)).expect("memory"),
                100..1024 => small(number, &mut random, &mut text),
                _ => large(number, &mut random, &mut text),
            }
            // To size: the tail of the last field.
            while text.len() < size {
                text.push('.');
            }
            text.truncate(size);
            records.push(text.as_bytes());
        }
        records
    }

    fn lines() -> Self {
        let mut records = Records { bytes: Vec::new(), ends: Vec::new() };
        for file in log_files() {
            let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                records.push(line);
            }
        }
        records
    }

    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len() as u32);
    }

    /// All values, in their order.
    pub fn values(&self) -> Vec<&[u8]> {
        let mut start = 0;
        let mut values = Vec::with_capacity(self.ends.len());
        for end in &self.ends {
            values.push(&self.bytes[start..*end as usize]);
            start = *end as usize;
        }
        values
    }

    /// The bytes of the longest.
    pub fn longest(&self) -> usize {
        self.values().iter().map(|value| value.len()).max().unwrap_or(0)
    }

    /// How many records have about so many bytes.
    pub fn count_for(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.bytes.len() as f64 * self.ends.len() as f64) as u64
    }
}

/// The logs in `../shared/data` beside the project's root, if that is there.
fn log_files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files
}

/// A line of an access log, 100 bytes.
fn small(number: usize, random: &mut Random, out: &mut String) {
    let at = 1_700_000_000_000u64 + 3 * number as u64;
    let event = random.one_of(&["view", "click", "search", "purchase"]);
    let (user, page, took) = (random.below(20_000), random.below(1_000), random.below(500));
    write!(out, r#"{{"at":{at},"user":"u-{user:05}","event":"{event}","page":"/shop/item/{page}","ms":{took},"ok":true}}"#)
        .expect("memory");
}

/// An order with its lines, 1 KiB.
fn large(number: usize, random: &mut Random, out: &mut String) {
    let at = 1_700_000_000_000u64 + 40 * number as u64;
    let (order, customer) = (random.next(), random.below(20_000));
    let city = random.one_of(&["Cusco", "Lima", "Arequipa", "Puno", "Trujillo"]);
    write!(
        out,
        r#"{{"type":"OrderPlaced","version":3,"at":{at},"order":"{order:016x}","customer":{{"id":"customer-{customer}","segment":"retail","country":"PE","city":"{city}"}},"currency":"PEN","lines":["#
    )
    .expect("memory");
    for line in 0..7 {
        let (sku, quantity, price) = (random.next() & 0xffff_ffff, 1 + random.below(4), random.below(20_000));
        let comma = if line == 0 { "" } else { "," };
        write!(out, r#"{comma}{{"sku":"SKU-{sku:08x}","title":"Alpaca wool, natural","quantity":{quantity},"price":"{}.{:02}","taxRate":"0.18"}}"#, price / 100, price % 100)
            .expect("memory");
    }
    let trace = (random.next(), random.next());
    write!(
        out,
        r#"],"payment":{{"method":"card","status":"authorized"}},"trace":"{:016x}{:016x}","note":""#,
        trace.0, trace.1
    )
    .expect("memory");
}

/// SplitMix64: enough for data that need not be random.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}
