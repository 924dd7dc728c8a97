//! The clock of a broker: the only callers of the wall clock, and the only timed waits.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::sync::{Arc, Condvar, Mutex, MutexGuard, Rank};
use crate::types::Timestamp;

/// The source of a broker's time: [`SystemClock`] by default, [`ManualClock`] in tests.
///
/// Another implementation may shift or scale the system's time. Waiting is done in real time unless
/// [`is_manual`](Clock::is_manual) returns true.
///
/// A clock is asked with locks of the broker held: it must be short, and must not call the broker.
/// A panic of it reaches the caller on whose thread it was asked. On a background thread it is
/// caught and reported: see [`Event::Panicked`](crate::stats::Event::Panicked).
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: the timestamp of records without their own, and the time that retention
    /// compares with. It may jump in both directions.
    fn now(&self) -> Timestamp;

    /// Time since some fixed instant; it never goes back. Lingering, sessions and intervals are
    /// measured with it.
    fn monotonic(&self) -> Duration;

    /// Whether time stands still until the caller moves it. A broker under such a clock starts no
    /// thread, and no call waits: due work runs when the clock is moved, or in the calling thread.
    fn is_manual(&self) -> bool {
        false
    }

    /// Asks to be called after every movement of a manual clock, in the thread that moves it. A
    /// hook that returns `false` is forgotten. Clocks that move by themselves never call it.
    fn on_advance(&self, hook: Box<dyn Fn() -> bool + Send + Sync>) {
        drop(hook);
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn is_manual(&self) -> bool {
        (**self).is_manual()
    }

    fn on_advance(&self, hook: Box<dyn Fn() -> bool + Send + Sync>) {
        (**self).on_advance(hook);
    }
}

/// Waits on `condvar` for at most `timeout`; returns whether the time ran out. All timed waits of
/// the crate are this function. Under a manual clock the time runs out at once, without releasing
/// the lock: no other thread could make progress while a single-threaded test waits.
pub(crate) fn wait_timeout<T>(
    clock: &dyn Clock,
    condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    timeout: Duration,
) -> bool {
    wait_timeout_with(clock, condvar, guard, timeout, &[])
}

/// As [`wait_timeout`], while the thread holds locks of these ranks too.
pub(crate) fn wait_timeout_with<T>(
    clock: &dyn Clock,
    condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    timeout: Duration,
    also: &[Rank],
) -> bool {
    clock.is_manual() || condvar.wait_for(guard, timeout, also)
}

/// The system's time.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    /// Milliseconds since 1970; 0 if the system believes that it is earlier.
    fn now(&self) -> Timestamp {
        Timestamp::now().max(Timestamp::default())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Timestamp {
    /// The system's time. A broker has a [clock](crate::BrokerConfig::clock) of its own, which may
    /// be another.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

/// In whole milliseconds, rounded down.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Timestamp::default().plus(since),
            Err(before) => {
                let before = before.duration();
                let is_whole = before.subsec_nanos() % 1_000_000 == 0;
                Timestamp::default().minus(before + Duration::from_millis(u64::from(!is_whole)))
            }
        }
    }
}

/// A time that the platform cannot state becomes 1970 if it lies before that, and the year 30000 if
/// after. On Windows those are times before 1601 and after the year 30000, on others none.
impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        /// From 1970 to the year 30000.
        const FARTHEST: Duration = Duration::from_secs(28_030 * 31_556_952);
        let (epoch, distance) =
            (SystemTime::UNIX_EPOCH, Duration::from_millis(time.as_millis().unsigned_abs()));
        match time.as_millis() < 0 {
            true => epoch.checked_sub(distance).unwrap_or(epoch),
            false => epoch.checked_add(distance).unwrap_or(epoch + FARTHEST),
        }
    }
}

/// A clock that stands still until a test moves it.
///
/// Cheap to clone; all clones are the same clock. Keep one and give the other to the broker.
///
/// ```
/// use std::time::Duration;
/// use quipu::testing::ManualClock;
/// use quipu::{Clock, Timestamp};
///
/// let clock = ManualClock::starting_at(Timestamp::from_millis(1_000));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.now().as_millis(), 3_000);
/// assert_eq!(clock.monotonic(), Duration::from_secs(2));
///
/// // Somebody sets the wall clock back; monotonic time does not notice.
/// clock.set_wall(Timestamp::from_millis(500));
/// assert_eq!(clock.now().as_millis(), 500);
/// assert_eq!(clock.monotonic(), Duration::from_secs(2));
/// ```
#[derive(Clone)]
pub struct ManualClock {
    shared: Arc<Mutex<Manual>>,
}

type Hook = Arc<dyn Fn() -> bool + Send + Sync>;

struct Manual {
    /// The wall clock's time at the monotonic time `set_at`: so fractions of milliseconds add up.
    wall: Timestamp,
    set_at: Duration,
    monotonic: Duration,
    hooks: Vec<Hook>,
}

