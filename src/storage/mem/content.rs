//! The bytes of one file: as written, and as a machine finds them after a power loss.

use std::io;

use crate::rng::SplitMix64;
use crate::storage::Map;
use crate::storage::mem::survive::Survive;
use crate::sync::{Arc, Weak};

/// The bytes of one file.
pub(super) struct Content {
    /// As every reader sees them. Shared with maps: a write while one is alive copies the bytes
    /// first.
    bytes: Arc<Vec<u8>>,
    /// The longest length that was ever mapped: bytes below it must not change any more.
    mapped: usize,
    /// The bytes of the newest map: they serve every later map of no greater length.
    snapshot: Weak<Vec<u8>>,
    /// The state for a simulated power loss; `None` without crash images.
    unsynced: Option<Unsynced>,
}

struct Unsynced {
    durable: Arc<Vec<u8>>,
    /// Writes since the last sync, oldest first.
    writes: Vec<Write>,
}

#[derive(Clone)]
struct Write {
    position: usize,
    bytes: Arc<[u8]>,
}

impl Content {
    /// An empty file, with or without the bookkeeping for
    /// [`after_power_loss`](Content::after_power_loss).
    pub(super) fn new(crash_images: bool) -> Self {
        Content::synced(Arc::default(), crash_images)
    }

    fn synced(bytes: Arc<Vec<u8>>, crash_images: bool) -> Self {
        let unsynced = crash_images.then(|| Unsynced { durable: Arc::clone(&bytes), writes: Vec::new() });
        Content { bytes, mapped: 0, snapshot: Weak::new(), unsynced }
    }

    /// All bytes as written.
    pub(super) fn bytes(&self) -> &Arc<Vec<u8>> {
        &self.bytes
    }

