//! Reads a file that grows: a window of positional reads, shared by the batches in it.

use std::path::PathBuf;

use crate::engine::{Buffer, Context};
use crate::error::{Error, IoAction, Result};
use crate::storage::{File, read_up_to};
use crate::sync::Arc;

/// A part of a file in memory. Moving the window reads ahead; each move reads more than the one
/// before, up to a limit.
pub(crate) struct Window {
    /// `None` while it rests.
    file: Option<Arc<dyn File>>,
    path: PathBuf,
    buffer: Option<Arc<Buffer>>,
    /// The file position of the buffer's first byte.
    start: u64,
    /// The size of the next read.
    ahead: usize,
    ahead_max: usize,
    /// Nothing is read ahead from here on. Only a hint: the file may be longer.
    end: u64,
}

const AHEAD_OF_FEW: usize = 4 << 10;
const AHEAD_MIN: usize = 64 << 10;
const AHEAD_MAX: usize = 512 << 10;

impl Window {
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf) -> Self {
        let (ahead, ahead_max) = (AHEAD_MIN, AHEAD_MAX);
        Window { file: Some(file), path, buffer: None, start: 0, ahead, ahead_max, end: u64::MAX }
    }

    /// Gives up the file; the buffer stays.
    pub(super) fn rest(&mut self) {
        self.file = None;
    }

    pub(super) fn is_resting(&self) -> bool {
        self.file.is_none()
    }

    /// Continues with the file, open again.
    pub(crate) fn wake(&mut self, file: Arc<dyn File>) {
        self.file = Some(file);
    }

    /// Returns the window of a file that ends at `end`: it reads no further ahead, so records that
    /// keep its buffer keep no more memory than there are bytes.
    pub(crate) fn up_to(self, end: u64) -> Self {
        Window { end, ..self }
    }

    /// Returns the window for reading scattered batches instead of a walk.
    pub(crate) fn of_few(self) -> Self {
        Window { ahead: AHEAD_OF_FEW, ahead_max: AHEAD_OF_FEW, ..self }
    }

    /// Returns whether it is for scattered batches, each of which is a small part of it.
    pub(crate) fn is_of_few(&self) -> bool {
        self.ahead_max == AHEAD_OF_FEW
    }

    /// Drops the buffer.
    pub(crate) fn forget(&mut self) {
        self.buffer = None;
    }

    /// Drops the buffer, because the file has grown, and now ends at `end`.
    pub(crate) fn forget_up_to(&mut self, end: u64) {
        (self.buffer, self.end) = (None, end);
    }

    /// Returns the `len` bytes at `position`, or as many as the file has.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn get(&mut self, ctx: &Context, position: u64, len: usize) -> Result<&[u8]> {
        if self.range(position, len).is_none() {
            self.read(ctx, position, len)?;
        }
        let (start, buffer) = match (usize::try_from(position - self.start), &self.buffer) {
            (Ok(start), Some(buffer)) => (start, buffer),
            _ => return Ok(&[]),
        };
        let end = start.saturating_add(len).min(buffer.len());
        Ok(buffer.get(start..end).unwrap_or(&[]))
    }

    /// Returns the buffer of the last [`get`](Window::get) and the index of `position` in it.
    pub(crate) fn share(&self, position: u64) -> Option<(Arc<Buffer>, usize)> {
        let start = usize::try_from(position.checked_sub(self.start)?).ok()?;
        Some((self.buffer.clone()?, start))
    }

    /// Returns `Some` if the whole range is in memory.
    fn range(&self, position: u64, len: usize) -> Option<()> {
        let start = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.buffer.as_ref()?.get(start..start.checked_add(len)?).map(|_| ())
    }

    fn read(&mut self, ctx: &Context, position: u64, len: usize) -> Result<()> {
        let Some(file) = &self.file else {
            return Err(Error::internal("a window that rests was read"));
        };
        let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = len.max(self.ahead.min(left));
        self.ahead = (self.ahead * 2).min(self.ahead_max);
        // A batch may still share the old buffer. Then the batch keeps it, and the window takes
        // another.
        let mut buffer = match self.buffer.take().map(Arc::try_unwrap) {
            Some(Ok(own)) if own.capacity() / 4 <= wanted => own,
            _ => ctx.pool.take_used_for(wanted),
        };
        // Records may keep it, so it must not be twice as large.
        let more = wanted.saturating_sub(buffer.len());
        buffer.reserve_exact(more);
        // Fills only those bytes with zeros that the buffer did not have before.
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        let n = read_up_to(&**file, room, position).map_err(|e| Error::io(IoAction::Read, &self.path, e))?;
        buffer.truncate(n);
        self.start = position;
        self.buffer = Some(Arc::new(buffer));
        Ok(())
    }
}
