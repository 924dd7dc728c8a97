//! How a reader waits for records that other threads append, without missing any.

use std::task::Waker;
use std::time::Duration;

use crate::engine::{Context, Waiter};
use crate::error::Result;
use crate::sync::Arc;

/// While it lives, writers signal readers when they publish records.
pub(crate) struct Parking(Arc<Context>);

impl Parking {
    pub(crate) fn announce(ctx: &Arc<Context>) -> Self {
        ctx.parked.announce();
        Parking(ctx.clone())
    }
}

/// While it lives, the close of the broker signals a waiter that is registered at no log.
pub(crate) struct Idle {
    ctx: Arc<Context>,
    waiter: Arc<Waiter>,
}

impl Idle {
    pub(crate) fn new(ctx: &Arc<Context>, waiter: &Arc<Waiter>) -> Self {
        ctx.parked.idle.add(waiter.clone());
        Idle { ctx: ctx.clone(), waiter: waiter.clone() }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.ctx.parked.idle.remove(&self.waiter);
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
        // IMPORTANT: announce and reset before this look. The look sees a record that becomes
        // visible before it; a later record signals the waiter. In the other order a record could
        // be missed.
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

/// Returns what `look` finds now, or leaves the waker where appending threads find it. The caller
/// must be [announced](Parking).
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
