//! The records: JSON as applications log it, the same in every run, which LZ4 shrinks about
//! fourfold.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::limit::{self, BATCH_BYTES};

/// Values of one kind, one after the other in memory. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct RecordSet {
    pub(crate) name: &'static str,
    values: Arc<Values>,
}

#[derive(Default)]
struct Values {
    bytes: Vec<u8>,
    places: Vec<Range<u32>>,
}

impl RecordSet {
    pub(crate) const LOG_LINES: &'static str = "log lines";

    /// Every kind, about `bytes` of each.
    pub(crate) fn all(bytes: usize) -> Vec<RecordSet> {
        let mut sets = vec![RecordSet::generate("100B", 100, bytes), RecordSet::kibibytes(bytes)];
        sets.extend(RecordSet::log_lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data")));
        sets
    }

    /// Records of 1 KiB.
    pub(crate) fn kibibytes(bytes: usize) -> Self {
        RecordSet::generate("1KiB", 1024, bytes)
    }

    fn generate(name: &'static str, size: usize, bytes: usize) -> Self {
        let mut random = Random(size as u64);
        let mut values = Values::default();
        let mut text = String::new();
        for number in 0..bytes / size {
            text.clear();
            if size < 1024 {
                small(number, &mut random, &mut text)
            } else {
                large(number, &mut random, &mut text)
            }
            // To size: the tail of the last field.
            while text.len() < size {
                text.push('.');
            }
            text.truncate(size);
            values.push(text.as_bytes());
        }
        RecordSet { name, values: Arc::new(values) }
    }

    /// The lines of all logs in a directory, if it is there.
    fn log_lines(dir: &Path) -> Option<Self> {
        let mut values = Values::default();
        let mut files: Vec<_> = std::fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "log")) {
            for line in
                std::fs::read(file).unwrap().split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
            {
                values.push(line);
            }
        }
        (!values.places.is_empty()).then(|| RecordSet { name: Self::LOG_LINES, values: Arc::new(values) })
    }

    /// The number of distinct ones.
    pub(crate) fn len(&self) -> usize {
        self.values.places.len()
    }

    /// The number of records that have about this many bytes.
    pub(crate) fn count_for(&self, bytes: u64) -> usize {
        (bytes as f64 / self.values.bytes.len() as f64 * self.len() as f64) as usize
    }

    /// This many values, from the first on, repeated.
    pub(crate) fn take(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        self.values
            .places
            .iter()
            .cycle()
            .take(count)
            .map(|at| &self.values.bytes[at.start as usize..at.end as usize])
    }

    /// The factor by which LZ4 shrinks batches of them.
    pub(crate) fn ratio(&self) -> f64 {
        let bodies = limit::bodies(self, BATCH_BYTES, self.count_for(4 << 20).min(self.len()));
        let plain: usize = bodies.iter().map(Vec::len).sum();
        let packed: usize = bodies.iter().map(|body| lz4_flex::block::compress(body).len()).sum();
        plain as f64 / packed as f64
    }
}

impl Values {
    fn push(&mut self, value: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.places.push(start..self.bytes.len() as u32);
    }
}

/// A line of an access log, 100 bytes.
fn small(number: usize, random: &mut Random, out: &mut String) {
    let at = 1_700_000_000_000u64 + 3 * number as u64;
    let event = random.one_of(&["view", "click", "search", "purchase"]);
    let (user, page, took) = (random.below(20_000), random.below(1_000), random.below(500));
    write!(out, r#"{{"at":{at},"user":"u-{user:05}","event":"{event}","page":"/shop/item/{page}","ms":{took},"ok":true}}"#)
        .unwrap();
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
    .unwrap();
    for line in 0..7 {
        let (sku, quantity, price) = (random.next() & 0xffff_ffff, 1 + random.below(4), random.below(20_000));
        let comma = if line == 0 { "" } else { "," };
        write!(out, r#"{comma}{{"sku":"SKU-{sku:08x}","title":"Alpaca wool, natural","quantity":{quantity},"price":"{}.{:02}","taxRate":"0.18"}}"#, price / 100, price % 100)
            .unwrap();
    }
    let trace = (random.next(), random.next());
    write!(
        out,
        r#"],"payment":{{"method":"card","status":"authorized"}},"trace":"{:016x}{:016x}","note":""#,
        trace.0, trace.1
    )
    .unwrap();
}

/// SplitMix64: enough for data that need not be random.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}
