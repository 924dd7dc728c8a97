//! A directory that is only read: beside its owner, or without one.
//!
//! The broker here is an ordinary one on a storage that refuses changes, with logs that
//! [follow](crate::log::follow) those of an owner. There are two kinds of owners:
//!
//! - *Another broker*, which publishes its visible ends in the file `owner`. Nothing else of it is
//!   trusted to be at rest: catalog and manifests are read as they are, and each is replaced as a
//!   whole, or grows by changes that have their own checksum.
//! - *None.* Then an opening runs in memory, on an [`Overlay`] that keeps its changes, with all the
//!   rules of FORMAT.md: torn tails, epochs, transactions. It is given up at once, and its slots are
//!   followed like those of another broker. So there is one way in which records become visible
//!   here.
//!
//! An owner may come, be killed, and come again at any moment. What is shown was visible to the
//! readers of the owner that published it, so it stays until there is news:
//!
//! - *An owner comes* after an opening in memory: its header has another run, or another state. All
//!   changes in memory are dropped, and every manifest is read again.
//! - *An owner goes* with a clean close: its last slots stay valid. If it is killed, nothing says so.
//!   From time to time a follower that sees no news looks whether the lock is free, and then runs an
//!   opening in memory.
//! - *An owner comes while an opening in memory reads*: the directory was not at rest, and what was
//!   read is thrown away. [`find_owner`] before and after shows it: an owner writes the file before
//!   it changes a directory that was closed properly, and holds the lock before it changes any
//!   other.
//!
//! Readers wait as they do for a broker's own logs. The timer's thread follows, with a pause that
//! rises while there is no news. Under a manual clock it follows when the clock is moved, and every
//! follower when [`refresh`](Follower::refresh) is called.

mod image;
mod owner;

use std::path::Path;
use std::time::Duration;

use self::owner::{Owned, OwnerFile, find_owner};
use super::BrokerInner;
use super::open::{open_in_memory, run_when_advanced};
use crate::clock::{Clock, ManualClock};
use crate::config::BrokerConfig;
use crate::engine::{Context, Identity, Task, Waiter};
use crate::error::{Error, Owner, Result};
use crate::format::owner::{OwnerHeader, OwnerState, Slot};
use crate::stats::OpenReport;
use crate::storage::Storage;
use crate::storage::overlay::Overlay;
use crate::sync::{Arc, Mutex, OnceLock, Rank, Weak};

/// Follows the owner of a directory.
pub(crate) struct Follower {
    medium: Arc<dyn Storage>,
    overlay: Arc<Overlay>,
    config: BrokerConfig,
    /// The broker whose logs follow.
    broker: OnceLock<Weak<BrokerInner>>,
    state: Mutex<Following>,
}

/// What was followed so far.
struct Following {
    source: Source,
    /// The slots that the logs were followed to.
    slots: image::Slots,
    /// The entries of the checkpoint when the source began.
    entries: image::Entries,
    report: OpenReport,
    /// When there was news last, and when the lock was looked at last, by the monotonic clock.
    news: Duration,
    looked: Duration,
}

/// Where slots come from.
enum Source {
    /// Nothing was followed yet.
    None,
    /// An opening in memory, when the file `owner` had this header.
    Memory(Option<OwnerHeader>),
    /// A broker.
    Owner(OwnerFile),
}

/// What has happened since the last look.
enum News {
    None,
    /// The owner has published something.
    Slots,
    /// The owner that was followed is gone, or another one is there.
    Source(Owned),
}

/// How long an opening waits for a directory that is being opened or closed by its owner.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many looks one refresh takes at most.
const LOOKS: usize = 4;
/// The time between two looks at the lock of an owner without news.
const LOOK_AT_LOCK: Duration = Duration::from_millis(500);
/// The shortest and the longest pause between two looks for news.
const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(16);

impl Follower {
    /// Opens a directory for reading only.
    ///
    /// # Errors
    /// `AlreadyOpen` if it has an owner that does not publish its ends; those of an opening.
    pub(crate) fn open(
        config: BrokerConfig,
        medium: Arc<dyn Storage>,
    ) -> Result<(Arc<Self>, Arc<BrokerInner>)> {
        let overlay = Arc::new(Overlay::new(medium.clone()));
        let ctx = Arc::new(Context::for_following(overlay.clone(), &config));
        let following = Following {
            source: Source::None,
            slots: image::Slots::default(),
            entries: image::Entries::default(),
            report: OpenReport::default(),
            news: ctx.clock.monotonic(),
            looked: ctx.clock.monotonic(),
        };
        let follower = Arc::new(Follower {
            medium,
            overlay,
            config,
            broker: OnceLock::new(),
            state: Mutex::new(Rank::Following, following),
        });
        let broker = image::empty_broker(&ctx, &follower.config)?;
        let _ = follower.broker.set(Arc::downgrade(&broker));
        follower.begin(&broker)?;
        let of_ctx = follower.clone();
        ctx.set_on_unread(move |identity| of_ctx.look_again(identity));
        ctx.timer.schedule(ctx.clock.monotonic() + PAUSE_MIN, follower.clone());
        follower.run_with(&broker)?;
        Ok((follower, broker))
    }

