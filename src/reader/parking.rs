//! How does a reader wait for what others append, without missing any of it?

use std::task::Waker;
use std::time::Duration;

use crate::engine::{Context, Waiter};
use crate::error::Result;
use crate::sync::Arc;

/// While it lives, writers tell readers what they publish.
pub(crate) struct Parking(Arc<Context>);

impl Parking {
    pub(crate) fn announce(ctx: &Arc<Context>) -> Self {
        ctx.parked.announce();
        Parking(ctx.clone())
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.0.parked.leave();
    }
}

/// What `look` finds, waiting for it for at most `timeout`. Under a manual clock it looks once.
///
/// # Errors
/// Those of `look`.
pub(crate) fn wait_for<T>(
    ctx: &Arc<Context>,
    waiter: &Waiter,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    if let Some(found) = look()? {
        return Ok(Some(found));
    }
    let clock = &*ctx.clock;
    if timeout.is_zero() || clock.is_manual() {
        return Ok(None);
    }
    let deadline = clock.monotonic().saturating_add(timeout);
    let _parking = Parking::announce(ctx);
    loop {
        // IMPORTANT: announced and reset before this look. What becomes visible before it is seen
        // by it, what comes later signals the waiter; the other way round it could fall between.
        waiter.reset();
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        let left = deadline.saturating_sub(clock.monotonic());
        if left.is_zero() {
            return Ok(None);
        }
        waiter.wait(clock, left);
    }
}

/// What `look` finds now, or the waker is left where whoever appends finds it. The caller is
/// [announced](Parking).
///
/// # Errors
/// Those of `look`.
pub(crate) fn look_or_register<T>(
    waiter: &Waiter,
    waker: &Waker,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    loop {
        // In the order that `wait_for` argues for.
        waiter.reset();
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if waiter.set_waker(waker) {
            return Ok(None);
        }
    }
}
