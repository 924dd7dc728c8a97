//! A second reader of a broker's directory, written from FORMAT.md alone: it uses no code of the
//! crate. It reads whole files into memory, writes nothing, and prints what an opening that
//! recovers would find.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

type Id = [u8; 16];
type Place = (Id, u64); // topic id, partition
type Logs = HashMap<Place, Option<Log>>; // none: unusable

type Bad = &'static str;
const DAMAGED: Bad = "damaged";
const UNSUPPORTED: Bad = "unsupported";

/// The number of `n` bytes at `at`; the caller knows that they are there.
fn le(b: &[u8], at: usize, n: usize) -> u64 {
    b[at..at + n].iter().rev().fold(0, |v, &x| v << 8 | x as u64)
}

fn known(good: bool) -> Result<(), Bad> {
    good.then_some(()).ok_or(UNSUPPORTED)
}

fn crc(parts: &[&[u8]]) -> u64 {
    crc32fast::hash(&parts.concat()) as u64
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(n as usize)?)?;
        self.at += taken.len();
        Some(taken)
    }
    fn num(&mut self, n: usize) -> Option<u64> {
        Some(le(self.take(n as u64)?, 0, n))
    }
    fn place(&mut self) -> Option<Place> {
        Some((self.take(16)?.try_into().ok()?, self.num(4)?))
    }
    fn varint(&mut self) -> Option<u64> {
        let (mut v, mut shift) = (0, 0);
        loop {
            let b = self.num(1)?;
            v |= (b & 127).checked_shl(shift)?;
            if b < 128 {
                return Some(v);
            }
            shift += 7;
        }
    }
    fn sized(&mut self) -> Option<&'a [u8]> {
        let n = self.varint()?;
        self.take(n)
    }
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.sized()?.to_vec()).ok()
    }
}

/// The rules of evolution. The CRC is at `end`; version and features of listed files are at
/// `listed`.
fn frame<'a>(b: &'a [u8], magic: &[u8; 8], end: usize, listed: usize) -> Result<Cursor<'a>, Bad> {
    let version = b.get(8..12).filter(|_| b.starts_with(magic)).map_or(0, |v| le(v, 0, 4));
    let whole = end >= listed + 8 && b.len() >= end + 4 && crc(&[&b[..end]]) == le(b, end, 4);
    if version == 0 || version == 2 && !whole {
        return Err(DAMAGED);
    }
    let features = (magic == b"QUIPUMAN") as u64; // successors
    known(
        version == 2 && le(b, 12, 4) & !features == 0 && le(b, listed, 4) <= 2 && le(b, listed + 4, 4) == 0,
    )?;
    Ok(Cursor { bytes: &b[..end], at: 20 })
}

/// The changes of the catalog or records of the journal from `p` on, and where they end. None if a
/// later one says, at `at`, that more had been there.
fn changes<'a>(b: &'a [u8], mut p: usize, m: &[u8; 4], seed: u64, at: usize) -> Option<(Vec<&'a [u8]>, u64)> {
    let change = |p: usize| {
        let h = b.get(p..p + 12).filter(|h| h.starts_with(m))?;
        let content = b.get(p + 12..p + 12 + le(h, 4, 4) as usize).filter(|c| c.len() >= 9)?;
        let sum = crc(&[&seed.to_le_bytes(), &(p as u64).to_le_bytes(), &h[4..8], content]);
        (sum == le(h, 8, 4)).then_some(content)
    };
    let mut all = Vec::new();
    while let Some(content) = change(p) {
        all.push(content);
        p += 12 + content.len();
    }
    let later = |q| change(q).and_then(|bytes| Cursor { bytes, at }.num(8)) > Some(p as u64);
    (!(p + 1..b.len()).any(later)).then_some((all, p as u64))
}

#[derive(Default)]
struct Catalog {
    end: u64,
    unknown: bool, // a kind of change that must be understood is not
    topics: BTreeMap<Id, (String, u64, u64, bool)>, // name, state, partitions, are all settings understood
    files: BTreeSet<Place>,
    epochs: HashMap<Place, Vec<(u64, u64)>>,
}