    /// Their number and a hash of 64 bits. Eight bytes a step, because the crash tests hash every
    /// state: the standard hasher took a fifteenth of their time.
    pub(super) fn fingerprint(&self) -> (usize, u64) {
        let mut hash = 0u64;
        let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let (words, rest) = self.bytes.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| mix(u64::from(*byte)));
        (self.bytes.len(), hash)
    }

    /// Copies the bytes at `position`. Returns their number.
    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> usize {
        let there =
            usize::try_from(position).ok().and_then(|from| self.bytes.get(from..)).unwrap_or_default();
        let n = there.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), there.get(..n)) {
            to.copy_from_slice(from);
        }
        n
    }

    /// Writes all of `bytes`; amortized over appends this costs their length.
    pub(super) fn write_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let position = usize::try_from(position).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let below_map = bytes.get(..self.mapped.saturating_sub(position)).unwrap_or(bytes);
        if !self.bytes.get(position..).unwrap_or_default().starts_with(below_map) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "mapped bytes cannot be changed"));
        }
        place(Arc::make_mut(&mut self.bytes), bytes, position)?;
        if let Some(unsynced) = &mut self.unsynced {
            unsynced.writes.push(Write { position, bytes: Arc::from(bytes) });
        }
        Ok(())
    }

    /// Makes all writes durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(unsynced) = &mut self.unsynced {
            for write in unsynced.writes.drain(..) {
                place(Arc::make_mut(&mut unsynced.durable), &write.bytes, write.position)?;
            }
        }
        Ok(())
    }

    /// Forgets that the writes since the last sync still have to be made durable.
    pub(super) fn lose_unsynced(&mut self) {
        if let Some(unsynced) = &mut self.unsynced {
            unsynced.writes.clear();
        }
    }

    /// The first `len` bytes as they are now.
    pub(super) fn map(&mut self, len: u64) -> io::Result<Map> {
        let shared = self.snapshot.upgrade().filter(|snapshot| snapshot.len() as u64 >= len);
        let bytes = shared.unwrap_or_else(|| Arc::clone(&self.bytes));
        self.snapshot = Arc::downgrade(&bytes);
        let map = Map::of_memory(bytes, len)?;
        self.mapped = self.mapped.max(map.len());
        Ok(map)
    }

    /// Changes the bytes from outside, without the rules of this process, durably.
    pub(super) fn edit<R>(&mut self, edit: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let result = edit(Arc::make_mut(&mut self.bytes));
        self.snapshot = Weak::new();
        if let Some(unsynced) = &mut self.unsynced {
            unsynced.durable = Arc::clone(&self.bytes);
            unsynced.writes.clear();
        }
        result
    }

    /// The process that mapped it has died; everything written is still in the page cache, synced
    /// or not.
    pub(super) fn after_kill(&mut self) {
        self.mapped = 0;
        self.snapshot = Weak::new();
    }

    /// The same file on a copy of the disk, with nothing mapped.
    pub(super) fn duplicate(&self) -> Content {
        let unsynced = self.unsynced.as_ref().map(|unsynced| Unsynced {
            durable: Arc::clone(&unsynced.durable),
            writes: unsynced.writes.clone(),
        });
        Content { bytes: Arc::clone(&self.bytes), mapped: 0, snapshot: Weak::new(), unsynced }
    }

    /// The file that a machine finds after losing its power.
    pub(super) fn after_power_loss(&self, fates: &mut Fates) -> Content {
        let bytes = match (&self.unsynced, fates.survive) {
            // A subset is counted over all files, so it is not decided here.
            (None, _) | (_, Survive::Everything | Survive::Subset(_)) => Arc::clone(&self.bytes),
            (Some(unsynced), Survive::Synced) => Arc::clone(&unsynced.durable),
            (Some(unsynced), Survive::Random(_)) => Arc::new(unsynced.scattered(fates)),
            (Some(unsynced), Survive::Zeroed(_)) => Arc::new(unsynced.zeroed(fates, self.bytes.len())),
        };
        Content::synced(bytes, self.unsynced.is_some())
    }

    /// As [`after_power_loss`](Content::after_power_loss), with the writes since the last sync that
    /// `keeps` names.
    pub(super) fn with_writes(&self, keeps: impl Fn(usize) -> bool) -> Content {
        let bytes = self.unsynced.as_ref().map(|unsynced| Arc::new(unsynced.some(keeps)));
        Content::synced(bytes.unwrap_or_else(|| Arc::clone(&self.bytes)), self.unsynced.is_some())
    }

    /// The number of writes that are not durable yet.
    pub(super) fn pending(&self) -> usize {
        self.unsynced.as_ref().map_or(0, |unsynced| unsynced.writes.len())
    }
}

impl Unsynced {
    /// With the writes that `keeps` names, by their number.
    fn some(&self, keeps: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut found = (*self.durable).clone();
        for (_, write) in self.writes.iter().enumerate().filter(|(n, _)| keeps(*n)) {
            put(&mut found, &write.bytes, write.position);
        }
        found
    }

    /// Each write kept, lost, torn or garbled.
    fn scattered(&self, fates: &mut Fates) -> Vec<u8> {
        let mut found = (*self.durable).clone();
        for write in &self.writes {
            if fates.keeps_data() {
                put(&mut found, &write.bytes, write.position);
                continue;
            }
            match fates.rng.below(4) {
                0 => {}
                1 => {
                    let prefix = fates.rng.below(write.bytes.len() as u64) as usize;
                    put(&mut found, write.bytes.get(..prefix).unwrap_or_default(), write.position);
                }
                2 => {
                    for (position, sector) in sectors(write) {
                        if fates.rng.below(2) == 0 {
                            put(&mut found, sector, position);
                        }
                    }
                }
                _ => self.garble(&mut found, write, fates),
            }
        }
        found
    }

    /// The write is there, with noise in at least one sector, and noise only where nothing was
    /// durable before, or only zeros, which were written ahead of it.
    fn garble(&self, found: &mut Vec<u8>, write: &Write, fates: &mut Fates) {
        put(found, &write.bytes, write.position);
        let chosen = fates.rng.below(sectors(write).count() as u64);
        for (nth, (position, sector)) in sectors(write).enumerate() {
            if nth as u64 == chosen || fates.rng.below(4) == 0 {
                let there = self.durable.get(position..).unwrap_or_default();
                let there = there.get(..sector.len()).unwrap_or(there);
                let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
                let fresh = if is_zero(there) && !is_zero(sector) { 0 } else { there.len() };
                let noise: Vec<u8> = sector.iter().skip(fresh).map(|_| fates.rng.next_u64() as u8).collect();
                put(found, &noise, position.saturating_add(fresh));
            }
        }
    }