impl ManualClock {
    /// A clock that shows 2020-09-13 12:26:40 UTC (1,600,000,000,000 ms).
    pub fn new() -> Self {
        ManualClock::starting_at(Timestamp::from_millis(1_600_000_000_000))
    }

    /// A clock that shows `wall`; its monotonic time is zero.
    pub fn starting_at(wall: Timestamp) -> Self {
        let manual = Manual { wall, set_at: Duration::ZERO, monotonic: Duration::ZERO, hooks: Vec::new() };
        ManualClock { shared: Arc::new(Mutex::new(Rank::Clock, manual)) }
    }

    /// Moves both times forward, then runs the due work of the brokers under this clock, in this
    /// thread.
    pub fn advance(&self, by: Duration) {
        let hooks = {
            let mut manual = self.shared.lock();
            manual.monotonic = manual.monotonic.saturating_add(by);
            manual.hooks.clone()
        };
        // Outside the lock: a hook may ask for the time, register another hook, even move the
        // clock.
        for hook in hooks {
            if !hook() {
                self.shared.lock().hooks.retain(|kept| !Arc::ptr_eq(kept, &hook));
            }
        }
    }

    /// Sets the wall clock, forwards or backwards, as an administrator or a leap would. Monotonic
    /// time stands still and nothing is run.
    pub fn set_wall(&self, wall: Timestamp) {
        let mut manual = self.shared.lock();
        manual.wall = wall;
        manual.set_at = manual.monotonic;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        ManualClock::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").field("now", &self.now()).field("monotonic", &self.monotonic()).finish()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let manual = self.shared.lock();
        manual.wall.plus(manual.monotonic.saturating_sub(manual.set_at))
    }

    fn monotonic(&self) -> Duration {
        self.shared.lock().monotonic
    }

    fn is_manual(&self) -> bool {
        true
    }

    fn on_advance(&self, hook: Box<dyn Fn() -> bool + Send + Sync>) {
        self.shared.lock().hooks.push(Arc::from(hook));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, Ordering};

    #[test]
    fn fractions_of_milliseconds_add_up() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(-5));
        for _ in 0..1_000 {
            clock.advance(Duration::from_micros(10));
        }
        assert_eq!(clock.now().as_millis(), 5);
        assert_eq!(clock.monotonic(), Duration::from_millis(10));
        clock.set_wall(Timestamp::from_millis(0));
        clock.advance(Duration::MAX);
        assert_eq!(clock.now().as_millis(), i64::MAX);
    }

    #[test]
    fn hooks_run_after_each_movement_until_they_decline() {
        let clock = ManualClock::new();
        let calls = Arc::new(AtomicU64::new(0));
        let (seen, inner) = (Arc::clone(&calls), clock.clone());
        clock.on_advance(Box::new(move || {
            assert!(inner.monotonic() > Duration::ZERO, "the time has moved already");
            inner.on_advance(Box::new(|| false));
            seen.fetch_add(1, Ordering::Relaxed) < 1
        }));
        for _ in 0..4 {
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2, "the second call returned false");
        clock.set_wall(Timestamp::default());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert!(clock.shared.lock().hooks.is_empty());
    }

    #[test]
    fn a_manual_wait_is_over_at_once_and_a_real_one_when_told() {
        let (lock, condvar) = (Mutex::new(Rank::Test, ()), Condvar::new());
        let mut guard = lock.lock();
        assert!(wait_timeout(&ManualClock::new(), &condvar, &mut guard, Duration::MAX));
        assert!(wait_timeout(&SystemClock::new(), &condvar, &mut guard, Duration::from_millis(1)));
        crate::sync::thread::scope(|scope| {
            scope.spawn(|| {
                let _held = lock.lock();
                condvar.notify_all();
            });
            assert!(!wait_timeout(&Arc::new(SystemClock::new()), &condvar, &mut guard, Duration::MAX));
        });
    }

    #[test]
    fn the_system_clock_advances() {
        let clock = SystemClock::default();
        let (first, second) = (clock.monotonic(), clock.monotonic());
        assert!(first <= second);
        assert!(clock.now() > Timestamp::from_millis(1_600_000_000_000));
        assert!(!clock.is_manual());
    }

    #[test]
    fn a_timestamp_is_a_system_time_in_whole_milliseconds() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, millis) in [
            (epoch, 0),
            (epoch + Duration::from_micros(1_999), 1),
            (epoch - Duration::from_millis(2), -2),
            (epoch - Duration::from_micros(1_500), -2),
            (epoch + Duration::from_secs(1_700_000_000), 1_700_000_000_000),
        ] {
            assert_eq!(Timestamp::from(time), Timestamp::from_millis(millis), "{time:?}");
        }
        for millis in [0, 1, -1, -2_000_000, 1_700_000_000_123] {
            let timestamp = Timestamp::from_millis(millis);
            assert_eq!(Timestamp::from(SystemTime::from(timestamp)), timestamp);
        }
        for extreme in [Timestamp::MAX, Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MIN)] {
            let _ = SystemTime::from(extreme);
        }
        assert!(Timestamp::now() > Timestamp::from_millis(1_600_000_000_000));
    }
}