fn catalog(b: &[u8]) -> Option<Catalog> {
    let (changes, end) = changes(b, 64, b"QCHG", le(b, 20, 8), 1).filter(|c| c.1 >= le(b, 28, 8))?;
    let mut c = Catalog { end, ..Catalog::default() };
    for bytes in changes {
        let mut t = Cursor { bytes, at: 9 };
        match bytes[0] {
            0 => return None,
            2 => {
                let (id, state, partitions, _, len) =
                    (t.take(16)?.try_into().ok()?, t.num(1)?, t.num(4)?, t.num(8)?, t.num(1)?);
                let name = String::from_utf8(t.take(len)?.to_vec()).ok()?;
                let mut good = (1..=100_000).contains(&partitions).then_some(true)?;
                for _ in 0..t.num(4)? {
                    let (tag, flags, len) = (t.num(2)?, t.num(1)?, t.num(4)?);
                    good &= t.take(len).is_some() && (matches!(tag, 1..=8 | 10..=16 | 18 | 19) || flags == 0);
                }
                c.topics.insert(id, (name, state, partitions, good));
            }
            3 => drop(c.topics.remove(t.take(16)?)),
            6 => {
                let ((id, first), bits) = (t.place()?, &bytes[t.at..]);
                let marked = (0..bits.len() as u64 * 8).filter(|i| bits[*i as usize / 8] >> (i % 8) & 1 == 1);
                c.files.extend(marked.map(|i| (id, first + i)));
            }
            8 => {
                for _ in 0..t.num(4)? {
                    c.epochs.entry(t.place()?).or_default().push((t.num(4)?, t.num(8)?));
                }
            }
            kind => c.unknown |= (8..128).contains(&kind),
        }
    }
    c.unknown |= c.topics.values().any(|t| t.1 == 1 && !t.3);
    Some(c)
}

fn topic_dir(name: &str, id: &Id) -> String {
    let first = name.split('.').next().unwrap_or_default().to_lowercase();
    let port = first.strip_prefix("com").or(first.strip_prefix("lpt")).unwrap_or_default();
    let device = port.len() == 1 && port.as_bytes()[0].is_ascii_digit();
    let device = device || ["con", "prn", "aux", "nul"].contains(&first.as_str());
    let mut dir = String::from(if device { "%-" } else { "" });
    for c in name.chars() {
        dir += if c.is_ascii_uppercase() { "%" } else { "" };
        dir.push(c.to_ascii_lowercase());
    }
    dir += if name.ends_with('.') { "%-" } else { "" };
    Some(dir).filter(|dir| dir.len() <= 200).unwrap_or(format!("%%{:032x}", u128::from_be_bytes(*id)))
}

fn manifest(mut t: Cursor, place: Place) -> Option<Log> {
    let (number, id, secret, _, start) = (t.num(4)?, t.take(16)?, t.take(16)?, t.num(8)?, t.num(8)?);
    let (more, mut lists) = (le(t.bytes, 16, 4) != 0, Vec::new());
    for known in [12, 53] {
        let (n, each) = (t.num(4)?, t.num(4).filter(|each| *each == known || more && *each > known)?);
        lists.push(t.take(n * each)?.chunks(each as usize).map(<[u8]>::to_vec).collect::<Vec<_>>());
    }
    let (segments, epochs) = (lists.pop()?, lists.pop()?);
    let epochs: Vec<_> = epochs.iter().map(|e| (le(e, 0, 4), le(e, 4, 8))).collect();
    let states = segments.iter().rev().enumerate().all(|(i, s)| (s[16] == 1) == (i == 0) && s[16] < 5);
    let good = id == place.0 && number == place.1 && states && !epochs.is_empty() && !segments.is_empty();
    let seed = [secret, id, &t.bytes[20..24]].concat();
    let successors = t.bytes[12] & 1 == 1;
    (good && (more || t.at == t.bytes.len())).then(|| Log {
        seed,
        start,
        epochs,
        segments,
        successors,
        ..Log::default()
    })
}

