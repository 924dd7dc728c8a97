//! How a reader waits for records that other threads append, without missing any.

use std::task::Waker;
use std::time::Duration;

use crate::engine::{Context, Interest, Waiter};
use crate::error::Result;
use crate::sync::Arc;

/// While it lives, the close of the broker signals a waiter that is registered at no log.
pub(crate) struct Idle {
    ctx: Arc<Context>,
    interest: Arc<Interest>,
}

impl Idle {
    pub(crate) fn new(ctx: &Arc<Context>, waiter: &Arc<Waiter>) -> Self {
        let interest = Arc::new(Interest::new(waiter, 0));
        ctx.readers.idle.add(interest.clone());
        Idle { ctx: ctx.clone(), interest }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.ctx.readers.idle.remove(&self.interest);
    }
}

/// What `look` finds, waiting for it for at most `timeout`. Under a manual clock it looks once.
///
/// If it finds nothing, it must have armed an interest in every log that it looks at, and looked at
/// the log after that.
///
/// # Errors
/// Those of `look`.
pub(crate) fn wait_for<T>(
    ctx: &Context,
    waiter: &Waiter,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    if let Some(found) = look()? {
        return Ok(Some(found));
    }
    park_for(ctx, waiter, timeout, look)
}

/// As [`wait_for`], after a look that has found nothing.
///
/// # Errors
/// Those of `look`.
pub(crate) fn park_for<T>(
    ctx: &Context,
    waiter: &Waiter,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let clock = &*ctx.clock;
    if timeout.is_zero() || clock.is_manual() {
        return Ok(None);
    }
    let deadline = clock.monotonic().saturating_add(timeout);
    loop {
        // IMPORTANT: reset before this look. The look sees a record that becomes visible before it;
        // a later record signals the waiter. In the other order a record could be missed.
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

/// Returns what `look` finds now, or leaves the waker where appending threads find it. `look` must
/// arm interests as for [`wait_for`].
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
