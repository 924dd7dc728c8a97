//! Publishes the visible ends of the logs in the file `owner`, for readers in other processes, and
//! says there who has the directory open. See FORMAT.md, "Owner".
//!
//! An append pays one load: whether its log has been noted since the last publication. If it has
//! not, it notes the log, and asks the timer for a publication, at most one every
//! [`EVERY`]. The timer's thread writes the slots of the noted logs, then the header.
//!
//! The concurrency argument:
//! - *Noting*: a writer moves the visible end, and then checks the mark of its log. A publication
//!   clears the mark, and then reads the ends. Both put a sequentially consistent fence between
//!   their store and their load, so the publication reads the new end, or the writer finds the mark
//!   cleared and notes the log again. The fence of the writer is that of
//!   [`Waiters::appended`](super::Waiters::appended).
//! - *Order*: one publication at a time reads ends and writes them, so no older end replaces a
//!   newer one.
//! - *The first change* of a broker that was closed properly must find the file written: otherwise
//!   a reader could take the directory for one that no owner changes. It is made under the lock of the
//!   gate, where the ends of logs must not be read. They are those of the opening, because nothing
//!   was changed since; [`ready`](Publisher::ready) has encoded them.
//!
//! A failure is not reported, because the file is derived: what was noted is published with the next
//! publication that succeeds, and readers see less until then.

use std::path::Path;
use std::time::Duration;

use super::timer::{Task, Timer};
use crate::clock::Clock;
use crate::error::Owner;
use crate::format::names;
use crate::format::owner::{OWNER_HEADER_BYTES, OwnerHeader, OwnerState, SLOT_BYTES, Slot};
use crate::storage::{File, OpenMode, Storage, read_up_to, write_all_at};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, Rank, Weak, fence};

/// A log whose ends are published.
pub(crate) trait Published: Send + Sync {
    /// The slot of the log; `None` if it has no files.
    fn slot(&self) -> Option<Slot>;

    fn mark(&self) -> &Mark;
}

/// Whether a log has changed since its ends were published.
pub(crate) struct Mark {
    /// It was noted, or need not be.
    is_noted: AtomicBool,
    number: AtomicU32,
}

impl Default for Mark {
    /// Of a log that is not published.
    fn default() -> Self {
        Mark { is_noted: AtomicBool::new(true), number: AtomicU32::new(0) }
    }
}

impl Mark {
    /// Returns whether the log must be [noted](Publisher::note). The caller must have put a fence
    /// after the change.
    #[inline]
    pub(crate) fn is_cleared(&self) -> bool {
        !self.is_noted.load(Ordering::Acquire)
    }

    fn clear(&self) {
        self.is_noted.store(false, Ordering::Release);
        // IMPORTANT: keep the fence: see the head of this file.
        fence(Ordering::SeqCst);
    }
}

/// Writes the file `owner`.
pub(crate) struct Publisher {
    /// The medium, without the gate: the file is no change of the directory's content.
    medium: Arc<dyn Storage>,
    /// Whether other processes can have the directory open at all.
    is_on: bool,
    /// Held over a publication.
    publishing: Mutex<()>,
    file: Mutex<OwnerFile>,
    /// The logs, by the numbers of their slots.
    logs: Mutex<Vec<Weak<dyn Published>>>,
    /// The numbers of those that were noted.
    noted: Mutex<Vec<u32>>,
    is_scheduled: AtomicBool,
    /// When the last publication began, in nanoseconds of the monotonic clock.
    last: AtomicU64,
    catalog_changes: AtomicU64,
}

struct OwnerFile {
    header: OwnerHeader,
    file: Option<Arc<dyn File>>,
    /// The slots at the opening, until they are written.
    first: Option<Vec<u8>>,
    is_closed: bool,
}

/// The least time between two publications.
const EVERY: Duration = Duration::from_millis(1);

impl Publisher {
    /// `medium` is that of the broker, without its gate.
    pub(crate) fn new(medium: Arc<dyn Storage>, clock: &dyn Clock) -> Self {
        let is_on = medium.is_shared();
        let header = OwnerHeader {
            state: OwnerState::Opening,
            process: medium.run_identity().1,
            since: clock.now(),
            run: 1,
            host: medium.host_name(),
            changes: 0,
            catalog_changes: 0,
        };
        let file = OwnerFile { header, file: None, first: None, is_closed: false };
        Publisher {
            medium,
            is_on,
            publishing: Mutex::new(Rank::Publishing, ()),
            file: Mutex::new(Rank::OwnerFile, file),
            logs: Mutex::new(Rank::PublishedLogs, Vec::new()),
            noted: Mutex::new(Rank::NotedLogs, Vec::new()),
            is_scheduled: AtomicBool::new(true),
            last: AtomicU64::new(0),
            catalog_changes: AtomicU64::new(0),
        }
    }