/// A batch that was checked: header and body.
struct Batch {
    raw: Vec<u8>,
    base: u64,
    end: u64,
    id: u64, // of its transaction
}

/// Number and width of the entries of the position table of a batch with this header.
fn table(h: &[u8]) -> (u64, u64) {
    let entries = le(h, 20, 4).saturating_sub(1) >> h[59].min(15);
    (entries * (h[59] > 0) as u64, 2 + 2 * (le(h, 88, 4) > 65_536) as u64)
}

/// The header at `p` if its CRC fits and it is plausible.
fn head<'a>(b: &'a [u8], p: usize, seed: &[u8]) -> Result<&'a [u8], Bad> {
    let h = b.get(p..p + 104).filter(|h| &h[..4] == b"QBAT").ok_or(DAMAGED)?;
    if crc(&[seed, &h[..100]]) != le(h, 100, 4) {
        return Err(DAMAGED);
    }
    let (bits, base, delta, plain) = (le(h, 60, 4), le(h, 8, 8), le(h, 16, 4), le(h, 88, 4));
    known(bits & 0xffe0 == 0)?;
    let (count, (entries, width)) = (le(h, 20, 4), table(h));
    let stored = le(h, 4, 4).checked_sub(entries * width).ok_or(DAMAGED)?;
    let good = delta < u32::MAX as u64 && count <= delta + 1 && base.checked_add(delta + 1).is_some();
    let good = good && h[59] < 16 && plain <= 1 << 26 && 2 * count <= plain && le(h, 72, 8) <= base;
    let good = good && stored <= plain && (stored == plain) == (h[58] == 0) && (count > 0 || plain == 0);
    let good = good && (bits & 6 != 0 || le(h, 80, 8) == 0) && (bits & 8 != 0 || bits & 16 == 0);
    (good && (bits & 8 != 0 || le(h, 48, 8) == 0)).then_some(h).ok_or(DAMAGED)
}

fn batch(b: &[u8], p: usize, seed: &[u8]) -> Result<Batch, Bad> {
    let h = head(b, p, seed)?;
    let whole = b.get(p..p + 104 + le(h, 4, 4) as usize).ok_or(DAMAGED)?;
    (crc(&[&whole[104..]]) == le(h, 96, 4))
        .then(|| Batch {
            raw: whole.to_vec(),
            base: le(h, 8, 8),
            end: le(h, 8, 8) + le(h, 16, 4) + 1,
            id: le(h, 64, 8),
        })
        .ok_or(DAMAGED)
}

/// Offset, key, value, and the line that the dump has for it.
type Record = (u64, Option<Vec<u8>>, Option<Vec<u8>>, String);

fn record(bytes: &[u8], b: &Batch, next: u64) -> Option<Record> {
    let mut t = Cursor { bytes, at: 0 };
    let show = |b: Option<&[u8]>| format!("{:?}", b.map(String::from_utf8_lossy));
    let (flags, max) = (t.num(1).filter(|f| *f < 32)?, le(&b.raw, 32, 8) as i64);
    let zigzag = if flags & 8 != 0 { t.varint()? } else { 0 };
    let delta = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let time = if b.raw[60] & 1 == 1 { max } else { (le(&b.raw, 24, 8) as i64).checked_add(delta)? };
    let offset = if flags & 16 != 0 { b.base.checked_add(t.varint()?)? } else { next };
    let key = if flags & 1 != 0 { Some(t.sized()?) } else { None };
    let value = if flags & 2 != 0 { Some(t.sized()?) } else { None };
    let mut line = format!("{offset} {time} {} {}", show(key), show(value));
    for _ in 0..if flags & 4 != 0 { t.varint()? } else { 0 } {
        let (name, len) = (t.text()?, t.varint()?);
        let value = if len > 0 { Some(t.take(len - 1)?) } else { None };
        line += &format!(" {name}={}", show(value));
    }
    let good =
        (0..=max.min(1 << 62)).contains(&time) && (next..b.end).contains(&offset) && t.at == bytes.len();
    good.then(|| (offset, key.map(Vec::from), value.map(Vec::from), line + "\n"))
}

