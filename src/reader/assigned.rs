//! One partition in a reader: the position, and the policy for a position that is not in the log.

use super::policy::{OffsetReset, PollLimits};
use crate::error::{Error, Result};
use crate::log::cursor::Cursor;
use crate::log::{Log, lookup};
use crate::records::{Records, SkipReason, Skipped, Unread};
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, Position, Start};

/// A partition that is read, and how far.
pub(crate) struct Assigned {
    /// After the batch that is being delivered, if there is one.
    cursor: Cursor,
    /// The rest of a batch of which the last poll took a part.
    unread: Option<Unread>,
    /// The log epoch in which the next offset was true.
    epoch: u32,
    paused: bool,
    /// It has no position yet: nothing is delivered until the caller seeks.
    unset: bool,
    /// An error that came after good records, or one that only a seek gets past.
    failed: Option<Error>,
    /// The error is still to be returned.
    is_due: bool,
    /// The place to continue at, if it could not be looked up yet: nothing is delivered before.
    wanted: Option<Start>,
    /// Nothing at or after this offset is delivered.
    until: Option<Offset>,
}

impl Assigned {
    /// Begins at an offset that was true in `epoch`; whether it still is will be seen when it is
    /// read.
    pub(crate) fn new(log: Arc<Log>, next: Offset, epoch: u32) -> Self {
        Assigned {
            cursor: Cursor::new(log, next),
            unread: None,
            epoch,
            paused: false,
            unset: false,
            failed: None,
            is_due: false,
            wanted: None,
            until: None,
        }
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        self.cursor.log()
    }

    pub(crate) fn is(&self, topic: &str, partition: PartitionId) -> bool {
        self.log().partition() == partition && *self.log().topic() == *topic
    }

    pub(crate) fn position(&self) -> Position {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        Position {
            topic: self.log().topic().clone(),
            partition: self.log().partition(),
            offset: self.next(),
            epoch: self.epoch,
        }
    }

    /// Continues elsewhere. Discards the loaded batch and a failure.
    pub(crate) fn seek(&mut self, next: Offset, epoch: u32) {
        self.cursor = Cursor::new(self.log().clone(), next);
        self.unread = None;
        self.epoch = epoch;
        (self.failed, self.is_due) = (None, false);
        self.unset = false;
        self.wanted = None;
    }

    /// Continues at a place, which [`look_up`](Assigned::look_up) finds.
    pub(crate) fn seek_to(&mut self, place: Start) {
        (self.unset, self.wanted) = (false, Some(place));
    }

    /// Looks up the place to continue at, if that has not been done.
    ///
    /// # Errors
    /// Those of looking for a time: nothing is delivered before it succeeds.
    pub(crate) fn look_up(&mut self) -> Result<()> {
        let Some(place) = self.wanted else { return Ok(()) };
        // The epoch first: if the log is truncated after this, the next look sees another one.
        let epoch = self.log().epoch();
        let offset = start_offset(self.log(), place)?;
        self.seek(offset, epoch);
        Ok(())
    }

    /// The offset, and the epoch in which it is true, where delivery will continue: the position,
    /// or where the policy moves it if it is not in the log. `None` if there is no such offset now.
    pub(crate) fn lands(&self, policy: OffsetReset) -> Option<(Offset, u32)> {
        if !self.is_placed() || self.is_in_log() {
            return self.is_placed().then(|| (self.next(), self.epoch));
        }
        let nearest = match self.log().check_position(self.next(), self.epoch) {
            Err(Error::Truncated { to, .. }) => to,
            _ => self.next(),
        };
        target(self.log(), policy, nearest)
    }

    /// Has no position until the caller seeks.
    pub(crate) fn set_unset(&mut self) {
        self.unset = true;
    }

    pub(crate) fn is_unset(&self) -> bool {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        self.unset
    }

    /// Whether it has a position.
    pub(crate) fn is_placed(&self) -> bool {
        !self.unset && self.wanted.is_none()
    }

    /// Whether its position is one that the log has now: neither truncated, nor passed by
    /// retention, nor after the visible end.
    pub(crate) fn is_in_log(&self) -> bool {
        let (log, next) = (self.log(), self.next());
        self.is_placed()
            && log.check_position(next, self.epoch).is_ok()
            && (log.log_start()..=log.visible_end()).contains(&next)
    }