    /// Takes the slots of an earlier owner back, before the directory is repaired. Without a file
    /// there are none.
    pub(crate) fn announce(&self) {
        self.start(false);
    }

    /// Writes the file, before the first change of a broker that is open.
    pub(crate) fn begin(&self) {
        self.start(true);
    }

    fn start(&self, make: bool) {
        let mut file = self.file.lock();
        if self.is_on && file.file.is_none() && !file.is_closed && file.open(&*self.medium, make) {
            // Without logs, those are not known yet.
            let _ = if file.first.is_some() { file.begin() } else { file.write_header() };
        }
    }

    /// Takes the logs of a broker that has been opened. `is_unchanged`: the file is not to be
    /// written before the first change, which calls [`begin`](Publisher::begin).
    pub(crate) fn ready(&self, logs: Vec<Weak<dyn Published>>, is_unchanged: bool) {
        if !self.is_on {
            return;
        }
        let _publishing = self.publishing.lock();
        let mut slots = Vec::with_capacity(logs.len() * SLOT_BYTES);
        let run = {
            let mut file = self.file.lock();
            // The run is known once the file was read.
            if file.file.is_none() && !is_unchanged {
                file.open(&*self.medium, true);
            } else if file.file.is_none() {
                file.look(&*self.medium);
            }
            file.header.run
        };
        for (number, log) in (0..).zip(&logs) {
            let log = log.upgrade();
            if let Some(log) = &log {
                log.mark().number.store(number, Ordering::Release);
                log.mark().clear();
            }
            match log.and_then(|log| log.slot()) {
                Some(slot) => slots.extend(slot.encode(run, number)),
                None => slots.extend([0; SLOT_BYTES]),
            }
        }
        *self.logs.lock() = logs;
        let mut file = self.file.lock();
        file.first = Some(slots);
        if file.file.is_some() {
            let _ = file.begin();
        }
        drop(file);
        self.is_scheduled.store(false, Ordering::Release);
    }

    /// Takes another log, which has no files yet.
    pub(crate) fn add(&self, log: Weak<dyn Published>) {
        let Some(mark) = log.upgrade().filter(|_| self.is_on) else { return };
        let mut logs = self.logs.lock();
        // A slot of a topic that was deleted.
        let free = logs.iter().position(|log| log.strong_count() == 0);
        let at = free.unwrap_or(logs.len());
        let Ok(number) = u32::try_from(at) else { return };
        match logs.get_mut(at) {
            Some(slot) => *slot = log,
            None => logs.push(log),
        }
        mark.mark().number.store(number, Ordering::Release);
        mark.mark().clear();
    }

    /// Notes that a log has changed, and schedules a publication.
    #[cold]
    pub(crate) fn note(self: &Arc<Self>, mark: &Mark, timer: &Timer, clock: &dyn Clock) {
        if !mark.is_noted.swap(true, Ordering::AcqRel) {
            self.noted.lock().push(mark.number.load(Ordering::Acquire));
            self.schedule(timer, clock);
        }
    }

    /// Notes that the catalog has changed.
    pub(crate) fn note_catalog(self: &Arc<Self>, timer: &Timer, clock: &dyn Clock) {
        if self.is_on {
            self.catalog_changes.fetch_add(1, Ordering::AcqRel);
            self.schedule(timer, clock);
        }
    }

    fn schedule(self: &Arc<Self>, timer: &Timer, clock: &dyn Clock) {
        if self.is_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        // Under a manual clock it is work that is due later, as all work of the background is.
        let now = clock.monotonic();
        let last = Duration::from_nanos(self.last.load(Ordering::Acquire));
        let at = if clock.is_manual() { now + EVERY } else { now.max(last + EVERY) };
        timer.schedule(at, self.clone());
    }