fn records(b: &Batch) -> Option<Vec<Record>> {
    let (h, (entries, width)) = (&b.raw, table(&b.raw));
    let (stored, positions) = h[104..].split_at(h.len() - 104 - (entries * width) as usize);
    let plain = match h[58] {
        0 => stored.to_vec(),
        1 => lz4_flex::block::decompress(stored, le(h, 88, 4) as usize).ok()?,
        _ => return None,
    };
    let (mut t, mut all, mut next) = (Cursor { bytes: &plain, at: 0 }, Vec::new(), b.base);
    let mut positions = positions.chunks(width as usize);
    for i in 0..le(h, 20, 4) {
        if h[59] > 0 && i > 0 && i % (1 << h[59]) == 0 {
            positions.next().filter(|e| le(e, 0, e.len()) == t.at as u64)?;
        }
        all.push(record(t.sized()?, b, next)?);
        next = all[i as usize].0 + 1;
    }
    (plain.len() as u64 == le(h, 88, 4) && t.at == plain.len()).then_some(all)
}

/// A partition's log as recovery leaves it. `Err(offset)` among the batches: damage where that was
/// expected.
#[derive(Default)]
struct Log {
    seed: Vec<u8>, // secret, topic id, partition: of the header CRCs of batches
    start: u64,
    epochs: Vec<(u64, u64)>,
    segments: Vec<Vec<u8>>, // the manifest's entries as they are
    successors: bool,       // may follow the last of them
    began: u64,             // where the scan began: a transaction's batch below it is there
    end: u64,
    batches: Vec<Result<Batch, u64>>,
    cut: Option<(u64, u64)>, // where a torn tail was cut, and its bytes
    put_back: u64,           // how many of these a transaction has put back
    damaged: bool,           // recovery met corruption
}

fn cut_before(log: &mut Log, drop: impl Fn(&Batch) -> bool) -> Option<u64> {
    let first = log.batches.iter().position(|b| b.as_ref().is_ok_and(&drop))?;
    let at = log.batches.drain(first..).next()?.ok()?.base;
    log.end = at.max(log.start);
    Some(at)
}

