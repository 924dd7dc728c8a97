//! The memory of batches: a bounded pool, so that a steady stream allocates nothing.

use std::ops::{Deref, DerefMut};

use crate::sync::{Arc, Mutex, Rank, Weak};

/// A bounded stock of byte buffers, shared by all parts of a broker.
#[derive(Clone)]
pub(crate) struct BufferPool(Arc<Stock>);

struct Stock {
    free: Mutex<Vec<Vec<u8>>>,
}

/// The most buffers that are kept. None of them is larger than [`BUFFER_BYTES_MAX`].
const BUFFERS_MAX: usize = 64;
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Smaller reads allocate: that costs less than the memory of a larger buffer that they would keep.
const POOLED_BYTES_MIN: usize = 4 << 10;

impl BufferPool {
    pub(crate) fn new() -> Self {
        BufferPool(Arc::new(Stock { free: Mutex::new(Rank::Pool, Vec::with_capacity(BUFFERS_MAX)) }))
    }

    /// Returns an empty buffer with room for at least `capacity` bytes.
    pub(crate) fn take(&self, capacity: usize) -> Buffer {
        let mut buffer = self.take_used();
        buffer.clear();
        buffer.reserve(capacity);
        buffer
    }

    /// As [`take_used`](BufferPool::take_used), for about `len` bytes that records may keep for
    /// long: the buffer has no memory yet, or at most four times as much.
    pub(crate) fn take_used_for(&self, len: usize) -> Buffer {
        if len < POOLED_BYTES_MIN {
            // Not returned to the pool, where the next taker of a large one would have to grow it.
            return Buffer { bytes: Vec::new(), stock: Weak::new() };
        }
        let mut free = self.0.free.lock();
        let fits = free.last().is_some_and(|buffer| buffer.capacity() / 4 <= len);
        let bytes = if fits { free.pop() } else { None };
        Buffer { bytes: bytes.unwrap_or_default(), stock: Arc::downgrade(&self.0) }
    }

    /// Returns a buffer that still contains its last user's bytes, for a caller that overwrites
    /// them: resizing it to its old length fills nothing with zeros.
    pub(crate) fn take_used(&self) -> Buffer {
        let bytes = self.0.free.lock().pop().unwrap_or_default();
        Buffer { bytes, stock: Arc::downgrade(&self.0) }
    }
}

/// A pooled buffer: a `Vec<u8>` that returns to its pool when it is dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    stock: Weak<Stock>,
}

impl Buffer {
    /// Returns the buffer, and leaves an empty one in its place.
    pub(crate) fn take(&mut self) -> Buffer {
        std::mem::replace(self, Buffer { bytes: Vec::new(), stock: Weak::new() })
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() == 0 || self.bytes.capacity() > BUFFER_BYTES_MAX {
            return;
        }
        if let Some(stock) = self.stock.upgrade() {
            let mut free = stock.free.lock();
            if free.len() < BUFFERS_MAX {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_the_next_taker_empty() {
        let pool = BufferPool::new();
        let mut first = pool.take(1000);
        first.extend_from_slice(b"old bytes");
        let address = first.as_ptr();
        drop(first);
        let second = pool.take(1000);
        assert_eq!(second.as_ptr(), address);
        assert!(second.is_empty());
    }

    #[test]
    fn a_buffer_for_so_many_bytes_is_not_much_larger() {
        let pool = BufferPool::new();
        drop(pool.take(256 << 10));
        assert_eq!(pool.take_used_for(100).capacity(), 0);
        assert_eq!(pool.take_used_for(32 << 10).capacity(), 0);
        assert!(pool.take_used_for(64 << 10).capacity() >= 256 << 10);
        drop(pool.take_used_for(100));
        assert_eq!(pool.0.free.lock().len(), 1, "a small one does not go into the stock");
    }

    #[test]
    fn the_stock_is_bounded_in_number_and_size() {
        let pool = BufferPool::new();
        let many: Vec<_> = (0..2 * BUFFERS_MAX).map(|_| pool.take(10)).collect();
        drop(many);
        drop(pool.take(4 * BUFFER_BYTES_MAX));
        let free = pool.0.free.lock();
        assert_eq!(free.len(), BUFFERS_MAX - 1, "the large one came from the stock and did not go back");
        assert!(free.iter().all(|b| b.capacity() <= BUFFER_BYTES_MAX));
    }
}