    /// How many visible offsets are still to be delivered; none of a deleted topic.
    pub(crate) fn lag(&self) -> u64 {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        let log = self.log();
        if !self.is_placed() || log.health().is_deleted() { 0 } else { log.visible_end().since(self.next()) }
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Delivers nothing that is not visible now.
    pub(crate) fn stop_at_end(&mut self) {
        self.until = Some(self.log().visible_end());
    }

    /// Whether there may be records or an error to deliver. A few loads if not.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        if self.paused || !self.is_placed() {
            return false;
        }
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        let log = self.log();
        let is_wanted = |offset: Offset| self.until.is_none_or(|until| offset < until);
        self.unread.as_ref().is_some_and(|unread| is_wanted(unread.base_offset()))
            || (self.cursor.has_more() && is_wanted(self.cursor.offset()))
            || log.epoch() != self.epoch
            || log.check_readable().is_err()
    }

    /// Adds the next records, up to the limits; returns whether the limits ended it.
    ///
    /// # Errors
    /// The error that prevents reading on. Records that were added before it count, and the
    /// position is after them.
    pub(crate) fn deliver(&mut self, limits: &PollLimits, into: &mut Records) -> Result<bool> {
        if let Some(error @ Error::Corrupt(_)) = &self.failed {
            // Damage stays damaged, and looking for where it ends is expensive.
            return Err(error.clone());
        }
        let delivered = self.deliver_good(limits, into);
        delivered.map_err(|error| error.in_partition(|| self.log().identity().topic_partition()))
    }

    fn deliver_good(&mut self, limits: &PollLimits, into: &mut Records) -> Result<bool> {
        loop {
            if !into.is_empty() && (into.len() >= limits.max_records || into.bytes() >= limits.max_bytes) {
                return Ok(true);
            }
            if !self.load_or_reset(limits.reset, into)? {
                return Ok(false);
            }
            let Some(unread) = &mut self.unread else { return Ok(false) };
            if !into.is_empty() && into.bytes().saturating_add(unread.bytes()) > limits.max_bytes {
                // It has been loaded and stays so: the next poll begins with it.
                return Ok(true);
            }
            into.push(unread.take(limits.max_records.saturating_sub(into.len())));
            if unread.is_empty() {
                self.unread = None;
            }
        }
    }

    /// Gives up open files and maps until the next call.
    pub(crate) fn rest(&mut self) {
        self.cursor.rest();
        if let Some(unread) = &mut self.unread
            && let Some(copy) = self.cursor.copy_if_scarce(unread.batch())
        {
            unread.replace_batch(copy);
        }
    }

    /// Notes an error for [`failure`](Assigned::failure).
    pub(crate) fn fail(&mut self, error: Error) {
        (self.failed, self.is_due) = (Some(error), true);
    }

    /// Whether an error is still to be returned.
    pub(crate) fn is_failure_due(&self) -> bool {
        self.is_due
    }

    /// The error that was noted, if it has not been returned since. That of damage is kept until
    /// the caller seeks, and [noted](Assigned::fail) again by each attempt to read on; any other
    /// read is tried again, and fails again if nothing has changed.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        if self.paused || !std::mem::take(&mut self.is_due) {
            return None;
        }
        match &self.failed {
            Some(error @ Error::Corrupt(_)) => Some(error.clone()),
            _ => self.failed.take(),
        }
    }

    /// The next offset to deliver. After the last record of a batch that is the batch's end by its
    /// header, and never the last surviving record's offset plus one: compaction may have taken
    /// those after it.
    fn next(&self) -> Offset {
        self.unread.as_ref().map_or(self.cursor.offset(), Unread::next_offset)
    }

    /// As [`load`](Assigned::load), and follows the policy when the position is not in the log.
    fn load_or_reset(&mut self, policy: OffsetReset, into: &mut Records) -> Result<bool> {
        loop {
            // Comes round again only if the log's start or end has moved in between.
            match self.load(into) {
                Ok(found) => return Ok(found),
                Err(error) => into.skip(self.reset(policy, error)?),
            }
        }
    }

    /// Loads a batch to deliver from, checked against the current log; returns whether there is
    /// one.
    fn load(&mut self, into: &mut Records) -> Result<bool> {
        loop {
            self.check_place()?;
            if self.unread.is_none() && !self.load_next(into)? {
                return Ok(false);
            }
            // Without one the log was truncated between the check and the load: both come again.
            if let Some(unread) = &self.unread {
                return Ok(self.until.is_none_or(|until| unread.base_offset() < until));
            }
        }
    }

    /// Checks that the position is still valid: not truncated, not passed by retention, and of a
    /// log that exists.
    fn check_place(&mut self) -> Result<()> {
        let log = self.cursor.log();
        log.check_readable()?;
        let (epoch, next) = (log.epoch(), self.next());
        if epoch != self.epoch {
            log.check_position(next, self.epoch)?;
            // The position is valid, but the loaded batch may reach beyond the truncation.
            self.seek(next, epoch);
        } else if self.unread.is_some() && next < log.log_start() {
            return Err(log.out_of_range(next));
        }
        Ok(())
    }

    /// Loads the next batch that has a record at or after the position. `false` if there is none;
    /// `true` without a batch if the epoch must be checked again.
    fn load_next(&mut self, into: &mut Records) -> Result<bool> {
        loop {
            let next = self.cursor.offset();
            if self.until.is_some_and(|until| next >= until) {
                return Ok(false);
            }
            if let Some(lost) = self.log().manifest().lost_after(next).filter(|lost| lost.from <= next) {
                into.skip(Skipped::new(self.log(), next, lost.to, SkipReason::Lost));
                self.cursor.go_to(lost.to);
                continue;
            }
            let batch = match self.cursor.next_batch() {
                Err(error @ Error::OffsetOutOfRange { .. }) => {
                    // If the log was truncated since the position was checked, that is the better
                    // error.
                    self.log().check_position(next, self.epoch)?;
                    return Err(error);
                }
                found => found?,
            };
            let Some(batch) = batch else { return Ok(false) };
            if batch.header.log_epoch > self.epoch {
                // IMPORTANT: a batch of a later epoch may be where other records were when the
                // position was taken. The log stores its epoch before it appends in it, so the
                // check sees it now.
                self.seek(next, self.epoch);
                return Ok(true);
            }
            // Where compaction has left offsets out, a lost range may lie among them.
            let mut passed = next;
            while let Some(lost) =
                self.log().manifest().lost_after(passed).filter(|lost| lost.to <= batch.header.base_offset)
            {
                into.skip(Skipped::new(self.log(), lost.from, lost.to, SkipReason::Lost));
                passed = lost.to;
            }
            let unread = Unread::new(batch, next);
            if !unread.is_empty() {
                self.unread = Some(unread);
                return Ok(true);
            }
        }
    }

    /// Moves to where the policy wants to continue.
    ///
    /// # Errors
    /// The error itself, if it is another one or the policy is to fail. The position stays.
    fn reset(&mut self, policy: OffsetReset, error: Error) -> Result<Skipped> {
        let from = self.next();
        let (reason, nearest) = match &error {
            Error::OffsetOutOfRange { .. } => (SkipReason::OutOfRange, from),
            Error::Truncated { to, .. } => (SkipReason::Truncated { at: *to }, *to),
            _ => return Err(error),
        };
        let log = self.log().clone();
        let Some((to, epoch)) = target(&log, policy, nearest) else { return Err(error) };
        self.seek(to, epoch);
        Ok(Skipped::new(&log, from, to, reason))
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has looked whether a partition is ready, has a position or a lag, or
    /// has asked for its position.
    pub(super) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Where a policy continues, and the epoch in which that is true; `None` if it is to fail.
fn target(log: &Log, policy: OffsetReset, nearest: Offset) -> Option<(Offset, u32)> {
    // The epoch first: if the log is truncated after this, the next look sees another one.
    let (epoch, start, end) = (log.epoch(), log.log_start(), log.visible_end());
    let to = match policy {
        OffsetReset::Beginning => start,
        OffsetReset::End => end,
        OffsetReset::Nearest => nearest.min(end).max(start),
        OffsetReset::Fail => return None,
    };
    Some((to, epoch))
}

/// The offset that a place means now.
///
/// # Errors
/// Those of looking for a time.
pub(crate) fn start_offset(log: &Arc<Log>, start: Start) -> Result<Offset> {
    Ok(match start {
        Start::Beginning => log.log_start(),
        Start::End => log.visible_end(),
        Start::At(offset) => offset,
        Start::Time(time) => {
            // The end first: a record that comes while nothing is found may be the one that is
            // searched for.
            let end = log.visible_end();
            lookup::find_time(log, time)?.map_or(end, |(offset, _)| offset)
        }
    })
}