/// Adds the successors of the last segment to the manifest's entries, and at a break all segments
/// after it. Each gets the entry that a manifest would have.
fn add_successors(dir: &Path, log: &mut Log) -> Result<(), Bad> {
    let file = |base: u64, n: u64| fs::read(dir.join(format!("{base:020}-{n}.log"))).unwrap_or_default();
    let base_of = |name: &str| name.strip_suffix("-0.log").filter(|n| n.len() == 20)?.parse().ok();
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut bases: Vec<u64> = names.filter_map(|f| base_of(f.file_name().to_str()?)).collect();
    bases.sort_unstable();
    while let Some(e) = log.segments.last_mut() {
        let (base, epoch) = (le(e, 0, 8), le(e, 12, 4));
        let b = file(base, le(e, 8, 4));
        let (mut p, mut end, mut digest) = (128, base, [0u64; 2]);
        let mut last = b.get(56..60).map_or(0, |c| le(c, 0, 4));
        while let Some(x) = batch(&b, p, &log.seed).ok().filter(|x| x.base == end) {
            for (half, at) in digest.iter_mut().zip([100, 96]) {
                *half = ((*half ^ le(&x.raw, at, 4)) * 16_777_619) & 0xffff_ffff;
            }
            (p, end, last) = (p + x.raw.len(), x.end, le(&x.raw, 100, 4));
        }
        let whole = b.get(p..).is_some_and(|rest| rest.iter().all(|&x| x == 0));
        let mut next = None; // its base, its epoch, the CRC before it, and whether it follows
        for &n in bases.iter().filter(|n| **n > base) {
            let f = file(n, 0);
            let header = frame(&f, b"QUIPUSEG", 124, 8).map(drop);
            known(header != Err(UNSUPPORTED))?;
            let named = |h: &[u8]| [&h[80..96], &h[24..40], &h[20..24], &h[40..48], &h[48..56]].concat();
            let same = [&log.seed[..], &n.to_le_bytes(), &n.to_le_bytes()].concat();
            let of_log = header.is_ok() && named(&f) == same && le(&f, 60, 4) == 0;
            let of_log = of_log && (epoch..=log.epochs.last().map_or(0, |e| e.0)).contains(&le(&f, 64, 4));
            let (began, crc) = if of_log { (le(&f, 64, 4), le(&f, 56, 4)) } else { (epoch, 0) };
            let follows = of_log && whole && n == end && crc == last;
            let has_batch = || (0..f.len()).any(|q| head(&f, q, &log.seed).is_ok_and(|h| le(h, 8, 8) >= end));
            let after = of_log || header.is_err() && f.len() > 128;
            if follows || after && (!whole || n >= end && has_batch()) {
                next = Some((n, began, crc, follows));
                break;
            }
        }
        let Some((n, began, crc, follows)) = next else { break };
        e[16] = 2;
        let size = if whole { p } else { b.len().max(128) };
        let crc = if follows { last } else { crc };
        e[17..37].copy_from_slice(
            &[&(size as u64).to_le_bytes()[..], &n.to_le_bytes(), &(crc as u32).to_le_bytes()].concat(),
        );
        e[45..53].copy_from_slice(&(digest[0] | digest[1] << 32).to_le_bytes());
        let active = [&n.to_le_bytes()[..], &[0; 4], &(began as u32).to_le_bytes(), &[1], &[0; 36]].concat();
        log.segments.push(active);
    }
    Ok(())
}

