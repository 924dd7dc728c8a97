//! How does a member leave its group? At once, except where an assignor drops its consumer: that
//! thread holds the lock of a group, so the timer does it.

use std::time::Duration;

use crate::broker::BrokerInner;
use crate::engine::Task;
use crate::group::Seat;
use crate::group::assign::refuse_in_assignor;
use crate::sync::{Arc, Weak};

/// A seat to be given up. It does not keep the broker open: with the broker its groups end.
struct Departure {
    broker: Weak<BrokerInner>,
    seat: Seat,
}

/// Gives the seat up.
pub(super) fn leave(broker: &Arc<BrokerInner>, seat: Seat) {
    if refuse_in_assignor().is_ok() {
        return seat.group.leave(&**broker, seat.id);
    }
    let now = broker.ctx.clock.monotonic();
    broker.ctx.timer.schedule(now, Arc::new(Departure { broker: Arc::downgrade(broker), seat }));
}

impl Task for Departure {
    fn run(self: Arc<Self>, _: Duration) {
        if let Some(broker) = self.broker.upgrade() {
            self.seat.group.leave(&*broker, self.seat.id);
        }
    }
}
