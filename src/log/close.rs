//! Ends a log: with its broker, or with its topic.

use super::successors::{self, write_inherited};
use super::{Log, idempotence, maintenance};
use crate::error::{Error, Result};
use crate::format::checkpoint::CheckpointEntry;

/// Syncs and closes a log. From here on every call returns `Closed`. Returns the point for the
/// record of a clean shutdown, if all records are durable.
///
/// # Errors
/// The sync failed, now or before.
pub(crate) fn close(log: &Log) -> Result<Option<CheckpointEntry>> {
    {
        let _shape = log.list.lock_shape();
        let _tip = log.writer.lock();
        if !log.health.begin_end(Error::Closed) {
            return Ok(None);
        }
    }
    let synced = match log.health.failure() {
        Some(error) => Err(error),
        None => log.sync().and_then(|()| sync_empty(log)),
    };
    // A broker that has changed nothing must leave the directory unchanged.
    let may_save = synced.is_ok() && log.has_files() && !log.ctx.gate.is_shut();
    if may_save {
        save_state(log);
    }
    // After a clean close no segment is looked for that the manifest does not list.
    let synced = synced.and_then(|()| if may_save { successors::list_all(log) } else { Ok(()) });
    end(log, Error::Closed);
    // Damage was reported at opening. It does not make closing fail.
    match synced {
        // No segment is looked for after a clean close, so there is none without all of them listed.
        Ok(()) if log.manifest.can_list_more() => Ok(None),
        Ok(()) => Ok(maintenance::checkpoint(log)),
        Err(_) if log.health.is_damaged() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Syncs an active segment that has only its header. No append waits for this sync, but the mark of
/// a clean close requires it.
fn sync_empty(log: &Log) -> Result<()> {
    write_inherited(log)?;
    let segment = log.writer.lock().segment.clone();
    if segment.is_dirty() { segment.sync(&log.ctx).map_err(|e| log.sync_failed(e)) } else { Ok(()) }
}

/// Writes everything that a restart would otherwise compute again. All records must be durable.
fn save_state(log: &Log) {
    maintenance::finish_sealed(log);
    if let Some(file) = idempotence::unsaved_producers(log) {
        idempotence::save_producers(log, &file);
    }
    let (segment, point) = {
        let tip = log.writer.lock();
        (tip.segment.clone(), tip.point)
    };
    log.durability.set_point(point);
    segment.save_index(&log.ctx, &log.identity, point.position, point.end);
    if log.settings().streams {
        segment.save_active_keys(&log.ctx, &log.identity, point.position);
    }
}

/// Ends a log, because the broker was closed or the topic deleted: from here on every call returns
/// `error`. Wakes readers. On return no compaction is running, so no thread writes or removes files
/// of the log.
pub(crate) fn end(log: &Log, error: Error) {
    {
        let _shape = log.list.lock_shape();
        let _tip = log.writer.lock();
        log.health.end(error.clone());
    }
    log.manifest.close();
    log.durability.commit.fail(error);
    log.waiters.signal();
    log.tail.clear(&log.ctx);
    for segment in log.segments().iter() {
        segment.release();
    }
    // Take the compactor's lock after all of the above, so that a running compaction notices the
    // end and stops. This cannot deadlock: a compaction, and its `tick`, take locks of logs, of the
    // journal and of the checkpoint, and read the list of topics. The caller must hold none of
    // these (the catalog's lock is not among them). No other thread waits for this one, except for
    // the end itself. The worker is joined before a broker closes its logs. No compaction ends a
    // log: it drops no handle, and calls no code of the user before it has released the lock.
    drop(log.compactor.lock());
}