/// `mark`: the partition's entry in the checkpoint.
fn scan(dir: &Path, mut log: Log, clean: bool, mark: Option<&[u8]>) -> Result<Log, Bad> {
    let closed = |e: &Vec<u8>| clean && mark.is_some_and(|k| k[20..32] == e[..12]);
    if log.successors && !log.segments.last().is_some_and(closed) {
        add_successors(dir, &mut log)?;
    }
    let (segments, epochs, seed) = (log.segments.clone(), log.epochs.clone(), log.seed.clone());
    let marked = |e: &[u8]| mark.filter(|k| k[20..32] == e[..12] && k[68..72] == e[12..16]);
    let mut files = Vec::new(); // of each its bytes, whether its header is whole, and not another's
    for e in &segments {
        let file = fs::read(dir.join(format!("{:020}-{}.log", le(e, 0, 8), le(e, 8, 4))));
        let (there, mut b) = (file.is_ok(), file.unwrap_or_default());
        let whole = frame(&b, b"QUIPUSEG", 124, 8).map(drop);
        let named = |h: &[u8]| [&h[80..96], &h[24..40], &h[20..24], &h[40..48], &h[60..68]].concat();
        let own = there && (whole.is_err() || named(&b) == [&seed, &e[..16]].concat());
        known(whole != Err(UNSUPPORTED))?;
        let end = marked(e).filter(|_| clean).map_or(u64::MAX, |k| le(k, 32, 8));
        b.truncate(if e[16] > 1 { le(e, 17, 8) } else { end } as usize);
        files.push((b, whole.is_ok(), own));
    }
    'log: for (i, ((b, whole, own), e)) in files.iter().zip(&segments).enumerate() {
        let (first, gaps, sealed) = (log.batches.len(), e[16] > 2 && le(e, 8, 4) > 0, e[16] > 1);
        let before = &segments[i.saturating_sub(1)];
        let chained = i > 0 && le(e, 8, 4) == 0 && le(before, 8, 4) == 0 && e[..8] == before[25..33];
        let usable = *whole && *own && b.len() >= 128 && (!chained || b[48..60] == before[25..37]);
        log.end = log.end.max(le(e, 0, 8));
        let mut p = if usable { 128 } else { 0 };
        // In an unclean checkpoint, 128 says nothing of the header.
        let (position, checked) = marked(e).map_or((0, 0), |k| (le(k, 32, 8), le(k, 40, 8)));
        let least = if clean || position > 128 { position } else { 0 };
        let whole = e[16] > 2 || clean || mark.is_some_and(|k| le(k, 20, 8) > le(e, 0, 8));
        let synced = if whole { u64::MAX } else { least };
        log.began = log.began.max(checked).max(if whole { le(e, 25, 8) } else { 0 });
        loop {
            let end = log.end;
            let fits = |x: &Batch| {
                let (epoch, begun) = (le(&x.raw, 92, 4), le(e, 12, 4));
                let last = epochs.iter().rev().find(|e| e.1 <= x.base).map(|e| e.0.max(begun));
                x.base >= end && last.map_or(epoch >= begun && epoch <= epochs[0].0, |last| epoch == last)
            };
            match batch(b, p, &seed) {
                Ok(x) if usable && fits(&x) && (gaps || x.base == end) => {
                    (p, log.end) = (p + x.raw.len(), x.end);
                    log.batches.push(Ok(x));
                    continue;
                }
                got => known(got.err() != Some(UNSUPPORTED))?,
            }
            let got: Vec<_> = log.batches[first..].iter().flatten().collect();
            let tail = b[p..].iter().rposition(|&x| x != 0).map_or(0, |last| last as u64 + 1);
            let sum = |at| got.iter().fold(0, |h, x| ((h ^ le(&x.raw, at, 4)) * 16_777_619) & 0xffff_ffff);
            let last = |x: &&Batch| x.end == le(e, 25, 8) && le(&x.raw, 100, 4) == le(e, 33, 4);
            let same = sum(96) << 32 | sum(100) == le(e, 45, 8) && got.last().is_none_or(last);
            let done = if sealed { p as u64 == le(e, 17, 8) && same } else { p as u64 >= least && tail == 0 };
            if usable && (done || p == b.len() && got.len() < log.batches.len() - first) {
                break;
            }
            let mut witness = false; // does a later batch say that the one expected here had been synced?
            for (j, (b, ..)) in files.iter().enumerate().skip(i) {
                for h in (if j == i { p + 1 } else { 0 }..b.len()).map(|q| head(b, q, &seed)) {
                    witness |= h.is_ok_and(|h| le(h, 72, 8) > end);
                    known(h != Err(UNSUPPORTED))?;
                }
            }
            if !witness && !log.damaged && *own && p as u64 >= synced {
                // Of a sealed segment the manifest says how much there was; a transaction may put
                // all of it back.
                let sealed_tail = le(e, 17, 8).saturating_sub(p as u64);
                let later = files.iter().skip(i + 1).map(|(b, ..)| b.len().saturating_sub(128) as u64);
                let tail =
                    if i + 1 < files.len() { sealed_tail.max(tail) + later.sum::<u64>() } else { tail };
                log.cut = Some((end, tail)).filter(|_| tail > 0);
                break 'log;
            }
            log.damaged |= p as u64 >= synced || synced < u64::MAX;
            log.batches.push(Err(end));
            let at = |q: &usize| usable && batch(b, *q, &seed).is_ok_and(|x| fits(&x));
            let Some(q) = (p + 1..b.len()).find(at) else { break };
            (p, log.end) = (q, le(b, q + 8, 8));
        }
    }
    if let Some(&Err(first)) = log.batches.iter().find(|b| b.is_err()) {
        log.end = log.batches.iter().flatten().last().map_or(first, |b| b.end).max(log.began);
    }
    log.end = log.end.max(log.start);
    Ok(log)
}