    /// Looks for news of the owner. Returns whether there was any.
    ///
    /// # Errors
    /// Something of the directory could not be read. The rest was followed.
    pub(crate) fn refresh(&self) -> Result<bool> {
        let Some(broker) = self.broker() else { return Err(Error::Closed) };
        broker.check_open()?;
        let mut any = false;
        // The owner may have been killed after it has published something.
        for _ in 0..LOOKS {
            match self.step(&broker, &mut self.state.lock(), true)? {
                true => any = true,
                false => break,
            }
        }
        Ok(any)
    }

    /// The report of the last opening in memory; an empty one beside an owner.
    pub(crate) fn report(&self) -> OpenReport {
        self.state.lock().report.clone()
    }

    /// Who has the directory open, if that is known.
    pub(crate) fn owner(&self) -> Option<Owner> {
        owner::owner(&*self.medium)
    }

    /// Starts the thread of the timer; under a manual clock, runs it whenever the clock is moved.
    fn run_with(&self, broker: &Arc<BrokerInner>) -> Result<()> {
        if !broker.ctx.clock.is_manual() {
            return broker.threads.start_timer(&broker.maintenance);
        }
        run_when_advanced(broker);
        Ok(())
    }

    fn broker(&self) -> Option<Arc<BrokerInner>> {
        self.broker.get()?.upgrade()
    }

    /// Finds the first source.
    fn begin(&self, broker: &Arc<BrokerInner>) -> Result<()> {
        let clock = &*broker.ctx.clock;
        let deadline = clock.monotonic().saturating_add(PATIENCE);
        let waiter = Waiter::new(&broker.ctx.events);
        loop {
            if self.begin_source(broker, &mut self.state.lock(), find_owner(&*self.medium))? {
                return Ok(());
            }
            if clock.is_manual() || clock.monotonic() >= deadline {
                let path = broker.ctx.display(Path::new(""));
                return Err(Error::AlreadyOpen { path, owner: self.owner() });
            }
            waiter.wait(clock, PAUSE_MIN);
        }
    }

    /// Looks for news, and follows it. `may_look`: also at the lock of an owner without news.
    fn step(&self, broker: &Arc<BrokerInner>, state: &mut Following, may_look: bool) -> Result<bool> {
        let now = broker.ctx.clock.monotonic();
        let may_look = may_look || now >= state.looked.saturating_add(LOOK_AT_LOCK);
        if may_look {
            state.looked = now;
        }
        let followed = match self.news(&mut state.source, may_look) {
            News::Slots => self.follow_owner(broker, state).map(|()| true),
            News::Source(owned) => self.begin_source(broker, state, owned),
            News::None if may_look => {
                let Following { slots, entries, .. } = state;
                image::follow_slots(broker, slots, entries, Vec::new())
            }
            News::None => Ok(false),
        };
        if !matches!(followed, Ok(false)) {
            state.news = now;
        }
        if followed.is_err() {
            // All of it is followed again.
            state.source = Source::None;
        }
        followed
    }

    fn news(&self, source: &mut Source, may_look: bool) -> News {
        match source {
            Source::None => News::Source(find_owner(&*self.medium)),
            Source::Memory(before) => {
                let header = OwnerFile::open(&*self.medium).map(|file| file.header().clone());
                match header == *before {
                    true => News::None,
                    false => News::Source(find_owner(&*self.medium)),
                }
            }
            Source::Owner(file) => {
                if file.look() {
                    return match file.header().state {
                        OwnerState::Opening => News::None,
                        OwnerState::Open | OwnerState::Closed => News::Slots,
                    };
                }
                match may_look.then(|| find_owner(&*self.medium)) {
                    // The file was removed, and another one made.
                    Some(Owned::Open(header)) if header != *file.header() => {
                        News::Source(Owned::Open(header))
                    }
                    Some(free @ Owned::Free(_)) if file.header().state != OwnerState::Closed => {
                        News::Source(free)
                    }
                    _ => News::None,
                }
            }
        }
    }