    /// The length is kept; each sector of a write is kept or lost.
    fn zeroed(&self, fates: &mut Fates, len: usize) -> Vec<u8> {
        let mut found = (*self.durable).clone();
        found.resize(len.max(found.len()), 0);
        for write in &self.writes {
            for (position, sector) in sectors(write) {
                if fates.keeps_data() {
                    put(&mut found, sector, position);
                }
            }
        }
        found
    }
}

/// The pieces of a write that lie in one sector of the file each, with their positions.
fn sectors(write: &Write) -> impl Iterator<Item = (usize, &[u8])> {
    let mut position = write.position;
    let mut rest: &[u8] = &write.bytes;
    std::iter::from_fn(move || {
        let in_sector = SECTOR - position % SECTOR;
        let (piece, after) = rest.split_at_checked(in_sector).unwrap_or((rest, &[]));
        let at = position;
        position = position.saturating_add(piece.len());
        rest = after;
        (!piece.is_empty()).then_some((at, piece))
    })
}

/// The random decisions about one power loss.
pub(super) struct Fates {
    survive: Survive,
    rng: SplitMix64,
    /// The percentage of writes, and of directory operations, that survive whole.
    data_percent: u64,
    entry_percent: u64,
}

impl Fates {
    /// The fates of one crash; the same `survive` decides the same.
    pub(super) fn new(survive: Survive) -> Self {
        let mut rng = SplitMix64::new(match survive {
            Survive::Everything | Survive::Synced | Survive::Subset(_) => 0,
            Survive::Random(seed) | Survive::Zeroed(seed) => seed,
        });
        // Drawn once a crash, because fair coins alone would hardly ever lose only one of many
        // writes, or keep only one.
        let data_percent = rng.below(5) * 25;
        let entry_percent = rng.below(5) * 25;
        Fates { survive, rng, data_percent, entry_percent }
    }

    fn keeps_data(&mut self) -> bool {
        self.rng.below(100) < self.data_percent
    }

    /// Whether one unsynced directory operation survives.
    pub(super) fn keeps_entry(&mut self) -> bool {
        match self.survive {
            Survive::Everything | Survive::Zeroed(_) | Survive::Subset(_) => true,
            Survive::Synced => false,
            Survive::Random(_) => self.rng.below(100) < self.entry_percent,
        }
    }
}

/// Puts `bytes` at `position`, with zeros before them where there are no bytes. `StorageFull` if
/// there is no memory for it.
fn place(target: &mut Vec<u8>, bytes: &[u8], position: usize) -> io::Result<()> {
    let end = position.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
    target.try_reserve(end.saturating_sub(target.len())).map_err(|_| io::ErrorKind::StorageFull)?;
    put(target, bytes, position);
    Ok(())
}

/// As [`place`], for bytes that have been placed once.
fn put(target: &mut Vec<u8>, bytes: &[u8], position: usize) {
    if bytes.is_empty() {
        return;
    }
    if position > target.len() {
        target.resize(position, 0);
    }
    let overlap = target.len().saturating_sub(position);
    let (over, after) = bytes.split_at_checked(overlap).unwrap_or((bytes, &[]));
    if let Some(there) = target.get_mut(position..position.saturating_add(over.len())) {
        there.copy_from_slice(over);
    }
    target.extend_from_slice(after);
}

/// The space that a file of this length takes.
pub(super) fn in_sectors(len: u64) -> u64 {
    let sector = SECTOR as u64;
    len.div_ceil(sector).saturating_mul(sector)
}

/// The unit that a medium writes whole or not at all, and the unit of space.
pub(super) const SECTOR: usize = 512;