/// Settles the transactions of the journal.
fn settle(b: &[u8], logs: &mut Logs) -> Option<()> {
    let (floor, mut transactions) = (le(b, 20, 8), Vec::new());
    for bytes in changes(b, 32, b"QTXN", floor, 8)?.0 {
        let mut t = Cursor { bytes, at: 0 };
        let (id, _, mut parts) = (t.num(8)?, t.num(8)?, Vec::new());
        for _ in 0..t.num(4)? {
            let (place, base, len) = (t.place()?, t.num(8)?, t.num(4)?);
            parts.push((place, base, t.take(len)?));
        }
        transactions.push((id, parts));
    }
    let has_none = |b: &Batch| b.id >= floor && !transactions.iter().any(|r| r.0 == b.id);
    for log in logs.values_mut().flatten().filter(|l| !l.damaged) {
        log.cut = cut_before(log, has_none).map(|at| (at, u64::MAX)).or(log.cut);
    }
    for (id, parts) in &transactions {
        let (mut possible, mut found) = (true, Vec::new());
        for (place, base, bytes) in parts {
            let Some(Some(log)) = logs.get(place) else { continue };
            let same = |b: &Batch| b.base == *base && b.id == *id;
            let there = log.damaged || *base < log.start.max(log.began);
            let there = there || log.batches.iter().flatten().any(same);
            let next = batch(bytes, 0, &log.seed).ok().filter(|b| !there && same(b) && *base == log.end);
            possible &= there || next.is_some();
            found.push((place, *base, next));
        }
        for (place, base, missing) in found {
            let Some(log) = logs.get_mut(place)?.as_mut().filter(|l| !l.damaged) else { continue };
            if let Some(b) = missing.filter(|_| possible) {
                let there = log.put_back > 0 || log.cut.is_some_and(|c| c.0 == base);
                log.put_back += if there { b.raw.len() as u64 } else { 0 };
                log.end = b.end;
                log.batches.push(Ok(b));
            } else if !possible {
                cut_before(log, |b| b.base == base && b.id == *id);
            }
        }
    }
    Some(())
}

/// What an opening of the directory that recovers would find, as DUMP.md says.
pub fn dump(dir: &Path) -> String {
    open(dir).unwrap_or_else(|(word, path)| format!("{word} {path}\n"))
}

