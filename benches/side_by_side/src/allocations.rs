//! Counts allocations, those of librdkafka too. The linker replaces each call of `malloc` by one of
//! `__wrap_malloc`, and gives the original the name `__real_malloc` (see `build.rs`). Rust's
//! allocator calls `malloc` as well, so both sides are counted at the same place.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The calls so far, of all threads.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

unsafe extern "C" {
    fn __real_malloc(size: usize) -> *mut c_void;
    fn __real_calloc(count: usize, size: usize) -> *mut c_void;
    fn __real_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __real_posix_memalign(block: *mut *mut c_void, align: usize, size: usize) -> c_int;
}

#[unsafe(no_mangle)]
extern "C" fn __wrap_malloc(size: usize) -> *mut c_void {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's arguments, unchanged, to the function that it meant to call.
    unsafe { __real_malloc(size) }
}

#[unsafe(no_mangle)]
extern "C" fn __wrap_calloc(count: usize, size: usize) -> *mut c_void {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as for `malloc`.
    unsafe { __real_calloc(count, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_realloc(block: *mut c_void, size: usize) -> *mut c_void {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as for `malloc`.
    unsafe { __real_realloc(block, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_posix_memalign(block: *mut *mut c_void, align: usize, size: usize) -> c_int {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as for `malloc`.
    unsafe { __real_posix_memalign(block, align, size) }
}