    /// Begins to follow a source. Returns false if there is none that can be followed now.
    fn begin_source(&self, broker: &Arc<BrokerInner>, state: &mut Following, owned: Owned) -> Result<bool> {
        match owned {
            Owned::Hidden(_) => Ok(false),
            Owned::Open(_) => {
                let file = OwnerFile::open(&*self.medium);
                // Another owner may have come meanwhile.
                let is_valid = |file: &OwnerFile| file.header().state != OwnerState::Opening;
                let Some(file) = file.filter(is_valid) else { return Ok(false) };
                self.overlay.drop_changes();
                state.source = Source::Owner(file);
                state.report = OpenReport::default();
                self.forget(broker, state);
                self.follow_owner(broker, state).map(|()| true)
            }
            Owned::Free(header) => {
                let opened = self.open_in_memory();
                // IMPORTANT: an owner that has come meanwhile may have changed what was read, and
                // may be the reason for an error.
                let is_same = find_owner(&*self.medium) == Owned::Free(header.clone());
                if !is_same || opened.is_err() {
                    self.overlay.drop_changes();
                    state.source = Source::None;
                    return if is_same { opened.map(|_| false) } else { Ok(false) };
                }
                let (slots, report) = opened?;
                state.source = Source::Memory(header);
                state.report = report;
                self.forget(broker, state);
                image::follow_catalog(broker, &mut state.slots)?;
                image::follow_slots(broker, &mut state.slots, &state.entries, slots).map(|_| true)
            }
        }
    }

    /// Another source begins: nothing that was followed before has to be a part of it.
    fn forget(&self, broker: &BrokerInner, state: &mut Following) {
        state.slots.forget();
        state.entries = image::checkpoint_entries(&broker.ctx);
    }

    /// Follows what the owner has published.
    ///
    /// # Errors
    /// The catalog cannot be read.
    fn follow_owner(&self, broker: &Arc<BrokerInner>, state: &mut Following) -> Result<()> {
        let Following { source: Source::Owner(file), slots, entries, .. } = state else { return Ok(()) };
        let (run, catalog) = (file.header().run, file.header().catalog_changes);
        if slots.begin(run) {
            *entries = image::checkpoint_entries(&broker.ctx);
        }
        if slots.has_other_catalog(catalog) {
            image::follow_catalog(broker, slots)?;
            slots.note_catalog(catalog);
        }
        image::follow_slots(broker, slots, entries, file.changed()).map(drop)
    }

    /// Runs an opening whose changes are kept in memory. Returns the slots of its logs.
    fn open_in_memory(&self) -> Result<(Vec<Slot>, OpenReport)> {
        self.overlay.keep_changes();
        let clock = ManualClock::new();
        let config = BrokerConfig::new().clock(clock).durability(self.config.durability);
        let opened = open_in_memory(&config, self.overlay.clone())?;
        let slots = opened.slots();
        let report = opened.report.clone();
        opened.abandon();
        Ok((slots, report))
    }

    /// Something of a partition could not be read. Returns whether it is another one since.
    fn look_again(&self, of: &Identity) -> bool {
        let Some(broker) = self.broker() else { return false };
        let look = || {
            let log = broker.maintenance.topics.read().log(&of.topic_id, of.partition)?;
            Some((log.revision(), log.log_start()))
        };
        let before = look();
        let mut state = self.state.lock();
        // A failure is that of the reader, too.
        let _ = self.step(&broker, &mut state, true);
        // The owner replaces a manifest before it publishes that.
        let Following { slots, entries, .. } = &mut *state;
        image::reload(&broker, slots, entries, of);
        look() != before
    }
}

impl Task for Follower {
    fn run(self: Arc<Self>, now: Duration) {
        let Some(broker) = self.broker().filter(|broker| broker.check_open().is_ok()) else { return };
        let (started, pause) = {
            let mut state = self.state.lock();
            // What cannot be read now is tried again; readers get the error of what they need.
            let _ = self.step(&broker, &mut state, false);
            (now, now.saturating_sub(state.news) / 64)
        };
        let clock = &*broker.ctx.clock;
        // A step that takes long, because there are many partitions, is made less often.
        let took = clock.monotonic().saturating_sub(started);
        let pause = pause.max(took * 16).clamp(PAUSE_MIN, PAUSE_MAX);
        broker.ctx.timer.schedule(clock.monotonic().saturating_add(pause), self.clone());
    }
}