fn open(dir: &Path) -> Result<String, (Bad, String)> {
    let read = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
    let catalog_bytes = read("catalog");
    let of_catalog = |bad| (bad, "catalog".to_string());
    frame(&catalog_bytes, b"QUIPUCAT", 60, 36).map_err(of_catalog)?;
    let catalog = catalog(&catalog_bytes).ok_or(of_catalog(DAMAGED))?;
    let bytes = read("checkpoint");
    let checkpoint = frame(&bytes, b"QUIPUCHK", bytes.len().saturating_sub(4), 8).ok().map(|t| t.bytes);
    let checkpoint = checkpoint.filter(|b| b.len() >= 41 && b.len() as u64 == 41 + 80 * le(b, 37, 4));
    let number = le(&catalog_bytes, 20, 8);
    let checkpoint = checkpoint.filter(|b| b[20] == 0 || le(b, 21, 8) == number);
    let clean = checkpoint.is_some_and(|b| b[20] == 1);
    if catalog.unknown || clean && checkpoint.is_some_and(|b| catalog.end < le(b, 29, 8)) {
        return Err(of_catalog(if catalog.unknown { UNSUPPORTED } else { DAMAGED }));
    }
    let mut topics: Vec<_> = catalog.topics.iter().filter(|t| t.1.1 == 1).collect();
    topics.sort_by_key(|t| &t.1.0);
    let (mut logs, mut manifests) = (Logs::new(), Vec::new());
    for (id, (name, _, partitions, _)) in &topics {
        for place in (0..*partitions).map(|n| (**id, n)) {
            let path = format!("topics/{}/{}", topic_dir(name, id), place.1);
            let bytes = fs::read(dir.join(&path).join("manifest")).ok();
            let framed = bytes.as_ref().map(|b| frame(b, b"QUIPUMAN", b.len().saturating_sub(4), 56));
            known(!matches!(framed, Some(Err(UNSUPPORTED))))
                .map_err(|bad| (bad, format!("{path}/manifest")))?;
            let m = framed.and_then(|t| manifest(t.ok()?, place));
            manifests.push((place, dir.join(path), m, bytes.is_some()));
        }
    }
    let journal = read("journal");
    let journal_header = frame(&journal, b"QUIPUJNL", 28, 8).map(drop);
    known(journal_header != Err(UNSUPPORTED)).map_err(|bad| (bad, "journal".into()))?;
    for (place, path, m, there) in manifests {
        let mark = checkpoint
            .and_then(|b| b[41..].chunks(80).find(|k| k[..16] == place.0 && le(k, 16, 4) == place.1));
        let log = m.and_then(|mut m| {
            let last = m.epochs.last()?.0;
            for e in catalog.epochs.get(&place).into_iter().flatten().filter(|e| e.0 > last) {
                m.epochs.retain(|old| old.1 < e.1);
                m.epochs.push(*e);
            }
            scan(&path, m, clean, mark).ok()
        });
        let empty = !there && !catalog.files.contains(&place);
        logs.insert(place, log.or_else(|| empty.then(Log::default)));
    }
    if journal_header.is_ok() {
        settle(&journal, &mut logs);
    }
    let mut out = format!("clean {clean}\n");
    for (id, (name, _, partitions, _)) in topics.iter().filter(|t| t.1.0 != "__consumer_offsets") {
        out += &format!("topic {name} of {partitions} partitions\n");
        for n in 0..*partitions {
            let Some(log) = &logs[&(**id, n)] else {
                out += &format!("partition {n} unusable\n");
                continue;
            };
            out += &format!("partition {n} from {} to {}\n", log.start, log.end);
            let cut = log.cut.filter(|c| c.1 > log.put_back).map(|c| format!("cut at {}\n", c.0));
            out += &cut.unwrap_or_default();
            for b in &log.batches {
                match b.as_ref().map_err(|at| *at).and_then(|b| records(b).ok_or(b.base)) {
                    _ if b.as_ref().is_ok_and(|b| b.end <= log.start) => (),
                    Ok(all) => all.iter().filter(|r| r.0 >= log.start).for_each(|r| out += &r.3),
                    Err(at) if at < log.start && b.is_err() => (),
                    Err(at) => out += &format!("damage at {at}\n"),
                }
            }
        }
    }
    let offsets = topics.iter().find(|t| t.1.0 == "__consumer_offsets");
    let batches = offsets.and_then(|t| logs[&(*t.0, 0)].as_ref()).into_iter().flat_map(|log| &log.batches);
    let mut commits = BTreeMap::new();
    let mut add = |key: Option<Vec<u8>>, value: Option<Vec<u8>>| {
        let mut t = Cursor { bytes: &key?, at: 0 };
        t.take(2).filter(|v| *v == [1, 1])?;
        let (group, place) = (t.text()?, t.place()?);
        let end = logs.get(&place)?.as_ref().filter(|_| !clean).map_or(u64::MAX, |l| l.end);
        let parse = |mut t: Cursor| Some((t.num(8)?.min(end), t.take(12)?.len(), t.text()?));
        let value = match &value {
            Some(bytes) => Some(parse(Cursor { bytes, at: 0 })?),
            None => None,
        };
        commits.insert((group, &catalog.topics[&place.0].0, place.1), value)
    };
    for (_, key, value, _) in batches.flatten().filter_map(records).flatten() {
        add(key, value);
    }
    for ((group, topic, n), v) in commits {
        let line = v.map(|(next, _, metadata)| format!("group {group} {topic}/{n} {next} {metadata:?}\n"));
        out += &line.unwrap_or_default();
    }
    Ok(out)
}