    /// Writes the slots of the logs that have changed, and the header.
    pub(crate) fn publish(&self) {
        if !self.is_on {
            return;
        }
        let _publishing = self.publishing.lock();
        // Before the queue is taken: a log that is noted after that schedules the next one.
        self.is_scheduled.store(false, Ordering::Release);
        let mut numbers = std::mem::take(&mut *self.noted.lock());
        let catalog_changes = self.catalog_changes.load(Ordering::Acquire);
        numbers.sort_unstable();
        let noted: Vec<_> = {
            let logs = self.logs.lock();
            let log = |number: &u32| Some((*number, logs.get(*number as usize)?.upgrade()?));
            numbers.iter().filter_map(log).collect()
        };
        let slot = |(number, log): &(u32, Arc<dyn Published>)| {
            log.mark().clear();
            Some((*number, log.slot()?))
        };
        let slots: Vec<_> = noted.iter().filter_map(slot).collect();
        let mut file = self.file.lock();
        if file.is_closed || (slots.is_empty() && file.header.catalog_changes == catalog_changes) {
            return;
        }
        let before = std::mem::replace(&mut file.header.catalog_changes, catalog_changes);
        let is_open = file.file.is_some() || file.open(&*self.medium, true);
        let write = |file: &mut OwnerFile| {
            file.begin()?;
            file.write_slots(&slots)?;
            file.write_header()
        };
        if !is_open || write(&mut file).is_err() {
            file.header.catalog_changes = before;
            drop(file);
            self.noted.lock().extend(numbers);
        }
    }

    /// Publishes the rest, and that the broker was closed. A broker that has written no file
    /// writes none.
    pub(crate) fn close(&self) {
        if self.file.lock().file.is_some() {
            self.publish();
        }
        let mut file = self.file.lock();
        file.is_closed = true;
        if file.file.is_some() {
            file.header.state = OwnerState::Closed;
            let _ = file.write_header();
        }
        file.file = None;
    }
}

impl Task for Publisher {
    fn run(self: Arc<Self>, now: Duration) {
        self.last.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
        self.publish();
    }
}

impl OwnerFile {
    /// Reads the header of an earlier owner, for the number of its run.
    fn look(&mut self, medium: &dyn Storage) {
        let file = medium.open(Path::new(names::OWNER), OpenMode::Read);
        let before = file.ok().and_then(|file| read_header(&*file));
        self.header.run = before.map_or(1, |before| before.run.saturating_add(1));
    }

    /// Opens the file, or makes it if `make`. Returns whether it is open.
    fn open(&mut self, medium: &dyn Storage, make: bool) -> bool {
        let path = Path::new(names::OWNER);
        let opened = match medium.open(path, OpenMode::Write) {
            Err(e) if make && e.kind() == std::io::ErrorKind::NotFound => {
                medium.open(path, OpenMode::CreateNew)
            }
            opened => opened,
        };
        let Ok(file) = opened else { return false };
        let before = read_header(&*file);
        // Slots that were encoded before have the number of the run that was found then.
        if self.first.is_none() {
            self.header.run = before.map_or(1, |before| before.run.saturating_add(1));
        }
        self.file = Some(file);
        true
    }

    /// Writes the slots of all logs, and then that the broker is open, unless that was done.
    fn begin(&mut self) -> std::io::Result<()> {
        let Some(slots) = &self.first else { return Ok(()) };
        self.write_at(slots, OWNER_HEADER_BYTES as u64)?;
        self.header.state = OwnerState::Open;
        self.write_header()?;
        self.first = None;
        Ok(())
    }

    fn write_header(&mut self) -> std::io::Result<()> {
        self.header.changes += 1;
        self.write_at(&self.header.encode(), 0)
    }

    /// Writes slots, which have rising numbers: those that follow each other with one write.
    fn write_slots(&self, slots: &[(u32, Slot)]) -> std::io::Result<()> {
        for run in slots.chunk_by(|(a, _), (b, _)| a.checked_add(1) == Some(*b)) {
            let Some((first, _)) = run.first() else { continue };
            let bytes: Vec<_> =
                run.iter().flat_map(|(number, slot)| slot.encode(self.header.run, *number)).collect();
            self.write_at(&bytes, position_of(*first))?;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        write_all_at(&**file, bytes, position).map_err(|(_, e)| e)
    }
}

/// The position of the slot with this number.
fn position_of(number: u32) -> u64 {
    OWNER_HEADER_BYTES as u64 + u64::from(number) * SLOT_BYTES as u64
}

/// Reads the header of the file. Returns `None` if there is no valid one.
pub(crate) fn read_header(file: &dyn File) -> Option<OwnerHeader> {
    // Another process may be writing it.
    (0..READS).find_map(|_| {
        let mut bytes = [0; OWNER_HEADER_BYTES];
        read_up_to(file, &mut bytes, 0).ok().and_then(|_| OwnerHeader::decode(&bytes).ok())
    })
}

/// Returns who has the directory open, according to a header.
pub(crate) fn owner_of(header: &OwnerHeader) -> Option<Owner> {
    (header.state != OwnerState::Closed).then(|| Owner {
        process: header.process,
        host: header.host.clone(),
        since: header.since,
    })
}

/// How often a reader reads again where a CRC fails.
const READS: usize = 8;
